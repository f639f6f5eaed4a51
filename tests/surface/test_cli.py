"""Commands that cannot do what they are asked to say so in one line, and what it is about."""

import json
from pathlib import Path
from typing import Any

import pytest

from pagemig.commands import main as cli
from pagemig.studies.replay import Plan
from support import CORPUS

HAND = CORPUS / "linux-6.1" / "hand.jsonl.gz"

#: Arguments and what the line must name; ``{dir}`` is an empty directory.
WRONG: list[tuple[list[str], str]] = [
    (["run", "{dir}/nosuch"], "{dir}/nosuch: No such file"),
    (["run", "{dir}"], "{dir}: Is a directory"),
    (["run", "--kernel", "3.0", str(HAND)], "'3.0' is not known; known are: 2.6.17"),
    (["run", "--id", "nosuch", str(HAND)], "no scenario with id 'nosuch'"),
    (["conform", "{dir}/nosuch"], "{dir}/nosuch: No such file"),
    (["conform", "--kernel", "3.0", str(HAND)], "'3.0' is not known"),
    (["replay", "{dir}/nosuch"], "{dir}/nosuch"),
    (["replay", "--kernel", "3.0"], "'3.0' is not known"),
    (["replay", "--output", "{dir}/x.xyz"], ".png, .svg or .pdf"),
    (["record", "--lackey", "{dir}/nosuch"], "{dir}/nosuch: No such file"),
    (["rates", "--parameters", "{dir}/nosuch"], "{dir}/nosuch: No such file"),
    (["rates", "--pages", "0"], "--pages must be at least 1"),
    (["rates", "--output", "{dir}/no/x.png"], "no directory '{dir}/no'"),
    (["story", "nosuch"], "'nosuch' is not known; known are: move"),
    (["story", "--kernel", "3.0"], "'3.0' is not known"),
    (["story", "--pages", "0"], "pages must be from 2"),
]


@pytest.mark.parametrize(("arguments", "named"), WRONG, ids=lambda a: " ".join(a[:2]))
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.replace("{dir}", str(tmp_path)) for argument in arguments]
    assert cli.main(given) == 2
    out, err = capsys.readouterr()
    assert named.replace("{dir}", str(tmp_path)) in err
    assert err.startswith("pagemig")
    assert (out, err.count("\n")) == ("", 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_what_may_be_asked_without_a_command(argument: str) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([argument])
    assert end.value.code == 0


def test_a_scenario_that_is_nested_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep").write_text("[" * 100_000)
    assert cli.main(["run", str(tmp_path / "deep")]) == 2
    assert "deep: line 1: nested too deeply" in capsys.readouterr().err


def test_a_crash_of_the_kernel_is_an_outcome(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """mbind of 2.6.18 looks for pages of a file in the first mapping of its range."""

    def of(p: int, **fields: Any) -> dict[str, Any]:
        return {"p": p, **fields}

    ops = [
        of(0, op="mmap", at=0, n=1, kind="file_shared", file=0),
        of(0, op="mmap", at=1, n=1, kind="file_shared", file=0, off=3),
        of(0, op="touch", at=0, n=2, write=True, tok=1),
        of(0, op="mbind", at=0, n=2, mode="interleave", nodes=[1, 2], flags=["move"]),
        of(0, op="nop"),
    ]
    scenario = {"id": "crash", "files": [{"kind": "tmpfs", "pages": 4}], "ops": ops}
    (tmp_path / "s.json").write_text(json.dumps(scenario))
    assert cli.main(["run", "--kernel", "2.6.18", str(tmp_path / "s.json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["outcome"], found["results"][3:]) == ("oops", [{}, {}])
    assert cli.main(["run", "--table", "--kernel", "2.6.18", str(tmp_path / "s.json")]) == 0
    out = capsys.readouterr().out
    assert "oops: vma_address: a page of a file outside the first mapping" in out
    assert "nop" not in out


def test_a_host_without_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("the host refused")

    monkeypatch.setattr(Plan, "build", full)
    assert cli.main(["replay"]) == 2
    assert capsys.readouterr().err == "pagemig: not enough memory: the host refused\n"


def test_ctrl_c_while_the_commands_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stopped_command.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "MODULES", ["stopped_command"])
    assert cli.main(["replay"]) == 130
    assert capsys.readouterr() == ("", "pagemig: interrupted; unfinished files are as they were\n")


def test_ctrl_c_without_a_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pagemig.commands.trace.info", interrupted)
    monkeypatch.setattr("sys.stderr", None)
    assert cli.main(["trace", "info", "sort"]) == 130


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("trace info sort", "unfinished files are as they were"),
        ("sweep", "with --resume FILE finished points are, and the same command goes on"),
        ("sweep --resume x", "finished points are in x, and the same command goes on from there"),
        ("live --pid 1", "pages that were moved stay where they are"),
        ("live --pid 1 --dry-run", "no page was moved"),
    ],
)
def test_a_command_that_is_interrupted_says_what_is_kept(
    command: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("trace.info", "sweep.sweep", "live.live.topology"):
        monkeypatch.setattr(f"pagemig.commands.{name}", interrupted)
    assert cli.main(command.split()) == 130
    error = capsys.readouterr().err
    assert error.startswith("pagemig: interrupted; ")
    assert said in error
    assert error.count("\n") == 1
