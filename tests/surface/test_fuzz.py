"""Seeds of the project's fuzzer; ``make fuzz`` runs others for as long as one likes."""

import subprocess
import sys
from pathlib import Path

import pytest

import pagemig as pm
from pagemig import _core
from support import fuzz
from support.table import EBUSYCTX, WAIT, Host

SEEDS = 25


@pytest.fixture(autouse=True)
def _nobody_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls give up waiting at once, as they do alone: idle threads of other tests may live."""
    monkeypatch.setattr(_core, "HOOK_PATIENCE", 0.02)


@pytest.mark.parametrize("kernel", pm.KERNELS)
def test_seeds(kernel: str) -> None:
    for seed in range(SEEDS):
        fuzz.run_case(fuzz.case_of(seed, kernel))


def test_what_the_failure_does_not_need_is_left_out() -> None:
    steps = fuzz.case_of(1, "6.1").steps
    spawn = next(step for step in steps if step.method == "spawn")
    read = [step for step in steps if step.method == "touch"][-1]
    assert fuzz.shrink(steps, lambda fewer: spawn in fewer and read in fewer) == (spawn, read)


def test_a_lost_page_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that reads as something else than was written is a finding, and comes out small."""
    real = pm.Process.touch

    def touch(self: pm.Process, addr: int, length: int, **how: object) -> pm.TouchResult:
        touched = real(self, addr, length, **how)  # type: ignore[arg-type]
        if touched.values is not None:
            touched.values[touched.values != 0] += 1
        return touched

    monkeypatch.setattr(pm.Process, "touch", touch)
    case = next(
        case for case in map(fuzz.case_of, range(50)) if fuzz.kind_of(case).startswith("Wrong")
    )
    kind = fuzz.kind_of(case)
    steps = fuzz.shrink(
        case.steps, lambda fewer: fuzz.kind_of(fuzz.Case(case.machine, fewer)) == kind
    )
    assert len(steps) <= 6


def test_the_shadow_knows_what_an_iterator_wrote() -> None:
    world = fuzz.World("pm.Machine(['256KiB'], kernel='6.1', page_bytes=8)")
    addr, values = f"{fuzz.ARENA:#x}", {"values": "iter([1, 2])"}
    for step in (
        fuzz.Step("m", "spawn", {}, "p0"),
        fuzz.Step("m", "file", {"kind": "'tmpfs'", "size": "0"}, "f0"),
        fuzz.Step("p0", "fwrite", {"file": "f0", "page_offset": "6"} | values),
        fuzz.Step("p0", "mmap", {"length": "8192", "addr": addr}),
        fuzz.Step("p0", "touch", {"addr": addr, "length": "8192", "write": "True"} | values),
    ):
        world.step(step)
    process, file = world.names["p0"], world.names["f0"]
    assert [world.shadow.shared[file.ino, k] for k in (6, 7)] == [1, 2]
    assert list(world.shadow.own(process).values()) == [1, 2]


def test_a_script_runs_alone(tmp_path: Path) -> None:
    script = tmp_path / "case.py"
    script.write_text(fuzz.script_of(fuzz.case_of(3, "2.6.18", 60), "seed 3"))
    subprocess.run([sys.executable, script], check=True, capture_output=True)


def test_the_command_line() -> None:
    command = [sys.executable, fuzz.__file__, "--seconds", "2", "--first", "7", "--kernel", "6.12"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0
    assert ended.stdout.endswith("# 0 findings\n")


@pytest.mark.parametrize("kernel", pm.KERNELS)
def test_migrations_stop_wherever_time_passes(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    real = pm.Migration.step

    def step(self: pm.Migration) -> pm.MigrationEvent | None:
        event = real(self)
        if event is not None:
            stopped.append(event.at)
        return event

    monkeypatch.setattr(pm.Migration, "step", step)
    for seed in range(SEEDS):
        fuzz.run_case(fuzz.case_of(seed, kernel))
        if {"unmapped", "copied", "stage"} <= set(stopped):
            break
    else:
        pytest.fail(f"stops only at {set(stopped)}")
    assert ".start_m" in fuzz.script_of(fuzz.case_of(1, kernel), "some")


def run_until_met(kernel: str, wanted: set[str], met: set[str], seeds: int) -> None:
    """Run seeds until all has been met that is wanted."""
    for seed in range(seeds):
        fuzz.run_case(fuzz.case_of(seed, kernel))
        if wanted <= met:
            return
    pytest.fail(f"no {wanted - met}")


@pytest.mark.parametrize("kernel", pm.KERNELS)
def test_other_calls_come_between_the_stops(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While pages of a migration are locked, and others before they are copied with it."""
    met: set[str] = set()
    real = fuzz.World.step

    def step(self: fuzz.World, step: fuzz.Step, holder: object = None) -> None:
        if self.m.frames.flag("locked").any():
            met.add(step.method)
        real(self, step, holder)

    monkeypatch.setattr(fuzz.World, "step", step)
    wanted = {"munmap", "fork", "mprotect", "mremap", "exit", "touch", "step", "abort", "go_on"}
    run_until_met(kernel, wanted, met, 200)


@pytest.mark.parametrize("kernel", pm.KERNELS)
def test_calls_of_hosts_wait_and_go_on(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In contexts that stay open while other calls, exits and copies come in between."""
    met: set[str] = set()
    real = Host._call

    def call(self: Host, name: str, *args: object, made: object = None) -> int:
        waited = self.waiting is not None and self.waiting[:2] == (name, args)
        rc = real(self, name, *args, made=made)
        if self.waiting is not None and not waited:
            met.add("waits")
        if waited and rc not in (WAIT, EBUSYCTX):
            met.add("goes on")
        if self.waiting is not None and rc == EBUSYCTX:
            met.add("another call")
        if self.process is not None and not self.process.alive and name != "ctx_bind":
            met.add("after an exit")
        return rc

    monkeypatch.setattr(Host, "_call", call)
    wanted = {"waits", "goes on", "another call", "after an exit"}
    run_until_met(kernel, wanted, met, 400)


def test_a_page_of_a_file_that_may_be_private_stays_unknown() -> None:
    machine = pm.Machine(["256KiB"], page_bytes=8)
    app, shadow = machine.spawn(), fuzz.Shadow()
    base = app.mmap(pm.PAGE_SIZE, file=machine.file("tmpfs", pm.PAGE_SIZE))
    vpn, vmas = base // pm.PAGE_SIZE, app.vmas()
    shadow.write(app, vmas, vpn, 1)
    shadow.drop(app, vpn, vpn + 1, failed=True)
    for value in (1, 2):  # its own, then gone, so that it is the file's
        shadow.read(app, vmas, vpn, value)


def test_a_write_that_may_not_have_been_done_is_one_of_two_values() -> None:
    machine = pm.Machine(["256KiB"], page_bytes=8)
    app, shadow = machine.spawn(), fuzz.Shadow()
    base = app.mmap(pm.PAGE_SIZE)
    vpn, vmas = base // pm.PAGE_SIZE, app.vmas()
    for maybe, value in ((False, 1), (True, 2)):
        shadow.write(app, vmas, vpn, value, maybe=maybe)
    with pytest.raises(fuzz.Wrong):
        shadow.read(app, vmas, vpn, 3)
    shadow.read(app, vmas, vpn, 2)
    with pytest.raises(fuzz.Wrong):  # once seen, it stays
        shadow.read(app, vmas, vpn, 1)
