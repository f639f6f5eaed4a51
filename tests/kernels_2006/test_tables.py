"""Counts of a page at every step, passes and locks: sections 3.3, 3.9, 3.11, 4.5 and 4.8."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

import pagemig as pm
from pagemig.testing.actors import Actors
from support.machines import PAGE, at
from support.of_2006 import ENTRIES, KERNELS, LISTS, LOCKED, World, accessed, entries, resident

WRITEBACK = 1 << 6


# ---- the state tables ------------------------------------------------------------


class Row(NamedTuple):
    """A line of a table: entries of all mappers, counts of pages and slot, resident pages."""

    step: str
    ptes: str
    old: int
    new: int | None
    slot: int
    rss: int


def first_mapped(m: int) -> str:
    """Entries at the start: a page that is mapped once may be written."""
    return "w" if m == 1 else "r" * m


def table_3_9(m: int) -> list[Row]:
    start, swapped = first_mapped(m), "s" * m
    return [
        Row("isolate", start, m + 1, 1, 0, m),
        Row("lock", start, m + 2, 1, 1, m),
        Row("unmap", swapped, 2, 1, 1 + m, 0),
        Row("freeze", swapped, 1, 2, 1 + m, 0),
        Row("copy", swapped, 1, 2, 1 + m, 0),
        Row("restore", "r" * m, 1, 1 + m, 0, m),
        Row("putback", "r" * m, 1, m, 0, m),
        Row("end", "r" * m, 0, m, 0, m),
    ]


def table_4_8(m: int) -> list[Row]:
    start, entry = first_mapped(m), first_mapped(m).upper()
    return [
        Row("isolate", start, m + 1, None, 0, m),
        Row("lock", start, m + 1, 1, 0, m),
        Row("unmap", entry, 1, 1, 0, m),
        Row("freeze", entry, 1, 1, 0, m),
        Row("copy", entry, 1, 1, 0, m),
        Row("restore", start, 1, 1 + m, 0, m),
        Row("end", start, 0, m, 0, m),
    ]


def file_3_9(m: int, buffers: int) -> list[Row]:
    """The text below the table; buffers are one reference more until they are handed over."""
    return [
        Row("isolate", "r" * m, m + 2 + buffers, 1, 0, m),
        Row("lock", "r" * m, m + 2 + buffers, 1, 0, m),
        Row("unmap", "." * m, 2 + buffers, 1, 0, 0),
        Row("copy", "." * m, 1, 2 + buffers, 0, 0),
        Row("restore", "." * m, 1, 2 + buffers, 0, 0),
        Row("putback", "." * m, 1, 1 + buffers, 0, 0),
        Row("end", "." * m, 0, 1 + buffers, 0, 0),
    ]


def file_4_8(m: int, buffers: int) -> list[Row]:
    return [
        Row("isolate", "r" * m, m + 2 + buffers, None, 0, m),
        Row("lock", "r" * m, m + 2 + buffers, 1, 0, m),
        Row("unmap", "R" * m, 2 + buffers, 1, 0, m),
        Row("copy", "R" * m, 1, 2 + buffers, 0, m),
        Row("restore", "r" * m, 1, 2 + m + buffers, 0, m),
        Row("end", "r" * m, 0, 1 + m + buffers, 0, m),
    ]


class Watch:
    """Writes down one page's row after every step of a migration from node 0 to node 1."""

    def __init__(self, world: World, who: list[pm.Process], old: int) -> None:
        self.world, self.who, self.old = world, who, old
        self.rows: dict[str, Row] = {}
        self.flags: dict[str, set[str]] = {}
        self.extra: dict[str, Any] = {}

    def __call__(self, step: str, pfns: list[int]) -> None:
        assert pfns == [self.old]
        self.look(step)

    def look(self, step: str) -> None:
        world, there = self.world, self.world.used(1)
        new = there[0] if there else None
        self.rows[step] = Row(
            step,
            entries(self.who),
            world.refs(self.old),
            None if new is None else world.refs(new),
            max(world.slots(), default=0),
            resident(self.who),
        )
        names = ("swapcache", "dirty", "uptodate", "lru", "locked", "isolated")
        self.flags[step] = {name for name in names if world.flag(name, self.old)}
        self.flags["new " + step] = {n for n in names if new is not None and world.flag(n, new)}
        self.extra[step] = int(world.machine.frames.mapping[self.old]), new and world.maps(new)

    def run(self, move: Callable[[], int]) -> None:
        self.world.machine.at_step(self)
        assert move() == 0
        self.world.machine.at_step(None)
        self.look("end")
        self.world.machine.check(full=True)

    def agrees(self, table: list[Row], *, targets_from: str = "isolate") -> None:
        """Hold a table against what was seen; targets are looked at from a step on."""
        steps = [row.step for row in table]
        for row in table:
            seen = self.rows[row.step]
            if row.new is None or steps.index(row.step) < steps.index(targets_from):
                row, seen = row._replace(new=None), seen._replace(new=None)
            assert seen == row


def watched(kernel: str, who: Callable[[World], list[pm.Process]]) -> Watch:
    """What a page goes through when all of a process moves."""
    world = World(kernel)
    mappers = who(world)
    if mappers:
        watch = Watch(world, mappers, world.pfn())
        watch.run(world.move)
    else:
        [old] = world.machine._file_frames(world.file.index).tolist()
        watch = Watch(world, mappers, old)
        watch.run(lambda: world.machine.migrate_frames([old], [1]).rc)
    return watch


@pytest.mark.parametrize("m", [1, 2, 3])
def test_anon_page_under_swap_entries(m: int) -> None:
    """Table 3.9, and what it says of flags."""
    watch = watched("2.6.17", lambda world: world.anon(mappers=m))
    watch.agrees(table_3_9(m))
    assert watch.flags["lock"] >= {"swapcache", "dirty", "uptodate", "locked", "isolated"}
    assert "lru" not in watch.flags["isolate"]
    assert watch.flags["new freeze"] >= {"swapcache", "locked"}
    assert watch.extra["copy"][0] == 0  # mapping NULL
    assert "swapcache" not in watch.flags["copy"]
    assert "dirty" in watch.flags["new copy"]
    assert "swapcache" not in watch.flags["new restore"]
    assert watch.extra["restore"][1] == m
    assert watch.flags["new putback"] >= {"lru"}
    assert not any(accessed(process) for process in watch.who)  # "old": section 3.8


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("kernel", ENTRIES)
def test_anon_page_under_migration_entries(kernel: str, m: int) -> None:
    """Table 4.8; the resident set never changes (section 5)."""
    watch = watched(kernel, lambda world: world.anon(mappers=m))
    # With arrays the record of a target is not touched before it is somebody's page.
    watch.agrees(table_4_8(m), targets_from="freeze" if kernel == "pmig" else "isolate")
    assert watch.extra["copy"][0] == 0
    assert watch.extra["restore"][1] == m
    assert {row.rss for row in watch.rows.values()} == {m}
    assert not any(accessed(process) for process in watch.who)
    if kernel in LISTS:  # the caller disposes of the page, section 4.7
        assert watch.rows["putback"].old == 1
    else:  # immediate disposal, section 7.2
        assert watch.rows["putback"].old == 0


@pytest.mark.parametrize("m", [0, 1, 3])
@pytest.mark.parametrize(("kind", "buffers"), [("tmpfs", 0), ("ext4", 1)])
def test_file_page_under_swap_entries(kind: str, buffers: int, m: int) -> None:
    watch = watched("2.6.17", lambda world: readers(world, kind, m))
    watch.agrees(file_3_9(m, buffers))


@pytest.mark.parametrize("m", [0, 1, 3])
@pytest.mark.parametrize(("kind", "buffers"), [("tmpfs", 0), ("ext4", 1)])
@pytest.mark.parametrize("kernel", ENTRIES)
def test_file_page_under_migration_entries(kernel: str, kind: str, buffers: int, m: int) -> None:
    watch = watched(kernel, lambda world: readers(world, kind, m))
    watch.agrees(file_4_8(m, buffers), targets_from="copy" if kernel == "pmig" else "isolate")
    assert {row.rss for row in watch.rows.values()} == {m}


def readers(world: World, kind: str, m: int) -> list[pm.Process]:
    """Who maps a page of a file and may only read it."""
    who = world.cached(kind, mappers=m)
    for process in who:
        process.mprotect(at(0), PAGE, "r")
    return who


# An anonymous page that is in the swap cache already: A uses it as it is, B leaves swap entries
# (rows 19 of section 8, 4.2): one reference more for the cache at the start.
IN_THE_CACHE = {
    "2.6.17": [
        Row("isolate", "r", 3, 1, 1, 1),
        Row("lock", "r", 3, 1, 1, 1),
        Row("unmap", "s", 2, 1, 2, 0),
        Row("freeze", "s", 1, 2, 2, 0),
        Row("restore", "r", 1, 2, 0, 1),
        Row("end", "r", 0, 1, 0, 1),
    ],
    "2.6.18-ia64": [
        Row("isolate", "r", 3, None, 1, 1),
        Row("lock", "r", 3, 1, 1, 1),
        Row("unmap", "s", 2, 1, 2, 0),
        Row("freeze", "s", 1, 2, 2, 0),
        Row("restore", "s", 1, 2, 2, 0),
        Row("end", "s", 0, 1, 2, 0),
    ],
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_anon_page_in_the_swap_cache(kernel: str) -> None:
    def brought_back(world: World) -> list[pm.Process]:
        who = world.anon()
        assert world.machine.swap_out([world.pfn()]) == 1
        assert world.read() == 5
        return who

    watch = watched(kernel, brought_back)
    table = IN_THE_CACHE["2.6.17" if kernel == "2.6.17" else "2.6.18-ia64"]
    watch.agrees(table, targets_from="freeze" if kernel == "pmig" else "isolate")
    assert watch.world.read() == 5
    assert watch.world.node() == 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_anon_page_in_the_swap_cache_that_nobody_maps(kernel: str) -> None:
    """m = 0 in the tables: a child read it in and exited, the parent has a swap entry still."""

    def left_behind(world: World) -> list[pm.Process]:
        who = world.anon(mappers=2)
        assert world.machine.swap_out([world.pfn()]) == 1
        assert world.read(0, who[1]) == 5
        world.left = world.pfn(0, who[1])
        who[1].exit()
        return who[:1]

    world = World(kernel)
    watch = Watch(world, left_behind(world), world.left)
    watch.run(lambda: world.machine.migrate_frames([world.left], [1]).rc)
    a = kernel == "2.6.17"
    table = [
        Row("isolate", "s", 2, None, 2, 0),
        Row("unmap", "s", 2, None, 2, 0),
        Row("freeze", "s", 1, 2, 2, 0),
        Row("restore", "r" if a else "s", 1, 2, 0 if a else 2, int(a)),
        Row("end", "r" if a else "s", 0, 1, 0 if a else 2, int(a)),
    ]
    watch.agrees(table)
    assert world.read() == 5
    assert world.node() == 1


# ---- passes ------------------------------------------------------------

#: Sections 3.3, 4.5 and 4.7.  pmig is 2.6.18 without its bugs.
PASSES = {"2.6.17": 11, "2.6.17-mm": 11, "2.6.18-ia64": 10, "pmig": 10}
WAITS_FOR_WRITEBACK = {"2.6.17": 1, "2.6.17-mm": 1, "2.6.18-ia64": 3, "pmig": 3}


@pytest.mark.parametrize("kernel", KERNELS)
def test_passes_over_a_pinned_page(kernel: str) -> None:
    """A leaves its PTE alone, B converts and restores it in every pass (row 4 of section 8)."""
    world = World(kernel)
    world.anon()
    old, seen = world.pfn(), []
    pin = world.app.pin(at(0), PAGE)
    world.machine.at_step(lambda step, pfns: seen.append((step, entries([world.app]))))
    world.machine.tracing = True
    assert world.move() == 1
    world.machine.at_step(None)
    steps = world.machine.trace["step"].tolist()
    assert [step for step, _ in seen].count("alloc") == PASSES[kernel]
    converted = PASSES[kernel] if kernel in ENTRIES else 0
    assert steps.count(pm.STEP_UNMAP) == converted
    assert steps.count(9) == converted  # rolled back
    assert {e for step, e in seen if step == "unmap"} == {"W" if converted else "w"}
    assert (world.pfn(), entries([world.app])) == (old, "w")
    # Added to swap before it was looked at, the page stays there (sections 3.3 and 3.9).
    assert world.flag("swapcache", old) == (kernel == "2.6.17")
    world.app.unpin(pin)
    world.machine.check(full=True)


def until_pass(kernel: str, flag: int, k: int | None) -> tuple[int, list[str]]:
    """Attempts at a page with a flag set until pass ``k``, or until it is waited for; the waits."""
    world = World(kernel)
    world.anon()
    pfn, actors = world.pfn(), Actors(world.machine)
    world.set(pfn, flag, True)
    migrator = actors.add("migrator", world.move)
    clear = actors.add("device", lambda: world.set(pfn, flag, False))
    if k is not None:
        actors.at_step(pm.STEP_ALLOC, clear, nth=k + 1)
    actors.run()
    assert migrator.result == 0
    assert world.node() == 1
    world.machine.check(full=True)
    return actors.steps.count(("migrator", pm.STEP_ALLOC)), migrator.waited_for


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_page_lock_is_waited_for_from_pass_3_on(kernel: str) -> None:
    for k in range(4):
        assert until_pass(kernel, LOCKED, k) == (k + 1, [])
    assert until_pass(kernel, LOCKED, None) == (4, ["page"])


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_pass_that_waits_for_writeback(kernel: str) -> None:
    """From 1 on under A and -mm, from 3 on in 2.6.18."""
    first = WAITS_FOR_WRITEBACK[kernel]
    for k in range(first + 1):
        assert until_pass(kernel, WRITEBACK, k) == (k + 1, [])
    assert until_pass(kernel, WRITEBACK, None) == (first + 1, ["writeback"])


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_other_pages_do_not_wait(kernel: str) -> None:
    """A page that is not ready costs passes, and those are over that page alone."""
    world = World(kernel)
    world.anon(3)
    pin, tried = world.app.pin(at(1), PAGE), []
    world.machine.at_step(lambda step, pfns: tried.append(len(pfns)), step=pm.STEP_ALLOC)
    assert world.move() == 1
    world.machine.at_step(None)
    assert sum(tried) == 3 + PASSES[kernel] - 1
    assert world.nodes(0, 3) == [1, 0, 1]
    world.app.unpin(pin)


# ---- locks ------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_locks_for_an_anon_page(kernel: str, m: int) -> None:
    """Section 3.11: tree_lock four times a page against none, swap_lock 2m + 2 times."""
    world, n = World(kernel), 20
    world.anon(n, mappers=m)
    before = world.machine.counters
    assert world.move() == 0
    taken = {k: v - before[k] for k, v in world.machine.counters.items()}
    swap = kernel == "2.6.17"
    assert taken["lock_tree"] == (4 * n if swap else 0)
    assert taken["lock_swap"] == ((2 * m + 2) * n if swap else 0)
    assert taken["swap_slots"] == (n if swap else 0)
    assert taken["lock_page"] == 2 * n  # source and destination, sections 3.3 and 4.5
    assert taken["lock_anon_vma"] == 2 * n  # to unmap and to restore


@pytest.mark.parametrize("kernel", KERNELS)
def test_locks_for_a_clean_file_page(kernel: str) -> None:
    """The slot is switched under the file's tree_lock, once: sections 3.4 and 4.4."""
    world, n = World(kernel), 20
    world.file = world.machine.file("ext4", n * PAGE)
    world.app.touch(world.app.mmap(n * PAGE, addr=at(0), file=world.file), n * PAGE)
    before = world.machine.counters
    assert world.move() == 0
    taken = {k: v - before[k] for k, v in world.machine.counters.items()}
    assert taken["lock_tree"] == n
    assert taken["lock_swap"] == taken["swap_slots"] == 0
    # B takes i_mmap_lock a second time, to restore the entries; A has nothing to restore.
    assert taken["lock_i_mmap"] == (n if kernel == "2.6.17" else 2 * n)
