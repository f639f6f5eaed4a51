"""The optimum: how good any placement over time could have been.

A program's accesses are cut into epochs. In each epoch a page is on one node, between two epochs it
may move, and a node has room for a number of pages. An access costs the latency of its node, a move
its price. What is the least cost that any policy can reach, even one that knows the future?
`optimum` returns a lower bound on the cost of every policy, and a placement that comes close to it,
so the true optimum lies between the two.

Why the bound holds
-------------------
Let ``n(e, p)`` be the node of page ``p`` in epoch ``e`` under any policy, ``cost(n)`` its accesses
and moves, and ``used(e, j)`` the pages it has on node ``j`` in epoch ``e``, at most ``room(j)``.
Choose a price ``q(e, j) >= 0`` for a frame of ``j`` in ``e``, any price. Then::

    cost(n)  >=  cost(n) + sum of q(e, j) * (used(e, j) - room(j))      no term added is above 0
             >=  min over all m of [cost(m) + sum of q(e, j) * used_m(e, j)]  -  sum of q * room

where ``m`` need not obey any capacity. Without capacities pages are independent, so the minimum is
one shortest path through epochs and nodes for each page (`pagemig.auto.relax`), found exactly. The
right side is therefore below the cost of every policy, **whatever the prices**; better prices only
raise it. This is the Lagrangian relaxation of the capacities. Subgradient steps find the prices: a
node that more pages choose than it holds becomes more expensive in that epoch. Each page's paths
are the vertices of its own polytope, so the best prices reach the value of the linear program
(`tests/studies/test_optimum.py` compares the two).

What it bounds
--------------
It bounds the time of accesses at idle latency, plus the time of moves at the least price of a page
(`pagemig.auto.costs.least_move_ns`: no call, no refusal, full batches). Queueing only adds to a
latency, and calls and statistics only add to a move, so a policy that is priced with them is still
above the bound. There are two conditions: pages move only between epochs, and a page stays from its
first access to the end of its program, since nothing is reclaimed.

The best price of a frame is interesting in itself: it is the time that one more page of that node
would have saved in that epoch.

Chopt used placement as a flow, with a bound from it, for caching objects (per request).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pagemig.checked import integers, reals, whole

from .relax import choose, relax

__all__ = ["Demand", "Optimum", "optimum"]

Floats = NDArray[np.float64]

#: The most nodes: placements have them as int8.
_MOST_NODES = 127
_INT32, _INT64 = (int(np.iinfo(kind).max) for kind in (np.int32, np.int64))
#: The most page-epoch-nodes of all steps on the whole problem: a few seconds.
_WORK = 400_000_000
#: Steps on the whole problem, and on each of the samples that are solved before it.
_STEPS = 600
_LEAST_STEPS = 10
_SAMPLE_STEPS = (250, 80)
_LEAST_SAMPLE = 2000
_SAMPLED = 6
#: The search ends once bound and placement are this close, as a share.
_NEAR = 5e-5
#: Steps without progress after which the step is halved, and the share of the last step's
#: direction that goes into the next.
_PATIENCE = 20
_MEMORY = 0.7
#: Steps after which a new placement is tried; the steps aim at its cost.
_PLACED = (30, 100, 250)


@dataclass(frozen=True)
class Demand:
    """The demand of one or more programs on the memory, epoch by epoch.

    Attributes
    ----------
    counts : ndarray of int32 or int64, shape (epochs, sources, pages)
        Accesses to each page, from the processors of each node that has processors; int64 if a
        page has more than 2**31 - 1 in an epoch.
    sources : ndarray of int64, shape (sources,)
        Those nodes.
    first : ndarray of int32, shape (pages,)
        The epoch of a page's first access; the number of epochs for a page never accessed.
    last : ndarray of int32, shape (pages,)
        The epoch after a page's last: its program has ended, and its memory is freed.

    Raises
    ------
    TypeError
        Something that is no array of whole numbers.
    ValueError
        A number out of range, or shapes that do not match.
    """

    counts: NDArray[np.int32] | NDArray[np.int64]
    sources: NDArray[np.int64]
    first: NDArray[np.int32]
    last: NDArray[np.int32]

    def __post_init__(self) -> None:
        """Refuse what is no demand, and bring counts to the type that holds them."""
        counts = integers(self.counts, "counts", (None, None, None), 0, _INT64, None)
        wide = np.int64 if counts.max(initial=0) > _INT32 else np.int32
        counts = np.ascontiguousarray(counts, wide)
        epochs, sources, pages = counts.shape
        checked = {
            "counts": counts,
            "sources": integers(self.sources, "sources", (sources,), 0, _MOST_NODES - 1),
            "first": integers(self.first, "first", (pages,), 0, epochs, np.int32),
            "last": integers(self.last, "last", (pages,), 0, epochs, np.int32),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_counts(cls, counts: ArrayLike, sources: ArrayLike = (0,)) -> Demand:
        """Make a demand in which pages appear at their first access and stay to the end.

        Parameters
        ----------
        counts : array_like of int, shape (epochs, pages) or (epochs, sources, pages)
            Accesses.
        sources : array_like of int, shape (sources,), default (0,)
            The nodes they come from.

        Raises
        ------
        TypeError
            Counts or sources that are no whole numbers.
        ValueError
            A count below 0 or beyond 64 bits, or the shapes do not match.
        """
        shape = np.shape(counts)
        if len(shape) not in (2, 3):
            raise ValueError(
                f"counts must be (epochs, pages) or (epochs, sources, pages), not of shape {shape}"
            )
        given: Any = integers(counts, "counts", (None,) * len(shape), 0, _INT64, None)
        if given.ndim == 2:
            given = given.reshape(shape[0], 1, shape[1])
        epochs, _, pages = given.shape
        seen = given.any(axis=1)
        first = np.where(seen.any(axis=0), seen.argmax(axis=0) if epochs else 0, epochs)
        return cls(given, np.asarray(sources), first, np.full(pages, epochs))

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return int(self.counts.shape[0])

    @property
    def pages(self) -> int:
        """Number of pages."""
        return int(self.counts.shape[2])

    def sample(self, every: int) -> Demand:
        """Return the demand of every n-th page."""
        every = whole(every, "every", 1, _INT64)
        chosen: Any = np.ascontiguousarray(self.counts[:, :, ::every])
        return Demand(chosen, self.sources, self.first[::every].copy(), self.last[::every].copy())


@dataclass(frozen=True)
class Optimum:
    """A lower bound on every policy, and a placement close to it.

    Attributes
    ----------
    bound_ns : float
        Nanoseconds of accesses and moves: the lower bound.
    reached_ns : float
        Nanoseconds of accesses and moves of ``placement``, at the same prices.
    placement : ndarray of int8, shape (epochs, pages)
        A node for each page, within the capacities; -1 where a page is not present.
    prices : ndarray of float64, shape (epochs, nodes)
        Nanoseconds that one more frame of a node would have saved in an epoch.
    """

    bound_ns: float
    reached_ns: float
    placement: NDArray[np.int8]
    prices: Floats

    @property
    def gap(self) -> float:
        """The most that the true optimum can be above the bound, as a share of the bound."""
        return (self.reached_ns - self.bound_ns) / self.reached_ns if self.reached_ns else 0.0


@dataclass(frozen=True)
class _Problem:
    """A demand with the prices of accesses and moves, and the room of nodes."""

    demand: Demand
    latency: Floats  # [source][node]
    moves: Floats
    room: Floats

    def solve(self, prices: Floats, **out: NDArray[Any]) -> tuple[float, Floats]:
        """Return the bound that prices give, and by how much each node is overbooked."""
        used = np.empty(prices.shape, np.int64)
        demand = self.demand
        paths = relax(
            demand.counts, self.latency, self.moves, prices, demand.first, demand.last, used, **out
        )
        return paths - float((prices * self.room).sum()), used - self.room

    def sample(self, every: int) -> _Problem:
        """Return the problem for a part of the pages, with proportionally less room."""
        part = self.demand.sample(every)
        share = part.pages / self.demand.pages
        return _Problem(part, self.latency, self.moves, self.room * share)


def optimum(
    demand: Demand,
    latency: ArrayLike,
    moves: ArrayLike | float,
    room: ArrayLike,
    *,
    steps: int | None = None,
) -> Optimum:
    """Bound what any policy can reach, and find a placement near it.

    Parameters
    ----------
    demand : Demand
        The accesses.
    latency : array_like of float, shape (nodes, nodes)
        Idle nanoseconds of an access from the row's node to memory of the column's.
    moves : float or array_like of float, shape (nodes, nodes)
        Least nanoseconds of moving a page from the row's node to the column's. If a detour is
        cheaper, the detour counts.
    room : array_like of int, shape (nodes,)
        Pages that a node holds.
    steps : int, optional
        The most steps on the prices; as many as a few seconds allow unless given.

    Returns
    -------
    Optimum

    Raises
    ------
    ValueError
        Shapes that do not match, a negative or infinite cost, or too little room for the pages of
        an epoch.
    """
    if not isinstance(demand, Demand):
        raise TypeError(f"demand must be a Demand, not {demand!r:.80}")
    capacity = reals(room, "room", (None,))
    nodes = capacity.size
    if not 1 <= nodes <= _MOST_NODES:
        raise ValueError(f"room must be for 1 to {_MOST_NODES} nodes, not {nodes}")
    table = reals(latency, "latency", (nodes, nodes))
    price = np.array(np.broadcast_to(reals(moves, "moves", np.shape(moves)), (nodes, nodes)))
    np.fill_diagonal(price, 0)
    if demand.sources.size and demand.sources.max() >= nodes:
        raise ValueError(f"sources {demand.sources.tolist()} are not nodes from 0 to {nodes - 1}")
    if steps is not None:
        steps = whole(steps, "steps", 0, _INT32)
    present = _present(demand)
    if present.size and present.max() > capacity.sum():
        raise ValueError(f"{present.max()} pages do not fit nodes of {capacity.tolist()} pages")
    rows = np.ascontiguousarray(table[demand.sources])
    problem = _Problem(demand, rows, _shortest(price), capacity)
    return _search(problem, steps)


def _present(demand: Demand) -> NDArray[np.int64]:
    """Count the pages present in each epoch."""
    size = demand.epochs + 1
    there = demand.first < demand.last
    come = np.bincount(demand.first[there], minlength=size)
    go = np.bincount(demand.last[there], minlength=size)
    return np.cumsum(come - go)[: demand.epochs]


def _shortest(moves: Floats) -> Floats:
    """Return the cheapest path from node to node, detours allowed (Floyd and Warshall)."""
    best = moves.copy()
    for via in range(best.shape[0]):
        best = np.minimum(best, best[:, via, np.newaxis] + best[np.newaxis, via])
    return best


def _search(problem: _Problem, steps: int | None) -> Optimum:
    """Find good prices, first on samples of the pages."""
    demand = problem.demand
    prices = np.zeros((demand.epochs, problem.room.size))
    if steps is None:
        size = max(demand.counts.shape[0] * demand.pages * problem.room.size, 1)
        steps = min(max(_WORK // size, _LEAST_STEPS), _STEPS)
        every = _SAMPLED ** (len(_SAMPLE_STEPS))
        for sample_steps in _SAMPLE_STEPS:
            if demand.pages // every >= _LEAST_SAMPLE:
                prices = _Ascent(problem.sample(every), prices).run(sample_steps).best_prices
            every //= _SAMPLED
    ascent = _Ascent(problem, prices).run(steps)
    return Optimum(max(ascent.bound, 0.0), ascent.reached, ascent.placement, ascent.best_prices)


class _Ascent:
    """Subgradient steps on the prices, with step sizes by the best placement found (Polyak)."""

    def __init__(self, problem: _Problem, prices: Floats) -> None:
        self.problem = problem
        self.prices = self.best_prices = prices
        self.bound = -np.inf
        self.reached = np.inf
        self.placement = np.empty((0, 0), np.int8)
        self._place()

    def run(self, steps: int) -> _Ascent:
        """Make at most so many steps."""
        length, patience = 1.0, 0
        direction = np.zeros_like(self.prices)
        for step in range(steps):
            bound, excess = self.problem.solve(self.prices)
            patience += 1
            if bound > self.bound:
                if bound - self.bound > 1e-3 * (self.reached - bound):
                    patience = 0
                self.bound, self.best_prices = bound, self.prices
            if step in _PLACED:
                self._place()
            if self.reached - self.bound <= _NEAR * self.reached:
                break
            if patience >= _PATIENCE:
                length, patience = length / 2, 0
                self.prices, direction = self.best_prices, np.zeros_like(direction)
                continue
            excess[(self.prices <= 0) & (excess < 0)] = 0
            direction = excess + _MEMORY * direction
            square = float((direction * direction).sum())
            if square == 0:
                break
            stride = length * (self.reached - bound) / square
            self.prices = np.maximum(self.prices + stride * direction, 0)
        self._place()
        return self

    def _place(self) -> None:
        """Place pages by the best prices, and keep the placement if it is the best so far."""
        placement, cost = _place(self.problem, self.best_prices)
        if cost < self.reached:
            self.placement, self.reached = placement, cost


def _place(problem: _Problem, prices: Floats) -> tuple[NDArray[np.int8], float]:
    """Walk forward through the epochs, and send each page where the rest of its path is cheapest.

    The rest of the path is priced, so the choices mostly fit the room. If a node is chosen by more
    pages than it holds, those pages go elsewhere that lose least.
    """
    demand, nodes = problem.demand, problem.room.size
    togo = np.zeros((demand.epochs, nodes, demand.pages), np.float32)
    problem.solve(prices, togo=togo)
    placement = np.empty((demand.epochs, demand.pages), np.int8)
    before = np.full(demand.pages, -1, np.int8)
    cost = 0.0
    for epoch, rest in enumerate(togo):
        node = before.copy()
        choose(epoch, rest, problem.moves, demand.first, demand.last, node)
        _fit(node, before, rest, problem)
        moved = np.flatnonzero((node != before) & (node >= 0) & (before >= 0))
        cost += float(problem.moves[before[moved], node[moved]].sum())
        for source, row in enumerate(problem.latency):
            accesses = np.bincount(node + 1, demand.counts[epoch, source], nodes + 1)[1:]
            cost += float(accesses @ row)
        placement[epoch] = before = node
    return placement, cost


def _fit(
    node: NDArray[np.int8], before: NDArray[np.int8], rest: NDArray[np.float32], problem: _Problem
) -> None:
    """If more pages chose a node than it holds, send those elsewhere that lose least."""
    closed = np.zeros(problem.room.size, np.bool_)
    while True:
        over = np.bincount(node + 1, minlength=closed.size + 1)[1:] - problem.room
        over[closed] = 0
        full = int(over.argmax())
        if over[full] <= 0:
            return
        closed[full] = True
        on = np.flatnonzero(node == full)
        costs = rest[:, on].astype(np.float64)
        old = before[on]
        costs[:, old >= 0] += problem.moves[old[old >= 0]].T
        own = costs[full].copy()
        costs[closed] = np.inf
        number = int(np.ceil(over[full]))
        leave = np.argpartition(costs.min(axis=0) - own, number - 1)[:number]
        node[on[leave]] = costs[:, leave].argmin(axis=0)
