"""Pictures of the story: where the pages of its program were, kernel beside kernel."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pagemig.report import save_picture
from pagemig.studies import pictures
from pagemig.studies.story import Story

__all__ = ["placements"]


def placements(stories: Sequence[Story], path: str | os.PathLike[str]) -> None:
    """Draw where the pages of the story's program were, a panel per moment, a column per kernel.

    Parameters
    ----------
    stories : sequence of Story
        What `pagemig.studies.story.compare` returned.
    path : path-like
        The picture; its suffix gives the format.

    Raises
    ------
    MissingError
        matplotlib is not installed.
    """
    moments = list(stories[0].placements)
    figure = pictures.new_figure(figsize=(3.0 * len(moments) + 1.4, 5.6), layout="constrained")
    panels = figure.subplots(1, len(moments), squeeze=False)[0]
    images = [
        _placement(axes, stories, moment) for axes, moment in zip(panels, moments, strict=True)
    ]
    colours = figure.colorbar(images[-1], ax=panels[-1], ticks=range(4))
    colours.set_label("node (white: no entry maps the page)")
    save_picture(figure, path)


def _placement(axes: Any, stories: Sequence[Story], moment: str) -> Any:
    """Draw the node of every page at one moment, regions below each other."""
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
