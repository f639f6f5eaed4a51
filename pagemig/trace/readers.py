"""Readers of other tools' traces: formats are recognised by content, and read in bounded memory.

`reader` opens a file and chooses the reader; iterating over it yields `Accesses`, a chunk of arrays
at a time. Each reader's docstring says what its format holds and how it is read. Addresses are
bytes; from page numbers a reader makes the address of the page's first byte.

A file that does not fit its format raises `TraceError` with the file, the line or record, its text
and what was expected.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagemig import files

from . import parse
from .format import MAGIC, TraceFile
from .header import PAGE_SHIFT, Header, TraceError
from .pieces import Json
from .streams import HEAD, MissingError, Source, Stream, Wait, opened, patiently

__all__ = ["FORMATS", "Accesses", "Reader", "reader"]

#: Bytes or records read at once: large enough to amortise calls, small enough to stay in cache.
CHUNK = 1 << 20
#: The most bytes of a line.
LONGEST = 1 << 16


class Accesses(NamedTuple):
    """Accesses in program order; a column that the format lacks is None."""

    address: NDArray[np.uint64]
    """First byte."""
    size: NDArray[np.uint32]
    """Bytes, at least 1; 1 where the format does not tell."""
    write: NDArray[np.bool_]
    """Whether the access stores."""
    time: NDArray[np.uint64] | None = None
    """When, in the reader's unit."""
    process: NDArray[np.uint32] | None = None
    """Process number; 0 where it is not known."""
    thread: NDArray[np.uint32] | None = None
    """Thread number; 0 where it is not known."""
    weight: NDArray[np.uint32] | None = None
    """How many accesses each stands for."""


class Reader(ABC):
    """Accesses of a trace, a chunk at a time.

    Parameters
    ----------
    stream : Stream or binary file
        Read to its end in pieces.
    skip : bool, default False
        Skip malformed lines and count them in ``malformed``, instead of raising at the first; for
        text formats only.

    Attributes
    ----------
    malformed : int
        Malformed lines so far.
    skipped : int
        Events so far without an address.
    first : str
        The first malformed line, with its place and what was expected.
    """

    #: The format's name.
    format: ClassVar[str]
    #: The name of a line or record in messages.
    expected: str = ""
    #: The unit of times; empty if the format has none.
    unit: str = ""
    #: The tool's name in the header of a trace.
    tool: str = ""

    def __init__(self, stream: Stream | Source, *, skip: bool = False) -> None:
        name = str(getattr(stream, "name", "<stream>"))
        self.stream = stream if isinstance(stream, Stream) else Stream(stream, name)
        self.skip = skip
        self.malformed = self.skipped = 0
        self.first = ""

    @classmethod
    @abstractmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether a file with this beginning has this format."""

    @abstractmethod
    def __iter__(self) -> Iterator[Accesses]:
        """Yield the accesses, in order."""

    @property
    def header(self) -> Header:
        """The header that the format gives the trace."""
        return Header(source=self.tool or self.format)

    def wrong(self, place: str, text: str | bytes, why: str = "") -> TraceError:
        """Return an error about a place of the file."""
        return TraceError(
            f"{self.stream.name}: {place}: {files.quoted(text)}: expected {why or self.expected}"
        )


class _TextReader(Reader):
    """Reads whole lines and passes them to a compiled parser."""

    parser: Any
    #: Number of the first line that the parser is given.
    line = 1

    def __iter__(self) -> Iterator[Accesses]:
        for line, text in _lines(self.stream, self.line):
            columns = self.parser.feed(text)
            if self.parser.bad >= 0 and not self.first:
                place = line + text.count(b"\n", 0, self.parser.bad)
                end = text.find(b"\n", self.parser.bad)
                bad = text[self.parser.bad : end if end >= 0 else None]
                error = self.wrong(f"line {place}", bad)
                if not self.skip:
                    raise error
                self.first = str(error)
            self.malformed, self.skipped = self.parser.malformed, self.parser.skipped
            if columns[0].size:
                yield Accesses(*columns)


def _lines(stream: Stream, line: int) -> Iterator[tuple[int, bytes]]:
    """Yield pieces of whole lines, each with the number of its first."""
    rest = b""
    while piece := stream.read(CHUNK):
        text, newline, tail = piece.rpartition(b"\n")
        if newline:
            whole = rest + text + newline
            yield line, whole
            line += whole.count(b"\n")
            rest = tail
        else:
            rest += piece
        if len(rest) > max(LONGEST, CHUNK):
            raise TraceError(
                f"{stream.name}: line {line}: {files.quoted(rest[:40])}: expected a line of at "
                f"most {LONGEST} bytes; is this text?"
            )
    if rest:
        yield line, rest + b"\n"


# ---- text -------------------------------------------------------------------------------------


class LackeyReader(_TextReader):
    """The output of valgrind's lackey tool with ``--trace-mem=yes``.

    One access a line: a kind, a hexadecimal address without ``0x``, a size in bytes::

        I  0401ab70,3
         S 1fff000768,8
         L 04222f48,8
         M 0421e3c8,4

    * ``L`` is a load; ``S`` a store; ``M`` (a load, then a store to the same place) one store.
    * ``I`` is an instruction fetch. It is not an access, since a trace is about data; the number of
      fetches so far is the time of an access.
    * An access reaches from its address over its size; one that straddles a page touches both
      pages. One beyond the last address, or of more than 65,536 bytes, is malformed.
    * Up to two blanks may precede the kind, any number may follow it. The public traces of tiered
      memory (tiered-mem-traces) have no blank before it and no fetches.
    * ``==PID==``, ``--PID--`` and ``**PID**`` lines are valgrind's own messages and are skipped.

    Lackey reports neither threads nor mappings; accesses come in the order in which the one
    simulated processor made them.
    """

    format = "lackey"
    tool = "valgrind lackey"
    expected = "' L ADDRESS,SIZE' with kind L, S, M or I, as lackey --trace-mem=yes has it"
    unit = "instructions"

    def __init__(self, stream: Stream | Source, *, skip: bool = False) -> None:
        super().__init__(stream, skip=skip)
        self.parser = parse.Lackey(skip=skip)

    @property
    def instructions(self) -> int:
        """Instruction fetches so far."""
        return int(self.parser.instructions)

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether a line of lackey or of valgrind comes first."""
        return (
            re.match(rb"\s*(==\d+== |--\d+-- |I  [0-9a-f]+,\d|[LSM] +[0-9a-f]+,\d)", head)
            is not None
        )


#: Names that a column of a table may have.
_NAMES = {
    "address": "address", "addr": "address", "vaddr": "address", "virtual_address": "address",
    "ea": "address", "page": "page", "vpn": "page", "page_number": "page", "pages": "page",
    "size": "size", "bytes": "size", "length": "size",
    "write": "write", "w": "write", "is_write": "write", "rw": "write", "op": "write",
    "kind": "write", "type": "write", "store": "write", "access": "write",
    "time": "time", "timestamp": "time", "ts": "time", "ns": "time", "time_ns": "time",
    "tid": "thread", "thread": "thread", "pid": "process", "process": "process",
    "count": "count", "weight": "count", "accesses": "count",
}  # fmt: skip

_NAMED = "address (or addr), page, size, write (or rw, op), time, tid, pid, count"


class TableReader(_TextReader):
    """A text table such as CSV, an access a line.

    Columns are separated by commas, semicolons, tabs or blanks. A first line of names says what
    they are: address or page, size, write, time, tid, pid, count, under the usual names; others are
    ignored. Without names a single column is the address, and a second one is the kind. Lines that
    begin with ``#`` are comments.

    Numbers are decimal, or hexadecimal with ``0x``. Addresses without it are hexadecimal if one at
    the file's beginning has letters. A kind is 0 or 1, r or w, l or s, read or write, load or
    store, true or false. Times with a decimal point are seconds and converted to nanoseconds;
    others have an unknown unit.
    """

    format = "csv"

    def __init__(self, stream: Stream | Source, *, skip: bool = False) -> None:
        super().__init__(stream, skip=skip)
        self._begin()

    def _begin(self) -> None:
        """Determine the columns from the first lines."""
        lines = [
            line.decode("utf-8", "replace").strip("\r")
            for line in self.stream.peek(HEAD).split(b"\n")
        ]
        at, rows = 0, []
        for number, line in enumerate(lines):
            if line.strip() and not line.startswith("#"):
                at = at or number + 1
                rows.append(line)
        if not rows:
            raise self.wrong("line 1", lines[0], "a table with an access a line")
        delimiter = next((c for c in ",;\t" if c in rows[0]), " ")
        fields = _fields(rows[0], delimiter)
        named = not re.fullmatch(r"(0x)?[0-9a-fA-F]+", fields[0])
        roles = self._roles(rows[0], fields, named, at)
        sample = [_fields(row, delimiter) for row in rows[named:-1] or rows[named:]]
        if named:
            names = self.stream.peek(HEAD).split(b"\n", at)[:at]
            self.stream.exactly(sum(len(name) + 1 for name in names))
            self.line = at + 1
        self.expected = delimiter.join(role or "anything" for role in roles)
        times = [row[roles.index("time")] for row in sample[:1] if "time" in roles]
        seconds = any("." in time for time in times)
        self.unit = ("ns" if seconds or "ns" in fields else "time") if "time" in roles else ""
        where = [k for k, role in enumerate(roles) if role in ("address", "page")]
        letters = any(
            re.search("[a-fA-F]", row[k]) and not row[k].lower().startswith("0x")
            for row in sample
            for k in where
            if k < len(row) and re.fullmatch("[0-9a-fA-F]+", row[k])
        )
        self.parser = parse.Table(
            roles, delimiter, hexadecimal=letters, seconds=seconds, skip=self.skip
        )

    def _roles(self, line: str, fields: Sequence[str], named: bool, at: int) -> list[str]:
        if named:
            roles = [_NAMES.get(name.lower(), "") for name in fields]
            twice = [role for role in roles if role and roles.count(role) > 1]
            if twice or ("address" in roles) == ("page" in roles) or len(roles) > 32:
                why = f"names of columns, with one of address and page; known are {_NAMED}"
                raise self.wrong(f"line {at}", line, why)
            return roles
        if len(fields) > 2:
            why = f"a first line that names the {len(fields)} columns; known are {_NAMED}"
            raise self.wrong(f"line {at}", line, why)
        return ["address", "write"][: len(fields)]

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether the first line names an address or a page, or is one or two numbers."""
        for line in head.split(b"\n")[:50]:
            text = line.decode("utf-8", "replace").strip()
            if text and not text.startswith("#"):
                delimiter = next((c for c in ",;\t" if c in text), " ")
                fields = _fields(text, delimiter)
                if {_NAMES.get(name.lower()) for name in fields} & {"address", "page"}:
                    return True
                return re.fullmatch(r"(0x)?[0-9a-fA-F]+", fields[0]) is not None
        return False


def _fields(row: str, delimiter: str) -> list[str]:
    parts = row.split() if delimiter == " " else row.split(delimiter)
    return [part.strip(' "') for part in parts]


class PerfReader(_TextReader):
    """The output of ``perf script`` for events with an address.

    ``perf record -d`` records addresses: of page faults (``-e page-faults -c 1``) on any machine,
    of loads and stores (``perf mem record``) if the processor samples them. Then
    ``perf script -F comm,pid,tid,time,event,addr`` prints a line for each event. ``ip``, ``sym``,
    ``data_src`` and others may follow the address; call chains are skipped::

        st 30852/30852  3047.235399: page-faults:  55bd33730020 ffff...

    The tracepoints ``exceptions:page_fault_user`` and ``_kernel`` carry their address as
    ``address=0x...``. An access stores if the event's name has "store" in it, if its data source
    is ``OP STORE``, or if bit 1 of a fault's error code is set; all others count as loads. Events
    with address 0 have none and are counted in ``skipped``. Samples are not a complete trace.
    """

    format = "perf"
    tool = "perf script"
    expected = (
        "'COMM PID/TID TIME: EVENT: ADDRESS', as perf script -F comm,pid,tid,time,event,addr has it"
    )
    unit = "ns"

    def __init__(self, stream: Stream | Source, *, skip: bool = False) -> None:
        super().__init__(stream, skip=skip)
        self.parser = parse.Perf(skip=skip)

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether an early line has a time in seconds, followed by an event."""
        return any(
            re.search(rb"\s\d+\.\d{6,9}:\s+(\d+\s+)?\S+:(\s|$)", line) is not None
            for line in head.split(b"\n")[:50]
            if not line.startswith((b"#", b"\t"))
        )


class _DamonReader(Reader):
    """The common part of both forms of DAMON's records.

    DAMON samples one page of each region at a time: a region with ``nr_accesses`` 5 was found
    accessed in 5 samples of an aggregation interval. Every page of such a region counts as accessed
    so often, by loads, since DAMON does not report stores. Regions without an access are skipped.
    """

    tool = "DAMON"
    unit = "ns"

    def __iter__(self) -> Iterator[Accesses]:
        """Give the regions of many snapshots at a time, since one by one they are slow."""
        held: list[tuple[int, int, int, int]] = []
        pages = 0
        for place, text, start, end, nr, time in self.regions():
            region = self._checked(place, text, start, end, nr, time)
            held.append(region)
            pages += region[1] - region[0]
            if pages >= CHUNK >> 3 or len(held) == CHUNK >> 6:
                yield self._accesses(held, pages)
                held, pages = [], 0
        if held:
            yield self._accesses(held, pages)

    def regions(self) -> Iterator[tuple[str, str, int, int, int, int]]:
        """Give place and text for errors, start, end, accesses and time of each accessed region."""
        raise NotImplementedError

    def _checked(
        self, place: str, text: str, start: int, end: int, nr: int, time: int
    ) -> tuple[int, int, int, int]:
        """Return first page, page after the last, accesses and time."""
        first, last = start >> PAGE_SHIFT, (end + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT
        if not 0 <= start < end <= 1 << 64 or not 0 <= nr < 1 << 32 or not 0 <= time < 1 << 63:
            raise self.wrong(place, text)
        if last - first > CHUNK >> 3:
            what = f"{self.stream.name}: {place}: a region that was accessed"
            files.room(64 * (last - first), what)
        return first, last, nr, time

    @staticmethod
    def _accesses(regions: list[tuple[int, int, int, int]], pages: int) -> Accesses:
        """Return the accesses of regions, page after page."""
        first, last, nr, time = np.array(regions, np.uint64).T
        size = (last - first).astype(np.int64)
        before = np.cumsum(size) - size
        at = np.repeat(first, size) + (np.arange(pages) - np.repeat(before, size)).astype(np.uint64)
        return Accesses(
            at << np.uint64(PAGE_SHIFT),
            np.ones(pages, np.uint32),
            np.zeros(pages, np.bool_),
            np.repeat(time, size),
            weight=np.repeat(nr, size).astype(np.uint32),
        )


class DamonReader(_DamonReader):
    r"""DAMON's tracepoints as ``perf script`` or ``trace-cmd report`` prints them.

    Lines of ``damon:damon_aggregated`` and ``damon:damos_before_apply`` are read; other events are
    skipped. Addresses are decimal, ends exclusive, and old kernels have no age::

        kdamond.0  4452 [000] 82820.952659: damon:damon_aggregated: \
            target_id=0 nr_regions=8 94570-94580: 3 17

    """

    format = "damon"
    expected = (
        "'TIME: damon:damon_aggregated: target_id=N nr_regions=N START-END: NR_ACCESSES [AGE]'"
    )

    _EVENT = re.compile(
        r"\s(\d+)\.(\d{1,9}):\s+(?:damon:)?damo(?:n_aggregated|s_before_apply): "
        r"(?:\S+=\d+ )*(\d+)-(\d+): (\d+)(?: \d+)?\s*"
    )

    def regions(self) -> Iterator[tuple[str, str, int, int, int, int]]:
        """See `_DamonReader.regions`."""
        for number, text in _lines(self.stream, 1):
            for line, raw in enumerate(text.splitlines(), number):
                if b"damon_aggregated:" not in raw and b"damos_before_apply:" not in raw:
                    continue
                shown = raw.decode("utf-8", "replace")
                found = self._EVENT.search(shown)
                if found is None or found.end() != len(shown) or len(shown) > 1000:
                    error = self.wrong(f"line {line}", raw)
                    self.malformed += 1
                    self.first = self.first or str(error)
                    if not self.skip:
                        raise error
                    continue
                seconds, part, start, end, nr = found.groups()
                time = int(seconds) * 10**9 + int(part.ljust(9, "0"))
                if int(nr):
                    yield f"line {line}", shown, int(start), int(end), int(nr), time

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether an early line is of one of the tracepoints."""
        return re.search(rb"(damon_aggregated|damos_before_apply): \S+=", head) is not None


class DamonJsonReader(_DamonReader):
    """Records of the ``damo`` tool: JSON, or JSON in a zlib stream (``json_compressed``).

    A list of targets, each with snapshots, each with regions. Numbers may be text and have commas.
    One snapshot at a time is in memory, at most `MOST` characters of text.
    """

    format = "damon-json"
    expected = "a list of objects with snapshots of regions, as damo record writes it"

    #: The most characters of a snapshot.
    MOST: ClassVar[int] = 1 << 26

    def regions(self) -> Iterator[tuple[str, str, int, int, int, int]]:
        """See `_DamonReader.regions`."""
        why = "a region with start, end and nr_accesses, in a snapshot with a time"
        for place, snapshot in self._snapshots():
            for region in self._list(place, snapshot, "regions"):
                text = str(region)
                try:
                    samples = region["nr_accesses"]
                    nr = _number(samples["samples"] if isinstance(samples, dict) else samples)
                    start, end = _number(region["start"]), _number(region["end"])
                    time = _number(snapshot["end_time"])
                except (KeyError, TypeError, ValueError):
                    raise self.wrong(place, text, why) from None
                if nr:
                    yield place, text, start, end, nr, time

    def _snapshots(self) -> Iterator[tuple[str, Any]]:
        """Give each snapshot with the record that it is of."""
        text = Json(self._pieces(), self.MOST)
        try:
            if text.peek() != "[":
                raise self.wrong("record 0", str(text.value())[:100])
            for at, _ in enumerate(text.elements()):
                place, listed = f"record {at}", False
                if text.peek() != "{":
                    self._list(place, text.value(), "snapshots")
                for key in text.names():
                    if key != "snapshots":
                        text.value()
                    elif text.peek() != "[":
                        self._list(place, {key: text.value()}, key)
                    else:
                        listed = True
                        for _ in text.elements():
                            yield place, text.value()
                if not listed:
                    raise self.wrong(place, "{}", "an object with a list of snapshots")
            if text.peek():
                raise ValueError(f"{files.quoted(text.peek(), 1)} after its end")
        except (RecursionError, ValueError) as error:
            if isinstance(error, TraceError):
                raise
            raise TraceError(f"{self.stream.name}: not JSON: {error}") from None

    def _pieces(self) -> Iterator[bytes]:
        """Give the text, unpacked if it is in a zlib stream."""
        if self.stream.peek(1) != b"\x78":
            yield from iter(lambda: self.stream.read(CHUNK), b"")
            return
        unpacker = zlib.decompressobj()
        try:
            while not unpacker.eof:
                packed = unpacker.unconsumed_tail or self.stream.read(CHUNK)
                piece = unpacker.decompress(packed, CHUNK)
                if not (packed or piece):
                    raise zlib.error("it ends early")
                yield piece
        except zlib.error as error:
            raise TraceError(f"{self.stream.name}: its zlib stream is damaged: {error}") from None

    def _list(self, place: str, value: Any, name: str) -> list[Any]:
        found = value.get(name) if isinstance(value, dict) else None
        if not isinstance(found, list):
            raise self.wrong(place, str(value)[:100], f"an object with a list of {name}")
        return found

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether it is JSON with snapshots, or a zlib stream of such."""
        if head[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
            try:
                head = zlib.decompressobj().decompress(head, 4096)
            except zlib.error:
                return False
        return head.lstrip()[:1] == b"[" and b'"snapshots"' in head


def _number(value: Any) -> int:
    return int(value.replace(",", "")) if isinstance(value, str) else int(value)


# ---- binary -----------------------------------------------------------------------------------


class _RecordReader(Reader):
    """Reads records of a fixed size."""

    #: The layout of a record.
    dtype: ClassVar[np.dtype[Any]]
    #: Bytes before the first record.
    begin = 0

    def records(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield arrays of records, each with the number of its first."""
        size, number = self.dtype.itemsize, 0
        while data := self.stream.exactly(CHUNK // size * size):
            rest = len(data) % size
            if rest:
                whole = number + len(data) // size
                raise TraceError(
                    f"{self.stream.name}: record {whole} (byte {self.begin + whole * size}): ends "
                    f"after {rest} bytes: expected {size} bytes, {self.expected}"
                )
            yield number, np.frombuffer(data, self.dtype)
            number += len(data) // size


def _plain(
    address: NDArray[np.uint64], write: NDArray[np.bool_] | None = None, **rest: Any
) -> Accesses:
    kinds = np.zeros(address.size, np.bool_) if write is None else write
    return Accesses(address, np.ones(address.size, np.uint32), kinds, **rest)


class U64Reader(_RecordReader):
    """64-bit addresses, little-endian, one after the other and nothing else; all are loads.

    The format has no magic number. A file is recognised if its first addresses are possible on a
    64-bit processor: below 2**57, or above 2**64 - 2**57.
    """

    format = "u64"
    tool = "addresses of 64 bits"
    expected = "an address"
    dtype = np.dtype("<u8")

    def __iter__(self) -> Iterator[Accesses]:
        for _, addresses in self.records():
            yield _plain(addresses.astype(np.uint64))

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether the first numbers are addresses, and not text."""
        numbers = np.frombuffer(head[: len(head) & ~7], "<u8")
        low = numbers < np.uint64(1 << 57)
        high = numbers >= np.uint64((1 << 64) - (1 << 57))
        return numbers.size > 0 and bool((low | high).all()) and b"\0" in head


class PintReader(_RecordReader):
    """PINT v0, the samples that the simulator ftmemsim reads.

    ``PINT v0`` and a zero byte are followed by a header of 56 bytes and by records of a time in ns
    and an address, whose lowest twelve bits are the kind: 0 a read, 1 a write. The number of
    records follows from the size of the file, not from the header.
    """

    format = "pint"
    tool = "PINT"
    expected = "a time and an address with kind 0 or 1 in its lowest twelve bits"
    dtype = np.dtype([("time", "<u8"), ("address", "<u8")])
    unit = "ns"
    begin = 64

    MAGIC: ClassVar[bytes] = b"PINT v0\0"

    def __iter__(self) -> Iterator[Accesses]:
        if len(self.stream.exactly(self.begin)) < self.begin:
            raise TraceError(f"{self.stream.name}: ends in its header: expected 64 bytes")
        for number, records in self.records():
            kind = records["address"] & np.uint64(0xFFF)
            if kind.max(initial=0) > 1:
                at = int(np.argmax(kind > 1))
                place = f"record {number + at} (byte {self.begin + 16 * (number + at)})"
                raise self.wrong(place, f"kind {int(kind[at])}")
            address = (records["address"] & ~np.uint64(0xFFF)).astype(np.uint64)
            yield _plain(address, kind == 1, time=records["time"].astype(np.uint64))

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether it begins with the magic number of version 0."""
        return head.startswith(cls.MAGIC)


class ChampSimReader(_RecordReader):
    """ChampSim's traces: a record of 64 bytes for each instruction.

    A record has the instruction pointer, two bytes about branches, six registers, two addresses of
    stores and four of loads; address 0 stands for none. Loads come before stores; the time is the
    number of the instruction. The format has no magic number. A file is recognised if the two bytes
    about branches are 0 or 1 and only branches are taken. Traces of the Cloudsuite variant have
    longer records and are not read.
    """

    format = "champsim"
    tool = "ChampSim"
    expected = "an instruction whose is_branch and branch_taken are 0 or 1"
    dtype = np.dtype(
        [
            ("ip", "<u8"),
            ("branch", "u1"),
            ("taken", "u1"),
            ("registers", "u1", 6),
            ("stores", "<u8", 2),
            ("loads", "<u8", 4),
        ]
    )
    unit = "instructions"

    def __iter__(self) -> Iterator[Accesses]:
        for number, records in self.records():
            odd = (records["branch"] > 1) | (records["taken"] > 1)
            if odd.any():
                at = int(np.argmax(odd))
                shown = f"is_branch {records['branch'][at]}, branch_taken {records['taken'][at]}"
                raise self.wrong(f"record {number + at} (byte {64 * (number + at)})", shown)
            slots = np.concatenate((records["loads"], records["stores"]), axis=1)
            used = slots != 0
            time = np.arange(number, number + records.size, dtype=np.uint64)
            kinds = np.broadcast_to(np.arange(6) >= 4, slots.shape)
            when = np.repeat(time, used.sum(axis=1))
            yield _plain(slots[used].astype(np.uint64), kinds[used], time=when)

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether the first records are instructions."""
        records = np.frombuffer(head[: len(head) // 64 * 64], cls.dtype)
        canonical = records["ip"] < np.uint64(1 << 57)
        return bool(
            records.size
            and ((records["branch"] <= 1) & (records["taken"] <= records["branch"])).all()
            and (canonical & (records["ip"] > 0)).all()
            and (records.size > 1 or records["branch"].any() or records["registers"].any())
            and (records["loads"].any() or records["stores"].any() or records.size < 16)
        )


# ---- arrays -----------------------------------------------------------------------------------


class _ColumnReader(Reader):
    """Reads named columns of numbers."""

    def accesses(self, columns: dict[str, NDArray[Any]], row: int) -> Accesses:
        """Take columns by the names that `TableReader` knows."""
        known: dict[str, NDArray[Any]] = {}
        for name, column in columns.items():
            role = _NAMES.get(name.lower())
            if role is not None:
                known[role] = self._whole(name, column, row)
        if ("address" in known) == ("page" in known):
            raise self.wrong(
                "its columns", ", ".join(columns), f"one of address and page of {_NAMED}"
            )
        address = known.get("address")
        if address is None:
            pages = known["page"].astype(np.uint64)
            self._below("page", pages, 1 << 52, row)
            address = pages << np.uint64(PAGE_SHIFT)
        address = np.ascontiguousarray(address, np.uint64)
        size = known.get("size", np.ones(address.size, np.uint32))
        self._below("size", size, parse.LARGEST + 1, row, least=1)
        count = known.get("count")
        if count is not None:
            self._below("count", count, 1 << 32, row, least=1)
        for name in ("process", "thread"):
            if name in known:
                self._below(name, known[name], 1 << 32, row)
        self.unit = "time" if "time" in known else ""
        return Accesses(
            address,
            size.astype(np.uint32),
            known.get("write", np.zeros(address.size)).astype(np.bool_),
            known["time"].astype(np.uint64) if "time" in known else None,
            known["process"].astype(np.uint32) if "process" in known else None,
            known["thread"].astype(np.uint32) if "thread" in known else None,
            None if count is None else count.astype(np.uint32),
        )

    def _whole(self, name: str, column: NDArray[Any], row: int) -> NDArray[Any]:
        if column.dtype.kind not in "iub" or column.ndim != 1:
            raise self.wrong(f"column {name}", str(column.dtype), "one whole number a row")
        if column.dtype.kind == "i" and column.size and column.min() < 0:
            at = int(np.argmax(column < 0))
            raise self.wrong(f"row {row + at}", f"{name} {column[at]}", "numbers from 0 on")
        return column

    def _below(self, name: str, column: NDArray[Any], end: int, row: int, least: int = 0) -> None:
        wild = (column < least) | (column > end - 1)
        if wild.any():
            at = int(np.argmax(wild))
            raise self.wrong(f"row {row + at}", f"{name} {column[at]}", f"{least} to {end - 1}")


class NpyReader(_ColumnReader):
    """An array in numpy's format: addresses, or rows of address and kind, or named fields.

    A one-dimensional array of integers has addresses, all loads. A two-dimensional array with two
    columns has addresses, and whether they store. A structured array has fields by the names that
    `TableReader` knows.
    """

    format = "npy"
    tool = "numpy"
    expected = "addresses, rows of address and kind, or named fields"

    def __iter__(self) -> Iterator[Accesses]:
        for row, array in _rows(self.stream, self.stream.name):
            if array.dtype.names:
                yield self.accesses({name: array[name] for name in array.dtype.names}, row)
            elif array.ndim == 1:
                yield self.accesses({"address": array}, row)
            elif array.ndim == 2 and array.shape[1] == 2:
                yield self.accesses({"address": array[:, 0], "write": array[:, 1] != 0}, row)
            else:
                raise self.wrong("its header", f"shape {array.shape}, {array.dtype}")

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether it begins with numpy's magic number."""
        return head.startswith(b"\x93NUMPY")


#: Errors of reading itself; any other exception of a library means damage.
_PASSED = (TraceError, MissingError, MemoryError)


def _rows(stream: Any, name: str) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield rows of an array in numpy's format, each piece with the number of its first row."""
    fmt = np.lib.format
    try:
        version = fmt.read_magic(stream)
        read = fmt.read_array_header_1_0 if version == (1, 0) else fmt.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header as Python 2 wrote it
            shape, fortran, dtype = read(stream)
    except _PASSED:
        raise
    except Exception as error:  # whatever Python's tokenizer has against it
        shown = files.printable(str(error))[:200]
        raise TraceError(f"{name}: its numpy header is damaged: {shown}") from None
    wide = int(np.prod(shape[1:], dtype=object)) if shape else 0
    if not shape or dtype.hasobject or (fortran and len(shape) > 1) or not 0 < wide <= 64:
        raise TraceError(
            f"{name}: its header: shape {shape}, {files.quoted(str(dtype))}"
            f"{', Fortran order' if fortran else ''}: expected whole numbers in C order"
        )
    size = max(dtype.itemsize * wide, 1)
    row = 0
    while row < shape[0]:
        rows = min(max(CHUNK // size, 1), shape[0] - row)
        data = _exactly(stream, rows * size)
        if len(data) != rows * size:
            raise TraceError(
                f"{name}: ends after {row + len(data) // size} rows: expected {shape[0]}"
            )
        yield row, np.frombuffer(data, dtype).reshape((rows, *shape[1:]))
        row += rows


def _exactly(stream: Any, size: int) -> bytes:
    pieces = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


#: Errors of reading a damaged archive; RuntimeError if it is encrypted.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
)


class NpzReader(_ColumnReader):
    """Arrays of one length in numpy's archive, by the names that `TableReader` knows.

    An archive has its table of contents at its end; one that comes through a pipe is copied to a
    temporary file first.
    """

    format = "npz"
    tool = "numpy"
    expected = f"arrays of one length with the names {_NAMED}"

    def __iter__(self) -> Iterator[Accesses]:
        name = self.stream.name
        with contextlib.ExitStack() as stack:
            try:
                archive = stack.enter_context(
                    zipfile.ZipFile(stack.enter_context(self.stream.whole()))
                )
                names = [entry.removesuffix(".npy") for entry in archive.namelist()]
                known = [entry for entry in names if entry.lower() in _NAMES]
                if not known or len(known) > 16:
                    raise self.wrong("its arrays", ", ".join(names[:20]))
                columns = {
                    entry: _rows(
                        stack.enter_context(archive.open(f"{entry}.npy")), f"{name}: {entry}"
                    )
                    for entry in known
                }
                yield from self._together(columns)
            except _PASSED:
                raise
            except Exception as error:  # zipfile has no one error for damage
                shown = files.printable(str(error))[:200]
                raise TraceError(f"{name}: its archive is damaged: {shown}") from None

    def _together(
        self, columns: dict[str, Iterator[tuple[int, NDArray[Any]]]]
    ) -> Iterator[Accesses]:
        """Yield rows of all columns side by side."""
        held = {name: np.empty(0) for name in columns}
        row = 0
        while True:
            for name, rows in columns.items():
                if not held[name].size:
                    held[name] = next(rows, (0, np.empty(0)))[1]
            sizes = {name: len(array) for name, array in held.items()}
            rows_now = min(sizes.values())
            if rows_now == 0:
                if any(sizes.values()):
                    raise self.wrong(f"row {row}", str(sizes), "arrays of one length")
                return
            yield self.accesses({name: array[:rows_now] for name, array in held.items()}, row)
            held = {name: array[rows_now:] for name, array in held.items()}
            row += rows_now

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether it is an archive whose first entry is an array."""
        return head.startswith(b"PK\x03\x04") and b".npy" in head[:300]


class ParquetReader(_ColumnReader):
    """Columns of a parquet file, by the names that `TableReader` knows; needs pyarrow.

    A parquet file has its table of contents at its end; one that comes through a pipe is copied to
    a temporary file first.
    """

    format = "parquet"
    tool = "parquet"
    expected = f"columns of whole numbers with the names {_NAMED}"

    def __iter__(self) -> Iterator[Accesses]:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise MissingError(
                f"reading {self.stream.name}, a parquet file, needs the package pyarrow: "
                "pip install 'pagemig[traces]'"
            ) from None
        with self.stream.whole() as whole:
            try:
                file = parquet.ParquetFile(whole)
                names = [n for n in file.schema_arrow.names if n.lower() in _NAMES]
                groups = (file.metadata.row_group(k) for k in range(file.num_row_groups))
                largest = max((group.total_byte_size for group in groups), default=0)
                files.room(2 * largest, f"{self.stream.name}: a group of its rows")
                row = 0
                for batch in file.iter_batches(batch_size=CHUNK >> 3, columns=names):
                    if any(column.null_count for column in batch.columns):
                        raise self.wrong(f"row {row}", "an empty value", "a number in every row")
                    arrays = {
                        name: batch.column(name).to_numpy(zero_copy_only=False) for name in names
                    }
                    yield self.accesses(arrays, row)
                    row += batch.num_rows
            except (pyarrow.ArrowException, OSError, UnicodeError, OverflowError) as error:
                why = files.printable(str(error).splitlines()[0] if str(error) else "")
                raise TraceError(f"{self.stream.name}: not a sound parquet file: {why}") from None

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether it begins with the magic number of parquet."""
        return head.startswith(b"PAR1")


class PmtReader(Reader):
    """A trace of pagemig's own."""

    format = "pmt"

    def __iter__(self) -> Iterator[Accesses]:
        with self.stream.whole() as whole, TraceFile(whole, name=self.stream.name) as file:
            self._header, self.unit = file.header, file.header.unit
            before = 0
            for index, write, count in file.blocks:
                address = file.table[index] << np.uint64(PAGE_SHIFT)
                time = None
                if self.unit:
                    at = before + np.cumsum(count, dtype=np.uint64) - count
                    ticks = np.searchsorted(file.ticks, at, "right")
                    time = ticks.astype(np.uint64) * np.uint64(file.header.tick)
                before += int(count.sum(dtype=np.uint64))
                yield _plain(address, write, time=time, weight=count)

    @property
    def header(self) -> Header:
        """The file's own header; known once reading has begun."""
        return self._header

    _header = Header()

    @classmethod
    def knows(cls, head: bytes) -> bool:
        """Tell whether it begins with the magic number of a trace."""
        return head.startswith(MAGIC)


#: Readers by the name of their format, in the order in which they try to recognise a file: those
#: with a magic number first.
FORMATS: dict[str, type[Reader]] = {
    kind.format: kind
    for kind in (
        PmtReader, PintReader, NpyReader, NpzReader, ParquetReader, DamonJsonReader, DamonReader,
        PerfReader, LackeyReader, TableReader, ChampSimReader, U64Reader,
    )
}  # fmt: skip


@contextlib.contextmanager
def reader(
    source: str | os.PathLike[str] | Source,
    format: str | None = None,
    *,
    skip: bool = False,
    wait: Wait = patiently,
) -> Iterator[Reader]:
    """Open a trace of any format.

    Parameters
    ----------
    source : path-like or binary file
        A file, ``-`` for standard input, or a file object to read bytes from; possibly compressed
        by gzip, bzip2, xz or zstd.
    format : str, optional
        A key of `FORMATS`; recognised by content unless given.
    skip : bool, default False
        Skip and count malformed lines instead of raising at the first.
    wait : callable, optional
        How to wait for its bytes (`pagemig.trace.streams.Wait`).

    Yields
    ------
    Reader

    Raises
    ------
    TraceError
        Its format is not recognised; the message lists the formats.
    ValueError
        There is no such format.
    OSError
        It cannot be opened.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    with opened(source, wait) as stream:
        head = stream.peek()
        kind = FORMATS.get(format or "")
        if kind is None and not head:
            raise TraceError(f"{stream.name}: it is empty: no access is in it")
        kind = kind or next((kind for kind in FORMATS.values() if kind.knows(head)), None)
        if kind is None:
            raise TraceError(
                f"{stream.name}: {files.quoted(head[:40])}: expected a trace of one of the formats "
                f"{', '.join(FORMATS)}, and it looks like none; --format says which it is"
            )
        yield kind(stream, skip=skip)
