"""Count runs of accesses: by page, by node, and in which order pages are first met."""

from libc.stdint cimport int32_t, int64_t, uint32_t


def tally(
    const int32_t[::1] index,
    const uint32_t[::1] count,
    int64_t[::1] by_page,
    int32_t[::1] pages=None,
    int64_t[::1] at=None,
    int64_t listed=0,
    int64_t before=0,
):
    """Add up the accesses of runs by page, and list the pages in the order in which they are met.

    Runs may come a piece at a time: ``listed`` and ``before`` continue from the last piece.

    Parameters
    ----------
    index : ndarray of int32, shape (runs,)
        The page of each run.
    count : ndarray of uint32, shape (runs,)
        Its accesses; a run of 0 does not count.
    by_page : ndarray of int64, shape (pages,)
        Out: accesses of each page, added. A page that has some already is not listed.
    pages, at : ndarray of int32 and of int64, shape (pages,), optional
        Out: the pages met, and the run of each one's first access. What follows them means nothing.
    listed : int
        Pages already in ``pages``.
    before : int
        Runs before these.

    Returns
    -------
    int
        Pages listed, those from before included.

    Raises
    ------
    IndexError
        A run has no valid page; the runs before it are counted.
    ValueError
        The shapes do not go together.
    """
    cdef int64_t r, had, n = listed, size = by_page.shape[0], runs = index.shape[0], wrong = -1
    cdef uint32_t p, number
    cdef bint listing = pages is not None
    if count.shape[0] != runs or listing != (at is not None):
        raise ValueError("every run needs a count, and pages and at must be given together")
    if listing and (pages.shape[0] < size or at.shape[0] < size):
        raise ValueError(f"pages and at must have room for {size} pages")
    if not 0 <= listed <= size or before < 0:
        raise ValueError(f"listed {listed} is not from 0 to {size}, or before {before} is negative")
    with nogil:
        for r in range(runs):
            p = <uint32_t>index[r]
            number = count[r]
            if p >= size:
                wrong = r
                break
            had = by_page[p]
            by_page[p] = had + number
            # Whether a page is new is hard to predict, so store it without a branch and keep it if so.
            if listing and n < size:
                pages[n] = <int32_t>p
                at[n] = before + r
                n += (had == 0) & (number != 0)
    if wrong >= 0:
        raise IndexError(f"run {wrong} has page {index[wrong]}, but there are {size} pages")
    return n


def absent(
    const int32_t[::1] pages,
    const int64_t[::1] at,
    const int64_t[::1] node,
    int64_t[::1] found,
    int64_t[::1] runs,
):
    """Pick the pages that lie on no node.

    Parameters
    ----------
    pages, at : ndarray of int32 and of int64, shape (n,)
        What `tally` has listed.
    node : ndarray of int64, shape (pages,)
        Where each page lies, -1 for nowhere.
    found, runs : ndarray of int64, shape (n,) or longer
        Out: these pages, and the run of each one's first access.

    Returns
    -------
    int
        How many.
    """
    cdef int64_t k, n = 0
    if at.shape[0] != pages.shape[0] or min(found.shape[0], runs.shape[0]) < pages.shape[0]:
        raise ValueError(f"at, found and runs must have room for {pages.shape[0]} pages")
    with nogil:
        for k in range(pages.shape[0]):
            if node[pages[k]] == -1:
                found[n] = pages[k]
                runs[n] = at[k]
                n += 1
    return n


def by_node(
    const int32_t[::1] pages,
    const int64_t[::1] by_page,
    const int64_t[::1] node,
    int64_t[::1] sums,
):
    """Add up accesses by the node that their page lies on.

    Parameters
    ----------
    pages : ndarray of int32, shape (n,)
        The pages that have accesses, each once.
    by_page : ndarray of int64, shape (pages,)
        Their accesses.
    node : ndarray of int64, shape (pages,)
        Where each page lies.
    sums : ndarray of int64, shape (nodes,)
        Out: accesses of each node's memory, added.

    Raises
    ------
    IndexError
        A page lies on no node.
    """
    cdef int64_t k, wrong = -1
    if node.shape[0] != by_page.shape[0]:
        raise ValueError(f"{node.shape[0]} nodes are not one for each of {by_page.shape[0]} pages")
    with nogil:
        for k in range(pages.shape[0]):
            if not 0 <= node[pages[k]] < sums.shape[0]:
                wrong = pages[k]
                break
            sums[node[pages[k]]] += by_page[pages[k]]
    if wrong >= 0:
        raise IndexError(f"page {wrong} is on no node")


def block_sums(const uint32_t[::1] count, int64_t block, int64_t[::1] sums):
    """Add up the accesses of every so many runs.

    Parameters
    ----------
    count : ndarray of uint32, shape (runs,)
        Accesses of each run.
    block : int
        Runs that are added up together.
    sums : ndarray of int64, shape (blocks,)
        Out: their sums; the last covers the remaining runs.

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


def sampled(
    const int32_t[::1] index,
    const uint32_t[::1] count,
    const int64_t[::1] times,
    int64_t before,
    int64_t[::1] pages,
):
    """Find the pages that are accessed at given times.

    Parameters
    ----------
    index : ndarray of int32, shape (runs,)
        The page of each run.
    count : ndarray of uint32, shape (runs,)
        Its accesses.
    times : ndarray of int64, shape (n,)
        Numbers of accesses, ascending.  The first access of these runs has number ``before``.
    before : int
        Accesses before these runs.
    pages : ndarray of int64, shape (n,) or longer
        Out: their pages.

    Returns
    -------
    int
        How many of the times were within these runs.
    """
    cdef int64_t r, n = 0, size = times.shape[0], end = before
    if count.shape[0] != index.shape[0] or pages.shape[0] < size:
        raise ValueError(f"every run has a count, and pages must have room for {size}")
    with nogil:
        for r in range(index.shape[0]):
            end += count[r]
            while n < size and times[n] < end:
                pages[n] = index[r]
                n += 1
    return n
