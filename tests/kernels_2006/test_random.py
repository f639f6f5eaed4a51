"""Random scenarios under the kernels of 2006, with swap: nothing crashes, all invariants hold.

Nodes are tiny and fill up, so that targets, frames and slots run out in the middle of everything;
between operations pages are swapped out, and devices go out of use and come back.  Where the real
kernel would have crashed the machine is as it was before that step.

``PAGEMIG_SEARCH=1000`` draws that many scenarios anew, not the same few every time.
"""

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import pagemig as pm
from pagemig.scenario.run import CRASHES, ScenarioRun
from support.of_2006 import KERNELS
from support.scenarios import SEARCH, TINY, scenarios, thorough


def tiny(kernel: str, cls: type[pm.Machine] = pm.Machine) -> pm.Machine:
    nodes = [pm.Node(n << 12, cpus=nid < 2) for nid, n in enumerate(TINY)]
    return cls(nodes, kernel=kernel, page_bytes=8, swap=["32KiB", "64KiB"])


class WithMinix(pm.Machine):
    """What is on ramfs in a scenario is on minix here, which the scenarios do not know."""

    @classmethod
    def tiny(cls, kernel: str) -> pm.Machine:
        return tiny(kernel, cls)

    def file(self, kind: str, *args: Any, **how: Any) -> pm.File:
        return super().file("minix" if kind == "ramfs" else kind, *args, **how)


def reclaim(machine: pm.Machine, chance: random.Random) -> None:
    """What the rest of a kernel might do between two calls."""
    what = chance.randrange(8)
    if what < 3:
        frames = np.flatnonzero(machine.frames.flag("lru"))
        if len(frames):
            machine.swap_out(chance.choices(frames.tolist(), k=6))
    elif what == 3:
        device = chance.randrange(2)
        try:
            machine.swapoff(device)
            machine.check()
            machine.swapon(device)
        except pm.SyscallError as error:
            assert error.name == "ENOMEM"
    elif what == 4 and machine.profile.four_lists:
        frames = np.flatnonzero(machine.frames.flag("lru"))
        if len(frames):
            evicts = machine.kernel == "2.6.17" and chance.randrange(2)
            node = None if evicts else chance.randrange(4)
            machine.migrate_lists(chance.choices(frames.tolist(), k=6), node)
    machine.check()


@pytest.mark.parametrize("kernel", KERNELS)
@thorough
@given(scenario=scenarios(), seed=st.integers(0, 1 << 16))
def test_nothing_crashes(kernel: str, scenario: dict[str, Any], seed: int) -> None:
    note(f"scenario: {json.dumps(scenario)}")
    run = ScenarioRun(scenario, kernel=kernel, machine=WithMinix.tiny if seed % 2 else tiny)
    chance, sites = random.Random(seed), set()
    for i in range(len(run.ops)):
        run.step(i)
        sites |= {run.site} - {""}
        run.machine.check()
        if run.outcome == "killed":
            break
        reclaim(run.machine, chance)
    if kernel == "pmig":
        assert not {site for site in sites if "alloc_pages_node" not in site}
    for process in run.processes.values():
        if process.alive:
            process.exit()
    run.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_scenarios_run_under_every_kernel(kernel: str) -> None:
    """The machine of the recordings has swap where nothing moves without; no call, no query."""
    ops = [
        {"op": "mmap", "p": 0, "at": 0, "n": 2, "kind": "anon"},
        {"op": "touch", "p": 0, "at": 0, "n": 2, "write": True, "tok": 1},
        {"op": "migrate_pages", "p": 0, "pid": "self", "from": [0], "to": [1]},
        {"op": "move_pages", "p": 0, "pid": "self", "pages": [0], "nodes": 2, "flags": ["move"]},
    ]
    *_, migrated, moved = ScenarioRun({"no_anchor": True, "ops": ops}, kernel=kernel)
    [vma] = migrated["state"]["0"]["vmas"]
    assert (migrated["rc"], vma["node"]) == (0, "11")
    has_call = "move_pages" in pm.KERNELS[kernel].calls
    assert ("query" in vma) == has_call
    assert moved.get("errno") == (None if has_call else "ENOSYS")
    json.dumps([migrated, moved])


def results(scenario: dict[str, Any], kernel: str, width: int) -> list[Any]:
    """All results, to the first place where the real kernel would have crashed."""

    def make(kernel: str) -> pm.Machine:
        machine = tiny(kernel)
        machine.width = width
        return machine

    run, seen = ScenarioRun(scenario, kernel=kernel, machine=make), []
    for i in range(len(run.ops)):
        seen.append(run.step(i))
        if run.outcome in CRASHES:
            return [*seen, run.site]
        if run.outcome == "killed":
            break
    return seen


@pytest.mark.parametrize("kernel", ["2.6.18-ia64", "pmig"])  # with lists pages go one by one anyway
@settings(thorough, max_examples=SEARCH or 25)
@given(scenario=scenarios())
def test_width_does_not_matter(kernel: str, scenario: dict[str, Any]) -> None:
    note(f"scenario: {json.dumps(scenario)}")
    assert results(scenario, kernel, 1) == results(scenario, kernel, 64)
