"""Scenarios drawn at random: nothing crashes and nothing is lost.

The machine is tiny, so nodes fill up; ranges cross the ends of page tables, of PMD and of PUD
tables.  A naive twin in Python keeps the last value written to every page of every process, through
forks, copies on write, shared objects and files, and every value read or found is compared with it.

``PAGEMIG_SEARCH=1000`` draws that many scenarios of each kind anew, not the same few every time.
"""

import copy
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, note, settings

from pagemig import KERNELS, Machine, Node
from pagemig.kernels import DEFAULT_KERNEL, kernel_profile
from pagemig.scenario.run import CRASHES, ScenarioRun
from support.scenarios import (
    ROOMY,
    SEARCH,
    TINY,
    Op,
    disjoint,
    harsh,
    scenarios,
    thorough,
)


def machine_of(pages: tuple[int, ...], width: int | None = None) -> Callable[[str], Machine]:
    def make(kernel: str) -> Machine:
        nodes = [Node(n << 12, cpus=nid < 2) for nid, n in enumerate(pages)]
        swap = ["1MiB"] if kernel_profile(kernel).engine == 1 else []
        machine = Machine(nodes, kernel=kernel, page_bytes=8, swap=swap)
        if width is not None:
            machine.width = width
        return machine

    return make


# ---- the twin ---------------------------------------------------------------------------------


@dataclass
class Object:
    """The content of a file or a shared object; pages that were never written are zero."""

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
        """Apply an operation to the twin, and compare the values that it read."""
        if "skipped" not in result:
            getattr(self, op["op"], lambda op, result: None)(op, result)

    def pages(self, op: Op) -> dict[int, Page]:
        """Pages of the range that an operation names, in bytes or in pages."""
        start = op["at"] * 4096 + op.get("boff", 0)
        end = start + op.get("bytes", op["n"] * 4096)
        space = self.spaces[op["p"]]
        first, last = start >> 12, end + 4095 >> 12
        return {k: page for k, page in sorted(space.items()) if first <= k < last}

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
        if result.get("errno") == "EINVAL" and op["advice"] in ("dontfork", "dofork"):
            return  # refused before it began
        for page in self.pages(op).values():
            if op["advice"] == "dontneed" and not page.shared:
                page.own = page.own if result["rc"] else None
                page.unsure = bool(result["rc"])
            if op["advice"] in ("dontfork", "dofork"):
                page.inherited = op["advice"] == "dofork"

    def mremap(self, op: Op, result: dict[str, Any]) -> None:
        space = self.spaces[op["p"]]
        # Without a fixed place the answer says where the range is.
        at = op["new_at"] if "fixed" in op["flags"] else max(result["rc"], 0)
        new = range(at, at + op["new_n"])
        if result["rc"] < 0:
            # Room may have been made at the new place before it failed, or the old range cut.
            for k in [*new, *range(op["at"], op["at"] + op["n"])]:
                if k in space:
                    space[k].unsure = True
            return
        if op["n"] and op["at"] not in space:
            # The kernels of 2006 cut a range before they look whether it is there.
            for k in range(op["at"] + op["new_n"], op["at"] + op["n"]):
                space.pop(k, None)
            return
        old = self.pages(op)
        if not op["n"]:
            # A second view of the object; to 4.13 of private memory too, without its pages.
            old = {op["at"]: replace(space[op["at"]], own=None)}
        for k in old if op["n"] else ():
            space.pop(k, None)
        last = old[op["at"]]
        for k in range(op["new_n"]):
            page = old.get(op["at"] + k)
            if page is None and k < op["n"]:
                continue  # a gap, from 6.17 on: what lies where it would go stays
            page = page or Page(last.behind, last.offset + 1, last.shared, inherited=last.inherited)
            space[at + k] = last = page

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
                shown = zip(vma["val"], vma["kind"], vma["bits"], strict=True)
                for k, (value, kind, bits) in enumerate(shown, vma["at"]):
                    page = space[k]
                    seen.add(k)
                    own = value if kind in "13" and not page.shared else None
                    if page.unsure:
                        page.own, page.unsure = own, False
                    if value is not None:
                        assert value == page.value(), f"process {number} page {k}"
                    elif page.own is not None and int(bits, 16) < 8:  # 8: a swap entry
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
    scenario: dict[str, Any],
    pages: tuple[int, ...],
    width: int | None = None,
    kernel: str = DEFAULT_KERNEL,
) -> list[Op]:
    note(f"scenario: {json.dumps(scenario)}")
    run = ScenarioRun(scenario, kernel=kernel, machine=machine_of(pages, width))
    twin, results = Twin(scenario), []
    for i, op in enumerate(run.ops):
        result = run.step(i)
        run.machine.check()
        if run.outcome in CRASHES:  # what is left is as before that step
            return results
        results.append(result)
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


@pytest.mark.parametrize("kernel", KERNELS)
@settings(thorough, max_examples=SEARCH or 40)
@given(scenario=harsh())
def test_nothing_is_lost_in_harsher_scenarios(kernel: str, scenario: dict[str, Any]) -> None:
    run_checked(scenario, TINY if scenario["ops"][0]["at"] % 2 else ROOMY, kernel=kernel)


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
