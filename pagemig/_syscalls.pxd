"""move_pages, mbind and migrate_pages of today's kernels, and what they share with those of 2006."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig._types cimport ctx_t, machine_t, mm_t, task_t, vma_t

# a growing list of pages; -ENOMEM leaves it as it was
cdef struct list_t:
    uint32_t *pfns
    uint64_t n, cap

cdef int list_add(list_t *l, uint32_t pfn) noexcept nogil
cdef void list_putback(ctx_t *c, list_t *l) noexcept nogil

# what a walk over mappings takes along
cdef struct queue_t:
    list_t list
    uint64_t nodes
    bint invert                 # take pages that are NOT on nodes
    bint discontig_ok
    uint32_t flags              # MPOL_MF_*
    uint64_t failed             # pages that should move and cannot; to 6.6 the walk ends at the first
    uint32_t mm                 # whose mappings

cdef void queue_begin(queue_t *q, uint64_t nodes, bint invert, bint discontig_ok, uint32_t flags) noexcept nogil
# 1: stopped at a page that cannot be moved; or -errno
cdef int queue_vma(ctx_t *c, queue_t *q, mm_t *mm, vma_t *vma, uint64_t start, uint64_t end) noexcept nogil
cdef bint vma_migratable(machine_t *m, vma_t *vma) noexcept nogil
cdef bint next_pair(
        uint64_t left, uint64_t stay, uint64_t old, uint64_t new, int32_t *source, int32_t *dest) noexcept nogil

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
