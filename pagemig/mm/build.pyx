"""Build a machine: its profile, nodes with their zonelists, and the reserved arenas of all records."""
from libc.errno cimport EINVAL, ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

from pagemig.mm.page_alloc cimport arena_new, arenas_map, arenas_measure, free_stack, slab_init
from pagemig.mm.types cimport (
    anon_vma_t, file_t, frame_t, machine_t, MAX_NODES, MAX_TASKS, mlock_pvec_t, mm_t, node_t, nodemask_rec_t, PCP_MAX,
    pcp_t, PG_reserved, pin_t, profile_t, ptdesc_t, PTRS_PER_PTE, REF_ONE, rnode_t, slab_t, sp_node_t, STATS_SLOTS, stop_t,
    task_t, vm_event_state_t, vma_t,
)


cdef enum:
    ASK_EVERY = 1 << 18         # frames scattered between two calls of stop(): some milliseconds


cdef void build_zonelists(machine_t *m) noexcept nogil:
    """Build the fallback order of every node: itself, then the nearest node left.

    Among equals the kernel prefers nodes with a number above the node's own, then those that are not yet the first choice
    of another.  So with all distances equal, each node falls back to the next one, cyclically (recorded).
    """
    cdef uint32_t load[64]
    cdef uint32_t i, k, n, best, cost, least
    cdef uint64_t used
    memset(load, 0, sizeof(load))
    for i in range(m.nr_nodes):
        m.node[i].fallback[0] = i
        used = <uint64_t> 1 << i
        for n in range(1, m.nr_nodes):
            least = 0xffffffffu
            best = 0
            for k in range(m.nr_nodes):
                cost = (m.distance[i][k] + <uint32_t> (k < i)) * MAX_NODES + load[k]
                if not (used >> k) & 1 and cost < least:
                    least = cost
                    best = k
            if m.distance[i][best] != m.distance[i][m.node[i].fallback[n - 1]]:
                load[best] += 1
            m.node[i].fallback[n] = best
            used |= <uint64_t> 1 << best


cdef int build_nodes(machine_t *m, const node_spec_t *nodes, uint32_t n, const uint8_t *distances) noexcept nogil:
    cdef uint32_t i, k, cpu = 0
    cdef uint64_t pfn = 0
    cdef node_t *node
    m.nr_nodes = n
    for i in range(n):
        node = &m.node[i]
        node.first = pfn
        node.end = pfn + nodes[i].pages
        node.reserved = max(nodes[i].reserved, <uint64_t> (pfn == 0))       # frame 0 is the zero page
        node.fresh = min(node.end, node.first + node.reserved)
        node.nr_free = node.end - node.fresh
        node.low = nodes[i].watermark
        node.weight = <uint8_t> nodes[i].weight
        pfn = node.end
        if nodes[i].pages:
            m.has_memory |= <uint64_t> 1 << i
        m.online |= <uint64_t> 1 << i
        node.nr_cpus = nodes[i].cpus
        for _ in range(nodes[i].cpus):
            m.cpu_node[cpu] = i
            cpu += 1
        for k in range(n):
            m.distance[i][k] = distances[i * n + k]
    m.nr_frames = pfn
    m.nr_cpus = cpu
    build_zonelists(m)
    return 0


cdef int build_slab(machine_t *m, slab_t *s, uint64_t n, uint32_t size, size_t next_off) noexcept nogil:
    cdef void *base = arena_new(m, n * size)
    if base == NULL:
        return -ENOMEM
    slab_init(s, base, size, <uint32_t> next_off, <uint32_t> n)
    return 0


cdef int build_slabs(machine_t *m) noexcept nogil:
    """Build the arenas of records.  Lookups may read freed records of those that ``keep`` their type."""
    cdef uint64_t many = min(max(4 * m.nr_frames, <uint64_t> 1 << 18), <uint64_t> 1 << 24)
    cdef uint64_t few = 1 << 16
    if build_slab(m, &m.vmas, many, sizeof(vma_t), <size_t> &(<vma_t *> NULL).next) or \
            build_slab(m, &m.rnodes, 4 * many, sizeof(rnode_t), <size_t> &(<rnode_t *> NULL).next) or \
            build_slab(m, &m.anon_vmas, many, sizeof(anon_vma_t), <size_t> &(<anon_vma_t *> NULL).next) or \
            build_slab(m, &m.sp_nodes, many, sizeof(sp_node_t), <size_t> &(<sp_node_t *> NULL).next) or \
            build_slab(m, &m.files, many, sizeof(file_t), <size_t> &(<file_t *> NULL).next) or \
            build_slab(m, &m.mms, MAX_TASKS, sizeof(mm_t), <size_t> &(<mm_t *> NULL).next) or \
            build_slab(m, &m.tasks, MAX_TASKS, sizeof(task_t), <size_t> &(<task_t *> NULL).next) or \
            build_slab(m, &m.pins, few, sizeof(pin_t), <size_t> &(<pin_t *> NULL).next) or \
            build_slab(m, &m.nodemasks, few, sizeof(nodemask_rec_t), <size_t> &(<nodemask_rec_t *> NULL).next):
        return -ENOMEM
    m.anon_vmas.keep = 1            # see KEEP_RCU
    m.mms.keep = m.tasks.keep = 1   # see mmget_not_zero, get_task
    return 0


cdef int build_cpus(machine_t *m) noexcept nogil:
    """Build the per-CPU data of modelled processors: free frames of every node, and counts of events."""
    m.pcp = <pcp_t *> arena_new(m, <uint64_t> m.nr_cpus * m.nr_nodes * sizeof(pcp_t))
    m.vm_events = <vm_event_state_t *> arena_new(m, m.nr_cpus * sizeof(vm_event_state_t))
    return 0 if m.pcp != NULL and m.vm_events != NULL else -ENOMEM


cdef int lay_out(machine_t *m) noexcept nogil:
    """Reserve every arena of the machine, without storing anything in one."""
    cdef uint64_t n = m.nr_frames, tables = min(n + 4096, <uint64_t> 1 << 24)
    m.free_stack = <uint32_t *> arena_new(m, (n + PCP_MAX) * 4)
    m.frames = <frame_t *> arena_new(m, n * sizeof(frame_t))
    m.mlock_count = <uint32_t *> arena_new(m, n * 4)
    m.mlock_pvec = <mlock_pvec_t *> arena_new(m, (m.nr_cpus + 1) * sizeof(mlock_pvec_t))
    m.cpu_words = (m.nr_cpus + 63) // 64
    m.mm_cpus = <uint64_t *> arena_new(m, <uint64_t> MAX_TASKS * m.cpu_words * 8)
    m.pt = <uint64_t *> arena_new(m, tables * 4096)
    m.heap_max = max(n * 16, <uint64_t> 1 << 30)
    m.heap = <char *> arena_new(m, m.heap_max)
    if m.page_bytes:
        m.content = <uint8_t *> arena_new(m, n * m.page_bytes)
    if m.access_stats:
        m.stats = <uint32_t *> arena_new(m, tables * PTRS_PER_PTE * m.nr_nodes * STATS_SLOTS * 4)
    if m.free_stack == NULL or m.frames == NULL or m.mlock_count == NULL or m.mlock_pvec == NULL or m.mm_cpus == NULL or \
            m.pt == NULL or m.heap == NULL or (m.page_bytes and m.content == NULL) or (m.access_stats and m.stats == NULL) or \
            build_slab(m, &m.tables, tables, sizeof(ptdesc_t), <size_t> &(<ptdesc_t *> NULL).next) or \
            build_slabs(m) or build_cpus(m):
        return -ENOMEM
    return 0


cdef int build_arenas(machine_t *m) noexcept nogil:
    arenas_measure(m)
    lay_out(m)
    if arenas_map(m) or lay_out(m):
        return -ENOMEM
    m.frames[0].state = PG_reserved | REF_ONE        # the zero page: this reference keeps it after every unpin
    m.ptdesc = <ptdesc_t *> m.tables.base
    m.table_pfn = m.nr_frames + 4096
    m.heap_fresh = 64
    return 0


cdef int build_swap(machine_t *m, const uint64_t *slots, uint32_t n) noexcept nogil:
    """Lay the devices out one after the other in the arrays of slots; slot 0 of each is its header."""
    cdef uint64_t total = 0
    cdef uint32_t i
    if n and not m.profile.swap:
        return -EINVAL
    m.nr_swapfiles = n
    for i in range(n):
        m.swap_info[i].first = <uint32_t> total
        m.swap_info[i].max = <uint32_t> slots[i] + 1
        m.swap_info[i].next = 1
        total += m.swap_info[i].max
    m.nr_swap_slots = <uint32_t> total
    if not total:
        return 0
    m.swap_map = <uint32_t *> arena_new(m, total * 4)
    m.swap_cache = <uint32_t *> arena_new(m, total * 4)
    m.swap_entry = <uint32_t *> arena_new(m, m.nr_frames * 4)
    if m.page_bytes:
        m.swap_content = <uint8_t *> arena_new(m, total * m.page_bytes)
    if m.swap_map == NULL or m.swap_cache == NULL or m.swap_entry == NULL or (m.page_bytes and m.swap_content == NULL):
        return -ENOMEM
    return 0


cdef inline uint64_t splitmix64(uint64_t *state) noexcept nogil:
    """Get the next number of Vigna's splitmix64."""
    cdef uint64_t z
    state[0] += 0x9e3779b97f4a7c15ull
    z = (state[0] ^ (state[0] >> 30)) * 0xbf58476d1ce4e5b9ull
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull
    return z ^ (z >> 31)


cdef inline void provide(machine_t *m, uint64_t pfn) noexcept nogil:
    """Write what is known of a free frame, so that the host provides its memory now and in order.

    Otherwise the first few hundred pages of a call, which are anywhere, would have to wait for all of it.
    """
    m.frames[pfn].state = 0
    if m.page_bytes == 8:
        (<uint64_t *> m.content)[pfn] = 0


cdef bint scatter(machine_t *m, uint64_t seed, stop_t stop, void *private_) noexcept nogil:
    """Put the free frames of each node on its list in random order (Fisher-Yates)."""
    cdef node_t *node
    cdef uint32_t *stack
    cdef uint32_t i, other
    cdef uint64_t k, j
    for i in range(m.nr_nodes):
        node = &m.node[i]
        stack = free_stack(m, node)
        while node.fresh < node.end:
            if node.fresh % ASK_EVERY == 0 and stop != NULL and stop(private_):
                return False
            stack[node.nr_stack] = <uint32_t> node.fresh
            provide(m, node.fresh)
            node.nr_stack += 1
            node.fresh += 1
        k = node.nr_stack
        while k > 1:
            if k % ASK_EVERY == 0 and stop != NULL and stop(private_):
                return False
            j = splitmix64(&seed) % k           # fewer than 2^32 frames: the bias is below 2^-32
            k -= 1
            other = stack[j]
            stack[j] = stack[k]
            stack[k] = other
    return True


cdef dict profile_layout():
    """Get the word index of each switch of ``profile_t``: store every index in its word, and read it by name."""
    cdef profile_t p
    cdef uint32_t *word = <uint32_t *> &p
    cdef uint32_t i
    for i in range(sizeof(profile_t) // 4):
        word[i] = i
    return p


cdef int set_profile(machine_t *m, const void *record, uint64_t size) noexcept nogil:
    if size != sizeof(profile_t):
        return -EINVAL
    memcpy(&m.profile, record, size)
    return 0
