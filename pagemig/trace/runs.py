"""The interface of a trace, in memory (`Trace`) or in its file (`TraceFile`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pagemig import files
from pagemig.checked import whole

from .header import Header

__all__ = ["Columns", "Runs"]

#: Pages (as an index into the table), kinds and counts of runs.
Columns: TypeAlias = tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.uint32]]


#: The most parts of a trace.
_MOST_PARTS = 1 << 24


class Runs(ABC):
    """A program's page accesses as runs, in order.

    Attributes
    ----------
    table : ndarray of uint64, shape (footprint,)
        The pages accessed, as page numbers, ascending.
    header : Header
        Where the trace comes from.
    ticks : ndarray of uint64, shape (ticks,)
        The time axis: accesses before each tick. Entry ``k`` is ``(k + 1) * header.tick`` units
        after the first access; empty if the tool reported no time.
    """

    table: NDArray[np.uint64]
    header: Header
    ticks: NDArray[np.uint64]

    @property
    @abstractmethod
    def sizes(self) -> list[tuple[int, int]]:
        """Runs and accesses of each block."""

    @property
    @abstractmethod
    def blocks(self) -> Iterator[Columns]:
        """All runs, a block at a time: index, write and count."""

    @abstractmethod
    def part(self, start: int, stop: int) -> Columns:
        """Return index, write and count of runs ``start`` to ``stop``, which is exclusive."""

    @property
    def footprint(self) -> int:
        """Number of different pages accessed."""
        return self.table.size

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(runs for runs, _ in self.sizes)

    @property
    def accesses(self) -> int:
        """Number of accesses."""
        return sum(accesses for _, accesses in self.sizes)

    def expand(self, start: int = 0, stop: int | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the single accesses of runs ``start`` to ``stop``.

        Returns
        -------
        index : ndarray of int32
            Each access's page, as an index into ``table``.
        write : ndarray of bool
            Whether each access stores.

        Raises
        ------
        MemoryError
            They take more memory than is available.
        """
        index, write, count = self.part(start, self.runs if stop is None else stop)
        files.room(5 * int(count.sum(dtype=np.uint64)), "a trace access by access")
        return np.repeat(index, count), np.repeat(write, count)

    def epochs(
        self, number: int, by: Literal["accesses", "time"] = "accesses"
    ) -> Iterator[tuple[int, int]]:
        """Cut the trace into parts with about equal numbers of accesses, or of equal length.

        Parameters
        ----------
        number : int
            Number of parts; fewer if runs are longer than a part.
        by : {"accesses", "time"}
            Whether parts have equal numbers of accesses or equal length. Cuts are at run borders.

        Yields
        ------
        (int, int)
            First run and the run after the last.

        Raises
        ------
        ValueError
            Less than 1 part or more than 2**24, or by time if the trace has no time axis.
        """
        number = whole(number, "number", 1, _MOST_PARTS)
        if by not in ("accesses", "time"):
            raise ValueError(f"a trace is cut by accesses or time, not by {by!r}")
        targets = np.array([self.accesses * k // number for k in range(1, number + 1)], np.int64)
        if by == "time":
            targets = self._times(number)
        cuts = np.empty(0, np.int64)
        base = runs = 0
        for block, (size, accesses) in enumerate(self.sizes):
            inside = targets[(targets > base) & (targets <= base + accesses)]
            if inside.size:
                ends = base + np.cumsum(self._counts(block), dtype=np.int64)
                cuts = np.append(cuts, runs + np.searchsorted(ends, inside) + 1)
            base, runs = base + accesses, runs + size
        borders = np.unique(np.concatenate(([0], cuts, [runs])))
        yield from zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)

    def _times(self, number: int) -> NDArray[np.int64]:
        """Return the accesses up to the end of each of ``number`` equally long parts."""
        if not self.header.unit:
            raise ValueError("the trace has no time axis: the tool it comes from told no time")
        end = max(self.header.duration, 1)
        known = np.concatenate(([0], self.ticks, [self.accesses])).astype(np.float64)
        times = np.minimum(np.arange(known.size, dtype=np.float64) * self.header.tick, end)
        times[-1] = end
        targets = np.interp(np.linspace(0, end, number + 1)[1:], times, known)
        targets[-1] = self.accesses
        return np.floor(targets).astype(np.int64)

    def _counts(self, block: int) -> NDArray[np.uint32]:
        start = sum(runs for runs, _ in self.sizes[:block])
        return self.part(start, start + self.sizes[block][0])[2]

    def __repr__(self) -> str:
        name = f" of {self.header.program!r}" if self.header.program else ""
        return (
            f"<{type(self).__name__}{name}: {self.accesses:,} accesses in {self.runs:,} runs to "
            f"{self.footprint:,} pages>"
        )
