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
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pagemig import _state
from pagemig.errors import StateError
from pagemig.files import replaced
from pagemig.kernels import KERNELS, KernelProfile
from pagemig.system.migration import take_up
from pagemig.system.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["describe", "dumps", "loads", "profile_of", "read", "write"]

_T = TypeVar("_T", bound=Platform)

#: Bytes of a part of a pickled machine.
_PART: Final = 1 << 20


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


class Bytes:
    """A part of a pickled machine, which unpickles as its bytes.

    Pickle handles bytes of any length as a whole; each of these is a call in Python, where Ctrl-C
    is answered.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return _bytes, (self.data,)


def _bytes(data: bytes) -> bytes:
    return data


def dumps(machine: Any, extra: dict[str, Any]) -> list[Bytes]:
    """Return a machine as bytes, in parts."""
    parts: list[Bytes] = []
    part = bytearray()

    def write(data: bytes) -> None:
        nonlocal part
        part += data
        if len(part) >= _PART:
            parts.append(Bytes(bytes(part)))
            part = bytearray()

    _state.save(machine, write, json.dumps(extra).encode())
    return [*parts, Bytes(bytes(part))]


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


def loads(parts: Iterable[bytes], make: Callable[[dict[str, Any]], _T]) -> _T:
    """Load a machine from bytes, in parts."""
    streams = map(io.BytesIO, parts)
    stream = io.BytesIO()

    def read_into(view: memoryview) -> int:
        nonlocal stream
        while not (got := stream.readinto(view)):
            found = next(streams, None)
            if found is None:
                return 0
            stream = found
        return got

    return _loaded(read_into, make, "pickled machine")
