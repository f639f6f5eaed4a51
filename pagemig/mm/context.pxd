"""Contexts, one per call and thread; event counters; the wait seam; the page lock and mmap_lock, which wait through it."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_load, pmg_or
from pagemig.mm.page_alloc cimport mm_cpumask
from pagemig.mm.types cimport ctx_t, machine_t, vm_event_state_t

cdef extern from "pagemig/atomics.h" nogil:
    enum:                       # of the word of a reader/writer lock; the rest counts readers
        RW_WRITER "PMG_RW_WRITER"
        RW_PENDING "PMG_RW_PENDING"         # a writer waits, so no reader may come

# -- contexts and waiting ---------------------------------------------------------------------------------------
cdef ctx_t *ctx_get(machine_t *m) noexcept nogil                    # of no process, on processor 0; NULL: no memory
cdef void ctx_put(ctx_t *c) noexcept nogil
cdef void ctx_bind(ctx_t *c, uint32_t cpu) noexcept nogil


cdef inline void switch_mm(ctx_t *c) noexcept nogil:
    """Mark the context's processor in mm_cpumask: it may hold translations of the address space from now on."""
    cdef uint64_t *word = mm_cpumask(c.m, c.mm) + (c.cpu >> 6)
    if not pmg_load(word) >> (c.cpu & 63) & 1:
        pmg_or(word, <uint64_t> 1 << (c.cpu & 63))

cdef void ctx_release_all(machine_t *m) noexcept nogil
cdef ctx_t *ctx_first(machine_t *m) noexcept nogil                  # of all ever made; ctx.older is the next
cdef uint32_t calls_running(machine_t *m) noexcept nogil            # number of calls that threads make at the moment
cdef uint32_t ctx_idle(machine_t *m) noexcept nogil                 # number of those without a process or a call
cdef bint ctx_bound(machine_t *m) noexcept nogil                    # whether one of them has a process
cdef void vm_events_fold(ctx_t *c) noexcept nogil                    # add the context's counts to its processor's
# move the counts of one context to another
cdef void vm_events_hand(ctx_t *c, ctx_t *to) noexcept nogil
cdef void all_vm_events(machine_t *m, uint64_t *out) noexcept nogil     # NR_COUNTERS words
# add the counts of all contexts to a copy of the processors' counts
cdef void add_vm_events(machine_t *m, vm_event_state_t *to) noexcept nogil


cdef inline void wait_over(ctx_t *c, int what, uint32_t which) noexcept nogil:
    """End a wait: waiting for the same thing again counts anew."""
    if c.wait_what == <uint32_t> what and c.wait_which == which:
        c.wait_what = 0


cdef inline bint waits_anew(const ctx_t *c, int what, uint32_t which) noexcept nogil:
    """Whether this wait is a new one: a host that owns time polls, and a wait counts once."""
    return c.wait_what != <uint32_t> what or c.wait_which != which

cdef enum:
    LOOK_EVERY = 1 << 13        # pages of work between two looks at the clock at most
    LOOK_FIRST = 1 << 6         # and at least

cdef bint look_for_signals(ctx_t *c) noexcept nogil


cdef inline bint signal_pending(ctx_t *c, uint32_t pages) noexcept nogil:
    """Whether the call must end, after ``pages`` more of work.  A signal handler may run here: hold no spin lock."""
    if c.signalled:
        return True
    c.work += pages
    return c.work >= c.stride and look_for_signals(c)


cdef inline void look_sooner(ctx_t *c) noexcept nogil:
    """Look at the clock soon: work begins that may be slower than that before."""
    c.stride = LOOK_FIRST

# One round of waiting; spins counts the rounds so far.  0: look again; -PMG_WAIT: unwind, ctx.wait_what is set.
cdef int pmg_wait(ctx_t *c, int what, uint32_t which, uint32_t spins) noexcept nogil
# whether what the context waited for last may be over
cdef bint wait_may_be_over(const ctx_t *c) noexcept nogil
cdef int lock_page(ctx_t *c, uint32_t pfn) noexcept nogil           # 0 or -PMG_WAIT
cdef bint lock_page_or_not(ctx_t *c, uint32_t pfn) noexcept nogil
cdef int mmap_read_lock(ctx_t *c, uint32_t mm) noexcept nogil       # 0 or -PMG_WAIT
cdef int mmap_write_lock(ctx_t *c, uint32_t mm) noexcept nogil
cdef void mmap_read_unlock(ctx_t *c, uint32_t mm) noexcept nogil
cdef void mmap_write_unlock(ctx_t *c, uint32_t mm) noexcept nogil
