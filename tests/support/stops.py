"""Ctrl-C in the middle of every long call: how long until the program has the control back.

``python tests/support/stops.py NAME KERNEL PAGES TIMES`` makes the call again and again, while a
thread sends SIGINT to the process at a random moment, and prints for each call that was stopped how
many milliseconds later it was over, and how many of them it ran. After each the machine must be
whole.
"""

import os
import pickle
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import pagemig as pm

PAGE = pm.PAGE_SIZE
NOW, THEN = ("6.1", "6.12", "6.18"), ("2.6.17", "2.6.18", "pmig")


class World:
    """A process with as many pages as wanted, and what some calls need beside."""

    def __init__(self, kernel: str, pages: int, *, touched: bool = True) -> None:
        size = (pages + pages // 8 + 4096) * PAGE
        swap = [2 * pages * PAGE] if pm.KERNELS[kernel].swap else []
        self.kernel, self.n, self.length = kernel, pages, pages * PAGE
        self.machine = pm.Machine([pm.Node(size, cpus=2), size], kernel=kernel, swap=swap)
        self.app = self.machine.spawn()
        self.base = self.app.mmap(self.length)
        self.pages = self.base + np.arange(pages, dtype=np.uint64) * PAGE
        if touched:
            self.app.touch(self.base, self.length, write=True)

    @property
    def pfns(self) -> np.ndarray:
        found = self.app.frames(self.base, self.n)
        return found[found >= 0].astype(np.uint32)

    def file(self, *, filled: bool) -> pm.File:
        file = self.machine.file("ext4", self.length)
        if filled:
            self.app.fwrite(file, 0, 7, self.n)
        return file


Prepared = Callable[[], object]
Call = Callable[[World], Prepared]


def fault(w: World) -> Prepared:
    return lambda: w.app.touch(w.base, w.length, write=True)


def swapped(w: World) -> Prepared:
    w.machine.swap_out(w.pfns)
    return lambda: w.machine.swapoff(0)


def pinned(w: World) -> Prepared:
    w.app.mbind(w.base, PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE)
    w.app.pin(w.base, PAGE)
    return lambda: w.machine.offline(1, max_passes=2**31 - 1)


def waiting(w: World) -> Prepared:
    """A touch of a page that another thread's migration holds until the touch is given up."""
    held, over = threading.Event(), threading.Event()

    def hook(step: str, pfns: list[int]) -> None:
        if step == "unmap":
            held.set()
            over.wait(5)

    w.machine.at_step(hook)
    bind = w.app.mbind  # every kernel has it
    mover = threading.Thread(target=lambda: bind(w.base, PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE))
    mover.start()
    held.wait()
    w.machine.at_step(None)

    def touch() -> None:
        try:
            w.app.touch(w.base, PAGE, write=True)
        finally:
            over.set()
            mover.join()

    return touch


def unpinned(w: World) -> Prepared:
    pin = w.app.pin(w.base, w.length, "uring")
    return lambda: w.app.unpin(pin)


def begun(w: World) -> Prepared:
    return lambda: w.app.start_move_pages(w.pages, 1).abort()


def written(w: World) -> Prepared:
    file = w.file(filled=False)
    return lambda: w.app.fwrite(file, 0, 7, w.n)


def read(w: World) -> Prepared:
    file = w.file(filled=True)
    return lambda: w.app.fread(file, 0, w.n)


def dropped(w: World) -> Prepared:
    file = w.file(filled=True)
    return lambda: w.app.fadvise(file, 0, 0, "dontneed", sync=True)


def cut(w: World) -> Prepared:
    file = w.file(filled=True)
    return lambda: w.app.ftruncate(file, 0)


def unlocked(w: World) -> Prepared:
    w.app.mlock(w.base, w.length)
    return lambda: w.app.munlock(w.base, w.length)


def all_unlocked(w: World) -> Prepared:
    w.app.mlockall(current=True)
    return w.app.munlockall


def with_threads(w: World) -> Prepared:
    for _ in range(3):
        w.app.thread()
    return w.app.exit


def scattered(w: World) -> Prepared:
    size = (w.n * 16) * PAGE
    return lambda: pm.Machine([size], scatter=5)


def finished(w: World) -> Prepared:
    moving = w.app.start_move_pages(w.pages, 1)

    def finish() -> None:
        try:
            moving.finish()
        finally:
            moving.abort()

    return finish


def in_steps(w: World) -> Prepared:
    """The first step collects the pages of the whole process."""
    moving = w.app.start_migrate_pages({0}, {1})

    def step() -> None:
        try:
            moving.step()
        finally:
            moving.abort()

    return step


def aborted(w: World) -> Prepared:
    moving = w.app.start_migrate_pages({0}, {1})
    moving.step()
    return moving.abort


def saved(w: World) -> Prepared:
    return lambda: w.machine.save(Path(tempfile.gettempdir()) / f"stops-{os.getpid()}")


def loaded(w: World) -> Prepared:
    path = Path(tempfile.gettempdir()) / f"stops-{os.getpid()}"
    w.machine.save(path)
    return lambda: pm.Machine.load(path)


def protected(w: World) -> Prepared:
    w.app.mprotect(w.base, w.length, "r")
    return lambda: w.app.mprotect(w.base, w.length, "rw")


def access_deferred(w: World) -> Prepared:
    often = np.tile(w.pages, 4)
    return lambda: w.app.access(often, deferred=True)


def migrate_frames(w: World) -> Prepared:
    pfns = w.pfns
    nodes = np.ones(len(pfns), np.int32)
    return lambda: w.machine.migrate_frames(pfns, nodes)


def migrate_lists(w: World) -> Prepared:
    pfns = w.pfns
    return lambda: w.machine.migrate_lists(pfns, 1)


def swap_out(w: World) -> Prepared:
    pfns = w.pfns
    return lambda: w.machine.swap_out(pfns)


def offline(w: World) -> Prepared:
    w.app.migrate_pages({0}, {1})
    return lambda: w.machine.offline(1)


def mbind(w: World) -> Prepared:
    return lambda: w.app.mbind(w.base, w.length, pm.Bind([1]), pm.MPOL_MF_MOVE)


def mremap(w: World) -> Prepared:
    to = w.base - 2 * w.length
    return lambda: w.app.mremap(w.base, w.length, w.length, maymove=True, new_addr=to)


def advise(advice: str) -> Call:
    return lambda w: lambda: w.app.madvise(w.base, w.length, advice)


ALL = NOW + THEN
#: Calls by name: the kernels that have them, whether the memory is touched before, and the call.
CALLS: dict[str, tuple[tuple[str, ...], bool, Call]] = {
    "touch": (ALL, False, fault),
    "touch that waits": (ALL, True, waiting),
    "access": (NOW, False, lambda w: lambda: w.app.access(w.pages, write=True)),
    "access deferred": (NOW, True, access_deferred),
    "mmap populate": (ALL, False, lambda w: lambda: w.app.mmap(w.length, populate=True)),
    "munmap": (ALL, True, lambda w: lambda: w.app.munmap(w.base, w.length)),
    "mmap over": (NOW, True, lambda w: lambda: w.app.mmap(w.length, addr=w.base, fixed=True)),
    "fork": (ALL, True, lambda w: w.app.fork),
    "exit": (ALL, True, lambda w: w.app.exit),
    "mprotect": (ALL, True, protected),
    "mlock": (ALL, False, lambda w: lambda: w.app.mlock(w.base, w.length)),
    "madvise dontneed": (ALL, True, advise("dontneed")),
    "madvise free": (NOW, True, advise("free")),
    "madvise populate": (NOW, False, advise("populate_write")),
    "unpin": (NOW, True, unpinned),
    "frames": (ALL, True, lambda w: lambda: w.app.frames(w.base, w.n)),
    "refcount": (NOW, True, lambda w: lambda: w.machine.frames.refcount),
    "targets": (NOW, False, lambda w: lambda: pm.Interleave([0, 1]).targets(w.pages)),
    "start_move_pages": (NOW, True, begun),
    "pickle": (NOW, True, lambda w: lambda: pickle.loads(pickle.dumps(w.machine))),
    "pin": (NOW, True, lambda w: lambda: w.app.pin(w.base, w.length, "uring")),
    "move_pages": ((*NOW, "2.6.18", "pmig"), True, lambda w: lambda: w.app.move_pages(w.pages, 1)),
    "move_pages query": (
        (*NOW, "2.6.18", "pmig"),
        True,
        lambda w: lambda: w.app.move_pages(w.pages),
    ),
    "mbind": (ALL, True, mbind),
    "migrate_pages": (ALL, True, lambda w: lambda: w.app.migrate_pages({0}, {1})),
    "migrate_frames": (ALL, True, migrate_frames),
    "migrate_range": (ALL, True, lambda w: lambda: w.machine.migrate_range(1, w.n)),
    "migrate_lists": (("2.6.17",), True, migrate_lists),
    "offline": (ALL, True, offline),
    "offline, pinned": (ALL, True, pinned),
    "swap_out": (THEN, True, swap_out),
    "swapoff": (THEN, True, swapped),
    "fwrite": (NOW, False, written),
    "fread": (NOW, False, read),
    "fadvise": (NOW, False, dropped),
    "ftruncate": (NOW, False, cut),
    "check": (NOW, True, lambda w: lambda: w.machine.check(full=True)),
    "copy": (NOW, True, lambda w: w.machine.copy),
    "save": (NOW, True, saved),
    "load": (NOW, True, loaded),
    "pagemap": (NOW, True, lambda w: lambda: w.app.pagemap(w.base, w.n)),
    "nodes": (NOW, True, lambda w: lambda: w.app.nodes(w.base, w.n)),
    "smaps": (NOW, True, lambda w: w.app.smaps),
    "numa_maps": (NOW, True, lambda w: w.app.numa_maps),
    "munlock": (NOW, True, unlocked),
    "munlockall": (NOW, True, all_unlocked),
    "mlock of what is there": (NOW, True, lambda w: lambda: w.app.mlock(w.base, w.length)),
    "mremap": (ALL, True, mremap),
    "exit of threads": (ALL, True, with_threads),
    "scatter": (NOW, False, scattered),
    "finish": (NOW, True, finished),
    "step": (ALL, True, in_steps),
    "abort": (ALL, True, aborted),
    "Machine": (NOW, False, lambda w: lambda: pm.Machine(["1TiB"] * 8)),
}
#: These last until they are stopped: a swapoff looks through every address space for each slot.
ENDLESS = {"offline, pinned", "touch that waits", "swapoff"}


@dataclass
class Sent:
    """When a signal was sent, by the clock and by what the main thread had run."""

    at: float = 0
    ran: float = 0


@contextmanager
def ctrl_c(after: float) -> Iterator[Sent]:
    """Send SIGINT to this process some seconds later, if it is not over then."""
    sent, over = Sent(), threading.Event()
    clock = time.pthread_getcpuclockid(threading.main_thread().ident or 0)

    def send() -> None:
        if not over.wait(after):
            sent.at, sent.ran = time.monotonic(), time.clock_gettime(clock)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


def lasts(name: str, kernel: str, pages: int) -> float:
    """Seconds that the whole call takes."""
    if name in ENDLESS:
        return 0.2
    _, touched, call = CALLS[name]
    prepared = call(World(kernel, pages, touched=touched))
    begin = time.monotonic()
    prepared()
    return time.monotonic() - begin


def latency(name: str, kernel: str, pages: int, after: float) -> Sent | None:
    """Seconds from the signal until the call is over; None: it was over before."""
    _, touched, call = CALLS[name]
    world = World(kernel, pages, touched=touched)
    prepared = call(world)
    late = None
    with ctrl_c(after) as sent:
        try:
            prepared()
        except KeyboardInterrupt:
            late = Sent(time.monotonic() - sent.at, time.thread_time() - sent.ran)
    world.machine.check(full=True)
    if world.app.alive:
        other = world.app.mmap(PAGE)
        assert world.app.touch(other, PAGE, write=True).done == 1
    return late


def main(name: str, kernel: str, pages: str, times: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    whole = lasts(name, kernel, int(pages))
    draw = random.Random(f"{name} {kernel}")
    for _ in range(int(times)):
        late = None
        with suppress(KeyboardInterrupt):  # it came between the call and its end
            late = latency(name, kernel, int(pages), draw.uniform(0.05, 0.9) * whole)
        words = f"{late.at * 1e3:.1f}\t{late.ran * 1e3:.1f}" if late else "over"
        print(f"{name}\t{kernel}\t{whole * 1e3:.0f}\t{words}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
