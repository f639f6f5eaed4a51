"""Eviction of 2006: pages are written to their slot or file and taken out of memory."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t

# evict mode of 2.6.16 and 2.6.17, in later kernels what reclaim does: to the slot, or the file; pages that are gone
cdef uint64_t swap_out(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil
cdef int evict_one(ctx_t *c, uint32_t pfn, uint32_t force) noexcept nogil
