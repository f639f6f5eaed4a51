"""Atomics, spin and reader/writer locks, prefetch; all inline."""
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "pagemig/guards.h" nogil:
    bint PMG_GUARD(int guard) noexcept              # 1 except in the build of the mutants
    enum:
        GUARD_FREED, GUARD_PAGE_LOCK, GUARD_WRITEBACK, GUARD_PINNED, GUARD_GUP_ENTRY, GUARD_FAULT_ENTRY, GUARD_RETRY,
        GUARD_WAITER, GUARD_UPTODATE, GUARD_SLEPT, GUARD_NO_MAPPING, GUARD_TRUNCATED, GUARD_FORK_ENTRY,
        GUARD_PARENT_FIRST, GUARD_MPROTECT_ENTRY, GUARD_UNMAPPED_ENTRY, GUARD_MISSED_MAPPING, GUARD_SWAPCACHE,
        GUARD_DIRTY, GUARD_SLOT, GUARD_MLOCKED, GUARD_ISOLATED, GUARD_MMAP_LOCK, GUARD_ZERO_PAGE, GUARD_SWAPOFF


cdef extern from "pagemig/atomics.h" nogil:
    void PMG_RELAX() noexcept
    void pmg_prefetch(const void *p) noexcept
    void pmg_prefetchw(const void *p) noexcept
    bint pmg_likely(bint x) noexcept
    bint pmg_unlikely(bint x) noexcept
    uint64_t pmg_load(const uint64_t *p) noexcept
    uint64_t pmg_load_acq(const uint64_t *p) noexcept
    void pmg_store(uint64_t *p, uint64_t v) noexcept
    void pmg_store_rel(uint64_t *p, uint64_t v) noexcept
    uint64_t pmg_xchg(uint64_t *p, uint64_t v) noexcept
    uint64_t pmg_add(uint64_t *p, uint64_t v) noexcept
    uint64_t pmg_sub(uint64_t *p, uint64_t v) noexcept
    uint64_t pmg_or(uint64_t *p, uint64_t v) noexcept
    uint64_t pmg_and(uint64_t *p, uint64_t v) noexcept
    bint pmg_cas(uint64_t *p, uint64_t old, uint64_t new) noexcept
    void *pmg_load_ptr(void **p) noexcept
    void pmg_store_ptr(void **p, void *v) noexcept
    uint32_t pmg_load32(const uint32_t *p) noexcept
    uint32_t pmg_load32_acq(const uint32_t *p) noexcept
    void pmg_store32(uint32_t *p, uint32_t v) noexcept
    void pmg_store32_rel(uint32_t *p, uint32_t v) noexcept
    uint32_t pmg_add32(uint32_t *p, uint32_t v) noexcept
    bint pmg_cas32(uint32_t *p, uint32_t old, uint32_t new) noexcept
    bint pmg_spin_trylock(uint32_t *l) noexcept
    bint pmg_spin_lock(uint32_t *l) noexcept
    void pmg_spin_unlock(uint32_t *l) noexcept
    bint pmg_read_trylock(uint32_t *l) noexcept
    void pmg_read_unlock(uint32_t *l) noexcept
    bint pmg_write_trylock(uint32_t *l) noexcept
    void pmg_write_forget(uint32_t *l) noexcept
    void pmg_write_unlock(uint32_t *l) noexcept
    bint pmg_read_lock(uint32_t *l) noexcept
    bint pmg_write_lock(uint32_t *l) noexcept
    void pmg_yield() noexcept
    int pmg_popcount(uint64_t v) noexcept
    int pmg_ctz(uint64_t v) noexcept
