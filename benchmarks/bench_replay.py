"""Replay of accesses with exact counts per page and node."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from common import traces
from common.reference import Lines, Reference
from common.rows import Target, lines_at
from common.workers import SpeedUp
from common.worlds import PAGE, World, machine

import pagemig as pm

ACCESSES = 1 << 23
EPOCH = 1 << 24  # what the core notes at most before it sets bits and counts
GIB = pm.GiB // PAGE


@dataclass(frozen=True, slots=True)
class Case:
    """A memory, how it is accessed, and the rates in millions a second that are aimed at."""

    gib: int
    draw: Callable[..., Any]
    exact: float
    deferred: float | None = None

    def __str__(self) -> str:
        return f"{self.gib} GiB {self.draw.__name__}"


CASES = [
    Case(16, traces.uniform, 48, None),
    Case(16, traces.zipf, 72, 160),
    Case(1, traces.zipf, 140, 650),
]
DEFERRED = "deferred" in inspect.signature(pm.Process.access).parameters


class Accesses:
    """A process with memory in scattered frames, and what it accesses."""

    def __init__(
        self,
        case: Case,
        size: Callable[[int], int],
        on: pm.Machine | None = None,
        cpu: int = 0,
        n: int = ACCESSES,
        **how: bool,
    ) -> None:
        pages = size(case.gib * GIB)
        self.world = World(pages, scattered=True, on=on, cpu=cpu, access_stats=True)
        self.world.prove()
        rng = np.random.default_rng(3)
        self.n = size(n)
        pages = case.draw(self.world.pages, self.n, rng)
        self.addresses = pages * np.uint64(PAGE) + np.uint64(self.world.base)
        self.writes = traces.writes(self.n, rng)
        self.how = how

    def replay(self) -> None:
        """Do all of them, in order."""
        done = self.world.app.access(self.addresses, write=self.writes, **self.how).done
        assert done == self.n

    def counted(self) -> int:
        """Accesses that the model has counted."""
        app, base, pages = self.world.app, self.world.base, self.world.pages
        return int(app.access_counts(base, pages).sum(dtype=np.uint64))


def measured(
    measure: Callable[..., object],
    lines: Reference,
    accesses: Accesses,
    subject: str,
    target: Target,
) -> None:
    """Measure the whole list; nothing may be missed or counted twice."""
    rounds, before = [], accesses.counted()

    def counting() -> None:
        rounds.append(accesses.counted())

    measure(
        subject,
        accesses.replay,
        per="accesses",
        amount=accesses.n,
        reference=lines,
        target=target,
        prove=counting,
    )
    assert rounds == [before + k * accesses.n for k in range(len(rounds))]


@pytest.mark.parametrize("case", CASES, ids=str)
def bench_replay(
    measure: Callable[..., object], lines: Reference, size: Callable[[int], int], case: Case
) -> None:
    accesses = Accesses(case, size)
    measured(measure, lines, accesses, f"replay, {case}", lines_at(case.exact))


@pytest.mark.skipif(not DEFERRED, reason="the core counts every access at once, none later")
@pytest.mark.parametrize("case", [case for case in CASES if case.deferred], ids=str)
def bench_replay_deferred(
    measure: Callable[..., object], lines: Reference, size: Callable[[int], int], case: Case
) -> None:
    accesses = Accesses(case, size, n=EPOCH, deferred=True)
    measured(measure, lines, accesses, f"replay, deferred, {case}", lines_at(case.deferred))


@pytest.mark.parametrize("case", CASES, ids=str)
def bench_replay_two_threads(
    speed_up: Callable[..., None], size: Callable[[int], int], case: Case
) -> None:
    """Two threads, each with a process on a node of its own: counts have one writer."""
    shared = machine(2 * size(case.gib * GIB), scattered=True, access_stats=True)
    both = [Accesses(case, size, on=shared, cpu=k) for k in range(2)]
    before = [each.counted() for each in both]
    lines = [Lines(each.n // 8, seed=k) for k, each in enumerate(both)]
    pair = SpeedUp([each.replay for each in both], sum(each.n for each in both))
    host = SpeedUp([each.update for each in lines], sum(map(len, lines)))
    speed_up(f"replay, {case}", pair, host, per="accesses", target=1.75, rounds=3)
    for each, first in zip(both, before, strict=True):
        assert each.counted() - first == 2 * len(pair.cpu) * each.n
