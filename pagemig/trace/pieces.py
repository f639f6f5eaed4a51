"""JSON read a value at a time, from bytes that come in pieces."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from pagemig import files

__all__ = ["Json"]

_BLANK = " \t\r\n"


def shown(found: str) -> str:
    """Quote the character found, or name the end."""
    return files.quoted(found, 1) if found else "the end"


class Json:
    """A JSON text of which only the current value is in memory.

    Every method raises ValueError where the text is not JSON or ends early, and RecursionError
    where a value is nested too deep.

    Parameters
    ----------
    pieces : iterator of bytes
        UTF-8, cut anywhere.
    most : int
        Characters of one value at most.
    """

    def __init__(self, pieces: Iterator[bytes], most: int) -> None:
        self._pieces, self._most = pieces, most
        self._text = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder().raw_decode
        self._held, self._at = "", 0

    def _more(self) -> bool:
        """Read a further piece; False at the end."""
        piece = next(self._pieces, None)
        if piece is None:
            self._text.decode(b"", final=True)
            return False
        self._held = self._held[self._at :] + self._text.decode(piece)
        self._at = 0
        return True

    def peek(self) -> str:
        """Return the next character that is not blank; empty at the end."""
        while True:
            while self._at < len(self._held) and self._held[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def take(self, character: str) -> None:
        """Pass over a character, which must be the next."""
        found = self.peek()
        if found != character:
            raise ValueError(f"{shown(found)} where {character} was expected")
        self._at += 1

    def value(self) -> Any:
        """Read the next value whole."""
        self.peek()
        while True:
            failed: json.JSONDecodeError | None = None
            try:
                found, end = self._scan(self._held, self._at)
            except json.JSONDecodeError as error:  # it may only be cut
                failed, end = error, len(self._held)
            if end < len(self._held):  # a number may go on in the next piece
                break
            length = len(self._held) - self._at
            if length > self._most:
                raise ValueError(f"a value of more than {self._most} characters")
            if not self._more():
                if failed is not None:
                    raise failed
                break
            # Twice as much each time, or a long value would be parsed again for every piece.
            while len(self._held) - self._at < 2 * length and self._more():
                pass
        self._at = end
        return found

    def elements(self) -> Iterator[None]:
        """Pass over a list; before the next step the caller reads one element."""
        self.take("[")
        if self.peek() != "]":
            yield
            while self.peek() == ",":
                self.take(",")
                yield
        self.take("]")

    def names(self) -> Iterator[str]:
        """Pass over an object; before the next step the caller reads the value of the key."""
        self.take("{")
        if self.peek() != "}":
            yield self._key()
            while self.peek() == ",":
                self.take(",")
                yield self._key()
        self.take("}")

    def _key(self) -> str:
        found = self.peek()
        if found != '"':
            raise ValueError(f"{shown(found)} where a key was expected")
        key = self.value()
        self.take(":")
        return str(key)
