"""Threads that start together, their repeated steps, and proof that they met.

A test with threads gives each page one writer, so that its content is known at any time, and checks
all invariants of the machine afterwards.  Host counters prove that the threads met: a test in which
no thread ever waited has shown nothing.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EINVAL, ENOMEM, ESRCH

import numpy as np
import pytest

import pagemig as pm
from pagemig import Machine, Process

PAGE = pm.PAGE_SIZE
TIMEOUT = 300
#: How often everything is done; PAGEMIG_STRESS multiplies it.
STRESS = int(os.environ.get("PAGEMIG_STRESS") or 1)
#: Host counters of locks that somebody had to wait for.
WAITED = (
    "host_page_contended",
    "host_ptl_contended",
    "host_rmap_contended",
    "host_mm_contended",
    "migration_wait",
)

Step = Callable[[], object]
#: A host counter, or several of which one is enough.
Events = str | tuple[str, ...]


class Together:
    """Threads that start at one barrier.

    ``doing`` are functions that end by themselves; ``meanwhile`` are steps repeated until those
    have ended.  The first exception of any of them is raised here.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.errors: list[BaseException] = []

    def _guarded(self, work: Step, barrier: threading.Barrier) -> None:
        try:
            barrier.wait()
            work()
        except BaseException as error:
            self.errors.append(error)
            self.stop.set()

    def _repeated(self, step: Step) -> Step:
        def loop() -> None:
            while not self.stop.is_set():
                step()

        return loop

    def run(self, doing: list[Step], meanwhile: list[Step]) -> None:
        works = [*doing, *map(self._repeated, meanwhile)]
        barrier = threading.Barrier(len(works))
        threads = [
            threading.Thread(target=self._guarded, args=(work, barrier), daemon=True)
            for work in works
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + TIMEOUT
        for i, thread in enumerate(threads):
            if i == len(doing):
                self.stop.set()
            thread.join(max(0, end - time.monotonic()))
        if self.errors:
            raise self.errors[0]
        assert not any(t.is_alive() for t in threads), "threads wait for each other"


def together(doing: list[Step], meanwhile: list[Step]) -> None:
    Together().run(doing, meanwhile)


@contextmanager
def allowed(*numbers: int) -> Iterator[None]:
    """Errors a call may meet because another thread was faster."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def machine(page_bytes: int = 8, size: str = "16MiB", nodes: int = 4, **more: object) -> Machine:
    return Machine([pm.Node(size, cpus=1) for _ in range(nodes)], page_bytes=page_bytes, **more)


def addresses(base: int, n: int) -> np.ndarray:
    return base + np.arange(n, dtype=np.uint64) * np.uint64(PAGE)


def mover(by: Process, base: int, n: int, *, pid: Process | int = 0, seed: int = 0) -> Step:
    """Steps that send runs of pages to a node each; whatever status comes is fine."""
    rng = np.random.default_rng(seed)
    pages = addresses(base, n)
    flags = pm.MPOL_MF_MOVE_ALL

    def step() -> None:
        nodes = np.repeat(rng.integers(0, by.machine.nr_nodes, (n + 15) // 16), 16)[:n]
        with allowed(ENOMEM, ESRCH, EINVAL):
            by.move_pages(pages, nodes.astype(np.int32), flags, pid=pid)

    return step


def writer(by: Process, base: int, n: int, rounds: int, mark: int) -> Step:
    """Write numbers to a range without other writers and read them back, repeatedly."""

    def work() -> None:
        for i in range(rounds * STRESS):
            values = np.arange(n, dtype=np.uint64) | np.uint64((mark << 48) + ((i + 1) << 16))
            assert by.touch(base, n * PAGE, write=True, values=values).done == n
            seen = by.touch(base, n * PAGE).values
            assert seen is not None
            np.testing.assert_array_equal(seen, values)

    return work


def changer(by: Process, base: int, n: int, rounds: int, mark: int) -> Step:
    """Map ``n`` >= 32 pages, change the mapping in every way, and unmap it, many times."""
    values = np.arange(n, dtype=np.uint64) | np.uint64(mark << 48)

    def work() -> None:
        for _ in range(rounds * STRESS):
            by.mmap(n * PAGE, addr=base)
            by.touch(base, n * PAGE, write=True, values=values)
            by.mprotect(base + 8 * PAGE, 16 * PAGE, "r")
            by.mlock(base, 32 * PAGE)
            by.mprotect(base, 24 * PAGE, "")
            by.mprotect(base, n * PAGE, "rw")
            by.munlock(base + 4 * PAGE, 20 * PAGE)
            by.munlock(base, 32 * PAGE)
            np.testing.assert_array_equal(by.touch(base, n * PAGE).values, values)
            moved = by.mremap(base, n * PAGE, n * PAGE, maymove=True, new_addr=base + 8 * n * PAGE)
            np.testing.assert_array_equal(by.touch(moved, n * PAGE).values, values)
            by.madvise(moved, 8 * PAGE, "dontneed")
            by.touch(moved, 8 * PAGE, write=True)
            by.munmap(moved + 16 * PAGE, 8 * PAGE)
            by.munmap(moved, n * PAGE)

    return work


def family(app: Process, base: int, kept: np.ndarray, rounds: int, mark: int) -> Step:
    """Fork a child and a grandchild that find ``kept``, write copies of their own, and exit."""
    n = len(kept)
    half = base + n // 2 * PAGE

    def work() -> None:
        for _ in range(rounds * STRESS):
            child = app.fork()
            np.testing.assert_array_equal(child.touch(base, n * PAGE).values, kept)
            writer(child, base, n // 2, 1, mark)()
            grandchild = child.fork()
            child.exit()
            seen = grandchild.touch(half, n // 2 * PAGE).values
            np.testing.assert_array_equal(seen, kept[n // 2 :])
            grandchild.exit()

    return work


def short_lives(m: Machine, base: int, n: int, rounds: int, alive: list[Process]) -> Step:
    """Start processes that write ``n`` pages each; all but the last three, in ``alive``, exit."""

    def work() -> None:
        for _ in range(rounds * STRESS):
            process = m.spawn()
            process.mmap(n * PAGE, addr=base)
            process.touch(base, n * PAGE, write=True)
            alive.append(process)
            if len(alive) > 3:
                alive.pop(0).exit()

    return work


def counted(m: Machine, *names: str) -> int:
    return sum(m.counters[name] for name in names)


def rounds() -> Iterator[int]:
    """Rounds 0, 1, ...: threads on a single core meet in one of the first hundred or so."""
    yield from range(2000)


def meet(m: Machine, doing: list[Step], meanwhile: list[Step], *events: Events) -> None:
    """Again until pages have moved and threads waited, or until each of ``events`` was counted."""
    wanted = events or ("pgmigrate_success", WAITED)
    for _ in rounds():
        together(doing, meanwhile)
        m.check(full=True)
        if all(counted(m, *((names,) if isinstance(names, str) else names)) for names in wanted):
            return
    pytest.fail(f"the threads never met: {m.counters}")
