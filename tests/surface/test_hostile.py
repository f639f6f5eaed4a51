"""Hostile callers: arrays that change during a call, forged objects, huge sizes."""

import resource
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pagemig as pm
from pagemig.errors import errno_of
from pagemig.mm.numbers import NUMBERS
from pagemig.system.vmops import MigratingVma
from support.fuzz import odd
from support.machines import PAGE

WILD = (-(2**31), -1, 2**30, 2**31 - 1)


def two_nodes(kernel: str = "6.1", **options: Any) -> pm.Machine:
    swap = ["1MiB"] if pm.KERNELS[kernel].swap else []
    return pm.Machine([pm.Node("8MiB", cpus=1), "8MiB"], kernel=kernel, swap=swap, **options)


def filled(machine: pm.Machine, n: int) -> tuple[pm.Process, npt.NDArray[np.uint64]]:
    process = machine.spawn()
    base = process.mmap(n * PAGE)
    process.touch(base, n * PAGE, write=True)
    return process, base + np.arange(n, dtype=np.uint64) * PAGE


# ---- arrays that change during a call ---------------------------------------------------------


@pytest.mark.parametrize("kernel", pm.KERNELS)
@pytest.mark.parametrize("call", ["move_pages", "migrate_frames"])
def test_a_hook_writes_the_arguments(kernel: str, call: str) -> None:
    """Nodes are read once: what was checked is what is used."""
    machine = two_nodes(kernel)
    process, pages = filled(machine, 256)
    nodes = np.ones(256, np.int32)
    nodes[128:] = 0 if call == "move_pages" else 1

    def scribble(step: str, pfns: list[int]) -> None:
        nodes[:] = -(2**30)
        pages[:] = 1 << 63

    frames = process.pagemap(int(pages[0]), 256) & np.uint64((1 << 55) - 1)
    machine.at_step(scribble)
    try:
        if call == "move_pages":
            process.move_pages(pages, nodes)
        else:
            machine.migrate_frames(frames, nodes)
    except OSError:
        pass
    machine.at_step(None)
    machine.check(full=True)


@pytest.mark.threads
@pytest.mark.parametrize("kernel", pm.KERNELS)
def test_a_thread_writes_the_arguments(kernel: str) -> None:
    machine = two_nodes(kernel, page_bytes=8)
    process, pages = filled(machine, 512)
    kept = pages.copy()
    nodes, writes = np.zeros(512, np.int32), np.zeros(512, bool)
    values, stop = np.zeros(512, np.uint64), threading.Event()

    def scribble() -> None:
        while not stop.is_set():
            for wild in (*WILD, 1, 0):
                nodes.fill(wild)
                pages[::3] = wild & (1 << 64) - 1
                pages[:] = kept
                values.fill(wild & (1 << 64) - 1)
                np.logical_not(writes, out=writes)

    calls: list[Callable[[], object]] = [
        lambda: process.move_pages(pages, nodes),
        lambda: process.move_pages(pages, status=nodes),
        lambda: process.move_pages(pages, nodes, status=nodes),
        lambda: machine.migrate_frames(pages & np.uint64(1023), nodes),
        lambda: machine.migrate_frames(values, nodes),
        lambda: process.access(pages, write=writes),
        lambda: process.access(np.tile(pages, 4), deferred=True),
        lambda: process.access(pages, write=writes, deferred=True),
        lambda: process.touch(int(kept[0]), 512 * PAGE, write=True, values=values),
        lambda: machine.node_of(values),
        lambda: pm.Interleave([0, 1]).targets(pages),
    ]
    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(15):
            for call in calls:
                with suppress(OSError, ValueError, pm.KernelBug):
                    call()
    finally:
        stop.set()
        thread.join()
    machine.check(full=True)


# ---- layouts ----------------------------------------------------------------------------------


def test_arrays_of_any_layout_give_the_same() -> None:
    machine = two_nodes(page_bytes=8)
    process, pages = filled(machine, 64)
    listed = pages.tolist()
    ways: list[npt.NDArray[Any]] = [
        odd(listed, "u8"),
        pages.astype(">u8"),
        np.repeat(pages, 2)[::2],
        pages[::-1].copy()[::-1],
        pages.view(type("Sub", (np.ndarray,), {"__len__": lambda self: 10**6})),
    ]
    for way in ways:
        for kind in ("<i4", ">i4"):
            for node in (1, 0):
                nodes = odd([node] * 64, kind)
                assert (process.move_pages(way, nodes).status == node).all()
        for deferred in (False, True):
            assert process.access(way, write=True, deferred=deferred).done == 64
        process.touch(listed[0], 64 * PAGE, write=True, values=way)
        values = process.touch(listed[0], 64 * PAGE).values
        assert values is not None and (values == pages).all()
    machine.check(full=True)


def test_a_status_that_lies_about_its_length() -> None:
    machine = two_nodes()
    process, pages = filled(machine, 64)
    short = np.zeros(4, np.int32).view(type("Sub", (np.ndarray,), {"__len__": lambda self: 64}))
    with pytest.raises(ValueError, match="64 long, not 4"):
        process.move_pages(pages, 1, status=short)
    with pytest.raises(ValueError, match="aligned"):
        process.move_pages(pages, 1, status=odd([0] * 64, "i4"))


def test_the_core_takes_plain_arrays_only() -> None:
    process = two_nodes().spawn()
    for bad in (odd([0], "u8"), np.zeros(1, ">u8"), np.zeros((2, 2), "u8").T):
        with pytest.raises(TypeError, match="addresses"):
            process._access(bad, False, False)


# ---- objects that were not made by the machine -----------------------------------------------


def test_what_is_made_by_the_machine_cannot_be_made_by_hand() -> None:
    machine = two_nodes()
    with pytest.raises(TypeError):
        pm.Process(None, 1)  # type: ignore[arg-type]
    for pid in (0, 10**6, 4 * 10**9):
        with pytest.raises(pm.ProcessGoneError):
            pm.Process(machine, pid)
    with pytest.raises(TypeError, match=r"Machine\.file"):
        pm.File(machine, 10**9, "tmpfs", "x")
    with pytest.raises(TypeError, match="migrate operation"):
        MigratingVma(machine, 4 * 10**9)
    assert errno_of(machine._swapoff(10**6)) == errno_of(machine._swapon(10**6)) == 22


def test_a_file_keeps_its_number_and_is_closed_once() -> None:
    machine = two_nodes()
    file = machine.file("tmpfs", PAGE)
    for name, value in (("index", 3 * 10**9), ("closed", False), ("machine", None)):
        with pytest.raises(AttributeError):
            setattr(file, name, value)
    file.close()
    file.close()
    machine.check(full=True)


def test_something_with_an_index_is_no_file() -> None:
    machine = two_nodes()

    class Forged(pm.File):
        pass

    forged = Forged.__new__(Forged)
    forged._index, forged._machine, forged._closed = 3 * 10**9, machine, False
    for bad in (forged, machine, 3, None):
        with pytest.raises(TypeError, match="file must be a File"):
            machine.spawn().fread(bad, 0)  # type: ignore[arg-type]


def test_the_holder_is_a_process_of_the_machine() -> None:
    machine = two_nodes()
    process, pages = filled(machine, 1)
    process.move_pages(pages, 1)
    stranger = two_nodes().spawn()
    with pytest.raises(ValueError, match="holder must be of the same machine"):
        machine.offline(1, keep="mmap_lock", holder=stranger)
    with pytest.raises(TypeError, match="holder must be a Process"):
        machine.offline(1, keep="mmap_lock", holder=5)  # type: ignore[arg-type]
    assert machine.offline(1, keep="mmap_lock", holder=process).migrated == 1
    machine.check(full=True)


@pytest.mark.parametrize("passes", [0, -1, 2**31, 2**32 - 1, 2**63])
def test_passes_are_bounded(passes: int) -> None:
    with pytest.raises(ValueError, match="max_passes"):
        two_nodes().offline(1, max_passes=passes)


# ---- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["write", "values", "read"])
def test_a_long_touch_takes_memory_for_what_is_there(how: str) -> None:
    machine = two_nodes(page_bytes=8)
    process = machine.spawn()
    base = process.mmap(PAGE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values = {"values": 7} if how == "values" else {}
    touched = process.touch(base, 1 << 46, write=how != "read", **values)  # type: ignore[arg-type]
    assert (touched.done, touched.signal, touched.index) == (1, "SIGSEGV", 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize("kernel", ["6.1", "2.6.17"])
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_file_written_at_a_far_place_takes_memory_for_what_is_written(
    kernel: str, kind: str
) -> None:
    machine = pm.Machine(["1MiB"], kernel=kernel, page_bytes=8)
    process, file = machine.spawn(), machine.file(kind, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    far = 0
    for k in range(12, 25):  # the array of its pages grows, is copied and given back
        far = 1 << k
        assert process.fwrite(file, far, k) == 1
    process.fadvise(file, 0, 0, "dontneed", sync=True)
    assert process.fread(file, far).tolist() == [24]
    assert process.fread(file, far - 1).tolist() == [0]
    assert process.fread(file, 1 << 23).tolist() == [23]
    if kernel == "6.1":
        process.punch(file, 1 << 23 << 12, 1 << 23 << 12)
        assert process.fread(file, 1 << 23).tolist() == [0]
    assert process.fread(file, far).tolist() == [24]
    process.ftruncate(file, far << 12)
    assert process.fwrite(file, far + 1, 7) == 1
    assert process.fread(file, far, 2).tolist() == [0, 7]
    machine.check()
    file.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize("offset", [1 << 31, 1 << 40, (1 << 52) - 1])
def test_a_file_that_no_array_has_room_for(offset: int) -> None:
    machine = two_nodes()
    file = machine.file("tmpfs", 0)
    with pytest.raises(OSError, match=r"ENOMEM|EFBIG"):
        machine.spawn().fwrite(file, offset, 1)
    machine.check(full=True)


def test_a_touch_of_many_pieces() -> None:
    """More than a piece, and each page as if it were one."""
    machine = pm.Machine(["8GiB"], page_bytes=8)
    process = machine.spawn()
    pages = (1 << 20) + 5
    base = process.mmap(pages * PAGE)
    wrote = process.touch(base, pages * PAGE, write=True, values=9)
    assert (wrote.done, wrote.minflt, wrote.signal, wrote.values) == (pages, pages, None, None)
    read = process.touch(base, pages * PAGE)
    assert read.done == pages
    assert read.values is not None and len(read.values) == pages and (read.values == 9).all()


@pytest.mark.parametrize("local", [-1, 64, 1000, 2**31, 2**36, 2**70])
def test_targets_of_a_node_that_is_none(local: int) -> None:
    with pytest.raises(ValueError, match="local"):
        pm.Interleave([0]).targets(range(3), local=local)
    with pytest.raises(ValueError, match="local"):
        pm.Local().targets(range(3), local=local, machine=two_nodes())


def test_nothing_is_told_of_what_no_address_space_has() -> None:
    process = two_nodes(access_stats=True).spawn()
    assert len(process.pagemap((1 << 47) - PAGE, 2**51)) == 1
    assert process.access_counts((1 << 47) - PAGE, 2**51).shape == (2, 1)


@pytest.mark.parametrize("kernel", ["6.12", "2.6.18"])
def test_a_mapping_of_terabytes_is_looked_at_where_something_is(
    kernel: str,
) -> None:
    machine = two_nodes(kernel)
    process = machine.spawn()
    base = process.mmap((1 << 44) - PAGE)
    places = [0, 511, 1 << 14, (1 << 20) - 1, 1 << 20, (1 << 30) + 7, (1 << 32) - 2]
    for place in places:
        process.touch(base + place * PAGE, PAGE, write=True)
    begin = time.process_time()
    assert process.smaps()[0]["Rss"] == 4 * len(places)
    assert f"anon={len(places)} " in process.numa_maps()
    entries = process.pagemap(base, (1 << 28) - 512)
    assert np.flatnonzero(entries).tolist() == places[:5]
    assert process.pagemap(base, 1 << 40).size == (1 << 28) - 512  # what read(2) gives at most
    for look, absent in ((process.frames, -1), (process.nodes, -1)):
        told = look(base, 1 << 21)
        assert np.flatnonzero(told != absent).tolist() == places[:5]
        with pytest.raises(ValueError, match="at most 268434944 pages"):
            look(base, 1 << 28)
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("addr", [1 << 62, 1 << 63, (1 << 64) - PAGE, -(1 << 63), -PAGE])
def test_kernels_of_2006_give_an_address_back_that_nothing_is_at(addr: int) -> None:
    """do_mremap to 2.6.36 or so: what neither grows nor moves is not even looked up."""
    machine = two_nodes("2.6.18")
    assert machine.spawn().mremap(addr, PAGE, PAGE) == addr % (1 << 64)
    with pytest.raises(OSError, match="EFAULT"):
        two_nodes("6.1").spawn().mremap(addr, PAGE, PAGE)
    machine.check(full=True)


# ---- locked memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("touched", [False, True])
def test_a_part_of_a_locked_mapping_moves_and_the_rest_is_no_longer_locked(
    kernel: str, first: int, touched: bool
) -> None:
    """MREMAP_DONTUNMAP takes VM_LOCKED off the whole mapping and leaves ``locked_vm`` alone."""
    machine = two_nodes(kernel)
    process = machine.spawn()
    addr = process.mmap(4 * PAGE, locked=touched)
    if not touched:
        process.mlock(addr, 4 * PAGE, onfault=True)
    process.mremap(addr + first * PAGE, PAGE, PAGE, maymove=True, dontunmap=True)
    machine.check(full=True)
    assert process.status()["VmLck"] == 16
    process.munlockall()
    process.fork()
    machine.check(full=True)


@pytest.mark.parametrize("kernel", pm.KERNELS)
def test_the_flag_to_leave_a_mapping_is_refused_by_kernels_that_do_not_know_it(kernel: str) -> None:
    """MREMAP_DONTUNMAP is of 5.7."""
    machine = two_nodes(kernel)
    process, pages = filled(machine, 2)
    if kernel[0] == "6":
        process.mremap(int(pages[0]), 2 * PAGE, 2 * PAGE, maymove=True, dontunmap=True)
    else:
        with pytest.raises(OSError, match="EINVAL"):
            process.mremap(int(pages[0]), 2 * PAGE, 2 * PAGE, maymove=True, dontunmap=True)
    machine.check(full=True)


def test_limits_of_the_core_are_the_documented_ones() -> None:
    assert NUMBERS["GUP_PIN_COUNTING_BIAS"] in (1024, 16)


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.18"])
def test_a_part_of_a_mapping_moves_and_its_place_stays(kernel: str) -> None:
    """MREMAP_DONTUNMAP of the middle: what it moved from still spans the end of the range."""
    machine = two_nodes(kernel)
    process = machine.spawn()
    base = process.mmap(8 * PAGE, prot="")
    there = process.mremap(base + PAGE, PAGE, PAGE, maymove=True, dontunmap=True, new_addr=1 << 40)
    assert there == 1 << 40
    assert sum(vma.end - vma.start for vma in process.vmas()) == 9 * PAGE
    machine.check(full=True)
