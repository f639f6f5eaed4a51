"""Packaging: what setup.py builds, what an sdist and a wheel hold, and that the facts agree."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import pagemig
from support.copies import copied

ROOT = Path(__file__).parents[2]
#: What a copy of the project needs to be built, as opposed to what lies about.
PARTS = [
    "pagemig",
    "tests",
    "benchmarks",
    "docs",
    "examples",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "Makefile",
    "LICENSE",
]
TEXTS = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "stubtest.allow"]

needs_source = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")
pytestmark = needs_source


@pytest.fixture(scope="module")
def project():
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


@pytest.fixture(scope="module")
def sources():
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "pagemig").rglob("*.pyx"))


def setup_py(code, cwd=ROOT, **env):
    """Run code that has imported setup.py, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import setup\n{code}"],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_pyx_is_built_and_depends_on_every_header(sources):
    done = setup_py(
        "for e in setup.extensions(): print(e.name, *e.sources, len(e.depends), *e.include_dirs)"
    )
    lines = done.stdout.splitlines()
    assert sorted(line.split()[1] for line in lines) == sources
    headers = len(list((ROOT / "pagemig" / "include").rglob("*.h")))
    for line in lines:
        name, source, depends, include, _numpy = line.split()
        assert name == source.removesuffix(".pyx").replace("/", ".")
        assert (int(depends), include) == (headers, "pagemig/include")


@pytest.mark.parametrize(
    ("mode", "flag"),
    [
        ("", "-O3"),
        ("fast", "-O3"),
        ("debug", "-O0"),
        ("coverage", "-O0"),
        ("thread", "-fsanitize=thread"),
        ("address", "-fsanitize=address,undefined"),
    ],
)
def test_modes(mode, flag):
    done = setup_py("print(*setup.extensions()[0].extra_compile_args)", PAGEMIG_BUILD=mode)
    flags = done.stdout.split()
    assert flag in flags
    assert not [word for word in flags if word.startswith(("-march", "-mtune", "-Ofast"))]


def test_a_mode_that_is_none_names_those_there_are():
    done = setup_py("setup.modules()", PAGEMIG_BUILD="fastest")
    assert done.returncode == 1
    assert "'fastest'" in done.stderr and "thread" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_change_of_mode_is_noticed(tmp_path):
    code = "print(setup.mode_changed(), setup.mode_changed())"
    answers = []
    for mode in ("fast", "fast", "debug", "fast"):
        copied(ROOT / "setup.py", tmp_path)
        answers.append(setup_py(code, tmp_path, PAGEMIG_BUILD=mode).stdout.strip())
    assert answers == ["False False", "False False", "True False", "True False"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the tracked parts of the tree, to build from."""
    where = tmp_path_factory.mktemp("copy")
    for name in PARTS + TEXTS:
        if (ROOT / name).is_dir():
            skip = shutil.ignore_patterns("*.so", "__pycache__")
            copied(ROOT / name, where / name, skip)
        elif (ROOT / name).exists():
            copied(ROOT / name, where)
    return where


def build(copy, what):
    """Build an sdist or a wheel without extensions; answers the names in it."""
    code = f"from setuptools import build_meta; print(build_meta.build_{what}('dist'))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=copy,
        env=os.environ | {"PAGEMIG_BUILD": "none"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    path = copy / "dist" / done.stdout.splitlines()[-1]
    if what == "sdist":
        with tarfile.open(path) as tar:
            return {name.partition("/")[2] for name in tar.getnames()}
    with zipfile.ZipFile(path) as wheel:
        return set(wheel.namelist())


#: What only this tree's tests and benchmarks use.
OWN_USE = {f"pagemig/testing/{name}" for name in ("host.pyx", "poke.pyx", "poke.pyi")}


def shipped_files():
    """What a person who embeds or reads the package needs."""
    package = ROOT / "pagemig"
    suffixes = ("*.py", "*.pyi", "*.pyx", "*.pxd", "*.h", "*.pmt", "py.typed")
    return {str(path.relative_to(ROOT)) for s in suffixes for path in package.rglob(s)}


def test_sdist_can_be_built_from(copy):
    names = build(copy, "sdist")
    assert shipped_files() <= names
    assert {
        "setup.py",
        "pyproject.toml",
        "LICENSE",
        "Makefile",
        "tests/packaging/test_build.py",
    } <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    written = {"examples", "tests", "benchmarks", "docs"}  # Cython's C lies in the package
    assert {name.split("/")[0] for name in names if name.endswith(".c")} <= written


def test_sdist_holds_what_the_project_tracks(copy):
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("needs git, and a clone")
    tracked = {name for name in done.stdout.split() if not name.startswith((".ci/", ".git"))}
    assert tracked - build(copy, "sdist") == set()


def test_wheel_holds_the_package_and_nothing_else(copy):
    names = build(copy, "wheel")
    assert shipped_files() - OWN_USE <= names
    own = ("pagemig/testing/host", "pagemig/testing/poke")
    assert not [name for name in names if name.startswith(own)]
    others = {name.split("/")[0] for name in names} - {"pagemig"}
    assert others == {f"pagemig-{pagemig.__version__}.dist-info"}
    assert not [name for name in names if name.endswith(".c")]


def test_what_the_tree_uses_itself_is_built_in_place_only():
    code = """
from setuptools import Distribution
for inplace in (0, 1):
    command = setup.BuildExt(Distribution({"ext_modules": setup.extensions()}))
    command.inplace = inplace
    command.ensure_finalized()
    print(*sorted(e.name for e in command.extensions if "testing" in e.name))
"""
    done = setup_py(code)
    assert done.stdout.splitlines() == ["", "pagemig.testing.host pagemig.testing.poke"], (
        done.stderr
    )


def test_version_is_said_once(project):
    assert project["project"]["version"] == pagemig.__version__


def test_run_time_needs_numpy_alone(project):
    assert [re.split(r"\W", need)[0] for need in project["project"]["dependencies"]] == ["numpy"]
    assert {"plot", "progress", "dask", "traces", "test", "lint"} <= set(
        project["project"]["optional-dependencies"]
    )


def test_commands_exist(project):
    for target in project["project"]["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))


def test_include_directory_holds_the_headers():
    assert (Path(pagemig.get_include()) / "pagemig").is_dir()


@pytest.mark.parametrize(
    "target", ["run", "test", "full", "bench", "lint", "tsan", "asan", "wheel", "clean"]
)
def test_make_targets_exist(target):
    if not shutil.which("make"):
        pytest.skip("needs make")
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("what", "variables", "says"),
    [
        ("an old Python", {"PYTHON": "{old}"}, "needs Python >= 3.11"),
        ("no compiler", {"CC": "nosuchcompiler"}, "needs a C compiler"),
        ("no ensurepip", {"PYTHON": "{lacking}"}, "lacks the venv module or its ensurepip"),
    ],
)
def test_make_says_what_is_missing(tmp_path, what, variables, says):
    if not shutil.which("make"):
        pytest.skip("needs make")
    copied(ROOT / "Makefile", tmp_path)
    copied(ROOT / "pyproject.toml", tmp_path)
    fakes = {
        "old": "exit 1",
        # As Debian's Python without python3-venv: leaves a half-made directory behind.
        "lacking": f'[ "$1" = -m ] && mkdir -p .venv/bin && exit 1; exec {sys.executable} "$@"',
    }
    for name, text in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    given = [
        f"{key}={value.format(**{name: tmp_path / name for name in fakes})}"
        for key, value in variables.items()
    ]
    done = subprocess.run(
        ["make", "build", *given], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_what_tests_copy_can_be_written(tmp_path):
    """Also from a tree that nobody may write."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "file").write_text("text")
    for path in (source / "inner" / "file", source / "inner", source):
        path.chmod(path.stat().st_mode & ~0o222)
    copied(source, target)
    copied(source / "inner" / "file", target / "inner" / "other")
    found = [target, *target.rglob("*")]
    assert len(found) == 4
    assert all(path.stat().st_mode & 0o200 for path in found)
    source.chmod(0o755)  # pytest removes it
    (source / "inner").chmod(0o755)
