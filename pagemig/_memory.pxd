"""Faults, copying at fork, zapping, get_user_pages, and the accesses of programs."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from pagemig._alloc cimport file_of, page_address
from pagemig._atomic cimport pmg_load, pmg_load32, pmg_store
from pagemig._pte cimport PTE_A, PTE_NX, PTE_P, PTE_PROTNONE, PTE_RW, PTE_US, pte_t
from pagemig._types cimport (
    FILE_SHMEM, VM_EXEC, VM_MAYWRITE, VM_READ, VM_SHARED, VM_WRITE, ctx_t, file_t, machine_t, mm_t, task_t, vma_t,
)


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
    return (flags & (VM_WRITE | VM_SHARED)) == (VM_WRITE | VM_SHARED) and vma.file != 0 and \
        file_of(m, vma.file).kind != FILE_SHMEM


cdef inline bint vma_wants_writenotify(machine_t *m, vma_t *vma) noexcept nogil:
    return wants_writenotify(m, vma, vma_flags(vma))


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


# content as a token: first and last 8 bytes of the frame; 0 on machines without content.  Processes that share a
# page read and write it side by side, hence atomics.
cdef inline uint64_t page_token(machine_t *m, uint32_t pfn) noexcept nogil:
    return pmg_load(<uint64_t *> page_address(m, pfn)) if m.page_bytes else 0


cdef inline void set_page_token(machine_t *m, uint32_t pfn, uint64_t value) noexcept nogil:
    cdef uint64_t *p = <uint64_t *> page_address(m, pfn)
    if m.page_bytes:
        pmg_store(p, value)
        pmg_store(p + (m.page_bytes // 8 - 1), value)


# One fault.  mmap_lock held (reading is enough); vma covers vpn and its protection was checked.  0 or VM_FAULT_*.
# Counts pgfault; min_flt and maj_flt of the process are the caller's.  VM_FAULT_RETRY: a migration entry is there.
cdef int handle_mm_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t flags) noexcept nogil
# mmap_lock held; 0 or -PMG_WAIT; counts C_MIGRATION_WAIT
cdef int migration_entry_wait(ctx_t *c, mm_t *mm, uint64_t vpn) noexcept nogil

# VMAs of an mm, mmap_lock held
cdef vma_t *find_vma(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil            # first with end > vpn, or NULL
# the one that contains vpn, or NULL
cdef vma_t *vma_lookup(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil
# position in mm.vmas of find_vma's answer (n when none)
cdef uint32_t vma_slot(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil

# mk_pte(page, vm_page_prot): no write bit for private and dirty-tracked shared mappings
cdef pte_t vma_pte(machine_t *m, vma_t *vma, uint32_t pfn) noexcept nogil
cdef enum:
    ZAP_EVEN_COWS = 1           # private copies of a file's pages, too
    ZAP_TRUNCATE = 2            # for a file that is truncated; else memory is unmapped or given up
cdef void zap_page_range(ctx_t *c, mm_t *mm, vma_t *vma, uint64_t start, uint64_t end, uint32_t how) noexcept nogil
# fork: 0 or -ENOMEM
cdef int copy_page_range(ctx_t *c, mm_t *dst_mm, vma_t *dst, mm_t *src_mm, vma_t *src) noexcept nogil

# get_user_pages family; mmap_lock held for reading, nonzero results are -errno
# 0, -EFAULT, -ENOMEM, -PMG_WAIT
cdef int faultin_page(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t flags) noexcept nogil
# populate_vma_page_range over VMAs for mlock/MAP_POPULATE (ignore errors) and madvise POPULATE (write decides); 0 or
# -errno
cdef int mm_populate(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, bint ignore_errors) noexcept nogil
cdef int populate_range(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, bint write, uint64_t *done) noexcept nogil
# the page behind vpn with one more reference (follow_page with FOLL_GET|FOLL_DUMP, the way move_pages looks):
# frame, 0 with *err = -ENOENT or -EFAULT as the kernel's profile answers (zero page and absent pages)
cdef uint32_t follow_page(ctx_t *c, vma_t *vma, uint64_t vpn, int *err) noexcept nogil
# pages taken, or -errno
cdef int64_t pin_user_pages(
        ctx_t *c, mm_t *mm, uint64_t vpn, uint64_t n, bint longterm, bint write, uint32_t *pfns) noexcept nogil
cdef void unpin_pages(ctx_t *c, const uint32_t *pfns, uint32_t n, bint longterm) noexcept nogil

# what a program does: page by page, in order; mmap_lock taken inside.  Results in *r.
ctypedef struct touch_t:
    uint64_t done               # pages (accesses) completed
    uint64_t minflt, majflt
    int signal                  # 0, SIGBUS 7, SIGSEGV 11, SIGKILL 9 (out of memory)
    int wait                    # 1: the host must wait and call again from done
cdef void touch_range(
        ctx_t *c, task_t *t, uint64_t vpn, uint64_t n, bint write, const uint64_t *values, uint64_t *out,
        touch_t *r) noexcept nogil
# each element: an address in bytes; writes NULL: none written, or one flag per access
# the same with notes deferred to the end of an epoch: faster, identical afterwards; nobody may look between
cdef void access_deferred(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t n,
        touch_t *r) noexcept nogil
cdef void access_many(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t n,
        touch_t *r) noexcept nogil
