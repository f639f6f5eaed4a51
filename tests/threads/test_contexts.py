"""Contexts are the host's affair: any number at a time; no machine depends on it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import pagemig as pm

PAGE = pm.PAGE_SIZE
PFN = np.uint64((1 << 55) - 1)
NODES = [pm.Node("4MiB", cpus=2), pm.Node("4MiB")]


def touched(process: pm.Process, n: int) -> int:
    base = process.mmap(n * PAGE)
    assert process.touch(base, n * PAGE, write=True).done == n
    return base


def frames(process: pm.Process, base: int, n: int) -> list[int]:
    return [int(entry) for entry in process.pagemap(base, n) & PFN]


def test_a_hundred_calls_at_a_time() -> None:
    """Each call is made in a hook of the one before, so that all are under way together."""
    machine = pm.Machine(NODES)
    app = machine.spawn()
    base = touched(app, 100)
    deepest = 0

    def hook(step: str, pfns: list[int]) -> None:
        nonlocal deepest
        if step == "copy" and deepest < 99:
            deepest += 1
            app.move_pages([base + deepest * PAGE], 1)

    machine.at_step(hook)
    app.move_pages([base], 1)
    machine.at_step(None)
    assert deepest == 99
    assert (
        app.move_pages(np.arange(100, dtype=np.uint64) * PAGE + base).status.tolist() == [1] * 100
    )
    machine.check(full=True)


def test_a_hundred_threads_at_a_time() -> None:
    """All of them are inside a call at one moment."""
    machine = pm.Machine(NODES)
    apps = [machine.spawn() for _ in range(100)]
    bases = [touched(app, 1) for app in apps]
    together = threading.Barrier(100)

    def hook(step: str, pfns: list[int]) -> None:
        if step == "copy":
            together.wait(60)

    machine.at_step(hook)
    with ThreadPoolExecutor(100) as pool:
        moved = pool.map(lambda app, base: app.move_pages([base], 1).status[0], apps, bases)
        assert list(moved) == [1] * 100
    machine.at_step(None)
    machine.check(full=True)


def test_frames_do_not_depend_on_calls_of_others_under_way() -> None:
    """The same work once in the middle of another process's call, once after it.

    The other runs on a processor of its own; on one and the same its frames would be in the cache
    before or after, as in a kernel.
    """

    def run(*, inside: bool) -> list[int]:
        machine = pm.Machine(NODES)
        app, other = machine.spawn(cpu=0), machine.spawn(cpu=1)
        base = touched(other, 1)
        found: list[int] = []

        def work() -> None:
            mine = touched(app, 80)
            found.extend(frames(app, mine, 80))
            app.munmap(mine, 40 * PAGE)
            found.extend(frames(app, touched(app, 60), 60))

        if inside:
            machine.at_step(lambda step, _: work() if step == "copy" else None)
        other.move_pages([base], 1)
        machine.at_step(None)
        if not inside:
            work()
        machine.check(full=True)
        return found

    assert run(inside=True) == run(inside=False)


def test_counters_belong_to_processors() -> None:
    machine = pm.Machine(NODES)
    app = machine.spawn(cpu=1)
    fault = list(machine.counters).index("pgfault")
    before = machine.cpu_counters[:, fault].copy()
    touched(app, 5)
    assert (machine.cpu_counters[:, fault] - before).tolist() == [0, 5]
    app.cpu = 0
    touched(app, 3)
    assert (machine.cpu_counters[:, fault] - before).tolist() == [3, 5]


def test_counters_have_calls_under_way() -> None:
    machine = pm.Machine(NODES)
    app = machine.spawn()
    base = touched(app, 1)
    seen: list[tuple[int, int]] = []

    def hook(step: str, pfns: list[int]) -> None:
        if step == "alloc":
            k = list(machine.counters).index("pgalloc")
            seen.append((machine.counters["pgalloc"], int(machine.cpu_counters[:, k].sum())))

    alone = machine.counters["pgalloc"]
    machine.at_step(hook)
    app.move_pages([base], 1)
    machine.at_step(None)
    assert seen == [(alone + 1, alone)]
    assert machine.counters["pgalloc"] == alone + 1


@pytest.mark.parametrize("migrating", [False, True])
def test_lists_of_processors_are_passed_by_while_a_call_migrates(*, migrating: bool) -> None:
    """``lru_cache_disable`` counts for the whole machine, whichever process migrates.

    A page that comes into a locked mapping is put on its processor's list, which holds a reference;
    while any thread migrates, these lists are disabled.
    """
    machine = pm.Machine(NODES)
    app, other = machine.spawn(cpu=0), machine.spawn(cpu=1)
    base = touched(other, 1)
    mine = app.mmap(PAGE)
    app.mlock(mine, PAGE, onfault=True)
    references: list[int] = []

    def fault() -> None:
        app.touch(mine, PAGE, write=True)
        references.append(int(machine.frames.refcount[frames(app, mine, 1)[0]]))

    if migrating:
        machine.at_step(lambda step, _: fault() if step == "copy" else None)
        other.move_pages([base], 1)
        machine.at_step(None)
    else:
        fault()
    assert references == [1 if migrating else 2]
    machine.check(full=True)


def test_access_counts_are_exact_in_calls_inside_calls() -> None:
    """More calls than there are arrays of counts: the last array is shared."""
    machine = pm.Machine(NODES, access_stats=True)
    app = machine.spawn()
    base = touched(app, 20)
    deepest = 0

    def hook(step: str, pfns: list[int]) -> None:
        nonlocal deepest
        if step == "copy" and deepest < 15:
            deepest += 1
            app.move_pages([base + deepest * PAGE], 1)
            app.access(np.full(10, base + 19 * PAGE, dtype=np.uint64))

    before = app.access_counts(base, 20).sum()
    machine.at_step(hook)
    app.move_pages([base], 1)
    machine.at_step(None)
    assert app.access_counts(base, 20).sum() - before == 150
