/* Guards against races, each named by what it stops (tests/races/test_races.py has the races).
 *
 * PMG_GUARD(GUARD_X) is 1 and costs nothing. Only a build with PAGEMIG_PLANT=guards can disable one guard, named by the
 * environment variable PAGEMIG_MUTANT: `make mutants` demands that the guard's test then fails. */
#ifndef PAGEMIG_GUARDS_H
#define PAGEMIG_GUARDS_H

#define PMG_GUARDS(G) \
    G(GUARD_FREED)            /* freed between isolation and lock */ \
    G(GUARD_PAGE_LOCK)        /* another holds the page lock */ \
    G(GUARD_WRITEBACK)        /* under writeback */ \
    G(GUARD_PINNED)           /* pinned, before or during the migration */ \
    G(GUARD_GUP_ENTRY)        /* a pin meets a migration entry */ \
    G(GUARD_FAULT_ENTRY)      /* a fault meets a migration entry */ \
    G(GUARD_RETRY)            /* a waiter's reference when the references are checked */ \
    G(GUARD_WAITER)           /* a waiter's reference after the switch */ \
    G(GUARD_UPTODATE)         /* read during the move */ \
    G(GUARD_SLEPT)            /* the page left the file while the fault slept */ \
    G(GUARD_NO_MAPPING)       /* truncated before the lock */ \
    G(GUARD_TRUNCATED)        /* truncated during the move */ \
    G(GUARD_FORK_ENTRY)       /* fork copies a migration entry */ \
    G(GUARD_PARENT_FIRST)     /* the rmap walk visits a child before its parent */ \
    G(GUARD_MPROTECT_ENTRY)   /* mprotect over a migration entry */ \
    G(GUARD_UNMAPPED_ENTRY)   /* munmap over a migration entry */ \
    G(GUARD_MISSED_MAPPING)   /* the rmap walk missed a mapping */ \
    G(GUARD_SWAPCACHE)        /* already in the swap cache */ \
    G(GUARD_DIRTY)            /* dirty, of a file system without a migrate operation */ \
    G(GUARD_SLOT)             /* the slot in the page cache holds another page */ \
    G(GUARD_MLOCKED)          /* locked in memory */ \
    G(GUARD_ISOLATED)         /* isolated by another migrator */ \
    G(GUARD_MMAP_LOCK)        /* mbind against a fault */ \
    G(GUARD_ZERO_PAGE)        /* the zero page */ \
    G(GUARD_SWAPOFF)          /* swapoff waited for the page lock */

#define PMG_GUARD_NUMBER(name) name,
enum pmg_guard_number { PMG_GUARDS(PMG_GUARD_NUMBER) NR_GUARDS };

#ifdef PAGEMIG_PLANT_GUARDS
#include <stdlib.h>
#include <string.h>
#define PMG_GUARD_NAME(name) #name,
static inline int pmg_guard(int guard)
{
    static const char *const names[] = { PMG_GUARDS(PMG_GUARD_NAME) };
    const char *mutant = getenv("PAGEMIG_MUTANT");
    return !mutant || strcmp(mutant, names[guard]) != 0;
}
#define PMG_GUARD(guard) pmg_guard(guard)
#else
#define PMG_GUARD(guard) 1
#endif

#endif
