"""Processes and their address spaces: fork, exit, and pages pinned through open files.

Task and mm records are type-stable: a freed record is only reused as the same type.  So a late lookup finds a zero use count
or a different pid and backs off (get_task, mmget_not_zero).
"""
from libc.errno cimport EBADF, EFAULT, ENOMEM, ENOSYS, ESRCH
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from pagemig.mm.atomic cimport (
    pmg_add32, pmg_cas32, pmg_load, pmg_load32, pmg_spin_lock, pmg_spin_unlock, pmg_store, pmg_store32,
    pmg_store32_rel, pmg_write_trylock, pmg_yield,
)
from pagemig.mm.context cimport (
    LOOK_EVERY, mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock, signal_pending,
)
from pagemig.mm.gup cimport pin_user_pages, unpin_pages
from pagemig.mm.memory cimport copy_page_range
from pagemig.mm.mempolicy cimport kernel_memory, mpol_clear
from pagemig.mm.mmap cimport unmap_region, vma_dup, vma_link
from pagemig.mm.notify cimport flush_tlb, PMG_F_FORK
from pagemig.mm.page_alloc cimport (
    count_event, mm_cpumask, mm_index, mm_of, pin_of, slab_alloc, slab_free, task_of, vec_at, vec_free, vec_insert, vec_remove,
    vec_resize, vma_index,
)
from pagemig.mm.pgtable cimport pgd_alloc, pgd_free
from pagemig.mm.rmap cimport anon_vma_fork
from pagemig.mm.rules cimport refuse, RULE_CALL, RULE_PIN
from pagemig.mm.types cimport (
    C_OOM_KILL, CALL_IO_URING, CAP_ALL, ctx_t, INIT_PID, machine_t, mm_t, PID_HASH, pin_t, PMG_WAIT, TASK_EXITING, TASK_FREE,
    TASK_RUNNING, task_t, TASK_ZOMBIE, vec_t, VM_DONTCOPY, VM_WIPEONFORK, vma_t,
)
from pagemig.mm.vma cimport VM_LOCKED_MASK, vma_at


cdef enum:
    AT_ONCE = 512               # pages of a file let go between two looks for signals


# -- address spaces and processes ------------------------------------------------------------------------------


cdef uint32_t mm_alloc(ctx_t *c) noexcept nogil:
    """Make an empty address space with one user; 0: ENOMEM.

    The last user left the locks free, and the array of VMAs and the resident set empty.
    """
    cdef uint32_t i = slab_alloc(&c.m.mms)
    cdef mm_t *mm
    if not i:
        return 0
    mm = mm_of(c.m, i)
    mm.pgd = pgd_alloc(c, i)
    if not mm.pgd:
        slab_free(&c.m.mms, i)
        return 0
    memset(mm_cpumask(c.m, i), 0, c.m.cpu_words * 8)
    mm.def_flags = 0
    mm.has_pinned = 0
    pmg_store32_rel(&mm.dumpable, 1)        # release: a late reader that sees this also sees its task's mm gone
    pmg_store(&mm.total_vm, 0)
    pmg_store(&mm.locked_vm, 0)
    mm.locked_lost = 0
    pmg_store32_rel(&mm.users, 1)
    return i


cdef void mmput(ctx_t *c, uint32_t i) noexcept nogil:
    """Drop a reference; the last one tears the address space down, without a lock: it is unreachable by then."""
    cdef mm_t *mm = mm_of(c.m, i)
    if pmg_add32(&mm.users, <uint32_t> -1):
        return
    if mm.vmas.n:
        unmap_region(c, mm, 0, mm.vmas.n, True, False)
    vec_free(c.m, &mm.vmas)
    pgd_free(c, mm)
    slab_free(&c.m.mms, i)


cdef uint32_t get_task_mm(ctx_t *c, task_t *t) noexcept nogil:
    """Get the address space of a process, referenced until mmput; 0 once the process has exited.

    The caller has a reference on the process.  Before the address space is referenced, the process may exit and the record
    be reused, so ``t.mm`` is read again afterwards.
    """
    cdef uint32_t i = pmg_load32(&t.mm)
    while i:
        if mmget_not_zero(c.m, i):
            if pmg_load32(&t.mm) == i:
                return i
            mmput(c, i)
        i = pmg_load32(&t.mm)
    return 0


cdef task_t *get_task(machine_t *m, uint32_t i, uint32_t pid) noexcept nogil:
    """Get the process with this index and pid, referenced until put_task; NULL once it has been reaped.

    The record may have been reused: then its pid, set before it had users, is different.
    """
    cdef task_t *t = task_of(m, i)
    cdef uint32_t n = pmg_load32(&t.users)
    while n and not pmg_cas32(&t.users, n, n + 1):
        n = pmg_load32(&t.users)
    if n and pmg_load32(&t.pid) != pid:
        put_task(m, i)
        n = 0
    return t if n else NULL


cdef void put_task(machine_t *m, uint32_t i) noexcept nogil:
    """Drop a reference; the last one frees the record."""
    if pmg_add32(&task_of(m, i).users, <uint32_t> -1) == 0:
        slab_free(&m.tasks, i)


# -- pids --------------------------------------------------------------------------------------------------------


cdef inline uint32_t find_pid(machine_t *m, uint32_t pid) noexcept nogil:
    """Find the task of a pid, or 0; pid_lock held."""
    cdef uint32_t i = m.pid_hash[pid % PID_HASH]
    while i and pmg_load32(&task_of(m, i).pid) != pid:
        i = task_of(m, i).pid_next
    return i


cdef task_t *find_get_task_by_vpid(machine_t *m, uint32_t pid) noexcept nogil:
    """Get the process with this pid, zombies included, referenced until put_task; NULL if there is none."""
    cdef uint32_t i
    pmg_spin_lock(&m.pid_lock)
    i = find_pid(m, pid)
    pmg_spin_unlock(&m.pid_lock)
    return get_task(m, i, pid) if i else NULL


cdef uint32_t all_pids(machine_t *m, uint32_t *out, uint32_t room) noexcept nogil:
    """Count the processes not reaped yet, and store up to ``room`` of their pids, in no particular order."""
    cdef uint32_t k, i, n = 0
    pmg_spin_lock(&m.pid_lock)
    for k in range(PID_HASH):
        i = m.pid_hash[k]
        while i:
            if task_of(m, i).leader == i:
                if n < room:
                    out[n] = pmg_load32(&task_of(m, i).pid)
                n += 1
            i = task_of(m, i).pid_next
    pmg_spin_unlock(&m.pid_lock)
    return n


cdef void detach_pid(machine_t *m, uint32_t i) noexcept nogil:
    cdef uint32_t *link = &m.pid_hash[pmg_load32(&task_of(m, i).pid) % PID_HASH]
    pmg_spin_lock(&m.pid_lock)
    while link[0] != i:
        link = &task_of(m, link[0]).pid_next
    link[0] = task_of(m, i).pid_next
    pmg_spin_unlock(&m.pid_lock)


cdef bint task_publish(machine_t *m, uint32_t i, uint32_t leader, uint32_t mm, uint32_t pid) noexcept nogil:
    """Publish a complete process, or a thread if ``leader`` is another task (``attach_pid``): its pid finds it now.

    False: the pid is taken, or the thread's process is exiting.
    """
    cdef task_t *t = task_of(m, i)
    cdef task_t *first = task_of(m, leader)
    cdef uint32_t *bucket = &m.pid_hash[pid % PID_HASH]
    pmg_spin_lock(&m.pid_lock)
    if find_pid(m, pid) or (leader != i and (first.group_exit or first.live == 0)):
        pmg_spin_unlock(&m.pid_lock)
        return False
    t.leader = leader
    t.threads = t.thread_next = t.live = t.autoreap = t.group_exit = 0
    if leader != i:
        t.thread_next = first.threads
        first.threads = i
    first.live += 1
    pmg_store32(&t.pid, pid)
    pmg_store32_rel(&t.mm, mm)
    pmg_store32_rel(&t.state, TASK_RUNNING)
    pmg_store32_rel(&t.users, 1)
    t.pid_next = bucket[0]
    bucket[0] = i
    pmg_spin_unlock(&m.pid_lock)
    return True


cdef uint32_t all_threads(machine_t *m, uint32_t leader, uint32_t *out, uint32_t room) noexcept nogil:
    """Count the live threads of a process without its leader, and store up to ``room`` of their pids."""
    cdef uint32_t i, n = 0
    pmg_spin_lock(&m.pid_lock)
    i = task_of(m, leader).threads
    while i:
        if n < room:
            out[n] = pmg_load32(&task_of(m, i).pid)
        n += 1
        i = task_of(m, i).thread_next
    pmg_spin_unlock(&m.pid_lock)
    return n


cdef void limit_memlock(machine_t *m, task_t *t, uint64_t bytes_) noexcept nogil:
    """Set RLIMIT_MEMLOCK of a process (``do_prlimit``), in each of its threads."""
    cdef uint32_t i
    pmg_spin_lock(&m.pid_lock)
    pmg_store(&t.memlock, bytes_)
    pmg_store(&task_of(m, t.leader).memlock, bytes_)
    i = task_of(m, t.leader).threads
    while i:
        pmg_store(&task_of(m, i).memlock, bytes_)
        i = task_of(m, i).thread_next
    pmg_spin_unlock(&m.pid_lock)


cdef inline uint32_t alloc_pid(machine_t *m) noexcept nogil:
    return pmg_add32(&m.next_pid, 1) - 1


cdef uint32_t task_new(ctx_t *c, uint32_t cpu, uint32_t uid) noexcept nogil:
    return task_new_pid(c, cpu, uid, alloc_pid(c.m))


cdef task_t *find_task(ctx_t *c, uint32_t pid) noexcept nogil:
    """find_get_task_by_vpid() for system calls, which creates init on demand."""
    cdef task_t *t = find_get_task_by_vpid(c.m, pid)
    if t == NULL and pid == INIT_PID:
        task_new_pid(c, 0, 0, INIT_PID)
        t = find_get_task_by_vpid(c.m, pid)
    return t


cdef uint32_t task_new_pid(ctx_t *c, uint32_t cpu, uint32_t uid, uint32_t pid) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t i = slab_alloc(&m.tasks), mm = mm_alloc(c) if i else 0
    cdef task_t *t
    if not mm:
        if i:
            slab_free(&m.tasks, i)
        return 0
    t = task_of(m, i)
    t.parent = 0
    t.uid = t.euid = t.suid = t.gid = uid
    mpol_clear(&t.pol)
    t.il_prev = 0
    t.il_weight = 0
    pmg_store32(&t.caps, 0 if uid else CAP_ALL)
    pmg_store32(&t.cpu, cpu)
    pmg_store(&t.min_flt, 0)
    pmg_store(&t.maj_flt, 0)
    pmg_store(&t.memlock, m.profile.memlock)
    if not task_publish(m, i, i, mm, pid):
        mmput(c, mm)
        slab_free(&m.tasks, i)
        return 0
    return pid


cdef int dup_vma(ctx_t *c, mm_t *mm, mm_t *oldmm, vma_t *old) noexcept nogil:
    """Copy one VMA for the child, with its policy and without VM_LOCKED."""
    cdef vma_t *vma = vma_dup(c, old)
    cdef bint wipe = (old.flags & VM_WIPEONFORK) != 0
    if vma == NULL:
        return -ENOMEM
    vma.mm = mm_index(c.m, mm)
    vma.flags &= ~VM_LOCKED_MASK
    vma.anon_vma = 0
    if not wipe and anon_vma_fork(c, vma, old):
        slab_free(&c.m.vmas, vma_index(c.m, vma))
        return -ENOMEM
    if vma_link(c, mm, vma, mm.vmas.n):
        return -ENOMEM
    return 0 if wipe else copy_page_range(c, mm, vma, oldmm, old)


cdef int dup_mmap(ctx_t *c, mm_t *mm, mm_t *oldmm) noexcept nogil:
    cdef uint32_t i
    cdef vma_t *vma
    cdef int err
    for i in range(oldmm.vmas.n):
        vma = vma_at(c.m, oldmm, i)
        if vma.flags & VM_DONTCOPY:
            continue
        pmg_store(&mm.total_vm, mm.total_vm + (vma.end - vma.start))
        err = dup_vma(c, mm, oldmm, vma)
        if err:
            return err
    return 0


cdef int dup_pins(machine_t *m, task_t *t, task_t *caller) noexcept nogil:
    """Share the open files that pin pages with the child (``copy_files``)."""
    cdef task_t *parent = task_of(m, caller.leader)
    cdef uint32_t i
    cdef int err
    pmg_spin_lock(&parent.alloc_lock)
    err = vec_resize(m, &t.pins, parent.pins.n)
    for i in range(t.pins.n):
        vec_at(m, &t.pins)[i] = vec_at(m, &parent.pins)[i]
        pmg_add32(&pin_of(m, vec_at(m, &t.pins)[i]).refs, 1)
    pmg_spin_unlock(&parent.alloc_lock)
    return err


cdef void copy_task(machine_t *m, task_t *t, task_t *parent) noexcept nogil:
    """Copy credentials, policy, interleave cursor, processor and limits; fault counts start at 0."""
    t.parent = parent.leader
    pmg_spin_lock(&parent.alloc_lock)
    t.uid = parent.uid
    t.euid = parent.euid
    t.suid = parent.suid
    t.gid = parent.gid
    pmg_store32(&t.caps, parent.caps)
    t.pol = parent.pol
    t.il_prev = parent.il_prev
    t.il_weight = parent.il_weight
    pmg_spin_unlock(&parent.alloc_lock)
    pmg_store32(&t.cpu, pmg_load32(&parent.cpu))
    pmg_store(&t.min_flt, 0)
    pmg_store(&t.maj_flt, 0)
    pmg_store(&t.memlock, pmg_load(&parent.memlock))


cdef int copy_process(ctx_t *c, task_t *t, task_t *parent, uint32_t mm) noexcept nogil:
    cdef int err
    if mmap_write_lock(c, c.mm):
        return -PMG_WAIT
    if mmap_write_lock(c, mm):              # the child is not published yet, but swapoff walks every address space
        mmap_write_unlock(c, c.mm)
        return -PMG_WAIT
    kernel_memory(c, 2)                     # task_struct and stack; the child's cursor is copied after these
    copy_task(c.m, t, parent)
    pmg_store32(&mm_of(c.m, mm).dumpable, pmg_load32(&mm_of(c.m, c.mm).dumpable))
    err = dup_mmap(c, mm_of(c.m, mm), mm_of(c.m, c.mm))
    flush_tlb(c, c.mm, 0, 0, PMG_F_FORK)
    if err == -PMG_WAIT:
        err = 0                             # interrupted: keep the partial copy, undoing would take as long as copying
    mmap_write_unlock(c, mm)
    mmap_write_unlock(c, c.mm)
    return err if err else dup_pins(c.m, t, parent)


cdef int64_t pmg_sys_fork(ctx_t *c) noexcept nogil:
    cdef machine_t *m = c.m
    cdef task_t *t = task_of(m, c.task)
    cdef uint32_t i = slab_alloc(&m.tasks), mm = mm_alloc(c) if i else 0, pid
    cdef int err = copy_process(c, task_of(m, i), t, mm) if mm else -ENOMEM
    if err:
        if mm:
            mmput(c, mm)
        if i:
            slab_free(&m.tasks, i)
        return err
    pid = alloc_pid(m)
    task_publish(m, i, i, mm, pid)
    return pid


cdef int64_t pmg_sys_clone_thread(ctx_t *c, uint32_t cpu) noexcept nogil:
    """``clone`` with CLONE_VM, CLONE_FILES and CLONE_THREAD: the thread gets copies of policy, cursor and credentials."""
    cdef machine_t *m = c.m
    cdef task_t *t = task_of(m, c.task)
    cdef uint32_t i = slab_alloc(&m.tasks), pid
    if not i:
        return -ENOMEM
    kernel_memory(c, 2)                     # task_struct and stack
    copy_task(m, task_of(m, i), t)
    task_of(m, i).parent = task_of(m, t.leader).parent
    pmg_store32(&task_of(m, i).cpu, cpu)
    pmg_add32(&mm_of(m, c.mm).users, 1)
    pid = alloc_pid(m)
    if task_publish(m, i, t.leader, c.mm, pid):
        return pid
    pmg_add32(&mm_of(m, c.mm).users, <uint32_t> -1)     # not the last: this call has one too
    slab_free(&m.tasks, i)
    return -ESRCH


cdef int pin_put(ctx_t *c, uint32_t i, bint may_stop) noexcept nogil:
    """Drop a reference on an open file; the last one lets its pages go, the last of them first.

    0, or -PMG_WAIT if the call must end: then the caller has the reference again, on the file with the pages that are left.
    """
    cdef pin_t *pin = pin_of(c.m, i)
    cdef uint32_t n
    if pmg_add32(&pin.refs, <uint32_t> -1):
        return 0
    while pin.pages.n:
        if may_stop and signal_pending(c, AT_ONCE):
            pmg_store32(&pin.refs, 1)
            return -PMG_WAIT
        n = min(pin.pages.n, <uint32_t> AT_ONCE)
        pin.pages.n -= n
        unpin_pages(c, vec_at(c.m, &pin.pages) + pin.pages.n, n, pin.longterm)
    vec_free(c.m, &pin.pages)
    slab_free(&c.m.pins, i)
    return 0


cdef uint32_t tasks_leaving(machine_t *m, task_t *t, bint alone) noexcept nogil:
    """Count the tasks that an exit ends."""
    cdef uint32_t n
    pmg_spin_lock(&m.pid_lock)
    n = 1 if alone else task_of(m, t.leader).live
    pmg_spin_unlock(&m.pid_lock)
    return n


cdef int unmap_before_exit(ctx_t *c, task_t *t, uint32_t leaving) noexcept nogil:
    """Unmap a large address space before its tasks exit, so that the call can stop: 0, or -PMG_WAIT and no task exits.

    ``leaving`` tasks exit; an address space shared with others is not unmapped.
    """
    cdef uint32_t i = get_task_mm(c, t)
    cdef mm_t *mm = mm_of(c.m, i)
    cdef int err = 0
    if i == 0:
        return 0
    if mm.vmas.n and pmg_load(&mm.total_vm) >= LOOK_EVERY and pmg_load32(&mm.users) == leaving + 1 and \
            pmg_write_trylock(&mm.lock):
        err = unmap_region(c, mm, 0, mm.vmas.n, True, True)
        mmap_write_unlock(c, i)
    mmput(c, i)
    return err


cdef bint pin_take(machine_t *m, task_t *leader, uint32_t pin) noexcept nogil:
    """Take an open file, with its reference, from a process; whether the process had it."""
    cdef uint32_t i
    cdef bint there = False
    pmg_spin_lock(&leader.alloc_lock)
    for i in range(leader.pins.n):
        if vec_at(m, &leader.pins)[i] == pin:
            vec_remove(m, &leader.pins, i)
            there = True
            break
    pmg_spin_unlock(&leader.alloc_lock)
    return there


cdef bint pin_close(ctx_t *c, task_t *leader, uint32_t pin, int *err) noexcept nogil:
    """Close an open file of a process: whether it was open, and in ``err`` -PMG_WAIT where it still is, with fewer pages."""
    err[0] = 0
    if not pin_take(c.m, leader, pin):
        return False
    err[0] = pin_put(c, pin, True)
    if err[0] and pin_hold(c.m, leader, pin):       # the process has exited meanwhile
        pin_put(c, pin, False)
    return True


cdef uint32_t large_pin(machine_t *m, task_t *leader) noexcept nogil:
    """Find an open file of a process that holds many pages and that no other process has open; 0: none."""
    cdef uint32_t i, found = 0
    cdef pin_t *pin
    pmg_spin_lock(&leader.alloc_lock)
    for i in range(leader.pins.n):
        pin = pin_of(m, vec_at(m, &leader.pins)[i])
        if pmg_load32(&pin.refs) == 1 and pin.pages.n >= LOOK_EVERY:
            found = vec_at(m, &leader.pins)[i]
            break
    pmg_spin_unlock(&leader.alloc_lock)
    return found


cdef int unpin_before_exit(ctx_t *c, task_t *leader, uint32_t leaving) noexcept nogil:
    """Close files that hold many pages before the last tasks of a process exit: 0, or -PMG_WAIT and no task exits."""
    cdef uint32_t pin
    cdef int err = 0
    if pmg_load32(&leader.live) != leaving:
        return 0
    pin = large_pin(c.m, leader)
    while pin and err == 0:
        pin_close(c, leader, pin, &err)
        pin = large_pin(c.m, leader)
    return err


cdef bint leaves_group(machine_t *m, task_t *t, task_t *leader) noexcept nogil:
    """Remove a task from its process's threads (``__unhash_process``); whether it was the last."""
    cdef uint32_t i = <uint32_t> (t - task_of(m, 0))
    cdef uint32_t *link = &leader.threads
    cdef bint last
    pmg_spin_lock(&m.pid_lock)
    if t != leader:
        while link[0] != i:
            link = &task_of(m, link[0]).thread_next
        link[0] = t.thread_next
    leader.live -= 1
    last = leader.live == 0
    pmg_spin_unlock(&m.pid_lock)
    return last


cdef bint exit_notify(machine_t *m, task_t *t, task_t *leader, bint zombie) noexcept nogil:
    """Make an exited task a zombie; whether its process is over and no parent waits for it.

    Under pid_lock, the last thread sees what the leader has stored or the leader sees that it is last, so at least one of
    them gets True; release_task reaps once.
    """
    cdef bint over
    pmg_spin_lock(&m.pid_lock)
    if t == leader:
        t.autoreap = not zombie
    pmg_store32_rel(&t.state, TASK_ZOMBIE)
    over = leader.live == 0 and leader.autoreap and pmg_load32(&leader.state) == TASK_ZOMBIE
    pmg_spin_unlock(&m.pid_lock)
    return over


cdef void drop_pins(ctx_t *c, task_t *leader) noexcept nogil:
    cdef vec_t pins
    cdef uint32_t i
    pmg_spin_lock(&leader.alloc_lock)
    pins = leader.pins
    leader.pins.off = 0
    leader.pins.n = 0
    leader.pins.cap = 0
    pmg_spin_unlock(&leader.alloc_lock)
    for i in range(pins.n):
        pin_put(c, vec_at(c.m, &pins)[i], False)
    vec_free(c.m, &pins)


cdef void do_exit(ctx_t *c, task_t *t, bint zombie, bint oom) noexcept nogil:
    """End one task, exactly once even if several host threads try; other calls under way keep the address space alive.

    A thread disappears at once.  The leader stays a zombie until the last thread has exited, and with ``zombie`` until its
    parent reaps it.
    """
    cdef machine_t *m = c.m
    cdef task_t *leader = task_of(m, t.leader)
    cdef uint32_t mm
    if not pmg_cas32(&t.state, TASK_RUNNING, TASK_EXITING):
        return
    pmg_add32(&leader.users, 1)             # it outlives t, and with this reference the present call
    count_event(c, C_OOM_KILL, oom)
    mm = pmg_load32(&t.mm)
    pmg_store32_rel(&t.mm, 0)
    mmput(c, mm)
    if leaves_group(m, t, leader):
        drop_pins(c, leader)
    zombie = exit_notify(m, t, leader, zombie)
    if t != leader:
        release_task(c, t)
    if zombie:
        release_task(c, leader)
    put_task(m, <uint32_t> (leader - task_of(m, 0)))


cdef task_t *other_thread(machine_t *m, task_t *leader, task_t *but) noexcept nogil:
    """Get a running thread other than the leader and ``but``, referenced until put_task (``zap_other_threads``); NULL: none."""
    cdef task_t *t = NULL
    cdef uint32_t i
    pmg_spin_lock(&m.pid_lock)
    leader.group_exit = 1
    i = leader.threads
    while i and (task_of(m, i) == but or pmg_load32(&task_of(m, i).state) != TASK_RUNNING):
        i = task_of(m, i).thread_next
    if i:
        t = task_of(m, i)
        pmg_add32(&t.users, 1)              # not from 0: it has one while it is on the list
    pmg_spin_unlock(&m.pid_lock)
    return t


cdef void do_group_exit(ctx_t *c, task_t *t, bint zombie, bint oom) noexcept nogil:
    cdef machine_t *m = c.m
    cdef task_t *leader = task_of(m, t.leader)
    cdef task_t *other
    cdef uint32_t i = t.leader
    if get_task(m, i, pmg_load32(&leader.pid)) == NULL:
        return
    other = other_thread(m, leader, t)
    while other != NULL:
        do_exit(c, other, True, False)
        put_task(m, <uint32_t> (other - task_of(m, 0)))
        other = other_thread(m, leader, t)
    if t != leader:
        do_exit(c, leader, zombie, False)
    do_exit(c, t, zombie, oom)
    put_task(m, i)


cdef int pmg_sys_exit(ctx_t *c, task_t *t, bint zombie, bint alone) noexcept nogil:
    cdef uint32_t leaving
    if c.signal_fn != NULL:
        leaving = tasks_leaving(c.m, t, alone)
        if unmap_before_exit(c, t, leaving) or unpin_before_exit(c, task_of(c.m, t.leader), leaving):
            return -PMG_WAIT
    if alone:
        do_exit(c, t, zombie, False)
    else:
        do_group_exit(c, t, zombie, False)
    return 0


cdef void release_task(ctx_t *c, task_t *t) noexcept nogil:
    """Reap a zombie: unhash its pid; calls under way keep its record.  A leader with live threads is left alone."""
    cdef machine_t *m = c.m
    cdef bint over
    while pmg_load32(&t.state) == TASK_EXITING:
        pmg_yield()
    pmg_spin_lock(&m.pid_lock)
    over = (task_of(m, t.leader) != t or t.live == 0) and pmg_cas32(&t.state, TASK_ZOMBIE, TASK_FREE)
    pmg_spin_unlock(&m.pid_lock)
    if over:
        detach_pid(m, <uint32_t> (t - task_of(m, 0)))
        put_task(m, <uint32_t> (t - task_of(m, 0)))


# -- pages pinned through open files ---------------------------------------------------------------------------


cdef int pin_hold(machine_t *m, task_t *caller, uint32_t i) noexcept nogil:
    """Add an open file to the process, unless it has exited meanwhile."""
    cdef task_t *t = task_of(m, caller.leader)
    cdef int err = -ENOMEM
    pmg_spin_lock(&t.alloc_lock)
    if t.live:
        err = vec_insert(m, &t.pins, t.pins.n, i)
    pmg_spin_unlock(&t.alloc_lock)
    return err


cdef int64_t pin_fill(ctx_t *c, task_t *t, uint64_t vpn, uint64_t n, uint32_t i) noexcept nogil:
    cdef machine_t *m = c.m
    cdef pin_t *pin = pin_of(m, i)
    cdef int64_t got
    if vec_resize(m, &pin.pages, n):
        return -ENOMEM
    if mmap_read_lock(c, c.mm):
        return -PMG_WAIT
    # The device writes to registered buffers; a pipe only reads its pages.
    got = pin_user_pages(c, mm_of(m, c.mm), vpn, n, pin.longterm != 0, pin.longterm != 0, vec_at(m, &pin.pages))
    mmap_read_unlock(c, c.mm)
    if got < 0 or (got == 0 and pin.longterm):
        return got if got else -EFAULT      # a pipe may get no page, registered buffers may not
    pin.pages.n = <uint32_t> got
    pin.refs = 1
    if pin_hold(m, t, i):
        pin.refs = 0
        unpin_pages(c, vec_at(m, &pin.pages), pin.pages.n, pin.longterm)
        return -ENOMEM
    return got


cdef int64_t pmg_sys_pin(
        ctx_t *c, uint64_t addr, uint64_t n, bint longterm, uint32_t *pin, uint32_t *rule) noexcept nogil:
    """Pin ``n`` pages from ``addr`` (bytes) on; ``*pin`` names the file that holds them."""
    cdef machine_t *m = c.m
    cdef uint32_t i
    cdef int64_t got
    if longterm and not m.profile.call_mask & CALL_IO_URING:
        return refuse(ENOSYS, RULE_CALL, rule)
    i = slab_alloc(&m.pins)
    if not i:
        return -ENOMEM
    pin_of(m, i).longterm = longterm
    got = pin_fill(c, task_of(m, c.task), addr >> 12, n, i)
    if got < 0:
        vec_free(m, &pin_of(m, i).pages)
        slab_free(&m.pins, i)
        return got
    pin[0] = i
    return 0 if longterm else got


cdef int64_t pmg_sys_unpin(ctx_t *c, uint32_t pin, uint32_t *rule) noexcept nogil:
    """Close the process's file; the pages stay pinned while another process has it open."""
    cdef int err
    if not pin_close(c, task_of(c.m, task_of(c.m, c.task).leader), pin, &err):
        return refuse(EBADF, RULE_PIN, rule)
    return err
