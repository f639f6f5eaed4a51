"""Programs under a policy: their accesses run through the modelled kernel, epoch by epoch.

A `Plan` has traces, a machine (`pagemig.auto.hardware`) whose fast nodes are smaller than the
programs, and epochs with equal numbers of accesses. `Plan.run` runs it under one policy: after
every epoch an agent, a separate process as the tools of 2006 were, collects the policy's statistics
and moves pages with `move_pages`. The result is a `Run`: counts of everything that a machine could
charge for, and the node of every page. It is priced afterwards (`Run.bill`), on the same machine or
on others, with any overlap of accesses.

Pages move only between epochs. The kernel decides what depends on it: where a page is placed at its
first access, and the outcome of a move. Accesses to present pages change nothing there, so they are
counted from the trace (`pagemig.auto.tally`).

Programs that run at once advance by equal numbers of accesses in an epoch. A program whose trace
has ended exits, and its memory is freed. The order in which they are named has no effect.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemig import auto
from pagemig.auto.answers import asked, moves
from pagemig.auto.costs import EVENTS
from pagemig.auto.tally import absent, by_node, tally
from pagemig.checked import real, whole
from pagemig.constants import MPOL_MF_MOVE, PAGE_SHIFT, STATUS_UNSET
from pagemig.errors import SyscallError, errno_name
from pagemig.kernels import DEFAULT_KERNEL, kernel_profile
from pagemig.policy import Default, Interleave, Policy, WeightedInterleave
from pagemig.system.machine import Machine, Node
from pagemig.system.process import Process
from pagemig.trace import Runs
from pagemig.trace.format import BLOCK

from .programs import Program, merged, trace_hash

__all__ = ["Conditions", "Plan", "Run", "compare", "replay"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Progress = Callable[[str, float], None]

#: Limits of plausible numbers: a value beyond them is a typing error, or takes too long.
_MOST_SHARE = 1000
_MOST_EPOCHS = 100_000
#: Parts of an epoch in which the first accesses of programs that run at once alternate.
_TURNS = 16
#: The largest weight of a node in Linux.
_MOST_WEIGHT = 255


@dataclass(frozen=True)
class Conditions:
    """Facts about programs that prices need and a trace does not have.

    Attributes
    ----------
    overlap : float
        Accesses in flight at once.
    compute_ns : float
        Time of computing between accesses.
    processors : int
        Processors that each program runs on.
    background : tuple of float
        GB/s that other users take from each node; empty for none.
    """

    overlap: float = 1.0
    compute_ns: float = 0.0
    processors: int = 1
    background: tuple[float, ...] = ()

    def price(self, traffic: auto.Traffic, machine: auto.Hardware) -> auto.Bill:
        """Return the bill of a run under these conditions."""
        return auto.price(
            traffic,
            machine,
            overlap=self.overlap,
            compute_ns=self.compute_ns,
            processors=self.processors,
            background=self.background or None,
        )


def _given(traces: Runs | Sequence[Runs]) -> list[Runs]:
    """Return one trace or several as a list."""
    given = [traces] if isinstance(traces, Runs) else traces
    if isinstance(given, range) or not isinstance(given, Iterable):
        raise TypeError(f"traces must be traces, not {traces!r:.80}")
    for trace in (found := list(given)):
        if not isinstance(trace, Runs):
            raise TypeError(f"traces must be traces, not {trace!r:.80}")
    return found


def _named(traces: Sequence[Runs], names: Sequence[str] | None) -> list[str]:
    given = names or [trace.header.program or "program" for trace in traces]
    if len(given) != len(traces):
        raise ValueError(f"{len(given)} names are not one for each of {len(traces)} traces")
    return list(given)


def _order(traces: Sequence[Runs]) -> list[int]:
    """Return the programs in an order that depends only on their accesses."""

    def key(number: int) -> tuple[int, int, str]:
        trace = traces[number]
        return (trace.accesses, trace.footprint, trace_hash(trace))

    return sorted(range(len(traces)), key=key) if len(traces) > 1 else [0]


class Plan:
    """A plan: traces cut into epochs, and a machine.

    Parameters
    ----------
    traces : Runs or sequence of Runs
        One program, or several that run at once.
    machine : str, path-like or Hardware, default "cxl"
        As for `pagemig.auto.hardware`.
    fast_share : float, default 0.25
        Size of the fast nodes together, as a share of all pages of the programs.
    fast_nodes : int, optional
        Nodes like the first; as many as the machine has unless given. Programs go to the nodes
        with processors in turn.
    kernel : str
        The modelled kernel.
    epochs : int, default 200
        Number of parts with equal numbers of accesses that the longest program is cut into; the
        others make as many accesses in an epoch, and end before.
    rotate : int, default 0
        After how many epochs each program moves to the next node with processors, as a scheduler
        that balances load might do; 0 for never.
    conditions : Conditions, optional
        Facts about the programs that prices need.
    names : sequence of str, optional
        Names of the programs; those in their traces unless given.

    Raises
    ------
    ValueError
        A number out of range, or no accesses to replay.
    """

    def __init__(
        self,
        traces: Runs | Sequence[Runs],
        *,
        machine: str | Path | auto.Hardware = auto.DEFAULT_MACHINE,
        fast_share: float = 0.25,
        fast_nodes: int | None = None,
        kernel: str = DEFAULT_KERNEL,
        epochs: int = 200,
        rotate: int = 0,
        conditions: Conditions | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        given = _given(traces)
        if not given or any(trace.runs == 0 for trace in given):
            raise ValueError("there is nothing to replay: no trace, or one without accesses")
        if not real(fast_share, "fast_share", 0, _MOST_SHARE) > 0:
            raise ValueError(f"fast_share must be above 0, not {fast_share}")
        epochs = whole(epochs, "epochs", 1, _MOST_EPOCHS)
        rotate = whole(rotate, "rotate", 0, _MOST_EPOCHS)
        kernel_profile(kernel)
        hardware = auto.hardware(machine)
        self.hardware = hardware if fast_nodes is None else hardware.with_fast_nodes(fast_nodes)
        self.fast_share, self.kernel, self.rotate = fast_share, kernel, rotate
        self.conditions = conditions or Conditions()
        most = max(trace.accesses for trace in given)
        self.epochs = min(epochs, most)
        self.programs = self._programs(given, _named(given, names), most)
        self.pages = sum(program.trace.footprint for program in self.programs)
        ordered = sorted(self.programs, key=lambda program: program.start)
        self.owner = np.repeat(
            [self.programs.index(program) for program in ordered],
            [program.trace.footprint for program in ordered],
        )
        self.batch = kernel_profile(kernel).batch

    def _programs(
        self, traces: Sequence[Runs], names: Sequence[str], most: int
    ) -> tuple[Program, ...]:
        """Return the programs in the given order; pages and turns are in that of `_order`."""
        whole = [most * k // self.epochs for k in range(self.epochs + 1)]
        programs: dict[int, Program] = {}
        start = 0
        for place, number in enumerate(_order(traces)):
            trace = traces[number]
            cuts = np.minimum(whole, trace.accesses)
            programs[number] = Program(names[number], trace, start, cuts, place)
            start += trace.footprint
        return tuple(programs[number] for number in range(len(traces)))

    @property
    def accesses(self) -> int:
        """Accesses of all programs."""
        return sum(program.trace.accesses for program in self.programs)

    @cached_property
    def cpu(self) -> Ints:
        """The node that each program runs on in each epoch, shape (epochs, programs)."""
        nodes = np.array(self.hardware.cpu_nodes)
        turns = np.arange(self.epochs) // self.rotate if self.rotate else np.zeros(self.epochs, int)
        places = np.array([program.place for program in self.programs])
        cpu: Ints = nodes[(turns[:, np.newaxis] + places) % nodes.size]
        return cpu

    def build(self, weights: Sequence[int] | None = None) -> Machine:
        """Make the modelled machine: nodes of the hardware, the last with room for every page.

        Parameters
        ----------
        weights : sequence of int, optional
            Weights of its nodes for weighted interleaving.
        """
        fast = [nid for nid in self.hardware.cpu_nodes if nid != len(self.hardware.nodes) - 1]
        each = self.pages * self.fast_share / max(len(fast), 1)
        nodes = []
        for nid, cpus in enumerate(self.hardware.cpus):
            last = nid == len(self.hardware.nodes) - 1
            size = self.pages if last else max(round(each * self.hardware.sizes[nid]), 1)
            # Frame 0 is never allocated. One processor a node is enough: programs have one each.
            nodes.append(Node((size + (nid == 0)) << PAGE_SHIFT, cpus=min(cpus, 1)))
        far = self.hardware.latency / self.hardware.latency[0, 0] * 10
        distances = np.clip(np.rint(np.maximum(far, far.T)), 11, 255).astype(int)
        np.fill_diagonal(distances, 10)
        return Machine(nodes, kernel=self.kernel, distances=distances, weights=weights)

    @cached_property
    def room(self) -> Ints:
        """Pages of each node that programs can use, shape (nodes,)."""
        machine = self.build()
        return np.array([machine.free(nid) >> PAGE_SHIFT for nid in range(machine.nr_nodes)])

    @cached_property
    def demand(self) -> auto.Demand:
        """The demand of the programs, for `pagemig.auto.optimum`."""
        sources = np.array(self.hardware.cpu_nodes)
        largest = max(int(np.diff(program.cuts).max()) for program in self.programs)
        wide = np.int32 if largest <= np.iinfo(np.int32).max else np.int64
        counts = np.zeros((self.epochs, sources.size, self.pages), wide)
        first = np.full(self.pages, self.epochs, np.int32)
        last = np.full(self.pages, self.epochs, np.int32)
        row = np.full(max(self.hardware.cpu_nodes) + 1, -1)
        row[sources] = np.arange(sources.size)
        for number, program in enumerate(self.programs):
            pages = slice(program.start, program.stop)
            last[pages] = program.epochs
            sums = np.empty(program.trace.footprint, np.int64)
            for epoch in range(program.epochs):
                sums[:] = 0
                program.count(epoch, sums)
                counts[epoch, row[self.cpu[epoch, number]], pages] = sums
        seen = counts.any(axis=1)
        there = seen.any(axis=0)
        first[there] = seen.argmax(axis=0)[there]
        return auto.Demand(counts, sources, first, last)

    def optimum(
        self, *, overlap: float | None = None, blocking: bool = True, steps: int | None = None
    ) -> auto.Optimum:
        """Bound what any policy can reach here.

        Parameters
        ----------
        overlap : float, optional
            Accesses in flight at once; as in the conditions unless given.
        blocking : bool, default True
            Whether the program waits for moves. If not, only flushes are charged, so that the bound
            holds for policies that move in the background.
        steps : int, optional
            As for `pagemig.auto.optimum`.

        Returns
        -------
        Optimum
        """
        given = self.conditions.overlap if overlap is None else overlap
        least = auto.least_move_ns(
            self.hardware,
            batch=self.batch,
            processors=self.conditions.processors,
            blocking=blocking,
        )
        latency = self.hardware.latency / given
        return auto.optimum(self.demand, latency, least, self.room, steps=steps)

    def run(
        self, policy: str | auto.Policy, *, seed: int = 0, progress: Progress | None = None
    ) -> Run:
        """Run the programs under a policy.

        Parameters
        ----------
        policy : str or Policy
            As for `pagemig.auto.policy`.
        seed : int, default 0
            Seed of everything that is drawn: samples, regions, and the policy's own draws.
        progress : callable, optional
            Called after every epoch with the policy's name and the share done.

        Returns
        -------
        Run

        Raises
        ------
        PolicyError
            The policy failed, or its answer is invalid.
        MemoryError
            The machine is too small.
        """
        made, name = auto.policy(policy), auto.label(policy)
        started = time.perf_counter()
        run = _Replay(self, made, name, seed).run(progress)
        run.seconds = time.perf_counter() - started
        return run


@dataclass
class Run:
    """The result of one policy.

    Attributes
    ----------
    name : str
        The policy's name in tables.
    plan : Plan
        The plan that ran.
    seed : int
        Seed of everything that was drawn.
    oracle : bool
        Whether the policy saw what no machine can.
    traffic : Traffic
        Accesses, moves and statistics, by epoch and program.
    moved : ndarray of int64, shape (epochs,)
        Pages migrated after each epoch.
    residency : ndarray of int8, shape (epochs, pages)
        Node of each page at the end of each epoch, before pages move; -1 for none.
    refused : Counter
        Pages whose status was not the requested node, by the name of the status.
    seconds : float
        Duration of the replay itself.
    """

    name: str
    plan: Plan
    seed: int
    oracle: bool
    traffic: auto.Traffic
    moved: Ints
    residency: NDArray[np.int8]
    refused: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    _bills: dict[Any, auto.Bill] = field(default_factory=dict, repr=False)

    def bill(
        self, machine: str | Path | auto.Hardware | None = None, **conditions: Any
    ) -> auto.Bill:
        """Price the run.

        Parameters
        ----------
        machine : str, path-like or Hardware, optional
            The machine; the one it ran on unless given.
        **conditions
            Attributes of `Conditions` that differ from the plan's.

        Returns
        -------
        Bill
        """
        hardware = self.plan.hardware if machine is None else auto.hardware(machine)
        terms = replace(self.plan.conditions, **conditions)
        key = (id(hardware), terms)
        if key not in self._bills:
            self._bills[key] = terms.price(self.traffic, hardware)
        return self._bills[key]

    @property
    def accesses(self) -> Ints:
        """Accesses from each node's processors to each node, shape (epochs, nodes, nodes)."""
        epochs, programs, nodes = self.traffic.accesses.shape
        by_node = np.zeros((epochs, nodes, nodes), np.int64)
        for program in range(programs):
            at = (np.arange(epochs), self.traffic.cpu[:, program])
            by_node[at] += self.traffic.accesses[:, program]
        return by_node

    @property
    def calls(self) -> int:
        """`move_pages` calls."""
        return int(self.traffic.calls.sum())

    @property
    def access_ns(self) -> float:
        """Memory time of all accesses."""
        return self.bill().access_ns

    @property
    def moving_ns(self) -> float:
        """Time that programs waited for moves."""
        return self.bill().moving_ns

    @property
    def statistics_ns(self) -> float:
        """Time that statistics took from programs."""
        return self.bill().statistics_ns

    @property
    def total_ns(self) -> float:
        """Memory time, statistics and moves."""
        return self.bill().total_ns

    @property
    def local_share(self) -> float:
        """Share of all accesses that stayed on the accessing processor's node."""
        return _local(self.accesses.sum(axis=0))

    @property
    def local_over_time(self) -> Floats:
        """`local_share` of each epoch."""
        return np.array([_local(epoch) for epoch in self.accesses])

    @property
    def background(self) -> bool:
        """Whether some pages moved while their program went on."""
        return bool(self.traffic.tried[1].any())

    def ping_pong(self) -> Ints:
        """For each time a page left its fast node and came back: the epochs it was away."""
        left = np.full(self.plan.pages, -1, np.int64)
        away = []
        before = np.zeros(self.plan.pages, np.bool_)
        for epoch, node in enumerate(self.residency):
            fast = node == self.plan.cpu[epoch][self.plan.owner]
            back = np.flatnonzero(fast & ~before & (left >= 0))
            away.append(epoch - left[back])
            left[back] = -1
            left[before & ~fast & (node >= 0)] = epoch
            before = fast
        return np.concatenate(away) if away else np.empty(0, np.int64)


def _local(accesses: Ints) -> float:
    return float(np.trace(accesses) / max(int(accesses.sum()), 1))


class _Running:
    """A program and the process that replays it: page ``i`` of its table at ``base + 4096 * i``.

    The first access to a page is replayed as a write. The trace does not show what filled the page,
    such as the loader or a read from a file. Anonymous memory that is read before it is written
    would be the zero page, which all programs share.
    """

    def __init__(self, program: Program, machine: Machine, cpu: int, policy: Policy) -> None:
        self.program = program
        self.process: Process = machine.spawn(cpu=cpu)
        self.process.set_mempolicy(policy)
        size = program.trace.footprint
        self.base = self.process.mmap(size << PAGE_SHIFT)
        self.addresses = self.base + (np.arange(size, dtype=np.uint64) << np.uint64(PAGE_SHIFT))
        self.met, self.at = np.empty(size, np.int32), np.empty(size, np.int64)
        self.found, self.runs = np.empty(size, np.int64), np.empty(size, np.int64)
        self.own = np.empty(size, np.int64)
        self.done = False

    def count(self, epoch: int, row: Ints | None) -> None:
        """Count an epoch's accesses by page, in ``row``, all 0, if counts are needed."""
        if row is None:
            self.own[:] = 0
        self.sums = self.own if row is None else row
        number = self.length = 0
        for index, _, count in self.program.pieces(epoch):
            number = tally(index, count, self.sums, self.met, self.at, number, self.length)
            self.length += index.size
        self.pages, self.first = self.met[:number], self.at[:number]

    def absent(self, node: Ints) -> tuple[Ints, Ints]:
        """Return accessed pages that are not present, and the run of each one's first access."""
        number = absent(self.pages, self.first, node, self.found, self.runs)
        return self.found[:number], self.runs[:number]

    def fault(self, pages: Ints) -> None:
        """Access pages for the first time."""
        result = self.process.access(self.addresses[pages], write=True)
        if result.signal:
            page = int(pages[result.index or 0])
            raise MemoryError(f"the replayed program got {result.signal} at page {page}")

    def exit(self) -> None:
        """End the program."""
        self.process.exit()
        self.done = True


class _Replay:
    """The loop over epochs, and its accounts. Arrays cover the pages of all programs."""

    def __init__(self, plan: Plan, policy: auto.Policy, name: str, seed: int) -> None:
        self.plan, self.policy, self.name = plan, policy, name
        nodes, hardware = len(plan.hardware.nodes), plan.hardware
        self.run_of = Run(
            name,
            plan,
            seed,
            auto.is_oracle(policy),
            auto.Traffic.none(plan.epochs, len(plan.programs), nodes),
            np.zeros(plan.epochs, np.int64),
            np.empty((plan.epochs, plan.pages), np.int8),  # each row is filled when its epoch ends
        )
        self.run_of.traffic.cpu[:] = plan.cpu
        draws = np.random.SeedSequence(seed).spawn(2)
        self.view = auto.View(
            capacity=plan.room,
            owner=plan.owner,
            homes=plan.cpu[0],
            latency=hardware.latency,
            tiers=hardware.tiers,
            bandwidth=hardware.bandwidth,
            rng=np.random.default_rng(draws[0]),
            move_ns=lambda pages, source, target: auto.move_ns(
                hardware,
                pages,
                batch=plan.batch,
                calls=0,
                processors=plan.conditions.processors,
            ),
            clock=self.now,
            load=self.loaded,
        )
        self.node = np.full(plan.pages, -1, np.int64)
        self.priced: list[auto.Bill] = []
        self.epoch = 0
        self._begin(np.random.default_rng(draws[1]))

    def _begin(self, rng: np.random.Generator) -> None:
        """Start the policy, its sources, the machine and the programs."""
        start: Any = getattr(self.policy, "start", None)
        place: Any = getattr(self.policy, "place", None)
        if start is not None:
            self._asked(start, self.view)
        needs = tuple(getattr(self.policy, "needs", ()))
        self.watches = [source.watch(self.view, rng) for source in needs]
        weights = None if place is None else self._asked(place, self.view)
        placement, weights = self._placement(weights)
        self.machine = self.plan.build(weights)
        self.mover = self.machine.spawn()
        nodes = list(self.plan.hardware.cpu_nodes)
        self.running = [
            _Running(program, self.machine, nodes.index(int(cpu)), placement)
            for program, cpu in zip(self.plan.programs, self.plan.cpu[0], strict=True)
        ]
        self.turns = sorted(self.running, key=lambda running: running.program.place)

    def _asked(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call the policy; its errors name the policy, the epoch and the trace."""
        return asked(self._where(), method, *args)

    def _where(self) -> str:
        names = ", ".join(program.name for program in self.plan.programs)
        return f"{self.name}, epoch {self.epoch} of {names}"

    def _wrong(self, why: str) -> auto.PolicyError:
        return auto.PolicyError(f"policy {self._where()}: {why}")

    def _placement(self, weights: Any) -> tuple[Policy, list[int] | None]:
        """Return the memory policy of the programs, and the weights of the machine's nodes."""
        if weights is None:
            return Default(), None
        given = np.asarray(weights)
        nodes = len(self.plan.hardware.nodes)
        good = given.shape == (nodes,) and given.dtype.kind in "iu"
        if not good or not (given >= 0).all() or not 0 < given.max() <= _MOST_WEIGHT:
            raise self._wrong(
                f"place must answer weights from 0 to {_MOST_WEIGHT} for {nodes} nodes, not "
                f"{weights!r}"
            )
        chosen = np.flatnonzero(given).tolist()
        if np.unique(given[chosen]).size == 1:
            return Interleave(chosen), None
        return WeightedInterleave(chosen), np.maximum(given, 1).tolist()

    # ---- the loop ------------------------------------------------------------------------------

    def run(self, progress: Progress | None) -> Run:
        plan, view = self.plan, self.view
        for epoch in range(plan.epochs):
            self.epoch = epoch
            if plan.rotate and epoch and epoch % plan.rotate == 0:
                self._rotate(epoch)
            seen = _Happened(self, epoch)
            self._access(seen)
            self.run_of.residency[epoch] = self.node
            view.epoch, view.node = epoch, _fixed(self.node)
            for watch in self.watches:
                self._looked(watch.look(seen, view))
            self._decide()
            self._end(epoch)
            if progress is not None:
                progress(self.name, (epoch + 1) / plan.epochs)
        return self.run_of

    def _rotate(self, epoch: int) -> None:
        """Send every program to its next processor."""
        nodes = list(self.plan.hardware.cpu_nodes)
        for running, cpu in zip(self.running, self.plan.cpu[epoch], strict=True):
            if not running.done:
                running.process.cpu = nodes.index(int(cpu))
        self.view.run_on(self.plan.cpu[epoch])

    def _access(self, seen: _Happened) -> None:
        """Replay an epoch: absent pages fault, and all accesses are counted."""
        traffic, epoch = self.run_of.traffic, self.epoch
        waiting = []
        for running in self.turns:
            running.count(epoch, seen.row(running.program))
            pages, at = running.absent(self._of(running))
            waiting.append((running, pages, at * _TURNS // max(running.length, 1)))
        for turn in range(_TURNS if len(waiting) > 1 else 1):
            for running, pages, when in waiting:
                self._fault(running, pages if len(waiting) == 1 else pages[when == turn])
        for number, running in enumerate(self.running):
            node, sums = self._of(running), traffic.accesses[epoch, number]
            by_node(running.pages, running.sums, node, sums)

    def _of(self, running: _Running) -> Ints:
        return self.node[running.program.start : running.program.stop]

    def _fault(self, running: _Running, pages: Ints) -> None:
        if pages.size:
            running.fault(pages)
            self._locate(running, pages)

    def _locate(self, running: _Running, pages: Ints) -> None:
        """Ask where pages are now, by the call that moves them if the kernel has it."""
        addresses = running.addresses[pages]
        if "move_pages" in self.machine.profile.calls:
            node = self.mover.move_pages(addresses, None, 0, pid=running.process).status
        else:
            node = running.process.nodes(running.base, running.addresses.size)[pages]
        self._of(running)[pages] = np.maximum(node, -1)

    def _end(self, epoch: int) -> None:
        """End the programs whose traces have ended, if others continue."""
        for running in self.turns:
            if running.program.epochs == epoch + 1 < self.plan.epochs:
                running.exit()
                self._of(running)[:] = -1

    # ---- looking -------------------------------------------------------------------------------

    def _looked(self, events: list[tuple[str, NDArray[Any]]]) -> None:
        for name, number in events:
            self.run_of.traffic.events[self.epoch, :, EVENTS.index(name)] += number

    def _bill(self, epoch: int) -> auto.Bill:
        """Return the cost of an epoch so far."""
        part = self.run_of.traffic.part(epoch, epoch + 1)
        return self.plan.conditions.price(part, self.plan.hardware)

    def began(self) -> float:
        """When this epoch began; past epochs are priced only if this is needed."""
        while len(self.priced) < self.epoch:
            self.priced.append(self._bill(len(self.priced)))
        return float(sum(float(bill.duration[0]) for bill in self.priced))

    def now(self) -> float:
        """Modelled time so far."""
        return self.began() + float(self._bill(self.epoch).duration[0])

    def loaded(self) -> Floats:
        """Return the loaded latencies of this epoch."""
        latency: Floats = self._bill(self.epoch).latency[0]
        return latency

    # ---- moving --------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Let the policy decide, and move pages."""
        nodes = self.machine.nr_nodes
        self.view.free = np.array([self.machine.free(nid) >> PAGE_SHIFT for nid in range(nodes)])
        answer = self._asked(self.policy.epoch, self.view)
        pages, targets, sync = moves(self._where(), answer, self.plan.pages)
        status = np.full(pages.size, STATUS_UNSET, np.int64)
        for running, part in self._calls(pages, targets):
            status[part] = self._move(running, pages[part], targets[part], sync)
        self.view.last = status

    def _calls(
        self, pages: Ints, targets: NDArray[np.int32]
    ) -> list[tuple[_Running, NDArray[np.intp]]]:
        """Split a list of moves into calls, each for one program, in their order.

        Within a stretch of equal targets the order does not matter, so each program gets one call
        there; a single program gets one call for everything. Pages of a program that has ended are
        left out.
        """
        places = np.array([program.place for program in self.plan.programs])
        owner = places[self.plan.owner[pages]]
        if len(self.running) == 1:
            parts = [np.arange(pages.size)] if pages.size else []
        else:
            stretch = np.cumsum(np.diff(targets, prepend=targets[:1]) != 0)
            order = np.lexsort((owner, stretch))
            cuts = np.flatnonzero(np.diff(owner[order])) + 1
            parts = np.split(order, cuts) if order.size else []
        calls = [(self.turns[owner[part[0]]], part) for part in parts]
        return [(running, part) for running, part in calls if not running.done]

    def _move(self, running: _Running, pages: Ints, targets: NDArray[np.int32], sync: bool) -> Ints:
        """Make one call and keep its accounts; return the status of each page."""
        own = pages - running.program.start
        before = self._of(running)[own]
        stat = self._tried()
        try:
            result = self.mover.move_pages(
                running.addresses[own], targets, MPOL_MF_MOVE, pid=running.process
            )
            unset = "not tried"
        except SyscallError as error:
            if error.result is None:
                raise self._wrong(str(error)) from error
            result, unset = error.result, error.name
        tried = self._tried() - stat
        self._locate(running, own)
        after = self._of(running)[own]
        self._account(running, own, before, after, targets, tried, sync)
        status = np.where(after == targets, targets, result.status).astype(np.int64)
        self.run_of.refused.update(_refusals(status, targets, unset))
        return status

    def _tried(self) -> int:
        """Return which pages the kernel has tried to migrate."""
        stat = self.machine.vmstat
        return int(stat["pgmigrate_success"] + stat["pgmigrate_fail"])

    def _account(
        self,
        running: _Running,
        own: Ints,
        before: Ints,
        after: Ints,
        targets: NDArray[np.int32],
        tried: int,
        sync: bool,
    ) -> None:
        """Account for what a call did. A page named twice moves once."""
        traffic = self.run_of.traffic
        at = (0 if sync else 1, self.epoch, self.running.index(running))
        changed = (before != after) & (before >= 0) & (after >= 0) & _once(own)
        moved = self._copied(before[changed], after[changed])
        there = int(np.count_nonzero((before == targets) & ~changed))
        traffic.calls[at] += 1
        traffic.moved[at] += moved
        traffic.tried[at] += max(tried, moved)
        traffic.there[at] += there
        traffic.looked[at] += max(before.size - there - max(tried, moved), 0)
        traffic.flushes[at] += -(-moved // self.plan.batch)
        self.run_of.moved[self.epoch] += moved

    def _copied(self, before: Ints, after: Ints) -> int:
        """Count copies by source and target node; return how many."""
        nodes = self.machine.nr_nodes
        ways = np.bincount(before * nodes + after, minlength=nodes * nodes)
        self.run_of.traffic.copied[self.epoch] += ways.reshape(nodes, nodes)
        return before.size


class _Happened:
    """An epoch as it really was, for sources of statistics (`pagemig.auto.Seen`)."""

    def __init__(self, replay: _Replay, epoch: int) -> None:
        self._replay, self._epoch = replay, epoch
        self._counts: Ints | None = None
        needs = getattr(replay.policy, "needs", ())
        if any(isinstance(source, auto.Counts) for source in needs):
            self._counts = self._zeros()

    @property
    def programs(self) -> int:
        """See `Seen.programs`."""
        return len(self._replay.plan.programs)

    @property
    def counts(self) -> Ints:
        """See `Seen.counts`."""
        if self._counts is None:
            self._counts = self._sums([self._epoch])
        return self._counts

    def _zeros(self) -> Ints:
        return np.zeros((len(self._replay.plan.hardware.nodes), self._replay.plan.pages), np.int64)

    def row(self, program: Program) -> Ints | None:
        """Return where to count the program's accesses, if counts are needed."""
        if self._counts is None:
            return None
        plan = self._replay.plan
        cpu = plan.cpu[self._epoch, plan.programs.index(program)]
        return self._counts[cpu, program.start : program.stop]

    def _sums(self, epochs: Sequence[int]) -> Ints:
        """Return the accesses of some epochs together."""
        plan, counts = self._replay.plan, self._zeros()
        for number, program in enumerate(plan.programs):
            for epoch in epochs:
                row = counts[plan.cpu[epoch, number], program.start : program.stop]
                program.count(epoch, row)
        return counts

    def future(self, epochs: int) -> Ints:
        """See `Seen.future`."""
        first = self._epoch + 1
        return self._sums(range(first, min(first + epochs, self._replay.plan.epochs)))

    @property
    def accesses(self) -> int:
        """See `Seen.accesses`."""
        cuts = [program.cuts for program in self._replay.plan.programs]
        return sum(int(cut[self._epoch + 1] - cut[self._epoch]) for cut in cuts)

    def pieces(self) -> Iterator[auto.Stream]:
        """See `Seen.pieces`."""
        running = self._replay.turns
        streams = [each.program.stream(self._epoch) for each in running]
        if len(streams) == 1:
            return streams[0]
        return merged(streams, 1 + 4 * sum(each.length for each in running) // BLOCK)

    def span_ns(self) -> tuple[float, float]:
        """See `Seen.span_ns`."""
        return self._replay.began(), self._replay.now()


def _fixed(array: Ints) -> Ints:
    """Return a read-only copy."""
    fixed = array.copy()
    fixed.flags.writeable = False
    return fixed


def _once(pages: Ints) -> NDArray[np.bool_]:
    """Return one entry of each page."""
    last = np.empty(int(pages.max(initial=-1)) + 1, np.int64)
    numbers = np.arange(pages.size)
    last[pages] = numbers
    once: NDArray[np.bool_] = last[pages] == numbers
    return once


def _refusals(status: Ints, targets: NDArray[np.int32], unset: str) -> dict[str, int]:
    """Count statuses that are not the requested node, by name."""
    values, amounts = np.unique(status[status != targets], return_counts=True)
    names = [
        unset if value == STATUS_UNSET else errno_name(value) if value < 0 else f"node {value}"
        for value in values.tolist()
    ]
    return dict(zip(names, amounts.tolist(), strict=True))


def replay(
    traces: Runs | Sequence[Runs],
    policy: str | auto.Policy,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Run programs under one policy.

    Parameters
    ----------
    traces : Runs or sequence of Runs
        One program, or several at once.
    policy : str or Policy
        As for `pagemig.auto.policy`.
    seed : int, default 0
        Seed of everything that is drawn.
    progress : callable, optional
        Called after every epoch with the policy's name and the share done.
    **options
        As for `Plan`.

    Returns
    -------
    Run
    """
    return Plan(traces, **options).run(policy, seed=seed, progress=progress)


def compare(
    traces: Runs | Sequence[Runs],
    policies: Sequence[str | auto.Policy],
    *,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> list[Run]:
    """Run programs under several policies, each on a new machine.

    Parameters
    ----------
    traces, seed, progress, **options
        As for `replay`.
    policies : sequence of str or Policy
        The policies, in the order of the result.

    Returns
    -------
    list of Run
        All of one plan.
    """
    plan = Plan(traces, **options)
    return [plan.run(policy, seed=seed, progress=progress) for policy in policies]
