"""The 26 races that migration has to survive, each made to happen every time.

A row of the table is a scenario and its outcome under each engine; actors and the steps of a
migration place the other side at the critical point.  After each race the machine's invariants and
the content are checked.

``guard`` names the code that handles the race: ``make mutants`` takes it out of a build of its own
(``PMG_GUARD`` in the core) and demands that the row fails there, under every engine.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pagemig as pm
from pagemig.testing.actors import Actor, Actors
from pagemig.testing.poke import poke
from support.machines import PAGE, error_of, four_nodes, mapped

#: Which engine a kernel has: swap entries (A), migration entries of 2006 (B), or today's.
ENGINES = {
    "2.6.17": "A",
    "2.6.17-mm": "B",
    "2.6.18-ia64": "B",
    "pmig": "B",
    "6.1": "now",
    "6.12": "now",
}

LOCKED, WRITEBACK = 1 << 0, 1 << 6
OF_2006 = ("2.6.17", "2.6.17-mm", "2.6.18-ia64", "pmig")
Outcome = dict[str, Any]


class Race:
    """A process whose page 0 is on node 0, a migrator that takes it to node 1, and other actors."""

    def __init__(self, kernel: str) -> None:
        self.machine = four_nodes(kernel, page_bytes=8)
        self.machine.tracing = True
        self.free = [self.machine.free(nid) for nid in range(4)]
        self.app = self.machine.spawn()
        self.root = self.machine.spawn()
        self.actors = Actors(self.machine)
        self.base = 0
        self.file: pm.File | None = None
        self.of_2006 = bool(self.machine.profile.counts_drop)
        #: Where the real kernel would have crashed, if it would.
        self.bug: str | None = None

    def anon(self, values: Sequence[int] = (5,), **how: Any) -> "Race":
        self.base = mapped(self.app, len(values), touched=False, **how)
        self.app.touch(self.base, len(values) * PAGE, write=True, values=values)
        return self

    def cached(self, kind: str = "tmpfs", values: Sequence[int] = (5,)) -> "Race":
        """Pages of a file, mapped by the process."""
        self.file = self.machine.file(kind, len(values) * PAGE)
        self.root.fwrite(self.file, 0, values)
        self.base = mapped(self.app, len(values), file=self.file, shared=True, touched=False)
        self.app.touch(self.base, len(values) * PAGE)
        return self

    def pages(self, n: int) -> list[int]:
        return [self.base + i * PAGE for i in range(n)]

    def pfn(self, page: int = 0) -> int:
        pfn = int(self.app.frames(self.base + page * PAGE, 1)[0])
        assert pfn >= 0, "not mapped"
        return pfn

    def refs(self, pfn: int) -> int:
        return int(self.machine.frames.refcount[pfn])

    def set(self, pfn: int, flag: int, on: bool) -> None:
        """What a device does to a page: lock it, write it back."""
        state = poke(self.machine, "frame", pfn, "state")
        poke(self.machine, "frame", pfn, "state", state | flag if on else state & ~flag)

    def migrator(self, n: int = 1, node: int = 1) -> Actor:
        def move() -> pm.MoveResult:
            return self.move(n, node)

        return self.actors.add("migrator", move)

    def unheld(self, n: int = 1, node: int = 1) -> Actor:
        """A migrator that does not hold the mmap_lock of the other actors.

        Today's kernels release it before they migrate.  Those of 2006 hold the lock of the process
        whose pages move, so there the migration is one of frames.
        """
        if not self.of_2006:
            return self.migrator(n, node)
        pfns = [self.pfn(page) for page in range(n)]
        return self.actors.add("migrator", lambda: self.machine.migrate_frames(pfns, [node] * n))

    def move(self, n: int, node: int) -> pm.MoveResult:
        """By move_pages, or by migrate_pages and a look at where pages are in kernels without."""
        rc = 0
        try:
            if "move_pages" in self.machine.profile.calls:
                return self.root.move_pages(self.pages(n), node, pm.MPOL_MF_MOVE_ALL, pid=self.app)
            rc = self.root.migrate_pages({0}, {node}, pid=self.app)
        except pm.KernelBug as bug:
            self.bug = bug.site
        return pm.MoveResult(rc, np.array([self.node(i) for i in range(n)], dtype=np.int32))

    def node(self, page: int = 0) -> int:
        """Node of a mapped page, -1 where none is mapped."""
        if not self.app.alive or not self.app.pagemap(self.base + page * PAGE, 1)[0] >> 63:
            return -1
        return int(self.machine.node_of([self.pfn(page)])[0])

    def at(self, step: int, do: Callable[[], Any] | Actor, **when: Any) -> Actor:
        return self.actors.at_step(step, do, **when)

    def run(self) -> None:
        self.actors.run()
        self.machine.check(full=True)

    def count(self, step: int) -> int:
        return int((self.machine.trace["step"] == step).sum())

    @property
    def tries(self) -> int:
        """Passes in which the migrator came as far as allocating."""
        return self.actors.steps.count(("migrator", pm.STEP_ALLOC))

    def read(self, process: pm.Process | None = None, page: int = 0) -> list[int]:
        seen = (process or self.app).touch(self.base + page * PAGE, PAGE).values
        assert seen is not None
        return seen.tolist()

    def all_free(self) -> bool:
        return self.free == [self.machine.free(nid) for nid in range(4)]


#: What a migration comes to that the real kernel would not have survived.
TRUNCATED = {"bug": "try_to_unmap_file: the page has no mapping: truncated, or just read from swap"}


def moved(migrator: Actor) -> list[int]:
    return migrator.result.status.tolist()


# ---- one scenario per row -----------------------------------------------------------------------


def freed_after_isolation(race: Race) -> Outcome:
    """The last mapping goes between isolation and lock.

    In 2006 mmap_lock is held, and only truncation can interfere.
    """
    if race.of_2006:
        race.cached()
    else:
        race.anon()
    migrator = race.migrator()
    truncate = partial(race.root.ftruncate, race.file, 0)
    unmap = partial(race.app.munmap, race.base, PAGE)
    race.at(pm.STEP_ISOLATE, truncate if race.of_2006 else unmap)
    race.run()
    assert race.all_free()
    copied = race.count(pm.STEP_COPY)
    return {"rc": migrator.result.rc, "status": moved(migrator), "copied": copied}


def under_a_flag(race: Race, flag: int) -> Outcome:
    """A device holds the page until the migrator waits for it."""
    race.anon()
    pfn = race.pfn()
    race.set(pfn, flag, True)
    migrator = race.migrator()
    race.actors.add("device", lambda: race.set(pfn, flag, False))
    race.run()
    assert race.read() == [5]
    return {"waited": migrator.waited_for, "status": moved(migrator), "tries": race.tries}


def locked_by_another(race: Race) -> Outcome:
    return under_a_flag(race, LOCKED)


def under_writeback(race: Race) -> Outcome:
    return under_a_flag(race, WRITEBACK)


def pinned(race: Race, pin: Callable[[], list[pm.Pin]]) -> Outcome:
    """What a pinned page goes through, and that it moves once the pin is gone."""
    migrator = race.migrator()
    race.run()
    assert race.read() == [5]
    outcome = {"rc": migrator.result.rc, "converted": race.count(pm.STEP_UNMAP) > 0}
    assert race.machine.node_of([race.pfn()]).tolist() == [0]
    race.app.unpin(pin()[0])
    race.read()
    assert race.move(1, 1).status.tolist() == [1]
    return outcome


def pinned_before(race: Race) -> Outcome:
    race.anon()
    pin = race.app.pin(race.base, PAGE)
    return pinned(race, lambda: [pin])


def pinned_late(race: Race) -> Outcome:
    """The pin comes when the page is locked and looked at, right before it is unmapped."""
    race.anon()
    pinner = race.at(pm.STEP_LOCK, lambda: race.app.pin(race.base, PAGE))
    return pinned(race, lambda: [pinner.result])


def pin_meets_entry(race: Race) -> Outcome:
    """Where a waiter holds the old page it comes when that does not matter any more, see row 8."""
    race.anon()
    migrator = race.migrator()
    step = pm.STEP_FREEZE if race.of_2006 else pm.STEP_UNMAP
    pinner = race.at(step, lambda: race.app.pin(race.base, PAGE))
    race.run()
    new = race.pfn()
    return {
        "status": moved(migrator),
        "waited": pinner.waited_for,
        "pinned": [int(race.machine.node_of([new])[0]), race.refs(new)],
    }


def fault_meets_entry(race: Race) -> Outcome:
    race.anon()
    migrator = race.migrator()
    step = pm.STEP_FREEZE if race.of_2006 else pm.STEP_UNMAP
    writer = race.at(step, lambda: race.app.touch(race.base, PAGE, write=True, values=[7]))
    race.run()
    seen = race.read()
    return {
        "status": moved(migrator),
        "waited": writer.waited_for,
        "signal": writer.result.signal,
        "minflt": writer.result.minflt,
        "value": seen,
    }


def waiter_before_the_count(race: Race) -> Outcome:
    """A thread that waits for the migration must not make it fail for longer than a pass."""
    race.anon()
    migrator = race.migrator()
    waiter = race.at(pm.STEP_UNMAP, lambda: race.app.touch(race.base, PAGE))
    race.at(pm.STEP_PUTBACK, waiter)
    race.run()
    assert race.read() == [5]
    return {"status": moved(migrator), "tries": race.tries}


def waiter_after_the_switch(race: Race) -> Outcome:
    """References on the old page after the migration, before the waiter looks again."""
    race.anon()
    old = race.pfn()

    def move() -> tuple[list[int], int]:
        result = race.move(1, 1)
        return result.status.tolist(), race.refs(old)

    migrator = race.actors.add("migrator", move)
    waiter = race.at(pm.STEP_FREEZE, lambda: race.app.touch(race.base, PAGE))
    race.run()
    assert race.refs(old) == 0
    status, refs = migrator.result
    return {"status": status, "old_refs": refs, "waited": waiter.waited_for}


def read_during_the_move(race: Race) -> Outcome:
    """read(2) and a fault find the target in its slot before it is ready."""
    race.cached()
    other = race.machine.spawn()
    there = other.mmap(PAGE, file=race.file, shared=True)
    migrator = race.migrator()
    reader = race.at(pm.STEP_FREEZE, lambda: race.root.fread(race.file, 0).tolist())
    toucher = race.at(pm.STEP_FREEZE, lambda: other.touch(there, PAGE).values.tolist())
    race.run()
    return {
        "status": moved(migrator),
        "read": reader.result,
        "touched": toucher.result,
        "waited": [reader.waited_for, toucher.waited_for],
    }


def slept_on_the_old_page(race: Race) -> Outcome:
    """A fault waits for the lock of a page that is no longer the file's when it gets it."""
    race.cached()
    other = race.machine.spawn()
    there = other.mmap(PAGE, file=race.file, shared=True)
    migrator = race.migrator()
    view = race.root.mmap(PAGE, file=race.file, shared=True)
    puncher = race.at(pm.STEP_UNMAP, lambda: race.root.madvise(view, PAGE, "remove"))
    toucher = race.at(pm.STEP_UNMAP, lambda: other.touch(there, PAGE).values.tolist())
    race.at(pm.STEP_PUTBACK, puncher)
    race.at(pm.STEP_PUTBACK, toucher)
    race.run()
    return {
        "bug": race.bug,
        "rc": migrator.result.rc,
        "waited": [puncher.waited_for, toucher.waited_for],
        "touched": toucher.result,
        "read": race.root.fread(race.file, 0).tolist(),
    }


def truncated_before_the_lock(race: Race) -> Outcome:
    """Of two truncated pages one is held by a pin and has no mapping any more."""
    race.cached(values=(5, 6))
    pin = race.app.pin(race.base + PAGE, PAGE)
    migrator = race.migrator(2)
    race.at(pm.STEP_ISOLATE, lambda: race.root.ftruncate(race.file, 0))
    before, after = (
        race.at(step, lambda: race.machine.counters["host_rmap"])
        for step in (pm.STEP_LOCK, pm.STEP_UNMAP)
    )
    race.run()
    race.app.unpin(pin)
    race.machine.check(full=True)
    assert race.all_free()
    if race.bug:
        return {"bug": race.bug}
    return {"rc": migrator.result.rc, "walked": after.result - before.result}


def truncated_during_the_move(race: Race) -> Outcome:
    """It clears the entry, waits for the page, and finds the new one."""
    race.cached()
    migrator = race.migrator()
    truncater = race.at(pm.STEP_UNMAP, lambda: race.root.ftruncate(race.file, 0))
    race.at(pm.STEP_PUTBACK, truncater)
    race.run()
    assert race.file is not None
    return {
        "rc": migrator.result.rc,
        "waited": truncater.waited_for,
        "cached": race.file.cached,
        "signal": race.app.touch(race.base, PAGE).signal,
        "free": race.all_free(),
    }


def fork_copies_an_entry(race: Race) -> Outcome:
    race.anon()
    migrator = race.unheld()
    forker = race.at(pm.STEP_UNMAP, race.app.fork)
    race.run()
    child = forker.result
    mappers = [process.pid for process, _ in race.machine.mappings(race.pfn())]
    assert mappers == [race.app.pid, child.pid]
    write = race.app.touch(race.base, PAGE, write=True, values=[7])
    race.machine.check(full=True)
    return {
        "status": moved(migrator),
        "cow": write.minflt,
        "values": race.read() + race.read(child),
    }


def child_comes_after_its_parent(race: Race) -> Outcome:
    """A walk that came to a child first would miss what fork copies behind its back."""
    race.anon()
    family = [race.app]
    migrator = race.unheld()

    def fork() -> None:
        family.append(race.app.fork())
        family.append(family[1].fork())
        family.append(race.app.fork())

    race.at(pm.STEP_UNMAP, fork)
    race.run()
    order = [process for process, _ in race.machine.mappings(race.pfn())]
    return {"status": moved(migrator), "order": [family.index(process) for process in order]}


def mprotect_over_an_entry(race: Race) -> Outcome:
    """Write permission that is removed and restored during the move is found by a fault."""
    race.anon()
    migrator = race.unheld()

    def twice() -> None:
        race.app.mprotect(race.base, PAGE, "r")
        race.app.mprotect(race.base, PAGE, "rw")

    race.at(pm.STEP_UNMAP, twice)
    race.run()
    write = race.app.touch(race.base, PAGE, write=True, values=[7])
    return {"status": moved(migrator), "minflt": write.minflt, "value": race.read()}


def unmapped_over_an_entry(race: Race) -> Outcome:
    """A page is given up, one unmapped, then a process that shares all of them exits."""
    race.anon((5, 6, 7))
    child = race.app.fork()
    migrator = race.unheld(3)

    def unmap() -> None:
        race.app.madvise(race.base, PAGE, "dontneed")  # its mapping stays, and is searched
        race.app.munmap(race.base + PAGE, PAGE)

    race.at(pm.STEP_UNMAP, unmap)
    race.at(pm.STEP_COPY, child.exit)
    race.run()
    assert race.read(page=2) == [7]
    race.app.exit()
    race.machine.check(full=True)
    return {"rc": migrator.result.rc, "free": race.all_free()}


def missed_by_the_walk(race: Race) -> Outcome:
    """The reverse map loses the child's mapping for the time of one walk."""
    race.anon()
    child = race.app.fork()
    machine = race.machine
    [vma] = (row for row in child._vmas() if row["start"] == race.base)
    node = poke(machine, "vma", int(vma["index"]), "chain")
    start = poke(machine, "rnode", node, "start")
    migrator = race.migrator()
    race.at(pm.STEP_LOCK, lambda: poke(machine, "rnode", node, "start", start + (1 << 31)))
    race.at(pm.STEP_UNMAP, lambda: poke(machine, "rnode", node, "start", start))
    race.run()
    assert race.read() == race.read(child) == [5]
    return {"status": moved(migrator), "tries": race.tries, "rolled back": race.count(9)}


def dirty_without_migrate_operation(race: Race) -> Outcome:
    race.cached("ramfs")
    race.app.touch(race.base, PAGE, write=True, values=[7])
    migrator = race.migrator()
    race.run()
    assert race.read() == [7]
    return {"rc": migrator.result.rc, "tries": race.tries, "rolled back": race.count(9)}


def slot_replaced(race: Race) -> Outcome:
    """A file is dropped for good during the move of a page, by a thread that cannot wait."""
    race.cached()
    race.app.munmap(race.base, PAGE)
    file = race.file
    assert file is not None
    [pfn] = race.machine._file_frames(file.index).tolist()
    migrator = race.actors.add("migrator", lambda: race.machine.migrate_frames([pfn], [1]))
    race.at(pm.STEP_UNMAP, race.actors.add("closer", file.close, may_wait=False))
    race.run()
    return {"status": moved(migrator), "tries": race.tries, "free": race.all_free()}


def mlocked_by_a_child(race: Race) -> Outcome:
    """VM_LOCKED stops a migration half way: the parent's entry is a swap entry already."""
    race.anon()
    child = race.app.fork()
    child.mprotect(race.base, PAGE, "r")  # or locking would copy the page
    child.mlock(race.base, PAGE)
    pfn = race.pfn()
    result = race.machine.migrate_lists([pfn], 1)
    race.machine.check(full=True)
    entries = [int(p.pagemap(race.base, 1)[0]) >> 62 for p in (race.app, child)]
    assert race.read() == race.read(child) == [5]
    return {"failed": result.failed.tolist() == [pfn], "present": [e == 2 for e in entries]}


def mlocked(race: Race) -> Outcome:
    """One of two mlocked pages is unlocked while it is being moved."""
    if race.machine.profile.locked_fails:
        return mlocked_by_a_child(race)
    race.anon((5, 6))
    race.app.mlock(race.base, 2 * PAGE)
    migrator = race.unheld(2)
    race.at(pm.STEP_UNMAP, lambda: race.app.munlock(race.base + PAGE, PAGE))
    race.run()
    flags = race.machine.frames.flag("mlocked")
    marks = [bool(flags[race.pfn(i)]) for i in range(2)]
    return {"status": moved(migrator), "locked": race.app.status()["VmLck"], "mlocked": marks}


def two_migrators(race: Race) -> Outcome:
    race.anon()
    first = race.migrator()
    pfn = race.pfn()
    second = race.at(pm.STEP_ISOLATE, lambda: race.machine.migrate_frames([pfn], [2]))
    race.run()
    assert race.read() == [5]
    return {"first": moved(first), "second": moved(second)}


def mbind_against_a_fault(race: Race) -> Outcome:
    race.anon()
    race.actors.add(
        "migrator", lambda: race.app.mbind(race.base, PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE)
    )
    writer = race.at(pm.STEP_UNMAP, lambda: race.app.touch(race.base, PAGE, write=True, values=[7]))
    race.run()
    node = race.machine.node_of([race.pfn()]).tolist()
    return {"waited": writer.waited_for, "node": node, "value": race.read()}


def zero_page(race: Race) -> Outcome:
    """A read brought in the zero page; another page of the range is written during the move."""
    race.anon((5, 6))
    race.app.madvise(race.base, PAGE, "dontneed")
    assert race.read() == [0]
    migrator = race.migrator(2)
    race.at(pm.STEP_UNMAP, lambda: race.app.touch(race.base, PAGE))
    race.run()
    strict = pm.MPOL_MF_STRICT
    mbind = [
        error_of(race.app.mbind, race.base, PAGE, pm.Bind([2]), flags)
        for flags in (strict, pm.MPOL_MF_MOVE_ALL | strict)
    ]
    race.machine.check(full=True)
    return {"status": moved(migrator), "mbind": mbind}


def in_the_swap_cache(race: Race) -> Outcome:
    """The migration does not restore entries of a page that was read back from swap."""
    race.anon()
    race.machine.swap_out([race.pfn()])
    assert race.read() == [5]
    migrator = race.migrator()
    race.run()
    present = int(race.app.pagemap(race.base, 1)[0]) >> 63
    before = race.machine.counters["pgmajfault"]
    assert race.read() == [5]
    return {
        "rc": migrator.result.rc,
        "restored": bool(present),
        "node": race.node(),
        "read again": race.machine.counters["pgmajfault"] - before,
    }


def swapoff_meets_a_migration(race: Race) -> Outcome:
    """swapoff waits for the lock of a page that is in the swap cache no more when it gets it."""
    race.anon()
    migrator = race.migrator()
    swapoff = race.at(pm.STEP_FREEZE, lambda: race.machine.swapoff(0))
    race.run()
    return {
        "rc": migrator.result.rc,
        "waited": swapoff.waited_for,
        "used": race.machine.swap[0].used,
        "value": race.read(),
    }


# ---- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A race: what is expected of each engine; None where an engine cannot meet it.

    ``only`` has what one kernel does differently from its engine.  ``guard_2006`` is the guard of
    the kernels of 2006 where they handle the race by other means; ``unguarded`` are kernels that
    meet it and need none.
    """

    number: int
    scenario: Callable[[Race], Outcome]
    now: Outcome | None
    b: Outcome | None
    a: Outcome | None
    guard: str = ""
    only: dict[str, Outcome] = field(default_factory=dict)
    guard_2006: str = ""
    unguarded: tuple[str, ...] = ()

    def mutants(self) -> list[str]:
        """What `make mutants` takes out and where it must be missed, as ``guard:test``."""
        guards = {
            kernel: self.guard_2006 or self.guard if kernel in OF_2006 else self.guard
            for kernel in ENGINES
            if self.expected(kernel) is not None and kernel not in self.unguarded
        }
        # These two share the code of the one before.
        for kernel, same in (("6.12", "6.1"), ("pmig", "2.6.18-ia64")):
            if same in guards:
                guards.pop(kernel, None)
        return [f"{guard}:row{self.number:02}-{kernel}" for kernel, guard in guards.items()]

    def expected(self, kernel: str) -> Outcome | None:
        if kernel in self.only:
            return self.only[kernel]
        return {"A": self.a, "B": self.b, "now": self.now}[ENGINES[kernel]]


EAGAIN = {"rc": 1, "converted": True}
MOVED = {"status": [1]}
NEVER_COLLECTED = ["ok", "ok"]  # with STRICT alone, and with MOVE_ALL
WRITTEN_WHILE_MOVED = {"node": [1], "value": [7]}

ROWS = [
    Row(
        1,
        freed_after_isolation,
        now={"rc": 0, "status": [1], "copied": 0},
        b={"rc": 0, "status": [1], "copied": 0},
        a={"rc": 0, "copied": 0},
        guard="GUARD_FREED",
        only={"2.6.17-mm": {"rc": 0, "copied": 0}},
    ),
    Row(
        2,
        locked_by_another,
        now={"waited": ["page"], "tries": 4, **MOVED},
        b={"waited": ["page"], "tries": 4, **MOVED},
        a={"waited": ["page"], "tries": 4},
        guard="GUARD_PAGE_LOCK",
    ),
    Row(
        3,
        under_writeback,
        now={"waited": ["writeback"], "tries": 4, **MOVED},
        b={"waited": ["writeback"], "tries": 4, **MOVED},
        a={"waited": ["writeback"], "tries": 2},
        guard="GUARD_WRITEBACK",
        only={"2.6.17-mm": {"waited": ["writeback"], "tries": 2, **MOVED}},
    ),
    Row(
        4,
        pinned_before,
        now=EAGAIN,
        b=EAGAIN,
        a={"rc": 1, "converted": False},
        guard="GUARD_PINNED",
    ),
    Row(5, pinned_late, now=EAGAIN, b=EAGAIN, a=EAGAIN, guard="GUARD_PINNED"),
    Row(
        6,
        pin_meets_entry,
        now={"waited": ["page"], "pinned": [1, 2], **MOVED},
        b={"waited": ["page"], "pinned": [1, 2], **MOVED},
        a={"pinned": [1, 2]},
        guard="GUARD_GUP_ENTRY",
    ),
    Row(
        7,
        fault_meets_entry,
        now={"waited": ["page"], "signal": None, "minflt": 1, "value": [7], **MOVED},
        b={"waited": ["page"], "signal": None, "value": [7], **MOVED},
        a={"waited": ["page"], "signal": None, "value": [7]},
        guard="GUARD_FAULT_ENTRY",
    ),
    Row(
        8,
        waiter_before_the_count,
        now={"tries": 1, **MOVED},
        b={"tries": 2, **MOVED},
        a={"tries": 2},
        guard="GUARD_RETRY",
    ),
    Row(
        9,
        waiter_after_the_switch,
        now={"old_refs": 0, "waited": ["page"], **MOVED},
        b={"old_refs": 1, "waited": ["page"], **MOVED},
        a=None,
        guard="GUARD_RETRY",
        guard_2006="GUARD_WAITER",
    ),
    Row(
        10,
        read_during_the_move,
        now={"read": [5], "touched": [5], "waited": [["page"], ["page"]], **MOVED},
        b={"read": [5], "touched": [5], "waited": [["page"], ["page"]], **MOVED},
        a={"read": [5], "touched": [5]},
        guard="GUARD_UPTODATE",
    ),
    Row(
        11,
        slept_on_the_old_page,
        now={"rc": 0, "waited": [["page"], ["page"]], "touched": [0], "read": [0]},
        b={"rc": 0, "waited": [["page"], ["page"]], "touched": [0], "read": [0]},
        a={"touched": [0], "read": [0]},
        guard="GUARD_SLEPT",
    ),
    Row(
        12,
        truncated_before_the_lock,
        now={"rc": 1, "walked": 0},
        b={"rc": 1, "walked": 0},
        a={"rc": 1, "walked": 0},
        guard="GUARD_NO_MAPPING",
        only={"2.6.18-ia64": TRUNCATED},
        unguarded=("2.6.18-ia64",),  # it crashes
    ),
    Row(
        13,
        truncated_during_the_move,
        now={"rc": 0, "waited": ["page"], "cached": 0, "signal": "SIGBUS", "free": True},
        b={"rc": 0, "cached": 0, "waited": ["page"], "signal": "SIGBUS", "free": True},
        a={"cached": 0, "signal": "SIGBUS", "free": True},
        guard="GUARD_TRUNCATED",
        unguarded=("2.6.17",),  # A has no entries
    ),
    Row(
        14,
        fork_copies_an_entry,
        now={"cow": 1, "values": [7, 5], **MOVED},
        b={"cow": 1, "values": [7, 5], **MOVED},
        a={"cow": 1, "values": [7, 5], **MOVED},
        guard="GUARD_FORK_ENTRY",
    ),
    Row(
        15,
        child_comes_after_its_parent,
        now={"order": [0, 1, 2, 3], **MOVED},
        b={"order": [0, 1, 2, 3], **MOVED},
        a=None,
        guard="GUARD_PARENT_FIRST",
    ),
    Row(
        16,
        mprotect_over_an_entry,
        now={"minflt": 1, "value": [7], **MOVED},
        b={"minflt": 1, "value": [7], **MOVED},
        a={"minflt": 1, "value": [7], **MOVED},  # a swap entry is read-only in any case
        guard="GUARD_MPROTECT_ENTRY",
        unguarded=("2.6.17",),  # no entry that could be written
    ),
    Row(
        17,
        unmapped_over_an_entry,
        now={"rc": 0, "free": True},
        b={"rc": 0, "free": True},
        a={"free": True},
        guard="GUARD_UNMAPPED_ENTRY",
        only={"2.6.17-mm": {"free": True}},  # with lists frames are taken one by one
    ),
    Row(
        18,
        missed_by_the_walk,
        now={"tries": 2, "rolled back": 1, **MOVED},
        b={"tries": 2, "rolled back": 1, **MOVED},
        a={"tries": 2},
        guard="GUARD_MISSED_MAPPING",
    ),
    # Only the kernels of 2006 have swap here.
    Row(
        19,
        in_the_swap_cache,
        now=None,
        b={"rc": 0, "restored": False, "node": 1, "read again": 0},
        a={"rc": 0, "restored": True, "node": 1, "read again": 0},
        guard="GUARD_SWAPCACHE",
    ),
    Row(
        20,
        dirty_without_migrate_operation,
        now={"rc": 1, "tries": 1, "rolled back": 1},
        b={"rc": 1},
        a={"rc": 1},
        guard="GUARD_DIRTY",
        only={"6.12": {"rc": 1, "tries": 2, "rolled back": 2}},  # once asynchronously
    ),
    Row(
        21,
        slot_replaced,
        now={"tries": 2, "free": True, **MOVED},
        b={"tries": 2, "free": True, **MOVED},
        a={"free": True},
        guard="GUARD_SLOT",
        # With four lists a page that was freed needs no target.
        only={"2.6.17-mm": {"tries": 1, "free": True, **MOVED}},
    ),
    Row(
        22,
        mlocked,
        now={"status": [1, 1], "locked": 4, "mlocked": [True, False]},
        b={"status": [1, 1], "locked": 4, "mlocked": [False, False]},  # marks are of 2.6.28
        a={"failed": True, "present": [False, True]},
        guard="GUARD_MLOCKED",
        only={"2.6.17-mm": {"failed": True, "present": [True, True]}},
        unguarded=("2.6.18-ia64", "pmig"),  # they keep no marks that could be lost
    ),
    Row(
        23,
        two_migrators,
        now={"first": [1], "second": [-16]},
        b={"first": [1], "second": [-16]},
        a=None,
        guard="GUARD_ISOLATED",
    ),
    Row(
        24,
        mbind_against_a_fault,
        now={"waited": ["mm"], **WRITTEN_WHILE_MOVED},
        b={"waited": ["mm"], **WRITTEN_WHILE_MOVED},
        a={"waited": ["mm"], **WRITTEN_WHILE_MOVED},
        guard="GUARD_MMAP_LOCK",
        only={"6.12": {"waited": ["page"], **WRITTEN_WHILE_MOVED}},  # mmap_lock is given back
    ),
    Row(
        25,
        zero_page,
        now={"status": [-14, 1], "mbind": NEVER_COLLECTED},
        b={"status": [-14, 1], "mbind": NEVER_COLLECTED},
        a={"mbind": NEVER_COLLECTED},
        guard="GUARD_ZERO_PAGE",
        only={
            "2.6.17-mm": {"mbind": NEVER_COLLECTED},
            # not what its documentation says
            "2.6.18-ia64": {"status": [-2, 1], "mbind": NEVER_COLLECTED},
        },
    ),
    Row(
        26,
        swapoff_meets_a_migration,
        now=None,
        b=None,
        a={"rc": 0, "waited": ["page"], "used": 0, "value": [5]},
        guard="GUARD_SWAPOFF",
    ),
]


@pytest.mark.parametrize("kernel", ENGINES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row{row.number:02}")
def test_race(row: Row, kernel: str) -> None:
    expected = row.expected(kernel)
    if expected is None:
        pytest.skip("this engine cannot meet it")
    outcome = row.scenario(Race(kernel))
    assert {key: outcome[key] for key in expected} == expected


def test_the_table_is_whole() -> None:
    assert [row.number for row in ROWS] == list(range(1, 27))
    header = Path(pm.get_include()) / "pagemig" / "guards.h"
    guards = set(re.findall(r"G\((GUARD_\w+)\)", header.read_text()))
    assert {row.guard for row in ROWS} | {row.guard_2006 for row in ROWS} - {""} == guards


if __name__ == "__main__":  # what `make mutants` takes out, and which row must fail then
    print(*(mutant for row in ROWS for mutant in row.mutants()))
