"""How a modelled call fails: ``OSError`` with the kernel's errno, and what cannot be asked at all.

Three ranks, never mixed:

* the kernel refuses: :class:`SyscallError`, an ``OSError`` with ``errno``; the machine is as the
  kernel leaves it, which may be half done, and ``result`` says what was done;
* no kernel call could express the request: ``ValueError`` or ``TypeError`` that names the argument
  and its value; the machine is untouched;
* one page among many: a negative errno in a status array, never an exception.

This module imports nothing of pagemig, so that every layer, the core too, can raise what is here.
"""

import errno
import os
from typing import Any, NoReturn

__all__ = [
    "InvariantError",
    "KernelBug",
    "ProcessGoneError",
    "Refusal",
    "SyscallError",
    "errno_name",
    "no_copy",
    "raise_errno",
]


class InvariantError(AssertionError):
    """An invariant of the machine does not hold: page, rule and both values are in the text."""


class KernelBug(RuntimeError):
    """The real kernel of this profile would have crashed here; the machine is as before the step.

    Pages that were off the LRU for the call are back on it.

    Parameters
    ----------
    site : str
        Where: function and condition.
    """

    def __init__(self, site: str) -> None:
        super().__init__(site)
        self.site = site


#: Where a real kernel would have crashed, by the core's number.
_BUG_SITES = {
    1: "vma_address: a page of a file outside the first mapping of mbind's range",
    2: "page_address_in_vma: the first mapping of mbind's range has no file, the page has",
    3: "alloc_pages_node: a node that is not there",
    4: "try_to_unmap_file: the page has no mapping: truncated, or just read from swap",
}
#: The core's answer is below this where there was such a place.
_BUG = 1024


class ProcessGoneError(ValueError):
    """A call by a process that has exited or was killed: nobody is left to make it."""


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
        What was done before the call failed, in the shape the call returns; None where nothing is
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


#: Where Python's table has another name for a number than the kernel's sources.
_KERNEL_NAMES = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK", 1 << 31: "unset"}

_CLASS_OF: dict[int, type[SyscallError]] = {
    errno.EPERM: _SyscallPermissionError,
    errno.EACCES: _SyscallPermissionError,
    errno.ESRCH: _SyscallLookupError,
}


def errno_name(number: int) -> str:
    """Symbol of an error number of either sign, as ``"EFAULT"``; the number when it has none.

    ``STATUS_UNSET``, which is no error, is ``"unset"``.

    Examples
    --------
    >>> errno_name(-14)
    'EFAULT'
    """
    positive = abs(int(number))
    return _KERNEL_NAMES.get(positive) or errno.errorcode.get(positive, str(positive))


class Refusal(int):
    """A negative errno that knows which rule was broken.

    Attributes
    ----------
    rule : str
        The rule, as it is added to the error's text by a note.
    """

    rule: str

    def __new__(cls, number: int, rule: str) -> "Refusal":
        """``-number`` and the rule."""
        self = super().__new__(cls, -number)
        self.rule = rule
        return self


def raise_errno(rc: int, call: str, result: Any = None) -> NoReturn:
    """Raise the :class:`SyscallError` of a negative return value.

    Parameters
    ----------
    rc : int
        ``-errno``; the rule of a :class:`Refusal` becomes a note of the exception.
    call : str
        Name of the system call.
    result : object, optional
        What was done before it failed.

    Raises
    ------
    SyscallError
        Always, unless
    KernelBug
        the number says that the real kernel would have crashed.
    """
    number = int(-rc)
    if number > _BUG:
        raise KernelBug(_BUG_SITES[number - _BUG])
    error = _CLASS_OF.get(number, SyscallError)(number, call, result)
    if isinstance(rc, Refusal):
        error.add_note(rc.rule)
    raise error


def no_copy(what: object) -> NoReturn:
    """Refuse to copy or pickle what is tied to a machine.

    Raises
    ------
    TypeError
        Always.
    """
    raise TypeError(
        f"a {type(what).__name__} cannot be copied or pickled, that is not supported yet: build "
        "another Machine with the same arguments and repeat the calls"
    )
