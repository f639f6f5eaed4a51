"""How examples run; a machine and a process on it; an environment that has the wheel."""

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import pagemig as pm
from support.installed import ROOT, Environment, placed_wheel
from support.machines import four_nodes

# A slow machine fails no test, nor does an example that an earlier run has left.
settings.register_profile(
    "tests", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

# A shell that starts a job in the background lets it ignore Ctrl-C, and so what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def machine() -> Iterator[pm.Machine]:
    """Make a machine with four nodes, whose invariants are checked after the test."""
    machine = four_nodes(page_bytes=8)
    yield machine
    machine.check(full=True)


@pytest.fixture
def app(machine: pm.Machine) -> pm.Process:
    return machine.spawn()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what is built in the tree; the workers of one session share it."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "installed"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = list(folder.glob("*.whl"))
        return made[0] if made else placed_wheel(folder)


@pytest.fixture(scope="session")
def clean(wheel: Path) -> Environment:
    """An environment with nothing but that wheel and numpy, made once a session."""
    return Environment(wheel.parent / "environment", wheel)
