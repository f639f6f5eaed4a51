"""Pictures of replays: where pages were, where time went, and the optimum."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemig import auto
from pagemig.auto.costs import TERMS

from . import pictures
from .replay import Plan, Run
from .results import Comparison

__all__ = ["bands", "png", "residency", "terms"]

#: Bands of pages in a residency map; more would be finer than the picture.
BANDS = 400

#: What the colours of a residency map mean.
_COLOURS = "share of neighbouring pages on\na fast node (white: not there)"
#: Pages of a MiB.
_MIB = 256


def bands(residency: NDArray[np.int8], slow: int, number: int = BANDS) -> NDArray[np.float64]:
    """Return the share of present pages in each band that are on a fast node.

    Parameters
    ----------
    residency : ndarray of int8, shape (epochs, pages)
        Node of each page, -1 for none.
    slow : int
        The slow node; all below it are fast.
    number : int
        Number of bands; fewer if there are fewer pages.

    Returns
    -------
    ndarray of float64, shape (epochs, bands)
        0 to 1; NaN for a band without present pages.
    """
    starts = np.unique(np.linspace(0, residency.shape[1], number, endpoint=False).astype(int))
    present = np.add.reduceat(residency >= 0, starts, axis=1, dtype=float)
    fast = np.add.reduceat((residency >= 0) & (residency < slow), starts, axis=1, dtype=float)
    return np.divide(fast, present, out=np.full_like(fast, np.nan), where=present > 0)


def residency(comparison: Comparison, *, title: str = "") -> Any:
    """Draw where pages were and how many accesses were local, over time, a column per run.

    The last column is the optimum: a placement near the bound, and below it the time that one more
    MiB of the fast node would have saved.

    Parameters
    ----------
    comparison : Comparison
        The runs; the first is drawn in grey behind the others.
    title : str
        A heading.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    MissingError
        matplotlib is not installed.
    """
    runs, best = comparison.runs, comparison.bound()
    columns = len(runs) + (best is not None)
    figure = pictures.new_figure(figsize=(3.7 * columns + 0.8, 6.4), layout="constrained")
    rows = figure.subplots(2, columns, sharex=True, squeeze=False, height_ratios=(3, 2))
    slow = len(comparison.plan.hardware.nodes) - 1
    most = max(int(run.moved.max(initial=0)) for run in runs)
    image = None
    for column, run in enumerate(runs):
        mixed = run.name == "interleave"
        name = run.name + (" (half-tone: on both nodes in turn)" if mixed else " *" * run.oracle)
        image = _map(rows[0, column], run.residency, slow, name)
        _shares(rows[1, column], run, runs[0], most)
    if best is not None:
        saved = comparison.base.total_ns - best.bound_ns
        name = f"optimum: at most {saved / max(comparison.base.total_ns, 1e-9):.0%} to gain"
        image = _map(rows[0, -1], best.placement, slow, name)
        _worth(rows[1, -1], comparison.plan, best)
    rows[0, 0].set_ylabel("page, by address")
    rows[1, 0].set_ylabel("local accesses, %")
    figure.colorbar(image, cax=rows[0, -1].inset_axes((1.03, 0, 0.04, 1)), label=_COLOURS)
    figure.suptitle(title, fontsize="medium")
    return figure


def _map(axes: Any, placement: NDArray[np.int8], slow: int, name: str) -> Any:
    """Draw residency over time."""
    axes.set_facecolor("white")
    axes.set_title(name, fontsize="medium")
    return axes.imshow(
        bands(placement, slow).T,
        aspect="auto",
        origin="lower",
        extent=(0, 100, 0, placement.shape[1]),
        cmap="viridis",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )


def _time(size: int) -> NDArray[np.float64]:
    """Return the middle of each epoch, in per cent of all."""
    return np.asarray(100 * (np.arange(size) + 0.5) / size)


def _shares(axes: Any, run: Run, base: Run, most: int) -> None:
    """Draw the local share over time, and pages moved."""
    for which, style in ((base, {"color": "0.7"}), (run, {"color": "C0"})):
        share = 100 * which.local_over_time
        label = f"{which.name}: {100 * which.local_share:.1f} %"
        axes.plot(_time(share.size), share, linewidth=1.4, label=label, **style)
        if which is base is run:
            break
    axes.set_ylim(0, 102)
    axes.set_xlabel("% of the accesses")
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    axes.legend(fontsize="small", ncols=2, frameon=False, **place)
    if run.moved.any():
        bars = axes.twinx()
        width = 100 / run.moved.size
        bars.bar(_time(run.moved.size), run.moved, width=width, color="C3", alpha=0.5)
        bars.set_ylim(0, 3 * most)
        bars.set_ylabel("pages moved", color="C3")


def _worth(axes: Any, plan: Plan, best: auto.Optimum) -> None:
    """Draw the time that one more MiB of the fast nodes would have saved, epoch by epoch."""
    fast = [nid for nid in plan.hardware.cpu_nodes if nid != len(plan.hardware.nodes) - 1] or [0]
    price = best.prices[:, fast].max(axis=1) * _MIB / 1e3
    axes.fill_between(_time(price.size), price, step="mid", color="C2", alpha=0.5, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("% of the accesses")
    axes.set_title("one more MiB of fast memory saves", fontsize="small")
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_ylabel("us an epoch", color="C2")


def terms(comparison: Comparison, *, title: str = "") -> Any:
    """Draw the parts of each run's time as stacked bars, with the optimum as a line.

    Parameters
    ----------
    comparison : Comparison
        The runs.
    title : str
        A heading.

    Returns
    -------
    matplotlib.figure.Figure
    """
    runs, best = comparison.runs, comparison.bound()
    figure = pictures.new_figure(figsize=(8.4, 1.4 + 0.45 * len(runs)), layout="constrained")
    axes = figure.subplots()
    names = [run.name + " *" * run.oracle for run in runs]
    left = np.zeros(len(runs))
    for number, term in enumerate(TERMS):
        width = np.array([run.bill().terms[term].sum() / 1e6 for run in runs])
        if width.any():
            axes.barh(names, width, left=left, label=term, color=f"C{number}", alpha=0.85)
        left += width
    if best is not None:
        axes.axvline(best.bound_ns / 1e6, color="0.2", linestyle="--", label="no policy is below")
    for label, node in (("all fast", 0), ("all slow", -1)):
        latency = comparison.plan.hardware.latency[0, node] / comparison.plan.conditions.overlap
        ms = comparison.plan.accesses * latency / 1e6
        axes.axvline(ms, color="0.6", linestyle=":")
        axes.annotate(label, (ms, 1), xycoords=("data", "axes fraction"), fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.legend(fontsize="small", ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    axes.set_title(title, fontsize="medium", pad=16)
    return figure


def png(figure: Any) -> bytes:
    """Return a figure as PNG."""
    data = io.BytesIO()
    figure.savefig(data, dpi=110, format="png")
    return data.getvalue()


def drawn(comparison: Comparison, title: str) -> Sequence[tuple[str, bytes]]:
    """Draw all pictures of a comparison; return them with their headings."""
    return [
        ("Where pages lay", png(residency(comparison, title=title))),
        ("What the time went into", png(terms(comparison))),
    ]
