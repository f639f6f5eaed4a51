"""What the pictures of all studies share; everything else works without matplotlib."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pagemig.report import MissingError, new_figure

__all__ = ["MissingError", "check", "draw", "new_figure"]


def check(path: str | os.PathLike[str], others: Sequence[str] = ()) -> None:
    """Refuse a picture that cannot be written, before any work is done for it.

    Parameters
    ----------
    path : path-like
        The picture.
    others : sequence of str
        Suffixes of other files that the option accepts, for the error.

    Raises
    ------
    ValueError
        The suffix is not .png, .svg or .pdf.
    FileNotFoundError
        The directory does not exist.
    """
    target = Path(path)
    if target.suffix not in (".png", ".svg", ".pdf"):
        instead = f" (or {', '.join(others)} for other output)" if others else ""
        raise ValueError(f"a picture is .png, .svg or .pdf{instead}, not {target.name!r}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(target.parent)!r} for the picture")


def draw(write: Callable[[], None], output: str) -> None:
    """Write the picture of a command, and say where it is or what is missing."""
    try:
        write()
    except MissingError as error:
        print(f"\nNo picture: {error}")
    else:
        print(f"\nPicture: {output}")
