"""Callbacks of a host during calls: flushes, targets, moved pages, steps, faults; and counts of copies and flushes.

They run only if ``ctx.watch`` is set; otherwise an event costs one branch.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_load32, pmg_unlikely
from pagemig.mm.types cimport ctx_t, machine_t

cdef extern from "<errno.h>" nogil:
    enum:
        EDEADLK

cdef extern from *:
    """
    #pragma push_macro("PMG_WAIT")      /* the core's is positive */
    #undef PMG_WAIT
    #include "pagemig/api.h"
    #pragma pop_macro("PMG_WAIT")
    """

cdef extern from "pagemig/api.h" nogil:
    enum:
        PMG_EHOOK
        PMG_K_HIT, PMG_K_MINOR, PMG_K_MAJOR, PMG_K_WAIT, PMG_K_SIGNAL, PMG_K_FAULT
        PMG_F_MIGRATE, PMG_F_PROTECT, PMG_F_UNMAP, PMG_F_COW, PMG_F_FORK, PMG_F_REMAP, PMG_F_EXIT, PMG_F_FREE

    ctypedef struct pmg_ctx:
        pass

    ctypedef struct pmg_flush:
        uint32_t size, why
        uint64_t cr3, va, n
        const uint64_t *cpus
        uint32_t words, ipis

    ctypedef struct pmg_callbacks:
        uint32_t size
        void *priv
        int32_t (*target)(void *priv, pmg_ctx *c, uint32_t pfn, int32_t wanted) noexcept nogil
        int32_t (*flush)(void *priv, pmg_ctx *c, const pmg_flush *f) noexcept nogil
        int32_t (*moved)(
            void *priv, pmg_ctx *c, const uint32_t *old, const uint32_t *new, const int32_t *result,
            uint32_t n) noexcept nogil
        int32_t (*step)(void *priv, pmg_ctx *c, uint32_t step, const uint32_t *pfns, uint32_t n) noexcept nogil
        int32_t (*fault)(void *priv, pmg_ctx *c, uint64_t va, uint32_t kind, uint32_t pfn) noexcept nogil


ctypedef struct watch_t:
    pmg_ctx *host               # the host's context, which counts; NULL: calls from Python, which count nothing
    uint64_t flushes, flushed_pages, ipis, pages_copied
    uint64_t bytes_from[64]
    uint64_t bytes_to[64]

# -- for the modules that make the calls
cdef int set_callbacks(machine_t *m, const pmg_callbacks *callbacks) noexcept nogil     # NULL: none.  0 or -ENOMEM
# whether a callback with this priv runs, or may run from now on
cdef bint callbacks_used(machine_t *m, const void *priv) noexcept nogil
cdef void callbacks_release(machine_t *m) noexcept nogil
# whether a running callback forbids this call (-EDEADLK).  host: the context of the call, NULL: a new one
cdef bint refuses_call(machine_t *m, const pmg_ctx *host) noexcept nogil


cdef inline bint call_refused(machine_t *m, const pmg_ctx *host) noexcept nogil:
    return pmg_unlikely(pmg_load32(&m.in_hooks) != 0) and refuses_call(m, host)

# run fn where a call may enter the host, see ctx.outside_fn
cdef void run_outside(ctx_t *c, void (*fn)(void *arg) noexcept nogil, void *arg) noexcept nogil

# -- events
cdef void tell_flush(ctx_t *c, uint32_t mm, uint64_t start, uint64_t n, uint32_t why) noexcept nogil
# count only: entries of an address space flushed one by one; pages copied
cdef void count_flushes(ctx_t *c, uint32_t mm, uint64_t n) noexcept nogil
cdef void count_copies(ctx_t *c, const uint32_t *src, const uint32_t *dst, uint32_t n) noexcept nogil
cdef void flush_later(ctx_t *c, uint32_t mm) noexcept nogil             # defer to flush_batch
cdef void flush_batch(ctx_t *c) noexcept nogil
cdef void tell_moved(
    ctx_t *c, const uint32_t *src, const uint32_t *dst, const int32_t *result, uint32_t n) noexcept nogil
cdef void tell_step(ctx_t *c, int step, const uint32_t *pfns, uint32_t n) noexcept nogil
cdef void tell_fault(ctx_t *c, uint64_t vpn, uint32_t kind, uint32_t pfn) noexcept nogil
# the node that the host chooses for a page, or -1; -2: an error, the call ends
cdef int32_t ask_target(ctx_t *c, uint32_t pfn, int32_t wanted) noexcept nogil
cdef bint hears_target(const ctx_t *c) noexcept nogil
cdef bint hears_moved(const ctx_t *c) noexcept nogil
cdef bint hears_steps(const ctx_t *c) noexcept nogil
cdef bint hears_flushes(const ctx_t *c) noexcept nogil
cdef bint hears_pages(const ctx_t *c) noexcept nogil                    # any event about the pages of a migration


cdef inline void flush_tlb(ctx_t *c, uint32_t mm, uint64_t start, uint64_t n, uint32_t why) noexcept nogil:
    """Report a flush of ``n`` pages from ``start`` on; n 0: the whole address space."""
    if pmg_unlikely(c.watch != NULL):
        tell_flush(c, mm, start, n, why)


cdef inline void count_copy(ctx_t *c, uint32_t src, uint32_t dst) noexcept nogil:
    """Count the copy of a page."""
    if pmg_unlikely(c.watch != NULL):
        count_copies(c, &src, &dst, 1)


cdef inline int32_t chosen_node(ctx_t *c, uint32_t pfn, int32_t wanted) noexcept nogil:
    return -1 if c.watch == NULL else ask_target(c, pfn, wanted)
