"""Migrations that take the caller's time: the same calls, which stop where time may pass.

Between two steps pages are locked behind migration entries, as a kernel's are while it copies.
Whatever else happens to the machine meets them there: accesses through a context answer that they
wait, a fork copies the entries, an exit drops them, another migration finds the pages busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pagemig import _api, _core
from pagemig.arguments import Addresses, NodeSet
from pagemig.constants import Pointer
from pagemig.errors import raise_errno
from pagemig.policy import Policy
from pagemig.system.numa import (
    MoveResult,
    NumaCalls,
    Pid,
    bind_arguments,
    migrate_arguments,
    move_arguments,
    policy_word,
    unset,
)

__all__ = ["Migration", "MigrationEvent"]


class MigrationEvent(NamedTuple):
    """Where a migration stopped.

    Attributes
    ----------
    at : str
        ``"unmapped"``: the pages are behind migration entries, the flush and the copy may take time
        now. ``"copied"``: their content is in the new frames, the entries are still there.
        ``"stage"``: they have moved, waiters may go on. ``"pass"``: the next pass begins over the
        pages that did not move. ``"waits"``: for what `wait` says; step again when that may be
        over.
    source, target : ndarray of uint32, shape (n,)
        Frames of the pages that the stop is about; at ``"stage"`` a target of 0 says that the page
        was put back.
    passes : int
        Passes before this one, of all lists of the call.
    node : int
        Where the pages go; -2 where not all go to one node, -1 without pages.
    flushes : int
        TLB flushes since the last stop: one an entry, or one a batch.
    copy_bytes : int
        Bytes to be copied at ``"unmapped"``; at the other stops bytes copied since the last one.
    ipis : int
        Processors that were told to flush since the last stop.
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
    ipis: int
    wait: tuple[str, int]


class Migration:
    """A migration in progress, made by ``start_move_pages`` and its siblings.

    Iterate over it, and advance the clock at each event. Then `result` is what the call would have
    returned. An unfinished migration keeps its pages locked: `abort` it, or use ``with``.

    Attributes
    ----------
    machine : Machine
        The machine.
    """

    __slots__ = ("_answer", "_flight", "_status", "machine")

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
        self.machine = machine

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self._flight.outcome is not None

    def step(self) -> MigrationEvent | None:
        """Continue to the next stop.

        Returns
        -------
        MigrationEvent or None
            The stop; None when the call is over.

        Raises
        ------
        RuntimeError
            Another thread makes a step of it.
        """
        if self.done:
            return None
        at, source, target, passes, node, flushes, copied, ipis, (what, which) = self._flight.step()
        if at == "done":
            self._flight.end(False, self._status)
            return None
        wait = (_api.WAITED[what], which) if at == "waits" else ("", 0)
        return MigrationEvent(at, source, target, passes, node, flushes, copied, ipis, wait)

    def __iter__(self) -> Iterator[MigrationEvent]:
        while (event := self.step()) is not None:
            yield event

    def finish(self) -> Any:
        """Continue to the end at once, and return `result`.

        Returns
        -------
        MoveResult, int or None
            What the call returns.

        Raises
        ------
        SyscallError
            As `result`.
        RuntimeError
            It waits for what only the caller can end, such as another migration.
        """
        if not self.done:
            self._flight.end(False, self._status)
        return self.result

    def abort(self) -> None:
        """End early: pages that have moved stay moved, all others are put back.

        `result` raises EINTR afterwards, with the statuses that were stored. A finished migration
        stays as it is.
        """
        if not self.done:
            self._flight.end(True, self._status)

    @property
    def result(self) -> Any:
        """What the call returns.

        Raises
        ------
        SyscallError
            As the call itself; EINTR after `abort`.
        RuntimeError
            It is not over.
        """
        outcome = self._flight.outcome
        if outcome is None:
            raise RuntimeError("the migration is under way: iterate over it, finish or abort it")
        return self._answer(outcome, self._status)

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
    """Return the arguments of move_pages, and what makes its answer."""
    caller._must_live("move_pages")
    number, total, addresses, targets, bits = move_arguments(
        caller, pages, nodes, flags, pid, count
    )
    status = unset(len(addresses))

    def answer(rc: int, stored: npt.NDArray[np.int32] | None) -> MoveResult:
        assert stored is not None
        if rc < 0:
            caller._fail_move(rc, stored, told=True)
        return MoveResult(rc, stored)

    arguments = (number, total, addresses, targets, status, bits)
    return "move_pages", arguments, status, answer


def migrate_pages_call(
    caller: NumaCalls,
    from_nodes: NodeSet,
    to_nodes: NodeSet,
    pid: Pid,
    maxnode: int | None,
) -> Call:
    """Return the arguments of migrate_pages, and what makes its answer."""
    caller._must_live("migrate_pages")
    arguments = migrate_arguments(caller, from_nodes, to_nodes, pid, maxnode)

    def answer(rc: int, stored: object) -> int:
        if rc < 0:
            caller._fail("migrate_pages", rc, maxnode=arguments[1])
        return rc

    return "migrate_pages", arguments, None, answer


def mbind_call(caller: NumaCalls, addr: int, length: int, policy: Policy, flags: int) -> Call:
    """Return the arguments of mbind with a policy, and what makes its answer."""
    caller._must_live("mbind")
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy, not {policy!r}")
    word, mask = policy_word(policy)
    arguments = bind_arguments(addr, length, word, mask, None, flags)

    def answer(rc: int, stored: object) -> None:
        if rc < 0:
            caller._fail("mbind", rc, addr=arguments[0], mode=word, maxnode=arguments[4])

    return "mbind", arguments, None, answer


def frames_call(pfns: npt.NDArray[np.uint32], nodes: npt.NDArray[np.int32]) -> Call:
    """Return the arguments of a migration of frames, and what makes its answer."""

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
    """Begin a call of `_api.Flight` by name; ``answer`` makes its result from rc and statuses."""
    flight = _api.Flight(machine, caller, cpu)
    getattr(flight, call)(*arguments)
    return Migration(flight, machine, status, answer)
