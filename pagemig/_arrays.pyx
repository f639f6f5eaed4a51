"""numpy's C interface: the only module that includes its headers, which take a compiler as long as a module of ours."""
cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t

from pagemig.mm.uaccess cimport PMG_BAD, pmg_user_t

cnp.import_array()

cdef int[5] NUMBERS     # numpy's number of each element_t
NUMBERS[:] = [cnp.NPY_UINT8, cnp.NPY_INT32, cnp.NPY_INT64, cnp.NPY_UINT32, cnp.NPY_UINT64]


cdef object zeros(uint64_t n, element_t element):
    """Make an array of one dimension, all zero."""
    cdef cnp.npy_intp shape = <cnp.npy_intp> n
    return cnp.PyArray_ZEROS(1, &shape, NUMBERS[<int> element], 0)


cdef object lend(object owner, void *data, uint64_t n, element_t element):
    """Make a numpy view of the machine's memory that keeps the machine alive."""
    cdef cnp.npy_intp shape = <cnp.npy_intp> n
    cdef cnp.ndarray a = cnp.PyArray_SimpleNewFromData(1, &shape, NUMBERS[<int> element], data)
    cnp.set_array_base(a, owner)
    cnp.PyArray_CLEARFLAGS(a, cnp.NPY_ARRAY_WRITEABLE)
    return a


cdef inline bint has_layout(object a, int number) noexcept:
    """Whether ``a`` is C-contiguous, aligned, of exactly this type and byte order, and not of a subclass."""
    return cnp.PyArray_CheckExact(a) and cnp.PyArray_TYPE(a) == number and cnp.PyArray_IS_C_CONTIGUOUS(a) and \
        cnp.PyArray_ISALIGNED(a) and cnp.PyArray_ISNOTSWAPPED(a)


cdef int64_t plain_length(object a, element_t element) noexcept:
    """Get the length of a plain array of one dimension, -1 for any other object."""
    if not has_layout(a, NUMBERS[<int> element]) or cnp.PyArray_NDIM(a) != 1:
        return -1
    return cnp.PyArray_DIM(a, 0)


cdef inline void *checked_data(object a, int number, str name) except? NULL:
    if not has_layout(a, number):
        raise TypeError(f"{name} must be a C-contiguous, aligned array of the exact type, not {a!r:.80}")
    return cnp.PyArray_DATA(a)


cdef void *data_of(object a, element_t element, str name) except? NULL:
    """Get the data of a plain array."""
    return checked_data(a, NUMBERS[<int> element], name)


cdef void *own_data(object a) noexcept:
    """Get the data of an array that the caller itself has just made."""
    return cnp.PyArray_DATA(a)


cdef uint8_t *flags_of(object write, uint64_t n, bint *every) except? NULL:
    """Get the flags of ``n`` accesses, one byte each, or NULL and in ``every`` what holds for all of them."""
    cdef uint8_t *flags
    if not cnp.PyArray_Check(write):
        every[0] = write
        return NULL
    flags = <uint8_t *> checked_data(write, cnp.PyArray_TYPE(write), "write")
    if cnp.PyArray_ITEMSIZE(write) != 1 or <uint64_t> len(write) != n:
        raise ValueError(f"write must hold one flag of one byte for each of {n} accesses")
    every[0] = False
    return flags


cdef pmg_user_t user_of(object memory, element_t element) except *:
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
        u.bytes = cnp.PyArray_NBYTES(memory)
    if u.p == NULL:
        u.p = <void *> PMG_BAD
    return u
