"""The scenario language: what it refuses, what it shows, and how results are compared."""

import copy
import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pagemig import Machine, Node
from pagemig import files as outside
from pagemig.report import table
from pagemig.scenario import files as scenario_files
from pagemig.scenario.conform import Difference, compare, describe, differences, expand
from pagemig.scenario.files import load
from pagemig.scenario.language import WINDOW, inos, validate
from pagemig.scenario.run import ScenarioRun, UnsupportedScenario, run
from support import CORPUS

Op = dict[str, Any]


def mmap(at: int, n: int, kind: str = "anon", p: int = 0, **more: Any) -> Op:
    return {"op": "mmap", "p": p, "at": at, "n": n, "kind": kind, **more}


def write(at: int, n: int, tok: int = 1, p: int = 0, **more: Any) -> Op:
    return {"op": "touch", "p": p, "at": at, "n": n, "write": True, "tok": tok, **more}


def read(at: int, n: int, p: int = 0, **more: Any) -> Op:
    return {"op": "touch", "p": p, "at": at, "n": n, **more}


def move(pages: Any, nodes: Any, p: int = 0, **more: Any) -> Op:
    return {"op": "move_pages", "p": p, "pid": "self", "pages": pages, "nodes": nodes, **more}


def vmas(result: dict[str, Any], p: int = 0) -> list[dict[str, Any]]:
    return result["state"][str(p)]["vmas"]


def tiny(kernel: str) -> Machine:
    """Two nodes of 64 pages."""
    return Machine([Node(64 << 12, cpus=1), Node(64 << 12, cpus=1)], kernel=kernel, page_bytes=8)


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ({"op": "mmpa", "p": 0}, ["op='mmpa'"]),
        ({"p": 0}, ["op=None"]),
        ({"op": "nop"}, ["(nop)", "p is missing"]),
        (["nop", 0], ["['nop', 0]"]),
        ({"op": "mmap", "p": 0, "at": 0, "kind": "anon"}, ["n is missing"]),
        ({"op": "mmap", "p": 0, "at": 0, "n": 1, "kind": "file_private"}, ["file is missing"]),
        (mmap(0, 1, "file_shared", file=2), ["file=2", "2 files"]),
        (mmap(0, 1, "anno"), ["kind='anno'"]),
        (mmap(0, 1, prot="rq"), ["prot='rq'"]),
        (mmap(-1, 1), ["at=-1"]),
        (mmap(0, 1.5), ["n=1.5"]),
        (mmap(0, 1, populate=1), ["populate=1"]),
        (mmap(0, 1, colour=3), ["colour=3", "not a field"]),
        ({"op": "touch", "p": 0, "at": 0, "n": 1, "write": True}, ["tok is missing"]),
        ({"op": "madvise", "p": 0, "at": 0, "n": 1, "advice": "dontned"}, ["advice='dontned'"]),
        ({"op": "mbind", "p": 0, "at": 0, "n": 1, "mode": "bnd"}, ["mode='bnd'"]),
        ({"op": "set_mempolicy", "p": 0, "mode": 2, "nodes": [-1]}, ["nodes=[-1]"]),
        (move([[0, 1, 2]], 0), ["pages=[[0, 1, 2]]"]),
        (move([{"raw": "zero"}], 0), ["pages="]),
        (move([0], 0, pid="me"), ["pid='me'"]),
        (move([0], 0, flags=["mvoe"]), ["flags=['mvoe']"]),
        (write(0, 1, cpu=2), ["(touch)", "cpu", "2"]),
        (move([0], 2**40), ["nodes=1099511627776"]),
        (move([2**63], 0), ["pages=[9223372036854775808]"]),
        (move([[0, 4096]], 0), ["pages=[[0, 4096]]"]),
        (move([{"range": [0, 2**40]}], 0), ["pages=[{'range': [0, 1099511627776]}]"]),
        (move([{"range": 3}], 0), ["pages=[{'range': 3}]"]),
        (write(0, 2**31), ["(touch)", "n=2147483648"]),
        ({"op": "fread", "p": 0, "file": 0, "off": 0, "n": 2**40}, ["n=1099511627776"]),
    ],
)
def test_error_names_operation_field_and_value(op: Any, words: list[str]) -> None:
    files = [{"kind": "tmpfs", "pages": 1}] * 2
    with pytest.raises(ValueError, match="operation 1") as caught:
        run({"files": files, "ops": [{"op": "nop", "p": 0}, op]})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("scenario", "word"),
    [
        ({}, "ops"),
        ({"ops": {}}, "ops"),
        ({"ops": [], "files": [{"kind": "xfs", "pages": 1}]}, "kind='xfs'"),
        ({"ops": [], "files": [{"kind": "tmpfs"}]}, "pages is missing"),
        ({"ops": [], "files": [{"kind": "tmpfs", "pages": 1, "node": 9, "fill": 1}]}, "file 0"),
    ],
)
def test_error_names_what_else_is_wrong(scenario: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=r"file 0|ops") as caught:
        run(scenario)
    assert word in str(caught.value)


def test_nothing_runs_before_everything_is_valid() -> None:
    def never(kernel: str) -> Machine:
        raise AssertionError("a machine was made")

    with pytest.raises(ValueError, match="operation 1"):
        run({"ops": [mmap(0, 1), {"op": "?", "p": 0}]}, machine=never)


def test_huge_pages_are_refused_by_property() -> None:
    with pytest.raises(UnsupportedScenario, match="thp='always'"):
        run({"ops": [], "thp": "always"})
    assert run({"ops": [{"op": "nop", "p": 0}], "thp": "never"})[0]["rc"] == 0


def test_validate_does_not_look_at_results() -> None:
    validate({"ops": [mmap(0, 1)], "results": "anything", "id": 3, "note": None})


# ---- inode numbers ----------------------------------------------------------------------------

SHARED = {
    "files": [{"kind": "tmpfs", "pages": 4}, {"kind": "tmpfs", "pages": 4}],
    "ops": [
        {"op": "set_mempolicy", "p": 0, "mode": "interleave", "nodes": [0, 1, 2, 3]},
        mmap(0, 4, "anon_shared"),
        mmap(8, 4, "file_shared", file=1),
        mmap(16, 0, "anon_shared"),
        mmap(24, 4, "anon_shared"),
        *(write(at, 4) for at in (0, 8, 24)),
    ],
}


def test_inos_of_a_run_are_those_it_was_given() -> None:
    results = run(SHARED, inos=[0, 102, 9, 0, 7])
    assert inos({**SHARED, "results": results}) == [0, 102, 9, 0, 7]
    # On first touch a page of an interleaved object goes to node (ino + page) mod 4.
    assert [vma["node"] for vma in vmas(results[-1])] == ["1230", "2301", "3012"]


def test_without_inos_the_model_numbers_them() -> None:
    given = inos({**SHARED, "results": run(SHARED)})
    assert given[0] == 0  # never mapped, so never shown
    assert given[3] == 0  # not mapped: length 0
    assert len({given[1], given[2], given[4]}) == 3


def test_wrong_number_of_inos_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 files and 3 shared objects"):
        run(SHARED, inos=[1, 2, 3])


# ---- results and states -----------------------------------------------------------------------


def test_state_in_the_recorded_format() -> None:
    ops = [mmap(2, 4), write(3, 2, tok=5), move([3], 2)]
    mapped, written, moved = run({"ops": ops})
    blank = {"at": 2, "n": 4, "prot": "rw-p", "policy": "default", "stat": {}}
    blank |= {"node": "....", "query": "FFFF", "bits": "0000", "mapcount": "....", "kind": "...."}
    blank |= {"val": [None] * 4}
    assert mapped == {"rc": 0, "state": {"0": {"locked_kb": 0, "vmas": [blank]}}}
    assert written["minflt"] == 2
    assert vmas(written)[0] == blank | {
        "stat": {"anon": 2, "dirty": 2, "N0": 2},
        "node": ".00.",
        "query": "F00F",
        "bits": "0330",
        "mapcount": ".11.",
        "kind": ".11.",
        "val": [None, 5 * 4096, 5 * 4096 + 1, None],
    }
    assert {name: moved[name] for name in moved if name != "state"} == {
        "rc": 0,
        "status": [2],
        "migrated": 1,
        "migrate_failed": 0,
    }


def test_only_what_changed_is_listed() -> None:
    ops = [
        mmap(0, 2),
        {"op": "fork", "p": 0, "child": 1},
        {"op": "nop", "p": 0},
        mmap(4, 1, p=1),
        {"op": "exit", "p": 1},
        {"op": "nop", "p": 1},
    ]
    results = run({"ops": ops})
    listed = [sorted(result.get("state", {})) for result in results]
    assert listed == [["0"], ["1"], [], ["1"], ["1"], []]
    assert results[4]["state"] == {"1": None}
    assert results[5] == {"skipped": True}


def test_anchor_is_not_reported() -> None:
    assert vmas(run({"ops": [mmap(0, 1)]})[0])[0]["at"] == 0
    # A read-only neighbour merges with it in the model as in the kernel; its page stays out.
    near = [mmap(509, 2, prot="r"), mmap(512, 1, prot="r")]
    assert [(vma["at"], vma["n"]) for vma in vmas(run({"ops": near})[-1])] == [(509, 2), (512, 1)]
    free = run({"ops": [*near, mmap(511, 1, prot="r")], "no_anchor": True})
    assert [(vma["at"], vma["n"]) for vma in vmas(free[-1])] == [(509, 4)]


def test_brief_gives_run_lengths() -> None:
    ops = [mmap(0, 8), write(0, 4), read(0, 4), move([{"range": [0, 6]}], None), write(2, 1)]
    results = run({"ops": ops, "brief": True, "no_anchor": True})
    assert vmas(results[0])[0]["val"] is None
    assert vmas(results[1])[0]["node"] == [["0", 4], [".", 4]]
    assert vmas(results[1])[0]["val"] is True
    assert "read" not in results[2]
    assert results[3]["status"] == [[0, 4], ["EFAULT", 2]]
    assert vmas(results[4])[0]["val"] is False


def test_who_reads_a_page_being_rewritten_sees_it_torn() -> None:
    ops = [
        mmap(0, 2, "anon_shared"),
        write(0, 2),
        mmap(4, 2),
        write(4, 2, tok=2),
        {"op": "fork", "p": 0, "child": 1},
        {"op": "burst", "p": 1, "at": 0, "n": 2, "ms": 1, "background": True},
        move([0, 1], 1, flags=["move_all"]),
        {"op": "wait", "p": 0},
        {"op": "burst", "p": 0, "at": 4, "n": 2, "ms": 1},
    ]
    results = run({"ops": ops})
    assert results[5]["background"] is True
    assert vmas(results[6])[0]["val"] == ["torn", "torn"]
    assert vmas(results[6])[1]["val"] == [8192, 8193]
    assert "1" not in results[6]["state"]
    assert results[7]["torn"] == {"1": 0}
    first, second = vmas(results[7])[0]["val"]
    assert (second - first, first > 4096) == (1, True)
    assert vmas(results[7], 1)[0]["node"] == "11"
    assert results[8]["rc"] == 0


def test_a_kill_ends_the_scenario() -> None:
    ops = [
        {"op": "set_mempolicy", "p": 0, "mode": "bind", "nodes": [1]},
        mmap(0, 100),
        write(0, 100),
        {"op": "nop", "p": 0},
    ]
    runner = ScenarioRun({"ops": ops}, machine=tiny)
    results = list(runner)
    assert results[2:] == [{"died": True}]
    assert runner.outcome == "killed"


def test_a_fault_that_cannot_be_served_stops_a_touch() -> None:
    results = run({"ops": [mmap(0, 2), read(0, 4), write(5, 1)]})
    stopped = {"rc": 0, "minflt": 2, "signal": "SIGSEGV", "signal_index": 2, "read": [0, 0]}
    assert {name: results[1][name] for name in stopped} == stopped
    assert results[2]["signal_index"] == 0
    assert "read" not in results[2]


def test_pids() -> None:
    ops = [
        {"op": "fork", "p": 0, "child": 1},
        {"op": "exit", "p": 1, "zombie": True},
        {"op": "fork", "p": 0, "child": 2},
        *(move([], [], pid=pid) for pid in (1, 2, 3, "none", "kthread", "init", {"raw": -5})),
    ]
    answers = [result.get("errno") for result in run({"ops": ops})[3:]]
    assert answers == ["EINVAL", None, "ESRCH", "ESRCH", "EINVAL", None, "ESRCH"]


def test_flags_may_be_numbers() -> None:
    span = {"p": 0, "at": 0, "n": 2}
    ops = [
        mmap(0, 2),
        {"op": "mlock", **span, "flags": [1]},
        {"op": "mlock", **span, "flags": ["onfault", 2]},
        {"op": "mlockall", "p": 0, "flags": [8]},
        {"op": "mremap", **span, "new_n": 1, "flags": [16]},
        {"op": "mremap", **span, "new_n": 2, "new_at": 4, "flags": [3]},
    ]
    answers = [result.get("errno", result["rc"]) for result in run({"ops": ops})]
    assert answers == [0, 0, "EINVAL", "EINVAL", "EINVAL", 4]


def test_pages_in_every_form() -> None:
    pages = [0, [1, 100], {"range": [2, 2]}, {"raw": hex(WINDOW)}, {"raw": "0xffff888000001000"}]
    results = run({"ops": [mmap(0, 4), write(0, 4), move(pages, None)]})
    assert results[2]["status"] == [0, 0, 0, 0, 0, "EFAULT"]


def test_running_twice_gives_the_same() -> None:
    assert run(SHARED) == run(SHARED)


def test_nothing_but_inos_of_a_record_reaches_the_model() -> None:
    corpus = CORPUS / "linux-6.1" / "hand.jsonl.gz"
    record = load(corpus)[30]
    bare = {name: record[name] for name in ("files", "ops")}
    assert run({**bare, "id": "x"}, inos=inos(record)) == run(record, inos=inos(record))


# ---- comparing --------------------------------------------------------------------------------


def test_expand_writes_every_state_out() -> None:
    state = {"locked_kb": 0, "vmas": [{"at": 0, "ino": 3}]}
    expanded = expand([{"rc": 0, "state": {"0": state}}, {"rc": 0}, {"state": {"0": None}}])
    without = {"locked_kb": 0, "vmas": [{"at": 0}]}
    assert [result["state"] for result in expanded] == [{"0": without}, {"0": without}, {"0": None}]


def state_of(*vmas: dict[str, Any]) -> dict[str, Any]:
    return {"rc": 0, "state": {"0": {"locked_kb": 0, "vmas": list(vmas)}}}


@pytest.mark.parametrize(
    ("recorded", "ours", "path"),
    [
        ({"rc": 0}, {"rc": 1}, "0/rc"),
        ({"rc": 0, "errno": "EIO"}, {"rc": 0}, "0/errno"),
        ({"rc": 0}, {"rc": 0, "minflt": 2}, "0/minflt"),
        ({"status": [0, 1]}, {"status": [0, 2]}, "0/status"),
        ({"status": [[0, 5], [1, 5]]}, {"status": [[0, 5], [1, 4]]}, "0/status/1"),
        ({"status": [[0, 5]]}, {"status": [[0, 4], [1, 1]]}, "0/status"),
        (state_of({"n": 1}), state_of({"n": 2}), "0/state/0/vmas/0/n"),
        (state_of({"n": 1}), state_of({"n": 1}, {"n": 2}), "0/state/0/vmas"),
        (state_of({"stat": {"N0": 1}}), state_of({"stat": {}}), "0/state/0/vmas/0/stat/N0"),
    ],
)
def test_paths_of_differences(recorded: Any, ours: Any, path: str) -> None:
    (found,) = differences([recorded], [ours])
    assert found.path == path
    assert differences([recorded], [ours], [path]) == []


def test_unstable_paths_are_not_compared() -> None:
    recorded = [state_of({"n": 1, "node": "01", "stat": {"N0": 1, "N1": 1}}), {"rc": 0}]
    ours = [state_of({"n": 1, "node": "12", "stat": {"N1": 1, "N2": 1}}), {"rc": 0}]
    paths = [
        f"{i}/state/0/vmas/0/{name}" for i in (0, 1) for name in ("node", "stat/N0", "stat/N2")
    ]
    assert differences(recorded, ours, paths) == []
    assert [d.operation for d in differences(recorded, ours, paths[:3])] == [1]


STATE = {"vmas": [{"at": 0, "n": 1, "file": 0, "ino": 1}]}


@pytest.mark.parametrize(
    ("results", "why"),
    [
        ({}, "no results"),
        ([7], "result 0"),
        ([{"rc": 0}, {"state": []}], "result 1"),
        ([{"state": {"0": 3}}], "result 0: state 0"),
        ([{"state": {"0": {}}}], "result 0: state 0"),
        ([{"state": {"0": {"vmas": ["x"]}}}], "result 0: state 0"),
        ([{"state": {"0": {"vmas": [{"at": 0}]}}}], "n=None"),
        ([{"state": {"0": {"vmas": [STATE["vmas"][0] | {"file": 1}]}}}], "file=1"),
        ([{"state": {"0": {"vmas": [STATE["vmas"][0] | {"ino": "x"}]}}}], "ino='x'"),
    ],
)
def test_results_that_are_none_are_refused(results: Any, why: str) -> None:
    record = {"ops": [{"op": "nop", "p": 0}], "files": [{"kind": "tmpfs", "pages": 1}]}
    compare({**record, "results": [{"state": {"0": STATE, "1": None}}]})
    with pytest.raises(ValueError, match=why):
        compare({**record, "results": results})


def test_missing_results_are_differences() -> None:
    assert differences([{"rc": 0}], []) == [Difference("0", {"rc": 0, "state": {}}, "(absent)")]


def test_a_failure_of_the_model_is_a_difference() -> None:
    class BrokenMachine(Machine):
        def check(self, full: bool = False) -> None:
            raise AssertionError("rule x: 1 is not 2")

    def broken(kernel: str) -> Machine:
        return BrokenMachine(["1MiB"], kernel=kernel, page_bytes=8)

    scenario = {"id": "a", "note": "b", "ops": [mmap(0, 1), {"op": "nop", "p": 0}]}
    record = {**scenario, "results": run(scenario)}
    agreement = compare(record, machine=broken, check=True)
    assert [difference.operation for difference in agreement.differing] == [0, 1]
    assert agreement.differing[0].ours == "AssertionError: rule x: 1 is not 2"
    assert "rule x: 1 is not 2" in describe(agreement)


def test_description_reads_like_a_bug_report() -> None:
    scenario = {"id": "a", "note": "three pages", "ops": [mmap(0, 3), write(0, 3), mmap(8, 1)]}
    record: dict[str, Any] = {**scenario, "results": copy.deepcopy(run(scenario))}
    record["results"][1]["state"]["0"]["vmas"][0]["node"] = "123"
    text = describe(compare(record))
    assert text.startswith("a three pages\n")
    assert 'at 1/state/0/vmas/0/node\n  recorded  "123"\n  ours      "000"\n' in text
    assert '"val":[4096,4097,4098]' in text
    assert '"at":8' not in text  # what came later is not in it
    (again,) = load_text(text.partition("scenario: ")[2])
    assert again["ops"] == scenario["ops"][:2]


# ---- files ------------------------------------------------------------------------------------


def load_text(text: str) -> list[dict[str, Any]]:
    return [json.loads(text)]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "list.json"])
def test_load(tmp_path: Path, name: str) -> None:
    scenarios: list[dict[str, Any]] = [{"ops": []}, {"ops": [{"op": "nop", "p": 0}]}]
    path = tmp_path / name
    if name == "x.json":
        path.write_text("\n".join(json.dumps(scenario, indent=2) for scenario in scenarios))
    elif name == "list.json":
        path.write_text(json.dumps(scenarios))
    else:
        text = "\n".join(map(json.dumps, scenarios)) + "\n"
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert load(path) == scenarios


def test_load_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(' {"ops": []}\n'))
    assert load("-") == [{"ops": []}]


@pytest.mark.parametrize("text", ['{"ops": []}\n[3]', '{"ops": []}\n{"op": 1}', '{"ops": []}\n{'])
def test_load_names_file_and_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.jsonl: line 2"):
        load(path)


def test_table_aligns_numbers_to_the_right() -> None:
    text = table([("a", 1, 0.5), ("bcd", 1000, 12.25)], ("name", "n", "share"))
    assert text.splitlines() == [
        "name     n  share",
        "----  ----  -----",
        "a        1   0.50",
        "bcd   1000  12.25",
    ]


# ---- hostile files ----------------------------------------------------------------------------


def test_a_file_that_unpacks_to_more_than_any_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenario_files, "_LARGEST", 1 << 20)
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b" " * (1 << 20)) * 64)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.json\.gz: more than 1048576 bytes"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_file_that_the_machine_has_no_memory_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "available", lambda: 100)
    path = tmp_path / "x.json"
    path.write_text('{"ops": []}')
    with pytest.raises(MemoryError, match=r"x\.json: 11 bytes of JSON takes"):
        load(path)


@pytest.mark.parametrize(
    "text",
    [
        r'{"id": "a\u001b[2J", "ops": []}',
        r'{"ops": [{"op": "nop\u009b", "p": 0}]}',
        r'{"ops": [], "x\u0007": 1}',
        r'{"ops": [], "note": "a\rb"}',
        '{"ops": [], "note": "a\x9bb"}',
        r'{"ops": [], "note": "\ud800"}',
    ],
)
def test_text_that_a_terminal_would_obey_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"ops": []}\n' + text)
    with pytest.raises(ValueError, match=r"x\.json: line 2: .* has control characters") as caught:
        load(path)
    assert str(caught.value).isprintable()


def test_text_of_several_lines_and_other_scripts_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    scenario = {"ops": [], "note": "a\n\tb \u00e9 \u4e2d \U0001f600 \\\\b"}
    for text in (json.dumps(scenario), json.dumps(scenario, ensure_ascii=False)):
        path.write_text(text)
        assert load(path) == [scenario]


def test_a_number_of_thousands_of_digits_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"ops": []}\n{"ops": [' + "9" * 10_000 + "]}")
    with pytest.raises(ValueError, match=r"x\.json: line 2: not JSON"):
        load(path)


@pytest.mark.parametrize(
    "scenario",
    [
        {"ops": [{"op": "move_pages", "p": 0, "pid": 0, "pages": [{"range": [0, 1 << 20]}] * 17}]},
        {"files": [{"kind": "tmpfs", "pages": 1 << 25, "fill": 1}], "ops": []},
    ],
    ids=["pages", "fill"],
)
def test_more_pages_than_a_scenario_may_list(scenario: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="16777216"):
        run(scenario)
