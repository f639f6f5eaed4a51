"""Recording a real program: traces of the pages that it and the programs it starts access.

The program runs under valgrind's lackey tool, about a hundred times slower than alone. Each of its
processes writes its own log. The logs are read, and their disk space is freed, while the program
runs, so neither the text nor the trace is ever whole in memory or on disk. The trace keeps accesses
that reach the memory: by default they go through a cache first (`pagemig.trace.cache`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from . import parse
from .convert import Options, Recording, Report, Sink, Stop, beside, check
from .header import Header
from .readers import Accesses

__all__ = ["CACHE", "WAYS", "RecordError", "record"]

#: The default cache in front of the memory: a core's share of a last level.
CACHE = 1 << 20
WAYS = 16

_PIECE = 1 << 22
#: Seconds between two reads of the logs.
_REST = 0.02
#: Seconds that programs have to end after a signal.
_PATIENCE = 5.0

_COMMAND = re.compile(rb"^==\d+== Command: (.*)$", re.M)


class RecordError(RuntimeError):
    """A program could not be recorded; the message says why and what to do."""


def record(
    command: Sequence[str],
    path: str | os.PathLike[str],
    *,
    cache: int = CACHE,
    ways: int = WAYS,
    skip: int = 0,
    limit: int | None = None,
    children: bool = True,
    small: bool = False,
    report: Report | None = None,
) -> Recording:
    """Run a program under valgrind's lackey tool and write the trace of its data accesses.

    The program keeps its input and output. SIGINT and SIGTERM end the program, and the accesses
    recorded until then are kept. A process that the program starts has its own memory and gets its
    own trace beside the first (`pagemig.trace.convert.beside`). So does a program that a process
    executes (``exec``). Accesses of a child between its fork and its ``exec`` are left out. Lackey
    runs the threads of a process one at a time and does not tell them apart.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    path : path-like
        The trace to write.
    cache, ways, skip, limit, small
        See `pagemig.trace.convert.Options`.
    children : bool, default True
        Whether processes that the program starts are recorded, too.
    report : callable, optional
        Called repeatedly with the accesses read and the accesses kept so far.

    Returns
    -------
    Recording
        That of the program itself; ``others`` are those of its children.

    Raises
    ------
    RecordError
        Valgrind or the program is missing, or nothing could be recorded.
    ValueError, FileNotFoundError
        An invalid option, or a missing directory for the trace.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise RecordError(
            "recording needs valgrind, which was not found "
            "(Debian, Ubuntu: apt install valgrind; Fedora: dnf install valgrind)"
        )
    program = shutil.which(command[0])
    if program is None:
        raise RecordError(f"no program {command[0]!r} was found")
    options = Options(cache, ways, skip, limit, small)
    target = check(path)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pagemig-record-")))
        stop = stack.enter_context(Stop())
        tool = ["--tool=lackey", "--trace-mem=yes", f"--log-file={folder}/%p"]
        tool.append("--trace-children=yes" if children else "--child-silent-after-fork=yes")
        process = subprocess.Popen([valgrind, *tool, "--", program, *command[1:]])
        logs = _Logs(folder, target, options, stop)
        stack.callback(logs.abandon)
        try:
            _follow(process, logs, stop, limit, report)
        finally:
            logs.end()
            process.kill()  # its log may not have been found yet
            process.wait()
        return _recordings(logs, command, process.returncode, stop, limit)


def _follow(
    process: subprocess.Popen[bytes],
    logs: _Logs,
    stop: Stop,
    limit: int | None,
    report: Report | None,
) -> None:
    """Read the logs until every process has ended, a signal or the limit ends them."""
    deadline = None
    while True:
        ended = process.poll() is not None
        running = logs.read()
        if report is not None:
            report(logs.references, logs.kept)
        if (ended and not running) or (limit is not None and logs.references >= limit):
            return
        if stop.signal:
            if deadline is None:
                deadline = time.monotonic() + _PATIENCE
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            elif ended or time.monotonic() > deadline:
                return
        time.sleep(_REST)


def _recordings(
    logs: _Logs, command: Sequence[str], status: int, stop: Stop, limit: int | None
) -> Recording:
    """Write what was recorded, all traces or none."""
    signalled = stop.signal
    limited = limit is not None and logs.references >= limit
    cut = f"ended early by {signal.Signals(signalled).name}" if signalled else ""
    found: list[tuple[_Log, Recording]] = []
    for log in logs.all:
        if logs.left_by_exec(log):
            continue
        name = shlex.join(command) if log is logs.all[0] else log.command
        recording = log.sink.finish(Header(program=name, source="valgrind lackey", note=cut))
        if recording is not None:
            found.append((log, recording))
    if not found:
        beyond = f" beyond the first {logs.skip:,}" if logs.skip else ""
        raise RecordError(f"no access was seen{beyond}: did valgrind run the program?")
    done: list[Recording] = []
    with stop.committing():
        for log, recording in found:
            log.sink.publish()
            path = recording.path.replace(beside(logs.target, len(done)))
            done.append(replace(recording, path=path, malformed=log.parser.malformed))
    status = 128 + signalled if signalled else 128 - status if status < 0 else status
    return replace(done[0], status=0 if limited else status, others=tuple(done[1:]))


class _Log:
    """The log of one process."""

    def __init__(self, pid: int, fd: int, sink: Sink, stop: Stop) -> None:
        self.pid, self.fd, self.sink = pid, fd, sink
        self._stop = stop
        self.parser = parse.Lackey(skip=True)
        self.command = ""
        self.open = True
        self._at = 0
        self._rest = b""

    def read(self, most: int | None) -> None:
        """Read what has been written, at most ``most`` accesses."""
        while self.open and (piece := os.pread(self.fd, _PIECE, self._at)):
            _give_back(self.fd, self._at, len(piece))
            self._at += len(piece)
            text, newline, tail = piece.rpartition(b"\n")
            if not newline:
                self._rest += piece
                continue
            whole, self._rest = self._rest + text + newline, tail
            if not self.command and (found := _COMMAND.search(whole)):
                self.command = found[1].decode("utf-8", "replace")
            accesses = Accesses(*self.parser.feed(whole))
            before = self.sink.references
            self.sink.add(accesses, most)
            if self._stop.signal:  # a program that still runs may write as fast as this reads
                return
            if most is not None:
                most -= self.sink.references - before
                if most <= 0:
                    return

    def close(self) -> None:
        """Read no more."""
        if self.open:
            self.open = False
            os.close(self.fd)


class _Logs:
    """The logs of all processes, in a folder that valgrind writes them to by process number.

    A log is removed from the folder as soon as it is found, so that a program that a process
    executes begins another one.
    """

    def __init__(self, folder: Path, target: Path, options: Options, stop: Stop) -> None:
        self.all: list[_Log] = []
        self.target = target
        self._folder, self._options, self._stop = folder, options, stop

    @property
    def references(self) -> int:
        """Accesses so far, before the cache."""
        return sum(log.sink.references for log in self.all)

    @property
    def skip(self) -> int:
        """Accesses of each process that are left out."""
        return self._options.skip

    @property
    def kept(self) -> int:
        """Accesses so far, behind the cache."""
        return sum(log.sink.writer.accesses for log in self.all)

    def _running(self) -> Iterator[_Log]:
        return (log for log in self.all if log.open)

    def left_by_exec(self, log: _Log) -> bool:
        """Tell whether a log is of a child from its fork until it executed another program."""
        mine = [other for other in self.all if other.pid == log.pid]
        return log is mine[0] and len(mine) > 1 and log is not self.all[0]

    def read(self) -> bool:
        """Read what has been written; return whether any process still runs."""
        alive = {log: _alive(log.pid) for log in self._running()}
        self._find()
        limit = self._options.limit
        for log in list(self._running()):
            log.read(None if limit is None else max(limit - self.references, 0))
            replaced = any(other.pid == log.pid for other in self.all[self.all.index(log) + 1 :])
            if not alive.get(log, True) or replaced:
                log.close()
        return any(True for _ in self._running())

    def _find(self) -> None:
        """Remove new logs from the folder; the first is the program's own."""
        found = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_ctime_ns)
        for path in found:
            if not path.name.isdigit():
                continue
            fd = os.open(path, os.O_RDWR)
            path.unlink()
            target = beside(self.target, len(self.all))
            sink = Sink(target, self._options, "instructions", self._stop)
            self.all.append(_Log(int(path.name), fd, sink, self._stop))

    def end(self) -> None:
        """End every process that still runs."""
        for log in self._running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(log.pid, signal.SIGKILL)
            log.close()

    def abandon(self) -> None:
        """Leave no partial files behind."""
        for log in self.all:
            log.sink.writer.abandon()


def _alive(pid: int) -> bool:
    """Tell whether a process runs, and is not only waiting to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")


def _give_back(fd: int, at: int, length: int) -> None:
    """Free the disk space of a piece of a file; if that is impossible, the file grows."""
    keep_size, punch_hole = 1, 2
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate(fd, keep_size | punch_hole, ctypes.c_int64(at), ctypes.c_int64(length))
