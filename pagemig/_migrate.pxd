"""The migration engine: one set of stage functions at any width, ordered and parameterised by the profile."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig._types cimport STAGE, ctx_t, machine_t, mm_t, mpol_t, task_t, vma_t

cdef enum:
    TARGET_NEAREST = -2

# where a page goes
ctypedef struct target_t:
    # >= 0: exactly this node (THISNODE); TARGET_NEAREST: of `nodes` that nearest to the page
    int32_t nid
    uint64_t nodes
    uint32_t mm                 # else by policy: pol, found for pages of mm from page `start` on
    uint64_t start
    mpol_t pol
    uint64_t ilx                # from 6.7 on by pol alone: interleave index of a page less its index in its object

# what a run came to
ctypedef struct run_t:
    uint64_t succeeded
    uint64_t failed             # pages not migrated
    int error                   # 0, -ENOMEM, -PMG_WAIT

# takes the isolation reference; False: not on the LRU
cdef bint isolate_lru_page(ctx_t *c, uint32_t pfn) noexcept nogil
cdef void putback_lru_page(ctx_t *c, uint32_t pfn) noexcept nogil
# migrates isolated pages; returns with the list empty: moved pages freed, others put back
cdef void migrate_pages(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *target, run_t *run) noexcept nogil

# addresses (bytes) and nodes hold `readable` entries, the caller asked for `count`; nodes NULL: a query.
# A NULL status is memory that cannot be written: -EFAULT at the first store.
cdef int64_t sys_move_pages(
        ctx_t *c, task_t *target, const uint64_t *addresses, const int32_t *nodes, uint64_t readable, uint64_t count,
        uint32_t flags, int32_t *status) noexcept nogil
cdef int64_t sys_migrate_pages(ctx_t *c, task_t *target, uint64_t old, uint64_t new, uint32_t flags) noexcept nogil
# start aligned, length > 0 (bytes): from the mode/mask consistency on
cdef int64_t sys_mbind(
        ctx_t *c, task_t *t, uint64_t start, uint64_t length, uint32_t mode, uint32_t mode_flags, uint64_t user,
        uint32_t flags) noexcept nogil
# page i to node i, with no process context; status[i]: node or negative errno
cdef int64_t migrate_frames(
        ctx_t *c, const uint32_t *pfns, const int32_t *nodes, uint64_t n, int32_t *status) noexcept nogil

cdef enum:                      # steps of a stage, in order; a hook runs after each
    STEP_ISOLATE = 1
    STEP_ALLOC = 2
    STEP_LOCK = 3
    STEP_UNMAP = 4
    STEP_FREEZE = 5             # counts checked, mapping switched ("move_mapping")
    STEP_COPY = 6
    STEP_RESTORE = 7
    STEP_PUTBACK = 8
    TRACE_ROLLBACK = 9          # trace only: an entry was restored to the old page
    TRACE_LOCK = 16             # trace only: a lock was taken; plus its kind, as C_LOCK_* from C_LOCK_PAGE on

cdef void trace_locks(ctx_t *c, uint32_t pfn) noexcept nogil    # what a context took since its last event
