"""Races that happen every time: actors on one machine, exactly one of which runs at a time.

An actor is a function in a thread of its own that makes calls on the machine.  Exactly one actor
has the *turn* and runs, the others stand still.  The turn passes to another actor

* at a numbered step of a migration (``STEP_ISOLATE`` to ``STEP_PUTBACK``) that
  :meth:`Actors.at_step` named: another actor runs there until it ends or must wait;
* when an actor must wait: for a page lock, a migration, an mmap_lock, an inode's lock, for I/O or
  for the next pass of ``offline``;
* when an actor ends, or gives way.

Nothing sleeps and nothing depends on time, so the same actors meet at the same place in every run.
If all remaining actors wait and none of them can go on, :class:`Deadlock` is raised, which says
what each of them waits for.

Examples
--------
A page is written while it is being moved; the writer has to wait, and its value is not lost.

>>> import pagemig as pm
>>> from pagemig.testing.actors import Actors
>>> machine = pm.Machine([pm.Node("1MiB", cpus=1), "1MiB"], page_bytes=8)
>>> app = machine.spawn()
>>> page = app.mmap(pm.PAGE_SIZE)
>>> _ = app.touch(page, pm.PAGE_SIZE, write=True)
>>> actors = Actors(machine)
>>> migrator = actors.add("migrator", lambda: app.move_pages([page], 1))
>>> writer = actors.at_step(pm.STEP_UNMAP, lambda: app.touch(page, 1, write=True, values=[7]))
>>> actors.run()
>>> writer.waited_for, migrator.result.status.tolist(), app.touch(page, 1).values.tolist()
(['page'], [1], [7])
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pagemig import _memory
from pagemig.mm.numbers import NUMBERS
from pagemig.system.machine import STEPS, Machine

__all__ = ["WAITS", "Actor", "Actors", "Deadlock"]

#: What an actor can wait for, by the core's number.
WAITS: Final[dict[int, str]] = {
    NUMBERS["WAIT_PAGE"]: "page",
    NUMBERS["WAIT_MM"]: "mm",
    NUMBERS["WAIT_WRITEBACK"]: "writeback",
    NUMBERS["WAIT_I_RWSEM"]: "inode",
    NUMBERS["WAIT_PASS"]: "pass",
}

_HOST_WAITS: Final = _memory.COUNTERS.index("host_waits")
_UNWIND: Final = -512


class Deadlock(RuntimeError):
    """All remaining actors wait and none can go on; the text says what each waits for."""


class Actor:
    """One function of those that share a machine, made by ``Actors``.

    Attributes
    ----------
    name : str
        Its name in messages.
    result : object
        What the function returned; None before it did.
    error : BaseException or None
        What it raised.
    waits : list of tuple of (str, int)
        What it waited for, in order: a word of ``WAITS``, and the number of the frame, the
        address space or the file.
    state : {"new", "running", "paused", "waiting", "done"}
        Its state.
    may_wait : bool
        As given to ``add``.
    """

    def __init__(self, name: str, function: Callable[[], Any], *, may_wait: bool = True) -> None:
        self.name = name
        self.may_wait = may_wait
        self.result: Any = None
        self.error: BaseException | None = None
        self.waits: list[tuple[str, int]] = []
        self.state = "new"
        self._function = function
        self._baton = threading.Semaphore(0)

    @property
    def waited_for(self) -> list[str]:
        """The kinds of ``waits``."""
        return [what for what, _ in self.waits]

    def __repr__(self) -> str:
        where = f" for {' '.join(map(str, self.waits[-1]))}" if self.state == "waiting" else ""
        return f"<Actor {self.name}, {self.state}{where}>"


@dataclass
class _Meeting:
    """Where an actor takes the turn from one that migrates."""

    step: int
    actor: Actor
    by: Actor | None
    nth: int
    seen: int = field(default=0)


class Actors:
    """Actors on one machine, of which exactly one has the turn.

    While they run, they use the machine's step hook.

    Parameters
    ----------
    machine : Machine
        The machine.

    Attributes
    ----------
    machine : Machine
        As given.
    steps : list of tuple of (str, int)
        Every step that a migration came to, in order: the name of the actor that migrates, and
        the step.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.steps: list[tuple[str, int]] = []
        self._actors: list[Actor] = []
        self._meetings: list[_Meeting] = []
        self._paused: list[Actor] = []
        self._waiting: list[Actor] = []
        self._looked: set[Actor] = set()
        self._host_waits = 0
        self._running: Actor | None = None
        self._failure: BaseException | None = None
        self._over = threading.Semaphore(0)

    def add(self, name: str, function: Callable[[], Any], *, may_wait: bool = True) -> Actor:
        """Add an actor; the first added begins, the next begins when those before it wait or end.

        Parameters
        ----------
        name : str
            Its name in messages.
        function : callable
            What it does, without arguments.
        may_wait : bool, default True
            False: its calls unwind where they would have to wait, as for a host that owns time.

        Returns
        -------
        Actor
            Holds its result.
        """
        actor = Actor(name, function, may_wait=may_wait)
        self._actors.append(actor)
        return actor

    def at_step(
        self,
        step: int,
        actor: Actor | Callable[[], Any],
        *,
        by: Actor | None = None,
        nth: int = 1,
    ) -> Actor:
        """Pass the turn to an actor when a migration comes to a step.

        An actor that has not begun begins there and not before; one that waits looks again.

        Parameters
        ----------
        step : int
            ``STEP_ISOLATE`` to ``STEP_PUTBACK``; the step has just been done.
        actor : Actor or callable
            The actor that runs there.  A function becomes an actor named after the step.
        by : Actor, optional
            Only when this one migrates; any other than ``actor`` unless given.
        nth : int, default 1
            Only when the step comes for the n-th time: in the n-th pass over a single page.

        Returns
        -------
        Actor
            The one that runs there.

        Raises
        ------
        ValueError
            There is no such step.
        """
        if not isinstance(step, int) or STEPS.get(step, "rollback") == "rollback":
            raise ValueError(f"step must be one of {STEPS}, not {step!r}")
        if not isinstance(actor, Actor):
            actor = self.add(f"at {STEPS[step]}", actor)
        self._meetings.append(_Meeting(step, actor, by, nth))
        return actor

    def run(self) -> None:
        """Run all actors to their end.

        Raises
        ------
        Deadlock
            All remaining actors wait.
        LookupError
            A step of ``at_step`` at which an actor was to begin never came.
        BaseException
            The first exception that an actor raised.
        """
        threads = [threading.Thread(target=self._act, args=(a,), daemon=True) for a in self._actors]
        for thread in threads:
            thread.start()
        self.machine._at_step(self._at)
        self.machine._on_wait(self._wait)
        try:
            self._pass_on(None)
            self._over.acquire()
        finally:
            self.machine._at_step(None)
            self.machine._on_wait(None)
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    # ---- what happens in the actors' threads ---------------------------------------------------

    def _act(self, actor: Actor) -> None:
        actor._baton.acquire()
        try:
            if self._failure is None:
                actor.result = actor._function()
        except BaseException as error:
            actor.error = error
            self._failure = self._failure or error
        actor.state = "done"
        self._looked.clear()
        self._pass_on(actor)

    def give_way(self) -> None:
        """Let the other actors run until each has ended or waits; called by an actor."""
        me = self._running
        if me is not None:
            me.state = "paused"
            self._paused.insert(0, me)
            self._looked.clear()
            self._pass_on(me)

    def _at(self, step: int, pfns: list[int]) -> None:
        """Stop at a step of a migration, in the thread that migrates."""
        me = self._running
        self._looked.clear()
        if me is not None:
            self.steps.append((me.name, step))
        for meeting in self._meetings:
            if meeting.step != step or meeting.actor is me or meeting.by not in (None, me):
                continue
            meeting.seen += 1
            if meeting.seen == meeting.nth and meeting.actor.state != "done" and me is not None:
                me.state = "paused"
                self._paused.append(me)
                self._give(me, meeting.actor)

    def _wait(self, what: int, which: int) -> int:
        """Stand still until the turn comes back, in the thread of the actor that must wait."""
        me = self._running
        if me is None or self._failure is not None or not me.may_wait:
            return _UNWIND
        begun = self.machine._counter(_HOST_WAITS)
        if begun != self._host_waits:  # a new wait: an actor made progress since the last look
            self._host_waits = begun
            self._looked.clear()
            me.waits.append((WAITS[what], which))
        else:
            self._looked.add(me)
        me.state = "waiting"
        self._waiting.append(me)
        self._pass_on(me)
        return 0 if self._failure is None else _UNWIND

    # ---- the baton -----------------------------------------------------------------------------

    def _give(self, me: Actor | None, to: Actor) -> None:
        """Let ``to`` run; return when ``me`` has the turn again, or at once if ``me`` has ended."""
        for line in (self._paused, self._waiting):
            if to in line:
                line.remove(to)
        to.state = "running"
        self._running = to
        if to is not me:
            to._baton.release()
            if me is not None and me.state != "done":
                me._baton.acquire()

    def _pass_on(self, me: Actor | None) -> None:
        to = self._next(me)
        if to is None:
            self._running = None
            self._over.release()
        else:
            self._give(me, to)

    def _next(self, me: Actor | None) -> Actor | None:
        """Choose the actor interrupted last, one to begin, or the one that waits longest."""
        ready = [actor for actor in self._paused if actor is not me]
        if ready:
            return ready[-1]
        fresh = [actor for actor in self._actors if actor.state == "new"]
        invited = {meeting.actor for meeting in self._meetings}
        begins = [a for a in fresh if a not in invited or self._failure is not None]
        if begins:
            return begins[0]
        if self._paused:
            return self._waiting[0] if self._waiting and me in self._paused else self._paused[-1]
        if self._waiting and self._looked.issuperset(self._waiting):
            who = ", ".join(map(repr, self._waiting))
            self._failure = self._failure or Deadlock(f"all wait: {who}")
        if self._waiting:
            return self._waiting[0]
        if fresh:
            names = ", ".join(actor.name for actor in fresh)
            self._failure = self._failure or LookupError(f"the step never came for: {names}")
            return fresh[0]
        return None
