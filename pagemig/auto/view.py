"""The view that a policy gets, and its answer.

A policy is an object with ``needs``, its statistics, which it is charged for; ``start(view)``,
called once a run; and ``epoch(view)``, called after every epoch, which returns the pages to move
and their targets. It gets arrays and returns arrays, so it need not know whether it runs on a model
or on a machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pagemig.checked import integers, whole

__all__ = ["NO_MOVES", "Moves", "Policy", "Seen", "Source", "Stream", "View", "Watch"]

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


#: Events of statistics: names of prices (`pagemig.auto.costs.EVENTS`), a number for each program.
Events: TypeAlias = "list[tuple[str, NDArray[Any]]]"


class Stream:
    """A piece of an epoch: accesses in order of time, as runs of accesses to one page.

    Parameters
    ----------
    page, count, write, at
        As the attributes.
    before, total : int
        Without ``at``: accesses of the epoch before this piece, and of the whole epoch.

    Attributes
    ----------
    page : ndarray of int32, shape (runs,)
        The page.
    count : ndarray of uint32, shape (runs,)
        Accesses.
    write : ndarray of bool, shape (runs,)
        Whether they store.
    at : ndarray of float64, shape (runs,)
        When the run begins, as a share of the epoch.
    """

    def __init__(
        self,
        page: NDArray[np.int32],
        count: NDArray[np.uint32],
        write: Bools,
        at: Floats | None = None,
        *,
        before: int = 0,
        total: int = 0,
    ) -> None:
        columns = {np.shape(column) for column in (page, count, write, page if at is None else at)}
        if len(columns) != 1 or np.ndim(page) != 1:
            raise ValueError(f"page, count, write and at must be of one length, not {columns}")
        self.page, self.count, self.write = page, count, write
        self._at = at
        self._before = whole(before, "before", 0, 1 << 62)
        self._total = whole(total, "total", 0, 1 << 62)

    @property
    def at(self) -> Floats:
        """See above; computed on first use, since most sources do not need it."""
        if self._at is None:
            ends = self._before + np.cumsum(self.count, dtype=np.int64)
            self._at = (ends - self.count) / max(self._total, 1)
        return self._at

    def cut(self, start: int, stop: int) -> Stream:
        """Return the runs from ``start`` to ``stop``."""
        runs = self.page.size
        cut = slice(whole(start, "start", 0, runs), whole(stop, "stop", 0, runs))
        return Stream(self.page[cut], self.count[cut], self.write[cut], self.at[cut])


class Seen(Protocol):
    """An epoch as it really was, for sources of statistics; policies never see it.

    Attributes
    ----------
    counts : ndarray of int64, shape (nodes, pages)
        Accesses from the processors of each node.
    programs : int
        Programs.
    accesses : int
        Accesses of all programs in the epoch.
    """

    @property
    def counts(self) -> Ints:
        """See above."""
        ...

    @property
    def programs(self) -> int:
        """See above."""
        ...

    @property
    def accesses(self) -> int:
        """See above."""
        ...

    def pieces(self) -> Iterator[Stream]:
        """Yield the accesses in order, a piece at a time: an epoch may be longer than memory."""
        ...

    def future(self, epochs: int) -> Ints:
        """Return the accesses of the next epochs together, as in ``counts``."""
        ...

    def span_ns(self) -> tuple[float, float]:
        """Return when the epoch began and ended, ns."""
        ...


class Watch(Protocol):
    """A source at work in one run."""

    def look(self, seen: Seen, view: View) -> Events:
        """Add the statistics of an epoch to the view; return the events to charge for."""
        ...


class Source(Protocol):
    """A source of statistics.

    Attributes
    ----------
    oracle : bool
        Whether it sees what no machine can.
    """

    oracle: ClassVar[bool]

    def watch(self, view: View, rng: np.random.Generator) -> Watch:
        """Begin a run."""
        ...


class Moves(NamedTuple):
    """Pages to move, in the order they are tried: moves that make room come first.

    Attributes
    ----------
    pages : array_like of int, shape (n,)
        The pages (indices, not addresses).
    nodes : array_like of int, shape (n,) or an int
        The node each goes to.
    sync : bool, default True
        Whether the program waits. In the background (False) it only waits for the flushes, and the
        copies compete with it for bandwidth.
    """

    pages: ArrayLike
    nodes: ArrayLike
    sync: bool = True

    @staticmethod
    def joined(*parts: Moves | tuple[ArrayLike, ArrayLike]) -> Moves:
        """Join several lists, in order."""
        pages = [np.asarray(part[0], np.int64) for part in parts]
        nodes = [
            np.broadcast_to(np.asarray(part[1], np.int64), page.shape)
            for part, page in zip(parts, pages, strict=True)
        ]
        return Moves(np.concatenate(pages), np.concatenate(nodes))


#: An empty answer.
NO_MOVES = Moves(np.empty(0, np.int64), np.empty(0, np.int64))


@runtime_checkable
class Policy(Protocol):
    """A policy: decides which pages to move.

    Attributes
    ----------
    needs : sequence of Source
        Its statistics, which it is charged for; empty for a policy that only places pages.

    Notes
    -----
    A policy may also have ``place(view)``: weights by which new pages go to the nodes in turn.
    """

    needs: Sequence[Source] = ()

    def start(self, view: View) -> None:
        """Begin a run, and forget the one before.

        Parameters
        ----------
        view : View
            The machine and the programs; nothing was accessed yet, and no statistics are there.
        """

    def epoch(self, view: View) -> Moves | tuple[ArrayLike, ArrayLike]:
        """Decide after an epoch.

        Parameters
        ----------
        view : View
            The statistics and the state of the machine.

        Returns
        -------
        Moves or (pages, nodes)
        """
        ...


#: What sources add to a view, and the source that does.
_ADDED = {
    "counts": "Counts",
    "samples": "Samples",
    "sampled": "Samples",
    "accessed": "AccessedBits",
    "dirty": "AccessedBits",
    "faults": "HintFaults",
    "fault_node": "HintFaults",
    "fault_epochs": "HintFaults",
    "fault_ns": "HintFaults",
    "regions": "Regions",
    "future": "Future",
}


class View:
    """What is known after an epoch. Arrays over pages cover all programs, one after the other.

    Attributes
    ----------
    epoch : int
        The number of the epoch that has ended, from 0.
    node : ndarray of int64, shape (pages,)
        The node of each page; -1 for a page that is not present.
    free, capacity : ndarray of int64, shape (nodes,)
        Free pages of each node, and all its pages that programs can use.
    owner : ndarray of int64, shape (pages,)
        The program each page belongs to.
    home : ndarray of int64, shape (pages,)
        The node whose processors run that program.
    latency : ndarray of float64, shape (nodes, nodes)
        Idle nanoseconds of an access from a processor of the row's node to memory of the column's.
    tiers : tuple of tuple of int
        Nodes by the latency of their nearest processor, the fastest first.
    fast : tuple of int
        The nodes whose processors run programs.
    upper : tuple of int
        The nodes that pages are demoted from: all but those of the last tier.
    below : ndarray of int64, shape (nodes,)
        The node that pages of a node are demoted to: the nearest of the next tier, -1 for none. If
        all nodes have processors, it is the nearest other one.
    last : ndarray of int64, shape (n,)
        The status of each page of the previous answer: its node, or a negative errno.
    rng : numpy.random.Generator
        For policies that draw; seeded by the run.
    counts : ndarray of int64, shape (nodes, pages)
        `Counts`: accesses from each node in this epoch.
    samples : ndarray of int64, shape (pages,)
        `Samples`: sampled accesses of this epoch; ``sampled`` has their pages in order of time.
    accessed, dirty : ndarray of bool, shape (pages,), or None
        `AccessedBits`: pages accessed and written since the previous scan; None without a scan.
    faults : ndarray of int64, shape (n,)
        `HintFaults`: pages that faulted, in order of time; ``fault_node`` the nodes they faulted
        from, ``fault_epochs`` and ``fault_ns`` how long after they were made inaccessible.
    regions : Regions
        `Regions`: ``start``, ``stop``, ``nr_accesses`` and ``age`` of each region.
    future : ndarray of int64, shape (nodes, pages)
        `Future`: accesses in the epochs to come.
    """

    epoch: int
    node: Ints
    free: Ints
    counts: Ints
    samples: Ints
    sampled: Ints
    accessed: Bools | None
    dirty: Bools | None
    faults: Ints
    fault_node: Ints
    fault_epochs: Ints
    fault_ns: Floats
    regions: Any
    future: Ints

    def __init__(
        self,
        *,
        capacity: Ints,
        owner: Ints,
        homes: Ints,
        latency: Floats,
        tiers: tuple[tuple[int, ...], ...],
        bandwidth: Floats,
        rng: np.random.Generator,
        move_ns: Callable[[float, int, int], float],
        clock: Callable[[], float] = lambda: 0.0,
        load: Callable[[], Floats] | None = None,
    ) -> None:
        capacity = integers(capacity, "capacity", (None,), 0, 1 << 62)
        owner = integers(owner, "owner", (None,), 0, 1 << 31)
        self._programs = int(owner.max(initial=0)) + 1
        self.epoch = -1
        self.node = np.full(owner.size, -1, np.int64)
        self.capacity, self.free = capacity, capacity.copy()
        self.owner, self.latency, self.tiers = owner, latency, tiers
        self.bandwidth, self.rng = bandwidth, rng
        self.last = np.empty(0, np.int64)
        self._move_ns, self._clock, self._load = move_ns, clock, load
        listed = sorted(nid for tier in tiers for nid in tier)
        if listed != list(range(capacity.size)):
            raise ValueError(
                f"tiers must have each of {capacity.size} nodes once, not {tiers!r:.80}"
            )
        self.below = np.array([self._next(nid) for nid in range(capacity.size)])
        # Tiers from the view of each node: itself first, then the others by latency.
        ranks = [np.unique(row, return_inverse=True)[1] for row in latency]
        self._ranks = np.append(np.array(ranks), np.full((capacity.size, 1), -1), axis=1)
        self.run_on(homes)

    def run_on(self, homes: Ints) -> None:
        """Set the nodes on whose processors the programs run from now on."""
        homes = integers(homes, "homes", (None,), 0, self.capacity.size - 1)
        if homes.size < self._programs:
            raise ValueError(f"homes must be a node of each of {self._programs} programs: {homes}")
        self.home = homes[self.owner]
        self.fast = tuple(np.unique(homes).tolist())
        upper = [nid for tier in self.tiers[:-1] for nid in tier]
        self.upper = tuple(upper) or self.fast

    def __getattr__(self, name: str) -> Any:
        if name in _ADDED:
            raise AttributeError(f"view.{name} is for policies whose needs have {_ADDED[name]}()")
        raise AttributeError(f"a view has no {name!r}")

    def _next(self, nid: int) -> int:
        at = next(k for k, tier in enumerate(self.tiers) if nid in tier)
        if len(self.tiers) == 1:
            others = [node for node in self.tiers[0] if node != nid]
        else:
            others = list(self.tiers[at + 1]) if at + 1 < len(self.tiers) else []
        return min(others, key=lambda node: float(self.latency[nid, node]), default=-1)

    @property
    def ns(self) -> float:
        """Modelled time so far, at an overlap of 1."""
        return self._clock()

    @property
    def loaded(self) -> Floats:
        """Latency of each path in the last epoch, including queueing; as ``latency``."""
        return self.latency if self._load is None else self._load()

    @property
    def tier(self) -> Ints:
        """Tier of each page from the view of its program: 0 its own node, -1 not present."""
        at = self.fast[0] if len(self.fast) == 1 else self.home
        tier: Ints = self._ranks[at, self.node]
        return tier

    def move_ns(self, pages: float, source: int, target: int) -> float:
        """Return the nanoseconds of moving so many pages between two nodes, without the call."""
        return self._move_ns(pages, source, target)

    def gain_ns(self, accesses: NDArray[Any]) -> Floats:
        """Return the nanoseconds that each page saves on the fast node.

        Parameters
        ----------
        accesses : ndarray, shape (pages,)
            Accesses of its program.

        Returns
        -------
        ndarray of float64, shape (pages,)
            Relative to the page's node; for a page on the fast node, relative to where it would go.
        """
        slow = np.where(self.node == self.home, self.below[self.home], self.node)
        saved: Floats = self.latency[self.home, slow] - self.latency[self.home, self.home]
        return np.asarray(saved * accesses, np.float64)

    def _pages(self, pages: ArrayLike) -> Ints:
        """Return pages, each one of the programs'."""
        return integers(pages, "pages", (None,), 0, self.owner.size - 1)

    def _heat(self, heat: ArrayLike) -> NDArray[Any]:
        """Return the heat of each page."""
        given = np.asarray(heat)
        if given.shape != self.owner.shape or given.dtype.kind not in "biuf":
            raise ValueError(
                f"heat must be a number for each of {self.owner.size} pages, not "
                f"{given.dtype} of shape {given.shape}"
            )
        return given

    def room(self, nid: int, pages: int, heat: NDArray[Any]) -> Ints:
        """Return the coldest pages of a node that have to leave so that others can come.

        Parameters
        ----------
        nid : int
            The node.
        pages : int
            How many pages are to come.
        heat : ndarray, shape (pages of the programs,)
            Heat of each page.
        """
        nid = whole(nid, "nid", 0, self.capacity.size - 1)
        return self._coldest(nid, whole(pages, "pages", 0, 1 << 62), self._heat(heat))

    def _coldest(self, nid: int, pages: int, heat: NDArray[Any]) -> Ints:
        number = pages - int(self.free[nid])
        if number <= 0:
            return np.empty(0, np.int64)
        there = np.flatnonzero(self.node == nid)
        return there[np.argsort(heat[there], kind="stable")[:number]]

    def demoted(self, pages: Ints) -> Moves:
        """Send pages a tier down, and further down if that is full."""
        return self._down(self._pages(pages))

    def _down(self, pages: Ints) -> Moves:
        nodes = self.below[self.node[pages]]
        for nid in (node for tier in self.tiers for node in tier):
            late = np.flatnonzero(nodes == nid)[int(self.free[nid]) :]
            nodes[late] = self.below[nid] if len(self.tiers) > 1 else -1
        fits = nodes >= 0
        return Moves(pages[fits], nodes[fits])

    def promoted(self, pages: Ints) -> Moves:
        """Send pages to the nodes of their programs, as many as there is room for."""
        pages = self._pages(pages)
        nodes = self.home[pages]
        fits = np.zeros(pages.size, np.bool_)
        for nid in self.fast:
            fits[np.flatnonzero(nodes == nid)[: int(self.free[nid])]] = True
        return Moves(pages[fits], nodes[fits])

    def swap(self, pages: Ints, heat: NDArray[Any], worth: float = 0.0) -> Moves:
        """Send pages to the nodes of their programs; colder ones make room.

        Parameters
        ----------
        pages : ndarray of int64, shape (n,)
            The pages; those that are already there are skipped.
        heat : ndarray, shape (pages of the programs,)
            Heat of each page: the hottest come first, the coldest leave first.
        worth : float, default 0
            A page replaces another only if it is hotter by more than this.

        Returns
        -------
        Moves
            The pages that leave, then those that come. All of them fit.
        """
        pages, heat = self._pages(pages), self._heat(heat)
        goes, comes = [], []
        for nid in self.fast:
            wanted = pages[(self.home[pages] == nid) & (self.node[pages] != nid)]
            wanted = wanted[np.argsort(-heat[wanted], kind="stable")]
            free = min(int(self.free[nid]), wanted.size)
            out = self._coldest(nid, wanted.size, heat)
            pairs = heat[wanted[free : free + out.size]] > heat[out] + worth
            number = int(np.argmin(pairs)) if not pairs.all() else pairs.size
            goes.append(self._down(out[:number]))
            comes.append(wanted[: free + number])
        down, up = Moves.joined(*goes), np.concatenate(comes)
        return Moves.joined(down, (up, self.home[up]))
