"""Eviction in the kernels of 2006: write pages to their swap slot or file and free them."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t

# migrate_pages(l, NULL, ..) of 2.6.16 and 2.6.17, reclaim in later kernels; returns how many pages were evicted
cdef uint64_t swap_out(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil
cdef int evict_one(ctx_t *c, uint32_t pfn, uint32_t force) noexcept nogil
