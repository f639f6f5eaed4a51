"""Four-level page tables in the x86-64 layout: make and free.  Walking is inline in the ``.pxd``."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from pagemig.mm.atomic cimport pmg_load32, pmg_load_acq, pmg_store_rel
from pagemig.mm.mempolicy cimport kernel_memory
from pagemig.mm.page_alloc cimport slab_alloc, slab_free
from pagemig.mm.pte cimport pte_t, PTE_TABLE
from pagemig.mm.types cimport ctx_t, machine_t, mm_t, ptdesc_t, PTRS_PER_PTE, TASK_SIZE_PAGES


cdef uint32_t table_alloc(machine_t *m, uint32_t mm, uint32_t level, uint64_t vpn) noexcept nogil:
    """Allocate a table, empty because freed tables are; 0 when the pool is exhausted."""
    cdef uint32_t t = slab_alloc(&m.tables)
    cdef ptdesc_t *d
    if t:
        d = &m.ptdesc[t]
        d.level = level
        d.mm = mm
        d.vpn = vpn
    return t


cdef void table_free(machine_t *m, uint32_t t) noexcept nogil:
    cdef uint32_t nid, slot
    if m.stats != NULL and m.ptdesc[t].level == 1:
        for slot in range(pmg_load32(&m.stats_slots)):
            for nid in range(m.nr_nodes):
                memset(stats_rows(m, slot, nid) + stats_index(t, 0), 0, PTRS_PER_PTE * sizeof(uint32_t))
    slab_free(&m.tables, t)


cdef uint32_t pgd_alloc(ctx_t *c, uint32_t mm) noexcept nogil:
    return table_alloc(c.m, mm, 4, 0)


cdef uint32_t child_alloc(ctx_t *c, uint32_t parent, uint64_t vpn) noexcept nogil:
    """Get the table below ``parent`` that covers ``vpn``, and make it when absent.

    Faults of one mm run concurrently under mmap_lock for reading, so the entry is read again under the parent's lock.
    """
    cdef machine_t *m = c.m
    cdef uint32_t level = m.ptdesc[parent].level
    cdef uint64_t shift = level_shift(level)
    cdef pte_t *e = table_entries(m, parent) + pte_index(vpn >> shift)
    cdef uint32_t t = entry_table(m, pmg_load_acq(e))
    if t:
        return t
    pte_lock(c, parent)
    t = entry_table(m, e[0])
    if not t:
        kernel_memory(c, 1)
        t = table_alloc(m, m.ptdesc[parent].mm, level - 1, vpn & ~((<uint64_t> 1 << shift) - 1))
        if t:
            m.ptdesc[parent].used += 1
            pmg_store_rel(e, ((m.table_pfn + t) << 12) | PTE_TABLE)
    pte_unlock(c, parent)
    return t


cdef uint32_t pte_alloc(ctx_t *c, mm_t *mm, uint64_t vpn) noexcept nogil:
    cdef uint32_t t = mm.pgd
    cdef int _level
    for _level in range(3):
        t = child_alloc(c, t, vpn)
        if not t:
            return 0
    return t


cdef void free_range(
        ctx_t *c, uint32_t table, uint64_t start, uint64_t end, uint64_t floor, uint64_t ceiling) noexcept nogil:
    """Free the children of ``table`` that cover part of [start, end) and lie within [floor, ceiling)."""
    cdef machine_t *m = c.m
    cdef uint32_t level = m.ptdesc[table].level, t
    cdef uint64_t span = <uint64_t> 1 << level_shift(level)
    cdef uint64_t base = start & ~(span - 1)
    cdef pte_t *e
    while base < end:
        e = table_entries(m, table) + pte_index(base >> level_shift(level))
        t = entry_table(m, e[0])
        if t:
            if level > 2:
                free_range(c, t, max(start, base), min(end, base + span), floor, ceiling)
            if base >= floor and base + span <= ceiling and pmg_load32(&m.ptdesc[t].used) == 0:
                pmg_store_rel(e, 0)
                m.ptdesc[table].used -= 1
                table_free(m, t)
        base += span


cdef void free_pgtables(
        ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, uint64_t floor, uint64_t ceiling) noexcept nogil:
    if start < end:
        free_range(c, mm.pgd, start, end, floor, ceiling)


cdef void pgd_free(ctx_t *c, mm_t *mm) noexcept nogil:
    if mm.pgd:
        table_free(c.m, mm.pgd)
        mm.pgd = 0


cdef uint64_t next_leaf(machine_t *m, mm_t *mm, uint64_t vpn, uint64_t end, uint32_t *leaf) noexcept nogil:
    cdef uint32_t t, level
    cdef uint64_t span = PTRS_PER_PTE
    leaf[0] = 0
    while vpn < min(end, TASK_SIZE_PAGES):
        t = mm.pgd
        level = 4
        while level > 1:
            span = <uint64_t> 1 << level_shift(level)
            t = entry_table(m, pmg_load_acq(table_entries(m, t) + pte_index(vpn >> level_shift(level))))
            if not t:
                break
            level -= 1
        if t:
            leaf[0] = t
            return vpn
        vpn = (vpn | (span - 1)) + 1
    return end
