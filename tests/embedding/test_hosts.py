"""Contexts that hosts keep: calls that wait and are resumed, and what other calls see of them."""

import os
import threading
from collections.abc import Callable

import numpy as np
import pytest

import pagemig as pm
from embedding.test_saved_waits import mark
from support.machines import PAGE, four_nodes, mapped
from support.table import EBUSYCTX, WAIT, Host

N = 8
MAP_SHARED, MAP_FIXED, MAP_POPULATE = 1, 0x10, 0x8000


def cached(kernel: str, kind: str = "tmpfs") -> tuple[pm.Machine, pm.Process, pm.File, int, int]:
    """A mapped file with a page that somebody has locked."""
    machine = four_nodes(kernel, page_bytes=8)
    app = machine.spawn()
    file = machine.file(kind, N * PAGE)
    base = mapped(app, N, file=file, shared=True)
    pfn = int(app.frames(base, N)[3])
    mark(machine, pfn, "page", True)
    return machine, app, file, base, pfn


def populating(host: Host, file: pm.File) -> int:
    return host.mmap(0, N * PAGE, 3, MAP_SHARED | MAP_POPULATE, file)


# ---- what a call that waits holds ---------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.18"])
def test_a_call_that_waits_keeps_a_reference_on_a_page_that_nobody_has_locked_any_more(
    kernel: str,
) -> None:
    """The check passes between the end of what it waits for and its own."""
    machine, _, file, _, pfn = cached(kernel)
    host = Host(machine.spawn())
    assert populating(host, file) == WAIT
    machine.check(full=True)
    mark(machine, pfn, "page", False)
    machine.check(full=True)
    assert host.again() > 0
    machine.check(full=True)
    host.close()
    machine.check(full=True)


@pytest.mark.parametrize("kernel", ["6.1", "6.18", "2.6.18"])
@pytest.mark.parametrize("end", ["goes on", "is closed"])
def test_a_truncation_that_waits_holds_its_file(kernel: str, end: str) -> None:
    """Its lock, and the pages behind the new end that it has not reached; a second one waits."""
    machine, _, file, _, pfn = cached(kernel)
    first, second = Host(machine.spawn()), Host(machine.spawn())
    assert first.ftruncate(file, 1) == WAIT
    machine.check(full=True)
    assert second.ftruncate(file, 2) == WAIT
    machine.check(full=True)
    second.close()  # withdraws its request for the lock
    mark(machine, pfn, "page", False)
    if end == "goes on":
        assert first.again() == 0
        assert file.size == PAGE
    else:
        first.close()
    machine.check(full=True)


@pytest.mark.parametrize("kernel", ["6.1", "2.6.18"])
def test_a_pin_that_waits_is_not_reached_yet(kernel: str) -> None:
    """It has a reference on the zero page and on pages before the one that it waits for."""
    machine, app, file, _, pfn = cached(kernel, "ext4")
    app.madvise(mapped(app, N, N, file=file, shared=True, touched=False), N * PAGE, "dontneed")
    host = Host(app)
    first = host.mmap(0, (N + 1) * PAGE, 1)
    assert host.mmap(first + PAGE, N * PAGE, 3, MAP_SHARED | MAP_FIXED, file) == first + PAGE
    assert host.access(first) == 1
    assert host.pin(first, N + 1) == WAIT
    machine.check(full=True)
    mark(machine, pfn, "page", False)
    pin = host.again()
    assert pin.count == N + 1
    machine.check(full=True)
    app.unpin(pin)
    machine.check(full=True)


@pytest.mark.parametrize("kernel", ["2.6.17", "2.6.18"])
@pytest.mark.parametrize("way", ["mbind", "exits"])
def test_a_swapoff_that_waits_is_a_user_of_the_address_space_that_it_looks_through(
    kernel: str, way: str
) -> None:
    machine = four_nodes(kernel, page_bytes=8)
    app, child = machine.spawn(), None
    base = mapped(app, N)
    if way == "exits":  # the swapoff becomes the last user
        child = machine.spawn()
    pfns = app.frames(base, N)
    assert machine.swap_out(pfns[:2].tolist()) is not None
    move = app.start_mbind(base + 4 * PAGE, 4 * PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE)
    assert move.step() is not None
    host = Host(machine.spawn())
    assert host.swapoff(0) == WAIT
    machine.check(full=True)
    if child is not None:
        app.exit()
        machine.check(full=True)
    move.finish()
    machine.check(full=True)
    assert host.again() == 0
    machine.check(full=True)
    if child is None:
        assert (app.touch(base, N * PAGE).values is not None) and app.frames(base, N).min() >= 0


# ---- one call at a time -----------------------------------------------------------------------


def test_no_other_call_of_the_context_is_made_while_one_waits() -> None:
    machine, app, file, base, pfn = cached("6.1")
    host = Host(app)
    assert populating(host, file) == WAIT
    others: list[Callable[[], object]] = [
        lambda: host.munmap(base, PAGE), lambda: host.mprotect(base, PAGE, 1), host.fork,
        lambda: host.ftruncate(file, 1), lambda: host.swapon(0), lambda: host.online(3),
        lambda: host._call("spawn", 0, 0), lambda: host._call("file_new", 1, 4),
        lambda: host._call("file_close", file.index), lambda: host.bind(None), host.exit,
    ]  # fmt: skip
    assert [call() for call in others] == [EBUSYCTX] * len(others)
    mark(machine, pfn, "page", False)
    assert host.again() > 0
    machine.check(full=True)


@pytest.mark.parametrize("owns_time", [True, False])
@pytest.mark.parametrize("kernel", ["6.1", "2.6.18"])
def test_a_hook_of_its_own_call_finds_the_context_busy(kernel: str, owns_time: bool) -> None:
    """The same call, another one, an access; and to close it does nothing."""
    machine = four_nodes(kernel, page_bytes=8)
    app = machine.spawn()
    base = mapped(app, N)
    host = Host(app, owns_time=owns_time)
    address = host.context.address
    said: list[object] = []

    def hook(name: str, pfns: list[int]) -> None:
        machine.at_step(None)
        said.append(host.migrate_pages([0], [1]))
        said.append(host.munmap(base, PAGE))
        with pytest.raises(RuntimeError, match="is in a call"):
            host.access(base)
        pm.api.functions.ctx_close(address)

    machine.at_step(hook)
    assert host.migrate_pages([0], [1]) == 0
    assert said == [EBUSYCTX, EBUSYCTX]
    assert app.nodes(base, N).tolist() == [1] * N
    assert host.munmap(base, PAGE) == 0
    machine.check(full=True)


# ---- contexts that wait as threads do -----------------------------------------------------------


@pytest.mark.parametrize("kernel", ["6.1", "2.6.18"])
@pytest.mark.parametrize("call", ["access", "access_many", "close"])
def test_a_hook_that_waits_for_its_own_call_is_told(kernel: str, call: str) -> None:
    """In a context without time of its own, too, as in any call from Python."""
    machine = four_nodes(kernel, page_bytes=8)
    app, other = machine.spawn(), machine.spawn()
    base = mapped(app, N, shared=True)
    pfns = app.frames(base, N)
    host = Host(app, owns_time=False)
    raised: list[str] = []
    if call == "close":
        app.exit()  # the context is the last user of the pages

    def hook(name: str, _: list[int]) -> None:
        if name != "copy":
            return
        machine.at_step(None)
        try:
            if call == "close":
                host.close()
            elif call == "access":
                host.access(base, True)
            else:
                host.access_many(np.array([base], np.uint64), np.array([True]))
        except RuntimeError as error:
            raised.append(str(error))

    machine.at_step(hook)
    machine.migrate_frames(pfns, np.ones(N, np.int32))
    assert other.alive
    if call == "close":
        assert raised == []
    else:
        assert len(raised) == 1 and "while the hook runs" in raised[0]
    machine.check(full=True)


# ---- what other threads see -------------------------------------------------------------------


class Meeting:
    """A call of the table in another thread, which a hook holds in the middle of it."""

    def __init__(self, machine: pm.Machine, call: Callable[[], object], at: str = "copy") -> None:
        self.inside, self.go = threading.Event(), threading.Event()
        self.machine = machine
        self.thread = threading.Thread(target=call)

        def hook(name: str, _: list[int]) -> None:
            if name == at and threading.current_thread() is self.thread:
                machine.at_step(None)
                self.inside.set()
                assert self.go.wait(60)

        machine.at_step(hook)
        self.thread.start()
        assert self.inside.wait(60)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.go.set()
        self.thread.join()


@pytest.mark.threads
@pytest.mark.parametrize("kernel", ["6.1", "6.12", "pmig"])
def test_the_last_user_of_pages_waits_for_a_call_of_a_host_that_has_them(kernel: str) -> None:
    """A call in a context that is kept runs on, as that of any other thread."""
    machine = four_nodes(kernel, page_bytes=8)
    app = machine.spawn()
    base = mapped(app, N, shared=True)
    pfns, free = app.frames(base, N), sum(machine.free(nid) for nid in range(4))
    mover = Host(machine.spawn(), owns_time=False)
    exits = threading.Thread(target=app.exit)
    with Meeting(machine, lambda: mover.migrate_frames(pfns, [1] * N)):
        rounds = machine.counters["host_page_contended"]
        exits.start()
        while exits.is_alive() and machine.counters["host_page_contended"] == rounds:
            pass
        waits = waits_on(exits)
    exits.join()
    assert waits
    machine.check(full=True)
    assert sum(machine.free(nid) for nid in range(4)) >= free + N


def waits_on(thread: threading.Thread, looks: int = 2000) -> bool:
    """Whether a thread is still there after it could have run so many times."""
    for _ in range(looks):
        if not thread.is_alive():
            return False
        os.sched_yield()
    return True


@pytest.mark.threads
def test_a_machine_is_not_saved_during_a_call_of_a_host_without_a_process() -> None:
    machine = four_nodes("6.1", page_bytes=8)
    app = machine.spawn()
    pfns = app.frames(mapped(app, N), N)
    mover = Host(app, owns_time=False)
    assert mover.bind(None) == 0
    with (
        Meeting(machine, lambda: mover.migrate_frames(pfns, [1] * N)),
        pytest.raises(pm.StateError, match="under way in another thread"),
    ):
        machine.copy()
    machine.copy().check(full=True)


@pytest.mark.threads
def test_a_child_of_fork_knows_of_a_call_of_a_host_that_it_lost() -> None:
    machine = four_nodes("6.1", page_bytes=8)
    app = machine.spawn()
    pfns = app.frames(mapped(app, N), N)
    mover = Host(app, owns_time=False)
    with Meeting(machine, lambda: mover.migrate_frames(pfns, [1] * N)):
        child = os.fork()
        if not child:
            try:
                app.fork()
                os._exit(1)
            except RuntimeError:
                os._exit(0)
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
    assert status == 0
    machine.check(full=True)
