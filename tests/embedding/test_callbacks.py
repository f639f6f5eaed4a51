"""What a host is told: flushes, targets, pages moved, steps, faults; and what costs count."""

import ctypes
import errno
import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pagemig as pm
from pagemig import api
from support.hosts import compiled
from support.machines import PAGE, four_nodes, mapped

N = 20
SOURCE = Path(__file__).parent / "callbacks.c"
MIGRATE, PROTECT, UNMAP, COW, FORK, REMAP, EXIT, FREE = range(8)
EHOOK = -602


class Seen(ctypes.Structure):
    """``struct seen`` of callbacks.c."""

    _fields_ = [
        ("api", ctypes.c_void_p),
        ("own", ctypes.c_void_p),
        ("other", ctypes.c_void_p),
        ("node", ctypes.c_int32),
        ("fail_moved", ctypes.c_int32),
        ("fail_flush", ctypes.c_int32),
        ("flushes", ctypes.c_uint32 * 8),
        ("pages", ctypes.c_uint64 * 8),
        ("ipis", ctypes.c_uint32),
        ("targets", ctypes.c_uint32),
        ("moved", ctypes.c_uint32),
        ("failed", ctypes.c_uint32),
        ("faults", ctypes.c_uint32 * 6),
        ("steps", ctypes.c_uint32 * 9),
        ("cr3", ctypes.c_uint64),
        ("last_cpus", ctypes.c_uint64),
        ("under_locks", ctypes.c_int),
        ("same", ctypes.c_int),
        ("between", ctypes.c_int),
        ("look", ctypes.c_int),
        ("caller", ctypes.c_void_p),
    ]


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return compiled(SOURCE, tmp_path_factory.mktemp("host"))


def addresses(base: int, n: int = N) -> npt.NDArray[np.uint64]:
    return base + np.arange(n, dtype=np.uint64) * np.uint64(PAGE)


class Listener:
    """A machine that a C host listens to, with a process and its context on processor 0."""

    def __init__(self, host: Any, kernel: str = "6.1") -> None:
        self.machine = four_nodes(kernel, page_bytes=8)
        self.app = self.machine.spawn(cpu=0)
        self.base = mapped(self.app, N, touched=False)
        self.app.touch(self.base, N * PAGE, write=True, values=np.arange(N, dtype=np.uint64))
        self.seen = Seen(node=-1)
        self.context = self.app.context(cpu=0)
        self.host = host
        owner = ctypes.c_void_p(api.machine(self.machine))
        table = ctypes.c_void_p(api.address)
        assert host.listen_to(table, owner, ctypes.byref(self.seen)) == 0

    def forget(self) -> None:
        for name in ("flushes", "pages", "ipis", "faults", "targets", "moved", "failed", "steps"):
            field = getattr(self.seen, name)
            if isinstance(field, int):
                setattr(self.seen, name, 0)
            else:
                ctypes.memset(ctypes.addressof(field), 0, ctypes.sizeof(field))
        self.cost()

    def cost(self) -> Any:
        cost = api.Cost(size=ctypes.sizeof(api.Cost))
        assert api.functions.cost_take(self.context.address, ctypes.byref(cost)) == 0
        return cost

    def move(self, node: int) -> int:
        """move_pages through the table."""
        arrays = addresses(self.base), np.full(N, node, np.int32), np.zeros(N, np.int32)
        users = [ctypes.byref(api.User(p=x.ctypes.data, bytes=x.nbytes)) for x in arrays]
        return int(api.functions.move_pages(self.context.address, 0, N, *users, 2, None))

    def whole(self) -> bool:
        return bool((self.app.touch(self.base, N * PAGE).values == np.arange(N)).all())


@pytest.fixture
def listener(host: Any) -> Iterator[Listener]:
    made = Listener(host)
    yield made
    made.context.close()
    made.machine.check(full=True)


# ---- in C ----------------------------------------------------------------------


def test_reasons_ranges_and_processors(listener: Listener) -> None:
    seen, context, base = listener.seen, listener.context, listener.base
    f = api.functions
    with listener.app.context(cpu=1) as elsewhere:  # the program has run there, too
        assert elsewhere.access(base) == 0
    listener.forget()
    assert f.mprotect(context.address, base, N * PAGE, 1) == 0
    assert (seen.flushes[PROTECT], seen.pages[PROTECT], seen.ipis) == (1, N, 1)
    assert seen.last_cpus == 0b11
    assert seen.cr3 == f.cr3(context.address)
    assert seen.caller == context.address
    assert f.mprotect(context.address, base, N * PAGE, 3) == 0
    assert f.fork(context.address) > 0
    assert (seen.flushes[FORK], seen.pages[FORK]) == (1, 0)
    out = api.Outcome()
    assert f.access(context.address, base, 1, ctypes.byref(out)) == 1
    assert (seen.flushes[COW], seen.pages[COW]) == (1, 1)
    assert (seen.faults[1], sum(seen.faults)) == (1, 1)
    assert f.madvise(context.address, base, PAGE, 8) == 0
    assert (seen.flushes[FREE], seen.pages[FREE]) == (1, 1)
    assert f.madvise(context.address, base + PAGE, 3 * PAGE, 4) == 0
    assert (seen.flushes[UNMAP], seen.pages[UNMAP]) == (1, 3)
    away = base - (1 << 30)
    assert f.mremap(context.address, base, N * PAGE, N * PAGE, 3, away) == away
    assert (seen.flushes[REMAP], seen.pages[REMAP]) == (1, N)  # of one page table
    before = seen.flushes[UNMAP]
    assert f.munmap(context.address, base, N * PAGE) == 0  # what has moved away
    assert seen.flushes[UNMAP] == before  # nothing was there
    cost = listener.cost()
    assert cost.flushes == sum(seen.flushes)
    assert cost.flushed_pages == sum(seen.pages)
    assert cost.ipis == seen.ipis
    assert (cost.pages_copied, cost.copy_bytes) == (1, PAGE)
    assert cost.bytes_from[0] == cost.bytes_to[0] == PAGE
    assert f.exit(context.address) == 0
    assert (seen.flushes[EXIT], seen.pages[EXIT]) == (1, 0)


@pytest.mark.parametrize("kernel", ["2.6.17", "2.6.18", "6.1", "6.12"])
def test_a_migration_is_told_of(host: Any, kernel: str) -> None:
    listener = Listener(host, kernel)
    seen = listener.seen
    listener.forget()
    if "move_pages" in listener.machine.profile.calls:
        assert listener.move(1) == 0
    else:
        listener.app.migrate_pages({0}, {1})
    assert (seen.moved, seen.targets) == (N, N)
    assert listener.app.nodes(listener.base, N).tolist() == [1] * N
    batched = listener.machine.profile.batch > 1
    assert seen.flushes[MIGRATE] == (1 if batched else N)
    assert seen.pages[MIGRATE] == (0 if batched else N)
    assert all(seen.steps[at] for at in range(1, 9))
    if "move_pages" in listener.machine.profile.calls:
        cost = listener.cost()
        assert cost.flushes == seen.flushes[MIGRATE]
        assert (cost.pages_copied, cost.bytes_from[0], cost.bytes_to[1]) == (N, N * PAGE, N * PAGE)
    assert listener.whole()
    listener.context.close()
    listener.machine.check(full=True)


@pytest.mark.parametrize("kernel", ["2.6.17", "2.6.18", "6.1", "6.12"])
def test_the_host_chooses_the_node(host: Any, kernel: str) -> None:
    listener = Listener(host, kernel)
    listener.seen.node = 2
    move = listener.app.start_migrate_pages({0}, {1})
    assert move.finish() == 0
    assert listener.app.nodes(listener.base, N).tolist() == [2] * N
    listener.seen.node = 99
    move = listener.app.start_migrate_pages({2}, {0})
    with pytest.raises(RuntimeError, match="callback"):
        move.finish()
    assert listener.app.nodes(listener.base, N).tolist() == [2] * N
    assert listener.whole()
    listener.context.close()
    listener.machine.check(full=True)


def test_calls_from_callbacks(listener: Listener) -> None:
    """Under locks none; between steps those with another context."""
    seen = listener.seen
    other = listener.machine.spawn()
    other.touch(mapped(other, 1), PAGE)
    with other.context(owns_time=True) as context:
        seen.own, seen.other = listener.context.address, context.address
        assert listener.move(1) == 0
        assert seen.under_locks == -errno.EDEADLK
        assert seen.look == 5  # translate only looks
        assert seen.same == -errno.EDEADLK
        assert seen.between == 4  # SIGSEGV of that program: the call was made
        seen.own = seen.other = None
    assert listener.whole()


def test_an_error_ends_the_call(listener: Listener) -> None:
    seen = listener.seen
    listener.machine.width = 4
    seen.fail_moved = -5
    assert listener.move(1) == EHOOK
    assert seen.moved == 4  # the first stage
    assert sorted(listener.app.nodes(listener.base, N).tolist()) == [0] * (N - 4) + [1] * 4
    assert listener.whole()
    listener.machine.check(full=True)
    seen.fail_moved = 0
    assert listener.move(1) == 0  # and the context is as good as new
    seen.fail_flush = 1
    assert api.functions.madvise(listener.context.address, listener.base, PAGE, 4) == EHOOK
    with pytest.raises(RuntimeError, match="callback"):
        listener.app.munmap(listener.base, N * PAGE)
    seen.fail_flush = 0


def test_bytes_copied_are_counted_by_node(host: Any) -> None:
    listener = Listener(host, "6.1")
    listener.app.move_pages(
        addresses(listener.base)[::2].copy(), 1
    )  # every stage takes from two nodes
    listener.forget()
    assert listener.move(2) == 0
    cost = listener.cost()
    assert list(cost.bytes_from[:3]) == [N // 2 * PAGE, N // 2 * PAGE, 0]
    assert list(cost.bytes_to[:3]) == [0, 0, N * PAGE]


def test_costs_are_the_same_whether_somebody_listens_or_not(host: Any) -> None:
    """Told one by one, or added up by stages."""
    for kernel in ("2.6.18", "6.1", "6.12"):
        costs = []
        for listens in (True, False):
            listener = Listener(host, kernel)
            with listener.app.context(cpu=1) as elsewhere:
                elsewhere.access(listener.base)
            if not listens:
                api.functions.set_callbacks(ctypes.c_void_p(api.machine(listener.machine)), None)
            listener.app.pin(listener.base + 3 * PAGE, PAGE)  # does not move, and is flushed again
            listener.forget()
            status = np.zeros(N, np.int32)
            arrays = addresses(listener.base), np.full(N, 2, np.int32), status
            users = [ctypes.byref(api.User(p=x.ctypes.data, bytes=x.nbytes)) for x in arrays]
            api.functions.move_pages(listener.context.address, 0, N, *users, 2, None)
            cost = listener.cost()
            fields = ("flushes", "flushed_pages", "ipis", "pages_copied", "copy_bytes")
            costs.append([getattr(cost, name) for name in fields] + list(cost.bytes_from[:4]))
            assert cost.pages_copied == N - 1 and cost.ipis >= cost.flushes > 0
            listener.context.close()
            listener.machine.check(full=True)
        assert costs[0] == costs[1], kernel


def test_in_steps_too(host: Any) -> None:
    for kernel in ("2.6.18", "6.1", "6.12"):
        listener = Listener(host, kernel)
        listener.forget()
        with listener.app.start_migrate_pages({0}, {1}) as move:
            events = list(move)
        seen = listener.seen
        assert (seen.moved, seen.targets) == (N, N)
        assert sum(event.flushes for event in events) == seen.flushes[MIGRATE]
        assert seen.steps[8] >= 1
        seen.fail_moved = 1
        with pytest.raises(RuntimeError, match="callback"):
            listener.app.start_migrate_pages({1}, {2}).finish()
        seen.fail_moved = 0
        assert listener.whole()
        listener.context.close()
        listener.machine.check(full=True)


def test_a_copy_has_no_callbacks(listener: Listener) -> None:
    listener.context.close()
    before = sum(listener.seen.flushes)
    copied = listener.machine.copy()
    (app,) = [copied.process(listener.app.pid)]
    app.munmap(listener.base, N * PAGE)
    assert sum(listener.seen.flushes) == before
    listener.context = listener.app.context()


def test_what_set_callbacks_refuses(listener: Listener) -> None:
    owner = ctypes.c_void_p(api.machine(listener.machine))
    short = api.Callbacks(size=8)
    assert api.functions.set_callbacks(owner, ctypes.byref(short)) == -600
    assert api.functions.set_callbacks(owner, None) == 0
    listener.forget()
    listener.app.munmap(listener.base, N * PAGE)
    assert sum(listener.seen.flushes) == 0


# ---- in Python ----------------------------------------------------------------------


def test_functions_of_python(kernel: str = "6.1") -> None:
    machine = four_nodes(kernel)
    app = machine.spawn(cpu=0)
    base = mapped(app, N)
    flushes: Counter[str] = Counter()
    moved: list[tuple[int, int]] = []
    faults: list[str] = []
    ranges = []

    def on_flush(flush: pm.Flush) -> None:
        flushes[flush.why] += 1
        ranges.append((flush.address, flush.pages, flush.cpus, flush.ipis))

    def on_moved(old: Any, new: Any, result: Any) -> None:
        assert (result == 0).all()
        moved.extend(zip(old.tolist(), new.tolist(), strict=True))

    before = app.frames(base, N).tolist()
    machine.set_callbacks(
        flush=on_flush,
        target=lambda pfn, wanted: 3 if wanted == 1 else None,
        moved=on_moved,
        fault=lambda address, kind, pfn: faults.append(kind),
    )
    app.move_pages(addresses(base), 1)
    assert app.nodes(base, N).tolist() == [3] * N
    assert moved == list(zip(before, app.frames(base, N).tolist(), strict=True))
    assert flushes == {"migrate": N}
    assert ranges[0] == (base, 1, (0,), 0)
    app.move_pages(addresses(base), 2)
    assert app.nodes(base, N).tolist() == [2] * N
    with app.context() as context:
        assert context.access(app.mmap(PAGE), write=True) == 1
        assert context.access(8) == 4
    assert faults == ["minor", "signal"]
    machine.set_callbacks()
    app.munmap(base, N * PAGE)
    assert flushes == {"migrate": 2 * N}
    machine.check(full=True)


def test_what_a_function_raises_comes_out_of_the_call() -> None:
    machine = four_nodes("6.1")
    machine.width = 4
    app = machine.spawn()
    base = mapped(app, N)

    def refuse(*_: object) -> None:
        raise LookupError("no")

    def call(_: pm.Flush) -> None:
        app.touch(base, PAGE)

    machine.set_callbacks(moved=refuse)
    with pytest.raises(LookupError):
        app.move_pages(addresses(base), 1)
    assert (app.nodes(base, N) == 1).sum() == 4
    with pytest.raises(LookupError):
        list(app.start_move_pages(addresses(base), 2))
    machine.set_callbacks(target=lambda pfn, wanted: 77)
    with pytest.raises(ValueError, match="online node"):
        app.move_pages(addresses(base), 3)
    machine.set_callbacks(flush=call)
    with pytest.raises(OSError, match="may not make a call") as raised:
        app.munmap(base, PAGE)
    assert raised.value.errno == errno.EDEADLK
    machine.set_callbacks(fault=refuse)
    with app.context() as context, pytest.raises(LookupError):
        context.access(base)
    machine.set_callbacks()
    with pytest.raises(TypeError, match="flush must be a function"):
        machine.set_callbacks(flush=3)
    machine.check(full=True)


def test_steps_and_migrate_operations_run_in_steps() -> None:
    machine = four_nodes("6.1")
    app = machine.spawn()
    base = mapped(app, N)
    steps = []
    machine.at_step(lambda step, pfns: steps.append((step, len(pfns))))
    list(app.start_move_pages(addresses(base), 1))
    assert [step for step, _ in steps][:3] == ["isolate", "alloc", "lock"]
    machine.at_step(None)

    def stop(step: str, pfns: list[int]) -> None:
        raise LookupError(step)

    machine.at_step(stop)
    with pytest.raises(LookupError):
        app.start_move_pages(addresses(base), 2).finish()
    machine.at_step(None)
    machine.check(full=True)


def test_deep_python_in_a_callback_of_a_migration_in_steps() -> None:
    """It runs on the stack of the thread that steps: the call's own has no room for it."""
    machine = four_nodes("6.1")
    app = machine.spawn()
    base = mapped(app, N)
    seen = []

    def deep(depth: int) -> int:
        return depth if depth == 0 else int(max([deep(depth - 1)], key=lambda x: x))

    machine.set_callbacks(moved=lambda *_: seen.append(deep(200)))
    list(app.start_move_pages(addresses(base), 1))
    assert seen and set(seen) == {0}


@pytest.mark.parametrize("pages", [1, 64, 65, 12_000])
def test_one_flush_for_a_range_and_the_same_frames_afterwards(pages: int) -> None:
    """What is gathered until the flush goes back in the order it would without."""

    def run(told: bool) -> tuple[int, list[int], dict[str, int]]:
        machine = pm.Machine([pm.Node("80MiB", cpus=2)])
        app = machine.spawn()
        base = app.mmap(pages * PAGE)
        app.touch(base, pages * PAGE, write=True)
        flushes: list[pm.Flush] = []
        if told:
            machine.set_callbacks(flush=flushes.append)
        app.munmap(base, pages * PAGE)
        base = app.mmap(pages * PAGE)
        app.touch(base, pages * PAGE, write=True)
        frames = app.frames(base, pages).tolist()
        machine.check(full=True)
        counters = machine.counters
        app.exit()
        assert not told or flushes[-1].why == "exit"
        return sum(flush.why == "unmap" for flush in flushes), frames, counters

    told, silent = run(True), run(False)
    assert told[0] == (1 if pages <= 10_000 else 2)
    assert told[1:] == silent[1:]


@pytest.mark.parametrize("what", ["close", "access", "access_many"])
def test_a_context_that_is_inside_a_call_is_neither_freed_nor_used(what: str) -> None:
    machine = pm.Machine(["1MiB", "1MiB"])
    app = machine.spawn()
    base = app.mmap(4 * pm.PAGE_SIZE)
    context, said = app.context(), []

    def callback(*_: object) -> None:
        try:
            if what == "close":
                context.close()
            elif what == "access":
                context.access(base)
            else:
                context.access_many(np.array([base], np.uint64))
        except RuntimeError as error:
            said.append(str(error))

    machine.set_callbacks(fault=callback)
    assert context.access(base, write=True) == 1
    machine.set_callbacks()
    if what == "close":
        with pytest.raises(ValueError, match="closed"):
            context.access(base)
    else:
        assert "inside a call" in said[0]
        assert context.access(base) == 0
        context.close()
    machine.check(full=True)


@pytest.mark.parametrize("va", [1 << 64, -(1 << 64), 10**400, 1.5, float("inf"), None, "x"])
def test_an_address_that_is_none(va: object) -> None:
    context = pm.Machine(["1MiB"]).spawn().context()
    with pytest.raises((TypeError, ValueError), match="va"):
        context.access(va)  # type: ignore[arg-type]


@pytest.mark.parametrize("va", [-1, -pm.PAGE_SIZE, (1 << 64) - 1, np.uint64(1 << 63), True])
def test_an_address_where_no_program_is(va: int) -> None:
    context = pm.Machine(["1MiB"]).spawn().context()
    assert context.access(va) == 4 and context.signal == 11


# ---- replaced ------------------------------------------------------------------


def test_callbacks_that_are_replaced_are_let_go(listener: Listener) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    machine, first = listener.machine, listener.base
    owner = ctypes.c_void_p(api.machine(machine))
    table = ctypes.c_void_p(api.address)
    before = resident()
    for _ in range(100_000):
        assert listener.host.listen_to(table, owner, ctypes.byref(listener.seen)) == 0
    assert resident() - before < 2 << 20  # a table has 64 bytes
    listener.forget()
    assert api.functions.madvise(listener.context.address, first, 3 * PAGE, 4) == 0
    assert (listener.seen.flushes[UNMAP], listener.seen.pages[UNMAP]) == (1, 3)

    told = []
    for i in range(3):

        def flush(flush: pm.Flush, i: int = i) -> None:
            told.append(i)

        alive = weakref.ref(flush)
        machine.set_callbacks(flush=flush)
        del flush
        gc.collect()
        assert alive() is not None
        listener.app.munmap(first + i * PAGE, 17 * PAGE if i == 2 else PAGE)
        machine.set_callbacks()
        gc.collect()
        assert alive() is None
    assert told == [2]  # the first three pages were gone


@pytest.mark.threads
def test_callbacks_are_replaced_while_calls_of_other_threads_run() -> None:
    machine = four_nodes("6.1", page_bytes=8)
    app = machine.spawn(cpu=0)
    base = mapped(app, N, touched=True)
    wrong: list[object] = []
    counts = [0] * 4
    ends, moves = threading.Event(), [0]

    def heard_by(i: int) -> tuple[Any, Any]:
        def flush(flush: pm.Flush) -> None:
            counts[i] += 1

        def moved(source: Any, target: Any, result: Any) -> None:
            if not len(source) == len(target) == len(result):
                wrong.append(i)

        return flush, moved

    def move() -> None:
        node = 0
        while not ends.is_set():
            node = (node + 1) % 4
            app.move_pages(addresses(base), node)
            moves[0] += 1

    def one_move_later() -> None:
        """A whole call runs with the callbacks of now."""
        begin = moves[0] + 1  # the one that ends next may have begun before
        while moves[0] <= begin and mover.is_alive():
            time.sleep(0)

    mover = threading.Thread(target=move)
    mover.start()
    for i in range(400):
        flush, moved = heard_by(i % 4)
        try:
            if i % 8 == 7:
                machine.set_callbacks()
            else:
                machine.set_callbacks(flush=flush, moved=moved if i % 3 else None)
        except OSError as error:
            assert error.errno == errno.EDEADLK
        else:
            if i % 4 == 0:
                one_move_later()
    ends.set()
    mover.join()
    assert not wrong
    assert sum(counts) > 0
    assert len(machine._callbacks) <= 2
    machine.check(full=True)
