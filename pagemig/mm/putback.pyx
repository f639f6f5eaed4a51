"""Put collected pages back on the LRU.

A page costs a locked instruction, and where frames are scattered a miss of the cache, so that millions of pages take longer
than a stop may.  A stopped call therefore leaves a long list as it is, to the machine, and the next call works it off before
it begins.  That can be stopped, too, between two pieces.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from pagemig.mm.atomic cimport pmg_prefetchw, pmg_spin_lock, pmg_spin_unlock, pmg_store_ptr
from pagemig.mm.context cimport signal_pending
from pagemig.mm.migrate_stage cimport AHEAD, putback_lru_page
from pagemig.mm.types cimport ctx_t, machine_t


cdef enum:
    AT_ONCE = 1 << 18           # the longest list that a stopped call puts back itself: at most some 10 ms
    PIECE = 1 << 12             # pages between two looks for signals


cdef struct owed_t:             # pages of a stopped call, in its list
    owed_t *next
    const uint32_t *pfns
    uint64_t n
    uint32_t *list              # freed after these pages; NULL: a later entry of the same list has it


cdef void putback_now(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil:
    """``putback_movable_pages``."""
    cdef uint64_t i
    for i in range(n):
        if i + AHEAD < n:
            pmg_prefetchw(&c.m.frames[pfns[i + AHEAD]])
        putback_lru_page(c, pfns[i])


cdef bint owe(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil:
    cdef owed_t *o = <owed_t *> malloc(sizeof(owed_t))
    if o == NULL:
        return False
    o.next = <owed_t *> c.owed
    o.pfns = pfns
    o.n = n
    o.list = NULL
    c.owed = o
    return True


cdef uint64_t putback_all(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil:
    if n <= AT_ONCE or not c.owes or not owe(c, pfns, n):
        putback_now(c, pfns, n)
    return n


cdef void leave_owed(machine_t *m, owed_t *first) noexcept nogil:
    """Put entries in front of those that the machine has."""
    cdef owed_t *last = first
    while last.next != NULL:
        last = last.next
    pmg_spin_lock(&m.ctx_lock)
    last.next = <owed_t *> m.owed
    pmg_store_ptr(&m.owed, first)
    pmg_spin_unlock(&m.ctx_lock)


cdef owed_t *take_owed(machine_t *m) noexcept nogil:
    """Take all entries: those of one list must be worked off by one thread, in their order."""
    cdef owed_t *first
    pmg_spin_lock(&m.ctx_lock)
    first = <owed_t *> m.owed
    pmg_store_ptr(&m.owed, NULL)
    pmg_spin_unlock(&m.ctx_lock)
    return first


cdef void pages_free(ctx_t *c, uint32_t *pfns, uint64_t room) noexcept nogil:
    cdef owed_t *o = <owed_t *> c.owed
    cdef owed_t *others = NULL
    cdef owed_t *of_list = NULL
    cdef owed_t *next_
    while o != NULL:
        next_ = o.next
        if pfns <= o.pfns < pfns + room:
            o.list = pfns if of_list == NULL else NULL  # the first that is taken comes last in the end
            o.next = of_list
            of_list = o
        else:
            o.next = others
            others = o
        o = next_
    c.owed = others
    if of_list == NULL:
        free(pfns)
    else:
        leave_owed(c.m, of_list)


cdef bint putback_owed(ctx_t *c) noexcept nogil:
    cdef owed_t *o = take_owed(c.m)
    cdef owed_t *next_
    cdef uint64_t n
    while o != NULL:
        while o.n:
            if signal_pending(c, PIECE):
                leave_owed(c.m, o)
                return False
            n = min(o.n, <uint64_t> PIECE)
            putback_now(c, o.pfns, n)
            o.pfns += n
            o.n -= n
        next_ = o.next
        free(o.list)
        free(o)
        o = next_
    return True


cdef void owed_release(machine_t *m) noexcept nogil:
    cdef owed_t *o = take_owed(m)
    cdef owed_t *next_
    while o != NULL:
        next_ = o.next
        free(o.list)
        free(o)
        o = next_
