"""The calls as a host in C makes them: numbers and memory, straight into ``pmg_sys_*``.

Nothing is checked, coerced or worded on the way; the functions stand in for the methods of a
process that have the same names.
"""

from typing import Any

import numpy as np

import pagemig as pm
from pagemig.constants import FADV_BY_NAME, MADV_BY_NAME, Pointer
from pagemig.errors import errno_of, raise_errno
from pagemig.system.process import Pin

#: A mask has memory of its own to here, 0 behind its last word; then comes what is not 0.
PAGE = 4096
INT, LONG = (1 << 32) - 1, (1 << 64) - 1


def refused(rc: int, call: str, result: Any = None) -> int:
    if rc < 0:
        raise_errno(-errno_of(rc), call, result)
    return rc


def mask(nodes: Any) -> tuple[bytes | None, int]:
    """The memory of a set of nodes, and the ``maxnode`` of a program that names none."""
    if isinstance(nodes, Pointer):
        return (None, 0) if nodes is pm.NULL else (b"", 65)
    words = max(nodes, default=0) // 64 + 1
    own = sum(1 << nid for nid in set(nodes)).to_bytes(words * 8, "little")[:PAGE]
    return own.ljust(PAGE, b"\0"), words * 64 + 1


def raw(policy: Any, nodes: Any) -> tuple[int, Any]:
    """Mode word and nodes, which the scenarios give, or of the policy of a file's pages."""
    if isinstance(policy, pm.Policy):
        return policy.mode | policy.flags, policy.nodes or pm.NULL
    return policy & INT, nodes


def mbind(
    self: pm.Process,
    addr: int,
    length: int,
    policy: int,
    nodes: Any = pm.NULL,
    flags: int = 0,
    *,
    maxnode: int | None = None,
) -> None:
    word, nodes = raw(policy, nodes)
    memory, bits = mask(nodes)
    bits = bits if maxnode is None else maxnode & LONG
    refused(self._mbind(addr, length & LONG, word, memory, bits, flags & LONG), "mbind")


def set_mempolicy(
    self: pm.Process, policy: int, nodes: Any = pm.NULL, *, maxnode: int | None = None
) -> None:
    word, nodes = raw(policy, nodes)
    memory, bits = mask(nodes)
    bits = bits if maxnode is None else maxnode & LONG
    refused(self._set_mempolicy(word, memory, bits), "set_mempolicy")


def get_mempolicy(
    self: pm.Process,
    flags: int = 0,
    addr: int = 0,
    *,
    maxnode: int = 1024,
    nodemask: Pointer | None = None,
    mode: Pointer | None = None,
) -> pm.PolicyResult:
    word = None if mode is pm.NULL else np.zeros(int(mode is not pm.BAD), dtype=np.int32)
    words = None if nodemask is pm.NULL else np.zeros(512 * (nodemask is not pm.BAD), np.uint64)
    refused(self._get_mempolicy(word, words, maxnode & LONG, addr, flags & LONG), "get_mempolicy")
    there = None
    if words is not None:
        there = tuple(nid for nid in range(1024) if int(words[nid // 64]) >> nid % 64 & 1)
    return pm.PolicyResult(None if word is None else int(word[0]), there)


def set_mempolicy_home_node(
    self: pm.Process, addr: int, length: int, node: int, flags: int = 0
) -> None:
    rc = self._set_mempolicy_home_node(addr, length & LONG, node & LONG, flags & LONG)
    refused(rc, "set_mempolicy_home_node")


def number(pid: Any) -> int:
    return pid.pid if isinstance(pid, pm.Process) else pid


def move_pages(
    self: pm.Process,
    pages: Any,
    nodes: Any = None,
    flags: int = pm.MPOL_MF_MOVE,
    *,
    pid: Any = 0,
    count: int | None = None,
    status: Any = None,
) -> pm.MoveResult:
    listed = [] if isinstance(pages, Pointer) else [int(page) & LONG for page in pages]
    if isinstance(nodes, int):
        nodes = [nodes] * len(listed)
    if nodes is pm.NULL:
        nodes = None
    targets = None if nodes is None else [] if isinstance(nodes, Pointer) else list(nodes)
    if count is None:
        count = len(targets or []) if isinstance(pages, Pointer) and targets else len(listed)
    stored = np.full(len(listed), pm.STATUS_UNSET, dtype=np.int32)
    rc = self._move_pages(
        number(pid),
        count & LONG,
        np.array(listed, dtype=np.uint64),
        None if targets is None else np.array(targets, dtype=np.int32),
        None if isinstance(status, Pointer) else stored,
        flags & INT,
    )
    refused(rc, "move_pages", pm.MoveResult(-errno_of(rc) if rc < 0 else rc, stored))
    return pm.MoveResult(rc, stored)


def migrate_pages(
    self: pm.Process, from_nodes: Any, to_nodes: Any, *, pid: Any = 0, maxnode: int | None = None
) -> int:
    (old, bits), (new, others) = mask(from_nodes), mask(to_nodes)
    bits = max(bits, others) if maxnode is None else maxnode & LONG
    return refused(self._migrate_pages(number(pid), bits, old, new), "migrate_pages")


# ---- address spaces, processes, files -----------------------------------------------------------

PROT = {"r": 1, "w": 2, "x": 4}


def prot_of(letters: Any) -> int:
    return letters if isinstance(letters, int) else sum(PROT[letter] for letter in letters)


def mmap(
    self: pm.Process,
    length: int,
    *,
    addr: int | None = None,
    prot: Any = "rw",
    shared: bool = False,
    file: Any = None,
    offset: int = 0,
    populate: bool = False,
    locked: bool = False,
    noreplace: bool = False,
) -> int:
    flags = 1 if shared else 2
    flags |= 0x20 * (file is None) | 0x8000 * populate | 0x2000 * locked
    if addr is not None:
        flags |= 0x100000 if noreplace else 0x10
    index = file.index if file is not None else 0
    rc = self._mmap(addr or 0, length & LONG, prot_of(prot), flags, index, offset)
    return refused(rc, "mmap")


def munmap(self: pm.Process, addr: int, length: int) -> None:
    refused(self._munmap(addr, length & LONG), "munmap")


def mprotect(self: pm.Process, addr: int, length: int, prot: Any) -> None:
    refused(self._mprotect(addr, length & LONG, prot_of(prot)), "mprotect")


def mremap(
    self: pm.Process,
    addr: int,
    old_length: int,
    new_length: int,
    *,
    maymove: bool = False,
    new_addr: int | None = None,
    dontunmap: bool = False,
) -> int:
    flags = maymove | 2 * (new_addr is not None) | 4 * dontunmap
    rc = self._mremap(addr, old_length & LONG, new_length & LONG, flags, (new_addr or 0) & LONG)
    return refused(rc, "mremap")


def mlock(self: pm.Process, addr: int, length: int, *, onfault: bool = False) -> None:
    refused(self._mlock(addr, length & LONG, int(onfault)), "mlock")


def munlock(self: pm.Process, addr: int, length: int) -> None:
    refused(self._munlock(addr, length & LONG), "munlock")


def mlockall(
    self: pm.Process, *, current: bool = False, future: bool = False, onfault: bool = False
) -> None:
    refused(self._mlockall(current | 2 * future | 4 * onfault), "mlockall")


def munlockall(self: pm.Process) -> None:
    refused(self._munlockall(), "munlockall")


def madvise(self: pm.Process, addr: int, length: int, advice: Any) -> None:
    number = advice if isinstance(advice, int) else MADV_BY_NAME[advice]
    refused(self._madvise(addr, length & LONG, number), "madvise")


def fork(self: pm.Process) -> pm.Process:
    return self.machine.process(refused(self._fork(), "fork"))


def setuid(self: pm.Process, uid: int, *, gid: int | None = None, dumpable: bool = False) -> None:
    refused(self._setuid(uid, uid if gid is None else gid, dumpable), "setuid")


def pin(self: pm.Process, addr: int, length: int, how: str = "pipe") -> Any:
    first, end = addr >> 12, (addr + length + 4095) >> 12
    rc, handle = self._pin(first << 12, end - first, how == "uring")
    refused(rc, "pin")
    return Pin(handle, rc, rc, how, self.machine)


def unpin(self: pm.Process, pin: Any) -> None:
    refused(self._unpin(pin.handle), "unpin")


def fwrite(self: pm.Process, file: Any, page_offset: int, values: Any, n: int = 1) -> int:
    data = np.asarray(values, dtype=np.uint64)
    return refused(self._fwrite(file.index, page_offset, data), "fwrite")


def fread(self: pm.Process, file: Any, page_offset: int, n: int = 1) -> Any:
    out = np.zeros(n, dtype=np.uint64)
    return out[: refused(self._fread(file.index, page_offset, out), "fread")]


def ftruncate(self: pm.Process, file: Any, size: int) -> None:
    refused(self._ftruncate(file.index, size >> 12), "ftruncate")


def punch(self: pm.Process, file: Any, offset: int, length: int) -> None:
    refused(self._punch(file.index, offset >> 12, length >> 12), "punch")


def fadvise(
    self: pm.Process, file: Any, offset: int, length: int, advice: Any, *, sync: bool = False
) -> None:
    number = advice if isinstance(advice, int) else FADV_BY_NAME[advice]
    refused(self._fadvise(file.index, offset >> 12, length >> 12, number, sync), "fadvise")


#: Method of a process, and what stands in for it.
CALLS = (
    mbind,
    set_mempolicy,
    get_mempolicy,
    set_mempolicy_home_node,
    move_pages,
    migrate_pages,
    mmap,
    munmap,
    mprotect,
    mremap,
    mlock,
    munlock,
    mlockall,
    munlockall,
    madvise,
    fork,
    setuid,
    pin,
    unpin,
    fwrite,
    fread,
    ftruncate,
    punch,
    fadvise,
)
