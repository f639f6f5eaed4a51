"""What most tests begin with: the machine of the recordings in small, and a process on it."""

from collections.abc import Iterator

import pytest

import pagemig as pm
from support.machines import four_nodes


@pytest.fixture
def machine() -> Iterator[pm.Machine]:
    """Four nodes; whatever the test did, the invariants hold afterwards."""
    machine = four_nodes(page_bytes=8)
    yield machine
    machine.check(full=True)


@pytest.fixture
def app(machine: pm.Machine) -> pm.Process:
    return machine.spawn()
