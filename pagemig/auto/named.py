"""Policies by name: ``hemem``, ``hemem(period=10)``, ``module:Class(period=10)``."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from .policies import POLICIES
from .view import Policy

__all__ = ["PolicyError", "described", "is_oracle", "label", "policy", "split"]


class PolicyError(ValueError):
    """A policy failed, or its answer is invalid; the message names policy, epoch and trace.

    ``__cause__`` is the exception that it raised.
    """


def policy(spec: str | Policy) -> Policy:
    """Make a policy from its name.

    Parameters
    ----------
    spec : str or Policy
        A name of `POLICIES`, or ``module:Class`` for your own policy, also from the current
        directory. Parameters may follow in parentheses, by name. A policy is returned unchanged.

    Returns
    -------
    Policy

    Raises
    ------
    ValueError
        No policy has that name, it has no such parameter, or it has no ``epoch``.
    """
    if not isinstance(spec, str):
        return _checked(spec, type(spec).__name__)
    name, given = _parsed(spec)
    try:
        maker = _maker(name)
        if unknown := _unknown(maker, given):
            raise PolicyError(f"no policy {spec!r}: {unknown}")
        return _checked(maker(**given), spec)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        if isinstance(error, PolicyError):
            raise
        raise ValueError(f"no policy {spec!r}: {error}") from error


def _unknown(maker: Callable[..., Any], given: dict[str, Any]) -> str:
    """Say what is wrong with the names of parameters, if anything."""
    takes = [entry.name for entry in _fields(maker) if entry.init]
    wrong = [name for name in given if name not in takes]
    if not wrong or not is_dataclass(maker):
        return ""
    return f"it has no {wrong[0]}; it has {', '.join(takes) or 'no parameters'}"


def _maker(name: str) -> Callable[..., Any]:
    module, colon, attribute = name.partition(":")
    if colon:
        with _current_directory():
            made: Callable[..., Any] = getattr(import_module(module), attribute)
        return made
    if name in POLICIES:
        return POLICIES[name]
    raise PolicyError(
        f"no policy {name!r}; there is {', '.join(POLICIES)}, and module:Class for your own"
    )


@contextmanager
def _current_directory() -> Iterator[None]:
    """Allow importing modules of the current directory, as ``python -m`` does."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _parsed(spec: str) -> tuple[str, dict[str, Any]]:
    """Split a policy into its name and its parameters, which are literals."""
    name, paren, rest = spec.strip().partition("(")
    if not paren:
        return name, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError("parameters are given by name, as in name(period=10)")
        given = {}
        for word in call.keywords:
            if word.arg is None:
                raise ValueError("parameters are given by name, as in name(period=10)")
            given[word.arg] = ast.literal_eval(word.value)
    except (ValueError, SyntaxError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error)
        raise PolicyError(f"no policy {spec!r}: {why}") from None
    return name.strip(), given


def split(text: str) -> list[str]:
    """Split a list of policies at its commas, except those in parentheses."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _checked(made: Any, name: str) -> Policy:
    """Refuse an object that is not a policy."""
    if not callable(getattr(made, "epoch", None)) or isinstance(made, type):
        raise PolicyError(f"policy {name!r} has no method epoch(view)")
    for source in getattr(made, "needs", ()):
        if not callable(getattr(source, "watch", None)):
            raise PolicyError(
                f"policy {name!r} needs {source!r}, which is not a source of statistics"
            )
    return made  # type: ignore[no-any-return]


def label(spec: str | Policy) -> str:
    """Return a policy's name for a table: as given, or its class and non-default parameters."""
    if isinstance(spec, str):
        return spec.strip()
    own = getattr(spec, "name", None)
    if isinstance(own, str):
        return own
    name = next((key for key, made in POLICIES.items() if made is type(spec)), None)
    text = name or type(spec).__name__
    changed = [
        f"{field.name}={getattr(spec, field.name)!r}"
        for field in _fields(spec)
        if field.init and field.repr and getattr(spec, field.name) != field.default
    ]
    return f"{text}({', '.join(changed)})" if changed else text


def _fields(made: Any) -> tuple[Any, ...]:
    return fields(made) if is_dataclass(made) else ()


def described(made: Policy) -> str:
    """Return the first sentence of a policy's docstring."""
    text = (type(made).__doc__ or "a policy of your own").strip()
    return text.splitlines()[0].rstrip(".")


def is_oracle(made: Policy) -> bool:
    """Tell whether a policy sees what no machine can."""
    return any(getattr(source, "oracle", False) for source in getattr(made, "needs", ()))
