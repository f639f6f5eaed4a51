"""Memory policies: made from a caller's mask, looked up for a page, turned into a node and a frame.

A policy is a small record that is copied, never shared.  A VMA holds its own, guarded by mmap_lock.  A task holds its own;
a change takes mmap_lock and alloc_lock, and either is enough to read it.  Those of a shared object hang on its file and are
guarded by ``file.lock``.
"""
from libc.errno cimport EINVAL, ENOMEM
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcmp

from pagemig.mm.atomic cimport (
    pmg_ctz, pmg_load, pmg_load32, pmg_popcount, pmg_spin_lock, pmg_spin_unlock, pmg_store32_rel,
)
from pagemig.mm.nodemask cimport nodes_absent, nodes_empty
from pagemig.mm.page_alloc cimport (
    alloc_page, count_event, file_of, nodemask_of, page_to_nid, slab_alloc, slab_free, sp_node_of, task_of,
)
from pagemig.mm.rules cimport (
    refuse, RULE_BALANCING, RULE_MODE, RULE_MODE_NO_NODES, RULE_NODES_ABSENT, RULE_NODES_EMPTY, RULE_NODES_NONE,
    RULE_STATIC_RELATIVE,
)
from pagemig.mm.types cimport (
    C_NUMA_INTERLEAVE, ctx_t, FILE_SHMEM, file_t, machine_t, MPOL_BIND, MPOL_DEFAULT, MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES, MPOL_INTERLEAVE, MPOL_LOCAL, MPOL_PREFERRED, MPOL_PREFERRED_MANY,
    mpol_t, MPOL_WEIGHTED_INTERLEAVE, NODEMASK_HASH, nodemask_t,
    NODEMASK_WORDS, sp_node_t, task_t, vma_t,
)


# -- making a policy -----------------------------------------------------------------------------------------


cdef int sanitize_mpol_flags(
        machine_t *m, uint32_t word, uint32_t *mode, uint32_t *flags, uint32_t *rule) noexcept nogil:
    """Split a mode word: 0, or -EINVAL for a mode that the kernel lacks or flags that exclude each other."""
    flags[0] = word & m.profile.mode_flags
    mode[0] = word & ~flags[0]
    if mode[0] >= 32 or not (m.profile.mode_mask >> mode[0]) & 1:
        return refuse(EINVAL, RULE_MODE, rule)
    if flags[0] & MPOL_F_STATIC_NODES and flags[0] & MPOL_F_RELATIVE_NODES:
        return refuse(EINVAL, RULE_STATIC_RELATIVE, rule)
    if flags[0] & MPOL_F_NUMA_BALANCING and mode[0] != MPOL_BIND:
        if not (m.profile.balancing_many and mode[0] == MPOL_PREFERRED_MANY):
            return refuse(EINVAL, RULE_BALANCING, rule)
    return 0


cdef inline uint64_t nth_node(uint64_t nodes, uint32_t n) noexcept nogil:
    """Isolate the n-th set bit, counted from 0."""
    while n:
        nodes &= nodes - 1
        n -= 1
    return nodes & (~nodes + 1)


cdef uint64_t mpol_relative_nodemask(const nodemask_t *user, uint64_t allowed) noexcept nogil:
    """Fold the caller's mask to the number of allowed nodes, then let bit i mean the i-th allowed node."""
    cdef uint32_t weight = <uint32_t> pmg_popcount(allowed)
    cdef uint32_t i
    cdef uint64_t out = 0, word
    if weight == 0:
        return 0
    for i in range(NODEMASK_WORDS):
        word = user.bits[i]
        while word:
            out |= nth_node(allowed, (64 * i + <uint32_t> pmg_ctz(word)) % weight)
            word &= word - 1
    return out


cdef int mask_fits_mode(uint32_t mode, bint as_given, bint empty, uint32_t *rule) noexcept nogil:
    """Check for emptiness: DEFAULT and LOCAL take no nodes; PREFERRED may have none unless the mask must be stored."""
    if mode == MPOL_DEFAULT or mode == MPOL_LOCAL:
        if not empty:
            return refuse(EINVAL, RULE_MODE_NO_NODES, rule)
        return refuse(EINVAL, RULE_NODES_EMPTY, rule) if mode == MPOL_LOCAL and as_given else 0
    return refuse(EINVAL, RULE_NODES_EMPTY, rule) if empty and (as_given or mode != MPOL_PREFERRED) else 0


cdef uint32_t intern_nodemask(machine_t *m, const nodemask_t *mask) noexcept nogil:
    """Find or make the record of a set; 0: ENOMEM."""
    cdef uint64_t hash_ = 0
    cdef uint32_t i
    cdef uint32_t *bucket
    for i in range(NODEMASK_WORDS):
        hash_ = (hash_ ^ mask.bits[i]) * <uint64_t> 0x9e3779b97f4a7c15
    bucket = &m.nodemask_hash[(hash_ >> 32) % NODEMASK_HASH]
    pmg_spin_lock(&m.nodemask_lock)
    i = bucket[0]
    while i and memcmp(&nodemask_of(m, i).mask, mask, sizeof(nodemask_t)):
        i = nodemask_of(m, i).next
    if not i:
        i = slab_alloc(&m.nodemasks)
        if i:
            nodemask_of(m, i).mask = mask[0]
            nodemask_of(m, i).next = bucket[0]
            bucket[0] = i
    pmg_spin_unlock(&m.nodemask_lock)
    return i


cdef void mpol_clear(mpol_t *pol) noexcept nogil:
    pol.mode = MPOL_DEFAULT
    pol.flags = 0
    pol.home_node = -1
    pol.nodes = 0
    pol.user = 0
    pol.user_mask = 0
    pol.pad = 0


cdef int mpol_set_nodemask(
        machine_t *m, uint32_t mode, uint32_t flags, const nodemask_t *user, mpol_t *out, uint32_t *rule) noexcept nogil:
    """Make a policy from a mode that sanitize_mpol_flags accepted."""
    cdef uint64_t allowed = pmg_load(&m.has_memory), nodes
    cdef bint as_given = (flags & (MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES)) != 0, empty = nodes_empty(user)
    cdef int err
    mpol_clear(out)
    if m.profile.subset_nodes and (user.bits[0] & ~allowed or nodes_absent(user)):
        return refuse(EINVAL, RULE_NODES_ABSENT, rule)
    err = mask_fits_mode(mode, as_given, empty, rule)
    if err or mode == MPOL_DEFAULT:
        return err
    if empty:
        mode = MPOL_LOCAL
    nodes = mpol_relative_nodemask(user, allowed) if flags & MPOL_F_RELATIVE_NODES else user.bits[0] & allowed
    if mode != MPOL_LOCAL and nodes == 0:
        return refuse(EINVAL, RULE_NODES_NONE, rule)
    if mode == MPOL_PREFERRED:
        nodes = nth_node(nodes, 0)
    out.mode = <unsigned short> mode
    out.flags = <unsigned short> flags
    out.nodes = nodes
    out.user = user.bits[0] if as_given else nodes
    return 0


cdef int mpol_new(
        machine_t *m, uint32_t mode, uint32_t flags, const nodemask_t *user, mpol_t *out, uint32_t *rule) noexcept nogil:
    cdef int err = mpol_set_nodemask(m, mode, flags, user, out, rule)
    if err == 0 and out.flags & (MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES) and nodes_absent(user):
        out.user_mask = intern_nodemask(m, user)
        if not out.user_mask:
            mpol_clear(out)
            return -ENOMEM
    return err


cdef bint mpol_equal(const mpol_t *a, const mpol_t *b) noexcept nogil:
    if a.mode == MPOL_DEFAULT or b.mode == MPOL_DEFAULT:
        return a.mode == b.mode
    return a.mode == b.mode and a.flags == b.flags and a.home_node == b.home_node and a.nodes == b.nodes \
        and a.user == b.user and a.user_mask == b.user_mask


# -- interleaving --------------------------------------------------------------------------------------------


cdef inline uint32_t node_weight(machine_t *m, uint32_t nid) noexcept nogil:
    return m.node[nid].weight or 1


cdef inline int32_t next_node_in(uint32_t prev, uint64_t nodes) noexcept nogil:
    """Find the next node of the set after ``prev``, cyclically."""
    cdef uint64_t later = nodes & ~((<uint64_t> 2 << prev) - 1)
    return <int32_t> pmg_ctz(later if later else nodes)


cdef int32_t offset_il_node(uint64_t nodes, uint64_t index) noexcept nogil:
    cdef uint32_t n = <uint32_t> pmg_popcount(nodes)
    return <int32_t> pmg_ctz(nth_node(nodes, <uint32_t> (index % n)))


cdef int32_t weighted_il_node(machine_t *m, uint64_t nodes, uint64_t index) noexcept nogil:
    cdef uint64_t left = nodes, total = 0
    cdef uint32_t nid
    while left:
        total += node_weight(m, <uint32_t> pmg_ctz(left))
        left &= left - 1
    index %= total
    left = nodes
    nid = <uint32_t> pmg_ctz(left)
    # The last node takes the remainder if a weight shrinks meanwhile.
    while index >= node_weight(m, nid) and left & (left - 1):
        index -= node_weight(m, nid)
        left &= left - 1
        nid = <uint32_t> pmg_ctz(left)
    return <int32_t> nid


cdef int32_t interleave_nid(machine_t *m, const mpol_t *pol, uint64_t index) noexcept nogil:
    """Find the node of an interleave index.  Before 6.7 it is cut to 32 bits, which shows unless nodes are a power of 2."""
    if not m.profile.mbind_ilx:
        index = <uint32_t> index
    if pol.mode == MPOL_WEIGHTED_INTERLEAVE:
        return weighted_il_node(m, pol.nodes, index)
    return offset_il_node(pol.nodes, index)


cdef int32_t interleave_nodes(machine_t *m, task_t *t) noexcept nogil:
    """Advance the task's cursor, for pages without an address: one node per page, or per the node's weight of pages.

    alloc_lock held.
    """
    if t.pol.mode == MPOL_INTERLEAVE:
        t.il_prev = <uint32_t> next_node_in(t.il_prev, t.pol.nodes)
        return <int32_t> t.il_prev
    if t.il_weight == 0 or not (t.pol.nodes >> t.il_prev) & 1:
        t.il_prev = <uint32_t> next_node_in(t.il_prev, t.pol.nodes)
        t.il_weight = node_weight(m, t.il_prev)
    t.il_weight -= 1
    return <int32_t> t.il_prev


cdef void kernel_memory(ctx_t *c, uint32_t objects) noexcept nogil:
    """Advance the cursor of an interleaving task for kernel objects: page tables, VMAs and the like interleave too."""
    cdef task_t *t = task_of(c.m, c.task)
    cdef uint32_t _i
    if not c.m.profile.il_next or not c.task:
        return
    pmg_spin_lock(&t.alloc_lock)
    if t.pol.mode == MPOL_INTERLEAVE:
        for _i in range(objects):
            interleave_nodes(c.m, t)
    pmg_spin_unlock(&t.alloc_lock)


cdef uint32_t mpol_objects(const mpol_t *pol) noexcept nogil:
    """Count the kernel objects in a policy of 2006: BIND also has a zonelist."""
    return (pol.mode != MPOL_DEFAULT) + <uint32_t> (pol.mode == MPOL_BIND)


cdef int32_t il_next(ctx_t *c, task_t *t) noexcept nogil:
    """Find the node of the next page without an address; the cursor does not move."""
    cdef int32_t nid = -EINVAL
    pmg_spin_lock(&t.alloc_lock)
    if t.pol.mode == MPOL_INTERLEAVE or (t.pol.mode == MPOL_WEIGHTED_INTERLEAVE and c.m.profile.weighted):
        nid = next_node_in(t.il_prev, t.pol.nodes)
    pmg_spin_unlock(&t.alloc_lock)
    return nid


cdef uint64_t interleave_index(ctx_t *c, vma_t *vma, uint64_t vpn) noexcept nogil:
    """Compute the interleave index of a page.  Before 6.7 only alloc_page_shmem adds the inode number."""
    cdef uint64_t index = vma.pgoff + (vpn - vma.start)
    if c.m.profile.mbind_ilx and vma.file and file_of(c.m, vma.file).kind == FILE_SHMEM:
        index += file_of(c.m, vma.file).ino
    return index


# -- the effective policy --------------------------------------------------------------------------------------


cdef void get_task_policy(ctx_t *c, mpol_t *out) noexcept nogil:
    """Read the task's policy; the caller holds mmap_lock of the process or alloc_lock."""
    if c.task:
        out[0] = task_of(c.m, c.task).pol
    else:
        mpol_clear(out)


cdef void read_task_policy(ctx_t *c, mpol_t *out) noexcept nogil:
    """Read the task's policy without a lock held."""
    cdef task_t *t = task_of(c.m, c.task)
    pmg_spin_lock(&t.alloc_lock)
    get_task_policy(c, out)
    pmg_spin_unlock(&t.alloc_lock)


cdef int32_t cursor_policy(ctx_t *c, mpol_t *out) noexcept nogil:
    """Read the task's policy and, if it interleaves, advance the cursor under the same lock: its node, else -1."""
    cdef task_t *t = task_of(c.m, c.task)
    cdef int32_t nid = -1
    pmg_spin_lock(&t.alloc_lock)
    get_task_policy(c, out)
    if out.mode == MPOL_INTERLEAVE or out.mode == MPOL_WEIGHTED_INTERLEAVE:
        nid = interleave_nodes(c.m, t)
    pmg_spin_unlock(&t.alloc_lock)
    return nid


cdef bint vma_policy(machine_t *m, vma_t *vma, uint64_t vpn, mpol_t *out) noexcept nogil:
    """Look up a mapping's policy.  For a shared object its own list decides, even where that has none for the page."""
    cdef file_t *f
    if vma.file:
        f = file_of(m, vma.file)
        if f.kind == FILE_SHMEM:
            return mpol_shared_policy_lookup(m, f, vma.pgoff + (vpn - vma.start), out)
    out[0] = vma.pol
    return out.mode != MPOL_DEFAULT


cdef bint get_vma_policy(ctx_t *c, vma_t *vma, uint64_t vpn, mpol_t *out_pol) noexcept nogil:
    """Look up the effective policy.  Through 2.6.26 a shared object without one uses the system's, not the task's."""
    if not vma_policy(c.m, vma, vpn, out_pol):
        if c.m.profile.object_default and vma.file and file_of(c.m, vma.file).kind == FILE_SHMEM:
            mpol_clear(out_pol)
        else:
            get_task_policy(c, out_pol)
    return out_pol.mode != MPOL_DEFAULT


# -- from a policy to a frame ----------------------------------------------------------------------------------


cdef inline uint64_t cpuset_mems_allowed(ctx_t *c) noexcept nogil:
    """Get the nodes of the top cpuset, the only one modelled, which follows hotplug."""
    return pmg_load(&c.m.has_memory)


cdef int32_t policy_node(ctx_t *c, const mpol_t *pol, uint64_t index, uint64_t *mask) noexcept nogil:
    """Find the node where the zonelist starts, and in ``*mask`` its allowed nodes (PREFERRED_MANY: of the first try)."""
    mask[0] = cpuset_mems_allowed(c)
    if pol.mode == MPOL_INTERLEAVE or pol.mode == MPOL_WEIGHTED_INTERLEAVE:
        return interleave_nid(c.m, pol, index)
    if pol.mode == MPOL_PREFERRED:
        return <int32_t> pmg_ctz(pol.nodes)
    if pol.mode == MPOL_BIND or pol.mode == MPOL_PREFERRED_MANY:
        if pol.nodes & mask[0]:
            mask[0] &= pol.nodes
        if pol.home_node >= 0:
            return pol.home_node
        if c.m.profile.bind_ascending:          # a zonelist of BIND starts at the lowest node
            return <int32_t> pmg_ctz(mask[0])
    return c.nid


cdef uint32_t alloc_page_interleave(ctx_t *c, int32_t nid) noexcept nogil:
    """Prefer the interleave node; a page that falls back to another node does not count as interleaved."""
    cdef uint32_t pfn = alloc_page(c, nid, cpuset_mems_allowed(c))
    if pfn and page_to_nid(c.m, pfn) == nid:
        count_event(c, C_NUMA_INTERLEAVE, 1)
    return pfn


cdef uint32_t alloc_pages_policy(ctx_t *c, const mpol_t *pol, uint64_t index) noexcept nogil:
    cdef uint64_t mask = 0
    cdef int32_t nid = policy_node(c, pol, index, &mask)
    cdef uint32_t pfn
    if pol.mode == MPOL_INTERLEAVE or pol.mode == MPOL_WEIGHTED_INTERLEAVE:
        return alloc_page_interleave(c, nid)
    pfn = alloc_page(c, nid, mask)
    if not pfn and pol.mode == MPOL_PREFERRED_MANY:
        pfn = alloc_page(c, nid, cpuset_mems_allowed(c))
    return pfn


cdef uint32_t alloc_page_vma(ctx_t *c, vma_t *vma, uint64_t vpn) noexcept nogil:
    cdef mpol_t pol
    get_vma_policy(c, vma, vpn, &pol)
    return alloc_pages_policy(c, &pol, interleave_index(c, vma, vpn))


cdef uint32_t alloc_page_shmem(ctx_t *c, file_t *f, uint64_t index, vma_t *vma) noexcept nogil:
    """Allocate by the object's policy, which all mappers share.  The inode number shifts each object's pattern."""
    cdef mpol_t pol
    if not mpol_shared_policy_lookup(c.m, f, index, &pol):
        if vma != NULL:
            get_task_policy(c, &pol)
        else:
            read_task_policy(c, &pol)           # write(2): no mmap_lock
    return alloc_pages_policy(c, &pol, index + (f.ino if c.m.profile.ino_shifts else 0))


cdef uint32_t alloc_page_cache(ctx_t *c) noexcept nogil:
    cdef mpol_t pol
    cdef int32_t nid = cursor_policy(c, &pol)
    return alloc_page_interleave(c, nid) if nid >= 0 else alloc_pages_policy(c, &pol, 0)


# -- policies of a shared object ---------------------------------------------------------------------------------


cdef bint mpol_shared_policy_lookup(machine_t *m, file_t *f, uint64_t index, mpol_t *out) noexcept nogil:
    cdef uint32_t i
    cdef sp_node_t *n
    mpol_clear(out)
    if pmg_load32(&f.sp) == 0:
        return False
    pmg_spin_lock(&f.lock)
    i = f.sp
    while i:
        n = sp_node_of(m, i)
        if n.start <= index < n.end:
            out[0] = n.pol
            break
        i = n.next
    pmg_spin_unlock(&f.lock)
    return out.mode != MPOL_DEFAULT


cdef void sp_fill(
        machine_t *m, uint32_t i, uint64_t start, uint64_t end, const mpol_t *pol, uint32_t next) noexcept nogil:
    cdef sp_node_t *n = sp_node_of(m, i)
    n.start = start
    n.end = end
    n.pol = pol[0]
    n.next = next


cdef uint32_t sp_cut(
        machine_t *m, uint32_t *link, uint64_t start, uint64_t end, uint32_t *spare, uint32_t **at) noexcept nogil:
    """Clear [start, end) of the list: unlink and return nodes inside, trim overlapping ones, split one around it.

    A split takes ``*spare`` for its upper half and zeroes it; ``*at`` is the link where a node for the range belongs.
    """
    cdef uint32_t i = link[0], dead = 0
    cdef sp_node_t *n
    at[0] = link
    while i:
        n = sp_node_of(m, i)
        if n.start >= end:
            break
        if n.start >= start and n.end <= end:
            pmg_store32_rel(at[0], n.next)
            n.next = dead
            dead = i
            i = at[0][0]
            continue
        if n.start >= start:
            n.start = end
            break
        if n.end > end:
            sp_fill(m, spare[0], end, n.end, &n.pol, n.next)
            n.next = spare[0]
            spare[0] = 0
        n.end = min(n.end, start)
        at[0] = &n.next
        i = n.next
    return dead


cdef int mpol_set_shared_policy(
        machine_t *m, file_t *f, uint64_t start, uint64_t end, const mpol_t *pol) noexcept nogil:
    """Set the policy of a range.  Records are allocated before and freed after the lock, which covers only the links."""
    cdef uint32_t node = 0, spare = slab_alloc(&m.sp_nodes), dead, next
    cdef uint32_t *at = NULL
    if pol.mode != MPOL_DEFAULT:
        node = slab_alloc(&m.sp_nodes)
    if not spare or (pol.mode != MPOL_DEFAULT and not node):
        if spare:
            slab_free(&m.sp_nodes, spare)
        return -ENOMEM
    pmg_spin_lock(&f.lock)
    dead = sp_cut(m, &f.sp, start, end, &spare, &at)
    if node:
        sp_fill(m, node, start, end, pol, at[0])
        pmg_store32_rel(at, node)
    pmg_spin_unlock(&f.lock)
    if spare:
        slab_free(&m.sp_nodes, spare)
    while dead:
        next = sp_node_of(m, dead).next
        slab_free(&m.sp_nodes, dead)
        dead = next
    return 0


cdef void mpol_free_shared_policy(machine_t *m, file_t *f) noexcept nogil:
    """Free the whole list, with the object's last reference: it has no other users."""
    cdef uint32_t i = f.sp, next
    f.sp = 0
    while i:
        next = sp_node_of(m, i).next
        slab_free(&m.sp_nodes, i)
        i = next
