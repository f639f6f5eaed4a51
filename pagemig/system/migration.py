"""Migrations that take the caller's time: the same calls, which stop where time may pass.

Between two steps pages are locked behind migration entries, as a kernel's are while it copies.
Whatever else happens to the machine meets them there: accesses through a context answer that they
wait, a fork copies the entries, an exit drops them, another migration finds the pages busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pagemig import _api, _core
from pagemig.arguments import (
    Addresses,
    NodeSet,
    address_array,
    as_int,
    as_ulong,
    default_maxnode,
    user_memory,
    user_nodemask,
)
from pagemig.constants import STATUS_UNSET, Pointer
from pagemig.errors import raise_errno
from pagemig.policy import Policy
from pagemig.system.numa import MoveResult, NumaCalls, Pid, _listed, _move_targets, _policy_word

__all__ = ["STOPS", "Migration", "MigrationEvent"]

#: What a stop is, by its number in ``pagemig/api.h`` (``PMG_M_*``).
STOPS: Final = ("", "unmapped", "copied", "stage", "pass", "waits", "done")
_WAITS: Final = STOPS.index("waits")
_DONE: Final = STOPS.index("done")

_NO_ADDRESSES: Final = np.empty(0, dtype=np.uint64)


class MigrationEvent(NamedTuple):
    """Where a migration stopped.

    Attributes
    ----------
    at : str
        ``"unmapped"``: the pages are behind migration entries, the flush and the copy may take time
        now. ``"copied"``: their content is in the new frames, the entries are still there.
        ``"stage"``: they have moved, who waited for them may go on. ``"pass"``: the next pass
        begins over what did not move. ``"waits"``: for what `wait` says; step again when that may
        be over.
    source, target : ndarray of uint32, shape (n,)
        Frames of the pages that the stop is about.
    passes : int
        Passes before this one, of all lists of the call.
    node : int
        Where the pages go; -2 where not all go to one node, -1 without pages.
    flushes : int
        TLB flushes at ``"unmapped"``: one a page, or one a batch.
    copy_bytes : int
        Bytes to be copied at ``"unmapped"``.
    wait : tuple of str and int
        What is waited for (``"page"``, ``"address space"``, ...) and which; ``("", 0)`` for
        nothing.
    """

    at: str
    source: npt.NDArray[np.uint32]
    target: npt.NDArray[np.uint32]
    passes: int
    node: int
    flushes: int
    copy_bytes: int
    wait: tuple[str, int]


class Migration:
    """A migration on its way, made by ``start_move_pages`` and its like.

    Iterate over it, and let the clock run on at each event. Then `result` is what the call would
    have answered. One that is left alone keeps its pages locked: `abort` it, or use ``with``.

    Attributes
    ----------
    machine : Machine
        The machine.
    done : bool
        Whether it is over.
    """

    __slots__ = ("_answer", "_flight", "_outcome", "_status", "done", "machine")

    def __init__(
        self,
        flight: _api.Flight,
        machine: _core.Machine,
        status: npt.NDArray[np.int32] | None,
        answer: Callable[[int, npt.NDArray[np.int32] | None], Any],
    ) -> None:
        self._flight = flight
        self._status = status
        self._answer = answer
        self._outcome: int | None = None
        self.machine = machine
        self.done = False

    def step(self) -> MigrationEvent | None:
        """Go on to the next stop; None when the call is over.

        Raises
        ------
        RuntimeError
            Another thread makes a step of it.
        """
        if self.done:
            return None
        at, source, target, passes, node, flushes, copied, (what, which) = self._flight.step()
        if at == _DONE:
            self._end(abort=False)
            return None
        wait = (_api.WAITED[what], which) if at == _WAITS else ("", 0)
        return MigrationEvent(STOPS[at], source, target, passes, node, flushes, copied, wait)

    def __iter__(self) -> Iterator[MigrationEvent]:
        while (event := self.step()) is not None:
            yield event

    def _end(self, *, abort: bool) -> None:
        self._outcome = self._flight.end(abort, self._status)
        self.done = True

    def finish(self) -> Any:
        """Go on to the end at once, and return `result`.

        Raises
        ------
        RuntimeError
            It waits for what only the caller can end, such as another migration.
        """
        if not self.done:
            self._end(abort=False)
        return self.result

    def abort(self) -> None:
        """Give up: what has moved stays moved, everything else is put back.

        `result` raises EINTR afterwards, with the statuses that were stored. One that is over stays
        as it is.
        """
        if not self.done:
            self._end(abort=True)

    @property
    def result(self) -> Any:
        """What the call answers.

        Raises
        ------
        SyscallError
            What the call raises, EINTR after `abort`.
        RuntimeError
            It is not over.
        """
        if self._outcome is None:
            raise RuntimeError("the migration is under way: iterate over it, finish or abort it")
        return self._answer(self._outcome, self._status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def __repr__(self) -> str:
        return f"<Migration of {self.machine!r}, {'done' if self.done else 'under way'}>"


Call = tuple[
    str,
    tuple[Any, ...],
    "npt.NDArray[np.int32] | None",
    Callable[[int, "npt.NDArray[np.int32] | None"], Any],
]


def move_pages_call(
    caller: NumaCalls,
    pages: Addresses | Pointer,
    nodes: Addresses | int | Pointer | None,
    flags: int,
    pid: Pid,
    count: int | None,
) -> Call:
    """Arguments of move_pages, and what makes its answer."""
    caller._must_live("move_pages")
    addresses = _NO_ADDRESSES if isinstance(pages, Pointer) else address_array(pages, "pages")
    n = len(addresses)
    targets = _move_targets(nodes, None if isinstance(pages, Pointer) else n)
    total = _listed(pages, nodes, n) if count is None else as_ulong(count, "count")
    status = unset(n)
    flags = as_int(flags, "flags") & 0xFFFFFFFF

    def answer(rc: int, stored: npt.NDArray[np.int32] | None) -> MoveResult:
        assert stored is not None
        if rc < 0:
            caller._fail_move(rc, stored, told=True)
        return MoveResult(rc, stored)

    arguments = (caller._pid_number(pid), total, addresses, targets, status, flags)
    return "move_pages", arguments, status, answer


def migrate_pages_call(
    caller: NumaCalls,
    from_nodes: NodeSet,
    to_nodes: NodeSet,
    pid: Pid,
    maxnode: int | None,
) -> Call:
    """Arguments of migrate_pages, and what makes its answer."""
    caller._must_live("migrate_pages")
    old, new = user_nodemask(from_nodes, "from_nodes"), user_nodemask(to_nodes, "to_nodes")
    if maxnode is None:
        maxnode = max(default_maxnode(old), default_maxnode(new))
    bits = as_ulong(maxnode, "maxnode")

    def answer(rc: int, stored: object) -> int:
        if rc < 0:
            caller._fail("migrate_pages", rc, maxnode=bits)
        return rc

    arguments = (caller._pid_number(pid), bits, user_memory(old, bits), user_memory(new, bits))
    return "migrate_pages", arguments, None, answer


def mbind_call(caller: NumaCalls, addr: int, length: int, policy: Policy, flags: int) -> Call:
    """Arguments of mbind with a policy, and what makes its answer."""
    caller._must_live("mbind")
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy, not {policy!r}")
    word, mask = _policy_word(policy)
    bits, start = default_maxnode(mask), as_ulong(addr, "addr")

    def answer(rc: int, stored: object) -> None:
        if rc < 0:
            caller._fail("mbind", rc, addr=start, mode=word, maxnode=bits)

    arguments = (
        start,
        as_ulong(length, "length"),
        word & 0xFFFFFFFF,
        user_memory(mask, bits),
        bits,
        as_ulong(flags, "flags"),
    )
    return "mbind", arguments, None, answer


def frames_call(pfns: npt.NDArray[np.uint32], nodes: npt.NDArray[np.int32]) -> Call:
    """Arguments of a migration of frames, and what makes its answer."""

    def answer(rc: int, stored: npt.NDArray[np.int32] | None) -> MoveResult:
        assert stored is not None
        if rc < 0:
            raise_errno(rc, "migrate_frames", MoveResult(rc, stored))
        return MoveResult(rc, stored)

    return "migrate_frames", (pfns, nodes), unset(len(pfns)), answer


def begin(
    machine: _core.Machine,
    caller: _core.Process | None,
    cpu: int,
    call: str,
    arguments: tuple[Any, ...],
    status: npt.NDArray[np.int32] | None,
    answer: Callable[[int, npt.NDArray[np.int32] | None], Any],
) -> Migration:
    """Begin a call of `_api.Flight` by name; ``answer`` makes its result of number and statuses."""
    flight = _api.Flight(machine, caller, cpu)
    getattr(flight, call)(*arguments)
    return Migration(flight, machine, status, answer)


def unset(n: int) -> npt.NDArray[np.int32]:
    """Return statuses of which none is stored."""
    return np.full(n, STATUS_UNSET, dtype=np.int32)
