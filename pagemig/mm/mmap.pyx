"""Address spaces: VMAs, and the system calls that change them.

mm.lock for writing guards the list of VMAs and every field of a VMA.  Reverse-map walks of other processes read VMAs
without it, under the locks of the trees, so a range only changes inside those locks.  A border between two VMAs moves by
growing one before shrinking the other: a walk may see a page in both, which its entry settles, but never in neither.
"""
from libc.errno cimport EACCES, EAGAIN, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memmove

from pagemig.mm.atomic cimport (
    GUARD_MPROTECT_ENTRY, PMG_GUARD, pmg_load, pmg_load32, pmg_store, pmg_store32, pmg_store_rel,
)
from pagemig.mm.context cimport mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock, signal_pending
from pagemig.mm.filemap cimport file_get, file_new, file_put
from pagemig.mm.frame cimport page_test
from pagemig.mm.gup cimport make_pages_present, mm_populate, populate_object
from pagemig.mm.memory cimport (
    gather_t, tlb_gather_begin, tlb_gather_end, ZAP_EVEN_COWS, ZAP_MAY_STOP, zap_page_range,
)
from pagemig.mm.mempolicy cimport kernel_memory, mpol_clear, mpol_equal, mpol_objects, mpol_set_shared_policy
from pagemig.mm.notify cimport flush_tlb, PMG_F_EXIT, PMG_F_PROTECT, PMG_F_REMAP, PMG_F_UNMAP
from pagemig.mm.page_alloc cimport (
    count_event, file_of, mm_index, mm_of, rnode_of, slab_alloc, slab_free, task_of, vec_at, vec_insert, vec_remove,
    vma_index, vma_of,
)
from pagemig.mm.pagewalk cimport pagewalk_next, pagewalk_start, pagewalk_t
from pagemig.mm.pgtable cimport (
    free_pgtables, leaf_end, leaf_pte, pte_alloc, pte_lock, pte_unlock, set_pte, stats_index, stats_rows, walk_leaf,
)
from pagemig.mm.pte cimport (
    is_writable_migration_entry, migration_entry_set_type, migration_entry_to_pfn, PTE_A, pte_dirty, pte_pfn,
    pte_present, PTE_RW, PTE_SPECIAL, pte_t, pte_write, SWP_MIGRATION_READ, SWP_MIGRATION_READ_EXCLUSIVE,
)
from pagemig.mm.rmap cimport (
    anon_vma_clone, munlock_vma_page, unlink_anon_vmas, unlink_file_vma, vma_link_file, vma_trees_insert, vma_trees_lock,
    vma_trees_remove, vma_trees_unlock,
)
from pagemig.mm.rules cimport (
    refuse, RULE_DONTUNMAP, RULE_DONTUNMAP_LENGTH, RULE_FILE_RANGE, RULE_HOLE, RULE_HUGETLB, RULE_LENGTH, RULE_MEMLOCK,
    RULE_MREMAP_FLAGS, RULE_MREMAP_MAYMOVE, RULE_NO_ROOM, RULE_OCCUPIED, RULE_OFFSET, RULE_PROT, RULE_RANGE_WRAPS,
    RULE_UNALIGNED,
)
from pagemig.mm.types cimport (
    C_TLB_FLUSH, ctx_t, DEF_MAX_MAP_COUNT, FILE_RAMFS, FILE_SHMEM, file_t, machine_t, MAX_INDEX_PAGES, mm_t,
    MPOL_BIND, MPOL_DEFAULT, MPOL_PREFERRED_MANY, mpol_t, PG_anon, PG_anon_exclusive, PMG_WAIT, PTRS_PER_PTE,
    TASK_SIZE_PAGES, task_t, vec_t, VM_ACCOUNT, VM_DONTEXPAND, VM_LOCKED, VM_MAYEXEC, VM_MAYREAD, VM_MAYSHARE,
    VM_MAYWRITE, VM_NORESERVE, VM_PFNMAP, VM_SHARED, VM_WRITE, vma_t,
)
from pagemig.mm.vma cimport (
    can_do_mlock, find_vma, find_vma_prev, over_memlock, page_align, VM_LOCKED_MASK, VM_SPECIAL, vma_after, vma_at, vma_lookup,
    vma_pte, vma_slot,
)


cdef enum:                      # what a new mapping is filled with
    POPULATE_ALL = 1
    POPULATE_OBJECT = 2         # the pages of its object, if it is shared

cdef enum:
    SHMEM_OBJECTS = 3           # of a new shared object: directory entry, open file, inode
    PROT_ALL = 15               # READ 1, WRITE 2, EXEC 4, SEM 8
    MAP_SHARED = 1
    MAP_PRIVATE = 2
    MAP_SHARED_VALIDATE = 3
    MAP_TYPE = 15
    MAP_FIXED = 0x10
    MAP_LOCKED = 0x2000
    MAP_NORESERVE = 0x4000
    MAP_POPULATE = 0x8000
    MAP_NONBLOCK = 0x10000
    MAP_HUGETLB = 0x40000
    MAP_FIXED_NOREPLACE = 0x100000
    MREMAP_MAYMOVE = 1
    MREMAP_FIXED = 2
    MREMAP_DONTUNMAP = 4


cdef extern from *:
    """
    #define VM_ACCESS_FLAGS (VM_READ | VM_WRITE | VM_EXEC)
    #define PTE_PROT_BITS (PTE_P | PTE_RW | PTE_US | PTE_PROTNONE | PTE_NX)
    #define MMAP_BASE (TASK_SIZE_PAGES - (1ull << 15))  /* leaves 128 MB above for a stack */
    #define MMAP_MIN 16ull
    #define NO_CEILING (1ull << 36)
    #define CHECKED (1ll << 62)                          /* neither a page number nor an errno */
    """
    const uint32_t VM_ACCESS_FLAGS
    const uint64_t PTE_PROT_BITS, MMAP_BASE, MMAP_MIN, NO_CEILING
    const int64_t CHECKED


# -- the list of VMAs ------------------------------------------------------------------------------------------


cdef inline bint range_is_free(machine_t *m, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil:
    cdef vma_t *vma = vma_at(m, mm, vma_slot(m, mm, start))
    return vma == NULL or vma.start >= end


cdef vma_t *vma_alloc(
        machine_t *m, mm_t *mm, uint64_t start, uint64_t end, uint32_t flags, uint64_t pgoff) noexcept nogil:
    cdef uint32_t i = slab_alloc(&m.vmas)
    cdef vma_t *vma
    if not i:
        return NULL
    vma = vma_of(m, i)
    vma.start = start
    vma.end = end
    vma.pgoff = pgoff
    vma.flags = flags
    vma.mm = mm_index(m, mm)
    mpol_clear(&vma.pol)
    return vma


cdef vma_t *vma_dup(ctx_t *c, vma_t *old) noexcept nogil:
    """Copy a VMA; the copy is in no tree yet, and its anon_vma still names the original's, for anon_vma_clone."""
    cdef machine_t *m = c.m
    cdef uint32_t i = slab_alloc(&m.vmas)
    cdef vma_t *vma
    if not i:
        return NULL
    kernel_memory(c, 1 + mpol_objects(&old.pol))
    vma = vma_of(m, i)
    vma[0] = old[0]
    vma.chain = 0
    vma.i_mmap = 0
    return vma


cdef void vma_unlink(ctx_t *c, vma_t *vma) noexcept nogil:
    unlink_anon_vmas(c, vma)
    if vma.file:
        unlink_file_vma(c, vma)


cdef void vma_free(ctx_t *c, vma_t *vma) noexcept nogil:
    """Drop the file and the record of a VMA that is in no tree any more."""
    if vma.file:
        file_put(c, vma.file)
    slab_free(&c.m.vmas, vma_index(c.m, vma))


cdef int vma_link(ctx_t *c, mm_t *mm, vma_t *vma, uint32_t slot) noexcept nogil:
    """Take a file reference and insert the VMA into the file's tree and the list; free it if that fails."""
    cdef int err = 0
    if vma.file:
        file_get(c.m, vma.file)
        err = vma_link_file(c, vma)
    if err == 0:
        err = vec_insert(c.m, &mm.vmas, slot, vma_index(c.m, vma))
    if err:
        vma_unlink(c, vma)
        vma_free(c, vma)
    return err


cdef int vma_link_like(ctx_t *c, mm_t *mm, vma_t *vma, vma_t *old, uint32_t slot) noexcept nogil:
    """vma_link for a copy that keeps sharing the anonymous pages of ``old``."""
    if anon_vma_clone(c, vma, old):
        slab_free(&c.m.vmas, vma_index(c.m, vma))
        return -ENOMEM
    return vma_link(c, mm, vma, slot)


cdef void vec_cut(machine_t *m, vec_t *v, uint32_t at, uint32_t n) noexcept nogil:
    cdef uint32_t *a = vec_at(m, v)
    memmove(a + at, a + at + n, <uint64_t> (v.n - at - n) * 4)
    v.n -= n


# -- moving the borders of VMAs --------------------------------------------------------------------------------


cdef void vma_resize(ctx_t *c, vma_t *vma, uint64_t start, uint64_t end) noexcept nogil:
    """Set a new range that keeps every page's index in its object; rmap walks see the old range or the new."""
    vma_trees_remove(c, vma)
    vma.pgoff += start - vma.start
    vma.start = start
    vma.end = end
    vma_trees_insert(c, vma)


cdef int import_anon_vma(ctx_t *c, vma_t *importer, vma_t *exporter) noexcept nogil:
    """Make a VMA that is about to take over pages of another reachable from their anon_vma."""
    if exporter == NULL or not exporter.anon_vma or importer.anon_vma:
        return 0
    importer.anon_vma = exporter.anon_vma
    return anon_vma_clone(c, importer, exporter)


cdef int vma_absorb(
        ctx_t *c, mm_t *mm, vma_t *vma, uint64_t start, uint64_t end, vma_t *gone, vma_t *gone2) noexcept nogil:
    """Grow ``vma`` to [start, end) over up to two VMAs, which are freed (``__vma_adjust``, ``vma_expand``)."""
    cdef uint32_t slot
    if end - start > MAX_INDEX_PAGES:
        return -ENOMEM
    if import_anon_vma(c, vma, gone) or import_anon_vma(c, vma, gone2):
        return -ENOMEM
    slot = vma_slot(c.m, mm, gone.start) if gone != NULL else 0
    if gone2 != NULL:
        vec_remove(c.m, &mm.vmas, slot + 1)
    if gone != NULL:
        vec_remove(c.m, &mm.vmas, slot)
    vma_resize(c, vma, start, end)
    if gone != NULL:
        vma_unlink(c, gone)
        vma_free(c, gone)
    if gone2 != NULL:
        vma_unlink(c, gone2)
        vma_free(c, gone2)
    return 0


cdef int vma_shift(ctx_t *c, vma_t *lower, vma_t *upper, uint64_t border) noexcept nogil:
    """Move the border between two adjacent VMAs."""
    if border - lower.start > MAX_INDEX_PAGES or upper.end - border > MAX_INDEX_PAGES:
        return -ENOMEM
    if border > upper.start:
        if import_anon_vma(c, lower, upper):
            return -ENOMEM
        vma_resize(c, lower, lower.start, border)
        vma_resize(c, upper, border, upper.end)
    else:
        if import_anon_vma(c, upper, lower):
            return -ENOMEM
        vma_resize(c, upper, border, upper.end)
        vma_resize(c, lower, lower.start, border)
    return 0


cdef int do_split(ctx_t *c, mm_t *mm, vma_t *vma, uint64_t addr, bint new_below) noexcept nogil:
    """``__split_vma``: the limit on mappings is not checked."""
    cdef vma_t *new = vma_dup(c, vma)
    cdef uint32_t slot = vma_slot(c.m, mm, vma.start)
    if new == NULL:
        return -ENOMEM
    if new_below:
        new.end = addr
    else:
        new.pgoff += addr - new.start
        new.start = addr
    if vma_link_like(c, mm, new, vma, slot if new_below else slot + 1):
        return -ENOMEM
    if new_below:
        vma_resize(c, vma, addr, vma.end)
    else:
        vma_resize(c, vma, vma.start, addr)
    return 0


cdef int split_vma(ctx_t *c, mm_t *mm, vma_t *vma, uint64_t addr, bint new_below) noexcept nogil:
    if mm.vmas.n >= DEF_MAX_MAP_COUNT:
        return -ENOMEM
    return do_split(c, mm, vma, addr, new_below)


# -- merging -----------------------------------------------------------------------------------------------------


cdef inline bint is_mergeable_vma(vma_t *vma, uint32_t flags, uint32_t file) noexcept nogil:
    """Whether flags and file agree; a VMA with vm_ops never merges."""
    return vma.flags == flags and vma.file == file and vma.ops == 0


cdef inline bint are_anon_vmas_compatible(vma_t *a, vma_t *b) noexcept nogil:
    return not a.anon_vma or not b.anon_vma or a.anon_vma == b.anon_vma


cdef inline bint vma_is_fork_child(machine_t *m, vma_t *vma) noexcept nogil:
    """Whether some pages may still be the parent's: the chain holds more than the VMA's own anon_vma."""
    return vma.anon_vma != 0 and rnode_of(m, vma.chain).next != 0


cdef bint is_mergeable_anon_vma(machine_t *m, uint32_t anon_vma, vma_t *owner, vma_t *vma) noexcept nogil:
    """Whether ``vma`` may take in a range with ``anon_vma``, which belongs to ``owner`` (NULL: the range is new).

    Two with the same anon_vma may merge, and one without may merge with one whose chain has a single anon_vma.  VMAs of
    fork children stay apart, so that the lock of their anon_vma is not shared more widely.  Through 6.15 only the chain of
    the existing VMA is tested, and an empty one fails: a range with pages never merges into a neighbour without.
    """
    if m.profile.family_anon_vma:
        return not anon_vma or not vma.anon_vma or anon_vma == vma.anon_vma
    if anon_vma and vma.anon_vma:
        return anon_vma == vma.anon_vma
    if not anon_vma and not vma.anon_vma:
        return True
    if m.profile.merge_faulted:
        return not vma_is_fork_child(m, vma) and (owner == NULL or not vma_is_fork_child(m, owner))
    return vma.chain != 0 and not rnode_of(m, vma.chain).next


cdef bint can_vma_merge_before(
        machine_t *m, vma_t *vma, uint32_t flags, uint32_t anon_vma, vma_t *owner, uint32_t file,
        uint64_t pgoff) noexcept nogil:
    """Whether ``vma`` may be extended downwards by a range that ends at ``pgoff``."""
    return is_mergeable_vma(vma, flags, file) and is_mergeable_anon_vma(m, anon_vma, owner, vma) \
        and vma.pgoff == pgoff


cdef bint can_vma_merge_after(
        machine_t *m, vma_t *vma, uint32_t flags, uint32_t anon_vma, vma_t *owner, uint32_t file,
        uint64_t pgoff) noexcept nogil:
    return is_mergeable_vma(vma, flags, file) and is_mergeable_anon_vma(m, anon_vma, owner, vma) \
        and vma.pgoff + (vma.end - vma.start) == pgoff


cdef vma_t *merge_into_prev(ctx_t *c, mm_t *mm, vma_t *prev, vma_t *mid, uint64_t end) noexcept nogil:
    cdef int err
    if mid == NULL or mid.start >= end:         # into a hole
        err = vma_absorb(c, mm, prev, prev.start, end, NULL, NULL)
    elif mid.end == end:
        err = vma_absorb(c, mm, prev, prev.start, end, mid, NULL)
    else:
        err = vma_shift(c, prev, mid, end)
    return NULL if err else prev


cdef vma_t *merge_into_next(ctx_t *c, mm_t *mm, vma_t *prev, vma_t *mid, vma_t *next, uint64_t start) noexcept nogil:
    cdef int err
    if prev != NULL and start < prev.end:       # the range is the upper part of prev
        err = vma_shift(c, prev, next, start)
    else:
        err = vma_absorb(c, mm, next, start, next.end, mid if mid != next else NULL, NULL)
    return NULL if err else next


cdef vma_t *vma_merge(
        ctx_t *c, mm_t *mm, vma_t *prev, uint64_t start, uint64_t end, uint32_t flags, uint32_t anon_vma,
        vma_t *owner, uint32_t file, uint64_t pgoff, const mpol_t *pol) noexcept nogil:
    """Merge [start, end), which is about to get these properties, into neighbours that have them.

    The range is a hole, a whole VMA or one end of a VMA.  ``prev`` is the VMA before it, or the one whose upper end it is.
    ``owner`` is the VMA whose pages the range has or gets; NULL when it extends ``prev`` into a hole.  Return the VMA that
    now covers the range; NULL: not merged.
    """
    cdef machine_t *m = c.m
    cdef uint32_t slot = vma_slot(m, mm, prev.end) if prev != NULL else 0
    cdef vma_t *mid = vma_at(m, mm, slot)
    cdef vma_t *next = mid
    cdef bint after, before
    if flags & VM_SPECIAL or (prev != NULL and prev.end > start and prev.ops) or \
            (mid != NULL and mid.start < end and mid.ops):      # a VMA with vm_ops never merges
        return NULL
    if mid != NULL and mid.end == end:
        next = vma_at(m, mm, slot + 1)
    after = prev != NULL and prev.end == start and mpol_equal(&prev.pol, pol) \
        and can_vma_merge_after(m, prev, flags, anon_vma, owner, file, pgoff)
    before = next != NULL and next.start == end and mpol_equal(pol, &next.pol) \
        and can_vma_merge_before(m, next, flags, anon_vma, owner, file, pgoff + (end - start))
    if after and before and are_anon_vmas_compatible(prev, next):
        if vma_absorb(c, mm, prev, prev.start, next.end, mid, next if next != mid else NULL):
            return NULL
        return prev
    if after:
        return merge_into_prev(c, mm, prev, mid, end)
    if before:
        return merge_into_next(c, mm, prev, mid, next, start)
    return NULL


cdef vma_t *vma_modify(
        ctx_t *c, mm_t *mm, vma_t *prev, vma_t *vma, uint64_t start, uint64_t end, uint32_t flags, const mpol_t *pol,
        int *err) noexcept nogil:
    """Merge or split off [start, end) of ``vma``, which is about to get ``flags`` and ``pol``.  The caller sets them."""
    cdef vma_t *merged = vma_merge(
        c, mm, prev, start, end, flags, vma.anon_vma, vma, vma.file, vma.pgoff + (start - vma.start), pol)
    err[0] = 0
    if merged != NULL:
        return merged
    if start != vma.start:
        err[0] = split_vma(c, mm, vma, start, True)
    if err[0] == 0 and end != vma.end:
        err[0] = split_vma(c, mm, vma, end, False)
    return vma


# -- munmap --------------------------------------------------------------------------------------------------------


cdef bint unmap_vma(ctx_t *c, mm_t *mm, vma_t *vma, uint32_t how) noexcept nogil:
    """Zap a VMA and stop counting it.  A call that stops half-way splits it there, and the rest stays."""
    cdef uint64_t at = zap_page_range(c, mm, vma, vma.start, vma.end, how)
    if at < vma.end and (at == vma.start or do_split(c, mm, vma, at, False)):
        return False
    pmg_store(&mm.total_vm, mm.total_vm - (vma.end - vma.start))
    if vma.flags & VM_LOCKED:
        pmg_store(&mm.locked_vm, mm.locked_vm - (vma.end - vma.start))
    return True


cdef int unmap_region(
        ctx_t *c, mm_t *mm, uint32_t first, uint32_t n, bint exits, bint may_stop) noexcept nogil:
    """Remove whole VMAs: their pages, their places in the reverse maps, then the tables that nothing else needs.

    0, or -PMG_WAIT when the call must end and only the first of them were removed.
    """
    cdef machine_t *m = c.m
    cdef vma_t *prev = vma_at(m, mm, first - 1)
    cdef vma_t *next
    cdef uint64_t start = vma_at(m, mm, first).start, end = vma_at(m, mm, first + n - 1).end
    cdef uint32_t i, done = 0
    cdef uint32_t how = ZAP_EVEN_COWS | ZAP_MAY_STOP if may_stop else ZAP_EVEN_COWS
    cdef gather_t g
    tlb_gather_begin(c, &g, mm, 0 if exits else start, 0 if exits else end - start, PMG_F_EXIT if exits else PMG_F_UNMAP)
    while done < n and not (may_stop and c.signalled) and unmap_vma(c, mm, vma_at(m, mm, first + done), how):
        done += 1
    tlb_gather_end(c, &g)
    if done == 0:
        return -PMG_WAIT
    end = vma_at(m, mm, first + done - 1).end
    next = vma_at(m, mm, first + done)
    may_stop = may_stop and c.signalled != 0
    n = done
    for i in range(first, first + n):
        vma_unlink(c, vma_at(m, mm, i))
    free_pgtables(c, mm, start, end, prev.end if prev != NULL else 0, next.start if next != NULL else NO_CEILING)
    for i in range(first, first + n):
        vma_free(c, vma_at(m, mm, i))
    vec_cut(m, &mm.vmas, first, n)
    return -PMG_WAIT if may_stop else 0


cdef int do_munmap(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, bint may_stop) noexcept nogil:
    """Unmap a range: 0, -EINVAL, -ENOMEM, or (``may_stop``) -PMG_WAIT with the first part of the range unmapped."""
    cdef machine_t *m = c.m
    cdef uint32_t first = vma_slot(m, mm, start), last
    cdef vma_t *vma = vma_at(m, mm, first)
    if end > TASK_SIZE_PAGES or end <= start:
        return -EINVAL
    if vma == NULL or vma.start >= end:
        return 0
    if vma.start < start:
        # Unmapping the middle of a VMA makes one more; only that is refused at the limit.
        if end < vma.end and mm.vmas.n >= DEF_MAX_MAP_COUNT:
            return -ENOMEM
        if do_split(c, mm, vma, start, False):
            return -ENOMEM
        first += 1
    last = vma_slot(m, mm, end - 1)
    vma = vma_at(m, mm, last)
    if vma != NULL and vma.start < end:
        if vma.end > end and do_split(c, mm, vma, end, True):
            return -ENOMEM
        last += 1
    return unmap_region(c, mm, first, last - first, False, may_stop) if last > first else 0


cdef int64_t pmg_sys_munmap(ctx_t *c, uint64_t start, uint64_t length, uint32_t *rule) noexcept nogil:
    cdef uint32_t mm = c.mm
    cdef int err
    if start & 4095:
        return refuse(EINVAL, RULE_UNALIGNED, rule)
    if length == 0:
        return refuse(EINVAL, RULE_LENGTH, rule)
    if length > TASK_SIZE_PAGES << 12:                      # do_munmap checks the rest
        return refuse(EINVAL, RULE_RANGE_WRAPS, rule)
    if mmap_write_lock(c, mm):
        return -PMG_WAIT
    err = do_munmap(c, mm_of(c.m, mm), start >> 12, (start + page_align(length)) >> 12, True)
    mmap_write_unlock(c, mm)
    return err


# -- mmap ------------------------------------------------------------------------------------------------------------


cdef uint64_t unmapped_area(machine_t *m, mm_t *mm, uint64_t n) noexcept nogil:
    """Find the highest gap of ``n`` pages below MMAP_BASE; 0 when there is none."""
    cdef uint64_t ceiling = MMAP_BASE
    cdef uint32_t i = mm.vmas.n
    cdef vma_t *vma
    while i:
        i -= 1
        vma = vma_at(m, mm, i)
        if vma.end <= ceiling and ceiling - vma.end >= n:
            return ceiling - n
        ceiling = min(ceiling, vma.start)
    return ceiling - n if ceiling >= MMAP_MIN + n else 0


cdef int64_t get_unmapped_area(machine_t *m, mm_t *mm, uint64_t addr, uint64_t n, bint fixed) noexcept nogil:
    """Find room for ``n`` pages: at ``addr`` (bytes) if fixed or free there, else anywhere.  First page or -errno."""
    cdef uint64_t vpn = addr >> 12
    if n > MAX_INDEX_PAGES:
        return -ENOMEM
    if fixed:
        if addr > (TASK_SIZE_PAGES - n) << 12:
            return -ENOMEM
        return -EINVAL if addr & 4095 else <int64_t> vpn
    if vpn:
        vpn = max(vpn, MMAP_MIN)
        if vpn <= TASK_SIZE_PAGES - n and range_is_free(m, mm, vpn, vpn + n):
            return <int64_t> vpn
    vpn = unmapped_area(m, mm, n)
    return <int64_t> vpn if vpn else -ENOMEM


cdef vma_t *mmap_expand(
        ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, uint32_t flags, uint32_t file,
        uint64_t pgoff) noexcept nogil:
    """Extend the neighbours of a new mapping over it; NULL when they do not fit.

    If both fit but not each other: through 6.11 ``next`` takes it, and ``prev`` must fit the anon_vma of ``next``.
    """
    cdef machine_t *m = c.m
    cdef uint32_t slot = vma_slot(m, mm, start)
    cdef vma_t *next = vma_at(m, mm, slot)
    cdef vma_t *prev = vma_at(m, mm, slot - 1)
    cdef int err
    if next == NULL or next.start != end or next.pol.mode != MPOL_DEFAULT \
            or not can_vma_merge_before(m, next, flags, 0, NULL, file, pgoff + (end - start)):
        next = NULL
    if prev == NULL or prev.end != start or prev.pol.mode != MPOL_DEFAULT \
            or not can_vma_merge_after(m, prev, flags, 0, NULL, file, pgoff):
        prev = NULL
    if prev != NULL and next != NULL:
        if m.profile.mmap_joins_left:
            if not are_anon_vmas_compatible(prev, next):
                next = NULL
        elif not is_mergeable_anon_vma(m, next.anon_vma, NULL, prev):
            prev = NULL
    if prev != NULL:
        err = vma_absorb(c, mm, prev, prev.start, next.end if next != NULL else end, next, NULL)
        return NULL if err else prev
    if next == NULL or vma_absorb(c, mm, next, start, next.end, NULL, NULL):
        return NULL
    return next


cdef int mmap_new(
        ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, uint32_t flags, uint32_t file,
        uint64_t pgoff) noexcept nogil:
    cdef vma_t *vma = vma_alloc(c.m, mm, start, end, flags, pgoff)
    cdef uint32_t shmem = 0
    cdef int err
    if vma == NULL:
        return -ENOMEM
    if not file and flags & VM_SHARED:
        shmem = file_new(c, FILE_SHMEM, end - start, 0)
        if not shmem:
            vma_free(c, vma)
            return -ENOMEM
    vma.file = shmem or file
    err = vma_link(c, mm, vma, vma_slot(c.m, mm, start))
    if shmem:
        file_put(c, shmem)          # only the mapping keeps it alive
    return err


cdef int mmap_region(
        ctx_t *c, mm_t *mm, uint64_t start, uint64_t n, uint32_t flags, uint32_t file, uint64_t pgoff) noexcept nogil:
    cdef uint64_t end = start + n
    cdef int err = do_munmap(c, mm, start, end, True)
    if err:
        return err
    if (flags & (VM_NORESERVE | VM_SHARED | VM_WRITE)) == VM_WRITE:
        flags |= VM_ACCOUNT
    if file or flags & VM_SHARED:
        kernel_memory(c, 1 if file else 1 + SHMEM_OBJECTS)      # allocated even if the mapping then merges
    if mmap_expand(c, mm, start, end, flags, file, pgoff) == NULL:
        kernel_memory(c, not file and not flags & VM_SHARED)
        err = mmap_new(c, mm, start, end, flags, file, pgoff)
        if err:
            return err
    pmg_store(&mm.total_vm, mm.total_vm + n)
    if flags & VM_LOCKED:
        pmg_store(&mm.locked_vm, mm.locked_vm + n)
    return 0


cdef int64_t mmap_flags(task_t *t, mm_t *mm, uint64_t n, uint32_t prot, uint32_t flags) noexcept nogil:
    """Compute VM_* of a new mapping, or -errno: the kernel's checks after the choice of the address."""
    cdef uint32_t vm = (prot & VM_ACCESS_FLAGS) | mm.def_flags | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    if flags & MAP_LOCKED:
        vm |= VM_LOCKED
        if not can_do_mlock(t):
            return -EPERM
    if vm & VM_LOCKED and over_memlock(t, mm.locked_vm + n):
        return -EAGAIN
    if flags & MAP_TYPE == MAP_SHARED or flags & MAP_TYPE == MAP_SHARED_VALIDATE:
        vm |= VM_SHARED | VM_MAYSHARE
    elif flags & MAP_TYPE != MAP_PRIVATE:
        return -EINVAL
    if flags & MAP_NORESERVE:
        vm |= VM_NORESERVE
    return vm


cdef int64_t do_mmap(
        ctx_t *c, task_t *t, mm_t *mm, uint64_t addr, uint64_t n, uint32_t prot, uint32_t flags, uint32_t file,
        uint64_t pgoff, uint32_t *populate) noexcept nogil:
    """Map ``n`` pages: the first page of the new mapping or -errno."""
    cdef int64_t start, vm
    cdef int err
    if mm.vmas.n > DEF_MAX_MAP_COUNT:
        return -ENOMEM
    start = get_unmapped_area(c.m, mm, addr, n, (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0)
    if start < 0:
        return start
    if flags & MAP_FIXED_NOREPLACE and not range_is_free(c.m, mm, start, start + n):
        return -EEXIST
    vm = mmap_flags(t, mm, n, prot, flags)
    if vm < 0:
        return vm
    if not file:
        # A private page's offset is its address, so that neighbours mapped separately can merge.
        pgoff = 0 if vm & VM_SHARED else <uint64_t> start
    err = mmap_region(c, mm, start, n, <uint32_t> vm, file, pgoff)
    if err:
        return err
    if vm & VM_LOCKED:
        if c.m.profile.mlock_populates:
            make_pages_present(c, mm, start, start + n)
        else:
            populate[0] = POPULATE_ALL
    if flags & MAP_POPULATE and (c.m.profile.populate_shared or not flags & MAP_NONBLOCK):
        populate[0] = POPULATE_OBJECT if c.m.profile.populate_shared else POPULATE_ALL
    return start


cdef int populate_pages(ctx_t *c, uint32_t mm, uint64_t start, uint64_t end, bint ignore_errors) noexcept nogil:
    cdef int err
    if mmap_read_lock(c, mm):
        return -PMG_WAIT
    err = mm_populate(c, mm_of(c.m, mm), start, end, ignore_errors)
    mmap_read_unlock(c, mm)
    return err


cdef int64_t mmap_refused(int64_t err, uint64_t addr, uint32_t flags, uint32_t *rule) noexcept nogil:
    """Name the rule behind the errno of do_mmap, where it can only be one."""
    if err == -EEXIST:
        return refuse(EEXIST, RULE_OCCUPIED, rule)
    if err == -EAGAIN:
        return refuse(EAGAIN, RULE_MEMLOCK, rule)
    if err == -EINVAL and flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) and addr & 4095:
        return refuse(EINVAL, RULE_UNALIGNED, rule)
    return err


cdef int64_t pmg_sys_mmap(
        ctx_t *c, uint64_t addr, uint64_t length, uint32_t prot, uint32_t flags, uint32_t file, uint64_t offset,
        uint32_t *rule) noexcept nogil:
    cdef uint32_t mm = c.mm
    cdef uint64_t n = page_align(length) >> 12, pgoff = offset >> 12
    cdef uint32_t populate = 0
    cdef int64_t start
    if offset & 4095:
        return refuse(EINVAL, RULE_OFFSET, rule)
    if length == 0:
        return refuse(EINVAL, RULE_LENGTH, rule)
    if n == 0:
        return refuse(ENOMEM, RULE_NO_ROOM, rule)
    if flags & MAP_HUGETLB:
        return refuse(ENOMEM, RULE_HUGETLB, rule)
    if pgoff + n < pgoff or (file and pgoff + n > MAX_INDEX_PAGES):     # s_maxbytes of ext4
        return refuse(EOVERFLOW, RULE_FILE_RANGE, rule)
    if mmap_write_lock(c, mm):
        return -PMG_WAIT
    start = do_mmap(c, task_of(c.m, c.task), mm_of(c.m, mm), addr, n, prot, flags, file, pgoff, &populate)
    mmap_write_unlock(c, mm)
    if start < 0:
        return mmap_refused(start, addr, flags, rule)
    # Errors are ignored: faults bring in the rest.
    if populate == POPULATE_ALL:
        populate_pages(c, mm, start, start + n, True)
    elif populate and mmap_read_lock(c, mm) == 0:
        populate_object(c, mm_of(c.m, mm), start, start + n)
        mmap_read_unlock(c, mm)
    return start << 12


# -- mprotect --------------------------------------------------------------------------------------------------------


cdef bint can_change_pte_writable(machine_t *m, vma_t *vma, pte_t pte) noexcept nogil:
    """Whether a write fault would only set the write bit: for a dirty page of a shared file or an exclusive one."""
    if not pte_dirty(pte):
        return False
    if vma.flags & VM_SHARED:
        return True
    return not pte & PTE_SPECIAL and page_test(m, <uint32_t> pte_pfn(pte), PG_anon) \
        and page_test(m, <uint32_t> pte_pfn(pte), PG_anon_exclusive)


cdef inline bint change_pte(machine_t *m, vma_t *vma, pte_t *p, pte_t prot) noexcept nogil:
    """Change one entry in place, under its table's lock; True when a TLB may hold the old one."""
    cdef pte_t pte = pmg_load(p), new
    if pte_present(pte):
        new = (pte & ~PTE_PROT_BITS) | prot
        if not m.profile.mprotect_keeps:
            new |= PTE_A
        elif vma.flags & VM_WRITE and not pte_write(new) and can_change_pte_writable(m, vma, new):
            new |= PTE_RW
        pmg_store_rel(p, new)
        return True
    if is_writable_migration_entry(pte) and PMG_GUARD(GUARD_MPROTECT_ENTRY):
        # A fault decides later whether it may be written again.
        if page_test(m, migration_entry_to_pfn(pte), PG_anon) and not m.profile.plain_entries:
            pmg_store_rel(p, migration_entry_set_type(pte, SWP_MIGRATION_READ_EXCLUSIVE))
        else:
            pmg_store_rel(p, migration_entry_set_type(pte, SWP_MIGRATION_READ))
    return False


cdef uint64_t change_protection(
        ctx_t *c, mm_t *mm, vma_t *vma, uint64_t start, uint64_t end, bint may_stop) noexcept nogil:
    """Change the entries of a range; return where it stopped: ``end``, or before it if the call must end."""
    cdef machine_t *m = c.m
    cdef pte_t prot = vma_pte(m, vma, 0) & PTE_PROT_BITS
    cdef pagewalk_t w
    cdef pte_t *entry
    cdef uint64_t i
    cdef bint flush = False
    pagewalk_start(&w, m, mm, start, end)
    while pagewalk_next(&w):
        pte_lock(c, w.leaf)
        entry = leaf_pte(m, w.leaf, w.vpn)
        for i in range(w.stop - w.vpn):
            flush |= change_pte(m, vma, entry + i, prot)
        pte_unlock(c, w.leaf)
        if may_stop and w.stop < end and signal_pending(c, PTRS_PER_PTE):
            end = w.stop
            break
    count_event(c, C_TLB_FLUSH, flush)
    if flush:
        flush_tlb(c, vma.mm, start, end - start, PMG_F_PROTECT)
    return end


cdef int keep_protection(ctx_t *c, mm_t *mm, uint64_t at, uint64_t end, uint32_t flags) noexcept nogil:
    """Split off pages from ``at`` on, which keep their protection since the call must end.  0 or -ENOMEM."""
    cdef vma_t *vma = vma_lookup(c.m, mm, at)
    if at > vma.start and split_vma(c, mm, vma, at, False):
        return -ENOMEM
    vma = vma_lookup(c.m, mm, at)
    if end < vma.end and split_vma(c, mm, vma, end, False):
        return -ENOMEM
    pmg_store32(&vma.flags, flags)
    return 0


cdef int mprotect_fixup(
        ctx_t *c, mm_t *mm, vma_t **prev, vma_t *vma, uint64_t start, uint64_t end, uint32_t newflags) noexcept nogil:
    cdef uint32_t oldflags = vma.flags
    cdef int err = 0
    if newflags == oldflags:
        prev[0] = vma
        return 0
    if newflags & VM_WRITE:
        if not oldflags & (VM_ACCOUNT | VM_WRITE | VM_SHARED | VM_NORESERVE):
            newflags |= VM_ACCOUNT
    elif c.m.profile.mprotect_unaccounts and not vma.file and not vma.anon_vma:
        newflags &= ~VM_ACCOUNT
    vma = vma_modify(c, mm, prev[0], vma, start, end, newflags, &vma.pol, &err)
    prev[0] = vma
    if err:
        return err
    pmg_store32(&vma.flags, newflags)
    start = change_protection(c, mm, vma, start, end, True)
    if start < end:
        if keep_protection(c, mm, start, end, oldflags) == 0:
            return -PMG_WAIT
        change_protection(c, mm, vma_lookup(c.m, mm, start), start, end, False)
    if (oldflags & (VM_WRITE | VM_SHARED | VM_LOCKED)) == VM_LOCKED and newflags & VM_WRITE and not c.m.profile.mlock_populates:
        mm_populate(c, mm, start, end, True)        # mlocked memory breaks copy-on-write at once
    return 0


cdef int do_mprotect(
        ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, uint32_t prot, uint32_t *rule) noexcept nogil:
    cdef machine_t *m = c.m
    cdef vma_t *prev = NULL
    cdef vma_t *vma = find_vma_prev(m, mm, start, &prev)
    cdef uint32_t newflags
    cdef int err
    while vma != NULL and vma.start <= start:
        newflags = (vma.flags & ~VM_ACCESS_FLAGS) | (prot & VM_ACCESS_FLAGS)
        if newflags & ~(newflags >> 4) & VM_ACCESS_FLAGS:
            return -EACCES
        err = mprotect_fixup(c, mm, &prev, vma, start, min(end, vma.end), newflags)
        if err:
            return err
        start = prev.end
        if start >= end:
            return 0
        vma = vma_after(m, mm, prev)
    return refuse(ENOMEM, RULE_HOLE, rule)


cdef int64_t pmg_sys_mprotect(
        ctx_t *c, uint64_t start, uint64_t length, uint32_t prot, uint32_t *rule) noexcept nogil:
    cdef uint32_t mm = c.mm
    cdef int err
    if start & 4095:
        return refuse(EINVAL, RULE_UNALIGNED, rule)
    if length == 0:
        return 0
    length = page_align(length)
    if start + length <= start:
        return refuse(ENOMEM, RULE_RANGE_WRAPS, rule)
    if prot & ~<uint32_t> PROT_ALL:
        return refuse(EINVAL, RULE_PROT, rule)
    if mmap_write_lock(c, mm):
        return -PMG_WAIT
    err = do_mprotect(c, mm_of(c.m, mm), start >> 12, (start + length) >> 12, prot, rule)
    mmap_write_unlock(c, mm)
    return err


# -- mremap ------------------------------------------------------------------------------------------------------------


cdef void move_stats(machine_t *m, uint32_t old_leaf, uint64_t old, uint32_t new_leaf, uint64_t new) noexcept nogil:
    """Move access counts along with their page."""
    cdef uint64_t a = stats_index(old_leaf, old), b = stats_index(new_leaf, new)
    cdef uint32_t nid, slot
    cdef uint32_t *row
    for slot in range(pmg_load32(&m.stats_slots)):
        for nid in range(m.nr_nodes):
            row = stats_rows(m, slot, nid)
            row[b] = row[a]
            row[a] = 0


cdef void lock_two_leaves(ctx_t *c, uint32_t a, uint32_t b) noexcept nogil:
    pte_lock(c, min(a, b))
    if a != b:
        pte_lock(c, max(a, b))


cdef void move_ptes(
        ctx_t *c, uint32_t mm, uint32_t old_leaf, uint64_t old, uint32_t new_leaf, uint64_t new, uint64_t n) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint64_t i
    cdef pte_t pte
    cdef bint flush = False
    lock_two_leaves(c, old_leaf, new_leaf)
    for i in range(n):
        pte = pmg_load(leaf_pte(m, old_leaf, old + i))
        if pte == 0:
            continue
        flush |= pte_present(pte)
        set_pte(m, old_leaf, old + i, 0)
        set_pte(m, new_leaf, new + i, pte)
        if m.stats != NULL:
            move_stats(m, old_leaf, old + i, new_leaf, new + i)
    pte_unlock(c, old_leaf)
    if new_leaf != old_leaf:
        pte_unlock(c, new_leaf)
    count_event(c, C_TLB_FLUSH, flush)
    if flush:
        flush_tlb(c, mm, old, n, PMG_F_REMAP)


cdef uint64_t move_page_tables(
        ctx_t *c, mm_t *mm, vma_t *vma, uint64_t old, uint64_t new, uint64_t n, bint may_stop) noexcept nogil:
    """Move the entries of ``n`` pages of ``vma``; return how many were moved: fewer if tables ran out or the call must end.

    Both places are in the same trees.  Under their locks, no walk that restores migration entries can visit the new place
    before an entry arrives and the old place after it left.
    """
    cdef uint64_t done = 0, extent
    cdef uint32_t old_leaf, new_leaf
    while done < n:
        extent = min(leaf_end(old + done) - old, leaf_end(new + done) - new)
        extent = min(n, extent) - done
        old_leaf = walk_leaf(c.m, mm.pgd, old + done)
        if old_leaf:
            new_leaf = pte_alloc(c, mm, new + done)
            if not new_leaf:
                break
            vma_trees_remove(c, vma)
            move_ptes(c, vma.mm, old_leaf, old + done, new_leaf, new + done, extent)
            vma_trees_insert(c, vma)
        done += extent
        if may_stop and done < n and signal_pending(c, PTRS_PER_PTE):
            break
    return done


cdef vma_t *copy_vma(ctx_t *c, mm_t *mm, vma_t **from_, uint64_t addr, uint64_t n, uint64_t pgoff) noexcept nogil:
    """Make or find the VMA that takes the pages of ``*from_`` at ``addr``.

    Anonymous memory without pages gets the offset of its new address, so that it may merge there, even with the VMA it
    comes from: then ``*from_`` becomes the merged one.
    """
    cdef machine_t *m = c.m
    cdef vma_t *vma = from_[0]
    cdef vma_t *prev = NULL
    cdef vma_t *new
    cdef uint64_t start = vma.start
    if not vma.file and not vma.anon_vma:
        pgoff = addr
    find_vma_prev(m, mm, addr, &prev)
    new = NULL
    if vma.ops == 0:
        new = vma_merge(c, mm, prev, addr, addr + n, vma.flags, vma.anon_vma, vma, vma.file, pgoff, &vma.pol)
    if new != NULL:
        if new.start <= start < new.end:
            from_[0] = new
        return new
    new = vma_dup(c, vma)
    if new == NULL:
        return NULL
    new.start = addr
    new.end = addr + n
    new.pgoff = pgoff
    return NULL if vma_link_like(c, mm, new, vma, vma_slot(m, mm, addr)) else new


cdef void clear_vm_locked(ctx_t *c, mm_t *mm, vma_t *vma) noexcept nogil:
    """Clear VM_LOCKED of a mapping and munlock the pages that it still maps.

    MREMAP_DONTUNMAP of a part does so to the whole mapping.  The kernel leaves PG_mlocked on the remaining pages until they
    are freed; here every mlock count has a mapping that accounts for it.  The trees are locked as by mlock.
    """
    cdef uint32_t flags = vma.flags
    cdef pagewalk_t w
    cdef uint64_t vpn
    cdef pte_t pte
    vma_trees_lock(c, vma)
    pmg_store32(&vma.flags, flags & ~VM_LOCKED_MASK)
    pagewalk_start(&w, c.m, mm, vma.start, vma.end)
    while flags & VM_LOCKED and pagewalk_next(&w):
        pte_lock(c, w.leaf)
        for vpn in range(w.vpn, w.stop):
            pte = leaf_pte(c.m, w.leaf, vpn)[0]
            if pte_present(pte) and not pte & PTE_SPECIAL:
                munlock_vma_page(c, <uint32_t> pte_pfn(pte))
        pte_unlock(c, w.leaf)
    vma_trees_unlock(c, vma)


cdef uint64_t unlock_in_pieces(ctx_t *c, mm_t *mm, vma_t *vma) noexcept nogil:
    """clear_vm_locked() in pieces of AT_ONCE pages, which merge again.

    Return where it ended: before the mapping's end if the call must end.
    """
    cdef uint64_t end = vma.end
    cdef vma_t *piece = vma
    while True:
        if piece.end - piece.start > AT_ONCE and vma.ops == 0:
            split_vma(c, mm, piece, piece.start + AT_ONCE, False)       # without a record the rest is one piece
        clear_vm_locked(c, mm, piece)
        if piece != vma and vma_absorb(c, mm, vma, vma.start, piece.end, piece, NULL):
            vma = piece
        if vma.end == end or signal_pending(c, AT_ONCE):
            return vma.end
        piece = vma_after(c.m, mm, vma)


cdef bint unlock_left(ctx_t *c, mm_t *mm, vma_t *vma, uint64_t n, uint32_t flags) noexcept nogil:
    """Unlock a mapping of which MREMAP_DONTUNMAP has moved ``n`` pages.  False: the call must end, with the front unlocked."""
    cdef uint64_t start = vma.start, end = vma.end, stop = end
    if flags & VM_LOCKED:
        stop = unlock_in_pieces(c, mm, vma)
    else:
        clear_vm_locked(c, mm, vma)
    if stop < end:
        pmg_store(&mm.locked_vm, mm.locked_vm + n - (stop - start))
    elif flags & VM_LOCKED:                 # the kernel does not change locked_vm, as if the whole mapping had moved
        mm.locked_lost += end - start - n
    return stop == end


cdef bint keep_moved(
        ctx_t *c, mm_t *mm, uint64_t old, uint64_t new, uint64_t n, uint64_t moved, uint32_t vm, bint dontunmap) noexcept nogil:
    """End a call half-way: the first ``moved`` pages have moved, the rest stays.  False: no record for the split."""
    cdef uint64_t locked = n if vm & VM_LOCKED else 0
    pmg_store(&mm.total_vm, mm.total_vm + n)
    pmg_store(&mm.locked_vm, mm.locked_vm + locked)
    if do_munmap(c, mm, new + moved, new + n, False):
        pmg_store(&mm.total_vm, mm.total_vm - n)
        pmg_store(&mm.locked_vm, mm.locked_vm - locked)
        return False
    if not dontunmap:
        do_munmap(c, mm, old, old + moved, False)
    return True


cdef int64_t move_vma(
        ctx_t *c, mm_t *mm, vma_t *vma, uint64_t old, uint64_t old_n, uint64_t n, uint64_t new,
        uint32_t flags) noexcept nogil:
    """Move a mapping; return its new first page, -errno with nothing moved, or -PMG_WAIT with only the front moved."""
    cdef uint32_t vm = vma.flags
    cdef uint64_t moved
    cdef vma_t *new_vma
    if mm.vmas.n >= DEF_MAX_MAP_COUNT - 3:
        return -ENOMEM
    new_vma = copy_vma(c, mm, &vma, new, n, vma.pgoff + (old - vma.start))
    if new_vma == NULL:
        return -ENOMEM
    moved = move_page_tables(c, mm, vma, old, new, old_n, True)
    if moved < old_n and c.signalled:
        if keep_moved(c, mm, old, new, n, moved, vm, (flags & MREMAP_DONTUNMAP) != 0):
            return -PMG_WAIT
        moved += move_page_tables(c, mm, vma, old + moved, new + moved, old_n - moved, False)
    pmg_store(&mm.total_vm, mm.total_vm + n)
    if vm & VM_LOCKED and (moved < old_n or not flags & MREMAP_DONTUNMAP):
        pmg_store(&mm.locked_vm, mm.locked_vm + n)
    if moved < old_n:
        move_page_tables(c, mm, new_vma, new, old, moved, False)
        do_munmap(c, mm, new, new + n, False)
        return -ENOMEM
    if flags & MREMAP_DONTUNMAP:
        if not unlock_left(c, mm, vma, n, vm):
            return -PMG_WAIT
        if new_vma != vma and vma.start == old and vma.end == old + old_n:
            unlink_anon_vmas(c, vma)        # it has no pages left
        return <int64_t> new
    if old_n:                               # 0: a second view of a shared object
        do_munmap(c, mm, old, old + old_n, False)
    return <int64_t> new


cdef vma_t *vma_to_resize(
        ctx_t *c, task_t *t, mm_t *mm, uint64_t addr, uint64_t old_n, uint64_t new_n, uint32_t flags,
        int *err) noexcept nogil:
    cdef vma_t *vma = vma_lookup(c.m, mm, addr)
    cdef uint64_t pgoff
    err[0] = -EFAULT
    if vma == NULL:
        return NULL
    pgoff = vma.pgoff + (addr - vma.start)
    if old_n == 0 and not vma.flags & (VM_SHARED | VM_MAYSHARE) and not c.m.profile.mremap_adjusts:
        err[0] = -EINVAL
    elif flags & MREMAP_DONTUNMAP and vma.flags & (VM_DONTEXPAND | VM_PFNMAP):
        err[0] = -EINVAL
    elif old_n > vma.end - addr:
        err[0] = -EFAULT
    elif new_n == old_n:
        err[0] = 0
    elif pgoff + new_n < pgoff:
        err[0] = -EINVAL
    elif vma.flags & (VM_DONTEXPAND | VM_PFNMAP):
        err[0] = -EFAULT
    elif vma.flags & VM_LOCKED and over_memlock(t, mm.locked_vm + new_n - old_n):
        err[0] = -EAGAIN
    else:
        err[0] = 0
    return vma


cdef int mremap_place(mm_t *mm, uint64_t addr, uint64_t old_n, uint64_t new_addr, uint64_t new_n) noexcept nogil:
    """Check the target that the caller names (in bytes): 0 or -errno."""
    cdef uint64_t new = new_addr >> 12
    if new_addr & 4095 or new_n > TASK_SIZE_PAGES or new > TASK_SIZE_PAGES - new_n:
        return -EINVAL
    if addr + old_n > new and new + new_n > addr:
        return -EINVAL
    return -ENOMEM if mm.vmas.n + 2 >= DEF_MAX_MAP_COUNT - 3 else 0


cdef int64_t mremap_to(
        ctx_t *c, task_t *t, mm_t *mm, uint64_t addr, uint64_t old_n, uint64_t new_addr, uint64_t new_n,
        uint32_t flags) noexcept nogil:
    """Move to ``new_addr`` (bytes), which is only a hint with MREMAP_DONTUNMAP alone."""
    cdef uint64_t new = new_addr >> 12
    cdef vma_t *vma
    cdef int64_t place
    cdef int err = 0
    if not c.m.profile.mremap_many:
        err = mremap_place(mm, addr, old_n, new_addr, new_n)
        if err:
            return err
    # The target is unmapped first, even if the source turns out to be invalid afterwards (through 6.16).
    if flags & MREMAP_FIXED:
        err = do_munmap(c, mm, new, new + new_n, True)
    if err == 0 and old_n > new_n:
        err = do_munmap(c, mm, addr + new_n, addr + old_n, True)
        old_n = new_n
    if err:
        return err
    vma = vma_to_resize(c, t, mm, addr, old_n, new_n, flags, &err)
    if err:
        return err
    place = get_unmapped_area(c.m, mm, new_addr, new_n, (flags & MREMAP_FIXED) != 0)
    return place if place < 0 else move_vma(c, mm, vma, addr, old_n, new_n, <uint64_t> place, flags)


cdef bint vma_expandable(machine_t *m, mm_t *mm, vma_t *vma, uint64_t delta) noexcept nogil:
    return vma.end + delta <= TASK_SIZE_PAGES and vma.end - vma.start + delta <= MAX_INDEX_PAGES and \
        range_is_free(m, mm, vma.end, vma.end + delta)


cdef int64_t mremap_grow(
        ctx_t *c, task_t *t, mm_t *mm, uint64_t addr, uint64_t old_n, uint64_t new_n, uint32_t flags) noexcept nogil:
    """Grow a range in place if the mapping ends with it and the room is free, else move it if that is allowed."""
    cdef int err = 0
    cdef vma_t *vma = vma_to_resize(c, t, mm, addr, old_n, new_n, flags, &err)
    cdef uint64_t delta = new_n - old_n
    cdef int64_t place
    if err:
        return err
    if old_n == vma.end - addr and vma_expandable(c.m, mm, vma, delta):
        if c.m.profile.mremap_adjusts:
            vma = NULL if vma_absorb(c, mm, vma, vma.start, vma.end + delta, NULL, NULL) else vma
        else:
            vma = vma_merge(c, mm, vma, vma.end, vma.end + delta, vma.flags, vma.anon_vma, NULL, vma.file,
                            vma.pgoff + (vma.end - vma.start), &vma.pol)
        if vma == NULL:
            return -ENOMEM
        pmg_store(&mm.total_vm, mm.total_vm + delta)
        if vma.flags & VM_LOCKED:
            pmg_store(&mm.locked_vm, mm.locked_vm + delta)
        return <int64_t> addr
    if not flags & MREMAP_MAYMOVE:
        return -ENOMEM
    place = get_unmapped_area(c.m, mm, 0, new_n, False)
    return place if place < 0 else move_vma(c, mm, vma, addr, old_n, new_n, <uint64_t> place, flags)


cdef inline bint vma_multi_allowed(machine_t *m, vma_t *vma) noexcept nogil:
    """Whether a VMA may be moved with others: not of ramfs, whose get_unmapped_area might ignore a fixed address."""
    return not vma.file or file_of(m, vma.file).kind != FILE_RAMFS


cdef int64_t remap_move(
        ctx_t *c, task_t *t, mm_t *mm, uint64_t start, uint64_t n, uint64_t new_addr, uint32_t flags) noexcept nogil:
    """Move a range VMA by VMA and keep the gaps between them; VMAs moved before an error stay moved."""
    cdef machine_t *m = c.m
    cdef uint64_t at = start, end = start + n, stop
    cdef int64_t moved
    cdef vma_t *vma = vma_lookup(m, mm, start)
    cdef int err = 0
    if vma == NULL:
        return -EFAULT
    while vma != NULL and vma.start < end:
        at = max(vma.start, start)
        stop = min(vma.end, end)
        if not vma_multi_allowed(m, vma) and (at != start or vma.end < end):
            return -EFAULT
        vma_to_resize(c, t, mm, at, stop - at, stop - at, flags, &err)
        if err:
            return err
        moved = mremap_to(c, t, mm, at, stop - at, new_addr + (at - start << 12), stop - at, flags)
        if moved < 0:
            return moved
        if stop >= end:                         # with DONTUNMAP the source is still mapped
            break
        vma = vma_at(m, mm, vma_slot(m, mm, stop))
    return <int64_t> (new_addr >> 12)


cdef int64_t mremap_checked(
        ctx_t *c, task_t *t, mm_t *mm, uint64_t addr, uint64_t old_n, uint64_t new_n, uint32_t flags,
        uint64_t new_addr) noexcept nogil:
    """Check as from 6.17 on: arguments before mappings, the source before the target.

    The new first page of a plain move, -errno, or CHECKED: continue as through 6.16.
    """
    cdef int err = 0
    cdef bint placed = (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0
    if new_n > TASK_SIZE_PAGES:
        return -EINVAL
    if placed:
        err = mremap_place(mm, addr, old_n, new_addr, new_n)
        if err:
            return err
    if flags & MREMAP_FIXED and old_n == new_n:
        return remap_move(c, t, mm, addr, new_n, new_addr, flags)
    if placed:
        # A range that shrinks may reach beyond its mapping.
        vma_to_resize(c, t, mm, addr, min(old_n, new_n), new_n, flags, &err)
    return err if err else CHECKED


cdef int64_t do_mremap(
        ctx_t *c, task_t *t, mm_t *mm, uint64_t addr, uint64_t old_n, uint64_t new_n, uint32_t flags,
        uint64_t new_addr) noexcept nogil:
    cdef int err
    cdef int64_t moved
    if c.m.profile.mremap_many:
        moved = mremap_checked(c, t, mm, addr, old_n, new_n, flags, new_addr)
        if moved != CHECKED:
            return moved
    if vma_lookup(c.m, mm, addr) == NULL and not c.m.profile.mremap_adjusts:
        return -EFAULT
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return mremap_to(c, t, mm, addr, old_n, new_addr, new_n, flags)
    if old_n > new_n:
        err = do_munmap(c, mm, addr + new_n, addr + old_n, True)
        return err if err else <int64_t> addr
    if old_n == new_n:
        return <int64_t> addr
    return mremap_grow(c, t, mm, addr, old_n, new_n, flags)


cdef int64_t mremap_refused(
        ctx_t *c, uint64_t old, uint64_t old_len, uint64_t new_len, uint32_t flags, uint32_t *rule) noexcept nogil:
    """``check_mremap_params``: check what needs no mapping; 0 or -errno."""
    if flags & ~<uint32_t> (MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP):
        return refuse(EINVAL, RULE_MREMAP_FLAGS, rule)
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) and not flags & MREMAP_MAYMOVE:
        return refuse(EINVAL, RULE_MREMAP_MAYMOVE, rule)
    if flags & MREMAP_DONTUNMAP and c.m.profile.mremap_adjusts:
        return refuse(EINVAL, RULE_DONTUNMAP, rule)
    if flags & MREMAP_DONTUNMAP and old_len != new_len:
        return refuse(EINVAL, RULE_DONTUNMAP_LENGTH, rule)
    if old & 4095:
        return refuse(EINVAL, RULE_UNALIGNED, rule)
    return refuse(EINVAL, RULE_LENGTH, rule) if page_align(new_len) == 0 else 0


cdef int64_t pmg_sys_mremap(
        ctx_t *c, uint64_t old, uint64_t old_len, uint64_t new_len, uint32_t flags, uint64_t new_addr,
        uint32_t *rule) noexcept nogil:
    cdef uint32_t mm = c.mm
    cdef uint64_t old_n = page_align(old_len) >> 12, new_n = page_align(new_len) >> 12
    cdef int64_t vpn = mremap_refused(c, old, old_len, new_len, flags, rule)
    cdef bint locked
    cdef vma_t *vma
    if vpn:
        return vpn
    if mmap_write_lock(c, mm):
        return -PMG_WAIT
    vpn = do_mremap(c, task_of(c.m, c.task), mm_of(c.m, mm), old >> 12, old_n, new_n, flags, new_addr)
    vma = vma_lookup(c.m, mm_of(c.m, mm), <uint64_t> vpn) if vpn >= 0 else NULL
    locked = vma != NULL and vma.flags & VM_LOCKED
    mmap_write_unlock(c, mm)
    if vpn < 0:
        return vpn
    if locked and new_n > old_n and c.m.profile.mlock_populates:
        if mmap_read_lock(c, mm) == 0:
            make_pages_present(c, mm_of(c.m, mm), <uint64_t> vpn + old_n, <uint64_t> vpn + new_n)
            mmap_read_unlock(c, mm)
    elif locked and new_n > old_n:
        populate_pages(c, mm, <uint64_t> vpn + old_n, <uint64_t> vpn + new_n, True)
    return vpn << 12


# -- policies of ranges ----------------------------------------------------------------------------------------


cdef int vma_replace_policy(ctx_t *c, vma_t *vma, const mpol_t *pol) noexcept nogil:
    """Set the policy of a VMA and, for shmem, of the range of the object that it maps."""
    cdef file_t *f
    cdef int err = 0
    if vma.file:
        f = file_of(c.m, vma.file)
        if f.kind == FILE_SHMEM:
            err = mpol_set_shared_policy(c.m, f, vma.pgoff, vma.pgoff + (vma.end - vma.start), pol)
    if err == 0:
        vma.pol = pol[0]
    return err


cdef int mbind_split(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, const mpol_t *pol) noexcept nogil:
    """mbind_range through 2.6.33: policies are not compared and VMAs not merged."""
    cdef vma_t *vma = find_vma(c.m, mm, start)
    cdef int err = 0
    while vma != NULL and vma.start < end and err == 0:
        if vma.start < start:
            err = split_vma(c, mm, vma, start, True)
        if err == 0 and vma.end > end:
            err = split_vma(c, mm, vma, end, False)
        if err == 0:
            err = vma_replace_policy(c, vma, pol)
        vma = vma_after(c.m, mm, vma)
    return err


cdef int mbind_range(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, const mpol_t *pol) noexcept nogil:
    cdef vma_t *prev = NULL
    cdef vma_t *vma = find_vma_prev(c.m, mm, start, &prev)
    cdef int err = 0
    if c.m.profile.mbind_splits:
        return mbind_split(c, mm, start, end, pol)
    while vma != NULL and vma.start < end:
        if not mpol_equal(&vma.pol, pol):
            vma = vma_modify(c, mm, prev, vma, max(start, vma.start), min(end, vma.end), vma.flags, pol, &err)
            if err == 0:
                err = vma_replace_policy(c, vma, pol)
            if err:
                return err
        prev = vma
        vma = vma_after(c.m, mm, vma)
    return 0


cdef int set_home_node(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, int home_node) noexcept nogil:
    """Set the home node VMA by VMA; a VMA with an unsuitable policy ends it, those before keep the new node."""
    cdef vma_t *vma = vma_at(c.m, mm, vma_slot(c.m, mm, start))
    cdef int err = -ENOENT
    cdef uint64_t stop
    cdef mpol_t pol
    while start < end and vma != NULL and vma.start < end:
        stop = min(end, vma.end)
        pol = vma.pol
        if pol.mode != MPOL_DEFAULT:
            if pol.mode != MPOL_BIND and pol.mode != MPOL_PREFERRED_MANY:
                return -EOPNOTSUPP
            pol.home_node = home_node
            err = mbind_range(c, mm, max(start, vma.start), stop, &pol)
            if err:
                return err
        start = stop
        vma = vma_at(c.m, mm, vma_slot(c.m, mm, start))
    return err


cdef int home_node_range(ctx_t *c, uint64_t start, uint64_t length, uint32_t node) noexcept nogil:
    cdef int err
    if mmap_write_lock(c, c.mm):
        return -PMG_WAIT
    err = set_home_node(c, mm_of(c.m, c.mm), start >> 12, (start + length) >> 12, <int> node)
    mmap_write_unlock(c, c.mm)
    return err
