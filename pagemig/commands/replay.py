"""``pagemig replay``: one plan under several policies, as a table, words and pictures."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

from pagemig import auto
from pagemig.kernels import DEFAULT_KERNEL
from pagemig.report import FORMATS, MissingError, save, save_page, save_picture
from pagemig.studies import pictures
from pagemig.studies.progress import progress
from pagemig.studies.replay import Conditions, Plan
from pagemig.studies.results import Comparison
from pagemig.trace import Runs, shipped, stored

from .trace import given

__all__ = ["add_parser", "hardware_of", "plan_arguments"]

DEFAULT_TRACE = "sqlite"
DEFAULT_POLICIES = "first-touch,interleave,most-used,hemem,tpp"


def add_parser(subparsers: Any) -> None:
    """Add ``replay`` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "replay",
        help="replay a program's trace under several policies, beside the optimum",
        description="Replay the page accesses of a program on a machine whose fast node is smaller "
        "than the program, under several policies, and compare them with each other and with the "
        "optimum.",
    )
    known = ", ".join(shipped())
    parser.add_argument(
        "trace",
        nargs="*",
        help=f"traces to run at once: files, or of those shipped: {known} "
        f"(default: {DEFAULT_TRACE})",
    )
    parser.add_argument(
        "--policies",
        default=DEFAULT_POLICIES,
        help="comma-separated; the others are compared with the first. "
        f"{', '.join(auto.POLICIES)}, or module:Class for your own; parameters in parentheses, "
        "as hemem(period=50) (default: %(default)s)",
    )
    plan_arguments(parser)
    parser.add_argument(
        "--fast-share",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="size of the fast nodes, as a share of the program's pages (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=int, default=200, metavar="N", help="number of epochs (default: 200)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything that is drawn (default: 0)"
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="FILE",
        help="write a picture (.png, .svg, .pdf), a report with all pictures (.html), or the "
        "numbers (.csv, .json, .parquet); may be given several times",
    )
    parser.add_argument(
        "--no-bound", action="store_true", help="do not compute the optimum, which takes seconds"
    )
    parser.set_defaults(main=_main)


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe a machine and its use."""
    parser.add_argument(
        "--machine",
        default=auto.DEFAULT_MACHINE,
        help=f"one of {', '.join(auto.machines())}, or a TOML file (default: %(default)s)",
    )
    names = [price.name for price in fields(auto.Prices)]
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=X",
        help="change a number of the machine: local_ns, remote_ns, slow_ns, " + ", ".join(names),
    )
    parser.add_argument(
        "--fast-nodes", type=int, metavar="N", help="nodes like the first (default: as it has)"
    )
    parser.add_argument(
        "--rotate",
        type=int,
        default=0,
        metavar="N",
        help="after every N epochs a program goes to the next node with processors",
    )
    parser.add_argument(
        "--kernel", default=DEFAULT_KERNEL, help="the modelled kernel (default: %(default)s)"
    )
    parser.add_argument(
        "--overlap",
        type=float,
        default=1.0,
        metavar="M",
        help="accesses of a program in flight at once (default: 1)",
    )
    parser.add_argument(
        "--processors",
        type=int,
        default=1,
        metavar="N",
        help="processors that a program runs on; a flush interrupts them all (default: 1)",
    )


def hardware_of(args: argparse.Namespace) -> auto.Hardware:
    """Return the machine that was asked for."""
    numbers = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"--set takes NAME=X, not {text!r}")
    return auto.hardware(args.machine).changed(**numbers)


def _main(args: argparse.Namespace) -> int:
    names = args.trace or [DEFAULT_TRACE]
    outputs = [Path(name) for name in args.output]
    for output in outputs:
        _check(output)
    policies = auto.split(args.policies)
    made = [auto.policy(policy) for policy in policies]
    hardware = hardware_of(args)
    with ExitStack() as stack:
        traces = [stack.enter_context(stored(given(name))) for name in names]
        _replay(args, names, hardware, policies, made, traces, outputs)
    return 0


def _replay(
    args: argparse.Namespace,
    names: Sequence[str],
    hardware: auto.Hardware,
    policies: Sequence[str],
    made: Sequence[auto.Policy],
    traces: Sequence[Runs],
    outputs: Sequence[Path],
) -> None:
    """Run the policies, and print and write the results."""
    plan = Plan(
        traces,
        machine=hardware,
        fast_share=args.fast_share,
        fast_nodes=args.fast_nodes,
        kernel=args.kernel,
        epochs=args.epochs,
        rotate=args.rotate,
        conditions=Conditions(overlap=args.overlap, processors=args.processors),
        names=[Path(name).stem for name in names],
    )
    plan.conditions.price(auto.Traffic.none(1, 1, len(plan.hardware.nodes)), plan.hardware)
    introduction = "\n".join([*_introduction(plan), *_policies(policies, made)])
    print(introduction, end="\n\n", flush=True)
    started = time.perf_counter()
    with progress() as show:
        runs = [plan.run(policy, seed=args.seed, progress=show) for policy in policies]
    seconds = time.perf_counter() - started
    comparison = Comparison(runs, bounded=not args.no_bound)
    text = "\n".join(_text(comparison))
    print(text)
    print(f"Replayed {len(runs) * plan.accesses:,} accesses in {seconds:.1f} s.")
    for output in outputs:
        _write(output, comparison, introduction, text)


def _check(output: Path) -> None:
    """Refuse a file that cannot be written, before any work is done for it."""
    if output.suffix not in (*FORMATS, ".html"):
        pictures.check(output, others=(*FORMATS, ".html"))
    elif not output.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(output.parent)!r} for {output.name}")


def _text(comparison: Comparison) -> Iterator[str]:
    """Return the table, its explanation, and the verdict."""
    yield comparison.table()
    yield (
        f"ms are memory time, modelled: accesses wait {_each(comparison)}. The gain is against "
        f"{comparison.base.name} (-), after paying for statistics and moves."
    )
    if any(run.oracle for run in comparison.runs):
        yield "* an oracle: it sees what no machine can, and shows the value of better statistics."
    best = comparison.bound()
    if best is not None:
        yield (
            "optimum: no policy can be below it, even one that knows the future; a placement was "
            f"found that reaches it within {best.gap:.2%}."
        )
    programs = comparison.programs()
    if programs:
        yield f"\n{programs}"
    yield ""
    yield from comparison.verdict()


def _each(comparison: Comparison) -> str:
    overlap = comparison.plan.conditions.overlap
    return "one by one" if overlap == 1 else f"{overlap:g} at a time"


def _introduction(plan: Plan) -> Iterator[str]:
    """Say what is replayed, and on what."""
    for program in plan.programs:
        trace, header = program.trace, program.trace.header
        yield (
            f"{program.name}: {header.program or 'unnamed'}; {trace.accesses:,} accesses to "
            f"{trace.footprint:,} pages ({trace.footprint / 256:.1f} MiB)"
        )
        if header.cache:
            yield (
                f"  the program made {header.references:,}; these are the ones that a cache of "
                f"{header.cache >> 10} KiB did not serve"
            )
    room = plan.room.tolist()
    nodes = ", ".join(
        f"{name} {pages / 256:.1f} MiB ({plan.hardware.latency[0, nid]:g} ns)"
        for nid, (name, pages) in enumerate(zip(plan.hardware.nodes, room, strict=True))
    )
    yield f"machine: {plan.hardware.title}; Linux {plan.kernel}; {nodes}"
    each = plan.accesses / plan.epochs
    fast, slow = (
        each * plan.hardware.latency[0, nid] / plan.conditions.overlap / 1e3 for nid in (0, -1)
    )
    yield (
        f"epochs: {plan.epochs} of {each:,.0f} accesses, {fast:,.0f} us each if all were fast, "
        f"{slow:,.0f} us if all were slow"
    )


def _policies(names: Sequence[str], made: Sequence[auto.Policy]) -> Iterator[str]:
    """Say in a line what each policy is."""
    for name, policy in zip(names, made, strict=True):
        yield f"{name}{' *' * auto.is_oracle(policy)}: {auto.described(policy)}"


def _write(output: Path, comparison: Comparison, introduction: str, text: str) -> None:
    """Write one file, or say what is missing."""
    title = ", ".join(
        program.trace.header.program or program.name for program in comparison.plan.programs
    )
    try:
        if output.suffix in FORMATS:
            save(comparison.rows(), output)
        else:
            from pagemig.studies import replay_pictures as draw

            if output.suffix == ".html":
                parts: list[tuple[str, str | bytes]] = [("", introduction), ("Results", text)]
                parts += draw.drawn(comparison, title)
                save_page(title, parts, output)
            else:
                save_picture(draw.residency(comparison, title=title), output)
    except MissingError as error:
        print(f"No {output.name}: {error}")
    else:
        print(f"Written: {output}")
