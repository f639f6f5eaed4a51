"""The model against recorded kernels: every operation of every scenario, with the whole state.

Values that recordings leave open (``unstable``) are not compared.  For scenarios that fill a node
the last part of this file says what must hold at any timing, and checks the recordings against it.
"""

import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import pagemig as pm
from pagemig.commands.main import main
from pagemig.scenario.conform import compare, describe, expand
from pagemig.scenario.files import load
from pagemig.scenario.run import run
from support import CORPUS

#: Files of each kernel's corpus, and how many records they hold.  All but those of 2 MB pages run.
SIZES = {
    "6.1": {"hand": 121, "random": 800, "full": 7, "mini": 17},
    "6.12": {"hand": 121, "random": 800, "full": 7, "mini": 17, "weighted": 60},
    "6.18": {"hand": 121, "random": 800, "mini": 17, "weighted": 60},
}
HUGE: dict[str, dict[str, int]] = {"6.1": {"thp": 43}, "6.12": {"thp": 43}, "6.18": {}}
KERNELS = tuple(SIZES)
KERNEL = KERNELS[0]


@cache
def records(name: str, kernel: str = KERNEL) -> list[dict[str, Any]]:
    return load(CORPUS / f"linux-{kernel}" / f"{name}.jsonl.gz")


def each(files: dict[str, dict[str, int]]) -> pytest.MarkDecorator:
    found = [(k, record) for k in files for name in files[k] for record in records(name, k)]
    return pytest.mark.parametrize(
        ("kernel", "record"), [pytest.param(k, r, id=f"{k}-{r['id']}") for k, r in found]
    )


def needs_huge_pages(record: dict[str, Any]) -> bool:
    return record.get("thp", "never") != "never"


@each(SIZES)
def test_agrees_with_the_recorded_kernel(kernel: str, record: dict[str, Any]) -> None:
    agreement = compare(record, kernel=kernel, check=True)
    if needs_huge_pages(record):
        assert "huge pages" in agreement.unsupported
    elif not agreement.agrees:
        pytest.fail(describe(agreement), pytrace=False)


@pytest.mark.parametrize("kernel", KERNELS)
def test_corpus_is_complete(kernel: str) -> None:
    sizes = SIZES[kernel] | HUGE[kernel]
    assert {name: len(records(name, kernel)) for name in sizes} == sizes
    held = {path.name for path in (CORPUS / f"linux-{kernel}").glob("*.gz")}
    assert held == {f"{name}.jsonl.gz" for name in sizes}


@each(HUGE)
def test_huge_pages_are_reported_as_unsupported(kernel: str, record: dict[str, Any]) -> None:
    agreement = compare(record, kernel=kernel)
    assert "huge pages" in agreement.unsupported
    assert not agreement.agrees


# ---- the commands -----------------------------------------------------------------------------


def test_conform_counts_everything(capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(CORPUS / f"linux-{KERNEL}" / f"{name}.jsonl.gz") for name in ("full", "thp")]
    assert main(["conform", "--json", *files]) == 1
    summary = json.loads(capsys.readouterr().out)
    operations = sum(len(r["ops"]) for name in ("full", "thp") for r in records(name))
    assert summary.pop("failures") == []
    reasons = summary.pop("unsupported_reasons")
    assert sum(reasons.values()) == 43 and all("huge pages" in reason for reason in reasons)
    assert summary == {
        "scenarios": 50,
        "agree": 7,
        "operations": operations,
        "operations_agree": sum(len(r["ops"]) for r in records("full")),
        "unsupported": 43,
        "apart": {},  # fields that are reported beside the rest: 2.6.18 alone has some
    }


def test_conform_says_what_each_profile_is_held_against(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CORPUS.parents[1])
    assert main(["conform", "--json"]) == 0
    rows = {row["kernel"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(pm.KERNELS)
    assert rows["pmig"]["against"] == "own" and rows["2.6.17"]["against"] == "by reading"
    for kernel, sizes in SIZES.items():
        runnable = [r for name in sizes for r in records(name, kernel) if not needs_huge_pages(r)]
        assert rows[kernel] == {
            "kernel": kernel,
            "against": "recorded",
            "files": len(sizes),
            "scenarios": len(runnable),
            "operations": sum(len(r["ops"]) for r in runnable),
        }
    monkeypatch.chdir(tmp_path)
    assert main(["conform"]) == 0
    out = capsys.readouterr().out
    assert "There are no recordings in" in out and "recorded   " not in out.split("\n\n")[0]


def test_conform_takes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, n in (("b.jsonl", 1), ("a.jsonl", 2)):
        (tmp_path / name).write_text("\n".join(json.dumps(r) for r in records("hand")[:n]))
    (tmp_path / "README.md").write_text("of what it holds")
    assert main(["conform", str(tmp_path)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if str(tmp_path) in line]
    assert [row[:2] for row in rows] == [
        [str(tmp_path / name), n] for name, n in (("a.jsonl", "2"), ("b.jsonl", "1"))
    ]
    assert main(["conform", str(CORPUS)]) == 2
    assert capsys.readouterr().err.startswith(f"pagemig: {CORPUS}: a folder without recordings")


@pytest.mark.parametrize(("name", "what"), [("swap", "it uses swap"), ("k18", "a file on minix")])
def test_a_recording_of_2006_says_which_kernel_it_needs(
    name: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(CORPUS / "linux-2.6.18" / f"{name}.jsonl.gz")
    for command in ("conform", "run"):
        assert main([command, path]) == 2
        said = capsys.readouterr().err
        assert what in said and said.endswith("as --kernel 2.6.18\n")
    assert main(["conform", "--kernel", "2.6.18", path]) == 0


def test_conform_tells_the_first_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = json.loads(json.dumps(records("hand")[1]))
    wrong["results"][3]["read"][2] = 5
    path = tmp_path / "wrong.jsonl"
    path.write_text(json.dumps(wrong))
    assert main(["conform", str(path)]) == 1
    out = capsys.readouterr().out
    assert f"{wrong['id']}  3/read  (touch)" in out
    assert "\n\n1 of 1 does not agree with " in out and "operation " in out
    assert "recorded  [12288,12289,5," in out
    assert "ours      [12288,12289,12290," in out
    assert main(["conform", "-v", str(path)]) == 1
    assert 'scenario: {"ops":[{"op":"mmap"' in capsys.readouterr().out


def test_run_writes_what_conform_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenarios = tmp_path / "scenarios.jsonl"
    some = [{k: v for k, v in r.items() if k != "results"} for r in records("hand")[:5]]
    scenarios.write_text("\n".join(map(json.dumps, some)))
    assert main(["run", str(scenarios)]) == 0
    recorded = tmp_path / "recorded.jsonl"
    recorded.write_text(capsys.readouterr().out)
    assert main(["conform", str(recorded)]) == 0


TABLE_HEAD = ["process", "page", "n", "prot", "policy", "nodes", "mapped"]


def test_run_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--table", str(CORPUS / f"linux-{KERNEL}" / "full.jsonl.gz")]) == 0
    out = capsys.readouterr().out
    assert "touch p=0 at=0 n=32700 write=true" in out
    assert [line.split() for line in out.splitlines()].count(TABLE_HEAD) > 20


def test_unreadable_file_is_an_error_not_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"ops": []}\n{"ops": [')
    assert main(["conform", str(path)]) == 2
    assert f"{path}: line 2: not JSON" in capsys.readouterr().err


HAND = CORPUS / f"linux-{KERNEL}" / "hand.jsonl.gz"


@pytest.mark.parametrize(
    ("arguments", "content", "said"),
    [
        (
            ["conform", "--kernel", "5.0"],
            b'{"ops": [], "results": []}',
            "kernel '5.0' is not known",
        ),
        (["run", "--kernel", "5.0"], b'{"ops": []}', "kernel '5.0' is not known"),
        (["conform"], b'\n{"id": "a", "ops": []}', "{}: line 2: a: holds no recording"),
        (["conform"], b'{"id": "a", "ops": [{}], "results": []}', "{}: line 1: a: operation 0"),
        (["run"], b'[{"ops": []},\n{"ops": [{"op": "fly"}]}]', "{}: line 1: operation 0: op='fly'"),
        (["run"], b'{"ops": []}\n7', "{}: line 2: not a scenario"),
        (["run"], b"\xff\xfe", "{}: not JSON"),
        (["run"], b"\x1f\x8b", "{}: not gzip"),
        (["run", "--id", "b"], b'{"id": "a", "ops": []}', "no scenario with id 'b' in {}"),
        (["conform", "--id", "b"], b"", "no scenario with id 'b' in an empty file"),
    ],
)
def test_commands_say_in_a_line_what_is_wrong_and_where(
    arguments: list[str],
    content: bytes,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert main([*arguments, str(path)]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"pagemig: {said.format(path)}")
    assert (out, err.count("\n")) == ("", 1)


def test_what_the_caller_did_wrong_is_no_difference() -> None:
    record = records("hand")[0]
    for wrong, kernel in [
        (record, "5.0"),
        ({"ops": []}, KERNEL),
        ({"ops": 1, "results": []}, KERNEL),
    ]:
        with pytest.raises(ValueError, match=r"5\.0|no recording|ops"):
            compare(wrong, kernel=kernel)


def test_conform_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "--id", "hand-013", str(HAND)]) == 0
    out = capsys.readouterr().out
    assert out.endswith("\n\nIt agrees.\n") and "move_pages" not in out
    assert main(["conform", "-v", "--id", "hand-013", str(HAND)]) == 0
    assert "move_pages" in capsys.readouterr().out
    files = [str(CORPUS / f"linux-{KERNEL}" / f"{name}.jsonl.gz") for name in ("full", "thp")]
    assert main(["conform", *files]) == 1
    out = capsys.readouterr().out
    assert out.count("unsupported: huge pages") == 2
    assert out.endswith("All 7 agree.\n")
    assert main(["conform", files[1]]) == 1
    assert capsys.readouterr().out.endswith("No scenario was run.\n")
    assert main(["conform", "--kernel", "6.12", "--id", "hand-001-query", str(HAND)]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("1 of 1 does not agree with 6.12.")
    assert "--kernel" in last


@pytest.mark.parametrize("columns", [60, 100, 250])
def test_run_prints_no_wider_than_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    full = str(CORPUS / f"linux-{KERNEL}" / "full.jsonl.gz")
    for name, path in [("full-003", full), ("hand-032", str(HAND)), ("hand-076", str(HAND))]:
        assert main(["run", "--table", "--id", name, path]) == 0
        lines = capsys.readouterr().out.splitlines()
        title = next(line for line in lines if line.startswith(name))
        assert ": " in title
        assert max(len(line) for line in lines if line != title) <= columns
        assert not any(" migrated=0" in line for line in lines)


def test_the_package_is_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pagemig", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"pagemig {pm.__version__}\n"


# ---- a node that fills up: what must hold whatever the timing ----------------------------------

Results = list[dict[str, Any]]

#: Pages of the smallest node a program could use, in all recordings (README: "varies by some").
USABLE = range(29_000, 30_300)


def _nodes(runs: list[list[Any]]) -> list[str]:
    return [value for value, n in runs for _ in range(n)]


def _pages(state: dict[str, Any]) -> dict[tuple[str, int], str]:
    """The node of every page of every process."""
    return {
        (number, vma["at"] + k): node
        for number, process in state.items()
        for vma in (process or {"vmas": []})["vmas"]
        for k, node in enumerate(_nodes(vma["node"]))
    }


def hold_counts(vma: dict[str, Any]) -> None:
    """Pages are counted once, where they are, and a query says the same."""
    placed = Counter(_nodes(vma["node"]))
    present = vma["n"] - placed.pop(".", 0)
    assert {f"N{node}": n for node, n in placed.items()} == {
        name: n for name, n in vma["stat"].items() if name[0] == "N"
    }
    assert vma["stat"].get("anon", 0) == vma["stat"].get("dirty", 0) == present
    assert [q if q != "F" else "." for q in _nodes(vma["query"])] == _nodes(vma["node"])
    assert vma["val"] is (True if present else None)


def hold_touch(op: dict[str, Any], vma: dict[str, Any]) -> None:
    """A range touched in order lies on the node it prefers, then on the one it falls back to.

    When the fall back has begun, frames from the list of another processor may turn up.
    """
    if not vma["policy"].startswith("prefer:") or op["n"] < vma["n"]:
        return
    wanted = vma["policy"].removeprefix("prefer:")
    runs = vma["node"]
    assert runs[-1][0] == "0"
    if len(runs) > 1:
        assert runs[0][0] == wanted
        placed = Counter(_nodes(runs))
        assert placed.keys() == {wanted, "0"}
        assert placed[wanted] in USABLE


def hold_migration(
    op: dict[str, Any], result: dict[str, Any], before: dict[Any, str], after: dict[Any, str]
) -> None:
    """Every page that changed its node was counted, and nothing else when the node was named."""
    changed = [page for page in after if before.get(page, after[page]) != after[page]]
    if op["op"] in ("move_pages", "migrate_pages"):
        assert result["migrated"] == len(changed)
    else:
        assert result["migrated"] >= len(changed)
    if result["migrate_failed"]:
        # The first page that finds the node full ends the call.
        assert result["migrate_failed"] == 1
        assert result.get("errno") == ("EIO" if op["op"] == "mbind" else "ENOMEM") or (
            op["op"] == "mbind" and "strict" not in op["flags"]
        )
    else:
        assert result["rc"] == 0
    if op["op"] == "move_pages" and result["rc"] == 0:
        stored = [str(status) for status in _nodes(result["status"])]
        assert stored == [after[str(op["p"]), page] for page in _listed(op["pages"])]


def _listed(pages: list[Any]) -> list[int]:
    listed = []
    for page in pages:
        first, n = page["range"] if isinstance(page, dict) else (page, 1)
        listed += range(first, first + n)
    return listed


def hold(ops: list[dict[str, Any]], results: Results) -> None:
    before: dict[Any, str] = {}
    for op, result in zip(ops, expand(results), strict=True):
        after = _pages(result["state"])
        for process in result["state"].values():
            for vma in (process or {"vmas": []})["vmas"]:
                hold_counts(vma)
        if op["op"] == "touch" and "died" not in result:
            for vma in result["state"][str(op["p"])]["vmas"]:
                if vma["at"] == op["at"]:
                    hold_touch(op, vma)
        if "migrated" in result:
            hold_migration(op, result, before, after)
        before = after


@each({kernel: {"full": 7} for kernel in KERNELS if "full" in SIZES[kernel]})
def test_what_must_hold_when_a_node_is_full(kernel: str, record: dict[str, Any]) -> None:
    hold(record["ops"], record["results"])
    hold(record["ops"], run(record, kernel=kernel))
