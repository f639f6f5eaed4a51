"""What ``/proc/PID`` shows of a process: pagemap, numa_maps, smaps, maps, status.

Texts and numbers are the kernel's (``fs/proc/task_mmu.c`` of 6.1; docs/fidelity.md says what is
modelled).  Nothing here changes the process: no page is faulted in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pagemig import _memory
from pagemig.constants import (
    FILE_SHMEM,
    MPOL_DEFAULT,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    PAGE_SHIFT,
    PAGE_SIZE,
)
from pagemig.mm.numbers import NUMBERS
from pagemig.pieces import PIECE, full
from pagemig.policy import Policy, policy_of, policy_text
from pagemig.system.frames import flag_bit, mapcounts, refcounts
from pagemig.system.task import Task

__all__ = [
    "Entries",
    "Vma",
    "frames",
    "numa_maps",
    "pagemap",
    "smaps",
    "status",
    "take_apart",
    "vmas",
]

# ---- page-table entries, x86-64 layout ---------------------------------------------------------

#: Present, or PROT_NONE with a page behind it.
_PRESENT: Final = np.uint64(NUMBERS["PTE_P"] | NUMBERS["PTE_PROTNONE"])
_YOUNG: Final = np.uint64(NUMBERS["PTE_A"])
_DIRTY: Final = np.uint64(NUMBERS["PTE_D"])
_SPECIAL: Final = np.uint64(NUMBERS["PTE_SPECIAL"])
_PFN_MASK: Final = np.uint64(NUMBERS["PTE_PFN_MASK"])
_PFN_SHIFT: Final = np.uint64(12)
_SWAP_TYPE_SHIFT: Final = np.uint64(NUMBERS["SWP_TYPE_SHIFT"])
_SWAP_OFFSET_MASK: Final = np.uint64((1 << 47) - 1)
_MIGRATION_PFN_MASK: Final = np.uint64((1 << 40) - 1)
_MIGRATION_READ: Final = np.uint64(NUMBERS["SWP_MIGRATION_READ"])

# ---- pagemap entries ---------------------------------------------------------------------------

_PM_SHIFT_TYPE: Final = np.uint64(5)
_PM_EXCLUSIVE: Final = np.uint64(1 << 56)
_PM_FILE: Final = np.uint64(1 << 61)
_PM_SWAP: Final = np.uint64(1 << 62)
_PM_PRESENT: Final = np.uint64(1 << 63)
_PM_FRAME: Final = np.uint64((1 << 55) - 1)

_ADDRESS_SPACE: Final = 1 << 47
#: Pages that are looked at as they are, tables or not.
_FEW: Final = 1 << 14
#: What read(2) transfers at most, in entries of pagemap; a call answers for no more pages.
MOST_PAGES: Final = 0x7FFFF000 >> 3

_VM_LETTERS: Final = (
    (NUMBERS["VM_READ"], "rd"),
    (NUMBERS["VM_WRITE"], "wr"),
    (NUMBERS["VM_EXEC"], "ex"),
    (NUMBERS["VM_SHARED"], "sh"),
    (NUMBERS["VM_MAYREAD"], "mr"),
    (NUMBERS["VM_MAYWRITE"], "mw"),
    (NUMBERS["VM_MAYEXEC"], "me"),
    (NUMBERS["VM_MAYSHARE"], "ms"),
    (NUMBERS["VM_PFNMAP"], "pf"),
    (NUMBERS["VM_LOCKED"], "lo"),
    (NUMBERS["VM_IO"], "io"),
    (NUMBERS["VM_SEQ_READ"], "sr"),
    (NUMBERS["VM_RAND_READ"], "rr"),
    (NUMBERS["VM_DONTCOPY"], "dc"),
    (NUMBERS["VM_DONTEXPAND"], "de"),
    (NUMBERS["VM_LOCKONFAULT"], "lf"),
    (NUMBERS["VM_ACCOUNT"], "ac"),
    (NUMBERS["VM_NORESERVE"], "nr"),
    (NUMBERS["VM_WIPEONFORK"], "wf"),
    (NUMBERS["VM_DONTDUMP"], "dd"),
    (NUMBERS["VM_HUGEPAGE"], "hg"),
    (NUMBERS["VM_NOHUGEPAGE"], "nh"),
    (NUMBERS["VM_MERGEABLE"], "mg"),
)
_VM_SHARED: Final = NUMBERS["VM_SHARED"]
VM_LOCKED: Final = NUMBERS["VM_LOCKED"]

_Words = npt.NDArray[np.uint64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Vma:
    """A mapping, as ``/proc/PID/maps`` and ``numa_maps`` show it.

    Attributes
    ----------
    start, end : int
        Addresses in bytes, ``end`` exclusive.
    perms : str
        As ``"rw-p"``; the last letter is ``s`` for a shared mapping.
    offset : int
        Place in the file or shared object, bytes.  For private anonymous memory the kernel's
        ``vm_pgoff`` in bytes, which decides interleaving (``maps`` prints 0).
    flags : int
        ``VM_*`` bits.
    file : int
        Number of the file or shared object, 0 for private anonymous memory.
    inode : int
        Its inode number.
    path : str
        Its name; ``"/dev/zero (deleted)"`` for shared anonymous memory.
    policy : Policy or None
        The policy of this memory, None if it has none of its own.  For shared memory that of the
        object at the mapping's first page.
    policy_text : str
        The policy as ``numa_maps`` prints it; the process's if the memory has none.
    home_node : int
        The node tried first, -1 for none.
    """

    start: int
    end: int
    perms: str
    offset: int
    flags: int
    file: int
    inode: int
    path: str
    policy: Policy | None
    policy_text: str
    home_node: int

    @property
    def length(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def pages(self) -> int:
        """Length in pages."""
        return (self.end - self.start) >> PAGE_SHIFT

    def __repr__(self) -> str:
        words = [f"{self.start:#x}-{self.end:#x} {self.perms}", self.policy_text]
        words += [f"flags={self.flags:#x}"]
        words += [f"{self.path} offset={self.offset:#x}"] if self.file else []
        words += [f"home_node={self.home_node}"] if self.home_node >= 0 else []
        return f"<Vma {', '.join(words)}>"

    def __str__(self) -> str:
        """Return the line of ``/proc/PID/maps``."""
        offset = self.offset if self.file else 0
        line = f"{self.start:08x}-{self.end:08x} {self.perms} {offset:08x} 00:00 {self.inode} "
        return f"{line:<72} {self.path}" if self.path else line


#: As the core returns one.
_NO_POLICY: Final = (MPOL_DEFAULT, 0, 0, 0)


def vmas(process: Task) -> list[Vma]:
    """Return the mappings of a process by rising address."""
    return [_vma(process, row) for row in process._vmas()]


def _vma(process: Task, row: Any) -> Vma:
    machine = process.machine
    flags, index = int(row["flags"]), int(row["file"])
    inode, path = _file_name(machine, index)
    mode, mode_flags, nodes = int(row["mode"]), int(row["mode_flags"]), int(row["nodes"])
    policy, shown = None, process._get_task_policy()
    if mode != MPOL_DEFAULT:
        asked = mode_flags & (MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES)
        policy = policy_of(mode, mode_flags, int(row["user_nodes"]) if asked else nodes)
        shown = mode, mode_flags, nodes, 0
    elif index and machine.profile.object_default and machine._file_info(index)[0] == FILE_SHMEM:
        shown = _NO_POLICY
    return Vma(
        start=int(row["start"]),
        end=int(row["end"]),
        perms=_perms(flags),
        offset=int(row["pgoff"]) << PAGE_SHIFT,
        flags=flags,
        file=index,
        inode=inode,
        path=path,
        policy=policy,
        policy_text=policy_text(
            *shown[:3], machine.profile.mode_names, machine.profile.mode_separator
        ),
        home_node=int(row["home_node"]),
    )


def _perms(flags: int) -> str:
    letters = "".join(letter if flags >> bit & 1 else "-" for bit, letter in enumerate("rwx"))
    return letters + ("s" if flags & _VM_SHARED else "p")


def _file_name(machine: _memory.Memory, index: int) -> tuple[int, str]:
    """Return inode number and name of a file or shared object."""
    if not index:
        return 0, ""
    kind, _size, inode, _cached = machine._file_info(index)
    path = machine._file_name(index, inode)
    if path is None:
        path = "/dev/zero (deleted)" if kind == FILE_SHMEM else f"(deleted file {inode})"
    return inode, path


# ---- page tables -------------------------------------------------------------------------------


class Entries(NamedTuple):
    """Some entries of a page table, decoded."""

    ptes: _Words
    #: The entry maps a page that the kernel manages (not the zero page).
    normal: _Bools
    #: State word of that page, 0 elsewhere.
    state: _Words
    #: Frame number behind a present entry or a migration entry.
    pfn: _Words
    present: _Bools
    swapped: _Bools
    migrating: _Bools


def take_apart(machine: _memory.Memory, ptes: _Words) -> Entries:
    """Decode some entries of a page table, with the state words of their frames."""
    present = (ptes & _PRESENT) != 0
    swapped = (ptes != 0) & ~present
    migrating = swapped & (ptes >> _SWAP_TYPE_SHIFT >= _MIGRATION_READ)
    pfn = (ptes & _PFN_MASK) >> _PFN_SHIFT
    pfn = np.where(migrating, ptes >> _PFN_SHIFT & _MIGRATION_PFN_MASK, pfn)
    states = machine._frames_raw()["state"]
    normal = present & ((ptes & _SPECIAL) == 0)
    state = np.zeros(len(ptes), dtype=np.uint64)
    behind = normal | migrating
    state[behind] = states[pfn[behind].astype(np.int64)]
    normal &= (state & flag_bit("reserved")) == 0
    return Entries(ptes, normal, state, pfn, present, swapped, migrating)


def _stretches(process: Task, start: int, n: int) -> Iterator[tuple[int, int]]:
    """Find the pages of a range that tables have room for: the first by its place, and how many.

    A range may be as long as the address space; what is looked at is as much as there are tables.
    """
    if n <= _FEW:
        yield 0, n
        return
    at = 0
    while at < n:
        before, count = process._stretch(start + (at << PAGE_SHIFT), n - at, PIECE)
        at += before
        if count:
            yield at, count
        at += count


def _chunks(process: Task, start: int, end: int) -> Iterator[Entries]:
    """Yield the page-table entries of a range of addresses where it has tables, in pieces."""
    for at, count in _stretches(process, start, (end - start) >> PAGE_SHIFT):
        yield take_apart(process.machine, process._ptes(start + (at << PAGE_SHIFT), count))


def pagemap(process: Task, addr: int, n: int, *, pfns: bool = True) -> _Words:
    """Return entries of ``/proc/PID/pagemap``.

    Parameters
    ----------
    process : Process
        The process.
    addr : int
        Address of the first page, bytes.
    n : int
        Pages.
    pfns : bool, default True
        Read with CAP_SYS_ADMIN; without it frame numbers and swap offsets read as 0.

    Returns
    -------
    ndarray of uint64, shape (n,)
        Entries; fewer at the end of the address space of 2**47 bytes, as when reading the file, and
        2**28 - 512 at most, as in one read.
        Bits 0 to 54: frame number, or swap type (5 bits) and offset; 56: mapped exactly once; 61:
        page of a file or of shared memory; 62: swapped; 63: present.  A migration entry reads as
        swapped, with the frame number as offset, and never as mapped once.  Bits 55 (soft-dirty)
        and 57 (userfaultfd) are not modelled and read 0.
    """
    start = addr & -PAGE_SIZE
    n = min(n, max(_ADDRESS_SPACE - start, 0) >> PAGE_SHIFT, MOST_PAGES)
    if n <= _FEW:
        return _pagemap_entries(process, start, n, pfns=pfns)
    entries = np.zeros(n, np.uint64)  # what has no table commits no memory
    for at, count in _stretches(process, start, n):
        place = start + (at << PAGE_SHIFT)
        entries[at : at + count] = _pagemap_entries(process, place, count, pfns=pfns)
    return entries


def _pagemap_entries(process: Task, start: int, n: int, *, pfns: bool) -> _Words:
    pages = take_apart(process.machine, process._ptes(start, n))
    offset = pages.ptes >> _PFN_SHIFT & _SWAP_OFFSET_MASK
    offset = np.where(pages.migrating, pages.pfn, offset)
    swap = pages.ptes >> _SWAP_TYPE_SHIFT | offset << _PM_SHIFT_TYPE
    entries = np.where(pages.present, pages.pfn, np.where(pages.swapped, swap, np.uint64(0)))
    entries &= _PM_FRAME if pfns else np.uint64(0)
    entries |= np.where(pages.present, _PM_PRESENT, np.uint64(0))
    entries |= np.where(pages.swapped, _PM_SWAP, np.uint64(0))
    file = (pages.normal | pages.migrating) & ((pages.state & flag_bit("anon")) == 0)
    entries |= np.where(file, _PM_FILE, np.uint64(0))
    once = pages.normal & (mapcounts(pages.state) == 1)
    entries |= np.where(once, _PM_EXCLUSIVE, np.uint64(0))
    return entries


def frames(process: Task, addr: int, n: int) -> npt.NDArray[np.int64]:
    """Return the frame of each page.

    Parameters
    ----------
    process : Process
        The process.
    addr : int
        Address of the first page, bytes.
    n : int
        Pages.

    Returns
    -------
    ndarray of int64, shape (n,)
        Frame numbers.  The zero page has one, and memory under PROT_NONE keeps its own; -1 stands
        for a page that was never touched, is swapped out, or is being moved.
    """
    start = addr & -PAGE_SIZE
    found = full(n, -1, np.int64)
    for at, count in _stretches(process, start, n):
        ptes = process._ptes(start + (at << PAGE_SHIFT), count)
        numbers = ((ptes & _PFN_MASK) >> _PFN_SHIFT).astype(np.int64)
        found[at : at + count] = np.where(ptes & _PRESENT, numbers, -1)
    return found


def nodes(process: Task, addr: int, n: int) -> npt.NDArray[np.int32]:
    """Node of each page, -1 where `frames` has no frame."""
    start = addr & -PAGE_SIZE
    found = full(n, -1, np.int32)
    for at, count in _stretches(process, start, n):
        pfns = frames(process, start + (at << PAGE_SHIFT), count)
        nids = process.machine.node_of(np.maximum(pfns, 0))
        found[at : at + count] = np.where(pfns < 0, np.int32(-1), nids)
    return found


# ---- numa_maps ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _NumaCounts:
    """What ``gather_stats`` counts in a mapping, in pages."""

    node: npt.NDArray[np.int64]
    pages: int = 0
    anon: int = 0
    dirty: int = 0
    mapmax: int = 0
    swapcache: int = 0
    active: int = 0
    writeback: int = 0


def _count(process: Task, start: int, end: int) -> _NumaCounts:
    counts = _NumaCounts(np.zeros(process.machine.nr_nodes, dtype=np.int64))
    for pages in _chunks(process, start, end):
        normal = pages.normal
        state, pte = pages.state[normal], pages.ptes[normal]
        if not len(state):
            continue
        counts.pages += len(state)
        counts.anon += _with(state, "anon")
        counts.swapcache += _with(state, "swapcache")
        counts.writeback += _with(state, "writeback")
        counts.active += _with(state, "active", "unevictable")
        dirty = ((pte & _DIRTY) != 0) | ((state & flag_bit("dirty")) != 0)
        counts.dirty += int(np.count_nonzero(dirty))
        counts.mapmax = max(counts.mapmax, int(mapcounts(state).max()))
        nid = process.machine.node_of(pages.pfn[normal])
        counts.node += np.bincount(nid, minlength=process.machine.nr_nodes)
    return counts


def _with(state: _Words, *names: str) -> int:
    bits = np.uint64(0)
    for name in names:
        bits |= flag_bit(name)
    return int(np.count_nonzero(state & bits))


def numa_maps(process: Task) -> str:
    """Return the text of ``/proc/PID/numa_maps``, a line for each mapping.

    Notes
    -----
    Counts are pages.  Each appears under the kernel's conditions: ``mapped`` only if it differs
    from ``anon`` and ``dirty``, ``mapmax`` only above 1, ``active`` only if not all pages are
    active.  The zero page does not count.  No mapping is a heap or a stack: the program itself is
    not modelled.
    """
    return "".join(_numa_line(process, vma) for vma in vmas(process))


def _numa_line(process: Task, vma: Vma) -> str:
    words = [f"{vma.start:08x}", vma.policy_text]
    if vma.path:
        words.append(f"file={_escape(vma.path)}")
    counts = _count(process, vma.start, vma.end)
    if counts.pages:
        words += _numa_words(counts)
    return " ".join(words) + "\n"


def _numa_words(counts: _NumaCounts) -> list[str]:
    shown = [
        ("anon", counts.anon, counts.anon),
        ("dirty", counts.dirty, counts.dirty),
        ("mapped", counts.pages, counts.pages not in (counts.anon, counts.dirty)),
        ("mapmax", counts.mapmax, counts.mapmax > 1),
        ("swapcache", counts.swapcache, counts.swapcache),
        ("active", counts.active, counts.active < counts.pages),
        ("writeback", counts.writeback, counts.writeback),
    ]
    words = [f"{name}={value}" for name, value, show in shown if show]
    words += [f"N{nid}={n}" for nid, n in enumerate(counts.node.tolist()) if n]
    return [*words, f"kernelpagesize_kB={PAGE_SIZE >> 10}"]


def _escape(path: str) -> str:
    return "".join(f"\\{ord(char):03o}" if char in "\n\t= " else char for char in path)


# ---- smaps -------------------------------------------------------------------------------------


def smaps(process: Task) -> list[dict[str, Any]]:
    """Return the counts of ``/proc/PID/smaps``, a dict for each mapping.

    Returns
    -------
    list of dict
        ``start``, ``end`` (bytes), ``perms``, ``offset``, ``inode``, ``path``, then the kernel's
        names with kB: Size, KernelPageSize, MMUPageSize, Rss, Pss, Pss_Dirty, Shared_Clean,
        Shared_Dirty, Private_Clean, Private_Dirty, Referenced, Anonymous, Swap, Locked; and
        ``VmFlags``.

    Notes
    -----
    A page counts as shared if it is mapped more than once.  Pages under migration count in Rss, as
    private.  Huge pages are not modelled; their lines are left out.
    """
    return [_smaps_of(process, vma) for vma in vmas(process)]


def _smaps_of(process: Task, vma: Vma) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "start": vma.start,
        "end": vma.end,
        "perms": vma.perms,
        "offset": vma.offset if vma.file else 0,
        "inode": vma.inode,
        "path": vma.path,
        "Size": vma.length >> 10,
        "KernelPageSize": PAGE_SIZE >> 10,
        "MMUPageSize": PAGE_SIZE >> 10,
    }
    sums = dict.fromkeys(_SMAPS_SUMS, 0)
    for pages in _chunks(process, vma.start, vma.end):
        _add_smaps(sums, pages)
    if not vma.flags & VM_LOCKED:
        sums["Locked"] = 0
    scaled = {"Pss", "Pss_Dirty", "Locked"}
    entry |= {k: v >> 22 if k in scaled else v << PAGE_SHIFT >> 10 for k, v in sums.items()}
    entry["VmFlags"] = " ".join(word for bit, word in _VM_LETTERS if vma.flags & bit)
    return entry


_SMAPS_SUMS: Final = (
    "Rss",
    "Pss",
    "Pss_Dirty",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Referenced",
    "Anonymous",
    "Swap",
    "Locked",
)


def _add_smaps(sums: dict[str, int], pages: Entries) -> None:
    """Add some pages; Pss and values derived from it are in bytes << 12, as in the kernel."""
    counted = pages.normal | pages.migrating
    state, pte = pages.state[counted], pages.ptes[counted]
    migrating = pages.migrating[counted]
    alone = migrating | (refcounts(state) == 1) | (mapcounts(state) < 2)
    shares = np.where(alone, 1, np.maximum(mapcounts(state), 1)).astype(np.uint64)
    pss = np.uint64(PAGE_SIZE << 12) // shares
    dirty = (state & flag_bit("dirty")) != 0
    dirty |= ~migrating & ((pte & _DIRTY) != 0)
    young = (state & flag_bit("referenced")) != 0
    young |= ~migrating & ((pte & _YOUNG) != 0)
    sums["Rss"] += len(state)
    sums["Pss"] += int(pss.sum())
    sums["Pss_Dirty"] += int(pss[dirty].sum())
    sums["Locked"] += int(pss.sum())
    sums["Shared_Clean"] += int(np.count_nonzero(~alone & ~dirty))
    sums["Shared_Dirty"] += int(np.count_nonzero(~alone & dirty))
    sums["Private_Clean"] += int(np.count_nonzero(alone & ~dirty))
    sums["Private_Dirty"] += int(np.count_nonzero(alone & dirty))
    sums["Referenced"] += int(np.count_nonzero(young))
    sums["Anonymous"] += _with(state, "anon")
    sums["Swap"] += int(np.count_nonzero(pages.swapped & ~pages.migrating))


# ---- status ------------------------------------------------------------------------------------


def status(process: Task) -> dict[str, int]:
    """Return counts of ``/proc/PID/status`` in kB.

    Returns
    -------
    dict of str to int
        VmSize, VmLck, VmRSS, RssAnon, RssFile, RssShmem.
    """
    anon, file, shmem, locked, total = (pages << PAGE_SHIFT >> 10 for pages in process._usage())
    return {
        "VmSize": total,
        "VmLck": locked,
        "VmRSS": anon + file + shmem,
        "RssAnon": anon,
        "RssFile": file,
        "RssShmem": shmem,
    }
