"""migrate_pages() of every kernel, built from the stages: passes, batches, four lists, one page at a time.

Today's kernels take one list: 6.1 page by page, from 6.3 on in batches.  Of the kernels of 2006, 2.6.17 takes four lists,
2.6.18 one list and an allocator, and pmig arrays.
"""
from libc.errno cimport EAGAIN, ENOMEM
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memmove

from pagemig.mm.atomic cimport GUARD_FREED, GUARD_RETRY, PMG_GUARD, pmg_load, pmg_load32, pmg_load_acq, pmg_prefetchw
from pagemig.mm.context cimport signal_pending
from pagemig.mm.filemap cimport has_migratepage
from pagemig.mm.frame cimport frame_maps, page_count, page_state
from pagemig.mm.mempolicy cimport alloc_page_vma
from pagemig.mm.migrate_stage cimport (
    AHEAD, at_step, chunk_of, collect, DONE, heed_abort, HELD, wait_flags, in_batches, isolate_lru_page, load_stage, new_page,
    pause_pass, PAUSE_UNMAPPED, putback_lru_page, run_begin, run_stage, run_t, short_of_frames, stage_end,
    stage_move, stage_t, stage_take, stage_unmap, steps_show, TARGET_NEAREST, target_t, WAIT_FOR_ALL,
)
from pagemig.mm.notify cimport chosen_node, flush_batch, hears_target
from pagemig.mm.page_alloc cimport (
    alloc_page, alloc_pages_bulk, alloc_pages_node, count_event, file_of, free_pages, page_to_nid, vma_of,
)
from pagemig.mm.rmap cimport lru_cache_disable, lru_cache_enable
from pagemig.mm.swap_state cimport slots_at_hand
from pagemig.mm.trace cimport STEP_ALLOC, STEP_ISOLATE
from pagemig.mm.types cimport (
    C_PGMIGRATE_FAIL, C_PGMIGRATE_SUCCESS, C_TLB_FLUSH, ctx_t, frame_t, KEEP_REFCOUNT, machine_t, node_t, PG_cached, PG_dirty,
    PG_isolated, PG_private, PMG_BUG, REF_ONE, STAGE, vma_t,
)
from pagemig.mm.vmscan cimport evict_one


cdef uint64_t migrate_chunk(
        ctx_t *c, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *t, run_t *run) noexcept nogil:
    """Run all passes over at most a chunk of pages; return how many are left, compacted to the front.

    The first ``tried`` pages have had their first pass.
    """
    cdef stage_t st
    cdef uint64_t i, left = n
    cdef uint32_t pass_
    for pass_ in range(c.m.profile.passes):
        n = left
        i = left = tried
        tried = 0
        if pass_:
            pause_pass(c)
        while i < n:
            load_stage(c, &st, t, pfns + i, n - i)
            run_stage(c, &st, t, WAIT_FOR_ALL if pass_ >= c.m.profile.force_pass else 0)
            if st.n == 0:
                run.error = -ENOMEM
            else:
                i += st.n
                left += collect(c, &st, t, pfns + left, run)
                heed_abort(c, run)
            if run.error:
                run.failed += 1 + left      # the page without a frame, and those left to the next pass
                while i < n:
                    pfns[left] = pfns[i]
                    left += 1
                    i += 1
                return left
        if left == 0:
            return 0
    run.failed += left
    return left


cdef enum:
    BATCH_ROOM = 8              # initial capacity of a batch, in stages


cdef void batch_begin(batch_t *b) noexcept nogil:
    b.stage = NULL
    b.n = b.cap = b.pages = 0


cdef stage_t *batch_room(batch_t *b) noexcept nogil:
    cdef stage_t *p
    if b.n == b.cap:
        p = <stage_t *> realloc(b.stage, (2 * b.cap + BATCH_ROOM) * sizeof(stage_t))
        if p == NULL:
            return NULL
        b.stage = p
        b.cap = 2 * b.cap + BATCH_ROOM
    return &b.stage[b.n]


cdef inline bint all_alike(const stage_t *st) noexcept nogil:
    """Whether all results are the same.  Branch-free, to vectorise."""
    cdef uint32_t i
    cdef int first = st.rc[0], differ = 0
    for i in range(st.n):
        differ |= st.rc[i] ^ first
    return differ == 0


cdef uint32_t hold(stage_t *st, int rc, int as_) noexcept nogil:
    """Change results ``rc`` to ``as_``; return how many."""
    cdef uint32_t i, n = 0
    if all_alike(st):
        if st.rc[0] != rc:
            return 0
        for i in range(st.n):
            st.rc[i] = as_
        return st.n
    for i in range(st.n):
        if st.rc[i] == rc:
            st.rc[i] = as_
            n += 1
    return n


cdef uint64_t settle(ctx_t *c, stage_t *st, int rc, uint32_t *keep, run_t *run) noexcept nogil:
    """Hold the pages with result ``rc`` (HELD: none) and finish the others; those that failed go to ``keep``."""
    cdef uint64_t left = 0
    cdef uint32_t i, moved
    st.held = hold(st, rc, HELD)
    if st.held == st.n:
        return 0
    stage_end(c, st, st.held == 0)
    moved = hold(st, 0, DONE)
    run.succeeded += moved
    if moved == st.n:
        return 0
    for i in range(st.n):
        if st.rc[i] < 0:
            keep[left] = st.src[i]
            left += 1
            st.rc[i] = DONE
        elif st.rc[i] == 1:
            run.succeeded += 1
            st.rc[i] = DONE
    return left


cdef uint64_t unmap_ahead(ctx_t *c, batch_t *b, const target_t *t, uint32_t *keep, run_t *run) noexcept nogil:
    cdef stage_t *st = &b.stage[b.n]
    cdef uint64_t left
    stage_unmap(c, st, t, 0)
    if st.n == 0:
        run.error = -ENOMEM
        return 0
    left = settle(c, st, 0, keep, run)
    b.pages += st.n
    b.n += st.held != 0
    return left


cdef uint64_t unmap_batch(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *t, uint32_t passes,
        uint32_t force, run_t *run) noexcept nogil:
    """Run the passes that unmap; return how many pages are not unmapped, compacted to the front.

    The first ``tried`` pages have had their first pass.  When no target can be allocated, no further page is tried, but
    pages already unmapped will be moved.
    """
    cdef uint64_t i, left = n
    cdef uint32_t _pass
    cdef stage_t *st
    for _pass in range(passes):
        n = left
        left = i = tried
        tried = 0
        if _pass:
            pause_pass(c)
        while i < n:
            st = batch_room(b)
            if st != NULL:
                load_stage(c, st, t, pfns + i, n - i)
                stage_unmap(c, st, t, force)
            if st == NULL or st.n == 0:
                run.error = -ENOMEM
                run.failed += 1 + left
                while i < n:
                    pfns[left] = pfns[i]
                    left += 1
                    i += 1
                return left
            i += st.n
            left += settle(c, st, 0, pfns + left, run)
            b.n += st.held != 0
        if left == 0:
            break
    run.failed += left
    return left


cdef void pause_batch(ctx_t *c, batch_t *b) noexcept nogil:
    """Pause with migration entries installed for all pages of a batch."""
    cdef uint32_t src[512]
    cdef uint32_t dst[512]
    cdef uint32_t i, k, n = 0
    if c.pause_fn == NULL:
        return
    for k in range(b.n):
        for i in range(b.stage[k].n):
            if b.stage[k].rc[i] == HELD and n < 512:
                src[n] = b.stage[k].src[i]
                dst[n] = b.stage[k].dst[i]
                n += 1
    c.pause_fn(c, PAUSE_UNMAPPED, src, dst, n)


cdef void fetch_stage(machine_t *m, const stage_t *st) noexcept nogil:
    """Prefetch a stage's frames: they left the L1 cache since they were unmapped, and a locked instruction stalls on each."""
    cdef uint32_t i
    for i in range(st.n):
        pmg_prefetchw(&m.frames[st.src[i]])
        pmg_prefetchw(&m.frames[st.dst[i]])


cdef uint64_t move_batch(ctx_t *c, batch_t *b, uint32_t *keep, uint32_t passes, run_t *run) noexcept nogil:
    """Run the passes that move unmapped pages; those that fail are restored after the last and go to ``keep``."""
    cdef uint64_t left = 0
    cdef uint32_t pass_, k, held = b.n
    cdef stage_t *st
    for pass_ in range(passes):
        if held == 0:
            break
        held = 0
        for k in range(b.n):
            st = &b.stage[k]
            if st.held:
                fetch_stage(c.m, st)
                hold(st, HELD, 0)
                stage_move(c, st)
                left += settle(c, st, -EAGAIN if pass_ + 1 < passes else HELD, keep + left, run)
                held += st.held
    run.failed += left
    return left


cdef uint64_t migrate_pages_batch(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *t, uint32_t passes,
        uint32_t force, run_t *run) noexcept nogil:
    """Unmap and move at most a batch of pages; return how many are left, compacted to the front."""
    cdef uint64_t left = n
    if not run.error:                           # set if the pass that ran ahead got no target
        left = unmap_batch(c, b, pfns, n, tried, t, passes, force, run)
    count_event(c, C_TLB_FLUSH, b.n != 0)
    flush_batch(c)
    pause_batch(c, b)
    left += move_batch(c, b, pfns + left, passes, run)
    b.n = 0
    return left


cdef uint64_t migrate_pages_sync(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *t,
        run_t *run) noexcept nogil:
    """Migrate all pages together without waiting, then the rest one by one with waiting; only these failures count."""
    cdef run_t first
    cdef uint64_t i, left = 0, together
    run_begin(&first)
    if not c.m.profile.async_first:             # an asynchronous caller: all passes without waiting
        together = migrate_pages_batch(c, b, pfns, n, tried, t, c.m.profile.passes, 0, run)
        heed_abort(c, run)
        return together
    first.error = run.error
    together = migrate_pages_batch(c, b, pfns, n, tried, t, c.m.profile.async_passes, 0, &first)
    run.succeeded += first.succeeded
    if first.error:
        run.error = first.error
        run.failed += first.failed
        return together
    heed_abort(c, run)
    for i in range(together):
        pfns[left] = pfns[i]
        if run.error:
            left += 1
        else:
            left += migrate_pages_batch(c, b, pfns + left, 1, 0, t, c.m.profile.passes, WAIT_FOR_ALL, run)
            heed_abort(c, run)
    return left


cdef void migrate_pages(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *target, run_t *run) noexcept nogil:
    cdef batch_t b
    run_begin(run)
    if c.m.profile.four_lists:
        migrate_pages_to(c, pfns, n, target, run)
    elif c.m.profile.page_results:
        migrate_pages_each_to(c, pfns, n, target, run)
    else:
        batch_begin(&b)
        finish_run(c, &b, pfns, n, 0, target, run)
        free(b.stage)


cdef void migrate_chunk_or_batch(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *target,
        run_t *run) noexcept nogil:
    cdef uint64_t i, left
    if run.error and b.n == 0:
        left = n
    elif in_batches(c.m):
        left = migrate_pages_sync(c, b, pfns, n, tried, target, run)
    else:
        left = migrate_chunk(c, pfns, n, tried, target, run)
    b.pages = 0
    for i in range(left):
        putback_lru_page(c, pfns[i])


cdef void finish_run(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *target,
        run_t *run) noexcept nogil:
    cdef uint64_t i = 0, k
    while i < n or b.n:
        # of a batch that is unmapped in part, pages that have had their first pass belong to it too
        k = min(n - i, <uint64_t> chunk_of(c.m) - b.pages + (tried if b.pages else 0))
        migrate_chunk_or_batch(c, b, pfns + i, k, min(tried - min(tried, i), k), target, run)
        i += k
    count_event(c, C_PGMIGRATE_SUCCESS, run.succeeded)
    count_event(c, C_PGMIGRATE_FAIL, run.failed)


cdef int64_t run_result(run_t *run) noexcept nogil:
    return run.error if run.error else <int64_t> run.failed


cdef enum:
    LAST_RESORT = 4             # after this pass, a page whose buffers cannot be released is swapped out (2.6.17)


# -- four lists ----------------------------------------------------------------------------------------------------


cdef uint32_t list_width(ctx_t *c, const lists_t *l, uint32_t force) noexcept nogil:
    """Choose how many pages a stage takes: one where the order of single steps can be observed, or when waiting.

    Also one where swap slots are short.  Page by page, each page frees its slot before the next allocates one.  Slots are
    allocated cyclically, so a stage gets the same ones as long as the first device has one for each of its pages.
    """
    if force or c.pause_fn != NULL or steps_show(c):
        return 1
    if c.m.profile.engine == 1 and not slots_at_hand(c.m, c.m.width):
        return 1
    return max(<uint32_t> 1, <uint32_t> min(<uint64_t> c.m.width, l.nr_to))


cdef void take_listed(ctx_t *c, const lists_t *l, uint64_t i, uint32_t width, stage_t *st) noexcept nogil:
    """Load a stage from page ``i`` on, up to the first page that was freed meanwhile; targets from the end of ``to``."""
    cdef frame_t *frames = c.m.frames
    cdef uint32_t k = 0, pfn
    while k < width and i < l.n:
        pfn = l.source[i]
        if i + AHEAD < l.n:
            pmg_prefetchw(&frames[l.source[i + AHEAD]])
        if k and page_count(c.m, pfn) == 1:
            break
        st.src[k] = pfn
        st.open[k] = 0
        st.rc[k] = 0
        if l.nr_to:
            st.dst[k] = l.to[l.nr_to - 1 - k]
        k += 1
        i += 1
    st.n = k


cdef void move_listed(ctx_t *c, lists_t *l, stage_t *st, uint32_t force) noexcept nogil:
    """Try each page once.  Only success consumes a target: the target of a page that fails goes to the next page."""
    cdef uint32_t i
    stage_take(c, st, l.keep, force)
    stage_move(c, st)
    stage_end(c, st, True)
    for i in range(st.n):
        l.nr_to -= st.rc[i] == 0


cdef bint has_stuck_buffers(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Whether a clean, unmapped page still has buffers that its file system did not release."""
    cdef uint64_t s = page_state(c.m, pfn)
    return s & PG_cached and s & PG_private and not s & PG_dirty and frame_maps(s) == 0 and \
        not has_migratepage(file_of(c.m, pmg_load32(&c.m.frames[pfn].mapping)))


cdef inline void settle_listed(lists_t *l, uint64_t *left, uint32_t pfn, int rc) noexcept nogil:
    if rc == -EAGAIN and PMG_GUARD(GUARD_RETRY):
        l.source[left[0]] = pfn
        left[0] += 1
    elif rc < 0:
        l.failed[l.nr_failed] = pfn
        l.nr_failed += 1
    else:
        l.moved[l.nr_moved] = pfn
        l.nr_moved += 1


cdef uint64_t list_pass(ctx_t *c, lists_t *l, uint32_t pass_) noexcept nogil:
    """Run one pass and return how many pages to retry; it ends early when ``to`` is used up."""
    cdef uint32_t force = wait_flags(c.m, pass_)
    cdef bint last_resort = c.m.profile.engine == 1 and pass_ > LAST_RESORT
    cdef stage_t st
    cdef uint64_t i = 0, left = 0
    cdef uint32_t k
    while i < l.n and not signal_pending(c, 1):
        take_listed(c, l, i, 1 if last_resort or l.to == NULL else list_width(c, l, force), &st)
        at_step(c, STEP_ISOLATE, &st)
        if page_count(c.m, st.src[0]) == 1 and PMG_GUARD(GUARD_FREED):
            st.n = 1
            st.rc[0] = 1                        # freed meanwhile
        elif l.to == NULL:
            at_step(c, STEP_ALLOC, &st)
            st.rc[0] = evict_one(c, st.src[0], force)
        elif l.nr_to == 0 or c.abort:
            break
        else:
            move_listed(c, l, &st, force)
            if last_resort and st.rc[0] == -EAGAIN and has_stuck_buffers(c, st.src[0]):
                st.rc[0] = evict_one(c, st.src[0], force)
        for k in range(st.n):
            settle_listed(l, &left, st.src[k], st.rc[k])
        i += st.n
    # Pages to retry join those not reached, which stay in place: they are many, and all chunks share one list.
    memmove(l.source + i - left, l.source, left * sizeof(uint32_t))
    l.source += i - left
    l.n -= i - left
    return left


cdef uint64_t migrate_page_lists(ctx_t *c, lists_t *l) noexcept nogil:
    cdef uint32_t pass_
    cdef uint64_t retry = 0
    l.nr_moved = 0
    l.nr_failed = 0
    for pass_ in range(c.m.profile.passes):
        if pass_:
            pause_pass(c)
        retry = list_pass(c, l, pass_)
        if retry == 0:
            break
    return l.nr_failed + retry


cdef inline bint takes_at_once(ctx_t *c, int32_t nid) noexcept nogil:
    """Whether a node gives frames without asking anybody for each: neither a watermark nor a host."""
    return c.m.node[nid].low == 0 and (c.watch == NULL or not hears_target(c))


cdef uint32_t target_ahead(
        ctx_t *c, const target_t *t, uint32_t source, uint64_t offset, int32_t wanted) noexcept nogil:
    """Allocate a target before it is known which page gets it; ``t`` NULL: on or near node ``wanted``.

    With ``t.vma``, at ascending addresses of that mapping, which approximates interleaving.
    """
    cdef int32_t nid = chosen_node(c, source, wanted)
    cdef uint32_t pfn = 0
    if nid != -1:
        if nid >= 0:
            alloc_pages_node(c, nid, 1, &pfn)
        return pfn
    if t == NULL:
        return alloc_page(c, wanted, pmg_load(&c.m.online))
    if t.vma:
        return alloc_page_vma(c, vma_of(c.m, t.vma), vma_of(c.m, t.vma).start + offset)
    if t.nid >= 0:
        return alloc_page(c, t.nid, pmg_load(&c.m.online))
    return alloc_page(c, page_to_nid(c.m, source), t.nodes)


cdef uint64_t putback_all(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil:
    """``putback_movable_pages``."""
    cdef uint64_t i
    for i in range(n):
        if i + AHEAD < n:
            pmg_prefetchw(&c.m.frames[pfns[i + AHEAD]])
        putback_lru_page(c, pfns[i])
    return n


cdef uint64_t putback_moved(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil:
    """Put back or free the source frames of moved pages; one whose last reference is the isolation's is unreachable."""
    cdef uint32_t done[64]
    cdef uint32_t k = 0
    cdef uint64_t i
    cdef bint last
    for i in range(n):
        if i + AHEAD < n:
            pmg_prefetchw(&c.m.frames[pfns[i + AHEAD]])
        last = pmg_load_acq(&c.m.frames[pfns[i]].state) == PG_isolated | REF_ONE
        if last:
            done[k] = pfns[i]
            k += 1
        if k == STAGE or not last:              # keep the order
            free_pages(c, done, k)
            k = 0
        if not last:
            putback_lru_page(c, pfns[i])
    free_pages(c, done, k)
    return n


cdef void lists_begin(ctx_t *c, lists_t *l, const uint32_t *pfns, uint64_t n, int32_t nid) noexcept nogil:
    cdef uint64_t i
    l.n = l.nr_to = l.nr_moved = l.nr_failed = 0
    l.keep.how = KEEP_REFCOUNT
    lru_cache_disable(c)
    for i in range(n):
        if isolate_lru_page(c, pfns[i]):
            l.source[l.n] = pfns[i]
            l.n += 1
    if nid < 0:
        l.to = NULL
        return
    while l.nr_to < min(l.n, <uint64_t> (MIGRATE_CHUNK_SIZE + 1)):
        l.to[l.nr_to] = alloc_page(c, nid, pmg_load(&c.m.online))
        if l.to[l.nr_to] == 0:
            break
        l.nr_to += 1


cdef void lists_putback(ctx_t *c, lists_t *l) noexcept nogil:
    putback_moved(c, l.moved, l.nr_moved)
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
    to = target_ahead(c, NULL, pfn, 0, nid)
    if to == 0:
        putback_lru_page(c, pfn)
        return -ENOMEM
    nid = page_to_nid(c.m, to)          # another node if that one is full
    l.source = &pfn
    l.to = &to
    l.moved = &moved
    l.failed = &failed
    l.n = l.nr_to = 1
    l.keep.how = KEEP_REFCOUNT
    migrate_page_lists(c, &l)
    count_event(c, C_PGMIGRATE_SUCCESS, l.nr_moved)
    count_event(c, C_PGMIGRATE_FAIL, 1 - l.nr_moved)
    lists_putback(c, &l)
    return nid if l.nr_moved else -EAGAIN


cdef uint64_t targets_at_once(ctx_t *c, const target_t *t, uint32_t *to, uint64_t want) noexcept nogil:
    """Take the frames that target_ahead() would answer for one node, as long as it has any."""
    cdef uint64_t n = 0
    cdef uint32_t got = 1
    if t.nid < 0 or t.vma or not takes_at_once(c, t.nid):
        return 0
    while got and n < want:
        got = alloc_pages_bulk(c, t.nid, <uint32_t> (want - n), to + n)
        n += got
    return n


cdef int one_chunk(ctx_t *c, lists_t *l, const target_t *t, uint64_t *offset, run_t *run) noexcept nogil:
    """Allocate targets for one chunk and migrate it; 1: every page got a target and more pages are left."""
    cdef uint64_t i, want = min(l.n, <uint64_t> (MIGRATE_CHUNK_SIZE + 1))
    l.nr_to = targets_at_once(c, t, l.to, want)
    offset[0] += l.nr_to
    for i in range(l.nr_to, want):
        l.to[i] = target_ahead(c, t, l.source[i], offset[0], t.nid)
        if l.to[i] == 0:
            run.error = -ENOMEM
            break
        offset[0] += 1
        l.nr_to += 1
    if run.error == 0:
        migrate_page_lists(c, l)
        run.succeeded += putback_moved(c, l.moved, l.nr_moved)
        heed_abort(c, run)
    return run.error == 0 and l.nr_to == 0 and l.n


cdef int migrate_pages_to(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *t, run_t *run) noexcept nogil:
    """Migrate chunk by chunk; pages that failed are set aside and put back at the end."""
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
    l.keep = t.keep
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


cdef void keep_page(moves_t *mv, uint64_t *left, uint32_t pfn, uint32_t slot) noexcept nogil:
    mv.pfns[left[0]] = pfn
    mv.slots[left[0]] = slot
    left[0] += 1


cdef inline int32_t wanted_node(moves_t *mv, uint32_t slot) noexcept nogil:
    """Get the target node of a page; -1: by policy, page by page."""
    return mv.nodes[slot] if mv.nodes != NULL else mv.nid


cdef bint ends_stage(ctx_t *c, uint32_t pfn, int32_t wanted, uint64_t *sources, uint64_t *targets) noexcept nogil:
    """Whether a page must begin a new stage: its target may be a frame that an earlier page frees, or needs a refill.

    A policy sends pages to nodes that no page of the list comes from, unless mbind treats all pages as misplaced.
    """
    cdef uint64_t from_ = <uint64_t> 1 << page_to_nid(c.m, pfn)
    cdef uint64_t to = <uint64_t> 1 << wanted if wanted >= 0 else ~<uint64_t> 0 if c.m.profile.mbind_all_misplaced else 0
    cdef bint first = sources[0] == 0
    if not first and ((to & sources[0]) | (from_ & targets[0]) or (wanted >= 0 and pmg_load32(&c.pcp[wanted].n) == 0)):
        return True
    sources[0] |= from_
    targets[0] |= to
    return False


cdef int64_t target_of(ctx_t *c, moves_t *mv, uint32_t pfn, uint32_t slot) noexcept nogil:
    """Allocate a target by get_new_page, unless a callback chooses the node."""
    cdef int32_t nid = chosen_node(c, pfn, wanted_node(mv, slot))
    cdef uint32_t new = 0
    if nid == -1:
        return mv.get_new_page(c, pfn, slot, mv.private_)
    if nid >= 0:
        alloc_pages_node(c, nid, 1, &new)
    return new


cdef uint32_t take_targets(ctx_t *c, moves_t *mv, stage_t *st, uint32_t *slots, uint64_t i, run_t *run) noexcept nogil:
    """Fill a stage from page ``i`` on; return how many pages were examined.

    If no frame is left, 2.6.18 gives up the whole list (``run.error``); with arrays only that page does not move.
    """
    cdef uint32_t j, n = st.n
    cdef int64_t pfn
    cdef uint64_t sources = 0, targets = 0
    st.n = 0
    for j in range(n):
        if ends_stage(c, mv.pfns[i + j], wanted_node(mv, slot_of(mv, i + j)), &sources, &targets):
            n = j
            break
        pfn = target_of(c, mv, mv.pfns[i + j], slot_of(mv, i + j))
        if pfn > 0:
            st.src[st.n] = mv.pfns[i + j]
            st.dst[st.n] = <uint32_t> pfn
            slots[st.n] = slot_of(mv, i + j)
            st.n += 1
        elif c.m.profile.arrays and pfn == 0:
            set_result(mv, slot_of(mv, i + j), -ENOMEM)
            run.failed += 1
            putback_lru_page(c, mv.pfns[i + j])
        else:
            run.error = <int> pfn or -ENOMEM
            return j
    return n


cdef uint32_t take_alike(ctx_t *c, moves_t *mv, stage_t *st, uint32_t *slots, uint64_t i) noexcept nogil:
    """take_targets() in one call of the allocator, for pages that all go to one node with free frames and are not on it.

    Allocates the same frames.  Returns 0 without allocating if take_targets() is needed.
    """
    cdef const node_t *node = &c.m.node[mv.nid]
    cdef uint32_t *pfns = mv.pfns + i
    cdef uint32_t j, n = 0
    while n < st.n and pfns[n] - node.first >= node.end - node.first:
        n += 1
    if n:
        n = alloc_pages_bulk(c, mv.nid, n, st.dst)
    for j in range(n):
        st.src[j] = pfns[j]
        slots[j] = slot_of(mv, i + j)
    if n:
        st.n = n
    return n


cdef void settle_stage(ctx_t *c, moves_t *mv, stage_t *st, const uint32_t *slots, uint64_t *left, run_t *run) noexcept nogil:
    """Put the finished pages of a stage back at once; only those to retry stay on the list."""
    cdef uint32_t j
    for j in range(st.n):
        if st.rc[j] >= 0:
            set_result(mv, slots[j], page_to_nid(c.m, st.dst[j]))       # for a page freed meanwhile: the unused target's
            run.succeeded += 1
            continue
        if st.rc[j] <= -PMG_BUG:
            run.error = st.rc[j]                # a crash: the machine stays as it was before that step
            st.rc[j] = -EAGAIN
        set_result(mv, slots[j], st.rc[j])
        if st.rc[j] == -EAGAIN and PMG_GUARD(GUARD_RETRY):
            keep_page(mv, left, st.src[j], slots[j])
        else:
            run.failed += 1
            putback_lru_page(c, st.src[j])


cdef uint64_t one_pass(ctx_t *c, moves_t *mv, uint64_t n, uint32_t force, run_t *run) noexcept nogil:
    """Run one pass over the first ``n`` pages; return how many are left at the front."""
    cdef stage_t st
    cdef uint32_t slots[64]
    cdef uint64_t i = 0, left = 0
    cdef uint32_t j, width, looked
    cdef bint alike = mv.nodes == NULL and mv.nid >= 0 and takes_at_once(c, mv.nid)
    while i < n and not run.error:
        # One page at a time when waiting, and near the end of memory, where a page may need the frame freed before it.
        width = 1 if force or short_of_frames(c.m, c.m.width) else c.m.width
        st.n = <uint32_t> min(n - i, <uint64_t> width)
        for j in range(st.n):
            st.src[j] = mv.pfns[i + j]
            st.open[j] = 0
        at_step(c, STEP_ISOLATE, &st)
        looked = take_alike(c, mv, &st, slots, i) if alike else 0
        if looked == 0:
            looked = take_targets(c, mv, &st, slots, i, run)
        if st.n:
            stage_take(c, &st, mv.keep, force)
            stage_move(c, &st)
            stage_end(c, &st, True)
            settle_stage(c, mv, &st, slots, &left, run)
            heed_abort(c, run)
        i += looked
    while i < n:                                # the run ended: these were not tried in this pass
        keep_page(mv, &left, mv.pfns[i], slot_of(mv, i))
        i += 1
    return left


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
        if pass_:
            pause_pass(c)
        left = one_pass(c, mv, left, wait_flags(c.m, pass_), run)
    run.failed += left
    putback_all(c, mv.pfns, left)
    free(own)
    count_event(c, C_PGMIGRATE_SUCCESS, run.succeeded)
    count_event(c, C_PGMIGRATE_FAIL, run.failed)


# -- any target --------------------------------------------------------------------------------------------------------


cdef int64_t new_target_page(ctx_t *c, uint32_t pfn, uint32_t slot, const void *private_) noexcept nogil:
    """Allocate a target: ``new_node_page``, and its counterparts of other callers."""
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


cdef void migrate_pages_each_to(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *t, run_t *run) noexcept nogil:
    cdef moves_t mv
    mv.pfns = pfns
    mv.slots = NULL
    mv.n = n
    mv.get_new_page = new_target_page
    mv.nodes = NULL
    mv.nid = t.nid
    mv.keep = t.keep
    mv.private_ = t
    mv.result = NULL
    migrate_pages_each(c, &mv, run)
