"""The header of a trace: its description of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pagemig.files import is_printable, printable, quoted

__all__ = ["PAGE_SHIFT", "Header", "TraceError"]

PAGE_SHIFT = 12

_PAGE_SIZES = tuple(1 << shift for shift in range(PAGE_SHIFT, 31))


class TraceError(ValueError):
    """A file is not a trace, is damaged, or has a later version."""


@dataclass(frozen=True)
class Header:
    """A trace's description of itself.

    Attributes
    ----------
    program : str
        The command that was recorded.
    source : str
        The tool that saw the accesses.
    cache : int
        Bytes of the line cache whose hits were left out (`pagemig.trace.cache`); 0: every access
        was kept.
    ways : int
        Lines of a set of that cache; 1: direct-mapped.
    references : int
        Accesses of the program, before that cache.
    accesses : int
        Accesses in the trace.
    page_size : int
        Bytes.
    unit : str
        What the time axis counts: ``"instructions"``, ``"ns"``; empty: the trace has none.
    tick : int
        Units between two points of the time axis (`Trace.ticks`).
    duration : int
        Units from the first access to the last.
    note : str
        Anything else.
    """

    program: str = ""
    source: str = ""
    cache: int = 0
    ways: int = 1
    references: int = 0
    accesses: int = 0
    page_size: int = 1 << PAGE_SHIFT
    unit: str = ""
    tick: int = 0
    duration: int = 0
    note: str = ""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Header:
        """Make a header from a file's JSON, and refuse invalid values.

        Raises
        ------
        TraceError
            A value of another type, a negative count, an invalid page size, or text with terminal
            control characters; the message names it.
        """
        if not isinstance(facts, Mapping):
            raise _refused("it", facts, "a table of facts")
        known = {f.name: facts[f.name] for f in fields(cls) if f.name in facts}
        for name, value in known.items():
            meant = type(getattr(cls, name))
            if type(value) is not meant:
                raise _refused(name, value, "a count" if meant is int else "text")
            if isinstance(value, int) and not 0 <= value < 1 << 64:
                raise _refused(name, value, "a count")
            if isinstance(value, str) and not is_printable(value):
                raise _refused(name, value, "text without control characters")
        header = cls(**known)
        if header.page_size not in _PAGE_SIZES:
            raise _refused("page_size", header.page_size, "a power of two from 4096 to 2**30")
        if header.unit and not 0 < header.tick <= max(header.duration, 1):
            raise _refused("tick", header.tick, f"from 1 to the duration {header.duration}")
        return header

    def shown(self) -> Header:
        """Return the header with control characters in its texts written as escapes."""
        texts = {f.name: printable(getattr(self, f.name)) for f in fields(self) if f.type == "str"}
        return replace(self, **texts)  # type: ignore[arg-type]

    def counted(self, accesses: int) -> Header:
        """Return the header for so many accesses; ``references`` is the same number if it is 0."""
        return replace(self, accesses=accesses, references=self.references or accesses)


def _refused(name: str, value: object, meant: str) -> TraceError:
    return TraceError(f"{name}={quoted(str(value))} in its header is not {meant}")
