"""Truncate a file, punch a hole into it, fadvise."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t

# the calls, in pages: 0 or -errno, with the rule that refused
cdef int64_t pmg_sys_ftruncate(ctx_t *c, uint32_t file, uint64_t pages, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_fallocate(ctx_t *c, uint32_t file, uint64_t index, uint64_t n, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_fadvise(
        ctx_t *c, uint32_t file, uint64_t index, uint64_t n, int advice, bint sync, uint32_t *rule) noexcept nogil
# the same after the checks of arguments; madvise uses them too
cdef int file_punch(ctx_t *c, uint32_t file, uint64_t index, uint64_t n) noexcept nogil
cdef int file_fadvise(ctx_t *c, uint32_t file, uint64_t index, uint64_t n, int advice, bint sync) noexcept nogil
