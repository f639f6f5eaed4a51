"""Two threads at once, each on work of its own."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from common.timing import Samples

Work = Callable[[], object]


def together(works: Sequence[Work]) -> tuple[list[float], float]:
    """Run each work in a thread, all from one barrier on: CPU seconds of each, wall of all."""
    barrier = threading.Barrier(len(works) + 1)
    cpu = [0.0] * len(works)
    failures: list[BaseException] = []

    def run(k: int) -> None:
        barrier.wait()
        begin = time.thread_time()
        try:
            works[k]()
        except BaseException as failure:  # raised below, in the thread that asked
            failures.append(failure)
        cpu[k] = time.thread_time() - begin

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(works))]
    for thread in threads:
        thread.start()
    barrier.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begin
    if failures:
        raise failures[0]
    return cpu, wall


@dataclass(slots=True)
class SpeedUp:
    """How much more some threads do than one, by CPU time and by the clock on the wall.

    By CPU time: the sum of what each gets done in a second of its own, over what it does alone.
    That assumes a core for each, which a busy host does not give; wall time shows what it gave.

    Attributes
    ----------
    works : sequence of callables
        What each thread does.
    amount : float
        Units of all of it.
    cpu, wall, busy : list of float
        Of each repetition: the ratio by either clock, and how many cores the threads had.
    times : Samples
        Of each repetition together: seconds per unit, with a core for each (``cpu``) or as it was.
    """

    works: Sequence[Work]
    amount: float
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    times: Samples = field(default_factory=Samples)

    def run(self) -> None:
        """Each alone, then all together."""
        alone = [together([work]) for work in self.works]
        cpu, wall = together(self.works)
        self.cpu.append(sum(one[0][0] / both for one, both in zip(alone, cpu, strict=True)))
        self.wall.append(sum(one[1] for one in alone) / wall)
        self.busy.append(sum(cpu) / wall)
        self.times.cpu.append(statistics.mean(cpu) / self.amount)
        self.times.wall.append(wall / self.amount)

    def describe(self) -> dict[str, float]:
        """Medians and bests of the ratios, and how many cores it had."""
        return {
            "cpu_ratio": statistics.median(self.cpu),
            "cpu_ratio_best": max(self.cpu),
            "wall_ratio": statistics.median(self.wall),
            "wall_ratio_best": max(self.wall),
            "cores_busy": statistics.median(self.busy),
        }
