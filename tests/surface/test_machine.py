"""The machine: what it is made of, how it is seen, its counters and steps."""

import ctypes
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

import pagemig as pm
from pagemig.system.frames import FRAME_FLAGS
from pagemig.system.machine import STEPS, format_size
from support.machines import PAGE, at, error_of, four_nodes, mapped, where


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 << 30),
        ("512 MiB", 512 << 20),
        ("1.5G", 3 << 29),
        ("64k", 64 << 10),
        ("2 tib", 2 << 40),
        ("8192", 8192),
        ("8192B", 8192),
        (12288, 12288),
        (np.int64(4096), 4096),
        (0, 0),
    ],
)
def test_sizes(text: int | str, size: int) -> None:
    assert pm.Node(text).size == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (4 << 30, "4 GiB"),
        (4096, "4 KiB"),
        (3 << 29, "1536 MiB"),
        (100, "100 B"),
        (1 << 40, "1 TiB"),
    ],
)
def test_sizes_are_written_in_the_largest_whole_unit(size: int, text: str) -> None:
    assert format_size(size) == text


def test_nodes() -> None:
    machine = pm.Machine([pm.Node("4MiB", cpus=2), "8MiB", pm.Node(0, cpus=1), pm.Node("1MiB")])
    assert [node.size >> 20 for node in machine.nodes] == [4, 8, 0, 1]
    assert (machine.nr_nodes, machine.nr_cpus, machine.cpus) == (4, 3, (0, 0, 2))
    assert machine.memory_nodes == (0, 1, 3)
    assert [machine.cpu_node(cpu) for cpu in range(3)] == [0, 0, 2]
    assert machine.node_of([0, 1023, 1024, 3071, 3072, 3327]).tolist() == [0, 0, 1, 1, 3, 3]
    assert repr(machine) == "<Machine 6.1: 4 nodes, 3 cpus, 0 processes, 13 MiB>"
    assert [repr(node) for node in machine.nodes[:2]] == ["Node('4 MiB', cpus=2)", "Node('8 MiB')"]


def test_a_machine_without_processors_gets_one_on_each_node() -> None:
    assert pm.Machine(["1MiB"] * 3).cpus == (0, 1, 2)


def test_what_the_kernel_keeps_is_not_free() -> None:
    machine = pm.Machine([pm.Node("4MiB", cpus=1, reserved="1MiB"), pm.Node("4MiB")])
    assert machine.free(0) == 3 << 20
    assert machine.free(1) == 4 << 20


def test_processors_without_memory_allocate_nearby() -> None:
    machine = pm.Machine(
        ["1MiB", "1MiB", pm.Node(0, cpus=1)], distances=[[10, 20, 30], [20, 10, 15], [30, 15, 10]]
    )
    app = machine.spawn()
    mapped(app, 2)
    assert (app.node, where(app, 0, 2)) == (2, "11")


def test_fallback_is_by_distance() -> None:
    distances = [[10, 40, 20], [40, 10, 30], [20, 30, 10]]
    machine = pm.Machine([pm.Node("64KiB", cpus=1), "1MiB", "64KiB"], distances=distances)
    app = machine.spawn()
    mapped(app, 40)
    found = where(app, 0, 40)
    assert found == "0" * found.count("0") + "2" * found.count("2") + "1" * found.count("1")
    assert 0 < found.count("0") < 17
    machine.check(full=True)


def test_kernels() -> None:
    for name, profile in pm.KERNELS.items():
        machine = pm.Machine(["1MiB"], kernel=name)
        assert (machine.kernel, machine.profile) == (name, profile)
        assert pm.Machine(["1MiB"], kernel=profile).kernel == name
    assert pm.Machine(["1MiB"]).kernel == pm.DEFAULT_KERNEL == "6.1"


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("move_pages", lambda app: app.move_pages([0])),
        ("move_pages", lambda app: app.move_pages(np.zeros(1, np.uint64))),
        ("migrate_pages", lambda app: app.migrate_pages([0], [1])),
        ("mbind", lambda app: app.mbind(0, PAGE, pm.Bind([1]))),
        ("set_mempolicy", lambda app: app.set_mempolicy(pm.Bind([1]))),
        ("get_mempolicy", lambda app: app.get_mempolicy()),
        ("set_mempolicy_home_node", lambda app: app.set_mempolicy_home_node(0, PAGE, 1)),
    ],
)
def test_calls_a_kernel_does_not_have(name: str, call: Callable[[pm.Process], object]) -> None:
    known = pm.kernel_profile("6.1")
    old = replace(known, name="old", calls=known.calls - {name})
    app = pm.Machine(["1MiB", "1MiB"], kernel=old).spawn()
    assert error_of(call, app) == "ENOSYS"


def test_processes() -> None:
    machine = four_nodes()
    app = machine.spawn(cpu=1, uid=1000)
    child = app.fork()
    assert machine.processes == [app, child]
    assert machine.process(child.pid) is child
    assert (child.uid, child.cpu, child.node) == (1000, 1, 1)
    child.cpu = 0
    assert (app.node, child.node) == (1, 0)
    child.exit(zombie=True)
    assert repr(child) == f"<Process {child.pid}, zombie>"
    assert machine.processes == [app, child]
    child.reap()
    assert machine.processes == [app]
    with pytest.raises(KeyError):
        machine.process(child.pid)
    assert repr(app) == f"<Process {app.pid}, uid 1000, cpu 1, 0 mappings, 0 kB>"
    assert repr(child) == f"<Process {child.pid}, exited>"


def test_processes_live_without_an_object() -> None:
    machine = four_nodes()
    pid = machine.spawn(cpu=1).pid
    mapped(machine.process(pid), 4)
    assert where(machine.process(pid), 0, 4) == "1111"
    assert [process.pid for process in machine.processes] == [pid]
    machine.process(pid).exit(zombie=True)
    assert not machine.process(pid).alive
    machine.process(pid).reap()
    assert machine.processes == []
    machine.check(full=True)


def test_a_machine_is_gone_with_its_last_name() -> None:
    machine = four_nodes()
    app = machine.spawn()
    mapped(app, 4)
    file, frames = machine.file("tmpfs", PAGE), machine.frames
    seen = weakref.ref(machine)
    gc.disable()
    try:
        del machine, app, file, frames
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs", "ext4"])
def test_files(kind: str) -> None:
    machine = four_nodes(page_bytes=8)
    app = machine.spawn()
    with machine.file(kind, 4 * PAGE, ino=99) as file:
        assert (file.kind, file.size, file.ino, file.cached) == (kind, 4 * PAGE, 99, 0)
        assert app.fwrite(file, 2, [5, 6, 7]) == 3
        assert (file.size, file.cached) == (5 * PAGE, 3)
        assert app.fread(file, 0, 8).tolist() == [0, 0, 5, 6, 7]
        app.ftruncate(file, 3 * PAGE)
        assert app.fread(file, 1, 8).tolist() == [0, 5]
        base = app.mmap(3 * PAGE, file=file, shared=True)
    assert file.closed
    read = app.touch(base, 3 * PAGE).values
    assert read is not None
    assert read.tolist() == [0, 0, 5]
    app.munmap(base, 3 * PAGE)
    machine.check(full=True)


def test_frames() -> None:
    machine = four_nodes()
    app = machine.spawn()
    mapped(app, 4)
    pfns = app.frames(at(0), 4).astype(np.int64)
    frames = machine.frames
    assert len(frames) == 4 * 4096
    assert frames.refcount[pfns].tolist() == frames.mapcount[pfns].tolist() == [1] * 4
    assert frames.flag("anon")[pfns].all()
    assert not frames.flag("locked").any()
    assert (frames.flags[pfns] >> FRAME_FLAGS["anon"] & 1).all()
    assert frames.nid[pfns].tolist() == [0] * 4
    assert frames.index[pfns].tolist() == [(at(k) >> 12) & 0xFFFFFFFF for k in range(4)]
    assert "anon_vma" in frames.describe(int(pfns[0]))
    with pytest.raises(ValueError, match="read-only"):
        frames.state[pfns[0]] = 0
    pin = app.pin(at(0), PAGE, "uring")
    assert frames.refcount[pfns[0]] == 1 + 1024
    app.unpin(pin)


def test_content_is_a_view() -> None:
    machine = four_nodes(page_bytes=4096)
    app = machine.spawn()
    mapped(app, 1, touched=False)
    app.touch(at(0), PAGE, write=True, values=42)
    content = machine.content
    assert content is not None
    pfn = int(app.frames(at(0), 1)[0])
    assert (content[pfn, 0], content[pfn, -1]) == (42, 42)
    assert four_nodes().content is None


@pytest.mark.parametrize("n", [1, 2, 3, 63, 64, 65, 130])
def test_every_byte_moves(n: int) -> None:
    """Also with a page in the middle of a stage that stays."""
    machine = four_nodes(page_bytes=4096)
    app = machine.spawn()
    mapped(app, n)
    content = machine.content
    assert content is not None
    memory = (ctypes.c_uint64 * content.size).from_address(content.ctypes.data)
    before = np.random.default_rng(n).integers(0, 1 << 63, (n, 512), dtype=np.uint64)
    np.frombuffer(memory, dtype=np.uint64).reshape(content.shape)[frames_of(app, n)] = before
    pinned = app.pin(at(n // 2), PAGE, "uring") if n > 1 else None
    first = frames_of(app, n)
    app.move_pages([at(page) for page in range(n)], 1)
    stayed = np.flatnonzero(frames_of(app, n) == first).tolist()
    assert stayed == ([n // 2] if pinned else [])
    assert (content[frames_of(app, n)] == before).all()


def frames_of(app: pm.Process, n: int) -> npt.NDArray[np.uint64]:
    return app.frames(at(0), n)


def test_page_tables_can_be_walked() -> None:
    """Four levels in the x86-64 layout; tables have physical numbers above the frames."""
    machine = four_nodes()
    app = machine.spawn()
    mapped(app, 1, 3)
    tables, virtual = machine.page_tables, at(3) >> 12
    leaves = [table for table in tables if (table & np.uint64(1)).any()]
    assert leaves
    entry = int(app._ptes(at(3), 1)[0])
    assert any(int(table[virtual & 511]) == entry for table in leaves)


def test_counters() -> None:
    machine = four_nodes()
    app = machine.spawn()
    mapped(app, 8)
    app.cpu = 1
    app.set_mempolicy(pm.Bind([3]))
    mapped(app, 4, 8)
    stat = machine.vmstat
    assert (stat["pgfault"], stat["pgmigrate_success"]) == (12, 0)
    assert (stat["numa_hit"], stat["numa_local"], stat["numa_other"]) == (12, 8, 4)
    assert stat["nr_free_pages"] == sum(machine.free(nid) for nid in range(4)) // PAGE
    assert set(machine.counters) >= {"lock_page", "tlb_flush", "host_waits"}


def test_trace_of_a_migration() -> None:
    machine = four_nodes()
    app = machine.spawn()
    mapped(app, 2)
    machine.tracing = True
    app.move_pages([at(0), at(1)], 1)
    machine.tracing = False
    assert not machine.tracing
    trace = machine.trace
    steps = [STEPS[step] for step in trace["step"].tolist()]
    first = int(trace["pfn"][0])
    order = [step for step, pfn in zip(steps, trace["pfn"], strict=True) if pfn == first]
    assert order[:2] == ["isolate", "lock"]
    assert steps.index("unmap") < steps.index("copy") < steps.index("restore")
    copies = trace[trace["step"] == 6]
    assert machine.node_of(copies["pfn"]).tolist() == [0, 0]
    assert machine.node_of(copies["arg"]).tolist() == [1, 1]
    app.move_pages([at(0)], 2)
    assert len(machine.trace) == len(trace)


def test_steps_can_be_interfered_with() -> None:
    machine = four_nodes()
    app = machine.spawn()
    mapped(app, 2)
    seen: list[tuple[str, int]] = []
    machine.at_step(lambda step, pfns: seen.append((step, len(pfns))))
    app.move_pages([at(0), at(1)], 1)
    machine.at_step(None)
    app.move_pages([at(0), at(1)], 2)
    assert [step for step, _ in seen] == list(STEPS.values())[:8]

    def stop(step: str, pfns: list[int]) -> None:
        raise RuntimeError(step)

    machine.at_step(stop)
    with pytest.raises(RuntimeError):
        app.move_pages([at(0)], 3)
    machine.at_step(None)
    machine.check(full=True)


def test_migrate_frames() -> None:
    machine = four_nodes()
    app = machine.spawn()
    mapped(app, 4)
    child = app.fork()
    pfns = app.frames(at(0), 4)
    result = machine.migrate_frames(pfns, [1, 2, 3, 0])
    assert result.status.tolist()[:3] == [1, 2, 3]
    assert where(app, 0, 4) == where(child, 0, 4) == "1230"
    machine.check(full=True)


def test_scattered_frames() -> None:
    first, second = (four_nodes(scatter=seed).spawn() for seed in (1, 2))
    orders = []
    for app in (first, second):
        mapped(app, 64)
        orders.append(app.frames(at(0), 64).tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) != orders[0]
    first.machine.check(full=True)


def test_access_counts() -> None:
    machine = four_nodes(access_stats=True)
    app = machine.spawn()
    mapped(app, 2)
    app.access([at(0), at(0) + 8, at(1)], write=[False, True, False])
    app.cpu = 1
    result = app.access(np.array([at(1)] * 5, dtype=np.uint64))
    assert (result.done, result.signal) == (5, None)
    counts = app.access_counts(at(0), 2)
    assert counts.shape == (4, 2)
    assert (counts[1].tolist(), counts[2:].any()) == ([0, 5], False)
    stopped = app.access([at(0), at(9), at(1)])
    assert (stopped.done, stopped.signal, stopped.index) == (1, "SIGSEGV", 1)


def test_signals() -> None:
    machine = four_nodes()
    app = machine.spawn()
    mapped(app, 4, touched=False)
    stopped = app.touch(at(2), 4 * PAGE, write=True)
    assert (stopped.done, stopped.signal, stopped.index) == (2, "SIGSEGV", 2)
    file = machine.file("tmpfs", 2 * PAGE)
    mapped(app, 4, 8, touched=False, file=file, shared=True)
    stopped = app.touch(at(8), 4 * PAGE)
    assert (stopped.done, stopped.signal, stopped.index) == (2, "SIGBUS", 2)
    assert app.touch(at(0), 0).done == 0
    assert app.touch(at(0) + 4095, 2).done == 2


def test_out_of_memory_kills() -> None:
    machine = pm.Machine([pm.Node("1MiB", cpus=1)])
    app = machine.spawn()
    base = app.mmap(2 * pm.MiB)
    stopped = app.touch(base, 2 * pm.MiB, write=True)
    assert stopped.signal == "SIGKILL"
    assert not app.alive
    with pytest.raises(pm.ProcessGoneError):
        app.munmap(base, PAGE)
    machine.check(full=True)
    app.reap()
    assert machine.spawn().touch(0, 0).done == 0


def test_include_folder() -> None:
    assert pm.get_include().endswith("include")


def test_counters_are_also_a_view() -> None:
    machine = pm.Machine(["1MiB", "1MiB"])
    view = machine.cpu_counters
    assert view.shape[1] == len(machine.counters)
    assert not view.flags.owndata
    assert not view.flags.writeable
    app = machine.spawn()
    base = app.mmap(5 * pm.PAGE_SIZE)
    before = view.sum(axis=0)
    app.touch(base, 5 * pm.PAGE_SIZE, write=True)
    names = list(machine.counters)
    grown = dict(zip(names, (view.sum(axis=0) - before).tolist(), strict=True))
    assert (grown["pgfault"], grown["pgalloc"], grown["pgmigrate_success"]) == (5, 5, 0)
    assert dict(zip(names, view.sum(axis=0).tolist(), strict=True)) == machine.counters
    del machine, app
    assert view.sum() > 0  # the view keeps what it shows
