"""migrate_pages() of every kernel, built from the stages: passes, batches, four lists, one page at a time.

Today's kernels take one list: 6.1 page by page, from 6.3 on in batches.  Of the kernels of 2006, 2.6.17 takes four lists,
2.6.18 one list and an allocator, and pmig arrays.
"""
from libc.errno cimport EAGAIN, ENOMEM
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memmove, memset

from pagemig.mm.atomic cimport GUARD_FREED, GUARD_RETRY, PMG_GUARD, pmg_load, pmg_load32, pmg_load_acq, pmg_prefetchw
from pagemig.mm.context cimport LOOK_EVERY, look_sooner, signal_pending
from pagemig.mm.filemap cimport has_migratepage
from pagemig.mm.frame cimport frame_maps, page_count, page_state
from pagemig.mm.mempolicy cimport alloc_page_vma
from pagemig.mm.migrate_stage cimport (
    AHEAD, AT_LOCK, at_step, chunk_of, code_collect, code_run, code_stage, collect, collect_t, DONE, heed_abort, HELD,
    in_batches, isolate_lru_page, load_stage, new_page, one_page, PAUSE_COPIED, pause_pass, PAUSE_STAGE, PAUSE_UNMAPPED,
    putback_all, putback_lru_page, run_begin, run_stage, run_t, short_of_frames, STAGE_ALONE, stage_end, stage_goes_on,
    STAGE_IN_BATCH, stage_is_of, stage_move, STAGE_OVER, stage_t, stage_take, stage_unmap, STAGE_UNMAPPED, steps_show,
    TARGET_NEAREST, target_t, wait_flags, WAIT_FOR_ALL,
)
from pagemig.mm.notify cimport chosen_node, flush_batch, hears_target
from pagemig.mm.page_alloc cimport (
    alloc_page, alloc_pages_bulk, alloc_pages_node, count_event, file_of, free_pages, page_to_nid, vma_of,
)
from pagemig.mm.place cimport (
    code_flag, code_nid, code_pfn, code_u32, code_u64, code_words, coder_t, HELD_LOCKED, HELD_TARGET, holds, holds_list,
    place_enter, place_leave, place_resumes, stop_short, WAY_FREE, WAY_NAME, WAY_READ, wrong,
)
from pagemig.mm.rmap cimport lru_cache_disable, lru_cache_enable
from pagemig.mm.swap_state cimport slots_at_hand
from pagemig.mm.trace cimport STEP_ALLOC, STEP_ISOLATE
from pagemig.mm.types cimport (
    C_PGMIGRATE_FAIL, C_PGMIGRATE_SUCCESS, C_TLB_FLUSH, ctx_t, frame_t, KEEP_REFCOUNT, machine_t, PG_cached, PG_dirty,
    PG_isolated, PG_private, PMG_BUG, REF_ONE, STAGE, vma_t,
)
from pagemig.mm.vmscan cimport EVICT_BEGINS, evict_one, EVICT_WRITES


cdef enum chunk_at_t:
    BETWEEN                     # between two stages or passes
    IN_STAGE
    IN_COLLECT


cdef struct chunk_t:            # locals of migrate_chunk()
    uint32_t *pfns
    uint64_t n, i, left         # pages of this pass, of these tried, and of these to retry
    uint32_t pass_
    uint32_t at                 # chunk_at_t
    stage_t st


cdef void code_chunk(coder_t *w, void *locals) noexcept nogil:
    cdef chunk_t *k = <chunk_t *> locals
    if w.way == WAY_READ:
        k.pfns = w.pfns
    code_u64(w, &k.n, w.pages)
    code_u64(w, &k.i, k.n)
    code_u64(w, &k.left, k.i)
    code_u32(w, &k.pass_, w.m.profile.passes)
    code_u32(w, &k.at, IN_COLLECT + 1)
    if in_batches(w.m):
        wrong(w)
    if k.at != BETWEEN:
        code_stage(w, &k.st, STAGE_ALONE if k.at == IN_STAGE else STAGE_OVER)
    if k.at == IN_STAGE and (
            k.st.n > k.n - k.i or w.way == WAY_READ and not stage_is_of(&k.st, k.pfns + k.i, k.st.n, NULL, NULL)):
        wrong(w)
    holds_list(w, k.pfns, 0, k.left)
    holds_list(w, k.pfns, k.i + (k.st.n if k.at == IN_STAGE else 0), k.n)
    if k.at == IN_COLLECT:
        if k.st.n > k.i - k.left:
            wrong(w)
        w.pfns = k.pfns + k.left
        w.stage = &k.st
        w.inner = code_collect
        w.size = sizeof(collect_t)


cdef void chunk_stage(ctx_t *c, chunk_t *k, const target_t *t, run_t *run) noexcept nogil:
    """Migrate one stage; -ENOMEM if its first page gets no target."""
    cdef uint32_t force = WAIT_FOR_ALL if k.pass_ >= c.m.profile.force_pass else 0
    if k.at == BETWEEN:
        load_stage(c, &k.st, t, k.pfns + k.i, k.n - k.i)
        k.at = IN_STAGE
        run_stage(c, &k.st, t, force)
    elif k.at == IN_STAGE:
        stage_goes_on(c, &k.st, force)
    if k.st.n == 0:
        run.error = -ENOMEM
    else:
        k.i += k.st.n if k.at == IN_STAGE else 0
        k.at = IN_COLLECT
        k.left += collect(c, &k.st, t, k.pfns + k.left, run)
        heed_abort(c, run)
    k.at = BETWEEN


cdef void chunk_gives_up(chunk_t *k, run_t *run) noexcept nogil:
    """Count the page without a target and the pages to retry as failed; keep the rest of the list."""
    run.failed += 1 + k.left
    while k.i < k.n:
        k.pfns[k.left] = k.pfns[k.i]
        k.left += 1
        k.i += 1


cdef uint64_t migrate_chunk(
        ctx_t *c, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *t, run_t *run) noexcept nogil:
    """Run all passes over at most a chunk of pages; return how many are left, compacted to the front.

    The first ``tried`` pages have had their first pass.
    """
    cdef chunk_t k
    if not place_enter(c, code_chunk, &k, sizeof(k)):
        k.pass_ = 0
        k.n = n
        k.i = k.left = tried
        k.at = BETWEEN
    k.pfns = pfns
    while True:
        while k.i < k.n and not run.error:
            chunk_stage(c, &k, t, run)
        if run.error:
            chunk_gives_up(&k, run)
            break
        k.pass_ += 1
        if k.left == 0 or k.pass_ >= c.m.profile.passes:
            run.failed += k.left
            break
        k.n = k.left
        k.i = k.left = 0
        pause_pass(c)
    place_leave(c)
    return k.left


cdef enum:
    BATCH_ROOM = 8              # initial capacity of a batch, in stages
    MANY = 0x7fffffff           # limit for values loaded


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
    st.held = hold(st, rc, HELD)
    if st.held == st.n:
        return 0
    stage_end(c, st, st.held == 0)
    return settled(st, keep, run)


cdef uint64_t settled(stage_t *st, uint32_t *keep, run_t *run) noexcept nogil:
    cdef uint64_t left = 0
    cdef uint32_t i, moved
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


cdef struct batched_t:          # locals of migrate_pages_batch()
    uint32_t *pfns
    batch_t *b
    uint64_t n, i, left         # of this pass of unmapping, as in chunk_t
    uint64_t unmoved            # after the pages left: those unmapped that could not be moved
    uint32_t k, held            # of this pass of moving: stages tried, and pages that stay unmapped
    uint32_t pass_
    bint moving
    bint in_stage               # stopped in the stage after the last, or while moving in stage k


cdef void code_stages(coder_t *w, batched_t *k) noexcept nogil:
    """Code the stages of the batch, and the one that is being unmapped to join it."""
    cdef batch_t *b = k.b
    cdef uint32_t i, n
    if w.way == WAY_READ:
        k.b = b = <batch_t *> calloc(1, sizeof(batch_t))
        if b == NULL:
            wrong(w)
            return
    code_u32(w, &b.n, w.m.profile.batch + 1)
    n = b.n + (k.in_stage and not k.moving)
    if w.way == WAY_READ and n and w.why == NULL:
        b.stage = <stage_t *> calloc(n, sizeof(stage_t))
        b.cap = n
        if b.stage == NULL:
            wrong(w)
    for i in range(n):
        if w.why == NULL:
            code_stage(w, &b.stage[i], STAGE_IN_BATCH if k.in_stage and i == (k.k if k.moving else b.n) else STAGE_UNMAPPED)


cdef uint64_t pages_in(const batched_t *k) noexcept nogil:
    """Count the pages in the stages of the batch: all of them may return to the list."""
    cdef uint64_t n = 0
    cdef uint32_t i, j
    for i in range(k.b.n):
        for j in range(k.b.stage[i].n):
            n += k.b.stage[i].rc[j] != DONE
    return n


cdef bint batch_is_sound(coder_t *w, const batched_t *k) noexcept nogil:
    cdef uint64_t joining = 0, held = 0
    cdef uint32_t i
    if k.k > k.b.n:
        return False
    for i in range(k.k):
        held += k.b.stage[i].held
    if k.held != held or (not k.moving and k.k):
        return False
    if (k.moving and (k.i != k.n or (k.in_stage and k.k == k.b.n))):
        return False
    if k.in_stage and not k.moving:
        joining = k.b.stage[k.b.n].n
    if k.in_stage and k.b.stage[k.k if k.moving else k.b.n].at == (AT_LOCK if k.moving else PAUSE_COPIED):
        return False
    return joining <= k.n - k.i and k.left + k.unmoved + pages_in(k) <= w.capacity


cdef void code_batch(coder_t *w, void *locals) noexcept nogil:
    cdef batched_t *k = <batched_t *> locals
    cdef uint64_t joining
    if w.way == WAY_FREE:
        if k.b != NULL:
            free(k.b.stage)
        free(k.b)
        return
    if w.way == WAY_READ:
        k.pfns = w.pfns
        if not in_batches(w.m):
            wrong(w)
    code_u64(w, &k.n, w.pages)
    code_u64(w, &k.i, k.n)
    code_u64(w, &k.left, k.i)
    code_u64(w, &k.unmoved, w.capacity - k.left)
    code_u32(w, &k.pass_, w.passes)
    code_u32(w, &k.k, MANY)
    code_u32(w, &k.held, MANY)
    code_flag(w, &k.moving)
    code_flag(w, &k.in_stage)
    if w.why == NULL:
        code_stages(w, k)
    if w.way == WAY_READ and w.why == NULL and not batch_is_sound(w, k):
        wrong(w)
    if w.why != NULL:
        return
    joining = k.b.stage[k.b.n].n if k.in_stage and not k.moving else 0
    if w.way == WAY_READ and joining and not stage_is_of(&k.b.stage[k.b.n], k.pfns + k.i, joining, NULL, NULL):
        wrong(w)
        return
    holds_list(w, k.pfns, 0, k.left + k.unmoved)
    if not k.moving:
        holds_list(w, k.pfns, k.i + joining, k.n)


cdef enum sync_at_t:
    TOGETHER
    ALONE


cdef struct sync_t:             # locals of migrate_pages_sync()
    uint32_t *pfns
    run_t first                 # result of the pages together
    uint64_t together, i, left  # pages left by that, of these tried alone, and of these left
    uint32_t at                 # sync_at_t


cdef void code_sync(coder_t *w, void *locals) noexcept nogil:
    cdef sync_t *k = <sync_t *> locals
    if w.way == WAY_READ:
        k.pfns = w.pfns
    code_run(w, &k.first)
    code_u64(w, &k.together, w.capacity)
    code_u64(w, &k.i, k.together)
    code_u64(w, &k.left, k.i)
    code_u32(w, &k.at, ALONE + 1)
    if k.at == ALONE:
        if w.way == WAY_READ and (k.i == k.together or k.first.error):
            wrong(w)
        holds_list(w, k.pfns, 0, k.left)
        holds_list(w, k.pfns, k.i + 1, k.together)
        w.pfns = k.pfns + k.left
        w.pages = w.capacity = 1
    w.passes = w.m.profile.async_passes if w.m.profile.async_first and k.at == TOGETHER else w.m.profile.passes
    w.inner = code_batch
    w.size = sizeof(batched_t)


cdef void unmap_stage(ctx_t *c, batched_t *k, const target_t *t, uint32_t force, run_t *run) noexcept nogil:
    cdef batch_t *b = k.b
    cdef stage_t *st
    if k.in_stage:                              # resumed
        st = &b.stage[b.n]
        stage_goes_on(c, st, force)
    else:
        st = batch_room(b)
        if st != NULL:
            load_stage(c, st, t, k.pfns + k.i, k.n - k.i)
            k.in_stage = True
            st.at = 0
            stage_unmap(c, st, t, force)
    if st == NULL or st.n == 0:
        run.error = -ENOMEM
    else:
        k.left += settled(st, k.pfns + k.left, run) if st.at == PAUSE_STAGE else settle(c, st, 0, k.pfns + k.left, run)
        k.i += st.n
        b.n += st.held != 0
    k.in_stage = False


cdef void unmap_batch(
        ctx_t *c, batched_t *k, const target_t *t, uint32_t passes, uint32_t force, run_t *run) noexcept nogil:
    """Run the passes that unmap; pages not unmapped are compacted to the front.

    When no target can be allocated, no further page is tried, but pages already unmapped will be moved.
    """
    while True:
        while k.i < k.n and not run.error:
            unmap_stage(c, k, t, force, run)
        if run.error:
            run.failed += 1 + k.left
            while k.i < k.n:
                k.pfns[k.left] = k.pfns[k.i]
                k.left += 1
                k.i += 1
            return
        k.pass_ += 1
        if k.left == 0 or k.pass_ >= passes:
            run.failed += k.left
            return
        k.n = k.left
        k.i = k.left = 0
        pause_pass(c)


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


cdef void move_stage(ctx_t *c, batched_t *k, bint last, run_t *run) noexcept nogil:
    cdef stage_t *st = &k.b.stage[k.k]
    cdef uint32_t *keep = k.pfns + k.left + k.unmoved
    if not k.in_stage:
        fetch_stage(c.m, st)
        hold(st, HELD, 0)
        k.in_stage = True
        st.at = 0
        stage_move(c, st)
    k.unmoved += settled(st, keep, run) if st.at == PAUSE_STAGE else settle(c, st, HELD if last else -EAGAIN, keep, run)
    k.in_stage = False
    k.held += st.held


cdef void move_batch(ctx_t *c, batched_t *k, uint32_t passes, run_t *run) noexcept nogil:
    """Run the passes that move unmapped pages; those that fail are restored after the last."""
    while k.pass_ < passes:
        while k.k < k.b.n:
            if k.in_stage or k.b.stage[k.k].held:
                move_stage(c, k, k.pass_ + 1 >= passes, run)
            k.k += 1
        if k.held == 0:
            break
        k.held = k.k = 0
        k.pass_ += 1
    run.failed += k.unmoved


cdef uint64_t migrate_pages_batch(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *t, uint32_t passes,
        uint32_t force, run_t *run) noexcept nogil:
    """Unmap and move at most a batch of pages; return how many are left, compacted to the front.

    The first ``tried`` pages have had their first pass.
    """
    cdef batched_t k
    if place_enter(c, code_batch, &k, sizeof(k)):
        b[0] = k.b[0]
        free(k.b)
    else:
        memset(&k, 0, sizeof(k))
        k.n = n
        k.i = k.left = tried
    k.pfns = pfns
    k.b = b
    if not k.moving:
        if run.error:                           # the pass that ran ahead got no target
            k.left = k.i = n
        else:
            unmap_batch(c, &k, t, passes, force, run)
        k.moving = True
        k.pass_ = 0
        count_event(c, C_TLB_FLUSH, b.n != 0)
        flush_batch(c)
        pause_batch(c, b)
    move_batch(c, &k, passes, run)
    b.n = 0
    place_leave(c)
    return k.left + k.unmoved


cdef uint64_t one_by_one(ctx_t *c, batch_t *b, sync_t *k, const target_t *t, run_t *run) noexcept nogil:
    """Migrate the pages left by the batch one by one, with waiting; return how many are left."""
    while k.i < k.together:
        if run.error and k.at != ALONE:
            k.pfns[k.left] = k.pfns[k.i]
            k.left += 1
        else:
            if k.at != ALONE:
                k.pfns[k.left] = k.pfns[k.i]
            k.at = ALONE
            k.left += migrate_pages_batch(c, b, k.pfns + k.left, 1, 0, t, c.m.profile.passes, WAIT_FOR_ALL, run)
            heed_abort(c, run)
            k.at = TOGETHER
        k.i += 1
    return k.left


cdef uint64_t migrate_pages_sync(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *t,
        run_t *run) noexcept nogil:
    """Migrate all pages together without waiting, then the rest one by one with waiting; only these failures count."""
    cdef sync_t k
    if not place_enter(c, code_sync, &k, sizeof(k)):
        run_begin(&k.first)
        k.first.error = run.error
        k.i = k.left = k.together = 0
        k.at = TOGETHER
    k.pfns = pfns
    if not c.m.profile.async_first:             # an asynchronous caller: all passes without waiting
        k.left = migrate_pages_batch(c, b, pfns, n, tried, t, c.m.profile.passes, 0, run)
        heed_abort(c, run)
    else:
        if k.at == TOGETHER:
            k.together = migrate_pages_batch(c, b, pfns, n, tried, t, c.m.profile.async_passes, 0, &k.first)
            run.succeeded += k.first.succeeded
        if k.first.error:
            run.error = k.first.error
            run.failed += k.first.failed
            k.left = k.together
        else:
            if k.at == TOGETHER:
                heed_abort(c, run)
            k.left = one_by_one(c, b, &k, t, run)
    place_leave(c)
    return k.left


cdef void migrate_pages(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *target, run_t *run) noexcept nogil:
    cdef batch_t b
    if not place_resumes(c):
        run_begin(run)
    if n >= LOOK_EVERY:
        look_sooner(c)              # frames of the target may be new to the host
    if c.m.profile.four_lists:
        migrate_pages_to(c, pfns, n, target, run)
    elif c.m.profile.page_results:
        migrate_pages_each_to(c, pfns, n, target, run)
    else:
        batch_begin(&b)
        finish_run(c, &b, pfns, n, 0, target, run)
        free(b.stage)


cdef void code_migrate(coder_t *w) noexcept nogil:
    """Set the function that migrate_pages() calls on this kernel."""
    if w.m.profile.four_lists:
        w.inner = code_to
        w.size = sizeof(to_t)
    elif w.m.profile.page_results:
        w.inner = code_each
        w.size = sizeof(each_t)
    else:
        w.inner = code_finish
        w.size = sizeof(finish_t)


cdef void migrate_chunk_or_batch(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *target,
        run_t *run) noexcept nogil:
    cdef uint64_t left
    if run.error and b.n == 0 and not place_resumes(c):
        left = n
    elif in_batches(c.m):
        left = migrate_pages_sync(c, b, pfns, n, tried, target, run)
    else:
        left = migrate_chunk(c, pfns, n, tried, target, run)
    b.pages = 0
    putback_all(c, pfns, left)


cdef void code_chunk_or_batch(coder_t *w) noexcept nogil:
    if in_batches(w.m):
        w.inner = code_sync
        w.size = sizeof(sync_t)
    else:
        w.inner = code_chunk
        w.size = sizeof(chunk_t)


cdef void code_finish(coder_t *w, void *locals) noexcept nogil:
    cdef finish_t *f = <finish_t *> locals
    if w.way == WAY_READ:
        f.pfns = w.pfns
    code_u64(w, &f.n, w.pages)
    code_u64(w, &f.tried, f.n)
    code_u64(w, &f.i, f.n)
    code_u64(w, &f.k, f.n - f.i)
    holds_list(w, f.pfns, f.i + f.k, f.n)
    w.pfns = f.pfns + f.i
    w.pages = f.k
    w.capacity -= f.i
    code_chunk_or_batch(w)


cdef void finish_run(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *target,
        run_t *run) noexcept nogil:
    cdef finish_t f
    cdef bint again = place_enter(c, code_finish, &f, sizeof(f))
    if not again:
        f.n = n
        f.tried = tried
        f.i = 0
    f.pfns = pfns
    while again or f.i < f.n or b.n:
        if not again:
            # of a batch that is unmapped in part, pages that have had their first pass belong to it too
            f.k = min(f.n - f.i, <uint64_t> chunk_of(c.m) - b.pages + (f.tried if b.pages else 0))
        again = False
        migrate_chunk_or_batch(c, b, pfns + f.i, f.k, min(f.tried - min(f.tried, f.i), f.k), target, run)
        f.i += f.k
    count_event(c, C_PGMIGRATE_SUCCESS, run.succeeded)
    count_event(c, C_PGMIGRATE_FAIL, run.failed)
    place_leave(c)


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


cdef struct listed_t:           # locals of list_pass()
    lists_t *lists
    uint64_t i, left            # pages tried, and of these to retry
    bint in_stage
    uint32_t evicts             # EVICT_*: where page i waits to be evicted
    stage_t st


cdef void code_listed(coder_t *w, void *locals) noexcept nogil:
    cdef listed_t *k = <listed_t *> locals
    cdef lists_t *lists
    cdef uint64_t at_work = 0, used = 0
    cdef uint32_t i
    if w.way == WAY_READ:
        k.lists = <lists_t *> w.lists
    lists = k.lists
    code_u64(w, &k.i, lists.n)
    code_u64(w, &k.left, k.i)
    code_flag(w, &k.in_stage)
    if k.in_stage:
        code_stage(w, &k.st, STAGE_ALONE)
        at_work = k.st.n
        for i in range(k.st.n):
            used += k.st.at != PAUSE_STAGE or k.st.rc[i] == 0
    else:
        code_u32(w, &k.evicts, EVICT_WRITES + 1)
        at_work = k.evicts == EVICT_WRITES
        if k.evicts == EVICT_BEGINS:            # nothing else stops here
            stop_short(w)
    if w.way == WAY_READ and (w.why != NULL or at_work > lists.n - k.i or at_work > lists.nr_to or used > lists.nr_to or
                              at_work + lists.nr_moved > w.entries or at_work + lists.nr_failed > w.entries):
        wrong(w)
        return
    if k.evicts == EVICT_WRITES and w.way != WAY_FREE:
        holds(w, HELD_LOCKED, lists.source[k.i], 0)
    holds_list(w, lists.source, 0, k.left)
    holds_list(w, lists.source, k.i + at_work, lists.n)
    holds_targets(w, lists.to, lists.nr_to - used)


cdef void holds_targets(coder_t *w, const uint32_t *pfns, uint64_t n) noexcept nogil:
    cdef uint64_t i
    for i in range(n if w.way == WAY_NAME else 0):
        holds(w, HELD_TARGET, pfns[i], 1)


cdef void handle_listed(ctx_t *c, listed_t *k, uint32_t force, bint last_resort) noexcept nogil:
    """Migrate one stage of a pass.  The stage is empty if no target is left, or if the call must end."""
    cdef lists_t *lists = k.lists
    cdef uint32_t i
    if k.evicts:                                # resumed
        one_page(&k.st, lists.source[k.i])
        k.st.rc[0] = evict_one(c, k.st.src[0], force, &k.evicts)
        return
    if k.in_stage:                              # resumed
        stage_goes_on(c, &k.st, force)
        for i in range(k.st.n):
            lists.nr_to -= k.st.rc[i] == 0
    else:
        take_listed(c, lists, k.i, 1 if last_resort or lists.to == NULL else list_width(c, lists, force), &k.st)
        at_step(c, STEP_ISOLATE, &k.st)
        if page_count(c.m, k.st.src[0]) == 1 and PMG_GUARD(GUARD_FREED):
            k.st.n = 1
            k.st.rc[0] = 1                      # freed meanwhile
        elif lists.to == NULL:
            at_step(c, STEP_ALLOC, &k.st)
            k.st.rc[0] = evict_one(c, k.st.src[0], force, &k.evicts)
        elif lists.nr_to == 0 or c.abort:
            k.st.n = 0
            return
        else:
            k.in_stage = True
            move_listed(c, lists, &k.st, force)
    if k.in_stage and last_resort and k.st.rc[0] == -EAGAIN and has_stuck_buffers(c, k.st.src[0]):
        k.in_stage = False
        k.st.rc[0] = evict_one(c, k.st.src[0], force, &k.evicts)
    k.in_stage = False


cdef uint64_t list_pass(ctx_t *c, lists_t *l, uint32_t pass_) noexcept nogil:
    """Run one pass and return how many pages to retry; it ends early when ``to`` is used up."""
    cdef uint32_t force = wait_flags(c.m, pass_), i
    cdef bint last_resort = c.m.profile.engine == 1 and pass_ > LAST_RESORT
    cdef listed_t k
    if not place_enter(c, code_listed, &k, sizeof(k)):
        k.i = k.left = 0
        k.in_stage = False
        k.evicts = EVICT_BEGINS
    k.lists = l
    while k.in_stage or k.evicts or (k.i < l.n and not signal_pending(c, 1)):
        handle_listed(c, &k, force, last_resort)
        if k.st.n == 0:
            break
        for i in range(k.st.n):
            settle_listed(l, &k.left, k.st.src[i], k.st.rc[i])
        k.i += k.st.n
    # Pages to retry join those not reached, which stay in place: they are many, and all chunks share one list.
    memmove(l.source + k.i - k.left, l.source, k.left * sizeof(uint32_t))
    l.source += k.i - k.left
    l.n -= k.i - k.left
    place_leave(c)
    return k.left


cdef struct passes_t:           # locals of migrate_page_lists()
    lists_t *lists
    uint32_t pass_
    bint in_pass


cdef void code_passes(coder_t *w, void *locals) noexcept nogil:
    cdef passes_t *k = <passes_t *> locals
    if w.way == WAY_READ:
        k.lists = <lists_t *> w.lists
    code_u32(w, &k.pass_, w.m.profile.passes)
    code_flag(w, &k.in_pass)
    if k.in_pass:
        w.inner = code_listed
        w.size = sizeof(listed_t)
    else:
        holds_list(w, k.lists.source, 0, k.lists.n)
        holds_targets(w, k.lists.to, k.lists.nr_to)


cdef uint64_t migrate_page_lists(ctx_t *c, lists_t *l) noexcept nogil:
    cdef passes_t k
    cdef uint64_t retry = 0
    if not place_enter(c, code_passes, &k, sizeof(k)):
        l.nr_moved = 0
        l.nr_failed = 0
        k.pass_ = 0
    k.lists = l
    while True:
        k.in_pass = True
        retry = list_pass(c, l, k.pass_)
        k.in_pass = False
        k.pass_ += 1
        if retry == 0 or k.pass_ >= c.m.profile.passes:
            break
        pause_pass(c)
    place_leave(c)
    return l.nr_failed + retry


cdef inline bint takes_at_once(ctx_t *c, int32_t nid) noexcept nogil:
    """Whether frames of a node can be allocated together: no watermark and no callback of the host applies to each."""
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
        if signal_pending(c, 1):
            break
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


cdef void listed_one(one_t *k) noexcept nogil:
    k.lists.source = &k.pfn
    k.lists.to = &k.to
    k.lists.moved = &k.moved
    k.lists.failed = &k.failed
    k.lists.keep.how = KEEP_REFCOUNT


cdef void code_one(coder_t *w, void *locals) noexcept nogil:
    cdef one_t *k = <one_t *> locals
    if w.way == WAY_READ:
        listed_one(k)
        k.lists.n = k.lists.nr_to = 1
    code_pfn(w, &k.pfn)
    code_pfn(w, &k.to)
    code_nid(w, &k.nid)
    w.lists = &k.lists
    w.entries = 1
    w.inner = code_passes
    w.size = sizeof(passes_t)


cdef int32_t migrate_one_page(ctx_t *c, uint32_t pfn, int32_t nid) noexcept nogil:
    cdef one_t k
    if not place_enter(c, code_one, &k, sizeof(k)):
        k.pfn = pfn
        k.to = target_ahead(c, NULL, pfn, 0, nid)
        if k.to == 0:
            place_leave(c)
            putback_lru_page(c, pfn)
            return -ENOMEM
        k.nid = page_to_nid(c.m, k.to)  # another node if that one is full
        k.lists.n = k.lists.nr_to = 1
    listed_one(&k)
    migrate_page_lists(c, &k.lists)
    place_leave(c)
    count_event(c, C_PGMIGRATE_SUCCESS, k.lists.nr_moved)
    count_event(c, C_PGMIGRATE_FAIL, 1 - k.lists.nr_moved)
    lists_putback(c, &k.lists)
    return k.nid if k.lists.nr_moved else -EAGAIN


cdef uint64_t targets_at_once(ctx_t *c, const target_t *t, uint32_t *to, uint64_t want) noexcept nogil:
    """Allocate on one node the frames that target_ahead() would, while the node has free frames."""
    cdef uint64_t n = 0
    cdef uint32_t got = 1
    if t.nid < 0 or t.vma or not takes_at_once(c, t.nid):
        return 0
    while got and n < want:
        got = alloc_pages_bulk(c, t.nid, <uint32_t> (want - n), to + n)
        n += got
    return n


cdef struct to_t:               # locals of migrate_pages_to()
    lists_t lists
    uint32_t *pfns
    uint32_t *room              # one allocation: targets, pages moved, pages that failed
    uint64_t n
    uint64_t offset             # targets allocated, see target_ahead()
    uint64_t nr_failed          # in earlier chunks


cdef bint make_room(to_t *k, uint32_t *pfns, uint64_t n) noexcept nogil:
    k.pfns = pfns
    k.n = n
    k.room = <uint32_t *> malloc((MIGRATE_CHUNK_SIZE + 1 + 2 * n) * 4)
    k.lists.to = k.room
    k.lists.moved = k.room + MIGRATE_CHUNK_SIZE + 1
    return k.room != NULL


cdef inline uint32_t *failed_of(to_t *k) noexcept nogil:
    return k.lists.moved + k.n


cdef void code_frames(coder_t *w, uint32_t *pfns, uint64_t n) noexcept nogil:
    cdef uint64_t i
    for i in range(n):
        code_pfn(w, &pfns[i])


cdef void code_to(coder_t *w, void *locals) noexcept nogil:
    cdef to_t *k = <to_t *> locals
    cdef uint64_t done
    if w.way == WAY_FREE:
        free(k.room)
        return
    if w.way == WAY_READ and not make_room(k, w.pfns, w.pages):
        w.why = b""
        return
    done = <uint64_t> (k.lists.source - k.pfns) if w.way != WAY_READ else 0
    code_u64(w, &done, k.n)
    code_u64(w, &k.lists.n, k.n - done)
    code_u64(w, &k.offset, MANY)
    code_u64(w, &k.lists.nr_to, MIGRATE_CHUNK_SIZE + 1)
    code_u64(w, &k.lists.nr_moved, k.n)
    code_u64(w, &k.nr_failed, k.n)
    code_u64(w, &k.lists.nr_failed, k.n - k.nr_failed)
    code_frames(w, k.lists.to, k.lists.nr_to)
    code_frames(w, k.lists.moved, k.lists.nr_moved)
    code_frames(w, failed_of(k), k.nr_failed + k.lists.nr_failed)
    if w.way == WAY_READ:
        k.lists.source = k.pfns + done
        k.lists.failed = failed_of(k) + k.nr_failed
        k.lists.keep.how = KEEP_REFCOUNT
    holds_list(w, k.lists.moved, 0, k.lists.nr_moved)
    holds_list(w, failed_of(k), 0, k.nr_failed + k.lists.nr_failed)
    w.lists = &k.lists
    w.entries = k.n - k.nr_failed
    w.inner = code_passes
    w.size = sizeof(passes_t)


cdef int one_chunk(ctx_t *c, to_t *k, const target_t *t, run_t *run) noexcept nogil:
    """Allocate targets for one chunk and migrate it; 1: every page got a target and more pages are left."""
    cdef lists_t *lists = &k.lists
    cdef uint64_t i, want = min(lists.n, <uint64_t> (MIGRATE_CHUNK_SIZE + 1))
    if not place_resumes(c):
        lists.failed = failed_of(k) + k.nr_failed
        lists.nr_failed = 0
        lists.nr_moved = 0
        lists.nr_to = targets_at_once(c, t, lists.to, want)
        k.offset += lists.nr_to
        for i in range(lists.nr_to, want):
            lists.to[i] = target_ahead(c, t, lists.source[i], k.offset, t.nid)
            if lists.to[i] == 0:
                run.error = -ENOMEM
                break
            k.offset += 1
            lists.nr_to += 1
    if run.error == 0:
        migrate_page_lists(c, lists)
        run.succeeded += putback_moved(c, lists.moved, lists.nr_moved)
        heed_abort(c, run)
    return run.error == 0 and lists.nr_to == 0 and lists.n


cdef int migrate_pages_to(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *t, run_t *run) noexcept nogil:
    """Migrate chunk by chunk; pages that failed are set aside and put back at the end."""
    cdef to_t k
    if not place_enter(c, code_to, &k, sizeof(k)):
        if not make_room(&k, pfns, n):
            place_leave(c)
            run.error = -ENOMEM
            putback_all(c, pfns, n)
            return -ENOMEM
        k.lists.source = pfns
        k.lists.n = n
        k.lists.keep = t.keep
        k.offset = k.nr_failed = 0
    while one_chunk(c, &k, t, run):
        k.nr_failed += k.lists.nr_failed
    place_leave(c)
    k.nr_failed += k.lists.nr_failed
    if k.lists.nr_to:
        free_pages(c, k.lists.to, <uint32_t> k.lists.nr_to)
    run.failed = k.nr_failed + k.lists.n
    putback_all(c, failed_of(&k), k.nr_failed)
    putback_all(c, k.lists.source, k.lists.n)
    free(k.room)
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


cdef inline int32_t node_alone(moves_t *mv, uint32_t slot, bint arrays) noexcept nogil:
    """Get the node on which a frame is all that get_new_page allocates; -1: it does more, or chooses by policy."""
    return -1 if mv.nodes != NULL and not arrays else wanted_node(mv, slot)


cdef uint32_t take_alike(ctx_t *c, moves_t *mv, stage_t *st, uint32_t *slots, uint64_t i) noexcept nogil:
    """take_targets() in one call of the allocator, for pages that all go to one node with free frames and are not on it.

    Allocates the same frames.  Returns 0 without allocating if take_targets() is needed.
    """
    cdef const uint32_t *pfns = mv.pfns + i
    cdef bint arrays = c.m.profile.arrays != 0
    cdef int32_t nid = node_alone(mv, slot_of(mv, i), arrays)
    cdef uint64_t first, size
    cdef uint32_t j, n = 0
    if nid < 0 or not takes_at_once(c, nid):
        return 0
    first = c.m.node[nid].first
    size = c.m.node[nid].end - first
    while n < st.n and pfns[n] - first >= size:
        if wanted_node(mv, slot_of(mv, i + n)) != nid:
            return 0
        n += 1
    if n:
        n = alloc_pages_bulk(c, nid, n, st.dst)
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


cdef struct one_pass_t:         # locals of one_pass()
    moves_t *mv
    uint32_t *pfns              # mv.pfns
    uint64_t n, i, left         # pages of this pass, of these tried, and of these to retry
    uint32_t looked             # pages looked at for the stage; some may have no target
    bint in_stage
    uint32_t slots[64]
    stage_t st


cdef void code_one_pass(coder_t *w, void *locals) noexcept nogil:
    cdef one_pass_t *k = <one_pass_t *> locals
    cdef uint32_t i
    if w.way == WAY_READ:
        k.pfns = w.pfns
    code_u64(w, &k.n, w.pages)
    code_u64(w, &k.i, k.n)
    code_u64(w, &k.left, k.i)
    code_u32(w, &k.looked, STAGE + 1)
    code_flag(w, &k.in_stage)
    if not k.in_stage or w.why != NULL:
        wrong(w)
        return
    code_stage(w, &k.st, STAGE_ALONE)
    if w.way == WAY_READ and (w.why != NULL or k.looked > k.n - k.i):
        wrong(w)
        return
    for i in range(k.st.n):
        code_u32(w, &k.slots[i], w.entries)
    if w.way == WAY_READ and not stage_is_of(&k.st, k.pfns + k.i, k.looked, k.slots, w.slots + k.i):
        wrong(w)
    holds_list(w, k.pfns, 0, k.left)
    holds_list(w, k.pfns, k.i + k.looked, k.n)


cdef void move_some(ctx_t *c, one_pass_t *k, uint32_t force, run_t *run) noexcept nogil:
    """Migrate one stage of a pass."""
    cdef moves_t *mv = k.mv
    cdef stage_t *st = &k.st
    cdef uint32_t j, width
    if k.in_stage:                              # resumed
        stage_goes_on(c, st, force)
    else:
        # One page at a time when waiting, and near the end of memory, where a page may need the frame freed before it.
        width = 1 if force or short_of_frames(c.m, c.m.width) else c.m.width
        st.n = <uint32_t> min(k.n - k.i, <uint64_t> width)
        for j in range(st.n):
            st.src[j] = mv.pfns[k.i + j]
            st.open[j] = 0
        at_step(c, STEP_ISOLATE, st)
        k.looked = take_alike(c, mv, st, k.slots, k.i)
        if k.looked == 0:
            k.looked = take_targets(c, mv, st, k.slots, k.i, run)
        if st.n:
            k.in_stage = True
            stage_take(c, st, mv.keep, force)
            stage_move(c, st)
            stage_end(c, st, True)
    k.in_stage = False
    if st.n:
        settle_stage(c, mv, st, k.slots, &k.left, run)
        heed_abort(c, run)
    k.i += k.looked


cdef uint64_t one_pass(ctx_t *c, moves_t *mv, uint64_t n, uint32_t force, run_t *run) noexcept nogil:
    """Run one pass over the first ``n`` pages; return how many are left at the front."""
    cdef one_pass_t k
    if not place_enter(c, code_one_pass, &k, sizeof(k)):
        k.n = n
        k.i = k.left = 0
        k.in_stage = False
    k.mv = mv
    k.pfns = mv.pfns
    while k.in_stage or (k.i < k.n and not run.error):
        move_some(c, &k, force, run)
    while k.i < k.n:                            # the run ended: these were not tried in this pass
        keep_page(mv, &k.left, mv.pfns[k.i], slot_of(mv, k.i))
        k.i += 1
    place_leave(c)
    return k.left


cdef void code_each(coder_t *w, void *locals) noexcept nogil:
    cdef each_t *k = <each_t *> locals
    if w.way == WAY_READ:
        k.pfns = w.pfns
    code_u64(w, &k.n, w.pages)
    code_u64(w, &k.left, k.n)
    code_u32(w, &k.pass_, w.m.profile.passes)
    code_flag(w, &k.in_pass)
    if w.slots == NULL:
        code_words(w, &k.own, k.n, k.n, k.n)
        w.slots = k.own
        w.entries = k.n
    if k.in_pass:
        w.pages = k.left
        w.inner = code_one_pass
        w.size = sizeof(one_pass_t)
    else:
        holds_list(w, k.pfns, 0, k.left)


cdef bint number_slots(each_t *k) noexcept nogil:
    """Store the position of each page: the list is compacted later."""
    cdef uint64_t i
    k.own = <uint32_t *> malloc(k.n * 4)
    if k.own != NULL:
        for i in range(k.n):
            k.own[i] = <uint32_t> i
    return k.own != NULL


cdef void migrate_pages_each(ctx_t *c, moves_t *mv, run_t *run) noexcept nogil:
    cdef each_t k
    if not place_enter(c, code_each, &k, sizeof(k)):
        k.own = NULL
        k.pass_ = 0
        k.in_pass = False
        k.n = k.left = mv.n
        if mv.slots == NULL and not number_slots(&k):
            place_leave(c)
            run.error = -ENOMEM
            putback_all(c, mv.pfns, mv.n)
            return
    k.pfns = mv.pfns
    if mv.slots == NULL:
        mv.slots = k.own
    while k.in_pass or (k.pass_ < c.m.profile.passes and k.left and not run.error):
        k.in_pass = True
        k.left = one_pass(c, mv, k.left, wait_flags(c.m, k.pass_), run)
        k.in_pass = False
        k.pass_ += 1
        if k.left and not run.error and k.pass_ < c.m.profile.passes:
            pause_pass(c)
    place_leave(c)
    run.failed += k.left
    putback_all(c, mv.pfns, k.left)
    free(k.own)
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
