"""move_pages, mbind and migrate_pages of today's kernels, and what they share with those of 2006."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t, task_t

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
