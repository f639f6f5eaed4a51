"""Constants of the core by name, for Python to use and to compare its own with."""

from types import ModuleType

NUMBERS: dict[str, int]

def compare(module: ModuleType) -> None: ...
