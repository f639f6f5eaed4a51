"""get_user_pages and its kin: fault pages in, look pages up with a reference, pin them.

mmap_lock is held for reading.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_load_acq, pmg_prefetchw
from pagemig.mm.page_alloc cimport put_page
from pagemig.mm.pgtable cimport leaf_number, leaf_pte, walk_leaf
from pagemig.mm.pte cimport PTE_P, pte_pfn, PTE_SPECIAL, pte_t
from pagemig.mm.types cimport ctx_t, machine_t, mm_t, TASK_SIZE_PAGES, vma_t
from pagemig.mm.vma cimport vma_lookup

# get_user_pages family; mmap_lock held for reading, nonzero results are -errno
# 0, -EFAULT, -ENOMEM, -PMG_WAIT
cdef int faultin_page(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t flags, bint retries) noexcept nogil
# populate_vma_page_range over VMAs for mlock/MAP_POPULATE (ignore errors) and madvise POPULATE (write decides); 0 or
# -errno
cdef int mm_populate(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, bint ignore_errors) noexcept nogil
# through 2.6.37: fault in [start, end) of one mapping; -EPERM where a page fails after others succeeded
cdef int make_pages_present(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil
# MAP_POPULATE through 2.6.22 (sys_remap_file_pages)
cdef int populate_object(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end) noexcept nogil
cdef int populate_range(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, bint write, uint64_t *done) noexcept nogil
# the page mapped at vpn with one more reference (follow_page with FOLL_GET|FOLL_DUMP, as move_pages does): its frame, or 0
# with *err = -ENOENT or -EFAULT, by profile (zero page and absent pages)
cdef uint32_t follow_page(ctx_t *c, vma_t *vma, uint64_t vpn, int *err) noexcept nogil
# pages taken, or -errno
cdef int64_t pin_user_pages(
        ctx_t *c, mm_t *mm, uint64_t vpn, uint64_t n, bint longterm, bint write, uint32_t *pfns) noexcept nogil
cdef void unpin_pages(ctx_t *c, const uint32_t *pfns, uint32_t n, bint longterm) noexcept nogil

# -- lookup of the pages of many addresses ----------------------------------------------------------------------------


cdef struct look_t:                 # VMA and leaf table of the last address: the next is likely to share them
    machine_t *m
    mm_t *mm
    vma_t *vma
    uint32_t leaf
    uint64_t base
    uint64_t near                   # the cache line of frames that look_ahead prefetched last


cdef inline void look_begin(look_t *l, machine_t *m, mm_t *mm) noexcept nogil:
    l.m = m
    l.mm = mm
    l.vma = NULL
    l.leaf = 0
    l.base = <uint64_t> -1
    l.near = 0


cdef inline vma_t *look_vma(look_t *l, uint64_t vpn) noexcept nogil:
    if l.vma == NULL or vpn < l.vma.start or vpn >= l.vma.end:
        l.vma = vma_lookup(l.m, l.mm, vpn)
    return l.vma


cdef inline pte_t look_pte(look_t *l, uint64_t vpn) noexcept nogil:
    if leaf_number(vpn) != l.base:
        l.base = leaf_number(vpn)
        l.leaf = walk_leaf(l.m, l.mm.pgd, vpn) if vpn < TASK_SIZE_PAGES else 0
    return pmg_load_acq(leaf_pte(l.m, l.leaf, vpn)) if l.leaf else 0


cdef inline uint32_t look_page(ctx_t *c, look_t *l, uint64_t vpn, int *err) noexcept nogil:
    """Find the frame of a page of l.vma, without a reference; 0 with the kernel's errno if it has none."""
    cdef pte_t pte = look_pte(l, vpn)
    cdef uint32_t pfn
    if pte & PTE_P and not pte & PTE_SPECIAL:
        return <uint32_t> pte_pfn(pte)
    pfn = follow_page(c, l.vma, vpn, err)
    if pfn:
        put_page(c, pfn)
    return pfn


cdef inline void look_ahead(look_t *l, uint64_t vpn) noexcept nogil:
    """Prefetch a frame that is needed soon; the entry read here is only a hint."""
    cdef pte_t pte = look_pte(l, vpn)
    if pte & PTE_P and pte >> 14 != l.near:         # four records share a line, and neighbours often come together
        l.near = pte >> 14
        pmg_prefetchw(&l.m.frames[pte_pfn(pte)])
