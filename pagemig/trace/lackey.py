"""Reading what valgrind's lackey tool writes with ``--trace-mem=yes``.

One access a line: a kind, a hexadecimal address without ``0x``, a size in bytes::

    I  0401ab70,3
     S 1fff000768,8
     L 04222f48,8
     M 0421e3c8,4

The rules are:

* ``L`` is a load; ``S`` a store; ``M`` (a load, then a store to the same place) one store.
* ``I`` is an instruction fetch: skipped, a trace is about data.
* An access reaches from its address over its size; one that straddles a page touches both pages.
  One beyond the last address or of more than `LARGEST` bytes is no record.
* Any number of blanks may stand between kind and address.
* ``==PID==`` and ``--PID--`` lines are valgrind's own talk and are skipped. Any other line that
  is not a record is counted in `LackeyReader.malformed` and otherwise ignored.

Lackey tells neither time nor thread nor mappings; accesses come in the order the one simulated
processor made them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST", "Accesses", "LackeyReader", "Source", "touched"]

#: Bytes parsed at once. Large enough to amortise numpy's calls, small enough to stay in cache.
CHUNK = 1 << 20

#: Bytes of an access at most; the state of a processor that one instruction saves is some 10 KiB.
LARGEST = 1 << 16

_HEX = np.full(256, 255, np.uint8)
_HEX[list(b"0123456789")] = range(10)
_HEX[list(b"abcdef")] = range(10, 16)
_SPACE, _COMMA, _NEWLINE = b" ,\n"
_IS_DATA = np.zeros(256, np.bool_)
_IS_DATA[list(b"LSM")] = True
_IS_TALK = np.zeros(256, np.bool_)
_IS_TALK[list(b"=-")] = True


class Source(Protocol):
    """What text can be read from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes; none only at the end."""
        ...


class Accesses(NamedTuple):
    """Accesses in program order."""

    address: NDArray[np.uint64]
    """First byte."""
    size: NDArray[np.uint64]
    """Bytes, at least 1."""
    write: NDArray[np.bool_]
    """Whether the access stores."""


class LackeyReader:
    """Iterate over the data accesses of a lackey trace, an array chunk at a time.

    Parameters
    ----------
    stream : Source
        A binary file, for one. Read to its end in pieces; memory stays bounded by `CHUNK`.

    Attributes
    ----------
    malformed : int
        Lines so far that were neither records nor valgrind's own.
    instructions : int
        Instruction fetches so far.
    """

    def __init__(self, stream: Source) -> None:
        self._stream = stream
        self.malformed = 0
        self.instructions = 0

    def __iter__(self) -> Iterator[Accesses]:
        rest = b""
        while piece := self._stream.read(CHUNK):
            text, newline, tail = piece.rpartition(b"\n")
            if not newline:
                rest += piece
                continue
            yield self._parse(rest + text + newline)
            rest = tail
        if rest:
            yield self._parse(rest + b"\n")

    def _parse(self, text: bytes) -> Accesses:
        """Parse whole lines."""
        # A front of blanks keeps every look to the left of a comma inside the array.
        chars = np.frombuffer(b" " * 24 + b"\n" + text, np.uint8)
        ends = np.flatnonzero(chars == _NEWLINE)
        starts, ends = ends[:-1] + 1, ends[1:]

        lead, second = chars[starts], chars[np.minimum(starts + 1, ends)]
        third = chars[np.minimum(starts + 2, ends)]
        kind = np.where(second == _SPACE, third, second)
        data = (lead == _SPACE) & _IS_DATA[kind]
        fetch = (lead == ord("I")) & (second == _SPACE)
        blank = (starts == ends) | _IS_TALK[lead]
        self.instructions += int(np.count_nonzero(fetch))
        self.malformed += int(np.count_nonzero(~(data | fetch | blank)))

        starts, ends, kind = starts[data], ends[data], kind[data]
        commas = np.flatnonzero(chars == _COMMA)
        # A line that is all data has one comma; one without gets its neighbour's and fails below.
        comma = np.append(commas, chars.size)[np.searchsorted(commas, starts)]
        comma = np.minimum(comma, ends)
        address, digits = _number(chars, comma, 16, 16)
        size, size_digits = _number(chars, ends, 10, 10)
        good = (digits > 0) & (size_digits > 0) & (ends - size_digits - 1 == comma)
        good &= (size > 0) & (size <= LARGEST) & (address <= address + (size - np.uint64(1)))
        # Lackey puts one blank between kind and address; other spacings are looked at singly.
        letter = starts + 1 + (chars[starts + 1] == _SPACE)
        gap = comma - digits - letter - 1
        good &= gap > 0
        for odd in np.flatnonzero(good & ((gap != 1) | (chars[letter + 1] != _SPACE))):
            between = chars[letter[odd] + 1 : letter[odd] + 1 + gap[odd]]
            good[odd] = bool((between == _SPACE).all())
        if not good.all():
            self.malformed += int(good.size - np.count_nonzero(good))
            address, size, kind = address[good], size[good], kind[good]
        return Accesses(address, size, kind != ord("L"))


def _number(
    chars: NDArray[np.uint8], end: NDArray[np.intp], base: int, most: int
) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """The numbers whose last digits lie before ``end``, and how many digits each has.

    Reads leftwards, one digit of all numbers at a time, until no number goes on.
    """
    value = np.zeros(end.size, np.uint64)
    digits = np.zeros(end.size, np.intp)
    going = np.ones(end.size, np.bool_)
    for place in range(1, most + 1):
        digit = _HEX[chars[end - place]]
        going &= digit < base
        if not going.any():
            break
        value += np.where(going, digit, 0).astype(np.uint64) * np.uint64(base ** (place - 1))
        digits += going
    return value, digits


def touched(accesses: Accesses, shift: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """The blocks of ``2**shift`` bytes each access reaches into, ascending within an access.

    Parameters
    ----------
    accesses : Accesses
        In program order.
    shift : int
        12 for pages, 6 for cache lines.

    Returns
    -------
    blocks : ndarray of uint64
        Block numbers in program order; an access that straddles gives several.
    write : ndarray of bool
        Whether the access stores.
    """
    first = accesses.address >> np.uint64(shift)
    last = (accesses.address + accesses.size - np.uint64(1)) >> np.uint64(shift)
    if not np.any(first != last):
        return first, accesses.write
    count = (last - first + np.uint64(1)).astype(np.intp)
    blocks = np.repeat(first, count)
    within = np.arange(blocks.size) - np.repeat(np.cumsum(count) - count, count)
    return blocks + within.astype(np.uint64), np.repeat(accesses.write, count)
