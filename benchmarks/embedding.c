/* Loops of a host in C: a bare walk of the page tables, and the same accesses through the table of functions. */
#include "pagemig/api.h"

#define PRESENT 1u
#define FRAME(entry) (((entry) & 0x000ffffffffff000ull) >> 12)

/* What any walker pays: four dependent loads an access. */
uint64_t walk(const uint64_t *tables, uint64_t table_pfn, uint64_t cr3, const uint64_t *va, uint64_t n)
{
    uint64_t sum = 0, i, entry, vpn;
    int level;

    for (i = 0; i < n; i++) {
        entry = cr3 | PRESENT;
        vpn = va[i] >> 12;
        for (level = 3; level >= 0; level--)
            entry = tables[(FRAME(entry) - table_pfn) * 512 + (vpn >> (9 * level) & 511)];
        sum += FRAME(entry);
    }
    return sum;
}

uint64_t accesses(const pmg_api *api, pmg_ctx *c, const uint64_t *va, uint64_t n)
{
    uint64_t sum = 0, i;
    pmg_outcome o;

    for (i = 0; i < n; i++) {
        api->access(c, va[i], PMG_READ, &o);
        sum += o.pa >> 12;
    }
    return sum;
}

uint64_t packed(const pmg_api *api, pmg_ctx *c, const uint64_t *va, uint64_t n)
{
    uint64_t sum = 0, i;

    for (i = 0; i < n; i++)
        sum += api->access_packed(c, va[i], PMG_READ) >> 16;
    return sum;
}

/* A hook that only adds. */
static int32_t count(void *priv, pmg_ctx *c, const uint32_t *from, const uint32_t *to, const int32_t *result, uint32_t n)
{
    (void) c, (void) from, (void) to, (void) result;
    *(uint64_t *) priv += n;
    return 0;
}

int listen_to_moves(const pmg_api *api, pmg_machine *m, uint64_t *counter)
{
    pmg_callbacks cb = {0};

    cb.size = sizeof(cb);
    cb.priv = counter;
    cb.moved = count;
    return api->set_callbacks(m, counter ? &cb : NULL);
}
