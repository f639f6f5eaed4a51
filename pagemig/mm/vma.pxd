"""VMAs: lookup, flags, the protection of new entries, and their share of the resident set.

mmap_lock is held, at least for reading, unless a function says otherwise.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_add, pmg_load, pmg_load32
from pagemig.mm.page_alloc cimport file_of, mm_of, vec_at, vma_of
from pagemig.mm.pte cimport PTE_A, PTE_NX, PTE_P, PTE_PROTNONE, PTE_RW, pte_t, PTE_US
from pagemig.mm.types cimport (
    CAP_IPC_LOCK, FILE_SHMEM, machine_t, mm_t, PG_anon, PG_swapbacked, task_t, VM_EXEC, VM_MAYWRITE, VM_READ,
    VM_SHARED, VM_WRITE, vma_t,
)


cdef inline uint64_t vma_address(vma_t *vma, uint32_t index) noexcept nogil:
    """Page at which ``vma`` maps page ``index`` of its object, or 2^64-1 if it does not map it."""
    cdef uint64_t off = <uint64_t> (<uint32_t> (index - <uint32_t> vma.pgoff))
    return vma.start + off if off < vma.end - vma.start else 0xffffffffffffffffu


cdef inline uint32_t linear_page_index(vma_t *vma, uint64_t vpn) noexcept nogil:
    return <uint32_t> (vma.pgoff + (vpn - vma.start))


cdef inline uint32_t vma_flags(vma_t *vma) noexcept nogil:
    """Read VM_* of a mapping without its mmap_lock: reverse-map walks run concurrently with mprotect.

    A walk that writes entries must read them under the leaf's lock.  mprotect stores the flags and then takes the lock of
    every leaf: entries written before it are fixed up by mprotect, a later holder of the lock sees the new flags.
    """
    return pmg_load32(&vma.flags)


cdef inline bint is_cow_mapping(uint32_t flags) noexcept nogil:
    return (flags & (VM_SHARED | VM_MAYWRITE)) == VM_MAYWRITE


cdef inline bint wants_writenotify(machine_t *m, vma_t *vma, uint32_t flags) noexcept nogil:
    """Whether first writes must fault: shared writable mappings of ext4 and ramfs, which have page_mkwrite."""
    return (flags & (VM_WRITE | VM_SHARED)) == (VM_WRITE | VM_SHARED) and vma.file != 0 and m.profile.dirty_tracking and \
        file_of(m, vma.file).kind != FILE_SHMEM


cdef inline pte_t page_prot(machine_t *m, vma_t *vma, uint32_t flags) noexcept nogil:
    """Bits of a new entry: x86 entries start young; only shared mappings without write notification start writable."""
    cdef pte_t prot = PTE_P | PTE_US | PTE_A
    if not flags & (VM_READ | VM_WRITE | VM_EXEC):
        return PTE_PROTNONE | PTE_A
    if not flags & VM_EXEC:
        prot |= PTE_NX
    if (flags & (VM_WRITE | VM_SHARED)) == (VM_WRITE | VM_SHARED) and not wants_writenotify(m, vma, flags):
        prot |= PTE_RW
    return prot


cdef inline pte_t vm_page_prot(machine_t *m, vma_t *vma) noexcept nogil:
    return page_prot(m, vma, vma_flags(vma))


cdef inline vma_t *vma_at(machine_t *m, mm_t *mm, uint32_t slot) noexcept nogil:
    """Get the VMA at a position of the list; NULL after the last and before the first (slot -1)."""
    return vma_of(m, vec_at(m, &mm.vmas)[slot]) if slot < mm.vmas.n else NULL


cdef inline uint32_t vma_slot(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil:
    """Position in mm.vmas of the first VMA that ends after ``vpn``; vmas.n if there is none."""
    cdef uint32_t *vmas = vec_at(m, &mm.vmas)
    cdef uint32_t lo = 0, hi = mm.vmas.n, mid
    while lo < hi:
        mid = (lo + hi) // 2
        if vma_of(m, vmas[mid]).end > vpn:
            hi = mid
        else:
            lo = mid + 1
    return lo


cdef inline vma_t *find_vma(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil:
    """Get the first VMA that ends after ``vpn``, or NULL."""
    return vma_at(m, mm, vma_slot(m, mm, vpn))


cdef inline vma_t *vma_lookup(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil:
    """Get the VMA that contains ``vpn``, or NULL."""
    cdef vma_t *vma = find_vma(m, mm, vpn)
    return vma if vma != NULL and vma.start <= vpn else NULL


cdef inline pte_t vma_pte(machine_t *m, vma_t *vma, uint32_t pfn) noexcept nogil:
    """Make an entry for a frame: no write bit for private and dirty-tracked shared mappings."""
    return (<pte_t> pfn << 12) | vm_page_prot(m, vma)


cdef extern from *:
    """
    #define VM_SPECIAL (VM_IO | VM_DONTEXPAND | VM_PFNMAP)
    #define VM_LOCKED_MASK (VM_LOCKED | VM_LOCKONFAULT)
    """
    const uint32_t VM_SPECIAL, VM_LOCKED_MASK


cdef inline uint64_t page_align(uint64_t nbytes) noexcept nogil:
    """Round up to whole pages; the last 4095 values wrap to 0, which callers check for."""
    return (nbytes + 4095) & ~<uint64_t> 4095


cdef inline vma_t *vma_after(machine_t *m, mm_t *mm, vma_t *vma) noexcept nogil:
    return vma_at(m, mm, vma_slot(m, mm, vma.end))


cdef inline vma_t *find_vma_prev(machine_t *m, mm_t *mm, uint64_t vpn, vma_t **prev) noexcept nogil:
    """find_vma; ``*prev`` is the last VMA that starts before ``vpn``, possibly the one found."""
    cdef uint32_t slot = vma_slot(m, mm, vpn)
    cdef vma_t *vma = vma_at(m, mm, slot)
    prev[0] = vma if vma != NULL and vma.start < vpn else vma_at(m, mm, slot - 1)
    return vma


cdef inline bint can_do_mlock(task_t *t) noexcept nogil:
    return pmg_load(&t.memlock) != 0 or pmg_load32(&t.caps) & CAP_IPC_LOCK


cdef inline bint over_memlock(task_t *t, uint64_t pages) noexcept nogil:
    return pages > pmg_load(&t.memlock) >> 12 and not pmg_load32(&t.caps) & CAP_IPC_LOCK


cdef inline void add_mm_counter(machine_t *m, vma_t *vma, uint64_t state, int64_t n) noexcept nogil:
    """Count pages in the resident set, by kind of page; a migration entry counts as its page.

    Atomic: a migration may run on other mappings of the same process.
    """
    cdef mm_t *mm = mm_of(m, vma.mm)
    if state & PG_anon:
        pmg_add(<uint64_t *> &mm.rss_anon, <uint64_t> n)
    elif state & PG_swapbacked:
        pmg_add(<uint64_t *> &mm.rss_shmem, <uint64_t> n)
    else:
        pmg_add(<uint64_t *> &mm.rss_file, <uint64_t> n)


cdef inline uint64_t vma_index_of(vma_t *vma, uint64_t vpn) noexcept nogil:
    """Index in its object of the page that ``vma`` maps at ``vpn``."""
    return vma.pgoff + (vpn - vma.start)


cdef inline bint vma_is_accessible(vma_t *vma) noexcept nogil:
    return (vma_flags(vma) & (VM_READ | VM_WRITE | VM_EXEC)) != 0
