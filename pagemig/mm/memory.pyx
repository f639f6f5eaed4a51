"""Page faults, copying of page tables at fork, and zapping.

mmap_lock is held, at least for reading, wherever a VMA is passed.  The lock of the leaf table guards its entries.  Accessed
and dirty bits are set without it, by compare-and-swap, as the processor does.  So code that replaces an entry that the
processor may use exchanges it atomically, or only sets those bits.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from pagemig.mm.atomic cimport (
    GUARD_FAULT_ENTRY, GUARD_FORK_ENTRY, GUARD_TRUNCATED, GUARD_UNMAPPED_ENTRY, GUARD_WAITER, pmg_add, pmg_and,
    PMG_GUARD, pmg_likely, pmg_load, pmg_load32, pmg_load32_acq, pmg_load_acq, pmg_store32, pmg_unlikely, pmg_xchg,
)
from pagemig.mm.context cimport lock_page, pmg_wait, signal_pending, wait_over, waits_anew
from pagemig.mm.filemap cimport file_page_dirty, find_get_pages, has_disk, mmap_hit, page_belongs, vma_fault
from pagemig.mm.frame cimport (
    get_page, page_count, page_mapcount, page_maybe_dma_pinned, page_state, page_test, page_test_set, page_try_map,
    put_page_testzero, trylock_page, unlock_page,
)
from pagemig.mm.mempolicy cimport alloc_page_vma
from pagemig.mm.notify cimport (
    count_copy, flush_tlb, hears_flushes, PMG_F_COW, PMG_F_UNMAP, tell_flush,
)
from pagemig.mm.page_alloc cimport (
    clear_highpage, copy_highpage, count_event, file_of, free_pages, mm_index, mm_of, put_page, put_page_refs,
)
from pagemig.mm.pagewalk cimport pagewalk_next, pagewalk_start, pagewalk_t
from pagemig.mm.pgtable cimport leaf_end, leaf_pte, pte_alloc, pte_lock, pte_unlock, read_pte, set_pte, walk_leaf
from pagemig.mm.pte cimport (
    is_migration_entry, migration_entry_set_type, migration_entry_to_pfn, PTE_A, PTE_D, pte_dirty, pte_none, pte_pfn,
    pte_present, PTE_RW, PTE_SPECIAL, pte_t, pte_write, SWP_MIGRATION_READ, swp_type,
)
from pagemig.mm.rmap cimport (
    anon_vma_prepare, lru_add_drain, page_add_anon_rmap, page_add_file_rmap, page_add_new_anon_rmap,
    page_remove_rmap,
)
from pagemig.mm.swap_state cimport (
    can_share_swap_page, delete_from_swap_cache, entry_slot, exclusive_swap_page, free_swap_and_cache, free_swap_cache,
    is_slot_entry, lookup_swap_cache, read_swap_cache, swap_duplicate, swap_free, swapin_readahead, vm_swap_full,
)
from pagemig.mm.types cimport (
    C_COW, C_COW_REUSE, C_FAULT_AROUND, C_MIGRATION_WAIT, C_PGFAULT, C_PGMAJFAULT, C_ZERO_PAGE_FAULT, ctx_t,
    FAULT_FLAG_UNSHARE, FAULT_FLAG_WRITE, file_t, machine_t, mm_t, PG_anon, PG_anon_exclusive, PG_locked,
    PG_readahead, PG_swapcache, PG_uptodate, PMG_WAIT, PTRS_PER_PTE, STAGE, VM_FAULT_MAJOR, VM_FAULT_OOM,
    VM_FAULT_RESTARTED, VM_FAULT_RETRY, VM_FAULT_SIGBUS, VM_FAULT_WAIT, VM_PFNMAP, VM_SHARED, VM_WRITE, vma_t,
    WAIT_PAGE,
)
from pagemig.mm.vma cimport (
    add_mm_counter, is_cow_mapping, linear_page_index, vm_page_prot, vma_flags, vma_index_of, vma_pte,
)


# -- entries -----------------------------------------------------------------------------------------------------


cdef inline pte_t maybe_mkwrite(pte_t pte, vma_t *vma) noexcept nogil:
    return pte | PTE_RW if vma_flags(vma) & VM_WRITE else pte


cdef inline bint pte_same(pte_t a, pte_t b) noexcept nogil:
    """Compare entries, except the accessed and dirty bits that the processor may set meanwhile."""
    return (a ^ b) & ~(PTE_A | PTE_D) == 0


cdef inline pte_t ptep_get_and_clear(machine_t *m, uint32_t leaf, uint64_t vpn) noexcept nogil:
    """Clear an entry and return it with final accessed and dirty bits; the leaf's lock is held."""
    cdef uint32_t *used = &m.ptdesc[leaf].used
    pmg_store32(used, used[0] - 1)
    return pmg_xchg(leaf_pte(m, leaf, vpn), 0)


cdef inline void add_entry_counter(machine_t *m, vma_t *vma, uint64_t state, int64_t n) noexcept nogil:
    """Count a migration entry that appears or disappears in the resident set; 2.6.18 does not, which rss_lost records."""
    if m.profile.rss_uncounted:
        pmg_add(<uint64_t *> &mm_of(m, vma.mm).rss_lost, <uint64_t> n)
    else:
        add_mm_counter(m, vma, state, n)


# -- anonymous memory ----------------------------------------------------------------------------------------------


cdef int do_anonymous_page(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, bint write) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t pfn = 0
    cdef pte_t pte
    cdef bint empty
    if write:
        if not pmg_load32_acq(&vma.anon_vma) and anon_vma_prepare(c, vma):
            return VM_FAULT_OOM
        pfn = alloc_page_vma(c, vma, vpn)
        if not pfn:
            return VM_FAULT_OOM
        clear_highpage(m, pfn)
        pte = maybe_mkwrite(vma_pte(m, vma, pfn) | PTE_D, vma)
    else:
        pte = vm_page_prot(m, vma) | PTE_SPECIAL
        count_event(c, C_ZERO_PAGE_FAULT, 1)
    pte_lock(c, leaf)
    empty = pte_none(pmg_load(leaf_pte(m, leaf, vpn)))
    if empty:
        if pfn:
            page_add_new_anon_rmap(c, pfn, vma, vpn)
        set_pte(m, leaf, vpn, pte)
    pte_unlock(c, leaf)
    if pfn and not empty:
        put_page(c, pfn)
    return 0


# -- copy on write ---------------------------------------------------------------------------------------------------


cdef bint wp_can_reuse_anon_page(ctx_t *c, uint32_t pfn, vma_t *vma) noexcept nogil:
    """Make an anonymous page exclusive if this entry holds its only reference; the leaf's lock is held.

    The page lock excludes a migration, which would move the page away from its new owner.  The swap cache may hold another
    reference if no other entry names the page's slot.
    """
    cdef machine_t *m = c.m
    cdef bint only
    if page_count(m, pfn) > (2 if page_test(m, pfn, PG_swapcache) else 1) or not trylock_page(m, pfn):
        return False
    only = can_share_swap_page(c, pfn)
    if only:
        pmg_store32(&m.frames[pfn].mapping, vma.anon_vma)
        page_test_set(m, pfn, PG_anon_exclusive)
    unlock_page(m, pfn)
    return only


cdef inline void wp_page_reuse(machine_t *m, vma_t *vma, uint64_t vpn, uint32_t leaf, pte_t pte) noexcept nogil:
    set_pte(m, leaf, vpn, maybe_mkwrite(pte | PTE_A | PTE_D, vma))


cdef int wp_page_copy(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, pte_t old_pte, bint unshare) noexcept nogil:
    """Replace the page of ``old_pte`` by a private copy.  The caller has a reference on it, unless it is the zero page."""
    cdef machine_t *m = c.m
    cdef uint32_t new = 0, old = 0 if old_pte & PTE_SPECIAL else <uint32_t> pte_pfn(old_pte)
    cdef pte_t pte
    cdef bint same
    if pmg_load32_acq(&vma.anon_vma) or anon_vma_prepare(c, vma) == 0:
        new = alloc_page_vma(c, vma, vpn)
    if not new:
        if old:
            put_page(c, old)
        return VM_FAULT_OOM
    if old:
        copy_highpage(m, new, old)
        count_copy(c, old, new)
    else:
        clear_highpage(m, new)
    pte = vma_pte(m, vma, new)
    if not unshare:
        pte = maybe_mkwrite(pte | PTE_D, vma)
    pte_lock(c, leaf)
    same = pte_same(pmg_load(leaf_pte(m, leaf, vpn)), old_pte)
    if same:
        page_add_new_anon_rmap(c, new, vma, vpn)
        set_pte(m, leaf, vpn, pte)
        flush_tlb(c, vma.mm, vpn, 1, PMG_F_COW)
        if old:
            page_remove_rmap(c, old, vma)
        count_event(c, C_COW, 1)
    pte_unlock(c, leaf)
    if not same:
        put_page(c, new)
    if old:
        put_page_refs(c, old, 1 + <uint32_t> same)
    return 0


cdef int wp_page_shared(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, pte_t pte) noexcept nogil:
    """Handle the first write to a clean page of a shared file mapping; entered with the leaf's lock, which it drops.

    The file system is notified (page_mkwrite) under the page lock, which excludes truncation.
    """
    cdef machine_t *m = c.m
    cdef file_t *f = file_of(m, vma.file)
    cdef uint32_t pfn = <uint32_t> pte_pfn(pte)
    get_page(m, pfn)
    pte_unlock(c, leaf)
    if lock_page(c, pfn):
        put_page(c, pfn)
        return VM_FAULT_WAIT
    if page_belongs(m, pfn, f, vma_index_of(vma, vpn)):
        file_page_dirty(c, f, pfn)
        pte_lock(c, leaf)
        if pte_same(pmg_load(leaf_pte(m, leaf, vpn)), pte):
            wp_page_reuse(m, vma, vpn, leaf, pte)
        pte_unlock(c, leaf)
    unlock_page(m, pfn)
    put_page(c, pfn)
    return 0


cdef int do_wp_page(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, bint unshare) noexcept nogil:
    """Handle a write to a read-only entry, or the unsharing of a page for a long-term pin.

    The rules are: an anonymous page that is exclusive or has no other reference is made writable in place; so is a page of
    a shared mapping, after its file system was notified; every other page is copied.
    """
    cdef machine_t *m = c.m
    cdef uint32_t pfn
    cdef uint64_t state
    cdef pte_t pte
    pte_lock(c, leaf)
    pte = pmg_load(leaf_pte(m, leaf, vpn))
    if not pte_present(pte) or pte_write(pte):
        pte_unlock(c, leaf)
        return 0
    pfn = <uint32_t> pte_pfn(pte)
    state = page_state(m, pfn)
    if not pte & PTE_SPECIAL and state & PG_anon:
        if (state & PG_anon_exclusive and m.profile.anon_exclusive) or wp_can_reuse_anon_page(c, pfn, vma):
            if not unshare:
                wp_page_reuse(m, vma, vpn, leaf, pte)
                count_event(c, C_COW_REUSE, 1)
            pte_unlock(c, leaf)
            return 0
    elif unshare:
        # Only anonymous pages are unshared.
        pte_unlock(c, leaf)
        return 0
    elif (vma.flags & (VM_WRITE | VM_SHARED)) == (VM_WRITE | VM_SHARED):
        if m.profile.dirty_tracking:
            return wp_page_shared(c, vma, vpn, leaf, pte)
        wp_page_reuse(m, vma, vpn, leaf, pte)
        pte_unlock(c, leaf)
        return 0
    if not pte & PTE_SPECIAL:
        get_page(m, pfn)
    pte_unlock(c, leaf)
    return wp_page_copy(c, vma, vpn, leaf, pte, unshare)


# -- pages of files ----------------------------------------------------------------------------------------------------


cdef inline bint page_is_mappable(machine_t *m, uint32_t pfn) noexcept nogil:
    """Whether fault-around may map a page: up to date, unlocked, and without a read-ahead mark, which needs a fault."""
    return (page_state(m, pfn) & (PG_uptodate | PG_locked | PG_readahead)) == PG_uptodate


cdef uint32_t filemap_map_pages(ctx_t *c, vma_t *vma, uint64_t start, uint32_t n, uint32_t leaf) noexcept nogil:
    """Map the cached pages of ``vma`` in ``n`` <= STAGE pages from ``start``, all of one leaf; returns how many."""
    cdef machine_t *m = c.m
    cdef file_t *f = file_of(m, vma.file)
    cdef uint64_t index = vma_index_of(vma, start)
    cdef uint32_t pfns[STAGE]
    cdef uint32_t i, mapped = 0
    if find_get_pages(m, f, index, n, pfns) == 0:
        return 0
    pte_lock(c, leaf)
    for i in range(n):
        if pfns[i] and pte_none(pmg_load(leaf_pte(m, leaf, start + i))) and page_is_mappable(m, pfns[i]) and \
                trylock_page(m, pfns[i]):
            # The entry takes over the reference.
            if page_belongs(m, pfns[i], f, index + i) and index + i < pmg_load(&f.size) and \
                    page_add_file_rmap(c, pfns[i], vma):
                set_pte(m, leaf, start + i, vma_pte(m, vma, pfns[i]))
                mapped += 1
                unlock_page(m, pfns[i])
                pfns[i] = 0
            else:
                unlock_page(m, pfns[i])
    pte_unlock(c, leaf)
    for i in range(n):
        if pfns[i]:
            put_page(c, pfns[i])
    if has_disk(f):
        mmap_hit(f, mapped)
    return mapped


cdef bint do_fault_around(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf) noexcept nogil:
    """Map the cached pages in the aligned window of a read fault; True when that serves ``vpn`` too.

    If the mapping starts inside the window, the window moves up by as many pages, as in the kernel.
    """
    cdef uint64_t window = c.m.profile.fault_around
    cdef uint64_t start = max(vpn & ~(window - 1), vma.start)
    cdef uint64_t end = min(min(start + window, vma.end), leaf_end(vpn))
    cdef uint32_t n
    while start < end:
        n = <uint32_t> min(end - start, <uint64_t> STAGE)
        count_event(c, C_FAULT_AROUND, filemap_map_pages(c, vma, start, n, leaf))
        start += n
    return pte_present(pmg_load_acq(leaf_pte(c.m, leaf, vpn)))


cdef int finish_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, uint32_t pfn, bint write) noexcept nogil:
    """Map the locked page of a file, unless another fault was faster; takes over the reference and the lock.

    0, or VM_FAULT_OOM where the page's mapcount is full.
    """
    cdef machine_t *m = c.m
    cdef pte_t pte = vma_pte(m, vma, pfn)
    cdef bint empty, mapped
    if write:
        pte = maybe_mkwrite(pte | PTE_D, vma)
    pte_lock(c, leaf)
    empty = pte_none(pmg_load(leaf_pte(m, leaf, vpn)))
    mapped = empty and page_add_file_rmap(c, pfn, vma)
    if mapped:
        set_pte(m, leaf, vpn, pte)
    pte_unlock(c, leaf)
    unlock_page(m, pfn)
    if not mapped:
        put_page(c, pfn)
    return VM_FAULT_OOM if empty and not mapped else 0


cdef int do_read_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf) noexcept nogil:
    cdef uint32_t pfn = 0
    cdef bint around = c.m.profile.fault_around > 1
    cdef int ret
    if around and do_fault_around(c, vma, vpn, leaf):
        return 0
    ret = vma_fault(c, vma, vma_index_of(vma, vpn), &pfn)
    if pfn:
        if around and ret & VM_FAULT_RESTARTED:
            # The retry after reading also maps the neighbours that were just read.
            do_fault_around(c, vma, vpn, leaf)
        ret |= finish_fault(c, vma, vpn, leaf, pfn, False)
    return ret


cdef int do_cow_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf) noexcept nogil:
    """Handle a write to an unmapped page of a private mapping: the copy is mapped, the file's page never is."""
    cdef machine_t *m = c.m
    cdef uint32_t new, pfn = 0
    cdef bint empty
    cdef int ret
    if not pmg_load32_acq(&vma.anon_vma) and anon_vma_prepare(c, vma):
        return VM_FAULT_OOM
    new = alloc_page_vma(c, vma, vpn)
    if not new:
        return VM_FAULT_OOM
    ret = vma_fault(c, vma, vma_index_of(vma, vpn), &pfn)
    if not pfn:
        put_page(c, new)
        return ret
    copy_highpage(m, new, pfn)
    count_copy(c, pfn, new)
    pte_lock(c, leaf)
    empty = pte_none(pmg_load(leaf_pte(m, leaf, vpn)))
    if empty:
        page_add_new_anon_rmap(c, new, vma, vpn)
        set_pte(m, leaf, vpn, maybe_mkwrite(vma_pte(m, vma, new) | PTE_D, vma))
    pte_unlock(c, leaf)
    unlock_page(m, pfn)
    put_page(c, pfn)
    if not empty:
        put_page(c, new)
    return ret


cdef int do_shared_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf) noexcept nogil:
    cdef uint32_t pfn = 0
    cdef int ret = vma_fault(c, vma, vma_index_of(vma, vpn), &pfn)
    if pfn:
        if c.m.profile.dirty_tracking:
            file_page_dirty(c, file_of(c.m, vma.file), pfn)
        ret |= finish_fault(c, vma, vpn, leaf, pfn, True)
    return ret


# -- one fault ---------------------------------------------------------------------------------------------------------


cdef int swap_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, pte_t pte, uint32_t flags) noexcept nogil:
    """Swap a page in; a write then continues with copy-on-write in the same fault."""
    cdef int ret = do_swap_page(c, vma, vpn, leaf, pte)
    if ret & ~VM_FAULT_MAJOR == 0 and flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE):
        ret |= do_wp_page(c, vma, vpn, leaf, (flags & FAULT_FLAG_UNSHARE) != 0)
    return ret


cdef int pfn_fault(ctx_t *c, uint64_t vpn, uint32_t leaf) noexcept nogil:
    """Fault on VM_PFNMAP: the driver maps everything up front and has no fault operation.

    The entry may be absent for a moment while a frame is replaced.
    """
    cdef pte_t pte
    pte_lock(c, leaf)
    pte = pmg_load(leaf_pte(c.m, leaf, vpn))
    pte_unlock(c, leaf)
    return 0 if pte_present(pte) else VM_FAULT_SIGBUS


cdef int handle_mm_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t flags) noexcept nogil:
    cdef machine_t *m = c.m
    cdef mm_t *mm = mm_of(m, vma.mm)
    cdef uint32_t leaf = walk_leaf(m, mm.pgd, vpn)
    cdef bint write = (flags & FAULT_FLAG_WRITE) != 0
    cdef pte_t pte
    count_event(c, C_PGFAULT, 1)
    if not leaf:
        leaf = pte_alloc(c, mm, vpn)
        if not leaf:
            return VM_FAULT_OOM
    pte = pmg_load_acq(leaf_pte(m, leaf, vpn))
    if pte_none(pte):
        if not vma.file:
            if pmg_unlikely(vma.flags & VM_PFNMAP):
                return pfn_fault(c, vpn, leaf)
            return do_anonymous_page(c, vma, vpn, leaf, write)
        if not write:
            return do_read_fault(c, vma, vpn, leaf)
        if vma.flags & VM_SHARED:
            return do_shared_fault(c, vma, vpn, leaf)
        return do_cow_fault(c, vma, vpn, leaf)
    if not pte_present(pte):
        if is_slot_entry(pte):
            return swap_fault(c, vma, vpn, leaf, pte, flags)
        return VM_FAULT_RETRY if is_migration_entry(pte) and PMG_GUARD(GUARD_FAULT_ENTRY) else VM_FAULT_SIGBUS
    if not pte_write(pte) and flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE):
        return do_wp_page(c, vma, vpn, leaf, (flags & FAULT_FLAG_UNSHARE) != 0)
    return 0


cdef uint32_t get_entry_page(ctx_t *c, mm_t *mm, uint64_t vpn) noexcept nogil:
    """Get a reference on the page of a migration entry, under the leaf's lock; 0 when the entry is gone."""
    cdef uint32_t leaf = walk_leaf(c.m, mm.pgd, vpn), pfn = 0
    cdef pte_t pte
    pte_lock(c, leaf)
    pte = pmg_load(leaf_pte(c.m, leaf, vpn))
    if is_migration_entry(pte):
        pfn = migration_entry_to_pfn(pte)
        if PMG_GUARD(GUARD_WAITER):
            get_page(c.m, pfn)
    pte_unlock(c, leaf)
    return pfn


cdef int wait_on_page_locked(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Wait until a page is unlocked and drop the caller's reference on it.  0 or -PMG_WAIT."""
    cdef uint32_t spins = 0
    cdef int err = 0
    count_event(c, C_MIGRATION_WAIT, waits_anew(c, WAIT_PAGE, pfn))
    while err == 0 and page_test(c.m, pfn, PG_locked):
        err = pmg_wait(c, WAIT_PAGE, pfn, spins)
        spins += 1
    if PMG_GUARD(GUARD_WAITER):
        put_page(c, pfn)
    if err == 0:
        wait_over(c, WAIT_PAGE, pfn)
    return err


cdef int migration_entry_wait(ctx_t *c, mm_t *mm, uint64_t vpn) noexcept nogil:
    """Wait until a migration entry is gone.

    Through 5.18 the waiter takes a reference on the page, which makes that very migration fail.  Later kernels take none:
    the frame may hold another page by the next round, so the entry itself says whether to keep waiting.
    """
    cdef pte_t pte = read_pte(c.m, mm, vpn)
    cdef uint32_t spins = 0, pfn
    if c.m.profile.waiter_refs:
        pfn = get_entry_page(c, mm, vpn)
        return wait_on_page_locked(c, pfn) if pfn else 0
    while is_migration_entry(pte):
        count_event(c, C_MIGRATION_WAIT, spins == 0 and waits_anew(c, WAIT_PAGE, migration_entry_to_pfn(pte)))
        if pmg_wait(c, WAIT_PAGE, migration_entry_to_pfn(pte), spins):
            return -PMG_WAIT
        spins += 1
        pte = read_pte(c.m, mm, vpn)
    wait_over(c, WAIT_PAGE, c.wait_which)
    return 0


# -- zapping ---------------------------------------------------------------------------------------------------
#
# Frames are freed after their entries are cleared and the TLBs flushed, up to STAGE at a time.  The moment of the flush
# shows only if a callback hears of it: then frames are gathered until the flush and freed in the same order and portions.


cdef enum:
    GATHER_PAGES = 10000            # MAX_GATHER_BATCH_COUNT lists: more are flushed and freed in between


cdef void tlb_gather_begin(ctx_t *c, gather_t *g, mm_t *mm, uint64_t start, uint64_t n, uint32_t why) noexcept nogil:
    """``tlb_gather_mmu``.  A nested gather is part of the outer one."""
    if c.watch == NULL or c.gather != NULL:
        g.mm = 0
        return
    g.mm = mm_index(c.m, mm)
    g.start = start
    g.n = n
    g.why = why
    g.cleared = False
    g.words = NULL
    g.used = g.room = 0
    if hears_flushes(c):
        g.room = GATHER_PAGES + GATHER_PAGES // STAGE + STAGE + 1
        g.words = <uint32_t *> malloc(g.room * 4)
    c.gather = g


cdef void tlb_gather_flush(ctx_t *c, gather_t *g) noexcept nogil:
    """Flush the entries cleared so far, then free their frames: portions, each preceded by its length."""
    cdef uint32_t at = 0, n
    if g.cleared:
        tell_flush(c, g.mm, g.start, g.n, g.why)
    g.cleared = False
    while at < g.used:
        n = g.words[at]
        free_pages_and_swap_cache(c, g.words + at + 1, n)
        at += n + 1
    g.used = 0


cdef void tlb_gather_end(ctx_t *c, gather_t *g) noexcept nogil:
    if g.mm == 0:
        return
    tlb_gather_flush(c, g)
    free(g.words)
    c.gather = NULL


cdef void free_pages_and_swap_cache(ctx_t *c, uint32_t *pfns, uint32_t n) noexcept nogil:
    cdef uint32_t i
    if c.m.nr_swapfiles:
        for i in range(n):
            if page_test(c.m, pfns[i], PG_swapcache):
                free_swap_cache(c, pfns[i])
    release_pages(c, pfns, n)


cdef void tlb_remove_pages(ctx_t *c, uint32_t *pfns, uint32_t n) noexcept nogil:
    """Gather frames whose entries were cleared; when the gather is full, flush and free it first."""
    cdef gather_t *g = <gather_t *> c.gather
    if g.words == NULL or g.used + n + 1 > g.room:
        tlb_gather_flush(c, g)
    if g.words == NULL:
        free_pages_and_swap_cache(c, pfns, n)
        return
    g.words[g.used] = n
    memcpy(g.words + g.used + 1, pfns, n * 4)
    g.used += n + 1


cdef void release_pages(ctx_t *c, uint32_t *pfns, uint32_t n) noexcept nogil:
    """Drop one reference on each page, and free together those that had no other."""
    cdef uint32_t i, k = 0
    for i in range(n):
        if put_page_testzero(c.m, pfns[i], 1):
            pfns[k] = pfns[i]
            k += 1
    if k:
        free_pages(c, pfns, k)


cdef void zap_nonpresent(
        ctx_t *c, vma_t *vma, uint32_t leaf, uint64_t vpn, pte_t pte, uint32_t how) noexcept nogil:
    """``zap_nonpresent_ptes`` for one entry, or the zero page's.  A migration that finds its entry gone settles the counts."""
    cdef machine_t *m = c.m
    cdef uint64_t state
    if pte_present(pte):
        set_pte(m, leaf, vpn, 0)
        return
    if is_migration_entry(pte):
        state = page_state(m, migration_entry_to_pfn(pte))
        if not PMG_GUARD(GUARD_TRUNCATED) or (state & PG_anon and not how & ZAP_EVEN_COWS):
            return
        add_entry_counter(m, vma, state, -1)
    elif not how & ZAP_EVEN_COWS:
        return
    elif PMG_GUARD(GUARD_UNMAPPED_ENTRY):
        free_swap_and_cache(c, entry_slot(m, pte))
    set_pte(m, leaf, vpn, 0)


cdef uint32_t zap_pte(ctx_t *c, vma_t *vma, uint32_t leaf, uint64_t vpn, pte_t pte, uint32_t how) noexcept nogil:
    """Remove one entry; the leaf's lock is held.  Return the frame whose reference the caller drops, or 0."""
    cdef machine_t *m = c.m
    cdef uint32_t pfn
    cdef bint anon
    if not pte_present(pte) or pte & PTE_SPECIAL:
        zap_nonpresent(c, vma, leaf, vpn, pte, how)
        return 0
    pfn = <uint32_t> pte_pfn(pte)
    anon = page_test(m, pfn, PG_anon)
    if anon and not how & ZAP_EVEN_COWS:
        return 0
    pte = ptep_get_and_clear(m, leaf, vpn)
    if not anon and pte_dirty(pte):
        set_page_dirty(m, pfn)
    page_remove_rmap(c, pfn, vma)
    return pfn


cdef void zap_pte_range(
        ctx_t *c, vma_t *vma, uint32_t leaf, uint64_t start, uint64_t end, uint32_t how) noexcept nogil:
    """Remove the entries of one leaf table; frames are freed outside its lock."""
    cdef uint32_t pfns[STAGE]
    cdef uint32_t pfn, n
    cdef uint64_t vpn = start
    cdef pte_t pte
    cdef bint special = False
    while vpn < end:
        n = 0
        pte_lock(c, leaf)
        while vpn < end and n < STAGE:
            pte = pmg_load(leaf_pte(c.m, leaf, vpn))
            if pte:
                pfn = zap_pte(c, vma, leaf, vpn, pte, how)
                if pfn:
                    pfns[n] = pfn
                    n += 1
                elif pte_present(pte) and pte & PTE_SPECIAL:
                    special = True
            vpn += 1
        pte_unlock(c, leaf)
        if pmg_likely(c.gather == NULL):
            free_pages_and_swap_cache(c, pfns, n)
        else:
            (<gather_t *> c.gather).cleared |= special or n != 0
            tlb_remove_pages(c, pfns, n)


cdef uint64_t zap_page_range(ctx_t *c, mm_t *mm, vma_t *vma, uint64_t start, uint64_t end, uint32_t how) noexcept nogil:
    """Zap a range; return where it stopped: ``end``, or before it if ZAP_MAY_STOP is set and a signal is pending."""
    cdef pagewalk_t w
    cdef gather_t g
    tlb_gather_begin(c, &g, mm, start, end - start, PMG_F_UNMAP)
    pagewalk_start(&w, c.m, mm, start, end)
    while pagewalk_next(&w):
        if how & ZAP_MAY_STOP and signal_pending(c, PTRS_PER_PTE):
            end = w.vpn
            break
        if pmg_load32(&c.m.ptdesc[w.leaf].used):
            zap_pte_range(c, vma, w.leaf, w.vpn, w.stop, how)
    tlb_gather_end(c, &g)
    if c.m.profile.zap_drains:
        lru_add_drain(c)
    return end


# -- fork ------------------------------------------------------------------------------------------------------


cdef int copy_present_page(
        ctx_t *c, vma_t *dst, uint32_t dst_leaf, vma_t *src, uint64_t vpn, uint32_t pfn) noexcept nogil:
    """Copy a page that may be pinned for the child now, so that the parent keeps it whatever is written later."""
    cdef machine_t *m = c.m
    cdef uint32_t new = alloc_page_vma(c, src, vpn)
    if not new:
        return -ENOMEM
    copy_highpage(m, new, pfn)
    count_copy(c, pfn, new)
    page_add_new_anon_rmap(c, new, dst, vpn)
    set_pte(m, dst_leaf, vpn, maybe_mkwrite(vma_pte(m, dst, new) | PTE_D, dst))
    return 0


cdef int copy_present_pte(
        ctx_t *c, vma_t *dst, uint32_t dst_leaf, vma_t *src, uint32_t src_leaf, uint64_t vpn,
        pte_t pte) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t pfn = <uint32_t> pte_pfn(pte)
    cdef uint64_t state
    if not pte & PTE_SPECIAL:
        state = page_state(m, pfn)
        if state & PG_anon and state & PG_anon_exclusive:
            if mm_of(m, src.mm).has_pinned and page_maybe_dma_pinned(m, pfn):
                return copy_present_page(c, dst, dst_leaf, src, vpn, pfn)
            pmg_and(&m.frames[pfn].state, ~PG_anon_exclusive)
        if not page_try_map(m, pfn, 1):
            return -ENOMEM
        add_mm_counter(m, dst, state, 1)
    if is_cow_mapping(src.flags) and pte_write(pte):
        pte = pmg_and(leaf_pte(m, src_leaf, vpn), ~PTE_RW) & ~PTE_RW
    if src.flags & VM_SHARED:
        pte &= ~PTE_D
    set_pte(m, dst_leaf, vpn, pte & ~PTE_A)
    return 0


cdef void copy_nonpresent_pte(
        ctx_t *c, vma_t *dst, uint32_t dst_leaf, vma_t *src, uint32_t src_leaf, uint64_t vpn,
        pte_t pte) noexcept nogil:
    """Copy a swap or migration entry.  A page under migration loses exclusivity; the restore counts the new mapping."""
    cdef machine_t *m = c.m
    if is_slot_entry(pte):
        if PMG_GUARD(GUARD_FORK_ENTRY):
            swap_duplicate(c, entry_slot(m, pte))
    elif is_migration_entry(pte):
        add_entry_counter(m, dst, page_state(m, migration_entry_to_pfn(pte)), 1)
        if swp_type(pte) != SWP_MIGRATION_READ and is_cow_mapping(src.flags) and PMG_GUARD(GUARD_FORK_ENTRY):
            # The kernel cleared PG_anon_exclusive when it unmapped the page.  Here it stays set until the page is
            # frozen, and a page whose migration fails must not keep it.
            pmg_and(&m.frames[migration_entry_to_pfn(pte)].state, ~PG_anon_exclusive)
            pte = migration_entry_set_type(pte, SWP_MIGRATION_READ)
            set_pte(m, src_leaf, vpn, pte)
    set_pte(m, dst_leaf, vpn, pte)


cdef int copy_pte_range(
        ctx_t *c, vma_t *dst, uint32_t dst_leaf, vma_t *src, uint32_t src_leaf, uint64_t start,
        uint64_t end) noexcept nogil:
    """Copy the entries of one leaf table, with both leaves locked, by rising number: rmap walks reach the child's too."""
    cdef machine_t *m = c.m
    cdef uint64_t vpn = start
    cdef pte_t pte
    cdef int err = 0
    pte_lock(c, min(dst_leaf, src_leaf))
    pte_lock(c, max(dst_leaf, src_leaf))
    while vpn < end and err == 0:
        pte = pmg_load(leaf_pte(m, src_leaf, vpn))
        if pte_present(pte):
            err = copy_present_pte(c, dst, dst_leaf, src, src_leaf, vpn, pte)
        elif pte:
            copy_nonpresent_pte(c, dst, dst_leaf, src, src_leaf, vpn, pte)
        vpn += 1
    pte_unlock(c, max(dst_leaf, src_leaf))
    pte_unlock(c, min(dst_leaf, src_leaf))
    return err


cdef int copy_page_range(ctx_t *c, mm_t *dst_mm, vma_t *dst, mm_t *src_mm, vma_t *src) noexcept nogil:
    """Copy a VMA's entries at fork.  A VMA without anonymous pages is skipped: faults map its file or zero pages again."""
    cdef machine_t *m = c.m
    cdef pagewalk_t w
    cdef uint32_t dst_leaf
    if not src.anon_vma and not src.flags & VM_PFNMAP:
        return 0
    pagewalk_start(&w, m, src_mm, src.start, src.end)
    while pagewalk_next(&w):
        if signal_pending(c, PTRS_PER_PTE):
            return -PMG_WAIT
        if pmg_load32(&m.ptdesc[w.leaf].used):
            dst_leaf = pte_alloc(c, dst_mm, w.vpn)
            if not dst_leaf or copy_pte_range(c, dst, dst_leaf, src, w.leaf, w.vpn, w.stop):
                return -ENOMEM
    return 0


# -- swapping in -----------------------------------------------------------------------------------------------


cdef bint same_entry(ctx_t *c, uint32_t leaf, uint64_t vpn, pte_t pte) noexcept nogil:
    return pmg_load(leaf_pte(c.m, leaf, vpn)) == pte


cdef int map_swapcache_page(
        ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, pte_t entry, uint32_t pfn) noexcept nogil:
    """Replace a swap entry by its locked page of the swap cache, if it is still there; takes over the reference.

    1 when done, 0 when the entry is gone, -ENOMEM when the page's mapcount is full.

    The page is mapped read-only: while the entry still counts on the slot, exclusiveness cannot be decided.
    """
    cdef machine_t *m = c.m
    cdef uint32_t slot = m.swap_entry[pfn]
    pte_lock(c, leaf)
    if not same_entry(c, leaf, vpn, entry):
        pte_unlock(c, leaf)
        return 0
    if page_mapcount(m, pfn) == 0:
        pmg_store32(&m.frames[pfn].mapping, vma.anon_vma)
        pmg_store32(&m.frames[pfn].index, linear_page_index(vma, vpn))
    if not page_add_anon_rmap(c, pfn, vma):
        pte_unlock(c, leaf)
        return -ENOMEM
    set_pte(m, leaf, vpn, vma_pte(m, vma, pfn))
    pte_unlock(c, leaf)
    swap_free(c, slot)
    return 1


cdef int do_swap_page(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, pte_t pte) noexcept nogil:
    """Swap a page in, as kernels through 2.6.17 do.

    A page that left the cache before its lock was taken has been migrated: look the slot up again.  The slot may have been
    freed and reused meanwhile, so map_swapcache_page compares the entry with the page table at the end.
    """
    cdef machine_t *m = c.m
    cdef uint32_t slot = entry_slot(m, pte), pfn
    cdef int major = 0, mapped
    if not pmg_load32(&vma.anon_vma) and anon_vma_prepare(c, vma):
        return VM_FAULT_OOM
    while True:
        pfn = lookup_swap_cache(c, slot)
        if not pfn:
            swapin_readahead(c, vma, vpn, slot)
            pfn = read_swap_cache(c, vma, vpn, slot)
            if not pfn:
                return VM_FAULT_OOM if same_entry(c, leaf, vpn, pte) else 0
            major = VM_FAULT_MAJOR
            count_event(c, C_PGMAJFAULT, 1)
        if PMG_GUARD(GUARD_FAULT_ENTRY) and lock_page(c, pfn):
            put_page(c, pfn)
            return VM_FAULT_WAIT
        if page_test(m, pfn, PG_swapcache) and m.swap_entry[pfn] == slot:
            break
        unlock_page(m, pfn)
        put_page(c, pfn)
    mapped = map_swapcache_page(c, vma, vpn, leaf, pte, pfn)
    if mapped == 1:
        if vm_swap_full(m) and exclusive_swap_page(c, pfn):
            delete_from_swap_cache(c, pfn)
        unlock_page(m, pfn)
        return major
    unlock_page(m, pfn)
    put_page(c, pfn)
    return VM_FAULT_OOM if mapped < 0 else major
