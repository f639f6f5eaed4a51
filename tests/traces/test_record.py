"""Recording real programs; what the command says when it cannot."""

import fcntl
import gzip
import io
import lzma
import os
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time

import pytest

import pagemig.trace.record as trace_record
from pagemig.commands.main import main
from pagemig.commands.record import size
from pagemig.trace import load
from pagemig.trace.convert import Sink, Stop, convert
from pagemig.trace.record import RecordError, record
from support.samples import SAMPLES


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_record_converts_a_text(tmp_path, pack, capsys):
    (tmp_path / "in").write_bytes(pack(SAMPLES["lackey"] + b"what is this\n"))
    out = tmp_path / "out.pmt"
    arguments = ["record", "--cache", "0", "--lackey", str(tmp_path / "in"), "-o"]
    assert main([*arguments, str(out)]) == 0
    err = capsys.readouterr().err
    assert "6 accesses of 5" in err  # one straddles
    assert "1 malformed lines, the first: " in err and "line 11: 'what is this'" in err
    trace = load(out)
    assert trace.table[trace.expand()[0]].tolist() == [
        0x1FFF000,
        0x4222,
        0x421E,
        0x4222,
        0x4223,
        0x7FFFFFFFFF,
    ]
    assert (trace.header.unit, trace.header.duration) == ("instructions", 1)


def test_record_of_nothing_says_so(tmp_path, capsys):
    (tmp_path / "in").write_bytes(b"==1== hello\n")
    assert main(["record", "--lackey", str(tmp_path / "in"), "-o", str(tmp_path / "x.pmt")]) == 2
    assert "no access was seen (read as lackey)" in capsys.readouterr().err
    assert not (tmp_path / "x.pmt").exists()


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_record_of_a_damaged_file_says_so_in_one_line(tmp_path, pack, capsys):
    text = tmp_path / "in"
    text.write_bytes(pack(SAMPLES["lackey"] * 50)[:-9])
    assert main(["record", "--lackey", str(text), "-o", str(tmp_path / "out.pmt")]) == 2
    err = capsys.readouterr().err
    assert f"{text}: its " in err and "is damaged" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.pmt").exists()


@pytest.mark.parametrize(
    ("path", "options", "why"),
    [
        ("nosuch/x.pmt", {}, r"no directory '.*nosuch'"),
        ("", {}, r"is a directory"),
        ("x.pmt", {"limit": 0}, r"limit .* not 0"),
        ("x.pmt", {"limit": -1}, r"limit .* not -1"),
        ("x.pmt", {"skip": -1}, r"skip .* not -1"),
        ("x.pmt", {"cache": 77}, r"cache size 77"),
        ("x.pmt", {"cache": 4096, "ways": 3}, r"cache size 4096 .* 3 ways"),
    ],
)
@pytest.mark.parametrize("by", [convert, record])
def test_record_refuses_before_anything_is_read(tmp_path, by, path, options, why, monkeypatch):
    monkeypatch.setattr(trace_record.shutil, "which", lambda name: name)
    monkeypatch.setattr(trace_record.subprocess, "Popen", lambda *_, **__: 1 / 0)
    source = ["true"] if by is record else "/dev/null"
    with pytest.raises((OSError, ValueError), match=why):
        by(source, tmp_path / path, **options)


def test_record_without_valgrind_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trace_record.shutil, "which", lambda _: None)
    assert main(["record", "-o", str(tmp_path / "x.pmt"), "--", "true"]) == 2
    assert "apt install valgrind" in capsys.readouterr().err


def test_record_needs_one_of_two_things(capsys):
    assert main(["record"]) == 2
    assert "PROGRAM" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("64", 64), ("64KiB", 65536), ("1M", 1 << 20), ("2mib", 2 << 20)]
)
def test_sizes(text, value):
    assert size(text) == value


# ---- real programs ----------------------------------------------------------------------------

needs_valgrind = pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")


@needs_valgrind
def test_leaving_out_everything_says_so(tmp_path):
    with pytest.raises(RecordError, match="no access was seen beyond the first 1,000,000,000"):
        record(["true"], tmp_path / "x.pmt", skip=1_000_000_000)
    assert list(tmp_path.iterdir()) == []


@needs_valgrind
def test_record_a_program(tmp_path):
    out = tmp_path / "true.pmt"
    done = record(["true"], out)
    assert (done.status, done.malformed, done.others) == (0, 0, ())
    trace = load(out)
    assert trace.header.program == "true"
    assert trace.accesses == done.header.accesses < done.header.references
    # A stack at least, and what the loader relocates.
    assert 10 < trace.footprint < 10_000
    assert trace.header.unit == "instructions"
    assert trace.header.duration > done.header.references / 2
    assert [path.name for path in tmp_path.iterdir()] == ["true.pmt"]


@needs_valgrind
def test_record_keeps_the_program_s_output_and_status(tmp_path, capfd):
    done = record(["sh", "-c", "echo hello; exit 3"], tmp_path / "x.pmt")
    assert done.status == 3
    assert capfd.readouterr().out == "hello\n"


@needs_valgrind
def test_a_program_ended_by_a_signal_has_the_status_of_a_shell(tmp_path):
    assert record(["sh", "-c", "kill -9 $$"], tmp_path / "x.pmt").status == 128 + 9


@needs_valgrind
def test_record_ends_a_program_at_the_limit(tmp_path):
    forever = ["sh", "-c", "while :; do :; done"]
    done = record(forever, tmp_path / "x.pmt", limit=200_000)
    assert done.status == 0
    assert done.header.references == 200_000


@needs_valgrind
def test_record_skips_the_beginning(tmp_path):
    whole = record(["true"], tmp_path / "x.pmt", cache=0)
    rest = record(["true"], tmp_path / "y.pmt", cache=0, skip=1000)
    # Two runs of a program differ by what the kernel tells it, a few accesses.
    assert abs(whole.header.references - rest.header.references - 1000) < 500


@needs_valgrind
def test_record_follows_children(tmp_path):
    # A fork without exec, a fork with exec, and an exec in place.
    script = "(:); ls / >/dev/null; exec true"
    done = record(["sh", "-c", script], tmp_path / "x.pmt")
    assert done.status == 0
    names = [done.header.program, *(other.header.program for other in done.others)]
    assert names[0] == "sh -c '(:); ls / >/dev/null; exec true'"
    programs = sorted(name.split()[0].rpartition("/")[2] for name in names)
    assert programs == ["ls", "sh", "sh", "true"]
    assert all(load(part.path).accesses > 0 for part in (done, *done.others))


@needs_valgrind
def test_record_without_children(tmp_path):
    done = record(["sh", "-c", "(:); ls / >/dev/null"], tmp_path / "x.pmt", children=False)
    assert (done.status, done.others) == (0, ())
    assert [path.name for path in tmp_path.iterdir()] == ["x.pmt"]


@needs_valgrind
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_program_and_keeps_what_was_recorded(tmp_path, number, monkeypatch):
    out = tmp_path / "x.pmt"
    read = trace_record._Logs.read

    def read_and_ask(logs):
        running = read(logs)
        if logs.kept > 100 and not asked:
            asked.append(number)
            os.kill(os.getpid(), number)
        return running

    asked = []
    monkeypatch.setattr(trace_record._Logs, "read", read_and_ask)
    command = ["record", "-o", str(out), "--", "sh", "-c", "while :; do :; done"]
    assert main(command) == 128 + number
    trace = load(out)
    assert trace.accesses > 100
    assert trace.header.note == f"ended early by {number.name}"
    assert [path.name for path in tmp_path.iterdir()] == ["x.pmt"]


def test_a_signal_during_a_conversion_keeps_what_was_read(tmp_path):
    fifo, out = tmp_path / "in", tmp_path / "x.pmt"
    os.mkfifo(fifo)
    command = ["record", "--cache", "0", "--lackey", str(fifo), "-o", str(out)]
    recorder = subprocess.Popen([sys.executable, "-m", "pagemig", *command])
    with fifo.open("wb", buffering=0) as pipe:
        pipe.write(b" L 1000,8\n" * 100_000)
        while unread(pipe) and recorder.poll() is None:
            time.sleep(0.02)
        recorder.send_signal(signal.SIGTERM)  # it waits for more, which does not come
        assert recorder.wait(300) == 128 + signal.SIGTERM
    assert load(out).accesses == 100_000


@pytest.mark.parametrize("begun", [False, True])
def test_a_conversion_that_has_read_nothing_is_interrupted(tmp_path, begun, monkeypatch):
    """Whether the other end of a pipe is not there yet, or says nothing."""
    fifo, out = tmp_path / "in", tmp_path / "x.pmt"
    os.mkfifo(fifo)
    out.write_bytes(b"old")
    main = threading.main_thread().ident
    other = threading.Thread(target=lambda: signal.pthread_kill(main, signal.SIGINT))
    wait = Stop.wait

    def wait_and_ask(stop, fd):
        ends = [os.open(fifo, os.O_WRONLY)] if begun else []
        if other.ident is None:
            other.start()
        try:
            return wait(stop, fd)
        finally:
            for end in ends:
                os.close(end)

    monkeypatch.setattr(Stop, "wait", wait_and_ask)
    with pytest.raises(KeyboardInterrupt):
        convert(fifo, out)
    other.join()
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "x.pmt"]


OLD = dict.fromkeys(("x.pmt", "x-2.pmt", "x-3.pmt"), b"old")


def three_processes(tmp_path):
    """A text of three processes, and where its traces go."""
    for name, data in OLD.items():
        (tmp_path / name).write_bytes(data)
    return io.BytesIO(SAMPLES["perf"]), tmp_path / "x.pmt"


def test_a_second_signal_leaves_all_old_traces(tmp_path, monkeypatch):
    finish = Sink.finish

    def finish_and_ask(sink, header):
        signal.raise_signal(signal.SIGINT)
        return finish(sink, header)

    source, out = three_processes(tmp_path)
    monkeypatch.setattr(Sink, "finish", finish_and_ask)
    with pytest.raises(KeyboardInterrupt):
        convert(source, out)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == OLD


def test_signals_between_two_traces_wait_until_all_are_there(tmp_path, monkeypatch):
    publish = Sink.publish

    def publish_and_ask(sink):
        publish(sink)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    source, out = three_processes(tmp_path)
    monkeypatch.setattr(Sink, "publish", publish_and_ask)
    done = convert(source, out)
    assert (done.status, len(done.others)) == (0, 2)
    assert [load(one.path).accesses for one in (done, *done.others)] == [2, 2, 2]


def unread(pipe):
    """Bytes in a pipe that nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@needs_valgrind
def test_record_refuses_before_it_starts(tmp_path):
    with pytest.raises(RecordError, match="nosuchprogram"):
        record(["nosuchprogram"], tmp_path / "x.pmt")
    with pytest.raises(ValueError, match="cache size 77"):
        record(["true"], tmp_path / "x.pmt", cache=77)
