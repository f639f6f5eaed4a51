"""Bytes from a file or a pipe, decompressed; the compression is recognised by content."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import select
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol, cast

from pagemig import files
from pagemig.report import MissingError

from .format import spooled
from .header import TraceError

__all__ = ["HEAD", "MissingError", "Source", "Stream", "Wait", "opened", "patiently"]

#: Magic numbers of the compression formats.
HEAD = 1 << 16
#: The most memory for decompressing xz or zstd. `xz -9` needs 65 MiB, `zstd --ultra` 128 MiB.
_MOST_MEMORY = 1 << 28

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

#: Errors of decompressing damaged bytes.
DAMAGE = (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error)


class Source(Protocol):
    """An object that bytes can be read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes; none only at the end."""
        ...


#: Waits until a file has something to read, or has ended; False once nobody wants it any more.
Wait = Callable[[int], bool]


def patiently(fd: int) -> bool:
    """Wait until a file has something to read, for as long as it takes."""
    there = select.poll()
    there.register(fd, select.POLLIN)
    there.poll()
    return True


class Stream(io.RawIOBase):
    """A source whose next bytes can be read ahead.

    Parameters
    ----------
    source : Source
        Where the bytes come from.
    name, packed : str
        See below.
    wait : callable, optional
        How to wait for them if the source is a file; what nobody wants any more has ended.

    Attributes
    ----------
    name : str
        Its name in errors; printable.
    packed : str
        The compression, for messages; empty if it was not compressed.
    """

    def __init__(self, source: Source, name: str, packed: str = "", wait: Wait = patiently) -> None:
        self.name, self.packed = files.printable(name), packed
        self._source = source
        self._wait = wait
        self._head = b""

    def peek(self, size: int = HEAD) -> bytes:
        """Return the next bytes without consuming them: ``size``, fewer only at the end."""
        while len(self._head) < size:
            piece = self._more(size - len(self._head))
            if not piece:
                break
            self._head += piece
        return self._head[:size]

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes; none only at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
            return piece
        return self._more(size)

    def exactly(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        pieces = []
        while size:
            piece = self.read(min(size, 1 << 20))
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer; return how many bytes came."""
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def _more(self, size: int) -> bytes:
        if not self.packed:
            if isinstance(self._source, io.FileIO) and not self._wait(self._source.fileno()):
                return b""
            return self._source.read(size)
        try:
            return self._source.read(size)
        except DAMAGE as error:
            raise TraceError(f"{self.name}: its {self.packed} is damaged: {error}") from None

    def seekable(self) -> bool:
        """Tell whether a reader can seek, see `whole`."""
        return False

    @contextlib.contextmanager
    def whole(self) -> Iterator[IO[bytes]]:
        """Return a seekable file with everything that is left, a temporary one if needed."""
        source: Any = self._source
        plain = not self.packed and isinstance(source, io.FileIO | io.BufferedReader | io.BytesIO)
        plain = plain and source.seekable()
        if plain:
            source.seek(-len(self._head), os.SEEK_CUR)
            self._head = b""
            yield source
        else:
            with spooled(cast(IO[bytes], self)) as file:
                yield file


class _Xz(io.RawIOBase):
    """Decompresses xz streams one after the other, in bounded memory."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._unpacker = lzma.LZMADecompressor(memlimit=_MOST_MEMORY)

    def read(self, size: int = -1, /) -> bytes:
        while True:
            if self._unpacker.eof:
                rest = self._unpacker.unused_data.lstrip(b"\0") or self._source.read(1 << 16)
                rest = rest.lstrip(b"\0")
                if not rest:
                    return b""
                self._unpacker = lzma.LZMADecompressor(memlimit=_MOST_MEMORY)
                piece = self._unpacker.decompress(rest, size)
            elif self._unpacker.needs_input:
                packed = self._source.read(1 << 16)
                if not packed:
                    raise EOFError("it ends early")
                piece = self._unpacker.decompress(packed, size)
            else:
                piece = self._unpacker.decompress(b"", size)
            if piece:
                return piece


def _unpacked(stream: Stream, kind: str) -> Source:
    file = cast(IO[bytes], stream)
    if kind == "gzip":
        return cast(Source, gzip.GzipFile(fileobj=file))
    if kind == "bzip2":
        return cast(Source, bz2.BZ2File(file))
    if kind == "xz":
        return _Xz(stream)
    try:
        import zstandard
    except ImportError:
        raise MissingError(
            f"reading {stream.name}, which zstd packed, needs the package zstandard: "
            "pip install 'pagemig[traces]'"
        ) from None
    unpacker = zstandard.ZstdDecompressor(max_window_size=_MOST_MEMORY >> 1)
    return _Zstd(stream, unpacker, zstandard.ZstdError)


class _Zstd:
    """Decompresses zstd frames one after the other, in bounded memory.

    The package's own stream does not detect a truncated file. Here every input piece is so small
    that its output is bounded: four bytes are at most 128 KiB.
    """

    PIECE = 1 << 10

    def __init__(self, source: Source, unpacker: Any, error: type[Exception]) -> None:
        self._source, self._unpacker, self._error = source, unpacker, error
        self._frame: Any = None
        self._packed = b""
        self._held = b""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes; none only at the end."""
        while not self._held:
            self._packed = self._packed or self._source.read(1 << 16)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("it ends early")
                return b""
            self._held = self._unpack()
        piece, self._held = self._held[:size], self._held[size:]
        return piece

    def _unpack(self) -> bytes:
        self._frame = self._frame or self._unpacker.decompressobj()
        piece, self._packed = self._packed[: self.PIECE], self._packed[self.PIECE :]
        try:
            found = cast(bytes, self._frame.decompress(piece))
        except self._error as error:
            raise ValueError(str(error)) from None
        if self._frame.eof:
            self._packed = cast(bytes, self._frame.unused_data) + self._packed
            self._frame = None
        return found


def _at_once(name: str, flags: int) -> int:
    """Open a file, and a pipe before its other end is there: a read waits for that."""
    return os.open(name, flags | os.O_NONBLOCK)


@contextlib.contextmanager
def opened(source: str | os.PathLike[str] | Source, wait: Wait = patiently) -> Iterator[Stream]:
    """Open a file, ``-`` for standard input, or a file object; decompress it if needed.

    Parameters
    ----------
    source : path-like or binary file
        What to open.
    wait : callable, optional
        How to wait for bytes of a file.

    Yields
    ------
    Stream

    Raises
    ------
    OSError
        It cannot be opened.
    MissingError
        It is compressed by zstd and the package is not installed.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(source, str | os.PathLike):
            name = os.fspath(source)
            if name == "-":
                raw: Source = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
            else:
                raw = stack.enter_context(open(name, "rb", buffering=0, opener=_at_once))
                os.set_blocking(raw.fileno(), True)
            name = "standard input" if name == "-" else name
        else:
            raw, name = source, str(getattr(source, "name", "<stream>"))
        stream = raw if isinstance(raw, Stream) else Stream(raw, name, wait=wait)
        packings: list[str] = []
        while len(packings) < 3:
            head = stream.peek(8)
            kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
            if kind is None:
                break
            packings.append(kind)
            stream = Stream(_unpacked(stream, kind), stream.name, " of ".join(packings))
        yield stream
