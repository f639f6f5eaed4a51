"""An allocator of uncached memory that migrates its own pages: what the note's fifth patch is for.

The IA-64 kernel of 2006 had one (``arch/ia64/kernel/uncached.c``, mapped through
``drivers/char/mspec.c``).  It takes pages out of the kernel's use for good, since memory must not
be mapped cached and uncached at once, and gives them to programs that synchronise through them.
These pages have no page structs that migration could work on, so ``migrate_pages`` leaves them
behind when it moves the program.  The note says that this allocator could use a ``migrate``
operation; here it does.
"""

from errno import ENOMEM

import numpy as np

from pagemig.arguments import as_size
from pagemig.constants import PAGE_SHIFT
from pagemig.errors import raise_errno
from pagemig.system.machine import Machine
from pagemig.system.process import Process
from pagemig.system.vmops import MigratingVma

__all__ = ["UncachedAllocator"]


class UncachedAllocator:
    """Uncached memory of a machine: the frames its nodes keep, mapped into processes.

    Attributes
    ----------
    machine : Machine
        A machine whose nodes were made with ``Node(..., reserved=...)``; the allocator takes all
        reserved frames.

    Examples
    --------
    Under pmig, which completes the note's patches, the memory follows its process; under 6.1, which
    no longer has such an operation, it stays:

    >>> import pagemig as pm
    >>> from pagemig.system.uncached import UncachedAllocator
    >>> for kernel in ("pmig", "6.1"):
    ...     nodes = [pm.Node("1MiB", cpus=1, reserved="64KiB") for _ in range(2)]
    ...     machine = pm.Machine(nodes, kernel=kernel, page_bytes=8)
    ...     uncached = UncachedAllocator(machine)
    ...     app = machine.spawn()
    ...     base = uncached.mmap(app, 3 * pm.PAGE_SIZE, node=0)
    ...     _ = app.touch(base, 3 * pm.PAGE_SIZE, write=True, values=[7, 8, 9])
    ...     left = app.migrate_pages([0], [1])
    ...     content = app.touch(base, 3 * pm.PAGE_SIZE).values.tolist()
    ...     kernel, left, uncached.used(0), uncached.used(1), content
    ('pmig', 0, 0, 3, [7, 8, 9])
    ('6.1', 0, 3, 0, [7, 8, 9])
    """

    def __init__(self, machine: Machine) -> None:
        if not isinstance(machine, Machine):
            raise TypeError(f"machine must be a Machine, not {machine!r}")
        self.machine = machine
        self._owner: dict[int, Process] = {}  # of each frame handed out
        self._free: list[list[int]] = []
        first = 0
        for node in machine.nodes:
            kept = range(first, first + (node.reserved >> PAGE_SHIFT))
            self._free.append([pfn for pfn in reversed(kept) if pfn])  # frame 0: the zero page
            first += node.size >> PAGE_SHIFT

    def free(self, node: int) -> int:
        """Return how many pages of a node are free.

        Parameters
        ----------
        node : int
            The node.

        Returns
        -------
        int

        Raises
        ------
        ValueError
            There is no such node.
        """
        return len(self._free[self.machine._check_nid(node)])

    def used(self, node: int) -> int:
        """Return how many pages of a node processes have.

        Parameters
        ----------
        node : int
            The node.

        Returns
        -------
        int

        Raises
        ------
        ValueError
            There is no such node.
        """
        pfns = np.fromiter(self._owner, dtype=np.uint64)
        return int((self.machine.node_of(pfns) == self.machine._check_nid(node)).sum())

    def mmap(self, process: Process, length: int | str, node: int | None = None) -> int:
        """Map uncached memory into a process.

        Parameters
        ----------
        process : Process
            A process of this machine.
        length : int or str
            Bytes, a whole number of pages.
        node : int, optional
            The node; that of the process's processor unless given.

        Returns
        -------
        int
            The address.

        Raises
        ------
        SyscallError
            ENOMEM: the node has no such memory left; EINVAL: length 0.
        ValueError
            No such node, or a process of another machine.
        """
        if not isinstance(process, Process):
            raise TypeError(f"process must be a Process, not {process!r}")
        if process.machine is not self.machine:
            raise ValueError(f"process must be one of {self.machine!r}, not {process!r}")
        nid = process.node if node is None else self.machine._check_nid(node)
        n = as_size(length, "length") >> PAGE_SHIFT
        pfns = self._take(nid, n, process)
        if len(pfns) < n:
            self._give_back(pfns)
            raise_errno(-ENOMEM, "mmap")
        try:
            return process.mmap_pfns(pfns, migrate=self.migrate)
        except BaseException:
            self._give_back(pfns)
            raise

    def munmap(self, process: Process, addr: int, length: int) -> None:
        """Unmap memory that :meth:`mmap` returned, or a part of it, and take it back.

        What is unmapped by other means, the allocator gets back when the process has exited.

        Raises
        ------
        SyscallError
            As ``Process.munmap``.
        """
        pfns = process.frames(addr, -(-length >> PAGE_SHIFT) if length > 0 else 0).tolist()
        process.munmap(addr, length)
        self._give_back([pfn for pfn in pfns if self._owner.get(pfn) is process])

    def migrate(
        self, vma: MigratingVma, from_nodes: tuple[int, ...], to_nodes: tuple[int, ...], flags: int
    ) -> int:
        """Move the pages of a mapping: its ``migrate`` operation.

        Node i of ``from_nodes`` goes to node i of ``to_nodes``, from the start again where that has
        fewer, as ``node_remap`` does for ordinary pages.  Pages that find no room stay.

        Returns
        -------
        int
            0; or -ENOMEM where a page found no room.
        """
        old, process = vma.pfns, vma.process
        if process is None or not to_nodes:  # it exited meanwhile; with nowhere to go all stays
            return 0
        where, new = self.machine.node_of(old), old.copy()
        short = False
        for i, nid in enumerate(from_nodes):
            target = to_nodes[i % len(to_nodes)]
            here = np.flatnonzero(where == nid)
            if target != nid:
                pfns = self._take(target, len(here), process)
                new[here[: len(pfns)]] = pfns
                short |= len(pfns) < len(here)
        vma.remap(new)
        self._give_back(old[new != old].tolist())
        return -ENOMEM if short else 0

    def _take(self, nid: int, n: int, process: Process) -> list[int]:
        """Take up to ``n`` frames of a node; those of processes that exited count as free."""
        if len(self._free[nid]) < n:
            gone = [pfn for pfn, owner in list(self._owner.items()) if not owner.alive]
            self._give_back(gone)
        free = self._free[nid]
        pfns = []
        for _ in range(n):
            try:
                pfns.append(free.pop())
            except IndexError:
                break
        self._owner |= dict.fromkeys(pfns, process)
        return pfns

    def _give_back(self, pfns: list[int]) -> None:
        for pfn in pfns:
            if self._owner.pop(pfn, None) is not None:
                self._free[int(self.machine.node_of([pfn])[0])].append(pfn)
