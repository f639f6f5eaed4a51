"""The gallery: its page says what its rows say, and its rows are what a run comes to."""

import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pagemig.studies.sweep import run_task
from pagemig.trace import find, load

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "answer.md"


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "docs/gallery/gallery.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def value(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False, "": None}.get(text, text)


@pytest.fixture(scope="module")
def rows():
    with (ROOT / "docs" / "gallery" / "rows.csv").open() as file:
        return [{key: value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def test_every_point_is_there(gallery, rows):
    points = len(gallery.PROGRAMS) * 2 * len(gallery.SHARES) * len(gallery.EPOCHS)
    assert len(rows) == points * (1 + len(gallery.POLICIES)) * len(gallery.OVERLAPS)
    assert {row["trace"] for row in rows} == set(gallery.PROGRAMS)


def test_tables_are_those_of_the_rows(gallery, rows):
    text = PAGE.read_text()
    for name, table in {
        "programs": gallery.programs(),
        "gains cxl": gallery.gains(rows, "cxl"),
        "gains xeon": gallery.gains(rows, "xeon"),
        "counts": gallery.counts(rows),
        "best": gallery.best(rows),
    }.items():
        assert gallery.filled(text, name, table) == text, name


def test_the_short_answer_counts_what_is_in_the_rows(gallery, rows):
    text = " ".join(PAGE.read_text().split())
    said = re.search(
        r"Of (\d+) points on DRAM and CXL a policy helped at (\d+) and hurt at (\d+); of (\d+) on "
        r"two sockets it helped at (\d+) and hurt at (\d+)",
        text,
    )
    late = re.search(r"then (\d+) of \d+ points on CXL and (\d+) on two sockets", text)
    assert said and late
    found, left = [], []
    for machine in ("cxl", "xeon"):
        own = [r for r in gallery.chosen(rows, machine=machine) if r["policy"] != gallery.BASE]
        gain = [row["gain"] for row in own if row["overlap"] == 1]
        found += [len(gain), sum(g > 0.01 for g in gain), sum(g < -0.01 for g in gain)]
        helped = [row for row in own if row["overlap"] == 4 and row["gain"] > 0.01]
        assert {row["trace"] for row in helped} == {"solve"}
        left.append(len(helped))
    assert [int(number) for number in said.groups()] == found
    assert [int(number) for number in late.groups()] == left


def test_no_policy_is_below_what_was_possible(gallery, rows):
    for row in gallery.chosen(rows, overlap=1.0):
        assert row["bound_ns"] <= row["total_ns"]


def test_a_row_is_what_a_run_comes_to(gallery, rows):
    task = next(
        task
        for task in gallery.grid(["xeon"]).tasks()
        if (task["trace"], task["fast_share"], task["epochs"])
        == (gallery.trace_of("redis"), 0.25, 50)
    )
    made = run_task({**task, "bounded": False})
    for row in made:
        [kept] = gallery.chosen(
            rows,
            trace="redis",
            machine="xeon",
            fast_share=0.25,
            epochs=50,
            policy=row["policy"],
            overlap=row["overlap"],
        )
        assert row["total_ns"] == pytest.approx(kept["total_ns"], rel=1e-9)
        assert row["moved"] == kept["moved"]


def test_traces_are_small_and_say_where_they_are_from(gallery):
    sizes = []
    for name in gallery.PROGRAMS:
        path = find(gallery.trace_of(name))
        header = load(path).header
        assert header.program
        assert header.cache
        if os.fspath(path).startswith("docs"):
            sizes.append(path.stat().st_size)
    assert max(sizes) < 300_000
    assert sum(sizes) < 1_500_000


@pytest.mark.parametrize(
    ("words", "python", "said"),
    [
        (["bogus"], sys.executable, "no program 'bogus'; there are walk cc1"),
        (["walk"], "no-such-python", "there is no Python 'no-such-python'"),
        (["walk"], sys.executable, "walk needs valgrind, which is not installed"),
    ],
)
def test_the_recipe_says_what_it_needs(words, python, said, tmp_path):
    """A folder with the little that the script itself needs stands in for a bare machine."""
    for tool in ("dirname", "sh"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    recipe = ROOT / "docs" / "gallery" / "record.sh"
    done = subprocess.run(
        [tmp_path / "sh", recipe, *words],
        env={"PATH": str(tmp_path), "PYTHON": python},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.glob("*.pmt"))
