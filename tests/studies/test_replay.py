"""Replaying traces: accounts against numpy, tenants, what is charged, and the optimum below all."""

import contextlib
import gzip
import io
import itertools
import json
import re
import sys
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemig import auto, report
from pagemig.auto import NO_MOVES, Counts, Moves, Policy, Samples, hardware
from pagemig.commands import main as cli
from pagemig.commands import replay as command
from pagemig.constants import PAGE_SIZE
from pagemig.studies import progress, replay_pictures
from pagemig.studies.programs import merged, trace_hash
from pagemig.studies.replay import Conditions, Plan, compare, replay
from pagemig.studies.results import OVERLAPS, Comparison
from pagemig.trace import Header, Trace, TraceFile, Writer, find, load, shipped

PAGES = 400


@pytest.fixture(scope="module")
def hot_late():
    """Reads everything once, then works on a quarter that came last."""
    rng = np.random.default_rng(5)
    body = rng.integers(3 * PAGES // 4, PAGES, 90_000)
    pages = np.concatenate([np.arange(PAGES), body])
    return Trace.from_accesses(pages, rng.random(pages.size) < 0.3, Header(program="hot late"))


@pytest.fixture(scope="module")
def even():
    """Every page twice: nothing that moving could pay for."""
    return Trace.from_accesses(np.tile(np.arange(PAGES), 2), header=Header(program="even"))


def totals(trace):
    return np.bincount(trace.index, trace.count, minlength=trace.footprint).astype(int)


class Fixed(Policy):
    """Moves the same pages after the first epoch."""

    def __init__(self, pages, nodes, sync=True, at=0):
        self.answer, self.at = Moves(np.asarray(pages), nodes, sync), at

    def epoch(self, view):
        return self.answer if view.epoch == self.at else NO_MOVES


class Watching(Policy):
    """Keeps what it sees of counts, and can answer at random."""

    needs = (Counts(),)

    def __init__(self, moves=lambda view: NO_MOVES):
        self.moves = moves

    def start(self, view):
        self.seen, self.nodes, self.free, self.last, self.times = [], [], [], [], []

    def epoch(self, view):
        self.seen.append(view.counts)
        self.nodes.append(view.node)
        self.free.append(view.free.copy())
        self.last.append(view.last)
        return self.moves(view)


# ---- what is counted --------------------------------------------------------------------------

random_traces = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 40)), min_size=1, max_size=120
).map(lambda runs: Trace.from_accesses([page for page, n in runs for _ in range(n)]))


def whole_epoch(program, epoch):
    return [np.concatenate(column) for column in zip(*program.pieces(epoch), strict=True)]


@given(random_traces, st.integers(1, 40))
@settings(max_examples=60)
def test_epochs_are_equally_many_accesses(trace, epochs):
    plan = Plan(trace, epochs=epochs)
    whole = np.repeat(trace.index, trace.count)
    number = min(epochs, whole.size)
    assert plan.epochs == number
    at = 0
    for epoch in range(number):
        index, write, count = whole_epoch(plan.programs[0], epoch)
        part = np.repeat(index, count)
        size = whole.size * (epoch + 1) // number - whole.size * epoch // number
        assert part.size == size > 0
        assert part.tolist() == whole[at : at + size].tolist()
        assert index.size == write.size == count.size
        at += size
    assert at == whole.size
    backwards = Plan(trace, epochs=epochs).programs[0]
    for epoch in reversed(range(number)):
        pairs = zip(*(whole_epoch(p, epoch) for p in (backwards, plan.programs[0])), strict=True)
        assert all((one == other).all() for one, other in pairs)


@given(random_traces, st.integers(1, 12))
@settings(max_examples=30)
def test_counts_are_those_of_bincount_in_every_epoch(trace, epochs):
    watching = Watching()
    run = replay(trace, watching, epochs=epochs)
    whole = np.repeat(trace.index, trace.count)
    for epoch, part in enumerate(np.split(whole, run.plan.programs[0].cuts[1:-1])):
        expected = np.bincount(part, minlength=trace.footprint)
        assert watching.seen[epoch][0].tolist() == expected.tolist()
        assert not watching.seen[epoch][1:].any()
        assert watching.seen[epoch].dtype == np.int64
        assert run.plan.demand.counts[epoch, 0].tolist() == expected.tolist()


def at_random(view):
    """Any pages anywhere, what cannot be done included."""
    number = int(view.rng.integers(0, 12))
    pages = view.rng.integers(0, view.node.size, number)
    return Moves(pages, view.rng.integers(0, view.free.size, number), bool(view.rng.integers(2)))


@given(random_traces, random_traces, st.integers(0, 2**32))
@settings(max_examples=30)
def test_what_is_kept_is_what_the_machine_says(first, second, seed):
    """The nodes that the replay keeps, against page tables; pages of two programs at random."""
    from pagemig.studies.replay import _Replay

    plan = Plan([first, second], fast_share=0.4, epochs=8, fast_nodes=2)
    replaying = _Replay(plan, Watching(at_random), "random", seed)
    ended = replaying._end

    def looked(epoch):
        replaying.machine.check(full=True)
        for running in replaying.running:
            if running.done:
                continue
            node = running.process.nodes(running.base, running.addresses.size)
            assert node.tolist() == replaying._of(running).tolist()
        ended(epoch)

    replaying._end = looked
    run = replaying.run(None)
    traffic = run.traffic
    assert run.accesses.sum() == first.accesses + second.accesses
    assert traffic.copied.sum() == traffic.moved.sum() == run.moved.sum()
    assert (traffic.flushes >= traffic.moved / plan.batch).all()
    assert (traffic.tried >= traffic.moved).all()


@pytest.mark.parametrize("policy", auto.POLICIES)
def test_every_access_is_counted_once_whatever_moves(hot_late, policy):
    # Linux has weighted interleaving since 6.9.
    run = replay(hot_late, policy, kernel="6.12", epochs=50)
    assert run.accesses.sum() == hot_late.accesses
    assert run.accesses[:, 1:, :].sum() == 0  # the slow node has no processor
    assert (run.residency[-1] >= 0).all()
    assert run.refused == {}
    assert run.oracle == (policy in ("off-node", "most-used", "look-ahead"))


@given(random_traces, st.floats(0.05, 1.2))
@settings(max_examples=30)
def test_first_touch_fills_the_fast_node_in_order(trace, share):
    run = replay(trace, "first-touch", fast_share=share)
    fast = max(round(trace.footprint * share), 1)
    order = np.argsort(np.unique(trace.index, return_index=True)[1])
    local = totals(trace)[order[:fast]].sum()
    assert run.accesses[:, 0, 0].sum() == local
    assert np.count_nonzero(run.residency[-1] == 0) == min(fast, trace.footprint)


def test_interleave_alternates(hot_late):
    run = replay(hot_late, "interleave", fast_share=0.6)
    node = run.residency[-1]
    assert (node[1:] != node[:-1]).all()
    assert run.accesses[:, 0, 0].sum() == totals(hot_late)[node == 0].sum()


def test_weighted_interleave_goes_by_weight(hot_late):
    run = replay(hot_late, "weighted-interleave(weights=[3, 1])", kernel="6.12", fast_share=2)
    assert np.bincount(run.residency[-1]).tolist() == [3 * PAGES // 4, PAGES // 4]
    with pytest.raises(ValueError, match=r"EINVAL|6\.1"):
        replay(hot_late, "weighted-interleave(weights=[3, 1])", kernel="6.1")


def test_a_page_first_read_lies_on_a_node():
    run = replay(Trace.from_accesses([1, 2, 3], write=False), "first-touch")
    assert sorted(run.residency[-1].tolist()) == [0, 1, 1]


def test_rotation_changes_who_accesses(hot_late):
    run = replay(hot_late, "first-touch", fast_nodes=2, rotate=10, epochs=40)
    cpu = (np.arange(40) // 10) % 2
    by_cpu = run.accesses.sum(axis=2)
    assert (by_cpu[np.arange(40), cpu] > 0).all()
    assert (by_cpu[np.arange(40), 1 - cpu] == 0).all()


def test_memory_follows_a_program_that_changed_its_node(hot_late):
    options = {"fast_nodes": 2, "rotate": 10, "fast_share": 2, "epochs": 20}
    away = replay(hot_late, "first-touch", **options)
    follows = replay(hot_late, "most-used", **options)
    late = slice(15, None)
    assert away.local_over_time[late].max() == 0
    assert follows.local_over_time[late].min() > 0.9
    balanced = replay(hot_late, "numa-balancing(pages=400)", **options)
    assert balanced.local_share > away.local_share


def test_a_policy_sees_where_it_runs(hot_late):
    machines = {}

    class Looks(Policy):
        def start(self, view):
            machines["start"] = (view.epoch, view.node.max(), view.capacity.tolist())

        def epoch(self, view):
            machines.setdefault("ns", []).append(view.ns)
            machines.setdefault("loaded", []).append(view.loaded.copy())
            machines["home"] = view.home
            with pytest.raises(ValueError, match="read-only"):
                view.node[0] = 1
            return NO_MOVES

    run = replay(hot_late, Looks(), epochs=10)
    assert machines["start"] == (-1, -1, [100, 400])
    assert not machines["home"].any()
    assert machines["ns"] == pytest.approx(np.cumsum(run.bill().duration).tolist())
    assert np.allclose(machines["loaded"], run.bill().latency)


def test_a_trace_may_stay_in_its_file(hot_late, tmp_path):
    hot_late.save(tmp_path / "t.pmt")
    with TraceFile(tmp_path / "t.pmt") as file:
        for policy in ("most-used", "age"):
            here, there = (replay(trace, policy, epochs=30) for trace in (hot_late, file))
            assert here.total_ns == there.total_ns
            assert (here.residency == there.residency).all()
        assert trace_hash(file) == trace_hash(hot_late)


# ---- several programs -------------------------------------------------------------------------


def test_programs_share_the_machine(hot_late, even):
    run = replay([hot_late, even], "first-touch", fast_share=0.5, fast_nodes=2)
    by_program = run.traffic.accesses.sum(axis=(0, 2))
    assert by_program.tolist() == [hot_late.accesses, even.accesses]
    assert run.residency.shape[1] == 2 * PAGES
    assert sorted(run.accesses.sum(axis=(0, 2)).tolist()) == [0, even.accesses, hot_late.accesses]


@given(st.integers(0, 2**32), st.sampled_from(["first-touch", "most-used", "hemem(hot=2)", "tpp"]))
@settings(max_examples=12)
def test_the_order_of_programs_has_no_effect(seed, policy):
    rng = np.random.default_rng(seed)
    traces = [
        Trace.from_accesses(rng.integers(0, 60, int(rng.integers(300, 3000))) // k)
        for k in (1, 2, 3)
    ]
    by_trace = set()
    for order in itertools.permutations(range(3)):
        run = replay([traces[k] for k in order], policy, epochs=20, seed=3)
        ns = run.bill().by_program
        local = run.traffic.accesses.sum(axis=0)
        places = {order[k]: (float(ns[k]), local[k].tolist()) for k in range(3)}
        by_trace.add(json.dumps(places, sort_keys=True))
    assert len(by_trace) == 1


def test_a_program_takes_the_time_it_takes_alone(hot_late, even):
    """The short one ends when it is through, and gives its memory back."""
    run = replay([even, hot_late], "first-touch", epochs=100, fast_share=0.5)
    short, long = run.plan.programs
    assert (short.epochs, long.epochs) == (1, 100)
    assert (run.residency[0, short.start : short.stop] >= 0).all()
    assert (run.residency[1:, short.start : short.stop] == -1).all()
    assert run.traffic.accesses[1:, 0].sum() == 0
    assert run.plan.demand.last[short.start] == 1


def test_two_of_the_same_program(even):
    run = replay([even, even], "first-touch", fast_share=0.5)
    fast = [np.count_nonzero(run.residency[-1][p.start : p.stop] == 0) for p in run.plan.programs]
    assert sum(fast) == PAGES
    assert min(fast) > 0.4 * PAGES  # they take turns


# ---- policies that are run --------------------------------------------------------------------


@pytest.mark.parametrize("name", auto.POLICIES)
def test_an_object_can_be_run_twice(hot_late, even, name):
    kernel = "6.12"
    policy = auto.policy(name)
    first = replay(hot_late, policy, kernel=kernel, epochs=40)
    replay(even, policy, kernel=kernel, epochs=7)
    again = replay(hot_late, policy, kernel=kernel, epochs=40)
    assert first.total_ns == again.total_ns
    assert (first.residency == again.residency).all()


def test_seeds(hot_late):
    same = [replay(hot_late, "hemem(period=50)", seed=4).total_ns for _ in range(2)]
    other = replay(hot_late, "hemem(period=50)", seed=5).total_ns
    assert same[0] == same[1] != other


def test_what_a_policy_draws_does_not_change_what_is_sampled(hot_late):
    seen = []

    class Draws(Policy):
        needs = (Samples(100),)

        def __init__(self, draws):
            self.draws = draws

        def epoch(self, view):
            view.rng.random(self.draws)
            seen.append(view.samples.tolist())
            return NO_MOVES

    for draws in (0, 5):
        replay(hot_late, Draws(draws), epochs=5)
    assert seen[:5] == seen[5:]


class Least:
    """All that a policy has to have."""

    def epoch(self, view):
        return [], []


def test_needs_and_start_may_be_left_out(even):
    assert replay(even, Least(), epochs=3).moved.sum() == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, r"\(pages, nodes\)"),
        (([0.5], 0), "pages must be integers"),
        (([1], 0.9), "nodes must be integers"),
        (([1], [True]), "nodes must be integers"),
        (([[1]], 0), "one dimension"),
        (([1, 2], [0, 0, 0]), "shape"),
        (([1], 1 << 70), "integers"),
        (([1], 1 << 40), "node 1099511627776 is not a node"),
        (([1], "x"), "integers"),
        (([10**9], 0), "page 1000000000"),
        (([-1], 0), "page -1"),
        (([1], 0, "yes"), "True or False"),
        (([1], 0, True, 4), "third part"),
    ],
)
def test_answers_that_mean_nothing_are_told_with_policy_epoch_and_trace(even, answer, why):
    class Odd(Policy):
        def epoch(self, view):
            return answer if view.epoch == 1 else NO_MOVES

    with pytest.raises(auto.PolicyError, match=f"policy Odd, epoch 1 of even: .*{why}"):
        replay(even, Odd(), epochs=4)


def test_errors_of_a_policy_are_told_with_policy_epoch_and_trace(even):
    class Fails(Policy):
        def epoch(self, view):
            return {}["there is no such key"]

    with pytest.raises(
        auto.PolicyError,
        match=r"policy Fails, epoch 0 of even: KeyError: .*no such key.*test_replay.py:\d+",
    ) as caught:
        replay(even, Fails(), epochs=2)
    assert isinstance(caught.value.__cause__, KeyError)


def test_nodes_that_are_none_are_refused(even):
    assert replay(even, Fixed([0], 7), epochs=2).refused == {"ENODEV": 1}


# ---- what it costs ----------------------------------------------------------------------------


def test_access_time_is_accesses_times_latency(hot_late):
    machine = hardware("cori").changed(local_ns=100, slow_ns=400)
    run = replay(hot_late, "first-touch", machine=machine)
    local = int(run.accesses[:, 0, 0].sum())
    assert run.access_ns == pytest.approx(100 * local + 400 * (hot_late.accesses - local))
    assert run.moving_ns == run.statistics_ns == 0


def test_moves_are_charged_by_what_they_did(hot_late):
    on_fast = np.flatnonzero(replay(hot_late, "first-touch").residency[-1] == 0)
    run = replay(hot_late, Fixed(on_fast[:10], 1), epochs=20)
    cost, traffic = run.plan.hardware.prices, run.traffic
    assert (run.moved.tolist(), run.calls) == ([10] + [0] * 19, 1)
    assert traffic.copied[0].tolist() == [[0, 10], [0, 0]]
    expected_us = cost.call_us + 10 * (cost.page_us + cost.flush_us)
    copy = 10 * PAGE_SIZE / cost.copy_gbs
    assert run.moving_ns == pytest.approx(1e3 * expected_us + copy)
    assert run.refused == {}
    batched = replay(hot_late, Fixed(on_fast[:10], 1), epochs=20, kernel="6.12")
    assert run.moving_ns - batched.moving_ns == pytest.approx(9e3 * cost.flush_us)


def test_useless_and_refused_moves_cost(hot_late):
    node = replay(hot_late, "first-touch", epochs=20).residency[0]
    fast, slow = np.flatnonzero(node == 0), np.flatnonzero(node == 1)
    cost = hardware().prices
    there = replay(hot_late, Fixed(fast[:30], 0), epochs=20)
    assert there.moving_ns == pytest.approx(1e3 * (cost.call_us + 30 * cost.there_us))
    absent = replay(hot_late, Fixed([PAGES - 1] * 1, 1), epochs=500)
    assert absent.moving_ns == pytest.approx(1e3 * (cost.call_us + cost.look_us))
    full = replay(hot_late, Fixed(slow[:30], 0), epochs=20)
    assert full.moved.sum() == 0
    assert full.moving_ns >= 1e3 * (cost.call_us + cost.page_us)


def test_moves_in_the_background_take_no_time_but_flushes(hot_late):
    on_fast = np.flatnonzero(replay(hot_late, "first-touch").residency[-1] == 0)
    run = replay(hot_late, Fixed(on_fast[:10], 1, sync=False), epochs=20)
    assert run.background
    assert run.moving_ns == pytest.approx(10e3 * run.plan.hardware.prices.flush_us)
    assert run.bill().agent.sum() > 0
    bound = Comparison([run]).bound()
    assert bound.bound_ns <= run.total_ns
    assert bound.bound_ns <= run.plan.optimum().bound_ns


def test_refusals_have_names(hot_late):
    # After the first of many epochs the last pages were not touched; a page twice is busy; and
    # the fast node is full.
    run = replay(hot_late, Fixed([0, 0, PAGES - 1], 1), epochs=500)
    assert run.refused == {"EFAULT": 1}  # page 0 did move, whatever its second entry says
    assert run.moved.sum() == 1
    run = replay(hot_late, Fixed([PAGES - 1], 1), epochs=500, kernel="6.12")
    assert run.refused == {"ENOENT": 1}
    run = replay(hot_late, Fixed(np.arange(PAGES // 2, PAGES), 0), epochs=20)
    assert set(run.refused) == {"ENOMEM"}


def test_a_policy_hears_what_became_of_its_moves(hot_late):
    watching = Watching(lambda view: Moves([0, PAGES - 1], 1) if view.epoch == 0 else NO_MOVES)
    replay(hot_late, watching, epochs=500)
    assert watching.last[1].tolist() == [1, -14]
    assert watching.nodes[0][0] == 0 and watching.nodes[1][0] == 1
    assert watching.free[1][0] == watching.free[0][0]  # another page came first


def test_statistics_are_paid(hot_late):
    free = replay(hot_late, "hemem(period=50)")
    dear = free.bill(hardware().changed(sample_ns=10_000))
    samples = free.traffic.events[..., 0].sum()
    assert samples == pytest.approx(hot_late.accesses / 50, rel=0.1)
    assert free.statistics_ns == pytest.approx(samples * 250)
    assert dear.statistics_ns == pytest.approx(samples * 10_000)
    assert dear.total_ns > free.total_ns + samples * 9000  # longer epochs have a lighter load


def test_one_run_is_priced_on_many_machines(hot_late):
    run = replay(hot_late, "most-used")
    slower = run.bill("optane")
    again = replay(hot_late, "first-touch", machine="optane")
    assert slower.access_ns > run.access_ns
    assert again.bill(run.plan.hardware).access_ns == pytest.approx(
        replay(hot_late, "first-touch").access_ns
    )
    with pytest.raises(ValueError, match="has 2 nodes, machine 'tiers3' has 3"):
        run.bill("tiers3")


# ---- the optimum ------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["cxl", "xeon", "tiers3", "colloid"])
@given(st.integers(0, 2**32))
@settings(max_examples=12)
def test_no_policy_is_below_the_optimum(machine, seed):
    """Shipped ones and random ones, priced with queues, calls and statistics, at any overlap."""
    rng = np.random.default_rng(seed)
    accesses = rng.zipf(1.3, int(rng.integers(200, 3000))) % int(rng.integers(3, 40))
    traces = [Trace.from_accesses(accesses)]
    if seed % 3 == 0:
        traces.append(Trace.from_accesses(rng.integers(0, 9, 150)))
    plan = Plan(
        traces,
        machine=machine,
        kernel="6.12",
        fast_share=float(rng.uniform(0.1, 0.8)),
        epochs=int(rng.integers(1, 12)),
    )
    overlap = float(rng.choice([1, 2, 4, 50]))
    bounds = [plan.optimum(overlap=overlap, blocking=blocking) for blocking in (True, False)]
    names = ["first-touch", "interleave", "age(idle=1)", "hemem(period=5,hot=2)", "look-ahead"]
    for policy in [*names, "tpp(pages=20)", "damon", "colloid(period=3)", Watching(at_random)]:
        run = plan.run(policy, seed=seed)
        bound = bounds[1] if run.background else bounds[0]
        assert run.bill(overlap=overlap).total_ns >= bound.bound_ns * (1 - 1e-9)


def test_the_optimum_of_a_shipped_trace_is_known_from_a_linear_program():
    """20 epochs of sqlite, a fast node of a quarter: scipy's interior point found 54.5196 ms."""
    plan = Plan(load(find("sqlite")), epochs=20, fast_share=0.25)
    # That program was priced with 81 and 250 ns, and 1809.6 ns a page, flush and copy included.
    least = auto.least_move_ns(plan.hardware)
    assert least == pytest.approx(1809.6)
    found = plan.optimum()
    assert found.bound_ns == pytest.approx(54.5196e6, rel=2e-4)
    assert found.gap < 2e-3


# ---- tables, words, files ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(hot_late):
    return Comparison(compare(hot_late, ["first-touch", "most-used", "hemem(period=50)"]))


def test_table_adds_up(comparison):
    lines = comparison.table().splitlines()
    assert len(lines) == 2 + len(comparison.runs) + 1
    base = comparison.base.total_ns / 1e6
    for run, line in zip(comparison.runs, lines[2:], strict=False):
        words = re.split(r"\s{2,}", line.strip())
        name, local, migrated, refused, access, look, moving, *rest = words
        assert name == run.name + " *" * run.oracle
        assert float(local) == pytest.approx(100 * run.local_share, abs=0.01)
        assert (int(migrated), refused) == (run.moved.sum(), "none")
        if rest[0] != "-":
            net = base - float(access) - float(look) - float(moving)
            assert float(rest[0]) == pytest.approx(net, abs=0.03)
            assert float(rest[1]) == pytest.approx(100 * net / base, abs=0.1)
            late = 1 - run.bill(overlap=4).total_ns / comparison.base.bill(overlap=4).total_ns
            assert float(rest[2]) == pytest.approx(100 * late, abs=0.01)
            hope = base - comparison.bound().bound_ns / 1e6
            assert float(rest[3]) == pytest.approx(100 * net / hope, abs=0.1)
    assert lines[-1].startswith("optimum")
    assert lines[-1].rstrip().endswith("+100.00")


def test_verdict_says_who_gains(comparison, even):
    words = " ".join(comparison.verdict())
    assert "most-used gains" in words and "of what was possible" in words
    assert "With overlap 1 to 4" in words
    runs = [replay(even, "first-touch"), replay(even, Fixed(np.arange(50), 1), epochs=2)]
    assert "Fixed loses" in " ".join(Comparison(runs).verdict())
    still = Comparison(compare(even, ["first-touch", "most-used"]))
    assert list(still.verdict()) == []


def test_overlaps_are_multiples_of_the_plans(even):
    options = {"epochs": 2, "conditions": Conditions(overlap=2)}
    runs = [replay(even, policy, **options) for policy in ("first-touch", Fixed(np.arange(50), 1))]
    comparison = Comparison(runs, bounded=False)
    assert [row["overlap"] for row in comparison.rows()] == [2, 4, 8] * 2
    assert "overlap 8" in comparison.table().splitlines()[0]
    assert "With overlap 2 to 8: " in " ".join(comparison.verdict())
    late = 1 - runs[1].bill(overlap=8).total_ns / runs[0].bill(overlap=8).total_ns
    assert f"{100 * late:+.2f}" in comparison.table().splitlines()[-1].split()


def test_programs_have_times_of_their_own(hot_late, even):
    runs = compare([hot_late, even], ["first-touch", "most-used"], names=["late", "even"])
    lines = Comparison(runs, bounded=False).programs().splitlines()
    assert lines[0].split() == ["policy,", "ms", "late", "even"]
    ns = runs[1].bill().by_program
    assert [float(x) for x in lines[3].split()[1:]] == pytest.approx((ns / 1e6).tolist(), abs=0.01)
    assert ns.sum() == pytest.approx(runs[1].total_ns)


def test_ping_pong_counts_epochs_away(hot_late):
    run = replay(hot_late, "first-touch", epochs=6)
    run.residency[:, :] = 1
    run.residency[:, 0] = [0, 1, 1, 0, 1, 0]
    run.residency[:, 1] = [0, 0, 1, 1, 1, 1]
    run.residency[:, 2] = [1, 1, 1, 0, 0, 0]
    run.residency[:, 3] = [-1, 0, -1, -1, 0, 0]
    assert sorted(run.ping_pong().tolist()) == [1, 2]


def test_rows_hold_everything_a_point_depends_on(comparison, hot_late, tmp_path):
    rows = comparison.rows()
    assert len(rows) == len(comparison.runs) * len(OVERLAPS)
    row = rows[-1]
    assert row["policy"] == "hemem(period=50)"
    assert row["overlap"] == 4
    assert row["trace_hash"] == trace_hash(hot_late)
    assert {"version", "seed", "machine", "kernel", "epochs", "fast_share", "bound_ns"} <= set(row)
    terms = [row[f"{name}_ns"] for name in auto.costs.TERMS]
    assert sum(terms) == pytest.approx(row["total_ns"])
    report.save(rows, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == rows
    report.save(rows, tmp_path / "r.csv")
    text = (tmp_path / "r.csv").read_text().splitlines()
    assert text[0].split(",")[:3] == ["version", "trace", "trace_hash"]
    assert len(text) == 1 + len(rows)


def test_rows_as_parquet(comparison, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    report.save(comparison.rows(), tmp_path / "r.parquet")
    assert parquet.read_table(tmp_path / "r.parquet").to_pylist() == comparison.rows()


def test_parquet_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(report.MissingError, match=r"pip install 'pagemig\[traces\]'"):
        report.save([{"a": 1}], tmp_path / "r.parquet")
    assert not list(tmp_path.iterdir())


def test_results_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.csv, \.json, \.parquet"):
        report.save([], tmp_path / "r.xls")


def test_a_trace_has_one_hash_however_it_is_stored(hot_late, even, tmp_path):
    hot_late.save(tmp_path / "t.pmt")
    assert trace_hash(load(tmp_path / "t.pmt")) == trace_hash(hot_late) != trace_hash(even)


# ---- whether it pays --------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize(
    "policy", ["most-used", "off-node(threshold=2)", "tpp", "arms", "look-ahead"]
)
def test_hot_pages_that_came_late_come_in(hot_late, policy, kernel):
    first, moving = compare(hot_late, ["first-touch", policy], kernel=kernel)
    # Nearly all accesses go to a quarter that fits the fast node and starts on the slow one.
    assert first.local_share < 0.02
    assert moving.local_over_time[-20:].min() > 0.9
    assert moving.total_ns < first.total_ns


def test_what_cannot_pay_is_left_alone(even):
    first, moving, knows = compare(even, ["first-touch", "most-used", "look-ahead"])
    assert moving.moved.sum() == knows.moved.sum() == 0
    assert moving.total_ns == first.total_ns


# ---- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"fast_share": 0}, "fast_share must be above 0, not 0"),
        ({"fast_share": -1}, "fast_share must be from 0 to 1000, not -1"),
        ({"fast_nodes": 0}, "fast_nodes must be from 1 to 63, not 0"),
        ({"fast_nodes": 64}, "fast_nodes must be from 1 to 63, not 64"),
        ({"fast_share": float("inf")}, "fast_share must be .*, not inf"),
        ({"fast_share": float("nan")}, "fast_share must be .*, not nan"),
        ({"fast_share": 1e12}, r"fast_share must be .*, not 1e\+12"),
        ({"epochs": 0}, "epochs must be from 1 to 100000, not 0"),
        ({"epochs": 10**12}, "epochs must be .*, not 1000000000000"),
        ({"rotate": -1}, "rotate must be from 0 .*, not -1"),
        ({"kernel": "9.9"}, "9.9"),
        ({"names": ["a", "b"]}, "2 names"),
    ],
)
def test_numbers_that_mean_nothing(even, options, why):
    with pytest.raises(ValueError, match=why):
        replay(even, "first-touch", **options)


def test_a_page_of_more_accesses_than_an_int32_holds_is_demanded_so_often():
    most = 2**32 - 1
    stores = np.zeros(3, np.bool_)
    trace = Trace(np.array([7, 9]), np.array([0, 1, 0]), stores, np.array([most, 1, most]))
    plan = Plan(trace, epochs=1)
    assert plan.demand.counts.tolist() == [[[2 * most, 1]]]


def test_nothing_to_replay():
    for traces in ([], Trace.from_accesses([])):
        with pytest.raises(ValueError, match="nothing to replay"):
            replay(traces, "first-touch")


# ---- the picture ------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**32))
def test_bands_are_shares_of_present_pages(pages, number, slow, seed):
    residency = np.random.default_rng(seed).integers(-1, slow + 1, (2, pages)).astype(np.int8)
    bands = replay_pictures.bands(residency, slow, number)
    assert bands.shape == (2, min(number, pages))
    starts = sorted({int(k * pages / number) for k in range(number)})
    for row, shares in zip(residency.tolist(), bands.tolist(), strict=True):
        for start, end, share in zip(starts, [*starts[1:], pages], shares, strict=True):
            present = [node for node in row[start:end] if node >= 0]
            if present:
                assert share == sum(node < slow for node in present) / len(present)
            else:
                assert np.isnan(share)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_picture(hot_late, tmp_path, suffix, capsys):
    pytest.importorskip("matplotlib")
    hot_late.save(tmp_path / "t.pmt")
    target = tmp_path / f"p{suffix}"
    arguments = ["--epochs", "20", "--policies", "first-touch,most-used", "--output", str(target)]
    assert cli.main(["replay", str(tmp_path / "t.pmt"), *arguments]) == 0
    data = target.read_bytes()
    assert data.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".html": b"<!doctype"}[suffix])
    if suffix == ".html":
        assert data.count(b'src="data:image/png;base64,') == 2
        assert b"most-used gains" in data
        assert b"http" not in data  # everything is in the file


# ---- a piece at a time ------------------------------------------------------------------------


@contextlib.contextmanager
def in_small_blocks(trace, path, size):
    """A trace in a file whose blocks have so many runs."""
    with Writer(path, trace.header) as writer:
        for start in range(0, trace.runs, size):
            index, write, count = trace.part(start, start + size)
            writer.put(index.astype(np.uint32), write, count)
        writer.end(trace.table, trace.ticks, trace.header)
    with TraceFile(path) as file:
        # The table of a file is in order of first access, so both name pages alike only here.
        assert file.table.tolist() == trace.table.tolist()
        yield file


mixed_traces = st.lists(
    st.tuples(st.integers(0, 12), st.booleans(), st.integers(1, 9)), min_size=1, max_size=80
).map(
    lambda runs: Trace.from_accesses(
        [page for page, _, n in runs for _ in range(n)],
        [write for _, write, n in runs for _ in range(n)],
    )
)

LOOKING = ("first-touch", "off-node(period=3)", "age", "tpp", "damon", "look-ahead")


@given(st.lists(mixed_traces, min_size=1, max_size=3), st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=25)
def test_pieces_give_the_same_as_the_whole(tmp_path_factory, traces, size, epochs):
    """Blocks of a few runs, and a merge of a few at a time, against everything at once."""
    folder = tmp_path_factory.mktemp("pieces")
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        files = [
            stack.enter_context(in_small_blocks(trace, folder / f"{k}.pmt", size))
            for k, trace in enumerate(traces)
        ]
        assert [trace_hash(file) for file in files] == [trace_hash(trace) for trace in traces]
        for policy in LOOKING:
            whole = replay(traces, policy, epochs=epochs)
            patch.setattr("pagemig.studies.replay.BLOCK", size)
            pieces = replay(files, policy, epochs=epochs)
            patch.undo()
            assert (pieces.residency == whole.residency).all()
            for column in fields(whole.traffic):
                one, other = (getattr(run.traffic, column.name) for run in (pieces, whole))
                assert np.array_equal(one, other), (policy, column.name)


@given(st.lists(mixed_traces, min_size=1, max_size=3), st.integers(1, 9))
@settings(max_examples=40)
def test_programs_at_once_are_merged_by_their_share_of_the_epoch(traces, parts):
    plan = Plan(traces, epochs=2)
    for epoch in range(plan.epochs):
        runs = []
        for program in plan.programs:
            total = int(program.cuts[epoch + 1] - program.cuts[epoch])
            before = 0
            for index, write, count in program.pieces(epoch):
                for page, kind, number in zip(
                    (index + program.start).tolist(), write.tolist(), count.tolist(), strict=True
                ):
                    runs.append((before / total, page, kind, number))
                    before += number
        runs.sort(key=lambda run: run[0])
        found = []
        for piece in merged([program.stream(epoch) for program in plan.programs], parts):
            columns = (piece.at, piece.page, piece.write, piece.count)
            found += zip(*(column.tolist() for column in columns), strict=True)
        assert found == runs


@pytest.mark.parametrize("name", ["p", "p.jpeg", "p.txt"])
def test_files_of_other_kinds_are_refused_before_the_work(name, capsys):
    assert cli.main(["replay", "--output", name]) == 2
    assert name in capsys.readouterr().err


# ---- the command ------------------------------------------------------------------------------


def test_a_trace_may_come_by_the_standard_input(hot_late, tmp_path, capsys, monkeypatch):
    path = tmp_path / "t.pmt"
    hot_late.save(path)
    said = []
    for name, data in (
        (str(path), b""),
        ("-", path.read_bytes()),
        ("-", gzip.compress(path.read_bytes())),
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert cli.main(["replay", name, "--policies", "first-touch,hemem", "--no-bound"]) == 0
        said.append(capsys.readouterr().out.split("policy ", 1)[1].split("Replayed")[0])
    assert said[0] == said[1] == said[2]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert cli.main(["replay", "-"]) == 2
    assert "standard input: it is empty" in capsys.readouterr().err


@pytest.fixture
def without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def test_without_matplotlib_there_is_a_table_and_a_hint(
    hot_late, tmp_path, capsys, without_matplotlib
):
    hot_late.save(tmp_path / "t.pmt")
    picture = tmp_path / "p.png"
    assert cli.main(["replay", str(tmp_path / "t.pmt"), "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "first-touch" in out and "interleave" in out and "most-used gains" in out
    assert "pip install 'pagemig[plot]'" in out
    assert not picture.exists()


def test_command_takes_machines_numbers_and_policies(hot_late, tmp_path, capsys):
    hot_late.save(tmp_path / "t.pmt")
    output = tmp_path / "r.json"
    arguments = ["--policies", "interleave, most-used(memory=0.5)", "--set", "slow_ns=500"]
    arguments += ["--kernel", "6.12", "--machine", "optane", "--output", str(output), "--no-bound"]
    assert cli.main(["replay", str(tmp_path / "t.pmt"), *arguments]) == 0
    out = capsys.readouterr().out
    assert "first-touch" not in out and "optimum" not in out
    assert "Linux 6.12" in out and "(500 ns)" in out and "Optane" in out
    assert "most-used(memory=0.5) * " in out
    rows = json.loads(output.read_text())
    assert Counter(row["policy"] for row in rows) == {"interleave": 3, "most-used(memory=0.5)": 3}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nosuch"], "no trace 'nosuch'"),
        (["--policies", "nosuch"], "no policy 'nosuch'"),
        (["--policies", "first-touch,"], "no policy ''"),
        (["--kernel", "9.9"], "9.9"),
        (["--epochs", "0"], "epochs must be from 1 to 100000, not 0"),
        (["--epochs", "999999999999"], "epochs must be"),
        (["--rotate", "-1"], "rotate must be"),
        (["--fast-share", "inf"], "fast_share must be"),
        (["--machine", "nosuch"], "no machine 'nosuch'"),
        (["--set", "slow_ns=inf"], "slow_ns"),
        (["--set", "copy_gbs=0"], "copy_gbs"),
        (["--set", "copy_gbs"], "--set takes NAME=X"),
        (["--overlap", "0"], "overlap"),
        (["--processors", "0"], "processors"),
        ([""], "no trace ''"),
        (["--output", "nosuch/p.png"], "nosuch"),
        (["--output", "nosuch/p.csv"], "nosuch"),
    ],
)
def test_command_says_what_is_wrong(arguments, why, capsys):
    assert cli.main(["replay", *arguments]) == 2
    out, err = capsys.readouterr()
    assert why in err
    assert (out, err.count("\n")) == ("", 1)


def test_a_policy_that_fails_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_policy.py").write_text(
        "class Broken:\n    def epoch(self, view):\n        return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert cli.main(["replay", "--policies", "broken_policy:Broken"]) == 2
    err = capsys.readouterr().err
    assert "policy broken_policy:Broken, epoch 0 of sqlite: ZeroDivisionError" in err
    assert "broken_policy.py:3" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("tqdm", [True, False])
def test_progress_on_a_terminal(hot_late, tmp_path, capsys, monkeypatch, tqdm):
    if tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    hot_late.save(tmp_path / "t.pmt")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    ticks = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))
    arguments = ["--epochs", "4", "--policies", "first-touch", "--no-bound"]
    assert cli.main(["replay", str(tmp_path / "t.pmt"), *arguments]) == 0
    assert "first-touch" in capsys.readouterr().err


@pytest.mark.parametrize("name", shipped())
def test_shipped_traces_replay_quickly_and_say_something(name):
    trace = load(find(name))
    runs = compare(trace, auto.split(command.DEFAULT_POLICIES))
    assert [run.accesses.sum() for run in runs] == [trace.accesses] * len(runs)
    assert sum(run.seconds for run in runs) < 30
    assert runs[2].moved.sum() > 0


def test_conditions_are_part_of_a_plan(hot_late):
    busy = Conditions(overlap=30, background=(100.0, 0.0))
    plan = Plan(hot_late, machine="colloid", conditions=busy)
    run = plan.run("first-touch")
    assert run.total_ns == run.bill(overlap=30).total_ns
    assert run.bill(background=()).total_ns < run.total_ns
