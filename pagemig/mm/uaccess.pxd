"""User memory as a call gets it: a pointer, and how many bytes of it are accessible."""
from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #ifndef PMG_BAD
    #define PMG_BAD ((void *)-4096l)       /* a wild pointer */
    #endif
    """
    const void *PMG_BAD


ctypedef struct pmg_user_t:
    void *p                     # may be NULL or PMG_BAD
    uint64_t bytes              # EFAULT beyond


cdef inline void *user_at(const pmg_user_t *u, uint64_t off, uint64_t n) noexcept nogil:
    """Get ``n`` bytes at an offset; NULL where the kernel returns EFAULT."""
    if u.p == NULL or u.p == PMG_BAD or n > u.bytes or off > u.bytes - n:
        return NULL
    return <char *> u.p + off


cdef inline uint64_t user_entries(const pmg_user_t *u, uint64_t size) noexcept nogil:
    """Count the whole entries of an array that are accessible."""
    return 0 if u.p == NULL or u.p == PMG_BAD else u.bytes // size
