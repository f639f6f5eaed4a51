"""Cori's period sweep: how often a policy should move pages, and how to find that period cheaply.

Doudali, Zahka, Gavrilovska, "Cori: Dancing to the Right Beat of Periodic Data Movements over Hybrid
Memory Systems" (IPDPS 2021; arXiv 2101.07200). A policy that moves hot pages once a period loses if
the period is too short, since every move costs, or too long, since it reacts too late. Cori tries
periods that are multiples of the dominant reuse distance, of which there are few. The paper claims
that a wrong period costs 10 to 100 %, and that a tuned one is within 3 % of the best.

Machine and policies are those of its simulator (github.com/GTkernel/cori-sim, `sim/`), as far as a
replay has the same; `stated` has each number with its source, and the differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pagemig import auto
from pagemig.auto.tally import tally
from pagemig.report import table
from pagemig.trace import Runs

from .replay import Plan, Progress

__all__ = ["Periodic", "Sweep", "candidates", "dominant_reuse", "report", "stated", "study"]

Ints = NDArray[np.int64]

#: Resolution of reuse distances in accesses, and the shortest period that is tried.
BIN = 1000
#: A page with so many accesses in a period is hot; its heat counts in steps of that.
STEP = 20
#: Share of the pages that the fast memory holds.
SHARE = 0.2
#: A period this close to the best is good enough for the paper.
NEAR = 0.03
#: Larger than every distance of reuse in bins: a trace has fewer than 2**41 accesses.
_FAR = 1 << 31
#: Ratio of the numbers of periods of one point of the sweep and the next.
_LONGER = 1.4

_STATED = (
    ("fast memory", "50 ns, 10 GB/s", "cori-sim, sim/perf_model.py, 'Fast:NearSlow'"),
    ("slow memory", "150 ns, 3.7 GB/s", "the same"),
    ("cost of a period", "3 us", "the same; here only periods in which pages move are charged"),
    ("cost of a move", "1 us", "the same; a page in and a page out are two"),
    ("statistics", "free", "the same"),
    ("fast share", "0.2", "cori-sim, run_cori.py"),
    ("first placement", "alternating", "sim/memory.py; here pages come with their first access"),
    ("hot", "20 accesses a period, in steps of 20", "sim/scheduler.py"),
    ("eviction", "the least recently used", "sim/scheduler.py"),
    ("reuse", "bins of 1,000 accesses, more than 2 repeats", "run_cori.py, sim/memory.py"),
    ("traces", "those of the replay", "the paper's (Rodinia and others) are not available here"),
)


class _Uses:
    """What the paper's simulator tells its policies about the past, at no cost.

    Attributes
    ----------
    counts : ndarray of int64, shape (pages,)
        Accesses of each page in the period.
    last : ndarray of int64, shape (pages,)
        Number of each page's last access, counted from the beginning; -1 for none.
    """

    oracle: ClassVar[bool] = False

    def watch(self, view: auto.View, rng: np.random.Generator) -> auto.Watch:
        """See `Source.watch`."""
        self.counts = np.zeros(view.owner.size, np.int64)
        self.last = np.full(view.owner.size, -1, np.int64)
        self._clock = 0
        return self

    def look(self, seen: auto.Seen, view: auto.View) -> list[tuple[str, NDArray[Any]]]:
        """See `Watch.look`."""
        self.counts[:] = 0
        for piece in seen.pieces():
            tally(piece.page, piece.count, self.counts)
            ends = self._clock + np.cumsum(piece.count, dtype=np.int64)
            self.last[piece.page] = ends - 1  # of several entries for one page, the last stays
            self._clock = int(ends[-1])
        return []


@dataclass
class Periodic(auto.Policy):
    """Pages used most in a period come in, the least recently used leave, as in cori-sim.

    Parameters
    ----------
    known : bool, default False
        Whether the policy knows the next period (the simulator's oracle) or only the last one (its
        history).
    """

    known: bool = False

    def __post_init__(self) -> None:
        self.uses = _Uses()
        self.needs = [self.uses, *([auto.Future(1)] if self.known else [])]

    def place(self, view: auto.View) -> Sequence[int]:
        """Return the weights of the nodes: alternating, until the fast one is full."""
        return [1] * view.capacity.size

    def start(self, view: auto.View) -> None:
        """See `Policy.start`; all its memory is in the source `_Uses`."""

    def epoch(self, view: auto.View) -> auto.Moves:
        """See `Policy.epoch`."""
        heat = (view.future.sum(axis=0) if self.known else self.uses.counts) // STEP
        hot = np.flatnonzero((heat > 0) & (view.node >= 0))
        hot = hot[np.argsort(-heat[hot], kind="stable")][: int(view.capacity[0])]
        comes = hot[view.node[hot] != 0]
        goes = view.room(0, comes.size, self.uses.last)
        return auto.Moves.joined(view.demoted(goes), (comes, np.zeros_like(comes)))


@dataclass(frozen=True)
class Sweep:
    """One trace under one policy.

    Attributes
    ----------
    trace, policy : str
        Their names.
    accesses : int
        Accesses of the trace.
    tried : dict of int to float
        Periods of the sweep, as numbers of periods in the trace, and milliseconds of each.
    reuse : int or None
        Dominant reuse distance in accesses; None if no page is reused often enough.
    tuned : dict of int to float
        The same as ``tried`` for Cori's candidates, in the order it tries them.
    still_ms, fast_ms, slow_ms : float
        Milliseconds if nothing moves, and if all memory were fast or slow.
    """

    trace: str
    policy: str
    accesses: int
    tried: dict[int, float]
    reuse: int | None
    tuned: dict[int, float]
    still_ms: float
    fast_ms: float
    slow_ms: float = field(repr=False)

    @property
    def best(self) -> int:
        """Periods of the best point of sweep and candidates."""
        every = self.tried | self.tuned
        return min(every, key=lambda periods: every[periods])

    @property
    def best_ms(self) -> float:
        """Milliseconds of the best point."""
        return min((self.tried | self.tuned).values())

    @property
    def worst(self) -> int:
        """Periods of the worst point of the sweep."""
        return max(self.tried, key=lambda periods: self.tried[periods])

    @property
    def spread(self) -> float:
        """The additional cost of the worst period, as a share of the best."""
        return self.tried[self.worst] / self.best_ms - 1

    @property
    def off(self) -> float:
        """How far Cori's best candidate is from the best period, as a share of it."""
        return min(self.tuned.values()) / self.best_ms - 1

    @property
    def trials(self) -> int | None:
        """Candidates that were tried until one was close enough; None if none was."""
        for number, ms in enumerate(self.tuned.values(), start=1):
            if ms <= (1 + NEAR) * self.best_ms:
                return number
        return None


def dominant_reuse(trace: Runs) -> int | None:
    """Return the dominant reuse distance of a trace.

    For each reuse distance, in thousands of accesses, take the pages reused at that distance more
    than once, and average how often they are. The dominant distance is the mean of the distances
    with more than two such reuses, weighted by that number; shorter distances count more.

    Parameters
    ----------
    trace : Runs
        The accesses.

    Returns
    -------
    int or None
        Accesses; None if no distance has more than two.
    """
    keys, repeats = _returns(trace)
    size = int((keys % _FAR).max(initial=0)) + 1
    keys = keys // _FAR * size + keys % _FAR
    often = repeats > 1
    sums = np.bincount(keys[often] % size, repeats[often], size)
    pages = np.bincount(keys[often] % size, minlength=size)
    mean = np.divide(sums, pages, out=np.zeros(size), where=pages > 0)
    there = 1 + np.flatnonzero(mean[1:] > 2)
    if not there.size:
        return None
    weights = mean[there] * np.linspace(1, 0, there.size) if there.size > 1 else None
    return int(np.average(BIN * there, weights=weights))


def _returns(trace: Runs) -> tuple[Ints, Ints]:
    """Count how often each page is used again at each distance of at least a bin.

    Memory is bounded by the footprint and the different distances, not by the length of the trace.

    Returns
    -------
    keys : ndarray of int64
        Page and distance in bins, as ``page * _FAR + distance``; ascending.
    repeats : ndarray of int64
        How often each occurs.
    """
    last = np.full(trace.footprint, -1, np.int64)
    keys, repeats = np.empty(0, np.int64), np.empty(0, np.int64)
    before = 0
    for index, _, count in trace.blocks:
        ends = before + np.cumsum(count, dtype=np.int64)
        order = np.argsort(index, kind="stable")
        page, start, end = index[order], (ends - count)[order], ends[order] - 1
        new = np.diff(page, prepend=-1) != 0
        since = np.where(new, last[page], np.roll(end, 1))
        last[page] = end  # of several entries for one page, the last stays
        apart = (start - since) // BIN
        again = (since >= 0) & (apart > 0)
        found, times = np.unique(
            page[again].astype(np.int64) * _FAR + apart[again], return_counts=True
        )
        keys, at = np.unique(np.concatenate((keys, found)), return_inverse=True)
        amounts = np.concatenate((repeats, times))
        repeats = np.bincount(at, amounts, keys.size).astype(np.int64)
        before = int(ends[-1])
    return keys, repeats


def candidates(accesses: int, reuse: int | None) -> list[int]:
    """Return the numbers of periods that Cori tries: multiples of the reuse, the shortest first."""
    if reuse is None:
        return [2]
    lengths = range(reuse, max(accesses // 2, reuse) + 1, reuse)
    return list(dict.fromkeys(max(accesses // length, 1) for length in lengths))


def study(
    trace: Runs, *, name: str = "", known: bool = False, progress: Progress | None = None
) -> Sweep:
    """Sweep the period of `Periodic`, and tune it as Cori does.

    Parameters
    ----------
    trace : Runs
        The accesses.
    name : str
        The name of the trace.
    known : bool
        As for `Periodic`.
    progress : callable, optional
        Called with a name and the share done.

    Returns
    -------
    Sweep
    """
    numbers, most = [2], max(trace.accesses // BIN, 2)
    while numbers[-1] < most:
        numbers.append(min(max(round(numbers[-1] * _LONGER), numbers[-1] + 1), most))
    reuse = dominant_reuse(trace)
    tuned = candidates(trace.accesses, reuse)
    wanted = list(dict.fromkeys([*numbers, *tuned]))
    found = {}
    for done, periods in enumerate(wanted, start=1):
        plan = Plan(trace, machine="cori", fast_share=SHARE, epochs=periods)
        found[periods] = plan.run(Periodic(known)).total_ns / 1e6
        if progress is not None:
            progress(f"cori {name}", done / len(wanted))
    still = plan.run("interleave")
    hardware = plan.hardware
    fast, slow = (
        max(hardware.latency[0, nid], 64 / hardware.bandwidth[0, nid]) * trace.accesses / 1e6
        for nid in (0, 1)
    )
    return Sweep(
        name or trace.header.program,
        "oracle" if known else "history",
        trace.accesses,
        {periods: found[periods] for periods in numbers},
        reuse,
        {periods: found[periods] for periods in tuned},
        still.total_ns / 1e6,
        fast,
        slow,
    )


# ---- what it says -------------------------------------------------------------------------------


def report(sweeps: Sequence[Sweep]) -> str:
    """Describe the cost of each period, and the result of tuning."""
    rows = [
        (
            sweep.trace,
            sweep.policy,
            sweep.accesses // sweep.best,
            sweep.best_ms,
            sweep.accesses // sweep.worst,
            100 * sweep.spread,
            sweep.still_ms,
            sweep.reuse,
            100 * sweep.off,
            len(sweep.tuned),
            sweep.trials,
        )
        for sweep in sweeps
    ]
    head = (
        "trace",
        "policy",
        "best period",
        "ms",
        "worst period",
        "costs %",
        "unmoved ms",
        "reuse",
        "tuned, off %",
        "candidates",
        "near after",
    )
    return "\n".join([table(rows, head, ("costs %", "tuned, off %")), "", *_words(sweeps)])


def _words(sweeps: Sequence[Sweep]) -> Iterator[str]:
    """Compare with the claims of the paper."""
    yield (
        "Periods and reuse in accesses. costs: the worst period of the sweep relative to the best; "
        "off: the best\nof Cori's candidates; near after: candidates tried until one is within 3 %."
    )
    yield ""
    spreads = [100 * sweep.spread for sweep in sweeps]
    yield (f"A wrong period costs {min(spreads):.0f} to {max(spreads):.0f} % (paper: 10 to 100 %).")
    off = [100 * sweep.off for sweep in sweeps]
    near = sum(sweep.trials is not None for sweep in sweeps)
    yield (
        f"Tuned by reuse it is {min(off):.1f} to {max(off):.1f} % off the best; within 3 % in "
        f"{near} of {len(sweeps)} (paper: within 3 %)."
    )


def stated() -> str:
    """Lay out the parameters and their sources, a line each."""
    return table(_STATED, ("parameter", "value", "source"))
