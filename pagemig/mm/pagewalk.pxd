"""Walk a range of an address space, one stretch of entries at a time, each within one leaf table.

::

    cdef pagewalk_t w
    pagewalk_start(&w, m, mm, start, end)
    while pagewalk_next(&w):
        pte_lock(c, w.leaf)
        for vpn in range(w.vpn, w.stop):
            pte = pmg_load(leaf_pte(m, w.leaf, vpn))
        pte_unlock(c, w.leaf)

Pages without a leaf table are skipped.  The caller holds mmap_lock and decides whether it needs the table's lock.  Every
operation on a range walks here, so larger pages would be introduced in this place.
"""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.pgtable cimport leaf_end, next_leaf
from pagemig.mm.types cimport machine_t, mm_t


ctypedef struct pagewalk_t:
    machine_t *m
    mm_t *mm
    uint64_t end                # of the range
    uint64_t vpn                # first page of the stretch
    uint64_t stop               # the page after its last
    uint32_t leaf               # its leaf table


cdef inline void pagewalk_start(pagewalk_t *w, machine_t *m, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil:
    w.m = m
    w.mm = mm
    w.end = end
    w.stop = start


cdef inline bint pagewalk_next(pagewalk_t *w) noexcept nogil:
    """Advance to the next stretch; False when the range is done."""
    w.vpn = next_leaf(w.m, w.mm, w.stop, w.end, &w.leaf)
    w.stop = min(w.end, leaf_end(w.vpn))
    return w.vpn < w.end
