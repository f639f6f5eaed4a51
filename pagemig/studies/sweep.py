"""Sweeps: traces x machines x sizes x periods x policies x seeds, on any number of workers.

A point of a sweep is one run; its result is one row. Points that share trace, machine, size and
period share one plan and one optimum, so they run together as one task. Tasks go to any
`concurrent.futures.Executor`: threads, processes, or a cluster through
``distributed.Client(...).get_executor()``. Finished rows are written to a file of JSON lines at
once, so an interrupted sweep continues where it stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pagemig import __version__, auto
from pagemig.kernels import DEFAULT_KERNEL
from pagemig.trace import Runs, TraceFile, as_file, find

from .programs import trace_hash
from .replay import Conditions, Plan
from .results import Comparison

__all__ = ["Grid", "helps", "sweep", "verdict"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """The points of a sweep: every combination of these.

    Attributes
    ----------
    traces : sequence of str
        Names or files, as `pagemig.trace.find` takes them; programs that run at once are joined by
        ``+``. Workers read the files, so all machines of a cluster need them.
    policies : sequence of str
        As for `pagemig.auto.policy`; the others are compared with the first.
    machines : sequence of str
        As for `pagemig.auto.hardware`.
    fast_shares : sequence of float
        Sizes of the fast nodes.
    epochs : sequence of int
        Periods, as numbers of epochs that the trace is cut into.
    seeds : sequence of int
        Seeds of everything that is drawn.
    overlaps : sequence of float
        Accesses in flight at once; each run has a row for each.
    kernel : str
        The modelled kernel.
    changes : sequence of (str, float)
        Changed numbers of the machines (`Hardware.changed`).
    bounded : bool or "first"
        Whether rows have the optimum, which takes longer than a run; ``"first"``: only those of the
        first overlap.
    """

    traces: Sequence[str]
    policies: Sequence[str]
    machines: Sequence[str] = (auto.DEFAULT_MACHINE,)
    fast_shares: Sequence[float] = (0.25,)
    epochs: Sequence[int] = (200,)
    seeds: Sequence[int] = (0,)
    overlaps: Sequence[float] = (1.0,)
    kernel: str = DEFAULT_KERNEL
    changes: Sequence[tuple[str, float]] = ()
    bounded: bool | Literal["first"] = True

    def __post_init__(self) -> None:
        """Refuse invalid points before any of them runs."""
        for name in (
            "traces",
            "policies",
            "machines",
            "fast_shares",
            "epochs",
            "seeds",
            "overlaps",
        ):
            if isinstance(getattr(self, name), str) or not list(getattr(self, name)):
                raise ValueError(f"{name} must be a list with at least one entry")
        for trace in self.traces:
            for name in trace.split("+"):
                find(name)
        for policy in self.policies:
            if not isinstance(policy, str):
                raise ValueError(
                    f"policies of a sweep are names, which workers can read: {policy!r}"
                )
            auto.policy(policy)
        for machine in self.machines:
            auto.hardware(machine).changed(**dict(self.changes))

    def tasks(self) -> Iterator[dict[str, Any]]:
        """Yield the tasks: all policies and seeds on one plan."""
        for trace, machine, share, epochs in itertools.product(
            self.traces, self.machines, self.fast_shares, self.epochs
        ):
            yield {
                "trace": trace,
                "machine": os.fspath(machine),
                "fast_share": share,
                "epochs": epochs,
                "policies": list(self.policies),
                "seeds": list(self.seeds),
                "overlaps": list(self.overlaps),
                "kernel": self.kernel,
                "changes": [list(change) for change in self.changes],
                "bounded": self.bounded,
                "version": __version__,
            }


def _keys(tasks: Sequence[dict[str, Any]]) -> list[str]:
    """Name tasks: tasks that give the same rows have the same name, in any run."""
    names = dict.fromkeys(name for task in tasks for name in task["trace"].split("+"))
    hashes = {}
    for name in names:
        with _opened(name) as trace:
            hashes[name] = trace_hash(trace)
    return [_key(task, [hashes[name] for name in task["trace"].split("+")]) for task in tasks]


def _key(task: dict[str, Any], hashes: list[str]) -> str:
    text = json.dumps([task, hashes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Kept:
    """The ``.pmt`` file of a trace; one in another format is converted once for all tasks."""

    def __init__(self, path: Path) -> None:
        stack = ExitStack()
        self.path = stack.enter_context(as_file(path))
        weakref.finalize(self, stack.close)


@lru_cache(maxsize=4)
def _kept(path: Path, size: int, changed: int) -> _Kept:
    return _Kept(path)


@contextmanager
def _opened(name: str) -> Iterator[TraceFile]:
    """Open a trace for one task: tasks may be threads, and each needs its own place in the file."""
    path = find(name)
    facts = path.stat()
    # This reference keeps the file while it is read, even if it leaves the cache.
    kept = _kept(path, facts.st_size, facts.st_mtime_ns)
    with TraceFile(kept.path, name=name) as trace:
        yield trace


def run_task(task: dict[str, Any]) -> list[Row]:
    """Run one task, as workers do.

    Parameters
    ----------
    task : dict
        A task of `Grid.tasks`.

    Returns
    -------
    list of dict
        A row for each policy, seed and overlap (`Comparison.row`).
    """
    names = task["trace"].split("+")
    with ExitStack() as stack:
        traces = [stack.enter_context(_opened(name)) for name in names]
        return list(_rows(task, names, traces))


def _rows(task: dict[str, Any], names: Sequence[str], traces: Sequence[Runs]) -> Iterator[Row]:
    """Run a task on open traces."""
    machine = auto.hardware(task["machine"]).changed(**dict(task["changes"]))
    plan = Plan(
        traces,
        machine=machine,
        fast_share=task["fast_share"],
        epochs=task["epochs"],
        kernel=task["kernel"],
        conditions=Conditions(overlap=task["overlaps"][0]),
        names=[Path(name).stem for name in names],
    )
    first, *others = task["policies"]
    bounds: Comparison | None = None
    for seed in task["seeds"]:
        runs = [plan.run(policy, seed=seed) for policy in (first, *others)]
        compared = Comparison(runs, bounded=bool(task["bounded"]))
        if bounds is not None and not any(run.background for run in runs):
            compared.share_bounds(bounds)  # the optimum does not depend on the seed
        bounds = compared
        for run in runs:
            for number, overlap in enumerate(task["overlaps"]):
                yield compared.row(run, overlap, bounded=task["bounded"] is True or not number)


def sweep(
    grid: Grid,
    executor: Executor | None = None,
    *,
    resume: str | os.PathLike[str] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> list[Row]:
    """Run all points of a grid.

    Parameters
    ----------
    grid : Grid
        The points.
    executor : concurrent.futures.Executor, optional
        Runs the tasks; this thread unless given. The caller shuts it down.
    resume : path-like, optional
        A file of JSON lines to which each finished task is added. Tasks that are already in it are
        not run again; a line that was cut off or damaged is ignored, and its task run again.
    progress : callable, optional
        Called with a name and the share of tasks that are done.

    Returns
    -------
    list of dict
        Rows in the order of the grid; ``pandas.DataFrame(rows)`` makes a table.

    Raises
    ------
    ValueError
        A task could not be run; finished tasks stay in ``resume``.
    """
    tasks = list(grid.tasks())
    keys = _keys(tasks)
    done = {} if resume is None else _read(Path(resume))
    todo = [(key, task) for key, task in zip(keys, tasks, strict=True) if key not in done]
    for number, (key, rows) in enumerate(_run(todo, executor), start=1):
        done[key] = rows
        if resume is not None:
            _append(Path(resume), key, rows)
        if progress is not None:
            progress("sweep", (len(tasks) - len(todo) + number) / len(tasks))
    return [row for key in keys for row in done[key]]


def _run(
    todo: Sequence[tuple[str, dict[str, Any]]], executor: Executor | None
) -> Iterator[tuple[str, list[Row]]]:
    """Run tasks and yield their rows as they finish."""
    if executor is None:
        for key, task in todo:
            yield key, run_task(task)
        return
    futures = {executor.submit(run_task, task): key for key, task in todo}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        for future in futures:
            future.cancel()


def _checksum(key: str, rows: list[Row]) -> int:
    """Sum up what a file says of a task."""
    return zlib.crc32(json.dumps([key, rows]).encode())


def _read(path: Path) -> dict[str, list[Row]]:
    """Return the finished tasks of a file."""
    done = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                key, rows = entry["task"], entry["rows"]
                if entry["crc32"] == _checksum(key, rows):
                    done[key] = rows
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # cut off when a sweep was interrupted, or damaged
    return done


def _append(path: Path, key: str, rows: list[Row]) -> None:
    """Add a task to a file, after a newline if the last line was cut off."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        torn = False
        if size:
            file.seek(size - 1)
            torn = file.read(1) != b"\n"
        line = json.dumps({"task": key, "rows": rows, "crc32": _checksum(key, rows)}) + "\n"
        file.write(b"\n" * torn + line.encode())
        file.flush()
        os.fsync(file.fileno())


# ---- what it says -----------------------------------------------------------------------------


def helps(rows: Iterable[Row], policy: str) -> list[tuple[float, int, float]]:
    """Return size, period and gain of a policy's points, averaged over seeds and overlaps.

    Returns
    -------
    list of (float, int, float)
        Fast share, epochs, mean gain; ascending.
    """
    found: dict[tuple[float, int], list[float]] = {}
    for row in rows:
        if row["policy"] == policy:
            found.setdefault((row["fast_share"], row["epochs"]), []).append(row["gain"])
    return [(share, epochs, sum(g) / len(g)) for (share, epochs), g in sorted(found.items())]


def verdict(rows: Sequence[Row]) -> Iterator[str]:
    """Say for each trace, machine and policy over which sizes and periods it helps and hurts.

    Yields
    ------
    str
        A sentence for each except the base.
    """
    names: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["policy"] != row["base"]:
            names.setdefault((row["trace"], row["machine"], row["policy"]), []).append(row)
    for (trace, machine, policy), own in names.items():
        points = helps(own, policy)
        good = [point for point in points if point[2] > 0]
        bad = [point for point in points if point[2] <= 0]
        words = f"{policy} on {trace}, {machine}: "
        if not bad:
            words += f"helps at all {len(points)} points"
        elif not good:
            words += f"helps at none of {len(points)} points"
        else:
            words += f"helps at {_where(good)}, hurts at {_where(bad)}"
        best = max(points, key=lambda point: point[2])
        worst = min(points, key=lambda point: point[2])
        words += (
            f"; from {100 * worst[2]:+.1f} % (size {worst[0]:g}, {worst[1]} epochs) to "
            f"{100 * best[2]:+.1f} % (size {best[0]:g}, {best[1]} epochs)"
        )
        possible = [row["possible"] for row in own if row["possible"] is not None]
        if possible:
            words += f", {100 * max(possible):.0f} % of the possible at best"
        yield words + "."


def _where(points: Sequence[tuple[float, int, float]]) -> str:
    """Describe the ranges of size and period of some points."""
    sizes = sorted({point[0] for point in points})
    periods = sorted({point[1] for point in points})
    size = f"size {sizes[0]:g}" + (f" to {sizes[-1]:g}" if len(sizes) > 1 else "")
    period = f"{periods[0]}" + (f" to {periods[-1]}" if len(periods) > 1 else "") + " epochs"
    return f"{len(points)} points ({size}, {period})"
