"""The invariants of a machine at rest, and the means for a test to break each of them.

Some are the kernel's invariants of migration; the others say that every count and link of the model agrees with the
records.  The walk goes from the processes down (VMAs, page tables), then over files, reverse maps and pins, and notes what
each frame and record should count; then it compares that with what they do count.  Its cost follows what is in use; only
the full scan looks at the rest.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from pagemig.mm.atomic cimport pmg_load32, pmg_spin_lock, pmg_spin_unlock
from pagemig.mm.context cimport ctx_first, RW_PENDING, RW_WRITER
from pagemig.mm.frame cimport frame_maps, frame_refs, page_state
from pagemig.mm.place cimport (
    coder_t, held_t, HELD_ANON_VMA, HELD_ISOLATED, HELD_LEFT, HELD_LOCKED, HELD_MMAP_READ, HELD_MMAP_WRITE, HELD_MOVED,
    HELD_TARGET, mpol_is_sound, places_name, WAY_NAME,
)
from pagemig.mm.page_alloc cimport (
    anon_vma_of, file_of, free_stack, mm_of, page_to_nid, pcp_of, pin_of, rnode_of, sp_node_of, task_of, vec_at, vma_of,
)
from pagemig.mm.pgtable cimport entry_table, level_shift, table_entries
from pagemig.mm.pte cimport (
    is_migration_entry, migration_entry_to_pfn, PTE_NX, PTE_P, pte_pfn, pte_present, PTE_PROTNONE, PTE_RW,
    PTE_SPECIAL, pte_t, PTE_TABLE, PTE_US,
)
from pagemig.mm.swap_state cimport entry_slot, is_slot_entry
from pagemig.mm.types cimport (
    anon_vma_t, ctx_t, FILE_SHMEM, file_t, frame_t, GUP_PIN_COUNTING_BIAS, machine_t, MAX_NODES, mlock_pvec_t, mm_t, mpol_t,
    node_t, PCP_MAX, pcp_t, PG_anon, PG_anon_exclusive, PG_cached, PG_isolated, PG_locked, PG_lru, PG_mlocked, PG_private,
    PG_reserved, PID_HASH, PG_swapbacked, PG_swapcache, pin_t, ptdesc_t, PTRS_PER_PTE, REF_ONE, rnode_t, slab_t, sp_node_t,
    TASK_FREE, TASK_RUNNING, TASK_SIZE_PAGES, task_t, vec_t, VM_IO, VM_LOCKED, VM_PFNMAP, VM_SHARED, VM_WRITE, vma_t, WAIT_MM,
)
from pagemig.mm.vma cimport linear_page_index, vma_pte

from pagemig.errors import InvariantError


cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void *MAP_FAILED


# Name, format of both values (d count, x bits), and the rule in words; in the order of rule_t.
RULES = (
    ("ok", "d", ""),
    ("refcount", "d", "references of a frame = present PTEs + page cache + buffers + isolation + pins + per-CPU lists"),
    ("mapcount", "d", "mapcount of a frame = present PTEs that name it"),
    ("locked", "x", "no frame is locked at rest"),
    ("isolated", "x", "no frame is isolated at rest"),
    ("lru", "x", "every anonymous or cached frame is on the LRU"),
    ("mlock_count", "d", "mlock count of a frame = its PTEs in locked VMAs + pending munlocks"),
    ("mlocked", "x", "PG_mlocked is set exactly while the mlock count is not zero"),
    ("anon_exclusive", "x", "PG_anon_exclusive only on anonymous frames mapped at most once"),
    ("reserved", "x", "the zero page is reserved, and no other frame in use is"),
    ("free_frame", "x", "the record of a free frame is zero"),
    ("free_list", "d", "a frame that is not in use is free exactly once"),
    ("free_count", "d", "a node's count of free frames = frames never used + frames returned"),
    ("frame_account", "d", "frames of a node = reserved + free + on per-CPU lists + in use"),
    ("entry_unlocked", "x", "a migration entry never names an unlocked page"),
    ("migration_entry", "x", "no migration entry outlives the migration"),
    ("unknown_entry", "x", "an entry is empty, present, a swap entry of a slot or a migration entry"),
    ("entry_frame", "d", "an entry names a frame of the machine"),
    ("outside_vma", "x", "entries lie inside VMAs only"),
    ("protection", "x", "an entry's protection is its VMA's"),
    ("write_bit", "x", "a PTE is writable only where its VMA is, for file pages only where it is shared"),
    ("write_exclusive", "x", "a writable PTE of an anonymous page names an exclusive page"),
    ("zero_page", "x", "the zero page is mapped by special read-only PTEs of anonymous VMAs"),
    ("rmap", "d", "the page's own object leads to every VMA that maps it"),
    ("page_index", "d", "a page's index is its VMA's page offset there, modulo 2^32"),
    ("page_table", "d", "every table is reached once, with the level, address and owner of its record"),
    ("table_used", "d", "a table's count of entries = its nonzero entries"),
    ("page_cache", "d", "cache slot and frame name each other"),
    ("nrpages", "d", "a file's count of cached pages = its slots in use"),
    ("file_refs", "d", "a file is referenced by each mapping and each open handle"),
    ("shared_policy", "x", "ranges of a shared policy are ascending and disjoint"),
    ("vma_list", "d", "every VMA is listed once, in its own address space"),
    ("vma_order", "x", "VMAs are nonempty, ascending and disjoint"),
    ("vm_ops", "d", "a VMA's operations are among those that the machine has numbered"),
    ("rmap_chain", "d", "a VMA has one node in each object that can hold its pages, and the node names it"),
    ("rmap_tree", "d", "trees are ordered and heaps by priority, and range and maximum of each node are right"),
    ("anon_active", "d", "num_active_vmas = VMAs whose anon_vma this is"),
    ("anon_children", "d", "num_children = living anon_vmas whose parent this is"),
    ("anon_refcount", "d", "an anon_vma is referenced by its VMAs once and by each other member of its family"),
    ("rss", "d", "resident set of an address space = its PTEs by kind of page, without those that 2.6.18 does not count"),
    ("total_vm", "d", "total_vm = pages of all VMAs"),
    ("locked_vm", "d", "locked_vm = pages of locked VMAs + pages of VMAs unlocked by MREMAP_DONTUNMAP"),
    ("group", "d", "a thread runs in the address space of its process, whose leader counts and lists it"),
    ("mm_users", "d", "users of an address space = processes in it"),
    ("task", "d", "a running process has an address space, a zombie has none"),
    ("policy", "x", "a policy has a mode of the kernel and nodes of the machine, its home and the next one among them"),
    ("pin", "d", "a pin is held by as many processes as it counts"),
    ("lock", "x", "every lock is free at rest"),
    ("slab", "d", "records allocated = records reached; free records are listed once"),
    ("heap", "d", "arrays lie inside the heap"),
    ("swap_map", "d", "count of a slot = entries that name it + 1 for a page in the swap cache"),
    ("swap_cache", "d", "slot and frame of the swap cache name each other"),
    ("swap_inuse", "d", "a device's count of slots in use = its slots with a nonzero count"),
)


assert len(RULES) == NR_RULES


def rule_name(int rule):
    """Name an invariant by its number, as the text of an ``InvariantError`` begins.

    Parameters
    ----------
    rule : int
        Number of the rule.

    Returns
    -------
    str
        As ``"refcount"``.
    """
    return RULES[rule][0]


# -- what the walk notes -----------------------------------------------------------------------------------------


cdef enum:
    ASK_EVERY = 1 << 16         # a few milliseconds of work
    SLOT = 0x80000000           # in frame_mark_t.others: a page cache slot names the frame
    SWAP = 0x40000000           # and a slot of the swap cache
    FREE = 0xffffffff           # in frame_mark_t.maps: on a free list
    IN_CHAIN = 1                # rnode bits
    IN_TREE = 2


ctypedef struct frame_mark_t:   # expected counts of a frame
    uint32_t generation
    uint32_t maps
    uint32_t others             # references other than PTEs: page cache, pins
    uint32_t mlocks
    uint32_t held               # 0, or held_t plus 1: a migration in progress has it
    uint32_t kept               # and its n


ctypedef struct mark_t:         # a record that was reached: bits, users, holders ...
    uint32_t generation
    uint32_t n


ctypedef struct anon_mark_t:
    uint32_t generation
    uint32_t active             # VMAs whose anon_vma this is
    uint32_t children           # members whose parent this is and whose tree is not empty
    uint32_t family             # other living members, of a root
    uint32_t kept               # references of migrations in progress
    uint32_t vma                # last VMA seen with a node in it


ctypedef struct check_t:        # one walk
    machine_t *m
    violation_t *v
    uint32_t generation
    uint32_t nr_used, nr_anon
    frame_mark_t *frame
    uint32_t *used              # frames in use, as met
    mark_t *table
    mark_t *vma_mark
    mark_t *rnode
    mark_t *file
    mark_t *mm_mark
    mark_t *mm_lock             # as migrations in progress hold it
    mark_t *pin
    mark_t *slot_mark           # swap entries that name a slot
    anon_mark_t *anon
    uint32_t *anons             # anon_vmas, as met
    uint64_t in_use[64]         # frames in use, by node
    uint64_t zero_refs          # pins of the zero page
    # A resumable call stands where nobody can tell what it holds: that is exempt (locked and isolated pages, their targets,
    # references on frames and anon_vmas, pins that are not complete, mmap_lock, i_rwsem), and everything else is checked.
    # What migrations name at their stops is checked.
    bint moving
    uint64_t twice              # a frame that two places of migrations have
    uint32_t tables, vmas, chain_nodes, tree_nodes, files, mms, tasks, pins, sp_nodes
    # the address space at hand
    stop_t stop
    stop_t peek                 # the same while migrations are read, which a signal handler could end
    void *private_              # its argument
    uint32_t work               # entries and frames since `stop` was last asked
    mm_t *mm
    uint32_t *vma_list
    uint32_t slot               # first VMA that ends beyond the entry at hand
    vma_t *vma                  # the one of that slot, NULL after the last
    pte_t prot                  # its protection bits
    uint32_t mlocks             # 1: its mappings count as locked
    uint32_t owner              # anon_vma of the last page, known to hold the VMA
    int64_t rss_anon, rss_file, rss_shmem
    uint32_t before             # previous node of the tree at hand


cdef int fail(check_t *k, int rule, uint64_t expected, uint64_t found) noexcept nogil:
    k.v.rule = rule
    k.v.expected = expected
    k.v.found = found
    return rule


cdef int fail_in(check_t *k, int rule, const char *detail, uint64_t expected, uint64_t found) noexcept nogil:
    k.v.detail = detail
    return fail(k, rule, expected, found)


cdef void nowhere(violation_t *v) noexcept nogil:
    v.detail = NULL
    v.task = v.mm = v.vma = v.vpn = v.table = v.pfn = v.index = v.file = v.anon_vma = v.rnode = v.pin = v.nid = -1


cdef inline uint32_t *mark(check_t *k, mark_t *table, uint32_t i) noexcept nogil:
    """Get the note on record ``i``, zero when this walk has none yet."""
    if table[i].generation != k.generation:
        table[i].generation = k.generation
        table[i].n = 0
    return &table[i].n


cdef inline frame_mark_t *frame_mark(check_t *k, uint32_t pfn) noexcept nogil:
    """Get the note on a frame in use, which is listed when first met."""
    cdef frame_mark_t *f = &k.frame[pfn]
    if f.generation != k.generation:
        f.generation = k.generation
        f.maps = 0
        f.others = 0
        f.mlocks = 0
        f.held = f.kept = 0
        k.used[k.nr_used] = pfn
        k.nr_used += 1
        k.in_use[page_to_nid(k.m, pfn)] += 1
    return f


cdef int go_on(check_t *k, uint32_t work) noexcept nogil:
    """Count work and now and then ask whether to stop: 0 or CHECK_STOPPED."""
    k.work += work
    if k.work < ASK_EVERY:
        return 0
    k.work = 0
    return CHECK_STOPPED if k.stop != NULL and k.stop(k.private_) else 0


cdef inline bint record(slab_t *s, uint64_t i) noexcept nogil:
    """Whether ``i`` can be a record of the slab."""
    return 0 < i < s.fresh


cdef int check_vec(check_t *k, vec_t *v, const char *detail) noexcept nogil:
    if v.n > v.cap or (v.cap and (v.off == 0 or v.off + <uint64_t> v.cap * 4 > k.m.heap_fresh)):
        return fail_in(k, RULE_HEAP, detail, v.cap, v.n)
    return 0


cdef int check_lock(check_t *k, uint32_t word, const char *detail) noexcept nogil:
    return fail_in(k, RULE_LOCK, detail, 0, word) if word else 0


# -- anon_vmas and chains ----------------------------------------------------------------------------------------


cdef anon_mark_t *anon_mark(check_t *k, uint32_t i) noexcept nogil:
    cdef anon_mark_t *a = &k.anon[i]
    if a.generation != k.generation:
        memset(a, 0, sizeof(anon_mark_t))
        a.generation = k.generation
        k.anons[k.nr_anon] = i
        k.nr_anon += 1
    return a


cdef int check_anon(check_t *k, uint32_t i) noexcept nogil:
    """Check that ``i`` names a living anon_vma, and note it."""
    k.v.anon_vma = i
    if not record(&k.m.anon_vmas, i):
        return fail(k, RULE_CHAIN, 0, i)
    if anon_vma_of(k.m, i).refcount == 0:
        return fail(k, RULE_ANON_REFCOUNT, 1, 0)
    anon_mark(k, i)
    return 0


cdef int check_node(check_t *k, uint32_t node, uint32_t vma, uint32_t owner) noexcept nogil:
    """Check that a node belongs to one VMA only and names it and the object."""
    cdef rnode_t *n
    cdef uint32_t *bits
    k.v.rnode = node
    if not record(&k.m.rnodes, node):
        return fail_in(k, RULE_CHAIN, "node", 0, node)
    n = rnode_of(k.m, node)
    bits = mark(k, k.rnode, node)
    if bits[0] & IN_CHAIN:
        return fail_in(k, RULE_CHAIN, "VMAs of a node", 1, 2)
    bits[0] |= IN_CHAIN
    k.chain_nodes += 1
    if n.vma != vma:
        return fail_in(k, RULE_CHAIN, "VMA of the node", vma, n.vma)
    if owner and n.owner != owner:
        return fail_in(k, RULE_CHAIN, "owner of the node", owner, n.owner)
    k.v.rnode = -1
    return 0


cdef int check_chain(check_t *k, vma_t *vma, uint32_t at) noexcept nogil:
    """Check the anon_vmas of a VMA: one family, each once, its own among them."""
    cdef machine_t *m = k.m
    cdef uint32_t i = vma.chain, owner, root = 0
    cdef bint own = vma.anon_vma == 0
    cdef int rc
    while i:
        rc = check_node(k, i, at, 0)
        if rc:
            return rc
        owner = rnode_of(m, i).owner
        rc = check_anon(k, owner)
        if rc:
            return rc
        if k.anon[owner].vma == at:
            return fail_in(k, RULE_CHAIN, "nodes in one anon_vma", 1, 2)
        k.anon[owner].vma = at
        if root and anon_vma_of(m, owner).root != root:
            return fail_in(k, RULE_CHAIN, "root", root, anon_vma_of(m, owner).root)
        root = anon_vma_of(m, owner).root
        own |= owner == vma.anon_vma
        i = rnode_of(m, i).next
    k.v.anon_vma = vma.anon_vma
    if not own or (vma.anon_vma == 0 and vma.chain):
        return fail_in(k, RULE_CHAIN, "anon_vma of the VMA", rnode_of(m, vma.chain).owner if vma.chain else 0, vma.anon_vma)
    if vma.anon_vma:
        k.anon[vma.anon_vma].active += 1
    k.v.anon_vma = -1
    return 0


cdef int check_vma_file(check_t *k, vma_t *vma, uint32_t at) noexcept nogil:
    cdef int rc
    if vma.file == 0:
        return fail_in(k, RULE_CHAIN, "i_mmap node", 0, vma.i_mmap) if vma.i_mmap else 0
    k.v.file = vma.file
    if not record(&k.m.files, vma.file) or file_of(k.m, vma.file).refs == 0:
        return fail(k, RULE_FILE_REFS, 1, 0)
    mark(k, k.file, vma.file)[0] += 1
    rc = check_node(k, vma.i_mmap, at, vma.file)
    if rc == 0:
        k.v.file = -1
    return rc


# -- interval trees ------------------------------------------------------------------------------------------------


cdef inline bint node_before(machine_t *m, uint32_t a, uint32_t b) noexcept nogil:
    cdef rnode_t *x = rnode_of(m, a)
    cdef rnode_t *y = rnode_of(m, b)
    return x.start < y.start or (x.start == y.start and x.seq < y.seq)


cdef int check_range(check_t *k, uint32_t i, uint32_t owner) noexcept nogil:
    """Check a node in a tree: in a VMA's chain, in the tree of its owner, with the VMA's range."""
    cdef rnode_t *n = rnode_of(k.m, i)
    cdef uint32_t *bits = mark(k, k.rnode, i)
    cdef vma_t *vma
    if bits[0] != IN_CHAIN:
        return fail_in(k, RULE_TREE, "times in a chain and in a tree", IN_CHAIN, bits[0])
    bits[0] |= IN_TREE
    k.tree_nodes += 1
    if n.owner != owner:
        return fail_in(k, RULE_TREE, "owner", owner, n.owner)
    vma = vma_of(k.m, n.vma)
    if n.start != vma.pgoff & 0xffffffffu:
        return fail_in(k, RULE_TREE, "start", vma.pgoff & 0xffffffffu, n.start)
    if n.last != n.start + (vma.end - vma.start) - 1:
        return fail_in(k, RULE_TREE, "last", n.start + (vma.end - vma.start) - 1, n.last)
    return 0


cdef int check_child(check_t *k, uint32_t child, uint32_t i, uint32_t owner, uint64_t *most) noexcept nogil:
    cdef int rc
    if child == 0:
        return 0
    if not record(&k.m.rnodes, child):
        return fail_in(k, RULE_TREE, "child", 0, child)
    if rnode_of(k.m, child).prio > rnode_of(k.m, i).prio:
        return fail_in(k, RULE_TREE, "priority of a child", rnode_of(k.m, i).prio, rnode_of(k.m, child).prio)
    rc = check_tree(k, child, owner)
    most[0] = max(most[0], rnode_of(k.m, child).max)
    return rc


cdef int check_tree(check_t *k, uint32_t i, uint32_t owner) noexcept nogil:
    """Check the subtree of node ``i``, in order.  It ends: priorities fall on the way down and no node comes twice."""
    cdef rnode_t *n = rnode_of(k.m, i)
    cdef uint64_t most = n.last
    cdef int rc
    k.v.rnode = i
    rc = check_range(k, i, owner)
    if rc == 0:
        rc = check_child(k, n.left, i, owner, &most)
    if rc:
        return rc
    k.v.rnode = i
    if k.before and not node_before(k.m, k.before, i):
        return fail_in(k, RULE_TREE, "order: start of the node before", n.start, rnode_of(k.m, k.before).start)
    k.before = i
    rc = check_child(k, n.right, i, owner, &most)
    if rc:
        return rc
    k.v.rnode = i
    if n.max != most:
        return fail_in(k, RULE_TREE, "max", most, n.max)
    k.v.rnode = -1
    return 0


cdef int check_root(check_t *k, uint32_t tree, uint32_t owner) noexcept nogil:
    k.before = 0
    if tree == 0:
        return 0
    if not record(&k.m.rnodes, tree):
        return fail_in(k, RULE_TREE, "root", 0, tree)
    return check_tree(k, tree, owner)


cdef int count_family(check_t *k) noexcept nogil:
    """Count members and children; parents and roots are noted too, which may extend the list meanwhile."""
    cdef machine_t *m = k.m
    cdef uint32_t j = 0, i
    cdef anon_vma_t *av
    cdef int rc
    while j < k.nr_anon:
        i = k.anons[j]
        av = anon_vma_of(m, i)
        rc = check_anon(k, av.root)
        if rc == 0 and av.tree:         # else a migration keeps it, and its parent, which it holds no more, may be gone
            rc = check_anon(k, av.parent)
        if rc:
            return rc
        if av.root != i:
            k.anon[av.root].family += 1
        if av.tree:
            k.anon[av.parent].children += 1
        j += 1
    return 0


cdef int check_anon_vmas(check_t *k) noexcept nogil:
    cdef uint32_t j, i
    cdef anon_vma_t *av
    cdef anon_mark_t *a
    cdef int rc = count_family(k)
    if rc:
        return rc
    for j in range(k.nr_anon):
        i = k.anons[j]
        av = anon_vma_of(k.m, i)
        a = &k.anon[i]
        k.v.anon_vma = i
        rc = check_root(k, av.tree, i) or check_lock(k, av.lock, "anon_vma.lock")
        if rc:
            return rc
        if av.num_active_vmas != a.active:
            return fail(k, RULE_ANON_ACTIVE, a.active, av.num_active_vmas)
        if av.num_children != a.children:
            return fail(k, RULE_ANON_CHILDREN, a.children, av.num_children)
        if av.refcount < a.family + (av.tree != 0) + a.kept or \
                (av.refcount > a.family + (av.tree != 0) + a.kept and not k.moving):
            return fail(k, RULE_ANON_REFCOUNT, a.family + (av.tree != 0), av.refcount)
    k.v.anon_vma = -1
    return 0


# -- page tables -----------------------------------------------------------------------------------------------------


cdef void enter_vma(check_t *k) noexcept nogil:
    """Load what the entries of the VMA in ``k.slot`` have in common."""
    k.owner = 0
    if k.slot >= k.mm.vmas.n:
        k.vma = NULL
        k.v.vma = -1
        return
    k.vma = vma_of(k.m, k.vma_list[k.slot])
    k.v.vma = k.vma_list[k.slot]
    k.prot = vma_pte(k.m, k.vma, 0) & (PTE_P | PTE_PROTNONE | PTE_US | PTE_NX)
    k.mlocks = k.m.profile.mlock_marks and (k.vma.flags & (VM_LOCKED | VM_IO | VM_PFNMAP)) == VM_LOCKED


cdef inline void seek_vma(check_t *k, uint64_t vpn) noexcept nogil:
    """Advance to the first VMA that ends beyond ``vpn``; addresses only rise."""
    while k.vma != NULL and k.vma.end <= vpn:
        k.slot += 1
        enter_vma(k)


cdef int check_absent(check_t *k, pte_t e) noexcept nogil:
    cdef uint32_t pfn = migration_entry_to_pfn(e), slot
    if is_slot_entry(e):
        slot = entry_slot(k.m, e)
        if slot == 0:
            return fail(k, RULE_UNKNOWN_ENTRY, 0, e)
        mark(k, k.slot_mark, slot)[0] += 1
        return 0
    if not is_migration_entry(e):
        return fail(k, RULE_UNKNOWN_ENTRY, 0, e)
    if pfn >= k.m.nr_frames:
        return fail(k, RULE_ENTRY_FRAME, k.m.nr_frames, pfn)
    k.v.pfn = pfn
    if not page_state(k.m, pfn) & PG_locked:
        return fail(k, RULE_ENTRY_UNLOCKED, 0, e)
    if not k.moving and not is_held(k, pfn, HELD_LOCKED) and not is_held(k, pfn, HELD_LEFT):
        return fail(k, RULE_ENTRY, 0, e)
    if page_state(k.m, pfn) & PG_anon:      # counts in the resident set
        k.rss_anon += 1
    elif page_state(k.m, pfn) & PG_swapbacked:
        k.rss_shmem += 1
    else:
        k.rss_file += 1
    k.v.pfn = -1
    return 0


cdef int check_special(check_t *k, pte_t e) noexcept nogil:
    """Check an entry without a counted page: of the zero page or of a driver."""
    if k.vma.flags & (VM_PFNMAP | VM_IO):
        return 0
    if pte_pfn(e) != 0 or not e & PTE_SPECIAL or e & PTE_RW or k.vma.file:
        return fail(k, RULE_ZERO_PAGE, (e | PTE_SPECIAL) & ~PTE_RW, e)
    return 0


cdef int check_owner(check_t *k, uint32_t av) noexcept nogil:
    """Check that ``av`` finds the VMA: that has a node in it."""
    cdef uint32_t i = k.vma.chain
    while i and rnode_of(k.m, i).owner != av:
        i = rnode_of(k.m, i).next
    if i == 0:
        return fail_in(k, RULE_RMAP, "anon_vma of the page", k.vma.anon_vma, av)
    k.owner = av
    return 0


cdef int check_mapped_anon(check_t *k, uint64_t state, frame_t *f, pte_t e) noexcept nogil:
    k.rss_anon += 1
    if f.mapping == 0 or f.mapping != k.owner:
        if check_owner(k, f.mapping):
            return RULE_RMAP
    if e & PTE_RW and not state & PG_anon_exclusive:
        return fail(k, RULE_WRITE_EXCLUSIVE, e & ~PTE_RW, e)
    return 0


cdef int check_mapped_file(check_t *k, uint64_t state, frame_t *f, pte_t e) noexcept nogil:
    if state & PG_swapbacked:
        k.rss_shmem += 1
    else:
        k.rss_file += 1
    if f.mapping != k.vma.file or f.mapping == 0:
        return fail_in(k, RULE_RMAP, "file of the page", k.vma.file, f.mapping)
    if e & PTE_RW and not k.vma.flags & VM_SHARED:
        return fail(k, RULE_WRITE, e & ~PTE_RW, e)
    return 0


cdef int check_present(check_t *k, uint64_t vpn, pte_t e) noexcept nogil:
    cdef uint64_t pfn = pte_pfn(e), state
    cdef frame_mark_t *seen
    cdef frame_t *f
    cdef int rc
    if e & (PTE_P | PTE_PROTNONE | PTE_US | PTE_NX) != k.prot:
        return fail(k, RULE_PROTECTION, k.prot, e & (PTE_P | PTE_PROTNONE | PTE_US | PTE_NX))
    if e & PTE_RW and not k.vma.flags & VM_WRITE:
        return fail(k, RULE_WRITE, e & ~PTE_RW, e)
    if e & PTE_SPECIAL or pfn == 0:
        return check_special(k, e)
    if pfn >= k.m.nr_frames:
        return fail(k, RULE_ENTRY_FRAME, k.m.nr_frames, pfn)
    k.v.pfn = <int64_t> pfn
    f = &k.m.frames[pfn]
    state = page_state(k.m, <uint32_t> pfn)
    seen = frame_mark(k, <uint32_t> pfn)
    seen.maps += 1
    seen.mlocks += k.mlocks
    rc = check_mapped_anon(k, state, f, e) if state & PG_anon else check_mapped_file(k, state, f, e)
    if rc:
        return rc
    if f.index != linear_page_index(k.vma, vpn):
        return fail(k, RULE_INDEX, linear_page_index(k.vma, vpn), f.index)
    k.v.pfn = -1
    return 0


cdef int check_entry(check_t *k, uint64_t vpn, pte_t e) noexcept nogil:
    k.v.vpn = <int64_t> vpn
    seek_vma(k, vpn)
    if k.vma == NULL or vpn < k.vma.start:
        k.v.vma = -1
        return fail(k, RULE_OUTSIDE, 0, e)
    return check_present(k, vpn, e) if pte_present(e) else check_absent(k, e)


cdef int check_ptdesc(check_t *k, uint64_t t, uint32_t level, uint64_t vpn) noexcept nogil:
    """Check a table's record, and that the table is reached for the first time."""
    cdef ptdesc_t *d
    cdef uint32_t *seen
    k.v.table = <int64_t> t
    k.v.vpn = <int64_t> vpn
    if not record(&k.m.tables, t):
        return fail_in(k, RULE_TABLE, "table", 0, t)
    seen = mark(k, k.table, <uint32_t> t)
    seen[0] += 1
    if seen[0] > 1:
        return fail_in(k, RULE_TABLE, "times reached", 1, seen[0])
    k.tables += 1
    d = &k.m.ptdesc[t]
    if d.level != level:
        return fail_in(k, RULE_TABLE, "level", level, d.level)
    if d.vpn != vpn:
        return fail_in(k, RULE_TABLE, "first page", vpn, d.vpn)
    if d.mm != k.v.mm:
        return fail_in(k, RULE_TABLE, "mm", <uint64_t> k.v.mm, d.mm)
    return check_lock(k, d.lock, "ptdesc.lock")


cdef int check_link(check_t *k, pte_t e, uint32_t level, uint64_t vpn) noexcept nogil:
    """Check an entry above the leaf tables and the table it points to, which some VMA must need."""
    if e & PTE_TABLE != PTE_TABLE or entry_table(k.m, e) == 0:
        return fail_in(k, RULE_TABLE, "entry", PTE_TABLE, e)
    seek_vma(k, vpn)
    if k.vma == NULL or k.vma.start >= vpn + (<uint64_t> 1 << level_shift(level + 1)):
        k.v.table = entry_table(k.m, e)
        return fail_in(k, RULE_TABLE, "tables without a VMA", 0, 1)
    return check_table(k, entry_table(k.m, e), level, vpn)


cdef int check_table(check_t *k, uint64_t t, uint32_t level, uint64_t vpn) noexcept nogil:
    cdef pte_t *entries
    cdef pte_t e
    cdef uint32_t i, n = 0
    cdef int rc = check_ptdesc(k, t, level, vpn) or go_on(k, PTRS_PER_PTE)
    if rc:
        return rc
    entries = table_entries(k.m, <uint32_t> t)
    for i in range(PTRS_PER_PTE):
        e = entries[i]
        if e == 0:
            continue
        n += 1
        if level == 1:
            rc = check_entry(k, vpn + i, e)
        else:
            rc = check_link(k, e, level - 1, vpn + (<uint64_t> i << level_shift(level)))
        if rc:
            return rc
    k.v.table = <int64_t> t
    k.v.vpn = <int64_t> vpn
    if n != k.m.ptdesc[t].used:
        return fail(k, RULE_TABLE_USED, n, k.m.ptdesc[t].used)
    k.v.table = k.v.vpn = -1
    return 0


# -- address spaces and processes --------------------------------------------------------------------------------------


cdef int check_policy(check_t *k, const mpol_t *pol, const char *detail) noexcept nogil:
    """Check that a policy leads to nodes of the machine only."""
    return 0 if mpol_is_sound(k.m, pol) else fail_in(k, RULE_POLICY, detail, (<uint64_t> 1 << k.m.nr_nodes) - 1, pol.nodes)


cdef int check_vmas(check_t *k) noexcept nogil:
    cdef mm_t *mm = k.mm
    cdef uint64_t total = 0, locked = 0, end = 0
    cdef uint32_t i, at
    cdef uint32_t *seen
    cdef vma_t *vma
    cdef int rc
    for i in range(mm.vmas.n):
        at = k.vma_list[i]
        k.v.vma = at
        if not record(&k.m.vmas, at):
            return fail_in(k, RULE_VMA_LIST, "VMA", 0, at)
        vma = vma_of(k.m, at)
        seen = mark(k, k.vma_mark, at)
        seen[0] += 1
        if seen[0] > 1:
            return fail_in(k, RULE_VMA_LIST, "times listed", 1, seen[0])
        if vma.mm != k.v.mm:
            return fail_in(k, RULE_VMA_LIST, "mm", <uint64_t> k.v.mm, vma.mm)
        if vma.start < end:
            return fail_in(k, RULE_VMA_ORDER, "start: not below", end, vma.start)
        if vma.end <= vma.start or vma.end > TASK_SIZE_PAGES:
            return fail_in(k, RULE_VMA_ORDER, "end: beyond", vma.start, vma.end)
        if vma.ops and vma.ops >= pmg_load32(&k.m.next_ops):
            return fail_in(k, RULE_VM_OPS, "number: not below", k.m.next_ops, vma.ops)
        end = vma.end
        total += end - vma.start
        locked += end - vma.start if vma.flags & VM_LOCKED else 0
        rc = check_vma_file(k, vma, at) or check_chain(k, vma, at) or check_policy(k, &vma.pol, "of a VMA")
        if rc:
            return rc
    k.vmas += mm.vmas.n
    k.v.vma = -1
    if mm.total_vm != total:
        return fail(k, RULE_TOTAL_VM, total, mm.total_vm)
    locked += mm.locked_lost
    return fail(k, RULE_LOCKED_VM, locked, mm.locked_vm) if mm.locked_vm != locked else 0


cdef int check_rss(check_t *k) noexcept nogil:
    cdef int64_t mapped = k.rss_anon + k.rss_file + k.rss_shmem
    if k.m.profile.rss_uncounted:
        k.rss_anon = k.mm.rss_anon + k.mm.rss_file + k.mm.rss_shmem + k.mm.rss_lost
        return fail_in(k, RULE_RSS, "all kinds", <uint64_t> mapped, <uint64_t> k.rss_anon) if mapped != k.rss_anon else 0
    if k.mm.rss_anon != k.rss_anon:
        return fail_in(k, RULE_RSS, "rss_anon", <uint64_t> k.rss_anon, <uint64_t> k.mm.rss_anon)
    if k.mm.rss_file != k.rss_file:
        return fail_in(k, RULE_RSS, "rss_file", <uint64_t> k.rss_file, <uint64_t> k.mm.rss_file)
    if k.mm.rss_shmem != k.rss_shmem:
        return fail_in(k, RULE_RSS, "rss_shmem", <uint64_t> k.rss_shmem, <uint64_t> k.mm.rss_shmem)
    return 0


cdef int check_mm(check_t *k, uint32_t i, uint32_t users) noexcept nogil:
    cdef mm_t *mm = mm_of(k.m, i)
    cdef int rc
    k.v.mm = i
    k.mm = mm
    k.mms += 1
    k.rss_anon = k.rss_file = k.rss_shmem = 0
    if mm.users != users:
        return fail(k, RULE_MM_USERS, users, mm.users)
    rc = check_lock(k, 0 if k.moving else mm.lock ^ held_lock(k, i), "mmap_lock") or \
        check_lock(k, mm.page_table_lock, "mm.page_table_lock") or check_vec(k, &mm.vmas, "mm.vmas")
    if rc:
        return rc
    k.vma_list = vec_at(k.m, &mm.vmas)
    rc = check_vmas(k)
    if rc:
        return rc
    k.slot = 0
    enter_vma(k)
    rc = check_table(k, mm.pgd, 4, 0)
    k.v.vma = -1 if rc == 0 else k.v.vma
    rc = rc or check_rss(k)
    k.v.mm = -1 if rc == 0 else k.v.mm
    return rc


cdef int check_group(check_t *k, task_t *t) noexcept nogil:
    """Check that a thread shares its leader's address space and is listed there, and the count of live threads."""
    cdef task_t *leader = task_of(k.m, t.leader)
    cdef uint32_t i, n = 0, at = <uint32_t> (t - task_of(k.m, 0))
    if not record(&k.m.tasks, t.leader) or leader.leader != t.leader:
        return fail(k, RULE_GROUP, t.leader, leader.leader)
    if t != leader:
        if t.state != TASK_RUNNING:
            return fail(k, RULE_GROUP, TASK_RUNNING, t.state)
        if leader.mm and leader.mm != t.mm:
            return fail(k, RULE_GROUP, leader.mm, t.mm)
        i = leader.threads
        while i and i != at and n <= leader.live:
            i = task_of(k.m, i).thread_next
            n += 1
        return 0 if i == at else fail(k, RULE_GROUP, at, 0)
    i = t.threads
    while i and n <= t.live:
        n += 1
        i = task_of(k.m, i).thread_next
    n += t.state == TASK_RUNNING
    return 0 if n == t.live else fail(k, RULE_GROUP, n, t.live)


cdef int check_task(check_t *k, task_t *t) noexcept nogil:
    cdef uint32_t i, pin
    cdef int rc
    if (t.mm != 0) != (t.state == TASK_RUNNING) or (t.mm and not record(&k.m.mms, t.mm)):
        return fail(k, RULE_TASK, t.state == TASK_RUNNING, t.mm)
    if t.mm:
        mark(k, k.mm_mark, t.mm)[0] += 1
    if t.il_prev >= MAX_NODES:
        return fail_in(k, RULE_POLICY, "next node of a task", MAX_NODES - 1, t.il_prev)
    rc = check_group(k, t) or check_policy(k, &t.pol, "of a task") or check_vec(k, &t.pins, "task.pins")
    if rc:
        return rc
    for i in range(t.pins.n):
        pin = vec_at(k.m, &t.pins)[i]
        k.v.pin = pin
        if not record(&k.m.pins, pin) or pin_of(k.m, pin).refs == 0:
            return fail(k, RULE_PIN, 1, 0)
        mark(k, k.pin, pin)[0] += 1
    k.v.pin = -1
    return 0


cdef void check_holders(check_t *k) noexcept nogil:
    """Count contexts that hosts keep between calls as users of their address spaces."""
    cdef ctx_t *c = ctx_first(k.m)
    while c != NULL:
        if c.held and record(&k.m.mms, c.mm):
            mark(k, k.mm_mark, c.mm)[0] += 1
        if c.held and record(&k.m.mms, c.target_mm):
            mark(k, k.mm_mark, c.target_mm)[0] += 1
        c = c.older


cdef int check_pids(check_t *k) noexcept nogil:
    """Check that every process is found by its pid, once."""
    cdef uint32_t bucket, i, n = 0
    for bucket in range(PID_HASH):
        i = k.m.pid_hash[bucket]
        while i:
            n += 1
            if not record(&k.m.tasks, i) or n > k.m.tasks.fresh or task_of(k.m, i).pid % PID_HASH != bucket:
                return fail_in(k, RULE_SLAB, "processes by number", bucket, i)
            i = task_of(k.m, i).pid_next
    return 0


cdef int check_tasks(check_t *k) noexcept nogil:
    """Check processes, then their address spaces."""
    cdef uint32_t i
    cdef int rc
    for i in range(1, k.m.tasks.fresh):
        if task_of(k.m, i).users == 0:
            continue
        k.tasks += 1
        if task_of(k.m, i).state == TASK_FREE:      # reaped, and still used by a call under way
            continue
        k.v.task = i
        rc = check_task(k, task_of(k.m, i))
        if rc:
            return rc
    k.v.task = -1
    check_holders(k)
    for i in range(1, k.m.mms.fresh):
        if k.mm_mark[i].generation == k.generation:
            rc = check_mm(k, i, k.mm_mark[i].n)
            if rc:
                return rc
    return 0


# -- files -------------------------------------------------------------------------------------------------------------


cdef int check_slot(check_t *k, file_t *f, uint32_t file, uint32_t index, uint32_t pfn) noexcept nogil:
    cdef uint64_t state
    cdef frame_mark_t *seen
    k.v.index = index
    if pfn >= k.m.nr_frames:
        return fail_in(k, RULE_CACHE, "frame", k.m.nr_frames, pfn)
    k.v.pfn = pfn
    state = page_state(k.m, pfn)
    if state & (PG_cached | PG_anon) != PG_cached:
        return fail_in(k, RULE_CACHE, "frame is cached", 1, 0)
    if k.m.frames[pfn].mapping != file:
        return fail_in(k, RULE_CACHE, "file", file, k.m.frames[pfn].mapping)
    if k.m.frames[pfn].index != index:
        return fail_in(k, RULE_CACHE, "index", index, k.m.frames[pfn].index)
    if (state & PG_swapbacked != 0) != (f.kind == FILE_SHMEM):
        return fail_in(k, RULE_CACHE, "swap-backed", f.kind == FILE_SHMEM, state & PG_swapbacked != 0)
    if index >= f.size and not k.moving:            # a truncation may wait for the page
        return fail_in(k, RULE_CACHE, "index below the size", f.size, index)
    seen = frame_mark(k, pfn)
    if seen.others & SLOT:
        return fail_in(k, RULE_CACHE, "slots of a frame", 1, 2)
    seen.others = (seen.others + 1) | SLOT
    return 0


cdef int check_cache(check_t *k, file_t *f, uint32_t file) noexcept nogil:
    cdef uint32_t *slots = vec_at(k.m, &f.cache)
    cdef uint32_t i
    cdef uint64_t n = 0
    cdef int rc
    for i in range(f.cache.n):
        if slots[i]:
            n += 1
            rc = check_slot(k, f, file, i, slots[i])
            if rc:
                return rc
    k.v.pfn = k.v.index = -1
    return fail(k, RULE_NRPAGES, n, f.nrpages) if f.nrpages != n else 0


cdef int check_shared_policy(check_t *k, file_t *f) noexcept nogil:
    cdef uint32_t i = f.sp
    cdef uint64_t end = 0
    cdef sp_node_t *n
    cdef int rc
    while i:
        if not record(&k.m.sp_nodes, i):
            return fail_in(k, RULE_SHARED_POLICY, "node", 0, i)
        n = sp_node_of(k.m, i)
        if n.start < end or n.end <= n.start:
            return fail(k, RULE_SHARED_POLICY, end, n.start)
        rc = check_policy(k, &n.pol, "of a shared object")
        if rc:
            return rc
        end = n.end
        k.sp_nodes += 1
        i = n.next
    return 0


cdef int check_file(check_t *k, file_t *f, uint32_t i) noexcept nogil:
    cdef uint32_t mappings = mark(k, k.file, i)[0]
    cdef int rc
    if f.refs < mappings:
        return fail_in(k, RULE_FILE_REFS, "at least", mappings, f.refs)
    rc = check_lock(k, 0 if k.moving else f.i_rwsem, "i_rwsem") or check_lock(k, f.i_mmap_lock, "i_mmap_lock") \
        or check_lock(k, f.lock, "file.lock") or check_vec(k, &f.cache, "file.cache") or check_vec(k, &f.disk, "file.disk") \
        or check_root(k, f.tree, i) or check_cache(k, f, i) or check_shared_policy(k, f)
    return rc


cdef int check_files(check_t *k) noexcept nogil:
    cdef uint32_t i
    cdef int rc
    for i in range(1, k.m.files.fresh):
        if file_of(k.m, i).refs == 0:
            continue
        k.files += 1
        k.v.file = i
        rc = check_file(k, file_of(k.m, i), i)
        if rc:
            return rc
    k.v.file = -1
    return 0


# -- pins --------------------------------------------------------------------------------------------------------------


cdef int check_pins(check_t *k) noexcept nogil:
    cdef uint32_t i, j, pfn, refs
    cdef pin_t *p
    cdef int rc
    for i in range(1, k.m.pins.fresh):
        p = pin_of(k.m, i)
        if p.refs == 0:
            continue
        k.pins += 1
        k.v.pin = i
        if p.refs != mark(k, k.pin, i)[0]:
            return fail(k, RULE_PIN, mark(k, k.pin, i)[0], p.refs)
        rc = check_vec(k, &p.pages, "pin.pages")
        if rc:
            return rc
        for j in range(p.pages.n):
            pfn = vec_at(k.m, &p.pages)[j]
            if pfn >= k.m.nr_frames:
                return fail_in(k, RULE_PIN, "frame", k.m.nr_frames, pfn)
            refs = GUP_PIN_COUNTING_BIAS if p.longterm else 1
            if pfn:
                frame_mark(k, pfn).others += refs
            else:
                k.zero_refs += refs
    k.v.pin = -1
    return 0


# -- swap ------------------------------------------------------------------------------------------------------


cdef int check_slot_in_use(check_t *k, uint32_t slot) noexcept nogil:
    cdef machine_t *m = k.m
    cdef uint32_t pfn = m.swap_cache[slot], named = mark(k, k.slot_mark, slot)[0]
    cdef frame_mark_t *seen
    k.v.index = slot
    if pfn >= m.nr_frames:
        return fail_in(k, RULE_SWAP_CACHE, "frame", m.nr_frames, pfn)
    if pfn:
        k.v.pfn = pfn
        if m.swap_entry[pfn] != slot:
            return fail_in(k, RULE_SWAP_CACHE, "slot of the frame", slot, m.swap_entry[pfn])
        if page_state(m, pfn) & (PG_swapcache | PG_anon) != PG_swapcache | PG_anon:
            return fail_in(k, RULE_SWAP_CACHE, "frame is in the swap cache", 1, 0)
        seen = frame_mark(k, pfn)
        seen.others = (seen.others + 1) | SWAP
        k.v.pfn = -1
    if m.swap_map[slot] != named + (pfn != 0):
        return fail(k, RULE_SWAP_MAP, named + (pfn != 0), m.swap_map[slot])
    k.v.index = -1
    return 0


cdef int check_swap(check_t *k) noexcept nogil:
    """Check swap slots, up to the highest that was ever used."""
    cdef machine_t *m = k.m
    cdef uint32_t i, at, used
    cdef int rc = check_lock(k, m.swap_lock, "swap_lock") or check_lock(k, m.tree_lock, "tree_lock")
    for i in range(m.nr_swapfiles):
        used = 0
        at = 1
        while rc == 0 and at <= m.swap_info[i].high:
            rc = check_slot_in_use(k, m.swap_info[i].first + at)
            used += m.swap_map[m.swap_info[i].first + at] != 0
            at += 1
        if rc == 0 and used != m.swap_info[i].inuse:
            k.v.index = i
            return fail_in(k, RULE_SWAP_INUSE, "device", used, m.swap_info[i].inuse)
    return rc


# -- per-CPU lists ---------------------------------------------------------------------------------------------


cdef int check_mlock_pvecs(check_t *k) noexcept nogil:
    """Note the per-CPU mlock lists: each entry owns a reference, and a pending munlock still counts as an mlock."""
    cdef mlock_pvec_t *p
    cdef frame_mark_t *seen
    cdef uint32_t cpu, i
    cdef int rc
    for cpu in range(k.m.nr_cpus):
        p = &k.m.mlock_pvec[cpu]
        rc = check_lock(k, p.lock, "lock of a per-CPU mlock list")
        if rc:
            return rc
        for i in range(p.n):
            if p.pfn[i] == 0 or p.pfn[i] >= k.m.nr_frames:
                return fail_in(k, RULE_MLOCK_COUNT, "frame on a per-CPU mlock list", k.m.nr_frames, p.pfn[i])
            seen = frame_mark(k, p.pfn[i])
            seen.others += 1
            seen.mlocks += (p.munlock >> i) & 1
    return 0


# -- frames ------------------------------------------------------------------------------------------------------------


cdef int check_flags(check_t *k, uint64_t s, frame_mark_t *seen) noexcept nogil:
    if s & PG_locked:
        return fail(k, RULE_LOCKED, s & ~PG_locked, s)
    if s & PG_isolated and not seen.held and not k.m.profile.range_leaks:
        return fail(k, RULE_ISOLATED, s & ~PG_isolated, s)
    if s & PG_reserved:
        return fail(k, RULE_RESERVED, s & ~PG_reserved, s)
    if s & PG_cached and not seen.others & SLOT:
        return fail_in(k, RULE_CACHE, "slots of a cached frame", 1, 0)
    if (s & PG_swapcache != 0) != (seen.others & SWAP != 0):
        return fail_in(k, RULE_SWAP_CACHE, "slots of a frame", s & PG_swapcache != 0, seen.others & SWAP != 0)
    if s & (PG_anon | PG_cached) and not s & (PG_lru | PG_isolated):
        return fail(k, RULE_LRU, s | PG_lru, s)
    if s & PG_anon_exclusive and (seen.maps > 1 or not s & PG_anon):
        return fail(k, RULE_EXCLUSIVE, s & ~PG_anon_exclusive, s)
    if (s & PG_mlocked != 0) != (seen.mlocks != 0):
        return fail(k, RULE_MLOCKED, s ^ PG_mlocked, s)
    return 0


cdef int check_held(check_t *k, uint64_t s, const frame_mark_t *seen) noexcept nogil:
    """A frame that a migration in progress has between two steps; one that is only isolated is as any other but for that."""
    cdef uint32_t what = seen.held - 1
    cdef uint64_t flags = 0, others = (seen.others & ~<uint32_t> (SLOT | SWAP)) + (s & PG_private != 0)
    if what == HELD_TARGET:
        return fail(k, RULE_FREE_FRAME, 0, s) if s & ~REF_ONE or seen.maps or seen.others else 0
    if what == HELD_ISOLATED:
        flags = PG_isolated
    elif what == HELD_MOVED:
        flags = PG_locked
    else:
        flags = PG_locked | PG_isolated
    if s & (PG_locked | PG_isolated) != flags or s & PG_lru:
        return fail(k, RULE_LOCKED if (s ^ flags) & PG_locked else RULE_ISOLATED, flags, s)
    if what == HELD_ISOLATED:
        return 0
    if frame_maps(s) != seen.maps + seen.kept:
        return fail(k, RULE_MAPCOUNT, seen.maps + seen.kept, frame_maps(s))
    others += seen.maps + seen.kept + 1                 # for its isolation, or the reference on a target
    return fail(k, RULE_REFCOUNT, others, frame_refs(s)) if frame_refs(s) != others else 0


cdef int check_frame(check_t *k, uint32_t pfn) noexcept nogil:
    cdef uint64_t s = page_state(k.m, pfn), refs
    cdef frame_mark_t *seen = &k.frame[pfn]
    cdef int rc
    k.v.pfn = pfn
    if k.moving and (seen.held or s & (PG_locked | PG_isolated)):
        return 0
    if seen.held:
        rc = check_held(k, s, seen)
        if rc or seen.held != 1 + <uint32_t> HELD_ISOLATED:
            return rc
    rc = check_flags(k, s, seen)
    if rc:
        return rc
    if frame_maps(s) != seen.maps:
        return fail(k, RULE_MAPCOUNT, seen.maps, frame_maps(s))
    refs = seen.maps + (seen.others & ~<uint32_t> (SLOT | SWAP)) + (s & PG_private != 0) + (s & PG_isolated != 0)
    if frame_refs(s) < refs or (frame_refs(s) > refs and not k.moving):
        return fail(k, RULE_REFCOUNT, refs, frame_refs(s))
    if k.m.mlock_count[pfn] != seen.mlocks:
        return fail(k, RULE_MLOCK_COUNT, seen.mlocks, k.m.mlock_count[pfn])
    return 0


cdef int check_frames(check_t *k) noexcept nogil:
    cdef uint64_t refs
    cdef uint32_t i
    cdef int rc
    for i in range(k.nr_used):
        rc = check_frame(k, k.used[i]) or go_on(k, 1)
        if rc:
            return rc
    k.v.pfn = 0
    if not page_state(k.m, 0) & PG_reserved:
        return fail(k, RULE_RESERVED, PG_reserved, page_state(k.m, 0))
    refs = 1 + k.zero_refs                          # plus the machine's own
    if frame_refs(page_state(k.m, 0)) < refs or (frame_refs(page_state(k.m, 0)) > refs and not k.moving):
        return fail(k, RULE_REFCOUNT, refs, frame_refs(page_state(k.m, 0)))
    k.v.pfn = -1
    return 0


cdef uint64_t cached_frames(check_t *k, uint32_t nid) noexcept nogil:
    cdef uint64_t n = 0
    cdef uint32_t i
    for i in range(k.m.nr_cpus):
        n += min(pcp_of(k.m, i, <int32_t> nid).n, <uint32_t> PCP_MAX)
    return n


cdef int check_node_counts(check_t *k, bint full) noexcept nogil:
    """Check that free, cached and used frames add up; if not, scan for the frame that is wrong."""
    cdef node_t *n
    cdef uint64_t size, found
    cdef uint32_t i
    cdef bint good = True
    cdef int rc
    for i in range(k.m.nr_nodes):
        n = &k.m.node[i]
        k.v.nid = i
        if n.nr_free + n.uncounted != n.end - n.fresh + n.nr_stack:
            return fail(k, RULE_FREE_COUNT, n.end - n.fresh + n.nr_stack, n.nr_free + n.uncounted)
        size = n.end - n.first
        good &= size == min(n.reserved, size) + n.nr_free + n.uncounted + cached_frames(k, i) + k.in_use[i]
    k.v.nid = -1
    if good and not full:
        return 0
    rc = scan_frames(k)
    for i in range(k.m.nr_nodes if rc == 0 else 0):
        n = &k.m.node[i]
        size = n.end - n.first
        found = min(n.reserved, size) + n.nr_free + n.uncounted + cached_frames(k, i) + k.in_use[i]
        if found > size or (found < size and not k.moving):
            k.v.nid = i
            return fail(k, RULE_ACCOUNT, size, found)
    return rc


# -- the full scan ---------------------------------------------------------------------------------------------


cdef int note_free(check_t *k, uint64_t pfn) noexcept nogil:
    cdef frame_mark_t *f
    k.v.pfn = <int64_t> pfn
    if pfn == 0 or pfn >= k.m.nr_frames:
        return fail_in(k, RULE_FREE_LIST, "frame", k.m.nr_frames, pfn)
    f = &k.frame[pfn]
    if f.generation == k.generation:
        if f.maps == FREE:
            return fail_in(k, RULE_FREE_LIST, "times free", 1, 2)
        return fail_in(k, RULE_FREE_LIST, "times free, of a frame in use", 0, 1)
    f.generation = k.generation
    f.maps = FREE
    return 0


cdef int note_free_lists(check_t *k, uint32_t nid) noexcept nogil:
    cdef node_t *n = &k.m.node[nid]
    cdef pcp_t *pcp
    cdef uint64_t i
    cdef uint32_t c
    cdef int rc = 0
    for i in range(n.nr_stack):
        rc = note_free(k, free_stack(k.m, n)[i]) or go_on(k, 1)
        if rc:
            return rc
    for c in range(k.m.nr_cpus):
        pcp = pcp_of(k.m, c, <int32_t> nid)
        if pcp.n > PCP_MAX:
            return fail_in(k, RULE_FREE_LIST, "frames on a per-CPU list", PCP_MAX, pcp.n)
        for i in range(pcp.n):
            rc = note_free(k, pcp.pfn[i])
            if rc:
                return rc
    return 0


cdef inline bint is_leaked(const check_t *k, uint64_t s) noexcept nogil:
    """Whether a frame that nothing leads to is one that mbind never put back: only that isolation holds it."""
    return k.m.profile.range_leaks and frame_refs(s) == 1 and frame_maps(s) == 0 and s & PG_isolated and \
        not s & (PG_locked | PG_lru | PG_cached | PG_swapcache | PG_reserved)


cdef int scan_node(check_t *k, uint32_t nid) noexcept nogil:
    """Check that every frame of a node is reserved, in use, on one free list, or was never allocated."""
    cdef node_t *n = &k.m.node[nid]
    cdef uint64_t pfn
    cdef bint listed
    for pfn in range(n.first, n.end):
        if pfn % ASK_EVERY == 0 and go_on(k, ASK_EVERY):
            return CHECK_STOPPED
        listed = k.frame[pfn].generation == k.generation
        if pfn == 0 or (listed and k.frame[pfn].maps != FREE):
            continue
        k.v.pfn = <int64_t> pfn
        if k.moving and (page_state(k.m, <uint32_t> pfn) & (PG_locked | PG_isolated) or not listed):
            continue
        if not listed and is_leaked(k, page_state(k.m, <uint32_t> pfn)):
            k.in_use[nid] += 1
            continue
        if page_state(k.m, <uint32_t> pfn):
            return fail(k, RULE_FREE_FRAME, 0, page_state(k.m, <uint32_t> pfn))
        if k.m.mlock_count[pfn]:
            return fail(k, RULE_MLOCK_COUNT, 0, k.m.mlock_count[pfn])
        if listed == (pfn >= n.fresh or pfn < n.first + n.reserved):
            return fail_in(k, RULE_FREE_LIST, "times free", 1, 2 if listed else 0)
    return 0


cdef int scan_frames(check_t *k) noexcept nogil:
    cdef uint32_t i
    cdef int rc
    for i in range(k.m.nr_nodes):
        rc = note_free_lists(k, i) or scan_node(k, i)
        if rc:
            k.v.nid = i
            return rc
    k.v.pfn = -1
    return 0


cdef int scan_free_records(check_t *k, slab_t *s, mark_t *seen, const char *name) noexcept nogil:
    """Check the free list of a slab: records allocated before and unused now, as many as are missing."""
    cdef uint32_t i = s.free, n = 0
    while i:
        if not record(s, i) or n > s.fresh:
            return fail_in(k, RULE_SLAB, name, s.fresh, i)
        if seen != NULL and seen[i].generation == k.generation and seen[i].n:
            return fail_in(k, RULE_SLAB, name, 0, i)
        n += 1
        i = (<uint32_t *> (s.base + <uint64_t> i * s.size + s.next_off))[0]
    return fail_in(k, RULE_SLAB, name, s.fresh - 1 - s.used, n) if n != s.fresh - 1 - s.used else 0


cdef int scan_free_tables(check_t *k) noexcept nogil:
    """Check that free page tables are empty, which table_alloc relies on."""
    cdef uint32_t t = k.m.tables.free, i
    while t:
        for i in range(PTRS_PER_PTE):
            if table_entries(k.m, t)[i]:
                k.v.table = t
                return fail_in(k, RULE_TABLE, "entry of a free table", 0, table_entries(k.m, t)[i])
        t = k.m.ptdesc[t].next
    return 0


cdef int scan_slabs(check_t *k) noexcept nogil:
    cdef machine_t *m = k.m
    return scan_free_records(k, &m.tables, k.table, "tables") or scan_free_records(k, &m.vmas, k.vma_mark, "vmas") \
        or scan_free_records(k, &m.rnodes, k.rnode, "rnodes") or scan_free_records(k, &m.anon_vmas, NULL, "anon_vmas") \
        or scan_free_records(k, &m.files, k.file, "files") or scan_free_records(k, &m.mms, k.mm_mark, "mms") \
        or scan_free_records(k, &m.tasks, NULL, "tasks") or scan_free_records(k, &m.pins, k.pin, "pins") \
        or scan_free_records(k, &m.sp_nodes, NULL, "sp_nodes") or scan_free_tables(k)


# -- counts of records, locks of the machine -------------------------------------------------------------------


cdef int check_slab(check_t *k, slab_t *s, uint32_t reached, const char *name) noexcept nogil:
    if s.used < reached or (s.used > reached and not (k.moving and (s == &k.m.anon_vmas or s == &k.m.pins))):
        return fail_in(k, RULE_SLAB, name, reached, s.used)
    return fail_in(k, RULE_LOCK, name, 0, s.lock) if s.lock else 0


cdef int check_slabs(check_t *k) noexcept nogil:
    cdef machine_t *m = k.m
    if k.tree_nodes != k.chain_nodes:
        return fail_in(k, RULE_TREE, "nodes in trees", k.chain_nodes, k.tree_nodes)
    return check_slab(k, &m.tables, k.tables, "tables") or check_slab(k, &m.vmas, k.vmas, "vmas") \
        or check_slab(k, &m.rnodes, k.chain_nodes, "rnodes") or check_slab(k, &m.anon_vmas, k.nr_anon, "anon_vmas") \
        or check_slab(k, &m.files, k.files, "files") or check_slab(k, &m.mms, k.mms, "mms") \
        or check_slab(k, &m.tasks, k.tasks, "tasks") or check_slab(k, &m.pins, k.pins, "pins") \
        or check_slab(k, &m.sp_nodes, k.sp_nodes, "sp_nodes")


cdef int check_locks(check_t *k) noexcept nogil:
    cdef machine_t *m = k.m
    cdef uint32_t i, c
    cdef int rc = check_lock(k, m.heap_lock, "heap lock") or check_lock(k, m.pid_lock, "pid_lock") or \
        check_lock(k, m.swap_lock, "swap_lock") or check_lock(k, m.tree_lock, "tree_lock")
    for i in range(m.nr_nodes):
        rc = rc or check_lock(k, m.node[i].lock, "zone lock")
        for c in range(m.nr_cpus):
            rc = rc or check_lock(k, pcp_of(m, c, <int32_t> i).lock, "lock of a per-CPU list")
    return rc


# -- the whole walk --------------------------------------------------------------------------------------------


cdef inline bint is_held(check_t *k, uint64_t pfn, held_t what) noexcept nogil:
    return k.frame[pfn].generation == k.generation and k.frame[pfn].held == 1 + <uint32_t> what


cdef uint32_t held_lock(check_t *k, uint32_t mm) noexcept nogil:
    """The word of mmap_lock as it is while migrations in progress hold it, or wait for it to write."""
    cdef uint32_t word = mark(k, k.mm_lock, mm)[0]
    return word | (mm_of(k.m, mm).lock & RW_PENDING if waited_for(k, mm) else 0)


cdef bint waited_for(check_t *k, uint32_t mm) noexcept nogil:
    cdef ctx_t *c = ctx_first(k.m)
    while c != NULL:
        if c.places != NULL and c.wait_what == WAIT_MM and c.wait_which == mm:
            return True
        c = c.older
    return False


cdef void note_held(void *arg, held_t what, uint64_t which, uint64_t n) noexcept nogil:
    cdef check_t *k = <check_t *> arg
    cdef frame_mark_t *f
    if what == HELD_ANON_VMA:
        anon_mark(k, <uint32_t> which).kept += 1
    elif what == HELD_MMAP_READ:
        mark(k, k.mm_lock, <uint32_t> which)[0] += 1
    elif what == HELD_MMAP_WRITE:
        mark(k, k.mm_lock, <uint32_t> which)[0] |= RW_WRITER
    elif which:
        f = frame_mark(k, <uint32_t> which)
        k.twice = which if f.held else k.twice
        f.held = 1 + <uint32_t> what
        f.kept = <uint32_t> n


cdef int name_held(check_t *k) noexcept nogil:
    """Note what migrations in progress have.  Where that cannot be told, no frame in anybody's hands is judged."""
    cdef coder_t w
    cdef ctx_t *c = ctx_first(k.m)
    memset(&w, 0, sizeof(w))
    w.m = k.m
    w.way = WAY_NAME
    w.held = note_held
    w.arg = k
    w.stop = k.peek
    w.stop_private = k.private_
    while c != NULL and not w.stopped:
        if c.places != NULL and not places_name(&w, c):
            k.moving = True
        c = c.older
    if w.stopped:
        return CHECK_STOPPED
    if k.twice and not k.moving:
        k.v.pfn = <int64_t> k.twice
        return fail_in(k, RULE_ISOLATED, "migrations that have a frame", 1, 2)
    return 0


cdef char *carve(char **at, uint64_t nbytes) noexcept nogil:
    cdef char *p = at[0]
    at[0] += (nbytes + 63) & ~<uint64_t> 63
    return p


cdef uint64_t lay_out(check_t *k, char *base) noexcept nogil:
    """Lay out the notes in one reservation; return its size.  Untouched parts cost the host nothing."""
    cdef machine_t *m = k.m
    cdef char *at = base
    k.frame = <frame_mark_t *> carve(&at, m.nr_frames * sizeof(frame_mark_t))
    k.used = <uint32_t *> carve(&at, m.nr_frames * 4)
    k.table = <mark_t *> carve(&at, m.tables.max * sizeof(mark_t))
    k.vma_mark = <mark_t *> carve(&at, m.vmas.max * sizeof(mark_t))
    k.rnode = <mark_t *> carve(&at, m.rnodes.max * sizeof(mark_t))
    k.file = <mark_t *> carve(&at, m.files.max * sizeof(mark_t))
    k.mm_mark = <mark_t *> carve(&at, m.mms.max * sizeof(mark_t))
    k.mm_lock = <mark_t *> carve(&at, m.mms.max * sizeof(mark_t))
    k.pin = <mark_t *> carve(&at, m.pins.max * sizeof(mark_t))
    k.slot_mark = <mark_t *> carve(&at, m.nr_swap_slots * sizeof(mark_t))
    k.anon = <anon_mark_t *> carve(&at, m.anon_vmas.max * sizeof(anon_mark_t))
    k.anons = <uint32_t *> carve(&at, <uint64_t> m.anon_vmas.max * 4)
    return <uint64_t> (at - base)


cdef int checker_begin(
        check_t *k, machine_t *m, checker_t *notes, stop_t stop, stop_t peek, void *private_,
        violation_t *v) noexcept nogil:
    cdef void *p
    memset(k, 0, sizeof(check_t))
    k.stop = stop
    k.peek = peek
    k.private_ = private_
    k.m = m
    k.v = v
    if notes.generation == 0xffffffffu:
        checker_release(notes)
    if notes.memory == NULL:
        notes.nbytes = lay_out(k, NULL)
        p = mmap(NULL, notes.nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if p == MAP_FAILED:
            return -1
        notes.memory = p
        notes.generation = 0
    lay_out(k, <char *> notes.memory)
    notes.generation += 1
    k.generation = notes.generation
    return name_held(k)


cdef int check_machine(
        machine_t *m, checker_t *k, bint full, stop_t stop, stop_t peek, void *private_, violation_t *v) noexcept nogil:
    cdef check_t walk
    cdef int rc
    nowhere(v)
    v.rule = RULE_OK
    pmg_spin_lock(&k.lock)
    rc = checker_begin(&walk, m, k, stop, peek, private_, v)
    rc = rc or check_pids(&walk) or check_tasks(&walk) or check_files(&walk) or check_anon_vmas(&walk) \
        or check_pins(&walk) or check_swap(&walk) or check_mlock_pvecs(&walk) or check_frames(&walk) or check_slabs(&walk) \
        or check_node_counts(&walk, full) or check_locks(&walk)
    if rc == 0 and full:
        rc = scan_slabs(&walk)
    pmg_spin_unlock(&k.lock)
    return rc


cdef void checker_release(checker_t *k) noexcept nogil:
    if k.memory != NULL:
        munmap(k.memory, k.nbytes)
    k.memory = NULL
    k.generation = 0


# -- in words --------------------------------------------------------------------------------------------------


cdef str where(machine_t *m, violation_t *v):
    cdef frame_t *f
    places = [("process", v.task), ("mm", v.mm), ("VMA", v.vma), ("table", v.table), ("file", v.file),
              ("index", v.index), ("anon_vma", v.anon_vma), ("node of a reverse map", v.rnode), ("pin", v.pin)]
    words = [f"{name} {i}" for name, i in places if i != -1]
    if v.vpn != -1:
        words.insert(0, f"page {v.vpn << 12:#x}")
    if v.pfn != -1:
        words.insert(0, f"frame {v.pfn} of node {page_to_nid(m, <uint32_t> v.pfn)}")
    elif v.nid != -1:
        words.insert(0, f"memory node {v.nid}")
    if 0 <= v.pfn < <int64_t> m.nr_frames and v.file == -1 and v.anon_vma == -1 and m.frames[v.pfn].mapping:
        f = &m.frames[v.pfn]
        words.append(f"page {f.index} of {'anon_vma' if f.state & PG_anon else 'file'} {f.mapping}")
    return ", ".join(words) or "the machine"


cdef object invariant_error(machine_t *m, violation_t *v):
    name, form, says = RULES[v.rule]
    detail = f" ({v.detail.decode()})" if v.detail != NULL else ""
    expected, found = (f"{x:#x}" if form == "x" else str(<int64_t> x) for x in (v.expected, v.found))
    return InvariantError(f"{name}: {where(m, v)}: expected{detail} {expected}, found {found}; {says}")
