/* Page copy: streaming stores where the processor has AVX2, else memcpy. */
#ifndef PAGEMIG_COPY_H
#define PAGEMIG_COPY_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
/* Streaming stores skip the read for ownership of the target; prefetching the head of the next
 * source page hides the restart of the hardware prefetcher at every page boundary. */
__attribute__((target("avx2"))) static void pmg_copy_page_avx2(void *dst, const void *src, const void *next)
{
    const char *s = (const char *)src, *x = (const char *)next;
    char *d = (char *)dst;
    for (int i = 0; i < 4096; i += 128) {
        __m256i a = _mm256_load_si256((const __m256i *)(s + i));
        __m256i b = _mm256_load_si256((const __m256i *)(s + i + 32));
        __m256i c = _mm256_load_si256((const __m256i *)(s + i + 64));
        __m256i e = _mm256_load_si256((const __m256i *)(s + i + 96));
        if (x && i < 2048) {
            _mm_prefetch(x + i, _MM_HINT_NTA);
            _mm_prefetch(x + i + 64, _MM_HINT_NTA);
        }
        _mm256_stream_si256((__m256i *)(d + i), a);
        _mm256_stream_si256((__m256i *)(d + i + 32), b);
        _mm256_stream_si256((__m256i *)(d + i + 64), c);
        _mm256_stream_si256((__m256i *)(d + i + 96), e);
    }
}
static inline int pmg_has_avx2(void) { return __builtin_cpu_supports("avx2"); }
static inline void pmg_copy_fence(void) { _mm_sfence(); }
#else
static inline int pmg_has_avx2(void) { return 0; }
static inline void pmg_copy_fence(void) {}
static inline void pmg_copy_page_avx2(void *dst, const void *src, const void *next) { (void)next; memcpy(dst, src, 4096); }
#endif

/* 0 only in a build that the tests must fail (make mutants). */
#ifdef PAGEMIG_PLANT_NOCOPY
#define PMG_COPY_STEP 0
#else
#define PMG_COPY_STEP 1
#endif

/* Copies one page of 4096 aligned bytes; next is the page copied after it, or NULL.
 * pmg_copy_fence() orders the streamed bytes before the page is published. */
static inline void pmg_copy_page(void *dst, const void *src, const void *next)
{
    if (!PMG_COPY_STEP)
        return;
#ifdef __SANITIZE_THREAD__
    memcpy(dst, src, 4096); /* ThreadSanitizer does not see streaming stores */
    (void)next;
#else
    if (pmg_has_avx2())
        pmg_copy_page_avx2(dst, src, next);
    else
        memcpy(dst, src, 4096);
#endif
}

#endif
