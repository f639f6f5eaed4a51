"""The invariants of a machine at rest: one walk over everything in use, each rule by number and name.

At rest: no call is running on the machine.  The owner keeps a zeroed ``checker_t`` beside the machine for the notes of the
walk; the host commits only what the walk touches.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.types cimport machine_t, stop_t


cdef enum rule_t:
    RULE_OK = 0
    # frames
    RULE_REFCOUNT, RULE_MAPCOUNT, RULE_LOCKED, RULE_ISOLATED, RULE_LRU, RULE_MLOCK_COUNT, RULE_MLOCKED, RULE_EXCLUSIVE
    RULE_RESERVED, RULE_FREE_FRAME, RULE_FREE_LIST, RULE_FREE_COUNT, RULE_ACCOUNT
    # page-table entries
    RULE_ENTRY_UNLOCKED, RULE_ENTRY, RULE_UNKNOWN_ENTRY, RULE_ENTRY_FRAME, RULE_OUTSIDE, RULE_PROTECTION, RULE_WRITE
    RULE_WRITE_EXCLUSIVE, RULE_ZERO_PAGE, RULE_RMAP, RULE_INDEX
    # page tables
    RULE_TABLE, RULE_TABLE_USED
    # files
    RULE_CACHE, RULE_NRPAGES, RULE_FILE_REFS, RULE_SHARED_POLICY
    # address spaces
    RULE_VMA_LIST, RULE_VMA_ORDER, RULE_VM_OPS, RULE_CHAIN, RULE_TREE, RULE_ANON_ACTIVE, RULE_ANON_CHILDREN, RULE_ANON_REFCOUNT
    RULE_RSS, RULE_TOTAL_VM, RULE_LOCKED_VM, RULE_GROUP, RULE_MM_USERS, RULE_TASK, RULE_POLICY
    RULE_PIN
    # the machine
    RULE_LOCK, RULE_SLAB, RULE_HEAP
    # swap
    RULE_SWAP_MAP, RULE_SWAP_CACHE, RULE_SWAP_INUSE
    NR_RULES


ctypedef struct violation_t:
    int rule
    const char *detail          # which lock, slab or count; NULL where the rule alone says it
    uint64_t expected, found
    int64_t task, mm, vma, vpn, table, pfn, index, file, anon_vma, rnode, pin, nid      # where; -1: does not apply


cdef enum:
    CHECK_STOPPED = -2          # of check_machine, beside -1 and the rules

ctypedef struct checker_t:      # zeroed by its owner, emptied by checker_release
    uint32_t lock               # one walk at a time
    uint32_t generation         # marks of older walks count as absent, so nothing needs clearing
    void *memory
    uint64_t nbytes

# 0, or the number of the first rule found broken, with details in *v; -1 when the host is out of memory.
# full: every frame and every free list, not only those in use.
# ``stop`` is asked now and then whether to end the walk, and ``peek`` while migrations are read, which it may not end;
# NULL: it cannot be stopped
cdef int check_machine(
        machine_t *m, checker_t *k, bint full, stop_t stop, stop_t peek, void *private_, violation_t *v) noexcept nogil
cdef void checker_release(checker_t *k) noexcept nogil
cdef object invariant_error(machine_t *m, violation_t *v)       # the InvariantError to raise
