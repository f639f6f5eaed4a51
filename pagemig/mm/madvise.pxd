"""madvise(2)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t

# start and length are bytes; results as in mmap.pxd
cdef int64_t pmg_sys_madvise(ctx_t *c, uint64_t start, uint64_t length, int advice, uint32_t *rule) noexcept nogil
