"""A cache in front of the memory, so that a trace holds only accesses that reach the memory.

A program touches the same few lines repeatedly. The processor's caches serve these accesses, and no
page placement makes them faster. `LineCache` removes them from a stream of accesses: one
set-associative cache of 64-byte lines with LRU replacement and write-back. It stands for a
hierarchy: the last level decides which accesses reach the memory, and only it is modelled.

The rules are:

==========================  ===================================================================
load or store, line absent  one access of the memory (of the access's own kind): the line's fill
store, line present, clean  one write of the memory: the write-back this store will cause
anything else               nothing
==========================  ===================================================================

so a page that is written by the program is written in the trace.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pagemig.checked import U64, integers, truths, whole

from .columns import Sets

__all__ = ["LINE_SHIFT", "LineCache"]

#: log2 of the line size in bytes.
LINE_SHIFT = 6

_LARGEST = 1 << 30
_MOST_WAYS = 1 << 10


class LineCache:
    """A set-associative write-back cache for arrays of accesses; keeps its state between calls.

    Parameters
    ----------
    size : int
        Bytes; ``ways`` times a number of sets times 64. The number of sets need not be a power of
        two: last levels of 33 or 36 MiB are real.
    ways : int, default 16
        Lines of a set; 1: direct-mapped.

    Raises
    ------
    ValueError
        No such cache has this size.
    """

    def __init__(self, size: int, ways: int = 16) -> None:
        size, ways = whole(size, "cache size", 1, _LARGEST), whole(ways, "ways", 1, _MOST_WAYS)
        sets = size // (ways << LINE_SHIFT)
        if size != sets * ways << LINE_SHIFT:
            raise ValueError(f"cache size {size} is not a multiple of {ways} ways of 64 bytes")
        self.size, self.ways = size, ways
        self._sets = Sets(sets, ways)

    def filter(self, lines: NDArray[np.uint64], write: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell which accesses reach the memory.

        Parameters
        ----------
        lines : ndarray of uint64, shape (n,)
            Line numbers (byte address >> 6) in the order of access.
        write : ndarray of bool, shape (n,)
            Whether each access is a store.

        Returns
        -------
        ndarray of bool, shape (n,)
            True for accesses that reach the memory, by the rules above.

        Raises
        ------
        TypeError
            Lines that are no integers, or stores that are not True or False.
        ValueError
            Not two arrays of one length, or a line below 0.
        """
        numbers = integers(lines, "lines", (None,), 0, U64, np.uint64)
        kinds = truths(write, "write", numbers.shape).view(np.uint8)
        return self._sets.filter(numbers, kinds)
