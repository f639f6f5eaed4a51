"""The note's patches, completed: arrays, exact interleaving, move_pages and its uses."""

import numpy as np
import pytest

import pagemig as pm
from pagemig.studies.replay import replay
from pagemig.trace import Header, Trace
from support.machines import PAGE, at, failing, mapped, pages
from support.of_2006 import KERNELS, LISTS, World, nodes_of

MOVE, MOVE_ALL, STRICT = pm.MPOL_MF_MOVE, pm.MPOL_MF_MOVE_ALL, pm.MPOL_MF_STRICT


def ideal(process: pm.Process, first: int, n: int, nodes: list[int]) -> list[int]:
    """Node that interleaving prescribes for each page of private anonymous memory (6.5)."""
    return [nodes[((at(first + page) >> 12) & 0xFFFFFFFF) % len(nodes)] for page in range(n)]


def share(where: list[int], wanted: list[int]) -> float:
    return sum(a == b for a, b in zip(where, wanted, strict=True)) / len(wanted)


# ---- patch 3: arrays -----------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_page_i_goes_to_target_i(kernel: str) -> None:
    """7.3: a target and a result for every page, independent of the other pages."""
    world, n = World(kernel), 40
    world.anon(n)
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 4, n).tolist()
    pin = world.app.pin(at(7), PAGE)
    targets[7] = 2
    order = rng.permutation(n).tolist()
    result = world.machine.migrate_frames(
        [world.pfn(page) for page in order], [targets[page] for page in order]
    )
    expected = [targets[page] if page != 7 else "EAGAIN" for page in order]
    assert result.names == expected
    assert result.rc == 1
    world.app.unpin(pin)
    for page in range(n):
        assert world.read(page) == 5 + page
        assert world.node(page) == (targets[page] if page != 7 else 0)
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_targets_that_are_none(kernel: str) -> None:
    world = World(kernel)
    world.anon(3)
    pfns = [world.pfn(page) for page in range(3)]
    result = world.machine.migrate_frames([*pfns, pfns[0]], [1, 9, -1, 2])
    names = result.names
    assert names[:3] == [1, "ENODEV", "ENODEV"]
    # With lists pages move one by one, and the frame is free when it is asked for again.
    assert names[3] == "EBUSY"
    assert world.nodes(0, 3) == [1, 0, 0]
    for pfns_, nodes in (([1 << 40], [1]), ([1], [1, 2])):
        with pytest.raises(ValueError, match=r"pfns|nodes"):
            world.machine.migrate_frames(pfns_, nodes)
    world.machine.check(full=True)


def test_a_full_node_takes_no_page_of_another() -> None:
    """A page goes to its target or nowhere: the status of each says which."""
    machine = pm.Machine([pm.Node("1MiB", cpus=1), "64KiB", "1MiB"], kernel="pmig")
    app = machine.spawn()
    mapped(app, 40)
    result = app.move_pages(pages(0, 40), 1)
    there = nodes_of(app, 0, 40)
    assert set(there) == {0, 1}
    assert result.names == [1 if nid == 1 else "ENOMEM" for nid in there]
    assert result.rc == there.count(0)
    machine.check(full=True)


# ---- mbind with interleaving and MOVE ------------------------------------------------------------


@pytest.mark.parametrize("kernel", [*KERNELS, "6.1", "6.12"])
@pytest.mark.parametrize("nodes", [[0, 1], [0, 1, 2], [1, 3], [0, 1, 2, 3]])
def test_every_page_on_its_own_node(kernel: str, nodes: list[int]) -> None:
    """Only pmig moves pages that are inside the mask already; 6.4 says what all others do."""
    world, n = World(kernel), 120
    world.anon(n)
    world.app.munmap(at(50), PAGE)  # never collected
    wanted = ideal(world.app, 0, n, nodes)
    before = world.nodes(0, n)
    for part in ((0, 50), (51, n - 51)):
        world.app.mbind(at(part[0]), part[1] * PAGE, pm.Interleave(nodes), MOVE)
    after = world.nodes(0, n)
    there = [page for page in range(n) if page != 50]
    if kernel == "pmig":
        assert [after[page] for page in there] == [wanted[page] for page in there]
    elif 0 in nodes:  # everything lay on node 0, inside the mask, and stays
        assert after == before
        assert share([after[page] for page in there], [wanted[page] for page in there]) < 0.6
    else:
        assert {after[page] for page in there} == set(nodes)
    world.machine.check(full=True)


def test_share_of_pages_on_their_ideal_node() -> None:
    """Pages of a scattered program: 6.1 mends only those outside of the mask."""
    shares = {}
    for kernel in ("6.1", "2.6.18-ia64", "pmig"):
        world, n, nodes = World(kernel), 400, [0, 1, 2]
        world.anon(n)
        scattered = np.random.default_rng(9).integers(0, 4, n)
        for nid in range(4):
            world.machine.migrate_frames(
                [world.pfn(page) for page in np.flatnonzero(scattered == nid)],
                [nid] * int((scattered == nid).sum()),
            )
        assert world.nodes(0, n) == scattered.tolist()
        wanted = ideal(world.app, 0, n, nodes)
        before = share(world.nodes(0, n), wanted)
        world.app.mbind(at(0), n * PAGE, pm.Interleave(nodes), MOVE)
        shares[kernel] = (before, share(world.nodes(0, n), wanted))
        inside = sum(nid != 3 and nid == w for nid, w in zip(scattered, wanted, strict=True))
        outside = int((scattered == 3).sum())
        # Exactly those that happened to be right, and those that were outside the mask.
        exact = 1.0 if kernel == "pmig" else (inside + outside) / n
        assert shares[kernel] == (inside / n, exact)
        assert [world.read(page) for page in range(n)] == list(range(5, 5 + n))
        world.machine.check(full=True)
    assert shares["6.1"] == shares["2.6.18-ia64"]


def test_shared_pages_move_with_move_all_only() -> None:
    world, n, nodes = World("pmig"), 12, [0, 1, 2]
    world.anon(n, mappers=2)
    world.app.mbind(at(0), n * PAGE, pm.Interleave(nodes), MOVE)
    assert world.nodes(0, n) == [0] * n
    assert policy_errno(world, n, nodes, STRICT | MOVE) == "ok"
    assert policy_errno(world, n, nodes, STRICT | MOVE_ALL) == "ok"
    assert world.nodes(0, n) == ideal(world.app, 0, n, nodes)
    world.machine.check(full=True)


def policy_errno(world: World, n: int, nodes: list[int], flags: int) -> str:
    try:
        world.app.mbind(at(0), n * PAGE, pm.Interleave(nodes), flags)
    except pm.SyscallError as error:
        return error.name
    return "ok"


def test_a_page_that_cannot_move_to_its_node() -> None:
    """Its neighbours are right all the same, and STRICT says that it failed."""
    world, n, nodes = World("pmig"), 12, [0, 1, 2]
    world.anon(n)
    pin = world.app.pin(at(4), PAGE)
    assert policy_errno(world, n, nodes, STRICT | MOVE) == "EIO"
    wanted = ideal(world.app, 0, n, nodes)
    assert world.nodes(0, n) == [0 if page == 4 else wanted[page] for page in range(n)]
    assert world.app.vmas()[0].policy_text == "interleave=0-2"
    world.app.unpin(pin)
    assert policy_errno(world, n, nodes, STRICT | MOVE) == "ok"
    assert world.nodes(0, n) == wanted
    world.machine.check(full=True)


def test_several_mappings_and_files() -> None:
    """By the mapping's own offset, whichever it is; pages of a file by their place in it."""
    world, nodes = World("pmig"), [0, 1, 2]
    world.anon(7)
    file = world.machine.file("ext4", 16 * PAGE)
    world.root.fwrite(file, 0, range(16))
    world.app.mmap(8 * PAGE, addr=at(7), file=file, shared=True, offset=5 * PAGE)
    world.app.touch(at(7), 8 * PAGE)
    world.app.mbind(at(0), 15 * PAGE, pm.Interleave(nodes), MOVE)
    by_offset = [nodes[(5 + page) % 3] for page in range(8)]
    assert world.nodes(0, 15) == ideal(world.app, 0, 7, nodes) + by_offset
    world.machine.check(full=True)


def test_holes_are_found_first() -> None:
    world = World("pmig")
    world.anon(3)
    world.anon(3, first=6)
    error = failing(world.app.mbind, at(0), 9 * PAGE, pm.Interleave([0, 1]), MOVE)
    assert error.name == "EFAULT"
    assert world.nodes(0, 3) == [0, 0, 0]
    assert {v.policy_text for v in world.app.vmas()} == {"default"}


def test_mlocked_pages_go_to_their_node_too() -> None:
    """7.6, finished: VM_LOCKED says where a page is not, on a swap device, not that it stays."""
    world, n, nodes = World("pmig"), 9, [0, 1, 2]
    world.anon(n)
    world.app.mlock(at(0), n * PAGE)
    world.app.mbind(at(0), n * PAGE, pm.Interleave(nodes), MOVE)
    assert world.nodes(0, n) == ideal(world.app, 0, n, nodes)
    assert world.app.status()["VmLck"] == n * 4
    world.machine.check(full=True)


# ---- patch 4: automatic migration in user space --------------------------------------------------


@pytest.fixture(scope="module")
def hot_late() -> Trace:
    """Reads everything once, then works on the quarter that came last."""
    rng, n = np.random.default_rng(5), 400
    body = rng.integers(3 * n // 4, n, 40_000)
    touched = np.concatenate([np.arange(n), body])
    return Trace.from_accesses(touched, rng.random(touched.size) < 0.3, Header(program="hot late"))


@pytest.mark.parametrize("kernel", ["2.6.18-ia64", "pmig"])
def test_automatic_migration(hot_late: Trace, kernel: str) -> None:
    """The hot quarter fits on the fast node: once it is there accesses are local."""
    stays = replay(hot_late, "first-touch", kernel=kernel, epochs=50)
    moves = replay(hot_late, "most-used", kernel=kernel, epochs=50)
    assert moves.refused == {}
    assert moves.moved.sum() > 0
    assert stays.local_over_time[25:].max() < 0.1
    assert moves.local_over_time[25:].min() > 0.9
    assert moves.accesses.sum() == stays.accesses.sum() == hot_late.accesses


@pytest.mark.parametrize("kernel", LISTS)
def test_automatic_migration_needs_the_call(hot_late: Trace, kernel: str) -> None:
    run = replay(hot_late, "most-used", kernel=kernel, epochs=50)
    assert run.moved.sum() == 0
    assert set(run.refused) == {"ENOSYS"}
