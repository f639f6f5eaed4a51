"""``vm_ops->migrate`` (kernel-2006, 7.5): when it is called; mappings without page structs."""

import errno
import threading
import time
from typing import Any

import pytest

import pagemig as pm
from pagemig.system.uncached import UncachedAllocator
from pagemig.system.vmops import MigratingVma
from support.machines import PAGE, at, error_of, failing, mapped

HOOKED = ["2.6.18-ia64", "pmig"]
UNHOOKED = ["2.6.17", "2.6.17-mm", "6.1", "6.12"]
KEPT = 16  # pages that every node keeps


def machine_with_kept(kernel: str, nodes: int = 2, **options: Any) -> pm.Machine:
    if pm.KERNELS[kernel].swap:
        options.setdefault("swap", ["1MiB"])
    made = [pm.Node("1MiB", cpus=1, reserved=KEPT * PAGE) for _ in range(nodes)]
    return pm.Machine(made, kernel=kernel, page_bytes=8, **options)


def nodes_of(process: pm.Process, first: int, n: int) -> list[int]:
    return process.nodes(at(first), n).tolist()


class Recorder:
    """A migrate operation that remembers its calls, and where ordinary pages were at that time."""

    def __init__(self, answer: int | BaseException | None = None, watch: int | None = None) -> None:
        self.answer = answer
        self.watch = watch
        self.calls: list[tuple[int, tuple[int, ...], tuple[int, ...], int]] = []
        self.seen: list[list[int]] = []

    def __call__(
        self, vma: MigratingVma, old: tuple[int, ...], new: tuple[int, ...], flags: int
    ) -> int | None:
        self.calls.append(((vma.start - at(0)) // PAGE, old, new, flags))
        if self.watch is not None:
            assert vma.process is not None
            self.seen.append(nodes_of(vma.process, self.watch, 4))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def three_mappings(kernel: str, hook: Recorder) -> pm.Process:
    """Pages 0-3 and 8-11 with the operation, 16-19 without."""
    app = machine_with_kept(kernel).spawn()
    for first in (0, 8, 16):
        mapped(app, 4, first)
    for first in (0, 8):
        app.set_vm_ops(at(first), migrate=hook)
    return app


@pytest.mark.parametrize("kernel", HOOKED)
def test_every_mapping_that_has_one_is_asked_once_before_any_page_moves(kernel: str) -> None:
    hook = Recorder(watch=16)
    app = three_mappings(kernel, hook)
    assert app.migrate_pages([0], [1]) == 0
    moves = pm.MPOL_MF_MOVE_ALL  # root may move everything
    assert hook.calls == [(0, (0,), (1,), moves), (8, (0,), (1,), moves)]
    assert hook.seen == [[0] * 4] * 2
    # Nobody claims pages: the ordinary ones of a mapping with an operation move as any other.
    assert [nodes_of(app, first, 4) for first in (0, 8, 16)] == [[1] * 4] * 3
    app.machine.check()


def test_without_cap_sys_nice_the_flag_is_move() -> None:
    machine = machine_with_kept("pmig")
    app = machine.spawn(uid=1000)
    hook = Recorder()
    mapped(app, 1)
    app.set_vm_ops(at(0), migrate=hook)
    app.migrate_pages([0], [1])
    assert hook.calls == [(0, (0,), (1,), pm.MPOL_MF_MOVE)]


@pytest.mark.parametrize("kernel", UNHOOKED)
def test_other_kernels_do_not_call_it(kernel: str) -> None:
    hook = Recorder()
    app = three_mappings(kernel, hook)
    app.migrate_pages([0], [1])
    assert hook.calls == []


@pytest.mark.parametrize(("kernel", "called"), [("2.6.18-ia64", []), ("pmig", [0])])
def test_2_6_18_forgets_the_last_mapping(kernel: str, called: list[int]) -> None:
    hook = Recorder()
    app = machine_with_kept(kernel).spawn()
    mapped(app, 4)
    app.set_vm_ops(at(0), migrate=hook)
    app.migrate_pages([0], [1])
    assert [first for first, *_ in hook.calls] == called


@pytest.mark.parametrize("kernel", HOOKED)
@pytest.mark.parametrize("answer", [-errno.EAGAIN, OSError(errno.EAGAIN, "not now")])
def test_the_first_error_ends_the_call_and_nothing_moves(
    kernel: str, answer: int | OSError
) -> None:
    hook = Recorder(answer)
    app = three_mappings(kernel, hook)
    assert failing(app.migrate_pages, [0], [1]).name == "EAGAIN"
    assert [first for first, *_ in hook.calls] == [0]
    assert nodes_of(app, 16, 4) == [0] * 4
    app.machine.check()


@pytest.mark.parametrize("kernel", HOOKED)
def test_what_else_it_raises_comes_out_of_the_call(kernel: str) -> None:
    app = three_mappings(kernel, Recorder(KeyError("mine")))
    with pytest.raises(KeyError, match="mine"):
        app.migrate_pages([0], [1])
    assert nodes_of(app, 16, 4) == [0] * 4
    app.machine.check()
    app.set_vm_ops(at(0), migrate=None)
    app.set_vm_ops(at(8), migrate=None)
    assert app.migrate_pages([0], [1]) == 0
    assert nodes_of(app, 16, 4) == [1] * 4


@pytest.mark.parametrize(
    ("kernel", "rc", "calls", "node"), [("2.6.18-ia64", 0, [0], 0), ("pmig", 6, [0, 8], 1)]
)
def test_a_positive_answer(kernel: str, rc: int, calls: list[int], node: int) -> None:
    # 2.6.18 stops, and then answers 0 (section 10); pmig takes it for pages left and goes on.
    hook = Recorder(3)
    app = three_mappings(kernel, hook)
    assert app.migrate_pages([0], [1]) == rc
    assert [first for first, *_ in hook.calls] == calls
    assert nodes_of(app, 16, 4) == [node] * 4


@pytest.mark.parametrize("kernel", HOOKED)
def test_mbind_and_move_pages_do_not_ask(kernel: str) -> None:
    hook = Recorder(-errno.EIO)
    app = three_mappings(kernel, hook)
    app.mbind(at(0), 4 * PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE)
    assert app.move_pages([at(8)], 1).status.tolist() == [1]
    assert hook.calls == []


def test_parts_and_copies_keep_the_operation_and_neighbours_stay_apart() -> None:
    hook = Recorder()
    app = machine_with_kept("pmig").spawn()
    mapped(app, 8)
    app.set_vm_ops(at(0), migrate=hook)
    mapped(app, 4, 8)  # the same in all but its operations
    assert len(app.vmas()) == 2
    app.mprotect(at(4), 4 * PAGE, "r")
    mapped(app, 4, 12)
    app.mprotect(at(4), 4 * PAGE, "rw")
    assert [v.pages for v in app.vmas()] == [4, 4, 8]
    moved = app.mremap(at(4), 4 * PAGE, 4 * PAGE, maymove=True, new_addr=at(32))
    child = app.fork()
    hook.calls.clear()
    child.migrate_pages([0], [1])
    assert [first for first, *_ in hook.calls] == [0, (moved - at(0)) // PAGE]
    app.machine.check()


# ---- mappings without page structs ------------------------------------------------------------


def kept(node: int) -> list[int]:
    """Frames a node keeps; the zero page is the first of node 0."""
    first = node * 256
    return list(range(first + (node == 0), first + KEPT))


@pytest.mark.parametrize("kernel", sorted(pm.KERNELS))
def test_no_call_moves_what_has_no_page_structs(kernel: str) -> None:
    machine = machine_with_kept(kernel)
    app = machine.spawn()
    base = app.mmap_pfns(kept(0)[:4])
    written = app.touch(base, 4 * PAGE, write=True, values=[1, 2, 3, 4])
    assert (written.minflt, written.signal) == (0, None)
    machine.check(full=True)
    entries = app.frames(base, 4).tolist()
    assert entries == kept(0)[:4]
    app.migrate_pages([0], [1])
    app.mbind(base, 4 * PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE)
    if "move_pages" in pm.KERNELS[kernel].calls:
        # 2.6.18 looks for a page and finds none (7.4); -EFAULT since 2.6.21.  Nothing to do at all
        # is an error of the call there.
        if pm.KERNELS[kernel].nothing_enoent:
            assert failing(app.move_pages, [base], 1).name == "ENOENT"
        else:
            assert app.move_pages([base], 1).status.tolist() == [-errno.EFAULT]
    assert app.frames(base, 4).tolist() == entries
    assert app.touch(base, 4 * PAGE).values.tolist() == [1, 2, 3, 4]  # type: ignore[union-attr]
    machine.check(full=True)


def test_what_a_driver_mapping_is_for_the_other_calls() -> None:
    machine = machine_with_kept("6.1")
    app = machine.spawn()
    base = app.mmap_pfns(kept(0)[:4], prot="r")
    assert app.touch(base, PAGE, write=True).signal == "SIGSEGV"
    app.mprotect(base, 4 * PAGE, "rw")
    assert app.touch(base, 4 * PAGE, write=True).minflt == 0  # vma_wants_writenotify: it does not
    assert error_of(app.madvise, base, PAGE, "dontneed") == "EINVAL"
    assert error_of(app.madvise, base, PAGE, "dofork") == "EINVAL"
    assert error_of(app.pin, base, PAGE) == "EFAULT"
    assert error_of(app.mremap, base, 4 * PAGE, 8 * PAGE, maymove=True) == "EFAULT"
    child = app.fork()
    assert child.touch(base, PAGE).signal == "SIGSEGV"  # VM_DONTCOPY
    [mapping] = app.smaps()
    assert {"pf", "io", "dc", "de", "dd"} <= set(mapping["VmFlags"].split())
    assert mapping["Rss"] == 0
    app.munmap(base, PAGE)
    assert app.touch(base + PAGE, 3 * PAGE).signal is None
    machine.check(full=True)
    app.exit()
    machine.check(full=True)


@pytest.mark.parametrize("kernel", HOOKED)
def test_only_the_operation_moves_them(kernel: str) -> None:
    machine = machine_with_kept(kernel)
    app = machine.spawn()

    def migrate(vma: MigratingVma, old: tuple[int, ...], new: tuple[int, ...], flags: int) -> None:
        assert vma.pfns.tolist() == kept(0)[:4]
        vma.remap(kept(1)[2:4], addr=vma.start + 2 * PAGE)

    base = app.mmap_pfns(kept(0)[:4], migrate=migrate)
    app.mmap(PAGE, addr=base + 64 * PAGE)  # 2.6.18 forgets the last mapping
    app.touch(base, 4 * PAGE, write=True, values=[1, 2, 3, 4])
    assert app.migrate_pages([0], [1]) == 0
    entries = app.frames(base, 4).tolist()
    assert entries == kept(0)[:2] + kept(1)[2:4]
    seen = app.touch(base, 4 * PAGE)
    assert (seen.values.tolist(), seen.minflt) == ([1, 2, 3, 4], 0)  # type: ignore[union-attr]
    machine.check(full=True)


def test_bad_arguments() -> None:
    machine = machine_with_kept("pmig")
    app = machine.spawn()
    for pfns in ([0], [KEPT], [kept(1)[0], 511]):
        with pytest.raises(
            ValueError, match=r"pfns must be frames kept by Node\(reserved=\.\.\.\)"
        ):
            app.mmap_pfns(pfns)
    with pytest.raises(ValueError, match="pfns must be below 512"):
        app.mmap_pfns([512])
    assert error_of(app.mmap_pfns, []) == "EINVAL"
    with pytest.raises(TypeError, match="migrate must be a function or None, not 5"):
        app.mmap_pfns(kept(0), migrate=5)  # type: ignore[arg-type]
    assert error_of(app.set_vm_ops, at(0), migrate=None) == "EFAULT"
    assert app.vmas() == []


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        ("x", TypeError, "answer of a migrate operation must be an integer, not 'x'"),
        (1.5, TypeError, "answer of a migrate operation must be an integer, not 1.5"),
        (-5000, ValueError, "must answer a count or a negative errno, not -5000"),
        (-512, ValueError, "must answer a count or a negative errno, not -512"),
    ],
)
def test_bad_answers(answer: Any, error: type[Exception], text: str) -> None:
    app = machine_with_kept("pmig").spawn()
    mapped(app, 1)
    app.set_vm_ops(at(0), migrate=lambda *_: answer)
    with pytest.raises(error, match=text):
        app.migrate_pages([0], [1])
    assert nodes_of(app, 0, 1) == [0]


def test_remap_refuses_what_it_cannot_do() -> None:
    app = machine_with_kept("pmig").spawn()
    seen: list[MigratingVma] = []

    def migrate(vma: MigratingVma, *_: object) -> None:
        seen.append(vma)
        if "ordinary" in repr(vma):
            with pytest.raises(ValueError, match="only a mapping without page structs"):
                vma.remap(kept(1)[:1])
            return
        with pytest.raises(ValueError, match="pfns must be frames kept"):
            vma.remap([300])
        for addr in (vma.start + 1, vma.start - PAGE, vma.end):
            with pytest.raises(ValueError, match="addr must leave room for 1 pages"):
                vma.remap(kept(1)[:1], addr=addr)

    mapped(app, 1)
    app.set_vm_ops(at(0), migrate=migrate)
    app.mmap_pfns(kept(0)[:2], migrate=migrate)
    app.migrate_pages([0], [1])
    assert len(seen) == 2
    with pytest.raises(ValueError, match="only while its migrate operation runs"):
        seen[1].remap(kept(1)[:1])
    with pytest.raises(ValueError, match="only while its migrate operation runs"):
        _ = seen[1].pfns
    app.machine.check(full=True)


# ---- the uncached allocator -------------------------------------------------------------------


def test_memory_comes_back_from_munmap_and_from_exit() -> None:
    machine = machine_with_kept("pmig")
    uncached = UncachedAllocator(machine)
    assert (uncached.free(0), uncached.free(1)) == (KEPT - 1, KEPT)
    app, other = machine.spawn(), machine.spawn(cpu=1)
    base = uncached.mmap(app, 10 * PAGE)
    uncached.mmap(other, KEPT * PAGE)  # on its own node, all there is
    assert (uncached.used(0), uncached.used(1)) == (10, KEPT)
    assert error_of(uncached.mmap, app, 6 * PAGE) == "ENOMEM"
    assert (uncached.used(0), uncached.free(0)) == (10, KEPT - 11)
    uncached.munmap(app, base, 4 * PAGE)
    assert (uncached.used(0), uncached.free(0)) == (6, KEPT - 7)
    other.exit()
    uncached.mmap(app, KEPT * PAGE, node=1)
    assert uncached.used(1) == KEPT
    assert error_of(uncached.mmap, app, 0) == "EINVAL"
    machine.check(full=True)


def test_overlapping_nodes_move_one_on_each() -> None:
    # node_remap (6.2): 0 to 1 and 1 to 2, each page once.
    machine = machine_with_kept("pmig", nodes=3)
    uncached = UncachedAllocator(machine)
    app = machine.spawn()
    bases = [uncached.mmap(app, 4 * PAGE, node=node) for node in (0, 1, 2)]
    for i, base in enumerate(bases):
        app.touch(base, 4 * PAGE, write=True, values=range(10 * i, 10 * i + 4))
    assert app.migrate_pages([0, 1], [1, 2]) == 0
    entries = [app.frames(base, 4) for base in bases]
    assert [set(machine.node_of(e).tolist()) for e in entries] == [{1}, {2}, {2}]
    for i, base in enumerate(bases):
        assert app.touch(base, 4 * PAGE).values.tolist() == list(  # type: ignore[union-attr]
            range(10 * i, 10 * i + 4)
        )
    assert [uncached.used(node) for node in (0, 1, 2)] == [0, 4, 8]
    machine.check(full=True)


def test_without_room_the_call_fails_and_nothing_is_lost() -> None:
    machine = machine_with_kept("pmig")
    uncached = UncachedAllocator(machine)
    app, other = machine.spawn(), machine.spawn()
    uncached.mmap(other, (KEPT - 2) * PAGE, node=1)
    base = uncached.mmap(app, 5 * PAGE, node=0)
    mapped(app, 4)
    app.touch(base, 5 * PAGE, write=True, values=range(5))
    assert failing(app.migrate_pages, [0], [1]).name == "ENOMEM"
    assert (uncached.used(0), uncached.used(1)) == (3, KEPT)
    assert nodes_of(app, 0, 4) == [0] * 4  # ordinary pages did not have their turn
    assert app.touch(base, 5 * PAGE).values.tolist() == list(range(5))  # type: ignore[union-attr]
    machine.check(full=True)


def test_a_process_of_another_machine_is_refused() -> None:
    uncached = UncachedAllocator(machine_with_kept("pmig"))
    with pytest.raises(TypeError, match="machine must be a Machine, not 3"):
        UncachedAllocator(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="process must be one of"):
        uncached.mmap(machine_with_kept("pmig").spawn(), PAGE)


@pytest.mark.threads
def test_a_program_writes_while_its_uncached_memory_moves() -> None:
    """No write is lost: a write while a frame is replaced waits, and goes to the new one."""
    machine = machine_with_kept("pmig")
    uncached = UncachedAllocator(machine)
    app = machine.spawn()
    n = 8
    base = uncached.mmap(app, n * PAGE, node=0)
    app.touch(base, n * PAGE, write=True, values=0)
    barrier = threading.Barrier(2)
    over = threading.Event()
    lost: list[tuple[int, Any]] = []
    written = [0]

    def writer() -> None:
        barrier.wait()
        while not over.is_set():
            written[0] += 1
            app.touch(base, n * PAGE, write=True, values=written[0])
            seen = app.touch(base, n * PAGE).values
            if seen is None or (seen != written[0]).any():
                lost.append((written[0], seen))

    thread = threading.Thread(target=writer)
    thread.start()
    barrier.wait()
    moves = 0
    while (moves < 100 or written[0] < 100) and thread.is_alive():
        app.migrate_pages([moves % 2], [1 - moves % 2])
        moves += 1
        time.sleep(0)
    over.set()
    thread.join()
    assert lost == []
    assert moves >= 100
    assert written[0] >= 100
    assert uncached.used(0) + uncached.used(1) == n
    machine.check(full=True)
