"""Address spaces: VMAs that split and merge as the kernel's do, and the calls that change them.

``start``/``length`` of the ``sys_`` functions are BYTES, they check arguments in the kernel's order, take mmap_lock
of ``c.mm`` themselves and return 0 (or an address in bytes) or a negative errno.  The others expect mmap_lock for writing.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig._alloc cimport mm_of
from pagemig._atomic cimport pmg_cas32, pmg_load32
from pagemig._types cimport ctx_t, file_t, machine_t, mm_t, mpol_t, task_t, vma_t

cdef vma_t *vma_merge(
        ctx_t *c, mm_t *mm, vma_t *prev, uint64_t start, uint64_t end, uint32_t flags, uint32_t anon_vma,
        uint32_t file, uint64_t pgoff, const mpol_t *pol) noexcept nogil
cdef int split_vma(ctx_t *c, mm_t *mm, vma_t *vma, uint64_t addr, bint new_below) noexcept nogil

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
cdef int sys_madvise(ctx_t *c, task_t *t, uint64_t start, uint64_t length, int advice) noexcept nogil
# flags: MLOCK_ONFAULT 1
cdef int sys_mlock(ctx_t *c, task_t *t, uint64_t start, uint64_t length, uint32_t flags) noexcept nogil
cdef int sys_munlock(ctx_t *c, task_t *t, uint64_t start, uint64_t length) noexcept nogil
# MCL_CURRENT 1, FUTURE 2, ONFAULT 4
cdef int sys_mlockall(ctx_t *c, task_t *t, uint32_t flags) noexcept nogil
cdef int sys_munlockall(ctx_t *c, task_t *t) noexcept nogil

# policy of a range of VMAs: split, set (shmem: in the object's shared policy too), merge.  0 or -errno; start/end in
# pages
cdef int mbind_range(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, const mpol_t *pol) noexcept nogil
cdef int sys_set_mempolicy_home_node(
        ctx_t *c, task_t *t, uint64_t start, uint64_t length, uint64_t node, uint64_t flags) noexcept nogil

# processes
cdef uint32_t task_new(ctx_t *c, uint32_t cpu, uint32_t uid) noexcept nogil         # fresh address space; 0: ENOMEM
# a process by index and pid, kept until put_task; NULL when it was reaped, whoever has the record now
cdef task_t *get_task(machine_t *m, uint32_t i, uint32_t pid) noexcept nogil
cdef void put_task(machine_t *m, uint32_t i) noexcept nogil
# address space of another process, kept until mmput; 0 when it has exited
cdef uint32_t get_task_mm(ctx_t *c, task_t *t) noexcept nogil
cdef void mmput(ctx_t *c, uint32_t mm) noexcept nogil

cdef inline bint mmget_not_zero(machine_t *m, uint32_t mm) noexcept nogil:
    cdef uint32_t *users = &mm_of(m, mm).users
    cdef uint32_t n = pmg_load32(users)
    while n and not pmg_cas32(users, n, n + 1):
        n = pmg_load32(users)
    return n != 0

cdef inline bint mmput_unless_last(machine_t *m, uint32_t mm) noexcept nogil:
    """Drop a reference that is not the last, which takes no time and no lock."""
    cdef uint32_t *users = &mm_of(m, mm).users
    cdef uint32_t n = pmg_load32(users)
    while n > 1:
        if pmg_cas32(users, n, n - 1):
            return True
        n = pmg_load32(users)
    return False

cdef int64_t sys_fork(ctx_t *c, task_t *t) noexcept nogil                           # task index of the child or -errno
# tears down the address space, drops pins
cdef void do_exit(ctx_t *c, task_t *t, bint zombie) noexcept nogil
cdef void task_reap(ctx_t *c, task_t *t) noexcept nogil
# pages held (pipe) or 0 (longterm), or -errno
cdef int64_t sys_pin(ctx_t *c, task_t *t, uint64_t addr, uint64_t n, bint longterm, uint32_t *pin) noexcept nogil
cdef int sys_unpin(ctx_t *c, task_t *t, uint32_t pin) noexcept nogil               # 0 or -EBADF
