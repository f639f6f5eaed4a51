"""``move_pages``, ``mbind`` and ``migrate_pages`` without content: what the bookkeeping costs."""

from collections.abc import Callable

import pytest
from common.reference import Reference
from common.rows import lines_at
from common.worlds import Bound, WholeProcess, World

import pagemig as pm

M = 1 << 20


@pytest.mark.parametrize(
    ("pages", "scattered", "rate"),
    [(M, True, 20), (4 * M, True, 16), (M, False, 45), (4 * M, False, 45)],
    ids=["1M-scattered", "4M-scattered", "1M-sequential", "4M-sequential"],
)
def bench_move_pages(
    measure: Callable[..., object],
    lines: Reference,
    size: Callable[[int], int],
    pages: int,
    scattered: bool,
    rate: float,
) -> None:
    world = World(size(pages), scattered=scattered)
    measure(
        f"move_pages, {pages // M}M pages {'scattered' if scattered else 'sequential'}",
        world.move,
        per="pages",
        amount=world.pages,
        reference=lines,
        target=lines_at(rate),
        prove=world.prove,
        rounds=7,
    )


def bench_move_pages_of_four_processes(
    measure: Callable[..., object], lines: Reference, size: Callable[[int], int]
) -> None:
    """Each page is mapped by a process and its three children."""
    world = World(size(M), scattered=True, flags=pm.MPOL_MF_MOVE_ALL)
    children = [world.app.fork() for _ in range(3)]
    assert (world.machine.frames.mapcount[world.frames()] == 1 + len(children)).all()
    measure(
        "move_pages, 4 mappings a page, scattered",
        world.move,
        per="pages",
        amount=world.pages,
        reference=lines,
        target=lines_at(12),
        prove=world.prove,
    )


@pytest.mark.parametrize("scattered", [True, False], ids=["scattered", "sequential"])
@pytest.mark.parametrize("call", ["mbind", "migrate_pages"])
def bench_whole_mapping(
    measure: Callable[..., object],
    lines: Reference,
    size: Callable[[int], int],
    call: str,
    scattered: bool,
) -> None:
    """The calls that walk the page tables for what they move: no list comes in, none goes out."""
    worlds = {
        "mbind": lambda: Bound(size(M), scattered=scattered),
        "migrate_pages": lambda: WholeProcess(size(M), "6.1", scattered=scattered),
    }
    world = worlds[call]()
    measure(
        f"{call}, 1M pages {'scattered' if scattered else 'sequential'}",
        world.move,
        per="pages",
        amount=world.pages,
        reference=lines,
        prove=world.prove,
    )
