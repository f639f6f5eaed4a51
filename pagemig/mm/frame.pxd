"""The state word of a frame: locks, references, mapcounts; inline, no .pyx behind this file.

Who owns a reference: each present PTE 1, the page cache or swap cache 1, buffers (PG_private) 1, the isolation by a
migrator 1, a short pin 1, a long-term pin GUP_PIN_COUNTING_BIAS, a waiter that needs the frame to stay 1.
LRU membership, swap entries and migration entries own none.
"""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_add, pmg_and, pmg_cas, pmg_load, pmg_or, pmg_sub
from pagemig.mm.types cimport machine_t, MAP_LIMIT, PG_locked, REF_LIMIT, REF_MASK, REF_ONE


cdef inline uint64_t frame_refs(uint64_t state) noexcept nogil:
    return (state >> 20) & REF_MASK


cdef inline uint64_t frame_maps(uint64_t state) noexcept nogil:
    return state >> 44


cdef inline uint64_t page_state(machine_t *m, uint32_t pfn) noexcept nogil:
    return pmg_load(&m.frames[pfn].state)


cdef inline uint64_t page_count(machine_t *m, uint32_t pfn) noexcept nogil:
    return frame_refs(pmg_load(&m.frames[pfn].state))


cdef inline uint64_t page_mapcount(machine_t *m, uint32_t pfn) noexcept nogil:
    return frame_maps(pmg_load(&m.frames[pfn].state))


cdef inline bint page_test(machine_t *m, uint32_t pfn, uint64_t flag) noexcept nogil:
    return (pmg_load(&m.frames[pfn].state) & flag) != 0


cdef inline bint page_test_set(machine_t *m, uint32_t pfn, uint64_t flag) noexcept nogil:
    """Set ``flag``; True when it was set before."""
    return (pmg_or(&m.frames[pfn].state, flag) & flag) != 0


cdef inline bint page_test_clear(machine_t *m, uint32_t pfn, uint64_t flag) noexcept nogil:
    return (pmg_and(&m.frames[pfn].state, ~flag) & flag) != 0


cdef inline bint page_counts_full(machine_t *m, uint32_t pfn) noexcept nogil:
    """True when a count is near overflow and another reference or mapping must be refused (ENOMEM)."""
    cdef uint64_t s = pmg_load(&m.frames[pfn].state)
    return frame_refs(s) > REF_LIMIT or frame_maps(s) > MAP_LIMIT


cdef inline void get_page(machine_t *m, uint32_t pfn) noexcept nogil:
    pmg_add(&m.frames[pfn].state, REF_ONE)


cdef inline void page_ref_add(machine_t *m, uint32_t pfn, uint64_t n) noexcept nogil:
    pmg_add(&m.frames[pfn].state, n * REF_ONE)


cdef inline bint get_page_unless_zero(machine_t *m, uint32_t pfn) noexcept nogil:
    cdef uint64_t s = pmg_load(&m.frames[pfn].state)
    while frame_refs(s) != 0:
        if pmg_cas(&m.frames[pfn].state, s, s + REF_ONE):
            return True
        s = pmg_load(&m.frames[pfn].state)
    return False


cdef inline bint put_page_testzero(machine_t *m, uint32_t pfn, uint64_t n) noexcept nogil:
    """Drop ``n`` references; True when none is left and the caller must free the frame."""
    return frame_refs(pmg_sub(&m.frames[pfn].state, n * REF_ONE)) == 0


cdef inline bint trylock_page(machine_t *m, uint32_t pfn) noexcept nogil:
    return not (pmg_load(&m.frames[pfn].state) & PG_locked) and \
        not (pmg_or(&m.frames[pfn].state, PG_locked) & PG_locked)


cdef inline void unlock_page(machine_t *m, uint32_t pfn) noexcept nogil:
    pmg_and(&m.frames[pfn].state, ~PG_locked)


cdef inline bint page_maybe_dma_pinned(machine_t *m, uint32_t pfn) noexcept nogil:
    """A long-term pin may hold the page (false positives after very many references, as in Linux)."""
    return frame_refs(pmg_load(&m.frames[pfn].state)) >= 1024
