"""Machines much larger than the host: time to fill them, to migrate half of them, and memory."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common.reference import Reference
from common.rows import LINE_NS, Row, Target, beside, bytes_row
from common.timing import Samples
from common.worlds import PAGE, SCATTERED, SEQUENTIAL, machine, near_share, resident

import pagemig as pm

#: Pages a call: the lists are the caller's and need not be as long as the memory.
CALL = 1 << 23


class Giant:
    """A process that fills one node of two and moves to the other."""

    def __init__(self, pages: int, scattered: bool, reference: Reference) -> None:
        gc.collect()
        self.before = resident()
        self.pages, self.scattered, self.reference = pages, scattered, reference
        call = min(pages, CALL)
        self._offsets = np.arange(call, dtype=np.uint64) * np.uint64(PAGE)
        self._list = self._offsets.copy()
        self._targets = [np.full(call, nid, dtype=np.int32) for nid in range(2)]
        self._lists = resident() - self.before
        self.machine = machine(pages, scattered=scattered, spare=0)
        self.app = self.machine.spawn()
        self.base = self.app.mmap(pages * PAGE)
        self.side = 0

    def empty(self) -> None:
        """Give every page back."""
        self.app.munmap(self.base, self.pages * PAGE)
        self.base = self.app.mmap(self.pages * PAGE)

    def fill(self) -> None:
        """Touch every page."""
        done = self.app.touch(self.base, self.pages * PAGE, write=True).done
        assert done == self.pages

    def _calls(self) -> Iterator[np.ndarray]:
        for first in range(0, self.pages, len(self._offsets)):
            np.add(self._offsets, np.uint64(self.base + first * PAGE), out=self._list)
            yield self._list[: self.pages - first]

    def migrate(self) -> None:
        """Move every page to the other node."""
        self.side ^= 1
        for addresses in self._calls():
            targets = self._targets[self.side][: len(addresses)]
            assert self.app.move_pages(addresses, targets).not_migrated == 0

    def prove(self) -> None:
        """Assert where the pages are, and that frames of neighbours are neighbours or are not."""
        sample = min(self.pages, CALL)
        frames = self.app.frames(self.base, sample)
        assert (self.machine.node_of(frames) == self.side).all()
        share = near_share(frames)
        assert share < SCATTERED if self.scattered else share > SEQUENTIAL, share

    def time(self, work: Callable[[], None], rounds: int = 1) -> tuple[Samples, Samples]:
        """Times of work per page, and of the reference loop just before each."""
        samples, first = Samples(), self.reference.runs
        for _ in range(rounds):
            self.reference.run()
            samples.time(work, self.pages)
            self.prove()
        return samples, self.reference.samples.since(first)

    @property
    def bytes_per_frame(self) -> float:
        """Memory of the host that it took, without the lists."""
        return (resident() - self.before - self._lists) / (2 * self.pages)


def stages(giant: Giant, name: str, fill: float | None, warm: float, rounds: int) -> list[Row]:
    """Fill, migrate for the first time, migrate again; bytes of half and of all frames."""

    def row(what: str, work: Callable[[], None], seconds: float | None, rounds: int = 1) -> Row:
        times, lines = giant.time(work, rounds)
        target = Target(seconds * 1e9 / giant.pages / LINE_NS) if seconds else None
        return beside(f"{name}: {what}", "pages", times, giant.reference, lines, target)

    filled = row("fill, memory never used", giant.fill, None)
    half = bytes_row(f"{name}: memory, half mapped", giant.bytes_per_frame, Target(36))
    giant.empty()
    again = row("fill", giant.fill, fill)
    cold = row("migrate all, memory never used", giant.migrate, None)
    warmed = row("migrate all", giant.migrate, warm, rounds)
    moved = bytes_row(f"{name}: memory, after migration", giant.bytes_per_frame)
    return [filled, half, again, cold, warmed, moved]


def run(benchmark: Any, report: Callable[..., None], giant: Giant, name: str, **how: Any) -> None:
    benchmark.pedantic(lambda: report(*stages(giant, name, **how)), rounds=1, iterations=1)


@pytest.mark.parametrize(
    ("scattered", "fill"), [(False, 0.3), (True, 0.75)], ids=["sequential", "random"]
)
def bench_64_gib(
    benchmark: Any,
    report: Callable[..., None],
    lines: Reference,
    size: Callable[[int], int],
    scattered: bool,
    fill: float,
) -> None:
    giant = Giant(size(32 * pm.GiB // PAGE), scattered, lines)
    name = f"64 GiB {'random' if scattered else 'sequential'}"
    run(benchmark, report, giant, name, fill=fill, warm=0.5, rounds=3)


def available() -> int:
    """Bytes of memory that the host has left."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


@pytest.mark.large
def bench_1_tib(
    benchmark: Any, report: Callable[..., None], lines: Reference, size: Callable[[int], int]
) -> None:
    pages = size(512 * pm.GiB // PAGE)
    if available() < 2 * pages * 48:
        pytest.skip(f"needs {2 * pages * 48 / 2**30:.0f} GiB of memory left")
    giant = Giant(pages, False, lines)
    run(benchmark, report, giant, "1 TiB", fill=None, warm=4.0, rounds=2)
