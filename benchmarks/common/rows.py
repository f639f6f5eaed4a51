"""Rows of the table: a figure, the reference loop beside it, the target, a saved run's figure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.reference import Reference
from common.timing import Samples
from pagemig.report import table

#: A reference this much slower than at its best of the session was disturbed.
UNSTEADY = 1.5

#: What a random line update took where the targets were set, in nanoseconds.
LINE_NS = 7.7

#: The same of a ``numpy.empty(1)``.
EMPTY_NS = 120

HEADER = (
    *("subject", "M/s", "of", "ns", "min", "wall"),
    *("result", "best", "in", "of ns", "target", "reached", "before"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should reach, in units of its reference.

    Attributes
    ----------
    value : float
        The bound.
    at_least : bool
        The figure is a share or a speed-up, the more the better; a cost otherwise.
    """

    value: float
    at_least: bool = False

    def met(self, figure: float) -> bool:
        """Whether a figure reaches it."""
        return figure >= self.value if self.at_least else figure <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.value:.3g}"


def lines_at(rate: float) -> Target:
    """A rate in millions a second, as the line updates that fitted in a unit where it was set."""
    return Target(1e3 / rate / LINE_NS)


def calls_of(microseconds: float) -> Target:
    """Time of a call from Python, as the small arrays that numpy made in it where it was set."""
    return Target(microseconds * 1e3 / EMPTY_NS)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    subject, unit : str
        What was measured, and what of it is counted (``"page"``).
    times : dict
        Nanoseconds per unit: ``Samples.describe``; empty for what is no time.
    result, best : float
        In units of the reference: median of the repetitions, and minimum over minimum.
    of : str
        The unit of the result: ``"line update"``.
    of_ns : float, optional
        What that took beside the repetitions, median.
    target : Target, optional
        What it should reach.
    steady : bool, default True
        The reference ran as fast as at other times of the session.
    """

    subject: str
    unit: str
    times: dict[str, float]
    result: float
    best: float
    of: str
    of_ns: float | None = None
    target: Target | None = None
    steady: bool = True

    @property
    def verdict(self) -> str:
        """``yes``, ``best`` if only the best repetition reaches the target, or ``no``.

        ``?``: the host was too busy to tell.
        """
        if self.target is None:
            return ""
        if not self.steady:
            return "?"
        if self.target.met(self.result):
            return "yes"
        return "best" if self.target.met(self.best) else "no"

    def info(self) -> dict[str, Any]:
        """What is saved of it."""
        saved: dict[str, Any] = {"subject": self.subject, "unit": self.unit, "of": self.of}
        saved |= {"of_ns": self.of_ns, "result": self.result, "best": self.best, **self.times}
        if self.times:
            saved["rate_per_s"] = 1e9 / self.times["cpu_median_ns"]
        if self.target is not None:
            saved |= {"target": str(self.target), "verdict": self.verdict}
        return saved

    def cells(self, saved: float | None) -> list[str]:
        """The line, with the change against a saved result."""
        before = "" if not saved else f"{saved:.3g} ({self.result / saved - 1:+.0%})"
        median = self.times.get("cpu_median_ns")
        return [
            self.subject,
            _cell(median and 1e3 / median),
            self.unit,
            *(_cell(self.times.get(k)) for k in ("cpu_median_ns", "cpu_min_ns", "wall_median_ns")),
            _cell(self.result),
            _cell(self.best),
            self.of,
            _cell(self.of_ns),
            str(self.target or ""),
            self.verdict,
            before,
        ]


def _cell(value: float | None) -> str:
    """Three digits, a whole number if it has more."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def bytes_row(subject: str, per_frame: float, target: Target | None = None) -> Row:
    """A row of bytes of the host for each frame of the model."""
    return Row(subject, "", {}, per_frame, per_frame, "bytes/frame", target=target)


def beside(
    subject: str,
    unit: str,
    times: Samples,
    reference: Reference,
    samples: Samples,
    target: Target | None = None,
) -> Row:
    """A row of times and of the repetitions of a reference between them."""
    share = target is not None and target.at_least
    result, best = cost(times, samples, share=share)
    median = statistics.median(samples.cpu)
    return Row(
        subject,
        unit,
        times.describe(),
        result,
        best,
        reference.unit,
        median * 1e9,
        target,
        steady=median < UNSTEADY * reference.best,
    )


def cost(times: Samples, reference: Samples, *, share: bool = False) -> tuple[float, float]:
    """Cost in units of a reference loop, or share of its speed: median of pairs, best of bests.

    Repetition by repetition, so that a slow moment of the host slows both down.
    """
    pairs = list(zip(times.cpu, reference.cpu, strict=True))
    if share:
        return statistics.median(r / t for t, r in pairs), min(reference.cpu) / min(times.cpu)
    return statistics.median(t / r for t, r in pairs), min(times.cpu) / min(reference.cpu)


def saved_results(path: Path | None) -> dict[str, float]:
    """Result by subject of a saved run; none without one."""
    if path is None:
        return {}
    infos = (entry["extra_info"] for entry in json.loads(path.read_text())["benchmarks"])
    rows = [row for info in infos for row in info.get("rows", [])]
    return {f"{row['subject']}/{row['of']}": row["result"] for row in rows}


def latest_run(storage: Path) -> Path | None:
    """The newest saved run; names begin with a rising number."""
    return max(storage.rglob("[0-9]*.json"), key=lambda path: path.name, default=None)


def without_targets(rows: Iterable[Row]) -> list[Row]:
    """Rows of a run that is too small for its targets to mean anything."""
    return [replace(row, target=None) for row in rows]


def render(rows: Iterable[Row], saved: dict[str, float]) -> str:
    """The table."""
    return table((row.cells(saved.get(f"{row.subject}/{row.of}")) for row in rows), HEADER)
