"""The file format of traces: `Writer` makes a file, `TraceFile` reads one block at a time.

A trace is a sequence of *runs*: consecutive accesses to one page by one kind (load or store). This
loses no access. The file (``.pmt``) has, with all numbers little-endian:

=========  =====================================================================================
8 bytes    ``PMTRACE2``
blocks     one after the other, each of three columns with an entry per run (at most `BLOCK`)
pages      the page numbers (byte address / page size) in order of first access, each minus the
           one before, int64
ticks      the time axis (`Header.tick`): accesses before each tick, each minus the one before,
           uint64
directory  UTF-8 JSON: the keys of `Header`, and what `_Directory` lists
8 bytes    length of the directory
4 bytes    CRC-32 of the directory
8 bytes    ``PMTRACE2``
=========  =====================================================================================

A block's first column has the page, as an index into *pages* (1 to 4 bytes, as the highest needs).
The second has one bit: whether the accesses store. The third has their number minus one (uint8,
uint16 or uint32), its bytes by plane: all lowest bytes, then all second bytes, and so on.

A column is stored raw (codec 0), deflated (1), or as an xz stream (2). The directory has each
column's codec and stored length and the CRC-32 of each block, of *pages* and of *ticks*. The
lengths must add up to the file, so every byte of a file is checked. The decompressed size of a
column follows from the number of its entries, and no more is ever decompressed.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pagemig import files
from pagemig.checked import U64, integers, truth_of_each, whole

from .clock import MOST as MOST_TICKS
from .clock import Clock
from .columns import Ranks, counts, join, picked
from .header import Header, TraceError
from .runs import Columns, Runs

__all__ = ["BLOCK", "MAGIC", "TraceFile", "Writer"]

MAGIC = b"PMTRACE2"
_TAIL = struct.Struct("<QI8s")
#: The most runs of a block: what a writer or a reader holds decompressed.
BLOCK = 1 << 20
#: Blocks that a reader keeps, so that reading ahead does not drop the block it comes back to.
_HELD = 3
#: A number of runs; those behind the last are left out.
_MOST_RUNS = 1 << 62
#: Small pieces that a writer keeps before it joins them.
_LOOSE = 256
#: The most bytes of a directory; a block of a million runs takes about 70.
_LARGEST_DIRECTORY = 1 << 26

_STORED, _DEFLATED, _XZ = range(3)
#: A column is deflated if that saves at least a third; otherwise decompressing takes longer than
#: reading.
_WORTH = 2 / 3
_PROBE = 1 << 16
#: Bytes packed between two questions whether to hurry: some 5 ms of xz.
_PIECE = 1 << 14

#: Tells a writer to finish at once: what it has yet to pack is stored as it is.
Hurried = Callable[[], object]

# ---- columns ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """The place of a column and its codec."""

    codec: int
    stored: int


def _pack(
    data: NDArray[Any], small: bool, hurried: Hurried, width: int = 0
) -> tuple[_Column, bytes]:
    """Pack a column; ``small`` takes xz for elements of ``2**width`` bytes, which is slow.

    It is stored as it is once ``hurried`` answers true, which is asked between two pieces.
    """
    raw = data.tobytes()
    if small:
        chain = {"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 4 - width, "lp": width, "pb": width}
        packed = _in_pieces(lzma.LZMACompressor(filters=[chain]), raw, hurried)
        if packed is None:
            return _Column(_STORED, len(raw)), raw
        return _Column(_XZ, len(packed)), packed
    deflated = b""
    for piece in (raw[:_PROBE], raw):  # most incompressible columns show it at their beginning
        packed = _in_pieces(zlib.compressobj(2), piece, hurried)
        if packed is None or len(packed) > _WORTH * len(piece):
            return _Column(_STORED, len(raw)), raw
        deflated = packed
    return _Column(_DEFLATED, len(deflated)), deflated


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _in_pieces(packer: _Packer, raw: bytes, hurried: Hurried) -> bytes | None:
    """Pack bytes; None if the writer is in a hurry before the last piece is done."""
    packed = []
    for at in range(0, len(raw), _PIECE):
        if hurried():
            return None
        packed.append(packer.compress(raw[at : at + _PIECE]))
    return b"".join((*packed, packer.flush()))


def _unpack(column: _Column, stored: bytes, size: int, what: str) -> bytes:
    """Return exactly ``size`` bytes of a column; at most one byte more is decompressed."""
    if column.codec == _STORED:
        raw = stored
    elif column.codec == _DEFLATED:
        raw = zlib.decompressobj().decompress(stored, size + 1)
    elif column.codec == _XZ:
        raw = lzma.LZMADecompressor(memlimit=1 << 26).decompress(stored, size + 1)
    else:
        raise TraceError(f"{what} is packed by codec {column.codec}, which this version has not")
    if len(raw) != size:
        raise TraceError(f"{what} unpacks to {len(raw)} bytes or more, not {size}")
    return raw


@dataclass(frozen=True)
class _Block:
    """A block's line in the directory."""

    runs: int
    accesses: int
    wide: int  # bytes of a place: 1 to 4
    count_wide: int  # bytes of a count: 1, 2 or 4
    places: _Column
    kinds: _Column
    counts: _Column
    crc: int

    @property
    def stored(self) -> int:
        return self.places.stored + self.kinds.stored + self.counts.stored

    def row(self) -> list[int]:
        columns = (self.places, self.kinds, self.counts)
        packing = [number for column in columns for number in (column.codec, column.stored)]
        return [self.runs, self.accesses, self.wide, self.count_wide, *packing, self.crc]

    @classmethod
    def from_row(cls, row: list[int], number: int) -> _Block:
        runs, accesses, wide, count_wide, *packing, crc = _counts(row, 11, f"block {number}")
        if not 1 <= runs <= BLOCK or not 1 <= wide <= 4 or count_wide not in (1, 2, 4):
            raise TraceError(f"block {number} has {runs} runs of {wide} and {count_wide} bytes")
        if not runs <= accesses <= runs << 8 * count_wide:
            raise TraceError(f"block {number} has {accesses} accesses in {runs} runs")
        places, kinds, counts = (_Column(*packing[k : k + 2]) for k in (0, 2, 4))
        block = cls(runs, accesses, wide, count_wide, places, kinds, counts, crc)
        if block.stored > 2 * runs * (wide + 1 + count_wide) + 1024:
            raise TraceError(f"block {number} has {block.stored} bytes for {runs} runs")
        return block


def _packed(
    ranks: NDArray[np.uint32],
    write: NDArray[np.bool_],
    count: NDArray[np.uint32],
    small: bool,
    hurried: Hurried,
) -> tuple[_Block, list[bytes]]:
    """Pack a block of runs."""
    wide = max((int(ranks.max()).bit_length() + 7) // 8, 1)
    raw = ranks.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :wide]
    places = _pack(np.ascontiguousarray(raw), small, hurried, (0, 0, 1, 0, 2)[wide])
    kinds = _pack(np.packbits(write), small, hurried)
    less = count - np.uint32(1)
    most = less.max()
    count_wide = 1 if most < 1 << 8 else 2 if most < 1 << 16 else 4
    planes = less.astype(f"<u{count_wide}").view(np.uint8).reshape(-1, count_wide).T
    counts = _pack(np.ascontiguousarray(planes), small, hurried)
    parts = [places[1], kinds[1], counts[1]]
    crc = zlib.crc32(parts[2], zlib.crc32(parts[1], zlib.crc32(parts[0])))
    accesses = int(count.sum(dtype=np.uint64))
    columns = (places[0], kinds[0], counts[0])
    return _Block(ranks.size, accesses, wide, count_wide, *columns, crc), parts


def _unpacked(
    block: _Block, data: bytes, places: NDArray[np.int32], what: str, out: Columns
) -> None:
    """Fill in pages, kinds and counts of a block's runs; the counterpart of `_packed`."""
    if zlib.crc32(data) != block.crc:
        raise TraceError(f"{what} is damaged: its checksum is another")
    index, write, count = out
    ends = (block.places.stored, block.places.stored + block.kinds.stored)
    runs = block.runs
    raw = _unpack(block.places, data[: ends[0]], runs * block.wide, what)
    if not picked(np.frombuffer(raw, np.uint8), block.wide, places, index):
        raise TraceError(f"{what} has a page beyond the {places.size} that there are")
    bits = _unpack(block.kinds, data[ends[0] : ends[1]], -(-runs // 8), what)
    write[:] = np.unpackbits(np.frombuffer(bits, np.uint8), count=runs).view(np.bool_)
    raw = _unpack(block.counts, data[ends[1] :], runs * block.count_wide, what)
    accesses = counts(np.frombuffer(raw, np.uint8), block.count_wide, count)
    if accesses < 0:
        raise TraceError(f"{what} has a run of 2**32 accesses")
    if accesses != block.accesses:
        raise TraceError(f"{what} has not the {block.accesses} accesses that the directory says")


def _room(runs: int) -> Columns:
    """Return columns for so many runs."""
    return np.empty(runs, np.int32), np.empty(runs, np.bool_), np.empty(runs, np.uint32)


def _counts(row: Any, length: int, what: str) -> list[int]:
    """Check that a row of the directory is a list of counts."""
    if not isinstance(row, list) or len(row) != length:
        raise TraceError(f"{what} of the directory is not a list of {length} counts")
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in row):
        raise TraceError(f"{what} of the directory has something that is no count")
    return row


# ---- the directory ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Pages or ticks: their number, codec and checksum."""

    size: int
    column: _Column
    crc: int

    def row(self) -> list[int]:
        return [self.size, self.column.codec, self.column.stored, self.crc]

    @classmethod
    def from_row(cls, row: Any, what: str) -> _Part:
        size, codec, stored, crc = _counts(row, 4, what)
        return cls(size, _Column(codec, stored), crc)


@dataclass(frozen=True)
class _Directory:
    """The directory at the end of a file.

    ``runs`` and the header's ``accesses`` are sums over ``blocks``. ``pages`` and ``ticks`` are
    rows of number, codec, stored length and CRC-32. A row of ``blocks`` has runs, accesses, bytes
    of an index, bytes of a count, codec and stored length of the three columns, and the CRC-32 of
    the block.
    """

    header: Header
    pages: _Part
    ticks: _Part
    blocks: list[_Block]

    @property
    def runs(self) -> int:
        return sum(block.runs for block in self.blocks)

    def text(self) -> bytes:
        facts = asdict(self.header) | {
            "runs": self.runs,
            "pages": self.pages.row(),
            "ticks": self.ticks.row(),
            "blocks": [block.row() for block in self.blocks],
        }
        return json.dumps(facts, separators=(",", ":")).encode()

    @classmethod
    def from_text(cls, text: bytes) -> _Directory:
        try:
            facts = json.loads(text)
            if not isinstance(facts, dict):
                raise TraceError("its directory is not an object")
            rows = facts["blocks"]
            if not isinstance(rows, list):
                raise TraceError("blocks of the directory is not a list")
            found = cls(
                Header.from_facts(facts),
                _Part.from_row(facts["pages"], "pages"),
                _Part.from_row(facts["ticks"], "ticks"),
                [_Block.from_row(row, number) for number, row in enumerate(rows)],
            )
        except KeyError as error:
            raise TraceError(f"its directory has no {error}") from None
        except (RecursionError, UnicodeDecodeError, ValueError) as error:
            if isinstance(error, TraceError):
                raise
            raise TraceError(f"its directory is not JSON: {error}") from None
        found._check(facts)
        return found

    def _check(self, facts: dict[str, Any]) -> None:
        """Check what must agree before anything is read."""
        accesses = sum(block.accesses for block in self.blocks)
        for what, said, there in (
            ("accesses", self.header.accesses, accesses),
            ("runs", facts.get("runs"), self.runs),
        ):
            if said != there:
                raise TraceError(f"its blocks hold {there} {what}, not the {said} it says")
        if self.pages.size > min(self.runs, 2**31 - 1):
            raise TraceError(f"it has {self.pages.size} pages in {self.runs} runs")
        if self.ticks.size > MOST_TICKS:
            raise TraceError(f"it has {self.ticks.size} ticks, more than {MOST_TICKS}")

    @property
    def stored(self) -> int:
        """Bytes of everything before the directory except the first eight."""
        blocks = sum(block.stored for block in self.blocks)
        return blocks + self.pages.column.stored + self.ticks.column.stored


# ---- writing ----------------------------------------------------------------------------------


class Writer:
    """Write a trace of any length: memory is bounded by its footprint and a block.

    The file appears when the writer is closed, whole or not at all (`pagemig.files.replaced`). A
    ``with`` block that ends with an error leaves the old file unchanged.

    Parameters
    ----------
    path : path-like
        The file.
    header : Header, optional
        The trace's description; `close` fills in the number of accesses and the time axis.
    unit : str
        The unit of the times given to `add`.
    small : bool
        Use xz, which makes files a quarter smaller and takes twenty times as long to write.
    hurried : callable, optional
        Asked between two pieces of work; once it answers true, the rest is stored as it is, in
        some milliseconds.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: Header | None = None,
        *,
        unit: str = "",
        small: bool = False,
        hurried: Hurried = bool,
    ) -> None:
        self.path = Path(path)
        self.header = header or Header()
        self.accesses = 0
        self._unit, self._small, self._hurried = unit, small, hurried
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(files.replaced(path))
        self._file.write(MAGIC)
        self._waiting: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
        self._held = self._loose = 0
        self._ranks = Ranks()
        self._clock = Clock()
        self._closed = False
        self._blocks: list[_Block] = []

    def add(
        self,
        pages: ArrayLike,
        write: ArrayLike,
        count: ArrayLike | None = None,
        time: NDArray[np.uint64] | None = None,
    ) -> None:
        """Append accesses.

        Parameters
        ----------
        pages : array_like of int, shape (n,)
            Page numbers in order of access.
        write : array_like of bool, shape (n,) or a bool
            Whether they store.
        count : array_like of int, shape (n,), optional
            How many accesses each entry stands for; one unless given.
        time : ndarray of uint64, shape (n,), optional
            When they happened, in the writer's ``unit``.

        Raises
        ------
        TypeError
            Something that is no array of whole numbers, or of truth values.
        ValueError
            A number below 0 or beyond 64 bits, or several lengths.
        """
        numbers = integers(pages, "pages", (None,), 0, U64, np.uint64)
        kinds = truth_of_each(write, "write", numbers.shape)
        amounts = None
        if count is not None:
            amounts = integers(count, "count", numbers.shape, 0, U64, np.uint64)
        if time is not None:
            self._clock.add(integers(time, "time", numbers.shape, 0, U64, np.uint64), amounts)
        runs, stores, many = join(numbers, kinds.view(np.uint8), amounts)
        if runs.size:
            self.accesses += int(many.sum(dtype=np.uint64))
            # Ranks now rather than when the block is full: a writer in a hurry has little left.
            self._waiting.append((self._ranks.of(runs), stores, many))
            self._held += runs.size
        while self._held > BLOCK:
            self._flush(keep=1)  # the next accesses may belong to the last run

    def _flush(self, keep: int) -> None:
        """Write a block of the pending runs except the last ``keep``."""
        ranks, write, count = self._waiting[0]
        if len(self._waiting) > 1:
            ranks, write, count = _joined(self._waiting)
        end = min(BLOCK, ranks.size - keep)
        if end:
            self.put(ranks[:end], write[:end], count[:end])
        self._waiting, self._loose = [(ranks[end:], write[end:], count[end:])], 0
        self._held = ranks.size - end

    def put(
        self, ranks: NDArray[np.uint32], write: NDArray[np.bool_], count: NDArray[np.uint32]
    ) -> None:
        """Write a block of runs whose pages are ranks in the table that `end` gets."""
        block, parts = _packed(ranks, write, count, self._small, self._hurried)
        self._blocks.append(block)
        self._file.writelines(parts)

    def close(self, header: Header | None = None) -> Header:
        """Write the pending runs and the directory, and put the file in its place.

        Parameters
        ----------
        header : Header, optional
            Replaces the one given at the start.

        Returns
        -------
        Header
            As written.
        """
        written = self.finish(header)
        self.publish()
        return written

    def finish(self, header: Header | None = None) -> Header:
        """Write the pending runs and the directory to the disk; `publish` is left to do.

        Parameters
        ----------
        header : Header, optional
            Replaces the one given at the start.

        Returns
        -------
        Header
            As written.
        """
        facts = replace(header or self.header, unit="", tick=0, duration=0)
        if self._clock.running:
            clock = self._clock
            facts = replace(facts, unit=self._unit, tick=clock.tick, duration=clock.duration)
        try:
            while self._held:
                self._flush(keep=0)
            return self._end(self._ranks.pages, self._clock.ticks, facts)
        except BaseException:
            self.abandon()
            raise

    def end(self, table: NDArray[np.uint64], ticks: NDArray[np.uint64], header: Header) -> Header:
        """Write pages, in the order of their ranks, ticks and directory, and put the file there."""
        written = self._end(table, ticks, header)
        self.publish()
        return written

    def _end(self, table: NDArray[np.uint64], ticks: NDArray[np.uint64], header: Header) -> Header:
        self._closed = True
        header = header.shown().counted(sum(block.accesses for block in self._blocks))
        pages, rises = self._part(table), self._part(ticks)
        text = _Directory(header, pages, rises, self._blocks).text()
        self._file.write(text + _TAIL.pack(len(text), zlib.crc32(text), MAGIC))
        files.sync(self._file)
        return header

    def publish(self) -> None:
        """Put the finished file in its place."""
        self._stack.close()

    def _part(self, values: NDArray[np.uint64]) -> _Part:
        """Write the steps from each number to the next."""
        if self._hurried():
            return self._part_as_it_is(values)
        steps = np.diff(values, prepend=np.uint64(0)).astype("<u8")
        column, packed = _pack(steps, self._small, self._hurried, 3)
        self._file.write(packed)
        return _Part(values.size, column, zlib.crc32(packed))

    def _part_as_it_is(self, values: NDArray[np.uint64]) -> _Part:
        """Write steps without packing, in pieces that take no new memory of the host."""
        crc, last = 0, np.zeros(1, np.uint64)
        for at in range(0, values.size, _PIECE):
            piece = values[at : at + _PIECE]
            raw = np.diff(piece, prepend=last).astype("<u8").tobytes()
            self._file.write(raw)
            crc, last = zlib.crc32(raw, crc), piece[-1:]
        return _Part(values.size, _Column(_STORED, 8 * values.size), crc)

    def abandon(self) -> None:
        """Leave the old file unchanged."""
        self._closed = True
        error = _Abandoned()
        with contextlib.suppress(_Abandoned):
            self._stack.__exit__(_Abandoned, error, None)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abandon()
        elif not self._closed:
            self.close()


def _joined(
    parts: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Join the runs of several pieces; adjacent runs of one page and kind become one."""
    ranks, write, count = (np.concatenate(column) for column in zip(*parts, strict=True))
    ranks, write, count = join(
        ranks.astype(np.uint64), write.view(np.uint8), count.astype(np.uint64)
    )
    return ranks.astype(np.uint32), write, count


class _Abandoned(Exception):
    """Tells `files.replaced` to leave the old file."""


# ---- reading ----------------------------------------------------------------------------------


class TraceFile(Runs):
    """A trace that stays in its file: it takes memory for its footprint and a few blocks.

    It has the interface of `Trace` (`Runs`), except for the columns of all runs at once.

    Parameters
    ----------
    source : path-like or binary file
        A ``.pmt`` file. A pipe, which cannot seek, is copied to a temporary file first.
    name : str, optional
        Its name in errors.

    Raises
    ------
    TraceError
        The file is not a trace, is damaged or ends early; the message says where.
    MemoryError
        Its footprint takes more memory than is available.
    OSError
        It cannot be read.
    """

    def __init__(self, source: str | os.PathLike[str] | IO[bytes], *, name: str = "") -> None:
        self._stack = contextlib.ExitStack()
        if isinstance(source, str | os.PathLike):
            self.name = files.printable(name or os.fspath(source))
            file = Path(source).open("rb")  # noqa: SIM115 - the stack closes it
            self._file: IO[bytes] = self._stack.enter_context(file)
        else:
            self.name = files.printable(name or str(getattr(source, "name", "<stream>")))
            self._file = source
        try:
            if not self._file.seekable():
                self._file = self._stack.enter_context(spooled(self._file))
            with self._named():
                self._begin()
        except BaseException:
            self._stack.close()
            raise

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Begin errors with the file's name; errors of decompressing mean damage."""
        try:
            yield
        except (TraceError, lzma.LZMAError, zlib.error, EOFError) as error:
            raise TraceError(f"{self.name}: {error}") from None

    def _begin(self) -> None:
        length = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        magic = self._file.read(len(MAGIC))
        if magic != MAGIC:
            raise TraceError(f"not a pagemig trace (it does not begin with {MAGIC.decode()})")
        directory = self._directory(length)
        self.header = directory.header
        self._blocks = directory.blocks
        self._starts = np.cumsum([0, *(block.runs for block in self._blocks)])
        self._offsets = np.cumsum([len(MAGIC), *(block.stored for block in self._blocks)])
        pages = directory.pages
        files.room(pages.size * 40, f"the table of {pages.size:,} pages of {self.name}")
        steps = self._part(pages, "its pages", int(self._offsets[-1]))
        table = np.cumsum(np.frombuffer(steps, "<i8")).view(np.uint64)
        order = np.argsort(table)
        self.table: NDArray[np.uint64] = table[order]
        if (self.table[1:] == self.table[:-1]).any():
            raise TraceError("its pages have one page twice")
        self._places = np.empty(table.size, np.int32)
        self._places[order] = np.arange(table.size, dtype=np.int32)
        at = int(self._offsets[-1]) + pages.column.stored
        ticks = np.cumsum(np.frombuffer(self._part(directory.ticks, "its ticks", at), "<u8"))
        if ticks.size and (ticks[-1] > self.header.accesses or (ticks[1:] < ticks[:-1]).any()):
            raise TraceError("its ticks do not ascend to the number of its accesses")
        self.ticks: NDArray[np.uint64] = ticks.astype(np.uint64)
        self._held: dict[int, Columns] = {}

    def _directory(self, length: int) -> _Directory:
        early = f"ends early: a whole one ends with {MAGIC.decode()}"
        if length < len(MAGIC) + _TAIL.size:
            raise TraceError(early)
        self._file.seek(length - _TAIL.size)
        size, crc, magic = _TAIL.unpack(self._file.read(_TAIL.size))
        if magic != MAGIC:
            raise TraceError(early)
        at = length - _TAIL.size - size
        if at < len(MAGIC) or size > _LARGEST_DIRECTORY:
            raise TraceError(f"its directory is said to have {size} bytes")
        text = self._bytes(at, size, "directory")
        if zlib.crc32(text) != crc:
            raise TraceError("its directory is damaged: its checksum is another")
        found = _Directory.from_text(text)
        if len(MAGIC) + found.stored != at:
            raise TraceError(f"its parts have {found.stored} bytes, not {at - len(MAGIC)}")
        return found

    def _bytes(self, at: int, size: int, what: str) -> bytes:
        self._file.seek(at)
        data = self._file.read(size)
        if len(data) != size:
            raise TraceError(f"ends in its {what}: {len(data)} of {size} bytes are there")
        return data

    def _part(self, part: _Part, what: str, at: int) -> bytes:
        data = self._bytes(at, part.column.stored, what)
        if zlib.crc32(data) != part.crc:
            raise TraceError(f"{what} are damaged: their checksum is another")
        return _unpack(part.column, data, part.size * 8, what)

    @property
    def blocks(self) -> Iterator[Columns]:
        """All runs, a block at a time: index, write and count."""
        for number in range(len(self._blocks)):
            yield self._block(number)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Runs and accesses of each block."""
        return [(block.runs, block.accesses) for block in self._blocks]

    def _block(self, number: int) -> Columns:
        """Return a block's columns; the last few blocks are cached."""
        columns = self._held.pop(number, None)
        if columns is None:
            while len(self._held) >= _HELD:
                del self._held[next(iter(self._held))]
            columns = _room(self._blocks[number].runs)
            self._fill(number, columns)
        self._held[number] = columns
        return columns

    def _fill(self, number: int, out: Columns) -> None:
        block, what = self._blocks[number], f"its block {number}"
        with self._named():
            data = self._bytes(int(self._offsets[number]), block.stored, what)
            _unpacked(block, data, self._places, what, out)

    def columns(self) -> Columns:
        """Return index, write and count of all runs, in memory.

        Raises
        ------
        MemoryError
            They take more memory than is available.
        """
        needed = 9 * self.runs + 32 * min(self.runs, BLOCK)
        files.room(needed, f"{self.name} in memory", "pagemig.trace.TraceFile reads it in pieces")
        columns = _room(self.runs)
        for number, start in enumerate(self._starts[:-1].tolist()):
            cut = slice(start, start + self._blocks[number].runs)
            self._fill(number, (columns[0][cut], columns[1][cut], columns[2][cut]))
        return columns

    def part(self, start: int, stop: int) -> Columns:
        """Return index, write and count of runs ``start`` to ``stop``."""
        start, stop = whole(start, "start", 0, _MOST_RUNS), whole(stop, "stop", 0, _MOST_RUNS)
        first, last = np.searchsorted(self._starts, (start, max(stop, start + 1) - 1), "right") - 1
        columns = []
        for number in range(int(first), min(int(last) + 1, len(self._blocks))):
            base = int(self._starts[number])
            cut = slice(max(start - base, 0), max(stop - base, 0))
            columns.append(tuple(column[cut] for column in self._block(number)))
        if len(columns) == 1:
            return columns[0]  # type: ignore[return-value]
        if not columns:
            return _room(0)
        index, write, count = (np.concatenate(column) for column in zip(*columns, strict=True))
        return index, write, count

    def close(self) -> None:
        """Close the file."""
        self._held.clear()
        self._stack.close()

    def __enter__(self) -> TraceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def spooled(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield a temporary file with the rest of a stream that cannot seek."""
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file, 1 << 20)
        file.seek(0)
        yield file
