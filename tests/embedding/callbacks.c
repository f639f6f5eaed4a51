/* A host in C that keeps what it is told, and tries calls where it may not make them. */
#include "pagemig/api.h"

#include <string.h>

enum { WHYS = 8, KINDS = 6, STEPS = 9 };

typedef struct seen {
    const pmg_api *api;
    pmg_ctx *own, *other;       /* contexts the callbacks try to use */
    int32_t node;               /* what target answers */
    int32_t fail_moved, fail_flush;
    uint32_t flushes[WHYS];
    uint64_t pages[WHYS];
    uint32_t ipis, targets, moved, failed, faults[KINDS], steps[STEPS];
    uint64_t cr3, last_cpus;
    int under_locks, same, between, look;   /* what the calls tried answered last */
    pmg_ctx *caller;
} seen;

static int32_t target(void *priv, pmg_ctx *c, uint32_t pfn, int32_t wanted)
{
    seen *s = priv;

    (void) c, (void) pfn, (void) wanted;
    s->targets++;
    return s->node;
}

static int32_t flush(void *priv, pmg_ctx *c, const pmg_flush *f)
{
    seen *s = priv;
    pmg_outcome o;

    s->caller = c;
    s->flushes[f->why]++;
    s->pages[f->why] += f->n;
    s->ipis += f->ipis;
    s->cr3 = f->cr3;
    s->last_cpus = f->cpus[0];
    if (s->other) {
        s->under_locks = s->api->access(s->other, f->va, PMG_READ, &o);
        s->look = s->api->translate(s->other, f->va, &o);
    }
    return s->fail_flush;
}

static int32_t moved(void *priv, pmg_ctx *c, const uint32_t *from, const uint32_t *to, const int32_t *result, uint32_t n)
{
    seen *s = priv;
    pmg_outcome o;
    uint32_t i;

    (void) c, (void) from;
    for (i = 0; i < n; i++) {
        s->moved += result[i] == 0 && to[i] != 0;
        s->failed += result[i] != 0;
    }
    if (s->own)
        s->same = s->api->munmap(s->own, 0, 4096);
    if (s->other)
        s->between = s->api->access(s->other, 4096, PMG_READ, &o);
    return s->fail_moved;
}

static int32_t step(void *priv, pmg_ctx *c, uint32_t at, const uint32_t *pfns, uint32_t n)
{
    seen *s = priv;

    (void) c, (void) pfns, (void) n;
    s->steps[at]++;
    return 0;
}

static int32_t fault(void *priv, pmg_ctx *c, uint64_t va, uint32_t kind, uint32_t pfn)
{
    seen *s = priv;

    (void) c, (void) va, (void) pfn;
    s->faults[kind]++;
    return 0;
}

int listen_to(const pmg_api *api, pmg_machine *m, seen *s)
{
    pmg_callbacks cb;

    memset(&cb, 0, sizeof(cb));
    cb.size = sizeof(cb);
    cb.priv = s;
    cb.target = target;
    cb.flush = flush;
    cb.moved = moved;
    cb.step = step;
    cb.fault = fault;
    s->api = api;
    return api->set_callbacks(m, &cb);
}
