"""Address spaces: VMAs that split and merge as the kernel's do, and the calls that change them.

``start``/``length`` of the ``sys_`` functions are BYTES, they check arguments in the kernel's order, take mmap_lock
of ``c.mm`` themselves and return 0 (or an address in bytes) or a negative errno.  The others expect mmap_lock for writing.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig._alloc cimport vec_at, vma_of
from pagemig._memory cimport vma_slot
from pagemig._types cimport ctx_t, machine_t, mm_t, mpol_t, task_t, vma_t

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


cdef vma_t *vma_merge(
        ctx_t *c, mm_t *mm, vma_t *prev, uint64_t start, uint64_t end, uint32_t flags, uint32_t anon_vma,
        uint32_t file, uint64_t pgoff, const mpol_t *pol) noexcept nogil
# the VMA for [start, end) of vma once it has flags and pol: merged, else cut out.  The caller sets them.
cdef vma_t *vma_modify(
        ctx_t *c, mm_t *mm, vma_t *prev, vma_t *vma, uint64_t start, uint64_t end, uint32_t flags, const mpol_t *pol,
        int *err) noexcept nogil
cdef int split_vma(ctx_t *c, mm_t *mm, vma_t *vma, uint64_t addr, bint new_below) noexcept nogil
# a copy with no place in any tree yet; its anon_vma still names the original's
cdef vma_t *vma_dup(machine_t *m, vma_t *old) noexcept nogil
# n whole VMAs of the list go, with their pages and tables
cdef void unmap_region(ctx_t *c, mm_t *mm, uint32_t first, uint32_t n) noexcept nogil
# fault in a range, mmap_lock taken inside: 0 or -errno
cdef int populate_pages(ctx_t *c, uint32_t mm, uint64_t start, uint64_t end, bint ignore_errors) noexcept nogil

# for who maps something of its own (remap_pfn_range)
cdef vma_t *vma_alloc(
        machine_t *m, mm_t *mm, uint64_t start, uint64_t end, uint32_t flags, uint64_t pgoff) noexcept nogil
cdef int vma_link(ctx_t *c, mm_t *mm, vma_t *vma, uint32_t slot) noexcept nogil
cdef int64_t get_unmapped_area(machine_t *m, mm_t *mm, uint64_t addr, uint64_t n, bint fixed) noexcept nogil
cdef int do_munmap(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil

cdef int64_t sys_mmap(
        ctx_t *c, task_t *t, uint64_t addr, uint64_t length, uint32_t prot, uint32_t flags, uint32_t file,
        uint64_t pgoff) noexcept nogil
cdef int sys_munmap(ctx_t *c, task_t *t, uint64_t start, uint64_t length) noexcept nogil
cdef int sys_mprotect(ctx_t *c, task_t *t, uint64_t start, uint64_t length, uint32_t prot) noexcept nogil
cdef int64_t sys_mremap(
        ctx_t *c, task_t *t, uint64_t old, uint64_t old_len, uint64_t new_len, uint32_t flags,
        uint64_t new_addr) noexcept nogil
# policy of a range of VMAs: split, set (shmem: in the object's shared policy too), merge.  0 or -errno; start/end in
# pages
cdef int mbind_range(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, const mpol_t *pol) noexcept nogil
cdef int sys_set_mempolicy_home_node(
        ctx_t *c, task_t *t, uint64_t start, uint64_t length, uint64_t node, uint64_t flags) noexcept nogil
