"""The record of a migration: its steps and the locks it takes, page by page."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t


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

cdef void trace_locks(ctx_t *c, uint32_t pfn) noexcept nogil    # record the locks taken since the context's last event
cdef void record(ctx_t *c, int step, uint32_t pfn, uint64_t arg) noexcept nogil


cdef inline void trace(ctx_t *c, int step, uint32_t pfn, uint64_t arg) noexcept nogil:
    if c.m.tracing:
        if c.m.tracing == 2:
            trace_locks(c, pfn)
        record(c, step, pfn, arg)
