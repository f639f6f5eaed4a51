"""Traces: the cache and the file, each against a naive twin."""

import io
import json
import lzma
import os
import random
import re
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pagemig import files
from pagemig.trace import (
    Header,
    LineCache,
    Trace,
    TraceError,
    TraceFile,
    Writer,
    convert,
    find,
    load,
    shipped,
)
from pagemig.trace import clock as trace_clock
from pagemig.trace import format as trace_format

# ---- naive twins ------------------------------------------------------------------------------


def naive_cache(size, ways, lines, writes):
    """One line after the other what `LineCache` does by arrays."""
    sets = [[] for _ in range(size // 64 // ways)]  # of [line, dirty], the latest used first
    reached = []
    for line, write in zip(lines, writes, strict=True):
        held = sets[line % len(sets)]
        entry = next((entry for entry in held if entry[0] == line), None)
        if entry is None:
            reached.append(True)
            entry = [line, write]
            del held[ways - 1 :]
        else:
            reached.append(write and not entry[1])
            held.remove(entry)
            entry[1] = entry[1] or write
        held.insert(0, entry)
    return reached


def naive_runs(pages, writes):
    runs = []
    for page, write in zip(pages, writes, strict=True):
        if runs and runs[-1][:2] == (page, write):
            runs[-1] = (page, write, runs[-1][2] + 1)
        else:
            runs.append((page, write, 1))
    return runs


# ---- the cache --------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=200),
    st.sampled_from([(64, 1), (128, 2), (192, 1), (1024, 16), (1024, 4), (768, 4)]),
    st.lists(st.integers(0, 200), max_size=3),
)
def test_cache_agrees_with_one_line_after_the_other(accesses, shape, cuts):
    lines = np.array([line for line, _ in accesses], np.uint64)
    writes = np.array([write for _, write in accesses], bool)
    cache = LineCache(*shape)
    borders = [0, *sorted(min(cut, lines.size) for cut in cuts), lines.size]
    reached = [
        reach
        for start, end in pairwise(borders)
        for reach in cache.filter(lines[start:end], writes[start:end]).tolist()
    ]
    assert reached == naive_cache(*shape, lines.tolist(), writes.tolist())


@pytest.mark.parametrize("size", [0, 32, 63, 65, 96, 1 << 40, -64, -1024])
def test_cache_sizes_that_mean_nothing(size):
    with pytest.raises(ValueError, match=rf"cache size .*{size}\b"):
        LineCache(size, 1)


@pytest.mark.parametrize(
    ("size", "ways"), [(36 << 20, 12), (33 << 20, 11), (48 << 10, 12), (64, 1)]
)
def test_cache_sizes_of_real_processors(size, ways):
    cache = LineCache(size, ways)
    lines = np.arange(size // 64, dtype=np.uint64)
    assert cache.filter(lines, np.zeros(lines.size, bool)).all()
    assert not cache.filter(lines, np.zeros(lines.size, bool)).any()  # it holds just so many


@pytest.mark.parametrize("ways", [0, -1, 5000])
def test_ways_that_mean_nothing(ways):
    with pytest.raises(ValueError, match=f"ways must be from 1 to 1024, not {ways}"):
        LineCache(4096, ways)


def test_a_page_written_by_the_program_is_written_in_the_trace(tmp_path):
    text = " L 5000,8\n L 5000,8\n S 5000,8\n S 5008,8\n L 9000,8\n"
    convert(io.BytesIO(text.encode()), tmp_path / "t.pmt", cache=4096, ways=1)
    trace = load(tmp_path / "t.pmt")
    assert trace.pages.tolist() == [5, 5, 9]  # fill; the write-back of the first store; fill
    assert trace.write.tolist() == [False, True, False]
    assert (trace.header.references, trace.header.cache, trace.header.ways) == (5, 4096, 1)


# ---- the file ---------------------------------------------------------------------------------

accesses_of = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, 70, 2**20, 2**36 - 1, 2**52 - 1]), st.booleans()),
    max_size=120,
)


@given(accesses_of)
def test_round_trip(tmp_path_factory, accesses):
    pages = [page for page, _ in accesses]
    writes = [write for _, write in accesses]
    trace = Trace.from_accesses(pages, np.array(writes, bool), Header(program="p", note="n"))
    path = tmp_path_factory.mktemp("trace") / "t.pmt"
    trace.save(path)
    back = load(path)
    assert back.header == trace.header
    assert back.table.tolist() == sorted(set(pages))
    runs = zip(back.pages.tolist(), back.write.tolist(), back.count.tolist(), strict=True)
    assert list(runs) == naive_runs(pages, writes)
    index, write = back.expand()
    assert back.table[index].tolist() == pages
    assert write.tolist() == writes
    assert (back.accesses, back.footprint) == (len(pages), len(set(pages)))


@given(accesses_of, st.integers(1, 9), st.integers(1, 20))
def test_writing_in_pieces_changes_nothing(tmp_path_factory, accesses, block, piece):
    pages = np.array([page for page, _ in accesses], np.uint64)
    writes = np.array([write for _, write in accesses], bool)
    path = tmp_path_factory.mktemp("trace") / "t.pmt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_format, "BLOCK", block)
        writer = Writer(path, Header(program="p"))
        for start in range(0, pages.size, piece):
            writer.add(pages[start : start + piece], writes[start : start + piece])
        header = writer.close()
    assert header.accesses == pages.size
    back = load(path)
    whole = Trace.from_accesses(pages, writes, Header(program="p"))
    for column in ("table", "index", "write", "count"):
        assert getattr(back, column).tolist() == getattr(whole, column).tolist()


def test_counts_beyond_32_bits_become_several_runs(tmp_path):
    with Writer(tmp_path / "t.pmt") as writer:
        writer.add([7, 9], [True, False], [2**33 + 5, 3])
    trace = load(tmp_path / "t.pmt")
    assert trace.accesses == 2**33 + 8
    assert trace.pages.tolist() == [7, 7, 7, 9]
    assert trace.count.tolist() == [2**32 - 1, 2**32 - 1, 7, 3]


@given(hnp.arrays(np.uint32, st.integers(1, 60), elements=st.integers(1, 50)), st.integers(1, 80))
def test_epochs_cover_the_trace_in_order_and_evenly(count, number):
    pages = np.arange(count.size, dtype=np.uint64)
    trace = Trace(pages, pages.astype(np.int32), np.zeros(count.size, bool), count)
    parts = list(trace.epochs(number))
    assert len(parts) <= number
    assert [0, *(end for _, end in parts)] == [*(start for start, _ in parts), count.size]
    assert all(start < end for start, end in parts)
    share = trace.accesses / number  # no part is off by more than the run it ends in
    assert all(count[start:end].sum() < share + count.max() for start, end in parts)


def test_epochs_refuses_none():
    trace = Trace.from_accesses([1])
    with pytest.raises(ValueError, match=r"number must be from 1 .*, not 0"):
        list(trace.epochs(0))


def test_repr_says_what_it_is():
    assert repr(Trace.from_accesses([4, 4, 5], header=Header(program="ls /"))) == (
        "<Trace of 'ls /': 3 accesses in 2 runs to 2 pages>"
    )


def test_pages_of_two_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"pages must be of shape \(any\), not \(1, 2\)"):
        Trace.from_accesses([[1, 2]])


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.pmt"
    Trace.from_accesses(np.arange(300) % 37, header=Header(program="p")).save(path)
    return path


def test_every_shortened_file_is_refused(small):
    data = small.read_bytes()
    for length in [*range(0, len(data), 7), len(data) - 1]:
        small.write_bytes(data[:length])
        with pytest.raises(TraceError, match=re.escape(str(small))):
            load(small)


def test_every_damaged_byte_is_found(small):
    data = bytearray(small.read_bytes())
    for place in range(len(data)):
        for flip in (0x01, 0x10, 0x80):
            damaged = data.copy()
            damaged[place] ^= flip
            small.write_bytes(damaged)
            with pytest.raises(TraceError, match=re.escape(str(small))):
                load(small)


def test_bytes_beyond_the_end_or_the_beginning_are_found(small):
    data = small.read_bytes()
    for wrong in (data + b"x", b"x" + data, data + data):
        small.write_bytes(wrong)
        with pytest.raises(TraceError, match=re.escape(str(small))):
            load(small)


TAIL = struct.Struct("<QI8s")


def facts_of(path):
    """Where the directory begins, and what it says."""
    data = path.read_bytes()
    size, _, _ = TAIL.unpack(data[-TAIL.size :])
    begin = len(data) - TAIL.size - size
    return begin, json.loads(data[begin : begin + size])


def with_facts(path, change):
    """The same file with another directory, whose checksum is right: what an attacker writes."""
    begin, facts = facts_of(path)
    text = change(facts)
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    tail = TAIL.pack(len(text), zlib.crc32(text), b"PMTRACE2")
    path.write_bytes(path.read_bytes()[:begin] + text + tail)


ROW = [300, 300, 1, 1, 0, 300, 1, 21, 1, 14, 0]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cache": ["x"]}, "cache"),
        ({"accesses": -1}, "accesses="),
        ({"accesses": True}, "accesses="),
        ({"accesses": 10**9}, "300 accesses, not the 1000000000"),
        ({"program": 3}, "program="),
        ({"program": "\x1b[2J\x1b]0;pwn\x07"}, r"\x1b[2J"),
        ({"note": "a\nb"}, "note="),
        ({"page_size": 0}, "page_size="),
        ({"page_size": 2**60}, "page_size="),
        ({"runs": 299}, "300 runs, not the 299"),
        ({"pages": [10**15, 1, 60, 0]}, "pages"),
        ({"pages": [37, 1, 60]}, "pages"),
        ({"pages": 3}, "pages"),
        ({"ticks": [5000, 1, 60, 0]}, "ticks"),
        ({"blocks": {}}, "blocks"),
        ({"blocks": [3]}, "block 0"),
        ({"blocks": [[300.0, *ROW[1:]]]}, "block 0"),
        ({"blocks": [[1 << 40, *ROW[1:]]]}, "block 0"),
        ({"blocks": [[0, *ROW[1:]]]}, "block 0"),
        ({"blocks": [[300, 300, 8, *ROW[3:]]]}, "block 0"),
        ({"blocks": [[300, 300, 1, 3, *ROW[4:]]]}, "block 0"),
        ({"blocks": [[300, 299, *ROW[2:]]]}, "block 0"),
        ({"blocks": [[300, 10**6, *ROW[2:]]]}, "block 0"),
        ({"blocks": [[*ROW[:5], 1 << 60, *ROW[6:]]]}, "block 0"),
        ({"blocks": [ROW] * 2}, "blocks hold 600 accesses"),
        ({"unit": "ns", "tick": 0}, "tick"),
    ],
    ids=str,
)
def test_a_directory_that_says_something_else_is_refused(small, changes, why):
    with_facts(small, lambda facts: facts | changes)
    with pytest.raises(TraceError, match=re.escape(str(small))) as caught:
        load(small)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b'{"a":' * 100_000, b"\xff\xfe", b'{"pages": NaN}', b"9" * 10_000, b"{}"],
    ids=lambda text: repr(text[:10]),
)
def test_a_directory_that_is_none_is_refused(small, text):
    with_facts(small, lambda _: text)
    with pytest.raises(TraceError, match=re.escape(str(small))):
        load(small)


def column(values, dtype):
    data = np.asarray(values, dtype).tobytes()
    return data, [0, len(data)]


def build(path, pages, ranks, counts, **changes):
    """A file as an attacker builds it, every checksum right: columns stored as they are."""
    steps, pages_packing = column(np.diff(np.array(pages, object), prepend=0).tolist(), "<i8")
    parts = [
        column(ranks, "u1"),
        column(np.packbits(np.zeros(len(ranks), bool)), "u1"),
        column(np.array(counts) - 1, "u1"),
    ]
    block = b"".join(data for data, _ in parts)
    packing = [number for _, packed in parts for number in packed]
    facts = {
        "accesses": sum(counts),
        "runs": len(ranks),
        "pages": [len(pages), *pages_packing, zlib.crc32(steps)],
        "ticks": [0, 0, 0, 0],
        "blocks": [[len(ranks), sum(counts), 1, 1, *packing, zlib.crc32(block)]],
    }
    text = json.dumps(facts | changes).encode()
    tail = TAIL.pack(len(text), zlib.crc32(text), b"PMTRACE2")
    path.write_bytes(b"PMTRACE2" + block + steps + text + tail)


def test_a_file_built_by_hand_is_read(tmp_path):
    build(tmp_path / "x.pmt", [5, 3, 2**51], [0, 1, 0, 2], [1, 2, 3, 4])
    trace = load(tmp_path / "x.pmt")
    assert trace.table.tolist() == [3, 5, 2**51]
    assert trace.pages.tolist() == [5, 3, 5, 2**51]
    assert trace.count.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("pages", "ranks", "why"),
    [
        ([5, 5, 9], [0, 1, 2], "one page twice"),
        ([5, 6], [0, 1, 2], "a page beyond"),
        ([], [0], "a page beyond"),
        ([1, 2, 3], [0, 1], "3 pages in 2 runs"),
    ],
)
def test_pages_that_cannot_be(tmp_path, pages, ranks, why):
    build(tmp_path / "x.pmt", pages, ranks, [1] * len(ranks))
    with pytest.raises(TraceError, match=why):
        load(tmp_path / "x.pmt")


def test_a_sum_of_counts_that_is_another(tmp_path):
    counts = {"blocks": [[3, 9, 1, 1, 0, 3, 0, 1, 0, 3, 0]], "accesses": 9}
    build(tmp_path / "x.pmt", [1], [0, 0, 0], [1, 2, 3])
    _, facts = facts_of(tmp_path / "x.pmt")
    counts["blocks"][0][-1] = facts["blocks"][0][-1]
    build(tmp_path / "x.pmt", [1], [0, 0, 0], [1, 2, 3], **counts)
    with pytest.raises(TraceError, match="has not the 9 accesses"):
        load(tmp_path / "x.pmt")


@pytest.mark.parametrize("codec", [1, 2])
def test_a_column_that_unpacks_to_more_than_it_may(tmp_path, codec):
    pack = {1: zlib.compress, 2: lzma.compress}[codec]
    bomb = pack(bytes(64 << 20))
    packed = [codec, len(bomb)]
    block = [3, 3, 1, 1, *packed, 0, 1, 0, 3, zlib.crc32(bomb + b"\0" + b"\0\0\0")]
    facts = {"accesses": 3, "runs": 3, "pages": [0, 0, 0, 0], "ticks": [0, 0, 0, 0]}
    if len(bomb) > 2000:  # refused by its size alone
        block[4:6] = [codec, 2000]
    text = json.dumps(facts | {"blocks": [block]}).encode()
    path = tmp_path / "bomb.pmt"
    path.write_bytes(
        b"PMTRACE2" + bomb + bytes(4) + text + TAIL.pack(len(text), zlib.crc32(text), b"PMTRACE2")
    )
    tracemalloc.start()
    with pytest.raises(TraceError):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("codec", [1, 2])
def test_pages_that_unpack_to_more_than_they_may(tmp_path, codec):
    bomb = {1: zlib.compress, 2: lzma.compress}[codec](bytes(64 << 20))
    path = tmp_path / "bomb.pmt"
    facts = {"accesses": 0, "runs": 0, "blocks": [], "ticks": [0, 0, 0, 0]}
    text = json.dumps(facts | {"pages": [0, codec, len(bomb), zlib.crc32(bomb)]}).encode()
    path.write_bytes(
        b"PMTRACE2" + bomb + text + TAIL.pack(len(text), zlib.crc32(text), b"PMTRACE2")
    )
    tracemalloc.start()
    with pytest.raises(TraceError, match="unpacks to"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_a_trace_that_the_machine_has_no_memory_for(small, monkeypatch):
    monkeypatch.setattr(files, "available", lambda: 5000)
    with pytest.raises(
        MemoryError, match=r"small.pmt in memory takes .*TraceFile reads it in pieces"
    ):
        load(small)
    with TraceFile(small) as trace:
        assert trace.accesses == 300
        with pytest.raises(MemoryError, match="access by access"):
            monkeypatch.setattr(files, "available", lambda: 500)
            trace.expand()


def test_the_header_is_read_without_the_package(small):
    assert small.read_bytes()[:8] == b"PMTRACE2"
    _, facts = facts_of(small)
    assert facts["program"] == "p"
    assert (facts["accesses"], facts["runs"], facts["pages"][0]) == (300, 300, 37)


def test_control_characters_of_a_command_are_kept_as_escapes(tmp_path):
    header = Header(program="sh -c 'a\nb'", note="\x1b[31mred", source="\ud800")
    Trace.from_accesses([1], header=header).save(tmp_path / "x.pmt")
    back = load(tmp_path / "x.pmt").header
    assert (back.program, back.note) == (r"sh -c 'a\nb'", r"\x1b[31mred")
    assert back.source == r"\ud800"


# ---- written whole or not at all --------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file(small, monkeypatch):
    before = small.read_bytes()
    monkeypatch.setattr(trace_format.json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Trace.from_accesses([1]).save(small)
    assert small.read_bytes() == before
    assert [path.name for path in small.parent.iterdir()] == [small.name]


def test_an_abandoned_writer_leaves_the_old_file(small):
    before = small.read_bytes()
    with pytest.raises(ZeroDivisionError), Writer(small) as writer:
        writer.add([1], [True])
        raise ZeroDivisionError
    writer.abandon()
    assert small.read_bytes() == before
    assert [path.name for path in small.parent.iterdir()] == [small.name]


def test_saving_keeps_the_mode_and_follows_a_link(small):
    small.chmod(0o640)
    link = small.with_name("link.pmt")
    link.symlink_to(small.name)
    Trace.from_accesses([1, 2]).save(link)
    assert link.is_symlink()
    assert load(small).accesses == 2
    assert small.stat().st_mode & 0o777 == 0o640


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: data.append(fifo.read_bytes()))
    data = []
    reader.start()
    Trace.from_accesses([1, 2, 3]).save(fifo)
    reader.join()
    assert load(io.BytesIO(data[0])).pages.tolist() == [1, 2, 3]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


SAVER = """
import sys
import numpy as np
from pagemig.trace import Trace
big = Trace.from_accesses(np.random.default_rng(2).integers(0, 50_000, 400_000))
print("ready", flush=True)
while True:
    big.save(sys.argv[1])
"""


@pytest.mark.slow
def test_kill_9_during_a_save_leaves_the_old_file_or_the_new(tmp_path):
    path = tmp_path / "x.pmt"
    rng = random.Random(11)
    for _ in range(8):
        old = Trace.from_accesses([1, 2, 3])
        old.save(path)
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(path)], stdout=subprocess.PIPE, text=True
        )
        with saver:
            assert saver.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, 0.15))
            saver.kill()
        assert load(path).accesses in (3, 400_000)
        assert path.stat().st_size > 0


# ---- in pieces --------------------------------------------------------------------------------


@given(accesses_of, st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_file_answers_what_the_trace_answers(tmp_path_factory, accesses, block, number, data):
    pages = np.array([page for page, _ in accesses], np.uint64)
    writes = np.array([write for _, write in accesses], bool)
    path = tmp_path_factory.mktemp("trace") / "t.pmt"
    whole = Trace.from_accesses(pages, writes, Header(program="p"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_format, "BLOCK", block)
        with Writer(path, Header(program="p")) as writer:
            writer.add(pages, writes)
        with TraceFile(path) as file:
            assert file.table.tolist() == whole.table.tolist()
            assert (file.runs, file.accesses, file.footprint, file.header) == (
                whole.runs,
                whole.accesses,
                whole.footprint,
                whole.header,
            )
            if whole.runs:
                assert list(file.epochs(number)) == list(whole.epochs(number))
            start = data.draw(st.integers(0, whole.runs))
            stop = data.draw(st.integers(start, whole.runs))
            for mine, its in zip(whole.part(start, stop), file.part(start, stop), strict=True):
                assert mine.tolist() == its.tolist()
            assert file.expand()[0].tolist() == whole.expand()[0].tolist()


def test_a_long_trace_is_written_and_read_in_memory_of_its_footprint(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_format, "BLOCK", 1 << 14)
    rng = np.random.default_rng(3)
    tracemalloc.start()
    with Writer(tmp_path / "x.pmt") as writer:
        for _ in range(100):
            writer.add(rng.integers(0, 1000, 20_000), False)
    with TraceFile(tmp_path / "x.pmt") as file:
        assert sum(count.size for _, _, count in file.blocks) == file.runs > 1_900_000
    assert tracemalloc.get_traced_memory()[1] < 4 << 20  # the trace itself has 18 MB
    tracemalloc.stop()


def naive_ticks(times, tick):
    """Accesses before each whole tick, counted from the first access."""
    latest, since = 0, []
    for time_ in times:
        latest = max(latest, time_ - times[0])
        since.append(latest)
    return [sum(s < k * tick for s in since) for k in range(1, since[-1] // tick + 1)]


@given(
    st.lists(st.integers(0, 2**40), min_size=1, max_size=60), st.integers(1, 7), st.integers(2, 9)
)
def test_the_time_axis_agrees_with_counting(times, piece, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_clock, "MOST", most)
        clock = trace_clock.Clock()
        for start in range(0, len(times), piece):
            clock.add(np.array(times[start : start + piece], np.uint64))
    assert len(clock.ticks) <= most
    assert clock.ticks.tolist() == naive_ticks(times, clock.tick)
    assert clock.tick == 1 or clock.duration // (clock.tick // 2) > most


def test_epochs_of_equal_time(tmp_path):
    # A thousand accesses in the first second, ten in the second, none in the third but the last.
    times = [*range(0, 10**9, 10**6), *range(10**9, 2 * 10**9, 10**8), 3 * 10**9]
    with Writer(tmp_path / "x.pmt", unit="ns") as writer:
        writer.add(np.arange(1011) % 7, False, time=np.array(times, np.uint64))
    trace = load(tmp_path / "x.pmt")
    assert (trace.header.unit, trace.header.duration) == ("ns", 3 * 10**9)
    cuts = [stop for _, stop in trace.epochs(3, by="time")]
    assert cuts[-1] == 1011
    assert abs(cuts[0] - 1000) <= 3 and abs(cuts[1] - 1010) <= 1
    back = tmp_path / "again.pmt"
    trace.save(back)
    again = load(back)
    assert again.header == trace.header and (again.ticks == trace.ticks).all()


def test_epochs_of_equal_time_need_a_time_axis():
    with pytest.raises(ValueError, match="no time axis"):
        list(Trace.from_accesses([1, 2]).epochs(2, by="time"))
    with pytest.raises(ValueError, match="not by 'size'"):
        list(Trace.from_accesses([1, 2]).epochs(2, by="size"))


# ---- the shipped ones -------------------------------------------------------------------------


def test_shipped_traces_are_real_and_small():
    assert len(shipped()) >= 1
    assert sum(path.stat().st_size for path in shipped().values()) <= 5 << 20


@pytest.mark.parametrize("name", shipped())
def test_shipped_trace(name):
    trace = load(find(name))
    assert trace.header.source == "valgrind lackey"
    assert trace.header.program
    assert trace.accesses == trace.header.accesses <= trace.header.references * 2
    assert trace.footprint > 1000
    assert trace.write.any() and not trace.write.all()


@pytest.mark.parametrize("name", shipped())
def test_what_is_said_of_a_shipped_trace_is_so(name):
    path = find(name)
    trace = load(path)
    lines = (path.parent / "README.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith(f"| `{name}`"))
    facts = (trace.header.references, trace.accesses, trace.footprint, path.stat().st_size)
    assert [cell.strip() for cell in row.split("|")][4:8] == [f"{fact:,}" for fact in facts]
    assert trace.header.program in "\n".join(lines)


@pytest.mark.parametrize("name", ["", "."])
def test_find_takes_no_directory_for_a_trace(name):
    with pytest.raises((FileNotFoundError, IsADirectoryError)):
        load(find(name))


def test_find_names_what_there_is():
    with pytest.raises(FileNotFoundError, match=next(iter(shipped()))):
        find("no-such-trace")


@pytest.mark.parametrize("small", [False, True])
def test_a_writer_in_a_hurry_stores_what_is_left(tmp_path, small):
    asked, first, columns = 0, 5, 5

    def hurried():
        nonlocal asked
        asked += 1
        return asked > first

    pages = np.random.default_rng(3).integers(0, 1 << 40, 300_000)
    with Writer(tmp_path / "x.pmt", small=small, hurried=hurried) as writer:
        writer.add(pages, pages % 2 == 0)
    assert first < asked <= first + columns  # one question for each column that is left
    trace = load(tmp_path / "x.pmt")
    assert (trace.pages == pages).all()
    assert (trace.write == (pages % 2 == 0)).all()
