"""migrate_pages() of every kernel, built from the stages: passes, batches, four lists, one page at a time.

Today's kernels take one list: 6.1 page by page, from 6.3 on in batches.  Of the kernels of 2006, 2.6.17 takes four lists,
2.6.18 one list and an allocator, and pmig arrays.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig.mm.migrate_stage cimport run_t, stage_t, target_t
from pagemig.mm.place cimport coder_t
from pagemig.mm.types cimport ctx_t, kept_by_t

# migrates isolated pages and consumes the list: moved pages are freed, the others put back
cdef void migrate_pages(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *target, run_t *run) noexcept nogil
cdef int64_t run_result(run_t *run) noexcept nogil
# code the functions above on the stack of a call (see place); the list is in the coder
cdef void code_migrate(coder_t *w) noexcept nogil
cdef void code_chunk_or_batch(coder_t *w) noexcept nogil
cdef void code_finish(coder_t *w, void *locals) noexcept nogil
cdef void code_each(coder_t *w, void *locals) noexcept nogil
cdef void code_one(coder_t *w, void *locals) noexcept nogil


cdef struct finish_t:           # locals of finish_run()
    uint32_t *pfns
    uint64_t n, tried
    uint64_t i, k               # pages finished, and pages of the chunk or batch being migrated


cdef struct each_t:             # locals of migrate_pages_each()
    uint32_t *pfns
    uint32_t *own               # slots, if the caller has none
    uint64_t n, left
    uint32_t pass_
    bint in_pass


cdef struct batch_t:            # up to NR_MAX_BATCHED_MIGRATION pages that are unmapped together and then moved
    stage_t *stage              # stages with unmapped pages, in the order of the list
    uint32_t n, cap
    uint32_t pages              # number of pages whose first pass ran ahead, unmapped or not

cdef void batch_begin(batch_t *b) noexcept nogil                # allocates nothing; the caller frees b.stage
# the stage after the last one, or NULL; it may move all stages of the batch in memory
cdef stage_t *batch_room(batch_t *b) noexcept nogil
# first pass over the pages gathered into batch_room's stage, for a run whose pages arrive piecemeal.  Pages it does not
# unmap go to `keep`; returns how many.  If no target could be allocated, the stage is left as it is: run.error
cdef uint64_t unmap_ahead(ctx_t *c, batch_t *b, const target_t *t, uint32_t *keep, run_t *run) noexcept nogil
# all passes over at most a chunk or batch of pages; pages left over are put back.  Part of the batch may be unmapped
# already; the first `tried` pages have had their first pass
cdef void migrate_chunk_or_batch(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *target,
        run_t *run) noexcept nogil
# the same chunk by chunk to the end of the run, which is then counted
cdef void finish_run(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *target,
        run_t *run) noexcept nogil


cdef enum:
    MIGRATE_CHUNK_SIZE = 256    # targets allocated ahead; one too many, since the kernel tests after counting


# -- through 2.6.17: arrays of pages the caller owns, each with its isolation (or allocation) reference
cdef struct lists_t:
    uint32_t *source            # advances over the pages done
    uint64_t n
    uint32_t *to                # targets, taken from the end; NULL: swap all pages out
    uint64_t nr_to
    uint32_t *moved             # room for n
    uint64_t nr_moved
    uint32_t *failed            # room for n
    uint64_t nr_failed
    kept_by_t keep


cdef struct one_t:              # locals of migrate_one_page()
    lists_t lists
    uint32_t pfn, to, moved, failed
    int32_t nid

# pages not migrated: those that failed and those to retry; `to` keeps the unused targets
cdef uint64_t migrate_page_lists(ctx_t *c, lists_t *l) noexcept nogil
# isolate frames and allocate a chunk of targets on or near a node (-1: none)
cdef void lists_begin(ctx_t *c, lists_t *l, const uint32_t *pfns, uint64_t n, int32_t nid) noexcept nogil
cdef void lists_end(ctx_t *c, lists_t *l) noexcept nogil                             # put everything back
# one isolated page to a node or, if that is full, near it: the node it ends on, or -errno
cdef int32_t migrate_one_page(ctx_t *c, uint32_t pfn, int32_t nid) noexcept nogil
# the driver: targets by t in chunks; moved pages are freed, the others put back; run counts both.  0 or -errno
cdef int migrate_pages_to(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *t, run_t *run) noexcept nogil
# -- from 2.6.18 on: the allocator sees the page it allocates for; slot is the page's index in the caller's request.
# It returns a frame, 0 for none, or -(PMG_BUG + bug_t)
ctypedef int64_t (*new_page_t)(ctx_t *c, uint32_t pfn, uint32_t slot, const void *private_) noexcept nogil


cdef struct moves_t:
    uint32_t *pfns
    uint32_t *slots             # NULL: the position in pfns, which the caller then must not compact
    uint64_t n
    new_page_t get_new_page
    const int32_t *nodes        # target node by slot; NULL: nid for all
    int32_t nid                 # -1: by policy
    const void *private_
    int32_t *result             # by slot; NULL: not wanted
    kept_by_t keep

# consumes the list: moved pages are freed, the others put back
cdef void migrate_pages_each(ctx_t *c, moves_t *mv, run_t *run) noexcept nogil
