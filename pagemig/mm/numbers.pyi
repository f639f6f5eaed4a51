"""Numbers of the core by name, for Python to take and to compare its own with."""

from types import ModuleType

NUMBERS: dict[str, int]

def compare(module: ModuleType) -> None: ...
