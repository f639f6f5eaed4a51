"""Files of scenarios: reading them, choosing from them, and naming the place of an error."""

import gzip
import json
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from pagemig import files
from pagemig.errors import KernelBug

__all__ = ["Entry", "choose", "entries", "load", "placed", "recordings"]

#: A scenario or a record as JSON.
Json: TypeAlias = dict[str, Any]

#: How the files of a folder of recordings end.
_NAMED: Final = (".jsonl", ".jsonl.gz")

_BLANKS: Final = re.compile(r"\s*")

#: The most characters of a file, uncompressed: eighteen times the largest recording.
_LARGEST: Final = 1 << 28
#: The most bytes of memory that a character of JSON takes once it is parsed.
_PARSED: Final = 16


class Entry(NamedTuple):
    """A scenario and its place in a file.

    Attributes
    ----------
    path : str
        The file.
    line : int
        The line it begins on, from 1.
    scenario : dict
        The scenario.
    """

    path: str
    line: int
    scenario: Json

    @property
    def place(self) -> str:
        """File, line and id, as an error begins."""
        words = [self.path, f"line {self.line}"]
        return ": ".join(words + ([str(self.scenario["id"])] if "id" in self.scenario else []))


def recordings(path: str) -> list[str]:
    """Return the files of scenarios that a folder holds, or a path that is no folder as it is.

    Raises
    ------
    ValueError
        A folder without such files.
    """
    folder = Path(path)
    if not folder.is_dir():
        return [path]
    held = sorted(str(file) for file in folder.iterdir() if file.name.endswith(_NAMED))
    if not held:
        raise ValueError(f"{path}: a folder without recordings ({', '.join(_NAMED)})")
    return held


def entries(path: str | Path) -> list[Entry]:
    """Read scenarios or records, with their places.  See :func:`load`."""
    text = _text(path)
    found: list[Entry] = []
    decoder, at, line = json.JSONDecoder(), 0, 1
    doubtful = "\\" in text or not all(map(str.isprintable, text.split("\n")))
    while True:
        begin = _BLANKS.match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", at, begin)
        if begin == len(text):
            return found
        try:
            value, at = decoder.raw_decode(text, begin)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None
        except RecursionError:
            raise ValueError(f"{path}: line {line}: nested too deeply for a scenario") from None
        except ValueError as error:  # a number of thousands of digits
            raise ValueError(f"{path}: line {line}: not JSON: {error}") from None
        if doubtful and (bad := _unprintable(value)) is not None:
            raise ValueError(f"{path}: line {line}: {files.quoted(bad)} has control characters")
        for scenario in value if isinstance(value, list) else [value]:
            if not isinstance(scenario, dict) or "ops" not in scenario:
                raise ValueError(f"{path}: line {line}: not a scenario: an object with ops")
            found.append(Entry(str(path), line, scenario))
        line += text.count("\n", begin, at)


def _unprintable(value: Any) -> str | None:
    """Find a text in a JSON value that a terminal would obey; line ends and tabs are harmless."""
    waiting = deque([value])
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and not files.is_printable(re.sub("[\n\t]", "", value)):
            return value
    return None


def _text(path: str | Path) -> str:
    """Read a whole file, which is refused before it takes more memory than there is."""
    try:
        if str(path) == "-":
            text = sys.stdin.read(_LARGEST + 1)
        else:
            with Path(path).open("rb") as file:
                packed = file.read(2) == b"\x1f\x8b"
                file.seek(0)
                stream = gzip.GzipFile(fileobj=file) if packed else file
                text = stream.read(_LARGEST + 1).decode()
        if len(text) > _LARGEST:
            raise ValueError(f"{path}: more than {_LARGEST} bytes, which no scenario has")
        files.room(_PARSED * len(text), f"{path}: {len(text):,} bytes of JSON")
        return text
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not JSON: it is not UTF-8 text") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not gzip: {error}") from None


def load(path: str | Path) -> list[Json]:
    """Read scenarios or records.

    Parameters
    ----------
    path : str or Path
        A file of JSON objects one after another (one a line as in the corpora, or in any layout) or
        of lists of them.  ``.gz`` is decompressed; ``"-"`` is standard input.

    Returns
    -------
    list of dict

    Raises
    ------
    ValueError
        Not JSON, or not objects with ``ops``; the message names file and line.
    """
    return [entry.scenario for entry in entries(path)]


def choose(found: Sequence[Entry], name: str | None) -> list[Entry]:
    """Return the scenarios with an id, or all if none is named.

    Parameters
    ----------
    found : sequence of Entry
        The scenarios to choose from.
    name : str or None
        An id, or its beginning up to a hyphen, as ``hand-013``.

    Raises
    ------
    ValueError
        No scenario has that id.
    """
    if name is None:
        return list(found)
    ids = [str(entry.scenario.get("id", "")) for entry in found]
    chosen = [e for e, i in zip(found, ids, strict=True) if f"{i}-".startswith(f"{name}-")]
    if not chosen:
        paths = ", ".join(dict.fromkeys(entry.path for entry in found))
        raise ValueError(f"no scenario with id {name!r} in {paths or 'an empty file'}")
    return chosen


@contextmanager
def placed(entry: Entry) -> Iterator[None]:
    """Name the scenario in a ``ValueError`` of the block, and turn a ``KernelBug`` into one."""
    try:
        yield
    except KernelBug as bug:
        raise ValueError(f"{entry.place}: the kernel crashes here: {bug}") from bug
    except ValueError as error:
        raise ValueError(f"{entry.place}: {error}") from error
