"""Arrays at the border between Python and the core: views of the machine, and arguments checked as a caller's memory.

A module that cimports these calls ``cnp.import_array()`` first.
"""
cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.uaccess cimport PMG_BAD, pmg_user_t


cdef inline object lend(object owner, void *data, uint64_t n, int typenum, bint writeable=False):
    """Make a numpy view of the machine's memory that keeps the machine alive."""
    cdef cnp.npy_intp shape = <cnp.npy_intp> n
    cdef cnp.ndarray a = cnp.PyArray_SimpleNewFromData(1, &shape, typenum, data)
    cnp.set_array_base(a, owner)
    if not writeable:
        cnp.PyArray_CLEARFLAGS(a, cnp.NPY_ARRAY_WRITEABLE)
    return a


cdef inline bint is_plain(object a, int typenum) noexcept:
    """Whether ``a`` is a plain array: C-contiguous, aligned, of exactly this type and byte order, not a subclass."""
    return cnp.PyArray_CheckExact(a) and cnp.PyArray_TYPE(a) == typenum and cnp.PyArray_IS_C_CONTIGUOUS(a) and \
        cnp.PyArray_ISALIGNED(a) and cnp.PyArray_ISNOTSWAPPED(a)


cdef inline void *data_of(object a, int typenum, str name) except? NULL:
    """Get the data pointer of a plain array."""
    if not is_plain(a, typenum):
        raise TypeError(f"{name} must be a C-contiguous, aligned array of the exact type, not {a!r:.80}")
    return cnp.PyArray_DATA(a)


cdef inline pmg_user_t user_of(object memory, int typenum) except *:
    """Describe a caller's memory: None is NULL; bytes and arrays are accessible memory, PMG_BAD if they have no address."""
    cdef pmg_user_t u
    u.p = NULL
    u.bytes = 0
    if memory is None:
        return u
    if typenum == cnp.NPY_UINT8:
        u.p = PyBytes_AS_STRING(memory)
        u.bytes = PyBytes_GET_SIZE(memory)
    else:
        u.p = data_of(memory, typenum, "an array of a call")
        u.bytes = cnp.PyArray_NBYTES(memory)
    if u.p == NULL:
        u.p = <void *> PMG_BAD
    return u


cdef inline int64_t answer(int64_t rc, uint32_t rule) noexcept:
    """Pack a call's result and rule into one number; errors.py unpacks it."""
    return rc - (<int64_t> rule << 12) if rc < 0 else rc
