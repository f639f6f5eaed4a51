"""Loops over the columns of a trace: runs, ranks of pages, blocks of memory that accesses touch.

Arrays go in and come out; nothing here knows files.
"""

import os

import numpy as np

from pagemig.checked import whole

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from pagemig._arrays cimport column, column_out, I32, length_of, own_data, U32, U64, U8

cdef uint32_t NONE = 0xFFFFFFFF  # an empty slot of the hash table
cdef Py_ssize_t MOST_LINES = 1 << 30  # lines of a cache
cdef uint64_t MOST = 0xFFFFFFFF  # accesses of a run


def join(pages, write, count=None):
    """Join neighbours of the same page and kind.

    Parameters
    ----------
    pages : ndarray of uint64, shape (n,)
        Page numbers in order.
    write : ndarray of bool, shape (n,)
        Whether each stores.
    count : ndarray of uint64, shape (n,), optional
        How many accesses each stands for; without it one. Entries of 0 are left out.

    Returns
    -------
    pages : ndarray of uint64, shape (runs,)
    write : ndarray of bool, shape (runs,)
    count : ndarray of uint32, shape (runs,)
        A run of more than 2**32 - 1 accesses comes out as several.
    """
    cdef Py_ssize_t i, size = 0, needed = 0
    cdef const uint64_t *page_of = <const uint64_t *> column(pages, "pages", U64)
    cdef const uint8_t *kind_of = <const uint8_t *> column(write, "write", U8)
    cdef Py_ssize_t n = length_of(pages, 0), kinds = length_of(write, 0), amounts = n
    cdef const uint64_t *count_of = NULL
    cdef uint64_t amount, now, page = 0, held = 0
    cdef uint8_t now_kind, kind = 0
    if count is not None:
        column(count, "count", U64)
        amounts = length_of(count, 0)
    if kinds != n or amounts != n:
        raise ValueError(
            f"pages, write and count must be of one length, not {n}, {kinds}"
            + (f", {amounts}" if count is not None else "")
        )
    if count is not None:
        count = np.array(count)  # read twice, and the caller's may change in between
        count_of = <const uint64_t *> own_data(count)
        for i in range(n):
            needed += 1 + <Py_ssize_t>(count_of[i] // MOST)
            if needed > n + (<Py_ssize_t>1 << 24):
                raise ValueError(f"counts such as {count_of[i]} make more runs than a trace holds")
    needed = max(needed, n) + 1
    run_pages = np.empty(needed, np.uint64)
    run_write = np.empty(needed, np.uint8)
    run_count = np.empty(needed, np.uint32)
    cdef uint64_t *to_pages = <uint64_t *> own_data(run_pages)
    cdef uint8_t *to_write = <uint8_t *> own_data(run_write)
    cdef uint32_t *to_count = <uint32_t *> own_data(run_count)
    with nogil:
        for i in range(n):
            amount = count_of[i] if count_of != NULL else 1
            now, now_kind = page_of[i], kind_of[i] != 0     # read once: the caller's may change
            if held and now == page and now_kind == kind and amount <= MOST - held:
                held += amount
                continue
            if amount == 0:
                continue
            if held and now == page and now_kind == kind:
                amount -= MOST - held  # no overflow: held is at most MOST
                held = MOST
            if held:
                to_pages[size], to_write[size], to_count[size] = page, kind, <uint32_t>held
                size += 1
            page, kind = now, now_kind
            while amount > MOST:
                to_pages[size], to_write[size], to_count[size] = page, kind, <uint32_t>MOST
                size += 1
                amount -= MOST
            held = amount
        if held:
            to_pages[size], to_write[size], to_count[size] = page, kind, <uint32_t>held
            size += 1
    if 2 * size < needed:  # a view would keep all of it
        run_pages, run_write, run_count = run_pages[:size].copy(), run_write[:size].copy(), run_count[:size].copy()
    return run_pages[:size], run_write[:size].view(np.bool_), run_count[:size]


@cython.final
cdef class Ranks:
    """Ranks of pages: their numbers in the order in which they are first seen, from 0.

    The hash table uses open addressing and a random seed, so that no file can be crafted to be slow to read.
    """

    cdef uint64_t seed
    cdef Py_ssize_t size
    cdef bint busy          # a thread numbers pages without the interpreter lock, which this is under
    cdef object _keys, _slots, _pages

    def __cinit__(self):
        self.seed = int.from_bytes(os.urandom(8), "little") | 1
        self.size = 0
        self._keys = np.empty(1 << 10, np.uint64)
        self._slots = np.full(1 << 10, NONE, np.uint32)
        self._pages = np.empty(1 << 9, np.uint64)

    def __len__(self):
        return self.size

    @property
    def pages(self):
        """The pages in order of their rank; ndarray of uint64."""
        return self._pages[:self.size].copy()

    def of(self, pages):
        """Get the ranks of pages; pages not seen before get the next ones.

        Returns
        -------
        ndarray of uint32, shape (n,)

        Raises
        ------
        RuntimeError
            Another thread is numbering pages with the same object.
        """
        cdef Py_ssize_t at = 0
        cdef const uint64_t *page_of = <const uint64_t *> column(pages, "pages", U64)
        cdef Py_ssize_t n = length_of(pages, 0)
        ranks = np.empty(n, np.uint32)
        cdef uint32_t *out = <uint32_t *> own_data(ranks)
        if self.busy:
            raise RuntimeError("another thread is numbering pages with these Ranks")
        self.busy = True
        try:
            while at < n:
                at = self._look_up(page_of, out, at, n)
                if at < n:
                    self._grow()
        finally:
            self.busy = False
        return ranks

    cdef Py_ssize_t _look_up(self, const uint64_t *pages, uint32_t *out, Py_ssize_t at, Py_ssize_t n):
        """Number pages from place ``at`` on until all ``n`` are done or the table is half full."""
        cdef uint64_t *keys = <uint64_t *> own_data(self._keys)
        cdef uint32_t *slots = <uint32_t *> own_data(self._slots)
        cdef uint64_t *known = <uint64_t *> own_data(self._pages)
        cdef Py_ssize_t room = len(self._pages)
        cdef uint64_t mask = <uint64_t>(len(self._keys) - 1), page, place
        with nogil:
            while at < n:
                page = pages[at]
                place = mixed(page, self.seed) & mask
                while slots[place] != NONE and keys[place] != page:
                    place = (place + 1) & mask
                if slots[place] == NONE:
                    if self.size == room:
                        break
                    keys[place], slots[place] = page, <uint32_t>self.size
                    known[self.size] = page
                    self.size += 1
                out[at] = slots[place]
                at += 1
        return at

    def _grow(self):
        if self.size >= (<int64_t>1 << 31) - 1:
            raise ValueError("a trace has at most 2**31 - 1 pages")
        pages, ranks = self._pages, np.empty(self._pages.size, np.uint32)
        self._pages = np.empty(2 * pages.size, np.uint64)
        self._keys = np.empty(4 * pages.size, np.uint64)
        self._slots = np.full(4 * pages.size, NONE, np.uint32)
        self.size = 0
        self._look_up(<uint64_t *> own_data(pages), <uint32_t *> own_data(ranks), 0, pages.size)


cdef inline uint64_t mixed(uint64_t page, uint64_t seed) noexcept nogil:
    """Hash a page number: the finaliser of splitmix64."""
    page = (page ^ seed) * <uint64_t>0xBF58476D1CE4E5B9
    page = (page ^ (page >> 27)) * <uint64_t>0x94D049BB133111EB
    return page ^ (page >> 31)


def picked(ranks, wide, places, out):
    """``places[ranks]`` for ranks of ``wide`` bytes each.

    Parameters
    ----------
    ranks : ndarray of uint8, shape (n * wide,)
        Little-endian.
    wide : int
        1 to 4.
    places : ndarray of int32, shape (m,)
        What to pick from.
    out : ndarray of int32, shape (n,)
        Out: what was picked.

    Returns
    -------
    bool
        False if a rank is not among the places; ``out`` is then filled in part.
    """
    cdef Py_ssize_t i
    cdef const uint8_t *at = <const uint8_t *> column(ranks, "ranks", U8)
    cdef const int32_t *place = <const int32_t *> column(places, "places", I32)
    cdef int32_t *to = <int32_t *> column_out(out, "out", I32)
    cdef Py_ssize_t octets = length_of(ranks, 0), known = length_of(places, 0), n = length_of(out, 0)
    cdef int size_of = whole(wide, "wide", 1, 4)
    if octets != n * size_of:
        raise ValueError(f"{octets} bytes are not {n} ranks of {wide} bytes")
    cdef uint32_t size = <uint32_t>min(known, <int64_t>1 << 31), rank
    cdef bint wild = False
    with nogil:
        for i in range(n):
            rank = at[0]
            if size_of > 1:
                rank |= <uint32_t>at[1] << 8
            if size_of > 2:
                rank |= <uint32_t>at[2] << 16
            if size_of > 3:
                rank |= <uint32_t>at[3] << 24
            at += size_of
            if rank >= size:
                wild = True
                break
            to[i] = place[rank]
    return not wild


def counts(planes, wide, out):
    """Add one to numbers of ``wide`` bytes each, stored as planes of bytes by significance.

    Parameters
    ----------
    planes : ndarray of uint8, shape (wide * n,)
        All lowest bytes, then all second bytes, and so on.
    wide : int
        1, 2 or 4.
    out : ndarray of uint32, shape (n,)
        Out: the numbers.

    Returns
    -------
    int
        Their sum; -1 if one is 2**32, which ``out`` cannot hold.
    """
    cdef Py_ssize_t i
    cdef const uint8_t *low = <const uint8_t *> column(planes, "planes", U8)
    cdef uint32_t *to = <uint32_t *> column_out(out, "out", U32)
    cdef Py_ssize_t octets = length_of(planes, 0), n = length_of(out, 0)
    cdef uint64_t total = 0, number
    cdef bint wild = False
    cdef int size_of = whole(wide, "wide", 1, 4)
    if size_of == 3 or octets != n * size_of:
        raise ValueError(f"{octets} bytes are not {n} numbers of {wide} bytes")
    with nogil:
        if size_of == 1:
            for i in range(n):
                to[i] = <uint32_t>low[i] + 1
                total += to[i]
        elif size_of == 2:
            for i in range(n):
                to[i] = (<uint32_t>low[i] | <uint32_t>low[n + i] << 8) + 1
                total += to[i]
        else:
            for i in range(n):
                number = (
                    <uint64_t>low[i] | <uint64_t>low[n + i] << 8
                    | <uint64_t>low[2 * n + i] << 16 | <uint64_t>low[3 * n + i] << 24
                ) + 1
                wild = wild or number > MOST
                to[i] = <uint32_t>number
                total += number
    return -1 if wild else total


cdef inline uint64_t last_block(uint64_t address, uint32_t size, int shift) noexcept nogil:
    """Find the block of an access's last byte, or of its first if the access would pass the last address."""
    cdef uint64_t last = address + (size - (size != 0))
    return (last if last >= address else address) >> shift


def blocks(address, size, shift, start=0, most=1 << 22):
    """List the blocks of ``2**shift`` bytes that accesses touch, ascending within an access.

    Parameters
    ----------
    address : ndarray of uint64, shape (n,)
        First bytes.
    size : ndarray of uint32, shape (n,)
        Bytes of each.
    shift : int
        12 for pages, 6 for cache lines.
    start : int
        The access to begin with.
    most : int
        About how many blocks to return at most.

    Returns
    -------
    blocks : ndarray of uint64, shape (m,)
        Block numbers in order of access; an access that straddles gives several.
    origin : ndarray of int64, shape (m,), or None
        The access of each; None if all accesses from ``start`` on touch one block each.
    stop : int
        The first access not listed; ``n`` at the end.
    """
    cdef Py_ssize_t i, k = 0
    cdef const uint64_t *begin = <const uint64_t *> column(address, "address", U64)
    cdef const uint32_t *size_of = <const uint32_t *> column(size, "size", U32)
    cdef Py_ssize_t n = length_of(address, 0), sizes = length_of(size, 0)
    cdef Py_ssize_t first = whole(start, "start", 0, n), stop = first
    cdef uint64_t block, last, total = 0, enough = whole(most, "most", 1, <int64_t>1 << 40)
    cdef int by = whole(shift, "shift", 0, 63)
    if sizes != n:
        raise ValueError(f"address and size must be of one length, not {n} and {sizes}")
    with nogil:
        while stop < n and total < enough:
            total += last_block(begin[stop], size_of[stop], by) - (begin[stop] >> by) + 1
            stop += 1
    found = np.empty(total, np.uint64)
    origin = np.empty(total, np.int64) if total != <uint64_t>(stop - first) else None
    cdef uint64_t *out = <uint64_t *> own_data(found)
    cdef int64_t *of = <int64_t *> own_data(origin) if origin is not None else NULL
    with nogil:
        for i in range(first, stop):
            block = begin[i] >> by
            last = last_block(begin[i], size_of[i], by)
            while k < <Py_ssize_t>total:  # a caller's array may have changed since it was counted
                out[k] = block
                if of != NULL:
                    of[k] = i
                k += 1
                if block >= last:
                    break
                block += 1
    return found[:k], origin if origin is None else origin[:k], stop


def first_seen(index, number):
    """Rank ``number`` pages by their first place in ``index``.

    Returns
    -------
    ndarray of uint32, shape (number,)
        Pages that are not in ``index`` come last, in their own order.
    """
    cdef Py_ssize_t pages = whole(number, "number", 0, NONE), i
    cdef const int32_t *page_of = <const int32_t *> column(index, "index", I32)
    cdef Py_ssize_t n = length_of(index, 0)
    cdef uint32_t next_rank = 0
    cdef int32_t page
    ranks = np.full(pages, NONE, np.uint32)
    cdef uint32_t *rank = <uint32_t *> own_data(ranks)
    with nogil:
        for i in range(n):
            page = page_of[i]
            if page < 0 or page >= pages:
                with gil:
                    raise ValueError(f"index has a page {page}, but there are {pages} pages")
            if rank[page] == NONE:
                rank[page] = next_rank
                next_rank += 1
        for i in range(pages):
            if rank[i] == NONE:
                rank[i] = next_rank
                next_rank += 1
    return ranks


@cython.final
cdef class Sets:
    """Set-associative cache of lines with LRU replacement; the arrays behind `LineCache`.

    An entry is a line number, shifted left by one, with the dirty bit as its lowest bit. The entries
    of a set are ordered by use, the most recent first.
    """

    cdef uint64_t sets
    cdef Py_ssize_t ways
    cdef object _entries

    def __cinit__(self, sets, ways):
        self.sets, self.ways = whole(sets, "sets", 1, MOST_LINES), whole(ways, "ways", 1, MOST_LINES)
        whole(sets * ways, "sets times ways", 1, MOST_LINES)
        self._entries = np.full(sets * ways, np.iinfo(np.uint64).max, np.uint64)

    def filter(self, lines, write):
        """Find the accesses that reach memory; ndarray of bool, shape (n,)."""
        cdef uint64_t *entries = <uint64_t *> own_data(self._entries)
        cdef Py_ssize_t ways = self.ways, i, k, way
        cdef const uint64_t *line_of = <const uint64_t *> column(lines, "lines", U64)
        cdef const uint8_t *kind_of = <const uint8_t *> column(write, "write", U8)
        cdef Py_ssize_t n = length_of(lines, 0), kinds = length_of(write, 0)
        cdef uint64_t line, entry, base
        cdef uint64_t *of
        cdef uint64_t sets = self.sets
        cdef bint round = sets & (sets - 1) == 0
        if kinds != n:
            raise ValueError(f"lines and write must be of one length, not {n} and {kinds}")
        passed = np.empty(n, np.uint8)
        cdef uint8_t *out = <uint8_t *> own_data(passed)
        with nogil:
            for i in range(n):
                line = line_of[i]
                base = (line & (sets - 1)) if round else line % sets
                of = &entries[base * <uint64_t>ways]
                way = 0
                while way < ways and (of[way] >> 1) != line:
                    way += 1
                out[i] = way == ways
                if way == ways:
                    way -= 1
                    entry = line << 1
                else:
                    entry = of[way]
                if kind_of[i] and not entry & 1:
                    out[i] = True  # the write-back that this store will cause
                    entry |= 1
                for k in range(way, 0, -1):
                    of[k] = of[k - 1]
                of[0] = entry
        return passed.view(np.bool_)
