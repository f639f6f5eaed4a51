"""Progress of long work on a terminal: tqdm where it is installed, a plain line where it is not."""

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
    """Show how far work has come, if somebody looks.

    Yields
    ------
    callable or None
        To be called with what is being done and the share that is done; None where standard error
        is no terminal.
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
    """A bar of tqdm that begins again with each new name."""
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
    """A line that is written over, ten times a second at most."""
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
