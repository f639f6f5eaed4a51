"""Stores in place of locked instructions are atomic, since other threads may read the word.

``make mutants`` makes one of them plain at a time, in a build under ThreadSanitizer, which must
report it while this test runs.
"""

import re
from pathlib import Path

import numpy as np
import pytest

import pagemig as pm
from support.together import PAGE, STRESS, together

pytestmark = pytest.mark.threads

HEADER = Path(__file__).parents[2] / "pagemig" / "include" / "pagemig" / "sole.h"


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "2.6.17-mm", "2.6.18"])
def test_frames_are_looked_at_by_number_while_they_move(kernel: str) -> None:
    """A call by frame number may read a frame at any time, and accesses read every entry."""
    n = 256
    nodes = [pm.Node(2 * n * PAGE, cpus=1), pm.Node(2 * n * PAGE, cpus=1)]
    m = pm.Machine(nodes, kernel=kernel, access_stats=True)
    app = m.spawn()
    base = app.mmap(n * PAGE)
    app.touch(base, n * PAGE, write=True)
    pfns = np.arange(1, 4 * n, dtype=np.uint32)
    over = 1 - m.node_of(pfns)
    trace = base + np.random.default_rng(5).integers(0, n * PAGE, 20_000).astype(np.uint64)

    def back_and_forth() -> None:
        for _ in range(40 * STRESS):
            app.migrate_pages({0}, {1})
            app.migrate_pages({1}, {0})

    def by_number() -> None:
        m.migrate_frames(pfns, over)

    together([back_and_forth], [by_number, lambda: app.access(trace, write=True)])
    m.check(full=True)
    assert app.touch(base, n * PAGE).done == n


if __name__ == "__main__":  # what `make mutants` makes plain
    print(*re.findall(r"S\((SOLE_\w+)\)", HEADER.read_text()))
