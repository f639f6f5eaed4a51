"""``pagemig trace info`` and ``pagemig trace convert``: summarise traces, and convert them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pagemig.trace import TraceError, find, stored
from pagemig.trace.convert import convert
from pagemig.trace.info import BANDS, PARTS, info
from pagemig.trace.pictures import check, draw
from pagemig.trace.readers import FORMATS
from pagemig.trace.streams import MissingError

from .record import add_filters, progress, said

__all__ = ["add_parser", "given"]


def add_parser(subparsers: Any) -> None:
    """Add ``trace`` to the commands."""
    parser = subparsers.add_parser(
        "trace",
        help="summarise a trace, or convert one of another tool",
        description="Summarise a trace, or convert another tool's. Formats, recognised by content: "
        f"{', '.join(FORMATS)}; possibly compressed by gzip, bzip2, xz or zstd.",
    )
    verbs = parser.add_subparsers(required=True, metavar="info | convert")
    _add_info(verbs)
    _add_convert(verbs)


def _add_info(verbs: Any) -> None:
    parser = verbs.add_parser(
        "info",
        help="footprint, hot pages, working set over time, a picture",
        description="Summarise a trace: footprint, hot pages, working set over time.",
    )
    parser.add_argument("file", metavar="FILE", help="a trace of any format, a shipped one, or -")
    parser.add_argument("-o", "--output", metavar="FILE", help="a picture: .png, .svg or .pdf")
    parser.add_argument(
        "--parts", type=int, default=PARTS, metavar="N", help="parts of time (default: %(default)s)"
    )
    parser.set_defaults(main=run_info, run=run_info)


def _add_convert(verbs: Any) -> None:
    parser = verbs.add_parser(
        "convert",
        help="convert another tool's trace",
        description="Convert another tool's trace. A file of several processes becomes several "
        "traces, OUTPUT.pmt, OUTPUT-2.pmt and so on.",
    )
    parser.add_argument("file", metavar="FILE", help="the file to read; - for standard input")
    parser.add_argument("output", nargs="?", metavar="OUTPUT", help="default: FILE.pmt")
    parser.add_argument("--format", choices=list(FORMATS), help="instead of the recognised one")
    parser.add_argument("--program", default="", metavar="TEXT", help="the program's name")
    parser.add_argument(
        "--threads", action="store_true", help="a trace for each thread, if the format has threads"
    )
    parser.add_argument("--lenient", action="store_true", help="skip and count malformed lines")
    add_filters(parser, 0)
    parser.set_defaults(main=run_convert, run=run_convert)


def given(name: str) -> str | Path:
    """Return what a trace's name on the command line stands for; ``-`` is the standard input.

    Raises
    ------
    FileNotFoundError
        There is no such trace.
    """
    return name if name == "-" else find(name)


def run_info(args: argparse.Namespace) -> int:
    """Run ``pagemig trace info``."""
    if not 1 <= args.parts <= 10_000:
        raise ValueError(f"--parts {args.parts} is not from 1 to 10,000")
    try:
        if args.output:
            check(args.output)
        with stored(given(args.file)) as trace:
            found = info(trace, parts=args.parts, bands=BANDS)
    except MissingError as error:
        print(f"pagemig trace: {error}", file=sys.stderr)
        return 2
    print(found)
    if args.output:
        draw(found, args.output)
        print(f"Picture: {args.output}")
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Run ``pagemig trace convert``."""
    stem = "trace" if args.file == "-" else Path(args.file).name.split(".")[0]
    output = args.output or f"{stem}.pmt"
    if Path(output).exists() and Path(args.file).exists() and Path(output).samefile(args.file):
        raise ValueError(f"{output} would take its own place: give another OUTPUT")
    try:
        done = convert(
            args.file,
            output,
            format=args.format,
            program=args.program,
            cache=args.cache,
            ways=args.ways,
            skip=args.skip,
            limit=args.limit,
            apart="thread" if args.threads else "process",
            lenient=args.lenient,
            small=args.small,
            report=progress(),
        )
    except (MissingError, TraceError) as error:
        print(f"pagemig trace: {error}", file=sys.stderr)
        return 2
    said(done)
    return done.status
