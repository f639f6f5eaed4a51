"""Threads of a program: tasks in one address space.

Each has processor, policy, cursor, credentials and fault counts. What is expected comes from the
kernel's rules: mempolicy(7), clone(2), exit_group(2), and the code they describe.
"""

import ctypes
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import pagemig as pm
from pagemig import api
from pagemig.scenario.run import ScenarioRun
from support.machines import PAGE, at, four_nodes, mapped, pages

N = 16


@pytest.fixture(params=["2.6.17", "2.6.18", "6.1", "6.12"])
def machine(request: pytest.FixtureRequest) -> pm.Machine:
    return four_nodes(request.param, page_bytes=8)


def nodes(process: pm.Process, first: int = 0, n: int = N) -> list[int]:
    return [int(node) for node in process.nodes(at(first), n)]


def free(machine: pm.Machine) -> int:
    return sum(machine.free(nid) for nid in range(4))


# ---- one address space ------------------------------------------------------------


def test_memory_is_one(machine: pm.Machine) -> None:
    app = machine.spawn()
    thread = app.thread(cpu=1)
    base = mapped(app, N, touched=False)
    app.touch(base, N * PAGE, write=True, values=np.arange(N, dtype=np.uint64))
    assert thread.touch(base, N * PAGE).values.tolist() == list(range(N))
    thread.munmap(base, PAGE)
    assert app.touch(base, PAGE).signal == "SIGSEGV"
    assert [vma.start for vma in app.vmas()] == [vma.start for vma in thread.vmas()]
    assert (app.leader, thread.leader) == (app.pid, app.pid)
    assert app.threads == thread.threads == [app, thread]
    assert machine.processes == [app]  # as /proc lists them
    assert machine.process(thread.pid) is thread
    machine.check(full=True)


def test_a_fault_is_its_threads(machine: pm.Machine) -> None:
    """Where it runs, by its policy, and on its account."""
    app = machine.spawn(cpu=0)
    thread = app.thread(cpu=1)
    base = mapped(app, N, touched=False)
    app.touch(base, 4 * PAGE, write=True)
    thread.touch(base + 4 * PAGE, 4 * PAGE, write=True)
    thread.set_mempolicy(pm.Bind([3]))
    thread.touch(base + 8 * PAGE, 4 * PAGE, write=True)
    app.touch(base + 12 * PAGE, 4 * PAGE, write=True)
    assert nodes(app) == [0] * 4 + [1] * 4 + [3] * 4 + [0] * 4
    assert app.get_mempolicy().policy == pm.Default()
    assert thread.get_mempolicy().policy == pm.Bind([3])
    assert (app._faults()[0], thread._faults()[0]) == (8, 8)
    machine.check(full=True)


def test_mbind_is_the_address_spaces(machine: pm.Machine) -> None:
    app = machine.spawn(cpu=0)
    thread = app.thread(cpu=1)
    base = mapped(app, N, touched=False)
    thread.mbind(base, N * PAGE, pm.Bind([2]))
    app.touch(base, 8 * PAGE, write=True)
    thread.touch(base + 8 * PAGE, 8 * PAGE, write=True)
    assert nodes(app) == [2] * N


def test_a_thread_begins_with_its_callers_policy_and_cursor() -> None:
    """Pages without an address, as those of a page cache, take turns by the task's own cursor."""
    machine = four_nodes("6.1")
    app = machine.spawn(cpu=0)
    app.set_mempolicy(pm.Interleave([0, 1, 2]))
    file = machine.file("ext4", 9 * PAGE, read_ahead=0)

    def cursor(task: pm.Process) -> int:
        node = task.get_mempolicy(pm.MPOL_F_NODE).mode
        assert node is not None
        return node

    app.fread(file, 0)
    thread = app.thread(cpu=0)
    assert thread.get_mempolicy().policy == pm.Interleave([0, 1, 2])
    start = cursor(app)
    assert cursor(thread) == start  # a copy
    app.fread(file, 1)
    assert (cursor(app), cursor(thread)) == ((start + 1) % 3, start)
    thread.fread(file, 2, 2)
    assert (cursor(app), cursor(thread)) == ((start + 1) % 3, (start + 2) % 3)
    app.set_mempolicy(pm.Default())
    assert thread.get_mempolicy().policy == pm.Interleave([0, 1, 2])


def test_fork_copies_the_caller_alone(machine: pm.Machine) -> None:
    app = machine.spawn(cpu=0)
    thread = app.thread(cpu=1)
    thread.set_mempolicy(pm.Preferred(2))
    base = mapped(app, 4)
    child = thread.fork()
    assert child.threads == [child]
    assert (child.get_mempolicy().policy, child.cpu) == (pm.Preferred(2), 1)
    child.touch(base, PAGE, write=True)
    assert (nodes(child, 0, 1), nodes(app, 0, 1)) == ([2], [0])
    machine.check(full=True)


def test_limits_and_pins_are_the_processs(machine: pm.Machine) -> None:
    app = machine.spawn(uid=1000)
    thread = app.thread()
    mapped(app, 8)
    thread.limit_memlock(2 * PAGE)
    with pytest.raises(pm.SyscallError, match="ENOMEM"):
        app.mlock(at(0), 3 * PAGE)
    pin = thread.pin(at(0), PAGE)
    thread.exit_thread()
    assert "move_pages" not in machine.profile.calls or app.move_pages([at(0)], 1).status[0] < 0
    app.unpin(pin)
    machine.check(full=True)
    late = app.thread()
    with pytest.raises(pm.SyscallError):
        late.mlock(at(0), 3 * PAGE)


def test_credentials_are_the_threads_and_its_process_is_its_own() -> None:
    """same_thread_group: who shares a process may look at it, whoever it has become."""
    machine = four_nodes("6.1")
    app = machine.spawn(uid=0)
    thread = app.thread()
    mapped(app, 2)
    other = machine.spawn(uid=0)
    thread.setuid(1000)
    assert thread.move_pages(pages(0, 1), 1, pid=app).status.tolist() == [1]
    with pytest.raises(pm.SyscallError, match="EPERM"):
        thread.move_pages(pages(0, 1), 1, pid=other)
    assert app.move_pages(pages(0, 1), 0, pid=other).rc == 0  # still root


def test_what_moves_moves_for_all(machine: pm.Machine) -> None:
    app = machine.spawn(cpu=0)
    thread = app.thread(cpu=1)
    base = mapped(app, N)
    assert thread.migrate_pages({0}, {2}) == 0
    assert nodes(app) == [2] * N
    assert thread.migrate_pages({2}, {3}, pid=app) == 0
    assert nodes(thread) == [3] * N
    with thread.context() as context:
        assert context.access(base) == 0 and context.node == 3


def test_tlbs_of_all_processors_are_flushed() -> None:
    machine = four_nodes("6.1")
    app = machine.spawn(cpu=0)
    base = mapped(app, 2)
    seen: list[pm.Flush] = []
    machine.set_callbacks(flush=seen.append)
    app.munmap(base, PAGE)
    thread = app.thread(cpu=1)
    thread.touch(base + PAGE, PAGE)
    app.munmap(base, 2 * PAGE)
    assert [(flush.cpus, flush.ipis) for flush in seen] == [((0,), 0), ((0, 1), 1)]


# ---- how they end ------------------------------------------------------------


def test_a_thread_is_gone_at_once_and_memory_stays(machine: pm.Machine) -> None:
    app = machine.spawn()
    thread = app.thread()
    mapped(app, N)
    thread.exit_thread()
    assert not thread.alive and thread._reaped
    assert app.threads == [app]
    with pytest.raises(KeyError):
        machine.process(thread.pid)
    assert nodes(app) == [0] * N
    machine.check(full=True)


def test_the_leader_first(machine: pm.Machine) -> None:
    """A zombie without memory until the last thread has exited; memory and pins stay till then."""
    before = free(machine)
    app = machine.spawn()
    thread = app.thread()
    mapped(app, N)
    app.pin(at(0), PAGE)
    app.exit_thread()
    assert not app.alive and not app._reaped
    assert machine.processes == [app]
    assert app.threads == [thread]
    assert nodes(thread) == [0] * N
    with pytest.raises(ValueError, match="threads"):
        app.reap()
    if "move_pages" in machine.profile.calls:
        with pytest.raises(pm.SyscallError):  # it has no memory
            thread.move_pages(pages(0, 1), 1, pid=app)
        assert thread.move_pages(pages(0, 1), 1).status[0] < 0  # pinned
    machine.check(full=True)
    second = thread.thread()
    thread.exit_thread()
    second.exit_thread()
    assert app._reaped
    assert machine.processes == []
    assert free(machine) == before
    machine.check(full=True)


@pytest.mark.parametrize("who", [0, 1, 2])
@pytest.mark.parametrize("zombie", [False, True])
def test_exit_of_the_process_ends_all(machine: pm.Machine, who: int, zombie: bool) -> None:
    before = free(machine)
    app = machine.spawn()
    everybody = [app, app.thread(), app.thread(cpu=1)]
    mapped(app, N)
    everybody[who].exit(zombie=zombie)
    assert not any(task.alive for task in everybody)
    assert [task._reaped for task in everybody] == [not zombie, True, True]
    assert free(machine) == before
    machine.check(full=True)
    if zombie:
        app.reap()
        assert machine.processes == []


def test_out_of_memory_kills_the_whole_process() -> None:
    machine = pm.Machine([pm.Node("64KiB", cpus=1)])
    app = machine.spawn()
    thread = app.thread()
    base = app.mmap(1 << 20)
    assert thread.touch(base, 1 << 20, write=True).signal == "SIGKILL"
    assert not app.alive and not thread.alive
    assert machine.counters["oom_kill"] == 1
    machine.check(full=True)


def test_a_context_outlives_its_thread() -> None:
    machine = four_nodes("6.1")
    app = machine.spawn()
    thread = app.thread()
    base = mapped(app, 1)
    with thread.context() as context:
        app.exit()
        assert context.access(base) == 0  # a call under way, as it were
        machine.check(full=True)
    assert machine.processes == []
    machine.check(full=True)


# ---- in bulk ------------------------------------------------------------


def naive(machine: pm.Machine, order: list[tuple[int, int, bool]]) -> tuple[int, int, int]:
    minor = major = 0
    for done, (pid, address, write) in enumerate(order):
        result = machine.process(pid).touch(address & -PAGE, PAGE, write=write)
        minor, major = minor + result.minflt, major + result.majflt
        if result.signal:
            return done, minor, major
    return len(order), minor, major


@pytest.mark.parametrize("seed", range(6))
def test_populate_is_access_by_access(seed: int) -> None:
    draw = random.Random(seed)

    def world() -> tuple[pm.Machine, list[pm.Process]]:
        machine = four_nodes(["6.1", "6.12", "2.6.18"][seed % 3])
        app = machine.spawn(cpu=0)
        mapped(app, 40, touched=False)
        tasks = [app, app.thread(cpu=1), app.thread(cpu=0)]
        tasks[1].set_mempolicy(pm.Interleave([1, 2, 3]))
        tasks[2].set_mempolicy(pm.Preferred(2))
        child = app.fork()
        return machine, [*tasks, child, child.thread(cpu=1)]

    one, tasks = world()
    two, twins = world()
    assert [task.pid for task in tasks] == [task.pid for task in twins]
    last = 41 if seed % 2 else 39  # page 40 is not mapped: somebody gets a signal
    order = [
        (
            draw.choice(tasks).pid,
            at(draw.randint(0, last)) + draw.randint(0, 4095),
            draw.random() < 0.5,
        )
        for _ in range(300)
    ]
    pids, places, writes = (np.array(column) for column in zip(*order, strict=True))
    result = one.populate(places.astype(np.uint64), pids, write=writes)
    assert (result.done, result.minflt, result.majflt) == naive(two, order)
    assert (result.signal is None) == (result.done == 300)
    for task, twin in zip(tasks, twins, strict=True):
        assert task.frames(at(0), 40).tolist() == twin.frames(at(0), 40).tolist()
        assert task.pagemap(at(0), 40).tolist() == twin.pagemap(at(0), 40).tolist()
        assert task._faults() == twin._faults()
    one.check(full=True)


def test_what_populate_refuses() -> None:
    machine = four_nodes("6.1")
    app = machine.spawn()
    base = mapped(app, 2)
    with pytest.raises(KeyError):
        machine.populate([base], [app.pid + 77])
    with pytest.raises(ValueError, match="tasks must have 2 entries, not 1"):
        machine.populate([base, base], [app.pid])
    assert machine.populate([], []).done == 0
    app.exit(zombie=True)
    with pytest.raises(pm.ProcessGoneError):
        machine.populate([base], [app.pid])
    machine.check(full=True)


# ---- in the language of the recordings ----------------------------------------------------------


def states(ops: list[dict[str, Any]]) -> list[Any]:
    runner = ScenarioRun({"ops": ops}, machine=lambda _: four_nodes("6.1", page_bytes=8))
    return list(runner)


def test_scenario_of_policies() -> None:
    """By hand: the thread binds itself to node 2, which the first one does not notice."""
    results = states(
        [
            {"op": "mmap", "p": 0, "at": 0, "n": 4, "kind": "anon"},
            {"op": "thread", "p": 0, "child": 1, "on": 1},
            {"op": "set_mempolicy", "p": 1, "mode": "bind", "nodes": [2]},
            {"op": "touch", "p": 1, "at": 0, "n": 2, "write": True, "tok": 1},
            {"op": "touch", "p": 0, "at": 2, "n": 2, "write": True, "tok": 1},
            {"op": "exit", "p": 1, "alone": True},
            {"op": "touch", "p": 0, "at": 0, "n": 4, "write": False, "tok": 1},
            {"op": "exit", "p": 0},
        ]
    )
    assert [result["rc"] for result in results] == [0] * 8
    (vma,) = results[4]["state"]["0"]["vmas"]
    assert vma["node"] == "2200"
    assert results[5]["state"]["1"] is None  # gone
    assert results[7]["state"]["0"] is None


def test_scenario_of_an_exit_of_all() -> None:
    results = states(
        [
            {"op": "mmap", "p": 0, "at": 0, "n": 1, "kind": "anon"},
            {"op": "thread", "p": 0, "child": 1},
            {"op": "thread", "p": 1, "child": 2},
            {"op": "exit", "p": 2},
            {"op": "nop", "p": 0},
            {"op": "nop", "p": 1},
        ]
    )
    assert results[3]["rc"] == 0
    assert results[4] == results[5] == {"skipped": True}


# ---- through the table ------------------------------------------------------------


def test_the_tables_calls() -> None:
    machine = four_nodes("2.6.18", page_bytes=8)
    f = api.functions
    app = machine.spawn(cpu=0)
    base = mapped(app, 4)
    owner = ctypes.c_void_p(api.machine(machine))
    with app.context() as context:
        c = context.address
        tid = f.clone_thread(c, 1)
        assert tid == app.threads[1].pid
        assert f.clone_thread(c, 99) == -22
        other = ctypes.c_void_p()
        assert f.ctx_open(owner, tid, 1, 1, ctypes.byref(other)) == 0
        out = api.Outcome()
        assert f.access(other, base, 1, ctypes.byref(out)) == 0
        assert f.exit_thread(other) == 0
        assert f.access(other, base, 1, ctypes.byref(out)) == -3
        f.ctx_close(other)
        assert app.threads == [app]
        file = f.file_new(c, 3, 4)
        assert file > 0
        assert f.file_new(c, 9, 4) == -22
        where = f.mmap(c, 0, 2 * PAGE, 3, 1, file, 0)
        assert f.access(c, where + PAGE, 1, ctypes.byref(out)) in (1, 2)
        assert f.ftruncate(c, file, 1) == 0
        assert f.access(c, where + PAGE, 1, ctypes.byref(out)) == 4 and out.signal == 7
        assert f.file_close(c, file) == 0
        assert f.file_close(c, file) == -9  # the mapping's reference is not ours
        assert f.ftruncate(c, 99, 1) == -9
        assert f.mlockall(c, 1) == 0
        assert f.munlockall(c) == 0
        handle = ctypes.c_uint32()
        assert f.pin(c, base, 2, 0, ctypes.byref(handle)) == 2
        assert f.unpin(c, handle.value) == 0
        assert f.unpin(c, handle.value) == -9
        assert f.setuid(c, 1000, 1000, 1) == 0
        assert f.swapoff(c, 0) == 0
        assert f.swapoff(c, 0) == -22
        assert f.swapon(c, 0) == 0
        assert f.offline(c, 3) == 0
        assert 3 not in machine.memory_nodes
        assert f.online(c, 3) == 0
        assert f.offline(c, 77) == -22
    machine.check(full=True)


# ---- side by side ------------------------------------------------------------


def test_threads_of_the_host_as_threads_of_a_program() -> None:
    machine = four_nodes("6.1", page_bytes=8)
    app = machine.spawn(cpu=0)
    base = mapped(app, 256)

    def live(seed: int) -> int:
        draw = random.Random(seed)
        mine = app.thread(cpu=seed % 2)
        mine.set_mempolicy(pm.Bind([seed % 4]))
        for _ in range(30):
            page = draw.randrange(256)
            mine.touch(base + page * PAGE, PAGE, write=True)
            mine.move_pages([base + page * PAGE], draw.randrange(4))
            mine.thread().exit_thread()
        own = mine.mmap(4 * PAGE)
        mine.touch(own, 4 * PAGE, write=True)
        where = mine.nodes(own, 4).tolist()
        mine.exit_thread()
        return len(set(where) - {seed % 4})

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(live, range(8))) == 0
    assert app.threads == [app]
    machine.check(full=True)
    app.exit()
    machine.check(full=True)


def test_saved_and_copied() -> None:
    machine = four_nodes("6.1")
    app = machine.spawn()
    thread = app.thread(cpu=1)
    mapped(app, 4)
    other = machine.copy()
    other.check(full=True)
    twin = other.process(thread.pid)
    assert twin.threads == [other.process(app.pid), twin]
    twin.exit()
    assert other.processes == []
    assert app.alive
