"""Accesses: the block-wise and the deferred path against one access after another."""

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pagemig as pm

PAGES = 1200  # more than two leaf tables
BASE = 0x1000_0000_0000

accesses = st.lists(st.tuples(st.integers(-2, PAGES + 1), st.booleans()), max_size=200)


def program() -> tuple[pm.Machine, pm.Process]:
    """A process with fresh, shared (copy on write), read-only and missing memory side by side."""
    machine = pm.Machine([pm.Node("8MiB", cpus=1), pm.Node("8MiB", cpus=1)], access_stats=True)
    process = machine.spawn(cpu=1)
    process.mmap(PAGES * 4096, addr=BASE)
    process.touch(BASE + 100 * 4096, 300 * 4096, write=True)
    process.touch(BASE + 600 * 4096, 50 * 4096)
    process.fork()
    process.touch(BASE + 200 * 4096, 20 * 4096, write=True)
    process.mprotect(BASE + 900 * 4096, 100 * 4096, "r")
    process.munmap(BASE + 1100 * 4096, 4096)
    return machine, process


def outcome(process: pm.Process, places: np.ndarray, writes: np.ndarray, how: str) -> Any:
    """What one way of doing the accesses comes to: result, faults, entries and counts."""
    if how == "single":
        parts = []
        for place, write in zip(places, writes, strict=True):
            parts.append(process.access(np.array([place]), write=bool(write)))
            if parts[-1].signal:
                break
        done = sum(part.done for part in parts)
        result = (done, sum(p.minflt for p in parts), parts[-1].signal if parts else None)
    else:
        r = process.access(places, write=writes, deferred=how == "deferred")
        result = (r.done, r.minflt, r.signal)
    bits = process.pagemap(BASE, PAGES) >> np.uint64(55)
    flags = process._ptes(BASE, PAGES) & np.uint64(0x63)
    return result, bits.tolist(), flags.tolist(), process.access_counts(BASE, PAGES).tolist()


@settings(max_examples=60, deadline=None)
@given(accesses)
def test_every_way_of_access_comes_to_the_same(drawn: list[tuple[int, bool]]) -> None:
    places = np.array([BASE + page * 4096 + 8 for page, _ in drawn], dtype=np.uint64)
    writes = np.array([write for _, write in drawn], dtype=bool)
    outcomes = []
    for how in ("single", "blocks", "deferred"):
        machine, process = program()
        outcomes.append(outcome(process, places, writes, how))
        machine.check()
    assert outcomes[1] == outcomes[0]
    assert outcomes[2] == outcomes[0]


def test_deferred_counts_are_the_histogram() -> None:
    machine = pm.Machine([pm.Node("64MiB", cpus=1)], access_stats=True)
    process = machine.spawn()
    base = process.mmap(4096 * 4096)
    pages = np.random.default_rng(3).integers(0, 4096, 100_000)
    result = process.access((base + pages * 4096).astype(np.uint64), deferred=True)
    assert result.done == pages.size
    assert (process.access_counts(base, 4096)[0] == np.bincount(pages, minlength=4096)).all()
    machine.check()


@pytest.mark.parametrize("how", [False, True])
def test_accesses_spread_over_the_address_space(how: bool) -> None:
    machine = pm.Machine([pm.Node("64MiB", cpus=1)])
    process = machine.spawn()
    bases = [process.mmap(4096, addr=BASE + (k << 38)) for k in range(20)]
    result = process.access(np.array(bases, dtype=np.uint64), write=True, deferred=how)
    assert (result.done, result.minflt, result.signal) == (20, 20, None)
    machine.check()


@pytest.mark.parametrize("threads", [2, 10])
def test_counts_are_exact_with_threads(threads: int) -> None:
    machine = pm.Machine([pm.Node("64MiB", cpus=2), pm.Node("64MiB", cpus=1)], access_stats=True)
    process = machine.spawn()
    base = process.mmap(64 * 4096)
    process.touch(base, 64 * 4096, write=True)
    places = (base + np.random.default_rng(1).integers(0, 64, 100_000) * 4096).astype(np.uint64)
    barrier = threading.Barrier(threads)

    def work() -> None:
        barrier.wait()
        process.access(places, write=True)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert process.access_counts(base, 64).sum() == threads * places.size + 64
