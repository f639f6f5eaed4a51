"""Programs of a plan: their traces cut into epochs, read a piece at a time.

An epoch may be longer than memory, so nothing here returns it whole: a piece is at most a block
of the trace, and every pass over an epoch reads its pieces again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pagemig import auto
from pagemig.auto.tally import block_sums, tally
from pagemig.checked import whole
from pagemig.trace import Runs
from pagemig.trace.format import BLOCK
from pagemig.trace.runs import Columns

__all__ = ["Program", "merged", "trace_hash"]

Ints = NDArray[np.int64]

#: Runs whose accesses have one sum, to find where an epoch begins.
_SUMMED = 4096


@dataclass(frozen=True, eq=False)
class Program:
    """One program of a plan.

    Attributes
    ----------
    name : str
        Its name.
    trace : Runs
        Its accesses.
    start : int
        Its first page in arrays over the pages of all programs.
    cuts : ndarray of int64, shape (epochs + 1,)
        Accesses made by the beginning of each epoch, and by the end.
    place : int
        The processor it begins on, and its place in the order in which programs take turns.
    """

    name: str
    trace: Runs
    start: int
    cuts: Ints
    place: int

    @property
    def stop(self) -> int:
        """The page after its last."""
        return self.start + self.trace.footprint

    @property
    def epochs(self) -> int:
        """Epochs until it ends."""
        return int(np.searchsorted(self.cuts, self.cuts[-1], side="left"))

    @cached_property
    def _blocks(self) -> tuple[Ints, Ints]:
        """Runs and accesses before each block of the trace; the last element counts all."""
        runs, accesses = np.array([(0, 0), *self.trace.sizes], np.int64).T
        return np.cumsum(runs), np.cumsum(accesses)

    @cached_property
    def _sums(self) -> dict[int, Ints]:
        """Accesses by the end of every `_SUMMED` runs, for each block searched so far."""
        return {}

    @cached_property
    def _borders(self) -> dict[int, tuple[int, int]]:
        """Results of `_border`."""
        return {}

    def _border(self, epoch: int) -> tuple[int, int]:
        """Find the run that an epoch begins in, and the accesses before that run."""
        if epoch not in self._borders:
            self._borders[epoch] = self._found(int(self.cuts[epoch]))
        return self._borders[epoch]

    def _found(self, access: int) -> tuple[int, int]:
        runs, accesses = self._blocks
        block = int(np.searchsorted(accesses, access, side="right")) - 1
        if block == runs.size - 1:
            return int(runs[-1]), int(accesses[-1])
        start, before = int(runs[block]), int(accesses[block])
        counts = self.trace.part(start, int(runs[block + 1]))[2]
        if block not in self._sums:
            sums = np.empty(-(-counts.size // _SUMMED), np.int64)
            block_sums(counts, _SUMMED, sums)
            self._sums[block] = np.cumsum(sums)
        part = int(np.searchsorted(self._sums[block], access - before, side="right"))
        before += int(self._sums[block][part - 1]) if part else 0
        ends = np.cumsum(counts[part * _SUMMED : (part + 1) * _SUMMED], dtype=np.int64)
        run = int(np.searchsorted(ends, access - before, side="right"))
        return start + part * _SUMMED + run, before + (int(ends[run - 1]) if run else 0)

    def pieces(self, epoch: int) -> Iterator[Columns]:
        """Yield page, kind and accesses of the runs of an epoch, at most a block at a time.

        Runs are cut at the borders of the epoch.
        """
        epoch = whole(epoch, "epoch", 0, len(self.cuts) - 2)
        low, high = int(self.cuts[epoch]), int(self.cuts[epoch + 1])
        if low == high:
            return
        (first, before), (last, until) = self._border(epoch), self._border(epoch + 1)
        stop = last + (until < high)
        starts = self._blocks[0]
        inside = starts[(starts > first) & (starts < stop)].tolist()
        for start, end in zip([first, *inside], [*inside, stop], strict=True):
            index, write, count = self.trace.part(start, end)
            if (start == first and before < low) or (end == stop and until < high):
                count = count.copy()
                if end == stop and until < high:
                    count[-1] = high - until
                if start == first:
                    count[0] -= low - before
            yield index, write, count

    def count(self, epoch: int, sums: Ints) -> None:
        """Add an epoch's accesses of each page."""
        for index, _, count in self.pieces(epoch):
            tally(index, count, sums)

    def stream(self, epoch: int) -> Iterator[auto.Stream]:
        """Yield an epoch in order of time; pages are numbered over all programs."""
        epoch = whole(epoch, "epoch", 0, len(self.cuts) - 2)
        total = int(self.cuts[epoch + 1] - self.cuts[epoch])
        before = 0
        for index, write, count in self.pieces(epoch):
            page = index + np.int32(self.start) if self.start else index
            yield auto.Stream(page, count, write, before=before, total=total)
            before += int(count.sum(dtype=np.int64))


def trace_hash(trace: Runs) -> str:
    """Hash the accesses of a trace, in whatever file they are: the first half of a SHA-256."""
    digest = hashlib.sha256(trace.table.tobytes())
    runs = trace.runs
    for start in range(0, runs, BLOCK):  # not the trace's own blocks, which may be of any length
        for column in trace.part(start, min(start + BLOCK, runs)):
            digest.update(column.tobytes())
    return digest.hexdigest()[:32]


# ---- several programs at once -----------------------------------------------------------------


class _Feed:
    """The rest of one program's epoch."""

    def __init__(self, stream: Iterator[auto.Stream]) -> None:
        self._stream = stream
        self._next()

    def _next(self) -> None:
        self.at, self.now = 0, next(self._stream, None)

    def until(self, time: float) -> Iterator[auto.Stream]:
        """Yield the runs that begin before a time, in pieces."""
        while self.now is not None:
            stop = int(np.searchsorted(self.now.at, time, side="left"))
            if stop > self.at:
                yield self.now.cut(self.at, stop)
            self.at = stop
            if stop < self.now.page.size:
                return
            self._next()


def merged(streams: Sequence[Iterator[auto.Stream]], parts: int) -> Iterator[auto.Stream]:
    """Merge the runs of programs that run at the same time, in order of their share of the epoch.

    Parameters
    ----------
    streams : sequence of iterator of Stream
        One for each program, in the order of their turns.
    parts : int
        The number of pieces of equal time that the epoch is cut into.

    Yields
    ------
    Stream
        A piece; pieces without runs are left out.
    """
    feeds = [_Feed(stream) for stream in streams]
    for part in range(1, parts + 1):
        end = part / parts if part < parts else np.inf
        found = [piece for feed in feeds for piece in feed.until(end)]
        if found:
            yield _sorted(found)


def _sorted(pieces: Sequence[auto.Stream]) -> auto.Stream:
    """Join several pieces, in order of time."""
    page, count, write, at = (
        np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("page", "count", "write", "at")
    )
    order = np.argsort(at, kind="stable")
    return auto.Stream(page[order], count[order], write[order], at[order])
