"""A machine: its parts, its processes, and the calls that move pages without a process."""

import os
from collections.abc import Callable, Mapping, Sequence
from errno import EBUSY
from typing import Any, Final, NamedTuple, SupportsIndex
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from pagemig import _api, _state
from pagemig.arguments import (
    Addresses,
    as_int,
    as_ulong,
    check_bool,
    counted,
    node_array,
    one_of,
)
from pagemig.constants import (
    PAGE_SHIFT,
    STEP_ALLOC,
    STEP_COPY,
    STEP_FREEZE,
    STEP_ISOLATE,
    STEP_LOCK,
    STEP_PUTBACK,
    STEP_RESTORE,
    STEP_UNMAP,
)
from pagemig.errors import ProcessGoneError, raise_errno
from pagemig.kernels import DEFAULT_KERNEL, KernelProfile, kernel_profile
from pagemig.mm.numbers import NUMBERS
from pagemig.pieces import joined, pieces
from pagemig.system import migration, state
from pagemig.system.files import File
from pagemig.system.frames import flag_bit, refcounts
from pagemig.system.node import (
    Node,
    distance_table,
    format_size,
    made_nodes,
    scatter_seed,
    swap_slots,
    weight_table,
)
from pagemig.system.numa import MoveResult, unset
from pagemig.system.platform import Platform, SwapDevice
from pagemig.system.process import (
    AccessResult,
    Process,
    populate_with,
    process_of,
    processes_of,
)
from pagemig.system.vmops import run_hook

__all__ = [
    "LOCKS",
    "STEPS",
    "File",
    "Flush",
    "ListsResult",
    "Machine",
    "Node",
    "OfflineResult",
    "SwapDevice",
]

_PAGE_BYTES: Final = (0, 8, 4096)
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

#: What keeps an anon_vma alive while ``offline`` moves its pages, by the core's number.
_KEEP: Final = {
    name: NUMBERS[f"KEEP_{name.upper()}"] for name in ("refcount", "rcu", "mmap_lock", "trylock")
}


#: Why TLBs are flushed, and what a fault came to, by the header's numbers.
FLUSHES: Final = ("migrate", "protect", "unmap", "cow", "fork", "remap", "exit", "free")
FAULTS: Final = ("hit", "minor", "major", "wait", "signal", "fault")


class Flush(NamedTuple):
    """A flush of TLBs: the entries have changed, and no frame is freed yet.

    Attributes
    ----------
    why : str
        ``migrate``, ``protect``, ``unmap``, ``cow``, ``fork``, ``remap``, ``exit`` or ``free``
        (MADV_FREE).
    cr3 : int
        Root of the address space, bytes; 0: no single one, as in the flush of a batch that moves.
    address : int
        Of the first page, bytes.
    pages : int
        How many; 0: all of the address space.
    cpus : tuple of int
        Processors that the address space has run on.
    ipis : int
        How many of these processors are interrupted: all but the caller's own.
    """

    why: str
    cr3: int
    address: int
    pages: int
    cpus: tuple[int, ...]
    ipis: int


class OfflineResult(NamedTuple):
    """The result of emptying frames.

    Attributes
    ----------
    passes : int
        Passes over the pages that were left.
    migrated : int
        Pages that moved; those freed while they were isolated count.
    left : ndarray of uint32
        Frames still in use.
    """

    passes: int
    migrated: int
    left: npt.NDArray[np.uint32]


class ListsResult(NamedTuple):
    """The lists that ``migrate_lists`` leaves to its caller.

    Attributes
    ----------
    rc : int
        Pages not migrated: those that failed, and those still to be retried after the last pass.
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


class Machine(Platform):
    """A machine with NUMA nodes, under one kernel.

    Parameters
    ----------
    nodes : sequence of Node, int or str
        1 to 64 nodes, or just their sizes, less than 16 TiB together.  Processors are numbered node
        by node.  If no node has a processor, each node gets one.
    kernel : str or KernelProfile, default "6.1"
        The modelled kernel.
    distances : array-like of int, shape (n, n), optional
        From row to column, 10 from a node to itself, 11 to 255 elsewhere, not necessarily
        symmetric.  20 between all nodes unless given.
    page_bytes : {0, 8, 4096}, default 0
        Content kept per page: none, one 64-bit number, or all bytes.
    access_stats : bool, default False
        Count accesses per page and node.
    scatter : int, optional
        Seed of a scattered order in which frames are allocated; ascending unless given.
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

    _callbacks: list[_api.Callbacks]

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
        made = made_nodes(nodes)
        far = distance_table(distances, len(made))
        table = weight_table(weights, len(made), profile)
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
            scatter_seed(scatter),
            swap_slots(swap, profile),
        )
        self.nodes, self.profile, self.distances = made, profile, far
        self.page_bytes, self.access_stats = page_bytes, bool(access_stats)
        self._vm_ops, self._vm_hooks = {}, {}
        self._callbacks = []
        self._known = WeakValueDictionary()
        self._migrations, self._taken_up = WeakValueDictionary(), set()
        for nid, weight in enumerate(table.tolist()):
            self._set_weight(nid, weight)
        return self

    # ---- saved, copied, pickled ------------------------------------------------------------------

    def _description(self) -> dict[str, Any]:
        """Return the arguments that make a machine like this one, as JSON can hold them.

        Steps of migrations that a signal interrupted reach their stops, where they can be saved.
        """
        for move in list(self._migrations.values()):
            move._settle()
        return {
            "nodes": [node.arguments for node in self.nodes],
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

        Migrations in progress are saved as well, see `migrations`. After `load`, the
        machine behaves as this one would have: contents, counters, frames and tables agree.
        ``path`` is the whole new file afterwards, or unchanged.

        Parameters
        ----------
        path : path-like
            The file.

        Raises
        ------
        StateError
            A call is under way, or a migration has stopped where it cannot be saved, or a context
            of a process is open, or a mapping has a migrate operation in Python.
        OSError
            The file cannot be written.
        """
        state.write(self, self._description(), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Machine":
        """Load a machine that `save` wrote.

        Every part is checked before any of it is used, including all invariants (`check`).

        Parameters
        ----------
        path : path-like
            The file.

        Returns
        -------
        Machine
            The machine.

        Raises
        ------
        StateError
            The file is damaged, is not a saved machine, or comes from a build with another layout;
            the text says what to do.
        OSError
            The file cannot be read.
        """
        return state.read(path, cls._described)

    def copy(self) -> "Machine":
        """Return an independent machine in the same state.

        Returns
        -------
        Machine
            The copy.

        Raises
        ------
        StateError
            As `save`.
        """
        made = self._described(self._description())
        _state.adopt(made, _state.copy(self))
        migration.take_up(made)
        return made

    def __copy__(self) -> "Machine":
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Machine":
        return self.copy()

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _unpickle, tuple(state.dumps(self, self._description()))

    def __repr__(self) -> str:
        total = sum(node.size for node in self.nodes)
        counts = (
            (self.nr_nodes, "node"),
            (self.nr_cpus, "cpu"),
            (len(self._pids()), "process"),
        )
        words = [counted(n, word) for n, word in counts]
        return f"<Machine {self.kernel}: {', '.join(words)}, {format_size(total)}>"

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
        return process_of(self, pid)

    def process(self, pid: int) -> Process:
        """Return the process with a number.

        Parameters
        ----------
        pid : int
            The number.

        Returns
        -------
        Process
            The process or thread.

        Raises
        ------
        KeyError
            No process has that number.
        """
        number = as_int(pid, "pid")
        try:
            return process_of(self, max(number, 0))
        except ProcessGoneError:
            raise KeyError(number) from None

    @property
    def processes(self) -> list[Process]:
        """All processes that were not reaped, by rising pid; init is not listed."""
        return processes_of(self)

    def populate(
        self,
        addresses: Addresses,
        tasks: Addresses,
        *,
        write: bool | npt.ArrayLike = True,
    ) -> AccessResult:
        """Make accesses of many processes and threads, in order: what a trace of them does.

        Parameters
        ----------
        addresses : array of int, shape (n,)
            Addresses in bytes.
        tasks : array of int, shape (n,)
            Pid of the process or thread that makes each access, from its own processor and by its
            own policy.
        write : bool or array of bool, shape (n,), default True
            Whether all, or which of them, are writes.

        Returns
        -------
        AccessResult
            Accesses done, faults, and a signal if one stopped it.

        Raises
        ------
        KeyError
            There is no such process.
        ProcessGoneError
            One has exited.
        TypeError, ValueError
            Not integers, not one-dimensional, or lists of different lengths.
        """
        return populate_with(self, addresses, tasks, write)

    # ---- migration without a process, and its steps -------------------------------------------

    def migrate_frames(self, pfns: Addresses, nodes: Addresses) -> MoveResult:
        """Move page ``i`` to node ``i`` without a calling process, whatever processes map it.

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
        SyscallError
            The call failed as a whole; ``result`` has the statuses stored before.
        ValueError
            A frame beyond the last, or lists of different lengths.
        """
        numbers, targets = self._frames_and_nodes(pfns, nodes)
        status = unset(len(targets))
        rc = self._migrate_frames(numbers, targets, status)
        if rc < 0:
            raise_errno(rc, "migrate_frames", MoveResult(rc, status))
        return MoveResult(rc, status)

    def start_migrate_frames(
        self, pfns: Addresses, nodes: Addresses, *, cpu: int = 0
    ) -> migration.Migration:
        """Begin `migrate_frames` on a processor; it stops where time may pass.

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
        return migration.start_migrate_frames(self, self._check_cpu(cpu), numbers, targets)

    @property
    def migrations(self) -> tuple[migration.Migration, ...]:
        """The migrations in progress that were started from Python, in the order of their handles.

        A loaded, copied or unpickled machine has those of its original, at the same stops, and
        keeps them until they end.
        """
        return tuple(move for _, move in sorted(self._migrations.items()) if not move.done)

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
        """Call ``migrate_pages(from, to, moved, failed)``, and return the lists it leaves.

        Kernels through 2.6.17 return all pages to the caller, including the old frames of moved
        pages with their content.  From 2.6.18 on these are freed at once.

        Parameters
        ----------
        pfns : array of int, shape (n,)
            Frames; those that can be isolated are on ``from``.
        node : int, optional
            Where ``to``, at most 257 frames, is allocated.  None: the call has no ``to``, and the
            pages are swapped out (2.6.16 and 2.6.17).

        Returns
        -------
        ListsResult
            The lists as they were before everything on them was put back.

        Raises
        ------
        ValueError
            The kernel has no such lists, or does not swap out; no such frame or node.
        """
        if not self.profile.four_lists:
            raise ValueError(f"kernel {self.kernel} disposes of pages itself and has no such lists")
        if node is None and self.profile.engine != 1:
            raise ValueError(
                f"node must be given: {self.kernel} does not swap out in migrate_pages"
            )
        to = -1 if node is None else self._check_nid(node)
        rc, moved, failed, left, content = self._migrate_lists(self._pfns(pfns), to)
        return ListsResult(rc, moved, failed, left, content)

    def at_step(
        self, hook: Callable[[str, list[int]], object] | None, *, step: int | None = None
    ) -> None:
        """Call a function between the steps of every migration, so that a test can interfere there.

        A call that the function makes and that would wait for this migration raises RuntimeError.
        :class:`pagemig.testing.actors.Actors` lets other processes act there that may wait.

        Parameters
        ----------
        hook : callable or None
            Called with the step's name (``STEPS``) and the frame numbers it handles.  An exception
            that it raises propagates out of the migrating call, once that is done.  None: no hook.
        step : int, optional
            Only after this step, ``STEP_ISOLATE`` to ``STEP_PUTBACK``.

        Raises
        ------
        ValueError
            There is no such step.
        TypeError
            ``hook`` cannot be called.
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

    def set_callbacks(
        self,
        *,
        flush: Callable[[Flush], object] | None = None,
        target: Callable[[int, int | None], int | None] | None = None,
        moved: Callable[
            [npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.int32]], object
        ]
        | None = None,
        fault: Callable[[int, str, int], object] | None = None,
    ) -> None:
        """Register functions that calls of the machine call; all previous ones are replaced.

        They are slow, since each takes the interpreter lock; a fast host registers C functions
        through the table instead, see docs/embedding.md. If a function raises, the interrupted call
        ends early, as an aborted migration does, and raises that exception.

        Parameters
        ----------
        flush : callable, optional
            Called with a `Flush` at each flush of TLBs.
        target : callable, optional
            Called with the frame of a page that is to move and its target node (None: a policy
            decides); returns another node, or None.
        moved : callable, optional
            Called with frames, the frames they moved to, and a result for each: 0, or a negative
            errno and target 0 if it did not move this time.
        fault : callable, optional
            Called with the address of a program's fault, its outcome (``minor``, ``major``,
            ``wait``, ``signal``), and the frame that is mapped there, or that is waited for.

        Raises
        ------
        TypeError
            One of them cannot be called.

        Notes
        -----
        ``flush``, ``target`` and ``fault`` run under locks: a call of the machine that they make
        raises ``OSError`` with ``EDEADLK``.
        """
        given = {"flush": flush, "target": target, "moved": moved, "fault": fault}
        for name, function in given.items():
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function or None, not {function!r}")
        told, faulted = flush, fault

        def flushed(why: int, cr3: int, address: int, pages: int, cpus: int, ipis: int) -> None:
            assert told is not None
            bits = tuple(cpu for cpu in range(cpus.bit_length()) if cpus >> cpu & 1)
            told(Flush(FLUSHES[why], cr3, address, pages, bits, ipis))

        def at_fault(address: int, kind: int, pfn: int) -> None:
            assert faulted is not None
            faulted(address, FAULTS[kind], pfn)

        callbacks = None
        if any(function is not None for function in given.values()):
            callbacks = _api.Callbacks(
                self,
                target,
                None if flush is None else flushed,
                moved,
                None if fault is None else at_fault,
            )
        _api.set_callbacks(self, callbacks)

    def mappings(self, pfn: int) -> list[tuple[Process, int]]:
        """Return the processes and addresses that map a frame, in the reverse map's order.

        The walk holds the lock of the reverse map, so its result is one moment's even if other
        threads make calls. A process that begins or ends meanwhile is left out.

        Parameters
        ----------
        pfn : int
            The frame.

        Returns
        -------
        list of (Process, int)
            Processes, and the address in each.

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

    def _vma_migrate(self, ops: int, vma: int, old: int, new: int, flags: int) -> int:
        return run_hook(self, self._vm_hooks[ops], vma, old, new, flags)

    # ---- emptying nodes -----------------------------------------------------------------------

    def offline(
        self,
        nid: int,
        *,
        max_passes: int = 10,
        keep: str = "refcount",
        holder: Process | None = None,
    ) -> OfflineResult:
        """Empty a node without a calling process, and take it offline.

        From the start on none of its frames is allocated.  Every page, mapped or only cached, moves
        to the nearest other node.  The kernel retries without limit; this call gives up after some
        passes.  While a page moves, no entry maps it, so the last process that maps it may exit and
        free the page's anon_vma; ``keep`` says what prevents that:

        ``"refcount"``
            a reference on the anon_vma (2.6.35 and later).
        ``"rcu"``
            nothing: the record stays an anon_vma until the move is over.  It may be reused by
            another process, and is then locked and searched in vain (2.6.23 through 2.6.34).
        ``"mmap_lock"``
            the mmap_lock of ``holder``, held for reading during every batch; pages that ``holder``
            does not map are left where they are (what callers did in 2006).
        ``"trylock"``
            the mmap_lock of an address space found through the reverse map, as the note of 2006
            proposed.  The lock order puts it before page locks, so only a trylock is possible:
            while another thread holds it for writing, the page stays until the next pass.

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
            Passes and pages moved; nothing is left.

        Raises
        ------
        SyscallError
            EBUSY: pages are left after the last pass, for example pinned ones, or the kernel keeps
            frames of its own there; ENOMEM: other nodes are full; ESRCH: ``holder`` has exited.
            The node is in use again, moved pages stay moved, and ``result`` says what is left.
        ValueError
            No such node with memory, an unknown ``keep``, or a missing or superfluous holder.

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
        """Bring an offline node back online; no page moves back.

        Parameters
        ----------
        nid : int
            The node.

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
        """Empty a range of frames as `offline` does, without taking a node offline.

        Its frames may be allocated again at once.

        Parameters
        ----------
        first_pfn, n : int
            The first frame and their number; their pages go to nodes outside the range.
        max_passes, keep, holder
            As for ``offline``.

        Returns
        -------
        OfflineResult
            Passes and pages moved; nothing is left.

        Raises
        ------
        SyscallError
            As ``offline``; also EBUSY if no other node has memory.
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
        states = self._frames_raw()["state"][first:end]
        found = []
        for piece in pieces(len(states)):
            state = states[piece]
            used = (refcounts(state) > 0) & (state & flag_bit("reserved") == 0)
            found.append((np.flatnonzero(used) + (first + piece.start)).astype(np.uint32))
        return joined(found, np.uint32)


def _unpickle(*data: bytes) -> Machine:
    return state.loads(data, Machine._described)
