/* Stores where a locked instruction would be safe, too: nobody else can write the word meanwhile, and each place says why.
 * They are atomic all the same, since others read it.  Only a build with PAGEMIG_PLANT=plain can make one plain, that
 * which PAGEMIG_MUTANT names: `make mutants` demands that ThreadSanitizer reports it then. */
#ifndef PAGEMIG_SOLE_H
#define PAGEMIG_SOLE_H

#include "pagemig/atomics.h"

#define PMG_SOLE_STORES(S) \
    S(SOLE_TARGET)            /* a frame that nobody can reach yet */ \
    S(SOLE_PUBLISHED)         /* the same, to what it is once it can be reached */ \
    S(SOLE_ENTRY)             /* a migration entry over a page-table entry in which the processor has nothing left to note */ \
    S(SOLE_RESTORED)          /* an entry over a migration entry */ \
    S(SOLE_LEFT)              /* a page that moved, which nobody can reach any more */ \
    S(SOLE_FREED)             /* a frame that goes back */
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
