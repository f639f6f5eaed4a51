"""``migrate_pages`` under the kernels of 2006, beside today's: what each design costs the host.

Swap entries cost most: a slot and a place in the swap cache for every page, taken and given back.
The two kernels with four lists give a target to whichever page gets as far as needing one: a stage
hands those of pages that fail on to the next.
"""

from collections.abc import Callable

import pytest
from common.reference import Reference
from common.worlds import WholeProcess

import pagemig as pm

PAGES = 100_000


@pytest.mark.parametrize("kernel", ["2.6.17", "2.6.17-mm", "2.6.18", "pmig", "6.1"])
def bench_migrate_pages(
    measure: Callable[..., object], lines: Reference, size: Callable[[int], int], kernel: str
) -> None:
    world = WholeProcess(size(PAGES), kernel)
    before = world.machine.counters
    measure(
        f"migrate_pages under {kernel}, scattered",
        world.move,
        per="pages",
        amount=world.pages,
        reference=lines,
        prove=world.prove,
        rounds=9,
        kernel=kernel,
    )
    after = world.machine.counters
    grown = {name: after[name] - before[name] for name in ("pgmigrate_success", "swap_slots")}
    assert grown["pgmigrate_success"] >= world.pages
    swaps = pm.KERNELS[kernel].engine == 1
    assert grown["swap_slots"] == (grown["pgmigrate_success"] if swaps else 0)
