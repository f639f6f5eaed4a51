"""Where pages are and how they move: on this machine, or on an imagined one."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pagemig import auto
from pagemig.constants import PAGE_SIZE
from pagemig.errors import SyscallError

from .sight import Addresses, Target
from .topology import Topology

__all__ = ["Here", "Imagined", "Places"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Nanoseconds of a local access, assumed, which turn distances into latencies: 10 is local.
_LOCAL_NS = 80.0
#: Per cent of each node's memory that is left to the rest of the machine.
_LEFT = 5
#: Pages that today's kernels flush at once.
_BATCH = 512


class Places(Protocol):
    """The nodes that pages can be on, counted from 0 as a view counts them.

    Attributes
    ----------
    names : list of str
        Names of the nodes.
    latency, bandwidth : ndarray of float64, shape (nodes, nodes)
        As `pagemig.auto.View` has them.
    tiers : tuple of tuple of int
        The same.
    moves : bool
        Whether moves take effect.
    """

    names: list[str]
    latency: Floats
    bandwidth: Floats
    tiers: tuple[tuple[int, ...], ...]
    moves: bool

    def watch(self, pages: Addresses) -> None:
        """Begin with pages, ascending."""
        ...

    def where(self, there: NDArray[np.bool_]) -> Ints:
        """Return the node of each page, -1 for none; ``there`` says which are present."""
        ...

    def capacity(self) -> Ints:
        """Return how many pages each node can hold."""
        ...

    def free(self) -> Ints:
        """Return how many pages of each node are free."""
        ...

    def home(self, cpu: int) -> int:
        """Return the node of a processor."""
        ...

    def move(self, pages: Ints, nodes: Ints) -> Ints:
        """Move pages; return for each its node or a negative errno."""
        ...

    def move_ns(self, pages: float, source: int, target: int) -> float:
        """Return how many nanoseconds it takes to move so many pages."""
        ...


class Here:
    """The nodes of this machine.

    Parameters
    ----------
    process : Target
        Whose pages.
    machine : callable
        Answers the nodes as they are now.
    dry_run : bool
        Leave the pages where they are.
    """

    def __init__(self, process: Target, machine: Callable[[], Topology], dry_run: bool) -> None:
        self.process, self.machine, self.moves = process, machine, not dry_run
        nodes = machine()
        self.numbers = np.array(nodes.nodes, np.int64)
        self.cpus = [nodes.cpus[nid] for nid in nodes.nodes]
        self.names = [f"node {nid}" for nid in nodes.nodes]
        self.latency: Floats = np.asarray(nodes.distance * (_LOCAL_NS / 10), np.float64)
        # The kernel does not report bandwidth: all paths count as equally wide.
        self.bandwidth = np.ones_like(self.latency)
        with_cpus = [at for at, cpus in enumerate(self.cpus) if cpus] or [0]
        nearest = self.latency[with_cpus].min(axis=0)
        self.tiers = tuple(
            tuple(np.flatnonzero(nearest == ns).tolist()) for ns in np.unique(nearest)
        )
        self.place = np.full(int(self.numbers.max()) + 1, -1, np.int64)
        self.place[self.numbers] = np.arange(self.numbers.size)
        self.pages: Addresses = np.empty(0, np.uint64)
        self.page_ns = auto.move_ns(auto.hardware(), 1, batch=1, calls=0)

    def watch(self, pages: Addresses) -> None:
        """See `Places.watch`."""
        self.pages = pages

    def where(self, there: NDArray[np.bool_]) -> Ints:
        """See `Places.where`."""
        if self.numbers.size == 1:
            # One node needs no asking, and a kernel without NUMA would not answer.
            return np.where(there, 0, -1).astype(np.int64)
        found = np.full(self.pages.size, -1, np.int64)
        at = np.flatnonzero(there)
        if at.size:
            found[at] = np.maximum(self._placed(self.process.move_pages(self.pages[at]).status), -1)
        return found

    def _placed(self, status: NDArray[np.int32]) -> Ints:
        """Return statuses with nodes counted from 0; errnos stay."""
        known = np.flatnonzero((status >= 0) & (status < self.place.size))
        placed = status.astype(np.int64)
        placed[known] = self.place[status[known]]
        return placed

    def capacity(self) -> Ints:
        """See `Places.capacity`; a part of each node is left to the rest of the machine."""
        total: Ints = self._pages(self.machine().total)
        return total * (100 - _LEFT) // 100

    def free(self) -> Ints:
        """See `Places.free`."""
        nodes = self.machine()
        left: Ints = self._pages(nodes.free) - self._pages(nodes.total) * _LEFT // 100
        return np.maximum(left, 0)

    def _pages(self, amounts: dict[int, int]) -> Ints:
        return np.array([amounts.get(nid, 0) // PAGE_SIZE for nid in self.numbers.tolist()])

    def home(self, cpu: int) -> int:
        """See `Places.home`."""
        return next((at for at, cpus in enumerate(self.cpus) if cpu in cpus), 0)

    def move(self, pages: Ints, nodes: Ints) -> Ints:
        """See `Places.move`; the time of a page is measured for `move_ns`."""
        started = time.perf_counter_ns()
        try:
            status = self.process.move_pages(self.pages[pages], self.numbers[nodes]).status
        except SyscallError as error:
            if error.name != "ENOMEM" or error.result is None:
                raise
            status = error.result.status  # a node is full: statuses stored before, the rest unset
        took = time.perf_counter_ns() - started
        placed = self._placed(status)
        moved = int((placed == nodes).sum())
        if moved >= _BATCH:
            self.page_ns = took / moved
        return placed

    def move_ns(self, pages: float, source: int, target: int) -> float:
        """See `Places.move_ns`: assumed until a long enough call was measured."""
        return pages * self.page_ns


class Imagined:
    """A machine by its description; pages are placed and moved on paper.

    New pages go where the first touch would: to the fastest node with room, by rising address.

    Parameters
    ----------
    hardware : Hardware
        The machine.
    fast_share : float
        Size of its first node, as a share of the process's pages.
    """

    moves = True

    def __init__(self, hardware: auto.Hardware, fast_share: float) -> None:
        self.hardware, self.fast_share = hardware, fast_share
        self.names = list(hardware.nodes)
        self.latency, self.bandwidth = hardware.latency, hardware.bandwidth
        self.tiers = hardware.tiers
        self.pages: Addresses = np.empty(0, np.uint64)
        self.node: Ints = np.empty(0, np.int64)

    def watch(self, pages: Addresses) -> None:
        """See `Places.watch`; pages that were watched before stay where they were."""
        node = np.full(pages.size, -1, np.int64)
        _, old, new = np.intersect1d(self.pages, pages, assume_unique=True, return_indices=True)
        node[new] = self.node[old]
        self.pages, self.node = pages, node

    def where(self, there: NDArray[np.bool_]) -> Ints:
        """See `Places.where`."""
        self.node[~there] = -1
        new = np.flatnonzero(there & (self.node < 0))
        for nid in (nid for tier in self.tiers for nid in tier):
            fits = max(int(self.free()[nid]), 0)
            self.node[new[:fits]] = nid
            new = new[fits:]
        self.node[new] = self.tiers[-1][-1]
        return self.node.copy()

    def capacity(self) -> Ints:
        """See `Places.capacity`; the last node has room for everything."""
        fast = np.rint(self.pages.size * self.fast_share * np.array(self.hardware.sizes))
        return np.append(np.maximum(fast[:-1], 1), self.pages.size).astype(np.int64)

    def free(self) -> Ints:
        """See `Places.free`."""
        used = np.bincount(self.node[self.node >= 0], minlength=len(self.names))
        left: Ints = self.capacity() - used
        return np.maximum(left, 0)

    def home(self, cpu: int) -> int:
        """See `Places.home`."""
        return self.hardware.cpu_nodes[0]

    def move(self, pages: Ints, nodes: Ints) -> Ints:
        """See `Places.move`."""
        status = np.full(pages.size, -errno.ENODEV, np.int64)
        cuts = np.flatnonzero(np.diff(nodes)) + 1
        for part in np.split(np.arange(pages.size), cuts):
            if not part.size or not 0 <= nodes[part[0]] < len(self.names):
                continue
            target = int(nodes[part[0]])
            status[part] = np.where(self.node[pages[part]] < 0, -errno.ENOENT, target)
            come = part[(self.node[pages[part]] >= 0) & (self.node[pages[part]] != target)]
            fits = int(self.free()[target])
            self.node[pages[come[:fits]]] = target
            status[come[fits:]] = -errno.ENOMEM
        return status

    def move_ns(self, pages: float, source: int, target: int) -> float:
        """See `Places.move_ns`."""
        return auto.move_ns(self.hardware, pages, batch=_BATCH, calls=0)
