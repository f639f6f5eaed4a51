"""The NUMA calls as a host in C makes them: numbers and memory, straight into ``pmg_sys_*``.

Nothing is checked, coerced or worded on the way; the functions stand in for the methods of a
process that have the same names.
"""

from typing import Any

import numpy as np

import pagemig as pm
from pagemig.constants import Pointer
from pagemig.errors import SyscallError, errno_of

#: A mask has memory of its own to here, 0 behind its last word; then comes what is not 0.
PAGE = 4096
INT, LONG = (1 << 32) - 1, (1 << 64) - 1


def refused(rc: int, call: str, result: Any = None) -> int:
    if rc < 0:
        raise SyscallError(errno_of(rc), call, result)
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


#: Method of a process, and what stands in for it.
CALLS = (
    mbind,
    set_mempolicy,
    get_mempolicy,
    set_mempolicy_home_node,
    move_pages,
    migrate_pages,
)
