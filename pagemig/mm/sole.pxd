"""Atomic stores in place of locked instructions, to words with a sole writer; all inline."""
from libc.stdint cimport uint64_t


cdef extern from "pagemig/sole.h" nogil:
    enum:
        SOLE_TARGET, SOLE_PUBLISHED, SOLE_ENTRY, SOLE_RESTORED, SOLE_LEFT, SOLE_FREED
    void pmg_store_sole(int which, uint64_t *p, uint64_t v) noexcept
