"""Building a machine: its profile, nodes with their fall-back order, and the reserved arenas of all records."""
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t, uint8_t, uintptr_t
from libc.string cimport memset

from pagemig.mm.page_alloc cimport arena_new, slab_init
from pagemig.mm.types cimport (
    anon_vma_t, ctx_t, file_t, frame_t, machine_t, MAX_CTX, MAX_NODES, mlock_pvec_t, mm_t, node_t, PCP_MAX, pcp_t,
    PG_reserved, pin_t, ptdesc_t, PVEC_MAX, REF_ONE, rnode_t, sp_node_t, STATS_SLOTS, task_t, vma_t,
)


cdef void *records(machine_t *m, uint64_t n, uint64_t size) except NULL:
    cdef void *p = arena_new(m, n * size)
    if p == NULL:
        raise MemoryError(f"the host refused to reserve {n * size} bytes")
    return p


cdef void build_zonelists(machine_t *m) noexcept:
    """Fall-back order of every node: itself, then the nearest not yet taken.

    Among equals the kernel prefers nodes with a higher number than its own, then those that were not yet the first
    choice of another; so with all distances equal each node falls back to the one after it, cyclically (recorded).
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


cdef void build_nodes(machine_t *m, list pages, list cpus, list reserved, object distances) except *:
    cdef uint32_t i, cpu = 0
    cdef uint64_t pfn = 0
    cdef node_t *node
    cdef uint32_t *stack
    m.nr_nodes = <uint32_t> len(pages)
    m.nr_frames = sum(pages)
    for i in range(m.nr_nodes):
        node = &m.node[i]
        node.first = pfn
        node.end = pfn + <uint64_t> pages[i]
        node.reserved = max(<uint64_t> reserved[i], 1 if pfn == 0 else 0)   # frame 0 is the zero page
        node.fresh = min(node.end, node.first + node.reserved)
        node.nr_free = node.end - node.fresh
        node.weight = 1
        pfn = node.end
        if pages[i]:
            m.has_memory |= <uint64_t> 1 << i
        m.online |= <uint64_t> 1 << i
        node.nr_cpus = cpus[i]
        for _ in range(cpus[i]):
            m.cpu_node[cpu] = i
            cpu += 1
        for k in range(m.nr_nodes):
            m.distance[i][k] = distances[i, k]
    m.nr_cpus = cpu
    build_zonelists(m)
    stack = <uint32_t *> records(m, m.nr_frames + PCP_MAX, 4)
    for i in range(m.nr_nodes):
        m.node[i].stack = stack + m.node[i].first


cdef void build_arenas(machine_t *m) except *:
    cdef uint64_t n = m.nr_frames, tables = min(n + 4096, <uint64_t> 1 << 24)
    cdef uint64_t many = min(max(4 * n, 1 << 18), 1 << 24)
    cdef uint32_t i
    m.frames = <frame_t *> records(m, n, sizeof(frame_t))
    m.frames[0].state = PG_reserved | REF_ONE        # the zero page: our reference keeps it whoever pins it
    m.mlock_count = <uint32_t *> records(m, n, 4)
    m.mlock_pvec = <mlock_pvec_t *> records(m, m.nr_cpus + 1, sizeof(mlock_pvec_t))
    if m.page_bytes:
        m.content = <uint8_t *> records(m, n, m.page_bytes)
    m.pt = <uint64_t *> records(m, tables, 4096)
    m.ptdesc = <ptdesc_t *> records(m, tables, sizeof(ptdesc_t))
    slab_init(&m.tables, m.ptdesc, sizeof(ptdesc_t), 24, <uint32_t> tables)
    m.table_pfn = n + 4096
    if m.access_stats:
        m.stats = <uint32_t *> records(m, tables * 512 * m.nr_nodes * STATS_SLOTS, 4)
    m.heap_max = max(n * 16, <uint64_t> 1 << 30)
    m.heap = <char *> records(m, m.heap_max, 1)
    m.heap_fresh = 64
    slab_init(&m.vmas, records(m, many, sizeof(vma_t)), sizeof(vma_t), <size_t> &(<vma_t *> NULL).next, <uint32_t> many)
    slab_init(&m.rnodes, records(m, 4 * many, sizeof(rnode_t)), sizeof(rnode_t),
              <size_t> &(<rnode_t *> NULL).next, <uint32_t> (4 * many))
    slab_init(&m.anon_vmas, records(m, many, sizeof(anon_vma_t)), sizeof(anon_vma_t),
              <size_t> &(<anon_vma_t *> NULL).next, <uint32_t> many)
    m.anon_vmas.keep = 1            # see KEEP_RCU
    slab_init(&m.sp_nodes, records(m, many, sizeof(sp_node_t)), sizeof(sp_node_t),
              <size_t> &(<sp_node_t *> NULL).next, <uint32_t> many)
    slab_init(&m.files, records(m, many, sizeof(file_t)), sizeof(file_t), <size_t> &(<file_t *> NULL).next, <uint32_t> many)
    slab_init(&m.mms, records(m, 1 << 16, sizeof(mm_t)), sizeof(mm_t), <size_t> &(<mm_t *> NULL).next, 1 << 16)
    slab_init(&m.tasks, records(m, 1 << 16, sizeof(task_t)), sizeof(task_t), <size_t> &(<task_t *> NULL).next, 1 << 16)
    m.mms.keep = m.tasks.keep = 1   # see mmget_not_zero, get_task
    slab_init(&m.pins, records(m, 1 << 16, sizeof(pin_t)), sizeof(pin_t), <size_t> &(<pin_t *> NULL).next, 1 << 16)
    m.ctx = <ctx_t *> records(m, MAX_CTX, sizeof(ctx_t))
    pcps = <uintptr_t> records(m, MAX_CTX * MAX_NODES, sizeof(pcp_t))
    for i in range(MAX_CTX):
        m.ctx[i].m = m
        m.ctx[i].id = i
        m.ctx[i].pcp = (<pcp_t *> <uintptr_t> pcps) + i * MAX_NODES


cdef void build_swap(machine_t *m, list slots) except *:
    """Devices lie one after the other in the arrays; slot 0 of each is its header."""
    cdef uint64_t total = 0
    cdef uint32_t i
    m.nr_swapfiles = <uint32_t> len(slots)
    for i in range(m.nr_swapfiles):
        m.swap_info[i].first = <uint32_t> total
        m.swap_info[i].max = slots[i] + 1
        m.swap_info[i].next = 1
        total += m.swap_info[i].max
    m.nr_swap_slots = <uint32_t> total
    if total:
        m.swap_map = <uint32_t *> records(m, total, 4)
        m.swap_cache = <uint32_t *> records(m, total, 4)
        m.swap_entry = <uint32_t *> records(m, m.nr_frames, 4)
        if m.page_bytes:
            m.swap_content = <uint8_t *> records(m, total, m.page_bytes)


cdef void set_profile(machine_t *m, dict profile) except *:
    """Every switch of ``profile_t`` by its name; one it does not know is refused."""
    cdef dict left = dict(profile)
    m.profile.passes = left.pop("passes")
    m.profile.force_pass = left.pop("force_pass")
    m.profile.batch = left.pop("batch")
    m.profile.copy_first = left.pop("copy_first")
    m.profile.untouched_enoent = left.pop("untouched_enoent")
    m.profile.mbind_ilx = left.pop("mbind_ilx")
    m.profile.weighted = left.pop("weighted")
    m.profile.balancing_many = left.pop("balancing_many")
    m.profile.isolate_counts = left.pop("isolate_counts")
    m.profile.async_first = left.pop("async_first")
    m.profile.async_passes = left.pop("async_passes")
    m.profile.fault_around = left.pop("fault_around")
    m.profile.engine = left.pop("engine")
    m.profile.migrate_unlocked = left.pop("migrate_unlocked")
    m.profile.pagevec = min(left.pop("pagevec"), PVEC_MAX)
    m.profile.pcp_bulk = left.pop("pcp_bulk")
    m.profile.ahead_is_minor = left.pop("ahead_is_minor")
    m.profile.gup_checks_files = left.pop("gup_checks_files")
    m.profile.populate_whole = left.pop("populate_whole")
    m.profile.mprotect_unaccounts = left.pop("mprotect_unaccounts")
    m.profile.writeback_pass = left.pop("writeback_pass")
    m.profile.swap = left.pop("swap")
    m.profile.four_lists = left.pop("four_lists")
    m.profile.plain_entries = left.pop("plain_entries")
    m.profile.counts_drop = left.pop("counts_drop")
    m.profile.locked_fails = left.pop("locked_fails")
    m.profile.locked_skipped = left.pop("locked_skipped")
    m.profile.waiter_refs = left.pop("waiter_refs")
    m.profile.family_anon_vma = left.pop("family_anon_vma")
    m.profile.truncate_leaves = left.pop("truncate_leaves")
    m.profile.rss_uncounted = left.pop("rss_uncounted")
    m.profile.rules_2006 = left.pop("rules_2006")
    m.profile.first_vma = left.pop("first_vma")
    m.profile.arrays = left.pop("arrays")
    m.profile.this_node = left.pop("this_node")
    m.profile.nothing_enoent = left.pop("nothing_enoent")
    m.profile.zero_enoent = left.pop("zero_enoent")
    m.profile.vma_hooks = left.pop("vma_hooks")
    m.profile.last_unhooked = left.pop("last_unhooked")
    m.profile.truncated_crashes = left.pop("truncated_crashes")
    if left:
        raise ValueError(f"profile has switches the core does not know: {', '.join(left)}")
