"""Virtual time against closed forms, records against counters, parameters against the note."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pagemig as pm
from pagemig import plot, rates, vtime
from pagemig.cli import main
from pagemig.machine import LOCKS, STEPS
from pagemig.vtime import COPY, Costs, Script

PARAMETERS = rates.load()
NOTES = ["note-16k", "note-4k"]
STEP = {name: number for number, name in STEPS.items()}
LOCK = {name: number for number, name in LOCKS.items()}
Trace = npt.NDArray[Any]


@pytest.fixture(scope="module")
def trace() -> Trace:
    return rates.record("6.1", pages=256)


def with_swap_cache(trace: Trace) -> Trace:
    """The record of migration entries with the locks that swap entries add.

    Section 3.11 of the reference on 2006, for a page mapped once: tree_lock for the add, the slot
    switch, the dirty tag and the delete; swap_lock for the slot, its copy and its two users.
    """
    added = {
        "unmap": ["swap", "tree", "swap"],
        "copy": ["tree", "tree"],
        "putback": ["swap", "swap", "tree"],
    }
    events = []
    for event in trace:
        for lock in added.get(STEPS.get(int(event["step"]), ""), []):
            taken = event.copy()
            taken["step"] = LOCK[lock]
            events.append(taken)
        events.append(event)
    return np.array(events, dtype=trace.dtype)


# -- virtual time -----------------------------------------------------------------------------

COSTS = Costs(page_bytes=4096, hold_us=0.5, line_us=0.2, copy_mb_s=2000, copy_total_mb_s=1e9)
FOUR_LOCKS = Script(
    ((0.3, "tree"), (0.3, "tree"), (0.3, "tree"), (0.3, COPY), (0.2, "tree")), 0.1, 1
)


@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_one_processor_alone_just_adds_up(jitter: float) -> None:
    costs = Costs(
        page_bytes=4096,
        hold_us=0.5,
        line_us=9,
        copy_mb_s=2000,
        copy_total_mb_s=1e9,
        lines={"tree": 7},
        spin_lines=3,
        jitter=jitter,
    )
    expected = 4096 / (1.5 + 4 * 0.5 + 4096 / 2000)
    assert vtime.closed_form(FOUR_LOCKS, costs) == pytest.approx(expected)
    alone = vtime.simulate(FOUR_LOCKS, costs, 1, repeats=500)
    assert alone.mb_s == pytest.approx(expected)
    assert alone.busy["tree"] == pytest.approx(4 * 0.5 * expected / 4096)


@pytest.mark.parametrize(("hold", "lines"), [(3.0, 0.0), (0.5, 12.5)])
@pytest.mark.parametrize("processors", [4, 8, 16])
def test_a_saturated_lock_leaves_each_its_share(hold: float, lines: float, processors: int) -> None:
    """page / (N K h), h the hold after a change of owner: every one is, where all wait."""
    costs = Costs(
        page_bytes=4096,
        hold_us=hold,
        line_us=0.2,
        copy_mb_s=2000,
        copy_total_mb_s=1e9,
        lines={"tree": lines},
    )
    outcome = vtime.simulate(FOUR_LOCKS, costs, processors, repeats=1000)
    assert outcome.mb_s == pytest.approx(4096 / (processors * 4 * 3.0), rel=0.01)
    assert outcome.busy["tree"] == pytest.approx(1, abs=0.01)


def test_waiters_slow_the_owner_down() -> None:
    costs = Costs(
        page_bytes=4096,
        hold_us=3,
        line_us=0.2,
        copy_mb_s=2000,
        copy_total_mb_s=1e9,
        spin_lines=5,
    )
    outcome = vtime.simulate(Script(((0.0, "tree"),), 0.0, 1), costs, 4, repeats=1000)
    # Of the four one holds it and one has just given it back.
    assert outcome.mb_s == pytest.approx(4096 / (4 * (3 + 5 * 0.2 * 2)), rel=0.01)


def test_copies_share_the_bandwidth() -> None:
    costs = Costs(
        page_bytes=4096, hold_us=0.5, line_us=0, copy_mb_s=2000, copy_total_mb_s=4000, jitter=0.2
    )
    copies = Script(((0.0, COPY),), 0.0, 1)
    rate = {n: vtime.simulate(copies, costs, n, repeats=500).mb_s for n in (1, 2, 4, 8)}
    assert rate[1] == rate[2] == pytest.approx(2000)
    assert rate[4] == pytest.approx(1000, rel=0.01)
    assert rate[8] == pytest.approx(500, rel=0.01)


def test_processors_that_share_nothing_do_not_slow_each_other() -> None:
    outcome = vtime.simulate(Script(((1.0, COPY),), 0.5, 1), COSTS, 16, repeats=50)
    assert outcome.mb_s == pytest.approx(vtime.closed_form(Script(((1.0, COPY),), 0.5, 1), COSTS))


def test_time_is_deterministic() -> None:
    first, second = (vtime.simulate(FOUR_LOCKS, COSTS, 8, repeats=100) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("processors", "repeats", "pages"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_nothing_to_simulate(processors: int, repeats: int, pages: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        vtime.simulate(Script(((1.0, COPY),), 0.0, pages), COSTS, processors, repeats=repeats)


# -- records ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", sorted(pm.KERNELS))
def test_a_record_has_every_lock_that_was_counted(kernel: str) -> None:
    machine = pm.Machine([pm.Node("4MiB", cpus=1), "4MiB"], kernel=kernel)
    if machine.profile.engine == 1:
        pytest.skip("needs swap space to move anything")
    app = machine.spawn()
    base = app.mmap(64 * pm.PAGE_SIZE)
    app.touch(base, 64 * pm.PAGE_SIZE, write=True)
    before = machine.counters
    machine.trace_locks = machine.tracing = True
    app.migrate_pages([0], [1])
    machine.tracing = False
    after = machine.counters
    events = machine.trace["step"].tolist()
    counted = {f"lock_{kind}": events.count(number) for number, kind in LOCKS.items()}
    assert counted == {name: after[name] - before[name] for name in counted}
    assert counted["lock_lru"] >= 64
    app.migrate_pages([1], [0])
    machine.trace_locks = False
    machine.tracing = True
    app.migrate_pages([0], [1])
    assert set(machine.trace["step"].tolist()) <= STEPS.keys()


def test_locks_of_a_page(trace: Trace) -> None:
    """Today's engine: the page's own locks for unmap and restore, one LRU lock to isolate it."""
    locks = rates.locks_per_page(trace)
    assert (locks["lru"], locks["anon_vma"], locks["tree"], locks["swap"]) == (1, 2, 0, 0)
    assert 0 < locks["zone"] < 0.1
    assert rates.locks_per_page(with_swap_cache(trace))["tree"] == 4


def test_a_script_keeps_the_order_and_all_the_work(trace: Trace) -> None:
    model = PARAMETERS.models["zen3"]
    todo = rates.script(trace, model)
    kinds = [resource for _, resource in todo.ops]
    assert (kinds.count("lru"), kinds.count(COPY), todo.pages) == (256, 256, 256)
    assert kinds.index(COPY) > 255  # all are isolated before the first moves
    counts = {number: int((trace["step"] == number).sum()) for number in STEPS | LOCKS}
    entries = counts[STEP["unmap"]] + counts[STEP["restore"]]
    steps = sum(counts[number] for number in STEPS) - entries
    private = sum(counts[number] for number, kind in LOCKS.items() if kind not in rates.SHARED)
    work = sum(delay for delay, _ in todo.ops) + todo.tail_us
    expected = steps * model["step_us"] + entries * model["pte_us"] + private * model["lock_us"]
    assert work == pytest.approx(expected)


# -- what the note says -----------------------------------------------------------------------


def swap_rates(trace: Trace, model: rates.Model, reading: rates.Reading) -> tuple[float, ...]:
    curve = rates.rates("2.6.17", model, reading=reading, pages=1024, trace=trace)
    assert curve.mb_s is not None
    return curve.mb_s


def swap_trace(trace: Trace) -> Trace:
    return rates.record("2.6.17", pages=256) if "2.6.17" in pm.KERNELS else with_swap_cache(trace)


@pytest.mark.parametrize("name", NOTES)
def test_swap_entries_as_the_note_has_them(trace: Trace, name: str) -> None:
    """Fitted: 600 to 900 alone; with four 250, each or in all, within a tenth.

    Predicted: saturated from two on, so that N processors get 1/N each.
    """
    model, swap = PARAMETERS.models[name], swap_trace(trace)
    one, two, four, eight, sixteen = swap_rates(swap, model, "each")
    assert 600 <= one <= 900
    assert 225 <= four <= 275
    assert eight == pytest.approx(four / 2, rel=0.05)
    assert sixteen == pytest.approx(four / 4, rel=0.05)
    assert one > two > four
    assert 225 <= 4 * swap_rates(swap, model, "total")[2] <= 275


@pytest.mark.parametrize("name", NOTES)
@pytest.mark.parametrize("kernel", rates.NOTE_KERNELS["entries"])
def test_migration_entries_as_the_note_has_them(kernel: str, name: str) -> None:
    """Fitted: 800 to 1000 alone, at least 85 % of it with four."""
    curve = rates.rates(kernel, PARAMETERS.models[name], processors=(1, 4))
    if curve.mb_s is None:
        pytest.skip(f"{kernel} is not built")
    one, four = curve.mb_s
    assert 800 <= one <= 1000
    assert 0.85 <= four / one < 1


@pytest.mark.parametrize("name", NOTES)
def test_one_tree_lock_less_changes_the_table(trace: Trace, name: str) -> None:
    """Of four acquisitions a page one goes, no parameter does; saturated, the rate is 4/3."""
    model, swap = PARAMETERS.models[name], swap_trace(trace)
    taken = np.flatnonzero(swap["step"] == LOCK["tree"])
    fewer = np.delete(swap, taken[::4])
    before, after = swap_rates(swap, model, "each"), swap_rates(fewer, model, "each")
    assert all(new > old for old, new in zip(before, after, strict=True))
    assert after[3] / before[3] == pytest.approx(4 / 3, rel=0.05)


def test_more_pages_change_nothing(trace: Trace) -> None:
    model = PARAMETERS.models["note-16k"]
    for events in (trace, with_swap_cache(trace)):
        some, more = (
            rates.rates("6.1", model, processors=(4,), pages=pages, trace=events).mb_s
            for pages in (1024, 4096)
        )
        assert some == pytest.approx(more, rel=0.02)


@pytest.mark.parametrize("name", NOTES)
def test_the_fit_gives_the_figures_it_aims_at(name: str) -> None:
    aim = PARAMETERS.note["aim"]
    fitted = rates.fit(PARAMETERS.models[name], PARAMETERS)
    model = PARAMETERS.models[name].with_values(**fitted)
    entries = rates.rates("6.1", model, processors=(1,)).mb_s
    assert entries == pytest.approx([aim["entries_single"]], rel=0.1)
    swap = rates.rates("2.6.17", model, processors=(1, 4)).mb_s
    if swap is not None:
        assert swap == pytest.approx([aim["swap_single"], aim["swap_four"]], rel=0.03)


# -- what today's kernels do ------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PARAMETERS.published))
def test_fitted_rows_are_near(name: str) -> None:
    model, rows = PARAMETERS.models[name], PARAMETERS.published[name]["rows"]
    for row, (what, said, ours) in zip(rows, rates.published(model, rows), strict=True):
        if row["fitted"]:
            assert ours == pytest.approx(said, rel=0.08), what


# -- parameters -------------------------------------------------------------------------------


def test_every_parameter_is_described_and_every_value_has_an_origin() -> None:
    assert set(PARAMETERS.models) == {*NOTES, "zen3", "xeon"}
    for about in PARAMETERS.about.values():
        assert set(about) == {"unit", "meaning"}
        assert all(about.values())
    for model in PARAMETERS.models.values():
        assert model.values.keys() == PARAMETERS.about.keys()
        assert all(value.value >= 0 and value.source for value in model.values.values())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("jitter = { value", "jitters = { value", "machine note-16k has"),
        ('origin = "assumed"', 'origin = "guessed"', "does not say where"),
    ],
)
def test_a_file_with_a_gap_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (Path(rates.__file__).parent / "data" / "rates.toml").read_text()
    path = tmp_path / "costs.toml"
    path.write_text(text.replace(old, new))
    tomllib.loads(path.read_text())
    with pytest.raises(ValueError, match=said):
        rates.load(path)


# -- command ----------------------------------------------------------------------------------


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rates", "--pages", "256"]) == 0
    text = capsys.readouterr().out
    for kernel in ("2.6.17", "2.6.17-mm", "2.6.18"):
        line = next(line for line in text.splitlines() if line.startswith(f"{kernel}, "))
        assert ("not built" in line) == (kernel not in pm.KERNELS)
    for words in ("fitted", "600-900 alone", "250 in all", "16 KB", "4 KB", "Zen 3", "Xeon"):
        assert words in text
    assert all(len(line) < 190 for line in text.splitlines())


def test_the_command_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rates", "--fit"]) == 0
    assert "tree_lines_total" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--pages", "0"], ["--output", "no/such/x.png"]])
def test_the_command_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rates", *arguments]) == 2
    assert arguments[1].split("/")[0] in capsys.readouterr().err


def test_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "rates.png"
    assert main(["rates", "--pages", "256", "--output", str(path)]) == 0
    assert path.stat().st_size > 10_000
    assert f"Picture: {path}" in capsys.readouterr().out


def test_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(**_: Any) -> None:
        raise plot.MissingError("pip install 'pagemig[plot]'")

    monkeypatch.setattr(plot, "_figure", missing)
    assert main(["rates", "--pages", "256", "--output", str(tmp_path / "x.png")]) == 0
    assert "No picture: pip install" in capsys.readouterr().out
