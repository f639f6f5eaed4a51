"""Scenarios drawn at random: whatever is drawn, nothing crashes and nothing is lost.

The machine is tiny, so nodes fill up; ranges lie across the ends of page tables, of PMD and of PUD
tables.  A naive twin in Python keeps what was last written to every page of every process, through
forks, copies on write, shared objects and files, and every value read or found is held against it.

``PAGEMIG_SEARCH=1000`` draws that many scenarios of each kind anew, not the same few every time.
"""

import copy
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from pagemig import Machine, Node
from pagemig.scenario.run import ScenarioRun

SEARCH = int(os.environ.get("PAGEMIG_SEARCH", "0"))
thorough = settings(
    max_examples=SEARCH or 60,
    derandomize=not SEARCH,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

Op = dict[str, Any]

#: Pages of each node of the tiny machine, and of one where frames are always left.
TINY = (32, 24, 12, 8)
ROOMY = (2048, 2048, 2048, 2048)

#: First pages of ranges: the start of a page table, and just below the end of a page table, of a
#: table of page tables (PMD) and of one of those (PUD).
PLACES = (0, 512 - 8, (1 << 18) - 8, (1 << 27) - 8)


def machine_of(pages: tuple[int, ...], width: int | None = None) -> Callable[[str], Machine]:
    def make(kernel: str) -> Machine:
        nodes = [Node(n << 12, cpus=nid < 2) for nid, n in enumerate(pages)]
        machine = Machine(nodes, kernel=kernel, page_bytes=8)
        if width is not None:
            machine.width = width
        return machine

    return make


# ---- drawing ----------------------------------------------------------------------------------

NODE = st.integers(0, 3)
NODES = st.lists(NODE, min_size=1, max_size=4, unique=True)
TOKEN = st.integers(1, 1 << 40)
MODES = ("default", "preferred", "bind", "interleave", "local", "preferred_many")
ADVICE = ("dontneed", "willneed", "populate_read", "populate_write", "dontfork", "dofork")
FLAGS = st.sampled_from([[], ["move"], ["move_all"], ["strict"], ["strict", "move"]])
WEIGHTED_OPS = (
    *["touch"] * 8,
    *["mmap"] * 3,
    *["move_pages"] * 5,
    *["mbind"] * 3,
    *["migrate_pages", "set_mempolicy", "fork", "pin"] * 2,
    *["munmap", "mprotect", "mlock", "munlock", "madvise", "mremap", "unpin"],
    *["fwrite", "fread", "ftruncate", "punch", "fadvise", "exit", "setuid", "get_mempolicy"],
)
#: Operations that touch nothing but the memory of the process that does them.
PRIVATE_OPS = (
    *["touch"] * 6,
    *["mmap", "move_pages", "mbind", "migrate_pages"] * 2,
    *["munmap", "mprotect", "mlock", "munlock", "madvise", "mremap", "set_mempolicy"],
)


class Drawing:
    """Draws the operations of one scenario; remembers only what makes the next one meaningful."""

    def __init__(
        self, draw: st.DrawFn, *, files: int, names: tuple[str, ...], kinds: tuple[str, ...]
    ) -> None:
        self.draw = draw
        self.files = files
        self.names = names
        self.kinds = kinds
        self.processes = [0]
        self.children = 0
        self.ranges: list[tuple[int, int]] = []
        self.pins: list[int] = []

    def range(self) -> dict[str, int]:
        """A range, most often within one that was mapped."""
        if self.ranges and self.draw(st.integers(0, 9)):
            at, n = self.draw(st.sampled_from(self.ranges))
            if self.draw(st.booleans()):
                return {"at": at, "n": n}
            skip = self.draw(st.integers(0, n - 1))
            return {"at": at + skip, "n": self.draw(st.integers(1, n - skip + 1))}
        return {"at": self.draw(PLACE), "n": self.draw(st.integers(1, 24))}

    def op(self, p: int, names: tuple[str, ...] | None = None) -> Op:
        name = self.draw(st.sampled_from(names or self.names))
        op = {"op": name, "p": p, **getattr(self, name)(p)}
        if not self.draw(st.integers(0, 5)):
            op["cpu"] = self.draw(st.integers(0, 1))
        return op

    def written(self, p: int) -> list[Op]:
        """A mapping and, where it may be, something in it."""
        mapped = self.op(p, ("mmap",))
        place = {name: mapped[name] for name in ("at", "n")}
        return [mapped, {"op": "touch", "p": p, **place, "write": True, "tok": self.draw(TOKEN)}]

    def mmap(self, p: int) -> Op:
        at, n = self.draw(PLACE), self.draw(st.integers(1, 24))
        self.ranges.append((at, n))
        op: Op = {"at": at, "n": n, "kind": self.draw(st.sampled_from(self.kinds))}
        if op["kind"].startswith("file"):
            op |= {"file": self.file(), "off": self.draw(st.integers(0, 6))}
        if not self.draw(st.integers(0, 4)):
            op["prot"] = self.draw(st.sampled_from(["r", "", "rwx"]))
        if not self.draw(st.integers(0, 5)):
            op[self.draw(st.sampled_from(["populate", "locked"]))] = True
        return op

    def file(self) -> int:
        return self.draw(st.integers(0, self.files - 1))

    def touch(self, p: int) -> Op:
        if self.draw(st.integers(0, 2)):
            return {**self.range(), "write": True, "tok": self.draw(TOKEN)}
        return self.range()

    def munmap(self, p: int) -> Op:
        return self.range()

    munlock = munmap

    def mprotect(self, p: int) -> Op:
        return {**self.range(), "prot": self.draw(st.sampled_from(["rw", "r", "", "rwx"]))}

    def mlock(self, p: int) -> Op:
        return {**self.range(), "flags": self.draw(st.sampled_from([[], [], ["onfault"]]))}

    def madvise(self, p: int) -> Op:
        return {**self.range(), "advice": self.draw(st.sampled_from(ADVICE))}

    def mremap(self, p: int) -> Op:
        at = self.draw(PLACE)
        op = {**self.range(), "new_at": at, "flags": ["maymove", "fixed"]}
        op["new_n"] = op["n"] if self.draw(st.booleans()) else self.draw(st.integers(1, 24))
        self.ranges.append((at, op["new_n"]))
        return op

    def set_mempolicy(self, p: int) -> Op:
        op: Op = {"mode": self.draw(st.sampled_from(MODES))}
        if op["mode"] not in ("default", "local"):
            op["nodes"] = self.draw(NODES)
        if not self.draw(st.integers(0, 4)):
            op["mode_flags"] = [self.draw(st.sampled_from(["static", "relative"]))]
        return op

    def mbind(self, p: int) -> Op:
        return {**self.range(), **self.set_mempolicy(p), "flags": self.draw(FLAGS)}

    def get_mempolicy(self, p: int) -> Op:
        if self.draw(st.booleans()):
            return {"flags": ["node", "addr"], "at": self.range()["at"]}
        return {"flags": []}

    def move_pages(self, p: int) -> Op:
        span = self.range()
        pages: list[Any] = [{"range": [span["at"], span["n"]]}]
        if self.draw(st.booleans()):
            offsets = st.lists(st.integers(0, span["n"]), min_size=1, max_size=12)
            pages = [span["at"] + k for k in self.draw(offsets)]  # duplicates are welcome
        target = self.draw(st.one_of(st.none(), NODE, NODES))
        flags = self.draw(st.sampled_from([["move"], ["move"], ["move_all"]]))
        pid = self.draw(st.sampled_from(["self", "self", *self.processes]))
        return {"pid": pid, "pages": pages, "nodes": target, "flags": flags}

    def migrate_pages(self, p: int) -> Op:
        pid = self.draw(st.sampled_from(["self", *self.processes]))
        return {"pid": pid, "from": self.draw(NODES), "to": self.draw(NODES)}

    def fork(self, p: int) -> Op:
        self.children += 1
        self.processes.append(self.children)
        return {"child": self.children}

    def exit(self, p: int) -> Op:
        return {}

    def setuid(self, p: int) -> Op:
        return {"uid": 1000, "dumpable": self.draw(st.booleans())}

    def pin(self, p: int) -> Op:
        handle = len(self.pins)
        self.pins.append(handle)
        return {
            **self.range(),
            "how": self.draw(st.sampled_from(["pipe", "uring"])),
            "handle": handle,
        }

    def unpin(self, p: int) -> Op:
        return {"handle": self.draw(st.sampled_from(self.pins or [0]))}

    def part(self) -> Op:
        return {
            "file": self.file(),
            "off": self.draw(st.integers(0, 12)),
            "n": self.draw(st.integers(1, 6)),
        }

    def fwrite(self, p: int) -> Op:
        return {**self.part(), "tok": self.draw(TOKEN)}

    def fread(self, p: int) -> Op:
        return self.part()

    def punch(self, p: int) -> Op:
        return {**self.part(), "file": 0}

    def ftruncate(self, p: int) -> Op:
        return {"file": self.file(), "pages": self.draw(st.integers(0, 16))}

    def fadvise(self, p: int) -> Op:
        return {**self.part(), "advice": "dontneed", "sync": self.draw(st.booleans())}


PLACE = st.builds(lambda base, k: base + k, st.sampled_from(PLACES), st.integers(0, 20))
FILES = [
    {"kind": "tmpfs", "pages": 12, "fill": 1, "node": 0},
    {"kind": "ext4", "pages": 12, "fill": 2, "node": 1},
    {"kind": "ramfs", "pages": 8, "fill": None},
]


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """Any scenario: processes, files, pins, sharing."""
    kinds = ("anon", "anon", "anon_shared", "file_private", "file_shared")
    drawing = Drawing(draw, files=len(FILES), names=WEIGHTED_OPS, kinds=kinds)
    ops = []
    for _ in range(draw(st.integers(1, 3))):
        ops += drawing.written(0)
    for _ in range(draw(st.integers(1, 24))):
        ops.append(drawing.op(draw(st.sampled_from(drawing.processes))))
    return {"files": FILES, "no_anchor": True, "ops": ops}


@st.composite
def disjoint(draw: st.DrawFn) -> dict[str, Any]:
    """Three processes that have nothing in common, each at its own operations.

    Shared memory is left out: its inode numbers come from one counter and decide interleaving.
    """
    fork = [{"op": "fork", "p": 0, "child": child} for child in (1, 2)]
    lists = []
    for p in range(3):
        drawing = Drawing(draw, files=0, names=PRIVATE_OPS, kinds=("anon",))
        drawing.processes = [p]
        lists.append(drawing.written(p))
        lists[p] += [drawing.op(p) for _ in range(draw(st.integers(1, 12)))]
    turns = draw(st.permutations([p for p, ops in enumerate(lists) for _ in ops]))
    queues = [iter(ops) for ops in lists]
    return {"no_anchor": True, "ops": fork + [next(queues[p]) for p in turns]}


# ---- the twin ---------------------------------------------------------------------------------


@dataclass
class Object:
    """What a file or a shared object holds; pages never written are zero."""

    size: int
    data: dict[int, int] = field(default_factory=dict)


@dataclass
class Page:
    """One page of an address space: its own content once it has any, else what is behind it.

    After a call that failed half way it may be ``unsure`` whether it, or its own content, is left.
    """

    behind: Object | None
    offset: int
    shared: bool
    own: int | None = None
    inherited: bool = True
    unsure: bool = False

    def value(self) -> int:
        if self.own is not None:
            return self.own
        return self.behind.data.get(self.offset, 0) if self.behind else 0

    def store(self, value: int) -> None:
        if self.shared and self.behind:
            self.behind.data[self.offset] = value
        else:
            self.own = value


class Twin:
    """Contents of all memory, kept the simplest way there is."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        self.files = [
            Object(
                f["pages"],
                {k: f["fill"] * 4096 + k for k in range(f["pages"])} if f["fill"] else {},
            )
            for f in scenario.get("files", [])
        ]
        self.spaces: dict[int, dict[int, Page]] = {0: {}}

    def follow(self, op: Op, result: dict[str, Any]) -> None:
        """Do to the twin what an operation did, and hold what it read against the twin."""
        if "skipped" not in result:
            getattr(self, op["op"], lambda op, result: None)(op, result)

    def pages(self, op: Op) -> dict[int, Page]:
        space = self.spaces[op["p"]]
        return {k: space[k] for k in range(op["at"], op["at"] + op["n"]) if k in space}

    def mmap(self, op: Op, result: dict[str, Any]) -> None:
        if result["rc"]:
            return
        kind, shared = op["kind"], op["kind"].endswith("shared")
        behind = self.files[op["file"]] if "file" in op else Object(op["n"]) if shared else None
        offset = op.get("off", 0)
        assert kind != "anon" or behind is None
        for k in range(op["n"]):
            self.spaces[op["p"]][op["at"] + k] = Page(behind, offset + k, shared)

    def munmap(self, op: Op, result: dict[str, Any]) -> None:
        if not result["rc"]:
            for k in self.pages(op):
                del self.spaces[op["p"]][k]

    def touch(self, op: Op, result: dict[str, Any]) -> None:
        done = result.get("signal_index", op["n"])
        space = self.spaces[op["p"]]
        touched = [space[op["at"] + k] for k in range(done)]
        if op.get("write"):
            for k, page in enumerate(touched):
                page.store(op["tok"] * 4096 + k)
        else:
            assert result["read"] == [page.value() for page in touched]

    def madvise(self, op: Op, result: dict[str, Any]) -> None:
        for page in self.pages(op).values():
            if op["advice"] == "dontneed" and not page.shared:
                page.own = page.own if result["rc"] else None
                page.unsure = bool(result["rc"])
            if op["advice"] in ("dontfork", "dofork"):
                page.inherited = op["advice"] == "dofork"

    def mremap(self, op: Op, result: dict[str, Any]) -> None:
        space = self.spaces[op["p"]]
        new = range(op["new_at"], op["new_at"] + op["new_n"])
        if result["rc"] < 0:
            # Room may have been made at the new place before it failed, or the old range cut.
            for k in [*new, *range(op["at"], op["at"] + op["n"])]:
                if k in space:
                    space[k].unsure = True
            return
        old = self.pages(op)
        for k in [*old, *new]:
            space.pop(k, None)
        last = old[op["at"]]
        for k in range(op["new_n"]):
            page = old.get(op["at"] + k) if k < op["n"] else None
            page = page or Page(last.behind, last.offset + 1, last.shared, inherited=last.inherited)
            space[op["new_at"] + k] = last = page

    def fork(self, op: Op, result: dict[str, Any]) -> None:
        if not result["rc"]:
            space = self.spaces[op["p"]]
            self.spaces[op["child"]] = {
                k: copy.copy(page) for k, page in space.items() if page.inherited
            }

    def exit(self, op: Op, result: dict[str, Any]) -> None:
        del self.spaces[op["p"]]

    def fwrite(self, op: Op, result: dict[str, Any]) -> None:
        if not result["rc"]:
            file = self.files[op["file"]]
            file.size = max(file.size, op["off"] + op["n"])
            file.data |= {op["off"] + k: op["tok"] * 4096 + k for k in range(op["n"])}

    def fread(self, op: Op, result: dict[str, Any]) -> None:
        file = self.files[op["file"]]
        expected = range(op["off"], min(op["off"] + op["n"], file.size))
        assert result.get("read", []) == [file.data.get(k, 0) for k in expected]

    def ftruncate(self, op: Op, result: dict[str, Any]) -> None:
        if result["rc"]:
            return
        file, size = self.files[op["file"]], op["pages"]
        file.size = size
        file.data = {k: value for k, value in file.data.items() if k < size}
        for space in self.spaces.values():
            for page in space.values():
                if page.behind is file and page.offset >= size:
                    page.own = None  # private copies go with the end of the file

    def punch(self, op: Op, result: dict[str, Any]) -> None:
        if not result["rc"]:
            for k in range(op["off"], op["off"] + op["n"]):
                self.files[op["file"]].data.pop(k, None)

    def hold(self, run: ScenarioRun) -> None:
        """Everything present has its content, and nothing that was written has gone."""
        for number, process in run.processes.items():
            if not process.alive:
                self.spaces.pop(number, None)
                continue
            space, seen = self.spaces[number], set()
            for vma in run.state_of(process)["vmas"]:
                for k, (value, kind) in enumerate(zip(vma["val"], vma["kind"], strict=True)):
                    k += vma["at"]
                    page = space[k]
                    seen.add(k)
                    own = value if kind in "13" and not page.shared else None
                    if page.unsure:
                        page.own, page.unsure = own, False
                    if value is not None:
                        assert value == page.value(), f"process {number} page {k}"
                    elif page.own is not None:
                        pytest.fail(f"process {number} page {k} lost its content")
                    if own is not None:  # a copy of its own, whoever asked for it
                        page.own = own
            for k in [k for k in space if k not in seen]:
                assert space[k].unsure, f"process {number} page {k} is not mapped"
                del space[k]


# ---- the tests --------------------------------------------------------------------------------

RESULT_OF = {
    "touch": {"rc", "minflt"},
    "move_pages": {"rc", "status", "migrated", "migrate_failed"},
}


def run_checked(
    scenario: dict[str, Any], pages: tuple[int, ...], width: int | None = None
) -> list[Op]:
    note(f"scenario: {json.dumps(scenario)}")
    run = ScenarioRun(scenario, machine=machine_of(pages, width))
    twin, results = Twin(scenario), []
    for i, op in enumerate(run.ops):
        result = run.step(i)
        results.append(result)
        run.machine.check()
        if run.outcome == "killed":
            break
        assert "skipped" in result or RESULT_OF.get(op["op"], {"rc"}) <= result.keys()
        twin.follow(op, result)
        twin.hold(run)
    assert len(results) == len(run.ops) or run.outcome == "killed"
    for process in run.processes.values():
        if process.alive:
            process.exit()
    run.machine.check(full=True)
    return results


@thorough
@given(scenarios())
def test_nothing_is_lost(scenario: dict[str, Any]) -> None:
    run_checked(scenario, TINY)


@thorough
@given(scenarios())
def test_width_does_not_matter(scenario: dict[str, Any]) -> None:
    assert run_checked(scenario, TINY, 1) == run_checked(scenario, TINY, 64)


def final(run: ScenarioRun) -> dict[int, Any]:
    run.machine.check(full=True)
    return {number: run.state_of(process) for number, process in run.processes.items()}


def answer(result: Op) -> Op:
    """What does not depend on what others do meanwhile: the counters are the machine's."""
    return {k: v for k, v in result.items() if k not in ("state", "migrated", "migrate_failed")}


@pytest.mark.threads
@thorough
@given(disjoint())
def test_disjoint_processes_in_threads(scenario: dict[str, Any]) -> None:
    note(f"scenario: {json.dumps(scenario)}")
    one = ScenarioRun(scenario, machine=machine_of(ROOMY))
    expected = [answer(result) for result in one]

    several = ScenarioRun(scenario, machine=machine_of(ROOMY))
    ops, results = several.ops, [{}] * len(several.ops)
    results[:2] = [several.do(0), several.do(1)]
    barrier = threading.Barrier(3)

    def work(p: int) -> None:
        barrier.wait()
        for i, op in enumerate(ops[2:], 2):
            if op["p"] == p:
                results[i] = several.do(i)

    threads = [threading.Thread(target=work, args=(p,)) for p in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer(result) for result in results] == expected
    assert final(several) == final(one)
