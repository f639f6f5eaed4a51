"""Swap devices, their slots, and the swap cache in front of them (the kernels of 2006)."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pagemig.mm.atomic cimport (
    pmg_cas, pmg_load, pmg_load32, pmg_spin_lock, pmg_spin_unlock, pmg_store32, pmg_sub, pmg_yield,
)
from pagemig.mm.frame cimport get_page_unless_zero, page_count, page_test, page_test_clear, trylock_page, unlock_page
from pagemig.mm.mempolicy cimport alloc_page_vma
from pagemig.mm.page_alloc cimport count_event, page_address, put_page
from pagemig.mm.pte cimport make_swap_entry, pte_t
from pagemig.mm.trace cimport trace_locks
from pagemig.mm.types cimport (
    C_HOST_SWAP_CONTENDED, C_LOCK_SWAP, C_LOCK_TREE, C_PSWPIN, C_PSWPOUT, C_SWAP_SLOTS, ctx_t, machine_t, PG_anon,
    PG_dirty, PG_lru, PG_swapbacked, PG_swapcache, PG_uptodate, PG_writeback, REF_ONE, swap_info_t, vma_t,
)
from pagemig.mm.vma cimport linear_page_index


# -- locks -----------------------------------------------------------------------------------------------------


cdef void swap_lock(ctx_t *c) noexcept nogil:
    """Take the lock that guards devices and slot counts; inside page-table locks, outside tree_lock."""
    count_event(c, C_LOCK_SWAP, 1)
    if c.m.tracing == 2:                # record at once: the order of the two locks varies between two steps
        trace_locks(c, 0)
    count_event(c, C_HOST_SWAP_CONTENDED, pmg_spin_lock(&c.m.swap_lock))


cdef void swap_unlock(machine_t *m) noexcept nogil:
    pmg_spin_unlock(&m.swap_lock)


cdef void swap_tree_lock(ctx_t *c) noexcept nogil:
    """Take the lock that guards the cache, one for all devices: the bottleneck in the 2006 note."""
    count_event(c, C_LOCK_TREE, 1)
    if c.m.tracing == 2:
        trace_locks(c, 0)
    count_event(c, C_HOST_SWAP_CONTENDED, pmg_spin_lock(&c.m.tree_lock))


cdef void swap_tree_unlock(ctx_t *c) noexcept nogil:
    pmg_spin_unlock(&c.m.tree_lock)


# -- slots -----------------------------------------------------------------------------------------------------


cdef pte_t slot_entry(machine_t *m, uint32_t slot) noexcept nogil:
    cdef uint32_t type = 0
    while slot >= m.swap_info[type].first + m.swap_info[type].max:
        type += 1
    return make_swap_entry(type, slot - m.swap_info[type].first)


cdef swap_info_t *device_of(machine_t *m, uint32_t slot) noexcept nogil:
    cdef uint32_t type = 0
    while slot >= m.swap_info[type].first + m.swap_info[type].max:
        type += 1
    return &m.swap_info[type]


cdef uint64_t nr_swap_pages(machine_t *m) noexcept nogil:
    cdef uint64_t n = 0
    cdef uint32_t i
    for i in range(m.nr_swapfiles):
        if not pmg_load32(&m.swap_info[i].off):
            n += m.swap_info[i].max - 1 - pmg_load32(&m.swap_info[i].inuse)
    return n


cdef bint slots_at_hand(machine_t *m, uint32_t n) noexcept nogil:
    """Whether the device that serves the next allocation has ``n`` free slots."""
    cdef uint32_t i, free
    for i in range(m.nr_swapfiles):
        if not pmg_load32(&m.swap_info[i].off):
            free = <uint32_t> m.swap_info[i].max - 1 - pmg_load32(&m.swap_info[i].inuse)
            if free:
                return free >= n
    return False


cdef bint vm_swap_full(machine_t *m) noexcept nogil:
    """Whether over half of the slots of active devices are in use: then the cache frees slots as soon as it can."""
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(m.nr_swapfiles):
        if not pmg_load32(&m.swap_info[i].off):
            total += m.swap_info[i].max - 1
    return nr_swap_pages(m) * 2 < total


cdef uint32_t scan_swap_map(machine_t *m, swap_info_t *d) noexcept nogil:
    """Find the next free slot of a device, cyclically after the last one allocated; slot 0 is the header.  swap_lock held."""
    cdef uint32_t _i, at = d.next
    if d.off or d.inuse == d.max - 1:
        return 0
    for _i in range(d.max):
        if at == 0 or at >= d.max:
            at = 1
        if m.swap_map[d.first + at] == 0:
            d.next = at + 1
            d.high = max(d.high, at)
            return d.first + at
        at += 1
    return 0


cdef inline void swap_map_add(machine_t *m, uint32_t slot, uint32_t n) noexcept nogil:
    """Change the count of a slot; swap_lock held.

    Lockless readers search for slots in use, or hold the lock of the slot's page, which keeps a count of 1 stable.
    """
    pmg_store32(&m.swap_map[slot], m.swap_map[slot] + n)


cdef uint32_t get_swap_page(ctx_t *c) noexcept nogil:
    """Allocate a slot on the first device that has one, counted once for the cache; 0: none is free."""
    cdef machine_t *m = c.m
    cdef uint32_t i, slot = 0
    swap_lock(c)
    for i in range(m.nr_swapfiles):
        slot = scan_swap_map(m, &m.swap_info[i])
        if slot:
            swap_map_add(m, slot, 1)
            pmg_store32(&m.swap_info[i].inuse, m.swap_info[i].inuse + 1)
            count_event(c, C_SWAP_SLOTS, 1)
            break
    swap_unlock(m)
    return slot


cdef void swap_duplicate(ctx_t *c, uint32_t slot) noexcept nogil:
    swap_lock(c)
    swap_map_add(c.m, slot, 1)
    swap_unlock(c.m)


cdef uint32_t swap_entry_free(machine_t *m, uint32_t slot) noexcept nogil:
    """Drop one count of a slot and return the rest; swap_lock held."""
    cdef swap_info_t *d
    swap_map_add(m, slot, <uint32_t> -1)
    if m.swap_map[slot] == 0:
        d = device_of(m, slot)
        pmg_store32(&d.inuse, d.inuse - 1)
        if m.page_bytes:
            memset(m.swap_content + <uint64_t> slot * m.page_bytes, 0, m.page_bytes)
    return m.swap_map[slot]


cdef void swap_free(ctx_t *c, uint32_t slot) noexcept nogil:
    swap_lock(c)
    swap_entry_free(c.m, slot)
    swap_unlock(c.m)


cdef void free_swap_and_cache(ctx_t *c, uint32_t slot) noexcept nogil:
    """Drop an entry's count and perhaps the cached page, under a page-table lock: so the page is locked by trylock only."""
    cdef machine_t *m = c.m
    cdef uint32_t left, pfn = 0
    swap_lock(c)
    left = swap_entry_free(m, slot)
    if left == 1:
        swap_tree_lock(c)
        pfn = m.swap_cache[slot]
        if pfn and (not get_page_unless_zero(m, pfn)):
            pfn = 0
        swap_tree_unlock(c)
    swap_unlock(m)
    if not pfn:
        return
    if trylock_page(m, pfn):
        # Only the cache and this function hold the page: free it; with swap nearly full, free the slot in any case.
        if page_test(m, pfn, PG_swapcache) and not page_test(m, pfn, PG_writeback) and m.swap_entry[pfn] == slot and \
                (page_count(m, pfn) == 2 or vm_swap_full(m)):
            delete_from_swap_cache(c, pfn)
        unlock_page(m, pfn)
    put_page(c, pfn)


# -- the cache -------------------------------------------------------------------------------------------------


cdef bint insert_cache(ctx_t *c, uint32_t pfn, uint32_t slot, uint64_t flags) noexcept nogil:
    """Add a page to the cache for a slot; False: the slot has another page already."""
    cdef machine_t *m = c.m
    cdef uint64_t *word = &m.frames[pfn].state
    cdef uint64_t s
    cdef bint empty
    swap_tree_lock(c)
    empty = m.swap_cache[slot] == 0
    if empty:
        m.swap_entry[pfn] = slot
        s = pmg_load(word)
        while not pmg_cas(word, s, (s | PG_swapcache | flags) + REF_ONE):
            s = pmg_load(word)
        pmg_store32(&m.swap_cache[slot], pfn)
    swap_tree_unlock(c)
    return empty


cdef bint add_to_swap(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Give a page a slot.  The page becomes dirty: its slot has no content yet."""
    cdef uint32_t slot = get_swap_page(c)
    while slot and not insert_cache(c, pfn, slot, PG_dirty | PG_uptodate):
        swap_free(c, slot)              # swapoff found the slot in use and read it before it was written
        slot = get_swap_page(c)
    return slot != 0


cdef uint32_t lookup_swap_cache(ctx_t *c, uint32_t slot) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint32_t pfn
    while True:
        swap_tree_lock(c)
        pfn = m.swap_cache[slot]
        if pfn == 0 or get_page_unless_zero(m, pfn):
            swap_tree_unlock(c)
            return pfn
        swap_tree_unlock(c)              # the page is being freed
        pmg_yield()


cdef void delete_from_swap_cache(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Remove a page from the cache; the caller has it locked and a reference of its own."""
    cdef machine_t *m = c.m
    cdef uint32_t slot
    swap_tree_lock(c)
    slot = m.swap_entry[pfn]
    m.swap_entry[pfn] = 0
    pmg_store32(&m.swap_cache[slot], 0)
    pmg_sub(&m.frames[pfn].state, PG_swapcache + REF_ONE)       # never the last: the caller has one
    swap_tree_unlock(c)
    swap_free(c, slot)


cdef bint exclusive_swap_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Whether only the cache names a locked page's slot, and only the cache and one other reference hold the page."""
    cdef machine_t *m = c.m
    cdef bint alone
    swap_lock(c)
    alone = m.swap_map[m.swap_entry[pfn]] == 1
    if alone:
        swap_tree_lock(c)
        alone = page_count(m, pfn) == 2
        swap_tree_unlock(c)
    swap_unlock(m)
    return alone


cdef void free_swap_cache(ctx_t *c, uint32_t pfn) noexcept nogil:
    cdef machine_t *m = c.m
    if not trylock_page(m, pfn):
        return
    if page_test(m, pfn, PG_swapcache) and not page_test(m, pfn, PG_writeback) and exclusive_swap_page(c, pfn):
        delete_from_swap_cache(c, pfn)
    unlock_page(m, pfn)


cdef bint can_share_swap_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    cdef uint64_t refs = page_count(c.m, pfn)
    if not page_test(c.m, pfn, PG_swapcache):
        return refs == 1
    return refs == 2 and exclusive_swap_page(c, pfn)


# -- input and output ------------------------------------------------------------------------------------------


cdef void swap_writepage(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Write a page to its slot.  I/O takes no time: the page is clean on return."""
    cdef machine_t *m = c.m
    if m.page_bytes:
        memcpy(m.swap_content + <uint64_t> m.swap_entry[pfn] * m.page_bytes, page_address(m, pfn), m.page_bytes)
    page_test_clear(m, pfn, PG_dirty)
    count_event(c, C_PSWPOUT, 1)


cdef bint swap_count_unless_zero(ctx_t *c, uint32_t slot) noexcept nogil:
    """swap_duplicate for an entry that may have been freed meanwhile."""
    cdef bint alive
    swap_lock(c)
    alive = c.m.swap_map[slot] != 0
    swap_map_add(c.m, slot, alive)
    swap_unlock(c.m)
    return alive


cdef uint32_t read_swap_cache(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t slot) noexcept nogil:
    """Read a slot into the cache (``read_swap_cache_async``): the page, referenced; 0: no frame, or the slot was freed.

    The cache's count on the slot is taken first, so the slot stays allocated while its content is read.
    """
    cdef machine_t *m = c.m
    cdef uint32_t found = lookup_swap_cache(c, slot), pfn
    if found:
        return found
    pfn = alloc_page_vma(c, vma, vpn)
    if not pfn:
        return 0
    if not swap_count_unless_zero(c, slot):
        put_page(c, pfn)
        return 0
    m.frames[pfn].mapping = vma.anon_vma
    m.frames[pfn].index = linear_page_index(vma, vpn)
    if m.page_bytes:
        memcpy(page_address(m, pfn), m.swap_content + <uint64_t> slot * m.page_bytes, m.page_bytes)
    if insert_cache(c, pfn, slot, PG_anon | PG_swapbacked | PG_uptodate | PG_lru):
        count_event(c, C_PSWPIN, 1)
        return pfn
    swap_free(c, slot)              # another fault was faster
    put_page(c, pfn)
    return lookup_swap_cache(c, slot)


cdef uint32_t valid_swaphandles(ctx_t *c, uint32_t slot, uint32_t *first) noexcept nogil:
    """Count the slots in use from the start of the aligned cluster through the last before a free one, header excluded."""
    cdef machine_t *m = c.m
    cdef swap_info_t *d = device_of(m, slot)
    cdef uint32_t at = (slot - d.first) >> m.profile.swap_cluster << m.profile.swap_cluster
    cdef uint32_t end = min(at + (<uint32_t> 1 << m.profile.swap_cluster), <uint32_t> d.max), n = 0
    at = max(at, <uint32_t> 1)
    first[0] = d.first + at
    swap_lock(c)
    while at + n < end and m.swap_map[d.first + at + n]:
        n += 1
    swap_unlock(m)
    return n


cdef void swapin_readahead(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t slot) noexcept nogil:
    """Read the cluster around a slot; the policy for its pages is looked up at the addresses after the faulting one."""
    cdef uint32_t first = 0, pfn, i, n
    cdef uint64_t at
    if not c.m.profile.swap_cluster:
        return
    n = valid_swaphandles(c, slot, &first)
    for i in range(n):
        at = vpn + i
        pfn = read_swap_cache(c, vma, at if at < vma.end else vma.end - 1, first + i)
        if not pfn:
            return
        put_page(c, pfn)
