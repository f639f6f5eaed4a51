"""Real threads under the kernels of 2006: their engines against all that touches a page.

Every test runs while swap devices are used and taken out of use, since today's profiles have none.
"""

from errno import EAGAIN, EBUSY, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, ESRCH

import numpy as np
import pytest

import pagemig as pm
from pagemig import Machine, Process
from support.together import (
    PAGE,
    STRESS,
    WAITED,
    Step,
    addresses,
    allowed,
    changer,
    counted,
    family,
    machine,
    meet,
    rounds,
    short_lives,
    together,
    writer,
)

pytestmark = [
    pytest.mark.threads,
    pytest.mark.parametrize("kernel", ["2.6.17", "2.6.17-mm", "2.6.18-ia64", "pmig"]),
]

#: What a call answers when pages do not move: to be expected while others hold them.
BUSY = (EAGAIN, EBUSY, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, ESRCH)
WAITED_2006 = (*WAITED, "host_swap_contended")
SWAPPED = "pswpin", "pswpout"


def old_machine(kernel: str, page_bytes: int = 8, **more: object) -> Machine:
    more.setdefault("swap", ["2MiB", "1MiB"])
    return machine(page_bytes, kernel=kernel, **more)


def mover(by: Process, base: int, n: int, *, pid: Process | int = 0, seed: int = 0) -> Step:
    """Steps that send pages to random nodes: by move_pages where there is one, else mbind."""
    rng = np.random.default_rng(seed)
    pages = addresses(base, n)

    def step() -> None:
        nodes = np.repeat(rng.integers(0, by.machine.nr_nodes, (n + 15) // 16), 16)[:n]
        with allowed(*BUSY):
            if "move_pages" in by.machine.profile.calls:
                by.move_pages(pages, nodes.astype(np.int32), pm.MPOL_MF_MOVE_ALL, pid=pid)
            elif not pid:
                by.mbind(base, n * PAGE, pm.Interleave({*nodes[:32:16]}), pm.MPOL_MF_MOVE_ALL)
            else:
                by.migrate_pages({0, 1}, {2, 3}, pid=pid)
                by.migrate_pages({2, 3}, {0, 1}, pid=pid)

    return step


def migrator(by: Process, pid: Process | int = 0) -> Step:
    """Steps of migrate_pages there and back."""

    def step() -> None:
        for old, new in (({0, 1}, {2, 3}), ({2, 3}, {0, 1})):
            with allowed(*BUSY):
                by.migrate_pages(old, new, pid=pid)

    return step


def in_use(m: Machine) -> np.ndarray:
    return np.flatnonzero(m.frames.refcount > 0)[1:]


def crashing(m: Machine, step: Step) -> Step:
    """Through 2.6.22 a page without a mapping, truncated or just read from swap, is a crash."""

    def work() -> None:
        try:
            step()
        except pm.KernelBug:
            assert m.profile.truncated_crashes

    return work


def sweeper(m: Machine, seed: int = 0) -> Step:
    """Steps that move some frames without a process, and swap some others out."""
    rng = np.random.default_rng(seed)

    def step() -> None:
        move, evict = np.array_split(rng.permutation(in_use(m))[:256], 2)
        with allowed(*BUSY):
            m.migrate_frames(move, rng.integers(0, m.nr_nodes, len(move)))
        m.swap_out(evict)

    return crashing(m, step)


def swapper(m: Machine) -> Step:
    """Steps that take a device out of use and give it back."""

    def step() -> None:
        for device in range(len(m.swap)):
            m.swapoff(device)
            m.swapon(device)

    return step


# ---- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_bytes", [8, 4096])
def test_writers_migrations_and_swap(kernel: str, page_bytes: int) -> None:
    """What a page holds goes with it: to another node, to a device, and back."""
    m = old_machine(kernel, page_bytes)
    app = m.spawn()
    n = 128
    base = app.mmap(2 * n * PAGE)
    doing = [writer(app, base + k * n * PAGE, n, 50, k + 1) for k in range(2)]
    meanwhile = [mover(app, base, 2 * n), migrator(app), sweeper(m), swapper(m)]
    meet(m, doing, meanwhile, "pgmigrate_success", *SWAPPED, WAITED_2006)


def test_shared_memory_of_a_family(kernel: str) -> None:
    """Four processes share an object; each writes its part, two lock it, two move it."""
    m = old_machine(kernel)
    app = m.spawn()
    n = 64
    base = app.mmap(4 * n * PAGE, shared=True)
    family = [app, *(app.fork() for _ in range(3))]

    def locks() -> None:
        family[2].mlock(base, 2 * n * PAGE)
        family[2].munlock(base + n * PAGE, n * PAGE)
        family[2].munlock(base, n * PAGE)

    doing = [writer(p, base + k * n * PAGE, n, 50, k + 1) for k, p in enumerate(family)]
    meanwhile = [mover(family[0], base, 4 * n), migrator(family[1]), locks, sweeper(m)]
    meet(m, doing, meanwhile, "pgmigrate_success", WAITED_2006)


def assert_no_slot_is_lost(m: pm.Machine) -> None:
    """All processes are gone.

    free_swap_cache tries the page's lock: one that another holds at munmap or exit stays in the
    cache, for swapoff.
    """
    swapper(m)()
    assert all(device.used == 0 for device in m.swap)
    m.check(full=True)


# ---- forks and exits -----------------------------------------------------------------------------


def test_forks_and_exits(kernel: str) -> None:
    """Children inherit what the parent wrote wherever it is, write copies of their own, and go."""
    m = old_machine(kernel)
    app = m.spawn()
    n = 64
    base = app.mmap(n * PAGE)
    kept = np.arange(n, dtype=np.uint64) + np.uint64(1 << 40)
    app.touch(base, n * PAGE, write=True, values=kept)

    meanwhile = [mover(app, base, n), migrator(app), sweeper(m), swapper(m)]
    doing = [family(app, base, kept, 20, mark) for mark in (1, 2)]
    meet(m, doing, meanwhile, "pgmigrate_success", *SWAPPED, WAITED_2006)
    np.testing.assert_array_equal(app.touch(base, n * PAGE).values, kept)
    assert counted(m, "cow") > 0
    app.exit()
    m.check(full=True)
    assert_no_slot_is_lost(m)


def test_processes_end_while_others_move_and_swap_them(kernel: str) -> None:
    m = old_machine(kernel)
    boss = m.spawn()
    base, n = 1 << 30, 64
    victims: list[Process] = []

    def attack() -> None:
        for process in list(victims):
            migrator(boss, process.pid)()
            mover(boss, base, n, pid=process.pid)()

    lives = short_lives(m, base, n, 60, victims)
    meanwhile = [attack, attack, sweeper(m), swapper(m)]
    meet(m, [lives, lives], meanwhile, "pgmigrate_success", "pswpout", WAITED_2006)
    for process in victims:
        process.exit()
    m.check(full=True)
    assert_no_slot_is_lost(m)


# ---- address spaces ------------------------------------------------------------------------------


def test_mappings_change(kernel: str) -> None:
    """munmap, mprotect, mremap, mlock and madvise of a process that is moved and swapped out."""
    m = old_machine(kernel)
    app, boss = m.spawn(), m.spawn()
    n = 64
    area = 1 << 32
    kept = app.mmap(n * PAGE, addr=area - n * PAGE)

    doing = [changer(app, area + k * 16 * n * PAGE, n, 20, k + 1) for k in (0, 1)]
    doing.append(writer(app, kept, n, 100, 9))
    meanwhile = [migrator(boss, app), mover(boss, area, n, pid=app), sweeper(m), swapper(m)]
    meet(m, doing, meanwhile, "pgmigrate_success", "pswpout", WAITED_2006)
    app.exit()
    m.check(full=True)
    assert_no_slot_is_lost(m)


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "ramfs"])
def test_files_are_written_cut_and_moved(kernel: str, kind: str) -> None:
    """Calls and mappings against truncation, write-back, eviction and migration."""
    m = old_machine(kernel)
    n = 64
    file = m.file(kind, n * PAGE)
    processes = [m.spawn() for _ in range(4)]
    bases = [p.mmap(n * PAGE, file=file, shared=True) for p in processes]
    token = np.arange(1, n + 1, dtype=np.uint64)

    def holds(values: np.ndarray | None) -> None:
        """A page reads as its own number, or as a hole."""
        assert values is not None
        good = (values == token[: len(values)]) | (values == 0)
        assert good.all(), values[~good]

    def by_calls() -> None:
        for _ in range(100 * STRESS):
            processes[0].fwrite(file, 0, token)
            holds(processes[0].fread(file, 0, n))

    def by_mapping() -> None:
        for _ in range(100 * STRESS):
            processes[1].touch(bases[1], n * PAGE, write=True, values=token)  # or ends with SIGBUS
            holds(processes[1].touch(bases[1], n * PAGE).values)

    def cut() -> None:
        processes[2].ftruncate(file, n // 2 * PAGE)
        processes[2].ftruncate(file, n * PAGE)

    def sync() -> None:
        processes[3].fadvise(file, 0, n * PAGE, "dontneed", sync=True)
        processes[3].madvise(bases[3], n * PAGE, "willneed")

    meanwhile = [
        cut,
        sync,
        crashing(m, mover(processes[1], bases[1], n)),
        crashing(m, migrator(processes[3])),
        sweeper(m),
    ]
    # A dirty page stays where its file system can neither move nor write it.
    met = "pgmigrate_fail" if kind == "ramfs" else "pgmigrate_success"
    meet(m, [by_calls, by_mapping], meanwhile, met, WAITED_2006)
    for p in processes:
        p.exit()
    m.check(full=True)


# ---- what runs out -------------------------------------------------------------------------------


def test_last_frames_and_slots_are_shared_out(kernel: str) -> None:
    """Frames and slots are taken to the last; none is lost or used twice."""
    m = old_machine(kernel, 0, size="768KiB", swap=["64KiB"])
    n, size = 200, m.swap[0].size
    full, killed = [0], [0]

    def fill(p: Process) -> Step:
        base = p.mmap(2 * n * PAGE)
        p.touch(
            base + n * PAGE, n * PAGE, write=True
        )  # three times so much is all but the last frames

        def work() -> None:
            for _ in range(20 * STRESS):
                if p.touch(base, n * PAGE, write=True).signal:
                    killed[0] += 1  # no frame was left
                    return
                p.madvise(base, n * PAGE, "dontneed")

        return work

    def slots() -> None:
        full[0] += m.swap[0].used == size
        with allowed(ENOMEM):
            m.swapoff(0)
            m.swapon(0)

    for _ in rounds():
        processes = [m.spawn(cpu=k) for k in range(3)]
        sweepers = [sweeper(m, seed) for seed in range(2)]
        together([fill(p) for p in processes], [*sweepers, slots])
        m.check(full=True)
        for p in processes:
            if p.alive:
                p.exit()
            else:
                p.reap()
        m.check(full=True)
        assert m.swap[0].used == 0
        assert sum(m.free(nid) for nid in range(4)) == 3 * pm.MiB - PAGE
        if full[0] and killed[0] and counted(m, "pswpout"):
            return
    pytest.fail(f"slots ran out {full[0]} times, frames {killed[0]} times: {m.counters}")
