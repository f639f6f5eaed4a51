"""Helpers for the tests of the kernels of 2006.

Sections named in the tests are those of the project's reference on the kernels of 2006; every
expected value is from there, or follows from what it says by counting.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

import pagemig as pm
from pagemig.testing.poke import poke
from support.machines import PAGE, at, four_nodes, mapped

#: Swap entries (engine A), migration entries before and after they were merged, and the note's own.
KERNELS = ("2.6.17", "2.6.17-mm", "2.6.18-ia64", "pmig")
#: The kernels with migration entries (engine B), and those with four lists.
ENTRIES, LISTS = KERNELS[1:], KERNELS[:2]

LOCKED, DIRTY, ACCESSED, WRITABLE, PRESENT = 1 << 0, 1 << 3, 1 << 5, 1 << 1, 1 << 0
_WRITE_ENTRY, _READ_ENTRY = 31, 29


class World:
    """Four nodes, a process that maps memory, and root, which may move shared pages."""

    def __init__(self, kernel: str, **options: Any) -> None:
        self.machine = four_nodes(kernel, **{"page_bytes": 8, **options})
        self.app = self.machine.spawn()
        self.root = self.machine.spawn()
        self.left = 0  # a frame to come back to

    def anon(self, n: int = 1, first: int = 0, mappers: int = 1) -> list[pm.Process]:
        """Pages written by a process and then shared with its children; all who map them."""
        base = mapped(self.app, n, first, touched=False)
        self.app.touch(base, n * PAGE, write=True, values=range(5, 5 + n))
        return [self.app] + [self.app.fork() for _ in range(mappers - 1)]

    def cached(
        self, kind: str = "tmpfs", n: int = 1, first: int = 0, mappers: int = 1
    ) -> list[pm.Process]:
        """Pages of a file with content, and the processes that map all of them, shared."""
        self.file = self.machine.file(kind, n * PAGE)
        self.root.fwrite(self.file, 0, range(5, 5 + n))
        who = [self.app, *(self.machine.spawn() for _ in range(mappers - 1))][:mappers]
        for process in who:
            mapped(process, n, first, file=self.file, shared=True, touched=False)
            process.touch(at(first), n * PAGE)
        return who

    def move(self) -> int:
        """Everything of the process that is on node 0 goes to node 1, asked for by root."""
        return self.root.migrate_pages({0}, {1}, pid=self.app)

    def pfn(self, page: int = 0, process: pm.Process | None = None) -> int:
        pfn = int((process or self.app).frames(at(page), 1)[0])
        assert pfn >= 0, f"page {page} is not mapped"
        return pfn

    def node(self, page: int = 0) -> int:
        return int(self.machine.node_of([self.pfn(page)])[0])

    def nodes(self, first: int, n: int) -> list[int]:
        """Node of every page of a range, -1 where none is mapped."""
        return nodes_of(self.app, first, n)

    def refs(self, pfn: int) -> int:
        return int(self.machine.frames.refcount[pfn])

    def maps(self, pfn: int) -> int:
        return int(self.machine.frames.mapcount[pfn])

    def flag(self, name: str, pfn: int) -> bool:
        return bool(self.machine.frames.flag(name)[pfn])

    def used(self, nid: int) -> list[int]:
        """Frames of a node that are in use."""
        frames = self.machine.frames
        return np.flatnonzero((frames.refcount > 0) & (frames.nid == nid)).tolist()

    def slots(self) -> list[int]:
        """Counts of the slots in use: one for the cache, one for every swap entry."""
        counts = self.machine._swap_map()
        return counts[counts > 0].tolist()

    def swapped(self) -> int:
        """Pages of swap devices that are in use."""
        return sum(device.used for device in self.machine.swap) // PAGE

    def set(self, pfn: int, flag: int, on: bool) -> None:
        """What a device does to a page: lock it, write it back."""
        state = poke(self.machine, "frame", pfn, "state")
        poke(self.machine, "frame", pfn, "state", state | flag if on else state & ~flag)

    def count(self, name: str) -> int:
        return self.machine.counters[name]

    def read(self, page: int = 0, process: pm.Process | None = None) -> int:
        seen = (process or self.app).touch(at(page), PAGE).values
        assert seen is not None
        return int(seen[0])


def entry(process: pm.Process, page: int = 0) -> str:
    """What a page-table entry is.

    ``w`` and ``r`` are pages that may and may not be written, ``W`` and ``R`` their migration
    entries, ``s`` a swap entry, ``.`` nothing.
    """
    word = int(process._ptes(at(page), 1)[0])
    if not word or word & PRESENT:
        return letter(word)
    kind = int(process.pagemap(at(page), 1)[0]) & 31
    return {_READ_ENTRY: "R", _WRITE_ENTRY: "W"}.get(kind, "s")


def letter(word: int) -> str:
    """The same of an entry that is not on the move."""
    if word & PRESENT:
        return "w" if word & WRITABLE else "r"
    return "s" if word else "."


def entries(processes: Sequence[pm.Process], page: int = 0) -> str:
    return "".join(entry(process, page) for process in processes)


def accessed(process: pm.Process, page: int = 0) -> bool:
    return bool(int(process._ptes(at(page), 1)[0]) & ACCESSED)


def resident(processes: Sequence[pm.Process]) -> int:
    """Pages in the resident sets of processes together."""
    return sum(process.status()["VmRSS"] for process in processes) * 1024 // PAGE


def nodes_of(process: pm.Process, first: int, n: int) -> list[int]:
    return process.nodes(at(first), n).tolist()
