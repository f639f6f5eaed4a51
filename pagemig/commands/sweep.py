"""``pagemig sweep``: for which sizes and periods a policy helps, and for which it hurts."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from pagemig import auto
from pagemig.kernels import DEFAULT_KERNEL
from pagemig.report import FORMATS, MissingError, save, save_page, save_picture, table
from pagemig.studies import pictures
from pagemig.studies.progress import progress
from pagemig.studies.sweep import Grid, helps, sweep, verdict

__all__ = ["add_parser"]

T = TypeVar("T")

_SHARES = "0.1,0.25,0.5,0.75"
_EPOCHS = "20,50,100,200,500"


def add_parser(subparsers: Any) -> None:
    """Add ``sweep`` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "sweep",
        help="replay traces under many sizes and periods: where a policy helps, where it hurts",
        description="Replay traces under every combination of machines, sizes, periods, policies "
        "and seeds, and say where each policy helps and where it hurts.",
    )
    parser.add_argument("trace", nargs="*", help="traces (default: sqlite); joined by +, at once")
    parser.add_argument(
        "--policies",
        default="first-touch,most-used,hemem,tpp",
        help="comma-separated; the others are compared with the first (default: %(default)s)",
    )
    parser.add_argument(
        "--machines",
        default=auto.DEFAULT_MACHINE,
        help="comma-separated, as for pagemig replay (default: %(default)s)",
    )
    parser.add_argument(
        "--fast-shares",
        default=_SHARES,
        help="sizes of the fast memory, as shares of the pages (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", default=_EPOCHS, help="numbers of epochs in a trace (default: %(default)s)"
    )
    parser.add_argument("--seeds", default="0", help="comma-separated (default: %(default)s)")
    parser.add_argument(
        "--overlaps", default="1", help="accesses in flight at once (default: %(default)s)"
    )
    parser.add_argument(
        "--kernel", default=DEFAULT_KERNEL, help="the modelled kernel (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes to use (default: %(default)s)",
    )
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="run on a cluster: the address of its scheduler"
    )
    parser.add_argument(
        "--resume", metavar="FILE", help="save finished points here, and skip those already in it"
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="FILE",
        help="write pictures (.png, .svg, .pdf, .html) or rows (.csv, .json, .parquet)",
    )
    parser.add_argument("--no-bound", action="store_true", help="leave the optimum out")
    parser.set_defaults(main=_main, kept=_kept)


def _kept(args: argparse.Namespace) -> str:
    if args.resume:
        return f"finished points are in {args.resume}, and the same command goes on from there"
    return "nothing is kept; with --resume FILE finished points are, and the same command goes on"


def _main(args: argparse.Namespace) -> int:
    outputs = [Path(name) for name in args.output]
    for output in outputs:
        if output.suffix not in (*FORMATS, ".html"):
            pictures.check(output, others=(*FORMATS, ".html"))
        elif not output.parent.is_dir():
            raise FileNotFoundError(f"no directory {str(output.parent)!r} for {output.name}")
    if args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs} is not at least 1")
    grid = Grid(
        traces=args.trace or ["sqlite"],
        policies=auto.split(args.policies),
        machines=[name.strip() for name in args.machines.split(",")],
        fast_shares=_list("--fast-shares", args.fast_shares, float),
        epochs=_list("--epochs", args.epochs, int),
        seeds=_list("--seeds", args.seeds, int),
        overlaps=_list("--overlaps", args.overlaps, float),
        kernel=args.kernel,
        bounded=not args.no_bound,
    )
    with _executor(args) as executor, progress() as show:
        rows = sweep(grid, executor, resume=args.resume, progress=show)
    text = "\n\n".join([_tables(rows), "\n".join(verdict(rows))])
    print(text)
    for output in outputs:
        try:
            _write(output, rows, text)
        except MissingError as error:
            print(f"No {output.name}: {error}")
        else:
            print(f"Written: {output}")
    return 0


def _list(option: str, text: str, kind: Callable[[str], T]) -> list[T]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} takes numbers separated by commas, not {text!r}") from None


def begin_worker() -> None:
    """Prepare a worker, which is the command's to end: by itself it ends only with the command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches workers, too
    command = parent_process()
    if command is not None:
        threading.Thread(target=_end_with, args=(command.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process when another one has ended, whatever is under way."""
    wait([sentinel])
    os._exit(1)


@contextmanager
def _executor(args: argparse.Namespace) -> Iterator[Executor | None]:
    """Choose what runs the tasks."""
    if args.dask:
        try:
            from distributed import Client
        except ImportError:
            raise ValueError(
                "--dask needs distributed, which is not installed: pip install 'pagemig[dask]'"
            ) from None
        connect: Any = Client
        with connect(args.dask) as client, client.get_executor() as executor:
            yield executor
    elif args.jobs == 1:
        yield None
    else:
        # A fork of a process with threads may hang; a fresh one also imports what it needs.
        executor = ProcessPoolExecutor(
            args.jobs,
            mp_context=get_context("spawn"),
            initializer=begin_worker,
        )
        try:
            yield executor
        except BaseException:
            # Nobody waits for the tasks, which may take minutes. The pool's own thread fails over
            # those that were cancelled before their workers ended, which is nobody's concern.
            hook, threading.excepthook = threading.excepthook, lambda _: None
            try:
                for worker in active_children():
                    worker.terminate()
                executor.shutdown()
            finally:
                threading.excepthook = hook
            raise
        executor.shutdown()


def _tables(rows: list[dict[str, Any]]) -> str:
    """Show the gain in per cent by size (down) and period (across), a table for each policy."""
    parts = []
    names = dict.fromkeys((r["trace"], r["machine"], r["policy"]) for r in rows)
    for trace, machine, policy in names:
        own = [row for row in rows if row["trace"] == trace and row["machine"] == machine]
        if policy == own[0]["base"]:
            continue
        points = {(share, epochs): gain for share, epochs, gain in helps(own, policy)}
        shares = sorted({share for share, _ in points})
        periods = sorted({epochs for _, epochs in points})
        body = [(f"{s:g}", *(100 * points[s, e] for e in periods)) for s in shares]
        head = ("size", *(f"{e} epochs" for e in periods))
        parts.append(
            f"{policy}, {trace}, {machine}: gain in % against {own[0]['base']}\n"
            + table(body, head, head[1:])
        )
    return "\n\n".join(parts)


def _write(output: Path, rows: list[dict[str, Any]], text: str) -> None:
    if output.suffix in FORMATS:
        save(rows, output)
        return
    from pagemig.studies import sweep_pictures as draw

    if output.suffix == ".html":
        parts: list[tuple[str, str | bytes]] = [("", text), *draw.drawn(rows)]
        save_page("Where automatic migration helps", parts, output)
    else:
        save_picture(draw.heat(rows), output)
