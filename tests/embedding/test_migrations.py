"""Migrations that take the caller's time: the same answers, and what meets them half-way."""

import contextlib
import ctypes
import gc
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pagemig as pm
from pagemig import api
from pagemig.testing.poke import poke
from support.machines import PAGE, four_nodes, mapped

N = 100
MOVERS = [name for name, profile in pm.KERNELS.items() if "move_pages" in profile.calls]


def machine_with(kernel: str, width: int = 64) -> tuple[pm.Machine, pm.Process, int]:
    machine = four_nodes(kernel, page_bytes=8)
    machine.width = width
    app = machine.spawn()
    base = mapped(app, N, touched=False)
    app.touch(base, N * PAGE, write=True, values=np.arange(N, dtype=np.uint64))
    return machine, app, base


def addresses(base: int, n: int = N) -> npt.NDArray[np.uint64]:
    return base + np.arange(n, dtype=np.uint64) * np.uint64(PAGE)


def start(app: pm.Process, base: int) -> pm.Migration:
    """The pages to node 1, by the call that the kernel has for it."""
    if "move_pages" in app.machine.profile.calls:
        return app.start_move_pages(addresses(base), 1)
    return app.start_migrate_pages({0}, {1})


def until(move: pm.Migration, at: str) -> pm.MigrationEvent:
    for event in move:
        if event.at == at:
            return event
    raise AssertionError(f"the migration ended without {at}")


def whole(app: pm.Process, base: int) -> bool:
    return bool((app.touch(base, N * PAGE).values == np.arange(N)).all())


@pytest.fixture(params=list(pm.KERNELS))
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def moving(kernel: str) -> Iterator[tuple[pm.Machine, pm.Process, int, pm.Migration]]:
    """A migration whose first pages are behind migration entries."""
    machine, app, base = machine_with(kernel)
    move = start(app, base)
    until(move, "unmapped")
    machine.check(full=True)
    yield machine, app, base, move
    move.abort()
    machine.check(full=True)


# ---- the same answers -------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 7, 64])
def test_a_migration_in_steps_is_the_call(kernel: str, width: int) -> None:
    machine, app, base = machine_with(kernel, width)
    other, its, there = machine_with(kernel, width)
    stages = []
    move = start(app, base)
    for event in move:
        machine.check(full=True)
        stages.append((event.at, len(event.source)))
    if "move_pages" in machine.profile.calls:
        answer = its.move_pages(addresses(there), 1)
        assert move.result.rc == answer.rc
        assert move.result.status.tolist() == answer.status.tolist()
    else:
        assert move.result == its.migrate_pages({0}, {1}) == 0
    for name in ("unmapped", "stage"):
        assert sum(n for at, n in stages if at == name) == N
    modelled = [name for name in machine.counters if not name.startswith("host_")]
    assert {k: machine.counters[k] for k in modelled} == {k: other.counters[k] for k in modelled}
    assert app.nodes(base, N).tolist() == [1] * N
    assert app.pagemap(base, N).tolist() == its.pagemap(there, N).tolist()
    assert whole(app, base)
    machine.check(full=True)


def test_a_batch_is_flushed_once_and_pages_alone_each(kernel: str) -> None:
    machine, app, base = machine_with(kernel)
    before = machine.counters["tlb_flush"]
    events = [event for event in start(app, base) if event.at == "unmapped"]
    assert sum(event.flushes for event in events) == machine.counters["tlb_flush"] - before
    assert sum(event.copy_bytes for event in events) == N * PAGE
    assert {event.node for event in events} == {1}


def test_mbind_and_frames_in_steps() -> None:
    for kernel in MOVERS:
        machine, app, base = machine_with(kernel)
        bound = app.start_mbind(base, N * PAGE, pm.Bind([2]))
        stops = [event.at for event in bound]
        assert stops[0] == "unmapped"
        assert bound.result is None
        assert app.nodes(base, N).tolist() == [2] * N
        frames = machine.start_migrate_frames(app.frames(base, N), [3] * N)
        assert len(list(frames)) > 2
        assert frames.result.rc == 0
        assert frames.result.status.tolist() == app.nodes(base, N).tolist() == [3] * N
        assert whole(app, base)
        machine.check(full=True)


def test_errors_are_those_of_the_call(kernel: str) -> None:
    machine, app, base = machine_with(kernel)
    if "move_pages" in machine.profile.calls:
        for arguments in (([base], [77]), ([base], [1], 99), (pm.BAD, [1])):
            moved = app.start_move_pages(*arguments)
            assert list(moved) == []
            with pytest.raises(pm.SyscallError) as said:
                _ = moved.result
            with pytest.raises(pm.SyscallError) as meant:
                app.move_pages(*arguments)
            assert str(said.value) == str(meant.value)
            notes = [getattr(error.value, "__notes__", []) for error in (said, meant)]
            assert notes[0] == notes[1]
    move = app.start_migrate_pages({0}, {1}, pid=99999)
    with pytest.raises(pm.SyscallError, match="ESRCH"):
        move.finish()
    app.exit()
    with pytest.raises(pm.ProcessGoneError):
        app.start_migrate_pages({0}, {1})
    machine.check(full=True)


# ---- what happens between two steps -----------------------------------------------------------

Moving = tuple[pm.Machine, pm.Process, int, pm.Migration]


def test_an_access_waits_for_the_frame(moving: Moving) -> None:
    machine, app, base, move = moving
    if machine.profile.engine:
        pytest.skip(
            "swap entries: a fault finds the page in the swap cache, and waits for its lock"
        )
    before = machine.counters["migration_wait"]
    with app.context() as context:
        for _ in range(1000):  # a host that polls waits once
            assert context.access(base, write=True) == 3
        what, frame = context.waits_for
        assert what == 1
        assert machine.frames.describe(frame).count("locked") == 1
        until(move, "stage")
        assert context.access(base, write=True) in (0, 1)
        assert context.node == 1
    assert machine.counters["migration_wait"] - before == 1
    assert [e.at for e in move][-1] == "stage"
    assert whole(app, base)


def test_a_call_that_would_wait_for_ever_says_so(moving: Moving) -> None:
    _, app, base, move = moving
    with pytest.raises(RuntimeError, match="waits for a migration that is under way"):
        app.touch(base, PAGE, write=True)
    move.finish()
    assert whole(app, base)


def held_over_steps(machine: pm.Machine) -> bool:
    """Whether the call that `start` takes keeps mmap_lock, so that what changes mappings waits."""
    return machine.profile.swap  # of 2006: today's move_pages lets go of it before it migrates


def test_fork_copies_the_entries(moving: Moving) -> None:
    machine, app, base, move = moving
    if held_over_steps(machine):
        with app.context() as context:
            assert api.functions.fork(context.address) == -512  # PMG_WAIT: nothing changed
        until(move, "stage")
        move.finish()
    child = app.fork()
    machine.check(full=True)
    move.finish()
    machine.check(full=True)
    assert whole(app, base) and whole(child, base)
    assert child.nodes(base, N).tolist() == app.nodes(base, N).tolist() == [1] * N


def test_munmap_drops_the_entries(moving: Moving) -> None:
    machine, app, base, move = moving
    if held_over_steps(machine):
        with app.context(cpu=0) as context:
            rc = api.functions.munmap(context.address, base, N * PAGE)
            assert rc == -512  # PMG_WAIT: nothing changed
        move.finish()
        return
    app.munmap(base, N * PAGE)
    machine.check(full=True)
    move.finish()
    machine.check(full=True)
    free = sum(machine.free(nid) for nid in machine.memory_nodes)
    app.exit()
    assert sum(machine.free(nid) for nid in machine.memory_nodes) >= free


def test_a_family_exits_in_the_middle(kernel: str) -> None:
    """A migration keeps the anon_vma of its pages, but not the parent of that."""
    machine, app, base = machine_with(kernel)
    child = app.fork()
    grandchild = child.fork()
    grandchild.touch(base, N * PAGE, write=True)
    move = machine.start_migrate_frames(grandchild.frames(base, N), np.ones(N, np.int32))
    until(move, "unmapped")
    grandchild.exit()
    machine.check(full=True)
    child.exit()
    machine.check(full=True)
    app.fork()
    machine.check(full=True)
    move.finish()
    machine.check(full=True)


def test_exit_in_the_middle(kernel: str) -> None:
    machine, app, _ = machine_with(kernel)
    root = machine.spawn()
    before = sum(machine.free(nid) for nid in machine.memory_nodes)
    move = root.start_migrate_pages({0}, {1}, pid=app)
    until(move, "unmapped")
    app.exit()
    machine.check(full=True)
    move.finish()
    machine.check(full=True)
    assert sum(machine.free(nid) for nid in machine.memory_nodes) >= before + N * PAGE


@pytest.mark.parametrize("field", ["migs_running", "evicting"])
def test_no_call_of_another_machine_runs_in_a_loaded_one(field: str, tmp_path: Path) -> None:
    """A file that says otherwise would make the last user of pages wait for it, or for nothing."""
    machine = four_nodes("6.1", page_bytes=8)
    poke(machine, "machine", 0, field, 3)
    machine.save(tmp_path / "saved")
    for other in (pm.Machine.load(tmp_path / "saved"), machine.copy()):
        assert poke(other, "machine", 0, field) == 0
    poke(machine, "machine", 0, field, 0)


@pytest.mark.threads
@pytest.mark.parametrize("kernel", ["6.1", "6.12", "pmig"])
def test_the_last_user_of_pages_waits_for_a_call_that_has_them(kernel: str) -> None:
    """Beside a migration that stands, too: the call of another thread runs on."""
    machine = four_nodes(kernel, page_bytes=8)
    bystander, app = machine.spawn(), machine.spawn()
    mapped(bystander, 4)
    standing = bystander.start_migrate_pages({0}, {1})
    base = mapped(app, 8, shared=True)
    frames = app.frames(base, 8)
    exits = threading.Thread(target=app.exit)
    waited: list[bool] = []

    def hook(step: str, _: object) -> None:
        if step == "copy" and not waited:
            contended = machine.counters["host_page_contended"]
            exits.start()
            while exits.is_alive() and machine.counters["host_page_contended"] == contended:
                time.sleep(0.001)
            exits.join(0.1)  # far longer than an exit that does not wait
            waited.append(exits.is_alive())

    machine.at_step(hook)
    machine.migrate_frames(frames, np.ones(8, np.int32))
    machine.at_step(None)
    exits.join()
    assert waited == [True]
    standing.abort()
    machine.check(full=True)


@pytest.mark.threads
@pytest.mark.parametrize("kernel", ["2.6.17", "2.6.17-mm"])
def test_files_go_while_threads_move_their_pages_beside_a_migration_that_stands(
    kernel: str,
) -> None:
    """The last user takes the lock of each page that a running call may have."""
    machine = four_nodes(kernel, page_bytes=8)
    bystander = machine.spawn()
    mapped(bystander, 4)
    standing = bystander.start_migrate_pages({0}, {1})
    free = [machine.free(node) for node in range(4)]
    present: list[npt.NDArray[np.uint32]] = [np.empty(0, np.uint32)]
    over = threading.Event()

    def move(node: int) -> None:
        while not over.is_set():
            pages = present[0]
            machine.migrate_frames(pages, np.full(len(pages), node, np.int32))

    movers = [threading.Thread(target=move, args=(node,)) for node in (0, 1)]
    for mover in movers:
        mover.start()
    try:
        for life in range(300):
            app = machine.spawn()
            file = machine.file("minix", 64 * PAGE)
            base = app.mmap(64 * PAGE, file=file, shared=True)
            app.touch(base, 64 * PAGE, write=True)
            frames = app.frames(base, 64)
            present[0] = frames[frames >= 0].astype(np.uint32)
            time.sleep(0.001 * (life % 3))
            app.exit()
            file.close()
    finally:
        over.set()
        for mover in movers:
            mover.join()
    standing.abort()
    machine.check(full=True)
    assert [machine.free(node) for node in range(4)] == free


@pytest.mark.parametrize("end", ["exit", "drop", "finish", "abort"])
def test_memory_that_nobody_else_has_goes_while_its_pages_move(kernel: str, end: str) -> None:
    """Shared memory goes with the last who has its address space, which cannot wait for a page."""
    machine = four_nodes(kernel, page_bytes=8)
    app = machine.spawn()
    before = sum(machine.free(nid) for nid in machine.memory_nodes)
    base = app.mmap(N * PAGE, shared=True)
    app.touch(base, N * PAGE, write=True)
    move = machine.start_migrate_frames(app.frames(base, N), [1] * N)
    until(move, "unmapped")
    last = [] if end == "exit" else [app.start_migrate_pages({2}, {3})]  # nothing is there
    app.exit()
    machine.check(full=True)
    if end in ("finish", "abort"):
        with contextlib.suppress(pm.SyscallError):  # its process is gone
            getattr(last[0], end)()
    last.clear()
    gc.collect()
    machine.check(full=True)
    move.finish()
    machine.check(full=True)
    assert sum(machine.free(nid) for nid in machine.memory_nodes) >= before


def test_the_caller_exits_in_the_middle(moving: Moving) -> None:
    machine, app, _, move = moving
    app.exit()
    machine.check(full=True)
    while not move.done:
        move.step()
    machine.check(full=True)


def test_a_second_migration_finds_the_pages_busy() -> None:
    for kernel in MOVERS:
        machine, app, base = machine_with(kernel)
        root = machine.spawn()
        first = app.start_move_pages(addresses(base), 1)
        unmapped = until(first, "unmapped")
        n = len(unmapped.source)
        # A migration entry is no page; one that waits on the list of the first is not on the LRU.
        try:
            status = root.move_pages(addresses(base), 2, pid=app).status
            assert set(status[:n].tolist()) <= {-2, -14, -16}
            assert (status < 0).all()
        except pm.SyscallError as error:
            assert machine.profile.nothing_enoent and error.name == "ENOENT"
        first.finish()
        assert app.nodes(base, N).tolist() == [1] * N
        assert whole(app, base)
        machine.check(full=True)


def test_one_that_only_asks_waits_beside_one_that_moves() -> None:
    """What each of them has is known while the other waits, also of the copy."""
    machine, app, base = machine_with("6.1")  # whose mbind moves pages under mmap_lock
    bound = app.start_mbind(base, N * PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE)
    until(bound, "unmapped")
    asked = app.start_move_pages(addresses(base), pm.NULL)
    held = until(asked, "waits")
    assert held.wait[0] == "address space"
    machine.check(full=True)
    other = machine.copy()
    other.check(full=True)
    for its in (machine, other):
        for move in its.migrations:
            move.finish()
        assert its.processes[-1].nodes(base, N).tolist() == [1] * N
        its.check(full=True)
    assert asked.result.status.tolist() == [1] * N


def test_many_at_once_by_turns(kernel: str) -> None:
    machine = four_nodes(kernel, page_bytes=8)
    machine.width = 5
    root = machine.spawn()
    apps = [machine.spawn() for _ in range(40)]
    bases = []
    for app in apps:
        bases.append(base := mapped(app, 20, touched=False))
        app.touch(base, 20 * PAGE, write=True, values=np.arange(20, dtype=np.uint64))
    moves = [root.start_migrate_pages({0}, {1 + k % 3}, pid=app) for k, app in enumerate(apps)]
    draw = random.Random(1)
    alive = list(moves)
    while alive:
        move = draw.choice(alive)
        if move.step() is None:
            alive.remove(move)
    assert [move.result for move in moves] == [0] * len(moves)
    for k, (app, base) in enumerate(zip(apps, bases, strict=True)):
        assert app.nodes(base, 20).tolist() == [1 + k % 3] * 20
        assert app.touch(base, 20 * PAGE).values.tolist() == list(range(20))
    machine.check(full=True)


def test_repr_waits_for_nothing() -> None:
    """Not for mmap_lock, which an mbind of 6.1 holds over its steps."""
    _, app, base = machine_with("6.1")
    before = repr(app)
    with app.start_mbind(base, N * PAGE, pm.Bind([2]), pm.MPOL_MF_MOVE) as move:
        until(move, "unmapped")
        assert repr(app) == before


def test_a_parked_call_goes_on_with_its_own_arguments_only() -> None:
    machine, app, base = machine_with("6.1")
    move = app.start_mbind(base, N * PAGE, pm.Bind([2]), pm.MPOL_MF_MOVE)
    until(move, "unmapped")
    f = api.functions
    with app.context() as context:
        c = context.address
        assert f.mprotect(c, base, PAGE, 1) == -512  # PMG_WAIT: mmap_lock is taken
        assert f.mprotect(c, base, 2 * PAGE, 1) == -601  # PMG_EBUSYCTX: that is another call
        assert f.mprotect(c, base, PAGE, 3) == -601
        assert f.munmap(c, base, PAGE) == -601
        assert f.exit(c) == -601
        assert f.fork(c) == -601
        out = api.Outcome()
        assert f.access(c, base, 0, ctypes.byref(out)) == -601
        assert f.translate(c, base, ctypes.byref(out)) == 3  # looking is no call
        move.finish()
        assert f.mprotect(c, base, PAGE, 1) == 0
        assert f.exit(c) == 0
    machine.check(full=True)


def test_arguments_of_a_parked_move_pages_are_compared() -> None:
    machine, app, base = machine_with("6.1")
    move = app.start_mbind(base, N * PAGE, pm.Bind([2]), pm.MPOL_MF_MOVE)
    until(move, "unmapped")
    pages, nodes, status = addresses(base, 4), np.ones(4, np.int32), np.zeros(4, np.int32)
    with app.context() as context:
        users = [ctypes.byref(user(array)) for array in (pages, nodes, status)]

        def call(flags: int = 2) -> int:
            return int(api.functions.move_pages(context.address, 0, 4, *users, flags, None))

        assert call() == -512
        pages[2] += PAGE
        assert call() == -601
        pages[2] -= PAGE
        nodes[0] = 3
        assert call() == -601
        nodes[0] = 1
        assert call(4) == -601
        assert call() == -512
        move.finish()
        assert call() == 0
        assert status.tolist() == [1] * 4
    machine.check(full=True)


def test_calls_of_any_length_follow_each_other() -> None:
    """A call copies its arguments to the memory of the one before, shorter or longer."""
    machine, app, base = machine_with("6.1")
    for to, n in enumerate((3, N, 50, 1, N), start=1):
        nodes = np.arange(n) % 2 + to % 3  # every other page to the next node
        move = app.start_move_pages(addresses(base, n), nodes.astype(np.int32))
        move.finish()
        assert move.result.status.tolist() == nodes.tolist()
        assert app.nodes(base, n).tolist() == nodes.tolist()
    assert whole(app, base)
    machine.check(full=True)


def test_pages_put_back_are_listed() -> None:
    """A page with an unexplained reference does not move; a call that waits for it goes on."""
    machine, app, base = machine_with("6.1")
    app.pin(base + 3 * PAGE, PAGE)
    [held] = app.frames(base + 3 * PAGE, 1).tolist()
    stages = [event for event in app.start_move_pages(addresses(base), 1) if event.at == "stage"]
    back = [int(event.source[i]) for event in stages for i in np.flatnonzero(event.target == 0)]
    assert set(back) == {held}
    assert len(back) > 1  # in each pass that locked it
    assert sum(int((event.target != 0).sum()) for event in stages) == N - 1
    machine.check(full=True)


@pytest.mark.parametrize("kernel", MOVERS)
def test_an_aborted_mbind_is_interrupted(kernel: str) -> None:
    machine, app, base = machine_with(kernel)
    move = app.start_mbind(base, N * PAGE, pm.Bind([2]), pm.MPOL_MF_MOVE | pm.MPOL_MF_STRICT)
    until(move, "unmapped")
    move.abort()
    with pytest.raises(pm.SyscallError, match="EINTR"):
        _ = move.result
    assert whole(app, base)
    machine.check(full=True)


def test_wrong_pointers_are_answered() -> None:
    machine, app, base = machine_with("6.1")
    f = api.functions
    handle = ctypes.c_uint64()
    pages = addresses(base, 1)
    with app.context() as context:
        c = context.address
        assert f.mig_frames(c, None, None, 1, ctypes.byref(handle)) == -14
        assert f.migrate_frames(c, None, None, 1, None) == -14
        assert f.mig_move_pages(c, 0, 1, None, None, None, 2, ctypes.byref(handle)) == 0
        event = api.MigEvent(size=ctypes.sizeof(api.MigEvent))
        assert f.mig_step(c, handle.value, None) == -14
        assert f.mig_step(c, handle.value, ctypes.byref(event)) == 6
        assert f.mig_end(c, handle.value, 0, None, 0, None) == -14
        assert f.mig_move_pages(c, 0, 1, ctypes.byref(user(pages)), None, None, 2, None) == -14
        assert f.access(c, base, 0, None) == -14
        assert f.access_many(c, None, None, 3, None, None, None) == -14
        assert f.walk(c, base, None) == f.translate(c, base, None) == f.cost_take(c, None) == -14
    assert f.machine_new(None, None) == f.machine_info(None, None) == -14
    assert f.ctx_open(api.machine(machine), 0, 0, 1, None) == -14
    machine.check(full=True)


# ---- abort --------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(12))
def test_abort_puts_back_what_has_not_moved(kernel: str, steps: int) -> None:
    machine, app, base = machine_with(kernel, width=16)
    free = [machine.free(nid) for nid in range(4)]
    move = start(app, base)
    for _ in range(steps):
        move.step()
    move.abort()
    machine.check(full=True)
    assert whole(app, base)  # and swap entries are found again
    nodes = app.nodes(base, N)
    assert set(nodes.tolist()) <= {0, 1}
    if not machine.profile.swap:
        moved = int((nodes == 1).sum())
        assert machine.free(1) == free[1] - moved * PAGE
    if move.done and (nodes == 0).any():
        with pytest.raises(pm.SyscallError, match="EINTR"):
            _ = move.result
    # And it can be moved again, all of it.
    start(app, base).finish()
    assert app.nodes(base, N).tolist() == [1] * N
    machine.check(full=True)


def test_a_migration_that_is_dropped_is_aborted() -> None:
    machine, app, base = machine_with("6.1")
    until(app.start_move_pages(addresses(base), 1), "unmapped")
    machine.check(full=True)
    assert whole(app, base)
    with app.start_move_pages(addresses(base), 2) as move:
        until(move, "copied")
    assert whole(app, base)
    machine.check(full=True)
    machine.copy().check(full=True)


def test_no_more_steps_than_there_are() -> None:
    _, app, base = machine_with("6.1")
    move = app.start_move_pages(addresses(base), 1)
    with pytest.raises(RuntimeError, match="under way"):
        _ = move.result
    assert len(list(move)) > 3
    assert move.step() is None and list(move) == []
    move.abort()
    assert move.result.rc == 0
    assert "done" in repr(move)


def test_a_migration_that_never_began_does_nothing() -> None:
    machine, app, base = machine_with("6.1")
    before = machine.counters
    app.start_mbind(base, N * PAGE, pm.Bind([2])).abort()
    move = app.start_move_pages(addresses(base), 1)
    move.abort()
    with pytest.raises(pm.SyscallError, match="EINTR"):
        _ = move.result
    assert machine.counters == before
    assert app.get_mempolicy(pm.MPOL_F_ADDR, base).policy == pm.Default()
    machine.check(full=True)


def test_contexts_and_migrations_in_cycles_are_collected_before_their_machine() -> None:
    machine, app, base = machine_with("6.1")
    move = app.start_move_pages(addresses(base), 1)
    move.step()
    cycle: list[Any] = [app.context(), move._flight]
    cycle.append(cycle)
    del machine, app, move, cycle
    gc.collect()


# ---- the table ----------------------------------------------------------------------------------


def context_of(app: pm.Process) -> Any:
    return app.context(owns_time=True)


def user(array: npt.NDArray[Any]) -> Any:
    return api.User(p=array.ctypes.data, bytes=array.nbytes)


def test_a_call_through_the_table_keeps_its_place_while_it_waits() -> None:
    """6.1 waits for a page lock from its fourth pass on: the call answers PMG_WAIT, and goes on."""
    machine, app, base = machine_with("6.1")
    root = machine.spawn()
    first = app.start_move_pages(addresses(base, 1), 1)
    until(first, "unmapped")
    file = machine.file("tmpfs", PAGE)
    shared = app.mmap(PAGE, file=file, shared=True)
    app.touch(shared, PAGE, write=True)
    with app.context(cpu=0) as other, root.context() as context:
        lock = machine.start_migrate_frames(app.frames(shared, 1), [1])
        until(lock, "unmapped")
        pages, nodes = np.array([base], np.uint64), np.array([2], np.int32)
        status = np.full(1, 77, np.int32)
        call = (
            context.address,
            app.pid,
            1,
            ctypes.byref(user(pages)),
            ctypes.byref(user(nodes)),
            ctypes.byref(user(status)),
            pm.MPOL_MF_MOVE,
            None,
        )
        assert api.functions.move_pages(*call) == 0
        assert status[0] == -2  # the entry of the first migration is no page
        lock.finish()
        first.finish()
        assert api.functions.move_pages(*call) == 0
        assert status[0] == 2
        assert other.access(base) in (0, 1) and other.node == 2
    machine.check(full=True)


def test_handles_of_migrations_that_are_over() -> None:
    machine, app, base = machine_with("6.1")
    with context_of(app) as context:
        pages, nodes = addresses(base), np.ones(N, np.int32)
        status = np.zeros(N, np.int32)
        handle = ctypes.c_uint64()
        event = api.MigEvent(size=ctypes.sizeof(api.MigEvent))
        f = api.functions
        assert f.mig_step(context.address, 0, ctypes.byref(event)) == -3
        assert f.mig_end(context.address, 5 << 32 | 1, 0, None, 0, None) == -3
        rc = f.mig_move_pages(
            context.address,
            0,
            N,
            ctypes.byref(user(pages)),
            ctypes.byref(user(nodes)),
            ctypes.byref(user(status)),
            2,
            ctypes.byref(handle),
        )
        assert rc == 0
        pages[:] = nodes[:] = 0  # the arguments were copied
        assert f.mig_step(context.address, handle.value, ctypes.byref(event)) == 1
        assert (event.at, event.n, event.node) == (1, 64, 1)
        assert f.mig_end(context.address, handle.value, 0, status.ctypes.data, N, None) == 0
        assert status.tolist() == [1] * N
        assert f.mig_end(context.address, handle.value, 0, None, 0, None) == -3
        bad = np.array([1 << 30], np.uint32)
        # A file that is none: EBADF, in the place of the number that a program would pass.
        assert f.mmap(context.address, 0, PAGE, 3, 2, 99, 0) == -9
        assert f.migrate_frames(context.address, bad.ctypes.data, nodes.ctypes.data, 1, None) == -22
    machine.check(full=True)
