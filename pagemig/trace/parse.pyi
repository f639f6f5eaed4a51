from typing import Any

from numpy import bool_, uint32, uint64
from numpy.typing import NDArray

LARGEST: int
ROLES: dict[str, int]

_Columns = tuple[
    NDArray[uint64],
    NDArray[uint32],
    NDArray[bool_],
    NDArray[uint64] | None,
    NDArray[uint32] | None,
    NDArray[uint32] | None,
    NDArray[uint32] | None,
]

class Parser:
    malformed: int
    bad: int
    skipped: int

class Lackey(Parser):
    instructions: int
    def __init__(self, *, skip: bool = False) -> None: ...
    def feed(self, text: bytes | memoryview[Any]) -> _Columns: ...

class Table(Parser):
    def __init__(
        self,
        roles: list[str],
        delimiter: str,
        *,
        hexadecimal: bool = False,
        seconds: bool = False,
        skip: bool = False,
    ) -> None: ...
    def feed(self, text: bytes | memoryview[Any]) -> _Columns: ...

class Perf(Parser):
    def __init__(self, *, skip: bool = False) -> None: ...
    def feed(self, text: bytes | memoryview[Any]) -> _Columns: ...
