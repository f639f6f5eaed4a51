"""``VM_DONTMIGRATE``: pages that must not move, for programs that used VM_LOCKED so far."""

import errno

import pytest

import pagemig as pm
from support.machines import PAGE, at, error_of, failing, four_nodes, mapped, where


def fixed(n: int = 4) -> pm.Process:
    """Pages 0 to n - 1 must not move, the next n may."""
    app = four_nodes("pmig").spawn()
    mapped(app, 2 * n)
    app.madvise(at(0), n * PAGE, "dontmigrate")
    return app


@pytest.mark.parametrize("kernel", [name for name in pm.KERNELS if name != "pmig"])
def test_no_other_kernel_knows_the_advice(kernel: str) -> None:
    app = four_nodes(kernel).spawn()
    mapped(app, 1)
    assert error_of(app.madvise, at(0), PAGE, "dontmigrate") == "EINVAL"
    assert error_of(app.madvise, at(0), PAGE, "domigrate") == "EINVAL"


def test_every_call_leaves_them_and_moves_the_others() -> None:
    app = fixed()
    assert app.migrate_pages([0], [1]) == 0
    assert where(app, 0, 8) == "00001111"
    app.mbind(at(0), 8 * PAGE, pm.Bind([2]), pm.MPOL_MF_MOVE)
    assert where(app, 0, 8) == "00002222"
    result = app.move_pages([at(0), at(4)], [3, 3])
    assert result.status.tolist() == [-errno.EPERM, 3]
    app.machine.check()


@pytest.mark.parametrize("policy", [pm.Bind([2]), pm.Interleave([2, 3])])
def test_strict_says_so(policy: pm.Policy) -> None:
    app = fixed()
    flags = pm.MPOL_MF_MOVE | pm.MPOL_MF_STRICT
    assert failing(app.mbind, at(0), 8 * PAGE, policy, flags).name == "EIO"
    assert where(app, 0, 4) == "0000"
    app.mbind(at(4), 4 * PAGE, policy, flags)
    app.machine.check()


def test_advice_can_be_taken_back() -> None:
    app = fixed()
    app.madvise(at(0), 4 * PAGE, "domigrate")
    assert len(app.vmas()) == 1
    assert app.migrate_pages([0], [1]) == 0
    assert where(app, 0, 8) == "1" * 8


def test_one_mapping_that_says_so_is_enough() -> None:
    machine = four_nodes("pmig", page_bytes=8)
    app = machine.spawn()
    mapped(app, 4, shared=True, touched=False)
    app.touch(at(0), 4 * PAGE, write=True, values=[1, 2, 3, 4])
    child = app.fork()
    child.touch(at(0), 4 * PAGE)
    child.madvise(at(0), PAGE, "dontmigrate")
    result = app.move_pages([at(0), at(1)], [1, 1], flags=pm.MPOL_MF_MOVE_ALL)
    assert result.status.tolist() == [-errno.EPERM, 1]
    # What was unmapped before the one that says no was found is mapped again.
    assert app.touch(at(0), 4 * PAGE).minflt == child.touch(at(0), 4 * PAGE).minflt == 0
    machine.check()


def test_a_child_inherits_it() -> None:
    app = fixed()
    child = app.fork()
    child.touch(at(0), 8 * PAGE, write=True)
    child.migrate_pages([0], [1])
    assert where(child, 0, 8) == "00001111"


def test_a_locked_page_moves_where_a_fixed_one_does_not() -> None:
    app = fixed()
    app.mlock(at(4), 4 * PAGE)
    assert app.migrate_pages([0], [1]) == 0
    assert where(app, 0, 8) == "00001111"
    app.machine.check()


@pytest.mark.parametrize("keep", ["refcount", "rcu", "trylock"])
def test_a_node_that_holds_some_cannot_go_offline(keep: str) -> None:
    app = fixed()
    machine = app.machine
    app.madvise(at(0), 4 * PAGE, "domigrate")
    app.migrate_pages([0], [1])
    app.madvise(at(0), 4 * PAGE, "dontmigrate")
    error = failing(machine.offline, 1, max_passes=3, keep=keep)
    assert (error.name, error.result.passes) == ("EBUSY", 3)
    left = app.frames(at(0), 4).tolist()
    assert sorted(error.result.left.tolist()) == sorted(left)
    assert machine.frames.flag("lru")[left].all()  # their isolation is undone
    assert where(app, 0, 8) == "11112222"
    machine.check(full=True)
    app.madvise(at(0), 4 * PAGE, "domigrate")
    assert machine.offline(1, keep=keep).left.size == 0


def test_they_are_not_swapped_out_either() -> None:
    app = fixed()
    pfns = app.frames(at(0), 8)
    assert app.machine.swap_out(pfns) == 4
    assert app.touch(at(0), 4 * PAGE).minflt == 0
    app.machine.check()
