"""Memory of the host runs out at each allocation of each call; ``make faults``: all kernels."""

import shutil
from pathlib import Path

import pytest

from support import faults

KERNELS = ("2.6.17", "pmig", "6.18")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    return faults.build(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_allocation_of_every_call_fails_once_and_for_good(kernel: str, library: Path) -> None:
    ended = faults.run(kernel, library)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    assert ended.stdout.endswith(" calls, 0 findings\n")
    assert int(ended.stdout.split()[-4]) > 150
