"""Count runs of accesses: by page, by node, and in which order pages are first met."""

from pagemig.checked import whole

from libc.stdint cimport int32_t, int64_t, uint32_t


def tally(
    const int32_t[::1] index,
    const uint32_t[::1] count,
    int64_t[::1] by_page,
    int32_t[::1] pages=None,
    int64_t[::1] at=None,
    listed=0,
    before=0,
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
    listed : int, default 0
        Pages already in ``pages``.
    before : int, default 0
        Runs before these.

    Returns
    -------
    int
        Pages listed, those from before included.

    Raises
    ------
    ValueError
        The shapes do not go together, or a run has no valid page; the runs before it are counted.
    """
    cdef int64_t size = by_page.shape[0], n = whole(listed, "listed", 0, size)
    cdef int64_t first = whole(before, "before", 0, <int64_t>1 << 62), r, had, runs = index.shape[0], wrong = -1
    cdef uint32_t p, number
    cdef bint listing = pages is not None
    if count.shape[0] != runs or listing != (at is not None):
        raise ValueError("every run needs a count, and pages and at must be given together")
    if listing and (pages.shape[0] < size or at.shape[0] < size):
        raise ValueError(f"pages and at must have room for {size} pages")
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
                at[n] = first + r
                n += (had == 0) & (number != 0)
    if wrong >= 0:
        raise ValueError(f"run {wrong} has page {index[wrong]}, but there are {size} pages")
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

    Raises
    ------
    ValueError
        The shapes do not go together, or a page is none of those in ``node``.
    """
    cdef int64_t k, n = 0, wrong = -1
    cdef int32_t page
    if at.shape[0] != pages.shape[0] or min(found.shape[0], runs.shape[0]) < pages.shape[0]:
        raise ValueError(f"at, found and runs must have room for {pages.shape[0]} pages")
    with nogil:
        for k in range(pages.shape[0]):
            page = pages[k]
            if not 0 <= page < node.shape[0]:
                wrong = k
                break
            if node[page] == -1:
                found[n] = page
                runs[n] = at[k]
                n += 1
    if wrong >= 0:
        raise ValueError(f"entry {wrong} of pages is {pages[wrong]}, but there are {node.shape[0]} pages")
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
    ValueError
        The shapes do not go together, or an entry is no page, or one that lies on no node.
    """
    cdef int64_t k, at, wrong = -1
    cdef int32_t page
    if node.shape[0] != by_page.shape[0]:
        raise ValueError(f"{node.shape[0]} nodes are not one for each of {by_page.shape[0]} pages")
    with nogil:
        for k in range(pages.shape[0]):
            page = pages[k]
            at = node[page] if 0 <= page < node.shape[0] else -1
            if not 0 <= at < sums.shape[0]:
                wrong = k
                break
            sums[at] += by_page[page]
    if wrong >= 0:
        raise ValueError(f"entry {wrong} of pages is {pages[wrong]}, which lies on no node")


def block_sums(const uint32_t[::1] count, block, int64_t[::1] sums):
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
    cdef int64_t size = whole(block, "block", 1, <int64_t>1 << 31), b, r, total, runs = count.shape[0]
    if sums.shape[0] != (runs + size - 1) // size:
        raise ValueError(f"{sums.shape[0]} sums are not one for every {size} of {runs} runs")
    with nogil:
        for b in range(sums.shape[0]):
            total = 0
            for r in range(b * size, min(b * size + size, runs)):
                total += count[r]
            sums[b] = total


def sampled(
    const int32_t[::1] index,
    const uint32_t[::1] count,
    const int64_t[::1] times,
    before,
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
    cdef int64_t r, n = 0, size = times.shape[0], end = whole(before, "before", 0, <int64_t>1 << 62)
    if count.shape[0] != index.shape[0] or pages.shape[0] < size:
        raise ValueError(f"every run has a count, and pages must have room for {size}")
    with nogil:
        for r in range(index.shape[0]):
            end += count[r]
            while n < size and times[n] < end:
                pages[n] = index[r]
                n += 1
    return n
