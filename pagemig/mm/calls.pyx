"""The NUMA system calls with their checks; move_pages, mbind and migrate_pages as today's kernels do them.

They queue pages for the engine in migrate.pyx.  A call isolates its whole list before it migrates it; where that makes no
observable difference, move_pages runs the first pass ahead, a stage at a time.
"""
from libc.errno cimport EACCES, EAGAIN, EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOMEM, ENOSYS, EPERM
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from pagemig.mm.atomic cimport (
    GUARD_MMAP_LOCK, PMG_GUARD, pmg_load, pmg_load32, pmg_prefetchw, pmg_spin_lock, pmg_spin_unlock, pmg_unlikely,
)
from pagemig.mm.calls_2006 cimport (
    asked_t, bind_t, bound_range_t, code_bind, code_bound_range, code_frame_list, code_pairs, code_request,
    do_migrate_pages_check_range, frame_list_t, frame_status, ISOLATED, mbind_check_range, migrate_frame_list,
    move_pages_whole_request, next_of_pairs, nodes_t, pair_is_over, pairs_begin, pairs_t,
)
from pagemig.mm.context cimport mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock, signal_pending
from pagemig.mm.cred cimport capable, get_target, put_target
from pagemig.mm.fork cimport get_task_mm, mmput
from pagemig.mm.frame cimport frame_maps, page_state
from pagemig.mm.gup cimport look_ahead, look_begin, look_page, look_pte, look_t, look_vma, pin_user_pages
from pagemig.mm.mempolicy cimport (
    get_task_policy, il_next, interleave_index, mpol_clear, mpol_new, sanitize_mpol_flags, vma_policy,
)
from pagemig.mm.migrate cimport (
    batch_begin, batch_room, batch_t, code_chunk_or_batch, code_finish, finish_run, finish_t, migrate_chunk_or_batch,
    unmap_ahead,
)
from pagemig.mm.migrate_stage cimport (
    AHEAD, chunk_of, code_run, code_target, collect, gather, gather_run, heed_abort, in_batches, interleaves,
    isolate_lru_page, page_in_vma, putback_lru_page, run_begin, run_stage, run_t, shift_stage, stage_room, stage_t,
    steps_show, target_begin, target_t, ungather, wait_flags, whole_index,
)
from pagemig.mm.mmap cimport home_node_range, mbind_range
from pagemig.mm.nodemask cimport nodes_absent, nodes_clear, nodes_weight
from pagemig.mm.page_alloc cimport count_event, mm_index, mm_of, page_to_nid, put_page, task_of, vec_at, vma_of
from pagemig.mm.place cimport (
    code_bytes, code_flag, code_i64, code_nid, code_pfn, code_u32, code_u64, code_words, coder_t, HELD_MMAP_READ,
    HELD_MMAP_WRITE, holds, holds_list, place_enter, place_leave, place_resumes, place_straight, stop_short, WAY_FREE,
    WAY_READ, wrong,
)
from pagemig.mm.pte cimport pte_pfn
from pagemig.mm.queue cimport (
    code_queue, list_putback, list_reserve, list_t, migrate_queue, queue_begin, queue_pages_range, queue_t, queued_t,
    vma_migratable,
)
from pagemig.mm.rmap cimport lru_cache_disable, lru_cache_enable
from pagemig.mm.rules cimport (
    refuse, RULE_ADDR_FLAG, RULE_BIND_FLAGS, RULE_CALL, RULE_GET_FLAGS, RULE_HOME_FLAGS, RULE_HOME_NODE, RULE_MASK_BEYOND,
    RULE_MASK_SIZE, RULE_MAXNODE_LARGE, RULE_MAXNODE_SMALL, RULE_MEMS_ALLOWED, RULE_MOVE_ALL, RULE_MOVE_FLAGS,
    RULE_NO_MEMORY, RULE_NODES_NONE, RULE_NOT_INTERLEAVING, RULE_RANGE_WRAPS, RULE_TO_NODES_ABSENT, RULE_TO_NODES_NONE,
    RULE_TO_NODES_PRIVILEGE, RULE_UNALIGNED,
)
from pagemig.mm.types cimport (
    C_PGMIGRATE_FAIL, C_PGMIGRATE_SUCCESS, CALL_GET_MEMPOLICY, CALL_MBIND, CALL_MIGRATE_PAGES, CALL_MOVE_PAGES,
    CALL_SET_HOME_NODE, CALL_SET_MEMPOLICY, CAP_SYS_NICE, ctx_t, machine_t, MAX_NODES, mm_t, MPOL_DEFAULT,
    MPOL_F_ADDR, MPOL_F_MEMS_ALLOWED, MPOL_F_NODE, MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES, MPOL_INTERLEAVE,
    MPOL_LOCAL, MPOL_MF_MOVE, MPOL_MF_MOVE_ALL, MPOL_MF_STRICT, MPOL_PREFERRED, mpol_t, MPOL_WEIGHTED_INTERLEAVE,
    nodemask_t, PG_anon, PG_lru, PMG_WAIT, STAGE, task_t, vma_t,
)
from pagemig.mm.uaccess cimport pmg_user_t, user_at, user_entries
from pagemig.mm.vma cimport vma_address, vma_lookup, vma_slot


cdef enum:
    SCAN = 32                   # entries compared together
    MASK_BITS = 4096 * 8        # the most bits of a user's node mask


# -- move_pages ------------------------------------------------------------------------------------------------


cdef int64_t do_pages_stat(
        ctx_t *c, uint32_t mm, const uint64_t *addresses, uint64_t n, int32_t *status) noexcept nogil:
    cdef look_t l
    cdef uint64_t i, vpn
    cdef uint32_t pfn
    cdef int err = 0
    if mmap_read_lock(c, mm):
        return -PMG_WAIT
    look_begin(&l, c.m, mm_of(c.m, mm))
    for i in range(n):
        if signal_pending(c, 1):
            err = -PMG_WAIT
            break
        vpn = pmg_load(addresses + i) >> 12
        if look_vma(&l, vpn) == NULL:
            status[i] = -EFAULT
            continue
        pfn = look_page(c, &l, vpn, &err)
        status[i] = page_to_nid(c.m, pfn) if pfn else err
        err = 0
    mmap_read_unlock(c, mm)
    return err


cdef struct move_t:                 # one move_pages call
    uint32_t mm
    uint64_t count                  # entries of the request
    int32_t *status
    uint64_t writable               # entries of status that are accessible
    bint locked                     # mmap_lock held for reading
    # the run: pages isolated for one node
    list_t list                     # isolated pages; the first `tried` have had their first pass
    uint64_t tried
    run_t run
    bint ahead                      # the first pass runs ahead, a stage at a time
    bint shared                     # also for anonymous pages with several mappings
    int32_t node                    # its target
    uint64_t rise, same             # up to these entries, addresses rise and the node is the same
    stage_t *st                     # the stage being gathered: `one`, or the next of the batch
    stage_t one
    batch_t batch
    uint32_t room                   # pages that st may take
    # position, of a resumable call
    uint32_t at                     # move_at_t
    bint in_ahead                   # migrating a batch ahead; else the whole run
    uint64_t i, start
    int64_t err
    int32_t next                    # node of the next run


cdef enum move_at_t:
    MOVE_BEGINS
    MOVE_LOCKS                      # waiting for mmap_lock before entry i
    MOVE_AHEAD                      # migrating a part of the run, up to entry i
    MOVE_CHANGES                    # migrating the run before entry i, which has another node
    MOVE_SETTLED                    # migrating the run before entry i - 1, whose status is stored
    MOVE_ENDS


cdef void code_move(coder_t *w, void *locals) noexcept nogil:
    cdef move_t *mv = <move_t *> locals
    code_u32(w, &mv.at, MOVE_ENDS + 1)
    code_u64(w, &mv.i, w.entries)
    code_u64(w, &mv.start, w.entries)
    code_u64(w, &mv.rise, w.entries)
    code_u64(w, &mv.same, w.entries)
    code_i64(w, &mv.err)
    code_nid(w, &mv.node)
    if mv.at != MOVE_CHANGES:
        mv.next = 0
    code_nid(w, &mv.next)
    code_flag(w, &mv.in_ahead)
    code_flag(w, &mv.ahead)
    code_flag(w, &mv.shared)
    code_run(w, &mv.run)
    code_u64(w, &mv.list.cap, 4 * w.m.nr_frames + 8192)
    code_u64(w, &mv.list.n, mv.list.cap)
    code_u64(w, &mv.tried, mv.list.n)
    code_words(w, &mv.list.pfns, mv.list.n, mv.list.cap, w.m.nr_frames)
    if w.way == WAY_READ and (mv.at == MOVE_BEGINS or mv.node < 0 or mv.next < 0 or
                              (mv.at == MOVE_SETTLED and mv.i == 0) or (mv.at == MOVE_AHEAD and not mv.in_ahead)):
        wrong(w)
    if w.way == WAY_READ or w.way == WAY_FREE:
        mv.locked = False
        return_to_run(w, mv)
    elif mv.locked or mv.at == MOVE_BEGINS or (mv.at == MOVE_AHEAD and not mv.in_ahead):
        stop_short(w)
    else:
        return_to_run(w, mv)


cdef void return_to_run(coder_t *w, move_t *mv) noexcept nogil:
    """Set the function that was called: none, that of a batch ahead, or that of the run."""
    if mv.at == MOVE_LOCKS:
        holds_list(w, mv.list.pfns, 0, mv.list.n)
        return
    w.pfns = mv.list.pfns
    w.pages = mv.list.n
    w.capacity = mv.list.cap
    if mv.in_ahead:
        code_chunk_or_batch(w)
    else:
        w.inner = code_finish
        w.size = sizeof(finish_t)


cdef inline void stands(ctx_t *c, move_t *mv, uint32_t at, uint64_t i, uint64_t start) noexcept nogil:
    if pmg_unlikely(c.places != NULL):
        mv.at = at
        mv.i = i
        mv.start = start


cdef void begin_run(move_t *mv) noexcept nogil:
    mv.list.n = 0
    mv.tried = 0
    mv.st = &mv.one
    mv.st.n = 0
    run_begin(&mv.run)


cdef bint next_stage(ctx_t *c, move_t *mv, const target_t *t) noexcept nogil:
    """Choose the stage to gather into, and its room.  False: out of memory, so nothing runs ahead any more."""
    cdef stage_t *st = &mv.one
    mv.room = stage_room(c, t)
    if in_batches(c.m):
        mv.room = min(mv.room, chunk_of(c.m) - mv.batch.pages)
        st = batch_room(&mv.batch)
    mv.ahead = mv.ahead and st != NULL
    mv.st = st if st != NULL else &mv.one
    mv.st.n = 0
    return st != NULL


cdef void move_unlock(ctx_t *c, move_t *mv) noexcept nogil:
    if mv.locked:
        mmap_read_unlock(c, mv.mm)
        mv.locked = False


cdef void ungather_all(ctx_t *c, move_t *mv, uint32_t gathered) noexcept nogil:
    """Put the gathered pages back: no frame was left for the first, and no other page is tried."""
    mv.run.error = -ENOMEM
    mv.run.failed += 1 + mv.tried
    mv.st.n = gathered
    while mv.st.n:
        ungather(c, mv.st)


cdef void first_pass(ctx_t *c, move_t *mv, const target_t *t) noexcept nogil:
    """Run the first pass over the pages of the stage that get a target; with batches, only up to the unmapping."""
    cdef uint32_t *keep = mv.list.pfns + mv.list.n
    if in_batches(c.m):
        mv.list.n += unmap_ahead(c, &mv.batch, t, keep, &mv.run)
        return
    run_stage(c, mv.st, t, 0)
    mv.list.n += collect(c, mv.st, t, keep, &mv.run)
    heed_abort(c, &mv.run)


cdef void move_batch_ahead(ctx_t *c, move_t *mv, const target_t *t) noexcept nogil:
    move_unlock(c, mv)
    mv.in_ahead = True
    migrate_chunk_or_batch(c, &mv.batch, mv.list.pfns, mv.list.n, mv.list.n, t, &mv.run)
    mv.in_ahead = False
    mv.list.n = mv.tried = 0


cdef void run_ahead(ctx_t *c, move_t *mv, int32_t node) noexcept nogil:
    """Run the first pass over the gathered pages; those to retry join the list.

    mmap_lock is dropped first.  A batch keeps it until all its pages are unmapped: a holder of page locks may not wait for
    mmap_lock, as it would have to between two stages.
    """
    cdef target_t t
    cdef uint32_t gathered, rest
    target_begin(&t, node)
    if not in_batches(c.m):
        move_unlock(c, mv)
    while mv.st.n:
        gathered = mv.st.n
        place_straight(c, True)
        first_pass(c, mv, &t)
        place_straight(c, False)
        if mv.st.n == 0:
            ungather_all(c, mv, gathered)
            break
        mv.tried = mv.list.n
        rest = gathered - mv.st.n
        shift_stage(&mv.one, mv.st, mv.st.n, rest)
        if not next_stage(c, mv, &t) and rest:
            ungather_all(c, mv, rest)
            break
        shift_stage(mv.st, &mv.one, 0, rest)
    if mv.in_ahead or (in_batches(c.m) and (mv.run.error or mv.batch.pages == chunk_of(c.m))):
        move_batch_ahead(c, mv, &t)
        next_stage(c, mv, &t)


cdef int add_page_for_migration(
        ctx_t *c, look_t *l, uint64_t vpn, int32_t node, bint migrate_all, move_t *mv) noexcept nogil:
    """Isolate and list a page: 1.  0: already on the node.  -EAGAIN: run the gathered stage first.  Else the status to store.

    The whole run is isolated before it is migrated, so a page listed twice gets EBUSY.  While addresses rise, no page comes
    twice that is mapped once or is anonymous, since an address space maps an anonymous page only once.  Then the first pass
    runs ahead, stage by stage, and with batches the other passes batch by batch.
    """
    cdef uint32_t pfn
    cdef uint64_t state, maps
    cdef int err = 0
    if look_vma(l, vpn) == NULL or not vma_migratable(c.m, l.vma):
        return -EFAULT
    pfn = look_page(c, l, vpn, &err)
    if pfn == 0:
        return err
    if page_to_nid(c.m, pfn) == node:
        return 0
    state = page_state(c.m, pfn)
    maps = frame_maps(state)
    if maps > 1 and not migrate_all:
        return -EACCES
    if list_reserve(&mv.list, mv.list.n + STAGE):       # before isolation: an isolated page must not be lost
        return -ENOMEM
    if mv.ahead and ((maps > 1 and not (mv.shared and state & PG_anon)) or mv.run.error):
        mv.ahead = False
        if mv.st.n:
            return -EAGAIN
    # Between the lookup and the isolation the page may have been unmapped, freed or moved, so look it up again.
    if mv.ahead:
        if not gather(c, mv.st, pfn):
            return -EBUSY
        if pte_pfn(look_pte(l, vpn)) != pfn:
            ungather(c, mv.st)
            return -EBUSY
        return 1
    if not isolate_lru_page(c, pfn):
        return -EBUSY
    if pte_pfn(look_pte(l, vpn)) != pfn:
        putback_lru_page(c, pfn)
        return -EBUSY
    mv.list.pfns[mv.list.n] = pfn
    mv.list.n += 1
    return 1


cdef int64_t move_pages_and_store_status(ctx_t *c, move_t *mv, int32_t node, uint64_t start, uint64_t i) noexcept nogil:
    """Migrate the run; entries [start, i) get the node as their status only if all of it moved."""
    cdef target_t t
    cdef uint64_t k
    cdef int64_t rc = 0
    cdef bint again = place_resumes(c) and not mv.in_ahead
    if not again:
        run_ahead(c, mv, node)
    move_unlock(c, mv)
    if not again and mv.list.n == 0 and mv.batch.n == 0 and mv.run.succeeded == 0 and mv.run.failed == 0 and not mv.run.error:
        return 0
    target_begin(&t, node)
    finish_run(c, &mv.batch, mv.list.pfns, mv.list.n, mv.tried, &t, &mv.run)
    if mv.run.error:
        rc = mv.run.error
    elif mv.run.failed:
        rc = <int64_t> (mv.run.failed + mv.count - i)
    else:
        for k in range(start, min(i, mv.writable)):
            mv.status[k] = node
        if i > mv.writable:
            rc = -EFAULT
    begin_run(mv)
    return rc


cdef int64_t check_node(machine_t *m, int32_t node) noexcept nogil:
    """Check a target node.  -EACCES (not in the target's cpuset) cannot occur: the one cpuset has all nodes with memory."""
    if node < 0 or node >= <int32_t> m.nr_nodes or not (pmg_load(&m.has_memory) >> node) & 1:
        return -ENODEV
    return 0


cdef bint may_run_ahead(
        move_t *mv, const uint64_t *addresses, const int32_t *nodes, int32_t node, uint64_t i, uint64_t end) noexcept nogil:
    """Whether addresses rise through the whole run that starts at entry ``i``; a call compares every entry once."""
    cdef uint64_t rise = max(mv.rise, i + 1), same = max(mv.same, i + 1), falls
    cdef uint32_t differ, k
    # First SCAN at a time without a branch, which compilers vectorise.
    while same + SCAN <= end:
        differ = 0
        for k in range(SCAN):
            differ |= nodes[same + k] ^ node
        if differ:
            break
        same += SCAN
    while same < end and nodes[same] == node:
        same += 1
    while rise + SCAN <= same:
        falls = 0
        for k in range(SCAN):               # the sign bit of a difference: page numbers have 52 bits
            falls |= ~((addresses[rise + k - 1] >> 12) - (addresses[rise + k] >> 12))
        if falls >> 63:
            break
        rise += SCAN
    while rise < same and addresses[rise] >> 12 > addresses[rise - 1] >> 12:
        rise += 1
    mv.rise = rise
    mv.same = same
    return rise >= same


cdef inline bint runs_unseen(ctx_t *c, bint step_by_step) noexcept nogil:
    """Whether it is unobservable which pages are isolated when another moves: no host takes time between stages.

    With ``step_by_step``, the order of single steps must be unobservable too.  In a resumable call, a pass that may wait
    does not run ahead, since it could not be saved there.
    """
    return c.pause_fn == NULL and not (step_by_step and steps_show(c)) and \
        (c.places == NULL or wait_flags(c.m, 0) == 0)


cdef inline void run_starts(
        ctx_t *c, move_t *mv, const uint64_t *addresses, const int32_t *nodes, int32_t node, uint64_t i, uint64_t end,
        bint migrate_all) noexcept nogil:
    cdef target_t t
    mv.node = node
    target_begin(&t, node)
    mv.ahead = may_run_ahead(mv, addresses, nodes, node, i, end) and runs_unseen(c, in_batches(c.m))
    mv.shared = migrate_all and runs_unseen(c, True)
    next_stage(c, mv, &t)


cdef int64_t moved_all(ctx_t *c, move_t *mv, int32_t node, uint64_t start, uint64_t i, int64_t err) noexcept nogil:
    """Migrate the last run; ``err`` is the result of the loop over the entries."""
    cdef int64_t last
    stands(c, mv, MOVE_ENDS, i, start)
    mv.err = err
    last = move_pages_and_store_status(c, mv, node, start, i)
    return last if err >= 0 else err


cdef bint moved_again(
        ctx_t *c, move_t *mv, const uint64_t *addresses, const int32_t *nodes, uint64_t end, bint migrate_all,
        int64_t *err) noexcept nogil:
    """Resume a loaded call.  True: the call is finished, with result ``err``."""
    cdef target_t t
    target_begin(&t, mv.node)
    if mv.at == MOVE_LOCKS:
        next_stage(c, mv, &t)
        return False
    if mv.at == MOVE_AHEAD:
        run_ahead(c, mv, mv.node)
        return False
    if mv.at == MOVE_ENDS:
        err[0] = moved_all(c, mv, mv.node, mv.start, mv.i, mv.err)
        return True
    err[0] = move_pages_and_store_status(c, mv, mv.node, mv.start, mv.i - (mv.at == MOVE_SETTLED))
    if err[0]:
        err[0] -= err[0] > 0 and mv.at == MOVE_SETTLED
        return True
    if mv.at == MOVE_CHANGES:
        mv.start = mv.i
        run_starts(c, mv, addresses, nodes, mv.next, mv.i, end, migrate_all)
    return False


cdef int64_t do_pages_move(
        ctx_t *c, move_t *mv, const uint64_t *addresses, const int32_t *nodes, uint64_t readable,
        bint migrate_all) noexcept nogil:
    """Process the entries in order; a run ends where the node changes, where an entry gets its status at once, or at the end.

    The caller may write its arrays meanwhile: a checked value is read once, and values read ahead are only hints.
    """
    cdef look_t l, far
    cdef uint64_t i = 0, start = 0, end = min(readable, mv.count)
    cdef int64_t err = 0
    cdef int32_t current = -1, node
    cdef int rc
    if pmg_unlikely(mv.at != MOVE_BEGINS):
        if moved_again(c, mv, addresses, nodes, end, migrate_all, &err):
            return err
        i = mv.i
        start = mv.start
        current = mv.node if mv.at != MOVE_SETTLED else -1
    look_begin(&l, c.m, mm_of(c.m, mv.mm))
    look_begin(&far, c.m, mm_of(c.m, mv.mm))
    while i < mv.count:
        if signal_pending(c, 1):
            err = -PMG_WAIT
            break
        node = current
        if i >= readable or current < 0 or i >= mv.same:
            node = <int32_t> pmg_load32(<const uint32_t *> nodes + i) if i < readable else -1
            if node != current or current < 0:
                err = -EFAULT if i >= readable else check_node(c.m, node)
                if err:
                    break
        if current >= 0 and node != current:
            mv.next = node
            stands(c, mv, MOVE_CHANGES, i, start)
            err = move_pages_and_store_status(c, mv, current, start, i)
            if err:
                return err
            current = -1
        if current < 0:
            current = node
            start = i
            run_starts(c, mv, addresses, nodes, node, i, end, migrate_all)
        if not mv.locked:
            stands(c, mv, MOVE_LOCKS, i, start)
            if mmap_read_lock(c, mv.mm):
                err = -PMG_WAIT
                break
            mv.locked = True
            mv.ahead = mv.ahead and runs_unseen(c, in_batches(c.m))    # a host may step what waited while it ran to its end
            look_begin(&l, c.m, mm_of(c.m, mv.mm))
            look_begin(&far, c.m, mm_of(c.m, mv.mm))
        if mv.ahead and not mv.run.error and mv.list.n + STAGE <= mv.list.cap:
            i = gather_run(c, mv.st, current, mv.room, mv.shared, &l, &far, addresses, i, min(mv.same, readable))
            if mv.st.n >= mv.room:
                stands(c, mv, MOVE_AHEAD, i, start)
                run_ahead(c, mv, current)
                continue
            if i == mv.same:
                continue
        if i + AHEAD < readable:
            look_ahead(&far, addresses[i + AHEAD] >> 12)
        rc = add_page_for_migration(c, &l, pmg_load(addresses + i) >> 12, current, migrate_all, mv)
        if rc == -EAGAIN:
            stands(c, mv, MOVE_AHEAD, i, start)
            run_ahead(c, mv, current)
            continue
        i += 1
        if rc > 0:
            if mv.st.n >= mv.room:
                stands(c, mv, MOVE_AHEAD, i, start)
                run_ahead(c, mv, current)
            continue
        if i > mv.writable:
            err = -EFAULT
            i -= 1
            break
        mv.status[i - 1] = rc if rc else current
        stands(c, mv, MOVE_SETTLED, i, start)
        err = move_pages_and_store_status(c, mv, current, start, i - 1)
        if err:
            return err - 1 if err > 0 else err      # entry i-1 is settled
        current = -1
    return moved_all(c, mv, current, start, i, err)


cdef int64_t pages_stat(
        ctx_t *c, uint32_t mm, const uint64_t *addresses, uint64_t readable, uint64_t count,
        int32_t *status, uint64_t writable) noexcept nogil:
    cdef int64_t err
    readable = min(readable, writable)
    if count > readable:                    # the kernel copies blocks of 16: only whole blocks get a status
        readable -= readable % 16
    err = do_pages_stat(c, mm, addresses, min(readable, count), status)
    return -EFAULT if err == 0 and count > readable else err


cdef int64_t pages_move(
        ctx_t *c, uint32_t mm, const uint64_t *addresses, const int32_t *nodes, uint64_t readable, uint64_t count,
        uint32_t flags, int32_t *status, uint64_t writable) noexcept nogil:
    cdef move_t mv
    cdef int64_t err
    if not place_enter(c, code_move, &mv, sizeof(mv)):
        mv.list.pfns = NULL
        mv.list.cap = 0
        mv.locked = False
        mv.rise = 0
        mv.same = 0
        mv.ahead = False
        mv.at = MOVE_BEGINS
        mv.in_ahead = False
        begin_run(&mv)
        lru_cache_disable(c)
    mv.mm = mm
    mv.count = count
    mv.status = status
    mv.writable = writable
    mv.st = &mv.one
    mv.st.n = 0
    batch_begin(&mv.batch)
    err = do_pages_move(c, &mv, addresses, nodes, readable, flags & MPOL_MF_MOVE_ALL != 0)
    place_leave(c)
    if mv.locked:
        mmap_read_unlock(c, mv.mm)
    list_putback(c, &mv.list)
    lru_cache_enable(c)
    free(mv.list.pfns)
    free(mv.batch.stage)
    return err


cdef int64_t move_pages_of(
        ctx_t *c, uint32_t mm, uint64_t count, const pmg_user_t *pages, const pmg_user_t *nodes,
        const pmg_user_t *status, uint32_t flags) noexcept nogil:
    """Run the call on the accessible entries of the caller's arrays; without target nodes it is a query."""
    cdef const uint64_t *addresses = <const uint64_t *> pages.p
    cdef const int32_t *targets = <const int32_t *> nodes.p
    cdef int32_t *stored = <int32_t *> status.p
    cdef uint64_t readable = user_entries(pages, 8), writable = user_entries(status, 4)
    if targets != NULL:
        readable = min(readable, user_entries(nodes, 4))
    if c.m.profile.whole_request:
        return move_pages_whole_request(c, mm, addresses, targets, readable, count, flags, stored, writable)
    if targets == NULL:
        return pages_stat(c, mm, addresses, readable, count, stored, writable)
    return pages_move(c, mm, addresses, targets, readable, count, flags, stored, writable)


cdef void code_called(coder_t *w, called_t *k) noexcept nogil:
    code_u32(w, &k.task, w.m.tasks.fresh)
    if w.way == WAY_READ and (task_of(w.m, k.task).users == 0 or
                              (w.pid != 0 and task_of(w.m, k.task).pid != <uint32_t> w.pid)):
        wrong(w)


cdef void code_move_pages(coder_t *w, void *locals) noexcept nogil:
    code_called(w, <called_t *> locals)
    if w.m.profile.whole_request:
        w.inner = code_request
        w.size = sizeof(asked_t)
    elif not w.query:                       # a query can only wait for mmap_lock
        w.inner = code_move
        w.size = sizeof(move_t)


cdef int64_t called(ctx_t *c, called_t *k, int64_t rc) noexcept nogil:
    """End a call that has a target process."""
    cdef uint32_t mm = c.target_mm
    place_leave(c)
    c.target_mm = 0
    mmput(c, mm)
    put_target(c, task_of(c.m, k.task))
    return rc


cdef int64_t find_target(ctx_t *c, int32_t pid, called_t *k, uint32_t *rule) noexcept nogil:
    """Find the target process of move_pages and its address space."""
    cdef task_t *target = NULL
    cdef int64_t rc = get_target(c, pid, &target)
    if rc:
        return rc
    c.target_mm = get_task_mm(c, target) if target != NULL else 0
    if not c.target_mm:
        put_target(c, target)
        return refuse(EINVAL, RULE_NO_MEMORY, rule)
    k.task = <uint32_t> (target - task_of(c.m, 0))
    return 0


cdef int64_t pmg_sys_move_pages(
        ctx_t *c, int32_t pid, uint64_t count, const pmg_user_t *pages, const pmg_user_t *nodes,
        const pmg_user_t *status, uint32_t flags, uint32_t *rule) noexcept nogil:
    cdef called_t k
    cdef int64_t rc
    if not place_resumes(c):
        if not c.m.profile.call_mask & CALL_MOVE_PAGES:
            return refuse(ENOSYS, RULE_CALL, rule)
        if flags & ~<uint32_t> (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
            return refuse(EINVAL, RULE_MOVE_FLAGS, rule)
        if flags & MPOL_MF_MOVE_ALL and not capable(c, CAP_SYS_NICE):
            return refuse(EPERM, RULE_MOVE_ALL, rule)
        rc = find_target(c, pid, &k, rule)
        if rc:
            return rc
    place_enter(c, code_move_pages, &k, sizeof(k))
    return called(c, &k, move_pages_of(c, c.target_mm, count, pages, nodes, status, flags))


# -- mbind -----------------------------------------------------------------------------------------------------


cdef int queue_and_bind(ctx_t *c, mm_t *mm, queue_t *q, uint64_t start, uint64_t end, const mpol_t *pol) noexcept nogil:
    """Queue misplaced pages and set the policy; mmap_lock held for writing."""
    cdef int rc = queue_pages_range(c, q, mm, start, end)
    return rc if rc < 0 else mbind_range(c, mm, start, end, pol)


cdef void target_by_vma(ctx_t *c, mm_t *mm, uint64_t start, target_t *t) noexcept nogil:
    """Choose targets as through 6.6: each page by the policy of the mappings from ``start`` on, see new_page."""
    target_begin(t, -1)
    t.mm = mm_index(c.m, mm)
    t.start = start
    t.pol.mode = MPOL_DEFAULT


cdef void target_by_policy(
        ctx_t *c, mm_t *mm, queue_t *q, uint64_t start, uint64_t end, const mpol_t *pol, target_t *t) noexcept nogil:
    """Choose targets as from 6.7 on: by the new policy, with indices relative to the first queued page.

    So interleaving is exact in the mapping of the first page and may be shifted in others.
    """
    cdef machine_t *m = c.m
    cdef uint32_t i, pfn = q.list.pfns[0]
    cdef uint64_t vpn
    cdef vma_t *vma
    target_begin(t, -1)
    t.pol = pol[0]
    if t.pol.mode == MPOL_DEFAULT:
        get_task_policy(c, &t.pol)
    if not interleaves(&t.pol):
        return
    for i in range(vma_slot(m, mm, start), mm.vmas.n):
        vma = vma_of(m, vec_at(m, &mm.vmas)[i])
        if vma.start >= end:
            return
        if page_in_vma(m, pfn, vma):
            vpn = vma_address(vma, pmg_load32(&m.frames[pfn].index))
            t.ilx = interleave_index(c, vma, vpn) - whole_index(c, pfn)
            return


cdef struct bound_t:                # locals of do_mbind()
    bind_t call
    bint moving                     # False: waiting for mmap_lock
    target_t target


cdef void code_bound(coder_t *w, void *locals) noexcept nogil:
    cdef bound_t *k = <bound_t *> locals
    code_bind(w, &k.call)
    code_flag(w, &k.moving)
    if not k.moving:
        return
    code_target(w, &k.target)
    if not w.m.profile.migrate_unlocked and PMG_GUARD(GUARD_MMAP_LOCK):
        holds(w, HELD_MMAP_WRITE, w.mm, 1)
    w.inner = code_queue
    w.size = sizeof(queued_t)


cdef int64_t do_mbind(ctx_t *c, const bind_t *call) noexcept nogil:
    """Bind the range and migrate pages outside the caller's nodes."""
    cdef bound_t k
    cdef queue_t q
    cdef mm_t *mm = mm_of(c.m, c.mm)
    cdef bint unlocked = c.m.profile.migrate_unlocked or not PMG_GUARD(GUARD_MMAP_LOCK)
    cdef int64_t rc = 0
    if not place_enter(c, code_bound, &k, sizeof(k)):
        k.call = call[0]
        k.moving = False
    if not k.moving:
        if mmap_write_lock(c, c.mm):
            place_leave(c)
            return -PMG_WAIT
        queue_begin(&q, k.call.user, True, k.call.pol.mode == MPOL_DEFAULT, k.call.flags)
        if k.call.flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
            lru_cache_disable(c)
        rc = queue_and_bind(c, mm, &q, k.call.first, k.call.end, &k.call.pol)
        if rc == 0 and q.list.n:
            if c.m.profile.mbind_ilx:
                target_by_policy(c, mm, &q, k.call.first, k.call.end, &k.call.pol, &k.target)
            else:
                target_by_vma(c, mm, k.call.first, &k.target)
        if unlocked:
            mmap_write_unlock(c, c.mm)
        k.moving = True
    if rc == 0 and migrate_queue(c, &q, &k.target) and k.call.flags & MPOL_MF_STRICT:
        rc = -EIO
    place_leave(c)
    list_putback(c, &q.list)
    lru_cache_enable(c)
    free(q.list.pfns)
    if not unlocked:
        mmap_write_unlock(c, c.mm)
    return rc


cdef int64_t page_range(uint64_t start, uint64_t *length, uint32_t *rule) noexcept nogil:
    """Round a length up to pages: 1, 0 for an empty range, -EINVAL for one that is unaligned or wraps."""
    if start & 4095:
        return refuse(EINVAL, RULE_UNALIGNED, rule)
    length[0] = (length[0] + 4095) & ~<uint64_t> 4095
    if start + length[0] < start:
        return refuse(EINVAL, RULE_RANGE_WRAPS, rule)
    return length[0] != 0


cdef int64_t check_mbind(
        ctx_t *c, uint64_t start, uint64_t length, uint32_t mode, const pmg_user_t *nodes, uint64_t maxnode,
        uint64_t flags, bind_t *call, uint32_t *rule) noexcept nogil:
    """Check the arguments of mbind: 1, 0 if there is nothing to do, or -errno."""
    cdef nodemask_t user
    cdef uint32_t mode_flags = 0
    cdef int64_t rc
    if not c.m.profile.call_mask & CALL_MBIND:
        return refuse(ENOSYS, RULE_CALL, rule)
    if not c.m.profile.mode_flags:          # kernels without mode flags read the mask first
        rc = get_nodes(c, &user, nodes, maxnode, rule)
        if rc:
            return rc
    rc = sanitize_mpol_flags(c.m, mode, &mode, &mode_flags, rule)
    if rc:
        return rc
    rc = get_nodes(c, &user, nodes, maxnode, rule)
    if rc:
        return rc
    if flags & ~<uint64_t> (MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        return refuse(EINVAL, RULE_BIND_FLAGS, rule)
    if flags & MPOL_MF_MOVE_ALL and not capable(c, CAP_SYS_NICE):
        return refuse(EPERM, RULE_MOVE_ALL, rule)
    rc = page_range(start, &length, rule)
    if rc <= 0:
        return rc
    if mode == MPOL_DEFAULT:
        flags &= ~<uint64_t> MPOL_MF_STRICT
    rc = mpol_new(c.m, mode, mode_flags, &user, &call.pol, rule)
    if rc:
        if rule != NULL and rule[0] == RULE_NODES_NONE and not c.m.profile.check_range and \
                flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
            # The kernel drains the per-CPU lists before it rejects the nodes.
            lru_cache_disable(c)
            lru_cache_enable(c)
        return rc
    call.first = start >> 12
    call.end = (start + length) >> 12
    call.user = user.bits[0]
    call.flags = <uint32_t> flags
    return 1


cdef int64_t pmg_sys_mbind(
        ctx_t *c, uint64_t start, uint64_t length, uint32_t mode, const pmg_user_t *nodes, uint64_t maxnode,
        uint64_t flags, uint32_t *rule) noexcept nogil:
    cdef bind_t call
    cdef int64_t rc
    if not place_resumes(c):
        rc = check_mbind(c, start, length, mode, nodes, maxnode, flags, &call, rule)
        if rc <= 0:
            return rc
    return mbind_check_range(c, &call) if c.m.profile.check_range else do_mbind(c, &call)


cdef void code_mbind(coder_t *w) noexcept nogil:
    """Set the outermost function of mbind that may stop."""
    if w.m.profile.check_range:
        w.inner = code_bound_range
        w.size = sizeof(bound_range_t)
    else:
        w.inner = code_bound
        w.size = sizeof(bound_t)


# -- set_mempolicy, get_mempolicy, set_mempolicy_home_node -----------------------------------------------------------


cdef int get_nodes(
        ctx_t *c, nodemask_t *out, const pmg_user_t *mask, uint64_t maxnode, uint32_t *rule) noexcept nogil:
    """Read ``maxnode - 1`` bits of a mask; bits beyond MAX_NUMNODES are read too and must be 0.

    Without bits or pointer the set is empty (recorded in hand-048, hand-071 and hand-090).
    """
    cdef uint64_t bits = maxnode - 1, i, word
    cdef const uint64_t *at
    nodes_clear(out)
    if bits == 0 or mask.p == NULL:
        return 0
    if bits > MASK_BITS:
        return refuse(EINVAL, RULE_MASK_SIZE, rule)
    i = (bits + 63) // 64
    while i:
        i -= 1
        at = <const uint64_t *> user_at(mask, i * 8, 8)
        if at == NULL:
            return -EFAULT
        memcpy(&word, at, 8)
        if bits - i * 64 < 64:
            word &= (<uint64_t> 1 << (bits - i * 64)) - 1
        if i < c.m.profile.max_nodes // 64:
            out.bits[i] = word
        elif word:
            return refuse(EINVAL, RULE_MASK_BEYOND, rule)
    return 0


cdef int64_t pmg_sys_set_mempolicy(
        ctx_t *c, uint32_t mode, const pmg_user_t *nodes, uint64_t maxnode, uint32_t *rule) noexcept nogil:
    """Set the task's policy under both locks: faults read it under mmap_lock, calls on files under alloc_lock."""
    cdef task_t *t = task_of(c.m, c.task)
    cdef nodemask_t user
    cdef mpol_t pol
    cdef uint32_t mode_flags = 0
    cdef int64_t rc
    if not c.m.profile.call_mask & CALL_SET_MEMPOLICY:
        return refuse(ENOSYS, RULE_CALL, rule)
    rc = sanitize_mpol_flags(c.m, mode, &mode, &mode_flags, rule)
    if rc == 0:
        rc = get_nodes(c, &user, nodes, maxnode, rule)
    if rc == 0:
        rc = mpol_new(c.m, mode, mode_flags, &user, &pol, rule)
    if rc:
        return rc
    if mmap_write_lock(c, c.mm):
        return -PMG_WAIT
    pmg_spin_lock(&t.alloc_lock)
    t.pol = pol
    if pol.mode == MPOL_INTERLEAVE or pol.mode == MPOL_WEIGHTED_INTERLEAVE:
        t.il_prev = MAX_NODES - 1           # the first node of the mask is next
        t.il_weight = 0
    pmg_spin_unlock(&t.alloc_lock)
    mmap_write_unlock(c, c.mm)
    return 0


cdef void vma_own_policy(machine_t *m, vma_t *vma, uint64_t vpn, mpol_t *out) noexcept nogil:
    if not vma_policy(m, vma, vpn, out):
        mpol_clear(out)


cdef int64_t policy_at(ctx_t *c, uint64_t addr, mpol_t *out) noexcept nogil:
    """Get the policy of the mapping at an address, without the task's; for shared memory the object's."""
    cdef vma_t *vma
    cdef int64_t rc = 0
    if mmap_read_lock(c, c.mm):
        return -PMG_WAIT
    vma = vma_lookup(c.m, mm_of(c.m, c.mm), addr >> 12)
    if vma == NULL:
        rc = -EFAULT
    else:
        vma_own_policy(c.m, vma, addr >> 12, out)
    mmap_read_unlock(c, c.mm)
    return rc


cdef int64_t lookup_node(ctx_t *c, uint64_t addr) noexcept nogil:
    """Find the node of the page at an address, which is faulted in by a read."""
    cdef uint32_t pfn = 0
    cdef int64_t rc
    if mmap_read_lock(c, c.mm):
        return -PMG_WAIT
    rc = pin_user_pages(c, mm_of(c.m, c.mm), addr >> 12, 1, False, False, &pfn)
    mmap_read_unlock(c, c.mm)
    if rc == 1:
        rc = page_to_nid(c.m, pfn)
        put_page(c, pfn)
    return rc


cdef int64_t do_get_mempolicy(
        ctx_t *c, uint64_t addr, uint64_t flags, uint64_t *nodes, uint32_t *rule) noexcept nogil:
    """Return the mode word, or a node with MPOL_F_NODE; ``nodes`` of STATIC and RELATIVE policies are the caller's own."""
    cdef task_t *t = task_of(c.m, c.task)
    cdef mpol_t pol
    cdef int64_t rc
    if flags & ~<uint64_t> c.m.profile.get_flags:
        return refuse(EINVAL, RULE_GET_FLAGS, rule)
    if flags & MPOL_F_MEMS_ALLOWED:
        if flags & (MPOL_F_NODE | MPOL_F_ADDR):
            return refuse(EINVAL, RULE_MEMS_ALLOWED, rule)
        nodes[0] = pmg_load(&c.m.has_memory)
        return 0
    if flags & MPOL_F_ADDR:
        rc = policy_at(c, addr, &pol)
        if rc:
            return rc
    elif addr:
        return refuse(EINVAL, RULE_ADDR_FLAG, rule)
    else:
        pmg_spin_lock(&t.alloc_lock)
        pol = t.pol
        pmg_spin_unlock(&t.alloc_lock)
    nodes[0] = pol.user if pol.flags & (MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES) else pol.nodes
    if pol.mode == MPOL_LOCAL and not (c.m.profile.mode_mask >> MPOL_LOCAL) & 1:
        nodes[0] = pmg_load(&c.m.has_memory)    # PREFERRED without nodes: all online nodes
    if flags & MPOL_F_NODE:
        rc = lookup_node(c, addr) if flags & MPOL_F_ADDR else il_next(c, t)
        return refuse(EINVAL, RULE_NOT_INTERLEAVING, rule) if rc == -EINVAL and not flags & MPOL_F_ADDR else rc
    if pol.mode == MPOL_LOCAL and not (c.m.profile.mode_mask >> MPOL_LOCAL) & 1:
        return MPOL_PREFERRED           # without nodes, in kernels without a mode LOCAL
    return pol.mode | pol.flags


cdef int64_t pmg_sys_get_mempolicy(
        ctx_t *c, const pmg_user_t *mode, const pmg_user_t *nodes, uint64_t maxnode, uint64_t addr, uint64_t flags,
        uint32_t *rule) noexcept nogil:
    cdef uint64_t mask = 0, nbytes = (maxnode + 62) // 64 * 8
    cdef int64_t rc
    cdef int32_t word
    cdef char *out
    if not c.m.profile.call_mask & CALL_GET_MEMPOLICY:
        return refuse(ENOSYS, RULE_CALL, rule)
    if nodes.p != NULL and maxnode < (c.m.nr_nodes if c.m.profile.max_nodes > MAX_NODES else MAX_NODES):
        return refuse(EINVAL, RULE_MAXNODE_SMALL, rule)
    rc = do_get_mempolicy(c, addr, flags, &mask, rule)
    if rc < 0:
        return rc
    if mode.p != NULL:
        word = <int32_t> rc
        out = <char *> user_at(mode, 0, 4)
        if out == NULL:
            return -EFAULT
        memcpy(out, &word, 4)
    if nodes.p != NULL:
        if user_at(nodes, 0, 8) == NULL:
            return -EFAULT
        if maxnode - 1 > MASK_BITS:
            return refuse(EINVAL, RULE_MAXNODE_LARGE, rule)
        nbytes = max(nbytes, <uint64_t> 8)
        out = <char *> user_at(nodes, 0, nbytes)
        if out == NULL:
            return -EFAULT
        memset(out, 0, nbytes)
        memcpy(out, &mask, 8)
    return 0


cdef int64_t pmg_sys_set_mempolicy_home_node(
        ctx_t *c, uint64_t start, uint64_t length, uint64_t home_node, uint64_t flags, uint32_t *rule) noexcept nogil:
    cdef int64_t rc
    if not c.m.profile.call_mask & CALL_SET_HOME_NODE:
        return refuse(ENOSYS, RULE_CALL, rule)
    if start & 4095:
        return refuse(EINVAL, RULE_UNALIGNED, rule)
    if flags:
        return refuse(EINVAL, RULE_HOME_FLAGS, rule)
    if home_node >= c.m.nr_nodes:
        return refuse(EINVAL, RULE_HOME_NODE, rule)
    rc = page_range(start, &length, rule)
    return rc if rc <= 0 else home_node_range(c, start, length, <uint32_t> home_node)


# -- migrate_pages ---------------------------------------------------------------------------------------------


cdef int64_t migrate_to_node(ctx_t *c, uint32_t mm, pairs_t *k, uint32_t flags) noexcept nogil:
    """Move one node's pages.  mmap_lock is held by the caller, or from 6.7 on taken here, only for the walk."""
    cdef queue_t q
    cdef target_t t
    cdef int64_t rc
    cdef bint unlocked = c.m.profile.migrate_unlocked
    if not k.moving:
        if unlocked and mmap_read_lock(c, mm):
            return -PMG_WAIT
        queue_begin(&q, <uint64_t> 1 << k.source, False, True, flags)
        queue_pages_range(c, &q, mm_of(c.m, mm), 0, <uint64_t> 1 << 36)
        if unlocked:
            mmap_read_unlock(c, mm)
        k.moving = True
    target_begin(&t, k.dest)
    rc = migrate_queue(c, &q, &t)
    k.moving = False
    free(q.list.pfns)
    return rc


cdef int64_t do_migrate_pages(ctx_t *c, uint32_t mm, const nodes_t *call) noexcept nogil:
    # If the sets have unequal sizes, a node that is in both stays as it is.
    cdef pairs_t k
    cdef int64_t rc = 0
    if not place_enter(c, code_pairs, &k, sizeof(k)):
        pairs_begin(&k, call)
        if nodes_weight(&call.old) != nodes_weight(&call.new):
            k.stay = call.old.bits[0] & call.new.bits[0]
    while rc >= 0 and next_of_pairs(&k, call):
        rc = migrate_to_node(c, mm, &k, call.flags)
        pair_is_over(&k, rc)
    place_leave(c)
    return rc if rc < 0 else k.busy


cdef void code_nodes(coder_t *w, void *locals) noexcept nogil:
    cdef nodes_t *k = <nodes_t *> locals
    code_bytes(w, &k.old, sizeof(nodemask_t))
    code_bytes(w, &k.new, sizeof(nodemask_t))
    code_u32(w, &k.flags, 8)
    code_flag(w, &k.moving)
    if not k.moving:                        # waiting for mmap_lock
        return
    if not w.m.profile.migrate_unlocked:
        holds(w, HELD_MMAP_READ, w.target_mm, 1)
    w.inner = code_pairs
    w.size = sizeof(pairs_t)


cdef int64_t migrate_pages_of(ctx_t *c, uint32_t mm, const nodemask_t *old, const nodemask_t *new, uint32_t flags) noexcept nogil:
    cdef nodes_t k
    cdef int64_t rc = -PMG_WAIT
    cdef bint unlocked = c.m.profile.migrate_unlocked
    if not place_enter(c, code_nodes, &k, sizeof(k)):
        k.old = old[0]
        k.new = new[0]
        k.flags = flags
        k.moving = False
    if k.moving or unlocked or mmap_read_lock(c, mm) == 0:
        if not k.moving:
            lru_cache_disable(c)
            k.moving = True
        if c.m.profile.check_range:
            rc = do_migrate_pages_check_range(c, mm, &k)
        else:
            rc = do_migrate_pages(c, mm, &k)
        lru_cache_enable(c)
        if not unlocked:
            mmap_read_unlock(c, mm)
    place_leave(c)
    return rc


cdef int check_targets(ctx_t *c, nodemask_t *new, uint32_t *rule) noexcept nogil:
    """Check the target nodes; today's kernels drop those without memory from the set."""
    cdef uint64_t allowed = pmg_load(&c.m.has_memory)
    cdef bint absent = new.bits[0] & ~allowed != 0 or nodes_absent(new)
    if absent and not capable(c, CAP_SYS_NICE):
        return refuse(EPERM, RULE_TO_NODES_PRIVILEGE, rule)
    if c.m.profile.absent_targets:
        return refuse(EINVAL, RULE_TO_NODES_ABSENT, rule) if absent and c.m.profile.absent_targets == 1 else 0
    allowed &= new.bits[0]
    nodes_clear(new)
    new.bits[0] = allowed
    return 0 if allowed else refuse(EINVAL, RULE_TO_NODES_NONE, rule)


cdef void code_migrate_pages(coder_t *w, void *locals) noexcept nogil:
    code_called(w, <called_t *> locals)
    w.inner = code_nodes
    w.size = sizeof(nodes_t)


cdef int64_t check_migrate_pages(
        ctx_t *c, int32_t pid, uint64_t maxnode, const pmg_user_t *old_nodes, const pmg_user_t *new_nodes,
        nodemask_t *old, nodemask_t *new, called_t *k, uint32_t *rule) noexcept nogil:
    """Check the arguments of migrate_pages; 0: the target process is referenced."""
    cdef task_t *target = NULL
    cdef uint32_t mm
    cdef int64_t rc
    if not c.m.profile.call_mask & CALL_MIGRATE_PAGES:
        return refuse(ENOSYS, RULE_CALL, rule)
    rc = get_nodes(c, old, old_nodes, maxnode, rule)
    if rc == 0:
        rc = get_nodes(c, new, new_nodes, maxnode, rule)
    if rc == 0:
        rc = get_target(c, pid, &target)
    if rc:
        return rc
    mm = get_task_mm(c, target) if target != NULL else 0
    if mm or not c.m.profile.uid_access:        # with uid_access, a missing mm is refused before the nodes are checked
        rc = check_targets(c, new, rule)
    if rc == 0 and not mm:
        rc = refuse(EINVAL, RULE_NO_MEMORY, rule)
    if rc == 0:
        c.target_mm = mm
        k.task = <uint32_t> (target - task_of(c.m, 0))
        return 0
    if mm:
        mmput(c, mm)
    put_target(c, target)
    return rc


cdef int64_t pmg_sys_migrate_pages(
        ctx_t *c, int32_t pid, uint64_t maxnode, const pmg_user_t *old_nodes, const pmg_user_t *new_nodes,
        uint32_t *rule) noexcept nogil:
    cdef nodemask_t old, new
    cdef called_t k
    cdef uint32_t flags = 0
    cdef int64_t rc
    if not place_resumes(c):
        rc = check_migrate_pages(c, pid, maxnode, old_nodes, new_nodes, &old, &new, &k, rule)
        if rc:
            return rc
        flags = MPOL_MF_MOVE_ALL if capable(c, CAP_SYS_NICE) else MPOL_MF_MOVE
    place_enter(c, code_migrate_pages, &k, sizeof(k))
    return called(c, &k, migrate_pages_of(c, c.target_mm, &old, &new, flags))


# -- frames, without a process ---------------------------------------------------------------------------------


cdef struct frame_moves_t:          # locals of migrate_frames()
    uint64_t i, failed              # frames tried, and of these not moved
    uint32_t pfn
    int32_t node
    run_t run


cdef void code_frame_moves(coder_t *w, void *locals) noexcept nogil:
    cdef frame_moves_t *k = <frame_moves_t *> locals
    code_u64(w, &k.i, w.entries)
    code_u64(w, &k.failed, k.i)
    code_pfn(w, &k.pfn)
    code_nid(w, &k.node)
    code_run(w, &k.run)
    if w.way == WAY_READ and (k.i == w.entries or k.node < 0):
        wrong(w)
    w.pfns = &k.pfn
    w.slots = NULL
    w.pages = w.capacity = 1
    w.inner = code_finish
    w.size = sizeof(finish_t)


cdef void code_migrate_frames(coder_t *w) noexcept nogil:
    """Set the outermost function of migrate_frames that may stop."""
    if w.m.profile.page_results or w.m.profile.four_lists:
        w.inner = code_frame_list
        w.size = sizeof(frame_list_t)
    else:
        w.inner = code_frame_moves
        w.size = sizeof(frame_moves_t)


cdef struct frame_stage_t:          # frames to one node that have their first pass together
    uint64_t next                   # the entry after the last one looked at
    uint64_t entry[64]
    bint ahead                      # they have it before the rest of the run
    stage_t st


cdef inline bint frames_run_ahead(ctx_t *c) noexcept nogil:
    """Whether frames may have their first pass together: nothing observes the order of their steps, or a flush they share."""
    return c.places == NULL and not in_batches(c.m) and runs_unseen(c, True)


cdef void gather_frames(
        ctx_t *c, frame_moves_t *k, frame_stage_t *f, const uint32_t *pfns, const int32_t *nodes, uint64_t n,
        int32_t *status) noexcept nogil:
    """Isolate frames for one node from entry ``k.i`` on, and store the statuses of those that do not move.

    A frame that is not on the LRU may be of this stage itself, if it is listed twice: it comes when the stage is over.
    """
    cdef stage_t *st = &f.st
    cdef target_t t
    cdef uint32_t pfn, room = 1
    cdef int32_t node, rc
    st.n = 0
    f.ahead = False
    f.next = k.i
    while f.next < n and st.n < room:
        pfn = pfns[f.next]
        node = <int32_t> pmg_load32(<const uint32_t *> nodes + f.next)
        if st.n and (node != k.node or not page_state(c.m, pfn) & PG_lru):
            return
        if f.next + AHEAD < n:
            pmg_prefetchw(&c.m.frames[pfns[f.next + AHEAD]])
        rc = -EAGAIN if signal_pending(c, 1) else frame_status(c, pfn, node)
        if rc != ISOLATED:
            status[f.next] = rc
            k.failed += rc < 0
        else:
            if st.n == 0:
                f.ahead = frames_run_ahead(c)
                if f.ahead:
                    target_begin(&t, node)
                    room = stage_room(c, &t)
            k.node = node
            f.entry[st.n] = f.next
            st.src[st.n] = pfn
            st.open[st.n] = 0
            st.n += 1
        f.next += 1


cdef uint32_t frames_ahead(ctx_t *c, const frame_moves_t *k, frame_stage_t *f) noexcept nogil:
    """Run the first pass over a stage of frames; return how many have had it: the others got no target."""
    cdef target_t t
    cdef uint32_t i, moved = 0
    target_begin(&t, k.node)
    run_stage(c, &f.st, &t, 0)
    for i in range(f.st.n):
        moved += f.st.rc[i] >= 0
    count_event(c, C_PGMIGRATE_SUCCESS, moved)
    return f.st.n


cdef int32_t frame_moves(ctx_t *c, frame_moves_t *k, uint64_t tried) noexcept nogil:
    """Migrate one isolated frame to its node; with ``tried`` 1 it has had its first pass."""
    cdef target_t t
    cdef batch_t b
    if not place_resumes(c):
        run_begin(&k.run)
    target_begin(&t, k.node)
    batch_begin(&b)
    finish_run(c, &b, &k.pfn, 1, tried, &t, &k.run)
    free(b.stage)
    return k.run.error if k.run.error else (-EAGAIN if k.run.failed else k.node)


cdef int32_t frame_fails(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Give up a frame that no further pass would move."""
    count_event(c, C_PGMIGRATE_FAIL, 1)
    putback_lru_page(c, pfn)
    return -EAGAIN


cdef void move_frames(ctx_t *c, frame_moves_t *k, frame_stage_t *f, int32_t *status) noexcept nogil:
    """Migrate the frames of a stage, those left by their first pass one by one."""
    cdef stage_t *st = &f.st
    cdef uint32_t i, n = st.n, tried = frames_ahead(c, k, f) if f.ahead else 0
    for i in range(n):
        k.i = f.entry[i]
        k.pfn = st.src[i]
        if i >= tried:
            status[k.i] = frame_moves(c, k, 0)
        elif st.rc[i] >= 0:
            status[k.i] = k.node
        elif st.rc[i] == -EINVAL:
            status[k.i] = frame_fails(c, k.pfn)
        else:
            status[k.i] = frame_moves(c, k, 1)
        k.failed += status[k.i] < 0


cdef int64_t migrate_frames(
        ctx_t *c, const uint32_t *pfns, const int32_t *nodes, uint64_t n, int32_t *status) noexcept nogil:
    """Move page i to node i, the arrays of the 2006 note.  Not isolated: EBUSY; not moved: EAGAIN."""
    cdef frame_moves_t k
    cdef frame_stage_t f
    if c.m.profile.page_results or c.m.profile.four_lists:
        return migrate_frame_list(c, pfns, nodes, n, status)
    if place_enter(c, code_frame_moves, &k, sizeof(k)):
        status[k.i] = frame_moves(c, &k, 0)
        k.failed += status[k.i] < 0
        k.i += 1
    else:
        lru_cache_disable(c)
        k.i = k.failed = 0
    while k.i < n:
        gather_frames(c, &k, &f, pfns, nodes, n, status)
        move_frames(c, &k, &f, status)
        k.i = f.next
    lru_cache_enable(c)
    place_leave(c)
    return <int64_t> k.failed
