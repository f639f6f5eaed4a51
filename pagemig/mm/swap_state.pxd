"""Swap devices, their slots, and the swap cache in front of them (the kernels of 2006).

A slot is one page of a device.  Slots are numbered here over all devices; a page-table entry has the device as its type
and the page of the device as its offset.  ``swap_map`` counts the entries that name a slot, plus one for the swap cache.
An anonymous page in the swap cache has PG_swapcache, one reference for the cache, and its slot in ``machine.swap_entry``.
A slot's own content is valid only while the cache holds no page for it, or a clean one.

Locks: ``swap_lock`` (devices and counts), then ``tree_lock`` (the cache).  The machine has one of each, taken inside
page-table locks.
"""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.pte cimport is_migration_entry, is_swap_pte, pte_t, swp_type
from pagemig.mm.types cimport ctx_t, machine_t, vma_t


cdef inline bint is_slot_entry(pte_t pte) noexcept nogil:
    """Whether the entry names a slot: neither present nor a migration entry (the opposite of ``non_swap_entry``)."""
    return is_swap_pte(pte) and not is_migration_entry(pte)


cdef inline uint64_t swp_offset(pte_t pte) noexcept nogil:
    return (pte >> 12) & ((1ull << 47) - 1)


cdef inline uint32_t entry_slot(machine_t *m, pte_t pte) noexcept nogil:
    """Number of the slot that an entry names; 0 if this machine has no such slot."""
    cdef uint64_t type = swp_type(pte)
    if type >= m.nr_swapfiles or swp_offset(pte) >= m.swap_info[type].max:
        return 0
    return m.swap_info[type].first + <uint32_t> swp_offset(pte)

# the entry that names a slot
cdef pte_t slot_entry(machine_t *m, uint32_t slot) noexcept nogil
# -- slots and their counts
cdef uint64_t nr_swap_pages(machine_t *m) noexcept nogil                             # free slots of all devices
cdef bint slots_at_hand(machine_t *m, uint32_t n) noexcept nogil                     # on the next device in turn
cdef void swap_duplicate(ctx_t *c, uint32_t slot) noexcept nogil                     # one more entry names the slot
cdef void swap_free(ctx_t *c, uint32_t slot) noexcept nogil                          # one entry fewer
# swap_free, and the page leaves the cache if only the cache still refers to its slot
cdef void free_swap_and_cache(ctx_t *c, uint32_t slot) noexcept nogil
# -- the cache and its lock, the bottleneck of the 2006 note
cdef void swap_tree_lock(ctx_t *c) noexcept nogil
cdef void swap_tree_unlock(ctx_t *c) noexcept nogil
# allocate a slot for a locked anonymous page and add the page to the cache; False: no slot is free
cdef bint add_to_swap(ctx_t *c, uint32_t pfn) noexcept nogil
# frame with one more reference, or 0
cdef uint32_t lookup_swap_cache(ctx_t *c, uint32_t slot) noexcept nogil
cdef void delete_from_swap_cache(ctx_t *c, uint32_t pfn) noexcept nogil              # page locked
# a page lost its last mapping: it leaves the cache if only the cache and the caller still hold it
cdef void free_swap_cache(ctx_t *c, uint32_t pfn) noexcept nogil
# whether a locked page has no users but the cache and the caller's one entry or reference
cdef bint can_share_swap_page(ctx_t *c, uint32_t pfn) noexcept nogil
# write a locked page of the cache to its slot
cdef void swap_writepage(ctx_t *c, uint32_t pfn) noexcept nogil
cdef bint exclusive_swap_page(ctx_t *c, uint32_t pfn) noexcept nogil
cdef bint vm_swap_full(machine_t *m) noexcept nogil
cdef uint32_t read_swap_cache(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t slot) noexcept nogil
# read the cluster of slots around one that a fault needs
cdef void swapin_readahead(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t slot) noexcept nogil
cdef void swap_unlock(machine_t *m) noexcept nogil
cdef bint insert_cache(ctx_t *c, uint32_t pfn, uint32_t slot, uint64_t flags) noexcept nogil
cdef void swap_lock(ctx_t *c) noexcept nogil
cdef bint swap_count_unless_zero(ctx_t *c, uint32_t slot) noexcept nogil
