"""One page per call from Python: what a person's loop pays besides the migration."""

from collections.abc import Callable
from itertools import repeat

import numpy as np
import pytest
from common.reference import Reference
from common.rows import calls_of
from common.worlds import World


def arrays_of(world: World) -> tuple[object, list[object]]:
    return world.addresses[:1].copy(), [np.array([nid], dtype=np.int32) for nid in range(2)]


def lists_of(world: World) -> tuple[object, list[object]]:
    return [int(world.addresses[0])], [[0], [1]]


def queries(world: World, calls: int, of: Callable[[World], tuple]) -> Callable[[], None]:
    """Ask where a page is, over and over."""
    page, _ = of(world)
    call = world.app.move_pages

    def work() -> None:
        for _ in repeat(None, calls):
            call(page, None)

    return work


def moves(world: World, calls: int, of: Callable[[World], tuple]) -> Callable[[], None]:
    """Move a page to the other node and back."""
    page, (home, away) = of(world)
    call = world.app.move_pages

    def work() -> None:
        for _ in repeat(None, calls // 2):
            call(page, away)
            call(page, home)

    return work


@pytest.mark.parametrize("of", [arrays_of, lists_of], ids=["arrays", "lists"])
@pytest.mark.parametrize(("make", "most_us"), [(queries, 1.5), (moves, 3.0)], ids=["query", "move"])
def bench_call(
    measure: Callable[..., object],
    arrays: Reference,
    size: Callable[[int], int],
    of: Callable[[World], tuple],
    make: Callable[..., Callable[[], None]],
    most_us: float,
) -> None:
    calls = size(20_000) // 2 * 2
    world = World(64, scattered=True)
    extra = 1.0 if of is lists_of else 0.0
    measure(
        f"one page per call: {make.__name__}, {of.__name__.removesuffix('_of')}",
        make(world, calls, of),
        per="calls",
        amount=calls,
        reference=arrays,
        target=calls_of(most_us + extra),
        rounds=9,
    )
