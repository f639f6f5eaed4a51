"""The platform of processes: a machine's nodes, files, swap devices, counters and traces.

:class:`pagemig.Machine` adds the processes, and the calls that move their pages.
"""

from collections.abc import Callable
from errno import EFBIG, EINVAL, ENOENT
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from pagemig import _core, _memory
from pagemig.arguments import (
    Addresses,
    address_array,
    as_int,
    as_size,
    as_ulong,
    check_bool,
    one_of,
)
from pagemig.constants import FILE_EXT4, FILE_MINIX, FILE_RAMFS, FILE_SHMEM, PAGE_SHIFT
from pagemig.errors import raise_errno
from pagemig.kernels import KernelProfile
from pagemig.pieces import filled
from pagemig.system.files import File
from pagemig.system.frames import Frames
from pagemig.system.node import Node

__all__ = ["Platform", "SwapDevice"]

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

_TRACE_EVENTS: Final = 1 << 20
_TRACE: Final = np.dtype(
    [("step", np.uint8), ("context", np.uint16), ("pfn", np.uint32), ("arg", np.uint64)], align=True
)

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


class SwapDevice(NamedTuple):
    """A swap device.

    Attributes
    ----------
    size, used : int
        Bytes of all its slots, and of those that hold a page or are reserved for one.
    """

    size: int
    used: int


class Platform(_memory.Memory):
    """A machine without its processes; see :class:`pagemig.Machine` for its attributes."""

    nodes: tuple[Node, ...]
    profile: KernelProfile
    distances: npt.NDArray[np.uint8]
    page_bytes: int
    access_stats: bool
    _known: WeakValueDictionary[int, _core.Process]  # objects of processes, by pid
    _migrations: WeakValueDictionary[int, Any]  # migrations in progress, by handle
    _taken_up: set[Any]  # those loaded or copied with the machine, which keeps them
    # The core's number of operations that mappings have or had, and back.
    _vm_ops: dict[Callable[..., int | None], int]
    _vm_hooks: dict[int, Callable[..., int | None]]

    # ---- what it is made of -------------------------------------------------------------------

    @property
    def kernel(self) -> str:
        """Name of the modelled kernel."""
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

        It affects pages allocated from now on; present pages stay where they are.

        Parameters
        ----------
        nid : int
            The node.
        weight : int
            1 to 255.  0 restores the default, 1, in 6.12.

        Raises
        ------
        SyscallError
            ENOENT: the file does not exist, since the kernel has no weighted interleaving (before
            6.9) or the machine has no such node.  EINVAL: the weight is out of range (recorded on
            6.12 and 6.18, weighted-014).
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

        Parameters
        ----------
        cpu : int
            The processor.

        Returns
        -------
        int

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
        """Return the free bytes of a node.

        Parameters
        ----------
        nid : int
            The node.

        Returns
        -------
        int

        Raises
        ------
        ValueError
            There is no such node.
        """
        return self._node_free(self._check_nid(nid)) << PAGE_SHIFT

    @property
    def swap(self) -> tuple[SwapDevice, ...]:
        """The swap devices, and how much of each is in use."""
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
        return filled(len(numbers), np.int32, lambda piece: self._nids_of(numbers[piece]))

    def _nids_of(self, pfns: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """Return nodes of frames; ValueError for one that does not exist."""
        nids = self._nids(pfns)
        if nids.min() < 0:
            raise ValueError(f"pfns must be below {self._nr_frames}, not {pfns.max()}")
        return nids

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
            The file system.  ext2 and ext3 behave like ext4: they move the buffers of a page along
            with it.  minix has a disk but no migrate operation, like most file systems in 2006:
            dirty pages are written first (``fallback_migrate_page``).
        size : int or str
            Bytes, a whole number of pages.
        ino : int, optional
            Inode number, 1 or more; the machine numbers files otherwise.  On tmpfs it shifts
            interleaving.
        path : str, optional
            Name in ``numa_maps``.
        read_ahead : int, optional
            The most pages that are read ahead: 32 unless given, or 0 for none, as on a RAM disk of
            2006.

        Returns
        -------
        File
            The file, held open until it is closed.

        Raises
        ------
        SyscallError
            ENOMEM; EFBIG: more than 16 TiB.
        ValueError
            An unknown kind, minix on a kernel of today, an invalid size, an inode number below 1.
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
        """Every counter of the core: what the modelled kernel did, and what the host did."""
        return self._counters()

    @property
    def cpu_counters(self) -> npt.NDArray[np.uint64]:
        """The counters as they are kept, shape (processors, counters).

        A read-only view without a copy; the columns are in the order of :attr:`counters`, whose
        values are their sums.  When a call ends, it adds its counts to the row of the processor it
        ran on; :attr:`counters` also includes calls in progress.
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
        """The page tables allocated so far, shape (n, 512): entries in the x86-64 layout.

        A read-only view without a copy.  Table ``t`` has the physical page number
        ``table_pfn + t``; table 0 is unused.
        """
        return self._tables_raw()

    # ---- swap ---------------------------------------------------------------------------------

    def swap_out(self, pfns: Addresses) -> int:
        """Swap pages out, as reclaim does when memory is short, and as 2.6.16 did to migrate.

        Anonymous pages go to a slot, pages of files on a disk to their disk.  Pages of ``tmpfs``
        and ``ramfs`` stay: swapping them is not modelled.

        Parameters
        ----------
        pfns : array of int
            Frames. Their entries become swap entries, or empty where a file can be read again.

        Returns
        -------
        int
            Pages that were swapped out.

        Raises
        ------
        ValueError
            No such frame, or the machine has no swap.
        """
        if not self._swap_info():
            raise ValueError("swap_out needs a machine with swap devices: Machine(swap=...)")
        return self._swap_out(self._pfns(pfns))

    def _pfns(self, pfns: Addresses) -> npt.NDArray[np.uint32]:
        """Return a checked copy of frame numbers as the core takes them."""
        numbers = address_array(pfns, "pfns")
        return filled(len(numbers), np.uint32, lambda piece: self._existing(numbers[piece].copy()))

    def _existing(self, pfns: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return frame numbers that nobody else writes; ValueError for one that does not exist."""
        self._nids_of(pfns)
        return pfns

    def swapoff(self, device: int) -> None:
        """Take a swap device out of use: all its pages are read back into memory.

        Parameters
        ----------
        device : int
            Its number, from 0.

        Raises
        ------
        SyscallError
            EINVAL: it is not in use.  ENOMEM: memory has no room for its pages; the device is in
            use again.
        ValueError
            There is no such device.
        """
        rc = self._swapoff(self._check_device(device))
        if rc < 0:
            raise_errno(rc, "swapoff")

    def swapon(self, device: int) -> None:
        """Use a swap device again.

        Parameters
        ----------
        device : int
            Its number, from 0.

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

    # ---- operations of mappings ---------------------------------------------------------------

    def _vm_ops_number(self, migrate: Callable[..., int | None] | None) -> int:
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

    def _reserved_pfns(self, pfns: Addresses) -> npt.NDArray[np.uint32]:
        """Return frame numbers; ValueError unless the kernel keeps all of them."""
        frames = self._pfns(pfns)
        if not self._all_reserved(frames):
            raise ValueError(f"pfns must be frames kept by Node(reserved=...), not {pfns!r}")
        return frames

    # ---- the record of migrations -------------------------------------------------------------

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

        The fields are ``step`` (a key of ``STEPS``), ``context`` (the thread's), ``pfn`` and
        ``arg``: the target's frame number for a copy and a putback, the page number of the mapping
        for an unmap and a restore.

        With `trace_locks`, ``step`` may also be a key of ``LOCKS``: a lock taken since the previous
        event of that context.  Locks come in the order of the steps, within a step by kind, except
        that ``swap`` and ``tree`` of the swap cache keep their own order.  ``pfn`` is then that of
        the step the lock was taken for, or 0 if it is not known yet.
        """
        raw = self._trace_raw()
        word = raw["word"]
        trace = np.empty(len(raw), dtype=_TRACE)
        trace["step"] = word >> np.uint64(56)
        trace["context"] = word >> np.uint64(32) & np.uint64(0xFFFF)
        trace["pfn"] = word & np.uint64(0xFFFFFFFF)
        trace["arg"] = raw["arg"]
        return trace
