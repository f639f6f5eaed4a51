"""The host's own reference loops, which every figure is divided by.

A rate says little about another computer.  How many random cache lines the host could have updated
meanwhile, or how fast it could have copied the same frames, says what the model costs anywhere.
"""

import ctypes
from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from common.timing import Samples
from pagemig.testing import host

#: Lines of 64 bytes in the memory of the random updates: 256 MiB, beyond every cache.
LINES = 1 << 22


class Reference:
    """A loop of the host that is repeated between the repetitions of the model.

    Attributes
    ----------
    unit : str
        What one turn of it does: ``"line update"``.
    samples : Samples
        All repetitions so far, seconds per turn.
    """

    def __init__(
        self, unit: str, work: Callable[[], object], amount: float, bursts: int = 1
    ) -> None:
        self.unit, self._bursts = unit, bursts
        self.samples = Samples()
        self._work, self._amount = work, amount

    def run(self) -> None:
        """Repeat it; of several bursts the quickest by CPU time counts, others were disturbed."""
        bursts = Samples()
        for _ in range(self._bursts):
            bursts.time(self._work, self._amount)
        self.samples.take(bursts)

    @property
    def best(self) -> float:
        """Seconds per turn of the quickest repetition of the session."""
        return min(self.samples.cpu)

    @property
    def runs(self) -> int:
        """Repetitions so far."""
        return len(self.samples.cpu)


class Lines:
    """Memory for random read-modify-writes of 64-byte lines, one thread's."""

    def __init__(self, updates: int, seed: int = 1) -> None:
        self._words = np.ones(LINES * 8, dtype=np.uint64)
        rng = np.random.default_rng(seed)
        self._order = rng.integers(0, LINES, updates, dtype=np.uint32)

    def update(self) -> None:
        """Go through all the updates once."""
        host.random_rmw(self._words, self._order, True)

    def __len__(self) -> int:
        return len(self._order)


def line_updates(updates: int) -> Reference:
    """Random atomic updates of cache lines in 256 MiB, prefetched: the price of a miss."""
    lines = Lines(updates)
    return Reference("line update", lines.update, updates, bursts=3)


def locked_adds(turns: int) -> Reference:
    """Atomic adds to lines of the nearest cache: the price of a locked instruction."""
    words = np.zeros(64 * 8, dtype=np.uint64)
    return Reference("locked add", lambda: host.cached_rmw(words, turns), turns, bursts=3)


def small_arrays(calls: int) -> Reference:
    """``numpy.empty(1, dtype)`` from Python: the price of a call that makes an array."""
    empty, dtype = np.empty, np.dtype(np.int32)

    def work() -> None:
        for _ in repeat(None, calls):
            empty(1, dtype)

    return Reference("numpy.empty(1)", work, calls, bursts=3)


def bytes_of(view: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The memory behind a read-only view, to be written: the model's own frames, for the host."""
    memory = (ctypes.c_uint8 * view.nbytes).from_address(view.ctypes.data)
    return np.frombuffer(memory, dtype=np.uint8)
