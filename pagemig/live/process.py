"""A process of the machine that runs: where its pages are, which were used, and moving them."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pagemig.constants import MPOL_MF_MOVE, PAGE_SHIFT, PAGE_SIZE, STATUS_UNSET
from pagemig.errors import ProcessGoneError, raise_errno
from pagemig.system.numa import MoveResult
from pagemig.system.proc import Vma

__all__ = ["Process"]

#: Numbers of system calls, by machine: move_pages and migrate_pages.
_NUMBERS = {"x86_64": (279, 256), "aarch64": (239, 238), "riscv64": (239, 238)}

_IDLE = Path("/sys/kernel/mm/page_idle/bitmap")
_PFN = np.uint64((1 << 55) - 1)
_PRESENT = np.uint64(1 << 63)
_SOFT_DIRTY = np.uint64(1 << 55)
_MAPS = re.compile(
    r"(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) (?P<perms>\S{4}) (?P<offset>[0-9a-f]+) \S+ "
    r"(?P<inode>\d+) *(?P<path>.*)"
)
#: Pages asked about at once.
_BATCH = 1 << 16


class Process:
    """A process of this machine, with the methods, results and errors of the model's.

    The kernel decides what a call may do: moving pages of another user's process, reading frame
    numbers and idle bits need privileges.

    Parameters
    ----------
    pid : int, default 0
        Its number; 0 is the calling process.

    Raises
    ------
    ValueError
        ``pid`` cannot be the number of a process.
    ProcessGoneError
        No process has that number.
    """

    def __init__(self, pid: int = 0) -> None:
        if isinstance(pid, bool) or not isinstance(pid, int) or not 0 <= pid < 1 << 31:
            raise ValueError(f"pid must be the number of a process, not {pid!r}")
        self.pid = pid or os.getpid()
        self._dir = Path(f"/proc/{self.pid}")
        if not self.alive:
            raise ProcessGoneError(f"there is no process {self.pid}")

    @property
    def alive(self) -> bool:
        """Whether the process exists and is not a zombie."""
        try:
            state = (self._dir / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return state not in (b"Z", b"X")

    @property
    def cpu(self) -> int:
        """The processor that its main thread last ran on."""
        with self._asking("stat"):
            return int((self._dir / "stat").read_bytes().rpartition(b")")[2].split()[36])

    @contextmanager
    def _asking(self, call: str) -> Iterator[None]:
        """Raise the model's errors if the process is gone, or may not be inspected."""
        try:
            yield
        except (FileNotFoundError, ProcessLookupError):
            if not self.alive:
                raise ProcessGoneError(f"{call}: process {self.pid} is gone") from None
            raise
        except PermissionError as error:
            note = f"no permission to look at process {self.pid}"
            raise_errno(-(error.errno or errno.EACCES), call, note=note)

    # ---- looking ------------------------------------------------------------------------------

    def vmas(self) -> list[Vma]:
        """Return the mappings by rising address, with the policy that ``numa_maps`` prints.

        ``flags`` are those of ``perms``: 1 read, 2 write, 4 execute, 8 shared.

        Raises
        ------
        SyscallError
            EACCES: another user's process.
        ProcessGoneError
            The process has exited.
        """
        with self._asking("vmas"):
            text = (self._dir / "maps").read_text(errors="backslashreplace")
        policies = self._policies()
        found = []
        for line in text.splitlines():
            row = _MAPS.fullmatch(line)
            if row is None:
                continue
            start, end, perms = int(row["start"], 16), int(row["end"], 16), row["perms"]
            shown = zip(perms, "rwxs", strict=True)
            flags = sum(1 << bit for bit, (have, name) in enumerate(shown) if have == name)
            found.append(
                Vma(start, end, perms, int(row["offset"], 16), flags, int(row["inode"]),
                    int(row["inode"]), row["path"], None, policies.get(start, "default"), -1)
            )  # fmt: skip
        return found

    def _policies(self) -> dict[int, str]:
        try:
            lines = self.numa_maps().splitlines()
        except OSError:
            return {}
        return {int(line.split()[0], 16): line.split()[1] for line in lines if line.strip()}

    def numa_maps(self) -> str:
        """Return the text of ``/proc/PID/numa_maps``.

        Raises
        ------
        SyscallError
            ENOSYS: the kernel was built without NUMA.
        """
        path = self._dir / "numa_maps"
        if self.alive and not path.exists():
            raise_errno(-errno.ENOSYS, "numa_maps", note="this kernel was built without NUMA")
        with self._asking("numa_maps"):
            return path.read_text(errors="backslashreplace")

    def smaps(self) -> list[dict[str, Any]]:
        """Return the counts of ``/proc/PID/smaps``, a dict for each mapping, in kB.

        The keys are the kernel's names: those of the model's `pagemig.Process.smaps`, and any
        others that the kernel prints.

        Raises
        ------
        SyscallError, ProcessGoneError
            As `vmas`.
        """
        with self._asking("smaps"):
            text = (self._dir / "smaps").read_text(errors="backslashreplace")
        found: list[dict[str, Any]] = []
        for line in text.splitlines():
            if row := _MAPS.fullmatch(line):
                found.append(
                    {
                        "start": int(row["start"], 16),
                        "end": int(row["end"], 16),
                        "perms": row["perms"],
                        "offset": int(row["offset"], 16),
                        "inode": int(row["inode"]),
                        "path": row["path"],
                    }
                )
            elif found:
                name, _, value = line.partition(":")
                words = value.split()
                found[-1][name] = int(words[0]) if words[-1:] == ["kB"] else value.strip()
        return found

    def pagemap(self, addr: int, n: int, *, pfns: bool = True) -> NDArray[np.uint64]:
        """Return entries of ``/proc/PID/pagemap``.

        Parameters
        ----------
        addr : int
            Address of the first page, anywhere in it.
        n : int
            Number of pages.
        pfns : bool, default True
            Keep frame numbers; a caller without CAP_SYS_ADMIN gets 0 for them from the kernel.

        Returns
        -------
        ndarray of uint64, shape (n,)
            Entries; 0 for pages beyond the address space.

        Raises
        ------
        SyscallError, ProcessGoneError
            As `vmas`.
        """
        found = np.zeros(n, np.uint64)
        with self._asking("pagemap"), (self._dir / "pagemap").open("rb", buffering=0) as file:
            for at in range(0, n, _BATCH):
                many = min(_BATCH, n - at)
                data = os.pread(file.fileno(), 8 * many, ((addr >> PAGE_SHIFT) + at) * 8)
                entries = np.frombuffer(data[: len(data) & ~7], np.uint64)
                found[at : at + entries.size] = entries
        if not pfns:
            present = found & _PRESENT != 0
            found[present] &= ~_PFN
        return found

    def nodes(self, addr: int, n: int) -> NDArray[np.int32]:
        """Return the node of each page by ``move_pages`` without targets.

        Parameters
        ----------
        addr : int
            Address of the first page, anywhere in it.
        n : int
            Number of pages.

        Returns
        -------
        ndarray of int32, shape (n,)
            Nodes; -1 where no page is present.

        Raises
        ------
        SyscallError
            As `move_pages`.
        """
        base = addr & ~(PAGE_SIZE - 1)
        pages = base + (np.arange(n, dtype=np.uint64) << np.uint64(PAGE_SHIFT))
        return np.maximum(self.move_pages(pages).status, -1)

    # ---- which pages were used ----------------------------------------------------------------

    def clear(self) -> None:
        """Forget which pages were referenced and written so far.

        Writes 1 (referenced, which `smaps` counts) and 4 (soft dirty, which `dirty` reads) to
        ``/proc/PID/clear_refs``. Idle page tracking begins with `mark_idle`.

        Raises
        ------
        SyscallError, ProcessGoneError
            As `vmas`.
        """
        with self._asking("clear_refs"):
            for what in ("1", "4"):
                (self._dir / "clear_refs").write_text(what)

    def dirty(self, addr: int, n: int) -> NDArray[np.bool_] | None:
        """Tell which pages were written since `clear`; None if the kernel does not say.

        Needs CONFIG_MEM_SOFT_DIRTY. Without it the kernel never sets the bit, not even for a page
        that this program has just written.

        Parameters
        ----------
        addr : int
            Address of the first page, anywhere in it.
        n : int
            Number of pages.

        Returns
        -------
        ndarray of bool, shape (n,), or None
        """
        if not _soft_dirty():
            return None
        dirty: NDArray[np.bool_] = self.pagemap(addr, n) & _SOFT_DIRTY != 0
        return dirty

    def mark_idle(self, addr: int, n: int) -> bool:
        """Mark the frames of pages idle in ``page_idle/bitmap``; return whether that is allowed.

        Parameters
        ----------
        addr : int
            Address of the first page, anywhere in it.
        n : int
            Number of pages.
        """
        entries = self.pagemap(addr, n) if _IDLE.exists() else None
        frames = None if entries is None else _frames(entries)
        if frames is None:
            return False
        try:
            with _IDLE.open("r+b", buffering=0) as file:
                for word, masks in _spans(frames):
                    os.pwrite(file.fileno(), masks.tobytes(), word * 8)
        except OSError:
            return False
        return True

    def accessed(self, addr: int, n: int) -> NDArray[np.bool_] | None:
        """Tell which pages were accessed since `mark_idle`; None if the kernel does not say.

        Needs CONFIG_IDLE_PAGE_TRACKING and root. Pages that are not present count as not accessed.

        Parameters
        ----------
        addr : int
            Address of the first page, anywhere in it.
        n : int
            Number of pages.

        Returns
        -------
        ndarray of bool, shape (n,), or None
        """
        if not _IDLE.exists():
            return None
        entries = self.pagemap(addr, n)
        frames = _frames(entries)
        if frames is None:
            return None
        found = np.zeros(n, np.bool_)
        read = [np.empty(0, np.uint64)]
        try:
            with _IDLE.open("rb", buffering=0) as file:
                for word, masks in _spans(frames):
                    data = os.pread(file.fileno(), masks.nbytes, word * 8)
                    read.append(np.frombuffer(data.ljust(masks.nbytes, b"\0"), np.uint64))
        except OSError:
            return None
        words = frames >> np.uint64(6)
        bits = np.concatenate(read)[np.searchsorted(np.unique(words), words)]
        found[entries & _PRESENT != 0] = bits >> (frames & np.uint64(63)) & np.uint64(1) == 0
        return found

    # ---- moving -------------------------------------------------------------------------------

    def move_pages(
        self, pages: ArrayLike, nodes: ArrayLike | None = None, flags: int = MPOL_MF_MOVE
    ) -> MoveResult:
        """Move pages to nodes, or ask where they are.

        Parameters
        ----------
        pages : array_like of int, shape (n,)
            Addresses in bytes, anywhere in their page.
        nodes : array_like of int, shape (n,) or an int, optional
            Target of each page, or of all; None only asks.
        flags : int, default MPOL_MF_MOVE
            As for the model's `pagemig.Process.move_pages`.

        Returns
        -------
        MoveResult
            Number of pages not migrated, and for each page its node or a negative errno.

        Raises
        ------
        SyscallError
            The kernel's: EINVAL, EPERM, ESRCH, EACCES, ENODEV, ENOMEM, EFAULT; ENOSYS for a kernel
            without NUMA. ``result.status`` has the statuses stored before the error.
        TypeError, ValueError
            Not integers, or lists of different lengths.
        """
        addresses = _whole(pages, np.uint64, "pages")
        targets = None if nodes is None else _whole(nodes, np.int32, "nodes", addresses.size)
        status = np.full(addresses.size, STATUS_UNSET, np.int32)
        rc = _call(
            0,
            ctypes.c_int(0 if self.pid == os.getpid() else self.pid),
            ctypes.c_ulong(addresses.size),
            ctypes.c_void_p(addresses.ctypes.data),
            None if targets is None else ctypes.c_void_p(targets.ctypes.data),
            ctypes.c_void_p(status.ctypes.data),
            ctypes.c_int(flags),
        )
        if rc < 0:
            raise_errno(rc, "move_pages", MoveResult(rc, status))
        return MoveResult(rc, status)

    def migrate_pages(self, old: Iterable[int], new: Iterable[int]) -> int:
        """Move every page of the process from some nodes to others.

        Parameters
        ----------
        old, new : iterables of int
            Nodes from 0 to 1023.

        Returns
        -------
        int
            Number of pages that could not be moved.

        Raises
        ------
        SyscallError
            The kernel's: EINVAL, EPERM, ESRCH; ENOSYS for a kernel without NUMA.
        ValueError
            A node out of range.
        """
        masks = [np.zeros(16, np.uint64) for _ in range(2)]
        for mask, given in zip(masks, (old, new), strict=True):
            for nid in given:
                if not 0 <= nid < 1024:
                    raise ValueError(f"a node is a number from 0 to 1023, not {nid!r}")
                mask[nid >> 6] |= np.uint64(1 << (nid & 63))
        rc = _call(
            1,
            ctypes.c_int(0 if self.pid == os.getpid() else self.pid),
            ctypes.c_ulong(1025),
            *(ctypes.c_void_p(mask.ctypes.data) for mask in masks),
        )
        if rc < 0:
            raise_errno(rc, "migrate_pages")
        return rc

    def __repr__(self) -> str:
        return f"<live Process {self.pid}{'' if self.alive else ', gone'}>"


def _frames(entries: NDArray[np.uint64]) -> NDArray[np.uint64] | None:
    """Return the frame numbers of present pages; None if the kernel hides them."""
    frames: NDArray[np.uint64] = entries[entries & _PRESENT != 0] & _PFN
    return None if frames.size and not frames.any() else frames


def _spans(frames: NDArray[np.uint64]) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """Yield adjacent words of the bitmap of frames: the number of the first, and their bits."""
    frames = np.unique(frames)
    words, first = np.unique(frames >> np.uint64(6), return_index=True)
    bits = np.uint64(1) << (frames & np.uint64(63))
    masks = np.bitwise_or.reduceat(bits, first) if first.size else bits
    cuts = np.flatnonzero(np.diff(words) != 1) + 1
    for span, mask in zip(np.split(words, cuts), np.split(masks, cuts), strict=True):
        if span.size:
            yield int(span[0]), mask


def _whole(values: ArrayLike, dtype: type, name: str, n: int | None = None) -> NDArray[np.generic]:
    """Return an array of integers of ``dtype`` that the kernel can read, ``n`` long if given."""
    given = np.asarray(values)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole numbers, not {given.dtype}")
    if n is not None:
        if given.ndim == 0:
            given = np.full(n, given)
        if given.shape != (n,):
            raise ValueError(f"{name} must be one number or {n}, not of shape {given.shape}")
    if given.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not shape {given.shape}")
    limits = np.iinfo(dtype)
    if given.size and not (limits.min <= int(given.min()) and int(given.max()) <= limits.max):
        raise ValueError(f"{name} must be from {limits.min} to {limits.max}")
    return np.ascontiguousarray(given, dtype)


def _call(which: int, *args: object) -> int:
    """Make a system call; return its value or a negative errno. Releases the interpreter lock."""
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        note = f"the number of the call is not known on {platform.machine()}"
        raise_errno(-errno.ENOSYS, ("move_pages", "migrate_pages")[which], note=note)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    rc = int(libc.syscall(ctypes.c_long(numbers[which]), *args))
    return rc if rc >= 0 else -ctypes.get_errno()


def _soft_dirty() -> bool:
    """Tell whether the kernel keeps soft-dirty bits, by writing a page of this program."""
    page = np.zeros(2 * PAGE_SIZE, np.uint8)
    page[:] = 1
    addr = page.ctypes.data + PAGE_SIZE & ~(PAGE_SIZE - 1)
    data = Path("/proc/self/pagemap").open("rb", buffering=0)  # noqa: SIM115 - closed below
    with data:
        entry = os.pread(data.fileno(), 8, (addr >> PAGE_SHIFT) * 8)
    return bool(int.from_bytes(entry, "little") >> 55 & 1)
