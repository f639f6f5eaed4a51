"""migrate_pages() of the kernels of 2006, over the stage functions of today's.

2.6.17 and -mm: ``migrate_page_lists`` takes four lists and hands all pages back; a target goes to whichever page gets
as far as needing one, so it works page by page.  2.6.18: ``migrate_pages_each`` asks an allocator for the target of
each page and disposes of every page itself.  pmig has the same with targets that are given page by page.
"""
from libc.errno cimport EAGAIN, ENOMEM
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memmove

from pagemig._alloc cimport (
    alloc_page, alloc_pages_node, count_event, file_of, free_pages, lock_page, page_to_nid, pmg_wait, vma_of,
)
from pagemig._atomic cimport PMG_GUARD, pmg_load, pmg_load32
from pagemig._filemap cimport delete_from_page_cache, file_writepage, has_migratepage, try_to_release_page
from pagemig._frame cimport frame_maps, frame_refs, page_count, page_state, page_test, trylock_page, unlock_page
from pagemig._mempolicy cimport alloc_page_vma
from pagemig._migrate cimport (
    STEP_ALLOC, STEP_ISOLATE, TARGET_NEAREST, WAIT_FOR_LOCK, WAIT_FOR_WRITEBACK, at_step, isolate_lru_page, new_page,
    putback_lru_page, run_t, short_of_frames, stage_end, stage_move, stage_t, stage_take, stage_unmap_only, target_t,
)
from pagemig._rmap cimport lru_cache_disable, lru_cache_enable
from pagemig._swap cimport add_to_swap, delete_from_swap_cache, swap_writepage
from pagemig._types cimport (
    C_PGMIGRATE_FAIL, C_PGMIGRATE_SUCCESS, PG_anon, PG_cached, PG_dirty, PG_private, PG_swapcache, PG_writeback,
    PMG_BUG, WAIT_WRITEBACK, ctx_t, machine_t, vma_t,
)

cdef enum:
    LAST_RESORT = 4             # after this pass a page whose buffers cannot be released is swapped out instead (2.6.17)


cdef inline uint32_t how_hard(machine_t *m, uint32_t pass_) noexcept nogil:
    return (WAIT_FOR_LOCK if pass_ >= m.profile.force_pass else 0) | \
        (WAIT_FOR_WRITEBACK if pass_ >= m.profile.writeback_pass else 0)


cdef inline void one_page(stage_t *st, uint32_t pfn) noexcept nogil:
    st.n = 1
    st.src[0] = pfn
    st.open[0] = 0
    st.rc[0] = 0


# -- eviction (2.6.16, 2.6.17): the page goes to its slot or its file, and comes back by a fault -------------------

cdef int pageout(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Write a dirty page.  -EAGAIN: it was written, a later pass finds it clean; or there is nowhere to write it."""
    cdef uint64_t s = page_state(c.m, pfn)
    if frame_refs(s) - <uint64_t> ((s & PG_private) != 0) == 2:
        if s & PG_swapcache:
            swap_writepage(c, pfn)
        elif s & PG_cached:
            file_writepage(c, pfn)
    return -EAGAIN


cdef int remove_mapping(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Take a clean page nobody else holds out of its cache; the isolation's reference is left."""
    cdef uint64_t s = page_state(c.m, pfn)
    if frame_refs(s) != 2 or s & PG_dirty:
        return -EAGAIN
    if s & PG_swapcache:
        delete_from_swap_cache(c, pfn)
    elif s & PG_cached:
        delete_from_page_cache(c, pfn)
    return 0


cdef int swap_page(ctx_t *c, stage_t *st) noexcept nogil:
    """Evict the one locked page of a stage: 0 it is gone, -EAGAIN not yet."""
    cdef uint32_t pfn = st.src[0]
    stage_unmap_only(c, st)
    if st.rc[0] or frame_maps(page_state(c.m, pfn)):
        return -EAGAIN
    if page_test(c.m, pfn, PG_dirty):
        return pageout(c, pfn)
    return remove_mapping(c, pfn) if try_to_release_page(c, pfn) else -EAGAIN


cdef int lock_to_evict(ctx_t *c, uint32_t pfn, uint32_t force) noexcept nogil:
    """Steps 3 to 5 of a page without a target: the lock, writeback, a place in the swap cache.  Unlocked if not 0."""
    cdef uint32_t spins = 0
    if not trylock_page(c.m, pfn):
        if not force & WAIT_FOR_LOCK or lock_page(c, pfn):
            return -EAGAIN
    while page_test(c.m, pfn, PG_writeback):
        if not force & WAIT_FOR_WRITEBACK or pmg_wait(c, WAIT_WRITEBACK, pfn, spins):
            unlock_page(c.m, pfn)
            return -EAGAIN
        spins += 1
    if page_test(c.m, pfn, PG_anon) and not page_test(c.m, pfn, PG_swapcache) and not add_to_swap(c, pfn):
        unlock_page(c.m, pfn)
        return -ENOMEM
    return 0


cdef int evict_one(ctx_t *c, uint32_t pfn, uint32_t force) noexcept nogil:
    cdef stage_t st
    cdef int rc = lock_to_evict(c, pfn, force)
    if rc:
        return rc
    one_page(&st, pfn)
    rc = swap_page(c, &st)
    unlock_page(c.m, pfn)
    return rc


cdef uint64_t swap_out(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil:
    """Pages one after the other, each as often as it takes to write it first; how many are gone."""
    cdef uint64_t i, gone = 0
    cdef int rc
    cdef uint32_t pass_
    lru_cache_disable(c)
    for i in range(n):
        if not isolate_lru_page(c, pfns[i]):
            continue
        rc = -EAGAIN
        for pass_ in range(c.m.profile.passes):
            if rc == -EAGAIN:
                rc = 0 if page_count(c.m, pfns[i]) == 1 else evict_one(c, pfns[i], how_hard(c.m, pass_))
        gone += rc == 0
        putback_lru_page(c, pfns[i])
    lru_cache_enable(c)
    return gone


# -- four lists ----------------------------------------------------------------------------------------------------

cdef int move_one(ctx_t *c, lists_t *l, uint32_t pfn, uint32_t force) noexcept nogil:
    """One attempt at one page with the target at the end of ``to``, which is used up only by success."""
    cdef stage_t st
    one_page(&st, pfn)
    st.dst[0] = l.to[l.nr_to - 1]
    stage_take(c, &st, force)
    stage_move(c, &st)
    stage_end(c, &st, True)
    if st.rc[0] == 0:
        l.nr_to -= 1
    return st.rc[0]


cdef bint has_stuck_buffers(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Clean, unmapped, and still not moved: its file system must release the buffers first, and did not."""
    cdef uint64_t s = page_state(c.m, pfn)
    return s & PG_cached and s & PG_private and not s & PG_dirty and frame_maps(s) == 0 and \
        not has_migratepage(file_of(c.m, pmg_load32(&c.m.frames[pfn].mapping)))


cdef uint64_t list_pass(ctx_t *c, lists_t *l, uint32_t pass_) noexcept nogil:
    """One round; how many are to be tried again.  It is cut short where ``to`` is used up."""
    cdef uint32_t force = how_hard(c.m, pass_)
    cdef bint last_resort = c.m.profile.engine == 1 and pass_ > LAST_RESORT
    cdef stage_t st
    cdef uint64_t i = 0, kept = 0
    cdef int rc
    cdef uint32_t pfn
    while i < l.n:
        pfn = l.source[i]
        one_page(&st, pfn)
        at_step(c, STEP_ISOLATE, &st)
        if page_count(c.m, pfn) == 1 and PMG_GUARD(1):
            rc = 1                              # freed under us
        elif l.to == NULL:
            at_step(c, STEP_ALLOC, &st)
            rc = evict_one(c, pfn, force)
        elif l.nr_to == 0:
            break
        else:
            rc = move_one(c, l, pfn, force)
            if last_resort and rc == -EAGAIN and has_stuck_buffers(c, pfn):
                rc = evict_one(c, pfn, force)
        i += 1
        if rc == -EAGAIN and PMG_GUARD(8):
            l.source[kept] = pfn
            kept += 1
        elif rc < 0:
            l.failed[l.nr_failed] = pfn
            l.nr_failed += 1
        else:
            l.moved[l.nr_moved] = pfn
            l.nr_moved += 1
    # What is to be tried again joins what was not reached, which stays where it is: it is long, and many chunks share one list.
    memmove(l.source + i - kept, l.source, kept * sizeof(uint32_t))
    l.source += i - kept
    l.n -= i - kept
    return kept


cdef uint64_t migrate_page_lists(ctx_t *c, lists_t *l) noexcept nogil:
    cdef uint32_t pass_
    cdef uint64_t retry = 0
    l.nr_moved = 0
    l.nr_failed = 0
    for pass_ in range(c.m.profile.passes):
        retry = list_pass(c, l, pass_)
        if retry == 0:
            break
    return l.nr_failed + retry


cdef uint32_t target_ahead(ctx_t *c, const target_t *t, uint32_t source, uint64_t offset) noexcept nogil:
    """A target before it is known whose: with a mapping at addresses that only rise, to give interleaving a chance."""
    if t.vma:
        return alloc_page_vma(c, vma_of(c.m, t.vma), vma_of(c.m, t.vma).start + offset)
    if t.nid >= 0:
        return alloc_page(c, t.nid, pmg_load(&c.m.online))
    return alloc_page(c, page_to_nid(c.m, source), t.nodes)


cdef uint64_t putback_all(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil:
    cdef uint64_t i
    for i in range(n):
        putback_lru_page(c, pfns[i])
    return n


cdef void lists_begin(ctx_t *c, lists_t *l, const uint32_t *pfns, uint64_t n, int32_t nid) noexcept nogil:
    cdef uint64_t i
    l.n = l.nr_to = l.nr_moved = l.nr_failed = 0
    lru_cache_disable(c)
    for i in range(n):
        if isolate_lru_page(c, pfns[i]):
            l.source[l.n] = pfns[i]
            l.n += 1
    if nid < 0:
        l.to = NULL
        return
    c.nozero = 1
    while l.nr_to < min(l.n, <uint64_t> (MIGRATE_CHUNK_SIZE + 1)):
        l.to[l.nr_to] = alloc_page(c, nid, pmg_load(&c.m.online))
        if l.to[l.nr_to] == 0:
            break
        l.nr_to += 1
    c.nozero = 0


cdef void lists_putback(ctx_t *c, lists_t *l) noexcept nogil:
    putback_all(c, l.moved, l.nr_moved)
    putback_all(c, l.failed, l.nr_failed)
    putback_all(c, l.source, l.n)
    if l.to != NULL and l.nr_to:
        free_pages(c, l.to, <uint32_t> l.nr_to)


cdef void lists_end(ctx_t *c, lists_t *l) noexcept nogil:
    lists_putback(c, l)
    lru_cache_enable(c)


cdef int32_t migrate_one_page(ctx_t *c, uint32_t pfn, int32_t nid) noexcept nogil:
    cdef lists_t l
    cdef uint32_t to, moved, failed
    c.nozero = 1
    to = alloc_page(c, nid, pmg_load(&c.m.online))
    c.nozero = 0
    if to == 0:
        putback_lru_page(c, pfn)
        return -ENOMEM
    nid = page_to_nid(c.m, to)          # another's, where that one is full
    l.source = &pfn
    l.to = &to
    l.moved = &moved
    l.failed = &failed
    l.n = l.nr_to = 1
    migrate_page_lists(c, &l)
    count_event(c, C_PGMIGRATE_SUCCESS, l.nr_moved)
    count_event(c, C_PGMIGRATE_FAIL, 1 - l.nr_moved)
    lists_putback(c, &l)
    return nid if l.nr_moved else -EAGAIN


cdef int one_chunk(ctx_t *c, lists_t *l, const target_t *t, uint64_t *offset, run_t *run) noexcept nogil:
    """Allocate for one chunk and migrate; 1: there was a target for every page of it and more pages are left."""
    cdef uint64_t i, want = min(l.n, <uint64_t> (MIGRATE_CHUNK_SIZE + 1))
    l.nr_to = 0
    c.nozero = 1
    for i in range(want):
        l.to[i] = target_ahead(c, t, l.source[i], offset[0])
        if l.to[i] == 0:
            run.error = -ENOMEM
            break
        offset[0] += 1
        l.nr_to += 1
    c.nozero = 0
    if run.error == 0:
        migrate_page_lists(c, l)
        run.succeeded += putback_all(c, l.moved, l.nr_moved)
    return run.error == 0 and l.nr_to == 0 and l.n


cdef int migrate_pages_to(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *t, run_t *run) noexcept nogil:
    """What a chunk failed at is set aside; at the end it comes back to the pages that are left."""
    cdef lists_t l
    cdef uint64_t offset = 0, nr_failed = 0
    cdef uint32_t *room = <uint32_t *> malloc((MIGRATE_CHUNK_SIZE + 1 + 2 * n) * 4)
    cdef uint32_t *failed
    if room == NULL:
        run.error = -ENOMEM
        putback_all(c, pfns, n)
        return -ENOMEM
    l.source = pfns
    l.n = n
    l.to = room
    l.moved = room + MIGRATE_CHUNK_SIZE + 1
    failed = l.moved + n
    while True:
        l.failed = failed + nr_failed
        l.nr_failed = 0
        if not one_chunk(c, &l, t, &offset, run):
            break
        nr_failed += l.nr_failed
    nr_failed += l.nr_failed
    if l.nr_to:
        free_pages(c, l.to, <uint32_t> l.nr_to)
    run.failed = nr_failed + l.n
    putback_all(c, failed, nr_failed)
    putback_all(c, l.source, l.n)
    free(room)
    count_event(c, C_PGMIGRATE_SUCCESS, run.succeeded)
    count_event(c, C_PGMIGRATE_FAIL, run.failed)
    return run.error


# -- one list and an allocator ---------------------------------------------------------------------------------------

cdef inline uint32_t slot_of(moves_t *mv, uint64_t i) noexcept nogil:
    return mv.slots[i] if mv.slots != NULL else <uint32_t> i


cdef inline void set_result(moves_t *mv, uint32_t slot, int32_t result) noexcept nogil:
    if mv.result != NULL:
        mv.result[slot] = result


cdef void keep_page(moves_t *mv, uint64_t *kept, uint32_t pfn, uint32_t slot) noexcept nogil:
    mv.pfns[kept[0]] = pfn
    mv.slots[kept[0]] = slot
    kept[0] += 1


cdef uint32_t take_targets(ctx_t *c, moves_t *mv, stage_t *st, uint32_t *slots, uint64_t i, run_t *run) noexcept nogil:
    """Fill a stage from page ``i`` on; returns how many pages were looked at.

    Without a frame 2.6.18 gives up the whole list (``run.error``); with arrays only that page does not move.
    """
    cdef uint32_t j, n = st.n, pfn
    st.n = 0
    c.nozero = 1
    for j in range(n):
        pfn = mv.get_new_page(c, mv.pfns[i + j], slot_of(mv, i + j), mv.private_)
        if pfn:
            st.src[st.n] = mv.pfns[i + j]
            st.dst[st.n] = pfn
            slots[st.n] = slot_of(mv, i + j)
            st.n += 1
        elif c.m.profile.arrays and not c.bug:
            set_result(mv, slot_of(mv, i + j), -ENOMEM)
            run.failed += 1
            putback_lru_page(c, mv.pfns[i + j])
        else:
            run.error = -ENOMEM
            c.nozero = 0
            return j
    c.nozero = 0
    return n


cdef void settle_stage(ctx_t *c, moves_t *mv, stage_t *st, const uint32_t *slots, uint64_t *kept, run_t *run) noexcept nogil:
    """Dispose of the pages of a stage at once; only those to be tried again stay on the list."""
    cdef uint32_t j
    for j in range(st.n):
        if st.rc[j] >= 0:
            set_result(mv, slots[j], page_to_nid(c.m, st.dst[j]))       # of a page freed under us: the unused target's
            run.succeeded += 1
            continue
        set_result(mv, slots[j], st.rc[j])
        if st.rc[j] == -EAGAIN and PMG_GUARD(8):
            keep_page(mv, kept, st.src[j], slots[j])
        else:
            run.failed += 1
            putback_lru_page(c, st.src[j])


cdef uint64_t one_pass(ctx_t *c, moves_t *mv, uint64_t n, uint32_t force, run_t *run) noexcept nogil:
    """One pass over the first ``n`` pages; returns how many are left at the front."""
    cdef stage_t st
    cdef uint32_t slots[64]
    cdef uint64_t i = 0, kept = 0
    cdef uint32_t j, width, looked
    while i < n and not run.error:
        # Who waits does so with one page; near the end of memory each page may need what the one before gave back.
        width = 1 if force or short_of_frames(c.m, c.m.width) else c.m.width
        st.n = <uint32_t> min(n - i, <uint64_t> width)
        for j in range(st.n):
            st.src[j] = mv.pfns[i + j]
            st.open[j] = 0
        at_step(c, STEP_ISOLATE, &st)
        looked = take_targets(c, mv, &st, slots, i, run)
        if st.n:
            stage_take(c, &st, force)
            stage_move(c, &st)
            stage_end(c, &st, True)
            settle_stage(c, mv, &st, slots, &kept, run)
        i += looked
        if c.bug:
            run.error = -(PMG_BUG + <int> c.bug)
    while i < n:                                # given up: not tried in this pass
        keep_page(mv, &kept, mv.pfns[i], slot_of(mv, i))
        i += 1
    return kept


cdef void migrate_pages_each(ctx_t *c, moves_t *mv, run_t *run) noexcept nogil:
    cdef uint64_t i, left = mv.n
    cdef uint32_t pass_
    cdef uint32_t *own = NULL
    if mv.slots == NULL:                        # positions must outlive the list's compaction
        own = <uint32_t *> malloc(mv.n * 4)
        if own == NULL:
            run.error = -ENOMEM
            putback_all(c, mv.pfns, mv.n)
            return
        for i in range(mv.n):
            own[i] = <uint32_t> i
        mv.slots = own
    for pass_ in range(c.m.profile.passes):
        if left == 0 or run.error:
            break
        left = one_pass(c, mv, left, how_hard(c.m, pass_), run)
    run.failed += left
    putback_all(c, mv.pfns, left)
    free(own)
    count_event(c, C_PGMIGRATE_SUCCESS, run.succeeded)
    count_event(c, C_PGMIGRATE_FAIL, run.failed)


# -- any target --------------------------------------------------------------------------------------------------------

cdef uint32_t new_target_page(ctx_t *c, uint32_t pfn, uint32_t slot, const void *private_) noexcept nogil:
    """``new_node_page``, and what other callers ask for."""
    cdef const target_t *t = <const target_t *> private_
    cdef uint32_t new = 0
    cdef vma_t *hint = NULL
    if t.nid == TARGET_NEAREST:
        return alloc_page(c, page_to_nid(c.m, pfn), t.nodes)
    if t.nid < 0:
        return new_page(c, pfn, t, &hint)
    if c.m.profile.this_node:
        alloc_pages_node(c, t.nid, 1, &new)
        return new
    return alloc_page(c, t.nid, pmg_load(&c.m.online))


cdef void migrate_pages_2006(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *t, run_t *run) noexcept nogil:
    cdef moves_t mv
    if c.m.profile.four_lists:
        migrate_pages_to(c, pfns, n, t, run)
        return
    mv.pfns = pfns
    mv.slots = NULL
    mv.n = n
    mv.get_new_page = new_target_page
    mv.private_ = t
    mv.result = NULL
    migrate_pages_each(c, &mv, run)
