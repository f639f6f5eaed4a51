"""Contexts, one a call and thread; the wait seam; the page lock and mmap_lock, which wait through it."""
from libc.stdint cimport uint32_t

from pagemig.mm.types cimport ctx_t, machine_t

# -- contexts and waiting ---------------------------------------------------------------------------------------
cdef ctx_t *ctx_get(machine_t *m) noexcept nogil                    # of no process; NULL when all are in use
cdef void ctx_put(ctx_t *c) noexcept nogil
# One round of waiting; spins counts the rounds so far.  0: look again; -PMG_WAIT: unwind.
cdef int pmg_wait(ctx_t *c, int what, uint32_t which, uint32_t spins) noexcept nogil
cdef int lock_page(ctx_t *c, uint32_t pfn) noexcept nogil           # 0 or -PMG_WAIT
cdef int mmap_read_lock(ctx_t *c, uint32_t mm) noexcept nogil       # 0 or -PMG_WAIT
cdef int mmap_write_lock(ctx_t *c, uint32_t mm) noexcept nogil
cdef void mmap_read_unlock(ctx_t *c, uint32_t mm) noexcept nogil
cdef void mmap_write_unlock(ctx_t *c, uint32_t mm) noexcept nogil
