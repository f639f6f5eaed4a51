"""Sets of up to 1,024 nodes, the size that the recorded kernels are built with; machines have at most 64 nodes."""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_ctz, pmg_popcount
from pagemig.mm.types cimport NODEMASK_WORDS, nodemask_t


cdef inline void nodes_clear(nodemask_t *mask) noexcept nogil:
    cdef int i
    for i in range(NODEMASK_WORDS):
        mask.bits[i] = 0


cdef inline bint nodes_absent(const nodemask_t *mask) noexcept nogil:
    """Whether the set contains nodes that no machine has."""
    cdef uint64_t any_ = 0
    cdef int i
    for i in range(1, NODEMASK_WORDS):
        any_ |= mask.bits[i]
    return any_ != 0


cdef inline bint nodes_empty(const nodemask_t *mask) noexcept nogil:
    return mask.bits[0] == 0 and not nodes_absent(mask)


cdef inline uint32_t nodes_weight(const nodemask_t *mask) noexcept nogil:
    cdef uint32_t n = 0
    cdef int i
    for i in range(NODEMASK_WORDS):
        n += <uint32_t> pmg_popcount(mask.bits[i])
    return n


cdef inline int32_t nodes_nth(const nodemask_t *mask, uint32_t n) noexcept nogil:
    """Find the n-th node of a set, counted from 0; the set has more than n nodes."""
    cdef int i = 0
    cdef uint64_t word
    while n >= <uint32_t> pmg_popcount(mask.bits[i]):
        n -= <uint32_t> pmg_popcount(mask.bits[i])
        i += 1
    word = mask.bits[i]
    while n:
        word &= word - 1
        n -= 1
    return i * 64 + pmg_ctz(word)
