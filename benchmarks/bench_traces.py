"""Traces and automatic migration: saving, loading, parsing, and a policy from file to result."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from common import traces
from common.reference import Reference
from common.rows import lines_at

from pagemig.studies.replay import Plan
from pagemig.trace import Trace, TraceFile, load
from pagemig.trace.parse import Lackey

ACCESSES = 10_000_000
PAGES = 1 << 16
LINES = 2_000_000


@pytest.fixture(scope="module")
def trace(size: Callable[[int], int]) -> Trace:
    """Skewed accesses to 256 MiB."""
    rng = np.random.default_rng(1)
    n = size(ACCESSES)
    return Trace.from_accesses(traces.zipf(PAGES, n, rng), traces.writes(n, rng))


@pytest.fixture(scope="module")
def saved(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "bench.pmt"
    trace.save(path)
    return path


def bench_save(
    measure: Callable[..., object], lines: Reference, trace: Trace, tmp_path: Path
) -> None:
    """Ten million accesses in two seconds."""
    measure(
        "trace, save",
        lambda: trace.save(tmp_path / "bench.pmt"),
        per="accesses",
        amount=trace.accesses,
        reference=lines,
        target=lines_at(5),
    )
    assert load(tmp_path / "bench.pmt").accesses == trace.accesses


def bench_load(measure: Callable[..., object], lines: Reference, trace: Trace, saved: Path) -> None:
    """Ten million accesses in a fifth of a second."""
    measure(
        "trace, load",
        lambda: load(saved),
        per="accesses",
        amount=trace.accesses,
        reference=lines,
        target=lines_at(50),
    )
    read = load(saved)
    assert (read.index.size, read.footprint) == (trace.index.size, trace.footprint)


@pytest.mark.parametrize("policy", ["first-touch", "off-node", "hemem"])
def bench_policy(
    measure: Callable[..., object], lines: Reference, trace: Trace, saved: Path, policy: str
) -> None:
    """From a file to what the policy came to, in memory bounded by the footprint."""
    done = []

    def replay() -> None:
        with TraceFile(saved) as file:
            done.append(Plan(file).run(policy))

    measure(
        f"trace, replay, {policy}",
        replay,
        per="accesses",
        amount=trace.accesses,
        reference=lines,
        target=lines_at({"first-touch": 50, "off-node": 40, "hemem": 15}[policy]),
    )
    assert all(run.traffic.accesses.sum() == trace.accesses for run in done)


def bench_parse_lackey(
    measure: Callable[..., object], lines: Reference, size: Callable[[int], int]
) -> None:
    """Lines of valgrind's lackey, three fetches for each access."""
    rng = np.random.default_rng(2)
    n = size(LINES // 4)
    rows = []
    for address, fetch in zip(
        rng.integers(0, 1 << 47, n).tolist(), rng.integers(0, 1 << 32, n).tolist(), strict=True
    ):
        rows += [f"I  {fetch + k * 4:08x},4" for k in range(3)] + [f" L {address:08x},8"]
    text = ("\n".join(rows) + "\n").encode()
    found = []
    measure(
        "trace, parse, lackey",
        lambda: found.append(Lackey(skip=False).feed(text)[0].size),
        per="lines",
        amount=4 * n,
        reference=lines,
        target=lines_at(20),
    )
    assert set(found) == {n}
