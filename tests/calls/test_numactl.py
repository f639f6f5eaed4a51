"""The programs of numactl's test directory, re-created (section 5.2 of the reference on modern
kernels), under the profile 6.1.

Left out: bind_range, nodemap, tbitmap, mynode (they test libnuma's parsing) and tshm (a stub).
"""

import random

import pytest

import pagemig as pm
from pagemig import (
    MPOL_MF_MOVE,
    MPOL_MF_STRICT,
    Bind,
    Default,
    Interleave,
    Policy,
    Preferred,
    PreferredMany,
)
from support.machines import PAGE, WINDOW, at, four_nodes, mapped, pages, where


def written_but_page_2(app: pm.Process, nid: int) -> None:
    """32 pages on one node, each with its number, page 2 never touched."""
    mapped(app, 32, touched=False)
    app.set_mempolicy(Bind([nid]))
    for page in range(32):
        if page != 2:
            app.touch(at(page), PAGE, write=True, values=page)
    app.set_mempolicy(Default())


def assert_content(app: pm.Process) -> None:
    for page in range(32):
        if page != 2:
            read = app.touch(at(page), PAGE)
            assert read.values is not None
            assert (read.minflt, read.values.tolist()) == (0, [page])


def test_move_pages(app: pm.Process) -> None:
    """Pages spread over the nodes; the one never touched is not there; content stays."""
    written_but_page_2(app, 0)
    result = app.move_pages(pages(0, 32), [page % 4 for page in range(32)])
    assert result.rc == 0
    assert where(app, 0, 32) == "01F3" + "0123" * 7
    assert_content(app)


def test_migrate_pages(app: pm.Process) -> None:
    written_but_page_2(app, 1)
    assert app.migrate_pages([1], [0]) == 0
    assert where(app, 0, 32) == "00F" + "0" * 29
    assert_content(app)


def test_mbind_mig_pages(app: pm.Process) -> None:
    written_but_page_2(app, 0)
    app.mbind(at(0), 32 * PAGE, Bind([1]), MPOL_MF_MOVE | MPOL_MF_STRICT)
    assert where(app, 0, 32) == "11F" + "1" * 29
    assert_content(app)


@pytest.mark.parametrize("policy", [Preferred(2), PreferredMany([2, 3])])
def test_prefered(app: pm.Process, policy: Policy) -> None:
    app.set_mempolicy(policy)
    assert app.get_mempolicy().policy == policy
    base = mapped(app, 1)
    assert app.move_pages([base]).status[0] in policy.nodes


def test_tshared(machine: pm.Machine) -> None:
    """Ten children write a shared interleaved region in stride: page k is on (k + inode) mod 4.

    The program expects k mod 4; a constant shift over the whole region is legitimate (section 3.1).
    """
    app = machine.spawn()
    mapped(app, 400, touched=False, shared=True)
    app.mbind(at(0), 400 * PAGE, Interleave(range(4)))
    children = [app.fork() for _ in range(10)]
    for page in range(400):
        children[page % 10].touch(at(page), PAGE, write=True)
    app.touch(at(0), 400 * PAGE)
    shift = app.vmas()[0].inode
    assert where(app, 0, 400) == "".join(str((page + shift) % 4) for page in range(400))


@pytest.mark.parametrize("seed", range(5))
def test_randmap(app: pm.Process, seed: int) -> None:
    """Random ranges of shared memory get random policies; every page reports its last one."""
    rng = random.Random(seed)
    n = 400
    mapped(app, n, touched=False, shared=True)
    recorded: list[Policy] = [Default()] * n
    for _ in range(60):
        first = rng.randrange(n)
        length = rng.randint(1, n - first)
        nodes = rng.sample(range(4), rng.randint(1, 4))
        policy = rng.choice([Bind(nodes), Interleave(nodes), Preferred(nodes[0]), Default()])
        app.mbind(at(first), length * PAGE, policy)
        recorded[first : first + length] = [policy] * length
        for page in range(max(0, first - 20), min(n, first + length + 20)):
            assert app.get_mempolicy(pm.MPOL_F_ADDR, at(page)).policy == recorded[page]


def test_realloc(app: pm.Process) -> None:
    """A region that grows by mremap keeps its node policy."""
    base = mapped(app, 1, touched=False)
    app.mbind(base, PAGE, Bind([2]))
    for n in range(1, 256):
        base = app.mremap(base, n * PAGE, (n + 1) * PAGE, maymove=True)
        app.touch(base + n * PAGE, PAGE, write=True)
        assert app.get_mempolicy(pm.MPOL_F_ADDR, base + n * PAGE).policy == Bind([2])
    status = app.move_pages([base + k * PAGE for k in range(1, 256)]).status
    assert set(status.tolist()) == {2}


@pytest.mark.parametrize(
    ("policy", "share"),
    [
        (Interleave(range(4)), [0.25] * 4),
        (Bind([1]), [0, 1, 0, 0]),
        (Preferred(3), [0, 0, 0, 1]),
    ],
)
def test_regress(app: pm.Process, machine: pm.Machine, policy: Policy, share: list[float]) -> None:
    """memhog under numactl: the nodes fill as the policy says."""
    before = [machine.free(nid) for nid in range(4)]
    app.set_mempolicy(policy)
    app.touch(app.mmap(4 * pm.MiB), 4 * pm.MiB, write=True)
    taken = [was - machine.free(nid) for nid, was in enumerate(before)]
    assert taken == [int(part * 4 * pm.MiB) for part in share]


def test_shmtest(app: pm.Process, machine: pm.Machine) -> None:
    """Policies of parts of a shared segment hold for every process that maps it."""
    segment = machine.file("tmpfs", 64 * PAGE)
    mapped(app, 64, touched=False, file=segment, shared=True)
    app.mbind(at(0), 16 * PAGE, Bind([1]))
    app.mbind(at(16), 16 * PAGE, Interleave([2, 3]))
    app.mbind(at(32), 16 * PAGE, Preferred(3))
    other = machine.spawn(cpu=1)
    base = other.mmap(64 * PAGE, addr=WINDOW * 2, file=segment, shared=True)
    other.touch(base, 64 * PAGE, write=True)
    found = other.move_pages([base + k * PAGE for k in range(64)]).status.tolist()
    assert found[:16] == [1] * 16
    assert sorted(found[16:32]) == [2] * 8 + [3] * 8
    assert found[32:] == [3] * 16 + [1] * 16


def test_distance() -> None:
    machine = pm.Machine(["1MiB", "1MiB"], distances=[[10, 21], [15, 10]])
    assert machine.distances.tolist() == [[10, 21], [15, 10]]
    assert four_nodes().distances[0].tolist() == [10, 20, 20, 20]
