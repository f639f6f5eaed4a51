"""The base of every call of a process: its machine, whether it runs, and its errors."""

from typing import NoReturn

from pagemig import _calls
from pagemig.arguments import as_int
from pagemig.errors import ProcessGoneError, raise_errno
from pagemig.system.files import File
from pagemig.system.platform import Platform

__all__ = ["Task", "raise_refusal"]

_UINT_MAX = (1 << 32) - 1


class Task(_calls.Calls):
    """The calling side of a process; the subclasses have the calls."""

    __slots__ = ("machine",)

    machine: Platform

    def _must_live(self, call: str) -> None:
        if not self.alive:
            raise ProcessGoneError(f"{self!r} cannot call {call}")

    def _done(self, call: str, rc: int, **values: int) -> int:
        """Return a call's answer or raise its error; ``values`` fill in the rule's sentence."""
        if rc < 0:
            raise_errno(rc, call, words={"kernel": self.machine.kernel, **values})
        return rc

    def _fail(
        self, call: str, rc: int, result: object = None, *, note: str | None = None, **values: int
    ) -> NoReturn:
        """Raise a call's error; ``values`` fill in the sentence of its rule."""
        self._must_live(call)
        raise_refusal(self.machine, call, rc, result, note=note, **values)

    def _pid_number(self, pid: "int | Task") -> int:
        if isinstance(pid, Task):
            if pid.machine is not self.machine:
                raise ValueError(f"pid must be of the same machine, not {pid!r}")
            return pid.pid
        return as_int(pid, "pid", "a Process or a number")

    def _index_of(self, file: File) -> int:
        if type(file) is not File:
            shown = object.__repr__(file) if isinstance(file, File) else repr(file)
            raise TypeError(f"file must be a File, not {shown}")
        if file.machine is not self.machine:
            raise ValueError(f"file must be of the same machine, not {file!r}")
        if file.closed:
            raise ValueError(f"{file!r} is closed")
        return file.index


def raise_refusal(
    machine: Platform,
    call: str,
    rc: int,
    result: object = None,
    *,
    note: str | None = None,
    **values: int,
) -> NoReturn:
    """Raise the error of a system call; ``values`` are the arguments that its message quotes."""
    profile = machine.profile
    if "mode" in values:
        values["mode"] = values["mode"] & _UINT_MAX & ~profile.mode_flags
    words = {"kernel": profile.name, "nr_nodes": machine.nr_nodes, **values}
    raise_errno(rc, call, result, note=note, words=words)
