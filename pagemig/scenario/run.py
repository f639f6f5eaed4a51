"""The runner of scenarios on a :class:`~pagemig.Machine`; its results have the form of a record.

:mod:`pagemig.scenario.language` is the language, :mod:`pagemig.scenario.view` the visible state of
a process.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from errno import EAGAIN
from typing import Any, Final, TypeAlias

import numpy as np

from pagemig.constants import (
    BAD,
    MPOL_DEFAULT,
    MPOL_MF_MOVE_ALL,
    NULL,
    PAGE_SHIFT,
    PAGE_SIZE,
    MiB,
    Pointer,
)
from pagemig.errors import KernelBug, ProcessGoneError, SyscallError
from pagemig.kernels import DEFAULT_KERNEL, kernel_profile
from pagemig.policy import Bind
from pagemig.scenario.language import (
    GET_FLAGS,
    MLOCK_FLAGS,
    MLOCKALL_FLAGS,
    MOVE_FLAGS,
    MREMAP_FLAGS,
    POINTERS,
    STACK,
    WINDOW,
    Json,
    Pages,
    Squeezed,
    address_of,
    addresses_of,
    bits_of,
    length_of,
    maps_shared_anon,
    mode_word,
    nodemask,
    status_name,
    switches,
    targets_of,
    tokens,
    validate,
)
from pagemig.scenario.view import Scene, View, runs
from pagemig.system.credentials import INIT_PID, KTHREAD_PID
from pagemig.system.machine import File, Machine, Node
from pagemig.system.process import Pin, Process

__all__ = ["CRASHES", "ScenarioRun", "UnsupportedScenario", "run"]

# One page of the window has a mapping that is not part of the scenario: page 511.
_ANCHOR: Final = WINDOW + 511 * PAGE_SIZE

# What a process has outside the window: no page of it is ever present.  It counts where the kernel
# looks at the size of an address space (mlockall against RLIMIT_MEMLOCK; recorded: hand-107).
_PROGRAM: Final = 0x40_0000
_PROGRAM_BYTES: Final = 9 * MiB

#: Outcomes of a scenario that the kernel did not survive.
CRASHES: Final = ("oops", "hang")

_NOBODY_PID: Final = (1 << 22) - 1


class UnsupportedScenario(ValueError):
    """The scenario asks for something that is not modelled (huge pages)."""


#: Makes the machine of a scenario from the name of a kernel.
MachineFactory: TypeAlias = Callable[[str], Machine]

# What of a node the kernel and its tables keep for themselves, where that can be seen: on the
# recorded machines between 29.4 and 30.2 thousand of 32,768 pages of a node could be used.
_KEPT: Final = 0.09

# Where allocations that may go elsewhere leave a node: its low watermark, about a thousandth above
# the lowest (recorded: 35 of 29.8 thousand pages were left to a call that takes no other node).
_LOW_WATERMARK: Final = 1 / 850


def _of_2006(scenario: Mapping[str, Any]) -> str:
    """Say what a scenario has that kernels of today do not; empty for nothing."""
    if scenario.get("swap"):
        return "it uses swap"
    if any(file.get("kind") == "minix" for file in scenario.get("files", [])):
        return "it has a file on minix"
    return ""


def _machine(kernel: str, *, brief: bool, swap: bool) -> Machine:
    """Make the recorded machine: four nodes at equal distances, a processor on the first two.

    It has swap if the scenario says so, or if the kernel moves nothing without swap.
    """
    profile = kernel_profile(kernel)
    sizes: tuple[int, ...] = (1024,) * 4
    if not profile.pagemap:
        sizes = (256, 128, 128, 128)
    elif brief:
        sizes = (1024, 1024, 256, 128)
    share, low = (_KEPT, _LOW_WATERMARK) if brief else (0.0, 0.0)
    nodes = [
        Node(
            size * MiB,
            cpus=nid < 2,
            reserved=int(size * MiB * share) & -PAGE_SIZE,
            watermark=int((size * MiB >> PAGE_SHIFT) * low) << PAGE_SHIFT,
        )
        for nid, size in enumerate(sizes)
    ]
    devices = ["32MiB"] if swap else ["1GiB"] if profile.engine == 1 else []
    return Machine(nodes, kernel=kernel, page_bytes=8, swap=devices)


class ScenarioRun:
    """One scenario being run: a machine, its processes by number, and their last states.

    Iterating runs the operations one after another and yields their results; it ends early if the
    kernel kills a process.

    Parameters
    ----------
    scenario : mapping
        ``ops``, and ``files``, ``thp``, ``no_anchor``, ``brief``, ``swap`` where they matter.
    kernel : str
        Profile of the machine.
    inos : sequence of int, optional
        Inode numbers, as from :func:`~pagemig.scenario.language.inos`.
    squeezed : mapping of int to Squeezed, optional
        What each ``squeeze`` writes out, as from :func:`~pagemig.scenario.language.squeezed`.
    machine : callable, optional
        Makes the machine from the kernel's name; page contents must be tokens (``page_bytes=8``).

    Attributes
    ----------
    machine : Machine
    processes : dict of int to Process
        By their numbers in the scenario, including those that have exited.
    outcome : str
        ``"ok"``; ``"killed"`` once the kernel has killed a process; ``"oops"`` once it has crashed;
        ``"hang"`` once it is in a call that never returns.
    site : str
        Where it crashed or hangs; empty otherwise.

    Raises
    ------
    ValueError
        Not a scenario; see :func:`~pagemig.scenario.language.validate`.
    UnsupportedScenario
        It asks for huge pages.
    """

    def __init__(
        self,
        scenario: Mapping[str, Any],
        *,
        kernel: str = DEFAULT_KERNEL,
        inos: Sequence[int] | None = None,
        squeezed: Mapping[int, Squeezed] | None = None,
        machine: MachineFactory | None = None,
    ) -> None:
        validate(scenario)
        if scenario.get("thp", "never") != "never":
            raise UnsupportedScenario(f"huge pages (thp={scenario['thp']!r}) are not modelled")
        if (only := _of_2006(scenario)) and not kernel_profile(kernel).swap:
            raise ValueError(f"{only}: only kernels of 2006 have that, as --kernel 2.6.18")
        self.ops: list[Json] = scenario["ops"]
        self.brief = bool(scenario.get("brief"))
        self.swap = bool(scenario.get("swap"))
        self.machine = (
            machine(kernel) if machine else _machine(kernel, brief=self.brief, swap=self.swap)
        )
        self._squeezed = dict(squeezed or {})
        content = _content(self.machine)
        self.outcome = "ok"
        self.site = ""
        self._pins: dict[int, Pin] = {}
        self._bursts: dict[int, tuple[int, int]] = {}
        self._starting: dict[int, tuple[int, int]] = {}
        self._flips: dict[int, list[int]] = {}
        self._exited: set[int] = set()
        self._seen: dict[int, tuple[object, Json | None]] = {}
        self._observer = self.machine.spawn()
        files: list[Json] = scenario.get("files", [])
        own, self._shared_inos = _split_inos(inos, self.ops, len(files))
        self._files = [
            self._make_file(i, *made) for i, made in enumerate(zip(files, own, strict=True))
        ]
        self._scene = Scene(
            machine=self.machine,
            observer=self._observer,
            content=content,
            files={file.index: i for i, file in enumerate(self._files)},
            anchor=() if scenario.get("no_anchor") else (_ANCHOR, _ANCHOR + PAGE_SIZE),
            brief=self.brief,
        )
        self.processes = {0: self._first_process()}

    def __iter__(self) -> Iterator[Json]:
        for i in range(len(self.ops)):
            yield self.step(i)
            if self.outcome != "ok":
                break
        if self.outcome in CRASHES:
            yield from ({} for _ in self.ops[i + 1 :])

    def step(self, i: int) -> Json:
        """Run operation ``i`` and return its result, in the recorded format."""
        try:
            result = self.do(i)
        except KernelBug as bug:
            self.outcome = "hang" if bug.hangs else "oops"
            self.site = bug.site
            return {}
        if "skipped" in result or "died" in result:
            return result
        self._rewrite(self._bursts)
        if self.swap:
            result["swap"] = self._swap_use()
        changes = self._changes()
        self._bursts |= self._starting
        self._starting.clear()
        return {**result, "state": changes} if changes else result

    def _swap_use(self) -> list[int]:
        """Return the pages of swap in use, and the pages in the swap cache."""
        used = sum(device.used for device in self.machine.swap) >> PAGE_SHIFT
        return [used, int(np.count_nonzero(self.machine.frames.flag("swapcache")))]

    def do(self, i: int) -> Json:
        """Run operation ``i`` without recording states afterwards: no ``state``.

        Operations of processes that share nothing may run in several threads.
        """
        op = self.ops[i]
        name = op["op"]
        process = self.processes.get(op["p"])
        if process is None or not process.alive:
            return {"skipped": True}
        try:
            if "cpu" in op:
                process.cpu = op["cpu"]
            result: Json = getattr(self, f"_op_{name}")(process, op, i)
        except ProcessGoneError:  # killed in the middle of the call
            result = {}
        except (TypeError, ValueError) as error:
            raise ValueError(f"operation {i} ({name}): {error}") from error
        if not process.alive and name != "exit":
            self.outcome = "killed"
            return {"died": True}
        return result

    # ---- setting up ---------------------------------------------------------------------------

    def _first_process(self) -> Process:
        process = self.machine.spawn()
        process.mmap(_PROGRAM_BYTES, addr=_PROGRAM, prot="")
        if not self.machine.profile.pagemap:
            self._map_old_program(process)
        if self._scene.anchor:
            process.mmap(PAGE_SIZE, addr=_ANCHOR, prot="r")
            if self.machine.profile.pagemap:
                process.madvise(_ANCHOR, PAGE_SIZE, "dontdump")  # merges with no neighbour
            process.touch(_ANCHOR, PAGE_SIZE)
        return process

    def _map_old_program(self, process: Process) -> None:
        """Map the rest of the test program, which calls of 2006 find.

        It has a stack above the window, since mbind sees a hole at the end of its range only if
        nothing is mapped after it.  And it has movable pages on every node, since migrate_pages to
        an absent node crashes from any node (recorded: rand-0084, rand-0167).
        """
        n = self.machine.nr_nodes
        text = self.machine.file("tmpfs", n * PAGE_SIZE)
        for nid in self.machine.memory_nodes:
            self._observer.set_mempolicy(Bind([nid]))
            self._observer.fwrite(text, nid, [0])
        self._observer.set_mempolicy(MPOL_DEFAULT)
        for owner in (process, self._observer):
            owner.mmap(n * PAGE_SIZE, addr=STACK, prot="r", file=text)
            owner.touch(STACK, n * PAGE_SIZE)

    def _make_file(self, i: int, entry: Json, ino: int) -> File:
        """Make a file as it was before the first operation: on its node, and on its disk."""
        size, node = entry["pages"] * PAGE_SIZE, entry.get("node") or 0
        if node not in self.machine.memory_nodes:
            raise ValueError(f"file {i}: node={node!r} is not one of {self.machine.memory_nodes}")
        kind, ahead = entry["kind"], None
        if not self.machine.profile.pagemap and kind.startswith("ext"):
            kind, ahead = kind.replace("4", "3"), 0  # on a RAM disk, which reads nothing ahead
        file = self.machine.file(kind, size, ino=ino or None, read_ahead=ahead)
        if entry.get("fill") is not None:
            writer = self._observer
            writer.set_mempolicy(Bind([node]))
            writer.fwrite(file, 0, tokens(entry["fill"], entry["pages"]))
            writer.set_mempolicy(MPOL_DEFAULT)
            writer.fadvise(file, 0, size, "normal", sync=True)
        return file

    # ---- what the processes look like ---------------------------------------------------------

    def state_of(self, process: Process) -> Json:
        """Return the state of a process in the recorded format: ``locked_kb`` and ``vmas``."""
        return View(self._scene, process, self._rewritten()).state()

    def _changes(self) -> dict[str, Json | None]:
        """Return the processes whose state changed, by number; None for those that are gone."""
        changed: dict[str, Json | None] = {}
        for number, process in self.processes.items():
            if not process.alive:
                if self._seen.get(number) != _GONE:
                    self._seen[number] = _GONE
                    changed[str(number)] = None
                    if number not in self._exited:
                        self.outcome = "killed"
                continue
            # A process in a background burst is busy: the recorder could not ask it.
            if number in self._bursts:
                continue
            view = View(self._scene, process, self._rewritten())
            key, (seen, state) = view.key(), self._seen.get(number, _GONE)
            if key == seen:
                continue
            now = view.state()
            self._seen[number] = key, now
            if now != state:
                changed[str(number)] = now
        return changed

    # ---- programs that run in the background --------------------------------------------------

    def _rewrite(self, bursts: Mapping[int, tuple[int, int]]) -> None:
        """Make one round of some bursts: each page is read and written back, one higher."""
        for number, (addr, length) in bursts.items():
            process = self.processes[number]
            if process.alive:
                read = process.touch(addr, length)
                if read.values is not None:
                    process.touch(addr, read.done * PAGE_SIZE, write=True, values=read.values + 1)

    def _rewritten(self) -> Pages | None:
        """Return the frames under a background burst, whose content changes between two reads."""
        if not self._bursts:
            return None
        return self._scene.frames(
            (self.processes[number], addr, length >> PAGE_SHIFT)
            for number, (addr, length) in self._bursts.items()
            if self.processes[number].alive
        )

    def _op_burst(self, process: Process, op: Json, _i: int) -> Json:
        burst = {op["p"]: (address_of(op), op["n"] * PAGE_SIZE)}
        if op.get("background"):
            # It starts while the next operation runs.
            self._starting = burst
            return {"background": True}
        self._rewrite(burst)
        return {"rc": 0}

    def _op_flip(self, process: Process, op: Json, _i: int) -> Json:
        """Move to every node once; how often it would run on is not part of the language."""
        target = int(op.get("target", op["p"]) or 0)
        counts = self._flip(process, self.processes[target], op)
        if op.get("background"):
            self._flips[op["p"]] = counts
            return {"background": True}
        return {"rc": counts[1], "counts": counts}

    def _flip(self, process: Process, target: Process, op: Json) -> list[int]:
        """Count calls, statuses that were a node, and EAGAIN."""
        pages = addresses_of([{"range": [op["at"], op["n"]]}])
        calls = nodes = again = 0
        for nid in self.machine.memory_nodes:
            try:
                moved = process.move_pages(pages, nid, MPOL_MF_MOVE_ALL, pid=target)
            except SyscallError as error:
                moved = error.result
            calls += 1
            nodes += int(np.count_nonzero(moved.status >= 0))
            again += int(np.count_nonzero(moved.status == -EAGAIN))
        return [calls, nodes, again]

    def _op_churn(self, process: Process, op: Json, _i: int) -> Json:
        """Make one round; pages beyond the end that can still be read were left by truncation."""
        file, n = self._files[op["file"]], op["n"]
        process.ftruncate(file, n * PAGE_SIZE)
        process.touch(address_of(op), n * PAGE_SIZE, write=True, values=tokens(1, n))
        process.ftruncate(file, 0)
        pages = range(address_of(op), address_of(op) + n * PAGE_SIZE, PAGE_SIZE)
        left = sum(process.touch(page, PAGE_SIZE).done for page in pages)
        return {"rc": left, "counts": [1, left]}

    def _op_squeeze(self, process: Process, op: Json, i: int) -> Json:
        """Make memory short on a node; which pages are written out is the kernel's choice."""
        given = self._squeezed.get(i)
        if given is None:
            raise ValueError("what it writes out is to be taken from a recording with swap")
        spans = [
            (self.processes[number], WINDOW + page * PAGE_SIZE, 1) for number, page in given.pages
        ]
        if spans:
            frames = self._scene.frames(spans)
            self.machine.swap_out(frames[np.sort(np.unique(frames, return_index=True)[1])])
        return {"rc": given.rc}

    def _op_wait(self, process: Process, op: Json, _i: int) -> Json:
        torn = {str(number): 0 for number in self._bursts}
        torn |= {str(number): counts[1] for number, counts in self._flips.items()}
        self._bursts.clear()
        self._flips.clear()
        return {"rc": 0, "torn": torn}

    def _op_weight(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(lambda: self.machine.set_weight(op["node"], op["weight"]))

    def _op_nop(self, process: Process, op: Json, _i: int) -> Json:
        return {"rc": 0}

    # ---- address spaces -----------------------------------------------------------------------

    def _op_mmap(self, process: Process, op: Json, i: int) -> Json:
        kind, length = op["kind"], length_of(op)
        file = self._files[op["file"]] if kind.startswith("file") else None
        if ino := self._shared_inos.get(i, 0):
            self.machine._set_next_ino(ino)
        return _counted(
            process,
            lambda: process.mmap(
                length,
                addr=address_of(op),
                prot=op.get("prot", "rw"),
                shared=kind.endswith("shared"),
                file=file,
                offset=op.get("off", 0) * PAGE_SIZE if kind.startswith("file") else 0,
                populate=op.get("populate", False),
                locked=op.get("locked", False),
                noreplace=op.get("noreplace", False),
            ),
        )

    def _op_munmap(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(lambda: process.munmap(address_of(op), length_of(op)))

    def _op_touch(self, process: Process, op: Json, _i: int) -> Json:
        write = op.get("write", False)
        values = tokens(op["tok"], op["n"]) if write else None
        touched = process.touch(address_of(op), op["n"] * PAGE_SIZE, write=write, values=values)
        result: Json = {"rc": 0, "minflt": touched.minflt}
        if touched.signal == "SIGKILL" and process.alive:
            process.exit(zombie=True)
        if touched.majflt and not self.machine.profile.pagemap:
            result["majflt"] = touched.majflt
        if touched.signal is not None:
            result |= {"signal": touched.signal, "signal_index": touched.index}
        if touched.values is not None and not self.brief:
            result["read"] = touched.values.tolist()
        return result

    def _op_mprotect(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(lambda: process.mprotect(address_of(op), length_of(op), op["prot"]))

    def _op_mlock(self, process: Process, op: Json, _i: int) -> Json:
        flags = switches(op.get("flags", ()), MLOCK_FLAGS)
        if op.get("flags") and "mlock2" not in self.machine.profile.calls:
            return dict(_NO_CALL)
        if flags is None:
            return dict(_REFUSED)
        return _counted(process, lambda: process.mlock(address_of(op), length_of(op), **flags))

    def _op_munlock(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(lambda: process.munlock(address_of(op), length_of(op)))

    def _op_mlockall(self, process: Process, op: Json, _i: int) -> Json:
        flags = switches(op["flags"], MLOCKALL_FLAGS)
        return dict(_REFUSED) if flags is None else _answered(lambda: process.mlockall(**flags))

    def _op_munlockall(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(process.munlockall)

    def _op_madvise(self, process: Process, op: Json, _i: int) -> Json:
        return _counted(
            process, lambda: process.madvise(address_of(op), length_of(op), op["advice"])
        )

    def _op_mremap(self, process: Process, op: Json, _i: int) -> Json:
        flags = switches(op.get("flags", ()), MREMAP_FLAGS)
        if flags is None:
            return dict(_REFUSED)
        fixed = flags.pop("fixed")
        place = WINDOW + op.get("new_at", 0) * PAGE_SIZE if fixed else None

        def remap() -> int:
            start, old, new = address_of(op), length_of(op), op["new_n"] * PAGE_SIZE
            moved = process.mremap(start, old, new, new_addr=place, **flags)
            return (moved - WINDOW) >> PAGE_SHIFT

        return _answered(remap, returns=True)

    # ---- processes ----------------------------------------------------------------------------

    def _op_fork(self, process: Process, op: Json, _i: int) -> Json:
        def fork() -> None:
            child = self.processes[op["child"]] = process.fork()
            if not self.machine.profile.pagemap:
                child.touch(STACK, self.machine.nr_nodes * PAGE_SIZE)  # it runs the program, too
            self._exited.discard(op["child"])
            self._seen.pop(op["child"], None)

        return _answered(fork)

    def _op_thread(self, process: Process, op: Json, _i: int) -> Json:
        def start() -> None:
            thread = process.thread(cpu=op.get("on"))
            self.processes[op["child"]] = thread
            self._exited.discard(op["child"])
            self._seen.pop(op["child"], None)

        return _answered(start)

    def _op_exit(self, process: Process, op: Json, _i: int) -> Json:
        def end() -> None:
            if op.get("alone", False):
                process.exit_thread()
            else:
                process.exit(zombie=op.get("zombie", False))
            self._exited.update(k for k, other in self.processes.items() if not other.alive)

        self._exited.add(op["p"])
        return _answered(end)

    def _op_setuid(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(lambda: process.setuid(op["uid"], dumpable=op.get("dumpable", False)))

    def _pid(self, pid: Any) -> int:
        """Return the number to pass for the ``pid`` of an operation."""
        match pid:
            case "self":
                return 0
            case "init":
                return INIT_PID
            case "kthread":
                return KTHREAD_PID
            case {"raw": number}:
                return int(number)
            case int() if pid in self.processes:
                return self.processes[pid].pid
        return _NOBODY_PID

    # ---- policies and migration ---------------------------------------------------------------

    def _migrating(self, call: Callable[[], Json]) -> Json:
        """Return the result of a migrating call, with the growth of the kernel's counters."""
        before = self.machine.vmstat
        result = call()
        after = self.machine.vmstat
        for name, counter in (
            ("migrated", "pgmigrate_success"),
            ("migrate_failed", "pgmigrate_fail"),
        ):
            result[name] = after[counter] - before[counter]
        return result

    def _op_set_mempolicy(self, process: Process, op: Json, _i: int) -> Json:
        nodes, maxnode = nodemask(op.get("nodes")), op.get("maxnode")
        return _answered(lambda: process.set_mempolicy(mode_word(op), nodes, maxnode=maxnode))

    def _op_mbind(self, process: Process, op: Json, _i: int) -> Json:
        nodes, flags = nodemask(op.get("nodes")), bits_of(op.get("flags", ()), MOVE_FLAGS)

        def mbind() -> None:
            word, maxnode = mode_word(op), op.get("maxnode")
            process.mbind(address_of(op), length_of(op), word, nodes, flags, maxnode=maxnode)

        return self._migrating(lambda: _answered(mbind))

    def _op_get_mempolicy(self, process: Process, op: Json, _i: int) -> Json:
        try:
            found = process.get_mempolicy(
                bits_of(op.get("flags", ()), GET_FLAGS),
                0 if op.get("at") is None else address_of(op),
                maxnode=op.get("maxnode", 1024),
                nodemask={True: None, False: NULL, "bad": BAD}[op.get("mask", True)],
                mode=NULL if op.get("nomode") else None,
            )
        except SyscallError as error:
            return _failed(error)
        result: Json = {"rc": 0}
        if found.mode is not None:
            result["mode"] = found.mode
        if found.nodes is not None:
            result["nodes"] = list(found.nodes)
        return result

    def _op_set_home_node(self, process: Process, op: Json, _i: int) -> Json:
        flags = op.get("flags", 0)
        return _answered(
            lambda: process.set_mempolicy_home_node(
                address_of(op), length_of(op), op["node"], flags
            )
        )

    def _op_move_pages(self, process: Process, op: Json, _i: int) -> Json:
        pages = addresses_of(op["pages"])
        listed = 0 if isinstance(pages, Pointer) else len(pages)

        def move() -> Json:
            try:
                moved = process.move_pages(
                    pages,
                    targets_of(op.get("nodes"), listed),
                    bits_of(op.get("flags", ()), MOVE_FLAGS),
                    pid=self._pid(op["pid"]),
                    count=op.get("count"),
                    status=POINTERS[op["status"]] if "status" in op else None,
                )
                result: Json = {"rc": moved.rc}
            except SyscallError as error:
                moved = error.result
                result = _failed(error)
            result["status"] = self._statuses(moved.status if moved else [], listed)
            return result

        return self._migrating(move)

    def _statuses(self, stored: Iterable[int], listed: int) -> list[Any]:
        numbers = np.asarray(stored, dtype=np.int32)[:listed].tolist()
        names = [status_name(number) for number in numbers]
        names += [None] * (listed - len(names))
        return runs(names) if self.brief else names

    def _op_migrate_pages(self, process: Process, op: Json, _i: int) -> Json:
        def migrate() -> int:
            return process.migrate_pages(
                nodemask(op["from"]),
                nodemask(op["to"]),
                pid=self._pid(op["pid"]),
                maxnode=op.get("maxnode"),
            )

        return self._migrating(lambda: _answered(migrate, returns=True))

    # ---- pins and files -----------------------------------------------------------------------

    def _op_pin(self, process: Process, op: Json, _i: int) -> Json:
        def pin() -> int:
            held = self._pins[op["handle"]] = process.pin(address_of(op), length_of(op), op["how"])
            return held.rc

        return _answered(pin, returns=True)

    def _op_unpin(self, process: Process, op: Json, _i: int) -> Json:
        """Close what the pin opened, which succeeds even if the pin failed."""
        pin = self._pins.get(op["handle"])
        if pin is not None:
            _answered(lambda: process.unpin(pin))
        return {"rc": 0}

    def _op_fwrite(self, process: Process, op: Json, _i: int) -> Json:
        values = tokens(op["tok"], op["n"])
        return _answered(lambda: process.fwrite(self._files[op["file"]], op["off"], values))

    def _op_fread(self, process: Process, op: Json, _i: int) -> Json:
        try:
            values = process.fread(self._files[op["file"]], op["off"], op["n"])
        except SyscallError as error:
            return _failed(error)
        return {"rc": len(values)} | ({} if self.brief else {"read": values.tolist()})

    def _op_ftruncate(self, process: Process, op: Json, _i: int) -> Json:
        file, size = self._files[op["file"]], op["pages"] * PAGE_SIZE
        return _answered(lambda: process.ftruncate(file, size))

    def _op_punch(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(lambda: process.punch(*self._part(op)))

    def _op_fadvise(self, process: Process, op: Json, _i: int) -> Json:
        part, sync = self._part(op), op.get("sync", False)
        return _answered(lambda: process.fadvise(*part, op["advice"], sync=sync))

    def _part(self, op: Json) -> tuple[File, int, int]:
        return self._files[op["file"]], op["off"] * PAGE_SIZE, op["n"] * PAGE_SIZE


#: The state of a process that is gone, or was never recorded.
_GONE: Final[tuple[object, Json | None]] = (None, None)


def _split_inos(
    given: Sequence[int] | None, ops: Iterable[Json], nr_files: int
) -> tuple[list[int], dict[int, int]]:
    """Split inode numbers: of the files, and of shared anonymous memory by the operation."""
    shared = [i for i, op in enumerate(ops) if maps_shared_anon(op)]
    if given is None:
        return [0] * nr_files, {}
    if len(given) != nr_files + len(shared):
        raise ValueError(
            f"inos must be one for each of {nr_files} files and {len(shared)} shared objects, "
            f"not {len(given)}: {list(given)!r}"
        )
    return list(given[:nr_files]), dict(zip(shared, given[nr_files:], strict=True))


def _content(machine: Machine) -> Pages:
    """Return the token of every frame, without a copy."""
    words = machine._content_raw()
    if words is None:
        raise ValueError(f"the machine must keep contents (page_bytes=8), not {machine!r}")
    column: Pages = words[:, 0]
    return column


def _failed(error: SyscallError) -> Json:
    return {"rc": -1, "errno": error.name}


def _answered(call: Callable[[], object], *, returns: bool = False) -> Json:
    """Return ``rc`` of a call (0 unless it ``returns`` a value), or ``errno``."""
    try:
        value = call()
    except SyscallError as error:
        return _failed(error)
    return {"rc": value if returns else 0}


def _counted(process: Process, call: Callable[[], object]) -> Json:
    """Return the same as `_answered`, with the minor faults that the call itself took."""
    before = process.faults[0]
    result = _answered(call)
    faults = process.faults[0] - before if process.alive else 0
    return result | {"minflt": faults} if faults else result


#: The answer to an unknown flag, which a call checks before anything else.
_REFUSED: Final = {"rc": -1, "errno": "EINVAL"}

#: The answer of a kernel to a call it does not have.
_NO_CALL: Final = {"rc": -1, "errno": "ENOSYS"}


def run(
    scenario: Mapping[str, Any],
    *,
    kernel: str = DEFAULT_KERNEL,
    inos: Sequence[int] | None = None,
    machine: MachineFactory | None = None,
) -> list[Json]:
    """Run a scenario and return its ``results`` as a recording would have them.

    Parameters
    ----------
    scenario : mapping
        ``ops``, and ``files``, ``thp``, ``no_anchor`` and ``brief`` if they matter; other fields
        are ignored.
    kernel : str
        Profile of the machine.
    inos : sequence of int, optional
        Inode numbers of files and shared objects, as
        :func:`~pagemig.scenario.language.inos` takes them from a record; 0 stands for an unknown
        one.  Without this list the machine numbers all of them.
    machine : callable, optional
        Makes the machine from the kernel's name, instead of the recorded one.  Its pages must have
        tokens as content (``page_bytes=8``).

    Returns
    -------
    list of dict
        A result for each operation; fewer if the kernel kills a process, which ends a scenario.

    Raises
    ------
    ValueError
        Not a scenario (see :func:`~pagemig.scenario.language.validate`), or the wrong number of
        ``inos``.
    UnsupportedScenario
        It asks for huge pages.

    Examples
    --------
    >>> ops = [
    ...     {"op": "mmap", "p": 0, "at": 0, "n": 4, "kind": "anon"},
    ...     {"op": "touch", "p": 0, "at": 0, "n": 4, "write": True, "tok": 1},
    ...     {"op": "move_pages", "p": 0, "pid": "self", "pages": [0, 1], "nodes": 3},
    ... ]
    >>> run({"ops": ops})[-1]["state"]["0"]["vmas"][0]["node"]
    '3300'
    """
    return list(ScenarioRun(scenario, kernel=kernel, inos=inos, machine=machine))
