"""Eviction in the kernels of 2006: write pages to their swap slot or file and free them."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t

# migrate_pages(l, NULL, ..) of 2.6.16 and 2.6.17, reclaim in later kernels; returns how many pages were evicted
cdef uint64_t swap_out(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil
# evict an isolated page: 0, -EAGAIN or -ENOMEM.  at: where it waits; EVICT_BEGINS before the call, except in one that resumes
cdef int evict_one(ctx_t *c, uint32_t pfn, uint32_t force, uint32_t *at) noexcept nogil


cdef enum:
    EVICT_BEGINS = 0
    EVICT_LOCKS                 # for the page lock
    EVICT_WRITES                # for writeback, with the page locked
