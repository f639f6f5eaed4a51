"""Copies of pages, inline.

Separate from ``atomic`` for build time: the header includes all of the compiler's vector intrinsics.
"""
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "pagemig/copy.h" nogil:
    bint pmg_has_avx2() noexcept
    void pmg_copy_pages(char *base, const uint32_t *dst, const uint32_t *src, uint64_t n) noexcept
    void pmg_stream_page(char *dst, const char *src, const char *next) noexcept
    void pmg_copy_fence() noexcept
