"""Arrays at the border between Python and the core: views of the machine, and arguments checked as a caller's memory.

A plain array is C-contiguous, aligned, of exactly its type and byte order, and not of a subclass.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from pagemig.mm.uaccess cimport pmg_user_t


cdef enum element_t:
    U8
    I32
    I64
    U32
    U64


cdef object zeros(uint64_t n, element_t element)
cdef object lend(object owner, void *data, uint64_t n, element_t element)
cdef int64_t plain_length(object a, element_t element) noexcept
cdef void *data_of(object a, element_t element, str name) except? NULL
cdef void *own_data(object a) noexcept
cdef uint8_t *flags_of(object write, uint64_t n, bint *every) except? NULL
cdef pmg_user_t user_of(object memory, element_t element) except *


cdef inline int64_t answer(int64_t rc, uint32_t rule) noexcept:
    """Pack a call's result and rule into one number; errors.py unpacks it."""
    return rc - (<int64_t> rule << 12) if rc < 0 else rc
