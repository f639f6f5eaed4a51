"""The memory of a machine for Python: counters, files, frames, tables, traces; and migrations without a process."""
from libc.errno cimport ENOMEM, ESRCH
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pagemig._arrays cimport data_of, I32, I64, lend, own_data, U32, U64, U8
from pagemig._core cimport Machine, Process
from pagemig._user cimport answer
from pagemig.mm.atomic cimport pmg_add32, pmg_load, pmg_load32, pmg_store32
from pagemig.mm.calls cimport migrate_frames
from pagemig.mm.context cimport all_vm_events, ctx_first
from pagemig.mm.filemap cimport file_get_name, file_get_not_zero, file_new, file_put, file_set_name
from pagemig.mm.fork cimport all_pids, find_task, get_task, put_task, task_new
from pagemig.mm.frame cimport frame_maps
from pagemig.mm.memory_hotplug cimport evacuation_t, migrate_range, offline_node, online_node
from pagemig.mm.migrate cimport lists_begin, lists_end, lists_t, MIGRATE_CHUNK_SIZE, migrate_page_lists
from pagemig.mm.page_alloc cimport (
    anon_vma_of, arena_new, file_of, mm_of, node_free_pages, page_to_nid, page_token, task_of, vec_at, vma_of,
)
from pagemig.mm.pfnmap cimport pfn_is_reserved, remap_frames, vma_frames
from pagemig.mm.pgtable cimport leaf_pte, walk_leaf
from pagemig.mm.pte cimport pte_pfn, pte_present, pte_t
from pagemig.mm.rmap cimport (
    anon_vma_lock_read, anon_vma_unlock_read, i_mmap_lock_read, i_mmap_unlock_read, page_get_anon_vma, put_anon_vma, rmap_vmas,
)
from pagemig.mm.swapfile cimport pmg_sys_swapoff, pmg_sys_swapon
from pagemig.mm.trace cimport trace_locks
from pagemig.mm.types cimport (
    C_LOCK_PAGE, C_LOCK_SWAP, ctx_t, file_t, frame_t, INIT_PID, keep_t, machine_t, MAX_NODES, NR_COUNTERS, PG_anon,
    PTRS_PER_PTE, task_t, vm_event_state_t, vma_t,
)
from pagemig.mm.vma cimport vma_address
from pagemig.mm.vmscan cimport swap_out

import numpy as np


COUNTERS = (
    "pgfault", "pgmajfault", "pgalloc", "pgfree",
    "numa_hit", "numa_miss", "numa_foreign", "numa_interleave", "numa_local", "numa_other",
    "pgmigrate_success", "pgmigrate_fail",
    "unevictable_pgs_mlocked", "unevictable_pgs_munlocked",
    "cow", "cow_reuse", "zero_page_fault", "fault_around", "migration_wait", "oom_kill",
    "tlb_flush", "ptes_dropped", "ptes_restored",
    "pswpin", "pswpout", "swap_slots", "requests_scanned",
    "lock_page", "lock_zone", "lock_lru", "lock_ptl", "lock_anon_vma", "lock_i_mmap", "lock_tree", "lock_swap",
    "host_ptl", "host_rmap", "host_page_contended", "host_zone_contended", "host_ptl_contended", "host_rmap_contended",
    "host_mm_contended", "host_swap_contended", "host_waits",
)
assert len(COUNTERS) == NR_COUNTERS
assert sizeof(vm_event_state_t) % 64 == 0       # _counters_raw; two processors never share a cache line

FRAME_DTYPE = np.dtype([("state", np.uint64), ("mapping", np.uint32), ("index", np.uint32)], align=True)
TRACE_DTYPE = np.dtype([("word", np.uint64), ("arg", np.uint64)])
assert FRAME_DTYPE.itemsize == sizeof(frame_t)


cdef enum:
    AT_ONCE = 2048              # mappings fetched in one walk of a tree


cdef class Memory(Machine):
    """Views of a machine's memory, and work on it without a calling process."""

    # -- building blocks -----------------------------------------------------------------------------------------

    def _spawn(self, uint32_t cpu, uint32_t uid):
        """Start a process: its pid or -ENOMEM."""
        cdef ctx_t *c = self.enter()
        cdef uint32_t pid
        try:
            with nogil:
                pid = task_new(c, cpu, uid)
        finally:
            self.leave(c)
        return pid if pid else -ENOMEM

    def _find_task(self, uint32_t pid):
        """Whether a process with this pid exists and is not reaped; init is created on demand."""
        cdef ctx_t *c = self.enter()
        cdef task_t *t
        try:
            with nogil:
                t = find_task(c, pid)
                if t != NULL:
                    put_task(self.m, <uint32_t> (t - task_of(self.m, 0)))
        finally:
            self.leave(c)
        return t != NULL

    def _pids(self):
        """Pids of all processes not reaped yet, ascending, without init."""
        cdef uint32_t room = 0, n
        pids = None
        self.must_be_whole()
        n = all_pids(self.m, NULL, 0)
        while n > room:             # processes were started meanwhile
            room = n + 16
            pids = np.empty(room, np.uint32)
            n = all_pids(self.m, <uint32_t *> own_data(pids), room)
        return [pid for pid in sorted(pids[:n].tolist()) if pid != INIT_PID] if n else []

    def _new_file(self, uint32_t kind, uint64_t pages, uint64_t ino=0, uint32_t read_ahead=32):
        """Make a file with one open handle: its index or -ENOMEM."""
        cdef ctx_t *c = self.enter()
        cdef uint32_t f
        try:
            with nogil:
                f = file_new(c, kind, pages, ino)
                if f:
                    file_of(self.m, f).ra_pages = read_ahead
        finally:
            self.leave(c)
        return f if f else -ENOMEM

    def _close_file(self, uint32_t file):
        cdef ctx_t *c = self.enter()
        try:
            with nogil:
                file_put(c, file)
        finally:
            self.leave(c)

    def _file_info(self, uint32_t file):
        """(kind, size in pages, inode number, cached pages) of a file."""
        cdef file_t *f = file_of(self.m, file)
        return f.kind, pmg_load(&f.size), f.ino, pmg_load(&f.nrpages)

    def _file_name(self, uint32_t file, uint64_t ino):
        """Name of the file with this inode number; None: shared anonymous memory, or the file is gone."""
        cdef uint32_t room = 0, n = 256
        self.must_be_whole()
        name = b""
        while n > room:
            room = n
            name = bytearray(room)
            n = file_get_name(self.m, file, ino, <char *> name, room)
        return name[:n].decode("utf-8", "surrogateescape") if n else None

    def _set_file_name(self, uint32_t file, bytes name):
        """Name a file: 0 or -ENOMEM."""
        self.must_be_whole()
        return file_set_name(self.m, file, name, <uint32_t> len(name))

    def _file_busy(self, uint32_t file):
        return pmg_load32(&file_of(self.m, file).busy) != 0

    def _set_file_busy(self, uint32_t file, bint busy):
        pmg_store32(&file_of(self.m, file).busy, busy)

    def _set_file_ino(self, uint32_t file, uint64_t ino):
        file_of(self.m, file).ino = ino

    def _set_next_ino(self, uint64_t ino):
        """Set the inode number of the next shared object or file made without one."""
        self.m.next_ino = ino

    def _file_frames(self, uint32_t file):
        """Frame of each cached page of a file, 0 where none is cached; a copy."""
        cdef file_t *f = file_of(self.m, file)
        out = np.zeros(f.cache.n, np.uint32)
        if f.cache.n:
            memcpy(own_data(out), vec_at(self.m, &f.cache), <size_t> f.cache.n * 4)
        return out

    def _counters(self):
        """Event counters by name, summed over all processors and calls under way."""
        cdef uint64_t total[64]
        self.must_be_whole()
        with nogil:
            all_vm_events(self.m, total)
        return {name: total[k] for k, name in enumerate(COUNTERS)}

    def _counters_raw(self):
        """Counters of every processor, shape (processors, counters), read-only, without a copy."""
        cdef uint64_t n = sizeof(vm_event_state_t) // 8
        words = lend(self, self.m.vm_events, self.m.nr_cpus * n, U64)
        return words.reshape(-1, n)[:, :NR_COUNTERS]

    def _counter(self, int k):
        cdef uint64_t total[64]
        self.must_be_whole()
        with nogil:
            all_vm_events(self.m, total)
        return total[k]

    def _node_free(self, int nid):
        self.must_be_whole()
        return node_free_pages(self.m, nid)

    def _fallback(self, int nid):
        """Zonelist of ``nid``: nodes in the order in which an allocation tries them."""
        return [self.m.node[nid].fallback[i] for i in range(self.m.nr_nodes)]

    def _swap_info(self):
        """(slots, slots in use) of every swap device."""
        return [(self.m.swap_info[i].max - 1, pmg_load32(&self.m.swap_info[i].inuse)) for i in range(self.m.nr_swapfiles)]

    def _swap_out(self, pfns):
        """Write frames to their swap slots or files and free them; return how many were freed."""
        cdef uint32_t *p = <uint32_t *> data_of(pfns, U32, "pfns")
        cdef uint64_t n = len(pfns), gone
        cdef ctx_t *c = self.enter()
        try:
            with nogil:
                gone = swap_out(c, p, n)
        finally:
            self.leave(c)
        return gone

    def _swapoff(self, uint32_t device):
        """Read everything on a device back into memory and stop using it: 0 or -errno."""
        cdef ctx_t *c = self.enter()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_swapoff(c, device, &rule)
        finally:
            self.leave(c)
        return answer(rc, rule)

    def _swapon(self, uint32_t device):
        """Use a device again: 0 or -errno."""
        cdef ctx_t *c = self.enter()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_swapon(c, device, &rule)
        finally:
            self.leave(c)
        return answer(rc, rule)

    def _migrate_lists(self, pfns, int32_t nid):
        """Migrate frames to a node (-1: swap them out) by the four-list interface.

        Returns (rc, frames moved, failed and left, content of those moved), as before they were put back.
        """
        cdef uint32_t *p = <uint32_t *> data_of(pfns, U32, "pfns")
        cdef uint64_t n = len(pfns)
        cdef ctx_t *c
        cdef lists_t l
        cdef int64_t rc
        room = np.empty(3 * n + MIGRATE_CHUNK_SIZE + 1, np.uint32)
        l.source = <uint32_t *> own_data(room)
        l.moved = l.source + n
        l.failed = l.moved + n
        l.to = l.failed + n
        c = self.enter()
        try:
            with nogil:
                lists_begin(c, &l, p, n, nid)
                rc = <int64_t> migrate_page_lists(c, &l)
            try:
                left = l.source - <uint32_t *> own_data(room)
                moved = room[n:n + l.nr_moved].copy()
                failed = room[2 * n:2 * n + l.nr_failed].copy()
                unmoved = room[left:left + l.n].copy()
                content = self._list_content(moved)
            finally:
                with nogil:
                    lists_end(c, &l)
        finally:
            self.leave(c)
        return rc, moved, failed, unmoved, content

    def _list_content(self, pfns):
        """Content that the source frames of moved pages still have."""
        cdef uint32_t *p = <uint32_t *> data_of(pfns, U32, "pfns")
        cdef uint64_t *o
        cdef uint64_t i, n = len(pfns)
        if self.m.page_bytes == 0:
            return None
        out = np.empty(n, np.uint64)
        o = <uint64_t *> own_data(out)
        for i in range(n):
            o[i] = page_token(self.m, p[i])
        return out

    def _swap_map(self):
        """References to each slot, device after device, each with its header first; without a copy."""
        return lend(self, self.m.swap_map, self.m.nr_swap_slots, U32)

    def _set_weight(self, int nid, uint8_t weight):
        self.m.node[nid].weight = weight

    def _weights(self):
        """Weight of every node for weighted interleaving, 1 for nodes that do not exist; an array of 64."""
        return np.array([self.m.node[i].weight or 1 for i in range(MAX_NODES)], np.uint8)

    @property
    def _memory_mask(self):
        """Online nodes with memory, as bits: what every cpuset here allows."""
        return pmg_load(&self.m.has_memory)

    def _cpu_nid(self, uint32_t cpu):
        return self.m.cpu_node[cpu]

    def _node_range(self, int nid):
        """(first frame, frame after the last) of a node."""
        return self.m.node[nid].first, self.m.node[nid].end

    def _nids(self, pfns):
        """Nodes of frame numbers (uint64), -1 for frames that do not exist."""
        cdef uint64_t *p = <uint64_t *> data_of(pfns, U64, "pfns")
        cdef uint64_t i, n = len(pfns)
        cdef int32_t *o
        out = np.empty(n, np.int32)
        o = <int32_t *> own_data(out)
        with nogil:
            for i in range(n):
                o[i] = page_to_nid(self.m, <uint32_t> p[i]) if p[i] < self.m.nr_frames else -1
        return out

    @property
    def _nr_frames(self):
        return self.m.nr_frames

    # -- views -----------------------------------------------------------------------------------------------------

    def _frames_raw(self):
        """The frame records, read-only, without a copy."""
        return lend(self, self.m.frames, self.m.nr_frames * 2, U64).view(FRAME_DTYPE)

    def _tables_raw(self):
        """Page tables allocated so far, shape (tables, 512), read-only, without a copy; table 0 is unused."""
        return lend(self, self.m.pt, <uint64_t> self.m.tables.fresh * PTRS_PER_PTE, U64) \
            .reshape(-1, PTRS_PER_PTE)

    @property
    def table_pfn(self):
        """Physical page number of page table 0: above every frame."""
        return self.m.table_pfn

    def _mlock_counts(self):
        return lend(self, self.m.mlock_count, self.m.nr_frames, U32)

    def _arenas(self):
        """Every reserved arena as bytes, read-only, without a copy; for tests."""
        return [lend(self, self.m.arenas[i], self.m.arena_bytes[i], U8) for i in range(self.m.nr_arenas)]

    def _content_raw(self):
        """First eight bytes of each frame as a strided view; None without content."""
        if self.m.page_bytes == 0:
            return None
        words = lend(self, self.m.content, self.m.nr_frames * (self.m.page_bytes // 8), U64)
        return words.reshape(-1, self.m.page_bytes // 8)

    # -- vm_ops ----------------------------------------------------------------------------------------------------

    def _new_ops(self):
        """Reserve the number of a table of operations."""
        return pmg_add32(&self.m.next_ops, 1) - 1

    def _vma_info(self, uint32_t vma):
        """(address space, start, end in bytes, flags) of a VMA; for its migrate operation."""
        cdef vma_t *v = vma_of(self.m, vma)
        return v.mm, v.start << 12, v.end << 12, v.flags

    def _vma_frames(self, uint32_t vma):
        """Frame of each page of a VMA, -1 where none is mapped; for its migrate operation."""
        cdef vma_t *v = vma_of(self.m, vma)
        out = np.empty(v.end - v.start, np.int64)
        cdef int64_t *p = <int64_t *> data_of(out, I64, "out")
        with nogil:
            vma_frames(self.m, v, v.start, v.end - v.start, p)
        return out

    def _vma_remap(self, uint32_t vma, uint64_t addr, pfns):
        """Replace the frames of a VM_PFNMAP VMA and copy their content; for its migrate operation."""
        cdef uint32_t *p = <uint32_t *> data_of(pfns, U32, "pfns")
        cdef uint64_t n = len(pfns)
        cdef vma_t *v = vma_of(self.m, vma)
        cdef ctx_t *c = self.enter()
        try:
            with nogil:
                remap_frames(c, v, addr >> 12, n, p)
        finally:
            self.leave(c)

    def _all_reserved(self, pfns):
        """Whether all frames are reserved for the kernel, so that they are never allocated."""
        cdef uint32_t *p = <uint32_t *> data_of(pfns, U32, "pfns")
        cdef uint64_t i
        for i in range(<uint64_t> len(pfns)):
            if not pfn_is_reserved(self.m, p[i]):
                return False
        return True

    # -- the record of migrations, and migrations without a process ------------------------------------------------

    def _start_trace(self, uint64_t capacity, bint locks=False):
        cdef int kind
        cdef ctx_t *c = ctx_first(self.m)
        if self.m.trace == NULL or self.m.trace_max < capacity:
            self.m.trace_max = 0
            self.m.trace = <uint64_t *> arena_new(self.m, capacity * 16)
            if self.m.trace == NULL:
                raise MemoryError(f"the host refused to reserve {capacity * 16} bytes")
            self.m.trace_max = capacity
        self.m.trace_n = 0
        while c != NULL:
            for kind in range(<int> C_LOCK_SWAP - <int> C_LOCK_PAGE + 1):
                c.traced[kind] = c.count[<int> C_LOCK_PAGE + kind]
            c = c.older
        self.m.tracing = 2 if locks else 1

    @property
    def _tracing(self):
        return self.m.tracing != 0

    @property
    def _trace_locks(self):
        return self.m.trace_locks != 0

    @_trace_locks.setter
    def _trace_locks(self, bint on):
        self.m.trace_locks = on

    def _stop_trace(self):
        """Stop the trace, and record the locks that contexts took after their last step."""
        cdef ctx_t *c = ctx_first(self.m)
        while c != NULL and self.m.tracing == 2:
            trace_locks(c, 0)
            c = c.older
        self.m.tracing = 0

    def _trace_raw(self):
        """Events recorded so far, read-only; mm/trace.pyx packs their words."""
        cdef uint64_t n = min(self.m.trace_n, self.m.trace_max)
        if n == 0:
            return np.empty(0, TRACE_DTYPE)
        return lend(self, self.m.trace, n * 2, U64).view(TRACE_DTYPE)

    def _migrate_frames(self, pfns, nodes, status):
        """Move page i to node i, without a calling process; return how many did not move."""
        cdef uint32_t *p = <uint32_t *> data_of(pfns, U32, "pfns")
        cdef int32_t *k = <int32_t *> data_of(nodes, I32, "nodes")
        cdef int32_t *s = <int32_t *> data_of(status, I32, "status")
        cdef uint64_t n = len(pfns)
        cdef ctx_t *c = self.enter()
        cdef int64_t rc
        try:
            with nogil:
                rc = migrate_frames(c, p, k, n, s)
        finally:
            self.leave(c)
        return rc

    def _evacuate(self, int nid, uint64_t first, uint64_t n, uint64_t targets, uint32_t max_passes, int keep,
                  Process holder):
        """Empty a node and take it offline, or with nid -1 just a range of frames: (error, passes, pages migrated)."""
        cdef evacuation_t e
        cdef ctx_t *c
        cdef uint32_t rule = 0
        cdef int64_t rc
        e.first = first
        e.end = first + n
        e.targets = targets
        e.max_passes = max_passes
        e.keep = <keep_t> keep
        e.keep_task = 0
        e.passes = 0
        e.migrated = 0
        c = self.enter()
        try:
            if holder is not None:
                if get_task(self.m, holder._task, holder._pid) == NULL:
                    return -ESRCH, 0, 0
                e.keep_task = holder._task
            with nogil:
                rc = offline_node(c, nid, &e, &rule) if nid >= 0 else migrate_range(c, &e)
                if e.keep_task:
                    put_task(self.m, e.keep_task)
        finally:
            self.leave(c)
        return answer(rc, rule), e.passes, e.migrated

    def _online(self, int nid):
        cdef ctx_t *c = self.enter()
        try:
            with nogil:
                online_node(c, nid)
        finally:
            self.leave(c)

    def _mappings(self, uint32_t pfn):
        """(address space, address) of every mapping of a frame, in the order of the reverse map."""
        cdef ctx_t *c
        cdef uint64_t room = 0, n = 16
        cdef uint64_t *out
        pairs = None
        c = self.enter()
        try:
            while n > room:             # mappings were added meanwhile
                room = n
                pairs = np.empty((room, 2), np.uint64)
                out = <uint64_t *> own_data(pairs)
                with nogil:
                    n = frame_mappings(c, pfn, out, room)
        finally:
            self.leave(c)
        return [(int(mm), int(address)) for mm, address in pairs[:n]]


cdef uint64_t frame_mappings(ctx_t *c, uint32_t pfn, uint64_t *out, uint64_t room) noexcept nogil:
    """Count the mappings of a frame and store up to ``room`` of them.  The tree's lock keeps its VMAs in place."""
    cdef machine_t *m = c.m
    cdef frame_t *f = &m.frames[pfn]
    cdef uint64_t state = pmg_load(&f.state), n
    cdef uint32_t owner = pmg_load32(&f.mapping)
    if frame_maps(state) == 0:
        return 0
    if state & PG_anon:
        owner = page_get_anon_vma(m, pfn)
        if owner == 0:
            return 0
        anon_vma_lock_read(c, owner, 0)
        n = tree_mappings(m, anon_vma_of(m, owner).tree, pfn, out, room)
        anon_vma_unlock_read(c, owner)
        put_anon_vma(m, owner)
        return n
    if owner == 0 or not file_get_not_zero(m, owner):
        return 0
    i_mmap_lock_read(c, file_of(m, owner), 0)
    n = tree_mappings(m, file_of(m, owner).tree, pfn, out, room)
    i_mmap_unlock_read(c, file_of(m, owner))
    file_put(c, owner)
    return n


cdef uint64_t tree_mappings(machine_t *m, uint32_t tree, uint32_t pfn, uint64_t *out, uint64_t room) noexcept nogil:
    cdef uint32_t vmas[AT_ONCE]
    cdef uint32_t i, leaf, got = AT_ONCE, skip = 0, index = pmg_load32(&m.frames[pfn].index)
    cdef uint64_t vpn, n = 0
    cdef vma_t *vma
    cdef pte_t pte
    while got == AT_ONCE:
        got = rmap_vmas(m, tree, index, index, skip, vmas, AT_ONCE)
        skip += got
        for i in range(got):
            vma = vma_of(m, vmas[i])
            vpn = vma_address(vma, index)
            leaf = walk_leaf(m, mm_of(m, vma.mm).pgd, vpn) if vpn < vma.end else 0
            pte = pmg_load(leaf_pte(m, leaf, vpn)) if leaf else 0
            if pte_present(pte) and pte_pfn(pte) == pfn:
                if n < room:
                    out[2 * n] = vma.mm
                    out[2 * n + 1] = vpn << 12
                n += 1
    return n
