"""mlock(2) and its family; ``start`` and ``length`` are bytes, results as in ``mmap.pxd``."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t

# flags: MLOCK_ONFAULT 1 (mlock2)
cdef int64_t pmg_sys_mlock(ctx_t *c, uint64_t start, uint64_t length, uint32_t flags, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_munlock(ctx_t *c, uint64_t start, uint64_t length, uint32_t *rule) noexcept nogil
# MCL_CURRENT 1, FUTURE 2, ONFAULT 4
cdef int64_t pmg_sys_mlockall(ctx_t *c, uint32_t flags, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_munlockall(ctx_t *c) noexcept nogil
