"""A machine that is saved, loaded, copied or pickled goes on as the one it was."""

import copy
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

import pagemig as pm
from pagemig.system import state
from pagemig.testing.poke import poke

PAGE = pm.PAGE_SIZE


def small(kernel: str = "6.1", **options: object) -> pm.Machine:
    nodes = [pm.Node("512KiB", cpus=2), pm.Node("512KiB", cpus=1), "1MiB"]
    return pm.Machine(nodes, kernel=kernel, page_bytes=8, **options)  # type: ignore[arg-type]


def work(machine: pm.Machine, seed: int, n: int = 60) -> list[object]:
    """Make calls that a seed decides; what they answer."""
    draw = random.Random(seed)
    said: list[object] = []
    for _ in range(n):
        processes = [p for p in machine.processes if p.pid != pm.INIT_PID]
        app = draw.choice(processes) if processes else machine.spawn(cpu=draw.randrange(3))
        vmas = app.vmas()
        try:
            match draw.randrange(9):
                case 0 if len(processes) < 4:
                    said.append(app.fork().pid)
                case 1:
                    said.append(app.mmap(draw.randint(1, 20) * PAGE))
                case 2 if len(processes) > 2:
                    said.append(app.exit())
                case 3 if vmas:
                    vma = draw.choice(vmas)
                    said.append(app.munmap(vma.start, PAGE))
                case 4 if vmas:
                    vma = draw.choice(vmas)
                    nodes = draw.sample(range(3), draw.randint(1, 3))
                    said.append(app.mbind(vma.start, PAGE, pm.Interleave(nodes), pm.MPOL_MF_MOVE))
                case 5 if vmas:
                    vma = draw.choice(vmas)
                    pages = np.arange(vma.start, vma.end, PAGE, dtype=np.uint64)
                    said.append(app.move_pages(pages, draw.randrange(3)).status.tolist())
                case _ if vmas:
                    vma = draw.choice(vmas)
                    n_pages = (vma.end - vma.start) // PAGE
                    value = draw.randrange(1 << 60)
                    values = np.full(n_pages, value, np.uint64)
                    said.append(
                        repr(app.touch(vma.start, vma.end - vma.start, write=True, values=values))
                    )
        except OSError as error:
            said.append(error.errno)
    return said


def seen(machine: pm.Machine) -> list[object]:
    """All that can be seen of a machine."""
    shown: list[object] = [machine.vmstat, machine.counters]
    shown += [machine.free(nid) for nid in range(machine.nr_nodes)]
    content = machine.content
    assert content is not None
    shown += [machine.frames.raw.tobytes(), machine.page_tables.tobytes(), content.tobytes()]
    for process in machine.processes:
        if process.pid != pm.INIT_PID:
            shown += [process.pid, process.numa_maps(), [repr(vma) for vma in process.vmas()]]
    return shown


def through_file(machine: pm.Machine, folder: Path) -> pm.Machine:
    machine.save(folder / "machine")
    return pm.Machine.load(folder / "machine")


WAYS = {
    "save": through_file,
    "copy": lambda machine, folder: machine.copy(),
    "deepcopy": lambda machine, folder: copy.deepcopy(machine),
    "pickle": lambda machine, folder: pickle.loads(pickle.dumps(machine)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kernel", ["6.1", "6.12", "2.6.18"])
def test_what_follows_is_what_would_have_followed(way: str, kernel: str, tmp_path: Path) -> None:
    machine = small(kernel)
    machine.spawn()
    work(machine, 1)
    other = WAYS[way](machine, tmp_path)
    other.check(full=True)
    assert seen(other) == seen(machine)
    assert work(other, 2) == work(machine, 2)
    assert seen(other) == seen(machine)
    other.check(full=True)
    machine.check(full=True)


def test_the_copy_and_the_original_go_their_own_ways() -> None:
    machine = small()
    app = machine.spawn()
    base = app.mmap(PAGE)
    app.touch(base, PAGE, write=True, values=np.array([5], np.uint64))
    other = machine.copy()
    other.process(app.pid).touch(base, PAGE, write=True, values=np.array([6], np.uint64))
    assert app.touch(base, PAGE).values.tolist() == [5]
    assert other.process(app.pid).touch(base, PAGE).values.tolist() == [6]


def test_a_profile_of_ones_own_comes_along(tmp_path: Path) -> None:
    import dataclasses

    profile = dataclasses.replace(pm.kernel_profile("6.12"), name="mine", batch=16)
    machine = pm.Machine(["1MiB"], kernel=profile)
    assert through_file(machine, tmp_path).profile == profile


def test_a_file_that_is_cut_anywhere_is_no_machine(tmp_path: Path) -> None:
    path = tmp_path / "machine"
    machine = pm.Machine([pm.Node("64KiB", cpus=1)])
    machine.spawn().mmap(PAGE)
    machine.save(path)
    whole = path.read_bytes()
    random_ = random.Random(3)
    cuts = {*range(400), *random_.sample(range(len(whole)), 150), len(whole) - 1}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        with pytest.raises(pm.StateError, match=r"take another copy|no saved machine"):
            pm.Machine.load(path)


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "machine"
    machine = pm.Machine([pm.Node("64KiB", cpus=1)])
    app = machine.spawn()
    app.touch(app.mmap(4 * PAGE), 4 * PAGE, write=True)
    machine.save(path)
    whole = path.read_bytes()
    random_ = random.Random(4)
    for at in [*range(72), *random_.sample(range(len(whole)), 300)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << random_.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(pm.StateError):
            pm.Machine.load(path)


def test_another_layout_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "machine"
    pm.Machine(["64KiB"]).save(path)
    data = bytearray(path.read_bytes())
    data[16] ^= 1
    path.write_bytes(data)
    with pytest.raises(pm.StateError, match="load it with the pagemig that saved it"):
        pm.Machine.load(path)


def test_an_open_context_keeps_a_machine_from_being_saved(tmp_path: Path) -> None:
    machine = small()
    app = machine.spawn()
    with app.context(), pytest.raises(pm.StateError, match="context has a process"):
        machine.save(tmp_path / "machine")
    assert not (tmp_path / "machine").exists()
    machine.save(tmp_path / "machine")


def test_operations_in_python_keep_a_machine_from_being_saved_while_a_mapping_has_them(
    tmp_path: Path,
) -> None:
    machine = small()
    app = machine.spawn()
    base = app.mmap(2 * PAGE)
    app.set_vm_ops(base, migrate=lambda *_: 0)
    for way in WAYS.values():
        with pytest.raises(pm.StateError, match="unmap them first"):
            way(machine, tmp_path)
    app.munmap(base, 2 * PAGE)
    for way in WAYS.values():
        other = way(machine, tmp_path)
        process = other.process(app.pid)
        process.set_vm_ops(process.mmap(PAGE), migrate=lambda *_: 0)
        other.check(full=True)


def test_a_saved_mapping_with_operations_is_no_mapping(tmp_path: Path) -> None:
    """Its hook would be one of Python, which no file has."""
    machine = small()
    app = machine.spawn()
    app.mmap(PAGE)
    poke(machine, "vma", int(app._vmas()["index"][0]), "ops", 1)
    path = tmp_path / "machine"
    state.write(machine, machine._description(), path)
    with pytest.raises(pm.StateError, match="describes an impossible machine"):
        pm.Machine.load(path)
