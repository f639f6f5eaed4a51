"""A file of a machine, which processes map, read and write."""

from typing import NoReturn, SupportsIndex

from pagemig import _memory
from pagemig.arguments import check_bool
from pagemig.constants import PAGE_SHIFT
from pagemig.errors import no_copy
from pagemig.system.node import format_size

__all__ = ["File"]


class File:
    """A file that processes can map, read and write, made by ``Machine.file``.

    Attributes
    ----------
    machine : Machine
        The machine that has it.
    index : int
        The core's number for it.
    kind : str
        ``"tmpfs"``, ``"ramfs"``, ``"ext4"`` or ``"minix"``.
    path : str
        Its name in ``numa_maps``.
    closed : bool
        Whether `close` was called.  The file exists as long as it is mapped.
    """

    __slots__ = ("_closed", "_index", "_kind", "_machine", "_path")

    _closed: bool
    _index: int
    _kind: str
    _machine: _memory.Memory
    _path: str

    def __init__(self, *_: object) -> None:
        raise TypeError("a File is made by Machine.file, not by hand")

    @classmethod
    def _of(cls, machine: _memory.Memory, index: int, kind: str, path: str) -> "File":
        """Return the file of a number that the core has just allocated."""
        self = cls.__new__(cls)
        self._machine, self._index, self._kind, self._path = machine, index, kind, path
        self._closed = False
        return self

    @property
    def machine(self) -> _memory.Memory:
        """The machine that has it."""
        return self._machine

    @property
    def index(self) -> int:
        """The core's number for it."""
        return self._index

    @property
    def kind(self) -> str:
        """Its file system."""
        return self._kind

    @property
    def path(self) -> str:
        """Its name in ``numa_maps``."""
        return self._path

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _info(self) -> tuple[int, int, int, int]:
        if self.closed:
            raise ValueError(f"{self!r} is closed")
        return self.machine._file_info(self.index)

    @property
    def size(self) -> int:
        """Bytes, a whole number of pages."""
        return self._info()[1] << PAGE_SHIFT

    @property
    def ino(self) -> int:
        """Inode number."""
        return self._info()[2]

    @property
    def cached(self) -> int:
        """Pages in the page cache."""
        return self._info()[3]

    @property
    def buffers_busy(self) -> bool:
        """Whether its buffers are in use, so that its file system cannot release them; may be set.

        A page of a ``"minix"`` file can then not be migrated.  It has no other effect.
        """
        self._info()
        return self.machine._file_busy(self.index)

    @buffers_busy.setter
    def buffers_busy(self, busy: bool) -> None:
        self._info()
        self.machine._set_file_busy(self.index, check_bool(busy, "buffers_busy"))

    def close(self) -> None:
        """Close the file; it disappears with its last mapping.  Closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self.machine._close_file(self.index)

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        no_copy(self)

    def __repr__(self) -> str:
        if self.closed:
            return f"<File {self.path}, {self.kind}, closed>"
        return f"<File {self.path}, {self.kind}, {format_size(self.size)}, ino {self.ino}>"
