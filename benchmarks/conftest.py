"""How a benchmark measures, and the table that is printed at the end.

A benchmark measures work beside a reference loop of the host and names what it did::

    def bench_move(measure, lines):
        measure("move_pages", work, per="page", amount=n, reference=lines, target=lines_at(20))

``measure`` repeats the two in turn and keeps CPU and wall time of both.  pytest-benchmark saves the
run; ``extra_info["rows"]`` of each benchmark has what the table shows.
"""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common.reference import Reference, line_updates, locked_adds, small_arrays
from common.rows import Row, Target, beside, latest_run, render, saved_results, without_targets
from common.timing import Samples
from common.workers import SpeedUp

ROWS = pytest.StashKey[list[Row]]()
SAVED = pytest.StashKey[Path | None]()
STORAGE = Path(".benchmarks")
WARM_UPS = 1
BOTH_BUSY = 1.5  # with fewer cores two threads hardly met


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pagemig")
    group.addoption("--smoke", action="store_true", help="small machines, few repetitions")
    group.addoption("--large", action="store_true", help="also what needs many gigabytes")
    group.addoption("--against", type=Path, help="a saved run to compare with; the latest if none")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    config.stash[SAVED] = config.getoption("--against") or latest_run(STORAGE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--large"):
        return
    skip = pytest.mark.skip(reason="needs many gigabytes: --large asks for it")
    for item in items:
        if item.get_closest_marker("large"):
            item.add_marker(skip)


# ---- the host ----------------------------------------------------------------------------------


def cpu_model() -> str:
    """Name of the processor as the kernel reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def caches() -> dict[str, str]:
    """Sizes of the first CPU's data and unified caches, by level."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            if kind != "Instruction":
                level = (index / "level").read_text().strip()
                found[f"L{level}"] = (index / "size").read_text().strip()
        except OSError:
            continue
    return found


def facts() -> dict[str, Any]:
    """What a reader needs to know of the host before comparing figures."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "caches": caches(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "load": os.getloadavg()[0],
    }


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["pagemig"] = facts()


def host_line() -> str:
    known = facts()
    caches = " ".join(f"{name} {size}" for name, size in known["caches"].items())
    return (
        f"host: {known['cpu']}, {known['cores']} cores, {caches}, "
        f"{known['memory_gib']} GiB, load {known['load']:.2f}"
    )


# ---- the table ---------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows, path = config.stash[ROWS], config.stash[SAVED]
    if not rows:
        return
    smoke = config.getoption("--smoke")
    terminalreporter.section("benchmarks (benchmarks/README.md says how to read this)")
    terminalreporter.write_line(host_line())
    terminalreporter.write_line(
        render(without_targets(rows) if smoke else rows, {} if smoke else saved_results(path))
    )
    if path and not smoke:
        terminalreporter.write_line(f"before: {path}")


# ---- fixtures ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def smoke(request: pytest.FixtureRequest) -> bool:
    """Only to see that it runs."""
    return bool(request.config.getoption("--smoke"))


@pytest.fixture(scope="session")
def size(smoke: bool) -> Callable[[int], int]:
    """How many pages or accesses to take: a 64th in a smoke run."""
    return lambda full: max(full // 64, 1) if smoke else full


@pytest.fixture(scope="session")
def lines(size: Callable[[int], int]) -> Reference:
    """The host's random line updates."""
    return line_updates(size(1 << 20))


@pytest.fixture(scope="session")
def locked(size: Callable[[int], int]) -> Reference:
    """The host's locked instructions on what is in its nearest cache."""
    return locked_adds(size(1 << 20))


@pytest.fixture(scope="session")
def arrays(size: Callable[[int], int]) -> Reference:
    """The host's calls of ``numpy.empty``."""
    return small_arrays(size(20_000))


@pytest.fixture
def report(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., None]:
    """Add rows to the table and to what is saved; further keywords are saved beside them."""

    def add(*rows: Row, **info: object) -> None:
        request.config.stash[ROWS].extend(rows)
        benchmark.extra_info.setdefault("rows", []).extend(row.info() for row in rows)
        benchmark.extra_info.update(info)

    return add


@pytest.fixture
def repeat(benchmark: Any, smoke: bool) -> Callable[..., Samples]:
    """Repeat work, something else run before each time; what the repetitions took per unit.

    The first repetition warms up and is left out.
    """

    def run(
        work: Callable[[], object],
        *,
        amount: float,
        between: Callable[[], object],
        rounds: int = 5,
        warm_ups: int = WARM_UPS,
    ) -> Samples:
        samples = Samples()

        def setup() -> None:
            between()

        benchmark.pedantic(
            lambda: samples.time(work, amount),
            setup=setup,
            rounds=2 if smoke else rounds,
            warmup_rounds=warm_ups,
        )
        return samples.since(warm_ups)

    return run


@pytest.fixture
def measure(repeat: Callable[..., Samples], report: Callable[..., None]) -> Callable[..., Row]:
    """Repeat work and reference loops in turn; a row of the table for each reference."""

    def run(
        subject: str,
        work: Callable[[], object],
        *,
        per: str,
        amount: float,
        reference: Reference | Sequence[Reference],
        target: Target | Sequence[Target] | None = None,
        prove: Callable[[], object] = lambda: None,
        rounds: int = 5,
        warm_ups: int = WARM_UPS,
        **info: object,
    ) -> Row:
        references = [reference] if isinstance(reference, Reference) else list(reference)
        targets = [target] if isinstance(target, Target) else list(target or [])
        targets += [None] * (len(references) - len(targets))
        first = [loop.runs + warm_ups for loop in references]

        def between() -> None:
            prove()
            for loop in references:
                loop.run()

        times = repeat(work, amount=amount, between=between, rounds=rounds, warm_ups=warm_ups)
        prove()
        samples = [loop.samples.since(k) for loop, k in zip(references, first, strict=True)]
        rows = [
            beside(subject, per, times, loop, runs, goal)
            for loop, runs, goal in zip(references, samples, targets, strict=True)
        ]
        host = {loop.unit: runs.describe() for loop, runs in zip(references, samples, strict=True)}
        report(*rows, reference=host, **info)
        return rows[0]

    return run


@pytest.fixture
def speed_up(
    benchmark: Any, report: Callable[..., None], smoke: bool
) -> Callable[[str, SpeedUp, SpeedUp], None]:
    """Two threads at once against one after the other, and the same of a loop of the host."""

    def run(
        subject: str,
        pair: SpeedUp,
        host: SpeedUp,
        *,
        per: str,
        target: float,
        prove: Callable[[], object] = lambda: None,
        rounds: int = 7,
    ) -> None:
        def setup() -> None:
            prove()
            host.run()

        benchmark.pedantic(pair.run, setup=setup, rounds=2 if smoke else rounds)
        prove()
        ratio, own = pair.describe(), host.describe()
        goal = Target(target, at_least=True)
        report(
            _speed_up_row(f"{subject}, two threads", per, pair, goal),
            _speed_up_row(f"  host's own loop beside {subject}", "turns", host),
            threads=ratio,
            host_threads=own,
        )

    return run


def _speed_up_row(subject: str, per: str, pair: SpeedUp, goal: Target | None = None) -> Row:
    ratios = pair.describe()
    best, times = ratios["cpu_ratio_best"], pair.times.describe()
    both = ratios["cores_busy"] > BOTH_BUSY
    ratio = ratios["cpu_ratio"]
    return Row(subject, per, times, ratio, best, "one thread", target=goal, steady=both)
