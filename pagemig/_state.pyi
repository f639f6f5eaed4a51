"""Machines as bytes."""

from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

from pagemig import _core

WHY: dict[int, str]

@disjoint_base
class Loaded:
    extra: bytes

def save(machine: _core.Machine, write: Callable[[bytes], Any], extra: bytes) -> None: ...
def load(read_into: Callable[[memoryview], int]) -> Loaded: ...
def copy(machine: _core.Machine) -> Loaded: ...
def adopt(machine: _core.Machine, loaded: Loaded) -> None: ...
