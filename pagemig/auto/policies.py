"""Policies to start from."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .stats import AutoPolicy, Stats

__all__ = ["POLICIES", "MostUsed", "policy"]


class MostUsed:
    """Move each page to the node that uses it most, when that pays; make room by moving cold ones.

    A page is worth moving once what it has lost by lying where it lies, over the recent past,
    exceeds what moving it costs: like hiring skis until their price is spent, this never costs
    much more than knowing the future would. On a full node a page comes in only for a colder one
    that goes out, and the pair has to pay for two moves.

    Parameters
    ----------
    memory : float, default 0.8
        How much of the past counts: accesses of the epoch before weigh this much, of the one
        before that its square, and so on.
    """

    def __init__(self, memory: float = 0.8) -> None:
        if not 0 <= memory <= 1:
            raise ValueError(f"memory {memory} is not between 0 and 1")
        self.memory = memory
        self.heat: Any = 0.0

    def epoch(self, stats: Stats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """See `AutoPolicy.epoch`."""
        self.heat = stats.counts + self.memory * self.heat
        cost = stats.latency.T @ self.heat  # [node, page]: had the page lain on the node
        home = self.heat.argmax(axis=0)  # the node that uses it most
        present = stats.node >= 0
        saved = np.where(present, _of(cost, stats.node) - _of(cost, home), 0.0)
        free, taken = stats.free.copy(), np.zeros(home.size, np.bool_)
        pages, nodes = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
        for nid in np.unique(home[saved > stats.move_ns]):
            comes = _ranked(-saved, (home == nid) & (saved > stats.move_ns) & ~taken)
            away = _nearest(nid, stats.latency, free)
            lost = cost[away] - cost[nid]
            goes = _ranked(lost, (stats.node == nid) & ~taken)
            room = min(int(free[nid]), comes.size)
            pairs = min(comes.size - room, goes.size, int(free[away]) if away != nid else 0)
            gain = saved[comes[room : room + pairs]] - lost[goes[:pairs]]
            swaps = int(np.count_nonzero(gain > 2 * stats.move_ns))  # gain falls: the first ones
            comes, goes = comes[: room + swaps], goes[:swaps]
            pages += [goes, comes]
            nodes += [np.full(goes.size, away), np.full(comes.size, nid)]
            taken[comes] = taken[goes] = True
            free[nid] -= room
            free[away] -= swaps
        return np.concatenate(pages), np.concatenate(nodes)


def _of(cost: NDArray[np.float64], node: NDArray[Any]) -> NDArray[np.float64]:
    """Each page's cost on its node."""
    picked: NDArray[np.float64] = np.take_along_axis(cost, node[np.newaxis], axis=0)[0]
    return picked


def _ranked(key: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The pages where a condition holds, by rising key."""
    pages = np.flatnonzero(where)
    return pages[np.argsort(key[pages], kind="stable")]


def _nearest(nid: int, latency: NDArray[np.float64], free: NDArray[np.int64]) -> int:
    """The nearest other node with room; the node itself if none has."""
    others = np.where((free > 0) & (np.arange(free.size) != nid), latency[nid], np.inf)
    best = int(np.argmin(others))
    return best if np.isfinite(others[best]) else int(nid)


#: Policies by the name ``pagemig replay`` knows them by.
POLICIES: dict[str, Callable[[], AutoPolicy]] = {"auto": MostUsed}


def policy(name: str) -> AutoPolicy:
    """Make a policy from its name, or from ``module:Class`` for one of your own.

    Raises
    ------
    ValueError
        If there is none of that name, or it has no ``epoch``; the message says what there is.
    """
    module, colon, attribute = name.partition(":")
    if colon:
        try:
            made: Any = getattr(import_module(module), attribute)()
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"no policy {name!r}: {error}") from None
    elif name in POLICIES:
        made = POLICIES[name]()
    else:
        known = ", ".join(POLICIES)
        raise ValueError(f"no policy {name!r}; there is {known}, and module:Class for your own")
    if not isinstance(made, AutoPolicy):
        raise ValueError(f"policy {name!r} has no method epoch(stats)")
    return made
