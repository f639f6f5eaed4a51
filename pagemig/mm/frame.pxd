"""The state word of a frame: page lock, references, mapcount; all inline.

References on a frame: 1 for each present PTE, for the page cache or swap cache, for buffers (PG_private), for isolation by
a migrator, for a short pin, and for a waiter that needs the frame to stay; GUP_PIN_COUNTING_BIAS for a long-term pin.
LRU membership, swap entries and migration entries hold none.
"""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_add, pmg_and, pmg_cas, pmg_load, pmg_or, pmg_sub
from pagemig.mm.types cimport (
    GUP_PIN_COUNTING_BIAS, machine_t, MAP_LIMIT, MAP_MASK, MAP_ONE, MAP_SHIFT, PG_locked, REF_LIMIT, REF_MASK, REF_ONE,
    REF_SHIFT,
)


cdef inline uint64_t frame_refs(uint64_t state) noexcept nogil:
    return (state >> REF_SHIFT) & REF_MASK


cdef inline uint64_t frame_maps(uint64_t state) noexcept nogil:
    return (state >> MAP_SHIFT) & MAP_MASK


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


cdef inline bint page_try_get(machine_t *m, uint32_t pfn, uint64_t n) noexcept nogil:
    """Take ``n`` lasting references, such as a pin's; False, with none taken, if the count is full (ENOMEM)."""
    cdef uint64_t s = pmg_load(&m.frames[pfn].state)
    while frame_refs(s) + n <= REF_LIMIT:
        if pmg_cas(&m.frames[pfn].state, s, s + n * REF_ONE):
            return True
        s = pmg_load(&m.frames[pfn].state)
    return False


cdef inline bint page_try_map(machine_t *m, uint32_t pfn, uint64_t n) noexcept nogil:
    """Count a mapping and ``n`` references (0: the entry takes over the caller's); False if a count is full.

    Every mapping of a page that other entries may map too is counted here, except restored migration entries: they were
    counted before.
    """
    cdef uint64_t s = pmg_load(&m.frames[pfn].state)
    while frame_maps(s) < MAP_LIMIT and frame_refs(s) + n <= REF_LIMIT:
        if pmg_cas(&m.frames[pfn].state, s, s + MAP_ONE + n * REF_ONE):
            return True
        s = pmg_load(&m.frames[pfn].state)
    return False


cdef inline void get_page(machine_t *m, uint32_t pfn) noexcept nogil:
    """Take a reference for the length of a call: there is room for those above the limit of lasting ones."""
    pmg_add(&m.frames[pfn].state, REF_ONE)


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
    """Whether a long-term pin may hold the page; very many references are a false positive, as in Linux."""
    return frame_refs(pmg_load(&m.frames[pfn].state)) >= GUP_PIN_COUNTING_BIAS
