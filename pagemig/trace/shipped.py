"""The traces that come with the package."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["find", "shipped"]

DATA = Path(__file__).parent.parent / "data"
SUFFIX = ".pmt"


def shipped() -> dict[str, Path]:
    """Return the names of the traces that come with the package, and their files."""
    return {path.name.removesuffix(SUFFIX): path for path in sorted(DATA.glob(f"*{SUFFIX}"))}


def find(name: str | os.PathLike[str]) -> Path:
    """Return the file of a trace, given by its path or by the name of a shipped one.

    Parameters
    ----------
    name : str or path-like
        A path, or a key of `shipped`.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        There is neither; the message lists the shipped ones.
    """
    path = Path(name)
    if str(name) and path.exists():
        return path
    known = shipped()
    if str(name) in known:
        return known[str(name)]
    raise FileNotFoundError(
        f"no trace {os.fspath(name)!r}: no such file, and the shipped ones are {', '.join(known)}"
    )
