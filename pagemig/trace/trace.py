"""A trace in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .columns import Ranks, first_seen, join
from .convert import converted
from .format import BLOCK, MAGIC, TraceFile, Writer
from .header import Header
from .runs import Columns, Runs
from .streams import Source, opened

__all__ = ["Trace", "in_reach", "load"]

#: Bytes up to which a trace is worth having in memory; a longer one is read again for each pass.
_IN_MEMORY = 1 << 30


@dataclass(frozen=True, repr=False)
class Trace(Runs):
    """A program's page accesses as runs, in order.

    Attributes
    ----------
    table : ndarray of uint64, shape (footprint,)
        The pages accessed, as page numbers, ascending.
    index : ndarray of int32, shape (runs,)
        Each run's page, as an index into ``table``.
    write : ndarray of bool, shape (runs,)
        Whether each run's accesses store.
    count : ndarray of uint32, shape (runs,)
        How many accesses each run has, at least 1.
    header : Header
        The trace's description.
    ticks : ndarray of uint64, shape (ticks,)
        The time axis: accesses before each tick (`Runs`).
    """

    table: NDArray[np.uint64]
    index: NDArray[np.int32]
    write: NDArray[np.bool_]
    count: NDArray[np.uint32]
    header: Header = field(default_factory=Header)
    ticks: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    @classmethod
    def from_accesses(
        cls, pages: ArrayLike, write: ArrayLike = False, header: Header | None = None
    ) -> Trace:
        """Make a trace of single accesses.

        Parameters
        ----------
        pages : array_like of int, shape (n,)
            Page numbers in order of access.
        write : array_like of bool, shape (n,) or a bool
            Whether each access stores.
        header : Header, optional
            Its ``accesses`` is set to ``n``, and its ``references`` where it is 0.

        Returns
        -------
        Trace
        """
        numbers = np.asarray(pages)
        if numbers.size and (numbers.dtype.kind not in "iu" or numbers.min() < 0):
            raise ValueError(f"pages must be page numbers from 0 to 2**64 - 1, not {pages!r}")
        numbers = np.ascontiguousarray(numbers.astype(np.uint64))
        if numbers.ndim != 1:
            raise ValueError(f"pages must have one dimension, not shape {numbers.shape}")
        stores = np.broadcast_to(np.asarray(write, np.bool_), numbers.shape)
        kinds = np.ascontiguousarray(stores).view(np.uint8)
        run_pages, run_write, run_count = join(numbers, kinds)
        ranks = Ranks()
        rank = ranks.of(run_pages)
        order = np.argsort(ranks.pages)
        places = np.empty(order.size, np.int32)
        places[order] = np.arange(order.size, dtype=np.int32)
        facts = (header or Header()).counted(numbers.size)
        return cls(ranks.pages[order], places[rank], run_write, run_count, facts)

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.index.size

    @property
    def accesses(self) -> int:
        """Number of accesses."""
        return int(self.count.sum(dtype=np.uint64))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Runs and accesses; a trace in memory is one block."""
        return [(self.runs, self.accesses)] if self.runs else []

    @property
    def blocks(self) -> Iterator[Columns]:
        """All runs: index, write and count."""
        if self.runs:
            yield self.part(0, self.runs)

    def part(self, start: int, stop: int) -> Columns:
        """Return index, write and count of runs ``start`` to ``stop``, as views."""
        cut = slice(start, stop)
        return self.index[cut], self.write[cut], self.count[cut]

    @property
    def pages(self) -> NDArray[np.uint64]:
        """Each run's page number; shape (runs,)."""
        return self.table[self.index]

    def save(self, path: str | os.PathLike[str], *, small: bool = False) -> None:
        """Write the trace to a file (`load` reads it back).

        Parameters
        ----------
        path : path-like
            The file; it appears whole or not at all.
        small : bool
            Use xz: a quarter smaller, and twenty times as long to write.
        """
        rank = first_seen(np.ascontiguousarray(self.index, np.int32), self.table.size)
        table = np.empty(self.table.size, np.uint64)
        table[rank] = self.table
        with Writer(path, self.header, small=small) as writer:
            for start in range(0, self.runs, BLOCK):
                index, write, count = self.part(start, start + BLOCK)
                writer.put(rank[index], write, count)
            writer.end(table, self.ticks, self.header)


def load(source: str | os.PathLike[str] | Source) -> Trace:
    """Read a trace into memory.

    Parameters
    ----------
    source : path-like or binary file
        A ``.pmt`` file (`TraceFile` reads one without taking it into memory), or a trace of any
        other format that `pagemig.trace.readers` knows; ``-`` is the standard input.

    Returns
    -------
    Trace

    Raises
    ------
    TraceError
        The file is not a trace, is damaged or ends early; the message says where.
    MemoryError
        The trace takes more memory than is available.
    OSError
        It cannot be read.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(opened(source))
        if stream.peek(len(MAGIC)) != MAGIC:
            return load(stack.enter_context(converted(stream)))
        whole = stack.enter_context(stream.whole())
        file = stack.enter_context(TraceFile(whole, name=stream.name))
        return Trace(file.table, *file.columns(), file.header, file.ticks)


@contextlib.contextmanager
def in_reach(path: str | os.PathLike[str], most: int | None = None) -> Iterator[Runs]:
    """A trace in memory, or in its file if it is long.

    Parameters
    ----------
    path : path-like
        As for `load`. Only a ``.pmt`` file can stay where it is.
    most : int, optional
        Bytes of memory that it may take; a GiB unless given.

    Yields
    ------
    Trace or TraceFile
        Memory is bounded by its footprint and ``most``, whatever its length.
    """
    with Path(path).open("rb") as file:
        stays = file.read(len(MAGIC)) == MAGIC
    if stays:
        with TraceFile(path) as whole:
            if 9 * whole.runs > (_IN_MEMORY if most is None else most):
                yield whole
                return
    yield load(path)
