"""mlock(2) and its family: VM_LOCKED of ranges, and the mlock counts of their pages.

Flags and counts change together under the locks of the VMA's trees, since a migration reads VM_LOCKED in its rmap walk.
"""
from libc.errno cimport EAGAIN, EFAULT, EINVAL, ENOMEM, ENOSYS, EPERM
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_store, pmg_store32
from pagemig.mm.context cimport mmap_write_lock, mmap_write_unlock, signal_pending
from pagemig.mm.gup cimport make_pages_present
from pagemig.mm.mmap cimport AT_ONCE, populate_pages, split_vma, vma_merge
from pagemig.mm.page_alloc cimport mm_of, task_of
from pagemig.mm.pagewalk cimport pagewalk_next, pagewalk_start, pagewalk_t
from pagemig.mm.pgtable cimport leaf_pte, pte_lock, pte_unlock
from pagemig.mm.pte cimport pte_pfn, pte_present, PTE_SPECIAL, pte_t
from pagemig.mm.rmap cimport lru_add_drain, mlock_vma_page, munlock_vma_page, vma_trees_lock, vma_trees_unlock
from pagemig.mm.rules cimport (
    refuse, RULE_CALL, RULE_HOLE, RULE_MEMLOCK, RULE_MEMLOCK_ZERO, RULE_MLOCK_FLAGS, RULE_MLOCKALL_FLAGS,
    RULE_MLOCKALL_NOTHING, RULE_RANGE_WRAPS,
)
from pagemig.mm.types cimport (
    CALL_MLOCK2, ctx_t, DEF_MAX_MAP_COUNT, machine_t, mm_t, PMG_WAIT, TASK_SIZE_PAGES, task_t, VM_IO, VM_LOCKED, vma_t,
)
from pagemig.mm.vma cimport (
    can_do_mlock, find_vma_prev, over_memlock, page_align, VM_LOCKED_MASK, VM_SPECIAL, vma_after, vma_at, vma_slot,
)


cdef enum:
    MLOCK_ONFAULT = 1
    MCL_CURRENT = 1
    MCL_FUTURE = 2
    MCL_ONFAULT = 4


cdef void mlock_vma_pages_range(
        ctx_t *c, mm_t *mm, vma_t *vma, uint64_t start, uint64_t end, uint32_t newflags) noexcept nogil:
    """Set the flags, and mlock or munlock the present pages.

    Both happen under the locks of the VMA's trees.  A migration counts the entries it removes and restores by VM_LOCKED, so
    its walk must come before or after all of this.
    """
    cdef machine_t *m = c.m
    cdef bint lock = (newflags & VM_LOCKED) != 0
    cdef pagewalk_t w
    cdef uint64_t vpn
    cdef pte_t pte
    lru_add_drain(c)
    vma_trees_lock(c, vma)
    pmg_store32(&vma.flags, newflags)
    pagewalk_start(&w, m, mm, start, end)
    while pagewalk_next(&w):
        pte_lock(c, w.leaf)
        for vpn in range(w.vpn, w.stop):
            pte = leaf_pte(m, w.leaf, vpn)[0]
            if not pte_present(pte) or pte & PTE_SPECIAL:
                continue
            if lock:
                mlock_vma_page(c, <uint32_t> pte_pfn(pte), vma)
            else:
                munlock_vma_page(c, <uint32_t> pte_pfn(pte))
        pte_unlock(c, w.leaf)
    vma_trees_unlock(c, vma)
    lru_add_drain(c)


cdef int mlock_fixup(
        ctx_t *c, mm_t *mm, vma_t **prev, vma_t *vma, uint64_t start, uint64_t end, uint32_t newflags) noexcept nogil:
    cdef uint32_t oldflags = vma.flags
    cdef vma_t *merged
    cdef int err = 0
    if newflags == oldflags or oldflags & VM_SPECIAL:
        prev[0] = vma
        return 0
    if start != vma.start:
        err = split_vma(c, mm, vma, start, True)
        prev[0] = vma_at(c.m, mm, vma_slot(c.m, mm, start) - 1)
    if err == 0 and end != vma.end:
        err = split_vma(c, mm, vma, end, False)
    if err == 0 and newflags & VM_LOCKED and oldflags & VM_LOCKED:
        pmg_store32(&vma.flags, newflags)
    elif err == 0:
        pmg_store(&mm.locked_vm, mm.locked_vm + (end - start if newflags & VM_LOCKED else start - end))
        mlock_vma_pages_range(c, mm, vma, start, end, newflags)
    # Merge last: a range may only join a neighbour whose pages are counted as its own are.
    merged = NULL
    if err == 0:
        merged = vma_merge(c, mm, prev[0], start, end, newflags, vma.anon_vma, vma, vma.file, vma.pgoff, &vma.pol)
    prev[0] = merged if merged != NULL else vma
    return err


cdef int mlock_vma(
        ctx_t *c, mm_t *mm, vma_t **prev, vma_t *vma, uint64_t start, uint64_t end, uint32_t newflags) noexcept nogil:
    """mlock_fixup() in pieces of AT_ONCE pages, so that the call can end between two; the pieces merge again."""
    cdef uint64_t stop
    while vma.ops == 0 and newflags != vma.flags and not vma.flags & VM_SPECIAL and end - start > AT_ONCE and \
            mm.vmas.n < DEF_MAX_MAP_COUNT - 2:
        stop = start + AT_ONCE
        if mlock_fixup(c, mm, prev, vma, start, stop, newflags):
            break                           # no record for the split; the whole range needs none
        vma = vma_after(c.m, mm, prev[0])
        start = stop
        if signal_pending(c, AT_ONCE):
            return -PMG_WAIT
    return mlock_fixup(c, mm, prev, vma, start, end, newflags)


cdef int mlock_present(
        ctx_t *c, mm_t *mm, vma_t **prev, vma_t *vma, uint64_t start, uint64_t end, uint32_t newflags) noexcept nogil:
    """mlock_fixup through 2.6.37: the mapping counts as locked even if its pages cannot be faulted in."""
    cdef vma_t *merged
    cdef int err = 0
    if newflags == vma.flags:
        prev[0] = vma
        return 0
    merged = vma_merge(
        c, mm, prev[0], start, end, newflags, vma.anon_vma, vma, vma.file, vma.pgoff + (start - vma.start), &vma.pol)
    if merged != NULL:
        vma = merged
    else:
        if start != vma.start:
            err = split_vma(c, mm, vma, start, True)
        if err == 0 and end != vma.end:
            err = split_vma(c, mm, vma, end, False)
        if err:
            return -EAGAIN
    prev[0] = vma
    pmg_store32(&vma.flags, newflags)
    pmg_store(&mm.locked_vm, mm.locked_vm + (end - start if newflags & VM_LOCKED else start - end))
    if newflags & VM_LOCKED and not newflags & VM_IO:
        err = make_pages_present(c, mm, start, end)
    return -EAGAIN if err == -ENOMEM else err


cdef int apply_vma_lock_flags(
        ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, uint32_t flags, uint32_t *rule) noexcept nogil:
    """Set the flags VMA by VMA, up to the first hole: ENOMEM."""
    cdef machine_t *m = c.m
    cdef vma_t *prev = NULL
    cdef vma_t *vma = find_vma_prev(m, mm, start, &prev)
    cdef uint32_t newflags
    cdef int err
    if end < start:
        return refuse(EINVAL, RULE_RANGE_WRAPS, rule)
    if end == start:
        return 0
    while vma != NULL and vma.start <= start:
        newflags = (vma.flags & ~VM_LOCKED_MASK) | flags
        if m.profile.mlock_populates:
            err = mlock_present(c, mm, &prev, vma, start, min(end, vma.end), newflags)
        else:
            err = mlock_vma(c, mm, &prev, vma, start, min(end, vma.end), newflags)
        if err:
            return err
        start = prev.end
        if start >= end:
            return 0
        vma = vma_after(m, mm, prev)
    return refuse(ENOMEM, RULE_HOLE, rule)


cdef uint64_t count_mm_mlocked_page_nr(machine_t *m, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil:
    cdef uint32_t slot = vma_slot(m, mm, start)
    cdef uint64_t count = 0
    cdef vma_t *vma = vma_at(m, mm, slot)
    while vma != NULL and vma.start < end:
        if vma.flags & VM_LOCKED:
            count += min(end, vma.end) - max(start, vma.start)
        slot += 1
        vma = vma_at(m, mm, slot)
    return count


cdef int do_mlock(
        ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, uint64_t n, uint32_t flags, uint32_t *rule) noexcept nogil:
    cdef task_t *t = task_of(c.m, c.task)
    cdef uint64_t locked = n + mm.locked_vm
    # Pages that are locked already do not count twice, except in kernels through 2.6.37.
    if over_memlock(t, locked) and not c.m.profile.mlock_populates:
        locked -= count_mm_mlocked_page_nr(c.m, mm, start, end)
    if over_memlock(t, locked):
        return refuse(ENOMEM, RULE_MEMLOCK, rule)
    return apply_vma_lock_flags(c, mm, start, end, flags, rule)


cdef int64_t pmg_sys_mlock(
        ctx_t *c, uint64_t start, uint64_t length, uint32_t flags, uint32_t *rule) noexcept nogil:
    cdef uint32_t mm = c.mm
    cdef uint64_t end
    cdef int err
    if flags and not c.m.profile.call_mask & CALL_MLOCK2:
        return refuse(ENOSYS, RULE_CALL, rule)
    if flags & ~<uint32_t> MLOCK_ONFAULT:
        return refuse(EINVAL, RULE_MLOCK_FLAGS, rule)
    if not can_do_mlock(task_of(c.m, c.task)):
        return refuse(EPERM, RULE_MEMLOCK_ZERO, rule)
    length = page_align(length + (start & 4095))
    start &= ~<uint64_t> 4095
    end = (start + length) >> 12        # may wrap, which apply_vma_lock_flags checks
    start >>= 12
    if mmap_write_lock(c, mm):
        return -PMG_WAIT
    err = do_mlock(c, mm_of(c.m, mm), start, end, length >> 12, VM_LOCKED_MASK if flags else VM_LOCKED, rule)
    mmap_write_unlock(c, mm)
    if err == 0 and not c.m.profile.mlock_populates:
        err = populate_pages(c, mm, start, end, False)
        if err == -EFAULT:
            err = -ENOMEM
        elif err == -ENOMEM:
            err = -EAGAIN
    return err


cdef int64_t pmg_sys_munlock(ctx_t *c, uint64_t start, uint64_t length, uint32_t *rule) noexcept nogil:
    cdef uint32_t mm = c.mm
    cdef int err
    length = page_align(length + (start & 4095))
    start &= ~<uint64_t> 4095
    if mmap_write_lock(c, mm):
        return -PMG_WAIT
    err = apply_vma_lock_flags(c, mm_of(c.m, mm), start >> 12, (start + length) >> 12, 0, rule)
    mmap_write_unlock(c, mm)
    return err


cdef int apply_mlockall_flags(ctx_t *c, mm_t *mm, uint32_t flags) noexcept nogil:
    """Set the flags of all VMAs: 0, or -PMG_WAIT if the call must end with only the first ones changed."""
    cdef uint32_t lock = VM_LOCKED_MASK if flags & MCL_ONFAULT else VM_LOCKED
    cdef vma_t *prev = NULL
    cdef vma_t *vma = vma_at(c.m, mm, 0)
    mm.def_flags &= ~VM_LOCKED_MASK
    if flags & MCL_FUTURE:
        mm.def_flags |= lock
    if flags & MCL_FUTURE and not flags & MCL_CURRENT:
        return 0
    if not flags & MCL_CURRENT:
        lock = 0
    while vma != NULL:                  # a VMA that cannot be changed is skipped
        if c.m.profile.mlock_populates:
            mlock_present(c, mm, &prev, vma, vma.start, vma.end, (vma.flags & ~VM_LOCKED_MASK) | lock)
        else:
            mlock_vma(c, mm, &prev, vma, vma.start, vma.end, (vma.flags & ~VM_LOCKED_MASK) | lock)
        if signal_pending(c, 1):
            return -PMG_WAIT
        vma = vma_after(c.m, mm, prev)
    return 0


cdef int64_t pmg_sys_mlockall(ctx_t *c, uint32_t flags, uint32_t *rule) noexcept nogil:
    cdef uint32_t mm = c.mm
    cdef task_t *t = task_of(c.m, c.task)
    cdef int err = 0
    if flags & ~<uint32_t> (MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT):
        return refuse(EINVAL, RULE_MLOCKALL_FLAGS, rule)
    if not flags & (MCL_CURRENT | MCL_FUTURE):
        return refuse(EINVAL, RULE_MLOCKALL_NOTHING, rule)
    if flags & MCL_ONFAULT and c.m.profile.mlock_populates:
        return refuse(EINVAL, RULE_MLOCKALL_FLAGS, rule)
    if not can_do_mlock(t):
        return refuse(EPERM, RULE_MEMLOCK_ZERO, rule)
    if mmap_write_lock(c, mm):
        return -PMG_WAIT
    if flags & MCL_CURRENT and over_memlock(t, mm_of(c.m, mm).total_vm):
        err = refuse(ENOMEM, RULE_MEMLOCK, rule)
    else:
        err = apply_mlockall_flags(c, mm_of(c.m, mm), flags)
    mmap_write_unlock(c, mm)
    if err == 0 and flags & MCL_CURRENT and not c.m.profile.mlock_populates:
        populate_pages(c, mm, 0, TASK_SIZE_PAGES, True)
    return err


cdef int64_t pmg_sys_munlockall(ctx_t *c) noexcept nogil:
    cdef uint32_t mm = c.mm
    cdef int err
    if mmap_write_lock(c, mm):
        return -PMG_WAIT
    err = apply_mlockall_flags(c, mm_of(c.m, mm), 0)
    mmap_write_unlock(c, mm)
    return err
