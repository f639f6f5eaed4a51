"""The arithmetic of memory policies, for whole arrays and without a machine."""
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from pagemig._arrays cimport data_of, I32, U64
from pagemig.mm.mempolicy cimport mpol_set_nodemask, policy_node, sanitize_mpol_flags
from pagemig.mm.types cimport (
    ctx_t, machine_t, MAX_NODES, MPOL_F_NUMA_BALANCING, MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES, mpol_t, nodemask_t,
)


def mpol_effective(uint32_t mode, uint32_t flags, bytes user, uint64_t allowed):
    """Compute the nodes that a policy uses of a mask of 1,024 bits when only ``allowed`` exist; 0 for EINVAL."""
    cdef machine_t *m = <machine_t *> calloc(1, sizeof(machine_t))
    cdef nodemask_t mask
    cdef mpol_t pol
    cdef uint32_t rule, word = mode | flags
    cdef int rc
    if m == NULL:
        raise MemoryError
    memset(&mask, 0, sizeof(mask))
    memcpy(&mask, PyBytes_AS_STRING(user), min(<size_t> len(user), sizeof(mask)))
    m.profile.mode_mask = 0x7f
    m.profile.mode_flags = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES | MPOL_F_NUMA_BALANCING
    m.profile.balancing_many = 1
    m.has_memory = allowed
    m.nr_nodes = MAX_NODES
    rc = sanitize_mpol_flags(m, word, &mode, &flags, &rule) or mpol_set_nodemask(m, mode, flags, &mask, &pol, &rule)
    free(m)
    return pol.nodes if rc == 0 else 0


def mpol_targets(uint32_t mode, uint32_t flags, uint64_t nodes, weights, pages, int32_t local, out):
    """Compute the node of each page number under a policy; out is int32, weights 64 uint8 (None: all 1)."""
    cdef uint64_t *p = <uint64_t *> data_of(pages, U64, "pages")
    cdef int32_t *o = <int32_t *> data_of(out, I32, "out")
    cdef uint64_t i, n = len(pages)
    cdef machine_t *m
    cdef ctx_t c
    cdef mpol_t pol
    cdef uint64_t mask = 0
    if <uint64_t> len(out) != n:
        raise ValueError(f"out must hold {n} nodes, not {len(out)}")
    m = <machine_t *> calloc(1, sizeof(machine_t))
    if m == NULL:
        raise MemoryError
    m.nr_nodes = MAX_NODES
    m.has_memory = <uint64_t> -1
    m.profile.mbind_ilx = 1             # all 64 bits of the index count; callers cut it as their kernel does
    for i in range(MAX_NODES):
        m.node[i].weight = weights[i] if weights is not None else 1
        m.node[i].fallback[0] = <uint32_t> i
        for k in range(1, MAX_NODES):
            m.node[i].fallback[k] = <uint32_t> (k - 1 if <uint64_t> k <= i else k)
    memset(&c, 0, sizeof(c))
    c.m = m
    c.nid = local
    pol.mode = mode
    pol.flags = flags
    pol.home_node = -1
    pol.nodes = nodes
    pol.user = nodes
    with nogil:
        for i in range(n):
            o[i] = policy_node(&c, &pol, p[i], &mask)
    free(m)
