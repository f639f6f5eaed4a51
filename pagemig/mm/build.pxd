"""Building a machine: a zeroed ``machine_t`` with page_bytes and access_stats set goes through these in order.

They answer 0, or -ENOMEM where the host refuses the address space; ``arenas_release`` then gives back what it granted.
"""
from libc.stdint cimport uint32_t, uint64_t, uint8_t

from pagemig.mm.types cimport machine_t

ctypedef struct node_spec_t:
    uint64_t pages
    uint64_t reserved           # of those, kept for the kernel
    uint64_t watermark          # left to allocations that take no other node
    uint32_t cpus
    uint32_t weight             # of weighted interleaving

# switches of profile_t by name, in order: the number of each one's word
cdef dict profile_layout()
# a profile_t and its size; -EINVAL: another size
cdef int set_profile(machine_t *m, const void *record, uint64_t size) noexcept nogil
# n x n distances, by rows
cdef int build_nodes(machine_t *m, const node_spec_t *nodes, uint32_t n, const uint8_t *distances) noexcept nogil
cdef int build_arenas(machine_t *m) noexcept nogil
# pages of each swap device; -EINVAL: the kernel has none (profile.swap)
cdef int build_swap(machine_t *m, const uint64_t *slots, uint32_t n) noexcept nogil
# give out the free frames of every node in an order that ``seed`` decides
cdef void scatter(machine_t *m, uint64_t seed) noexcept nogil
