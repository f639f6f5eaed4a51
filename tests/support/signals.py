"""Signals that reach a call while it is under way, on a fast machine and on a busy one."""

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pagemig as pm

#: Seconds between two rings. A call looks for signals less often, so that each look finds one.
PERIOD = 0.001
#: Less than any piece of a long work takes, and more than the work between two pieces.
SOON = 0.0001


class Stopped(Exception):
    """What the handler of a signal raises."""


@contextmanager
def ringing(inside: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Raise `Stopped` once, at the first ring of a timer for which ``inside`` holds.

    A signal that is sent once after some time comes before the call on a busy machine. This one
    rings until it comes where it is wanted. It may still come after the end of the block.
    """
    over = False

    def handler(number: int, frame: object) -> None:
        nonlocal over
        if not over and inside():
            over = True
            raise Stopped

    before = signal.signal(signal.SIGALRM, handler)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, PERIOD, PERIOD)
            yield
        finally:
            over = True  # nothing is raised from here on
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def counting() -> Iterator[list[int]]:
    """Count in ``[0]`` how often the block looks for signals, once for each piece of its work.

    The handler orders the next ring, which comes soon: so each look behind some work finds one.
    """
    seen, over = [0], False

    def handler(number: int, frame: object) -> None:
        if not over:
            seen[0] += 1
            signal.setitimer(signal.ITIMER_REAL, SOON)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, SOON)
        yield seen
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def stops_inside(
    call: Callable[[], object], inside: Callable[[], bool] = lambda: True, tries: int = 20
) -> bool:
    """Tell whether a signal ends a call in the middle of the core, rather than before or behind.

    A call that changes something has one try: its signal comes where ``inside`` holds.
    """
    for _ in range(tries):
        try:
            with ringing(inside):
                call()
        except Stopped as error:
            names = [line.filename for line in traceback.extract_tb(error.__traceback__)]
            if any(name.endswith(".pyx") for name in names):
                return True
    return False


def first_page_changes(process: pm.Process, addr: int) -> Callable[[], bool]:
    """Tell whether the frame of a page is no longer in the state that it is in now."""
    state, pfn = process.machine.frames.state, int(process.frames(addr, 1)[0])
    before = int(state[pfn])
    return lambda: int(state[pfn]) != before
