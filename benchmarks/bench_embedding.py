"""The door for other simulators: what a host in C or Python pays, beside loops of its own."""

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common.reference import Reference
from common.rows import EMPTY_NS, Target, calls_of
from common.worlds import World

import pagemig as pm
from pagemig import api

SOURCE = Path(__file__).parent / "embedding.c"
PAGES = 4096


@pytest.fixture(scope="session")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The loops of embedding.c."""
    made = tmp_path_factory.mktemp("loops") / "embedding.so"
    flags = ["-O2", "-std=c99", "-shared", "-fPIC", f"-I{pm.get_include()}"]
    subprocess.run(["cc", *flags, str(SOURCE), "-o", str(made)], check=True)
    library = ctypes.CDLL(str(made))
    for name in ("walk", "accesses", "packed"):
        getattr(library, name).restype = ctypes.c_uint64
    return library


class Host:
    """Accesses in random order to pages that are there, through a context."""

    def __init__(self, loops: Any, accesses: int) -> None:
        self.loops, self.n = loops, accesses
        self.world = World(PAGES, scattered=True)
        order = np.random.default_rng(1).integers(0, PAGES, accesses)
        self.addresses = self.world.addresses[order].astype(np.uint64)
        self.context = self.world.app.context()
        info = api.Info(size=ctypes.sizeof(api.Info))
        api.functions.machine_info(api.machine(self.world.machine), ctypes.byref(info))
        self.info = info

    def walk(self) -> int:
        return int(
            self.loops.walk(
                ctypes.c_void_p(self.info.tables),
                ctypes.c_uint64(self.info.table_pfn),
                ctypes.c_uint64(api.functions.cr3(self.context.address)),
                ctypes.c_void_p(self.addresses.ctypes.data),
                ctypes.c_uint64(self.n),
            )
        )

    def through(self, name: str) -> int:
        return int(
            getattr(self.loops, name)(
                ctypes.c_void_p(api.address),
                ctypes.c_void_p(self.context.address),
                ctypes.c_void_p(self.addresses.ctypes.data),
                ctypes.c_uint64(self.n),
            )
        )


@pytest.fixture
def host(loops: Any, size: Callable[[int], int]) -> Iterator[Host]:
    made = Host(loops, size(1_000_000))
    yield made
    made.context.close()


@pytest.mark.parametrize("name", ["accesses", "packed"])
def bench_access(measure: Callable[..., object], host: Host, name: str) -> None:
    """One access a call: what it costs over a bare walk, and all of it."""
    assert host.through(name) == host.walk()
    measure(
        f"one access through the table, {name}",
        lambda: host.through(name),
        per="accesses",
        amount=host.n,
        reference=Reference("walk", host.walk, host.n),
        target=Target(6.0),
    )


def bench_access_from_python(
    measure: Callable[..., object], arrays: Reference, size: Callable[[int], int]
) -> None:
    """One access a call of `Context.access`, in a loop of Python."""
    world, n = World(64, scattered=False), size(200_000)
    address = int(world.base)
    with world.app.context() as context:
        access = context.access

        def work() -> None:
            for _ in repeat(None, n):
                access(address)

        measure(
            "one access from Python, Context.access",
            work,
            per="accesses",
            amount=n,
            reference=arrays,
            target=Target(100 / EMPTY_NS),
        )


def bench_batch(measure: Callable[..., object], host: Host) -> None:
    """Accesses in one call through the table, with nodes and kinds, beside the loop of `access`."""
    node, kind = np.empty(host.n, np.int8), np.empty(host.n, np.uint8)
    app, addresses = host.world.app, host.addresses
    measure(
        "many accesses through the table, with nodes and kinds",
        lambda: host.context.access_many(addresses, node=node, kind=kind),
        per="accesses",
        amount=host.n,
        reference=Reference("access", lambda: app.access(addresses), host.n),
        target=Target(1.10),
    )


def there_and_back(world: World, move: Callable[[int], object]) -> Callable[[], None]:
    def work() -> None:
        for _ in range(5):
            move(1)
            move(0)

    return work


@pytest.mark.parametrize("pages", [PAGES, 8 * PAGES])
def bench_begin_and_finish(measure: Callable[..., object], pages: int) -> None:
    """A migration begun and finished at once beside the call."""
    world, other = World(pages, scattered=True), World(pages, scattered=True)
    move = there_and_back(
        world, lambda nid: world.app.start_move_pages(world.addresses, nid).finish()
    )
    call = there_and_back(other, lambda nid: other.app.move_pages(other.addresses, nid))
    measure(
        f"move_pages of {pages} pages, begun and finished",
        move,
        per="pages",
        amount=10 * pages,
        reference=Reference("move_pages", call, 10 * pages),
        target=Target(1.10),
    )


def bench_hook(measure: Callable[..., object], loops: Any) -> None:
    """move_pages while a function in C hears of each page."""
    world, other = World(PAGES, scattered=True), World(PAGES, scattered=True)
    counter = ctypes.c_uint64()
    owner = ctypes.c_void_p(api.machine(world.machine))
    assert loops.listen_to_moves(ctypes.c_void_p(api.address), owner, ctypes.byref(counter)) == 0
    call = there_and_back(other, lambda nid: other.app.move_pages(other.addresses, nid))
    measure(
        "move_pages with a function in C that hears of each page",
        there_and_back(world, lambda nid: world.app.move_pages(world.addresses, nid)),
        per="pages",
        amount=10 * PAGES,
        reference=Reference("move_pages", call, 10 * PAGES),
        target=Target(1.20),
    )
    assert counter.value >= 10 * PAGES


def machines_through_the_table() -> None:
    nodes = (api.NodeSpec * 2)((256, 0, 1, 1), (256, 0, 1, 1))
    spec = api.Spec(
        size=ctypes.sizeof(api.Spec),
        nr_nodes=2,
        nodes=ctypes.cast(nodes, ctypes.c_void_p),
        kernel=b"6.1",
    )
    machine = ctypes.c_void_p()
    for _ in repeat(None, 200):
        assert api.functions.machine_new(ctypes.byref(spec), ctypes.byref(machine)) == 0
        api.functions.machine_free(machine)


def machines_of_python() -> None:
    nodes = [pm.Node("1MiB", cpus=1), pm.Node("1MiB", cpus=1)]
    for _ in repeat(None, 200):
        pm.Machine(nodes)


@pytest.mark.parametrize("work", [machines_through_the_table, machines_of_python])
def bench_small_machines(
    measure: Callable[..., object], arrays: Reference, work: Callable[[], None]
) -> None:
    """A machine made and dropped."""
    measure(
        f"small {work.__name__.replace('_', ' ')}, made and dropped",
        work,
        per="machines",
        amount=200,
        reference=arrays,
        target=calls_of(100),
    )
