"""The documents are true: examples run, commands exist, claims about kernels are recorded."""

import contextlib
import doctest
import gzip
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pagemig as pm
from pagemig.commands import main as cli
from support import CORPUS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
    if path.exists()
]
FIDELITY = ROOT / "docs" / "fidelity.md"

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


class Block(NamedTuple):
    """A fenced block: its info string, its text, and the line it starts at."""

    info: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    return [
        Block(match[1].strip(), match[2], text.count("\n", 0, match.start()) + 1)
        for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)
    ]


# ---- examples ---------------------------------------------------------------------------------


def shown(expected: str, printed: str) -> bool:
    """Tell whether ``expected`` was printed; a line of ``...`` in it stands for any lines."""
    pattern = re.escape(expected.rstrip()).replace(re.escape("..."), "(?s:.*)")
    return re.fullmatch(pattern, printed.rstrip()) is not None


@each_document
def test_python_examples_run_and_print_what_follows_them(path: Path, tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    found = blocks(path)
    for block, after in pairwise([*found, Block("", "", 0)]):
        if block.info != "python":
            continue
        code = compile("\n" * block.line + block.text, str(path), "exec")
        printed = io.StringIO()
        with contextlib.chdir(tmp_path), contextlib.redirect_stdout(printed):
            exec(code, names)
        if after.info == "text output":
            assert shown(after.text, printed.getvalue()), f"line {block.line}: {printed.getvalue()}"


def modules_with_examples() -> list[str]:
    """Every module of the package whose docstrings have an example."""
    paths = [path for path in sorted(ROOT.glob("pagemig/**/*.py")) if ">>>" in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples_in_docstrings(module: str) -> None:
    result = doctest.testmod(import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


# ---- commands ---------------------------------------------------------------------------------


def commands(path: Path) -> Iterator[str]:
    """Lines of ``sh`` blocks, lines after ``$`` in ``console`` blocks, ``make x`` in the text."""
    for block in blocks(path):
        lines = block.text.splitlines()
        if block.info == "sh":
            yield from (line.split("  #")[0].strip() for line in lines if line.strip())
        elif block.info.startswith("console"):
            yield from (line[2:].strip() for line in lines if line.startswith("$ "))
    text = re.sub(r"^```.*\n(?:.*\n)*?```$", "", path.read_text(), flags=re.MULTILINE)
    yield from re.findall(r"`((?:make|pagemig) [a-z][^`]*)`", text)


def make_targets() -> set[str]:
    lines = (ROOT / "Makefile").read_text().splitlines()
    return set(next(line for line in lines if line.startswith(".PHONY:")).split()[1:])


def parsed(words: list[str]) -> bool:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli._parser().parse_args(words)
        except SystemExit as end:
            return end.code == 0
    return True


@each_document
def test_commands_exist(path: Path) -> None:
    for command in commands(path):
        words = shlex.split(command, comments=True)
        if not words:
            continue
        if words[0] == "make":
            targets = {word for word in words[1:] if "=" not in word and not word.startswith("-")}
            assert targets <= make_targets(), command
        elif words[0] == "pagemig":
            # a command named without its arguments need only be one
            assert parsed(words[1:]) or (len(words) == 2 and parsed([words[1], "--help"])), command
        for word in " ".join(words[1:]).replace("=", " ").split():
            if word.startswith(("tests/", "benchmarks/", "docs/")):
                assert (ROOT / word).exists(), command


def test_the_makefile_names_files_that_are_there() -> None:
    named = re.findall(r"\b(?:tests|benchmarks|docs)/[\w/]+\.\w+", (ROOT / "Makefile").read_text())
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).exists()]


@each_document
def test_console_blocks_print_what_they_show(path: Path) -> None:
    """Blocks marked ``console run``: each command is run, ``...`` stands for left-out lines."""
    for block in blocks(path):
        if block.info != "console run":
            continue
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            words = shlex.split(command)
            assert words[0] == "pagemig"
            done = subprocess.run(
                [sys.executable, "-m", "pagemig.commands.main", *words[1:]],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert shown(expected, done.stdout), f"{command}\n{done.stdout}{done.stderr}"


# ---- links ------------------------------------------------------------------------------------


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(path: Path) -> set[str]:
    """What headings can be linked by, as GitHub makes it of their text."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@each_document
def test_files_named_are_there(path: Path) -> None:
    for name in spans(path):
        if re.fullmatch(r"(tests|docs|benchmarks|pagemig)/[\w/.-]+\.\w+", name):
            includes = ROOT / "pagemig" / "include"  # a header is named as a program includes it
            assert (ROOT / name).exists() or (includes / name).exists(), name


# ---- claims about recorded kernels ------------------------------------------------------------

_KEY = r"[\w@.]+"
_EVIDENCE = re.compile(
    rf"^(?:([\d.]+):)?((?:hand|rand|full|thp|mini|weighted)-\d+)/(\d+) ({_KEY})=(.+)$"
)


@cache
def records(kernel: str) -> dict[str, dict[str, Any]]:
    """Records of a kernel by the first two parts of their id, as ``hand-013``."""
    found = {}
    for path in sorted(CORPUS.glob(f"linux-{kernel}/*.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            for record in map(json.loads, lines):
                found["-".join(record["id"].split("-")[:2])] = record
    return found


def spans(path: Path) -> list[str]:
    """Code in the text, with line breaks inside it joined."""
    text = re.sub(r"^```.*\n(?:.*\n)*?```$", "", path.read_text(), flags=re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


@each_document
def test_scenarios_named_are_in_the_corpus(path: Path) -> None:
    for kernel, name in re.findall(
        r"(?:\b([26]\.[\d.]+):)?\b((?:hand|rand|full|thp|mini|weighted)-\d{3,})", path.read_text()
    ):
        assert name in records(kernel or "6.1"), name


def recorded(record: dict[str, Any], operation: int, key: str) -> Any:
    """A field of a result, or of the state after it: ``process@page.column``, ``process.field``."""
    head, _, column = key.partition(".")
    if not column:
        return record["results"][operation].get(key)
    process, _, page = head.partition("@")
    state = None
    for result in record["results"][: operation + 1]:
        state = (result.get("state") or {}).get(process, state)
    assert state is not None, f"process {process} is not there"
    if not page:
        return state[column]
    return next(vma for vma in state["vmas"] if vma["at"] == int(page))[column]


def text_of(value: Any) -> str:
    if isinstance(value, list):
        return ",".join("-" if one is None else str(one) for one in value)
    return "-" if value is None else str(value)


def evidence() -> list[str]:
    return [span for span in spans(FIDELITY) if _EVIDENCE.match(span)]


@pytest.mark.parametrize("claim", evidence())
def test_claims_are_recorded(claim: str) -> None:
    match = _EVIDENCE.match(claim)
    assert match is not None
    kernel, name, operation, key, value = match.groups()
    record = records(kernel or "6.1")[name]
    assert text_of(recorded(record, int(operation), key)) == value
    path = key.replace("@", "/").replace(".", "/")
    assert not any(p.startswith(f"{operation}/{path}") for p in record.get("unstable", ()))


def test_there_is_evidence() -> None:
    """A change of the notation must not empty the test above, nor a slip pass by it."""
    assert len(evidence()) > 100
    begun = [
        span
        for span in spans(FIDELITY)
        if re.match(r"([\d.]+:)?(hand|rand|full|mini|weighted)-\d+/", span)
    ]
    assert begun == evidence()


# ---- the model guide, the tables of agreement ---------------------------------------------------


def test_model_guide_has_every_flag_and_counter() -> None:
    text = (ROOT / "docs" / "model.md").read_text()
    table = {name: int(bit) for bit, name in re.findall(r"^\| +(\d+) \| `(\w+)` ", text, re.M)}
    assert {name: table.get(name) for name in pm.FRAME_FLAGS} == pm.FRAME_FLAGS
    machine = pm.Machine(["1MiB"])
    named = set(re.findall(r"`(\w+)`", text))
    assert set(machine.counters) <= named
    assert set(pm.STEPS.values()) - {"rollback"} == set(
        re.findall(r"^\| (\w+) +\|", text, re.M)
    ) & set(pm.STEPS.values())


def test_model_guide_has_the_passes_of_each_kernel() -> None:
    text = (ROOT / "docs" / "model.md").read_text()
    columns = ("2.6.17", "2.6.17-mm", "2.6.18", "pmig")
    for row, switch in (
        ("passes", "passes"),
        (r"the first that waits for the page lock \(counted from 0\)", "force_pass"),
        ("the first that waits for writeback", "writeback_pass"),
    ):
        [found] = re.findall(rf"^\| {row} +\|(.*)\|$", text, re.M)
        said = [int(number) for number in found.split("|")]
        assert [*said, said[-1]] == [getattr(pm.KERNELS[kernel], switch) for kernel in columns]


#: Scenarios and operations of a file that do not agree; tests/recorded has which.
DIFFER = {("2.6.18", "hand"): (1, 3)}


def test_tables_of_agreement_count_what_is_in_the_corpus() -> None:
    kernel, rows = "", 0
    for line in FIDELITY.read_text().splitlines():
        if heading := re.match(r"\| Linux ([\d.]+) ", line):
            kernel = heading[1]
        row = re.match(
            r"\| `(\w+)\.jsonl\.gz` +\| +(\d+) \| +([\d-]+) \| +(\d+) \| +([\d-]+) \|", line
        )
        if row:
            with gzip.open(CORPUS / f"linux-{kernel}" / f"{row[1]}.jsonl.gz", "rt") as lines:
                found = [json.loads(line) for line in lines]
            operations = sum(len(record["ops"]) for record in found)
            assert (int(row[2]), int(row[4])) == (len(found), operations)
            ran = [record for record in found if record.get("thp", "never") == "never"]
            scenarios, others = DIFFER.get((kernel, row[1]), (0, 0))
            ops = sum(len(record["ops"]) for record in ran)
            agree = (str(len(ran) - scenarios), str(ops - others))
            assert (row[3], row[5]) == (agree if ran else ("-", "-"))
            rows += 1
    assert rows == sum(len(list(path.glob("*.gz"))) for path in CORPUS.glob("linux-*"))
