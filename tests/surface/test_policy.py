"""Policies as objects: what they hold, how they print, which nodes they compute."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pagemig as pm
from pagemig import (
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    Bind,
    Default,
    Interleave,
    Local,
    Policy,
    Preferred,
    PreferredMany,
    WeightedInterleave,
)
from pagemig.policy import nodelist, nodes_of, policy_of, policy_text
from support.machines import PAGE, at, four_nodes, mapped

EVERY: list[Policy] = [
    Default(),
    Local(),
    Preferred(),
    Preferred(3),
    Preferred([1, 2], static=True),
    Bind([1, 3]),
    Bind([0], relative=True),
    Bind([0, 1], balancing=True),
    Interleave([0, 1, 2, 3]),
    PreferredMany([1, 2]),
    WeightedInterleave([0, 2]),
    WeightedInterleave([0, 2], [3, 1]),
]


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", EVERY, ids=repr)
def test_values(policy: Policy) -> None:
    assert eval(repr(policy), vars(pm)) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert copy.deepcopy(policy) == policy
    assert hash(copy.copy(policy)) == hash(policy)
    assert [other for other in EVERY if other == policy] == [policy]
    with pytest.raises(AttributeError, match="immutable"):
        policy.nodes = (1,)
    with pytest.raises(AttributeError, match="immutable"):
        del policy.flags


def test_nodes_are_a_set() -> None:
    assert Bind([3, 1, 1]) == Bind({1, 3}) == Bind(np.array([1, 3])) == Bind(n for n in (1, 3))
    assert Bind([3, 1]).nodes == (1, 3)
    assert Preferred([2]) == Preferred(2)


def test_flags() -> None:
    policy = Bind([0], static=True, balancing=True)
    assert (policy.static, policy.relative, policy.balancing) == (True, False, True)
    assert policy.flags == MPOL_F_STATIC_NODES | MPOL_F_NUMA_BALANCING
    assert Bind([0], relative=True).flags == MPOL_F_RELATIVE_NODES


@pytest.mark.parametrize("policy", EVERY, ids=repr)
def test_what_the_kernel_reports_becomes_a_policy(policy: Policy) -> None:
    if isinstance(policy, WeightedInterleave):
        policy = WeightedInterleave(policy.nodes)
    assert policy_of(policy.mode, policy.flags, policy.mask) == policy


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: Bind(3), TypeError, "nodes of Bind"),
        (lambda: Bind("12"), TypeError, "'12'"),
        (lambda: Bind([1.5]), TypeError, "1.5"),
        (lambda: Bind([None]), TypeError, "None"),
        (lambda: Bind([-1]), ValueError, "-1"),
        (lambda: Bind([1024]), ValueError, "1024"),
        (lambda: Preferred(-1), ValueError, "-1"),
        (lambda: Preferred("x"), TypeError, "'x'"),
        (lambda: WeightedInterleave([0, 1], [1]), ValueError, "weights"),
        (lambda: WeightedInterleave([0, 1], [1, 256]), ValueError, "256"),
        (lambda: WeightedInterleave([0, 1], [1, 0]), ValueError, "0"),
        (lambda: WeightedInterleave([0, 1], {0: 1}), ValueError, "node 1"),
        (lambda: policy_of(9, 0, 1), ValueError, "9"),
    ],
)
def test_what_is_no_policy(make: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        make()


# ---- text, section 4.5 and the policies of the recordings ---------------------------------------


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Default(), "default"),
        (Local(), "local"),
        (Preferred(1), "prefer:1"),
        (Bind([1, 2]), "bind:1-2"),
        (Bind([0], balancing=True), "bind=balancing:0"),
        (Bind([1, 3], static=True), "bind=static:1,3"),
        (Bind([1], static=True, balancing=True), "bind=static|balancing:1"),
        (Bind([0, 1, 3], relative=True), "bind=relative:0-1,3"),
        (Interleave([0, 1, 2, 3]), "interleave:0-3"),
        (PreferredMany([1, 2]), "prefer (many):1-2"),
        (WeightedInterleave([0, 2]), "weighted interleave:0,2"),
    ],
)
def test_text(policy: Policy, text: str) -> None:
    assert str(policy) == text
    assert policy_text(policy.mode, policy.flags, policy.mask) == text


@pytest.mark.parametrize(
    ("mask", "text"),
    [(0, ""), (1, "0"), (0b1011, "0-1,3"), (0b111, "0-2"), (1 << 63 | 1, "0,63"), (1 << 70, "70")],
)
def test_nodelist(mask: int, text: str) -> None:
    assert nodelist(mask) == text


@given(st.integers(0, (1 << 64) - 1))
def test_nodelist_can_be_read_back(mask: int) -> None:
    runs = [run.split("-") for run in nodelist(mask).split(",") if run]
    assert sum(1 << n for run in runs for n in range(int(run[0]), int(run[-1]) + 1)) == mask
    assert sum(1 << nid for nid in nodes_of(mask)) == mask


# ---- which nodes are used, section 2.2 and hand-087 ---------------------------------------------


@pytest.mark.parametrize(
    ("policy", "used"),
    [
        (Bind([1, 5]), (1,)),
        (Bind([1, 5], static=True), (1,)),
        (Bind([5], static=True), ()),
        (Bind([5], relative=True), (1,)),
        (Bind([6, 7], relative=True), (2, 3)),
        (Bind([3, 4, 5], relative=True), (0, 1, 3)),
        (Bind([70], relative=True), (2,)),
        (Bind([1, 70]), (1,)),
        (Bind([70]), ()),
        (Preferred([1, 3]), (1,)),
        (Preferred([3, 4, 5], relative=True), (0,)),
        (Default(), ()),
        (Local(), ()),
    ],
)
def test_effective_nodes_of_four(policy: Policy, used: tuple[int, ...]) -> None:
    assert policy.effective_nodes(range(4)) == used


@given(
    st.sets(st.integers(0, 200), min_size=1, max_size=10),
    st.sets(st.integers(0, 31), min_size=1, max_size=16),
)
def test_relative_nodes_count_within_the_allowed(user: set[int], allowed: set[int]) -> None:
    """Node n of a relative set is the n-th allowed one, modulo how many there are (section 2.2)."""
    order = sorted(allowed)
    expected = sorted({order[nid % len(order)] for nid in user})
    assert Bind(user, relative=True).effective_nodes(allowed) == tuple(expected)


# ---- targets, sections 3.1 and 3.2 --------------------------------------------------------------


@given(
    st.sets(st.integers(0, 63), min_size=1, max_size=12),
    st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=50),
)
def test_interleave_takes_the_nodes_in_turn(nodes: set[int], pages: list[int]) -> None:
    order = sorted(nodes)
    expected = [order[page % len(order)] for page in pages]
    assert Interleave(nodes).targets(pages).tolist() == expected


def test_page_numbers_are_32_bits_to_6_6(small: dict[str, pm.Machine]) -> None:  # section 3.1
    pages = [(1 << 32) + k for k in range(6)]
    policy = Interleave([0, 1, 2])
    assert policy.targets(pages).tolist() == [0, 1, 2] * 2
    assert policy.targets(pages, machine=small["6.1"]).tolist() == [0, 1, 2] * 2
    assert policy.targets(pages, machine=small["6.12"]).tolist() == [1, 2, 0] * 2


@pytest.fixture(scope="module")
def small() -> dict[str, pm.Machine]:
    return {kernel: four_nodes(kernel) for kernel in ("6.1", "6.12")}


@given(
    st.dictionaries(st.integers(0, 20), st.integers(1, 255), min_size=1, max_size=6),
    st.lists(st.integers(0, 100_000), min_size=1, max_size=30),
)
def test_weighted_interleave(weights: dict[int, int], pages: list[int]) -> None:
    """A page's index modulo the sum of weights, less the weights in turn (section 3.2)."""
    pattern = [nid for nid in sorted(weights) for _ in range(weights[nid])]
    expected = [pattern[page % len(pattern)] for page in pages]
    assert WeightedInterleave(weights, weights).targets(pages).tolist() == expected


def test_weights_of_the_machine() -> None:
    machine = four_nodes("6.12", weights=[3, 1, 1, 2])
    policy = WeightedInterleave([0, 3])
    assert policy.targets(range(10), machine=machine).tolist() == [0, 0, 0, 3, 3] * 2
    assert WeightedInterleave([0, 3]).targets(range(4)).tolist() == [0, 3, 0, 3]
    app = machine.spawn()
    app.set_mempolicy(policy)
    base = mapped(app, 10, 0)
    status = app.move_pages([base + PAGE * k for k in range(10)]).status
    assert (
        status.tolist()
        == policy.targets([at(k) >> 12 for k in range(10)], machine=machine).tolist()
    )


@pytest.mark.parametrize(
    ("policy", "local", "node"),
    [
        (Default(), 2, 2),
        (Local(), 2, 2),
        (Preferred(3), 1, 3),
        (Bind([1, 3]), 3, 3),
        (Bind([1, 3]), 0, 1),
        (PreferredMany([2, 3]), 0, 2),
    ],
)
def test_policies_that_do_not_look_at_the_page(policy: Policy, local: int, node: int) -> None:
    assert policy.targets(range(3), local=local).tolist() == [node] * 3
    assert policy.targets(range(3), local=local, machine=four_nodes()).tolist() == [node] * 3


def test_bind_takes_the_nearest(small: dict[str, pm.Machine]) -> None:  # section 2.3
    distances = [[10, 40, 30, 30], [40, 10, 30, 20], [30, 30, 10, 15], [30, 20, 15, 10]]
    far = four_nodes(distances=distances)
    assert Bind([1, 2, 3]).targets([0], local=0, machine=far).tolist() == [2]
    assert Bind([0, 3]).targets([0], local=1, machine=far).tolist() == [3]
    app = far.spawn()
    app.set_mempolicy(Bind([1, 2, 3]))
    assert app.move_pages([mapped(app, 1)]).status.tolist() == [2]


def test_targets_agree_with_where_the_model_puts_pages(small: dict[str, pm.Machine]) -> None:
    machine = small["6.1"]
    for policy in (
        Interleave([0, 1, 3]),
        Bind([2, 3]),
        Preferred(1),
        Interleave([6, 7], relative=True),
    ):
        app = machine.spawn(cpu=1)
        base = mapped(app, 20, 3, touched=False)
        app.mbind(base, 20 * PAGE, policy)
        app.touch(base, 20 * PAGE, write=True)
        pages = np.arange(base >> 12, (base >> 12) + 20, dtype=np.uint64)
        status = app.move_pages(pages * np.uint64(PAGE)).status
        assert status.tolist() == policy.targets(pages, local=1, machine=machine).tolist()


def test_targets_without_a_node(small: dict[str, pm.Machine]) -> None:
    with pytest.raises(ValueError, match="leaves no node"):
        Bind([9]).targets([0], machine=small["6.1"])
    with pytest.raises(ValueError, match="leaves no node"):
        Bind([]).targets([0])
    with pytest.raises(ValueError, match="pass machine="):
        Bind([1], relative=True).targets([0])
    with pytest.raises(TypeError, match="pages"):
        Interleave([0, 1]).targets([0.5])


def test_a_call_refuses_weights_of_a_policy(small: dict[str, pm.Machine]) -> None:
    app = small["6.12"].spawn()
    with pytest.raises(ValueError, match="weights belong to the machine"):
        app.set_mempolicy(WeightedInterleave([0, 1], [1, 2]))


def test_weights_change_as_in_sysfs() -> None:
    """Recorded: weighted-014 on 6.12 and 6.18, where 0 is refused."""
    machine = four_nodes("6.12")
    app = machine.spawn()
    app.set_mempolicy(pm.WeightedInterleave([0, 1]))
    base = app.mmap(8 * pm.PAGE_SIZE)
    first = base // pm.PAGE_SIZE
    machine.set_weight(0, 3)
    assert machine.weights == (3, 1, 1, 1)
    app.touch(base, 8 * pm.PAGE_SIZE, write=True)
    expected = [0 if (first + k) % 4 < 3 else 1 for k in range(8)]
    assert app.nodes(base, 8).tolist() == expected
    machine.set_weight(0, 0)
    assert machine.weights == (1, 1, 1, 1)
    for nid, weight, name in ((0, 256, "EINVAL"), (0, -1, "EINVAL"), (4, 1, "ENOENT")):
        with pytest.raises(pm.SyscallError, match=name):
            machine.set_weight(nid, weight)
    with pytest.raises(pm.SyscallError, match="EINVAL"):
        four_nodes("6.18").set_weight(0, 0)
    with pytest.raises(pm.SyscallError, match="ENOENT"):
        four_nodes("6.1").set_weight(0, 1)
    machine.check()
