"""An environment with nothing but the wheel of this tree and numpy, made once a session."""

import fcntl
import os
from pathlib import Path

import pytest

from support.installed import ROOT, Environment, placed_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel; the workers of one session share it."""
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
    """The environment."""
    return Environment(wheel.parent / "environment", wheel)
