"""Real threads on real locks: migrations against everything that may happen to a page meanwhile."""

import faulthandler
import threading
import time
from errno import EACCES, EBUSY, EINVAL, ENODEV, ENOENT, ENOMEM, ESRCH
from itertools import count

import numpy as np
import pytest

import pagemig as pm
from pagemig import Process
from pagemig.system.frames import flag_bit
from support.together import (
    PAGE,
    STRESS,
    TIMEOUT,
    WAITED,
    Step,
    addresses,
    allowed,
    changer,
    counted,
    family,
    machine,
    meet,
    mover,
    rounds,
    short_lives,
    together,
    writer,
)

pytestmark = pytest.mark.threads

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

    doing = [family(app, base, kept, 60, k + 1) for k in range(3)]
    meet(m, doing, [mover(app, base, n), mover(app, base, n, seed=1)])
    np.testing.assert_array_equal(app.touch(base, n * PAGE).values, kept)
    assert counted(m, "cow") > 0
    app.exit()
    m.check(full=True)


def test_processes_end_while_others_move_their_pages() -> None:
    m = machine()
    boss = m.spawn()
    base, n = 1 << 30, 128
    victims: list[Process] = []

    def attack() -> None:
        for process in list(victims):
            with allowed(ESRCH, EINVAL, ENOMEM):
                boss.migrate_pages({0, 1}, {2, 3}, pid=process.pid)
            mover(boss, base, n, pid=process.pid)()

    lives = short_lives(m, base, n, 300, victims)
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

    def migrate() -> None:
        with allowed(ENOMEM):
            boss.migrate_pages({0, 1}, {2, 3}, pid=app)
            boss.migrate_pages({2, 3}, {0, 1}, pid=app)

    doing = [changer(app, area + k * 16 * n * PAGE, n, 100, k + 1) for k in (0, 1)]
    doing.append(writer(app, kept, n, 400, 9))
    meanwhile = [migrate] + [
        mover(boss, area + k * 8 * n * PAGE, n, pid=app, seed=k) for k in range(3)
    ]
    meet(m, doing, meanwhile)


@pytest.mark.parametrize("shared", [False, True], ids=["anonymous", "file"])
def test_mappings_are_asked_while_processes_come_and_go(shared: bool) -> None:
    """The tree of mappings changes under the walk; those that stay are in each answer."""
    m = machine()
    app = m.spawn()
    file = m.file("tmpfs", PAGE) if shared else None
    base = app.mmap(PAGE, file=file, shared=shared)
    app.touch(base, PAGE, write=True)
    pfn = int(app.frames(base, 1)[0])
    stay = {app, *(app.fork() for _ in range(200))}
    for process in stay:
        process.touch(base, PAGE)  # a fork leaves pages of files to later faults

    def ask() -> None:
        for _ in range(300 * STRESS):
            found = m.mappings(pfn)
            assert {address for _, address in found} == {base}
            assert stay <= {process for process, _ in found}
            assert len(found) == len(dict(found))

    def come_and_go() -> None:
        child = app.fork()
        child.touch(base, PAGE)
        child.exit()

    together([ask], [come_and_go] * 2)
    m.check(full=True)


def test_requests_of_2006_while_a_node_goes_and_returns() -> None:
    """A request finds the node there or gone (ENOENT: all pages are where they shall be)."""
    m = machine(kernel="2.6.18")
    app = m.spawn()
    n = 64
    base = app.mmap(n * PAGE)
    app.touch(base, n * PAGE, write=True)
    pages = addresses(base, n)

    def move() -> None:
        for k in range(300 * STRESS):
            with allowed(ENODEV, EACCES, ENOENT, ENOMEM):
                app.move_pages(pages, (k % 2) * 3)

    def away() -> None:
        with allowed(EBUSY):
            m.offline(3)
            m.online(3)

    together([move], [away])
    m.check(full=True)


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
    """Between pin and unpin a page keeps its frame, whatever call tries to move it."""
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


def test_pins_of_two_machines() -> None:
    """Handles are the same small numbers on both, and each machine closes only its own."""
    machines = [machine(0), machine(0)]
    apps = [m.spawn() for m in machines]
    n = 8
    bases = [app.mmap(n * PAGE) for app in apps]
    latest: list[pm.Pin | None] = [None, None]
    numbers: list[set[int]] = [set(), set()]
    refused = [0, 0]

    def devices(k: int) -> Step:
        def work() -> None:
            for _ in range(300 * STRESS):
                pin = latest[k] = apps[k].pin(bases[k], n * PAGE)
                numbers[k].add(pin.handle)
                if foreign := latest[1 - k]:
                    with pytest.raises(ValueError, match="same machine"):
                        apps[k].unpin(foreign)
                    refused[k] += 1
                apps[k].unpin(pin)

        return work

    for _ in rounds():
        together([devices(0), devices(0), devices(1), devices(1)], [])
        for m, app, base in zip(machines, apps, bases, strict=True):
            m.check(full=True)
            frames = app.frames(base, n)
            assert (m.frames.refcount[frames] == 1).all()
        if all(refused) and numbers[0] & numbers[1] and all(len(seen) > 1 for seen in numbers):
            return
    pytest.fail(f"the devices never met: {numbers}, {refused}")


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


# ---- records that are handed out again -----------------------------------------------------------


def test_a_call_keeps_the_record_of_its_process() -> None:
    """The record is not reused during a call; afterwards the old object does not reach it."""
    m = machine()
    victim = m.spawn()
    n = 64
    base = victim.mmap(n * PAGE)
    victim.touch(base, n * PAGE, write=True)
    index, next_owners = victim._task, []

    def ends(name: str, _pfns: list[int]) -> None:
        if name == "unmap" and victim.alive:
            victim.exit()
            next_owners.extend(m.spawn(cpu=k, uid=k) for k in range(1, 4))

    m.at_step(ends)
    assert (victim.move_pages(addresses(base, n), 1).status == 1).all()
    m.at_step(None)
    assert index not in [process._task for process in next_owners]
    later = m.spawn(cpu=3, uid=77)
    assert later._task == index  # now it is free
    assert not victim.alive
    assert victim._mm == 0
    for ask in (
        victim._cred,
        victim._get_cpu,
        victim._faults,
        victim._usage,
        victim._get_task_policy,
    ):
        with pytest.raises(pm.ProcessGoneError):
            ask()
    victim._exit()
    assert later.alive
    m.check(full=True)


def test_nobody_reads_the_record_of_the_next_owner() -> None:
    """Processes come and go in a few records; a call on one gets its own values or none."""
    m = machine()
    boss = m.spawn()
    n = 32
    pages = addresses(1 << 30, n)
    living: list[tuple[int, Process]] = []
    owners: dict[int, set[int]] = {}
    late = [0, 0]

    def lives(first: int) -> Step:
        def work() -> None:
            for k in range(first, first + 600 * STRESS):
                process = m.spawn(cpu=k % 4, uid=k)
                process.set_mempolicy(pm.Bind([k % 4]))
                process.touch(process.mmap(n * PAGE, addr=1 << 30), n * PAGE, write=True)
                owners.setdefault(process._task, set()).add(process.pid)
                living.append((k, process))
                if len(living) > 4:
                    living.pop(0)[1].exit()

        return work

    def asks() -> None:
        for k, process in list(living):
            try:
                for _ in range(20):
                    assert process._cred()[:5] == (k, k, k, k, 0)
                    assert process._get_cpu() == k % 4
                    assert process._get_task_policy()[2] == 1 << k % 4
            except pm.ProcessGoneError:
                late[0] += 1

    def moves() -> None:
        for k, process in list(living):
            try:
                statuses = boss.move_pages(pages, k % 3, pm.MPOL_MF_MOVE_ALL, pid=process).status
                assert ((statuses == k % 3) | (statuses < 0)).all()
            except OSError as error:
                assert error.errno in (ESRCH, EINVAL), error  # never EACCES: nodes of nobody
                late[1] += error.errno == ESRCH

    for round_ in rounds():
        together([lives(1 + 100_000 * round_), lives(50_000 + 100_000 * round_)], [asks, moves])
        m.check(full=True)
        if all(late):
            break
    assert all(late), "no call came too late"
    assert max(map(len, owners.values())) > 50  # records were handed out again and again


@pytest.mark.parametrize("zombie", [False, True])
def test_calls_that_outlive_their_process(zombie: bool) -> None:
    """Others go on while one thread ends the process: the next owner inherits nothing of it."""
    m = machine(0)
    n = 1024
    outlived = [0]

    def life() -> None:
        app = m.spawn()
        base = app.mmap(n * PAGE)
        running = threading.Barrier(3)

        def works(call: Step) -> Step:
            def work() -> None:
                running.wait()
                try:
                    while True:
                        call()
                        outlived[0] += not app.alive
                except pm.ProcessGoneError:
                    pass

            return work

        def again() -> None:
            assert app.touch(base, n * PAGE, write=True).done == n
            app.madvise(base, n * PAGE, "dontneed")

        def ends() -> None:
            running.wait()
            time.sleep(0.002)
            app.exit(zombie=zombie)
            if zombie:
                reaper = threading.Thread(target=app.reap)
                reaper.start()
                reaper.join()
            following = [m.spawn(uid=5) for _ in range(3)]
            time.sleep(0.002)
            for process in following:
                assert process._faults() == (0, 0)
                assert process._usage() == (0, 0, 0, 0, 0)
                process.exit()

        together([works(again), works(lambda: mover(app, base, n)()), ends], [])

    for _ in rounds():
        life()
        m.check(full=True)
        if outlived[0] >= 10 * STRESS:
            return
    pytest.fail("no call outlived its process")


# ---- what is read without the lock of who writes it ----------------------------------------------


def test_entries_are_whole_while_they_change() -> None:
    """A copy of entries has each as it was at some time: a page, or a migration entry."""
    m = machine(0)
    app = m.spawn()
    n = 512
    base = app.mmap(n * PAGE)
    app.touch(base, n * PAGE, write=True)
    everywhere = base + np.random.default_rng(5).integers(0, n * PAGE, 200_000).astype(np.uint64)
    pfn = np.uint64(((1 << 52) - 1) & -PAGE)
    moving = [0]

    def looks() -> None:
        entries = app._ptes(base, n)
        present = entries & np.uint64(1) != 0
        frames = (entries & pfn) >> np.uint64(12)
        assert ((frames > 0) & (frames < 4 * 4096))[present].all()
        assert (entries[~present] >> np.uint64(59) >= 29).all()  # migration entries
        moving[0] += int((~present).sum())

    def accesses() -> None:
        for k in range(40 * STRESS):
            app.access(everywhere, write=bool(k % 2))

    for _ in rounds():
        together([accesses], [mover(app, base, n), mover(app, base, n, seed=1), looks])
        m.check(full=True)
        if moving[0]:
            return
    pytest.fail("no entry was on the move when it was looked at")


@pytest.mark.parametrize("shared", [False, True])
def test_protection_holds_while_pages_move(shared: bool) -> None:
    """After mprotect no entry allows what the mapping does not, whoever was restoring it.

    Each page has a table of its own, and migrations go down where mprotect goes up: they meet.
    """
    m = machine(0)
    app, boss = m.spawn(), m.spawn()
    n, span = 64, 512 * PAGE
    base = app.mmap(n * span, shared=shared)
    pages = base + np.arange(n, dtype=np.uint64) * np.uint64(span)
    present, writable = np.uint64(1), np.uint64(3)
    rng = np.random.default_rng(9)
    app.access(pages, write=True)

    def entries() -> np.ndarray:
        return app._ptes(base, n * 512)[::512]

    def protects() -> None:
        for _ in range(1000 * STRESS):
            app.mprotect(base, n * span, "r")
            assert (entries() & writable != writable).all()
            app.mprotect(base, n * span, "")
            assert not (entries() & present).any()
            app.mprotect(base, n * span, "rw")

    def moves() -> None:
        boss.move_pages(pages[::-1], int(rng.integers(4)), pm.MPOL_MF_MOVE_ALL, pid=app)

    meet(m, [protects], [moves, moves], "pgmigrate_success", "host_ptl_contended")
    assert app.access(pages, write=True).done == n


@pytest.mark.parametrize("kernel", list(pm.KERNELS))
def test_what_processors_note_is_not_lost(kernel: str) -> None:
    """Writes set dirty bits without a lock, while entries move, are read, and lose their rights.

    What was written is dirty afterwards: in its entry, or in its page where that has moved.
    """
    m = machine(0, kernel=kernel)
    app = m.spawn()
    n = 2048
    dirty, flag = np.uint64(1 << 6), int(flag_bit("dirty"))
    rng = np.random.default_rng(3)
    stopped, looked = [0], [0]

    def written(base: int, seed: int) -> Step:
        pages = np.random.default_rng(seed).permutation(addresses(base, n))

        def work() -> None:
            at = 0
            while at < n:
                result = app.access(pages[at:], write=True)
                at += result.done
                stopped[0] += result.signal == "SIGSEGV"

        return work

    def frames(base: int) -> np.ndarray:
        found = app.frames(base, n)
        return found[found >= 0]

    def notes(base: int) -> np.ndarray:
        """Is a page known to be dirty?  Its entry first: what is there may go to the page."""
        return (app._ptes(base, n) & dirty != 0) | (m.frames.flags[frames(base)] & flag != 0)

    def one_round(seed: int) -> None:
        file = m.file("tmpfs", n * PAGE)
        base = app.mmap(n * PAGE, shared=True, file=file)
        app.touch(base, n * PAGE)
        assert not notes(base).any()

        def protects() -> None:
            app.mprotect(base, n * PAGE, "r")
            app.mprotect(base, n * PAGE, "rw")

        def looks() -> None:
            seen = app.pagemap(base, n) >> np.uint64(62)
            away = 0 if m.profile.engine else 1  # taken out to be faulted in again, or on the move
            assert ((seen == away) | (seen == 2)).all()
            looked[0] += int((seen == away).sum())

        def moves() -> None:
            m.migrate_frames(at := frames(base), rng.integers(0, m.nr_nodes, len(at)))

        writers = [written(base, seed), written(base, seed + 1)]
        together(writers, [protects, looks, moves])
        m.check(full=True)
        app.touch(base, n * PAGE)
        assert notes(base).all()
        app.munmap(base, n * PAGE)
        file.close()

    for seed in rounds():
        one_round(seed)
        met = looked[0] + counted(m, "migration_wait", "host_ptl_contended")
        if seed >= 3 * STRESS and met and stopped[0] and counted(m, "pgmigrate_success"):
            return
    pytest.fail(f"writes were stopped {stopped[0]} times: {m.counters}")


def test_files_are_filled_while_the_policy_changes() -> None:
    """write(2) asks for the policy without mmap_lock: nodes and cursor are always of one policy."""
    m = machine(0, size="8MiB")
    app = m.spawn()
    n = 256
    files = [m.file(kind, n * PAGE) for kind in ("ext4", "tmpfs")]
    policies = [pm.Interleave([1]), pm.Bind([2]), pm.Interleave([1, 2]), pm.Preferred(1)]
    changes = [0]

    def fills(file: pm.File) -> Step:
        def work() -> None:
            for k in count():
                if k >= 1000 * STRESS and changes[0] > 100 and counted(m, "numa_interleave"):
                    return
                app.fwrite(file, 0, 1, n)
                app.ftruncate(file, 0)

        return work

    def change() -> None:
        for policy in policies:
            app.set_mempolicy(policy)
            assert app._get_task_policy()[2] == sum(1 << k for k in policy.nodes)
            changes[0] += 1

    app.set_mempolicy(policies[0])
    before = m.free(0), m.free(3)
    together([fills(file) for file in files], [change])
    assert (m.free(0), m.free(3)) == before
    m.check(full=True)


def test_copies_past_the_end_of_a_file_go() -> None:
    """A private copy made while a file is cut does not outlive its page."""
    m = machine(4096)
    n = 256
    file = m.file("tmpfs", n * PAGE)
    app, other = m.spawn(), m.spawn()
    base = app.mmap(n * PAGE, file=file)
    done: set[int] = set()
    together_now = threading.Barrier(2)

    def copies() -> None:
        for _ in range(400 * STRESS):
            together_now.wait()
            while done.add(k := app.touch(base, n * PAGE, write=True).done) or k == n:
                app.madvise(base, n * PAGE, "dontneed")
            together_now.wait()

    def cuts() -> None:
        for k in range(400 * STRESS):
            other.ftruncate(file, n * PAGE)
            together_now.wait()
            while not (app._ptes(base, n).any() or together_now.broken):
                time.sleep(0)  # cut a touch on its way, not a file that nobody has touched yet
            other.ftruncate(file, k % 8 * PAGE)
            together_now.wait()
            if app._ptes(base + 8 * PAGE, n - 8).any():
                together_now.abort()
                raise AssertionError(f"copies are left past page {k % 8}")

    together([copies, cuts], [])
    m.check(full=True)
    if not done - {*range(8), n}:
        pytest.skip("no cut met a touch on its way: this host has run one thread at a time")


# ---- calls and the interpreter -------------------------------------------------------------------


def test_an_error_of_a_hook_comes_out_of_the_call_it_interrupted() -> None:
    m = machine()
    a, b = m.spawn(), m.spawn()
    bases = [p.mmap(PAGE) for p in (a, b)]
    for p, base in zip((a, b), bases, strict=True):
        p.touch(base, PAGE, write=True)
    raised, done = threading.Event(), threading.Event()
    mine = threading.get_ident()

    def hook(_name: str, _pfns: list[int]) -> None:
        if threading.get_ident() == mine:
            if not raised.is_set():
                raised.set()
                raise KeyError("of a")
            assert done.wait(TIMEOUT)

    def other() -> None:
        assert raised.wait(TIMEOUT)
        try:
            seen.append(b.move_pages([bases[1]], 1).status.tolist())
        except BaseException as error:
            seen.append(error)
        done.set()

    seen: list[object] = []
    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    m.at_step(hook)
    with pytest.raises(KeyError, match="of a"):
        a.move_pages([bases[0]], 1)
    thread.join(TIMEOUT)
    assert seen == [[1]]
    m.at_step(None)
    m.check(full=True)


def test_errors_of_two_hooks_at_once() -> None:
    """Both calls are under way when the hook raises in each: every thread gets its own error."""
    m = machine()
    inside = threading.Barrier(2)
    met = [0]

    def hook(name: str, _pfns: list[int]) -> None:
        if name == "copy":
            inside.wait(TIMEOUT)
            met[0] += 1
            raise KeyError(threading.get_ident())

    def moves(app: Process) -> Step:
        base = app.mmap(PAGE)
        app.touch(base, PAGE, write=True, values=7)

        def work() -> None:
            for k in range(100 * STRESS):
                with pytest.raises(KeyError) as caught:
                    app.move_pages([base], 1 - k % 2)
                assert caught.value.args == (threading.get_ident(),)
                assert app.touch(base, PAGE).values.tolist() == [7]

        return work

    works = [moves(m.spawn()) for _ in range(2)]
    m.at_step(hook)
    together(works, [])
    m.at_step(None)
    assert met[0] == 200 * STRESS
    m.check(full=True)


def test_who_waits_for_a_lock_lets_python_run() -> None:
    """A hook needs the interpreter under mmap_lock: nobody may wait for that lock with it."""
    m = machine()
    app = m.spawn()
    base = app.mmap(PAGE)
    app.touch(base, PAGE, write=True)
    held = threading.Event()

    def hook(_name: str, _pfns: list[int]) -> None:
        held.set()
        while thread.is_alive() and not counted(m, "host_mm_contended"):
            time.sleep(0.001)

    seen: list[object] = []

    def looks() -> None:
        assert held.wait(TIMEOUT)
        seen.append(app.vmas()[0].policy)
        seen.append(len(app.pagemap(base, 1)))

    thread = threading.Thread(target=looks, daemon=True)
    thread.start()
    m.at_step(hook)
    faulthandler.dump_traceback_later(TIMEOUT, exit=True)  # nothing else could end the two
    app.mbind(base, PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE)
    thread.join(TIMEOUT)
    faulthandler.cancel_dump_traceback_later()
    assert seen == [pm.Bind([1]), 1]


# ---- those who share nothing ---------------------------------------------------------------------


def test_disjoint_processes_wait_for_nothing() -> None:
    """They share the zone locks of the nodes, taken once for many pages, and nothing else."""
    m = machine(nodes=2)
    n = 1500
    processes = [m.spawn(cpu=k) for k in range(2)]
    side_by_side = threading.Barrier(2)

    def live(p: Process, k: int) -> Step:
        def work() -> None:
            for _ in range(40 * STRESS):
                side_by_side.wait(TIMEOUT)
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
