"""Resident memory: a trace many times as long takes the same, whatever is done with it."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from pagemig.trace import Header, Writer
from pagemig.trace.format import BLOCK

#: What may differ: the allocator, and where epochs cut blocks. In memory, the runs that the longer
#: trace has more would be 90 MB.
NOISE_MIB = 44
BLOCKS = (3, 13)

_RUN = """
import contextlib, io, sys
from pagemig.commands.main import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    status = main(sys.argv[1:])
assert status == 0, status
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_mib(*arguments):
    """Most memory that a command has had at once."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """The same block of runs a few times, and many times."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(3)
    index = (rng.zipf(1.3, BLOCK) % 2000).astype(np.uint32)
    write, count = rng.random(BLOCK) < 0.3, rng.integers(1, 20, BLOCK).astype(np.uint32)
    paths = []
    for blocks in BLOCKS:
        path = folder / f"{blocks}.pmt"
        with Writer(path) as writer:
            for _ in range(blocks):
                writer.put(index, write, count)
            writer.end(np.arange(2000, dtype=np.uint64), np.empty(0, np.uint64), Header())
        paths.append(path)
    return paths


@pytest.mark.parametrize(
    "words",
    [
        ("replay", "--policies", "first-touch,hemem,tpp", "--epochs", "20"),
        ("replay", "sqlite", "--policies", "damon", "--no-bound", "--epochs", "3"),
        ("sweep", "--jobs", "1", "--fast-shares", "0.5", "--epochs", "20", "--policies", "hemem"),
        ("trace", "info"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_longer_trace_takes_no_more_memory(traces, words):
    command = words[:2] if words[0] == "trace" else words[:1]
    short, long = (peak_mib(*command, path, *words[len(command) :]) for path in traces)
    assert long < short + NOISE_MIB


def test_the_sweep_of_cori_takes_no_more_memory(traces):
    script = (
        "import sys; from pagemig.studies import cori; from pagemig.studies.replay import Plan\n"
        "from pagemig.trace import TraceFile\n"
        "with TraceFile(sys.argv[1]) as trace:\n"
        "    cori.dominant_reuse(trace)\n"
        "    for epochs in (2, 40):\n"
        "        plan = Plan(trace, machine='cori', fast_share=0.2, epochs=epochs)\n"
        "        plan.run(cori.Periodic(known=True))\n"
        "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    short, long = (
        int(subprocess.check_output([sys.executable, "-c", script, str(path)], timeout=300)) / 1024
        for path in traces
    )
    assert long < short + NOISE_MIB


# ---- readers ----------------------------------------------------------------------------------


# All accesses are to one page, so that nothing of the trace written has to be held.


def lackey(n):
    return b" L 04222f48,8\n L 04222f50,8\n" * (n // 2)


def table(n):
    return b"addr,write\n" + b"4099,1\n4096,1\n" * (n // 2)


def perf(n):
    line = b"              st 30852/30852 [001]  3047.235401: mem:     7f0c0f7cc000     7f0c0f7a4a10 x\n"
    return line * n


def damon(n):
    return b" k 1 [0] 1.5: damon:damon_aggregated: target_id=0 nr_regions=1 4096-8192: 3\n" * n


def damo(n):
    region = {"start": 4096, "end": "8,192", "nr_accesses": {"samples": 3}}
    shots = [{"end_time": 1000 * k, "regions": [region] * 20} for k in range(n // 20)]
    return json.dumps([{"target_id": 0, "snapshots": shots}]).encode()


def addresses(n):
    return b"\0\x10\xcc\x0f\x0c\x7f\0\0" * n


def pint(n):
    rows = np.stack([np.arange(n) * 10, np.full(n, 4096)], axis=1).astype("<u8")
    return b"PINT v0\0" + struct.pack("<6Q8x", n, 0, 0, 0, 0, 0) + rows.tobytes()


@pytest.mark.parametrize(
    ("made", "lines"),
    [
        (lackey, 200_000),
        (table, 300_000),
        (perf, 25_000),
        (damon, 4_000),
        (damo, 6_000),
        (addresses, 400_000),
        (pint, 200_000),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_reader_holds_a_piece_of_its_file(made, lines, tmp_path):
    """Of a file 16 times as long; whole in memory, or as objects, it would be 30 MB or more."""
    peaks = []
    for times in (1, 16):
        path = tmp_path / f"{times}"
        path.write_bytes(made(lines * times))
        peaks.append(peak_mib("trace", "convert", path, tmp_path / "out.pmt"))
    assert peaks[1] < peaks[0] + 22
