"""What the pictures of all studies share; without matplotlib everything else works."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pagemig.report import MissingError, new_figure

__all__ = ["MissingError", "check", "draw", "new_figure"]


def check(path: str | os.PathLike[str], others: Sequence[str] = ()) -> None:
    """Refuse a picture that could not be written, before any work is done for it.

    Parameters
    ----------
    path : path-like
        The picture.
    others : sequence of str
        Kinds of files that are no pictures and could have been meant, for the error.

    Raises
    ------
    ValueError
        If the file's kind is not one of .png, .svg, .pdf.
    FileNotFoundError
        If its directory does not exist.
    """
    target = Path(path)
    if target.suffix not in (".png", ".svg", ".pdf"):
        instead = f" (or {', '.join(others)} for what is no picture)" if others else ""
        raise ValueError(f"a picture is .png, .svg or .pdf{instead}, not {target.name!r}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(target.parent)!r} for the picture")


def draw(write: Callable[[], None], output: str) -> None:
    """Write a picture that a command was asked for, and say where it is or what is missing."""
    try:
        write()
    except MissingError as error:
        print(f"\nNo picture: {error}")
    else:
        print(f"\nPicture: {output}")
