"""Machines and prices: files against what they say, bills against arithmetic done by hand."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemig import auto
from pagemig.auto import Prices, Traffic, hardware, machines, price
from pagemig.auto.costs import EVENTS, LINE, PAGE, TERMS

TOML = """
title = "mine"
latency_ns = [[100, 300]]
bandwidth_gbs = [[10, 4]]
curve = [["flat", "steps"]]
[[nodes]]
name = "fast"
cpus = 2
[[nodes]]
name = "slow"
[remote]
latency_ns = 200
bandwidth_gbs = 5
[curves]
flat = [[0, 1], [1, 1]]
steps = [[0, 1], [0.5, 2], [1, 4]]
[prices]
call_us = 30
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    return hardware(path)


# ---- machines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", machines())
def test_every_shipped_machine_says_where_its_numbers_are_from(name):
    machine = hardware(name)
    assert len(machine.title) > 10
    assert {"latency_ns", "bandwidth_gbs", "curve", "prices"} <= set(machine.sources)
    assert all(len(source) > 15 for source in machine.sources.values())
    assert (machine.latency.min(axis=1) == np.diag(machine.latency))[list(machine.cpu_nodes)].all()


def test_the_machines_that_people_have_are_shipped():
    assert {"xeon", "zen", "cxl", "optane", "tiers3", "altix", "cori", "colloid"} <= set(machines())
    assert len(hardware("tiers3").tiers) == 3
    assert hardware("xeon").cpu_nodes == (0, 1)
    assert hardware().name == auto.DEFAULT_MACHINE
    assert str(hardware("optane")).startswith("DRAM and Optane")


def test_a_file_of_ones_own(mine):
    assert mine.latency.tolist() == [[100, 300], [100, 300]]  # no processor accesses from node 1
    assert mine.prices == Prices(call_us=30)
    assert mine.cpus == (2, 0)
    assert mine.tiers == ((0,), (1,))


def test_nodes_like_the_first(mine):
    three = mine.with_fast_nodes(3)
    assert three.latency[:3].tolist() == [
        [100, 200, 200, 300],
        [200, 100, 200, 300],
        [200, 200, 100, 300],
    ]
    assert three.bandwidth[0].tolist() == [10, 5, 5, 4]
    assert three.cpu_nodes == (0, 1, 2)
    assert three.curves[1] == ("flat", "flat", "flat", "steps")
    assert mine.with_fast_nodes(1) is mine
    with pytest.raises(ValueError, match="fast_nodes must be from 1 to 63, not 0"):
        mine.with_fast_nodes(0)
    with pytest.raises(ValueError, match="'xeon' has 2 nodes with processors"):
        hardware("xeon").with_fast_nodes(3)


def test_numbers_can_be_changed(mine):
    changed = mine.changed(slow_ns=500, local_ns=90, remote_ns=150, call_us=1)
    assert changed.latency[0].tolist() == [90, 500]
    assert changed.with_fast_nodes(2).latency[0].tolist() == [90, 150, 500]
    assert changed.prices.call_us == 1
    for name, value in [("slow_ns", -1), ("call_us", math.nan), ("copy_gbs", 0), ("nosuch", 1)]:
        with pytest.raises(ValueError, match=name):
            mine.changed(**{name: value})


@pytest.mark.parametrize("name", [cost.name for cost in dataclasses.fields(Prices)])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 1e300, "1", True])
def test_prices_that_mean_nothing(name, value):
    wrong = ValueError if isinstance(value, float) else TypeError
    with pytest.raises(wrong, match=f"{name} must be"):
        Prices(**{name: value})


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('title = "mine"', "", "'title' is missing"),
        ("latency_ns = [[100, 300]]", "latency_ns = [[100]]", "1 rows"),
        ("latency_ns = [[100, 300]]", "latency_ns = [[100, 0]]", "latency_ns must be from"),
        ("latency_ns = [[100, 300]]", 'latency_ns = [[100, "x"]]', "must be a number, not 'x'"),
        ("cpus = 2", "cpus = -2", "cpus must be"),
        ("cpus = 2", "", "first node must have processors"),
        ("call_us = 30", "cal_us = 30", "price 'cal_us' is not one of"),
        ('"steps"]]', '"nosuch"]]', "curve 'nosuch'"),
        ("[0.5, 2]", "[0.5, 0.5]", "curve steps must rise"),
        ("[0.5, 2]", "[0.5]", "inhomogeneous|pairs"),
        ("[remote]", "[remotes]", "'remotes' is not one of"),
        ('title = "mine"', "title = ", "Invalid value"),
        ('[[nodes]]\nname = "slow"', "", "2 to 64 nodes, not 1"),
    ],
)
def test_files_that_describe_no_machine(tmp_path, old, new, why):
    assert old in TOML
    path = tmp_path / "bad.toml"
    path.write_text(TOML.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"machine .*bad.toml: .*({why})"):
        hardware(path)


def test_no_such_machine():
    with pytest.raises(FileNotFoundError, match=r"no machine 'nosuch'.*cxl"):
        hardware("nosuch")


# ---- bills ------------------------------------------------------------------------------------


def traffic(accesses, **more):
    """One program's traffic; more by name, one value an epoch."""
    found = Traffic.none(len(accesses), 1, len(accesses[0]))
    found.accesses[:, 0] = accesses
    for name, values in more.items():
        if name in EVENTS and name != "flushes":
            found.events[:, 0, EVENTS.index(name)] = values
        else:
            getattr(found, name)[0, :, 0] = values
    return found


def unloaded(machine, **prices):
    """The machine with curves that do not rise."""
    flat = np.array([[0.0, 1.0], [1.0, 1.0]])
    curves = tuple(("flat",) * len(row) for row in machine.curves)
    changed = dataclasses.replace(machine, curves=curves, tables={"flat": flat})
    return changed.changed(**prices)


def test_idle_accesses_take_the_latency(mine):
    bill = price(traffic([[1000, 100], [0, 0]]), unloaded(mine))
    assert bill.terms["access"][:, 0].tolist() == [1000 * 100 + 100 * 300, 0]
    assert bill.total_ns == bill.access_ns == 130_000
    assert price(traffic([[1000, 100]]), unloaded(mine), overlap=4).access_ns == 130_000 / 4


def test_moves_and_looks_are_charged_by_what_they_did(mine):
    machine = unloaded(mine)
    cost = machine.prices
    counts = {"calls": [2], "looked": [3], "there": [5], "tried": [7], "moved": [6], "flushes": [4]}
    looks = {"sample_ns": [10], "scan_ns": [20], "fault_ns": [2], "unmap_ns": [9], "check_ns": [8]}
    found = traffic([[0, 0]], **counts, **looks)
    found.events[0, 0, EVENTS.index("flushes")] = 1
    found.events[0, 0, EVENTS.index("ns")] = 77
    bill = price(found, machine, processors=3)
    flush = cost.flush_us + 2 * cost.ipi_us
    assert bill.terms["call"].sum() == pytest.approx(2e3 * 30)
    assert bill.terms["page"].sum() == pytest.approx(
        1e3 * (3 * cost.look_us + 5 * cost.there_us + 7 * cost.page_us)
    )
    assert bill.terms["flush"].sum() == pytest.approx(4e3 * flush)
    assert bill.terms["copy"].sum() == pytest.approx(6 * PAGE / cost.copy_gbs)
    assert bill.statistics_ns == pytest.approx(
        10 * cost.sample_ns
        + 20 * cost.scan_ns
        + 2 * cost.fault_ns
        + 9 * cost.unmap_ns
        + 8 * cost.check_ns
        + 1e3 * flush
        + 77
    )
    assert list(bill.terms) == list(TERMS)
    assert bill.total_ns == pytest.approx(bill.access_ns + bill.statistics_ns + bill.moving_ns)


def test_moves_in_the_background_cost_the_program_their_flushes(mine):
    found = traffic([[0, 0]])
    for name in ("calls", "tried", "moved", "flushes"):
        getattr(found, name)[1] = 5
    bill = price(found, unloaded(mine))
    assert bill.total_ns == pytest.approx(5e3 * mine.prices.flush_us)
    rest = 5e3 * (mine.prices.call_us + mine.prices.page_us) + 5 * PAGE / mine.prices.copy_gbs
    assert bill.agent.sum() == pytest.approx(rest)


def test_a_loaded_way_is_longer(mine):
    # All 64 ms of lines go to the slow node: u = 64 n / (T x 4), factor 1 + 2u below a half.
    accesses, overlap = 1000, 10
    bill = price(traffic([[0, accesses]]), mine, overlap=overlap)
    time = bill.terms["access"].sum()
    u = LINE * accesses / (time * 4)
    assert 0 < u < 0.5
    assert time == pytest.approx(accesses * 300 * (1 + 2 * u) / overlap)
    assert bill.latency[0, 0, 1] == pytest.approx(300 * (1 + 2 * u))


def test_bandwidth_sets_a_floor(mine):
    bill = price(traffic([[0, 1000]]), mine, overlap=1000)
    assert bill.access_ns == pytest.approx(1000 * LINE / 4)
    # With 3 of its 4 GB/s taken by others a quarter is left.
    others = price(traffic([[0, 1000]]), mine, overlap=1000, background=[0, 3])
    assert others.access_ns == pytest.approx(1000 * LINE)


def test_copies_compete_with_accesses(mine):
    quiet = traffic([[0, 1000]])
    busy = traffic([[0, 1000]])
    busy.copied[0, 1, 0] = 100
    kept = price(quiet, mine, overlap=10).access_ns
    assert price(busy, mine, overlap=10).access_ns > kept


def test_computing_takes_load_away_and_is_not_on_the_bill(mine):
    busy = price(traffic([[0, 1000]]), mine, overlap=10)
    idle = price(traffic([[0, 1000]]), mine, overlap=10, compute_ns=1e6)
    assert idle.access_ns == pytest.approx(1000 * 300 / 10, rel=1e-4)
    assert idle.access_ns < busy.access_ns
    assert idle.duration[0] == pytest.approx(1e9, rel=0.01)


def test_the_curve_of_1_minus_u():
    machine = hardware("colloid")
    u = np.broadcast_to([[0.5, 0.75], [0.0, 1.0]], (1, 2, 2))
    assert machine.factor(u)[0].tolist() == [[2, 4], [1, pytest.approx(10)]]


@given(st.data())
@settings(max_examples=60)
def test_the_time_agrees_with_the_latencies_it_gives(data):
    """The answer put back into the equation, in plain Python; several programs, any machine."""
    machine = hardware(data.draw(st.sampled_from(["cxl", "colloid", "xeon", "tiers3"])))
    nodes, programs = len(machine.nodes), data.draw(st.integers(1, 3))
    found = Traffic.none(1, programs, nodes)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    found.accesses[:] = rng.integers(0, 10_000, found.accesses.shape)
    found.cpu[:] = rng.choice(machine.cpu_nodes, found.cpu.shape)
    found.copied[:] = rng.integers(0, 50, found.copied.shape)
    overlap = data.draw(st.sampled_from([1, 4, 30, 300]))
    bill = price(found, machine, overlap=overlap)
    duration = float(bill.duration[0])
    capacity = machine.bandwidth.max(axis=0)
    way = np.zeros((nodes, nodes))
    for program in range(programs):
        way[found.cpu[0, program]] += LINE * found.accesses[0, program]
    copies = PAGE * (found.copied[0].sum(axis=0) + found.copied[0].sum(axis=1))
    memory = way.sum(axis=0) + copies
    used = np.maximum(memory / (duration * capacity), way / (duration * machine.bandwidth))
    latency = machine.latency * machine.factor(np.minimum(used, 1)[np.newaxis])[0]
    times = [
        sum(found.accesses[0, p, j] * latency[found.cpu[0, p], j] for j in range(nodes)) / overlap
        for p in range(programs)
    ]
    least = max((memory / capacity).max(), (way / machine.bandwidth).max())
    assert duration == pytest.approx(max(*times, least) if programs > 1 else max(times[0], least))
    stretch = max(duration / max(times), 1)
    assert bill.terms["access"][0].tolist() == pytest.approx([t * stretch for t in times])
    # What a bound with idle latencies relies on.
    idle = [
        float(found.accesses[0, p] @ machine.latency[found.cpu[0, p]]) / overlap
        for p in range(programs)
    ]
    assert (bill.terms["access"][0] >= np.array(idle) * (1 - 1e-12)).all()


def test_the_default_prices_give_the_measured_page():
    # Two Zen 3 under 6.16: 1.10 us for a 4 KB page in a large call, batched flushes.
    assert auto.move_ns(hardware("cxl"), 51200, batch=512, calls=0) / 51200 == pytest.approx(
        1100, rel=0.02
    )


@given(st.integers(1, 5000), st.sampled_from([1, 512]), st.integers(1, 64))
def test_no_move_is_cheaper_than_the_least(pages, batch, processors):
    machine = hardware("cxl")
    least = auto.least_move_ns(machine, batch=batch, processors=processors)
    cost = auto.move_ns(machine, pages, batch=batch, calls=1, processors=processors)
    assert cost >= pages * least
    behind = auto.least_move_ns(machine, batch=batch, processors=processors, blocking=False)
    assert behind < least


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"overlap": 0}, "overlap"),
        ({"overlap": math.nan}, "overlap"),
        ({"compute_ns": -1}, "compute_ns"),
        ({"processors": 0}, "processors"),
        ({"background": [0, 4]}, "background"),
        ({"background": [0, -1]}, "background"),
        ({"background": [0]}, "background"),
    ],
)
def test_conditions_that_mean_nothing(mine, options, why):
    with pytest.raises(ValueError, match=why):
        price(traffic([[1, 1]]), mine, **options)


def test_a_run_is_priced_on_machines_with_its_nodes(mine):
    with pytest.raises(ValueError, match=r"has 3 nodes, machine .* has 2"):
        price(traffic([[1, 1, 1]]), mine)
