"""The processor: touches and accesses of programs, one by one, in blocks, or with notes deferred to the end of an epoch."""
from libc.stdint cimport int8_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pagemig.mm.atomic cimport (
    GUARD_RETRY, pmg_add, pmg_add32, pmg_cas, pmg_cas32, PMG_GUARD, pmg_likely, pmg_load, pmg_load32, pmg_or,
    pmg_prefetch, pmg_prefetchw, pmg_store32, pmg_unlikely,
)
from pagemig.mm.context cimport LOOK_EVERY, mmap_read_lock, mmap_read_unlock, pmg_wait, signal_pending, waits_anew
from pagemig.mm.fork cimport do_group_exit
from pagemig.mm.frame cimport get_page
from pagemig.mm.memory cimport get_entry_page, handle_mm_fault, wait_on_page_locked
from pagemig.mm.notify cimport PMG_K_MAJOR, PMG_K_MINOR, PMG_K_SIGNAL, PMG_K_WAIT, tell_fault
from pagemig.mm.page_alloc cimport count_event, mm_of, page_token, put_page, set_page_token
from pagemig.mm.pagewalk cimport pagewalk_next, pagewalk_start, pagewalk_t
from pagemig.mm.pgtable cimport (
    leaf_number, leaf_pte, pte_index, pte_lock, pte_unlock, read_pte, stats_index, stats_rows, walk_leaf,
)
from pagemig.mm.pte cimport (
    is_migration_entry, migration_entry_to_pfn, PTE_A, PTE_D, PTE_P, pte_pfn, pte_present, PTE_RW, pte_t, SWP_MIG_SHIFT,
)
from pagemig.mm.types cimport (
    C_MIGRATION_WAIT, ctx_t, FAULT_FLAG_WRITE, machine_t, mm_t, STAGE, STATS_SLOTS, TASK_SIZE_PAGES, task_t, VM_EXEC,
    VM_FAULT_MAJOR, VM_FAULT_OOM, VM_FAULT_RESTARTED, VM_FAULT_RETRY, VM_FAULT_SIGSEGV, VM_FAULT_WAIT, VM_READ,
    VM_WRITE, vma_t, WAIT_PAGE,
)
from pagemig.mm.vma cimport vma_is_accessible, vma_lookup


cdef enum:
    SIGBUS = 7
    SIGKILL = 9
    SIGSEGV = 11
    FAULTS = 32                     # between two looks for signals
    LOCK_SPAN = 1024                # accesses under one hold of mmap_lock, so that writers are not starved


cdef inline pte_t access_pte(pte_t *p, bint write) noexcept nogil:
    """Access through an entry as the processor does: set A and D, and return the entry; 0: a fault."""
    cdef pte_t need = PTE_P | PTE_RW if write else PTE_P
    cdef pte_t note = PTE_A | PTE_D if write else PTE_A
    cdef pte_t pte = pmg_load(p)
    while (pte & need) == need:
        if (pte & note) == note or pmg_cas(p, pte, pte | note):
            return pte | note
        pte = pmg_load(p)
    return 0


cdef inline pte_t noted_bits(pte_t write) noexcept nogil:
    """Get the bits of an entry that an access, a store (1) or not (0), neither faults on nor changes."""
    return PTE_P | PTE_A | (PTE_RW | PTE_D) * write     # a branch would be mispredicted


cdef inline uint32_t *stats_row(ctx_t *c) noexcept nogil:
    """Get the row of access counts for the node of the context's processor; NULL when counting is off.

    Concurrent calls have rows of their own, so that counting is exact without atomic adds.
    """
    if c.m.stats == NULL:
        return NULL
    if c.stats_slot == 0:
        take_stats_slot(c)
    return stats_rows(c.m, c.stats_slot - 1, <uint32_t> c.nid)


cdef void take_stats_slot(ctx_t *c) noexcept nogil:
    """Claim the first slot that no other call counts in, until ctx_put; the last slot is shared."""
    cdef uint32_t slot = 0, used
    while slot < STATS_SLOTS - 1 and not pmg_cas32(&c.m.stats_busy[slot], 0, 1):
        slot += 1
    c.stats_slot = slot + 1
    used = pmg_load32(&c.m.stats_slots)
    while used <= slot and not pmg_cas32(&c.m.stats_slots, used, slot + 1):
        used = pmg_load32(&c.m.stats_slots)


cdef inline void count_access(ctx_t *c, uint32_t *counter, uint32_t n) noexcept nogil:
    if pmg_likely(c.stats_slot < STATS_SLOTS):
        pmg_store32(counter, pmg_load32(counter) + n)
    else:
        pmg_add32(counter, n)


cdef inline bint access_error(ctx_t *c, vma_t *vma, bint write) noexcept nogil:
    """Whether the VMA forbids the access.  Through 2.6.18 write-only memory cannot be read, though x86 entries allow it."""
    if write:
        return not vma.flags & VM_WRITE
    if not c.m.profile.dirty_tracking:
        return not vma.flags & (VM_READ | VM_EXEC)
    return not vma_is_accessible(vma)


cdef void tell_of_fault(ctx_t *c, mm_t *mm, uint64_t vpn, const touch_t *before, const touch_t *r) noexcept nogil:
    """Report the outcome of a fault to the callbacks."""
    cdef pte_t pte = read_pte(c.m, mm, vpn) if vpn < TASK_SIZE_PAGES else 0
    cdef uint32_t kind = PMG_K_WAIT, pfn = 0
    if r.signal:
        kind = PMG_K_SIGNAL
    elif r.majflt != before.majflt:
        kind = PMG_K_MAJOR
    elif r.minflt != before.minflt:
        kind = PMG_K_MINOR
    if pte_present(pte):
        pfn = <uint32_t> pte_pfn(pte)
    elif is_migration_entry(pte):
        pfn = migration_entry_to_pfn(pte)
    tell_fault(c, vpn, kind, pfn)


cdef int user_fault(
        ctx_t *c, mm_t *mm, vma_t **cached, uint64_t vpn, bint write, touch_t *r, uint32_t *entry) noexcept nogil:
    cdef touch_t before
    cdef int stop
    if pmg_likely(c.watch == NULL):
        return do_user_fault(c, mm, cached, vpn, write, r, entry)
    before = r[0]
    stop = do_user_fault(c, mm, cached, vpn, write, r, entry)
    tell_of_fault(c, mm, vpn, &before, r)
    return stop


cdef int do_user_fault(
        ctx_t *c, mm_t *mm, vma_t **cached, uint64_t vpn, bint write, touch_t *r, uint32_t *entry) noexcept nogil:
    """Take the slow path of an access: 0 retry it, 1 stop.

    It stops with a signal or a wait in ``r``, or with the frame of a migration entry in ``entry``, for which the caller
    waits without mmap_lock.  ``cached`` holds the VMA while mmap_lock is held.
    """
    cdef vma_t *vma = cached[0]
    cdef pte_t pte
    cdef int ret
    if not r.minflt % FAULTS and signal_pending(c, FAULTS):
        r.wait = 1
        return 1
    if vma == NULL or vpn < vma.start or vpn >= vma.end:
        vma = vma_lookup(c.m, mm, vpn)
        cached[0] = vma
    if vma == NULL or access_error(c, vma, write):
        r.signal = SIGSEGV
        return 1
    ret = handle_mm_fault(c, vma, vpn, FAULT_FLAG_WRITE if write else 0)
    if pmg_likely(ret == 0):
        r.minflt += 1
        return 0
    if ret & VM_FAULT_RETRY:
        pte = read_pte(c.m, mm, vpn)
        if c.m.profile.waiter_refs:
            entry[0] = get_entry_page(c, mm, vpn)
            return entry[0] != 0
        if is_migration_entry(pte):
            entry[0] = migration_entry_to_pfn(pte)
            return 1
        r.minflt += 1
        return 0
    if ret & VM_FAULT_MAJOR:
        r.majflt += 1
        return 0
    if ret == VM_FAULT_RESTARTED:
        r.minflt += 1
        return 0
    if ret & VM_FAULT_WAIT:
        r.wait = 1
    elif ret & VM_FAULT_OOM:
        r.signal = SIGKILL
    else:
        r.signal = SIGSEGV if ret & VM_FAULT_SIGSEGV else SIGBUS
    return 1


cdef bint wait_for_entry(ctx_t *c, uint32_t pfn, uint32_t *spins, touch_t *r) noexcept nogil:
    """Do one round of waiting for a migration, without mmap_lock; the whole wait is one minor fault.  False: unwind.

    The caller has a reference on the page only with waiter_refs, see migration_entry_wait.
    """
    cdef int err
    cdef bint first = spins[0] == 0 and waits_anew(c, WAIT_PAGE, pfn)
    if c.m.profile.waiter_refs:
        r.minflt += first
        r.wait = wait_on_page_locked(c, pfn) != 0
        return not r.wait
    count_event(c, C_MIGRATION_WAIT, first)
    r.minflt += first
    if not PMG_GUARD(GUARD_RETRY):
        get_page(c.m, pfn)
    err = pmg_wait(c, WAIT_PAGE, pfn, spins[0])
    if not PMG_GUARD(GUARD_RETRY):
        put_page(c, pfn)
    if err:
        r.wait = 1
        return False
    spins[0] += 1
    return True


cdef void touch_begin(touch_t *r) noexcept nogil:
    r.done = 0
    r.minflt = 0
    r.majflt = 0
    r.signal = 0
    r.wait = 0


cdef void touch_end(ctx_t *c, task_t *t, touch_t *r) noexcept nogil:
    """Count the faults; when out of memory, kill the calling process (the kernel's OOM killer picks the largest)."""
    if r.signal == SIGKILL:
        do_group_exit(c, t, True, True)
    if r.minflt:
        pmg_add(&t.min_flt, r.minflt)
    if r.majflt:
        pmg_add(&t.maj_flt, r.majflt)


cdef inline bint touch_page(
        ctx_t *c, uint32_t leaf, uint64_t vpn, bint write, const uint64_t *value, uint64_t *out,
        uint32_t *row) noexcept nogil:
    """Do one access with content.  The leaf's lock keeps the page in place: a migration could lose the write."""
    cdef machine_t *m = c.m
    cdef pte_t *p = leaf_pte(m, leaf, vpn)
    cdef uint32_t pfn
    if m.page_bytes == 0 or (value == NULL and out == NULL):
        if not access_pte(p, write):
            return False
        if out != NULL:
            out[0] = 0
    else:
        if not pmg_load(p) & PTE_P:
            return False
        pte_lock(c, leaf)
        if not access_pte(p, write):
            pte_unlock(c, leaf)
            return False
        pfn = <uint32_t> pte_pfn(pmg_load(p))
        if out != NULL:
            out[0] = page_token(m, pfn)
        if write and value != NULL:
            set_page_token(m, pfn, value[0])
        pte_unlock(c, leaf)
    if row != NULL:
        count_access(c, row + stats_index(leaf, vpn), 1)
    return True


ctypedef struct touches_t:      # consecutive pages
    uint64_t vpn
    bint write
    const uint64_t *values      # stored, or NULL
    uint64_t *out               # loaded, or NULL


ctypedef struct accesses_t:     # addresses in any order
    const uint64_t *addresses
    const uint8_t *writes
    bint write_all
    seen_t *seen


# Does the wanted accesses until ``r.done`` is ``end``, under mmap_lock.  Returns the frame of a migration entry met, else 0.
ctypedef uint32_t (*locked_t)(ctx_t *c, mm_t *mm, const void *wanted, uint64_t end, touch_t *r) noexcept nogil


cdef void in_spans(ctx_t *c, task_t *t, locked_t locked, const void *wanted, uint64_t n, touch_t *r) noexcept nogil:
    """Do ``n`` accesses, a span per hold of mmap_lock; wait without it for the migrations they meet."""
    cdef uint32_t entry, spins = 0
    cdef uint64_t before
    touch_begin(r)
    while r.done < n and not r.signal:
        if mmap_read_lock(c, c.mm):
            r.wait = 1
            break
        before = r.done
        entry = locked(c, mm_of(c.m, c.mm), wanted, min(n, before + LOCK_SPAN), r)
        mmap_read_unlock(c, c.mm)
        if r.done != before:
            spins = 0
            c.wait_what = 0
        if r.wait or (entry and not wait_for_entry(c, entry, &spins, r)):
            break
    touch_end(c, t, r)


cdef uint32_t touch_locked(ctx_t *c, mm_t *mm, const void *wanted, uint64_t end, touch_t *r) noexcept nogil:
    cdef machine_t *m = c.m
    cdef touches_t w = (<const touches_t *> wanted)[0]
    cdef uint32_t *row = stats_row(c)
    cdef uint32_t leaf = 0, entry = 0
    cdef uint64_t v, k
    cdef vma_t *vma = NULL
    while r.done < end:
        k = r.done
        v = w.vpn + k
        if not leaf or pte_index(v) == 0:
            leaf = walk_leaf(m, mm.pgd, v) if v < TASK_SIZE_PAGES else 0
        if leaf and touch_page(
                c, leaf, v, w.write, w.values + k if w.values != NULL else NULL, w.out + k if w.out != NULL else NULL, row):
            r.done += 1
        elif user_fault(c, mm, &vma, v, w.write, r, &entry):
            break
    return entry


cdef void touch_range(
        ctx_t *c, task_t *t, uint64_t vpn, uint64_t n, bint write, const uint64_t *values, uint64_t *out,
        touch_t *r) noexcept nogil:
    cdef touches_t w
    w.vpn = vpn
    w.write = write
    w.values = values
    w.out = out
    in_spans(c, t, touch_locked, &w, n, r)


cdef void nodes_of(machine_t *m, const pte_t *ptes, uint32_t n, int8_t *node) noexcept nogil:
    """Find the node of ``n`` <= STAGE present entries: how many nodes end before it.  Branch-free, to vectorise."""
    cdef uint32_t pfns[STAGE]
    cdef uint32_t i, k, end
    for k in range(n):
        pfns[k] = <uint32_t> pte_pfn(ptes[k])
    memset(node, 0, n)
    for i in range(m.nr_nodes - 1):
        end = <uint32_t> m.node[i].end
        for k in range(n):
            node[k] += pfns[k] >= end


cdef uint32_t access_block(
        ctx_t *c, mm_t *mm, const uint64_t *addresses, const uint8_t *writes, bint write_all,
        uint32_t n, int8_t *node) noexcept nogil:
    """Do ``n`` <= STAGE accesses up to the first that is not a plain hit; return how many.

    ``node`` (may be NULL) receives the node of each page.

    Three passes, so that the host's cache misses overlap: find the entries, note the accesses, count them.
    """
    cdef machine_t *m = c.m
    cdef pte_t *p[STAGE]
    cdef pte_t used[STAGE]
    cdef uint32_t *row = stats_row(c)
    cdef uint32_t k, found = n, leaf = 0
    cdef uint64_t vpn, base = <uint64_t> -1
    cdef pte_t pte, noted = noted_bits(write_all)
    for k in range(n):
        vpn = pmg_load(addresses + k) >> 12         # read once: the caller may write its array meanwhile
        if leaf_number(vpn) != base:
            leaf = walk_leaf(m, mm.pgd, vpn) if pmg_likely(vpn < TASK_SIZE_PAGES) else 0
            if pmg_unlikely(leaf == 0):
                found = k
                break
            base = leaf_number(vpn)
        p[k] = leaf_pte(m, leaf, vpn)
        pmg_prefetchw(p[k])
    for k in range(found):
        if writes != NULL:
            noted = noted_bits(write_all | (writes[k] != 0))
        pte = pmg_load(p[k])
        if pmg_unlikely((pte & noted) != noted):
            pte = access_pte(p[k], noted & PTE_RW != 0)
            if pte == 0:
                found = k
                break
        if row != NULL:
            pmg_prefetchw(row + (p[k] - m.pt))
        used[k] = pte
    if node != NULL:
        nodes_of(m, used, found, node)
    if row != NULL:
        for k in range(found):
            count_access(c, row + (p[k] - m.pt), 1)
    return found


cdef inline void see_hits(seen_t *seen, uint64_t i, uint32_t n) noexcept nogil:
    """Note ``n`` hits from access ``i`` on; the first may have faulted before."""
    if n == 0:
        return
    if seen.kind != NULL:
        memset(seen.kind + i, KIND_HIT, n)
        seen.kind[i] = seen.pending
    seen.pending = KIND_HIT


cdef uint32_t access_locked(ctx_t *c, mm_t *mm, const void *wanted, uint64_t end, touch_t *r) noexcept nogil:
    """Do accesses in blocks.  After a fault, blocks start small again, so that a run of faults wastes no lookups."""
    cdef accesses_t w = (<const accesses_t *> wanted)[0]
    cdef uint32_t width = STAGE, n, hits, entry = 0
    cdef uint64_t i, major
    cdef vma_t *vma = NULL
    while r.done < end:
        i = r.done
        n = <uint32_t> min(<uint64_t> width, end - i)
        hits = access_block(
            c, mm, w.addresses + i, w.writes + i if w.writes != NULL else NULL, w.write_all, n,
            w.seen.node + i if w.seen != NULL and w.seen.node != NULL else NULL)
        r.done += hits
        if w.seen != NULL:
            see_hits(w.seen, i, hits)
        if hits == n:
            width = min(width * 2, <uint32_t> STAGE)
            continue
        i = r.done
        major = r.majflt
        if user_fault(
                c, mm, &vma, w.addresses[i] >> 12, w.write_all or (w.writes != NULL and w.writes[i] != 0), r, &entry):
            if entry and w.seen != NULL and w.seen.pending == KIND_HIT:
                w.seen.pending = KIND_MINOR
            break
        if w.seen != NULL:
            w.seen.pending = KIND_MAJOR if r.majflt != major or w.seen.pending == KIND_MAJOR else KIND_MINOR
        width = 1
    return entry


cdef void access_run(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t n,
        seen_t *seen, touch_t *r) noexcept nogil:
    cdef accesses_t w
    w.addresses = addresses
    w.writes = writes
    w.write_all = write_all
    w.seen = seen
    in_spans(c, t, access_locked, &w, n, r)


cdef void access_many(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t n,
        touch_t *r) noexcept nogil:
    access_run(c, t, addresses, writes, write_all, n, NULL, r)


cdef void access_seen(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, uint64_t n, seen_t *seen,
        touch_t *r) noexcept nogil:
    seen.pending = KIND_HIT
    access_run(c, t, addresses, writes, False, n, seen, r)


cdef pte_t access_one(ctx_t *c, task_t *t, uint64_t va, bint write, touch_t *r) noexcept nogil:
    cdef machine_t *m = c.m
    cdef mm_t *mm = mm_of(m, c.mm)
    cdef uint64_t vpn = va >> 12
    cdef uint32_t leaf = walk_leaf(m, mm.pgd, vpn) if vpn < TASK_SIZE_PAGES else 0
    cdef uint32_t *row
    touch_begin(r)
    if pmg_likely(leaf != 0) and pmg_likely(access_pte(leaf_pte(m, leaf, vpn), write)):
        if m.stats != NULL:
            row = stats_row(c)
            count_access(c, row + stats_index(leaf, vpn), 1)
        r.done = 1
        return pmg_load(leaf_pte(m, leaf, vpn))
    touch_range(c, t, vpn, 1, write, NULL, NULL, r)
    return read_pte(m, mm, vpn) if r.done else 0


cdef enum:
    EPOCH = 1 << 24                 # accesses between two folds at most
    EPOCH_PART = 1 << 18            # between two looks for signals: a millisecond
    PAGE_WRITTEN = 1                # the bits between this and the marks count accesses, in units of PAGE_ACCESS
    PAGE_ACCESS = 2
    PAGE_READONLY = 1 << 29
    PAGE_ABSENT = 1 << 30
    LIST_AHEAD = 512               # accesses
    NEAR_PAGES = 1 << 18            # an array of up to this length stays in the host's inner caches


# -- accesses with deferred notes ------------------------------------------------------------------------------
#
# An epoch counts accesses in one dense array over the pages between its lowest and highest address.  At its end it writes
# accessed and dirty bits and access counts.  The result is that of access by access: mmap_lock is held for reading
# throughout, migrations carry the bits along, and a page that is absent or read-only is marked and takes the slow path in
# its turn.


ctypedef struct epoch_t:
    mm_t *mm
    uint64_t first, pages           # the pages that the array covers
    uint32_t *count
    uint64_t room                   # capacity of the array in pages
    bint marked                     # some page has a mark
    bint strays                     # an access was outside: the next epoch scans all addresses first


cdef inline uint32_t page_mark(pte_t pte) noexcept nogil:
    if not pte & PTE_P:
        return PAGE_ABSENT
    return 0 if pte & PTE_RW else PAGE_READONLY


cdef bint epoch_vma(machine_t *m, epoch_t *e, uint64_t vpn, uint64_t n) noexcept nogil:
    """Cover the mapping of ``vpn``, without scanning addresses, if it is not too large for ``n`` accesses."""
    cdef vma_t *vma = vma_lookup(m, e.mm, vpn)
    if vma == NULL or e.strays or vma.end - vma.start > n // 4:
        return False
    e.first = vma.start
    e.pages = vma.end - vma.start
    return True


cdef bint epoch_span(epoch_t *e, const uint64_t *addresses, uint64_t n) noexcept nogil:
    """Cover the range of ``n`` accesses; False when they are too sparse for an array to pay off."""
    cdef uint64_t i, lo = addresses[0], hi = lo     # lo <= hi, whatever the caller writes meanwhile
    for i in range(n):
        lo = min(lo, addresses[i])
        hi = max(hi, addresses[i])
    e.first = lo >> 12
    e.pages = (hi >> 12) - e.first + 1
    return hi >> 12 < TASK_SIZE_PAGES and e.pages <= 2 * n + 4096


cdef int epoch_begin(machine_t *m, epoch_t *e, const uint64_t *addresses, uint64_t n) noexcept nogil:
    """Make an array for the pages of ``n`` accesses; -1 without memory or if it does not pay off.  mmap_lock is held."""
    if not epoch_vma(m, e, addresses[0] >> 12, n) and not epoch_span(e, addresses, n):
        return -1
    if e.pages > e.room:
        free(e.count)
        e.count = <uint32_t *> malloc(e.pages * 4)
        e.room = e.pages if e.count != NULL else 0
    return 0 if e.count != NULL else -1


cdef void epoch_mark(machine_t *m, epoch_t *e) noexcept nogil:
    cdef pagewalk_t w
    cdef uint64_t vpn = e.first, end = e.first + e.pages
    cdef uint32_t mark, marks = 0
    cdef bint more = True
    pagewalk_start(&w, m, e.mm, vpn, end)
    while more:
        more = pagewalk_next(&w)
        while vpn < w.vpn:                  # no leaf table: absent
            e.count[vpn - e.first] = marks = PAGE_ABSENT
            vpn += 1
        while vpn < w.stop:
            mark = page_mark(pmg_load(leaf_pte(m, w.leaf, vpn)))
            e.count[vpn - e.first] = mark
            marks |= mark
            vpn += 1
    e.marked = marks != 0


cdef void note_page(ctx_t *c, uint32_t leaf, uint64_t vpn, bint written) noexcept nogil:
    """Set the accessed and dirty bits of a page, in its migration entry if it is being migrated."""
    cdef pte_t *p = leaf_pte(c.m, leaf, vpn)
    cdef pte_t note = PTE_A | PTE_D if written else PTE_A, pte = pmg_load(p)
    if pte & PTE_P and (pte & note) == note:
        return
    pte_lock(c, leaf)
    pte = pmg_load(p)
    if pte & PTE_P:
        pmg_or(p, note)
    elif is_migration_entry(pte):
        pmg_or(p, note << SWP_MIG_SHIFT)
    pte_unlock(c, leaf)


cdef void epoch_fold(ctx_t *c, epoch_t *e) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t *row = stats_row(c)
    cdef pagewalk_t w
    cdef uint64_t vpn
    cdef uint32_t n
    pagewalk_start(&w, m, e.mm, e.first, e.first + e.pages)
    while pagewalk_next(&w):
        for vpn in range(w.vpn, w.stop):
            n = e.count[vpn - e.first] & (PAGE_READONLY - 1)
            if n:
                note_page(c, w.leaf, vpn, n & PAGE_WRITTEN)
                if row != NULL:
                    count_access(c, row + stats_index(w.leaf, vpn), n // PAGE_ACCESS)


cdef uint32_t epoch_fault(
        ctx_t *c, epoch_t *e, vma_t **vma, uint64_t vpn, bint write, touch_t *r, bint *stop) noexcept nogil:
    """Take the slow path: fault, unless fault-around has mapped the page meanwhile, then read its mark again."""
    cdef uint32_t *word = e.count + (vpn - e.first)
    cdef uint32_t entry = 0
    cdef pte_t pte = read_pte(c.m, e.mm, vpn)
    if page_mark(pte) & (PAGE_ABSENT | (PAGE_READONLY if write else 0)):
        if user_fault(c, e.mm, vma, vpn, write, r, &entry):
            stop[0] = True
            return entry
        pte = read_pte(c.m, e.mm, vpn)
    word[0] = (word[0] & (PAGE_READONLY - 1)) | page_mark(pte)
    return 0


cdef inline uint32_t epoch_index(const epoch_t *e, const uint64_t *addresses, uint32_t n, uint32_t *index) noexcept nogil:
    """Compute array indices of ``n`` accesses; return how many precede the first outside.  Branch-free, to vectorise."""
    cdef uint64_t first = e.first, last = e.pages - 1, at, outside = 0
    cdef uint32_t k
    for k in range(n):
        at = (addresses[k] >> 12) - first
        outside |= at | (last - at)         # the sign bit of either
        index[k] = <uint32_t> at
    if pmg_likely(not outside >> 63):
        return n
    for k in range(n):
        at = (pmg_load(addresses + k) >> 12) - first    # read again: the caller may have written it
        if at > last:
            return k
        index[k] = <uint32_t> at
    return n


cdef inline void epoch_count(
        uint32_t *count, const uint32_t *index, const uint32_t *next, const uint8_t *writes, uint32_t n,
        bint far) noexcept nogil:
    """Count accesses to pages without marks; ``next`` has the indices of the next block."""
    cdef uint32_t k
    cdef uint32_t *word
    for k in range(n):
        if far:
            pmg_prefetchw(count + next[k])
        word = count + index[k]
        word[0] = (word[0] + PAGE_ACCESS) | writes[k]


cdef uint32_t epoch_careful(
        ctx_t *c, epoch_t *e, vma_t **vma, const uint64_t *addresses, const uint32_t *index, const uint8_t *writes,
        uint32_t n, touch_t *r, bint *stop) noexcept nogil:
    """Count accesses to pages that may have marks.  Return the frame of a migration entry met, else 0."""
    cdef uint32_t k = 0, entry = 0
    cdef uint32_t *word
    while k < n and not stop[0]:
        word = e.count + index[k]
        if pmg_likely(not word[0] & (PAGE_ABSENT | PAGE_READONLY * <uint32_t> writes[k])):
            word[0] = (word[0] + PAGE_ACCESS) | writes[k]
            k += 1
        else:
            entry = epoch_fault(c, e, vma, e.first + index[k], writes[k] != 0, r, stop)
    r.done += k
    return entry


cdef uint32_t epoch_run(
        ctx_t *c, epoch_t *e, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t end,
        touch_t *r) noexcept nogil:
    """Do accesses until ``r.done`` is ``end`` or one is outside the array, under mmap_lock.

    Return the frame of a migration entry met, else 0.  The indices of a block are computed before the block in front of it
    is counted, so that distant words are prefetched meanwhile.
    """
    cdef uint32_t index[2][STAGE]
    cdef uint8_t flags[STAGE]
    cdef uint32_t n, ahead, k, side = 0, entry = 0
    cdef uint64_t i = r.done
    cdef vma_t *vma = NULL
    cdef bint stop = False, far = e.pages > NEAR_PAGES
    memset(flags, write_all, STAGE)
    n = epoch_index(e, addresses + i, <uint32_t> min(<uint64_t> STAGE, end - i), index[0])
    while n and not stop:
        i = r.done
        ahead = <uint32_t> min(<uint64_t> STAGE, end - i - n)
        ahead = epoch_index(e, addresses + i + n, ahead, index[1 - side])
        for k in range(STAGE // 8):         # the list is consumed faster than the host prefetches by itself
            pmg_prefetch(addresses + i + LIST_AHEAD + k * 8)
        if writes != NULL:
            for k in range(n):
                flags[k] = writes[i + k] != 0
        if e.marked:
            entry = epoch_careful(c, e, &vma, addresses + i, index[side], flags, n, r, &stop)
        else:
            epoch_count(e.count, index[side], index[1 - side], flags, n, far and ahead == STAGE)
            r.done += n
        side = 1 - side
        n = ahead
    e.strays = not stop and r.done < end
    return entry


cdef uint32_t epoch_parts(
        ctx_t *c, epoch_t *e, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t end,
        touch_t *r) noexcept nogil:
    """epoch_run() in parts, between which the call looks for signals."""
    cdef uint32_t entry = 0
    e.strays = False
    while r.done < end and not (entry or e.strays or r.signal or r.wait):
        entry = epoch_run(c, e, addresses, writes, write_all, min(end, r.done + EPOCH_PART), r)
        if signal_pending(c, LOOK_EVERY):
            r.wait = 1
    return entry


cdef void plain_parts(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t end,
        touch_t *r) noexcept nogil:
    """access_many() in parts, between which the call looks for signals."""
    cdef touch_t part
    cdef uint64_t i
    while r.done < end and not r.signal and not r.wait:
        i = r.done
        access_many(
            c, t, addresses + i, writes + i if writes != NULL else NULL, write_all, min(end - i, <uint64_t> EPOCH_PART), &part)
        r.done += part.done
        r.minflt += part.minflt
        r.majflt += part.majflt
        r.signal = part.signal
        r.wait = part.wait
        if r.done < end and signal_pending(c, LOOK_EVERY):
            r.wait = 1


cdef void access_deferred(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t n,
        touch_t *r) noexcept nogil:
    cdef epoch_t e
    cdef uint64_t end
    cdef uint32_t entry, spins = 0
    touch_begin(r)
    e.mm = mm_of(c.m, c.mm)
    e.count = NULL
    e.room = 0
    e.strays = False
    while r.done < n and not r.signal and not r.wait:
        end = min(n, r.done + EPOCH)
        if mmap_read_lock(c, c.mm):
            r.wait = 1
            break
        if epoch_begin(c.m, &e, addresses + r.done, end - r.done):
            mmap_read_unlock(c, c.mm)
            plain_parts(c, t, addresses, writes, write_all, end, r)
            continue
        epoch_mark(c.m, &e)
        entry = epoch_parts(c, &e, addresses, writes, write_all, end, r)
        epoch_fold(c, &e)
        mmap_read_unlock(c, c.mm)
        if entry and not r.wait and not wait_for_entry(c, entry, &spins, r):
            break
    free(e.count)
    touch_end(c, t, r)
