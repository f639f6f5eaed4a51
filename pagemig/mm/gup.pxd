"""get_user_pages and its kin: fault pages in, look pages up with a reference, pin them.

mmap_lock is held for reading.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t, mm_t, vma_t

# get_user_pages family; mmap_lock held for reading, nonzero results are -errno
# 0, -EFAULT, -ENOMEM, -PMG_WAIT
cdef int faultin_page(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t flags) noexcept nogil
# populate_vma_page_range over VMAs for mlock/MAP_POPULATE (ignore errors) and madvise POPULATE (write decides); 0 or
# -errno
cdef int mm_populate(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, bint ignore_errors) noexcept nogil
cdef int populate_range(ctx_t *c, mm_t *mm, uint64_t start, uint64_t end, bint write, uint64_t *done) noexcept nogil
# the page behind vpn with one more reference (follow_page with FOLL_GET|FOLL_DUMP, the way move_pages looks):
# frame, 0 with *err = -ENOENT or -EFAULT as the kernel's profile answers (zero page and absent pages)
cdef uint32_t follow_page(ctx_t *c, vma_t *vma, uint64_t vpn, int *err) noexcept nogil
# pages taken, or -errno
cdef int64_t pin_user_pages(
        ctx_t *c, mm_t *mm, uint64_t vpn, uint64_t n, bint longterm, bint write, uint32_t *pfns) noexcept nogil
cdef void unpin_pages(ctx_t *c, const uint32_t *pfns, uint32_t n, bint longterm) noexcept nogil
