"""Reserved arenas, records by index, arrays in the heap, the frame allocator and the wait seam."""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcmp

from pagemig.mm.atomic cimport pmg_load, pmg_store
from pagemig.mm.types cimport (
    anon_vma_t, counter_t, ctx_t, file_t, machine_t, mm_t, node_t, nodemask_rec_t, pcp_t, pin_t, rnode_t, slab_t,
    sp_node_t, task_t, vec_t, vma_t,
)

# -- arenas: anonymous memory that the host commits when touched; NULL when the host refuses ------------------
cdef void *arena_new(machine_t *m, uint64_t nbytes) noexcept nogil
# All arenas of a machine share one mapping of the host, since many machines would exhaust its limit of mappings.  From
# arenas_measure to arenas_map, arena_new only adds up sizes and its result must not be used.  0 or -ENOMEM
cdef void arenas_measure(machine_t *m) noexcept nogil
cdef int arenas_map(machine_t *m) noexcept nogil
cdef void arenas_release(machine_t *m) noexcept nogil
cdef void clear_memory(char *p, uint64_t n) noexcept nogil
cdef void copy_blocks(char *to, const char *p, uint64_t n) noexcept nogil


cdef inline bint is_zero(const char *p, uint64_t n) noexcept nogil:
    return n == 0 or (p[0] == 0 and memcmp(p, p + 1, n - 1) == 0)


cdef inline uint32_t *free_stack(machine_t *m, node_t *node) noexcept nogil:
    """Get the stack of frames returned to a node, the newest last."""
    return m.free_stack + node.first


# -- records by index.  slab_alloc returns a zeroed record, or 0 when the arena is full (ENOMEM) --------------
cdef void slab_init(slab_t *s, void *base, uint32_t size, uint32_t next_off, uint32_t max) noexcept nogil
cdef uint32_t slab_alloc(slab_t *s) noexcept nogil
cdef void slab_free(slab_t *s, uint32_t i) noexcept nogil


cdef inline vma_t *vma_of(machine_t *m, uint32_t i) noexcept nogil:
    return &(<vma_t *> m.vmas.base)[i]


cdef inline rnode_t *rnode_of(machine_t *m, uint32_t i) noexcept nogil:
    return &(<rnode_t *> m.rnodes.base)[i]


cdef inline anon_vma_t *anon_vma_of(machine_t *m, uint32_t i) noexcept nogil:
    return &(<anon_vma_t *> m.anon_vmas.base)[i]


cdef inline sp_node_t *sp_node_of(machine_t *m, uint32_t i) noexcept nogil:
    return &(<sp_node_t *> m.sp_nodes.base)[i]


cdef inline file_t *file_of(machine_t *m, uint32_t i) noexcept nogil:
    return &(<file_t *> m.files.base)[i]


cdef inline mm_t *mm_of(machine_t *m, uint32_t i) noexcept nogil:
    return &(<mm_t *> m.mms.base)[i]


cdef inline task_t *task_of(machine_t *m, uint32_t i) noexcept nogil:
    return &(<task_t *> m.tasks.base)[i]


cdef inline pin_t *pin_of(machine_t *m, uint32_t i) noexcept nogil:
    return &(<pin_t *> m.pins.base)[i]


cdef inline nodemask_rec_t *nodemask_of(machine_t *m, uint32_t i) noexcept nogil:
    return &(<nodemask_rec_t *> m.nodemasks.base)[i]


cdef inline pcp_t *pcp_of(machine_t *m, uint32_t cpu, int32_t nid) noexcept nogil:
    return &m.pcp[<uint64_t> cpu * m.nr_nodes + <uint32_t> nid]


# the index of a record from its address
cdef inline uint32_t vma_index(machine_t *m, vma_t *v) noexcept nogil:
    return <uint32_t> (v - <vma_t *> m.vmas.base)


cdef inline uint32_t mm_index(machine_t *m, mm_t *mm) noexcept nogil:
    return <uint32_t> (mm - <mm_t *> m.mms.base)


cdef inline uint32_t file_index(machine_t *m, file_t *f) noexcept nogil:
    return <uint32_t> (f - <file_t *> m.files.base)


# which processors an address space has run on, one bit each
cdef inline uint64_t *mm_cpumask(machine_t *m, uint32_t mm) noexcept nogil:
    return m.mm_cpus + <uint64_t> mm * m.cpu_words


# -- arrays of uint32_t in the heap.  Growing zeroes the new part; -ENOMEM leaves the array as it was ---------
cdef inline uint32_t *vec_at(machine_t *m, vec_t *v) noexcept nogil:
    return <uint32_t *> (m.heap + v.off)

cdef int vec_resize(machine_t *m, vec_t *v, uint64_t n) noexcept nogil
cdef int vec_insert(machine_t *m, vec_t *v, uint32_t at, uint32_t value) noexcept nogil
cdef void vec_remove(machine_t *m, vec_t *v, uint32_t at) noexcept nogil
cdef void vec_free(machine_t *m, vec_t *v) noexcept nogil
# -- frames.  A new frame has one reference, no flags and stale content: a caller that does not overwrite all of it clears it
# a frame of the first node in nid's zonelist that has one and is in mask; 0 when none has.  Counts numa_* events.
cdef uint32_t alloc_page(ctx_t *c, int32_t nid, uint64_t mask) noexcept nogil
# up to n frames of exactly nid, written to out; returns how many: fewer than n where the per-CPU list has fewer
cdef uint32_t alloc_pages_node(ctx_t *c, int32_t nid, uint32_t n, uint32_t *out) noexcept nogil
cdef uint32_t alloc_pages_bulk(ctx_t *c, int32_t nid, uint32_t n, uint32_t *out) noexcept nogil
cdef void free_pages(ctx_t *c, const uint32_t *pfns, uint32_t n) noexcept nogil
cdef void put_page(ctx_t *c, uint32_t pfn) noexcept nogil
cdef void put_page_refs(ctx_t *c, uint32_t pfn, uint32_t n) noexcept nogil
cdef uint64_t node_free_pages(machine_t *m, int32_t nid) noexcept nogil             # 0 when it is offline
cdef void node_close(ctx_t *c, int32_t nid) noexcept nogil                          # gives out no frame until opened
cdef void node_open(ctx_t *c, int32_t nid) noexcept nogil
cdef uint64_t node_in_use(ctx_t *c, int32_t nid) noexcept nogil                     # of a closed node


cdef inline int32_t page_to_nid(machine_t *m, uint32_t pfn) noexcept nogil:
    """Find the node of a frame: nodes are contiguous ranges of frames, by rising number."""
    cdef uint32_t i
    for i in range(m.nr_nodes - 1):
        if pfn < m.node[i].end:
            return <int32_t> i
    return <int32_t> (m.nr_nodes - 1)


# content of a frame, NULL when page_bytes is 0
cdef inline void *page_address(machine_t *m, uint32_t pfn) noexcept nogil:
    return m.content + <uint64_t> pfn * m.page_bytes

cdef void clear_highpage(machine_t *m, uint32_t pfn) noexcept nogil
cdef void copy_highpage(machine_t *m, uint32_t dst, uint32_t src) noexcept nogil


# -- events are counted only by the thread that holds the context; any thread may read them
cdef inline void count_event(ctx_t *c, counter_t event, uint64_t n) noexcept nogil:
    cdef uint64_t *counter = &c.count[<int> event]
    pmg_store(counter, pmg_load(counter) + n)


# content as a token: the first and last 8 bytes of the frame; 0 on machines without content.  Processes that share a
# page access it concurrently, hence atomics.
cdef inline uint64_t page_token(machine_t *m, uint32_t pfn) noexcept nogil:
    return pmg_load(<uint64_t *> page_address(m, pfn)) if m.page_bytes else 0


cdef inline void set_page_token(machine_t *m, uint32_t pfn, uint64_t value) noexcept nogil:
    cdef uint64_t *p = <uint64_t *> page_address(m, pfn)
    if m.page_bytes:
        pmg_store(p, value)
        pmg_store(p + (m.page_bytes // 8 - 1), value)
