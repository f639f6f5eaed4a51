"""numpy's C interface: the only module that includes its headers, which take a compiler as long as a module of ours."""
cimport numpy as cnp
from libc.stdint cimport int64_t, uint8_t, uint64_t

cnp.import_array()

cdef int[8] NUMBERS     # numpy's number of each element_t
NUMBERS[:] = [
    cnp.NPY_UINT8, cnp.NPY_INT8, cnp.NPY_INT32, cnp.NPY_INT64, cnp.NPY_UINT32, cnp.NPY_UINT64, cnp.NPY_FLOAT32, cnp.NPY_FLOAT64,
]


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


cdef int64_t bytes_of(object a) noexcept:
    """Get the size of an array."""
    return cnp.PyArray_NBYTES(a)


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


cdef Py_ssize_t length_of(object a, int dimension) noexcept:
    """Get the length of an array in a dimension that it has: a subclass may lie about its shape."""
    return cnp.PyArray_DIM(a, dimension)


cdef bint holds(object a, element_t element) noexcept:
    """Whether ``a`` is an array of a type, by whatever name: numpy has two for 64 bits."""
    return cnp.PyArray_Check(a) and cnp.PyArray_EquivTypenums(cnp.PyArray_TYPE(a), NUMBERS[<int> element])


cdef object unfit(object a, str name, element_t element, tuple shape, bint out):
    """Make the error for an array of another type or layout."""
    cdef int k
    lengths = f"{shape}".replace("-1", "any")
    kinds = "uint8 or bool" if element == U8 and not out else cnp.PyArray_DescrFromType(NUMBERS[<int> element])
    wanted = f"{name} must be an array of {kinds} of shape {lengths}"
    if not cnp.PyArray_Check(a):
        return TypeError(f"{wanted}, not {a!r:.80}")
    found = tuple([cnp.PyArray_DIM(a, k) for k in range(cnp.PyArray_NDIM(a))])
    if cnp.PyArray_ISCARRAY_RO(a):
        return ValueError(f"{wanted}, not one of {cnp.PyArray_DescrFromType(cnp.PyArray_TYPE(a))} of shape {found}")
    return ValueError(f"{wanted}, C-contiguous, aligned and in the machine's byte order: copy it with np.array(..., order='C')")


cdef void *taken(object a, str name, element_t element, tuple shape, bint out) except? NULL:
    """Get the data of an array of a shape, in which -1 is any length; bytes that are only read may be of bool."""
    cdef int k
    cdef bint fits = holds(a, element)
    if not fits and element == U8 and not out:
        fits = cnp.PyArray_Check(a) and cnp.PyArray_TYPE(a) == cnp.NPY_BOOL
    fits = fits and cnp.PyArray_ISCARRAY_RO(a) and cnp.PyArray_NDIM(a) == len(shape)
    if fits:
        for k in range(<int> len(shape)):
            fits = fits and <int64_t> shape[k] in (-1, cnp.PyArray_DIM(a, k))
    if not fits:
        raise unfit(a, name, element, shape, out)
    if out and not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"{name} must be writeable, for it receives results")
    return cnp.PyArray_DATA(a)


cdef tuple ANY = (-1,)


cdef const void *column(object a, str name, element_t element) except? NULL:
    """Get the data of a caller's array of one dimension."""
    return taken(a, name, element, ANY, False)


cdef void *column_out(object a, str name, element_t element) except? NULL:
    """Get the data of a caller's array of one dimension that receives results."""
    return taken(a, name, element, ANY, True)


cdef const void *grid(object a, str name, element_t element, tuple shape) except? NULL:
    """Get the data of a caller's array of a shape, in which -1 is any length."""
    return taken(a, name, element, shape, False)


cdef void *grid_out(object a, str name, element_t element, tuple shape) except? NULL:
    """Get the data of a caller's array of a shape that receives results."""
    return taken(a, name, element, shape, True)
