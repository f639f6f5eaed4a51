"""madvise(2): advice that sets VMA flags, and advice that acts on pages at once."""
from libc.errno cimport EACCES, EAGAIN, EBADF, EINVAL, ENOMEM, ENOSYS
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_and, pmg_store32
from pagemig.mm.context cimport mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock, signal_pending
from pagemig.mm.filemap cimport file_get, file_put
from pagemig.mm.frame cimport page_mapcount, page_test, page_test_clear, trylock_page, unlock_page
from pagemig.mm.gup cimport populate_range
from pagemig.mm.memory cimport ZAP_EVEN_COWS, ZAP_MAY_STOP, zap_page_range
from pagemig.mm.mmap cimport vma_modify
from pagemig.mm.notify cimport flush_tlb, PMG_F_FREE
from pagemig.mm.page_alloc cimport file_of, mm_index, mm_of
from pagemig.mm.pagewalk cimport pagewalk_next, pagewalk_start, pagewalk_t
from pagemig.mm.pgtable cimport leaf_pte, pte_lock, pte_unlock
from pagemig.mm.pte cimport PTE_A, PTE_D, pte_pfn, pte_present, PTE_SPECIAL, pte_t
from pagemig.mm.rmap cimport lru_add_drain
from pagemig.mm.rules cimport refuse, RULE_ADVICE, RULE_HOLE, RULE_RANGE_WRAPS, RULE_UNALIGNED
from pagemig.mm.truncate cimport file_fadvise, file_punch
from pagemig.mm.types cimport (
    BUG_REMOVE_LOOPS, ctx_t, FILE_SHMEM, machine_t, mm_t, PG_active, PG_anon, PG_dirty, PG_referenced, PG_swapbacked,
    PG_unevictable, PMG_BUG, PMG_WAIT, PTRS_PER_PTE, VM_DONTCOPY, VM_DONTDUMP, VM_DONTMIGRATE, VM_HUGEPAGE, VM_IO,
    VM_LOCKED, VM_MAYSHARE, VM_MAYWRITE, VM_MERGEABLE, VM_NOHUGEPAGE, VM_PFNMAP, VM_RAND_READ, VM_SEQ_READ,
    VM_SHARED, VM_WIPEONFORK, VM_WRITE, vma_t,
)
from pagemig.mm.vma cimport find_vma_prev, page_align, VM_SPECIAL, vma_at, vma_slot


cdef enum:
    MADV_NORMAL = 0
    MADV_RANDOM = 1
    MADV_SEQUENTIAL = 2
    MADV_WILLNEED = 3
    MADV_DONTNEED = 4
    MADV_FREE = 8
    MADV_REMOVE = 9
    MADV_DONTFORK = 10
    MADV_DOFORK = 11
    MADV_MERGEABLE = 12
    MADV_UNMERGEABLE = 13
    MADV_HUGEPAGE = 14
    MADV_NOHUGEPAGE = 15
    MADV_DONTDUMP = 16
    MADV_DODUMP = 17
    MADV_WIPEONFORK = 18
    MADV_KEEPONFORK = 19
    MADV_COLD = 20
    MADV_PAGEOUT = 21
    MADV_POPULATE_READ = 22
    MADV_POPULATE_WRITE = 23
    MADV_DONTNEED_LOCKED = 24
    MADV_DONTMIGRATE = 200      # with profile.arrays: the 2006 note's alternative to VM_LOCKED; no kernel has it
    MADV_DOMIGRATE = 201


cdef struct walk_t:             # one madvise
    mm_t *mm
    uint32_t mm_index
    int advice
    vma_t *prev                 # last VMA done; NULL when mmap_lock was dropped meanwhile
    bint locked                 # mmap_lock is held


cdef bint madvise_behavior_valid(machine_t *m, int advice) noexcept nogil:
    """Whether the kernel knows the advice; COLLAPSE, which needs 2 MB pages, and memory errors are not modelled."""
    if advice == MADV_DONTMIGRATE or advice == MADV_DOMIGRATE:
        return m.profile.arrays != 0
    if m.profile.advice_most < MADV_COLD and (advice > <int> m.profile.advice_most or advice == MADV_FREE):
        return False
    return MADV_NORMAL <= advice <= MADV_DONTNEED or MADV_FREE <= advice <= MADV_DONTNEED_LOCKED


cdef bint madvise_need_mmap_write(int advice) noexcept nogil:
    """Whether advice takes mmap_lock for writing, to set VMA flags, or for reading, to walk pages."""
    return not (MADV_WILLNEED <= advice <= MADV_REMOVE or MADV_COLD <= advice <= MADV_DONTNEED_LOCKED)


cdef int madvise_flags(vma_t *vma, int advice, uint32_t *flags) noexcept nogil:
    if advice == MADV_NORMAL:
        flags[0] &= ~(VM_RAND_READ | VM_SEQ_READ)
    elif advice == MADV_SEQUENTIAL:
        flags[0] = (flags[0] & ~VM_RAND_READ) | VM_SEQ_READ
    elif advice == MADV_RANDOM:
        flags[0] = (flags[0] & ~VM_SEQ_READ) | VM_RAND_READ
    elif advice == MADV_DONTFORK:
        flags[0] |= VM_DONTCOPY
    elif advice == MADV_DOFORK:
        if flags[0] & VM_IO:
            return -EINVAL
        flags[0] &= ~VM_DONTCOPY
    elif advice == MADV_WIPEONFORK:
        if vma.file or flags[0] & VM_SHARED:
            return -EINVAL
        flags[0] |= VM_WIPEONFORK
    elif advice == MADV_KEEPONFORK:
        flags[0] &= ~VM_WIPEONFORK
    elif advice == MADV_DONTDUMP:
        flags[0] |= VM_DONTDUMP
    elif advice == MADV_DODUMP:
        if flags[0] & VM_SPECIAL:
            return -EINVAL
        flags[0] &= ~VM_DONTDUMP
    elif advice == MADV_MERGEABLE:
        if not flags[0] & (VM_SHARED | VM_MAYSHARE | VM_SPECIAL):
            flags[0] |= VM_MERGEABLE
    elif advice == MADV_UNMERGEABLE:
        flags[0] &= ~VM_MERGEABLE
    elif advice == MADV_HUGEPAGE:
        flags[0] = (flags[0] & ~VM_NOHUGEPAGE) | VM_HUGEPAGE
    elif advice == MADV_NOHUGEPAGE:
        flags[0] = (flags[0] & ~VM_HUGEPAGE) | VM_NOHUGEPAGE
    elif advice == MADV_DONTMIGRATE:
        flags[0] |= VM_DONTMIGRATE
    elif advice == MADV_DOMIGRATE:
        flags[0] &= ~VM_DONTMIGRATE
    return 0


cdef int madvise_update_vma(ctx_t *c, walk_t *w, vma_t *vma, uint64_t start, uint64_t end) noexcept nogil:
    cdef uint32_t flags = vma.flags
    cdef int err = madvise_flags(vma, w.advice, &flags)
    if err:
        return err
    if flags != vma.flags:
        vma = vma_modify(c, w.mm, w.prev, vma, start, end, flags, &vma.pol, &err)
        if err == 0:
            pmg_store32(&vma.flags, flags)
    w.prev = vma
    return -EAGAIN if err == -ENOMEM else err


cdef bint madvise_free_page(machine_t *m, uint32_t pfn) noexcept nogil:
    """Give up the content of a page; False if it may have other users, and its entry must stay as it is."""
    if page_test(m, pfn, PG_dirty):
        if not trylock_page(m, pfn):
            return False
        if page_mapcount(m, pfn) != 1:
            unlock_page(m, pfn)
            return False
        page_test_clear(m, pfn, PG_dirty)
        unlock_page(m, pfn)
    return True


cdef int madvise_free_range(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil:
    """Make entries old and clean; reclaim, which would free the pages, is not modelled."""
    cdef machine_t *m = c.m
    cdef pagewalk_t w
    cdef uint64_t vpn
    cdef uint32_t pfn
    cdef pte_t pte
    cdef bint cleared = False
    cdef int err = 0
    lru_add_drain(c)
    pagewalk_start(&w, m, mm, start, end)
    while pagewalk_next(&w):
        if signal_pending(c, PTRS_PER_PTE):
            err = -PMG_WAIT
            break
        pte_lock(c, w.leaf)
        for vpn in range(w.vpn, w.stop):
            pte = leaf_pte(m, w.leaf, vpn)[0]
            pfn = <uint32_t> pte_pfn(pte)
            if pte_present(pte) and not pte & PTE_SPECIAL and madvise_free_page(m, pfn):
                pmg_and(leaf_pte(m, w.leaf, vpn), ~(PTE_A | PTE_D))     # other threads may be setting them
                cleared = True
                if page_test(m, pfn, PG_anon) and not page_test(m, pfn, PG_unevictable):
                    page_test_clear(m, pfn, PG_active | PG_referenced | PG_swapbacked)
        pte_unlock(c, w.leaf)
    if cleared:
        flush_tlb(c, mm_index(m, mm), start, end - start, PMG_F_FREE)
    return err


cdef int madvise_dontneed_free(ctx_t *c, walk_t *w, vma_t *vma, uint64_t start, uint64_t end) noexcept nogil:
    w.prev = vma
    if vma.flags & VM_PFNMAP or (vma.flags & VM_LOCKED and w.advice != MADV_DONTNEED_LOCKED):
        return -EINVAL
    if w.advice != MADV_FREE:
        if zap_page_range(c, w.mm, vma, start, end, ZAP_EVEN_COWS | ZAP_MAY_STOP) < end:
            return -PMG_WAIT
    elif vma.file:
        return -EINVAL
    else:
        return madvise_free_range(c, w.mm, start, end)
    return 0


cdef int madvise_file(ctx_t *c, walk_t *w, vma_t *vma, uint64_t start, uint64_t end) noexcept nogil:
    """Do REMOVE and WILLNEED on the file, whose i_rwsem comes before mmap_lock: drop mmap_lock meanwhile."""
    cdef uint32_t file = vma.file
    cdef uint64_t index = vma.pgoff + (start - vma.start)
    cdef int err = 0
    w.prev = NULL
    w.locked = False
    file_get(c.m, file)
    mmap_read_unlock(c, w.mm_index)
    if w.advice == MADV_REMOVE:
        err = file_punch(c, file, index, end - start)
    else:
        file_fadvise(c, file, index, end - start, MADV_WILLNEED, False)
    file_put(c, file)
    if mmap_read_lock(c, w.mm_index):
        return -PMG_WAIT
    w.locked = True
    return err


cdef int madvise_remove(ctx_t *c, walk_t *w, vma_t *vma, uint64_t start, uint64_t end) noexcept nogil:
    if vma.flags & VM_LOCKED or not vma.file:
        return -EINVAL
    if (vma.flags & (VM_SHARED | VM_MAYWRITE)) != VM_SHARED | VM_MAYWRITE:
        return -EACCES
    if c.m.profile.remove_loops and not vma.flags & VM_WRITE:
        return -EACCES
    if c.m.profile.remove_loops and file_of(c.m, vma.file).kind != FILE_SHMEM:
        return -ENOSYS                          # truncate_range is an operation of tmpfs alone
    return madvise_file(c, w, vma, start, end)


cdef int madvise_willneed(ctx_t *c, walk_t *w, vma_t *vma, uint64_t start, uint64_t end) noexcept nogil:
    """Read a file's pages ahead; reading anonymous memory from swap is not modelled."""
    w.prev = vma
    if not vma.file and c.m.profile.advice_most < MADV_COLD:
        return -EBADF
    if not vma.file or file_of(c.m, vma.file).kind == FILE_SHMEM:
        return 0
    return madvise_file(c, w, vma, start, end)


cdef int madvise_populate(ctx_t *c, walk_t *w, uint64_t start, uint64_t end) noexcept nogil:
    cdef uint64_t done = 0
    return populate_range(c, w.mm, start, end, w.advice == MADV_POPULATE_WRITE, &done)


cdef inline bint is_populate(int advice) noexcept nogil:
    return advice == MADV_POPULATE_READ or advice == MADV_POPULATE_WRITE


cdef int madvise_vma_behavior(ctx_t *c, walk_t *w, vma_t *vma, uint64_t start, uint64_t end) noexcept nogil:
    if not madvise_behavior_valid(c.m, w.advice):
        return -EINVAL
    if w.advice == MADV_REMOVE:
        return madvise_remove(c, w, vma, start, end)
    if w.advice == MADV_WILLNEED:
        return madvise_willneed(c, w, vma, start, end)
    if w.advice == MADV_DONTNEED or w.advice == MADV_DONTNEED_LOCKED or w.advice == MADV_FREE:
        return madvise_dontneed_free(c, w, vma, start, end)
    if is_populate(w.advice):
        w.prev = vma
        return madvise_populate(c, w, start, end)
    if w.advice == MADV_COLD or w.advice == MADV_PAGEOUT:
        w.prev = vma                # the order of the LRU is not modelled, and nothing is paged out
        if vma.flags & (VM_LOCKED | VM_PFNMAP):
            return -EINVAL
        lru_add_drain(c)
        return 0
    return madvise_update_vma(c, w, vma, start, end)


cdef int madvise_walk_vmas(
        ctx_t *c, walk_t *w, uint64_t start, uint64_t end, uint32_t *rule) noexcept nogil:
    """Apply advice VMA by VMA; holes are skipped and reported at the end, any other failure stops at once."""
    cdef machine_t *m = c.m
    cdef vma_t *vma = find_vma_prev(m, w.mm, start, &w.prev)
    cdef uint64_t stop
    cdef bint noted = vma != NULL and vma.start < start or not m.profile.remove_loops or w.advice != MADV_REMOVE
    cdef int err, unmapped = 0
    while start < end:
        if vma == NULL:
            return refuse(ENOMEM, RULE_HOLE, rule)
        if start < vma.start:
            unmapped = -ENOMEM
            start = vma.start
            if start >= end:
                break
        stop = min(end, vma.end)
        err = madvise_vma_behavior(c, w, vma, start, stop)
        if err:
            return err
        if stop < end and not noted:
            return -(PMG_BUG + <int> BUG_REMOVE_LOOPS)      # the walk stays at this mapping forever
        noted = not m.profile.remove_loops or w.advice != MADV_REMOVE
        start = stop if w.prev == NULL else max(stop, w.prev.end)
        vma = vma_at(m, w.mm, vma_slot(m, w.mm, start))
    return refuse(ENOMEM, RULE_HOLE, rule) if unmapped else 0


cdef int64_t pmg_sys_madvise(
        ctx_t *c, uint64_t start, uint64_t length, int advice, uint32_t *rule) noexcept nogil:
    cdef uint64_t n = page_align(length)
    cdef walk_t w
    cdef bint write = madvise_need_mmap_write(advice)
    cdef int err
    if not madvise_behavior_valid(c.m, advice) and c.m.profile.advice_most >= MADV_COLD:
        return refuse(EINVAL, RULE_ADVICE, rule)
    if start & 4095:
        return refuse(EINVAL, RULE_UNALIGNED, rule)
    if (length and not n) or start + n < start:
        return refuse(EINVAL, RULE_RANGE_WRAPS, rule)
    if n == 0:
        return 0
    w.mm_index = c.mm
    w.mm = mm_of(c.m, c.mm)
    w.advice = advice
    w.locked = True
    if (mmap_write_lock(c, w.mm_index) if write else mmap_read_lock(c, w.mm_index)):
        return -PMG_WAIT
    if is_populate(advice) and c.m.profile.populate_whole:
        err = madvise_populate(c, &w, start >> 12, (start + n) >> 12)
    else:
        err = madvise_walk_vmas(c, &w, start >> 12, (start + n) >> 12, rule)
    if write:
        mmap_write_unlock(c, w.mm_index)
    elif w.locked:
        mmap_read_unlock(c, w.mm_index)
    return err
