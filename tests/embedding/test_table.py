"""The table of functions: its header, layouts and versions, and its calls beside Python's."""

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pagemig as pm
from pagemig import _api, api

INCLUDE = Path(pm.get_include())
HEADER = (INCLUDE / "pagemig" / "api.h").read_text()
PAGE = pm.PAGE_SIZE
WRITE, NOFAULT = 1, 16
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-pedantic")
HIT, MINOR, MAJOR, WAIT, SIGNAL, FAULT = range(6)


@pytest.fixture
def machine() -> pm.Machine:
    return pm.Machine([pm.Node("1MiB", cpus=2), pm.Node("1MiB", cpus=1), "1MiB"])


class Host:
    """A C host as ctypes: a machine of its own, and a context."""

    def __init__(self, kernel: bytes = b"6.1", pages: int = 256, **spec: int) -> None:
        nodes = (api.NodeSpec * 2)((pages, 0, 1, 1), (pages, 0, 1, 1))
        made = api.Spec(
            size=ctypes.sizeof(api.Spec),
            nr_nodes=2,
            nodes=ctypes.cast(nodes, ctypes.c_void_p),
            kernel=kernel,
            **spec,
        )
        self.machine = ctypes.c_void_p()
        self.rc = api.functions.machine_new(ctypes.byref(made), ctypes.byref(self.machine))

    def context(self, task: int = 0, cpu: int = 0, owns_time: int = 1) -> ctypes.c_void_p:
        context = ctypes.c_void_p()
        rc = api.functions.ctx_open(self.machine, task, cpu, owns_time, ctypes.byref(context))
        assert rc == 0, rc
        return context

    def check(self) -> None:
        text = ctypes.create_string_buffer(200)
        assert api.functions.check(self.machine, 1, text, 200) == 0, text.value


@pytest.mark.parametrize(
    ("compiler", "suffix", "standard"), [("cc", ".c", "-std=c99"), ("c++", ".cpp", "-std=c++11")]
)
def test_the_header_compiles_alone(tmp_path, compiler, suffix, standard):
    source = tmp_path / f"alone{suffix}"
    source.write_text('#include "pagemig/api.h"\nint main(void) { return pmg_usable(0); }\n')
    done = subprocess.run(
        [compiler, standard, *WARNINGS, f"-I{INCLUDE}", "-c", source, "-o", tmp_path / "alone.o"],
        capture_output=True,
        text=True,
    )
    if compiler == "c++" and "not found" in done.stderr:
        pytest.skip("no C++ compiler")
    assert done.returncode == 0, done.stderr


def test_layouts_of_ctypes_and_cffi_agree():
    ffi = pytest.importorskip("cffi").FFI()
    ffi.cdef(api.header())
    assert ffi.sizeof("pmg_api") == ctypes.sizeof(api._Table) == api.size
    for name, structure in vars(api.structures).items():
        c_name = "pmg_" + re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
        assert ffi.sizeof(c_name) == ctypes.sizeof(structure), name
        for field, *_ in structure._fields_:
            assert ffi.offsetof(c_name, field) == getattr(structure, field).offset, (name, field)


def test_every_function_of_the_table_is_there():
    for name, _ in api._Table._fields_[2:]:
        assert ctypes.cast(getattr(api.functions, name), ctypes.c_void_p).value, name


def test_the_outcome_is_32_bytes():
    assert ctypes.sizeof(api.Outcome) == 32


def test_cflags_name_the_headers():
    done = subprocess.run(
        [sys.executable, "-m", "pagemig", "--cflags"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"-I{INCLUDE}"


@pytest.mark.parametrize(
    ("spec", "answer"),
    [
        ({"kernel": b"9.9"}, -2),  # ENOENT
        ({"page_bytes": 5}, -22),
        ({"pages": 0}, -22),
        ({"pages": 1 << 33}, -22),
    ],
)
def test_what_describes_no_machine_is_refused(spec, answer):
    host = Host(**spec)
    assert host.rc == answer
    assert not host.machine.value


def test_a_machine_from_c_from_birth_to_death():
    host = Host(page_bytes=8)
    boot = host.context()
    task = api.functions.spawn(boot, 1, 1000)
    assert task > 0
    cpu = host.context(task, cpu=1)
    base = api.functions.mmap(cpu, 0, 8 * PAGE, 3, 0x22, 0, 0)
    out = api.Outcome()
    for i in range(8):
        assert api.functions.access(cpu, base + i * PAGE, WRITE, ctypes.byref(out)) == MINOR
        assert (out.node, out.levels) == (1, 4)  # where the processor is
    host.check()
    pages = (ctypes.c_uint64 * 8)(*(base + i * PAGE for i in range(8)))
    nodes, status = (ctypes.c_int32 * 8)(*[0] * 8), (ctypes.c_int32 * 8)()
    a, b, c = (api.User(ctypes.addressof(x), ctypes.sizeof(x)) for x in (pages, nodes, status))
    users = (ctypes.byref(a), ctypes.byref(b), ctypes.byref(c))
    assert api.functions.move_pages(cpu, 0, 8, *users, pm.MPOL_MF_MOVE, None) == 0
    assert list(status) == [0] * 8
    cost = api.Cost(size=ctypes.sizeof(api.Cost))
    assert api.functions.cost_take(cpu, ctypes.byref(cost)) == 0
    assert (cost.faults_minor, cost.pages_migrated, cost.entries_removed) == (8, 8, 8)
    assert cost.copy_bytes == 8 * PAGE
    assert api.functions.cost_take(cpu, ctypes.byref(cost)) == 0
    assert cost.pages_migrated == 0
    assert api.functions.machine_free(host.machine) == -601  # contexts are open
    assert api.functions.exit(cpu) == 0
    assert api.functions.munmap(cpu, base, PAGE) == -3  # ESRCH
    api.functions.ctx_close(cpu)
    host.check()
    api.functions.ctx_close(boot)
    assert api.functions.machine_free(host.machine) == 0


def test_a_thousand_machines_are_as_many_mappings_of_the_host():
    """A process may have 65,530 by default: for 10,000 machines few enough, if each has one."""

    def mappings() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    before = mappings()
    hosts = [Host(pages=16) for _ in range(1000)]
    assert mappings() - before <= 1100
    contexts = [host.context() for host in hosts]
    assert len({api.functions.spawn(context, 0, 0) for context in contexts}) == 1  # worlds apart
    for host, context in zip(hosts, contexts, strict=True):
        api.functions.ctx_close(context)
        assert api.functions.machine_free(host.machine) == 0
    assert mappings() <= before + 100


def test_a_python_machine_through_the_table(machine):
    app = machine.spawn(cpu=2)
    base = app.mmap(4 * PAGE)
    with app.context() as context:
        assert context.access(base, write=True) == MINOR
        assert (context.node, context.access(base)) == (1, HIT)
        out = api.Outcome()
        assert api.functions.translate(context.address, base + PAGE, ctypes.byref(out)) == FAULT
        assert (
            api.functions.access(context.address, base + PAGE, NOFAULT, ctypes.byref(out)) == FAULT
        )
        assert app.move_pages([base], 2).status.tolist() == [2]
        assert context.access(base) == HIT
        assert context.node == 2
        machine.check(full=True)
        assert context.access(16, write=True) == SIGNAL
        assert context.signal == 11
    with pytest.raises(ValueError, match="closed"):
        context.access(base)
    assert machine.vmstat["pgfault"] == 1


def test_many_accesses_tell_where_each_page_was(machine):
    app = machine.spawn()
    n = 64
    base = app.mmap(n * PAGE)
    app.mbind(base, n * PAGE, pm.Interleave([0, 1, 2]))
    app.touch(base, n // 2 * PAGE, write=True)
    order = np.random.default_rng(5).integers(0, n, 500)
    addresses = base + order.astype(np.uint64) * np.uint64(PAGE)
    node, kind = np.full(500, -9, np.int8), np.full(500, 99, np.uint8)
    with app.context() as context:
        assert context.access_many(addresses, np.ones(500, bool), node=node, kind=kind) == 500
        seen = set(range(n // 2))
        for i, page in enumerate(order):
            assert kind[i] == (HIT if page in seen else MINOR)
            seen.add(page)
        where = app.move_pages(addresses).status
        np.testing.assert_array_equal(node, where)
        addresses[7] = 8  # the program would get SIGSEGV there
        assert context.access_many(addresses) == 7
        assert (context.kind, context.signal) == (SIGNAL, 11)


def test_a_walker_reads_what_the_tables_hold(machine):
    app = machine.spawn()
    base = app.mmap(3 * PAGE)
    app.touch(base, 2 * PAGE)  # read: accessed, not dirty
    app.touch(base + PAGE, PAGE, write=True)
    info = api.Info(size=ctypes.sizeof(api.Info))
    assert api.functions.machine_info(api.machine(machine), ctypes.byref(info)) == 0
    with app.context() as context:
        walk = api.Walk()
        assert api.functions.walk(context.address, base + PAGE, ctypes.byref(walk)) == 4
        tables = (ctypes.c_uint64 * (info.max_tables * 512)).from_address(info.tables)
        at = api.functions.cr3(context.address)
        for level in range(4):
            slot = base + PAGE >> 12 + 9 * (3 - level) & 511
            assert walk.entry_pa[level] == at + 8 * slot
            entry = tables[(walk.entry_pa[level] >> 12) - info.table_pfn << 9 | slot]
            assert entry == walk.entry[level]
            at = entry & ((1 << 52) - 1) & ~4095
        pte = walk.entry[3]
        dirty = 1 << 6
        assert pte & dirty
        assert api.functions.walk(context.address, base + 2 * PAGE, ctypes.byref(walk)) == 4
        assert walk.entry[3] == 0
        assert api.functions.pte_set(context.address, walk.entry_pa[3], 1, dirty) in (0, 1)
        assert api.functions.pte_set(context.address, 8, 1, dirty) == -22
        assert api.functions.walk(context.address, 1 << 60, ctypes.byref(walk)) == 0
    machine.check()


def test_a_handle_of_a_process_that_is_gone_is_esrch(machine):
    app = machine.spawn()
    task = api.task(app)
    app.exit()
    context = ctypes.c_void_p()
    rc = api.functions.ctx_open(api.machine(machine), task, 0, 1, ctypes.byref(context))
    assert (rc, context.value) == (-3, None)
    for wild in (1 << 63, 5 << 32 | 1000, 0xFFFFFFFF, 999):
        rc = api.functions.ctx_open(api.machine(machine), wild, 0, 1, ctypes.byref(context))
        assert rc == -3


def test_machines_and_processes_only_have_addresses_and_handles(machine):
    with pytest.raises(TypeError, match="owner must be a Machine, not 7"):
        api.machine(7)
    with pytest.raises(TypeError, match="process must be a Process, not <"):
        api.task(machine)


def test_structures_of_another_size_are_refused_or_cut(machine):
    info = api.Info(size=2)
    assert api.functions.machine_info(api.machine(machine), ctypes.byref(info)) == -600
    info = api.Info(size=8, nr_cpus=77)
    assert api.functions.machine_info(api.machine(machine), ctypes.byref(info)) == 0
    assert (info.nr_nodes, info.nr_cpus) == (3, 77)  # nothing beyond what the caller has


def test_the_capsule_has_the_name_of_the_header():
    [name] = re.findall(r'#define PMG_CAPSULE "(.*)"', HEADER)
    assert f'"{name}"' in repr(_api.table)
