"""A cache in front of the memory, so that a trace holds what the memory sees.

A program touches the same few lines over and over; those accesses end in the processor's caches
and no page placement makes them faster. `LineCache` takes them out of a stream of accesses: one
direct-mapped cache of 64-byte lines with write-back, evaluated over whole arrays. It is a stand-in
for a hierarchy, not a model of one.

The rules are:

=========================  ====================================================================
load or store, line absent  one access of the memory (of the access's own kind): the line's fill
store, line there, clean    one write of the memory: the write-back this store will cause
anything else               nothing
=========================  ====================================================================

so a page that is written by the program is written in the trace.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LINE_SHIFT", "LineCache"]

#: log2 of the line size in bytes.
LINE_SHIFT = 6


class LineCache:
    """Direct-mapped write-back cache over arrays of accesses; keeps its state between calls.

    Parameters
    ----------
    size : int
        Bytes; a power of two, 64 bytes to 4 MiB (set numbers then fit 16 bits, which is what
        makes sorting by set linear).

    Raises
    ------
    ValueError
        For any other size.
    """

    def __init__(self, size: int) -> None:
        sets = size >> LINE_SHIFT
        if size != sets << LINE_SHIFT or not 1 <= sets <= 1 << 16 or sets & (sets - 1):
            raise ValueError(f"cache size {size} is not a power of two from 64 to {1 << 22} bytes")
        self.size = size
        self._mask = np.uint64(sets - 1)
        self._line = np.full(sets, np.iinfo(np.uint64).max, np.uint64)
        self._dirty = np.zeros(sets, np.bool_)

    def filter(self, lines: NDArray[np.uint64], write: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which accesses reach the memory.

        Parameters
        ----------
        lines : ndarray of uint64, shape (n,)
            Line numbers (byte address >> 6) in the order of access.
        write : ndarray of bool, shape (n,)
            Whether each access is a store.

        Returns
        -------
        ndarray of bool, shape (n,)
            True where the access is one of the memory too, by the rules above.
        """
        if lines.size == 0:
            return np.zeros(0, np.bool_)
        sets = (lines & self._mask).astype(np.uint16)
        order = np.argsort(sets, kind="stable")
        sets, line, store = sets[order], lines[order], write[order]
        first = np.empty(line.size, np.bool_)  # of its set in this call
        first[0] = True
        np.not_equal(sets[1:], sets[:-1], out=first[1:])

        before = np.empty_like(line)
        before[1:] = line[:-1]
        before[first] = self._line[sets[first]]
        fill = line != before

        # Between two fills of a set the line stays: count its stores so far. What the line
        # brought along from the last call is one store more, at the front of its stretch.
        stretch = fill | first
        inherited = np.zeros(line.size, np.int64)
        inherited[first] = self._dirty[sets[first]] & ~fill[first]
        total = np.cumsum(store.astype(np.int64) + inherited)
        at = np.flatnonzero(stretch)
        base = (total - store - inherited)[at]  # what earlier stretches had counted
        stores = total - np.repeat(base, np.diff(at, append=line.size))

        # A stretch's first store finds the line clean, unless the fill itself was the store.
        passed = fill | (store & (stores == 1))
        last = np.append(first[1:], True)
        self._line[sets[last]] = line[last]
        self._dirty[sets[last]] = stores[last] > 0

        reached = np.empty(line.size, np.bool_)
        reached[order] = passed
        return reached
