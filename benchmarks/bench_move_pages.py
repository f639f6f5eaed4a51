"""``move_pages``, ``mbind`` and ``migrate_pages`` without content: what the bookkeeping costs."""

from collections.abc import Callable

import pytest
from common.reference import Reference
from common.rows import Target, lines_at
from common.worlds import Bound, WholeProcess, World

import pagemig as pm

M = 1 << 20


@pytest.mark.parametrize(
    ("pages", "rate"), [(M, 20), (4 * M, 16)], ids=["1M-scattered", "4M-scattered"]
)
def bench_move_pages_scattered(
    measure: Callable[..., object],
    lines: Reference,
    size: Callable[[int], int],
    pages: int,
    rate: float,
) -> None:
    """Bound by the lines of the two frames."""
    world = World(size(pages), scattered=True)
    measure(
        f"move_pages, {pages // M}M pages scattered",
        world.move,
        per="pages",
        amount=world.pages,
        reference=lines,
        target=lines_at(rate),
        prove=world.prove,
        rounds=7,
    )


@pytest.mark.parametrize("pages", [M, 4 * M], ids=["1M-sequential", "4M-sequential"])
def bench_move_pages_sequential(
    measure: Callable[..., object],
    locked: Reference,
    lines: Reference,
    size: Callable[[int], int],
    pages: int,
) -> None:
    """The lines come by themselves: bound by locked instructions, which ``make locked`` counts."""
    world = World(size(pages), scattered=False)
    measure(
        f"move_pages, {pages // M}M pages sequential",
        world.move,
        per="pages",
        amount=world.pages,
        reference=[locked, lines],
        prove=world.prove,
        rounds=7,
    )


@pytest.mark.parametrize("mappings", [1, 4])
@pytest.mark.parametrize("scattered", [True, False], ids=["scattered", "sequential"])
@pytest.mark.parametrize("kernel", ["6.12", "6.18"])
def bench_batches(
    measure: Callable[..., object],
    size: Callable[[int], int],
    kernel: str,
    scattered: bool,
    mappings: int,
) -> None:
    """Kernels that unmap a batch and flush once, beside 6.1, which moves page by page."""
    flags = pm.MPOL_MF_MOVE if mappings == 1 else pm.MPOL_MF_MOVE_ALL
    worlds = [
        World(size(M // 4), scattered=scattered, kernel=name, flags=flags)
        for name in (kernel, "6.1")
    ]
    families = [[world.app.fork() for _ in range(mappings - 1)] for world in worlds]
    assert [len(family) for family in families] == [mappings - 1] * 2
    world, page_by_page = worlds
    how = "scattered" if scattered else "sequential"
    measure(
        f"move_pages under {kernel}, {mappings} mappings, {how}",
        world.move,
        per="pages",
        amount=world.pages,
        reference=Reference("the same under 6.1", page_by_page.move, page_by_page.pages),
        target=Target(1.15),
        prove=world.prove,
        rounds=9,
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
