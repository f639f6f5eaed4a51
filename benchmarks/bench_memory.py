"""Bytes of the host for a frame of the model."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
from common.rows import Target, bytes_row
from common.worlds import World, resident

FRAMES = 1 << 22


@pytest.mark.parametrize("scattered", [False, True], ids=["sequential", "scattered"])
def bench_bytes_per_frame(
    benchmark: Any,
    report: Callable[..., None],
    size: Callable[[int], int],
    scattered: bool,
) -> None:
    """All state of a machine with half of its frames mapped, before and after they moved."""
    gc.collect()
    before = resident()
    pages = size(FRAMES) // 2
    world = benchmark.pedantic(
        lambda: World(pages, scattered=scattered, spare=0), rounds=1, iterations=1
    )
    frames = len(world.machine.frames)
    layout = "scattered" if scattered else "sequential"
    filled = (resident() - before - world.own_bytes) / frames
    world.move()
    moved = (resident() - before - world.own_bytes) / frames
    report(
        bytes_row(f"memory, half mapped, {layout}", filled, Target(32)),
        bytes_row(f"memory, half mapped and moved, {layout}", moved),
        frames=frames,
    )
