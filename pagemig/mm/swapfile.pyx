"""swapon, and swapoff, which reads everything on a device back into memory."""
from libc.errno cimport EBUSY, EINVAL, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pagemig.mm.atomic cimport (
    GUARD_SWAPOFF, PMG_GUARD, pmg_load, pmg_load32, pmg_load_acq, pmg_read_trylock, pmg_store32,
)
from pagemig.mm.context cimport lock_page, mmap_read_lock, mmap_read_unlock, signal_pending
from pagemig.mm.fork cimport mmget_not_zero, mmput
from pagemig.mm.frame cimport get_page, page_test, unlock_page
from pagemig.mm.memory cimport map_swapcache_page
from pagemig.mm.page_alloc cimport alloc_page, count_event, mm_of, page_address, put_page, vec_at, vma_of
from pagemig.mm.pagewalk cimport pagewalk_next, pagewalk_start, pagewalk_t
from pagemig.mm.pgtable cimport leaf_pte
from pagemig.mm.pte cimport pte_t
from pagemig.mm.swap_state cimport (
    delete_from_swap_cache, insert_cache, lookup_swap_cache, slot_entry, swap_count_unless_zero, swap_free, swap_lock,
    swap_unlock,
)
from pagemig.mm.rules cimport refuse, RULE_SWAP_OFF, RULE_SWAP_ON
from pagemig.mm.types cimport (
    C_PSWPIN, ctx_t, machine_t, mm_t, PG_anon, PG_lru, PG_swapbacked, PG_swapcache, PG_uptodate, PMG_WAIT,
    PTRS_PER_PTE, swap_info_t, SWAP_LEAVING, SWAP_OFF, SWAP_ON, vma_t,
)


cdef int unuse_pte_range(
        ctx_t *c, vma_t *vma, uint32_t leaf, uint64_t start, uint64_t end, uint32_t slot, uint32_t pfn) noexcept nogil:
    """Map a locked page of the cache wherever a leaf table has an entry for its slot: 0 or -ENOMEM."""
    cdef machine_t *m = c.m
    cdef uint64_t vpn
    cdef pte_t entry = slot_entry(m, slot)
    cdef int mapped
    for vpn in range(start, end):
        if pmg_load_acq(leaf_pte(m, leaf, vpn)) == entry:
            get_page(m, pfn)
            mapped = map_swapcache_page(c, vma, vpn, leaf, entry, pfn)
            if mapped != 1:
                put_page(c, pfn)
            if mapped < 0:
                return mapped
    return 0


cdef inline bint page_of_slot(machine_t *m, uint32_t pfn, uint32_t slot) noexcept nogil:
    """Whether a locked page is still the slot's: it may have been migrated and left the cache before its lock was got."""
    return (page_test(m, pfn, PG_swapcache) and m.swap_entry[pfn] == slot) or not PMG_GUARD(GUARD_SWAPOFF)


cdef int lock_mm_of_page(ctx_t *c, uint32_t i, uint32_t pfn) noexcept nogil:
    """Take mmap_lock of a mm for reading with the page locked; trylock first, since mmap_lock comes before page locks.

    If that fails the page is unlocked and locked again, and may have left its slot meanwhile.  0, or -PMG_WAIT with
    neither lock.
    """
    if pmg_read_trylock(&mm_of(c.m, i).lock):
        return 0
    unlock_page(c.m, pfn)
    if mmap_read_lock(c, i):
        return -PMG_WAIT
    if lock_page(c, pfn) == 0:
        return 0
    mmap_read_unlock(c, i)
    return -PMG_WAIT


cdef int unuse_mm(ctx_t *c, uint32_t i, uint32_t slot, uint32_t pfn) noexcept nogil:
    """Map a page of the cache wherever a mm has an entry for its slot: 0 or -ENOMEM, or -PMG_WAIT and it is unlocked."""
    cdef machine_t *m = c.m
    cdef mm_t *mm = mm_of(m, i)
    cdef pagewalk_t w
    cdef uint32_t k
    cdef int err = 0
    cdef vma_t *vma
    if lock_mm_of_page(c, i, pfn):
        return -PMG_WAIT
    for k in range(mm.vmas.n if page_of_slot(m, pfn, slot) else 0):
        vma = vma_of(m, vec_at(m, &mm.vmas)[k])
        pagewalk_start(&w, m, mm, vma.start, vma.end)
        while err == 0 and pagewalk_next(&w):
            err = -PMG_WAIT if signal_pending(c, PTRS_PER_PTE) else unuse_pte_range(c, vma, w.leaf, w.vpn, w.stop, slot, pfn)
    mmap_read_unlock(c, i)
    if err == -PMG_WAIT:
        unlock_page(m, pfn)
    return err


cdef uint32_t read_slot(ctx_t *c, uint32_t slot) noexcept nogil:
    """Read a slot into the cache without a VMA: the page, referenced; map_swapcache_page sets its mapping."""
    cdef machine_t *m = c.m
    cdef uint32_t pfn = lookup_swap_cache(c, slot)
    if pfn or not swap_count_unless_zero(c, slot):
        return pfn
    pfn = alloc_page(c, c.nid, pmg_load(&m.has_memory))
    if pfn:
        if m.page_bytes:
            memcpy(page_address(m, pfn), m.swap_content + <uint64_t> slot * m.page_bytes, m.page_bytes)
        if insert_cache(c, pfn, slot, PG_anon | PG_swapbacked | PG_uptodate | PG_lru):
            count_event(c, C_PSWPIN, 1)
            return pfn
        put_page(c, pfn)
    swap_free(c, slot)
    return lookup_swap_cache(c, slot)


cdef int unuse_page(ctx_t *c, uint32_t slot, uint32_t pfn) noexcept nogil:
    """Map a page of the cache in every mm that has an entry for its slot; unlocks it.  0, -ENOMEM or -PMG_WAIT."""
    cdef machine_t *m = c.m
    cdef uint32_t i
    cdef int err = 0
    for i in range(1, pmg_load32(&m.mms.fresh)):
        if err == 0 and pmg_load32(&m.swap_map[slot]) > 1 and mmget_not_zero(m, i):
            c.target_mm = i             # for check, where the call waits
            err = unuse_mm(c, i, slot, pfn)
            c.target_mm = 0
            mmput(c, i)
    if err == -PMG_WAIT:
        return err
    if page_of_slot(m, pfn, slot) and pmg_load32(&m.swap_map[slot]) <= 1:
        delete_from_swap_cache(c, pfn)
    unlock_page(m, pfn)
    return err


cdef int unuse_slot(ctx_t *c, uint32_t slot) noexcept nogil:
    """``try_to_unuse`` for one slot."""
    cdef machine_t *m = c.m
    cdef uint32_t pfn
    cdef int err = 0
    while err == 0 and pmg_load32(&m.swap_map[slot]):
        pfn = read_slot(c, slot)
        if not pfn:
            return -ENOMEM if pmg_load32(&m.swap_map[slot]) else 0
        if lock_page(c, pfn):
            err = -PMG_WAIT
        elif page_of_slot(m, pfn, slot):
            err = unuse_page(c, slot, pfn)
        else:
            unlock_page(m, pfn)
        put_page(c, pfn)
    return err


cdef int change_state(ctx_t *c, uint32_t type, uint32_t old, uint32_t new, int err) noexcept nogil:
    """Change a device from state ``old`` to ``new``: 0, or ``err`` if it is in another state."""
    cdef swap_info_t *d = &c.m.swap_info[type]
    swap_lock(c)
    if d.off == old:
        pmg_store32(&d.off, new)
        err = 0
    swap_unlock(c.m)
    return err


cdef int64_t pmg_sys_swapoff(ctx_t *c, uint32_t type, uint32_t *rule) noexcept nogil:
    cdef machine_t *m = c.m
    cdef swap_info_t *d
    cdef uint32_t at
    cdef int err = 0
    if type >= m.nr_swapfiles or change_state(c, type, SWAP_ON, SWAP_LEAVING, -EINVAL):
        return refuse(EINVAL, RULE_SWAP_OFF, rule)
    d = &m.swap_info[type]
    for at in range(1, d.max):
        if err == 0 and pmg_load32(&m.swap_map[d.first + at]):
            err = -PMG_WAIT if signal_pending(c, 1) else unuse_slot(c, d.first + at)
    change_state(c, type, SWAP_LEAVING, SWAP_ON if err else SWAP_OFF, 0)
    return err


cdef int64_t pmg_sys_swapon(ctx_t *c, uint32_t type, uint32_t *rule) noexcept nogil:
    if type >= c.m.nr_swapfiles:
        return refuse(EINVAL, RULE_SWAP_OFF, rule)
    return refuse(EBUSY, RULE_SWAP_ON, rule) if change_state(c, type, SWAP_OFF, SWAP_ON, -EBUSY) else 0
