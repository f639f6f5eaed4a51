"""Contexts, one per call and thread; event counters; the wait seam; the page lock and mmap_lock, which wait through it.

A context is host memory and no part of the machine.  It counts events itself and adds them to its modelled processor's when
the call ends.  So counting takes no lock, and the counters do not depend on the host's threads.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from pagemig.mm.atomic cimport (
    pmg_add32, pmg_load, pmg_load32, pmg_load32_acq, pmg_load_ptr, pmg_read_trylock, pmg_read_unlock, PMG_RELAX,
    pmg_spin_lock, pmg_spin_unlock, pmg_store, pmg_store32, pmg_store32_rel, pmg_store_ptr, pmg_write_forget,
    pmg_write_trylock, pmg_write_unlock, pmg_yield,
)
from pagemig.mm.frame cimport page_test, trylock_page
from pagemig.mm.page_alloc cimport count_event, file_of, mm_of
from pagemig.mm.types cimport (
    C_HOST_MM_CONTENDED, C_HOST_PAGE_CONTENDED, C_HOST_WAITS, C_LOCK_PAGE, C_LOCK_SWAP, ctx_t, machine_t, MODE_ACTORS,
    MODE_HOST, NR_COUNTERS, PG_locked, PG_writeback, PMG_WAIT, vm_event_state_t, WAIT_I_RWSEM, WAIT_MM, WAIT_PAGE,
    WAIT_WRITEBACK,
)


cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)


cdef extern from "<time.h>" nogil:
    ctypedef struct timespec_t "struct timespec":
        long tv_sec, tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec_t *t)


cdef enum:
    BETWEEN_LOOKS_NS = 25000000
    SHORT_NS = 4000000          # between two looks at the clock: there may be more pages between them
    LONG_NS = 12000000          # there must be fewer
    WAIT_WORK = 32              # pages of work that a round of waiting counts as
    MIG_PATIENCE = 1 << 20      # rounds of no_use_to_wait(): some tenths of a second


# -- contexts --------------------------------------------------------------------------------------------------


cdef ctx_t *ctx_new(machine_t *m) noexcept nogil:
    """Make a context, which the machine keeps until it is freed itself; ctx_lock held."""
    cdef size_t size = (sizeof(ctx_t) + 63) & ~<size_t> 63          # two contexts never share a cache line
    cdef ctx_t *c = <ctx_t *> aligned_alloc(64, size)
    if c != NULL:
        memset(c, 0, size)
        c.m = m
        c.id = m.nr_ctx
        c.older = m.ctx_newest
        m.nr_ctx += 1
        pmg_store_ptr(<void **> &m.ctx_newest, c)
    return c


cdef ctx_t *ctx_get(machine_t *m) noexcept nogil:
    cdef ctx_t *c
    pmg_spin_lock(&m.ctx_lock)
    c = m.ctx_free
    if c != NULL:
        m.ctx_free = c.next
    else:
        c = ctx_new(m)
    if c != NULL:
        pmg_store32(&m.ctx_busy, m.ctx_busy + 1)
    pmg_spin_unlock(&m.ctx_lock)
    if c != NULL:
        c.task = 0
        c.mm = 0
        c.wait_what = 0
        c.dispensable = 0
        c.nested_deadline = 0
        c.watch = pmg_load_ptr(&m.watch)
        c.gather = NULL
        c.outside_fn = NULL
        c.hook_error = c.abort = 0
        c.signalled = 0
        c.work = 0
        c.stride = LOOK_FIRST
        c.clock_ns = 0
        c.signal_fn = NULL
        ctx_bind(c, 0)
    return c


cdef void ctx_put(ctx_t *c) noexcept nogil:
    cdef machine_t *m = c.m
    vm_events_fold(c)
    if c.stats_slot:
        pmg_store32_rel(&m.stats_busy[c.stats_slot - 1], 0)
        c.stats_slot = 0
    pmg_spin_lock(&m.ctx_lock)
    c.next = m.ctx_free
    m.ctx_free = c
    pmg_store32(&m.ctx_busy, m.ctx_busy - 1)
    pmg_spin_unlock(&m.ctx_lock)


cdef void ctx_bind(ctx_t *c, uint32_t cpu) noexcept nogil:
    """Move the context to a modelled processor."""
    c.cpu = cpu
    c.nid = <int32_t> c.m.cpu_node[cpu]
    c.pcp = c.m.pcp + <uint64_t> cpu * c.m.nr_nodes


cdef void ctx_release_all(machine_t *m) noexcept nogil:
    """Free all contexts, with the machine; no call is under way."""
    cdef ctx_t *c = m.ctx_newest
    cdef ctx_t *older
    while c != NULL:
        older = c.older
        free(c)
        c = older
    m.ctx_newest = m.ctx_free = NULL


cdef ctx_t *ctx_first(machine_t *m) noexcept nogil:
    return <ctx_t *> pmg_load_ptr(<void **> &m.ctx_newest)


cdef uint32_t calls_running(machine_t *m) noexcept nogil:
    """Count the calls that threads make at the moment; accesses of a context that owns time are not among them."""
    cdef ctx_t *c
    cdef uint32_t n
    pmg_spin_lock(&m.ctx_lock)                      # no context comes or goes meanwhile
    n = m.ctx_busy + pmg_load32(&m.migs_running)
    c = m.ctx_newest
    while c != NULL:
        n -= pmg_load32(&c.held) != 0 and not pmg_load32_acq(&c.inside)
        c = c.older
    pmg_spin_unlock(&m.ctx_lock)
    return n


cdef uint32_t ctx_idle(machine_t *m) noexcept nogil:
    """Count the contexts that are kept between calls without a process or a call that waits."""
    cdef ctx_t *c = ctx_first(m)
    cdef uint32_t n = 0
    while c != NULL:
        n += pmg_load32(&c.held) != 0 and not pmg_load32(&c.inside) and c.task == 0 and c.mm == 0 and c.mig == NULL
        c = c.older
    return n


cdef bint ctx_bound(machine_t *m) noexcept nogil:
    """Whether a host keeps a context that has a process."""
    cdef ctx_t *c = ctx_first(m)
    while c != NULL:
        if pmg_load32(&c.held) and c.mig == NULL and (c.task or c.mm):
            return True
        c = c.older
    return False


# -- event counters ----------------------------------------------------------------------------------------------


cdef void hand_over(ctx_t *c, uint32_t cpu, uint64_t *count, uint64_t *traced) noexcept nogil:
    """Move the context's counts to ``count``, under the lock of a processor's events.

    The difference that a trace has yet to record stays with the context; ``traced`` (may be NULL) moves along with
    ``count``.
    """
    cdef vm_event_state_t *events = &c.m.vm_events[cpu]
    cdef int k
    cdef uint64_t n
    pmg_spin_lock(&events.lock)
    for k in range(NR_COUNTERS):
        n = pmg_load(&c.count[k])
        if n:
            pmg_store(count + k, pmg_load(count + k) + n)
            pmg_store(&c.count[k], 0)
            if C_LOCK_PAGE <= k <= C_LOCK_SWAP:
                c.traced[k - <int> C_LOCK_PAGE] -= n
                if traced != NULL:
                    traced[k - <int> C_LOCK_PAGE] += n
    pmg_spin_unlock(&events.lock)


cdef void vm_events_fold(ctx_t *c) noexcept nogil:
    hand_over(c, c.cpu, c.m.vm_events[c.cpu].count, NULL)


cdef void vm_events_hand(ctx_t *c, ctx_t *to) noexcept nogil:
    hand_over(c, to.cpu, to.count, to.traced)


cdef void all_vm_events(machine_t *m, uint64_t *out) noexcept nogil:
    """Sum the counters of the whole machine, calls under way included; a call that ends meanwhile counts exactly once."""
    cdef uint32_t cpu
    cdef int k
    cdef ctx_t *c
    memset(out, 0, NR_COUNTERS * 8)
    for cpu in range(m.nr_cpus):
        pmg_spin_lock(&m.vm_events[cpu].lock)
    for cpu in range(m.nr_cpus):
        for k in range(NR_COUNTERS):
            out[k] += pmg_load(&m.vm_events[cpu].count[k])
    c = ctx_first(m)
    while c != NULL:
        for k in range(NR_COUNTERS):
            out[k] += pmg_load(&c.count[k])
        c = c.older
    for cpu in range(m.nr_cpus):
        pmg_spin_unlock(&m.vm_events[cpu].lock)


cdef void add_vm_events(machine_t *m, vm_event_state_t *to) noexcept nogil:
    """Add the counts that contexts have not folded yet; no call is running."""
    cdef ctx_t *c = ctx_first(m)
    cdef int k
    while c != NULL:
        for k in range(NR_COUNTERS):
            to[c.cpu].count[k] += pmg_load(&c.count[k])
        c = c.older


# -- signals -----------------------------------------------------------------------------------------------------


cdef uint64_t clock_now() noexcept nogil:
    cdef timespec_t t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t> t.tv_sec * 1000000000 + <uint64_t> t.tv_nsec


cdef inline void set_stride(ctx_t *c, uint64_t took) noexcept nogil:
    """Follow the pace: pages take a thousand times longer where the host has yet to provide the memory of their records."""
    if took < SHORT_NS:
        c.stride = min(c.stride * 2, <uint32_t> LOOK_EVERY)
    elif took > LONG_NS:
        c.stride = max(c.stride // 4, <uint32_t> LOOK_FIRST)


cdef bint look_for_signals(ctx_t *c) noexcept nogil:
    """Ask for signals, at most every BETWEEN_LOOKS_NS: asking takes the interpreter lock."""
    cdef uint64_t now
    c.work = 0
    if c.signal_fn == NULL:
        c.stride = LOOK_EVERY
        return False
    now = clock_now()
    if c.clock_ns:
        set_stride(c, now - c.clock_ns)
    else:
        c.looked_ns = now
    c.clock_ns = now
    if now - c.looked_ns < BETWEEN_LOOKS_NS:
        return False
    if c.signal_fn(c):
        c.signalled = c.abort = 1
    c.looked_ns = c.clock_ns = clock_now()
    return c.signalled != 0


# -- waiting -----------------------------------------------------------------------------------------------------


cdef int pmg_wait(ctx_t *c, int what, uint32_t which, uint32_t spins) noexcept nogil:
    """Do one round of waiting, the only place that waits: for a page lock, migration entry, writeback, mm or inode lock.

    A host that polls repeats the same wait, which counts once.
    """
    if spins == 0 and waits_anew(c, what, which):
        count_event(c, C_HOST_WAITS, 1)
    c.wait_what = what
    c.wait_which = which
    if c.wait_mode == MODE_HOST:
        return -PMG_WAIT
    if c.wait_mode == MODE_ACTORS and c.wait_fn != NULL:
        return c.wait_fn(c, what, which)
    if not c.dispensable and signal_pending(c, WAIT_WORK):
        return -PMG_WAIT
    if spins % 256 < 200:
        PMG_RELAX()
    else:
        pmg_yield()
    return 0


cdef bint lock_may_be_had(const uint32_t *word) noexcept nogil:
    """Whether a reader, or the writer that has announced itself, could take a lock."""
    cdef uint32_t held = pmg_load32(word)
    return held & ~RW_PENDING == 0 or not held & (RW_WRITER | RW_PENDING)


cdef bint wait_may_be_over(const ctx_t *c) noexcept nogil:
    if c.wait_what == WAIT_PAGE:
        return not page_test(c.m, c.wait_which, PG_locked)
    if c.wait_what == WAIT_WRITEBACK:
        return not page_test(c.m, c.wait_which, PG_writeback)
    if c.wait_what == WAIT_MM:
        return lock_may_be_had(&mm_of(c.m, c.wait_which).lock)
    if c.wait_what == WAIT_I_RWSEM:
        return lock_may_be_had(&file_of(c.m, c.wait_which).i_rwsem)
    return True


cdef int lock_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    cdef uint32_t spins = 0
    count_event(c, C_LOCK_PAGE, waits_anew(c, WAIT_PAGE, pfn))
    while not trylock_page(c.m, pfn):
        count_event(c, C_HOST_PAGE_CONTENDED, spins == 0 and waits_anew(c, WAIT_PAGE, pfn))
        if pmg_wait(c, WAIT_PAGE, pfn, spins):
            return -PMG_WAIT
        spins += 1
    wait_over(c, WAIT_PAGE, pfn)
    return 0


cdef bint others_stand(machine_t *m) noexcept nogil:
    """Whether all other calls stand: migrations between their steps, and calls of hosts that keep their place."""
    return <int32_t> (calls_running(m) - pmg_load32(&m.evicting)) <= 0


cdef bint no_use_to_wait(ctx_t *c, uint32_t pfn, uint32_t spins) noexcept nogil:
    """Do one round of waiting for a page that a call can do without."""
    if others_stand(c.m):
        return True
    if c.mig == NULL:
        return pmg_wait(c, WAIT_PAGE, pfn, spins) != 0
    pmg_yield()                                     # a migration cannot stop here
    return spins >= MIG_PATIENCE                    # a call of this thread may have the page, where a hook steps


cdef bint lock_page_or_not(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Lock a page, unless only a call that stands could unlock it: perhaps only this very thread can step that one."""
    cdef uint32_t spins = 0, running = c.mig != NULL or c.inside != 0 or not c.held
    cdef bint locked = trylock_page(c.m, pfn)
    count_event(c, C_LOCK_PAGE, 1)
    if locked:
        return True
    count_event(c, C_HOST_PAGE_CONTENDED, 1)
    c.dispensable = 1
    pmg_add32(&c.m.evicting, running)
    while not locked and not no_use_to_wait(c, pfn, spins):
        spins += 1
        locked = trylock_page(c.m, pfn)
    pmg_add32(&c.m.evicting, -running)
    c.dispensable = 0
    wait_over(c, WAIT_PAGE, pfn)
    return locked or trylock_page(c.m, pfn)         # its call may have ended since the last look


cdef int mmap_read_lock(ctx_t *c, uint32_t mm) noexcept nogil:
    cdef uint32_t spins = 0
    cdef uint32_t *word = &mm_of(c.m, mm).lock
    while not pmg_read_trylock(word):
        count_event(c, C_HOST_MM_CONTENDED, spins == 0 and waits_anew(c, WAIT_MM, mm))
        if pmg_wait(c, WAIT_MM, mm, spins):
            return -PMG_WAIT
        spins += 1
    wait_over(c, WAIT_MM, mm)
    return 0


cdef int mmap_write_lock(ctx_t *c, uint32_t mm) noexcept nogil:
    cdef uint32_t spins = 0
    cdef uint32_t *word = &mm_of(c.m, mm).lock
    while not pmg_write_trylock(word):
        count_event(c, C_HOST_MM_CONTENDED, spins == 0 and waits_anew(c, WAIT_MM, mm))
        if pmg_wait(c, WAIT_MM, mm, spins):
            pmg_write_forget(word)
            return -PMG_WAIT
        spins += 1
    wait_over(c, WAIT_MM, mm)
    return 0


cdef void mmap_read_unlock(ctx_t *c, uint32_t mm) noexcept nogil:
    pmg_read_unlock(&mm_of(c.m, mm).lock)


cdef void mmap_write_unlock(ctx_t *c, uint32_t mm) noexcept nogil:
    pmg_write_unlock(&mm_of(c.m, mm).lock)
