"""Address spaces: VMAs that split and merge as the kernel's do, and the calls that change them.

The ``pmg_sys_`` functions are the system calls of ``c.task``.  They take bytes, check arguments in the kernel's order and
take mmap_lock of ``c.mm`` themselves.  They return 0, an address in bytes, or a negative errno with the number of the rule
that refused (``rule`` may be NULL).  The other functions expect mmap_lock to be held for writing.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t, machine_t, mm_t, mpol_t, task_t, vma_t

cdef enum:
    AT_ONCE = 1 << 18           # pages locked or unlocked under one hold of the tree locks, where no handler runs: some 15 ms

cdef vma_t *vma_merge(
        ctx_t *c, mm_t *mm, vma_t *prev, uint64_t start, uint64_t end, uint32_t flags, uint32_t anon_vma,
        vma_t *owner, uint32_t file, uint64_t pgoff, const mpol_t *pol) noexcept nogil
# the VMA of [start, end) within vma for new flags and pol: merged or split off.  The caller sets flags and pol.
cdef vma_t *vma_modify(
        ctx_t *c, mm_t *mm, vma_t *prev, vma_t *vma, uint64_t start, uint64_t end, uint32_t flags, const mpol_t *pol,
        int *err) noexcept nogil
cdef int split_vma(ctx_t *c, mm_t *mm, vma_t *vma, uint64_t addr, bint new_below) noexcept nogil
# a copy that is in no tree yet; its anon_vma field still names the original's
cdef vma_t *vma_dup(ctx_t *c, vma_t *old) noexcept nogil
# remove n whole VMAs of the list, with their pages and page tables
cdef int unmap_region(
        ctx_t *c, mm_t *mm, uint32_t first, uint32_t n, bint exits, bint may_stop) noexcept nogil
# fault in a range, mmap_lock taken inside: 0 or -errno
cdef int populate_pages(ctx_t *c, uint32_t mm, uint64_t start, uint64_t end, bint ignore_errors) noexcept nogil
# for callers that build mappings of their own (remap_pfn_range)
cdef vma_t *vma_alloc(
        machine_t *m, mm_t *mm, uint64_t start, uint64_t end, uint32_t flags, uint64_t pgoff) noexcept nogil
cdef int vma_link(ctx_t *c, mm_t *mm, vma_t *vma, uint32_t slot) noexcept nogil
cdef int64_t get_unmapped_area(machine_t *m, mm_t *mm, uint64_t addr, uint64_t n, bint fixed) noexcept nogil
cdef int do_munmap(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, bint may_stop) noexcept nogil
cdef int64_t pmg_sys_mmap(
        ctx_t *c, uint64_t addr, uint64_t length, uint32_t prot, uint32_t flags, uint32_t file, uint64_t offset,
        uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_munmap(ctx_t *c, uint64_t start, uint64_t length, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_mprotect(
        ctx_t *c, uint64_t start, uint64_t length, uint32_t prot, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_mremap(
        ctx_t *c, uint64_t old, uint64_t old_len, uint64_t new_len, uint32_t flags, uint64_t new_addr,
        uint32_t *rule) noexcept nogil
# set the policy of a range of pages: split, set (for shmem in the object's shared policy too), merge.  0 or -errno
cdef int mbind_range(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, const mpol_t *pol) noexcept nogil
# set the home node of a range of bytes, page-aligned; takes mmap_lock
cdef int home_node_range(ctx_t *c, uint64_t start, uint64_t length, uint32_t node) noexcept nogil
