"""Pictures, where matplotlib is installed; without it everything else works."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pagemig.studies.rates import Curve, Model
    from pagemig.studies.replay import Run
    from pagemig.studies.story import Story

__all__ = ["MissingError", "check", "placements", "rates", "residency"]

#: Bands of pages a residency map is drawn with; more would be finer than the picture.
BANDS = 400

#: Shapes and sizes by which curves that lie on each other can be told apart.
_MARKERS = (("o", 6), ("o", 6), ("D", 11), ("s", 8), ("x", 6))

#: What the colours of a residency map mean.
_COLOURS = "share of neighbouring pages on\nthe fast node (white: untouched)"


class MissingError(RuntimeError):
    """matplotlib is not installed; the message says how to get it."""


def _figure(**options: Any) -> Any:
    """A new figure that needs no screen."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingError(
            "pictures need matplotlib, which is not installed: pip install 'pagemig[plot]'"
        ) from None
    return Figure(**options)


def check(path: str | os.PathLike[str]) -> None:
    """Refuse a picture that could not be written, before any work is done for it.

    Raises
    ------
    ValueError
        If the file's kind is not one of .png, .svg, .pdf.
    FileNotFoundError
        If its directory does not exist.
    """
    target = Path(path)
    if target.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"a picture is .png, .svg or .pdf, not {target.name!r}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(target.parent)!r} for the picture")


def bands(residency: NDArray[np.int8], slow: int, number: int = BANDS) -> NDArray[np.float64]:
    """Share of the pages present in each band that lie on a fast node.

    Parameters
    ----------
    residency : ndarray of int8, shape (epochs, pages)
        Node of each page, -1 for none.
    slow : int
        The slow node; all below it are fast.
    number : int
        Bands; fewer where there are fewer pages.

    Returns
    -------
    ndarray of float64, shape (epochs, bands)
        0 to 1, NaN where a band has no page yet.
    """
    starts = np.unique(np.linspace(0, residency.shape[1], number, endpoint=False).astype(int))
    present = np.add.reduceat(residency >= 0, starts, axis=1, dtype=float)
    fast = np.add.reduceat((residency >= 0) & (residency < slow), starts, axis=1, dtype=float)
    return np.divide(fast, present, out=np.full_like(fast, np.nan), where=present > 0)


def residency(runs: Sequence[Run], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw where pages lay and how many accesses were local, over time, a column per run.

    Parameters
    ----------
    runs : sequence of Run
        What `replay.compare` answered; the first is drawn in grey behind the others.
    path : path-like
        The picture; its suffix says which kind.
    title : str
        A heading.

    Raises
    ------
    MissingError
        If matplotlib is not installed.
    """
    figure = _figure(figsize=(4.2 * len(runs) + 0.8, 6.4), layout="constrained")
    rows = figure.subplots(2, len(runs), sharex=True, squeeze=False, height_ratios=(3, 2))
    slow = runs[0].accesses.shape[1] - 1
    most = max(int(run.moved.max(initial=0)) for run in runs)
    image = None
    for column, run in enumerate(runs):
        image = _map(rows[0, column], run, slow)
        _shares(rows[1, column], run, runs[0], most)
    rows[0, 0].set_ylabel("page, by address")
    rows[1, 0].set_ylabel("local accesses, %")
    figure.colorbar(image, cax=rows[0, -1].inset_axes((1.03, 0, 0.04, 1)), label=_COLOURS)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=110)


def _map(axes: Any, run: Run, slow: int) -> Any:
    """Residency over time."""
    pages = run.residency.shape[1]
    axes.set_facecolor("white")
    mixed = run.name == "interleave"
    axes.set_title(run.name + (" (half-tone: on both nodes in turn)" if mixed else ""))
    return axes.imshow(
        bands(run.residency, slow).T,
        aspect="auto",
        origin="lower",
        extent=(0, 100, 0, pages),
        cmap="viridis",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )


def _shares(axes: Any, run: Run, base: Run, most: int) -> None:
    """Local share over time, and pages moved."""
    for which, style in ((base, {"color": "0.7"}), (run, {"color": "C0"})):
        share = 100 * which.local_over_time
        time = 100 * (np.arange(share.size) + 0.5) / share.size
        label = f"{which.name}: {100 * which.local_share:.1f} %"
        axes.plot(time, share, linewidth=1.4, label=label, **style)
        if which is base is run:
            break
    axes.set_ylim(0, 102)
    axes.set_xlabel("% of the accesses")
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    axes.legend(fontsize="small", ncols=2, frameon=False, **place)
    if run.moved.any():
        bars = axes.twinx()
        bars.bar(time, run.moved, width=100 / share.size, color="C3", alpha=0.5)
        bars.set_ylim(0, 3 * most)
        bars.set_ylabel("pages moved", color="C3")


def rates(
    machines: Sequence[tuple[Model, Sequence[Curve]]],
    note: Mapping[str, Any],
    path: str | os.PathLike[str],
) -> None:
    """Draw rate against the number of processors, a panel per machine, with the note's figures.

    Parameters
    ----------
    machines : sequence of (Model, sequence of Curve)
        Costs, and what `pagemig.studies.rates.rates` answered for them.
    note : mapping
        The note's figures, MB/s.
    path : path-like
        The picture; its suffix says which kind.

    Raises
    ------
    MissingError
        If matplotlib is not installed.
    """
    figure = _figure(figsize=(5.6 * len(machines), 5.4), layout="constrained")
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
    figure.savefig(path, dpi=110)


def _rate_curve(axes: Any, curve: Curve, marker: tuple[str, int]) -> None:
    """One kernel; the second reading of the note's 250 is dashed."""
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
    """The note's ranges for one migration, and what it says of four."""
    for design, colour in (("swap", "0.4"), ("entries", "0.7")):
        single = note[design]["single"]
        bar = {"color": colour, "linewidth": 5, "alpha": 0.6, "zorder": 0}
        name = {"swap": "swap entries", "entries": "migration entries"}[design]
        axes.plot([1, 1], [min(single), max(single)], label=f"the note, {name}", **bar)
    four = note["swap"]["four"]
    axes.plot([4, 4], [four, four / 4], "*", color="0.2", label=f"the note, {four} each or in all")


def placements(stories: Sequence[Story], path: str | os.PathLike[str]) -> None:
    """Draw where the pages of the story's program were, a panel per moment, a column per kernel.

    Parameters
    ----------
    stories : sequence of Story
        What `pagemig.studies.story.compare` answered.
    path : path-like
        The picture; its suffix says which kind.

    Raises
    ------
    MissingError
        If matplotlib is not installed.
    """
    moments = list(stories[0].placements)
    figure = _figure(figsize=(3.0 * len(moments) + 1.4, 5.6), layout="constrained")
    panels = figure.subplots(1, len(moments), squeeze=False)[0]
    images = [
        _placement(axes, stories, moment) for axes, moment in zip(panels, moments, strict=True)
    ]
    colours = figure.colorbar(images[-1], ax=panels[-1], ticks=range(4))
    colours.set_label("node (white: no entry maps the page)")
    figure.savefig(path, dpi=110)


def _placement(axes: Any, stories: Sequence[Story], moment: str) -> Any:
    """Node of every page at one moment; regions below each other."""
    regions = list(stories[0].placements[moment])
    size = stories[0].pages
    nodes = np.array([np.concatenate(list(story.placements[moment].values())) for story in stories])
    shown = np.ma.masked_less(nodes.T, 0)
    image = axes.imshow(
        shown, aspect="auto", cmap="viridis", vmin=-0.5, vmax=3.5, interpolation="nearest"
    )
    image.set_cmap(image.get_cmap().resampled(4))
    for edge in range(1, len(regions)):
        axes.axhline(edge * size - 0.5, color="white", linewidth=2)
    axes.set_title(moment)
    axes.set_xticks(range(len(stories)), [story.kernel for story in stories], rotation=60)
    axes.set_yticks([(i + 0.5) * size - 0.5 for i in range(len(regions))], regions, rotation=90)
    axes.tick_params(axis="y", length=0)
    for label in axes.get_yticklabels():
        label.set_verticalalignment("center")
    return image
