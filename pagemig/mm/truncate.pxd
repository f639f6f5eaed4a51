"""Pages leave a file: truncate, punch a hole, fadvise."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t, file_t

cdef int file_truncate(ctx_t *c, uint32_t file, uint64_t pages) noexcept nogil
cdef int file_punch(ctx_t *c, uint32_t file, uint64_t index, uint64_t n) noexcept nogil
cdef int file_fadvise(ctx_t *c, uint32_t file, uint64_t index, uint64_t n, int advice, bint sync) noexcept nogil
# removes the PTEs of pages [first, last] of a file from every process (even_cows: private copies too)
cdef void unmap_mapping_pages(ctx_t *c, file_t *f, uint64_t first, uint64_t last, bint even_cows) noexcept nogil
