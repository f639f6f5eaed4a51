"""What a policy is given, and what it has to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["AutoPolicy", "Stats"]


@dataclass(frozen=True)
class Stats:
    """One epoch of a process, page by page.

    Attributes
    ----------
    counts : ndarray of uint32, shape (nodes, pages)
        Accesses in this epoch to each page from the processors of each node.
    node : ndarray of int32, shape (pages,)
        Where each page lies; -1 for a page not present.
    free : ndarray of int64, shape (nodes,)
        Free pages of each node.
    latency : ndarray of float64, shape (nodes, nodes)
        Nanoseconds of an access from a processor of the row's node to memory of the column's.
    move_ns : float
        Nanoseconds that moving one page costs.
    """

    counts: NDArray[np.uint32]
    node: NDArray[np.int32]
    free: NDArray[np.int64]
    latency: NDArray[np.float64]
    move_ns: float


@runtime_checkable
class AutoPolicy(Protocol):
    """Whatever decides which pages to move."""

    def epoch(self, stats: Stats) -> tuple[NDArray[np.integer[Any]], ArrayLike]:
        """Decide after an epoch.

        Parameters
        ----------
        stats : Stats
            What is known.

        Returns
        -------
        pages : ndarray of int, shape (n,)
            Which pages to move (indices, not addresses), in the order they are to be tried: what
            makes room comes before what needs it.
        nodes : array_like of int, shape (n,) or an int
            The node each should move to.
        """
        ...
