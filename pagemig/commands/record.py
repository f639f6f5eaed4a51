"""``pagemig record``: a trace of a running program, or from lackey's output."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from pagemig.files import printable
from pagemig.trace import TraceError
from pagemig.trace.convert import Recording, Report, convert
from pagemig.trace.record import CACHE, WAYS, RecordError, record
from pagemig.trace.streams import MissingError

__all__ = ["add_filters", "add_parser", "progress", "said", "size"]


def size(text: str) -> int:
    """Parse bytes with an optional unit: ``65536``, ``64KiB``, ``1M``."""
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    unit = units.get(number[-1:], 1)
    try:
        return int(number.rstrip("KMG") if unit > 1 else number) * unit
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 65536 or 64KiB") from None


def add_filters(parser: argparse.ArgumentParser, cache: int) -> None:
    """Add the options of `pagemig.trace.convert.Options`."""
    default = f"{cache >> 20}MiB" if cache else "0"
    parser.add_argument(
        "--cache",
        type=size,
        default=cache,
        metavar="SIZE",
        help="size of the cache in front of the memory; the trace leaves out its hits, "
        f"0 keeps every access (default: {default})",
    )
    parser.add_argument(
        "--ways",
        type=int,
        default=WAYS,
        metavar="N",
        help="ways of that cache, 1 is direct-mapped (default: %(default)s)",
    )
    parser.add_argument(
        "--skip",
        type=int,
        default=0,
        metavar="N",
        help="leave out the first N accesses of each process; they warm the cache",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="stop after N accesses (before the cache)"
    )
    parser.add_argument(
        "--small", action="store_true", help="compress the trace more, which takes longer"
    )


def add_parser(subparsers: Any) -> None:
    """Add ``record`` to the commands."""
    parser = subparsers.add_parser(
        "record",
        help="record the pages a program accesses (needs valgrind)",
        description="Run a program under valgrind's lackey tool and write a trace of the pages "
        "that it accesses. Each process that it starts gets its own trace, OUTPUT-2.pmt and so on. "
        "Or convert lackey's output.",
        usage="pagemig record [options] -- PROGRAM [ARGS ...]\n"
        "       pagemig record [options] --lackey FILE",
    )
    parser.add_argument(
        "command", nargs="*", metavar="PROGRAM", help="the program to run, after --"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="the trace (default: PROGRAM.pmt)")
    add_filters(parser, CACHE)
    parser.add_argument(
        "--no-children",
        dest="children",
        action="store_false",
        help="do not record the processes that the program starts",
    )
    parser.add_argument(
        "--lackey",
        metavar="FILE",
        help="convert this text, compressed or not (- for standard input), instead of running "
        "a program; lines that are not lackey's are skipped and counted",
    )
    parser.set_defaults(main=run, run=run)


def run(args: argparse.Namespace) -> int:
    """Run ``pagemig record``; return the program's exit status."""
    if bool(args.command) == bool(args.lackey):
        print("pagemig record: give either -- PROGRAM ARGS or --lackey FILE", file=sys.stderr)
        return 2
    name = args.lackey or args.command[0]
    stem = "trace" if name == "-" else Path(name).name.split(".")[0]
    output = args.output or f"{stem}.pmt"
    options: dict[str, Any] = {
        "cache": args.cache,
        "ways": args.ways,
        "skip": args.skip,
        "limit": args.limit,
        "small": args.small,
        "report": progress(),
    }
    try:
        if args.lackey:
            done = convert(
                args.lackey, output, format="lackey", program=args.lackey, lenient=True, **options
            )
        else:
            done = record(args.command, output, children=args.children, **options)
    except (RecordError, MissingError, TraceError) as error:
        print(f"pagemig record: {error}", file=sys.stderr)
        return 2
    said(done)
    return done.status


def said(done: Recording) -> None:
    """Print a line for each trace that was written."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    for recording in (done, *done.others):
        header = recording.header
        print(
            f"{recording.path}: {header.accesses:,} accesses of {header.references:,}, "
            f"{recording.path.stat().st_size:,} bytes"
            + (f"; {printable(header.program)}" if done.others else "")
            + (f"; {header.note}" if header.note else "")
            + (f"; {recording.malformed:,} malformed lines" if recording.malformed else "")
            + (f", the first: {recording.first}" if recording.first else ""),
            file=sys.stderr,
        )


def progress() -> Report | None:
    """Return a function that counts on one line of a terminal; None without a terminal."""
    if not sys.stderr.isatty():
        return None
    started = last = time.monotonic()

    def report(references: int, kept: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.5:
            last = now
            rate = references / (now - started) / 1e6
            line = f"\r\x1b[K{references:,} accesses, {kept:,} kept, {rate:.1f} M/s"
            print(line, end=" ", file=sys.stderr, flush=True)

    return report
