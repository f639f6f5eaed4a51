"""The calls against the running kernel: its answers are compared with what must hold."""

import ctypes
import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from pagemig.errors import ProcessGoneError, SyscallError
from pagemig.live import Process, Topology, topology
from pagemig.live.topology import listed

PAGE = 4096


def has_numa() -> bool:
    try:
        Process().move_pages([0])
    except SyscallError as error:
        return error.name not in ("ENOSYS", "EPERM")
    return True


needs_numa = pytest.mark.skipif(not has_numa(), reason="this kernel has no move_pages")


@pytest.fixture
def memory():
    """Eight pages of our own, the first four of them touched."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    addr = libc.mmap(None, ctypes.c_size_t(8 * PAGE), 3, 0x22, -1, ctypes.c_long(0))
    libc.madvise(ctypes.c_void_p(addr), ctypes.c_size_t(8 * PAGE), 15)  # MADV_NOHUGEPAGE
    for page in range(4):
        ctypes.memset(addr + page * PAGE, 1, 8)
    yield addr
    libc.munmap(ctypes.c_void_p(addr), ctypes.c_size_t(8 * PAGE))


def test_the_nodes_of_this_machine():
    found = topology()
    assert found.single == (len(found.nodes) == 1)
    assert sum(len(cpus) for cpus in found.cpus.values()) >= len(os.sched_getaffinity(0))
    assert all(0 < found.free[nid] <= found.total[nid] for nid in found.nodes)
    assert (np.diag(found.distance) == 10).all()
    assert ("one node: pages have nowhere to go" in str(found)) == found.single


def test_nodes_as_the_kernel_writes_them(tmp_path):
    (tmp_path / "online").write_text("0,2\n")
    for nid, cpus, row in ((0, "0-1", "10 25"), (2, "", "25 10")):
        folder = tmp_path / f"node{nid}"
        folder.mkdir()
        (folder / "cpulist").write_text(cpus + "\n")
        (folder / "distance").write_text(row + "\n")
        (folder / "meminfo").write_text(
            f"Node {nid} MemTotal:       1000 kB\nNode {nid} MemFree:   {nid + 1} kB\n"
        )
    found = topology(tmp_path)
    assert found.nodes == (0, 2) and not found.single
    assert found.cpus == {0: (0, 1), 2: ()}
    assert found.free == {0: 1024, 2: 3072}
    assert found.distance.tolist() == [[10, 25], [25, 10]]
    assert isinstance(found, Topology)


def test_lists_of_numbers():
    assert listed("0-3,8,10-11\n") == (0, 1, 2, 3, 8, 10, 11)
    assert listed("\n") == ()


def test_pagemap_has_the_pages_that_were_touched(memory):
    entries = Process().pagemap(memory, 8)
    assert (entries >> np.uint64(63)).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    hidden = Process().pagemap(memory, 8, pfns=False)
    assert (hidden & np.uint64((1 << 55) - 1)).tolist() == [0] * 8


def test_vmas_have_our_mapping(memory):
    (ours,) = [vma for vma in Process().vmas() if vma.start <= memory < vma.end]
    assert ours.perms == "rw-p" and ours.end >= memory + 8 * PAGE
    assert ours.flags == 3


@needs_numa
def test_nodes_are_those_of_the_machine(memory):
    found = Process().nodes(memory, 8)
    assert set(found[:4].tolist()) <= set(topology().nodes)
    assert found[4:].tolist() == [-1] * 4
    assert Process().nodes(memory + 5, 1).tolist() == found[:1].tolist()


@needs_numa
def test_a_query_answers_the_errnos_of_the_model(memory):
    status = Process().move_pages([memory, memory + 7 * PAGE, 0]).status
    assert status[0] >= 0
    assert status[1] in (-errno.ENOENT, -errno.EFAULT)  # by the kernel's version
    assert status[2] == -errno.EFAULT


@needs_numa
def test_moving_a_page_to_where_it_is(memory):
    me = Process()
    node = int(me.nodes(memory, 1)[0])
    result = me.move_pages([memory, memory + PAGE], node)
    assert (result.rc, result.not_migrated) == (0, 0)
    assert result.status.tolist() == [node, node]
    assert result.names == [node, node]


@needs_numa
@pytest.mark.parametrize(
    ("nodes", "flags", "name"), [(1023, 2, "ENODEV"), (-1, 2, "ENODEV"), (0, 64, "EINVAL")]
)
def test_errors_are_the_kernel_s_by_the_model_s_names(memory, nodes, flags, name):
    with pytest.raises(SyscallError) as caught:
        Process().move_pages([memory], nodes, flags)
    assert (caught.value.name, caught.value.call) == (name, "move_pages")
    assert caught.value.result.status.shape == (1,)


@pytest.mark.parametrize(
    ("pages", "nodes", "error"),
    [
        ([1.5], 0, TypeError),
        ([[1, 2]], 0, ValueError),
        ([1, 2], [0], ValueError),
        ([-1], 0, ValueError),
        ([1], 2**40, ValueError),
        (["x"], 0, TypeError),
    ],
)
def test_arguments_that_are_none(pages, nodes, error):
    with pytest.raises(error):
        Process().move_pages(pages, nodes)


@needs_numa
def test_migrating_to_where_pages_are():
    nodes = topology().nodes
    assert Process().migrate_pages(nodes[:1], nodes[:1]) >= 0
    with pytest.raises(SyscallError) as caught:
        Process().migrate_pages([0], [1023])
    assert caught.value.name in ("EINVAL", "EPERM")
    with pytest.raises(ValueError, match="from 0 to 1023, not 1024"):
        Process().migrate_pages([0], [1024])


def test_a_process_that_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = Process(child.pid)
    assert process.alive and process.vmas()
    child.communicate(b"\n")
    assert not process.alive
    with pytest.raises(ProcessGoneError, match=f"process {child.pid} is gone"):
        process.pagemap(PAGE, 1)
    with pytest.raises(ProcessGoneError):
        Process(child.pid)


@pytest.mark.parametrize("pid", [-1, 1 << 31, True, "x"])
def test_a_number_that_is_no_process(pid):
    with pytest.raises(ValueError, match="pid must be the number of a process"):
        Process(pid)


def test_what_was_written_is_told_where_the_kernel_keeps_it(memory):
    me = Process()
    me.clear()
    ctypes.memset(memory + PAGE, 2, 8)
    dirty = me.dirty(memory, 4)
    assert dirty is None or dirty.tolist() == [False, True, False, False]


def test_what_was_accessed_is_told_where_the_kernel_keeps_it(memory):
    me = Process()
    if not me.mark_idle(memory, 4):
        assert me.accessed(memory, 4) is None or os.geteuid() != 0
        pytest.skip("this kernel has no idle page tracking for us")
    ctypes.memset(memory + PAGE, 2, 8)
    assert me.accessed(memory, 4)[1]
