"""Four-level page tables in the x86-64 layout: walk, make, free.

A leaf table's lock (``ptdesc.lock``, the kernel's split page-table lock) guards its entries.  A leaf table is freed only
under mmap_lock for writing and after its VMA left every reverse map, so no walker can still be in it.
"""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_load_acq, pmg_spin_lock, pmg_spin_unlock, pmg_store32, pmg_store_rel
from pagemig.mm.page_alloc cimport count_event
from pagemig.mm.pte cimport PTE_P, PTE_PFN_MASK, pte_t
from pagemig.mm.types cimport (
    C_HOST_PTL_CONTENDED, C_LOCK_PTL, ctx_t, machine_t, mm_t, PTRS_PER_PTE, C_HOST_PTL,
)


cdef inline pte_t *table_entries(machine_t *m, uint32_t table) noexcept nogil:
    return m.pt + <uint64_t> table * PTRS_PER_PTE


cdef inline uint64_t pte_index(uint64_t vpn) noexcept nogil:
    """Index of a page's entry in its leaf table."""
    return vpn & (PTRS_PER_PTE - 1)


cdef inline uint64_t leaf_number(uint64_t vpn) noexcept nogil:
    """Number the leaf tables of an address space: pages with the same number share one."""
    return vpn // PTRS_PER_PTE


cdef inline uint64_t leaf_end(uint64_t vpn) noexcept nogil:
    """First page beyond the leaf table of ``vpn``."""
    return (vpn | (PTRS_PER_PTE - 1)) + 1


cdef inline uint64_t level_shift(uint32_t level) noexcept nogil:
    """Log2 of the pages that one entry of a table of ``level`` covers."""
    return 9 * (level - 1)


cdef inline uint64_t stats_index(uint32_t leaf, uint64_t vpn) noexcept nogil:
    """Index of a page's access count in a row of ``stats_rows``."""
    return <uint64_t> leaf * PTRS_PER_PTE + pte_index(vpn)


cdef inline uint32_t entry_table(machine_t *m, pte_t e) noexcept nogil:
    """Table a non-leaf entry points to, 0 when absent."""
    return <uint32_t> (((e & PTE_PFN_MASK) >> 12) - m.table_pfn) if e & PTE_P else 0


cdef inline uint32_t walk_leaf(machine_t *m, uint32_t pgd, uint64_t vpn) noexcept nogil:
    """Find the leaf table of a page; 0 when it has none.  No lock needed: see the module docstring."""
    cdef uint32_t t = pgd
    t = entry_table(m, pmg_load_acq(table_entries(m, t) + pte_index(vpn >> 27)))
    if t:
        t = entry_table(m, pmg_load_acq(table_entries(m, t) + pte_index(vpn >> 18)))
        if t:
            t = entry_table(m, pmg_load_acq(table_entries(m, t) + pte_index(vpn >> 9)))
    return t


cdef inline uint32_t *stats_rows(machine_t *m, uint32_t slot, uint32_t nid) noexcept nogil:
    """Access counts of one slot from one node, indexed by ``stats_index``."""
    return m.stats + (<uint64_t> slot * m.nr_nodes + nid) * m.tables.max * PTRS_PER_PTE


cdef inline pte_t *leaf_pte(machine_t *m, uint32_t leaf, uint64_t vpn) noexcept nogil:
    return table_entries(m, leaf) + pte_index(vpn)


cdef inline void pte_lock_uncounted(ctx_t *c, uint32_t leaf) noexcept nogil:
    """Lock without counting: the caller holds on to a lock that the kernel takes page by page, and counts it per page."""
    count_event(c, C_HOST_PTL, 1)
    count_event(c, C_HOST_PTL_CONTENDED, pmg_spin_lock(&c.m.ptdesc[leaf].lock))


cdef inline void pte_lock(ctx_t *c, uint32_t leaf) noexcept nogil:
    count_event(c, C_LOCK_PTL, 1)
    pte_lock_uncounted(c, leaf)


cdef inline void pte_unlock(ctx_t *c, uint32_t leaf) noexcept nogil:
    pmg_spin_unlock(&c.m.ptdesc[leaf].lock)


cdef inline pte_t read_pte(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil:
    """Read the entry of a page without a lock; 0 when it has no leaf table."""
    cdef uint32_t leaf = walk_leaf(m, mm.pgd, vpn)
    return pmg_load_acq(leaf_pte(m, leaf, vpn)) if leaf else 0


cdef inline void set_pte(machine_t *m, uint32_t leaf, uint64_t vpn, pte_t pte) noexcept nogil:
    """Store an entry with the leaf's lock held, and keep ``ptdesc.used`` exact."""
    cdef pte_t *p = leaf_pte(m, leaf, vpn)
    cdef uint32_t *used = &m.ptdesc[leaf].used
    pmg_store32(used, used[0] + <uint32_t> (pte != 0) - <uint32_t> (pmg_load_acq(p) != 0))
    pmg_store_rel(p, pte)

cdef uint32_t pgd_alloc(ctx_t *c, uint32_t mm) noexcept nogil                       # 0: ENOMEM
# leaf table of a page, made with the levels above it when absent; 0: ENOMEM.  mmap_lock held in either mode.
cdef uint32_t pte_alloc(ctx_t *c, mm_t *mm, uint64_t vpn) noexcept nogil
# free the tables that lie within [floor, ceiling) and cover part of [start, end); all their entries are zero.
cdef void free_pgtables(
        ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, uint64_t floor, uint64_t ceiling) noexcept nogil
cdef void pgd_free(ctx_t *c, mm_t *mm) noexcept nogil
# first page of [vpn, end) whose leaf table exists, or end: skips absent tables quickly
cdef uint64_t next_leaf(machine_t *m, mm_t *mm, uint64_t vpn, uint64_t end, uint32_t *leaf) noexcept nogil
