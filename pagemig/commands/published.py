"""``pagemig cori`` and ``pagemig colloid``: two published results from stated parameters."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pagemig.report import save_picture
from pagemig.studies import colloid, colloid_pictures, cori, cori_pictures, pictures
from pagemig.studies.progress import progress
from pagemig.trace import stored

from .trace import given

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Add ``cori`` and ``colloid`` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "cori",
        help="a published result: the cost of moving pages at a wrong period (Cori, 2021)",
        description="Sweep the period of a policy that moves hot pages, on the machine of "
        "cori-sim, and tune it as Cori does, by the reuse distance.",
    )
    parser.add_argument("trace", nargs="*", help="traces (default: sqlite)")
    _common(parser, _cori)
    parser = subparsers.add_parser(
        "colloid",
        help="a published result: the hottest pages on a loaded tier (Colloid, 2024)",
        description="Run random updates beside an antagonist on the default tier. Compare the "
        "hottest pages in the default tier, Colloid's balance, the best placement, and the "
        "published gains.",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    _common(parser, _colloid)


def _common(parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument(
        "--parameters", action="store_true", help="print the parameters with their sources"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write a picture (needs matplotlib): .png, .svg, .pdf"
    )
    parser.set_defaults(main=main)


def _cori(args: argparse.Namespace) -> int:
    if args.parameters:
        print(cori.stated())
        return 0
    if args.output:
        pictures.check(args.output)
    names = args.trace or ["sqlite"]
    sources = [given(name) for name in names]
    sweeps = []
    with progress() as show:
        for source in sources:
            with stored(source) as trace:
                sweeps += [
                    cori.study(trace, name=Path(source).stem, known=known, progress=show)
                    for known in (False, True)
                ]
    print(cori.report(sweeps))
    if args.output:
        pictures.draw(
            lambda: save_picture(cori_pictures.periods(sweeps), args.output, dpi=90), args.output
        )
    return 0


def _colloid(args: argparse.Namespace) -> int:
    if args.parameters:
        print(colloid.stated())
        return 0
    if args.output:
        pictures.check(args.output)
    with progress() as show:
        points = colloid.study(seed=args.seed, progress=show)
    print(colloid.report(points))
    if args.output:
        pictures.draw(
            lambda: save_picture(colloid_pictures.contention(points), args.output, dpi=90),
            args.output,
        )
    return 0
