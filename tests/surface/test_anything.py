"""Seeds of calls with anything for arguments; `support.anything` says what may come out of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from support import anything

SEEDS = 12


def test_any_call_answers_or_says_what_is_wrong() -> None:
    command = [sys.executable, anything.__file__, "--first", "0", "--seeds", str(SEEDS)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert ended.stdout.endswith(f"# seeds 0 to {SEEDS - 1}: 0 findings\n")


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # files nobody closes
def test_most_of_what_is_public_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn is what the package names, with the methods of what those calls answer."""
    monkeypatch.chdir(tmp_path)  # where machines are saved
    called: set[str] = set()
    for seed in range(SEEDS):
        anything.run_seed(seed, 200, lambda label: called.add(label.partition("(")[0]))
    methods = {f"Process.{name}" for name in dir(anything.pm.Process) if name[0] != "_"}
    assert len(methods & called) > len(methods) * 0.8
    assert len(called) > 300
