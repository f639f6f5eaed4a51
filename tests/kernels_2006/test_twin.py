"""A naive twin of the kernels of 2006: plain lists and dicts, written from the reference alone.

Scenarios are drawn at random: memory and files are mapped, touched, forked, locked, pinned, swapped
out, bound and migrated.  The twin says what every page-table entry is afterwards, on which node its
page lies, what the call answered, how large each resident set is and how many slots are in use; the
machine has to agree after every operation, and to keep its invariants.

``PAGEMIG_SEARCH=1000`` draws that many scenarios anew, not the same few every time.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from errno import EACCES, EAGAIN, EBUSY, EFAULT, EINVAL, EIO, ENOENT, EPERM
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

import pagemig as pm
from support.machines import PAGE, at, error_of, four_nodes
from support.of_2006 import KERNELS, LISTS, letter, resident

SEARCH = int(os.environ.get("PAGEMIG_SEARCH", "0"))
STRICT, MOVE, MOVE_ALL = pm.MPOL_MF_STRICT, pm.MPOL_MF_MOVE, pm.MPOL_MF_MOVE_ALL

#: First pages of mappings, far enough from each other not to merge, and their length.
PLACES, LENGTH = (0, 16, 32, 48, 64, 80), 5
#: Pages that a process may lock without privileges; its whole range counts, locked or not.
MEMLOCK = 8
KINDS = ("anon", "anon", "tmpfs", "ext4", "ramfs", "minix")


# ---- what the twin is made of --------------------------------------------------------------------


@dataclass(eq=False)
class Frame:
    """A page: ``kind`` is anon or its file system; ``slot`` while it is in the swap cache."""

    kind: str
    node: int
    value: int
    dirty: bool = False
    pins: int = 0
    slot: "Slot | None" = None


@dataclass(eq=False)
class Slot:
    """A place on the swap device, and the page of the cache in front of it."""

    value: int
    page: Frame | None


@dataclass(eq=False)
class Vma:
    start: int
    kind: str
    policy: pm.Policy = field(default_factory=pm.Default)
    locked: bool = False
    #: Something was written: only then does fork copy its entries.
    anon_vma: bool = False

    @property
    def pages(self) -> range:
        return range(self.start, self.start + LENGTH)


@dataclass(eq=False)
class Task:
    """A process, its page table: ``w`` and ``r`` with a frame, ``s`` with a slot, ``z`` alone."""

    real: pm.Process
    node: int
    root: bool = True
    vmas: list[Vma] = field(default_factory=list)
    ptes: dict[int, tuple[str, Any]] = field(default_factory=dict)

    def vma_of(self, vpn: int) -> Vma:
        [vma] = [vma for vma in self.vmas if vpn in vma.pages]
        return vma

    def frames(self, vma: Vma) -> Iterator[tuple[int, Frame]]:
        for vpn in vma.pages:
            kind, what = self.ptes.get(vpn, ("", None))
            if kind in ("w", "r"):
                yield vpn, what


@dataclass(eq=False)
class Hold:
    """A pin: its holders, each with a handle of its own; children inherit it."""

    frame: Frame
    pin: pm.Pin
    holders: list[Task]


def il_node(index: int, nodes: list[int]) -> int:
    return sorted(nodes)[(index & 0xFFFFFFFF) % len(nodes)]


def node_pairs(old: set[int], new: set[int], move: Callable[[int, int], int]) -> int:
    """Paul Jackson's order (6.3); what all moves together left behind."""

    def remap(node: int) -> int:
        if node not in old or not new:
            return node
        return sorted(new)[sorted(old).index(node) % len(new)]

    left, busy = set(old), 0
    while True:
        pair = None
        for node in sorted(left):
            if remap(node) != node:
                pair = node, remap(node)
                if pair[1] not in left:
                    break
        if pair is None:
            return busy
        left.remove(pair[0])
        busy += move(*pair)


class Twin:
    """What a kernel of 2006 does to pages, one after the other."""

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        # Slots are read one at a time here: clusters are held against recordings.
        self.machine = four_nodes(replace(pm.KERNELS[kernel], swap_cluster=0), page_bytes=8)
        self.root = self.machine.spawn()
        self.tasks = [Task(self.machine.spawn(cpu=cpu), cpu) for cpu in (0, 1)]
        self.slots: list[Slot] = []
        self.holds: list[Hold] = []
        self.files: dict[str, tuple[pm.File, list[Frame]]] = {}
        for kind in ("tmpfs", "ext4", "ramfs", "minix"):
            file = self.machine.file(kind, LENGTH * PAGE)
            values = [100 + k for k in range(LENGTH)]
            if kind == "ramfs":  # of these only the first two are dirty
                self.root.fwrite(file, 0, values[:2])
                self.root.fread(file, 2, LENGTH - 2)
                values[2:] = [0] * (LENGTH - 2)
            else:
                self.root.fwrite(file, 0, values)
            written = [kind != "ramfs" or k < 2 for k in range(LENGTH)]
            frames = [Frame(kind, 0, v, dirty=w) for v, w in zip(values, written, strict=True)]
            self.files[kind] = file, frames
        self.shared: pm.Policy = pm.Default()  # of the file on tmpfs, whoever maps it
        self.token = 1000

    # ---- who refers to what ----------------------------------------------------------------------

    def mappers(self, frame: Frame) -> list[tuple[Task, int]]:
        """In the order of the reverse map: parents before children."""
        return [
            (task, vpn)
            for task in self.tasks
            for vpn, (_, what) in sorted(task.ptes.items())
            if what is frame
        ]

    def entries(self, slot: Slot) -> list[tuple[Task, int]]:
        return [
            (task, vpn)
            for task in self.tasks
            for vpn, (_, what) in sorted(task.ptes.items())
            if what is slot
        ]

    def used(self) -> int:
        return sum(slot.page is not None or bool(self.entries(slot)) for slot in self.slots)

    def new_slot(self, frame: Frame) -> Slot:
        slot = Slot(frame.value, frame)
        frame.slot = slot
        self.slots.append(slot)
        return slot

    def drop_cache(self, slot: Slot) -> None:
        assert slot.page is not None
        slot.page.slot = None
        slot.page = None

    # ---- faults ----------------------------------------------------------------------------------

    def target(self, task: Task, vma: Vma, vpn: int) -> int:
        policy = self.shared if vma.kind == "tmpfs" else vma.policy
        if isinstance(policy, pm.Interleave):
            return il_node(at(vpn) >> 12, list(policy.nodes))
        return next(iter(policy.nodes)) if policy.nodes else task.node

    def swap_in(self, task: Task, vma: Vma, vpn: int) -> None:
        slot = task.ptes[vpn][1]
        if slot.page is None:
            slot.page = Frame("anon", self.target(task, vma, vpn), slot.value, slot=slot)
        task.ptes[vpn] = ("r", slot.page)
        vma.anon_vma = True

    def one_user(self, frame: Frame) -> bool:
        """3.8: can_share_swap_page."""
        if frame.slot is not None and self.entries(frame.slot):
            return False
        return len(self.mappers(frame)) == 1 and not frame.pins

    def fault(self, task: Task, vpn: int, write: bool) -> None:
        vma = task.vma_of(vpn)
        kind, frame = task.ptes.get(vpn, ("", None))
        if vma.kind != "anon":
            frame = self.files[vma.kind][1][vpn - vma.start]
            frame.dirty |= write
            task.ptes[vpn] = ("w", frame)  # nobody wants to know of the first write before 2.6.19
            return
        if kind == "s":
            self.swap_in(task, vma, vpn)
            kind, frame = task.ptes[vpn]
        if not write:
            task.ptes.setdefault(vpn, ("z", None))
        elif kind in ("", "z"):
            task.ptes[vpn] = ("w", Frame("anon", self.target(task, vma, vpn), 0))
            vma.anon_vma = True
        elif kind == "r":
            if not self.one_user(frame):
                frame = Frame("anon", self.target(task, vma, vpn), frame.value)
            task.ptes[vpn] = ("w", frame)

    def zap(self, task: Task, vpn: int) -> None:
        """An entry goes; with the last one that needs it a page leaves the swap cache."""
        kind, what = task.ptes.pop(vpn)
        slot = what if kind == "s" else what.slot if what is not None else None
        page = slot.page if slot is not None else None
        if page is not None and not (self.entries(slot) or self.mappers(page) or page.pins):
            self.drop_cache(slot)

    # ---- one page on the move --------------------------------------------------------------------

    def unmap_to_slot(self, frame: Frame, locked_fails: bool) -> bool:
        """3.7: entries of the slot until a mapping is VM_LOCKED; those before stay."""
        for task, vpn in self.mappers(frame):
            if locked_fails and task.vma_of(vpn).locked:
                return False
            task.ptes[vpn] = ("s", frame.slot)
        return True

    def move_anon_a(self, frame: Frame, node: int) -> int:
        slot = frame.slot or self.new_slot(frame)
        if frame.pins:
            return -EAGAIN
        if not self.unmap_to_slot(frame, True):
            return -EPERM
        frame.node = node
        self.drop_cache(slot)
        for task, vpn in self.entries(slot):  # remove_from_swap
            task.ptes[vpn] = ("r", frame)
        return 0

    def move_anon_b(self, frame: Frame, node: int) -> int:
        locked_fails = self.kernel == "2.6.17-mm"
        if frame.slot is not None:  # 4.2: swap entries, not restored
            if not self.unmap_to_slot(frame, locked_fails):
                return -EPERM
        elif locked_fails and any(t.vma_of(vpn).locked for t, vpn in self.mappers(frame)):
            return -EPERM
        if frame.pins:
            return -EAGAIN
        frame.node = node
        return 0

    def move_file(self, frame: Frame, node: int) -> int:
        a, cannot = self.kernel == "2.6.17", frame.kind in ("ramfs", "minix")
        # 3.3 step 10 unmaps before anything is counted, migrate_page looks first.
        if a and (cannot or not frame.pins):
            for task, vpn in self.mappers(frame):
                del task.ptes[vpn]
        if frame.kind == "ramfs" and frame.dirty:
            return -EAGAIN if a else -EINVAL  # pageout: ACTIVATE; writeout: no writepage
        if frame.kind == "minix" and not (a and frame.pins):
            frame.dirty = False  # written; pageout leaves alone what somebody else holds
        if frame.pins:
            return -EAGAIN
        frame.node = node
        return 0

    def move(self, frame: Frame, node: int) -> int:
        if frame.kind != "anon":
            return self.move_file(frame, node)
        return (self.move_anon_a if self.kernel == "2.6.17" else self.move_anon_b)(frame, node)

    # ---- collecting (6.1) ------------------------------------------------------------------------

    def collect(
        self, task: Task, vmas: list[Vma], flags: int, wanted: Callable[[int, Frame], bool]
    ) -> list[tuple[int, Frame]]:
        found: dict[Frame, int] = {}
        for vma in vmas:
            if vma.locked and self.kernel != "pmig" and not flags & STRICT:
                continue
            for vpn, frame in task.frames(vma):
                alone = len(self.mappers(frame)) == 1
                if frame not in found and wanted(vpn, frame) and (alone or flags & MOVE_ALL):
                    found[frame] = vpn
        return [(vpn, frame) for frame, vpn in found.items()]

    # ---- calls -----------------------------------------------------------------------------------

    def migrate_pages(self, by: Task | None, task: Task, old: set[int], new: set[int]) -> int:
        flags = MOVE_ALL if by is None or by.root else MOVE

        def one(source: int, dest: int) -> int:
            vmas = sorted(task.vmas, key=lambda vma: vma.start)
            pages = self.collect(task, vmas, flags, lambda vpn, frame: frame.node == source)
            return sum(self.move(frame, dest) != 0 for _, frame in pages)

        return node_pairs(old, new, one)

    def mbind(self, task: Task, vma: Vma, policy: pm.Policy, flags: int) -> int:
        if flags & MOVE_ALL and not task.root:
            return -EPERM
        if isinstance(policy, pm.Default):
            flags &= ~STRICT
        mask, moves = set(policy.nodes or ()), flags & (MOVE | MOVE_ALL)
        if flags == STRICT and any(f.node not in mask for _, f in task.frames(vma)):
            return -EIO
        if vma.kind == "tmpfs" and vma.policy != policy:
            self.shared = policy  # a mapping that has the policy already is passed over
        vma.policy = policy
        if not moves:
            return 0

        def place(vpn: int) -> int:
            return self.target(task, vma, vpn)

        exactly = self.kernel == "pmig" and isinstance(policy, pm.Interleave)
        pages = self.collect(
            task,
            [vma],
            flags,
            lambda vpn, f: f.node != place(vpn) if exactly else f.node not in mask,
        )
        failed, fake = 0, list(range(vma.start, vma.start + len(pages)))
        for vpn, frame in pages:
            # Targets by addresses that only rise, handed out from the end to who can use one.
            rc = self.move(frame, place(fake[-1] if self.kernel in LISTS else vpn))
            failed += rc != 0
            if rc == 0:
                fake.pop()
        return -EIO if failed and flags & STRICT else 0

    def move_pages(
        self, by: Task | None, task: Task, vpns: list[int], node: int, flags: int
    ) -> tuple[int, list[int] | None]:
        """7.4: the return value, and the statuses unless none are stored."""
        if flags & MOVE_ALL and by is not None and not by.root:
            return -EPERM, None
        status, isolated = [], {}
        for vpn in vpns:
            kind, frame = task.ptes.get(vpn, ("", None))
            if not any(vpn < vma.pages.stop for vma in task.vmas):
                status.append(-EFAULT)
            elif kind in ("", "s"):
                status.append(-ENOENT)
            elif kind == "z":
                status.append(-EFAULT if self.kernel == "pmig" else -ENOENT)
            elif frame.node == node:
                status.append(node)
            elif len(self.mappers(frame)) > 1 and not flags & MOVE_ALL:
                status.append(-EACCES)
            elif frame in isolated:
                status.append(-EBUSY)
            else:
                isolated[frame] = len(status)
                status.append(0)
        if not isolated:
            return (0, status) if self.kernel == "pmig" else (-ENOENT, None)
        for frame, i in isolated.items():
            status[i] = self.move(frame, node) or node
        return sum(status[i] < 0 for i in isolated.values()), status

    def swap_out(self, frame: Frame) -> int:
        """3.6: written in one pass, found clean and dropped in the next."""
        slot = frame.slot or self.new_slot(frame)
        if not self.unmap_to_slot(frame, True) or frame.pins:
            return 0
        slot.value = frame.value
        self.drop_cache(slot)
        return 1


# ---- operations: the machine and the twin do the same --------------------------------------------


class Scenario(Twin):
    """Every operation takes three numbers and makes of them what it needs."""

    def task(self, a: int) -> Task:
        return self.tasks[a % len(self.tasks)]

    def mapping(self, a: int, b: int) -> tuple[Task, Vma] | None:
        task = self.task(a)
        return (task, task.vmas[b % len(task.vmas)]) if task.vmas else None

    def page(self, a: int, b: int) -> tuple[Task, int, Frame] | None:
        """A page that is present."""
        task = self.task(a)
        there = [(vpn, what) for vpn, (kind, what) in task.ptes.items() if kind in "wr"]
        return (task, *there[b % len(there)]) if there else None

    def mmap(self, a: int, b: int, c: int) -> None:
        task, start, kind = self.task(a), PLACES[b % len(PLACES)], KINDS[c % len(KINDS)]
        if any(vma.start == start for vma in task.vmas):
            return
        file = None if kind == "anon" else self.files[kind][0]
        task.real.mmap(LENGTH * PAGE, addr=at(start), file=file, shared=file is not None)
        task.vmas.append(Vma(start, kind))

    def munmap(self, a: int, b: int, c: int) -> None:
        if c % 3 or not (found := self.mapping(a, b)):
            return
        task, vma = found
        task.real.munmap(at(vma.start), LENGTH * PAGE)
        for vpn in [vpn for vpn in vma.pages if vpn in task.ptes]:
            self.zap(task, vpn)
        task.vmas.remove(vma)

    def write(self, a: int, b: int, c: int) -> None:
        if not (found := self.mapping(a, b)):
            return
        task, vma = found
        first = vma.start + c % LENGTH
        vpns = range(first, vma.pages.stop)
        self.token += 10
        values = [self.token + k for k in range(len(vpns))]
        task.real.touch(at(first), len(vpns) * PAGE, write=True, values=values)
        for vpn, value in zip(vpns, values, strict=True):
            self.fault(task, vpn, True)
            task.ptes[vpn][1].value = value

    def read(self, a: int, b: int, c: int) -> None:
        if not (found := self.mapping(a, b)):
            return
        task, vma = found
        first = vma.start + c % LENGTH
        vpns = range(first, vma.pages.stop)
        seen = task.real.touch(at(first), len(vpns) * PAGE).values
        for vpn in vpns:
            self.fault(task, vpn, False)
        expected = [0 if task.ptes[vpn][0] == "z" else task.ptes[vpn][1].value for vpn in vpns]
        assert seen is not None
        assert seen.tolist() == expected

    def fork(self, a: int, b: int, c: int) -> None:
        parent = self.task(a)
        if len(self.tasks) >= 5:
            return
        child = Task(parent.real.fork(), parent.node, parent.root)
        for vma in parent.vmas:
            child.vmas.append(replace(vma, locked=False))
            for vpn in vma.pages if vma.anon_vma else ():
                if vpn in parent.ptes:
                    kind, what = parent.ptes[vpn]
                    kind = "r" if kind == "w" else kind
                    parent.ptes[vpn] = child.ptes[vpn] = (kind, what)
        for hold in self.holds:
            if parent in hold.holders:
                hold.holders.append(child)
                hold.frame.pins += 1
        self.tasks.append(child)

    def exit(self, a: int, b: int, c: int) -> None:
        task = self.task(a)
        if len(self.tasks) < 2 or c % 2:
            return
        task.real.exit()
        for vpn in sorted(task.ptes):
            self.zap(task, vpn)
        self.tasks.remove(task)
        for hold in self.holds:
            if task in hold.holders:
                hold.holders.remove(task)
                hold.frame.pins -= 1

    def setuid(self, a: int, b: int, c: int) -> None:
        if c % 3 == 0:
            self.task(a).real.setuid(1000)
            self.task(a).root = False

    def mlock(self, a: int, b: int, c: int) -> None:
        found = self.mapping(a, b)
        if not found or found[1].kind != "anon":
            return
        task, vma = found
        if c % 3 == 0:
            task.real.munlock(at(vma.start), LENGTH * PAGE)
        elif not task.root and LENGTH * (1 + sum(v.locked for v in task.vmas)) > MEMLOCK:
            assert error_of(task.real.mlock, at(vma.start), LENGTH * PAGE) == "ENOMEM"
            return
        else:
            task.real.mlock(at(vma.start), LENGTH * PAGE)
            for vpn in vma.pages:  # brought in as if each was written
                self.fault(task, vpn, True)
        vma.locked = c % 3 != 0

    def pin(self, a: int, b: int, c: int) -> None:
        if found := self.page(a, b):
            task, vpn, frame = found
            hold = Hold(frame, task.real.pin(at(vpn), PAGE), [task])
            frame.pins += 1
            self.holds.append(hold)

    def unpin(self, a: int, b: int, c: int) -> None:
        held = [hold for hold in self.holds if hold.holders]
        if held:
            hold = held[a % len(held)]
            task = hold.holders.pop(b % len(hold.holders))
            task.real.unpin(hold.pin)
            hold.frame.pins -= 1

    def swap(self, a: int, b: int, c: int) -> None:
        task = self.task(a)
        anon = [
            (vpn, what)
            for vpn, (kind, what) in task.ptes.items()
            if kind in "wr" and what.kind == "anon"
        ][: 1 + b % LENGTH]
        pfns = [int(task.real.frames(at(vpn), 1)[0]) for vpn, _ in anon]
        gone = self.machine.swap_out(pfns)
        assert gone == sum(self.swap_out(frame) for _, frame in anon)

    def caller(self, task: Task, c: int) -> Task | None:
        return task if c % 2 else None

    def migrate(self, a: int, b: int, c: int) -> None:
        task, by = self.task(a), self.caller(self.task(a), c)
        old = {n for n in range(4) if b >> n & 1} or {0}
        new = {n for n in range(4) if b >> (4 + n) & 1} or {1}
        real = self.root if by is None else by.real
        assert real.migrate_pages(old, new, pid=task.real) == self.migrate_pages(by, task, old, new)

    def bind(self, a: int, b: int, c: int) -> None:
        if not (found := self.mapping(a, b)):
            return
        task, vma = found
        nodes = [n for n in range(4) if c >> n & 1] or [2]
        policies = [pm.Bind([c % 4]), pm.Default(), pm.Preferred(c % 4)]
        if vma.kind == "anon":
            policies += [pm.Interleave(nodes)] * 3
        policy = policies[(c >> 4) % len(policies)]
        flags = [0, STRICT, MOVE, MOVE, STRICT | MOVE, MOVE_ALL, STRICT | MOVE_ALL][(c >> 8) % 7]
        try:
            task.real.mbind(at(vma.start), LENGTH * PAGE, policy, flags)
            rc = 0
        except pm.SyscallError as error:
            rc = -(error.errno or 0)
        assert rc == self.mbind(task, vma, policy, flags)

    def bind_all(self, a: int, b: int, c: int) -> None:
        """Default over everything: holes do not matter, and every page goes where it is local."""
        task, flags = self.task(a), MOVE_ALL if c % 2 else MOVE
        vmas = sorted(task.vmas, key=lambda vma: vma.start)
        if not vmas or self.kernel == "2.6.18-ia64" or (flags & MOVE_ALL and not task.root):
            return  # 2.6.18 places all of them by the first mapping, or crashes
        task.real.mbind(at(0), (PLACES[-1] + LENGTH) * PAGE, pm.Default(), flags)
        for vma in vmas:
            if vma.kind == "tmpfs" and not isinstance(vma.policy, pm.Default):
                self.shared = pm.Default()
            vma.policy = pm.Default()
        for vpn, frame in self.collect(task, vmas, flags, lambda vpn, f: True):
            vma = vmas[0] if self.kernel in LISTS else task.vma_of(vpn)
            self.move(frame, self.target(task, vma, vpn))

    def request(self, a: int, b: int, c: int) -> None:
        task, node, flags = self.task(a), b % 4, MOVE_ALL if c & 1 else MOVE
        if self.kernel in LISTS:
            return
        by = self.caller(task, c >> 1)
        vpns = [(b + k * (1 + (c >> 4) % 5)) % 100 for k in range(1 + (c >> 8) % 24)]
        real = self.root if by is None else by.real
        try:
            result = real.move_pages([at(v) for v in vpns], node, flags, pid=task.real)
            answer: Any = result.rc, result.status.tolist()
        except pm.SyscallError as error:
            answer = -(error.errno or 0), None
            assert set(error.result.status.tolist()) <= {pm.STATUS_UNSET}
        assert answer == self.move_pages(by, task, vpns, node, flags)

    # ---- after every operation -------------------------------------------------------------------

    def hold(self) -> None:
        self.machine.check()
        per_node = len(self.machine.frames) // 4
        for task in self.tasks:
            words = task.real._ptes(at(0), PLACES[-1] + LENGTH).tolist()
            for vma in task.vmas:
                for vpn in vma.pages:
                    kind, what = task.ptes.get(vpn, (".", None))
                    assert letter(words[vpn]) == kind.replace("z", "r"), f"page {vpn}"
                    if kind in "wr":
                        node = (words[vpn] >> 12 & (1 << 40) - 1) // per_node
                        assert node == what.node, f"page {vpn}"
            present = sum(kind in "wr" for kind, _ in task.ptes.values())
            assert resident([task.real]) == present
        assert sum(device.used for device in self.machine.swap) // PAGE == self.used()

    def end(self) -> None:
        """Every value is still there."""
        for task in self.tasks:
            for vma in task.vmas:
                seen = task.real.touch(at(vma.start), LENGTH * PAGE).values
                for vpn in vma.pages:
                    self.fault(task, vpn, False)
                assert seen is not None
                values = [task.ptes[vpn][1] for vpn in vma.pages]
                assert seen.tolist() == [0 if f is None else f.value for f in values]
        self.hold()
        for task in self.tasks:
            task.real.exit()
        self.machine.check(full=True)


OPS = (
    *["mmap"] * 4,
    *["write"] * 5,
    *["read", "migrate", "bind", "request"] * 3,
    *["fork", "mlock", "pin", "swap"] * 2,
    *["unpin", "munmap", "exit", "setuid", "bind_all"],
)
NUMBER = st.integers(0, (1 << 12) - 1)
STEPS = st.lists(st.tuples(st.sampled_from(OPS), NUMBER, NUMBER, NUMBER), min_size=20, max_size=50)
#: One mapping of every kind, a child that shares the anonymous ones, and something else of its own.
START = [
    *[("mmap", 0, place, place) for place in range(6)],
    *[("write", 0, place, 0) for place in (0, 1, 2, 5)],
    *[("read", 0, place, 0) for place in (3, 4)],
    ("fork", 0, 0, 0),
    ("write", 0, 1, 0),
    ("read", 2, 3, 0),
    ("mmap", 1, 0, 0),
    ("write", 1, 0, 3),
    ("read", 1, 0, 0),
]


@pytest.mark.parametrize("kernel", KERNELS)
@settings(
    max_examples=SEARCH or 40,
    derandomize=not SEARCH,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(steps=STEPS)
def test_the_machine_agrees_with_the_twin(
    kernel: str, steps: list[tuple[str, int, int, int]]
) -> None:
    scenario = Scenario(kernel)
    for name, a, b, c in [*START, *steps]:
        note(f"{name} {a} {b} {c}")
        getattr(scenario, name)(a, b, c)
        scenario.hold()
    scenario.end()
