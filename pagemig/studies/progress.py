"""Progress of long work on a terminal: tqdm if it is installed, else a plain line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["progress"]

#: Steps that a whole is cut into.
_STEPS = 1000
_FORMAT = "{desc:>18} {percentage:3.0f}% |{bar:30}|"


@contextmanager
def progress() -> Iterator[Callable[[str, float], None] | None]:
    """Show the progress of work on a terminal.

    Yields
    ------
    callable or None
        Called with the name of the work and the share done; None if standard error is not a
        terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield _line()
        return
    with tqdm(
        total=_STEPS, bar_format="{desc:>18} {percentage:3.0f}% |{bar:30}|", leave=False
    ) as bar:
        yield _bar(bar)


def _bar(bar: Any) -> Callable[[str, float], None]:
    """Show a bar of tqdm that begins again with each new name."""
    shown = ""

    def show(name: str, share: float) -> None:
        nonlocal shown
        if name != shown or round(_STEPS * share) < bar.n:
            shown = name
            bar.reset(_STEPS)
            bar.set_description_str(name)
        bar.update(round(_STEPS * share) - bar.n)

    return show


def _line() -> Callable[[str, float], None]:
    """Show a line that is overwritten at most ten times a second."""
    last = 0.0

    def show(name: str, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if share == 1:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        elif now - last > 0.1:
            last = now
            bar = "#" * round(30 * share)
            print(f"\r{name:>18} [{bar:<30}] {share:4.0%}", end="", file=sys.stderr, flush=True)

    return show
