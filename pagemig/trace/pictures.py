"""The picture of a trace: its accesses over time, its working set, its hot pages."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pagemig.report import new_figure, save_picture

from .info import Info

__all__ = ["check", "draw"]

_SUFFIXES = (".png", ".svg", ".pdf")


def check(path: str | os.PathLike[str]) -> None:
    """Refuse a picture that cannot be written, before any work is done for it.

    Raises
    ------
    ValueError
        The suffix is not .png, .svg or .pdf.
    FileNotFoundError
        The directory does not exist.
    MissingError
        matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix not in _SUFFIXES:
        raise ValueError(f"a picture is {', '.join(_SUFFIXES)}, not {target.name!r}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(target.parent)!r} for the picture")
    new_figure()


def draw(info: Info, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw a heat map (pages by time), the working set below it, and the curve of hot pages.

    Parameters
    ----------
    info : Info
        What to draw.
    path : path-like
        The picture; its suffix gives the format.
    title : str
        A heading.
    """
    if not info.pages.size:
        raise ValueError("there is nothing to draw: the trace has no access")
    from matplotlib.colors import LogNorm

    figure = new_figure(figsize=(11, 7), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 1), height_ratios=(3, 1))
    hot, working = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    share = figure.add_subplot(grid[:, 1])
    pages = info.pages.size
    heat = np.ma.masked_equal(info.heat.T.astype(float), 0)
    image = hot.imshow(
        heat, aspect="auto", origin="lower", interpolation="nearest", cmap="inferno_r",
        norm=LogNorm(vmin=1, vmax=max(float(info.heat.max()), 2)), extent=(0, 100, 0, pages),
    )  # fmt: skip
    figure.colorbar(image, ax=hot, label="accesses", pad=0.01)
    hot.set_ylabel("pages accessed, by address")
    hot.set_title(title or info.header.program, loc="left")
    edges = np.linspace(0, 100, info.working_set.size + 1)
    working.stairs(info.working_set, edges, fill=True, color="tab:blue", alpha=0.5)
    working.stairs(info.fresh, edges, fill=True, color="tab:red")
    working.legend(("pages in use", "for the first time"), fontsize="small", frameon=False)
    working.set(xlim=(0, 100), ylim=(0, None), xlabel=f"% of the {_axis(info)}", ylabel="pages")
    concentration = np.concatenate(([0.0], info.concentration)) * 100
    share.plot(np.linspace(0, 100, concentration.size), concentration, color="tab:blue")
    share.set(
        xlim=(0, 100), ylim=(0, 101), xlabel="% of the pages, the hottest first",
        ylabel="% of the accesses",
    )  # fmt: skip
    share.grid(alpha=0.3)
    save_picture(figure, path)


def _axis(info: Info) -> str:
    if info.by == "accesses":
        return "accesses"
    return info.header.unit if info.header.unit != "ns" else "time"
