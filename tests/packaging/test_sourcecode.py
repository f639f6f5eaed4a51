"""The source follows its rules: names are documented and agree, no path of a machine is in it."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import pagemig

PACKAGE = Path(pagemig.__file__).parent
ROOT = PACKAGE.parent
SOURCES = sorted(p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".pyx", ".pxd", ".pyi"))
FOLDERS = ("pagemig", "benchmarks", "docs", "examples")
TEXTS = sorted(
    path
    for pattern in (
        "*",
        "pagemig/**/*",
        "tests/**/*.py",
        "benchmarks/**/*",
        "docs/**/*",
        "examples/**/*",
    )
    for path in ROOT.glob(pattern)
    if path.suffix in (".py", ".pyx", ".pxd", ".pyi", ".h", ".c", ".md", ".toml", ".in", "")
    and path.is_file()
    and path.name not in (Path(__file__).name, ".coverage", ".git")  # .git: a file in worktrees
)


def modules() -> Iterator[ModuleType]:
    yield pagemig
    for found in pkgutil.walk_packages(pagemig.__path__, "pagemig."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def written_in_python(module: ModuleType) -> bool:
    return (module.__file__ or "").endswith(".py")


def documented(thing: object) -> bool:
    return bool((inspect.getdoc(thing) or "").strip())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_file_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    if path.suffix in (".py", ".pyi"):
        assert ast.get_docstring(ast.parse(text))
    else:
        assert text.startswith('"""')


@pytest.mark.parametrize("module", list(modules()), ids=lambda m: m.__name__)
def test_names_listed_exist_and_are_documented(module: ModuleType) -> None:
    if not written_in_python(module):
        return
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    for name in names:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            assert documented(thing), name


@pytest.mark.parametrize(
    "name", [n for n in pagemig.__all__ if inspect.isclass(getattr(pagemig, n))]
)
def test_public_members_are_documented(name: str) -> None:
    cls = getattr(pagemig, name)
    bare = [
        member
        for member, value in inspect.getmembers(cls)
        if not member.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property))
        and getattr(value, "__module__", "pagemig").startswith("pagemig")
        and not documented(value)
    ]
    assert bare == []


def test_stubs_name_what_there_is() -> None:
    """stubtest looks from both sides; this keeps the bare test suite honest about the one."""
    for stub in PACKAGE.rglob("*.pyi"):
        parts = stub.relative_to(ROOT).with_suffix("").parts
        module = importlib.import_module(".".join(parts))
        for node in ast.parse(stub.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                assert hasattr(module, node.name), node.name
            elif isinstance(node, ast.ClassDef):
                cls = getattr(module, node.name)
                for member in node.body:
                    if isinstance(member, ast.FunctionDef):
                        assert hasattr(cls, member.name), f"{node.name}.{member.name}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_path_of_a_machine_is_left_in(path: Path) -> None:
    found = re.search(r"(?<![\w.])/(work|root|home)/\w+", path.read_text())
    assert found is None, found and found[0]


def test_only_one_header_names_a_compiler_atomic() -> None:
    naming = {
        path.name
        for path in [*SOURCES, *PACKAGE.rglob("*.h")]
        if re.search(r"__atomic_|__sync_|__builtin_ia32", path.read_text())
    }
    assert naming == {"atomics.h"}
