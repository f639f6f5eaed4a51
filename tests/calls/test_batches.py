"""Migration in batches (6.3 and later): unmap up to 512 pages, flush once, then move them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pagemig as pm
from pagemig.system.machine import STEPS
from support.machines import PAGE, at, error_of, four_nodes, mapped, pages, snapshot


def flushes(machine: pm.Machine, app: pm.Process, n: int) -> int:
    before = machine.counters["tlb_flush"]
    assert app.move_pages(pages(0, n), 1).rc == 0
    return machine.counters["tlb_flush"] - before


@pytest.mark.parametrize("width", [1, 64])
@pytest.mark.parametrize("n", [1, 512, 513, 1200])
def test_one_flush_a_batch(n: int, width: int) -> None:
    machine = four_nodes("6.12")
    machine.width = width
    app = machine.spawn()
    mapped(app, n)
    assert flushes(machine, app, n) == -(-n // 512)


@pytest.mark.parametrize("kernel", ["2.6.18-ia64", "pmig", "6.1"])
def test_one_flush_an_entry_before(kernel: str) -> None:
    machine = four_nodes(kernel)
    app = machine.spawn()
    mapped(app, 513)
    assert flushes(machine, app, 513) == 513
    app.fork()
    before = machine.counters["tlb_flush"]
    app.migrate_pages([1], [2])
    assert machine.counters["tlb_flush"] - before == 2 * 513


def test_each_pass_flushes_what_it_unmaps() -> None:
    machine = four_nodes("6.1")
    app = machine.spawn()
    mapped(app, 2)
    app.pin(at(1), 1)
    before = machine.counters["tlb_flush"]
    assert app.move_pages(pages(0, 2), 1).rc == 1
    assert machine.counters["tlb_flush"] - before == 1 + machine.profile.passes


def test_all_of_a_batch_is_unmapped_before_the_first_is_copied() -> None:
    machine = four_nodes("6.12", page_bytes=8)
    app = machine.spawn()
    mapped(app, 200)
    machine.tracing = True
    app.move_pages(pages(0, 200), 1)
    steps = np.array([STEPS.get(step, "") for step in machine.trace["step"].tolist()])
    order = [np.flatnonzero(steps == step) for step in ("unmap", "copy", "restore")]
    assert [len(found) for found in order] == [200, 200, 200]
    assert order[0].max() < order[1].min()
    # The data is there before the mapping is switched, and so before anybody can see it.
    assert (order[1] < order[2]).all()


def test_a_page_in_use_waits_unmapped_and_moves_once_it_is_free() -> None:
    machine = four_nodes("6.12", page_bytes=8)
    app = machine.spawn()
    mapped(app, 80)
    pins = [app.pin(at(70), 1)]
    copies: list[int] = []

    def let_go(step: str, pfns: list[int]) -> None:
        if step == "copy":
            copies.append(len(pfns))
            if len(pfns) == 1 and pins:
                assert app.pagemap(at(70), 1)[0] >> np.uint64(62) == 1  # a migration entry
                app.unpin(pins.pop())

    before = machine.counters
    machine.at_step(let_go)
    assert app.move_pages(pages(0, 80), 1).rc == 0
    machine.at_step(None)
    machine.check(full=True)
    assert copies == [64, 16, 1, 1]
    grown = {name: n - before[name] for name, n in machine.counters.items()}
    assert grown["pgmigrate_success"] == grown["ptes_dropped"] == grown["ptes_restored"] == 80
    assert grown["tlb_flush"] == 1


@pytest.mark.parametrize("width", [1, 7, 64])
def test_pages_that_stay_are_tried_alone_and_counted_once(width: int) -> None:
    machine = four_nodes("6.12", page_bytes=8)
    machine.width = width
    app = machine.spawn()
    mapped(app, 600)
    for page in (3, 300, 599):
        app.pin(at(page), 1)
    before = machine.counters
    result = app.move_pages(pages(0, 600), 1)
    machine.check(full=True)
    grown = {name: n - before[name] for name, n in machine.counters.items()}
    assert result.rc == 3
    assert grown["pgmigrate_success"] == 597
    assert grown["pgmigrate_fail"] == 3
    # Two batches, and each page once more by itself.
    assert grown["tlb_flush"] == 2 + 3
    nodes = app.move_pages(pages(0, 600)).status
    assert np.flatnonzero(nodes == 0).tolist() == [3, 300, 599]


def test_what_is_unmapped_moves_though_frames_run_out() -> None:
    small = [pm.Node("16MiB", cpus=1), pm.Node("16MiB", cpus=1), pm.Node("400KiB")]
    machine = pm.Machine(small, kernel="6.12", page_bytes=8)
    app = machine.spawn()
    mapped(app, 600)
    before = machine.counters["pgmigrate_success"]
    with pytest.raises(OSError, match="ENOMEM"):
        app.move_pages(pages(0, 600), 2)
    machine.check(full=True)
    assert machine.counters["pgmigrate_success"] - before == 100
    assert np.count_nonzero(app.move_pages(pages(0, 600)).status == 2) == 100


@pytest.mark.parametrize("frames", [None, 700, 512, 100])
@pytest.mark.parametrize("pinned", [(), (3, 511, 512, 1199), range(500, 530)])
def test_batch_by_batch_is_the_same_as_isolated_first(
    pinned: tuple[int, ...] | range, frames: int | None
) -> None:
    """A list with rising addresses is isolated as it is migrated, but not under a trace."""
    outcomes = []
    for traced in (False, True):
        node = pm.Node("16MiB", cpus=1)
        target = node if frames is None else pm.Node(frames * 4096)
        machine = pm.Machine([node, target], kernel="6.12")
        machine.tracing = traced
        app = machine.spawn()
        mapped(app, 1200)
        for page in pinned:
            app.pin(at(page), 4096, "uring")
        failed = error_of(app.move_pages, pages(0, 1200), 1)
        after = app.move_pages(pages(0, 1200)).status.tolist()
        names = ("pgmigrate_success", "pgmigrate_fail", "tlb_flush", "pgalloc", "pgfree")
        counts = [machine.counters[name] for name in names]
        outcomes.append((failed, after, counts))
        # Those without a frame stay, and so does what has a pin before the frames run out.
        assert failed == ("ok" if frames is None else "ENOMEM")
        assert after.count(1) == (frames or 1200 - len(pinned))
        machine.check()
    assert outcomes[0] == outcomes[1]


ASYNCHRONOUS = dataclasses.replace(pm.KERNELS["6.12"], name="mine", batch=48, async_first=0)


@st.composite
def lists(draw: st.DrawFn) -> dict:
    """What a call may meet: pages of every kind, some that fail, a target that may be too small."""
    return {
        "kernel": draw(st.sampled_from(["6.1", "6.12", "6.18", ASYNCHRONOUS])),
        "width": draw(st.sampled_from([1, 5, 64])),
        "frames": draw(st.sampled_from([None, 150, 300, 620])),
        "low": draw(st.sampled_from([0, 0, 40])),
        "children": draw(st.integers(0, 2)),
        "flags": draw(st.sampled_from([pm.MPOL_MF_MOVE, pm.MPOL_MF_MOVE_ALL])),
        "pins": draw(st.sets(st.integers(0, 699), max_size=5)),
        "holes": draw(st.sets(st.integers(0, 699), max_size=2)),
        "twice": draw(st.integers(1, 700)),  # where a file begins that is mapped at two places
    }


def outcome(case: dict, watch: str) -> list:
    """The result of a call: its answer, every frame, every counter except those of the host."""
    node = pm.Node("16MiB", cpus=1)
    target = pm.Node((case["frames"] or 4096) * PAGE, watermark=case["low"] * PAGE)
    machine = pm.Machine([node, target], kernel=case["kernel"], scatter=5)
    machine.width = case["width"]
    app = machine.spawn()
    file = machine.file("tmpfs", 64 * PAGE)
    mapped(app, case["twice"])
    for first in (case["twice"], case["twice"] + 64):
        mapped(app, 64, first, file=file, shared=True)
    mapped(app, 700, case["twice"] + 128)
    for _ in range(case["children"]):
        app.fork()
    for page in sorted(case["pins"]):
        app.pin(at(page), PAGE, "uring")
    for page in sorted(case["holes"]):
        app.munmap(at(page), PAGE)
    machine.tracing = watch == "trace"
    if watch == "hook":
        machine.at_step(lambda step, pfns: None)
    failed = error_of(app.move_pages, pages(0, case["twice"] + 800), 1, case["flags"])
    machine.check(full=True)
    counters = {k: n for k, n in machine.counters.items() if not k.startswith("host")}
    return [failed, counters, *snapshot(machine)]


# A page that fails early in a list of more than 512, of which a later page gets no frame.
LATE = {
    "kernel": "6.1",
    "width": 1,
    "frames": 620,
    "low": 0,
    "children": 1,
    "flags": pm.MPOL_MF_MOVE_ALL,
    "pins": {129},
    "holes": set(),
    "twice": 1,
}


@settings(max_examples=30)
@example(LATE)
@given(lists())
def test_nobody_can_tell_that_the_first_pass_ran_ahead(case: dict) -> None:
    """Under a trace or a hook, which show single steps, a run is isolated whole before it moves."""
    plain = outcome(case, "")
    assert outcome(case, "trace") == plain
    assert outcome(case, "hook") == plain
