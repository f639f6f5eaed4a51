"""Collected pages return to the LRU; what a stopped call had collected returns before the next call."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_load_ptr
from pagemig.mm.types cimport ctx_t, machine_t

# put all pages back, or note them if the call was stopped: then the owner of the list frees it by pages_free()
cdef uint64_t putback_all(ctx_t *c, const uint32_t *pfns, uint64_t n) noexcept nogil
# free a list of ``room`` entries, or leave it to the machine if pages of it are noted
cdef void pages_free(ctx_t *c, uint32_t *pfns, uint64_t room) noexcept nogil
# put back what stopped calls left.  False: this call was stopped too, and a rest is left
cdef bint putback_owed(ctx_t *c) noexcept nogil
cdef void owed_release(machine_t *m) noexcept nogil                     # free the lists, with the machine


cdef inline bint owes_pages(machine_t *m) noexcept nogil:
    """Whether a stopped call left pages that must be put back before the next call."""
    return pmg_load_ptr(&m.owed) != NULL
