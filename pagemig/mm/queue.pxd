"""Queue the pages that a call is to move: growing lists, and walks over mappings."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig.mm.migrate_stage cimport run_t, target_t
from pagemig.mm.place cimport coder_t
from pagemig.mm.types cimport ctx_t, machine_t, mm_t, nodemask_t, vma_t


# a growing list of pages; -ENOMEM leaves it as it was
cdef struct list_t:
    uint32_t *pfns
    uint64_t n, cap

cdef int list_add(list_t *l, uint32_t pfn) noexcept nogil
cdef void list_putback(ctx_t *c, list_t *l) noexcept nogil


# the state of a walk over mappings (struct queue_pages)
cdef struct queue_t:
    list_t list
    uint64_t nodes
    bint invert                 # take pages that are NOT on nodes
    bint discontig_ok
    uint32_t flags              # MPOL_MF_*
    uint64_t failed             # misplaced pages that cannot move; through 6.6 the walk ends at the first
    uint32_t mm                 # the address space walked

cdef void queue_begin(queue_t *q, uint64_t nodes, bint invert, bint discontig_ok, uint32_t flags) noexcept nogil
# 1: stopped at a page that cannot be moved; or -errno
cdef int queue_vma(ctx_t *c, queue_t *q, mm_t *mm, vma_t *vma, uint64_t start, uint64_t end) noexcept nogil
cdef bint vma_migratable(machine_t *m, vma_t *vma) noexcept nogil
cdef bint next_pair(
        uint64_t left, uint64_t stay, const nodemask_t *old, const nodemask_t *new, int32_t *source,
        int32_t *dest) noexcept nogil

cdef int list_grow(list_t *l) noexcept nogil


cdef inline int list_reserve(list_t *l, uint64_t n) noexcept nogil:
    """Make room for ``n`` pages; from call to call, n grows by less than the initial capacity."""
    return list_grow(l) if n > l.cap else 0

cdef int queue_pages_range(ctx_t *c, queue_t *q, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil
cdef int64_t migrate_queue(ctx_t *c, queue_t *q, const target_t *t) noexcept nogil


cdef struct queued_t:           # locals of the function that migrates a queue
    queue_t *q
    run_t run

cdef bint queued_again(ctx_t *c, queued_t *k, queue_t *q) noexcept nogil
cdef void code_queue(coder_t *w, void *locals) noexcept nogil
cdef void code_list(coder_t *w, list_t *l) noexcept nogil
