/* Locked instructions, counted by kind (`make locked`, benchmarks/locked.py): each extension module counts its own.
 * atomics.h includes this last, and only in that build. */
#ifndef PAGEMIG_LOCKED_H
#define PAGEMIG_LOCKED_H

enum pmg_locked_kind { PMG_ON_WORD, PMG_ON_SPIN, PMG_ON_RW, PMG_LOCKED_KINDS };
__attribute__((visibility("default"))) uint64_t pmg_locked[PMG_LOCKED_KINDS];
static inline void pmg_count_locked(enum pmg_locked_kind kind) { (void)pmg_add(&pmg_locked[kind], 1); }
#define PMG_LOCKED(kind) pmg_count_locked(kind)

#define pmg_xchg(p, v) (PMG_LOCKED(PMG_ON_WORD), pmg_xchg(p, v))
#define pmg_add(p, v) (PMG_LOCKED(PMG_ON_WORD), pmg_add(p, v))
#define pmg_sub(p, v) (PMG_LOCKED(PMG_ON_WORD), pmg_sub(p, v))
#define pmg_or(p, v) (PMG_LOCKED(PMG_ON_WORD), pmg_or(p, v))
#define pmg_and(p, v) (PMG_LOCKED(PMG_ON_WORD), pmg_and(p, v))
#define pmg_cas(p, old, new_) (PMG_LOCKED(PMG_ON_WORD), pmg_cas(p, old, new_))
#define pmg_add32(p, v) (PMG_LOCKED(PMG_ON_WORD), pmg_add32(p, v))
#define pmg_cas32(p, old, new_) (PMG_LOCKED(PMG_ON_WORD), pmg_cas32(p, old, new_))
#define pmg_spin_trylock(l) (PMG_LOCKED(PMG_ON_SPIN), pmg_spin_trylock(l))
#define pmg_spin_lock(l) (PMG_LOCKED(PMG_ON_SPIN), pmg_spin_lock(l))
#define pmg_read_trylock(l) (PMG_LOCKED(PMG_ON_RW), pmg_read_trylock(l))
#define pmg_read_lock(l) (PMG_LOCKED(PMG_ON_RW), pmg_read_lock(l))
#define pmg_read_unlock(l) (PMG_LOCKED(PMG_ON_RW), pmg_read_unlock(l))
#define pmg_write_trylock(l) (PMG_LOCKED(PMG_ON_RW), pmg_write_trylock(l))
#define pmg_write_lock(l) (PMG_LOCKED(PMG_ON_RW), pmg_write_lock(l))
#define pmg_write_forget(l) (PMG_LOCKED(PMG_ON_RW), pmg_write_forget(l))
#define pmg_write_unlock(l) (PMG_LOCKED(PMG_ON_RW), pmg_write_unlock(l))

#endif
