"""Mappings: how to find them, what their flags say, what a new entry of theirs looks like, and what they count.

mmap_lock is held, for reading at least, unless a function says otherwise.
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
    """Page number where ``vma`` maps page ``index`` of its object, or 2^64-1 when it does not."""
    cdef uint64_t off = <uint64_t> (<uint32_t> (index - <uint32_t> vma.pgoff))
    return vma.start + off if off < vma.end - vma.start else 0xffffffffffffffffu


cdef inline uint32_t linear_page_index(vma_t *vma, uint64_t vpn) noexcept nogil:
    return <uint32_t> (vma.pgoff + (vpn - vma.start))


cdef inline uint32_t vma_flags(vma_t *vma) noexcept nogil:
    """VM_* of a mapping for who does not hold its mmap_lock: reverse-map walks, side by side with mprotect.

    What a walk makes of them counts only if they are read under the leaf's lock: mprotect stores the flags first and
    then takes the lock of every leaf, so that whoever has it before mprotect is mended by it, whoever has it after
    sees the new flags.
    """
    return pmg_load32(&vma.flags)


cdef inline bint is_cow_mapping(uint32_t flags) noexcept nogil:
    return (flags & (VM_SHARED | VM_MAYWRITE)) == VM_MAYWRITE


cdef inline bint wants_writenotify(machine_t *m, vma_t *vma, uint32_t flags) noexcept nogil:
    """First writes must fault: shared writable mappings of ext4 and ramfs, whose file systems have page_mkwrite."""
    return (flags & (VM_WRITE | VM_SHARED)) == (VM_WRITE | VM_SHARED) and vma.file != 0 and m.profile.dirty_tracking and \
        file_of(m, vma.file).kind != FILE_SHMEM


cdef inline pte_t page_prot(machine_t *m, vma_t *vma, uint32_t flags) noexcept nogil:
    """Bits of a new entry: x86 entries start out young; only shared mappings that need no notice start writable."""
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

# VMAs of an mm, mmap_lock held
cdef vma_t *find_vma(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil            # first with end > vpn, or NULL
# the one that contains vpn, or NULL
cdef vma_t *vma_lookup(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil
# position in mm.vmas of find_vma's answer (n when none)
cdef uint32_t vma_slot(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil
# mk_pte(page, vm_page_prot): no write bit for private and dirty-tracked shared mappings
cdef pte_t vma_pte(machine_t *m, vma_t *vma, uint32_t pfn) noexcept nogil


cdef extern from *:
    """
    #define VM_SPECIAL (VM_IO | VM_DONTEXPAND | VM_PFNMAP)
    #define VM_LOCKED_MASK (VM_LOCKED | VM_LOCKONFAULT)
    """
    const uint32_t VM_SPECIAL, VM_LOCKED_MASK


cdef inline uint64_t page_align(uint64_t nbytes) noexcept nogil:
    """Rounded up to whole pages; the last 4095 values wrap to 0, which callers look for."""
    return (nbytes + 4095) & ~<uint64_t> 4095


cdef inline vma_t *vma_at(machine_t *m, mm_t *mm, uint32_t slot) noexcept nogil:
    """The VMA at a position of the list; NULL behind the last and before the first (slot -1)."""
    return vma_of(m, vec_at(m, &mm.vmas)[slot]) if slot < mm.vmas.n else NULL


cdef inline vma_t *vma_after(machine_t *m, mm_t *mm, vma_t *vma) noexcept nogil:
    return vma_at(m, mm, vma_slot(m, mm, vma.end))


cdef inline vma_t *find_vma_prev(machine_t *m, mm_t *mm, uint64_t vpn, vma_t **prev) noexcept nogil:
    """find_vma and the VMA before ``vpn``: the found one itself when it begins before."""
    cdef uint32_t slot = vma_slot(m, mm, vpn)
    cdef vma_t *vma = vma_at(m, mm, slot)
    prev[0] = vma if vma != NULL and vma.start < vpn else vma_at(m, mm, slot - 1)
    return vma


cdef inline bint can_do_mlock(task_t *t) noexcept nogil:
    return pmg_load(&t.memlock) != 0 or pmg_load32(&t.caps) & CAP_IPC_LOCK


cdef inline bint over_memlock(task_t *t, uint64_t pages) noexcept nogil:
    return pages > pmg_load(&t.memlock) >> 12 and not pmg_load32(&t.caps) & CAP_IPC_LOCK


cdef inline void add_mm_counter(machine_t *m, vma_t *vma, uint64_t state, int64_t n) noexcept nogil:
    """Count pages into the resident set, by kind of page; a migration entry counts as its page does.

    Atomic: a migration may be at work on other mappings of the same process.
    """
    cdef mm_t *mm = mm_of(m, vma.mm)
    if state & PG_anon:
        pmg_add(<uint64_t *> &mm.rss_anon, <uint64_t> n)
    elif state & PG_swapbacked:
        pmg_add(<uint64_t *> &mm.rss_shmem, <uint64_t> n)
    else:
        pmg_add(<uint64_t *> &mm.rss_file, <uint64_t> n)


cdef inline uint64_t vma_index_of(vma_t *vma, uint64_t vpn) noexcept nogil:
    """Page of the object that ``vma`` maps at ``vpn``."""
    return vma.pgoff + (vpn - vma.start)


cdef inline bint vma_is_accessible(vma_t *vma) noexcept nogil:
    return (vma_flags(vma) & (VM_READ | VM_WRITE | VM_EXEC)) != 0
