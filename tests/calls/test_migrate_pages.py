"""migrate_pages(2): checks and their order, which node goes where, what moves.

Expected values are the answers of the recorded Linux 6.1 (the scenario is named), or follow from a
named section of the references.
"""

from typing import Any

import pytest

import pagemig as pm
from pagemig import BAD, NULL, Bind
from pagemig.system.credentials import INIT_PID, KTHREAD_PID
from pagemig.system.machine import STEPS
from support.machines import (
    NODE_PAIRS,
    PAGE,
    at,
    error_of,
    mapped,
    migrated,
    policies,
    spread,
    where,
)

NOBODY = 77777


# ---- arguments: hand-048, row by row ------------------------------------------------------------

ROWS: list[tuple[Any, Any, dict[str, int], str | int]] = [
    # from, to, more; the error, or how many of four pages on node 0 move
    ([0], [4], {}, "EINVAL"),
    ([0], [1, 4], {}, 4),
    ([4], [1], {}, 0),
    ([1, 4], [2], {}, 0),
    ([], [1], {}, 0),
    ([0], [], {}, "EINVAL"),
    ([], [], {}, "EINVAL"),
    (NULL, [1], {}, 0),
    ([0], NULL, {}, "EINVAL"),
    (NULL, NULL, {}, "EINVAL"),
    (BAD, [1], {}, "EFAULT"),
    ([0], BAD, {}, "EFAULT"),
    ([0], [1], {"maxnode": 0}, "EINVAL"),
    ([0], [1], {"maxnode": 1}, "EINVAL"),
    ([0], [1], {"maxnode": 2}, "EINVAL"),
    ([0], [1], {"maxnode": 3}, 4),
    ([0], [1], {"maxnode": -1}, "EINVAL"),
    ([0], [1], {"maxnode": 40000}, "EINVAL"),
    ([0], [1], {"maxnode": 32770}, "EINVAL"),
    ([70], [1], {}, 0),
    ([0], [70], {}, "EINVAL"),
    ([0], [2000], {}, "EINVAL"),
    ([0], [1, 64], {}, 4),
]


@pytest.mark.parametrize(("old", "new", "more", "expected"), ROWS)
def test_arguments(
    app: pm.Process,
    machine: pm.Machine,
    old: Any,
    new: Any,
    more: dict[str, int],
    expected: str | int,
) -> None:
    mapped(app, 4)
    answer = error_of(app.migrate_pages, old, new, **more)
    assert answer == (expected if isinstance(expected, str) else "ok")
    assert migrated(machine) == (expected if isinstance(expected, int) else 0, 0)


def test_processes_without_memory(app: pm.Process) -> None:  # hand-007
    zombie = app.fork()
    zombie.exit(zombie=True)
    assert error_of(app.migrate_pages, [0], [1], pid=zombie) == "EINVAL"
    assert error_of(app.migrate_pages, [0], [1], pid=KTHREAD_PID) == "EINVAL"
    assert error_of(app.migrate_pages, [0], [1], pid=NOBODY) == "ESRCH"
    assert error_of(app.migrate_pages, [0], [1], pid=-1) == "ESRCH"
    assert error_of(app.migrate_pages, [0], [1], pid=INIT_PID) == "ok"


def test_order_of_checks(app: pm.Process) -> None:  # section 2.6
    user = app.fork()
    user.setuid(1000)
    assert error_of(user.migrate_pages, BAD, [1], pid=NOBODY) == "EFAULT"  # masks first
    assert error_of(user.migrate_pages, [0], [2000], pid=NOBODY) == "EINVAL"
    assert error_of(user.migrate_pages, [0], [9], pid=NOBODY) == "ESRCH"  # then who
    assert error_of(user.migrate_pages, [0], [9], pid=app) == "EPERM"  # then whether
    assert error_of(user.migrate_pages, [0], [9]) == "EPERM"  # nodes outside its cpuset
    assert error_of(user.migrate_pages, [0], [1, 1023]) == "EPERM"
    assert error_of(app.migrate_pages, [0], [9]) == "EINVAL"  # root: no node left
    assert error_of(app.migrate_pages, [0], [], pid=KTHREAD_PID) == "EINVAL"
    assert error_of(user.migrate_pages, [0], []) == "EINVAL"


def test_who_may_migrate_whom(app: pm.Process) -> None:  # hand-027, hand-050
    hidden, open_, other = app.fork(), app.fork(), app.fork()
    hidden.setuid(1000)
    open_.setuid(1000, dumpable=True)
    other.setuid(1001, dumpable=True)
    assert error_of(hidden.migrate_pages, [0], [3], pid=open_) == "ok"
    assert error_of(open_.migrate_pages, [0], [3], pid=hidden) == "EPERM"
    assert error_of(other.migrate_pages, [0], [3], pid=open_) == "EPERM"
    assert error_of(app.migrate_pages, [0], [3], pid=hidden) == "ok"
    assert error_of(hidden.migrate_pages, [0], [3], pid=app) == "EPERM"
    assert error_of(open_.migrate_pages, [0], [3]) == "ok"


# ---- which node goes where ----------------------------------------------------------------------

PAIRS = [
    *NODE_PAIRS,
    # where the sizes differ, today's kernels leave a node of both sets alone (section 2.6 of the
    # reference on modern ones), so no page moves twice
    ([0, 1, 2], [1, 2], [(0, 1)]),
    ([0, 1, 2, 3], [1, 2], [(3, 2), (0, 1)]),
    (list(range(8)), [3, 4, 5], [(7, 4), (6, 3), (2, 5), (1, 4), (0, 3)]),
]


@pytest.mark.parametrize(("old", "new", "pairs"), PAIRS)
def test_pairs_of_nodes_and_their_order(
    old: list[int], new: list[int], pairs: list[tuple[int, int]]
) -> None:
    machine = pm.Machine([pm.Node("1MiB", cpus=1)] * 14)
    app = machine.spawn()
    mapped(app, 14)
    spread(app, 0, range(14))
    machine.tracing = True
    assert app.migrate_pages(old, new) == 0
    machine.tracing = False
    copies = machine.trace[[STEPS[step] == "copy" for step in machine.trace["step"].tolist()]]
    seen = list(zip(machine.node_of(copies["pfn"]), machine.node_of(copies["arg"]), strict=True))
    assert sorted(seen) == sorted(pairs)
    assert seen == pairs
    target = dict(pairs)
    expected = [target.get(nid, nid) for nid in range(14)]
    assert app.move_pages([at(page) for page in range(14)]).status.tolist() == expected
    machine.check(full=True)


def test_nodes_that_are_not_there_count(app: pm.Process) -> None:
    """The i-th node of one set goes to the i-th of the other, absent ones too (section 2.6)."""
    mapped(app, 4)
    spread(app, 0, [0, 1, 2, 3])
    assert app.migrate_pages([0, 1023], [0, 1]) == 0  # one size: node 0 to itself
    assert where(app, 0, 4) == "0123"
    assert app.migrate_pages([0, 1, 70], [1, 2]) == 0  # sizes differ: node 1 is left alone
    assert where(app, 0, 4) == "1123"


# ---- what moves ---------------------------------------------------------------------------------


def test_everything_moves(app: pm.Process) -> None:  # hand-031, hand-052
    base = mapped(app, 8)
    app.mlock(base, 2 * PAGE)
    app.mprotect(at(4), 2 * PAGE, "r")
    app.touch(mapped(app, 2, 16, touched=False), 2 * PAGE)
    assert app.migrate_pages([0], [2]) == 0
    assert where(app, 0, 8) == "2" * 8
    assert where(app, 16, 2) == "FF"


def test_shared_pages_by_privilege(app: pm.Process) -> None:  # hand-049
    mapped(app, 4, shared=True)
    mapped(app, 4, 8)
    assert app.migrate_pages([0], [1]) == 0
    child = app.fork()
    child.touch(at(8), 2 * PAGE, write=True)
    child.touch(at(0), 4 * PAGE)
    child.setuid(1000)
    assert child.migrate_pages([0, 1], [2]) == 0
    assert (where(child, 0, 4), where(child, 8, 4)) == ("1111", "2211")
    assert app.migrate_pages([0, 1], [3], pid=child) == 0
    assert (where(child, 0, 4), where(child, 8, 4)) == ("3333", "2233")
    assert (where(app, 0, 4), where(app, 8, 4)) == ("3333", "1133")


def test_policies_stay(app: pm.Process) -> None:  # hand-051
    mapped(app, 4)
    app.mbind(at(0), 4 * PAGE, Bind([0]))
    app.set_mempolicy(Bind([0]))
    assert app.migrate_pages([0], [2]) == 0
    assert (where(app, 0, 4), policies(app)) == ("2222", [(0, 4, "bind:0")])
    assert app.get_mempolicy().policy == Bind([0])
    app.madvise(at(0), 2 * PAGE, "dontneed")
    app.touch(at(0), 2 * PAGE, write=True)
    assert where(app, 0, 4) == "0022"


def test_pinned_pages_are_counted(app: pm.Process, machine: pm.Machine) -> None:  # hand-024
    mapped(app, 8)
    pin = app.pin(at(0), 2 * PAGE)
    assert app.migrate_pages([0, 1, 2, 3], [1]) == 2
    assert migrated(machine) == (6, 2)
    app.unpin(pin)


def test_full_node_ends_the_call(machine: pm.Machine) -> None:  # section 2.6
    small = pm.Machine([pm.Node("1MiB", cpus=1), pm.Node(8 * PAGE)])
    app = small.spawn()
    mapped(app, 64)
    assert error_of(app.migrate_pages, [0], [1]) == "ENOMEM"
    small.check(full=True)
