"""The n-th allocation of host memory fails, n = 1, 2, ..., in every call, until it needs no more.

``python tests/support/faults.py KERNEL ...`` builds ``faults.c``, preloads it into a process of its
own for each kernel, and prints what broke. A call that fails says what ran out (`MemoryError`, or
ENOMEM of the modelled kernel); the machine is whole, what memory held it holds still, and the same
call works afterwards.
"""

import ctypes
import errno
import faulthandler
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pagemig as pm
from support.every_call import OF_2006, PAGE, PUBLIC, World

#: Allocations of one call: more than any has.
MOST = 300
HOST = {errno.ENOMEM}


def build(folder: Path) -> Path:
    """Compile the library to preload."""
    library = folder / "faults.so"
    source = Path(__file__).with_suffix(".c")
    compiler = os.environ.get("CC", "cc").split()
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    subprocess.run([*compiler, *flags, "-o", library, source, "-ldl"], check=True)
    return library


class Faults:
    """The preloaded library."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self.arm: Callable[[int, int], None] = library.faults_arm
        library.faults_arm.argtypes = [ctypes.c_long, ctypes.c_int]
        library.faults_arm.restype = None
        self.disarm: Callable[[], int] = library.faults_disarm
        library.faults_disarm.restype = ctypes.c_long

    def during(
        self, call: Callable[[], Any], n: int, *, every: bool
    ) -> tuple[int, Exception | None]:
        """Make a call whose n-th allocation fails: how many did, and what it raised."""
        self.arm(n, every)
        try:
            call()
        except Exception as error:
            return self.disarm(), error
        return self.disarm(), None


def names_what_ran_out(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in HOST)


class Holding(World):
    """A world whose memory holds numbers."""

    def __init__(self, kernel: str) -> None:
        super().__init__(kernel)
        self.app.touch(self.base, 8 * PAGE, write=True, values=range(1, 9))

    def whole(self) -> None:
        self.machine.check(full=True)
        if self.app.alive:
            found = self.app.touch(self.base, 8 * PAGE)
            assert found.values is not None and found.values.tolist() == list(range(1, 9))
        assert self.other.touch(self.other.mmap(PAGE), PAGE, write=True).done == 1


def a_call(faults: Faults, name: str, kernel: str, *, every: bool) -> Iterator[str]:
    """Fail each allocation of a call; what was wrong with that."""
    usual = faults.during(lambda: PUBLIC[name](Holding(kernel)), MOST**2, every=every)[1]
    for n in count():
        world = Holding(kernel)
        killed = len(world.machine.processes)
        make = partial(PUBLIC[name], world)
        failed, error = faults.during(make, n, every=every)
        what = f"{name} {kernel}: allocation {n + 1}"
        if failed and error is not None and not names_what_ran_out(error):
            yield f"{what}: {type(error).__name__}: {error}"
        if not failed and str(error) != str(usual):
            yield f"{what}: no allocation failed, but {type(error).__name__}: {error}"
        try:
            world.whole()
            if failed and len(world.machine.processes) >= killed and world.app.alive:
                again = faults.during(make, MOST**2, every=every)[1]
                assert str(again) == str(usual)
                world.machine.check(full=True)
        except Exception as broken:
            yield f"{what}: afterwards {type(broken).__name__}: {broken}"
        if not failed:
            return
        assert n < MOST, f"{name} has no end"


def a_machine(faults: Faults, kernel: str, *, every: bool) -> Iterator[str]:
    """The same while a machine comes into being."""
    for n in count():
        failed, error = faults.during(lambda: World(kernel), n, every=every)
        if failed and not (error is not None and names_what_ran_out(error)):
            yield f"Machine {kernel}: allocation {n + 1}: {error!r}"
        if not failed:
            return
        assert n < MOST, "a machine has no end"


def work(kernel: str) -> int:
    """Every call under one kernel, in this process."""
    faults, wrong, tried = Faults(), 0, 0
    has = pm.KERNELS[kernel]
    names = [name for name in PUBLIC if has.four_lists or not name.endswith("migrate_lists")]
    names = [name for name in names if has.swap or name.partition(".")[2] not in OF_2006]
    for every in (False, True):
        for text in a_machine(faults, kernel, every=every):
            print(text, flush=True)
            wrong += 1
        for name in names:
            print(f"# {name} {kernel}", file=sys.stderr, flush=True)
            for text in a_call(faults, name, kernel, every=every):
                print(text, flush=True)
                wrong += 1
            tried += 1
    print(f"# {kernel}: {tried} calls, {wrong} findings", flush=True)
    return 1 if wrong else 0


def run(kernel: str, library: Path) -> subprocess.CompletedProcess[str]:
    """One kernel in a process of its own."""
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONFAULTHANDLER": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    return subprocess.run(
        [sys.executable, __file__, "--work", kernel],
        env=environment,
        capture_output=True,
        text=True,
    )


def main(kernels: list[str]) -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
        for kernel in kernels or list(pm.KERNELS):
            ended = run(kernel, library)
            print(ended.stdout, end="", flush=True)
            if ended.returncode not in (0, 1):
                print(f"{kernel}: exit {ended.returncode}\n{ended.stderr[-3000:]}", flush=True)
            failed |= ended.returncode != 0
    return failed


if __name__ == "__main__":
    faulthandler.enable()
    if sys.argv[1:2] == ["--work"]:
        sys.exit(work(sys.argv[2]))
    sys.exit(main(sys.argv[1:]))
