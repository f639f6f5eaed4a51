"""The package as others get it: its wheel, and environments that hold it beside little else."""

import fcntl
import os
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
#: What an environment leaves of the variables around it: nothing that leads to this tree.
VARIABLES = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
VARIABLES["CFLAGS"] = "-O1"  # of extensions that tests build: they run for an instant


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        command, cwd=cwd, env=VARIABLES | variables, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def placed_wheel(folder: Path) -> Path:
    """Make the wheel of the objects that lie in the tree."""
    run(
        *(sys.executable, "-W", "ignore", "setup.py", "-q"),
        *("egg_info", "--egg-base", folder),
        *("build", "--build-base", folder / "build"),
        *("bdist_wheel", "--bdist-dir", folder / "wheel", "--dist-dir", folder),
        cwd=ROOT,
        PAGEMIG_BUILD="placed",
    )
    [wheel] = folder.glob("*.whl")
    return wheel


class Environment:
    """A virtual environment with the wheel and numpy; `add` lends it more.

    Packages are links to those installed here, so that no test needs a network.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        get = {"base": str(folder), "platbase": str(folder)}
        self.site = Path(sysconfig.get_path("purelib", "venv", get))
        with (folder.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several processes run the tests
            if not self.python.exists():
                venv.create(folder, symlinks=True)
                self.install(wheel)
                self.add("numpy")

    def install(self, wheel: Path) -> None:
        """Install a wheel, without what it needs."""
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python)
        run(*pip, "install", "-q", "--no-deps", "--no-index", wheel, cwd=self.folder)

    def add(self, *names: str) -> None:
        """Lend it distributions, and what those need; skips the test if one is not installed."""
        for name in names:
            try:
                found = distribution(name)
            except PackageNotFoundError:
                pytest.skip(f"needs {name}: python -m pip install {name}")
            self.link(found)
            needs = map(Requirement, found.requires or ())
            self.add(*(n.name for n in needs if not n.marker or n.marker.evaluate({"extra": ""})))

    def link(self, found: Distribution) -> None:
        """Link the files of a distribution."""
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (self.site / top).exists():
                (self.site / top).symlink_to(found.locate_file(top))

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """What its Python prints about a program."""
        return run(self.python, "-W", "error", *command, cwd=cwd or self.folder)
