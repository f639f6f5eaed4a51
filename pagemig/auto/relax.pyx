"""The pages' half of the optimum: every page's cheapest path over epochs and nodes, at given prices.

`pagemig.auto.optimum` says what is computed and why it bounds anything. Here a page that lies on
node ``j`` in epoch ``e`` costs its accesses there, plus the price of a frame of ``j`` in ``e``; a
change of node between two epochs costs a move. Pages do not interact, so each is a shortest path
through a grid of epochs and nodes, solved backwards.
"""

import numpy as np

from pagemig.checked import whole as whole_number

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from cpython.exc cimport PyErr_CheckSignals

from pagemig._arrays cimport F32, F64, grid, grid_out, holds, I32, I64, I8, length_of, own_data

cdef enum:
    # The forward walk reads the values of a block of pages over all epochs again, so they should
    # stay in a second-level cache.
    BLOCK_BYTES = 1 << 18
    LEAST_BLOCK = 16
    LARGEST_BLOCK = 256
    ABSENT = 255
    MOST_NODES = 127        # a path has them as int8
    ASK_EVERY = 1 << 24     # page-epoch-nodes between two looks for a signal: some 20 ms


ctypedef fused count_t:
    int32_t
    int64_t


cdef struct grid_t:
    int64_t epochs
    int64_t nodes
    int64_t sources         # nodes that access
    int64_t pages
    const double *latency   # [source][node]
    const double *moves     # [node][node]
    const double *prices    # [epoch][node]
    const int32_t *first    # [page]: its first epoch
    const int32_t *last     # [page]: the epoch after its last
    int64_t *occupied       # [epoch][node], counted up
    int8_t *path            # [epoch][page], or NULL
    float *togo             # [epoch][node][page], or NULL


cdef void block_values(
    const grid_t *of, const count_t *counts, int64_t start, int64_t n, int64_t stride, double *values
) noexcept nogil:
    """Compute the cost from each epoch on, for each node and page of a block: values[epoch][node][page]."""
    cdef grid_t g = of[0]       # nothing that is stored here can change it, as the compiler then knows
    cdef int64_t e, i, j, k, b, begin = g.epochs, end = 0, whole = g.epochs
    cdef double m, t, a
    cdef double *out
    cdef const double *ahead
    cdef const count_t *c
    for b in range(start, start + n):
        begin = min(begin, g.first[b])
        end = max(end, g.last[b])
        whole = min(whole, g.last[b])
    for b in range(g.nodes * stride):
        values[end * g.nodes * stride + b] = 0
    for e in range(end - 1, begin - 1, -1):
        ahead = values + (e + 1) * g.nodes * stride
        c = counts + e * g.sources * g.pages + start
        for j in range(g.nodes):
            out = values + (e * g.nodes + j) * stride
            # Stay, or go to the first other node; both loops are fused by hand for two nodes and one source.
            k = 1 if j == 0 and g.nodes > 1 else 0
            m = g.moves[j * g.nodes + k]
            for b in range(n):
                t = ahead[k * stride + b] + m
                out[b] = ahead[j * stride + b] if ahead[j * stride + b] < t else t
            for k in range(k + 1, g.nodes):
                m = g.moves[j * g.nodes + k]
                for b in range(n):
                    t = ahead[k * stride + b] + m
                    out[b] = t if t < out[b] else out[b]
            t = g.prices[e * g.nodes + j]
            a = g.latency[j]
            for b in range(n):
                out[b] += a * c[b] + t
            for i in range(1, g.sources):
                a = g.latency[i * g.nodes + j]
                for b in range(n):
                    out[b] += a * c[i * g.pages + b]
            if e >= whole:      # some page of the block is gone by now
                for b in range(n):
                    if e >= g.last[start + b]:
                        out[b] = 0


cdef inline int64_t cheapest(const grid_t *g, const double *here, int64_t stride) noexcept nogil:
    """Find the node on which a page begins."""
    cdef int64_t j, k = 0
    for j in range(1, g.nodes):
        if here[j * stride] < here[k * stride]:
            k = j
    return k


cdef inline uint8_t onward(const grid_t *g, const double *here, int64_t stride, int64_t at) noexcept nogil:
    """Find the node that a page moves to from a node; it stays if nothing is cheaper."""
    cdef const double *moves = g.moves + at * g.nodes
    cdef double best = here[at * stride], t
    cdef int64_t j, k = at
    for j in range(g.nodes):
        t = here[j * stride] + moves[j]
        k = j if t < best else k
        best = t if t < best else best
    return <uint8_t> k


cdef double walk(const grid_t *of, int64_t start, int64_t n, int64_t stride, const double *values) noexcept nogil:
    """Follow the cheapest paths of a block forward; return their cost."""
    cdef grid_t g = of[0]       # nothing that is stored here can change it, as the compiler then knows
    cdef int64_t e, b, j, used, begin = g.epochs, end = 0, whole = 0, parts = g.epochs
    cdef uint8_t[LARGEST_BLOCK] node
    cdef const double *here
    cdef double total = 0
    for b in range(n):
        node[b] = ABSENT
        begin = min(begin, g.first[start + b])
        whole = max(whole, g.first[start + b] + 1)
        parts = min(parts, g.last[start + b])
        end = max(end, g.last[start + b])
    for e in range(begin, end):
        here = values + e * g.nodes * stride
        if whole <= e < parts:      # all pages of the block are there and were there before
            for b in range(n):
                node[b] = onward(&g, here + b, stride, node[b])
        else:
            for b in range(n):
                if e == g.last[start + b]:
                    node[b] = ABSENT
                elif node[b] != ABSENT:
                    node[b] = onward(&g, here + b, stride, node[b])
                elif e == g.first[start + b] and e < g.last[start + b]:
                    j = cheapest(&g, here + b, stride)
                    total += here[j * stride + b]
                    node[b] = <uint8_t> j
        for j in range(g.nodes):
            used = 0
            for b in range(n):
                used += node[b] == j
            g.occupied[e * g.nodes + j] += used
        if g.path != NULL:
            for b in range(n):
                g.path[e * g.pages + start + b] = <int8_t> node[b]
    return total


cdef double relax_pages(
    const grid_t *g, const count_t *counts, int64_t block, double *values, int64_t start, int64_t stop
) noexcept nogil:
    """Relax the pages from ``start`` to ``stop``, a block at a time."""
    cdef int64_t n, b, e, end
    cdef double total = 0
    while start < stop:
        n = min(block, stop - start)
        block_values(g, counts, start, n, block, values)
        total += walk(g, start, n, block, values)
        if g.togo != NULL:
            end = 0
            for b in range(n):
                end = max(end, g.last[start + b])
            for e in range(end * g.nodes):
                for b in range(n):      # values of epochs before a page's first are stale and never read
                    g.togo[e * g.pages + start + b] = <float> values[e * block + b]
        start += n
    return total


def relax(counts, latency, moves, prices, first, last, occupied, path=None, togo=None):
    """Find every page's cheapest path at given prices.

    Parameters
    ----------
    counts : ndarray of int32 or int64, shape (epochs, sources, pages)
        Accesses to each page from the processors of each node that has some.
    latency : ndarray of float64, shape (sources, nodes)
        Nanoseconds of an access.
    moves : ndarray of float64, shape (nodes, nodes)
        Nanoseconds of a move from the row's node to the column's; 0 on the diagonal.
    prices : ndarray of float64, shape (epochs, nodes)
        Nanoseconds that a frame costs for an epoch.
    first, last : ndarray of int32, shape (pages,)
        The epoch in which a page begins, on a node of its choice, and the one after its last.
    occupied : ndarray of int64, shape (epochs, nodes)
        Out: pages on each node.
    path : ndarray of int8, shape (epochs, pages), optional
        Out: each page's node, -1 outside its epochs; epochs without any page of its neighbours are
        left alone.
    togo : ndarray of float32, shape (epochs, nodes, pages), optional
        Out: a page's cost from an epoch on that it begins on a node.

    Returns
    -------
    float
        Nanoseconds of all paths, prices included.

    Raises
    ------
    TypeError, ValueError
        An argument is no array of its type and shape, a page ends before it begins, or there are
        more than 127 nodes.
    MemoryError
        No room for a block of pages.
    """
    cdef grid_t g
    cdef int64_t block
    cdef double *values
    cdef double total = 0
    cdef bint wide = holds(counts, I64)
    cdef const void *accesses = grid(counts, "counts", I64 if wide else I32, (-1, -1, -1))
    g.epochs, g.sources, g.pages = length_of(counts, 0), length_of(counts, 1), length_of(counts, 2)
    g.latency = <const double *> grid(latency, "latency", F64, (g.sources, -1))
    g.nodes = length_of(latency, 1)
    g.moves = <const double *> grid(moves, "moves", F64, (g.nodes, g.nodes))
    g.prices = <const double *> grid(prices, "prices", F64, (g.epochs, g.nodes))
    g.first = <const int32_t *> grid(first, "first", I32, (g.pages,))
    g.last = <const int32_t *> grid(last, "last", I32, (g.pages,))
    g.occupied = <int64_t *> grid_out(occupied, "occupied", I64, (g.epochs, g.nodes))
    g.path = <int8_t *> grid_out(path, "path", I8, (g.epochs, g.pages)) if path is not None else NULL
    g.togo = <float *> grid_out(togo, "togo", F32, (g.epochs, g.nodes, g.pages)) if togo is not None else NULL
    if g.nodes > MOST_NODES:
        raise ValueError(f"latency has {g.nodes} nodes, more than {MOST_NODES}")
    memset(g.occupied, 0, g.epochs * g.nodes * sizeof(int64_t))
    if g.epochs == 0 or g.pages == 0 or g.nodes == 0 or g.sources == 0:
        return 0.0
    cdef int64_t p
    begins, ends = np.array(first), np.array(last)  # a caller's may change once they are checked
    g.first, g.last = <int32_t *> own_data(begins), <int32_t *> own_data(ends)
    for p in range(g.pages):
        if g.first[p] < 0 or g.last[p] < g.first[p] or g.last[p] > g.epochs:
            raise ValueError(f"page {p} cannot begin in epoch {g.first[p]} and end in {g.last[p]}, of {g.epochs}")
    block = min(max(BLOCK_BYTES // ((g.epochs + 1) * g.nodes * 8), LEAST_BLOCK), LARGEST_BLOCK)
    values = <double *> malloc((g.epochs + 1) * g.nodes * block * sizeof(double))
    if values == NULL:
        raise MemoryError(f"no room for {block} pages over {g.epochs} epochs")
    cdef int64_t some = max(ASK_EVERY // ((g.epochs + 1) * g.nodes) // block, 1) * block, start = 0, stop
    try:
        while start < g.pages:
            stop = min(start + some, g.pages)
            with nogil:
                if wide:
                    total += relax_pages(&g, <const int64_t *> accesses, block, values, start, stop)
                else:
                    total += relax_pages(&g, <const int32_t *> accesses, block, values, start, stop)
            start = stop
            PyErr_CheckSignals()
    finally:
        free(values)
    return total


def choose(epoch, togo, moves, first, last, node):
    """Send every page to the node from which the rest of its path is cheapest, regardless of room.

    Parameters
    ----------
    epoch : int
        The epoch that begins.
    togo : ndarray of float32, shape (nodes, pages)
        Each page's cost from this epoch on, by the node on which it begins.
    moves : ndarray of float64, shape (nodes, nodes)
        Nanoseconds of a move.
    first, last : ndarray of int32, shape (pages,)
        As for `relax`.
    node : ndarray of int8, shape (pages,)
        In and out: each page's node, -1 for a page that does not exist in the epoch.

    Raises
    ------
    TypeError, ValueError
        An argument is no array of its type and shape, or a page is on a node beyond them; pages
        before it are done.
    """
    cdef int64_t now = whole_number(epoch, "epoch", 0, <int64_t>1 << 31)
    cdef const float *cost = <const float *> grid(togo, "togo", F32, (-1, -1))
    cdef int64_t p, j, k, at, nodes = length_of(togo, 0), pages = length_of(togo, 1), wrong = -1
    cdef const double *move = <const double *> grid(moves, "moves", F64, (nodes, nodes))
    cdef const int32_t *begin = <const int32_t *> grid(first, "first", I32, (pages,))
    cdef const int32_t *end = <const int32_t *> grid(last, "last", I32, (pages,))
    cdef int8_t *node_of = <int8_t *> grid_out(node, "node", I8, (pages,))
    cdef double best, t
    if not 0 < nodes <= MOST_NODES:
        raise ValueError(f"togo has {nodes} nodes, not 1 to {MOST_NODES}")
    with nogil:
        for p in range(pages):
            at = node_of[p]
            if at >= nodes:
                wrong = p
                break
            if not begin[p] <= now < end[p]:
                node_of[p] = -1
                continue
            k = max(at, 0)
            best = cost[k * pages + p]
            for j in range(nodes):
                t = cost[j * pages + p] + (move[at * nodes + j] if at >= 0 else 0)
                if t < best:
                    best = t
                    k = j
            node_of[p] = <int8_t> k
    if wrong >= 0:
        raise ValueError(f"page {wrong} is on node {node_of[wrong]} of {nodes}")
