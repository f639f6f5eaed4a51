"""What is written to a file is there whole, whenever the writer is killed."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import pagemig as pm
from pagemig.files import replaced
from pagemig.trace import load

#: Writes a small one, and dies while it writes a large one: after a share of its bytes, when it
#: renames the file, or right after that.
WRITER = """
import os, resource, signal, sys, tempfile
from pathlib import Path
import numpy as np
import pagemig as pm
from pagemig import report
from pagemig.trace import Trace
kind, path, when = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
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
make(3)(path)
save = make(900)
with tempfile.TemporaryDirectory() as folder:
    save(Path(folder, path.name))
    size = Path(folder, path.name).stat().st_size
before = None
def event(name, _):
    global before
    at, before = before if when == "after" else name, name
    if at == "os.rename":
        signal.raise_signal(signal.SIGKILL)
if when in ("after", "os.rename"):
    sys.addaudithook(event)
else:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(float(when) * size), size))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
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


#: How to read a file of each kind, and what the small and the large one read as.
READERS: dict[str, tuple[Callable[[Path], int], int, int]] = {
    "machine": (pages_of, 3, 900),
    "trace": (lambda path: load(path).accesses, 300, 90_000),
    "rows": (lambda path: len(json.loads(path.read_text())), 30, 9000),
    "page": (length_of, 3000, 900_000),
}


@pytest.mark.parametrize("kind", list(READERS))
def test_a_killed_writer_leaves_a_whole_file_and_the_next_one_nothing_beside_it(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / ("x.json" if kind == "rows" else "x")
    read, small, large = READERS[kind]
    for when in ("0.5", "os.rename", "after"):
        ended = subprocess.run([sys.executable, "-c", WRITER, kind, str(path), when])
        assert -ended.returncode in (signal.SIGKILL, signal.SIGXFSZ)
        assert read(path) == (large if when == "after" else small)
        left = list(tmp_path.glob(".x*.part"))  # what an earlier writer left is gone
        assert len(left) == (when != "after")
        assert len(list(tmp_path.iterdir())) == 1 + len(left)
        with replaced(path) as file:
            file.write(b"")
        assert list(tmp_path.iterdir()) == [path]


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
