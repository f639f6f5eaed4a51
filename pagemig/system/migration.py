"""Migrations that take the caller's time: the same calls, which stop where time may pass.

Between two steps pages are locked behind migration entries, as a kernel's are while it copies.
Whatever else happens to the machine meets them there: accesses through a context answer that they
wait, a fork copies the entries, an exit drops them, another migration finds the pages busy.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
import numpy.typing as npt

from pagemig import _api
from pagemig.arguments import Addresses, NodeSet
from pagemig.constants import Pointer
from pagemig.errors import errno_of, raise_errno
from pagemig.policy import Policy
from pagemig.system.numa import (
    MoveResult,
    NumaCalls,
    Pid,
    bind_arguments,
    how_far,
    migrate_arguments,
    move_arguments,
    policy_word,
    unset,
)
from pagemig.system.platform import Platform
from pagemig.system.task import raise_refusal

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

    __slots__ = ("__weakref__", "_call", "_flight", "_over", "_status", "machine")

    def __init__(
        self,
        machine: Platform,
        flight: _api.Flight | None,
        call: Call,
        status: npt.NDArray[np.int32] | None,
        outcome: int | None = None,
    ) -> None:
        self._flight = flight
        self._call = call
        self._status = status
        self._over = outcome
        self.machine = machine
        if flight is not None:
            machine._migrations[flight.handle] = self

    @property
    def _outcome(self) -> int | None:
        return self._over if self._flight is None else self._flight.outcome

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self._outcome is not None

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
        flight = self._flight
        if flight is None or flight.outcome is not None:
            return None
        at, source, target, passes, node, flushes, copied, ipis, (what, which) = flight.step()
        if at == "done":
            self._end(flight, abort=False)
            return None
        wait = (_api.WAITED[what], which) if at == "waits" else ("", 0)
        return MigrationEvent(at, source, target, passes, node, flushes, copied, ipis, wait)

    def _settle(self) -> None:
        """Let a step that a signal interrupted reach its stop; the next `step` returns it."""
        if self._flight is not None and self._flight.outcome is None:
            self._flight.settle()

    def _end(self, flight: _api.Flight, *, abort: bool) -> None:
        flight.end(abort, self._status)
        self.machine._taken_up.discard(self)

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
        if self._flight is not None and self._flight.outcome is None:
            self._end(self._flight, abort=False)
        return self.result

    def abort(self) -> None:
        """End early: pages that have moved stay moved, all others are put back.

        `result` raises EINTR afterwards, with the statuses that were stored. A finished migration
        stays as it is.
        """
        if self._flight is not None and self._flight.outcome is None:
            self._end(self._flight, abort=True)

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
        outcome = self._outcome
        if outcome is None:
            raise RuntimeError("the migration is under way: iterate over it, finish or abort it")
        return self._call.answer(self.machine, outcome, self._status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._flight is None or self.done:
            return Migration, (self.machine, None, self._call, self._status, self._outcome)
        return _known, (self.machine, self._flight.handle)

    def __repr__(self) -> str:
        return f"<Migration of {self.machine!r}, {'done' if self.done else 'under way'}>"


class Call(NamedTuple):
    """A call: what is needed to build its result or error."""

    name: str
    pid: int  # of the caller; 0: none
    values: dict[str, int]  # arguments that its error messages quote

    def answer(self, machine: Platform, rc: int, status: npt.NDArray[np.int32] | None) -> Any:
        """Return what the call returns, or raise what it raises."""
        if rc < 0:
            self._refuse(machine, rc, status)
        if status is not None:
            return MoveResult(rc, status)
        return rc if self.name == "migrate_pages" else None

    def _refuse(self, machine: Platform, rc: int, status: npt.NDArray[np.int32] | None) -> NoReturn:
        result = None if status is None else MoveResult(rc, status)
        if not self.pid:
            raise_errno(rc, self.name, result)
        note = None
        if status is not None:
            result, note = MoveResult(-errno_of(rc), status), how_far(rc, status)
        raise_refusal(machine, self.name, rc, result, note=note, **self.values)


def _values(call: str, numbers: list[int]) -> dict[str, int]:
    """Select the arguments of a call, in the core's order, that its error messages quote."""
    if call == "migrate_pages":
        return {"maxnode": numbers[1]}
    if call == "mbind":
        return {"addr": numbers[0], "mode": numbers[2], "maxnode": numbers[3]}
    return {}


#: Calls by number, as the C header has them.
_CALLS = ("", "move_pages", "migrate_pages", "mbind", "migrate_frames")


def _taken(
    machine: Platform,
    handle: int,
    number: int,
    cpu: int,
    pid: int,
    numbers: list[int],
    statuses: int,
) -> Migration:
    """Create the object for a migration that has none; the core tells all but the machine."""
    name = _CALLS[number]
    flight = _api.Flight(machine, None, cpu)
    flight.take(handle)
    status = unset(statuses) if name in ("move_pages", "migrate_frames") else None
    return Migration(machine, flight, Call(name, pid, _values(name, numbers)), status)


def take_up(machine: Platform) -> None:
    """Create the objects for the migrations of a loaded or copied machine, which keeps them."""
    for told in _api.migrations(machine):
        machine._taken_up.add(_taken(machine, *told))


def _known(machine: Platform, handle: int) -> Migration:
    """Find the object of a migration in progress."""
    move: Migration = machine._migrations[handle]
    return move


def start_move_pages(
    caller: NumaCalls,
    cpu: int,
    pages: Addresses | Pointer,
    nodes: Addresses | int | Pointer | None,
    flags: int,
    pid: Pid,
    count: int | None,
) -> Migration:
    """See `Process.start_move_pages`."""
    caller._must_live("move_pages")
    number, total, addresses, targets, bits = move_arguments(
        caller, pages, nodes, flags, pid, count
    )
    status = unset(len(addresses))
    flight = _api.Flight(caller.machine, caller, cpu)
    flight.move_pages(number, total, addresses, targets, status, bits)
    return Migration(caller.machine, flight, Call("move_pages", caller.pid, {}), status)


def start_migrate_pages(
    caller: NumaCalls,
    cpu: int,
    from_nodes: NodeSet,
    to_nodes: NodeSet,
    pid: Pid,
    maxnode: int | None,
) -> Migration:
    """See `Process.start_migrate_pages`."""
    caller._must_live("migrate_pages")
    number, bits, old, new = migrate_arguments(caller, from_nodes, to_nodes, pid, maxnode)
    flight = _api.Flight(caller.machine, caller, cpu)
    flight.migrate_pages(number, bits, old, new)
    call = Call("migrate_pages", caller.pid, _values("migrate_pages", [number, bits]))
    return Migration(caller.machine, flight, call, None)


def start_mbind(
    caller: NumaCalls, cpu: int, addr: int, length: int, policy: Policy, flags: int
) -> Migration:
    """See `Process.start_mbind`."""
    caller._must_live("mbind")
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy, not {policy!r}")
    word, mask = policy_word(policy)
    start, nbytes, mode, nodes, bits, how = bind_arguments(addr, length, word, mask, None, flags)
    flight = _api.Flight(caller.machine, caller, cpu)
    flight.mbind(start, nbytes, mode, nodes, bits, how)
    call = Call("mbind", caller.pid, _values("mbind", [start, nbytes, mode, bits]))
    return Migration(caller.machine, flight, call, None)


def start_migrate_frames(
    machine: Platform, cpu: int, pfns: npt.NDArray[np.uint32], nodes: npt.NDArray[np.int32]
) -> Migration:
    """See `Machine.start_migrate_frames`."""
    flight = _api.Flight(machine, None, cpu)
    flight.migrate_frames(pfns, nodes)
    return Migration(machine, flight, Call("migrate_frames", 0, {}), unset(len(pfns)))
