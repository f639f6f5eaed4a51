/* Copies of pages of 4096 aligned bytes: streaming stores where the processor has AVX2, else memcpy. */
#ifndef PAGEMIG_COPY_H
#define PAGEMIG_COPY_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define PMG_AVX2 __attribute__((target("avx2")))
/* Streaming stores skip the read for ownership of the target. */
PMG_AVX2 static inline void pmg_stream_128(char *d, const char *s)
{
    __m256i a = _mm256_load_si256((const __m256i *)s), b = _mm256_load_si256((const __m256i *)(s + 32));
    __m256i c = _mm256_load_si256((const __m256i *)(s + 64)), e = _mm256_load_si256((const __m256i *)(s + 96));
    _mm256_stream_si256((__m256i *)d, a);
    _mm256_stream_si256((__m256i *)(d + 32), b);
    _mm256_stream_si256((__m256i *)(d + 64), c);
    _mm256_stream_si256((__m256i *)(d + 96), e);
}
static inline void pmg_fetch_128(const char *p)
{
    _mm_prefetch(p, _MM_HINT_T1);
    _mm_prefetch(p + 64, _MM_HINT_T1);
}
/* Copy two pages while the next two (soon) and those after them (later) are prefetched: reads dominate, and the
 * processor's own prefetcher starts over at every page. Each line is prefetched twice, since a prefetch may be dropped. */
PMG_AVX2 static void pmg_stream_pair(char *const d[2], const char *const s[2], const char *const soon[2], const char *const later[2])
{
    for (int i = 0; i < 4096; i += 128)
        for (int k = 0; k < 2; k++) {
            pmg_fetch_128(later[k] + i);
            pmg_fetch_128(soon[k] + i);
            pmg_stream_128(d[k] + i, s[k] + i);
        }
}
PMG_AVX2 static inline void pmg_stream_pages(char *base, const uint32_t *dst, const uint32_t *src, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += 2) {
        char *d[2];
        const char *s[2], *soon[2], *later[2];
        for (int k = 0; k < 2; k++) { /* an odd last page is copied twice; the last pages prefetch nothing new */
            uint64_t j = i + k < n ? i + k : i;
            d[k] = base + (uint64_t)dst[j] * 4096;
            s[k] = base + (uint64_t)src[j] * 4096;
            soon[k] = j + 2 < n ? base + (uint64_t)src[j + 2] * 4096 : s[k];
            later[k] = j + 4 < n ? base + (uint64_t)src[j + 4] * 4096 : s[k];
        }
        pmg_stream_pair(d, s, soon, later);
    }
}
/* Copy one page and prefetch the first half of the next. The model does not use it: it is the baseline of the benchmarks,
 * so it must not change. */
PMG_AVX2 static inline void pmg_stream_page(char *d, const char *s, const char *next)
{
    for (int i = 0; i < 4096; i += 128) {
        if (next && i < 2048) {
            _mm_prefetch(next + i, _MM_HINT_NTA);
            _mm_prefetch(next + i + 64, _MM_HINT_NTA);
        }
        pmg_stream_128(d + i, s + i);
    }
}
static inline int pmg_has_avx2(void) { return __builtin_cpu_supports("avx2"); }
static inline void pmg_copy_fence(void) { _mm_sfence(); }
#else
static inline int pmg_has_avx2(void) { return 0; }
static inline void pmg_copy_fence(void) {}
static inline void pmg_stream_pages(char *base, const uint32_t *dst, const uint32_t *src, uint64_t n)
{
    (void)base, (void)dst, (void)src, (void)n;
}
static inline void pmg_stream_page(char *d, const char *s, const char *next) { (void)next; memcpy(d, s, 4096); }
#endif

/* 0 only in a build that the tests must fail (make mutants). */
#ifdef PAGEMIG_PLANT_NOCOPY
#define PMG_COPY_STEP 0
#else
#define PMG_COPY_STEP 1
#endif

/* Copy pages of an arena, src[i] to dst[i]; targets are distinct and none is a source.
 * pmg_copy_fence() orders the streamed bytes before the pages are published. */
static inline void pmg_copy_pages(char *base, const uint32_t *dst, const uint32_t *src, uint64_t n)
{
    if (!PMG_COPY_STEP)
        return;
#ifndef __SANITIZE_THREAD__ /* ThreadSanitizer does not see streaming stores */
    if (pmg_has_avx2()) {
        pmg_stream_pages(base, dst, src, n);
        return;
    }
#endif
    for (uint64_t i = 0; i < n; i++)
        memcpy(base + (uint64_t)dst[i] * 4096, base + (uint64_t)src[i] * 4096, 4096);
}

#endif
