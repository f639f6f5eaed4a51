"""Contexts, one a call and thread; the wait seam; the page lock and mmap_lock, which wait through it."""
from libc.stdint cimport int32_t, uint32_t

from pagemig.mm.atomic cimport (
    pmg_cas32, pmg_load32, pmg_read_trylock, pmg_read_unlock, PMG_RELAX, pmg_store32_rel, pmg_write_forget,
    pmg_write_trylock, pmg_write_unlock, pmg_yield,
)
from pagemig.mm.frame cimport trylock_page
from pagemig.mm.page_alloc cimport count_event, mm_of
from pagemig.mm.types cimport (
    C_HOST_MM_CONTENDED, C_HOST_PAGE_CONTENDED, C_HOST_WAITS, C_LOCK_PAGE, ctx_t, machine_t, MAX_CTX, MODE_ACTORS,
    MODE_HOST, PMG_WAIT, WAIT_MM, WAIT_PAGE,
)


cdef ctx_t *ctx_get(machine_t *m) noexcept nogil:
    cdef uint32_t i
    cdef ctx_t *c
    for i in range(MAX_CTX):
        c = &m.ctx[i]
        if pmg_load32(&c.busy) == 0 and pmg_cas32(&c.busy, 0, 1):
            c.task = 0
            c.bug = 0
            c.cpu = 0
            c.nid = <int32_t> m.cpu_node[c.cpu]
            return c
    return NULL


cdef void ctx_put(ctx_t *c) noexcept nogil:
    pmg_store32_rel(&c.busy, 0)


cdef int pmg_wait(ctx_t *c, int what, uint32_t which, uint32_t spins) noexcept nogil:
    """The one place where anything waits: page lock, migration entry, writeback, mm lock, inode lock."""
    if spins == 0:
        count_event(c, C_HOST_WAITS, 1)
    if c.wait_mode == MODE_HOST:
        return -PMG_WAIT
    if c.wait_mode == MODE_ACTORS and c.wait_fn != NULL:
        return c.wait_fn(c, what, which)
    if spins % 256 < 200:
        PMG_RELAX()
    else:
        pmg_yield()
    return 0


cdef int lock_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    cdef uint32_t spins = 0
    count_event(c, C_LOCK_PAGE, 1)
    while not trylock_page(c.m, pfn):
        count_event(c, C_HOST_PAGE_CONTENDED, spins == 0)
        if pmg_wait(c, WAIT_PAGE, pfn, spins):
            return -PMG_WAIT
        spins += 1
    return 0


cdef int mmap_read_lock(ctx_t *c, uint32_t mm) noexcept nogil:
    cdef uint32_t spins = 0
    cdef uint32_t *word = &mm_of(c.m, mm).lock
    while not pmg_read_trylock(word):
        count_event(c, C_HOST_MM_CONTENDED, spins == 0)
        if pmg_wait(c, WAIT_MM, mm, spins):
            return -PMG_WAIT
        spins += 1
    return 0


cdef int mmap_write_lock(ctx_t *c, uint32_t mm) noexcept nogil:
    cdef uint32_t spins = 0
    cdef uint32_t *word = &mm_of(c.m, mm).lock
    while not pmg_write_trylock(word):
        count_event(c, C_HOST_MM_CONTENDED, spins == 0)
        if pmg_wait(c, WAIT_MM, mm, spins):
            pmg_write_forget(word)
            return -PMG_WAIT
        spins += 1
    return 0


cdef void mmap_read_unlock(ctx_t *c, uint32_t mm) noexcept nogil:
    pmg_read_unlock(&mm_of(c.m, mm).lock)


cdef void mmap_write_unlock(ctx_t *c, uint32_t mm) noexcept nogil:
    pmg_write_unlock(&mm_of(c.m, mm).lock)
