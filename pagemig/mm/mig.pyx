"""Resumable calls: a call of the kernel on a fiber, which stops where time may pass."""
from libc.errno cimport EBADF, EINTR, EINVAL, ENOMEM, ESRCH
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from pagemig.mm.atomic cimport (
    pmg_add32, pmg_cas32, pmg_load32, pmg_spin_lock, pmg_spin_unlock, pmg_store32, pmg_store32_rel,
)
from pagemig.mm.calls cimport (
    called_t, code_mbind, code_migrate_frames, code_migrate_pages, code_move_pages, migrate_frames, pmg_sys_mbind,
    pmg_sys_migrate_pages, pmg_sys_move_pages,
)
from pagemig.mm.context cimport ctx_bind, ctx_get, ctx_put, switch_mm
from pagemig.mm.filemap cimport file_get_not_zero, file_put
from pagemig.mm.fork cimport find_get_task_by_vpid, get_task_mm, mmput, pmg_sys_pin, put_task
from pagemig.mm.madvise cimport pmg_sys_madvise
from pagemig.mm.memory_hotplug cimport take_offline
from pagemig.mm.migrate_stage cimport PAUSE_PASS
from pagemig.mm.mlock cimport pmg_sys_mlock, pmg_sys_mlockall
from pagemig.mm.mmap cimport pmg_sys_mmap, pmg_sys_mprotect, pmg_sys_mremap
from pagemig.mm.notify cimport PMG_EHOOK
from pagemig.mm.page_alloc cimport task_of
from pagemig.mm.place cimport (
    code_bytes, code_flag, code_i64, code_u32, code_u64, coder_t, places_code, places_drop, places_read, STANDS,
    STANDS_INSIDE, STANDS_NOWHERE, stop_short, WAY_READ, wrong,
)
from pagemig.mm.swapfile cimport pmg_sys_swapoff
from pagemig.mm.truncate cimport pmg_sys_fallocate, pmg_sys_ftruncate
from pagemig.mm.types cimport (
    ABORT_HEEDED, C_LOCK_PAGE, C_LOCK_SWAP, ctx_t, machine_t, MODE_ACTORS, MODE_THREADS, PMG_WAIT, task_t, WAIT_PASS,
)
from pagemig.mm.uaccess cimport PMG_BAD, pmg_user_t, user_entries


cdef extern from "pagemig/fiber.h" nogil:
    int pmg_fiber_new(pmg_fiber *f, size_t size)
    void pmg_fiber_free(pmg_fiber *f)
    void pmg_fiber_begin(pmg_fiber *f, void (*fn)(void *) noexcept, void *arg)
    void pmg_fiber_enter(pmg_fiber *f)
    void pmg_fiber_to_host(pmg_fiber *f)


cdef extern from "<wchar.h>" nogil:
    ctypedef int wchar_t        # 32 bits on Linux
    wchar_t *wmemset(wchar_t *p, wchar_t value, size_t n)


cdef enum:
    STACK_BYTES = 256 << 10     # address space, committed as it is used
    KEPT = 64                   # so many free records keep their stack and the memory of copies
    PIECE = 1 << 22             # bytes of an argument copied between two questions to the caller
    KEPT_BYTES = 1 << 20        # of copies at most: what the host gives anew, it also clears


# -- on the fiber ----------------------------------------------------------------------------------------------


cdef int64_t call_of(ctx_t *c, mig_t *g) noexcept nogil:
    cdef uint64_t *a = g.a
    if g.kind == MIG_MOVE_PAGES:
        return pmg_sys_move_pages(c, <int32_t> a[0], a[1], &g.u[0], &g.u[1], &g.u[2], <uint32_t> a[2], &g.rule)
    if g.kind == MIG_MIGRATE_PAGES:
        return pmg_sys_migrate_pages(c, <int32_t> a[0], a[1], &g.u[0], &g.u[1], &g.rule)
    if g.kind == MIG_MBIND:
        return pmg_sys_mbind(c, a[0], a[1], <uint32_t> a[2], &g.u[0], a[3], a[4], &g.rule)
    if g.kind == MIG_FRAMES:
        return migrate_frames(c, <uint32_t *> g.u[0].p, <int32_t *> g.u[1].p, a[0], <int32_t *> g.u[2].p)
    if g.kind == MIG_MMAP:
        return pmg_sys_mmap(c, a[0], a[1], <uint32_t> a[2], <uint32_t> a[3], <uint32_t> a[4], a[5], &g.rule)
    if g.kind == MIG_MPROTECT:
        return pmg_sys_mprotect(c, a[0], a[1], <uint32_t> a[2], &g.rule)
    if g.kind == MIG_MREMAP:
        return pmg_sys_mremap(c, a[0], a[1], a[2], <uint32_t> a[3], a[4], &g.rule)
    if g.kind == MIG_MADVISE:
        return pmg_sys_madvise(c, a[0], a[1], <int> a[2], &g.rule)
    if g.kind == MIG_MLOCK:
        return pmg_sys_mlock(c, a[0], a[1], <uint32_t> a[2], &g.rule)
    if g.kind == MIG_MLOCKALL:
        return pmg_sys_mlockall(c, <uint32_t> a[0], &g.rule)
    if g.kind == MIG_PIN:
        return pmg_sys_pin(c, a[0], a[1], a[2] != 0, &g.pin, &g.rule)
    if g.kind == MIG_FTRUNCATE:
        return pmg_sys_ftruncate(c, <uint32_t> a[0], a[1], &g.rule)
    if g.kind == MIG_PUNCH:
        return pmg_sys_fallocate(c, <uint32_t> a[0], a[1], a[2], &g.rule)
    if g.kind == MIG_SWAPOFF:
        return pmg_sys_swapoff(c, <uint32_t> a[0], &g.rule)
    return take_offline(c, <int32_t> a[0], &g.rule)


cdef int64_t perform(ctx_t *c, mig_t *g) noexcept nogil:
    """Make a call.  One that names a file holds it to its end: others may close it while the call waits (``fdget``)."""
    cdef uint32_t file = 0
    cdef int64_t rc
    if g.kind == MIG_MMAP:
        file = <uint32_t> g.a[4]
    elif g.kind == MIG_FTRUNCATE or g.kind == MIG_PUNCH:
        file = <uint32_t> g.a[0]
    if file and not file_get_not_zero(c.m, file):
        return -EBADF
    rc = call_of(c, g)
    if file:
        file_put(c, file)
    return rc


cdef int64_t mig_here(ctx_t *c, uint32_t kind, const uint64_t *a) noexcept nogil:
    cdef mig_t g
    g.kind = kind
    memcpy(g.a, a, sizeof(g.a))
    return perform(c, &g)


cdef void let_go(ctx_t *c) noexcept nogil:
    """Drop the caller's task and address space; the last reference tears the latter down, which may wait."""
    if c.mm:
        mmput(c, c.mm)
    if c.task:
        put_task(c.m, c.task)
    c.task = c.mm = 0


cdef inline bint only_asks(const mig_t *g) noexcept nogil:
    return g.kind == MIG_MOVE_PAGES and g.u[1].p == NULL


cdef void run(void *record) noexcept nogil:
    cdef mig_t *g = <mig_t *> record
    g.places.query = only_asks(g)
    g.places.stands = STANDS
    g.rc = perform(g.c, g)
    if g.c.abort == ABORT_HEEDED or g.c.signalled:
        g.rc = -EINTR
    if g.c.hook_error:
        g.rc = PMG_EHOOK
    let_go(g.c)
    pmg_store32(&g.at, MIG_DONE)
    g.n = 0
    g.places.stands = STANDS_NOWHERE


cdef void stop(ctx_t *c, int at, const uint32_t *src, const uint32_t *dst, uint32_t n) noexcept nogil:
    """``ctx.pause_fn``.  A stage without pages under way takes no time."""
    cdef mig_t *g = <mig_t *> c.mig
    if c.abort or g.places.straight:
        return
    if at == PAUSE_PASS:
        g.pass_ += 1
    elif n == 0:
        return
    pmg_store32(&g.at, at)
    g.n = min(n, <uint32_t> MIG_PAGES)
    if g.n:
        memcpy(g.src, src, g.n * 4)
        memcpy(g.dst, dst, g.n * 4)
    pmg_fiber_to_host(&g.fiber)


cdef void outside(ctx_t *c, void (*fn)(void *arg) noexcept nogil, void *arg) noexcept nogil:
    """``ctx.outside_fn``: run fn on the stack of the thread that steps, since the fiber's is too small for a host's code."""
    cdef mig_t *g = <mig_t *> c.mig
    g.request = fn
    g.request_arg = arg
    g.places.stands = STANDS_INSIDE
    pmg_fiber_to_host(&g.fiber)
    g.places.stands = STANDS


cdef int stop_to_wait(ctx_t *c, int what, uint32_t which) noexcept nogil:
    """``ctx.wait_fn``: stop; the next step checks again whether the wait is over, as a loaded call does when it resumes."""
    cdef mig_t *g = <mig_t *> c.mig
    if c.abort:
        c.abort = ABORT_HEEDED
        return -PMG_WAIT
    pmg_store32(&g.at, MIG_WAITS)
    g.n = 0
    pmg_fiber_to_host(&g.fiber)
    return 0


cdef bint stop_to_look(ctx_t *c) noexcept nogil:
    """``ctx.signal_fn``: stop, so that the caller of the step checks for signals, and then steps again or aborts."""
    cdef mig_t *g = <mig_t *> c.mig
    pmg_store32(&g.at, MIG_LOOKS)
    g.n = 0
    g.places.stands = STANDS_INSIDE
    pmg_fiber_to_host(&g.fiber)
    g.places.stands = STANDS
    return c.abort != 0


# -- records ---------------------------------------------------------------------------------------------------


cdef bint mig_enter(machine_t *m, mig_t *g) noexcept nogil:
    """Add a record to the machine's table, where it stays."""
    cdef void **table
    cdef uint32_t room
    cdef bint there = True
    pmg_spin_lock(&m.ctx_lock)
    if m.nr_migs == m.mig_room:
        room = 2 * m.mig_room + 16
        table = <void **> realloc(m.mig_table, room * sizeof(void *))
        there = table != NULL
        if there:
            m.mig_table = table
            m.mig_room = room
    if there:
        g.index = m.nr_migs
        m.mig_table[g.index] = g
        m.nr_migs += 1
    pmg_spin_unlock(&m.ctx_lock)
    return there


cdef mig_t *mig_new(machine_t *m) noexcept nogil:
    """Get a free record with a stack; NULL without memory."""
    cdef mig_t *g
    pmg_spin_lock(&m.ctx_lock)
    g = <mig_t *> m.mig_free
    if g != NULL:
        m.mig_free = g.next
    pmg_spin_unlock(&m.ctx_lock)
    if g == NULL:
        g = <mig_t *> calloc(1, sizeof(mig_t))
        if g == NULL:
            return NULL
        g.m = m
        if not mig_enter(m, g):
            free(g)
            return NULL
    if g.fiber.stack == NULL and pmg_fiber_new(&g.fiber, STACK_BYTES):
        mig_put(g)
        return NULL
    return g


cdef void mig_put(mig_t *g) noexcept nogil:
    cdef machine_t *m = g.m
    if g.index >= KEPT:
        pmg_fiber_free(&g.fiber)
    pmg_spin_lock(&m.ctx_lock)
    g.next = <mig_t *> m.mig_free
    m.mig_free = g
    pmg_spin_unlock(&m.ctx_lock)


cdef mig_t *mig_stepped(machine_t *m, uint32_t index, uint32_t generation) noexcept nogil:
    """Get the record of a migration that a host steps; ctx_lock held."""
    cdef mig_t *g = NULL
    if index < m.nr_migs:
        g = <mig_t *> m.mig_table[index]
    return g if g != NULL and g.c != NULL and g.published and g.generation == generation else NULL


cdef mig_t *mig_at(machine_t *m, uint32_t index, uint32_t generation) noexcept nogil:
    cdef mig_t *g
    pmg_spin_lock(&m.ctx_lock)
    g = mig_stepped(m, index, generation)
    pmg_spin_unlock(&m.ctx_lock)
    return g


cdef bint mig_facts(machine_t *m, uint32_t index, uint32_t generation, mig_facts_t *out) noexcept nogil:
    cdef mig_t *g
    pmg_spin_lock(&m.ctx_lock)
    g = mig_stepped(m, index, generation)
    if g != NULL:                   # it cannot end while the lock is held
        out.call = g.kind
        out.cpu = g.c.cpu
        out.at = pmg_load32(&g.at)
        out.pid = g.pid
        out.statuses = g.u[2].bytes // 4 if g.u[2].p != NULL and g.u[2].p != PMG_BAD else 0
        memcpy(out.arguments, g.a, sizeof(g.a))
    pmg_spin_unlock(&m.ctx_lock)
    return g != NULL


cdef void mig_release_all(machine_t *m) noexcept nogil:
    """Free all records, with the machine; also those of loaded calls that were not resumed."""
    cdef mig_t *g
    cdef uint32_t i
    for i in range(m.nr_migs):
        g = <mig_t *> m.mig_table[i]
        if g.c != NULL:
            mig_drop(g)
        pmg_fiber_free(&g.fiber)
        drop_room(g)
        free(g)
    m.mig_free = NULL
    free(m.mig_table)
    m.mig_table = NULL
    m.nr_migs = m.mig_room = 0


cdef void mig_drop(mig_t *g) noexcept nogil:
    if g.places.unread == g.places.n:
        places_drop(g.m, &g.places)
    g.c = NULL


cdef void *get_room(mig_t *g, uint32_t i, uint64_t bytes) noexcept nogil:
    """Get memory for the copy of argument i, that of an earlier call if it is enough; NULL without memory."""
    cdef pmg_user_t *room = &g.room[i]
    if room.p == NULL or room.bytes < bytes:
        free(room.p)
        room.p = malloc(bytes + 1)
        room.bytes = bytes
    return room.p


cdef void drop_room(mig_t *g) noexcept nogil:
    cdef uint32_t i
    for i in range(3):
        free(g.room[i].p)
    memset(g.room, 0, sizeof(g.room))


cdef void forget_copies(mig_t *g) noexcept nogil:
    """Forget the arguments of a call that is over, and keep their memory if it is little."""
    memset(g.u, 0, sizeof(g.u))
    if g.index >= KEPT or g.room[0].bytes + g.room[1].bytes + g.room[2].bytes > KEPT_BYTES:
        drop_room(g)


cdef int take_caller(mig_t *g, uint32_t pid) noexcept nogil:
    """Reference the calling process and its address space until the call is over: 0 or -ESRCH."""
    cdef ctx_t *c = g.c
    cdef task_t *t
    if not pid:
        return 0
    t = find_get_task_by_vpid(g.m, pid)
    if t == NULL:
        return -ESRCH
    c.task = <uint32_t> (t - <task_t *> g.m.tasks.base)
    c.mm = get_task_mm(c, t)
    if not c.mm:
        return -ESRCH
    switch_mm(c)
    return 0


cdef mig_t *mig_ready(machine_t *m, mig_t *g, uint32_t cpu, uint32_t kind, bint timed) noexcept nogil:
    """Give a free record a context and an empty stack; NULL if memory is short: the record is free again."""
    cdef ctx_t *c = ctx_get(m)
    if c == NULL:
        mig_put(g)
        return NULL
    ctx_bind(c, cpu)
    c.data = NULL
    c.watch = NULL
    c.outside_fn = outside
    c.wait_fn = stop_to_wait
    c.wait_mode = MODE_ACTORS
    c.pause_fn = NULL
    if timed:
        c.pause_fn = stop
    c.mig = g
    c.held = 1
    c.places = &g.places
    g.kind = kind
    g.rule = g.pass_ = g.n = 0
    pmg_store32(&g.at, 0)
    g.untold = False
    g.flushes = 0
    g.ipis = g.copied = 0
    g.places.n = g.places.unread = g.places.stands = g.places.straight = 0
    g.request = NULL
    g.stop = NULL
    g.rc = 0
    memset(g.a, 0, sizeof(g.a))
    memset(g.u, 0, sizeof(g.u))
    pmg_add32(&m.migs_busy, 1)
    pmg_spin_lock(&m.ctx_lock)
    g.c = c
    g.timed = timed
    g.published = False
    g.generation += 1
    pmg_spin_unlock(&m.ctx_lock)
    mig_let(g)                      # only now: a thread that steps with the old handle sees another generation
    pmg_fiber_begin(&g.fiber, run, g)
    return g


cdef mig_t *mig_begin(machine_t *m, uint32_t pid, uint32_t cpu, uint32_t kind, bint timed, int *error) noexcept nogil:
    cdef mig_t *g
    error[0] = -EINVAL
    if cpu >= m.nr_cpus:
        return NULL
    error[0] = -ENOMEM
    g = mig_new(m)
    if g != NULL:
        g = mig_ready(m, g, cpu, kind, timed)
    if g == NULL:
        return NULL
    g.pid = pid
    error[0] = take_caller(g, pid)
    if error[0]:
        g.fiber.done = 1
        mig_free(g)
        return NULL
    return g


cdef void mig_publish(mig_t *g) noexcept nogil:
    pmg_spin_lock(&g.m.ctx_lock)
    g.published = True
    pmg_spin_unlock(&g.m.ctx_lock)


cdef inline bint unwanted(mig_t *g, uint64_t at) noexcept nogil:
    """Ask the caller of a migration that begins, behind each piece of its arguments."""
    return at != 0 and g.stop != NULL and g.stop(g.stop_private)


cdef int mig_user(mig_t *g, uint32_t i, const pmg_user_t *user, uint64_t bytes) noexcept nogil:
    cdef uint64_t n = min(user.bytes, bytes), at = 0
    g.u[i] = user[0]
    if user.p == NULL or user.p == PMG_BAD:
        return 0
    g.u[i].bytes = n
    g.u[i].p = get_room(g, i, n)
    if g.u[i].p == NULL:
        return -ENOMEM
    while at < n:
        if unwanted(g, at):
            return -EINTR
        memcpy(<char *> g.u[i].p + at, <const char *> user.p + at, min(<uint64_t> PIECE, n - at))
        at += PIECE
    return 0


cdef int mig_status(mig_t *g, uint32_t i, const pmg_user_t *user, uint64_t n, int32_t fill) noexcept nogil:
    cdef uint64_t room = min(n, user_entries(user, 4)), at = 0
    g.u[i] = user[0]
    if user.p == NULL or user.p == PMG_BAD:
        return 0
    g.u[i].bytes = room * 4
    g.u[i].p = get_room(g, i, room * 4)
    if g.u[i].p == NULL:
        return -ENOMEM
    while at < room:
        if unwanted(g, at):
            return -EINTR
        wmemset(<wchar_t *> g.u[i].p + at, fill, min(<uint64_t> (PIECE // 4), room - at))
        at += PIECE // 4
    return 0


cdef bint mig_same(mig_t *g, uint32_t i, const pmg_user_t *user, uint64_t bytes) noexcept nogil:
    cdef pmg_user_t *copy = &g.u[i]
    if user.p == NULL or user.p == PMG_BAD or copy.p == NULL or copy.p == PMG_BAD:
        return user.p == copy.p
    return copy.bytes == min(user.bytes, bytes) and memcmp(copy.p, user.p, copy.bytes) == 0


cdef void mig_free(mig_t *g) noexcept nogil:
    cdef ctx_t *c = g.c
    if not g.fiber.done:
        mig_abort(g)
    pmg_spin_lock(&g.m.ctx_lock)
    g.c = NULL
    pmg_spin_unlock(&g.m.ctx_lock)
    forget_copies(g)
    c.wait_mode = MODE_THREADS
    pmg_add32(&g.m.migs_running, 1)
    let_go(c)                   # for a call that never began
    pmg_add32(&g.m.migs_running, <uint32_t> -1)
    c.held = c.abort = c.target_mm = c.hook_error = 0
    c.outside_fn = NULL
    g.request = NULL
    c.pause_fn = NULL
    c.mig = NULL
    c.places = NULL
    ctx_put(c)
    pmg_add32(&g.m.migs_busy, <uint32_t> -1)
    mig_put(g)


# -- steps -----------------------------------------------------------------------------------------------------


cdef void go_on(mig_t *g) noexcept nogil:
    """Resume the fiber until it stops; run its requests here in between."""
    cdef void (*fn)(void *arg) noexcept nogil
    if g.fiber.done:
        return
    pmg_add32(&g.m.migs_running, 1)
    pmg_fiber_enter(&g.fiber)
    while g.request != NULL:
        fn = g.request
        g.request = NULL
        fn(g.request_arg)
        pmg_fiber_enter(&g.fiber)
    pmg_add32(&g.m.migs_running, <uint32_t> -1)


cdef int mig_step(mig_t *g, bint looks) noexcept nogil:
    g.c.signal_fn = NULL
    if looks:
        g.c.signal_fn = stop_to_look
    go_on(g)
    return <int> g.at


cdef int mig_finish(mig_t *g, bint looks) noexcept nogil:
    """Run on without stops, except to wait or, with ``looks``, for a check for signals."""
    g.untold = False
    g.c.pause_fn = NULL
    mig_step(g, looks)
    if not g.fiber.done and g.timed:
        g.c.pause_fn = stop                     # the caller may step it again
    return <int> g.at


cdef bint mig_owned(mig_t *g) noexcept nogil:
    return pmg_cas32(&g.busy, 0, 1)


cdef void mig_let(mig_t *g) noexcept nogil:
    pmg_store32_rel(&g.busy, 0)


cdef void mig_abort(mig_t *g) noexcept nogil:
    g.c.abort = 1
    if g.at == 0:                               # it has not begun: nothing to undo
        g.rc = -EINTR
        pmg_store32(&g.at, MIG_DONE)
        g.fiber.done = 1
    while not g.fiber.done:
        go_on(g)


# -- saving and loading ------------------------------------------------------------------------------------------


cdef enum:
    MANY_MIGS = 1 << 16         # limit for a saved machine
    NULL_MEMORY = 0
    BAD_MEMORY = 1
    SOME_MEMORY = 2


cdef uint64_t migs_on_their_way(machine_t *m, uint64_t *out, uint64_t n) noexcept nogil:
    cdef mig_t *g
    cdef uint64_t found = 0
    cdef uint32_t i
    pmg_spin_lock(&m.ctx_lock)
    for i in range(m.nr_migs):
        g = <mig_t *> m.mig_table[i]
        if g.c != NULL and g.published:
            if found < n:
                out[found] = <uint64_t> i << 32 | g.generation
            found += 1
    pmg_spin_unlock(&m.ctx_lock)
    return found


cdef void code_memory(coder_t *w, mig_t *g, uint32_t i) noexcept nogil:
    """Code the copy of argument i."""
    cdef pmg_user_t *u = &g.u[i]
    cdef uint32_t kind = NULL_MEMORY if u.p == NULL else BAD_MEMORY if u.p == PMG_BAD else SOME_MEMORY
    code_u32(w, &kind, SOME_MEMORY + 1)
    code_u64(w, &u.bytes, ~<uint64_t> 0)
    if kind != SOME_MEMORY:
        if w.way == WAY_READ:
            u.p = <void *> PMG_BAD if kind == BAD_MEMORY else NULL
        return
    if w.way == WAY_READ:
        u.p = NULL
        if w.why != NULL or u.bytes > w.n - w.at:
            wrong(w)
            return
        u.p = get_room(g, i, u.bytes)
        if u.p == NULL:
            w.why = b""
            return
    code_bytes(w, u.p, u.bytes)


cdef void code_context(coder_t *w, ctx_t *c) noexcept nogil:
    """Code what the context of a call holds at a stop; its counts are saved with those of the processors."""
    cdef uint64_t traced
    cdef uint32_t i
    code_u32(w, &c.task, w.m.tasks.fresh)
    code_u32(w, &c.mm, w.m.mms.fresh)
    code_u32(w, &c.target_mm, w.m.mms.fresh)
    code_u32(w, &c.wait_what, WAIT_PASS + 1)
    code_bytes(w, &c.wait_which, 4)
    code_u32(w, &c.lru_disabled, 2)
    code_u32(w, &c.flush_pending, 2)
    code_bytes(w, c.unflushed, w.m.cpu_words * 8)
    for i in range(C_LOCK_SWAP - C_LOCK_PAGE + 1):
        traced = c.traced[i] - c.count[C_LOCK_PAGE + i]
        code_bytes(w, &traced, 8)
        if w.way == WAY_READ:
            c.traced[i] = traced
    if w.way == WAY_READ and ((c.task and task_of(w.m, c.task).users == 0) or (c.task != 0) != (c.mm != 0)):
        wrong(w)


cdef void outermost(coder_t *w, mig_t *g) noexcept nogil:
    """Set the outermost function of this kind of call, and its arguments."""
    w.mm = g.c.mm
    w.target_mm = g.c.target_mm
    w.pid = 0
    w.query = only_asks(g)
    w.entries = g.a[1] if g.kind == MIG_MOVE_PAGES else g.a[0]
    w.inner = NULL
    if g.kind == MIG_MOVE_PAGES:
        w.pid = <int32_t> g.a[0]
        w.inner = code_move_pages
        w.size = sizeof(called_t)
    elif g.kind == MIG_MIGRATE_PAGES:
        w.pid = <int32_t> g.a[0]
        w.inner = code_migrate_pages
        w.size = sizeof(called_t)
    elif g.kind == MIG_MBIND:
        code_mbind(w)
    elif g.kind == MIG_FRAMES:
        code_migrate_frames(w)


cdef bint frames_fit(machine_t *m, const mig_t *g) noexcept nogil:
    """Check the arrays of migrate_frames, which does not check their lengths."""
    cdef uint64_t i, n = g.a[0]
    for i in range(3):
        if g.u[i].p == NULL or g.u[i].p == PMG_BAD or g.u[i].bytes != n * 4:
            return n == 0
    for i in range(n):
        if (<const uint32_t *> g.u[0].p)[i] >= m.nr_frames:
            return False
    return True


cdef bint can_be(machine_t *m, const mig_t *g, bint done) noexcept nogil:
    """Check a loaded call, except for its stack."""
    cdef bint about = g.kind == MIG_MOVE_PAGES or g.kind == MIG_MIGRATE_PAGES
    if g.kind == MIG_FRAMES:
        return g.a[0] <= 1ull << 40 and frames_fit(m, g)
    return done or (g.c.mm != 0 and (about and g.at != 0) == (g.c.target_mm != 0))


cdef void code_stop(coder_t *w, mig_t *g) noexcept nogil:
    """Code the last stop; of its pages the caller hears once."""
    cdef uint32_t i
    code_u32(w, &g.at, MIG_DONE + 1)
    code_bytes(w, &g.pass_, 4)
    code_flag(w, &g.untold)
    code_bytes(w, &g.flushes, 4)
    code_bytes(w, &g.ipis, 8)
    code_bytes(w, &g.copied, 8)
    if not g.untold:
        return
    code_u32(w, &g.n, MIG_PAGES + 1)
    for i in range(g.n):
        code_u32(w, &g.src[i], w.m.nr_frames)
        code_u32(w, &g.dst[i], w.m.nr_frames)


cdef void code_mig(coder_t *w, mig_t *g) noexcept nogil:
    """Code one call."""
    cdef bint done = g.fiber.done != 0
    cdef uint32_t i
    code_bytes(w, &g.pid, 4)
    for i in range(6):
        code_bytes(w, &g.a[i], 8)
    for i in range(3):
        code_memory(w, g, i)
    code_flag(w, &done)
    code_i64(w, &g.rc)
    code_bytes(w, &g.rule, 4)
    code_stop(w, g)
    code_context(w, g.c)
    if w.way == WAY_READ and (w.why != NULL or done != (g.at == MIG_DONE) or not can_be(w.m, g, done)):
        wrong(w)
        return
    g.fiber.done = done
    if done or g.at == 0:
        return
    outermost(w, g)
    if w.way == WAY_READ:
        g.places.query = w.query
        places_read(w, &g.places, w.inner, w.size)
    elif g.places.n == 0 or w.inner != g.places.at[0].code:
        stop_short(w)
    else:
        places_code(w, &g.places)


cdef const char *cannot_be_written(const mig_t *g) noexcept nogil:
    if not g.timed:
        return b"a context keeps the place of a call that waits: repeat the call until it returns, and try again"
    if g.busy or not g.published:
        return b"another thread makes a step of a migration: try again when it has ended"
    if g.c.abort or g.at == MIG_LOOKS:
        return b"a step of a migration was interrupted: step it to its next stop, and try again"
    return NULL


cdef void migs_write(coder_t *w) noexcept nogil:
    cdef mig_t *g
    cdef uint32_t i, live, n = w.m.nr_migs
    if n > MANY_MIGS:
        w.why = b"more migrations are in progress than can be saved"
        return
    code_u32(w, &n, MANY_MIGS + 1)
    for i in range(n):
        g = <mig_t *> w.m.mig_table[i]
        live = g.kind if g.c != NULL else 0
        code_bytes(w, &g.generation, 4)
        code_bytes(w, &live, 4)
        if live:
            code_bytes(w, &g.c.cpu, 4)
            w.why = cannot_be_written(g)
            if w.why == NULL:
                code_mig(w, g)
        if w.why != NULL:
            return


cdef mig_t *mig_again(machine_t *m, uint32_t generation) noexcept nogil:
    """Add a record with the next index; NULL if memory is short."""
    cdef mig_t *g = <mig_t *> calloc(1, sizeof(mig_t))
    if g == NULL:
        return NULL
    g.m = m
    g.generation = generation
    if not mig_enter(m, g):
        free(g)
        return NULL
    return g


cdef void read_one(coder_t *w) noexcept nogil:
    cdef uint32_t generation = 0, kind = 0, cpu = 0
    cdef mig_t *g
    code_bytes(w, &generation, 4)
    code_u32(w, &kind, MIG_FRAMES + 1)
    if kind:
        code_u32(w, &cpu, w.m.nr_cpus)
    if w.why != NULL:
        return
    g = mig_again(w.m, generation - (kind != 0))
    if g == NULL:
        w.why = b""
    elif kind == 0:
        mig_put(g)
    elif pmg_fiber_new(&g.fiber, STACK_BYTES) or mig_ready(w.m, g, cpu, kind, True) == NULL:
        w.why = b""
    else:
        code_mig(w, g)
        mig_publish(g)
        w.m.lru_disable_count += g.c.lru_disabled


cdef void migs_read(coder_t *w) noexcept nogil:
    cdef uint32_t _i, n = 0
    code_u32(w, &n, MANY_MIGS + 1)
    for _i in range(n):
        if w.why == NULL:
            read_one(w)
    if w.at != w.n:
        wrong(w)
