"""A machine: nodes with memory and processors, files, processes, and what can be seen of them."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from errno import EBUSY, EFBIG, EINVAL, ENOENT
from operator import index
from typing import Any, Final, NamedTuple, NoReturn, SupportsIndex
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from pagemig import _core, _state
from pagemig.arguments import (
    Addresses,
    address_array,
    as_int,
    as_size,
    as_ulong,
    check_bool,
    counted,
    node_array,
    one_of,
)
from pagemig.constants import (
    FILE_EXT4,
    FILE_MINIX,
    FILE_RAMFS,
    FILE_SHMEM,
    PAGE_SHIFT,
    STATUS_UNSET,
    STEP_ALLOC,
    STEP_COPY,
    STEP_FREEZE,
    STEP_ISOLATE,
    STEP_LOCK,
    STEP_PUTBACK,
    STEP_RESTORE,
    STEP_UNMAP,
    GiB,
    KiB,
    MiB,
    TiB,
)
from pagemig.errors import ProcessGoneError, StateError, no_copy, raise_errno
from pagemig.kernels import DEFAULT_KERNEL, KernelProfile, kernel_profile
from pagemig.mm.numbers import NUMBERS
from pagemig.system import migration, state
from pagemig.system.frames import Frames, flag_bit, refcounts
from pagemig.system.numa import MoveResult
from pagemig.system.process import Process
from pagemig.system.vmops import MigrateHook, run_hook

__all__ = [
    "LOCKS",
    "STEPS",
    "File",
    "ListsResult",
    "Machine",
    "Node",
    "OfflineResult",
    "SwapDevice",
]

LOCAL_DISTANCE: Final = 10
REMOTE_DISTANCE: Final = 20

_MAX_NODES: Final = NUMBERS["MAX_NODES"]
#: Frames that 32 bits can number, one number being none.
_MAX_FRAMES: Final = (1 << 32) - 1
_MAX_CPUS: Final = 4096
_PAGE_BYTES: Final = (0, 8, 4096)
#: Types of swap entries below those of migration entries, and slots that 32 bits can number.
_MAX_SWAPFILES: Final = NUMBERS["MAX_SWAPFILES"]
_MAX_SWAP_SLOTS: Final = 1 << 30
#: 16 TiB, the limit of ext4: a page's record has 32 bits for its index.
_MAX_FILE_PAGES: Final = 1 << 32
#: Pages that a disk reads ahead: 128 KiB.
_READ_AHEAD: Final = 32
_FILE_KINDS: Final = {
    "tmpfs": FILE_SHMEM,
    "ramfs": FILE_RAMFS,
    "ext4": FILE_EXT4,
    "ext3": FILE_EXT4,
    "ext2": FILE_EXT4,
    "minix": FILE_MINIX,
}

#: Steps of a migration by number, as hooks and traces name them.
STEPS: Final[dict[int, str]] = {
    STEP_ISOLATE: "isolate",
    STEP_ALLOC: "alloc",
    STEP_LOCK: "lock",
    STEP_UNMAP: "unmap",
    STEP_FREEZE: "freeze",
    STEP_COPY: "copy",
    STEP_RESTORE: "restore",
    STEP_PUTBACK: "putback",
    NUMBERS["TRACE_ROLLBACK"]: "rollback",
}

#: Locks by number, as a trace names them where ``Machine.trace_locks`` is set.
LOCKS: Final[dict[int, str]] = dict(
    enumerate(
        ("page", "zone", "lru", "ptl", "anon_vma", "i_mmap", "tree", "swap"),
        start=NUMBERS["TRACE_LOCK"],
    )
)

_TRACE_EVENTS: Final = 1 << 20
_TRACE: Final = np.dtype(
    [("step", np.uint8), ("context", np.uint16), ("pfn", np.uint32), ("arg", np.uint64)], align=True
)

#: What keeps an anon_vma alive while ``offline`` moves its pages, by the core's number.
_KEEP: Final = {
    name: NUMBERS[f"KEEP_{name.upper()}"] for name in ("refcount", "rcu", "mmap_lock", "trylock")
}

#: Names of /proc/vmstat by the core's.  What is not here is the model's own.
_VMSTAT: Final = {
    "numa_hit": "numa_hit",
    "numa_miss": "numa_miss",
    "numa_foreign": "numa_foreign",
    "numa_interleave": "numa_interleave",
    "numa_local": "numa_local",
    "numa_other": "numa_other",
    "pgalloc": "pgalloc_normal",
    "pgfree": "pgfree",
    "pgfault": "pgfault",
    "pgmajfault": "pgmajfault",
    "pgmigrate_success": "pgmigrate_success",
    "pgmigrate_fail": "pgmigrate_fail",
    "unevictable_pgs_mlocked": "unevictable_pgs_mlocked",
    "unevictable_pgs_munlocked": "unevictable_pgs_munlocked",
    "pswpin": "pswpin",
    "pswpout": "pswpout",
    "oom_kill": "oom_kill",
}


def format_size(size: int) -> str:
    """Return a size in the largest unit that leaves it whole, as ``"4 GiB"``."""
    for name, unit in (("TiB", TiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


class OfflineResult(NamedTuple):
    """What became of frames that were to be emptied.

    Attributes
    ----------
    passes : int
        Passes over what was left.
    migrated : int
        Pages that moved; those freed while they were isolated count.
    left : ndarray of uint32
        Frames still in use.
    """

    passes: int
    migrated: int
    left: npt.NDArray[np.uint32]


class ListsResult(NamedTuple):
    """What ``migrate_lists`` left for its caller to look at.

    Attributes
    ----------
    rc : int
        Pages not migrated: those that failed, and those to be tried again when the last pass ended.
    moved, failed, left : ndarray of uint32
        Old frames of pages that moved or were freed meanwhile, frames of pages that failed for
        good, and frames still on ``from``.
    content : ndarray of uint64 or None
        What the frames of ``moved`` still held; None on a machine without content.
    """

    rc: int
    moved: npt.NDArray[np.uint32]
    failed: npt.NDArray[np.uint32]
    left: npt.NDArray[np.uint32]
    content: npt.NDArray[np.uint64] | None


class SwapDevice(NamedTuple):
    """A swap device.

    Attributes
    ----------
    size, used : int
        Bytes: of all its slots, and of those that hold a page or are kept for one.
    """

    size: int
    used: int


class Node:
    """A NUMA node: memory, and processors if it has any.

    Parameters
    ----------
    size : int or str
        Bytes, or text as ``"4GiB"``; a whole number of pages, 0 for a node without memory.
    cpus : int, default 0
        Processors.
    reserved : int or str, default 0
        What the kernel keeps for itself, bytes; never given out.
    watermark : int or str, default 0
        Bytes that are left to allocations that take no other node: the low watermark.  Others fall
        back to the next node before.

    Attributes
    ----------
    size, cpus, reserved, watermark : int
        As given, in bytes.
    """

    __slots__ = ("cpus", "reserved", "size", "watermark")

    def __init__(
        self, size: int | str, cpus: int = 0, reserved: int | str = 0, watermark: int | str = 0
    ) -> None:
        self.size = as_size(size, "size")
        self.cpus = as_int(cpus, "cpus")
        self.reserved = as_size(reserved, "reserved")
        self.watermark = as_size(watermark, "watermark")
        if not 0 <= self.cpus <= _MAX_CPUS:
            raise ValueError(f"cpus must be from 0 to {_MAX_CPUS}, not {cpus!r}")
        if self.reserved > self.size:
            raise ValueError(f"reserved must be at most the size, not {reserved!r} of {size!r}")
        if self.watermark > self.size:
            raise ValueError(f"watermark must be at most the size, not {watermark!r} of {size!r}")

    def __repr__(self) -> str:
        words = [repr(format_size(self.size))]
        words += [f"cpus={self.cpus}"] if self.cpus else []
        words += [f"reserved={format_size(self.reserved)!r}"] if self.reserved else []
        words += [f"watermark={format_size(self.watermark)!r}"] if self.watermark else []
        return f"Node({', '.join(words)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Node):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, ...]:
        return (self.size, self.cpus, self.reserved, self.watermark)


class File:
    """A file that processes can map, read and write.  Made by ``Machine.file``, not by hand.

    Attributes
    ----------
    machine : Machine
        Where it is.
    index : int
        The core's number for it.
    kind : str
        ``"tmpfs"``, ``"ramfs"``, ``"ext4"`` or ``"minix"``.
    path : str
        Its name in ``numa_maps``.
    closed : bool
        No longer held open here.  It lives on while it is mapped.
    """

    __slots__ = ("_closed", "_index", "_kind", "_machine", "_path")

    _closed: bool
    _index: int
    _kind: str
    _machine: "Machine"
    _path: str

    def __init__(self, *_: object) -> None:
        raise TypeError("a File is made by Machine.file, not by hand")

    @classmethod
    def _of(cls, machine: "Machine", index: int, kind: str, path: str) -> "File":
        """Return the file of a number that the core has just given out."""
        self = cls.__new__(cls)
        self._machine, self._index, self._kind, self._path = machine, index, kind, path
        self._closed = False
        return self

    @property
    def machine(self) -> "Machine":
        """Where it is."""
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
        """No longer held open here."""
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
        """Its buffers are in use, so that its file system cannot release them; may be set.

        A page of ``"minix"`` can then not be migrated; nothing else in the model asks for buffers.
        """
        self._info()
        return self.machine._file_busy(self.index)

    @buffers_busy.setter
    def buffers_busy(self, busy: bool) -> None:
        self._info()
        self.machine._set_file_busy(self.index, check_bool(busy, "buffers_busy"))

    def close(self) -> None:
        """Let go of the file; it disappears with its last mapping.  Closing twice does nothing."""
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


class Machine(_core.Machine):
    """A machine with NUMA nodes, under one kernel.

    Parameters
    ----------
    nodes : sequence of Node, int or str
        1 to 64 nodes, or just their sizes, less than 16 TiB together.  Processors are numbered node
        by node.  A machine none of whose nodes has a processor gets one on each.
    kernel : str or KernelProfile, default "6.1"
        The kernel that runs.
    distances : array-like of int, shape (n, n), optional
        From row to column, 10 from a node to itself, 11 to 255 elsewhere, not necessarily
        symmetric.  20 between all nodes unless given.
    page_bytes : {0, 8, 4096}, default 0
        Content kept per page: none, one 64-bit number, or all bytes.
    access_stats : bool, default False
        Count accesses per page and node.
    scatter : int, optional
        Seed of an order in which frames are given out that is not ascending; ascending unless
        given.
    weights : sequence of int or mapping of int to int, optional
        Weights 1 to 255 of nodes for weighted interleaving; all 1 unless given.
    swap : sequence of int or str, optional
        Sizes of swap devices, for the kernels of 2006; none unless given.

    Attributes
    ----------
    nodes : tuple of Node
        The nodes.
    profile : KernelProfile
        The kernel's switches.
    distances : ndarray of uint8, shape (n, n)
        As given; not writable.
    page_bytes : int
        As given.
    access_stats : bool
        As given.

    Raises
    ------
    TypeError, ValueError
        An argument that describes no machine; the text names it and its value.
    MemoryError
        The host cannot reserve the address space.

    Examples
    --------
    >>> import pagemig as pm
    >>> machine = pm.Machine([pm.Node("64MiB", cpus=1), "64MiB"])
    >>> app = machine.spawn()
    >>> base = app.mmap(1 * pm.MiB)
    >>> app.touch(base, 1 * pm.MiB, write=True).minflt
    256
    >>> app.move_pages([base], 1).status.tolist()
    [1]
    """

    nodes: tuple[Node, ...]
    profile: KernelProfile
    distances: npt.NDArray[np.uint8]
    page_bytes: int
    access_stats: bool
    _known: WeakValueDictionary[int, Process]
    _vm_ops: dict[MigrateHook, int]  # core's number of operations that mappings have or had
    _vm_hooks: dict[int, MigrateHook]
    _file_type: Final = File

    def __new__(
        cls,
        nodes: Sequence[Node | int | str],
        *,
        kernel: str | KernelProfile = DEFAULT_KERNEL,
        distances: npt.ArrayLike | None = None,
        page_bytes: int = 0,
        access_stats: bool = False,
        scatter: int | None = None,
        weights: Sequence[int] | Mapping[int, int] | None = None,
        swap: Sequence[int | str] = (),
    ) -> "Machine":
        """Check the arguments and build the machine they describe."""
        profile = kernel_profile(kernel)
        made = _nodes(nodes)
        far = _distances(distances, len(made))
        table = _weight_table(weights, len(made), profile)
        if page_bytes not in _PAGE_BYTES:
            raise ValueError(f"page_bytes must be 0, 8 or 4096, not {page_bytes!r}")
        self: Machine = super().__new__(  # type: ignore[assignment]
            cls,
            [node.size >> PAGE_SHIFT for node in made],
            [node.cpus for node in made],
            far,
            page_bytes,
            profile.record().tobytes(),
            [node.reserved >> PAGE_SHIFT for node in made],
            [node.watermark >> PAGE_SHIFT for node in made],
            check_bool(access_stats, "access_stats"),
            _seed(scatter),
            _swap_slots(swap, profile),
        )
        self.nodes, self.profile, self.distances = made, profile, far
        self.page_bytes, self.access_stats = page_bytes, bool(access_stats)
        self._vm_ops, self._vm_hooks = {}, {}
        self._known = WeakValueDictionary()
        for nid, weight in enumerate(table.tolist()):
            self._set_weight(nid, weight)
        return self

    # ---- saved, copied, pickled ------------------------------------------------------------------

    def _description(self) -> dict[str, Any]:
        """Return the arguments that make a machine like this one, as JSON can hold them."""
        if self._vm_ops:
            raise StateError(
                "mappings have migrate operations in Python, which no file holds: unmap them first"
            )
        return {
            "nodes": [node._key() for node in self.nodes],
            "kernel": state.describe(self.profile),
            "distances": self.distances.tolist(),
            "page_bytes": self.page_bytes,
            "access_stats": self.access_stats,
            "swap": [device.size for device in self.swap],
        }

    @classmethod
    def _described(cls, extra: dict[str, Any]) -> "Machine":
        described = dict(extra)
        nodes = [Node(*values) for values in described.pop("nodes")]
        kernel = state.profile_of(described.pop("kernel"))
        return cls(nodes, kernel=kernel, **described)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the machine in a file: everything but hooks, which are Python's.

        What happens after `load` equals what would have happened here: contents, counters,
        frames, tables. ``path`` is the whole new file afterwards, or what it was.

        Raises
        ------
        StateError
            A call is under way, or a mapping has a migrate operation in Python.
        OSError
            The file cannot be written.
        """
        state.write(self, self._description(), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Machine":
        """Load a machine that `save` wrote.

        Every part is checked before any of it is used, and all invariants are (`check`).

        Raises
        ------
        StateError
            The file is damaged, no saved machine, or from a build with another layout; the text
            says what to do.
        OSError
            The file cannot be read.
        """
        return state.read(path, cls._described)

    def copy(self) -> "Machine":
        """Return a machine that is in the same state and goes its own way from now on.

        Raises
        ------
        StateError
            As `save`.
        """
        made = self._described(self._description())
        _state.adopt(made, _state.copy(self))
        return made

    def __copy__(self) -> "Machine":
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Machine":
        return self.copy()

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _unpickle, (state.dumps(self, self._description()),)

    def __repr__(self) -> str:
        total = sum(node.size for node in self.nodes)
        counts = (
            (self.nr_nodes, "node"),
            (self.nr_cpus, "cpu"),
            (len(self._pids()), "process"),
        )
        words = [counted(n, word) for n, word in counts]
        return f"<Machine {self.kernel}: {', '.join(words)}, {format_size(total)}>"

    # ---- what it is made of -------------------------------------------------------------------

    @property
    def kernel(self) -> str:
        """Name of the kernel that runs."""
        return self.profile.name

    @property
    def nr_nodes(self) -> int:
        """Number of nodes."""
        return len(self.nodes)

    @property
    def cpus(self) -> tuple[int, ...]:
        """Node of every processor."""
        return tuple(nid for nid, node in enumerate(self.nodes) for _ in range(node.cpus))

    @property
    def memory_nodes(self) -> tuple[int, ...]:
        """Nodes that have memory and are online, rising: what every cpuset here allows."""
        return tuple(nid for nid in range(self.nr_nodes) if self._memory_mask >> nid & 1)

    @property
    def weights(self) -> tuple[int, ...]:
        """Weight of every node for weighted interleaving."""
        return tuple(self._weights()[: self.nr_nodes].tolist())

    def set_weight(self, nid: int, weight: int) -> None:
        """Set the weight of a node, as writing to ``nodeN`` of sysfs does.

        It counts for every page allocated from now on; pages that are there stay where they are.

        Parameters
        ----------
        nid : int
            The node.
        weight : int
            1 to 255.  0 puts the default, 1, back in 6.12.

        Raises
        ------
        SyscallError
            ENOENT: there is no such file, since the kernel has no weighted interleaving (before
            6.9) or the machine no such node with memory.  EINVAL: the weight (recorded on 6.12 and
            6.18, weighted-014).
        """
        node, value = as_int(nid, "nid"), as_int(weight, "weight")
        if not self.profile.weighted:
            rule = f"Linux {self.kernel} has no weighted interleaving"
            raise_errno(-ENOENT, "set_weight", note=rule)
        if not 0 <= node < self.nr_nodes:
            raise_errno(-ENOENT, "set_weight", note=f"there is no node {nid}")
        if value == 0 and self.profile.zero_weight:
            value = 1
        if not 1 <= value <= 255:
            rule = f"a weight is from 1 to 255, not {weight}"
            raise_errno(-EINVAL, "set_weight", note=rule)
        self._set_weight(node, value)

    def cpu_node(self, cpu: int) -> int:
        """Return the node of a processor.

        Raises
        ------
        ValueError
            There is no such processor.
        """
        return self._cpu_nid(self._check_cpu(cpu))

    def _check_cpu(self, cpu: int) -> int:
        number = as_int(cpu, "cpu")
        if not 0 <= number < self.nr_cpus:
            raise ValueError(f"cpu must be from 0 to {self.nr_cpus - 1}, not {cpu!r}")
        return number

    def _check_nid(self, nid: int) -> int:
        number = as_int(nid, "nid")
        if not 0 <= number < self.nr_nodes:
            raise ValueError(f"nid must be from 0 to {self.nr_nodes - 1}, not {nid!r}")
        return number

    def _nearest(self, local: int, mask: int) -> int:
        """Return the node of ``mask`` nearest to ``local``, the lower number first."""
        row = self.distances[self._check_nid(local)]
        return min((nid for nid in self.memory_nodes if mask >> nid & 1), key=lambda n: (row[n], n))

    def free(self, nid: int) -> int:
        """Bytes of a node that are free.

        Raises
        ------
        ValueError
            There is no such node.
        """
        return self._node_free(self._check_nid(nid)) << PAGE_SHIFT

    @property
    def swap(self) -> tuple[SwapDevice, ...]:
        """The swap devices and how much of them is in use."""
        return tuple(
            SwapDevice(slots << PAGE_SHIFT, used << PAGE_SHIFT) for slots, used in self._swap_info()
        )

    def node_of(self, pfns: Addresses) -> npt.NDArray[np.int32]:
        """Return the node of frames.

        Parameters
        ----------
        pfns : array of int
            Frame numbers.

        Returns
        -------
        ndarray of int32
            Node of each.

        Raises
        ------
        ValueError
            A number beyond the last frame.
        """
        numbers = address_array(pfns, "pfns")
        nids = self._nids(numbers)
        if len(nids) and nids.min() < 0:
            raise ValueError(f"pfns must be below {self._nr_frames}, not {numbers.max()}")
        return nids

    # ---- processes ----------------------------------------------------------------------------

    def spawn(self, *, cpu: int = 0, uid: int = 0) -> Process:
        """Start a process with an empty address space.

        Parameters
        ----------
        cpu : int, default 0
            Processor it runs on.
        uid : int, default 0
            Its user; root has every capability, others have none.

        Returns
        -------
        Process
            The process.

        Raises
        ------
        SyscallError
            ENOMEM.
        ValueError
            No such processor, or a negative user.
        """
        user = as_int(uid, "uid")
        if user < 0:
            raise ValueError(f"uid must not be negative: {uid!r}")
        pid = self._spawn(self._check_cpu(cpu), user)
        if pid < 0:
            raise_errno(pid, "fork")
        return self._object(pid)

    def process(self, pid: int) -> Process:
        """Return the process with a number.

        Raises
        ------
        KeyError
            There is none.
        """
        number = as_int(pid, "pid")
        try:
            return self._object(max(number, 0))
        except ProcessGoneError:
            raise KeyError(number) from None

    @property
    def processes(self) -> list[Process]:
        """All processes that were not reaped, by rising pid; init is not listed."""
        there = []
        for pid in self._pids():
            with suppress(ProcessGoneError):  # another thread reaped it meanwhile
                there.append(self._object(pid))
        return there

    def _object(self, pid: int) -> Process:
        """Return the object of a process; ProcessGoneError: there is none.

        Objects hold their machine, not the other way round: a machine nobody refers to is gone at
        once, however many processes are left on it.
        """
        process = self._known.get(pid)
        if process is None or process._reaped:
            process = self._known[pid] = Process(self, pid)
        return process

    # ---- files --------------------------------------------------------------------------------

    def file(
        self,
        kind: str,
        size: int | str,
        *,
        ino: int | None = None,
        path: str | None = None,
        read_ahead: int | None = None,
    ) -> File:
        """Make a file, all holes.

        Parameters
        ----------
        kind : {"tmpfs", "ramfs", "ext4", "ext3", "ext2", "minix"}
            The file system it is on.  ext2 and ext3 are as ext4: they too hand the buffers of a
            page over when it moves.  minix has a disk but no migrate operation, as most had in
            2006: dirty pages are written first (``fallback_migrate_page``).
        size : int or str
            Bytes, a whole number of pages.
        ino : int, optional
            Inode number, 1 or more; the machine numbers files otherwise.  On tmpfs it shifts
            interleaving.
        path : str, optional
            Name in ``numa_maps``.
        read_ahead : int, optional
            Most pages that are read ahead: 32 on a disk; 0 on one that reads none, as a RAM disk
            of 2006.

        Returns
        -------
        File
            The file, held open until it is closed.

        Raises
        ------
        SyscallError
            ENOMEM; EFBIG: more than 16 TiB.
        ValueError
            Another kind, minix on a kernel of today, not a size, an inode number below 1.
        """
        one_of(kind, _FILE_KINDS, "kind")
        if kind == "minix" and not self.profile.counts_drop:
            raise ValueError(f"minix is modelled for the kernels of 2006 only, not {self.kernel}")
        number = 0 if ino is None else as_ulong(ino, "ino")
        if ino is not None and not 0 < ino < 1 << 63:
            raise ValueError(f"ino must be from 1 to 2**63 - 1, not {ino!r}")
        pages = as_size(size, "size") >> PAGE_SHIFT
        if pages > _MAX_FILE_PAGES:
            raise_errno(-EFBIG, "open")
        window = _READ_AHEAD if read_ahead is None else as_int(read_ahead, "read_ahead")
        if window not in (0, _READ_AHEAD):
            raise ValueError(f"read_ahead must be 0 or {_READ_AHEAD} pages, not {read_ahead!r}")
        at = self._new_file(_FILE_KINDS[kind], pages, number, window)
        if at < 0:
            raise_errno(at, "open")
        number = self._file_info(at)[2]
        name = f"/{kind}/{number}" if path is None else path
        rc = self._set_file_name(at, name.encode("utf-8", "surrogateescape"))
        if rc < 0:
            self._close_file(at)
            raise_errno(rc, "open")
        return File._of(self, at, kind, name)

    # ---- looking inside -----------------------------------------------------------------------

    @property
    def counters(self) -> dict[str, int]:
        """Every counter of the core: what the modelled kernel did and what the host waited for."""
        return self._counters()

    @property
    def cpu_counters(self) -> npt.NDArray[np.uint64]:
        """The counters as they are kept, shape (processors, counters).

        A read-only view without a copy; the columns are in the order of :attr:`counters`, whose
        values are their sums.  A call adds what it counted when it ends, to the row of the
        processor it ran on; :attr:`counters` has calls that are under way, too.
        """
        return self._counters_raw()

    @property
    def vmstat(self) -> dict[str, int]:
        """Counters by the names of ``/proc/vmstat``; migrated pages are small pages."""
        counters = self._counters()
        free = sum(self._node_free(nid) for nid in range(self.nr_nodes))
        stat = {"nr_free_pages": free}
        stat |= {name: counters[key] for key, name in _VMSTAT.items() if key in counters}
        return stat | {
            "thp_migration_success": 0,
            "thp_migration_fail": 0,
            "thp_migration_split": 0,
        }

    @property
    def frames(self) -> Frames:
        """The page frames."""
        return Frames(self)

    @property
    def content(self) -> npt.NDArray[np.uint64] | None:
        """Content of the frames as 64-bit words, shape (nr_frames, page_bytes / 8); None without.

        A read-only view without a copy.
        """
        return self._content_raw()

    @property
    def page_tables(self) -> npt.NDArray[np.uint64]:
        """The page tables handed out so far, shape (n, 512): entries in the x86-64 layout.

        A read-only view without a copy.  Table ``t`` has the physical page number
        ``table_pfn + t``; table 0 is unused.
        """
        return self._tables_raw()

    # ---- migration without a process, and its steps -------------------------------------------

    def migrate_frames(self, pfns: Addresses, nodes: Addresses) -> MoveResult:
        """Move page ``i`` to node ``i``, whoever maps it and with no process asking.

        Parameters
        ----------
        pfns : array of int, shape (n,)
            Frame numbers.
        nodes : array of int, shape (n,)
            Target of each.

        Returns
        -------
        MoveResult
            How many did not move, and a status per page: its node or a negative errno.

        Raises
        ------
        ValueError
            A frame beyond the last, or lists of different lengths.
        """
        numbers, targets = self._frames_and_nodes(pfns, nodes)
        status = np.full(len(targets), STATUS_UNSET, dtype=np.int32)
        rc = self._migrate_frames(numbers, targets, status)
        if rc < 0:
            raise_errno(rc, "migrate_frames", MoveResult(rc, status))
        return MoveResult(rc, status)

    def start_migrate_frames(
        self, pfns: Addresses, nodes: Addresses, *, cpu: int = 0
    ) -> migration.Migration:
        """Begin `migrate_frames` on a processor, which stops where time may pass.

        Parameters
        ----------
        pfns, nodes
            As of `migrate_frames`.
        cpu : int, default 0
            The processor.

        Returns
        -------
        Migration
            Iterate over it; its `result` is the `MoveResult`.

        Raises
        ------
        ValueError
            A frame beyond the last, lists of different lengths, or no such processor.
        """
        numbers, targets = self._frames_and_nodes(pfns, nodes)
        call = migration.frames_call(numbers, targets)
        return migration.begin(self, None, self._check_cpu(cpu), *call)

    def _frames_and_nodes(
        self, pfns: Addresses, nodes: Addresses
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int32]]:
        """Return frames that exist and a node for each."""
        targets = node_array(nodes, "nodes")
        numbers = self._pfns(pfns)
        if len(targets) != len(numbers):
            raise ValueError(f"nodes must be one for each of {len(numbers)} frames: {len(targets)}")
        return numbers, targets

    def migrate_lists(self, pfns: Addresses, node: int | None = None) -> ListsResult:
        """Call ``migrate_pages(from, to, moved, failed)``, and look at the lists it leaves.

        Kernels to 2.6.17 hand all pages back to the caller: the old frames of moved pages, too,
        with what is in them.  From 2.6.18 on they are disposed of at once, nothing is left to see.

        Parameters
        ----------
        pfns : array of int, shape (n,)
            Frames; those that can be isolated are on ``from``.
        node : int, optional
            Where ``to``, 257 frames at most, is allocated.  None: there is no ``to``, and the pages
            are swapped out (2.6.16 and 2.6.17).

        Returns
        -------
        ListsResult
            The lists as they were before everything on them was put back.

        Raises
        ------
        ValueError
            The kernel has no such lists, no swapping out; no such frame or node.
        """
        if not self.profile.four_lists:
            raise ValueError(f"kernel {self.kernel} disposes of pages itself: there are no lists")
        if node is None and self.profile.engine != 1:
            raise ValueError(
                f"node must be given: {self.kernel} does not swap out in migrate_pages"
            )
        to = -1 if node is None else self._check_nid(node)
        rc, moved, failed, left, content = self._migrate_lists(self._pfns(pfns), to)
        return ListsResult(rc, moved, failed, left, content)

    # ---- swap ---------------------------------------------------------------------------------

    def swap_out(self, pfns: Addresses) -> int:
        """Swap pages out: what reclaim does when memory is short, and 2.6.16 did to migrate.

        Anonymous pages go to a slot, pages of ``ext4`` and ``minix`` files to their disk; those of
        ``tmpfs`` and ``ramfs`` stay, that part is not modelled.

        Parameters
        ----------
        pfns : array of int
            Frames; whoever maps them has swap entries then, or nothing where a file can be read.

        Returns
        -------
        int
            Pages that are gone.

        Raises
        ------
        ValueError
            No such frame, or the machine has no swap.
        """
        if not self._swap_info():
            raise ValueError("swap_out needs a machine with swap devices: Machine(swap=...)")
        return self._swap_out(self._pfns(pfns))

    def _pfns(self, pfns: Addresses) -> npt.NDArray[np.uint32]:
        """Return a copy of frame numbers as the core takes them: what is checked is used."""
        numbers = address_array(pfns, "pfns").copy()
        self.node_of(numbers)
        return numbers.astype(np.uint32)

    def swapoff(self, device: int) -> None:
        """Take a swap device out of use: everything on it comes back into memory.

        Raises
        ------
        SyscallError
            EINVAL: it is not in use.  ENOMEM: there is no room for what is on it; the device is in
            use again.
        ValueError
            There is no such device.
        """
        rc = self._swapoff(self._check_device(device))
        if rc < 0:
            raise_errno(rc, "swapoff")

    def swapon(self, device: int) -> None:
        """Use a swap device again.

        Raises
        ------
        SyscallError
            EBUSY: it is in use.
        ValueError
            There is no such device.
        """
        rc = self._swapon(self._check_device(device))
        if rc < 0:
            raise_errno(rc, "swapon")

    def _check_device(self, device: int) -> int:
        number, devices = as_int(device, "device"), len(self._swap_info())
        if not 0 <= number < devices:
            raise ValueError(f"device must be below the {devices} swap devices, not {device!r}")
        return number

    def at_step(
        self, hook: Callable[[str, list[int]], object] | None, *, step: int | None = None
    ) -> None:
        """Call a function between the steps of every migration, so that a test can interfere there.

        A call that the function makes must not have to wait for that very migration, or it ends in
        a RuntimeError; :class:`pagemig.testing.actors.Actors` lets others act there that may.

        Parameters
        ----------
        hook : callable or None
            Called with the step's name (``STEPS``) and the frame numbers it handles; what it raises
            comes out of the call that migrates, once that is done.  None: no hook.
        step : int, optional
            Only after this step, ``STEP_ISOLATE`` to ``STEP_PUTBACK``.

        Raises
        ------
        ValueError
            There is no such step.
        """
        if step is not None and as_int(step, "step") not in STEPS:
            raise ValueError(f"step must be one of {STEPS}, not {step!r}")
        if hook is None:
            self._at_step(None)
            return
        if not callable(hook):
            raise TypeError(f"hook must be a function or None, not {hook!r}")
        called = hook

        def at(number: int, pfns: list[int]) -> None:
            if step in (None, number):
                called(STEPS[number], pfns)

        self._at_step(at)

    def mappings(self, pfn: int) -> list[tuple[Process, int]]:
        """Who maps a frame: processes and addresses, as the reverse map finds them, in its order.

        Raises
        ------
        ValueError
            There is no such frame.
        """
        number = as_int(pfn, "pfn")
        if not 0 <= number < self._nr_frames:
            raise ValueError(f"pfn must be below {self._nr_frames}, not {pfn!r}")
        owner = {process._mm: process for process in self.processes}
        return [(owner[mm], address) for mm, address in self._mappings(number) if mm in owner]

    # ---- operations of mappings ---------------------------------------------------------------

    def _vm_ops_number(self, migrate: MigrateHook | None) -> int:
        """Return the core's number for a migrate operation, 0 for none."""
        if migrate is None:
            return 0
        if not callable(migrate):
            raise TypeError(f"migrate must be a function or None, not {migrate!r}")
        number = self._vm_ops.get(migrate)
        if number is None:  # no length is taken for a number: another thread may register, too
            number = self._new_ops()
            self._vm_hooks[number] = migrate
            self._vm_ops[migrate] = number
        return number

    def _vma_migrate(self, ops: int, vma: int, old: int, new: int, flags: int) -> int:
        return run_hook(self, self._vm_hooks[ops], vma, old, new, flags)

    def _process_of(self, mm: int) -> Process | None:
        return next((p for p in self.processes if p.alive and p._mm == mm), None)

    # ---- emptying nodes -----------------------------------------------------------------------

    def offline(
        self,
        nid: int,
        *,
        max_passes: int = 10,
        keep: str = "refcount",
        holder: Process | None = None,
    ) -> OfflineResult:
        """Empty a node, with no process asking, and take it offline.

        From the start on no frame of it is given out.  Every page moves, mapped or only cached, to
        the nearest other node; the kernel retries without limit, this gives up after some passes.
        While a page is on the move no entry holds it, so that its last mapper may exit and take the
        page's anon_vma along; ``keep`` says what prevents that:

        ``"refcount"``
            a reference on the anon_vma (2.6.35 and later).
        ``"rcu"``
            nothing: its record stays an anon_vma until the move is over, though perhaps one of
            somebody else, which is locked and searched in vain (2.6.23 to 2.6.34).
        ``"mmap_lock"``
            the mmap_lock of ``holder``, held for reading during every batch; pages that it does not
            map are left where they are (what callers did in 2006).
        ``"trylock"``
            the mmap_lock of an address space found through the reverse map, which the note of 2006
            proposed.  It comes before page locks in the order of locks, so it can only be tried:
            while somebody holds it for writing the page stays, and the next pass tries again.

        Parameters
        ----------
        nid : int
            The node.
        max_passes : int, default 10
            Passes over what is left.
        keep : {"refcount", "rcu", "mmap_lock", "trylock"}
            What keeps anon_vmas alive.
        holder : Process, optional
            For ``"mmap_lock"``.

        Returns
        -------
        OfflineResult
            How it went; nothing is left.

        Raises
        ------
        SyscallError
            EBUSY: something is left after the last pass, a pinned page perhaps, or the kernel keeps
            frames of its own there; ENOMEM: other nodes are full; ESRCH: ``holder`` has exited.
            The node gives out frames again, what moved stays, ``result`` says what is left.
        ValueError
            No such node with memory, another ``keep``, a holder where none is needed or none.

        Examples
        --------
        >>> import pagemig as pm
        >>> machine = pm.Machine([pm.Node("1MiB", cpus=1), "1MiB"])
        >>> app = machine.spawn()
        >>> base = app.mmap(pm.PAGE_SIZE)
        >>> app.mbind(base, pm.PAGE_SIZE, pm.Bind([1]))
        >>> _ = app.touch(base, pm.PAGE_SIZE, write=True)
        >>> machine.offline(1).migrated, app.move_pages([base]).status.tolist()
        (1, [0])
        >>> machine.online(1)
        """
        number = self._check_nid(nid)
        if number not in self.memory_nodes:
            raise ValueError(f"nid must be a node with memory that is online, not {nid!r}")
        first, end = self._node_range(number)
        return self._empty("offline", number, first, end, 1 << number, max_passes, keep, holder)

    def online(self, nid: int) -> None:
        """Give out frames of a node again that is offline; nothing moves back.

        Raises
        ------
        ValueError
            It is not offline.
        """
        number = self._check_nid(nid)
        if number in self.memory_nodes or not self.nodes[number].size:
            raise ValueError(f"nid must be a node that is offline, not {nid!r}")
        self._online(number)

    def migrate_range(
        self,
        first_pfn: int,
        n: int,
        *,
        max_passes: int = 10,
        keep: str = "refcount",
        holder: Process | None = None,
    ) -> OfflineResult:
        """Empty a range of frames as ``offline`` does, without taking anything offline.

        Its frames may be given out again at once.

        Parameters
        ----------
        first_pfn, n : int
            The frames; their pages go to other nodes than those of the range.
        max_passes, keep, holder
            As for ``offline``.

        Returns
        -------
        OfflineResult
            How it went; nothing is left.

        Raises
        ------
        SyscallError
            As ``offline``; EBUSY too when no other node has memory.
        ValueError
            Frames that do not exist, or an argument as for ``offline``.
        """
        first, count = as_int(first_pfn, "first_pfn"), as_int(n, "n")
        end = first + count
        if first < 0 or count < 1 or end > self._nr_frames:
            wrong = f"not {first_pfn!r}, {n!r}"
            raise ValueError(f"first_pfn and n must be frames below {self._nr_frames}, {wrong}")
        inside = self.node_of([first, end - 1])
        nodes = sum(1 << nid for nid in range(int(inside[0]), int(inside[1]) + 1))
        return self._empty("migrate_range", -1, first, end, nodes, max_passes, keep, holder)

    def _empty(
        self,
        call: str,
        nid: int,
        first: int,
        end: int,
        away: int,
        max_passes: int,
        keep: str,
        holder: Process | None,
    ) -> OfflineResult:
        """Empty frames into the nodes with memory that are not in the mask ``away``."""
        one_of(keep, _KEEP, "keep")
        if (holder is not None) != (keep == "mmap_lock"):
            raise ValueError(f"holder must be given with keep='mmap_lock' only, not {holder!r}")
        if holder is not None and not isinstance(holder, Process):
            raise TypeError(f"holder must be a Process, not {holder!r}")
        if holder is not None and holder.machine is not self:
            raise ValueError(f"holder must be of the same machine, not {holder!r}")
        passes = as_ulong(max_passes, "max_passes")
        if not 0 < passes < 1 << 31:
            raise ValueError(f"max_passes must be from 1 to 2**31 - 1, not {max_passes!r}")
        targets = self._memory_mask & ~away
        if not targets:
            raise_errno(-EBUSY, call, OfflineResult(0, 0, self._in_use(first, end)))
        rc, done, migrated = self._evacuate(
            nid, first, end - first, targets, passes, _KEEP[keep], holder
        )
        result = OfflineResult(done, migrated, self._in_use(first, end))
        if rc < 0:
            raise_errno(rc, call, result)
        return result

    def _in_use(self, first: int, end: int) -> npt.NDArray[np.uint32]:
        """Return the numbers of frames in use that are not the kernel's own."""
        state = self._frames_raw()["state"][first:end]
        used = (refcounts(state) > 0) & (state & flag_bit("reserved") == 0)
        return (np.flatnonzero(used) + first).astype(np.uint32)

    @property
    def tracing(self) -> bool:
        """Whether steps of migrations are recorded; setting it True starts a new record.

        Up to 2**20 events are kept.
        """
        return self._tracing

    @tracing.setter
    def tracing(self, on: bool) -> None:
        if check_bool(on, "tracing"):
            self._start_trace(_TRACE_EVENTS, self.trace_locks)
        else:
            self._stop_trace()

    @property
    def trace_locks(self) -> bool:
        """Whether records started from now on hold the locks taken, too; False at first."""
        return self._trace_locks

    @trace_locks.setter
    def trace_locks(self, on: bool) -> None:
        self._trace_locks = check_bool(on, "trace_locks")

    @property
    def trace(self) -> npt.NDArray[Any]:
        """Steps of migrations, in order.

        Fields ``step`` (a key of ``STEPS``), ``context`` (the thread's), ``pfn`` and ``arg``: the
        target's frame number for a copy and a putback, the page number of the mapping for an unmap
        and a restore.  With locks, ``step`` may also be a key of ``LOCKS``: a lock taken since the
        event of that context before, in the order of the steps (within a step by kind, but ``swap``
        and ``tree`` of the swap cache in their own order); ``pfn`` is then that of the step it was
        taken for, 0 where that is not known yet.
        """
        raw = self._trace_raw()
        word = raw["word"]
        trace = np.empty(len(raw), dtype=_TRACE)
        trace["step"] = word >> np.uint64(56)
        trace["context"] = word >> np.uint64(32) & np.uint64(0xFFFF)
        trace["pfn"] = word & np.uint64(0xFFFFFFFF)
        trace["arg"] = raw["arg"]
        return trace


# ---- arguments --------------------------------------------------------------------------------


def _is_flat(values: object) -> bool:
    """Whether it is an array without dimensions, which looks iterable and is not."""
    return isinstance(values, np.ndarray) and values.ndim == 0


def _nodes(nodes: Sequence[Node | int | str]) -> tuple[Node, ...]:
    if isinstance(nodes, str | bytes) or not isinstance(nodes, Iterable) or _is_flat(nodes):
        raise TypeError(f"nodes must be a sequence of Node or sizes, not {nodes!r}")
    made = tuple(node if isinstance(node, Node) else Node(node) for node in nodes)
    if not 1 <= len(made) <= _MAX_NODES:
        raise ValueError(f"nodes must be 1 to {_MAX_NODES}, not {len(made)}")
    if not any(node.size for node in made):
        raise ValueError("nodes must have memory, one of them at least")
    if sum(node.size for node in made) >> PAGE_SHIFT > _MAX_FRAMES:
        raise ValueError(f"nodes must have less than 16 TiB together, not {list(made)}")
    if not any(node.cpus for node in made):
        made = tuple(Node(node.size, 1, node.reserved) for node in made)
    if sum(node.cpus for node in made) > _MAX_CPUS:
        raise ValueError(f"nodes must have at most {_MAX_CPUS} cpus together")
    return made


def _distances(distances: npt.ArrayLike | None, n: int) -> npt.NDArray[np.uint8]:
    """Return the distance matrix; what firmware tables may hold (``slit_valid`` in the kernel)."""
    if distances is None:
        table = np.full((n, n), REMOTE_DISTANCE, dtype=np.uint8)
        np.fill_diagonal(table, LOCAL_DISTANCE)
    else:
        given = np.asarray(distances)
        if given.shape != (n, n) or given.dtype.kind not in "iu":
            raise ValueError(f"distances must be integers of shape {(n, n)}, not {distances!r}")
        own = np.eye(n, dtype=bool)
        if (given[own] != LOCAL_DISTANCE).any():
            raise ValueError(
                f"distances must be {LOCAL_DISTANCE} from a node to itself: {distances!r}"
            )
        if ((given[~own] <= LOCAL_DISTANCE) | (given[~own] > 255)).any():
            raise ValueError(f"distances between nodes must be from 11 to 255: {distances!r}")
        table = given.astype(np.uint8)
    table = np.ascontiguousarray(table)
    table.setflags(write=False)
    return table


def _weight_table(
    weights: Sequence[int] | Mapping[int, int] | None, n: int, profile: KernelProfile
) -> npt.NDArray[np.uint8]:
    table = np.ones(_MAX_NODES, dtype=np.uint8)
    if weights is None:
        return table
    if not profile.weighted:
        raise ValueError(f"weights need a kernel with weighted interleaving, not {profile.name}")
    if not isinstance(weights, Sequence | Mapping | np.ndarray) or isinstance(weights, str | bytes):
        raise TypeError(f"weights must be a sequence or a mapping, not {weights!r}")
    pairs = weights if isinstance(weights, Mapping) else dict(enumerate(weights))
    if not isinstance(weights, Mapping) and len(weights) != n:
        raise ValueError(f"weights must be one for each of {n} nodes, not {weights!r}")
    for nid, weight in pairs.items():
        if not (hasattr(nid, "__index__") and hasattr(weight, "__index__")):
            raise TypeError(f"weights must be integers, not {weights!r}")
        if not 0 <= index(nid) < n or not 1 <= index(weight) <= 255:
            raise ValueError(f"weights must be from 1 to 255 for nodes below {n}, not {weights!r}")
        table[nid] = weight
    return table


def _swap_slots(swap: Sequence[int | str], profile: KernelProfile) -> list[int]:
    """Pages of each swap device."""
    if isinstance(swap, str | bytes) or not isinstance(swap, Iterable) or _is_flat(swap):
        raise TypeError(f"swap must be a sequence of sizes, not {swap!r}")
    slots = [as_size(size, "swap") >> PAGE_SHIFT for size in swap]
    if slots and not profile.swap:
        raise ValueError(f"swap is modelled for the kernels of 2006 only, not for {profile.name}")
    if len(slots) > _MAX_SWAPFILES or sum(slots) >= _MAX_SWAP_SLOTS:
        raise ValueError(f"swap must be {_MAX_SWAPFILES} devices at most, 4 TiB in all: {swap!r}")
    if not all(slots):
        raise ValueError(f"swap must be devices of a page at least, not {swap!r}")
    return slots


def _seed(scatter: int | None) -> int:
    if scatter is None:
        return 0
    seed = as_ulong(scatter, "scatter")
    if not 0 < seed < 1 << 63:
        raise ValueError(f"scatter must be from 1 to 2**63 - 1, not {scatter!r}")
    return seed


def _unpickle(data: bytes) -> Machine:
    return state.loads(data, Machine._described)
