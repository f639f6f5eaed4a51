"""mlock(2) and its family; ``start`` and ``length`` are bytes, they return 0 or a negative errno."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t, task_t

# flags: MLOCK_ONFAULT 1
cdef int sys_mlock(ctx_t *c, task_t *t, uint64_t start, uint64_t length, uint32_t flags) noexcept nogil
cdef int sys_munlock(ctx_t *c, task_t *t, uint64_t start, uint64_t length) noexcept nogil
# MCL_CURRENT 1, FUTURE 2, ONFAULT 4
cdef int sys_mlockall(ctx_t *c, task_t *t, uint32_t flags) noexcept nogil
cdef int sys_munlockall(ctx_t *c, task_t *t) noexcept nogil
