"""What is written to a file is there whole, whenever the writer is killed."""

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pagemig as pm
from pagemig.files import replaced
from pagemig.trace import load

#: Writes small and large ones in turn, for as long as it lives.
WRITER = """
import sys, itertools
from pathlib import Path
import numpy as np
import pagemig as pm
from pagemig import report
from pagemig.trace import Trace
kind, path = sys.argv[1], Path(sys.argv[2])
def machine(size):
    made = pm.Machine(["8MiB"], page_bytes=4096)
    process = made.spawn()
    process.touch(process.mmap(size * pm.PAGE_SIZE), size * pm.PAGE_SIZE, write=True)
    return made.save
def trace(size):
    return Trace.from_accesses(np.arange(size * 100)).save
def rows(size):
    return lambda to: report.save([{"n": n} for n in range(size * 10)], to)
def page(size):
    return lambda to: report.save_page("t", [("", "x" * size * 1000)], to)
make = {"machine": machine, "trace": trace, "rows": rows, "page": page}[kind]
saves = [make(3), make(900)]
print("ready", flush=True)
for save in itertools.cycle(saves):
    save(path)
"""


def pages_of(path: Path) -> int:
    machine = pm.Machine.load(path)
    machine.check(full=True)
    return sum(process.vmas()[0].length for process in machine.processes) // pm.PAGE_SIZE


def length_of(path: Path) -> int:
    """How long the text of a page is; it ends where a page does."""
    assert path.read_text().endswith("</html>\n")
    return len(path.read_text().partition("<pre>")[2].partition("</pre>")[0])


#: How to read a file of each kind, and what either save leaves to read.
READERS: dict[str, tuple[Callable[[Path], int], set[int]]] = {
    "machine": (pages_of, {3, 900}),
    "trace": (lambda path: load(path).accesses, {300, 90_000}),
    "rows": (lambda path: len(json.loads(path.read_text())), {30, 9000}),
    "page": (length_of, {3000, 900_000}),
}


@pytest.mark.parametrize("kind", list(READERS))
def test_kill_9_leaves_a_whole_file_and_the_next_writer_nothing_beside_it(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / ("x.json" if kind == "rows" else "x")
    read, whole = READERS[kind]
    rng, left = random.Random(5), 0
    until = time.monotonic() + (3 if kind == "machine" else 1)
    while time.monotonic() < until:
        command = [sys.executable, "-c", WRITER, kind, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            while not path.exists():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.1))
            writer.kill()
        assert read(path) in whole
        assert len(list(tmp_path.iterdir())) <= 2  # what an earlier writer left is gone
        left += len(list(tmp_path.glob(".x*.part")))
    if kind == "machine":
        assert left  # the test has met what it is about
    with replaced(path) as file:
        file.write(b"")
    assert {one.name for one in tmp_path.iterdir()} == {path.name}


def test_a_writer_at_work_keeps_its_file(tmp_path: Path) -> None:
    """Two writers of one file: each writes its own, and the last one to end is what is there."""
    path = tmp_path / "x"
    with replaced(path) as first:
        first.write(b"first")

        def other() -> None:
            with replaced(path) as file:
                file.write(b"second")

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert [one.name for one in tmp_path.iterdir()] == ["x"]
