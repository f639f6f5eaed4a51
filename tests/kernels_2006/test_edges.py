"""The kernels of 2006 when a resource runs out, is absent, or is requested by a hook."""

import errno
import threading
from collections.abc import Callable

import pytest

import pagemig as pm
from pagemig import _core
from pagemig.errors import KernelBug
from pagemig.system.uncached import UncachedAllocator
from pagemig.system.vmops import MigratingVma
from support.machines import PAGE, at, failing, mapped
from support.of_2006 import KERNELS, LISTS, World, entry

PENDING = "what is held while the hook runs"


def fill(world: World, nid: int, leave: int = 0) -> pm.Process:
    """A process that takes all frames of a node but some."""
    filler = world.machine.spawn()
    room = world.machine.free(nid) - leave * PAGE
    base = filler.mmap(room)
    filler.mbind(base, room, pm.MPOL_BIND, [nid])
    filler.touch(base, room, write=True)
    return filler


# ---- lists -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", LISTS)
def test_last_pass_that_runs_out_of_targets(kernel: str) -> None:
    """3.3: what is returned counts the pages of the last round that are to be tried again.

    Three pinned pages and one target.  In the eleventh round the second page is let go and takes
    the target: the first was tried, the third not reached.
    """
    world = World(kernel, swap=["1MiB"])
    world.anon(3)
    pins = [world.app.pin(at(page), PAGE) for page in range(3)]
    pfns = [world.pfn(page) for page in range(3)]
    for nid in range(4):
        fill(world, nid, leave=nid == 1)
    rounds = 0

    def let_go(step: str, numbers: list[int]) -> None:
        nonlocal rounds
        rounds += numbers == [pfns[1]]
        if rounds == 11 and numbers == [pfns[1]]:
            world.app.unpin(pins[1])

    world.machine.at_step(let_go, step=pm.STEP_ISOLATE)
    result = world.machine.migrate_lists(pfns, 1)
    assert rounds == 11
    assert (result.rc, result.moved.tolist(), result.left.tolist()) == (
        1,
        [pfns[1]],
        [pfns[0], pfns[2]],
    )
    world.machine.at_step(None)
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", [*LISTS, "2.6.18-ia64"])
def test_status_of_a_frame_that_found_its_node_full(kernel: str) -> None:
    """6.3: pages may land on another node when the one asked for is full, and that is success."""
    world = World(kernel, swap=["1MiB"])
    world.anon()
    fill(world, 1)
    result = world.machine.migrate_frames([world.pfn()], [1])
    assert result.rc == 0
    assert result.status.tolist() == [world.node()]
    assert world.node() not in {0, 1}
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", LISTS)
def test_frame_without_any_room(kernel: str) -> None:
    world = World(kernel, swap=["1MiB"])
    world.anon()
    for nid in range(4):
        fill(world, nid)
    result = world.machine.migrate_frames([world.pfn()], [1])
    assert (result.rc, result.status.tolist()) == (1, [-errno.ENOMEM])
    assert (world.node(), entry(world.app)) == (0, "w")
    world.machine.check(full=True)


# ---- calls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("swap", "name"), [([], "ENODEV"), (["64KiB"], "EFAULT")])
def test_no_swap_is_found_before_no_mapping(swap: list[str], name: str) -> None:
    """Commit 90036ee5938d: slots are looked for before the first mapping is."""
    app = World("2.6.17", swap=swap).app
    for flags, expected in ((pm.MPOL_MF_MOVE, name), (pm.MPOL_MF_STRICT, "EFAULT")):
        error = failing(app.mbind, at(0), PAGE, pm.MPOL_BIND, [1], flags=flags)
        assert error.name == expected


@pytest.mark.parametrize("kernel", KERNELS)
def test_pages_move_though_their_mapping_could_not_be_split(kernel: str) -> None:
    """6.4: the range is bound, then the list migrates; STRICT is asked only without an error."""
    world = World(kernel, swap=["1MiB"])
    world.anon(3)
    step = 2 * PAGE
    base = world.app.mmap(65530 * step)
    while True:
        try:
            world.app.munmap(base + PAGE, PAGE)
        except pm.SyscallError as full:
            assert full.name == "ENOMEM"
            break
        base += step
    error = failing(
        world.app.mbind, at(1), PAGE, pm.MPOL_BIND, [1], flags=pm.MPOL_MF_MOVE | pm.MPOL_MF_STRICT
    )
    assert error.name == "ENOMEM"
    # The policy of the mapping is still the old one: whoever asks it gets a frame of this node.
    assert world.nodes(0, 3) == [0, 0, 0]
    assert world.count("pgmigrate_success") == 1
    world.machine.check(full=True)


def test_offline_meets_a_truncated_page_that_is_held() -> None:
    """Row 12: mapping NULL crashes the file walk of 2.6.18 under every migrating call."""
    world = World("2.6.18-ia64")
    world.cached()
    assert world.move() == 0
    pin = world.app.pin(at(0), PAGE)
    world.machine.at_step(
        lambda step, pfns: world.root.ftruncate(world.file, 0), step=pm.STEP_ISOLATE
    )
    with pytest.raises(KernelBug, match="truncated"):
        world.machine.offline(1)
    world.machine.at_step(None)
    world.app.unpin(pin)
    world.machine.check(full=True)
    world.machine.offline(1)
    world.machine.check(full=True)


# ---- swap --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_truncation_frees_what_is_swapped_out(kernel: str) -> None:
    """Entries of private copies beyond the new end go with their slots (unmap_mapping_range)."""
    world = World(kernel, swap=["64KiB"])
    world.file = world.machine.file("ext4", 2 * PAGE)
    mapped(world.app, 2, file=world.file, touched=False)
    world.app.touch(at(0), 2 * PAGE, write=True, values=[7, 8])
    assert world.machine.swap_out([world.pfn(0), world.pfn(1)]) == 2
    assert world.swapped() == 2
    world.root.ftruncate(world.file, PAGE)
    assert world.swapped() == 1
    assert world.app.touch(at(1), PAGE).signal == "SIGBUS"
    assert world.read(0) == 7
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_devices_that_are_on_or_off_already(kernel: str) -> None:
    """As swapon(2) and swapoff(2) have it."""
    machine = World(kernel, swap=["64KiB", "64KiB"]).machine
    assert failing(machine.swapon, 1).name == "EBUSY"
    machine.swapoff(1)
    assert failing(machine.swapoff, 1).name == "EINVAL"
    machine.swapon(1)
    assert failing(machine.swapon, 1).name == "EBUSY"


@pytest.mark.parametrize(("out", "kept"), [(5, 5), (9, 8)])
def test_slots_are_full_by_the_devices_in_use(out: int, kept: int) -> None:
    """vm_swap_full: more than half of 16 slots; those of the device that is off do not count."""
    world = World("2.6.17", swap=["64KiB", "64KiB"])
    world.anon(out)
    world.machine.swapoff(1)
    assert world.machine.swap_out([world.pfn(page) for page in range(out)]) == out
    world.read(0)
    assert world.swapped() == kept
    world.machine.check(full=True)


# ---- hooks -------------------------------------------------------------------------------------


def hooked(kernel: str = "pmig") -> tuple[pm.Machine, pm.Process]:
    """A process with two pages."""
    world = World(kernel)
    mapped(world.app, 2)
    return world.machine, world.app


@pytest.mark.parametrize("call", ["mmap", "munmap", "fork", "mbind", "set_vm_ops"])
def test_hook_whose_call_waits_for_itself(call: str) -> None:
    """mmap_lock is held for reading while it runs, so a call that writes would never get it."""
    machine, app = hooked()
    calls: dict[str, Callable[[], object]] = {
        "mmap": lambda: app.mmap(PAGE),
        "munmap": lambda: app.munmap(at(0), PAGE),
        "fork": app.fork,
        "mbind": lambda: app.mbind(at(0), PAGE, pm.MPOL_BIND, [1]),
        "set_vm_ops": lambda: app.set_vm_ops(at(0), migrate=None),
    }

    def hook(vma: MigratingVma, old: tuple[int, ...], new: tuple[int, ...], flags: int) -> None:
        calls[call]()

    app.set_vm_ops(at(0), migrate=hook)
    with pytest.raises(RuntimeError, match=PENDING):
        app.migrate_pages([0], [1])
    machine.check(full=True)
    app.set_vm_ops(at(0), migrate=None)
    assert app.migrate_pages([0], [1]) == 0
    machine.check(full=True)


@pytest.mark.parametrize("kernel", [*KERNELS[1:], "6.1", "6.12"])
def test_step_whose_call_waits_for_the_page_on_the_move(kernel: str) -> None:
    machine, app = hooked(kernel)
    machine.at_step(lambda step, pfns: app.touch(at(0), PAGE), step=pm.STEP_UNMAP)
    with pytest.raises(RuntimeError, match=PENDING):
        app.migrate_pages([0], [1])
    machine.at_step(None)
    machine.check(full=True)
    assert app.touch(at(0), 2 * PAGE).signal is None


def test_hook_whose_call_waits_for_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """While other threads run, a call may wait for them, but not for ever."""
    monkeypatch.setattr(_core, "HOOK_PATIENCE", 0.2)
    machine, app = hooked("6.1")
    other = machine.spawn()
    at_work, done = threading.Event(), threading.Event()
    mapped(other, 1, 64)

    def hook(step: str, pfns: list[int]) -> None:
        if threading.current_thread() is threading.main_thread():
            app.munmap(at(0), PAGE)
        else:
            at_work.set()
            done.wait(30)

    machine.at_step(hook, step=pm.STEP_UNMAP)
    thread = threading.Thread(target=lambda: other.migrate_pages([0], [1]))
    thread.start()
    assert at_work.wait(30)
    with pytest.raises(RuntimeError, match=PENDING):
        app.migrate_pages([0], [1])
    done.set()
    thread.join()
    machine.at_step(None)
    machine.check(full=True)


# ---- uncached memory -----------------------------------------------------------------------------


def test_nowhere_to_go() -> None:
    """6.3: with an empty set of targets every node is its own."""
    nodes = [pm.Node("1MiB", cpus=1, reserved="64KiB") for _ in range(2)]
    machine = pm.Machine(nodes, kernel="pmig", page_bytes=8)
    uncached, app = UncachedAllocator(machine), machine.spawn()
    uncached.mmap(app, 3 * PAGE, node=0)
    assert app.migrate_pages([0], []) == 0
    assert (uncached.used(0), uncached.used(1)) == (3, 0)


def test_munmap_of_a_page_that_is_swapped_out() -> None:
    """Its entry names slot 1 of device 0, in bits where a frame's number would read 32."""
    nodes = [pm.Node("2MiB", cpus=1, reserved="512KiB")]
    machine = pm.Machine(nodes, kernel="2.6.17", page_bytes=8, swap=["1MiB"])
    uncached, app = UncachedAllocator(machine), machine.spawn()
    uncached.mmap(app, 40 * PAGE)
    base = app.mmap(PAGE)
    app.touch(base, PAGE, write=True)
    assert machine.swap_out([int(app.frames(base, 1)[0])]) == 1
    assert app.pagemap(base, 1)[0] == 1 << 62 | 1 << 5  # slot 1: as a frame number it would be 32
    uncached.munmap(app, base, PAGE)
    assert uncached.used(0) == 40
