"""Machines in other processes: by os.fork, beside threads inside calls, and by multiprocessing."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pagemig as pm

PAGE = pm.PAGE_SIZE
N = 2000
#: Exit statuses of a child.
WORKED, REFUSED, WRONG = 0, 3, 4


def used(machine: pm.Machine, app: pm.Process, base: int) -> int:
    """Use a machine in another process."""
    try:
        machine.check(full=True)
        moved = app.move_pages(base + np.arange(N, dtype=np.uint64) * PAGE, 1)
        assert moved.rc == 0
        other = machine.spawn()
        assert other.touch(other.mmap(PAGE), PAGE, write=True).done == 1
        assert machine.mappings(int(app.frames(base, 1)[0]))
        machine.check(full=True)
    except RuntimeError as error:
        return REFUSED if "when the process forked" in str(error) else WRONG
    except BaseException:
        return WRONG
    return WORKED


def in_a_child(work: Callable[[], int], patience: float = 300) -> int:
    """Exit status of a child that does the work; it must not hang."""
    pid = os.fork()
    if pid == 0:
        status = WRONG
        try:
            status = work()
        finally:
            os._exit(status)
    until = time.monotonic() + patience
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


def world(kernel: str = "6.1") -> tuple[pm.Machine, pm.Process, int]:
    machine = pm.Machine([pm.Node("16MiB", cpus=2), "16MiB"], kernel=kernel, page_bytes=8)
    app = machine.spawn()
    base = app.mmap(N * PAGE)
    app.touch(base, N * PAGE, write=True, values=3)
    return machine, app, base


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "2.6.18"])
def test_a_child_has_a_copy(kernel: str) -> None:
    machine, app, base = world(kernel)
    assert in_a_child(lambda: used(machine, app, base)) == WORKED
    assert app.nodes(base, N).tolist() == [0] * N
    machine.check(full=True)


@pytest.mark.threads
def test_a_child_whose_copy_holds_half_of_a_call_says_so() -> None:
    machine, app, base = world()
    inside, go = threading.Event(), threading.Event()

    def hook(step: str, pfns: list[int]) -> None:
        inside.set()
        go.wait(60)

    machine.at_step(hook)
    thread = threading.Thread(target=lambda: app.move_pages([base], 1))
    thread.start()
    inside.wait()
    try:
        assert in_a_child(lambda: used(machine, app, base)) == REFUSED
    finally:
        go.set()
        thread.join()
    machine.at_step(None)
    machine.check(full=True)


@pytest.mark.threads
def test_children_beside_busy_threads_do_not_hang() -> None:
    machine, app, base = world()
    stop = threading.Event()

    def busy() -> None:
        other = machine.spawn()
        at = other.mmap(N * PAGE)
        while not stop.is_set():
            other.touch(at, N * PAGE, write=True)
            other.migrate_pages({0}, {1})
            other.madvise(at, N * PAGE, "dontneed")
            machine.counters  # noqa: B018
            machine.free(0)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        ends = {in_a_child(lambda: used(machine, app, base)) for _ in range(12)}
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert ends <= {WORKED, REFUSED}
    machine.check(full=True)


def test_a_hook_may_fork() -> None:
    machine, app, base = world()
    ends = []

    def hook(step: str, pfns: list[int]) -> None:
        if step == "unmap" and not ends:
            ends.append(in_a_child(lambda: WORKED if machine.counters and app.alive else WRONG))

    machine.at_step(hook)
    app.move_pages([base], 1)
    machine.at_step(None)
    assert ends == [WORKED]
    machine.check(full=True)


@pytest.mark.parametrize("in_steps", [False, True])
def test_a_migrate_operation_may_fork(in_steps: bool) -> None:
    machine, app, base = world("pmig")
    ends = []

    def operation(*_: object) -> None:
        ends.append(in_a_child(lambda: WORKED if machine.counters and app.alive else WRONG))

    app.set_vm_ops(base, migrate=operation)
    if in_steps:
        app.start_migrate_pages({0}, {1}).finish()
    else:
        app.migrate_pages({0}, {1})
    assert ends == [WORKED]
    machine.check(full=True)


def elsewhere(machine: pm.Machine, base: int) -> int:
    """What a process that was given a machine does with it."""
    return used(machine, machine.processes[0], base)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_machines_are_arguments_of_other_processes(method: str) -> None:
    machine, app, base = world()
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(elsewhere, (machine, base)) == WORKED
    assert app.nodes(base, N).tolist() == [0] * N
    machine.check(full=True)


def test_arrays_and_calls_outlive_the_last_name_of_a_machine() -> None:
    machine, app, base = world()
    views = [
        machine.frames.state,
        machine.frames.raw,
        machine.page_tables,
        machine.content,
        machine.cpu_counters,
        *machine._arenas(),
    ]
    names = {"machine": machine, "app": app}
    del machine, app

    def hook(step: str, pfns: list[int]) -> None:
        if names:  # a collection for each step takes minutes once many tests have run
            names.clear()
            gc.collect()

    names["machine"].at_step(hook)
    assert names["app"].move_pages(base + np.arange(N, dtype=np.uint64) * PAGE, 1).rc == 0
    assert not names
    gc.collect()
    assert all(len(view[:8].copy().tobytes()) for view in views)


# ---- contexts that are kept between calls ------------------------------------------------------


def with_context(machine: pm.Machine, app: pm.Process, base: int, context: Any) -> int:
    """Use a context and its machine in another process."""
    try:
        context.access(base, True)
        context.access_many(base + np.arange(N, dtype=np.uint64) * PAGE)
    except RuntimeError as error:
        return REFUSED if "when the process forked" in str(error) else WRONG
    except BaseException:
        return WRONG
    return used(machine, app, base)


@pytest.mark.threads
def test_contexts_between_calls_do_not_matter_to_a_child() -> None:
    machine, app, base = world()
    inside, go = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with app.context() as other:
            other.access(base)
            inside.set()
            go.wait(60)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    inside.wait()
    try:
        with app.context() as context:
            assert in_a_child(lambda: with_context(machine, app, base, context)) == WORKED
    finally:
        go.set()
        thread.join()


@pytest.mark.threads
@pytest.mark.parametrize("inside_of", ["access", "access_many", "step"])
def test_a_child_is_told_of_a_call_through_a_context_that_it_lost(inside_of: str) -> None:
    machine, app, base = world()
    far = app.mmap(PAGE)
    inside, go = threading.Event(), threading.Event()

    def held(*_: object) -> None:
        inside.set()
        go.wait(60)

    machine.set_callbacks(fault=held, flush=held)
    calls: dict[str, Callable[[], object]] = {
        "access": lambda: app.context().access(far),
        "access_many": lambda: app.context().access_many(np.array([far], np.uint64)),
        "step": lambda: app.start_move_pages([base], 1).finish(),
    }
    with app.context() as context:
        thread = threading.Thread(target=calls[inside_of])
        thread.start()
        assert inside.wait(60)
        try:
            assert in_a_child(lambda: with_context(machine, app, base, context)) == REFUSED
            assert in_a_child(lambda: used(machine, app, base)) == REFUSED
        finally:
            go.set()
            thread.join()
        machine.set_callbacks()
        assert in_a_child(lambda: with_context(machine, app, base, context)) == WORKED
    machine.check(full=True)


# ---- multiprocessing -----------------------------------------------------------------------------

shared: tuple[pm.Machine, pm.Process, int] | None = None


def global_used(_: int) -> int:
    assert shared is not None
    return used(*shared)


def test_a_global_machine_is_copied_to_workers_that_are_forked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine, app, base = world()
    monkeypatch.setitem(globals(), "shared", (machine, app, base))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(global_used, range(2)) == [WORKED] * 2
    assert app.nodes(base, N).tolist() == [0] * N


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_parts_of_a_machine_are_refused_as_arguments(method: str) -> None:
    machine, app, _ = world()
    with (
        multiprocessing.get_context(method).Pool(1) as pool,
        app.context() as context,
    ):
        for part in (app, machine.file("ext4", PAGE), context):
            with pytest.raises(TypeError, match="pickle the Machine"):
                pool.apply(id, (part,))
