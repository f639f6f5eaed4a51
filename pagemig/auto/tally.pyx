"""Counting runs of accesses: by page, by node, and the pages that are not there yet."""

from libc.stdint cimport int32_t, int64_t, uint32_t


def missing(const int32_t[::1] index, int64_t[::1] node, int64_t[::1] pages, int64_t[::1] at):
    """Find the pages that runs access and that are not present, in order of first access.

    Parameters
    ----------
    index : ndarray of int32, shape (runs,)
        The page of each run.
    node : ndarray of int64, shape (pages,)
        Where each page lies, -1 for nowhere. Left as it was.
    pages, at : ndarray of int64, shape (pages,)
        Out: the pages, and the run of each one's first access.

    Returns
    -------
    int
        How many.

    Raises
    ------
    IndexError
        A run is of no page.
    """
    cdef int64_t r, p, n = 0, size = node.shape[0], wrong = -1
    if pages.shape[0] < size or at.shape[0] < size:
        raise ValueError(f"pages and at must have room for {size} pages")
    with nogil:
        for r in range(index.shape[0]):
            p = index[r]
            if p < 0 or p >= size:
                wrong = r
                break
            if node[p] == -1:
                node[p] = -2        # seen in this call
                pages[n] = p
                at[n] = r
                n += 1
        for r in range(n):
            node[pages[r]] = -1
    if wrong >= 0:
        raise IndexError(f"run {wrong} is of page {index[wrong]}, of {size}")
    return n


def tally(
    const int32_t[::1] index,
    const uint32_t[::1] count,
    const int64_t[::1] node,
    int64_t[::1] by_node,
    int64_t[::1] by_page=None,
):
    """Add up the accesses of runs.

    Parameters
    ----------
    index : ndarray of int32, shape (runs,)
        The page of each run.
    count : ndarray of uint32, shape (runs,)
        Its accesses.
    node : ndarray of int64, shape (pages,)
        Where each page lies.
    by_node : ndarray of int64, shape (nodes,)
        Out: accesses to each node's memory, added.
    by_page : ndarray of int64, shape (pages,), optional
        Out: accesses to each page, added.

    Raises
    ------
    IndexError
        A run is of no page, or its page lies on no node.
    """
    cdef int64_t r, p, size = node.shape[0], nodes = by_node.shape[0], wrong = -1
    if count.shape[0] != index.shape[0] or (by_page is not None and by_page.shape[0] != size):
        raise ValueError("the shapes of index, count, node and by_page do not go together")
    with nogil:
        for r in range(index.shape[0]):
            p = index[r]
            if p < 0 or p >= size or node[p] < 0 or node[p] >= nodes:
                wrong = r
                break
            by_node[node[p]] += count[r]
            if by_page is not None:
                by_page[p] += count[r]
    if wrong >= 0:
        raise IndexError(f"run {wrong} is of page {index[wrong]}, which is on no node")


def block_sums(const uint32_t[::1] count, int64_t block, int64_t[::1] sums):
    """Add up the accesses of every so many runs.

    Parameters
    ----------
    count : ndarray of uint32, shape (runs,)
        Accesses of each run.
    block : int
        Runs that are added up together.
    sums : ndarray of int64, shape (blocks,)
        Out: their sums, the last of what is left.

    Raises
    ------
    ValueError
        There is not one sum for every block.
    """
    cdef int64_t b, r, total, runs = count.shape[0]
    if block < 1 or sums.shape[0] != (runs + block - 1) // block:
        raise ValueError(f"{sums.shape[0]} sums are not one for every {block} of {runs} runs")
    with nogil:
        for b in range(sums.shape[0]):
            total = 0
            for r in range(b * block, min(b * block + block, runs)):
                total += count[r]
            sums[b] = total
