"""Nodes that go offline and ranges that are emptied, while processes fault, fork and exit."""

import sys
import threading
from errno import EBUSY

import pytest

import pagemig as pm
from pagemig.testing.actors import Actors
from pagemig.testing.poke import poke
from support.machines import PAGE, at, failing, four_nodes, mapped, where
from support.together import TIMEOUT, allowed

KEEPS = ["refcount", "rcu", "trylock"]
#: Calls that may find a node busy before a test says so.
TRIES = 200
#: The kernels of today, and those of 2006: none of them emptied nodes, the note asks for it.
NOW, THEN = ["6.1", "6.12"], ["2.6.17", "2.6.17-mm", "2.6.18-ia64", "pmig"]


def on_node(machine: pm.Machine, node: int, n: int, first: int = 0) -> pm.Process:
    """A process with pages of content 1, 2, ... on a node."""
    app = machine.spawn()
    mapped(app, n, first, touched=False)
    app.mbind(at(first), n * PAGE, pm.Bind([node]))
    app.touch(at(first), n * PAGE, write=True, values=range(1, n + 1))
    return app


def values(process: pm.Process, n: int, first: int = 0) -> list[int]:
    seen = process.touch(at(first), n * PAGE).values
    assert seen is not None
    return seen.tolist()


@pytest.mark.parametrize("kernel", [*NOW, *THEN[2:]])
@pytest.mark.parametrize("keep", KEEPS)
def test_everything_moves_to_the_nearest_node(keep: str, kernel: str) -> None:
    distances = [[10, 20, 30, 40], [20, 10, 40, 30], [30, 40, 10, 20], [40, 30, 20, 10]]
    machine = four_nodes(kernel, page_bytes=8, distances=distances)
    app = on_node(machine, 2, 600)
    child = app.fork()
    result = machine.offline(2, keep=keep)
    assert (result.passes, result.migrated, result.left.tolist()) == (1, 600, [])
    machine.check(full=True)
    assert where(app, 0, 600) == "3" * 600
    assert values(app, 600) == values(child, 600) == list(range(1, 601))
    assert machine.memory_nodes == (0, 1, 3)
    assert machine.free(2) == 0


def test_page_cache_moves_mapped_or_not() -> None:
    machine = four_nodes(page_bytes=8)
    app = machine.spawn()
    app.set_mempolicy(pm.Bind([1]))
    files = [machine.file(kind, 4 * PAGE) for kind in ("tmpfs", "ext4", "ramfs")]
    for file in files:
        app.fread(file, 0, 4) if file.kind == "ramfs" else app.fwrite(file, 0, range(4))
    mapped(app, 4, file=files[0], shared=True, touched=False)
    app.touch(at(0), 4 * PAGE)
    assert machine.offline(1).left.size == 0
    machine.check(full=True)
    for file in files:
        pfns = machine._file_frames(file.index)
        assert len(pfns) == 4
        assert set(machine.node_of(pfns).tolist()) == {2}
    assert app.fread(files[0], 0, 4).tolist() == values(app, 4) == list(range(4))


def test_new_allocations_keep_away_until_it_is_online_again() -> None:
    machine = four_nodes()
    app = on_node_plain(machine, 1)
    machine.offline(1)
    app.touch(at(1), PAGE, write=True)  # its policy names only the node that is gone
    assert where(app, 1, 1) in "023"
    assert failing(app.move_pages, [at(0)], 1).name == "ENODEV"
    assert failing(app.mbind, at(0), PAGE, pm.Bind([1])).name == "EINVAL"
    with pytest.raises(ValueError, match="online"):
        machine.offline(1)
    machine.online(1)
    with pytest.raises(ValueError, match="offline"):
        machine.online(1)
    assert app.move_pages([at(0)], 1).status.tolist() == [1]
    app.touch(at(2), PAGE, write=True)
    assert where(app, 2, 1) == "1"
    machine.check(full=True)


@pytest.mark.parametrize("kernel", NOW + THEN)
def test_a_process_that_comes_while_a_node_is_offline_uses_it_afterwards(kernel: str) -> None:
    machine = four_nodes(kernel)
    machine.offline(1)
    app = machine.spawn()
    mapped(app, 4)
    machine.online(1)
    if kernel in NOW:
        assert app.get_mempolicy(pm.MPOL_F_MEMS_ALLOWED).nodes == (0, 1, 2, 3)
    app.migrate_pages({0}, {1})
    assert app.nodes(at(0), 4).tolist() == [1] * 4
    app.mbind(at(0), 4 * PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE)
    machine.check(full=True)


def on_node_plain(machine: pm.Machine, node: int) -> pm.Process:
    app = machine.spawn()
    mapped(app, 4, touched=False)
    app.mbind(at(0), 4 * PAGE, pm.Bind([node]))
    app.touch(at(0), PAGE, write=True)
    return app


@pytest.mark.parametrize("kernel", ["6.1", "pmig"])
def test_pinned_page_ends_it_and_the_isolation_is_undone(kernel: str) -> None:
    machine = four_nodes(kernel, page_bytes=8)
    app = on_node(machine, 1, 4)
    pin = app.pin(at(2), PAGE)
    pfn = int(app.frames(at(2), 1)[0])
    error = failing(machine.offline, 1, max_passes=3)
    assert error.name == "EBUSY"
    assert (error.result.passes, error.result.migrated) == (3, 3)
    assert error.result.left.tolist() == [pfn]
    machine.check(full=True)
    assert machine.frames.flag("lru")[pfn]
    assert machine.free(1) > 0
    app.unpin(pin)
    assert app.move_pages([at(0)], 1).status.tolist() == [1]  # it gives out frames again
    assert machine.offline(1).migrated == 2
    assert values(app, 4) == [1, 2, 3, 4]


def test_frames_of_the_kernel_and_nowhere_to_go() -> None:
    machine = four_nodes()
    assert failing(machine.offline, 0).name == "EBUSY"  # the zero page is there
    small = pm.Machine([pm.Node("16MiB", cpus=1), pm.Node("64KiB"), pm.Node("64KiB")])
    app = on_node_plain(small, 1)
    rest = (small.free(0) + small.free(2)) // PAGE
    mapped(app, rest, 8, touched=False)
    app.mbind(at(8), rest * PAGE, pm.Bind([0, 2]))
    app.touch(at(8), rest * PAGE, write=True)
    error = failing(small.offline, 1, max_passes=2)
    assert error.name == "ENOMEM"
    small.check(full=True)
    machine = pm.Machine(["1MiB"])
    assert failing(machine.migrate_range, 0, 16).name == "EBUSY"


def test_ranges_of_frames() -> None:
    machine = four_nodes(page_bytes=8)
    app = on_node(machine, 1, 8)
    pfns = app.frames(at(0), 8)
    first = int(pfns.min())
    result = machine.migrate_range(first, 4)
    assert (result.migrated, result.left.tolist()) == (4, [])
    assert sorted(where(app, 0, 8)) == sorted("11112222")
    assert values(app, 8) == list(range(1, 9))
    machine.check(full=True)
    with pytest.raises(ValueError, match="frames"):
        machine.migrate_range(first, 0)


def test_bad_arguments() -> None:
    machine = four_nodes()
    app = machine.spawn()
    for wrong in ({"keep": "hope"}, {"keep": "mmap_lock"}, {"holder": app}, {"max_passes": 0}):
        with pytest.raises(ValueError, match=r"keep|holder|max_passes"):
            machine.offline(1, **wrong)
    app.exit(zombie=True)
    assert failing(machine.offline, 1, keep="mmap_lock", holder=app).name == "ESRCH"
    assert machine.memory_nodes == (0, 1, 2, 3)


# ---- the last mapper may go at any step ---------------------------------------------------------


@pytest.mark.parametrize("kernel", NOW + THEN)
@pytest.mark.parametrize("step", range(pm.STEP_ISOLATE, pm.STEP_PUTBACK + 1))
@pytest.mark.parametrize("keep", KEEPS)
def test_last_mapper_exits(keep: str, step: int, kernel: str) -> None:
    machine = four_nodes(kernel, page_bytes=8)
    free = [machine.free(nid) for nid in range(4)]
    app = on_node(machine, 1, 3)
    actors = Actors(machine)
    actors.add("offline", lambda: machine.offline(1, keep=keep))
    actors.at_step(step, app.exit)
    actors.run()
    machine.check(full=True)
    machine.online(1)
    assert [machine.free(nid) for nid in range(4)] == free


@pytest.mark.parametrize("kernel", ["6.1", "pmig"])
@pytest.mark.parametrize("step", range(pm.STEP_ISOLATE, pm.STEP_PUTBACK + 1))
@pytest.mark.parametrize("keep", KEEPS)
def test_processes_fault_and_fork(keep: str, step: int, kernel: str) -> None:
    machine = four_nodes(kernel, page_bytes=8)
    app = on_node(machine, 1, 3)
    actors = Actors(machine)
    actors.add("offline", lambda: machine.offline(1, keep=keep))
    forker = actors.at_step(step, app.fork)
    writer = actors.at_step(step, lambda: app.touch(at(1), PAGE, write=True, values=[9]))
    actors.run()
    machine.check(full=True)
    assert writer.result.signal is None
    assert values(app, 3) == [1, 9, 3]
    assert values(forker.result, 3)[::2] == [1, 3]
    assert "1" not in where(app, 0, 3) + where(forker.result, 0, 3)


# ---- what keeps an anon_vma alive ---------------------------------------------------------------


def anon_vma_refs(machine: pm.Machine, number: int) -> int:
    return poke(machine, "anon_vma", number, "refcount")


def test_refcount_keeps_the_anon_vma_when_everybody_is_gone() -> None:
    machine = four_nodes(page_bytes=8)
    app = on_node(machine, 1, 1)
    number = int(machine.frames.mapping[int(app.frames(at(0), 1)[0])])

    def leave() -> int:
        app.exit()
        return anon_vma_refs(machine, number)

    actors = Actors(machine)
    actors.add("offline", lambda: machine.offline(1))
    leaver = actors.at_step(pm.STEP_UNMAP, leave)
    actors.run()
    assert leaver.result == 1
    assert anon_vma_refs(machine, number) == 0


def test_rcu_leaves_an_anon_vma_that_may_be_somebody_elses() -> None:
    """The anon_vma record is reused by another process, whose mappings are searched in vain."""
    machine = four_nodes(page_bytes=8)
    app = on_node(machine, 1, 1)
    number = int(machine.frames.mapping[int(app.frames(at(0), 1)[0])])

    def leave() -> tuple[int, int, pm.Process]:
        app.exit()
        gone = anon_vma_refs(machine, number)
        heir = machine.spawn()
        mapped(heir, 1, touched=False)
        heir.touch(at(0), PAGE, write=True, values=[77])
        mapping = machine.frames.mapping[int(heir.frames(at(0), 1)[0])]
        return gone, int(mapping), heir

    actors = Actors(machine)
    actors.add("offline", lambda: machine.offline(1, keep="rcu"))
    leaver = actors.at_step(pm.STEP_UNMAP, leave)
    actors.run()
    gone, mapping, heir = leaver.result
    assert (gone, mapping) == (0, number)
    machine.check(full=True)
    assert values(heir, 1) == [77]


def test_mmap_lock_of_one_process_keeps_what_it_maps_and_leaves_the_rest() -> None:
    machine = four_nodes(page_bytes=8)
    holder, stranger = on_node(machine, 1, 2), on_node(machine, 1, 1)
    actors = Actors(machine)

    def offline() -> pm.SyscallError:
        return failing(machine.offline, 1, keep="mmap_lock", holder=holder, max_passes=2)

    empty = actors.add("offline", offline)
    unmapper = actors.at_step(pm.STEP_UNMAP, lambda: holder.munmap(at(0), PAGE))
    actors.run()
    machine.check(full=True)
    assert unmapper.waited_for == ["mm"]  # its mappings cannot go while their pages move
    assert empty.result.name == "EBUSY"
    assert len(empty.result.result.left) == 1
    assert (where(holder, 1, 1), where(stranger, 0, 1)) == ("2", "1")


def test_mmap_lock_keeps_the_address_space_of_a_holder_that_exits() -> None:
    machine = four_nodes(page_bytes=8)
    free = machine.free(1)
    holder = on_node(machine, 1, 2)
    actors = Actors(machine)
    empty = actors.add("offline", lambda: machine.offline(1, keep="mmap_lock", holder=holder))
    actors.at_step(pm.STEP_UNMAP, holder.exit)
    machine.tracing = True
    actors.run()
    machine.check(full=True)
    assert empty.result.migrated == 2
    assert (machine.trace["step"] == pm.STEP_RESTORE).sum() == 2  # there was somebody to restore
    machine.online(1)
    assert machine.free(1) == free


def test_trylock_holds_the_address_space_it_found() -> None:
    machine = four_nodes(page_bytes=8)
    app = on_node(machine, 1, 2)
    actors = Actors(machine)
    empty = actors.add("offline", lambda: machine.offline(1, keep="trylock"))
    unmapper = actors.at_step(pm.STEP_UNMAP, lambda: app.munmap(at(0), PAGE))
    actors.run()
    machine.check(full=True)
    assert unmapper.waited_for == ["mm"]
    assert (empty.result.passes, empty.result.migrated) == (1, 2)


@pytest.mark.parametrize("keep", KEEPS)
def test_trylock_fails_where_the_order_of_locks_is_inverted(keep: str) -> None:
    """mbind holds mmap_lock for writing and waits for the page lock, which the migration holds."""
    machine = four_nodes(page_bytes=8)
    app = on_node(machine, 1, 2)
    pfn = int(app.frames(at(0), 1)[0])
    actors = Actors(machine)

    def bind() -> None:
        app.mbind(at(0), PAGE, pm.Bind([3]), pm.MPOL_MF_MOVE)

    def let_go() -> None:
        state = poke(machine, "frame", pfn, "state")
        poke(machine, "frame", pfn, "state", state & ~1)

    poke(machine, "frame", pfn, "state", poke(machine, "frame", pfn, "state") | 1)
    binder = actors.add("mbind", bind)
    empty = actors.add("offline", lambda: machine.offline(1, keep=keep))
    actors.add("device", let_go)  # begins when offline waits for its second pass
    actors.run()
    machine.check(full=True)
    assert binder.waited_for[0] == "page"
    assert empty.result.passes == 2
    tries = actors.steps.count(("offline", pm.STEP_ALLOC))
    # Page 1 is free to move; by trylock it stays as long as mbind has mmap_lock.
    assert tries == (11 if keep == "trylock" else 1)
    assert where(app, 0, 2) == "32"
    assert values(app, 2) == [1, 2]


# ---- real threads -------------------------------------------------------------------------------


@pytest.mark.threads
@pytest.mark.parametrize("keep", KEEPS)
def test_offline_among_threads(keep: str) -> None:
    machine = four_nodes(page_bytes=8)
    stop = threading.Event()
    errors: list[BaseException] = []

    def live(app: pm.Process, mark: int) -> None:
        try:
            while not stop.is_set():
                child = app.fork()
                app.touch(at(mark * 64), 32 * PAGE, write=True, values=range(mark, mark + 32))
                assert values(app, 32, mark * 64) == list(range(mark, mark + 32))
                child.touch(at(mark * 64), 16 * PAGE, write=True, values=0)
                child.exit()
        except BaseException as error:
            errors.append(error)

    apps = [(on_node(machine, 2, 32, first=mark * 64), mark) for mark in (1, 2)]
    threads = [threading.Thread(target=live, args=args, daemon=True) for args in apps]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            assert emptied(machine, keep).left.size == 0
            machine.online(2)
    finally:
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other"
    assert not errors
    machine.check(full=True)


def emptied(machine: pm.Machine, keep: str) -> pm.OfflineResult:
    """Take node 2 offline; a pass may meet a page that a thread keeps while it does not run."""
    for _ in range(TRIES):
        with allowed(EBUSY):
            return machine.offline(2, keep=keep, max_passes=10_000)
    pytest.fail(f"pages stay on the node: {machine.vmstat}")


def test_a_node_that_cannot_be_emptied_ends_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads stop, too, instead of going on beside an endless call."""
    monkeypatch.setattr(sys.modules[__name__], "TRIES", 2)
    before = threading.active_count()

    def pinned(self: pm.Machine, *_: object, **__: object) -> pm.OfflineResult:
        raise pm.SyscallError(EBUSY, "offline")

    monkeypatch.setattr(pm.Machine, "offline", pinned)
    with pytest.raises(pytest.fail.Exception, match="pages stay"):
        test_offline_among_threads("refcount")
    assert threading.active_count() == before
