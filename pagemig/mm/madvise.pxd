"""madvise(2)."""
from libc.stdint cimport uint64_t

from pagemig.mm.types cimport ctx_t, task_t

# start and length are bytes; 0 or a negative errno
cdef int sys_madvise(ctx_t *c, task_t *t, uint64_t start, uint64_t length, int advice) noexcept nogil
