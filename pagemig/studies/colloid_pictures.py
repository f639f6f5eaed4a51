"""Pictures of Colloid's contention sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import pictures
from .colloid import PUBLISHED, Point

__all__ = ["contention"]


def contention(points: Sequence[Point]) -> Any:
    """Draw throughput by contention, by share of the hot part, and gains beside published ones.

    Parameters
    ----------
    points : sequence of Point
        What `pagemig.studies.colloid.study` returned.

    Returns
    -------
    matplotlib.figure.Figure
    """
    near = [p for p in points if p.alternate_ns == min(point.alternate_ns for point in points)]
    figure = pictures.new_figure(figsize=(14, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    steps = [f"{point.contention}x" for point in near]
    for name, marker in (("hottest", "s"), ("balanced", "o"), ("best", "_")):
        label = {"hottest": "hottest first (HeMem)", "balanced": "Colloid", "best": "best share"}
        rates = [getattr(point, name) for point in near]
        left.plot(steps, rates, marker=marker, markersize=9, label=label[name])
    left.set_ylim(bottom=0)
    left.set_xlabel("contention")
    left.set_ylabel("million updates a second")
    left.legend()
    for point in near:
        shares = [100 * share for share, _ in point.shares]
        middle.plot(shares, [rate for _, rate in point.shares], label=f"{point.contention}x")
        middle.plot(100 * point.share, point.best, "o", color="0.2", markersize=5)
    middle.set_ylim(bottom=0)
    middle.set_xlabel("hot pages in the default tier, %")
    middle.legend(title="contention; dot: best")
    _gains(right, points, steps)
    return figure


def _gains(axes: Any, points: Sequence[Point], steps: Sequence[str]) -> None:
    """Draw Colloid against hottest first, a colour for each alternate tier."""
    for alternate in dict.fromkeys(point.alternate_ns for point in points):
        gains = [point.gain for point in points if point.alternate_ns == alternate]
        (line,) = axes.plot(steps, gains, marker="o", label=f"{alternate:g} ns")
        for system, style in (("HeMem", "--"), ("TPP", ":")):
            published = PUBLISHED[system].get(int(alternate))
            if published is not None and len(published) == len(steps):
                axes.plot(steps, published, style, color=line.get_color(), alpha=0.7)
    axes.set_xlabel("contention")
    axes.set_ylabel("Colloid against hottest first")
    axes.legend(title="alternate tier; published:\ndashed HeMem, dotted TPP", fontsize="small")
