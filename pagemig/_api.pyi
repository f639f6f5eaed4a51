"""The interface for other simulators, seen from Python."""

from collections.abc import Callable
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt
from typing_extensions import disjoint_base

from pagemig import _core

table: Any
ABI: int
address: int
size: int
STOPS: dict[int, str]
WAITED: tuple[str, ...]

def machine_address(machine: _core.Machine) -> int: ...
def task_handle(process: _core.Process) -> int: ...
def set_callbacks(machine: _core.Machine, callbacks: Callbacks | None) -> None: ...

@disjoint_base
class Callbacks:
    def __new__(
        cls,
        machine: _core.Machine,
        target: Callable[[int, int | None], int | None] | None,
        flush: Callable[[int, int, int, int, int, int], object] | None,
        moved: Callable[
            [npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.int32]], object
        ]
        | None,
        fault: Callable[[int, int, int], object] | None,
    ) -> Self: ...

@disjoint_base
class Context:
    machine: _core.Machine
    def __new__(cls, process: _core.Process, cpu: int, owns_time: bool) -> Self: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def __reduce__(self) -> NoReturn: ...
    @property
    def address(self) -> int: ...
    def access(self, va: int, write: bool = False) -> int: ...
    def access_many(
        self,
        addresses: npt.NDArray[np.uint64],
        write: npt.NDArray[np.uint8] | npt.NDArray[np.bool_] | None = None,
        *,
        node: npt.NDArray[np.int8] | None = None,
        kind: npt.NDArray[np.uint8] | None = None,
    ) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def node(self) -> int: ...
    @property
    def pa(self) -> int: ...
    @property
    def signal(self) -> int: ...
    @property
    def waits_for(self) -> tuple[int, int]: ...

def migrations(machine: _core.Machine) -> list[tuple[int, int, int, int, list[int], int]]: ...

@disjoint_base
class Flight:
    machine: _core.Machine
    caller: _core.Process | None
    open: bool
    outcome: int | None
    handle: int
    def __new__(cls, machine: _core.Machine, caller: _core.Process | None, cpu: int) -> Self: ...
    def take(self, handle: int) -> None: ...
    def move_pages(
        self,
        pid: int,
        count: int,
        pages: npt.NDArray[np.uint64],
        nodes: npt.NDArray[np.int32] | None,
        status: npt.NDArray[np.int32] | None,
        flags: int,
    ) -> None: ...
    def migrate_pages(
        self, pid: int, maxnode: int, old_nodes: bytes | None, new_nodes: bytes | None
    ) -> None: ...
    def mbind(
        self, start: int, length: int, mode: int, nodes: bytes | None, maxnode: int, flags: int
    ) -> None: ...
    def migrate_frames(
        self, pfns: npt.NDArray[np.uint32], nodes: npt.NDArray[np.int32]
    ) -> None: ...
    def step(
        self,
    ) -> tuple[
        str,
        npt.NDArray[np.uint32],
        npt.NDArray[np.uint32],
        int,
        int,
        int,
        int,
        int,
        tuple[int, int],
    ]: ...
    def settle(self) -> None: ...
    def end(self, abort: bool, status: npt.NDArray[np.int32] | None) -> int: ...
