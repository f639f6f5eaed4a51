"""``pagemig live``: a policy at work on a process of this machine."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pagemig import auto, live

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Add ``live`` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "live",
        help="let a policy move the pages of a process of this machine",
        description="Let a policy decide where the pages of a running process go, and move them. "
        "Without a process, print the nodes of this machine and what its kernel reports about "
        "accesses.",
        usage="pagemig live [options] --pid PID\n"
        "       pagemig live [options] -- PROGRAM [ARGS ...]\n"
        "       pagemig live",
    )
    parser.add_argument(
        "command", nargs="*", metavar="PROGRAM", help="the program to run, after --"
    )
    parser.add_argument("--pid", type=int, metavar="PID", help="the running process")
    parser.add_argument(
        "--policy",
        default="age",
        help="as for pagemig replay, if it needs only accessed bits, hint faults or regions "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--period",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="length of an epoch (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=int, default=10, metavar="N", help="number of epochs (default: 10)"
    )
    parser.add_argument(
        "--scans",
        type=int,
        metavar="N",
        help="scans in an epoch (default: as often as the policy's regions sample, or once)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be moved")
    parser.add_argument(
        "--imagine",
        metavar="MACHINE",
        help="place and move the pages on paper, on a machine as for pagemig replay: "
        f"{', '.join(auto.machines())}, or a TOML file",
    )
    parser.add_argument(
        "--fast-share",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="size of the imagined machine's first node, as a share of the process's pages "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything that is drawn (default: 0)"
    )
    parser.set_defaults(main=_main, kept=_kept)


def _kept(args: argparse.Namespace) -> str:
    if args.dry_run or args.imagine:
        return "no page was moved"
    return "pages that were moved stay where they are, and the same command starts anew"


def _main(args: argparse.Namespace) -> int:
    if args.command and args.pid is not None:
        raise ValueError("give --pid or -- PROGRAM ARGS, not both")
    print(live.topology())
    if args.pid == 0 or (not args.command and args.pid is None):
        print(f"this kernel reports {live.Sight.of(live.Process())}")
        return 0
    with _process(args) as process:
        show = _Table()
        done = live.run(
            args.policy,
            process,
            period=args.period,
            epochs=args.epochs,
            scans=args.scans,
            dry_run=args.dry_run,
            imagine=args.imagine,
            fast_share=args.fast_share,
            seed=args.seed,
            told=lambda tells: print(f"this kernel reports {tells}", flush=True),
            report=show,
        )
    print(_sum(done, args))
    return 0


@contextmanager
def _process(args: argparse.Namespace) -> Iterator[live.Process]:
    """Yield the process that was named, or start one, which is ended afterwards."""
    if args.pid is not None:
        yield live.Process(args.pid)
        return
    with subprocess.Popen(args.command) as child:
        try:
            yield live.Process(child.pid)
        finally:
            child.terminate()


class _Table:
    """A line for each epoch, under a head."""

    _HEAD = ("epoch", "pages", "accessed", "written", "near %", "asked", "moved")

    def __init__(self) -> None:
        self.headed = False

    def __call__(self, epoch: live.Epoch) -> None:
        near = 100 * epoch.near / epoch.accessed if epoch.accessed else None
        row: list[object] = [
            epoch.number,
            epoch.pages,
            epoch.accessed,
            epoch.written,
            near,
            epoch.asked,
            epoch.moved,
            " ".join(str(pages) for pages in epoch.per_node),
        ]
        notes = [f"{amount} {name}" for name, amount in epoch.refused.items()]
        notes += ["the policy starts"] * epoch.began
        print(self._line(row, ", ".join(notes)), flush=True)

    def _line(self, row: list[object], note: str) -> str:
        head = [*self._HEAD, "on each node"]
        widths = [max(len(name), 8) for name in head]
        cells = ["-" if x is None else f"{x:.1f}" if isinstance(x, float) else str(x) for x in row]
        lines = [] if self.headed else [_joined(head, widths)]
        self.headed = True
        return "\n".join([*lines, f"{_joined(cells, widths)}  {note}".rstrip()])


def _joined(cells: list[str], widths: list[int]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _sum(done: list[live.Epoch], args: argparse.Namespace) -> str:
    """Sum the epochs up in a sentence."""
    asked, moved = sum(e.asked for e in done), sum(e.moved for e in done)
    if not done:
        return "The process ended before the first epoch."
    words = f"{len(done)} epochs: {asked:,} moves asked for, "
    if args.imagine:
        words += f"{moved:,} made on paper"
    elif args.dry_run:
        words += "none made (dry run)"
    else:
        words += f"{moved:,} made"
    return words + ("." if len(done) == args.epochs else "; the process ended.")
