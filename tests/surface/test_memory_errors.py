"""The interpreter runs out of memory inside a call: the call fails, and the machine goes on.

``_testcapi.set_nomemory`` makes the n-th allocation of the interpreter fail, so every place where
the core makes an object is met; ``numpy.empty`` raises where a call makes an array.  Every method
fails a hundred times, so that anything it does not release adds up.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import pagemig as pm
from pagemig import _calls, _core, _memory
from support.every_call import (
    CORE,
    CORE_MACHINE,
    CORE_PROCESS,
    MACHINE,
    OTHERS,
    PAGE,
    PROCESS,
    PUBLIC,
    World,
    kernels_of,
)

TIMES = 100


def cases(calls: dict[str, Callable[[World], Any]]) -> list[tuple[str, str]]:
    return [(name, kernel) for name in calls for kernel in kernels_of(name)]


def call(world: World, function: Callable[[World], Any]) -> bool:
    """Whether it failed: by the planted error (numpy has no exception then), or in the kernel."""
    try:
        function(world)
    except (MemoryError, SystemError, OSError, ValueError):
        return True
    return False


def goes_on(world: World) -> None:
    """More calls than there are contexts find one each, and no invariant is broken."""
    world.machine.check(full=True)
    other = world.other
    base = other.mmap(2 * PAGE)
    assert other.touch(base, 2 * PAGE, write=True).done == 2
    other.mbind(base, PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE)
    assert other.get_mempolicy(pm.MPOL_F_ADDR | pm.MPOL_F_NODE, base).mode == 1


def test_every_method_is_tried() -> None:
    attributes = {"nodes", "profile", "distances", "page_bytes", "access_stats"}
    for cls, tried in ((pm.Process, PROCESS), (pm.Machine, MACHINE)):
        names = {name for name in dir(cls) if name[0] != "_"}
        assert names - ({"machine"} if cls is pm.Process else attributes) == set(tried)
    compiled = (_core.Process, _calls.Calls), (_core.Machine, _memory.Memory)
    for classes, tried in zip(compiled, (CORE_PROCESS, CORE_MACHINE), strict=True):
        members = [name for cls in classes for name in vars(cls)]
        names = {name for name in members if name[0] == "_" and name[1] != "_"}
        assert names - OTHERS == set(tried)


@contextmanager
def without_collections() -> Iterator[None]:
    """No collection of garbage: the callbacks that others hang on it would meet the fault."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize(("name", "kernel"), cases(CORE))
def test_an_allocation_of_the_interpreter_fails(name: str, kernel: str) -> None:
    capi = pytest.importorskip("_testcapi")
    if sys.version_info[:3] == (3, 13, 0) and name == "Machine._at_step":
        pytest.skip("CPython 3.13.0 crashes where it has no memory to make a function")
    world = World(kernel)
    call(world, CORE[name])
    with without_collections():
        for at in range(TIMES):
            capi.set_nomemory(at, at + 1)
            try:
                call(world, CORE[name])
            finally:
                capi.remove_mem_hooks()
    goes_on(world)


def planted(*args: object, **kwargs: object) -> Any:
    raise MemoryError("planted")


@pytest.mark.parametrize(("name", "kernel"), cases(PUBLIC) + cases(CORE))
def test_an_array_cannot_be_made(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(kernel)
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", planted)
        patch.setattr(np, "zeros", planted)
        for _ in range(TIMES):
            call(world, (PUBLIC | CORE)[name])
    goes_on(world)


class Careless(pm.Machine):
    """Looking at the pages between a migration and their disposal fails."""

    def _list_content(self, pfns: Any) -> Any:
        raise MemoryError


def test_isolated_pages_are_put_back() -> None:
    nodes = [pm.Node("1MiB", cpus=1), "1MiB"]
    machine = Careless(nodes, kernel="2.6.17", swap=["1MiB"], page_bytes=8)
    app = machine.spawn()
    base = app.mmap(4 * PAGE)
    app.touch(base, 4 * PAGE, write=True)
    pfns = app.frames(base, 4)
    for _ in range(TIMES):
        with pytest.raises(MemoryError):
            machine.migrate_lists(pfns, 1)
        machine.check(full=True)
    assert app.touch(base, PAGE).done == 1
    assert not machine.frames.flag("isolated").any()


def test_a_context_is_left_though_asking_for_the_thread_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World("6.1")
    seen = 0

    def hook(step: str, pfns: list[int]) -> None:
        nonlocal seen
        with monkeypatch.context() as patch:
            patch.setattr(_core, "get_ident", planted)
            for _ in range(TIMES):
                with pytest.raises(MemoryError):
                    world.other.mmap(PAGE)
                seen += 1

    world.machine.at_step(hook)
    world.app.move_pages(world.pages[:1], 1, pm.MPOL_MF_MOVE_ALL)
    world.machine.at_step(None)
    assert seen
    goes_on(world)
