"""Reverse map: anon_vma chains and i_mmap trees over one interval tree, and the mapcount of a page."""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from pagemig.mm.atomic cimport (
    GUARD_PARENT_FIRST, pmg_add, pmg_add32, pmg_and, pmg_cas32, PMG_GUARD, pmg_load, pmg_load32, pmg_or,
    pmg_read_lock, pmg_read_unlock, pmg_spin_lock, pmg_spin_unlock, pmg_store32, pmg_store32_rel, pmg_store_rel,
    pmg_sub, pmg_write_lock, pmg_write_unlock,
)
from pagemig.mm.frame cimport frame_maps, page_state, page_test_set, page_try_map
from pagemig.mm.mempolicy cimport mpol_equal
from pagemig.mm.mempolicy cimport kernel_memory
from pagemig.mm.page_alloc cimport (
    anon_vma_of, count_event, file_of, mm_of, put_page, rnode_of, slab_alloc, slab_free, vec_at, vma_index, vma_of,
)
from pagemig.mm.types cimport (
    anon_vma_t, C_HOST_RMAP, C_HOST_RMAP_CONTENDED, C_LOCK_ANON_VMA, C_LOCK_I_MMAP, C_UNEVICTABLE_MLOCKED,
    C_UNEVICTABLE_MUNLOCKED, ctx_t, file_t, frame_t, machine_t, MAP_ONE, mlock_pvec_t, mm_t, PG_anon, PG_anon_exclusive,
    PG_lru, PG_mlocked, PG_swapbacked, PG_unevictable, PG_uptodate, PVEC_MAX, REF_ONE, rnode_t, VM_EXEC, VM_IO,
    VM_LOCKED, VM_PFNMAP, VM_READ, VM_WRITE, vma_t,
)
from pagemig.mm.vma cimport add_mm_counter, linear_page_index, vma_flags, vma_slot


# -- the interval tree: a treap by (start, age); each node has the largest `last` of its subtree -------------------
# Age orders equal ranges.  fork copies entries from parent to child while both are in the tree: a walk that visited the
# child first would miss an entry copied after the visit.


cdef inline uint32_t priority(uint32_t i) noexcept nogil:
    """Compute a fixed pseudo-random priority, so that the same calls always build the same tree."""
    i = (i ^ (i >> 16)) * <uint32_t> 0x45d9f3b
    i = (i ^ (i >> 16)) * <uint32_t> 0x45d9f3b
    return i ^ (i >> 16)


cdef inline bint node_before(machine_t *m, uint32_t a, uint32_t b) noexcept nogil:
    cdef rnode_t *x = rnode_of(m, a)
    cdef rnode_t *y = rnode_of(m, b)
    return x.start < y.start or (x.start == y.start and (x.seq < y.seq) == PMG_GUARD(GUARD_PARENT_FIRST))


cdef inline void update_max(machine_t *m, uint32_t i) noexcept nogil:
    cdef rnode_t *n = rnode_of(m, i)
    n.max = n.last
    if n.left and rnode_of(m, n.left).max > n.max:
        n.max = rnode_of(m, n.left).max
    if n.right and rnode_of(m, n.right).max > n.max:
        n.max = rnode_of(m, n.right).max


cdef void tree_split(machine_t *m, uint32_t t, uint32_t at, uint32_t *lo, uint32_t *hi) noexcept nogil:
    """Split ``t``: nodes before node ``at`` go to ``lo``, the others to ``hi``."""
    if t == 0:
        lo[0] = 0
        hi[0] = 0
    elif node_before(m, t, at):
        tree_split(m, rnode_of(m, t).right, at, &rnode_of(m, t).right, hi)
        lo[0] = t
        update_max(m, t)
    else:
        tree_split(m, rnode_of(m, t).left, at, lo, &rnode_of(m, t).left)
        hi[0] = t
        update_max(m, t)


cdef uint32_t tree_merge(machine_t *m, uint32_t a, uint32_t b) noexcept nogil:
    if a == 0 or b == 0:
        return a | b
    if rnode_of(m, a).prio > rnode_of(m, b).prio:
        rnode_of(m, a).right = tree_merge(m, rnode_of(m, a).right, b)
        update_max(m, a)
        return a
    rnode_of(m, b).left = tree_merge(m, a, rnode_of(m, b).left)
    update_max(m, b)
    return b


cdef uint32_t tree_insert(machine_t *m, uint32_t t, uint32_t i) noexcept nogil:
    cdef rnode_t *n = rnode_of(m, i)
    if t == 0 or n.prio > rnode_of(m, t).prio:
        tree_split(m, t, i, &n.left, &n.right)
        update_max(m, i)
        return i
    if node_before(m, i, t):
        rnode_of(m, t).left = tree_insert(m, rnode_of(m, t).left, i)
    else:
        rnode_of(m, t).right = tree_insert(m, rnode_of(m, t).right, i)
    update_max(m, t)
    return t


cdef uint32_t tree_erase(machine_t *m, uint32_t t, uint32_t i) noexcept nogil:
    cdef rnode_t *n = rnode_of(m, t)
    if t == i:
        return tree_merge(m, n.left, n.right)
    if node_before(m, i, t):
        n.left = tree_erase(m, n.left, i)
    else:
        n.right = tree_erase(m, n.right, i)
    update_max(m, t)
    return t


cdef struct found_t:
    uint64_t first, last
    uint32_t skip, n, max
    uint32_t *vmas


cdef void tree_visit(machine_t *m, uint32_t t, found_t *f) noexcept nogil:
    cdef rnode_t *n
    while t:
        n = rnode_of(m, t)
        if n.max < f.first or f.n == f.max:
            return
        tree_visit(m, n.left, f)
        if n.start > f.last or f.n == f.max:
            return
        if n.last >= f.first:
            if f.skip:
                f.skip -= 1
            else:
                f.vmas[f.n] = n.vma
                f.n += 1
        t = n.right


cdef uint32_t rmap_vmas(
        machine_t *m, uint32_t tree, uint32_t first, uint32_t last, uint32_t skip, uint32_t *vmas,
        uint32_t max) noexcept nogil:
    cdef found_t f
    cdef rnode_t *n
    if tree == 0:
        return 0
    n = rnode_of(m, tree)
    if n.left == 0 and n.right == 0:        # one VMA, the usual case
        if skip or max == 0 or not ((n.start <= last and n.last >= first) or n.last >= first + (<uint64_t> 1 << 32)):
            return 0
        vmas[0] = n.vma
        return 1
    f.first = first
    f.last = last
    f.skip = skip
    f.n = 0
    f.max = max
    f.vmas = vmas
    tree_visit(m, tree, &f)
    if n.max >= <uint64_t> 1 << 32:         # a VMA whose indices wrap at 2^32 also maps small ones
        f.first += <uint64_t> 1 << 32
        f.last += <uint64_t> 1 << 32
        tree_visit(m, tree, &f)
    return f.n


cdef uint64_t rmap_last(machine_t *m, uint32_t tree) noexcept nogil:
    return rnode_of(m, tree).max if tree else 0


# -- nodes of a VMA ------------------------------------------------------------------------------------------------


cdef void rnode_place(machine_t *m, uint32_t i) noexcept nogil:
    """Copy the VMA's present range into the node."""
    cdef rnode_t *n = rnode_of(m, i)
    cdef vma_t *v = vma_of(m, n.vma)
    n.start = v.pgoff & 0xffffffffu
    n.last = n.start + (v.end - v.start) - 1
    n.left = 0
    n.right = 0


cdef uint32_t rnode_new(machine_t *m, vma_t *vma, uint32_t owner) noexcept nogil:
    cdef uint32_t i = slab_alloc(&m.rnodes)
    cdef rnode_t *n
    if i:
        n = rnode_of(m, i)
        n.vma = vma_index(m, vma)
        n.owner = owner
        n.prio = priority(i)
        n.seq = pmg_add(&m.rnode_seq, 1)
        rnode_place(m, i)
    return i


cdef void anon_vma_lock_write(ctx_t *c, uint32_t root) noexcept nogil:
    """Take the lock that guards the trees of a fork family against rmap walks; inside mmap_lock, outside page-table locks."""
    count_event(c, C_LOCK_ANON_VMA, 1)
    count_event(c, C_HOST_RMAP, 1)
    count_event(c, C_HOST_RMAP_CONTENDED, pmg_write_lock(&anon_vma_of(c.m, root).lock))


cdef void anon_vma_unlock_write(ctx_t *c, uint32_t root) noexcept nogil:
    pmg_write_unlock(&anon_vma_of(c.m, root).lock)


cdef void anon_vma_lock_read(ctx_t *c, uint32_t av, uint32_t n) noexcept nogil:
    count_event(c, C_LOCK_ANON_VMA, n)
    count_event(c, C_HOST_RMAP, 1)
    count_event(c, C_HOST_RMAP_CONTENDED, pmg_read_lock(&anon_vma_of(c.m, anon_vma_of(c.m, av).root).lock))


cdef uint32_t anon_vma_lock_typed(ctx_t *c, uint32_t av, uint32_t n) noexcept nogil:
    """Lock an anon_vma that nothing keeps alive (``page_lock_anon_vma``): its root, or 0 once its last VMA is gone.

    The record is type-stable but may belong to another family by now.  If the root has not changed and the tree is not
    empty under the root's lock, it stays so: removing its last VMA takes that lock.
    """
    cdef anon_vma_t *record = anon_vma_of(c.m, av)
    cdef uint32_t root = pmg_load32(&record.root)
    count_event(c, C_LOCK_ANON_VMA, n)
    count_event(c, C_HOST_RMAP, 1)
    count_event(c, C_HOST_RMAP_CONTENDED, pmg_read_lock(&anon_vma_of(c.m, root).lock))
    if pmg_load32(&record.refcount) and pmg_load32(&record.tree) and pmg_load32(&record.root) == root:
        return root
    anon_vma_unlock_typed(c, root)
    return 0


cdef void anon_vma_unlock_typed(ctx_t *c, uint32_t root) noexcept nogil:
    pmg_read_unlock(&anon_vma_of(c.m, root).lock)


cdef void anon_vma_unlock_read(ctx_t *c, uint32_t av) noexcept nogil:
    pmg_read_unlock(&anon_vma_of(c.m, anon_vma_of(c.m, av).root).lock)


cdef void i_mmap_lock_write(ctx_t *c, file_t *f) noexcept nogil:
    """Take the lock that guards the tree of a file's mappings; outside anon_vma.lock."""
    count_event(c, C_LOCK_I_MMAP, 1)
    count_event(c, C_HOST_RMAP, 1)
    count_event(c, C_HOST_RMAP_CONTENDED, pmg_write_lock(&f.i_mmap_lock))


cdef void i_mmap_lock_read(ctx_t *c, file_t *f, uint32_t n) noexcept nogil:
    count_event(c, C_LOCK_I_MMAP, n)
    count_event(c, C_HOST_RMAP, 1)
    count_event(c, C_HOST_RMAP_CONTENDED, pmg_read_lock(&f.i_mmap_lock))


cdef void i_mmap_unlock_read(ctx_t *c, file_t *f) noexcept nogil:
    pmg_read_unlock(&f.i_mmap_lock)


# -- anon_vma ------------------------------------------------------------------------------------------------------


cdef uint32_t anon_vma_alloc(machine_t *m, uint32_t root, uint32_t parent) noexcept nogil:
    """Make an anon_vma with one reference.  root and parent 0: the first of a family, its own root and parent.

    Records are type-stable (the kernel's SLAB_TYPESAFE_BY_RCU).  page_get_anon_vma may read the refcount of one that has
    just been freed, hence the atomic stores.  A walk without a reference may hold its lock, so the lock is not initialised.
    """
    cdef uint32_t i = slab_alloc(&m.anon_vmas)
    cdef anon_vma_t *av
    if not i:
        return 0
    av = anon_vma_of(m, i)
    pmg_store32(&av.root, root or i)
    av.parent = parent or i
    av.num_children = 0 if root else 1
    av.num_active_vmas = 0
    av.tree = 0
    pmg_store32_rel(&av.refcount, 1)
    if root:
        get_anon_vma(m, root)
    return i


cdef void get_anon_vma(machine_t *m, uint32_t av) noexcept nogil:
    pmg_add32(&anon_vma_of(m, av).refcount, 1)


cdef void put_anon_vma(machine_t *m, uint32_t i) noexcept nogil:
    cdef anon_vma_t *av = anon_vma_of(m, i)
    cdef uint32_t root = av.root
    if pmg_add32(&av.refcount, <uint32_t> -1) == 0:
        slab_free(&m.anon_vmas, i)
        if root != i:
            put_anon_vma(m, root)


cdef uint32_t page_get_anon_vma(machine_t *m, uint32_t pfn) noexcept nogil:
    """Get a reference on the anon_vma of a page that is locked, so that its mapping is stable, or at least isolated.

    The last mapper may exit at any moment, so the reference is taken only on a nonzero refcount.  It is good only if the
    page is afterwards still mapped and has the same anon_vma: then the anon_vma was not freed before.
    """
    cdef frame_t *f = &m.frames[pfn]
    cdef uint64_t state = pmg_load(&f.state)
    cdef uint32_t i = pmg_load32(&f.mapping), n
    cdef uint32_t *count
    if not state & PG_anon or frame_maps(state) == 0 or i == 0:
        return 0
    count = &anon_vma_of(m, i).refcount
    n = pmg_load32(count)
    while n and not pmg_cas32(count, n, n + 1):
        n = pmg_load32(count)
    if n == 0:
        return 0
    if frame_maps(pmg_load(&f.state)) == 0 or pmg_load32(&f.mapping) != i:
        put_anon_vma(m, i)
        return 0
    return i


cdef void chain_link(machine_t *m, vma_t *vma, uint32_t node, uint32_t av, uint32_t *tail) noexcept nogil:
    """``anon_vma_chain_link``: append ``node`` to the VMA's chain, oldest first, and insert it into the locked ``av``."""
    if tail[0]:
        rnode_of(m, tail[0]).next = node
    else:
        vma.chain = node
    tail[0] = node
    anon_vma_of(m, av).tree = tree_insert(m, anon_vma_of(m, av).tree, node)


cdef uint32_t chain_tail(machine_t *m, vma_t *vma) noexcept nogil:
    cdef uint32_t i = vma.chain
    while i and rnode_of(m, i).next:
        i = rnode_of(m, i).next
    return i


cdef bint anon_vma_compatible(vma_t *a, vma_t *b) noexcept nogil:
    """Whether ``a`` and ``b`` are adjacent and differ only in access rights: sharing lets a later mprotect merge them."""
    return a.end == b.start and a.file == b.file and b.pgoff == a.pgoff + (a.end - a.start) \
        and not ((a.flags ^ b.flags) & ~(VM_READ | VM_WRITE | VM_EXEC)) and mpol_equal(&a.pol, &b.pol)


cdef uint32_t reusable_anon_vma(machine_t *m, vma_t *old, vma_t *a, vma_t *b) noexcept nogil:
    if anon_vma_compatible(a, b) and old.anon_vma and old.chain and not rnode_of(m, old.chain).next:
        return old.anon_vma
    return 0


cdef uint32_t find_mergeable_anon_vma(machine_t *m, vma_t *vma) noexcept nogil:
    cdef mm_t *mm = mm_of(m, vma.mm)
    cdef uint32_t *v = vec_at(m, &mm.vmas)
    cdef uint32_t i = vma_slot(m, mm, vma.start), av = 0
    cdef vma_t *near
    if i + 1 < mm.vmas.n:
        near = vma_of(m, v[i + 1])
        av = reusable_anon_vma(m, near, vma, near)
    if not av and i > 0:
        near = vma_of(m, v[i - 1])
        av = reusable_anon_vma(m, near, near, vma)
    return av


cdef int anon_vma_prepare(ctx_t *c, vma_t *vma) noexcept nogil:
    cdef machine_t *m = c.m
    cdef mm_t *mm = mm_of(m, vma.mm)
    cdef uint32_t av, node, fresh = 0, tail
    cdef bint linked = False
    if pmg_load32(&vma.anon_vma):
        return 0
    # The merge candidates belong to this mm: page_table_lock orders its concurrent faults.
    pmg_spin_lock(&mm.page_table_lock)
    av = find_mergeable_anon_vma(m, vma)
    if av:
        get_anon_vma(m, av)
    pmg_spin_unlock(&mm.page_table_lock)
    if not av:
        kernel_memory(c, 1)
        av = fresh = anon_vma_alloc(m, 0, 0)
    node = rnode_new(m, vma, av) if av else 0
    if not node:
        if av:
            put_anon_vma(m, av)
        return -ENOMEM
    anon_vma_lock_write(c, anon_vma_of(m, av).root)
    pmg_spin_lock(&mm.page_table_lock)
    if not vma.anon_vma:
        tail = 0
        chain_link(m, vma, node, av, &tail)
        anon_vma_of(m, av).num_active_vmas += 1
        pmg_store32_rel(&vma.anon_vma, av)
        linked = True
    pmg_spin_unlock(&mm.page_table_lock)
    anon_vma_unlock_write(c, anon_vma_of(m, av).root)
    if not linked:
        slab_free(&m.rnodes, node)
    if not linked or not fresh:       # a new anon_vma that was linked keeps its first reference, the tree's
        put_anon_vma(m, av)
    return 0


cdef int anon_vma_clone(ctx_t *c, vma_t *dst, vma_t *src) noexcept nogil:
    """Insert ``dst`` into every anon_vma of ``src``.

    A dst without an anon_vma may reuse one that has lost its VMA and has at most one child, so that a program that forks
    forever does not grow an endless chain.
    """
    cdef machine_t *m = c.m
    cdef uint32_t i = src.chain, node, root = 0, tail = 0
    cdef anon_vma_t *av
    if not i:
        return 0
    root = anon_vma_of(m, rnode_of(m, i).owner).root
    anon_vma_lock_write(c, root)
    while i:
        node = rnode_new(m, dst, rnode_of(m, i).owner)
        if not node:
            break
        chain_link(m, dst, node, rnode_of(m, i).owner, &tail)
        av = anon_vma_of(m, rnode_of(m, i).owner)
        if not dst.anon_vma and src.anon_vma and av.num_children < 2 and av.num_active_vmas == 0:
            dst.anon_vma = rnode_of(m, i).owner
        i = rnode_of(m, i).next
    if dst.anon_vma and not i:
        anon_vma_of(m, dst.anon_vma).num_active_vmas += 1
    anon_vma_unlock_write(c, root)
    if i:
        dst.anon_vma = 0
        unlink_anon_vmas(c, dst)
        return -ENOMEM
    return 0


cdef int anon_vma_fork(ctx_t *c, vma_t *child, vma_t *parent) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t av, node, root, tail
    child.anon_vma = 0
    child.chain = 0
    if not parent.anon_vma:
        return 0
    if anon_vma_clone(c, child, parent):
        return -ENOMEM
    if child.anon_vma:
        return 0
    root = anon_vma_of(m, parent.anon_vma).root
    if m.profile.family_anon_vma:           # one anon_vma for the family, which the clone has inserted it into already
        child.anon_vma = parent.anon_vma
        anon_vma_lock_write(c, root)
        anon_vma_of(m, child.anon_vma).num_active_vmas += 1
        anon_vma_unlock_write(c, root)
        return 0
    av = anon_vma_alloc(m, root, parent.anon_vma)
    node = rnode_new(m, child, av) if av else 0
    if not node:
        if av:
            put_anon_vma(m, av)
        unlink_anon_vmas(c, child)
        return -ENOMEM
    anon_vma_lock_write(c, root)
    tail = chain_tail(m, child)
    chain_link(m, child, node, av, &tail)
    anon_vma_of(m, av).num_active_vmas += 1
    anon_vma_of(m, parent.anon_vma).num_children += 1
    child.anon_vma = av
    anon_vma_unlock_write(c, root)
    return 0


cdef void unlink_anon_vmas(ctx_t *c, vma_t *vma) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t i = vma.chain, root, next, empty = 0
    cdef anon_vma_t *av
    vma.chain = 0
    if not i:
        return
    root = anon_vma_of(m, rnode_of(m, i).owner).root
    anon_vma_lock_write(c, root)
    while i:
        next = rnode_of(m, i).next
        av = anon_vma_of(m, rnode_of(m, i).owner)
        av.tree = tree_erase(m, av.tree, i)
        if av.tree == 0:
            anon_vma_of(m, av.parent).num_children -= 1
            rnode_of(m, i).next = empty     # freed below, without the lock, since that is in the root
            empty = i
        else:
            slab_free(&m.rnodes, i)
        i = next
    if vma.anon_vma:
        anon_vma_of(m, vma.anon_vma).num_active_vmas -= 1
        vma.anon_vma = 0
    anon_vma_unlock_write(c, root)
    while empty:
        next = rnode_of(m, empty).next
        put_anon_vma(m, rnode_of(m, empty).owner)
        slab_free(&m.rnodes, empty)
        empty = next


# -- files -----------------------------------------------------------------------------------------------------------


cdef int vma_link_file(ctx_t *c, vma_t *vma) noexcept nogil:
    cdef file_t *f = file_of(c.m, vma.file)
    vma.i_mmap = rnode_new(c.m, vma, vma.file)
    if not vma.i_mmap:
        return -ENOMEM
    i_mmap_lock_write(c, f)
    f.tree = tree_insert(c.m, f.tree, vma.i_mmap)
    pmg_write_unlock(&f.i_mmap_lock)
    return 0


cdef void unlink_file_vma(ctx_t *c, vma_t *vma) noexcept nogil:
    cdef file_t *f
    if vma.i_mmap:
        f = file_of(c.m, vma.file)
        i_mmap_lock_write(c, f)
        f.tree = tree_erase(c.m, f.tree, vma.i_mmap)
        pmg_write_unlock(&f.i_mmap_lock)
        slab_free(&c.m.rnodes, vma.i_mmap)
        vma.i_mmap = 0


cdef void vma_trees_lock(ctx_t *c, vma_t *vma) noexcept nogil:
    if vma.i_mmap:
        i_mmap_lock_write(c, file_of(c.m, vma.file))
    if vma.chain:
        anon_vma_lock_write(c, anon_vma_of(c.m, rnode_of(c.m, vma.chain).owner).root)


cdef void vma_trees_unlock(ctx_t *c, vma_t *vma) noexcept nogil:
    if vma.chain:
        anon_vma_unlock_write(c, anon_vma_of(c.m, rnode_of(c.m, vma.chain).owner).root)
    if vma.i_mmap:
        pmg_write_unlock(&file_of(c.m, vma.file).i_mmap_lock)


cdef void vma_trees_remove(ctx_t *c, vma_t *vma) noexcept nogil:
    """Lock the VMA's trees and remove it from them (``vma_prepare``).

    The locks are held until vma_trees_insert (``vma_complete``), so that no walk sees the VMA half changed.
    """
    cdef machine_t *m = c.m
    cdef uint32_t i = vma.chain
    cdef file_t *f
    cdef anon_vma_t *av
    vma_trees_lock(c, vma)
    if vma.i_mmap:
        f = file_of(m, vma.file)
        f.tree = tree_erase(m, f.tree, vma.i_mmap)
    while i:
        av = anon_vma_of(m, rnode_of(m, i).owner)
        av.tree = tree_erase(m, av.tree, i)
        i = rnode_of(m, i).next


cdef void vma_trees_insert(ctx_t *c, vma_t *vma) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t i = vma.chain
    cdef file_t *f
    cdef anon_vma_t *av
    while i:
        av = anon_vma_of(m, rnode_of(m, i).owner)
        rnode_place(m, i)
        av.tree = tree_insert(m, av.tree, i)
        i = rnode_of(m, i).next
    if vma.i_mmap:
        f = file_of(m, vma.file)
        rnode_place(m, vma.i_mmap)
        f.tree = tree_insert(m, f.tree, vma.i_mmap)
    vma_trees_unlock(c, vma)


# -- mapcount, mlock, resident set -----------------------------------------------------------------------------------


cdef void page_add_new_anon_rmap(ctx_t *c, uint32_t pfn, vma_t *vma, uint64_t vpn) noexcept nogil:
    """Set up the frame with plain stores: it is private to the caller until the PTE publishes it."""
    cdef machine_t *m = c.m
    cdef frame_t *f = &m.frames[pfn]
    f.mapping = vma.anon_vma
    f.index = linear_page_index(vma, vpn)
    pmg_store_rel(&f.state, pmg_load(&f.state) + MAP_ONE | PG_anon | PG_swapbacked | PG_uptodate | PG_anon_exclusive | PG_lru)
    mlock_vma_page(c, pfn, vma)
    add_mm_counter(m, vma, PG_anon, 1)


cdef bint page_add_anon_rmap(ctx_t *c, uint32_t pfn, vma_t *vma) noexcept nogil:
    if not page_try_map(c.m, pfn, 0):
        return False
    mlock_vma_page(c, pfn, vma)
    add_mm_counter(c.m, vma, PG_anon, 1)
    return True


cdef bint page_add_file_rmap(ctx_t *c, uint32_t pfn, vma_t *vma) noexcept nogil:
    if not page_try_map(c.m, pfn, 0):
        return False
    mlock_vma_page(c, pfn, vma)
    add_mm_counter(c.m, vma, page_state(c.m, pfn), 1)
    return True


cdef void page_remove_rmap(ctx_t *c, uint32_t pfn, vma_t *vma) noexcept nogil:
    cdef uint64_t state = pmg_sub(&c.m.frames[pfn].state, MAP_ONE)
    if vma_flags(vma) & VM_LOCKED:
        munlock_vma_page(c, pfn)
    add_mm_counter(c.m, vma, state, -1)


cdef void mlock_vma_page(ctx_t *c, uint32_t pfn, vma_t *vma) noexcept nogil:
    if (vma_flags(vma) & (VM_LOCKED | VM_IO | VM_PFNMAP)) != VM_LOCKED or not c.m.profile.mlock_marks:
        return
    pmg_add32(&c.m.mlock_count[pfn], 1)
    if not page_test_set(c.m, pfn, PG_mlocked | PG_unevictable):
        count_event(c, C_UNEVICTABLE_MLOCKED, 1)
    mlock_pvec_add(c, pfn, False)


cdef void munlock_vma_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    if c.m.profile.mlock_marks:
        mlock_pvec_add(c, pfn, True)


cdef void munlock_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    cdef uint32_t *count = &c.m.mlock_count[pfn]
    if pmg_add32(count, <uint32_t> -1) == 0:
        pmg_and(&c.m.frames[pfn].state, ~(PG_mlocked | PG_unevictable))
        if pmg_load32(count):               # another mapping locked the page between the two
            page_test_set(c.m, pfn, PG_mlocked | PG_unevictable)
        count_event(c, C_UNEVICTABLE_MUNLOCKED, 1)


cdef void mlock_pvec_add(ctx_t *c, uint32_t pfn, bint munlock) noexcept nogil:
    """Add a page to this CPU's list.  mlock takes effect at once, munlock when the list is drained.

    So a page may look mlocked for a while after its last mlocked mapping is gone, and copy-on-write may find an
    unexplained reference.
    """
    cdef mlock_pvec_t *v = &c.m.mlock_pvec[c.cpu]
    cdef bint full
    pmg_spin_lock(&v.lock)
    if pmg_load32(&c.m.lru_disable_count):
        pmg_spin_unlock(&v.lock)
        if munlock:
            munlock_page(c, pfn)
        return
    pmg_add(&c.m.frames[pfn].state, REF_ONE)
    v.pfn[v.n] = pfn
    v.munlock |= <uint32_t> munlock << v.n
    pmg_store32(&v.n, v.n + 1)
    full = v.n == c.m.profile.pagevec
    if full:
        mlock_pagevec(c, v)
    else:
        pmg_spin_unlock(&v.lock)


cdef void mlock_pagevec(ctx_t *c, mlock_pvec_t *v) noexcept nogil:
    """Drain a list; entered with its lock held, which is dropped because put_page takes other locks.

    The copy leaves out the lock word, which other threads read meanwhile.
    """
    cdef uint32_t pfn[PVEC_MAX]
    cdef uint32_t i, n = v.n, munlock = v.munlock
    memcpy(pfn, v.pfn, n * 4)
    v.munlock = 0
    pmg_store32(&v.n, 0)
    pmg_spin_unlock(&v.lock)
    for i in range(n):
        if (munlock >> i) & 1:
            munlock_page(c, pfn[i])
        put_page(c, pfn[i])


cdef void mlock_drain_cpu(ctx_t *c, uint32_t cpu) noexcept nogil:
    cdef mlock_pvec_t *v = &c.m.mlock_pvec[cpu]
    if pmg_load32(&v.n) or pmg_load32(&v.lock):     # the holder of the lock may be adding the first page
        pmg_spin_lock(&v.lock)
        mlock_pagevec(c, v)


cdef void lru_add_drain(ctx_t *c) noexcept nogil:
    mlock_drain_cpu(c, c.cpu)


cdef void lru_cache_disable(ctx_t *c) noexcept nogil:
    """Drain the lists of all CPUs, which stay unused until every call that disabled them has enabled them again."""
    cdef uint32_t cpu
    if not c.lru_disabled:
        c.lru_disabled = 1
        pmg_add32(&c.m.lru_disable_count, 1)
    for cpu in range(c.m.nr_cpus):
        mlock_drain_cpu(c, cpu)


cdef void lru_cache_enable(ctx_t *c) noexcept nogil:
    if c.lru_disabled:
        c.lru_disabled = 0
        pmg_add32(&c.m.lru_disable_count, <uint32_t> -1)


cdef void lru_cache_add(ctx_t *c, uint32_t pfn) noexcept nogil:
    pmg_or(&c.m.frames[pfn].state, PG_lru)
