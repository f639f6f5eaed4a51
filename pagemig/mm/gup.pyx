"""get_user_pages and its kin: fault pages in, look pages up with a reference, pin them.

mmap_lock is held for reading.
"""
from libc.errno cimport EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP, EPERM
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport GUARD_GUP_ENTRY, pmg_add, PMG_GUARD, pmg_load, pmg_load_acq, pmg_store32
from pagemig.mm.context cimport signal_pending
from pagemig.mm.frame cimport get_page, page_state, page_try_get
from pagemig.mm.memory cimport handle_mm_fault, migration_entry_wait, set_page_dirty, zap_page_range
from pagemig.mm.page_alloc cimport file_of, mm_of, put_page_refs, task_of
from pagemig.mm.pgtable cimport leaf_pte, pte_lock, pte_unlock, read_pte, walk_leaf
from pagemig.mm.pte cimport pte_dirty, pte_none, pte_pfn, pte_present, pte_protnone, PTE_SPECIAL, pte_t, pte_write
from pagemig.mm.rmap cimport lru_add_drain
from pagemig.mm.types cimport (
    ctx_t, FAULT_FLAG_UNSHARE, FAULT_FLAG_WRITE, FILE_SHMEM, GUP_PIN_COUNTING_BIAS, machine_t, mm_t, PG_anon,
    PG_anon_exclusive, PG_swapbacked, PMG_WAIT, VM_FAULT_OOM, VM_FAULT_RESTARTED, VM_FAULT_RETRY, VM_FAULT_SIGBUS,
    VM_FAULT_SIGSEGV, VM_FAULT_WAIT, VM_IO, VM_LOCKONFAULT, VM_PFNMAP, VM_READ, VM_SHARED, VM_WRITE, vma_t,
)
from pagemig.mm.vma cimport find_vma, vma_after, vma_index_of, vma_is_accessible, vma_lookup


cdef int faultin_page(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t flags, bint retries) noexcept nogil:
    """Fault a page in.  Mostly a minor fault of the process: after a read, the kernel's callers retry and find the page.

    A caller with ``retries`` lets the fault itself be retried, which makes it a major one.
    """
    cdef int ret = handle_mm_fault(c, vma, vpn, flags)
    if ret & VM_FAULT_WAIT:
        return -PMG_WAIT
    if ret & VM_FAULT_OOM:
        return -ENOMEM
    if ret & (VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV):
        return -EFAULT
    if ret & VM_FAULT_RETRY and migration_entry_wait(c, mm_of(c.m, vma.mm), vpn):
        return -PMG_WAIT
    if c.task and retries and ret & VM_FAULT_RESTARTED:
        pmg_add(&task_of(c.m, c.task).maj_flt, 1)
    elif c.task:
        pmg_add(&task_of(c.m, c.task).min_flt, 1)
    return 0


cdef bint touch_populated(ctx_t *c, mm_t *mm, uint64_t vpn, bint write) noexcept nogil:
    """Whether a page is mapped, and for ``write`` writable; such a page becomes dirty, as if it had been written."""
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


cdef int populate_vma(
        ctx_t *c, vma_t *vma, uint64_t start, uint64_t end, bint write, bint retries, uint64_t *done) noexcept nogil:
    cdef mm_t *mm = mm_of(c.m, vma.mm)
    cdef uint64_t vpn = start
    cdef int err = 0
    while vpn < end and err == 0:
        if signal_pending(c, 1):
            err = -PMG_WAIT
        elif touch_populated(c, mm, vpn, write):
            vpn += 1
            done[0] += 1
        else:
            err = faultin_page(c, vma, vpn, FAULT_FLAG_WRITE if write else 0, retries)
    lru_add_drain(c)
    return err


cdef int mm_populate(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, bint ignore_errors) noexcept nogil:
    """Fault a range in: private writable memory by write faults, which break copy-on-write, the rest by read faults."""
    cdef uint64_t vpn = start, stop, done = 0
    cdef bint write
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
                write = (vma.flags & (VM_WRITE | VM_SHARED)) == VM_WRITE
                err = populate_vma(c, vma, max(vpn, vma.start), stop, write, False, &done)
            if err == -PMG_WAIT or (err and not ignore_errors):
                return err
        vpn = stop
    return 0


cdef int make_pages_present(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil:
    """Fault a range in, by write faults where it is writable, shared memory included."""
    cdef vma_t *vma = find_vma(c.m, mm, start)
    cdef uint64_t done = 0
    cdef int err
    if vma == NULL:
        return -EPERM
    if vma.flags & (VM_IO | VM_PFNMAP) or not vma.flags & (VM_READ | VM_WRITE):
        return -EFAULT
    err = populate_vma(c, vma, start, end, (vma.flags & VM_WRITE) != 0, False, &done)
    return -EPERM if err and done and err != -PMG_WAIT else err


cdef int populate_object(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil:
    """Map the pages of a shared mapping's object anew; refused if the range reaches beyond the object's end."""
    cdef vma_t *vma = find_vma(c.m, mm, start)
    cdef uint64_t vpn
    cdef int err
    if vma == NULL or not vma.flags & VM_SHARED or start < vma.start or end > vma.end:
        return -EINVAL
    if vma_index_of(vma, end) > pmg_load(&file_of(c.m, vma.file).size):
        return -EINVAL
    zap_page_range(c, mm, vma, start, end, 0)
    for vpn in range(start, end):
        err = -PMG_WAIT if signal_pending(c, 1) else faultin_page(c, vma, vpn, 0, False)
        if err:
            return err
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
            err = populate_vma(c, vma, vpn, min(end, vma.end), write, c.m.profile.populate_whole != 0, &n)
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
        # A kernel that walks the page tables itself ignores PROT_NONE; one that uses get_user_pages does not.
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


cdef int try_grab_page(
        ctx_t *c, mm_t *mm, uint64_t vpn, bint longterm, bint write, bint touch, uint32_t *pfn) noexcept nogil:
    """Take the page at ``vpn``: 1 taken, 0 fault it in first, FAULT_FLAG_UNSHARE unshare it first, or -ENOMEM.

    With ``touch`` (FOLL_TOUCH) a page taken for writing becomes dirty.
    """
    cdef machine_t *m = c.m
    cdef uint32_t leaf = walk_leaf(m, mm.pgd, vpn)
    cdef uint64_t state
    cdef int ret = 0
    cdef pte_t pte
    if not leaf:
        return 0
    pte_lock(c, leaf)
    pte = pmg_load(leaf_pte(m, leaf, vpn))
    if (pte_present(pte) or not PMG_GUARD(GUARD_GUP_ENTRY)) and not pte_protnone(pte) and (pte_write(pte) or not write):
        pfn[0] = <uint32_t> pte_pfn(pte)
        state = page_state(m, pfn[0])
        if longterm and not write and state & PG_anon and not state & PG_anon_exclusive:
            ret = FAULT_FLAG_UNSHARE
        else:
            ret = 1 if page_try_get(m, pfn[0], GUP_PIN_COUNTING_BIAS if longterm else 1) else -ENOMEM
            if ret == 1 and touch and write and not pte_dirty(pte):
                set_page_dirty(m, pfn[0])
    pte_unlock(c, leaf)
    return ret


cdef inline bint on_disk(machine_t *m, vma_t *vma) noexcept nogil:
    return vma.file != 0 and file_of(m, vma.file).kind != FILE_SHMEM


cdef int pin_page(ctx_t *c, vma_t *vma, uint64_t vpn, bint longterm, bint write, uint32_t *pfn) noexcept nogil:
    """Pin one page, and fault it in as needed.  0 or -errno."""
    cdef machine_t *m = c.m
    cdef mm_t *mm = mm_of(m, vma.mm)
    cdef uint32_t flags
    cdef int ret
    if vma.flags & (VM_IO | VM_PFNMAP) or not vma.flags & (VM_WRITE if write else VM_READ):
        return -EFAULT
    if longterm and write and m.profile.gup_checks_files and vma.flags & VM_SHARED and on_disk(m, vma):
        return -EFAULT                      # its file system would not notice that the page becomes dirty
    while True:
        ret = try_grab_page(c, mm, vpn, longterm, write, m.profile.pin_fast != 0, pfn)
        if ret == 1:
            return 0
        if ret < 0:
            return ret
        flags = FAULT_FLAG_UNSHARE if ret else (FAULT_FLAG_WRITE if write else 0)
        ret = faultin_page(c, vma, vpn, flags, False)
        if ret:
            return ret


cdef uint64_t grab_fast(
        ctx_t *c, mm_t *mm, uint64_t vpn, uint64_t n, bint longterm, bint write, uint32_t *pfns) noexcept nogil:
    """Take pages by their entries alone (gup_fast), up to the first with no suitable entry; returns how many.

    VMAs are not checked, so write-only memory is taken too: an x86 entry cannot forbid reading.  A page of a file on disk
    goes through the slow path when a device will write to it.
    """
    cdef machine_t *m = c.m
    cdef uint64_t k = 0, state
    cdef pte_t pte
    while k < n and not signal_pending(c, 1):
        pte = read_pte(m, mm, vpn + k)
        if not pte_present(pte) or pte & PTE_SPECIAL:
            break
        state = page_state(m, <uint32_t> pte_pfn(pte))
        if longterm and write and not state & (PG_anon | PG_swapbacked):
            break
        if try_grab_page(c, mm, vpn + k, longterm, write, False, pfns + k) != 1:
            break
        k += 1
    return k


cdef int buffer_files(machine_t *m, mm_t *mm, uint64_t vpn, uint64_t n) noexcept nogil:
    """Check the mappings of registered buffers after pinning, as through 6.4: one file or none, and not on disk."""
    cdef vma_t *first = vma_lookup(m, mm, vpn)
    cdef vma_t *vma = first
    while vma != NULL and vma.start < vpn + n:
        if vma.file != first.file:
            return -EINVAL
        if on_disk(m, vma):
            return -EOPNOTSUPP
        vma = vma_after(m, mm, vma)
    return 0


cdef int64_t pin_user_pages(
        ctx_t *c, mm_t *mm, uint64_t vpn, uint64_t n, bint longterm, bint write, uint32_t *pfns) noexcept nogil:
    """Pin pages: for a pipe as many as possible, for registered buffers (``longterm``) all or none."""
    cdef machine_t *m = c.m
    cdef vma_t *vma = NULL
    cdef uint64_t k = 0
    cdef int err = 0
    if longterm:
        pmg_store32(&mm.has_pinned, 1)
    if not longterm or m.profile.pin_fast:
        k = grab_fast(c, mm, vpn, n, longterm, write, pfns)
    while k < n and err == 0:
        if vma == NULL or vpn + k >= vma.end:
            vma = vma_lookup(m, mm, vpn + k)
        if signal_pending(c, 1):
            err = -PMG_WAIT
        else:
            err = pin_page(c, vma, vpn + k, longterm, write, pfns + k) if vma != NULL else -EFAULT
        if err == 0:
            k += 1
    if longterm and err and k and err != -PMG_WAIT:
        err = -EFAULT
    elif longterm and err == 0 and not m.profile.gup_checks_files:
        err = buffer_files(m, mm, vpn, n)
    if k and err and (longterm or err == -PMG_WAIT):
        unpin_pages(c, pfns, <uint32_t> k, longterm)
        k = 0
    return <int64_t> k if k else err


cdef void unpin_pages(ctx_t *c, const uint32_t *pfns, uint32_t n, bint longterm) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        put_page_refs(c, pfns[i], GUP_PIN_COUNTING_BIAS if longterm else 1)
