/* A set-associative cache in plain C, with a main of its own, over a NUMA machine of pagemig.
 *
 * A program walks 64 MiB in a pattern that favours some pages.  A miss costs the latency of the page's node.  After every
 * round the pages with the most misses move to the fast node, and the program pays for the migration, too.
 *
 *     cc -O2 cache.c $(python -m pagemig --cflags) $(python3-config --includes --ldflags --embed) -o cache && ./cache
 */
#include <Python.h>

#include "pagemig/boot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SETS = 1024, WAYS = 8, LINE = 6, PAGE = 12, PAGES = 16384, ROUNDS = 6, ACCESSES = 400000, HOT = 2048 };
static const double NS_OF_NODE[2] = {80.0, 250.0}; /* DRAM, and memory behind CXL: assumed */
static const double NS_PAGE = 700.0, NS_FLUSH = 700.0;

static uint64_t tags[SETS][WAYS]; /* most recently used first; 0 is empty */

/* Look an address up and insert its line if it was not there; whether it was. */
static int lookup(uint64_t pa)
{
    uint64_t line = (pa >> LINE) + 1, *set = tags[(pa >> LINE) % SETS];
    int way = 0, hit;

    while (way < WAYS && set[way] != line)
        way++;
    hit = way < WAYS;
    memmove(set + 1, set, (size_t) (hit ? way : WAYS - 1) * sizeof(*set));
    set[0] = line;
    return hit;
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Choose a page: most accesses go to a small part of them. */
static uint64_t choose(uint64_t *state)
{
    uint64_t r = next_random(state);

    return r % 10 < 8 ? (next_random(state) % HOT) * 7 % PAGES : next_random(state) % PAGES;
}

typedef struct {
    uint32_t page, misses;
} heat_t;

static int hotter(const void *a, const void *b)
{
    const heat_t *x = (const heat_t *) a, *y = (const heat_t *) b;

    if (x->misses != y->misses)
        return x->misses < y->misses ? 1 : -1;
    return x->page < y->page ? -1 : 1;
}

static int simulate(const pmg_api *api)
{
    static heat_t heat[PAGES];
    static uint64_t va[PAGES];
    static int32_t node[PAGES], status[PAGES];
    pmg_node_spec nodes[2] = {{4096, 0, 1, 1}, {PAGES + 4096, 0, 0, 1}};
    pmg_spec spec = {sizeof(pmg_spec), 2, 0, 0, nodes, NULL, "6.12", 0};
    pmg_machine *machine;
    pmg_ctx *boot, *cpu;
    pmg_outcome out;
    pmg_cost cost;
    int64_t base, task;
    uint64_t state = 1;
    int round, i;

    cost.size = sizeof(cost);
    if (api->machine_new(&spec, &machine) || api->ctx_open(machine, 0, 0, 1, &boot))
        return 1;
    task = api->spawn(boot, 0, 1000);
    if (task < 0 || api->ctx_open(machine, (pmg_task) task, 0, 1, &cpu))
        return 1;
    base = api->mmap(cpu, 0, (uint64_t) PAGES << PAGE, 3, 0x22, 0, 0); /* PROT_READ | WRITE, MAP_PRIVATE | ANONYMOUS */
    if (base < 0)
        return 1;
    for (i = 0; i < PAGES; i++) /* the cold end first: it takes the fast node */
        api->access(cpu, (uint64_t) base + ((uint64_t) (PAGES - 1 - i) << PAGE), PMG_WRITE, &out);
    printf("round  misses  fast %%  memory ms  moved  moving ms\n");
    for (round = 0; round < ROUNDS; round++) {
        double memory = 0, moving = 0;
        uint64_t misses = 0, fast = 0;
        int64_t rc;

        for (i = 0; i < PAGES; i++) {
            heat[i].page = (uint32_t) i;
            heat[i].misses = 0;
        }
        for (i = 0; i < ACCESSES; i++) {
            uint64_t page = choose(&state), at = (page << PAGE) + (next_random(&state) & 0xfc0);

            if (api->access(cpu, (uint64_t) base + at, PMG_READ, &out) > PMG_K_MAJOR)
                return 1;
            if (lookup(out.pa))
                continue;
            misses++;
            fast += out.node == 0;
            memory += NS_OF_NODE[out.node];
            heat[page].misses++;
        }
        qsort(heat, PAGES, sizeof(*heat), hotter);
        for (i = 0; i < PAGES; i++) { /* hot pages to the fast node; all others off it, first, to make room */
            va[i] = (uint64_t) base + ((uint64_t) heat[PAGES - 1 - i].page << PAGE);
            node[i] = i < PAGES - HOT;
        }
        api->cost_take(cpu, &cost);
        rc = pmg_move_pages(api, cpu, va, node, PAGES, 2, status); /* MPOL_MF_MOVE */
        api->cost_take(cpu, &cost);
        moving = (double) cost.pages_migrated * NS_PAGE + (double) cost.flushes * NS_FLUSH;
        printf("%5d  %6llu  %6.2f  %9.3f  %5llu  %9.3f\n", round, (unsigned long long) misses,
               100.0 * (double) fast / (double) misses, memory / 1e6, (unsigned long long) cost.pages_migrated,
               moving / 1e6);
        if (rc < 0)
            return 1;
    }
    api->ctx_close(cpu);
    api->ctx_close(boot);
    return api->machine_free(machine) != 0;
}

int main(void)
{
    const pmg_api *api;
    int failed;

    Py_Initialize();
    api = pmg_import();
    if (!api) {
        PyErr_Print();
        return 1;
    }
    Py_BEGIN_ALLOW_THREADS /* from here on nothing needs the interpreter */
    failed = simulate(api);
    Py_END_ALLOW_THREADS
    if (failed)
        fprintf(stderr, "a call of the model failed\n");
    return Py_FinalizeEx() < 0 ? 1 : failed;
}
