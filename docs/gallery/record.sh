#!/bin/sh
# Record the traces of the gallery anew, into the current directory. Needs valgrind, gcc, numpy and
# redis; takes a minute or two each, since every access of a program becomes a line of text.
# sqlite and sort ship with the package; pagemig/data/README.md has their recipes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
pagemig() { "$PYTHON" -m pagemig "$@"; }
record() { pagemig record --no-children --small "$@"; }

# A graph walk: breadth first through a random graph, four times. The building is left out, and so
# are three in four walks.
gcc -O2 -o walk "$here/walk.c"
record --cache 512KiB -o whole.pmt -- ./walk
pagemig trace convert --small --skip 740000 --limit 300000 whole.pmt walk.pmt

# A compiler: gcc's cc1 on a C file of the examples, preprocessed first.
include=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
gcc -E -I"$root/pagemig/include" -I"$include" "$root/examples/cache/cache.c" -o cache.i
record --limit 52506804 -o cc1.pmt -- \
	"$(gcc -print-prog-name=cc1)" -quiet -O1 -fpreprocessed cache.i -o /dev/null

# An interpreter: Python starts and imports numpy.
PYTHONHASHSEED=0 record --limit 55616574 -o python.pmt -- \
	"$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))')" -I -S -c "
import sys
sys.path.insert(0, '$("$PYTHON" -c 'import numpy, os; print(os.path.dirname(os.path.dirname(numpy.__file__)))')')
import numpy"

# Linear algebra: a system of 520 equations, solved by the OpenBLAS that numpy ships, on one thread
# and without AVX-512, which valgrind lacks.
gcc -O2 -o solve "$here/solve.c" -ldl
blas=$("$PYTHON" -c 'import glob, numpy, os; print(glob.glob(os.path.dirname(numpy.__file__) + ".libs/libscipy_openblas64_*")[0])')
OPENBLAS_NUM_THREADS=1 OPENBLAS_CORETYPE=Haswell \
	record --cache 256KiB -o solve.pmt -- ./solve "$blas"

# A key-value store: redis with 3,000 values of 1,000 bytes, set and read at random.
record --limit 40756679 -o redis.pmt -- \
	redis-server --save '' --port 0 --unixsocket "$PWD/redis.sock" &
until redis-cli -s redis.sock ping >/dev/null 2>&1; do sleep 1; done
redis-benchmark -s redis.sock -c 2 -P 16 -r 3000 -n 4000 -d 1000 -t set,get -q || true
wait
