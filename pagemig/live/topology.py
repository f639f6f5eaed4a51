"""The nodes of this machine, from ``/sys/devices/system/node``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Topology", "topology"]

_NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True)
class Topology:
    """The nodes of a machine.

    Attributes
    ----------
    nodes : tuple of int
        Numbers of the nodes that are online.
    cpus : dict of int to tuple of int
        Processors of each.
    total, free : dict of int to int
        Memory of each, bytes.
    distance : ndarray of int64, shape (nodes, nodes)
        Distances in the order of ``nodes``; 10 is local.
    """

    nodes: tuple[int, ...]
    cpus: dict[int, tuple[int, ...]]
    total: dict[int, int]
    free: dict[int, int]
    distance: NDArray[np.int64]

    @property
    def single(self) -> bool:
        """Whether there is one node, so that nothing can be moved."""
        return len(self.nodes) < 2

    def __str__(self) -> str:
        lines = [
            f"node {nid}: {len(self.cpus[nid])} processors, {self.total[nid] / 2**30:.1f} GiB, "
            f"{self.free[nid] / 2**30:.1f} GiB free"
            for nid in self.nodes
        ]
        if self.single:
            lines.append("one node: pages have nowhere to go; try a dry run or imagine a machine")
        return "\n".join(lines)


def listed(text: str) -> tuple[int, ...]:
    """Parse a list of numbers as the kernel writes it: ``0-3,8``.

    Examples
    --------
    >>> listed("0-2,5")
    (0, 1, 2, 5)
    """
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def topology(root: Path = _NODES) -> Topology:
    """Read the nodes of this machine.

    Parameters
    ----------
    root : Path
        The kernel's folder of nodes.

    Returns
    -------
    Topology
        The nodes; a kernel without NUMA counts as one node.

    Raises
    ------
    OSError
        The kernel's files cannot be read.
    """
    if not (root / "online").exists():
        meminfo = _meminfo(Path("/proc/meminfo").read_text())
        cpus = listed(Path("/sys/devices/system/cpu/online").read_text())
        total, free = meminfo["MemTotal"], meminfo["MemFree"]
        return Topology((0,), {0: cpus}, {0: total}, {0: free}, np.array([[10]]))
    nodes = listed((root / "online").read_text())
    cpus_of, total_of, free_of, rows = {}, {}, {}, []
    for nid in nodes:
        folder = root / f"node{nid}"
        facts = _meminfo((folder / "meminfo").read_text())
        cpus_of[nid] = listed((folder / "cpulist").read_text())
        total_of[nid], free_of[nid] = facts["MemTotal"], facts["MemFree"]
        rows.append([int(word) for word in (folder / "distance").read_text().split()])
    return Topology(nodes, cpus_of, total_of, free_of, np.array(rows, np.int64))


def _meminfo(text: str) -> dict[str, int]:
    """Return bytes by name, from ``meminfo`` of the machine or of a node."""
    return {
        found[1]: int(found[2]) << 10
        for found in re.finditer(r"^(?:Node \d+ )?(\w+): +(\d+) kB$", text, re.M)
    }
