"""Virtual time: processors replay a recorded order of locks and copies, and contend for locks.

Nothing here knows a kernel.  A `Script`, made from a recorded trace, says what a processor does;
`Costs` say what it costs.  A lock is granted in the order of arrival.  It is held for::

    hold + (lines * line if another processor had it last) + spin_lines * line * waiters

A copy slows down if the copies in progress at its start need more than the memory's bandwidth.
Processors start in different places of the script, unless told otherwise.  Whole phases of it, such
as the isolation of all pages before the first one moves, would coincide otherwise.  Work and copies
vary around their mean.  Processors with equal times would run in lockstep and meet at every lock or
at none, and a hundredth of a microsecond would decide which.  The simulation is one of discrete
events and deterministic: equal arguments give equal results.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["COPY", "Costs", "Outcome", "Script", "closed_form", "simulate"]

#: The resource of an operation that is a copy; locks have names.
COPY: Final = "copy"


@dataclass(frozen=True, slots=True)
class Script:
    """What one processor does repeatedly.

    Attributes
    ----------
    ops : tuple of (float, str)
        Work before an operation, us, and what it needs: the name of a lock, or `COPY`.
    tail_us : float
        Work after the last operation.
    pages : int
        Pages that moved.
    """

    ops: tuple[tuple[float, str], ...]
    tail_us: float
    pages: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Costs of operations: times in us, bandwidths in MB/s (10**6 bytes), which is bytes/us.

    Attributes
    ----------
    page_bytes : int
        Bytes of one page, or of a folio.
    hold_us : float
        Time inside a lock that the same processor had last.
    line_us : float
        Time to fetch one cache line that another processor wrote.
    lines : mapping of str to float
        Cache lines that move with a lock when its owner changes; 0 for a lock that is not listed.
    spin_lines : float
        Cache lines by which each waiting processor slows the owner down.
    copy_mb_s : float
        Copy bandwidth of one processor.
    copy_total_mb_s : float
        Copy bandwidth of the whole machine.
    jitter : float
        Work and copies are drawn from 1 - jitter to 1 + jitter times their length.
    spread : float
        Processor i of N starts at i/N of the script's time alone, times this; 0: all together.
    """

    page_bytes: int
    hold_us: float
    line_us: float
    copy_mb_s: float
    copy_total_mb_s: float
    lines: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    spin_lines: float = 0.0
    jitter: float = 0.0
    spread: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The rates of the processors.

    Attributes
    ----------
    mb_s : float
        Rate of one processor, until the last has finished.
    busy : mapping of str to float
        Share of the time each lock was held.
    """

    mb_s: float
    busy: Mapping[str, float]


def closed_form(script: Script, costs: Costs) -> float:
    """Return the rate of one processor alone (MB/s), the sum of all times."""
    return script.pages * costs.page_bytes / (sum(_alone(script, costs)) + script.tail_us)


def _alone(script: Script, costs: Costs) -> list[float]:
    """Return the time of each operation without contention, including the work before it (us)."""
    copy = costs.page_bytes / min(costs.copy_mb_s, costs.copy_total_mb_s)
    return [delay + (copy if resource == COPY else costs.hold_us) for delay, resource in script.ops]


def simulate(
    script: Script, costs: Costs, processors: int, *, repeats: int = 1, seed: int = 1
) -> Outcome:
    """Let processors replay a script at once.

    Parameters
    ----------
    script : Script
        What each processor does.
    costs : Costs
        The costs.
    processors : int
        Number of processors.
    repeats : int
        How often each replays the script.
    seed : int
        Seed of the jitter.

    Returns
    -------
    Outcome
        The rate of each, and the busy share of each lock.

    Raises
    ------
    ValueError
        Fewer than one processor or repetition, or a script that moves nothing.
    """
    if processors < 1 or repeats < 1 or script.pages < 1:
        raise ValueError(
            "processors, repeats and pages must be at least 1, "
            f"not {processors}, {repeats} and {script.pages}"
        )
    return _Simulation(script, costs, processors, repeats, seed).run()


class _Lock:
    """A lock: its owner, its last owner, and the processors that wait."""

    __slots__ = ("busy_us", "held", "last", "lines", "queue")

    def __init__(self, lines: float) -> None:
        self.lines, self.held, self.last, self.busy_us = lines, False, -1, 0.0
        self.queue: deque[int] = deque()


class _Simulation:
    """Events by time: a processor requests what its next operation needs, or releases a lock."""

    def __init__(
        self, script: Script, costs: Costs, processors: int, repeats: int, seed: int
    ) -> None:
        self.script, self.costs, self.repeats = script, costs, repeats
        self.resources = [resource for _, resource in script.ops]
        names = set(self.resources) - {COPY}
        self.locks = {name: _Lock(costs.lines.get(name, 0.0)) for name in names}
        self.next = _starts(script, costs, processors)
        self.left = [repeats * len(script.ops)] * processors
        self.copying = [0.0] * processors
        self.finished = [0.0] * processors
        self.random = [np.random.default_rng([seed, cpu]) for cpu in range(processors)]
        self.drawn = [_draw(script, costs.jitter, random) for random in self.random]
        self.events: list[tuple[float, int, bool]] = []

    def run(self) -> Outcome:
        for cpu in range(len(self.next)):
            self._proceed(cpu, 0.0)
        while self.events:
            now, cpu, release = heappop(self.events)
            resource = self.resources[self.next[cpu]]
            if release:
                self._release(self.locks[resource], cpu, now)
            elif resource == COPY:
                self._advance(cpu, self._copied(cpu, now))
            else:
                self._request(self.locks[resource], cpu, now)
        end = max(self.finished)
        total = self.script.pages * self.repeats * self.costs.page_bytes
        busy = {name: lock.busy_us / end for name, lock in sorted(self.locks.items())}
        return Outcome(total / end, busy)

    def _request(self, lock: _Lock, cpu: int, now: float) -> None:
        if lock.held:
            lock.queue.append(cpu)
        else:
            self._grant(lock, cpu, now)

    def _grant(self, lock: _Lock, cpu: int, now: float) -> None:
        costs = self.costs
        moved = lock.lines if lock.last not in (-1, cpu) else 0.0
        slowed = costs.spin_lines * len(lock.queue)
        hold = costs.hold_us + (moved + slowed) * costs.line_us
        lock.held, lock.last = True, cpu
        lock.busy_us += hold
        heappush(self.events, (now + hold, cpu, True))

    def _release(self, lock: _Lock, cpu: int, now: float) -> None:
        lock.held = False
        if lock.queue:
            self._grant(lock, lock.queue.popleft(), now)
        self._advance(cpu, now)

    def _copied(self, cpu: int, now: float) -> float:
        """Return when a copy that starts now ends; its bandwidth is what is left at the start."""
        costs = self.costs
        copies = 1 + sum(end > now for end in self.copying)
        rate = min(costs.copy_mb_s, costs.copy_total_mb_s / copies)
        factor = self.drawn[cpu].copies[self.next[cpu]]
        self.copying[cpu] = now + factor * costs.page_bytes / rate
        return self.copying[cpu]

    def _advance(self, cpu: int, now: float) -> None:
        self.next[cpu] = (self.next[cpu] + 1) % len(self.resources)
        self.left[cpu] -= 1
        if self.next[cpu] == 0:
            self.drawn[cpu] = _draw(self.script, self.costs.jitter, self.random[cpu])
        if self.left[cpu]:
            self._proceed(cpu, now)
        else:
            self.finished[cpu] = now

    def _proceed(self, cpu: int, now: float) -> None:
        heappush(self.events, (now + self.drawn[cpu].delays[self.next[cpu]], cpu, False))


def _starts(script: Script, costs: Costs, processors: int) -> list[int]:
    """Return the operation that each processor begins with."""
    ends = np.cumsum(_alone(script, costs))
    share = costs.spread * np.arange(processors) / processors
    starts: list[int] = np.searchsorted(ends, share * ends[-1], side="right").tolist()
    return starts


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One round of the script: work before each operation (us), factors on the copies' mean."""

    delays: list[float]
    copies: list[float]


def _draw(script: Script, jitter: float, random: np.random.Generator) -> _Drawn:
    """Draw times for one round; the sums of work and of copies stay as they were.

    What follows the last operation comes before the first of the next round.
    """
    delays = np.array([delay for delay, _ in script.ops])
    delays[0] += script.tail_us
    copies = np.array([float(resource == COPY) for _, resource in script.ops])
    return _Drawn(*(_jittered(mean, jitter, random).tolist() for mean in (delays, copies)))


def _jittered(
    mean: npt.NDArray[np.float64], jitter: float, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    drawn = mean * random.uniform(1 - jitter, 1 + jitter, mean.size)
    return drawn * (mean.sum() / drawn.sum()) if drawn.any() else drawn
