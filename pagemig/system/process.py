"""A process: the calls it makes, the memory it touches, and what ``/proc`` shows of it.

The core does the work; this module turns a caller's arguments into the core's numbers, and the
core's answers into results or errors.  Addresses and lengths are bytes.  The calls about placement
(``move_pages``, ``mbind``, ...) are in :mod:`pagemig.system.numa`.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from errno import ENOSYS
from typing import Any, Final, NoReturn, SupportsIndex

import numpy as np
import numpy.typing as npt

from pagemig import _api, _calls
from pagemig.arguments import (
    Addresses,
    NodeSet,
    address_array,
    as_int,
    as_size,
    as_ulong,
    check_bool,
    counted,
    one_of,
    prot_bits,
    word_of,
)
from pagemig.constants import (
    FADV_BY_NAME,
    MADV_BY_NAME,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_LOCKED,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    MLOCK_ONFAULT,
    MPOL_MF_MOVE,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_SHIFT,
    PAGE_SIZE,
    SIGNAL_NAMES,
    Pointer,
)
from pagemig.errors import ProcessGoneError, errno_of, no_copy
from pagemig.pieces import PIECE, filled, full, joined
from pagemig.policy import Policy
from pagemig.system import migration, proc
from pagemig.system.files import File
from pagemig.system.migration import Migration
from pagemig.system.numa import NumaCalls, Pid
from pagemig.system.platform import Platform

__all__ = ["AccessResult", "Pin", "Process", "TouchResult"]

_UINT64: Final = np.dtype(np.uint64)
_ndarray: Final = np.ndarray
_PIECE: Final = 1 << 22  # pages of a touch at a time
_PIN_WAYS: Final = {"pipe": False, "uring": True}


@dataclass(slots=True, eq=False)
class TouchResult:
    """The result of touching a range.

    Attributes
    ----------
    done : int
        Pages touched.
    minflt, majflt : int
        Minor and major faults taken.
    signal : str or None
        ``"SIGSEGV"``, ``"SIGBUS"`` or ``"SIGKILL"`` if one stopped it.
    index : int or None
        Index into the range of the page that caused the signal.
    values : ndarray of uint64, shape (done,), or None
        The values read, one per page; None for a write and for a machine without content.
    """

    done: int
    minflt: int
    majflt: int
    signal: str | None
    index: int | None
    values: npt.NDArray[np.uint64] | None


@dataclass(slots=True, eq=False)
class AccessResult:
    """The result of a list of accesses.

    Attributes
    ----------
    done : int
        Accesses completed.
    minflt, majflt : int
        Minor and major faults taken.
    signal : str or None
        The signal that stopped them, if one did.
    index : int or None
        Index of the access that caused it.
    """

    done: int
    minflt: int
    majflt: int
    signal: str | None
    index: int | None


@dataclass(frozen=True, slots=True)
class Pin:
    """Pages held by an open file of a process: they cannot be migrated until it is closed.

    Attributes
    ----------
    handle : int
        Number of the file; a child forked meanwhile holds it under the same number.
    rc : int
        What the call returned: the number of pages for a pipe, 0 for registered buffers.
    count : int
        Pages held.
    how : str
        ``"pipe"`` or ``"uring"``.
    machine : Machine
        The machine that has the pages.
    """

    handle: int
    rc: int
    count: int
    how: str
    machine: Platform = field(repr=False)


class Process(NumaCalls):
    """A process of a machine, made by ``Machine.spawn`` or :meth:`fork`, not by its constructor.

    Any number of threads may make calls of one process.  If another thread ends the process during
    a call, the call continues with the memory, the credentials and the policy that it began with,
    and never sees those of a process started since.  A later call raises ``ProcessGoneError``.  A
    call about another process (``pid=``) that was reaped meanwhile answers ESRCH.

    Attributes
    ----------
    machine : Machine
        The machine that it runs on.
    pid : int
        Its number, as the ``pid`` of a call.
    """

    __slots__ = ()

    def __init__(self, machine: Platform, pid: int) -> None:
        self.machine = machine

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        no_copy(self)

    def __repr__(self) -> str:
        if self._reaped:
            return f"<Process {self.pid}, exited>"
        if not self.alive:
            return f"<Process {self.pid}, zombie>"
        try:
            mappings, pages = self._size()
            who = f"Process {self.pid}, uid {self._cred()[0]}, cpu {self._get_cpu()}"
        except ProcessGoneError:  # another thread ended it meanwhile
            return f"<Process {self.pid}, exited>"
        return f"<{who}, {counted(mappings, 'mapping')}, {pages * PAGE_SIZE >> 10} kB>"

    # ---- user and processor -------------------------------------------------------------------

    @property
    def uid(self) -> int:
        """Real user id."""
        self._must_live("getuid")
        return self._cred()[0]

    @property
    def cpu(self) -> int:
        """Processor it runs on; may be set to move it."""
        self._must_live("getcpu")
        return self._get_cpu()

    @cpu.setter
    def cpu(self, cpu: int) -> None:
        self._must_live("sched_setaffinity")
        self._set_cpu(self.machine._check_cpu(cpu))

    @property
    def node(self) -> int:
        """Node of the processor it runs on."""
        return self.machine.cpu_node(self.cpu)

    # ---- the address space --------------------------------------------------------------------

    def mmap(
        self,
        length: int,
        *,
        addr: int | None = None,
        prot: int | str = "rw",
        shared: bool = False,
        file: File | None = None,
        offset: int = 0,
        fixed: bool | None = None,
        populate: bool = False,
        locked: bool = False,
        noreplace: bool = False,
    ) -> int:
        """Map memory.

        Parameters
        ----------
        length : int
            Bytes, rounded up to pages.
        addr : int, optional
            Where; the model chooses otherwise.
        prot : str or int, default "rw"
            Letters of ``rwx`` or ``PROT_*``; ``""`` allows nothing.
        shared : bool, default False
            MAP_SHARED; without a file, memory that is shared with children.
        file : File, optional
            The file to map; anonymous memory otherwise.
        offset : int, default 0
            Place in the file, bytes.
        fixed : bool, optional
            MAP_FIXED: exactly at ``addr``, replacing what is there.  True if ``addr`` is given.
        populate, locked : bool, default False
            MAP_POPULATE, MAP_LOCKED: fault the pages in now.
        noreplace : bool, default False
            MAP_FIXED_NOREPLACE: refuse to replace anything.

        Returns
        -------
        int
            The address.

        Raises
        ------
        SyscallError
            EINVAL (length 0, unaligned address or offset), ENOMEM (address space, locked memory),
            EEXIST (``noreplace``), EAGAIN (locked memory), EACCES.
        """
        self._must_live("mmap")
        place = as_ulong(0 if addr is None else addr, "addr")
        start = as_ulong(offset, "offset")
        if fixed is None:
            fixed = addr is not None
        elif check_bool(fixed, "fixed") and addr is None:
            raise ValueError("fixed=True needs an addr")
        flags = _map_flags(file, shared=shared, fixed=fixed, noreplace=noreplace)
        flags |= MAP_POPULATE if check_bool(populate, "populate") else 0
        flags |= MAP_LOCKED if check_bool(locked, "locked") else 0
        bits = prot_bits(prot)
        size = as_ulong(length, "length")
        index = 0 if file is None else self._index_of(file)
        rc = self._mmap(place, size, bits, flags, index, start)
        return self._done("mmap", rc, addr=place, offset=start)

    def mmap_pfns(
        self,
        pfns: Addresses,
        *,
        prot: int | str = "rw",
        migrate: Callable[..., int | None] | None = None,
    ) -> int:
        """Map frames without page structs, as a driver's ``mmap`` does (``remap_pfn_range``).

        The mapping is shared, VM_PFNMAP, VM_IO, VM_DONTEXPAND and VM_DONTCOPY: a child does not
        inherit it, and no system call moves its frames; only its ``migrate`` operation may.

        Parameters
        ----------
        pfns : array of int, shape (n,)
            Frames that the kernel keeps (``Node(reserved=...)``), one for each page.
        prot : str or int, default "rw"
            Letters of ``rw`` or ``PROT_*``.
        migrate : callable, optional
            The mapping's migrate operation, see :meth:`set_vm_ops`.

        Returns
        -------
        int
            The address.

        Raises
        ------
        SyscallError
            EINVAL (no frames), ENOMEM.
        ValueError
            A frame that the kernel does not keep.
        """
        self._must_live("mmap")
        numbers = self.machine._reserved_pfns(pfns)
        ops = self.machine._vm_ops_number(migrate)
        rc = self._mmap_pfns(numbers, prot_bits(prot), ops)
        return self._done("mmap", rc)

    def set_vm_ops(self, addr: int, *, migrate: Callable[..., int | None] | None) -> None:
        """Set or remove the ``migrate`` operation of a mapping.

        ``migrate_pages`` of 2.6.18 and of pmig calls it before any ordinary page moves, for every
        mapping that has one, with or without page structs; other kernels never do.  2.6.18 omits
        the last mapping of an address space.  The mapping no longer merges with others; parts of it
        and a child's copy keep the operation.

        Parameters
        ----------
        addr : int
            An address in it.
        migrate : callable or None
            ``migrate(vma, from_nodes, to_nodes, flags)`` with a
            :class:`pagemig.system.vmops.MigratingVma`.  None or 0: done.  A negative errno, or an
            ``OSError`` raised: ``migrate_pages`` ends with it and no page moves.  A positive number
            ends it under 2.6.18 with 0, under pmig it counts as pages left.

        Raises
        ------
        SyscallError
            EFAULT: nothing is mapped there.
        TypeError
            ``migrate`` cannot be called.
        """
        self._must_live("set_vm_ops")
        ops = self.machine._vm_ops_number(migrate)
        start = as_ulong(addr, "addr")
        self._done("set_vm_ops", self._vm_ops(start, ops), addr=start)

    def munmap(self, addr: int, length: int) -> None:
        """Unmap a range of bytes.

        Parameters
        ----------
        addr, length : int
            The range; ``addr`` page-aligned.

        Raises
        ------
        SyscallError
            EINVAL (unaligned, length 0, outside the address space), ENOMEM (too many mappings).
        """
        self._must_live("munmap")
        start, size = as_ulong(addr, "addr"), as_ulong(length, "length")
        self._done("munmap", self._munmap(start, size), addr=start)

    def mprotect(self, addr: int, length: int, prot: int | str) -> None:
        """Change the protection of a range of bytes.

        Parameters
        ----------
        addr, length : int
            The range; ``addr`` page-aligned.
        prot : str or int
            Letters of ``rwx`` or ``PROT_*``.

        Raises
        ------
        SyscallError
            EINVAL (unaligned), ENOMEM (a hole in the range), EACCES.
        """
        self._must_live("mprotect")
        start, size = as_ulong(addr, "addr"), as_ulong(length, "length")
        self._done("mprotect", self._mprotect(start, size, prot_bits(prot)), addr=start)

    def mremap(
        self,
        addr: int,
        old_length: int,
        new_length: int,
        *,
        maymove: bool = False,
        new_addr: int | None = None,
        dontunmap: bool = False,
    ) -> int:
        """Grow, shrink or move a mapping; its pages go with it.

        Parameters
        ----------
        addr, old_length : int
            The old range in bytes.
        new_length : int
            New length in bytes.
        maymove : bool, default False
            MREMAP_MAYMOVE.
        new_addr : int, optional
            MREMAP_FIXED: exactly there.
        dontunmap : bool, default False
            MREMAP_DONTUNMAP: leave the old range mapped and empty.

        Returns
        -------
        int
            The new address.

        Raises
        ------
        SyscallError
            EINVAL, EFAULT (nothing mapped there), ENOMEM, EAGAIN (locked memory).
        """
        self._must_live("mremap")
        flags = MREMAP_MAYMOVE if check_bool(maymove, "maymove") else 0
        flags |= MREMAP_DONTUNMAP if check_bool(dontunmap, "dontunmap") else 0
        flags |= MREMAP_FIXED if new_addr is not None else 0
        start, size = as_ulong(addr, "addr"), as_ulong(new_length, "new_length")
        rc = self._mremap(
            start,
            as_ulong(old_length, "old_length"),
            size,
            flags,
            as_ulong(0 if new_addr is None else new_addr, "new_addr"),
        )
        return self._done("mremap", rc, addr=start)

    def mlock(self, addr: int, length: int, *, onfault: bool = False) -> None:
        """Lock a range of bytes into memory.

        Parameters
        ----------
        addr, length : int
            The range.
        onfault : bool, default False
            MLOCK_ONFAULT: lock pages when they are faulted in, instead of faulting all in now.

        Raises
        ------
        SyscallError
            EPERM, ENOMEM (limit on locked memory, hole in the range), EAGAIN.
        """
        self._must_live("mlock")
        start, size = as_ulong(addr, "addr"), as_ulong(length, "length")
        flags = MLOCK_ONFAULT if check_bool(onfault, "onfault") else 0
        self._done("mlock2" if flags else "mlock", self._mlock(start, size, flags), addr=start)

    def munlock(self, addr: int, length: int) -> None:
        """Undo :meth:`mlock` for a range of bytes.

        Parameters
        ----------
        addr, length : int
            The range.

        Raises
        ------
        SyscallError
            EINVAL, ENOMEM (a hole in the range).
        """
        self._must_live("munlock")
        start, size = as_ulong(addr, "addr"), as_ulong(length, "length")
        self._done("munlock", self._munlock(start, size), addr=start)

    def mlockall(
        self, *, current: bool = False, future: bool = False, onfault: bool = False
    ) -> None:
        """Lock all memory: present mappings, future mappings, or both.

        Parameters
        ----------
        current, future : bool, default False
            MCL_CURRENT, MCL_FUTURE.
        onfault : bool, default False
            MCL_ONFAULT: lock pages when they are faulted in.

        Raises
        ------
        SyscallError
            EINVAL (neither ``current`` nor ``future``), EPERM, ENOMEM (limit on locked memory).
        """
        self._must_live("mlockall")
        flags = MCL_CURRENT if check_bool(current, "current") else 0
        flags |= MCL_FUTURE if check_bool(future, "future") else 0
        flags |= MCL_ONFAULT if check_bool(onfault, "onfault") else 0
        self._done("mlockall", self._mlockall(flags))

    def munlockall(self) -> None:
        """Unlock all memory."""
        self._must_live("munlockall")
        self._done("munlockall", self._munlockall())

    def madvise(self, addr: int, length: int, advice: int | str) -> None:
        """Give advice about a range of bytes.

        Parameters
        ----------
        addr, length : int
            The range; ``addr`` page-aligned.
        advice : str or int
            The kernel's name in lower case without ``MADV_``, or the number.

        Raises
        ------
        SyscallError
            EINVAL (unaligned, unknown advice, wrong kind of memory), ENOMEM (a hole in the range),
            EPERM, EFAULT.
        """
        self._must_live("madvise")
        start, size = as_ulong(addr, "addr"), as_ulong(length, "length")
        number = word_of(advice, MADV_BY_NAME, "advice")
        self._done("madvise", self._madvise(start, size, number), addr=start, advice=number)

    # ---- touching memory ----------------------------------------------------------------------

    def touch(
        self,
        addr: int,
        length: int,
        *,
        write: bool = False,
        values: SupportsIndex | Iterable[int] | None = None,
    ) -> TouchResult:
        """Read or write every page of a range once, one after another.

        Parameters
        ----------
        addr, length : int
            The range in bytes; every page it overlaps is touched.
        write : bool, default False
            Write instead of read.
        values : int or sequence of int, optional
            The values to write, 64 bits per page (its first and last 8 bytes): one number for all
            pages or one for each.  0 unless given.

        Returns
        -------
        TouchResult
            Pages done, faults, a signal if one stopped it, and the values read.  SIGSEGV and SIGBUS
            leave the process alive, as a handler would.  SIGKILL, when no memory is left, makes it
            a zombie (the kernel kills the largest process, the model the one that allocates).

        Raises
        ------
        ValueError
            ``values`` for a read, of another length, or for a machine without content.
        """
        self._must_live("touch")
        first, n = _page_range(addr, length)
        check_bool(write, "write")
        if n > _PIECE and (values is None or not isinstance(values, Iterable)):
            return self._touch_in_pieces(first, n, write, values)
        written = self._values_to_write(values, n, write)
        out = np.empty(n, dtype=np.uint64) if self.machine.page_bytes and not write else None
        done, minflt, majflt, signal = self._touch(first << PAGE_SHIFT, n, write, written, out)
        return TouchResult(
            done,
            minflt,
            majflt,
            self._signalled(signal) if signal else None,
            done if signal else None,
            None if out is None else out[:done],
        )

    def _touch_in_pieces(
        self, first: int, n: int, write: bool, values: SupportsIndex | None
    ) -> TouchResult:
        """Touch a range of any length; values take memory for present pages only."""
        result = TouchResult(0, 0, 0, None, None, None)
        read: list[npt.NDArray[np.uint64]] = []
        while result.done < n and result.signal is None:
            at, count = first + result.done, min(n - result.done, _PIECE)
            part = self.touch(at << PAGE_SHIFT, count << PAGE_SHIFT, write=write, values=values)
            result.done += part.done
            result.minflt += part.minflt
            result.majflt += part.majflt
            result.signal = part.signal
            if part.values is not None:
                read.append(part.values)
        result.index = None if result.signal is None else result.done
        result.values = joined(read, np.uint64) if read else None
        return result

    def _signalled(self, signal: int) -> str:
        """Return the name of a signal that stopped an access."""
        return SIGNAL_NAMES[signal]

    def _values_to_write(
        self, values: SupportsIndex | Iterable[int] | None, n: int, write: bool
    ) -> npt.NDArray[np.uint64] | None:
        if values is None:
            return None
        if not write:
            raise ValueError("values are for writes: they need write=True")
        if not self.machine.page_bytes:
            raise ValueError("values cannot be kept: the machine has no content (page_bytes=0)")
        return _value_array(values, n)

    def access(
        self,
        addresses: Addresses,
        *,
        write: bool | npt.ArrayLike = False,
        deferred: bool = False,
    ) -> AccessResult:
        """Read or write single addresses in order, as a trace of a program does.

        Parameters
        ----------
        addresses : array of int, shape (n,)
            Addresses in bytes.  A contiguous array of ``uint64`` is not copied.
        write : bool or array of bool, shape (n,), default False
            Whether all, or which of them, are writes.
        deferred : bool, default False
            Count in one dense array and set accessed and dirty bits and counts at the end, which is
            several times faster.  The result is the same.  Only a thread that reads bits or counts
            while the call runs sees the difference, and changes of the address space wait for up
            to 2**24 accesses.

        Returns
        -------
        AccessResult
            Accesses done, faults, and a signal if one stopped it.

        Raises
        ------
        TypeError, ValueError
            Not integers, not one-dimensional, or lists of different lengths.
        """
        if not (type(addresses) is _ndarray and addresses.dtype is _UINT64):
            self._must_live("access")
        places = address_array(addresses, "addresses")
        writes = write if write is True or write is False else _write_flags(write, len(places))
        if deferred is not False and deferred is not True:
            deferred = check_bool(deferred, "deferred")
        done, minflt, majflt, signal = self._access(places, writes, deferred)
        if signal:
            return AccessResult(done, minflt, majflt, self._signalled(signal), done)
        return AccessResult(done, minflt, majflt, None, None)

    # ---- for loops that drive a simulation -------------------------------------------------------

    def context(self, *, cpu: int | None = None, owns_time: bool = True) -> _api.Context:
        """Return a context: the process on a processor, for many single accesses.

        An access through it costs about 0.1 us from Python. It keeps the process and its address
        space until it is closed, best by ``with``.

        Parameters
        ----------
        cpu : int, optional
            The processor; that of the process unless given.
        owns_time : bool, default True
            Whether the caller owns time: an access that would wait says so and returns at once. No
            other thread may then use the machine at the same moment.

        Returns
        -------
        Context
            The context.

        Raises
        ------
        ValueError
            There is no such processor.
        ProcessGoneError
            The process has exited.
        """
        number = self.cpu if cpu is None else self.machine._check_cpu(cpu)
        return _api.Context(self, number, check_bool(owns_time, "owns_time"))

    # ---- migrations that take the caller's time -------------------------------------------------

    def start_move_pages(
        self,
        pages: Addresses | Pointer,
        nodes: Addresses | int | Pointer | None,
        flags: int = MPOL_MF_MOVE,
        *,
        pid: Pid = 0,
        count: int | None = None,
    ) -> Migration:
        """Begin `move_pages`; it stops where time may pass.

        Parameters
        ----------
        pages, nodes, flags, pid, count
            As of `move_pages`.

        Returns
        -------
        Migration
            Iterate over it; its `result` is the `MoveResult`. Errors of the call are raised there.
        """
        return migration.start_move_pages(self, self.cpu, pages, nodes, flags, pid, count)

    def start_migrate_pages(
        self,
        from_nodes: NodeSet,
        to_nodes: NodeSet,
        *,
        pid: Pid = 0,
        maxnode: int | None = None,
    ) -> Migration:
        """Begin `migrate_pages`; it stops where time may pass.

        Parameters
        ----------
        from_nodes, to_nodes, pid, maxnode
            As of `migrate_pages`.

        Returns
        -------
        Migration
            Iterate over it; its `result` is what `migrate_pages` returns.
        """
        return migration.start_migrate_pages(self, self.cpu, from_nodes, to_nodes, pid, maxnode)

    def start_mbind(
        self, addr: int, length: int, policy: Policy, flags: int = MPOL_MF_MOVE
    ) -> Migration:
        """Begin `mbind` with a policy; it stops where time may pass.

        Parameters
        ----------
        addr, length, policy, flags
            As of `mbind`.

        Returns
        -------
        Migration
            Iterate over it; its `result` is None, or raises the errors of `mbind`.
        """
        return migration.start_mbind(self, self.cpu, addr, length, policy, flags)

    # ---- life ---------------------------------------------------------------------------------

    def fork(self) -> "Process":
        """Make a child: a copy that shares every page until one of the two writes.

        Returns
        -------
        Process
            The child, on the same processor, with the same policies and pins.

        Raises
        ------
        SyscallError
            ENOMEM.
        """
        self._must_live("fork")
        return process_of(self.machine, self._done("fork", self._fork()))

    def thread(self, *, cpu: int | None = None) -> "Process":
        """Start a thread: a task in the same address space.

        Processor, policy (`set_mempolicy`), interleave cursor, credentials and fault counts are its
        own; memory, policies of ranges (`mbind`), limits and pins are the process's.

        Parameters
        ----------
        cpu : int, optional
            Its processor; the caller's unless given.

        Returns
        -------
        Process
            The thread, with the caller's policy and interleave cursor.

        Raises
        ------
        ValueError
            There is no such processor.
        SyscallError
            ENOMEM; ESRCH: the process is about to end.
        """
        self._must_live("thread")
        number = self.cpu if cpu is None else self.machine._check_cpu(cpu)
        return process_of(self.machine, self._done("thread", self._clone_thread(number)))

    @property
    def leader(self) -> int:
        """The pid of the process; for a thread, that of the process it belongs to."""
        return self._leader()

    @property
    def threads(self) -> "list[Process]":
        """All threads of the process that have not exited, the first one first."""
        there = []
        for pid in self._threads():
            with suppress(ProcessGoneError):  # it exited meanwhile
                there.append(process_of(self.machine, pid))
        return there

    def exit_thread(self) -> None:
        """End only this task, as the system call ``exit`` does; the last one ends the process.

        A thread is gone at once; the first thread of a process stays a zombie, without memory,
        until the others have exited.
        """
        self._must_live("exit_thread")
        self._exit(False, True)

    def exit(self, *, zombie: bool = False) -> None:
        """End the process with all of its threads, and free its memory.

        Parameters
        ----------
        zombie : bool, default False
            Leave it unreaped: its pid stays, without memory, until :meth:`reap`.  In a process with
            threads the zombie is its first thread.
        """
        self._must_live("exit")
        self._exit(check_bool(zombie, "zombie"))

    def reap(self) -> None:
        """Reap a zombie, as its parent does by ``wait``; this frees its pid.

        Raises
        ------
        ValueError
            It or a thread of it still runs, or it was reaped.
        """
        if self._reaped or self.alive:
            raise ValueError(f"{self!r} is not a zombie")
        if self._threads():
            raise ValueError(f"{self!r} has threads that have not exited")
        self._reap()

    def setuid(self, uid: int, *, gid: int | None = None, dumpable: bool = False) -> None:
        """Become another user for good: all ids change, privileges are dropped.

        Parameters
        ----------
        uid : int
            The user; 0 keeps the privileges.
        gid : int, optional
            The group; the same number unless given.
        dumpable : bool, default False
            Set the process dumpable again afterwards (``PR_SET_DUMPABLE``); a change of user
            clears that.

        Raises
        ------
        SyscallError
            EPERM: another user, and not privileged.
        """
        self._must_live("setuid")
        user = _user_id(uid, "uid")
        group = user if gid is None else _user_id(gid, "gid")
        open_ = check_bool(dumpable, "dumpable")
        self._done("setuid", self._setuid(user, group, open_))

    def limit_memlock(self, size: int | str) -> None:
        """Set RLIMIT_MEMLOCK: how many bytes it may lock without CAP_IPC_LOCK.

        Parameters
        ----------
        size : int or str
            Bytes, a whole number of pages; 8 MiB at the start.
        """
        self._must_live("setrlimit")
        self._limits(as_size(size, "size"))

    # ---- pins ---------------------------------------------------------------------------------

    def pin(self, addr: int, length: int, how: str = "pipe") -> Pin:
        """Fault pages in and take references, so that they cannot be migrated.

        Parameters
        ----------
        addr, length : int
            The range in bytes; every page it overlaps.
        how : {"pipe", "uring"}, default "pipe"
            ``vmsplice`` into a pipe: one reference a page, and at most as many pages as the pipe
            has room for.  Or registered I/O buffers: a long-term pin.

        Returns
        -------
        Pin
            The argument for :meth:`unpin`.  Children forked meanwhile hold the pages, too.

        Raises
        ------
        SyscallError
            EFAULT (not mapped or not accessible), ENOMEM (limit on locked memory).
        """
        self._must_live("pin")
        long_term = _PIN_WAYS[one_of(how, _PIN_WAYS, "how")]
        first, n = _page_range(addr, length)
        rc, handle = self._pin(first << PAGE_SHIFT, n, long_term)
        self._done("io_uring_setup" if errno_of(rc) == ENOSYS else "pin", rc)
        return Pin(handle, rc, rc if how == "pipe" else n, how, self.machine)

    def unpin(self, pin: Pin) -> None:
        """Close the file that holds pages; a child has to close its own.

        Parameters
        ----------
        pin : Pin
            What :meth:`pin` returned.

        Raises
        ------
        SyscallError
            EBADF: this process does not hold it (any more).
        TypeError
            ``pin`` is not a pin.
        ValueError
            The pin is of another machine.
        """
        self._must_live("unpin")
        if not isinstance(pin, Pin):
            raise TypeError(f"pin must be a Pin, not {pin!r}")
        if pin.machine is not self.machine:
            raise ValueError(f"pin must be of the same machine, not {pin!r}")
        self._done("unpin", self._unpin(as_int(pin.handle, "handle of pin") & 0xFFFFFFFF))

    # ---- files --------------------------------------------------------------------------------

    def fwrite(
        self, file: File, page_offset: int, values: SupportsIndex | Iterable[int], n: int = 1
    ) -> int:
        """Write whole pages of a file, as ``write(2)``: the file grows as needed.

        Parameters
        ----------
        file : File
            The file.
        page_offset : int
            First page.
        values : int or sequence of int
            64 bits per page; one number is written ``n`` times.
        n : int, default 1
            Pages, when ``values`` is one number.

        Returns
        -------
        int
            Pages written.

        Raises
        ------
        SyscallError
            ENOSPC, ENOMEM.
        """
        self._must_live("fwrite")
        # More pages than there are frames do not fit: no need to write them out first.
        most = min(_pages(n, "n"), self.machine._nr_frames + 1)
        data = _value_array(values, None if isinstance(values, Iterable) else most)
        offset = _pages(page_offset, "page_offset")
        return self._done("fwrite", self._fwrite(self._index_of(file), offset, data))

    def fread(self, file: File, page_offset: int, n: int = 1) -> npt.NDArray[np.uint64]:
        """Read whole pages of a file, as ``read(2)``.

        Parameters
        ----------
        file : File
            The file.
        page_offset : int
            First page.
        n : int, default 1
            Pages.

        Returns
        -------
        ndarray of uint64
            One number per page, fewer at the end of the file.

        Raises
        ------
        SyscallError
            ENOMEM.
        """
        self._must_live("fread")
        index, offset = self._index_of(file), _pages(page_offset, "page_offset")
        there = max((file.size >> PAGE_SHIFT) - offset, 0)
        out = np.zeros(min(_pages(n, "n"), there), dtype=np.uint64)
        return out[: self._done("fread", self._fread(index, offset, out))]

    def ftruncate(self, file: File, size: int | str) -> None:
        """Set the size of a file; pages beyond it are dropped, including private copies.

        Parameters
        ----------
        file : File
            The file.
        size : int or str
            Bytes, a whole number of pages.

        Raises
        ------
        SyscallError
            EFBIG (beyond 16 TiB), ENOMEM.
        """
        self._must_live("ftruncate")
        pages = as_size(size, "size") >> PAGE_SHIFT
        self._done("ftruncate", self._ftruncate(self._index_of(file), pages))

    def punch(self, file: File, offset: int, length: int) -> None:
        """Make a hole in a file, as ``fallocate(FALLOC_FL_PUNCH_HOLE)``; its size stays.

        Parameters
        ----------
        file : File
            The file.
        offset, length : int
            The hole in bytes, whole pages.

        Raises
        ------
        SyscallError
            EINVAL (length 0), EOPNOTSUPP (the kind of file has no holes).
        """
        self._must_live("punch")
        first, n = as_size(offset, "offset") >> PAGE_SHIFT, as_size(length, "length") >> PAGE_SHIFT
        rc = self._punch(self._index_of(file), first, n)
        self._done("fallocate" if errno_of(rc) == ENOSYS else "punch", rc)

    def fadvise(
        self, file: File, offset: int, length: int, advice: int | str, *, sync: bool = False
    ) -> None:
        """Give advice about a range of a file.

        Parameters
        ----------
        file : File
            The file.
        offset, length : int
            The range in bytes, whole pages; length 0 means to the end.
        advice : str or int
            Name in lower case without ``POSIX_FADV_``, or the number.
        sync : bool, default False
            Write the file back first (``fsync``).

        Raises
        ------
        SyscallError
            EINVAL (unknown advice).
        """
        self._must_live("fadvise")
        first, n = as_size(offset, "offset") >> PAGE_SHIFT, as_size(length, "length") >> PAGE_SHIFT
        number = word_of(advice, FADV_BY_NAME, "advice")
        index = self._index_of(file)
        rc = self._fadvise(index, first, n, number, check_bool(sync, "sync"))
        self._done("fadvise", rc, advice=number)

    # ---- looking inside -----------------------------------------------------------------------

    def pagemap(self, addr: int, n: int, *, pfns: bool = True) -> npt.NDArray[np.uint64]:
        """Return entries of ``/proc/PID/pagemap``.

        Parameters
        ----------
        addr : int
            Address of the first page, bytes; anywhere in it.
        n : int
            Pages.
        pfns : bool, default True
            Keep frame numbers, which the kernel shows to privileged readers only.

        Returns
        -------
        ndarray of uint64, shape (n,)
            Entries, see `pagemig.system.proc.pagemap`.

        Raises
        ------
        ProcessGoneError
            The process has exited.
        """
        self._must_live("pagemap")
        return proc.pagemap(
            self, as_ulong(addr, "addr"), _pages(n, "n"), pfns=check_bool(pfns, "pfns")
        )

    def frames(self, addr: int, n: int) -> npt.NDArray[np.int64]:
        """Return the frame of each page, -1 where no page is present.

        Parameters
        ----------
        addr : int
            Address of the first page, bytes; anywhere in it.
        n : int
            Pages.

        Returns
        -------
        ndarray of int64, shape (n,)
            Frame numbers.  The zero page has one, and memory under PROT_NONE keeps its own; -1
            stands for a page that was never touched, is swapped out, or is being moved.

        Raises
        ------
        ProcessGoneError
            The process has exited.
        ValueError
            More than 2**28 - 512 pages.

        Examples
        --------
        >>> import pagemig as pm
        >>> app = pm.Machine(["1MiB", "1MiB"]).spawn()
        >>> base = app.mmap(3 * pm.PAGE_SIZE)
        >>> _ = app.touch(base, 2 * pm.PAGE_SIZE, write=True)
        >>> (app.frames(base, 3) >= 0).tolist()
        [True, True, False]
        """
        self._must_live("pagemap")
        return proc.frames(self, as_ulong(addr, "addr"), _pages_told(n, "n"))

    def nodes(self, addr: int, n: int) -> npt.NDArray[np.int32]:
        """Return the node of each page, -1 where no page is present.

        ``move_pages`` without targets asks the kernel the same, by its rules and in its errnos.

        Parameters
        ----------
        addr : int
            Address of the first page, bytes; anywhere in it.
        n : int
            Pages.

        Returns
        -------
        ndarray of int32, shape (n,)
            Nodes of :meth:`frames`.

        Raises
        ------
        ProcessGoneError
            The process has exited.
        ValueError
            More than 2**28 - 512 pages.

        Examples
        --------
        >>> import pagemig as pm
        >>> app = pm.Machine(["1MiB", "1MiB"]).spawn()
        >>> base = app.mmap(3 * pm.PAGE_SIZE)
        >>> _ = app.touch(base, 2 * pm.PAGE_SIZE, write=True)
        >>> app.nodes(base, 3).tolist()
        [0, 0, -1]
        """
        self._must_live("pagemap")
        return proc.nodes(self, as_ulong(addr, "addr"), _pages_told(n, "n"))

    def numa_maps(self) -> str:
        """Return the text of ``/proc/PID/numa_maps``, a line for each mapping.

        Returns
        -------
        str
            The text, see `pagemig.system.proc.numa_maps`.

        Raises
        ------
        ProcessGoneError
            The process has exited.
        """
        self._must_live("numa_maps")
        return proc.numa_maps(self)

    def smaps(self) -> list[dict[str, Any]]:
        """Return the counts of ``/proc/PID/smaps``.

        Returns
        -------
        list of dict
            A dict for each mapping, counts in kB, see `pagemig.system.proc.smaps`.

        Raises
        ------
        ProcessGoneError
            The process has exited.
        """
        self._must_live("smaps")
        return proc.smaps(self)

    def vmas(self) -> list[proc.Vma]:
        """Return the mappings by rising address.

        Returns
        -------
        list of Vma
            The mappings, see `pagemig.system.proc.Vma`.

        Raises
        ------
        ProcessGoneError
            The process has exited.
        """
        self._must_live("vmas")
        return proc.vmas(self)

    def access_counts(self, addr: int, n: int) -> npt.NDArray[np.uint32]:
        """Return how often each page was accessed from each node.

        Parameters
        ----------
        addr : int
            Address of the first page.
        n : int
            Pages.

        Returns
        -------
        ndarray of uint32, shape (nr_nodes, n)
            Accesses counted since the page was mapped; fewer pages at the end of the address space.

        Raises
        ------
        ValueError
            The machine does not count (``access_stats=False``).
        """
        self._must_live("access_counts")
        if not self.machine.access_stats:
            raise ValueError("the machine does not count accesses (access_stats=False)")
        start = as_ulong(addr, "addr") & -PAGE_SIZE
        there = max((1 << 47) - start, 0) >> PAGE_SHIFT
        return self._access_counts(start, _pages_told(min(_pages(n, "n"), there), "n"))

    def status(self) -> dict[str, int]:
        """Return counts of ``/proc/PID/status``.

        Returns
        -------
        dict of str to int
            Counts in kB by the kernel's names, see `pagemig.system.proc.status`.

        Raises
        ------
        ProcessGoneError
            The process has exited.
        """
        self._must_live("status")
        return proc.status(self)

    @property
    def faults(self) -> tuple[int, int]:
        """Minor and major faults that this task has taken since its start."""
        return self._faults()


# ---- objects of processes ---------------------------------------------------------------------


def process_of(machine: Platform, pid: int) -> Process:
    """Return the object of a process, or raise ProcessGoneError if there is none.

    Objects refer to their machine, not the other way round: a machine without references is freed
    at once, however many processes it still has.
    """
    known = machine._known.get(pid)
    if not isinstance(known, Process) or known._reaped:
        known = machine._known[pid] = Process(machine, pid)
    return known


def processes_of(machine: Platform) -> list[Process]:
    """Return all processes that were not reaped, by rising pid; init is not listed."""
    there = []
    for pid in machine._pids():
        with suppress(ProcessGoneError):  # another thread reaped it meanwhile
            there.append(process_of(machine, pid))
    return there


def populate_with(
    machine: Platform, addresses: Addresses, tasks: Addresses, write: bool | npt.ArrayLike
) -> AccessResult:
    """See `Machine.populate`."""
    places, pids = address_array(addresses, "addresses"), address_array(tasks, "tasks")
    if len(places) != len(pids):
        raise ValueError(f"tasks must have {len(places)} entries, not {len(pids)}")
    writes = write if write is True or write is False else _write_flags(write, len(places))
    places_of: dict[int, int] = {}
    index = filled(len(pids), np.uint32, lambda piece: _numbered(pids[piece], places_of))
    makers = []
    for pid in places_of:
        if pid >> 32 or not machine._find_task(pid):
            raise KeyError(pid)
        makers.append(process_of(machine, pid))
    if not makers:
        return AccessResult(0, 0, 0, None, None)
    done, minflt, majflt, signal = _calls.populate(makers, places, writes, index)
    if signal:
        at = makers[index[done]]
        return AccessResult(done, minflt, majflt, at._signalled(signal), done)
    return AccessResult(done, minflt, majflt, None, None)


def _numbered(pids: npt.NDArray[np.uint64], places: dict[int, int]) -> npt.NDArray[np.uint32]:
    """Return a place for each pid; ``places`` has those given before, and gets the new ones."""
    found, who = np.unique(pids, return_inverse=True)
    given = [places.setdefault(pid, len(places)) for pid in found.tolist()]
    return np.array(given, np.uint32)[who.reshape(-1)]


# ---- arguments --------------------------------------------------------------------------------


def _map_flags(file: File | None, *, shared: bool, fixed: bool, noreplace: bool) -> int:
    flags = MAP_SHARED if check_bool(shared, "shared") else MAP_PRIVATE
    if file is None:
        flags |= MAP_ANONYMOUS
    if check_bool(noreplace, "noreplace"):
        return flags | MAP_FIXED_NOREPLACE
    return flags | MAP_FIXED if fixed else flags


def _page_range(addr: object, length: object) -> tuple[int, int]:
    """Return the first page of a range of bytes, and how many pages it overlaps."""
    start, size = as_ulong(addr, "addr"), as_ulong(length, "length")
    if size >> 47:
        raise ValueError(f"length must be within an address space of 2**47 bytes, not {length!r}")
    first = start >> PAGE_SHIFT
    return first, ((start + size + PAGE_SIZE - 1) >> PAGE_SHIFT) - first if size else 0


def _pages(value: object, name: str) -> int:
    number = as_ulong(value, name)
    if number >> 52:
        raise ValueError(f"{name} must be a number of pages below 2**52, not {value!r}")
    return number


def _pages_told(value: object, name: str) -> int:
    """Pages that one call answers for, each with a number of its own."""
    number = as_ulong(value, name)
    if number > proc.MOST_PAGES:
        raise ValueError(f"{name} must be at most {proc.MOST_PAGES} pages, not {value!r}")
    return number


def _user_id(value: object, name: str) -> int:
    number = as_int(value, name)
    if number < 0:
        raise ValueError(f"{name} must not be negative: {value!r}")
    return number


def _value_array(values: SupportsIndex | Iterable[int], n: int | None) -> npt.NDArray[np.uint64]:
    """Return page contents; a single number is repeated ``n`` times."""
    if not isinstance(values, Iterable):
        return full(n or 0, as_ulong(values, "values"), np.uint64)
    data = address_array(values, "values")
    if n is not None and len(data) != n:
        raise ValueError(f"values must be one for each of {n} pages, not {len(data)}")
    return data


def _write_flags(write: npt.ArrayLike, n: int) -> npt.NDArray[np.uint8]:
    if isinstance(write, list | tuple) and len(write) == n > PIECE:
        return filled(n, np.uint8, lambda piece: _write_flags(write[piece], _length(piece)))
    flags = np.asarray(write)
    if flags.dtype != np.bool_ and flags.dtype != np.uint8:
        raise TypeError(f"write must be a truth value or an array of bool, not {flags.dtype}")
    if flags.shape != (n,):
        raise ValueError(f"write must be one for each of {n} accesses, not {flags.shape}")
    words = flags.view(np.uint8)
    return words if words.flags.c_contiguous else filled(n, np.uint8, words.__getitem__)


def _length(piece: slice) -> int:
    return int(piece.stop - piece.start)
