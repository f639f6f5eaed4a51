"""Copies of machines whose migration waits, or stands in the middle of an interrupted step.

No caller can hold a page lock or writeback between two calls, so tests set the page's bit. A file
with such a page would be refused; a copy is what loading it would give.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import pagemig as pm
from embedding.test_saved_migrations import WAYS, seen, through_file
from pagemig.mm.numbers import NUMBERS
from pagemig.testing.poke import poke
from support.machines import PAGE, four_nodes, mapped
from support.signals import Stopped, first_page_changes, ringing

N = 12
BITS = {"page": NUMBERS["PG_locked"], "writeback of page": NUMBERS["PG_writeback"]}
CALLS = [
    (kernel, call)
    for kernel, profile in pm.KERNELS.items()
    for call in ("move_pages", "migrate_pages", "mbind", "frames")
    if call in {*profile.calls, "frames"}
]
#: Kernels whose mbind holds mmap_lock while it moves pages, and with move_pages.
HOLDERS = [
    kernel
    for kernel, profile in pm.KERNELS.items()
    if "move_pages" in profile.calls and not profile.migrate_unlocked
]


def mark(machine: pm.Machine, pfn: int, what: str, on: bool) -> None:
    state = poke(machine, "frame", pfn, "state")
    poke(machine, "frame", pfn, "state", state | BITS[what] if on else state & ~BITS[what])


def start(app: pm.Process, call: str, base: int, n: int) -> pm.Migration:
    pages = base + np.arange(n, dtype=np.uint64) * np.uint64(PAGE)
    match call:
        case "move_pages":
            return app.start_move_pages(pages, 1)
        case "migrate_pages":
            return app.start_migrate_pages({0}, {1})
        case "mbind":
            return app.start_mbind(base, n * PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE)
    return app.machine.start_migrate_frames(app.frames(base, n), [1] * n)


def waiting(kernel: str, call: str, what: str, kind: str) -> tuple[pm.Machine, pm.Migration, int]:
    """A migration that waits for page 7 of a mapping."""
    machine = four_nodes(kernel, page_bytes=8)
    machine.width = 5
    app = machine.spawn()
    shared = {"file": machine.file(kind, N * PAGE), "shared": True} if kind else {}
    base = mapped(app, N, **shared)
    pfn = int(app.frames(base, N)[7])
    mark(machine, pfn, what, True)
    move = start(app, call, base, N)
    for event in move:
        if event.at == "waits":
            assert event.wait == (what, pfn)
            return machine, move, pfn
    raise AssertionError("it never waits")


def stops(move: pm.Migration) -> list[object]:
    """The stops up to the end, and the result."""
    said: list[object] = []
    for event in move:
        said.append([event.at, event.source.tolist(), event.target.tolist(), *event[3:]])
    return [*said, outcome(move)]


def outcome(move: pm.Migration) -> str:
    try:
        return repr(move.result)
    except pm.SyscallError as error:
        return repr(error)


@pytest.mark.parametrize("what", BITS)
@pytest.mark.parametrize(("kernel", "call"), CALLS)
def test_a_copy_waits_and_goes_on_as_the_original(kernel: str, call: str, what: str) -> None:
    for kind in ("", "tmpfs", "ext4"):
        machine, move, pfn = waiting(kernel, call, what, kind)
        other = machine.copy()
        [its] = other.migrations
        for one, its_own in ((machine, move), (other, its)):
            event = its_own.step()  # not over yet
            assert event is not None and event.wait == (what, pfn)
            mark(one, pfn, what, False)
        assert seen(other) == seen(machine)
        assert stops(its) == stops(move)
        assert seen(other) == seen(machine)
        other.check(full=True)
        machine.check(full=True)


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("what", BITS)
@pytest.mark.parametrize(("kernel", "call"), CALLS)
def test_a_copy_that_waits_is_given_up_as_the_original(
    kernel: str, call: str, what: str, over: bool
) -> None:
    """Also when the wait is over by then, and nobody has looked yet."""
    machine, move, pfn = waiting(kernel, call, what, "")
    other = machine.copy()
    [its] = other.migrations
    for one, its_own in ((machine, move), (other, its)):
        if over:
            mark(one, pfn, what, False)
        its_own.abort()
        if not over:
            mark(one, pfn, what, False)
    assert outcome(its) == outcome(move)
    assert seen(other) == seen(machine)
    other.check(full=True)
    machine.check(full=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("kernel", HOLDERS)
def test_one_that_waits_for_mmap_lock_is_given_up_as_the_original(
    kernel: str, over: bool, way: str, tmp_path: Path
) -> None:
    machine = four_nodes(kernel, page_bytes=8)
    app = machine.spawn()
    base = mapped(app, 2 * N)
    holder = start(app, "mbind", base, N)
    event = holder.step()
    move = start(app, "move_pages", base + N * PAGE, N)
    first = move.step()
    assert event is not None and first is not None and first.wait[0] == "address space"
    other = WAYS[way](machine, tmp_path)
    for one in (machine, other):
        hold, wait = machine.migrations if one is machine else other.migrations
        if over:
            hold.finish()
        wait.abort()
        hold.abort()
        assert outcome(wait) == outcome(move)
    assert seen(other) == seen(machine)
    other.check(full=True)
    machine.check(full=True)


# ---- a page that is evicted ------------------------------------------------------


@pytest.mark.parametrize("what", BITS)
@pytest.mark.parametrize("end", ["goes on", "is given up"])
def test_a_migration_of_2006_waits_for_a_page_that_it_evicts(what: str, end: str) -> None:
    """2.6.17 swaps out what has buffers that its file system keeps, as a last resort."""
    machine = four_nodes("2.6.17", page_bytes=8)
    app = machine.spawn()
    file = machine.file("minix", N * PAGE)
    mapped(app, N, file=file, shared=True)
    file.buffers_busy = True
    move = app.start_migrate_pages({0}, {1})
    for event in move:
        if event.at == "stage" and event.passes == 5:  # the first pass with that resort
            break
    [pfn] = event.source.tolist()
    assert event.target.tolist() == [0]
    mark(machine, pfn, what, True)
    event = move.step()
    assert event is not None and event.wait == (what, pfn)
    file.buffers_busy = False
    other = machine.copy()
    [its] = other.migrations
    for one in (machine, other):
        mark(one, pfn, what, False)
    if end == "goes on":
        assert stops(its) == stops(move)
        assert file.cached == N - 1  # evicted, while the others move in the next pass
    else:
        its.abort()
        move.abort()
        assert outcome(its) == outcome(move)
    assert seen(other) == seen(machine)
    other.check(full=True)
    machine.check(full=True)


# ---- a step or a finish that a signal interrupted ----------------------------------


@pytest.mark.parametrize("go_on", ["step", "finish"])
@pytest.mark.parametrize(
    ("kernel", "call"),
    [("6.1", "move_pages"), ("6.1", "migrate_pages"), ("6.12", "move_pages"), ("2.6.18", "mbind")],
)
def test_an_interrupted_step_is_saved_at_its_stop(
    kernel: str, call: str, go_on: str, tmp_path: Path
) -> None:
    pages = 3 << 18  # long enough for several looks for signals
    machine = pm.Machine(["6GiB", "6GiB"], kernel=kernel, page_bytes=8, swap=[])
    app = machine.spawn()
    base = app.mmap(pages * PAGE)
    app.touch(base, pages * PAGE, write=True, values=5)
    interrupted = 0
    for round_ in range(2):
        move = start(app, call, base, pages)
        with suppress(Stopped), ringing(first_page_changes(app, base)):
            while not move.done:
                getattr(move, go_on)()
        if not move.done:
            interrupted += 1
            other = machine.copy() if round_ % 2 else through_file(machine, tmp_path)
            [its] = other.migrations
            first, second = its.step(), move.step()
            assert repr(first) == repr(second)
            its.finish()
            move.finish()
            assert outcome(its) == outcome(move)
            assert seen(other) == seen(machine)
            if round_ == 1:
                other.check(full=True)
        assert (app.nodes(base, pages) == 1).all()
        app.migrate_pages({1}, {0})
        app.mbind(base, pages * PAGE, pm.Default())
    assert interrupted
    machine.check(full=True)
