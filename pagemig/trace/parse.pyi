"""Compiled parsers of text: lines in, arrays of accesses out."""

from typing import final

from numpy import bool_, uint32, uint64
from numpy.typing import NDArray
from typing_extensions import Buffer, disjoint_base

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

@disjoint_base
class Parser:
    def __init__(self, *, skip: bool = False) -> None: ...
    def feed(self, text: Buffer) -> _Columns: ...
    malformed: int
    bad: int
    skipped: int

@final
class Lackey(Parser):
    instructions: int

@final
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

@final
class Perf(Parser): ...
