"""Memory policies: construction, lookup of the effective policy, the node of each page, shared policies."""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from pagemig.mm.types cimport ctx_t, file_t, machine_t, mpol_t, nodemask_t, task_t, vma_t

# Make a policy from mode, flags (MPOL_F_*) and the caller's mask: 0, or -EINVAL and the rule; mpol_new also -ENOMEM, since
# it records a set with nodes above 63.  MPOL_DEFAULT gives an absent policy; PREFERRED without nodes becomes LOCAL.
cdef int mpol_set_nodemask(
        machine_t *m, uint32_t mode, uint32_t flags, const nodemask_t *user, mpol_t *out, uint32_t *rule) noexcept nogil
cdef int mpol_new(
        machine_t *m, uint32_t mode, uint32_t flags, const nodemask_t *user, mpol_t *out, uint32_t *rule) noexcept nogil
# split a mode word into mode and flags: 0, or -EINVAL and the rule
cdef int sanitize_mpol_flags(
        machine_t *m, uint32_t word, uint32_t *mode, uint32_t *flags, uint32_t *rule) noexcept nogil
cdef void mpol_clear(mpol_t *pol) noexcept nogil                            # make it absent
# compare as __mpol_equal does: mode, flags, home node, nodes (the user's mask where the policy stores it)
cdef bint mpol_equal(const mpol_t *a, const mpol_t *b) noexcept nogil
# node of an interleave index: round robin over nodes, or in proportion to their weights
cdef int32_t offset_il_node(uint64_t nodes, uint64_t index) noexcept nogil
cdef int32_t weighted_il_node(machine_t *m, uint64_t nodes, uint64_t index) noexcept nogil
# __get_vma_policy: the policy of the mapping itself, without the task's (get_mempolicy, numa_maps); False: it has none
cdef bint vma_policy(machine_t *m, vma_t *vma, uint64_t vpn, mpol_t *out) noexcept nogil
# the effective policy of a page of vma, copied to out_pol: a shmem object's shared policy, else the VMA's, else the task's
cdef bint get_vma_policy(ctx_t *c, vma_t *vma, uint64_t vpn, mpol_t *out_pol) noexcept nogil
cdef int32_t il_next(ctx_t *c, task_t *t) noexcept nogil                    # -EINVAL: the task does not interleave
cdef void get_task_policy(ctx_t *c, mpol_t *out) noexcept nogil      # absent without a task
# a frame under a policy (mode MPOL_DEFAULT: local), zeroed, one reference; 0 when no allowed node has one.
# index is the interleave index, bias included; the zonelist starts at the node of c.cpu unless the policy says otherwise.
cdef uint32_t alloc_pages_policy(ctx_t *c, const mpol_t *pol, uint64_t index) noexcept nogil
# the same decision without allocating: preferred node and allowed mask (migration targets, policy.targets)
cdef int32_t policy_node(ctx_t *c, const mpol_t *pol, uint64_t index, uint64_t *mask) noexcept nogil
# for an anonymous fault or a COW copy
cdef uint32_t alloc_page_vma(ctx_t *c, vma_t *vma, uint64_t vpn) noexcept nogil
# vma NULL: from write(2)
cdef uint32_t alloc_page_shmem(ctx_t *c, file_t *f, uint64_t index, vma_t *vma) noexcept nogil
# page tables and kernel objects of an interleaving task take their turn in the interleaving
cdef void kernel_memory(ctx_t *c, uint32_t objects) noexcept nogil
cdef uint32_t mpol_objects(const mpol_t *pol) noexcept nogil
# for a regular file: by the task's policy and its il_prev, without a VMA
cdef uint32_t alloc_page_cache(ctx_t *c) noexcept nogil
# interleave index of a page allocated for a VMA (anonymous, copied, migrated): its offset in the object; from 6.7 on
# mappings of shmem add the inode number
cdef uint64_t interleave_index(ctx_t *c, vma_t *vma, uint64_t vpn) noexcept nogil
# shared policy of a shmem object (list of sp_nodes; file.lock taken inside)
cdef bint mpol_shared_policy_lookup(machine_t *m, file_t *f, uint64_t index, mpol_t *out) noexcept nogil
cdef int mpol_set_shared_policy(machine_t *m, file_t *f, uint64_t start, uint64_t end, const mpol_t *pol) noexcept nogil
cdef void mpol_free_shared_policy(machine_t *m, file_t *f) noexcept nogil
