"""Numbers and arrays of a caller, checked: an error names the argument and what it was.

For the parts of the package that know nothing of the model. `pagemig.arguments` is the same for the
kernel's own types.
"""

from __future__ import annotations

from operator import index
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = [
    "U64",
    "integer",
    "integers",
    "real",
    "reals",
    "truth_of_each",
    "truths",
    "unchecked",
    "whole",
]

#: The largest number of 64 bits.
U64: Final = (1 << 64) - 1

#: Lengths of the dimensions of an array; None for any.
Shape = tuple[int | None, ...]

Record = TypeVar("Record")


def integer(value: object, name: str, meant: str = "an integer") -> int:
    """Return a number of any size; ``meant`` says in the error what the value may be.

    Raises
    ------
    TypeError
        Not an integer.
    """
    try:
        return int(index(value))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be {meant}, not {value!r:.80}") from None


def whole(value: object, name: str, least: int, most: int) -> int:
    """Return a whole number.

    Raises
    ------
    TypeError
        Not an integer.
    ValueError
        Not from ``least`` to ``most``.
    """
    found = integer(value, name, "a whole number")
    if not least <= found <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {_short(found)}")
    return found


def real(value: object, name: str, least: float, most: float) -> float:
    """Return a number, which may be a fraction.

    Raises
    ------
    TypeError
        Not a number.
    ValueError
        Not from ``least`` to ``most``, or none at all (NaN).
    """
    if isinstance(value, bool | np.bool_ | str | bytes) or np.ndim(value):  # type: ignore[arg-type]
        raise TypeError(f"{name} must be a number, not {value!r:.80}")
    try:
        found = float(value)  # type: ignore[arg-type]
    except OverflowError:
        found = float("inf")
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, not {value!r:.80}") from None
    if not least <= found <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g}, not {found:g}")
    return found


def integers(
    values: object,
    name: str,
    shape: Shape,
    least: int,
    most: int,
    dtype: DTypeLike | None = np.int64,
) -> NDArray[Any]:
    """Return whole numbers as a contiguous array; not copied if they already are one.

    Parameters
    ----------
    values : array_like of int
        The numbers.
    name : str
        The argument, for the error.
    shape : tuple of int or None
        Its shape; None for any length.
    least, most : int
        Limits of the numbers.
    dtype : data type
        What holds them; None for what holds them already.

    Raises
    ------
    TypeError
        Not integers.
    ValueError
        Another shape, or a number beyond the limits.
    """
    given = _shaped(values, name, shape, "whole numbers")
    if given.size == 0:
        return np.empty(given.shape, dtype or np.int64)
    if given.dtype.kind in "fO" and not isinstance(values, np.ndarray):
        given = np.asarray(values, object)  # numpy has no type that holds the smallest and largest
        if not all(isinstance(one, int | np.integer) for one in given.flat):
            raise TypeError(f"{name} must be whole numbers, not {values!r:.80}")
    elif given.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole numbers, not {_what(values, given)}")
    if given.dtype.kind == "u" and least <= 0 and given.itemsize * 8 <= most.bit_length():
        return _aligned(given, dtype or given.dtype.newbyteorder("="))  # no number can be wrong
    low, high = int(given.min()), int(given.max())
    if not least <= low <= high <= most:
        worst = low if low < least else high
        raise ValueError(f"{name} must be from {least} to {most}, not {_short(worst)}")
    if dtype is None:
        dtype = given.dtype.newbyteorder("=") if given.dtype.kind in "iu" else np.int64
    return _aligned(given, dtype)


def reals(
    values: object, name: str, shape: Shape, least: float = 0.0, most: float = float("inf")
) -> NDArray[np.float64]:
    """Return numbers as an array of float64; the least and most may not be reached by infinity.

    Raises
    ------
    TypeError
        Not numbers.
    ValueError
        Another shape, a number beyond the limits, or one that is none or infinite.
    """
    given = _shaped(values, name, shape, "numbers")
    if given.size and given.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be numbers, not {_what(values, given)}")
    with np.errstate(over="ignore"):
        found = _aligned(given, np.float64)
    wrong = ~(np.isfinite(found) & (found >= least) & (found <= most))
    if wrong.any():
        limits = f"finite and not below {least:g}" if most == np.inf else f"{least:g} to {most:g}"
        raise ValueError(f"{name} must be {limits}, not {found[wrong][0]:g}")
    return found


def truths(values: object, name: str, shape: Shape) -> NDArray[np.bool_]:
    """Return truth values as an array of bool; 0 and 1 count as such.

    Raises
    ------
    TypeError
        Not truth values.
    ValueError
        Another shape.
    """
    given = _shaped(values, name, shape, "True or False")
    if given.size and given.dtype.kind not in "biu":
        raise TypeError(f"{name} must be True or False, not {_what(values, given)}")
    return np.ascontiguousarray(given, np.bool_)


def truth_of_each(value: object, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return truth values as `truths` does; a single one is that of every entry."""
    one = np.ndim(value) == 0  # type: ignore[arg-type]
    return truths(np.full(shape, value) if one else value, name, shape)


def unchecked(kind: type[Record], **values: object) -> Record:
    """Make a frozen record without its check, of values that are known to pass it."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def _shaped(values: object, name: str, shape: Shape, meant: str) -> NDArray[Any]:
    try:
        given = np.asarray(values)
    except (TypeError, ValueError, OverflowError, IndexError) as error:
        raise TypeError(f"{name} must be {meant}, not {values!r:.80} ({error})") from None
    fits = given.ndim == len(shape)
    for asked, length in zip(shape, given.shape, strict=False):
        fits = fits and asked in (None, length)
    if not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} must be of shape ({wanted}), not {given.shape}")
    return given


def _aligned(given: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    array = np.ascontiguousarray(given, dtype)
    return array if array.flags.aligned else array.copy()


def _what(values: object, given: NDArray[Any]) -> str:
    """Say what was given: an array by its type, anything else as it is."""
    return str(given.dtype) if isinstance(values, np.ndarray) else f"{values!r:.80}"


def _short(found: int) -> str:
    """Write a number out unless it has more digits than anybody reads."""
    return str(found) if found.bit_length() < 200 else f"a number of {found.bit_length()} bits"
