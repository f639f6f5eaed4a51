"""move_pages(2): checks and their order, statuses, positive returns.

Expected values are the answers of the recorded Linux 6.1 (the scenario is named) or come from the
named section of the reference on modern kernels.
"""

import numpy as np
import pytest

import pagemig as pm
from pagemig import BAD, MPOL_MF_MOVE, MPOL_MF_MOVE_ALL, MPOL_MF_STRICT, NULL, STATUS_UNSET
from pagemig.system.credentials import INIT_PID, KTHREAD_PID
from support.machines import (
    PAGE,
    at,
    error_of,
    failing,
    four_nodes,
    letters,
    mapped,
    migrated,
    pages,
    spread,
    where,
)

NOBODY = 77777


# ---- asking and moving --------------------------------------------------------------------------


def test_query_tells_the_node_of_written_pages(app: pm.Process) -> None:  # hand-001
    mapped(app, 4)
    app.cpu = 1
    mapped(app, 4, 4)
    assert where(app, 0, 8) == "00001111"


def test_pages_move_and_keep_their_content() -> None:  # hand-002
    app = four_nodes(page_bytes=8).spawn()
    base = mapped(app, 8, touched=False)
    app.touch(base, 8 * PAGE, write=True, values=range(100, 108))
    assert letters(app.move_pages(pages(0, 8), [0, 1, 2, 3] * 2).status) == "01230123"
    assert where(app, 0, 8) == "01230123"
    again = app.touch(base, 8 * PAGE)
    assert again.minflt == 0
    assert again.values is not None
    assert again.values.tolist() == list(range(100, 108))


def test_one_node_for_all_pages(app: pm.Process, machine: pm.Machine) -> None:
    mapped(app, 8)
    assert app.move_pages(pages(0, 8), 2).rc == 0
    assert where(app, 0, 8) == "2" * 8
    assert migrated(machine) == (8, 0)


@pytest.mark.parametrize("nodes", [None, NULL])
def test_without_nodes_nothing_moves(app: pm.Process, nodes: pm.Pointer | None) -> None:
    mapped(app, 2)
    assert app.move_pages(pages(0, 2), nodes).status.tolist() == [0, 0]


def test_status_array_of_the_caller_is_filled(app: pm.Process) -> None:
    mapped(app, 2)
    mine = np.full(4, STATUS_UNSET, dtype=np.int32)
    assert app.move_pages(pages(0, 2), [1, 3], status=mine).status is mine
    assert mine.tolist() == [1, 3, STATUS_UNSET, STATUS_UNSET]


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
@pytest.mark.parametrize("step", [1, 2])
def test_any_integer_array_will_do(app: pm.Process, dtype: type, step: int) -> None:
    mapped(app, 8)
    addresses = np.array(pages(0, 8), dtype=dtype)[::step]
    nodes = np.ones(len(addresses), dtype=np.int64)
    assert letters(app.move_pages(addresses, nodes).status) == "1" * len(addresses)


# ---- statuses, section 2.5 ----------------------------------------------------------------------


def test_untouched_zero_page_and_unmapped(app: pm.Process) -> None:  # hand-004
    base = mapped(app, 4, touched=False)
    app.touch(base, PAGE, write=True)
    app.touch(at(2), PAGE)
    app.munmap(at(3), PAGE)
    assert where(app, 0, 5) == "0FFFF"
    assert letters(app.move_pages(pages(0, 5), 1).status) == "1FFFF"
    assert where(app, 0, 5) == "1FFFF"


@pytest.mark.parametrize(("kernel", "untouched"), [("6.1", "F"), ("6.12", ".")])
def test_status_of_untouched_memory_by_kernel(kernel: str, untouched: str) -> None:  # section 8
    app = four_nodes(kernel).spawn()
    mapped(app, 2, touched=False)
    app.touch(at(1), PAGE)
    assert where(app, 0, 2) == untouched + "F"
    assert letters(app.move_pages(pages(0, 2), 1).status) == untouched + "F"


@pytest.mark.parametrize("shared", [False, True])
def test_untouched_file_memory_is_not_there(machine: pm.Machine, shared: bool) -> None:
    app = machine.spawn()
    mapped(app, 2, touched=False, file=machine.file("tmpfs", 2 * PAGE), shared=shared)
    assert where(app, 0, 2) == ".."


def test_inaccessible_memory(app: pm.Process) -> None:  # hand-023
    mapped(app, 6, touched=False)
    app.touch(at(0), 4 * PAGE, write=True)
    app.mprotect(at(0), 3 * PAGE, "")
    assert where(app, 0, 6) == "...0FF"
    assert letters(app.move_pages(pages(0, 6), 1).status) == "...1FF"


def test_shared_needs_move_all(app: pm.Process) -> None:  # hand-005
    mapped(app, 4)
    child = app.fork()
    assert letters(app.move_pages(pages(0, 4), 1).status) == "AAAA"
    assert letters(app.move_pages(pages(0, 4), 1, pid=child).status) == "AAAA"
    assert letters(child.move_pages(pages(0, 4), 1, MPOL_MF_MOVE_ALL).status) == "1111"
    assert where(app, 0, 4) == "1111"
    child.exit()
    assert letters(app.move_pages(pages(0, 4), 2).status) == "2222"


def test_already_there_comes_before_shared(app: pm.Process) -> None:  # section 0, fact 10
    mapped(app, 2)
    app.fork()
    assert letters(app.move_pages(pages(0, 2), [0, 1]).status) == "0A"


def test_shared_means_mapped_twice_even_by_one_process(machine: pm.Machine) -> None:  # fact 1
    app = machine.spawn()
    file = machine.file("tmpfs", 4 * PAGE)
    mapped(app, 4, shared=True, file=file)
    mapped(app, 4, 8, shared=True, file=file)
    assert letters(app.move_pages(pages(0, 4), 1).status) == "AAAA"
    assert letters(app.move_pages(pages(0, 4), 1, MPOL_MF_MOVE_ALL).status) == "1111"
    assert where(app, 8, 4) == "1111"


def test_addresses_inside_pages(app: pm.Process) -> None:  # hand-012
    mapped(app, 4)
    inside = [at(0) + 1, at(1) + 4095, at(2) + 8]
    assert letters(app.move_pages(inside).status) == "000"
    assert letters(app.move_pages([*inside, at(3)], 1).status) == "1111"
    assert letters(app.move_pages([at(0) + 1, at(0) + 2, at(0) + 3], [2, 3, 1]).status) == "231"


@pytest.mark.parametrize(
    ("order", "nodes", "status", "moved"),
    [  # hand-013, one after the other
        ([0, 0, 1], [1, 1, 1], "1B1", 2),
        ([0, 0], [2, 3], "23", 2),
        ([0, 1, 0, 1], [1, 1, 1, 1], "1111", 1),
        ([2, 2, 2], [1, 2, 3], "123", 3),
        ([3, 3], [3, 3], "3B", 1),
        ([0, 1, 2, 0], [3, 3, 3, 0], "3330", 3),
    ],
)
def test_pages_listed_more_than_once(
    machine: pm.Machine, order: list[int], nodes: list[int], status: str, moved: int
) -> None:
    app = machine.spawn()
    mapped(app, 4)
    starts = {"1111": [3, 1, 0, 0], "3330": [1, 1, 3, 0]}
    spread(app, 0, starts.get(status, [0, 0, 0, 0]))
    before = migrated(machine)[0]
    assert letters(app.move_pages([at(page) for page in order], nodes).status) == status
    assert migrated(machine)[0] - before == moved


def test_addresses_no_process_has(app: pm.Process) -> None:  # hand-017
    mapped(app, 1)
    wild = [0, 0xFFFF888000000000, 1 << 63, (1 << 64) - 1, 0x7FFFFFFFF000, 0xFFFFFFFFFF600000]
    assert letters(app.move_pages([*wild, at(0)]).status) == "FFFFFF0"
    assert letters(app.move_pages([*wild, at(0)], 1).status) == "FFFFFF1"


def test_locked_pages_move(app: pm.Process) -> None:  # hand-022, section 0 fact 14
    base = mapped(app, 4)
    app.mlock(base, 4 * PAGE)
    assert letters(app.move_pages(pages(0, 4), 3).status) == "3333"


# ---- nodes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "status", "placed"),
    [  # hand-006; each on fresh pages of node 0
        ([1, 4, 1], "1??", "100"),
        ([1, -1, 1], "1??", "100"),
        ([64, 1, 1], "???", "000"),
        ([1024, 1, 1], "???", "000"),
        ([2147483647, 1, 1], "???", "000"),
        ([-2147483648, 0, 0], "???", "000"),
        ([2, 2, 4], "22?", "220"),
    ],
)
def test_nodes_that_do_not_exist(
    app: pm.Process, nodes: list[int], status: str, placed: str
) -> None:
    mapped(app, 3)
    error = failing(app.move_pages, pages(0, 3), nodes)
    assert error.name == "ENODEV"
    assert letters(error.result.status) == status
    assert where(app, 0, 3) == placed


def test_node_without_memory() -> None:  # section 2.5
    machine = pm.Machine([pm.Node("16MiB", cpus=1), pm.Node(0, cpus=1)])
    app = machine.spawn()
    mapped(app, 1)
    assert error_of(app.move_pages, [at(0)], [1]) == "ENODEV"


def test_settled_entries_before_a_bad_node(app: pm.Process) -> None:  # hand-015
    mapped(app, 4)
    error = failing(app.move_pages, [at(0), at(9), at(1)], [1, 9, 1])
    assert (error.name, letters(error.result.status)) == ("ENODEV", "1??")
    error = failing(app.move_pages, [at(9), at(0), at(1)], [9, 1, 1])
    assert (error.name, letters(error.result.status)) == ("ENODEV", "???")
    error = failing(app.move_pages, pages(0, 4), [1, 2, 9, 3])
    assert (error.name, letters(error.result.status)) == ("ENODEV", "12??")


def test_full_node_fails_the_call_with_enomem() -> None:  # section 0, fact 12
    machine = pm.Machine([pm.Node("16MiB", cpus=1), pm.Node(8 * PAGE)])
    app = machine.spawn()
    mapped(app, 64)
    assert error_of(app.move_pages, pages(0, 64), 1) == "ENOMEM"
    machine.check(full=True)


# ---- flags, privileges, processes ---------------------------------------------------------------


@pytest.mark.parametrize("flags", [MPOL_MF_STRICT, 8, 128, -(2**31), MPOL_MF_STRICT | MPOL_MF_MOVE])
def test_flags_it_does_not_know(app: pm.Process, flags: int) -> None:  # hand-010
    mapped(app, 2)
    error = failing(app.move_pages, pages(0, 2), 1, flags)
    assert (error.name, letters(error.result.status)) == ("EINVAL", "??")


@pytest.mark.parametrize("flags", [0, MPOL_MF_MOVE, MPOL_MF_MOVE | MPOL_MF_MOVE_ALL])
def test_flags_that_move(app: pm.Process, flags: int) -> None:  # hand-010: none is as MOVE
    mapped(app, 2)
    assert letters(app.move_pages(pages(0, 2), 1, flags).status) == "11"


def test_processes_without_memory(app: pm.Process, machine: pm.Machine) -> None:  # hand-007
    mapped(app, 2)
    zombie = app.fork()
    zombie.exit(zombie=True)
    for nodes in (1, None):
        assert error_of(app.move_pages, pages(0, 2), nodes, pid=NOBODY) == "ESRCH"
        assert error_of(app.move_pages, pages(0, 2), nodes, pid=-1) == "ESRCH"
        assert error_of(app.move_pages, pages(0, 2), nodes, pid=KTHREAD_PID) == "EINVAL"
        assert error_of(app.move_pages, pages(0, 2), nodes, pid=zombie) == "EINVAL"
    number = zombie.pid
    zombie.reap()
    assert error_of(app.move_pages, pages(0, 2), pid=number) == "ESRCH"
    assert error_of(app.move_pages, pages(0, 2), 1, MPOL_MF_MOVE_ALL, pid=NOBODY) == "ESRCH"


def test_init_can_be_asked_by_root(app: pm.Process, machine: pm.Machine) -> None:
    assert letters(app.move_pages([at(0)], pid=INIT_PID).status) == "F"
    assert [process.pid for process in machine.processes] == [app.pid]


def test_unprivileged(app: pm.Process) -> None:  # hand-011
    mapped(app, 2)
    child = app.fork()
    child.setuid(1000)
    child.touch(at(0), 2 * PAGE, write=True)
    assert error_of(child.move_pages, pages(0, 2), 1, MPOL_MF_MOVE_ALL) == "EPERM"
    assert letters(child.move_pages(pages(0, 2), 1).status) == "11"
    assert error_of(child.move_pages, pages(0, 2), 1, pid=app) == "EPERM"
    assert error_of(child.move_pages, pages(0, 2), pid=app) == "EPERM"
    assert error_of(child.move_pages, pages(0, 2), pid=INIT_PID) == "EPERM"
    assert error_of(child.move_pages, pages(0, 2), pid=KTHREAD_PID) == "EPERM"
    assert error_of(child.move_pages, pages(0, 2), 1, MPOL_MF_MOVE_ALL, pid=NOBODY) == "EPERM"


def test_who_may_move_whose_pages(app: pm.Process) -> None:  # hand-027
    mapped(app, 2)
    hidden, open_, other = app.fork(), app.fork(), app.fork()
    hidden.setuid(1000)
    open_.setuid(1000, dumpable=True)
    other.setuid(1001, dumpable=True)
    for process in (hidden, open_, other):
        process.touch(at(0), 2 * PAGE, write=True)
    cases = [
        (hidden, open_, "ok"),
        (open_, hidden, "EPERM"),
        (other, open_, "EPERM"),
        (open_, other, "EPERM"),
        (app, hidden, "ok"),
    ]
    for caller, target, expected in cases:
        assert error_of(caller.move_pages, pages(0, 2), 1, pid=target) == expected
        assert error_of(caller.move_pages, pages(0, 2), pid=target) == expected


def test_same_group_is_needed_too(app: pm.Process) -> None:
    mapped(app, 1)
    one, two = app.fork(), app.fork()
    one.setuid(1000, gid=1000, dumpable=True)
    two.setuid(1000, gid=2000, dumpable=True)
    assert error_of(one.move_pages, pages(0, 1), pid=two) == "EPERM"
    assert error_of(one.move_pages, pages(0, 1), pid=one.pid) == "ok"


def test_order_of_checks(app: pm.Process) -> None:  # section 2.5, hand-015
    mapped(app, 1)
    user = app.fork()
    user.setuid(1000)
    move_all = MPOL_MF_MOVE_ALL
    assert error_of(user.move_pages, [at(0)], 9, move_all | 8, pid=NOBODY) == "EINVAL"  # flags
    assert error_of(user.move_pages, [at(0)], 9, move_all, pid=NOBODY) == "EPERM"  # privilege
    assert error_of(user.move_pages, [at(0)], 9, pid=NOBODY) == "ESRCH"  # then who
    assert error_of(user.move_pages, [at(0)], 9, pid=KTHREAD_PID) == "EPERM"  # then whether
    assert error_of(app.move_pages, BAD, 9, pid=KTHREAD_PID, count=1) == "EINVAL"  # no memory
    assert error_of(app.move_pages, BAD, 9, count=1) == "EFAULT"  # the lists
    assert error_of(app.move_pages, [at(9)], 9, status=BAD) == "ENODEV"  # an entry's node
    assert error_of(app.move_pages, [at(9)], 1, status=BAD) == "EFAULT"  # its status


# ---- pointers and counts ------------------------------------------------------------------------


def test_pointers(app: pm.Process, machine: pm.Machine) -> None:  # hand-014
    mapped(app, 4)
    for pointer in (BAD, NULL):
        error = failing(app.move_pages, pointer, 1, count=2)
        assert (error.name, len(error.result.status)) == ("EFAULT", 0)
    error = failing(app.move_pages, pages(0, 2), BAD)
    assert (error.name, letters(error.result.status)) == ("EFAULT", "??")
    assert migrated(machine) == (0, 0)
    error = failing(app.move_pages, pages(0, 2), 1, status=BAD)
    assert (error.name, letters(error.result.status)) == ("EFAULT", "??")
    assert migrated(machine) == (2, 0)
    assert error_of(app.move_pages, pages(0, 2), status=BAD) == "EFAULT"
    assert error_of(app.move_pages, pages(0, 4), [2, 2, 3, 3], status=NULL) == "EFAULT"
    assert error_of(app.move_pages, BAD, count=1) == "EFAULT"
    assert where(app, 0, 4) == "2200"


@pytest.mark.parametrize("count", [-1, 1 << 61, 3])
def test_counts_beyond_the_list(app: pm.Process, count: int) -> None:  # hand-008
    mapped(app, 2)
    error = failing(app.move_pages, pages(0, 2), [0, 1], count=count)
    assert (error.name, letters(error.result.status)) == ("EFAULT", "01")
    assert where(app, 0, 2) == "01"


def test_counts_below_the_list(app: pm.Process) -> None:  # hand-008
    mapped(app, 2)
    assert letters(app.move_pages(pages(0, 2), 2, count=1).status) == "2?"
    assert error_of(app.move_pages, NULL, count=-1) == "EFAULT"
    assert error_of(app.move_pages, NULL, 1, count=1 << 40) == "EFAULT"


def test_query_reads_blocks_of_sixteen(app: pm.Process) -> None:  # section 2.5
    mapped(app, 40)
    error = failing(app.move_pages, pages(0, 40), count=41)
    assert letters(error.result.status) == "0" * 32 + "?" * 8


def test_empty_lists(app: pm.Process) -> None:  # hand-009
    assert app.move_pages([], []).rc == 0
    assert app.move_pages([]).rc == 0
    assert app.move_pages(NULL, NULL, count=0).rc == 0
    assert app.move_pages([], [], MPOL_MF_MOVE_ALL).rc == 0
    assert error_of(app.move_pages, [], [], 8) == "EINVAL"
    assert error_of(app.move_pages, [], [], pid=NOBODY) == "ESRCH"


# ---- what cannot move ---------------------------------------------------------------------------


def test_positive_returns(app: pm.Process, machine: pm.Machine) -> None:  # hand-024
    mapped(app, 8)
    pin = app.pin(at(0), 2 * PAGE)
    assert pin.rc == 2
    result = app.move_pages([at(0)], 1)
    assert (result.rc, result.not_migrated, letters(result.status)) == (1, 1, "?")
    result = app.move_pages([at(2), at(1), at(3)], 1)
    assert (result.rc, letters(result.status)) == (1, "???")
    assert where(app, 0, 8) == "00110000"
    result = app.move_pages(pages(0, 8), [2, 3] * 4)
    assert (result.rc, letters(result.status)) == (8, "?" * 8)
    assert migrated(machine) == (2, 3)
    app.unpin(pin)
    assert app.move_pages(pages(0, 8), 3).rc == 0


def test_long_term_pin(app: pm.Process) -> None:  # hand-025
    mapped(app, 8)
    pin = app.pin(at(2), 2 * PAGE, "uring")
    assert (pin.rc, pin.count) == (0, 2)
    assert app.move_pages(pages(0, 5), 1).rc == 2
    assert where(app, 0, 8) == "11001000"
    result = app.move_pages([at(page) for page in (5, 2, 6, 3, 7)], [2, 2, 3, 3, 1])
    assert (result.rc, letters(result.status)) == (4, "?????")
    assert where(app, 0, 8) == "11001200"
    app.unpin(pin)


def test_many_runs(app: pm.Process) -> None:  # hand-016
    mapped(app, 128)
    nodes = ([3] * 16 + [1] * 16) * 4
    assert app.move_pages(pages(0, 128), nodes).status.tolist() == nodes
    assert app.move_pages(pages(0, 128)).status.tolist() == nodes


@pytest.mark.parametrize("width", [1, 64])
def test_results_do_not_depend_on_the_width_of_a_stage(width: int) -> None:
    machine = four_nodes()
    machine.width = width
    app = machine.spawn()
    mapped(app, 200)
    app.fork().touch(at(50), 50 * PAGE, write=True)
    result = app.move_pages(pages(0, 200), [page // 7 % 4 for page in range(200)])
    assert result.rc == 0
    machine.check(full=True)
    assert where(app, 50, 50) == "".join(str(page // 7 % 4) for page in range(50, 100))
