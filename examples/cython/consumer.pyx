"""A loop in Cython over the table: sum the cost of a walk over memory, by the node of each page."""
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from pagemig cimport PMG_K_MAJOR, PMG_READ, pmg_api, pmg_ctx, pmg_import, pmg_outcome

cdef const pmg_api *api = pmg_import()          # an ImportError says what to do about another ABI


def walk_ns(uintptr_t context, uint64_t base, int64_t pages, double near, double far):
    """Nanoseconds of one read of each page: ``near`` on node 0, ``far`` elsewhere."""
    cdef pmg_ctx *c = <pmg_ctx *> context
    cdef pmg_outcome out
    cdef double total = 0
    cdef int64_t i
    with nogil:
        for i in range(pages):
            if api.access(c, base + (<uint64_t> i << 12), PMG_READ, &out) > PMG_K_MAJOR:
                with gil:
                    raise RuntimeError(f"access {i} came to {out.kind}")
            total += near if out.node == 0 else far
    return total
