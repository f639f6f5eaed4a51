"""Conversion of arguments: Python numbers, sizes and node sets become the kernel's.

A value that no C argument could hold is a ``TypeError`` or ``ValueError`` that names the argument.
A value that the kernel would refuse passes unchanged, and gets the kernel's errno later.
"""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import length_hint
from typing import Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from pagemig.checked import U64, integer
from pagemig.constants import NULL, PAGE_SIZE, PROT_NONE, Pointer
from pagemig.pieces import PIECE, filled, pieces

__all__ = [
    "Addresses",
    "NodeSet",
    "Nodemask",
    "address_array",
    "as_int",
    "as_size",
    "as_ulong",
    "check_bool",
    "counted",
    "node_array",
    "one_of",
    "prot_bits",
    "user_memory",
    "user_nodemask",
    "word_of",
]

NodeSet: TypeAlias = Iterable[int] | Pointer
Addresses: TypeAlias = npt.NDArray[np.integer] | Iterable[int]

#: More numbers than a call can be about: their pages alone would be a terabyte.
_MOST_NUMBERS: Final = 1 << 28

_INT_MIN: Final = -(1 << 31)
_UINT_MAX: Final = (1 << 32) - 1
_LONG_MIN: Final = -(1 << 63)

#: The most bits of a user mask: ``PAGE_SIZE * 8``.
_MASK_BITS: Final = PAGE_SIZE * 8

_UNITS: Final = {
    "": 0,
    "B": 0,
    "K": 10,
    "KIB": 10,
    "M": 20,
    "MIB": 20,
    "G": 30,
    "GIB": 30,
    "T": 40,
    "TIB": 40,
}
_DECIMAL: Final = ("KB", "MB", "GB", "TB")
_SIZE: Final = re.compile(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([A-Za-z]*)\s*")


def as_ulong(value: object, name: str, meant: str = "an integer") -> int:
    """Return ``value`` as the kernel's ``unsigned long``: negative numbers wrap as in C.

    ``meant`` says in the error what the value may be.

    Raises
    ------
    TypeError
        Not an integer.
    ValueError
        Outside -2**63 to 2**64 - 1.
    """
    number = integer(value, name, meant)
    if not _LONG_MIN <= number <= U64:
        raise ValueError(f"{name} must fit 64 bits, not {number}")
    return number & U64


def as_int(value: object, name: str, meant: str = "an integer") -> int:
    """Return ``value`` as a C ``int``: 0x80000000 to 0xffffffff are read as negative.

    ``meant`` says in the error what the value may be.

    Raises
    ------
    TypeError
        Not an integer.
    ValueError
        Outside -2**31 to 2**32 - 1.
    """
    number = integer(value, name, meant)
    if not _INT_MIN <= number <= _UINT_MAX:
        raise ValueError(f"{name} must fit 32 bits, not {number}")
    return number - (1 << 32) if number > 0x7FFFFFFF else number


def as_size(value: object, name: str) -> int:
    """Return a size in bytes, from an integer or text as ``"4GiB"``, ``"512 MiB"``, ``"1.5G"``.

    Units are powers of 1024, their case does not matter.  The result is a whole number of pages.

    Raises
    ------
    TypeError
        Neither an integer nor text.
    ValueError
        Not a size, negative, beyond 64 bits, or not a multiple of the page size.
    """
    if isinstance(value, str):
        size = _parse_size(value, name)
    else:
        size = integer(value, name, "a number of bytes or text as '4GiB'")
    if not 0 <= size <= U64:
        raise ValueError(f"{name} must be a size from 0 to 2**64 - 1 bytes, not {value!r}")
    if size % PAGE_SIZE:
        raise ValueError(f"{name} must be a multiple of {PAGE_SIZE} bytes, not {value!r}")
    return size


def _parse_size(text: str, name: str) -> int:
    match = _SIZE.fullmatch(text)
    shift = _UNITS.get(match[2].upper()) if match else None
    if match and match[2].upper() in _DECIMAL:
        unit = match[2][0].upper()
        raise ValueError(
            f"{name} must be in powers of 1024, as '{match[1]}{unit}iB': {match[2]}, a power of "
            f"1000, is not meant by {text!r}"
        )
    if match is None or shift is None:
        raise ValueError(f"{name} must be a size as '4GiB' or '512 MiB', not {text!r}")
    whole, _, part = match[1].partition(".")
    scaled = int(whole + part) * 2**shift
    size, rest = divmod(scaled, 10 ** len(part))
    if rest:
        raise ValueError(f"{name} must be a whole number of bytes, not {text!r}")
    return int(size)


def counted(n: int, word: str) -> str:
    """Return a number of things, as ``"1 mapping"`` or ``"2 processes"``."""
    return f"{n} {word}" if n == 1 else f"{n} {word}{'es' if word.endswith('s') else 's'}"


def check_bool(value: object, name: str) -> bool:
    """Return ``value``, which must be a truth value of Python or numpy."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def word_of(value: int | str, words: dict[str, int], name: str) -> int:
    """Return a number given by name or as itself.

    Raises
    ------
    ValueError
        A name not in ``words``.
    """
    if isinstance(value, str):
        try:
            return words[value]
        except KeyError:
            known = ", ".join(words)
            raise ValueError(f"{name} {value!r} is not known; known are: {known}") from None
    return as_int(value, name, "a name or a number")


def one_of(value: object, known: Iterable[str], name: str) -> str:
    """Return ``value``, which must be one of some words.

    Raises
    ------
    TypeError
        Not text.
    ValueError
        Not one of the words.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    return value


def prot_bits(prot: int | str) -> int:
    """Return protection bits from letters of ``rwx`` (``""``: no access) or from the bits.

    Raises
    ------
    ValueError
        Another letter.
    """
    if not isinstance(prot, str):
        return as_int(prot, "prot", "letters of 'rwx' or a number") & _UINT_MAX
    bits = PROT_NONE
    for letter in prot:
        place = "rwx".find(letter)
        if place < 0:
            raise ValueError(f"prot must be letters of 'rwx', not {prot!r}")
        bits |= 1 << place
    return bits


# ---- node masks -------------------------------------------------------------------------------


class Nodemask:
    """A node mask in the caller's memory: its bits, and how far that memory is mapped.

    Parameters
    ----------
    nodes : iterable of int
        Node numbers from 0 on.

    Attributes
    ----------
    bits : int
        Bit ``n`` for node ``n``; nodes beyond what any call reads are not kept.
    words : int
        64-bit words the mask occupies.
    """

    __slots__ = ("bits", "words")

    def __init__(self, nodes: Iterable[int], name: str) -> None:
        flat = isinstance(nodes, np.ndarray) and nodes.ndim == 0
        if flat or isinstance(nodes, str | bytes) or not isinstance(nodes, Iterable):
            raise TypeError(f"{name} must be a collection of node numbers, not {nodes!r}")
        if isinstance(nodes, range) and _length(nodes) > _MASK_BITS:
            raise ValueError(f"{name} must be at most {_MASK_BITS} nodes, not {nodes!r}")
        bits, last = 0, 0
        for node in nodes:
            nid = integer(node, f"a node of {name}")
            if nid < 0:
                raise ValueError(f"a node of {name} must not be negative: {nid}")
            if nid >> 63:
                raise ValueError(f"a node of {name} must be below 2**63: {nid}")
            last = max(last, nid)
            if nid < _MASK_BITS:
                bits |= 1 << nid
        self.bits = bits
        self.words = last // 64 + 1


def user_nodemask(nodes: NodeSet, name: str = "nodes") -> Nodemask | Pointer:
    """Return the mask of a call: bits for a collection, the sentinel for a pointer.

    Raises
    ------
    TypeError
        Not a collection of integers and not ``NULL`` or ``BAD``.
    ValueError
        A negative node number.
    """
    return nodes if isinstance(nodes, Pointer) else Nodemask(nodes, name)


def default_maxnode(mask: Nodemask | Pointer) -> int:
    """Return the ``maxnode`` for a caller that names none: 65, 129, ... by the mask's size."""
    if mask is NULL:
        return 0
    return 65 if isinstance(mask, Pointer) else mask.words * 64 + 1


def user_memory(mask: Nodemask | Pointer, maxnode: int) -> bytes | None:
    """Return the memory behind a mask: None for NULL, no bytes for a wild pointer.

    Memory behind the caller's own words reads as zeros (recorded up to ``maxnode`` 32769 in
    mini-011 to mini-015).
    """
    if isinstance(mask, Pointer):
        return None if mask is NULL else b""
    words = min(mask.words, _MASK_BITS // 64)
    memory = mask.bits.to_bytes(words * 8, "little")
    if (maxnode - 1) & U64 > words * 64:
        memory = memory.ljust(_MASK_BITS // 8, b"\0")
    return memory


# ---- arrays of move_pages and access ----------------------------------------------------------


def address_array(values: Addresses, name: str) -> npt.NDArray[np.uint64]:
    """Return addresses as a contiguous uint64 array; not copied if they already are one.

    Raises
    ------
    TypeError
        Not integers.
    ValueError
        Not one-dimensional, or a number that does not fit 64 bits.
    """
    if isinstance(values, np.ndarray):
        return _integer_array(values, name, np.uint64)
    if isinstance(values, Pointer | str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be addresses, not {values!r}")
    numbers = _sequence(values, name)
    try:
        return np.frombuffer(_packed("Q", numbers), dtype=np.uint64)
    except OverflowError:
        wrapped = [as_ulong(number, f"an entry of {name}") for number in numbers]
        return filled(len(wrapped), np.uint64, lambda piece: wrapped[piece])
    except TypeError:
        raise TypeError(f"{name} must be integers, not {_no_integer(numbers)!r}") from None


def node_array(values: Addresses, name: str) -> npt.NDArray[np.int32]:
    """Return nodes as a contiguous array of C ``int``; not copied if they already are one.

    Raises
    ------
    TypeError
        Not integers.
    ValueError
        Not one-dimensional, or a number that does not fit 32 bits.
    """
    if isinstance(values, np.ndarray):
        return _integer_array(values, name, np.int32)
    if isinstance(values, Pointer | str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be node numbers, not {values!r}")
    numbers = _sequence(values, name)
    try:
        return np.frombuffer(_packed("i", numbers), dtype=np.int32)
    except OverflowError:
        raise ValueError(f"an entry of {name} does not fit a C int: {_widest(numbers)}") from None
    except TypeError:
        raise TypeError(f"{name} must be integers, not {_no_integer(numbers)!r}") from None


def _length(values: Iterable[object]) -> int:
    """Return how many values there will be as far as they say so, without a look at them."""
    try:
        return length_hint(values)
    except OverflowError:
        return 1 << 63


def _sequence(values: Iterable[int], name: str) -> Sequence[int]:
    """Return numbers that can be read twice; ValueError for more than a call can be about."""
    if isinstance(values, list | tuple):
        return values
    if _length(values) > _MOST_NUMBERS:
        raise ValueError(f"{name} must be at most {_MOST_NUMBERS} numbers, not {values!r:.80}")
    return values if isinstance(values, range) else [*chain.from_iterable(_runs(values))]


def _runs(values: Iterable[int]) -> Iterator[list[int]]:
    """Yield values in order, a list of many at a time; a signal handler may run between two."""
    source = iter(values)
    while run := list(islice(source, PIECE)):
        yield run


def _packed(code: str, numbers: Sequence[int]) -> "array[int]":
    """Return numbers as an array of C integers."""
    if len(numbers) <= PIECE:
        return array(code, numbers)
    packed = array(code)
    for run in _runs(numbers):
        packed.fromlist(run)
    return packed


def _no_integer(values: Iterable[object]) -> object:
    """Return the first value that is not an integer, for the error."""
    return next((value for value in values if not hasattr(value, "__index__")), values)


def _widest(numbers: Iterable[int]) -> int:
    """Return the number farthest from 0; later values may not be numbers at all."""
    return max((n for n in numbers if hasattr(n, "__index__")), key=lambda n: abs(int(n)))


_Scalar = TypeVar("_Scalar", np.uint64, np.int32)


def _integer_array(
    values: npt.NDArray[np.generic], name: str, to: type[_Scalar]
) -> npt.NDArray[_Scalar]:
    given = np.asarray(values)  # a subclass may override anything
    if given.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not the shape {given.shape}")
    if given.dtype.kind not in "iu":
        if given.size == 0:
            return np.empty(0, dtype=to)
        raise TypeError(f"{name} must be integers, not {given.dtype}")
    if to is np.int32 and not np.can_cast(given.dtype, to):
        for piece in pieces(len(given)):
            _must_fit(given[piece], name)
    if given.dtype == to and given.flags.c_contiguous and given.flags.aligned:
        return given
    return filled(len(given), to, given.__getitem__)


def _must_fit(values: npt.NDArray[np.generic], name: str) -> None:
    """Raise ValueError for numbers that a C ``int`` does not hold."""
    low, high = int(values.min()), int(values.max())
    if low < _INT_MIN or high > 0x7FFFFFFF:
        worst = low if low < _INT_MIN else high
        raise ValueError(f"an entry of {name} does not fit a C int: {worst}")
