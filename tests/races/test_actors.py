"""Actors: the turn passes as it should, the same way every time, and is never lost."""

import pytest

import pagemig as pm
from pagemig.testing.actors import Actors, Deadlock
from pagemig.testing.poke import poke
from support.machines import PAGE, four_nodes, mapped

LOCKED = 1 << 0


def page_of(process: pm.Process, base: int) -> int:
    return int(process.frames(base, 1)[0])


def lock(machine: pm.Machine, pfn: int) -> None:
    poke(machine, "frame", pfn, "state", poke(machine, "frame", pfn, "state") | LOCKED)


def unlock(machine: pm.Machine, pfn: int) -> None:
    poke(machine, "frame", pfn, "state", poke(machine, "frame", pfn, "state") & ~LOCKED)


def test_actors_run_in_order_one_at_a_time() -> None:
    seen: list[str] = []
    actors = Actors(four_nodes())

    def first() -> str:
        seen.append("first begins")
        actors.give_way()
        seen.append("first goes on")
        return "done"

    a = actors.add("first", first)
    actors.add("second", lambda: seen.append("second"))
    actors.run()
    assert seen == ["first begins", "second", "first goes on"]
    assert (a.result, a.state) == ("done", "done")


def test_every_step_can_be_interrupted_in_order() -> None:
    machine = four_nodes()
    app = machine.spawn()
    base = mapped(app, 2)
    seen: list[str] = []
    actors = Actors(machine)
    actors.add("migrator", lambda: app.move_pages([base, base + PAGE], 1))
    steps = [number for number, name in pm.STEPS.items() if name in STEP_NAMES]
    for step in steps:
        actors.at_step(step, lambda step=step: seen.append(pm.STEPS[step]))
    actors.run()
    assert seen == [pm.STEPS[step] for step in steps]
    assert [step for _, step in actors.steps] == steps


STEP_NAMES = ("isolate", "alloc", "lock", "unmap", "freeze", "copy", "restore", "putback")


def test_a_meeting_can_be_for_one_migrator_and_a_later_pass() -> None:
    machine = four_nodes(page_bytes=8)
    app, other = machine.spawn(), machine.spawn()
    base, pinned = mapped(app, 1), other.mmap(PAGE)
    other.touch(pinned, PAGE, write=True)
    pin = other.pin(pinned, PAGE)
    actors = Actors(machine)
    actors.add("plain", lambda: app.move_pages([base], 1))
    stubborn = actors.add("stubborn", lambda: other.move_pages([pinned], 1))
    actors.at_step(pm.STEP_PUTBACK, lambda: other.unpin(pin), by=stubborn, nth=4)
    actors.run()
    assert stubborn.result.status.tolist() == [1]
    assert actors.steps.count(("stubborn", pm.STEP_UNMAP)) == 5
    machine.check(full=True)


def test_waiters_get_the_baton_in_turn() -> None:
    machine = four_nodes()
    app = machine.spawn()
    base = mapped(app, 1)
    actors = Actors(machine)
    actors.add("migrator", lambda: app.mbind(base, PAGE, pm.Bind([1]), pm.MPOL_MF_MOVE))
    touch = actors.at_step(pm.STEP_UNMAP, lambda: app.touch(base, PAGE))
    unmap = actors.at_step(pm.STEP_UNMAP, lambda: app.munmap(base, PAGE))
    actors.run()
    assert [actor.waited_for for actor in (touch, unmap)] == [["mm"], ["mm"]]
    assert touch.result.signal == "SIGSEGV"  # a writer that waits keeps readers out
    machine.check(full=True)


def test_deadlock_says_who_waits_for_what() -> None:
    machine = four_nodes()
    app, other = machine.spawn(), machine.spawn()
    pages = [mapped(process, 1) for process in (app, other)]
    pfns = [page_of(process, base) for process, base in zip((app, other), pages, strict=True)]
    for pfn in pfns:
        lock(machine, pfn)
    actors = Actors(machine)
    for name, process, base in zip("ab", (app, other), pages, strict=True):
        actors.add(name, lambda process=process, base=base: process.move_pages([base], 1))
    with pytest.raises(
        Deadlock, match=rf"<Actor a, waiting for page {pfns[0]}>.*<Actor b.*{pfns[1]}>"
    ):
        actors.run()
    for pfn in pfns:
        unlock(machine, pfn)
    machine.check(full=True)
    assert app.move_pages([pages[0]], 1).status.tolist() == [1]


def test_errors_of_an_actor_come_out_and_nobody_hangs() -> None:
    machine = four_nodes()
    app = machine.spawn()
    base = mapped(app, 1)

    def fail() -> None:
        raise KeyError("mine")

    actors = Actors(machine)
    actors.add("migrator", lambda: app.move_pages([base], 1))
    actors.at_step(pm.STEP_UNMAP, fail)
    with pytest.raises(KeyError, match="mine"):
        actors.run()
    machine.check(full=True)


def test_a_step_that_never_comes_is_an_error() -> None:
    actors = Actors(four_nodes())
    actors.add("idle", lambda: None)
    actors.at_step(pm.STEP_COPY, lambda: None)
    with pytest.raises(LookupError, match="at copy"):
        actors.run()


@pytest.mark.parametrize("step", [0, 9, "copy"])
def test_no_such_step(step: object) -> None:
    machine = four_nodes()
    with pytest.raises(ValueError, match="step"):
        Actors(machine).at_step(step, lambda: None)  # type: ignore[arg-type]


def test_hook_of_one_step() -> None:
    machine = four_nodes()
    app = machine.spawn()
    base = mapped(app, 1)
    seen: list[str] = []
    machine.at_step(lambda step, pfns: seen.append(step), step=pm.STEP_COPY)
    app.move_pages([base], 1)
    machine.at_step(None)
    assert seen == ["copy"]
    with pytest.raises(ValueError, match="step"):
        machine.at_step(None, step=77)
