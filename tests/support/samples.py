"""A small trace in each format that there is a reader for.

Those of DAMON, ChampSim and PINT, and those of ``perf mem``, are written by hand from the formats'
documentation: their tools cannot run on an ordinary machine. The one of page faults is in the form
that ``perf script`` printed for a small program.
"""

import bz2
import gzip
import io
import json
import lzma
import struct
import tempfile
from pathlib import Path

import numpy as np
import pyarrow
import zstandard
from pyarrow import parquet

from pagemig.trace import Trace

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


PERF = b"""# ========
# captured on    : a machine
#
              st 30852/30852  3047.235399:          1                    page-faults:     55bd33730020 ffffffff8d4005b0 [unknown] ([kernel.kallsyms])
              st 30852/30852 [001]  3047.235401: page-faults:u:     7f0c0f7cc000     7f0c0f7a4a10 _dl_start+0x10 (/lib/ld.so)
\tffffffff8d4005b0 asm_exc_page_fault+0x20 ([kernel.kallsyms])

 my prog 1 77/78  3047.300000000: cpu/mem-loads,ldlat=30/P:     7ffd00001008         5080144 |OP LOAD|LVL L1 hit|SNP None
 my prog 1 77/79  3047.400000: cpu/mem-stores/P:     7ffd00002010
 a 12 [000]  3047.5: mem:     7ffd00003000         5080144 |OP STORE|LVL N/A
 a 12 [000]  3047.6: mem:                0
 a 12 [000]  3048.000001: exceptions:page_fault_user: address=0x7f00deadb000 ip=0x55d0 error_code=0x6
"""


DAMON = b"""# tracer: nop
       kdamond.0  4452 [000] 82820.952659: damon:damon_aggregated: target_id=0 nr_regions=3 4096-12288: 0 17
       kdamond.0  4452 [000] 82820.952660: damon:damon_aggregated: target_id=0 nr_regions=3 12288-20480: 3
       kdamond.0  4452 [000] 82821.052660: damon:damos_before_apply: ctx_idx=0 scheme_idx=0 target_idx=0 nr_regions=1 8192-12288: 5 2
"""

JSON = [
    {
        "target_id": 0,
        "snapshots": [
            {
                "start_time": "1,000",
                "end_time": "2,000",
                "regions": [
                    {"start": "94,208", "end": "102,400", "nr_accesses": {"samples": "2", "percent": "10"}},
                    {"start": 4096, "end": 8192, "nr_accesses": {"samples": 0}},
                    {"start": "4096", "end": "8192", "nr_accesses": 7},
                ],
            }
        ],
    }
]  # fmt: skip


def champsim(ip, loads=(), stores=(), branch=0, taken=0):
    loads, stores = [*loads, 0, 0, 0, 0][:4], [*stores, 0, 0][:2]
    return struct.pack("<QBB6x2Q4Q", ip, branch, taken, *stores, *loads)


CHAMPSIM = (
    champsim(0x400000, loads=[0x7000, 0x8008], stores=[0x9000])
    + champsim(0x400004, branch=1, taken=1)
    + champsim(0x400008, stores=[0x7010, 0xA000])
)


PINT = (
    b"PINT v0\0" + struct.pack("<6Q8x", 2, 1, 0, 0, 0, 0)
    + struct.pack("<2Q", 10, 0x7000) + struct.pack("<2Q", 25, 0x8001)
)  # fmt: skip


def saved(save, *args, **kwargs):
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


PACKINGS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def pmt():
    """A trace of pagemig's own."""
    with tempfile.NamedTemporaryFile() as file:
        Trace.from_accesses([1, 2, 1, 70], [True, False, False, True]).save(file.name)
        return Path(file.name).read_bytes()


SAMPLES = {
    "lackey": SAMPLE.encode(),
    "csv": b"addr,w\n4096,1\n",
    "perf": PERF,
    "damon": DAMON,
    "damon-json": json.dumps(JSON).encode(),
    "champsim": CHAMPSIM * 30,
    "pint": PINT,
    "u64": (np.arange(1000, dtype="<u8") * 4096 + 0x7F0000000000).tobytes(),
    "npy": saved(np.save, np.arange(5)),
    "npz": saved(np.savez, addr=np.arange(5)),
    "pmt": pmt(),
    "parquet": saved(lambda b: parquet.write_table(pyarrow.table({"addr": [1]}), b)),
}
