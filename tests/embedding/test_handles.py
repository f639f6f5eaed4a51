"""Migrations in steps: with vm_ops, from a context without time, over, and stepped by several."""

import ctypes
import errno
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pagemig as pm
from embedding.test_saved_migrations import seen
from embedding.test_saved_waits import HOLDERS, outcome, start, stops
from pagemig import api
from pagemig.testing.actors import Actors
from support.machines import PAGE, at, four_nodes, mapped

N = 12
HOOKED = [kernel for kernel, profile in pm.KERNELS.items() if profile.vma_hooks]
ESRCH, EBUSYCTX, WAIT = -3, -601, -512
F = api.functions


# ---- vm_ops->migrate --------------------------------------------------------------


def two_mappings(kernel: str, hook: Any) -> pm.Process:
    """Pages 0-3 with an operation, 8-11 without."""
    app = four_nodes(kernel, page_bytes=8).spawn()
    for first in (0, 8):
        mapped(app, 4, first)
    app.set_vm_ops(at(0), migrate=hook)
    return app


@pytest.mark.parametrize("kernel", HOOKED)
def test_a_mapping_is_asked_in_the_first_step_before_a_page_moves(kernel: str) -> None:
    asked: list[object] = []

    def hook(vma: Any, old: Any, new: Any, flags: int) -> None:
        nodes = app.nodes(at(8), 4).tolist()
        asked.append((vma.start, old, new, flags, nodes, threading.get_ident()))

    app = two_mappings(kernel, hook)
    move = app.start_migrate_pages({0}, {1})
    assert not asked
    event = move.step()
    assert event is not None and event.at == "unmapped"
    here = threading.get_ident()
    assert asked == [(at(0), (0,), (1,), pm.MPOL_MF_MOVE_ALL, [0] * 4, here)]
    with pytest.raises(pm.StateError, match="unmap them first"):
        app.machine.copy()
    assert move.finish() == 0
    assert len(asked) == 1
    assert app.nodes(at(0), 4).tolist() == app.nodes(at(8), 4).tolist() == [1] * 4
    app.machine.check(full=True)


@pytest.mark.parametrize("kernel", HOOKED)
def test_its_error_ends_the_migration(kernel: str) -> None:
    app = two_mappings(kernel, lambda *_: -errno.EAGAIN)
    move = app.start_migrate_pages({0}, {1})
    assert list(move) == []
    with pytest.raises(pm.SyscallError, match="EAGAIN"):
        _ = move.result
    assert app.nodes(at(8), 4).tolist() == [0] * 4
    app.machine.check(full=True)


@pytest.mark.parametrize("kernel", HOOKED)
def test_what_else_it_raises_comes_out_of_the_step(kernel: str) -> None:
    def hook(*_: object) -> int:
        raise KeyError("mine")

    app = two_mappings(kernel, hook)
    move = app.start_migrate_pages({0}, {1})
    with pytest.raises(KeyError, match="mine"):
        list(move)
    move.abort()
    assert app.nodes(at(8), 4).tolist() == [0] * 4
    app.machine.check(full=True)
    app.set_vm_ops(at(0), migrate=None)
    assert app.start_migrate_pages({0}, {1}).finish() == 0
    app.machine.check(full=True)


@pytest.mark.parametrize("kernel", HOOKED)
def test_one_that_asks_can_step_another_migration(kernel: str) -> None:
    """The hook runs on the stack of the thread that steps, so it may do what that thread may."""
    other: list[pm.Migration] = []

    def hook(*_: object) -> None:
        move = app.machine.start_migrate_frames(app.frames(at(8), 2), [2, 2])
        event = move.step()
        assert event is not None and event.at == "unmapped"
        other.append(move)

    app = two_mappings(kernel, hook)
    move = app.start_migrate_pages({0}, {1})
    list(move)
    assert app.nodes(at(8), 4).tolist() == [-1, -1, 1, 1]
    other[0].finish()
    assert app.nodes(at(8), 4).tolist() == [2, 2, 1, 1]
    app.machine.check(full=True)


# ---- handles ------------------------------------------------------------------------


def user(array: npt.NDArray[Any]) -> Any:
    return ctypes.byref(api.User(p=array.ctypes.data, bytes=array.nbytes))


class Table:
    """A process of a machine, and its migrations through the table."""

    def __init__(self, kernel: str = "6.1", *, owns_time: bool = True) -> None:
        self.machine = four_nodes(kernel, page_bytes=8)
        self.app = self.machine.spawn()
        self.base = mapped(self.app, 2 * N)
        self.context = self.app.context(owns_time=owns_time)
        self.event = api.MigEvent(size=ctypes.sizeof(api.MigEvent))

    def begin(
        self, first: int = 0, n: int = N, starting: Callable[[], object] = lambda: None
    ) -> int:
        pages = self.base + (first + np.arange(n, dtype=np.uint64)) * np.uint64(PAGE)
        nodes, status, handle = np.ones(n, np.int32), np.zeros(n, np.int32), ctypes.c_uint64()
        arrays = user(pages), user(nodes), user(status)
        c = self.context.address
        starting()
        assert F.mig_move_pages(c, 0, n, *arrays, 2, ctypes.byref(handle)) == 0
        return handle.value

    def step(self, handle: int, context: Any = None) -> int:
        c = (context or self.context).address
        return int(F.mig_step(c, handle, ctypes.byref(self.event)))

    def end(self, handle: int, *, abort: int = 0) -> tuple[int, list[int]]:
        status = np.full(N, 77, np.int32)
        rc = F.mig_end(self.context.address, handle, abort, status.ctypes.data, N, None)
        return int(rc), status.tolist()

    def info(self, handle: int) -> int:
        info = api.MigInfo(size=ctypes.sizeof(api.MigInfo))
        return int(F.mig_info(api.machine(self.machine), handle, ctypes.byref(info)))


@pytest.mark.parametrize("kernel", HOLDERS)
def test_mig_end_answers_that_it_waits_in_any_context(kernel: str) -> None:
    """Otherwise a context without time of its own waits, but only the host can end this wait."""
    table = Table(kernel, owns_time=False)
    holder = start(table.app, "mbind", table.base, N)
    assert holder.step() is not None  # mmap_lock, held for writing
    handle = table.begin(first=N)
    assert table.end(handle) == (WAIT, [77] * N)
    what, which = ctypes.c_uint32(), ctypes.c_uint32()
    c = table.context.address
    assert F.ctx_wait(c, ctypes.byref(what), ctypes.byref(which)) == 0
    assert what.value == 2  # an address space
    assert table.info(handle) == 0  # it is still there
    holder.finish()
    assert F.ctx_wait(c, ctypes.byref(what), ctypes.byref(which)) == 1  # it may be over
    assert table.end(handle) == (0, [1] * N)
    assert table.end(handle) == (ESRCH, [77] * N)
    table.context.close()
    table.machine.check(full=True)


def test_a_handle_is_wrong_for_ever_once_its_migration_is_over() -> None:
    table = Table()
    over = []
    for first in (0, N):
        handle = table.begin(first)
        assert table.step(handle) == 1
        assert table.end(handle) == (0, [1] * N)
        over.append(handle)
    assert over[0] >> 32 == over[1] >> 32  # the same record
    new = table.begin()
    assert new not in over and new >> 32 == over[0] >> 32
    answers: list[object] = []

    def use() -> None:
        with table.app.context(owns_time=True) as context:
            for handle in [*over, new + 1, new - (1 << 32), 0, (1 << 64) - 1]:
                answers.append((table.step(handle, context), table.info(handle)))
                rc = F.mig_end(context.address, handle & (1 << 64) - 1, 1, None, 0, None)
                answers.append((rc, 0))

    use()
    elsewhere = threading.Thread(target=use)
    elsewhere.start()
    elsewhere.join()
    assert answers == [(ESRCH, ESRCH), (ESRCH, 0)] * 12
    assert table.step(new) == 6 and table.end(new) == (0, [1] * N)  # its pages are there
    table.context.close()
    table.machine.check(full=True)


@pytest.mark.threads
def test_threads_that_step_and_end_one_migration_after_another() -> None:
    """Each gets its turn, is told that another has it, or that it is over; each ends once."""
    table = Table("6.12")
    ended: list[int] = []
    answers: set[int] = set()
    told: set[int] = set()
    handles: list[int] = []
    lock = threading.Lock()
    rounds = 150

    def work(seed: int) -> None:
        draw = np.random.default_rng(seed)
        event = api.MigEvent(size=ctypes.sizeof(api.MigEvent))
        while len(ended) < rounds:
            with lock:
                if not handles and len(ended) < rounds:
                    handles.append(table.begin(int(draw.integers(N))))
                handle = handles[-1] if handles else 0
            with table.app.context(owns_time=True) as context:
                rc = F.mig_step(context.address, handle, ctypes.byref(event))
                answers.add(rc)
                told.add(table.info(handle))
                if rc == 6 or draw.random() < 0.1:
                    rc = F.mig_end(context.address, handle, int(draw.integers(2)), None, 0, None)
                    if rc not in (ESRCH, EBUSYCTX, WAIT):
                        with lock:
                            ended.append(handle)
                            handles.clear()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ended)) == len(ended) >= rounds
    assert answers <= {ESRCH, EBUSYCTX, *range(1, 7)}
    assert told <= {0, ESRCH}
    assert {table.info(handle) for handle in ended} == {ESRCH}
    for handle in handles:
        table.end(handle, abort=1)
    table.context.close()
    table.machine.check(full=True)


@pytest.mark.threads
def test_others_see_a_migration_with_all_its_arguments() -> None:
    """What is listed has the count of its start, also for those who look during the start.

    The arguments are so many that another thread looks while they are copied; the count of pages
    differs from one to the next.
    """
    table = Table("6.12")
    machine = api.machine(table.machine)
    over = threading.Event()
    starting = [0]  # the start that is under way
    met: set[int] = set()  # starts during which somebody has looked
    seen: set[tuple[int, ...]] = set()

    def look() -> None:
        handles, info = (ctypes.c_uint64 * 4)(), api.MigInfo(size=ctypes.sizeof(api.MigInfo))
        while not over.is_set():
            before = starting[0]
            for handle in handles[: F.migrations(machine, handles, 4)]:
                if F.mig_info(machine, handle, ctypes.byref(info)) == 0:
                    seen.add((handle, info.call, info.task, info.arguments[1], info.statuses))
            if before and starting[0] == before:
                met.add(before)

    watcher = threading.Thread(target=look)
    watcher.start()
    began = set()
    try:
        for k in range(1, 2000):
            n = (1 << 18) + k
            handle = table.begin(n=n, starting=lambda k=k: starting.__setitem__(0, k))
            starting[0] = 0
            began.add((handle, 1, table.app.pid, n, n))
            table.end(handle, abort=1)
            if len(met) >= 20:
                break
    finally:
        over.set()
        watcher.join()
    assert len(met) >= 20, "nobody looked during a start"
    table.context.close()
    assert seen <= began
    table.machine.check(full=True)


# ---- actors ---------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", HOLDERS)
def test_a_machine_is_copied_by_an_actor_between_the_steps_of_another(kernel: str) -> None:
    machine = four_nodes(kernel, page_bytes=8)
    app = machine.spawn()
    base = mapped(app, 2 * N)
    app.touch(base, 2 * N * PAGE, write=True, values=np.arange(2 * N, dtype=np.uint64))
    actors = Actors(machine)
    copies: list[pm.Machine] = []
    moves: list[pm.Migration] = []

    def migrate() -> list[object]:
        moves.append(start(app, "move_pages", base, N))
        moves[0].step()
        actors.give_way()
        return stops(moves[0])

    def copy() -> None:
        copies.append(machine.copy())
        actors.give_way()

    mover = actors.add("mover", migrate)
    actors.add("copier", copy)
    actors.run()
    [other] = copies
    assert seen(other) != seen(machine)  # half-way
    [its] = other.migrations
    assert stops(its) == mover.result
    assert outcome(its) == outcome(moves[0])
    assert seen(other) == seen(machine)
    other.check(full=True)


@pytest.mark.parametrize("kernel", list(pm.KERNELS))
def test_no_machine_is_copied_in_the_middle_of_a_call(kernel: str) -> None:
    machine = four_nodes(kernel, page_bytes=8)
    app = machine.spawn()
    base = mapped(app, N)
    actors = Actors(machine)
    actors.add("mover", lambda: app.mbind(base, N * PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE))

    def copy() -> None:
        with pytest.raises(pm.StateError, match="a call is under way"):
            machine.copy()

    actors.at_step(pm.STEP_UNMAP, copy)
    actors.run()
    machine.copy().check(full=True)
