"""Long work on arrays a piece at a time: between two pieces Python looks for Ctrl-C."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["PIECE", "filled", "full", "joined", "pieces"]

#: Entries of a piece: a few milliseconds for the slowest work, which counts in seconds for all.
PIECE: Final = 1 << 18

_Scalar = TypeVar("_Scalar", bound=np.generic)


def pieces(n: int) -> Iterator[slice]:
    """Yield the pieces of ``n`` entries, in order."""
    for at in range(0, n, PIECE):
        yield slice(at, min(at + PIECE, n))


def filled(n: int, dtype: type[_Scalar], make: Callable[[slice], Any]) -> npt.NDArray[_Scalar]:
    """Return an array of ``n`` entries, each piece as ``make`` returns it."""
    out = np.empty(n, dtype)
    for piece in pieces(n):
        out[piece] = make(piece)
    return out


def full(n: int, value: Any, dtype: type[_Scalar]) -> npt.NDArray[_Scalar]:
    """Return an array of ``n`` times the same value."""
    return np.full(n, value, dtype) if n <= PIECE else filled(n, dtype, lambda _: value)


def joined(parts: Sequence[npt.NDArray[_Scalar]], dtype: type[_Scalar]) -> npt.NDArray[_Scalar]:
    """Return several arrays as one."""
    out = np.empty(sum(map(len, parts)), dtype)
    at = 0
    for part in parts:
        for piece in pieces(len(part)):
            out[at + piece.start : at + piece.stop] = part[piece]
        at += len(part)
    return out
