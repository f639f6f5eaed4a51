"""Every quirk of section 10 under the kernels that have it, its absence under those that do not.

Those told elsewhere: passes and who waits in test_2006_tables.py; chunks, reversed interleaving,
scans of the request and mlocked pages in test_2006_calls.py; no swap space in test_2006_swap.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pagemig as pm
from pagemig.errors import _BUG_SITES
from pagemig.testing.actors import Actors
from support.machines import PAGE, at, error_of, failing, mapped, pages, policies
from support.of_2006 import ENTRIES, KERNELS, LISTS, World, entries, nodes_of, resident

STRICT, MOVE, MOVE_ALL = pm.MPOL_MF_STRICT, pm.MPOL_MF_MOVE, pm.MPOL_MF_MOVE_ALL


def bug_of(call: Callable[..., object], *args: Any, **how: Any) -> str | None:
    """Return where the real kernel would have crashed, or None."""
    try:
        call(*args, **how)
    except pm.KernelBug as bug:
        return bug.site
    return None


# ---- mbind over several mappings (to 2.6.23) -----------------------------------------------------


def two_mappings(world: World, second: str) -> None:
    """Pages 0 to 3 anonymous, 4 to 7 of another mapping: anonymous or of a file; all on node 3."""
    world.app.set_mempolicy(pm.Bind([3]))
    world.anon(4)
    if second == "anon":
        # Another protection, and written first: an anon_vma of its own.
        base = world.app.mmap(4 * PAGE, addr=at(4), prot="rwx")
    else:
        world.file = world.machine.file(second, 4 * PAGE)
        base = world.app.mmap(4 * PAGE, addr=at(4), file=world.file, shared=True)
    world.app.touch(base, 4 * PAGE, write=True)
    world.app.set_mempolicy(pm.Default())
    assert world.nodes(0, 8) == [3] * 8


@pytest.mark.parametrize("kernel", KERNELS)
def test_file_behind_an_anonymous_mapping(kernel: str) -> None:
    """2.6.18 asks the first VMA for the address of every page; one without a file has no answer.

    page_address_in_vma is -EFAULT, and the first VMA's policy is applied to that as an address.
    """
    world = World(kernel)
    two_mappings(world, "tmpfs")
    site = bug_of(world.app.mbind, at(0), 8 * PAGE, pm.Bind([1]), MOVE)
    assert site is None
    assert world.nodes(4, 4) == ([1] * 4 if kernel in ENTRIES else [-1] * 4)  # A drops entries
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_page_outside_the_first_mapping_of_its_file(kernel: str) -> None:
    """The same file in two mappings: the address in the first would be outside of it."""
    world = World(kernel)
    world.file = world.machine.file("tmpfs", 8 * PAGE)
    world.app.set_mempolicy(pm.Bind([3]))
    world.app.mmap(4 * PAGE, addr=at(0), file=world.file, shared=True)
    world.app.mmap(4 * PAGE, addr=at(4), file=world.file, shared=True, offset=4 * PAGE, prot="rwx")
    world.app.touch(at(0), 8 * PAGE, write=True)
    world.app.set_mempolicy(pm.Default())
    site = bug_of(world.app.mbind, at(0), 8 * PAGE, pm.Bind([1]), MOVE)
    assert site == (_BUG_SITES[1] if kernel == "2.6.18-ia64" else None)
    world.app.touch(at(0), 8 * PAGE)
    if kernel != "2.6.18-ia64":
        assert world.nodes(0, 8) == [1] * 8
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_anonymous_pages_of_later_mappings(kernel: str) -> None:
    """2.6.18 allocates with the error value as address: the right policy, an arbitrary node."""
    world = World(kernel)
    two_mappings(world, "anon")
    world.app.mbind(at(0), 8 * PAGE, pm.Interleave([0, 1, 2]), MOVE)
    exact = [page % 3 for page in range(8)]
    if kernel in LISTS:  # fake addresses, reversed: by the first mapping's policy all the same
        assert world.nodes(0, 8) == [page % 3 for page in reversed(range(8))]
    elif kernel == "2.6.18-ia64":
        assert world.nodes(0, 4) == exact[:4]
        later = world.nodes(4, 4)
        assert len(set(later)) == 1  # one and the same address for all
        # vm_pgoff + ((-EFAULT - vm_start) >> PAGE_SHIFT), cut to 32 bits
        index = (at(0) >> 12) + ((1 << 52) - 1 - (at(0) >> 12))
        assert later[0] == (index & 0xFFFFFFFF) % 3
    else:
        assert world.nodes(0, 8) == exact
    world.machine.check(full=True)


# ---- nodes that are not there (to 2.6.22) --------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_offline_node_in_new_nodes(kernel: str) -> None:
    """6.2: not rejected until 2.6.23, and there is nothing to allocate from."""
    world = World(kernel)
    world.anon(2)
    if kernel == "pmig":  # without the bugs
        assert failing(world.root.migrate_pages, {0}, {1, 9}, pid=world.app).name == "EINVAL"
        assert world.nodes(0, 2) == [0, 0]
        return
    assert bug_of(world.root.migrate_pages, {0}, {9}, pid=world.app) == _BUG_SITES[3]
    assert world.nodes(0, 2) == [0, 0]
    assert world.root.migrate_pages({2}, {9}, pid=world.app) == 0  # nothing there: all is well
    world.machine.check(full=True)


# ---- truncated pages (to 2.6.22) -----------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_truncated_page_that_somebody_holds(kernel: str) -> None:
    """Row 12: mapping NULL crashes the file walk of 2.6.18; otherwise -EAGAIN."""
    world = World(kernel)
    world.cached(n=2)
    pin = world.app.pin(at(1), PAGE)
    old, sites = world.pfn(1), []
    actors = Actors(world.machine)
    actors.add("migrator", lambda: sites.append(bug_of(world.move)))
    actors.at_step(pm.STEP_ISOLATE, lambda: world.root.ftruncate(world.file, 0))
    actors.run()
    assert sites == [_BUG_SITES[4] if kernel == "2.6.18-ia64" else None]
    assert world.refs(old) == 1
    world.app.unpin(pin)
    assert world.refs(old) == 0
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_truncation_clears_entries(kernel: str) -> None:
    """Row 13: vmtruncate has even_cows set, so that zap_pte_range knows of no details to heed.

    The resident set keeps what had an entry (2.6.18, and -mm, which count none of them).
    """
    world = World(kernel)
    world.cached()
    actors = Actors(world.machine)
    actors.add("migrator", world.move)
    actors.at_step(pm.STEP_FREEZE, lambda: world.root.ftruncate(world.file, 0))
    actors.run()
    assert world.file.cached == 0
    assert entries([world.app]) == "."
    assert resident([world.app]) == (1 if kernel in ("2.6.17-mm", "2.6.18-ia64") else 0)
    assert world.app.touch(at(0), PAGE).signal == "SIGBUS"
    world.machine.check(full=True)
    world.app.exit()
    assert not world.used(1)
    world.machine.check(full=True)


def test_every_site_is_reached() -> None:
    """Tests here, of the calls and of the recordings raise all there are to be raised."""
    assert set(_BUG_SITES) == {1, 3, 4, 5, 6}
    error = pm.KernelBug("somewhere")
    assert (error.site, str(error)) == ("somewhere", "somewhere")


# ---- allocation (2.6.18) -------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_targets_nobody_needs(kernel: str) -> None:
    """B1 allocates before it knows, again in each pass; four lists have one target all the time."""
    world = World(kernel)
    world.anon()
    pin = world.app.pin(at(0), PAGE)
    before, free = world.count("pgalloc"), world.machine.free(1)
    assert world.move() == 1
    # Four lists: one for the page, and none for a second chunk that never comes.
    assert world.count("pgalloc") - before == (1 if kernel in LISTS else 10)
    assert world.machine.free(1) == free
    world.app.unpin(pin)


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_frame_for_a_page(kernel: str) -> None:
    """-ENOMEM aborts all in 2.6.18, the rest just put back; with four lists before anything moves.

    With arrays each page is on its own.
    """
    swap = ["1MiB"] if kernel == "2.6.17" else []
    machine = pm.Machine([pm.Node("256KiB", cpus=1), "64KiB"], kernel=kernel, swap=swap)
    machine.width = 1
    app, filler = machine.spawn(), machine.spawn()
    mapped(app, 16)

    def fill(nid: int, left: int) -> None:
        room = machine.free(nid) - left * PAGE
        base = filler.mmap(room)
        filler.mbind(base, room, pm.Bind([nid]))
        filler.touch(base, room, write=True)

    fill(1, 4)
    fill(0, 0)
    pin = app.pin(at(0), PAGE)
    actors = Actors(machine)
    migrator = actors.add("migrator", lambda: error_of(app.migrate_pages, {0}, {1}))
    if kernel not in LISTS:
        # Page 0 is pinned, 1 to 4 found frames; before page 5 asks, their old ones are taken.
        actors.at_step(pm.STEP_ISOLATE, lambda: fill(0, 0), nth=6)
    actors.run()
    assert migrator.result == ("ok" if kernel == "pmig" else "ENOMEM")
    moved = [] if kernel in LISTS else [1, 2, 3, 4]
    assert [page for page, nid in enumerate(nodes_of(app, 0, 16)) if nid == 1] == moved
    if kernel == "pmig":
        assert app.migrate_pages({0}, {1}) == 12  # all that is left
    app.unpin(pin)
    machine.check(full=True)


# ---- answers (2.6.18 to 2.6.28) ------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ENTRIES[1:])
def test_move_pages_when_everything_is_in_place(kernel: str) -> None:
    """-ENOENT, status not written, through 2.6.27."""
    world = World(kernel)
    world.anon(2)
    if kernel == "2.6.18-ia64":
        error = failing(world.app.move_pages, pages(0, 2), 0)
        assert (error.name, error.result.names) == ("ENOENT", ["unset", "unset"])
        assert error_of(world.app.move_pages, [], []) == "ENOENT"
    else:
        assert world.app.move_pages(pages(0, 2), 0).names == [0, 0]
        assert world.app.move_pages([], []).rc == 0


@pytest.mark.parametrize("kernel", ENTRIES[1:])
def test_status_of_the_zero_page(kernel: str) -> None:
    """-ENOENT where -EFAULT is documented, through 2.6.28."""
    world = World(kernel)
    world.anon()
    world.app.touch(world.app.mmap(PAGE, addr=at(5)), PAGE)
    names = world.app.move_pages([at(5), at(0)], 1).names
    assert names == ["ENOENT" if kernel == "2.6.18-ia64" else "EFAULT", 1]


@pytest.mark.parametrize("kernel", ENTRIES[1:])
def test_eagain_is_a_status(kernel: str) -> None:
    """Undocumented: a page given up after ten passes."""
    world = World(kernel)
    world.anon(2)
    pin = world.app.pin(at(0), PAGE)
    result = world.app.move_pages(pages(0, 2), 1)
    assert (result.rc, result.names) == (1, ["EAGAIN", 1])
    world.app.unpin(pin)


@pytest.mark.parametrize("kernel", KERNELS)
def test_strict_does_not_report_what_was_never_collected(kernel: str) -> None:
    """A shared page without MOVE_ALL is misplaced afterwards, and the call says it is not."""
    world = World(kernel)
    world.anon(2, mappers=2)
    assert error_of(world.app.mbind, at(0), 2 * PAGE, pm.Bind([1]), STRICT | MOVE) == "ok"
    assert (world.nodes(0, 2), policies(world.app)) == ([0, 0], [(0, 2, "bind=1")])


# ---- resident sets (2.6.18, B0) ------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_fork_does_not_count_entries(kernel: str) -> None:
    """Row 14: entries are copied without a count; the child has a page more than it says."""
    world = World(kernel)
    other = world.anon(3, mappers=2)[1]  # whose mmap_sem the migration does not hold
    actors = Actors(world.machine)
    actors.add("migrator", world.move)
    forker = actors.at_step(pm.STEP_UNMAP, other.fork)
    world.machine.width = 1  # one page is on the move, two are not
    actors.run()
    child = forker.result
    assert nodes_of(child, 0, 3) == nodes_of(other, 0, 3) == [1, 1, 1]
    uncounted = kernel in ("2.6.17-mm", "2.6.18-ia64")
    assert (resident([other]), resident([child])) == (3, 2 if uncounted else 3)
    world.machine.check(full=True)
    child.exit()
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_munmap_does_not_uncount_entries(kernel: str) -> None:
    """Row 17: the resident set keeps a page that is gone."""
    world = World(kernel)
    child = world.anon(3, mappers=2)[1]
    actors = Actors(world.machine)
    actors.add("migrator", world.move)
    actors.at_step(pm.STEP_UNMAP, lambda: child.munmap(at(0), PAGE))
    world.machine.width = 1
    actors.run()
    assert nodes_of(child, 0, 3)[0] == -1
    assert resident([child]) == (3 if kernel in ("2.6.17-mm", "2.6.18-ia64") else 2)
    assert world.maps(world.pfn()) == 1
    world.machine.check(full=True)


# ---- who waits (2.6.18 to 5.18) ------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ENTRIES)
def test_a_waiter_delays_what_it_waits_for(kernel: str) -> None:
    """Row 8: its reference on the old page is one too many in this pass, the next one succeeds."""
    world = World(kernel)
    world.anon()
    actors = Actors(world.machine)
    migrator = actors.add("migrator", world.move)
    waiter = actors.at_step(pm.STEP_UNMAP, lambda: world.app.touch(at(0), PAGE))
    actors.at_step(pm.STEP_PUTBACK, waiter)
    actors.run()
    assert (migrator.result, waiter.waited_for) == (0, ["page"])
    assert actors.steps.count(("migrator", pm.STEP_ALLOC)) == 2
    assert world.node() == 1


# ---- entries under fork and mprotect (rows 14 and 16) --------------------------------------------


@pytest.mark.parametrize("kernel", ENTRIES)
def test_fork_over_a_write_entry(kernel: str) -> None:
    """Parent and child are downgraded to READ.  Only without a process can fork come between."""
    world = World(kernel)
    who, seen = world.anon(), []
    pfn, actors = world.pfn(), Actors(world.machine)
    actors.add("migrator", lambda: world.machine.migrate_frames([pfn], [1]))

    def fork() -> None:
        seen.append(entries(who))
        who.append(world.app.fork())
        seen.append(entries(who))

    actors.at_step(pm.STEP_UNMAP, fork)
    actors.run()
    assert seen == ["W", "RR"]
    assert entries(who) == "rr"
    who[1].touch(at(0), PAGE, write=True, values=[7])
    assert [world.read(0, process) for process in who] == [5, 7]
    world.machine.check(full=True)


@pytest.mark.parametrize("kernel", ENTRIES)
@pytest.mark.parametrize("prot", ["r", "rwx"])
def test_mprotect_over_an_entry(kernel: str, prot: str) -> None:
    """WRITE becomes READ under every new protection.

    What a READ entry is restored to is vm_page_prot (4.3), which lets a shared mapping write.
    """
    world = World(kernel)
    who, seen = world.cached(mappers=2), []
    for process in who:
        process.touch(at(0), PAGE, write=True)
    actors = Actors(world.machine)
    actors.add("migrator", world.move)

    def protect() -> None:
        seen.append(entries(who))
        who[1].mprotect(at(0), PAGE, prot)
        seen.append(entries(who))

    actors.at_step(pm.STEP_UNMAP, protect)
    actors.run()
    assert seen == ["WW", "WR"]
    assert entries(who) == ("wr" if prot == "r" else "ww")
    touch = who[1].touch(at(0), PAGE, write=True)
    assert (touch.minflt, touch.signal) == (0, "SIGSEGV" if prot == "r" else None)
    world.machine.check(full=True)


# ---- pages that mbind never puts back (2.6.16 through 2.6.18) ------------------------------------


@pytest.mark.parametrize(("kernel", "leaked"), [("2.6.18", 4), ("pmig", 0)])
def test_leaked_pages_outlive_their_process(kernel: str, leaked: int, tmp_path: Path) -> None:
    """Each keeps its frame for the reference of its isolation, and the machine is whole."""
    machine = pm.Machine(["256KiB", "256KiB"], kernel=kernel)
    free = sum(machine.free(nid) for nid in (0, 1))
    app = machine.spawn()
    base = app.mmap(8 * PAGE)
    app.touch(base, 4 * PAGE, write=True)
    app.munmap(base + 4 * PAGE, PAGE)
    assert error_of(app.mbind, base, 8 * PAGE, pm.Bind([1]), MOVE) == "EFAULT"
    app.exit()
    machine.check()
    machine.check(full=True)
    assert sum(machine.free(nid) for nid in (0, 1)) == free - leaked * PAGE
    machine.save(tmp_path / "machine")
    pm.Machine.load(tmp_path / "machine")
