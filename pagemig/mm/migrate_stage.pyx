"""The stages of a migration, at any width, parameterised by the profile.  ``migrate`` arranges them into passes."""
from libc.errno cimport EAGAIN, EBUSY, EINVAL, ENOMEM, EPERM
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from pagemig.mm.atomic cimport (
    GUARD_DIRTY, GUARD_FREED, GUARD_ISOLATED, GUARD_MISSED_MAPPING, GUARD_MLOCKED, GUARD_NO_MAPPING, GUARD_PAGE_LOCK,
    GUARD_PINNED, GUARD_SLOT, GUARD_SWAPCACHE, GUARD_UNMAPPED_ENTRY, GUARD_WRITEBACK, pmg_add, pmg_and, pmg_cas,
    pmg_cas32, PMG_GUARD, pmg_likely, pmg_load, pmg_load32, pmg_load_acq, pmg_or, pmg_prefetchw, pmg_read_trylock,
    pmg_read_unlock, pmg_spin_lock, pmg_spin_unlock, pmg_store32, pmg_store_rel, pmg_sub, pmg_unlikely, pmg_xchg,
)
from pagemig.mm.context cimport lock_page, mmap_read_unlock, pmg_wait
from pagemig.mm.copy cimport pmg_copy_fence, pmg_copy_pages
from pagemig.mm.filemap cimport file_writepage, has_migratepage, try_to_release_page
from pagemig.mm.fork cimport mmput
from pagemig.mm.frame cimport frame_maps, frame_refs, page_state, page_try_map, trylock_page, unlock_page
from pagemig.mm.gup cimport look_ahead, look_t
from pagemig.mm.mempolicy cimport alloc_pages_policy, get_vma_policy
from pagemig.mm.notify cimport (
    ask_target, count_copies, count_flushes, flush_later, flush_tlb, hears_flushes, hears_moved, hears_steps, hears_target,
    PMG_F_MIGRATE, run_outside,
    tell_flush, tell_moved, tell_step,
)
from pagemig.mm.place cimport (
    code_bytes, code_flag, code_int, code_pfn, code_policy, code_u32, code_u64, coder_t, HELD_ANON_VMA, HELD_ISOLATED,
    HELD_LEFT, HELD_LOCKED, HELD_MOVED, HELD_TARGET, holds, holds_list, place_enter, place_leave, WAY_NAME, WAY_READ, wrong,
)
from pagemig.mm.page_alloc cimport (
    alloc_page, alloc_pages_node, anon_vma_of, count_event, file_of, free_pages, mm_of, page_address, page_to_nid,
    put_page, vec_at, vma_of,
)
from pagemig.mm.pgtable cimport leaf_number, pte_index, pte_lock_uncounted, pte_unlock, table_entries, walk_leaf
from pagemig.mm.pte cimport (
    is_migration_entry, make_migration_entry, migration_entry_bits, migration_entry_to_pfn, PTE_A, PTE_D, PTE_P,
    pte_pfn, PTE_PFN_MASK, pte_present, PTE_RW, PTE_SPECIAL, pte_t, SWP_MIGRATION_READ, SWP_MIGRATION_READ_EXCLUSIVE,
    SWP_MIGRATION_WRITE, swp_type,
)
from pagemig.mm.rmap cimport (
    anon_vma_lock_read, anon_vma_lock_typed, anon_vma_unlock_read, anon_vma_unlock_typed, i_mmap_lock_read,
    i_mmap_unlock_read, mlock_vma_page, munlock_vma_page, page_get_anon_vma,
    put_anon_vma, rmap_vmas,
)
from pagemig.mm.sole cimport pmg_store_sole, SOLE_ENTRY, SOLE_LEFT, SOLE_PUBLISHED, SOLE_RESTORED, SOLE_TARGET
from pagemig.mm.swap_state cimport (
    add_to_swap, delete_from_swap_cache, slot_entry, swap_duplicate, swap_free, swap_tree_lock, swap_tree_unlock,
)
from pagemig.mm.trace cimport (
    STEP_ALLOC, STEP_COPY, STEP_FREEZE, STEP_ISOLATE, STEP_LOCK, STEP_PUTBACK, STEP_RESTORE, STEP_UNMAP, trace,
    TRACE_ROLLBACK,
)
from pagemig.mm.types cimport (
    BUG_TRUNCATED_RMAP, C_LOCK_ANON_VMA, C_LOCK_LRU, C_LOCK_PAGE, C_LOCK_PTL, C_LOCK_TREE, C_PTES_DROPPED,
    C_PTES_RESTORED, C_TLB_FLUSH, ctx_t, FILE_MINIX, FILE_RAMFS, file_t, frame_t, GUP_PIN_COUNTING_BIAS, KEEP_MMAP_LOCK,
    KEEP_REFCOUNT, KEEP_TRYLOCK, kept_by_t, machine_t, MAP_ONE, mm_t, mpol_t, PG_anon, PG_anon_exclusive, PG_cached,
    PG_dirty, PG_isolated, PG_locked, PG_lru, PG_private, PG_swapbacked, PG_swapcache, PG_uptodate, PG_writeback, PMG_BUG,
    PTRS_PER_PTE, REF_ONE, STAGE, VM_DONTMIGRATE, VM_LOCKED, VM_WRITE, vma_t,
    WAIT_WRITEBACK,
)
from pagemig.mm.vma cimport add_mm_counter, page_prot, vma_address, vma_flags, vma_slot


cdef enum:                      # of what is read back
    MANY = 0x7fffffff           # pages, entries
    ERRORS = 1 << 16            # errnos, and bugs behind them


cdef extern from *:                         # macros, so that they are immediate operands in the loops
    """
    /* flags that move to the new frame */
    #define PG_COPIED \\
        (PG_referenced | PG_uptodate | PG_dirty | PG_active | PG_swapbacked | PG_anon | PG_readahead | PG_cached)
    /* of QUIET, a page on the LRU that is neither locked nor isolated has only PG_lru; isolation adds TO_ISOLATED */
    #define QUIET (PG_lru | PG_locked | PG_isolated)
    #define TO_ISOLATED (REF_ONE + PG_isolated - PG_lru)
    """
    const uint64_t PG_COPIED, QUIET, TO_ISOLATED


# -- trace and hooks -------------------------------------------------------------------------------------------


cdef void call_hook(ctx_t *c, int step, stage_t *st) noexcept nogil:
    """Call the hooks with the pages that the step handled; results exist from STEP_LOCK on."""
    cdef uint32_t pfns[64]
    cdef uint32_t i, n = 0
    for i in range(st.n):
        if step < STEP_LOCK or st.rc[i] != DONE:
            pfns[n] = st.src[i]
            n += 1
    if c.m.step_fn != NULL:
        step_hook(c, step, pfns, n)
    if c.watch != NULL:
        tell_step(c, step, pfns, n)


cdef struct step_t:
    ctx_t *c
    int step
    const uint32_t *pfns
    uint32_t n


cdef void run_step(void *arg) noexcept nogil:
    cdef step_t *s = <step_t *> arg
    s.c.m.step_fn(s.c, s.step, s.pfns, s.n)


cdef void step_hook(ctx_t *c, int step, const uint32_t *pfns, uint32_t n) noexcept nogil:
    cdef step_t s
    s.c = c
    s.step = step
    s.pfns = pfns
    s.n = n
    run_outside(c, run_step, &s)


cdef void at_step(ctx_t *c, int step, stage_t *st) noexcept nogil:
    if pmg_unlikely(c.m.step_fn != NULL or (c.watch != NULL and hears_steps(c))):
        call_hook(c, step, st)


cdef void pause_stage(ctx_t *c, int at, stage_t *st) noexcept nogil:
    """Pause with the pages of a stage that are under way; at PAUSE_STAGE with those moved or put back (target 0)."""
    cdef uint32_t src[64]
    cdef uint32_t dst[64]
    cdef uint32_t i, n = 0
    if pmg_likely(c.pause_fn == NULL):
        return
    st.at = at
    for i in range(st.n):
        if st.rc[i] == 0 or (at == PAUSE_STAGE and st.rc[i] < 0 and st.open[i]):
            src[n] = st.src[i]
            dst[n] = st.dst[i] if st.rc[i] == 0 else 0
            n += 1
    c.pause_fn(c, at, src, dst, n)


cdef void stage_moved(ctx_t *c, const stage_t *st) noexcept nogil:
    """Report the results of a finished stage to the callback."""
    cdef uint32_t src[64]
    cdef uint32_t dst[64]
    cdef int32_t result[64]
    cdef uint32_t i, n = 0
    if not hears_moved(c):
        return
    for i in range(st.n):
        if st.rc[i] <= 0:
            src[n] = st.src[i]
            dst[n] = st.dst[i] if st.rc[i] == 0 else 0
            result[n] = st.rc[i]
            n += 1
    tell_moved(c, src, dst, result, n)


cdef void pause_pass(ctx_t *c) noexcept nogil:
    if c.pause_fn != NULL:
        c.pause_fn(c, PAUSE_PASS, NULL, NULL, 0)


# -- isolation ---------------------------------------------------------------------------------------------------


cdef bint isolate_lru_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    cdef uint64_t *word = &c.m.frames[pfn].state
    cdef uint64_t s = pmg_load(word)
    count_event(c, C_LOCK_LRU, 1)
    while (s & PG_lru or not PMG_GUARD(GUARD_ISOLATED)) and frame_refs(s) != 0:
        if pmg_cas(word, s, ((s & ~PG_lru) | PG_isolated) + REF_ONE):
            trace(c, STEP_ISOLATE, pfn, 0)
            return True
        s = pmg_load(word)
    return False


cdef void putback_lru_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    cdef uint64_t *word = &c.m.frames[pfn].state
    cdef uint64_t s = pmg_load(word)
    while not pmg_cas(word, s, ((s & ~PG_isolated) | PG_lru) - REF_ONE):
        s = pmg_load(word)
    if frame_refs(s) == 1:
        free_pages(c, &pfn, 1)


cdef void putback_all(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil:
    """``putback_movable_pages``."""
    cdef uint64_t i
    for i in range(n):
        if i + AHEAD < n:
            pmg_prefetchw(&c.m.frames[pfns[i + AHEAD]])
        putback_lru_page(c, pfns[i])


# -- gathering ---------------------------------------------------------------------------------------------------


cdef inline uint32_t locks_at_once(ctx_t *c) noexcept nogil:
    """OPEN to isolate and lock a page in one step; 0 if a hook must run between the two, as other code may in the kernel."""
    return 0 if c.m.step_fn != NULL or hears_steps(c) else OPEN


cdef void trace_gathered(ctx_t *c, uint32_t pfn, uint32_t opened) noexcept nogil:
    count_event(c, C_LOCK_LRU, 1)
    trace(c, STEP_ISOLATE, pfn, 0)
    if opened:
        trace(c, STEP_LOCK, pfn, 0)


cdef bint gather(ctx_t *c, stage_t *st, uint32_t pfn) noexcept nogil:
    """Isolate a page into the stage, and lock it in the same step unless it is locked already."""
    cdef frame_t *f = &c.m.frames[pfn]
    cdef uint64_t s = pmg_load(&f.state), new
    cdef uint32_t i = st.n
    cdef bint fuse = locks_at_once(c) != 0
    while True:
        if not s & PG_lru or frame_refs(s) == 0:
            return False
        new = ((s & ~PG_lru) | PG_isolated | (PG_locked if fuse else 0)) + REF_ONE
        if pmg_cas(&f.state, s, new):
            break
        s = pmg_load(&f.state)
    st.src[i] = pfn
    st.open[i] = 0 if s & PG_locked or not fuse else OPEN
    st.state[i] = new
    st.mapping[i] = pmg_load32(&f.mapping)      # stable only under the page lock
    st.index[i] = pmg_load32(&f.index)
    st.n = i + 1
    trace_gathered(c, pfn, st.open[i])
    return True


cdef void ungather(ctx_t *c, stage_t *st) noexcept nogil:
    st.n -= 1
    if st.open[st.n]:
        unlock_page(c.m, st.src[st.n])
    putback_lru_page(c, st.src[st.n])


cdef uint64_t gather_run(
        ctx_t *c, stage_t *st, int32_t node, uint32_t width, bint shared, look_t *l, look_t *far,
        const uint64_t *addresses, uint64_t i, uint64_t end) noexcept nogil:
    """Gather entries from ``i`` on while they are of the common kind, and return the first that is not.

    Common: same leaf table and VMA as the entry before, mapped once (or anonymous, with ``shared``), on the LRU, unlocked,
    and not on the target node.
    """
    cdef machine_t *m = c.m

    cdef frame_t *frames = m.frames
    cdef uint64_t first = m.node[node].first, size = m.node[node].end - first
    cdef uint32_t n = st.n, begun = n, pfn, opened = locks_at_once(c)
    cdef uint64_t start, pages, stop, off, near = 0, s, taken = TO_ISOLATED + (PG_locked if opened else 0)
    cdef const pte_t *leaf
    cdef const pte_t *p
    cdef frame_t *f
    cdef pte_t pte, ahead
    if l.vma == NULL or not l.leaf or n >= width:
        return i
    # the intersection of leaf table and VMA: one comparison tells whether a page lies in both
    start = max(l.vma.start, l.base * PTRS_PER_PTE)
    stop = min(l.vma.end, (l.base + 1) * PTRS_PER_PTE)
    if stop <= start:
        return i
    pages = stop - start
    leaf = table_entries(m, l.leaf) + pte_index(start)
    stop = min(end, i + (width - n))
    while i < stop:
        off = (pmg_load(addresses + i) >> 12) - start       # read once: the caller may write its array meanwhile
        if off >= pages:
            break
        p = leaf + off
        pte = pmg_load_acq(p)
        pfn = <uint32_t> pte_pfn(pte)
        if (pte & (PTE_P | PTE_SPECIAL)) != PTE_P or pfn - first < size:
            break
        if i + AHEAD < end:
            off = (addresses[i + AHEAD] >> 12) - start
            if pmg_unlikely(off >= pages):
                look_ahead(far, off + start)
            else:                           # look_ahead() inlined for the same leaf table
                ahead = pmg_load(leaf + off)
                if ahead & PTE_P and ahead >> 14 != near:
                    near = ahead >> 14
                    pmg_prefetchw(&frames[pte_pfn(ahead)])
        f = &frames[pfn]
        s = pmg_load(&f.state)
        if (s & QUIET) != PG_lru or (frame_maps(s) != 1 and not (shared and s & PG_anon)):
            break
        if not pmg_cas(&f.state, s, s + taken):
            break
        st.src[n] = pfn
        st.open[n] = opened
        st.state[n] = s + taken
        st.mapping[n] = f.mapping
        st.index[n] = f.index
        n += 1

        if (pmg_load_acq(p) ^ pte) & PTE_PFN_MASK:
            st.n = n                        # unmapped or moved between lookup and isolation
            ungather(c, st)
            n -= 1
            break
        i += 1

    st.n = n
    if pmg_unlikely(m.tracing):
        while begun < n:
            trace_gathered(c, st.src[begun], opened)
            begun += 1
    count_event(c, C_LOCK_LRU, n - begun)
    return i


cdef void shift_stage(stage_t *st, const stage_t *from_, uint32_t first, uint32_t n) noexcept nogil:
    cdef uint32_t i
    st.n = n
    for i in range(n):
        st.src[i] = from_.src[first + i]
        st.open[i] = from_.open[first + i]
        st.state[i] = from_.state[first + i]
        st.mapping[i] = from_.mapping[first + i]
        st.index[i] = from_.index[first + i]


# -- targets -----------------------------------------------------------------------------------------------------


cdef bint page_in_vma(machine_t *m, uint32_t pfn, vma_t *vma) noexcept nogil:
    """Whether ``page_address_in_vma`` finds an address: same object (or fork family), and an index inside the VMA.

    The page is isolated but not locked: truncation, or a fault that reuses it, may change its record meanwhile.
    """
    cdef frame_t *f = &m.frames[pfn]
    cdef uint32_t mapping = pmg_load32(&f.mapping)
    if pmg_load(&f.state) & PG_anon:
        if not vma.anon_vma or not mapping or anon_vma_of(m, vma.anon_vma).root != anon_vma_of(m, mapping).root:
            return False
    elif not vma.file or vma.file != mapping:
        return False
    return vma_address(vma, pmg_load32(&f.index)) != <uint64_t> -1


cdef uint64_t whole_index(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Get the full index of an isolated page: its record has the low 32 bits, its VMAs the rest."""
    cdef machine_t *m = c.m
    cdef uint32_t index = pmg_load32(&m.frames[pfn].index), vma = 0
    cdef uint32_t av = page_get_anon_vma(m, pfn)
    cdef uint64_t whole = index
    cdef vma_t *v
    if not av:
        return whole
    anon_vma_lock_read(c, av, 0)            # counts 0: the kernel has the full index in the page
    if rmap_vmas(m, anon_vma_of(m, av).tree, index, index, 0, &vma, 1):
        v = vma_of(m, vma)
        whole = v.pgoff + (vma_address(v, index) - v.start)
    anon_vma_unlock_read(c, av)
    put_anon_vma(m, av)
    return whole


cdef uint32_t new_page(ctx_t *c, uint32_t pfn, const target_t *t, vma_t **hint) noexcept nogil:
    """Allocate a target by mbind's policy: through 6.6 that of the first VMA from ``t.start`` on that can map the page.

    6.1 interleaves by vm_pgoff + offset here, even for shared objects, whose faults add the inode number: migrated and
    faulted pages may disagree.
    """
    cdef machine_t *m = c.m
    cdef mm_t *mm = mm_of(m, t.mm)
    cdef vma_t *vma = hint[0]
    cdef mpol_t pol
    cdef uint64_t vpn, index = 0
    cdef uint32_t i
    if m.profile.mbind_ilx:
        return alloc_pages_policy(c, &t.pol, t.ilx + whole_index(c, pfn) if interleaves(&t.pol) else 0)
    if vma == NULL or not page_in_vma(m, pfn, vma):
        vma = NULL
        for i in range(vma_slot(m, mm, t.start), mm.vmas.n):
            if page_in_vma(m, pfn, vma_of(m, vec_at(m, &mm.vmas)[i])):
                vma = vma_of(m, vec_at(m, &mm.vmas)[i])
                break
        hint[0] = vma
    if vma == NULL:
        pol = t.pol
    else:
        vpn = vma_address(vma, pmg_load32(&m.frames[pfn].index))
        get_vma_policy(c, vma, vpn, &pol)
        index = <uint32_t> (vma.pgoff + (vpn - vma.start))
    return alloc_pages_policy(c, &pol, index)


cdef bint short_of_frames(machine_t *m, uint32_t n) noexcept nogil:
    """Whether some node is nearly full: then fallback may depend on each source frame freed before."""
    cdef uint32_t i
    for i in range(m.nr_nodes):
        if pmg_load(&m.node[i].nr_free) < n + m.node[i].low and m.node[i].end > m.node[i].first:
            return True
    return False


cdef void stage_alloc(ctx_t *c, stage_t *st, const target_t *t) noexcept nogil:
    """Allocate targets for the stage, st.got of them; records of THISNODE targets are not touched."""
    cdef uint32_t i, pfn
    cdef vma_t *hint = NULL
    if pmg_unlikely(c.watch != NULL) and hears_target(c):
        stage_alloc_chosen(c, st, t)
    elif t.nid >= 0:
        st.got = alloc_pages_node(c, t.nid, st.n, st.dst)
    else:
        st.got = 0
        if short_of_frames(c.m, st.n):
            st.n = 1
        for i in range(st.n):
            if t.nid == TARGET_NEAREST:
                pfn = alloc_page(c, page_to_nid(c.m, st.src[i]), t.nodes)
            else:
                pfn = new_page(c, st.src[i], t, &hint)
            if not pfn:
                break
            st.dst[i] = pfn
            st.got += 1


cdef void stage_alloc_chosen(ctx_t *c, stage_t *st, const target_t *t) noexcept nogil:
    """stage_alloc() where a callback chooses the node of each page."""
    cdef uint32_t i, pfn
    cdef int32_t nid
    cdef vma_t *hint = NULL
    st.got = 0
    for i in range(st.n):
        pfn = 0
        nid = ask_target(c, st.src[i], t.nid)
        if nid >= 0 or (nid == -1 and t.nid >= 0):
            alloc_pages_node(c, nid if nid >= 0 else t.nid, 1, &pfn)
        elif nid == -1 and t.nid == TARGET_NEAREST:
            pfn = alloc_page(c, page_to_nid(c.m, st.src[i]), t.nodes)
        elif nid == -1:
            pfn = new_page(c, st.src[i], t, &hint)
        if not pfn:
            break
        st.dst[i] = pfn
        st.got += 1


cdef inline bint same_target(machine_t *m, const stage_t *st, uint32_t i, int32_t nid) noexcept nogil:
    """Whether page ``i`` can use a target on ``nid``; with four lists a page takes any target."""
    return m.profile.four_lists or page_to_nid(m, st.dst[i]) == nid


cdef void pass_target_on(machine_t *m, stage_t *st, uint32_t i) noexcept nogil:
    """Pass on the target of page ``i``, which does not move, as if pages were migrated one by one.

    The next page that moves to that node gets it, the page after that gets that one's, and so on.  The last one's target
    stays unused and is freed after those of pages that failed earlier, so that the next stage gets the frames it would get
    page by page.
    """
    cdef int32_t nid = page_to_nid(m, st.dst[i])
    cdef uint32_t j, at = i, pfn = st.dst[i], had
    for j in range(i + 1, st.n):
        if st.rc[j] == 0 and same_target(m, st, j, nid):
            had = st.dst[j]
            st.dst[j] = pfn
            pfn = had
    for j in range(i + 1, st.n):
        if st.rc[j] and same_target(m, st, j, nid):
            st.dst[at] = st.dst[j]
            at = j
    st.dst[at] = pfn


cdef void pass_targets_on(machine_t *m, stage_t *st) noexcept nogil:
    """Pass on the targets of all pages that do not move, from the last page to the first."""
    cdef uint32_t i = st.n
    if pmg_likely(any_result(st, 0, st.n) == 0):
        return
    while i:
        i -= 1
        if st.rc[i]:
            pass_target_on(m, st, i)


# -- lock ----------------------------------------------------------------------------------------------------------


cdef int page_state_error(ctx_t *c, uint32_t pfn, uint64_t s, uint32_t mapping, bint force, bint alone) noexcept nogil:
    """Check what keeps a locked page from moving: 0, -EAGAIN, -EBUSY (wait for its I/O in a stage of its own), or a bug."""
    cdef uint32_t spins = 0
    if pmg_likely(not s & PG_writeback and mapping != 0):
        return 0
    if mapping == 0:                        # truncated while it was isolated
        return -(PMG_BUG + <int> BUG_TRUNCATED_RMAP) if c.m.profile.truncated_crashes else -EAGAIN
    if not PMG_GUARD(GUARD_WRITEBACK):
        return 0
    if not force or not alone:
        return -EBUSY if force else -EAGAIN
    while page_state(c.m, pfn) & PG_writeback:
        if pmg_wait(c, WAIT_WRITEBACK, pfn, spins):
            return -EAGAIN
        spins += 1
    return 0


cdef int wait_for_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Wait for a page lock; no other lock is held."""
    return -EAGAIN if lock_page(c, pfn) else 0


cdef inline bint all_locked(const stage_t *st) noexcept nogil:
    """Whether every page was locked at isolation and none is kept from moving.  Branch-free loops, to vectorise."""
    cdef uint32_t i, odd = 0
    cdef uint64_t states = 0
    for i in range(st.n):
        odd |= (st.open[i] ^ OPEN) | <uint32_t> (st.mapping[i] == 0)
    for i in range(st.n):
        states |= st.state[i]
    return odd == 0 and not states & PG_writeback


cdef inline void note_locked(ctx_t *c, stage_t *st, uint32_t i) noexcept nogil:
    cdef frame_t *f = &c.m.frames[st.src[i]]
    st.open[i] = OPEN
    st.state[i] = page_state(c.m, st.src[i])
    st.mapping[i] = f.mapping
    st.index[i] = f.index


cdef inline void clear_stage(stage_t *st) noexcept nogil:
    """Clear the result of each page."""
    if st.n == 1:                           # for one page, five calls of memset() cost more than the locking
        st.rc[0] = 0
        st.unmapped[0] = st.restored[0] = st.dirty[0] = st.walked[0] = 0
        return
    memset(st.rc, 0, st.n * sizeof(st.rc[0]))
    memset(st.unmapped, 0, st.n * sizeof(st.unmapped[0]))
    memset(st.restored, 0, st.n * sizeof(st.restored[0]))
    memset(st.dirty, 0, st.n * sizeof(st.dirty[0]))
    memset(st.walked, 0, st.n * sizeof(st.walked[0]))


cdef void stage_lock(ctx_t *c, stage_t *st, uint32_t force) noexcept nogil:
    """Lock the sources.  Wait only in a stage of one page: with other page locks held, only trylock."""
    cdef machine_t *m = c.m
    cdef uint32_t i, pfn
    count_event(c, C_LOCK_PAGE, 2 * st.n)
    clear_stage(st)
    st.counts_mask = 0 if m.profile.counts_drop else 0xffffffffu
    st.swapping = False
    if st.n > 1 and all_locked(st):
        return
    st.at = AT_LOCK                         # a stage of one page may wait
    for i in range(st.n):
        pfn = st.src[i]
        if st.open[i]:                      # locked together with its isolation
            if pmg_unlikely(st.state[i] & PG_writeback or st.mapping[i] == 0):
                st.rc[i] = page_state_error(c, pfn, st.state[i], st.mapping[i], force & WAIT_FOR_WRITEBACK, st.n == 1)
            continue
        if i + AHEAD < st.n:
            pmg_prefetchw(&m.frames[st.src[i + AHEAD]])
        if frame_refs(page_state(m, pfn)) == 1 and PMG_GUARD(GUARD_FREED):
            st.rc[i] = 1                    # freed meanwhile: counts as moved, its target stays unused
            continue
        if not trylock_page(m, pfn) and PMG_GUARD(GUARD_PAGE_LOCK):
            if not force & WAIT_FOR_LOCK:
                st.rc[i] = -EAGAIN
                continue
            if st.n > 1:
                st.rc[i] = -EBUSY
                continue
            if wait_for_page(c, pfn):
                st.rc[i] = -EAGAIN
                continue
        note_locked(c, st, i)
        st.rc[i] = page_state_error(c, pfn, st.state[i], st.mapping[i], force & WAIT_FOR_WRITEBACK, st.n == 1)
        trace(c, STEP_LOCK, pfn, force & WAIT_FOR_LOCK)


cdef void stage_lock_again(ctx_t *c, stage_t *st, uint32_t force) noexcept nogil:
    """Resume stage_lock() in a loaded call, for a stage of one page."""
    cdef uint32_t pfn = st.src[0]
    if not st.open[0]:
        if wait_for_page(c, pfn):
            st.rc[0] = -EAGAIN
            return
        note_locked(c, st, 0)
    st.rc[0] = page_state_error(c, pfn, st.state[0], st.mapping[0], force & WAIT_FOR_WRITEBACK, True)
    trace(c, STEP_LOCK, pfn, force & WAIT_FOR_LOCK)


cdef bint explained_early(machine_t *m, uint32_t pfn) noexcept nogil:
    """Check references first, as kernels with swap entries do: mappings, the cache, buffers and the isolation only."""
    cdef uint64_t s = page_state(m, pfn)
    return frame_refs(s) == frame_maps(s) + (3 if s & PG_private else 2)


cdef void stage_swap(ctx_t *c, stage_t *st) noexcept nogil:
    """Give anonymous pages a swap slot before they are unmapped; without a free slot -ENOMEM, which is not retried."""
    cdef uint32_t i
    for i in range(st.n):
        if st.rc[i]:
            continue
        if st.state[i] & PG_anon:
            if (not st.state[i] & PG_swapcache or not PMG_GUARD(GUARD_SWAPCACHE)) and not add_to_swap(c, st.src[i]):
                st.rc[i] = -ENOMEM
                continue
            st.state[i] = page_state(c.m, st.src[i])
        elif not has_migratepage(file_of(c.m, st.mapping[i])):
            continue                        # fallback_migrate_page: unmapped first
        if not explained_early(c.m, st.src[i]) and PMG_GUARD(GUARD_PINNED):
            st.rc[i] = -EAGAIN


# -- unmap and restore: VMA outside, pages inside ---------------------------------------------------------------------


cdef struct walk_t:             # hoisted from the loop over one VMA: stores to PTEs may alias the originals
    ctx_t *c
    vma_t *vma
    frame_t *frames
    pte_t prot
    bint mlocked, writable, tracing
    bint heard                  # a callback hears of each flush, one per entry
    bint noted                  # someone is told of entries unmapped, or counts them
    bint told                   # a trace or a callback is told of each
    uint32_t gone               # entries unmapped, if noted
    int64_t rss_anon            # pages the resident set has gained: added at the end, in one step
    bint unseen                 # the moment when a page is unlocked cannot be observed


cdef void tell_unmapped(walk_t *w, uint32_t pfn, uint64_t vpn) noexcept nogil:
    if w.tracing:
        count_event(w.c, C_LOCK_PTL, 1)
        trace(w.c, STEP_UNMAP, pfn, vpn)
    if w.heard:
        tell_flush(w.c, w.vma.mm, vpn, 1, PMG_F_MIGRATE)


cdef inline bint all_noted(pte_t pte) noexcept nogil:
    """Whether the lockless writer of an entry, the processor, has no bit left to set; others take the leaf's lock."""
    return pte & PTE_A != 0 and (pte & PTE_D != 0 or not pte & PTE_RW)


cdef inline void unmap_one(walk_t *w, stage_t *st, uint32_t i, pte_t *p, uint64_t vpn) noexcept nogil:
    """``try_to_migrate_one``: replace one PTE by a migration entry; the leaf is locked.

    The entry's reference and mapping stay counted, and the freeze accounts for them.

    The kernel takes the lock wherever an entry is present; for replaced entries stage_putback or the trace counts it.
    """
    cdef uint32_t pfn = st.src[i]
    cdef pte_t old = pmg_load_acq(p), type = SWP_MIGRATION_READ
    cdef uint64_t s
    if pte_pfn(old) != pfn or not pte_present(old) or old & PTE_SPECIAL:
        count_event(w.c, C_LOCK_PTL, pte_present(old))
        return
    s = pmg_load(&w.frames[pfn].state)
    if s & PG_anon_exclusive:
        if frame_refs(s) >= GUP_PIN_COUNTING_BIAS:
            st.rc[i] = -EAGAIN              # an exclusive page with a long-term pin may not lose its mapping
            count_event(w.c, C_LOCK_PTL, 1)
            return
        type = SWP_MIGRATION_READ_EXCLUSIVE
    if old & PTE_RW:
        type = SWP_MIGRATION_WRITE
    if all_noted(old):
        pmg_store_sole(SOLE_ENTRY, p, make_migration_entry(type, pfn, old))
    else:
        while not pmg_cas(p, old, make_migration_entry(type, pfn, old)):
            old = pmg_load_acq(p)           # the processor set A or D meanwhile
    if old & PTE_D:
        st.dirty[i] = 1
    if w.mlocked:
        munlock_vma_page(w.c, pfn)
    st.unmapped[i] += 1
    if pmg_unlikely(w.noted):
        w.gone += 1
        if w.told:
            tell_unmapped(w, pfn, vpn)


cdef void unmap_count_now(walk_t *w, stage_t *st, uint32_t i, uint32_t leaf, pte_t *p, uint64_t vpn) noexcept nogil:
    """``try_to_unmap_one``: replace one PTE and drop its reference and mapcount at once.

    A page in the swap cache leaves a swap entry; under the swap entry engine the page of a file leaves none.  Both leave
    the resident set, as swapped pages do.  Every other page leaves a migration entry.
    """
    cdef ctx_t *c = w.c
    cdef machine_t *m = c.m
    cdef uint32_t pfn = st.src[i]
    cdef pte_t old = pmg_load_acq(p), entry = 0
    cdef uint64_t s = page_state(m, pfn)
    cdef bint stays = m.profile.engine == 0 and not st.swapping and not (s & PG_swapcache and PMG_GUARD(GUARD_SWAPCACHE))
    cdef uint32_t *used = &m.ptdesc[leaf].used
    count_event(c, C_LOCK_PTL, pte_present(old))
    if pte_pfn(old) != pfn or not pte_present(old) or old & PTE_SPECIAL:
        return
    if vma_flags(w.vma) & VM_DONTMIGRATE or (w.mlocked and (m.profile.locked_fails and PMG_GUARD(GUARD_MLOCKED) or st.swapping)):
        if st.swapping:
            pmg_and(p, ~PTE_A)              # reclaim tests and clears the accessed bit before it unmaps a page
        st.rc[i] = -EPERM                   # PTEs replaced before stay replaced
        return
    if stays:
        entry = make_migration_entry(SWP_MIGRATION_WRITE if old & PTE_RW else SWP_MIGRATION_READ, pfn, 0)
    elif s & PG_anon:
        entry = slot_entry(m, m.swap_entry[pfn])
        swap_duplicate(c, m.swap_entry[pfn])
    else:
        pmg_store32(used, used[0] - 1)
    if all_noted(old):
        pmg_store_sole(SOLE_ENTRY, p, entry)
    else:
        old = pmg_xchg(p, entry)
    count_event(c, C_TLB_FLUSH, 1)
    flush_tlb(c, w.vma.mm, vpn, 1, PMG_F_MIGRATE)
    if old & PTE_D and not s & PG_dirty:    # the page lock keeps it dirty
        pmg_or(&m.frames[pfn].state, PG_dirty)
    if w.mlocked:
        munlock_vma_page(c, pfn)
    # An exclusive page has only this mapping, which changes only under the lock of this leaf: drop all three in one step.
    pmg_sub(&m.frames[pfn].state, MAP_ONE + REF_ONE + (s & PG_anon_exclusive))
    if stays or (m.profile.engine == 1 and s & PG_anon):
        st.unmapped[i] += 1                 # found again if the page moves
    else:
        count_event(c, C_PTES_DROPPED, 1)
    if not stays and s & PG_anon:
        w.rss_anon -= 1
    elif not stays:
        add_mm_counter(m, w.vma, s, -1)
    trace(c, STEP_UNMAP, pfn, vpn)


cdef void restore_count_now(
        walk_t *w, stage_t *st, uint32_t i, pte_t *p, uint64_t vpn, uint32_t new, bint alone) noexcept nogil:
    """``remove_migration_pte`` and ``unuse_pte``: the new PTE is old and clean, after a swap entry also read-only.

    ``alone`` as in restore_one.
    """
    cdef ctx_t *c = w.c
    cdef machine_t *m = c.m
    cdef uint64_t *word = &m.frames[new].state
    cdef pte_t e = pmg_load(p), pte = (w.prot | <pte_t> new << 12) & ~PTE_A
    cdef uint64_t exclusive = 0
    count_event(c, C_LOCK_PTL, e != 0 and not pte_present(e))
    if st.state[i] & PG_swapcache:
        if m.profile.engine != 1 or e != slot_entry(m, m.swap_entry[new]):
            return
        if not page_try_map(m, new, 1):
            return                          # the entry stays, and a fault on it reports that the count is full
        mlock_vma_page(c, new, w.vma)
        w.rss_anon += 1
        pmg_store_rel(p, pte)
        swap_free(c, m.swap_entry[new])
    else:
        if (migration_entry_to_pfn(e) != st.src[i] or not is_migration_entry(e)) and PMG_GUARD(GUARD_UNMAPPED_ENTRY):
            return
        if swp_type(e) == SWP_MIGRATION_WRITE and w.writable:
            pte |= PTE_RW
            if st.state[i] & PG_anon:
                exclusive = PG_anon_exclusive
        if alone:                           # the entry takes over our reference
            pmg_store_sole(SOLE_PUBLISHED, word, (pmg_load(word) + MAP_ONE & ~PG_locked) | PG_lru | exclusive)
            st.open[i] = PUBLISHED
        else:
            pmg_add(word, MAP_ONE + REF_ONE)
            if exclusive:
                pmg_or(word, exclusive)
        if w.mlocked and PMG_GUARD(GUARD_MLOCKED):
            mlock_vma_page(c, new, w.vma)
        pmg_store_sole(SOLE_RESTORED, p, pte)
    st.restored[i] += 1
    trace(c, STEP_RESTORE if new != st.src[i] else TRACE_ROLLBACK, new, vpn)


cdef inline void restore_one(
        const walk_t *w, stage_t *st, uint32_t i, pte_t *p, uint64_t vpn, uint32_t new, bint alone) noexcept nogil:
    """``remove_migration_pte``: replace the entry of src[i] by a PTE for ``new`` (the target, or the source on rollback).

    ``alone``: no other VMA can map the page, so this store publishes the target.  Until then its record is private, and its
    final state is stored without a locked instruction, unlocked and without our reference.  The kernel takes the page-table
    lock before it looks at the entry; it is counted as in unmap_one.
    """
    cdef uint64_t *word = &w.frames[new].state
    cdef pte_t e = pmg_load(p), pte
    cdef bint exclusive
    if migration_entry_to_pfn(e) != st.src[i] or not is_migration_entry(e):
        count_event(w.c, C_LOCK_PTL, 1)
        return
    # A dirty entry has a dirty page: unmapping transferred the PTE's dirty bit to the page.
    pte = w.prot | <pte_t> new << 12 | migration_entry_bits(e)
    exclusive = swp_type(e) != SWP_MIGRATION_READ and st.state[i] & PG_anon != 0
    if swp_type(e) == SWP_MIGRATION_WRITE and w.writable:
        pte |= PTE_RW
    if alone:
        pmg_store_sole(
            SOLE_PUBLISHED, word,
            (pmg_load(word) - REF_ONE & ~PG_locked) | PG_lru | (PG_anon_exclusive if exclusive else 0))
        st.open[i] = PUBLISHED
    else:
        if st.restored[i] >= st.unmapped[i]:
            pmg_add(word, MAP_ONE + REF_ONE)            # fork copied an entry meanwhile
        if exclusive and not pmg_load(word) & PG_anon_exclusive:
            pmg_or(word, PG_anon_exclusive)
        if w.mlocked and PMG_GUARD(GUARD_MLOCKED):
            mlock_vma_page(w.c, new, w.vma)
    st.restored[i] += 1
    pmg_store_sole(SOLE_RESTORED, p, pte)           # a migration entry only changes under the leaf's lock
    if w.tracing:
        count_event(w.c, C_LOCK_PTL, 1)
        trace(w.c, STEP_RESTORE if new != st.src[i] else TRACE_ROLLBACK, new, vpn)


cdef inline bint wanted(stage_t *st, uint32_t i, bint restore, bint moved) noexcept nogil:
    """Whether the walk handles a page: when unmapping, one without error; when restoring, one moved or one failed."""
    if not restore:
        return st.rc[i] == 0
    if st.unmapped[i] == 0 and st.counts_mask:
        return False
    return st.rc[i] == 0 if moved else st.rc[i] < 0


cdef void note_flushes(ctx_t *c, uint32_t mm, uint32_t n) noexcept nogil:
    """Count the flushes of ``n`` unmapped entries, of which no callback hears one by one."""
    if in_batches(c.m):
        flush_later(c, mm)
    else:
        count_flushes(c, mm, n)


cdef void walk_vma(
        ctx_t *c, stage_t *st, uint32_t a, uint32_t b, vma_t *vma, bint restore, bint moved,
        bint only) noexcept nogil:
    """Visit the entries of pages [a, b) in one VMA; the leaf's lock is kept while the leaf stays the same."""
    cdef machine_t *m = c.m
    cdef uint32_t leaf = 0, i, off
    cdef uint64_t base = <uint64_t> -1, vpn
    cdef uint32_t pgd = mm_of(m, vma.mm).pgd, pgoff = <uint32_t> vma.pgoff
    cdef uint64_t start = vma.start, pages = vma.end - start        # stable under the rmap lock
    cdef uint32_t flags = vma_flags(vma)
    cdef bint count_now = m.profile.counts_drop != 0, alone
    cdef const uint32_t *to = &st.dst[0] if moved else &st.src[0]
    cdef pte_t *table = NULL

    cdef walk_t w
    w.c = c
    w.vma = vma
    w.frames = m.frames
    w.prot = page_prot(m, vma, flags) if restore else 0
    w.mlocked = flags & VM_LOCKED != 0              # changes under the locks of the trees only
    w.writable = flags & VM_WRITE != 0
    w.tracing = m.tracing != 0
    w.heard = pmg_unlikely(c.watch != NULL) and not restore and not in_batches(m) and hears_flushes(c)
    w.told = w.tracing or w.heard
    w.noted = w.tracing or c.watch != NULL
    w.gone = 0
    w.rss_anon = 0
    alone = only and moved and not w.mlocked
    w.unseen = count_now and m.profile.engine == 0 and c.pause_fn == NULL and not steps_show(c)

    for i in range(a, b):
        if not wanted(st, i, restore, moved):
            continue
        off = st.index[i] - pgoff           # vma_address
        if off >= pages:
            continue
        vpn = start + off
        if leaf_number(vpn) != base:
            if leaf:
                pte_unlock(c, leaf)
            base = leaf_number(vpn)
            leaf = walk_leaf(m, pgd, vpn)
            if not leaf:
                base = <uint64_t> -1        # look again for the next page
                continue
            pte_lock_uncounted(c, leaf)
            table = table_entries(m, leaf)
            if restore and vma_flags(vma) != flags:     # mprotect may have passed this leaf already
                flags = vma_flags(vma)
                w.prot = page_prot(m, vma, flags)
                w.writable = flags & VM_WRITE != 0
        if count_now:
            if restore:
                restore_count_now(
                    &w, st, i, table + pte_index(vpn), vpn, to[i],
                    w.unseen and alone and st.unmapped[i] == 1 and
                    (st.state[i] & (PG_anon | PG_swapcache)) == PG_anon)
            else:
                unmap_count_now(&w, st, i, leaf, table + pte_index(vpn), vpn)
        elif restore:

            restore_one(
                &w, st, i, table + pte_index(vpn), vpn, to[i],
                alone and st.unmapped[i] == 1 and st.state[i] & PG_anon != 0)
        else:
            pmg_prefetchw(&w.frames[st.dst[i]])         # spread over the walk: prefetches in a burst are dropped
            unmap_one(&w, st, i, table + pte_index(vpn), vpn)
    if leaf:
        pte_unlock(c, leaf)
    if w.rss_anon:
        add_mm_counter(m, vma, PG_anon, w.rss_anon)
    if pmg_unlikely(w.gone and c.watch != NULL) and not w.heard:
        note_flushes(c, vma.mm, w.gone)


cdef void walk_tree(
        ctx_t *c, stage_t *st, uint32_t a, uint32_t b, uint32_t tree, bint restore, bint moved) noexcept nogil:
    """Walk all VMAs of one object that may map the group of pages [a, b); the object's rmap lock is held."""
    cdef uint32_t vmas[16]
    cdef uint32_t i, j, skip
    cdef uint32_t n = rmap_vmas(c.m, tree, st.hold[a].lo, st.hold[a].hi, 0, vmas, RMAP_MAX)
    if n < RMAP_MAX:
        for j in range(n):
            walk_vma(c, st, a, b, vma_of(c.m, vmas[j]), restore, moved, n == 1)
        return
    for i in range(a, b):                   # many VMAs: search page by page, so that the cost follows actual mappings
        skip = 0
        n = RMAP_MAX
        while n == RMAP_MAX:
            n = rmap_vmas(c.m, tree, st.index[i], st.index[i], skip, vmas, RMAP_MAX)
            for j in range(n):
                walk_vma(c, st, i, i + 1, vma_of(c.m, vmas[j]), restore, moved, False)
            skip += n


cdef inline int any_result(stage_t *st, uint32_t a, uint32_t b) noexcept nogil:
    """Combine the results of pages [a, b) by OR: 0 if all are 0, negative if one failed.  Branch-free, to vectorise."""
    cdef int bits = 0
    cdef uint32_t i
    if b - a == 1:                          # setting up the vector loop costs more than one page
        return st.rc[a]
    for i in range(a, b):
        bits |= st.rc[i]
    return bits


cdef inline bint same_object(stage_t *st, uint32_t i, uint32_t j) noexcept nogil:
    return st.mapping[i] == st.mapping[j] and not (st.state[i] ^ st.state[j]) & PG_anon


cdef inline bint others_after(stage_t *st, uint32_t a) noexcept nogil:
    """Whether a page after page ``a`` is of another object or not locked here.  Branch-free, to vectorise."""
    cdef uint32_t i, differ = 0, mapping = st.mapping[a]
    cdef uint64_t kinds = 0, state = st.state[a]
    for i in range(a, st.n):
        differ |= (st.mapping[i] ^ mapping) | (st.open[i] ^ OPEN)
    for i in range(a, st.n):
        kinds |= st.state[i] ^ state
    return differ != 0 or kinds & PG_anon != 0


cdef void find_group(stage_t *st, uint32_t a) noexcept nogil:
    """Find the group of pages from ``a`` on that share an anon_vma or file; a page not locked here is its own group."""
    cdef uint32_t b = st.n, i, lo = st.index[a], hi = st.index[a]
    if b - a == 1:
        st.hold[a].end = b
        st.hold[a].lo = st.hold[a].hi = lo
        return
    if others_after(st, a):
        b = a + 1
        while st.open[a] and b < st.n and st.open[b] and same_object(st, a, b):
            b += 1
    for i in range(a, b):
        lo = min(lo, st.index[i])
        hi = max(hi, st.index[i])
    st.hold[a].end = b
    st.hold[a].lo = lo
    st.hold[a].hi = hi


cdef uint32_t hold_mapping_mm(ctx_t *c, stage_t *st, uint32_t a, uint32_t b, uint32_t av) noexcept nogil:
    """Find an address space in the locked anon_vma whose VMAs stay, through its mmap_lock; 0 when there is none.

    It is the one whose mmap_lock the caller holds, or the first whose trylock succeeds: mmap_lock comes before page locks,
    and a holder for writing may be waiting for one of ours.
    """
    cdef machine_t *m = c.m
    cdef uint32_t vmas[16]
    cdef uint32_t i, j, n, skip, mm, tree = anon_vma_of(m, av).tree
    for i in range(a, b):
        skip = 0
        n = RMAP_MAX
        while n == RMAP_MAX:
            n = rmap_vmas(m, tree, st.index[i], st.index[i], skip, vmas, RMAP_MAX)
            for j in range(n):
                mm = vma_of(m, vmas[j]).mm
                if mm == st.keep.mm if st.keep.how == KEEP_MMAP_LOCK else mmap_hold(mm_of(m, mm)):
                    return mm
            skip += n
    return 0


cdef bint mmap_hold(mm_t *mm) noexcept nogil:
    """Take mmap_lock for reading and a reference on an address space found in a reverse map; never waits."""
    cdef uint32_t n
    if not pmg_read_trylock(&mm.lock):
        return False
    n = pmg_load32(&mm.users)
    while n and not pmg_cas32(&mm.users, n, n + 1):
        n = pmg_load32(&mm.users)
    if n == 0:
        pmg_read_unlock(&mm.lock)           # being torn down
    return n != 0


cdef bint keep_anon_vma(ctx_t *c, stage_t *st, uint32_t a, uint32_t b, hold_t *h) noexcept nogil:
    """Take what keeps a locked anon_vma alive, by ``st.keep``.  False: it cannot be had, do not unmap the pages."""
    cdef uint32_t i
    if st.keep.how == KEEP_MMAP_LOCK or st.keep.how == KEEP_TRYLOCK:
        h.mm = hold_mapping_mm(c, st, a, b, h.av)
        if h.mm == 0:
            for i in range(a, b):
                st.rc[i] = st.rc[i] or -EAGAIN
            return False
    return True


cdef void release_mms(ctx_t *c, const uint32_t *mms, uint32_t n) noexcept nogil:
    """Drop what mmap_hold took, when no page is locked any more: the last reference tears the address space down."""
    cdef uint32_t i
    for i in range(n):
        mmap_read_unlock(c, mms[i])
        mmput(c, mms[i])


cdef uint32_t walked(stage_t *st, uint32_t a, uint32_t b) noexcept nogil:
    """Set ``st.walked`` after a walk that began without errors: pages unmapped or refused.  Branch-free; returns how many."""
    cdef uint32_t i, n = 0
    for i in range(a, b):
        st.walked[i] = <uint32_t> ((st.unmapped[i] | <uint32_t> st.rc[i]) != 0)
        n += st.walked[i]
    return n


cdef uint32_t walks_to_unmap(stage_t *st, uint32_t a, uint32_t b, bint unmapped_too) noexcept nogil:
    """Count the pages of a group for which the kernel walks the reverse map; ``st.walked`` notes them for the restore."""
    cdef uint32_t i, n = 0
    for i in range(a, b):
        st.walked[i] = <uint32_t> (st.rc[i] == 0) & (<uint32_t> (frame_maps(st.state[i]) != 0) | <uint32_t> unmapped_too)
        n += st.walked[i]
    return n


cdef uint32_t walks_to_restore(stage_t *st, uint32_t a, uint32_t b, bint moved_only) noexcept nogil:
    cdef uint32_t i, n = 0
    if b - a == 1:
        return st.rc[a] < HELD and (st.rc[a] == 0 if moved_only else st.walked[a] != 0)
    for i in range(a, b):
        n += (<uint32_t> (st.rc[i] == 0) if moved_only else st.walked[i]) & <uint32_t> (st.rc[i] < HELD)
    return n


cdef void unmap_group(ctx_t *c, stage_t *st, uint32_t a, hold_t *h) noexcept nogil:
    """``try_to_migrate``; ``*h`` keeps the anon_vma alive until the group is restored, as ``st.keep`` says."""
    cdef machine_t *m = c.m
    cdef file_t *f
    cdef uint32_t i, b = h.end
    cdef bint in_order
    h.av = 0
    h.mm = 0
    if st.mapping[a] == 0 and PMG_GUARD(GUARD_NO_MAPPING):
        return
    if not st.state[a] & PG_anon:
        f = file_of(m, st.mapping[a])
        i_mmap_lock_read(c, f, walks_to_unmap(st, a, b, m.profile.counts_drop))     # counts_drop: walks for unmapped pages too
        walk_tree(c, st, a, b, f.tree, False, False)
        i_mmap_unlock_read(c, f)
        return
    for i in range(a, b):
        h.av = page_get_anon_vma(m, st.src[i])
        if h.av:
            break
    if not h.av:
        return                              # no page of the group is mapped
    in_order = not m.profile.counts_drop and not m.tracing and any_result(st, a, b) == 0
    anon_vma_lock_read(c, h.av, 0 if in_order else walks_to_unmap(st, a, b, False))
    if st.keep.how == KEEP_REFCOUNT or keep_anon_vma(c, st, a, b, h):
        walk_tree(c, st, a, b, anon_vma_of(m, h.av).tree, False, False)
    if in_order:
        count_event(c, C_LOCK_ANON_VMA, walked(st, a, b))
    anon_vma_unlock_read(c, h.av)
    if st.keep.how != KEEP_REFCOUNT:
        put_anon_vma(m, h.av)


cdef void restore_group(ctx_t *c, stage_t *st, uint32_t a, const hold_t *h) noexcept nogil:
    """``remove_migration_ptes``: entries of moved pages to their targets, of failed pages back to their sources."""
    cdef machine_t *m = c.m
    cdef file_t *f
    # remove_from_swap searches for entries of the slot even if the page was not mapped.
    cdef uint32_t root, b = h.end, av = st.mapping[a] if m.profile.engine == 1 else h.av
    cdef bint failed = any_result(st, a, b) < 0 and m.profile.engine == 0       # swap entries of failed pages stay
    if st.mapping[a] == 0:
        return
    if not st.state[a] & PG_anon:
        if m.profile.engine == 1:
            return                          # file pages left no entries
        f = file_of(m, st.mapping[a])
        i_mmap_lock_read(c, f, walks_to_restore(st, a, b, False))
        walk_tree(c, st, a, b, f.tree, True, True)
        if failed:
            walk_tree(c, st, a, b, f.tree, True, False)
        i_mmap_unlock_read(c, f)
    elif av:
        # With more than KEEP_RCU the anon_vma is alive, and 0 means that it has no VMA left.
        root = anon_vma_lock_typed(c, av, walks_to_restore(st, a, b, m.profile.engine == 1))
        if root == 0:
            return
        walk_tree(c, st, a, b, anon_vma_of(m, av).tree, True, True)
        if failed:
            walk_tree(c, st, a, b, anon_vma_of(m, av).tree, True, False)
        anon_vma_unlock_typed(c, root)


# -- freeze, copy ------------------------------------------------------------------------------------------------------


cdef inline uint64_t copied_late(uint64_t s) noexcept nogil:
    """Select the flags that the target gets only when it is unlocked."""
    return s & PG_uptodate if s & PG_cached else 0


cdef inline void init_target(frame_t *frames, stage_t *st, uint32_t i, uint64_t copied, uint64_t refs) noexcept nogil:
    """Set the target's record, private until its PTE or cache slot is published, with our reference and the page lock.

    It is not on the LRU yet: there another caller could isolate it by number, under the plain store of restore_one.  A page
    of a file is not up to date until its content is copied: a reader that finds it in the slot waits for the lock.
    """
    cdef frame_t *d = &frames[st.dst[i]]
    d.mapping = st.mapping[i]
    d.index = st.index[i]
    pmg_store_sole(SOLE_TARGET, &d.state, copied | PG_dirty * st.dirty[i] | PG_locked | (REF_ONE + refs))


cdef inline uint64_t frozen(uint64_t s) noexcept nogil:
    """Compute the state of a source whose page has moved: only our reference, and the kind of page for zaps of entries."""
    return (s & (PG_anon | PG_swapbacked)) | PG_locked | PG_isolated | REF_ONE


cdef inline bint freeze_anon(frame_t *frames, stage_t *st, uint32_t i, uint64_t counted) noexcept nogil:
    """``migrate_page_move_mapping``: freeze a page if its references are only the isolation's and its entries'; else False."""
    cdef uint64_t *word = &frames[st.src[i]].state
    cdef uint64_t s = pmg_load(word)
    while True:
        if ((frame_refs(s) != 1 + counted and PMG_GUARD(GUARD_PINNED)) or frame_maps(s) != counted) and \
                PMG_GUARD(GUARD_MISSED_MAPPING):
            st.rc[i] = -EAGAIN
            return False
        if pmg_cas(word, s, frozen(s)):
            break
        s = pmg_load(word)
    init_target(frames, st, i, s & PG_COPIED, (REF_ONE + MAP_ONE) * counted)
    return True


cdef void freeze_swap(ctx_t *c, stage_t *st, uint32_t i) noexcept nogil:
    """Freeze an anonymous page in the swap cache: one more reference, and the cache entry of its slot is switched."""
    cdef machine_t *m = c.m
    cdef uint64_t *word = &m.frames[st.src[i]].state
    cdef uint32_t slot = m.swap_entry[st.src[i]]
    cdef uint64_t s
    swap_tree_lock(c)
    s = pmg_load(word)
    if (frame_maps(s) or (frame_refs(s) != 2 and PMG_GUARD(GUARD_PINNED)) or m.swap_cache[slot] != st.src[i]) and \
            PMG_GUARD(GUARD_MISSED_MAPPING) or not pmg_cas(word, s, frozen(s)):
        st.rc[i] = -EAGAIN
    else:
        init_target(m.frames, st, i, s & PG_COPIED | PG_swapcache, REF_ONE)
        m.swap_entry[st.dst[i]] = slot
        m.swap_entry[st.src[i]] = 0
        pmg_store32(&m.swap_cache[slot], st.dst[i])
    swap_tree_unlock(c)


cdef inline bint cannot_move(file_t *f, stage_t *st, uint32_t i, uint64_t s) noexcept nogil:
    """Whether a page is dirty on a file system with neither migratepage nor writepage (ramfs)."""
    return f.kind == FILE_RAMFS and (s & PG_dirty or st.dirty[i]) and PMG_GUARD(GUARD_DIRTY)


cdef void freeze_file(ctx_t *c, stage_t *st, uint32_t i) noexcept nogil:
    """Freeze a file page: more references for the cache and for buffers, and its slot is switched under file.lock."""
    cdef machine_t *m = c.m
    cdef file_t *f = file_of(m, st.mapping[i])
    cdef uint64_t *word = &m.frames[st.src[i]].state
    cdef uint64_t s, buffers, counted = st.unmapped[i] & st.counts_mask
    count_event(c, C_LOCK_TREE, 1)
    pmg_spin_lock(&f.lock)
    s = pmg_load(word)
    buffers = 1 if s & PG_private else 0
    if cannot_move(f, st, i, s):
        st.rc[i] = -EAGAIN if m.profile.engine == 1 else -EINVAL
    elif ((st.index[i] >= f.cache.n or vec_at(m, &f.cache)[st.index[i]] != st.src[i] or not s & PG_cached or
            frame_refs(s) != 2 + buffers + counted or frame_maps(s) != counted) and PMG_GUARD(GUARD_SLOT)) or \
            not pmg_cas(word, s, frozen(s)):
        st.rc[i] = -EAGAIN
    else:
        init_target(
            m.frames, st, i, s & (PG_COPIED | PG_private) & ~copied_late(s),
            (REF_ONE + MAP_ONE) * counted + REF_ONE * (1 + buffers))
        vec_at(m, &f.cache)[st.index[i]] = st.dst[i]
    pmg_spin_unlock(&f.lock)


cdef int fallback_migrate_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Write a dirty page, so that a later pass finds it clean; of a clean page release the buffers: 0 if it can move.

    Kernels with migration entries restore them before writing, which may drop the page lock; here it stays held.
    """
    cdef uint64_t s = page_state(c.m, pfn)
    if s & PG_dirty:
        if c.m.profile.engine == 0 or (frame_maps(s) == 0 and frame_refs(s) == (3 if s & PG_private else 2)):
            file_writepage(c, pfn)
        return -EAGAIN
    return 0 if try_to_release_page(c, pfn) else -EAGAIN


cdef void stage_fallback(ctx_t *c, stage_t *st) noexcept nogil:
    cdef uint32_t i
    for i in range(st.n):
        if st.rc[i] == 0 and not st.state[i] & PG_anon and file_of(c.m, st.mapping[i]).kind == FILE_MINIX:
            st.rc[i] = fallback_migrate_page(c, st.src[i])
            if st.rc[i]:
                pass_target_on(c.m, st, i)


cdef void stage_check(ctx_t *c, stage_t *st) noexcept nogil:
    """Skip the copy of pages with unexpected references; the freeze checks again."""
    cdef machine_t *m = c.m
    cdef uint32_t i, refs
    cdef uint64_t s
    for i in range(st.n):
        if st.rc[i]:
            continue
        s = page_state(m, st.src[i])
        refs = 1 + st.unmapped[i]
        if not st.state[i] & PG_anon:
            refs += 2 if s & PG_private else 1
            if cannot_move(file_of(m, st.mapping[i]), st, i, s):
                st.rc[i] = -EINVAL
                continue
        if frame_refs(s) != refs:
            st.rc[i] = -EAGAIN


cdef void stage_freeze(ctx_t *c, stage_t *st) noexcept nogil:
    """Freeze all pages and switch their mappings.  A failed page's target is passed on, unless batches or copies keep it."""
    cdef frame_t *frames = c.m.frames
    cdef bint pass_on = not c.m.profile.copy_first and not in_batches(c.m)
    cdef uint32_t i, mask = st.counts_mask
    for i in range(st.n):
        if st.rc[i]:
            continue
        if not st.state[i] & PG_anon:
            freeze_file(c, st, i)
        elif pmg_unlikely(st.state[i] & PG_swapcache != 0):
            freeze_swap(c, st, i)
        elif pmg_likely(freeze_anon(frames, st, i, st.unmapped[i] & mask)):
            continue
        if st.rc[i] and pass_on:
            pass_target_on(c.m, st, i)


cdef void stage_copy(ctx_t *c, stage_t *st) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t src[STAGE]
    cdef uint32_t dst[STAGE]
    cdef uint32_t i, n = 0
    if m.page_bytes == 0 and not m.tracing:
        if pmg_likely(c.watch == NULL):
            return
        if any_result(st, 0, st.n) == 0:
            count_copies(c, st.src, st.dst, st.n)
            return
    for i in range(st.n):
        if st.rc[i]:
            continue
        trace(c, STEP_COPY, st.src[i], st.dst[i])
        if m.page_bytes == 8:
            (<uint64_t *> page_address(m, st.dst[i]))[0] = (<uint64_t *> page_address(m, st.src[i]))[0]
        src[n] = st.src[i]
        dst[n] = st.dst[i]
        n += 1
    if m.page_bytes == 4096 and n:
        pmg_copy_pages(<char *> m.content, dst, src, n)
        pmg_copy_fence()
    if pmg_unlikely(c.watch != NULL):
        count_copies(c, src, dst, n)


cdef void stage_tag(ctx_t *c, stage_t *st) noexcept nogil:
    """The end of ``migrate_page_copy``: clear the source's mapping, and tag a dirty target in its tree (``set_page_dirty``).
    """
    cdef uint32_t i
    cdef file_t *f
    for i in range(st.n):
        if st.rc[i]:
            continue
        pmg_store32(&c.m.frames[st.src[i]].mapping, 0)
        if not page_state(c.m, st.dst[i]) & PG_dirty:
            continue
        if st.state[i] & PG_swapcache:
            swap_tree_lock(c)
            swap_tree_unlock(c)
        elif not st.state[i] & PG_anon:
            f = file_of(c.m, st.mapping[i])
            count_event(c, C_LOCK_TREE, 1)
            pmg_spin_lock(&f.lock)
            pmg_spin_unlock(&f.lock)


cdef void stage_unswap(ctx_t *c, stage_t *st) noexcept nogil:
    """The end of ``remove_from_swap``: free the slot of a page whose entries are all restored."""
    cdef uint32_t i, slot
    for i in range(st.n):
        if st.rc[i] == 0 and st.state[i] & PG_anon:
            slot = c.m.swap_entry[st.dst[i]]
            if pmg_load32(&c.m.swap_map[slot]) == 1:        # an entry that was not found still needs it
                delete_from_swap_cache(c, st.dst[i])


# -- the end of a stage ----------------------------------------------------------------------------------------


cdef void settle_target(ctx_t *c, stage_t *st, uint32_t i) noexcept nogil:
    """Adjust the target's counts to the entries actually restored, put it on the LRU, unlock it, drop our reference."""
    cdef uint64_t *word = &c.m.frames[st.dst[i]].state
    cdef uint32_t counted = st.unmapped[i] & st.counts_mask
    if st.restored[i] < counted and PMG_GUARD(GUARD_UNMAPPED_ENTRY):         # zapped meanwhile
        pmg_sub(word, (MAP_ONE + REF_ONE) * (counted - st.restored[i]))
    if frame_refs(pmg_sub(word, REF_ONE + PG_locked - PG_lru - copied_late(st.state[i]))) == 0:
        free_pages(c, &st.dst[i], 1)


cdef void settle_source(ctx_t *c, stage_t *st, uint32_t i) noexcept nogil:
    """Roll back a source, which stays isolated: adjust its counts to the entries restored, transfer dirty bits, unlock."""
    cdef uint64_t *word = &c.m.frames[st.src[i]].state
    cdef uint32_t counted = st.unmapped[i] & st.counts_mask
    if counted:
        if st.dirty[i]:
            pmg_or(word, PG_dirty)
        if st.restored[i] < counted:
            pmg_sub(word, (MAP_ONE + REF_ONE) * (counted - st.restored[i]))
    pmg_and(word, ~PG_locked)


cdef void putback_lists(ctx_t *c, stage_t *st, uint32_t i) noexcept nogil:
    """Finish a page for four lists: a moved source keeps the isolation's reference, and those of waiters if any."""
    cdef uint32_t pfn = st.src[i]
    cdef uint64_t *word = &c.m.frames[pfn].state
    if st.rc[i] == 0:
        if st.open[i] != PUBLISHED:
            settle_target(c, st, i)
        # As in stage_putback: locked, with our reference alone and unreachable, it has no other writer.
        if pmg_load_acq(word) == frozen(st.state[i]):
            pmg_store_sole(SOLE_LEFT, word, PG_isolated | REF_ONE)
        else:
            pmg_and(word, ~(PG_locked | PG_anon | PG_swapbacked))
        trace(c, STEP_PUTBACK, pfn, st.dst[i])
    elif st.open[i]:
        settle_source(c, st, i)


cdef void stage_putback(ctx_t *c, stage_t *st) noexcept nogil:
    """Free the moved sources together, except those on which a waiter has a reference: its put frees them.

    With four lists, pages and unused targets stay isolated with the caller.
    """
    cdef frame_t *frames = c.m.frames
    cdef bint tracing = c.m.tracing != 0
    cdef uint32_t done[64]
    cdef uint32_t unused[64]
    cdef uint32_t i, n = 0, spare = 0, dropped = 0, restored = 0
    cdef uint64_t *word
    for i in range(st.n):
        if st.rc[i] >= HELD:
            continue
        dropped += st.unmapped[i]
        restored += st.restored[i]
        if pmg_unlikely(c.m.profile.four_lists):
            putback_lists(c, st, i)
            continue
        word = &frames[st.src[i]].state
        if st.rc[i] == 0:
            if pmg_unlikely(st.open[i] != PUBLISHED):
                settle_target(c, st, i)
            # Without an entry the page is unreachable: if our reference is the only one, it stays so.
            if pmg_likely(pmg_load_acq(word) == frozen(st.state[i])):
                done[n] = st.src[i]
                n += 1
            else:
                pmg_and(word, ~(PG_locked | PG_isolated | PG_anon | PG_swapbacked))
                put_page(c, st.src[i])
            if pmg_unlikely(tracing):
                trace(c, STEP_PUTBACK, st.src[i], st.dst[i])
            continue
        unused[spare] = st.dst[i]
        spare += 1
        if st.rc[i] == 1:
            pmg_and(word, ~PG_isolated)
            put_page(c, st.src[i])
        elif st.open[i]:
            settle_source(c, st, i)
    count_event(c, C_PTES_DROPPED, dropped)
    count_event(c, C_PTES_RESTORED, restored)
    if not tracing and not c.m.profile.counts_drop:
        count_event(c, C_LOCK_PTL, dropped + restored)  # else counted where each is taken
    if not in_batches(c.m) and not c.m.profile.counts_drop:
        count_event(c, C_TLB_FLUSH, dropped)            # one per entry; unmap_count_now counts its own
    if n:
        free_pages(c, done, n)
    if spare:
        free_pages(c, unused, spare)


cdef void stage_unmap(ctx_t *c, stage_t *st, const target_t *t, uint32_t force) noexcept nogil:
    """Allocate, lock, unmap; results in st.rc[0..st.n), where st.n shrinks to the number of targets."""
    at_step(c, STEP_ISOLATE, st)
    stage_alloc(c, st, t)
    st.n = st.got
    if st.n:
        stage_take(c, st, t.keep, force)


cdef void stage_take(ctx_t *c, stage_t *st, kept_by_t keep, uint32_t force) noexcept nogil:
    """Lock and unmap pages that have their targets."""
    st.keep = keep
    at_step(c, STEP_ALLOC, st)
    stage_lock(c, st, force)
    stage_unmap_locked(c, st)


cdef void stage_unmap_locked(ctx_t *c, stage_t *st) noexcept nogil:
    cdef uint32_t a = 0
    if c.m.profile.engine == 1:
        stage_swap(c, st)
    at_step(c, STEP_LOCK, st)
    while a < st.n:
        find_group(st, a)
        if st.open[a]:
            unmap_group(c, st, a, &st.hold[a])
        a = st.hold[a].end
    pass_targets_on(c.m, st)
    at_step(c, STEP_UNMAP, st)
    if not in_batches(c.m):                 # else once per batch
        pause_stage(c, PAUSE_UNMAPPED, st)


cdef void stage_unmap_only(ctx_t *c, stage_t *st) noexcept nogil:
    """Unmap pages for swapping out: entries are not restored, so the anon_vma need not be kept."""
    cdef uint32_t i, a = 0
    st.counts_mask = 0
    st.keep.how = KEEP_REFCOUNT
    st.swapping = True
    for i in range(st.n):
        st.rc[i] = 0
        st.open[i] = OPEN
        st.state[i] = page_state(c.m, st.src[i])
        st.mapping[i] = c.m.frames[st.src[i]].mapping
        st.index[i] = c.m.frames[st.src[i]].index
        st.unmapped[i] = 0
    while a < st.n:
        find_group(st, a)
        unmap_group(c, st, a, &st.hold[a])
        if st.keep.how == KEEP_REFCOUNT and st.hold[a].av:
            put_anon_vma(c.m, st.hold[a].av)
        a = st.hold[a].end
    at_step(c, STEP_UNMAP, st)


cdef void stage_move(ctx_t *c, stage_t *st) noexcept nogil:
    """Switch to the target where the references allow, and copy; from 6.11 on the copy comes first."""
    cdef uint32_t i
    if pmg_unlikely(c.abort):
        for i in range(st.n):
            st.rc[i] = st.rc[i] if st.rc[i] else -EAGAIN
    if c.m.profile.copy_first:
        stage_check(c, st)
        stage_copy(c, st)
        at_step(c, STEP_COPY, st)
    if c.m.profile.counts_drop:
        stage_fallback(c, st)
    stage_freeze(c, st)
    at_step(c, STEP_FREEZE, st)
    if not c.m.profile.copy_first:
        stage_copy(c, st)
        if c.m.profile.counts_drop:
            stage_tag(c, st)
        at_step(c, STEP_COPY, st)
    pause_stage(c, PAUSE_COPIED, st)


cdef void stage_end(ctx_t *c, stage_t *st, bint last) noexcept nogil:
    """Restore and put back all pages except those HELD; ``last``: none is."""
    cdef uint32_t mms[64]
    cdef uint32_t a = 0, n = 0
    while a < st.n:
        if st.open[a]:
            restore_group(c, st, a, &st.hold[a])
            if last and st.keep.how == KEEP_REFCOUNT and st.hold[a].av:
                put_anon_vma(c.m, st.hold[a].av)
            elif last and st.keep.how == KEEP_TRYLOCK and st.hold[a].mm:
                mms[n] = st.hold[a].mm
                n += 1
        a = st.hold[a].end
    if c.m.profile.engine == 1:
        stage_unswap(c, st)
    at_step(c, STEP_RESTORE, st)
    stage_putback(c, st)
    release_mms(c, mms, n)
    at_step(c, STEP_PUTBACK, st)
    if pmg_unlikely(c.watch != NULL):
        stage_moved(c, st)
    pause_stage(c, PAUSE_STAGE, st)


cdef void run_stage(ctx_t *c, stage_t *st, const target_t *t, uint32_t force) noexcept nogil:
    """Run one stage from allocation to putback."""
    stage_unmap(c, st, t, force)
    if st.n:
        stage_move(c, st)
        stage_end(c, st, True)


cdef void stage_goes_on(ctx_t *c, stage_t *st, uint32_t force) noexcept nogil:
    if st.at == AT_LOCK:
        stage_lock_again(c, st, force)
        stage_unmap_locked(c, st)
    if in_batches(c.m):
        return
    if st.at <= PAUSE_UNMAPPED or st.at == AT_LOCK:
        stage_move(c, st)
    if st.at <= PAUSE_COPIED or st.at == AT_LOCK:
        stage_end(c, st, True)


# -- passes ----------------------------------------------------------------------------------------------------


cdef void load_stage(ctx_t *c, stage_t *st, const target_t *t, const uint32_t *pfns, uint64_t n) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t i
    st.n = <uint32_t> min(n, <uint64_t> stage_room(c, t))
    for i in range(st.n):
        st.src[i] = pfns[i]
        st.open[i] = 0
        if i < AHEAD:
            pmg_prefetchw(&m.frames[pfns[i]])


cdef uint64_t collect(ctx_t *c, stage_t *st, const target_t *t, uint32_t *keep, run_t *run) noexcept nogil:
    """Sort the pages of a finished stage: those to retry go to ``keep``; those to wait for are migrated here one by one."""
    if pmg_likely(any_result(st, 0, st.n) == 0):
        run.succeeded += st.n
        return 0
    return collect_some(c, st, t, keep, run)


cdef void wait_for_one(ctx_t *c, collect_t *k, const target_t *t, run_t *run) noexcept nogil:
    if k.in_stage:                          # resumed
        stage_goes_on(c, &k.one, WAIT_FOR_ALL)
    else:
        one_page(&k.one, k.st.src[k.i])
        k.in_stage = True
        run_stage(c, &k.one, t, WAIT_FOR_ALL)
    k.in_stage = False
    k.st.rc[k.i] = k.one.rc[0] if k.one.n else -ENOMEM
    if k.one.n == 0:
        run.error = -ENOMEM


cdef uint64_t collect_some(ctx_t *c, stage_t *st, const target_t *t, uint32_t *keep, run_t *run) noexcept nogil:
    cdef collect_t k
    cdef uint32_t i
    if not place_enter(c, code_collect, &k, sizeof(k)):
        k.i = 0
        k.left = 0
        k.in_stage = False
    k.st = st
    k.keep = keep
    while k.i < st.n:
        i = k.i
        if st.rc[i] == -EBUSY:
            wait_for_one(c, &k, t, run)
        if st.rc[i] >= 0:
            run.succeeded += 1
        elif st.rc[i] == -EINVAL:
            run.failed += 1
            putback_lru_page(c, st.src[i])
        else:
            keep[k.left] = st.src[i]
            k.left += 1
        k.i += 1
    place_leave(c)
    return k.left


# -- saving and loading ------------------------------------------------------------------------------------------


cdef void code_run(coder_t *w, run_t *run) noexcept nogil:
    code_u64(w, &run.succeeded, MANY)
    code_u64(w, &run.failed, MANY)
    code_int(w, &run.error, -ERRORS, 0)


cdef void code_target(coder_t *w, target_t *t) noexcept nogil:
    """Code the target of a system call, which keeps each anon_vma by a reference."""
    code_int(w, <int *> &t.nid, -1, <int> w.m.nr_nodes - 1)
    code_u32(w, &t.mm, w.m.mms.fresh)
    code_u64(w, &t.start, ~<uint64_t> 0)
    code_policy(w, &t.pol)
    code_u64(w, &t.ilx, ~<uint64_t> 0)
    code_u32(w, &t.vma, w.m.vmas.fresh)


cdef bint is_dead_but_sound(machine_t *m, uint32_t i) noexcept nogil:
    """Whether the lock of a freed anon_vma can be taken: a page in the swap cache may outlive its anon_vma."""
    cdef uint32_t root = anon_vma_of(m, i).root
    return root < m.anon_vmas.fresh and anon_vma_of(m, root).lock == 0


cdef bint is_so_still(machine_t *m, const stage_t *st, uint32_t i) noexcept nogil:
    """What was read of a page under its lock is what its frame says, or the one it is in by now."""
    cdef bint moved = st.at == PAUSE_COPIED and st.rc[i] == 0
    cdef const frame_t *f = &m.frames[st.dst[i] if moved else st.src[i]]
    return (f.state ^ st.state[i]) & (PG_anon | PG_cached | PG_swapcache) == 0 and f.mapping == st.mapping[i] and \
        f.index == st.index[i]


cdef void code_page(coder_t *w, stage_t *st, uint32_t i, code_stage_t how) noexcept nogil:
    """Code one page; check that what the stage read under the page lock still holds."""
    cdef uint32_t ends
    code_pfn(w, &st.src[i])
    code_pfn(w, &st.dst[i])
    code_int(w, &st.rc[i], -ERRORS, DONE)
    code_u32(w, &st.open[i], PUBLISHED + 1)
    if not st.open[i]:
        st.mapping[i] = st.index[i] = 0
        st.state[i] = 0
    code_u64(w, &st.state[i], ~<uint64_t> 0)
    ends = w.m.anon_vmas.fresh if st.state[i] & PG_anon else w.m.files.fresh
    code_u32(w, &st.mapping[i], ends)
    code_bytes(w, &st.index[i], 4)
    code_u32(w, &st.unmapped[i], MANY)
    code_u32(w, &st.restored[i], MANY)
    code_u32(w, &st.dirty[i], 2)
    code_u32(w, &st.walked[i], 2)
    if w.way != WAY_READ or w.why != NULL:
        return
    if st.rc[i] > 1 and (how == STAGE_ALONE or how == STAGE_OVER) or st.rc[i] < DONE and st.at != PAUSE_STAGE and \
            (st.restored[i] or st.open[i] > OPEN):
        wrong(w)
    if st.rc[i] == DONE:
        return
    if st.open[i] and st.mapping[i] and st.state[i] & PG_anon and anon_vma_of(w.m, st.mapping[i]).refcount == 0 and \
            not is_dead_but_sound(w.m, st.mapping[i]):
        wrong(w)
    if st.open[i] == OPEN and (st.rc[i] == HELD or (how != STAGE_UNMAPPED and st.at != PAUSE_STAGE)) and \
            not is_so_still(w.m, st, i):
        wrong(w)


cdef bint keeps_what_it_needs(machine_t *m, const stage_t *st, uint32_t a) noexcept nogil:
    """Whether the anon_vma of a loaded group leads to the entries of its pages; without one there are none."""
    cdef const hold_t *h = &st.hold[a]
    cdef uint32_t i
    if h.av:
        return st.state[a] & PG_anon != 0 and h.av == st.mapping[a] and anon_vma_of(m, h.av).refcount != 0
    if not st.state[a] & PG_anon:
        return True
    for i in range(a, h.end):
        if st.unmapped[i] and (st.rc[i] == HELD or (st.rc[i] < HELD and st.at != PAUSE_STAGE)):
            return False
    return True


cdef void code_groups(coder_t *w, stage_t *st, bint kept) noexcept nogil:
    """Code the anon_vma of each group of pages, which the pages make; ``kept``: the group has a reference on it."""
    cdef uint32_t a = 0
    cdef hold_t *h
    while a < st.n and w.why == NULL:
        h = &st.hold[a]
        if w.way == WAY_READ:
            find_group(st, a)
        if not st.open[a]:
            h.av = 0
        h.mm = 0
        code_u32(w, &h.av, w.m.anon_vmas.fresh)
        if w.way == WAY_READ and not keeps_what_it_needs(w.m, st, a):
            wrong(w)
        if h.av and kept:
            holds(w, HELD_ANON_VMA, h.av, 1)
        a = h.end


cdef void name_page(coder_t *w, const stage_t *st, uint32_t i, code_stage_t how) noexcept nogil:
    cdef int rc = st.rc[i]
    if rc == HELD or (how != STAGE_UNMAPPED and st.at != PAUSE_STAGE and (rc == 0 or (rc < 0 and st.open[i]))):
        if st.at == PAUSE_COPIED and rc == 0:
            holds(w, HELD_LEFT, st.src[i], 0)
            holds(w, HELD_MOVED, st.dst[i], st.unmapped[i] & st.counts_mask)
            return
        holds(w, HELD_LOCKED if st.open[i] else HELD_ISOLATED, st.src[i], st.unmapped[i] & st.counts_mask)
        holds(w, HELD_TARGET, st.dst[i], 1)
    elif rc == DONE or how == STAGE_UNMAPPED:
        return
    elif st.at != PAUSE_STAGE:
        holds(w, HELD_ISOLATED, st.src[i], 1)
        holds(w, HELD_TARGET, st.dst[i], 1)
    elif rc < 0 or w.m.profile.four_lists:
        holds(w, HELD_ISOLATED, st.src[i], 1)


cdef bint stops_there(const stage_t *st, code_stage_t how) noexcept nogil:
    if how == STAGE_UNMAPPED:
        return st.at == 0
    if st.at == AT_LOCK:
        return st.n == 1
    return st.at == PAUSE_COPIED or st.at == PAUSE_STAGE or (st.at == PAUSE_UNMAPPED and how == STAGE_ALONE)


cdef bint holds_so_many(const stage_t *st, code_stage_t how, uint32_t held) noexcept nogil:
    """While pages of a batch move ``st.held`` is what there were before."""
    if st.at == 0 or st.at == PAUSE_STAGE:
        return st.held == held
    return held == 0 and (st.at != PAUSE_COPIED or how != STAGE_IN_BATCH or st.held != 0)


cdef void code_stage(coder_t *w, stage_t *st, code_stage_t how) noexcept nogil:
    cdef bint counts
    cdef uint32_t i, held = 0
    if how == STAGE_UNMAPPED:
        st.at = 0
    elif how == STAGE_OVER:
        st.at = PAUSE_STAGE
    if how == STAGE_ALONE or how == STAGE_OVER or st.at == AT_LOCK:
        st.held = 0
    counts = st.counts_mask != 0
    code_u32(w, &st.at, AT_LOCK + 1)
    code_u32(w, &st.n, STAGE + 1)
    code_u32(w, &st.held, STAGE + 1)
    code_flag(w, &counts)
    if w.way == WAY_READ:
        st.counts_mask = 0xffffffffu if counts else 0
        st.got = st.n
        st.swapping = False
        st.keep.how = KEEP_REFCOUNT
        st.keep.mm = 0
        if st.n == 0 or not stops_there(st, how) or counts != (w.m.profile.counts_drop == 0):
            wrong(w)
    for i in range(st.n):
        code_page(w, st, i, how)
        held += st.rc[i] == HELD
    if w.way == WAY_READ and not holds_so_many(st, how, held):
        wrong(w)
    if st.at != AT_LOCK and how != STAGE_OVER:
        code_groups(w, st, st.held != 0 or (st.at != 0 and st.at != PAUSE_STAGE))
    if w.way == WAY_NAME and how != STAGE_OVER:
        for i in range(st.n):
            name_page(w, st, i, how)


cdef bint stage_is_of(
        const stage_t *st, const uint32_t *pfns, uint64_t n, const uint32_t *own_slots, const uint32_t *slots) noexcept nogil:
    cdef uint64_t i = 0
    cdef uint32_t j
    for j in range(st.n):
        while i < n and pfns[i] != st.src[j]:
            i += 1
        if i == n or (slots != NULL and own_slots[j] != slots[i]):
            return False
        i += 1
    return True


cdef void code_collect(coder_t *w, void *locals) noexcept nogil:
    cdef collect_t *k = <collect_t *> locals
    cdef uint32_t i
    if w.way == WAY_READ:
        k.st = <stage_t *> w.stage
        k.keep = w.pfns
        k.in_stage = True
    code_u32(w, &k.i, k.st.n)
    code_u64(w, &k.left, k.i)
    code_stage(w, &k.one, STAGE_ALONE)
    if w.way == WAY_READ and (w.why != NULL or k.one.n > 1 or k.st.rc[k.i] != -EBUSY or k.one.src[0] != k.st.src[k.i]):
        wrong(w)
        return
    holds_list(w, k.keep, 0, k.left)
    for i in range(k.i + 1, k.st.n):
        if k.st.rc[i] < 0:
            holds(w, HELD_ISOLATED, k.st.src[i], 1)
