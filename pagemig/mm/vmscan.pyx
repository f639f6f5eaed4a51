"""Eviction in the kernels of 2006: write pages to their swap slot or file and free them."""
from libc.errno cimport EAGAIN, ENOMEM
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.context cimport lock_page, pmg_wait, signal_pending
from pagemig.mm.filemap cimport delete_from_page_cache, file_writepage, try_to_release_page
from pagemig.mm.frame cimport frame_maps, frame_refs, page_count, page_state, page_test, trylock_page, unlock_page
from pagemig.mm.migrate_stage cimport (
    wait_flags, isolate_lru_page, one_page, putback_lru_page, stage_t, stage_unmap_only, WAIT_FOR_LOCK,
    WAIT_FOR_WRITEBACK,
)
from pagemig.mm.rmap cimport lru_cache_disable, lru_cache_enable
from pagemig.mm.swap_state cimport add_to_swap, delete_from_swap_cache, swap_writepage
from pagemig.mm.types cimport (
    ctx_t, PG_anon, PG_cached, PG_dirty, PG_private, PG_swapcache, PG_writeback, WAIT_WRITEBACK,
)


cdef int pageout(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Write a dirty page.  Always -EAGAIN: a later pass finds it clean, unless it could not be written."""
    cdef uint64_t s = page_state(c.m, pfn)
    if frame_refs(s) - <uint64_t> ((s & PG_private) != 0) == 2:
        if s & PG_swapcache:
            swap_writepage(c, pfn)
        elif s & PG_cached:
            file_writepage(c, pfn)
    return -EAGAIN


cdef int remove_mapping(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Remove a clean page without other users from its cache; the isolation's reference remains."""
    cdef uint64_t s = page_state(c.m, pfn)
    if frame_refs(s) != 2 or s & PG_dirty:
        return -EAGAIN
    if s & PG_swapcache:
        delete_from_swap_cache(c, pfn)
    elif s & PG_cached:
        delete_from_page_cache(c, pfn)
    return 0


cdef int swap_page(ctx_t *c, stage_t *st) noexcept nogil:
    """Evict the one locked page of a stage: 0 if it is gone, -EAGAIN if not yet."""
    cdef uint32_t pfn = st.src[0]
    stage_unmap_only(c, st)
    if st.rc[0] or frame_maps(page_state(c.m, pfn)):
        return -EAGAIN
    if page_test(c.m, pfn, PG_dirty):
        return pageout(c, pfn)
    return remove_mapping(c, pfn) if try_to_release_page(c, pfn) else -EAGAIN


cdef int lock_to_evict(ctx_t *c, uint32_t pfn, uint32_t force, uint32_t *at) noexcept nogil:
    """Prepare a page for eviction: page lock, writeback, swap cache.  The page is unlocked if the result is not 0."""
    cdef uint32_t spins = 0
    if at[0] != EVICT_WRITES and not trylock_page(c.m, pfn):
        at[0] = EVICT_LOCKS
        if not force & WAIT_FOR_LOCK or lock_page(c, pfn):
            return -EAGAIN
    at[0] = EVICT_WRITES
    while page_test(c.m, pfn, PG_writeback):
        if not force & WAIT_FOR_WRITEBACK or pmg_wait(c, WAIT_WRITEBACK, pfn, spins):
            unlock_page(c.m, pfn)
            return -EAGAIN
        spins += 1
    if page_test(c.m, pfn, PG_anon) and not page_test(c.m, pfn, PG_swapcache) and not add_to_swap(c, pfn):
        unlock_page(c.m, pfn)
        return -ENOMEM
    return 0


cdef int evict_one(ctx_t *c, uint32_t pfn, uint32_t force, uint32_t *at) noexcept nogil:
    cdef stage_t st
    cdef int rc = lock_to_evict(c, pfn, force, at)
    at[0] = EVICT_BEGINS
    if rc:
        return rc
    one_page(&st, pfn)
    rc = swap_page(c, &st)
    unlock_page(c.m, pfn)
    return rc


cdef uint64_t swap_out(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil:
    """Evict pages one by one, in several passes each since a dirty page is written first; return how many are gone."""
    cdef uint64_t i, gone = 0
    cdef int rc
    cdef uint32_t pass_, at = EVICT_BEGINS
    lru_cache_disable(c)
    for i in range(n):
        if signal_pending(c, 1):
            break
        if not isolate_lru_page(c, pfns[i]):
            continue
        rc = -EAGAIN
        for pass_ in range(c.m.profile.passes):
            if rc == -EAGAIN:
                rc = 0 if page_count(c.m, pfns[i]) == 1 else evict_one(c, pfns[i], wait_flags(c.m, pass_), &at)
        gone += rc == 0
        putback_lru_page(c, pfns[i])
    lru_cache_enable(c)
    return gone
