"""Credentials: which process may inspect and move the memory of which."""
from libc.stdint cimport int32_t, int64_t, uint32_t

from pagemig.mm.types cimport ctx_t, task_t


ctypedef struct cred_t:
    uint32_t uid, euid, suid, gid
    uint32_t caps               # CAP_*
    bint dumpable
    bint has_mm                 # neither a zombie nor a kernel thread


cdef void get_cred(ctx_t *c, task_t *t, cred_t *out) noexcept nogil
cdef bint capable(ctx_t *c, uint32_t cap) noexcept nogil
# set every uid, the gid and mm.dumpable; a uid other than 0 loses its capabilities
cdef int64_t pmg_sys_setuid(
        ctx_t *c, uint32_t uid, uint32_t gid, bint dumpable, uint32_t *rule) noexcept nogil
# The process that a call is about, referenced until put_target: 0, -ESRCH or -EPERM; NULL for a kernel thread.
cdef int get_target(ctx_t *c, int32_t pid, task_t **target) noexcept nogil
cdef void put_target(ctx_t *c, task_t *target) noexcept nogil
