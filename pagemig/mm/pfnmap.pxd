"""VM_PFNMAP: mappings of frames that a driver owns and that have no page struct; and vm_ops of a VMA."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t, machine_t, vma_t

# whether a node reserves the frame for the kernel; the zero page does not count
cdef bint pfn_is_reserved(machine_t *m, uint64_t pfn) noexcept nogil
# map frames as a driver's mmap does: the address in bytes, or -errno with the rule that refused
cdef int64_t pmg_sys_mmap_pfns(
        ctx_t *c, const uint32_t *pfns, uint64_t n, uint32_t prot, uint32_t ops, uint32_t *rule) noexcept nogil
# set the operations of the VMA at an address (bytes): 0, or -EFAULT where nothing is mapped
cdef int64_t pmg_sys_vm_ops(ctx_t *c, uint64_t addr, uint32_t ops, uint32_t *rule) noexcept nogil
# frame of each page from vpn on, -1 for none.  mmap_lock held.
cdef void vma_frames(machine_t *m, vma_t *vma, uint64_t vpn, uint64_t n, int64_t *out) noexcept nogil
# replace the frames that a VM_PFNMAP VMA maps, and copy their content.  mmap_lock held.
cdef void remap_frames(ctx_t *c, vma_t *vma, uint64_t vpn, uint64_t n, const uint32_t *pfns) noexcept nogil
