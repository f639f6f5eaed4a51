"""Reserved arenas, records by index, arrays in the heap, and the frame allocator."""
from libc.errno cimport ENOMEM
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from pagemig.mm.atomic cimport (
    pmg_and, pmg_load, pmg_load32, pmg_load32_acq, pmg_or, pmg_prefetchw, pmg_spin_lock, pmg_spin_unlock, pmg_store,
    pmg_store32, pmg_store32_rel, pmg_store_rel,
)
from pagemig.mm.frame cimport put_page_testzero
from pagemig.mm.sole cimport pmg_store_sole, SOLE_FREED
from pagemig.mm.types cimport (
    C_HOST_ZONE_CONTENDED, C_LOCK_ZONE, C_NUMA_FOREIGN, C_NUMA_HIT, C_NUMA_LOCAL, C_NUMA_MISS, C_NUMA_OTHER,
    C_PGALLOC, C_PGFREE, ctx_t, frame_t, machine_t, node_t, PCP_MAX, pcp_t, REF_ONE, slab_t, STAGE, vec_t,
)


cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED, MADV_HUGEPAGE
    void *MAP_FAILED


cdef enum:
    BLOCK = 4096
    HUGE = 1 << 21              # a huge page of the host
    HOST_PAGE = 1 << 16         # a multiple of the pages of every host
    GIVE_BACK = 1 << 18         # from so many bytes on, memory is returned to the host instead of being overwritten


# -- arenas ------------------------------------------------------------------------------------------------


cdef void *arena_new(machine_t *m, uint64_t nbytes) noexcept nogil:
    cdef uint64_t small = 1 << 16 if m.page_bytes == 4096 else 1 << 20
    cdef uint64_t unit = HUGE if nbytes >= HUGE else 4096, pad
    cdef char *p
    nbytes = (nbytes + unit - 1) & ~(unit - 1)
    if m.arena_measured:
        m.arena_left += nbytes + unit
        return m
    if m.arena_at == NULL or m.arena_left < nbytes + unit:
        p = <char *> arena_map(m, nbytes)
        if p == NULL:
            return NULL
    else:
        pad = (unit - <uint64_t> m.arena_at) & (unit - 1)
        p = m.arena_at + pad
        m.arena_at += pad + nbytes
        m.arena_left -= pad + nbytes
    # Huge pages save the host TLB misses on scattered frames; small machines stay small without them.
    if m.nr_frames > small and nbytes >= (16 << 20):
        madvise(p, nbytes, MADV_HUGEPAGE)
    return p


cdef void *arena_map(machine_t *m, uint64_t nbytes) noexcept nogil:
    """Map memory aligned to a huge page, so that addresses within huge pages are the same in every run."""
    cdef uint64_t head
    cdef char *p
    if m.nr_arenas >= 32:
        return NULL
    nbytes = (nbytes + 4095) & ~<uint64_t> 4095
    p = <char *> mmap(NULL, nbytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p == <char *> MAP_FAILED:
        return NULL
    head = -<uint64_t> p & (HUGE - 1)
    if head:
        munmap(p, head)
    munmap(p + head + nbytes, HUGE - head)
    p += head
    m.arenas[m.nr_arenas] = p
    m.arena_bytes[m.nr_arenas] = nbytes
    m.nr_arenas += 1
    return p


cdef void arenas_measure(machine_t *m) noexcept nogil:
    m.arena_measured = True
    m.arena_left = 0


cdef int arenas_map(machine_t *m) noexcept nogil:
    m.arena_measured = False
    m.arena_at = <char *> arena_map(m, m.arena_left)
    return 0 if m.arena_at != NULL else -ENOMEM


cdef void arenas_release(machine_t *m) noexcept nogil:
    cdef uint32_t i
    for i in range(m.nr_arenas):
        munmap(m.arenas[i], m.arena_bytes[i])
    m.nr_arenas = 0


cdef void clear_memory(char *p, uint64_t n) noexcept nogil:
    """Zero part of an arena.  A large part is returned to the host, which supplies zeros on the next touch."""
    cdef uint64_t head = -<uint64_t> p & (HOST_PAGE - 1), whole
    if n >= GIVE_BACK:
        whole = (n - head) & ~<uint64_t> (HOST_PAGE - 1)
        if madvise(p + head, whole, MADV_DONTNEED) == 0:
            memset(p, 0, head)
            p += head + whole
            n -= head + whole
    memset(p, 0, n)


cdef void copy_blocks(char *to, const char *p, uint64_t n) noexcept nogil:
    """Copy into zeroed memory and skip blocks of zeros, so that the host commits no page for them."""
    cdef uint64_t at = 0, part
    while at < n:
        part = min(<uint64_t> BLOCK, n - at)
        if not is_zero(p + at, part):
            memcpy(to + at, p + at, part)
        at += part


# -- records by index --------------------------------------------------------------------------------------


cdef void slab_init(slab_t *s, void *base, uint32_t size, uint32_t next_off, uint32_t max) noexcept nogil:
    s.base = <char *> base
    s.size = size
    s.next_off = next_off
    s.max = max
    s.fresh = 1
    s.free = 0
    s.used = 0
    s.lock = 0
    s.keep = 0


cdef inline uint32_t *slab_link(slab_t *s, uint32_t i) noexcept nogil:
    return <uint32_t *> (s.base + <uint64_t> i * s.size + s.next_off)


cdef uint32_t slab_alloc(slab_t *s) noexcept nogil:
    cdef uint32_t i
    pmg_spin_lock(&s.lock)
    i = s.free
    if i:
        s.free = slab_link(s, i)[0]
    elif s.fresh < s.max:
        i = s.fresh
        pmg_store32(&s.fresh, i + 1)        # swapoff walks all records without the lock
    if i:
        s.used += 1
    pmg_spin_unlock(&s.lock)
    if i and not s.keep:
        memset(s.base + <uint64_t> i * s.size, 0, s.size)
    return i


cdef void slab_free(slab_t *s, uint32_t i) noexcept nogil:
    pmg_spin_lock(&s.lock)
    slab_link(s, i)[0] = s.free
    s.free = i
    s.used -= 1
    pmg_spin_unlock(&s.lock)


# -- the heap: blocks of 16 << k bytes, one free list per size -------------------------------------------------


cdef inline int size_class(uint64_t nbytes) noexcept nogil:
    cdef int k = 0
    while (<uint64_t> 16 << k) < nbytes:
        k += 1
    return k


cdef uint64_t heap_alloc(machine_t *m, int k) noexcept nogil:
    cdef uint64_t off, nbytes = <uint64_t> 16 << k
    pmg_spin_lock(&m.heap_lock)
    off = m.heap_free[k]
    if off:
        m.heap_free[k] = (<uint64_t *> (m.heap + off))[0]
    elif m.heap_fresh + nbytes <= m.heap_max:
        off = m.heap_fresh
        m.heap_fresh += nbytes
    pmg_spin_unlock(&m.heap_lock)
    return off


cdef void heap_free(machine_t *m, uint64_t off, int k) noexcept nogil:
    if <uint64_t> 16 << k >= GIVE_BACK:
        clear_memory(m.heap + off, <uint64_t> 16 << k)
    pmg_spin_lock(&m.heap_lock)
    (<uint64_t *> (m.heap + off))[0] = m.heap_free[k]
    m.heap_free[k] = off
    pmg_spin_unlock(&m.heap_lock)


cdef int vec_resize(machine_t *m, vec_t *v, uint64_t n) noexcept nogil:
    """Set the length.  A file written at one far offset has a long array: only its nonzero blocks take host memory."""
    cdef uint64_t off
    cdef int k
    if n > 0x7fffffff:
        return -ENOMEM
    if n > v.cap:
        k = size_class(n * 4)
        off = heap_alloc(m, k)
        if not off:
            return -ENOMEM
        clear_memory(m.heap + off, <uint64_t> v.n * 4)
        copy_blocks(m.heap + off, m.heap + v.off, <uint64_t> v.n * 4)
        if v.cap:
            heap_free(m, v.off, size_class(<uint64_t> v.cap * 4))
        v.off = off
        v.cap = <uint32_t> ((<uint64_t> 16 << k) // 4)
    if n > v.n:
        clear_memory(m.heap + v.off + <uint64_t> v.n * 4, (n - v.n) * 4)
    v.n = <uint32_t> n
    return 0


cdef int vec_insert(machine_t *m, vec_t *v, uint32_t at, uint32_t value) noexcept nogil:
    cdef uint32_t *a
    if vec_resize(m, v, <uint64_t> v.n + 1):
        return -ENOMEM
    a = vec_at(m, v)
    memmove(a + at + 1, a + at, <uint64_t> (v.n - 1 - at) * 4)
    a[at] = value
    return 0


cdef void vec_remove(machine_t *m, vec_t *v, uint32_t at) noexcept nogil:
    cdef uint32_t *a = vec_at(m, v)
    memmove(a + at, a + at + 1, <uint64_t> (v.n - 1 - at) * 4)
    v.n -= 1


cdef void vec_free(machine_t *m, vec_t *v) noexcept nogil:
    if v.cap:
        heap_free(m, v.off, size_class(<uint64_t> v.cap * 4))
    v.off = 0
    v.n = 0
    v.cap = 0


# -- frames --------------------------------------------------------------------------------------------------


cdef void zone_lock(ctx_t *c, node_t *node) noexcept nogil:
    """Take the lock that guards a node's free frames; per-CPU lists take it once for up to STAGE frames."""
    count_event(c, C_LOCK_ZONE, 1)
    count_event(c, C_HOST_ZONE_CONTENDED, pmg_spin_lock(&node.lock))


cdef inline bint node_online(machine_t *m, int32_t nid) noexcept nogil:
    return (pmg_load(&m.online) >> nid) & 1 != 0


cdef inline void copy_back(uint32_t *out, const uint32_t *top, uint32_t n) noexcept nogil:
    """Copy the ``n`` entries below ``top``, the last first; by four, since the compiler must assume that arrays overlap."""
    cdef uint32_t i = 0
    while i + 4 <= n:
        top -= 4
        out[i] = top[3]
        out[i + 1] = top[2]
        out[i + 2] = top[1]
        out[i + 3] = top[0]
        i += 4
    while i < n:
        top -= 1
        out[i] = top[0]
        i += 1


cdef uint32_t zone_take(ctx_t *c, int32_t nid, uint32_t n, uint32_t *out) noexcept nogil:
    """Take up to ``n`` free frames of a node (``rmqueue_bulk``): returned ones, newest first, then never used ones."""
    cdef node_t *node = &c.m.node[nid]
    cdef uint32_t k
    zone_lock(c, node)
    n = <uint32_t> min(<uint64_t> n, node.nr_free) if node_online(c.m, nid) else 0
    k = <uint32_t> min(<uint64_t> n, node.nr_stack)
    copy_back(out, free_stack(c.m, node) + node.nr_stack, k)
    node.nr_stack -= k
    while k < n and node.fresh < node.end:
        out[k] = <uint32_t> node.fresh
        node.fresh += 1
        k += 1
    pmg_store(&node.nr_free, node.nr_free - k)      # lockless readers only want an estimate
    pmg_spin_unlock(&node.lock)
    return k


cdef void zone_give(ctx_t *c, int32_t nid, const uint32_t *pfns, uint32_t n, bint one_by_one) noexcept nogil:
    """Return frames to a node (``free_pcppages_bulk``).

    With a watermark, frames freed one by one count only once there is a batch of them: the kernel compares the watermark
    with the zone's free list, without the per-CPU lists.
    """
    cdef node_t *node = &c.m.node[nid]
    zone_lock(c, node)
    memcpy(free_stack(c.m, node) + node.nr_stack, pfns, <size_t> n * 4)
    node.nr_stack += n
    if one_by_one and node.low and node.uncounted + n < STAGE:
        pmg_store(&node.uncounted, node.uncounted + n)
    else:
        pmg_store(&node.nr_free, node.nr_free + node.uncounted + n)
        pmg_store(&node.uncounted, 0)
    pmg_spin_unlock(&node.lock)


cdef void drain_all_pages(ctx_t *c, int32_t nid, bint all_) noexcept nogil:
    """Return the frames on the per-CPU lists of a node to it.

    A list that looks empty is skipped, unless its lock is held: its owner may be fetching the node's last frames.
    ``all_``: look under each lock, so that a list filled at that very moment is not missed.
    """
    cdef uint32_t i, n
    cdef uint32_t pfns[256]
    cdef pcp_t *pcp
    for i in range(c.m.nr_cpus):
        pcp = pcp_of(c.m, i, nid)
        if not all_ and pmg_load32_acq(&pcp.lock) == 0 and pmg_load32(&pcp.n) == 0:
            continue
        pmg_spin_lock(&pcp.lock)
        n = pcp.n
        memcpy(pfns, pcp.pfn, n * 4)
        pmg_store32_rel(&pcp.n, 0)
        pmg_spin_unlock(&pcp.lock)
        if n:
            zone_give(c, nid, pfns, n, False)


cdef uint32_t rmqueue(ctx_t *c, int32_t nid, uint32_t n, uint32_t *out) noexcept nogil:
    """Take up to ``n`` free frames of exactly one node through the per-CPU list; their records stay untouched.

    These are the frames that single calls would get, in that order.  It stops at the end of the list: the next refill may
    only happen after the targets of failed pages have been returned.
    """
    cdef pcp_t *pcp = &c.pcp[nid]
    cdef uint32_t k
    pmg_spin_lock(&pcp.lock)
    if pcp.n == 0:
        pmg_store32_rel(&pcp.n, zone_take(c, nid, STAGE, pcp.pfn))
        if pcp.n == 0:
            pmg_spin_unlock(&pcp.lock)
            if not node_online(c.m, nid):
                return 0
            drain_all_pages(c, nid, False)
            return zone_take(c, nid, 1, out)
    if n == 1:                              # a page at a time: prefetch the record of one that comes soon
        k = pcp.n - 1
        out[0] = pcp.pfn[k]
        if k >= 4:
            pmg_prefetchw(&c.m.frames[pcp.pfn[k - 4]])
    else:
        n = min(n, pcp.n)
        k = pcp.n - n
        copy_back(out, &pcp.pfn[pcp.n], n)
    pmg_store32_rel(&pcp.n, k)
    pmg_spin_unlock(&pcp.lock)
    return n


cdef inline void numa_event(ctx_t *c, int32_t nid, int32_t wanted, uint64_t n) noexcept nogil:
    if nid == wanted:
        count_event(c, C_NUMA_HIT, n)
    else:
        count_event(c, C_NUMA_MISS, n)
        count_event(c, C_NUMA_FOREIGN, n)
    if nid == c.nid:
        count_event(c, C_NUMA_LOCAL, n)
    else:
        count_event(c, C_NUMA_OTHER, n)
    count_event(c, C_PGALLOC, n)


cdef uint32_t prep_new_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    cdef machine_t *m = c.m
    cdef frame_t *f = &m.frames[pfn]
    f.mapping = 0
    f.index = 0
    pmg_store_rel(&f.state, REF_ONE)
    return pfn


cdef inline bint zone_watermark_ok(machine_t *m, int32_t nid, bint watermark) noexcept nogil:
    """Whether the node is above its low watermark, or the caller may go below it.

    From 6.7 on no caller may: the processor that reached the mark has moved the rest to its own per-CPU list in bulk.
    """
    cdef node_t *node = &m.node[nid]
    return node.low == 0 or not (watermark or m.profile.pcp_bulk) or pmg_load(&node.nr_free) > node.low


cdef uint32_t get_page_from_freelist(ctx_t *c, int32_t nid, uint64_t mask, bint watermark) noexcept nogil:
    """Take a frame of the first node in the zonelist that has one, above its watermark if asked; 0: none has."""
    cdef machine_t *m = c.m
    cdef uint32_t i, pfn = 0
    cdef int32_t k, wanted = -1
    for i in range(m.nr_nodes):
        k = <int32_t> m.node[nid].fallback[i]
        if not (mask >> k) & 1:
            continue
        if wanted < 0:
            wanted = k
        if not zone_watermark_ok(m, k, watermark):
            continue
        if rmqueue(c, k, 1, &pfn):
            numa_event(c, k, wanted, 1)
            return pfn
    return 0


cdef uint32_t alloc_page(ctx_t *c, int32_t nid, uint64_t mask) noexcept nogil:
    """Allocate a frame; the fast path respects every low watermark, and only if it fails may the slow path go below.

    A mask without an online node is ignored: its policy predates the present set of nodes.
    """
    cdef uint64_t online = 0
    cdef uint32_t pfn = 0
    while not pfn and online != pmg_load(&c.m.online):      # retry if a node went offline: it may have been the mask's last
        online = pmg_load(&c.m.online)
        pfn = get_page_from_freelist(c, nid, mask & online or online, True)
        if not pfn:
            pfn = get_page_from_freelist(c, nid, mask & online or online, False)
    return prep_new_page(c, pfn) if pfn else 0


cdef uint32_t alloc_pages_node(ctx_t *c, int32_t nid, uint32_t n, uint32_t *out) noexcept nogil:
    """Allocate targets of a migration; the caller fills in their records.

    On a node with a watermark each frame is a request of its own.
    """
    cdef uint32_t k = rmqueue(c, nid, 1 if c.m.node[nid].low else n, out) if zone_watermark_ok(c.m, nid, False) else 0
    if k:
        numa_event(c, nid, nid, k)
    return k


cdef uint32_t alloc_pages_bulk(ctx_t *c, int32_t nid, uint32_t n, uint32_t *out) noexcept nogil:
    """Allocate up to ``n`` frames of one node, as ``n`` calls of alloc_page() would, with the same records."""
    cdef uint32_t i, k = alloc_pages_node(c, nid, n, out)
    for i in range(k):
        prep_new_page(c, out[i])
    return k


cdef void free_pages(ctx_t *c, const uint32_t *pfns, uint32_t n) noexcept nogil:
    """Free frames that have no reference left."""
    cdef machine_t *m = c.m
    cdef uint32_t i, k, stop, pfn
    cdef int32_t nid
    cdef uint64_t first, size
    cdef frame_t *frames = m.frames
    cdef pcp_t *pcp
    count_event(c, C_PGFREE, n)
    i = 0
    while i < n:
        nid = page_to_nid(m, pfns[i])
        first = m.node[nid].first
        size = m.node[nid].end - first
        pcp = &c.pcp[nid]
        pmg_spin_lock(&pcp.lock)
        k = pcp.n
        stop = min(n, i + PCP_MAX - k)
        while i < stop:
            pfn = pfns[i]
            if pfn - first >= size:
                break
            pmg_store32(&frames[pfn].mapping, 0)
            pmg_store_sole(SOLE_FREED, &frames[pfn].state, 0)      # no reference can be taken on a frame without one
            pcp.pfn[k] = pfn
            k += 1
            i += 1
        pmg_store32_rel(&pcp.n, k)
        if (m.node[nid].low or not node_online(m, nid)) and pcp.n:
            for k in range(pcp.n):
                zone_give(c, nid, &pcp.pfn[k], 1, True)
            pmg_store32_rel(&pcp.n, 0)
        elif pcp.n == PCP_MAX:
            # Return the older half in one critical section; the newer half is still in the host's cache.
            zone_give(c, nid, pcp.pfn, PCP_MAX // 2, False)
            memcpy(pcp.pfn, pcp.pfn + PCP_MAX // 2, PCP_MAX // 2 * 4)
            pmg_store32_rel(&pcp.n, PCP_MAX // 2)
        pmg_spin_unlock(&pcp.lock)


cdef void put_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    if put_page_testzero(c.m, pfn, 1):
        free_pages(c, &pfn, 1)


cdef void put_page_refs(ctx_t *c, uint32_t pfn, uint32_t n) noexcept nogil:
    if put_page_testzero(c.m, pfn, n):
        free_pages(c, &pfn, 1)


cdef void node_close(ctx_t *c, int32_t nid) noexcept nogil:
    """Stop allocation on the node: drain its per-CPU lists; frames freed later bypass them."""
    pmg_and(&c.m.online, ~(<uint64_t> 1 << nid))
    drain_all_pages(c, nid, True)


cdef void node_open(ctx_t *c, int32_t nid) noexcept nogil:
    pmg_or(&c.m.online, <uint64_t> 1 << nid)


cdef uint64_t node_in_use(ctx_t *c, int32_t nid) noexcept nogil:
    """Count the frames of a closed node that are not on its free list: in use, or about to be freed."""
    cdef node_t *node = &c.m.node[nid]
    cdef uint64_t n
    zone_lock(c, node)
    n = node.end - node.first - node.reserved - node.nr_stack - (node.end - node.fresh)
    pmg_spin_unlock(&node.lock)
    return n


cdef uint64_t node_free_pages(machine_t *m, int32_t nid) noexcept nogil:
    cdef uint64_t n = pmg_load(&m.node[nid].nr_free) + pmg_load(&m.node[nid].uncounted)
    cdef uint32_t i
    if not node_online(m, nid):
        return 0
    for i in range(m.nr_cpus):
        n += pmg_load32(&pcp_of(m, i, nid).n)
    return n


cdef void clear_highpage(machine_t *m, uint32_t pfn) noexcept nogil:
    if m.page_bytes:
        memset(page_address(m, pfn), 0, m.page_bytes)


cdef void copy_highpage(machine_t *m, uint32_t dst, uint32_t src) noexcept nogil:
    if m.page_bytes == 4096:
        memcpy(page_address(m, dst), page_address(m, src), 4096)
    elif m.page_bytes:
        (<uint64_t *> page_address(m, dst))[0] = (<uint64_t *> page_address(m, src))[0]
