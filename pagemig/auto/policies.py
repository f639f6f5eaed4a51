"""Policies to start from, each named after the system it re-creates.

They are short, since a view has what they share: `View.swap`, `View.promoted`, `View.demoted`. They
re-create the rule by which a system chooses pages, not its threads and timers: an epoch stands for
the period at which the original looks or moves. Parameters have the names and defaults of the
original if it has them in units of this model. If a trace is too short for these, the docstring
says what was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .costs import LINE, PAGE
from .sources import AccessedBits, Counts, Future, HintFaults, Regions, Samples
from .view import NO_MOVES, Ints, Moves, Policy, View

__all__ = [
    "POLICIES",
    "Age",
    "Colloid",
    "CostBenefit",
    "Damon",
    "FirstTouch",
    "HeMem",
    "Interleave",
    "LookAhead",
    "MostUsed",
    "NumaBalancing",
    "OffNode",
    "Tpp",
    "WeightedInterleave",
]


class _Placing(Policy):
    """A policy that only places pages and never moves them."""

    def epoch(self, view: View) -> Moves:
        """See `Policy.epoch`."""
        return NO_MOVES


@dataclass
class FirstTouch(_Placing):
    """A page stays on the node of its first access, the fast one as long as it has room."""


@dataclass
class Interleave(_Placing):
    """Pages go to all nodes in turn and stay there."""

    def place(self, view: View) -> Sequence[int]:
        """Weights of the nodes, all equal."""
        return [1] * view.capacity.size


@dataclass
class WeightedInterleave(_Placing):
    """Pages go to the nodes in turn by weight, and stay there.

    Parameters
    ----------
    weights : sequence of int, optional
        Pages in a row for each node. Unless given, small numbers in proportion to the nodes'
        bandwidths, as Linux sets them since 6.16.
    """

    weights: Sequence[int] = ()

    def place(self, view: View) -> Sequence[int]:
        """Weights of the nodes."""
        if self.weights:
            return list(self.weights)
        bandwidth = view.bandwidth.max(axis=0)
        shares = np.maximum(np.rint(10 * bandwidth / bandwidth.sum()), 1).astype(int)
        return list(shares // np.gcd.reduce(shares))


@dataclass
class OffNode(Policy):
    """Pages that another node uses most go there once it has used them often: the note's idea.

    Parameters
    ----------
    threshold : int, default 16
        The least accesses in an epoch for a page to move.
    period : int, default 0
        Sample one access in so many; 0 counts all of them, which no machine can.
    """

    threshold: int = 16
    period: int = 0

    def __post_init__(self) -> None:
        self.needs = [Samples(self.period)] if self.period else [Counts()]

    def epoch(self, view: View) -> Moves:
        """See `Policy.epoch`."""
        heat = view.samples * self.period if self.period else _of_home(view, view.counts)
        return view.swap(np.flatnonzero(heat >= self.threshold), heat)


def _of_home(view: View, counts: Ints) -> Ints:
    """Return, of counts by node and page, those from the node of each page's program."""
    used: Ints
    if len(view.fast) == 1:
        used = counts[view.fast[0]]
    else:
        used = np.take_along_axis(counts, view.home[np.newaxis], axis=0)[0]
    return used


@dataclass
class MostUsed(Policy):
    """Each page goes to the node that uses it most once that pays: ski rental.

    A page moves once the time lost by leaving it where it is, over the recent past, exceeds the
    cost of moving it. Like renting skis until their price is spent, this never costs much more than
    knowing the future would. A swap of two pages has to pay for two moves.

    Parameters
    ----------
    memory : float, default 0.8
        Weight of the past: accesses of the previous epoch weigh this much, those of the one before
        its square, and so on.
    """

    memory: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.memory <= 1:
            raise ValueError(f"memory {self.memory} is not between 0 and 1")
        self.needs = [Counts()]

    def start(self, view: View) -> None:
        """See `Policy.start`."""
        self.lost: NDArray[Any] = np.zeros(view.owner.size)

    def epoch(self, view: View) -> Moves:
        """See `Policy.epoch`."""
        self.lost = view.gain_ns(_of_home(view, view.counts)) + self.memory * self.lost
        cost = view.move_ns(1, view.below[view.fast[0]], view.fast[0])
        up = np.flatnonzero((self.lost > cost) & (view.tier > 0))
        return view.swap(up, self.lost, worth=2 * cost)


@dataclass
class Age(Policy):
    """Pages accessed in several scans in a row go up, pages idle for many go down (memtierd, age).

    Parameters
    ----------
    active : int, default 2
        The least number of scans in a row with an access for a page to go up.
    idle : int, default 8
        The least number of scans in a row without an access for a page to go down.
    every : int, default 1
        Epochs from scan to scan.
    """

    active: int = 2
    idle: int = 8
    every: int = 1

    def __post_init__(self) -> None:
        self.needs = [AccessedBits(self.every)]

    def start(self, view: View) -> None:
        """See `Policy.start`."""
        self.age = np.zeros(view.owner.size, np.int64)

    def epoch(self, view: View) -> Moves:
        """See `Policy.epoch`. Ages above 0 count scans accessed, below 0 scans idle."""
        if view.accessed is None:
            return NO_MOVES
        rested = np.where(self.age > 0, -1, self.age - 1)
        self.age = np.where(view.accessed, np.maximum(self.age, 0) + 1, rested)
        down = np.flatnonzero((view.tier == 0) & (self.age <= -self.idle))
        up = np.flatnonzero((view.tier > 0) & (self.age >= self.active))
        gone = np.bincount(view.node[down], minlength=view.free.size)
        return Moves.joined(view.demoted(down), _into(view, up, view.free + gone))


def _into(view: View, pages: Ints, free: Ints) -> Moves:
    """Send pages to the nodes of their programs while there is room."""
    nodes = view.home[pages]
    fits = [np.flatnonzero(nodes == nid)[: max(int(free[nid]), 0)] for nid in view.fast]
    chosen = np.sort(np.concatenate(fits))
    return Moves(pages[chosen], nodes[chosen])


@dataclass
class HeMem(Policy):
    """Sampled hot pages with cooling: pages with enough samples are hot, all counts halve in time.

    Parameters
    ----------
    period : int, default 100
        Accesses from sample to sample. HeMem's 5,000 and more are for runs of minutes.
    hot : int, default 8
        The least samples of a hot page; HeMem's for loads.
    cool : int, default 18
        Samples of one page at which all counts are halved.
    """

    period: int = 100
    hot: int = 8
    cool: int = 18

    def __post_init__(self) -> None:
        if self.cool < 1:
            raise ValueError(f"cool {self.cool} is not at least 1 sample")
        self.needs = [Samples(self.period)]

    def start(self, view: View) -> None:
        """See `Policy.start`."""
        self.heat = np.zeros(view.owner.size, np.int64)

    def epoch(self, view: View) -> Moves:
        """See `Policy.epoch`."""
        self.heat += view.samples
        while self.heat.max(initial=0) >= self.cool:
            self.heat //= 2
        hot = self.heat >= self.hot
        # Only pages that are not hot make room, however hot the others are.
        return view.swap(np.flatnonzero(hot & (view.tier > 0)), np.where(hot, self.hot, self.heat))


@dataclass
class NumaBalancing(Policy):
    """Hint faults, and a page follows the node that faulted on it twice in a row.

    Parameters
    ----------
    pages : int, default 256
        Pages made inaccessible in an epoch.
    """

    pages: int = 256

    def __post_init__(self) -> None:
        self.needs = [HintFaults(self.pages)]

    def start(self, view: View) -> None:
        """See `Policy.start`."""
        self.before = np.full(view.owner.size, -1, np.int64)

    def epoch(self, view: View) -> Moves:
        """See `Policy.epoch`."""
        faults, nodes = view.faults, view.fault_node
        twice = (self.before[faults] == nodes) & (view.node[faults] != nodes)
        self.before[faults] = nodes
        return _into(view, faults[twice], view.free)


@dataclass
class Tpp(Policy):
    """Hint faults promote pages that fault twice soon; watermarks demote the least used (TPP).

    Parameters
    ----------
    pages : int, default 512
        Slow pages made inaccessible in an epoch.
    soon : int, default 6
        Epochs within which a page has to fault to be promoted.
    low, high : float, default 0.02 and 0.05
        Demotion begins when less than ``low`` of the fast node is free, and ends at ``high``.
    every : int, default 4
        Epochs from scan to scan of the accessed bits, which show the least used pages.
    """

    pages: int = 512
    soon: int = 6
    low: float = 0.02
    high: float = 0.05
    every: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low {self.low} and high {self.high} are not 0 <= low <= high <= 1")
        self.needs = [HintFaults(self.pages, slow_only=True), AccessedBits(self.every)]

    def start(self, view: View) -> None:
        """See `Policy.start`."""
        self.age = np.zeros(view.owner.size, np.int64)

    def epoch(self, view: View) -> Moves:
        """See `Policy.epoch`."""
        self.age += 1
        if view.accessed is not None:
            self.age[view.accessed] = 0
        goes = []
        for nid in view.upper:
            if view.free[nid] < self.low * view.capacity[nid]:
                goes.append(view.room(nid, int(self.high * view.capacity[nid]), -self.age))
        down = np.concatenate([np.empty(0, np.int64), *goes])
        gone = np.bincount(view.node[down], minlength=view.free.size)
        up = view.faults[view.fault_epochs <= self.soon]
        return Moves.joined(view.demoted(down), _into(view, up, view.free + gone))


@dataclass
class Damon(Policy):
    """Region sampling: hot regions go up, cold ones down, within quotas tuned by goals (DAMON).

    The two quotas grow while the fast nodes are less full than ``used`` (promotion) or less free
    than ``free`` (demotion), and shrink otherwise, as DAMON tunes them since 6.16.

    Parameters
    ----------
    most : int, default 1000
        The most regions.
    used, free : float, default 0.997 and 0.005
        Goals, as shares of the fast nodes.
    hot : int, default 1
        The least checks that found a hot region accessed.
    """

    most: int = 1000
    used: float = 0.997
    free: float = 0.005
    hot: int = 1

    def __post_init__(self) -> None:
        self.needs = [Regions(most=self.most)]

    def start(self, view: View) -> None:
        """See `Policy.start`."""
        self.up = self.down = 1.0

    def epoch(self, view: View) -> Moves:
        """See `Policy.epoch`."""
        fast = list(view.fast)
        capacity, free = int(view.capacity[fast].sum()), int(view.free[fast].sum())
        self.up = _fed(self.up, (capacity - free) / max(self.used * capacity, 1e-9), capacity)
        self.down = _fed(self.down, free / max(self.free * capacity, 1e-9), capacity)
        found, age = (view.regions.each(x) for x in (view.regions.nr_accesses, view.regions.age))
        hot = np.flatnonzero((found >= self.hot) & (view.tier > 0))
        hot = hot[np.lexsort((-age[hot], -found[hot]))][: int(self.up)]
        cold = np.flatnonzero((found == 0) & (view.tier == 0))
        cold = cold[np.argsort(-age[cold], kind="stable")][: int(self.down)]
        gone = np.bincount(view.node[cold], minlength=view.free.size)
        return Moves.joined(view.demoted(cold), _into(view, hot, view.free + gone))


def _fed(quota: float, reached: float, most: int) -> float:
    """Return a quota after a look at its goal, of which a share was reached."""
    return float(np.clip(quota * (2 - min(reached, 2.0)), 1, most))


@dataclass
class CostBenefit(Policy):
    """Pages move if two moving averages of samples promise more than the moves cost (ARMS).

    Parameters
    ----------
    period : int, default 100
        Accesses from sample to sample.
    horizon : int, default 8
        Epochs over which a move has to pay.
    """

    period: int = 100
    horizon: int = 8

    def __post_init__(self) -> None:
        self.needs = [Samples(self.period)]

    def start(self, view: View) -> None:
        """See `Policy.start`."""
        self.short = np.zeros(view.owner.size)
        self.long = np.zeros(view.owner.size)

    def epoch(self, view: View) -> Moves:
        """See `Policy.epoch`."""
        accesses = view.samples * float(self.period)
        self.short = 0.5 * self.short + 0.5 * accesses
        self.long = 0.9 * self.long + 0.1 * accesses
        # A new hot page has to last: a burst counts for at most twice its long average.
        gain = view.gain_ns(np.minimum(self.short, 2 * self.long) * self.horizon)
        cost = view.move_ns(1, view.below[view.fast[0]], view.fast[0])
        up = np.flatnonzero((view.tier > 0) & (gain > 2 * cost))
        return view.swap(up, gain, worth=2 * cost)


@dataclass
class Colloid(Policy):
    """Pages move until the loaded latencies of the two tiers are equal (Colloid).

    The share of accesses that the fast tier should serve is searched between two marks, a lower and
    an upper bound. Hot pages move first, and in an epoch no more bytes move than the accesses that
    are to go elsewhere had.

    Parameters
    ----------
    period : int, default 100
        Accesses from sample to sample.
    delta : float, default 0.05
        Latencies that differ by less than this share are equal.
    epsilon : float, default 0.01
        Marks that are closer than this are forgotten, since the load may have changed.
    """

    period: int = 100
    delta: float = 0.05
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        self.needs = [Samples(self.period)]

    def start(self, view: View) -> None:
        """See `Policy.start`."""
        self.heat = np.zeros(view.owner.size)
        self.low, self.high = 0.0, 1.0

    def epoch(self, view: View) -> Moves:
        """See `Policy.epoch`."""
        self.heat = 0.5 * self.heat + view.samples
        there = view.node >= 0
        total = self.heat[there].sum()
        if total == 0:
            return NO_MOVES
        share = self.heat / total
        fast, slow = view.fast[0], view.below[view.fast[0]]
        now = float(share[view.tier == 0].sum())
        loaded = view.loaded[fast]
        if abs(loaded[fast] - loaded[slow]) < self.delta * loaded[fast]:
            return NO_MOVES
        if loaded[fast] < loaded[slow]:
            self.low = now
        else:
            self.high = now
        if self.high < self.low + self.epsilon:
            self.low, self.high = (now, 1.0) if loaded[fast] < loaded[slow] else (0.0, now)
        wanted = (self.low + self.high) / 2 - now
        pages = np.flatnonzero((view.tier > 0 if wanted > 0 else view.tier == 0) & (share > 0))
        pages = pages[np.argsort(-share[pages], kind="stable")]
        most = int(abs(wanted) * view.samples.sum() * self.period * LINE / PAGE)
        chosen = pages[: int(np.searchsorted(np.cumsum(share[pages]), abs(wanted), "right"))][:most]
        return view.swap(chosen, self.heat) if wanted > 0 else view.demoted(chosen)


@dataclass
class LookAhead(Policy):
    """Pages that will be used most in the next epochs move if that pays; greedy, not a bound.

    Parameters
    ----------
    horizon : int, default 10
        Epochs that it sees ahead.
    """

    horizon: int = 10

    def __post_init__(self) -> None:
        self.needs = [Future(self.horizon)]

    def epoch(self, view: View) -> Moves:
        """See `Policy.epoch`."""
        gain = view.gain_ns(_of_home(view, view.future))
        cost = view.move_ns(1, view.below[view.fast[0]], view.fast[0])
        up = np.flatnonzero((view.tier > 0) & (gain > cost))
        return view.swap(up, gain, worth=2 * cost)


#: Policies by their names in ``pagemig replay``.
POLICIES: dict[str, Callable[..., Policy]] = {
    "first-touch": FirstTouch,
    "interleave": Interleave,
    "weighted-interleave": WeightedInterleave,
    "off-node": OffNode,
    "most-used": MostUsed,
    "age": Age,
    "hemem": HeMem,
    "numa-balancing": NumaBalancing,
    "tpp": Tpp,
    "damon": Damon,
    "arms": CostBenefit,
    "colloid": Colloid,
    "look-ahead": LookAhead,
}
