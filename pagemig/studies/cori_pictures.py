"""Pictures of Cori's period sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import pictures
from .cori import NEAR, Sweep

__all__ = ["periods"]


def periods(sweeps: Sequence[Sweep]) -> Any:
    """Draw time against the period, a panel for each trace; Cori's candidates as dots.

    Parameters
    ----------
    sweeps : sequence of Sweep
        What `pagemig.studies.cori.study` returned.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = list(dict.fromkeys(sweep.trace for sweep in sweeps))
    figure = pictures.new_figure(figsize=(4.8 * len(names), 4.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        own = [sweep for sweep in sweeps if sweep.trace == name]
        for sweep in own:
            lengths = [sweep.accesses / number for number in sweep.tried]
            (line,) = axes.plot(lengths, list(sweep.tried.values()), label=sweep.policy)
            tuned = [sweep.accesses / number for number in sweep.tuned]
            axes.plot(tuned, list(sweep.tuned.values()), "o", color=line.get_color(), markersize=4)
            axes.axhspan(
                sweep.best_ms, (1 + NEAR) * sweep.best_ms, color=line.get_color(), alpha=0.2
            )
        axes.axhline(own[0].still_ms, color="0.4", linestyle="--", label="nothing moves")
        axes.axhline(own[0].fast_ms, color="0.7", linestyle=":", label="all fast")
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("period, accesses")
    figure.axes[0].set_ylabel("ms")
    figure.axes[0].legend(title="dots: Cori's candidates;\nband: within 3 %", fontsize="small")
    return figure
