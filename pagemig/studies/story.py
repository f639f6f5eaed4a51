"""One small program under every kernel, with the results side by side.

The note of 2006 compares two kernels and proposes a third.  Here the same program runs under each
of them, under the merged version and under today's kernels.  It is moved, moved again, touched and
interleaved, and every figure is counted while it runs.  docs/history.md tells the story.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from errno import EAGAIN
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pagemig.arguments import as_int
from pagemig.constants import (
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    MPOL_MF_STRICT,
    PAGE_SHIFT,
    PAGE_SIZE,
    STATUS_UNSET,
)
from pagemig.errors import SyscallError
from pagemig.kernels import KERNELS, KernelProfile, kernel_profile
from pagemig.policy import Bind, Interleave
from pagemig.report import table
from pagemig.system.machine import File, Machine, Node
from pagemig.system.process import Process
from pagemig.system.uncached import UncachedAllocator

__all__ = [
    "ACTS",
    "FIGURES",
    "REGIONS",
    "TOLD_OF",
    "Figure",
    "Story",
    "Value",
    "compare",
    "introduction",
    "known_acts",
    "run",
    "text",
]

#: A number, a word (an errno, ``ok``), or None where the kernel lacks the call.
Value: TypeAlias = int | float | str | None

_Nodes: TypeAlias = npt.NDArray[np.int32]

#: The kernels of the story.  2.6.18 is that of ia64, the kind of machine the note was written for:
#: on x86-64 its mbind considers every page of a range misplaced, which hides much.
TOLD_OF: Final = tuple(name for name in KERNELS if name != "2.6.18")

#: The acts in order: a word for each, and a line.
ACTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "move": "The program is moved from node 0 to node 1, by migrate_pages",
        "locks": "Locks taken meanwhile",
        "again": "It is moved on to node 2, without touching anything in between",
        "touch": "It reads all its memory, then writes all but the file",
        "locked": "It wants to keep its locked memory where it is",
        "interleave": "It asks for its pages to be interleaved over nodes 0 to 2, by mbind",
        "hook": "A driver has mapped memory without page structures; its process is moved",
        "disposal": "A caller in the kernel looks at the lists that a migration leaves",
    }
)

#: The memory of the program, in the order of the pictures.
REGIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "anonymous": "private memory it wrote",
        "forked": "private memory it wrote before it forked: the child maps it, too",
        "file": "a file on a disk, mapped and read",
        "shared": "anonymous memory, mapped shared and written",
        "locked": "private memory under mlock",
    }
)


class Figure(NamedTuple):
    """One figure of the story.

    Attributes
    ----------
    act : str
        The act that it belongs to, a key of ``ACTS``.
    name : str
        Key in ``Story.figures``.
    title : str
        What is counted.
    why : str
        What that means, for a reader new to the kernel.
    """

    act: str
    name: str
    title: str
    why: str


#: Every figure, in the order in which they are shown.
FIGURES: Final[tuple[Figure, ...]] = (
    Figure("move", "moved", "pages moved", "the kernel's own count, pgmigrate_success"),
    Figure(
        "move", "slots", "swap slots taken", "slots on the swap device, used only to name the pages"
    ),
    Figure(
        "move",
        "entries_out",
        "page table entries taken out",
        "nobody may use a page while it moves; a page mapped twice has two",
    ),
    Figure(
        "move",
        "entries_back",
        "  and put back",
        "a fault has to find each page whose entry was not put back",
    ),
    Figure(
        "move",
        "flushes",
        "flushes of TLBs",
        "processors drop those entries; from 6.3 on one flush for a batch",
    ),
    Figure("move", "rss_before", "resident pages before", "the process's resident set (RSS)"),
    Figure("move", "rss_lowest", "  at the lowest, meanwhile", "seen after each step of the move"),
    Figure("move", "rss_after", "  after", "fewer where mappings were lost"),
    Figure(
        "move",
        "without_swap",
        "moved on a machine without swap",
        "the same program; migrate_pages reports success in any case",
    ),
    Figure(
        "locks",
        "tree_anonymous",
        "tree_lock, an anonymous page",
        "the one lock of the swap cache: all processors that migrate queue for it",
    ),
    Figure(
        "locks",
        "tree_file",
        "tree_lock, a page of the file",
        "a lock of this file only; in 2006 taken once more, since the page is dirty",
    ),
    Figure(
        "locks",
        "swap_anonymous",
        "swap_lock, an anonymous page",
        "the one lock of all swap slots, taken for each change of a slot's count",
    ),
    Figure(
        "locks",
        "swap_forked",
        "swap_lock, a forked page",
        "two processes map it: two more changes of the count",
    ),
    Figure(
        "locks",
        "all_locks",
        "tree_lock and swap_lock in all",
        "counted by the machine over the whole move",
    ),
    Figure(
        "again",
        "moved_again",
        "pages moved",
        "pages are found through the page tables, so not without an entry",
    ),
    Figure(
        "again",
        "lost",
        "pages left behind",
        "moved the first time, still on node 1 after the second",
    ),
    Figure("touch", "read_faults", "faults to read", "each fault restores the entry of a page"),
    Figure(
        "touch",
        "useless_cow",
        "write faults without a copy",
        "write permission was lost; the kernel finds that it need not copy",
    ),
    Figure(
        "touch",
        "cow",
        "write faults with a copy",
        "forked pages: the child still needs what the parent overwrites",
    ),
    Figure("locked", "locked_moved", "locked pages moved so far", "by migrate_pages, twice"),
    Figure(
        "locked",
        "locked_strict",
        "  and by mbind with STRICT",
        "which takes pages of any mapping, including those that migrate_pages skips",
    ),
    Figure("locked", "locked_answer", "  which answers", "EIO where pages did not move"),
    Figure(
        "locked",
        "pinned_moved",
        "pinned pages moved",
        "of one page: an unexplained reference keeps it in place under every kernel",
    ),
    Figure(
        "locked",
        "declared_moved",
        "VM_DONTMIGRATE pages moved",
        "by mbind with STRICT; - if the kernel has no such flag",
    ),
    Figure(
        "interleave",
        "ideal_before",
        "pages on their node, before",
        "half were written on node 0, half on node 3: some are right by chance",
    ),
    Figure(
        "interleave",
        "moved_for_it",
        "pages moved for it",
        "a page on any of the nodes 0 to 2 counts as right, except under pmig",
    ),
    Figure(
        "interleave",
        "ideal_after",
        "pages on their node, after",
        "page i belongs on node i modulo 3",
    ),
    Figure(
        "hook",
        "driver_moved",
        "pages the driver moved",
        "the kernel cannot move them; it calls the mapping's own migrate operation",
    ),
    Figure(
        "hook",
        "driver_moved_last",
        "  where it is the last mapping",
        "2.6.18 omits the last mapping",
    ),
    Figure(
        "disposal",
        "old_frames",
        "frames of moved pages it holds",
        "before they are freed, so the caller could still use them",
    ),
    Figure(
        "disposal",
        "old_content",
        "  with the content still there",
        "compared with what was written",
    ),
    Figure(
        "disposal",
        "failed",
        "pages that failed for good",
        "it learns which: here the locked pages, EPERM",
    ),
    Figure(
        "disposal",
        "retry",
        "pages it may try again",
        "it learns which: here the pinned page, EAGAIN",
    ),
    Figure(
        "disposal",
        "told",
        "pages a program is told of",
        "statuses that move_pages stored; today's kernels store none if a page fails",
    ),
)


@dataclass(frozen=True, slots=True)
class Story:
    """The results of the program under one kernel.

    Attributes
    ----------
    kernel : str
        The kernel.
    pages : int
        Pages of each region.
    figures : mapping of str to int, float, str or None
        By the names of ``FIGURES``.
    placements : mapping of str to (mapping of str to ndarray of int32)
        Node of each page, -1 where no entry maps one: by the moment (``"start"``, ``"moved"``,
        ``"moved again"``, ``"touched"``, ``"interleaved"``), then by the region.
    """

    kernel: str
    pages: int
    figures: Mapping[str, Value]
    placements: Mapping[str, Mapping[str, _Nodes]]

    def __getitem__(self, name: str) -> Any:
        """Return a figure."""
        return self.figures[name]


_LEAST_PAGES: Final = 2
#: A target list of 2006 has room for 257 frames, and two regions go on one list.
_MOST_PAGES: Final = 128
_MASK: Final = (0, 1, 2)
#: An address whose page number is a multiple of 3, so that page i belongs on node i modulo 3.  It
#: is below 2**32, so that kernels that use 32 bits of it agree with those that use all.
_INTERLEAVED: Final = 3 << 40


def run(kernel: str | KernelProfile, *, pages: int = 16) -> Story:
    """Run the program under one kernel.

    Parameters
    ----------
    kernel : str or KernelProfile
        The kernel.
    pages : int, default 16
        Pages of each region, from 2 to 128.

    Returns
    -------
    Story
        The figures.

    Raises
    ------
    ValueError
        No such kernel, or a number of pages out of range.

    Examples
    --------
    >>> from pagemig.studies import story
    >>> old, new = story.compare(["2.6.17", "2.6.18-ia64"])
    >>> old["lost"], new["lost"]
    (32, 0)
    """
    profile = kernel_profile(kernel)
    if not _LEAST_PAGES <= as_int(pages, "pages") <= _MOST_PAGES:
        raise ValueError(f"pages must be from {_LEAST_PAGES} to {_MOST_PAGES}, not {pages!r}")
    program = _Program(profile, pages, swap=True)
    program.be_moved()
    program.be_moved_again()
    program.touch_everything()
    program.keep_locked_memory()
    program.interleave()
    program.use_a_driver()
    program.look_at_lists()
    bare = _Program(profile, pages, swap=False)
    bare.app.migrate_pages([0], [1])
    program.figures["without_swap"] = bare.machine.vmstat["pgmigrate_success"]
    return Story(profile.name, pages, program.figures, program.placements)


def compare(kernels: Iterable[str | KernelProfile] = TOLD_OF, *, pages: int = 16) -> list[Story]:
    """Run the program under several kernels.

    Parameters
    ----------
    kernels : iterable of str or KernelProfile
        The kernels; all but 2.6.18 unless given.
    pages : int, default 16
        Pages of each region.

    Returns
    -------
    list of Story
        One for each.

    Raises
    ------
    ValueError
        As `run`.
    """
    return [run(kernel, pages=pages) for kernel in kernels]


class _Program:
    """The program, its machine, and the figures so far."""

    def __init__(self, profile: KernelProfile, pages: int, *, swap: bool) -> None:
        options: dict[str, Any] = {"swap": ["16MiB"]} if swap and profile.swap else {}
        self.machine = Machine(
            [Node("16MiB", cpus=1, reserved="1MiB") for _ in range(4)],
            kernel=profile,
            page_bytes=8,
            **options,
        )

        self.machine.width = 1  # page by page, so that locks can be counted for each page
        self.pages = pages
        self.figures: dict[str, Value] = {}
        self.placements: dict[str, dict[str, _Nodes]] = {}
        self.app = self.machine.spawn()
        self.base: dict[str, int] = {}
        self.child = self._set_up()
        self._note("start")

    def _set_up(self) -> Process:
        """Map the regions and fault their pages in; return the child."""
        self._map("forked", write=True)
        child = self.app.fork()
        self._map("anonymous", write=True)
        file = self.machine.file("ext4", self.pages * PAGE_SIZE)
        child.fwrite(file, 0, 1, self.pages)
        self._map("file", write=False, file=file, shared=True)
        self._map("shared", write=True, shared=True)
        self._map("locked", write=True, locked=True)
        return child

    def _map(self, name: str, *, write: bool, file: File | None = None, **how: bool) -> None:
        self.base[name] = self.app.mmap(self.size, file=file, **how)
        if write:
            self._write(name)
        else:
            self.app.touch(self.base[name], self.size)

    def _write(self, name: str) -> None:
        """Write a number to each page of a region."""
        self.app.touch(self.base[name], self.size, write=True, values=range(1, self.pages + 1))

    @property
    def size(self) -> int:
        """Size of a region in bytes."""
        return self.pages * PAGE_SIZE

    # ---- looking ------------------------------------------------------------------------------

    def _frames(self, name: str) -> npt.NDArray[np.int64]:
        """Return the frame of each page of a region, -1 where no entry maps one."""
        return self.app.frames(self.base[name], self.pages)

    def _nodes(self, name: str) -> _Nodes:
        return self.app.nodes(self.base[name], self.pages)

    def _note(self, moment: str) -> None:
        """Record where every page is."""
        names = [*REGIONS, *(name for name in self.base if name not in REGIONS)]
        self.placements[moment] = {name: self._nodes(name) for name in names}

    def _resident(self) -> int:
        """Return the pages of the process's resident set."""
        return (self.app.status()["VmRSS"] << 10) >> PAGE_SHIFT

    def _on(self, name: str, node: int) -> int:
        return int((self._nodes(name) == node).sum())

    # ---- the acts -----------------------------------------------------------------------------

    def be_moved(self) -> None:
        machine, figures = self.machine, self.figures
        resident = [self._resident()]
        old = {name: self._frames(name) for name in REGIONS}
        before = machine.counters
        locks = _LocksOfPages(machine)

        def look(_: str, pfns: list[int]) -> None:
            resident.append(self._resident())
            locks.count(pfns)

        machine.at_step(look)
        self.app.migrate_pages([0], [1])
        machine.at_step(None)
        counted = {name: value - before[name] for name, value in machine.counters.items()}
        figures["moved"] = counted["pgmigrate_success"]
        figures["slots"] = counted["swap_slots"]
        figures["entries_out"] = counted["ptes_dropped"]
        figures["entries_back"] = counted["ptes_restored"]
        figures["flushes"] = counted["tlb_flush"]
        figures["rss_before"], figures["rss_lowest"] = resident[0], min(resident)
        figures["rss_after"] = self._resident()
        self._note("moved")
        for name, lock, region in (
            ("tree_anonymous", "lock_tree", "anonymous"),
            ("tree_file", "lock_tree", "file"),
            ("swap_anonymous", "lock_swap", "anonymous"),
            ("swap_forked", "lock_swap", "forked"),
        ):
            figures[name] = locks.of(lock, old[region]) / self.pages
        figures["all_locks"] = counted["lock_tree"] + counted["lock_swap"]

    def be_moved_again(self) -> None:
        before = self.machine.vmstat["pgmigrate_success"]
        self.app.migrate_pages([1], [2])
        self.figures["moved_again"] = self.machine.vmstat["pgmigrate_success"] - before
        self._note("moved again")

    def touch_everything(self) -> None:
        figures, before = self.figures, self.machine.counters
        reads = [self.app.touch(base, self.size) for base in self.base.values()]
        figures["read_faults"] = sum(read.minflt + read.majflt for read in reads)
        self._note("touched")
        figures["lost"] = sum(self._on(name, 1) for name in REGIONS)
        for name in self.base:
            if name != "file":
                self._write(name)
        after = self.machine.counters
        figures["useless_cow"] = after["cow_reuse"] - before["cow_reuse"]
        figures["cow"] = after["cow"] - before["cow"]

    def keep_locked_memory(self) -> None:
        self.figures["locked_moved"] = self.pages - self._on("locked", 0)
        self.figures["locked_answer"] = self._bind("locked", self.size, MPOL_MF_STRICT)
        self.figures["locked_strict"] = self._on("locked", 3)
        pin = self.app.pin(self.base["anonymous"], PAGE_SIZE)
        self._bind("anonymous", PAGE_SIZE)
        self.figures["pinned_moved"] = self._on("anonymous", 3)
        self.app.unpin(pin)
        self.figures["declared_moved"] = self._declared()

    def _declared(self) -> int | None:
        """Count pages of VM_DONTMIGRATE memory that moved; None if the kernel has no such flag."""
        self._map("declared", write=True)
        try:
            self.app.madvise(self.base["declared"], self.size, "dontmigrate")
        except SyscallError:
            return None
        self._bind("declared", self.size, MPOL_MF_STRICT)
        return self._on("declared", 3)

    def _bind(self, name: str, size: int, flags: int = 0) -> str:
        """Bind a region to node 3 and move it there."""
        try:
            self.app.mbind(self.base[name], size, Bind([3]), MPOL_MF_MOVE | flags)
        except SyscallError as error:
            return error.name
        return "ok"

    def interleave(self) -> None:
        base = self.base["interleaved"] = self.app.mmap(self.size, addr=_INTERLEAVED)
        half = self.pages // 2 * PAGE_SIZE
        self.app.touch(base, half, write=True)
        self.app.cpu = 3
        self.app.touch(base + half, self.size - half, write=True)
        self.app.cpu = 0
        policy = Interleave(_MASK)
        numbers = np.arange(self.pages, dtype=np.uint64) + np.uint64(base >> PAGE_SHIFT)
        ideal = policy.targets(numbers, machine=self.machine)
        self.figures["ideal_before"] = int((self._nodes("interleaved") == ideal).sum())
        before = self.machine.vmstat["pgmigrate_success"]
        self.app.mbind(base, self.size, policy, MPOL_MF_MOVE)
        self.figures["moved_for_it"] = self.machine.vmstat["pgmigrate_success"] - before
        self.figures["ideal_after"] = int((self._nodes("interleaved") == ideal).sum())
        self._note("interleaved")

    def use_a_driver(self) -> None:
        """Move two processes with a driver's memory, one of which has a mapping above it."""
        driver = UncachedAllocator(self.machine)
        for name, above in (("driver_moved", True), ("driver_moved_last", False)):
            process = self.machine.spawn()
            if above:
                process.mmap(PAGE_SIZE)
            base = driver.mmap(process, self.size, node=0)
            process.migrate_pages([0], [1])
            self.figures[name] = int((process.nodes(base, self.pages) == 1).sum())

    def look_at_lists(self) -> None:
        """Migrate the anonymous pages, one of them pinned, and the locked ones in one call."""
        anonymous = self._frames("anonymous")
        frames = np.concatenate([anonymous, self._frames("locked")])
        pin = self.app.pin(self.base["anonymous"], PAGE_SIZE)
        if self.machine.profile.four_lists:
            self._four_lists(frames)
        else:
            self._disposed(frames)
        self.figures["told"] = self._told()
        self.app.unpin(pin)

    def _four_lists(self, frames: npt.NDArray[np.int64]) -> None:
        lists = self.machine.migrate_lists(frames, 1)
        figures, written = self.figures, range(1, self.pages + 1)
        figures["old_frames"] = lists.moved.size
        figures["old_content"] = 0 if lists.content is None else _count(lists.content, written)
        figures["failed"], figures["retry"] = lists.failed.size, lists.left.size

    def _disposed(self, frames: npt.NDArray[np.int64]) -> None:
        """Take the figures of a kernel that disposes of migrated pages at once."""
        status = self.machine.migrate_frames(frames, np.ones_like(frames)).status
        gone, again = status >= 0, status == -EAGAIN
        held = gone & (self.machine.frames.refcount[frames] > 0)
        content, figures = self.machine.content, self.figures
        figures["old_frames"] = int(held.sum())
        written = range(1, self.pages + 1)
        figures["old_content"] = 0 if content is None else _count(content[frames[held]], written)
        figures["failed"] = int((~gone & ~again).sum())
        figures["retry"] = int(again.sum())

    def _told(self) -> int | None:
        """Count the pages of the same two regions for which move_pages stores a status."""
        if "move_pages" not in self.machine.profile.calls:
            return None
        first = np.array([self.base["anonymous"], self.base["locked"]], dtype=np.uint64)
        pages = np.arange(self.pages, dtype=np.uint64) * np.uint64(PAGE_SIZE)
        addresses = (first[:, np.newaxis] + pages).ravel()
        status = self.app.move_pages(addresses, 0, MPOL_MF_MOVE_ALL).status
        return int((status != STATUS_UNSET).sum())


class _LocksOfPages:
    """Counts locks for each page, by the counters between two steps of its migration."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._before = machine.counters
        self._taken: Counter[tuple[str, int]] = Counter()

    def count(self, pfns: list[int]) -> None:
        """Count the locks since the last step, after a step of one page."""
        [pfn] = pfns
        now = self._machine.counters
        for lock in ("lock_tree", "lock_swap"):
            self._taken[lock, pfn] += now[lock] - self._before[lock]
        self._before = now

    def of(self, lock: str, pfns: Iterable[int]) -> int:
        """Return how often a lock was taken for pages."""
        return sum(self._taken[lock, pfn] for pfn in pfns)


def _count(content: npt.NDArray[np.uint64], values: range) -> int:
    return int(np.isin(content, values).sum())


# ---- what is printed --------------------------------------------------------------------------


def text(stories: Sequence[Story], acts: Iterable[str] = tuple(ACTS)) -> str:
    """Lay out stories side by side, with a line on each figure.

    Parameters
    ----------
    stories : sequence of Story
        What `compare` returned.
    acts : iterable of str
        The acts; all unless given.

    Returns
    -------
    str
        A table for each act, without a newline at the end.

    Raises
    ------
    ValueError
        No act has that name.
    """
    chosen = known_acts(acts)
    return "\n\n".join(_act_text(stories, act) for act in chosen)


def known_acts(acts: Iterable[str]) -> list[str]:
    """Put acts into the order of the story, or raise ValueError for an unknown one."""
    wanted = list(acts)
    for act in wanted:
        if act not in ACTS:
            raise ValueError(f"act {act!r} is not known; known are: {', '.join(ACTS)}")
    return [act for act in ACTS if act in wanted]


def _act_text(stories: Sequence[Story], act: str) -> str:
    """Lay out an act: figures down, kernels across, and under each figure its meaning."""
    names = max(len(figure.title) for figure in FIGURES)
    wide = max(len(_cell(value)) for story in stories for value in story.figures.values())
    columns = [story.kernel.rjust(wide) for story in stories]
    figures = [figure for figure in FIGURES if figure.act == act]
    rows = [
        [
            figure.title.ljust(names),
            *(
                _cell(story[figure.name]).rjust(len(column))
                for story, column in zip(stories, columns, strict=True)
            ),
        ]
        for figure in figures
    ]
    head, rule, *lines = table(rows, ["", *columns]).splitlines()
    explained = [f"{line}\n    {figure.why}" for line, figure in zip(lines, figures, strict=True)]
    return "\n".join([ACTS[act], head, rule, *explained])


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def introduction(stories: Sequence[Story]) -> str:
    """Describe the program, and the kernels that it runs under."""
    regions = [f"  {name:9}  {what}" for name, what in REGIONS.items()]
    kernels = [f"  {story.kernel:11}  {KERNELS[story.kernel].stands_for}" for story in stories]
    first = f"A program with {stories[0].pages} pages of each kind, on node 0 of four:"
    return "\n".join([first, *regions, "and the kernels it runs under:", *kernels])
