"""Memory of the caller, as a call is given it: where it lies and how far it can be read or written."""
from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #ifndef PMG_BAD
    #define PMG_BAD ((void *)-4096l)       /* a wild pointer */
    #endif
    """
    const void *PMG_BAD


ctypedef struct pmg_user_t:
    void *p                     # NULL and PMG_BAD are what they are in C
    uint64_t bytes              # EFAULT behind them


cdef inline void *user_at(const pmg_user_t *u, uint64_t off, uint64_t n) noexcept nogil:
    """``n`` bytes at an offset; NULL where the kernel would answer EFAULT."""
    if u.p == NULL or u.p == PMG_BAD or n > u.bytes or off > u.bytes - n:
        return NULL
    return <char *> u.p + off


cdef inline uint64_t user_entries(const pmg_user_t *u, uint64_t size) noexcept nogil:
    """Whole entries of an array that can be reached."""
    return 0 if u.p == NULL or u.p == PMG_BAD else u.bytes // size
