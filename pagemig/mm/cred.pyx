"""Credentials: which process may inspect and move the memory of which.

move_pages and migrate_pages check access as ``ptrace`` does with ``PTRACE_MODE_READ_REALCREDS`` (docs/fidelity.md,
"move_pages"; recorded in hand-011, hand-027, hand-050); through 4.12 they checked it as for a signal.  User namespaces and
security modules are not modelled.
"""
from libc.errno cimport EPERM, ESRCH
from libc.stdint cimport int32_t, int64_t, uint32_t

from pagemig.mm.atomic cimport (
    pmg_load32, pmg_load32_acq, pmg_spin_lock, pmg_spin_unlock, pmg_store32, pmg_store32_rel,
)
from pagemig.mm.fork cimport find_task, put_task
from pagemig.mm.page_alloc cimport mm_of, task_of
from pagemig.mm.rules cimport refuse, RULE_UID
from pagemig.mm.types cimport CAP_ALL, CAP_SYS_NICE, CAP_SYS_PTRACE, ctx_t, TASK_RUNNING, task_t


cdef enum:
    KTHREAD_PID = 2             # a kernel thread: root with every capability, and no memory of its own


cdef void get_cred(ctx_t *c, task_t *t, cred_t *out) noexcept nogil:
    """Take a consistent snapshot of a task's credentials; t NULL: a kernel thread's."""
    cdef uint32_t mm
    out.uid = out.euid = out.suid = out.gid = 0
    out.caps = CAP_ALL
    out.has_mm = out.dumpable = False
    if t == NULL:
        return
    pmg_spin_lock(&t.alloc_lock)
    out.uid = t.uid
    out.euid = t.euid
    out.suid = t.suid
    out.gid = t.gid
    out.caps = pmg_load32(&t.caps)
    pmg_spin_unlock(&t.alloc_lock)
    out.has_mm = pmg_load32_acq(&t.state) == TASK_RUNNING
    out.dumpable = True
    mm = pmg_load32_acq(&t.mm)
    if mm:
        out.dumpable = pmg_load32_acq(&mm_of(c.m, mm).dumpable) != 0
        if pmg_load32(&t.mm) != mm:         # the task exited meanwhile, and the mm may be another's by now
            out.dumpable = True


cdef bint capable(ctx_t *c, uint32_t cap) noexcept nogil:
    return pmg_load32(&task_of(c.m, c.task).caps) & cap != 0


cdef int64_t pmg_sys_setuid(
        ctx_t *c, uint32_t uid, uint32_t gid, bint dumpable, uint32_t *rule) noexcept nogil:
    cdef task_t *t = task_of(c.m, c.task)
    cdef int64_t rc = 0
    pmg_spin_lock(&t.alloc_lock)
    if not pmg_load32(&t.caps) and (uid != t.uid or gid != t.gid):
        rc = refuse(EPERM, RULE_UID, rule)
    else:
        t.uid = t.euid = t.suid = uid
        t.gid = gid
        if uid:
            pmg_store32(&t.caps, 0)
    pmg_spin_unlock(&t.alloc_lock)
    if rc == 0:
        pmg_store32_rel(&mm_of(c.m, c.mm).dumpable, dumpable)
    return rc


cdef bint may_signal(const cred_t *caller, const cred_t *target) noexcept nogil:
    """The check through 4.12: the caller's real or effective uid must be the target's real or saved uid."""
    if caller.caps & CAP_SYS_NICE:
        return True
    return caller.uid == target.uid or caller.uid == target.suid or caller.euid == target.uid \
        or caller.euid == target.suid


cdef bint ptrace_may_access(const cred_t *caller, const cred_t *target) noexcept nogil:
    """Check three rules, each of which CAP_SYS_PTRACE overrides.

    All uids and the gid of the target equal the caller's real ones; the target is dumpable; it has no capability that the
    caller lacks.
    """
    if caller.caps & CAP_SYS_PTRACE:
        return True
    if not (caller.uid == target.euid == target.suid == target.uid) or caller.gid != target.gid:
        return False
    if target.has_mm and not target.dumpable:
        return False
    return target.caps & ~caller.caps == 0


cdef int get_target(ctx_t *c, int32_t pid, task_t **target) noexcept nogil:
    cdef bint as_signal = c.m.profile.uid_access != 0
    cdef cred_t caller, target_cred
    cdef task_t *t = NULL
    if pid == 0 or <uint32_t> pid == pmg_load32(&task_of(c.m, c.task).pid):
        target[0] = task_of(c.m, c.task)
        return 0
    target[0] = NULL
    if pid != KTHREAD_PID:
        t = find_task(c, <uint32_t> pid) if pid > 0 else NULL
        if t == NULL:
            return -ESRCH
    if t != NULL and not as_signal and t.leader == task_of(c.m, c.task).leader:
        target[0] = t                       # same_thread_group
        return 0
    get_cred(c, task_of(c.m, c.task), &caller)
    get_cred(c, t, &target_cred)
    # Checked as for a signal, a target without memory passes here: its missing mm is refused before permission is.
    if (not target_cred.has_mm or may_signal(&caller, &target_cred)) if as_signal else ptrace_may_access(&caller, &target_cred):
        target[0] = t
        return 0
    put_target(c, t)
    return -EPERM


cdef void put_target(ctx_t *c, task_t *target) noexcept nogil:
    if target != NULL and target != task_of(c.m, c.task):
        put_task(c.m, <uint32_t> (target - task_of(c.m, 0)))
