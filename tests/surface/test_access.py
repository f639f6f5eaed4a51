"""Accesses: the block-wise and the deferred path against one access after another."""

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pagemig as pm
from support.signals import Stopped, ringing

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


@settings(max_examples=60)
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


@pytest.mark.parametrize("hole", [None, 0, 63, 64, 9000, 19_999])
@pytest.mark.parametrize("run", [1, 50, 64, 5000])
def test_accesses_stray_from_one_mapping_to_the_next(run: int, hole: int | None) -> None:
    """Runs of accesses to mappings: all touched, never touched, and only to be read."""
    rng = np.random.default_rng(run)
    mapping = np.repeat(rng.integers(0, 3, 20_000 // run + 1), run)[:20_000]
    page = mapping * 100 + rng.integers(0, 64, 20_000)
    writes = (rng.random(20_000) < 0.3) & (mapping < 2)
    if hole is not None:
        page[hole] = 70
    outcomes = []
    for deferred in (False, True):
        machine = pm.Machine([pm.Node("8MiB", cpus=1)], access_stats=True)
        process = machine.spawn()
        for k in range(3):
            process.mmap(64 * 4096, addr=BASE + k * 100 * 4096)
        process.touch(BASE, 64 * 4096, write=True)
        before = process.access_counts(BASE, 264)[0].astype(np.int64)
        process.mprotect(BASE + 200 * 4096, 64 * 4096, "r")
        places = (BASE + page * 4096).astype(np.uint64)
        result = process.access(places, write=writes, deferred=deferred)
        counted = process.access_counts(BASE, 264)[0] - before
        assert result.done == (20_000 if hole is None else hole)
        assert (counted == np.bincount(page[: result.done], minlength=264)).all()
        dirty = np.unique(page[: result.done][writes[: result.done]])
        flags = process._ptes(BASE, 264)
        assert np.isin(np.flatnonzero(flags & 0x40), np.append(dirty, range(64))).all()
        assert (flags[dirty] & 0x61 == 0x61).all()
        outcomes.append((result.minflt, result.signal, flags.tolist()))
        machine.check()
    assert outcomes[0] == outcomes[1]


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


@pytest.mark.threads
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


@pytest.mark.parametrize("call", ["access", "touch"])
def test_a_signal_ends_a_long_call_between_two_blocks(call: str) -> None:
    """As Ctrl-C does: what was done by then is done, and the machine goes on."""
    machine = pm.Machine([pm.Node("64MiB", cpus=1)], access_stats=call == "access")
    app = machine.spawn()
    block, blocks = 1 << 17, 64
    n = 1 if call == "access" else block * blocks  # touch reads the zero page
    base = app.mmap(n * 4096, prot="r")
    places = np.full(block * blocks, base, dtype=np.uint64) if call == "access" else None

    def done() -> int:
        if places is None:
            return machine.counters["zero_page_fault"]
        return int(app.access_counts(base, 1).sum())

    with pytest.raises(Stopped), ringing(lambda: done() > 0):
        app.touch(base, n * 4096) if places is None else app.access(places)
    assert done() % block == 0 and 0 < done() < block * blocks
    machine.check()
    assert app.touch(base, 4096).signal is None
