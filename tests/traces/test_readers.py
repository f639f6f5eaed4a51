"""Traces of other tools: each format against a naive twin or a sample, and what errors say.

`support.samples` has a small trace in each, and says which are written by hand.
"""

import gzip
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pagemig.commands.main import main
from pagemig.trace import FORMATS, Trace, TraceError, convert, load, reader
from pagemig.trace import format as trace_format
from pagemig.trace import readers as trace_readers
from pagemig.trace.readers import ChampSimReader, LackeyReader, PerfReader, TableReader
from support.samples import CHAMPSIM, DAMON, JSON, PACKINGS, PERF, PINT, SAMPLE, SAMPLES, saved


class Pieces(io.RawIOBase):
    """A stream that gives at most so many bytes at a time and cannot seek, as a pipe."""

    def __init__(self, data, most):
        super().__init__()
        self.data, self.most, self.name = io.BytesIO(data), most, "pipe"

    def read(self, size=-1, /):
        return self.data.read(min(size, self.most) if size >= 0 else self.most)

    def seekable(self):
        return False


def rows(data, format=None, chunk=None, **options):
    """All accesses of a file: address, size, write."""
    source = Pieces(data, chunk) if chunk else io.BytesIO(data)
    with reader(source, format, **options) as found:
        return [
            access
            for part in found
            for access in zip(*(column.tolist() for column in part[:3]), strict=True)
        ]


def columns(data, format=None):
    """Format, unit, and the columns by name."""
    with reader(io.BytesIO(data), format) as found:
        parts = list(found)
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts]).tolist()
            for name in trace_readers.Accesses._fields
            if getattr(parts[0], name) is not None
        }
        return found.format, found.unit, joined


# ---- lackey -----------------------------------------------------------------------------------

RECORD = re.compile(r" {0,2}([LSM]) +([0-9a-fA-F]{1,16}),(\d{1,10})")


def naive_lackey(text):
    """Line by line what `LackeyReader` does by arrays: accesses, fetches, malformed lines."""
    accesses, fetches, malformed = [], 0, 0
    for line in text.split("\n"):
        found = RECORD.fullmatch(line.removesuffix("\r"))
        if found and 0 < int(found[3]) <= min(1 << 16, (1 << 64) - int(found[2], 16)):
            accesses.append((int(found[2], 16), int(found[3]), found[1] != "L", fetches))
        elif line.startswith("I "):
            fetches += 1
        elif line and line[0] not in "=-*" and line != "\r":
            malformed += 1
    return accesses, fetches, malformed


def read_lackey(text, chunk=None):
    found = LackeyReader(Pieces(text.encode(), chunk or 1 << 20), skip=True)
    accesses = [
        access
        for part in found
        for access in zip(*(column.tolist() for column in part[:4]), strict=True)
    ]
    return accesses, found.instructions, found.malformed


def test_lackey_sample():
    accesses, fetches, malformed = read_lackey(SAMPLE)
    assert accesses == [
        (0x1FFF000768, 8, True, 1),
        (0x04222F48, 8, False, 1),
        (0x0421E3C8, 4, True, 1),  # M: a load and a store to one place count as one store
        (0x04222FFE, 16, False, 1),
        (0x7FFFFFFFFFFFF, 1, False, 2),
    ]
    assert (fetches, malformed) == (2, 0)


def test_lackey_without_the_leading_blank_is_the_same():
    # The form of the public traces of tiered memory, and of what `awk '{print $1" "$2}'` leaves.
    bare = "S 1fff000198,8\nL 1fff000190,8\nS 04222f48,8\n"
    assert rows(bare.encode()) == [
        (0x1FFF000198, 8, True),
        (0x1FFF000190, 8, False),
        (0x4222F48, 8, True),
    ]


def test_lackey_without_a_last_newline():
    assert rows(b" L 1000,8\n S 2000,4") == [(0x1000, 8, False), (0x2000, 4, True)]


BAD_LINES = [
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
    " L 1000,99999999999999999999999999",
    " L 11112222333344445,8",
    " L ffffffffffffffff,2",
    " X 1000,8",
    "   L 1000,8",
    " S",
    " ",
    "S",
    "\x00",
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_malformed_line_of_lackey_is_named(line):
    text = f" S 2000,4\n{line}\n L 3000,2\n"
    with pytest.raises(TraceError) as caught:
        rows(text.encode(), "lackey")
    shown = str(caught.value)
    assert "line 2: " in shown and "expected ' L ADDRESS,SIZE'" in shown
    assert line.strip("\x00") in shown and shown.isprintable()
    assert read_lackey(text) == naive_lackey(text)
    assert read_lackey(text) == ([(0x2000, 4, True, 0), (0x3000, 2, False, 0)], 0, 1)


good_lines = st.builds(
    "{}{}{}{:x},{}".format,
    st.sampled_from(["", " ", "  "]),
    st.sampled_from("LSM"),
    st.sampled_from([" ", "  ", "     "]),
    st.integers(0, 2**64 - 1),
    st.integers(1, 4096),
)
any_lines = st.one_of(
    good_lines,
    st.sampled_from(["I  0401ab70,3", "==7== a, b", "--7-- c", "", "L 1,1", " M zz,4", "**9** x"]),
    st.text(alphabet=" LSMI,0123af=x\r", max_size=14),
)


@given(st.lists(any_lines, max_size=40), st.sampled_from([None, 1, 9, 64]), st.booleans())
def test_lackey_agrees_with_reading_line_by_line(lines, chunk, ends):
    text = "\n".join(lines) + ("\n" if ends else "")
    assert read_lackey(text, chunk) == naive_lackey(text)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**48), st.integers(1, 9000), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=30)
def test_straddling_accesses_touch_every_page(tmp_path_factory, accesses):
    text = "".join(f" {'LS'[write]} {address:x},{size}\n" for address, size, write in accesses)
    expected = [
        (page, write)
        for address, size, write in accesses
        for page in range(address >> 12, ((address + size - 1) >> 12) + 1)
    ]
    path = tmp_path_factory.mktemp("t") / "t.pmt"
    convert(io.BytesIO(text.encode()), path)
    trace = load(path)
    index, write = trace.expand()
    assert list(zip(trace.table[index].tolist(), write.tolist(), strict=True)) == expected


def test_hostile_sizes_take_no_memory(tmp_path):
    text = b" L 0,65536\n" * 90_000  # 92 million lines of memory in a megabyte of text
    tracemalloc.start()
    convert(io.BytesIO(text), tmp_path / "t.pmt", cache=1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 400 << 20
    tracemalloc.stop()
    assert load(tmp_path / "t.pmt").footprint == 16


def test_a_line_without_an_end_takes_no_memory():
    class Endless:
        name = "endless"

        def read(self, size, /):
            return b"L" * size

    with pytest.raises(TraceError, match=r"line 1: .*expected a line of at most"):
        list(LackeyReader(Endless()))


# ---- tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("addr,w\n4096,1\n8192,0\n", [(4096, 1, True), (8192, 1, False)]),
        ("0x1000,R\n0x2000,W\n", [(4096, 1, False), (8192, 1, True)]),
        ("4096\n8192", [(4096, 1, False), (8192, 1, False)]),
        (
            "# comment\n\naddress;size;op\n0x10;8;store\n16;4;load\n",
            [(16, 8, True), (16, 4, False)],
        ),
        ("page\ttime\ttype\n7\t1.5\tread\n8\t2\twrite\n", [(28672, 1, False), (32768, 1, True)]),
        ("7fff0010 s\n00400000 l\n", [(0x7FFF0010, 1, True), (0x400000, 1, False)]),
        ('"address","pc","write"\r\n"0x10","xyz","True"\r\n', [(16, 1, True)]),
        ("1000   1\n  2000\t0  \n", [(1000, 1, True), (2000, 1, False)]),
    ],
)
def test_tables(text, expected):
    assert rows(text.encode()) == expected


def test_a_table_with_everything():
    text = "time,pid,tid,addr,size,rw,count\n1.000000001,7,8,0x1000,4,w,3\n2.5,7,9,0x2000,8,r,1\n"
    format, unit, found = columns(text.encode())
    assert (format, unit) == ("csv", "ns")
    assert found == {
        "address": [4096, 8192],
        "size": [4, 8],
        "write": [True, False],
        "time": [1_000_000_001, 2_500_000_000],
        "process": [7, 7],
        "thread": [8, 9],
        "weight": [3, 1],
    }


@pytest.mark.parametrize(
    ("text", "line", "bad"),
    [
        ("addr,w\n4096,1\n4096,2\n", 3, "4096,2"),
        ("addr,w\n4096,1\n4096\n", 3, "4096"),
        ("addr,w\n4096,1,5\n", 2, "4096,1,5"),
        ("addr\n-1\n", 2, "-1"),
        ("addr\n18446744073709551616\n", 2, "18446744073709551616"),
        ("page\n4503599627370496\n", 2, "4503599627370496"),
        ("addr,size\n1,0\n", 2, "1,0"),
        ("addr,size\n1,65537\n", 2, "1,65537"),
        ("addr,count\n1,0\n", 2, "1,0"),
        ("addr,pc\n12, \n1 2,\n", 3, "1 2,"),
        ("a,b\n1,2\n", 1, "a,b"),
        ("addr,page\n1,2\n", 1, "addr,page"),
        ("1,2,3\n", 1, "1,2,3"),
        ("0x1000\nhello \x1b[2J\n", 2, "hello"),
    ],
)
def test_a_malformed_row_is_named(text, line, bad):
    with pytest.raises(TraceError) as caught:
        rows(text.encode(), "csv")
    shown = str(caught.value)
    assert f"line {line}: " in shown and bad in shown and "expected" in shown
    assert shown.isprintable()


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.booleans(), st.booleans()), min_size=1),
    st.sampled_from([1, 7, 1 << 20]),
)
@settings(max_examples=50)
def test_a_table_agrees_with_its_rows(values, chunk):
    text = "".join(f"{a:#x},{int(w)}\n" if h else f"{a},{'rw'[w]}\n" for a, w, h in values)
    found = TableReader(Pieces(text.encode(), chunk))
    got = [pair for part in found for pair in zip(part[0].tolist(), part[2].tolist(), strict=True)]
    assert got == [(a, w) for a, w, _ in values]


# ---- perf -------------------------------------------------------------------------------------


def test_perf_sample():
    with reader(io.BytesIO(PERF)) as found:
        (part,) = found
        assert (found.format, found.unit, found.skipped) == ("perf", "ns", 1)
    assert [hex(address) for address in part.address.tolist()] == [
        "0x55bd33730020", "0x7f0c0f7cc000", "0x7ffd00001008", "0x7ffd00002010", "0x7ffd00003000",
        "0x7f00deadb000",
    ]  # fmt: skip
    assert part.write.tolist() == [False, False, False, True, True, True]
    assert part.process.tolist() == [30852, 30852, 77, 77, 0, 0]
    assert part.thread.tolist() == [30852, 30852, 78, 79, 12, 12]
    assert part.time[[0, 2, 4]].tolist() == [3047235399000, 3047300000000, 3047500000000]


@pytest.mark.parametrize(
    "line",
    [
        "st 1/1 12.5: page-faults: ffffffff8d40 asm_exc+0x20 ([kernel])",  # only an instruction
        "st 1/1 12.5: page-faults:",
        "st 1/1 12.5: page-faults: xyz",
        "st 1/1 12.5:",
        "st 1/1 12.5 page-faults: 1000",
        "hello",
        "st 1/1 12.5: page-faults: 11112222333344445",
        "st 1/1 99999999999999999999.5: page-faults: 1000",
    ],
)
def test_a_malformed_line_of_perf_is_named(line):
    text = f"st 1/1 12.5: f: 1000\n{line}\n"
    with pytest.raises(TraceError, match=re.escape(f"line 2: {line!r}: expected 'COMM PID/TID")):
        rows(text.encode(), "perf")


def test_processes_are_kept_apart_and_threads_if_asked(tmp_path):
    out = tmp_path / "x.pmt"
    done = convert(io.BytesIO(PERF), out)
    assert [r.path.name for r in (done, *done.others)] == ["x.pmt", "x-2.pmt", "x-3.pmt"]
    assert [load(r.path).accesses for r in (done, *done.others)] == [2, 2, 2]
    assert done.header.note == "process 30852"
    done = convert(io.BytesIO(PERF), out, apart="thread")
    assert [load(r.path).accesses for r in (done, *done.others)] == [2, 1, 1, 2]
    with pytest.raises(TraceError, match="holds 3 processes; pagemig trace convert"):
        load(io.BytesIO(PERF))


@pytest.mark.skipif(
    subprocess.run(
        "perf record -q -o /dev/null -e page-faults -c 1 -d true", shell=True, capture_output=True
    ).returncode != 0,
    reason="needs perf and the right to use it",
)  # fmt: skip
def test_what_perf_itself_records(tmp_path):
    data = tmp_path / "perf.data"
    program = f"x = bytearray({64 << 20}); print(id(x))"
    subprocess.run(
        ["perf", "record", "-q", "-o", data, "-e", "page-faults", "-c", "1", "-d",
         sys.executable, "-c", program],
        check=True, capture_output=True,
    )  # fmt: skip
    text = subprocess.run(
        ["perf", "script", "-i", data, "-F", "comm,pid,tid,time,event,addr,ip,sym"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    trace = load(io.BytesIO(text))
    # The 64 MiB are touched page by page, and nothing else of that size is.
    assert 64 << 8 <= trace.footprint < 70 << 8
    assert trace.header.unit == "ns" and trace.header.duration > 0


# ---- DAMON ------------------------------------------------------------------------------------


def test_damon_sample():
    format, unit, found = columns(DAMON)
    assert (format, unit) == ("damon", "ns")
    assert found["address"] == [12288, 16384, 8192]
    assert found["weight"] == [3, 3, 5]
    assert found["time"] == [82820952660000] * 2 + [82821052660000]
    assert load(io.BytesIO(DAMON)).accesses == 11


@pytest.mark.parametrize("pack", [lambda text: text, zlib.compress])
def test_damo_json(pack):
    format, _, found = columns(pack(json.dumps(JSON).encode()))
    assert format == "damon-json"
    assert (found["address"], found["weight"]) == ([94208, 98304, 4096], [2, 2, 7])


@pytest.mark.parametrize(
    "line",
    [
        "k 1 [0] 1.5: damon:damon_aggregated: target_id=0 nr_regions=1 4096-4096: 3",
        "k 1 [0] 1.5: damon:damon_aggregated: target_id=0 nr_regions=1 8192-4096: 3",
        "k 1 [0] 1.5: damon:damon_aggregated: target_id=0 nr_regions=1 4096-99999999999999999999: 3",
        "k 1 [0] 1.5: damon:damon_aggregated: target_id=0 nr_regions=1 4096: 3",
    ],
)
def test_a_malformed_line_of_damon_is_named(line):
    with pytest.raises(TraceError, match=re.escape(f"line 4: '{line[:60]}")):
        rows(b"\n".join(DAMON.splitlines()[:3]) + b"\n" + line.encode(), "damon")


def test_a_region_larger_than_the_machine():
    line = (
        b"k 1 [0] 1.5: damon:damon_aggregated: target_id=0 nr_regions=1 0-9223372036854775808: 3\n"
    )
    with pytest.raises(MemoryError, match="line 1: a region"):
        rows(line)


@pytest.mark.parametrize(
    "value",
    [
        b"[1]",
        b"{}",
        b'[{"snapshots": 3}]',
        b'[{"snapshots": [{"regions": [{"start": 1}]}]}]',
        b'[{"snapshots": [{"end_time": 1, "regions": [{"start": "x", "end": 2, "nr_accesses": 1}]}]}]',
        b"[" * 100_000,
        zlib.compress(b'[{"snapshots": [')[:-3],
    ],
    ids=lambda value: repr(value[:30]),
)
def test_damo_json_that_is_none(value):
    with pytest.raises(TraceError):
        rows(value, "damon-json")


# ---- binary -----------------------------------------------------------------------------------


def test_champsim_sample():
    format, unit, found = columns(CHAMPSIM)
    assert (format, unit) == ("champsim", "instructions")
    assert found["address"] == [0x7000, 0x8008, 0x9000, 0x7010, 0xA000]
    assert found["write"] == [False, False, True, True, True]
    assert found["time"] == [0, 0, 0, 2, 2]
    assert ChampSimReader.dtype.itemsize == 64


def test_pint_sample():
    format, unit, found = columns(PINT)
    assert (format, unit) == ("pint", "ns")
    assert found["address"] == [0x7000, 0x8000]
    assert (found["write"], found["time"]) == ([False, True], [10, 25])


def test_addresses_alone():
    data = np.array([0x7FFF00001000, 0x400010, 2**64 - 4096], "<u8").tobytes()
    assert rows(data) == [
        (0x7FFF00001000, 1, False),
        (0x400010, 1, False),
        (2**64 - 4096, 1, False),
    ]
    assert rows(data, "u64", chunk=3) == rows(data)


@pytest.mark.parametrize(
    ("data", "format", "why"),
    [
        (PINT[:-1], "pint", r"record 1 \(byte 80\): ends after 15 bytes: expected 16"),
        (PINT[:20], "pint", "ends in its header"),
        (PINT + struct.pack("<2Q", 1, 0x9002), "pint", r"record 2 \(byte 96\): 'kind 2'"),
        (CHAMPSIM[:-10], "champsim", r"record 2 \(byte 128\): ends after 54 bytes: expected 64"),
        (CHAMPSIM + b"\2" * 64, "champsim", r"record 3 \(byte 192\): 'is_branch 2"),
        (b"12345678abc", "u64", r"record 1 \(byte 8\): ends after 3 bytes"),
    ],
)
def test_a_malformed_record_is_named(data, format, why):
    with pytest.raises(TraceError, match=why):
        rows(data, format)


# ---- arrays -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([4096, 16], np.uint64), [(4096, False), (16, False)]),
        (np.array([4096, 16], ">i4"), [(4096, False), (16, False)]),
        (np.array([[4096, 1], [16, 0]]), [(4096, True), (16, False)]),
        (
            np.array([(1, True), (2, False)], [("page", "u4"), ("is_write", "?")]),
            [(4096, True), (8192, False)],
        ),
        (np.empty(0, np.uint64), []),
    ],
)
def test_npy(array, expected):
    data = saved(np.save, array)
    assert [(a, w) for a, _, w in rows(data)] == expected
    assert [(a, w) for a, _, w in rows(data, chunk=5)] == expected


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, monkeypatch):
    monkeypatch.setattr(trace_readers, "CHUNK", 64)
    address = np.arange(100, dtype=np.uint64) * 5000
    data = saved(
        save, addr=address, write=address % 3 == 0, size=np.full(100, 4, np.uint8), other=[1]
    )
    expected = [(a, 4, a % 3 == 0) for a in address.tolist()]
    assert rows(data) == expected
    assert rows(data, chunk=100) == expected  # a pipe cannot seek


def test_parquet(monkeypatch):
    table = pyarrow.table(
        {
            "addr": np.array([4096, 2**63, 5], np.uint64),
            "write": [True, False, True],
            "t": ["x"] * 3,
        }
    )
    data = saved(lambda buffer: parquet.write_table(table, buffer, compression="zstd"))
    assert rows(data) == [(4096, 1, True), (2**63, 1, False), (5, 1, True)]
    assert rows(data, chunk=10) == rows(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (saved(np.save, np.array([1.5])), "one whole number a row"),
        (saved(np.save, np.array([1, -1])), "row 1: 'address -1'"),
        (saved(np.save, np.zeros((2, 3), int)), "shape"),
        (saved(np.save, np.array([[1, 2], [3, 4]], order="F")), "Fortran"),
        (saved(np.save, np.array([None]), allow_pickle=True), "its header"),
        (saved(np.save, np.arange(9))[:-9], "ends after 7 rows: expected 9"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "header is damaged"),
        (b"\x93NUMPY\x09\x00\x01\x00{", "header is damaged"),
        (b"\x93NUMPY\x01\x00\x46\x00" + b"{'descr': '<u8', 'fortran_order': False, 'shape': (1<<60,)}".ljust(70), "header is damaged"),
        (saved(np.savez, addr=np.arange(3), write=np.arange(2)), "arrays of one length"),
        (saved(np.savez, x=np.arange(3)), "its arrays"),
        (saved(np.savez, addr=np.arange(30))[:-30], "archive is damaged"),
        (b"PAR1" + bytes(100) + b"PAR1", "not a sound parquet file"),
        (saved(lambda b: parquet.write_table(pyarrow.table({"addr": [1, None]}), b)), "an empty value"),
        (saved(lambda b: parquet.write_table(pyarrow.table({"addr": ["1"]}), b)), "one whole number"),
        (saved(lambda b: parquet.write_table(pyarrow.table({"z": [1]}), b)), "one of address and page"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_malformed_arrays_are_named(data, why):
    with pytest.raises(TraceError, match=why) as caught:
        rows(data)
    assert str(caught.value).isprintable()


def test_a_shape_larger_than_the_file_takes_no_memory():
    header = b"{'descr': '<u8', 'fortran_order': False, 'shape': (1152921504606846976,), }"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.ljust(117) + b"\n" + bytes(80)
    tracemalloc.start()
    with pytest.raises(TraceError, match="ends after 10 rows"):
        rows(data)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


# ---- known by content -------------------------------------------------------------------------


def test_there_is_a_sample_of_every_format():
    assert set(SAMPLES) == set(FORMATS)


@pytest.mark.parametrize("format", FORMATS)
def test_a_format_is_known_by_its_content(format):
    with reader(io.BytesIO(SAMPLES[format])) as found:
        assert found.format == format
        assert sum(part.address.size for part in found) > 0
    others = [kind.format for kind in FORMATS.values() if kind.knows(SAMPLES[format])]
    assert others[0] == format


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("format", FORMATS)
def test_packing_is_known_by_content(format, packing):
    packed = PACKINGS[packing](SAMPLES[format])
    assert rows(packed) == rows(SAMPLES[format])
    assert rows(packed, chunk=7) == rows(SAMPLES[format])


@pytest.mark.parametrize("packing", PACKINGS)
def test_several_packed_pieces_in_a_row(packing):
    packed = PACKINGS[packing](b" L 1000,8\n") + PACKINGS[packing](b" S 2000,8\n")
    assert rows(packed, chunk=11) == [(0x1000, 8, False), (0x2000, 8, True)]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_damaged_packing_says_so(packing):
    packed = PACKINGS[packing](os.urandom(5000).hex().encode() + b"\n")
    for damaged in (packed[:-9], packed[:20] + bytes(30) + packed[50:]):
        with pytest.raises(TraceError, match=f"its {packing} is damaged"):
            rows(damaged, "lackey", skip=True)


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"hello world\n", random.Random(7).randbytes(16) + b"\xff" * 4000, b"%PDF-1.4", b"\x7fELF\1\1"],
    ids=lambda data: repr(data[:8]),
)  # fmt: skip
def test_what_is_no_trace_is_told_the_formats(data):
    with pytest.raises(TraceError, match=r"looks like none; --format|it is empty"):
        rows(data)


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="no format 'elf'; there are pmt, pint"):
        rows(b"", "elf")


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    from pagemig.trace.streams import MissingError

    with pytest.raises(MissingError, match=r"pip install 'pagemig\[traces\]'"):
        rows(PACKINGS["zstd"](b" L 1000,8\n"))
    with pytest.raises(MissingError, match=r"pyarrow.*pip install 'pagemig\[traces\]'"):
        rows(SAMPLES["parquet"])


# ---- conversion -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_converts_to_the_same_accesses(format, tmp_path):
    done = convert(io.BytesIO(SAMPLES[format]), tmp_path / "x.pmt")
    with reader(io.BytesIO(SAMPLES[format])) as found:
        pages = []
        for part in found:
            weight = np.ones(part.address.size, int) if part.weight is None else part.weight
            last = (part.address + part.size - np.uint64(1)) >> np.uint64(12)
            for first, end, many in zip(part.address >> np.uint64(12), last, weight, strict=True):
                pages += [*range(int(first), int(end) + 1)] * int(many)
    traces = [load(recording.path) for recording in (done, *done.others)]
    got = np.concatenate([trace.table[trace.expand()[0]] for trace in traces])
    assert sorted(got.tolist()) == sorted(pages)
    assert len(traces) > 1 or got.tolist() == pages


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"perf"}))
def test_load_reads_every_format(format, tmp_path):
    trace = load(io.BytesIO(SAMPLES[format]))
    assert trace.accesses > 0
    path = tmp_path / "file"
    path.write_bytes(SAMPLES[format])
    assert load(path).pages.tolist() == trace.pages.tolist()


def test_skip_and_limit(tmp_path):
    text = "".join(f" L {k:x}000,8\n" for k in range(1, 101)).encode()
    done = convert(io.BytesIO(text), tmp_path / "x.pmt", skip=10, limit=5)
    assert load(done.path).pages.tolist() == [11, 12, 13, 14, 15]
    assert done.header.references == 5
    with pytest.raises(TraceError, match="no access was seen"):
        convert(io.BytesIO(text), tmp_path / "y.pmt", skip=100)
    assert not (tmp_path / "y.pmt").exists()
    done = convert(io.BytesIO(DAMON), tmp_path / "x.pmt", skip=3)
    assert load(done.path).accesses == 8


def test_what_is_skipped_warms_the_cache(tmp_path):
    text = b" L 1000,8\n L 2000,8\n L 1000,8\n L 3000,8\n"
    done = convert(io.BytesIO(text), tmp_path / "x.pmt", skip=2, cache=4096)
    assert load(done.path).pages.tolist() == [3]


@pytest.mark.parametrize("options", [{"limit": 0}, {"skip": -1}, {"cache": 77}, {"apart": "x"}])
def test_options_that_mean_nothing(tmp_path, options):
    with pytest.raises(ValueError):
        convert(io.BytesIO(b" L 1000,8\n"), tmp_path / "x.pmt", **options)
    assert not list(tmp_path.iterdir())


def test_converting_a_long_text_takes_memory_of_its_footprint(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_format, "BLOCK", 1 << 14)

    class Long:
        name = "long"
        left = 20

        def read(self, size, /):
            self.left -= 1
            return (
                b"".join(b" L %x000,8\n" % (k % 977) for k in range(50_000))
                if self.left > 0
                else b""
            )

    tracemalloc.start()
    done = convert(Long(), tmp_path / "x.pmt")
    assert done.header.accesses == 19 * 50_000
    # A megabyte of text and its columns, which have room for shorter lines than these.
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()


def test_the_command_converts_and_names_what_is_wrong(tmp_path, capsys):
    source = tmp_path / "in.csv"
    source.write_text("addr,w\n4096,1\n8192,\x1b[2J\n")
    assert main(["trace", "convert", str(source), str(tmp_path / "x.pmt")]) == 2
    err = capsys.readouterr().err
    assert f"{source}: line 3: " in err and "expected address,write" in err and "\x1b" not in err
    assert main(["trace", "convert", "--lenient", str(source), str(tmp_path / "x.pmt")]) == 0
    assert "1 malformed lines, the first: " in capsys.readouterr().err
    assert load(tmp_path / "x.pmt").accesses == 1
    assert main(["trace", "convert", str(tmp_path / "x.pmt"), str(tmp_path / "x.pmt")]) == 2
    assert "give another OUTPUT" in capsys.readouterr().err


def test_the_command_reads_the_standard_input(tmp_path):
    packed = gzip.compress(b"S 1fff000198,8\nL 1fff000190,8\n")
    for command in (["trace", "convert", "-"], ["record", "--cache", "0", "--lackey", "-", "-o"]):
        out = tmp_path / "x.pmt"
        subprocess.run(
            [sys.executable, "-m", "pagemig", *command, str(out)], input=packed, check=True
        )
        assert load(out).accesses == 2
        out.unlink()


# ---- info -------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=200),
    st.integers(1, 12),
)
@settings(max_examples=50)
def test_info_agrees_with_counting(accesses, parts):
    from pagemig.trace import info

    trace = Trace.from_accesses([p for p, _ in accesses], [w for _, w in accesses])
    found = info(trace, parts=parts, bands=7)
    pages = sorted({p for p, _ in accesses})
    assert found.counts.tolist() == [sum(p == q for q, _ in accesses) for p in pages]
    assert found.stores.tolist() == [sum(p == q and w for q, w in accesses) for p in pages]
    seen = set()
    for k, (start, stop) in enumerate(trace.epochs(parts)):
        now = set(trace.pages[start:stop].tolist())
        assert (found.working_set[k], found.fresh[k]) == (len(now), len(now - seen))
        assert found.heat[k].sum() == trace.count[start:stop].sum()
        seen |= now
    assert found.heat.sum() == len(accesses)
    assert found.concentration[-1] == pytest.approx(1)
    assert str(found).count("\n") > 10


def test_the_command_says_what_a_trace_is_like(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "x.png"
    assert main(["trace", "info", "sqlite", "-o", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "2,550 pages, 10.0 MiB" in out and "531,753" in out and f"Picture: {picture}" in out
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    source = tmp_path / "in.csv"
    source.write_text("addr,w\n4096,1\n8192,0\n")
    assert main(["trace", "info", str(source)]) == 0
    assert "2 pages" in capsys.readouterr().out


def test_info_of_a_perf_reader_has_time():
    from pagemig.trace import info

    found = info(load(io.BytesIO(PERF.replace(b"77/", b"30852/").replace(b" a 12", b" a 30852/1"))))
    assert found.by == "time"


def test_perf_reader_counts_what_it_skips():
    found = PerfReader(io.BytesIO(PERF))
    list(found)
    assert (found.skipped, found.malformed) == (1, 0)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=12),
    st.integers(0, 40),
    st.integers(1, 40),
)
def test_entries_that_stand_for_several_accesses_are_cut(tmp_path_factory, entries, skip, limit):
    path = tmp_path_factory.mktemp("cut")
    pages = np.repeat([page for page, _ in entries], [number for _, number in entries])
    Trace.from_accesses(pages).save(path / "all.pmt")
    expected = pages[skip : skip + limit]
    if not expected.size:
        with pytest.raises(TraceError, match="no access"):
            convert(path / "all.pmt", path / "part.pmt", skip=skip, limit=limit)
        return
    convert(path / "all.pmt", path / "part.pmt", skip=skip, limit=limit)
    part = load(path / "part.pmt")
    assert part.table[part.expand()[0]].tolist() == expected.tolist()
