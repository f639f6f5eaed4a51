/* Atomics, hints and the spinning back-off: the only file that names a compiler atomic. */
#ifndef PAGEMIG_ATOMICS_H
#define PAGEMIG_ATOMICS_H

#include <sched.h>
#include <stdint.h>

#if defined(__x86_64__) || defined(__i386__)
#define PMG_RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PMG_RELAX() __asm__ __volatile__("yield")
#else
#define PMG_RELAX() ((void)0)
#endif

#define pmg_prefetch(p) __builtin_prefetch((p), 0)
#define pmg_prefetchw(p) __builtin_prefetch((p), 1)
#define pmg_likely(x) __builtin_expect(!!(x), 1)
#define pmg_unlikely(x) __builtin_expect(!!(x), 0)

static inline uint64_t pmg_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t pmg_load_acq(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void pmg_store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void pmg_store_rel(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t pmg_xchg(uint64_t *p, uint64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
static inline uint64_t pmg_add(uint64_t *p, uint64_t v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
static inline uint64_t pmg_sub(uint64_t *p, uint64_t v) { return __atomic_sub_fetch(p, v, __ATOMIC_ACQ_REL); }
/* These two return the value before. */
static inline uint64_t pmg_or(uint64_t *p, uint64_t v) { return __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL); }
static inline uint64_t pmg_and(uint64_t *p, uint64_t v) { return __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL); }
/* True when *p was old and is now new. */
static inline int pmg_cas(uint64_t *p, uint64_t old, uint64_t new_)
{
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static inline void *pmg_load_ptr(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void pmg_store_ptr(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint32_t pmg_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint32_t pmg_load32_acq(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void pmg_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void pmg_store32_rel(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint32_t pmg_add32(uint32_t *p, uint32_t v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
static inline int pmg_cas32(uint32_t *p, uint32_t old, uint32_t new_)
{
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* The back-off of a waiter: spin, then yield. */
static inline void pmg_back_off(int *spins)
{
    PMG_RELAX();
    if (++*spins > 200) {
        sched_yield();
        *spins = 0;
    }
}

/* Test and test-and-set, never a ticket lock: with more workers than cores, ticket locks may not make progress. */
static inline int pmg_spin_trylock(uint32_t *l)
{
    return !__atomic_load_n(l, __ATOMIC_RELAXED) && !__atomic_exchange_n(l, 1u, __ATOMIC_ACQUIRE);
}
/* Returns 1 when the lock was contended (for the counters), else 0. */
static inline int pmg_spin_lock(uint32_t *l)
{
    int spins = 0, contended = 0;
    while (__atomic_exchange_n(l, 1u, __ATOMIC_ACQUIRE)) {
        contended = 1;
        while (__atomic_load_n(l, __ATOMIC_RELAXED))
            pmg_back_off(&spins);
    }
    return contended;
}
#ifdef PAGEMIG_PLANT_RACE /* on purpose: ThreadSanitizer must report this store (make mutants) */
static inline void pmg_spin_unlock(uint32_t *l) { *l = 0u; }
#else
static inline void pmg_spin_unlock(uint32_t *l) { __atomic_store_n(l, 0u, __ATOMIC_RELEASE); }
#endif

/* Reader/writer lock in one word: bit 31 a writer holds it, bit 30 a writer waits (new readers stay out, so that it is
 * not starved), the rest counts readers.  Not recursive for readers. */
#define PMG_RW_WRITER 0x80000000u
#define PMG_RW_PENDING 0x40000000u
static inline int pmg_read_trylock(uint32_t *l)
{
    uint32_t v = __atomic_load_n(l, __ATOMIC_RELAXED);
    return !(v & (PMG_RW_WRITER | PMG_RW_PENDING)) &&
           __atomic_compare_exchange_n(l, &v, v + 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}
static inline void pmg_read_unlock(uint32_t *l) { __atomic_fetch_sub(l, 1u, __ATOMIC_RELEASE); }
static inline int pmg_write_trylock(uint32_t *l)
{
    uint32_t v = __atomic_load_n(l, __ATOMIC_RELAXED);
    if (!(v & ~PMG_RW_PENDING))
        return __atomic_compare_exchange_n(l, &v, PMG_RW_WRITER, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
    if (!(v & PMG_RW_PENDING))
        __atomic_fetch_or(l, PMG_RW_PENDING, __ATOMIC_RELAXED);
    return 0;
}
/* A writer that gives up withdraws its request; another that still waits sets the bit again. */
static inline void pmg_write_forget(uint32_t *l) { __atomic_fetch_and(l, ~PMG_RW_PENDING, __ATOMIC_RELAXED); }
static inline void pmg_write_unlock(uint32_t *l) { __atomic_fetch_and(l, ~PMG_RW_WRITER, __ATOMIC_RELEASE); }
/* Short read and write sections (trees): spin, then yield. */
static inline int pmg_read_lock(uint32_t *l)
{
    int spins = 0, contended = 0;
    while (!pmg_read_trylock(l)) {
        contended = 1;
        pmg_back_off(&spins);
    }
    return contended;
}
static inline int pmg_write_lock(uint32_t *l)
{
    int spins = 0, contended = 0;
    while (!pmg_write_trylock(l)) {
        contended = 1;
        pmg_back_off(&spins);
    }
    return contended;
}

static inline void pmg_yield(void) { sched_yield(); }
static inline int pmg_popcount(uint64_t v) { return __builtin_popcountll(v); }
static inline int pmg_ctz(uint64_t v) { return __builtin_ctzll(v); }

#ifdef PAGEMIG_PLANT_LOCKED
#include "pagemig/locked.h"
#endif

#endif
