"""Callbacks of a host during calls: flushes, targets, moved pages, steps, faults; and counts of copies and flushes."""
from libc.errno cimport ENOMEM
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from pagemig.mm.atomic cimport (
    pmg_add32, pmg_load, pmg_load_ptr, pmg_popcount, pmg_spin_lock, pmg_spin_unlock, pmg_store, pmg_store_ptr,
)
from pagemig.mm.page_alloc cimport mm_cpumask, mm_of, page_to_nid
from pagemig.mm.types cimport ctx_t, machine_t

cdef extern from "pthread.h" nogil:
    ctypedef unsigned long pthread_t
    pthread_t pthread_self()


# -- the callbacks of a machine ----------------------------------------------------------------------------------


cdef struct notifier_t:         # type-stable: a call may look into one that was replaced; freed with the machine
    pmg_callbacks callbacks     # written as words, since calls look at them without a lock
    notifier_t *next            # those set before, to be used again once no callback of theirs runs

cdef watch_t nobody             # of calls from Python, which count nothing: never written


cdef inline bint runs(machine_t *m, const notifier_t *n) noexcept nogil:
    """Whether a callback of a table runs, or is about to; ctx_lock held."""
    cdef running_t *r = <running_t *> m.running
    while r != NULL and r.notifier != n:
        r = r.next
    return r != NULL


cdef notifier_t *unused(machine_t *m) noexcept nogil:
    """Take a table out of those that were replaced, or make one; ctx_lock held.  NULL: no memory."""
    cdef notifier_t **link = <notifier_t **> &m.notifiers
    cdef notifier_t *n
    if link[0] != NULL:
        link = &link[0].next                    # the current one, or the one before no callbacks
    while link[0] != NULL and runs(m, link[0]):
        link = &link[0].next
    n = link[0]
    if n != NULL:
        link[0] = n.next
        return n
    return <notifier_t *> calloc(1, sizeof(notifier_t))


cdef int set_callbacks(machine_t *m, const pmg_callbacks *callbacks) noexcept nogil:
    cdef pmg_callbacks all_
    cdef notifier_t *n
    cdef uint32_t i
    if callbacks == NULL:
        pmg_spin_lock(&m.ctx_lock)
        pmg_store_ptr(&m.watch, NULL)
        pmg_spin_unlock(&m.ctx_lock)
        return 0
    memset(&all_, 0, sizeof(all_))
    memcpy(&all_, callbacks, min(callbacks.size, <uint32_t> sizeof(all_)))
    pmg_spin_lock(&m.ctx_lock)
    n = unused(m)
    if n != NULL:
        for i in range(sizeof(all_) // 8):
            pmg_store(<uint64_t *> &n.callbacks + i, (<const uint64_t *> &all_)[i])
        n.next = <notifier_t *> m.notifiers
        pmg_store_ptr(&m.notifiers, n)
        pmg_store_ptr(&m.watch, &nobody)
    pmg_spin_unlock(&m.ctx_lock)
    return 0 if n != NULL else -ENOMEM


cdef bint callbacks_used(machine_t *m, const void *priv) noexcept nogil:
    cdef running_t *r
    cdef bint used
    pmg_spin_lock(&m.ctx_lock)
    used = m.watch != NULL and (<notifier_t *> m.notifiers).callbacks.priv == priv
    r = <running_t *> m.running
    while r != NULL and not used:
        used = r.notifier.callbacks.priv == priv
        r = r.next
    pmg_spin_unlock(&m.ctx_lock)
    return used


cdef void callbacks_release(machine_t *m) noexcept nogil:
    """Free the callbacks, with the machine; no call is under way."""
    cdef notifier_t *n = <notifier_t *> m.notifiers
    cdef notifier_t *older
    while n != NULL:
        older = n.next
        free(n)
        n = older
    m.watch = m.notifiers = NULL


cdef enum:                      # in the order of pmg_callbacks
    TARGET, FLUSH, MOVED, STEP, FAULT


cdef inline void **function_of(notifier_t *n, uint32_t which) noexcept nogil:
    return <void **> &n.callbacks.target + which


cdef inline bint hears(const ctx_t *c, uint32_t which) noexcept nogil:
    """Whether a context reports an event to a callback, as of now."""
    if c.watch == NULL or pmg_load_ptr(&c.m.watch) == NULL:
        return False
    return pmg_load_ptr(function_of(<notifier_t *> pmg_load_ptr(&c.m.notifiers), which)) != NULL


cdef bint hears_target(const ctx_t *c) noexcept nogil:
    return hears(c, TARGET)


cdef bint hears_moved(const ctx_t *c) noexcept nogil:
    return hears(c, MOVED)


cdef bint hears_steps(const ctx_t *c) noexcept nogil:
    return hears(c, STEP)


cdef bint hears_flushes(const ctx_t *c) noexcept nogil:
    return hears(c, FLUSH)


cdef bint hears_pages(const ctx_t *c) noexcept nogil:
    return hears(c, TARGET) or hears(c, FLUSH) or hears(c, MOVED) or hears(c, STEP)


# -- calling one -------------------------------------------------------------------------------------------------


cdef struct running_t:          # a callback that is running
    ctx_t *c
    notifier_t *notifier
    pmg_ctx *host
    uint32_t which
    bint locks                  # the call holds locks
    pthread_t thread
    running_t *next             # further running callbacks; guarded by machine.ctx_lock
    # arguments
    const pmg_flush *flush
    const uint32_t *first
    const uint32_t *second
    const int32_t *result
    uint64_t va
    uint32_t n, number
    int32_t wanted
    int32_t answer


cdef bint enter(running_t *r) noexcept nogil:
    """Note that a callback runs; False: it was replaced meanwhile by none."""
    cdef machine_t *m = r.c.m
    cdef bint there
    r.thread = pthread_self()
    pmg_spin_lock(&m.ctx_lock)
    r.notifier = <notifier_t *> m.notifiers
    there = m.watch != NULL and function_of(r.notifier, r.which)[0] != NULL
    if there:
        r.next = <running_t *> m.running
        m.running = r
    pmg_spin_unlock(&m.ctx_lock)
    if there:
        pmg_add32(&m.in_hooks, 1)
    return there


cdef void leave(running_t *r) noexcept nogil:
    cdef machine_t *m = r.c.m
    cdef running_t **link = <running_t **> &m.running
    pmg_spin_lock(&m.ctx_lock)
    while link[0] != r:
        link = &link[0].next
    link[0] = r.next
    pmg_spin_unlock(&m.ctx_lock)
    pmg_add32(&m.in_hooks, <uint32_t> -1)


cdef void perform(void *arg) noexcept nogil:
    cdef running_t *r = <running_t *> arg
    cdef const pmg_callbacks *cb
    if not enter(r):
        return
    cb = &r.notifier.callbacks
    if r.which == TARGET:
        r.answer = cb.target(cb.priv, r.host, r.n, r.wanted)
    elif r.which == FLUSH:
        r.answer = cb.flush(cb.priv, r.host, r.flush)
    elif r.which == MOVED:
        r.answer = cb.moved(cb.priv, r.host, r.first, r.second, r.result, r.n)
    elif r.which == STEP:
        r.answer = cb.step(cb.priv, r.host, r.number, r.first, r.n)
    else:
        r.answer = cb.fault(cb.priv, r.host, r.va, r.number, r.n)
    leave(r)


cdef void run_outside(ctx_t *c, void (*fn)(void *arg) noexcept nogil, void *arg) noexcept nogil:
    if c.outside_fn != NULL:
        c.outside_fn(c, fn, arg)
    else:
        fn(arg)


cdef void fail_call(ctx_t *c) noexcept nogil:
    """Make the call end early, with an error."""
    c.hook_error = c.abort = 1


cdef void call(ctx_t *c, running_t *r, uint32_t which, bint locks) noexcept nogil:
    r.c = c
    r.host = (<watch_t *> c.watch).host
    r.which = which
    r.locks = locks
    r.answer = -1 if which == TARGET else 0
    run_outside(c, perform, r)
    if r.answer and which != TARGET:
        fail_call(c)


cdef bint refuses_call(machine_t *m, const pmg_ctx *host) noexcept nogil:
    """Whether a call is forbidden: any call of a thread whose callback runs under locks, and any with a busy context."""
    cdef running_t *r
    cdef bint refused = False
    cdef pthread_t self = pthread_self()
    pmg_spin_lock(&m.ctx_lock)
    r = <running_t *> m.running
    while r != NULL and not refused:
        refused = r.host == host if host != NULL else False
        refused |= r.locks and r.thread == self
        r = r.next
    pmg_spin_unlock(&m.ctx_lock)
    return refused


# -- flushes -----------------------------------------------------------------------------------------------------


cdef uint32_t other_cpus(const ctx_t *c, const uint64_t *cpus) noexcept nogil:
    """Count the processors of a mask other than the caller's own: each gets an IPI."""
    cdef uint32_t i, n = 0
    for i in range(c.m.cpu_words):
        n += <uint32_t> pmg_popcount(pmg_load(cpus + i))
    return n - <uint32_t> (pmg_load(cpus + (c.cpu >> 6)) >> (c.cpu & 63) & 1)


cdef void flush(ctx_t *c, pmg_flush *f) noexcept nogil:
    cdef watch_t *w = <watch_t *> c.watch
    cdef running_t r
    f.size = sizeof(pmg_flush)
    f.words = c.m.cpu_words
    f.ipis = other_cpus(c, f.cpus)
    if w.host != NULL:
        w.flushes += 1
        w.flushed_pages += f.n
        w.ipis += f.ipis
    if hears(c, FLUSH):
        r.flush = f
        call(c, &r, FLUSH, True)


cdef void tell_flush(ctx_t *c, uint32_t mm, uint64_t start, uint64_t n, uint32_t why) noexcept nogil:
    cdef pmg_flush f
    f.why = why
    f.cr3 = (c.m.table_pfn + mm_of(c.m, mm).pgd) << 12
    f.va = start << 12
    f.n = n
    f.cpus = mm_cpumask(c.m, mm)
    flush(c, &f)


cdef void count_flushes(ctx_t *c, uint32_t mm, uint64_t n) noexcept nogil:
    """Count ``n`` flushes of one page each, as flush_tlb() would, where no callback hears of them."""
    cdef watch_t *w = <watch_t *> c.watch
    if w.host == NULL or n == 0:
        return
    w.flushes += n
    w.flushed_pages += n
    w.ipis += n * other_cpus(c, mm_cpumask(c.m, mm))


cdef void flush_later(ctx_t *c, uint32_t mm) noexcept nogil:
    """``set_tlb_ubc_flush_pending``."""
    cdef uint32_t i
    c.flush_pending = 1
    for i in range(c.m.cpu_words):
        c.unflushed[i] |= pmg_load(mm_cpumask(c.m, mm) + i)


cdef void flush_batch(ctx_t *c) noexcept nogil:
    """``try_to_unmap_flush``: flush for all pages of the batch at once."""
    cdef pmg_flush f
    if c.watch == NULL or not c.flush_pending:
        return
    f.why = PMG_F_MIGRATE
    f.cr3 = f.va = f.n = 0
    f.cpus = c.unflushed
    flush(c, &f)
    c.flush_pending = 0
    memset(c.unflushed, 0, c.m.cpu_words * 8)


# -- copies, moves, steps, faults --------------------------------------------------------------------------------


cdef void add_bytes(machine_t *m, const uint32_t *pfns, uint32_t n, uint64_t *bytes_) noexcept nogil:
    """Count the bytes of pages by node: at once where one node has them all, as most stages do."""
    cdef int32_t nid = page_to_nid(m, pfns[0])
    cdef uint32_t first = <uint32_t> m.node[nid].first, pages = <uint32_t> (m.node[nid].end - m.node[nid].first)
    cdef uint32_t i, there = 0
    for i in range(n):                      # without a branch, which compilers vectorise
        there += pfns[i] - first < pages
    if there == n:
        bytes_[nid] += <uint64_t> n * 4096
        return
    for i in range(n):
        bytes_[page_to_nid(m, pfns[i])] += 4096


cdef void count_copies(ctx_t *c, const uint32_t *src, const uint32_t *dst, uint32_t n) noexcept nogil:
    cdef watch_t *w = <watch_t *> c.watch
    if w.host != NULL and n:
        w.pages_copied += n
        add_bytes(c.m, src, n, w.bytes_from)
        add_bytes(c.m, dst, n, w.bytes_to)


cdef void tell_moved(
        ctx_t *c, const uint32_t *src, const uint32_t *dst, const int32_t *result, uint32_t n) noexcept nogil:
    cdef running_t r
    if n and hears(c, MOVED):
        r.first = src
        r.second = dst
        r.result = result
        r.n = n
        call(c, &r, MOVED, False)


cdef void tell_step(ctx_t *c, int step, const uint32_t *pfns, uint32_t n) noexcept nogil:
    cdef running_t r
    if hears(c, STEP):
        r.number = <uint32_t> step
        r.first = pfns
        r.n = n
        call(c, &r, STEP, False)


cdef void tell_fault(ctx_t *c, uint64_t vpn, uint32_t kind, uint32_t pfn) noexcept nogil:
    cdef running_t r
    if hears(c, FAULT):
        r.va = vpn << 12
        r.number = kind
        r.n = pfn
        call(c, &r, FAULT, True)


cdef int32_t ask_target(ctx_t *c, uint32_t pfn, int32_t wanted) noexcept nogil:
    cdef running_t r
    if not hears(c, TARGET):
        return -1
    r.n = pfn
    r.wanted = max(wanted, -1)
    call(c, &r, TARGET, True)
    if r.answer < -1 or r.answer >= <int32_t> c.m.nr_nodes or \
            (r.answer >= 0 and not pmg_load(&c.m.online) >> r.answer & 1):
        fail_call(c)
        return -2
    return r.answer
