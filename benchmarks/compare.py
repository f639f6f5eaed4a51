"""Two checkouts against each other: time in alternating pairs, and instructions of the inner loops.

    python benchmarks/compare.py OLD NEW [--pairs 20] [--rows move,mbind] [--instructions]

Both are built trees (``make build``); this Python runs them. Each row runs in a process of its own
with each tree's modules, turn by turn. Time is CPU time of the thread for one page, access or call:
median and least of each tree, the ratio new to old as the median of pairs with its 95 % interval,
and beside it the interval of the old tree against itself, which shows the noise of the host.
``--instructions`` counts with ``valgrind --tool=cachegrind`` instead: of four turns less one, so
that neither the interpreter nor the set-up counts; it repeats within 0.5 %.

A row is slower where its interval lies above both 1.03 and the old tree's own.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = 4096
LEAST = 0.05  # seconds that a measured turn takes at least

Work = Callable[[], object]


# -- rows: by the public interface alone. A row answers its work and the units of a turn ----------


def world(pages: int, kernel: str, *, scattered: bool = False, **options: Any) -> Any:
    """A process that wrote ``pages`` pages of node 0, and the module."""
    import pagemig as pm

    room = f"{4 * pages * PAGE}"
    if pm.KERNELS[kernel].engine == 1:
        options["swap"] = [int(room)]
    machine = pm.Machine(
        [pm.Node(int(room), cpus=1), pm.Node(int(room))],
        kernel=kernel,
        scatter=1 if scattered else None,
        **options,
    )
    app = machine.spawn()
    base = app.mmap(pages * PAGE)
    app.touch(base, pages * PAGE, write=True)
    return pm, machine, app, base


def moving(pages: int, kernel: str, scattered: bool, mappers: int = 1) -> tuple[Work, int]:
    import numpy as np

    pm, _, app, base = world(pages, kernel, scattered=scattered)
    children = [app.fork() for _ in range(mappers - 1)]
    addresses = base + np.arange(pages, dtype=np.uint64) * PAGE
    nodes = [np.full(pages, nid, np.int32) for nid in range(2)]
    flags = pm.MPOL_MF_MOVE_ALL if children else pm.MPOL_MF_MOVE

    def work() -> None:
        for to in (1, 0):
            assert app.move_pages(addresses, nodes[to], flags).rc == 0, children

    return work, 2 * pages


def migrating(pages: int, kernel: str) -> tuple[Work, int]:
    _, _, app, _ = world(pages, kernel, scattered=True)

    def work() -> None:
        app.migrate_pages({0}, {1})
        app.migrate_pages({1}, {0})

    return work, 2 * pages


def binding(pages: int, kernel: str) -> tuple[Work, int]:
    pm, _, app, base = world(pages, kernel, scattered=True)

    def work() -> None:
        for to in (1, 0):
            app.mbind(base, pages * PAGE, pm.Bind([to]), pm.MPOL_MF_MOVE)

    return work, 2 * pages


def framing(pages: int, kernel: str) -> tuple[Work, int]:
    import numpy as np

    _, machine, app, base = world(pages, kernel)
    there = [np.full(pages, nid, np.int32) for nid in range(2)]

    def work() -> None:
        for to in (1, 0):
            pfns = (app.pagemap(base, pages) & ((1 << 55) - 1)).astype(np.uint32)
            machine.migrate_frames(pfns, there[to])

    return work, 2 * pages


def single(pages: int, kernel: str) -> tuple[Work, int]:
    import numpy as np

    _, _, app, base = world(64, kernel)
    page = np.array([base], np.uint64)
    nodes = [np.array([nid], np.int32) for nid in range(2)]

    def work() -> None:
        for _ in range(pages):
            app.move_pages(page, nodes[1])
            app.move_pages(page, nodes[0])

    return work, 2 * pages


def copying(pages: int, kernel: str) -> tuple[Work, int]:
    import numpy as np

    _, _, app, base = world(pages, kernel, scattered=True, page_bytes=PAGE)
    addresses = base + np.arange(pages, dtype=np.uint64) * PAGE

    def work() -> None:
        for to in (1, 0):
            app.move_pages(addresses, to)

    return work, 2 * pages


def touching(pages: int, kernel: str) -> tuple[Work, int]:
    _, _, app, base = world(pages, kernel)

    def work() -> None:
        app.munmap(base, pages * PAGE)
        app.mmap(pages * PAGE, addr=base)
        app.touch(base, pages * PAGE, write=True)

    return work, pages


def forking(pages: int, kernel: str) -> tuple[Work, int]:
    _, _, app, _ = world(pages, kernel)

    def work() -> None:
        app.fork().exit()

    return work, pages


def accessing(pages: int, kernel: str, *, stores: bool = False) -> tuple[Work, int]:
    import numpy as np

    _, _, app, base = world(pages, kernel, access_stats=True)
    draw = np.random.default_rng(1)
    addresses = (base + draw.integers(0, pages, 4 * pages) * PAGE).astype(np.uint64)
    writes = draw.random(4 * pages) < 0.3 if stores else False

    def work() -> None:
        app.access(addresses, write=writes)

    return work, 4 * pages


def protecting(pages: int, kernel: str) -> tuple[Work, int]:
    _, _, app, base = world(pages, kernel)

    def work() -> None:
        app.mprotect(base, pages * PAGE, "r")
        app.mprotect(base, pages * PAGE, "rw")

    return work, 2 * pages


M = 1 << 20
ROWS: dict[str, Callable[[], tuple[Work, int]]] = {
    "move 6.1 sequential": lambda: moving(M, "6.1", False),
    "move 6.1 scattered": lambda: moving(M, "6.1", True),
    "move 6.1 sequential, 4 mappings": lambda: moving(M // 4, "6.1", False, 4),
    "move 6.1 scattered, 4 mappings": lambda: moving(M // 4, "6.1", True, 4),
    "move 6.12 sequential": lambda: moving(M, "6.12", False),
    "move 6.12 scattered": lambda: moving(M, "6.12", True),
    "move 6.12 sequential, 4 mappings": lambda: moving(M // 4, "6.12", False, 4),
    "move 6.12 scattered, 4 mappings": lambda: moving(M // 4, "6.12", True, 4),
    "move pmig": lambda: moving(M // 16, "pmig", True),
    "migrate 2.6.17": lambda: migrating(M // 16, "2.6.17"),
    "migrate 2.6.17-mm": lambda: migrating(M // 16, "2.6.17-mm"),
    "migrate 2.6.18": lambda: migrating(M // 16, "2.6.18"),
    "migrate pmig": lambda: migrating(M // 16, "pmig"),
    "migrate 6.1": lambda: migrating(M, "6.1"),
    "migrate 6.12": lambda: migrating(M, "6.12"),
    "mbind 6.1": lambda: binding(M, "6.1"),
    "mbind 6.12": lambda: binding(M, "6.12"),
    "frames 6.1": lambda: framing(M // 4, "6.1"),
    "payload 6.1": lambda: copying(M // 16, "6.1"),
    "one page a call 6.1": lambda: single(10_000, "6.1"),
    "touch 6.1": lambda: touching(M // 4, "6.1"),
    "fork and exit 6.1": lambda: forking(M // 4, "6.1"),
    "access 6.1": lambda: accessing(M // 4, "6.1"),
    "access 6.1, loads and stores": lambda: accessing(M // 4, "6.1", stores=True),
    "mprotect 6.1": lambda: protecting(M // 4, "6.1"),
}


# -- a process: one row in one tree ----------------------------------------------------------------


def measured(name: str) -> None:
    """Print nanoseconds of CPU time a unit: the quickest of some turns."""
    work, units = ROWS[name]()
    work()
    best, spent = float("inf"), 0.0
    while spent < 4 * LEAST:
        begin = time.thread_time()
        work()
        took = time.thread_time() - begin
        best, spent = min(best, took), spent + took
    print(json.dumps(best / units * 1e9))


def repeated(name: str, turns: int) -> None:
    """Do the work so many times, with a 16th of the pages: valgrind is slow."""
    globals()["M"] = M // 16
    work, units = ROWS[name]()
    for _ in range(1 + turns):
        work()
    print(json.dumps(units))


# -- the trees -------------------------------------------------------------------------------------


def run(
    tree: Path, *arguments: str, under: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    # The path comes before a tree that is installed to be edited, which would be measured twice.
    path = {"PYTHONPATH": str(tree), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*under, sys.executable, str(Path(__file__).resolve()), *arguments],
        cwd=tree,
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        check=True,
    )


def nanoseconds(tree: Path, row: str) -> float:
    return float(json.loads(run(tree, "--measure", row).stdout))


def instructions(tree: Path, row: str) -> float:
    """Instructions a unit: of four turns more, three less the set-up."""
    valgrind = (
        "valgrind",
        "--tool=cachegrind",
        "--cache-sim=no",
        "--cachegrind-out-file=/dev/null",
    )
    counts, units = [], 1
    for turns in (1, 4):
        done = run(tree, "--repeat", row, str(turns), under=valgrind)
        units = int(json.loads(done.stdout))
        found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
        assert found, done.stderr
        counts.append(int(found[1].replace(",", "")))
    return (counts[1] - counts[0]) / (3 * units)


def interval(ratios: list[float]) -> tuple[float, float]:
    """95 % interval of the median: drawn again a thousand times, from a fixed seed."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(1000))
    return medians[25], medians[974]


def compare_times(old: Path, new: Path, rows: list[str], pairs: int) -> None:
    print(f"{'ns, CPU':34}      old    least      new    least   ratio  95 %, old against itself")
    for row in rows:
        was: list[float] = []
        now: list[float] = []
        same: list[float] = []
        for pair in range(pairs):
            turns = [(old, was), (new, now), (old, same)]
            for tree, times in turns if pair % 2 else reversed(turns):
                times.append(nanoseconds(tree, row))
        ratios = [n / o for o, n in zip(was, now, strict=True)]
        low, high = interval(ratios)
        low0, high0 = interval([s / o for o, s in zip(was, same, strict=True)])
        sides = "".join(f" {statistics.median(side):8.2f} {min(side):8.2f}" for side in (was, now))
        slower = "  slower" if low > max(1.03, high0) else ""
        print(
            f"{row:34}{sides}  {statistics.median(ratios):6.3f}"
            f"  {low:.3f}-{high:.3f}, {low0:.3f}-{high0:.3f}{slower}",
            flush=True,
        )


def compare_instructions(old: Path, new: Path, rows: list[str]) -> None:
    print(f"{'instructions':34} {'old':>9} {'new':>9}  {'ratio':>6}")
    for row in rows:
        was, now = instructions(old, row), instructions(new, row)
        more = "  more" if now > 1.03 * was else ""
        print(f"{row:34} {was:9.1f} {now:9.1f}  {now / was:6.3f}{more}", flush=True)


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "--measure":
        measured(sys.argv[2])
        return
    if len(sys.argv) > 3 and sys.argv[1] == "--repeat":
        repeated(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=20, help="of turns; 20 unless given")
    parser.add_argument("--rows", default="", help="parts of names, by commas; all unless given")
    parser.add_argument("--instructions", action="store_true", help="count them, instead of time")
    args = parser.parse_args()
    wanted = args.rows.split(",")
    rows = [row for row in ROWS if any(part in row for part in wanted)]
    old, new = args.old.resolve(), args.new.resolve()
    if args.instructions:
        compare_instructions(old, new, rows)
    else:
        compare_times(old, new, rows, args.pairs)


if __name__ == "__main__":
    main()
