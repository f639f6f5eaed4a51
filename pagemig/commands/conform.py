"""``pagemig conform``: the model beside recorded kernels."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pagemig.kernels import DEFAULT_KERNEL, kernel_profile
from pagemig.scenario import evidence
from pagemig.scenario.conform import Count, compare, summary, text, total_of
from pagemig.scenario.files import Entry, choose, entries, placed, recordings

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Add ``pagemig conform`` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "conform",
        help="compare the model with recorded kernels",
        description="Run recorded scenarios and compare every answer, and the state of every "
        "process after every operation, except values listed as unstable. The exit status is 0 "
        "only if all agree. Without files, say what each kernel profile is checked against.",
    )
    parser.add_argument("files", metavar="FILE", nargs="*", help="records, or folders of them")
    parser.add_argument("--id", help="only the scenario with this id, as hand-013")
    parser.add_argument("--kernel", default=DEFAULT_KERNEL, help="profile (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one object with the counts")
    parser.add_argument(
        "--check", action="store_true", help="check all invariants after every operation"
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="write every failing scenario out as a bug report",
    )
    parser.set_defaults(main=_main)


def _main(args: argparse.Namespace) -> int:
    kernel_profile(args.kernel)
    if not args.files:
        held = [row._asdict() for row in evidence.held()] if args.json else None
        print(evidence.text() if held is None else json.dumps(held))
        return 0
    names = [name for path in args.files for name in recordings(path)]
    given = choose([entry for name in names for entry in entries(name)], args.id)
    by_file = {name: Count() for name in names}
    compared = []
    for entry in _progress(given):
        with placed(entry):
            compared.append(compare(entry.scenario, kernel=args.kernel, check=args.check))
        by_file[entry.path].add(compared[-1])
    total = total_of(by_file.values())
    if args.json:
        print(json.dumps(summary(total, compared)))
    else:
        print(text(by_file, total, compared, args.kernel, verbose=args.verbose))
    return 0 if total.agree == total.scenarios else 1


def _progress(given: Sequence[Entry]) -> Iterator[Entry]:
    """Yield the entries, and show progress on a terminal."""
    if not sys.stderr.isatty():
        yield from given
        return
    for i, entry in enumerate(given, 1):
        print(f"\r{entry.path}: {i} of {len(given)}", end="", file=sys.stderr, flush=True)
        yield entry
    print("\r\033[K", end="", file=sys.stderr, flush=True)
