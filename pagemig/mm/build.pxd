"""Building a machine: a zeroed ``machine_t`` with page_bytes and access_stats set goes through these in order."""
from libc.stdint cimport uint64_t

from pagemig.mm.types cimport machine_t

# zeroed memory that goes with the machine; MemoryError where the host refuses
cdef void *records(machine_t *m, uint64_t n, uint64_t size) except NULL
# every switch of profile_t by its name
cdef void set_profile(machine_t *m, dict profile) except *
# pages, processors and pages kept for the kernel of each node; distances as an array of shape (n, n)
cdef void build_nodes(machine_t *m, list pages, list cpus, list reserved, object distances) except *
# MemoryError where the host refuses the address space
cdef void build_arenas(machine_t *m) except *
# pages of each swap device
cdef void build_swap(machine_t *m, list slots) except *
