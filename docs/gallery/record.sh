#!/bin/sh
# Record the traces of the gallery anew, into the current directory:
#
#     make build && cd /tmp && .../docs/gallery/record.sh             all that docs/gallery holds
#     .../docs/gallery/record.sh redis walk                           some of them
#     .../docs/gallery/record.sh sqlite sort                          those that ship with the package
#
# Needs valgrind, gcc, redis-server, redis-cli and redis-benchmark, and for those that ship sqlite3 and g++ with its
# headers (Debian, Ubuntu: apt install valgrind gcc redis-server sqlite3 g++), and pagemig built with numpy from a wheel,
# which has OpenBLAS. PYTHON says which Python; that of the tree's .venv unless given. Each takes from some seconds to
# two minutes, since every access of a program becomes a line of text. What a program accesses depends on the
# versions of programs and libraries: traces recorded elsewhere are alike, not the same. With the same versions, those
# of docs/gallery come out with half a percent more accesses or less.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
fail() { echo "record.sh: $*" >&2; exit 2; }
known="walk cc1 python solve redis"
shipped="sqlite sort"
if [ -z "${PYTHON:-}" ]; then
	PYTHON=python3
	[ ! -x "$root/.venv/bin/python" ] || PYTHON=$root/.venv/bin/python
fi
command -v "$PYTHON" >/dev/null || fail "there is no Python '$PYTHON'"
PYTHON=$(command -v "$PYTHON")
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
pagemig() { "$PYTHON" -m pagemig "$@"; }
record() { pagemig record --no-children --small "$@"; }
need() { # what for, then commands
	for tool in "$@"; do
		[ "$tool" = "$1" ] || command -v "$tool" >/dev/null || fail "$1 needs $tool, which is not installed (see the top of $0)"
	done
}

# ---- the programs -----------------------------------------------------------------------------

# A graph walk: breadth first through a random graph, four times. The building is left out, and so
# are three in four walks.
record_walk() {
	gcc -O2 -o "$work/walk" "$here/walk.c"
	record --cache 512KiB -o "$work/whole.pmt" -- "$work/walk"
	pagemig trace convert --small --skip 740000 --limit 300000 "$work/whole.pmt" walk.pmt
}

# A compiler: gcc's cc1 on a C file of the examples, preprocessed first.
record_cc1() {
	include=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
	gcc -E -I"$root/pagemig/include" -I"$include" "$root/examples/cache/cache.c" -o "$work/cache.i"
	record --limit 52506804 -o cc1.pmt -- \
		"$(gcc -print-prog-name=cc1)" -quiet -O1 -fpreprocessed "$work/cache.i" -o /dev/null
}

# An interpreter: Python starts and imports numpy.
record_python() {
	real=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))')
	packages=$("$PYTHON" -c 'import numpy, os; print(os.path.dirname(os.path.dirname(numpy.__file__)))')
	PYTHONHASHSEED=0 record --limit 55616574 -o python.pmt -- \
		"$real" -I -S -c "import sys; sys.path.insert(0, '$packages'); import numpy"
}

# Linear algebra: a system of 520 equations, solved by the OpenBLAS that numpy ships, on one thread
# and without AVX-512, which valgrind lacks.
record_solve() {
	gcc -O2 -o "$work/solve" "$here/solve.c" -ldl
	OPENBLAS_NUM_THREADS=1 OPENBLAS_CORETYPE=Haswell \
		record --cache 256KiB -o solve.pmt -- "$work/solve" "$blas"
}

# A key-value store: redis with 3,000 values of 1,000 bytes, set and read at random.
record_redis() {
	socket=$work/redis.sock
	record --limit 40756679 -o redis.pmt -- redis-server --save '' --port 0 --unixsocket "$socket" --dir "$work" &
	recorder=$!
	until redis-cli -s "$socket" ping >/dev/null 2>&1; do
		kill -0 "$recorder" 2>/dev/null || fail "redis-server did not start"
		sleep 1
	done
	# It ends by itself where the limit is reached, which the other side sees as an error.
	redis-benchmark -s "$socket" -c 2 -P 16 -r 3000 -n 4000 -d 1000 -t set,get -q || true
	redis-cli -s "$socket" shutdown nosave >/dev/null 2>&1 || true
	wait "$recorder" || true
	recorder=
}

# ---- those that ship: pagemig/data/README.md says what they are --------------------------------

headers() { # C headers in order of their names, from the folders that compilers bring
	find /usr/include/linux /usr/include/c++ /usr/include/x86_64-linux-gnu -type f | LC_ALL=C sort
}

record_sort() {
	headers | tr '\n' '\0' | xargs -0 cat | head -c 8000000 >"$work/in8.txt"
	LC_ALL=C record -o sort.pmt -- "$(command -v sort)" --parallel=1 -S 64M -o /dev/null "$work/in8.txt"
}

record_sqlite() {
	headers | "$PYTHON" -c '
import sys
rows = 0
for path in sys.stdin.read().splitlines():
    lines = open(path, errors="replace").read().replace("\t", " ").replace("\"", " ").splitlines()
    for at in range(0, len(lines), 8):
        if rows == 20000:
            sys.exit()
        print(path, at + 1, " ".join(lines[at : at + 8]), sep="\t")
        rows += 1
' >"$work/lines.tsv"
	"$PYTHON" -c '
import re, sys
print(re.search("```sql\n(.*?)```", open(sys.argv[1]).read(), re.S)[1].replace("lines.tsv", sys.argv[2]), end="")
' "$root/pagemig/data/README.md" "$work/lines.tsv" >"$work/db.sql"
	record -o sqlite.pmt -- "$(command -v sqlite3)" -init /dev/null :memory: ".read $work/db.sql"
}

# ---- what is wanted -----------------------------------------------------------------------------

names=${*:-$known}
for name in $names; do
	case " $known $shipped " in *" $name "*) ;; *) fail "no program '$name'; there are $known $shipped" ;; esac
	need "$name" valgrind
	case $name in
	walk | cc1 | solve) need "$name" gcc ;;
	redis) need redis redis-server redis-cli redis-benchmark ;;
	sqlite) need sqlite sqlite3 g++ ;;
	sort) need sort g++ ;;
	esac
done
"$PYTHON" -c 'import numpy, pagemig' || fail "$PYTHON cannot import pagemig and numpy: make build, or set PYTHON"
case " $names " in *" solve "*)
	blas=$("$PYTHON" -c 'import glob, numpy, os; print(*glob.glob(os.path.dirname(numpy.__file__) + ".libs/libscipy_openblas64_*")[:1])')
	[ -n "$blas" ] || fail "solve needs the OpenBLAS of numpy's wheel, and this numpy has none"
	;;
esac
recorder=
work=$(mktemp -d)
trap '[ -z "$recorder" ] || kill "$recorder" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
for name in $names; do
	echo "== $name"
	"record_$name"
done
