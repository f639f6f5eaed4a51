"""Memory hotplug: evacuate ranges of frames and whole nodes, without a calling process."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t, keep_t, kept_by_t


ctypedef struct evacuation_t:
    uint64_t first, end         # frames to empty
    uint64_t targets            # nodes they go to
    uint32_t keep_task          # for KEEP_MMAP_LOCK: task whose mmap_lock is held; the caller has a reference on it
    keep_t keep
    uint32_t max_passes
    kept_by_t held              # what `keep` takes during the migration
    # results
    uint32_t passes
    uint64_t migrated

# 0, or -EBUSY or -ENOMEM with pages left in the range and put back; -ESRCH: keep_task has no address space
cdef int migrate_range(ctx_t *c, evacuation_t *e) noexcept nogil
# a whole node, which allocates nothing after 0; -EBUSY also if the kernel has frames there
cdef int offline_node(ctx_t *c, int32_t nid, evacuation_t *e, uint32_t *rule) noexcept nogil
cdef int64_t take_offline(ctx_t *c, int32_t nid, uint32_t *rule) noexcept nogil
cdef void online_node(ctx_t *c, int32_t nid) noexcept nogil
