"""Counts of a frame refuse before they overflow, on every path that takes a reference or a mapping.

A build with narrow fields (``make narrow``: 10 bits of references, 6 of mappings, a long-term pin
weighs 16) reaches the limits in a moment; what is quick enough runs in every build.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from errno import ENOMEM
from inspect import isfunction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pagemig as pm
from pagemig.mm.numbers import NUMBERS
from support.machines import PAGE

PIN = NUMBERS["GUP_PIN_COUNTING_BIAS"]
NARROW = PIN == 16
REFS, MAPS = NUMBERS["REF_LIMIT"], NUMBERS["MAP_LIMIT"]
narrow = pytest.mark.skipif(not NARROW, reason="needs the build of `make narrow`")
BASE = 1 << 40
SWAPPING = [kernel for kernel in pm.KERNELS if pm.KERNELS[kernel].swap]


def machine(kernel: str) -> pm.Machine:
    swap = ["1MiB"] if pm.KERNELS[kernel].swap else []
    return pm.Machine([pm.Node("4MiB", cpus=1), "4MiB"], kernel=kernel, page_bytes=8, swap=swap)


def frame_of(p: pm.Process, addr: int) -> int:
    return int(p.pagemap(addr, 1)[0]) & (1 << 55) - 1


def counts(m: pm.Machine, pfn: int) -> tuple[int, int]:
    return int(m.frames.refcount[pfn]), int(m.frames.mapcount[pfn])


@pytest.mark.parametrize(
    "kernel", [name for name, kernel in pm.KERNELS.items() if "io_uring_setup" in kernel.calls]
)
def test_pins_are_refused_and_faults_beside_them_too(kernel: str) -> None:
    m = machine(kernel)
    p = m.spawn()
    f = m.file("tmpfs", PAGE)
    addr = p.mmap(PAGE, file=f, shared=True)
    p.touch(addr, PAGE, write=True, values=42)
    m.check()
    held, _ = counts(m, frame_of(p, addr))
    pins = []
    with pytest.raises(OSError) as refused:
        while True:
            pins.append(p.pin(addr, PAGE, "uring"))
    assert refused.value.errno == ENOMEM
    assert len(pins) == (REFS - held) // PIN
    m.check()
    # One reference each fills the rest; then a fault has no room to map the page, and read(2) has.
    q = m.spawn()
    with suppress(OSError):
        while True:
            pins.append(p.pin(addr, PAGE, "pipe"))
    assert counts(m, frame_of(p, addr)) == (REFS, 1)
    other = q.mmap(PAGE, file=f, shared=True)
    assert q.fread(f, 0).tolist() == [42]
    assert q.touch(other, PAGE).signal == "SIGKILL"
    m.check(full=True)
    for pin in pins:
        p.unpin(pin)
    assert p.touch(addr, PAGE).values.tolist() == [42]  # type: ignore[union-attr]
    assert counts(m, frame_of(p, addr)) == (held, 1)
    m.check(full=True)


@narrow
@pytest.mark.parametrize("kernel", pm.KERNELS)
def test_pins_of_pipes_fill_the_references(kernel: str) -> None:
    """Without io_uring every pin is one reference; what is left over is nobody's to map."""
    m = machine(kernel)
    p = m.spawn()
    f = m.file("tmpfs", PAGE)
    addr = p.mmap(PAGE, file=f, shared=True)
    p.touch(addr, PAGE, write=True, values=42)
    pfn = frame_of(p, addr)
    held, _ = counts(m, pfn)
    pins = []
    with suppress(OSError):
        while len(pins) < 2 * REFS:
            pins.append(p.pin(addr, PAGE, "pipe"))
    assert len(pins) == REFS - held
    q = m.spawn()
    assert q.touch(q.mmap(PAGE, file=f, shared=True), PAGE).signal == "SIGKILL"
    assert p.fread(f, 0).tolist() == [42]
    m.check(full=True)
    for pin in pins:
        p.unpin(pin)
    assert counts(m, pfn) == (held, 1)
    m.check(full=True)


@pytest.mark.parametrize("kernel", ["6.1", "2.6.18"])
def test_more_mappings_than_are_counted(kernel: str) -> None:
    """Of the limit and a few more mappings of one page, the few are refused."""
    m = pm.Machine(["8GiB"], kernel=kernel)  # a large one has records for as many
    f = m.file("tmpfs", PAGE)
    p = m.spawn()
    each = min(65000, MAPS - 7)
    for k in range(each):
        p.mmap(PAGE, addr=BASE + k * PAGE, file=f, shared=True)
    family = [p, *(p.fork() for _ in range(MAPS // each + 1))]
    done = [q.touch(BASE, each * PAGE).done for q in family]
    # Who finds the count full is killed, which gives back what it had.
    assert done == [each] * (MAPS // each) + [MAPS % each] * 2
    assert [q.alive for q in family] == [True] * (MAPS // each) + [False] * 2
    m.check()
    p.exit()
    m.check(full=True)


@narrow
@pytest.mark.parametrize("kernel", pm.KERNELS)
@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_mappings_of_a_file(kernel: str, write: bool, kind: str) -> None:
    m = machine(kernel)
    p, q = m.spawn(), m.spawn()
    f = m.file(kind, 4 * PAGE)
    p.fwrite(f, 0, [1, 2, 3, 4])
    for k in range(MAPS):
        p.mmap(PAGE, addr=BASE + k * PAGE, file=f, offset=2 * PAGE, shared=True)
    assert p.touch(BASE, MAPS * PAGE, write=write).done == MAPS
    assert counts(m, frame_of(p, BASE))[1] == MAPS
    # Fault-around passes it over; the fault on it is out of memory.
    addr = q.mmap(4 * PAGE, file=f, shared=True)
    assert q.touch(addr, 2 * PAGE).done == 2
    assert not q.pagemap(addr, 4)[2] >> np.uint64(63)
    assert q.touch(addr + 2 * PAGE, PAGE, write=write).signal == "SIGKILL"
    m.check(full=True)
    r = m.spawn()
    with suppress(OSError):  # mmap tells nobody what populating came to, mlock does
        r.mmap(4 * PAGE, addr=BASE, file=f, shared=True, populate=True)
    with pytest.raises(OSError):
        r.mlock(BASE, 4 * PAGE)
    with pytest.raises(OSError):
        r.pin(BASE + 2 * PAGE, PAGE, "pipe")
    m.check(full=True)
    p.munmap(BASE, PAGE)
    assert r.touch(BASE + 2 * PAGE, PAGE).values.tolist() == [3]  # type: ignore[union-attr]
    m.check(full=True)


@narrow
@pytest.mark.parametrize("kernel", pm.KERNELS)
def test_forks(kernel: str) -> None:
    m = machine(kernel)
    p = m.spawn()
    p.mmap(PAGE, addr=BASE)
    p.touch(BASE, PAGE, write=True, values=7)
    children = [p.fork() for _ in range(MAPS - 1)]
    m.check()
    with pytest.raises(OSError) as refused:
        p.fork()
    assert refused.value.errno == ENOMEM
    m.check(full=True)
    children[0].exit()
    assert p.fork().touch(BASE, PAGE).values.tolist() == [7]  # type: ignore[union-attr]
    m.check(full=True)


@narrow
@pytest.mark.parametrize("kernel", SWAPPING)
def test_swap_entries_that_come_back(kernel: str) -> None:
    """A slot has more entries than a page may have mappings: some of their owners go without."""
    m = machine(kernel)
    p = m.spawn()
    p.mmap(PAGE, addr=BASE)
    p.touch(BASE, PAGE, write=True, values=7)
    assert m.swap_out([frame_of(p, BASE)]) == 1
    family = [p, *(p.fork() for _ in range(MAPS + 3))]
    m.check()
    with pytest.raises(OSError) as refused:
        m.swapoff(0)
    assert refused.value.errno == ENOMEM
    m.check(full=True)
    ends = [q.touch(BASE, PAGE).signal for q in family]
    assert ends.count(None) == MAPS
    assert ends.count("SIGKILL") == 4
    m.check(full=True)
    m.swapoff(0)
    m.check(full=True)


@narrow
@pytest.mark.parametrize("kernel", pm.KERNELS)
def test_forks_while_the_page_is_on_the_move(kernel: str) -> None:
    """Entries that a fork copied are counted when they go back, in the room above the limit."""
    m = machine(kernel)
    p = m.spawn()
    p.mmap(PAGE, addr=BASE)
    p.touch(BASE, PAGE, write=True, values=7)
    family = [p, *(p.fork() for _ in range(MAPS - 4))]
    assert counts(m, frame_of(p, BASE))[1] == MAPS - 3

    def fork(step: str, pfns: list[int]) -> None:
        if step == "unmap":
            with suppress(OSError):
                while len(family) < 34:
                    family.append(p.fork())

    m.at_step(fork)
    with suppress(OSError):
        m.migrate_frames([frame_of(p, BASE)], [1])
    m.at_step(None)
    m.check(full=True)
    for q in family:
        if q.alive:
            assert q.touch(BASE, PAGE).signal in (None, "SIGKILL")
            m.check()


@dataclass
class World:
    m: pm.Machine
    f: pm.File
    ps: list[pm.Process]
    pins: list[pm.Pin] = field(default_factory=list)

    def map(self, k: int) -> None:
        self.ps[0].mmap(PAGE, addr=BASE + (8 + k) * PAGE, file=self.f, shared=k % 2 == 0)

    def read(self, k: int) -> None:
        self.ps[-1].touch(BASE + 8 * PAGE, (k + 1) * PAGE)

    def write(self, k: int) -> None:
        self.ps[-1].touch(BASE + (k % 4) * PAGE, PAGE, write=True, values=k)

    def fork(self, k: int) -> None:
        for _ in range(6):
            self.ps.append(self.ps[k % len(self.ps)].fork())

    def exit(self, k: int) -> None:
        self.ps.pop().exit()

    def pin(self, k: int) -> None:
        for _ in range(12):
            self.pins.append(self.ps[0].pin(BASE + (k % 9) * PAGE, PAGE, "uring"))

    def unpin(self, k: int) -> None:
        self.ps[0].unpin(self.pins.pop())

    def move(self, k: int) -> None:
        pages = [BASE + j * PAGE for j in range(9)]
        self.ps[0].move_pages(pages, k % 2, pm.MPOL_MF_MOVE_ALL)

    def lock(self, k: int) -> None:
        self.ps[k % len(self.ps)].mlock(BASE, 12 * PAGE)

    def swap(self, k: int) -> None:
        self.m.swap_out([frame_of(self.ps[0], BASE + (k % 4) * PAGE)])

    def load(self, k: int) -> None:
        self.ps[0].fread(self.f, 0, 1)


STEPS = sorted(name for name, step in vars(World).items() if isfunction(step) and name[0] != "_")


@narrow
@pytest.mark.parametrize("kernel", pm.KERNELS)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 35)), min_size=20, max_size=60)
)
def test_random_steps_at_the_limits(kernel: str, steps: list[tuple[str, int]]) -> None:
    m = machine(kernel)
    world = World(m, m.file("tmpfs", PAGE), [m.spawn()])
    world.ps[0].mmap(4 * PAGE, addr=BASE)
    for name, k in steps:
        with suppress(OSError, ValueError, IndexError, pm.KernelBug):
            getattr(world, name)(k)
        world.ps = [p for p in world.ps if p.alive] or [m.spawn()]
        m.check()
        assert m.frames.mapcount.max() <= MAPS
        assert m.frames.refcount.max() <= REFS
    m.check(full=True)
