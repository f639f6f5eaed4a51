"""Files and shared memory: the page cache, read-ahead, faults, write(2) and read(2), writeback.

A page of a file is found through ``file.cache``.  ``file.lock`` guards that array, ``nrpages`` and the disk.  The page lock
keeps a page in its file, so a caller that has locked a page checks whether it still belongs there.  I/O takes no time: a
page is up to date as soon as its lock is dropped.
"""
from libc.errno cimport EEXIST, EFBIG, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pagemig.mm.atomic cimport (
    GUARD_SLEPT, GUARD_UPTODATE, pmg_add, pmg_add32, pmg_and, pmg_cas32, PMG_GUARD, pmg_load, pmg_load32, pmg_load_acq, pmg_or,
    pmg_spin_lock, pmg_spin_unlock, pmg_store, pmg_store32, pmg_write_forget, pmg_write_trylock, pmg_write_unlock, pmg_yield,
)
from pagemig.mm.context cimport lock_page, lock_page_or_not, pmg_wait, signal_pending, wait_over
from pagemig.mm.frame cimport (
    frame_maps, get_page_unless_zero, page_mapcount, page_state, page_test, page_test_clear, page_test_set,
    unlock_page,
)
from pagemig.mm.mempolicy cimport alloc_page_cache, alloc_page_shmem, mpol_free_shared_policy
from pagemig.mm.notify cimport flush_tlb, PMG_F_PROTECT
from pagemig.mm.page_alloc cimport (
    clear_highpage, clear_memory, count_event, file_index, file_of, mm_of, page_address, page_token, put_page, set_page_token,
    slab_alloc, slab_free, vec_at, vec_free, vec_resize, vma_of,
)
from pagemig.mm.pgtable cimport leaf_pte, pte_lock, pte_unlock, walk_leaf
from pagemig.mm.pte cimport PTE_D, pte_pfn, pte_present, PTE_RW, pte_t
from pagemig.mm.rmap cimport i_mmap_lock_read, i_mmap_unlock_read, lru_cache_add, rmap_vmas
from pagemig.mm.rules cimport refuse, RULE_FILE_SIZE
from pagemig.mm.types cimport (
    C_PGMAJFAULT, ctx_t, FILE_SHMEM, file_t, frame_t, machine_t, MAX_INDEX_PAGES, PG_anon, PG_cached, PG_dirty,
    PG_locked, PG_private, PG_readahead, PG_swapbacked, PG_uptodate, PG_writeback, PMG_WAIT, REF_ONE, VM_FAULT_MAJOR,
    VM_FAULT_OOM, VM_FAULT_RESTARTED, VM_FAULT_SIGBUS, VM_FAULT_WAIT, VM_RAND_READ, VM_SEQ_READ, VM_SHARED, vma_t,
    WAIT_I_RWSEM,
)
from pagemig.mm.vma cimport vma_address, vma_flags


cdef enum:
    AT_ONCE = 4096              # slots scanned under one hold of file.lock


ctypedef struct ra_t:               # file_t.ra unpacked
    uint64_t start, size, async_size
    uint64_t mmap_miss
    uint64_t next                   # page after the last one that read(2) read; 0 before the first


# -- the object ------------------------------------------------------------------------------------------------


cdef uint32_t file_new(ctx_t *c, uint32_t kind, uint64_t pages, uint64_t ino) noexcept nogil:
    cdef uint32_t i = slab_alloc(&c.m.files)
    cdef file_t *f
    if i:
        f = file_of(c.m, i)
        f.kind = kind
        f.size = pages
        f.ino = ino if ino else pmg_add(&c.m.next_ino, 1) - 1
        pmg_store32(&f.refs, 1)
    return i


cdef int file_set_name(machine_t *m, uint32_t file, const char *name, uint32_t n) noexcept nogil:
    """Name a file that has no mapping yet."""
    cdef file_t *f = file_of(m, file)
    cdef int err
    pmg_spin_lock(&f.lock)
    err = vec_resize(m, &f.name, (n + 3) // 4)
    if err == 0:
        memcpy(vec_at(m, &f.name), name, n)
        f.name_bytes = n
    pmg_spin_unlock(&f.lock)
    return err


cdef uint32_t file_get_name(machine_t *m, uint32_t file, uint64_t ino, char *out, uint32_t room) noexcept nogil:
    """Return the length of the name, and copy it if there is room; 0: unnamed, or the record is another file's by now."""
    cdef file_t *f = file_of(m, file)
    cdef uint32_t n
    pmg_spin_lock(&f.lock)
    n = f.name_bytes if f.ino == ino else 0
    if n <= room:
        memcpy(out, vec_at(m, &f.name), n)
    pmg_spin_unlock(&f.lock)
    return n


cdef void file_get(machine_t *m, uint32_t file) noexcept nogil:
    pmg_add32(&file_of(m, file).refs, 1)


cdef bint file_get_not_zero(machine_t *m, uint32_t file) noexcept nogil:
    """Take a reference on a file that may be gone; a reused record yields one on its new file."""
    cdef uint32_t *refs = &file_of(m, file).refs
    cdef uint32_t n = pmg_load32(refs)
    while n and not pmg_cas32(refs, n, n + 1):
        n = pmg_load32(refs)
    return n != 0


cdef void file_put(ctx_t *c, uint32_t file) noexcept nogil:
    cdef machine_t *m = c.m
    cdef file_t *f = file_of(m, file)
    if pmg_add32(&f.refs, <uint32_t> -1):
        return
    evict_inode_pages(c, f)
    mpol_free_shared_policy(m, f)
    vec_free(m, &f.cache)
    vec_free(m, &f.disk)
    pmg_spin_lock(&f.lock)
    f.name_bytes = 0
    vec_free(m, &f.name)
    pmg_spin_unlock(&f.lock)
    slab_free(&m.files, file)


cdef void evict_inode_pages(ctx_t *c, file_t *f) noexcept nogil:
    """Drop the pages of an unreachable file (``truncate_inode_pages_final``); a migration or a pin may still hold one.

    Where waiting is impossible (a host that owns time; a page of a migration in steps, while no other call runs: an exit or
    munmap cannot stop here) the page is removed without its lock: the migration does not find it in its slot, and gives up.
    """
    cdef uint64_t index = next_page(c.m, f, 0)
    cdef uint32_t pfn
    cdef bint locked
    while index != NO_PAGE:
        pfn = find_get_page(c.m, f, index)
        if pfn:
            locked = lock_page_or_not(c, pfn)
            delete_from_page_cache(c, pfn)
            if locked:
                unlock_page(c.m, pfn)
            put_page(c, pfn)
        index = next_page(c.m, f, index + 1)


cdef int i_rwsem_lock(ctx_t *c, uint32_t file) noexcept nogil:
    """Serialise the writers of a file: write(2), truncate, punch.  The outermost lock; 0 or -PMG_WAIT."""
    cdef uint32_t spins = 0
    while not pmg_write_trylock(&file_of(c.m, file).i_rwsem):
        if pmg_wait(c, WAIT_I_RWSEM, file, spins):
            pmg_write_forget(&file_of(c.m, file).i_rwsem)
            return -PMG_WAIT
        spins += 1
    wait_over(c, WAIT_I_RWSEM, file)
    return 0


# -- the page cache --------------------------------------------------------------------------------------------


cdef inline uint32_t cache_slot(machine_t *m, file_t *f, uint64_t index) noexcept nogil:
    """Get the frame in a slot; file.lock held."""
    return vec_at(m, &f.cache)[index] if index < f.cache.n else 0


cdef uint64_t nr_slots(file_t *f) noexcept nogil:
    cdef uint64_t n
    pmg_spin_lock(&f.lock)
    n = f.cache.n
    pmg_spin_unlock(&f.lock)
    return n


cdef uint64_t next_page(machine_t *m, file_t *f, uint64_t index) noexcept nogil:
    """Find the index of the first cached page from ``index`` on; NO_PAGE if there is none."""
    cdef uint64_t end
    cdef uint32_t *slots
    cdef bint found = False
    while not found:
        pmg_spin_lock(&f.lock)
        end = min(<uint64_t> f.cache.n, index + AT_ONCE)
        slots = vec_at(m, &f.cache)
        while index < end and slots[index] == 0:
            index += 1
        found = index < end
        if index >= f.cache.n:
            index = NO_PAGE
            found = True
        pmg_spin_unlock(&f.lock)
    return index


cdef uint32_t find_page(machine_t *m, file_t *f, uint64_t index) noexcept nogil:
    cdef uint32_t pfn
    pmg_spin_lock(&f.lock)
    pfn = cache_slot(m, f, index)
    pmg_spin_unlock(&f.lock)
    return pfn


cdef uint32_t find_get_page(machine_t *m, file_t *f, uint64_t index) noexcept nogil:
    cdef uint32_t pfn
    while True:
        pmg_spin_lock(&f.lock)
        pfn = cache_slot(m, f, index)
        if pfn == 0 or get_page_unless_zero(m, pfn):
            pmg_spin_unlock(&f.lock)
            return pfn
        # A migration has frozen the page and is about to switch the slot.
        pmg_spin_unlock(&f.lock)
        pmg_yield()


cdef uint32_t find_get_pages(machine_t *m, file_t *f, uint64_t index, uint32_t n, uint32_t *pfns) noexcept nogil:
    cdef uint32_t i, found = 0
    pmg_spin_lock(&f.lock)
    for i in range(n):
        pfns[i] = cache_slot(m, f, index + i)
        if pfns[i]:
            if get_page_unless_zero(m, pfns[i]):
                found += 1
            else:
                pfns[i] = 0
    pmg_spin_unlock(&f.lock)
    return found


cdef bint page_belongs(machine_t *m, uint32_t pfn, file_t *f, uint64_t index) noexcept nogil:
    return (page_state(m, pfn) & (PG_cached | PG_anon)) == PG_cached and \
        pmg_load32(&m.frames[pfn].mapping) == file_index(m, f) and m.frames[pfn].index == <uint32_t> index


cdef int find_lock_page(ctx_t *c, file_t *f, uint64_t index, uint32_t *pfn) noexcept nogil:
    """Get a cached page, referenced and locked, in ``pfn``, or 0 there when absent.  0 or -PMG_WAIT."""
    while True:
        pfn[0] = find_get_page(c.m, f, index)
        if pfn[0] == 0:
            return 0
        if lock_page(c, pfn[0]):
            put_page(c, pfn[0])
            pfn[0] = 0
            return -PMG_WAIT
        if page_belongs(c.m, pfn[0], f, index) or not PMG_GUARD(GUARD_SLEPT):
            return 0
        # The page was truncated or migrated while this waited for its lock.
        unlock_page(c.m, pfn[0])
        put_page(c, pfn[0])


cdef int add_to_page_cache(ctx_t *c, file_t *f, uint64_t index, uint32_t pfn) noexcept nogil:
    cdef machine_t *m = c.m
    cdef int err = 0
    pmg_spin_lock(&f.lock)
    if cache_slot(m, f, index):
        err = -EEXIST
    elif index >= f.cache.n:
        err = vec_resize(m, &f.cache, index + 1)
    if err == 0:
        pmg_store32(&m.frames[pfn].mapping, file_index(m, f))
        m.frames[pfn].index = <uint32_t> index
        pmg_add(&m.frames[pfn].state, REF_ONE | PG_cached)
        vec_at(m, &f.cache)[index] = pfn
        pmg_store(&f.nrpages, f.nrpages + 1)
    pmg_spin_unlock(&f.lock)
    return err


cdef void delete_from_page_cache(ctx_t *c, uint32_t pfn) noexcept nogil:
    cdef machine_t *m = c.m
    cdef frame_t *frame = &m.frames[pfn]
    cdef file_t *f = file_of(m, frame.mapping)
    pmg_spin_lock(&f.lock)
    vec_at(m, &f.cache)[frame.index] = 0
    pmg_store(&f.nrpages, f.nrpages - 1)
    pmg_store32(&frame.mapping, 0)
    pmg_and(&frame.state, ~(PG_cached | PG_dirty))
    pmg_spin_unlock(&f.lock)
    if page_test_clear(m, pfn, PG_private):
        put_page(c, pfn)
    put_page(c, pfn)


cdef int add_new_page(ctx_t *c, file_t *f, uint64_t index, vma_t *vma, uint32_t *pfn) noexcept nogil:
    """Fill an empty slot with a new page, read from disk: referenced, locked, up to date.  0, -EEXIST, -ENOMEM."""
    cdef machine_t *m = c.m
    cdef int err
    cdef bint shmem = f.kind == FILE_SHMEM
    pfn[0] = alloc_page_shmem(c, f, index, vma) if shmem else alloc_page_cache(c)
    if pfn[0] == 0:
        return -ENOMEM
    clear_highpage(m, pfn[0])
    pmg_or(&m.frames[pfn[0]].state, PG_locked | PG_uptodate | (PG_swapbacked if shmem else 0))
    if has_disk(f):
        disk_read(m, f, index, pfn[0])
    err = add_to_page_cache(c, f, index, pfn[0])
    if err:
        put_page(c, pfn[0])
        pfn[0] = 0
        return err
    lru_cache_add(c, pfn[0])
    return 0


cdef int find_or_create_page(ctx_t *c, file_t *f, uint64_t index, vma_t *vma, uint32_t *pfn) noexcept nogil:
    """Get a page, referenced and locked, in ``pfn``.  0, VM_FAULT_OOM or VM_FAULT_WAIT."""
    cdef int err = -EEXIST
    while err == -EEXIST:
        if find_lock_page(c, f, index, pfn):
            return VM_FAULT_WAIT
        if pfn[0]:
            return 0
        err = add_new_page(c, f, index, vma, pfn)
    return VM_FAULT_OOM if err else 0


cdef inline void create_empty_buffers(machine_t *m, uint32_t pfn) noexcept nogil:
    """Attach buffers to a locked page; they hold one reference on it."""
    if not page_test(m, pfn, PG_private):
        pmg_add(&m.frames[pfn].state, REF_ONE | PG_private)


cdef inline void mark_buffer_dirty(ctx_t *c, file_t *f, uint32_t pfn) noexcept nogil:
    """Mark a locked page dirty, with buffers where a disk backs its file system."""
    if has_disk(f):
        create_empty_buffers(c.m, pfn)
    if not page_test(c.m, pfn, PG_dirty):
        page_test_set(c.m, pfn, PG_dirty)


cdef void file_page_dirty(ctx_t *c, file_t *f, uint32_t pfn) noexcept nogil:
    """Mark a locked page dirty that is about to be written through a mapping.

    It loses its read-ahead mark: that shares a bit with PG_reclaim, which is cleared when a page becomes dirty.
    """
    mark_buffer_dirty(c, f, pfn)
    if page_test(c.m, pfn, PG_readahead):
        page_test_clear(c.m, pfn, PG_readahead)


# -- the disk: page_bytes per page, packed in words; beyond the end of the array it is a hole ----------------


cdef void disk_read(machine_t *m, file_t *f, uint64_t index, uint32_t pfn) noexcept nogil:
    cdef uint64_t words = m.page_bytes // 4
    pmg_spin_lock(&f.lock)
    if words and (index + 1) * words <= f.disk.n:
        memcpy(page_address(m, pfn), vec_at(m, &f.disk) + index * words, m.page_bytes)
    pmg_spin_unlock(&f.lock)


cdef int disk_write(machine_t *m, file_t *f, uint64_t index, uint32_t pfn) noexcept nogil:
    """Copy the page to the disk word by word, each atomically: processes that map the page may write to it."""
    cdef uint64_t words = m.page_bytes // 4, word
    cdef const uint64_t *page = <uint64_t *> page_address(m, pfn)
    cdef uint32_t *disk
    cdef uint32_t i
    cdef int err = 0
    pmg_spin_lock(&f.lock)
    if words and (index + 1) * words > f.disk.n:
        err = vec_resize(m, &f.disk, (index + 1) * words)
    if words and err == 0:
        disk = vec_at(m, &f.disk) + index * words
        for i in range(m.page_bytes // 8):
            word = pmg_load(page + i)
            memcpy(disk + 2 * i, &word, 8)
    pmg_spin_unlock(&f.lock)
    return err


cdef void disk_discard(machine_t *m, file_t *f, uint64_t first, uint64_t last) noexcept nogil:
    cdef uint64_t words = m.page_bytes // 4, pages
    pmg_spin_lock(&f.lock)
    pages = f.disk.n // words if words else 0
    if first < pages:
        clear_memory(<char *> (vec_at(m, &f.disk) + first * words), (min(last, pages - 1) + 1 - first) * m.page_bytes)
    pmg_spin_unlock(&f.lock)


# -- read-ahead.  A reader that reaches a page with PG_readahead starts the next window ------------------------------


cdef inline bint reads_ahead(file_t *f) noexcept nogil:
    return has_disk(f) and f.ra_pages != 0


cdef void ra_load(file_t *f, ra_t *ra) noexcept nogil:
    cdef uint64_t sizes = pmg_load(&f.ra[1])
    ra.start = pmg_load(&f.ra[0])
    ra.size = sizes & 0xffffffffu
    ra.async_size = sizes >> 32
    ra.mmap_miss = pmg_load(&f.ra[2])
    ra.next = pmg_load(&f.ra[3])


cdef void ra_store(file_t *f, const ra_t *ra) noexcept nogil:
    pmg_store(&f.ra[0], ra.start)
    pmg_store(&f.ra[1], ra.size | ra.async_size << 32)
    pmg_store(&f.ra[2], ra.mmap_miss)


cdef void do_page_cache_ra(ctx_t *c, file_t *f, uint64_t index, uint64_t nr, uint64_t lookahead) noexcept nogil:
    """Read the absent pages among ``nr``, up to the end of the file; mark the page ``lookahead`` before their end.

    A window cut by the end of the file to less than ``lookahead`` pages gets no mark, nor does a page that was cached.
    """
    cdef uint64_t i
    cdef uint32_t pfn = 0
    cdef uint64_t size = i_size_read(f)
    cdef int err
    if index >= size:
        return
    nr = min(nr, size - index)
    for i in range(nr):
        if find_page(c.m, f, index + i):
            continue
        err = add_new_page(c, f, index + i, NULL, &pfn)
        if err == -ENOMEM:
            return                          # without memory read-ahead ends: a file may be larger than the machine
        if err:
            continue
        if i + lookahead == nr:
            page_test_set(c.m, pfn, PG_readahead)
        unlock_page(c.m, pfn)
        put_page(c, pfn)


cdef void page_cache_ra_order(ctx_t *c, file_t *f, const ra_t *ra) noexcept nogil:
    """Read a window and mark the page that starts the next one.

    File systems with large folios (ext4 from 6.16 on) place the mark by the uncut window and stop at the first cached page;
    the rest is read as in other file systems.  Their folios are modelled as single pages.
    """
    cdef uint64_t index = ra.start, end = min(ra.start + ra.size, i_size_read(f))
    cdef uint32_t pfn = 0
    cdef int err = 0
    if c.m.profile.ra_uncut:
        while index < end:
            err = add_new_page(c, f, index, NULL, &pfn)
            if err:
                break
            if index == ra.start + ra.size - ra.async_size:
                page_test_set(c.m, pfn, PG_readahead)
            unlock_page(c.m, pfn)
            put_page(c, pfn)
            index += 1
        if not err:
            return
    do_page_cache_ra(c, f, index, ra.start + ra.size - index, ra.async_size)


cdef uint64_t get_init_ra_size(uint64_t size) noexcept nogil:
    cdef uint64_t n = 1
    while n < size:
        n <<= 1
    if n <= RA_PAGES // 32:
        return n * 4
    return n * 2 if n <= RA_PAGES // 4 else <uint64_t> RA_PAGES


cdef uint64_t get_next_ra_size(uint64_t size) noexcept nogil:
    if size < RA_PAGES // 16:
        return size * 4
    return size * 2 if size <= RA_PAGES // 2 else <uint64_t> RA_PAGES


cdef bint hit_marked_page(ctx_t *c, file_t *f, ra_t *ra, uint64_t index, uint64_t req) noexcept nogil:
    """Handle a marked page outside the current window: restart the window where the cached run ends."""
    cdef uint64_t start = index + 1
    while start <= index + RA_PAGES and find_page(c.m, f, start):
        start += 1
    if start - index > RA_PAGES:
        return False
    ra.start = start
    ra.size = get_next_ra_size(start - index + req)
    ra.async_size = ra.size
    return True


cdef bint try_context_readahead(ctx_t *c, file_t *f, ra_t *ra, uint64_t index, uint64_t req) noexcept nogil:
    """Take a run of cached pages right before a miss as the trace of a sequential reader."""
    cdef uint64_t size = 0
    while size < RA_PAGES and size < index and find_page(c.m, f, index - 1 - size):
        size += 1
    if size <= req:
        return False
    if size >= index:
        size *= 2
    ra.start = index
    ra.size = min(size + req, <uint64_t> RA_PAGES)
    ra.async_size = 1
    return True


cdef void ondemand_readahead(ctx_t *c, file_t *f, uint64_t index, bint marked, uint64_t req) noexcept nogil:
    """Choose the next window from the last one, when a marked page is reached or a page is missing."""
    cdef ra_t ra
    cdef bint restart
    ra_load(f, &ra)
    if index and (index == ra.start + ra.size - ra.async_size or index == ra.start + ra.size):
        ra.start += ra.size
        ra.size = get_next_ra_size(ra.size)
        ra.async_size = ra.size
    elif index and marked:
        if not hit_marked_page(c, f, &ra, index, req):
            return
    else:
        restart = index == 0 or req > RA_PAGES or (ra.next and index - ra.next <= 1)
        if restart:
            ra.start = index
            ra.size = get_init_ra_size(req)
            ra.async_size = ra.size - req if ra.size > req else ra.size
        elif not try_context_readahead(c, f, &ra, index, req):
            # A random read leaves the window as it is.
            do_page_cache_ra(c, f, index, req, 0)
            return
    if index == ra.start and ra.size == ra.async_size:
        # The reader would hit its own mark at once: merge the next window into this one.
        if ra.size + get_next_ra_size(ra.size) <= RA_PAGES:
            ra.async_size = get_next_ra_size(ra.size)
            ra.size += ra.async_size
        else:
            ra.size = RA_PAGES
            ra.async_size = RA_PAGES // 2
    ra_store(f, &ra)
    page_cache_ra_order(c, f, &ra)


cdef void do_sync_mmap_readahead(ctx_t *c, file_t *f, vma_t *vma, uint64_t index) noexcept nogil:
    """Read the window around an absent page, unless madvise or too many misses say that it does not pay off."""
    cdef ra_t ra
    if vma.flags & VM_RAND_READ:
        return
    if vma.flags & VM_SEQ_READ:
        ondemand_readahead(c, f, index, False, RA_PAGES)
        return
    ra_load(f, &ra)
    if ra.mmap_miss < MMAP_LOTSAMISS * 10:
        ra.mmap_miss += 1
    if ra.mmap_miss <= MMAP_LOTSAMISS:
        ra.start = index - RA_PAGES // 2 if index > RA_PAGES // 2 else 0
        ra.size = RA_PAGES
        ra.async_size = RA_PAGES // 4
        page_cache_ra_order(c, f, &ra)
    ra_store(f, &ra)


cdef bint do_async_mmap_readahead(ctx_t *c, file_t *f, vma_t *vma, uint64_t index, uint32_t pfn) noexcept nogil:
    """Handle a fault on a cached page; True when it was marked and started the next window."""
    if not reads_ahead(f) or vma.flags & VM_RAND_READ:
        return False
    mmap_hit(f, 1)
    if not page_test(c.m, pfn, PG_readahead) or page_test(c.m, pfn, PG_writeback):
        return False
    page_test_clear(c.m, pfn, PG_readahead)
    ondemand_readahead(c, f, index, True, RA_PAGES)
    return True


cdef void mmap_hit(file_t *f, uint64_t n) noexcept nogil:
    cdef uint64_t miss = pmg_load(&f.ra[2])
    if miss:
        pmg_store(&f.ra[2], miss - min(n, miss))


# -- faults ----------------------------------------------------------------------------------------------------


cdef int fault_page(ctx_t *c, file_t *f, uint64_t index, vma_t *vma, uint32_t *pfn) noexcept nogil:
    """Get the locked page of a fault and check the size again under the page lock, which truncation waits for."""
    cdef int err = find_or_create_page(c, f, index, vma, pfn)
    if err == 0 and index >= i_size_read(f):
        # Truncation may have passed this index already, so a page that this fault added must not stay.
        if page_mapcount(c.m, pfn[0]) == 0:
            delete_from_page_cache(c, pfn[0])
        unlock_page(c.m, pfn[0])
        put_page(c, pfn[0])
        pfn[0] = 0
        return VM_FAULT_SIGBUS
    return err


cdef int shmem_fault(ctx_t *c, vma_t *vma, uint64_t index, uint32_t *pfn) noexcept nogil:
    cdef file_t *f = file_of(c.m, vma.file)
    pfn[0] = 0
    if index >= i_size_read(f):
        return VM_FAULT_SIGBUS
    return fault_page(c, f, index, vma, pfn)


cdef int filemap_fault(ctx_t *c, vma_t *vma, uint64_t index, uint32_t *pfn) noexcept nogil:
    """Fault on a file.  One that reads or starts read-ahead drops its lock and retries: a major fault of the process.

    From 6.6 on a fault that only starts read-ahead is minor: it held only the per-VMA lock, and falling back to mmap_lock
    is no retry unless something was read.
    """
    cdef file_t *f = file_of(c.m, vma.file)
    cdef uint32_t page
    cdef int err, major = 0
    pfn[0] = 0
    if index >= i_size_read(f):
        return VM_FAULT_SIGBUS
    page = find_get_page(c.m, f, index)
    if page:
        if do_async_mmap_readahead(c, f, vma, index, page):
            major = VM_FAULT_RESTARTED if c.m.profile.ahead_is_minor else VM_FAULT_RESTARTED | VM_FAULT_MAJOR
        put_page(c, page)
    else:
        major = VM_FAULT_RESTARTED | VM_FAULT_MAJOR
        count_event(c, C_PGMAJFAULT, 1)
        if reads_ahead(f):
            do_sync_mmap_readahead(c, f, vma, index)
    err = fault_page(c, f, index, vma, pfn)
    return err if err else major


cdef int vma_fault(ctx_t *c, vma_t *vma, uint64_t index, uint32_t *pfn) noexcept nogil:
    if file_of(c.m, vma.file).kind == FILE_SHMEM:
        return shmem_fault(c, vma, index, pfn)
    return filemap_fault(c, vma, index, pfn)


# -- write(2) and read(2) --------------------------------------------------------------------------------------


cdef int write_page(ctx_t *c, file_t *f, uint64_t index, uint64_t value) noexcept nogil:
    cdef uint32_t pfn = 0
    cdef int err = find_or_create_page(c, f, index, NULL, &pfn)
    if err:
        return -PMG_WAIT if err & VM_FAULT_WAIT else -ENOMEM
    set_page_token(c.m, pfn, value)
    mark_buffer_dirty(c, f, pfn)
    if index >= i_size_read(f):
        pmg_store(&f.size, index + 1)
    unlock_page(c.m, pfn)
    put_page(c, pfn)
    return 0


cdef int64_t pmg_sys_write(
        ctx_t *c, uint32_t file, uint64_t index, uint64_t n, const uint64_t *values, uint32_t *rule) noexcept nogil:
    cdef file_t *f = file_of(c.m, file)
    cdef uint64_t k = 0
    cdef int err = 0
    if i_rwsem_lock(c, file):
        return -PMG_WAIT
    while k < n and not signal_pending(c, 1):
        if index >= MAX_INDEX_PAGES - k:
            err = refuse(EFBIG, RULE_FILE_SIZE, NULL if k else rule)
            break
        err = write_page(c, f, index + k, values[k])
        if err:
            break
        k += 1
    pmg_write_unlock(&f.i_rwsem)
    return <int64_t> k if k else err


cdef int find_uptodate_page(ctx_t *c, file_t *f, uint64_t index, uint32_t *pfn) noexcept nogil:
    """Get a cached page to read from, referenced, in ``pfn``, or 0 there when absent.  0 or -PMG_WAIT.

    A migration puts its target into the slot before it copies the content: that page stays locked until it is up to date.
    """
    while True:
        pfn[0] = find_get_page(c.m, f, index)
        # Acquire: without the page lock, the flag must be read before the content.
        if pfn[0] == 0 or pmg_load_acq(&c.m.frames[pfn[0]].state) & PG_uptodate or not PMG_GUARD(GUARD_UPTODATE):
            return 0
        if lock_page(c, pfn[0]):
            put_page(c, pfn[0])
            return -PMG_WAIT
        unlock_page(c.m, pfn[0])
        put_page(c, pfn[0])


cdef int filemap_get_page(ctx_t *c, file_t *f, uint64_t index, uint32_t *pfn) noexcept nogil:
    """Get a page for read(2), referenced and unlocked; ``pfn`` 0: a hole of shared memory, which reading does not fill."""
    cdef int err = find_uptodate_page(c, f, index, pfn)
    if err or f.kind == FILE_SHMEM:
        return err
    if pfn[0] == 0 and reads_ahead(f):
        ondemand_readahead(c, f, index, False, 1)
        if find_uptodate_page(c, f, index, pfn):
            return -PMG_WAIT
    if pfn[0] == 0:
        err = find_or_create_page(c, f, index, NULL, pfn)
        if err:
            return -PMG_WAIT if err & VM_FAULT_WAIT else -ENOMEM
        unlock_page(c.m, pfn[0])
    elif page_test_clear(c.m, pfn[0], PG_readahead):
        ondemand_readahead(c, f, index, True, 1)
    pmg_store(&f.ra[3], index + 1)
    return 0


cdef int64_t pmg_sys_read(ctx_t *c, uint32_t file, uint64_t index, uint64_t n, uint64_t *values) noexcept nogil:
    cdef file_t *f = file_of(c.m, file)
    cdef uint64_t k = 0
    cdef uint32_t pfn = 0
    cdef int err = 0
    while k < n and index + k < i_size_read(f) and not signal_pending(c, 1):
        err = filemap_get_page(c, f, index + k, &pfn)
        if err:
            break
        values[k] = page_token(c.m, pfn) if pfn else 0
        if pfn:
            put_page(c, pfn)
        k += 1
    return <int64_t> k if k else err


# -- writeback -----------------------------------------------------------------------------------------------------


cdef void page_mkclean_one(ctx_t *c, vma_t *vma, uint32_t pfn, uint64_t index) noexcept nogil:
    cdef machine_t *m = c.m
    cdef uint64_t vpn = vma_address(vma, <uint32_t> index)
    cdef uint32_t leaf = walk_leaf(m, mm_of(m, vma.mm).pgd, vpn) if vpn < vma.end else 0
    cdef pte_t *p
    cdef pte_t pte
    if not leaf:
        return
    p = leaf_pte(m, leaf, vpn)
    pte_lock(c, leaf)
    pte = pmg_load(p)
    if pte_present(pte) and pte_pfn(pte) == pfn:
        pmg_and(p, ~(PTE_D | PTE_RW))
        if pte & (PTE_D | PTE_RW):
            flush_tlb(c, vma.mm, vpn, 1, PMG_F_PROTECT)
    pte_unlock(c, leaf)


cdef void page_mkclean(ctx_t *c, file_t *f, uint32_t pfn, uint64_t index) noexcept nogil:
    """Write-protect and clean the shared mappings of a locked page, so that the next write faults."""
    cdef machine_t *m = c.m
    cdef uint32_t vmas[VMAS]
    cdef uint32_t i, n = VMAS, skip = 0
    if frame_maps(page_state(m, pfn)) == 0 or not m.profile.dirty_tracking:
        return
    i_mmap_lock_read(c, f, 1)
    while n == VMAS:
        n = rmap_vmas(m, f.tree, <uint32_t> index, <uint32_t> index, skip, vmas, VMAS)
        for i in range(n):
            if vma_flags(vma_of(m, vmas[i])) & VM_SHARED:
                page_mkclean_one(c, vma_of(m, vmas[i]), pfn, index)
        skip += n
    i_mmap_unlock_read(c, f)


cdef int writeback_pages(ctx_t *c, file_t *f, uint64_t first, uint64_t last) noexcept nogil:
    """Write dirty pages to disk (``filemap_fdatawrite_range``).  0, -ENOMEM or -PMG_WAIT."""
    cdef uint64_t index = next_page(c.m, f, first)
    cdef uint32_t pfn = 0
    cdef int err = 0
    while index != NO_PAGE and index <= last and err == 0:
        if signal_pending(c, 1) or find_lock_page(c, f, index, &pfn):
            return -PMG_WAIT
        if pfn:
            if page_test(c.m, pfn, PG_dirty):
                page_mkclean(c, f, pfn, index)
                # The end of writeback clears PG_reclaim, and with it the read-ahead mark.
                page_test_clear(c.m, pfn, PG_dirty | PG_readahead)
                err = disk_write(c.m, f, index, pfn)
            unlock_page(c.m, pfn)
            put_page(c, pfn)
        index = next_page(c.m, f, index + 1)
    return err


cdef bint file_writepage(ctx_t *c, uint32_t pfn) noexcept nogil:
    """Write a page to disk; tmpfs and ramfs have none, and swapping out tmpfs is not modelled."""
    cdef file_t *f = file_of(c.m, c.m.frames[pfn].mapping)
    if not has_disk(f) or disk_write(c.m, f, c.m.frames[pfn].index, pfn):
        return False
    create_empty_buffers(c.m, pfn)
    page_test_clear(c.m, pfn, PG_dirty)
    return True


cdef bint try_to_release_page(ctx_t *c, uint32_t pfn) noexcept nogil:
    if page_test(c.m, pfn, PG_dirty | PG_writeback):
        return False
    if page_test(c.m, pfn, PG_private) and pmg_load32(&file_of(c.m, c.m.frames[pfn].mapping).busy):
        return False
    if page_test_clear(c.m, pfn, PG_private):
        put_page(c, pfn)
    return True
