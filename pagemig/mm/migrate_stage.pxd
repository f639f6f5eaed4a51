"""The stages of a migration, at any width, parameterised by the profile.  ``migrate`` arranges them into passes."""
from libc.errno cimport EINTR
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

from pagemig.mm.atomic cimport pmg_load32
from pagemig.mm.context cimport signal_pending
from pagemig.mm.gup cimport look_t
from pagemig.mm.notify cimport hears_pages
from pagemig.mm.place cimport coder_t
from pagemig.mm.types cimport (
    ABORT_HEEDED, ctx_t, kept_by_t, machine_t, MPOL_INTERLEAVE, mpol_t, MPOL_WEIGHTED_INTERLEAVE, STAGE, vma_t,
)


cdef enum:
    TARGET_NEAREST = -2
    AHEAD = 24                  # entries between the prefetch of a frame and its use
    OPEN = 1                    # stage_t.open: this stage holds the page lock
    PUBLISHED = 2               # its target is reachable by others


# where a page goes
ctypedef struct target_t:
    # >= 0: exactly this node (THISNODE); TARGET_NEAREST: the node of `nodes` nearest to the page
    int32_t nid
    uint64_t nodes
    uint32_t mm                 # else by policy: pol, for pages of mm from page `start` on
    uint64_t start
    mpol_t pol
    uint64_t ilx                # from 6.7 on, by pol alone: interleave index of a page minus its index in its object
    uint32_t vma                # through 2.6.17, if not 0: by this VMA's policy at ascending addresses from its start
    kept_by_t keep              # what keeps each page's anon_vma alive while the page is unmapped


cdef inline bint interleaves(const mpol_t *pol) noexcept nogil:
    return pol.mode == MPOL_INTERLEAVE or pol.mode == MPOL_WEIGHTED_INTERLEAVE


cdef struct hold_t:             # a group of pages of one object, and what keeps its anon_vma alive while they are unmapped
    uint32_t end                # the page after the last
    uint32_t lo, hi             # lowest and highest index
    uint32_t av                 # referenced with KEEP_REFCOUNT; 0: nothing was unmapped
    uint32_t mm                 # with KEEP_MMAP_LOCK and KEEP_TRYLOCK


# pages that go through the steps together
cdef struct stage_t:
    uint32_t n
    uint32_t at                 # the last stop: PAUSE_* or AT_LOCK
    uint32_t got                # targets in dst[0..got)
    uint32_t src[64]
    uint32_t dst[64]
    int rc[64]
    uint32_t mapping[64]
    uint32_t index[64]
    uint64_t state[64]          # of the source when it was locked
    uint32_t unmapped[64]       # migration entries installed: references that the freeze accounts for
    uint32_t restored[64]
    uint32_t dirty[64]          # a removed PTE was dirty
    uint32_t walked[64]         # 1: the kernel walks the reverse map for it, to unmap and again to restore
    uint32_t open[64]           # 0, OPEN or PUBLISHED
    hold_t hold[64]             # at the first page of each group
    uint32_t held               # pages that are HELD
    bint swapping               # pages are swapped out, not moved
    kept_by_t keep
    uint32_t counts_mask        # all bits if unmapped entries still count as references and mappings, else 0


cdef enum:                      # what a stage waits for
    WAIT_FOR_LOCK = 1
    WAIT_FOR_WRITEBACK = 2
    WAIT_FOR_ALL = 3


# the results of a run
ctypedef struct run_t:
    uint64_t succeeded
    uint64_t failed             # pages not migrated
    int error                   # 0, -ENOMEM, -(PMG_BUG + bug_t)

cdef enum code_stage_t:         # the state in which a stage is coded
    STAGE_ALONE                 # at a stop, not in a batch
    STAGE_IN_BATCH              # at a stop, in a batch
    STAGE_UNMAPPED              # unmapped, in a batch, not at a stop
    STAGE_OVER                  # finished: collect() sorts its pages

cdef void code_stage(coder_t *w, stage_t *st, code_stage_t how) noexcept nogil
# whether the pages of a loaded stage are pages of a list, in its order; with arrays of slots also whether these agree
cdef bint stage_is_of(
    const stage_t *st, const uint32_t *pfns, uint64_t n, const uint32_t *own_slots, const uint32_t *slots) noexcept nogil
cdef void code_target(coder_t *w, target_t *t) noexcept nogil
cdef void code_run(coder_t *w, run_t *run) noexcept nogil


cdef enum:                      # where the time of a caller that owns it may pass
    PAUSE_UNMAPPED = 1          # migration entries are installed; the flush and the copy come next
    PAUSE_COPIED = 2            # the content is in the new frames, the migration entries are still there
    PAUSE_STAGE = 3             # pages have been put back: waiters for them may continue
    PAUSE_PASS = 4              # the next pass begins

cdef enum:
    AT_LOCK = 8                 # stage_t.at: waiting for the lock of its only page, or for writeback

# a stage that has its targets: lock and unmap, then switch and copy, then restore and put back
cdef void stage_take(ctx_t *c, stage_t *st, kept_by_t keep, uint32_t force) noexcept nogil
cdef void stage_move(ctx_t *c, stage_t *st) noexcept nogil
# try_to_unmap for locked pages without a target
cdef void stage_unmap_only(ctx_t *c, stage_t *st) noexcept nogil
cdef void stage_end(ctx_t *c, stage_t *st, bint last) noexcept nogil
# run_stage does a whole stage; collect sorts its pages by result: those to retry go to ``keep``
cdef void run_stage(ctx_t *c, stage_t *st, const target_t *t, uint32_t force) noexcept nogil
cdef struct collect_t:          # locals of collect_some()
    uint32_t *keep
    stage_t *st
    uint64_t left               # pages in keep
    uint32_t i
    bint in_stage               # migrating page i alone
    stage_t one                 # of page i

cdef void code_collect(coder_t *w, void *locals) noexcept nogil
cdef uint64_t collect(ctx_t *c, stage_t *st, const target_t *t, uint32_t *keep, run_t *run) noexcept nogil
cdef void at_step(ctx_t *c, int step, stage_t *st) noexcept nogil
cdef void pause_stage(ctx_t *c, int at, stage_t *st) noexcept nogil
# resume a stage in a loaded call: to its end, or in a batch until it is unmapped
cdef void stage_goes_on(ctx_t *c, stage_t *st, uint32_t force) noexcept nogil
cdef void stage_lock_again(ctx_t *c, stage_t *st, uint32_t force) noexcept nogil
cdef void pause_pass(ctx_t *c) noexcept nogil
# end the run of a call that must end: pages that have not moved are given up
cdef inline void heed_abort(ctx_t *c, run_t *run) noexcept nogil:
    if signal_pending(c, STAGE) or c.abort:
        c.abort = ABORT_HEEDED
        if run.error == 0:
            run.error = -EINTR

cdef uint32_t new_page(ctx_t *c, uint32_t pfn, const target_t *t, vma_t **hint) noexcept nogil
cdef bint short_of_frames(machine_t *m, uint32_t n) noexcept nogil
cdef uint64_t whole_index(ctx_t *c, uint32_t pfn) noexcept nogil
cdef bint page_in_vma(machine_t *m, uint32_t pfn, vma_t *vma) noexcept nogil
# gather isolated and mostly locked pages into a stage: one page, or the common kind of page from an array of addresses.
# stage_room limits a stage; shift_stage moves over the pages that got no target
cdef bint gather(ctx_t *c, stage_t *st, uint32_t pfn) noexcept nogil
cdef void ungather(ctx_t *c, stage_t *st) noexcept nogil
cdef uint64_t gather_run(
        ctx_t *c, stage_t *st, int32_t node, uint32_t width, bint shared, look_t *l, look_t *far,
        const uint64_t *addresses, uint64_t i, uint64_t end) noexcept nogil
cdef void shift_stage(stage_t *st, const stage_t *from_, uint32_t first, uint32_t n) noexcept nogil
# takes the isolation reference; False: not on the LRU
cdef bint isolate_lru_page(ctx_t *c, uint32_t pfn) noexcept nogil
cdef void putback_lru_page(ctx_t *c, uint32_t pfn) noexcept nogil
# putback_movable_pages (putback_lru_pages through 2.6.38): put every page back on the LRU
cdef void putback_all(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil


cdef inline bint steps_show(ctx_t *c) noexcept nogil:
    """Whether a trace, a hook or a host can observe the order of steps of different pages."""
    return c.m.step_fn != NULL or c.m.tracing or (c.watch != NULL and hears_pages(c))


cdef inline bint in_batches(const machine_t *m) noexcept nogil:
    """Whether the kernel unmaps pages in batches, with one TLB flush each, before it moves them."""
    return m.profile.batch > 1 or m.profile.async_first


cdef inline uint32_t chunk_of(const machine_t *m) noexcept nogil:
    """Pages that share their passes; with batches, NR_MAX_BATCHED_MIGRATION."""
    return m.profile.batch if in_batches(m) else ~<uint32_t> 0


cdef inline uint32_t stage_room(ctx_t *c, const target_t *t) noexcept nogil:
    """Pages a stage may take: no more than the targets on the per-CPU list, see rmqueue."""
    cdef uint32_t n = pmg_load32(&c.pcp[t.nid].n) if t.nid >= 0 else 0      # other threads may run on this processor
    return min(c.m.width, n) if n else c.m.width


cdef inline void target_begin(target_t *t, int32_t nid) noexcept nogil:
    """Begin a target that is one node; for a negative nid the caller sets the other fields."""
    memset(t, 0, sizeof(target_t))
    t.nid = nid


cdef inline void run_begin(run_t *run) noexcept nogil:
    run.succeeded = 0
    run.failed = 0
    run.error = 0


cdef inline void one_page(stage_t *st, uint32_t pfn) noexcept nogil:
    st.n = 1
    st.src[0] = pfn
    st.open[0] = 0
    st.rc[0] = 0


cdef inline uint32_t wait_flags(machine_t *m, uint32_t pass_) noexcept nogil:
    return (WAIT_FOR_LOCK if pass_ >= m.profile.force_pass else 0) | \
        (WAIT_FOR_WRITEBACK if pass_ >= m.profile.writeback_pass else 0)


cdef enum:
    RMAP_MAX = 16               # with at most so many VMAs, walk all pages in each VMA; with more, all VMAs of each page
    HELD = 2
    DONE = 3

cdef void load_stage(ctx_t *c, stage_t *st, const target_t *t, const uint32_t *pfns, uint64_t n) noexcept nogil
cdef void pass_target_on(machine_t *m, stage_t *st, uint32_t i) noexcept nogil
cdef void stage_unmap(ctx_t *c, stage_t *st, const target_t *t, uint32_t force) noexcept nogil
