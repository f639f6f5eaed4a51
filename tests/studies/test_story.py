"""The story: what a program meets under each kernel, against the reference on the kernels of 2006.

Expected relations are those of the reference's sections (named at each test), for any size of the
regions; none is a figure that was printed once.
"""

import dataclasses
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import pagemig as pm
from pagemig.commands import main as cli
from pagemig.studies import story
from pagemig.studies.story import ACTS, FIGURES, REGIONS, Story

#: The note's two kernels, what was merged, what the note wanted, and today.
LINUS, ANDREW, MERGED, WANTED = "2.6.17", "2.6.17-mm", "2.6.18-ia64", "pmig"
TODAY = ("6.1", "6.12", "6.18")
ENTRIES = (ANDREW, MERGED, WANTED, *TODAY)
FOUR_LISTS = (LINUS, ANDREW)

SIZES = (7, 16, 30)
each_size = pytest.mark.parametrize("n", SIZES)


@cache
def told(kernel: str, n: int) -> Story:
    return story.run(kernel, pages=n)


def figures(name: str, n: int) -> dict[str, Any]:
    return {kernel: told(kernel, n)[name] for kernel in story.TOLD_OF}


def by(of_2_6_17: Any, others: Any) -> dict[str, Any]:
    """What distinguishes swap entries from migration entries."""
    return {kernel: of_2_6_17 if kernel == LINUS else others for kernel in story.TOLD_OF}


# ---- moving -----------------------------------------------------------------------------------


@each_size
def test_a_slot_is_taken_for_each_anonymous_page_that_moves(n: int) -> None:
    """Section 3.3, step 5; none in section 5, "PTE while moving"."""
    assert figures("slots", n) == by(2 * n, 0)


@each_size
def test_locked_pages_stay_until_the_policy_layer_takes_them(n: int) -> None:
    """Sections 6.1 and 7.6: plain moves pass over VM_LOCKED to 2.6.20, -EPERM ends with 2.6.17."""
    moves = {WANTED, *TODAY}
    assert figures("moved", n) == {k: (5 if k in moves else 4) * n for k in story.TOLD_OF}
    assert figures("locked_moved", n) == {k: n if k in moves else 0 for k in story.TOLD_OF}
    strict = dict.fromkeys((MERGED, *moves), n) | dict.fromkeys(FOUR_LISTS, 0)
    assert figures("locked_strict", n) == {kernel: strict[kernel] for kernel in story.TOLD_OF}
    assert figures("locked_answer", n) == {
        kernel: "EIO" if kernel in FOUR_LISTS else "ok" for kernel in story.TOLD_OF
    }


@each_size
def test_entries_of_files_are_dropped_and_others_come_back(n: int) -> None:
    """Sections 3.9 and 4.8: one entry a page, two where a child maps it too."""
    for kernel in story.TOLD_OF:
        one = told(kernel, n)
        locked = one["locked_moved"]
        assert one["entries_out"] == (1 + 2 + 1 + 1) * n + locked
        dropped = one["entries_out"] - one["entries_back"]
        assert dropped == (2 * n if kernel == LINUS else 0)


@each_size
def test_flushes(n: int) -> None:
    """Section 3.7, step 2: clear and flush, entry by entry; one flush a batch from 6.3 on."""
    one_each = {kernel: told(kernel, n)["entries_out"] for kernel in story.TOLD_OF}
    assert figures("flushes", n) == one_each | {"6.12": 1, "6.18": 1}


@each_size
def test_resident_set(n: int) -> None:
    """Section 5: drops and returns, files excepted; constant with migration entries."""
    assert figures("rss_before", n) == by(5 * n, 5 * n)
    assert figures("rss_after", n) == by(3 * n, 5 * n)
    assert told(LINUS, n)["rss_lowest"] < 3 * n
    assert {told(kernel, n)["rss_lowest"] for kernel in ENTRIES} == {5 * n}


@each_size
def test_without_swap_nothing_moves_silently(n: int) -> None:
    """Section 10, "migrate_to_node ignores check_range errors"."""
    assert figures("without_swap", n) == figures("moved", n) | {LINUS: 0}


# ---- locks ------------------------------------------------------------------------------------


@each_size
def test_locks_of_swap(n: int) -> None:
    """Section 3.11: tree_lock 4, swap_lock 2m + 2 for m mappings."""
    assert figures("tree_anonymous", n) == by(4, 0)
    assert figures("swap_anonymous", n) == by(2 * 1 + 2, 0)
    assert figures("swap_forked", n) == by(2 * 2 + 2, 0)


@each_size
def test_locks_of_a_file(n: int) -> None:
    """Section 3.4: slot switch and, for a dirty page, the tag on the new one; today in one go."""
    assert figures("tree_file", n) == {k: 1 if k in TODAY else 2 for k in story.TOLD_OF}


@each_size
def test_locks_by_page_add_up_to_what_the_machine_counted(n: int) -> None:
    for kernel in story.TOLD_OF:
        one = told(kernel, n)
        swap = one["swap_anonymous"] + one["swap_forked"]
        anonymous = swap + 2 * one["tree_anonymous"]
        assert one["all_locks"] == n * (anonymous + 2 * one["tree_file"]), kernel


# ---- moving again, touching -------------------------------------------------------------------


@each_size
def test_what_is_not_touched_is_lost_to_a_second_migration(n: int) -> None:
    """Section 5, "repeat migration finds untouched file pages"; shared memory is a file, too."""
    assert figures("lost", n) == by(2 * n, 0)
    for kernel in story.TOLD_OF:
        one = told(kernel, n)
        assert one["moved"] - one["moved_again"] == one["lost"]


@each_size
def test_faults(n: int) -> None:
    """Section 3.9, minor faults find file pages; 3.8, the write bit is lost, a copy avoided."""
    assert figures("read_faults", n) == by(2 * n, 0)
    assert figures("useless_cow", n) == by(n, 0)
    assert figures("cow", n) == by(n, n)


@each_size
def test_a_pin_holds_a_page_under_every_kernel(n: int) -> None:
    """Section 0, facts 5 and 6."""
    assert set(figures("pinned_moved", n).values()) == {0}


@each_size
def test_declared_pages_stay(n: int) -> None:
    """Section 7.6: VM_DONTMIGRATE was never introduced."""
    assert figures("declared_moved", n) == {k: 0 if k == WANTED else None for k in story.TOLD_OF}


@each_size
def test_hooks_of_mappings(n: int) -> None:
    """Section 7.5, from 2.6.18 on and long gone in 6.1; section 10, never for the last mapping."""
    called = {k: n if k in {MERGED, WANTED} else 0 for k in story.TOLD_OF}
    assert figures("driver_moved", n) == called
    assert figures("driver_moved_last", n) == called | {MERGED: 0}


# ---- interleaving -----------------------------------------------------------------------------


@each_size
def test_interleaving(n: int) -> None:
    """Section 6.5: reversed to 2.6.17, exact for pages outside the set, for all under pmig."""
    ideal, half = [i % 3 for i in range(n)], n // 2
    before = [0] * half + [3] * (n - half)
    expected = {kernel: [0] * half + ideal[half:] for kernel in story.TOLD_OF}
    expected[WANTED] = ideal
    for kernel in FOUR_LISTS:
        # Targets are allocated for the first places of the mapping, and used from the last on.
        expected[kernel] = [0] * half + ideal[: n - half][::-1]
    for kernel in story.TOLD_OF:
        one = told(kernel, n)
        assert one.placements["interleaved"]["interleaved"].tolist() == expected[kernel]
        assert one["ideal_before"] == equal(before, ideal)
        assert one["ideal_after"] == equal(expected[kernel], ideal)
        outside = n - (equal(before, ideal) if kernel == WANTED else half)
        assert one["moved_for_it"] == outside


def equal(one: list[int], other: list[int]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


# ---- disposal ---------------------------------------------------------------------------------


@each_size
def test_what_a_caller_can_still_look_at(n: int) -> None:
    """Section 0, fact 11: four lists, or nothing; 7.2: what is lost is the look at single pages."""
    lists = {kernel: kernel in FOUR_LISTS for kernel in story.TOLD_OF}
    for name, expected in (("old_frames", n - 1), ("old_content", n - 1), ("failed", n)):
        assert figures(name, n) == {k: expected if has else 0 for k, has in lists.items()}, name
    assert set(figures("retry", n).values()) == {1}


@each_size
def test_what_a_program_is_told(n: int) -> None:
    """Section 7.4: no call before 2.6.18, then every status; today none of a run with a failure."""
    assert figures("told", n) == {
        LINUS: None,
        ANDREW: None,
        MERGED: 2 * n,
        WANTED: 2 * n,
        "6.1": 0,
        "6.12": 0,
        "6.18": 0,
    }


# ---- where figures come from ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "switches", "name", "value"),
    [
        (MERGED, {"locked_skipped": 0}, "locked_moved", 16),
        (LINUS, {"engine": 0}, "lost", 0),
        (LINUS, {"engine": 0, "locked_fails": 0}, "locked_answer", "ok"),
        (MERGED, {"arrays": 1}, "ideal_after", 16),
        ("6.1", {"fault_around": 1}, "read_faults", 0),
        (WANTED, {"calls": pm.KERNELS[LINUS].calls}, "told", None),
    ],
)
def test_figures_follow_the_profile(
    kernel: str, switches: dict[str, Any], name: str, value: Any
) -> None:
    """Another kernel in all but name: nothing is looked up by a kernel's name."""
    profile = dataclasses.replace(pm.KERNELS[kernel], **switches)
    assert story.run(profile)[name] == value


def test_every_figure_is_taken_and_explained() -> None:
    names = [figure.name for figure in FIGURES]
    assert len(set(names)) == len(names)
    assert {figure.act for figure in FIGURES} == set(ACTS)
    for one in story.compare(pages=2):
        assert set(one.figures) == set(names)
        assert all(set(REGIONS) <= set(moment) for moment in one.placements.values())
    assert all(figure.title and figure.why for figure in FIGURES)


# ---- the command ------------------------------------------------------------------------------


def test_command_shows_every_figure_of_every_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["story"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    lines = shown.splitlines()
    for figure in FIGURES:
        [row] = [
            line
            for line, after in pairwise(lines)
            if line.startswith(figure.title) and after.strip() == figure.why
        ]
        cells = row[len(figure.title) :].split()
        values = [told(kernel, 16)[figure.name] for kernel in story.TOLD_OF]
        words = [
            f"{v:.2f}" if isinstance(v, float) else "-" if v is None else str(v) for v in values
        ]
        assert cells == words, figure.name


def test_acts_and_kernels_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["story", "touch", "again", "--kernel", "2.6.17", "--kernel", "6.1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(ACTS["again"])
    assert ACTS["touch"] in shown
    assert ACTS["move"] not in shown
    assert shown.splitlines()[1].split() == ["2.6.17", "6.1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["again", "nonsense"], ["act 'nonsense'", "disposal"]),
        (["--kernel", "2.4"], ["kernel '2.4'", "2.6.17"]),
        (["--pages", "1"], ["pages must be from 2 to 128, not 1"]),
        (["--pages", "129"], ["not 129"]),
        (["--output", "story.gif"], ["story.gif"]),
    ],
)
def test_bad_arguments(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["story", *arguments]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert all(word in said.err for word in words), said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("pages", ["16", 2.5, None])
def test_pages_must_be_a_number(pages: Any) -> None:
    with pytest.raises(TypeError, match="pages"):
        story.run("6.1", pages=pages)


def test_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "story.png"
    assert cli.main(["story", "move", "--output", str(target)]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    assert str(target) in capsys.readouterr().out


def test_without_matplotlib_there_is_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    target = tmp_path / "story.png"
    assert cli.main(["story", "move", "--output", str(target)]) == 0
    assert "pagemig[plot]" in capsys.readouterr().out
    assert not target.exists()
