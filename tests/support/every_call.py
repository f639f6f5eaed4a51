"""Every method of machines and processes once: what it takes to make it, and a call that works.

For tests that make something fail inside each of them.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import pagemig as pm

PAGE = pm.PAGE_SIZE
NODE_0, NODE_1 = (1).to_bytes(8, "little"), (2).to_bytes(8, "little")


class World:
    """A machine of today's kernel or of 2006 with a process, mapped memory, and a file."""

    def __init__(self, kernel: str) -> None:
        swap = ["1MiB"] if pm.KERNELS[kernel].swap else []
        nodes = [pm.Node("1MiB", cpus=1, reserved="64KiB"), "1MiB", "1MiB"]
        self.machine = pm.Machine(nodes, kernel=kernel, swap=swap, page_bytes=8, access_stats=True)
        self.app = self.machine.spawn()
        self.other = self.machine.spawn()
        self.base = self.app.mmap(8 * PAGE)
        self.app.touch(self.base, 8 * PAGE, write=True)
        self.file = self.machine.file("ext4", 8 * PAGE)
        self.app.fwrite(self.file, 0, 7, 4)
        self.pages = np.arange(8, dtype=np.uint64) * PAGE + self.base
        self.pfns = self.app.frames(self.base, 8).astype(np.uint32)
        self.pfn = int(self.pfns[0])
        self.reserved = np.array([2, 3], dtype=np.uint32)
        self.nodes = np.array([0, 1] * 4, dtype=np.int32)
        self.status = np.empty(8, dtype=np.int32)
        self.values = np.zeros(8, dtype=np.uint64)
        self.child = self.app.fork()

    def a_zombie(self) -> pm.Process:
        child = self.app.fork()
        child.exit(zombie=True)
        return child

    def with_pin(self) -> None:
        self.app.unpin(self.app.pin(self.base, PAGE))

    def traced(self) -> None:
        self.machine.tracing = True
        self.machine.tracing = False

    def hooked(self) -> None:
        self.machine.at_step(lambda step, pfns: [step, *pfns])
        try:
            self.app.move_pages(self.pages, [1, 0] * 4)
        finally:
            self.machine.at_step(None)

    def told(self) -> None:
        told: list[Any] = []
        self.machine.set_callbacks(flush=told.append, moved=lambda *_: None)
        try:
            self.app.move_pages(self.pages, [1, 0] * 4)
        finally:
            self.machine.set_callbacks()

    def set_cpu(self) -> None:
        self.app.cpu = 0

    def remapped(self) -> None:
        base = self.app.mmap(4 * PAGE)
        self.app.mremap(base, 4 * PAGE, 2 * PAGE)
        self.app.mprotect(base, PAGE, "r")
        self.app.munmap(base, 2 * PAGE)

    def with_context(self) -> None:
        with self.app.context() as context:
            context.access_many(self.pages, np.ones(8, np.uint8))

    def saved(self) -> None:
        with TemporaryDirectory() as folder:
            self.machine.save(Path(folder) / "machine")
            pm.Machine.load(Path(folder) / "machine").check(full=True)

    def copied_in_progress(self) -> None:
        with self.machine.start_migrate_frames(self.pfns, [1] * 8) as move:
            move.step()
            for same in self.machine.copy().migrations:
                same.finish()

    def offline_online(self) -> None:
        if 2 in self.machine.memory_nodes:
            self.machine.offline(2)
        self.machine.online(2)


PROCESS: dict[str, Callable[[World], Any]] = {
    "access": lambda w: w.app.access(w.pages, write=[True, False] * 4),
    "access_counts": lambda w: w.app.access_counts(w.base, 8),
    "alive": lambda w: w.app.alive,
    "context": World.with_context,
    "cpu": World.set_cpu,
    "exit": lambda w: w.machine.spawn().exit(),
    "exit_thread": lambda w: w.app.thread().exit_thread(),
    "fadvise": lambda w: w.app.fadvise(w.file, 0, 0, "dontneed"),
    "faults": lambda w: w.app.faults,
    "fork": lambda w: w.app.fork().exit(),
    "frames": lambda w: w.app.frames(w.base, 8),
    "fread": lambda w: w.app.fread(w.file, 0, 4),
    "ftruncate": lambda w: w.app.ftruncate(w.file, 8 * PAGE),
    "fwrite": lambda w: w.app.fwrite(w.file, 0, [1, 2, 3]),
    "get_mempolicy": lambda w: w.app.get_mempolicy(pm.MPOL_F_ADDR | pm.MPOL_F_NODE, w.base),
    "leader": lambda w: w.app.leader,
    "limit_memlock": lambda w: w.app.limit_memlock("8MiB"),
    "madvise": lambda w: w.app.madvise(w.base, PAGE, "willneed"),
    "mbind": lambda w: w.app.mbind(w.base, 8 * PAGE, pm.Interleave([0, 1]), pm.MPOL_MF_MOVE),
    "migrate_pages": lambda w: w.app.migrate_pages({0}, {1}),
    "mlock": lambda w: w.app.mlock(w.base, PAGE),
    "mlockall": lambda w: w.app.mlockall(current=True),
    "mmap": lambda w: w.app.munmap(w.app.mmap(PAGE, populate=True), PAGE),
    "mmap_pfns": lambda w: w.app.munmap(w.app.mmap_pfns([2, 3]), 2 * PAGE),
    "move_pages": lambda w: w.app.move_pages(w.pages.tolist(), [0, 1] * 4, pid=w.app.pid),
    "mprotect": World.remapped,
    "mremap": World.remapped,
    "munlock": lambda w: w.app.munlock(w.base, PAGE),
    "munlockall": lambda w: w.app.munlockall(),
    "munmap": World.remapped,
    "node": lambda w: w.app.node,
    "nodes": lambda w: w.app.nodes(w.base, 8),
    "numa_maps": lambda w: w.app.numa_maps(),
    "pagemap": lambda w: w.app.pagemap(w.base, 8),
    "pid": lambda w: w.app.pid,
    "pin": World.with_pin,
    "punch": lambda w: w.app.punch(w.file, 0, PAGE),
    "reap": lambda w: w.a_zombie().reap(),
    "set_mempolicy": lambda w: w.app.set_mempolicy(pm.Bind([0, 1])),
    "set_mempolicy_home_node": lambda w: w.app.set_mempolicy_home_node(w.base, PAGE, 0),
    "set_vm_ops": lambda w: w.other.set_vm_ops(w.other.mmap(PAGE), migrate=None),
    "setuid": lambda w: w.machine.spawn().setuid(1000),
    "thread": lambda w: w.app.thread(cpu=0).exit_thread(),
    "threads": lambda w: w.app.threads,
    "smaps": lambda w: w.app.smaps(),
    "start_mbind": lambda w: w.app.start_mbind(w.base, 8 * PAGE, pm.Bind([1])).finish(),
    "start_migrate_pages": lambda w: w.app.start_migrate_pages({0}, {1}).finish(),
    "start_move_pages": lambda w: w.app.start_move_pages(w.pages.tolist(), [0, 1] * 4).finish(),
    "status": lambda w: w.app.status(),
    "touch": lambda w: w.app.touch(w.base, 8 * PAGE),
    "uid": lambda w: w.app.uid,
    "unpin": World.with_pin,
    "vmas": lambda w: w.app.vmas(),
}
MACHINE: dict[str, Callable[[World], Any]] = {
    "at_step": World.hooked,
    "check": lambda w: w.machine.check(full=True),
    "content": lambda w: w.machine.content,
    "copy": lambda w: w.machine.copy().check(full=True),
    "counters": lambda w: w.machine.counters,
    "cpu_counters": lambda w: w.machine.cpu_counters,
    "cpu_node": lambda w: w.machine.cpu_node(0),
    "cpus": lambda w: w.machine.cpus,
    "file": lambda w: w.machine.file("tmpfs", PAGE).close(),
    "frames": lambda w: w.machine.frames.refcount,
    "free": lambda w: w.machine.free(0),
    "kernel": lambda w: w.machine.kernel,
    "load": World.saved,
    "mappings": lambda w: w.machine.mappings(w.pfn),
    "memory_nodes": lambda w: w.machine.memory_nodes,
    "migrate_frames": lambda w: w.machine.migrate_frames(w.pfns, [1] * 8),
    "migrate_lists": lambda w: w.machine.migrate_lists(w.pfns, 1),
    "migrate_range": lambda w: w.machine.migrate_range(w.pfn, 1),
    "migrations": World.copied_in_progress,
    "node_of": lambda w: w.machine.node_of(w.pfns),
    "nr_cpus": lambda w: w.machine.nr_cpus,
    "nr_nodes": lambda w: w.machine.nr_nodes,
    "offline": World.offline_online,
    "online": World.offline_online,
    "page_tables": lambda w: w.machine.page_tables,
    "process": lambda w: w.machine.process(w.app.pid),
    "populate": lambda w: w.machine.populate(w.pages, [w.app.pid, w.child.pid] * 4),
    "processes": lambda w: w.machine.processes,
    "save": World.saved,
    "set_weight": lambda w: w.machine.set_weight(0, 2),
    "set_callbacks": World.told,
    "spawn": lambda w: w.machine.spawn().exit(),
    "start_migrate_frames": lambda w: w.machine.start_migrate_frames(w.pfns, [1] * 8).finish(),
    "swap": lambda w: w.machine.swap,
    "swap_out": lambda w: w.machine.swap_out(w.pfns),
    "swapoff": lambda w: (w.machine.swapoff(0), w.machine.swapon(0)),
    "swapon": lambda w: w.machine.swapon(0),
    "table_pfn": lambda w: w.machine.table_pfn,
    "trace": lambda w: w.machine.trace,
    "trace_locks": lambda w: setattr(w.machine, "trace_locks", False),
    "tracing": World.traced,
    "vmstat": lambda w: w.machine.vmstat,
    "weights": lambda w: w.machine.weights,
    "width": lambda w: setattr(w.machine, "width", w.machine.width),
}
#: The methods of the core's own classes, which make the objects; the arguments are there already.
CORE_PROCESS: dict[str, Callable[[World], Any]] = {
    "_access": lambda w: w.app._access(w.pages, True),
    "_access_counts": lambda w: w.app._access_counts(w.base, 8),
    "_cred": lambda w: w.app._cred(),
    "_exit": lambda w: w.child._exit(True),
    "_fadvise": lambda w: w.app._fadvise(w.file.index, 0, 4, 4, False),
    "_faults": lambda w: w.app._faults(),
    "_fork": lambda w: w.app._fork(),
    "_clone_thread": lambda w: w.app._clone_thread(0),
    "_leader": lambda w: w.app._leader(),
    "_size": lambda w: w.app._size(),
    "_stretch": lambda w: w.app._stretch(w.base, 8, 4),
    "_threads": lambda w: w.app._threads(),
    "_fread": lambda w: w.app._fread(w.file.index, 0, w.values),
    "_ftruncate": lambda w: w.app._ftruncate(w.file.index, 8),
    "_fwrite": lambda w: w.app._fwrite(w.file.index, 0, w.values),
    "_get_cpu": lambda w: w.app._get_cpu(),
    "_get_task_policy": lambda w: w.app._get_task_policy(),
    "_get_mempolicy": lambda w: w.app._get_mempolicy(None, None, 0, w.base, 3),
    "_limits": lambda w: w.app._limits(1 << 23),
    "_madvise": lambda w: w.app._madvise(w.base, PAGE, 3),
    "_mbind": lambda w: w.app._mbind(w.base, 8 * PAGE, 2, NODE_1, 65, 2),
    "_migrate_pages": lambda w: w.app._migrate_pages(0, 65, NODE_1, NODE_0),
    "_mlock": lambda w: w.app._mlock(w.base, PAGE, False),
    "_mlockall": lambda w: w.app._mlockall(1),
    "_mm": lambda w: w.app._mm,
    "_mmap": lambda w: w.app._mmap(w.base + 16 * PAGE, PAGE, 3, 0x8032, 0, 0),
    "_mmap_pfns": lambda w: w.app._mmap_pfns(w.reserved, 3, 0),
    "_move_pages": lambda w: w.app._move_pages(0, 8, w.pages, w.nodes, w.status, 2),
    "_mprotect": lambda w: w.app._mprotect(w.base, PAGE, 3),
    "_mremap": lambda w: w.app._mremap(w.base, PAGE, PAGE, 1, 0),
    "_munlock": lambda w: w.app._munlock(w.base, PAGE),
    "_munlockall": lambda w: w.app._munlockall(),
    "_munmap": lambda w: w.app._munmap(w.base + 7 * PAGE, PAGE),
    "_pid": lambda w: w.app._pid,
    "_pin": lambda w: w.app._pin(w.base, 1, True),
    "_ptes": lambda w: w.app._ptes(w.base, 8),
    "_punch": lambda w: w.app._punch(w.file.index, 0, 1),
    "_reaped": lambda w: w.app._reaped,
    "_reap": lambda w: w.child._reap(),
    "_set_cpu": lambda w: w.app._set_cpu(0),
    "_set_mempolicy": lambda w: w.app._set_mempolicy(2, NODE_0, 65),
    "_set_mempolicy_home_node": lambda w: w.app._set_mempolicy_home_node(w.base, PAGE, 0, 0),
    "_setuid": lambda w: w.app._setuid(0, 0, True),
    "_task": lambda w: w.app._task,
    "_touch": lambda w: w.app._touch(w.base, 8, False, None, w.values),
    "_unpin": lambda w: w.app._unpin(1),
    "_usage": lambda w: w.app._usage(),
    "_vm_ops": lambda w: w.app._vm_ops(w.base, 0),
    "_vmas": lambda w: w.app._vmas(),
}
CORE_MACHINE: dict[str, Callable[[World], Any]] = {
    "_all_reserved": lambda w: w.machine._all_reserved(w.reserved),
    "_at_step": World.hooked,
    "_close_file": lambda w: w.machine.file("tmpfs", PAGE).close(),
    "_content_raw": lambda w: w.machine._content_raw(),
    "_counter": lambda w: w.machine._counter(0),
    "_counters": lambda w: w.machine._counters(),
    "_counters_raw": lambda w: w.machine._counters_raw(),
    "_evacuate": lambda w: w.machine._evacuate(-1, w.pfn, 1, 6, 3, 2, w.app),
    "_fallback": lambda w: w.machine._fallback(0),
    "_file_busy": lambda w: w.machine._file_busy(w.file.index),
    "_file_frames": lambda w: w.machine._file_frames(w.file.index),
    "_cpu_nid": lambda w: w.machine._cpu_nid(0),
    "_file_name": lambda w: w.machine._file_name(w.file.index, w.file.ino),
    "_find_task": lambda w: w.machine._find_task(1),
    "_memory_mask": lambda w: w.machine._memory_mask,
    "_new_ops": lambda w: w.machine._new_ops(),
    "_nids": lambda w: w.machine._nids(w.pages),
    "_node_range": lambda w: w.machine._node_range(1),
    "_pids": lambda w: w.machine._pids(),
    "_tracing": lambda w: w.machine._tracing,
    "_trace_locks": lambda w: w.machine._trace_locks,
    "_weights": lambda w: w.machine._weights(),
    "_file_info": lambda w: w.machine._file_info(w.file.index),
    "_frames_raw": lambda w: w.machine._frames_raw(),
    "_list_content": lambda w: w.machine._list_content(w.reserved),
    "_mappings": lambda w: w.machine._mappings(w.pfn),
    "_migrate_frames": lambda w: w.machine._migrate_frames(w.pfns, w.nodes, w.status),
    "_migrate_lists": lambda w: w.machine._migrate_lists(w.pfns, 1),
    "_mlock_counts": lambda w: w.machine._mlock_counts(),
    "_new_file": lambda w: w.machine._new_file(2, 1),
    "_node_free": lambda w: w.machine._node_free(0),
    "_nr_frames": lambda w: w.machine._nr_frames,
    "_on_wait": lambda w: w.machine._on_wait(None),
    "_online": lambda w: w.machine._online(2),
    "_set_file_busy": lambda w: w.machine._set_file_busy(w.file.index, False),
    "_set_file_ino": lambda w: w.machine._set_file_ino(w.file.index, 9),
    "_set_next_ino": lambda w: w.machine._set_next_ino(100),
    "_set_file_name": lambda w: w.machine._set_file_name(w.file.index, b"name"),
    "_set_weight": lambda w: w.machine._set_weight(0, 1),
    "_spawn": lambda w: w.machine._spawn(0, 0),
    "_start_trace": World.traced,
    "_stop_trace": World.traced,
    "_swap_info": lambda w: w.machine._swap_info(),
    "_swap_map": lambda w: w.machine._swap_map(),
    "_swap_out": lambda w: w.machine._swap_out(w.pfns),
    "_swapoff": lambda w: (w.machine._swapoff(0), w.machine._swapon(0)),
    "_swapon": lambda w: w.machine._swapon(0),
    "_tables_raw": lambda w: w.machine._tables_raw(),
    "_trace_raw": lambda w: w.machine._trace_raw(),
}
#: For tests, or called by a migrate operation only.
OTHERS = {"_arenas", "_vma_frames", "_vma_info", "_vma_migrate", "_vma_remap"}
#: What the kernels of 2006 alone have.
OF_2006 = {"migrate_lists", "swap_out", "swapoff", "swapon"}
OF_2006 |= {"_migrate_lists", "_swap_out", "_swapoff", "_swapon", "_swap_map"}
PUBLIC = {f"Process.{name}": call for name, call in PROCESS.items()}
PUBLIC |= {f"Machine.{name}": call for name, call in MACHINE.items()}
CORE = {f"Process.{name}": call for name, call in CORE_PROCESS.items()}
CORE |= {f"Machine.{name}": call for name, call in CORE_MACHINE.items()}


def kernels_of(name: str) -> list[str]:
    return ["2.6.17"] if name.partition(".")[2] in OF_2006 else ["6.1", "2.6.17"]
