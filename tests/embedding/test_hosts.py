"""Contexts that hosts keep: calls that wait and are resumed, and what other calls see of them."""

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import pagemig as pm
from embedding.test_saved_waits import mark
from pagemig import _core
from support.machines import PAGE, four_nodes, mapped
from support.signals import ringing
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


def moved_by_a_host() -> tuple[pm.Machine, pm.Process, Host, npt.NDArray[np.uint32]]:
    """A process, a host that waits where it must, and the frames that it will move."""
    machine = four_nodes("6.1", page_bytes=8)
    app = machine.spawn()
    return machine, app, Host(app, owns_time=False), app.frames(mapped(app, N), N)


@pytest.mark.threads
def test_a_machine_is_not_saved_during_a_call_of_a_host_without_a_process() -> None:
    machine, _, mover, pfns = moved_by_a_host()
    assert mover.bind(None) == 0
    with (
        Meeting(machine, lambda: mover.migrate_frames(pfns, [1] * N)),
        pytest.raises(pm.StateError, match="under way in another thread"),
    ):
        machine.copy()
    machine.copy().check(full=True)


@pytest.mark.threads
def test_a_child_of_fork_knows_of_a_call_of_a_host_that_it_lost() -> None:
    machine, app, mover, pfns = moved_by_a_host()
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


# ---- what goes while a call waits ---------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["6.1", "2.6.18"])
@pytest.mark.parametrize("call", ["mmap", "ftruncate", "punch_hole"])
def test_a_call_that_waits_holds_its_file(kernel: str, call: str) -> None:
    if call == "punch_hole" and kernel == "2.6.18":
        pytest.skip("it has no such call")
    machine, app, file, base, pfn = cached(kernel)
    host, last = Host(machine.spawn()), file.index
    wanted = {
        "mmap": lambda: populating(host, file),
        "ftruncate": lambda: host.ftruncate(file, 1),
        "punch_hole": lambda: host.punch_hole(file, 0, N),
    }[call]
    assert wanted() == WAIT
    app.munmap(base, N * PAGE)
    file.close()
    machine.check(full=True)
    assert machine.file("tmpfs", PAGE).index != last  # its record is not given away
    mark(machine, pfn, "page", False)
    assert host.again() >= 0
    machine.check(full=True)
    host.close()
    machine.check(full=True)


# ---- handlers and callbacks ---------------------------------------------------------------------


@pytest.mark.parametrize("owns_time", [True, False])
def test_what_a_callback_of_an_access_returns_is_answered(owns_time: bool) -> None:
    machine = four_nodes("6.1", page_bytes=8)
    app = machine.spawn()
    base = mapped(app, 1)
    child = app.fork()  # the write will copy the page, and flush

    def flush(*_: object) -> None:
        raise ZeroDivisionError

    machine.set_callbacks(flush=flush)
    with app.context(owns_time=owns_time) as context, pytest.raises(ZeroDivisionError):
        context.access(base, write=True)
    machine.set_callbacks()
    child.exit()
    machine.check(full=True)


@contextmanager
def moving_beside(machine: pm.Machine, app: pm.Process, base: int) -> Iterator[threading.Event]:
    """Another thread moves a page, and has it locked until the event comes."""
    has, end = threading.Event(), threading.Event()

    def hook(name: str, _: object) -> None:
        if threading.current_thread() is mover and name == "copy":
            has.set()
            end.wait(60)

    mover = threading.Thread(target=lambda: app.move_pages([base], [1]))
    machine.at_step(hook)
    mover.start()
    try:
        has.wait(60)
        yield end
    finally:
        end.set()
        mover.join()
        machine.at_step(None)


@pytest.mark.parametrize("context", ["of a host", "none"])
def test_a_handler_may_not_wait_for_what_the_interrupted_call_holds(
    context: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_core, "HOOK_PATIENCE", 0.0)
    machine = four_nodes("6.1")
    app, file = machine.spawn(), machine.file("tmpfs", N * PAGE)
    base = mapped(app, N, file=file, shared=True)
    host = Host(app, owns_time=False)
    errors: list[str] = []
    busy = False

    def call() -> bool:
        """Interrupt the wait for the page, in which the lock of the file is held."""
        nonlocal busy
        if not busy:  # the next ring comes while this one is answered
            busy = True
            if not errors and "truncating" in [f.name for f in traceback.extract_stack()]:
                try:
                    app.ftruncate(file, 4 * PAGE)
                except RuntimeError as error:
                    errors.append(str(error))
                end.set()
            busy = False
        return False

    def truncating() -> None:
        if context == "none":
            app.ftruncate(file, 0)
        else:
            assert host.ftruncate(file, 0) == 0

    with moving_beside(machine, app, base) as end, ringing(call):
        truncating()
    assert errors == ["a hook made a call that waits for what is held while the hook runs"]
    assert file.size == 0
    machine.check(full=True)


def test_a_context_is_patient_at_each_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = four_nodes("6.1")
    app, other = machine.spawn(), machine.spawn()
    base = mapped(app, N)
    standing = other.start_move_pages([mapped(other, 1)], [1])
    standing.step()  # contexts look now whether anybody could end a wait
    with app.context(owns_time=False) as context:
        with moving_beside(machine, app, base):
            monkeypatch.setattr(_core, "HOOK_PATIENCE", 0.0)
            with pytest.raises(RuntimeError, match="waits"):
                context.access(base)
        monkeypatch.setattr(_core, "HOOK_PATIENCE", 60.0)
        app.move_pages([base], [0])
        with moving_beside(machine, app, base) as end:
            threading.Timer(0.05, end.set).start()
            assert context.access(base) in (0, 1)  # a hit or a minor fault
    standing.finish()
    machine.check(full=True)


@pytest.mark.parametrize("what", ["saved", "copied"])
def test_a_machine_that_is_saved_or_copied_takes_no_calls(what: str, tmp_path: Path) -> None:
    """A migration that a handler ended was read behind its end."""
    machine = pm.Machine(["1GiB", "1GiB"])
    app = machine.spawn()
    n = 1 << 16
    base = mapped(app, n)
    move = app.start_move_pages(base + np.arange(n, dtype=np.uint64) * PAGE, 1)
    move.step()
    errors: list[str] = []

    def end() -> bool:
        if not errors and traceback.extract_stack()[-3].name in ("save", "copy", "write"):
            try:
                move.abort()
            except RuntimeError as error:
                errors.append(str(error))
        return False

    with ringing(end):
        while not errors:
            copy = machine.copy()
            if what == "saved":
                machine.save(tmp_path / "machine")
                copy = pm.Machine.load(tmp_path / "machine")
            copy.check(full=True)
    assert "copies or saves the machine" in errors[0]
    move.finish()
    assert (app.nodes(base, n) == 1).all()
    machine.check(full=True)
