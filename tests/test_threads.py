"""Real threads on real locks: migrations against everything that may happen to a page meanwhile.

Every test lets threads start together, gives each page one writer so that its content is known at
any time, and holds the whole machine against its invariants afterwards.  Host counters prove that
the threads met: a test that never waited for anything has shown nothing.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EINVAL, ENOMEM, ESRCH

import numpy as np
import pytest

import pagemig as pm
from pagemig import Machine, Process

pytestmark = pytest.mark.threads

PAGE = pm.PAGE_SIZE
TIMEOUT = 300
#: How often everything is done; PAGEMIG_STRESS multiplies it.
STRESS = int(os.environ.get("PAGEMIG_STRESS") or 1)
#: Host counters of locks that somebody had to wait for.
WAITED = (
    "host_page_contended",
    "host_ptl_contended",
    "host_rmap_contended",
    "host_mm_contended",
    "migration_wait",
)

Step = Callable[[], object]


class Together:
    """Threads that start at one barrier.

    ``doing`` are functions that end by themselves; ``meanwhile`` are steps repeated until those
    have ended.  The first exception of any of them is raised here.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.errors: list[BaseException] = []

    def _guarded(self, work: Step, barrier: threading.Barrier) -> None:
        try:
            barrier.wait()
            work()
        except BaseException as error:
            self.errors.append(error)
            self.stop.set()

    def _repeated(self, step: Step) -> Step:
        def loop() -> None:
            while not self.stop.is_set():
                step()

        return loop

    def run(self, doing: list[Step], meanwhile: list[Step]) -> None:
        works = [*doing, *map(self._repeated, meanwhile)]
        barrier = threading.Barrier(len(works))
        threads = [
            threading.Thread(target=self._guarded, args=(work, barrier), daemon=True)
            for work in works
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + TIMEOUT
        for i, thread in enumerate(threads):
            if i == len(doing):
                self.stop.set()
            thread.join(max(0, end - time.monotonic()))
        if self.errors:
            raise self.errors[0]
        assert not any(t.is_alive() for t in threads), "threads wait for each other"


def together(doing: list[Step], meanwhile: list[Step]) -> None:
    Together().run(doing, meanwhile)


@contextmanager
def allowed(*numbers: int) -> Iterator[None]:
    """Errors a call may meet because another thread was faster."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def machine(page_bytes: int = 8, size: str = "16MiB", nodes: int = 4, **more: object) -> Machine:
    return Machine([pm.Node(size, cpus=1) for _ in range(nodes)], page_bytes=page_bytes, **more)


def addresses(base: int, n: int) -> np.ndarray:
    return base + np.arange(n, dtype=np.uint64) * np.uint64(PAGE)


def mover(by: Process, base: int, n: int, *, pid: Process | int = 0, seed: int = 0) -> Step:
    """Steps that send runs of pages to a node each; whatever status comes is fine."""
    rng = np.random.default_rng(seed)
    pages = addresses(base, n)
    flags = pm.MPOL_MF_MOVE_ALL

    def step() -> None:
        nodes = np.repeat(rng.integers(0, by.machine.nr_nodes, (n + 15) // 16), 16)[:n]
        with allowed(ENOMEM, ESRCH, EINVAL):
            by.move_pages(pages, nodes.astype(np.int32), flags, pid=pid)

    return step


def writer(by: Process, base: int, n: int, rounds: int, mark: int) -> Step:
    """Write a number to every page of a range nobody else writes, and read it back, many times."""

    def work() -> None:
        for i in range(rounds * STRESS):
            values = np.arange(n, dtype=np.uint64) | np.uint64((mark << 48) + ((i + 1) << 16))
            assert by.touch(base, n * PAGE, write=True, values=values).done == n
            seen = by.touch(base, n * PAGE).values
            assert seen is not None
            np.testing.assert_array_equal(seen, values)

    return work


def counted(m: Machine, *names: str) -> int:
    return sum(m.counters[name] for name in names)


def meet(m: Machine, doing: list[Step], meanwhile: list[Step], *events: str) -> None:
    """Again until pages have moved and threads waited, or until what is named was counted."""
    wanted = [(event,) for event in events] or [("pgmigrate_success",), WAITED]
    for _ in range(50):
        together(doing, meanwhile)
        m.check(full=True)
        if all(counted(m, *names) for names in wanted):
            return
    pytest.fail(f"the threads never met: {m.counters}")


# ---- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_bytes", [8, 4096])
@pytest.mark.parametrize("width", [1, 64])
def test_writers_and_migrations_in_one_process(page_bytes: int, width: int) -> None:
    m = machine(page_bytes)
    m.width = width
    app = m.spawn()
    n = 512
    base = app.mmap(4 * n * PAGE)
    doing = [writer(app, base + k * n * PAGE, n, 100, k + 1) for k in range(4)]
    everyone = {0, 1, 2, 3}

    def migrate() -> None:
        app.migrate_pages({0, 1}, {2, 3})
        app.migrate_pages({2, 3}, {0, 1})

    def bind() -> None:
        for policy in (pm.Interleave(everyone), pm.Bind([3])):
            app.mbind(base, 4 * n * PAGE, policy, pm.MPOL_MF_MOVE)

    meet(m, doing, [mover(app, base, 4 * n), migrate, bind])


def test_first_faults_of_one_range() -> None:
    """Many threads fault the same untouched pages in; each page is allocated once."""
    m = machine()
    app = m.spawn()
    n = 3000
    for _ in range(10 * STRESS):
        base = app.mmap(n * PAGE)
        before = app._usage()[0]
        together([lambda b=base: app.touch(b, n * PAGE, write=True) for _ in range(4)], [])
        assert app._usage()[0] - before == n
        m.check(full=True)
        app.munmap(base, n * PAGE)
    m.check(full=True)


def test_accesses_note_themselves_during_migrations() -> None:
    """The trace path sets accessed and dirty bits without locks, which turns no entry back."""
    m = machine(0, access_stats=True)
    app = m.spawn()
    n = 1024
    base = app.mmap(n * PAGE)
    app.touch(base, n * PAGE, write=True)
    rng = np.random.default_rng(7)
    traces = [base + rng.integers(0, n * PAGE, 2_000_000).astype(np.uint64) for _ in range(2)]
    doing = [lambda t=trace: app.access(t, write=True) for trace in traces]
    meet(m, doing, [mover(app, base, n), mover(app, base, n, seed=1)])


# ---- forks and exits -----------------------------------------------------------------------------


def test_forks_and_exits_during_migrations() -> None:
    """Children inherit what the parent wrote, write copies of their own, and go; pages move on."""
    m = machine()
    app = m.spawn()
    n = 256
    base = app.mmap(n * PAGE)
    kept = np.arange(n, dtype=np.uint64) + np.uint64(1 << 40)
    app.touch(base, n * PAGE, write=True, values=kept)

    def family(mark: int) -> Step:
        def work() -> None:
            for _ in range(60 * STRESS):
                child = app.fork()
                seen = child.touch(base, n * PAGE).values
                np.testing.assert_array_equal(seen, kept)
                writer(child, base, n // 2, 1, mark)()
                grandchild = child.fork()
                child.exit()
                np.testing.assert_array_equal(
                    grandchild.touch(base + n // 2 * PAGE, n // 2 * PAGE).values, kept[n // 2 :]
                )
                grandchild.exit()

        return work

    meet(m, [family(k + 1) for k in range(3)], [mover(app, base, n), mover(app, base, n, seed=1)])
    np.testing.assert_array_equal(app.touch(base, n * PAGE).values, kept)
    assert counted(m, "cow") > 0
    app.exit()
    m.check(full=True)


def test_processes_end_while_others_move_their_pages() -> None:
    m = machine()
    boss = m.spawn()
    n = 128
    victims: list[Process] = []

    def lives() -> None:
        for _ in range(300 * STRESS):
            process = m.spawn()
            base = process.mmap(n * PAGE, addr=1 << 30)
            process.touch(base, n * PAGE, write=True)
            victims.append(process)
            if len(victims) > 3:
                victims.pop(0).exit()

    def attack() -> None:
        for process in list(victims):
            with allowed(ESRCH, EINVAL, ENOMEM):
                boss.migrate_pages({0, 1}, {2, 3}, pid=process.pid)
            mover(boss, 1 << 30, n, pid=process.pid)()

    meet(m, [lives, lives], [attack, attack], "pgmigrate_success")
    for process in victims:
        process.exit()
    m.check(full=True)


# ---- shared memory and files ---------------------------------------------------------------------


def test_shared_memory_of_a_family() -> None:
    """Four processes share an object; each writes its part, two lock it, two move it."""
    m = machine()
    app = m.spawn()
    n = 128
    base = app.mmap(4 * n * PAGE, shared=True)
    family = [app, *(app.fork() for _ in range(3))]

    def locker(process: Process) -> Step:
        def step() -> None:
            process.mlock(base, 4 * n * PAGE)
            process.munlock(base + n * PAGE, 2 * n * PAGE)
            process.munlock(base, 4 * n * PAGE)

        return step

    doing = [writer(p, base + k * n * PAGE, n, 300, k + 1) for k, p in enumerate(family)]
    meanwhile = [
        mover(family[0], base, 4 * n),
        mover(family[1], base, 4 * n, seed=1),
        locker(family[2]),
        locker(family[3]),
    ]
    meet(m, doing, meanwhile)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_files_are_written_cut_and_moved(kind: str) -> None:
    """Mapped accesses, write(2) and read(2) against truncation, holes, write-back and migration."""
    m = machine()
    n = 128
    file = m.file(kind, n * PAGE)
    processes = [m.spawn() for _ in range(4)]
    bases = [p.mmap(n * PAGE, file=file, shared=True) for p in processes]
    token = np.arange(1, n + 1, dtype=np.uint64)

    def holds(values: np.ndarray | None) -> None:
        """A page reads as its own number, or as a hole."""
        assert values is not None
        good = (values == token[: len(values)]) | (values == 0)
        assert good.all(), values[~good]

    def by_calls(p: Process) -> Step:
        def work() -> None:
            for _ in range(500 * STRESS):
                p.fwrite(file, 0, token)
                holds(p.fread(file, 0, n))

        return work

    def by_mapping(p: Process, base: int) -> Step:
        def work() -> None:
            for _ in range(500 * STRESS):
                p.touch(base, n * PAGE, write=True, values=token)  # may end with SIGBUS
                holds(p.touch(base, n * PAGE).values)

        return work

    def cut() -> None:
        processes[2].ftruncate(file, n // 2 * PAGE)
        processes[2].ftruncate(file, n * PAGE)
        processes[2].punch(file, 8 * PAGE, 16 * PAGE)

    def sync() -> None:
        processes[3].fadvise(file, 0, n * PAGE, "dontneed", sync=True)
        processes[3].madvise(bases[3], n * PAGE, "willneed")

    doing = [by_calls(processes[0]), by_mapping(processes[1], bases[1])]
    meet(m, doing, [cut, sync, mover(processes[1], bases[1], n)], "pgmigrate_success")
    for p in processes:
        p.exit()
    m.check(full=True)


def test_private_copies_of_a_file_that_is_cut() -> None:
    m = machine()
    n = 64
    file = m.file("tmpfs", n * PAGE)
    app = m.spawn()
    app.fwrite(file, 0, 7, n)
    base = app.mmap(n * PAGE, file=file)

    def copies() -> None:
        for _ in range(500 * STRESS):
            app.touch(base, n * PAGE, write=True)
            child = app.fork()
            child.touch(base, n * PAGE, write=True)
            child.exit()

    def cut() -> None:
        app.ftruncate(file, 8 * PAGE)
        app.ftruncate(file, n * PAGE)

    together([copies, copies], [cut, mover(app, base, n)])
    m.check(full=True)


# ---- address spaces ------------------------------------------------------------------------------


def test_mappings_change_under_migrations() -> None:
    """munmap, mprotect, mremap, mlock and madvise of one process, while it and others move it."""
    m = machine()
    app, boss = m.spawn(), m.spawn()
    n = 96
    area = 1 << 32
    kept = app.mmap(n * PAGE, addr=area - n * PAGE)

    def change(k: int) -> Step:
        base = area + k * 16 * n * PAGE
        values = np.arange(n, dtype=np.uint64) | np.uint64((k + 1) << 48)

        def work() -> None:
            for _ in range(100 * STRESS):
                app.mmap(n * PAGE, addr=base)
                app.touch(base, n * PAGE, write=True, values=values)
                app.mprotect(base + 8 * PAGE, 16 * PAGE, "r")
                app.mlock(base, 32 * PAGE)
                app.mprotect(base, 24 * PAGE, "")
                app.mprotect(base, n * PAGE, "rw")
                app.munlock(base + 4 * PAGE, 20 * PAGE)
                app.munlock(base, 32 * PAGE)
                np.testing.assert_array_equal(app.touch(base, n * PAGE).values, values)
                moved = app.mremap(
                    base, n * PAGE, n * PAGE, maymove=True, new_addr=base + 8 * n * PAGE
                )
                np.testing.assert_array_equal(app.touch(moved, n * PAGE).values, values)
                app.madvise(moved, 8 * PAGE, "dontneed")
                app.touch(moved, 8 * PAGE, write=True)
                app.munmap(moved + 16 * PAGE, 8 * PAGE)
                app.munmap(moved, n * PAGE)

        return work

    def migrate() -> None:
        with allowed(ENOMEM):
            boss.migrate_pages({0, 1}, {2, 3}, pid=app)
            boss.migrate_pages({2, 3}, {0, 1}, pid=app)

    doing = [change(0), change(1), writer(app, kept, n, 400, 9)]
    meanwhile = [migrate] + [
        mover(boss, area + k * 8 * n * PAGE, n, pid=app, seed=k) for k in range(3)
    ]
    meet(m, doing, meanwhile)


def test_policies_change_while_faults_ask_them() -> None:
    """Task, VMA and shared policies are whole at any time: pages land where one of them says."""
    m = machine(0)
    app, other = m.spawn(), m.spawn()
    n = 256
    file = m.file("tmpfs", n * PAGE)
    base, own = app.mmap(n * PAGE, file=file, shared=True), app.mmap(n * PAGE)
    far = other.mmap(n * PAGE, file=file, shared=True)
    policies = [pm.Bind([1]), pm.Interleave([1, 2]), pm.Preferred(2), pm.Interleave([2])]

    def faults() -> None:
        for _ in range(200 * STRESS):
            app.touch(base, n * PAGE, write=True)
            app.touch(own, n * PAGE, write=True)
            app.madvise(own, n * PAGE, "dontneed")
            app.punch(file, 0, n * PAGE)

    def change() -> None:
        for policy in policies:
            other.mbind(far, n // 2 * PAGE, policy)
            app.mbind(own + n // 2 * PAGE, n // 2 * PAGE, policy)
            app.set_mempolicy(policy)
            other.mbind(far + n // 2 * PAGE, n // 2 * PAGE, policy, pm.MPOL_MF_MOVE)

    change()
    other.set_mempolicy(pm.Bind([1]))
    before = m.free(3)
    together([faults, faults], [change, change])
    assert m.free(3) == before
    m.check(full=True)


def test_frames_move_whoever_uses_them() -> None:
    """Migration by frame number, with no process in mind, against faults, forks and exits."""
    m = machine(size="4MiB")
    app = m.spawn()
    n = 256
    base = app.mmap(2 * n * PAGE)
    kept = app.mmap(n * PAGE, shared=True)
    values = np.arange(n, dtype=np.uint64) | np.uint64(1 << 48)
    app.touch(kept, n * PAGE, write=True, values=values)
    pfns = np.arange(1, 4096)
    rng = np.random.default_rng(3)

    def sweep() -> None:
        at = rng.permutation(pfns)[:512]
        with allowed(ENOMEM):
            m.migrate_frames(at, rng.integers(0, 4, 512))

    def children() -> None:
        for _ in range(60 * STRESS):
            child = app.fork()
            np.testing.assert_array_equal(child.touch(kept, n * PAGE).values, values)
            child.touch(base, n * PAGE, write=True)
            child.exit()

    doing = [children, children, writer(app, base + n * PAGE, n, 60, 2)]
    meet(m, doing, [sweep, sweep], "pgmigrate_success")
    app.exit()
    m.check(full=True)


# ---- pins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pipe", "uring"])
def test_pinned_pages_stay(how: str) -> None:
    """Between pin and unpin a page keeps its frame, whoever tries to move it."""
    m = machine()
    app = m.spawn()
    n = 16
    base = app.mmap(4 * n * PAGE)
    app.touch(base, 4 * n * PAGE, write=True)

    def device(k: int) -> Step:
        start = base + k * n * PAGE

        def frames() -> np.ndarray:
            return app._ptes(start, n) >> np.uint64(12) & np.uint64((1 << 40) - 1)

        def work() -> None:
            for _ in range(30 * STRESS):
                pin = app.pin(start, n * PAGE, how)
                app.touch(start, n * PAGE)  # waits until a migration that saw the pin has given up
                held = frames()
                time.sleep(0.001)
                app.touch(start, n * PAGE)
                later = frames()
                present = (held != 0) & (later != 0)
                np.testing.assert_array_equal(later[present], held[present])
                app.unpin(pin)

        return work

    movers = [mover(app, base, 4 * n), mover(app, base, 4 * n, seed=1)]
    meet(m, [device(k) for k in range(3)], movers, "pgmigrate_fail")
    app.exit()
    m.check(full=True)


# ---- frames run out ------------------------------------------------------------------------------


def test_last_frames_are_shared_out() -> None:
    """Threads and migrations take frames to the last: none is lost or used twice."""
    m = machine(0, size="2MiB")
    processes = [m.spawn(cpu=k) for k in range(4)]
    n = 700
    bases = [p.mmap(n * PAGE) for p in processes]

    def fill(p: Process, base: int) -> Step:
        def work() -> None:
            for _ in range(100 * STRESS):
                if p.touch(base, n * PAGE, write=True).signal:
                    return  # no frame was left: the process was killed
                p.madvise(base, n * PAGE, "dontneed")

        return work

    boss = m.spawn()
    doing = [fill(p, base) for p, base in zip(processes, bases, strict=True)]
    together(doing, [mover(boss, b, n, pid=p) for p, b in zip(processes, bases, strict=True)])
    m.check(full=True)
    for p in [boss, *processes]:
        if p.alive:
            p.exit()
        else:
            p.reap()
    m.check(full=True)
    assert sum(m.free(nid) for nid in range(4)) == 8 * pm.MiB - PAGE


# ---- those who share nothing ---------------------------------------------------------------------


def test_disjoint_processes_wait_for_nothing() -> None:
    """They share the zone locks of the nodes, taken once for many pages, and nothing else."""
    m = machine(nodes=2)
    n = 1500
    processes = [m.spawn(cpu=k) for k in range(2)]

    def live(p: Process, k: int) -> Step:
        def work() -> None:
            for _ in range(40 * STRESS):
                base = p.mmap(n * PAGE)
                p.touch(base, n * PAGE, write=True)
                p.move_pages(addresses(base, n), 1 - k)
                p.move_pages(addresses(base, n), k)
                p.munmap(base, n * PAGE)

        return work

    together([live(p, k) for k, p in enumerate(processes)], [])
    m.check(full=True)
    assert counted(m, "pgmigrate_success") == 2 * 40 * STRESS * 2 * n
    assert counted(m, *WAITED) == 0
    assert m.counters["lock_zone"] < m.counters["pgalloc"] / 16
