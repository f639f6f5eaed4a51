"""Calling a policy and checking its answer, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .named import PolicyError
from .view import Ints

__all__ = ["asked", "moves"]

_VIEW = Path(__file__).with_name("view.py")


def asked(where: str, method: Callable[..., Any], *args: Any) -> Any:
    """Call a method of a policy.

    Parameters
    ----------
    where : str
        Policy, epoch and trace, for the error.
    method : callable
        A method of the policy.
    *args
        Its arguments.

    Returns
    -------
    object
        What the method returned.

    Raises
    ------
    PolicyError
        The method raised ``__cause__``.
    """
    try:
        return method(*args)
    except Exception as error:
        text = f"{type(error).__name__}: {error}{_place(error)}"
        raise PolicyError(f"policy {where}: {text}") from error


def moves(where: str, answer: Any, pages: int) -> tuple[Ints, NDArray[np.int32], bool]:
    """Check the answer of a policy.

    Parameters
    ----------
    where : str
        As for `asked`.
    answer : Moves or (pages, nodes)
        What ``epoch`` returned.
    pages : int
        Number of pages.

    Returns
    -------
    pages : ndarray of int64, shape (n,)
    nodes : ndarray of int32, shape (n,)
        Not checked: the kernel decides whether they exist.
    sync : bool
        Whether the program waits.

    Raises
    ------
    PolicyError
        The answer is invalid.
    """
    try:
        given, nodes, *rest = answer
        sync = rest[0] if rest else True
        if len(rest) > 1 or not isinstance(sync, bool | np.bool_):
            raise ValueError("the third part of an answer says whether to wait, True or False")
        chosen = _integers("pages", given)
        if chosen.ndim != 1:
            raise ValueError(f"pages must have one dimension, not shape {chosen.shape}")
        targets = np.broadcast_to(_integers("nodes", nodes), chosen.shape)
    except (TypeError, ValueError, OverflowError) as error:
        text = f"it must answer (pages, nodes): {error}"
        raise PolicyError(f"policy {where}: {text}") from error
    wrong = chosen[(chosen < 0) | (chosen >= pages)]
    if wrong.size:
        raise PolicyError(f"policy {where}: page {wrong[0]} is not one of {pages}")
    limit = np.iinfo(np.int32)
    if targets.size and not limit.min <= targets.min() <= targets.max() <= limit.max:
        raise PolicyError(f"policy {where}: node {targets.max()} is not a node")
    return chosen, targets.astype(np.int32), bool(sync)


def _place(error: Exception) -> str:
    """Return where an error was raised: the last line outside the view."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if Path(code.co_filename) != _VIEW:
            place = f" ({Path(code.co_filename).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _integers(name: str, given: Any) -> Ints:
    """Return integers as int64; refuse fractions, which are neither pages nor nodes."""
    array = np.asarray(given)
    if array.size == 0:
        return np.empty(array.shape if array.ndim else 0, np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, not {array.dtype}")
    if array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must be below 2**63, not {array.max()}")
    return array.astype(np.int64)
