"""Results of runs beside each other and beside the optimum: tables, rows, sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pagemig import __version__, auto
from pagemig.auto.costs import TERMS
from pagemig.report import table

from .programs import trace_hash
from .replay import Plan, Run

__all__ = ["OVERLAPS", "Comparison"]

#: Overlaps for which a gain is given, relative to the plan's, which tables are about.
OVERLAPS = (1.0, 2.0, 4.0)


@dataclass
class Comparison:
    """Runs of one plan; the others are compared with the first.

    Attributes
    ----------
    runs : sequence of Run
        The runs.
    bounded : bool
        Whether to compute the optimum, which takes a second or more for each overlap.
    """

    runs: Sequence[Run]
    bounded: bool = True

    @property
    def plan(self) -> Plan:
        """The plan of all runs."""
        return self.runs[0].plan

    @property
    def base(self) -> Run:
        """The run that the others are compared with."""
        return self.runs[0]

    @cached_property
    def _bounds(self) -> dict[float, auto.Optimum]:
        return {}

    def share_bounds(self, other: Comparison) -> None:
        """Use the bounds that another comparison of the same plan has found."""
        if other.plan is not self.plan:
            raise ValueError("bounds are shared between comparisons of one plan")
        self._bounds.update(other._bounds)

    def bound(self, overlap: float | None = None) -> auto.Optimum | None:
        """Return the optimum at an overlap; None if it is not computed.

        If one of the runs moved pages in the background, it is the bound for such moves.
        """
        if not self.bounded:
            return None
        at = self.plan.conditions.overlap if overlap is None else overlap
        if at not in self._bounds:
            blocking = not any(run.background for run in self.runs)
            self._bounds[at] = self.plan.optimum(overlap=at, blocking=blocking)
        return self._bounds[at]

    def gain(self, run: Run, overlap: float | None = None) -> float:
        """Return the share of the base's time that a run saved, all costs paid; negative: lost."""
        at = self.plan.conditions.overlap if overlap is None else overlap
        base = self.base.bill(overlap=at).total_ns
        return 1 - run.bill(overlap=at).total_ns / base if base else 0.0

    def possible(self, run: Run, overlap: float | None = None) -> float | None:
        """Return a run's share of the possible saving; None without a bound or such a saving."""
        best = self.bound(overlap)
        if best is None:
            return None
        at = self.plan.conditions.overlap if overlap is None else overlap
        base = self.base.bill(overlap=at).total_ns
        hope = base - best.bound_ns
        return (base - run.bill(overlap=at).total_ns) / hope if hope > 1e-9 * base else None

    # ---- for people ----------------------------------------------------------------------------

    def table(self) -> str:
        """Lay out the runs and the optimum as an aligned table.

        Returns
        -------
        str
            Columns: the policy, with ``*`` for an oracle; share of local accesses; pages migrated;
            pages not moved as asked, by status; milliseconds of memory time, of statistics and of
            moves; the gain (+) or loss (-) against the first run, and the gain if four accesses
            overlapped; the gain as a share of the possible one.
        """
        rows = [self._row(run) for run in self.runs]
        best = self.bound()
        if best is not None:
            base = self.base.total_ns
            saved = base - best.bound_ns
            access, moved = self._split(best)
            rows.append(
                (
                    "optimum",
                    100 * self._local(best),
                    moved,
                    "",
                    access / 1e6,
                    0.0,
                    (best.reached_ns - access) / 1e6,
                    saved / 1e6,
                    100 * saved / base if base else 0.0,
                    self._late(),
                    100.0,
                )
            )
        signed = ("gain ms", "gain %", f"overlap {self.overlaps[-1]:g}", "of possible %")
        head = (
            "policy",
            "local %",
            "migrated",
            "not moved",
            "access ms",
            "look ms",
            "moving ms",
            *signed,
        )
        return table(rows, head, signed)

    def _row(self, run: Run) -> tuple[object, ...]:
        bill = run.bill()
        first = run is self.base
        possible = None if first else self.possible(run)
        return (
            run.name + " *" * run.oracle,
            100 * run.local_share,
            int(run.moved.sum()),
            ", ".join(f"{name} {n}" for name, n in run.refused.most_common()) or "none",
            bill.access_ns / 1e6,
            bill.statistics_ns / 1e6,
            bill.moving_ns / 1e6,
            None if first else (self.base.total_ns - bill.total_ns) / 1e6,
            None if first else 100 * self.gain(run),
            None if first else 100 * self.gain(run, self.overlaps[-1]),
            None if possible is None else 100 * possible,
        )

    def _late(self) -> float | None:
        """Return the optimum's gain at the greatest overlap."""
        at = self.overlaps[-1]
        best, base = self.bound(at), self.base.bill(overlap=at).total_ns
        return None if best is None or not base else 100 * (1 - best.bound_ns / base)

    def _split(self, best: auto.Optimum) -> tuple[float, int]:
        """Return memory time and moves of the optimum's placement."""
        demand, access = self.plan.demand, 0.0
        latency = self.plan.hardware.latency / self.plan.conditions.overlap
        for counts, node in zip(demand.counts, best.placement, strict=True):
            for source, row in zip(demand.sources, counts, strict=True):
                by_node = np.bincount(node + 1, row, latency.shape[0] + 1)[1:]
                access += float(by_node @ latency[source])
        before, after = best.placement[:-1], best.placement[1:]
        moved = np.count_nonzero((before != after) & (before >= 0) & (after >= 0))
        return access, int(moved)

    def _local(self, best: auto.Optimum) -> float:
        demand = self.plan.demand
        local = sum(
            int(counts[k][node == source].sum())
            for counts, node in zip(demand.counts, best.placement, strict=True)
            for k, source in enumerate(demand.sources)
        )
        return local / max(int(demand.counts.sum(dtype=np.int64)), 1)

    def programs(self) -> str:
        """Lay out each program's time under each policy; empty for a single program."""
        if len(self.plan.programs) < 2:
            return ""
        rows = [
            (run.name, *(ns / 1e6 for ns in run.bill().by_program.tolist())) for run in self.runs
        ]
        return table(rows, ("policy, ms", *(program.name for program in self.plan.programs)))

    def verdict(self) -> Iterator[str]:
        """Say in a sentence for each policy that moved pages whether it paid.

        Yields
        ------
        str
            Its gain, its share of the possible gain, the cost and saving of a page, the dependence
            on the overlap, and pages that came back.
        """
        base = self.base
        for run in self.runs[1:]:
            moved, net = int(run.moved.sum()), base.total_ns - run.total_ns
            if not moved:
                continue
            possible = self.possible(run)
            spread = sorted(100 * self.gain(run, at) for at in self.overlaps)
            words = (
                f"{run.name} {'gains' if net > 0 else 'loses'} {abs(net) / 1e6:.1f} ms "
                f"({abs(net) / base.total_ns:.1%}) of memory time against {base.name}"
            )
            if possible is not None and net > 0:
                words += f", {possible:.0%} of what was possible"
            words += (
                f": a page moved cost {run.moving_ns / moved / 1e3:.2f} us and saved "
                f"{(base.access_ns - run.access_ns) / moved / 1e3:.2f} us"
            )
            if run.statistics_ns:
                words += f", looking took {run.statistics_ns / 1e6:.1f} ms"
            words += f". With overlap {self.overlaps[0]:g} to {self.overlaps[-1]:g}: "
            words += f"{spread[0]:+.1f} to {spread[-1]:+.1f} %."
            away = run.ping_pong()
            if away.size:
                words += (
                    f" {away.size} times a page left the fast node and came back, half of them "
                    f"within {int(np.median(away))} epochs."
                )
            yield words

    @property
    def overlaps(self) -> tuple[float, ...]:
        """Overlaps for which a gain is given, the plan's first."""
        return tuple(self.plan.conditions.overlap * at for at in OVERLAPS)

    # ---- for programs --------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each run and overlap, with everything it depends on.

        Returns
        -------
        list of dict
            Plain values, in the same order of keys; `pagemig.report.save` writes them.
        """
        return [self.row(run, overlap) for run in self.runs for overlap in self.overlaps]

    def row(self, run: Run, overlap: float, *, bounded: bool = True) -> dict[str, Any]:
        """Return one run at one overlap as plain values, without the optimum if unbounded."""
        plan, bill = self.plan, run.bill(overlap=overlap)
        best = self.bound(overlap) if bounded else None
        away = run.ping_pong()
        conditions = asdict(plan.conditions)
        conditions["background"] = json.dumps(conditions["background"])
        return {
            "version": __version__,
            "trace": " + ".join(program.name for program in plan.programs),
            "trace_hash": " + ".join(trace_hash(program.trace) for program in plan.programs),
            "accesses": plan.accesses,
            "pages": plan.pages,
            "machine": plan.hardware.name,
            "kernel": plan.kernel,
            "fast_share": plan.fast_share,
            "epochs": plan.epochs,
            "rotate": plan.rotate,
            "policy": run.name,
            "oracle": run.oracle,
            "seed": run.seed,
            **conditions,
            "overlap": overlap,
            "local_share": run.local_share,
            "moved": int(run.moved.sum()),
            "calls": run.calls,
            "refused": json.dumps(dict(run.refused)),
            "came_back": int(away.size),
            "away_epochs": float(np.median(away)) if away.size else 0.0,
            **{f"{name}_ns": float(bill.terms[name].sum()) for name in TERMS},
            "agent_ns": float(bill.agent.sum()),
            "total_ns": bill.total_ns,
            "programs_ns": json.dumps(
                {
                    program.name: ns
                    for program, ns in zip(plan.programs, bill.by_program.tolist(), strict=True)
                }
            ),
            "base": self.base.name,
            "gain": self.gain(run, overlap),
            "possible": self.possible(run, overlap) if bounded else None,
            "bound_ns": None if best is None else best.bound_ns,
            "reached_ns": None if best is None else best.reached_ns,
        }
