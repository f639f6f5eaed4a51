"""``pagemig replay``: a program's accesses under several placements, and what each costs.

The pages of a trace are placed on a machine that has a fast node with the processors, smaller than
the program, and a slow node without processors (`machine_for`). The accesses run through the
modelled kernel, epoch by epoch. Under *first touch* and *interleave* pages stay where they fell;
under an automatic policy (`pagemig.auto`) an agent, a process of its own as the tools of 2006 were,
looks at the access counts after every epoch and moves pages with `move_pages`.

What the accesses cost is modelled from where the pages were, what the moves cost from the calls and
pages (`Costs`). Everything is charged to the program: accesses wait for memory one by one, and the
program stands still while the agent works. Both make a figure worst case, and the statistics come
for free; see `Costs` for what each number stands for.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemig import auto
from pagemig.constants import MPOL_MF_MOVE, PAGE_SHIFT, PAGE_SIZE, STATUS_UNSET
from pagemig.errors import SyscallError, errno_name
from pagemig.kernels import DEFAULT_KERNEL
from pagemig.policy import Default, Interleave, Policy
from pagemig.report import table
from pagemig.studies import pictures
from pagemig.system.machine import Machine, Node
from pagemig.system.process import Process
from pagemig.trace import Trace, find, load, shipped

__all__ = [
    "Costs",
    "Run",
    "add_parser",
    "compare",
    "machine_for",
    "replay",
    "report",
    "verdict",
]


#: Limits of what a person may ask for: beyond them it is a slip, or longer than anyone waits.
_SMALLEST = 1e-3
_LARGEST = 1e9
_MOST_SHARE = 1000
_MOST_EPOCHS = 100_000


@dataclass(frozen=True)
class Costs:
    """What things cost. Times in the unit of the name, with where the defaults come from.

    Attributes
    ----------
    local_ns : float
        An access to the processor's own node. 81: Intel MLC 3.10, random reads on a two-socket
        Cascade Lake.
    remote_ns : float
        An access to another node with processors. 141: the same run, other socket.
    slow_ns : float
        An access to a node without processors. 250: between the 150 that Pond (ASPLOS'23) takes
        for memory behind CXL and the 350 reported for Optane; not a measurement of one device.
    call_us : float
        One `move_pages` call, whatever it moves. 25: Linux 6.18 in a two-CPU guest, 25-48 seen; it
        grows with the number of processors.
    page_us : float
        One page, without flush and copy. 0.7: derived for two Zen 3 under 6.16 (1.10 in all, about
        0.4 of it copy); 1.45 under 6.8 at 2 GHz.
    flush_us : float
        One flush of the program's processor, which is not the agent's. 0.7 a round in the guest.
        Kernels to 6.2 flush once a page, later ones once in 512.
    copy_gbs : float
        Bandwidth of the copy, GB/s. 10: two Zen 3 (10-16), one thread.
    """

    local_ns: float = field(default=81.0, metadata={"help": "access to the own node"})
    remote_ns: float = field(default=141.0, metadata={"help": "access to another fast node"})
    slow_ns: float = field(default=250.0, metadata={"help": "access to the slow node"})
    call_us: float = field(default=25.0, metadata={"help": "one move_pages call"})
    page_us: float = field(default=0.7, metadata={"help": "one page moved, without flush and copy"})
    flush_us: float = field(default=0.7, metadata={"help": "one TLB flush"})
    copy_gbs: float = field(default=10.0, metadata={"help": "bandwidth of the copy, GB/s"})

    def __post_init__(self) -> None:
        """Refuse what is no time and no bandwidth."""
        for cost in fields(self):
            value = getattr(self, cost.name)
            least = 0.0 if cost.name.endswith("_us") else _SMALLEST
            if not least <= value <= _LARGEST:
                raise ValueError(f"{cost.name} must be from {least:g} to {_LARGEST:g}, not {value}")

    def latency(self, machine: Machine) -> NDArray[np.float64]:
        """Nanoseconds of an access from the row's node to the memory of the column's."""
        cpus = np.array([node.cpus for node in machine.nodes])
        table = np.where(cpus[np.newaxis] > 0, self.remote_ns, self.slow_ns)
        table = np.broadcast_to(table, (cpus.size, cpus.size)).copy()
        np.fill_diagonal(table, np.where(cpus > 0, self.local_ns, self.slow_ns))
        return table

    def moving_ns(self, calls: int, pages: int, batch: int) -> float:
        """Nanoseconds of calls that moved pages, flushed ``batch`` at a time."""
        copy_ns = pages * PAGE_SIZE / self.copy_gbs
        flushes = -(-pages // batch)
        rest_us = calls * self.call_us + pages * self.page_us + flushes * self.flush_us
        return rest_us * 1e3 + copy_ns


@dataclass
class Run:
    """What one placement came to; arrays have one entry per epoch.

    Attributes
    ----------
    name : str
        The placement.
    accesses : ndarray of int64, shape (epochs, nodes, nodes)
        Accesses from the processors of a node (second axis) to the memory of one (third).
    moved : ndarray of int64, shape (epochs,)
        Pages migrated after each epoch.
    residency : ndarray of int8, shape (epochs, pages)
        Node of each page at the end of each epoch, -1 for none; pages of all programs in order.
    refused : Counter
        Pages whose status was not the node asked for, by the name of the status.
    calls : int
        `move_pages` calls.
    access_ns : float
        Modelled time of all accesses.
    moving_ns : float
        Modelled time of all migration.
    seconds : float
        What the replay itself took.
    """

    name: str
    accesses: NDArray[np.int64]
    moved: NDArray[np.int64]
    residency: NDArray[np.int8]
    refused: Counter[str]
    calls: int = 0
    access_ns: float = 0.0
    moving_ns: float = 0.0
    seconds: float = 0.0

    @property
    def local_share(self) -> float:
        """Share of all accesses that stayed on the accessing processor's node."""
        return _local(self.accesses.sum(axis=0))

    @property
    def local_over_time(self) -> NDArray[np.float64]:
        """`local_share` of each epoch."""
        return np.array([_local(epoch) for epoch in self.accesses])

    @property
    def total_ns(self) -> float:
        """Modelled time, migration included."""
        return self.access_ns + self.moving_ns


def _local(accesses: NDArray[np.int64]) -> float:
    return float(np.trace(accesses) / max(int(accesses.sum()), 1))


def machine_for(
    traces: Sequence[Trace],
    *,
    fast_share: float = 0.25,
    fast_nodes: int | None = None,
    kernel: str = DEFAULT_KERNEL,
    costs: Costs | None = None,
) -> Machine:
    """Build the machine a replay runs on: fast nodes with a processor each, and one slow node.

    Parameters
    ----------
    traces : sequence of Trace
        The programs that are to run.
    fast_share : float, default 0.25
        Size of the fast nodes together, as a share of all pages of the programs.
    fast_nodes : int, optional
        How many; as many as programs unless given.
    kernel : str
        Its kernel.
    costs : Costs, optional
        Its latencies; node distances follow from them (10 is local).

    Returns
    -------
    Machine
        Nodes 0, 1, ... have one processor each; the last has none, and room for every page.
    """
    fast = len(traces) if fast_nodes is None else fast_nodes
    if not 0 < fast_share <= _MOST_SHARE:
        raise ValueError(f"fast_share {fast_share} is not above 0 and up to {_MOST_SHARE}")
    if not 1 <= fast <= 63:
        raise ValueError(f"fast_nodes {fast} is not from 1 to 63")
    pages = sum(trace.footprint for trace in traces)
    size = max(round(pages * fast_share / fast), 1)
    nodes = [Node(size << PAGE_SHIFT, cpus=1) for _ in range(fast)]
    nodes[0] = Node((size + 1) << PAGE_SHIFT, cpus=1)  # frame 0 is never given out
    nodes.append(Node(pages << PAGE_SHIFT))
    cost = costs or Costs()
    n = len(nodes)
    far = np.full((n, n), max(round(10 * cost.remote_ns / cost.local_ns), 11))
    far[-1] = far[:, -1] = max(round(10 * cost.slow_ns / cost.local_ns), 11)
    np.fill_diagonal(far, 10)
    return Machine(nodes, kernel=kernel, distances=np.minimum(far, 255), access_stats=True)


class _Program:
    """A trace and the process that replays it: page ``i`` of its table at ``base + 4096 * i``.

    The first access to a page is replayed as a write. What filled the page, the loader or a read
    from a file, is not in the trace, and anonymous memory that is read before it is written is the
    zero page, which all programs share and which lies on no node of theirs.
    """

    def __init__(self, trace: Trace, machine: Machine, cpu: int, policy: Policy, epochs: int):
        self.trace = replace(trace, write=trace.write.copy())
        self.trace.write[np.unique(trace.index, return_index=True)[1]] = True
        self.process: Process = machine.spawn(cpu=cpu)
        self.process.set_mempolicy(policy)
        self.base = self.process.mmap(trace.footprint << PAGE_SHIFT)
        self.parts = list(trace.epochs(epochs))
        self.pages = self.base + (np.arange(trace.footprint, dtype=np.uint64) << PAGE_SHIFT)
        self._counts = np.zeros((machine.nr_nodes, trace.footprint), np.uint32)
        self.machine = machine

    def run(self, epoch: int) -> NDArray[np.uint32]:
        """Replay one epoch; answers the accesses to each page from each node, (nodes, pages)."""
        if epoch < len(self.parts):
            index, write = self.trace.expand(*self.parts[epoch])
            result = self.process.access(self.pages[index], write=write)
            if result.signal:
                raise MemoryError(f"the replayed program got {result.signal} at {result.index}")
        before, self._counts = self._counts, self.counts()
        return self._counts - before

    def counts(self) -> NDArray[np.uint32]:
        """Accesses so far."""
        return self.process.access_counts(self.base, self.trace.footprint)

    def where(self) -> NDArray[np.int32]:
        """Node of each page, -1 for none."""
        return self.process.nodes(self.base, self.trace.footprint)


Progress = Callable[[str, float], None]


def replay(
    traces: Trace | Sequence[Trace],
    placement: str | auto.AutoPolicy,
    *,
    fast_share: float = 0.25,
    fast_nodes: int | None = None,
    kernel: str = DEFAULT_KERNEL,
    epochs: int = 200,
    rotate: int = 0,
    costs: Costs | None = None,
    progress: Progress | None = None,
) -> Run:
    """Run programs under one placement.

    Parameters
    ----------
    traces : Trace or sequence of Trace
        One program, or several at once, on the processors of the fast nodes in turn.
    placement : str or AutoPolicy
        ``"first-touch"``, ``"interleave"``, a name of `pagemig.auto.POLICIES`, ``module:Class``,
        or a policy: it sees the pages of all programs as one array.
    fast_share, fast_nodes, kernel
        As for `machine_for`.
    epochs : int, default 200
        Into how many parts of equally many accesses each program is cut.
    rotate : int, default 0
        After how many epochs the programs change processors, each going to the next fast node, as
        a scheduler that balances load might do; 0 for never.
    costs : Costs, optional
        What things cost.
    progress : callable, optional
        Called after every epoch with the placement's name and the share done.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        For a placement or a number that means nothing.
    MemoryError
        If the machine is too small.
    """
    programs_of = [traces] if isinstance(traces, Trace) else list(traces)
    if not programs_of or any(trace.runs == 0 for trace in programs_of):
        raise ValueError("there is nothing to replay: no trace, or one without accesses")
    _check_epochs(epochs, rotate)
    cost = costs or Costs()
    machine = machine_for(
        programs_of, fast_share=fast_share, fast_nodes=fast_nodes, kernel=kernel, costs=cost
    )
    name, policy, agent = _placement(placement, machine)
    programs = [
        _Program(trace, machine, number % machine.nr_cpus, policy, epochs)
        for number, trace in enumerate(programs_of)
    ]
    started = time.perf_counter()
    run = _Replay(machine, programs, agent, cost).run(name, epochs, rotate, progress)
    run.seconds = time.perf_counter() - started
    return run


def _check_epochs(epochs: int, rotate: int) -> None:
    """Refuse numbers of epochs that mean nothing, or would take for ever."""
    if not 1 <= epochs <= _MOST_EPOCHS:
        raise ValueError(f"epochs {epochs} is not at least 1 epoch and at most {_MOST_EPOCHS}")
    if rotate < 0:
        raise ValueError(f"rotate {rotate} is below 0, which is never")


def _placement(
    placement: str | auto.AutoPolicy, machine: Machine
) -> tuple[str, Policy, auto.AutoPolicy | None]:
    """Name, memory policy of the programs, and the policy that moves their pages, if any."""
    if not isinstance(placement, str):
        return type(placement).__name__, Default(), placement
    if placement == "first-touch":
        return placement, Default(), None
    if placement == "interleave":
        return placement, Interleave(range(machine.nr_nodes)), None
    return placement, Default(), auto.policy(placement)


class _Replay:
    """The loop over epochs, and its accounts. Pages of all programs count as one array."""

    def __init__(
        self,
        machine: Machine,
        programs: list[_Program],
        agent: auto.AutoPolicy | None,
        costs: Costs,
    ) -> None:
        self.machine, self.programs, self.agent, self.costs = machine, programs, agent, costs
        self.batch = machine.profile.batch
        self.latency = costs.latency(machine)
        self.mover = machine.spawn()
        self.move_ns = costs.moving_ns(0, self.batch, self.batch) / self.batch
        self.addresses = np.concatenate([program.pages for program in programs])
        self.ends = np.cumsum([program.pages.size for program in programs])

    def run(self, name: str, epochs: int, rotate: int, progress: Progress | None) -> Run:
        nodes, number = self.machine.nr_nodes, max(len(p.parts) for p in self.programs)
        run = Run(
            name,
            np.zeros((number, nodes, nodes), np.int64),
            np.zeros(number, np.int64),
            np.empty((number, self.addresses.size), np.int8),
            Counter(),
        )
        for epoch in range(number):
            if rotate and epoch and epoch % rotate == 0:
                self._rotate()
            counts = np.hstack([program.run(epoch) for program in self.programs])
            where = self._where()
            run.accesses[epoch] = _by_node(counts, where, nodes)
            if self.agent is not None:
                run.moved[epoch] = self._migrate(self.agent, counts, where, run)
                where = self._where()
            run.residency[epoch] = where
            if progress is not None:
                progress(name, (epoch + 1) / number)
        run.access_ns = float((run.accesses.sum(axis=0) * self.latency).sum())
        return run

    def _where(self) -> NDArray[np.int32]:
        """Node of each page, -1 for none."""
        return np.concatenate([program.where() for program in self.programs])

    def _rotate(self) -> None:
        """Send every program to the next processor."""
        for program in self.programs:
            program.process.cpu = (program.process.cpu + 1) % self.machine.nr_cpus

    def _migrate(
        self,
        agent: auto.AutoPolicy,
        counts: NDArray[np.uint32],
        where: NDArray[np.int32],
        run: Run,
    ) -> int:
        """Let the agent look and move pages; answers how many moved."""
        free = [self.machine.free(nid) >> PAGE_SHIFT for nid in range(self.machine.nr_nodes)]
        stats = auto.Stats(counts, where, np.array(free, np.int64), self.latency, self.move_ns)
        pages, targets = _decision(agent, agent.epoch(stats), where.size)
        before = self.machine.vmstat["pgmigrate_success"]
        calls = self._calls(pages, targets)
        for program, part in calls:
            run.refused.update(self._move(program, self.addresses[pages[part]], targets[part]))
        moved = self.machine.vmstat["pgmigrate_success"] - before
        run.calls += len(calls)
        run.moving_ns += self.costs.moving_ns(len(calls), moved, self.batch)
        return moved

    def _calls(
        self, pages: NDArray[np.intp], targets: NDArray[np.int32]
    ) -> list[tuple[_Program, NDArray[np.intp]]]:
        """Cut a list of moves into calls, each for one program, keeping what comes before what.

        Within a stretch of equal targets the order does not matter, so there each program gets
        one call; a single program gets one for everything.
        """
        owner = np.searchsorted(self.ends, pages, side="right")
        stretch = np.cumsum(np.diff(targets, prepend=targets[:1]) != 0)
        order = np.lexsort((owner, stretch))
        cuts = np.flatnonzero(np.diff(owner[order])) + 1
        parts = np.split(order, cuts) if order.size else []
        return [(self.programs[owner[part[0]]], part) for part in parts]

    def _move(
        self, program: _Program, addresses: NDArray[np.uint64], targets: NDArray[np.int32]
    ) -> dict[str, int]:
        """Make one call; answers the statuses that are not the node asked for."""
        try:
            result = self.mover.move_pages(addresses, targets, MPOL_MF_MOVE, pid=program.process)
            unset = "not tried"
        except SyscallError as error:
            if error.result is None:
                raise
            result, unset = error.result, error.name
        return _refusals(result.status, targets, unset)


def _decision(
    agent: auto.AutoPolicy, answer: Any, footprint: int
) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """What a policy answered, as pages and a target for each.

    Raises
    ------
    ValueError
        It is not what `auto.AutoPolicy.epoch` says; the message names the policy.
    """
    name = type(agent).__name__
    try:
        given, nodes = answer
        pages = np.asarray(given)
        if pages.size == 0:
            pages = np.empty(0, np.intp)
        if pages.ndim != 1 or pages.dtype.kind not in "iu":
            raise ValueError("pages must be one list of integers")
        targets = np.broadcast_to(np.asarray(nodes, np.int32), pages.shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"policy {name} must answer (pages, nodes): {error}") from error
    wrong = pages[(pages < 0) | (pages >= footprint)]
    if wrong.size:
        raise ValueError(f"policy {name}: page {wrong[0]} is not one of {footprint}")
    return pages.astype(np.intp), targets


def _by_node(counts: NDArray[np.uint32], where: NDArray[np.int32], nodes: int) -> NDArray[np.int64]:
    """Sum accesses by the node their page lies on; shape (accessing nodes, nodes)."""
    sums = [np.bincount(where + 1, weights=row, minlength=nodes + 1)[1:] for row in counts]
    return np.array(sums).astype(np.int64)


def _refusals(status: NDArray[np.int32], targets: NDArray[np.int32], unset: str) -> dict[str, int]:
    """Count statuses that are not the node asked for, by name."""
    values, amounts = np.unique(status[status != targets], return_counts=True)
    names = [
        unset if value == STATUS_UNSET else errno_name(value) if value < 0 else f"node {value}"
        for value in values.tolist()
    ]
    return dict(zip(names, amounts.tolist(), strict=True))


DEFAULT_TRACE = "sqlite"
DEFAULT_PLACEMENTS = ("first-touch", "interleave", "auto")


def compare(
    traces: Trace | Sequence[Trace],
    placements: Sequence[str] = DEFAULT_PLACEMENTS,
    **options: Any,
) -> list[Run]:
    """Run programs under several placements, each on a machine of its own.

    Parameters
    ----------
    traces : Trace or sequence of Trace
        As for `replay`.
    placements : sequence of str
        As for `replay`.
    **options
        As for `replay`.

    Returns
    -------
    list of Run
        In the order of ``placements``.
    """
    return [replay(traces, placement, **options) for placement in placements]


def report(runs: Sequence[Run]) -> str:
    """The runs as an aligned table, each compared with the first.

    Parameters
    ----------
    runs : sequence of Run
        The first is what the others are compared with.

    Returns
    -------
    str
        Columns: share of local accesses; pages migrated, and pages the kernel did not move as
        asked, by status; modelled milliseconds of accesses and of migration; and the net gain
        (+) or loss (-) against the first run, in milliseconds and in percent of its time (``-``
        for the first itself).
    """
    base = runs[0].total_ns
    rows = [
        (
            run.name,
            100 * run.local_share,
            int(run.moved.sum()),
            ", ".join(f"{name} {n}" for name, n in run.refused.most_common()) or "none",
            run.access_ns / 1e6,
            run.moving_ns / 1e6,
            None if run is runs[0] else (base - run.total_ns) / 1e6,
            None if run is runs[0] else 100 * (base - run.total_ns) / base,
        )
        for run in runs
    ]
    head = ("policy", "local %", "migrated", "not moved", "access ms", "moving ms", *_GAINS)
    return table(rows, head, _GAINS)


_GAINS = ("net gain ms", "net gain %")


def add_parser(subparsers: Any) -> None:
    """Add ``replay`` to the commands."""
    parser = subparsers.add_parser(
        "replay",
        help="replay a program's trace under several placements of its pages",
        description="Replay the page accesses of a program on a machine with a fast node smaller "
        "than the program and a slow node, under several placements, and compare.",
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
        default=",".join(DEFAULT_PLACEMENTS),
        help="comma-separated; the first is what the others are compared with. first-touch, "
        f"interleave, {', '.join(auto.POLICIES)}, or module:Class for your own "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--fast-share",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="size of the fast node, as a share of the program's pages (default: %(default)s)",
    )
    parser.add_argument(
        "--fast-nodes", type=int, metavar="N", help="split it into N nodes (default: one a trace)"
    )
    parser.add_argument(
        "--rotate",
        type=int,
        default=0,
        metavar="N",
        help="after every N epochs a program goes to the processor of the next fast node",
    )
    parser.add_argument(
        "--epochs", type=int, default=200, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument("--kernel", default=DEFAULT_KERNEL, help="(default: %(default)s)")
    parser.add_argument(
        "--output", metavar="FILE", help="write a picture (needs matplotlib): .png, .svg, .pdf"
    )
    costs = parser.add_argument_group("what things cost (sources: pagemig.studies.replay.Costs)")
    for parameter in fields(Costs):
        costs.add_argument(
            f"--{parameter.name.replace('_', '-')}",
            type=float,
            default=parameter.default,
            metavar="X",
            help=f"{parameter.metadata['help']} (default: %(default)s)",
        )
    parser.set_defaults(main=run, run=run)


def run(args: argparse.Namespace) -> int:
    """Do what ``pagemig replay`` was asked to."""
    names = args.trace or [DEFAULT_TRACE]
    traces = [load(find(name)) for name in names]
    _check_epochs(args.epochs, args.rotate)
    costs = Costs(**{f.name: getattr(args, f.name) for f in fields(Costs)})
    options: dict[str, Any] = {
        "fast_share": args.fast_share,
        "fast_nodes": args.fast_nodes,
        "kernel": args.kernel,
        "costs": costs,
    }
    if args.output:
        pictures.check(args.output)
    placements = [name.strip() for name in args.policies.split(",")]
    machine = machine_for(traces, **options)
    policies = list(_policies(placements, machine))
    print("\n".join([*_introduction(names, traces, machine, costs), *policies]), end="\n\n")
    show = _progress() if sys.stderr.isatty() else None
    started = time.perf_counter()
    runs = compare(
        traces,
        placements,
        epochs=args.epochs,
        rotate=args.rotate,
        progress=show,
        **options,
    )
    seconds = time.perf_counter() - started
    print(report(runs))
    print(f"Times are modelled; the net gain is against {runs[0].name} (-), moving included.")
    print()
    print("\n".join(verdict(runs)))
    accesses = len(runs) * sum(trace.accesses for trace in traces)
    print(f"Replayed {accesses:,} accesses in {seconds:.1f} s.")
    if args.output:
        _draw(args.output, names, traces, runs)
    return 0


def _draw(output: str, names: Sequence[str], traces: Sequence[Trace], runs: list[Run]) -> None:
    """Write the picture, or say what is missing."""
    try:
        pictures.residency(runs, output, title=_title(names, traces))
    except pictures.MissingError as error:
        print(f"No picture: {error}")
    else:
        print(f"Picture: {output}")


def _title(names: Sequence[str], traces: Sequence[Trace]) -> str:
    return ", ".join(
        trace.header.program or Path(name).stem for name, trace in zip(names, traces, strict=True)
    )


def _introduction(
    names: Sequence[str], traces: Sequence[Trace], machine: Machine, costs: Costs
) -> Iterator[str]:
    """What is replayed, and on what."""
    for name, trace in zip(names, traces, strict=True):
        header = trace.header
        yield (
            f"{name}: {header.program or 'unnamed'}; {trace.accesses:,} accesses to "
            f"{trace.footprint:,} pages ({trace.footprint / 256:.1f} MiB)"
        )
        if header.cache:
            yield (
                f"  the program made {header.references:,}; these are the ones that a cache of "
                f"{header.cache >> 10} KiB did not serve"
            )
    sizes = [f"{machine.free(nid) / 2**20:.1f} MiB" for nid in range(machine.nr_nodes)]
    fast = f"{len(sizes) - 1} x {sizes[0]}" if len(sizes) > 2 else sizes[0]
    yield (
        f"machine: Linux {machine.kernel}, fast {fast} ({costs.local_ns:g} ns), "
        f"slow {sizes[-1]} ({costs.slow_ns:g} ns)"
    )


#: What a placement does, for those who see its name in a table.
_MEANING = {
    "first-touch": "a page stays on the node of its first access, the fast one while it has room",
    "interleave": "pages go to all nodes in turn and stay there",
    "auto": "after every epoch pages move to the node that uses them most, where that pays",
}


def _policies(placements: Sequence[str], machine: Machine) -> Iterator[str]:
    """Say in a line what each placement is.

    Raises
    ------
    ValueError
        There is none of that name.
    """
    for placement in placements:
        name, _, agent = _placement(placement, machine)
        known = _MEANING.get(name) or (type(agent).__doc__ or "a policy of your own").strip()
        yield f"{name}: {known.splitlines()[0].rstrip('.')}"


def verdict(runs: Sequence[Run]) -> Iterator[str]:
    """Say in a sentence for each automatic policy whether it paid.

    Yields
    ------
    str
        A sentence for each run that migrated pages.
    """
    base = runs[0]
    for run in runs[1:]:
        moved, net = int(run.moved.sum()), base.total_ns - run.total_ns
        if moved:
            saved = (base.access_ns - run.access_ns) / moved
            yield (
                f"{run.name} {'gains' if net > 0 else 'loses'} {abs(net) / 1e6:.1f} ms "
                f"({abs(net) / base.total_ns:.1%}) against {base.name}: moving a page cost "
                f"{run.moving_ns / moved / 1e3:.2f} us and saved {saved / 1e3:.2f} us."
            )


def _progress() -> Progress:
    """A line on the terminal."""
    last = 0.0

    def show(name: str, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if share == 1:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        elif now - last > 0.1:
            last = now
            bar = "#" * round(30 * share)
            print(f"\r{name:>16} [{bar:<30}] {share:4.0%}", end="", file=sys.stderr, flush=True)

    return show
