"""First touch of fresh anonymous memory."""

from collections.abc import Callable

import pytest
from common.reference import Reference
from common.rows import lines_at
from common.worlds import PAGE, SCATTERED, SEQUENTIAL, machine, near_share


class Fresh:
    """A process that maps, fills and unmaps memory."""

    def __init__(self, pages: int, scattered: bool) -> None:
        self.pages, self.scattered = pages, scattered
        self.app = machine(pages, scattered=scattered).spawn()
        self.base = 0

    def remap(self) -> None:
        """Prove where the frames of the last repetition were, and map anew."""
        if self.base:
            self._prove()
            self.app.munmap(self.base, self.pages * PAGE)
        self.base = self.app.mmap(self.pages * PAGE)

    def _prove(self) -> None:
        share = near_share(self.app.pagemap(self.base, self.pages) << 9 >> 9)
        assert share < SCATTERED if self.scattered else share > SEQUENTIAL

    def touch(self) -> None:
        """Write every page once."""
        assert self.app.touch(self.base, self.pages * PAGE, write=True).minflt == self.pages


@pytest.mark.parametrize("scattered", [False, True], ids=["sequential", "scattered"])
def bench_fault_in(
    measure: Callable[..., object],
    lines: Reference,
    size: Callable[[int], int],
    scattered: bool,
) -> None:
    fresh = Fresh(size(1 << 20), scattered)
    measure(
        f"fault-in, {'scattered' if scattered else 'sequential'} frames",
        fresh.touch,
        per="pages",
        amount=fresh.pages,
        reference=lines,
        target=lines_at(15),
        prove=fresh.remap,
    )
