"""The record of a migration: its steps and the locks it takes, page by page."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_add
from pagemig.mm.types cimport C_LOCK_PAGE, C_LOCK_SWAP, ctx_t


cdef enum:                      # steps of a stage, in order; a hook runs after each
    STEP_ISOLATE = 1
    STEP_ALLOC = 2
    STEP_LOCK = 3
    STEP_UNMAP = 4
    STEP_FREEZE = 5             # references checked and frozen, mapping switched (migrate_page_move_mapping)
    STEP_COPY = 6
    STEP_RESTORE = 7
    STEP_PUTBACK = 8
    TRACE_ROLLBACK = 9          # trace only: an entry was restored to the old page
    TRACE_LOCK = 16             # trace only: a lock was taken; its kind is added, C_LOCK_* counted from C_LOCK_PAGE


cdef inline void record(ctx_t *c, int step, uint32_t pfn, uint64_t arg) noexcept nogil:
    cdef uint64_t i = pmg_add(&c.m.trace_n, 1) - 1
    if i < c.m.trace_max:
        c.m.trace[2 * i] = <uint64_t> step << 56 | (<uint64_t> c.id & 0xffff) << 32 | pfn
        c.m.trace[2 * i + 1] = arg


cdef inline void trace_locks(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Record an event for each lock counted since the last one, so that the trace holds every counted lock."""
    cdef int kind
    for kind in range(<int> C_LOCK_SWAP - <int> C_LOCK_PAGE + 1):
        while c.traced[kind] != c.count[<int> C_LOCK_PAGE + kind]:      # never ahead, though both may wrap
            c.traced[kind] += 1
            record(c, TRACE_LOCK + kind, pfn, 0)


cdef inline void trace(ctx_t *c, int step, uint32_t pfn, uint64_t arg) noexcept nogil:
    if c.m.tracing:
        if c.m.tracing == 2:
            trace_locks(c, pfn)
        record(c, step, pfn, arg)
