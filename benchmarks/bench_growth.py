"""Cost against pages, mappings, forks and VMAs: it grows with what is touched, not faster.

Each curve gets the exponent of a power law fitted to it, and all are drawn in
``build/bench-growth.png`` where matplotlib is installed.  A little above 1 is the host's caches:
what fits in them is cheaper.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common.reference import Reference
from common.rows import Row, Target
from common.timing import Samples
from common.worlds import PAGE, WholeProcess, World

import pagemig as pm

PICTURE = Path("build/bench-growth.png")
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Point:
    """Work of which there are ``x`` units, and what makes it possible again."""

    x: int
    work: Callable[[], object]
    undo: Callable[[], object] = lambda: None


Points = Callable[[Callable[[int], int]], Iterator[Point]]


def pages(size: Callable[[int], int]) -> Iterator[Point]:
    """Pages of one call."""
    for n in (1 << k for k in range(16, 22)):
        world = World(size(n), scattered=True)
        yield Point(n, world.move)


def chunks(size: Callable[[int], int]) -> Iterator[Point]:
    """Pages of one call of 2.6.17, which has targets for 257 of them at a time."""
    for n in (1 << k for k in range(14, 19)):
        yield Point(n, WholeProcess(size(n), "2.6.17").move)


def mappings(size: Callable[[int], int]) -> Iterator[Point]:
    """Page-table entries of as many pages: a process and more and more children."""
    n = size(1 << 16)
    world = World(n, scattered=True, flags=pm.MPOL_MF_MOVE_ALL)
    for k in (1, 2, 4, 8, 16):
        while len(world.machine.processes) < k:
            world.app.fork()
        yield Point(n * k, world.move)


def forks(size: Callable[[int], int]) -> Iterator[Point]:
    """Pages that a fork shares."""
    for n in (1 << k for k in range(14, 20)):
        world = World(size(n), scattered=True)
        children: list[pm.Process] = []

        def undo(children: list[pm.Process] = children) -> None:
            while children:
                children.pop().exit()

        def work(world: World = world, children: list[pm.Process] = children) -> None:
            children.append(world.app.fork())

        yield Point(n, work, undo)


def vmas(size: Callable[[int], int]) -> Iterator[Point]:
    """VMAs of a range of which every page goes to the other node by ``mbind``."""
    for n in (1 << k for k in range(6, 13)):
        world = World(n * 8, scattered=True)
        for k in range(0, n, 2):
            world.app.mprotect(world.base + k * 8 * PAGE, 8 * PAGE, "r")
        assert len(world.app.vmas()) == n

        def work(world: World = world) -> None:
            world.side ^= 1
            policy, length = pm.Bind([world.side]), world.pages * PAGE
            world.app.mbind(world.base, length, policy, pm.MPOL_MF_MOVE)

        yield Point(n, work)


def siblings(size: Callable[[int], int]) -> Iterator[Point]:
    """Children of one parent, of which one moves pages of its own: the others do not matter."""
    n = size(1 << 15)
    for k in (1, 4, 16, 64):
        world = World(n, scattered=True, spare=1.5)
        children = [world.app.fork() for _ in range(k)]
        world.app = children[-1]
        assert world.app.touch(world.base, n * PAGE, write=True).done == n
        yield Point(k, world.move)


def exponent(x: list[int], seconds: list[float]) -> float:
    """Slope of the line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(seconds), 1)[0])


def curve(
    points: Iterator[Point], reference: Reference, rounds: int
) -> tuple[list[int], list[float], list[float]]:
    """Units, and for each point the best seconds and the best in line updates of the host."""
    x, seconds, lines = [], [], []
    for point in points:
        samples, first = Samples(), reference.runs
        for _ in range(rounds + 1):
            reference.run()
            samples.time(point.work, 1)
            point.undo()
        x.append(point.x)
        seconds.append(min(samples.since(1).cpu))
        lines.append(seconds[-1] / min(reference.samples.since(first).cpu))
    return x, seconds, lines


@pytest.fixture(scope="module")
def picture() -> Iterator[Callable[..., None]]:
    """Collects the curves and draws them in the end."""
    curves: dict[str, tuple[list[int], list[float], float]] = {}

    def add(name: str, x: list[int], lines: list[float], power: float) -> None:
        curves[name] = (x, lines, power)

    yield add
    draw(curves)


def draw(curves: dict[str, tuple[list[int], list[float], float]]) -> None:
    """One panel a curve, both axes logarithmic."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(4 * len(curves), 3.5), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, (x, lines, power)) in zip(panels, curves.items(), strict=True):
        axes.loglog(x, lines, "o-")
        axes.set(title=f"exponent {power:.2f}", xlabel=name, ylabel="line updates of the host")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=120)


@pytest.mark.parametrize(
    ("points", "most"),
    [(pages, 1.2), (chunks, 1.2), (mappings, 1.2), (forks, 1.2), (vmas, 1.2), (siblings, 0.2)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def bench_growth(
    benchmark: Any,
    report: Callable[..., None],
    lines: Reference,
    size: Callable[[int], int],
    picture: Callable[..., None],
    smoke: bool,
    points: Points,
    most: float,
) -> None:
    x, seconds, updates = benchmark.pedantic(
        lambda: curve(points(size), lines, 1 if smoke else ROUNDS), rounds=1, iterations=1
    )
    power, subject = exponent(x, seconds), f"growth with {points.__name__}"
    picture(points.__name__, x, updates, power)
    row = Row(subject, "", {}, power, power, "exponent", target=Target(most))
    report(row, x=x, seconds=seconds, line_updates=updates)
