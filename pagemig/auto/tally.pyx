"""Count runs of accesses: by page, by node, and in which order pages are first met."""

from pagemig.checked import whole

from libc.stdint cimport int32_t, int64_t, uint32_t

from pagemig._arrays cimport column, column_out, I32, I64, length_of, U32


def tally(index, count, by_page, pages=None, at=None, listed=0, before=0):
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
    TypeError, ValueError
        An argument is no array of its type, the shapes do not go together, or a run has no valid
        page; the runs before it are counted.
    """
    cdef const int32_t *page_of = <const int32_t *> column(index, "index", I32)
    cdef const uint32_t *count_of = <const uint32_t *> column(count, "count", U32)
    cdef int64_t *sums = <int64_t *> column_out(by_page, "by_page", I64)
    cdef int32_t *met = <int32_t *> column_out(pages, "pages", I32) if pages is not None else NULL
    cdef int64_t *met_at = <int64_t *> column_out(at, "at", I64) if at is not None else NULL
    cdef Py_ssize_t runs = length_of(index, 0), counted = length_of(count, 0), size = length_of(by_page, 0)
    cdef Py_ssize_t room = length_of(pages, 0) if pages is not None else 0
    cdef Py_ssize_t places = length_of(at, 0) if at is not None else 0
    cdef int64_t n = whole(listed, "listed", 0, size), first = whole(before, "before", 0, <int64_t>1 << 62)
    cdef int64_t r, had, wrong = -1
    cdef uint32_t p, number
    cdef bint listing = met != NULL
    if counted != runs or listing != (met_at != NULL):
        raise ValueError("every run needs a count, and pages and at must be given together")
    if listing and min(room, places) < size:
        raise ValueError(f"pages and at must have room for {size} pages")
    with nogil:
        for r in range(runs):
            p = <uint32_t>page_of[r]
            number = count_of[r]
            if p >= size:
                wrong = r
                break
            had = sums[p]
            sums[p] = had + number
            # Whether a page is new is hard to predict, so store it without a branch and keep it if so.
            if listing and n < size:
                met[n] = <int32_t>p
                met_at[n] = first + r
                n += (had == 0) & (number != 0)
    if wrong >= 0:
        raise ValueError(f"run {wrong} has page {page_of[wrong]}, but there are {size} pages")
    return n


def absent(pages, at, node, found, runs):
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
    TypeError, ValueError
        An argument is no array of its type, the shapes do not go together, or a page is none of those in ``node``.
    """
    cdef const int32_t *page_of = <const int32_t *> column(pages, "pages", I32)
    cdef const int64_t *first_at = <const int64_t *> column(at, "at", I64)
    cdef const int64_t *node_of = <const int64_t *> column(node, "node", I64)
    cdef int64_t *out = <int64_t *> column_out(found, "found", I64)
    cdef int64_t *out_at = <int64_t *> column_out(runs, "runs", I64)
    cdef Py_ssize_t given = length_of(pages, 0), places = length_of(at, 0), size = length_of(node, 0)
    cdef Py_ssize_t room = min(length_of(found, 0), length_of(runs, 0))
    cdef int64_t k, n = 0, wrong = -1
    cdef int32_t page
    if places != given or room < given:
        raise ValueError(f"at, found and runs must have room for {given} pages")
    with nogil:
        for k in range(given):
            page = page_of[k]
            if not 0 <= page < size:
                wrong = k
                break
            if node_of[page] == -1:
                out[n] = page
                out_at[n] = first_at[k]
                n += 1
    if wrong >= 0:
        raise ValueError(f"entry {wrong} of pages is {page_of[wrong]}, but there are {size} pages")
    return n


def by_node(pages, by_page, node, sums):
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
    TypeError, ValueError
        An argument is no array of its type, the shapes do not go together, or an entry is no page,
        or one that lies on no node.
    """
    cdef const int32_t *page_of = <const int32_t *> column(pages, "pages", I32)
    cdef const int64_t *count_of = <const int64_t *> column(by_page, "by_page", I64)
    cdef const int64_t *node_of = <const int64_t *> column(node, "node", I64)
    cdef int64_t *out = <int64_t *> column_out(sums, "sums", I64)
    cdef Py_ssize_t given = length_of(pages, 0), counted = length_of(by_page, 0)
    cdef Py_ssize_t size = length_of(node, 0), nodes = length_of(sums, 0)
    cdef int64_t k, at, wrong = -1
    cdef int32_t page
    if size != counted:
        raise ValueError(f"{size} nodes are not one for each of {counted} pages")
    with nogil:
        for k in range(given):
            page = page_of[k]
            at = node_of[page] if 0 <= page < size else -1
            if not 0 <= at < nodes:
                wrong = k
                break
            out[at] += count_of[page]
    if wrong >= 0:
        raise ValueError(f"entry {wrong} of pages is {page_of[wrong]}, which lies on no node")


def block_sums(count, block, sums):
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
    TypeError, ValueError
        An argument is no array of its type, or there is not one sum for every block.
    """
    cdef const uint32_t *count_of = <const uint32_t *> column(count, "count", U32)
    cdef int64_t *out = <int64_t *> column_out(sums, "sums", I64)
    cdef Py_ssize_t runs = length_of(count, 0), blocks = length_of(sums, 0)
    cdef int64_t size = whole(block, "block", 1, <int64_t>1 << 31), b, r, total
    if blocks != (runs + size - 1) // size:
        raise ValueError(f"{blocks} sums are not one for every {size} of {runs} runs")
    with nogil:
        for b in range(blocks):
            total = 0
            for r in range(b * size, min(b * size + size, runs)):
                total += count_of[r]
            out[b] = total


def sampled(index, count, times, before, pages):
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
    cdef const int32_t *page_of = <const int32_t *> column(index, "index", I32)
    cdef const uint32_t *count_of = <const uint32_t *> column(count, "count", U32)
    cdef const int64_t *time = <const int64_t *> column(times, "times", I64)
    cdef int64_t *out = <int64_t *> column_out(pages, "pages", I64)
    cdef Py_ssize_t runs = length_of(index, 0), counted = length_of(count, 0)
    cdef Py_ssize_t size = length_of(times, 0), room = length_of(pages, 0)
    cdef int64_t r, n = 0, end = whole(before, "before", 0, <int64_t>1 << 62)
    if counted != runs or room < size:
        raise ValueError(f"every run has a count, and pages must have room for {size}")
    with nogil:
        for r in range(runs):
            end += count_of[r]
            while n < size and time[n] < end:
                out[n] = page_of[r]
                n += 1
    return n
