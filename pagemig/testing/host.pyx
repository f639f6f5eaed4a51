"""Reference loops: what the host's memory can do, measured in the same run as the model.

Absolute rates of the model mean little across machines; as multiples of these loops they are comparable.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pagemig._arrays cimport column, column_out, grid, length_of, U32, U64, U8
from pagemig.mm.atomic cimport pmg_add, pmg_prefetchw
from pagemig.mm.copy cimport pmg_copy_fence, pmg_copy_pages, pmg_has_avx2, pmg_stream_page


def random_rmw(words, lines, bint atomic=False):
    """Read, modify and write one word in each of many 64-byte lines, prefetched 24 ahead.

    Parameters
    ----------
    words : ndarray of uint64
        The memory; line ``i`` is ``words[8 * i]``.
    lines : ndarray of uint32, shape (n,)
        Lines in the order of their use.
    atomic : bool, default False
        Use the processor's atomic add.
    """
    cdef Py_ssize_t i
    cdef uint64_t *w = <uint64_t *> column_out(words, "words", U64)
    cdef const uint32_t *line = <const uint32_t *> column(lines, "lines", U32)
    cdef Py_ssize_t n = length_of(lines, 0)
    with nogil:
        for i in range(n):
            if i + 24 < n:
                pmg_prefetchw(w + <uint64_t> line[i + 24] * 8)
            if atomic:
                pmg_add(w + <uint64_t> line[i] * 8, 1)
            else:
                w[<uint64_t> line[i] * 8] += 1


def cached_rmw(words, int64_t n):
    """Add to one word after the other with the processor's atomic add.

    Parameters
    ----------
    words : ndarray of uint64, shape (8 * lines,)
        Some lines of 64 bytes that stay in the L1 cache.
    n : int
        Number of additions.
    """
    cdef Py_ssize_t i
    cdef uint64_t *w = <uint64_t *> column_out(words, "words", U64)
    cdef int64_t lines = length_of(words, 0) // 8
    if lines == 0:
        raise ValueError("words must have 8 entries at least, the words of a line")
    with nogil:
        for i in range(n):
            pmg_add(w + i % lines * 8, 1)


def copy_pages(memory, dst, src, str how="stream"):
    """Copy pages of 4096 bytes inside one arena.

    Parameters
    ----------
    memory : ndarray of uint8
        4096-byte aligned.
    dst, src : ndarray of uint32, shape (n,)
        Page numbers inside the arena.
    how : {"stream", "memcpy", "pairs"}
        Streaming stores, page by page with the next one prefetched; the C library; the model's own routine, which copies
        two pages at a time.  The first is the reference; without AVX2 it uses the C library.
    """
    cdef Py_ssize_t i
    cdef char *m = <char *> column_out(memory, "memory", U8)
    cdef const uint32_t *to = <const uint32_t *> column(dst, "dst", U32)
    cdef Py_ssize_t n = length_of(dst, 0)
    cdef const uint32_t *of = <const uint32_t *> grid(src, "src", U32, (n,))
    cdef bint stream = how == "stream" and pmg_has_avx2()
    if n == 0:
        return
    if how == "pairs":
        with nogil:
            pmg_copy_pages(m, to, of, n)
            pmg_copy_fence()
        return
    with nogil:
        for i in range(n):
            if stream:
                pmg_stream_page(m + <uint64_t> to[i] * 4096, m + <uint64_t> of[i] * 4096,
                                m + <uint64_t> of[i + 1] * 4096 if i + 1 < n else NULL)
            else:
                memcpy(m + <uint64_t> to[i] * 4096, m + <uint64_t> of[i] * 4096, 4096)
        pmg_copy_fence()
