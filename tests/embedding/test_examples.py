"""Every example is built and run against the installed wheel, and says what it should."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from support.installed import ROOT, Environment, run

EXAMPLES = ROOT / "examples"


def test_the_environment_is_clean(clean: Environment) -> None:
    code = (
        "import sys, importlib.metadata as m, pagemig\n"
        "print(pagemig.__file__, *sorted({d.name.lower() for d in m.distributions()}))"
    )
    file, *names = clean.run("-c", code).split()
    assert Path(file).is_relative_to(clean.site)
    assert {"numpy", "pagemig"} <= {*names} and "pytest" not in names


def embedding_flags() -> list[str]:
    """Flags that link a program with this Python."""
    get = sysconfig.get_config_var
    library = f"python{get('VERSION')}{sys.abiflags}"
    folder = get("LIBDIR")
    words = [f"-I{sysconfig.get_path('include')}", f"-L{folder}", f"-Wl,-rpath,{folder}"]
    return [*words, f"-l{library}", *(get("LIBS") or "").split(), *(get("SYSLIBS") or "").split()]


@pytest.fixture(scope="module")
def headers(clean: Environment) -> Path:
    """The folder that the installed package names to compilers."""
    flag = clean.run("-m", "pagemig", "--cflags").strip()
    folder = Path(flag.removeprefix("-I"))
    assert folder.is_relative_to(clean.site)
    return folder


def compiled(tmp_path: Path, headers: Path, *compiler: str) -> Path:
    """The cache in C, linked with this Python."""
    program = tmp_path / "cache"
    words = [*compiler, "-O2", "-Wall", "-Wextra", "-Werror", f"-I{headers}"]
    done = subprocess.run(
        [*words, EXAMPLES / "cache" / "cache.c", "-x", "none", *embedding_flags(), "-o", program],
        capture_output=True,
        text=True,
    )
    if done.returncode and "cannot find -lpython" in done.stderr:
        pytest.skip("this Python comes without a library to embed: python3-dev has it")
    assert done.returncode == 0, done.stderr
    return program


def test_a_cache_in_c_moves_what_misses_most(
    tmp_path: Path, clean: Environment, headers: Path
) -> None:
    program = compiled(tmp_path, headers, "cc", "-std=c99", "-pedantic")
    printed = run(program, cwd=tmp_path, PYTHONPATH=str(clean.site))
    rows = [line.split() for line in printed.splitlines()[1:]]
    share = [float(row[2]) for row in rows]
    moved = [int(row[4]) for row in rows]
    assert len(rows) == 6
    assert share[0] < 20 < 75 < min(share[1:])  # the hot part takes 80 % of the accesses
    assert moved[0] > 2048 and moved[1] == 0


def test_the_cache_is_cpp_too(tmp_path: Path, headers: Path) -> None:
    if not shutil.which("c++"):
        pytest.skip("needs a C++ compiler: g++")
    compiled(tmp_path, headers, "c++", "-x", "c++", "-std=c++11")


def test_tenants(clean: Environment) -> None:
    rows = [line.split() for line in clean.run(EXAMPLES / "tenants.py").splitlines()]
    assert len(rows) == 6
    waits = [[float(word) for word in row[1:4]] for row in rows[1:]]
    assert max(waits[0]) / min(waits[0]) > 2 > 1.2 > max(waits[-1]) / min(waits[-1])


def test_numba(clean: Environment) -> None:
    clean.add("numba")
    first, second = clean.run(EXAMPLES / "numba_loop.py").splitlines()
    counts = [int(word) for word in re.findall(r": +(\d+)", first)]
    assert sum(counts) == 200_000 and min(counts) > 90_000
    assert re.findall(r": +(\d+)", second) == ["200000", "0"]


def test_simpy_programs_contend_while_pages_migrate(clean: Environment) -> None:
    clean.add("simpy")
    printed = clean.run(EXAMPLES / "simpy_bandwidth.py")
    rows = re.findall(r"(\S+) +(before|while|after) +(\d+) +([\d.]+) +(\d+)\n", printed)
    mean = {(kernel, phase): float(ns) for kernel, phase, _, ns, _ in rows}
    waits = {(kernel, phase): int(n) for kernel, phase, _, _, n in rows}
    ends = dict(re.findall(r"(\S+) +(1152 pages .*)\n", printed))
    kernels = {"6.1": 1152, "6.12": 3}  # and the flushes of each
    assert len(rows) == 3 * len(kernels) and {*ends} == {*kernels}
    bus = 4096 / 12  # ns of a page on the slow node's bus
    for kernel, flushes in kernels.items():
        assert mean[kernel, "before"] == pytest.approx(3 * bus, rel=0.01)  # all three want the bus
        assert mean[kernel, "after"] < 1.5 * (0.9 * (80 + 4096 / 40) + 0.1 * (250 + bus))
        assert waits[kernel, "while"] > 0 == waits[kernel, "before"] == waits[kernel, "after"]
        pages, flushed, busy, silent = map(float, re.findall(r"\d+\.?\d*", ends[kernel]))
        assert (pages, flushed) == (1152, flushes)
        assert busy > silent
        # In silence each program's migration flushes by itself, and all share the bus.
        alone = flushes / 3 * 2000 + 384 * bus
        shared = max(alone, 2000 + 1152 * bus)
        assert 0.999 * shared < 1000 * silent < 1.01 * shared
    assert mean["6.12", "while"] > mean["6.1", "while"]


def test_simpy_runs_alike_twice(clean: Environment) -> None:
    clean.add("simpy")
    code = (
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "from simpy_bandwidth import START, Model\n"
        "first, second = models = Model('6.1'), Model('6.1')\n"
        "for model in models: model.env.run(until=2 * START)\n"
        "assert first.reads == second.reads and first.time == second.time\n"
        "assert first.machine.counters == second.machine.counters\n"
        "print(first.waits['while'])\n"
    )
    assert int(clean.run("-c", code)) > 0


def test_libcachesim_prices_its_misses(clean: Environment) -> None:
    clean.add("libcachesim")
    own, _, stay, move = clean.run(EXAMPLES / "libcachesim_misses.py").splitlines()
    ratio = re.findall(r"misses (\S+) of", own)
    assert stay.split()[:2] == ["stay", *ratio]  # the plug-in is an LRU: libCacheSim has one, too
    assert move.split()[:2] == ["move", *ratio]  # where pages are is nothing to a cache of lines
    fast, memory, moved, moving = map(float, stay.split()[2:])
    assert (fast, moved, moving) == (0, 0, 0)
    accesses = memory * 1e6 / 250
    fast, memory, moved, moving = map(float, move.split()[2:])
    assert fast > 40 and moved >= 512
    assert memory * 1e6 == pytest.approx(accesses * (250 - 1.70 * fast), rel=1e-3)
    assert memory + moving < accesses * 250 / 1e6
