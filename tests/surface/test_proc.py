"""What /proc shows of a process: sections 4.5 and 4.6 of the reference on modern kernels."""

import numpy as np

import pagemig as pm
from pagemig import Bind, Interleave, PreferredMany
from support.machines import PAGE, at, mapped

PFN = (1 << 55) - 1
EXCLUSIVE, FILE, SWAP, PRESENT = 1 << 56, 1 << 61, 1 << 62, 1 << 63


def bits(app: pm.Process, first: int, n: int) -> str:
    """Per page a digit as the recordings have it: 1 present, 2 exclusive, 4 file, 8 swapped."""
    entries = app.pagemap(at(first), n).tolist()
    kinds = [(entry & PRESENT, entry & EXCLUSIVE, entry & FILE, entry & SWAP) for entry in entries]
    return "".join(f"{sum(1 << i for i, bit in enumerate(kind) if bit):x}" for kind in kinds)


# ---- pagemap ------------------------------------------------------------------------------------


def test_bits_of_pagemap(app: pm.Process) -> None:  # hand-004, hand-003, hand-005
    mapped(app, 3, touched=False)
    app.touch(at(0), PAGE, write=True)
    app.touch(at(2), PAGE)
    assert bits(app, 0, 4) == "3010"
    mapped(app, 2, 8, shared=True)
    assert bits(app, 8, 2) == "77"
    child = app.fork()
    child.touch(at(8), PAGE)
    assert (bits(app, 0, 3), bits(child, 0, 3)) == ("101", "101")
    assert (bits(app, 8, 2), bits(child, 8, 2)) == ("55", "55")  # one fault maps both


def test_frame_numbers(app: pm.Process, machine: pm.Machine) -> None:
    mapped(app, 8)
    entries = app.pagemap(at(0), 8)
    pfns = entries & np.uint64(PFN)
    assert len(set(pfns.tolist())) == 8
    assert (
        machine.node_of(pfns).tolist() == app.move_pages([at(k) for k in range(8)]).status.tolist()
    )
    assert (machine.frames.mapcount[pfns.astype(np.int64)] == 1).all()
    hidden = app.pagemap(at(0), 8, pfns=False)
    assert (hidden & np.uint64(PFN) == 0).all()
    assert (hidden | pfns == entries).all()


def test_inaccessible_pages_are_present(app: pm.Process) -> None:  # hand-023
    base = mapped(app, 2)
    app.mprotect(base, 2 * PAGE, "")
    assert bits(app, 0, 2) == "33"


def test_migration_entries_read_as_swapped(machine: pm.Machine) -> None:
    """Type, frame number as offset, never exclusive (section 4.6)."""
    app = machine.spawn()
    mapped(app, 2)
    frames = (app.pagemap(at(0), 2) & np.uint64(PFN)).tolist()
    entries: list[int] = []

    def peek(step: str, pfns: list[int]) -> None:
        if step == "freeze" and not entries:
            entries.extend(app.pagemap(at(0), 2).tolist())

    machine.at_step(peek)
    app.move_pages([at(0), at(1)], 1)
    machine.at_step(None)
    assert [entry & (SWAP | PRESENT | EXCLUSIVE) for entry in entries] == [SWAP, SWAP]
    assert [(entry & PFN) >> 5 for entry in entries] == frames
    assert {entry & 31 for entry in entries} == {31}  # the type of a writable migration entry


# ---- numa_maps ----------------------------------------------------------------------------------


def line(app: pm.Process, i: int = 0) -> str:
    return app.numa_maps().splitlines()[i]


def test_line_of_untouched_memory(app: pm.Process) -> None:
    mapped(app, 4, touched=False)
    assert app.numa_maps() == "100000000000 default\n"
    app.touch(at(0), PAGE)  # the zero page does not count
    assert app.numa_maps() == "100000000000 default\n"


def test_line_of_anonymous_memory(app: pm.Process) -> None:
    mapped(app, 4)
    app.move_pages([at(1), at(2)], [3, 3])
    assert line(app) == "100000000000 default anon=4 dirty=4 active=0 N0=2 N3=2 kernelpagesize_kB=4"


def test_mapmax_when_shared(app: pm.Process) -> None:  # hand-005
    mapped(app, 4)
    app.fork()
    assert " anon=4 dirty=4 mapmax=2 " in line(app)


def test_policies_in_lines(app: pm.Process) -> None:
    mapped(app, 4, touched=False)
    app.mbind(at(0), PAGE, Interleave([0, 1, 3], static=True))
    app.mbind(at(1), PAGE, PreferredMany([1, 2]))
    app.mbind(at(2), PAGE, Bind([2], balancing=True))
    app.set_mempolicy(Bind([0, 1]))
    assert [row.split(" ", 1)[1] for row in app.numa_maps().splitlines()] == [
        "interleave=static:0-1,3",
        "prefer (many):1-2",
        "bind=balancing:2",
        "bind:0-1",
    ]


def test_lines_of_files(app: pm.Process, machine: pm.Machine) -> None:
    odd = machine.file("tmpfs", 4 * PAGE, path="/tmp/a b=c")
    mapped(app, 4, touched=False, file=odd, shared=True)
    assert line(app) == "100000000000 default file=/tmp/a\\040b\\075c"
    app.touch(at(0), 4 * PAGE, write=True)
    assert line(app).split(" ", 3)[3] == "dirty=4 active=0 N0=4 kernelpagesize_kB=4"
    mapped(app, 4, 8, touched=False, shared=True)
    assert line(app, 1) == f"{at(8):x} default file=/dev/zero\\040(deleted)"


def test_mapped_where_it_is_neither_all_anonymous_nor_all_dirty(
    app: pm.Process, machine: pm.Machine
) -> None:
    file = machine.file("ext4", 4 * PAGE)
    app.fwrite(file, 0, 7, 4)
    app.fadvise(file, 0, 0, "dontneed", sync=True)
    mapped(app, 4, touched=False, file=file)
    app.touch(at(0), 4 * PAGE)
    assert " mapped=4 " in line(app)
    app.touch(at(0), 2 * PAGE, write=True)
    assert " anon=2 dirty=2 mapped=4 " in line(app)


def test_shared_memory_shows_the_policy_of_the_object(app: pm.Process) -> None:  # hand-083
    mapped(app, 8, touched=False, shared=True)
    child = app.fork()
    child.mbind(at(0), 8 * PAGE, Bind([3]))
    assert line(app).startswith("100000000000 bind:3 ")


# ---- smaps, status ------------------------------------------------------------------------------


def test_smaps(app: pm.Process) -> None:
    mapped(app, 8, touched=False)
    app.touch(at(0), 4 * PAGE, write=True)
    app.touch(at(4), PAGE)
    (entry,) = app.smaps()
    assert entry["Size"] == 32
    assert (entry["Rss"], entry["Pss"], entry["Anonymous"]) == (16, 16, 16)
    assert (entry["Private_Dirty"], entry["Private_Clean"]) == (16, 0)
    assert (entry["KernelPageSize"], entry["MMUPageSize"], entry["Swap"]) == (4, 4, 0)
    assert entry["VmFlags"].split()[:2] == ["rd", "wr"]
    app.fork()
    (entry,) = app.smaps()
    assert (entry["Rss"], entry["Pss"]) == (16, 8)
    assert (entry["Shared_Dirty"], entry["Private_Dirty"]) == (16, 0)


def test_locked_memory(app: pm.Process) -> None:
    mapped(app, 8)
    app.mlock(at(0), 4 * PAGE)
    assert [entry["Locked"] for entry in app.smaps()] == [16, 0]
    assert ["lo" in entry["VmFlags"].split() for entry in app.smaps()] == [True, False]
    assert app.status()["VmLck"] == 16


def test_status(app: pm.Process, machine: pm.Machine) -> None:
    mapped(app, 4)
    mapped(app, 2, 8, shared=True)
    file = machine.file("ext4", 3 * PAGE)
    mapped(app, 3, 16, file=file, shared=True)
    assert app.status() == {
        "VmSize": 36,
        "VmLck": 0,
        "VmRSS": 36,
        "RssAnon": 16,
        "RssFile": 12,
        "RssShmem": 8,
    }


def test_pages_under_migration_stay_in_rss(app: pm.Process, machine: pm.Machine) -> None:
    mapped(app, 4)
    seen: list[int] = []
    machine.at_step(lambda step, pfns: seen.append(app.smaps()[0]["Rss"]))
    app.move_pages([at(k) for k in range(4)], 1)
    machine.at_step(None)
    assert set(seen) == {16}


# ---- mappings -----------------------------------------------------------------------------------


def test_vmas(app: pm.Process, machine: pm.Machine) -> None:
    file = machine.file("ext4", 8 * PAGE, ino=4711, path="/data")
    mapped(app, 4, touched=False, prot="r", file=file, offset=2 * PAGE, shared=True)
    mapped(app, 4, 8, touched=False, prot="rwx")
    app.mbind(at(8), 4 * PAGE, Bind([1]))
    first, second = app.vmas()
    assert (first.start, first.length, first.perms, first.offset) == (at(0), 4 * PAGE, "r--s", 8192)
    assert (first.inode, first.path, first.policy, first.policy_text) == (
        4711,
        "/data",
        None,
        "default",
    )
    assert (second.perms, second.path, second.policy) == ("rwxp", "", Bind([1]))
    assert str(first).split() == [
        "100000000000-100000004000",
        "r--s",
        "00002000",
        "00:00",
        "4711",
        "/data",
    ]
    assert str(second).startswith("100000008000-10000000c000 rwxp 00000000 00:00 0")
