"""What a run cost: from counts of accesses, moves and looks to nanoseconds.

A run is kept as counts (`Traffic`), so that one run can be priced on many machines, after the fact.
For each epoch and program::

    time  =  compute  +  sum of accesses * latency / overlap  +  statistics  +  blocking moves

A latency grows with the load of its path: ``latency = idle * factor(bytes / (time * bandwidth))``,
including bytes of copies and of other users (``background``). A longer time means a lower load, and
a lower load a shorter time, so the two agree at one time, which `price` finds by bisection. The
time is never less than the bytes need at full bandwidth.

``overlap`` is how many accesses of a program are in flight at once. It is not in a trace. At 1,
each access waits for the one before; the sum is then *memory time*, more than a program really
waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pagemig.checked import integers, real, reals, unchecked, whole

from .hardware import Hardware, Prices, factors

__all__ = [
    "EVENTS",
    "LINE",
    "PAGE",
    "TERMS",
    "Bill",
    "Traffic",
    "least_move_ns",
    "move_ns",
    "price",
]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

#: Bytes of an access that reached memory, and of a page.
LINE, PAGE = 64, 4096

#: Prices by which statistics are counted; ``flushes`` are TLB flushes, ``ns`` is what a source of
#: statistics with a price of its own charges.
EVENTS = ("sample_ns", "scan_ns", "unmap_ns", "fault_ns", "check_ns", "flushes", "ns")

#: The terms of a bill, in the order they are printed.
TERMS = ("access", "statistics", "call", "page", "flush", "copy")

#: More epochs, programs or nodes than anything is counted for.
_MOST = 1 << 24

#: The search for a time ends once it is known to this share, or after so many halvings.
_NEAR = 1e-12
_HALVINGS = 50


@dataclass(frozen=True, eq=False)
class Traffic:
    """What a run did, epoch by epoch: everything that any machine could charge for.

    Attributes
    ----------
    accesses : ndarray of int64, shape (epochs, programs, nodes)
        Accesses of each program to memory of each node.
    cpu : ndarray of int64, shape (epochs, programs)
        The node whose processors each program ran on.
    copied : ndarray of int64, shape (epochs, nodes, nodes)
        Pages copied from the row's node to the column's.
    calls, looked, there, tried, moved, flushes : ndarray of int64, shape (2, epochs, programs)
        What `move_pages` did to the pages of each program, in row 0 while the program waited, in
        row 1 in the background: calls; pages only looked up; pages already on their target; pages
        tried; pages moved; flushes.
    events : ndarray of float64, shape (epochs, programs, len(EVENTS))
        What statistics did.

    Raises
    ------
    TypeError
        Something that is no array of numbers.
    ValueError
        A number out of range, or shapes that do not match.
    """

    accesses: Counts
    cpu: Counts
    copied: Counts
    calls: Counts
    looked: Counts
    there: Counts
    tried: Counts
    moved: Counts
    flushes: Counts
    events: Floats

    def __post_init__(self) -> None:
        """Refuse what is no traffic."""
        most = int(np.iinfo(np.int64).max)
        accesses = integers(self.accesses, "accesses", (None, None, None), 0, most)
        epochs, programs, nodes = accesses.shape
        checked = {
            "accesses": accesses,
            "cpu": integers(self.cpu, "cpu", (epochs, programs), 0, max(nodes - 1, 0)),
            "copied": integers(self.copied, "copied", (epochs, nodes, nodes), 0, most),
            "events": reals(self.events, "events", (epochs, programs, len(EVENTS))),
        }
        for name in _MOVES:
            checked[name] = integers(getattr(self, name), name, (2, epochs, programs), 0, most)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def none(cls, epochs: int, programs: int, nodes: int) -> Traffic:
        """Return empty traffic."""
        for name, value in (("epochs", epochs), ("programs", programs), ("nodes", nodes)):
            whole(value, name, 0, _MOST)
        moves = {name: np.zeros((2, epochs, programs), np.int64) for name in _MOVES}
        return cls(
            np.zeros((epochs, programs, nodes), np.int64),
            np.zeros((epochs, programs), np.int64),
            np.zeros((epochs, nodes, nodes), np.int64),
            events=np.zeros((epochs, programs, len(EVENTS))),
            **moves,
        )

    def part(self, start: int, stop: int) -> Traffic:
        """Return the traffic of epochs ``start`` to ``stop``, which is exclusive."""
        epochs = self.accesses.shape[0]
        start, stop = whole(start, "start", 0, epochs), whole(stop, "stop", 0, epochs)
        cut = slice(start, stop)
        parts = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return unchecked(
            Traffic,
            **{
                name: value[:, cut] if name in _MOVES else value[cut]
                for name, value in parts.items()
            },
        )


_MOVES = ("calls", "looked", "there", "tried", "moved", "flushes")


@dataclass(frozen=True, eq=False)
class Bill:
    """The cost of a run on a machine, ns.

    Attributes
    ----------
    terms : dict of str to ndarray of float64, shape (epochs, programs)
        By `TERMS`: accesses with their queueing, statistics, calls, pages, flushes, copies.
    agent : ndarray of float64, shape (epochs, programs)
        Moves in the background: the agent's time, which no program waits for.
    latency : ndarray of float64, shape (epochs, nodes, nodes)
        Loaded latency of each path.
    duration : ndarray of float64, shape (epochs,)
        Length of each epoch, including computing.

    Raises
    ------
    TypeError
        Something that is no array of numbers, or no mapping of them.
    ValueError
        A time below 0, a term that is missing, or shapes that do not match.
    """

    terms: Mapping[str, Floats]
    agent: Floats
    latency: Floats
    duration: Floats = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what is no bill."""
        if not isinstance(self.terms, Mapping):
            raise TypeError(f"terms must be a mapping of arrays, not {self.terms!r:.80}")
        if list(self.terms) != list(TERMS):
            raise ValueError(f"terms must be {', '.join(TERMS)}, not {list(self.terms)!r:.80}")
        agent = reals(self.agent, "agent", (None, None))
        checked = {
            "terms": {name: reals(term, name, agent.shape) for name, term in self.terms.items()},
            "agent": agent,
            "latency": reals(self.latency, "latency", (agent.shape[0], None, None)),
            "duration": reals(self.duration, "duration", (agent.shape[0],)),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def access_ns(self) -> float:
        """Memory time of all accesses."""
        return float(self.terms["access"].sum())

    @property
    def statistics_ns(self) -> float:
        """Time of all statistics."""
        return float(self.terms["statistics"].sum())

    @property
    def moving_ns(self) -> float:
        """Time of all moves that a program waited for."""
        return float(sum(self.terms[name].sum() for name in TERMS[2:]))

    @property
    def total_ns(self) -> float:
        """Memory time, statistics and moves."""
        return float(sum(term.sum() for term in self.terms.values()))

    @property
    def by_program(self) -> Floats:
        """`total_ns` of each program."""
        total: Floats = np.sum([term.sum(axis=0) for term in self.terms.values()], axis=0)
        return total


def price(
    traffic: Traffic,
    machine: Hardware,
    *,
    overlap: float = 1.0,
    compute_ns: float = 0.0,
    processors: int = 1,
    background: ArrayLike | None = None,
) -> Bill:
    """Price a run on a machine.

    Parameters
    ----------
    traffic : Traffic
        The run; its nodes are those of the machine.
    machine : Hardware
        The machine.
    overlap : float, default 1
        Accesses of a program that are in flight at once.
    compute_ns : float, default 0
        Nanoseconds of computing between a program's accesses. They lower the load of the memory,
        and are not part of the bill.
    processors : int, default 1
        Processors that each program runs on: a flush interrupts each of them.
    background : array_like of float, shape (nodes,), optional
        GB/s that other users take from each memory.

    Returns
    -------
    Bill

    Raises
    ------
    ValueError
        Numbers out of range, or nodes that are not the machine's.
    """
    if not isinstance(traffic, Traffic) or not isinstance(machine, Hardware):
        raise TypeError(
            f"price takes Traffic and Hardware, not {traffic!r:.80} and {machine!r:.80}"
        )
    nodes = len(machine.nodes)
    if traffic.accesses.shape[2] != nodes:
        raise ValueError(
            f"the run has {traffic.accesses.shape[2]} nodes, machine {machine.name!r} has {nodes}"
        )
    overlap = real(overlap, "overlap", 1e-3, 1e9)
    compute_ns = real(compute_ns, "compute_ns", 0, 1e9)
    processors = whole(processors, "processors", 1, 10**9)
    taken = reals([0] * nodes if background is None else background, "background", (nodes,))
    capacity = machine.bandwidth.max(axis=0)
    if not (taken < capacity).all():
        raise ValueError(
            f"background must be GB/s for each node, below {capacity.tolist()}, not {background!r}"
        )
    rest, agent = _fixed(traffic, machine, processors)
    waiting = sum(rest.values()) + compute_ns * traffic.accesses.sum(axis=2)
    load = _Load(traffic, machine, overlap, taken, waiting)
    duration, latency = load.settle()
    access = load.access(latency)
    # If bandwidth limits the time, not latencies, all accesses wait longer in proportion.
    slowest = (waiting + access).max(axis=1)
    room = np.where(access > 0, waiting, 0).max(axis=1)
    stretch = np.where(
        (duration > slowest) & (slowest > room),
        (duration - room) / np.maximum(slowest - room, 1e-300),
        1.0,
    )
    bill = {"access": access * stretch[:, np.newaxis], **rest}
    return unchecked(
        Bill,
        terms={name: bill[name] for name in TERMS},
        agent=agent,
        latency=latency,
        duration=duration,
    )


class _Load:
    """The two sides of the equation: latencies from a duration, and times from latencies."""

    def __init__(
        self,
        traffic: Traffic,
        machine: Hardware,
        overlap: float,
        background: Floats,
        waiting: Floats,
    ) -> None:
        self.machine, self.waiting, self.cpu = machine, waiting, traffic.cpu
        self.accesses = traffic.accesses / overlap
        epochs, programs, nodes = traffic.accesses.shape
        self.ways = np.zeros((epochs, nodes, nodes))
        at = np.arange(epochs)
        for program in range(programs):
            self.ways[at, traffic.cpu[:, program]] += LINE * traffic.accesses[:, program]
        copies = PAGE * (traffic.copied.sum(axis=1) + traffic.copied.sum(axis=2))
        self.memory = self.ways.sum(axis=1) + copies
        capacity = machine.bandwidth.max(axis=0)
        self.taken = background / capacity
        self.capacity = capacity
        left = capacity - background
        ways = np.minimum(machine.bandwidth, left)
        self.least = np.maximum(
            (self.memory / left).max(axis=1), (self.ways / ways).max(axis=(1, 2))
        )

    def latency(self, duration: Floats) -> Floats:
        """Return the loaded latencies of epochs of this length."""
        span = np.maximum(duration, 1e-100)[:, np.newaxis]  # bytes of any epoch by it stay finite
        memory = self.taken + self.memory / (span * self.capacity)
        ways = self.ways / (span[..., np.newaxis] * self.machine.bandwidth)
        used = np.maximum(memory[:, np.newaxis], ways)
        return self.machine.latency * factors(self.machine, np.minimum(used, 1.0))

    def access(self, latency: Floats) -> Floats:
        """Return the time of each program's accesses at these latencies."""
        rows = latency[np.arange(self.accesses.shape[0])[:, np.newaxis], self.cpu]
        access: Floats = (self.accesses * rows).sum(axis=2)
        return access

    def times(self, latency: Floats) -> Floats:
        """Return the length of epochs at these latencies, that of their slowest program."""
        slowest = (self.waiting + self.access(latency)).max(axis=1)
        longest: Floats = np.maximum(slowest, self.least)
        return longest

    def settle(self) -> tuple[Floats, Floats]:
        """Return the durations that agree with the latencies they cause, and those latencies.

        The shorter an epoch, the longer its latencies. So exactly one such duration exists between
        the time at idle latencies and the time at the worst latencies.
        """
        low = self.times(self.latency(np.full_like(self.least, np.inf)))
        high = self.times(self.latency(np.zeros_like(low)))
        for step in range(3 * _HALVINGS):
            if (high - low <= _NEAR * high).all():
                break
            # The time that follows from a duration is on the other side of the answer. Under a
            # light load those of the two ends are close to it; bisection gets there in any case.
            tried = (low, high, (low + high) / 2)[step % 3]
            there = self.times(self.latency(tried))
            longer = there > tried
            low = np.maximum(low, np.where(longer, tried, there))
            high = np.minimum(high, np.where(longer, there, tried))
        return high, self.latency(high)


def _fixed(
    traffic: Traffic, machine: Hardware, processors: int
) -> tuple[dict[str, Floats], Floats]:
    """Return the terms that do not depend on the load, and the time of background moves."""
    cost = machine.prices
    flush_ns = 1e3 * (cost.flush_us + cost.ipi_us * (processors - 1))
    call = 1e3 * cost.call_us * traffic.calls
    page = 1e3 * (
        cost.look_us * traffic.looked + cost.there_us * traffic.there + cost.page_us * traffic.tried
    )
    flush = flush_ns * traffic.flushes
    copy = PAGE / cost.copy_gbs * traffic.moved
    each = np.array(
        [{"flushes": flush_ns, "ns": 1.0}.get(name) or getattr(cost, name, 0.0) for name in EVENTS]
    )
    statistics: Floats = traffic.events @ each
    # A flush interrupts the program, whether it waits for the move or not.
    terms = {
        "statistics": statistics,
        "call": call[0],
        "page": page[0],
        "flush": flush[0] + flush[1],
        "copy": copy[0],
    }
    return terms, call[1] + page[1] + copy[1]


def _prices(machine: Hardware) -> Prices:
    if not isinstance(machine, Hardware):
        raise TypeError(f"machine must be Hardware, not {machine!r:.80}")
    return machine.prices


def move_ns(
    machine: Hardware, pages: float, *, batch: int = 1, calls: float = 1, processors: int = 1
) -> float:
    """Return the nanoseconds that a program waits while its pages are moved.

    Parameters
    ----------
    machine : Hardware
        The machine.
    pages : float
        Pages, all of them moved.
    batch : int, default 1
        Pages that the kernel flushes at once.
    calls : float, default 1
        Calls that move them.
    processors : int, default 1
        Processors that the program runs on.
    """
    pages, calls = real(pages, "pages", 0, 1e18), real(calls, "calls", 0, 1e18)
    batch, processors = whole(batch, "batch", 1, 10**9), whole(processors, "processors", 1, 10**9)
    cost = _prices(machine)
    flush_us = cost.flush_us + cost.ipi_us * (processors - 1)
    flushes = np.ceil(pages / batch)
    us = calls * cost.call_us + pages * cost.page_us + flushes * flush_us
    return float(1e3 * us + pages * PAGE / cost.copy_gbs)


def least_move_ns(
    machine: Hardware, *, batch: int = 1, processors: int = 1, blocking: bool = True
) -> float:
    """Return the least cost of moving one page: its share of a full batch, and no call, ns.

    Parameters
    ----------
    machine, batch, processors
        As for `move_ns`.
    blocking : bool, default True
        Whether the program waits; for moves in the background only the flush is left.
    """
    batch, processors = whole(batch, "batch", 1, 10**9), whole(processors, "processors", 1, 10**9)
    cost = _prices(machine)
    flush_ns = 1e3 * (cost.flush_us + cost.ipi_us * (processors - 1)) / batch
    return flush_ns + (1e3 * cost.page_us + PAGE / cost.copy_gbs if blocking else 0.0)
