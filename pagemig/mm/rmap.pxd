"""Reverse map: which VMAs map a page.  anon_vma chains and i_mmap trees share one interval tree.

Page indices count modulo 2^32 (addresses go beyond 16 TiB), so a hit is a candidate, which the frame number in the
page-table entry confirms.
"""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t, file_t, machine_t, vma_t

# -- anon_vma life; mmap_lock of the vma's mm held for writing (anon_vma_prepare: reading is enough) -----------
cdef int anon_vma_prepare(ctx_t *c, vma_t *vma) noexcept nogil                       # 0 or -ENOMEM
# 0, or -ENOMEM and dst has no chain
cdef int anon_vma_clone(ctx_t *c, vma_t *dst, vma_t *src) noexcept nogil
cdef int anon_vma_fork(ctx_t *c, vma_t *child, vma_t *parent) noexcept nogil
cdef void unlink_anon_vmas(ctx_t *c, vma_t *vma) noexcept nogil
cdef void get_anon_vma(machine_t *m, uint32_t av) noexcept nogil                     # a reference that keeps it alive
cdef void put_anon_vma(machine_t *m, uint32_t av) noexcept nogil
# the anon_vma of a mapped page, referenced; 0 when the page is not mapped or not anonymous
cdef uint32_t page_get_anon_vma(machine_t *m, uint32_t pfn) noexcept nogil
# -- files --------------------------------------------------------------------------------------------------------
cdef int vma_link_file(ctx_t *c, vma_t *vma) noexcept nogil                          # into file's i_mmap: 0 or -ENOMEM
cdef void unlink_file_vma(ctx_t *c, vma_t *vma) noexcept nogil
# -- to change start, end or pgoff of a linked VMA, remove it from its trees, change it, insert it again ----------
cdef void vma_trees_remove(ctx_t *c, vma_t *vma) noexcept nogil
cdef void vma_trees_insert(ctx_t *c, vma_t *vma) noexcept nogil
# keep rmap walks out of the VMA for a while without changing its place
cdef void vma_trees_lock(ctx_t *c, vma_t *vma) noexcept nogil
cdef void vma_trees_unlock(ctx_t *c, vma_t *vma) noexcept nogil
# -- locks of a page's mapping (readers: rmap walks; writers: the functions above).  One walk may serve many pages: n is
#    how often the modelled kernel takes the lock for them, page by page -------------------------------------------------
cdef void anon_vma_lock_read(ctx_t *c, uint32_t av, uint32_t n) noexcept nogil
cdef void anon_vma_unlock_read(ctx_t *c, uint32_t av) noexcept nogil
# page_lock_anon_vma, without a reference: the root to unlock, or 0 when the anon_vma has no VMA left
cdef uint32_t anon_vma_lock_typed(ctx_t *c, uint32_t av, uint32_t n) noexcept nogil
cdef void anon_vma_unlock_typed(ctx_t *c, uint32_t root) noexcept nogil
cdef void i_mmap_lock_read(ctx_t *c, file_t *f, uint32_t n) noexcept nogil
cdef void i_mmap_unlock_read(ctx_t *c, file_t *f) noexcept nogil
# VMAs of a tree that overlap page indices first through last: skips skip of them, writes at most max, returns how many.
cdef uint64_t rmap_last(machine_t *m, uint32_t tree) noexcept nogil       # the last index of any VMA, 0 without one
cdef uint32_t rmap_vmas(
        machine_t *m, uint32_t tree, uint32_t first, uint32_t last, uint32_t skip, uint32_t *vmas,
        uint32_t max) noexcept nogil
# -- a page gains or loses a mapping; the page-table lock is held.  Updates mapcount, flags, mlock count and rss.
#    References are the caller's: a new PTE owns one, page_remove_rmap does not drop it.  False: the count is full -----
# exclusive, swapbacked, on the LRU
cdef void page_add_new_anon_rmap(ctx_t *c, uint32_t pfn, vma_t *vma, uint64_t vpn) noexcept nogil
cdef bint page_add_anon_rmap(ctx_t *c, uint32_t pfn, vma_t *vma) noexcept nogil
cdef bint page_add_file_rmap(ctx_t *c, uint32_t pfn, vma_t *vma) noexcept nogil
cdef void page_remove_rmap(ctx_t *c, uint32_t pfn, vma_t *vma) noexcept nogil
cdef void mlock_vma_page(ctx_t *c, uint32_t pfn, vma_t *vma) noexcept nogil      # counts a mapping in a VM_LOCKED vma
cdef void munlock_vma_page(ctx_t *c, uint32_t pfn) noexcept nogil
cdef void lru_add_drain(ctx_t *c) noexcept nogil                # drain the list of this CPU
cdef void lru_cache_disable(ctx_t *c) noexcept nogil            # drain those of all CPUs and bypass them until enabled
cdef void lru_cache_enable(ctx_t *c) noexcept nogil
cdef void lru_cache_add(ctx_t *c, uint32_t pfn) noexcept nogil
