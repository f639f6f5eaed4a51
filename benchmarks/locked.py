"""Locked instructions of a page that moves, by kernel: counted, not timed.

    make locked

A build with ``PAGEMIG_PLANT=locked`` counts every atomic read-modify-write that the core executes.
Here pages move there and back, and the count is divided by them: on words of frames and entries,
on spin locks, and on locks of readers and writers. ``needs`` is what a page cannot do without.
"""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from common.worlds import WholeProcess, World

import pagemig as pm
from pagemig.report import table

KINDS = ("words", "spin", "rw")
PAGES = 1 << 16

#: Most that ``move_pages`` of pages in a row may take, in what they need.
MOST = 1.3

#: What a page needs, by engine and call: another thread may write the word at the same moment.
#: ISOLATED and locked in one step, or LOCKED in one of its own where a list comes first. FROZEN
#: with the count compared. A target with several mappings can be reached through the first before
#: the last is back: it is UNLOCKED. In 2006 counts are DROPPED when a page is unmapped, and its
#: entry EXCHANGED: it came back old and clean, so the processor may note something meanwhile.
#: With swap entries the kernel takes swap_lock and tree_lock four times each, and the target is
#: reached through the cache: into it, mapped, out of it, put back.
NEEDS = {
    "move_pages": 2,  # isolated, frozen
    "move_pages, 4 mappings": 3,  # and unlocked
    "migrate_pages": 3,  # isolated, locked, frozen
    "2.6.18": 5,  # and dropped, its entry exchanged
    "2.6.17": 5 + 8 + 4,
}

Counts = npt.NDArray[np.uint64]


def counters() -> Iterator[ctypes.Array[ctypes.c_uint64]]:
    """The counts of each extension module of the build."""
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name.startswith("pagemig.") and path and Path(path).suffix == ".so":
            library = ctypes.CDLL(path)
            try:
                yield (ctypes.c_uint64 * len(KINDS)).in_dll(library, "pmg_locked")
            except ValueError:
                continue  # a module without atomics


def counted() -> Counts:
    """Locked instructions so far, by kind."""
    found = [np.array(counts, dtype=np.uint64) for counts in counters()]
    if not found:
        sys.exit("this build does not count: make locked")
    return np.sum(found, axis=0, dtype=np.uint64)


def per_page(world: World) -> npt.NDArray[np.float64]:
    """Of a page that moves, by kind."""
    world.move()
    before = counted()
    world.move()
    world.move()
    return (counted() - before) / (2 * world.pages)


def worlds() -> Iterator[tuple[str, str, World]]:
    """What moves: a label, the kernel, the world."""
    for kernel in ("6.1", "6.12", "6.18"):
        for scattered in (False, True):
            how = "scattered" if scattered else "sequential"
            yield f"move_pages, {how}", kernel, World(PAGES, scattered=scattered, kernel=kernel)
        shared = World(PAGES, scattered=False, kernel=kernel, flags=pm.MPOL_MF_MOVE_ALL)
        children = [shared.app.fork() for _ in range(3)]
        yield f"move_pages, {1 + len(children)} mappings", kernel, shared
        yield "migrate_pages", kernel, WholeProcess(PAGES, kernel)
    for kernel in ("2.6.17", "2.6.17-mm", "2.6.18", "pmig"):
        yield "migrate_pages", kernel, WholeProcess(PAGES, kernel)


def needed(kernel: str, label: str) -> int:
    """What a page of a row needs."""
    profile = pm.KERNELS[kernel]
    if profile.counts_drop:
        return NEEDS["2.6.17" if profile.engine == 1 else "2.6.18"]
    return NEEDS.get(label) or NEEDS[label.partition(",")[0]]


def main() -> int:
    """Print the table; 1 if pages in a row take more than they may."""
    rows, over = [], 0
    for label, kernel, world in worlds():
        found = per_page(world)
        needs, total = needed(kernel, label), float(found.sum())
        figures = [f"{n:.2f}" for n in (*found, total)]
        rows.append([kernel, label, *figures, str(needs), f"{total / needs:.2f}"])
        over |= "sequential" in label and total > MOST * needs
    print(table(rows, ("kernel", "call", *KINDS, "all", "needs", "of it")))
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
