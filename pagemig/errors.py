"""Errors of modelled calls.

There are three ranks, never mixed:

* The kernel refuses: :class:`SyscallError`, an ``OSError`` with ``errno``.  The machine is as the
  kernel leaves it, which may be half done, and ``result`` says what was done.
* No kernel call could express the request: ``ValueError`` or ``TypeError`` that names the argument
  and its value.  The machine is unchanged.
* One page of many: a negative errno in a status array, never an exception.

This module imports nothing of pagemig, so every layer, including the core, can raise its errors.
"""

import errno
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

__all__ = [
    "RULES",
    "InvariantError",
    "KernelBug",
    "ProcessGoneError",
    "StateError",
    "SyscallError",
    "errno_name",
    "errno_of",
    "no_copy",
    "raise_errno",
]


class InvariantError(AssertionError):
    """An invariant of the machine does not hold: page, rule and both values are in the text."""


class KernelBug(RuntimeError):
    """The real kernel of this profile would have crashed here; the machine is as before the step.

    Pages that the call had isolated are back on the LRU.

    Parameters
    ----------
    site : str
        The place: function and condition.

    Attributes
    ----------
    site : str
        As given.
    hangs : bool
        Whether the kernel does not crash, but never returns from the call.
    """

    def __init__(self, site: str) -> None:
        super().__init__(site)
        self.site = site
        self.hangs = site in _HANGS


#: Places where a real kernel would have crashed, by the core's number.
_BUG_SITES = {
    1: "vma_address: a page of a file outside the first mapping of mbind's range",
    3: "alloc_pages_node: an absent node",
    4: "try_to_unmap_file: the page has no mapping: truncated, or just read from swap",
    5: "sys_move_pages: a node number far beyond the end of the node map",
    6: "madvise_remove: the range begins at the start of a mapping, and another one follows",
}
#: Those where the call never returns.
_HANGS = frozenset({_BUG_SITES[6]})
#: The core's answer is -(this + the number of such a place).
_BUG = 1024


class ProcessGoneError(ValueError):
    """A call by a process that has exited or was killed."""


class StateError(ValueError):
    """A saved machine cannot be loaded, or a machine cannot be saved; the text says what to do."""


class SyscallError(OSError):
    """A system call that failed.

    ``EPERM`` and ``EACCES`` are also a ``PermissionError``, ``ESRCH`` also a
    ``ProcessLookupError``, as for the calls of :mod:`os`.

    Attributes
    ----------
    errno : int
        The kernel's error number, positive.
    name : str
        Its symbol, as ``"EFAULT"``.
    call : str
        The call, as ``"mbind"``.
    result : object
        What was done before the call failed, as the call would return it; None if nothing is
        reported.
    """

    call: str
    result: Any

    def __init__(self, number: int, call: str, result: Any = None) -> None:
        super().__init__(number, f"{call}: {errno_name(number)}, {os.strerror(number)}")
        self.call = call
        self.result = result

    @property
    def name(self) -> str:
        """Symbol of the error, as ``"EFAULT"``."""
        return errno_name(self.errno or 0)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errno, self.call, self.result)


class _SyscallPermissionError(SyscallError, PermissionError):
    """EPERM or EACCES."""


class _SyscallLookupError(SyscallError, ProcessLookupError):
    """ESRCH."""


#: Numbers for which Python's table has another name than the kernel's sources.
_KERNEL_NAMES = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK", 1 << 31: "unset"}

_CLASS_OF: dict[int, type[SyscallError]] = {
    errno.EPERM: _SyscallPermissionError,
    errno.EACCES: _SyscallPermissionError,
    errno.ESRCH: _SyscallLookupError,
}


def errno_name(number: int) -> str:
    """Return the symbol of an error number of either sign, as ``"EFAULT"``.

    ``STATUS_UNSET``, which is not an error, is ``"unset"``.

    Examples
    --------
    >>> errno_name(-14)
    'EFAULT'
    """
    positive = abs(int(number))
    return _KERNEL_NAMES.get(positive) or errno.errorcode.get(positive, str(positive))


#: The rule of the kernel that a call broke, by the core's number (mm/rules.pxd); a note of the
#: error says it.
RULES: dict[int, str] = {
    1: "flags may be MPOL_MF_MOVE and MPOL_MF_MOVE_ALL only",
    2: "MPOL_MF_MOVE_ALL needs CAP_SYS_NICE",
    3: "that process has no memory: a zombie or a kernel thread",
    4: "to_nodes has nodes without memory here, and the caller lacks CAP_SYS_NICE",
    5: "to_nodes has nodes without memory here",
    6: "to_nodes has no node with memory here",
    7: "mode {mode:#x} is not known to Linux {kernel}",
    8: "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other",
    9: "MPOL_F_NUMA_BALANCING does not go with mode {mode} in Linux {kernel}",
    10: "maxnode {maxnode} is more than a page of bits",
    11: "the mask, read to maxnode {maxnode}, has bits beyond node 1023",
    12: "flags may be MPOL_MF_STRICT, _MOVE and _MOVE_ALL only",
    13: "the address {addr:#x} is not a multiple of the page size",
    14: "the range from {addr:#x} ends beyond the last address",
    15: "the node set has a node without memory here",
    16: "no node of the set has memory here",
    17: "this mode takes no nodes",
    18: "the node set is empty",
    19: "maxnode is below the {nr_nodes} nodes of the machine",
    20: "maxnode is more than a page of bits",
    21: "flags may be MPOL_F_NODE, _ADDR and _MEMS_ALLOWED only",
    22: "MPOL_F_MEMS_ALLOWED goes with no other flag",
    23: "an address is given without MPOL_F_ADDR",
    24: "MPOL_F_NODE alone is for a process that interleaves",
    25: "flags must be 0",
    26: "there is no node {node} on this machine",
    27: "the length is 0",
    28: "the offset {offset:#x} is not a multiple of the page size",
    29: "Linux {kernel} has no such call",
    30: "something is mapped there already",
    31: "the address space has no room for the mapping",
    32: "no huge pages are reserved",
    33: "the range ends beyond the largest file",
    34: "prot may be PROT_READ, _WRITE, _EXEC and _SEM only",
    35: "nothing is mapped in part of the range",
    36: "RLIMIT_MEMLOCK does not allow locking so much memory",
    37: "RLIMIT_MEMLOCK is 0, and the caller lacks CAP_IPC_LOCK",
    38: "flags may be MLOCK_ONFAULT only",
    39: "neither current nor future is requested",
    40: "Linux {kernel} does not know these flags",
    41: "advice {advice} is not known to Linux {kernel}",
    42: "flags may be MREMAP_MAYMOVE, _FIXED and _DONTUNMAP only",
    43: "MREMAP_FIXED and MREMAP_DONTUNMAP need MREMAP_MAYMOVE",
    44: "MREMAP_DONTUNMAP needs equal lengths",
    45: "Linux {kernel} has no MREMAP_DONTUNMAP",
    46: "a file may have 16 TiB at most",
    47: "this kind of file has no holes",
    48: "the device is not in use",
    49: "the device is in use",
    50: "the kernel keeps frames of that node for itself",
    51: "only a privileged process may become another user",
    52: "this process does not hold that file open",
    53: "nothing is mapped at {addr:#x}",
}
#: A refusal is one negative number: the errno below this, the rule above.
_RULE_SHIFT = 12


def errno_of(rc: int) -> int:
    """Return the errno of a failed call's answer, without the rule.

    Examples
    --------
    >>> errno_of(-(3 << 12 | 22))
    22
    """
    return -rc & (1 << _RULE_SHIFT) - 1


def raise_errno(
    rc: int,
    call: str,
    result: Any = None,
    *,
    note: str | None = None,
    words: Mapping[str, object] = MappingProxyType({}),
) -> NoReturn:
    """Raise the :class:`SyscallError` of a negative return value.

    Parameters
    ----------
    rc : int
        What the core answered: ``-errno``, with the number of the broken rule, which becomes a note
        of the exception.
    call : str
        Name of the system call.
    result : object, optional
        What was done before it failed.
    note : str, optional
        Another note.
    words : mapping of str to object
        Values for the sentences of ``RULES``.

    Raises
    ------
    KernelBug
        The number says that the real kernel would have crashed.
    SyscallError
        Otherwise.
    """
    number, rule = errno_of(rc), -rc >> _RULE_SHIFT
    if number > _BUG:
        raise KernelBug(_BUG_SITES[number - _BUG])
    error = _CLASS_OF.get(number, SyscallError)(number, call, result)
    if rule:
        error.add_note(RULES[rule].format_map(words))
    if note:
        error.add_note(note)
    raise error


def no_copy(what: object) -> NoReturn:
    """Refuse to copy or pickle an object that is part of a machine.

    Raises
    ------
    TypeError
        Always.
    """
    raise TypeError(
        f"a {type(what).__name__} is part of a machine and cannot be copied alone: copy or pickle "
        "the Machine, which has the same processes and files by pid and name"
    )
