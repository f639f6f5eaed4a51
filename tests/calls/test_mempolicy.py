"""set_mempolicy(2), get_mempolicy(2) and set_mempolicy_home_node(2).

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
    MPOL_F_ADDR,
    MPOL_F_MEMS_ALLOWED,
    MPOL_F_NODE,
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
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
from support.machines import PAGE, at, error_of, failing, mapped, policies, where

STATIC, RELATIVE = MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES
BALANCING = MPOL_F_NUMA_BALANCING
ADDR, NODE, MEMS = MPOL_F_ADDR, MPOL_F_NODE, MPOL_F_MEMS_ALLOWED


# ---- set_mempolicy: hand-090, row by row --------------------------------------------------------

ROWS: list[tuple[int, Any, dict[str, int], str | tuple[int, tuple[int, ...]]]] = [
    # mode word, nodes, more; the error, or what get_mempolicy tells afterwards
    (MPOL_DEFAULT, [0], {}, "EINVAL"),
    (MPOL_DEFAULT, [], {}, (MPOL_DEFAULT, ())),
    (MPOL_BIND, NULL, {}, "EINVAL"),
    (MPOL_BIND, [], {}, "EINVAL"),
    (MPOL_INTERLEAVE, [], {}, "EINVAL"),
    (MPOL_PREFERRED, [], {}, (MPOL_LOCAL, ())),
    (MPOL_LOCAL, [1], {}, "EINVAL"),
    (MPOL_LOCAL, NULL, {}, (MPOL_LOCAL, ())),
    (7, [0], {}, "EINVAL"),
    (MPOL_BIND, [4], {}, "EINVAL"),
    (MPOL_BIND, [1, 4], {}, (MPOL_BIND, (1,))),
    (MPOL_BIND, [70], {}, "EINVAL"),
    (MPOL_BIND, BAD, {}, "EFAULT"),
    (MPOL_BIND, [0], {"maxnode": 1}, "EINVAL"),
    (MPOL_BIND, [0], {"maxnode": 2}, (MPOL_BIND, (0,))),
    (MPOL_BIND, [1], {"maxnode": 2}, "EINVAL"),
    (MPOL_BIND, [0], {"maxnode": -1}, "EINVAL"),
    (MPOL_BIND | STATIC | RELATIVE, [0], {}, "EINVAL"),
    (MPOL_BIND | BALANCING, [0], {}, (MPOL_BIND | BALANCING, (0,))),
    (MPOL_PREFERRED | BALANCING, [0], {}, "EINVAL"),
    (MPOL_DEFAULT | STATIC, NULL, {}, (MPOL_DEFAULT, ())),
    (MPOL_PREFERRED_MANY, [1, 2], {}, (MPOL_PREFERRED_MANY, (1, 2))),
    (MPOL_INTERLEAVE, [0, 1, 2, 3], {}, (MPOL_INTERLEAVE, (0, 1, 2, 3))),
    (MPOL_WEIGHTED_INTERLEAVE, [0], {}, "EINVAL"),
]


@pytest.mark.parametrize(("word", "nodes", "more", "expected"), ROWS)
def test_set_mempolicy(
    app: pm.Process,
    word: int,
    nodes: Any,
    more: dict[str, int],
    expected: str | tuple[int, tuple[int, ...]],
) -> None:
    app.set_mempolicy(Interleave([2, 3]))
    answer = error_of(app.set_mempolicy, word, nodes, **more)
    if isinstance(expected, str):
        assert answer == expected
        expected = (MPOL_INTERLEAVE, (2, 3))
    else:
        assert answer == "ok"
    assert tuple(app.get_mempolicy()) == expected


def test_order_of_checks_of_set_mempolicy(app: pm.Process) -> None:  # sections 2.1, 2.2
    assert error_of(app.set_mempolicy, 99, BAD) == "EINVAL"  # mode before mask
    assert error_of(app.set_mempolicy, MPOL_BIND, BAD, maxnode=40000) == "EINVAL"  # size first
    assert error_of(app.set_mempolicy, MPOL_DEFAULT, BAD) == "EFAULT"  # mask before both together
    assert error_of(app.set_mempolicy, MPOL_BIND, BAD, maxnode=1) == "EINVAL"  # nothing is read


@pytest.mark.parametrize(
    ("policy", "cpu", "placed"),
    [  # section 2.3, hand-091 to hand-098
        (Default(), 1, "1111"),
        (Local(), 1, "1111"),
        (Preferred(3), 0, "3333"),
        (Bind([2, 3]), 0, "2222"),
        (Bind([0, 1]), 1, "1111"),  # nearest, not lowest
        (PreferredMany([1, 2]), 1, "1111"),
        (PreferredMany([2, 3]), 1, "2222"),
        (Interleave([1, 3]), 0, "1313"),
    ],
)
def test_where_new_pages_go(app: pm.Process, policy: Policy, cpu: int, placed: str) -> None:
    app.set_mempolicy(policy)
    app.cpu = cpu
    mapped(app, 4)
    assert where(app, 0, 4) == placed


def test_children_inherit_the_policy(app: pm.Process) -> None:
    app.set_mempolicy(Bind([2]))
    child = app.fork()
    app.set_mempolicy(Default())
    assert child.get_mempolicy().policy == Bind([2])
    mapped(child, 1)
    assert where(child, 0, 1) == "2"


def test_a_mapping_without_a_policy_shows_the_process_one(app: pm.Process) -> None:
    mapped(app, 2)
    app.mbind(at(1), PAGE, Local())
    app.set_mempolicy(Interleave([0, 2]))
    assert policies(app) == [(0, 1, "interleave:0,2"), (1, 1, "local")]


# ---- get_mempolicy ------------------------------------------------------------------------------


def test_flags_of_get_mempolicy(app: pm.Process) -> None:  # hand-099
    mapped(app, 4, touched=False)
    app.mbind(at(0), 2 * PAGE, Bind([1]))
    app.touch(at(0), PAGE, write=True)
    asked = app.get_mempolicy
    assert tuple(asked(ADDR, at(0))) == (MPOL_BIND, (1,))
    assert tuple(asked(ADDR, at(0) + 77)) == (MPOL_BIND, (1,))
    assert tuple(asked(ADDR | NODE, at(0))) == (1, (1,))
    assert tuple(asked(ADDR | NODE, at(1))) == (0, (1,))  # brings in the zero page
    assert tuple(asked(ADDR | NODE, at(2))) == (0, ())
    assert error_of(asked, ADDR, at(100)) == "EFAULT"
    assert error_of(asked, ADDR | NODE, at(100)) == "EFAULT"
    assert error_of(asked, 0, at(0)) == "EINVAL"
    assert error_of(asked, NODE) == "EINVAL"
    assert tuple(asked(MEMS)) == (0, (0, 1, 2, 3))
    assert error_of(asked, MEMS | ADDR, at(0)) == "EINVAL"
    assert error_of(asked, MEMS | NODE) == "EINVAL"
    assert error_of(asked, 8) == "EINVAL"
    assert error_of(asked, -1) == "EINVAL"
    assert error_of(asked, 0, maxnode=1) == "EINVAL"
    assert error_of(asked, 0, maxnode=3) == "EINVAL"
    assert tuple(asked(0, maxnode=4)) == tuple(asked(0, maxnode=5)) == (0, ())
    assert error_of(asked, 0, nodemask=BAD) == "EFAULT"
    assert tuple(asked(ADDR, at(0), nodemask=NULL)) == (MPOL_BIND, None)
    assert tuple(asked(0, mode=NULL)) == (None, ())
    assert tuple(asked(ADDR | NODE, at(0), mode=NULL)) == (None, (1,))
    app.set_mempolicy(Bind([2]))
    assert error_of(asked, NODE) == "EINVAL"
    assert tuple(asked(ADDR | NODE, at(0))) == (1, (1,))


def test_null_address_is_efault(app: pm.Process) -> None:  # LTP get_mempolicy02, section 2.7
    assert error_of(app.get_mempolicy, ADDR, 0) == "EFAULT"
    assert error_of(app.get_mempolicy, ADDR | NODE, 0) == "EFAULT"


def test_order_of_checks_of_get_mempolicy(app: pm.Process) -> None:  # section 2.7
    assert error_of(app.get_mempolicy, ADDR, at(100), maxnode=1) == "EINVAL"
    assert error_of(app.get_mempolicy, ADDR, at(100), nodemask=BAD) == "EFAULT"
    assert error_of(app.get_mempolicy, 8, nodemask=BAD) == "EINVAL"
    assert error_of(app.get_mempolicy, 0, mode=BAD, nodemask=BAD) == "EFAULT"
    assert error_of(app.get_mempolicy, 0, maxnode=0) == "EINVAL"
    assert error_of(app.get_mempolicy, 0, maxnode=0, nodemask=NULL) == "ok"
    assert error_of(app.get_mempolicy, 0, maxnode=32769) == "ok"
    assert error_of(app.get_mempolicy, 0, maxnode=32770) == "EINVAL"


def test_asking_for_the_node_brings_the_page_in(machine: pm.Machine) -> None:  # hand-100
    app = machine.spawn()
    mapped(app, 4, touched=False)
    app.mbind(at(0), 4 * PAGE, Bind([3]))
    assert tuple(app.get_mempolicy(NODE | ADDR, at(0))) == (0, (3,))
    assert where(app, 0, 4) == "FFFF"
    app.touch(at(0), PAGE, write=True)
    assert tuple(app.get_mempolicy(NODE | ADDR, at(0))) == (3, (3,))
    file = machine.file("tmpfs", 4 * PAGE)
    writer = machine.spawn()
    writer.set_mempolicy(Bind([2]))
    writer.fwrite(file, 0, 2, 4)
    mapped(app, 4, 8, touched=False, file=file, shared=True)
    assert tuple(app.get_mempolicy(NODE | ADDR, at(9))) == (2, ())
    assert where(app, 8, 4) == "2222"


def test_inaccessible_memory_has_no_node(app: pm.Process) -> None:
    mapped(app, 1, touched=False, prot="")
    assert error_of(app.get_mempolicy, NODE | ADDR, at(0)) == "EFAULT"


def test_next_node_of_an_interleaving_process(app: pm.Process) -> None:  # hand-098
    app.set_mempolicy(Interleave([0, 1, 2, 3]))
    assert tuple(app.get_mempolicy(NODE)) == (0, (0, 1, 2, 3))
    mapped(app, 16)  # by address: the cursor stays
    assert tuple(app.get_mempolicy(NODE)) == (0, (0, 1, 2, 3))
    app.set_mempolicy(Interleave([2, 3]))
    assert tuple(app.get_mempolicy(NODE)) == (2, (2, 3))


@pytest.mark.parametrize(
    ("flag", "nodes", "used"),
    [  # hand-087
        (STATIC, (0,), "0"),
        (STATIC, (1, 3), "1,3"),
        (STATIC, (5,), None),
        (STATIC, (1, 5), "1"),
        (STATIC, (6, 7), None),
        (RELATIVE, (0,), "0"),
        (RELATIVE, (1, 3), "1,3"),
        (RELATIVE, (5,), "1"),
        (RELATIVE, (1, 5), "1"),
        (RELATIVE, (6, 7), "2-3"),
        (RELATIVE, (3, 4, 5), "0-1,3"),
    ],
)
@pytest.mark.parametrize(
    ("mode", "name"),
    [(MPOL_BIND, "bind"), (MPOL_INTERLEAVE, "interleave"), (MPOL_PREFERRED, "prefer")],
)
def test_static_and_relative_nodes(
    app: pm.Process, mode: int, name: str, flag: int, nodes: tuple[int, ...], used: str | None
) -> None:
    mapped(app, 4)
    answer = error_of(app.mbind, at(0), 4 * PAGE, mode | flag, nodes)
    if used is None:
        assert answer == "EINVAL"
        return
    assert tuple(app.get_mempolicy(ADDR, at(0))) == (mode | flag, nodes)
    if name == "prefer":
        used = used[0]
    kind = "static" if flag == STATIC else "relative"
    assert policies(app) == [(0, 4, f"{name}={kind}:{used}")]


def test_nodes_beyond_the_machine_are_not_read_back(app: pm.Process) -> None:
    """The kernel copies as many words as its nodes need: node 70 of four is not among them."""
    app.set_mempolicy(MPOL_BIND | STATIC, [1, 5, 70])
    assert tuple(app.get_mempolicy()) == (MPOL_BIND | STATIC, (1, 5))
    app.set_mempolicy(MPOL_BIND | RELATIVE, [70])
    assert tuple(app.get_mempolicy()) == (MPOL_BIND | RELATIVE, ())
    mapped(app, 1)
    assert where(app, 0, 1) == "2"


def test_result_of_a_half_answered_call(app: pm.Process) -> None:
    assert app.get_mempolicy().policy == Default()
    with pytest.raises(ValueError, match="lacks"):
        _ = app.get_mempolicy(nodemask=NULL).policy


# ---- set_mempolicy_home_node --------------------------------------------------------------------


def test_home_node(app: pm.Process) -> None:  # hand-088
    mapped(app, 8, touched=False)
    app.mbind(at(0), 8 * PAGE, Bind([1, 2]))
    app.set_mempolicy_home_node(at(0), 8 * PAGE, 2)
    app.touch(at(0), 4 * PAGE, write=True)
    app.set_mempolicy_home_node(at(0), 8 * PAGE, 3)
    app.touch(at(4), 2 * PAGE, write=True)
    assert where(app, 0, 8) == "222211FF"
    assert error_of(app.set_mempolicy_home_node, at(0), 8 * PAGE, 9) == "EINVAL"
    assert error_of(app.set_mempolicy_home_node, at(0), 8 * PAGE, 1, 1) == "EINVAL"
    app.mbind(at(0), 8 * PAGE, PreferredMany([2, 3]))
    app.set_mempolicy_home_node(at(0), 4 * PAGE, 3)
    assert [(v.pages, v.home_node) for v in app.vmas()] == [(4, 3), (4, -1)]
    app.mbind(at(0), 8 * PAGE, Interleave([2, 3]))
    assert error_of(app.set_mempolicy_home_node, at(0), 4 * PAGE, 3) == "EOPNOTSUPP"
    assert error_of(app.set_mempolicy_home_node, at(100), 4 * PAGE, 3) == "ENOENT"


def test_order_of_checks_of_home_node(app: pm.Process) -> None:  # section 2.2
    mapped(app, 2)
    assert error_of(app.set_mempolicy_home_node, at(0) + 1, PAGE, 1) == "EINVAL"
    assert error_of(app.set_mempolicy_home_node, at(0), -PAGE, 1) == "EINVAL"
    assert error_of(app.set_mempolicy_home_node, at(0), 0, 1) == "ok"
    assert error_of(app.set_mempolicy_home_node, at(0), 0, 9) == "EINVAL"
    assert error_of(app.set_mempolicy_home_node, at(0), 2 * PAGE, 1) == "ENOENT"


def test_error_names_the_call(app: pm.Process) -> None:
    error = failing(app.set_mempolicy, 99)
    assert error.call == "set_mempolicy"
    assert str(error) == "[Errno 22] set_mempolicy: EINVAL, Invalid argument"
