"""mbind(2): checks and their order, misplaced pages, STRICT, policies of ranges.

Expected values are the answers of the recorded Linux 6.1 (the scenario is named) or come from the
named section of the reference on modern kernels.
"""

from typing import Any

import pytest

import pagemig as pm
from pagemig import (
    BAD,
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
    MPOL_MF_LAZY,
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    MPOL_MF_STRICT,
    MPOL_PREFERRED,
    MPOL_PREFERRED_MANY,
    MPOL_WEIGHTED_INTERLEAVE,
    NULL,
    Bind,
    Default,
    Interleave,
    Local,
    Policy,
    Preferred,
    PreferredMany,
)
from support.machines import (
    PAGE,
    at,
    error_of,
    four_nodes,
    letters,
    mapped,
    migrated,
    pages,
    policies,
    spread,
    where,
)

STATIC, RELATIVE = MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES
BALANCING = MPOL_F_NUMA_BALANCING
STRICT, MOVE, MOVE_ALL = MPOL_MF_STRICT, MPOL_MF_MOVE, MPOL_MF_MOVE_ALL


# ---- mode, mask, maxnode: hand-071, row by row --------------------------------------------------

ROWS: list[tuple[int, Any, int, dict[str, int], str]] = [
    # mode word, nodes, flags, more; the error or the policy of the mapping afterwards
    (MPOL_DEFAULT, [0], 0, {}, "EINVAL"),
    (MPOL_BIND, NULL, 0, {}, "EINVAL"),
    (MPOL_BIND, [], 0, {}, "EINVAL"),
    (MPOL_INTERLEAVE, NULL, 0, {}, "EINVAL"),
    (MPOL_INTERLEAVE, [], 0, {}, "EINVAL"),
    (MPOL_PREFERRED, [], 0, {}, "local"),
    (MPOL_LOCAL, [0], 0, {}, "EINVAL"),
    (MPOL_LOCAL, [], 0, {}, "local"),
    (MPOL_WEIGHTED_INTERLEAVE, [0], 0, {}, "EINVAL"),
    (99, NULL, 0, {}, "EINVAL"),
    (-1, [0], 0, {}, "EINVAL"),
    (MPOL_DEFAULT, NULL, -1, {}, "EINVAL"),
    (MPOL_BIND, [0], MPOL_MF_LAZY, {}, "EINVAL"),
    (MPOL_BIND, [0], 16, {}, "EINVAL"),
    (MPOL_PREFERRED, BAD, 0, {}, "EFAULT"),
    (MPOL_BIND, [4], 0, {}, "EINVAL"),
    (MPOL_BIND, [0, 4], 0, {}, "bind:0"),
    (MPOL_BIND, [64], 0, {}, "EINVAL"),
    (MPOL_BIND, [2000], 0, {}, "EINVAL"),
    (MPOL_BIND, [0], 0, {"maxnode": 0}, "EINVAL"),
    (MPOL_BIND, [0], 0, {"maxnode": 1}, "EINVAL"),
    (MPOL_BIND, [0], 0, {"maxnode": 2}, "bind:0"),
    (MPOL_BIND, [1], 0, {"maxnode": 2}, "EINVAL"),
    (MPOL_BIND, [0], 0, {"maxnode": 40000}, "EINVAL"),
    (MPOL_BIND | STATIC | RELATIVE, [0], 0, {}, "EINVAL"),
    (MPOL_DEFAULT | STATIC, NULL, 0, {}, "default"),
    (MPOL_PREFERRED | STATIC, NULL, 0, {}, "EINVAL"),
    (MPOL_LOCAL | RELATIVE, NULL, 0, {}, "EINVAL"),
    (MPOL_BIND | BALANCING, [0], 0, {}, "bind=balancing:0"),
    (MPOL_INTERLEAVE | BALANCING, [0], 0, {}, "EINVAL"),
    (MPOL_PREFERRED, [1, 2], 0, {}, "prefer:1"),
    (MPOL_PREFERRED_MANY, [], 0, {}, "EINVAL"),
    (MPOL_PREFERRED_MANY, [1, 2], 0, {}, "prefer (many):1-2"),
    (MPOL_BIND, [1], STRICT | MOVE | MOVE_ALL, {}, "bind:1"),
]


@pytest.mark.parametrize(("word", "nodes", "flags", "more", "expected"), ROWS)
def test_mode_and_mask(
    app: pm.Process, word: int, nodes: Any, flags: int, more: dict[str, int], expected: str
) -> None:
    mapped(app, 8, touched=False)
    answer = error_of(app.mbind, at(0), 8 * PAGE, word, nodes, flags, **more)
    if expected.startswith("E"):
        assert (answer, policies(app)) == (expected, [(0, 8, "default")])
    else:
        assert (answer, policies(app)) == ("ok", [(0, 8, expected)])


MASKS = [  # section 2.2: mode, empty mask, mask {1}, static or relative with an empty mask
    (MPOL_DEFAULT, "ok", "EINVAL", "ok"),
    (MPOL_PREFERRED, "ok", "ok", "EINVAL"),
    (MPOL_BIND, "EINVAL", "ok", "EINVAL"),
    (MPOL_INTERLEAVE, "EINVAL", "ok", "EINVAL"),
    (MPOL_LOCAL, "ok", "EINVAL", "EINVAL"),
    (MPOL_PREFERRED_MANY, "EINVAL", "ok", "EINVAL"),
]


@pytest.mark.parametrize(("mode", "empty", "one", "flagged"), MASKS)
@pytest.mark.parametrize("call", ["mbind", "set_mempolicy"])
def test_mode_against_mask(
    app: pm.Process, call: str, mode: int, empty: str, one: str, flagged: str
) -> None:
    mapped(app, 1)

    def ask(word: int, nodes: Any) -> str:
        if call == "mbind":
            return error_of(app.mbind, at(0), PAGE, word, nodes)
        return error_of(app.set_mempolicy, word, nodes)

    assert ask(mode, []) == ask(mode, NULL) == empty
    assert ask(mode, [1]) == one
    assert ask(mode, [1, 9, 70, 1023]) == one
    assert ask(mode, [9]) == ask(mode, [70]) == ask(mode, [1023]) == "EINVAL"
    assert ask(mode, [1024]) == "EINVAL"
    assert ask(mode | STATIC, []) == ask(mode | RELATIVE, NULL) == flagged
    assert ask(mode | STATIC | RELATIVE, [1]) == "EINVAL"
    assert ask(mode | STATIC | RELATIVE, []) == "EINVAL"


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_modes_by_kernel(kernel: str) -> None:  # sections 2.2 and 8; hand-071 of both recordings
    new = kernel == "6.12"
    app = four_nodes(kernel).spawn()
    mapped(app, 1)
    assert error_of(app.mbind, at(0), PAGE, MPOL_WEIGHTED_INTERLEAVE, [0, 1]) == (
        "ok" if new else "EINVAL"
    )
    many = MPOL_PREFERRED_MANY | BALANCING
    assert error_of(app.mbind, at(0), PAGE, many, [0, 1]) == ("ok" if new else "EINVAL")
    assert error_of(app.mbind, at(0), PAGE, 7, [0, 1]) == "EINVAL"


def test_mode_word_is_a_c_int(app: pm.Process) -> None:
    mapped(app, 1)
    app.mbind(at(0), PAGE, MPOL_BIND | 1 << 32, [1])
    assert policies(app) == [(0, 1, "bind:1")]


# ---- ranges -------------------------------------------------------------------------------------


def test_odd_ranges(app: pm.Process) -> None:  # hand-072
    mapped(app, 8)
    app.mbind(at(0), 0, Bind([1]))
    assert error_of(app.mbind, at(0) + 1, PAGE, Bind([1])) == "EINVAL"
    app.mbind(at(0), 1, Bind([1]))
    assert policies(app) == [(0, 1, "bind:1"), (1, 7, "default")]
    app.mbind(at(2), PAGE + 1, Bind([1]))
    assert policies(app) == [
        (0, 1, "bind:1"),
        (1, 1, "default"),
        (2, 2, "bind:1"),
        (4, 4, "default"),
    ]
    assert error_of(app.mbind, at(0), -PAGE, Bind([1])) == "EINVAL"
    assert error_of(app.mbind, at(0), -1, Bind([1])) == "ok"
    assert error_of(app.mbind, at(100), 4 * PAGE, Bind([1])) == "EFAULT"
    assert error_of(app.mbind, at(100), 0, Bind([1])) == "ok"
    assert error_of(app.mbind, at(6), 4 * PAGE, Bind([2])) == "EFAULT"
    app.mbind(at(0), 8 * PAGE, Default())
    assert policies(app) == [(0, 8, "default")]


def test_holes(app: pm.Process, machine: pm.Machine) -> None:  # hand-073
    mapped(app, 4)
    mapped(app, 4, 8)
    assert error_of(app.mbind, at(0), 12 * PAGE, Bind([1]), MOVE) == "EFAULT"
    assert where(app, 0, 12) == "0000FFFF0000"
    assert error_of(app.mbind, at(0), 12 * PAGE, Default()) == "ok"
    assert error_of(app.mbind, at(0), 12 * PAGE, Bind([2]), STRICT) == "EFAULT"
    assert error_of(app.mbind, at(0), 6 * PAGE, Bind([2]), MOVE) == "EFAULT"
    assert error_of(app.mbind, at(6), 4 * PAGE, Bind([2]), MOVE) == "EFAULT"
    before = migrated(machine)[0]
    app.mbind(at(0), 12 * PAGE, Default(), MOVE)
    assert migrated(machine)[0] - before == 8
    assert error_of(app.mbind, at(4), 4 * PAGE, Bind([1])) == "EFAULT"
    assert error_of(app.mbind, at(4), 4 * PAGE, Default()) == "EFAULT"


def test_neighbours_with_equal_policies_merge(app: pm.Process) -> None:  # LTP vma02, hand-074
    mapped(app, 3)
    app.mbind(at(0), PAGE, Bind([1]))
    app.mbind(at(2), PAGE, Bind([1]))
    assert len(app.vmas()) == 3
    app.mbind(at(1), PAGE, Bind([1]))
    assert policies(app) == [(0, 3, "bind:1")]


def test_static_masks_that_differ_only_in_absent_nodes_do_not_merge(app: pm.Process) -> None:
    mapped(app, 3)
    for page, extra in ((0, 70), (1, 71), (2, 71)):
        app.mbind(at(page), PAGE, MPOL_BIND | STATIC, [1, extra])
    assert policies(app) == [(0, 1, "bind=static:1"), (1, 2, "bind=static:1")]


# ---- order of checks, section 2.4 ---------------------------------------------------------------

ORDER = [
    # every row is wrong in what its left neighbour's check sees and in all that come after
    ("EINVAL", {"policy": 99, "nodes": BAD, "flags": MOVE_ALL}),  # mode before mask
    ("EFAULT", {"nodes": BAD, "flags": 8}),  # mask before flags
    ("EINVAL", {"flags": MOVE_ALL | 8}),  # flags before privilege
    ("EPERM", {"flags": MOVE_ALL, "addr": at(0) + 1}),  # privilege before alignment
    ("EINVAL", {"addr": at(100) + 1, "length": 0}),  # alignment before length
    ("ok", {"nodes": [], "length": 0}),  # length 0 before mode against mask
    ("EINVAL", {"nodes": [], "addr": at(100)}),  # mode against mask before the walk
    ("EINVAL", {"nodes": [9], "addr": at(100)}),  # no such node before the walk
    ("EFAULT", {"addr": at(100), "flags": STRICT}),
]


@pytest.mark.parametrize(("expected", "wrong"), ORDER)
def test_order_of_checks(app: pm.Process, expected: str, wrong: dict[str, Any]) -> None:
    mapped(app, 4)
    user = app.fork()
    user.setuid(1000)
    arguments = {"addr": at(0), "length": 4 * PAGE, "policy": MPOL_BIND, "nodes": [1]}
    assert error_of(user.mbind, **(arguments | wrong)) == expected
    assert policies(user) == [(0, 4, "default")]


# ---- misplaced pages ----------------------------------------------------------------------------

SPREAD = [0, 0, 1, 2, 3] * 3 + [0]

MOVES: list[tuple[Policy, int, str, int]] = [
    # policy, processor, nodes of the 16 pages after STRICT|MOVE, pages migrated
    (Bind([1]), 1, "1" * 16, 13),  # hand-054
    (Local(), 1, "1" * 16, 16),  # hand-066: the mask is empty, every page is misplaced
    (Default(), 1, "1" * 16, 16),  # hand-068
    (Preferred(), 0, "0" * 16, 16),  # section 0, fact 4
    (Preferred(2), 0, "2" * 16, 13),  # hand-058
    (Interleave([0, 1, 2, 3]), 0, "0012300123001230", 0),  # section 0, fact 6
    (PreferredMany([0, 1, 2, 3]), 0, "0012300123001230", 0),
]


@pytest.mark.parametrize(("policy", "cpu", "after", "moved"), MOVES)
def test_misplaced_pages_move(
    app: pm.Process, machine: pm.Machine, policy: Policy, cpu: int, after: str, moved: int
) -> None:
    mapped(app, 16)
    spread(app, 0, SPREAD)
    app.cpu = cpu
    before = migrated(machine)[0]
    app.mbind(at(0), 16 * PAGE, policy, STRICT | MOVE)
    assert where(app, 0, 16) == after
    assert migrated(machine) == (before + moved, 0)


def test_pages_outside_the_mask_go_to_their_exact_node(app: pm.Process) -> None:  # hand-076
    mapped(app, 32)
    steps = [
        ([0, 1, 2, 3], "0" * 32),
        ([1, 2, 3], "12312312312312312312312312312312"),
        ([1, 3], "13311313311313311313311313311313"),
        ([0, 2], "02" * 16),
        ([0, 1, 2, 3], "02" * 16),
    ]
    for nodes, after in steps:
        app.mbind(at(0), 32 * PAGE, Interleave(nodes), MOVE)
        assert where(app, 0, 32) == after


def test_misplaced_means_outside_the_mask_as_given(app: pm.Process) -> None:  # section 0, fact 3
    """PREFERRED {1,2} keeps pages of node 2, though the policy prefers node 1 only."""
    mapped(app, 4)
    spread(app, 0, [0, 1, 2, 3])
    app.mbind(at(0), 4 * PAGE, MPOL_PREFERRED, [1, 2], MOVE)
    assert where(app, 0, 4) == "1121"
    assert policies(app) == [(0, 4, "prefer:1")]


def test_relative_mask_is_compared_as_given(app: pm.Process) -> None:  # section 0, fact 3
    """Relative node 70 of four is node 2, but no page is on a node numbered 70: all move."""
    mapped(app, 4)
    spread(app, 0, [0, 1, 2, 3])
    app.mbind(at(0), 4 * PAGE, MPOL_BIND | RELATIVE, [70], MOVE)
    assert where(app, 0, 4) == "2222"
    assert policies(app) == [(0, 4, "bind=relative:2")]
    frames = app.frames(at(0), 4)
    app.mbind(at(0), 4 * PAGE, MPOL_BIND | RELATIVE, [70], MOVE)
    assert not (frames == app.frames(at(0), 4)).any()


@pytest.mark.parametrize("policy", [Default(), Local()])
def test_moving_to_where_it_is_renews_the_frame(app: pm.Process, policy: Policy) -> None:  # fact 4
    mapped(app, 8)
    before = app.pagemap(at(0), 8)
    app.mbind(at(0), 8 * PAGE, policy, MOVE)
    assert where(app, 0, 8) == "0" * 8
    assert not (before == app.pagemap(at(0), 8)).any()


def test_bind_to_where_it_is_moves_nothing(app: pm.Process, machine: pm.Machine) -> None:  # 5.4
    mapped(app, 8)
    app.mbind(at(0), 8 * PAGE, Bind([0]), MOVE | STRICT)
    assert migrated(machine) == (0, 0)


# ---- STRICT -------------------------------------------------------------------------------------

STRICTS: list[tuple[Policy, str]] = [
    (Bind([0]), "ok"),
    (Bind([1]), "EIO"),  # LTP mbind02
    (Preferred(1), "EIO"),
    (Interleave([1, 2]), "EIO"),
    (Interleave([0, 1]), "ok"),
    (Local(), "EIO"),  # section 0, fact 5: even where it is
    (Preferred(), "EIO"),
    (Default(), "ok"),  # drops STRICT first
]


@pytest.mark.parametrize(("policy", "expected"), STRICTS)
def test_strict_alone(app: pm.Process, policy: Policy, expected: str) -> None:
    mapped(app, 4)
    app.mbind(at(0), 4 * PAGE, Interleave([0, 3]))
    assert error_of(app.mbind, at(0), 4 * PAGE, policy, STRICT) == expected
    after = str(policy) if expected == "ok" else "interleave:0,3"
    assert policies(app) == [(0, 4, after)]


@pytest.mark.parametrize("policy", [Local(), Bind([1])])
def test_strict_over_nothing_present(app: pm.Process, policy: Policy) -> None:
    mapped(app, 4, touched=False)
    app.touch(at(1), PAGE)  # the zero page is skipped
    app.mbind(at(0), 4 * PAGE, policy, STRICT)
    assert policies(app) == [(0, 4, str(policy))]


def test_strict_and_move_with_a_pinned_page(app: pm.Process, machine: pm.Machine) -> None:
    """The policy stays and the others have moved (hand-024)."""
    mapped(app, 8)
    pin = app.pin(at(0), 2 * PAGE)
    app.mbind(at(0), 8 * PAGE, Bind([3]), MOVE)
    assert (where(app, 0, 8), migrated(machine)) == ("00333333", (6, 2))
    assert error_of(app.mbind, at(0), 8 * PAGE, Bind([2]), MOVE | STRICT) == "EIO"
    assert (where(app, 0, 8), policies(app)) == ("00222222", [(0, 8, "bind:2")])
    app.unpin(pin)
    app.mbind(at(0), 8 * PAGE, Bind([2]), MOVE | STRICT)
    assert where(app, 0, 8) == "2" * 8


def test_shared_pages_are_skipped_without_a_word(app: pm.Process, machine: pm.Machine) -> None:
    mapped(app, 8)  # hand-081
    child = app.fork()
    child.touch(at(0), 4 * PAGE, write=True)
    app.mbind(at(0), 8 * PAGE, Bind([1]), MOVE)
    assert where(app, 0, 8) == "11110000"
    app.mbind(at(0), 8 * PAGE, Bind([2]), MOVE | STRICT)
    assert where(app, 0, 8) == "22220000"
    assert error_of(app.mbind, at(0), 8 * PAGE, Bind([2]), STRICT) == "EIO"
    app.mbind(at(0), 8 * PAGE, Bind([3]), MOVE_ALL)
    assert (where(app, 0, 8), where(child, 0, 8)) == ("33333333", "00003333")
    child.setuid(1000)
    assert error_of(child.mbind, at(0), 8 * PAGE, Bind([1]), MOVE_ALL) == "EPERM"
    child.mbind(at(0), 8 * PAGE, Bind([1]), MOVE | STRICT)
    assert where(child, 0, 8) == "11113333"
    assert migrated(machine)[1] == 0


# ---- kinds of memory, section 2.9 ---------------------------------------------------------------


def test_inaccessible_and_locked_pages_move(app: pm.Process) -> None:  # hand-023, hand-022
    base = mapped(app, 4)
    app.mprotect(base, 2 * PAGE, "")
    app.mlock(at(2), 2 * PAGE)
    app.mbind(base, 4 * PAGE, Bind([2]), MOVE | STRICT)
    app.mprotect(base, 2 * PAGE, "rw")
    assert where(app, 0, 4) == "2222"
    assert app.status()["VmLck"] == 8


def test_file_pages_move_by_a_policy_that_does_not_place_them(machine: pm.Machine) -> None:
    """Page cache ignores the mapping's policy, migration does not (section 0, fact 8)."""
    app = machine.spawn()
    file = machine.file("ext4", 4 * PAGE)
    mapped(app, 4, touched=False, file=file, shared=True)
    app.mbind(at(0), 4 * PAGE, Bind([3]))
    app.touch(at(0), 4 * PAGE, write=True)
    assert where(app, 0, 4) == "0000"
    app.mbind(at(0), 4 * PAGE, Bind([3]), MOVE)
    assert where(app, 0, 4) == "3333"


def test_policy_of_a_shared_object_outlives_the_mapping(machine: pm.Machine) -> None:  # hand-084
    app = machine.spawn()
    file = machine.file("tmpfs", 8 * PAGE)
    mapped(app, 8, touched=False, file=file, shared=True)
    app.mbind(at(0), 4 * PAGE, Bind([3]))
    app.munmap(at(0), 8 * PAGE)
    mapped(app, 8, 16, file=file, shared=True)
    assert where(app, 16, 8) == "33330000"
    assert app.get_mempolicy(pm.MPOL_F_ADDR, at(17)).policy == Bind([3])


def test_policies_of_children_are_their_own(app: pm.Process) -> None:  # hand-082
    mapped(app, 4)
    app.mbind(at(0), 4 * PAGE, Interleave([1, 2]))
    child = app.fork()
    app.mbind(at(0), 4 * PAGE, Bind([3]))
    assert policies(child) == [(0, 4, "interleave:1-2")]


@pytest.mark.parametrize("n", [3, 4])
def test_interleaving_is_by_address(app: pm.Process, n: int) -> None:  # section 3.1, hand-075
    mapped(app, 16, 5, touched=False)
    app.mbind(at(5), 16 * PAGE, Interleave(range(n)))
    for page in (9, 5, 20, 7):
        app.touch(at(page), PAGE, write=True)
    assert [where(app, page, 1) for page in (9, 5, 20, 7)] == [
        str(page % n) for page in (9, 5, 20, 7)
    ]


def test_both_forms_are_one_call(app: pm.Process) -> None:
    mapped(app, 4)
    app.mbind(at(0), 4 * PAGE, Interleave([1, 2], static=True), MOVE)
    assert letters(app.move_pages(pages(0, 4)).status) == "1212"
    app.mbind(at(0), 4 * PAGE, MPOL_INTERLEAVE | STATIC, [2, 3], MOVE, maxnode=65)
    assert policies(app) == [(0, 4, "interleave=static:2-3")]
    app.mbind(at(0), 4 * PAGE, policy=Bind([0]), flags=MOVE)
    assert letters(app.move_pages(pages(0, 4)).status) == "0000"
