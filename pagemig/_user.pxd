"""What passes between the kernel's calls and their caller: its memory going in, a result and a rule coming out."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t

from pagemig._arrays cimport bytes_of, data_of, element_t, U8
from pagemig.mm.uaccess cimport PMG_BAD, pmg_user_t


cdef inline int64_t answer(int64_t rc, uint32_t rule) noexcept:
    """Pack a call's result and rule into one number; errors.py unpacks it."""
    return rc - (<int64_t> rule << 12) if rc < 0 else rc


cdef inline pmg_user_t user_of(object memory, element_t element) except *:
    """Describe a caller's memory: None is NULL; bytes and arrays are accessible memory, PMG_BAD if they have no address."""
    cdef pmg_user_t u
    u.p = NULL
    u.bytes = 0
    if memory is None:
        return u
    if element == U8:
        u.p = PyBytes_AS_STRING(memory)
        u.bytes = PyBytes_GET_SIZE(memory)
    else:
        u.p = data_of(memory, element, "an array of a call")
        u.bytes = bytes_of(memory)
    if u.p == NULL:
        u.p = <void *> PMG_BAD
    return u
