"""Ctrl-C ends a long call at once and leaves the machine whole; `support.stops` has all calls."""

import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest

import pagemig as pm
from pagemig import _api
from pagemig.mm.numbers import NUMBERS
from pagemig.pieces import PIECE
from support import stops
from support.machines import PAGE
from support.signals import Stopped, counting, first_page_changes, ringing, stops_inside

VM_LOCKED = NUMBERS["VM_LOCKED"]
#: Milliseconds that a call may still run after the signal; a busy machine may take longer for it.
RUNS = 100
#: Calls of which at least one must meet its signal where a test wants it.
ROUNDS = 20
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
    ("munlock", "6.12"),
    ("mlock of what is there", "6.1"),
    ("mremap", "2.6.18"),
    ("exit of threads", "6.12"),
    ("scatter", "6.1"),
    ("finish", "6.18"),
    ("step", "pmig"),
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


MANY = 32 * PIECE
NUMBERS_OF_PAGES = np.arange(1, MANY + 1, dtype=np.uint64)
ARRAYS: dict[str, Callable[[pm.Machine, pm.Process], object]] = {
    "refcount": lambda m, _: m.frames.refcount,
    "mapcount": lambda m, _: m.frames.mapcount,
    "flags": lambda m, _: m.frames.flags,
    "nid": lambda m, _: m.frames.nid,
    "flag": lambda m, _: m.frames.flag("lru"),
    "node_of": lambda m, _: m.node_of(NUMBERS_OF_PAGES),
    "node_of int64": lambda m, _: m.node_of(NUMBERS_OF_PAGES.astype(np.int64)),
    "node_of range": lambda m, _: m.node_of(range(MANY)),
    "interleave": lambda m, _: pm.Interleave([0, 1]).targets(NUMBERS_OF_PAGES),
    "prefer": lambda m, _: pm.Preferred(1).targets(NUMBERS_OF_PAGES, machine=m),
    "frames": lambda _, p: p.frames(0, MANY),
    "one node": lambda _, p: p.start_move_pages(NUMBERS_OF_PAGES, 1).abort(),
    "populate": lambda m, p: m.populate(NUMBERS_OF_PAGES, np.full(MANY, p.pid)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_work_on_arrays_is_done_in_pieces(name: str) -> None:
    """Each piece is far below 100 ms; the whole would be above on a machine as large as this."""
    machine = pm.Machine([2 * MANY * PAGE, "1MiB"])
    process = machine.spawn()
    with counting() as looks:
        ARRAYS[name](machine, process)
    assert looks[0] > MANY // PIECE // 2


def test_a_migration_that_begins_copies_its_arguments_in_pieces() -> None:
    machine = pm.Machine(["1MiB"] * 2)
    pfns, nodes = np.ones(MANY, np.uint32), np.ones(MANY, np.int32)
    flight = _api.Flight(machine, None, 0)
    with counting() as looks:
        flight.migrate_frames(pfns, nodes)
    assert looks[0] > 12


@pytest.mark.parametrize("how", ["frames", "pages"])
def test_a_migration_whose_arguments_are_not_wanted_has_not_begun(how: str) -> None:
    machine, app, base = world("6.1", 8)
    many = np.full(MANY, base, np.uint64)
    pfns, nodes = np.ones(MANY, np.uint32), np.ones(MANY, np.int32)
    status = nodes.copy()

    def begin() -> None:
        flight = _api.Flight(machine, app if how == "pages" else None, 0)
        if how == "pages":
            flight.move_pages(0, MANY, many, nodes, status, pm.MPOL_MF_MOVE)
        else:
            flight.migrate_frames(pfns, nodes)

    assert stops_inside(begin)
    assert not machine.migrations
    machine.check(full=True)
    assert app.move_pages([base], 1).status.tolist() == [1]


def test_a_machine_with_a_large_migration_is_copied_in_pieces() -> None:
    machine, app, base = world("6.1", 8)
    with app.start_move_pages(np.full(MANY, base, np.uint64), 1), counting() as looks:
        machine.copy()
    assert looks[0] > 40


def test_a_large_machine_is_pickled_in_pieces() -> None:
    parts = 64
    machine = pm.Machine(["512MiB"], page_bytes=4096)
    app = machine.spawn()
    base = app.mmap(parts * pm.MiB)
    app.touch(base, parts * pm.MiB, write=True, values=5)
    whole, (_, arguments) = pickle.dumps(machine), machine.__reduce_ex__(5)
    assert len(arguments) > 1
    with counting() as looks:
        assert len(pickle.dumps(arguments)) < len(whole)
    assert looks[0] >= len(arguments) // 2
    again = pickle.loads(whole)
    again.check(full=True)
    assert (again.processes[0].touch(base, parts * pm.MiB).values == 5).all()


def gone_but_pinned(pages: int) -> tuple[pm.Machine, pm.Process, pm.Pin, np.ndarray]:
    """A process that holds pages which nobody maps: they are free when it lets them go."""
    machine, app, base = world("6.1", pages)
    pfns = app.frames(base, pages)
    pin = app.pin(base, pages * PAGE, "uring")
    app.munmap(base, pages * PAGE)
    return machine, app, pin, pfns


def free_now(machine: pm.Machine, pfn: int) -> Callable[[], bool]:
    return lambda: bool(machine.frames.state[pfn] == 0)


def test_a_stopped_unpin_still_holds_the_front() -> None:
    machine, app, pin, pfns = gone_but_pinned(3 << 20)
    assert stops_inside(lambda: app.unpin(pin), free_now(machine, pfns[-1]), tries=1)
    held = machine.frames.refcount[pfns] > 0
    left = int(held.sum())
    assert 0 < left < len(pfns) and held[:left].all()
    machine.check(full=True)
    app.unpin(pin)
    assert not machine.frames.refcount[pfns].any()
    with pytest.raises(OSError, match="EBADF"):
        app.unpin(pin)
    machine.check(full=True)


def test_a_stopped_exit_lets_go_of_a_part_of_what_is_pinned() -> None:
    machine, app, _, pfns = gone_but_pinned(3 << 20)
    assert stops_inside(app.exit, free_now(machine, pfns[-1]), tries=1)
    assert app.alive
    assert 0 < np.count_nonzero(machine.frames.refcount[pfns]) < len(pfns)
    machine.check(full=True)
    app.exit()
    assert not machine.frames.refcount[pfns].any()
    machine.check(full=True)


@pytest.mark.parametrize("kernel", ["2.6.18", "2.6.18-ia64", "pmig"])
def test_a_query_of_2006_can_be_stopped(kernel: str) -> None:
    machine, app, base = world(kernel, 8)
    status = np.empty(MANY, np.int32)
    pages = np.full(MANY, base, np.uint64)
    assert stops_inside(lambda: app.move_pages(pages, status=status))
    machine.check(full=True)
    assert app.move_pages([base]).status.tolist() == [0]


def test_many_accesses_of_a_context_can_be_stopped() -> None:
    machine, app, base = world("6.1", 8)
    many = np.full(2 * MANY, base, np.uint64)
    with app.context() as context:
        assert stops_inside(lambda: context.access_many(many))
        assert context.access_many(many[:9]) == 9
    machine.check(full=True)


def test_deferred_accesses_can_be_stopped() -> None:
    machine = pm.Machine(["64MiB"] * 2, access_stats=True)
    app = machine.spawn()
    base = app.mmap(8 * PAGE)
    app.touch(base, 8 * PAGE, write=True)
    before = app.access_counts(base, 8).sum()
    many = np.full(4 * MANY, base, np.uint64)
    assert stops_inside(lambda: app.access(many, deferred=True))
    assert before < app.access_counts(base, 8).sum()
    machine.check(full=True)


def test_a_stopped_ftruncate_may_have_unmapped_a_part() -> None:
    pages = 1 << 20
    machine = pm.Machine(["16GiB"])
    app = machine.spawn()
    file = machine.file("tmpfs", pages * PAGE)
    base = app.mmap(pages * PAGE, file=file, shared=True, populate=True)
    others = [app] + [app.fork() for _ in range(3)]
    for other in others:
        other.touch(base, pages * PAGE)
    begun = first_page_changes(others[-1], base)
    assert stops_inside(lambda: app.ftruncate(file, 0), begun, tries=1)
    assert (file.size, file.cached) == (pages * PAGE, pages)
    mapped = np.count_nonzero(app.frames(base, pages) >= 0)
    assert 0 < mapped < pages
    machine.check(full=True)
    assert app.touch(base, pages * PAGE).done == pages
    app.ftruncate(file, 0)
    assert (file.size, file.cached) == (0, 0)
    machine.check(full=True)


def test_the_search_for_frames_in_use_can_be_stopped() -> None:
    machine = pm.Machine(["256GiB"] * 2)
    assert stops_inside(lambda: machine.migrate_range(1, 1 << 25))
    machine.check()


def world(kernel: str, pages: int) -> tuple[pm.Machine, pm.Process, int]:
    machine = pm.Machine(["8GiB", "8GiB"], kernel=kernel, page_bytes=8)
    app = machine.spawn()
    base = app.mmap(pages * PAGE)
    app.touch(base, pages * PAGE, write=True, values=5)
    return machine, app, base


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "2.6.17"])
def test_a_stopped_munmap_has_cut_off_the_front(kernel: str) -> None:
    pages = 1 << 19
    machine, app, base = world(kernel, pages)
    app.mlock(base + PAGE, PAGE)
    with suppress(Stopped), ringing(first_page_changes(app, base)):
        app.munmap(base, pages * PAGE)
    left = sum(vma.end - vma.start for vma in app.vmas()) // PAGE
    assert left < pages
    machine.check(full=True)
    read = app.touch(base + (pages - left) * PAGE, left * PAGE).values
    assert left == 0 or (read == 5).all()
    assert app.touch(base, PAGE).signal == "SIGSEGV"


@pytest.mark.parametrize("kernel", ["6.1", "2.6.18"])
def test_a_stopped_mprotect_has_changed_the_front(kernel: str) -> None:
    pages = 1 << 20
    machine, app, base = world(kernel, pages)
    app.mprotect(base, pages * PAGE, "r")
    with suppress(Stopped), ringing():
        app.mprotect(base + PAGE, (pages - 2) * PAGE, "rw")
    machine.check(full=True)
    rights = [(vma.start, "w" in str(vma).split()[1]) for vma in app.vmas()]
    # The signal may come before the call.
    assert [write for _, write in rights][:3] in ([False, True, False], [False])
    for start, write in rights:
        assert app.alive
        if write:
            assert app.touch(start, PAGE, write=True).signal is None


@pytest.mark.parametrize("call", ["mlock", "munlock"])
def test_a_stopped_mlock_has_locked_the_front(call: str) -> None:
    pages = 1 << 20
    machine, app, base = world("6.12", pages)
    if call == "munlock":
        app.mlock(base, pages * PAGE)
    with suppress(Stopped), ringing():
        getattr(app, call)(base, pages * PAGE)
    locked = app.status()["VmLck"] // 4
    done = locked if call == "mlock" else pages - locked
    machine.check(full=True)
    shown = [(vma.pages, bool(vma.flags & VM_LOCKED)) for vma in app.vmas()]
    want = [(done, call == "mlock"), (pages - done, call == "munlock")]
    assert shown == [part for part in want if part[0]]
    getattr(app, call)(base, pages * PAGE)  # and the rest
    assert len(app.vmas()) == 1


@pytest.mark.parametrize("kernel", ["6.1", "6.18", "2.6.18"])
@pytest.mark.parametrize("how", ["", "dontunmap", "locked", "grown", "locked dontunmap"])
def test_a_stopped_mremap_has_moved_the_front(kernel: str, how: str) -> None:
    if "dontunmap" in how and kernel == "2.6.18":
        pytest.skip("of 5.7")
    pages = 1 << 19
    machine, app, base = world(kernel, pages)
    if "locked" in how:
        app.mlock(base, pages * PAGE)
    to, new = base - (pages << 14), pages * 2 if how == "grown" else pages
    options = {"dontunmap": True} if "dontunmap" in how else {}
    with suppress(Stopped), ringing():
        app.mremap(base, pages * PAGE, new * PAGE, maymove=True, new_addr=to, **options)
    moved = min(sum(vma.pages for vma in app.vmas() if vma.start < base), pages)
    machine.check(full=True)
    if moved < pages:  # the signal came neither before nor after
        assert [vma.start for vma in app.vmas()] == [to] * (moved > 0) + [
            base if options else base + moved * PAGE
        ]
    for start, n in ((to, moved), (base + moved * PAGE, pages - moved)):
        read = app.touch(start, n * PAGE).values if n else None
        assert read is None or (len(read) == n and (read == 5).all())


@pytest.mark.parametrize("keep", ["refcount", "mmap_lock"])
def test_an_offline_without_end_ends_with_a_signal(keep: str) -> None:
    """The kernel tries again until a signal comes, also where no other node has room."""
    machine = pm.Machine(["128KiB", pm.Node("512KiB", cpus=1)], page_bytes=8)
    app = machine.spawn()
    base = app.mmap(64 * PAGE)
    app.touch(base, 64 * PAGE, write=True, values=5)
    passes = machine.counters["pgmigrate_fail"]
    with (
        pytest.raises(Stopped),
        ringing(lambda: machine.counters["pgmigrate_fail"] > passes + 1000),
    ):
        holder = {"holder": app} if keep == "mmap_lock" else {}
        machine.offline(1, max_passes=2**31 - 1, keep=keep, **holder)
    machine.check(full=True)
    assert 1 in machine.memory_nodes
    assert (app.touch(base, 64 * PAGE).values == 5).all()


@pytest.mark.parametrize("kernel", ["6.1", "6.18"])
def test_a_stopped_mremap_that_unmaps_nothing_has_unlocked_the_front(kernel: str) -> None:
    """What is left of a locked mapping after a page of it has moved, as `munlock` leaves it."""
    pages, moved = 1 << 21, 5
    machine, app, base = world(kernel, pages)
    for _ in range(ROUNDS):
        app.mlock(base, pages * PAGE)
        begun = first_page_changes(app, base + moved * PAGE)
        with suppress(Stopped), ringing(begun):
            app.mremap(base, moved * PAGE, moved * PAGE, maymove=True, dontunmap=True)
        machine.check(full=True)
        rest = [vma for vma in app.vmas() if base <= vma.start < base + pages * PAGE]
        locked = [bool(vma.flags & VM_LOCKED) for vma in rest]
        assert sum(vma.pages for vma in rest) == pages
        assert locked in ([False], [False, True])  # at its end, and in the middle
        app.munlock(base, pages * PAGE)
        rest = [vma for vma in app.vmas() if base <= vma.start < base + pages * PAGE]
        assert [vma.pages for vma in rest] == [pages]
        if locked == [False, True]:
            break
    else:
        pytest.fail("no signal came while the rest was unlocked")
    assert (app.touch(base + moved * PAGE, (pages - moved) * PAGE).values == 5).all()
    machine.check(full=True)


def test_a_stopped_finish_leaves_a_migration_that_goes_on() -> None:
    """What it answers and what memory holds is as if nobody had stopped it."""
    pages = 1 << 20
    machine, app, base = world("6.12", pages)
    stops = 0
    for node in (1, 0, 1, 0):
        moving = app.start_move_pages(base + np.arange(pages, dtype=np.uint64) * PAGE, node)
        begun = first_page_changes(app, base)
        for _ in range(3):
            with suppress(Stopped), ringing(begun):
                moving.finish()
            stops += not moving.done
            machine.check()
        moving.finish()
        assert (moving.result.status == node).all()
    assert stops
    values = app.touch(base, pages * PAGE).values
    assert values is not None and (values == 5).all()
    machine.check(full=True)


@pytest.mark.parametrize("start", ["move_pages", "migrate_pages"])
def test_a_stopped_step_or_finish_can_be_given_up(start: str) -> None:
    pages = 1 << 20
    machine, app, base = world("6.1", pages)
    all_pages = base + np.arange(pages, dtype=np.uint64) * PAGE
    given_up = 0
    for go_on in ("step", "finish") * 2:
        if start == "move_pages":
            moving = app.start_move_pages(all_pages, 1)
        else:
            moving = app.start_migrate_pages({0}, {1})
        with suppress(Stopped), ringing(first_page_changes(app, base)):
            while not moving.done:
                getattr(moving, go_on)()
        if not moving.done:
            given_up += 1
            moving.abort()
            with pytest.raises(OSError, match="EINTR"):
                moving.result  # noqa: B018
        machine.check(full=True)
        assert set(app.nodes(base, pages).tolist()) <= {0, 1}
        app.migrate_pages({1}, {0})
    assert given_up
    values = app.touch(base, pages * PAGE).values
    assert values is not None and (values == 5).all()


def test_a_stopped_exit_leaves_all_threads_or_none() -> None:
    pages = 1 << 19
    machine, app, _ = world("6.1", pages)
    threads = [app, *(app.thread() for _ in range(3))]
    with suppress(Stopped), ringing():
        threads[2].exit()
    alive = {thread.alive for thread in threads}
    assert len(alive) == 1
    machine.check(full=True)
    if alive == {True}:
        threads[1].exit()
    assert not any(thread.alive for thread in threads)
    machine.check(full=True)


def test_a_handler_may_call_the_machine_and_the_call_goes_on() -> None:
    pages = 1 << 20
    machine, app, base = world("6.12", pages)
    other = machine.spawn()
    last = base + (pages - 1) * PAGE
    made = []

    for node in (1, 0, 1):
        begun = first_page_changes(app, base)

        def inside(node: int = node, begun: Callable[[], bool] = begun) -> bool:
            if begun() and app.nodes(last, 1)[0] != node:
                made.append(other.mmap(PAGE, populate=True))
            return False

        with ringing(inside):
            assert app.migrate_pages({0, 1}, {node}) == 0
    machine.check(full=True)
    assert made and len(other.vmas()) >= 1
    assert set(np.unique(app.nodes(base, pages))) == {1}


def test_threads_that_no_signal_reaches_are_left_alone() -> None:
    """A signal that comes during the call of another thread is the main thread's."""
    machine, app, _ = world("6.1", 1 << 16)
    moved: list[int] = []
    inside, go = threading.Event(), threading.Event()

    def hook(step: str, pfns: list[int]) -> None:
        machine.at_step(None)
        inside.set()
        go.wait()

    machine.at_step(hook)
    thread = threading.Thread(target=lambda: moved.append(app.migrate_pages({0}, {1})))
    thread.start()
    inside.wait()
    try:
        with pytest.raises(Stopped), ringing():
            signal.raise_signal(signal.SIGALRM)
    finally:
        go.set()
        thread.join()
    assert moved == [0]
    machine.check(full=True)
