"""Machines with two nodes, a process that fills one of them, and proof of where its pages lie."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import pagemig as pm

PAGE = pm.PAGE_SIZE

#: Frames this near to the one before are in its cache line or in the next.
NEAR = 4

#: A scattered list has fewer neighbours than this, a sequential one more than the other.
SCATTERED, SEQUENTIAL = 0.01, 0.95

_PFN = np.uint64((1 << 40) - 1)
_SHIFT = np.uint64(12)


def near_share(pfns: npt.NDArray[np.uint64]) -> float:
    """Share of the frames that lie next to the frame before them in the list."""
    steps = np.abs(np.diff(pfns.view(np.int64)))
    return float(np.count_nonzero(steps <= NEAR)) / max(len(steps), 1)


def machine(pages: int, *, scattered: bool, spare: float = 0.25, **options: Any) -> pm.Machine:
    """Two nodes, each with room for ``pages`` and some more."""
    size = int(pages * (1 + spare) + 4096) * PAGE
    nodes = [pm.Node(size, cpus=1), pm.Node(size, cpus=1)]
    return pm.Machine(nodes, scatter=7 if scattered else None, **options)


class World:
    """A process whose pages all go from one node to the other and back.

    Attributes
    ----------
    app : Process
        The process.
    addresses : ndarray of uint64
        Its pages.
    """

    def __init__(
        self,
        pages: int,
        *,
        scattered: bool,
        on: pm.Machine | None = None,
        cpu: int = 0,
        flags: int = pm.MPOL_MF_MOVE,
        **options: Any,
    ) -> None:
        self.machine = on or machine(pages, scattered=scattered, **options)
        self.pages, self.scattered, self.flags = pages, scattered, flags
        self.app = self.machine.spawn(cpu=cpu)
        self.base = self.app.mmap(pages * PAGE)
        self.side = cpu
        assert self.app.touch(self.base, pages * PAGE, write=True).done == pages
        self.addresses = self.base + np.arange(pages, dtype=np.uint64) * np.uint64(PAGE)
        self._targets = [np.full(pages, nid, dtype=np.int32) for nid in range(2)]

    @property
    def own_bytes(self) -> int:
        """Bytes of the lists that are handed to the model, not of the model."""
        return self.addresses.nbytes + sum(targets.nbytes for targets in self._targets)

    def move(self) -> None:
        """Move every page to the other node with one call."""
        self.side ^= 1
        result = self.app.move_pages(self.addresses, self._targets[self.side], self.flags)
        assert result.not_migrated == 0

    def frames(self) -> npt.NDArray[np.uint64]:
        """Frame of every page, in the order of the addresses, which is that of the call."""
        frames: npt.NDArray[np.uint64] = self.app._ptes(self.base, self.pages) >> _SHIFT & _PFN
        return frames

    def prove(self) -> npt.NDArray[np.uint64]:
        """Assert where the pages are and that their frames lie as the subject says.

        Asked before every repetition and after the last, it vouches for sources and targets of
        each: the targets of one are the sources of the next.
        """
        frames = self.frames()
        assert (self.machine.node_of(frames) == self.side).all(), "not all pages are where asked"
        share = near_share(frames)
        if self.scattered:
            assert share < SCATTERED, f"{share:.1%} of the frames are neighbours: not scattered"
        else:
            assert share > SEQUENTIAL, f"only {share:.1%} of the frames are neighbours"
        return frames


class WholeProcess(World):
    """A process whose pages ``migrate_pages`` moves, under a kernel that may need swap for it."""

    def __init__(self, pages: int, kernel: str, *, scattered: bool = True) -> None:
        swap = {"swap": [4 * pages * PAGE]} if pm.KERNELS[kernel].swap else {}
        super().__init__(pages, scattered=scattered, kernel=kernel, **swap)

    def move(self) -> None:
        """Move every page to the other node with one call."""
        old, self.side = self.side, self.side ^ 1
        assert self.app.migrate_pages([old], [self.side]) == 0


class Bound(World):
    """A process whose pages follow the policy of their mapping."""

    def move(self) -> None:
        """Bind the mapping to the other node; STRICT: an error if a page stays behind."""
        self.side ^= 1
        flags = self.flags | pm.MPOL_MF_STRICT
        self.app.mbind(self.base, self.pages * PAGE, pm.Bind([self.side]), flags)


def resident() -> int:
    """Bytes of this process that are in the host's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
