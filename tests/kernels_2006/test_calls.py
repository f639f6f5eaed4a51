"""mbind, migrate_pages and move_pages of 2006: sections 6.1 to 6.5, 7.4 and 7.6."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest

import pagemig as pm
from pagemig.system.machine import STEPS
from pagemig.testing.actors import Actors
from support.machines import (
    NODE_PAIRS,
    PAGE,
    at,
    error_of,
    failing,
    four_nodes,
    mapped,
    pages,
    policies,
)
from support.of_2006 import KERNELS, LISTS, World, nodes_of

STRICT, MOVE, MOVE_ALL = pm.MPOL_MF_STRICT, pm.MPOL_MF_MOVE, pm.MPOL_MF_MOVE_ALL
LRU = 1 << 4
#: The kernels with move_pages.
MOVERS = ("2.6.18-ia64", "pmig")


def on_node(process: pm.Process, nid: int, n: int, first: int = 0, **how: Any) -> None:
    """Pages written on a node, whose mapping has no policy afterwards."""
    base = mapped(process, n, first, touched=False, **how)
    process.mbind(base, n * PAGE, pm.Bind([nid]))
    process.touch(base, n * PAGE, write=True)
    process.mbind(base, n * PAGE, pm.Default())
    assert nodes_of(process, first, n) == [nid] * n


# ---- which node goes where (6.3) -----------------------------------------------------------------

VECTORS = [
    *NODE_PAIRS,
    ([0, 1, 2], [1, 2], [(2, 1), (1, 2), (0, 1)]),
    ([0, 1, 2, 3], [1, 2], [(3, 2), (2, 1), (1, 2), (0, 1)]),
]
#: Where the sets overlap and differ in size pages move twice: what the section says of the ends.
ENDS = {
    ((0, 1, 2), (1, 2)): {2: 2, 1: 2, 0: 1},
    ((0, 1, 2, 3), (1, 2)): {3: 2, 2: 2, 1: 2, 0: 1},
}


@pytest.mark.parametrize(("old", "new", "order"), VECTORS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_order_of_node_pairs(
    kernel: str, old: list[int], new: list[int], order: list[tuple[int, int]]
) -> None:
    swap = ["1MiB"] if kernel == "2.6.17" else []
    machine = pm.Machine([pm.Node("1MiB", cpus=1)] * 14, kernel=kernel, swap=swap)
    app = machine.spawn()
    for nid in range(14):
        on_node(app, nid, 1, first=2 * nid)
    machine.tracing = True
    assert app.migrate_pages(old, new) == 0
    machine.tracing = False
    copies = machine.trace[[STEPS[step] == "copy" for step in machine.trace["step"].tolist()]]
    seen = list(zip(machine.node_of(copies["pfn"]), machine.node_of(copies["arg"]), strict=True))
    # A node is emptied of all pages that are on it then, those that came a moment ago, too.
    where = {nid: nid for nid in range(14)}
    expected = []
    for source, dest in order:
        here = [page for page, nid in where.items() if nid == source]
        expected += [(source, dest)] * len(here)
        where |= dict.fromkeys(here, dest)
    assert seen == expected
    assert nodes_of(app, 0, 28)[::2] == [where[nid] for nid in range(14)]
    for page, nid in ENDS.get((tuple(old), tuple(new)), {}).items():
        assert where[page] == nid
    machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_results_of_all_pairs_are_added(kernel: str) -> None:
    world = World(kernel)
    for nid in (0, 1):
        on_node(world.app, nid, 3, first=10 * nid)
    pins = [world.app.pin(at(10 * nid), PAGE) for nid in (0, 1)]
    assert world.root.migrate_pages({0, 1}, {2, 3}, pid=world.app) == 2
    assert world.nodes(0, 3) == [0, 2, 2]
    assert world.nodes(10, 3) == [1, 3, 3]
    for pin in pins:
        world.app.unpin(pin)
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_full_node(kernel: str) -> None:
    """6.3: pages fall back to other nodes, which counts as success.  pmig's stay where they are."""
    machine = pm.Machine(
        [pm.Node("1MiB", cpus=1), "64KiB", "1MiB"],
        kernel=kernel,
        swap=["1MiB"] if kernel == "2.6.17" else [],
    )
    app = machine.spawn()
    mapped(app, 32)
    left = app.migrate_pages({0}, {1})
    counts = np.bincount(nodes_of(app, 0, 32), minlength=3).tolist()
    assert 0 < counts[1] <= 16
    if kernel == "pmig":
        assert (left, counts) == (32 - counts[1], [32 - counts[1], counts[1], 0])
    else:
        assert left == 0
        assert counts[0] + counts[1] + counts[2] == 32
        assert counts[0] or counts[2]  # where they fell back to
    machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_order_of_errors_of_migrate_pages(kernel: str) -> None:
    """Section 6.2, each call with everything wrong that comes later."""
    world = World(kernel)
    user, other = world.machine.spawn(uid=1000), world.machine.spawn(uid=1001)
    nowhere, kthread, absent = 4321, 2, [9]

    def migrate(old: Any, new: Any, pid: Any, **how: Any) -> str:
        return error_of(user.migrate_pages, old, new, pid=pid, **how)

    assert migrate(pm.BAD, absent, nowhere) == "EFAULT"
    assert migrate([0], pm.BAD, nowhere) == "EFAULT"
    assert migrate([0], absent, nowhere, maxnode=1 << 20) == "EINVAL"
    assert migrate([0], absent, nowhere) == "ESRCH"
    assert migrate([0], absent, kthread) == "EINVAL"  # no memory, before any permission
    assert migrate([0], [1], other) == "EPERM"
    assert migrate([0], absent, 0) == "EPERM"  # beyond the nodes it may use
    zombie = other.fork()
    zombie.exit(zombie=True)
    assert migrate([0], absent, zombie.pid) == "EINVAL"
    assert migrate([0], [1], 0) == "ok"
    assert error_of(world.root.migrate_pages, [0], [1], pid=other) == "ok"  # CAP_SYS_NICE
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_migrate_pages_moves_shared_pages_for_the_privileged_only(kernel: str) -> None:
    """6.2: MOVE_ALL with CAP_SYS_NICE, else MOVE; 6.1: skipped pages are no failures."""
    world = World(kernel)
    world.app.setuid(1000)
    child = world.anon(2, mappers=2)[1]
    child.munmap(at(1), PAGE)
    assert world.app.migrate_pages({0}, {1}) == 0
    assert world.nodes(0, 2) == [0, 1]
    assert world.root.migrate_pages({0}, {1}, pid=world.app) == 0
    assert world.nodes(0, 2) == [1, 1] == nodes_of(child, 0, 1) * 2
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_migrate_pages_leaves_policies_alone(kernel: str) -> None:
    world = World(kernel)
    world.anon(2)
    world.app.mbind(at(0), 2 * PAGE, pm.Bind([0]))
    before = policies(world.app)
    assert world.move() == 0
    assert (world.nodes(0, 2), policies(world.app)) == ([1, 1], before)


# ---- mbind (6.1, 6.4) ----------------------------------------------------------------------------

#: What is done to page 1 of three on node 0 before mbind asks for node 1.
CONDITIONS: dict[str, Callable[[World], Any]] = {
    "plain": lambda world: None,
    "pinned": lambda world: world.app.pin(at(1), PAGE),
    "shared": lambda world: world.app.fork(),
    "zero page": lambda world: (
        world.app.madvise(at(1), PAGE, "dontneed"),
        world.app.touch(at(1), PAGE),
    ),
    "not on the LRU": lambda world: world.set(world.pfn(1), LRU, False),
    "not present": lambda world: world.app.madvise(at(1), PAGE, "dontneed"),
}
SET, UNSET = "bind=1", "default"

#: (condition, flags, errno, node of page 0, node of page 1, policy afterwards)
MATRIX = [
    ("plain", 0, "ok", 0, 0, SET),
    ("plain", STRICT, "EIO", 0, 0, UNSET),  # verifies only, before the policy is set
    ("plain", MOVE, "ok", 1, 1, SET),
    ("plain", MOVE_ALL, "ok", 1, 1, SET),
    ("plain", STRICT | MOVE, "ok", 1, 1, SET),
    ("pinned", MOVE, "ok", 1, 0, SET),  # best effort
    ("pinned", MOVE_ALL, "ok", 1, 0, SET),
    ("pinned", STRICT | MOVE, "EIO", 1, 0, SET),  # collected, and failed
    ("pinned", STRICT | MOVE_ALL, "EIO", 1, 0, SET),
    ("shared", STRICT, "EIO", 0, 0, UNSET),
    ("shared", MOVE, "ok", 0, 0, SET),
    ("shared", STRICT | MOVE, "ok", 0, 0, SET),  # never collected
    ("shared", STRICT | MOVE_ALL, "ok", 1, 1, SET),
    ("zero page", STRICT | MOVE, "ok", 1, -1, SET),
    ("not on the LRU", STRICT | MOVE, "ok", 1, 0, SET),
    ("not present", STRICT | MOVE, "ok", 1, -1, SET),
]


@pytest.mark.parametrize(("condition", "flags", "errno", "first", "second", "policy"), MATRIX)
@pytest.mark.parametrize("kernel", KERNELS)
def test_mbind_matrix(
    kernel: str, condition: str, flags: int, errno: str, first: int, second: int, policy: str
) -> None:
    world = World(kernel)
    world.anon(3)
    CONDITIONS[condition](world)
    assert error_of(world.app.mbind, at(0), 3 * PAGE, pm.Bind([1]), flags) == errno
    assert policies(world.app) == [(0, 3, policy)]
    if condition == "zero page":
        assert world.read(1) == 0
        second = world.nodes(0, 3)[1]  # no page of a node
    assert world.nodes(0, 3) == [first, second, first]
    if condition == "not on the LRU":
        world.set(world.pfn(1), LRU, True)
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("flags", [MOVE, STRICT | MOVE])
def test_default_with_move_selects_every_page(kernel: str, flags: int) -> None:
    """6.4: INVERT with an empty mask; and DEFAULT clears STRICT, so that a failure is none."""
    world = World(kernel)
    world.anon(3)
    on_node(world.app, 2, 2, first=3)
    pin = world.app.pin(at(1), PAGE)
    old = [world.pfn(page) for page in range(5)]
    world.app.mbind(at(0), 5 * PAGE, pm.Default(), flags)
    assert world.nodes(0, 5) == [0] * 5  # local
    moved = [world.pfn(page) != before for page, before in enumerate(old)]
    assert moved == [True, False, True, True, True]
    world.app.unpin(pin)
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_order_of_errors_of_mbind(kernel: str) -> None:
    world = World(kernel)
    world.anon(2)
    user, root = world.app, world.root
    user.setuid(1000)
    bind, interleave, preferred, default = 2, 3, 1, 0

    def mbind(*args: Any, by: pm.Process = user) -> str:
        return error_of(by.mbind, *args)

    base = at(0)
    assert mbind(base + 1, PAGE, bind, [1], MOVE_ALL | 8) == "EINVAL"  # flag
    assert mbind(base + 1, PAGE, 4, [1], MOVE_ALL) == "EINVAL"  # mode: there are 0 to 3
    assert mbind(base + 1, 0, bind, [], MOVE_ALL) == "EPERM"
    assert mbind(base + 1, 0, bind, [], MOVE) == "EINVAL"
    assert mbind(base, (1 << 64) - PAGE, bind, []) == "EINVAL"  # end below start
    assert mbind(base, 0, bind, []) == "ok"  # nothing to do
    assert mbind(base, 0, interleave, [9]) == "ok"
    assert mbind(base, PAGE, bind, []) == "EINVAL"
    assert mbind(base, PAGE, interleave, []) == "EINVAL"
    assert mbind(base, PAGE, default, [0]) == "EINVAL"
    assert mbind(base, PAGE, bind, [0, 9]) == "EINVAL"  # not within the nodes there are
    assert mbind(base, PAGE, preferred, []) == "ok"
    root.mmap(2 * PAGE, addr=base)
    assert mbind(base, PAGE, bind, [1], MOVE_ALL, by=root) == "ok"
    world.machine.check(full=True)


#: Two mappings, pages 10 to 11 and 14 to 15: (first page, pages, policy, errno); 6.1.
HOLES = [
    (10, 2, pm.Bind([1]), "ok"),
    (8, 4, pm.Bind([1]), "ok"),  # a gap before the first mapping is not noticed
    (8, 1, pm.Bind([1]), "ok"),  # nor that there is none at all, as long as one comes later
    (10, 6, pm.Bind([1]), "EFAULT"),  # a hole between
    (10, 3, pm.Bind([1]), "ok"),  # beyond the first mapping, but not the last
    (14, 3, pm.Bind([1]), "EFAULT"),  # beyond the last
    (16, 1, pm.Bind([1]), "EFAULT"),  # none at or after the start
    (10, 6, pm.Default(), "ok"),  # DISCONTIG_OK
    (14, 3, pm.Default(), "ok"),
    (16, 1, pm.Default(), "EFAULT"),  # always
]


@pytest.mark.parametrize(("first", "n", "policy", "errno"), HOLES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_holes_in_the_range(kernel: str, first: int, n: int, policy: pm.Policy, errno: str) -> None:
    world = World(kernel)
    world.anon(2, first=10)
    world.anon(2, first=14)
    assert error_of(world.app.mbind, at(first), n * PAGE, policy, MOVE) == errno
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_memory_for_the_target(kernel: str) -> None:
    """6.4: a negative result of migrate_pages is "non-zero", too: EIO with STRICT, else nothing."""
    swap = ["1MiB"] if kernel == "2.6.17" else []
    nodes = [pm.Node("1MiB", cpus=1), "32KiB"]
    for flags, errno in ((MOVE, "ok"), (STRICT | MOVE, "EIO")):
        machine = pm.Machine(nodes, kernel=kernel, swap=swap)
        app = machine.spawn()
        mapped(app, 32)
        assert error_of(app.mbind, at(0), 32 * PAGE, pm.Bind([1]), flags) == errno
        assert 0 in nodes_of(app, 0, 32)
        assert policies(app) == [(0, 32, SET)]
        machine.check(full=True)


# ---- interleaving (6.5, 3.2) ---------------------------------------------------------------------


def il_node(index: int, nodes: list[int]) -> int:
    """offset_il_node."""
    return sorted(nodes)[index % len(nodes)]


def reversed_positions(n: int, chunk: int = 257) -> list[int]:
    """Fake indices in the order in which 2.6.17 hands its targets out, chunk after chunk."""
    ends = [*range(0, n, chunk), n]
    return [k for a, b in pairwise(ends) for k in reversed(range(a, b))]


@pytest.mark.parametrize(
    ("n", "nodes", "exact", "swapped_round"),
    [
        (7, [0, 1, 2], [0, 1, 2, 0, 1, 2, 0], [0, 2, 1, 0, 2, 1, 0]),
        (6, [0, 1], [0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0]),
    ],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_interleave_vectors(
    kernel: str, n: int, nodes: list[int], exact: list[int], swapped_round: list[int]
) -> None:
    """The two examples of 6.5, of a mapping whose vm_pgoff is 0 (modulo 2**32)."""
    world = World(kernel)
    on_node(world.app, 3, n)
    world.app.mbind(at(0), n * PAGE, pm.Interleave(nodes), MOVE)
    assert world.nodes(0, n) == (swapped_round if kernel in LISTS else exact)
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_interleaving_of_several_chunks(kernel: str) -> None:
    """Fake addresses run on over the chunks, and are reversed within each."""
    world, n, nodes = World(kernel), 600, [0, 1, 2]
    on_node(world.app, 3, n)
    world.app.mbind(at(0), n * PAGE, pm.Interleave(nodes), MOVE)
    order = reversed_positions(n) if kernel in LISTS else range(n)
    assert world.nodes(0, n) == [il_node(k, nodes) for k in order]
    assert np.bincount(world.nodes(0, n)).tolist() == [200, 200, 200]  # totals agree


@pytest.mark.parametrize("kernel", KERNELS)
def test_interleaving_around_a_failure(kernel: str) -> None:
    """6.5: targets go to whichever page needs one, so that after a failure positions drift."""
    world, n, nodes = World(kernel), 7, [0, 1, 2]
    on_node(world.app, 3, n)
    pin = world.app.pin(at(2), PAGE)
    world.app.mbind(at(0), n * PAGE, pm.Interleave(nodes), MOVE)
    if kernel in LISTS:
        targets = iter(reversed(range(n)))
        expected = [3 if page == 2 else il_node(next(targets), nodes) for page in range(n)]
    else:
        expected = [3 if page == 2 else il_node(page, nodes) for page in range(n)]
    assert world.nodes(0, n) == expected
    world.app.unpin(pin)
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_targets_are_allocated_257_at_a_time(kernel: str) -> None:
    """3.2: the test comes after the count.  2.6.18 asks for one when it needs one."""
    world, n = World(kernel), 600
    world.machine.width = 1
    on_node(world.app, 0, n)
    waiting: list[int] = []  # targets that nobody has yet
    frames = world.machine.frames
    first = len(frames) // 4

    def look(step: str, pfns: list[int]) -> None:
        new = slice(first, 2 * first)
        waiting.append(int(((frames.refcount[new] > 0) & (frames.mapcount[new] == 0)).sum()))

    world.machine.at_step(look, step=pm.STEP_ALLOC)
    assert world.move() == 0
    world.machine.at_step(None)
    if kernel in LISTS:
        assert waiting == [257 - k for k in range(257)] * 2 + [86 - k for k in range(86)]
    else:
        assert len(waiting) == n
        assert max(waiting) <= 1


# ---- move_pages (7.4) ----------------------------------------------------------------------------


class Request:
    """One page for each condition of the table, all asked to node 1."""

    def __init__(self, kernel: str) -> None:
        self.world = world = World(kernel)
        app = world.app
        world.anon(1, first=10)
        on_node(app, 1, 1, first=12)
        world.anon(1, first=14)
        app.touch(app.mmap(2 * PAGE, addr=at(16)), PAGE)  # the zero page; page 17 is untouched
        world.anon(1, first=18)
        world.machine.swap_out([world.pfn(18)])
        world.anon(1, first=20)
        self.pin = app.pin(at(20), PAGE)
        world.anon(1, first=22)
        app.mlock(at(22), PAGE)
        ramfs = world.machine.file("ramfs", PAGE)
        mapped(app, 1, first=24, file=ramfs, shared=True)
        world.anon(1, first=26)
        app.fork().munmap(at(0), 26 * PAGE)  # page 26 is mapped twice
        world.anon(1, first=28)
        world.set(world.pfn(28), LRU, False)

    #: (page, status of 2.6.18), in an order that shows that each is judged by itself.
    TABLE: ClassVar = [
        (40, "EFAULT"),  # no vma at or above
        (8, "ENOENT"),  # a hole below one
        (17, "ENOENT"),  # never touched
        (18, "ENOENT"),  # swapped out
        (16, "ENOENT"),  # the zero page; its documentation says EFAULT
        (12, 1),  # there already
        (26, "EACCES"),  # mapped twice
        (28, "EBUSY"),  # not on the LRU
        (10, 1),
        (10, "EBUSY"),  # listed twice: isolated already
        (20, "EAGAIN"),  # pinned, given up
        (24, "EINVAL"),  # dirty, and its file system has no writepage
        (22, 1),  # mlocked pages move (7.6)
        (14, 1),
    ]

    def result(self, flags: int = MOVE) -> pm.MoveResult:
        addresses = [at(page) for page, _ in self.TABLE]
        return self.world.app.move_pages(addresses, 1, flags)

    def end(self) -> None:
        self.world.set(self.world.pfn(28), LRU, True)
        self.world.app.unpin(self.pin)
        self.world.machine.check(full=True)


@pytest.mark.parametrize("kernel", MOVERS)
def test_status_of_every_page(kernel: str) -> None:
    request = Request(kernel)
    result = request.result()
    expected = dict(enumerate(status for _, status in Request.TABLE))
    if kernel == "pmig":
        expected[4] = "EFAULT"  # as documented
    assert dict(enumerate(result.names)) == expected
    assert result.rc == 2  # pages isolated that did not move
    request.end()


@pytest.mark.parametrize("kernel", MOVERS)
def test_move_all_takes_shared_pages(kernel: str) -> None:
    request = Request(kernel)
    result = request.result(MOVE_ALL)
    assert result.names[6] == 1
    assert result.rc == 2
    request.end()


@pytest.mark.parametrize("kernel", MOVERS)
def test_query(kernel: str) -> None:
    """Node, ENOENT (absent or reserved) or EFAULT (no vma): flags and mapcount play no role."""
    request = Request(kernel)
    app = request.world.app
    zero = "EFAULT" if kernel == "pmig" else "ENOENT"
    where = {40: "EFAULT", 8: "ENOENT", 17: "ENOENT", 18: "ENOENT", 16: zero, 12: 1}
    where |= dict.fromkeys([26, 28, 10, 20, 24, 22, 14], 0)
    for flags in (0, MOVE, MOVE_ALL):
        result = app.move_pages([at(page) for page in where], None, flags)
        assert (result.rc, result.names) == (0, list(where.values()))
    request.end()


@pytest.mark.parametrize("kernel", MOVERS)
def test_a_page_on_the_move_is_not_there(kernel: str) -> None:
    """A migration entry is ENOENT, asked for or moved."""
    world = World(kernel)
    world.anon(2)
    actors, answers = Actors(world.machine), []
    actors.add("migrator", lambda: world.app.move_pages(pages(0, 2), 1))

    def look() -> None:
        answers.append(world.root.move_pages(pages(0, 2), None, pid=world.app).names)
        answers.append(error_of(world.root.move_pages, pages(0, 2), 2, MOVE_ALL, pid=world.app))

    actors.at_step(pm.STEP_UNMAP, look)
    actors.run()
    assert answers == [["ENOENT", "ENOENT"], "ENOENT" if kernel == "2.6.18-ia64" else "ok"]
    assert world.nodes(0, 2) == [1, 1]


@pytest.mark.parametrize("kernel", MOVERS)
def test_order_of_errors_of_move_pages(kernel: str) -> None:
    """7.4, "overall checks"; each call with everything wrong that comes later."""
    world = World(kernel)
    world.anon(3)
    user, other = world.machine.spawn(uid=1000), world.machine.spawn(uid=1001)

    def move(nodes: Any, flags: int, pid: Any, **how: Any) -> str:
        return error_of(user.move_pages, pages(0, 3), nodes, flags, pid=pid, **how)

    huge = 1 << 60
    assert move([9, 9, 9], MOVE_ALL | STRICT, 4321, count=huge) == "EINVAL"
    assert move([9, 9, 9], MOVE_ALL, 4321, count=huge) == "EPERM"
    assert move([9, 9, 9], MOVE, 4321, count=huge) == "ESRCH"
    assert move([9, 9, 9], MOVE, 2, count=huge) == "EINVAL"  # a kernel thread has no memory
    assert move([9, 9, 9], MOVE, other, count=huge) == "EPERM"
    assert move([9, 9, 9], MOVE, 0, count=huge) == "E2BIG"
    assert move([9, 9, 9], MOVE, 0, count=1 << 40) == "ENOMEM"
    assert move([0, 9, 9], MOVE, 0, count=4) == "ENODEV"  # entry by entry
    assert move([0, 1, 1], MOVE, 0, count=4) == "EFAULT"
    assert move(0, 0, 0) == ("ok" if kernel == "pmig" else "ENOENT")  # flags 0 is legal


@pytest.mark.parametrize("kernel", MOVERS)
def test_bad_arguments_stop_the_call_before_anything_moves(kernel: str) -> None:
    world = World(kernel)
    world.anon(3)
    error = failing(world.app.move_pages, pages(0, 3), [1, 1, 9])
    assert error.name == "ENODEV"
    assert error.result.names == ["unset"] * 3
    assert world.nodes(0, 3) == [0, 0, 0]


@pytest.mark.parametrize("kernel", MOVERS)
def test_statuses_that_cannot_be_stored(kernel: str) -> None:
    """They are copied to the user when all is over: the pages have moved by then."""
    world = World(kernel)
    world.anon(2)
    for pointer in (pm.BAD, pm.NULL):
        error = failing(world.app.move_pages, pages(0, 2), 1, status=pointer)
        assert error.name == "EFAULT"
        assert world.nodes(0, 2) == [1, 1]
        world.app.migrate_pages({1}, {0})
    world.machine.check(full=True)


def test_a_negative_result_stores_no_status() -> None:
    """7.4: neither ENOENT nor ENOMEM does; 2.6.18."""
    world = World("2.6.18-ia64")
    world.anon(2)
    error = failing(world.app.move_pages, pages(0, 2), 0)  # everything is there already
    assert (error.name, error.result.names) == ("ENOENT", ["unset"] * 2)
    machine = pm.Machine([pm.Node("512KiB", cpus=1)] * 2, kernel="2.6.18-ia64")
    app = machine.spawn()
    mapped(app, 64)
    while app.touch(app.mmap(PAGE), PAGE, write=True).done and sum(map(machine.free, (0, 1))):
        pass
    error = failing(app.move_pages, pages(0, 64), 1)
    assert (error.name, error.result.names) == ("ENOMEM", ["unset"] * 64)
    machine.check(full=True)


def test_targets_are_looked_for_from_the_start_of_the_request() -> None:
    """7.4: new_page_node scans O(n) entries per page, O(n**2) per call."""
    for n in (10, 100):
        world = World("2.6.18-ia64")
        world.anon(n)
        world.app.move_pages(pages(0, n), 1)
        assert world.count("requests_scanned") == n * (n + 1) // 2
    world = World("pmig")
    world.anon(100)
    world.app.move_pages(pages(0, 100), 1)
    assert world.count("requests_scanned") == 0


def test_the_calls_that_exist() -> None:
    for kernel in LISTS:
        app = four_nodes(kernel).spawn()
        assert error_of(app.move_pages, [at(0)], 1) == "ENOSYS"
    for kernel in KERNELS:
        app = four_nodes(kernel).spawn()
        base = app.mmap(PAGE)
        assert error_of(app.set_mempolicy_home_node, base, PAGE, 0) == "ENOSYS"


# ---- mlocked pages (7.6) -------------------------------------------------------------------------


#: Node of an mlocked page after each call; None: the call does not exist.
MLOCKED = {
    "2.6.17": {"migrate_pages": 0, "mbind MOVE": 0, "mbind STRICT|MOVE": "EIO", "move_pages": None},
    "2.6.18-ia64": {"migrate_pages": 0, "mbind MOVE": 0, "mbind STRICT|MOVE": 1, "move_pages": 1},
    "pmig": {"migrate_pages": 1, "mbind MOVE": 1, "mbind STRICT|MOVE": 1, "move_pages": 1},
}
MLOCKED["2.6.17-mm"] = MLOCKED["2.6.17"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_mlocked_pages(kernel: str) -> None:
    calls: dict[str, Callable[[World], Any]] = {
        "migrate_pages": World.move,
        "mbind MOVE": lambda w: w.app.mbind(at(0), PAGE, pm.Bind([1]), MOVE),
        "mbind STRICT|MOVE": lambda w: w.app.mbind(at(0), PAGE, pm.Bind([1]), STRICT | MOVE),
        "move_pages": lambda w: w.app.move_pages([at(0)], 1),
    }
    seen: dict[str, Any] = {}
    for name, call in calls.items():
        world = World(kernel)
        world.anon()
        world.app.mlock(at(0), PAGE)
        error = error_of(call, world)
        seen[name] = {"ok": world.node(), "ENOSYS": None}.get(error, error)
        assert world.app.status()["VmLck"] == 4
        assert not world.flag("mlocked", world.pfn())  # 2.6.28
        world.machine.check(full=True)
    assert seen == MLOCKED[kernel]
