"""Accesses of many tasks in one call, against a program that knows a page as a node and its users.

The twin has what mm/memory.c of 6.1 does to private anonymous memory: a page that is only read is
the zero page; the first write gets a page where the writer's policy wants it; after a fork, the
last user of a page keeps it, every other writer gets a copy.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pagemig as pm
from support.machines import PAGE, at, four_nodes, mapped

N = 6
ABSENT, ZERO = -1, 0  # the zero page is a frame of node 0

Access = tuple[int, int, bool]  # task, page, write


@dataclass
class Page:
    node: int
    users: int = 1


@dataclass
class Space:
    """An address space: what each page number maps, and which of those a write need not ask for."""

    pages: dict[int, Page | None] = field(default_factory=dict)  # None: the zero page
    writable: set[int] = field(default_factory=set)

    def fork(self) -> "Space":
        if not any(self.pages.values()):  # no anon_vma: the child faults in its own zero pages
            return Space()
        self.writable.clear()
        for page in self.pages.values():
            if page is not None:
                page.users += 1
        return Space(dict(self.pages))


@dataclass
class Task:
    space: Space
    cpu: int  # processor k is on node k
    policy: tuple[int, ...] = ()  # nodes to interleave, or the one to prefer; none: where it runs
    bits: int = 64  # of a page number, when pages are interleaved
    faults: int = 0

    def wants(self, page: int) -> int:
        nodes = self.policy or (self.cpu,)
        return nodes[at(page) // PAGE % (1 << self.bits) % len(nodes)]

    def access(self, page: int, write: bool) -> bool:
        """False: there is no such page."""
        pages, writable = self.space.pages, self.space.writable
        if page >= N:
            return False
        if page not in pages and not write:
            pages[page] = None
            self.faults += 1
        elif write and page not in writable:
            old = pages.get(page)
            if old is None or old.users > 1:
                pages[page] = Page(self.wants(page))
                if old is not None:
                    old.users -= 1
            writable.add(page)
            self.faults += 1
        return True


def accesses(tasks: int) -> st.SearchStrategy[list[Access]]:
    one = st.tuples(st.integers(0, tasks - 1), st.integers(0, N), st.booleans())
    return st.lists(one, max_size=30)


def both(
    machine: pm.Machine, tasks: list[pm.Process], twins: list[Task], what: list[Access]
) -> None:
    """Make the accesses, and compare what they answer and what is mapped afterwards."""
    before = [twin.faults for twin in twins]
    done = 0
    for task, page, write in what:
        if not twins[task].access(page, write):
            break
        done += 1
    result = machine.populate(
        np.array([at(page) for _, page, _ in what], np.uint64),
        np.array([tasks[task].pid for task, _, _ in what], np.int64),
        write=np.array([write for _, _, write in what], bool),
    )
    faults = sum(twin.faults for twin in twins) - sum(before)
    assert (result.done, result.minflt, result.majflt) == (done, faults, 0)
    assert result.signal == (None if done == len(what) else "SIGSEGV")
    assert result.index == (None if done == len(what) else done)
    for task, twin in zip(tasks, twins, strict=True):
        if not task.alive:
            continue
        want = [ABSENT] * N
        for number, page in twin.space.pages.items():
            want[number] = ZERO if page is None else page.node
        assert task.nodes(at(0), N).tolist() == want
        assert task._faults() == (twin.faults, 0)


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.18"])
def test_many_tasks_fault_as_a_naive_program_says(kernel: str) -> None:
    @settings(max_examples=150)
    @given(accesses(3), accesses(5), accesses(5))
    def compare(first: list[Access], second: list[Access], third: list[Access]) -> None:
        machine = four_nodes(kernel)
        app = machine.spawn(cpu=0)
        mapped(app, N, touched=False)
        tasks = [app, app.thread(cpu=1), app.thread(cpu=0)]
        tasks[1].set_mempolicy(pm.Interleave([1, 2, 3]))
        tasks[2].set_mempolicy(pm.Preferred(2))
        space = Space()
        bits = 32 if kernel == "6.1" else 64  # offset_il_node() took an unsigned int
        twins = [Task(space, 0), Task(space, 1, (1, 2, 3), bits), Task(space, 0, (2,))]
        first = [access for access in first if access[1] < N]  # a signal would end the program
        both(machine, tasks, twins, first)
        child = app.fork()
        copied = space.fork()
        tasks += [child, child.thread(cpu=1)]
        twins += [Task(copied, 0), Task(copied, 1)]
        second = [access for access in second if access[1] < N]
        both(machine, tasks, twins, second)
        both(machine, tasks, twins, third)
        machine.check(full=True)

    compare()
