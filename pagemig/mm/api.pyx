"""The table of functions for other simulators (pagemig/api.h), implemented with the calls of the other modules.

A context of the table holds its process, its address space and a context of the core from ctx_open or ctx_bind until
ctx_close, so that a call has nothing to look up.
"""
from libc.errno cimport EBADF, EFAULT, EINVAL, EIO, ENOENT, ENOMEM, ESRCH
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strcmp, strncpy

from pagemig.mm.access cimport access_one, access_seen, seen_t, touch_range, touch_t
from pagemig.mm.atomic cimport pmg_cas, pmg_cas32, pmg_likely, pmg_load, pmg_load32, pmg_store32, pmg_store32_rel
from pagemig.mm.build cimport build_arenas, build_nodes, build_swap, node_spec_t, scatter
from pagemig.mm.calls cimport (
    migrate_frames, pmg_sys_get_mempolicy, pmg_sys_mbind, pmg_sys_migrate_pages, pmg_sys_move_pages,
    pmg_sys_set_mempolicy, pmg_sys_set_mempolicy_home_node,
)
from pagemig.mm.check cimport check_machine, checker_release, checker_t, violation_t
from pagemig.mm.context cimport (
    all_vm_events, ctx_bind as ctx_on_cpu, ctx_get, ctx_put, ctx_release_all, switch_mm, vm_events_hand,
    wait_may_be_over,
)
from pagemig.mm.cred cimport pmg_sys_setuid
from pagemig.mm.filemap cimport file_new, file_put
from pagemig.mm.fork cimport (
    do_exit, do_group_exit, find_get_task_by_vpid, get_task_mm, mmput, pmg_sys_clone_thread, pmg_sys_fork,
    pmg_sys_pin, pmg_sys_unpin, put_task, task_new,
)
from pagemig.mm.memory_hotplug cimport online_node
from pagemig.mm.mig cimport (
    mig_abort, mig_at, mig_begin, mig_facts, mig_facts_t, mig_finish, MIG_FRAMES, mig_free, MIG_FTRUNCATE, mig_here,
    mig_let, MIG_LOOKS, MIG_MADVISE, MIG_MBIND, MIG_MIGRATE_PAGES, MIG_MLOCK, MIG_MLOCKALL, MIG_MMAP, MIG_MOVE_PAGES,
    MIG_MPROTECT, MIG_MREMAP, MIG_OFFLINE, mig_owned, MIG_PIN, mig_publish, MIG_PUNCH, mig_release_all, mig_same,
    mig_status, mig_step, MIG_SWAPOFF, mig_t, mig_user, migs_on_their_way, MIG_WAITS,
)
from pagemig.mm.migrate_stage cimport PAUSE_UNMAPPED
from pagemig.mm.mlock cimport pmg_sys_munlock, pmg_sys_munlockall
from pagemig.mm.mmap cimport pmg_sys_munmap
from pagemig.mm.notify cimport (
    call_refused, callbacks_release, EDEADLK, pmg_callbacks, pmg_ctx, PMG_EHOOK, set_callbacks, watch_t,
)
from pagemig.mm.page_alloc cimport arenas_release, file_of, mm_of, page_to_nid
from pagemig.mm.pgtable cimport entry_table, leaf_pte, level_shift, pte_index, table_entries, walk_leaf
from pagemig.mm.pte cimport (
    is_migration_entry, migration_entry_to_pfn, PTE_A, PTE_D, pte_pfn, pte_present, PTE_RW, pte_t,
)
from pagemig.mm.state cimport state_copy, state_load, state_problem, state_save
from pagemig.mm.swapfile cimport pmg_sys_swapon
from pagemig.mm.types cimport (
    C_LOCK_ANON_VMA, C_LOCK_I_MMAP, C_LOCK_PAGE, C_LOCK_PTL, C_MIGRATION_WAIT, C_PGALLOC, C_PGFAULT,
    C_PGMAJFAULT, C_PGMIGRATE_FAIL, C_PGMIGRATE_SUCCESS, C_PTES_DROPPED, C_PTES_RESTORED, ctx_t, FILE_MINIX, FILE_SHMEM,
    machine_t, MAX_INDEX_PAGES,
    MAX_NODES, MODE_ACTORS, MODE_HOST, MODE_THREADS, NR_COUNTERS, profile_t, STAGE, stop_t, TASK_SIZE_PAGES, task_t,
)
from pagemig.mm.uaccess cimport PMG_BAD, pmg_user_t

# -- contexts --------------------------------------------------------------------------------------------------


cdef enum:
    LEVELS = 4                      # of page tables
    WAITS = 512                     # PMG_WAIT of the header without its sign: the core uses that name itself
    READ_AHEAD = 32                 # pages, the default of Machine.file
    MASK_BYTES = 4096               # the largest node mask

cdef struct host_ctx_t:             # pmg_ctx
    ctx_t *c                        # the core's; carries task and mm
    task_t *t                       # NULL: no process
    uint32_t *pinned                # receives the handle of a call that pins, during that call
    mig_t *call                     # the call that waits, until the caller repeats it; NULL: none; nowhere: one runs
    uint64_t taken[64]              # the context's counters at the last cost_take
    watch_t watch                   # its callbacks and further counts


cdef mig_t nowhere                  # stands for the call of a context while it runs


cdef inline host_ctx_t *host(const pmg_ctx *c) noexcept nogil:
    return <host_ctx_t *> <void *> c


cdef inline machine_t *core(const pmg_machine *m) noexcept nogil:
    return <machine_t *> <void *> m


cdef inline task_t *task_behind(machine_t *m, pmg_task task) noexcept nogil:
    """Get the process with a pid, referenced until put_task; NULL when there is none, or it was reaped."""
    return find_get_task_by_vpid(m, <uint32_t> task) if task >> 32 == 0 else NULL


cdef inline uint32_t task_index(machine_t *m, task_t *t) noexcept nogil:
    return <uint32_t> (t - <task_t *> m.tasks.base)


cdef inline bint lacks_mm(host_ctx_t *h) noexcept nogil:
    return not h.c.mm


cdef inline int may_go_on(host_ctx_t *h) noexcept nogil:
    """Check whether a call may run: -EDEADLK in a callback that forbids it, -ESRCH without a process, else 0."""
    if call_refused(h.c.m, <pmg_ctx *> <void *> h):
        return -EDEADLK
    return -ESRCH if lacks_mm(h) else 0


cdef inline int refused(host_ctx_t *h) noexcept nogil:
    """may_go_on() for a call that cannot be resumed: PMG_EBUSYCTX while another call of the context waits or runs."""
    cdef int no = may_go_on(h)
    return PMG_EBUSYCTX if no == 0 and h.call != NULL else no


cdef inline int refused_to_any(host_ctx_t *h) noexcept nogil:
    """refused() for a call that needs no process."""
    if call_refused(h.c.m, <pmg_ctx *> <void *> h):
        return -EDEADLK
    return PMG_EBUSYCTX if h.call != NULL else 0


cdef inline int64_t answered(host_ctx_t *h, int64_t rc) noexcept nogil:
    """Finish a call: an error of a callback overrides its result."""
    if pmg_likely(not h.c.hook_error):
        return rc
    h.c.hook_error = h.c.abort = 0
    return PMG_EHOOK


cdef inline int begun(host_ctx_t *h, int no) noexcept nogil:
    """Begin a call on the thread's own stack, unless it is refused: until ended(), other calls see that it runs."""
    if no == 0:
        h.call = &nowhere
        h.c.nested_deadline = 0
        pmg_store32(&h.c.inside, 1)
    return no


cdef inline void left(host_ctx_t *h) noexcept nogil:
    pmg_store32_rel(&h.c.inside, 0)
    h.call = NULL


cdef inline int64_t ended(host_ctx_t *h, int64_t rc) noexcept nogil:
    left(h)
    return answered(h, rc)


cdef inline bint owns_time(const host_ctx_t *h) noexcept nogil:
    return h.c.wait_mode == MODE_HOST


cdef void unbind(host_ctx_t *h) noexcept nogil:
    cdef ctx_t *c = h.c
    if c.mm:
        mmput(c, c.mm)
    if c.task:
        put_task(c.m, c.task)
    c.mm = c.task = 0
    h.t = NULL


cdef int ctx_bind(pmg_ctx *ctx, pmg_task task, uint32_t cpu) noexcept nogil:
    """Bind the context to a calling process and a processor."""
    cdef host_ctx_t *h = host(ctx)
    cdef machine_t *m = h.c.m
    cdef task_t *t = NULL
    if cpu >= m.nr_cpus:
        return -EINVAL
    if call_refused(m, ctx):
        return -EDEADLK
    if h.call != NULL:
        return PMG_EBUSYCTX
    if task:
        t = task_behind(m, task)
        if t == NULL:
            return -ESRCH
    begun(h, 0)
    unbind(h)
    ended(h, 0)
    ctx_on_cpu(h.c, cpu)
    if t != NULL:
        h.t = t
        h.c.task = task_index(m, t)
        h.c.mm = get_task_mm(h.c, t)
        if not h.c.mm:
            unbind(h)
            return -ESRCH
        switch_mm(h.c)
    return 0


cdef int ctx_open(pmg_machine *machine, pmg_task task, uint32_t cpu, uint32_t owns_time, pmg_ctx **out) noexcept nogil:
    cdef machine_t *m = core(machine)
    cdef host_ctx_t *h
    cdef int rc
    if out == NULL:
        return -EFAULT
    out[0] = NULL
    h = <host_ctx_t *> calloc(1, sizeof(host_ctx_t))
    if h == NULL:
        return -ENOMEM
    if call_refused(m, NULL):
        free(h)
        return -EDEADLK
    h.c = ctx_get(m)
    if h.c == NULL:
        free(h)
        return -ENOMEM
    h.watch.host = <pmg_ctx *> <void *> h
    h.c.mm = 0
    h.c.watch = &h.watch
    h.c.wait_fn = NULL
    h.c.data = NULL
    h.c.wait_mode = MODE_HOST if owns_time else MODE_THREADS
    pmg_store32(&h.c.held, 1)
    rc = ctx_bind(<pmg_ctx *> <void *> h, task, cpu)
    if rc:
        pmg_store32(&h.c.held, 0)
        ctx_put(h.c)
        free(h)
        return rc
    memcpy(h.taken, h.c.count, NR_COUNTERS * 8)
    out[0] = <pmg_ctx *> <void *> h
    return 0


cdef void ctx_waits_by(
        pmg_ctx *ctx, int (*wait_fn)(ctx_t *c, int what, uint32_t which) noexcept nogil, void *data) noexcept nogil:
    cdef ctx_t *c = host(ctx).c
    c.wait_mode = MODE_ACTORS
    c.wait_fn = wait_fn
    c.data = data


cdef void ctx_close(pmg_ctx *ctx) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    if h == NULL or h.call == &nowhere:         # a hook of its own call would close it
        return
    if h.call != NULL:
        mig_free(h.call)
    begun(h, 0)
    unbind(h)
    ended(h, 0)
    pmg_store32(&h.c.held, 0)
    ctx_put(h.c)
    free(h)


cdef int ctx_wait(const pmg_ctx *ctx, uint32_t *what, uint32_t *which) noexcept nogil:
    """Say what the call that returned PMG_WAIT waits for: 1 if that may be over."""
    cdef ctx_t *c = host(ctx).c
    if what == NULL or which == NULL:
        return -EFAULT
    what[0] = c.wait_what
    which[0] = c.wait_which
    return wait_may_be_over(c)


cdef inline uint64_t since(host_ctx_t *h, int counter) noexcept nogil:
    cdef uint64_t now = h.c.count[counter], n = now - h.taken[counter]
    h.taken[counter] = now
    return n


cdef int cost_take(pmg_ctx *ctx, pmg_cost *out) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef pmg_cost k
    if out == NULL:
        return -EFAULT
    if out.size < 8:
        return PMG_EABI
    memset(&k, 0, sizeof(k))
    k.size = min(out.size, <uint32_t> sizeof(k))
    k.faults_minor = since(h, C_PGFAULT)
    k.faults_major = since(h, C_PGMAJFAULT)
    k.faults_minor -= min(k.faults_minor, k.faults_major)
    k.pages_allocated = since(h, C_PGALLOC)
    k.pages_migrated = since(h, C_PGMIGRATE_SUCCESS)
    k.pages_copied = h.watch.pages_copied
    k.copy_bytes = k.pages_copied * 4096
    k.pages_failed = since(h, C_PGMIGRATE_FAIL)
    k.entries_removed = since(h, C_PTES_DROPPED)
    k.entries_restored = since(h, C_PTES_RESTORED)
    k.flushes = h.watch.flushes
    k.flushed_pages = h.watch.flushed_pages
    k.ipis = h.watch.ipis
    memcpy(k.bytes_from, h.watch.bytes_from, sizeof(k.bytes_from))
    memcpy(k.bytes_to, h.watch.bytes_to, sizeof(k.bytes_to))
    k.page_locks = since(h, C_LOCK_PAGE)
    k.ptl_locks = since(h, C_LOCK_PTL)
    k.anon_vma_locks = since(h, C_LOCK_ANON_VMA)
    k.i_mmap_locks = since(h, C_LOCK_I_MMAP)
    k.migration_waits = since(h, C_MIGRATION_WAIT)
    memcpy(out, &k, k.size)
    memset(&h.watch, 0, sizeof(watch_t))
    h.watch.host = ctx
    return 0


# -- machines --------------------------------------------------------------------------------------------------


cdef struct kernel_t:
    char name[32]
    profile_t profile

cdef enum:
    MAX_KERNELS = 32

cdef kernel_t kernels[MAX_KERNELS]      # written at import, read afterwards
cdef uint32_t nr_kernels = 0
cdef const char *counter_names[64]


cdef bint register_kernel(const char *name, const profile_t *profile) noexcept nogil:
    global nr_kernels
    if nr_kernels == MAX_KERNELS:
        return False
    strncpy(kernels[nr_kernels].name, name, 31)
    kernels[nr_kernels].profile = profile[0]
    nr_kernels += 1
    return True


cdef void register_counter(uint32_t i, const char *name) noexcept nogil:
    counter_names[i] = name


cdef const profile_t *kernel_named(const char *name) noexcept nogil:
    cdef uint32_t i
    for i in range(nr_kernels):
        if name != NULL and strcmp(kernels[i].name, name) == 0:
            return &kernels[i].profile
    return NULL


cdef bint spec_is_sound(const pmg_spec *s) noexcept nogil:
    cdef uint64_t pages = 0, cpus = 0
    cdef uint32_t i
    if not 1 <= s.nr_nodes <= MAX_NODES or s.nodes == NULL or s.page_bytes not in (0, 8, 4096):
        return False
    for i in range(s.nr_nodes):
        if s.nodes[i].pages >= 1ull << 32 or s.nodes[i].reserved > s.nodes[i].pages or s.nodes[i].weight > 255 or \
                s.nodes[i].cpus > 4096:
            return False
        pages += s.nodes[i].pages
        cpus += s.nodes[i].cpus
    return 0 < pages < (1ull << 32) - 4096 and 0 < cpus <= 4096


cdef int build(machine_t *m, const pmg_spec *s) noexcept nogil:
    cdef node_spec_t nodes[64]
    cdef uint8_t far[64 * 64]
    cdef uint32_t i, k, n = s.nr_nodes
    for i in range(n):
        nodes[i].pages = s.nodes[i].pages
        nodes[i].reserved = s.nodes[i].reserved
        nodes[i].cpus = s.nodes[i].cpus
        nodes[i].watermark = 0
        nodes[i].weight = s.nodes[i].weight if s.nodes[i].weight else 1
        for k in range(n):
            far[i * n + k] = s.distances[i * n + k] if s.distances != NULL else (10 if i == k else 20)
    if build_nodes(m, nodes, n, far) or build_arenas(m) or build_swap(m, NULL, 0):
        return -ENOMEM
    if s.scatter:
        scatter(m, s.scatter, NULL, NULL)
    return 0


cdef int machine_new(const pmg_spec *spec, pmg_machine **out) noexcept nogil:
    cdef machine_t *m
    cdef const profile_t *profile
    if out == NULL or spec == NULL:
        return -EFAULT
    out[0] = NULL
    if spec.size < sizeof(pmg_spec):
        return PMG_EABI
    profile = kernel_named(spec.kernel)
    if profile == NULL:
        return -ENOENT
    if not spec_is_sound(spec):
        return -EINVAL
    m = <machine_t *> calloc(1, sizeof(machine_t))
    if m == NULL:
        return -ENOMEM
    m.profile = profile[0]
    m.page_bytes = spec.page_bytes
    m.access_stats = spec.access_stats != 0
    m.width = STAGE
    m.next_pid = 1000
    m.next_ino = 1
    m.next_ops = 1
    if build(m, spec):
        arenas_release(m)
        free(m)
        return -ENOMEM
    out[0] = <pmg_machine *> <void *> m
    return 0


cdef int machine_free(pmg_machine *machine) noexcept nogil:
    cdef machine_t *m = core(machine)
    if m == NULL:
        return 0
    if pmg_load32(&m.ctx_busy):
        return PMG_EBUSYCTX
    ctx_release_all(m)
    mig_release_all(m)
    callbacks_release(m)
    arenas_release(m)
    free(m)
    return 0


cdef int machine_info(const pmg_machine *machine, pmg_info *out) noexcept nogil:
    cdef machine_t *m = core(machine)
    cdef pmg_info i
    if out == NULL:
        return -EFAULT
    memset(&i, 0, sizeof(i))
    i.size = min(out.size, <uint32_t> sizeof(i))
    if i.size < 4:
        return PMG_EABI
    i.nr_nodes = m.nr_nodes
    i.nr_cpus = m.nr_cpus
    i.page_bytes = m.page_bytes
    i.nr_frames = m.nr_frames
    i.table_pfn = m.table_pfn
    i.frames = m.frames
    i.tables = m.pt
    i.max_tables = m.tables.max
    memcpy(out, &i, i.size)
    return 0


cdef int check(pmg_machine *machine, uint32_t full, char *text, size_t n) noexcept nogil:
    cdef violation_t v
    cdef checker_t k
    cdef int rule
    if call_refused(core(machine), NULL):
        return -EDEADLK
    memset(&k, 0, sizeof(k))
    rule = check_machine(core(machine), &k, full != 0, NULL, NULL, NULL, &v)
    checker_release(&k)
    if rule < 0:
        return rule
    if rule and text != NULL and n:
        snprintf(text, n, b"rule %d: expected %lld, found %lld (frame %lld, page %lld)", rule, <long long> v.expected,
                 <long long> v.found, <long long> v.pfn, <long long> v.vpn)
    return rule != 0


cdef int counters(const pmg_machine *machine, uint64_t *out, uint32_t n) noexcept nogil:
    """Copy the counters, summed over all processors."""
    cdef uint64_t all_counts[64]
    all_vm_events(core(machine), all_counts)
    memcpy(out, all_counts, min(n, <uint32_t> NR_COUNTERS) * 8)
    return NR_COUNTERS


cdef const char *counter_name(uint32_t i) noexcept nogil:
    return counter_names[i] if i < NR_COUNTERS else NULL


# -- processes and mappings ------------------------------------------------------------------------------------


cdef int64_t spawn(pmg_ctx *ctx, uint32_t cpu, uint32_t uid) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused_to_any(h))
    cdef int64_t pid = -EINVAL
    if no:
        return no
    if cpu < h.c.m.nr_cpus:
        pid = task_new(h.c, cpu, uid)
    return ended(h, pid if pid else -ENOMEM)


cdef int64_t fork(pmg_ctx *ctx) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    if no:
        return no
    return ended(h, pmg_sys_fork(h.c))


cdef int64_t clone_thread(pmg_ctx *ctx, uint32_t cpu) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    if no:
        return no
    return ended(h, pmg_sys_clone_thread(h.c, cpu) if cpu < h.c.m.nr_cpus else -EINVAL)


cdef int exit_thread(pmg_ctx *ctx) noexcept nogil:
    """Exit the context's task alone, without a zombie; the last task ends the process."""
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    if no:
        return no
    do_exit(h.c, h.t, False, False)
    unbind(h)
    return <int> ended(h, 0)


cdef int exit_(pmg_ctx *ctx) noexcept nogil:
    """Exit the process with all its threads, without a zombie: its handle gives ESRCH from now on."""
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    if no:
        return no
    do_group_exit(h.c, h.t, False, False)
    unbind(h)
    return <int> ended(h, 0)


# A context that owns time never waits: a call that would wait stays suspended on a fiber, and the repeated call resumes it.
# Calls that can only wait before their first change simply start over.


cdef bint goes_on(host_ctx_t *h, uint32_t kind, int64_t *rc) noexcept nogil:
    """Resume the context's suspended call of this kind, or begin one; False: ``*rc`` is the result."""
    cdef int error = 0
    rc[0] = PMG_EBUSYCTX
    if h.call != NULL:
        return h.call.kind == kind
    h.call = mig_begin(h.c.m, h.t.pid if h.t != NULL else 0, h.c.cpu, kind, False, &error)
    rc[0] = error
    return h.call != NULL


cdef inline bint here(host_ctx_t *h) noexcept nogil:
    """Begin a call that may wait in a context that does not own time; False: a hook of its call makes it."""
    return h.call == NULL and begun(h, 0) == 0


cdef inline bint begins(const mig_t *g) noexcept nogil:
    """Whether a call has not started, so that its arguments are still to be stored."""
    return g.at == 0


cdef int64_t go_on(host_ctx_t *h, const pmg_user *status, uint32_t *rule) noexcept nogil:
    """Run the context's call until it ends or waits: its result, or PMG_WAIT."""
    cdef mig_t *g = h.call
    cdef int64_t rc
    cdef int at
    g.c.watch = &h.watch
    h.call = &nowhere
    at = mig_step(g, False)         # needs no mig_owned: only this context knows it
    h.call = g
    g.c.watch = NULL
    vm_events_hand(g.c, h.c)
    if at == MIG_WAITS:
        h.c.wait_what = g.c.wait_what
        h.c.wait_which = g.c.wait_which
        return -WAITS
    rc = g.rc
    if status != NULL and g.u[2].p != NULL and g.u[2].p != PMG_BAD and status.p != NULL and status.p != PMG_BAD:
        memcpy(status.p, g.u[2].p, min(g.u[2].bytes, status.bytes))
    if rule != NULL and g.rule:
        rule[0] = g.rule
    if g.kind == MIG_PIN and rc >= 0:
        h.pinned[0] = g.pin
    mig_free(g)
    h.call = NULL
    return rc


cdef inline bint number(mig_t *g, uint32_t i, uint64_t value) noexcept nogil:
    """Store argument ``i``, or compare it with the suspended call's; False: they differ."""
    if begins(g):
        g.a[i] = value
    return g.a[i] == value


cdef int64_t numbers_call(
        pmg_ctx *ctx, bint needs_mm, uint32_t kind, uint64_t a, uint64_t b, uint64_t d, uint64_t e, uint64_t f,
        uint64_t g) noexcept nogil:
    """Make a call that may wait and whose arguments are numbers; a context that owns time resumes it."""
    cdef host_ctx_t *h = host(ctx)
    cdef uint64_t args[6]
    cdef int64_t rc = may_go_on(h)
    cdef uint32_t i
    if rc == -EDEADLK or (rc and needs_mm):
        return rc
    args[0] = a
    args[1] = b
    args[2] = d
    args[3] = e
    args[4] = f
    args[5] = g
    if not owns_time(h):
        return ended(h, mig_here(h.c, kind, args)) if here(h) else PMG_EBUSYCTX
    if not goes_on(h, kind, &rc):
        return rc
    for i in range(6):
        if not number(h.call, i, args[i]):
            return PMG_EBUSYCTX
    return go_on(h, NULL, NULL)


cdef int64_t give_up(host_ctx_t *h, int64_t error) noexcept nogil:
    """Fail with an error of the arguments: -ENOMEM ends the call; if they differ, the suspended call stays as it is."""
    if error == -ENOMEM:
        h.call.fiber.done = 1
        mig_free(h.call)
        h.call = NULL
    return error


cdef inline bint file_exists(machine_t *m, uint32_t file) noexcept nogil:
    return 0 < file < pmg_load32(&m.files.fresh) and pmg_load32(&file_of(m, file).refs) != 0


cdef inline bint lacks_file(const host_ctx_t *h, uint32_t file) noexcept nogil:
    """Whether a call begins with a file that does not exist; one that goes on has a reference on its file."""
    return h.call == NULL and not file_exists(h.c.m, file)


cdef int64_t mmap(
        pmg_ctx *ctx, uint64_t va, uint64_t length, uint32_t prot, uint32_t flags, uint32_t file,
        uint64_t off) noexcept nogil:
    cdef int no = may_go_on(host(ctx))
    if no == 0 and file and lacks_file(host(ctx), file):
        return -EBADF
    return numbers_call(ctx, True, MIG_MMAP, va, length, prot, flags, file, off)


cdef int munmap(pmg_ctx *ctx, uint64_t va, uint64_t length) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    return no if no else <int> ended(h, pmg_sys_munmap(h.c, va, length, NULL))


cdef int mprotect(pmg_ctx *ctx, uint64_t va, uint64_t length, uint32_t prot) noexcept nogil:
    return <int> numbers_call(ctx, True, MIG_MPROTECT, va, length, prot, 0, 0, 0)


cdef int64_t mremap(
        pmg_ctx *ctx, uint64_t va, uint64_t length, uint64_t new_length, uint32_t flags, uint64_t new_va) noexcept nogil:
    return numbers_call(ctx, True, MIG_MREMAP, va, length, new_length, flags, new_va, 0)


cdef int madvise(pmg_ctx *ctx, uint64_t va, uint64_t length, int advice) noexcept nogil:
    return <int> numbers_call(ctx, True, MIG_MADVISE, va, length, <uint64_t> <int64_t> advice, 0, 0, 0)


cdef int mlock(pmg_ctx *ctx, uint64_t va, uint64_t length, uint32_t flags) noexcept nogil:
    return <int> numbers_call(ctx, True, MIG_MLOCK, va, length, flags, 0, 0, 0)


cdef int munlock(pmg_ctx *ctx, uint64_t va, uint64_t length) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    return no if no else <int> ended(h, pmg_sys_munlock(h.c, va, length, NULL))


# -- addresses -------------------------------------------------------------------------------------------------


cdef inline void outcome(machine_t *m, pmg_outcome *o, uint8_t kind, uint64_t va, pte_t pte) noexcept nogil:
    o.kind = kind
    o.levels = 4
    o.signal = 0
    o.faults = 0
    o.wait_what = 0
    o.wait_which = 0
    o.pte = pte
    if pte_present(pte):
        o.pa = pte_pfn(pte) << 12 | (va & 4095)
        o.node = page_to_nid(m, <uint32_t> pte_pfn(pte))
    else:
        o.pa = 0
        o.node = -1


cdef uint32_t levels_of(machine_t *m, uint32_t pgd, uint64_t vpn) noexcept nogil:
    """Count the levels that a walker reads before it finds a hole or the entry."""
    cdef uint32_t t = pgd, level
    for level in range(LEVELS, 1, -1):
        t = entry_table(m, pmg_load(table_entries(m, t) + pte_index(vpn >> level_shift(level))))
        if not t:
            return LEVELS + 1 - level
    return LEVELS


cdef int translate(pmg_ctx *ctx, uint64_t va, pmg_outcome *o) noexcept nogil:
    """Walk to an address and change nothing.  Kinds: HIT, WAIT on a migration entry, else FAULT."""
    cdef host_ctx_t *h = host(ctx)
    cdef machine_t *m = h.c.m
    cdef uint64_t vpn = va >> 12
    cdef uint32_t leaf, pgd
    cdef pte_t pte
    if o == NULL:
        return -EFAULT
    if lacks_mm(h):
        return -ESRCH
    pgd = mm_of(m, h.c.mm).pgd
    leaf = walk_leaf(m, pgd, vpn) if vpn < TASK_SIZE_PAGES else 0
    pte = pmg_load(leaf_pte(m, leaf, vpn)) if leaf else 0
    outcome(m, o, PMG_K_HIT if pte_present(pte) else PMG_K_FAULT, va, pte)
    if not leaf:
        o.levels = <uint8_t> (levels_of(m, pgd, vpn) if vpn < TASK_SIZE_PAGES else 0)
    elif is_migration_entry(pte):
        o.kind = PMG_K_WAIT
        o.wait_what = PMG_W_PAGE
        o.wait_which = migration_entry_to_pfn(pte)
    return o.kind


cdef void stopped(host_ctx_t *h, pmg_outcome *o, uint64_t va, const touch_t *r) noexcept nogil:
    """Describe an access that did not happen: it gets a signal, or waits."""
    cdef machine_t *m = h.c.m
    cdef uint64_t vpn = va >> 12
    cdef uint32_t leaf = walk_leaf(m, mm_of(m, h.c.mm).pgd, vpn) if vpn < TASK_SIZE_PAGES else 0
    outcome(m, o, PMG_K_SIGNAL if r.signal else PMG_K_WAIT, va, pmg_load(leaf_pte(m, leaf, vpn)) if leaf else 0)
    o.signal = <uint8_t> r.signal
    if not r.signal:
        o.wait_what = h.c.wait_what
        o.wait_which = h.c.wait_which


cdef inline int access_with(host_ctx_t *h, uint64_t va, uint32_t how, pmg_outcome *o) noexcept nogil:
    cdef ctx_t *c = h.c
    cdef touch_t r
    cdef pte_t pte
    if c.wait_mode == MODE_HOST:
        pte = access_one(c, h.t, va, (how & PMG_WRITE) != 0, &r)
    else:
        begun(h, 0)
        touch_range(c, h.t, va >> 12, 1, (how & PMG_WRITE) != 0, NULL, NULL, &r)
        left(h)             # what a callback returned is answered below
        pte = 0
        if r.done:
            translate(<pmg_ctx *> <void *> h, va, o)
            pte = o.pte
    if not r.done:
        stopped(h, o, va, &r)
        return <int> answered(h, o.kind)
    outcome(c.m, o, PMG_K_MAJOR if r.majflt else PMG_K_MINOR if r.minflt else PMG_K_HIT, va, pte)
    o.faults = <uint8_t> (r.minflt + r.majflt)
    return o.kind if pmg_likely(o.faults == 0) else <int> answered(h, o.kind)


cdef int access(pmg_ctx *ctx, uint64_t va, uint32_t how, pmg_outcome *o) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = refused(h)
    cdef int kind
    if no:
        return no
    if o == NULL:
        return -EFAULT
    if how & (PMG_NOFAULT | PMG_NOSET):
        kind = translate(ctx, va, o)
        if kind == PMG_K_HIT and how & PMG_WRITE and not o.pte & PTE_RW:
            kind = PMG_K_FAULT
            o.kind = PMG_K_FAULT
        if kind != PMG_K_HIT and not how & PMG_NOFAULT:
            kind = access_with(h, va, how, o)
        elif kind == PMG_K_HIT and not how & PMG_NOSET:
            kind = access_with(h, va, how, o)
        return kind
    return access_with(h, va, how, o)


cdef uint64_t access_packed(pmg_ctx *ctx, uint64_t va, uint32_t how) noexcept nogil:
    cdef pmg_outcome o
    cdef int kind = access(ctx, va, how, &o)
    if kind < 0:
        return 0xff00u | PMG_K_FAULT
    return (o.pa >> 12) << 16 | <uint64_t> (<uint8_t> o.node) << 8 | <uint64_t> kind


cdef int64_t access_many(
        pmg_ctx *ctx, const uint64_t *va, const uint8_t *write, uint64_t n, int8_t *node, uint8_t *kind,
        pmg_outcome *why) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = refused(h)
    cdef touch_t r
    cdef seen_t seen
    if no:
        return no
    if n and va == NULL:
        return -EFAULT
    seen.node = node
    seen.kind = kind
    if not owns_time(h):
        begun(h, 0)
    access_seen(h.c, h.t, va, write, n, &seen, &r)
    if r.done < n and why != NULL:
        stopped(h, why, va[r.done], &r)
    return answered(h, <int64_t> r.done) if owns_time(h) else ended(h, <int64_t> r.done)


cdef int walk(pmg_ctx *ctx, uint64_t va, pmg_walk *out) noexcept nogil:
    """List the addresses that a page-table walker reads, and the entries there."""
    cdef host_ctx_t *h = host(ctx)
    cdef machine_t *m = h.c.m
    cdef uint64_t vpn = va >> 12
    cdef uint32_t table, level, at
    cdef pte_t pte
    if out == NULL:
        return -EFAULT
    if lacks_mm(h):
        return -ESRCH
    memset(out, 0, sizeof(pmg_walk))
    if vpn >= TASK_SIZE_PAGES:
        return 0
    table = mm_of(m, h.c.mm).pgd
    for level in range(LEVELS):
        at = <uint32_t> pte_index(vpn >> level_shift(LEVELS - level))
        pte = pmg_load(table_entries(m, table) + at)
        out.entry_pa[level] = (m.table_pfn + table) << 12 | at * 8
        out.entry[level] = pte
        out.levels = level + 1
        if level == LEVELS - 1 or not pte_present(pte):
            break
        table = entry_table(m, pte)
    return <int> out.levels


cdef int pte_set(pmg_ctx *ctx, uint64_t entry_pa, uint64_t expect, uint64_t bits) noexcept nogil:
    """Set a walker's accessed and dirty bits in a leaf entry that is still what the walker read."""
    cdef machine_t *m = host(ctx).c.m
    cdef uint64_t table = (entry_pa >> 12) - m.table_pfn
    if entry_pa & 7 or not 0 < table < pmg_load32(&m.tables.fresh) or bits & ~(PTE_A | PTE_D):
        return -EINVAL
    if m.ptdesc[table].level != 1 or not pte_present(expect):
        return -EINVAL
    return pmg_cas(table_entries(m, <uint32_t> table) + pte_index(entry_pa >> 3), expect, expect | bits)


cdef uint64_t cr3(pmg_ctx *ctx) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    return 0 if lacks_mm(h) else (h.c.m.table_pfn + mm_of(h.c.m, h.c.mm).pgd) << 12


# -- the kernel's calls ----------------------------------------------------------------------------------------


cdef const pmg_user_t no_user       # for a caller that passes none: p is NULL


cdef inline const pmg_user_t *user(const pmg_user *u) noexcept nogil:
    """Cast the header's structure to the core's, which has the same layout."""
    return <const pmg_user_t *> <const void *> u if u != NULL else &no_user


cdef int64_t array_of(mig_t *g, uint32_t i, const pmg_user *array, uint64_t bytes) noexcept nogil:
    """Copy up to ``bytes`` of the caller's memory for a call that begins, or compare them with the suspended call's."""
    if begins(g):
        return -ENOMEM if mig_user(g, i, user(array), bytes) else 0
    return 0 if mig_same(g, i, user(array), bytes) else PMG_EBUSYCTX


cdef inline uint64_t room(uint64_t n) noexcept nogil:
    """Limit a number of entries to what a caller can have."""
    return min(n, <uint64_t> 1 << 40)


cdef int64_t move_pages_args(
        mig_t *g, int32_t pid, uint64_t count, const pmg_user *pages, const pmg_user *nodes, const pmg_user *status,
        uint32_t flags, bint keep) noexcept nogil:
    """Store or compare arguments: 0, -ENOMEM, or PMG_EBUSYCTX if they differ from the suspended call's.

    ``keep``: status entries that the call does not store keep the caller's values, else they are UNSET.
    """
    cdef int64_t rc
    if not (number(g, 0, <uint64_t> <int64_t> pid) and number(g, 1, count) and number(g, 2, flags)):
        return PMG_EBUSYCTX
    rc = array_of(g, 0, pages, room(count) * 8)
    if rc == 0:
        rc = array_of(g, 1, nodes, room(count) * 4)
    if rc or not begins(g):
        return rc
    if keep:
        return mig_user(g, 2, user(status), room(count) * 4)
    return mig_status(g, 2, user(status), count, <int32_t> PMG_STATUS_UNSET)


cdef int64_t migrate_pages_args(
        mig_t *g, int32_t pid, uint64_t maxnode, const pmg_user *old_nodes, const pmg_user *new_nodes) noexcept nogil:
    cdef int64_t rc
    if not (number(g, 0, <uint64_t> <int64_t> pid) and number(g, 1, maxnode)):
        return PMG_EBUSYCTX
    rc = array_of(g, 0, old_nodes, MASK_BYTES)
    return rc if rc else array_of(g, 1, new_nodes, MASK_BYTES)


cdef int64_t mbind_args(
        mig_t *g, uint64_t va, uint64_t length, uint32_t mode, const pmg_user *nodes, uint64_t maxnode,
        uint64_t flags) noexcept nogil:
    if not (number(g, 0, va) and number(g, 1, length) and number(g, 2, mode) and number(g, 3, maxnode) and
            number(g, 4, flags)):
        return PMG_EBUSYCTX
    return array_of(g, 0, nodes, MASK_BYTES)


cdef int64_t frames_args(
        mig_t *g, const uint32_t *pfn, const int32_t *nodes, uint64_t n, int32_t *status) noexcept nogil:
    cdef pmg_user from_, to, out
    cdef int64_t rc
    from_.p = <void *> pfn
    to.p = <void *> nodes
    out.p = status if status != NULL else <void *> nodes        # any accessible memory: only its size counts
    from_.bytes = to.bytes = out.bytes = n * 4
    if not number(g, 0, n):
        return PMG_EBUSYCTX
    rc = array_of(g, 0, &from_, n * 4)
    if rc == 0:
        rc = array_of(g, 1, &to, n * 4)
    if rc or not begins(g):
        return rc
    return mig_status(g, 2, user(&out), n, <int32_t> PMG_STATUS_UNSET)


cdef inline bint frames_exist(machine_t *m, const uint32_t *pfn, uint64_t n) noexcept nogil:
    cdef uint64_t i
    for i in range(n):
        if pfn[i] >= m.nr_frames:
            return False
    return True


cdef int64_t move_pages(
        pmg_ctx *ctx, int32_t pid, uint64_t count, const pmg_user *pages, const pmg_user *nodes, const pmg_user *status,
        uint32_t flags, uint32_t *rule) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = may_go_on(h)
    cdef int64_t rc
    if no:
        return no
    if not owns_time(h):
        if not here(h):
            return PMG_EBUSYCTX
        return ended(h, pmg_sys_move_pages(h.c, pid, count, user(pages), user(nodes), user(status), flags, rule))
    if not goes_on(h, MIG_MOVE_PAGES, &rc):
        return rc
    rc = move_pages_args(h.call, pid, count, pages, nodes, status, flags, True)
    if rc:
        return give_up(h, rc)
    return go_on(h, status, rule)


cdef int64_t migrate_pages(
        pmg_ctx *ctx, int32_t pid, uint64_t maxnode, const pmg_user *old_nodes, const pmg_user *new_nodes,
        uint32_t *rule) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = may_go_on(h)
    cdef int64_t rc
    if no:
        return no
    if not owns_time(h):
        if not here(h):
            return PMG_EBUSYCTX
        return ended(h, pmg_sys_migrate_pages(h.c, pid, maxnode, user(old_nodes), user(new_nodes), rule))
    if not goes_on(h, MIG_MIGRATE_PAGES, &rc):
        return rc
    rc = migrate_pages_args(h.call, pid, maxnode, old_nodes, new_nodes)
    if rc:
        return give_up(h, rc)
    return go_on(h, NULL, rule)


cdef int64_t mbind(
        pmg_ctx *ctx, uint64_t va, uint64_t length, uint32_t mode, const pmg_user *nodes, uint64_t maxnode,
        uint64_t flags, uint32_t *rule) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = may_go_on(h)
    cdef int64_t rc
    if no:
        return no
    if not owns_time(h):
        if not here(h):
            return PMG_EBUSYCTX
        return ended(h, pmg_sys_mbind(h.c, va, length, mode, user(nodes), maxnode, flags, rule))
    if not goes_on(h, MIG_MBIND, &rc):
        return rc
    rc = mbind_args(h.call, va, length, mode, nodes, maxnode, flags)
    if rc:
        return give_up(h, rc)
    return go_on(h, NULL, rule)


cdef int64_t set_mempolicy(
        pmg_ctx *ctx, uint32_t mode, const pmg_user *nodes, uint64_t maxnode, uint32_t *rule) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    return no if no else ended(h, pmg_sys_set_mempolicy(h.c, mode, user(nodes), maxnode, rule))


cdef int64_t get_mempolicy(
        pmg_ctx *ctx, const pmg_user *mode, const pmg_user *nodes, uint64_t maxnode, uint64_t va, uint64_t flags,
        uint32_t *rule) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    return no if no else ended(h, pmg_sys_get_mempolicy(h.c, user(mode), user(nodes), maxnode, va, flags, rule))


cdef int64_t set_mempolicy_home_node(
        pmg_ctx *ctx, uint64_t va, uint64_t length, uint64_t node, uint64_t flags, uint32_t *rule) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    return no if no else ended(h, pmg_sys_set_mempolicy_home_node(h.c, va, length, node, flags, rule))


cdef int64_t frames(
        pmg_ctx *ctx, const uint32_t *pfn, const int32_t *nodes, uint64_t n, int32_t *status) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef pmg_user out
    cdef int64_t rc
    if call_refused(h.c.m, ctx):
        return -EDEADLK
    if n and (pfn == NULL or nodes == NULL):
        return -EFAULT
    if not frames_exist(h.c.m, pfn, n):
        return -EINVAL
    if n and status == NULL:
        return -EFAULT
    if not owns_time(h):
        if not here(h):
            return PMG_EBUSYCTX
        return ended(h, migrate_frames(h.c, pfn, nodes, n, status))
    if not goes_on(h, MIG_FRAMES, &rc):
        return rc
    rc = frames_args(h.call, pfn, nodes, n, status)
    if rc:
        return give_up(h, rc)
    out.p = status
    out.bytes = n * 4
    return go_on(h, &out, NULL)


# -- migrations that take the caller's time --------------------------------------------------------------------


cdef mig_t *mig_started(pmg_ctx *ctx, uint32_t kind, int *error, stop_t stop, void *private_) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef mig_t *g
    if call_refused(h.c.m, ctx):
        error[0] = -EDEADLK
        return NULL
    if kind != MIG_FRAMES and lacks_mm(h):
        error[0] = -ESRCH
        return NULL
    g = mig_begin(h.c.m, h.t.pid if h.t != NULL else 0, h.c.cpu, kind, True, error)
    if g != NULL:
        g.stop = stop
        g.stop_private = private_
    return g


cdef int mig_handle(mig_t *g, int64_t error, pmg_mig *out) noexcept nogil:
    """Give the caller a handle; with an error of the arguments, or without ``out``, free the migration instead."""
    if out == NULL:
        error = -EFAULT
    if error:
        g.fiber.done = 1
        mig_free(g)
        return <int> error
    g.stop = NULL
    mig_publish(g)
    out[0] = <uint64_t> g.index << 32 | g.generation
    return 0


cdef int start_move_pages(
        pmg_ctx *ctx, int32_t pid, uint64_t count, const pmg_user *pages, const pmg_user *nodes, const pmg_user *status,
        uint32_t flags, pmg_mig *out, stop_t stop, void *private_) noexcept nogil:
    cdef int error = 0
    cdef mig_t *g = mig_started(ctx, MIG_MOVE_PAGES, &error, stop, private_)
    if g == NULL:
        return error
    return mig_handle(g, move_pages_args(g, pid, count, pages, nodes, status, flags, False), out)


cdef int mig_move_pages(
        pmg_ctx *ctx, int32_t pid, uint64_t count, const pmg_user *pages, const pmg_user *nodes, const pmg_user *status,
        uint32_t flags, pmg_mig *out) noexcept nogil:
    return start_move_pages(ctx, pid, count, pages, nodes, status, flags, out, NULL, NULL)


cdef int mig_migrate_pages(
        pmg_ctx *ctx, int32_t pid, uint64_t maxnode, const pmg_user *old_nodes, const pmg_user *new_nodes,
        pmg_mig *out) noexcept nogil:
    cdef int error = 0
    cdef mig_t *g = mig_started(ctx, MIG_MIGRATE_PAGES, &error, NULL, NULL)
    if g == NULL:
        return error
    return mig_handle(g, migrate_pages_args(g, pid, maxnode, old_nodes, new_nodes), out)


cdef int mig_mbind(
        pmg_ctx *ctx, uint64_t va, uint64_t length, uint32_t mode, const pmg_user *nodes, uint64_t maxnode,
        uint64_t flags, pmg_mig *out) noexcept nogil:
    cdef int error = 0
    cdef mig_t *g = mig_started(ctx, MIG_MBIND, &error, NULL, NULL)
    if g == NULL:
        return error
    return mig_handle(g, mbind_args(g, va, length, mode, nodes, maxnode, flags), out)


cdef int start_frames(
        pmg_ctx *ctx, const uint32_t *pfn, const int32_t *nodes, uint64_t n, pmg_mig *out, stop_t stop,
        void *private_) noexcept nogil:
    cdef int error = 0
    cdef mig_t *g
    if n and (pfn == NULL or nodes == NULL):
        return -EFAULT
    if not frames_exist(host(ctx).c.m, pfn, n):
        return -EINVAL
    g = mig_started(ctx, MIG_FRAMES, &error, stop, private_)
    if g == NULL:
        return error
    return mig_handle(g, frames_args(g, pfn, nodes, n, NULL), out)


cdef int mig_frames(pmg_ctx *ctx, const uint32_t *pfn, const int32_t *nodes, uint64_t n, pmg_mig *out) noexcept nogil:
    return start_frames(ctx, pfn, nodes, n, out, NULL, NULL)


cdef inline mig_t *mig_behind(machine_t *m, pmg_mig handle) noexcept nogil:
    return mig_at(m, <uint32_t> (handle >> 32), <uint32_t> handle)


cdef int32_t one_target(machine_t *m, const mig_t *g) noexcept nogil:
    """Find the node that all pages of a stop go to; -2: several, -1: no pages."""
    cdef uint32_t i
    cdef int32_t nid = -1
    for i in range(g.n):
        if g.dst[i] == 0:
            continue
        if nid >= 0 and page_to_nid(m, g.dst[i]) != nid:
            return -2
        nid = page_to_nid(m, g.dst[i])
    return nid


cdef int mig_taken(machine_t *m, pmg_mig handle, mig_t **out) noexcept nogil:
    """Take the right to step or end a migration, until mig_let: 0, -ESRCH or PMG_EBUSYCTX."""
    cdef mig_t *g = mig_behind(m, handle)
    if g == NULL:
        return -ESRCH
    if not mig_owned(g):
        return -ESRCH if mig_behind(m, handle) != g else PMG_EBUSYCTX
    if mig_behind(m, handle) != g:          # ended meanwhile, and the record may have been reused
        mig_let(g)
        return -ESRCH
    out[0] = g
    return 0


cdef void describe(machine_t *m, mig_t *g, pmg_mig_event *out) noexcept nogil:
    """Describe the stop that a migration has reached, with the counts since the last one."""
    cdef pmg_mig_event e
    memset(&e, 0, sizeof(e))
    e.size = min(out.size, <uint32_t> sizeof(e))
    e.at = g.at
    e.n = g.n
    e.passes = g.pass_
    e.node = one_target(m, g)
    e.src = g.src
    e.dst = g.dst
    e.flushes = g.flushes
    e.ipis = g.ipis
    e.copy_bytes = (<uint64_t> g.n if g.at == PAUSE_UNMAPPED else g.copied) * 4096
    if g.at == MIG_WAITS:
        e.wait_what = g.c.wait_what
        e.wait_which = g.c.wait_which
    memcpy(out, &e, e.size)


cdef void step_it(host_ctx_t *h, mig_t *g, bint looks) noexcept nogil:
    """Step a migration, and count in it what happened since its last stop."""
    cdef uint64_t flushes = h.watch.flushes, ipis = h.watch.ipis, copied = h.watch.pages_copied
    g.c.watch = &h.watch
    mig_step(g, looks)
    g.c.watch = NULL
    vm_events_hand(g.c, h.c)
    g.flushes += <uint32_t> (h.watch.flushes - flushes)
    g.ipis += h.watch.ipis - ipis
    g.copied += h.watch.pages_copied - copied


cdef int mig_next_stop(pmg_ctx *ctx, pmg_mig handle, pmg_mig_event *out, bint looks) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef mig_t *g = NULL
    cdef int rc
    if out == NULL:
        return -EFAULT
    if out.size < 8:
        return PMG_EABI
    if call_refused(h.c.m, ctx):
        return -EDEADLK
    rc = mig_taken(h.c.m, handle, &g)
    if rc:
        return rc
    if not g.untold:
        step_it(h, g, looks)
    describe(h.c.m, g, out)
    rc = <int> g.at
    if rc != MIG_LOOKS:
        g.untold = False
        g.flushes = 0
        g.ipis = g.copied = 0
    mig_let(g)
    return rc


cdef int mig_next(pmg_ctx *ctx, pmg_mig handle, pmg_mig_event *out) noexcept nogil:
    return mig_next_stop(ctx, handle, out, False)


cdef bint mig_settle(pmg_ctx *ctx, pmg_mig handle) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef mig_t *g = NULL
    cdef bint more = False
    if call_refused(h.c.m, ctx) or mig_taken(h.c.m, handle, &g):
        return False
    if g.at == MIG_LOOKS:
        step_it(h, g, True)
        more = g.at == MIG_LOOKS
        g.untold = not more
    mig_let(g)
    return more


cdef bint mig_goes_on(pmg_ctx *ctx, pmg_mig handle) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef mig_t *g = NULL
    cdef bint more
    if call_refused(h.c.m, ctx) or mig_taken(h.c.m, handle, &g):
        return False
    g.c.watch = &h.watch
    more = mig_finish(g, True) == MIG_LOOKS
    g.c.watch = NULL
    vm_events_hand(g.c, h.c)
    mig_let(g)
    return more


cdef int64_t mig_end(
        pmg_ctx *ctx, pmg_mig handle, uint32_t abort, int32_t *status, uint64_t n, uint32_t *rule) noexcept nogil:
    """Run a migration to its end, or abort it.

    PMG_WAIT even in a context that does not own time: perhaps only the caller can end what the migration waits for.
    """
    cdef host_ctx_t *h = host(ctx)
    cdef mig_t *g = NULL
    cdef int64_t rc
    if call_refused(h.c.m, ctx):
        return -EDEADLK
    rc = mig_taken(h.c.m, handle, &g)
    if rc:
        return rc
    g.c.watch = &h.watch
    while not abort and not g.fiber.done:
        if mig_finish(g, False) == MIG_WAITS:
            g.c.watch = NULL
            vm_events_hand(g.c, h.c)
            h.c.wait_what = g.c.wait_what
            h.c.wait_which = g.c.wait_which
            mig_let(g)
            return -WAITS
    if not g.fiber.done:
        mig_abort(g)
    g.c.watch = NULL
    vm_events_hand(g.c, h.c)
    rc = g.rc
    if status != NULL and g.u[2].p != NULL and g.u[2].p != PMG_BAD:
        memcpy(status, g.u[2].p, min(g.u[2].bytes, n * 4))
    if rule != NULL:
        rule[0] = g.rule
    mig_free(g)
    return rc


cdef int64_t migrations(pmg_machine *machine, pmg_mig *out, uint64_t n) noexcept nogil:
    cdef machine_t *m = core(machine)
    return migs_on_their_way(m, out, n)


cdef int mig_info(pmg_machine *machine, pmg_mig handle, pmg_mig_info *out) noexcept nogil:
    cdef mig_facts_t g
    cdef pmg_mig_info i
    if out == NULL:
        return -EFAULT
    if out.size < 8:
        return PMG_EABI
    if not mig_facts(core(machine), <uint32_t> (handle >> 32), <uint32_t> handle, &g):
        return -ESRCH
    memset(&i, 0, sizeof(i))
    i.size = min(out.size, <uint32_t> sizeof(i))
    i.call = g.call
    i.cpu = g.cpu
    i.at = g.at
    i.task = g.pid
    i.statuses = g.statuses
    memcpy(i.arguments, g.arguments, sizeof(g.arguments))
    memcpy(out, &i, i.size)
    return 0


# -- saving, loading, copying ----------------------------------------------------------------------------------


cdef int64_t told(int64_t rc, const char *what, char *text, size_t n) noexcept nogil:
    """Put into words why a machine was not saved or copied; return ``rc``."""
    if rc >= 0:
        what = b""
    elif rc == -EIO:
        what = b"it cannot be written: the host's function answered an error"
    elif rc == -ENOMEM:
        what = b"the host is out of memory"
    elif rc == -EDEADLK:
        what = b"a callback that runs under locks may not make this call"
    if text != NULL and n:
        snprintf(text, n, b"%s", what)
    return rc


cdef int64_t save(pmg_machine *machine, pmg_write write, void *priv, char *text, size_t n) noexcept nogil:
    cdef const char *what = NULL
    cdef int64_t rc = -EDEADLK
    if write == NULL:
        return -EFAULT
    if not call_refused(core(machine), NULL):
        rc = state_save(core(machine), NULL, 0, write, NULL, NULL, priv, &what)
    return told(rc, what, text, n)


cdef int copy(pmg_machine *machine, pmg_machine **out, char *text, size_t n) noexcept nogil:
    cdef const char *what = NULL
    cdef int rc = -EDEADLK
    if out == NULL:
        return -EFAULT
    out[0] = NULL
    if not call_refused(core(machine), NULL):
        out[0] = <pmg_machine *> <void *> state_copy(core(machine), NULL, NULL, NULL, &rc, &what)
    return <int> told(rc, what, text, n)


cdef int load(pmg_read read, void *priv, pmg_machine **out, char *text, size_t n) noexcept nogil:
    cdef void *extra = NULL
    cdef uint64_t nbytes, layout
    cdef int why
    if out == NULL or read == NULL:
        return -EFAULT
    out[0] = <pmg_machine *> <void *> state_load(read, NULL, priv, &extra, &nbytes, &layout, &why)
    free(extra)
    if text != NULL and n:
        text[0] = 0
        if why:
            state_problem(why, layout, text, n)
    return -EINVAL if why > 0 else why


# -- files, swap devices, nodes, pins, credentials -------------------------------------------------------------


cdef int64_t new_file(pmg_ctx *ctx, uint32_t kind, uint64_t pages) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef uint32_t file
    cdef int no = refused_to_any(h)
    if no:
        return no
    if not FILE_SHMEM <= kind <= FILE_MINIX or pages > MAX_INDEX_PAGES:
        return -EINVAL
    file = file_new(h.c, kind, pages, 0)
    if not file:
        return -ENOMEM
    file_of(h.c.m, file).ra_pages = READ_AHEAD
    file_of(h.c.m, file).handles = 1
    return file


cdef int file_close(pmg_ctx *ctx, uint32_t file) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = refused_to_any(h)
    if no:
        return no
    if not file_exists(h.c.m, file) or not pmg_cas32(&file_of(h.c.m, file).handles, 1, 0):
        return -EBADF
    begun(h, 0)
    file_put(h.c, file)
    return <int> ended(h, 0)


cdef int ftruncate(pmg_ctx *ctx, uint32_t file, uint64_t pages) noexcept nogil:
    if lacks_file(host(ctx), file):
        return -EBADF
    return <int> numbers_call(ctx, False, MIG_FTRUNCATE, file, pages, 0, 0, 0, 0)


cdef int punch_hole(pmg_ctx *ctx, uint32_t file, uint64_t index, uint64_t n) noexcept nogil:
    if lacks_file(host(ctx), file):
        return -EBADF
    return <int> numbers_call(ctx, False, MIG_PUNCH, file, index, n, 0, 0, 0)


cdef int mlockall(pmg_ctx *ctx, uint32_t flags) noexcept nogil:
    return <int> numbers_call(ctx, True, MIG_MLOCKALL, flags, 0, 0, 0, 0, 0)


cdef int munlockall(pmg_ctx *ctx) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    return no if no else <int> ended(h, pmg_sys_munlockall(h.c))


cdef int64_t pin(pmg_ctx *ctx, uint64_t va, uint64_t n, uint32_t longterm, uint32_t *handle) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = may_go_on(h)
    cdef int64_t rc
    if no:
        return no
    if handle == NULL:
        return -EFAULT
    if not owns_time(h):
        if not here(h):
            return PMG_EBUSYCTX
        return ended(h, pmg_sys_pin(h.c, va, n, longterm != 0, handle, NULL))
    if not goes_on(h, MIG_PIN, &rc):
        return rc
    if not (number(h.call, 0, va) and number(h.call, 1, n) and number(h.call, 2, longterm != 0)):
        return PMG_EBUSYCTX
    h.pinned = handle
    return go_on(h, NULL, NULL)


cdef int unpin(pmg_ctx *ctx, uint32_t handle) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    return no if no else <int> ended(h, pmg_sys_unpin(h.c, handle, NULL))


cdef int setuid(pmg_ctx *ctx, uint32_t uid, uint32_t gid, uint32_t dumpable) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = begun(h, refused(h))
    return no if no else <int> ended(h, pmg_sys_setuid(h.c, uid, gid, dumpable != 0, NULL))


cdef int swapoff(pmg_ctx *ctx, uint32_t device) noexcept nogil:
    return <int> numbers_call(ctx, False, MIG_SWAPOFF, device, 0, 0, 0, 0, 0)


cdef int swapon(pmg_ctx *ctx, uint32_t device) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = refused_to_any(h)
    return no if no else <int> pmg_sys_swapon(h.c, device, NULL)


cdef int offline(pmg_ctx *ctx, uint32_t node) noexcept nogil:
    return <int> numbers_call(ctx, False, MIG_OFFLINE, node, 0, 0, 0, 0, 0) if node < host(ctx).c.m.nr_nodes else -EINVAL


cdef int online(pmg_ctx *ctx, uint32_t node) noexcept nogil:
    cdef host_ctx_t *h = host(ctx)
    cdef int no = refused_to_any(h)
    if no:
        return no
    if node >= h.c.m.nr_nodes or h.c.m.node[node].first == h.c.m.node[node].end:
        return -EINVAL
    online_node(h.c, <int32_t> node)
    return 0


# -- callbacks -------------------------------------------------------------------------------------------------


cdef int machine_callbacks(pmg_machine *machine, const pmg_callbacks *callbacks) noexcept nogil:
    cdef machine_t *m = core(machine)
    if callbacks != NULL and callbacks.size < 16:
        return PMG_EABI
    if pmg_load32(&m.in_hooks):
        return -EDEADLK
    return set_callbacks(m, callbacks)


# -- the table -------------------------------------------------------------------------------------------------

cdef pmg_api the_table


cdef const pmg_api *api_table() noexcept nogil:
    return &the_table


the_table.abi = PMG_ABI
the_table.size = sizeof(pmg_api)
the_table.machine_new = machine_new
the_table.machine_free = machine_free
the_table.machine_info = machine_info
the_table.check = check
the_table.counters = counters
the_table.counter_name = counter_name
the_table.ctx_open = ctx_open
the_table.ctx_bind = ctx_bind
the_table.ctx_close = ctx_close
the_table.ctx_wait = ctx_wait
the_table.cost_take = cost_take
the_table.spawn = spawn
the_table.fork = fork
the_table.exit = exit_
the_table.mmap = mmap
the_table.munmap = munmap
the_table.mprotect = mprotect
the_table.mremap = mremap
the_table.madvise = madvise
the_table.mlock = mlock
the_table.munlock = munlock
the_table.translate = translate
the_table.access = access
the_table.access_packed = access_packed
the_table.access_many = access_many
the_table.walk = walk
the_table.pte_set = pte_set
the_table.cr3 = cr3
the_table.move_pages = move_pages
the_table.migrate_pages = migrate_pages
the_table.mbind = mbind
the_table.set_mempolicy = set_mempolicy
the_table.get_mempolicy = get_mempolicy
the_table.set_mempolicy_home_node = set_mempolicy_home_node
the_table.migrate_frames = frames
the_table.mig_move_pages = mig_move_pages
the_table.mig_migrate_pages = mig_migrate_pages
the_table.mig_mbind = mig_mbind
the_table.mig_frames = mig_frames
the_table.mig_step = mig_next
the_table.mig_end = mig_end
the_table.set_callbacks = machine_callbacks
the_table.clone_thread = clone_thread
the_table.exit_thread = exit_thread
the_table.file_new = new_file
the_table.file_close = file_close
the_table.ftruncate = ftruncate
the_table.punch_hole = punch_hole
the_table.mlockall = mlockall
the_table.munlockall = munlockall
the_table.pin = pin
the_table.unpin = unpin
the_table.setuid = setuid
the_table.swapoff = swapoff
the_table.swapon = swapon
the_table.offline = offline
the_table.online = online
the_table.migrations = migrations
the_table.mig_info = mig_info
the_table.save = save
the_table.load = load
the_table.copy = copy
