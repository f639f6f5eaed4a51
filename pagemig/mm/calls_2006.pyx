"""mbind, migrate_pages and move_pages of 2.6.17, 2.6.18 and pmig.

They differ from today's in the pages they collect and in the results they return.  mmap_lock stays held while pages
migrate: for writing in mbind, for reading in the others.
"""
from libc.errno cimport E2BIG, EACCES, EAGAIN, EBUSY, EFAULT, EIO, ENODEV, ENOENT, ENOMEM, EPERM
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from pagemig.mm.atomic cimport GUARD_MMAP_LOCK, PMG_GUARD, pmg_load, pmg_load32
from pagemig.mm.context cimport mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock, signal_pending
from pagemig.mm.frame cimport frame_maps, page_state, page_test
from pagemig.mm.gup cimport follow_page
from pagemig.mm.mempolicy cimport (
    alloc_page_vma, get_vma_policy, interleave_index, kernel_memory, mpol_objects, policy_node,
)
from pagemig.mm.migrate cimport (
    code_each, code_one, each_t, migrate_one_page, migrate_pages, migrate_pages_each, migrate_pages_to, moves_t, one_t,
)
from pagemig.mm.migrate_stage cimport (
    code_run, code_target, isolate_lru_page, new_page, putback_lru_page, target_begin, target_t,
)
from pagemig.mm.mmap cimport mbind_range
from pagemig.mm.nodemask cimport nodes_weight
from pagemig.mm.notify cimport run_outside
from pagemig.mm.page_alloc cimport (
    alloc_page, alloc_pages_node, count_event, mm_of, page_to_nid, put_page, vec_at, vma_index, vma_of,
)
from pagemig.mm.pagewalk cimport pagewalk_next, pagewalk_start, pagewalk_t
from pagemig.mm.place cimport (
    code_bytes, code_flag, code_i64, code_int, code_policy, code_u32, code_u64, code_words, coder_t, HELD_MMAP_READ,
    HELD_MMAP_WRITE, holds, place_enter, place_leave, place_resumes, WAY_FREE, WAY_READ, wrong,
)
from pagemig.mm.pgtable cimport leaf_pte, pte_lock, pte_unlock
from pagemig.mm.pte cimport pte_pfn, pte_present, PTE_SPECIAL, pte_t
from pagemig.mm.queue cimport (
    code_list, code_queue, list_add, list_putback, list_t, next_pair, queue_begin, queue_t, queue_vma, queued_again, queued_t,
    vma_migratable,
)
from pagemig.mm.rmap cimport lru_cache_disable, lru_cache_enable
from pagemig.mm.swap_state cimport nr_swap_pages
from pagemig.mm.types cimport (
    BUG_NODE_MAP, BUG_OFFLINE_NODE, BUG_VMA_ADDRESS, C_REQUESTS_SCANNED, ctx_t, frame_t, KEEP_REFCOUNT, machine_t,
    MAX_NODES, mm_t, MPOL_DEFAULT, MPOL_INTERLEAVE, MPOL_MF_MOVE, MPOL_MF_MOVE_ALL, MPOL_MF_STRICT, mpol_t, nodemask_t,
    PG_anon, PMG_BUG, PMG_WAIT, TASK_SIZE_PAGES, VM_DONTMIGRATE, vma_t,
)
from pagemig.mm.vma cimport find_vma, vma_address, vma_slot


cdef enum:
    SIZEOF_PAGE_TO_NODE = 32            # struct page_to_node of 2.6.18: address, page, node, status
    NODES_READABLE = 0x1203ac00         # readable bits after and before the map of online nodes
    NODES_BEFORE = 0x1fc5400
    DRAIN_OBJECTS = 2                   # kernel objects that schedule_on_each_cpu allocates
    REQUEST_OBJECTS = 2                 # those that vmalloc allocates besides its pages


# -- collecting ------------------------------------------------------------------------------------------------


cdef int migrate_prep(ctx_t *c, uint32_t flags) noexcept nogil:
    """Drain the lists of all CPUs; -ENODEV ends the collection if swap entries are used and no slot is free."""
    if not flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        return 0
    kernel_memory(c, DRAIN_OBJECTS)
    lru_cache_disable(c)
    return -ENODEV if c.m.profile.engine == 1 and nr_swap_pages(c.m) == 0 else 0


cdef int check_range(ctx_t *c, queue_t *q, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil:
    """Check and queue a range.  Holes count between mappings and after the last one of the process, but neither before the
    first mapping nor at the end of the range.

    With STRICT, mappings that cannot be migrated are queued too.
    """
    cdef machine_t *m = c.m
    cdef uint32_t i = vma_slot(m, mm, start)
    cdef uint64_t at = 0
    cdef vma_t *vma
    cdef int rc = migrate_prep(c, q.flags)      # before the walk: without swap a hole is not reported
    if rc == 0 and i == mm.vmas.n:
        return -EFAULT
    while rc == 0 and i < mm.vmas.n:
        vma = vma_of(m, vec_at(m, &mm.vmas)[i])
        if vma.start >= end:
            break
        i += 1
        if not q.discontig_ok and ((i == mm.vmas.n and vma.end < end) or (at and at < vma.start)):
            return -EFAULT
        at = vma.end
        if q.flags & MPOL_MF_STRICT or (q.flags and vma_migratable(m, vma)):
            rc = queue_vma(c, q, mm, vma, max(start, vma.start), min(end, vma.end))
    return rc


# -- mbind ---------------------------------------------------------------------------------------------------------


cdef int page_address_in_vma(ctx_t *c, uint32_t pfn, vma_t *vma, uint64_t *vpn) noexcept nogil:
    """Find the address of a page in a VMA: 0, -EFAULT, or a bug where the kernel would have crashed.

    A page of another file than the VMA's is -EFAULT; a page of the VMA's own file outside its range is a crash.
    """
    cdef frame_t *f = &c.m.frames[pfn]
    cdef uint32_t mapping = pmg_load32(&f.mapping)
    if page_test(c.m, pfn, PG_anon):
        if not vma.anon_vma or vma.anon_vma != mapping:
            return -EFAULT
    elif mapping == 0 or vma.file != mapping:
        return -EFAULT
    vpn[0] = vma_address(vma, pmg_load32(&f.index))
    if vpn[0] != <uint64_t> -1:
        return 0
    return -EFAULT if page_test(c.m, pfn, PG_anon) else -(PMG_BUG + <int> BUG_VMA_ADDRESS)


cdef int64_t new_vma_page(ctx_t *c, uint32_t pfn, uint32_t slot, const void *private_) noexcept nogil:
    """Allocate by the first VMA of the range, as 2.6.18 does for every page.

    If that VMA does not map the page, the error is taken for an address, and interleaving picks the node of that.
    """
    cdef const target_t *t = <const target_t *> private_
    cdef vma_t *vma = vma_of(c.m, t.vma)
    cdef uint64_t vpn = 0
    cdef int rc = page_address_in_vma(c, pfn, vma, &vpn)
    if rc <= -PMG_BUG:
        return rc
    if rc:
        vpn = <uint64_t> (<int64_t> rc) >> 12
    return alloc_page_vma(c, vma, vpn)


cdef int64_t new_own_vma_page(ctx_t *c, uint32_t pfn, uint32_t slot, const void *private_) noexcept nogil:
    """Allocate by the VMA that maps the page, as 2.6.18 intended."""
    cdef vma_t *hint = NULL
    return new_page(c, pfn, <const target_t *> private_, &hint)


cdef int64_t new_array_page(ctx_t *c, uint32_t pfn, uint32_t slot, const void *private_) noexcept nogil:
    """Allocate for page i on exactly node i of the caller's array."""
    cdef uint32_t new = 0
    alloc_pages_node(c, (<const int32_t *> private_)[slot], 1, &new)
    return new


cdef int32_t interleave_node(ctx_t *c, vma_t *vma, uint64_t vpn) noexcept nogil:
    """Find the node that interleaving prescribes for a page; -1 if its policy does not interleave."""
    cdef mpol_t pol
    cdef uint64_t mask = 0
    if not get_vma_policy(c, vma, vpn, &pol) or pol.mode != MPOL_INTERLEAVE:
        return -1
    return policy_node(c, &pol, interleave_index(c, vma, vpn), &mask)


cdef int collect_pte_range(
        ctx_t *c, list_t *pages, list_t *nodes, vma_t *vma, uint32_t leaf, uint64_t vpn, uint64_t end,
        uint32_t flags) noexcept nogil:
    """Isolate the pages of one leaf table that are not on their interleave node."""
    cdef machine_t *m = c.m
    cdef uint64_t v
    cdef uint32_t pfn
    cdef int32_t nid
    cdef pte_t pte
    cdef int rc = 0
    pte_lock(c, leaf)
    for v in range(vpn, end):
        pte = pmg_load(leaf_pte(m, leaf, v))
        if not pte_present(pte) or pte & PTE_SPECIAL:
            continue
        pfn = <uint32_t> pte_pfn(pte)
        nid = interleave_node(c, vma, v)
        if nid < 0 or page_to_nid(m, pfn) == nid or (frame_maps(page_state(m, pfn)) != 1 and not flags & MPOL_MF_MOVE_ALL):
            continue
        if list_add(pages, pfn) or list_add(nodes, <uint32_t> nid):
            pages.n = nodes.n
            rc = -ENOMEM
            break
        if not isolate_lru_page(c, pfn):
            pages.n -= 1
            nodes.n -= 1
    pte_unlock(c, leaf)
    return rc


cdef int collect_misplaced(
        ctx_t *c, list_t *pages, list_t *nodes, mm_t *mm, uint64_t start, uint64_t end, uint32_t flags) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t i
    cdef pagewalk_t w
    cdef vma_t *vma
    cdef int rc = 0
    for i in range(vma_slot(m, mm, start), mm.vmas.n):
        vma = vma_of(m, vec_at(m, &mm.vmas)[i])
        if not vma_migratable(m, vma) and not flags & MPOL_MF_STRICT:
            continue
        pagewalk_start(&w, m, mm, max(start, vma.start), min(end, vma.end))
        while rc == 0 and pagewalk_next(&w):
            rc = collect_pte_range(c, pages, nodes, vma, w.leaf, w.vpn, w.stop, flags)
    return rc


cdef int64_t interleave_exactly(
        ctx_t *c, bound_range_t *k, mm_t *mm, uint64_t start, uint64_t end, uint32_t flags) noexcept nogil:
    """Move every page of the range to its interleave node, the use of the 2006 note's third patch; pages left behind."""
    cdef moves_t mv
    cdef int64_t rc = 0
    if not place_resumes(c):
        memset(&k.run, 0, sizeof(k.run))
        rc = collect_misplaced(c, &k.pages, &k.nodes, mm, start, end, flags)
    if rc == 0 and k.pages.n:
        mv.pfns = k.pages.pfns
        mv.slots = NULL
        mv.n = k.pages.n
        mv.get_new_page = new_array_page
        mv.nodes = <const int32_t *> k.nodes.pfns
        mv.private_ = k.nodes.pfns
        mv.result = NULL
        mv.keep.how = KEEP_REFCOUNT
        migrate_pages_each(c, &mv, &k.run)
        k.pages.n = 0
        rc = k.run.error or <int64_t> k.run.failed
    list_putback(c, &k.pages)
    free(k.pages.pfns)
    free(k.nodes.pfns)
    k.pages.pfns = k.nodes.pfns = NULL
    return rc


cdef void target_by_first(machine_t *m, queue_t *q, mm_t *mm, uint64_t start, target_t *t) noexcept nogil:
    target_begin(t, -1)
    t.mm = q.mm
    t.start = start
    t.pol.mode = MPOL_DEFAULT
    t.vma = vma_index(m, find_vma(m, mm, start))


cdef int64_t migrate_misplaced(ctx_t *c, queue_t *q, const target_t *t) noexcept nogil:
    """Migrate what check_range queued to the nodes of the new policy; return the pages left behind, or -errno."""
    cdef machine_t *m = c.m
    cdef moves_t mv
    cdef queued_t k
    if not queued_again(c, &k, q):
        memset(&k.run, 0, sizeof(k.run))
    if m.profile.four_lists:
        migrate_pages_to(c, q.list.pfns, q.list.n, t, &k.run)
    else:
        mv.pfns = q.list.pfns
        mv.slots = NULL
        mv.n = q.list.n
        mv.get_new_page = new_vma_page if m.profile.first_vma else new_own_vma_page
        mv.nodes = NULL
        mv.nid = -1
        mv.private_ = t
        mv.result = NULL
        mv.keep.how = KEEP_REFCOUNT
        migrate_pages_each(c, &mv, &k.run)
    place_leave(c)
    q.list.n = 0
    return k.run.error or <int64_t> k.run.failed


cdef int collect_bound(ctx_t *c, bound_range_t *k, mm_t *mm, queue_t *q) noexcept nogil:
    """Queue misplaced pages and set the policy.  If that fails half-way, the pages queued are migrated nevertheless."""
    cdef const bind_t *call = &k.call
    cdef int rc
    if k.exactly:
        q.flags = 0                             # only look for holes: the new policy decides later what is misplaced
    rc = check_range(c, q, mm, call.first, call.end)
    if rc and c.m.profile.range_leaks:
        q.list.n = 0                            # leaked: the kernel forgets to put them back
    if k.exactly and rc == 0:
        rc = migrate_prep(c, call.flags)
    if rc == 0:
        k.bound = mbind_range(c, mm, call.first, call.end, &call.pol)
        if q.list.n:
            target_by_first(c.m, q, mm, call.first, &k.target)
    return rc


cdef int64_t mbind_locked(ctx_t *c, bound_range_t *k, mm_t *mm, queue_t *q) noexcept nogil:
    cdef const bind_t *call = &k.call
    cdef int64_t rc, left = 0
    if not k.moving:
        k.exactly = c.m.profile.arrays and call.pol.mode == MPOL_INTERLEAVE and \
            call.flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL) != 0
        rc = collect_bound(c, k, mm, q)
        if rc:
            return rc
        k.moving = True
    if k.exactly:
        left = interleave_exactly(c, k, mm, call.first, call.end, call.flags)
    elif q.list.n or place_resumes(c):
        left = migrate_misplaced(c, q, &k.target)
    if left <= -PMG_BUG:
        return left
    return k.bound or (-EIO if left and call.flags & MPOL_MF_STRICT else 0)


cdef void code_bind(coder_t *w, bind_t *call) noexcept nogil:
    code_u64(w, &call.first, <uint64_t> 1 << 52)
    code_u64(w, &call.end, <uint64_t> 1 << 52)
    code_policy(w, &call.pol)
    code_bytes(w, &call.user, 8)
    code_u32(w, &call.flags, 8)


cdef void code_exactly(coder_t *w, bound_range_t *k) noexcept nogil:
    cdef uint64_t i
    code_run(w, &k.run)
    code_list(w, &k.pages)
    code_list(w, &k.nodes)
    for i in range(k.nodes.n if w.way == WAY_READ and w.why == NULL else 0):
        if k.nodes.n != k.pages.n or k.nodes.pfns[i] >= w.m.nr_nodes:
            wrong(w)
    w.pfns = k.pages.pfns
    w.slots = NULL
    w.pages = w.capacity = k.pages.n
    w.inner = code_each
    w.size = sizeof(each_t)


cdef void code_bound_range(coder_t *w, void *locals) noexcept nogil:
    cdef bound_range_t *k = <bound_range_t *> locals
    code_bind(w, &k.call)
    code_flag(w, &k.moving)
    if not k.moving:
        return
    if PMG_GUARD(GUARD_MMAP_LOCK):
        holds(w, HELD_MMAP_WRITE, w.mm, 1)
    code_flag(w, &k.exactly)
    code_i64(w, &k.bound)
    if k.exactly:
        code_exactly(w, k)
        return
    code_target(w, &k.target)
    if w.way == WAY_READ and k.target.mm != w.mm:
        wrong(w)
    w.inner = code_queue
    w.size = sizeof(queued_t)


cdef int64_t mbind_check_range(ctx_t *c, const bind_t *call) noexcept nogil:
    cdef bound_range_t k
    cdef queue_t q
    cdef int64_t rc
    if not place_enter(c, code_bound_range, &k, sizeof(k)):
        memset(&k, 0, sizeof(k))
        k.call = call[0]
    queue_begin(&q, k.call.user, True, k.call.pol.mode == MPOL_DEFAULT, k.call.flags)
    q.mm = c.mm
    if not k.moving:
        if mmap_write_lock(c, c.mm):
            place_leave(c)
            return -PMG_WAIT
        kernel_memory(c, mpol_objects(&k.call.pol))
        if not PMG_GUARD(GUARD_MMAP_LOCK):
            mmap_write_unlock(c, c.mm)
    rc = mbind_locked(c, &k, mm_of(c.m, c.mm), &q)
    place_leave(c)
    list_putback(c, &q.list)
    lru_cache_enable(c)
    free(q.list.pfns)
    if PMG_GUARD(GUARD_MMAP_LOCK):
        mmap_write_unlock(c, c.mm)
    return rc


# -- migrate_pages -------------------------------------------------------------------------------------------------


cdef struct vma_migrate_t:      # vm_ops->migrate of one mapping
    ctx_t *c
    vma_t *vma
    uint64_t old, new
    uint32_t flags
    int answer


cdef void run_migrate(void *arg) noexcept nogil:
    cdef vma_migrate_t *v = <vma_migrate_t *> arg
    v.answer = v.c.m.migrate_fn(v.c, v.vma, v.old, v.new, v.flags)


cdef int migrate_hook(ctx_t *c, vma_t *vma, uint64_t old, uint64_t new, uint32_t flags) noexcept nogil:
    cdef vma_migrate_t v
    v.c = c
    v.vma = vma
    v.old = old
    v.new = new
    v.flags = flags
    run_outside(c, run_migrate, &v)
    return v.answer


cdef int64_t migrate_vmas(ctx_t *c, mm_t *mm, uint64_t old, uint64_t new, uint32_t flags) noexcept nogil:
    """Call the ``migrate`` operation of every VMA that has one, up to the first error.

    In 2.6.18 any result but 0 ends the walk; elsewhere positive results are pages left behind and add up.
    """
    cdef machine_t *m = c.m
    cdef uint32_t i, n = mm.vmas.n
    cdef vma_t *vma
    cdef int64_t busy = 0
    cdef int rc
    if m.profile.last_unhooked and n:
        n -= 1
    for i in range(n):
        vma = vma_of(m, vec_at(m, &mm.vmas)[i])
        if vma.ops and m.migrate_fn != NULL:
            rc = migrate_hook(c, vma, old, new, flags)
            if rc < 0 or (rc and m.profile.last_unhooked):
                return rc
            busy += rc
    return busy


cdef int64_t migrate_to_node_check_range(ctx_t *c, uint32_t mm, pairs_t *p, uint32_t flags) noexcept nogil:
    """Move one node's pages.  Errors of check_range are ignored: without swap 2.6.17 moves nothing and returns 0."""
    cdef queue_t q
    cdef target_t t
    cdef queued_t k
    cdef int64_t rc = 0
    target_begin(&t, p.dest)
    if not queued_again(c, &k, &q):
        memset(&k.run, 0, sizeof(k.run))
        queue_begin(&q, <uint64_t> 1 << p.source, False, True, flags)
        check_range(c, &q, mm_of(c.m, mm), 0, TASK_SIZE_PAGES)
        p.moving = True
    if q.list.n and p.dest >= <int32_t> c.m.nr_nodes:
        rc = -(PMG_BUG + <int64_t> BUG_OFFLINE_NODE)
    elif q.list.n:
        migrate_pages(c, q.list.pfns, q.list.n, &t, &k.run)
        q.list.n = 0
        rc = k.run.error or <int64_t> k.run.failed
    place_leave(c)
    p.moving = False
    list_putback(c, &q.list)
    free(q.list.pfns)
    return rc


cdef void pairs_begin(pairs_t *k, const nodes_t *call) noexcept nogil:
    memset(k, 0, sizeof(pairs_t))
    k.left = call.old.bits[0]


cdef bint next_of_pairs(pairs_t *k, const nodes_t *call) noexcept nogil:
    if k.moving:
        return True
    if not next_pair(k.left, k.stay, &call.old, &call.new, &k.source, &k.dest):
        return False
    k.left &= ~(<uint64_t> 1 << k.source)
    return True


cdef void pair_is_over(pairs_t *k, int64_t rc) noexcept nogil:
    if rc > 0:
        k.busy += rc


cdef void code_pairs(coder_t *w, void *locals) noexcept nogil:
    cdef pairs_t *k = <pairs_t *> locals
    code_bytes(w, &k.left, 8)
    code_bytes(w, &k.stay, 8)
    code_i64(w, &k.busy)
    code_int(w, <int *> &k.source, 0, MAX_NODES - 1)
    code_int(w, <int *> &k.dest, 0, MAX_NODES - 1)
    code_flag(w, &k.moving)
    if k.moving:
        w.inner = code_queue
        w.size = sizeof(queued_t)


cdef int64_t do_migrate_pages_check_range(ctx_t *c, uint32_t mm, const nodes_t *call) noexcept nogil:
    """Move between sets of nodes.  Unlike today's, with sets of unequal size, it may fill a node that it empties later."""
    cdef pairs_t k
    cdef const nodemask_t *old = &call.old
    cdef const nodemask_t *new = &call.new
    cdef int64_t rc = 0
    if not place_enter(c, code_pairs, &k, sizeof(k)):
        pairs_begin(&k, call)
        if not c.m.profile.shared_nodes_move and nodes_weight(old) != nodes_weight(new):
            k.stay = old.bits[0] & new.bits[0]
        if c.m.profile.vma_hooks:
            rc = migrate_vmas(c, mm_of(c.m, mm), old.bits[0], new.bits[0], call.flags)
            if rc < 0 or (rc and c.m.profile.last_unhooked):
                place_leave(c)
                return min(rc, <int64_t> 0)     # a positive result ends the call as a success
            k.busy = rc
    while rc >= 0 and next_of_pairs(&k, call):
        rc = migrate_to_node_check_range(c, mm, &k, call.flags)
        pair_is_over(&k, rc)
    place_leave(c)
    return rc if rc < 0 else k.busy


# -- move_pages --------------------------------------------------------------------------------------------------------


cdef uint64_t first_entry(ctx_t *c, request_t *r, uint32_t *found, uint64_t i, uint32_t pfn) noexcept nogil:
    """Find the first entry that names the page of entry ``i``, as the kernel's linear search through the request does."""
    cdef uint64_t at = (pfn * <uint64_t> 0x9e3779b97f4a7c15 >> 20) & r.mask
    found[i] = pfn
    while r.first[at] and found[r.first[at] - 1] != pfn:
        at = (at + 1) & r.mask
    if not r.first[at]:
        r.first[at] = <uint32_t> i + 1
    return r.first[at] - 1


cdef int64_t new_page_node(ctx_t *c, uint32_t pfn, uint32_t slot, const void *private_) noexcept nogil:
    """Allocate on the node of the page's entry.  2.6.18 searches the request from its start: quadratic in its pages."""
    cdef const request_t *r = <const request_t *> private_
    count_event(c, C_REQUESTS_SCANNED, <uint64_t> slot + 1)
    return alloc_page(c, r.nodes[slot], pmg_load(&c.m.online))


cdef int page_status(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t *pfn) noexcept nogil:
    """Get the page at an address, referenced: 0 or -errno; ``vma`` NULL: nothing is mapped at or above the address."""
    cdef int err = 0
    pfn[0] = 0
    if vma == NULL:
        return -EFAULT
    pfn[0] = follow_page(c, vma, vpn, &err) if vpn < TASK_SIZE_PAGES else 0
    if pfn[0]:
        return 0
    return -ENOENT if c.m.profile.zero_enoent or not err else err


cdef int32_t request_status(ctx_t *c, request_t *r, mm_t *mm, uint64_t i, bint move_all) noexcept nogil:
    """Isolate the page of entry ``i``; return its status before anything moves: a node, an errno, or ISOLATED.

    If several entries name a page, the first decides where it goes and gets its result; the entry that isolated it keeps
    status 0.
    """
    cdef machine_t *m = c.m
    cdef uint32_t pfn = 0
    cdef uint64_t vpn = pmg_load(r.addresses + i) >> 12, first = i
    cdef vma_t *vma = find_vma(m, mm, vpn)
    cdef int32_t status = page_status(c, vma, vpn, &pfn)
    if pfn == 0:
        return status
    if r.first != NULL:
        first = first_entry(c, r, r.first + r.mask + 1, i, pfn)
    if page_to_nid(m, pfn) == r.nodes[i]:
        status = r.nodes[i]
    elif vma.flags & VM_DONTMIGRATE:
        status = -EPERM
    elif frame_maps(page_state(m, pfn)) > 1 and not move_all:
        status = -EACCES
    elif list_add(&r.pages, pfn) or list_add(&r.slots, <uint32_t> first):
        r.pages.n = r.slots.n
        status = -ENOMEM
    elif isolate_lru_page(c, pfn):
        status = ISOLATED if first == i else 0
    else:
        r.pages.n -= 1
        r.slots.n -= 1
        status = -EBUSY
    put_page(c, pfn)
    return status


cdef void moves_of_request(ctx_t *c, request_t *r, int32_t *result, moves_t *mv) noexcept nogil:
    mv.pfns = r.pages.pfns
    mv.slots = r.slots.pfns
    mv.n = r.pages.n
    mv.get_new_page = new_array_page if c.m.profile.arrays else new_page_node
    mv.nodes = r.nodes
    mv.private_ = <const void *> r.nodes if c.m.profile.arrays else <const void *> r
    mv.result = result
    mv.keep.how = KEEP_REFCOUNT


cdef int64_t move_request(ctx_t *c, asked_t *k, mm_t *mm, bint move_all) noexcept nogil:
    """Isolate the pages of all entries, then migrate them as one list; mmap_lock held for reading."""
    cdef request_t *r = &k.r
    cdef moves_t mv
    cdef uint64_t i
    cdef bint room = True
    if not k.moving:
        memset(&k.run, 0, sizeof(k.run))
        for i in range(r.n):
            r.status[i] = -EAGAIN if signal_pending(c, 1) else request_status(c, r, mm, i, move_all)
            room = room and r.status[i] != -ENOMEM
        if r.pages.n == 0 and not room:         # the host is out of memory; the kernel needs none here
            return -ENOMEM
        if r.pages.n == 0:
            return -ENOENT if c.m.profile.nothing_enoent else 0
        k.moving = True
    moves_of_request(c, r, r.status, &mv)
    migrate_pages_each(c, &mv, &k.run)
    r.pages.n = 0
    return k.run.error or <int64_t> k.run.failed


cdef void code_request_lists(coder_t *w, request_t *r) noexcept nogil:
    """Code the isolated pages and their positions in the request."""
    code_list(w, &r.pages)
    r.slots.n = r.pages.n
    if w.way == WAY_READ:
        r.slots.cap = r.slots.n
    code_words(w, &r.slots.pfns, r.slots.n, r.slots.n, w.entries)
    w.pfns = r.pages.pfns
    w.slots = r.slots.pfns
    w.pages = w.capacity = r.pages.n
    w.inner = code_each
    w.size = sizeof(each_t)


cdef void code_request(coder_t *w, void *locals) noexcept nogil:
    cdef asked_t *k = <asked_t *> locals
    if w.way == WAY_READ:
        k.r.n = w.entries
    if not w.query:
        code_words(w, <uint32_t **> &k.r.nodes, k.r.n, k.r.n, w.m.nr_nodes)
    code_flag(w, &k.moving)
    if w.way == WAY_FREE:
        free(k.r.status)
        free(k.r.first)
        k.r.status = NULL                       # where the call was moving pages, code_words has it too
    elif w.way == WAY_READ and w.why == NULL and not k.moving and room_again(w.m, &k.r):
        w.why = b""
    if not k.moving:
        return
    if w.way == WAY_READ and w.query:
        wrong(w)
    code_words(w, <uint32_t **> &k.r.status, k.r.n, k.r.n, <uint64_t> 1 << 32)
    code_run(w, &k.run)
    holds(w, HELD_MMAP_READ, w.target_mm, 1)
    code_request_lists(w, &k.r)


cdef int64_t beyond_the_map(int32_t nid) noexcept nogil:
    """Model ``node_online`` beyond the map of online nodes: the map of possible nodes follows, with all bits set.

    Far away nothing is mapped.  The limits are those of the recorded kernel's image: 40 MB, from 4 MB before the map.
    """
    if nid >= NODES_READABLE or nid < -NODES_BEFORE:
        return -(PMG_BUG + <int64_t> BUG_NODE_MAP)
    return -EACCES if MAX_NODES <= nid < 2 * MAX_NODES else -ENODEV


cdef int request_table(request_t *r) noexcept nogil:
    """Allocate the hash table, followed by the page of each entry."""
    cdef uint64_t places = 64
    while places < 2 * r.n:
        places *= 2
    r.mask = places - 1
    r.first = <uint32_t *> calloc(places + r.n + 1, 4)
    return 0 if r.first != NULL else -ENOMEM


cdef int room_again(machine_t *m, request_t *r) noexcept nogil:
    """Allocate the results and the table of a loaded request that had not begun."""
    r.status = <int32_t *> calloc(r.n + 1, 4)
    return r.status == NULL or (r.nodes != NULL and not m.profile.arrays and request_table(r))


cdef int64_t room_for_request(ctx_t *c, request_t *r, const int32_t *nodes) noexcept nogil:
    if r.n >= <uint64_t> -1 // SIZEOF_PAGE_TO_NODE - 1:
        return -E2BIG
    if (r.n + 1) * SIZEOF_PAGE_TO_NODE > c.m.nr_frames << 12:
        return -ENOMEM
    r.status = <int32_t *> malloc(r.n * 4 + 4)
    if r.status == NULL:
        return -ENOMEM
    if nodes != NULL:
        r.nodes = <int32_t *> malloc(r.n * 4 + 4)
        if r.nodes == NULL or (not c.m.profile.arrays and request_table(r)):
            return -ENOMEM
    return 0


cdef int64_t read_request(
        ctx_t *c, request_t *r, const int32_t *nodes, uint64_t readable) noexcept nogil:
    """Read and check all arguments before anything moves; the first bad one ends the call."""
    cdef uint64_t i, allowed = pmg_load(&c.m.has_memory)
    cdef int32_t node
    for i in range(min(r.n, readable) if nodes != NULL else 0):
        if signal_pending(c, 1):
            return -PMG_WAIT
        node = <int32_t> pmg_load32(<const uint32_t *> nodes + i)
        if node < 0 or node >= <int32_t> c.m.nr_nodes or not (pmg_load(&c.m.online) >> node) & 1:
            return beyond_the_map(node) if c.m.profile.node_map_overrun else -ENODEV
        if not (allowed >> node) & 1:
            return -EACCES
        r.nodes[i] = node
    return -EFAULT if r.n > readable else 0


cdef int64_t do_request(ctx_t *c, asked_t *k, uint32_t mm, bint move_all) noexcept nogil:
    cdef request_t *r = &k.r
    cdef uint64_t i, vpn
    cdef uint32_t pfn = 0
    cdef int64_t rc = 0
    if not k.moving and mmap_read_lock(c, mm):
        rc = -PMG_WAIT
    elif r.nodes != NULL:
        rc = move_request(c, k, mm_of(c.m, mm), move_all)
        mmap_read_unlock(c, mm)
    else:
        for i in range(r.n):
            if signal_pending(c, 1):
                rc = -PMG_WAIT
                break
            vpn = pmg_load(r.addresses + i) >> 12
            r.status[i] = page_status(c, find_vma(c.m, mm_of(c.m, mm), vpn), vpn, &pfn)
            if pfn:
                r.status[i] = page_to_nid(c.m, pfn)
                put_page(c, pfn)
        mmap_read_unlock(c, mm)
    place_leave(c)
    list_putback(c, &r.pages)
    lru_cache_enable(c)
    return rc


cdef int64_t begin_request(ctx_t *c, request_t *r, const int32_t *nodes, uint64_t readable) noexcept nogil:
    cdef int64_t rc = room_for_request(c, r, nodes)
    if rc == 0:
        rc = read_request(c, r, nodes, readable)
    if rc == 0:
        kernel_memory(c, REQUEST_OBJECTS + <uint32_t> (((r.n + 1) * SIZEOF_PAGE_TO_NODE + 4095) >> 12))
    if rc == 0 and r.nodes != NULL:
        kernel_memory(c, DRAIN_OBJECTS)
        lru_cache_disable(c)
    return rc


cdef int64_t move_pages_whole_request(
        ctx_t *c, uint32_t mm, const uint64_t *addresses, const int32_t *nodes, uint64_t readable, uint64_t count,
        uint32_t flags, int32_t *status, uint64_t writable) noexcept nogil:
    """``do_move_pages``: the whole request at once.  A call that fails, even with -ENOENT or -ENOMEM, stores no status."""
    cdef asked_t k
    cdef uint64_t i
    cdef int64_t rc = 0
    if not place_enter(c, code_request, &k, sizeof(k)):
        memset(&k, 0, sizeof(k))
        k.r.n = count
        rc = begin_request(c, &k.r, nodes, readable)
    k.r.addresses = addresses
    if rc == 0:
        rc = do_request(c, &k, mm, flags & MPOL_MF_MOVE_ALL != 0)
    else:
        place_leave(c)
        count = 0
    for i in range(min(count, writable) if rc >= 0 else 0):
        status[i] = k.r.status[i]
    if rc >= 0 and count > writable:
        rc = -EFAULT
    free(k.r.pages.pfns)
    free(k.r.slots.pfns)
    free(k.r.nodes)
    free(k.r.status)
    free(k.r.first)
    return rc


# -- frames, without a process -----------------------------------------------------------------------------------------


cdef int32_t frame_status(ctx_t *c, uint32_t pfn, int32_t nid) noexcept nogil:
    if nid < 0 or nid >= <int32_t> c.m.nr_nodes or not (pmg_load(&c.m.has_memory) >> nid) & 1:
        return -ENODEV
    if page_to_nid(c.m, pfn) == nid:
        return nid
    return ISOLATED if isolate_lru_page(c, pfn) else -EBUSY


cdef void code_frame_list(coder_t *w, void *locals) noexcept nogil:
    cdef frame_list_t *k = <frame_list_t *> locals
    if w.way == WAY_READ:
        k.r.n = w.entries
    code_words(w, <uint32_t **> &k.r.nodes, k.r.n, k.r.n, <uint64_t> 1 << 32)
    code_u64(w, &k.i, k.r.n)
    code_flag(w, &k.listed)
    if w.way == WAY_READ and k.listed != (w.m.profile.four_lists == 0):
        wrong(w)
    if not k.listed:
        if w.way == WAY_READ and k.i == k.r.n:
            wrong(w)
        w.inner = code_one
        w.size = sizeof(one_t)
        return
    code_run(w, &k.run)
    code_request_lists(w, &k.r)
    nodes_are_there(w, &k.r)


cdef void nodes_are_there(coder_t *w, request_t *r) noexcept nogil:
    """Check the nodes of the frames that are listed; those of other frames may be invalid."""
    cdef uint64_t i
    cdef int32_t node
    for i in range(r.slots.n if w.way == WAY_READ and w.why == NULL else 0):
        node = r.nodes[r.slots.pfns[i]]
        if node < 0 or node >= <int32_t> w.m.nr_nodes:
            wrong(w)


cdef void list_frame(ctx_t *c, request_t *r, uint32_t pfn, uint64_t i, int32_t *status) noexcept nogil:
    if list_add(&r.pages, pfn) or list_add(&r.slots, <uint32_t> i):
        r.pages.n = r.slots.n
        putback_lru_page(c, pfn)
        status[i] = -ENOMEM


cdef void each_frame(ctx_t *c, frame_list_t *k, const uint32_t *pfns, int32_t *status) noexcept nogil:
    """Isolate and list all frames; kernels with four lists migrate each at once."""
    cdef bint again = place_resumes(c)
    while k.i < k.r.n:
        if not again:
            status[k.i] = -EAGAIN if signal_pending(c, 1) else frame_status(c, pfns[k.i], k.r.nodes[k.i])
        if again or (status[k.i] == ISOLATED and c.m.profile.four_lists):
            status[k.i] = migrate_one_page(c, pfns[k.i], k.r.nodes[k.i])
        elif status[k.i] == ISOLATED:
            list_frame(c, &k.r, pfns[k.i], k.i, status)
        again = False
        k.i += 1


cdef int64_t migrate_frame_list(
        ctx_t *c, const uint32_t *pfns, const int32_t *nodes, uint64_t n, int32_t *status) noexcept nogil:
    """Move page i to node i, the arrays of the 2006 note, as one list; with four lists one by one."""
    cdef frame_list_t k
    cdef moves_t mv
    cdef uint64_t i, failed = 0
    if not place_enter(c, code_frame_list, &k, sizeof(k)):
        memset(&k, 0, sizeof(k))
        k.r.n = n
        k.r.nodes = <int32_t *> malloc(n * 4 + 4)
        if k.r.nodes == NULL:
            place_leave(c)
            return -ENOMEM
        for i in range(n):
            if signal_pending(c, 1):
                break                           # each_frame() lists nothing then
            k.r.nodes[i] = <int32_t> pmg_load32(<const uint32_t *> nodes + i)
        lru_cache_disable(c)
    if not k.listed:
        each_frame(c, &k, pfns, status)
        k.listed = True
    if k.r.pages.n:
        moves_of_request(c, &k.r, status, &mv)
        migrate_pages_each(c, &mv, &k.run)
    place_leave(c)
    lru_cache_enable(c)
    free(k.r.pages.pfns)
    free(k.r.slots.pfns)
    free(k.r.nodes)
    for i in range(n):
        if status[i] == ISOLATED:
            status[i] = -EAGAIN                 # the run ended before its turn
        failed += status[i] < 0
    return k.run.error if k.run.error <= -PMG_BUG else <int64_t> failed
