"""The page frames of a machine as numpy columns.

A frame is a record of 16 bytes: a state word (flags 20 bits, references 24, mapcount 20), what it
belongs to (an anon_vma or a file) and its index there.  The raw records are a view without a copy;
decoded columns are arrays made when asked for, a piece at a time, so another thread's call may come
between two entries.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from pagemig import _memory
from pagemig.arguments import as_int
from pagemig.mm.numbers import NUMBERS
from pagemig.pieces import filled

__all__ = ["FRAME_FLAGS", "Frames", "flag_bit", "mapcounts", "refcounts"]

_NAMES: Final = (
    "locked",
    "referenced",
    "uptodate",
    "dirty",
    "lru",
    "active",
    "writeback",
    "private",
    "swapcache",
    "swapbacked",
    "mlocked",
    "unevictable",
    "anon",
    "anon_exclusive",
    "reserved",
    "isolated",
    "readahead",
    "cached",
)

#: Bit of the state word by the name of the kernel's page flag in lower case.
FRAME_FLAGS: Final = {name: NUMBERS[f"PG_{name}"].bit_length() - 1 for name in _NAMES}

_REF_SHIFT: Final = np.uint64(NUMBERS["REF_ONE"].bit_length() - 1)
_REF_MASK: Final = np.uint64(NUMBERS["REF_MASK"])
_MAP_SHIFT: Final = np.uint64(NUMBERS["MAP_ONE"].bit_length() - 1)
_FLAG_MASK: Final = np.uint64(NUMBERS["FRAME_FLAGS"])

_Words = npt.NDArray[np.uint64]
_Scalar = TypeVar("_Scalar", bound=np.generic)


def flag_bit(name: str) -> np.uint64:
    """Return the state word with one flag set."""
    return np.uint64(1 << FRAME_FLAGS[name])


def refcounts(state: _Words) -> npt.NDArray[np.uint32]:
    """Return reference counts of state words."""
    return (state >> _REF_SHIFT & _REF_MASK).astype(np.uint32)


def mapcounts(state: _Words) -> npt.NDArray[np.uint32]:
    """Return mapcounts of state words: how many page-table entries name the frame."""
    return (state >> _MAP_SHIFT).astype(np.uint32)


class Frames:
    """A read-only view of the frames of a machine: ``machine.frames``.

    Attributes
    ----------
    raw : ndarray, shape (nr_frames,)
        The records: fields ``state``, ``mapping``, ``index``.  Not a copy; it changes as the
        machine runs.
    """

    __slots__ = ("_machine", "raw")

    def __init__(self, machine: _memory.Memory) -> None:
        self._machine = machine
        self.raw: npt.NDArray[Any] = machine._frames_raw()

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        used = int(np.count_nonzero(self.refcount))
        return f"<Frames {len(self)}, {used} in use>"

    @property
    def state(self) -> _Words:
        """State words (no copy)."""
        column: _Words = self.raw["state"]
        return column

    @property
    def flags(self) -> npt.NDArray[np.uint32]:
        """Flag bits, numbered as in ``FRAME_FLAGS``."""
        return self._decoded(np.uint32, lambda state: state & _FLAG_MASK)

    @property
    def refcount(self) -> npt.NDArray[np.uint32]:
        """References: 0 is free; a long-term pin counts 1024."""
        return self._decoded(np.uint32, refcounts)

    @property
    def mapcount(self) -> npt.NDArray[np.uint32]:
        """Page-table entries that name the frame."""
        return self._decoded(np.uint32, mapcounts)

    @property
    def mapping(self) -> npt.NDArray[np.uint32]:
        """Number of the anon_vma or file the frame belongs to (no copy)."""
        column: npt.NDArray[np.uint32] = self.raw["mapping"]
        return column

    @property
    def index(self) -> npt.NDArray[np.uint32]:
        """Page offset in what it belongs to, modulo 2**32 (no copy)."""
        column: npt.NDArray[np.uint32] = self.raw["index"]
        return column

    @property
    def nid(self) -> npt.NDArray[np.int32]:
        """Node of every frame."""
        nids = self._machine._nids
        return filled(
            len(self),
            np.int32,
            lambda piece: nids(np.arange(piece.start, piece.stop, dtype=np.uint64)),
        )

    def _decoded(
        self, dtype: type[_Scalar], decode: Callable[[_Words], Any]
    ) -> npt.NDArray[_Scalar]:
        """Return what ``decode`` makes of all state words."""
        state = self.state
        return filled(len(state), dtype, lambda piece: decode(state[piece]))

    def flag(self, name: str) -> npt.NDArray[np.bool_]:
        """Return where a flag is set.

        Parameters
        ----------
        name : str
            A key of ``FRAME_FLAGS``.

        Returns
        -------
        ndarray of bool, shape (nr_frames,)

        Raises
        ------
        ValueError
            No flag has that name.
        """
        if name not in FRAME_FLAGS:
            flags = ", ".join(FRAME_FLAGS)
            raise ValueError(f"name {name!r} is not a flag; the flags are: {flags}")
        bit = flag_bit(name)
        return self._decoded(np.bool_, lambda state: state & bit != 0)

    def describe(self, pfn: int) -> str:
        """Describe one frame in a line: flags by name, counts, what it belongs to.

        Parameters
        ----------
        pfn : int
            The frame.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            There is no such frame.
        """
        number = as_int(pfn, "pfn")
        if not 0 <= number < len(self):
            raise ValueError(f"pfn must be below {len(self)}, not {pfn!r}")
        record = self.raw[number]
        state = np.asarray(record["state"])
        flags = "|".join(name for name, bit in FRAME_FLAGS.items() if int(state) >> bit & 1)
        kind = "anon_vma" if state & flag_bit("anon") else "file"
        nid = int(self._machine._nids(np.array([number], dtype=np.uint64))[0])
        return (
            f"pfn {number}: node {nid}, refcount {refcounts(state)}, mapcount {mapcounts(state)}, "
            f"{kind} {record['mapping']} index {record['index']}, {flags or '-'}"
        )
