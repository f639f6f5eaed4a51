"""Which pages a process accesses, as far as the running kernel reports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pagemig.constants import PAGE_SHIFT, PAGE_SIZE
from pagemig.system.numa import MoveResult
from pagemig.system.proc import Vma

__all__ = ["Sight", "Target", "present"]

Bools = NDArray[np.bool_]
Addresses = NDArray[np.uint64]

#: Gaps of up to so many absent pages are read along: one read of pagemap is cheaper than two.
_GAP = 1024
_PRESENT = np.uint64(1 << 63)
#: The most pages that are watched: 64 GiB.
_MOST = 1 << 24


class Target(Protocol):
    """The methods of `pagemig.live.Process` that watching and moving pages needs."""

    @property
    def pid(self) -> int:
        """The number of the process."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        ...

    @property
    def cpu(self) -> int:
        """The processor it ran on last."""
        ...

    def vmas(self) -> list[Vma]:
        """Return its mappings."""
        ...

    def smaps(self) -> list[dict[str, Any]]:
        """Return the counts of each mapping."""
        ...

    def pagemap(self, addr: int, n: int) -> NDArray[np.uint64]:
        """Return its page-table entries."""
        ...

    def clear(self) -> None:
        """Begin to watch references and writes."""
        ...

    def dirty(self, addr: int, n: int) -> Bools | None:
        """Tell which pages were written since."""
        ...

    def mark_idle(self, addr: int, n: int) -> bool:
        """Begin to watch accesses."""
        ...

    def accessed(self, addr: int, n: int) -> Bools | None:
        """Tell which pages were accessed since."""
        ...

    def move_pages(self, pages: ArrayLike, nodes: ArrayLike | None = None) -> MoveResult:
        """Move pages, or ask where they are, as `pagemig.live.Process.move_pages`."""
        ...


def present(process: Target, most: int = _MOST) -> Addresses:
    """Return the addresses of present pages in a process's private writable memory, ascending.

    Code, and memory that other processes share, is left to the kernel.

    Raises
    ------
    ValueError
        There are more than ``most`` of them.
    """
    found = [np.empty(0, np.uint64)]
    for vma in process.vmas():
        if vma.perms[1] != "w" or vma.perms[3] != "p":
            continue
        pages = vma.length >> PAGE_SHIFT
        if pages > most:
            raise ValueError(
                f"a mapping of {pages:,} pages at {vma.start:#x} is more than {most:,}"
            )
        there = np.flatnonzero(process.pagemap(vma.start, pages) & _PRESENT)
        found.append((there.astype(np.uint64) << np.uint64(PAGE_SHIFT)) + np.uint64(vma.start))
        if sum(part.size for part in found) > most:
            raise ValueError(f"the process has more than {most:,} pages")
    return np.concatenate(found)


class Sight:
    """Watches pages of a process.

    With idle page tracking (CONFIG_IDLE_PAGE_TRACKING, root) the kernel reports each page that was
    accessed. Otherwise it reports which pages were written (CONFIG_MEM_SOFT_DIRTY), and how many of
    each mapping were referenced. Then a page counts as accessed if it was written, or if at least
    half of its mapping was referenced.

    Parameters
    ----------
    process : Target
        The process.
    pages : ndarray of uint64, shape (pages,)
        Addresses of the pages to watch, ascending.

    Attributes
    ----------
    tells : str
        What the kernel reports, in words.
    """

    def __init__(self, process: Target, pages: Addresses) -> None:
        self.process, self.pages = process, pages
        cuts = np.flatnonzero(np.diff(pages) > np.uint64(_GAP * PAGE_SIZE)) + 1
        self.runs = [run for run in np.split(pages, cuts) if run.size]
        self.by_page = False
        self.begin()
        first = int(pages[0]) if pages.size else 0
        self.stores = process.dirty(first, min(pages.size, 1)) is not None
        if self.by_page:
            self.tells = "accesses of each page (idle page tracking)"
        else:
            self.tells = "references of each mapping" + " and stores to each page" * self.stores

    @classmethod
    def of(cls, process: Target) -> str:
        """Say in words what the kernel reports about a process."""
        return cls(process, present(process)[:1]).tells

    def begin(self) -> None:
        """Begin to watch, or begin again."""
        self.process.clear()
        idle = [self.process.mark_idle(*self._range(run)) for run in self.runs]
        self.by_page = bool(idle) and all(idle)

    def look(self) -> tuple[Bools, Bools]:
        """Tell which pages were accessed and which written since `begin`, and begin again."""
        written = self._asked(self.process.dirty) if self.stores else None
        accessed = self._asked(self.process.accessed) if self.by_page else None
        if written is None:
            written = np.zeros(self.pages.size, np.bool_)
        if accessed is None:
            accessed = self._referenced()
        self.begin()
        return accessed | written, written

    @staticmethod
    def _range(run: Addresses) -> tuple[int, int]:
        return int(run[0]), (int(run[-1]) - int(run[0]) >> PAGE_SHIFT) + 1

    def _asked(self, ask: Callable[[int, int], Bools | None]) -> Bools | None:
        """Ask about all pages; None if the kernel no longer reports it."""
        parts = [np.empty(0, np.bool_)]
        for run in self.runs:
            told = ask(*self._range(run))
            if told is None:
                return None
            parts.append(told[(run - run[0] >> np.uint64(PAGE_SHIFT)).astype(np.intp)])
        return np.concatenate(parts)

    def _referenced(self) -> Bools:
        """Tell which pages are in a mapping of which at least half was referenced."""
        rows = sorted(self.process.smaps(), key=lambda row: int(row["start"]))
        if not rows:
            return np.zeros(self.pages.size, np.bool_)
        starts = np.array([row["start"] for row in rows], np.uint64)
        ends = np.array([row["end"] for row in rows], np.uint64)
        used = np.array([row["Referenced"] and 2 * row["Referenced"] >= row["Rss"] for row in rows])
        at = np.maximum(np.searchsorted(starts, self.pages, side="right") - 1, 0)
        accessed: Bools = used.astype(np.bool_)[at] & (self.pages >= starts[at])
        return accessed & (self.pages < ends[at])
