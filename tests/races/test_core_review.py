"""States that recordings cannot show: between the steps of a call, where threads meet."""

import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest

import pagemig as pm
from pagemig.testing.poke import poke
from support.machines import four_nodes


def test_target_cannot_be_isolated_before_it_is_published() -> None:
    """Any thread can find a target by its number and isolate it; no reference may be lost."""
    machine = pm.Machine([pm.Node("1MiB", cpus=1), "1MiB"])
    app = machine.spawn()
    base = app.mmap(8 * 4096)
    app.touch(base, 8 * 4096, write=True)
    targets = np.arange(256, 512)
    met: list[int] = []

    def isolate_targets(step: str, _: list[int]) -> None:
        if step in ("freeze", "copy"):
            machine.at_step(None)
            in_use = targets[machine.frames.refcount[256:] > 0]
            result = machine.migrate_frames(in_use, np.zeros(len(in_use), np.int32))
            met.extend(result.status.tolist())

    machine.at_step(isolate_targets)
    app.move_pages(base + 4096 * np.arange(8, dtype=np.uint64), 1)
    assert met == [-16] * 8
    machine.check(full=True)


@pytest.mark.parametrize("kernel", list(pm.KERNELS))
@pytest.mark.parametrize("writer", [0, 1])
def test_a_page_forked_on_its_way_back_is_copied_on_write(kernel: str, writer: int) -> None:
    """A fork between unmap and a failed freeze: the page is exclusive to neither afterwards.

    Write entries become read in parent and child (section 1.6 of the kernel tables), and a read
    entry is restored read-only and not exclusive.  The first process that writes gets a copy; the
    other reads the old content.
    """
    machine = four_nodes(kernel, page_bytes=8)
    app = machine.spawn()
    base = app.mmap(4096)
    app.touch(base, 4096, write=True, values=7)
    pfn = int(machine.frames.mapcount.argmax())
    family: list[pm.Process] = [app]

    def fork(step: str, _: list[int]) -> None:
        if step == "unmap":
            machine.at_step(None)
            family.append(app.fork())

    app.pin(base, 4096)
    machine.at_step(fork)
    assert machine.migrate_frames([pfn], [1]).status.tolist() != [1]
    assert machine.frames.mapcount[pfn] == 2
    machine.check(full=True)
    family[writer].touch(base, 4096, write=True, values=8)
    read = [int(process.touch(base, 4096).values[0]) for process in family]
    assert read == [[8, 7], [7, 8]][writer]
    machine.check(full=True)


@pytest.mark.parametrize("kernel", [name for name, k in pm.KERNELS.items() if k.swap])
@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_a_page_that_cannot_be_written_out_is_only_unmapped(kernel: str, kind: str) -> None:
    """Reclaim unmaps a page before it looks where to write it; a fault finds it again."""
    machine = four_nodes(kernel, page_bytes=8)
    app = machine.spawn()
    base = app.mmap(4096, shared=True, file=machine.file(kind, 4096))
    app.touch(base, 4096, write=True, values=7)
    pfn = int(machine.frames.mapcount.argmax())
    assert machine.swap_out([pfn]) == 0
    machine.check(full=True)
    assert machine.frames.mapcount[pfn] == 0
    assert app.pagemap(base, 1)[0] == 0
    touched = app.touch(base, 4096)
    assert (touched.minflt, touched.values.tolist()) == (1, [7])
    assert machine.frames.mapcount[pfn] == 1


@pytest.mark.parametrize("kernel", ["6.1", "2.6.18-ia64", "pmig"])
def test_a_page_that_is_locked_takes_no_neighbour_along(kernel: str) -> None:
    """Pages that are passed over are no part of a group, whatever was in their place before."""
    machine = pm.Machine([pm.Node("1MiB", cpus=1), "1MiB"], kernel=kernel)
    machine.width = 4
    app = machine.spawn()
    base = app.mmap(8 * 4096)
    app.touch(base, 8 * 4096, write=True)
    pfns = app.frames(base, 8).tolist()
    held = pfns[4]  # the first of the second stage
    state = poke(machine, "frame", held, "state")
    poke(machine, "frame", held, "state", state | 1)
    tried: list[int] = []

    def attempt(_: str, stage: list[int]) -> None:
        tried.extend(stage)
        if tried.count(held) == 3 and poke(machine, "frame", held, "state") & 1:
            poke(machine, "frame", held, "state", poke(machine, "frame", held, "state") & ~1)

    machine.at_step(attempt, step=pm.STEP_ALLOC)
    assert app.migrate_pages({0}, {1}) == 0
    machine.at_step(None)
    assert [tried.count(pfn) for pfn in pfns] == [1, 1, 1, 1, 3, 1, 1, 1]
    machine.check(full=True)


def test_a_hook_may_take_itself_away() -> None:
    machine = pm.Machine(["1MiB", "1MiB"])
    app = machine.spawn()
    base = app.mmap(4096)
    app.touch(base, 4096, write=True)
    steps: list[str] = []

    def once(step: str, _: list[int]) -> None:
        steps.append(step)
        machine.at_step(None)

    machine.at_step(once)
    assert app.move_pages([base], 1).status.tolist() == [1]
    assert steps == ["isolate"]


def _meet(*calls: Callable[[], object]) -> None:
    """Run calls at once; the process may be gone for those that come late."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        barrier.wait()
        with suppress(pm.SyscallError, pm.ProcessGoneError):
            call()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.threads
@pytest.mark.parametrize(
    "call", ["touch", "access", "mmap", "vmas", "pagemap", "mbind", "fork", "pin"]
)
def test_exit_during_another_call_of_the_process(call: str) -> None:
    """The address space stays until the last call is done, and what the calls made goes with it."""
    machine = pm.Machine([pm.Node("16MiB", cpus=2), "16MiB"], access_stats=True)
    for _ in range(30):
        app = machine.spawn()
        base = app.mmap(1 << 20)
        pages = base + 4096 * np.arange(256, dtype=np.uint64)
        calls: dict[str, Callable[[], object]] = {
            "touch": lambda app=app, base=base: app.touch(base, 1 << 20, write=True),
            "access": lambda app=app, pages=pages: app.access(pages, write=True, deferred=True),
            "mmap": lambda app=app: [app.mmap(4096, prot="r" * (i & 1)) for i in range(200)],
            "vmas": lambda app=app: [app.vmas() for _ in range(20)],
            "pagemap": lambda app=app, base=base: [app.pagemap(base, 256) for _ in range(20)],
            "mbind": lambda app=app, base=base: app.mbind(
                base, 1 << 19, pm.Interleave([0, 1]), pm.MPOL_MF_MOVE
            ),
            "fork": lambda app=app: app.fork().exit(),
            "pin": lambda app=app, base=base: [
                app.unpin(app.pin(base, 1 << 16)) for _ in range(20)
            ],
        }
        app.touch(base, 1 << 19, write=True)
        _meet(calls[call], app.exit)
        assert not app.alive
        machine.check(full=True)


@pytest.mark.threads
def test_threads_of_a_process_pin_and_unpin_at_once() -> None:
    machine = pm.Machine([pm.Node("4MiB", cpus=2)])
    app = machine.spawn()
    base = app.mmap(1 << 16)

    def pin_and_unpin() -> None:
        for _ in range(2000):
            app.unpin(app.pin(base, 4096))

    _meet(pin_and_unpin, pin_and_unpin)
    machine.check(full=True)
    assert machine.frames.refcount[app.frames(base, 1)[0]] == 1


@pytest.mark.threads
def test_two_threads_killed_at_once_exit_once() -> None:
    """Memory runs out under both: each gets SIGKILL, the process becomes a zombie once."""
    for _ in range(20):
        machine = pm.Machine([pm.Node("1MiB", cpus=2)])
        app = machine.spawn()
        base = app.mmap(4 << 20)
        _meet(
            lambda app=app, base=base: app.touch(base, 1 << 20, write=True),
            lambda app=app, base=base: app.touch(base + (2 << 20), 1 << 20, write=True),
        )
        machine.check(full=True)
        assert not app.alive
        assert machine.vmstat["oom_kill"] == 1
        app.reap()
        machine.check(full=True)


def test_read_ahead_ends_with_the_memory() -> None:
    """A disk file may be larger than the machine; asking for all of it takes what fits."""
    machine = pm.Machine([pm.Node("8MiB", cpus=1)])
    process = machine.spawn()
    file = machine.file("ext4", "1TiB")
    process.fadvise(file, 0, 0, "willneed")
    machine.check()


def test_pagemap_has_nothing_beyond_the_address_space() -> None:
    machine = pm.Machine([pm.Node("8MiB", cpus=1)])
    process = machine.spawn()
    base = process.mmap(4096)
    process.touch(base, 4096, write=True)
    assert process.pagemap(base, 1)[0] != 0
    assert len(process.pagemap(base + (1 << 48), 1)) == 0
    assert len(process.pagemap((1 << 47) - 2 * 4096, 5)) == 2
