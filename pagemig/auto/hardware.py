"""Machines by name: nodes, latencies, bandwidths, and the prices of moves and statistics.

A machine is a TOML file, a shipped one (`machines`) or your own::

    title = "DRAM and a CXL expander"
    latency_ns = [[81, 250]]           # a row for each node that has processors
    bandwidth_gbs = [[100, 28]]
    curve = [["ddr", "queue"]]         # optional; "queue" unless named

    [[nodes]]                          # fastest first; the last has room for everything
    name = "DRAM"
    cpus = 1
    [[nodes]]
    name = "CXL"

    [remote]                           # another node like the first, if there is more than one
    latency_ns = 141
    bandwidth_gbs = 34

    [curves]                           # utilisation, factor on the latency
    ddr = [[0, 1], [0.5, 1.1], [0.9, 2]]

    [prices]                           # what differs from `Prices`
    call_us = 60

    [sources]                          # where each number is from
    latency_ns = "..."

``sources`` says where the numbers that describe a device come from. ``U`` marks a value that could
not be verified, so that an assumption is not taken for a measurement.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemig.checked import integers, real, reals, whole

__all__ = ["DEFAULT_MACHINE", "Hardware", "Prices", "hardware", "machines"]

DATA = Path(__file__).parent.parent / "data" / "machines"
DEFAULT_MACHINE = "cxl"

Floats = NDArray[np.float64]

#: Limits of plausible numbers: a value beyond them is a typing error.
_SMALLEST, _LARGEST = 1e-3, 1e9
_MOST_NODES = 64
#: The limit of ``1 / (1 - utilisation)``: no queue is longer than its buffers.
_MOST_QUEUE = 10.0
_QUEUE = "queue"


@dataclass(frozen=True)
class Prices:
    """Prices of moves and statistics. Each page of a call pays one of look, there and page.

    The defaults were measured or published for Linux 6.x; ``U`` marks an assumption.

    Attributes
    ----------
    call_us : float
        One `move_pages` call, whatever it moves. 25: Linux 6.18 in a two-processor guest, 25-48
        seen; it grows with the number of processors.
    look_us : float
        A page that is looked up but not tried, since it is not present or may not move. 0.25: a
        query in the same guest.
    there_us : float
        A page that is already on its target. 0.32: the same guest.
    page_us : float
        A page that is tried, moved or not, without flush and copy. 0.7: derived for two Zen 3
        under 6.16 (1.10 in all, about 0.4 of it copy); 1.45 under 6.8 at 2 GHz.
    flush_us : float
        One flush of the program's processor, which is not the agent's. 0.7 a round in the guest.
        Kernels through 6.2 flush once a page, later ones once in 512.
    ipi_us : float
        The additional cost of a flush for each further processor that the program runs on. 0.7: a
        round in the guest; 1-5 on large machines (U).
    copy_gbs : float
        Bandwidth of the copy, GB/s. 10: two Zen 3 (10-16), one thread.
    sample_ns : float
        One sample of a sampling processor (PEBS, IBS). 250 (U: 200-600).
    scan_ns : float
        One page-table entry read and its accessed bit cleared. 12 (U).
    unmap_ns : float
        One page made inaccessible so that its next access faults. 40 (U).
    fault_ns : float
        That fault. 1000 (U: a minor fault without allocation takes 500-1500).
    check_ns : float
        One page whose accessed bit is checked by address (DAMON walks to each). 100 (U).
    """

    call_us: float = field(default=25.0, metadata={"help": "one move_pages call"})
    look_us: float = field(default=0.25, metadata={"help": "a page looked up and not tried"})
    there_us: float = field(default=0.32, metadata={"help": "a page on its target already"})
    page_us: float = field(default=0.7, metadata={"help": "a page tried, without flush and copy"})
    flush_us: float = field(default=0.7, metadata={"help": "one TLB flush"})
    ipi_us: float = field(default=0.7, metadata={"help": "a flush, each further processor"})
    copy_gbs: float = field(default=10.0, metadata={"help": "bandwidth of the copy, GB/s"})
    sample_ns: float = field(default=250.0, metadata={"help": "one sampled access"})
    scan_ns: float = field(default=12.0, metadata={"help": "one accessed bit, in a scan"})
    unmap_ns: float = field(default=40.0, metadata={"help": "one page made to fault"})
    fault_ns: float = field(default=1000.0, metadata={"help": "that fault"})
    check_ns: float = field(default=100.0, metadata={"help": "one accessed bit, by address"})

    def __post_init__(self) -> None:
        """Refuse invalid times and bandwidths."""
        for price in fields(self):
            least = _SMALLEST if price.name.endswith("_gbs") else 0.0
            real(getattr(self, price.name), price.name, least, _LARGEST)


@dataclass(frozen=True, eq=False)
class Hardware:
    """The timing of a machine.

    Attributes
    ----------
    name : str
        The name or file it was read by.
    title : str
        Its description.
    nodes : tuple of str
        Names of the nodes, the fastest first; the last has room for everything.
    cpus : tuple of int
        Processors of each node.
    sizes : tuple of float
        Size of each node but the last, relative to the first.
    latency : ndarray of float64, shape (nodes, nodes)
        Idle nanoseconds of an access from the row's node to memory of the column's. Rows of nodes
        without processors are unused and equal the first node's.
    bandwidth : ndarray of float64, shape (nodes, nodes)
        GB/s (bytes a nanosecond) on the same paths; a memory's own is the largest of its column.
    curves : tuple of tuple of str
        The loaded-latency curve of each path, by name.
    tables : mapping of str to ndarray of float64, shape (points, 2)
        Those curves: utilisation, factor on the idle latency.
    prices : Prices
        Prices of moves and statistics.
    sources : mapping of str to str
        The source of each number.
    remote : tuple of float, optional
        Latency and bandwidth between two nodes like the first.

    Raises
    ------
    TypeError
        Something of another type.
    ValueError
        A number out of range, shapes that do not match, or a curve that is not in the tables.
    """

    name: str
    title: str
    nodes: tuple[str, ...]
    cpus: tuple[int, ...]
    sizes: tuple[float, ...]
    latency: Floats
    bandwidth: Floats
    curves: tuple[tuple[str, ...], ...]
    tables: Mapping[str, Floats]
    prices: Prices
    sources: Mapping[str, str]
    remote: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no machine."""
        for name in ("nodes", "cpus", "sizes", "curves"):
            if not isinstance(getattr(self, name), tuple):
                raise TypeError(f"{name} must be a tuple, not {getattr(self, name)!r:.80}")
        if not isinstance(self.prices, Prices):
            raise TypeError(f"prices must be Prices, not {self.prices!r:.80}")
        if not isinstance(self.tables, Mapping) or not isinstance(self.sources, Mapping):
            raise TypeError(f"tables and sources must be mappings, not {self.tables!r:.80}")
        size = len(self.nodes)
        whole(size, "the number of nodes", 1, _MOST_NODES)
        if not integers(self.cpus, "cpus", (size,), 0, 1 << 16).any():
            raise ValueError(f"cpus must name a node with processors, not {self.cpus!r:.80}")
        reals(self.sizes, "sizes", (size,), _SMALLEST, _LARGEST)
        for name in ("latency", "bandwidth"):
            table = reals(getattr(self, name), name, (size, size), _SMALLEST, _LARGEST)
            object.__setattr__(self, name, table)
        for curve in _cells(self.curves, size):
            if curve != _QUEUE and curve not in self.tables:
                known = ", ".join([_QUEUE, *map(str, self.tables)])
                raise ValueError(f"curve {curve!r} is not one of {known}")
        for key, points in self.tables.items():
            _curve(key, points)
        if self.remote is not None:
            reals(self.remote, "remote", (2,), _SMALLEST, _LARGEST)

    @property
    def cpu_nodes(self) -> tuple[int, ...]:
        """The nodes that have processors."""
        return tuple(nid for nid, cpus in enumerate(self.cpus) if cpus)

    @property
    def tiers(self) -> tuple[tuple[int, ...], ...]:
        """Nodes by the latency of their nearest processor, the fastest first."""
        nearest = self.latency[list(self.cpu_nodes)].min(axis=0)
        return tuple(
            tuple(np.flatnonzero(nearest == ns).tolist()) for ns in np.unique(nearest).tolist()
        )

    def factor(self, utilisation: Floats) -> Floats:
        """Return how much longer an access takes on a loaded path than on an idle one.

        Parameters
        ----------
        utilisation : ndarray of float64, shape (..., nodes, nodes)
            Share of each path's bandwidth that is in use.

        Returns
        -------
        ndarray of float64
            At least 1, the same shape.
        """
        size = len(self.nodes)
        lead = np.shape(utilisation)[:-2]
        used = reals(utilisation, "utilisation", (*lead, size, size))
        return factors(self, used)

    def with_fast_nodes(self, number: int) -> Hardware:
        """Return the machine with so many nodes like the first, each with its processors.

        Raises
        ------
        ValueError
            The machine has several nodes with processors, or does not say their distance.
        """
        number = whole(number, "fast_nodes", 1, _MOST_NODES - len(self.nodes) + 1)
        if number == len(self.cpu_nodes):
            return self
        if self.cpu_nodes != (0,) or self.remote is None:
            raise ValueError(
                f"machine {self.name!r} has {len(self.cpu_nodes)} nodes with processors and no "
                f"latency between more, so fast_nodes cannot be {number}"
            )
        at = np.concatenate((np.zeros(number, int), np.arange(1, len(self.nodes))))
        fast = np.arange(number)
        latency, bandwidth = self.latency[np.ix_(at, at)], self.bandwidth[np.ix_(at, at)]
        for table, remote in ((latency, self.remote[0]), (bandwidth, self.remote[1])):
            apart = np.ix_(fast, fast)
            table[apart] = np.where(np.eye(number, dtype=bool), table[0, 0], remote)
        return replace(
            self,
            nodes=tuple(f"{self.nodes[0]} {k}" for k in range(number)) + self.nodes[1:],
            cpus=(self.cpus[0],) * number + self.cpus[1:],
            sizes=(self.sizes[0],) * number + self.sizes[1:],
            latency=latency,
            bandwidth=bandwidth,
            curves=tuple(tuple(self.curves[i][j] for j in at) for i in at),
        )

    def changed(self, **numbers: float) -> Hardware:
        """Return the machine with other prices, or with another latency.

        Parameters
        ----------
        **numbers : float
            Attributes of `Prices`; ``local_ns``, an access from a processor to its own node;
            ``remote_ns``, to another node with processors; ``slow_ns``, to the last node.

        Raises
        ------
        ValueError
            An unknown name, or an invalid number.
        """
        known = {price.name for price in fields(Prices)}
        prices = {name: value for name, value in numbers.items() if name in known}
        latency, remote = self.latency.copy(), self.remote
        has = np.array(self.cpus) > 0
        for name, value in numbers.items():
            if name in known:
                continue
            if name not in ("local_ns", "remote_ns", "slow_ns"):
                raise ValueError(
                    f"there is no {name!r} to change; known are local_ns, remote_ns, slow_ns, "
                    + ", ".join(sorted(known))
                )
            real(value, name, _SMALLEST, _LARGEST)
            if name == "local_ns":
                latency[has, has] = value
            elif name == "slow_ns" and not has[-1]:
                latency[:, -1] = value
            elif name == "remote_ns":
                remote = (float(value), remote[1] if remote else float(self.bandwidth.max()))
                apart = np.outer(has, has) & ~np.eye(has.size, dtype=bool)
                latency[apart] = value
        return replace(self, latency=latency, remote=remote, prices=replace(self.prices, **prices))

    def __str__(self) -> str:
        parts = [f"{name} {self.latency[0, nid]:g} ns" for nid, name in enumerate(self.nodes)]
        return f"{self.title} ({', '.join(parts)})"


def factors(machine: Hardware, used: Floats) -> Floats:
    """Return `Hardware.factor` of an array that is known to be right: prices ask in a loop."""
    factor = np.empty_like(used)
    for i, row in enumerate(machine.curves):
        for j, curve in enumerate(row):
            u = used[..., i, j]
            if curve == _QUEUE:
                factor[..., i, j] = 1 / (1 - np.clip(u, 0, 1 - 1 / _MOST_QUEUE))
            else:
                factor[..., i, j] = np.interp(u, *machine.tables[curve].T)
    return factor


def machines() -> dict[str, Path]:
    """Return the names of the machines that come with the package, and their files."""
    return {path.stem: path for path in sorted(DATA.glob("*.toml"))}


def hardware(machine: str | os.PathLike[str] | Hardware = DEFAULT_MACHINE) -> Hardware:
    """Read a machine.

    Parameters
    ----------
    machine : str, path-like or Hardware
        A name of `machines`, or a TOML file; a machine is returned unchanged.

    Returns
    -------
    Hardware

    Raises
    ------
    FileNotFoundError
        There is none; the message lists the shipped ones.
    ValueError
        The file does not describe a machine; the message names the file and the error.
    """
    if isinstance(machine, Hardware):
        return machine
    known, name = machines(), os.fspath(machine)
    path = known.get(name) or Path(name)
    if not name or not path.is_file():
        raise FileNotFoundError(
            f"no machine {name!r}: no such file, and the shipped ones are {', '.join(known)}"
        )
    try:
        return _parsed(name, tomllib.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"machine {name}: {text}") from None


_KEYS = {"title", "nodes", "latency_ns", "bandwidth_gbs", "curve", "remote", "curves", "prices"}


def _parsed(name: str, facts: dict[str, Any]) -> Hardware:
    """Make a machine from a file's contents."""
    if unknown := facts.keys() - _KEYS - {"sources"}:
        raise ValueError(f"{sorted(unknown)[0]!r} is not one of {', '.join(sorted(_KEYS))}")
    nodes = facts["nodes"]
    number = len(nodes)
    if not 2 <= number <= _MOST_NODES:
        raise ValueError(f"it must have 2 to {_MOST_NODES} nodes, not {number}")
    cpus = tuple(_count(node.get("cpus", 0)) for node in nodes)
    sizes = tuple(real(node.get("size", 1.0), "size", _SMALLEST, _LARGEST) for node in nodes)
    if not cpus[0]:
        raise ValueError("the first node must have processors (cpus)")
    tables = {key: _curve(key, points) for key, points in facts.get("curves", {}).items()}
    names = _rows("curve", facts.get("curve", [[_QUEUE] * number] * sum(map(bool, cpus))), cpus)
    for curve in {curve for row in names for curve in row}:
        if curve != _QUEUE and curve not in tables:
            raise ValueError(f"curve {curve!r} is not one of {', '.join([_QUEUE, *tables])}")
    remote = facts.get("remote")
    return Hardware(
        name,
        str(facts["title"]),
        tuple(str(node["name"]) for node in nodes),
        cpus,
        sizes,
        _table("latency_ns", facts["latency_ns"], cpus),
        _table("bandwidth_gbs", facts["bandwidth_gbs"], cpus),
        tuple(tuple(row) for row in names),
        tables,
        Prices(**_known(facts.get("prices", {}))),
        facts.get("sources", {}),
        None
        if remote is None
        else (
            real(remote["latency_ns"], "remote.latency_ns", _SMALLEST, _LARGEST),
            real(remote["bandwidth_gbs"], "remote.bandwidth_gbs", _SMALLEST, _LARGEST),
        ),
    )


def _known(prices: dict[str, Any]) -> dict[str, Any]:
    names = [price.name for price in fields(Prices)]
    for name in prices:
        if name not in names:
            raise ValueError(f"price {name!r} is not one of {', '.join(names)}")
    return prices


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1 << 16:
        raise ValueError(f"cpus must be a number from 0 to 65536, not {value!r}")
    return value


def _rows(name: str, given: Any, cpus: Sequence[int]) -> list[list[Any]]:
    """Complete the rows: a node without processors gets the first node's."""
    wanted = sum(map(bool, cpus))
    shape = all(isinstance(row, list) and len(row) == len(cpus) for row in given)
    if not isinstance(given, list) or len(given) != wanted or not shape:
        raise ValueError(
            f"{name} must have {wanted} rows (nodes with processors) of {len(cpus)} nodes, "
            f"not {given!r}"
        )
    rows = iter(given)
    return [next(rows) if count else given[0] for count in cpus]


def _table(name: str, given: Any, cpus: Sequence[int]) -> Floats:
    rows = _rows(name, given, cpus)
    return np.array([[real(value, name, _SMALLEST, _LARGEST) for value in row] for row in rows])


def _cells(rows: Sequence[Any], size: int) -> list[Any]:
    """Return the entries of a square table."""
    if len(rows) != size or not all(isinstance(row, tuple) and len(row) == size for row in rows):
        raise ValueError(f"curves must be {size} rows of {size} names, not {rows!r:.80}")
    return [cell for row in rows for cell in row]


def _curve(name: str, points: Any) -> Floats:
    """Check that a curve starts idle and only rises."""
    table = reals(points, f"curve {name}", (None, 2))
    if not len(table):
        raise ValueError(f"curve {name} must be pairs of utilisation and factor, not {points!r}")
    rises = (np.diff(table[:, 0]) > 0).all() and (np.diff(table[:, 1]) >= 0).all()
    if not rises or table[0].tolist() != [0, 1] or table[-1, 0] > 1:
        raise ValueError(
            f"curve {name} must rise from [0, 1], by utilisation up to 1, not {points!r}"
        )
    return table
