"""Machines that are saved, copied and pickled while migrations are in progress.

Each is compared with its original: both make the same calls from then on, and their visible states
must be equal at every stop and at the end.
"""

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pagemig as pm

PAGE = pm.PAGE_SIZE
Way = Callable[[pm.Machine, Path], pm.Machine]


def through_file(machine: pm.Machine, folder: Path) -> pm.Machine:
    machine.save(folder / "machine")
    return pm.Machine.load(folder / "machine")


def through_pickle(machine: pm.Machine, _: Path) -> pm.Machine:
    loaded: pm.Machine = pickle.loads(pickle.dumps(machine))
    return loaded


WAYS: dict[str, Way] = {
    "save": through_file,
    "copy": lambda machine, _: machine.copy(),
    "pickle": through_pickle,
}


def seen(machine: pm.Machine) -> list[object]:
    """Return the visible state of a machine."""
    content = machine.content
    assert content is not None
    shown: list[object] = [machine.vmstat, machine.counters]
    shown += [machine.free(nid) for nid in range(machine.nr_nodes)]
    shown += [machine.frames.raw.tobytes(), machine.page_tables.tobytes(), content.tobytes()]
    shown.append(len(machine.migrations))
    for process in machine.processes:
        shown.append(process.pid)
        if not machine.migrations:  # who looks would wait for mmap_lock
            shown += [process.numa_maps(), [repr(vma) for vma in process.vmas()]]
    return shown


class World:
    """A machine with random calls, determined by a seed."""

    def __init__(self, machine: pm.Machine, seed: int, regions: list[tuple[int, int]]) -> None:
        self.machine, self.seed, self.regions = machine, seed, regions
        self.started = 0
        self.kept: list[pm.Migration] = []  # one that nobody holds is given up

    def twin(self, machine: pm.Machine) -> "World":
        other = World(machine, self.seed, self.regions)
        other.started = self.started
        return other

    @classmethod
    def made(cls, kernel: str, seed: int, width: int) -> "World":
        draw = random.Random(seed)
        regions = []
        swap = ["1MiB"] if pm.KERNELS[kernel].swap else []
        sizes: list[Any] = [pm.Node("512KiB", cpus=2), pm.Node("512KiB", cpus=1), "512KiB"]
        machine = pm.Machine(sizes, kernel=kernel, page_bytes=8, swap=swap)
        machine.width = width
        app = machine.spawn(cpu=draw.randrange(3))
        for _ in range(draw.randint(1, 3)):
            n = draw.randint(1, 24)
            base = app.mmap(n * PAGE)
            app.touch(base, n * PAGE, write=True, values=np.arange(n, dtype=np.uint64))
            regions.append((base, n))
        kinds = ("tmpfs", "ext4", "ramfs", *(["minix"] if pm.KERNELS[kernel].counts_drop else []))
        kind = draw.choice(kinds)
        n = draw.randint(1, 12)
        file = machine.file(kind, n * PAGE)
        shared = app.mmap(n * PAGE, file=file, shared=True)
        app.touch(shared, n * PAGE, write=draw.random() < 0.7)
        regions.append((shared, n))
        if draw.random() < 0.4:
            app.mlock(shared, PAGE)
        if draw.random() < 0.4:
            app.pin(regions[0][0], PAGE)
        if draw.random() < 0.6:
            app.fork()
        return cls(machine, seed, regions)

    def process(self, draw: random.Random) -> pm.Process:
        return draw.choice([p for p in self.machine.processes if p.pid != pm.INIT_PID])

    def start(self, draw: random.Random) -> None:
        app, (base, n) = self.process(draw), draw.choice(self.regions)
        pages = base + np.arange(n, dtype=np.uint64) * np.uint64(PAGE)
        flags = draw.choice((pm.MPOL_MF_MOVE, pm.MPOL_MF_MOVE_ALL))
        node = draw.randrange(3)
        calls = self.machine.profile.calls
        kinds = ("move_pages", "migrate_pages", "mbind", "frames")
        kind = draw.choice([c for c in kinds if c in {*calls, "frames"}])
        if kind == "move_pages":
            if draw.random() < 0.3:
                pages = np.concatenate([pages, pages[:2], [np.uint64(1 << 40)], pages])
            nodes = [draw.choice((node, node, node, draw.randrange(3))) for _ in pages]
            move = app.start_move_pages(pages, nodes, flags)
        elif kind == "migrate_pages":
            move = app.start_migrate_pages({0, 1}, draw.choice([{1, 2}, {2}, {1, 0}, {node}]))
        elif kind == "mbind":
            policy = draw.choice([pm.Bind([node]), pm.Interleave([0, 1, 2]), pm.Preferred(node)])
            move = app.start_mbind(
                base, n * PAGE, policy, flags | draw.choice((0, pm.MPOL_MF_STRICT))
            )
        else:
            pfns = app.frames(base, n)
            pfns = pfns[pfns > 0]
            move = self.machine.start_migrate_frames(pfns, [node] * len(pfns))
        self.kept.append(move)

    def step(self, draw: random.Random) -> list[object]:
        """Step one migration to its next stop, or its end."""
        moves = [move for move in self.machine.migrations if not move.done]
        move = draw.choice(moves)
        event = move.step()
        if event is None:
            try:
                return ["over", repr(move.result)]
            except (OSError, pm.KernelBug) as error:
                return ["failed", repr(error)]
        return [event.at, event.source.tolist(), event.target.tolist(), *event[3:]]

    def act(self, i: int) -> list[object]:
        """Make the call of step ``i``; return its result."""
        draw = random.Random(f"{self.seed} {i}")
        under_way = bool(self.machine.migrations)
        if self.started < 3 and (not under_way or draw.random() < 0.15):
            self.started += 1
            try:
                self.start(draw)
            except RuntimeError:
                return ["has to wait"]
            return ["started"]
        if under_way and draw.random() < 0.75:
            return self.step(draw)
        return self.meet(draw)

    def meet(self, draw: random.Random) -> list[object]:
        """Access pages, also some that are being migrated."""
        said: list[object] = []
        with self.process(draw).context() as cpu:
            for _ in range(3):
                base, n = draw.choice(self.regions)
                va = base + draw.randrange(n) * PAGE
                said += [cpu.access(va, write=draw.random() < 0.5), cpu.node, cpu.waits_for]
        return said

    def play(self, first: int, last: int) -> list[list[object]]:
        said = []
        for i in range(first, last):
            said.append(self.act(i))
            self.machine.check(full=True)
        return said


def twins(kernel: str, seed: int, width: int, folder: Path, way: Way, steps: int = 40) -> set[str]:
    """Run a world, and from each step a copy to the end; return the stops of its migrations."""
    world = World.made(kernel, seed, width)
    whole = World.made(kernel, seed, width)
    said = whole.play(0, steps)
    at = set()
    for i in range(steps):
        if world.machine.migrations:
            twin = world.twin(way(world.machine, folder))
            twin.machine.check(full=True)
            assert seen(twin.machine) == seen(world.machine)
            assert twin.play(i, steps) == said[i:], f"from step {i}, {said[i - 1]}"
            assert seen(twin.machine) == seen(whole.machine)
        at.add(str(world.act(i)[0]))
    return at


@pytest.mark.parametrize("width", [1, 5, 64])
@pytest.mark.parametrize("kernel", list(pm.KERNELS))
def test_a_machine_goes_on_with_its_migrations(kernel: str, width: int, tmp_path: Path) -> None:
    for seed in range(6):
        way = list(WAYS.values())[(seed + width) % 3]
        twins(kernel, seed, width, tmp_path, way)
