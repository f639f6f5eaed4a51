"""A trace in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pagemig.checked import U64, integers, truth_of_each, truths, unchecked, whole

from .columns import Ranks, first_seen, join
from .convert import converted
from .format import BLOCK, MAGIC, TraceFile, Writer
from .header import Header
from .runs import Columns, Runs
from .streams import Source, opened

__all__ = ["Trace", "as_file", "load", "stored"]


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

    Raises
    ------
    TypeError
        Columns that are no whole numbers, or a header that is none.
    ValueError
        Columns of several lengths, a page that is not in the table, or a run without accesses.
    """

    table: NDArray[np.uint64]
    index: NDArray[np.int32]
    write: NDArray[np.bool_]
    count: NDArray[np.uint32]
    header: Header = field(default_factory=Header)
    ticks: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    def __post_init__(self) -> None:
        """Refuse what is no trace."""
        if not isinstance(self.header, Header):
            raise TypeError(f"header must be a Header, not {self.header!r:.80}")
        table = integers(self.table, "table", (None,), 0, U64, np.uint64)
        index = integers(self.index, "index", (None,), 0, table.size - 1, np.int32)
        checked = {
            "table": table,
            "index": index,
            "write": truths(self.write, "write", index.shape),
            "count": integers(self.count, "count", index.shape, 1, (1 << 32) - 1, np.uint32),
            "ticks": integers(self.ticks, "ticks", (None,), 0, U64, np.uint64),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

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
        numbers = integers(pages, "pages", (None,), 0, U64, np.uint64)
        kinds = truth_of_each(write, "write", numbers.shape).view(np.uint8)
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

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Runs and accesses of each block; blocks are as long as those of a file."""
        counts = (self.count[start : start + BLOCK] for start in range(0, self.runs, BLOCK))
        return [(count.size, int(count.sum(dtype=np.uint64))) for count in counts]

    @property
    def blocks(self) -> Iterator[Columns]:
        """All runs, a block at a time: index, write and count."""
        for start in range(0, self.runs, BLOCK):
            yield self.part(start, start + BLOCK)

    def part(self, start: int, stop: int) -> Columns:
        """Return index, write and count of runs ``start`` to ``stop``, as views."""
        cut = slice(whole(start, "start", 0, U64), whole(stop, "stop", 0, U64))
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
    with stored(source) as file:
        index, write, count = file.columns()
        return unchecked(  # the file was checked where it was read
            Trace,
            table=file.table,
            index=index,
            write=write,
            count=count,
            header=file.header,
            ticks=file.ticks,
        )


@contextlib.contextmanager
def stored(source: str | os.PathLike[str] | Source) -> Iterator[TraceFile]:
    """Open a trace of any format in its file: memory is bounded by its footprint, not its length.

    Parameters
    ----------
    source : path-like or binary file
        As for `load`. A trace of another format, packed or from a pipe is made a ``.pmt`` file
        for as long as the ``with`` block lasts, in the directory for temporary files.

    Yields
    ------
    TraceFile
        One thread at a time may use it: it has one place in its file.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(opened(source))
        if stream.peek(len(MAGIC)) == MAGIC:
            whole: Any = stack.enter_context(stream.whole())
        else:
            whole = stack.enter_context(converted(stream))
        yield stack.enter_context(TraceFile(whole, name=stream.name))


@contextlib.contextmanager
def as_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a ``.pmt`` file of a trace that is opened often, temporary unless it is one."""
    with Path(path).open("rb") as file:
        plain = file.read(len(MAGIC)) == MAGIC
    if plain:
        yield Path(path)
    else:
        with converted(path) as made:
            yield made
