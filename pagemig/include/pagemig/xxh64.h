/* XXH64 of a stream (Yann Collet's specification), for checksums of saved machines. */
#ifndef PAGEMIG_XXH64_H
#define PAGEMIG_XXH64_H

#include <stdint.h>
#include <string.h>

#define PMG_XXH_1 11400714785074694791ull
#define PMG_XXH_2 14029467366897019727ull
#define PMG_XXH_3 1609587929392839161ull
#define PMG_XXH_4 9650029242287828579ull
#define PMG_XXH_5 2870177450012600261ull

typedef struct {
    uint64_t lane[4], total;
    unsigned char tail[32];     /* bytes that do not fill a stripe yet */
    uint32_t held;
} pmg_xxh64_t;

static inline uint64_t pmg_xxh_rotl(uint64_t x, int r) { return (x << r) | (x >> (64 - r)); }

static inline uint64_t pmg_xxh_round(uint64_t lane, uint64_t word)
{
    return pmg_xxh_rotl(lane + word * PMG_XXH_2, 31) * PMG_XXH_1;
}

static inline uint64_t pmg_xxh_word(const unsigned char *p)
{
    uint64_t w;

    memcpy(&w, p, 8);
    return w;
}

static inline void pmg_xxh64_begin(pmg_xxh64_t *h)
{
    memset(h, 0, sizeof(*h));
    h->lane[0] = PMG_XXH_1 + PMG_XXH_2;
    h->lane[1] = PMG_XXH_2;
    h->lane[3] = 0 - PMG_XXH_1;
}

static inline void pmg_xxh64_stripe(pmg_xxh64_t *h, const unsigned char *p)
{
    for (int i = 0; i < 4; i++)
        h->lane[i] = pmg_xxh_round(h->lane[i], pmg_xxh_word(p + 8 * i));
}

static inline void pmg_xxh64_add(pmg_xxh64_t *h, const void *data, uint64_t n)
{
    const unsigned char *p = (const unsigned char *) data;

    h->total += n;
    if (h->held) {
        uint64_t part = 32 - h->held < n ? 32 - h->held : n;

        memcpy(h->tail + h->held, p, part);
        h->held += (uint32_t) part;
        p += part;
        n -= part;
        if (h->held < 32)
            return;
        pmg_xxh64_stripe(h, h->tail);
        h->held = 0;
    }
    for (; n >= 32; p += 32, n -= 32)
        pmg_xxh64_stripe(h, p);
    memcpy(h->tail, p, n);
    h->held = (uint32_t) n;
}

static inline uint64_t pmg_xxh64_end(const pmg_xxh64_t *h)
{
    const unsigned char *p = h->tail;
    uint32_t n = h->held, half;
    uint64_t x;

    if (h->total >= 32) {
        x = pmg_xxh_rotl(h->lane[0], 1) + pmg_xxh_rotl(h->lane[1], 7) + pmg_xxh_rotl(h->lane[2], 12)
            + pmg_xxh_rotl(h->lane[3], 18);
        for (int i = 0; i < 4; i++)
            x = (x ^ pmg_xxh_round(0, h->lane[i])) * PMG_XXH_1 + PMG_XXH_4;
    } else {
        x = PMG_XXH_5;
    }
    x += h->total;
    for (; n >= 8; p += 8, n -= 8)
        x = pmg_xxh_rotl(x ^ pmg_xxh_round(0, pmg_xxh_word(p)), 27) * PMG_XXH_1 + PMG_XXH_4;
    if (n >= 4) {
        memcpy(&half, p, 4);
        x = pmg_xxh_rotl(x ^ half * PMG_XXH_1, 23) * PMG_XXH_2 + PMG_XXH_3;
        p += 4;
        n -= 4;
    }
    for (; n; p++, n--)
        x = pmg_xxh_rotl(x ^ *p * PMG_XXH_5, 11) * PMG_XXH_1;
    x = (x ^ (x >> 33)) * PMG_XXH_2;
    x = (x ^ (x >> 29)) * PMG_XXH_3;
    return x ^ (x >> 32);
}

#endif
