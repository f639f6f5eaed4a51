"""Ctrl-C ends a long call at once and leaves the machine whole; `support.stops` has all calls."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import pagemig as pm
from support import stops
from support.machines import PAGE

#: Milliseconds that a call may still run after the signal; a busy machine may take longer for it.
RUNS = 100
PART = [
    ("touch", "6.1"),
    ("touch that waits", "6.12"),
    ("mmap populate", "6.18"),
    ("munmap", "2.6.18"),
    ("fork", "6.1"),
    ("exit", "6.12"),
    ("mprotect", "6.1"),
    ("move_pages", "6.12"),
    ("mbind", "pmig"),
    ("migrate_frames", "6.1"),
    ("offline, pinned", "6.1"),
    ("check", "6.18"),
    ("load", "6.1"),
]


@pytest.mark.parametrize(("name", "kernel"), PART)
def test_a_stopped_call_is_over_at_once(name: str, kernel: str) -> None:
    command = [sys.executable, stops.__file__, name, kernel, str(1 << 18), "2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    found = [line.split("\t") for line in ended.stdout.splitlines()]
    assert len(found) == 2
    stopped = [row for row in found if len(row) == 5]
    assert all(float(row[4]) < RUNS for row in stopped), ended.stdout
    if name in stops.ENDLESS:
        assert len(stopped) == 2


class Stopped(Exception):
    """What the handler of a signal raises."""


@pytest.fixture
def alarm() -> Iterator[None]:
    """SIGALRM raises; nothing of that is left behind."""

    def handler(number: int, frame: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def world(kernel: str, pages: int) -> tuple[pm.Machine, pm.Process, int]:
    machine = pm.Machine(["8GiB", "8GiB"], kernel=kernel, page_bytes=8)
    app = machine.spawn()
    base = app.mmap(pages * PAGE)
    app.touch(base, pages * PAGE, write=True, values=5)
    return machine, app, base


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "2.6.17"])
def test_a_stopped_munmap_has_cut_off_the_front(kernel: str, alarm: None) -> None:
    pages = 1 << 19
    machine, app, base = world(kernel, pages)
    app.mlock(base + PAGE, PAGE)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        app.munmap(base, pages * PAGE)
        left = 0
    except Stopped:
        left = sum(vma.end - vma.start for vma in app.vmas()) // PAGE
        assert left <= pages  # all where the signal came before the call, none where at its end
    machine.check(full=True)
    read = app.touch(base + (pages - left) * PAGE, left * PAGE).values
    assert left == 0 or (read == 5).all()
    assert app.touch(base, PAGE).signal == "SIGSEGV" or left == pages


@pytest.mark.parametrize("kernel", ["6.1", "2.6.18"])
def test_a_stopped_mprotect_has_changed_the_front(kernel: str, alarm: None) -> None:
    pages = 1 << 20
    machine, app, base = world(kernel, pages)
    app.mprotect(base, pages * PAGE, "r")
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        app.mprotect(base + PAGE, (pages - 2) * PAGE, "rw")
    except Stopped:
        signal.setitimer(signal.ITIMER_REAL, 0)
    machine.check(full=True)
    rights = [(vma.start, "w" in str(vma).split()[1]) for vma in app.vmas()]
    # The signal may come before the call.
    assert [write for _, write in rights][:3] in ([False, True, False], [False])
    for start, write in rights:
        assert app.alive
        if write:
            assert app.touch(start, PAGE, write=True).signal is None


def test_a_handler_may_call_the_machine_and_the_call_goes_on(alarm: None) -> None:
    machine, app, base = world("6.12", 1 << 18)
    other = machine.spawn()
    made = []

    def handler(number: int, frame: object) -> None:
        made.append(other.mmap(PAGE, populate=True))

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.003)
    for node in (1, 0, 1):
        assert app.migrate_pages({0, 1}, {node}) == 0
    signal.setitimer(signal.ITIMER_REAL, 0)
    machine.check(full=True)
    assert made and len(other.vmas()) >= 1
    assert set(np.unique(app.nodes(base, 1 << 18))) == {1}


def test_threads_that_no_signal_reaches_are_left_alone(alarm: None) -> None:
    machine, app, _ = world("6.1", 1 << 16)
    moved: list[int] = []
    go = threading.Event()
    thread = threading.Thread(
        target=lambda: go.wait() and moved.append(app.migrate_pages({0}, {1}))
    )
    thread.start()
    with pytest.raises(Stopped):
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        go.set()
        time.sleep(10)
    thread.join()
    assert moved == [0]
    machine.check(full=True)
