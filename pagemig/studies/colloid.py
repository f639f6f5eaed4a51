"""Colloid's contention sweep: the hottest pages in the nearer memory, while others load it.

Vuppalapati and Agarwal, "Tiered Memory Management: Access Latency is the Key!" (SOSP 2024). A
program makes random updates to a working set, most of them in a hot part, beside an antagonist on
the default tier. The more bandwidth the antagonist takes, the slower the default tier becomes,
until the alternate tier would serve hot pages faster. Three placements are compared: HeMem's (the
hottest pages in the default tier), Colloid's (equal loaded latencies), and the best of all shares
of the hot part.

`PARAMETERS` has each number with its source. One of them, the accesses in flight, is fitted to the
throughput without an antagonist; the results under contention are then predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from pagemig import auto
from pagemig.report import table
from pagemig.trace import Header, Trace

from .replay import Conditions, Plan, Progress, Run

__all__ = [
    "PARAMETERS",
    "PUBLISHED",
    "Fixed",
    "Parameters",
    "Point",
    "gups",
    "machine",
    "report",
    "stated",
    "study",
]


#: HeMem with Colloid against HeMem, and TPP with Colloid against TPP, by idle latency of the
#: alternate tier (down) and contention (across): sosp24-artifact of github.com/host-architecture/
#: colloid, the tables of figures 6a and 6b.
PUBLISHED = {
    "HeMem": {
        135: (1.008, 1.173, 1.652, 2.361),
        148: (0.996, 1.090, 1.536, 2.191),
        168: (0.993, 1.023, 1.373, 1.973),
        192: (0.992, 1.014, 1.254, 1.765),
    },
    "TPP": {
        135: (1.025, 1.101, 1.424, 1.806),
        148: (1.011, 1.067, 1.329, 1.717),
        168: (1.016, 1.015, 1.227, 1.589),
        192: (1.003, 1.012, 1.144, 1.497),
    },
}


@dataclass(frozen=True)
class Parameters:
    """Parameters of the study; ``says`` has the source of each number.

    Attributes
    ----------
    working_gib, hot_gib, default_gib : float
        Working set, its hot part, and the default tier.
    hot_accesses : float
        Share of the updates that go to the hot part.
    overlap : float
        Accesses of all cores that are in flight at once.
    taken : tuple of float
        Share of the default tier's bandwidth that the antagonist takes, by contention 0, 1, 2, ...
    alternates : tuple of float
        Idle latencies of the alternate tier, ns.
    page_mib : float
        Size that a page of the model stands for.
    updates, epochs, period : int
        Updates in an epoch, epochs, and accesses from sample to sample.
    """

    working_gib: float = field(
        default=72, metadata={"says": "WSS of apps/gups/gups-opt.c, the artifact"}
    )
    hot_gib: float = field(default=20, metadata={"says": "HOTSS of the same file"})
    default_gib: float = field(
        default=31.5, metadata={"says": "dax1.0 in sosp24-artifact/hemem/test.md, 33.8e9 bytes"}
    )
    hot_accesses: float = field(default=0.9, metadata={"says": "gups-opt.c: 90 of 100"})
    overlap: float = field(
        default=134,
        metadata={
            "says": "fitted: 607 M updates/s of 15 cores without an antagonist (test.md); "
            "8.9 lines a core"
        },
    )
    taken: tuple[float, ...] = field(
        default=(0, 0.51, 0.65, 0.70),
        metadata={"says": "U: 0, 5, 10 and 15 cores alone; assumed not to yield to the program"},
    )
    alternates: tuple[float, ...] = field(
        default=(135, 148, 168, 192), metadata={"says": "artifact, figure 6; uncore slowed down"}
    )
    page_mib: float = field(default=16, metadata={"says": "chosen, so that a run takes a second"})
    updates: int = field(default=20_000, metadata={"says": "chosen"})
    epochs: int = field(default=60, metadata={"says": "chosen; the last half is measured"})
    period: int = field(
        default=10,
        metadata={"says": "chosen: 3 samples of a hot page an epoch; they cost nothing here"},
    )

    @property
    def pages(self) -> int:
        """Pages of the working set."""
        return round(self.working_gib * 1024 / self.page_mib)

    @property
    def hot(self) -> int:
        """Pages of the hot part, which are the last."""
        return round(self.hot_gib * 1024 / self.page_mib)


PARAMETERS = Parameters()


def machine(alternate_ns: float) -> auto.Hardware:
    """Return the machine of the paper, with this idle latency of the alternate tier.

    The artifact samples, moves and copies on separate cores and measures after pages have settled,
    so none of that is charged to the program. Copies still load the memory.
    """
    free = dict.fromkeys(
        ("call_us", "look_us", "there_us", "page_us", "flush_us", "ipi_us", "sample_ns"), 0.0
    )
    return auto.hardware("colloid").changed(slow_ns=alternate_ns, copy_gbs=1e9, **free)


def gups(parameters: Parameters = PARAMETERS, seed: int = 0) -> Trace:
    """Make random updates: every page once in order, then lines that are read and written back.

    Parameters
    ----------
    parameters : Parameters
        Sizes and shares.
    seed : int
        Seed of the updates.
    """
    rng = np.random.default_rng(seed)
    cold, number = parameters.pages - parameters.hot, parameters.updates * parameters.epochs
    hot = rng.random(number) < parameters.hot_accesses
    pages = np.where(
        hot, cold + rng.integers(0, parameters.hot, number), rng.integers(0, cold, number)
    )
    pages = np.concatenate([np.arange(parameters.pages), np.repeat(pages, 2)])
    writes = np.ones(pages.size, np.bool_)
    writes[parameters.pages :: 2] = False
    return Trace.from_accesses(pages, writes, header=Header(program="random updates"))


@dataclass
class Fixed(auto.Policy):
    """A share of the hot part in the default tier, cold pages in the remaining room.

    Parameters
    ----------
    share : float
        Share of the hot pages.
    hot : int
        Hot pages, the last ones of the program.
    """

    share: float
    hot: int

    def start(self, view: auto.View) -> None:
        """See `Policy.start`."""

    def epoch(self, view: auto.View) -> auto.Moves:
        """See `Policy.epoch`; pages move once, after the first epoch."""
        if view.epoch:
            return auto.NO_MOVES
        size, room = view.node.size, int(view.capacity[0])
        hot = size - self.hot + np.arange(min(round(self.share * self.hot), room))
        cold = np.arange(min(room - hot.size, size - self.hot))
        wanted = np.ones(size, np.int64)
        wanted[hot] = wanted[cold] = 0
        away = np.flatnonzero((view.node == 0) & (wanted == 1))
        back = np.flatnonzero((view.node == 1) & (wanted == 0))
        return auto.Moves.joined((away, np.ones_like(away)), (back, np.zeros_like(back)))


@dataclass(frozen=True)
class Point:
    """The results for one contention and one alternate tier.

    Attributes
    ----------
    contention : int
        The antagonist's step, from 0.
    alternate_ns : float
        Idle latency of the alternate tier.
    hottest, balanced, best : float
        Millions of updates a second: HeMem's, Colloid's, and the best placement's.
    share : float
        The best share of the hot part in the default tier.
    shares : tuple of (float, float)
        All shares tried, and their millions of updates a second.
    loaded : tuple of float
        Latencies of both tiers with the hottest pages in the default tier, ns.
    """

    contention: int
    alternate_ns: float
    hottest: float
    balanced: float
    best: float
    share: float
    shares: tuple[tuple[float, float], ...]
    loaded: tuple[float, float]

    @property
    def gain(self) -> float:
        """Colloid's throughput relative to HeMem's."""
        return self.balanced / self.hottest

    @property
    def lost(self) -> float:
        """The best placement's throughput relative to HeMem's."""
        return self.best / self.hottest


def study(
    parameters: Parameters = PARAMETERS, *, seed: int = 0, progress: Progress | None = None
) -> list[Point]:
    """Run the sweep.

    Parameters
    ----------
    parameters : Parameters
        The parameters.
    seed : int
        Seed of updates and samples.
    progress : callable, optional
        Called with a name and the share done.

    Returns
    -------
    list of Point
        By alternate tier, then by contention.
    """
    trace = gups(parameters, seed)
    plan = _plan(trace, parameters, parameters.alternates[0], 0)
    tried = [(k / 10, plan.run(Fixed(k / 10, parameters.hot))) for k in range(11)]
    hottest = plan.run(auto.HeMem(period=parameters.period), seed=seed)
    steps = [(a, k) for a in parameters.alternates for k in range(len(parameters.taken))]
    points = []
    for number, (alternate, contention) in enumerate(steps):
        own = _plan(trace, parameters, alternate, contention)
        settled = own.run(auto.Colloid(period=parameters.period), seed=seed)
        # Neither placement depends on latencies, so one run of each is priced in all conditions.
        rates = tuple((share, _rate(run, own)) for share, run in tried)
        share, best = max(rates, key=lambda pair: pair[1])
        bill = hottest.bill(own.hardware, background=own.conditions.background)
        loaded = bill.latency[-1, 0]
        points.append(
            Point(
                contention,
                alternate,
                _rate(hottest, own),
                _rate(settled, own),
                best,
                share,
                rates,
                (float(loaded[0]), float(loaded[1])),
            )
        )
        if progress is not None:
            progress("colloid", (number + 1) / len(steps))
    return points


def _plan(trace: Trace, parameters: Parameters, alternate: float, contention: int) -> Plan:
    hardware = machine(alternate)
    taken = parameters.taken[contention] * float(hardware.bandwidth[0, 0])
    return Plan(
        trace,
        machine=hardware,
        fast_share=parameters.default_gib / parameters.working_gib,
        epochs=parameters.epochs,
        conditions=Conditions(overlap=parameters.overlap, background=(taken, 0.0)),
    )


def _rate(run: Run, plan: Plan) -> float:
    """Return millions of updates a second over the last half of a run, in a plan's conditions."""
    bill = run.bill(plan.hardware, background=plan.conditions.background)
    half = plan.epochs // 2
    updates = run.traffic.accesses[half:].sum() / 2
    return float(1e3 * updates / bill.duration[half:].sum())


# ---- what it says -------------------------------------------------------------------------------


def report(points: Sequence[Point], parameters: Parameters = PARAMETERS) -> str:
    """Describe the sweep, the published numbers beside it, and where they differ."""
    near = [point for point in points if point.alternate_ns == min(parameters.alternates)]
    rows = [
        (
            f"{point.contention}x",
            point.loaded[0],
            point.loaded[1],
            point.hottest,
            point.balanced,
            point.best,
            100 * point.share,
            point.lost,
        )
        for point in near
    ]
    head = (
        "contention",
        "default ns",
        "alternate ns",
        "hottest M/s",
        "colloid M/s",
        "best M/s",
        "hot there %",
        "best/hottest",
    )
    return "\n".join(
        [
            table(rows, head),
            "Millions of updates a second. Latencies are those with the hottest pages in the",
            "default tier; hot there: the best share of the hot part in the default tier.",
            "",
            "Colloid relative to the hottest pages, by idle latency of the alternate tier (ns):",
            _gains(points, parameters),
            "",
            *_words(points, parameters),
        ]
    )


def _gains(points: Sequence[Point], parameters: Parameters) -> str:
    """Lay out the model's gains beside the published ones, step by step."""
    rows: list[tuple[Any, ...]] = []
    for alternate in parameters.alternates:
        own = [point.gain for point in points if point.alternate_ns == alternate]
        rows.append((f"{alternate:g}", "model", *own))
        for system, published in PUBLISHED.items():
            if alternate in published and len(own) == len(published[int(alternate)]):
                rows.append(("", f"{system}, published", *published[int(alternate)]))
    steps = [f"{k}x" for k in range(len(parameters.taken))]
    return table(rows, ("alternate", "", *steps))


def _words(points: Sequence[Point], parameters: Parameters) -> Iterator[str]:
    """Compare with what the paper claims."""
    near = [point for point in points if point.alternate_ns == min(parameters.alternates)]
    last = near[-1]
    short = min(point.balanced / point.best for point in points)
    yield f"Without an antagonist the gain is {near[0].gain:.2f} (paper: none)."
    yield (
        f"At {last.contention}x the default tier's latency is {last.loaded[0] / last.loaded[1]:.1f}"
        " times the alternate's (paper: up to 2.5), and the best placement is "
        f"{last.lost:.2f} times as fast as the hottest pages there (paper: up to 2.3)."
    )
    yield f"Colloid comes within {100 * (1 - short):.0f} % of the best placement everywhere."


def stated(parameters: Parameters = PARAMETERS) -> str:
    """Lay out the parameters and their sources, a line each."""
    rows = [
        (fact.name, str(getattr(parameters, fact.name)), fact.metadata["says"])
        for fact in fields(parameters)
    ]
    return table(rows, ("parameter", "value", "source"))
