"""Constants that stand in Python and in the core agree; a module with another value is refused."""

from types import ModuleType

import pytest

from pagemig import _memory, constants
from pagemig.mm.numbers import NUMBERS, compare
from pagemig.system.machine import LOCKS


def test_what_is_compared_at_import() -> None:
    shared = {name for name in NUMBERS if hasattr(constants, name)}
    for family, least in (("MPOL_", 10), ("STEP_", 8), ("FILE_", 4)):
        assert sum(name.startswith(family) for name in shared) >= least
    compare(constants)


def test_a_constant_that_differs_is_named() -> None:
    module = ModuleType("mine")
    module.STEP_COPY = NUMBERS["STEP_COPY"] + 1  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match=r"mine\.STEP_COPY is 7, in the core 6"):
        compare(module)


def test_locks_of_a_trace_are_in_the_order_of_their_counters() -> None:
    counted = [name.removeprefix("lock_") for name in _memory.COUNTERS if name.startswith("lock_")]
    assert [name for name in counted if name in LOCKS.values()] == list(LOCKS.values())
