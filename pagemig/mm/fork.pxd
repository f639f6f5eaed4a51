"""Processes and their address spaces: fork, exit, and pages pinned through open files."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_cas32, pmg_load32
from pagemig.mm.page_alloc cimport mm_of
from pagemig.mm.types cimport ctx_t, machine_t, task_t

cdef uint32_t task_new(ctx_t *c, uint32_t cpu, uint32_t uid) noexcept nogil         # pid of a new process; 0: ENOMEM
# a process by index and pid, referenced until put_task; NULL once it is reaped, even if its record was reused
cdef task_t *get_task(machine_t *m, uint32_t i, uint32_t pid) noexcept nogil
# the same by pid alone; find_task also creates init when asked for it
cdef task_t *find_get_task_by_vpid(machine_t *m, uint32_t pid) noexcept nogil
cdef task_t *find_task(ctx_t *c, uint32_t pid) noexcept nogil
cdef uint32_t all_pids(machine_t *m, uint32_t *out, uint32_t room) noexcept nogil             # of processes, not of threads
cdef uint32_t all_threads(machine_t *m, uint32_t leader, uint32_t *out, uint32_t room) noexcept nogil
cdef void limit_memlock(machine_t *m, task_t *t, uint64_t bytes_) noexcept nogil
cdef void put_task(machine_t *m, uint32_t i) noexcept nogil
# address space of another process, referenced until mmput; 0 once the process has exited
cdef uint32_t get_task_mm(ctx_t *c, task_t *t) noexcept nogil
cdef void mmput(ctx_t *c, uint32_t mm) noexcept nogil


cdef inline bint mmget_not_zero(machine_t *m, uint32_t mm) noexcept nogil:
    cdef uint32_t *users = &mm_of(m, mm).users
    cdef uint32_t n = pmg_load32(users)
    while n and not pmg_cas32(users, n, n + 1):
        n = pmg_load32(users)
    return n != 0


cdef inline bint mmput_unless_last(machine_t *m, uint32_t mm) noexcept nogil:
    """Drop a reference if it is not the last, which needs no lock and no teardown."""
    cdef uint32_t *users = &mm_of(m, mm).users
    cdef uint32_t n = pmg_load32(users)
    while n > 1:
        if pmg_cas32(users, n, n - 1):
            return True
        n = pmg_load32(users)
    return False

# system calls of c.task: pid of the child or thread; pages pinned (pipe) or 0 (longterm); 0.  Or -errno and the rule.
cdef int64_t pmg_sys_fork(ctx_t *c) noexcept nogil
cdef int64_t pmg_sys_clone_thread(ctx_t *c, uint32_t cpu) noexcept nogil
cdef int64_t pmg_sys_pin(
        ctx_t *c, uint64_t addr, uint64_t n, bint longterm, uint32_t *pin, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_unpin(ctx_t *c, uint32_t pin, uint32_t *rule) noexcept nogil
# exit(2) of one task, and exit_group(2) of its whole process; the last task tears down the address space and drops pins
cdef void do_exit(ctx_t *c, task_t *t, bint zombie, bint oom) noexcept nogil
cdef void do_group_exit(ctx_t *c, task_t *t, bint zombie, bint oom) noexcept nogil
# either of them for a caller that may stop it: 0, or -PMG_WAIT with the first part of its memory unmapped
cdef int pmg_sys_exit(ctx_t *c, task_t *t, bint zombie, bint alone) noexcept nogil
cdef void release_task(ctx_t *c, task_t *t) noexcept nogil
