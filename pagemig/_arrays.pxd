"""numpy arrays as C sees them: made, lent, and taken from a caller.

A plain array is C-contiguous, aligned, of exactly its type and byte order, and not of a subclass.
A function that takes an array returns a pointer, which is good as long as the caller of the function
holds the array.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef enum element_t:
    U8
    I8
    I32
    I64
    U32
    U64
    F32
    F64


cdef object zeros(uint64_t n, element_t element)
cdef object lend(object owner, void *data, uint64_t n, element_t element)
cdef int64_t plain_length(object a, element_t element) noexcept
cdef int64_t bytes_of(object a) noexcept
cdef void *data_of(object a, element_t element, str name) except? NULL
cdef void *own_data(object a) noexcept
cdef uint8_t *flags_of(object write, uint64_t n, bint *every) except? NULL
cdef Py_ssize_t length_of(object a, int dimension) noexcept
cdef bint holds(object a, element_t element) noexcept
cdef const void *column(object a, str name, element_t element) except? NULL
cdef void *column_out(object a, str name, element_t element) except? NULL
cdef const void *grid(object a, str name, element_t element, tuple shape) except? NULL
cdef void *grid_out(object a, str name, element_t element, tuple shape) except? NULL
