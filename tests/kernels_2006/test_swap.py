"""Swap devices under migration, four lists, evict mode, and what engine A leaves behind.

Sections 3.1 to 3.9, 5, and items of the list of tests in section 11.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pagemig as pm
from pagemig.testing.actors import Actors
from support.machines import PAGE, at, error_of, failing, mapped
from support.of_2006 import (
    ENTRIES,
    KERNELS,
    LISTS,
    LOCKED,
    World,
    entries,
    entry,
    nodes_of,
    resident,
)

MOVE, STRICT = pm.MPOL_MF_MOVE, pm.MPOL_MF_STRICT


# ---- four lists (3.1 to 3.3) ---------------------------------------------------------------------


@pytest.mark.parametrize("kernel", LISTS)
def test_four_lists(kernel: str) -> None:
    """Moved, failed for good, and to be tried again: the caller finds each page on its list."""
    world = World(kernel)
    world.anon(5)
    old = [world.pfn(page) for page in range(5)]
    pin = world.app.pin(at(1), PAGE)
    world.app.mlock(at(3), PAGE)
    result = world.machine.migrate_lists(old, 1)
    assert result.moved.tolist() == [old[0], old[2], old[4]]
    assert result.failed.tolist() == [old[3]]  # -EPERM, not tried again
    assert result.left.tolist() == [old[1]]
    assert result.rc == 2
    assert result.content is not None
    assert result.content.tolist() == [5, 7, 9]  # what the old frames still hold
    world.app.unpin(pin)
    assert world.nodes(0, 5) == [1, 0, 1, 0, 1]
    stays = 2 if kernel == "2.6.17" else 1  # the swap cache keeps what was added to it
    assert [world.refs(pfn) for pfn in old] == [0, stays, 0, stays, 0]
    assert [world.read(page) for page in range(5)] == [5, 6, 7, 8, 9]
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", LISTS)
def test_targets_run_out(kernel: str) -> None:
    """The round is cut short, and what is left was not even tried: the return does not count it."""
    world, n = World(kernel), 300
    world.anon(n)
    old = [world.pfn(page) for page in range(n)]
    pin = world.app.pin(at(0), PAGE)
    result = world.machine.migrate_lists(old, 1)
    assert result.moved.tolist() == old[1:258]
    assert result.left.tolist() == [old[0], *old[258:]]
    # The redo for the pinned page sees an empty `to` and ends with retry = 0.
    assert result.rc == 0
    world.app.unpin(pin)
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", LISTS)
def test_the_driver_goes_on_with_the_next_chunk(kernel: str) -> None:
    """3.2: until a target is left over; pages set aside as failed are counted at the end."""
    world, n = World(kernel), 600
    world.anon(n)
    pins = [world.app.pin(at(page), PAGE) for page in (0, 300)]
    assert world.move() == 2
    nodes = world.nodes(0, n)
    assert [page for page in range(n) if nodes[page] == 0] == [0, 300]
    assert len(world.used(1)) == n - 2  # targets that were left over are free again
    for pin in pins:
        world.app.unpin(pin)
    world.machine.check(full=True)


def test_a_freed_page_uses_no_target() -> None:
    """Row 1 of section 8: count 1 goes to `moved`, `to` stays as it is; B0 has the same lists."""
    for kernel in LISTS:
        world = World(kernel)
        world.cached(n=2)
        old = [world.pfn(0), world.pfn(1)]

        def gone(step: str, pfns: list[int], world: World = world) -> None:
            if world.file.cached:
                world.root.ftruncate(world.file, 0)

        world.machine.at_step(gone, step=pm.STEP_ISOLATE)
        free = world.machine.free(1)
        result = world.machine.migrate_lists(old, 1)
        world.machine.at_step(None)
        assert (result.rc, result.moved.tolist()) == (0, old)
        assert world.machine.free(1) == free
        world.machine.check(full=True)


# ---- no place to swap to (3.3, section 10) -------------------------------------------------------


def test_a_slot_cannot_be_had() -> None:
    """Step 5: -ENOMEM, a permanent failure of that page; item 14 of the minimum tests."""
    world = World("2.6.17", swap=["4KiB"])
    world.anon(3)
    assert world.machine.swap_out([world.pfn(0)]) == 1
    old = [world.pfn(1), world.pfn(2)]
    result = world.machine.migrate_lists(old, 1)
    assert (result.rc, result.failed.tolist()) == (2, old)
    assert world.nodes(1, 2) == [0, 0]
    assert entries([world.app], 1) == "w"  # failed before anything was unmapped
    world.machine.check(full=True)


def test_one_slot_is_enough_for_pages_that_move_one_by_one() -> None:
    """The slot is freed with each page (3.8), before the next one needs one."""
    world = World("2.6.17", swap=["4KiB"])
    world.anon(20)
    assert world.move() == 0
    assert world.nodes(0, 20) == [1] * 20
    assert world.swapped() == 0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("swap", [[], ["4KiB"]])
def test_no_swap_space(kernel: str, swap: list[str]) -> None:
    """No device, or no slot left: ENODEV from mbind, silent nothing from migrate_pages; A only."""
    world = World(kernel, swap=swap)
    if swap:
        world.anon(1, first=10)
        assert world.machine.swap_out([world.pfn(10)]) == 1
    world.anon(2)
    a = kernel == "2.6.17"
    for flags in (MOVE, pm.MPOL_MF_MOVE_ALL, MOVE | STRICT):
        error = error_of(world.app.mbind, at(0), PAGE, pm.Bind([1]), flags)
        assert error == ("ENODEV" if a else "ok")
        assert world.app.vmas()[0].policy_text == ("default" if a else "bind=1")
    assert error_of(world.app.mbind, at(0), PAGE, pm.Bind([1]), STRICT) == ("EIO" if a else "ok")
    assert world.move() == 0
    assert world.nodes(0, 2) == ([0, 0] if a else [1, 1])
    world.machine.check(full=True)


# ---- what success costs (3.8, section 5) ---------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_first_write_after_a_migration(kernel: str) -> None:
    """Items 6 of section 11: under A a COW fault, without a copy if the page has one user."""
    for mappers in (1, 2):
        world = World(kernel)
        who = world.anon(mappers=mappers)
        if mappers == 2:  # both may write again but for the copy that fork put off
            assert entries(who) == "rr"
        assert world.move() == 0
        lost = kernel == "2.6.17" or mappers == 2
        assert entries(who) == ("r" if lost else "w") * mappers
        copies, reuses = world.count("cow"), world.count("cow_reuse")
        touch = world.app.touch(at(0), PAGE, write=True, values=[7])
        assert touch.minflt == lost
        assert world.count("cow") - copies == (mappers == 2)
        assert world.count("cow_reuse") - reuses == (kernel == "2.6.17" and mappers == 1)
        assert [world.read(0, process) for process in who] == [7, 5][:mappers]
        assert world.app.touch(at(0), PAGE, write=True).minflt == 0
        world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_reads_after_a_migration_fault_only_where_entries_were_dropped(kernel: str) -> None:
    """Anonymous pages are found again (3.8); file pages of A by a minor fault each (3.9)."""
    world = World(kernel)
    world.anon(8)
    world.cached(n=8, first=20)
    assert world.move() == 0
    a = kernel == "2.6.17"
    assert world.app.touch(at(0), 8 * PAGE).minflt == 0
    assert world.nodes(20, 8) == ([-1] * 8 if a else [1] * 8)
    touch = world.app.touch(at(20), 8 * PAGE)
    assert (touch.minflt, touch.majflt) == (8 if a else 0, 0)
    assert touch.values is not None
    assert touch.values.tolist() == list(range(5, 13))
    assert world.nodes(20, 8) == [1] * 8
    world.machine.check(full=True)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_file_page_that_moves_twice_untouched(kernel: str, kind: str) -> None:
    """Item 5 of section 11: A loses it at the second collection, B keeps it."""
    world = World(kernel)
    world.cached(kind)
    assert world.move() == 0
    assert world.root.migrate_pages({1}, {2}, pid=world.app) == 0
    assert world.used(1 if kernel == "2.6.17" else 2)
    assert not world.used(2 if kernel == "2.6.17" else 1)
    assert world.read() == 5
    assert world.node() == (1 if kernel == "2.6.17" else 2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_resident_set_during_a_move(kernel: str) -> None:
    """Section 5: it drops and returns under A, but not for files; it is constant under B."""
    world = World(kernel)
    who = world.anon(6, mappers=2)
    world.cached(n=3, first=20)
    world.machine.width = 1
    seen: list[int] = []
    world.machine.at_step(lambda step, pfns: seen.append(resident(who)), step=pm.STEP_COPY)
    assert world.move() == 0
    world.machine.at_step(None)
    if kernel == "2.6.17":  # 2 * 6 and 3 entries at first, a page's own are missing while it moves
        assert seen == [13, 13, 13, 13, 13, 13, 14, 13, 12]
        assert resident(who) == 12
    else:
        assert seen == [15] * 9
        assert resident(who) == 15


def test_swapped_entries_of_others_are_found_again() -> None:
    """3.8: every entry that equals the slot's is mapped, one that was swapped out before, too."""
    world = World("2.6.17")
    who = world.anon(mappers=3)
    assert world.machine.swap_out([world.pfn()]) == 1
    assert entries(who) == "sss"
    assert world.read() == 5
    assert (entries(who), world.slots()) == ("rss", [3])  # the cache and two entries
    assert world.move() == 0
    assert (entries(who), world.slots()) == ("rrr", [])
    pfn = world.pfn()
    assert (world.refs(pfn), world.maps(pfn), world.node()) == (3, 3, 1)
    assert [world.read(0, process) for process in who] == [5, 5, 5]
    world.machine.check(full=True)


# ---- what failure leaves (3.9) -------------------------------------------------------------------


def pinned_late(world: World, page: int = 0) -> pm.Pin:
    """Let a pin come after the early test of a page, in every pass: its move fails at the last."""
    actors = Actors(world.machine)
    migrator = actors.add("migrator", world.move)
    pinner = actors.at_step(pm.STEP_LOCK, lambda: world.app.pin(at(page), PAGE))
    actors.run()
    assert migrator.result == 1
    return pinner.result


def test_nothing_is_undone_after_a_failure() -> None:
    """Swap entries and slot stay; a touch is a minor fault; the slot goes once it is nobody's."""
    world = World("2.6.17")
    world.anon()
    old = world.pfn()
    pin = pinned_late(world)
    assert (entries([world.app]), world.slots()) == ("s", [2])  # cache and entry
    assert world.flag("swapcache", old)
    assert resident([world.app]) == 0
    touch = world.app.touch(at(0), PAGE)
    assert (touch.minflt, touch.majflt) == (1, 0)
    assert (world.pfn(), entries([world.app]), world.slots()) == (old, "r", [1])
    world.app.unpin(pin)
    world.machine.check(full=True)
    assert world.app.touch(at(0), PAGE, write=True, values=[7]).minflt == 1
    world.app.munmap(at(0), PAGE)
    assert world.slots() == []
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", ENTRIES)
def test_everything_is_undone_after_a_failure(kernel: str) -> None:
    """4.8, "failure anywhere": the old page, the write bit, dirtiness in the page, not accessed."""
    world = World(kernel)
    world.anon()
    old = world.pfn()
    pin = pinned_late(world)
    assert (world.pfn(), entries([world.app])) == (old, "w")
    assert world.flag("dirty", old)
    assert not int(world.app._ptes(at(0), 1)[0]) & (1 << 5 | 1 << 6)
    assert resident([world.app]) == 1
    assert world.app.touch(at(0), PAGE, write=True).minflt == 0
    world.app.unpin(pin)
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_file_page_that_fails_has_lost_its_entries_under_a(kernel: str) -> None:
    world = World(kernel)
    who = world.cached(mappers=2)
    pin = pinned_late(world)
    assert entries(who) == (".." if kernel == "2.6.17" else "ww")
    assert resident(who) == (0 if kernel == "2.6.17" else 2)
    assert world.app.touch(at(0), PAGE).minflt == (kernel == "2.6.17")
    assert world.node() == 0
    world.app.unpin(pin)
    world.machine.check(full=True)


def test_entries_before_a_locked_mapping_stay_swapped() -> None:
    """Row 22 of section 8: -EPERM at the first VM_LOCKED; A puts nothing back, B0 does."""
    for kernel, left in (("2.6.17", "srr"), ("2.6.17-mm", "rrr")):
        world = World(kernel)
        who = world.anon(mappers=3)
        who[1].mprotect(at(0), PAGE, "r")  # or locking would copy the page
        who[1].mlock(at(0), PAGE)
        result = world.machine.migrate_lists([world.pfn(0, who[1])], 1)
        assert len(result.failed) == 1
        assert entries(who) == left
        assert [world.read(0, process) for process in who] == [5] * 3
        world.machine.check(full=True)


# ---- evict mode and swapping out (3.6) -----------------------------------------------------------


def test_evict_mode() -> None:
    """`to` is none: everything goes to swap or its file, and comes back by the policy in force."""
    world = World("2.6.17")
    world.anon(3)
    old = [world.pfn(page) for page in range(3)]
    passes: list[str] = []
    world.machine.at_step(lambda step, pfns: passes.append(step), step=pm.STEP_ALLOC)
    result = world.machine.migrate_lists(old)
    world.machine.at_step(None)
    # The first pass writes the page and finds it clean in the second.
    assert len(passes) == 6
    assert (result.rc, result.moved.tolist()) == (0, old)
    assert entries([world.app]) + entry(world.app, 2) == "ss"
    assert [world.refs(pfn) for pfn in old] == [0, 0, 0]
    assert (world.slots(), world.swapped()) == ([1, 1, 1], 3)
    world.machine.check(full=True)
    world.app.mbind(at(0), 3 * PAGE, pm.Bind([2]))
    touch = world.app.touch(at(0), 3 * PAGE)
    assert (touch.minflt, touch.majflt) == (2, 1)  # slots 1 to 3 are of one cluster
    assert touch.values is not None
    assert touch.values.tolist() == [5, 6, 7]
    assert world.nodes(0, 3) == [2, 2, 2]
    world.machine.check(full=True)


def test_what_cannot_be_evicted() -> None:
    """A pinned page stays on the list after 11 passes, an mlocked one too (SWAP_FAIL: -EAGAIN)."""
    world = World("2.6.17")
    world.anon(3)
    old = [world.pfn(page) for page in range(3)]
    pin = world.app.pin(at(0), PAGE)
    world.app.mlock(at(1), PAGE)
    seen: list[int] = []
    world.machine.at_step(lambda step, pfns: seen.extend(pfns), step=pm.STEP_ALLOC)
    result = world.machine.migrate_lists(old)
    world.machine.at_step(None)
    assert (result.rc, result.moved.tolist()) == (2, [old[2]])
    assert result.left.tolist() == [old[0], old[1]]
    assert [seen.count(pfn) for pfn in old] == [11, 11, 2]
    assert [world.read(page) for page in range(3)] == [5, 6, 7]
    world.app.unpin(pin)
    world.machine.check(full=True)


def test_evicting_a_page_of_a_file() -> None:
    """It is written to its disk and leaves the cache; a read brings it back."""
    world = World("2.6.17")
    world.cached("ext4", n=2)
    old = [world.pfn(0), world.pfn(1)]
    result = world.machine.migrate_lists(old)
    assert (result.rc, sorted(result.moved.tolist())) == (0, sorted(old))
    assert (world.file.cached, entries([world.app])) == (0, ".")
    assert world.swapped() == 0
    touch = world.app.touch(at(0), 2 * PAGE)
    assert touch.values is not None
    assert touch.values.tolist() == [5, 6]
    assert touch.majflt > 0
    world.machine.check(full=True)


def test_a_locked_page_is_evicted_from_pass_3_on() -> None:
    world = World("2.6.17")
    world.anon()
    pfn, actors = world.pfn(), Actors(world.machine)
    world.set(pfn, LOCKED, True)
    migrator = actors.add("evict", lambda: world.machine.migrate_lists([pfn]))
    actors.add("device", lambda: world.set(pfn, LOCKED, False))
    actors.run()
    assert migrator.result.rc == 0
    assert migrator.waited_for == ["page"]
    assert (
        actors.steps.count(("evict", pm.STEP_ALLOC)) == 5
    )  # 0 to 3, and the one that finds it clean
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_swap_out_and_back(kernel: str) -> None:
    world = World(kernel)
    who = world.anon(4, mappers=2)
    old = [world.pfn(page) for page in range(4)]
    assert world.machine.swap_out(old) == 4
    assert entries(who) == "ss"
    assert world.slots() == [2] * 4
    assert resident(who) == 0
    touch = who[1].touch(at(0), 4 * PAGE)
    assert touch.values is not None
    # Slots 1 to 4, of which the first fault reads all.
    assert (touch.majflt, touch.minflt, touch.values.tolist()) == (1, 3, [5, 6, 7, 8])
    touch = who[0].touch(at(0), 4 * PAGE)  # in the swap cache by now
    assert (touch.minflt, touch.majflt) == (4, 0)
    who[0].touch(at(0), PAGE, write=True, values=[50])
    assert [world.read(0, process) for process in who] == [50, 5]
    world.machine.check(full=True)
    for process in who:
        process.exit()
    assert world.slots() == []
    world.machine.check(full=True)


@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "ramfs"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_swapping_out_pages_of_files(kernel: str, kind: str) -> None:
    """No entry is left in any kernel; the page goes only if its file has a disk to read it from."""
    world = World(kernel)
    who = world.cached(kind, n=2, mappers=2)
    gone = world.machine.swap_out([world.pfn(0), world.pfn(1)])
    assert gone == (2 if kind == "ext4" else 0)
    assert world.file.cached == 2 - gone
    assert entries(who) == ".."
    assert resident(who) == 0
    world.machine.check(full=True)
    touch = who[1].touch(at(0), 2 * PAGE)
    assert touch.values is not None
    assert touch.values.tolist() == [5, 6]
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_exit_frees_slots(kernel: str) -> None:
    """Row 17: swap_free."""
    world = World(kernel)
    who = world.anon(4, mappers=2)
    world.machine.swap_out([world.pfn(page) for page in range(4)])
    who[1].exit()
    assert world.slots() == [1] * 4
    who[0].munmap(at(0), 2 * PAGE)
    assert world.slots() == [1] * 2
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_proc_shows_of_swap(kernel: str) -> None:
    """Swap in smaps, swapcache in numa_maps, pswpin and pswpout in vmstat: by counting."""
    world = World(kernel)
    world.anon(8)
    assert world.machine.swap_out([world.pfn(page) for page in range(5)]) == 5
    world.app.touch(at(0), 2 * PAGE)
    [vma] = world.app.smaps()
    assert (vma["Swap"], vma["Rss"]) == (3 * 4, 5 * 4)
    assert "swapcache=2" in world.app.numa_maps()
    words = [int(word) for word in world.app.pagemap(at(0), 8)]
    assert [word >> 62 for word in words] == [2] * 2 + [1] * 3 + [2] * 3
    assert {word & 31 for word in words[2:5]} == {0}  # the first device
    stat = world.machine.vmstat
    assert (stat["pswpout"], stat["pswpin"]) == (5, 5)  # slots 1 to 5: one cluster


def test_moving_by_swap_entries_reads_and_writes_nothing() -> None:
    """A slot is taken, not used: direct migration copies from page to page (section 1)."""
    world = World("2.6.17")
    world.anon(8)
    assert world.move() == 0
    stat = world.machine.vmstat
    assert (stat["pswpout"], stat["pswpin"], stat["pgmajfault"]) == (0, 0, 0)
    assert (stat["pgmigrate_success"], world.count("swap_slots")) == (8, 8)


# ---- swapoff -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_swapoff_brings_everything_back(kernel: str) -> None:
    world = World(kernel, swap=["64KiB", "64KiB"])
    who = world.anon(20, mappers=2)
    assert world.machine.swap_out([world.pfn(page) for page in range(20)]) == 20
    assert [device.used // PAGE for device in world.machine.swap] == [16, 4]
    world.machine.swapoff(0)
    assert [device.used // PAGE for device in world.machine.swap] == [0, 4]
    assert [entry(who[0], page) for page in (0, 15, 16)] == ["r", "r", "s"]
    world.machine.check(full=True)
    # Nothing is swapped to a device that is off.
    assert world.machine.swap_out([world.pfn(page) for page in range(16)]) == 12
    assert [device.used // PAGE for device in world.machine.swap] == [0, 16]
    world.machine.swapon(0)
    assert world.machine.swap_out([world.pfn(page) for page in range(12, 16)]) == 4
    assert [world.read(page, process) for process in who for page in range(20)] == (
        list(range(5, 25)) * 2
    )
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_swapoff_without_room(kernel: str) -> None:
    world = World(kernel)
    machine = pm.Machine([pm.Node("128KiB", cpus=1)], kernel=kernel, swap=["1MiB"], page_bytes=8)
    app = machine.spawn()
    base = mapped(app, 24, touched=False)
    app.touch(base, 24 * PAGE, write=True, values=range(24))
    world.app = app
    assert machine.swap_out([world.pfn(page) for page in range(24)]) == 24
    filler = machine.spawn()
    room = machine.free(0)
    filler.touch(filler.mmap(room), room, write=True)
    error = failing(machine.swapoff, 0)
    assert error.name == "ENOMEM"
    machine.check(full=True)
    filler.exit()
    seen = app.touch(base, 24 * PAGE)
    assert seen.values is not None
    assert seen.values.tolist() == list(range(24))
    machine.check(full=True)


# ---- bad input -----------------------------------------------------------------------------------

SWAP_BAD: list[tuple[Any, type[Exception], str]] = [
    (["0"], ValueError, "swap must be devices of a page"),
    ([0], ValueError, "swap must be devices of a page"),
    ([5], ValueError, "5"),
    ([-PAGE], ValueError, str(-PAGE)),
    (["1XB"], ValueError, "1XB"),
    ("1MiB", TypeError, "1MiB"),
    (4096, TypeError, "4096"),
    (None, TypeError, "None"),
    ([None], TypeError, "None"),
    ([1.5], TypeError, "1.5"),
    (["1MiB"] * 30, ValueError, "29 devices"),
    (["8TiB"], ValueError, "8TiB"),
]


@pytest.mark.parametrize(("swap", "error", "said"), SWAP_BAD)
def test_bad_swap(swap: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        pm.Machine(["1MiB"], kernel="2.6.17", swap=swap)
    assert "swap" in str(caught.value)


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_kernels_without_swap(kernel: str) -> None:
    with pytest.raises(ValueError, match=f"not for {kernel}"):
        pm.Machine(["1MiB"], kernel=kernel, swap=["1MiB"])
    machine = pm.Machine(["1MiB"], kernel=kernel)
    assert machine.swap == ()
    with pytest.raises(ValueError, match=r"Machine\(swap="):
        machine.swap_out([1])
    with pytest.raises(ValueError, match="no such lists"):
        machine.migrate_lists([1], 0)
    for call in (machine.swapoff, machine.swapon):
        with pytest.raises(ValueError, match="0 swap devices"):
            call(0)


BAD_DEVICE = [(1, ValueError), (-1, ValueError), (1 << 70, ValueError), ("0", TypeError)]
BAD_FRAMES: list[tuple[Any, type[Exception]]] = [
    ([1 << 20], ValueError),
    ([-1], ValueError),
    ([1 << 64], ValueError),
    ([0.5], TypeError),
    (["x"], TypeError),
    ([[1]], TypeError),
]


@pytest.mark.parametrize("kernel", KERNELS)
def test_bad_input_to_what_is_new(kernel: str) -> None:
    world = World(kernel)
    world.anon()
    machine = world.machine
    calls: list[Callable[[Any], object]] = [machine.swapoff, machine.swapon]
    for device, error in BAD_DEVICE:
        for call in calls:
            with pytest.raises(error, match="device") as caught:
                call(device)
            assert repr(device) in str(caught.value)
    frames: list[Callable[[Any], object]] = [machine.swap_out]
    if kernel in LISTS:
        frames.append(lambda pfns: machine.migrate_lists(pfns, 1))
        for node in (4, -1, "1", 1.5):
            with pytest.raises((ValueError, TypeError), match=r"nid|node") as caught:
                machine.migrate_lists([world.pfn()], node)  # type: ignore[arg-type]
            assert repr(node) in str(caught.value)
    for pfns, error in BAD_FRAMES:
        for call in frames:
            with pytest.raises(error, match="pfns"):
                call(pfns)
    if kernel == "2.6.17-mm":
        with pytest.raises(ValueError, match="node must be given"):
            machine.migrate_lists([world.pfn()])
    if kernel in ENTRIES[1:]:
        with pytest.raises(ValueError, match="no such lists"):
            machine.migrate_lists([world.pfn()], 1)
    assert world.nodes(0, 1) == [0]
    machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_frames_that_are_nobody_s(kernel: str) -> None:
    """Free, reserved, listed twice, isolated by nobody: skipped, and nothing breaks."""
    world = World(kernel)
    world.anon(2)
    free = world.used(1) or [len(world.machine.frames) - 1]
    odd = [0, *free, world.pfn(0), world.pfn(0)]
    if kernel in LISTS:
        result = world.machine.migrate_lists(odd, 1)
        assert (result.rc, len(result.moved)) == (0, 1)
    assert world.machine.swap_out([*odd[:-2], world.pfn(0), world.pfn(0)]) == 1
    assert world.machine.swap_out([]) == 0
    assert world.read() == 5
    world.machine.check(full=True)


def test_swap_counts_are_those_of_the_entries() -> None:
    """Slots handed out, never two pages in one: by a plain count over all page tables."""
    world = World("2.6.17", swap=["32KiB", "256KiB"])
    who = world.anon(30, mappers=2)
    rng = np.random.default_rng(1)
    for _ in range(6):
        present = [page for page in range(30) if nodes_of(who[0], page, 1) != [-1]]
        chosen = rng.choice(present, size=len(present) // 2, replace=False).tolist()
        world.machine.swap_out([world.pfn(page) for page in chosen])
        words = [int(p._ptes(at(page), 1)[0]) for p in who for page in range(30)]
        swapped = [word for word in words if not word & 1]
        # One count for every entry, one for the cache where a page is in it.
        cached = int(world.machine.frames.flag("swapcache").sum())
        assert sum(world.slots()) == len(swapped) + cached
        world.root.migrate_pages({0, 1}, {1, 0}, pid=who[0])
        for process in who:
            process.touch(at(int(rng.integers(30))), PAGE, write=bool(rng.integers(2)))
        world.machine.check(full=True)
