"""A C host saves, loads and copies machines through the table; files go between it and Python."""

import ctypes
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pagemig as pm
from pagemig import api
from support.hosts import compiled

PAGE = pm.PAGE_SIZE
SOURCE = Path(__file__).parent / "state.c"
TABLE = ctypes.c_void_p(api.address)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return compiled(SOURCE, tmp_path_factory.mktemp("host"))


@pytest.mark.parametrize("kernel", pm.KERNELS)
def test_a_machine_goes_on_where_it_was_saved(host: Any, kernel: str, tmp_path: Path) -> None:
    if "move_pages" not in pm.KERNELS[kernel].calls:
        pytest.skip("it has no such call")
    path = tmp_path / "machine"
    line = host.save_and_go_on(TABLE, kernel.encode(), str(path).encode())
    assert line == 0, SOURCE.read_text().splitlines()[-line - 1]
    loaded = pm.Machine.load(path)
    assert loaded.kernel == kernel
    assert loaded.nodes == (pm.Node("1MiB", cpus=1), pm.Node("1MiB", cpus=1))
    [move] = loaded.migrations
    assert move.finish().status.tolist() == [1] * 40
    loaded.check(full=True)


def test_a_machine_of_python_goes_through_c(host: Any, tmp_path: Path) -> None:
    nodes = [pm.Node("1MiB", cpus=2, reserved="64KiB", watermark="16KiB"), pm.Node("2MiB", cpus=1)]
    machine = pm.Machine(
        nodes, kernel="2.6.18", page_bytes=8, distances=[[10, 15], [17, 10]], swap=["1MiB", "64KiB"]
    )
    app = machine.spawn(cpu=1)
    base = app.mmap(4 * PAGE)
    app.touch(base, 4 * PAGE, write=True, values=np.arange(4, dtype=np.uint64))
    machine.save(tmp_path / "first")
    assert host.through_c(TABLE, bytes(tmp_path / "first"), bytes(tmp_path / "second")) == 0
    loaded = pm.Machine.load(tmp_path / "second")
    for name in ("nodes", "kernel", "page_bytes", "access_stats", "swap", "counters", "vmstat"):
        assert getattr(loaded, name) == getattr(machine, name), name
    np.testing.assert_array_equal(loaded.distances, machine.distances)
    np.testing.assert_array_equal(loaded.process(app.pid).touch(base, 4 * PAGE).values, range(4))


def test_a_kernel_of_ones_own_needs_its_description(host: Any, tmp_path: Path) -> None:
    profile = dataclasses.replace(pm.kernel_profile("6.12"), name="mine", batch=16)
    pm.Machine(["1MiB"], kernel=profile).save(tmp_path / "first")
    assert host.through_c(TABLE, bytes(tmp_path / "first"), bytes(tmp_path / "second")) == 0
    with pytest.raises(pm.StateError, match=r"save it with Machine\.save"):
        pm.Machine.load(tmp_path / "second")


def test_operations_in_python_keep_c_from_saving(tmp_path: Path) -> None:
    machine = pm.Machine([pm.Node("1MiB", cpus=1)])
    app = machine.spawn()
    base = app.mmap(PAGE)
    app.set_vm_ops(base, migrate=lambda *_: 0)
    made, text = ctypes.c_void_p(), ctypes.create_string_buffer(200)
    rc = api.functions.copy(api.machine(machine), ctypes.byref(made), text, 200)
    assert (rc, made.value) == (-16, None)
    assert b"unmap them first" in text.value
    app.munmap(base, PAGE)
    assert api.functions.copy(api.machine(machine), ctypes.byref(made), text, 200) == 0
    assert api.functions.machine_free(made) == 0
