"""The results of a run depend only on the run, not on other contexts or calls."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import numpy as np
import pytest

import pagemig as pm

PAGE = pm.PAGE_SIZE
N = 200
OTHERS = 7


class World:
    """A program whose run is watched, and processes on the other processors."""

    def __init__(self, kernel: str) -> None:
        nodes = [pm.Node("8MiB", cpus=OTHERS), pm.Node("8MiB", cpus=1)]
        self.machine = pm.Machine(nodes, kernel=kernel, page_bytes=8)
        self.app = self.machine.spawn(cpu=0)
        self.others = [self.machine.spawn(cpu=1 + i) for i in range(OTHERS)]
        self.bases = [other.mmap(16 * PAGE) for other in self.others]
        for other, base in zip(self.others, self.bases, strict=True):
            other.touch(base, 16 * PAGE, write=True)

    def run(self, between: Callable[[], None]) -> list[object]:
        """Faults, copies on write, frees and migrations; everything that came of it."""
        app, seen = self.app, []
        base = app.mmap(N * PAGE)
        pages = base + np.arange(N, dtype=np.uint64) * np.uint64(PAGE)
        for start in range(0, N, 40):
            between()
            app.touch(base + start * PAGE, 40 * PAGE, write=True)
        seen.append(app.frames(base, N).tolist())
        for node in (1, 0):
            between()
            if "move_pages" in self.machine.profile.calls:
                seen.append(app.move_pages(pages[::3], node).status.tolist())
            seen.append(app.migrate_pages({1 - node}, {node}))
            seen.append(app.frames(base, N).tolist())
        child = app.fork()
        between()
        child.touch(base, N // 2 * PAGE, write=True)
        seen.append(child.frames(base, N).tolist())
        child.exit()
        between()
        app.munmap(base, N // 2 * PAGE)
        app.touch(base + N // 2 * PAGE, N // 2 * PAGE)
        again = app.mmap(N * PAGE)
        app.touch(again, N * PAGE, write=True)
        seen.append(app.frames(again, N).tolist())
        seen.append(self.machine.cpu_counters[0].tolist())
        return seen

    def look(self) -> None:
        """Calls of the others that need no frame."""
        for other, base in zip(self.others, self.bases, strict=True):
            other.touch(base, 16 * PAGE)
            other.frames(base, 16)
            with other.context() as context:
                context.access(base, write=True)


@cache
def alone(kernel: str) -> list[object]:
    """The results of the run on a machine where nothing else runs."""
    return World(kernel).run(lambda: None)


@contextmanager
def contexts(world: World) -> Iterator[Callable[[], None]]:
    """Each of the others has contexts open, and the program has more on other processors."""
    with ExitStack() as stack:
        for i, other in enumerate(world.others):
            stack.enter_context(other.context(owns_time=False))
            stack.enter_context(world.app.context(cpu=1 + i, owns_time=False))
        yield lambda: None


@contextmanager
def lookers(world: World) -> Iterator[Callable[[], None]]:
    """The others make calls between those of the run."""
    yield world.look


@contextmanager
def threads(world: World) -> Iterator[Callable[[], None]]:
    """The others make calls at the same time."""
    over = threading.Event()

    def loop(other: pm.Process, base: int) -> None:
        while not over.is_set():
            other.touch(base, 16 * PAGE)

    running = [
        threading.Thread(target=loop, args=pair)
        for pair in zip(world.others[:2], world.bases[:2], strict=True)
    ]
    for thread in running:
        thread.start()
    try:
        yield lambda: None
    finally:
        over.set()
        for thread in running:
            thread.join()


@contextmanager
def half_way(world: World) -> Iterator[Callable[[], None]]:
    """One of the others has a migration on its way, from the start to the end of the run."""
    other, base = world.others[0], world.bases[0]
    move = other.start_mbind(base, 16 * PAGE, pm.Bind([0]), pm.MPOL_MF_MOVE)
    move.step()
    yield lambda: None
    move.finish()


@contextmanager
def machines(world: World) -> Iterator[Callable[[], None]]:
    """Another machine allocates and frees."""
    other = pm.Machine([pm.Node("1MiB", cpus=1)])

    def churn() -> None:
        process = other.spawn()
        process.touch(process.mmap(64 * PAGE), 64 * PAGE, write=True)
        process.exit()

    yield churn


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "2.6.18"])
@pytest.mark.parametrize("others", [contexts, lookers, threads, half_way, machines])
def test_frames_counters_and_answers_are_those_of_the_run_alone(kernel, others) -> None:
    world = World(kernel)
    with others(world) as between:
        assert world.run(between) == alone(kernel)
    world.machine.check(full=True)


def test_the_run_notices_one_who_takes_frames() -> None:
    """What the tests above compare can differ."""
    world = World("6.1")
    other = world.others[0]
    base = other.mmap(N * PAGE)
    assert world.run(lambda: other.touch(base, N * PAGE, write=True) and None) != alone("6.1")
