"""Two threads, each migrating the pages of a process of its own."""

from collections.abc import Callable

import numpy as np
import pytest
from common.reference import Lines, bytes_of
from common.workers import SpeedUp
from common.worlds import World, machine

from pagemig.testing import host


def two_worlds(pages: int, **options: int) -> list[World]:
    """Two processes on one machine, one on each node."""
    shared = machine(2 * pages, scattered=True, **options)
    return [World(pages, scattered=True, on=shared, cpu=k) for k in range(2)]


def host_updates(worlds: list[World]) -> SpeedUp:
    lines = [Lines(4 * world.pages, seed=k) for k, world in enumerate(worlds)]
    return SpeedUp([each.update for each in lines], sum(map(len, lines)))


def host_copies(worlds: list[World]) -> SpeedUp:
    """Copy the frames of a process to those it has after a move, over and over.

    Others' bytes may be in them by then: nothing here reads what pages hold.
    """

    def copying(world: World) -> Callable[[], None]:
        sources = world.frames().astype(np.uint32)
        world.move()
        targets = world.frames().astype(np.uint32)
        memory = bytes_of(world.machine.content)
        return lambda: host.copy_pages(memory, targets, sources, "pairs")

    return SpeedUp([copying(world) for world in worlds], sum(world.pages for world in worlds))


@pytest.mark.parametrize(
    ("page_bytes", "pages", "target"),
    [(0, 1 << 20, 1.7), (4096, 1 << 16, 1.8)],
    ids=["metadata", "payload"],
)
def bench_two_workers(
    speed_up: Callable[..., None],
    size: Callable[[int], int],
    page_bytes: int,
    pages: int,
    target: float,
) -> None:
    worlds = two_worlds(size(pages), page_bytes=page_bytes)
    host = host_copies(worlds) if page_bytes else host_updates(worlds)
    pair = SpeedUp([world.move for world in worlds], sum(world.pages for world in worlds))

    def prove() -> None:
        for world in worlds:
            world.prove()

    speed_up(
        f"move_pages{' with payload' if page_bytes else ''}",
        pair,
        host,
        per="pages",
        target=target,
        prove=prove,
    )
