"""Policies of `pagemig.auto` at work on a process of this machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemig import auto
from pagemig.auto.answers import asked, moves
from pagemig.constants import STATUS_UNSET
from pagemig.errors import ProcessGoneError, SyscallError, errno_name

from .places import Here, Imagined, Places
from .sight import Addresses, Sight, Target, present
from .topology import Topology, topology

__all__ = ["Epoch", "run"]

Ints = NDArray[np.int64]

#: A policy starts again once the process has so many times the pages that it was shown.
_GROWN = 1.25
#: The most seconds and epochs: more is a typing error.
_LONGEST, _MOST_EPOCHS = 86_400.0, 10**9


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch.

    Attributes
    ----------
    number : int
        Its number, from 0.
    pages : int
        Pages that are watched.
    accessed, written : int
        Watched pages that were accessed and written, in any scan.
    near : int
        Accessed pages that were on the node of the process's processor.
    asked : int
        Pages that the policy asked to move.
    moved : int
        Pages of these that are on their target; 0 in a dry run.
    refused : Counter
        Other statuses, by name; empty in a dry run.
    per_node : ndarray of int64, shape (nodes,)
        Pages on each node at the end.
    began : bool
        Whether the policy started with this epoch: the first, and again if the process has grown.
    """

    number: int
    pages: int
    accessed: int
    written: int
    near: int
    asked: int
    moved: int
    refused: Counter[str] = field(default_factory=Counter)
    per_node: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    began: bool = False


def run(
    policy: str | auto.Policy,
    process: Target,
    *,
    period: float = 1.0,
    epochs: int = 10,
    scans: int | None = None,
    dry_run: bool = False,
    imagine: str | auto.Hardware | None = None,
    fast_share: float = 0.25,
    seed: int = 0,
    machine: Callable[[], Topology] = topology,
    sleep: Callable[[float], None] = time.sleep,
    report: Callable[[Epoch], None] | None = None,
    told: Callable[[str], None] | None = None,
) -> list[Epoch]:
    """Let a policy decide where pages of a running process go, and move them.

    The same policy object runs on a model (`pagemig.studies.replay`) and here. It sees the pages of
    private writable memory, their nodes, and statistics of the accesses that the kernel reports
    (`pagemig.live.sight.Sight`): `AccessedBits`, `HintFaults` and `Regions`, which look ``scans``
    times an epoch. `Samples` needs the sampling unit of a processor, and no machine provides
    `Counts` and `Future`; policies that need these run only on traces.

    Parameters
    ----------
    policy : str or Policy
        As for `pagemig.auto.policy`.
    process : Target
        The process: a `pagemig.live.Process`.
    period : float, default 1
        Length of an epoch in seconds, 0 to 86,400.
    epochs : int, default 10
        Number of epochs; fewer if the process ends before.
    scans : int, optional
        How often accesses are looked at in an epoch, 1 to 1000; by default as often as the
        policy's `Regions` sample, or once.
    dry_run : bool, default False
        Only say what would be moved.
    imagine : str or Hardware, optional
        Place and move pages on paper, on a machine as `pagemig.auto.hardware` describes it. The
        accesses are still those of the running process.
    fast_share : float, default 0.25
        Size of the imagined machine's first node, as a share of the process's pages.
    seed : int, default 0
        Of everything that is drawn.
    machine : callable
        Returns the nodes as they are now.
    sleep : callable
        Waits so many seconds.
    report : callable, optional
        Called after each epoch.
    told : callable, optional
        Called once with what the kernel reports about accesses, in words.

    Returns
    -------
    list of Epoch
        The epochs that were completed.

    Raises
    ------
    ValueError
        The machine has one node, and neither ``dry_run`` nor ``imagine`` is given; the policy needs
        what no kernel reports; a number is out of its range.
    PolicyError
        The policy failed, or its answer is invalid.
    SyscallError
        A call failed as a whole, with the kernel's errno.
    ProcessGoneError
        The process was gone before the first epoch.
    """
    made = auto.policy(policy)
    _check(made, period, epochs, scans, fast_share)
    places: Places
    if imagine is not None:
        places = Imagined(auto.hardware(imagine), fast_share)
    else:
        if machine().single and not dry_run:
            raise ValueError(
                "this machine has one node, so pages have nowhere to go: ask for a dry run, or "
                "imagine a machine with more nodes"
            )
        places = Here(process, machine, dry_run)
    agent = _Agent(made, auto.label(policy), process, places, scans, seed)
    if told is not None:
        told(agent.sight.tells)
    done: list[Epoch] = []
    for number in range(epochs):
        try:
            done.append(agent.epoch(number, period, sleep))
        except ProcessGoneError:
            break
        except SyscallError as error:
            if error.name != "ESRCH":
                raise
            break
        if report is not None:
            report(done[-1])
    return done


def _check(
    policy: auto.Policy, period: float, epochs: int, scans: int | None, fast_share: float
) -> None:
    """Refuse numbers out of range, and policies that need what no kernel reports."""
    if not 0 <= period <= _LONGEST:
        raise ValueError(f"period {period} is not from 0 to {_LONGEST:g} seconds")
    if not 1 <= epochs <= _MOST_EPOCHS:
        raise ValueError(f"epochs {epochs} is not from 1 to {_MOST_EPOCHS}")
    if scans is not None and not 1 <= scans <= 1000:
        raise ValueError(f"scans {scans} is not from 1 to 1000")
    if not 0 < fast_share <= 1:
        raise ValueError(f"fast_share {fast_share} is not above 0 and at most 1")
    name = auto.label(policy)
    if getattr(policy, "place", None) is not None:
        raise ValueError(
            f"policy {name} places new pages, which only the process itself can do: set its memory "
            "policy instead (numactl --interleave)"
        )
    for need in getattr(policy, "needs", ()):
        kind = type(need).__name__
        if getattr(need, "oracle", False):
            raise ValueError(f"policy {name} needs {kind}(), which no machine has")
        if isinstance(need, auto.Samples):
            raise ValueError(
                f"policy {name} needs {kind}(), the sampling unit of a processor, which is not "
                "read here: choose a policy with AccessedBits, HintFaults or Regions"
            )


class _Seen:
    """The accesses of an epoch, for sources of statistics (`pagemig.auto.Seen`)."""

    programs = 1

    def __init__(self, scans: list[tuple[Ints, Ints, float]], span: tuple[float, float]) -> None:
        self._scans, self._span = scans, span

    @property
    def counts(self) -> Ints:
        raise ValueError("a kernel does not count accesses")

    def future(self, epochs: int) -> Ints:
        raise ValueError("a kernel does not know accesses to come")

    def span_ns(self) -> tuple[float, float]:
        return self._span

    @property
    def accesses(self) -> int:
        raise ValueError("a kernel does not count accesses")

    def pieces(self) -> Iterator[auto.Stream]:
        """Give the pages of each scan once, as if accessed when the scanned time began."""
        for pages, written, at in self._scans:
            ones = np.ones(pages.size, np.uint32)
            when = np.full(pages.size, at)
            if pages.size:
                yield auto.Stream(pages.astype(np.int32), ones, np.isin(pages, written), when)


class _Agent:
    """A policy at work on one process."""

    def __init__(
        self,
        policy: auto.Policy,
        name: str,
        process: Target,
        places: Places,
        scans: int | None,
        seed: int,
    ) -> None:
        self.policy, self.name, self.process, self.places = policy, name, process, places
        needs = tuple(getattr(policy, "needs", ()))
        asked_for = [need.samples for need in needs if isinstance(need, auto.Regions)]
        self.scans = scans or max([1, *asked_for])
        self.seed, self.at = seed, 0
        self.started = time.monotonic()
        self._begin(present(process))

    def _where(self) -> str:
        return (
            f"{self.name}, epoch {self.at} of process {getattr(self.process, 'pid', '')}".rstrip()
        )

    def _begin(self, pages: Addresses) -> None:
        """Show the policy the present pages, and start it."""
        places = self.places
        self.pages = pages
        places.watch(pages)
        self.sight = Sight(self.process, pages)
        draws = np.random.SeedSequence(self.seed).spawn(2)
        self.view = auto.View(
            capacity=places.capacity(),
            owner=np.zeros(pages.size, np.int64),
            homes=np.array([places.home(self.process.cpu)]),
            latency=places.latency,
            tiers=places.tiers,
            bandwidth=places.bandwidth,
            rng=np.random.default_rng(draws[0]),
            move_ns=places.move_ns,
            clock=self._now,
        )
        self._locate()
        if (start := getattr(self.policy, "start", None)) is not None:
            asked(self._where(), start, self.view)
        rng = np.random.default_rng(draws[1])
        needs = tuple(getattr(self.policy, "needs", ()))
        self.watches = [source.watch(self.view, rng) for source in needs]
        self.view.epoch, self.began = -1, True

    def _now(self) -> float:
        return (time.monotonic() - self.started) * 1e9

    def _locate(self) -> None:
        """Update where pages are and what is free."""
        there = np.isin(self.pages, present(self.process), assume_unique=True)
        self.view.node = self.places.where(there)
        self.view.free = self.places.free()

    def epoch(self, number: int, period: float, sleep: Callable[[float], None]) -> Epoch:
        """Wait and scan, let the policy decide, move pages."""
        self.at = number
        now = present(self.process)
        if now.size > _GROWN * max(self.pages.size, 1):
            self._begin(now)
        view, start = self.view, self._now()
        accessed = np.zeros(self.pages.size, np.bool_)
        written, scans = accessed.copy(), []
        for scan in range(self.scans):
            sleep(period / self.scans)
            if not self.process.alive:
                raise ProcessGoneError(f"epoch {number}: the process is gone")
            found, stored = self.sight.look()
            scans.append((np.flatnonzero(found), np.flatnonzero(stored), scan / self.scans))
            accessed |= found
            written |= stored
        self._locate()
        view.epoch += 1
        view.run_on(np.array([self.places.home(self.process.cpu)]))
        near = int((accessed & (view.node == view.home)).sum())
        seen = _Seen(scans, (start, self._now()))
        for watch in self.watches:
            watch.look(seen, view)
        answer = asked(self._where(), self.policy.epoch, view)
        pages, nodes, _ = moves(self._where(), answer, self.pages.size)
        moved, refused = self._move(pages, nodes.astype(np.int64))
        there = view.node[view.node >= 0]
        began, self.began = self.began, False
        return Epoch(
            number,
            self.pages.size,
            int(accessed.sum()),
            int(written.sum()),
            near,
            pages.size,
            moved,
            refused,
            np.bincount(there, minlength=len(self.places.names)).astype(np.int64),
            began,
        )

    def _move(self, pages: Ints, nodes: Ints) -> tuple[int, Counter[str]]:
        """Move pages unless it is a dry run; count those on their target, and other statuses."""
        view = self.view
        wrong = nodes[(nodes < 0) | (nodes >= len(self.places.names))]
        if wrong.size:
            raise auto.PolicyError(
                f"policy {self._where()}: node {wrong[0]} is not one of {len(self.places.names)}"
            )
        if not pages.size or not self.places.moves:
            view.last = view.node[pages]
            return 0, Counter()
        status = self.places.move(pages, nodes)
        view.last = status
        there = status == nodes
        view.node[pages[there]] = nodes[there]
        others: list[Any] = status[~there].tolist()
        return int(there.sum()), Counter(self._named(status) for status in others)

    def _named(self, status: int) -> str:
        if status == STATUS_UNSET:
            return "not tried"
        return errno_name(status) if status < 0 else self.places.names[status]
