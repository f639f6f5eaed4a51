"""Replaying traces: accounts against numpy, costs against arithmetic, policies by what they owe."""

import dataclasses
import re
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemig import auto
from pagemig.auto import MostUsed, Stats
from pagemig.commands import main as cli
from pagemig.constants import PAGE_SIZE
from pagemig.studies import pictures as plot
from pagemig.studies import replay as replay_module
from pagemig.studies.replay import Costs, compare, machine_for, replay, report, verdict
from pagemig.trace import Header, Trace, find, load, shipped

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


# ---- what is counted --------------------------------------------------------------------------

random_traces = st.lists(st.integers(0, 30), min_size=1, max_size=300).map(Trace.from_accesses)


@given(random_traces, st.integers(1, 12))
@settings(deadline=None, max_examples=40)
def test_counts_are_those_of_bincount_in_every_epoch(trace, epochs):
    machine = machine_for([trace])
    default = replay_module.Default()
    program = replay_module._Program(trace, machine, 0, default, epochs)
    for epoch, (start, end) in enumerate(program.parts):
        counts = program.run(epoch)
        index, _ = trace.expand(start, end)
        assert counts[0].tolist() == np.bincount(index, minlength=trace.footprint).tolist()
        assert not counts[1:].any()
    machine.check(full=True)


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("placement", ["first-touch", "interleave", "auto"])
def test_every_access_is_counted_once_whatever_moves(hot_late, placement, kernel):
    run = replay(hot_late, placement, kernel=kernel)
    assert run.accesses.sum() == hot_late.accesses
    assert run.accesses[:, 1:, :].sum() == 0  # the slow node has no processor
    assert (run.moved.sum() > 0) == (placement == "auto")
    assert (run.residency[-1] >= 0).all()


@given(random_traces, st.floats(0.05, 1.2))
@settings(deadline=None, max_examples=40)
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


def test_a_page_first_read_lies_on_a_node():
    run = replay(Trace.from_accesses([1, 2, 3], write=False), "first-touch")
    assert sorted(run.residency[-1].tolist()) == [0, 1, 1]


def test_programs_share_the_machine(hot_late, even):
    run = replay([hot_late, even], "first-touch", fast_share=0.5)
    by_cpu = run.accesses.sum(axis=(0, 2))
    assert by_cpu.tolist() == [hot_late.accesses, even.accesses, 0]
    assert run.residency.shape[1] == 2 * PAGES


def test_rotation_changes_who_accesses(hot_late):
    run = replay(hot_late, "first-touch", fast_nodes=2, rotate=10, epochs=40)
    cpu = (np.arange(40) // 10) % 2
    by_cpu = run.accesses.sum(axis=2)
    assert (by_cpu[np.arange(40), cpu] > 0).all()
    assert (by_cpu[np.arange(40), 1 - cpu] == 0).all()


def test_memory_follows_a_program_that_changed_its_node(hot_late):
    options = {"fast_nodes": 2, "rotate": 10, "fast_share": 2, "epochs": 20}
    away = replay(hot_late, "first-touch", **options)
    follows = replay(hot_late, "auto", **options)
    late = slice(15, None)
    assert away.local_over_time[late].max() == 0
    assert follows.local_over_time[late].min() > 0.9


# ---- what it costs ----------------------------------------------------------------------------


def test_access_time_is_accesses_times_latency(hot_late):
    costs = Costs(local_ns=100, slow_ns=400)
    run = replay(hot_late, "first-touch", costs=costs)
    local = int(run.accesses[:, 0, 0].sum())
    assert run.access_ns == 100 * local + 400 * (hot_late.accesses - local)
    assert run.moving_ns == 0


def test_latency_by_node(hot_late):
    costs = Costs(local_ns=1, remote_ns=2, slow_ns=3)
    machine = machine_for([hot_late, hot_late], costs=costs)
    assert costs.latency(machine).tolist() == [[1, 2, 3], [2, 1, 3], [2, 2, 3]]
    assert machine.distances.tolist() == [[10, 20, 30], [20, 10, 30], [30, 30, 10]]


@pytest.mark.parametrize(("kernel", "flushes"), [("6.1", 1000), ("6.12", 2)])
def test_moving_time(hot_late, kernel, flushes):
    batch = machine_for([hot_late], kernel=kernel).profile.batch
    costs = Costs(call_us=30, page_us=1, flush_us=0.5, copy_gbs=8)
    expected_us = 3 * 30 + 1000 * 1 + flushes * 0.5 + 1000 * PAGE_SIZE / 8e3
    assert costs.moving_ns(3, 1000, batch) == pytest.approx(expected_us * 1e3)


def test_the_default_costs_give_the_measured_page():
    # Two Zen 3 under 6.16: 1.10 us for a 4 KB page in a large call, batched flushes.
    assert Costs().moving_ns(0, 51200, 512) / 51200 == pytest.approx(1100, rel=0.02)


class Fixed:
    """Moves the same pages after the first epoch."""

    def __init__(self, pages, nodes):
        self.answer = np.asarray(pages), nodes

    def epoch(self, stats):
        answer, self.answer = self.answer, (np.empty(0, int), 0)
        return answer


def test_moves_are_charged_by_call_and_page(hot_late):
    on_fast = np.flatnonzero(replay(hot_late, "first-touch").residency[-1] == 0)
    costs = Costs()
    run = replay(hot_late, Fixed(on_fast[:10], 1), costs=costs, epochs=20)
    assert (run.moved.tolist(), run.calls) == ([10] + [0] * 19, 1)
    assert run.moving_ns == costs.moving_ns(1, 10, 1)
    assert run.refused == {}


def test_refusals_have_names(hot_late):
    # After the first of many epochs the last pages were not touched; a page twice is busy; and
    # the fast node is full.
    run = replay(hot_late, Fixed([0, 0, PAGES - 1], 1), epochs=500)
    assert run.refused == {"EBUSY": 1, "EFAULT": 1}
    run = replay(hot_late, Fixed([PAGES - 1], 1), epochs=500, kernel="6.12")
    assert run.refused == {"ENOENT": 1}
    run = replay(hot_late, Fixed(np.arange(PAGES // 2, PAGES), 0), epochs=20)
    assert set(run.refused) == {"ENOMEM"}


def test_table_adds_up(hot_late):
    runs = compare(hot_late)
    lines = report(runs).splitlines()
    assert len(lines) == 2 + len(runs)
    assert {len(line) for line in lines} == {len(lines[0])}  # numbers end where their column does
    base = runs[0].total_ns / 1e6
    for run, line in zip(runs, lines[2:], strict=True):
        words = line.split()
        name, local, migrated, refused, access, moving = words[:6]
        assert name == run.name
        assert float(local) == pytest.approx(100 * run.local_share, abs=0.01)
        assert (int(migrated), refused) == (run.moved.sum(), "none")
        net = float(words[6]) if words[6] != "-" else 0
        assert base - float(access) - float(moving) == pytest.approx(net, abs=0.03)
        share = float(words[7]) if words[6] != "-" else 0
        assert share == pytest.approx(100 * (1 - run.total_ns / runs[0].total_ns), abs=0.01)


# ---- whether it pays --------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_auto_gains_where_the_hot_pages_came_late(hot_late, kernel):
    first, moving = compare(hot_late, ["first-touch", "auto"], kernel=kernel)
    # Nearly all accesses go to a quarter that fits the fast node and starts on the slow one.
    assert first.local_share < 0.02
    assert moving.local_over_time[-20:].min() > 0.95
    assert moving.total_ns < first.total_ns
    assert "auto gains" in " ".join(verdict([first, moving]))


def test_auto_leaves_alone_what_cannot_pay(even):
    first, moving = compare(even, ["first-touch", "auto"])
    assert moving.moved.sum() == 0
    assert moving.total_ns == first.total_ns
    assert list(verdict([first, moving])) == []


def test_moving_for_nothing_is_a_loss(even):
    runs = [replay(even, "first-touch"), replay(even, Fixed(np.arange(50), 1), epochs=2)]
    assert runs[1].moved.sum() == 50
    assert runs[1].total_ns > runs[0].total_ns
    assert "Fixed loses" in " ".join(verdict(runs))


# ---- the policy itself ------------------------------------------------------------------------


def stats(counts, node, free, latency=((80, 240), (240, 80)), move_ns=1000.0):
    return Stats(
        np.array(counts, np.uint32),
        np.array(node, np.int32),
        np.array(free, np.int64),
        np.array(latency, float),
        move_ns,
    )


def test_hottest_first_into_free_room():
    pages, nodes = MostUsed().epoch(stats([[0, 50, 90, 3], [0] * 4], [0, 1, 1, 1], [1, 9]))
    # 160 ns an access: page 1 lost 8 us, page 2 14.4 us, page 3 less than a move costs. One fits
    # the room; the other comes for the page nobody uses, which goes first.
    assert pages.tolist() == [0, 2, 1]
    assert nodes.tolist() == [1, 0, 0]


def test_a_pair_has_to_pay_for_two_moves():
    def moved(cold):
        return MostUsed().epoch(stats([[cold, 20], [0, 0]], [0, 1], [0, 9]))[0].size

    # The pair gains 160 ns x (20 - cold) and costs 2000 ns: it pays below 7.5 accesses.
    assert moved(7) == 2
    assert moved(8) == 0


def test_the_past_fades():
    policy = MostUsed(memory=0.5)
    quiet = stats([[0], [0]], [1], [9, 9], move_ns=1e9)
    policy.epoch(stats([[80], [0]], [1], [9, 9], move_ns=1e9))
    for expected in (40, 20, 10):
        policy.epoch(quiet)
        assert policy.heat[0, 0] == expected


def test_each_page_goes_to_the_node_that_uses_it_most():
    pages, nodes = MostUsed().epoch(
        stats([[99, 0, 60, 0], [0, 99, 70, 0]], [1, 0, 0, 1], [5, 5], move_ns=1000)
    )
    moves = dict(zip(pages.tolist(), nodes.tolist(), strict=True))
    assert moves == {0: 0, 1: 1, 2: 1}


@given(st.data())
@settings(deadline=None)
def test_what_it_asks_for_can_be_done(data):
    nodes, pages = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    node = rng.integers(-1, nodes, pages)
    free = rng.integers(0, 6, nodes)
    counts = rng.integers(0, 60, (nodes, pages))
    latency = rng.integers(80, 400, (nodes, nodes))
    np.fill_diagonal(latency, 60)
    now = stats(counts, node, free, latency, float(rng.integers(0, 5000)))
    moved, targets = MostUsed().epoch(now)
    assert np.unique(moved).size == moved.size
    assert (node[moved] >= 0).all() and (node[moved] != targets).all()
    room = free.copy()
    for page, target in zip(moved.tolist(), targets.tolist(), strict=True):
        assert room[target] > 0  # in this order the kernel never has to refuse
        room[target] -= 1
        room[node[page]] += 1


@pytest.mark.parametrize("memory", [-0.1, 1.1])
def test_memory_is_a_share(memory):
    with pytest.raises(ValueError, match=str(memory)):
        MostUsed(memory)


def test_policies_by_name(monkeypatch):
    assert isinstance(auto.policy("auto"), MostUsed)
    module = types.ModuleType("mine")
    module.Still = lambda: Fixed([], 0)
    module.Odd = object
    module.number = 3
    module.Wants = lambda more: Fixed([], 0)
    monkeypatch.setitem(sys.modules, "mine", module)
    assert isinstance(auto.policy("mine:Still"), auto.AutoPolicy)
    for name, why in [
        ("nosuch", "there is auto"),
        ("mine:Nosuch", "Nosuch"),
        ("nosuchmodule:X", "nosuchmodule"),
        ("mine:Odd", "epoch"),
        ("mine:number", "not callable"),
        ("mine:Wants", "missing"),
    ]:
        with pytest.raises(ValueError, match=why):
            auto.policy(name)


# ---- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"fast_share": 0}, "fast_share 0"),
        ({"fast_share": -1}, "fast_share -1"),
        ({"fast_nodes": 0}, "fast_nodes 0"),
        ({"fast_nodes": 64}, "fast_nodes 64"),
        ({"fast_share": float("inf")}, "fast_share inf"),
        ({"fast_share": float("nan")}, "fast_share nan"),
        ({"fast_share": 1e12}, "fast_share 1000000000000.0"),
        ({"epochs": 0}, "at least 1 epoch"),
        ({"epochs": 10**12}, "epochs 1000000000000"),
        ({"rotate": -1}, "rotate -1"),
        ({"kernel": "9.9"}, "9.9"),
    ],
)
def test_numbers_that_mean_nothing(even, options, why):
    with pytest.raises(ValueError, match=why):
        replay(even, "first-touch", **options)


@pytest.mark.parametrize("name", [cost.name for cost in dataclasses.fields(Costs)])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e300])
def test_costs_that_mean_nothing(name, value):
    with pytest.raises(ValueError, match=f"{name} must be from .* not {re.escape(str(value))}"):
        Costs(**{name: value})


@pytest.mark.parametrize("name", ["local_ns", "copy_gbs"])
def test_costs_that_are_divided_by_are_not_0(name):
    with pytest.raises(ValueError, match=name):
        Costs(**{name: 0.0})


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, r"\(pages, nodes\)"),
        (([0.5], 0), "integers"),
        (([[1]], 0), "integers"),
        (([1, 2], [0, 0, 0]), "shape"),
        (([1], 1 << 70), "too large"),
        (([1], "x"), "'x'"),
        (([10**9], 0), "page 1000000000"),
        (([-1], 0), "page -1"),
    ],
)
def test_policies_that_answer_nonsense_are_named(even, answer, why):
    class Odd:
        def epoch(self, stats):
            return answer

    with pytest.raises(ValueError, match=f"policy Odd.*{why}"):
        replay(even, Odd(), epochs=2)


def test_nothing_to_replay():
    for traces in ([], Trace.from_accesses([])):
        with pytest.raises(ValueError, match="nothing to replay"):
            replay(traces, "first-touch")


# ---- the picture ------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**32))
@settings(deadline=None)
def test_bands_are_shares_of_present_pages(pages, number, slow, seed):
    residency = np.random.default_rng(seed).integers(-1, slow + 1, (2, pages)).astype(np.int8)
    bands = plot.bands(residency, slow, number)
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
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_picture(hot_late, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    runs = compare(hot_late, epochs=20)
    plot.residency(runs, tmp_path / f"p{suffix}", title="t")
    head = (tmp_path / f"p{suffix}").read_bytes()[:64]
    assert head.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


@pytest.mark.parametrize("name", ["p", "p.jpeg", "p.txt"])
def test_pictures_of_other_kinds_are_refused_before_the_work(name, capsys):
    assert cli.main(["replay", "--output", name]) == 2
    assert name in capsys.readouterr().err


# ---- the command ------------------------------------------------------------------------------


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
    assert "first-touch" in out and "interleave" in out and "auto gains" in out
    assert "pip install 'pagemig[plot]'" in out
    assert not picture.exists()


def test_command_takes_costs_and_policies(hot_late, tmp_path, capsys):
    hot_late.save(tmp_path / "t.pmt")
    arguments = ["--policies", "interleave,auto", "--slow-ns", "500", "--kernel", "6.12"]
    assert cli.main(["replay", str(tmp_path / "t.pmt"), *arguments]) == 0
    out = capsys.readouterr().out
    assert "first-touch" not in out
    assert "Linux 6.12" in out and "(500 ns)" in out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nosuch"], "no trace 'nosuch'"),
        (["--policies", "nosuch"], "no policy 'nosuch'"),
        (["--policies", "first-touch,"], "no policy ''"),
        (["--kernel", "9.9"], "9.9"),
        (["--epochs", "0"], "epochs 0"),
        (["--epochs", "999999999999"], "epochs 999999999999"),
        (["--rotate", "-1"], "rotate -1"),
        (["--fast-share", "inf"], "fast_share inf"),
        (["--slow-ns", "inf"], "slow_ns"),
        (["--copy-gbs", "0"], "copy_gbs"),
        ([""], "no trace ''"),
        (["--output", "nosuch/p.png"], "nosuch"),
    ],
)
def test_command_says_what_is_wrong(arguments, why, capsys):
    assert cli.main(["replay", *arguments]) == 2
    out, err = capsys.readouterr()
    assert why in err
    assert (out, err.count("\n")) == ("", 1)


def test_progress_on_a_terminal(hot_late, tmp_path, capsys, monkeypatch):
    hot_late.save(tmp_path / "t.pmt")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    ticks = iter(range(10**6))
    monkeypatch.setattr(replay_module.time, "monotonic", lambda: next(ticks))
    assert cli.main(["replay", str(tmp_path / "t.pmt"), "--epochs", "4"]) == 0
    assert "auto [###" in capsys.readouterr().err


@pytest.mark.parametrize("name", shipped())
def test_shipped_traces_replay_quickly_and_say_something(name, capsys):
    trace = load(find(name))
    runs = compare(trace)
    assert [run.accesses.sum() for run in runs] == [trace.accesses] * 3
    assert sum(run.seconds for run in runs) < 30
    assert runs[2].moved.sum() > 0
