"""Every example is built and run, and says what it should."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import pagemig as pm

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def embedding_flags() -> list[str]:
    """Flags that link a program with this Python."""
    get = sysconfig.get_config_var
    library = f"python{get('VERSION')}{sys.abiflags}"
    folder = get("LIBDIR")
    words = [f"-I{sysconfig.get_path('include')}", f"-L{folder}", f"-Wl,-rpath,{folder}"]
    return [*words, f"-l{library}", *(get("LIBS") or "").split(), *(get("SYSLIBS") or "").split()]


def test_a_cache_in_c_moves_what_misses_most(tmp_path: Path) -> None:
    program = tmp_path / "cache"
    source = str(EXAMPLES / "cache" / "cache.c")
    flags = ["-O2", "-std=gnu99", "-Wall", "-Wextra", "-Werror", f"-I{pm.get_include()}"]
    compiled = subprocess.run(
        ["cc", *flags, source, *embedding_flags(), "-o", str(program)],
        capture_output=True,
        text=True,
    )
    if compiled.returncode and "cannot find -lpython" in compiled.stderr:
        pytest.skip("this Python comes without a library to embed")
    assert compiled.returncode == 0, compiled.stderr
    rows = [line.split() for line in run(str(program)).splitlines()[1:]]
    share = [float(row[2]) for row in rows]
    moved = [int(row[4]) for row in rows]
    assert len(rows) == 6
    assert share[0] < 20 < 75 < min(share[1:])  # the hot part takes 80 % of the accesses
    assert moved[0] > 2048 and moved[1] == 0


def test_a_consumer_in_cython(tmp_path: Path) -> None:
    folder = tmp_path / "cython"
    shutil.copytree(EXAMPLES / "cython", folder)
    run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=folder)
    code = (
        "import consumer, pagemig as pm\n"
        "machine = pm.Machine([pm.Node('4MiB', cpus=1), '4MiB'])\n"
        "app = machine.spawn()\n"
        "base = app.mmap(64 * pm.PAGE_SIZE)\n"
        "app.mbind(base, 64 * pm.PAGE_SIZE, pm.Interleave([0, 1]))\n"
        "app.touch(base, 64 * pm.PAGE_SIZE, write=True)\n"
        "with app.context() as context:\n"
        "    print(consumer.walk_ns(context.address, base, 64, 80, 250))\n"
    )
    assert float(run(sys.executable, "-c", code, cwd=folder)) == 32 * 80 + 32 * 250


def test_tenants() -> None:
    rows = [line.split() for line in run(sys.executable, str(EXAMPLES / "tenants.py")).splitlines()]
    assert len(rows) == 6
    waits = [[float(word) for word in row[1:4]] for row in rows[1:]]
    assert max(waits[0]) / min(waits[0]) > 2 > 1.2 > max(waits[-1]) / min(waits[-1])


def test_numba() -> None:
    pytest.importorskip("numba")
    first, second = run(sys.executable, str(EXAMPLES / "numba_loop.py")).splitlines()
    counts = [int(word) for word in re.findall(r": +(\d+)", first)]
    assert sum(counts) == 200_000 and min(counts) > 90_000
    assert re.findall(r": +(\d+)", second) == ["200000", "0"]
