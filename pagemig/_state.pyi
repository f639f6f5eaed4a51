"""Machines as bytes."""

from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

from pagemig import _core

@disjoint_base
class Loaded:
    extra: bytes
    def facts(
        self,
    ) -> tuple[list[tuple[int, int, int, int]], bytes, list[list[int]], int, bool, list[int]]: ...

def save(machine: _core.Machine, write: Callable[[bytes], Any], extra: bytes) -> None: ...
def load(read_into: Callable[[memoryview], int]) -> Loaded: ...
def copy(machine: _core.Machine) -> Loaded: ...
def adopt(machine: _core.Machine, loaded: Loaded) -> None: ...
