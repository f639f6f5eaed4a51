"""What every reader and writer of files shares.

A file is written whole or not at all (`replaced`). Sizes are checked before memory is allocated
(`room`), and text from a file is shown without control characters (`printable`), so that no file
can control the terminal it is printed on.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import resource
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["available", "is_printable", "printable", "quoted", "replaced", "room", "sync"]

#: Characters that a terminal obeys instead of showing: C0 and C1 control characters, DEL, the two
#: Unicode line separators, and overrides of the text direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def is_printable(text: str) -> bool:
    """Tell whether a terminal prints the text and obeys none of it."""
    return _CONTROL.search(text) is None and not any("\ud800" <= c <= "\udfff" for c in text)


def printable(text: str) -> str:
    r"""Write control characters of a text as escapes.

    Examples
    --------
    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    shown = _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
    return shown.encode("utf-8", "backslashreplace").decode()


def quoted(text: str | bytes, most: int = 80) -> str:
    """Quote a piece of a file for a message: printable, at most ``most`` characters of it."""
    known = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    cut = known if len(known) <= most else known[:most] + "..."
    return repr(printable(cut)) if is_printable(cut) else f"'{printable(cut)}'"


def available() -> int:
    """Return the bytes of memory a process can still take, by the machine and its own limit."""
    free = 1 << 62
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) << 10
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError, IndexError):
            taken = int(Path("/proc/self/statm").read_text().split()[0])
            free = min(free, limit - taken * resource.getpagesize())
    return max(free, 0)


def room(needed: int, what: str, advice: str = "") -> None:
    """Refuse to allocate more memory than is available.

    Parameters
    ----------
    needed : int
        Bytes that will be allocated at once.
    what : str
        What needs them, for the message.
    advice : str
        What to do instead.

    Raises
    ------
    MemoryError
        The machine, or the limit of the process, has less.
    """
    free = available()
    if needed > free:
        raise MemoryError(
            f"{what} takes {needed / 2**30:,.2f} GiB and {free / 2**30:,.2f} GiB are available"
            + (f"; {advice}" if advice else "")
        )


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces ``path`` when the block ends without an error.

    After a crash, a power cut or ``kill -9``, ``path`` is either unchanged or the whole new file:
    the bytes go to a file beside it, which is synced to disk and renamed. If that was left behind
    by a writer that is gone (``.NAME.*.part``), the next writer of ``path`` removes it. Devices
    and pipes are written directly.

    Parameters
    ----------
    path : path-like
        The file.

    Yields
    ------
    binary file
        Readable and writable, can seek unless ``path`` is a pipe or a device.

    Raises
    ------
    OSError
        A file cannot be made there.
    """
    target = Path(os.path.realpath(path))
    mode = _mode(target)
    if mode is not None and not stat.S_ISREG(mode):
        with target.open("wb") as file:  # a directory raises here
            yield file
        return
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        _remove_left(left)
    part = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_native_id()}.part")
    try:
        with part.open("w+b") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            yield file
            sync(file)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError:
        pass  # some file systems cannot; the file itself is safe
    finally:
        os.close(folder)


def sync(file: BinaryIO) -> None:
    """Write what was written to a file to the disk; a device or a pipe gets it only."""
    file.flush()
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        os.fsync(file.fileno())


def _remove_left(part: Path) -> None:
    """Remove a file beside another unless its writer is at work, which holds its lock."""
    with contextlib.suppress(OSError), part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        pid = part.name.split(".")[-3]
        if not (pid.isdigit() and Path(f"/proc/{pid}").exists()):  # it may be about to lock it
            part.unlink()


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
