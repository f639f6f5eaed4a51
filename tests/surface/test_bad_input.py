"""Bad input to every call: an errno where a C program could pass it, else a TypeError or ValueError
that names the argument and leaves the machine untouched."""

import copy
import dataclasses
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import pagemig as pm
from pagemig import BAD, MPOL_BIND, NULL, Bind, Interleave, Pin, WeightedInterleave
from support.machines import PAGE, at, error_of, four_nodes, mapped, snapshot


class World(NamedTuple):
    machine: pm.Machine
    app: pm.Process
    file: pm.File
    stranger: pm.Process
    strange_file: pm.File


@pytest.fixture
def world() -> Iterator[World]:
    machine, other = four_nodes(page_bytes=8), four_nodes()
    app = machine.spawn()
    mapped(app, 8)
    app.mbind(at(2), 2 * PAGE, Interleave([1, 2]))
    file = machine.file("tmpfs", 8 * PAGE)
    stranger, strange_file = other.spawn(), other.file("tmpfs", PAGE)
    yield World(machine, app, file, stranger, strange_file)
    machine.check(full=True)


Call = Callable[[World], object]
INT32 = np.int32

#: What no kernel call can express: the call, the error, what its text names.
IMPOSSIBLE: list[tuple[Call, type[Exception], str]] = [
    # move_pages
    (lambda w: w.app.move_pages(3), TypeError, "pages"),
    (lambda w: w.app.move_pages("12"), TypeError, "pages"),
    (lambda w: w.app.move_pages(None), TypeError, "pages"),
    (lambda w: w.app.move_pages([0.5]), TypeError, "pages"),
    (lambda w: w.app.move_pages(["x"]), TypeError, "pages"),
    (lambda w: w.app.move_pages([1 << 64]), ValueError, "pages"),
    (lambda w: w.app.move_pages([-(1 << 63) - 1]), ValueError, "pages"),
    (lambda w: w.app.move_pages(np.zeros((2, 2), np.uint64)), ValueError, "pages"),
    (lambda w: w.app.move_pages(np.zeros(2)), TypeError, "pages"),
    (lambda w: w.app.move_pages([at(0)], [0.5]), TypeError, "nodes"),
    (lambda w: w.app.move_pages([at(0)], "1"), TypeError, "nodes"),
    (lambda w: w.app.move_pages([at(0)], [1 << 31]), ValueError, "nodes"),
    (lambda w: w.app.move_pages([at(0)], [-(1 << 31) - 1]), ValueError, "nodes"),
    (lambda w: w.app.move_pages([at(0)], 1 << 31), ValueError, "nodes"),
    (lambda w: w.app.move_pages([at(0)], np.array([1 << 40])), ValueError, "nodes"),
    (lambda w: w.app.move_pages([at(0)], np.zeros((1, 1), INT32)), ValueError, "nodes"),
    (lambda w: w.app.move_pages([at(0)], np.zeros(1)), TypeError, "nodes"),
    (lambda w: w.app.move_pages([at(0)], [1, 2]), ValueError, "nodes"),
    (lambda w: w.app.move_pages([at(0)] * 2, [1 << 40, None]), ValueError, "nodes"),
    (lambda w: w.app.move_pages([at(0), at(1)], [1]), ValueError, "nodes"),
    (lambda w: w.app.move_pages([at(0)], [1], "move"), TypeError, "flags"),
    (lambda w: w.app.move_pages([at(0)], [1], 1 << 32), ValueError, "flags"),
    (lambda w: w.app.move_pages([at(0)], pid="self"), TypeError, "pid"),
    (lambda w: w.app.move_pages([at(0)], pid=1 << 32), ValueError, "pid"),
    (lambda w: w.app.move_pages([at(0)], pid=w.stranger), ValueError, "pid"),
    (lambda w: w.app.move_pages([at(0)], count=1.0), TypeError, "count"),
    (lambda w: w.app.move_pages([at(0)], count=1 << 64), ValueError, "count"),
    (lambda w: w.app.move_pages([at(0)], status=[0]), TypeError, "status"),
    (lambda w: w.app.move_pages([at(0)], status=np.zeros(1)), TypeError, "status"),
    (lambda w: w.app.move_pages([at(0)], status=np.zeros(0, INT32)), ValueError, "status"),
    (lambda w: w.app.move_pages([at(0)], status=np.zeros(4, INT32)[::2]), ValueError, "status"),
    # pins
    (lambda w: w.app.unpin(3), TypeError, "pin"),
    (lambda w: w.app.unpin(w.stranger.pin(w.stranger.mmap(PAGE), PAGE)), ValueError, "pin"),
    # migrate_pages
    (lambda w: w.app.migrate_pages(0, [1]), TypeError, "from_nodes"),
    (lambda w: w.app.migrate_pages([0], 1), TypeError, "to_nodes"),
    (lambda w: w.app.migrate_pages("0", [1]), TypeError, "from_nodes"),
    (lambda w: w.app.migrate_pages(None, [1]), TypeError, "from_nodes"),
    (lambda w: w.app.migrate_pages([0.5], [1]), TypeError, "from_nodes"),
    (lambda w: w.app.migrate_pages([-1], [1]), ValueError, "from_nodes"),
    (lambda w: w.app.migrate_pages([0], [1, -1]), ValueError, "to_nodes"),
    (lambda w: w.app.migrate_pages(np.array(3), [1]), TypeError, "from_nodes"),
    (lambda w: w.app.migrate_pages([0], [1 << 70]), ValueError, "to_nodes"),
    (lambda w: w.app.migrate_pages([0], [1], pid=None), TypeError, "pid"),
    (lambda w: w.app.migrate_pages([0], [1], maxnode="65"), TypeError, "maxnode"),
    (lambda w: w.app.migrate_pages([0], [1], maxnode=1 << 64), ValueError, "maxnode"),
    # mbind
    (lambda w: w.app.mbind("0", PAGE, Bind([1])), TypeError, "addr"),
    (lambda w: w.app.mbind(1 << 64, PAGE, Bind([1])), ValueError, "addr"),
    (lambda w: w.app.mbind(at(0), 1.5, Bind([1])), TypeError, "length"),
    (lambda w: w.app.mbind(at(0), -(1 << 64), Bind([1])), ValueError, "length"),
    (lambda w: w.app.mbind(at(0), PAGE, "bind", [1]), TypeError, "policy"),
    (lambda w: w.app.mbind(at(0), PAGE, None), TypeError, "policy"),
    (lambda w: w.app.mbind(at(0), PAGE, MPOL_BIND, 1), TypeError, "nodes"),
    (lambda w: w.app.mbind(at(0), PAGE, MPOL_BIND, [-1]), ValueError, "nodes"),
    (lambda w: w.app.mbind(at(0), PAGE, MPOL_BIND, [1], "move"), TypeError, "flags"),
    (lambda w: w.app.mbind(at(0), PAGE, MPOL_BIND, [1], 1 << 64), ValueError, "flags"),
    (lambda w: w.app.mbind(at(0), PAGE, MPOL_BIND, [1], maxnode=0.5), TypeError, "maxnode"),
    (lambda w: w.app.mbind(at(0), PAGE, Bind([1]), [1]), TypeError, "flags"),
    (lambda w: w.app.mbind(at(0), PAGE, Bind([1]), [1], 2), TypeError, "nodes"),
    (lambda w: w.app.mbind(at(0), PAGE, Bind([1]), 2, maxnode=65), TypeError, "maxnode"),
    (lambda w: w.app.mbind(at(0), PAGE, WeightedInterleave([1], [2])), ValueError, "weights"),
    # set_mempolicy, get_mempolicy, set_mempolicy_home_node
    (lambda _: WeightedInterleave([1], 3), TypeError, "weights"),
    (lambda _: WeightedInterleave([1], "3"), TypeError, "weights"),
    (lambda _: WeightedInterleave([1], [0.5]), TypeError, "weights"),
    (lambda _: WeightedInterleave([1], {1: "3"}), TypeError, "weights"),
    (lambda w: w.app.set_mempolicy("bind"), TypeError, "policy"),
    (lambda w: w.app.set_mempolicy(1 << 64), ValueError, "policy"),
    (lambda w: w.app.set_mempolicy(MPOL_BIND, 1), TypeError, "nodes"),
    (lambda w: w.app.set_mempolicy(MPOL_BIND, [-1]), ValueError, "nodes"),
    (lambda w: w.app.set_mempolicy(MPOL_BIND, [1], maxnode=""), TypeError, "maxnode"),
    (lambda w: w.app.set_mempolicy(Bind([1]), [1]), TypeError, "nodes"),
    (lambda w: w.app.get_mempolicy("addr"), TypeError, "flags"),
    (lambda w: w.app.get_mempolicy(1 << 64), ValueError, "flags"),
    (lambda w: w.app.get_mempolicy(2, None), TypeError, "addr"),
    (lambda w: w.app.get_mempolicy(0, maxnode=None), TypeError, "maxnode"),
    (lambda w: w.app.get_mempolicy(0, nodemask=[1]), TypeError, "nodemask"),
    (lambda w: w.app.get_mempolicy(0, mode=1), TypeError, "mode"),
    (lambda w: w.app.set_mempolicy_home_node(at(0), PAGE, "1"), TypeError, "node"),
    (lambda w: w.app.set_mempolicy_home_node(at(0), PAGE, 1 << 64), ValueError, "node"),
    (lambda w: w.app.set_mempolicy_home_node(None, PAGE, 1), TypeError, "addr"),
    (lambda w: w.app.set_mempolicy_home_node(at(0), "", 1), TypeError, "length"),
    (lambda w: w.app.set_mempolicy_home_node(at(0), PAGE, 1, None), TypeError, "flags"),
    # the address space
    (lambda w: w.app.mmap("4096"), TypeError, "length"),
    (lambda w: w.app.mmap(1 << 64), ValueError, "length"),
    (lambda w: w.app.mmap(PAGE, addr=0.0), TypeError, "addr"),
    (lambda w: w.app.mmap(PAGE, prot="rwz"), ValueError, "prot"),
    (lambda w: w.app.mmap(PAGE, prot=None), TypeError, "prot"),
    (lambda w: w.app.mmap(PAGE, shared=1), TypeError, "shared"),
    (lambda w: w.app.mmap(PAGE, file=3), TypeError, "file"),
    (lambda w: w.app.mmap(PAGE, file=w.strange_file), ValueError, "file"),
    (lambda w: w.app.mmap(PAGE, file=w.file, offset="0"), TypeError, "offset"),
    (lambda w: w.app.mmap(PAGE, fixed=True), ValueError, "addr"),
    (lambda w: w.app.mmap(PAGE, fixed="no"), TypeError, "fixed"),
    (lambda w: w.app.mmap(PAGE, populate=None), TypeError, "populate"),
    (lambda w: w.app.mmap(PAGE, locked="yes"), TypeError, "locked"),
    (lambda w: w.app.mmap(PAGE, noreplace=2), TypeError, "noreplace"),
    (lambda w: w.app.munmap(None, PAGE), TypeError, "addr"),
    (lambda w: w.app.munmap(at(0), 1 << 64), ValueError, "length"),
    (lambda w: w.app.mprotect(at(0), PAGE, "w r"), ValueError, "prot"),
    (lambda w: w.app.mprotect(at(0), PAGE, 1 << 40), ValueError, "prot"),
    (lambda w: w.app.mremap(at(0), PAGE, "x"), TypeError, "new_length"),
    (lambda w: w.app.mremap(at(0), PAGE, PAGE, maymove=1), TypeError, "maymove"),
    (lambda w: w.app.mremap(at(0), PAGE, PAGE, new_addr="x"), TypeError, "new_addr"),
    (lambda w: w.app.mremap(at(0), PAGE, PAGE, dontunmap=0), TypeError, "dontunmap"),
    (lambda w: w.app.mlock(at(0), None), TypeError, "length"),
    (lambda w: w.app.mlock(at(0), PAGE, onfault=1), TypeError, "onfault"),
    (lambda w: w.app.munlock("", PAGE), TypeError, "addr"),
    (lambda w: w.app.mlockall(current=1), TypeError, "current"),
    (lambda w: w.app.mlockall(future=1), TypeError, "future"),
    (lambda w: w.app.madvise(at(0), PAGE, "please"), ValueError, "advice"),
    (lambda w: w.app.madvise(at(0), PAGE, None), TypeError, "advice"),
    # touching
    (lambda w: w.app.touch("0", PAGE), TypeError, "addr"),
    (lambda w: w.app.touch(at(0), 0.5), TypeError, "length"),
    (lambda w: w.app.touch(at(0), -PAGE), ValueError, "length"),
    (lambda w: w.app.touch(at(0), PAGE, write=1), TypeError, "write"),
    (lambda w: w.app.touch(at(0), PAGE, values=1), ValueError, "values"),
    (lambda w: w.app.touch(at(0), PAGE, write=True, values=[1, 2]), ValueError, "values"),
    (lambda w: w.app.touch(at(0), PAGE, write=True, values=0.5), TypeError, "values"),
    (lambda w: w.app.touch(at(0), PAGE, write=True, values=1 << 64), ValueError, "values"),
    (lambda w: w.app.access("x"), TypeError, "addresses"),
    (lambda w: w.app.access([0.5]), TypeError, "addresses"),
    (lambda w: w.app.access([at(0)], deferred=1), TypeError, "deferred"),
    (lambda w: w.app.access([at(0)], deferred=np.zeros(2)), TypeError, "deferred"),
    (lambda w: w.app.access(np.zeros((1, 1), np.uint64)), ValueError, "addresses"),
    (lambda w: w.app.access([at(0)], write=[True, False]), ValueError, "write"),
    (lambda w: w.app.access([at(0)], write=[0.5]), TypeError, "write"),
    (lambda w: w.app.access([at(0)], write="yes"), TypeError, "write"),
    # life, pins, files
    (lambda w: w.app.exit(zombie=1), TypeError, "zombie"),
    (lambda w: w.app.reap(), ValueError, "zombie"),
    (lambda w: w.app.setuid("root"), TypeError, "uid"),
    (lambda w: w.app.setuid(-1), ValueError, "uid"),
    (lambda w: w.app.setuid(1, gid=-1), ValueError, "gid"),
    (lambda w: w.app.setuid(1, dumpable=0), TypeError, "dumpable"),
    (lambda w: setattr(w.app, "cpu", 2), ValueError, "cpu"),
    (lambda w: setattr(w.app, "cpu", "0"), TypeError, "cpu"),
    (lambda w: w.app.limit_memlock("many"), ValueError, "size"),
    (lambda w: w.app.limit_memlock("9" * 5000), ValueError, "size"),
    (lambda w: w.app.pin(at(0), PAGE, "glue"), ValueError, "how"),
    (lambda w: w.app.pin(at(0), PAGE, ["pipe"]), TypeError, "how"),
    (lambda w: w.app.pin(None, PAGE), TypeError, "addr"),
    (lambda w: w.app.pin(at(0), "1"), TypeError, "length"),
    (lambda w: w.app.unpin(0), TypeError, "pin"),
    (lambda w: w.app.fwrite(w.strange_file, 0, 1), ValueError, "file"),
    (lambda w: w.app.fwrite(w.file, -1, 1), ValueError, "page_offset"),
    (lambda w: w.app.fwrite(w.file, 0, 0.5), TypeError, "values"),
    (lambda w: w.app.fwrite(w.file, 0, 1, "2"), TypeError, "n"),
    (lambda w: w.app.fread(None, 0), TypeError, "file"),
    (lambda w: w.app.fread(w.file, 0, -1), ValueError, "n"),
    (lambda w: w.app.ftruncate(w.file, 100), ValueError, "size"),
    (lambda w: w.app.ftruncate(w.file, "big"), ValueError, "size"),
    (lambda w: w.app.punch(w.file, 100, PAGE), ValueError, "offset"),
    (lambda w: w.app.punch(w.file, 0, None), TypeError, "length"),
    (lambda w: w.app.fadvise(w.file, 0, 0, "please"), ValueError, "advice"),
    (lambda w: w.app.fadvise(w.file, 0, 1, "dontneed"), ValueError, "length"),
    (lambda w: w.app.fadvise(w.file, 0, 0, "dontneed", sync=1), TypeError, "sync"),
    # looking
    (lambda w: w.app.pagemap("x", 1), TypeError, "addr"),
    (lambda w: w.app.pagemap(at(0), -1), ValueError, "n"),
    (lambda w: w.app.pagemap(at(0), 1, pfns=[]), TypeError, "pfns"),
    (lambda w: w.app.access_counts(at(0), 1), ValueError, "access_stats"),
    # the machine
    (lambda w: w.machine.spawn(cpu=2), ValueError, "cpu"),
    (lambda w: w.machine.spawn(cpu="0"), TypeError, "cpu"),
    (lambda w: w.machine.spawn(uid=-1), ValueError, "uid"),
    (lambda w: w.machine.file("xfs", PAGE), ValueError, "kind"),
    (lambda w: w.machine.file(["tmpfs"], PAGE), TypeError, "kind"),
    (lambda w: w.machine.process("1"), TypeError, "pid"),
    (lambda w: w.machine.process([1]), TypeError, "pid"),
    (lambda w: w.machine.at_step(3), TypeError, "hook"),
    (lambda w: w.machine.at_step(print, step="copy"), TypeError, "step"),
    (lambda w: w.machine.at_step(print, step=99), ValueError, "step"),
    (lambda w: w.machine.offline(1, keep=["rcu"]), TypeError, "keep"),
    (lambda w: w.machine.offline(1, keep="pray"), ValueError, "keep"),
    (lambda w: w.machine.migrate_range(-1, 4), ValueError, "first_pfn"),
    (lambda w: setattr(w.machine, "width", "1"), TypeError, "width"),
    (lambda w: setattr(w.machine, "width", 1 << 70), ValueError, "width"),
    (lambda w: setattr(w.machine, "width", 0), ValueError, "width"),
    (lambda w: w.machine.file("tmpfs", 100), ValueError, "size"),
    (lambda w: w.machine.file("tmpfs", PAGE, ino=0), ValueError, "ino"),
    (lambda w: w.machine.free(4), ValueError, "nid"),
    (lambda w: w.machine.cpu_node(-1), ValueError, "cpu"),
    (lambda w: w.machine.node_of([1 << 40]), ValueError, "pfns"),
    (lambda w: w.machine.migrate_frames([1 << 40], [0]), ValueError, "pfns"),
    (lambda w: w.machine.migrate_frames([1], [0, 1]), ValueError, "nodes"),
    (lambda w: setattr(w.machine, "tracing", 1), TypeError, "tracing"),
    (lambda w: w.machine.frames.flag("shiny"), ValueError, "shiny"),
    (lambda w: w.machine.frames.describe(-1), ValueError, "pfn"),
    (lambda w: w.machine.frames.describe(1 << 30), ValueError, "pfn"),
    (lambda w: w.machine.frames.describe(1 << 70), ValueError, "pfn"),
    (lambda w: w.machine.frames.describe((1, 2)), TypeError, "pfn"),
    (lambda w: w.machine.frames.describe("state"), TypeError, "pfn"),
    (lambda w: pm.Process(w.machine, "1"), TypeError, "pid"),
    (lambda w: pm.Process(w.machine, 1 << 70), ValueError, "pid"),
    (lambda w: pm.Process(w.machine, -1), pm.ProcessGoneError, "Process -1 has exited"),
    (lambda w: w.app.unpin(Pin("1", 1, 1, "pipe", w.machine)), TypeError, "handle"),
    (lambda w: w.app.unpin(Pin(1 << 70, 1, 1, "pipe", w.machine)), ValueError, "handle"),
]


@pytest.mark.parametrize(("call", "error", "named"), IMPOSSIBLE)
def test_what_no_call_can_express(
    world: World, call: Call, error: type[Exception], named: str
) -> None:
    before = snapshot(world.machine)
    with pytest.raises(error, match=named) as caught:
        call(world)
    assert not isinstance(caught.value, OSError)
    assert snapshot(world.machine) == before
    world.machine.check()


#: What a C program can pass and the kernel refuses.  Tables of the calls about placement are in
#: the tests of each call.
REFUSED: list[tuple[Call, str]] = [
    (lambda w: w.app.move_pages([at(0)], 99), "ENODEV"),
    (lambda w: w.app.move_pages(BAD, count=1), "EFAULT"),
    (lambda w: w.app.migrate_pages(BAD, NULL), "EFAULT"),
    (lambda w: w.app.migrate_pages([0], [32768]), "EINVAL"),
    (lambda w: w.app.migrate_pages([0], [1 << 40]), "EINVAL"),
    (lambda w: w.app.mbind(at(0) + 1, PAGE, Bind([1])), "EINVAL"),
    (lambda w: w.app.mbind(-PAGE, PAGE, Bind([1])), "EINVAL"),
    (lambda w: w.app.mbind(1 << 63, PAGE, Bind([1])), "EFAULT"),
    (lambda w: w.app.mbind(at(0), PAGE, Bind([])), "EINVAL"),
    (lambda w: w.app.set_mempolicy(-1), "EINVAL"),
    (lambda w: w.app.get_mempolicy(2, -1), "EFAULT"),
    (lambda w: w.app.set_mempolicy_home_node(at(0), PAGE, -1), "EINVAL"),
    (lambda w: w.app.mmap(0), "EINVAL"),
    (lambda w: w.app.mmap(PAGE, addr=at(20) + 1), "EINVAL"),
    (lambda w: w.app.mmap(PAGE, file=w.file, offset=1), "EINVAL"),
    (lambda w: w.app.mmap(1 << 60), "ENOMEM"),
    (lambda w: w.app.mmap(PAGE, addr=at(0), noreplace=True), "EEXIST"),
    (lambda w: w.app.munmap(at(0) + 1, PAGE), "EINVAL"),
    (lambda w: w.app.munmap(at(0), 0), "EINVAL"),
    (lambda w: w.app.mprotect(at(0) + 1, PAGE, "r"), "EINVAL"),
    (lambda w: w.app.mprotect(at(100), PAGE, "r"), "ENOMEM"),
    (lambda w: w.app.mremap(at(0) + 1, PAGE, PAGE), "EINVAL"),
    (lambda w: w.app.mremap(at(0), PAGE, 0), "EINVAL"),
    (lambda w: w.app.mremap(at(100), PAGE, 2 * PAGE, maymove=True), "EFAULT"),
    (lambda w: w.app.mlock(at(100), PAGE), "ENOMEM"),
    (lambda w: w.app.munlock(at(100), PAGE), "ENOMEM"),
    (lambda w: w.app.mlockall(), "EINVAL"),
    (lambda w: w.app.mlockall(onfault=True), "EINVAL"),
    (lambda w: w.app.madvise(at(0), PAGE, 77), "EINVAL"),
    (lambda w: w.app.madvise(at(0) + 1, PAGE, "dontneed"), "EINVAL"),
    (lambda w: w.app.madvise(at(100), PAGE, "dontneed"), "ENOMEM"),
    (lambda w: w.app.pin(at(100), PAGE), "EFAULT"),
    (lambda w: w.app.unpin(Pin(12345, 1, 1, "pipe", w.machine)), "EBADF"),
    (lambda w: w.app.unpin(Pin(-1, 1, 1, "pipe", w.machine)), "EBADF"),
    (lambda w: w.app.fadvise(w.file, 0, 0, 99), "EINVAL"),
]


@pytest.mark.parametrize(("call", "expected"), REFUSED)
def test_what_the_kernel_refuses(world: World, call: Call, expected: str) -> None:
    before = snapshot(world.machine)
    assert error_of(call, world) == expected
    assert snapshot(world.machine)[1:] == before[1:]
    world.machine.check()


# ---- processes that are gone --------------------------------------------------------------------

CALLS: list[Call] = [
    lambda w: w.app.move_pages([at(0)]),
    lambda w: w.app.move_pages(np.array([at(0)], np.uint64), np.array([1], INT32)),
    lambda w: w.app.migrate_pages([0], [1]),
    lambda w: w.app.mbind(at(0), PAGE, Bind([1])),
    lambda w: w.app.set_mempolicy(Bind([1])),
    lambda w: w.app.get_mempolicy(),
    lambda w: w.app.set_mempolicy_home_node(at(0), PAGE, 1),
    lambda w: w.app.mmap(PAGE),
    lambda w: w.app.munmap(at(0), PAGE),
    lambda w: w.app.mprotect(at(0), PAGE, "r"),
    lambda w: w.app.mremap(at(0), PAGE, 2 * PAGE),
    lambda w: w.app.mlock(at(0), PAGE),
    lambda w: w.app.munlock(at(0), PAGE),
    lambda w: w.app.mlockall(current=True),
    lambda w: w.app.munlockall(),
    lambda w: w.app.madvise(at(0), PAGE, "dontneed"),
    lambda w: w.app.touch(at(0), PAGE),
    lambda w: w.app.access([at(0)]),
    lambda w: w.app.access(np.array([at(0)], np.uint64)),
    lambda w: w.app.fork(),
    lambda w: w.app.exit(),
    lambda w: w.app.setuid(1),
    lambda w: w.app.limit_memlock("1MiB"),
    lambda w: w.app.pin(at(0), PAGE),
    lambda w: w.app.unpin(Pin(1, 1, 1, "pipe", w.machine)),
    lambda w: w.app.fwrite(w.file, 0, 1),
    lambda w: w.app.fread(w.file, 0),
    lambda w: w.app.ftruncate(w.file, PAGE),
    lambda w: w.app.punch(w.file, 0, PAGE),
    lambda w: w.app.fadvise(w.file, 0, 0, "dontneed"),
    lambda w: w.app.pagemap(at(0), 1),
    lambda w: w.app.numa_maps(),
    lambda w: w.app.smaps(),
    lambda w: w.app.vmas(),
    lambda w: w.app.status(),
    lambda w: w.app.access_counts(at(0), 1),
    lambda w: w.app.uid,
    lambda w: w.app.cpu,
    lambda w: w.app.node,
    lambda w: setattr(w.app, "cpu", 1),
]


@pytest.mark.parametrize("zombie", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_a_process_that_exited_makes_no_calls(world: World, call: Call, zombie: bool) -> None:
    world.app.exit(zombie=zombie)
    reused = None if zombie else world.machine.spawn()
    with pytest.raises(pm.ProcessGoneError, match=f"Process {world.app.pid}"):
        call(world)
    assert reused is None or reused.vmas() == []
    if zombie:
        world.app.reap()
    with pytest.raises(ValueError, match="not a zombie"):
        world.app.reap()


def test_a_closed_file_is_not_used(world: World) -> None:
    world.file.close()
    world.file.close()
    for call in (
        lambda: world.app.mmap(PAGE, file=world.file),
        lambda: world.app.fread(world.file, 0),
        lambda: world.file.size,
        lambda: world.file.ino,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


# ---- no machine ---------------------------------------------------------------------------------

MACHINES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: pm.Machine([]), ValueError, "nodes"),
    (lambda: pm.Machine(["1MiB"] * 65), ValueError, "65"),
    (lambda: pm.Machine(4), TypeError, "nodes"),
    (lambda: pm.Machine("4GiB"), TypeError, "nodes"),
    (lambda: pm.Machine([0, 0]), ValueError, "memory"),
    (lambda: pm.Machine(["x"]), ValueError, "'x'"),
    (lambda: pm.Machine(["4 GB of memory"]), ValueError, "GB"),
    (lambda: pm.Machine(["1.5gb"]), ValueError, "'1.5GiB': gb, a power of 1000, is not meant"),
    (lambda: pm.Machine([4097]), ValueError, "4097"),
    (lambda: pm.Machine([-4096]), ValueError, "-4096"),
    (lambda: pm.Machine([1.5]), TypeError, "1.5"),
    (lambda: pm.Machine([None]), TypeError, "None"),
    (lambda: pm.Node("1.00001KiB"), ValueError, "1.00001KiB"),
    (lambda: pm.Node("1MiB", cpus=-1), ValueError, "cpus"),
    (lambda: pm.Node("1MiB", cpus="2"), TypeError, "cpus"),
    (lambda: pm.Node("1MiB", cpus=5000), ValueError, "5000"),
    (lambda: pm.Node("1MiB", reserved="2MiB"), ValueError, "reserved"),
    (lambda: pm.Machine([pm.Node("1MiB", cpus=4000)] * 2), ValueError, "cpus"),
    (lambda: pm.Machine(["1MiB"], kernel="5.4"), ValueError, "6.1, 6.12"),
    (lambda: pm.Machine(["1MiB"], kernel=6.1), TypeError, "6.1"),
    (lambda: pm.Machine(["1MiB"], page_bytes=16), ValueError, "16"),
    (lambda: pm.Machine(["1MiB"], page_bytes="8"), ValueError, "page_bytes"),
    (lambda: pm.Machine(["1MiB"], access_stats=1), TypeError, "access_stats"),
    (lambda: pm.Machine(["1MiB"], scatter=0), ValueError, "scatter"),
    (lambda: pm.Machine(["1MiB"], scatter="yes"), TypeError, "scatter"),
    (lambda: pm.Machine(["1MiB"] * 2, distances=[[10, 20]]), ValueError, "distances"),
    (lambda: pm.Machine(["1MiB"] * 2, distances=[[10, 20], [20, 11]]), ValueError, "itself"),
    (lambda: pm.Machine(["1MiB"] * 2, distances=[[10, 10], [20, 10]]), ValueError, "11 to 255"),
    (lambda: pm.Machine(["1MiB"] * 2, distances=[[10, 256], [20, 10]]), ValueError, "11 to 255"),
    (lambda: pm.Machine(["1MiB"] * 2, distances=[[10, 0.5], [20, 10]]), ValueError, "distances"),
    (lambda: pm.Machine(["1MiB"], weights=[1]), ValueError, "weights"),
    (lambda: pm.Machine(["1MiB"] * 2, kernel="6.12", weights=[1]), ValueError, "weights"),
    (lambda: pm.Machine(["1MiB"] * 2, kernel="6.12", weights=[1, 0]), ValueError, "weights"),
    (lambda: pm.Machine(["1MiB"] * 2, kernel="6.12", weights={2: 1}), ValueError, "weights"),
]


@pytest.mark.parametrize(("make", "error", "named"), MACHINES)
def test_what_is_no_machine(make: Callable[[], Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        make()


# ---- how it is said -----------------------------------------------------------------------------

#: Wrong types in whole sentences.
SAID: list[tuple[Call, str]] = [
    (lambda w: w.app.move_pages([at(0), 0.5]), "pages must be integers, not 0.5"),
    (lambda w: w.app.move_pages([at(0)], ["x"]), "nodes must be integers, not 'x'"),
    (lambda w: w.app.move_pages([at(0)], pid="self"), "pid must be a Process or a number"),
    (lambda w: w.app.mbind(at(0), PAGE, "bind", [1]), "policy must be a Policy or a mode"),
    (lambda w: w.app.set_mempolicy(None), "policy must be a Policy or a mode, not None"),
    (lambda w: w.app.mprotect(at(0), PAGE, None), "prot must be letters of 'rwx' or a number"),
    (lambda w: w.app.madvise(at(0), PAGE, None), "advice must be a name or a number, not None"),
    (lambda w: pm.Machine([1.5]), "size must be a number of bytes or text as '4GiB', not 1.5"),
]


@pytest.mark.parametrize(("call", "said"), SAID)
def test_wrong_types_are_named(world: World, call: Call, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        call(world)


#: Refused calls and the rule that a note names.
BROKEN: list[tuple[Call, str]] = [
    (lambda w: w.app.mbind(at(0) + 1, PAGE, Bind([1])), "not a multiple of the page size"),
    (lambda w: w.app.mbind(-PAGE, PAGE, Bind([1])), "beyond the last address"),
    (lambda w: w.app.mbind(at(0), PAGE, Bind([])), "the node set is empty"),
    (lambda w: w.app.mbind(at(0), PAGE, pm.MPOL_LOCAL, [1]), "takes no nodes"),
    (lambda w: w.app.mbind(at(0), PAGE, Bind([40])), "no node of the set has memory"),
    (lambda w: w.app.mbind(at(0), PAGE, Bind([140])), "no node of the set has memory"),
    (lambda w: w.app.mbind(at(0), PAGE, Bind([1]), pm.MPOL_MF_LAZY), "flags may be"),
    (lambda w: w.app.mbind(at(0), PAGE, MPOL_BIND, [1], maxnode=1 << 20), "page of bits"),
    (lambda w: w.app.mbind(at(0), PAGE, MPOL_BIND, [1100]), "beyond node 1023"),
    (lambda w: w.app.set_mempolicy(WeightedInterleave([1])), "mode 0x6 is not known to Linux 6.1"),
    (lambda w: w.app.set_mempolicy(3 << 14 | 2, [1]), "exclude each other"),
    (lambda w: w.app.set_mempolicy(1 << 13 | 3, [1]), "BALANCING does not go with mode 3"),
    (lambda w: w.app.set_mempolicy(MPOL_BIND, []), "the node set is empty"),
    (lambda w: w.app.get_mempolicy(8), "flags may be"),
    (lambda w: w.app.get_mempolicy(6), "no other flag"),
    (lambda w: w.app.get_mempolicy(0, at(0)), "without MPOL_F_ADDR"),
    (lambda w: w.app.get_mempolicy(1), "interleaves"),
    (lambda w: w.app.get_mempolicy(0, maxnode=1), "below the 4 nodes"),
    (lambda w: w.app.set_mempolicy_home_node(at(0), PAGE, 9), "no node 9"),
    (lambda w: w.app.set_mempolicy_home_node(at(0), PAGE, 1, 1), "flags must be 0"),
    (lambda w: w.app.set_mempolicy_home_node(at(0) + 1, PAGE, 1), "multiple of the page size"),
    (lambda w: w.app.move_pages([at(0)], 1, 1), "MPOL_MF_MOVE_ALL only"),
    (lambda w: w.app.move_pages([at(0)], pid=2), "a zombie or a kernel thread"),
    (lambda w: w.app.move_pages([at(0), at(1)], [1, 99]), "1 of 2 statuses were stored"),
    (lambda w: w.app.move_pages([at(0), at(1)], [1, 99], 4), "1 of 2 statuses were stored"),
    (lambda w: w.app.migrate_pages([0], [9]), "no node with memory"),
    (lambda w: w.app.mmap(0), "the length is 0"),
    (lambda w: w.app.mmap(PAGE, addr=at(20) + 1), "address 0x.* is not a multiple"),
    (lambda w: w.app.mmap(PAGE, file=w.file, offset=1), "offset 0x1 is not a multiple"),
    (lambda w: w.app.munmap(at(0) + 1, PAGE), "is not a multiple"),
    (lambda w: w.app.munmap(at(0), 0), "the length is 0"),
    (lambda w: w.app.mprotect(at(0) + 1, PAGE, "r"), "is not a multiple"),
    (lambda w: w.app.mremap(at(0) + 1, PAGE, PAGE), "is not a multiple"),
    (lambda w: w.app.madvise(at(0) + 1, PAGE, "dontneed"), "is not a multiple"),
    (lambda w: w.app.mlockall(), "neither current nor future"),
]


@pytest.mark.parametrize(("call", "rule"), BROKEN)
def test_a_note_says_which_rule_was_broken(world: World, call: Call, rule: str) -> None:
    with pytest.raises(pm.SyscallError) as caught:
        call(world)
    (note,) = caught.value.__notes__
    assert re.search(rule, note)
    assert type(caught.value.errno) is int


def test_without_pages_the_nodes_count(world: World) -> None:
    assert error_of(world.app.move_pages, BAD, [0]) == "EFAULT"
    assert error_of(world.app.move_pages, BAD, np.zeros(2, INT32)) == "EFAULT"
    assert world.app.move_pages(BAD, []).rc == 0
    assert world.app.move_pages(BAD, 0).rc == 0


#: Profiles that no engine is made for: what is changed of which, and what the error names.
NO_KERNELS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("6.1", {"passes": -1}, ValueError, "passes must be .*-1"),
    ("6.1", {"passes": 1 << 40}, ValueError, "passes"),
    ("6.1", {"batch": "x"}, TypeError, "batch must be .*'x'"),
    ("6.1", {"pagevec": None}, TypeError, "pagevec"),
    ("6.1", {"calls": 3}, TypeError, "calls"),
    ("6.1", {"engine": 1}, ValueError, "engine=1 needs swap, plain_entries, counts_drop, check"),
    ("2.6.18", {"engine": 2}, ValueError, "engine must be 0 or 1"),
    ("2.6.17", {"plain_entries": 0}, ValueError, "engine=1 needs plain_entries"),
    ("2.6.17", {"counts_drop": 0}, ValueError, "engine=1 needs counts_drop"),
    ("6.12", {"four_lists": 1}, ValueError, "four_lists=1 needs counts_drop, check_range"),
    ("pmig", {"four_lists": 1}, ValueError, "four_lists=1 needs neither"),
    ("2.6.17-mm", {"arrays": 1}, ValueError, "four_lists=1 needs neither"),
]


@pytest.mark.parametrize(("base", "changes", "error", "named"), NO_KERNELS)
def test_profiles_that_no_engine_is_made_for(
    base: str, changes: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        dataclasses.replace(pm.KERNELS[base], **changes)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"nodes": np.array(3)}, TypeError, "nodes"),
        ({"nodes": "1MiB"}, TypeError, "nodes"),
        ({"nodes": ["16TiB"]}, ValueError, "less than 16 TiB.*16 TiB"),
        ({"nodes": ["15TiB", "1TiB"]}, ValueError, "less than 16 TiB"),
        ({"nodes": ["8000TiB"]}, ValueError, "less than 16 TiB"),
        ({"kernel": "6.12", "weights": 3}, TypeError, "weights"),
        ({"kernel": "6.12", "weights": "12"}, TypeError, "weights"),
        ({"kernel": "6.12", "weights": ["1", 2]}, TypeError, "weights"),
        ({"kernel": "6.12", "weights": [1, 256]}, ValueError, "weights"),
        ({"kernel": "2.6.17", "swap": np.array(3)}, TypeError, "swap"),
    ],
)
def test_machines_that_cannot_be(
    arguments: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        pm.Machine(**{"nodes": ["1MiB", "1MiB"], **arguments})


def test_the_largest_machine_there_can_be() -> None:
    """The last frames of 16 TiB less a page have numbers of their own."""
    machine = pm.Machine([pm.Node((1 << 44) - 3 * PAGE, cpus=1), 2 * PAGE])
    app = machine.spawn()
    base = app.mmap(4 * PAGE)
    app.mbind(base, 2 * PAGE, pm.Preferred(1))
    app.touch(base, 4 * PAGE, write=True)
    pfns = app.frames(base, 4)
    assert len(set(pfns.tolist())) == 4
    assert pfns[:2].min() >= (1 << 32) - 3
    assert machine.node_of(pfns).tolist() == [1, 1, 0, 0]
    assert app.move_pages([base], 0).names == [0]
    machine.check()


def test_machines_from_whatever_is_a_sequence() -> None:
    sizes = np.array([1 << 20, 1 << 21])
    machine = pm.Machine(sizes, kernel="6.12", weights=np.array([1, 2]))
    assert ([node.size for node in machine.nodes], machine.weights) == (sizes.tolist(), (1, 2))
    assert WeightedInterleave([0, 1], np.array([2, 3])) == WeightedInterleave([0, 1], (2, 3))
    assert pm.Machine(size for size in ("1MiB", 1 << 20)).nr_nodes == 2
    assert len(pm.Machine({"1MiB"}, kernel="2.6.17", swap=iter(["1MiB"])).swap) == 1


@pytest.mark.parametrize("prot", [-1, 1 << 31, 0xFFFFFFFF, 16])
def test_protections_the_kernel_has_not(world: World, prot: int) -> None:
    """mprotect knows its bits (``arch_validate_prot``), mmap looks at those it knows."""
    assert error_of(world.app.mprotect, at(0), PAGE, prot) == "EINVAL"


def test_a_file_is_not_read_and_written_beyond_all_memory(world: World) -> None:
    assert world.app.fread(world.file, 0, (1 << 52) - 1).size == 8
    assert world.app.fread(world.file, 1 << 40, 1 << 40).size == 0
    small = pm.Machine([pm.Node(64 * PAGE, cpus=1)], page_bytes=8)
    file = small.file("tmpfs", PAGE)
    written = small.spawn().fwrite(file, 0, 7, (1 << 52) - 1)
    assert 0 < written < 64
    assert file.cached == written
    small.check(full=True)


@pytest.mark.parametrize("what", ["app", "file"])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_is_of_a_machine_is_not_copied(world: World, what: str, how: Any) -> None:
    with pytest.raises(TypeError, match="copy or pickle the Machine"):
        how(getattr(world, what))


def test_what_is_shown(world: World) -> None:
    result = world.app.move_pages([at(0), at(1), at(9)], [1, 1, 1])
    assert result.names == [1, 1, "EFAULT"]
    assert repr(result) == "MoveResult(rc=0, names=[1, 1, EFAULT])"
    assert repr(world.app.move_pages([at(0)] * 20)).endswith("1, ...])")
    assert pm.errno_name(np.int32(pm.STATUS_UNSET)) == "unset"
    assert f"{at(2):#x}-{at(4):#x} rw-p, interleave:1-2" in repr(world.app.vmas()[1])


def test_what_32_bits_of_index_cannot_tell_apart_is_refused() -> None:
    """The record of a page has 32 bits for its index: 16 TiB a mapping and a file, as on ext4."""
    machine = pm.Machine(["8MiB", "8MiB"])
    app = machine.spawn()
    most = 1 << 44
    assert error_of(app.mmap, most + PAGE) == "ENOMEM"
    base = app.mmap(most - PAGE, addr=1 << 45)
    # Neighbours that would be one mapping of more than that stay two.
    app.mmap(2 * PAGE, addr=base + most - PAGE)
    assert [v.pages for v in app.vmas()] == [(1 << 32) - 1, 2]
    assert error_of(app.mremap, base, most - PAGE, most + PAGE, maymove=True) == "ENOMEM"
    ends = [base, base + most - 2 * PAGE, base + most - PAGE]
    for address in ends:
        app.touch(address, PAGE, write=True)
    assert app.move_pages(ends, 1).status.tolist() == [1, 1, 1]
    machine.check()

    assert error_of(machine.file, "ext4", most + PAGE) == "EFBIG"
    file = machine.file("ext4", most)
    assert error_of(app.ftruncate, file, most + PAGE) == "EFBIG"
    assert error_of(app.fwrite, file, 1 << 32, [1]) == "EFBIG"
    assert error_of(app.mmap, 2 * PAGE, file=file, offset=most - PAGE) == "EOVERFLOW"
    last = app.mmap(PAGE, file=file, offset=most - PAGE)
    app.munmap(last, PAGE)
    machine.check()
