"""mbind, migrate_pages and move_pages of 2.6.17, 2.6.18 and pmig, after calls.pyx has checked the arguments."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t, mpol_t, nodemask_t, task_t

# do_mbind: start and end in pages; mmap_lock taken inside
cdef int64_t mbind_check_range(
        ctx_t *c, uint64_t start, uint64_t end, const mpol_t *pol, uint64_t user, uint32_t flags) noexcept nogil
# do_migrate_pages: mmap_lock of mm held for reading
cdef int64_t do_migrate_pages_check_range(
        ctx_t *c, uint32_t mm, const nodemask_t *old, const nodemask_t *new, uint32_t flags) noexcept nogil
cdef int64_t move_pages_whole_request(
        ctx_t *c, uint32_t mm, const uint64_t *addresses, const int32_t *nodes, uint64_t readable, uint64_t count,
        uint32_t flags, int32_t *status, uint64_t writable) noexcept nogil
# frames without a process, as one list where the kernel reports a result per page; status[i]: node or -errno.  Returns how
# many did not move, or -errno
cdef int64_t migrate_frame_list(
        ctx_t *c, const uint32_t *pfns, const int32_t *nodes, uint64_t n, int32_t *status) noexcept nogil
