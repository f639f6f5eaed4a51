"""Faults, copying at fork, zapping, get_user_pages, and the accesses of programs.

mmap_lock is held, for reading at least, wherever a VMA is passed.  The lock of the leaf table guards its entries; the
accessed and dirty bits are set without it, by compare-and-swap, as the processor does.  So whoever replaces an entry
that the processor may use exchanges it, or only adds to those bits.
"""
from libc.errno cimport EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pagemig._alloc cimport (
    count_event, copy_highpage, file_of, free_pages, lock_page, mm_of, mmap_read_lock, mmap_read_unlock, pmg_wait,
    put_page,
    put_page_refs, task_of, vec_at, vma_of,
)
from pagemig._atomic cimport (
    PMG_GUARD, pmg_add, pmg_add32, pmg_and, pmg_cas, pmg_cas32, pmg_likely, pmg_load, pmg_load32, pmg_load32_acq,
    pmg_load_acq,
    pmg_or, pmg_prefetch, pmg_prefetchw, pmg_store32,
    pmg_unlikely, pmg_xchg,
)
from pagemig._filemap cimport (
    file_page_dirty, find_get_pages, has_disk, mmap_hit, page_belongs, vma_fault,
)
from pagemig._frame cimport (
    get_page, page_count, page_counts_full, page_maybe_dma_pinned, page_ref_add, page_state, page_test,
    page_test_set, put_page_testzero, trylock_page, unlock_page,
)
from pagemig._mempolicy cimport alloc_page_vma
from pagemig._pgtable cimport (
    leaf_pte, next_leaf, pte_alloc, pte_lock, pte_unlock, read_pte, set_pte, stats_rows, walk_leaf,
)
from pagemig._pte cimport (
    PTE_A, PTE_D, PTE_P, PTE_RW, PTE_SPECIAL, SWP_MIG_SHIFT, SWP_MIGRATION_READ, is_migration_entry,
    migration_entry_set_type,
    migration_entry_to_pfn, pte_dirty, pte_none, pte_pfn, pte_present, pte_protnone, pte_t, pte_write, swp_type,
)
from pagemig._rmap cimport (
    anon_vma_prepare, lru_add_drain, page_add_file_rmap, page_add_new_anon_rmap, page_dup_rmap, page_remove_rmap,
)
from pagemig._swap cimport (
    can_share_swap_page, do_swap_page, entry_slot, free_swap_and_cache, free_swap_cache, is_slot_entry, swap_duplicate,
)
from pagemig._types cimport (
    C_COW, C_COW_REUSE, C_FAULT_AROUND, C_MIGRATION_WAIT, C_PGFAULT, C_ZERO_PAGE_FAULT, FAULT_FLAG_UNSHARE,
    FAULT_FLAG_WRITE, FILE_SHMEM, GUP_PIN_COUNTING_BIAS, PG_anon, PG_anon_exclusive, PG_cached, PG_dirty,
    PG_locked, PG_readahead,
    PG_swapbacked, PG_swapcache, PG_uptodate, PMG_WAIT, STAGE, STATS_SLOTS, TASK_SIZE_PAGES, VM_EXEC, VM_FAULT_MAJOR,
    VM_FAULT_OOM,
    VM_FAULT_RESTARTED, VM_FAULT_RETRY, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV, VM_FAULT_WAIT, VM_IO, VM_LOCKONFAULT,
    VM_PFNMAP, VM_READ,
    VM_SHARED, VM_WRITE, WAIT_PAGE, ctx_t, file_t, machine_t, mm_t, task_t, vma_t,
)

cdef enum:
    SIGBUS = 7
    SIGKILL = 9
    SIGSEGV = 11
    LOCK_SPAN = 1024                # accesses under one hold of mmap_lock, so that writers get their turn


# -- VMAs ------------------------------------------------------------------------------------------------------

cdef uint32_t vma_slot(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil:
    cdef uint32_t *vmas = vec_at(m, &mm.vmas)
    cdef uint32_t lo = 0, hi = mm.vmas.n, mid
    while lo < hi:
        mid = (lo + hi) // 2
        if vma_of(m, vmas[mid]).end > vpn:
            hi = mid
        else:
            lo = mid + 1
    return lo


cdef vma_t *find_vma(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil:
    cdef uint32_t slot = vma_slot(m, mm, vpn)
    return vma_of(m, vec_at(m, &mm.vmas)[slot]) if slot < mm.vmas.n else NULL


cdef vma_t *vma_lookup(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil:
    cdef vma_t *vma = find_vma(m, mm, vpn)
    return vma if vma != NULL and vma.start <= vpn else NULL


cdef inline bint vma_is_accessible(vma_t *vma) noexcept nogil:
    return (vma_flags(vma) & (VM_READ | VM_WRITE | VM_EXEC)) != 0


cdef inline uint64_t vma_index_of(vma_t *vma, uint64_t vpn) noexcept nogil:
    """Page of the object that ``vma`` maps at ``vpn``."""
    return vma.pgoff + (vpn - vma.start)


# -- entries -----------------------------------------------------------------------------------------------------

cdef pte_t vma_pte(machine_t *m, vma_t *vma, uint32_t pfn) noexcept nogil:
    return (<pte_t> pfn << 12) | vm_page_prot(m, vma)


cdef inline pte_t maybe_mkwrite(pte_t pte, vma_t *vma) noexcept nogil:
    return pte | PTE_RW if vma_flags(vma) & VM_WRITE else pte


cdef inline bint pte_same(pte_t a, pte_t b) noexcept nogil:
    """Equal but for what the processor may have noted meanwhile."""
    return (a ^ b) & ~(PTE_A | PTE_D) == 0


cdef inline pte_t ptep_get_and_clear(machine_t *m, uint32_t leaf, uint64_t vpn) noexcept nogil:
    """Take an entry away; the leaf's lock is held.  Its accessed and dirty bits are final."""
    cdef uint32_t *used = &m.ptdesc[leaf].used
    pmg_store32(used, used[0] - 1)
    return pmg_xchg(leaf_pte(m, leaf, vpn), 0)


cdef inline void add_mm_counter(machine_t *m, vma_t *vma, uint64_t state, int64_t n) noexcept nogil:
    """Resident set, by kind of page, where no rmap function keeps it: fork, and migration entries, which count too.

    Atomic: a migration may be at work on other mappings of the same process.
    """
    cdef mm_t *mm = mm_of(m, vma.mm)
    if state & PG_anon:
        pmg_add(<uint64_t *> &mm.rss_anon, <uint64_t> n)
    elif state & PG_swapbacked:
        pmg_add(<uint64_t *> &mm.rss_shmem, <uint64_t> n)
    else:
        pmg_add(<uint64_t *> &mm.rss_file, <uint64_t> n)


cdef inline void add_entry_counter(machine_t *m, vma_t *vma, uint64_t state, int64_t n) noexcept nogil:
    """Resident set of a migration entry that comes or goes; 2.6.18 forgets it, and what it forgets is noted."""
    if m.profile.rss_uncounted:
        pmg_add(<uint64_t *> &mm_of(m, vma.mm).rss_lost, <uint64_t> n)
    else:
        add_mm_counter(m, vma, state, n)


cdef inline void set_page_dirty(machine_t *m, uint32_t pfn) noexcept nogil:
    if not page_test(m, pfn, PG_dirty):
        page_test_set(m, pfn, PG_dirty)


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

cdef bint reuse_anon_page(ctx_t *c, uint32_t pfn, vma_t *vma) noexcept nogil:
    """Make an anonymous page exclusive when this entry holds its only reference; the leaf's lock is held.

    The page lock excludes a migration, which would move the page away under the new owner.  The swap cache may hold
    another reference, if no entry elsewhere names the page's slot.
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
    """Replace what ``old_pte`` maps by a private copy.  The caller took a reference on the old page, if it is one."""
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
    pte = vma_pte(m, vma, new)
    if not unshare:
        pte = maybe_mkwrite(pte | PTE_D, vma)
    pte_lock(c, leaf)
    same = pte_same(pmg_load(leaf_pte(m, leaf, vpn)), old_pte)
    if same:
        page_add_new_anon_rmap(c, new, vma, vpn)
        set_pte(m, leaf, vpn, pte)
        if old:
            page_remove_rmap(c, old, vma)
        count_event(c, C_COW, 1)
    pte_unlock(c, leaf)
    if not same:
        put_page(c, new)
    if old:
        put_page_refs(c, old, 1 + <uint32_t> same)
    return 0


cdef inline bint page_is_orphan(machine_t *m, uint32_t pfn) noexcept nogil:
    """Truncated, but still mapped: migration entries outlived the truncation (to 2.6.22)."""
    return m.profile.truncate_leaves and not page_state(m, pfn) & (PG_cached | PG_anon)


cdef int wp_page_shared(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, pte_t pte) noexcept nogil:
    """First write to a clean page of a shared file mapping; comes with the leaf's lock, returns without.

    The file system is told under the page lock, which keeps truncation away.
    """
    cdef machine_t *m = c.m
    cdef file_t *f = file_of(m, vma.file)
    cdef uint32_t pfn = <uint32_t> pte_pfn(pte)
    get_page(m, pfn)
    pte_unlock(c, leaf)
    if lock_page(c, pfn):
        put_page(c, pfn)
        return VM_FAULT_WAIT
    if page_belongs(m, pfn, f, vma_index_of(vma, vpn)) or page_is_orphan(m, pfn):
        if not page_is_orphan(m, pfn):
            file_page_dirty(c, f, pfn)
        pte_lock(c, leaf)
        if pte_same(pmg_load(leaf_pte(m, leaf, vpn)), pte):
            wp_page_reuse(m, vma, vpn, leaf, pte)
        pte_unlock(c, leaf)
    unlock_page(m, pfn)
    put_page(c, pfn)
    return 0


cdef int do_wp_page(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, bint unshare) noexcept nogil:
    """A write (or the wish of a long-term pin for a page of its own) meets an entry that is not writable.

    The rules are: an exclusive anonymous page, or one nobody else references, is made writable where it is; a page
    of a shared mapping after its file system was asked; everything else is copied.
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
        if state & PG_anon_exclusive or reuse_anon_page(c, pfn, vma):
            if not unshare:
                wp_page_reuse(m, vma, vpn, leaf, pte)
                count_event(c, C_COW_REUSE, 1)
            pte_unlock(c, leaf)
            return 0
    elif unshare:
        # Only anonymous pages are taken away from their other users.
        pte_unlock(c, leaf)
        return 0
    elif (vma.flags & (VM_WRITE | VM_SHARED)) == (VM_WRITE | VM_SHARED):
        return wp_page_shared(c, vma, vpn, leaf, pte)
    if not pte & PTE_SPECIAL:
        get_page(m, pfn)
    pte_unlock(c, leaf)
    return wp_page_copy(c, vma, vpn, leaf, pte, unshare)


# -- pages of files ----------------------------------------------------------------------------------------------------

cdef inline bint page_is_mappable(machine_t *m, uint32_t pfn) noexcept nogil:
    """Fault-around takes what is ready: a page that starts read-ahead must be faulted on."""
    return (page_state(m, pfn) & (PG_uptodate | PG_locked | PG_readahead)) == PG_uptodate


cdef uint32_t map_cached_pages(ctx_t *c, vma_t *vma, uint64_t start, uint32_t n, uint32_t leaf) noexcept nogil:
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
            if page_belongs(m, pfns[i], f, index + i) and index + i < pmg_load(&f.size):
                # The reference becomes the entry's.
                page_add_file_rmap(c, pfns[i], vma)
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
    """Map what is cached in the aligned window of a read fault; True when that serves ``vpn`` too.

    A window cut short below by the start of the mapping is as many pages longer above, as in the kernel.
    """
    cdef uint64_t window = c.m.profile.fault_around
    cdef uint64_t start = max(vpn & ~(window - 1), vma.start)
    cdef uint64_t end = min(min(start + window, vma.end), (vpn | 511) + 1)
    cdef uint32_t n
    while start < end:
        n = <uint32_t> min(end - start, <uint64_t> STAGE)
        count_event(c, C_FAULT_AROUND, map_cached_pages(c, vma, start, n, leaf))
        start += n
    return pte_present(pmg_load_acq(leaf_pte(c.m, leaf, vpn)))


cdef void finish_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, uint32_t pfn, bint write) noexcept nogil:
    """Map the locked page of a file, unless another fault was first; takes over the reference and the lock."""
    cdef machine_t *m = c.m
    cdef pte_t pte = vma_pte(m, vma, pfn)
    cdef bint empty
    if write:
        pte = maybe_mkwrite(pte | PTE_D, vma)
    pte_lock(c, leaf)
    empty = pte_none(pmg_load(leaf_pte(m, leaf, vpn)))
    if empty:
        page_add_file_rmap(c, pfn, vma)
        set_pte(m, leaf, vpn, pte)
    pte_unlock(c, leaf)
    unlock_page(m, pfn)
    if not empty:
        put_page(c, pfn)


cdef int do_read_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf) noexcept nogil:
    cdef uint32_t pfn = 0
    cdef bint around = c.m.profile.fault_around > 1
    cdef int ret
    if around and do_fault_around(c, vma, vpn, leaf):
        return 0
    ret = vma_fault(c, vma, vma_index_of(vma, vpn), &pfn)
    if pfn:
        if around and ret & VM_FAULT_RESTARTED:
            # Done over after reading, the fault maps the neighbours just read as well.
            do_fault_around(c, vma, vpn, leaf)
        finish_fault(c, vma, vpn, leaf, pfn, False)
    return ret


cdef int do_cow_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf) noexcept nogil:
    """A private mapping is written before it was read: the copy is mapped, the page of the file never is."""
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
        file_page_dirty(c, file_of(c.m, vma.file), pfn)
        finish_fault(c, vma, vpn, leaf, pfn, True)
    return ret


# -- one fault ---------------------------------------------------------------------------------------------------------

cdef int swap_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, pte_t pte, uint32_t flags) noexcept nogil:
    """A write goes on to the rules of copy on write, in the same fault."""
    cdef int ret = do_swap_page(c, vma, vpn, leaf, pte)
    if ret & ~VM_FAULT_MAJOR == 0 and flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE):
        ret |= do_wp_page(c, vma, vpn, leaf, (flags & FAULT_FLAG_UNSHARE) != 0)
    return ret


cdef int pfn_fault(ctx_t *c, uint64_t vpn, uint32_t leaf) noexcept nogil:
    """A driver that maps all frames ahead has no fault operation; its entry may be absent while a frame is replaced."""
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
        return VM_FAULT_RETRY if is_migration_entry(pte) and PMG_GUARD(7) else VM_FAULT_SIGBUS
    if not pte_write(pte) and flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE):
        return do_wp_page(c, vma, vpn, leaf, (flags & FAULT_FLAG_UNSHARE) != 0)
    return 0


cdef uint32_t get_entry_page(ctx_t *c, mm_t *mm, uint64_t vpn) noexcept nogil:
    """Reference the page that a migration entry names, under the leaf's lock; 0 when there is no entry any more."""
    cdef uint32_t leaf = walk_leaf(c.m, mm.pgd, vpn), pfn = 0
    cdef pte_t pte
    pte_lock(c, leaf)
    pte = pmg_load(leaf_pte(c.m, leaf, vpn))
    if is_migration_entry(pte):
        pfn = migration_entry_to_pfn(pte)
        if PMG_GUARD(9):
            get_page(c.m, pfn)
    pte_unlock(c, leaf)
    return pfn


cdef int wait_on_page_locked(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Until a page we hold a reference on is unlocked; drops the reference.  0 or -PMG_WAIT."""
    cdef uint32_t spins = 0
    cdef int err = 0
    count_event(c, C_MIGRATION_WAIT, 1)
    while err == 0 and page_test(c.m, pfn, PG_locked):
        err = pmg_wait(c, WAIT_PAGE, pfn, spins)
        spins += 1
    if PMG_GUARD(9):
        put_page(c, pfn)
    return err


cdef int migration_entry_wait(ctx_t *c, mm_t *mm, uint64_t vpn) noexcept nogil:
    """No reference on the old page: it would make the very migration that is waited for fail, as it does to 5.18.

    So the frame may be another page by the next round; the entry itself says whether there is still something to wait for.
    """
    cdef pte_t pte = read_pte(c.m, mm, vpn)
    cdef uint32_t spins = 0, pfn
    if c.m.profile.waiter_refs:
        pfn = get_entry_page(c, mm, vpn)
        return wait_on_page_locked(c, pfn) if pfn else 0
    while is_migration_entry(pte):
        count_event(c, C_MIGRATION_WAIT, spins == 0)
        if pmg_wait(c, WAIT_PAGE, migration_entry_to_pfn(pte), spins):
            return -PMG_WAIT
        spins += 1
        pte = read_pte(c.m, mm, vpn)
    return 0


# -- zapping ---------------------------------------------------------------------------------------------------

cdef void free_page_refs(ctx_t *c, uint32_t *pfns, uint32_t n) noexcept nogil:
    """Drop one reference of each, and free together those that had no other."""
    cdef uint32_t i, k = 0
    for i in range(n):
        if put_page_testzero(c.m, pfns[i], 1):
            pfns[k] = pfns[i]
            k += 1
    if k:
        free_pages(c, pfns, k)


cdef void zap_nonpresent(
        ctx_t *c, vma_t *vma, uint32_t leaf, uint64_t vpn, pte_t pte, uint32_t how) noexcept nogil:
    """Remove the zero page, a swap entry, or a migration entry; the migration finds it gone and settles the counts."""
    cdef machine_t *m = c.m
    cdef uint64_t state
    if pte_present(pte):
        set_pte(m, leaf, vpn, 0)
        return
    if is_migration_entry(pte):
        if how & ZAP_TRUNCATE and m.profile.truncate_leaves:
            return
        state = page_state(m, migration_entry_to_pfn(pte))
        if not PMG_GUARD(13) or (state & PG_anon and not how & ZAP_EVEN_COWS):
            return
        add_entry_counter(m, vma, state, -1)
    elif not how & ZAP_EVEN_COWS:
        return
    elif PMG_GUARD(17):
        free_swap_and_cache(c, entry_slot(m, pte))
    set_pte(m, leaf, vpn, 0)


cdef uint32_t zap_pte(ctx_t *c, vma_t *vma, uint32_t leaf, uint64_t vpn, pte_t pte, uint32_t how) noexcept nogil:
    """Remove one entry; the leaf's lock is held.  Returns the frame whose reference the caller drops, or 0."""
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
    """Frames are freed outside the leaf's lock, up to STAGE at a time."""
    cdef uint32_t pfns[STAGE]
    cdef uint32_t pfn, n, i
    cdef uint64_t vpn = start
    cdef pte_t pte
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
            vpn += 1
        pte_unlock(c, leaf)
        if c.m.nr_swapfiles:
            for i in range(n):
                if page_test(c.m, pfns[i], PG_swapcache):
                    free_swap_cache(c, pfns[i])
        free_page_refs(c, pfns, n)


cdef void zap_page_range(ctx_t *c, mm_t *mm, vma_t *vma, uint64_t start, uint64_t end, uint32_t how) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint64_t vpn = start, stop
    cdef uint32_t leaf = 0
    while True:
        vpn = next_leaf(m, mm, vpn, end, &leaf)
        if vpn >= end:
            break
        stop = min(end, (vpn | 511) + 1)
        if pmg_load32(&m.ptdesc[leaf].used):
            zap_pte_range(c, vma, leaf, vpn, stop, how)
        vpn = stop
    lru_add_drain(c)


# -- fork ------------------------------------------------------------------------------------------------------

cdef int copy_present_page(
        ctx_t *c, vma_t *dst, uint32_t dst_leaf, vma_t *src, uint64_t vpn, uint32_t pfn) noexcept nogil:
    """A page that may be pinned stays with the parent, whatever is written later; the child gets a copy now."""
    cdef machine_t *m = c.m
    cdef uint32_t new = alloc_page_vma(c, src, vpn)
    if not new:
        return -ENOMEM
    copy_highpage(m, new, pfn)
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
        if page_counts_full(m, pfn):
            return -ENOMEM
        get_page(m, pfn)
        page_dup_rmap(c, pfn)
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
    """A page on the move that was exclusive no longer is, in parent and child.  The restore counts the new mapping."""
    cdef machine_t *m = c.m
    if is_slot_entry(pte):
        if PMG_GUARD(14):
            swap_duplicate(c, entry_slot(m, pte))
    elif is_migration_entry(pte):
        add_entry_counter(m, dst, page_state(m, migration_entry_to_pfn(pte)), 1)
        if swp_type(pte) != SWP_MIGRATION_READ and is_cow_mapping(src.flags) and PMG_GUARD(14):
            # The kernel took the mark off the page when it was unmapped; here it stays on until the page is frozen,
            # and a page that does not move after all must not keep it.
            pmg_and(&m.frames[migration_entry_to_pfn(pte)].state, ~PG_anon_exclusive)
            pte = migration_entry_set_type(pte, SWP_MIGRATION_READ)
            set_pte(m, src_leaf, vpn, pte)
    set_pte(m, dst_leaf, vpn, pte)


cdef int copy_pte_range(
        ctx_t *c, vma_t *dst, uint32_t dst_leaf, vma_t *src, uint32_t src_leaf, uint64_t start,
        uint64_t end) noexcept nogil:
    """Both leaves are locked, by rising number: reverse maps reach the child's already."""
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
    """Memory without a page of its own is not copied: faults bring the pages of a file back, or the zero page."""
    cdef machine_t *m = c.m
    cdef uint64_t vpn = src.start, stop
    cdef uint32_t src_leaf = 0, dst_leaf
    if not src.anon_vma and not src.flags & VM_PFNMAP:
        return 0
    while True:
        vpn = next_leaf(m, src_mm, vpn, src.end, &src_leaf)
        if vpn >= src.end:
            return 0
        stop = min(src.end, (vpn | 511) + 1)
        if pmg_load32(&m.ptdesc[src_leaf].used):
            dst_leaf = pte_alloc(c, dst_mm, vpn)
            if not dst_leaf or copy_pte_range(c, dst, dst_leaf, src, src_leaf, vpn, stop):
                return -ENOMEM
        vpn = stop


# -- get_user_pages --------------------------------------------------------------------------------------------

cdef int faultin_page(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t flags) noexcept nogil:
    """Always a minor fault to the process: after reading, the kernel's callers start a new fault, which finds the page."""
    cdef int ret = handle_mm_fault(c, vma, vpn, flags)
    if ret & VM_FAULT_WAIT:
        return -PMG_WAIT
    if ret & VM_FAULT_OOM:
        return -ENOMEM
    if ret & (VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV):
        return -EFAULT
    if ret & VM_FAULT_RETRY and migration_entry_wait(c, mm_of(c.m, vma.mm), vpn):
        return -PMG_WAIT
    if c.task:
        pmg_add(&task_of(c.m, c.task).min_flt, 1)
    return 0


cdef bint touch_populated(ctx_t *c, mm_t *mm, uint64_t vpn, bint write) noexcept nogil:
    """Whether a page is there, and writable where it must be; it counts as dirty then, as if it had been written."""
    cdef machine_t *m = c.m
    cdef uint32_t leaf = walk_leaf(m, mm.pgd, vpn)
    cdef pte_t pte = pmg_load_acq(leaf_pte(m, leaf, vpn)) if leaf else 0
    if not pte_present(pte) or pte_protnone(pte) or (write and not pte_write(pte)):
        return False
    if write and not pte_dirty(pte):
        pte_lock(c, leaf)
        pte = pmg_load(leaf_pte(m, leaf, vpn))
        if pte_present(pte) and pte_write(pte):
            set_page_dirty(m, <uint32_t> pte_pfn(pte))
        pte_unlock(c, leaf)
    return True


cdef int populate_vma(ctx_t *c, vma_t *vma, uint64_t start, uint64_t end, bint write, uint64_t *done) noexcept nogil:
    cdef mm_t *mm = mm_of(c.m, vma.mm)
    cdef uint64_t vpn = start
    cdef int err = 0
    while vpn < end and err == 0:
        if touch_populated(c, mm, vpn, write):
            vpn += 1
            done[0] += 1
        else:
            err = faultin_page(c, vma, vpn, FAULT_FLAG_WRITE if write else 0)
    lru_add_drain(c)
    return err


cdef int mm_populate(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, bint ignore_errors) noexcept nogil:
    """Private writable memory is written to, so that its first write finds a page of its own; the rest is read."""
    cdef uint64_t vpn = start, stop, done = 0
    cdef vma_t *vma
    cdef int err
    while vpn < end:
        vma = find_vma(c.m, mm, vpn)
        if vma == NULL or vma.start >= end:
            return 0
        stop = min(end, vma.end)
        if not vma.flags & (VM_IO | VM_PFNMAP | VM_LOCKONFAULT):
            err = -EFAULT
            if vma_is_accessible(vma):
                err = populate_vma(c, vma, max(vpn, vma.start), stop, (vma.flags & (VM_WRITE | VM_SHARED)) == VM_WRITE, &done)
            if err == -PMG_WAIT or (err and not ignore_errors):
                return err
        vpn = stop
    return 0


cdef int populate_range(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, bint write, uint64_t *done) noexcept nogil:
    cdef uint64_t vpn = start, n = 0
    cdef vma_t *vma
    cdef int err = 0
    while vpn < end and err == 0:
        vma = vma_lookup(c.m, mm, vpn)
        if vma == NULL:
            err = -ENOMEM
        elif vma.flags & (VM_IO | VM_PFNMAP) or not vma.flags & (VM_WRITE if write else VM_READ):
            err = -EINVAL
        else:
            err = populate_vma(c, vma, vpn, min(end, vma.end), write, &n)
            vpn = vma.end
    if done != NULL:
        done[0] = n
    return err


cdef uint32_t follow_page(ctx_t *c, vma_t *vma, uint64_t vpn, int *err) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t leaf = walk_leaf(m, mm_of(m, vma.mm).pgd, vpn), pfn = 0
    cdef bint newer = m.profile.untouched_enoent != 0
    cdef pte_t pte = 0
    if leaf:
        pte_lock(c, leaf)
        pte = pmg_load(leaf_pte(m, leaf, vpn))
        # Kernels that look with a walk of their own see through PROT_NONE; those that use get_user_pages do not.
        if pte_present(pte) and not pte & PTE_SPECIAL and (newer or not pte_protnone(pte)):
            pfn = <uint32_t> pte_pfn(pte)
            get_page(m, pfn)
        pte_unlock(c, leaf)
    if not pfn:
        err[0] = -ENOENT
        if pte_none(pte):
            if not vma.file and not newer:
                err[0] = -EFAULT
        elif pte_present(pte) and pte & PTE_SPECIAL and (newer or not pte_protnone(pte)):
            err[0] = -EFAULT
    return pfn


cdef int try_grab_page(ctx_t *c, mm_t *mm, uint64_t vpn, bint longterm, bint write, uint32_t *pfn) noexcept nogil:
    """Take the page behind ``vpn``: 1 taken, 0 it must be faulted in, FAULT_FLAG_UNSHARE unshared first, or -ENOMEM."""
    cdef machine_t *m = c.m
    cdef uint32_t leaf = walk_leaf(m, mm.pgd, vpn)
    cdef uint64_t state
    cdef int ret = 0
    cdef pte_t pte
    if not leaf:
        return 0
    pte_lock(c, leaf)
    pte = pmg_load(leaf_pte(m, leaf, vpn))
    if (pte_present(pte) or not PMG_GUARD(6)) and not pte_protnone(pte) and (pte_write(pte) or not write):
        pfn[0] = <uint32_t> pte_pfn(pte)
        state = page_state(m, pfn[0])
        if longterm and not write and state & PG_anon and not state & PG_anon_exclusive:
            ret = FAULT_FLAG_UNSHARE
        elif page_counts_full(m, pfn[0]):
            ret = -ENOMEM
        else:
            page_ref_add(m, pfn[0], GUP_PIN_COUNTING_BIAS if longterm else 1)
            ret = 1
    pte_unlock(c, leaf)
    return ret


cdef inline bint on_disk(machine_t *m, vma_t *vma) noexcept nogil:
    return vma.file != 0 and file_of(m, vma.file).kind != FILE_SHMEM


cdef int pin_page(ctx_t *c, vma_t *vma, uint64_t vpn, bint longterm, bint write, uint32_t *pfn) noexcept nogil:
    """0 or -errno."""
    cdef machine_t *m = c.m
    cdef mm_t *mm = mm_of(m, vma.mm)
    cdef uint32_t flags
    cdef int ret
    if vma.flags & (VM_IO | VM_PFNMAP) or not vma.flags & (VM_WRITE if write else VM_READ):
        return -EFAULT
    if longterm and write and m.profile.gup_checks_files and vma.flags & VM_SHARED and on_disk(m, vma):
        return -EFAULT                      # its file system could not tell when the page gets dirty
    while True:
        ret = try_grab_page(c, mm, vpn, longterm, write, pfn)
        if ret == 1:
            return 0
        if ret < 0:
            return ret
        flags = FAULT_FLAG_UNSHARE if ret else (FAULT_FLAG_WRITE if write else 0)
        ret = faultin_page(c, vma, vpn, flags)
        if ret:
            return ret


cdef int64_t pin_user_pages(
        ctx_t *c, mm_t *mm, uint64_t vpn, uint64_t n, bint longterm, bint write, uint32_t *pfns) noexcept nogil:
    """A pipe takes what it can get; buffers are registered whole, and not over files on a disk, or not at all.

    To 6.4 those who register buffers look for files themselves, when all is pinned, and refuse private mappings too.
    """
    cdef machine_t *m = c.m
    cdef vma_t *vma = NULL
    cdef uint64_t k = 0
    cdef bint refused = False
    cdef int err = 0
    if longterm:
        pmg_store32(&mm.has_pinned, 1)
    while k < n and err == 0:
        if vma == NULL or vpn + k >= vma.end:
            vma = vma_lookup(m, mm, vpn + k)
        err = pin_page(c, vma, vpn + k, longterm, write, pfns + k) if vma != NULL else -EFAULT
        if err == 0:
            k += 1
            refused = refused or (not m.profile.gup_checks_files and on_disk(m, vma))
    if longterm and err and k and err != -PMG_WAIT:
        err = -EFAULT
    elif longterm and err == 0 and refused:
        err = -EOPNOTSUPP
    if k and err and (longterm or err == -PMG_WAIT):
        unpin_pages(c, pfns, <uint32_t> k, longterm)
        k = 0
    return <int64_t> k if k else err


cdef void unpin_pages(ctx_t *c, const uint32_t *pfns, uint32_t n, bint longterm) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        put_page_refs(c, pfns[i], GUP_PIN_COUNTING_BIAS if longterm else 1)


# -- what a program does ---------------------------------------------------------------------------------------

cdef inline bint access_pte(pte_t *p, bint write) noexcept nogil:
    """What the processor does with an entry: note the access, or refuse it.  False: a fault."""
    cdef pte_t need = PTE_P | PTE_RW if write else PTE_P
    cdef pte_t note = PTE_A | PTE_D if write else PTE_A
    cdef pte_t pte = pmg_load(p)
    while (pte & need) == need:
        if (pte & note) == note or pmg_cas(p, pte, pte | note):
            return True
        pte = pmg_load(p)
    return False


cdef inline uint32_t *stats_row(ctx_t *c) noexcept nogil:
    """Access counts from the node of the context's processor, NULL when nobody counts.

    Contexts that run at the same time have rows of their own, so that counting is exact without an atomic sum.
    """
    cdef uint32_t slot = min(c.id, <uint32_t> (STATS_SLOTS - 1))
    if c.m.stats == NULL:
        return NULL
    while pmg_load32(&c.m.stats_slots) <= slot:
        pmg_cas32(&c.m.stats_slots, pmg_load32(&c.m.stats_slots), slot + 1)
    return stats_rows(c.m, slot, <uint32_t> c.nid)


cdef inline void count_access(ctx_t *c, uint32_t *counter, uint32_t n) noexcept nogil:
    if pmg_likely(c.id < STATS_SLOTS - 1):
        pmg_store32(counter, pmg_load32(counter) + n)
    else:
        pmg_add32(counter, n)


cdef inline bint access_error(vma_t *vma, bint write) noexcept nogil:
    return not vma.flags & VM_WRITE if write else not vma_is_accessible(vma)


cdef int user_fault(
        ctx_t *c, mm_t *mm, vma_t **cached, uint64_t vpn, bint write, touch_t *r, uint32_t *entry) noexcept nogil:
    """The slow path of an access: 0 do it again, 1 stop.

    Stops with a signal or a wait in ``r``, or with the frame of a migration entry in ``entry``, which the caller waits for
    without mmap_lock.  ``cached`` keeps the VMA as long as mmap_lock is held.
    """
    cdef vma_t *vma = cached[0]
    cdef pte_t pte
    cdef int ret
    if vma == NULL or vpn < vma.start or vpn >= vma.end:
        vma = vma_lookup(c.m, mm, vpn)
        cached[0] = vma
    if vma == NULL or access_error(vma, write):
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
    """One round of waiting for a migration, mmap_lock not held; the whole wait is one minor fault.  False: unwind.

    No reference on the old page, see migration_entry_wait; or one that came with the entry.
    """
    cdef int err
    if c.m.profile.waiter_refs:
        r.minflt += 1
        r.wait = wait_on_page_locked(c, pfn) != 0
        return not r.wait
    if spins[0] == 0:
        count_event(c, C_MIGRATION_WAIT, 1)
    if not PMG_GUARD(8):
        get_page(c.m, pfn)
    err = pmg_wait(c, WAIT_PAGE, pfn, spins[0])
    if not PMG_GUARD(8):
        put_page(c, pfn)
    if err:
        r.wait = 1
        return False
    r.minflt += spins[0] == 0
    spins[0] += 1
    return True


cdef void touch_begin(touch_t *r) noexcept nogil:
    r.done = 0
    r.minflt = 0
    r.majflt = 0
    r.signal = 0
    r.wait = 0


cdef void touch_end(task_t *t, touch_t *r) noexcept nogil:
    if r.minflt:
        pmg_add(&t.min_flt, r.minflt)
    if r.majflt:
        pmg_add(&t.maj_flt, r.majflt)


cdef inline bint touch_page(
        ctx_t *c, uint32_t leaf, uint64_t vpn, bint write, const uint64_t *value, uint64_t *out,
        uint32_t *row) noexcept nogil:
    """One access, with content.  The leaf's lock keeps the page where it is: a migration would lose the write."""
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
        count_access(c, row + (<uint64_t> leaf * 512 + (vpn & 511)), 1)
    return True


cdef uint32_t touch_locked(
        ctx_t *c, mm_t *mm, uint64_t vpn, uint64_t end, bint write, const uint64_t *values, uint64_t *out,
        touch_t *r) noexcept nogil:
    """Touches pages until ``r.done`` is ``end``, under mmap_lock.  Returns the frame of a migration entry met, else 0."""
    cdef machine_t *m = c.m
    cdef uint32_t *row = stats_row(c)
    cdef uint32_t leaf = 0, entry = 0
    cdef uint64_t v, k
    cdef vma_t *vma = NULL
    while r.done < end:
        k = r.done
        v = vpn + k
        if not leaf or v & 511 == 0:
            leaf = walk_leaf(m, mm.pgd, v) if v < TASK_SIZE_PAGES else 0
        if leaf and touch_page(c, leaf, v, write, values + k if values != NULL else NULL, out + k if out != NULL else NULL, row):
            r.done += 1
        elif user_fault(c, mm, &vma, v, write, r, &entry):
            break
    return entry


cdef void touch_range(
        ctx_t *c, task_t *t, uint64_t vpn, uint64_t n, bint write, const uint64_t *values, uint64_t *out,
        touch_t *r) noexcept nogil:
    cdef uint32_t entry, spins = 0
    cdef uint64_t before
    touch_begin(r)
    while r.done < n and not r.signal:
        if mmap_read_lock(c, c.mm):
            r.wait = 1
            break
        before = r.done
        entry = touch_locked(c, mm_of(c.m, c.mm), vpn, min(n, before + LOCK_SPAN), write, values, out, r)
        mmap_read_unlock(c, c.mm)
        if r.done != before:
            spins = 0
        if r.wait or (entry and not wait_for_entry(c, entry, &spins, r)):
            break
    touch_end(t, r)


cdef uint32_t access_block(
        ctx_t *c, mm_t *mm, const uint64_t *addresses, const uint8_t *writes, bint write_all,
        uint32_t n) noexcept nogil:
    """Plain hits among ``n`` <= STAGE accesses, up to the first that is none; returns how many.

    Three passes, so that the misses of the host's caches overlap: find the entries, note the accesses, count them.
    """
    cdef machine_t *m = c.m
    cdef pte_t *p[STAGE]
    cdef uint32_t *row = stats_row(c)
    cdef uint32_t k, found = n, leaf = 0
    cdef uint64_t vpn, base = <uint64_t> -1, w
    cdef pte_t pte, need, note
    for k in range(n):
        vpn = addresses[k] >> 12
        if (vpn >> 9) != base:
            leaf = walk_leaf(m, mm.pgd, vpn) if pmg_likely(vpn < TASK_SIZE_PAGES) else 0
            if pmg_unlikely(leaf == 0):
                found = k
                break
            base = vpn >> 9
        p[k] = leaf_pte(m, leaf, vpn)
        pmg_prefetchw(p[k])
    for k in range(found):
        w = <uint64_t> (write_all or (writes != NULL and writes[k] != 0))
        need = PTE_P | PTE_RW * w
        note = PTE_A | PTE_D * w
        pte = pmg_load(p[k])
        if pmg_unlikely((pte & need) != need) or ((pte & note) != note and not access_pte(p[k], w != 0)):
            found = k
            break
        if row != NULL:
            pmg_prefetchw(row + (p[k] - m.pt))
    if row != NULL:
        for k in range(found):
            count_access(c, row + (p[k] - m.pt), 1)
    return found


cdef uint32_t access_locked(
        ctx_t *c, mm_t *mm, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t end,
        touch_t *r) noexcept nogil:
    """Accesses until ``r.done`` is ``end``, under mmap_lock.  Returns the frame of a migration entry met, else 0.

    After a fault blocks start small again: where access after access faults, nothing is looked up in vain.
    """
    cdef uint32_t width = STAGE, n, hits, entry = 0
    cdef uint64_t i
    cdef vma_t *vma = NULL
    while r.done < end:
        i = r.done
        n = <uint32_t> min(<uint64_t> width, end - i)
        hits = access_block(c, mm, addresses + i, writes + i if writes != NULL else NULL, write_all, n)
        r.done += hits
        if hits == n:
            width = min(width * 2, <uint32_t> STAGE)
            continue
        i = r.done
        if user_fault(c, mm, &vma, addresses[i] >> 12, write_all or (writes != NULL and writes[i] != 0), r, &entry):
            break
        width = 1
    return entry


cdef void access_many(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t n,
        touch_t *r) noexcept nogil:
    cdef uint32_t entry, spins = 0
    cdef uint64_t before
    touch_begin(r)
    while r.done < n and not r.signal:
        if mmap_read_lock(c, c.mm):
            r.wait = 1
            break
        before = r.done
        entry = access_locked(c, mm_of(c.m, c.mm), addresses, writes, write_all, min(n, before + LOCK_SPAN), r)
        mmap_read_unlock(c, c.mm)
        if r.done != before:
            spins = 0
        if r.wait or (entry and not wait_for_entry(c, entry, &spins, r)):
            break
    touch_end(t, r)


# -- accesses with deferred notes ------------------------------------------------------------------------------
#
# An epoch counts accesses in one dense array over the pages between its lowest and highest address and writes the
# accessed and dirty bits and the access counts when it ends: the same as access by access, since mmap_lock is held for
# reading all the time, migrations carry the bits along, and a page that is absent or may not be written is marked and
# takes the slow path in its place.

cdef enum:
    EPOCH = 1 << 24                 # accesses between two folds at most
    PAGE_WRITTEN = 1                # the rest of the word, but for the marks, counts by PAGE_ACCESS
    PAGE_ACCESS = 2
    PAGE_READONLY = 1 << 29
    PAGE_ABSENT = 1 << 30
    LIST_AHEAD = 512               # accesses
    NEAR_PAGES = 1 << 18            # an array up to this long stays in the nearer caches of the host

ctypedef struct epoch_t:
    mm_t *mm
    uint64_t first, pages           # what the array covers
    uint32_t *count
    uint64_t room                   # pages the array has room for
    bint marked                     # a page has a mark
    bint strays                     # an access was outside: the next epoch looks at all addresses first


cdef inline uint32_t page_mark(pte_t pte) noexcept nogil:
    if not pte & PTE_P:
        return PAGE_ABSENT
    return 0 if pte & PTE_RW else PAGE_READONLY


cdef bint epoch_vma(machine_t *m, epoch_t *e, uint64_t vpn, uint64_t n) noexcept nogil:
    """Cover the mapping of ``vpn`` if it is not too large for ``n`` accesses: their addresses need not be looked at."""
    cdef vma_t *vma = vma_lookup(m, e.mm, vpn)
    if vma == NULL or e.strays or vma.end - vma.start > n // 4:
        return False
    e.first = vma.start
    e.pages = vma.end - vma.start
    return True


cdef bint epoch_span(epoch_t *e, const uint64_t *addresses, uint64_t n) noexcept nogil:
    """Cover what ``n`` accesses touch; False when they are spread too thin for an array to pay."""
    cdef uint64_t i, lo = addresses[0], hi = addresses[0]
    for i in range(n):
        lo = min(lo, addresses[i])
        hi = max(hi, addresses[i])
    e.first = lo >> 12
    e.pages = (hi >> 12) - e.first + 1
    return hi >> 12 < TASK_SIZE_PAGES and e.pages <= 2 * n + 4096


cdef int epoch_begin(machine_t *m, epoch_t *e, const uint64_t *addresses, uint64_t n) noexcept nogil:
    """Make room for the pages of ``n`` accesses; -1 when there is none or no array pays.  mmap_lock is held."""
    if not epoch_vma(m, e, addresses[0] >> 12, n) and not epoch_span(e, addresses, n):
        return -1
    if e.pages > e.room:
        free(e.count)
        e.count = <uint32_t *> malloc(e.pages * 4)
        e.room = e.pages if e.count != NULL else 0
    return 0 if e.count != NULL else -1


cdef void epoch_mark(machine_t *m, epoch_t *e) noexcept nogil:
    cdef uint64_t vpn = e.first, end = e.first + e.pages, next
    cdef uint32_t leaf = 0, mark, marks = 0
    while vpn < end:
        next = next_leaf(m, e.mm, vpn, end, &leaf)
        while vpn < next:
            e.count[vpn - e.first] = marks = PAGE_ABSENT
            vpn += 1
        while leaf and vpn < min(end, (next | 511) + 1):
            mark = page_mark(pmg_load(leaf_pte(m, leaf, vpn)))
            e.count[vpn - e.first] = mark
            marks |= mark
            vpn += 1
    e.marked = marks != 0


cdef void note_page(ctx_t *c, uint32_t leaf, uint64_t vpn, bint written) noexcept nogil:
    """Set the accessed and dirty bits of a page, in the entry of a migration if one is under way."""
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
    cdef uint64_t vpn = e.first, end = e.first + e.pages, k
    cdef uint32_t leaf = 0, n
    while vpn < end:
        vpn = next_leaf(m, e.mm, vpn, end, &leaf)
        while leaf and vpn < end:
            n = e.count[vpn - e.first] & (PAGE_READONLY - 1)
            if n:
                note_page(c, leaf, vpn, n & PAGE_WRITTEN)
                if row != NULL:
                    k = <uint64_t> leaf * 512 + (vpn & 511)
                    count_access(c, row + k, n // PAGE_ACCESS)
            vpn += 1
            if vpn & 511 == 0:
                break


cdef uint32_t epoch_fault(
        ctx_t *c, epoch_t *e, vma_t **vma, uint64_t vpn, bint write, touch_t *r, bint *stop) noexcept nogil:
    """The slow path: fault unless the page has come meanwhile (fault-around), then read its mark again."""
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
    """Places of ``n`` accesses in the array; how many come before the first outside.  Without branches: vectors."""
    cdef uint64_t first = e.first, last = e.pages - 1, at, outside = 0
    cdef uint32_t k
    for k in range(n):
        at = (addresses[k] >> 12) - first
        outside |= at | (last - at)         # the sign of either
        index[k] = <uint32_t> at
    if pmg_likely(not outside >> 63):
        return n
    k = 0
    while (addresses[k] >> 12) - first <= last:
        k += 1
    return k


cdef inline void epoch_count(
        uint32_t *count, const uint32_t *index, const uint32_t *next, const uint8_t *writes, uint32_t n,
        bint far) noexcept nogil:
    """Accesses to pages of which none has a mark; ``next`` are those of the next block."""
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
    """Accesses to pages that may have marks.  Returns the frame of a migration entry met, else 0."""
    cdef uint32_t k = 0, entry = 0
    cdef uint32_t *word
    while k < n and not stop[0]:
        word = e.count + index[k]
        if pmg_likely(not word[0] & (PAGE_ABSENT | PAGE_READONLY * <uint32_t> writes[k])):
            word[0] = (word[0] + PAGE_ACCESS) | writes[k]
            k += 1
        else:
            entry = epoch_fault(c, e, vma, addresses[k] >> 12, writes[k] != 0, r, stop)
    r.done += k
    return entry


cdef uint32_t epoch_run(
        ctx_t *c, epoch_t *e, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t end,
        touch_t *r) noexcept nogil:
    """Accesses until ``r.done`` is ``end`` or one is outside the array, under mmap_lock.

    Returns the frame of a migration entry met, else 0.  The places of a block are known before the one in front of it is
    counted, so that what is far is fetched meanwhile.
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
        for k in range(STAGE // 8):         # the list is read quicker than the host fetches by itself
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


cdef void access_deferred(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t n,
        touch_t *r) noexcept nogil:
    cdef epoch_t e
    cdef touch_t part
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
            access_many(c, t, addresses + r.done, writes + r.done if writes != NULL else NULL, write_all, end - r.done, &part)
            r.done += part.done
            r.minflt += part.minflt
            r.majflt += part.majflt
            r.signal = part.signal
            r.wait = part.wait
            continue
        epoch_mark(c.m, &e)
        entry = epoch_run(c, &e, addresses, writes, write_all, end, r)
        epoch_fold(c, &e)
        mmap_read_unlock(c, c.mm)
        if entry and not wait_for_entry(c, entry, &spins, r):
            break
    free(e.count)
    touch_end(t, r)
