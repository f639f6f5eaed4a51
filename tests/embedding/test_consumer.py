"""A consumer in Cython outlives the growth of the table, and refuses another ABI politely."""

import re
import shutil
from pathlib import Path

import pytest

from support.copies import copied
from support.installed import ROOT, Environment

#: Walks 64 pages that alternate between two nodes: 32 near, 32 far.
WALK = """
import consumer, pagemig as pm
machine = pm.Machine([pm.Node('4MiB', cpus=1), '4MiB'])
app = machine.spawn()
base = app.mmap(64 * pm.PAGE_SIZE)
app.mbind(base, 64 * pm.PAGE_SIZE, pm.Interleave([0, 1]))
app.touch(base, 64 * pm.PAGE_SIZE, write=True)
with app.context() as context:
    print(consumer.walk_ns(context.address, base, 64, 80, 250))
"""
WALKED = f"{32 * 80 + 32 * 250:.1f}\n"

#: Stands in for a pagemig whose table has other first words (ABI and bytes); the functions stay.
OTHER_TABLE = """
import ctypes
from pagemig import _api
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
name = b'pagemig._api.table'
def table(abi, size):
    words = ctypes.string_at(_api.address, _api.size) + bytes(max(0, size - _api.size))
    kept = ctypes.create_string_buffer(words, len(words) + 1)
    ctypes.memmove(kept, abi.to_bytes(4, 'little') + size.to_bytes(4, 'little'), 8)
    kept_alive.append(kept)
    return new(ctypes.addressof(kept), name, None)
kept_alive = []
"""


@pytest.fixture(scope="module")
def builder(clean: Environment) -> Environment:
    """An environment that can build it, too."""
    clean.add("Cython", "setuptools")
    return clean


def built(builder: Environment, folder: Path) -> Path:
    """Build the consumer."""
    copied(ROOT / "examples" / "cython", folder)
    builder.run("setup.py", "-q", "build_ext", "--inplace", cwd=folder)
    return folder


def built_with(headers: Path, builder: Environment, consumer: Path, folder: Path) -> Path:
    """Compile the consumer's C again, with other headers."""
    skip = shutil.ignore_patterns("*.so", "build")
    copied(consumer, folder, skip)
    setup = folder / "setup.py"
    text = setup.read_text()
    assert "[pagemig.get_include()]" in text
    setup.write_text(text.replace("[pagemig.get_include()]", repr([str(headers)])))
    builder.run("setup.py", "-q", "build_ext", "--inplace", cwd=folder)
    return folder


def changed_headers(builder: Environment, folder: Path, pattern: str, new: str) -> Path:
    """A copy of the installed headers with one change."""
    include = Path(builder.run("-m", "pagemig", "--cflags").strip().removeprefix("-I"))
    copied(include, folder)
    header = folder / "pagemig" / "api.h"
    text, changes = re.subn(pattern, new, header.read_text(), flags=re.S)
    assert changes == 1
    header.write_text(text)
    return folder


@pytest.fixture(scope="module")
def consumer(builder: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(builder, tmp_path_factory.mktemp("today") / "cython")


def test_a_consumer_in_cython(builder: Environment, consumer: Path) -> None:
    assert builder.run("-c", WALK, cwd=consumer) == WALKED


def test_a_consumer_of_a_shorter_table_goes_on_working(
    builder: Environment, consumer: Path, tmp_path: Path
) -> None:
    """Its header ends with cr3: what follows, calls and migrations, came later."""
    short = changed_headers(
        builder,
        tmp_path / "include",
        r"(\*cr3\)\(pmg_ctx \*c\);).*?(\} pmg_api;.*PMG_HAS\(api, )"
        r"\w+(\); \}).*(#ifdef __cplusplus)",
        r"\1\n\2cr3\3\n\4",
    )
    folder = built_with(short, builder, consumer, tmp_path / "cython")
    assert builder.run("-c", WALK, cwd=folder) == WALKED


@pytest.mark.parametrize(
    ("abi", "size"),
    [(2, "_api.size"), (0, "_api.size"), (1, "80"), (2, "_api.size + 80")],
    ids=["newer", "none", "short", "both"],
)
def test_another_table_is_refused_politely(
    builder: Environment, consumer: Path, abi: int, size: str
) -> None:
    code = f"""{OTHER_TABLE}
real = _api.table
_api.table = table({abi}, {size})
try:
    import consumer
except ImportError as error:
    print(error)
_api.table = real
{WALK}
"""
    refusal, answer = builder.run("-c", code, cwd=consumer).splitlines()
    assert f"pagemig has ABI {abi} with a table of " in refusal
    assert "this program was built for ABI 1" in refusal
    assert "python -m pagemig --cflags" in refusal
    assert f"{answer}\n" == WALKED  # the process is none the worse


def test_a_longer_table_is_taken(builder: Environment, consumer: Path) -> None:
    code = f"{OTHER_TABLE}\n_api.table = table(1, _api.size + 80)\n{WALK}"
    assert builder.run("-c", code, cwd=consumer) == WALKED


def test_a_consumer_of_another_abi_is_refused_politely(
    builder: Environment, consumer: Path, tmp_path: Path
) -> None:
    other = changed_headers(
        builder, tmp_path / "include", r"#define PMG_ABI 1\b", "#define PMG_ABI 2"
    )
    folder = built_with(other, builder, consumer, tmp_path / "cython")
    code = "try:\n    import consumer\nexcept ImportError as error:\n    print(error)"
    refusal = builder.run("-c", code, cwd=folder)
    assert "pagemig has ABI 1 with" in refusal and "built for ABI 2" in refusal
