"""Saving, loading, copying and pickling machines.

The core writes a machine as bytes (``pagemig/mm/state``). Python adds the description that the
machine was made from, as JSON.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pagemig import _state
from pagemig.errors import StateError
from pagemig.files import replaced
from pagemig.kernels import KERNELS, KernelProfile
from pagemig.system.migration import take_up
from pagemig.system.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["describe", "dumps", "loads", "profile_of", "read", "write"]

_T = TypeVar("_T", bound=Platform)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [[key, _plain(part)] for key, part in value.items()]
    if isinstance(value, (frozenset, tuple)):
        return sorted(value) if isinstance(value, frozenset) else list(value)
    return value


def describe(profile: KernelProfile) -> dict[str, Any]:
    """Return a profile as plain values for JSON: its name, and all switches."""
    return {
        field.name: _plain(getattr(profile, field.name)) for field in dataclasses.fields(profile)
    }


def profile_of(described: dict[str, Any]) -> KernelProfile:
    """Return the profile that `describe` described, or the equal one of this pagemig."""
    known = KERNELS.get(described.get("name", ""))
    if known is not None and describe(known) == described:
        return known
    like = KERNELS["6.1"]
    values = {}
    for field in dataclasses.fields(like):
        value, own = described[field.name], getattr(like, field.name)
        if isinstance(own, Mapping):
            value = dict(value)
        elif isinstance(own, frozenset):
            value = frozenset(value)
        elif isinstance(own, tuple):
            value = tuple(value)
        values[field.name] = value
    return KernelProfile(**values)


def described_by(facts: tuple[Any, ...]) -> dict[str, Any]:
    """Return the description of a machine that a host saved without one."""
    nodes, record, distances, page_bytes, access_stats, swap = facts
    names = [name for name, known in KERNELS.items() if known.record().tobytes() == record]
    if not names:
        raise StateError(
            "a host saved it without the description of its kernel, which is not one of pagemig's: "
            "save it with Machine.save"
        )
    return {
        "nodes": nodes,
        "kernel": describe(KERNELS[names[0]]),
        "distances": distances,
        "page_bytes": page_bytes,
        "access_stats": access_stats,
        "swap": swap,
    }


def write(machine: Any, extra: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Save a machine in a file, whole or not at all."""
    with replaced(path) as file:
        _state.save(machine, file.write, json.dumps(extra).encode())


def dumps(machine: Any, extra: dict[str, Any]) -> bytes:
    """Return a machine as bytes."""
    out = io.BytesIO()
    _state.save(machine, out.write, json.dumps(extra).encode())
    return out.getvalue()


def _loaded(
    read_into: Callable[[memoryview], int], make: Callable[[dict[str, Any]], _T], name: str
) -> _T:
    try:
        loaded = _state.load(read_into)
        try:
            extra = json.loads(loaded.extra) if loaded.extra else described_by(loaded.facts())
            machine = make(extra)
        except StateError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(f"its description is not that of a machine ({error})") from None
        _state.adopt(machine, loaded)
        take_up(machine)
    except StateError as error:
        raise StateError(f"{name}: {error}") from None
    return machine


def read(path: str | os.PathLike[str], make: Callable[[dict[str, Any]], _T]) -> _T:
    """Load a machine from a file; ``make(extra)`` makes the object that will own it."""
    with Path(path).open("rb", buffering=0) as file:
        return _loaded(lambda view: file.readinto(view) or 0, make, os.fspath(path))


def loads(data: bytes, make: Callable[[dict[str, Any]], _T]) -> _T:
    """Load a machine from bytes."""
    return _loaded(io.BytesIO(data).readinto, make, "pickled machine")
