"""The NUMA system calls of every kernel: their checks, and what today's kernels do.  calls_2006 has the rest."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig.mm.place cimport coder_t
from pagemig.mm.types cimport ctx_t, machine_t, mpol_t, vma_t
from pagemig.mm.uaccess cimport pmg_user_t

# The system calls, with the kernel's arguments in the kernel's order and all of its checks.  They return what the kernel
# returns: a value, or -errno with the number of the rule that refused (rule may be NULL).  ctx.task is the caller and
# ctx.mm its address space; move_pages and migrate_pages look up the target's themselves.
cdef int64_t pmg_sys_move_pages(
        ctx_t *c, int32_t pid, uint64_t count, const pmg_user_t *pages, const pmg_user_t *nodes,
        const pmg_user_t *status, uint32_t flags, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_migrate_pages(
        ctx_t *c, int32_t pid, uint64_t maxnode, const pmg_user_t *old_nodes, const pmg_user_t *new_nodes,
        uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_mbind(
        ctx_t *c, uint64_t start, uint64_t length, uint32_t mode, const pmg_user_t *nodes, uint64_t maxnode,
        uint64_t flags, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_set_mempolicy(
        ctx_t *c, uint32_t mode, const pmg_user_t *nodes, uint64_t maxnode, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_get_mempolicy(
        ctx_t *c, const pmg_user_t *mode, const pmg_user_t *nodes, uint64_t maxnode, uint64_t addr, uint64_t flags,
        uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_set_mempolicy_home_node(
        ctx_t *c, uint64_t start, uint64_t length, uint64_t home_node, uint64_t flags, uint32_t *rule) noexcept nogil
# the policy of a mapping at a page, without the task's: for shared memory the object's
cdef void vma_own_policy(machine_t *m, vma_t *vma, uint64_t vpn, mpol_t *out) noexcept nogil
# page i to node i, with no process context; status[i]: node or negative errno
cdef int64_t migrate_frames(
        ctx_t *c, const uint32_t *pfns, const int32_t *nodes, uint64_t n, int32_t *status) noexcept nogil
# code the locals of each call (see place); the coder has the process and the number of entries
cdef void code_move_pages(coder_t *w, void *locals) noexcept nogil
cdef void code_migrate_pages(coder_t *w, void *locals) noexcept nogil
cdef void code_mbind(coder_t *w) noexcept nogil
cdef void code_migrate_frames(coder_t *w) noexcept nogil


cdef struct called_t:           # locals of move_pages and migrate_pages: the target process; ctx.target_mm is its address space
    uint32_t task
