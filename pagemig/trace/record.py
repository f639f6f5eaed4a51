"""``pagemig record -- PROGRAM ARGS``: a trace of the pages a real program accesses.

The program runs under valgrind's lackey tool, about a hundred times slower than alone; what
lackey says is read while the program runs, so neither the text nor the trace is ever whole in
memory or on disk. What is kept is what reaches the memory: by default the accesses go through a
small cache first (`pagemig.trace.cache`), ``--cache 0`` keeps every one.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gzip
import io
import lzma
import os
import shlex
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from pagemig.trace import PAGE_SHIFT, Header, LackeyReader, LineCache, Writer, touched
from pagemig.trace.cache import LINE_SHIFT
from pagemig.trace.lackey import Source

__all__ = ["RecordError", "Recording", "add_parser", "convert", "record"]

#: Bytes of the cache in front of the memory unless asked otherwise: a core's share of a last level.
CACHE = 1 << 20


class RecordError(RuntimeError):
    """A program could not be recorded; the message says why and what to do."""


@dataclass(frozen=True)
class Recording:
    """What came of a recording.

    Attributes
    ----------
    path : Path
        The trace written.
    header : Header
        Its header.
    malformed : int
        Lines that were not lackey's.
    status : int
        The program's exit status; 0 where a text was converted or the limit ended the program.
    """

    path: Path
    header: Header
    malformed: int
    status: int


Report = Callable[[int, int], None]


def convert(
    stream: Source,
    path: str | os.PathLike[str],
    *,
    program: str = "",
    cache: int = CACHE,
    limit: int | None = None,
    report: Report | None = None,
) -> Recording:
    """Turn the text of ``valgrind --tool=lackey --trace-mem=yes`` into a trace.

    Parameters
    ----------
    stream : binary file
        The text; read to its end.
    path : path-like
        The trace to write.
    program : str
        What to name in the header.
    cache : int
        Bytes of the line cache in front of the memory; 0 for none.
    limit : int, optional
        Stop after this many accesses of the program.
    report : callable, optional
        Called now and then with the accesses read and the accesses kept so far.

    Returns
    -------
    Recording

    Raises
    ------
    RecordError
        If the text holds no access.
    ValueError, FileNotFoundError
        A limit below 1, no directory for the trace.
    """
    lines = LineCache(cache) if cache else None
    _check(path, limit)
    reader = LackeyReader(stream)
    writer = Writer()
    references = 0
    for accesses in reader:
        references += accesses.address.size
        if lines is None:
            writer.add(*touched(accesses, PAGE_SHIFT))
        else:
            block, write = touched(accesses, LINE_SHIFT)
            reached = lines.filter(block, write)
            writer.add(block[reached] >> (PAGE_SHIFT - LINE_SHIFT), write[reached])
        if report is not None:
            report(references, writer.accesses)
        if limit is not None and references >= limit:
            break
    if references == 0:
        raise RecordError("no access was seen: is this what lackey says with --trace-mem=yes?")
    writer.header = Header(
        program=program, source="valgrind lackey", cache=cache, references=references
    )
    return Recording(Path(path), writer.save(path), reader.malformed, 0)


def record(
    command: Sequence[str],
    path: str | os.PathLike[str],
    *,
    cache: int = CACHE,
    limit: int | None = None,
    report: Report | None = None,
) -> Recording:
    """Run a program under valgrind's lackey tool and write the trace of its data accesses.

    Its input and output stay its own. Programs it starts are not traced.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    path : path-like
        The trace to write.
    cache : int
        Bytes of the line cache in front of the memory; 0 for none.
    limit : int, optional
        End the program after this many accesses.
    report : callable, optional
        Called now and then with the accesses read and the accesses kept so far.

    Returns
    -------
    Recording

    Raises
    ------
    RecordError
        If valgrind or the program is missing, or nothing could be recorded.
    ValueError, FileNotFoundError
        A limit below 1, no directory for the trace.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise RecordError(
            "recording needs valgrind, which was not found "
            "(Debian, Ubuntu: apt install valgrind; Fedora: dnf install valgrind)"
        )
    program = shutil.which(command[0])
    if program is None:
        raise RecordError(f"no program {command[0]!r} was found")
    _check(path, limit)
    if cache:
        LineCache(cache)  # refuses a bad size before anything has started
    read_end, write_end = os.pipe()
    with _Pipe(read_end) as pipe:
        tool = ["--tool=lackey", "--trace-mem=yes", f"--log-fd={write_end}"]
        try:
            process = subprocess.Popen(
                [valgrind, *tool, "--", program, *command[1:]], pass_fds=(write_end,)
            )
        finally:
            os.close(write_end)
        try:
            done = convert(
                pipe, path, program=shlex.join(command), cache=cache, limit=limit, report=report
            )
        finally:
            # Past the limit, or after an error, nobody reads what lackey writes.
            if limit is not None or sys.exc_info()[0] is not None:
                process.kill()
            status = process.wait()
    return replace(done, status=0 if limit is not None and status < 0 else status)


def _check(path: str | os.PathLike[str], limit: int | None) -> None:
    """Refuse what would fail only after the program has run."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 access, not {limit}")
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(target.parent)!r} for the trace")
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a directory, not a file for the trace")


class _Pipe(io.RawIOBase):
    """The reading end of a pipe whose writer writes a line at a time.

    Waking up for every line would cost as much as lackey itself, so each read lets the pipe fill
    for a moment first; it holds what lackey writes in some 70 ms.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        with contextlib.suppress(OSError):  # the limit of an ordinary user
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 20)

    def read(self, size: int = -1, /) -> bytes:
        """What is there, at most ``size`` bytes; nothing only at the end."""
        time.sleep(0.02)
        return os.read(self._fd, size if size > 0 else 1 << 20)

    def close(self) -> None:
        """Close the pipe."""
        if not self.closed:
            os.close(self._fd)
        super().close()


def _open(name: str) -> BinaryIO:
    """A text of lackey's: a file, packed or not, or ``-`` for the standard input."""
    if name == "-":
        return sys.stdin.buffer
    path = Path(name)
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(path))
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise RecordError(
                f"reading {name} needs the package zstandard: pip install 'pagemig[traces]'"
            ) from None
        return cast(BinaryIO, zstandard.open(path))
    return path.open("rb")


def add_parser(subparsers: Any) -> None:
    """Add ``record`` to the commands."""
    parser = subparsers.add_parser(
        "record",
        help="record the pages a program accesses (needs valgrind)",
        description="Run a program under valgrind's lackey tool and write the trace of the pages "
        "it accesses, or convert a text lackey has written.",
        usage="pagemig record [options] -- PROGRAM [ARGS ...]\n"
        "       pagemig record [options] --lackey FILE",
    )
    parser.add_argument("command", nargs="*", metavar="PROGRAM", help="what to run, after --")
    parser.add_argument("-o", "--output", metavar="FILE", help="the trace (default: PROGRAM.pmt)")
    parser.add_argument(
        "--cache",
        type=size,
        default=CACHE,
        metavar="SIZE",
        help="size of the cache in front of the memory, whose hits are not kept; "
        "0 keeps every access (default: 1MiB)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="end the program after N accesses (before the cache)"
    )
    parser.add_argument(
        "--lackey", metavar="FILE", help="convert this text (.gz, .xz, .zst, or - for stdin)"
    )
    parser.set_defaults(main=run, run=run)


def size(text: str) -> int:
    """Bytes from a number with an optional unit: ``65536``, ``64KiB``, ``1M``."""
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    unit = units.get(number[-1:], 1)
    try:
        return int(number.rstrip("KMG") if unit > 1 else number) * unit
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 65536 or 64KiB") from None


def run(args: argparse.Namespace) -> int:
    """Do what ``pagemig record`` was asked to; returns the program's exit status."""
    if bool(args.command) == bool(args.lackey):
        print("pagemig record: give either -- PROGRAM ARGS or --lackey FILE", file=sys.stderr)
        return 2
    name = args.lackey or args.command[0]
    output = args.output or Path(name).name.split(".")[0] + ".pmt"
    options = {"cache": args.cache, "limit": args.limit, "report": _progress()}
    try:
        if args.lackey:
            with contextlib.closing(_open(args.lackey)) as stream:
                done = convert(stream, output, program=args.lackey, **options)
        else:
            done = record(args.command, output, **options)
    except RecordError as error:
        print(f"pagemig record: {error}", file=sys.stderr)
        return 2
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        print(f"pagemig record: {args.lackey} is damaged: {error}", file=sys.stderr)
        return 2
    header = done.header
    print(
        f"{done.path}: {header.accesses:,} accesses of {header.references:,}, "
        f"{done.path.stat().st_size:,} bytes"
        + (f"; {done.malformed:,} lines were not lackey's" if done.malformed else ""),
        file=sys.stderr,
    )
    return done.status


def _progress() -> Report | None:
    """A line that counts, on a terminal."""
    if not sys.stderr.isatty():
        return None
    last = 0.0

    def report(references: int, kept: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.5:
            last = time.monotonic()
            print(f"\r{references:,} accesses, {kept:,} kept", end=" ", file=sys.stderr, flush=True)

    return report
