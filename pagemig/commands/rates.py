"""``pagemig rates``: migration rates of N processors at once, beside published figures."""

import argparse
from typing import Any

from pagemig.studies import pictures, rates
from pagemig.studies.rates_pictures import rates as draw_rates

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Add ``rates`` to the commands."""
    parser = subparsers.add_parser(
        "rates",
        help="migration rates of N processors at once, beside published figures",
        description="Replay the recorded lock order of each engine on N virtual processors, and "
        "print the rates beside those of the note of 2006 and those published for today's kernels.",
    )
    parser.add_argument(
        "--parameters", metavar="FILE", help="costs of your own, in the format of data/rates.toml"
    )
    parser.add_argument(
        "--pages",
        type=int,
        default=rates.PAGES,
        metavar="N",
        help="the least number of pages that each processor moves (default: %(default)s)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--costs", action="store_true", help="print the parameters, not the rates")
    instead.add_argument(
        "--fit", action="store_true", help="repeat the fit to the note, and print no rates"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write a picture (needs matplotlib): .png, .svg, .pdf"
    )
    parser.set_defaults(main=_main)


def _main(args: argparse.Namespace) -> int:
    """Run ``pagemig rates``."""
    if args.pages < 1:
        raise ValueError(f"--pages must be at least 1, not {args.pages}")
    if args.output:
        if args.fit or args.costs:
            raise ValueError(f"--output {args.output}: --fit and --costs have no picture")
        pictures.check(args.output)
    parameters = rates.load(args.parameters)
    if args.fit or args.costs:
        print(rates.fitted(parameters) if args.fit else rates.costs(parameters))
        return 0
    text, drawn = rates.report(parameters, args.pages)
    print(text)
    if args.output:
        pictures.draw(lambda: draw_rates(drawn, parameters.note, args.output), args.output)
    return 0
