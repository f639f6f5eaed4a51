"""The profile 2.6.18 against a recorded 2.6.18, except for what its README calls unsound.

``pagemig/scenario/binding.py`` says what must be reproduced.  The first half of this file checks
those rules against the recordings, the second half checks the model.
"""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import pagemig as pm
from pagemig.commands.main import main
from pagemig.scenario.binding import APART, binding
from pagemig.scenario.conform import compare, describe
from pagemig.scenario.files import load
from pagemig.scenario.language import squeezed
from pagemig.scenario.run import ScenarioRun, run

CORPUS = Path(__file__).parents[1] / "corpus" / "linux-2.6.18"
KERNEL = "2.6.18"
FILES = {"k18": 61, "hand": 59, "random": 146, "swap": 4, "crash": 10, "race": 3}

#: Scenarios that do not agree, and where they part; docs/fidelity.md has the causes.
DIFFERS = {"hand-120-race-1": "5/rc"}

Json = dict[str, Any]


@cache
def records(name: str) -> list[Json]:
    return load(CORPUS / f"{name}.jsonl.gz")


def record(name: str, scenario: str) -> Json:
    [found] = [r for r in records(name) if r["id"] == scenario]
    return copy.deepcopy(found)


def test_the_corpus_is_complete() -> None:
    assert {name: len(records(name)) for name in FILES} == FILES


@pytest.mark.parametrize(
    "scenario", [pytest.param(r, id=r["id"]) for name in FILES for r in records(name)]
)
def test_agrees_with_the_recorded_kernel(scenario: Json) -> None:
    agreement = compare(scenario, kernel=KERNEL, check=True)
    if scenario["id"] in DIFFERS:
        assert agreement.differing[0].path == DIFFERS[scenario["id"]]
    elif not agreement.agrees:
        pytest.fail(describe(agreement), pytrace=False)


# ---- what binds ---------------------------------------------------------------------------------


def parts(name: str, scenario: str, operation: int, field: str, value: Any) -> bool:
    """Whether a record in which one field of a mapping or result is another does not agree."""
    changed = record(name, scenario)
    result = changed["results"][operation]
    if field in result:
        result[field] = value
    else:
        [vma, *_] = next(iter(result["state"].values()))["vmas"]
        assert field in vma
        vma[field] = value
    return not compare(changed, kernel=KERNEL).agrees


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pte", "7770"),
        ("policy", "default"),
        ("node", "3332"),
        ("query", "3332"),
        ("bits", "3331"),
        ("mapcount", "1112"),
        ("kind", "1110"),
        ("stat", {"anon": 4, "dirty": 4, "N2": 4}),
        ("val", [1, 2, 3, 4]),
        ("rc", 1),
    ],
)
def test_every_field_binds(field: str, value: Any) -> None:
    assert parts("k18", "cow-01", 6, field, value)


@pytest.mark.parametrize("field", APART)
def test_three_fields_are_reported_apart(field: str) -> None:
    assert not parts("k18", "cow-01", 6, field, "5555")
    agreement = compare(record("k18", "cow-01"), kernel=KERNEL)
    # 4 pages after each of 7 operations, the first having no page yet.
    assert agreement.apart[field, True] + agreement.apart[field, False] == 4 * 7
    assert agreement.apart["count", True] == 4 * 7


def test_faults_of_touch_and_pages_of_swap_bind() -> None:
    assert parts("k18", "cow-01", 1, "minflt", 3)
    assert parts("swap", "swap-01", 6, "majflt", 3)
    assert parts("swap", "swap-01", 6, "swap", [16, 16])


def test_what_is_unsound_does_not_bind() -> None:
    profile = pm.KERNELS[KERNEL]
    query = {"op": "move_pages", "p": 0, "pid": "self", "nodes": None}
    result = {"rc": 0, "minflt": 1, "status": [1, 2]}

    def left(op: Json) -> Json:
        return binding(profile, [op], [result], [result])[0]

    assert left({**query, "pages": [1, 2]}) == {"rc": 0}
    assert left({**query, "pages": [{"range": [0, 2]}]}) == {"rc": 0}
    assert left({**query, "pages": [1]}) == {"rc": 0, "status": [1, 2]}
    assert left({**query, "pages": [1, 2], "nodes": 1}) == {"rc": 0, "status": [1, 2]}
    assert left({"op": "touch", "p": 0}) == result
    [whole] = binding(pm.KERNELS["6.1"], [query], [result], [result])
    assert whole == result


def test_what_goes_on_for_a_time_binds_by_invariants() -> None:
    torn = record("race", "torn-1")
    assert compare(torn, kernel=KERNEL).agrees
    for result in torn["results"][5:]:
        for state in result["state"].values():
            state["vmas"][0]["node"] = "00000000"
    torn["results"][5]["counts"] = [1, 2, 3]
    assert compare(torn, kernel=KERNEL).agrees
    torn["results"][5]["state"]["1"]["vmas"][0]["n"] = 7
    assert not compare(torn, kernel=KERNEL).agrees
    left = record("race", "trunc-tmpfs-0")
    left["results"][3]["rc"] = 1  # a page that truncation left
    assert not compare(left, kernel=KERNEL).agrees


# ---- outcomes -----------------------------------------------------------------------------------


def test_oops_and_hang_are_outcomes() -> None:
    outcomes = {}
    for scenario in records("crash"):
        runner = ScenarioRun(scenario, kernel=KERNEL)
        assert len(list(runner)) == len(scenario["ops"])
        outcomes[scenario["id"]] = runner.outcome
    assert outcomes == {r["id"]: r["outcome"] for r in records("crash")}
    assert set(outcomes.values()) == {"oops", "hang"}


def test_another_outcome_is_a_difference() -> None:
    hung = record("crash", "hand-083-mbind-shmem")
    hung["outcome"] = "oops"
    [difference, *_] = compare(hung, kernel=KERNEL).differing
    assert difference.path.endswith("/outcome")
    assert (difference.recorded, difference.ours) == ("oops", "hang")


# ---- swap ---------------------------------------------------------------------------------------


def test_what_is_written_out_comes_from_the_record() -> None:
    given = squeezed(record("swap", "swap-07"))
    assert given == {4: (0, [(0, page) for page in range(16)])}  # the locked ones too have a slot
    assert squeezed(record("swap", "swap-03"))[3] == (-1, [])
    assert squeezed(record("k18", "cow-01")) == {}
    with pytest.raises(ValueError, match="taken from a recording"):
        run({"swap": True, "ops": [{"op": "squeeze", "p": 0, "node": 3, "mb": 1}]}, kernel=KERNEL)


# ---- ia64 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "rc", "moved"), [(KERNEL, -1, 4), (f"{KERNEL}-ia64", 0, 0)])
def test_a_bit_test_that_answers_minus_one(kernel: str, rc: int, moved: int) -> None:
    """Pages on a node of the mask are misplaced on x86-64 all the same (docs/fidelity.md)."""
    bind = {"op": "mbind", "p": 0, "at": 0, "n": 4, "mode": "bind", "nodes": [0]}
    results = run(
        {
            "ops": [
                {"op": "mmap", "p": 0, "at": 0, "n": 4, "kind": "anon"},
                {"op": "touch", "p": 0, "at": 0, "n": 4, "write": True, "tok": 1},
                {**bind, "flags": ["strict"]},
                {**bind, "flags": ["move"]},
            ]
        },
        kernel=kernel,
    )
    assert results[2]["rc"] == rc
    assert results[3]["migrated"] == moved


# ---- the command --------------------------------------------------------------------------------


def test_conform_reports_what_does_not_bind_apart(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(CORPUS / "swap.jsonl.gz")
    assert main(["conform", "--kernel", KERNEL, path]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.startswith(APART)] == list(APART)
    assert main(["conform", "--kernel", KERNEL, "--json", path]) == 0
    apart = json.loads(capsys.readouterr().out)["apart"]
    assert apart.keys() == {*APART}
    assert apart["count"]["agree"] > 0.97 * apart["count"]["pages"]
