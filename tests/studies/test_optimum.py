"""The optimum: against a linear program, against enumeration, below what obeys the rules."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemig.auto.optimum import Demand, optimum
from pagemig.auto.relax import choose, relax
from support.signals import Stopped, ringing


def case(seed, epochs=6, pages=8, nodes=2, ends=False):
    """A demand with a hot set that wanders, prices, and room for all pages on the last node."""
    rng = np.random.default_rng(seed)
    hot = rng.integers(0, pages, epochs)
    counts = rng.poisson(1, (epochs, pages)) + np.array(
        [30 * (np.abs(np.arange(pages) - at) < pages // 4) for at in hot]
    )
    counts[rng.random(counts.shape) < 0.3] = 0
    demand = Demand.from_counts(counts)
    if ends:
        last = np.maximum(demand.first + 1, rng.integers(1, epochs + 1, pages))
        last = np.minimum(last, epochs).astype(np.int32)
        gone = np.arange(epochs)[:, np.newaxis] >= last
        kept = np.where(gone[:, np.newaxis], 0, demand.counts).astype(np.int32)
        demand = Demand(kept, demand.sources, demand.first, last)
    step = rng.integers(20, 200, nodes)
    latency = np.broadcast_to(np.cumsum(step).astype(float), (nodes, nodes)).copy()
    moves = rng.integers(100, 3000, (nodes, nodes)).astype(float)
    room = np.append(rng.integers(1, max(pages // 3, 2), nodes - 1), pages)
    return demand, latency, moves, room


def there(demand):
    epochs = np.arange(demand.epochs)[:, np.newaxis]
    return (demand.first <= epochs) & (epochs < demand.last)


def priced(demand, latency, moves, placement):
    """What a placement costs, page by page; the naive twin."""
    moves = shortest(moves)
    total = 0.0
    for page in range(demand.pages):
        for epoch in range(demand.first[page], demand.last[page]):
            node = placement[epoch][page]
            for source, accesses in zip(demand.sources, demand.counts[epoch, :, page], strict=True):
                total += latency[source][node] * accesses
            if epoch > demand.first[page]:
                total += moves[placement[epoch - 1][page]][node]
    return total


def shortest(moves):
    best = np.array(moves, float)
    np.fill_diagonal(best, 0)
    for _ in best:
        for i, j, k in itertools.product(range(len(best)), repeat=3):
            best[i, k] = min(best[i, k], best[i, j] + best[j, k])
    return best


def fits(demand, placement, room):
    present = there(demand)
    assert (placement[~present] == -1).all()
    assert (placement[present] >= 0).all()
    for row in placement:
        assert (np.bincount(row[row >= 0], minlength=len(room)) <= room).all()


def linear_program(demand, latency, moves, room):
    """The same question as flows: y[page, epoch, from, to] between epochs, x at a page's first."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    nodes, moves = len(room), shortest(moves)
    costs, columns = [], {}

    def variable(name, cost):
        columns[name] = len(costs)
        costs.append(float(cost))

    def access(page, epoch, node):
        return sum(
            latency[source][node] * count
            for source, count in zip(demand.sources, demand.counts[epoch, :, page], strict=True)
        )

    equal, less, right = [], [], []
    into = {}  # what ends on a node in an epoch
    for page in range(demand.pages):
        first, last = int(demand.first[page]), int(demand.last[page])
        for node in range(nodes if first < last else 0):
            variable((page, first, node), access(page, first, node))
            into[page, first, node] = [(page, first, node)]
        if first < last:
            equal.append(([(page, first, node) for node in range(nodes)], [], 1))
        for epoch in range(first + 1, last):
            for node in range(nodes):
                into[page, epoch, node] = []
            for old, node in itertools.product(range(nodes), repeat=2):
                name = (page, epoch, old, node)
                variable(name, moves[old][node] + access(page, epoch, node))
                into[page, epoch, node].append(name)
            for old in range(nodes):
                leave = [(page, epoch, old, node) for node in range(nodes)]
                equal.append((into[page, epoch - 1, old], leave, 0))
    for epoch, node in itertools.product(range(demand.epochs), range(nodes)):
        names = [n for p in range(demand.pages) for n in into.get((p, epoch, node), [])]
        less.append(names)
        right.append(float(room[node]))
    left = np.zeros((len(equal), len(costs)))
    for row, (plus, minus, _) in enumerate(equal):
        for name in plus:
            left[row, columns[name]] += 1
        for name in minus:
            left[row, columns[name]] -= 1
    upper = np.zeros((len(less), len(costs)))
    for row, names in enumerate(less):
        for name in names:
            upper[row, columns[name]] = 1
    solved = linprog(costs, upper, right, left, [value for *_, value in equal], method="highs")
    assert solved.status == 0, solved.message
    return float(solved.fun)


# ---- the bound --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_it_reaches_the_linear_program(seed, nodes):
    demand, latency, moves, room = case(seed, nodes=nodes, ends=seed % 3 == 2)
    truth = linear_program(demand, latency, moves, room)
    found = optimum(demand, latency, moves, room)
    assert found.bound_ns <= truth * (1 + 1e-9)
    assert found.bound_ns == pytest.approx(truth, rel=1e-3)
    assert found.reached_ns >= truth * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_it_reaches_the_linear_program_of_a_larger_case(seed):
    demand, latency, moves, room = case(seed, epochs=20, pages=40)
    truth = linear_program(demand, latency, moves, room)
    found = optimum(demand, latency, moves, room)
    assert truth * (1 - 1e-3) <= found.bound_ns <= truth * (1 + 1e-9)
    assert found.reached_ns == pytest.approx(truth, rel=0.02)


@given(st.integers(0, 2**32))
@settings(max_examples=25)
def test_no_placement_is_below_it(seed):
    demand, latency, moves, room = case(seed, epochs=3, pages=3, ends=seed % 2 == 1)
    room[0] = 1 + seed % 2
    found = optimum(demand, latency, moves, room)
    present = there(demand)
    best = np.inf
    for bits in itertools.product(range(2), repeat=9):
        placement = np.where(present, np.reshape(bits, (3, 3)), -1)
        if ((placement == 0).sum(axis=1) <= room[0]).all():
            best = min(best, priced(demand, latency, moves, placement))
    assert found.bound_ns <= best * (1 + 1e-9)
    assert found.reached_ns >= best * (1 - 1e-9)
    # The linear program of two nodes is integral, so the bound is the best placement.
    assert found.bound_ns == pytest.approx(best, rel=1e-3)


@given(st.integers(0, 2**32), st.integers(2, 4))
@settings(max_examples=50)
def test_its_placement_is_one(seed, nodes):
    demand, latency, moves, room = case(seed, epochs=9, pages=12, nodes=nodes, ends=seed % 2 == 1)
    found = optimum(demand, latency, moves, room, steps=seed % 40)
    fits(demand, found.placement, room)
    assert found.reached_ns == pytest.approx(priced(demand, latency, moves, found.placement))
    assert 0 <= found.bound_ns <= found.reached_ns * (1 + 1e-9)
    assert (found.prices >= 0).all()


@given(st.integers(0, 2**32))
@settings(max_examples=25)
def test_any_prices_give_a_bound(seed):
    demand, latency, moves, room = case(seed, epochs=4, pages=5)
    truth = linear_program(demand, latency, moves, room)
    rng = np.random.default_rng(seed)
    prices = rng.exponential(rng.integers(1, 5000), (4, 2)) * (rng.random((4, 2)) < 0.7)
    used = np.empty((4, 2), np.int64)
    rows = latency[demand.sources]
    paths = relax(demand.counts, rows, shortest(moves), prices, demand.first, demand.last, used)
    assert paths - (prices * room).sum() <= truth * (1 + 1e-9)


def test_several_nodes_access():
    # Page 0 is used from node 0 first and from node 1 then; page 1 the other way round.
    counts = np.zeros((2, 2, 2), int)
    counts[0, 0, 0] = counts[1, 1, 0] = counts[0, 1, 1] = counts[1, 0, 1] = 100
    latency = [[80, 200], [200, 80]]
    demand = Demand.from_counts(counts, [0, 1])
    assert optimum(demand, latency, 1000, [2, 2]).bound_ns == pytest.approx(400 * 80 + 2000)
    dear = optimum(demand, latency, 50_000, [2, 2])
    assert dear.bound_ns == pytest.approx(200 * 80 + 200 * 200)


def test_a_detour_counts_where_it_is_cheaper():
    # Page 0 leaves the fast node for page 1, which cannot come up but by the middle node.
    demand = Demand.from_counts([[1000, 1], [0, 1000]])
    moves = np.array([[0, 1, 1], [1, 0, 1], [999, 1, 0]], float)
    latency = np.array([[1.0, 5, 9]] * 3)
    found = optimum(demand, latency, moves, [1, 0, 2])
    assert found.bound_ns == pytest.approx(1000 + 9 + 1 + 2 + 1000, rel=1e-3)


def test_room_that_is_not_needed_has_no_price():
    demand, latency, moves, _ = case(1)
    found = optimum(demand, latency, moves, [demand.pages, demand.pages])
    assert not found.prices.any()
    assert found.bound_ns == pytest.approx(latency[0, 0] * demand.counts.sum())
    assert (found.placement[-1] == 0).all()


def test_what_a_frame_is_worth():
    # One frame, two pages of 100 accesses in every epoch: another frame would save 100 x 100 ns.
    demand = Demand.from_counts(np.full((1, 2), 100))
    found = optimum(demand, [[80, 180], [80, 180]], 1e6, [1, 2])
    assert found.prices[0, 0] == pytest.approx(100 * 100, rel=0.01)


def test_nothing_to_place():
    found = optimum(Demand.from_counts(np.zeros((3, 4), int)), [[1.0]], 1, [4])
    assert (found.bound_ns, found.reached_ns, found.gap) == (0, 0, 0)
    found = optimum(Demand.from_counts(np.zeros((0, 0), int)), [[1.0]], 1, [4])
    assert found.placement.shape == (0, 0)


def test_a_sample_leads_to_the_whole():
    """With so many pages the prices are sought on samples first."""
    rng = np.random.default_rng(4)
    weights = 1 / (1 + np.arange(80_000))
    counts = np.array([rng.poisson(300_000 * np.roll(weights, 9000 * k)) for k in range(6)])
    demand = Demand.from_counts(counts)
    found = optimum(demand, [[81, 250]] * 2, 1800, [20_000, 80_000])
    fits(demand, found.placement, [20_000, 80_000])
    assert found.gap < 0.01


# ---- its parts --------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(1, 4))
@settings(max_examples=40)
def test_paths_are_the_cheapest_of_all(seed, nodes):
    demand, latency, moves, _ = case(seed, epochs=4, pages=3, nodes=max(nodes, 2), ends=True)
    moves = shortest(moves)
    prices = np.random.default_rng(seed).integers(0, 2000, (4, len(moves))).astype(float)
    used = np.empty(prices.shape, np.int64)
    path = np.empty((4, 3), np.int8)
    rows = np.ascontiguousarray(latency[demand.sources])
    args = (demand.counts, rows, moves, prices, demand.first, demand.last)
    total = relax(*args, used, path)
    expected = 0.0
    for page in range(3):
        first, last = int(demand.first[page]), int(demand.last[page])
        costs = [0.0] if first >= last else []
        for way in itertools.product(range(len(moves)), repeat=last - first):
            cost = sum(
                latency[0][node] * demand.counts[epoch, 0, page] + prices[epoch, node]
                for epoch, node in zip(range(first, last), way, strict=True)
            )
            costs.append(cost + sum(moves[a, b] for a, b in itertools.pairwise(way)))
        expected += min(costs)
    assert total == pytest.approx(expected)
    present = there(demand)
    for epoch in range(4):
        row = path[epoch][present[epoch]]
        assert used[epoch].tolist() == np.bincount(row, minlength=len(moves)).tolist()


# ---- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"latency": [[1, 2, 3]]}, "latency must be"),
        ({"latency": [[1, -2], [1, 2]]}, "latency must be finite"),
        ({"moves": float("nan")}, "moves must be finite"),
        ({"room": [1, float("inf")]}, "room must be finite"),
        ({"room": [1, 2]}, "do not fit"),
        ({"room": [1, 2, 3]}, r"latency must be of shape \(3, 3\), not \(2, 2\)"),
    ],
)
def test_what_means_nothing_is_named(change, why):
    demand, latency, moves, room = case(0)
    options = {"latency": latency, "moves": moves, "room": room} | change
    with pytest.raises(ValueError, match=why):
        optimum(demand, **options)


def test_demands_that_mean_nothing():
    with pytest.raises(ValueError, match="counts must be"):
        Demand.from_counts([1, 2, 3])
    with pytest.raises(ValueError, match="counts must be from 0"):
        Demand.from_counts([[-1, 2]])
    with pytest.raises(ValueError, match="counts must be from 0"):
        Demand.from_counts([[1 << 63, 2]])
    with pytest.raises(ValueError, match=r"sources must be of shape \(1\), not \(2,\)"):
        Demand.from_counts([[1, 2]], [0, 1])
    with pytest.raises(ValueError, match="first must be from 0 to 1, not 1073741824"):
        replace(Demand.from_counts([[1, 2]]), first=[0, 1 << 30])
    demand = Demand.from_counts([[1, 2]], [3])
    with pytest.raises(ValueError, match=r"sources \[3\]"):
        optimum(demand, [[1.0, 2], [1, 2]], 1, [2, 2])


def test_more_accesses_than_an_int32_holds_cost_what_they_cost():
    """One page on its only node: the cost is a product."""
    for many in (2**31 - 1, 2**31, 2**32 + 7, 10**15):
        found = optimum(Demand.from_counts([[many], [1]]), [[2.0]], 5.0, [1])
        assert found.bound_ns == found.reached_ns == 2.0 * (many + 1)


def test_a_signal_ends_the_search_at_once():
    """One step on so many pages takes a second, so a look between steps would come too late."""
    counts = np.ones((100, 1, 1 << 20), np.int32)
    demand = Demand.from_counts(counts)

    def search():
        relax(
            demand.counts,
            np.ones((1, 2)),
            np.zeros((2, 2)),
            np.zeros((100, 2)),
            demand.first,
            demand.last,
            np.zeros((100, 2), np.int64),
        )

    rang = []
    with ringing(lambda: rang.append(None)):  # None: the search goes on
        search()
    assert len(rang) >= 5  # the step looks 13 times, each some milliseconds after the one before
    with pytest.raises(Stopped), ringing():
        search()


def test_shapes_are_checked_before_memory_is_touched():
    counts = np.zeros((2, 1, 3), np.int32)
    latency, moves, prices = np.ones((1, 2)), np.zeros((2, 2)), np.zeros((2, 2))
    first, last = np.zeros(3, np.int32), np.full(3, 2, np.int32)
    used = np.zeros((2, 2), np.int64)
    good = [counts, latency, moves, prices, first, last, used]
    assert relax(*good) == 0
    for place, wrong, blamed in [
        (0, np.zeros((3, 1, 3), np.int32), r"prices .* of shape \(3, 2\), not .* \(2, 2\)"),
        (1, np.ones((2, 2)), r"latency .* of shape \(1, any\), not .* \(2, 2\)"),
        (2, np.zeros((3, 3)), r"moves .* of shape \(2, 2\), not .* \(3, 3\)"),
        (3, np.zeros((1, 2)), r"prices .* of shape \(2, 2\), not .* \(1, 2\)"),
        (5, np.zeros(4, np.int32), r"last .* of shape \(3,\), not .* \(4,\)"),
    ]:
        with pytest.raises(ValueError, match=blamed):
            relax(*good[:place], wrong, *good[place + 1 :])
    with pytest.raises(ValueError, match="page 0 cannot begin in epoch 1 and end in 3"):
        relax(*good[:4], np.ones(3, np.int32), np.full(3, 3, np.int32), used)
    with pytest.raises(ValueError, match="page 1 is on node 2 of 2"):
        choose(0, np.zeros((2, 3), np.float32), moves, first, last, np.array([0, 2, -1], np.int8))
