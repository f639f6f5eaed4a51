"""Queue the pages that a call is to move: growing lists, and walks over mappings."""
from libc.errno cimport EFAULT, EIO, ENOMEM
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from pagemig.mm.atomic cimport GUARD_ZERO_PAGE, PMG_GUARD, pmg_load, pmg_popcount, pmg_prefetchw
from pagemig.mm.context cimport signal_pending
from pagemig.mm.frame cimport frame_maps, page_state
from pagemig.mm.migrate cimport code_migrate, migrate_pages, run_result
from pagemig.mm.migrate_stage cimport AHEAD, code_run, isolate_lru_page, putback_all, target_t
from pagemig.mm.nodemask cimport nodes_nth, nodes_weight
from pagemig.mm.page_alloc cimport page_to_nid, vec_at, vma_of
from pagemig.mm.pagewalk cimport pagewalk_next, pagewalk_start, pagewalk_t
from pagemig.mm.pgtable cimport leaf_pte, pte_lock, pte_unlock
from pagemig.mm.place cimport (
    code_u64, code_words, coder_t, place_enter, place_leave, WAY_FREE, WAY_READ, wrong,
)
from pagemig.mm.pte cimport is_migration_entry, pte_pfn, pte_present, PTE_SPECIAL, pte_t
from pagemig.mm.types cimport (
    ctx_t, machine_t, mm_t, MPOL_MF_MOVE, MPOL_MF_MOVE_ALL, MPOL_MF_STRICT, nodemask_t, PG_reserved, PMG_WAIT,
    PTRS_PER_PTE, VM_DONTMIGRATE, VM_IO, VM_LOCKED, VM_PFNMAP, vma_t,
)
from pagemig.mm.vma cimport vma_slot


cdef int list_grow(list_t *l) noexcept nogil:
    cdef uint64_t i, cap = l.cap * 4 if l.cap else 1024
    cdef uint32_t *p = <uint32_t *> malloc(cap * 4)
    if p == NULL:
        return -ENOMEM
    for i in range(l.n):
        p[i] = l.pfns[i]
    free(l.pfns)
    l.pfns = p
    l.cap = cap
    return 0


cdef int list_add(list_t *l, uint32_t pfn) noexcept nogil:
    if list_reserve(l, l.n + 1):
        return -ENOMEM
    l.pfns[l.n] = pfn
    l.n += 1
    return 0


cdef void list_putback(ctx_t *c, list_t *l) noexcept nogil:
    putback_all(c, l.pfns, l.n)
    l.n = 0


cdef bint vma_migratable(machine_t *m, vma_t *vma) noexcept nogil:
    """Whether pages of a VMA may move.  Through 2.6.20 mbind and migrate_pages skip mlocked memory."""
    return not vma.flags & (VM_IO | VM_PFNMAP | VM_DONTMIGRATE | (VM_LOCKED if m.profile.locked_skipped else 0))


cdef inline int queue_failed(ctx_t *c, queue_t *q) noexcept nogil:
    """Count a page that cannot be moved; 1: end the walk."""
    q.failed += 1
    return 0 if c.m.profile.isolate_counts else 1


cdef int queue_pages_pte_range(ctx_t *c, queue_t *q, vma_t *vma, uint32_t leaf, uint64_t vpn, uint64_t end) noexcept nogil:
    """Queue pages [vpn, end) of one leaf table.  1: stop at a page that cannot move.  -EIO: STRICT found a misplaced one."""
    cdef machine_t *m = c.m
    cdef uint64_t v
    cdef uint32_t pfn
    cdef uint64_t s
    cdef pte_t pte
    cdef int rc = 0
    pte_lock(c, leaf)
    for v in range(vpn, end):
        if v + AHEAD < end:
            pte = pmg_load(leaf_pte(m, leaf, v + AHEAD))
            if pte_present(pte):
                pmg_prefetchw(&m.frames[pte_pfn(pte)])
        pte = pmg_load(leaf_pte(m, leaf, v))     # the processor sets A and D without the lock
        if not pte_present(pte) or (pte & PTE_SPECIAL and PMG_GUARD(GUARD_ZERO_PAGE)):
            if m.profile.isolate_counts and is_migration_entry(pte):
                q.failed += 1               # another migration has the page
            continue
        pfn = <uint32_t> pte_pfn(pte)
        s = page_state(m, pfn)
        if s & PG_reserved and PMG_GUARD(GUARD_ZERO_PAGE):
            continue
        if ((q.nodes >> page_to_nid(m, pfn)) & 1 != 0) == q.invert and not (q.invert and m.profile.mbind_all_misplaced):
            continue
        if not q.flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
            rc = -EIO
            break
        if not m.profile.strict_collects and not vma_migratable(m, vma):
            rc = queue_failed(c, q)
            if rc:
                break
            continue
        if frame_maps(s) != 1 and not q.flags & MPOL_MF_MOVE_ALL:
            continue                        # shared: skipped silently
        if list_add(&q.list, pfn):
            rc = -ENOMEM
            break
        if not isolate_lru_page(c, pfn):
            q.list.n -= 1
            if not m.profile.busy_ignored and (q.flags & MPOL_MF_STRICT or m.profile.isolate_counts):
                rc = queue_failed(c, q)
    pte_unlock(c, leaf)
    return rc


cdef int queue_vma(ctx_t *c, queue_t *q, mm_t *mm, vma_t *vma, uint64_t start, uint64_t end) noexcept nogil:
    cdef pagewalk_t w
    cdef int rc = 0
    pagewalk_start(&w, c.m, mm, start, end)
    while rc == 0 and pagewalk_next(&w):
        rc = -PMG_WAIT if signal_pending(c, PTRS_PER_PTE) else queue_pages_pte_range(c, q, vma, w.leaf, w.vpn, w.stop)
    return rc


cdef int queue_pages_range(ctx_t *c, queue_t *q, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t i = vma_slot(m, mm, start)
    cdef uint64_t at = start
    cdef vma_t *vma
    cdef bint first = True, hole
    cdef int rc
    while i < mm.vmas.n:
        vma = vma_of(m, vec_at(m, &mm.vmas)[i])
        if vma.start >= end:
            break
        if vma.start > at and not q.discontig_ok:
            return -EFAULT
        hole = i + 1 == mm.vmas.n or vma_of(m, vec_at(m, &mm.vmas)[i + 1]).start > vma.end
        if hole and vma.end < end and not q.discontig_ok:
            return -EFAULT
        first = False
        at = vma.end
        i += 1
        if not q.flags or (not vma_migratable(m, vma) and not q.flags & MPOL_MF_STRICT):
            continue
        rc = queue_vma(c, q, mm, vma, max(start, vma.start), min(end, vma.end))
        if rc:
            return rc
    return -EFAULT if first else 0


cdef void queue_begin(queue_t *q, uint64_t nodes, bint invert, bint discontig_ok, uint32_t flags) noexcept nogil:
    q.list.pfns = NULL
    q.list.n = 0
    q.list.cap = 0
    q.nodes = nodes
    q.invert = invert
    q.discontig_ok = discontig_ok
    q.flags = flags
    q.failed = 0


cdef void code_list(coder_t *w, list_t *l) noexcept nogil:
    code_u64(w, &l.n, w.m.nr_frames)
    if w.way == WAY_READ:
        l.cap = l.n
    code_words(w, &l.pfns, l.n, l.n, w.m.nr_frames)


cdef void code_queue(coder_t *w, void *locals) noexcept nogil:
    cdef queued_t *k = <queued_t *> locals
    if w.way == WAY_READ:
        k.q = <queue_t *> calloc(1, sizeof(queue_t))
        if k.q == NULL:
            wrong(w)
            return
    if k.q == NULL:
        return
    code_list(w, &k.q.list)
    code_u64(w, &k.q.failed, ~<uint64_t> 0 >> 1)
    code_run(w, &k.run)
    if w.way == WAY_FREE:
        free(k.q)
        return
    w.pfns = k.q.list.pfns
    w.slots = NULL
    w.pages = k.q.list.n
    w.capacity = k.q.list.cap
    code_migrate(w)


cdef bint queued_again(ctx_t *c, queued_t *k, queue_t *q) noexcept nogil:
    """Register the locals of the function that migrates ``q``; True if it resumes in a loaded call: ``q`` is filled."""
    cdef bint again = place_enter(c, code_queue, k, sizeof(queued_t))
    if again:
        q[0] = k.q[0]
        free(k.q)
    k.q = q
    return again


cdef int64_t migrate_queue(ctx_t *c, queue_t *q, const target_t *t) noexcept nogil:
    """Migrate the queued pages; return how many were not moved or not isolated, or -errno."""
    cdef queued_t k
    cdef int64_t rc = 0
    queued_again(c, &k, q)
    if q.list.n:
        migrate_pages(c, q.list.pfns, q.list.n, t, &k.run)
        q.list.n = 0
        rc = run_result(&k.run)
    place_leave(c)
    return rc if rc < 0 else rc + <int64_t> q.failed


cdef int32_t node_remap(int32_t s, const nodemask_t *old, const nodemask_t *new) noexcept nogil:
    """Map the n-th node of ``old`` to the node of ``new`` with number n modulo its weight."""
    cdef uint32_t n = nodes_weight(new)
    if not (old.bits[0] >> s) & 1 or n == 0:
        return s
    return nodes_nth(new, <uint32_t> pmg_popcount(old.bits[0] & ((<uint64_t> 1 << s) - 1)) % n)


cdef bint next_pair(
        uint64_t left, uint64_t stay, const nodemask_t *old, const nodemask_t *new, int32_t *source,
        int32_t *dest) noexcept nogil:
    """Choose the next pair of nodes: one whose destination need not be emptied itself, else the last pair that moves.

    Nodes in ``stay`` are not emptied but count as ``left``.
    """
    cdef int32_t s, d
    cdef bint found = False
    for s in range(64):
        if not ((left & ~stay) >> s) & 1:
            continue
        d = node_remap(s, old, new)
        if s == d:
            continue
        source[0] = s
        dest[0] = d
        found = True
        if d >= 64 or not (left >> d) & 1:
            break
    return found
