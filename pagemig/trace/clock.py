"""The time axis of a trace: how many accesses come before each tick of a clock.

The clock counts what the tool counts, instructions or nanoseconds. A trace of any length has at
most `MOST` ticks: if there are more, every other tick is dropped and ticks become twice as long.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST", "Clock"]

#: The most ticks of a trace.
MOST = 4096


class Clock:
    """Collects ticks while accesses go by.

    Attributes
    ----------
    tick : int
        Units between two ticks.
    duration : int
        Units from the first access to the latest.
    """

    def __init__(self) -> None:
        self.tick = 1
        self.duration = 0
        self._start: int | None = None
        self._accesses = 0
        self._before = np.empty(0, np.uint64)

    def add(self, time: NDArray[np.uint64], count: NDArray[np.uint64] | None = None) -> None:
        """Take the times of the next accesses.

        Parameters
        ----------
        time : ndarray of uint64, shape (n,)
            When each happened; a time earlier than the one before counts as simultaneous.
        count : ndarray of uint64, shape (n,), optional
            How many accesses each entry stands for; one unless given.
        """
        if time.size == 0:
            return
        if self._start is None:
            self._start = int(time[0])
        since = np.maximum(np.maximum.accumulate(time), np.uint64(self._start + self.duration))
        since -= np.uint64(self._start)
        self.duration = max(self.duration, int(since[-1]))
        while self.duration // self.tick > MOST:
            self._before = self._before[1::2]
            self.tick *= 2
        known = self._before.size
        ends = np.arange(known + 1, self.duration // self.tick + 1, dtype=np.uint64)
        at = np.searchsorted(since, ends * np.uint64(self.tick))
        if count is None:
            before = at.astype(np.uint64)
            amount = time.size
        else:
            totals = np.concatenate(([0], np.cumsum(count, dtype=np.uint64))).astype(np.uint64)
            before = totals[at]
            amount = int(totals[-1])
        self._before = np.concatenate((self._before, before + np.uint64(self._accesses)))
        self._accesses += amount

    @property
    def running(self) -> bool:
        """Whether it was given any times."""
        return self._start is not None

    @property
    def ticks(self) -> NDArray[np.uint64]:
        """Accesses before each tick; entry ``k`` is ``(k + 1) * tick`` after the first access."""
        return self._before
