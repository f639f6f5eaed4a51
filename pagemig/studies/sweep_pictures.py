"""Pictures of sweeps: time against size, and gain over sizes and periods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import pictures
from .replay_pictures import png
from .sweep import helps

__all__ = ["curves", "drawn", "heat"]

Row = dict[str, Any]


def _panels(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["trace"], row["machine"]) for row in rows))


def _own(rows: Sequence[Row], panel: tuple[str, str]) -> list[Row]:
    return [row for row in rows if (row["trace"], row["machine"]) == panel]


def curves(rows: Sequence[Row]) -> Any:
    """Draw time against size for each policy, a band over seeds and periods, the bound below.

    Parameters
    ----------
    rows : sequence of dict
        What `pagemig.studies.sweep.sweep` returned.

    Returns
    -------
    matplotlib.figure.Figure
    """
    panels = _panels(rows)
    figure = pictures.new_figure(figsize=(5.2 * len(panels), 4.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        own = _own(rows, panel)
        sizes = sorted({row["fast_share"] for row in own})
        for policy in dict.fromkeys(row["policy"] for row in own):
            times = [_times(own, size, policy) for size in sizes]
            (line,) = axes.plot(sizes, [np.median(t) for t in times], marker="o", label=policy)
            axes.fill_between(
                sizes,
                [min(t) for t in times],
                [max(t) for t in times],
                color=line.get_color(),
                alpha=0.15,
                linewidth=0,
            )
        bounds = [
            [r["bound_ns"] / 1e6 for r in own if r["fast_share"] == size and r["bound_ns"]]
            for size in sizes
        ]
        if all(bounds):
            least = [min(bound) for bound in bounds]
            axes.plot(sizes, least, color="0.2", linestyle="--", label="no policy is below")
        axes.set_title(", ".join(panel), fontsize="medium")
        axes.set_xlabel("fast memory, share of the pages")
        axes.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("memory time, looking and moving, ms")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _times(rows: Sequence[Row], size: float, policy: str) -> list[float]:
    return [
        row["total_ns"] / 1e6
        for row in rows
        if row["fast_share"] == size and row["policy"] == policy
    ]


def heat(rows: Sequence[Row]) -> Any:
    """Draw the gain over period and size, a panel for each policy, with a line where it is 0.

    Parameters
    ----------
    rows : sequence of dict
        What `pagemig.studies.sweep.sweep` returned.

    Returns
    -------
    matplotlib.figure.Figure
    """
    panels = _panels(rows)
    policies = [p for p in dict.fromkeys(r["policy"] for r in rows) if p != rows[0]["base"]]
    figure = pictures.new_figure(
        figsize=(3.6 * max(len(policies), 1) + 1, 3.2 * len(panels) + 0.4), layout="constrained"
    )
    grid = figure.subplots(len(panels), max(len(policies), 1), squeeze=False)
    image = None
    for line, panel in zip(grid, panels, strict=True):
        own = _own(rows, panel)
        for axes, policy in zip(line, policies, strict=False):
            image = _gains(axes, own, policy)
            axes.set_title(f"{policy}, {', '.join(panel)}", fontsize="small")
        line[0].set_ylabel("fast memory, share of the pages")
    for axes in grid[-1]:
        axes.set_xlabel("epochs")
    if image is not None:
        figure.colorbar(image, ax=grid, label=f"gain against {rows[0]['base']}, %")
    return figure


def _gains(axes: Any, rows: Sequence[Row], policy: str) -> Any:
    points = helps(rows, policy)
    shares, periods = (sorted({point[k] for point in points}) for k in (0, 1))
    gain = np.full((len(shares), len(periods)), np.nan)
    for share, epochs, value in points:
        gain[shares.index(share), periods.index(epochs)] = 100 * value
    image = axes.imshow(gain, origin="lower", aspect="auto", cmap="RdBu", vmin=-50, vmax=50)
    axes.set_xticks(range(len(periods)), [str(epochs) for epochs in periods])
    axes.set_yticks(range(len(shares)), [f"{share:g}" for share in shares])
    for (row, column), value in np.ndenumerate(gain):
        if np.isfinite(value):
            axes.text(column, row, f"{value:+.0f}", ha="center", va="center", fontsize="small")
    if min(gain.shape) > 1 and np.nanmin(gain) < 0 < np.nanmax(gain):
        axes.contour(gain, levels=[0], colors="0.1", linewidths=1.5)
    return image


def drawn(rows: Sequence[Row]) -> Sequence[tuple[str, bytes]]:
    """Draw all pictures of a sweep; return them with their headings."""
    return [
        ("Gain over period and size", png(heat(rows))),
        ("Time against size", png(curves(rows))),
    ]
