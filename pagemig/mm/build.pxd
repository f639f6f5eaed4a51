"""Build a machine: call these in order on a zeroed ``machine_t`` with page_bytes and access_stats set.

They return 0, or -ENOMEM where the host refuses the address space; then ``arenas_release`` returns what it granted.
"""
from libc.stdint cimport uint32_t, uint64_t, uint8_t

from pagemig.mm.types cimport machine_t, stop_t

ctypedef struct node_spec_t:
    uint64_t pages
    uint64_t reserved           # how many of those the kernel keeps
    uint64_t watermark          # left to allocations that have no other node
    uint32_t cpus
    uint32_t weight             # of weighted interleaving

# the index of each switch of profile_t, by name and in order
cdef dict profile_layout()
# set the profile from a profile_t and its size; -EINVAL: wrong size
cdef int set_profile(machine_t *m, const void *record, uint64_t size) noexcept nogil
# n x n distances, by rows
cdef int build_nodes(machine_t *m, const node_spec_t *nodes, uint32_t n, const uint8_t *distances) noexcept nogil
cdef int build_arenas(machine_t *m) noexcept nogil
# pages of each swap device; -EINVAL: this kernel models no swap (profile.swap)
cdef int build_swap(machine_t *m, const uint64_t *slots, uint32_t n) noexcept nogil
# shuffle the order in which every node allocates its free frames, by `seed`; False: `stop` (may be NULL) returned True
cdef bint scatter(machine_t *m, uint64_t seed, stop_t stop, void *private_) noexcept nogil
