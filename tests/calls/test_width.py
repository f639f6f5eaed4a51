"""Nothing that the modelled kernel does depends on ``Machine.width``, the pages of a stage.

The same random calls on machines of another width give equal answers, counters, page tables and
frames.  The locks of a page are also compared with the kernel's sources, since equal values could
be equally wrong.
"""

import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pagemig as pm
from pagemig.system.machine import LOCKS
from support.machines import PAGE, at, four_nodes, mapped

N = 300


class Calls:
    """A process that calls at random, from a seed, and what it saw."""

    def __init__(self, kernel: str, width: int, seed: int) -> None:
        self.draw = random.Random(seed)
        self.machine = four_nodes(kernel, page_bytes=8)
        self.machine.width = width
        self.app = self.machine.spawn()
        self.base = mapped(self.app, N, touched=False)
        self.app.touch(self.base, N * PAGE, write=True, values=np.arange(N, dtype=np.uint64))
        self.file = self.machine.file("tmpfs", 64 * PAGE)
        self.shared = mapped(self.app, 64, 1000, file=self.file, shared=True)
        stuck = self.machine.file("ramfs", 16 * PAGE)  # no pass moves its dirty pages
        self.mappings = [(self.base, N), (self.shared, 64)]
        self.mappings.append((mapped(self.app, 16, 2000, file=stuck, shared=True), 16))
        self.answers: list[Any] = []
        self.pins: list[int] = []
        self.family = [self.app]

    def call(self) -> None:
        name = self.draw.choice(
            ["move_pages"] * 4
            + ["migrate_frames"] * 3
            + ["migrate_pages", "mbind", "mbind", "pin", "fork", "write"]
        )
        if name == "move_pages" and name not in self.machine.profile.calls:
            name = "migrate_pages"
        try:
            self.answers.append((name, getattr(self, name)()))
        except (pm.SyscallError, pm.KernelBug) as error:  # mbind of 2.6.18 crashes on some files
            self.answers.append((name, str(error)))

    def somewhere(self) -> tuple[int, int]:
        base, n = self.draw.choice([(self.base, N), (self.shared, 64)])
        first = self.draw.randrange(n)
        return base + first * PAGE, self.draw.randint(1, n - first)

    def move_pages(self) -> object:
        base, n = self.draw.choice([(self.base, N), (self.shared, 64)])
        rising = self.draw.random() < 0.5
        which = [self.draw.randrange(n) for _ in range(self.draw.randrange(200))]
        which = sorted(set(which)) if rising else which
        one = self.draw.random() < 0.5
        nodes: int | list[int] = self.draw.randrange(4)
        if not one:
            nodes = [self.draw.randrange(4) for _ in which]
        flags = self.draw.choice([pm.MPOL_MF_MOVE, pm.MPOL_MF_MOVE_ALL])
        result = self.app.move_pages([base + page * PAGE for page in which], nodes, flags)
        return result.rc, result.status.tolist()

    def migrate_frames(self) -> object:
        """Frames of mapped pages and any others, some twice, in runs to one node."""
        found = np.concatenate([self.app.frames(*mapping) for mapping in self.mappings])
        known = found[found >= 0].tolist()
        pfns = self.draw.choices(known, k=self.draw.randrange(300))
        pfns += self.draw.sample(range(len(self.machine.frames)), 5)
        nodes: list[int] = []
        while len(nodes) < len(pfns):
            nodes += [self.draw.choice([0, 1, 2, 3, 3, 9])] * self.draw.choice([1, 2, 40, 200])
        result = self.machine.migrate_frames(pfns, nodes[: len(pfns)])
        return result.rc, result.status.tolist()

    def migrate_pages(self) -> object:
        old, new = self.draw.sample(range(4), 2)
        return self.app.migrate_pages({old}, {new})

    def mbind(self) -> object:
        addr, n = self.somewhere()
        policy = self.draw.choice([pm.Bind([self.draw.randrange(4)]), pm.Interleave([1, 3])])
        flags = self.draw.choice([pm.MPOL_MF_MOVE, pm.MPOL_MF_MOVE_ALL])
        return self.app.mbind(addr, n * PAGE, policy, flags)

    def pin(self) -> object:
        if len(self.pins) > 2:
            self.app.unpin(self.pins.pop(0))
            return None
        addr, n = self.somewhere()
        self.pins.append(self.app.pin(addr, min(n, 3)))
        return None

    def fork(self) -> object:
        if len(self.family) > 2:
            self.family.pop().exit()
        else:
            self.family.append(self.app.fork())
        return None

    def write(self) -> object:
        addr, n = self.somewhere()
        self.draw.choice(self.family).touch(addr, n * PAGE, write=True)
        return None

    def seen(self) -> dict[str, Any]:
        counters = {
            name: n for name, n in self.machine.counters.items() if not name.startswith("host_")
        }
        return {
            "answers": self.answers,
            "counters": counters,
            "pagemap": [p.pagemap(self.base, N).tolist() for p in self.family],
            "free": [self.machine.free(nid) for nid in range(4)],
            "frames": self.machine.frames.state.tolist(),
        }


@pytest.mark.parametrize("kernel", list(pm.KERNELS))
@pytest.mark.parametrize("seed", range(4))
def test_no_width_can_be_told_from_another(kernel: str, seed: int) -> None:
    runs = [Calls(kernel, width, seed) for width in (1, 17, 64)]
    for _ in range(40):
        for run in runs:
            run.call()
        first = runs[0].seen()
        for run in runs[1:]:
            other = run.seen()
            for what, value in first.items():
                assert other[what] == value, (what, run.machine.width, runs[0].answers[-1])
    for run in runs:
        run.machine.check(full=True)


def taken(kernel: str, width: int, mappers: int = 1) -> dict[str, int]:
    """What counters grew by while 1024 anonymous pages moved, in two tables of each process."""
    machine = four_nodes(kernel)
    machine.width = width
    app = machine.spawn()
    mapped(app, 1024)
    for _ in range(mappers - 1):
        app.fork()
    root = machine.spawn()
    before = machine.counters
    assert root.migrate_pages({0}, {1}, pid=app) == 0
    return {name: n - before[name] for name, n in machine.counters.items()}


@pytest.mark.parametrize("kernel", list(pm.KERNELS))
@pytest.mark.parametrize("width", [1, 64])
@pytest.mark.parametrize("mappers", [1, 4])
def test_locks_of_rmap_and_tables_are_those_of_the_kernel(
    kernel: str, width: int, mappers: int
) -> None:
    locks = taken(kernel, width, mappers)
    # Each mapping is unmapped and restored under the lock of its table; the walk that collects
    # takes it once a table.
    assert locks["lock_ptl"] == 1024 * 2 * mappers + 2
    assert locks["lock_anon_vma"] == 1024 * 2
    assert locks["lock_page"] == 1024 * 2


def test_the_host_takes_a_lock_for_many_pages() -> None:
    wide, narrow = taken("6.1", 64), taken("6.1", 1)
    assert wide["host_ptl"] < 100 < 2048 <= narrow["host_ptl"]
    assert wide["host_rmap"] < 100 < 2048 <= narrow["host_rmap"]


@pytest.mark.parametrize("kernel", list(pm.KERNELS))
def test_a_trace_has_the_locks_that_are_counted(kernel: str) -> None:
    machine = four_nodes(kernel)
    app = machine.spawn()
    mapped(app, 200)
    before = machine.counters
    machine.trace_locks = machine.tracing = True
    app.migrate_pages({0}, {1})
    machine.tracing = False
    steps: npt.NDArray[np.generic] = machine.trace["step"]
    grown = {name: n - before[name] for name, n in machine.counters.items()}
    for number, name in LOCKS.items():
        assert int((steps == number).sum()) == grown[f"lock_{name}"], name


@pytest.mark.parametrize("kernel", list(pm.KERNELS))
@pytest.mark.parametrize("seed", range(6))
def test_the_target_of_a_page_that_fails_is_the_next_page_s(kernel: str, seed: int) -> None:
    """Pages fail before they are unmapped, then, or at the switch; a slot is short, too."""
    runs = []
    for width in (1, 9, 64):
        draw = random.Random(seed)
        swap = ["280KiB"] if pm.KERNELS[kernel].swap else []  # 69 slots
        machine = four_nodes(kernel, swap=swap, page_bytes=8)
        old = machine.profile.counts_drop
        ways, kind = (["pipe"], "minix") if old else (["pipe", "uring"], "ext4")
        machine.width = width
        app = machine.spawn()
        mapped(app, 400)
        mapped(app, 32, 400, file=machine.file(kind, 32 * PAGE), shared=True)
        for page in draw.sample(range(400), 14):
            app.pin(at(page), PAGE, draw.choice(ways))
        for page in draw.sample(range(400), 8):
            app.mlock(at(page), PAGE)
        first = app.migrate_pages({0}, {1})
        second = app.migrate_pages({0, 1}, {2, 3})
        machine.check(full=True)
        where = (app.pagemap(at(0), 432).tolist(), machine.frames.state.tolist())
        runs.append((first, second, where))
    assert runs[1:] == runs[:1] * 2
