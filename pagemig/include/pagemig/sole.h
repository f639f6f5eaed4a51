/* Stores in place of locked instructions: the word has no other writer meanwhile, and each use says why.
 * They are still atomic, since other threads read the word.  Only a build with PAGEMIG_PLANT=plain can make one of them
 * plain, named by PAGEMIG_MUTANT: `make mutants` demands that ThreadSanitizer then reports it. */
#ifndef PAGEMIG_SOLE_H
#define PAGEMIG_SOLE_H

#include "pagemig/atomics.h"

#define PMG_SOLE_STORES(S) \
    S(SOLE_TARGET)            /* a target frame before it is reachable */ \
    S(SOLE_PUBLISHED)         /* the same frame's final state, just before it becomes reachable */ \
    S(SOLE_ENTRY)             /* a migration entry over a PTE whose accessed and dirty bits the processor cannot set any more */ \
    S(SOLE_RESTORED)          /* a PTE over a migration entry */ \
    S(SOLE_LEFT)              /* the source of a moved page, unreachable by now */ \
    S(SOLE_FREED)             /* a frame being freed */
#define PMG_SOLE_NUMBER(name) name,
enum pmg_sole { PMG_SOLE_STORES(PMG_SOLE_NUMBER) NR_SOLE_STORES };
#ifdef PAGEMIG_PLANT_PLAIN
#include <stdlib.h>
#include <string.h>
#define PMG_SOLE_NAME(name) #name,
static inline void pmg_store_sole(int which, uint64_t *p, uint64_t v)
{
    static const char *const names[] = { PMG_SOLE_STORES(PMG_SOLE_NAME) };
    const char *mutant = getenv("PAGEMIG_MUTANT");
    if (mutant && strcmp(mutant, names[which]) == 0)
        *p = v;
    else
        pmg_store_rel(p, v);
}
#else
#define pmg_store_sole(which, p, v) pmg_store_rel(p, v)
#endif

#endif
