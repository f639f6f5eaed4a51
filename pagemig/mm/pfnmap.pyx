"""VM_PFNMAP: mappings of frames that a driver owns and that have no page struct; and vm_ops of a VMA.

Their entries have PTE_SPECIAL and are not in refcount, mapcount, page flags or reverse map, so that no migration finds
them.  Only the VMA's own ``migrate`` operation can move these frames: the purpose of the 2006 note's fifth patch.
"""
from libc.errno cimport EFAULT, EINVAL, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pagemig.mm.atomic cimport pmg_load, pmg_store, pmg_store_rel, pmg_xchg
from pagemig.mm.context cimport mmap_write_lock, mmap_write_unlock
from pagemig.mm.mmap cimport do_munmap, get_unmapped_area, vma_alloc, vma_link
from pagemig.mm.notify cimport flush_tlb, PMG_F_MIGRATE
from pagemig.mm.page_alloc cimport count_event, mm_of, page_address, page_to_nid
from pagemig.mm.pgtable cimport leaf_pte, pte_alloc, pte_lock, pte_unlock, set_pte, walk_leaf
from pagemig.mm.pte cimport pte_pfn, PTE_PFN_MASK, pte_present, PTE_SPECIAL, pte_t
from pagemig.mm.rules cimport refuse, RULE_LENGTH, RULE_NOTHING_THERE
from pagemig.mm.types cimport (
    C_TLB_FLUSH, ctx_t, DEF_MAX_MAP_COUNT, machine_t, mm_t, node_t, PMG_WAIT, VM_DONTCOPY, VM_DONTDUMP, VM_DONTEXPAND,
    VM_IO, VM_MAYREAD, VM_MAYSHARE, VM_MAYWRITE, VM_PFNMAP, VM_READ, VM_SHARED, VM_WRITE, vma_t,
)
from pagemig.mm.vma cimport page_prot, vma_lookup, vma_slot


cdef bint pfn_is_reserved(machine_t *m, uint64_t pfn) noexcept nogil:
    cdef node_t *node
    if pfn == 0 or pfn >= m.nr_frames:
        return False
    node = &m.node[page_to_nid(m, <uint32_t> pfn)]
    return pfn - node.first < node.reserved


cdef int remap_pfn_range(ctx_t *c, mm_t *mm, vma_t *vma, const uint32_t *pfns) noexcept nogil:
    """Map frame i at page i of a VMA that has no entries yet."""
    cdef machine_t *m = c.m
    cdef pte_t prot = page_prot(m, vma, vma.flags) | PTE_SPECIAL
    cdef uint64_t i
    cdef uint32_t leaf
    for i in range(vma.end - vma.start):
        leaf = pte_alloc(c, mm, vma.start + i)
        if not leaf:
            return -ENOMEM
        pte_lock(c, leaf)
        set_pte(m, leaf, vma.start + i, prot | <pte_t> pfns[i] << 12)
        pte_unlock(c, leaf)
    return 0


cdef int64_t mmap_pfns(ctx_t *c, mm_t *mm, const uint32_t *pfns, uint64_t n, uint32_t prot, uint32_t ops) noexcept nogil:
    cdef int64_t start = get_unmapped_area(c.m, mm, 0, n, False)
    cdef vma_t *vma
    cdef int err
    if start < 0:
        return start
    if mm.vmas.n > DEF_MAX_MAP_COUNT:
        return -ENOMEM
    vma = vma_alloc(
        c.m, mm, start, start + n, prot & (VM_READ | VM_WRITE) | VM_MAYREAD | VM_MAYWRITE | VM_SHARED | VM_MAYSHARE |
        VM_PFNMAP | VM_IO | VM_DONTEXPAND | VM_DONTCOPY | VM_DONTDUMP, start)
    if vma == NULL:
        return -ENOMEM
    vma.ops = ops
    err = vma_link(c, mm, vma, vma_slot(c.m, mm, start))
    if err:
        return err
    pmg_store(&mm.total_vm, mm.total_vm + n)
    if remap_pfn_range(c, mm, vma, pfns):
        do_munmap(c, mm, start, start + n, False)
        return -ENOMEM
    return start


cdef int64_t pmg_sys_mmap_pfns(
        ctx_t *c, const uint32_t *pfns, uint64_t n, uint32_t prot, uint32_t ops, uint32_t *rule) noexcept nogil:
    cdef int64_t start
    if n == 0:
        return refuse(EINVAL, RULE_LENGTH, rule)
    if mmap_write_lock(c, c.mm):
        return -PMG_WAIT
    start = mmap_pfns(c, mm_of(c.m, c.mm), pfns, n, prot, ops)
    mmap_write_unlock(c, c.mm)
    return start if start < 0 else start << 12


cdef int64_t pmg_sys_vm_ops(ctx_t *c, uint64_t addr, uint32_t ops, uint32_t *rule) noexcept nogil:
    cdef vma_t *vma
    if mmap_write_lock(c, c.mm):
        return -PMG_WAIT
    vma = vma_lookup(c.m, mm_of(c.m, c.mm), addr >> 12)
    if vma != NULL:
        vma.ops = ops
    mmap_write_unlock(c, c.mm)
    return 0 if vma != NULL else refuse(EFAULT, RULE_NOTHING_THERE, rule)


# -- for a migrate operation -------------------------------------------------------------------------------------


cdef void vma_frames(machine_t *m, vma_t *vma, uint64_t vpn, uint64_t n, int64_t *out) noexcept nogil:
    cdef uint64_t i
    cdef uint32_t leaf
    cdef pte_t pte
    for i in range(n):
        leaf = walk_leaf(m, mm_of(m, vma.mm).pgd, vpn + i)
        pte = pmg_load(leaf_pte(m, leaf, vpn + i)) if leaf else 0
        out[i] = <int64_t> pte_pfn(pte) if pte_present(pte) else -1


cdef void remap_one(ctx_t *c, uint32_t mm, uint32_t leaf, uint64_t vpn, uint32_t new) noexcept nogil:
    """Replace one frame.  The entry is empty during the copy: an access meanwhile faults and waits for the leaf's lock."""
    cdef machine_t *m = c.m
    cdef pte_t *p = leaf_pte(m, leaf, vpn)
    cdef pte_t old
    pte_lock(c, leaf)
    if pmg_load(p) & PTE_SPECIAL and pte_pfn(pmg_load(p)) != new:
        old = pmg_xchg(p, 0)
        count_event(c, C_TLB_FLUSH, 1)
        if m.page_bytes:
            memcpy(page_address(m, new), page_address(m, <uint32_t> pte_pfn(old)), m.page_bytes)
        pmg_store_rel(p, (old & ~PTE_PFN_MASK) | <pte_t> new << 12)
        flush_tlb(c, mm, vpn, 1, PMG_F_MIGRATE)
    pte_unlock(c, leaf)


cdef void remap_frames(ctx_t *c, vma_t *vma, uint64_t vpn, uint64_t n, const uint32_t *pfns) noexcept nogil:
    cdef uint64_t i
    cdef uint32_t leaf
    for i in range(n):
        leaf = walk_leaf(c.m, mm_of(c.m, vma.mm).pgd, vpn + i)
        if leaf:
            remap_one(c, vma.mm, leaf, vpn + i, pfns[i])
