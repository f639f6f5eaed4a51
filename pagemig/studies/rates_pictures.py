"""Pictures of rates: MB/s against processors, a panel for each machine."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pagemig.report import save_picture
from pagemig.studies import pictures
from pagemig.studies.rates import Curve, Model

__all__ = ["rates"]

#: Shapes and sizes that tell coinciding curves apart.
_MARKERS = (("o", 6), ("o", 6), ("D", 11), ("s", 8), ("x", 6))


def rates(
    machines: Sequence[tuple[Model, Sequence[Curve]]],
    note: Mapping[str, Any],
    path: str | os.PathLike[str],
) -> None:
    """Draw rate against the number of processors, a panel per machine, with the note's figures.

    Parameters
    ----------
    machines : sequence of (Model, sequence of Curve)
        Costs, and what `pagemig.studies.rates.rates` returned for them.
    note : mapping
        The note's figures, MB/s.
    path : path-like
        The picture; its suffix gives the format.

    Raises
    ------
    MissingError
        matplotlib is not installed.
    """
    figure = pictures.new_figure(figsize=(5.6 * len(machines), 5.4), layout="constrained")
    panels = figure.subplots(1, len(machines), sharey=True, squeeze=False)[0]
    for axes, (model, curves) in zip(panels, machines, strict=True):
        for curve, marker in zip(curves, itertools.cycle(_MARKERS)):
            _rate_curve(axes, curve, marker)
        _note_figures(axes, note)
        axes.set_title(f"{model.title} (fitted)", fontsize="medium")
        axes.set_xscale("log", base=2)
        ticks = curves[0].processors
        axes.set_xticks(ticks, labels=[str(n) for n in ticks])
        axes.set_xlabel("processors that migrate at once")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("MB/s of each")
    save_picture(figure, path)


def _rate_curve(axes: Any, curve: Curve, marker: tuple[str, int]) -> None:
    """Draw one kernel; the second reading of the note's 250 is dashed."""
    total = curve.reading == "total"
    shape, size = marker
    axes.plot(
        curve.processors,
        curve.mb_s,
        marker=shape,
        markersize=size,
        fillstyle="none",
        linestyle="--" if total else "-",
        label=curve.kernel + (", if 250 is all" if total else ""),
    )


def _note_figures(axes: Any, note: Mapping[str, Any]) -> None:
    """Draw the note's ranges for one migration, and what it says of four."""
    for design, colour in (("swap", "0.4"), ("entries", "0.7")):
        single = note[design]["single"]
        bar = {"color": colour, "linewidth": 5, "alpha": 0.6, "zorder": 0}
        name = {"swap": "swap entries", "entries": "migration entries"}[design]
        axes.plot([1, 1], [min(single), max(single)], label=f"the note, {name}", **bar)
    four = note["swap"]["four"]
    axes.plot([4, 4], [four, four / 4], "*", color="0.2", label=f"the note, {four} each or in all")
