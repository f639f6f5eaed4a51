"""Truncate a file, punch a hole into it, fadvise."""
from libc.errno cimport EFBIG, EINVAL, ENOSYS, EOPNOTSUPP
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport GUARD_TRUNCATED, PMG_GUARD, pmg_store, pmg_write_unlock
from pagemig.mm.context cimport LOOK_EVERY, signal_pending
from pagemig.mm.filemap cimport (
    delete_from_page_cache, disk_discard, do_page_cache_ra, find_get_page, find_lock_page, has_disk, i_rwsem_lock,
    i_size_read, next_page, NO_PAGE, nr_slots, page_belongs, POSIX_FADV_DONTNEED, POSIX_FADV_NOREUSE, POSIX_FADV_WILLNEED,
    VMAS, writeback_pages,
)
from pagemig.mm.frame cimport frame_refs, page_mapcount, page_state, trylock_page, unlock_page
from pagemig.mm.memory cimport ZAP_EVEN_COWS, zap_page_range
from pagemig.mm.page_alloc cimport file_of, mm_of, put_page, vma_of
from pagemig.mm.rmap cimport i_mmap_lock_read, i_mmap_unlock_read, rmap_last, rmap_vmas
from pagemig.mm.rules cimport refuse, RULE_ADVICE, RULE_CALL, RULE_FILE_SIZE, RULE_LENGTH, RULE_NO_HOLES
from pagemig.mm.types cimport (
    CALL_FALLOCATE, ctx_t, FILE_RAMFS, file_t, machine_t, MAX_INDEX_PAGES, PG_dirty, PG_private, PG_writeback, PMG_WAIT,
    vma_t,
)


cdef enum:
    UNMAPPED_AT_ONCE = 1 << 17  # pages of a mapping: some milliseconds


cdef void unmap_part(
        ctx_t *c, file_t *f, uint64_t first, uint64_t last, bint even_cows, uint32_t locks) noexcept nogil:
    """Unmap a file's pages; ``locks`` times the kernel takes i_mmap_lock for them.

    The lock keeps the VMAs in the tree, and their page tables are freed after they leave it.
    """
    cdef machine_t *m = c.m
    cdef uint32_t vmas[VMAS]
    cdef uint32_t i, n = VMAS, skip = 0
    cdef uint64_t lo, hi
    cdef vma_t *vma
    i_mmap_lock_read(c, f, locks)
    while n == VMAS:
        n = rmap_vmas(m, f.tree, <uint32_t> min(first, <uint64_t> 0xffffffffu), <uint32_t> min(last, <uint64_t> 0xffffffffu),
                      skip, vmas, VMAS)
        for i in range(n):
            vma = vma_of(m, vmas[i])
            lo = max(first, vma.pgoff)
            hi = min(last, vma.pgoff + (vma.end - vma.start) - 1)
            if lo <= hi:
                zap_page_range(c, mm_of(m, vma.mm), vma, vma.start + (lo - vma.pgoff), vma.start + (hi - vma.pgoff) + 1,
                               ZAP_EVEN_COWS if even_cows else 0)
        skip += n
    i_mmap_unlock_read(c, f)


cdef uint64_t last_mapped(ctx_t *c, file_t *f) noexcept nogil:
    """Find the last index that a mapping of the file has now."""
    cdef uint64_t last
    i_mmap_lock_read(c, f, 0)
    last = rmap_last(c.m, f.tree)
    i_mmap_unlock_read(c, f)
    return last


cdef int unmap_mapping_pages(ctx_t *c, file_t *f, uint64_t first, uint64_t last, bint even_cows) noexcept nogil:
    """Unmap a file's pages, a part at a time: 0, or -PMG_WAIT with the rest still mapped."""
    cdef uint32_t locks = 1
    cdef uint64_t end = min(last, last_mapped(c, f)) if last - first >= UNMAPPED_AT_ONCE else first
    while first + UNMAPPED_AT_ONCE <= end:
        unmap_part(c, f, first, first + UNMAPPED_AT_ONCE - 1, even_cows, locks)
        first += UNMAPPED_AT_ONCE
        locks = 0
        if signal_pending(c, LOOK_EVERY):
            return -PMG_WAIT
    unmap_part(c, f, first, last, even_cows, locks)
    return 0


cdef int truncate_inode_pages(ctx_t *c, file_t *f, uint64_t first, uint64_t last) noexcept nogil:
    """Drop pages first through last, dirty or not, from cache and disk.  0, or -PMG_WAIT with the rest still there."""
    cdef uint64_t index = next_page(c.m, f, first)
    cdef uint32_t pfn = 0
    while index != NO_PAGE and index <= last:
        if signal_pending(c, 1) or find_lock_page(c, f, index, &pfn):
            if has_disk(f) and index > first:
                disk_discard(c.m, f, first, index - 1)
            return -PMG_WAIT
        if pfn:
            # A fault may have mapped the page again since the range was unmapped; under the page lock none can.
            if page_mapcount(c.m, pfn) and PMG_GUARD(GUARD_TRUNCATED):
                unmap_part(c, f, index, index, False, 1)
            delete_from_page_cache(c, pfn)
            unlock_page(c.m, pfn)
            put_page(c, pfn)
        index = next_page(c.m, f, index + 1)
    if has_disk(f):
        disk_discard(c.m, f, first, last)
    return 0


cdef int file_truncate(ctx_t *c, uint32_t file, uint64_t pages) noexcept nogil:
    """Set a file's size.  If a wait is given up, the size stays as it was and the pages dropped by then are a hole."""
    cdef file_t *f = file_of(c.m, file)
    cdef uint64_t last = <uint64_t> -1, size
    cdef int err = 0
    if i_rwsem_lock(c, file):
        return -PMG_WAIT
    size = f.size
    pmg_store(&f.size, pages)
    if nr_slots(f) > pages:
        # Private copies of pages past the end go too: an access there is SIGBUS from now on.
        err = unmap_mapping_pages(c, f, pages, last, True) or truncate_inode_pages(c, f, pages, last)
        # Unmap once more for faults that read the size before it changed and made private copies since.  They held their
        # page's lock, and every page has been locked here, so they are over.  Through 2.6.22 such a fault finds
        # truncate_count changed and retries.
        if err == 0 and PMG_GUARD(GUARD_TRUNCATED):
            err = unmap_mapping_pages(c, f, pages, last, True)
    elif has_disk(f):
        disk_discard(c.m, f, pages, last)
    if err:
        pmg_store(&f.size, size)
    pmg_write_unlock(&f.i_rwsem)
    return err


cdef int file_punch(ctx_t *c, uint32_t file, uint64_t index, uint64_t n) noexcept nogil:
    cdef file_t *f = file_of(c.m, file)
    cdef int err = 0
    if f.kind == FILE_RAMFS:
        return -EOPNOTSUPP
    if i_rwsem_lock(c, file):
        return -PMG_WAIT
    if index < i_size_read(f):
        err = unmap_mapping_pages(c, f, index, index + n - 1, c.m.profile.remove_loops != 0)
        err = err or truncate_inode_pages(c, f, index, index + n - 1)
    pmg_write_unlock(&f.i_rwsem)
    return err


cdef void invalidate_mapping_pages(ctx_t *c, file_t *f, uint64_t first, uint64_t last) noexcept nogil:
    """Drop cached pages that are clean, unmapped, unlocked and without other references."""
    cdef machine_t *m = c.m
    cdef uint64_t index = next_page(m, f, first), state
    cdef uint32_t pfn
    while index != NO_PAGE and index <= last and not signal_pending(c, 1):
        pfn = find_get_page(m, f, index)
        if pfn and trylock_page(m, pfn):
            state = page_state(m, pfn)
            if page_belongs(m, pfn, f, index) and not state & (PG_dirty | PG_writeback) and \
                    frame_refs(state) == 2 + <uint64_t> ((state & PG_private) != 0):
                delete_from_page_cache(c, pfn)
            unlock_page(m, pfn)
        if pfn:
            put_page(c, pfn)
        index = next_page(m, f, index + 1)


cdef int file_fadvise(ctx_t *c, uint32_t file, uint64_t index, uint64_t n, int advice, bint sync) noexcept nogil:
    """Apply advice to a range; ``n`` 0: to the end.  A file system in memory has no disk and ignores it."""
    cdef file_t *f = file_of(c.m, file)
    cdef uint64_t last = index + n - 1 if n else <uint64_t> -1
    cdef int err = 0
    if not has_disk(f):
        return 0
    if sync:
        err = writeback_pages(c, f, 0, <uint64_t> -1)
    if err == 0 and advice == POSIX_FADV_WILLNEED:
        do_page_cache_ra(c, f, index, n if n else i_size_read(f), 0)
    elif err == 0 and advice == POSIX_FADV_DONTNEED:
        err = writeback_pages(c, f, index, last)
        invalidate_mapping_pages(c, f, index, last)
    return err


# -- system calls ------------------------------------------------------------------------------------------------


cdef int64_t pmg_sys_ftruncate(ctx_t *c, uint32_t file, uint64_t pages, uint32_t *rule) noexcept nogil:
    return refuse(EFBIG, RULE_FILE_SIZE, rule) if pages > MAX_INDEX_PAGES else file_truncate(c, file, pages)


cdef int64_t pmg_sys_fallocate(ctx_t *c, uint32_t file, uint64_t index, uint64_t n, uint32_t *rule) noexcept nogil:
    """Punch a hole of ``n`` pages: FALLOC_FL_PUNCH_HOLE is the only mode modelled."""
    if not c.m.profile.call_mask & CALL_FALLOCATE:
        return refuse(ENOSYS, RULE_CALL, rule)
    if n == 0:
        return refuse(EINVAL, RULE_LENGTH, rule)
    if file_of(c.m, file).kind == FILE_RAMFS:
        return refuse(EOPNOTSUPP, RULE_NO_HOLES, rule)
    return file_punch(c, file, index, n)


cdef int64_t pmg_sys_fadvise(
        ctx_t *c, uint32_t file, uint64_t index, uint64_t n, int advice, bint sync, uint32_t *rule) noexcept nogil:
    if advice < 0 or advice > POSIX_FADV_NOREUSE:
        return refuse(EINVAL, RULE_ADVICE, rule)
    return file_fadvise(c, file, index, n, advice, sync)
