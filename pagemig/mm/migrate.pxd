"""migrate_pages() as each kernel drives the stages: passes, batches, four lists, one page at a time.

Today's kernels take a list (6.1 page by page, from 6.3 on in batches).  The kernels of 2006: four lists (2.6.17), one list
and an allocator (2.6.18), arrays (pmig).
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig.mm.migrate_stage cimport run_t, stage_t, target_t
from pagemig.mm.types cimport ctx_t, kept_by_t

# migrates isolated pages; returns with the list empty: moved pages freed, others put back
cdef void migrate_pages(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *target, run_t *run) noexcept nogil
cdef int64_t run_result(run_t *run) noexcept nogil


cdef struct batch_t:            # up to NR_MAX_BATCHED_MIGRATION pages that are unmapped together and then moved
    stage_t *stage              # those with pages unmapped, in the order of the list
    uint32_t n, cap
    uint32_t pages              # whose first pass ran ahead, unmapped or not

cdef void batch_begin(batch_t *b) noexcept nogil                # without memory; its user frees b.stage
# the stage after the last one, or NULL; of those before it the address changes, too
cdef stage_t *batch_room(batch_t *b) noexcept nogil
# where the pages of a run come in bit by bit: first pass over those gathered into batch_room's stage; what is not unmapped
# goes to `keep`, how many is returned.  Where the stage got no frame at all nothing is done to its pages: run.error
cdef uint64_t unmap_ahead(ctx_t *c, batch_t *b, const target_t *t, uint32_t *keep, run_t *run) noexcept nogil
# all passes over up to a chunk or batch of pages; what is left is put back.  The batch may be there in part, and the first
# `tried` pages have their first pass behind them
cdef void migrate_chunk_or_batch(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *target,
        run_t *run) noexcept nogil
# the same chunk by chunk to the end of the run, which is counted then
cdef void finish_run(
        ctx_t *c, batch_t *b, uint32_t *pfns, uint64_t n, uint64_t tried, const target_t *target,
        run_t *run) noexcept nogil


cdef enum:
    MIGRATE_CHUNK_SIZE = 256    # targets allocated ahead; one more, since the test comes after the count


# -- through 2.6.17: arrays of pages the caller owns, each with its isolation (or allocation) reference
cdef struct lists_t:
    uint32_t *source            # moves on to what is left of it
    uint64_t n
    uint32_t *to                # targets, taken from the end; NULL: everything is swapped out
    uint64_t nr_to
    uint32_t *moved             # room for n
    uint64_t nr_moved
    uint32_t *failed            # room for n
    uint64_t nr_failed
    kept_by_t keep

# pages not migrated: those that failed and those to be tried again; of `to` only what was not used is left
cdef uint64_t migrate_page_lists(ctx_t *c, lists_t *l) noexcept nogil
# isolate frames and allocate a chunk of targets on or near a node (-1: none)
cdef void lists_begin(ctx_t *c, lists_t *l, const uint32_t *pfns, uint64_t n, int32_t nid) noexcept nogil
cdef void lists_end(ctx_t *c, lists_t *l) noexcept nogil                             # put everything back
# one isolated page to a node or, where that is full, near it: the node it is on, or -errno
cdef int32_t migrate_one_page(ctx_t *c, uint32_t pfn, int32_t nid) noexcept nogil
# the driver: targets by t in chunks; moved pages are freed, the others put back, in run is how many.  0 or -errno
cdef int migrate_pages_to(ctx_t *c, uint32_t *pfns, uint64_t n, const target_t *t, run_t *run) noexcept nogil
# -- from 2.6.18 on: the allocator sees the page it allocates for; slot is the page's place in the caller's request
# a frame, 0 for none, -(PMG_BUG + bug_t)
ctypedef int64_t (*new_page_t)(ctx_t *c, uint32_t pfn, uint32_t slot, const void *private_) noexcept nogil


cdef struct moves_t:
    uint32_t *pfns
    uint32_t *slots             # NULL: the position in pfns, which then must not be compacted by the caller
    uint64_t n
    new_page_t get_new_page
    const int32_t *nodes        # where each is to go, by slot; NULL: all to nid
    int32_t nid                 # -1: where a policy says
    const void *private_
    int32_t *result             # by slot, NULL: nobody asks
    kept_by_t keep

# nothing is left on the list: moved pages are freed, the others put back
cdef void migrate_pages_each(ctx_t *c, moves_t *mv, run_t *run) noexcept nogil
# every page that is left goes back to the LRU; how many
cdef uint64_t putback_all(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil
