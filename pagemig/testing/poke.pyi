"""Any field of any record of a machine, to read and to store: what tests break, and wait for."""

from pagemig._core import Machine

SLABS: tuple[str, ...]
FIELDS: dict[str, dict[str, tuple[int, int]]]

def poke(machine: Machine, what: str, index: int, field: str, value: int | None = None) -> int: ...
