/* Guards against races, each by the number of the race it stops (tests/test_races.py).
 *
 * PMG_GUARD(n) is 1 and costs nothing. Only a build with PAGEMIG_PLANT=guards can take one guard out, the one
 * that the environment variable PAGEMIG_MUTANT names: `make mutants` demands that its test fails then. */
#ifndef PAGEMIG_GUARDS_H
#define PAGEMIG_GUARDS_H

#ifdef PAGEMIG_PLANT_GUARDS
#include <stdlib.h>
static inline int pmg_guard(int race)
{
    const char *mutant = getenv("PAGEMIG_MUTANT");
    return !mutant || atoi(mutant) != race;
}
#define PMG_GUARD(race) pmg_guard(race)
#else
#define PMG_GUARD(race) 1
#endif

#endif
