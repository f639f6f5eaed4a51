"""What every benchmark is printed with: the machine, and units a person can compare.

A benchmark names its unit of work with ``units``::

    def bench_move(benchmark, units):
        benchmark(process.move_pages, pages, nodes)
        units(pages=len(pages))

and its row in the saved JSON gains ``pages`` and ``pages_per_s`` (of the fastest round: on a
shared host the minimum is the repeatable figure, the median is not).
"""

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


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


def pytest_report_header(config: pytest.Config) -> str:
    known = facts()
    caches = " ".join(f"{name} {size}" for name, size in known["caches"].items())
    return (
        f"host: {known['cpu']}, {known['cores']} cores, {caches}, "
        f"{known['memory_gib']} GiB, load {known['load']:.2f}"
    )


@pytest.fixture
def units(benchmark: Any) -> Callable[..., None]:
    """Record how much work one round did, by unit; rates follow from the fastest round."""

    def record(**amounts: float) -> None:
        for unit, amount in amounts.items():
            benchmark.extra_info[unit] = amount
            if benchmark.stats:
                fastest = benchmark.stats.stats.min
                benchmark.extra_info[f"{unit}_per_s"] = amount / fastest

    return record
