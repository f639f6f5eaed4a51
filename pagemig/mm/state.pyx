"""A machine as bytes: copied, saved, loaded.

Stream, little endian: a header of 32 bytes (magic, format, layout, zero); sections; a trailer of 32 bytes with their number
and the checksum of all section headers.  A section: a header of 40 bytes (id, index, bytes of the area, bytes stored,
checksum of the stored bytes, zero); a bitmap of the blocks of 4 KiB that are not all zero; those blocks, of which the last
may be shorter.  Section 1 is ``machine_t`` and determines the sections of areas; section 2 is the caller's; the last section
contains the migrations in progress.
"""
from libc.errno cimport EBUSY, EINTR, EIO, ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from pagemig.mm.atomic cimport pmg_load32
from pagemig.mm.build cimport build_arenas, build_nodes, build_swap, node_spec_t
from pagemig.mm.check cimport check_machine, CHECK_STOPPED, checker_release, checker_t, violation_t
from pagemig.mm.context cimport add_vm_events, ctx_bound, ctx_idle, ctx_release_all
from pagemig.mm.mig cimport mig_release_all, migs_read, migs_write
from pagemig.mm.page_alloc cimport arena_new, arenas_release, copy_blocks, is_zero, mm_of, vec_at, vma_of
from pagemig.mm.place cimport coder_t, WAY_READ, WAY_WRITE
from pagemig.mm.types cimport (
    frame_t, machine_t, MAX_NODES, MAX_SWAPFILES, mlock_pvec_t, mm_t, node_t, pcp_t, PTRS_PER_PTE, slab_t, STAGE, STATS_SLOTS,
    stop_t, SWAP_LEAVING, vm_event_state_t,
)

cdef extern from "pagemig/xxh64.h" nogil:
    ctypedef struct pmg_xxh64_t:
        pass
    void pmg_xxh64_begin(pmg_xxh64_t *h)
    void pmg_xxh64_add(pmg_xxh64_t *h, const void *data, uint64_t n)
    uint64_t pmg_xxh64_end(const pmg_xxh64_t *h)

cdef extern from *:
    """
    #ifndef PMG_LAYOUT
    #define PMG_LAYOUT 0        /* setup.py hashes the declarations of types.pxd */
    #endif
    static const char pmg_magic[8] = {'P', 'A', 'G', 'E', 'M', 'I', 'G', 1};
    """
    const uint64_t PMG_LAYOUT
    const char *pmg_magic

cdef enum:
    FORMAT = 4
    BLOCK = 4096
    PIECE = 1 << 22             # bytes copied, or looked at, between two calls of `stop`
    MACHINE = 1                 # section ids; those of areas follow
    EXTRA = 2
    FIRST_AREA = 3
    MIGS = 4
    MAX_AREAS = 1024            # 5 per node, 64 x 8 of access counts, and some more
    MAX_EXTRA = 1 << 26
    MAX_MIGS = 1 << 30

cdef struct area_t:             # part of an arena: the bytes in use; the rest up to `room` is zero
    char *base
    uint64_t used, room

cdef struct head_t:             # of a section
    uint32_t id, index
    uint64_t raw, stored, checksum, zero


# -- what a machine is made of -----------------------------------------------------------------------------------


cdef void add(area_t *areas, uint32_t *n, void *base, uint64_t used, uint64_t room) noexcept nogil:
    if base != NULL and n[0] < MAX_AREAS:
        areas[n[0]].base = <char *> base
        areas[n[0]].used = used
        areas[n[0]].room = room
        n[0] += 1


cdef void add_slab(area_t *areas, uint32_t *n, slab_t *s) noexcept nogil:
    add(areas, n, s.base, <uint64_t> s.fresh * s.size, <uint64_t> s.max * s.size)


cdef void add_node(machine_t *m, node_t *node, area_t *areas, uint32_t *n) noexcept nogil:
    """Add the arrays indexed by frame; those of frames never allocated are zero."""
    cdef uint64_t used = node.fresh - node.first, all_ = node.end - node.first
    add(areas, n, m.frames + node.first, used * sizeof(frame_t), all_ * sizeof(frame_t))
    add(areas, n, m.mlock_count + node.first, used * 4, all_ * 4)
    add(areas, n, m.free_stack + node.first, node.nr_stack * 4, all_ * 4)
    if m.content != NULL:
        add(areas, n, m.content + node.first * m.page_bytes, used * m.page_bytes, all_ * m.page_bytes)
    if m.swap_entry != NULL:
        add(areas, n, m.swap_entry + node.first, used * 4, all_ * 4)


cdef uint32_t areas_of(machine_t *m, area_t *areas) noexcept nogil:
    """List the used parts of the arenas, in an order that depends on the machine's sizes alone."""
    cdef uint32_t n = 0, i, slot
    cdef uint64_t row = <uint64_t> m.tables.max * PTRS_PER_PTE * 4
    cdef uint64_t cells = <uint64_t> m.nr_cpus * m.nr_nodes * sizeof(pcp_t)
    cdef uint64_t trace = m.trace_max * 16
    for i in range(m.nr_nodes):
        add_node(m, &m.node[i], areas, &n)
    add(areas, &n, m.pt, <uint64_t> m.tables.fresh * PTRS_PER_PTE * 8, <uint64_t> m.tables.max * PTRS_PER_PTE * 8)
    add(areas, &n, m.heap, m.heap_fresh, m.heap_max)
    add_slab(areas, &n, &m.tables)
    add_slab(areas, &n, &m.vmas)
    add_slab(areas, &n, &m.rnodes)
    add_slab(areas, &n, &m.anon_vmas)
    add_slab(areas, &n, &m.sp_nodes)
    add_slab(areas, &n, &m.files)
    add_slab(areas, &n, &m.mms)
    add_slab(areas, &n, &m.tasks)
    add_slab(areas, &n, &m.pins)
    add_slab(areas, &n, &m.nodemasks)
    add(areas, &n, m.mm_cpus, <uint64_t> m.mms.fresh * m.cpu_words * 8, <uint64_t> m.mms.max * m.cpu_words * 8)
    add(areas, &n, m.mlock_pvec, (m.nr_cpus + 1) * sizeof(mlock_pvec_t), (m.nr_cpus + 1) * sizeof(mlock_pvec_t))
    add(areas, &n, m.pcp, cells, cells)
    add(areas, &n, m.vm_events, m.nr_cpus * sizeof(vm_event_state_t), m.nr_cpus * sizeof(vm_event_state_t))
    add(areas, &n, m.swap_map, <uint64_t> m.nr_swap_slots * 4, <uint64_t> m.nr_swap_slots * 4)
    add(areas, &n, m.swap_cache, <uint64_t> m.nr_swap_slots * 4, <uint64_t> m.nr_swap_slots * 4)
    add(areas, &n, m.swap_content, <uint64_t> m.nr_swap_slots * m.page_bytes, <uint64_t> m.nr_swap_slots * m.page_bytes)
    add(areas, &n, m.trace, min(m.trace_n * 16, trace), trace)
    if m.stats != NULL:
        for slot in range(m.stats_slots):
            for i in range(m.nr_nodes):
                add(areas, &n, m.stats + (<uint64_t> slot * m.nr_nodes + i) * (row // 4),
                    <uint64_t> m.tables.fresh * PTRS_PER_PTE * 4, row)
    return n


cdef void keep_addresses(machine_t *to, const machine_t *own) noexcept nogil:
    """Restore the pointers of ``to``, which became a copy of another machine's record, from its ``own``."""
    to.free_stack = own.free_stack
    to.frames = own.frames
    to.content = own.content
    to.mlock_pvec = own.mlock_pvec
    to.mm_cpus = own.mm_cpus
    to.mlock_count = own.mlock_count
    to.pt = own.pt
    to.ptdesc = own.ptdesc
    to.stats = own.stats
    to.heap = own.heap
    to.swap_map = own.swap_map
    to.swap_cache = own.swap_cache
    to.swap_content = own.swap_content
    to.swap_entry = own.swap_entry
    to.tables.base = own.tables.base
    to.vmas.base = own.vmas.base
    to.rnodes.base = own.rnodes.base
    to.anon_vmas.base = own.anon_vmas.base
    to.sp_nodes.base = own.sp_nodes.base
    to.files.base = own.files.base
    to.mms.base = own.mms.base
    to.tasks.base = own.tasks.base
    to.pins.base = own.pins.base
    to.nodemasks.base = own.nodemasks.base
    to.pcp = own.pcp
    to.vm_events = own.vm_events
    to.ctx_free = own.ctx_free
    to.ctx_newest = own.ctx_newest
    to.ctx_lock = own.ctx_lock
    to.nr_ctx = own.nr_ctx
    to.ctx_busy = own.ctx_busy
    to.mig_free = own.mig_free
    to.mig_table = own.mig_table
    to.mig_room = own.mig_room
    to.nr_migs = own.nr_migs
    to.migs_busy = own.migs_busy
    to.migs_running = own.migs_running
    to.evicting = own.evicting
    to.step_fn = own.step_fn
    to.migrate_fn = own.migrate_fn
    to.hook_data = own.hook_data
    to.next_ops = own.next_ops              # operations are in Python, and are not saved
    to.watch = own.watch
    to.notifiers = own.notifiers
    to.running = own.running
    to.in_hooks = own.in_hooks
    to.trace = own.trace
    memcpy(to.arenas, own.arenas, sizeof(own.arenas))
    memcpy(to.arena_bytes, own.arena_bytes, sizeof(own.arena_bytes))
    to.nr_arenas = own.nr_arenas
    to.arena_at = own.arena_at
    to.arena_left = own.arena_left
    memset(to.stats_busy, 0, sizeof(to.stats_busy))
    to.lru_disable_count = 0


cdef machine_t *build_like(const machine_t *record) noexcept nogil:
    """Build an empty machine with the sizes of a record; NULL where the host is out of memory."""
    cdef machine_t *m = <machine_t *> calloc(1, sizeof(machine_t))
    cdef node_spec_t nodes[MAX_NODES]
    cdef uint64_t slots[MAX_SWAPFILES]
    cdef uint8_t far[MAX_NODES * MAX_NODES]
    cdef uint32_t i, k, n = record.nr_nodes
    if m == NULL:
        return NULL
    for i in range(n):
        nodes[i].pages = record.node[i].end - record.node[i].first
        nodes[i].reserved = record.node[i].reserved
        nodes[i].cpus = record.node[i].nr_cpus
        nodes[i].weight = record.node[i].weight
        nodes[i].watermark = record.node[i].low
        for k in range(n):
            far[i * n + k] = record.distance[i][k]
    for i in range(record.nr_swapfiles):
        slots[i] = record.swap_info[i].max - 1
    m.profile = record.profile
    m.page_bytes = record.page_bytes
    m.access_stats = record.access_stats
    m.next_ops = 1
    if build_nodes(m, nodes, n, far) or build_arenas(m) or build_swap(m, slots, record.nr_swapfiles):
        arenas_release(m)
        free(m)
        return NULL
    if record.trace_max:
        m.trace = <uint64_t *> arena_new(m, record.trace_max * 16)
        if m.trace == NULL:
            arenas_release(m)
            free(m)
            return NULL
    return m


cdef int copy_areas(const area_t *to, const area_t *source, uint32_t n, stop_t stop, void *private_) noexcept nogil:
    cdef uint64_t at, part
    cdef uint32_t i
    for i in range(n):
        at = 0
        while at < source[i].used:
            if stop != NULL and stop(private_):
                return -EINTR
            part = min(<uint64_t> PIECE, source[i].used - at)
            copy_blocks(to[i].base + at, source[i].base + at, part)
            at += part
    return 0


cdef bint has_operations(machine_t *m) noexcept nogil:
    """Whether a mapping has operations of its own."""
    cdef uint32_t i, k
    cdef mm_t *mm
    if m.next_ops == 1:                         # none ever had
        return False
    for i in range(1, m.mms.fresh):
        mm = mm_of(m, i)
        if mm.users == 0:
            continue
        for k in range(mm.vmas.n):
            if vma_of(m, vec_at(m, &mm.vmas)[k]).ops:
                return True
    return False


cdef const char *cannot_be_taken(machine_t *m) noexcept nogil:
    """Why a machine cannot be saved or copied now, whatever its migrations are; NULL: it can."""
    if ctx_bound(m):
        return b"a context has a process: close it, or bind it to none (ctx_bind with task 0), and try again"
    if pmg_load32(&m.ctx_busy) != ctx_idle(m) + pmg_load32(&m.migs_busy):
        return b"a call is under way in another thread, or in a hook of it: try again when it is over"
    if has_operations(m):
        return b"mappings have migrate operations of the host, which no file holds: unmap them first"
    return NULL


cdef int write_migs(machine_t *m, coder_t *w, stop_t stop, void *private_, const char **what) noexcept nogil:
    """Write the migrations to ``w.data``, which the caller frees.  -EBUSY: ``what`` tells why one cannot be saved."""
    memset(w, 0, sizeof(coder_t))
    w.stop = stop
    w.stop_private = private_
    w.m = m
    w.way = WAY_WRITE
    migs_write(w)
    what[0] = w.why
    return 0 if w.why == NULL else -EBUSY if w.why[0] else -EINTR if w.stopped else -ENOMEM


cdef int read_migs(machine_t *m, coder_t *w, stop_t stop, void *private_) noexcept nogil:
    w.stop = stop
    w.stop_private = private_
    w.m = m
    w.way = WAY_READ
    w.at = 0
    w.why = NULL
    migs_read(w)
    return 0 if w.why == NULL else LOAD_MACHINE if w.why[0] else -EINTR if w.stopped else -ENOMEM


cdef void release(machine_t *m) noexcept nogil:
    ctx_release_all(m)
    mig_release_all(m)
    arenas_release(m)
    free(m)


cdef machine_t *copy_rest(
        machine_t *m, machine_t *to, coder_t *w, area_t *areas, stop_t stop, void *private_, int *why) noexcept nogil:
    """Copy the areas and migrations into an empty machine of the same sizes; an error releases it."""
    cdef uint32_t n = areas_of(m, areas)
    areas_of(to, areas + MAX_AREAS)
    why[0] = copy_areas(areas + MAX_AREAS, areas, n, stop, private_)
    if why[0] == 0:
        add_vm_events(m, to.vm_events)
        why[0] = read_migs(to, w, stop, private_)
    if why[0] == 0:
        return to
    release(to)
    return NULL


cdef machine_t *state_copy(
        machine_t *m, stop_t stop, stop_t peek, void *private_, int *why, const char **what) noexcept nogil:
    cdef machine_t *to = NULL
    cdef area_t *areas
    cdef machine_t *record
    cdef coder_t w
    what[0] = cannot_be_taken(m)
    why[0] = -EBUSY
    if what[0] != NULL:
        return NULL
    why[0] = write_migs(m, &w, peek, private_, what)
    areas = <area_t *> malloc(2 * MAX_AREAS * sizeof(area_t))
    record = <machine_t *> malloc(sizeof(machine_t))
    if why[0] == 0:
        to = build_like(m) if areas != NULL and record != NULL else NULL
        why[0] = -ENOMEM if to == NULL else 0
    if to != NULL:
        record[0] = to[0]
        to[0] = m[0]
        keep_addresses(to, record)
        to = copy_rest(m, to, &w, areas, stop, private_, why)
    free(record)
    free(areas)
    free(w.data)
    return to


# -- saving ------------------------------------------------------------------------------------------------------


cdef struct sink_t:
    write_t write
    stop_t stop
    void *private_
    pmg_xxh64_t heads           # of all section heads
    uint64_t sections, written


cdef inline bint put(sink_t *s, const void *p, uint64_t n) noexcept nogil:
    s.written += n
    return n == 0 or s.write(s.private_, p, n) == <int64_t> n


cdef inline bint told_to_stop(sink_t *s, uint64_t block) noexcept nogil:
    return block % (PIECE // BLOCK) == 0 and s.stop != NULL and s.stop(s.private_)


cdef bint put_area(sink_t *s, uint32_t id_, uint32_t index, const char *p, uint64_t n, uint8_t *bitmap) noexcept nogil:
    """Write one section; ``bitmap`` has room for one bit per block."""
    cdef uint64_t blocks = (n + BLOCK - 1) // BLOCK, bits = (blocks + 7) // 8, at, k
    cdef head_t head
    cdef pmg_xxh64_t sum_
    memset(&head, 0, sizeof(head))
    memset(bitmap, 0, bits)
    head.id = id_
    head.index = index
    head.raw = n
    head.stored = bits
    for k in range(blocks):
        if told_to_stop(s, k):
            return False
        at = k * BLOCK
        if not is_zero(p + at, min(<uint64_t> BLOCK, n - at)):
            bitmap[k >> 3] |= <uint8_t> (1 << (k & 7))
            head.stored += min(<uint64_t> BLOCK, n - at)
    pmg_xxh64_begin(&sum_)
    pmg_xxh64_add(&sum_, bitmap, bits)
    for k in range(blocks):
        if told_to_stop(s, k):
            return False
        if bitmap[k >> 3] >> (k & 7) & 1:
            pmg_xxh64_add(&sum_, p + k * BLOCK, min(<uint64_t> BLOCK, n - k * BLOCK))
    head.checksum = pmg_xxh64_end(&sum_)
    pmg_xxh64_add(&s.heads, &head, sizeof(head))
    s.sections += 1
    if not put(s, &head, sizeof(head)) or not put(s, bitmap, bits):
        return False
    for k in range(blocks):
        if bitmap[k >> 3] >> (k & 7) & 1 and not put(s, p + k * BLOCK, min(<uint64_t> BLOCK, n - k * BLOCK)):
            return False
    return True


cdef bint put_end(sink_t *s, uint64_t first, uint64_t second) noexcept nogil:
    """Write the header or the trailer: the magic and three numbers."""
    cdef char out[32]
    cdef uint64_t format_ = FORMAT
    memcpy(out, pmg_magic, 8)
    memcpy(out + 8, &format_, 8)
    memcpy(out + 16, &first, 8)
    memcpy(out + 24, &second, 8)
    return put(s, out, 32)


cdef bint save_all(
        machine_t *m, const void *extra, uint64_t n, sink_t *s, area_t *areas, uint32_t nr, machine_t *record,
        uint8_t *bitmap, const coder_t *migs) noexcept nogil:
    cdef machine_t none
    cdef uint32_t i
    memset(&none, 0, sizeof(none))
    record[0] = m[0]
    keep_addresses(record, &none)
    if not put_end(s, PMG_LAYOUT, 0) or not put_area(s, MACHINE, 0, <const char *> record, sizeof(machine_t), bitmap) or \
            not put_area(s, EXTRA, 0, <const char *> extra, n, bitmap):
        return False
    for i in range(nr):
        if not put_area(s, FIRST_AREA, i, areas[i].base, areas[i].used, bitmap):
            return False
    return put_area(s, MIGS, 0, migs.data, migs.n, bitmap) and put_end(s, s.sections, pmg_xxh64_end(&s.heads))


cdef vm_event_state_t *whole_events(machine_t *m, area_t *areas, uint32_t n) noexcept nogil:
    """Replace the processors' counts among the areas by a copy with the counts of contexts; NULL if memory is short."""
    cdef vm_event_state_t *events = <vm_event_state_t *> malloc(m.nr_cpus * sizeof(vm_event_state_t))
    cdef uint32_t i
    if events == NULL:
        return NULL
    memcpy(events, m.vm_events, m.nr_cpus * sizeof(vm_event_state_t))
    add_vm_events(m, events)
    for i in range(n):
        if areas[i].base == <char *> m.vm_events:
            areas[i].base = <char *> events
    return events


cdef uint64_t largest(const area_t *areas, uint32_t n) noexcept nogil:
    cdef uint64_t most = MAX_EXTRA
    cdef uint32_t i
    for i in range(n):
        most = max(most, areas[i].used)
    return most


cdef int64_t state_save(
        machine_t *m, const void *extra, uint64_t n, write_t write, stop_t stop, stop_t peek, void *private_,
        const char **what) noexcept nogil:
    cdef sink_t s
    cdef area_t *areas
    cdef machine_t *record
    cdef vm_event_state_t *events = NULL
    cdef uint8_t *bitmap = NULL
    cdef coder_t w
    cdef uint32_t nr = 0
    cdef int rc
    what[0] = cannot_be_taken(m)
    if what[0] != NULL:
        return -EBUSY
    rc = write_migs(m, &w, peek, private_, what)
    memset(&s, 0, sizeof(s))
    s.write = write
    s.stop = stop
    s.private_ = private_
    pmg_xxh64_begin(&s.heads)
    areas = <area_t *> malloc(MAX_AREAS * sizeof(area_t))
    record = <machine_t *> malloc(sizeof(machine_t))
    if areas != NULL:
        nr = areas_of(m, areas)
        events = whole_events(m, areas, nr)
        bitmap = <uint8_t *> malloc(max(largest(areas, nr), w.n) // BLOCK // 8 + 2)
    if rc == 0:
        rc = -ENOMEM
        if events != NULL and record != NULL and bitmap != NULL:
            rc = 0 if save_all(m, extra, n, &s, areas, nr, record, bitmap, &w) else -EIO
    free(events)
    free(bitmap)
    free(record)
    free(areas)
    free(w.data)
    return rc if rc else <int64_t> s.written


# -- loading -----------------------------------------------------------------------------------------------------


cdef struct source_t:
    read_t read
    stop_t stop
    void *private_
    pmg_xxh64_t heads
    uint64_t sections
    bint failed                 # to read, rather than at the end


cdef inline bint get(source_t *s, void *p, uint64_t n) noexcept nogil:
    cdef int64_t got = s.read(s.private_, p, n) if n else 0
    s.failed |= got < 0
    return got == <int64_t> n


cdef int get_end(source_t *s, uint64_t *first, uint64_t *second) noexcept nogil:
    cdef char head[32]
    cdef uint64_t format_
    if not get(s, head, 32):
        return LOAD_TRUNCATED
    if memcmp(head, pmg_magic, 7):
        return LOAD_MAGIC
    memcpy(&format_, head + 8, 8)
    if head[7] != pmg_magic[7] or format_ != FORMAT:
        return LOAD_FORMAT
    memcpy(first, head + 16, 8)
    memcpy(second, head + 24, 8)
    return 0


cdef int get_head(source_t *s, uint32_t id_, uint32_t index, uint64_t most, head_t *head) noexcept nogil:
    """Read the header of the section that must come next, of at most ``most`` bytes."""
    cdef uint64_t bits
    if not get(s, head, sizeof(head_t)):
        return LOAD_TRUNCATED
    bits = ((head.raw + BLOCK - 1) // BLOCK + 7) // 8
    if head.id != id_ or head.index != index or head.raw > most or head.zero or head.stored > head.raw + bits or \
            head.stored < bits:
        return LOAD_SECTION
    pmg_xxh64_add(&s.heads, head, sizeof(head_t))
    s.sections += 1
    return 0


cdef int get_area(source_t *s, const head_t *head, char *p) noexcept nogil:
    """Read a section's blocks into zeroed memory."""
    cdef uint64_t blocks = (head.raw + BLOCK - 1) // BLOCK, bits = (blocks + 7) // 8, k, part, left = head.stored - bits
    cdef uint8_t *bitmap = <uint8_t *> malloc(bits + 1)
    cdef pmg_xxh64_t sum_
    cdef int rc = 0
    if bitmap == NULL:
        return -ENOMEM
    pmg_xxh64_begin(&sum_)
    if not get(s, bitmap, bits):
        rc = LOAD_TRUNCATED
    pmg_xxh64_add(&sum_, bitmap, bits)
    for k in range(blocks):
        if rc or not bitmap[k >> 3] >> (k & 7) & 1:
            continue
        part = min(<uint64_t> BLOCK, head.raw - k * BLOCK)
        if part > left:
            rc = LOAD_SECTION
        elif not get(s, p + k * BLOCK, part):
            rc = LOAD_TRUNCATED
        else:
            pmg_xxh64_add(&sum_, p + k * BLOCK, part)
            left -= part
    free(bitmap)
    if rc == 0 and (left or pmg_xxh64_end(&sum_) != head.checksum):
        rc = LOAD_CHECKSUM
    return rc


cdef bint slab_is_sound(const slab_t *s, const slab_t *own) noexcept nogil:
    return s.size == own.size and s.next_off == own.next_off and s.max == own.max and s.keep == own.keep and \
        1 <= s.fresh <= s.max and s.free < s.fresh and s.used < s.fresh and s.lock == 0


cdef bint numbers_are_sound(const machine_t *r) noexcept nogil:
    """Check numbers that index arrays or that a call would wait for."""
    cdef uint64_t nodes = ~<uint64_t> 0 if r.nr_nodes == MAX_NODES else (<uint64_t> 1 << r.nr_nodes) - 1
    cdef uint32_t i
    for i in range(r.nr_swapfiles):
        if r.swap_info[i].next > r.swap_info[i].max or r.swap_info[i].high > r.swap_info[i].max or \
                r.swap_info[i].off > SWAP_LEAVING:
            return False
    return not (r.has_memory | r.online) & ~nodes and r.tracing <= 2 and (r.trace_max or not r.tracing)


cdef bint record_is_sound(const machine_t *r) noexcept nogil:
    """Check that a machine can be built with a record's sizes."""
    cdef uint64_t pages = 0, slots = 0
    cdef uint32_t i, cpus = 0
    cdef const node_t *node
    if not 1 <= r.nr_nodes <= MAX_NODES or r.nr_swapfiles > MAX_SWAPFILES or \
            (r.page_bytes != 0 and r.page_bytes != 8 and r.page_bytes != 4096) or \
            not 1 <= r.width <= STAGE or r.stats_slots > STATS_SLOTS or r.trace_max > 1ull << 32 or r.access_stats > 1:
        return False
    for i in range(r.nr_nodes):
        node = &r.node[i]
        if node.first != pages or not node.first <= node.fresh <= node.end or node.end >= 1ull << 32 or \
                node.reserved > node.end - node.first or node.nr_stack > node.end - node.first or node.nr_cpus > 4096:
            return False
        pages = node.end
        cpus += node.nr_cpus
    for i in range(r.nr_swapfiles):
        if r.swap_info[i].first != slots or r.swap_info[i].max == 0 or r.swap_info[i].max >> 31:
            return False
        slots += r.swap_info[i].max
    return numbers_are_sound(r) and \
        1 <= cpus <= 4096 and r.nr_cpus == cpus and r.nr_frames == pages and pages > 0 and slots == r.nr_swap_slots and \
        slots < 1ull << 32


cdef bint fits(const machine_t *r, const machine_t *own) noexcept nogil:
    """Check that a record agrees with ``own``, built from its sizes, in everything that follows from them."""
    cdef uint32_t i
    for i in range(r.nr_cpus):
        if r.cpu_node[i] != own.cpu_node[i]:
            return False
    for i in range(r.nr_nodes):
        if memcmp(r.node[i].fallback, own.node[i].fallback, sizeof(own.node[i].fallback)):
            return False
    if r.cpu_words != own.cpu_words:
        return False
    return r.cpu_words == own.cpu_words and \
        r.heap_max == own.heap_max and 64 <= r.heap_fresh <= r.heap_max and r.table_pfn == own.table_pfn and \
        slab_is_sound(&r.tables, &own.tables) and slab_is_sound(&r.vmas, &own.vmas) and \
        slab_is_sound(&r.rnodes, &own.rnodes) and slab_is_sound(&r.anon_vmas, &own.anon_vmas) and \
        slab_is_sound(&r.sp_nodes, &own.sp_nodes) and slab_is_sound(&r.files, &own.files) and \
        slab_is_sound(&r.mms, &own.mms) and slab_is_sound(&r.tasks, &own.tasks) and slab_is_sound(&r.pins, &own.pins) and \
        slab_is_sound(&r.nodemasks, &own.nodemasks)


cdef bint is_described(const machine_t *record, const machine_t *made) noexcept nogil:
    cdef uint32_t i
    for i in range(made.nr_nodes):
        if record.node[i].first != made.node[i].first or record.node[i].end != made.node[i].end or \
                record.node[i].reserved != made.node[i].reserved or record.node[i].nr_cpus != made.node[i].nr_cpus:
            return False
    return record.nr_nodes == made.nr_nodes and record.page_bytes == made.page_bytes and \
        record.access_stats == made.access_stats and record.nr_swapfiles == made.nr_swapfiles and \
        memcmp(&record.profile, &made.profile, sizeof(made.profile)) == 0


cdef int passes_check(machine_t *m, stop_t stop, void *private_) noexcept nogil:
    """Check every invariant: 0, or why the machine is refused."""
    cdef checker_t k
    cdef violation_t v
    cdef int rule
    memset(&k, 0, sizeof(k))
    rule = check_machine(m, &k, True, stop, stop, private_, &v)
    checker_release(&k)
    return 0 if rule == 0 else -ENOMEM if rule == -1 else -EINTR if rule == CHECK_STOPPED else LOAD_MACHINE


cdef int load_migs(source_t *s, machine_t *m) noexcept nogil:
    """Load the migrations, after the frames."""
    cdef coder_t w
    cdef head_t head
    cdef int rc = get_head(s, MIGS, 0, MAX_MIGS, &head)
    if rc:
        return rc
    memset(&w, 0, sizeof(w))
    w.data = <char *> calloc(head.raw + 1, 1)
    w.n = head.raw
    rc = get_area(s, &head, w.data) if w.data != NULL else -ENOMEM
    rc = rc or read_migs(m, &w, s.stop, s.private_)
    free(w.data)
    return rc


cdef int load_areas(source_t *s, machine_t *m) noexcept nogil:
    """Read all areas and the trailer, and check every invariant."""
    cdef area_t *areas = <area_t *> malloc(MAX_AREAS * sizeof(area_t))
    cdef head_t head
    cdef uint64_t sections = 0, heads = 0, sum_
    cdef uint32_t i, n
    cdef int rc = 0
    if areas == NULL:
        return -ENOMEM
    memset(m.frames, 0, sizeof(frame_t))            # the empty machine's zero page
    n = areas_of(m, areas)
    for i in range(n):
        rc = get_head(s, FIRST_AREA, i, areas[i].room, &head)
        if rc == 0 and head.raw != areas[i].used:
            rc = LOAD_SECTION
        if rc == 0:
            rc = get_area(s, &head, areas[i].base)
        if rc:
            break
    free(areas)
    rc = rc or load_migs(s, m)
    if rc:
        return rc
    sum_ = pmg_xxh64_end(&s.heads)
    rc = get_end(s, &sections, &heads)
    if rc == 0 and (sections != s.sections or heads != sum_):
        rc = LOAD_CHECKSUM
    return rc or passes_check(m, s.stop, s.private_)


cdef int load_record(source_t *s, machine_t *record, void **extra, uint64_t *n) noexcept nogil:
    cdef head_t head
    cdef int rc = get_head(s, MACHINE, 0, sizeof(machine_t), &head)
    if rc == 0 and head.raw != sizeof(machine_t):
        rc = LOAD_SECTION
    if rc == 0:
        rc = get_area(s, &head, <char *> record)
    if rc == 0:
        rc = get_head(s, EXTRA, 0, MAX_EXTRA, &head)
    if rc == 0:
        extra[0] = calloc(head.raw + 1, 1)
        n[0] = head.raw
        rc = get_area(s, &head, <char *> extra[0]) if extra[0] != NULL else -ENOMEM
    return rc if rc or record_is_sound(record) else LOAD_MACHINE


cdef machine_t *state_load(
        read_t read, stop_t stop, void *private_, void **extra, uint64_t *n, uint64_t *layout, int *why) noexcept nogil:
    cdef source_t s
    cdef machine_t *record = <machine_t *> calloc(1, sizeof(machine_t))
    cdef machine_t *m = NULL
    cdef machine_t *own
    cdef uint64_t zero = 0
    cdef int rc = -ENOMEM
    memset(&s, 0, sizeof(s))
    s.read = read
    s.stop = stop
    s.private_ = private_
    pmg_xxh64_begin(&s.heads)
    extra[0] = NULL
    n[0] = 0
    layout[0] = 0
    if record != NULL:
        rc = get_end(&s, layout, &zero)
        if rc == 0 and layout[0] != PMG_LAYOUT:
            rc = LOAD_LAYOUT
        if rc == 0:
            rc = LOAD_SECTION if zero else load_record(&s, record, extra, n)
    if rc == 0:
        m = build_like(record)
        rc = -ENOMEM if m == NULL else 0 if fits(record, m) else LOAD_MACHINE
    if rc == 0:
        own = <machine_t *> malloc(sizeof(machine_t))
        if own == NULL:
            rc = -ENOMEM
        else:
            own[0] = m[0]
            m[0] = record[0]
            keep_addresses(m, own)
            free(own)
            rc = load_areas(&s, m)
    free(record)
    if s.failed:
        rc = -EIO
    why[0] = rc
    if rc:
        free(extra[0])
        extra[0] = NULL
        if m != NULL:
            release(m)
        m = NULL
    return m


cdef void state_problem(int why, uint64_t layout, char *text, size_t n) noexcept nogil:
    cdef const char *words = b"the host is out of memory"
    if why == LOAD_LAYOUT:
        snprintf(
            text, n, b"it was saved by a build whose records have another layout (%#llx, here %#llx): load it with the "
            b"pagemig that saved it", <unsigned long long> layout, <unsigned long long> PMG_LAYOUT)
        return
    if why == -EIO:
        words = b"it cannot be read: the host's function answered an error"
    elif why == LOAD_TRUNCATED:
        words = b"it ends too early: the file was cut, so take another copy of it"
    elif why == LOAD_MAGIC:
        words = b"this is no saved machine"
    elif why == LOAD_FORMAT:
        words = b"its format belongs to another version of pagemig: load it with that version"
    elif why == LOAD_CHECKSUM:
        words = b"its checksum is wrong: the file is damaged, so take another copy of it"
    elif why == LOAD_SECTION:
        words = b"a part of it has a size or a place that no saved machine has: the file is damaged"
    elif why == LOAD_MACHINE:
        words = b"it describes an impossible machine: the file is damaged, or was made by something else"
    snprintf(text, n, b"%s", words)
