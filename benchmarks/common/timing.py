"""Clocks: the thread's CPU time and wall time of the same piece of work.

On a shared host wall time is mostly waiting for a core, so figures are CPU time and wall time
stands beside it.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Samples:
    """Times of repetitions of the same work, seconds per unit of work."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def time(self, work: Callable[[], object], amount: float) -> None:
        """Run the work once and keep what a unit of it took."""
        wall, cpu = time.perf_counter(), time.thread_time()
        work()
        self.cpu.append((time.thread_time() - cpu) / amount)
        self.wall.append((time.perf_counter() - wall) / amount)

    def take(self, bursts: "Samples") -> None:
        """Keep the quickest of others as one repetition."""
        self.cpu.append(min(bursts.cpu))
        self.wall.append(min(bursts.wall))

    def since(self, first: int) -> "Samples":
        """The repetitions from number ``first`` on."""
        return Samples(self.cpu[first:], self.wall[first:])

    def describe(self) -> dict[str, float]:
        """Median and minimum in nanoseconds."""
        return {
            "cpu_median_ns": statistics.median(self.cpu) * 1e9,
            "cpu_min_ns": min(self.cpu) * 1e9,
            "wall_median_ns": statistics.median(self.wall) * 1e9,
            "wall_min_ns": min(self.wall) * 1e9,
        }
