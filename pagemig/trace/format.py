"""Traces of page accesses, and the file they are kept in.

A trace is the order in which a program accessed its pages: *runs* of consecutive accesses to one
page by one kind (load or store). Nothing but repetition is lost.

The file (``.pmt``), all numbers little-endian:

=========  =====================================================================================
8 bytes    ``PMTRACE1``
4 bytes    length of the header
header     UTF-8 JSON: the keys of `Header`, plus ``runs``, ``pages`` (how many, and the stored
           length of the next part) and ``blocks``: for each the number of its runs, the bytes per
           element of its first column, and the stored lengths of its columns
pages      the page numbers (byte address / page size) in order of first access, each minus the
           one before, int64
blocks     one after the other, each of three columns with an entry per run
=========  =====================================================================================

A block's first column says which page, as a place in *pages* (uint16, or uint32 where that is too
narrow); the second whether the accesses store, one bit; the third how many there are, uint32, its
bytes by plane: all lowest bytes, then all second bytes, and so on. *pages* and the columns are xz
streams, which carry checksums of their own.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PAGE_SHIFT", "Header", "Trace", "TraceError", "Writer", "load"]

PAGE_SHIFT = 12
MAGIC = b"PMTRACE1"
#: Runs per block: what a writer holds uncompressed.
BLOCK = 1 << 20
_PRESET = 6
#: No part of a file is longer.
_LARGEST = 1 << 32
_MOST = np.iinfo(np.uint32).max


#: What reading a damaged file may raise, besides `TraceError`.
_DAMAGE = (
    lzma.LZMAError,
    AttributeError,
    EOFError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


class TraceError(ValueError):
    """A file is not a trace, is damaged, or is of a later version."""


@dataclass(frozen=True)
class Header:
    """What a trace says about itself.

    Attributes
    ----------
    program : str
        The command that was recorded.
    source : str
        The tool that saw the accesses.
    cache : int
        Bytes of the line cache the accesses went through before they were kept
        (`pagemig.trace.cache`); 0: every access was kept.
    references : int
        Accesses of the program, before that cache.
    accesses : int
        Accesses in the trace.
    page_size : int
        Bytes.
    note : str
        Anything else.
    """

    program: str = ""
    source: str = ""
    cache: int = 0
    references: int = 0
    accesses: int = 0
    page_size: int = 1 << PAGE_SHIFT
    note: str = ""


@dataclass(frozen=True)
class Trace:
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
        Where the trace comes from.
    """

    table: NDArray[np.uint64]
    index: NDArray[np.int32]
    write: NDArray[np.bool_]
    count: NDArray[np.uint32]
    header: Header = field(default_factory=Header)

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
        numbers = numbers.astype(np.uint64)
        if numbers.ndim != 1:
            raise ValueError(f"pages must have one dimension, not shape {numbers.shape}")
        stores = np.broadcast_to(np.asarray(write, np.bool_), numbers.shape)
        run_pages, run_write, run_count = _runs(numbers, stores, None)
        table, index = np.unique(run_pages, return_inverse=True)
        return cls(
            table,
            index.astype(np.int32),
            run_write,
            run_count.astype(np.uint32),
            _counted(header or Header(), numbers.size),
        )

    @property
    def footprint(self) -> int:
        """Number of different pages accessed."""
        return self.table.size

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.index.size

    @property
    def accesses(self) -> int:
        """Number of accesses."""
        return int(self.count.sum(dtype=np.uint64))

    @property
    def pages(self) -> NDArray[np.uint64]:
        """Each run's page number; shape (runs,)."""
        return self.table[self.index]

    def expand(self, start: int = 0, stop: int | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Single accesses of runs ``start`` to ``stop``.

        Returns
        -------
        index : ndarray of int32
            Each access's page, as an index into ``table``.
        write : ndarray of bool
            Whether each access stores.
        """
        part = slice(start, stop)
        count = self.count[part]
        return np.repeat(self.index[part], count), np.repeat(self.write[part], count)

    def epochs(self, number: int) -> Iterator[tuple[int, int]]:
        """Cut the trace into parts of about equally many accesses, at run borders.

        Parameters
        ----------
        number : int
            How many parts; fewer come out where runs are longer than a part.

        Yields
        ------
        (int, int)
            First run and the run after the last.
        """
        if number < 1:
            raise ValueError(f"a trace is cut into at least 1 epoch, not {number}")
        ends = np.cumsum(self.count, dtype=np.int64)
        targets = [self.accesses * k // number for k in range(1, number + 1)]
        cuts = np.minimum(np.searchsorted(ends, targets) + 1, self.runs)
        borders = np.unique(np.concatenate(([0], cuts)))
        yield from zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to a file (`load` reads it back)."""
        writer = Writer(self.header)
        for start in range(0, self.runs, BLOCK):
            part = slice(start, start + BLOCK)
            writer.add(self.table[self.index[part]], self.write[part], self.count[part])
        writer.save(path)

    def __repr__(self) -> str:
        name = f" of {self.header.program!r}" if self.header.program else ""
        return (
            f"<Trace{name}: {self.accesses:,} accesses in {self.runs:,} runs to "
            f"{self.footprint:,} pages>"
        )


class Writer:
    """Write a trace of any length with bounded memory: what is full is compressed at once.

    Parameters
    ----------
    header : Header, optional
        Where the trace comes from; `save` fills in the number of accesses.
    """

    def __init__(self, header: Header | None = None) -> None:
        self.header = header or Header()
        self.accesses = 0
        self._waiting: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
        self._held = 0
        self._known = np.empty(0, np.uint64)  # ascending
        self._rank = np.empty(0, np.int64)  # order of first access of each of them
        self._blocks: list[tuple[int, int, bytes, bytes, bytes]] = []

    def add(self, pages: ArrayLike, write: ArrayLike, count: ArrayLike | None = None) -> None:
        """Append accesses.

        Parameters
        ----------
        pages : array_like of int, shape (n,)
            Page numbers in order of access.
        write : array_like of bool, shape (n,)
            Whether they store.
        count : array_like of int, shape (n,), optional
            How many accesses each stands for; without it one.
        """
        amounts = None if count is None else np.asarray(count, np.uint64)
        part = _runs(np.asarray(pages, np.uint64), np.asarray(write, np.bool_), amounts)
        if part[0].size:
            self.accesses += int(part[2].sum(dtype=np.uint64))
            self._waiting.append(part)
            self._held += part[0].size
        if self._held >= BLOCK:
            self._flush(keep=1)  # the next accesses may belong to the last run

    def _flush(self, keep: int) -> None:
        """Compress what waits, but for the last ``keep`` runs."""
        waiting = zip(*self._waiting, strict=True)
        pages, write, count = _runs(*(np.concatenate(column) for column in waiting))
        end = max(pages.size - keep, 0)
        if end:
            rank = self._learn(pages[:end])
            narrow = rank.max() < 1 << 16
            places = _compress(rank.astype("<u2" if narrow else "<u4"), 1 if narrow else 2)
            bits = _compress(np.packbits(write[:end]))
            counts = count[:end].astype("<u4").view(np.uint8).reshape(-1, 4)
            columns = (places, bits, _compress(np.ascontiguousarray(counts.T)))
            self._blocks.append((end, 2 if narrow else 4, *columns))
        self._waiting = [(pages[end:], write[end:], count[end:])]
        self._held = pages.size - end

    def _learn(self, pages: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Ranks of pages in order of first access; pages not seen before get the next ones."""
        fresh, where = np.unique(pages, return_index=True)
        new = ~np.isin(fresh, self._known, assume_unique=True)
        fresh, where = fresh[new], where[new]
        rank = np.empty(fresh.size, np.int64)
        rank[np.argsort(where)] = np.arange(fresh.size) + self._known.size
        known = np.concatenate((self._known, fresh))
        order = np.argsort(known)
        self._known = known[order]
        self._rank = np.concatenate((self._rank, rank))[order]
        return self._rank[np.searchsorted(self._known, pages)]

    def save(self, path: str | os.PathLike[str]) -> Header:
        """Write the file, whole or not at all; the writer takes no more accesses.

        Returns
        -------
        Header
            As written.
        """
        if self._waiting:
            self._flush(keep=0)
        header = _counted(self.header, self.accesses)
        table = np.empty_like(self._known)
        table[self._rank] = self._known
        packed = _compress(np.diff(table.astype("<i8"), prepend=0), 3)
        facts = asdict(header) | {
            "runs": sum(block[0] for block in self._blocks),
            "pages": [table.size, len(packed)],
            "blocks": [[*block[:2], *map(len, block[2:])] for block in self._blocks],
        }
        text = json.dumps(facts, separators=(",", ":")).encode()
        target = Path(path)
        part = target.with_name(target.name + ".part")
        with part.open("wb") as file:
            file.write(MAGIC + len(text).to_bytes(4, "little") + text + packed)
            for block in self._blocks:
                file.writelines(block[2:])
        part.replace(target)
        return header


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a trace.

    Parameters
    ----------
    path : path-like
        A ``.pmt`` file.

    Returns
    -------
    Trace

    Raises
    ------
    TraceError
        If the file is none, is damaged or ends early; the message says where.
    OSError
        If it cannot be read.
    """
    with Path(path).open("rb") as file:
        try:
            return _read(file)
        except _DAMAGE as error:
            raise TraceError(f"{os.fspath(path)}: {error}") from None


def _read(file: BinaryIO) -> Trace:
    if file.read(len(MAGIC)) != MAGIC:
        raise TraceError(f"not a pagemig trace (it does not begin with {MAGIC.decode()})")
    length = int.from_bytes(_exactly(file, 4, "header"), "little")
    facts = json.loads(_exactly(file, length, "header"))
    header = _header(facts)
    size, stored = facts["pages"]
    table = np.cumsum(_column(file, stored, "<i8", "pages")).astype(np.uint64)
    if table.size != size:
        raise TraceError(f"it has {table.size} pages, not the {size} its header says")
    columns = [_block(file, number, *sizes) for number, sizes in enumerate(facts["blocks"])] or [
        (np.empty(0, np.int32), np.empty(0, np.bool_), np.empty(0, np.uint32))
    ]
    rank, write, count = (np.concatenate(column) for column in zip(*columns, strict=True))
    if rank.size != facts["runs"] or (rank.size and not 0 <= rank.min() <= rank.max() < size):
        raise TraceError("the blocks do not agree with the header")
    order = np.argsort(table)
    place = np.empty(size, np.int32)
    place[order] = np.arange(size, dtype=np.int32)
    return Trace(table[order], place[rank], write, count, header)


def _header(facts: dict[str, Any]) -> Header:
    """Take what a trace says about itself from its header."""
    header = Header(**{f.name: facts[f.name] for f in fields(Header) if f.name in facts})
    for name, value in asdict(header).items():
        meant: type = type(getattr(Header, name))
        if not isinstance(value, meant) or (isinstance(value, int) and value < 0):
            what = "a count" if meant is int else "text"
            raise TraceError(f"{name}={value!r} in its header is not {what}")
    return header


def _block(
    file: BinaryIO, number: int, runs: int, width: int, places: int, bits: int, counts: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.uint32]]:
    """Read one block: places, kinds and counts of its runs."""
    what = f"block {number}"
    place = _column(file, places, f"<u{width}", what).astype(np.int64)
    kinds = np.unpackbits(_column(file, bits, "u1", what))
    write = kinds[: place.size].astype(np.bool_)
    count = np.ascontiguousarray(_column(file, counts, "u1", what).reshape(4, -1).T).view("<u4")
    if not place.size == write.size == count.size == runs:
        raise TraceError(f"{what} does not hold {runs} runs")
    return place, write, count.reshape(-1)


def _column(file: BinaryIO, length: int, dtype: str, what: str) -> NDArray[Any]:
    return np.frombuffer(lzma.decompress(_exactly(file, length, what)), dtype)


def _exactly(file: BinaryIO, length: int, what: str) -> bytes:
    data = file.read(min(max(length, 0), _LARGEST))
    if len(data) != length:
        raise TraceError(f"ends in its {what}: {len(data)} of {length} bytes are there")
    return data


def _compress(data: NDArray[Any], width: int = 0) -> bytes:
    """Pack elements of ``2**width`` bytes as an xz stream."""
    chain = {"id": lzma.FILTER_LZMA2, "preset": _PRESET, "lc": 4 - width, "lp": width, "pb": width}
    return lzma.compress(data.tobytes(), filters=[chain])


def _runs(
    pages: NDArray[np.uint64], write: NDArray[np.bool_], count: NDArray[np.uint64] | None
) -> tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.uint64]]:
    """Join neighbours of the same page and kind."""
    if pages.size == 0:
        return pages, write, np.empty(0, np.uint64)
    new = np.empty(pages.size, np.bool_)
    new[0] = True
    np.not_equal(pages[1:], pages[:-1], out=new[1:])
    new[1:] |= write[1:] != write[:-1]
    at = np.flatnonzero(new)
    if count is None:
        joined = np.diff(at, append=pages.size).astype(np.uint64)
    else:
        joined = np.add.reduceat(count, at)
    if joined.max() > _MOST:
        at, joined = _split(at, joined)
    return pages[at], write[at], joined


def _split(
    at: NDArray[np.intp], count: NDArray[np.uint64]
) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    """Make several runs of each whose count does not fit 32 bits."""
    parts = np.maximum(-(-count.astype(np.int64) // _MOST), 1)
    ends = np.cumsum(parts) - 1
    split = np.full(ends[-1] + 1, _MOST, np.uint64)
    split[ends] = count - (parts.astype(np.uint64) - np.uint64(1)) * np.uint64(_MOST)
    return np.repeat(at, parts), split


def _counted(header: Header, accesses: int) -> Header:
    return replace(header, accesses=accesses, references=header.references or accesses)
