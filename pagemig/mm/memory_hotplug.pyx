"""Memory hotplug: evacuate ranges of frames and whole nodes, without a calling process.

The work starts from frames: those in use are isolated if they are on the LRU, migrated to the nearest other node, and
examined again in the next pass.  The reverse map finds the mappings of a page; no list of processes is walked, and
processes may start, fault, fork and exit at any step.
"""
from libc.errno cimport EBUSY, EINVAL, ENOMEM, ESRCH
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from pagemig.mm.atomic cimport pmg_and, pmg_load, pmg_or, pmg_yield
from pagemig.mm.context cimport LOOK_EVERY, mmap_read_lock, mmap_read_unlock, pmg_wait, signal_pending
from pagemig.mm.fork cimport get_task_mm, mmput
from pagemig.mm.frame cimport frame_refs, page_state
from pagemig.mm.migrate cimport migrate_pages
from pagemig.mm.migrate_stage cimport isolate_lru_page, putback_all, run_t, target_begin, TARGET_NEAREST, target_t
from pagemig.mm.page_alloc cimport node_close, node_in_use, node_open, task_of
from pagemig.mm.rmap cimport lru_cache_disable, lru_cache_enable
from pagemig.mm.rules cimport refuse, RULE_NODE_RESERVED
from pagemig.mm.types cimport (
    ctx_t, KEEP_MMAP_LOCK, KEEP_REFCOUNT, machine_t, node_t, PG_reserved, PMG_BUG, PMG_WAIT, WAIT_PASS,
)


cdef enum:
    BATCH = 256                 # pages isolated at a time, as in the kernel


cdef inline bint in_use(machine_t *m, uint64_t pfn) noexcept nogil:
    cdef uint64_t s = page_state(m, <uint32_t> pfn)
    return frame_refs(s) != 0 and not s & PG_reserved


cdef uint64_t nr_in_use(ctx_t *c, uint64_t first, uint64_t end) noexcept nogil:
    """Count the frames in use, up to where the call must end."""
    cdef uint64_t pfn, n = 0
    for pfn in range(first, end):
        if pfn % BATCH == 0 and signal_pending(c, BATCH):
            break
        n += in_use(c.m, pfn)
    return n


cdef int migrate_batch(ctx_t *c, evacuation_t *e, uint32_t *pfns, uint32_t n) noexcept nogil:
    """Migrate isolated pages: 0, -ENOMEM, or -EBUSY where mmap_lock cannot be waited for; the rest is put back."""
    cdef target_t t
    cdef run_t run
    if e.held.how == KEEP_MMAP_LOCK and mmap_read_lock(c, e.held.mm):
        putback_all(c, pfns, n)
        return -EBUSY
    target_begin(&t, TARGET_NEAREST)
    t.nodes = e.targets
    t.keep = e.held
    migrate_pages(c, pfns, n, &t, &run)
    if e.held.how == KEEP_MMAP_LOCK:
        mmap_read_unlock(c, e.held.mm)
    e.migrated += run.succeeded
    return run.error


cdef int do_migrate_range(ctx_t *c, evacuation_t *e) noexcept nogil:
    """Do one pass.  A page off the LRU is being allocated, freed or used by another: it is left to the next pass."""
    cdef uint32_t pfns[BATCH]
    cdef uint32_t n = 0
    cdef uint64_t pfn
    cdef int err = 0
    for pfn in range(e.first, e.end):
        if signal_pending(c, 1):
            putback_all(c, pfns, n)
            return -PMG_WAIT
        if in_use(c.m, pfn) and isolate_lru_page(c, <uint32_t> pfn):
            pfns[n] = <uint32_t> pfn
            n += 1
        if n == BATCH or (pfn + 1 == e.end and n):
            err = migrate_batch(c, e, pfns, n) or err
            n = 0
    return err


cdef int keep_begin(ctx_t *c, evacuation_t *e) noexcept nogil:
    """Reference the address space for KEEP_MMAP_LOCK, which then outlives an exit of its process."""
    e.held.how = e.keep
    e.held.mm = 0
    if e.keep == KEEP_MMAP_LOCK:
        e.held.mm = get_task_mm(c, task_of(c.m, e.keep_task))
        if e.held.mm == 0:
            e.held.how = KEEP_REFCOUNT
            return -ESRCH
    return 0


cdef void keep_end(ctx_t *c, evacuation_t *e) noexcept nogil:
    if e.held.how == KEEP_MMAP_LOCK:
        mmput(c, e.held.mm)


cdef inline uint64_t not_empty(ctx_t *c, evacuation_t *e, int32_t closed) noexcept nogil:
    """Count the frames in use; on a closed node also those that a fault has allocated but not mapped yet."""
    return node_in_use(c, closed) if closed >= 0 else nr_in_use(c, e.first, e.end)


cdef int evacuate(ctx_t *c, evacuation_t *e, int32_t closed) noexcept nogil:
    """Run passes until no frame is in use."""
    cdef int err = keep_begin(c, e)
    e.passes = 0
    e.migrated = 0
    if err:
        return err
    lru_cache_disable(c)
    while e.passes < e.max_passes and err > -PMG_BUG and not c.signalled and not_empty(c, e, closed):
        # Between passes, yield to holders of pages, which may need this processor of the host to let go of them.
        if e.passes:
            if pmg_wait(c, WAIT_PASS, <uint32_t> e.first, 0) or \
                    signal_pending(c, <uint32_t> min(e.end - e.first, <uint64_t> LOOK_EVERY)):
                break
            pmg_yield()
        e.passes += 1
        err = do_migrate_range(c, e)
    lru_cache_enable(c)
    keep_end(c, e)
    if err <= -PMG_BUG:
        return err
    if not c.signalled and not not_empty(c, e, closed):
        return 0
    return -ENOMEM if err == -ENOMEM else -EBUSY


cdef int migrate_range(ctx_t *c, evacuation_t *e) noexcept nogil:
    return evacuate(c, e, -1)


cdef int offline_node(ctx_t *c, int32_t nid, evacuation_t *e, uint32_t *rule) noexcept nogil:
    cdef node_t *node = &c.m.node[nid]
    cdef int err
    e.first = node.first
    e.end = node.end
    e.passes = 0
    e.migrated = 0
    if node.reserved:
        return refuse(EBUSY, RULE_NODE_RESERVED, rule)
    node_close(c, nid)
    err = evacuate(c, e, nid)
    if err:
        node_open(c, nid)
    else:
        pmg_and(&c.m.has_memory, ~(<uint64_t> 1 << nid))
    return err


cdef int64_t take_offline(ctx_t *c, int32_t nid, uint32_t *rule) noexcept nogil:
    """offline_node() for a host: pages go to any other node, in at most ten passes."""
    cdef evacuation_t e
    if nid < 0 or nid >= <int32_t> c.m.nr_nodes or not pmg_load(&c.m.online) >> nid & 1:
        return -EINVAL
    memset(&e, 0, sizeof(e))
    e.targets = pmg_load(&c.m.has_memory) & ~(<uint64_t> 1 << nid)
    e.max_passes = 10
    if not e.targets:
        return -EINVAL
    return offline_node(c, nid, &e, rule)


cdef void online_node(ctx_t *c, int32_t nid) noexcept nogil:
    node_open(c, nid)
    pmg_or(&c.m.has_memory, <uint64_t> 1 << nid)
