"""The visible state of a process after each operation, in the format of the recordings."""

from collections.abc import Iterable
from dataclasses import dataclass
from errno import EACCES, EFAULT, ENOENT
from itertools import groupby
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from pagemig.constants import (
    PAGE_SHIFT,
    PAGE_SIZE,
)
from pagemig.scenario.language import STACK, WINDOW, Json, Pages
from pagemig.system.frames import flag_bit, mapcounts, refcounts
from pagemig.system.machine import Machine
from pagemig.system.proc import VM_LOCKED, Vma, take_apart
from pagemig.system.process import Process

__all__ = ["Scene", "View", "runs"]

_HEX: Final = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_DIGITS: Final = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", dtype=np.uint8)
_MOST_MAPS: Final = 34
_MOST_REFS: Final = 35
_DOT: Final = np.uint8(ord("."))
_ZERO_PAGE: Final = np.uint8(ord("z"))

#: Digit of a page in ``bits`` by the bits of its pagemap entry.
_PAGEMAP_BITS: Final = ((63, 1), (56, 2), (61, 4), (62, 8))


def _flag_digits(**digits: int) -> tuple[tuple[int, int], ...]:
    return tuple((int(flag_bit(name)).bit_length() - 1, digit) for name, digit in digits.items())


#: The same for ``pte``, ``flags`` and ``flags2`` in recordings of kernels without pagemap.
_ENTRY_BITS: Final = ((1, 1), (6, 2), (5, 4), (8, 8))
_LIST_FLAGS: Final = _flag_digits(lru=1, active=2, dirty=4, swapcache=8)
_STATE_FLAGS: Final = _flag_digits(locked=1, private=2, writeback=4, referenced=8)
_MIGRATION_READ: Final = 29
_MIGRATION_WRITE: Final = 31

#: Words of numa_maps that are not recorded: they depend on the recent history of the page lists.
_UNRECORDED: Final = ("active", "writeback", "kernelpagesize_kB", "file")

#: Character of a status in ``query``; negative numbers index from the end.
_QUERY: Final = np.full(256, ord("?"), dtype=np.uint8)
_QUERY[: len(_DIGITS)] = _DIGITS
_QUERY[[-ENOENT, -EACCES, -EFAULT]] = np.frombuffer(b".AF", dtype=np.uint8)

_Text: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """A machine that a scenario runs on, and what is needed to read its state.

    Attributes
    ----------
    machine : Machine
    observer : Process
        A process with every privilege, which queries the others.
    content : ndarray of uint64
        The token of every frame, without a copy.
    files : dict of int to int
        Number of a file in the scenario, by its index in the machine.
    anchor : tuple of int
        Start and end of a mapping in the window that is not part of the scenario; or empty.
    brief : bool
        Pages are shown as runs of equal ones.
    """

    machine: Machine
    observer: Process
    content: Pages
    files: dict[int, int]
    anchor: tuple[int, ...]
    brief: bool

    def is_outside(self, start: int, end: int) -> bool:
        """Tell whether a mapping is not the scenario's: outside the window, or the anchor."""
        return start < WINDOW or start >= STACK or (start, end) == self.anchor

    def locked_outside(self, process: Process) -> int:
        """Return locked memory outside the scenario, kB: mlockall locks the program, too."""
        rows = process._vmas()
        locked = rows[rows["flags"] & VM_LOCKED != 0]
        spans = zip(locked["start"].tolist(), locked["end"].tolist(), strict=True)
        return int(sum(end - start for start, end in spans if self.is_outside(start, end))) >> 10

    def rows(self, process: Process) -> Any:
        """Return the scenario's mappings of a process."""
        rows = process._vmas()
        spans = zip(rows["start"].tolist(), rows["end"].tolist(), strict=True)
        return rows[[not self.is_outside(start, end) for start, end in spans]]

    def frames(self, spans: Iterable[tuple[Process, int, int]]) -> Pages:
        """Return the frames in ranges of processes, each an address and a number of pages."""
        ptes = _joined([process._ptes(addr, n) for process, addr, n in spans])
        pages = take_apart(self.machine, ptes)
        return pages.pfn[pages.normal]


class View:
    """The visible state of one process's window: arrays over all its mapped pages, in order.

    Parameters
    ----------
    scene : Scene
        The machine.
    process : Process
        The process.
    rewritten : ndarray of uint64, optional
        Frames that a program is writing to: a reader may see two generations of one.
    """

    def __init__(self, scene: Scene, process: Process, rewritten: Pages | None = None) -> None:
        self.scene = scene
        self.process = process
        self.rows = scene.rows(process)
        self.spans = [
            (start, (end - start) >> PAGE_SHIFT)
            for start, end in zip(
                self.rows["start"].tolist(), self.rows["end"].tolist(), strict=True
            )
        ]
        ptes = [process._ptes(start, n) for start, n in self.spans]
        self.pages = take_apart(scene.machine, _joined(ptes))
        self.content = scene.content[np.where(self.pages.present, self.pages.pfn, 0)]
        self.torn = np.zeros(len(self.content), dtype=np.bool_)
        if rewritten is not None:
            self.torn = self.pages.present & np.isin(self.pages.pfn, rewritten)
        self.locked = process.status()["VmLck"] - scene.locked_outside(process)

    def key(self) -> tuple[object, ...]:
        """Return everything the state is made from, cheap to compare with an earlier one."""
        pages = self.pages
        arrays = (self.rows, pages.ptes, pages.state, self.content, self.torn)
        policy = self.process._get_task_policy()
        return (self.locked, policy, *(array.tobytes() for array in arrays))

    def state(self) -> Json:
        """Return the state in the recorded format."""
        texts = {"node": self._node()}
        if "move_pages" in self.scene.machine.profile.calls:
            texts["query"] = self._query()
        texts |= {
            "bits": self._bits(),
            "mapcount": self._mapcount(),
            "kind": self._kind(),
        }
        if not self.scene.machine.profile.pagemap:
            texts |= self._from_memory()
        policies = self._numa_maps()
        outside = self.scene.is_outside
        shown = [vma for vma in self.process.vmas() if not outside(vma.start, vma.end)]
        vmas, first = [], 0
        for vma in shown:
            part = slice(first, first := first + vma.pages)
            entry = self._described(vma)
            entry["policy"], entry["stat"] = policies[vma.start]
            entry.update((name, self._shown(text[part])) for name, text in texts.items())
            entry["val"] = self._values(part)
            vmas.append(entry)
        return {"locked_kb": self.locked, "vmas": vmas}

    def _described(self, vma: Vma) -> Json:
        at = (vma.start - WINDOW) >> PAGE_SHIFT
        entry: Json = {"at": at, "n": vma.pages, "prot": vma.perms}
        if vma.file:
            number = self.scene.files.get(vma.file)
            entry |= {"shared_anon": True} if number is None else {"file": number}
            entry |= {"off": vma.offset >> PAGE_SHIFT, "ino": vma.inode}
        return entry

    def _numa_maps(self) -> dict[int, tuple[str, dict[str, int]]]:
        """Return policy and counts of each mapping by its address, from the text of numa_maps.

        The recordings have ``prefer-many`` for the kernel's ``prefer (many)``, and of other
        policies only the text before a blank (``weighted interleave:0-3``).
        """
        found = {}
        for line in self.process.numa_maps().splitlines():
            start, policy, *words = line.replace("prefer (many)", "prefer-many").split(" ")
            if policy == "weighted":
                words = words[1:]
            counts = (word.split("=", 1) for word in words if "=" in word)
            stat = {name: int(count) for name, count in counts if name not in _UNRECORDED}
            if self.scene.machine.profile.pagemap:
                stat.pop("swapcache", None)  # recorded of kernels without pagemap alone
            found[int(start, 16)] = policy, stat
        return found

    def _shown(self, text: _Text) -> str | list[list[Any]]:
        return _text_runs(text) if self.scene.brief else text.tobytes().decode()

    def _over_zero(self, text: _Text) -> _Text:
        """Replace ``text`` by ``z`` for the zero page, and by ``.`` where no page is."""
        pages = self.pages
        return np.where(pages.normal, text, np.where(pages.present, _ZERO_PAGE, _DOT))

    def _node(self) -> _Text:
        pfns = np.where(self.pages.normal, self.pages.pfn, 0)
        return self._over_zero(_DIGITS[self.scene.machine.node_of(pfns)])

    def _mapcount(self) -> _Text:
        return self._over_zero(_DIGITS[np.minimum(mapcounts(self.pages.state), _MOST_MAPS)])

    def _bits(self) -> _Text:
        entries = _joined([self.process.pagemap(start, n) for start, n in self.spans])
        return _HEX[_digits(entries, _PAGEMAP_BITS)]

    def _kind(self) -> _Text:
        pages = self.pages
        kinds = np.where(pages.state & flag_bit("anon"), 1, 0)
        kinds |= np.where(pages.state & flag_bit("mlocked"), 2, 0)
        kinds = np.where(pages.normal, kinds, 8)
        return np.where(pages.present, _HEX[kinds], _DOT)

    def _from_memory(self) -> dict[str, _Text]:
        """Return what recordings of a kernel without pagemap read from memory."""
        pages, ptes = self.pages, self.pages.ptes
        entry = _HEX[_digits(ptes, _ENTRY_BITS)]
        entry[pages.swapped & ~pages.migrating] = ord("s")
        for kind, letter in ((_MIGRATION_READ, "r"), (_MIGRATION_WRITE, "w")):
            entry[pages.migrating & (ptes >> np.uint64(59) == kind)] = ord(letter)
        refs = _DIGITS[np.minimum(refcounts(pages.state), _MOST_REFS)]
        listed, state = (_HEX[_digits(pages.state, bits)] for bits in (_LIST_FLAGS, _STATE_FLAGS))
        # The zero page: more references than a digit holds, on no list, referenced.
        shown = (("count", refs, "z"), ("flags", listed, "0"), ("flags2", state, "8"))
        texts = {
            name: np.where(pages.present, np.where(pages.normal, text, np.uint8(ord(zero))), _DOT)
            for name, text, zero in shown
        }
        return {"pte": np.where(ptes != 0, entry, _DOT), **texts}

    def _query(self) -> _Text:
        """Return what a query with every privilege answers for each page."""
        pages = [
            np.arange(start, start + (n << PAGE_SHIFT), PAGE_SIZE, dtype=np.uint64)
            for start, n in self.spans
        ]
        answer = self.scene.observer.move_pages(_joined(pages), None, 0, pid=self.process)
        return _QUERY[answer.status]

    def _values(self, part: slice) -> bool | list[Any] | None:
        present, values = self.pages.present[part], self.content[part]
        if self.scene.brief:
            steps = values[present] - np.arange(len(values), dtype=np.uint64)[present]
            return bool((steps == steps[0]).all()) if len(steps) else None
        shown = values.astype(object)
        shown[~present] = None
        shown[self.torn[part]] = "torn"
        listed: list[Any] = shown.tolist()
        return listed


def _digits(words: Pages, bits: Iterable[tuple[int, int]]) -> Pages:
    """Return a digit for each word: of each pair the second, if bit number the first is set."""
    digits = np.zeros(len(words), dtype=np.uint64)
    for shift, digit in bits:
        digits |= (words >> np.uint64(shift) & np.uint64(1)) * np.uint64(digit)
    return digits


def _joined(parts: list[Pages]) -> Pages:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)


def _text_runs(text: _Text) -> list[list[Any]]:
    """Return run lengths: ``[character, how many]`` for each run of equal characters."""
    starts = np.flatnonzero(np.diff(text, prepend=text[:1] ^ 1))
    lengths = np.diff(starts, append=len(text))
    return [[chr(text[i]), int(n)] for i, n in zip(starts, lengths, strict=True)]


def runs(values: Iterable[Any]) -> list[list[Any]]:
    """Return run lengths of any values."""
    return [[value, sum(1 for _ in group)] for value, group in groupby(values)]
