"""What a machine is lies in its core; the objects of Python are handles on it."""

import ctypes
from typing import Any

import numpy as np
import pytest

import pagemig as pm
from pagemig.errors import ProcessGoneError

PAGE = pm.PAGE_SIZE
#: What a machine keeps in Python: what it was made of, handles of processes and of migrations in
#: progress, and code it calls.
MADE_OF = {"nodes", "profile", "distances", "page_bytes", "access_stats"}
HANDLES = {"_known", "_migrations", "_taken_up", "_vm_ops", "_vm_hooks", "_callbacks"}


def new_machine() -> pm.Machine:
    nodes = [pm.Node("1MiB", cpus=1), pm.Node("1MiB", cpus=1), pm.Node("1MiB", watermark="64KiB")]
    return pm.Machine(nodes, kernel="6.12", page_bytes=8, weights=[1, 2, 3])


def work(machine: pm.Machine) -> pm.Process:
    """A bit of everything that changes a machine."""
    app = machine.spawn(cpu=1, uid=1000)
    base = app.mmap(8 * PAGE)
    app.touch(base, 8 * PAGE, write=True, values=range(8))
    app.mbind(base, 4 * PAGE, pm.Interleave([0, 1, 700], static=True), pm.MPOL_MF_MOVE)
    file = machine.file("ext4", 4 * PAGE, path="/data/file")
    app.mmap(4 * PAGE, file=file, populate=True)
    child = app.fork()
    child.exit(zombie=True)
    machine.offline(2)
    machine.online(2)
    machine.tracing = True
    app.move_pages([base], 2)
    machine.tracing = False
    machine.trace_locks = True
    app.cpu = 0
    return app


def state_of(thing: Any) -> dict[str, Any]:
    slots = {name for cls in type(thing).__mro__ for name in cls.__dict__.get("__slots__", ())}
    named = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    return named | vars(thing) if hasattr(thing, "__dict__") else named


def test_a_machine_keeps_nothing_in_python() -> None:
    machine = new_machine()
    before = {name: state_of(machine)[name] for name in MADE_OF}
    app = work(machine)
    assert set(state_of(machine)) == MADE_OF | HANDLES
    assert {name: state_of(machine)[name] for name in MADE_OF} == before
    assert set(state_of(app)) == {"machine"}


def test_a_handle_is_as_good_as_another() -> None:
    """A process found only by its number is the same process as before."""
    machine = new_machine()
    app = work(machine)
    pid, child = app.pid, machine.processes[1].pid
    del app
    machine._known.clear()
    found = machine.process(pid)
    assert (found.pid, found.uid, found.cpu, found.alive) == (pid, 1000, 0, True)
    zombie = machine.process(child)
    assert not zombie.alive
    zombie.reap()
    with pytest.raises(KeyError):
        machine.process(child)
    with pytest.raises(ProcessGoneError):
        pm.Process(machine, child)
    assert [process.pid for process in machine.processes] == [pid]
    assert any(vma.path == "/data/file" for vma in found.vmas())


def test_a_process_made_while_a_node_was_away_uses_it_later() -> None:
    machine = pm.Machine([pm.Node("1MiB", cpus=1), "1MiB", "1MiB"])
    machine.offline(1)
    app = machine.spawn()
    base = app.mmap(4 * PAGE)
    app.touch(base, 4 * PAGE, write=True)
    assert app.get_mempolicy(pm.MPOL_F_MEMS_ALLOWED).nodes == (0, 2)
    machine.online(1)
    assert app.get_mempolicy(pm.MPOL_F_MEMS_ALLOWED).nodes == (0, 1, 2)
    pages = [base + k * PAGE for k in range(4)]
    assert app.move_pages(pages, 1).status.tolist() == [1] * 4
    app.mbind(base, 4 * PAGE, pm.Bind([2]), pm.MPOL_MF_MOVE)
    assert app.move_pages(pages).status.tolist() == [2] * 4


def test_a_machine_without_processors_keeps_its_nodes_as_given() -> None:
    """Each node gets a processor, and nothing else of it changes."""
    node = pm.Node("1MiB", reserved="16KiB", watermark="64KiB")
    machine = pm.Machine([node, "1MiB"])
    assert machine.nodes == (pm.Node("1MiB", 1, "16KiB", "64KiB"), pm.Node("1MiB", 1))


def test_a_watermark_is_left_to_allocations_that_take_no_other_node() -> None:
    """``zone_watermark_ok``: allocations that may go elsewhere do so before the node is empty."""
    machine = pm.Machine([pm.Node("1MiB", cpus=1, watermark="256KiB"), "4MiB"])
    app = machine.spawn()
    base = app.mmap(250 * PAGE)
    app.touch(base, 250 * PAGE, write=True)
    left = machine.free(0)
    assert left >= 64 * PAGE
    bound = app.mmap(40 * PAGE)
    app.mbind(bound, 40 * PAGE, pm.Bind([0]))
    assert app.touch(bound, 40 * PAGE, write=True).done == 40
    assert machine.free(0) == left - 40 * PAGE
    machine.check(full=True)


def resident(address: int, nbytes: int) -> np.ndarray:
    """Which pages of memory of this process were ever touched."""
    flags = np.zeros(nbytes // PAGE, dtype=np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    where, size = ctypes.c_void_p(address), ctypes.c_size_t(nbytes)
    assert libc.mincore(where, size, flags.ctypes.data_as(ctypes.c_void_p)) == 0
    return np.flatnonzero(flags & 1)


def touched_words(machine: pm.Machine) -> list[np.ndarray]:
    """Every word of the arenas that is not 0, after its place."""
    out = []
    for arena in machine._arenas():
        there = resident(arena.ctypes.data, arena.nbytes)
        words = arena.view(np.uint64).reshape(-1, PAGE // 8)[there]
        row, column = np.nonzero(words)
        places = (there[row] * 512 + column).astype(np.uint64)
        out.append(np.stack([places, words[row, column]]))
    return out


def test_arenas_hold_no_pointer() -> None:
    """Two machines that did the same lie at other addresses, and are equal byte by byte."""
    ours, theirs = new_machine(), new_machine()
    work(ours)
    work(theirs)
    for mine, other in zip(touched_words(ours), touched_words(theirs), strict=True):
        assert np.array_equal(mine, other)


def test_sets_beyond_64_nodes_are_told_apart_in_any_number() -> None:
    """Two static policies whose absent nodes differ do not merge, however many came before."""
    machine = pm.Machine(["1MiB", "1MiB"])
    app = machine.spawn()
    base = app.mmap(2 * PAGE)
    for k in range(9000):
        nodes = [0, *(64 + bit for bit in range(20) if k >> bit & 1), 1000]
        app.set_mempolicy(pm.MPOL_BIND | pm.MPOL_F_STATIC_NODES, nodes)
    app.mbind(base, PAGE, pm.Bind([0, 900], static=True))
    app.mbind(base + PAGE, PAGE, pm.Bind([0, 901], static=True))
    assert len(app.vmas()) == 2
    app.mbind(base + PAGE, PAGE, pm.Bind([0, 900], static=True))
    assert len(app.vmas()) == 1
    machine.check(full=True)


def test_relative_nodes_count_to_1024() -> None:
    """Node ``n`` of a relative set is number ``n`` modulo their count of the nodes there are."""
    machine = pm.Machine(["1MiB", "1MiB", "1MiB"])
    app = machine.spawn()
    for node in (0, 5, 64, 200, 1023):
        app.set_mempolicy(pm.MPOL_BIND | pm.MPOL_F_RELATIVE_NODES, [node])
        base = app.mmap(PAGE)
        app.touch(base, PAGE, write=True)
        assert app.move_pages([base]).status.tolist() == [node % 3]
