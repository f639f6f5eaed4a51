"""What the pictures of all studies share; without matplotlib everything else works."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pagemig.studies.replay import Run

__all__ = ["MissingError", "check", "draw", "new_figure", "residency"]

#: Bands of pages a residency map is drawn with; more would be finer than the picture.
BANDS = 400

#: What the colours of a residency map mean.
_COLOURS = "share of neighbouring pages on\nthe fast node (white: untouched)"


class MissingError(RuntimeError):
    """matplotlib is not installed; the message says how to get it."""


def new_figure(**options: Any) -> Any:
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
    figure = new_figure(figsize=(4.2 * len(runs) + 0.8, 6.4), layout="constrained")
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


def draw(write: Callable[[], None], output: str) -> None:
    """Write a picture that a command was asked for, and say where it is or what is missing."""
    try:
        write()
    except MissingError as error:
        print(f"\nNo picture: {error}")
    else:
        print(f"\nPicture: {output}")
