"""Making traces from accesses of any format: cache, skip, limit, a trace for each process."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pagemig import files

from .cache import LINE_SHIFT, LineCache
from .columns import blocks
from .format import Writer
from .header import PAGE_SHIFT, Header, TraceError
from .readers import Accesses, Reader, reader
from .streams import Source

__all__ = ["Options", "Recording", "Report", "Sink", "Stop", "beside", "check", "convert"]

#: Called repeatedly with the accesses read and the accesses kept so far.
Report = Callable[[int, int], None]

#: The most processes or threads that one file is split into.
_MOST_PARTS = 1000


@dataclass(frozen=True)
class Options:
    """How accesses are filtered into a trace.

    Attributes
    ----------
    cache : int
        Bytes of the line cache in front of the memory; 0 for none.
    ways : int
        Lines of a set of that cache.
    skip : int
        Accesses that are left out at the beginning of each process; they warm the cache.
    limit : int, optional
        Accesses after which to stop, of all processes together and before the cache.
    small : bool
        Whether files are compressed by xz, which takes twenty times as long.
    """

    cache: int = 0
    ways: int = 16
    skip: int = 0
    limit: int | None = None
    small: bool = False

    def __post_init__(self) -> None:
        """Refuse invalid options before anything has started."""
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1 access, not {self.limit}")
        if self.skip < 0:
            raise ValueError(f"skip must be a number of accesses from 0 on, not {self.skip}")
        if self.cache:
            LineCache(self.cache, self.ways)


@dataclass(frozen=True)
class Recording:
    """The result of a recording or a conversion.

    Attributes
    ----------
    path : Path
        The trace written.
    header : Header
        Its header.
    malformed : int
        Lines that were not of the format.
    status : int
        The program's exit status, or 128 plus the number of the signal that ended it; 0 for a
        conversion, or if the limit ended the program.
    first : str
        The first malformed line, with its place and what was expected.
    others : tuple of Recording
        Traces of the other processes or threads, in order of their first access.
    """

    path: Path
    header: Header
    malformed: int = 0
    status: int = 0
    first: str = ""
    others: tuple[Recording, ...] = field(default=())


class Sink:
    """Takes the accesses of one process and writes its trace.

    Attributes
    ----------
    references : int
        Accesses taken so far, without the skipped ones.
    """

    def __init__(self, path: Path, options: Options, unit: str, stop: Stop) -> None:
        self.path, self.options = path, options
        self.writer = Writer(path, unit=unit, small=options.small, hurried=stop.asked)
        self.references = 0
        self._to_skip = options.skip
        self._lines = LineCache(options.cache, options.ways) if options.cache else None

    def add(self, accesses: Accesses, most: int | None = None) -> None:
        """Take accesses, at most ``most`` after those to skip."""
        if accesses.weight is not None:
            self._add_counted(accesses, accesses.weight, most)
            return
        first = min(self._to_skip, accesses.address.size)
        self._to_skip -= first
        last = accesses.address.size
        if most is not None:
            last = min(last, first + most)
        self.references += last - first
        self._put(accesses, first, last)

    def _add_counted(
        self, accesses: Accesses, weight: NDArray[np.uint32], most: int | None
    ) -> None:
        """Take entries that stand for several accesses; they are cut where needed."""
        if self._lines is not None:
            raise ValueError("a cache takes single accesses, and these are counted: cache=0")
        ends = np.cumsum(weight, dtype=np.int64)
        total = int(ends[-1]) if ends.size else 0
        low = min(self._to_skip, total)
        high = total if most is None else min(low + most, total)
        self._to_skip -= low
        self.references += high - low
        first, last = np.searchsorted(ends, low, "right"), np.searchsorted(ends, high, "left") + 1
        if high > low:
            inside = np.clip(ends, low, high) - np.clip(ends - weight, low, high)
            part = accesses._replace(weight=inside.astype(np.uint32))
            self._put(part, int(first), int(last))

    def _put(self, accesses: Accesses, first: int, last: int) -> None:
        """Pass accesses up to ``last`` through the cache, and write those from ``first`` on."""
        shift = PAGE_SHIFT if self._lines is None else LINE_SHIFT
        at = first if self._lines is None else 0
        address, size = accesses.address[:last], accesses.size[:last]
        while at < last:
            found, origin, stop = blocks(address, size, shift, at)
            of = np.arange(at, stop) if origin is None else origin
            if self._lines is None:
                kept, pages = of >= first, found
            else:
                kept = self._lines.filter(found, accesses.write[of]) & (of >= first)
                pages = found >> np.uint64(PAGE_SHIFT - LINE_SHIFT)
            if not kept.all():
                of, pages = of[kept], pages[kept]
            self.writer.add(
                pages,
                accesses.write[of],
                None if accesses.weight is None else accesses.weight[of].astype(np.uint64),
                None if accesses.time is None else accesses.time[of],
            )
            at = stop

    def finish(self, header: Header) -> Recording | None:
        """Write the trace, which `publish` puts in its place; None if there was no access."""
        if self.references == 0:
            self.writer.abandon()
            return None
        options = self.options
        known = replace(
            header,
            cache=options.cache or header.cache,
            ways=options.ways if options.cache else header.ways,
            references=max(self.references, header.references),
        )
        return Recording(self.path, self.writer.finish(known))

    def publish(self) -> None:
        """Put the trace in its place."""
        self.writer.publish()


class Stop:
    """Tells whether a signal has asked to stop, while a ``with`` block runs.

    SIGINT and SIGTERM set ``signal`` instead of ending the process, so that the accesses read so
    far can be kept; a second one raises `KeyboardInterrupt`. Outside the main thread signals are
    left as they are.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}
        self._commits = False
        self._ends: tuple[int, ...] = ()  # of a pipe that every signal writes to
        self._woken = -1

    def asked(self) -> bool:
        """Tell whether a signal has come."""
        return self.signal != 0

    def wait(self, fd: int) -> bool:
        """Wait until a file has something to read; False once a signal has asked to stop."""
        there = select.poll()
        for end in (fd, *self._ends[:1]):
            there.register(end, select.POLLIN)
        while not self.signal:
            ready = [end for end, _ in there.poll()]
            if fd in ready:
                return True
            os.read(self._ends[0], 64)  # a signal that is none of these
        return False

    @contextlib.contextmanager
    def committing(self) -> Iterator[None]:
        """Put off what signals ask for until several files are in their places."""
        self._commits = True
        try:
            yield
        finally:
            self._commits = False

    def _ask(self, number: int, _frame: object) -> None:
        if self._commits:
            return
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._ends = os.pipe()
            for end in self._ends:
                os.set_blocking(end, False)
            self._woken = signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self._ends:
            signal.set_wakeup_fd(self._woken)
            for end in self._ends:
                os.close(end)
            self._ends = ()


def check(path: str | os.PathLike[str]) -> Path:
    """Refuse a path that no trace can be written to, before the work is done.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        Its directory does not exist, or the path is a directory.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(target.parent)!r} for the trace")
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a directory, not a file for the trace")
    return target


def beside(path: Path, number: int) -> Path:
    """Return the path of the trace of process ``number``: ``x.pmt``, ``x-2.pmt``, ..."""
    return path if number == 0 else path.with_name(f"{path.stem}-{number + 1}{path.suffix}")


def convert(
    source: str | os.PathLike[str] | Source,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    program: str = "",
    cache: int = 0,
    ways: int = 16,
    skip: int = 0,
    limit: int | None = None,
    apart: Literal["process", "thread"] = "process",
    lenient: bool = False,
    small: bool = False,
    report: Report | None = None,
) -> Recording:
    """Turn a trace of any format into one of pagemig's.

    Memory is bounded by the footprint, however long the trace is. Each process gets its own trace,
    since equal page numbers of two processes are different pages: the first process is written to
    ``path``, the others beside it (`beside`).

    Parameters
    ----------
    source : path-like or binary file
        A file, ``-`` for standard input, or a file object to read bytes from.
    path : path-like
        The trace to write.
    format : str, optional
        A key of `pagemig.trace.readers.FORMATS`; recognised by content unless given.
    program : str
        The program's name in the header.
    cache, ways, skip, limit, small
        See `Options`.
    apart : {"process", "thread"}
        Whether each process, or each thread, gets its own trace, if the format names threads.
    lenient : bool, default False
        Skip and count malformed lines instead of raising at the first.
    report : callable, optional
        Called repeatedly with the accesses read and the accesses kept so far.

    Returns
    -------
    Recording
        The first trace; ``others`` are the rest.

    Raises
    ------
    TraceError
        The source does not fit its format, or holds no access.
    ValueError, OSError
        An invalid option, a missing directory, or a file that cannot be read.
    """
    if apart not in ("process", "thread"):
        raise ValueError(f"apart must be process or thread, not {apart!r}")
    options = Options(cache, ways, skip, limit, small)
    target = check(path)
    sinks: dict[int, Sink] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(_abandon, sinks)
        stop = stack.enter_context(Stop())
        try:
            found = stack.enter_context(reader(source, format, skip=lenient, wait=stop.wait))
            _take(found, sinks, target, options, apart, stop, report)
        except TraceError:  # it ended where it should not
            if not stop.signal:
                raise
            if not sinks:
                raise KeyboardInterrupt from None  # nothing was read that could be kept
        cut = _cut(stop.signal)
        header = replace(found.header, program=program or found.header.program)
        done = []
        for owner, sink in sinks.items():
            named = f"{apart} {owner}" if len(sinks) > 1 else ""
            note = "; ".join(filter(None, [header.note, named, cut]))
            recording = sink.finish(replace(header, note=note))
            if recording is not None:
                done.append(recording)
        if not done and cut:
            raise KeyboardInterrupt
        if not done:
            raise TraceError(
                f"{found.stream.name}: no access was seen (read as {found.format})"
                + (f"; {found.skipped:,} events told no address" if found.skipped else "")
                + (f"; {found.first}" if found.first else "")
            )
        status = 128 + stop.signal if stop.signal else 0
        with stop.committing():
            for sink in sinks.values():
                sink.publish()
        first, *others = done
        return replace(
            first,
            malformed=found.malformed,
            first=found.first,
            others=tuple(others),
            status=status,
        )


def _take(
    found: Reader,
    sinks: dict[int, Sink],
    target: Path,
    options: Options,
    apart: str,
    stop: Stop,
    report: Report | None,
) -> None:
    """Pass accesses to the sinks of their processes up to the limit, the end, or a signal."""
    references = 0
    for chunk in found:
        for owner, part in _apart(chunk, apart):
            if owner not in sinks:
                if len(sinks) == _MOST_PARTS:
                    raise TraceError(f"{found.stream.name}: more than {_MOST_PARTS} processes")
                sinks[owner] = Sink(beside(target, len(sinks)), options, found.unit, stop)
            sink = sinks[owner]
            before = sink.references
            sink.add(part, None if options.limit is None else options.limit - references)
            references += sink.references - before
        if report is not None:
            report(references, sum(sink.writer.accesses for sink in sinks.values()))
        if stop.signal or (options.limit is not None and references >= options.limit):
            break


def _abandon(sinks: dict[int, Sink]) -> None:
    """Leave no partial files behind."""
    for sink in sinks.values():
        sink.writer.abandon()


def _cut(number: int) -> str:
    return f"ended early by {signal.Signals(number).name}" if number else ""


def _apart(chunk: Accesses, by: str) -> Iterator[tuple[int, Accesses]]:
    """Yield the accesses of each process, or thread, in the order in which they appear."""
    owner: NDArray[np.uint32] | None = chunk.process
    if by == "thread" and chunk.thread is not None:
        owner = chunk.thread
    if owner is None or owner.size == 0 or (owner == owner[0]).all():
        yield (0 if owner is None or owner.size == 0 else int(owner[0])), chunk
        return
    kinds, first = np.unique(owner, return_index=True)
    for kind in kinds[np.argsort(first)]:
        mine = owner == kind
        yield int(kind), Accesses(*(None if c is None else c[mine] for c in chunk))  # type: ignore[arg-type]


@contextlib.contextmanager
def converted(source: str | os.PathLike[str] | Source) -> Iterator[Path]:
    """Make a temporary trace from another format.

    Raises
    ------
    TraceError
        The source does not fit its format, or holds several processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = convert(source, Path(folder) / "trace.pmt")
        if done.others:
            raise TraceError(
                f"{files.printable(str(source))}: holds {len(done.others) + 1} processes; "
                "pagemig trace convert writes a trace for each"
            )
        yield done.path
