"""Imports point down, in both languages: the tables of docs/model.md are the rule."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pagemig"
GUIDE = ROOT / "docs" / "model.md"


def tables() -> list[list[str]]:
    """Rows of names of the guide's two tables, the top layer first in both."""
    section = GUIDE.read_text().partition("## Layers")[2].partition("\n## ")[0]
    found = [
        [row.partition("  ")[0] for row in text.strip().splitlines()]
        for text in re.findall(r"```text\n(.*?)```", section, re.S)
    ]
    return [found[0], found[1][::-1]]


LAYERS, MM = tables()
LAYER = {name: at for at, row in enumerate(LAYERS) for name in row.split()}
FILE = {name: at for at, name in enumerate(MM)}
SOURCES = sorted(p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".pyi", ".pyx", ".pxd"))


def module(path: Path) -> str:
    """A file's module without the package: ``mm.rmap``, ``policy``."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in SOURCES}


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, under TYPE_CHECKING too, or cimports."""
    names: list[str] = []
    text = path.read_text()
    if path.suffix in (".py", ".pyi"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                package = path.relative_to(ROOT).parts[
                    : len(path.relative_to(ROOT).parts) - node.level
                ]
                base = ".".join(package) if node.level else ""
                base = ".".join(filter(None, [base, node.module]))
                names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    else:
        for base, what in re.findall(r"^\s*from ([\w.]+) c?import (\([^)]*\)|[^\n]*)", text, re.M):
            names += [base, *(f"{base}.{name}" for name in re.findall(r"\w+", what))]
        names += re.findall(r"^\s*c?import ([\w.]+)", text, re.M)
    for name in names:
        if name.startswith("pagemig.") and name.removeprefix("pagemig.") in MODULES - {""}:
            yield name.removeprefix("pagemig.")


def is_package(name: str) -> bool:
    return (PACKAGE / name.replace(".", "/")).is_dir()


EDGES = sorted(
    {
        (module(path), name)
        for path in SOURCES
        for name in imported(path)
        if name != module(path) and not (is_package(name) and module(path).startswith(f"{name}."))
    }
)


def breaks(source: str, target: str) -> bool:
    """Whether an import does not point down."""
    above, below = source.split(".")[0], target.split(".")[0]
    if "" in (source, target) or above in ("testing", "__main__"):
        return False
    if below == "testing":
        return True
    if above != below:
        return LAYER[below] <= LAYER[above]
    if above == "mm" and "mm" not in (source, target):
        return FILE[target.split(".")[1]] <= FILE[source.split(".")[1]]
    return False


def test_every_module_is_in_a_layer() -> None:
    tops = {name.split(".")[0] for name in MODULES} - {"", "__main__", "testing"}
    assert tops == set(LAYER)
    assert {name.split(".")[1] for name in MODULES if name.startswith("mm.")} == set(FILE)


def test_imports_point_down() -> None:
    assert not {edge for edge in EDGES if breaks(*edge)}


def test_nothing_imports_in_a_ring() -> None:
    below: dict[str, set[str]] = {name: set() for name in MODULES}
    for source, target in EDGES:
        if source:
            below[source].add(target)
    while below:
        lowest = {name for name, targets in below.items() if not targets & below.keys()}
        assert lowest, f"a ring among {sorted(below)}"
        below = {name: targets for name, targets in below.items() if name not in lowest}


@pytest.mark.parametrize("edge", [edge for edge in EDGES if edge[0].startswith("mm.")], ids=str)
def test_a_cimport_turned_round_is_noticed(edge: tuple[str, str]) -> None:
    source, target = edge
    if "mm" not in (source, target) and target.startswith("mm."):
        assert not breaks(source, target)
        assert breaks(target, source)


def test_automatic_migration_and_traces_import_nothing_of_the_model() -> None:
    allowed = {
        "auto",
        "trace",
        "constants",
        "errors",
        "arguments",
        "checked",
        "files",
        "report",
    } | {"_arrays"}
    for source, target in EDGES:
        if source.split(".")[0] in ("auto", "trace"):
            assert target.split(".")[0] in allowed, (source, target)
