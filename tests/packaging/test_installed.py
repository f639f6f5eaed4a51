"""The wheel needs numpy alone, from the oldest that is promised to the newest, on every Python."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.installed import ROOT, VARIABLES, Environment, run

SMOKE = Path(__file__).parents[1] / "support" / "smoke.py"
#: The oldest numpy of each Python that pyproject.toml lists: what it promises, or the first for it.
OLDEST = {"3.11": "1.26.0", "3.12": "1.26.0", "3.13": "2.1.0", "3.14": "2.3.2"}

full = pytest.mark.skipif(not os.environ.get("PAGEMIG_FULL"), reason="make full")


def project() -> dict:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_the_wheel_needs_numpy_alone(clean: Environment) -> None:
    assert re.fullmatch(r"\d+ modules with numpy \S+\n", clean.run("-I", SMOKE))


def test_the_wheel_runs_with_the_c_library_of_manylinux2014(clean: Environment) -> None:
    """What auditwheel asks: symbols no newer than glibc 2.17, and no other library."""
    if not shutil.which("readelf"):
        pytest.skip("needs readelf: binutils")
    objects = sorted((clean.site / "pagemig").rglob("*.so"))
    assert objects
    text = run("readelf", "-d", "-V", *objects, cwd=clean.folder)
    libraries = set(re.findall(r"\(NEEDED\).*\[(\w[\w-]*)\.so", text))
    assert {name for name in libraries if not name.startswith("ld-linux")} == {"libc"}
    versions = {tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([\d.]+)", text)}
    assert versions and max(versions) <= (2, 17)


def test_every_python_that_is_listed_has_an_oldest_numpy() -> None:
    facts = project()["project"]
    listed = [c.rpartition(" ")[2] for c in facts["classifiers"] if ":: 3." in c]
    assert listed == list(OLDEST)
    assert [f"numpy>={OLDEST['3.11'].removesuffix('.0')}"] == facts["dependencies"]


def interpreter(version: str) -> str:
    """A Python of this version."""
    name = f"python{version}"
    if sys.version.startswith(f"{version}."):
        return sys.executable
    places = [*Path.home().glob(f".pyenv/versions/{version}.*/bin"), ""]
    for place in places:
        if found := shutil.which(name, path=str(place) or None):
            works = subprocess.run([found, "-c", "import venv, ensurepip"], capture_output=True)
            if works.returncode == 0:
                return found
    pytest.skip(f"needs {name} with venv, on PATH or in ~/.pyenv")


def environment(folder: Path, python: str, *needs: str) -> Path:
    """A new environment of a Python, with packages from the index; its own Python."""
    run(python, "-m", "venv", folder, cwd=folder.parent)
    own = folder / "bin" / "python"
    if needs:
        pip(own, "install", "-q", "--only-binary", ":all:", *needs, cwd=folder)
    return own


def pip(python: Path, *words: str | Path, cwd: Path) -> None:
    """Run the pip of an environment, with the variables that lead it to its index."""
    kept = {k: v for k, v in VARIABLES.items() if k != "CFLAGS"}
    words = (python, "-m", "pip", "--disable-pip-version-check", *words)
    done = subprocess.run(words, cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive."""
    folder = tmp_path_factory.mktemp("sdist")
    words = ("setup.py", "-q", "egg_info", "--egg-base", folder, "sdist", "--dist-dir", folder)
    run(sys.executable, *words, cwd=ROOT, PAGEMIG_BUILD="none")
    [archive] = folder.glob("*.tar.gz")
    return archive


@full
@pytest.mark.slow
@pytest.mark.parametrize("version", OLDEST)
def test_a_wheel_of_the_source_archive_runs_with_the_oldest_and_the_newest_numpy(
    version: str, sdist: Path, tmp_path: Path
) -> None:
    """On the first Python it is built with the oldest build tools, elsewhere with the newest."""
    python = interpreter(version)
    tools, options = [], []
    if version == next(iter(OLDEST)):
        needs = project()["build-system"]["requires"]
        tools = [need.split(",")[0].replace(">=", "==") + ".*" for need in needs]
        options = ["--no-build-isolation"]
    builder = environment(tmp_path / "build", python, *tools)
    pip(builder, "wheel", "--no-deps", *options, "-w", tmp_path, sdist, cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    for name, numpy in (("oldest", f"numpy=={OLDEST[version]}"), ("newest", "numpy")):
        own = environment(tmp_path / name, python, numpy)
        pip(own, "install", "-q", "--no-index", wheel, cwd=tmp_path)
        assert "modules with numpy" in run(own, "-W", "error", "-I", SMOKE, cwd=tmp_path)
