"""The description of a machine: nodes, distances, weights, swap devices."""

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Final

import numpy as np
import numpy.typing as npt

from pagemig.arguments import as_int, as_size, as_ulong
from pagemig.constants import PAGE_SHIFT, GiB, KiB, MiB, TiB
from pagemig.kernels import KernelProfile
from pagemig.mm.numbers import NUMBERS

__all__ = [
    "Node",
    "distance_table",
    "format_size",
    "made_nodes",
    "scatter_seed",
    "swap_slots",
    "weight_table",
]

LOCAL_DISTANCE: Final = 10
REMOTE_DISTANCE: Final = 20

_MAX_NODES: Final = NUMBERS["MAX_NODES"]
#: Frames that 32 bits can number; one number stands for none.
_MAX_FRAMES: Final = (1 << 32) - 1
_MAX_CPUS: Final = 4096
#: Types of swap entries below those of migration entries, and slots that 32 bits can number.
_MAX_SWAPFILES: Final = NUMBERS["MAX_SWAPFILES"]
_MAX_SWAP_SLOTS: Final = 1 << 30


def format_size(size: int) -> str:
    """Return a size in the largest unit that leaves it whole, as ``"4 GiB"``."""
    for name, unit in (("TiB", TiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


class Node:
    """A NUMA node: memory, and processors if it has any.

    Parameters
    ----------
    size : int or str
        Bytes, or text as ``"4GiB"``; a whole number of pages, 0 for a node without memory.
    cpus : int, default 0
        Processors.
    reserved : int or str, default 0
        Bytes that the kernel keeps for itself and never allocates.
    watermark : int or str, default 0
        The low watermark: bytes that are left to allocations that accept no other node.  Other
        allocations fall back to the next node before they use them.

    Attributes
    ----------
    size, cpus, reserved, watermark : int
        As given, in bytes.
    """

    __slots__ = ("cpus", "reserved", "size", "watermark")

    def __init__(
        self, size: int | str, cpus: int = 0, reserved: int | str = 0, watermark: int | str = 0
    ) -> None:
        self.size = as_size(size, "size")
        self.cpus = as_int(cpus, "cpus")
        self.reserved = as_size(reserved, "reserved")
        self.watermark = as_size(watermark, "watermark")
        if not 0 <= self.cpus <= _MAX_CPUS:
            raise ValueError(f"cpus must be from 0 to {_MAX_CPUS}, not {cpus!r}")
        if self.reserved > self.size:
            raise ValueError(f"reserved must be at most the size, not {reserved!r} of {size!r}")
        if self.watermark > self.size:
            raise ValueError(f"watermark must be at most the size, not {watermark!r} of {size!r}")

    def __repr__(self) -> str:
        words = [repr(format_size(self.size))]
        words += [f"cpus={self.cpus}"] if self.cpus else []
        words += [f"reserved={format_size(self.reserved)!r}"] if self.reserved else []
        words += [f"watermark={format_size(self.watermark)!r}"] if self.watermark else []
        return f"Node({', '.join(words)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Node):
            return NotImplemented
        return self.arguments == other.arguments

    def __hash__(self) -> int:
        return hash(self.arguments)

    @property
    def arguments(self) -> tuple[int, ...]:
        """The arguments that make an equal node, in their order."""
        return (self.size, self.cpus, self.reserved, self.watermark)


def _is_flat(values: object) -> bool:
    """Tell whether a value is an array without dimensions, which only looks iterable."""
    return isinstance(values, np.ndarray) and values.ndim == 0


def made_nodes(nodes: Sequence[Node | int | str]) -> tuple[Node, ...]:
    """Return the nodes that a sequence describes; raise the errors of ``Machine``."""
    if isinstance(nodes, str | bytes) or not isinstance(nodes, Iterable) or _is_flat(nodes):
        raise TypeError(f"nodes must be a sequence of Node or sizes, not {nodes!r}")
    made = tuple(node if isinstance(node, Node) else Node(node) for node in nodes)
    if not 1 <= len(made) <= _MAX_NODES:
        raise ValueError(f"nodes must be 1 to {_MAX_NODES}, not {len(made)}")
    if not any(node.size for node in made):
        raise ValueError("nodes must have memory, one of them at least")
    if sum(node.size for node in made) >> PAGE_SHIFT > _MAX_FRAMES:
        raise ValueError(f"nodes must have less than 16 TiB together, not {list(made)}")
    if not any(node.cpus for node in made):
        made = tuple(Node(node.size, 1, node.reserved, node.watermark) for node in made)
    if sum(node.cpus for node in made) > _MAX_CPUS:
        raise ValueError(f"nodes must have at most {_MAX_CPUS} cpus together")
    return made


def distance_table(distances: npt.ArrayLike | None, n: int) -> npt.NDArray[np.uint8]:
    """Return the distance matrix; refuse what firmware tables may not hold (``slit_valid``)."""
    if distances is None:
        table = np.full((n, n), REMOTE_DISTANCE, dtype=np.uint8)
        np.fill_diagonal(table, LOCAL_DISTANCE)
    else:
        given = np.asarray(distances)
        if given.shape != (n, n) or given.dtype.kind not in "iu":
            raise ValueError(f"distances must be integers of shape {(n, n)}, not {distances!r}")
        own = np.eye(n, dtype=bool)
        if (given[own] != LOCAL_DISTANCE).any():
            raise ValueError(
                f"distances must be {LOCAL_DISTANCE} from a node to itself: {distances!r}"
            )
        if ((given[~own] <= LOCAL_DISTANCE) | (given[~own] > 255)).any():
            raise ValueError(f"distances between nodes must be from 11 to 255: {distances!r}")
        table = given.astype(np.uint8)
    table = np.ascontiguousarray(table)
    table.setflags(write=False)
    return table


def weight_table(
    weights: Sequence[int] | Mapping[int, int] | None, n: int, profile: KernelProfile
) -> npt.NDArray[np.uint8]:
    """Return the weight of each of 64 nodes."""
    table = np.ones(_MAX_NODES, dtype=np.uint8)
    if weights is None:
        return table
    if not profile.weighted:
        raise ValueError(f"weights need a kernel with weighted interleaving, not {profile.name}")
    if not isinstance(weights, Sequence | Mapping | np.ndarray) or isinstance(weights, str | bytes):
        raise TypeError(f"weights must be a sequence or a mapping, not {weights!r}")
    pairs = weights if isinstance(weights, Mapping) else dict(enumerate(weights))
    if not isinstance(weights, Mapping) and len(weights) != n:
        raise ValueError(f"weights must be one for each of {n} nodes, not {weights!r}")
    for nid, weight in pairs.items():
        if not (hasattr(nid, "__index__") and hasattr(weight, "__index__")):
            raise TypeError(f"weights must be integers, not {weights!r}")
        if not 0 <= index(nid) < n or not 1 <= index(weight) <= 255:
            raise ValueError(f"weights must be from 1 to 255 for nodes below {n}, not {weights!r}")
        table[nid] = weight
    return table


def swap_slots(swap: Sequence[int | str], profile: KernelProfile) -> list[int]:
    """Return the pages of each swap device."""
    if isinstance(swap, str | bytes) or not isinstance(swap, Iterable) or _is_flat(swap):
        raise TypeError(f"swap must be a sequence of sizes, not {swap!r}")
    slots = [as_size(size, "swap") >> PAGE_SHIFT for size in swap]
    if slots and not profile.swap:
        raise ValueError(f"swap is modelled for the kernels of 2006 only, not for {profile.name}")
    if len(slots) > _MAX_SWAPFILES or sum(slots) >= _MAX_SWAP_SLOTS:
        raise ValueError(f"swap must be {_MAX_SWAPFILES} devices at most, 4 TiB in all: {swap!r}")
    if not all(slots):
        raise ValueError(f"swap must be devices of a page at least, not {swap!r}")
    return slots


def scatter_seed(scatter: int | None) -> int:
    """Return the seed of a scattered order, 0 for none."""
    if scatter is None:
        return 0
    seed = as_ulong(scatter, "scatter")
    if not 0 < seed < 1 << 63:
        raise ValueError(f"scatter must be from 1 to 2**63 - 1, not {scatter!r}")
    return seed
