"""Memory policies: making them, finding the one that counts, the node of each page, shared policies."""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t, file_t, machine_t, mpol_t, nodemask_t, task_t, vma_t

# Mode, flags (MPOL_F_*) and the caller's mask to a policy: 0, or -EINVAL and the rule; mpol_new also -ENOMEM, since it
# keeps a set with nodes above 63.  MPOL_DEFAULT gives an absent policy; PREFERRED without nodes becomes LOCAL.
cdef int mpol_set_nodemask(
        machine_t *m, uint32_t mode, uint32_t flags, const nodemask_t *user, mpol_t *out, uint32_t *rule) noexcept nogil
cdef int mpol_new(
        machine_t *m, uint32_t mode, uint32_t flags, const nodemask_t *user, mpol_t *out, uint32_t *rule) noexcept nogil
# a mode word taken apart: 0, or -EINVAL and the rule
cdef int sanitize_mpol_flags(
        machine_t *m, uint32_t word, uint32_t *mode, uint32_t *flags, uint32_t *rule) noexcept nogil
cdef void mpol_clear(mpol_t *pol) noexcept nogil                            # absent
# as the kernel compares: mode, flags, home node, nodes (user mask when it is kept)
cdef bint mpol_equal(const mpol_t *a, const mpol_t *b) noexcept nogil
# node of interleave rank r among nodes; weighted: of index among weights
cdef int32_t offset_il_node(uint64_t nodes, uint64_t index) noexcept nogil
cdef int32_t weighted_il_node(machine_t *m, uint64_t nodes, uint64_t index) noexcept nogil
# the policy of the mapping itself, without the task's (get_mempolicy, numa_maps); False: it has none
cdef bint vma_policy(machine_t *m, vma_t *vma, uint64_t vpn, mpol_t *out) noexcept nogil
# the policy that counts for a page of vma: shared policy of a shmem object, else the VMA's, else the task's (NULL:
# default).
# ilx: what is added to the interleave index (inode number for shmem).  out_pol is a copy.
cdef bint get_vma_policy(ctx_t *c, vma_t *vma, uint64_t vpn, mpol_t *out_pol) noexcept nogil
cdef int32_t il_next(ctx_t *c, task_t *t) noexcept nogil                    # -EINVAL: it does not interleave
cdef void get_task_policy(ctx_t *c, mpol_t *out) noexcept nogil      # absent without a task
# a frame for a page under a policy (mode MPOL_DEFAULT: local), zeroed, one reference; 0 when nothing is left.
# index is the interleave index (already biased); the zonelist starts at the node of c.cpu unless the policy says
# otherwise.
cdef uint32_t alloc_pages_policy(ctx_t *c, const mpol_t *pol, uint64_t index) noexcept nogil
# preferred node and allowed mask of the same decision, without allocating (migration targets, policy.targets)
cdef int32_t policy_node(ctx_t *c, const mpol_t *pol, uint64_t index, uint64_t *mask) noexcept nogil
# anonymous page of a fault, COW copy
cdef uint32_t alloc_page_vma(ctx_t *c, vma_t *vma, uint64_t vpn) noexcept nogil
# vma NULL: from write(2)
cdef uint32_t alloc_page_shmem(ctx_t *c, file_t *f, uint64_t index, vma_t *vma) noexcept nogil
# a process that interleaves: page tables and kernel objects take a turn each
cdef void kernel_memory(ctx_t *c, uint32_t objects) noexcept nogil
cdef uint32_t mpol_objects(const mpol_t *pol) noexcept nogil
# regular file: task policy, no VMA (il_prev)
cdef uint32_t alloc_page_cache(ctx_t *c) noexcept nogil
# interleave index of a page allocated for a VMA (anonymous, copied, migrated): offset in the object; from 6.7 on
# mappings of shmem add the inode number
cdef uint64_t interleave_index(ctx_t *c, vma_t *vma, uint64_t vpn) noexcept nogil
# shared policy of a shmem object (sp_node list, file.lock held inside)
cdef bint mpol_shared_policy_lookup(machine_t *m, file_t *f, uint64_t index, mpol_t *out) noexcept nogil
cdef int mpol_set_shared_policy(machine_t *m, file_t *f, uint64_t start, uint64_t end, const mpol_t *pol) noexcept nogil
cdef void mpol_free_shared_policy(machine_t *m, file_t *f) noexcept nogil
