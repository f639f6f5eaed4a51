"""Every reader of files against damaged ones: it gives accesses that can be, or says what is wrong.

Starts from a corpus, one sample a format (`support.samples`) and a few scenarios, and damages them as
hypothesis draws it; what it finds it shrinks. A target runs for ``FUZZ_SECONDS`` (5), each batch of
examples with a seed of its own from ``FUZZ_SEED`` on; ``make fuzz-files SECONDS=600`` runs longer.

A file is refused with `TraceError` (a `ValueError` for scenarios), or `MemoryError` where the machine
has no room, with a message that a terminal shows and does not obey. Nothing else may come out: no other
error, no access beyond the address space, no more than two gigabytes of memory, and no hang.
"""

import contextlib
import gzip
import io
import json
import os
import resource
import signal
import struct
import time
import unicodedata
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pagemig.scenario.files import entries
from pagemig.scenario.language import _check_results, validate
from pagemig.trace import FORMATS, TraceError, load, reader
from pagemig.trace.convert import convert
from pagemig.trace.parse import LARGEST
from support.samples import PACKINGS, SAMPLES

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 5)
SEED = int(os.environ.get("FUZZ_SEED") or 0)
#: Examples a batch: a second or so of them.
BATCH = 300
#: Seconds after which an example hangs.
LONGEST = 20

SCENARIO = {
    "id": "x-1",
    "files": [{"kind": "tmpfs", "pages": 4, "fill": 3}],
    "ops": [
        {"op": "mmap", "p": 0, "at": 0, "n": 4, "kind": "anon"},
        {"op": "touch", "p": 0, "at": 0, "n": 4, "write": True, "tok": 1},
        {"op": "move_pages", "p": 0, "pid": "self", "pages": [0, {"range": [1, 3]}], "nodes": 1},
        {"op": "fwrite", "p": 0, "file": 0, "off": 0, "n": 1, "tok": 9},
    ],
    "results": [{"rc": 0, "state": {"0": {"vmas": [{"at": 0, "n": 4}]}}}],
}
TEXT = json.dumps(SCENARIO).encode()

#: What damage puts in: what numbers, texts and lengths of a format may be taken for.
PIECES = [
    b"", b"\0", b"\n", b"\r\n", b" ", b",", b":", b"-1", b"0x", b"1e999", b"NaN", b"null", b"[]", b"{}",
    b"99999999999999999999", b"18446744073709551615", b"9223372036854775808", b"4294967296", b"\xff" * 8,
    b"\xff\xff\xff\x7f", b"\x80", b"\x1b[2J", b"\\u001b[2J", b"\\ud800", b"I ", b" L ", b"S", b"[" * 50,
    b"address=0x", b"nr_regions=1 ", struct.pack("<Q", 1 << 60), struct.pack("<I", 1 << 31),
]  # fmt: skip


@st.composite
def damaged(draw, whole):
    """A file with pieces of it changed, left out, doubled, swapped or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        end = min(at + draw(st.integers(0, 12)), len(data))
        match draw(st.sampled_from(["flip", "put", "drop", "double", "any", "cut", "move"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "put":
                data[at:end] = draw(st.sampled_from(PIECES))
            case "drop":
                del data[at:end]
            case "double":
                data[at:at] = data[at:end] * draw(st.integers(1, 40))
            case "any":
                data[at:end] = draw(st.binary(max_size=16))
            case "cut":
                del data[at:]
            case "move":
                to = draw(st.integers(0, len(data)))
                data[at:end] = data[to : to + 8]
    return bytes(data)


TAIL = struct.Struct("<QI8s")


@st.composite
def sealed(draw):
    """A trace with damage below checksums that are right: what an attacker writes."""
    whole = SAMPLES["pmt"]
    size, _, _ = TAIL.unpack(whole[-TAIL.size :])
    begin = len(whole) - TAIL.size - size
    facts = json.loads(whole[begin : begin + size])
    body = draw(damaged(whole[8:begin])) if draw(st.booleans()) else whole[8:begin]
    numbers = st.one_of(
        st.integers(-2, 300), st.sampled_from([2**31, 2**32, 2**62, 2**64, 1.5, "x"])
    )
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(facts)))
        if isinstance(facts[name], list) and facts[name]:
            row = facts[name][0] if isinstance(facts[name][0], list) else facts[name]
            row[draw(st.integers(0, len(row) - 1))] = draw(numbers)
        else:
            facts[name] = draw(numbers)
    with contextlib.suppress(TypeError, ValueError, IndexError, struct.error):
        row, at = facts["blocks"][0], 0
        stored = row[5] + row[7] + row[9]
        row[10] = zlib.crc32(body[:stored])
        for part in ("pages", "ticks"):
            at, end = stored, stored + facts[part][2]
            facts[part][3] = zlib.crc32(body[at:end])
            stored = end
    text = json.dumps(facts).encode()
    if draw(st.integers(0, 9)) == 0:
        text = draw(damaged(text))
    return b"PMTRACE2" + body + text + TAIL.pack(len(text), zlib.crc32(text), b"PMTRACE2")


@contextlib.contextmanager
def in_time():
    """End an example that hangs."""

    def late(*_):
        raise AssertionError(f"no answer within {LONGEST} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def sound(error):
    """A refusal is one line that a terminal shows."""
    kinds = {unicodedata.category(letter) for letter in str(error)}
    assert str(error) and not kinds & {"Cc", "Cs"}, repr(str(error))


def read(data, format=None, skip=False):
    """Read a file as its reader does; accesses must be ones that can be."""
    try:
        with in_time(), reader(io.BytesIO(data), format, skip=skip) as found:
            for part in found:
                sizes = {len(column) for column in part if column is not None}
                assert sizes == {part.address.size}
                size = part.size.astype(np.uint64)
                assert ((size > 0) & (size <= LARGEST)).all()
                assert (part.address <= part.address + (size - np.uint64(1))).all()
                assert part.weight is None or (part.weight > 0).all()
    except (TraceError, MemoryError) as error:
        sound(error)


def whole_trace(data):
    """Load a trace; it must hold together."""
    try:
        with in_time():
            trace = load(io.BytesIO(data))
    except (TraceError, MemoryError) as error:
        sound(error)
        return
    assert (trace.table[1:] > trace.table[:-1]).all()
    assert (trace.count > 0).all() and trace.accesses == trace.header.accesses
    assert trace.index.size == trace.write.size == trace.count.size
    assert not trace.index.size or 0 <= trace.index.min() <= trace.index.max() < trace.footprint
    assert trace.header.program.isprintable()
    if trace.runs:
        assert list(trace.epochs(3))[-1][1] == trace.runs


def scenario(data, path):
    """Read a file of scenarios and look at what it holds."""
    path.write_bytes(data)
    try:
        with in_time():
            for entry in entries(path):
                validate(entry.scenario)
                if "results" in entry.scenario:
                    _check_results(entry.scenario)
                assert entry.place.replace("\n", "").replace("\t", "").isprintable()
    except (ValueError, MemoryError) as error:
        assert "\x1b" not in str(error)


def fuzz(strategy, run):
    """Run batches of examples until the time is over."""
    deadline, batch = time.monotonic() + SECONDS, SEED
    while time.monotonic() < deadline:

        @seed(batch)
        @settings(
            max_examples=BATCH,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def examples(data):
            if time.monotonic() < deadline:
                run(data)

        try:
            examples()
        except BaseException as error:
            error.add_note(f"FUZZ_SEED={batch} shows it again")
            raise
        batch += 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < PEAK + (2 << 20)  # KiB


PEAK = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_file_of_a_format(format):
    flags = st.tuples(damaged(SAMPLES[format]), st.booleans())
    fuzz(flags, lambda drawn: read(drawn[0], format, skip=drawn[1]))


def test_a_damaged_file_of_any_format():
    some = st.sampled_from(sorted(SAMPLES)).flatmap(lambda format: damaged(SAMPLES[format]))
    fuzz(some, read)


def test_a_damaged_packed_file():
    some = st.tuples(st.sampled_from(sorted(PACKINGS)), st.sampled_from(sorted(SAMPLES))).flatmap(
        lambda drawn: damaged(PACKINGS[drawn[0]](SAMPLES[drawn[1]]))
    )
    fuzz(some, read)


def test_a_trace_with_damage_below_its_checksums():
    fuzz(sealed(), whole_trace)


def test_a_damaged_file_that_is_converted(tmp_path):
    def run(data):
        out = tmp_path / "x.pmt"
        out.unlink(missing_ok=True)
        try:
            with in_time():
                done = convert(io.BytesIO(data), out, cache=4096, ways=4, lenient=True)
        except (TraceError, MemoryError) as error:
            sound(error)
        except ValueError as error:
            assert "a cache takes single accesses" in str(error)
        else:
            for recording in (done, *done.others):
                assert load(recording.path).accesses == recording.header.accesses
                recording.path.unlink()
        assert list(tmp_path.iterdir()) == []

    small = sorted(set(SAMPLES) - {"u64"})
    fuzz(st.sampled_from(small).flatmap(lambda format: damaged(SAMPLES[format])), run)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_damaged_file_of_scenarios(pack, tmp_path):
    fuzz(damaged(pack(TEXT + b"\n" + TEXT)), lambda data: scenario(data, tmp_path / "x.jsonl"))
