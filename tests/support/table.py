"""A context of the table, and its calls as a host in C makes them: numbers in, numbers out."""

import ctypes
import operator
import weakref
from typing import Any, ClassVar

import numpy as np

import pagemig as pm
from pagemig import _api, api
from pagemig.system import migration

WAIT, EBUSYCTX = -512, -601
#: Calls that keep their place when they answer WAIT, and go on when they are repeated.
RESUMED = frozenset({
    "mmap", "mprotect", "mremap", "madvise", "mlock", "mlockall", "move_pages", "migrate_pages",
    "mbind", "migrate_frames", "pin", "ftruncate", "punch_hole", "swapoff", "offline",
})  # fmt: skip


def word(value: Any) -> int:
    """Take a number as C does, whatever its sign and size."""
    return operator.index(value) & (1 << 64) - 1


def memory(array: Any) -> Any:
    """Describe the memory of an array, or none."""
    if array is None:
        return None
    return ctypes.byref(api.User(p=array.ctypes.data, bytes=array.nbytes))


def number_of(file: pm.File | None) -> int:
    """The number of a file that is open; another may have that of one that is closed."""
    if file is not None and file.closed:
        raise ValueError("the file is closed")
    return 0 if file is None else file.index


def mask(nodes: Any) -> Any:
    return np.array([sum(1 << nid for nid in set(nodes))], np.uint64)


class Host:
    """A context that a host keeps, with the call that it has to repeat.

    Its calls answer what the table answers, and a process, a migration or a pin where that is a
    handle of one.
    """

    living: ClassVar[weakref.WeakSet["Host"]] = weakref.WeakSet()
    hooked: ClassVar[int] = 0  # hooks that run

    def __init__(self, process: pm.Process, cpu: int = 0, owns_time: bool = True) -> None:
        self.machine, self.process = process.machine, process
        self.owns_time = owns_time
        self.context = process.context(cpu=cpu, owns_time=owns_time)
        self.waiting: tuple[str, tuple[Any, ...], Any] | None = None
        self.running = 0
        Host.living.add(self)

    def _call(self, name: str, *args: Any, made: Any = None) -> int:
        """Make a call; ``made`` keeps what it stores into, until it is over."""
        self.running += 1
        try:
            rc = int(getattr(api.functions, name)(self.context.address, *args))
        finally:
            self.running -= 1
        if rc == WAIT and name in RESUMED and self.owns_time:
            self.waiting = (name, args, made)
        raise_what_hooks_raised(self.machine)
        return rc

    def again(self) -> Any:
        """Repeat the call that waits."""
        if self.waiting is None:
            return 0
        name, args, made = self.waiting
        rc = self._call(name, *args, made=made)
        if rc in (WAIT, EBUSYCTX):
            return rc
        self.waiting = None
        return made(rc) if rc >= 0 and made is not None else rc

    def close(self) -> None:
        """Close the context, which gives up the call that waits."""
        if not self.running:
            self.context.close()
            self.waiting = None
            Host.living.discard(self)

    def bind(self, process: pm.Process | None, cpu: int = 0) -> int:
        task = 0 if process is None else api.task(process)
        rc = self._call("ctx_bind", task, word(cpu))
        if rc == 0:
            self.process = process
        return rc

    # ---- accesses

    def access(self, va: int, write: bool = False) -> int:
        return self.context.access(word(va), write)

    def access_many(self, addresses: Any, write: Any = None) -> int:
        return self.context.access_many(addresses, write)

    def look(self, va: int) -> int:
        """Make the calls that change nothing and never wait."""
        f, c = api.functions, self.context.address
        out, walk, cost = api.Outcome(), api.Walk(), api.Cost(size=ctypes.sizeof(api.Cost))
        what, which = ctypes.c_uint32(), ctypes.c_uint32()
        kind = int(f.translate(c, word(va), ctypes.byref(out)))
        f.walk(c, word(va), ctypes.byref(walk))
        f.cr3(c)
        f.cost_take(c, ctypes.byref(cost))
        f.ctx_wait(c, ctypes.byref(what), ctypes.byref(which))
        return kind

    # ---- processes and mappings

    def fork(self) -> Any:
        rc = self._call("fork")
        return self.machine.process(rc) if rc > 0 else rc

    def exit(self) -> int:
        rc = self._call("exit")
        if rc == 0:
            self.process = None
        return rc

    def mmap(
        self,
        va: int,
        length: int,
        prot: int = 3,
        flags: int = 0x22,
        file: pm.File | None = None,
        offset: int = 0,
    ) -> int:
        numbers = va, length, prot, flags, number_of(file), offset
        return self._call("mmap", *map(word, numbers))

    def munmap(self, va: int, length: int) -> int:
        return self._call("munmap", word(va), word(length))

    def mprotect(self, va: int, length: int, prot: int) -> int:
        return self._call("mprotect", word(va), word(length), word(prot))

    def mremap(self, va: int, length: int, new_length: int, flags: int, new_va: int) -> int:
        return self._call("mremap", *map(word, (va, length, new_length, flags, new_va)))

    def madvise(self, va: int, length: int, advice: int) -> int:
        return self._call("madvise", word(va), word(length), operator.index(advice))

    def mlock(self, va: int, length: int, flags: int = 0) -> int:
        return self._call("mlock", word(va), word(length), word(flags))

    def munlock(self, va: int, length: int) -> int:
        return self._call("munlock", word(va), word(length))

    def mlockall(self, flags: int) -> int:
        return self._call("mlockall", word(flags))

    def munlockall(self) -> int:
        return self._call("munlockall")

    def setuid(self, uid: int, dumpable: bool = True) -> int:
        return self._call("setuid", word(uid), word(uid), dumpable)

    # ---- pages and policies

    def _listed(self, pages: Any, nodes: Any) -> tuple[Any, Any, Any]:
        listed = np.array(pages, np.uint64)
        targets = None if nodes is None else np.full(len(listed), nodes, np.int32)
        return listed, targets, np.full(len(listed), pm.STATUS_UNSET, np.int32)

    def move_pages(self, pages: Any, nodes: Any = None, flags: int = 2, pid: int = 0) -> int:
        a, b, c = self._listed(pages, nodes)
        arrays = memory(a), memory(b), memory(c)
        return self._call("move_pages", pid, len(a), *arrays, word(flags), None, made=Kept(a, b, c))

    def migrate_pages(self, from_nodes: Any, to_nodes: Any, pid: int = 0) -> int:
        a, b = mask(from_nodes), mask(to_nodes)
        return self._call("migrate_pages", pid, 65, memory(a), memory(b), None, made=Kept(a, b))

    def mbind(self, va: int, length: int, mode: int, nodes: Any, flags: int) -> int:
        a = mask(nodes)
        args = word(va), word(length), word(mode), memory(a), 65, word(flags), None
        return self._call("mbind", *args, made=Kept(a))

    def set_mempolicy(self, mode: int, nodes: Any) -> int:
        return self._call("set_mempolicy", word(mode), memory(mask(nodes)), 65, None)

    def migrate_frames(self, pfns: Any, nodes: Any) -> int:
        a, b = np.array(pfns, np.uint32), np.array(nodes, np.int32)
        c = np.zeros_like(b)
        arrays = a.ctypes.data, b.ctypes.data, len(a), c.ctypes.data
        return self._call("migrate_frames", *arrays, made=Kept(a, b, c))

    def pin(self, va: int, n: int, longterm: bool = False) -> Any:
        handle, machine = ctypes.c_uint32(), self.machine

        def pinned(rc: int) -> pm.Pin:
            return pm.Pin(handle.value, rc, rc, "uring" if longterm else "pipe", machine)

        rc = self._call("pin", word(va), word(n), longterm, ctypes.byref(handle), made=pinned)
        return pinned(rc) if rc >= 0 else rc

    def unpin(self, pin: pm.Pin) -> int:
        return self._call("unpin", pin.handle)

    # ---- files, devices, nodes

    def ftruncate(self, file: pm.File, pages: int) -> int:
        return self._call("ftruncate", number_of(file), word(pages))

    def punch_hole(self, file: pm.File, index: int, n: int) -> int:
        return self._call("punch_hole", number_of(file), word(index), word(n))

    def swapoff(self, device: int) -> int:
        return self._call("swapoff", word(device))

    def swapon(self, device: int) -> int:
        return self._call("swapon", word(device))

    def offline(self, node: int) -> int:
        return self._call("offline", word(node))

    def online(self, node: int) -> int:
        return self._call("online", word(node))

    # ---- migrations in steps

    def _start(self, name: str, *args: Any) -> Any:
        handle = ctypes.c_uint64()
        rc = self._call(name, *args, ctypes.byref(handle))
        if rc:
            return rc
        told = next(m for m in _api.migrations(self.machine) if m[0] == handle.value)
        return migration._taken(self.machine, *told)

    def start_move_pages(self, pages: Any, nodes: Any = None, flags: int = 2, pid: int = 0) -> Any:
        a, b, c = self._listed(pages, nodes)
        arrays = memory(a), memory(b), memory(c)
        return self._start("mig_move_pages", pid, len(a), *arrays, word(flags))

    def start_migrate_pages(self, from_nodes: Any, to_nodes: Any, pid: int = 0) -> Any:
        a, b = mask(from_nodes), mask(to_nodes)
        return self._start("mig_migrate_pages", pid, 65, memory(a), memory(b))

    def start_mbind(self, va: int, length: int, mode: int, nodes: Any, flags: int) -> Any:
        a = mask(nodes)
        return self._start(
            "mig_mbind", word(va), word(length), word(mode), memory(a), 65, word(flags)
        )

    def start_migrate_frames(self, pfns: Any, nodes: Any) -> Any:
        a, b = np.array(pfns, np.uint32), np.array(nodes, np.int32)
        return self._start("mig_frames", a.ctypes.data, b.ctypes.data, len(a))

    def step(self, move: pm.Migration) -> int:
        event = api.MigEvent(size=ctypes.sizeof(api.MigEvent))
        return self._call("mig_step", handle_of(move), ctypes.byref(event))

    def end(self, move: pm.Migration, abort: bool) -> int:
        return self._call("mig_end", handle_of(move), abort, None, 0, None)


class Kept:
    """Keeps the arrays of a call that waits; it answers what the call answers."""

    def __init__(self, *arrays: Any) -> None:
        self.arrays = arrays

    def __call__(self, rc: int) -> int:
        return rc


def raise_what_hooks_raised(machine: pm.Machine) -> None:
    """Raise here what a hook raised in a call of the table: any call from Python does."""
    next((process.status() for process in machine.processes if process.alive), None)


def handle_of(move: pm.Migration) -> int:
    return 0 if move._flight is None else move._flight.handle


def anything_stands(machine: pm.Machine) -> bool:
    """Whether a call has stopped somewhere, which only its caller can end."""
    waiting = any(host.waiting for host in Host.living if host.machine is machine)
    return waiting or api.functions.migrations(api.machine(machine), None, 0) > 0
