"""Traces: the lackey parser, the cache and the file, each against a naive twin."""

import gzip
import io
import json
import lzma
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pagemig.trace.record
from pagemig.commands import main as cli
from pagemig.trace import (
    Accesses,
    Header,
    LackeyReader,
    LineCache,
    Trace,
    TraceError,
    Writer,
    find,
    load,
    shipped,
    touched,
)
from pagemig.trace import format as trace_format
from pagemig.trace import lackey as trace_lackey
from pagemig.trace.record import RecordError, convert, record

# ---- naive twins ------------------------------------------------------------------------------

RECORD = re.compile(r" {1,2}([LSM]) +([0-9a-f]{1,16}),(\d{1,10})")
FETCH = re.compile(r"I ")


def naive_lackey(text):
    """Line by line what `LackeyReader` does by arrays: accesses, fetches, malformed lines."""
    accesses, fetches, malformed = [], 0, 0
    for line in text.split("\n"):
        found = RECORD.fullmatch(line)
        if found and 0 < int(found[3]) <= min(1 << 16, (1 << 64) - int(found[2], 16)):
            accesses.append((int(found[2], 16), int(found[3]), found[1] != "L"))
        elif FETCH.match(line):
            fetches += 1
        elif line and line[0] not in "=-":
            malformed += 1
    return accesses, fetches, malformed


def naive_cache(size, lines, writes):
    """One line after the other what `LineCache` does by arrays."""
    sets = size // 64
    held, dirty, reached = {}, {}, []
    for line, write in zip(lines, writes, strict=True):
        place = line % sets
        if held.get(place) != line:
            held[place], dirty[place] = line, write
            reached.append(True)
        elif write and not dirty[place]:
            dirty[place] = True
            reached.append(True)
        else:
            reached.append(False)
    return reached


def naive_runs(pages, writes):
    runs = []
    for page, write in zip(pages, writes, strict=True):
        if runs and runs[-1][:2] == (page, write):
            runs[-1] = (page, write, runs[-1][2] + 1)
        else:
            runs.append((page, write, 1))
    return runs


def read(text, chunk=None):
    """All of a text through `LackeyReader`, with pieces of ``chunk`` bytes."""
    reader = LackeyReader(Pieces(text.encode(), chunk) if chunk else io.BytesIO(text.encode()))
    accesses = [
        access
        for part in reader
        for access in zip(*(column.tolist() for column in part), strict=True)
    ]
    return accesses, reader.instructions, reader.malformed


class Pieces(io.BytesIO):
    """A stream that gives at most so many bytes at a time, as a pipe may."""

    def __init__(self, data, most):
        super().__init__(data)
        self.most = most

    def read(self, size=-1, /):
        return super().read(min(size, self.most) if size >= 0 else self.most)


# ---- lackey -----------------------------------------------------------------------------------

SAMPLE = """==12== Lackey, an example Valgrind tool
--12-- warning, or not
I  0401ab70,3
 S 1fff000768,8
 L 04222f48,8
 M 0421e3c8,4
  L 04222ffe,16
I  0401ab73,5

 L 7ffffffffffff,1
"""


def test_lackey_sample():
    accesses, fetches, malformed = read(SAMPLE)
    assert accesses == [
        (0x1FFF000768, 8, True),
        (0x04222F48, 8, False),
        (0x0421E3C8, 4, True),  # M: a load and a store to one place count as one store
        (0x04222FFE, 16, False),
        (0x7FFFFFFFFFFFF, 1, False),
    ]
    assert (fetches, malformed) == (2, 0)


def test_lackey_without_a_last_newline():
    assert read(" L 1000,8\n S 2000,4")[0] == [(0x1000, 8, False), (0x2000, 4, True)]


@pytest.mark.parametrize(
    "line",
    [
        " L ,8",
        " L 1000",
        " L 1000,",
        " L 1000,0",
        " L 1000,8 ",
        " L 1000,8x",
        " L 0x1000,8",
        " L1000,8",
        " L 10 00,8",
        " L 10G0,8",
        " L 1000,8,8",
        " L 1000,65537",
        " L 1000,9999999999",
        " L ffffffffffffffff,2",
        " X 1000,8",
        "L 1000,8",
        "   L 1000,8",
        " S",
        " ",
        "S",
        "\x00",
    ],
)
def test_lackey_malformed_lines_are_counted_and_harm_nobody(line):
    text = f" S 2000,4\n{line}\n L 3000,2\n"
    assert read(text) == naive_lackey(text)
    assert read(text) == ([(0x2000, 4, True), (0x3000, 2, False)], 0, 1)


good_lines = st.builds(
    "{}{}{}{:x},{}".format,
    st.sampled_from([" ", "  "]),
    st.sampled_from("LSM"),
    st.sampled_from([" ", "  ", "     "]),
    st.integers(0, 2**64 - 1),
    st.integers(1, 4096),
)
any_lines = st.one_of(
    good_lines,
    st.sampled_from(["I  0401ab70,3", "==7== a, b", "--7-- c", "", "L 1,1", " M zz,4"]),
    st.text(alphabet=" LSMI,0123af=x", max_size=14),
)


@given(st.lists(any_lines, max_size=40), st.sampled_from([None, 9, 64]), st.booleans())
@settings(deadline=None)
def test_lackey_agrees_with_reading_line_by_line(lines, chunk, ends):
    text = "\n".join(lines) + ("\n" if ends else "")
    assert read(text, chunk) == naive_lackey(text)


def test_lackey_lines_longer_than_a_chunk(monkeypatch):
    monkeypatch.setattr(trace_lackey, "CHUNK", 5)
    assert read(SAMPLE) == naive_lackey(SAMPLE)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**48), st.integers(1, 9000), st.booleans()),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([6, 12]),
)
@settings(deadline=None)
def test_straddling_accesses_touch_every_block(accesses, shift):
    expected = [
        (block, write)
        for address, size, write in accesses
        for block in range(address >> shift, ((address + size - 1) >> shift) + 1)
    ]
    address, size, write = (np.array(column) for column in zip(*accesses, strict=True))
    blocks, stores = touched(
        Accesses(address.astype(np.uint64), size.astype(np.uint64), write), shift
    )
    assert list(zip(blocks.tolist(), stores.tolist(), strict=True)) == expected


# ---- the cache --------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=200),
    st.sampled_from([64, 128, 1024]),
    st.lists(st.integers(0, 200), max_size=3),
)
@settings(deadline=None)
def test_cache_agrees_with_one_line_after_the_other(accesses, size, cuts):
    lines = np.array([line for line, _ in accesses], np.uint64)
    writes = np.array([write for _, write in accesses], bool)
    cache = LineCache(size)
    borders = [0, *sorted(min(cut, lines.size) for cut in cuts), lines.size]
    reached = [
        reach
        for start, end in pairwise(borders)
        for reach in cache.filter(lines[start:end], writes[start:end]).tolist()
    ]
    assert reached == naive_cache(size, lines.tolist(), writes.tolist())


@pytest.mark.parametrize("size", [0, 32, 63, 65, 96, 3 << 20, 8 << 20, -64])
def test_cache_sizes_that_mean_nothing(size):
    with pytest.raises(ValueError, match=f"cache size {size} "):
        LineCache(size)


def test_a_page_written_by_the_program_is_written_in_the_trace(tmp_path):
    text = " L 5000,8\n L 5000,8\n S 5000,8\n S 5008,8\n L 9000,8\n"
    convert(io.BytesIO(text.encode()), tmp_path / "t.pmt", cache=4096)
    trace = load(tmp_path / "t.pmt")
    assert trace.pages.tolist() == [5, 5, 9]  # fill; the write-back of the first store; fill
    assert trace.write.tolist() == [False, True, False]
    assert trace.header.references == 5


# ---- the file ---------------------------------------------------------------------------------

accesses_of = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, 70, 2**20, 2**36 - 1, 2**52 - 1]), st.booleans()),
    max_size=120,
)


@given(accesses_of)
@settings(deadline=None)
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
@settings(deadline=None)
def test_writing_in_pieces_changes_nothing(tmp_path_factory, accesses, block, piece):
    pages = np.array([page for page, _ in accesses], np.uint64)
    writes = np.array([write for _, write in accesses], bool)
    path = tmp_path_factory.mktemp("trace") / "t.pmt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_format, "BLOCK", block)
        writer = Writer(Header(program="p"))
        for start in range(0, pages.size, piece):
            writer.add(pages[start : start + piece], writes[start : start + piece])
        header = writer.save(path)
    assert header.accesses == pages.size
    back = load(path)
    whole = Trace.from_accesses(pages, writes, Header(program="p"))
    for column in ("table", "index", "write", "count"):
        assert getattr(back, column).tolist() == getattr(whole, column).tolist()


def test_counts_beyond_32_bits_become_several_runs(tmp_path):
    writer = Writer()
    writer.add([7, 9], [True, False], [2**33 + 5, 3])
    writer.save(tmp_path / "t.pmt")
    trace = load(tmp_path / "t.pmt")
    assert trace.accesses == 2**33 + 8
    assert trace.pages.tolist() == [7, 7, 7, 9]
    assert trace.count.tolist() == [2**32 - 1, 2**32 - 1, 7, 3]


@given(hnp.arrays(np.uint32, st.integers(1, 60), elements=st.integers(1, 50)), st.integers(1, 80))
@settings(deadline=None)
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
    with pytest.raises(ValueError, match="at least 1 epoch, not 0"):
        list(trace.epochs(0))


def test_repr_says_what_it_is():
    assert repr(Trace.from_accesses([4, 4, 5], header=Header(program="ls /"))) == (
        "<Trace of 'ls /': 3 accesses in 2 runs to 2 pages>"
    )


def test_pages_of_two_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
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


def test_a_damaged_byte_is_found_or_changes_nothing(small):
    whole = load(small)
    data = bytearray(small.read_bytes())
    start = 12 + int.from_bytes(data[8:12], "little")
    found = 0
    for place in range(start, len(data)):
        damaged = data.copy()
        damaged[place] ^= 0x10
        small.write_bytes(damaged)
        try:
            back = load(small)
        except TraceError:
            found += 1
        else:
            assert back.index.tolist() == whole.index.tolist()
            assert back.table.tolist() == whole.table.tolist()
            assert (back.write == whole.write).all() and (back.count == whole.count).all()
    assert found > 0.9 * (len(data) - start)


def with_header(path, **changes):
    """The same file with other facts in its header."""
    data = path.read_bytes()
    end = 12 + int.from_bytes(data[8:12], "little")
    text = json.dumps(json.loads(data[12:end]) | changes).encode()
    path.write_bytes(data[:8] + len(text).to_bytes(4, "little") + text + data[end:])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cache": ["x"]}, "cache"),
        ({"accesses": -1}, "accesses=-1"),
        ({"program": 3}, "program=3"),
        ({"runs": 299}, "do not agree"),
        ({"pages": [10**15, 60]}, ""),
        ({"pages": 3}, ""),
        ({"blocks": [[1 << 40, 2, 1, 1, 1]]}, ""),
        ({"blocks": [[300, 2, 1 << 70, 1, 1]]}, "ends in its block 0"),
        ({"blocks": [[300, 2, -(1 << 70), 1, 1]]}, "ends in its block 0"),
        ({"blocks": {}}, ""),
    ],
)
def test_a_header_that_says_something_else_is_refused(small, changes, why):
    with_header(small, **changes)
    with pytest.raises(TraceError, match=re.escape(str(small))) as caught:
        load(small)
    assert why in str(caught.value)


def test_more_pages_and_runs_than_there_are_take_no_memory(small):
    data = small.read_bytes()
    facts = json.loads(data[12 : 12 + int.from_bytes(data[8:12], "little")])
    (_, stored), [[_, *sizes]] = facts["pages"], facts["blocks"]
    with_header(small, pages=[1 << 50, stored])
    with pytest.raises(TraceError, match=f"37 pages, not the {1 << 50}"):
        load(small)
    with_header(small, pages=facts["pages"], blocks=[[1 << 50, *sizes]])
    with pytest.raises(TraceError, match=f"does not hold {1 << 50} runs"):
        load(small)


def test_the_header_is_read_without_the_package(small):
    data = small.read_bytes()
    assert data[:8] == b"PMTRACE1"
    facts = json.loads(data[12 : 12 + int.from_bytes(data[8:12], "little")])
    assert facts["program"] == "p"
    assert (facts["accesses"], facts["runs"], facts["pages"][0]) == (300, 300, 37)


def test_a_failed_save_leaves_the_old_file(small, monkeypatch):
    before = small.read_bytes()
    monkeypatch.setattr(trace_format.json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Trace.from_accesses([1]).save(small)
    assert small.read_bytes() == before


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


# ---- recording --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".lackey", ".gz", ".xz"])
def test_record_converts_a_text(tmp_path, suffix, capsys):
    text = SAMPLE.encode()
    packed = {".lackey": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[suffix](text)
    (tmp_path / f"in{suffix}").write_bytes(packed)
    out = tmp_path / "out.pmt"
    arguments = ["record", "--cache", "0", "--lackey", str(tmp_path / f"in{suffix}"), "-o"]
    assert cli.main([*arguments, str(out)]) == 0
    assert "6 accesses of 5" in capsys.readouterr().err  # one straddles
    trace = load(out)
    assert trace.table[trace.expand()[0]].tolist() == [
        0x1FFF000,
        0x4222,
        0x421E,
        0x4222,
        0x4223,
        0x7FFFFFFFFF,
    ]


def test_record_of_nothing_says_so(tmp_path):
    with pytest.raises(RecordError, match="--trace-mem=yes"):
        convert(io.BytesIO(b"==1== hello\n"), tmp_path / "out.pmt")
    assert not (tmp_path / "out.pmt").exists()


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda _: b"no such thing"])
def test_record_of_a_damaged_file_says_so_in_one_line(tmp_path, suffix, damage, capsys):
    pack = {".gz": gzip.compress, ".xz": lzma.compress}[suffix]
    text = tmp_path / f"in{suffix}"
    text.write_bytes(damage(pack(SAMPLE.encode() * 50)))
    assert cli.main(["record", "--lackey", str(text), "-o", str(tmp_path / "out.pmt")]) == 2
    err = capsys.readouterr().err
    assert f"{text} is damaged" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.pmt").exists()


@pytest.mark.parametrize(
    ("path", "limit", "why"),
    [("nosuch/x.pmt", None, "no directory '.*nosuch'"), ("", None, "is a directory")]
    + [("x.pmt", limit, f"limit .* not {limit}") for limit in (0, -1)],
)
@pytest.mark.parametrize("by", [convert, record])
def test_record_refuses_before_anything_is_read(tmp_path, by, path, limit, why, monkeypatch):
    monkeypatch.setattr(pagemig.trace.record.shutil, "which", lambda name: name)
    monkeypatch.setattr(pagemig.trace.record.subprocess, "Popen", lambda *_, **__: 1 / 0)
    source = ["true"] if by is record else None
    with pytest.raises((OSError, ValueError), match=why):
        by(source, tmp_path / path, limit=limit)


def test_record_without_valgrind_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pagemig.trace.record.shutil, "which", lambda _: None)
    assert cli.main(["record", "-o", str(tmp_path / "x.pmt"), "--", "true"]) == 2
    assert "apt install valgrind" in capsys.readouterr().err


def test_record_needs_one_of_two_things(capsys):
    assert cli.main(["record"]) == 2
    assert "PROGRAM" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("64", 64), ("64KiB", 65536), ("1M", 1 << 20), ("2mib", 2 << 20)]
)
def test_sizes(text, value):
    assert pagemig.trace.record.size(text) == value


needs_valgrind = pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")


@needs_valgrind
def test_record_a_program(tmp_path):
    out = tmp_path / "true.pmt"
    done = record(["true"], out)
    assert (done.status, done.malformed) == (0, 0)
    trace = load(out)
    assert trace.header.program == "true"
    assert trace.accesses == done.header.accesses < done.header.references
    # A stack at least, and what the loader relocates.
    assert 10 < trace.footprint < 10_000


@needs_valgrind
def test_record_keeps_the_program_s_output_and_status(tmp_path, capfd):
    done = record(["sh", "-c", "echo hello; exit 3"], tmp_path / "x.pmt")
    assert done.status == 3
    assert capfd.readouterr().out == "hello\n"


@needs_valgrind
def test_record_ends_a_program_at_the_limit(tmp_path):
    forever = ["sh", "-c", "while :; do :; done"]
    done = record(forever, tmp_path / "x.pmt", limit=200_000)
    assert done.status == 0
    assert 200_000 <= done.header.references < 2_000_000


@needs_valgrind
def test_record_refuses_before_it_starts(tmp_path):
    with pytest.raises(RecordError, match="nosuchprogram"):
        record(["nosuchprogram"], tmp_path / "x.pmt")
    with pytest.raises(ValueError, match="cache size 77"):
        record(["true"], tmp_path / "x.pmt", cache=77)
