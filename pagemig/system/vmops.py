"""``vm_ops->migrate``: a mapping that moves its own pages, the fifth patch of the note of 2006.

2.6.18 has it (commit 7b2259b3e53f): ``migrate_pages`` calls the operation of every mapping that
has one, before any ordinary page moves, with the nodes to empty, the nodes to fill and its flags.
It is the only way to move frames without page structs, since the engine cannot find them.
``mbind`` and ``move_pages`` do not call it.
"""

import errno
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pagemig.arguments import Addresses, as_int, as_ulong
from pagemig.constants import PAGE_SHIFT, PAGE_SIZE
from pagemig.mm.numbers import NUMBERS
from pagemig.system.platform import Platform
from pagemig.system.process import Process, processes_of

__all__ = ["MigrateHook", "MigratingVma"]

_VM_PFNMAP = NUMBERS["VM_PFNMAP"]


class MigratingVma:
    """A mapping while its ``migrate`` operation runs; invalid afterwards.

    The process's mmap_lock is held for reading.  A call that changes the address space would wait
    for itself, and raises RuntimeError.

    Attributes
    ----------
    machine : Machine
        The machine that has it.
    start, end : int
        Its range in bytes, ``end`` exclusive.
    """

    __slots__ = ("_index", "_live", "_mm", "_pfnmap", "end", "machine", "start")

    machine: Platform
    start: int
    end: int
    _index: int
    _live: bool
    _mm: int
    _pfnmap: bool

    def __init__(self, *_: object) -> None:
        raise TypeError("a MigratingVma is made for a migrate operation, not by hand")

    @classmethod
    def _of(cls, machine: Platform, index: int) -> "MigratingVma":
        """Return the mapping that the core is about to migrate."""
        self = cls.__new__(cls)
        self.machine, self._index, self._live = machine, index, True
        self._mm, self.start, self.end, flags = machine._vma_info(index)
        self._pfnmap = bool(flags & _VM_PFNMAP)
        return self

    def __repr__(self) -> str:
        kind = "without page structs" if self._pfnmap else "ordinary pages"
        return f"<MigratingVma {self.start:#x}-{self.end:#x}, {kind}>"

    @property
    def process(self) -> Process | None:
        """The process that has it; None if it was reaped meanwhile."""
        return next((p for p in processes_of(self.machine) if p.alive and p._mm == self._mm), None)

    @property
    def pfns(self) -> npt.NDArray[np.int64]:
        """Frame of each page, -1 where no page is present."""
        self._must_live()
        return self.machine._vma_frames(self._index)

    def remap(self, pfns: Addresses, *, addr: int | None = None) -> None:
        """Replace frames of a mapping without page structs, and copy their content.

        Programs may use the memory meanwhile; afterwards the old frames belong to the caller.

        Parameters
        ----------
        pfns : array of int, shape (n,)
            Frames that the kernel keeps (``Node(reserved=...)``).
        addr : int, optional
            Address of the first page replaced; the first of the mapping unless given.

        Raises
        ------
        ValueError
            The mapping has ordinary pages, not all pages are in it, the kernel does not keep one of
            the frames, or the operation is over.
        """
        self._must_live()
        if not self._pfnmap:
            raise ValueError(f"only a mapping without page structs can be remapped, not {self!r}")
        numbers = self.machine._reserved_pfns(pfns)
        place = self.start if addr is None else as_ulong(addr, "addr")
        if place % PAGE_SIZE or not self.start <= place <= self.end - (len(numbers) << PAGE_SHIFT):
            raise ValueError(f"addr must leave room for {len(numbers)} pages in {self!r}: {addr!r}")
        self.machine._vma_remap(self._index, place, numbers)

    def _must_live(self) -> None:
        if not self._live:
            raise ValueError("a MigratingVma is valid only while its migrate operation runs")


#: ``hook(vma, from_nodes, to_nodes, flags)``: nodes as rising tuples, flags ``MPOL_MF_MOVE`` or
#: ``MPOL_MF_MOVE_ALL``.  None or 0: done.  A negative errno, or an ``OSError`` raised, ends the
#: call with that error.  A positive number ends the call under 2.6.18 as a success; under pmig it
#: counts as that many pages left.
MigrateHook = Callable[[MigratingVma, tuple[int, ...], tuple[int, ...], int], int | None]


def run_hook(
    machine: Platform, hook: MigrateHook, index: int, old: int, new: int, flags: int
) -> int:
    """Call a migrate operation, and return its answer as the core takes it."""
    vma = MigratingVma._of(machine, index)
    try:
        answer = hook(vma, _nodes(old), _nodes(new), flags)
    except OSError as error:
        answer = -(error.errno or errno.EIO)
    finally:
        vma._live = False
    rc = 0 if answer is None else as_int(answer, "answer of a migrate operation")
    if -rc not in errno.errorcode and not 0 <= rc < 1 << 31:
        raise ValueError(f"a migrate operation must answer a count or a negative errno, not {rc!r}")
    return rc


def _nodes(mask: int) -> tuple[int, ...]:
    return tuple(nid for nid in range(mask.bit_length()) if mask >> nid & 1)
