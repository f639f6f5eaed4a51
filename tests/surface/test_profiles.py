"""A kernel profile is one record: declared once, and checked against the core."""

import importlib.util
import sys
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

import pagemig as pm
from pagemig import _core, kernels
from pagemig.testing.poke import poke
from support.machines import PAGE

SWITCHES = [one.name for one in fields(pm.KernelProfile) if one.metadata.get("core")]
RECORD = [*SWITCHES, "call_mask", "mode_mask"]


def test_the_record_is_the_cores() -> None:
    assert list(_core.PROFILE.names or ()) == RECORD
    for profile in pm.KERNELS.values():
        record = profile.record()
        assert record.dtype == _core.PROFILE
        assert {name: int(record[name]) for name in RECORD} == {
            name: getattr(profile, name) for name in RECORD
        }


@pytest.mark.parametrize("changed", ["order", "name", "size"])
def test_another_layout_is_refused_at_import(monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    layout = [(name, np.uint32) for name in RECORD]
    other: list[tuple[str, Any]] = {
        "order": [layout[1], layout[0], *layout[2:]],
        "name": [("engines", np.uint32), *layout[1:]],
        "size": [*layout[:-1], (RECORD[-1], np.uint64)],
    }[changed]
    monkeypatch.setattr(_core, "PROFILE", np.dtype(other))
    spec = importlib.util.spec_from_file_location("kernels_again", kernels.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, again)
    with pytest.raises(ImportError, match=r"profile_t.*make build"):
        spec.loader.exec_module(again)


def test_every_switch_is_documented() -> None:
    text = pm.KernelProfile.__doc__ or ""
    for one in fields(pm.KernelProfile):
        assert f"\n{one.name} : " in text
    assert text.count("*core*") == len(SWITCHES)


@pytest.mark.parametrize(
    "name", [one.name for one in fields(pm.KernelProfile) if "range" in one.metadata]
)
def test_values_out_of_range_are_refused(name: str) -> None:
    least, most = next(
        one.metadata["range"] for one in fields(pm.KernelProfile) if one.name == name
    )
    for value in (least - 1, most + 1):
        with pytest.raises(ValueError, match=rf"{name} must be .*, not {value}"):
            replace(pm.KERNELS["6.1"], **{name: value})


# -- batch ----------------------------------------------------------------------------------------


def flushes(profile: pm.KernelProfile, pages: int, width: int = 64) -> int:
    """Flushes of a call that moves so many pages; all move."""
    machine = pm.Machine([pm.Node("16MiB", cpus=1), "16MiB"], kernel=profile)
    machine.width = width
    app = machine.spawn()
    base = app.mmap(pages * PAGE)
    app.touch(base, pages * PAGE, write=True)
    before = machine.counters["tlb_flush"]
    assert app.migrate_pages({0}, {1}) == 0
    machine.check(full=True)
    assert machine.counters["pgmigrate_success"] == pages
    return machine.counters["tlb_flush"] - before


@pytest.mark.parametrize("batch", [1, 7, 64, 512, 1 << 20])
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("width", [1, 64])
def test_a_batch_is_flushed_once(kernel: str, batch: int, width: int) -> None:
    profile = replace(pm.KERNELS[kernel], batch=batch)
    assert flushes(profile, 1200, width) == -(-1200 // batch)


@pytest.mark.parametrize("batch", [64, 512])
def test_move_pages_obeys_the_batch(batch: int) -> None:
    profile = replace(pm.KERNELS["6.12"], batch=batch)
    machine = pm.Machine([pm.Node("16MiB", cpus=1), "16MiB"], kernel=profile)
    app = machine.spawn()
    base = app.mmap(1200 * PAGE)
    app.touch(base, 1200 * PAGE, write=True)
    before = machine.counters["tlb_flush"]
    assert app.move_pages(base + np.arange(1200) * PAGE, 1).rc == 0
    machine.check(full=True)
    assert machine.counters["tlb_flush"] - before == -(-1200 // batch)


def test_batches_without_a_first_try_wait_for_nothing() -> None:
    """What asynchronous callers of 6.3 get: a locked page fails, and nobody waited for it."""
    machine = pm.Machine(
        [pm.Node("1MiB", cpus=1), "1MiB"], kernel=replace(pm.KERNELS["6.1"], batch=64)
    )
    app = machine.spawn()
    base = app.mmap(8 * PAGE)
    app.touch(base, 8 * PAGE, write=True)
    pfn = int(app.frames(base, 1)[0])
    poke(machine, "frame", pfn, "state", poke(machine, "frame", pfn, "state") | 1)
    assert app.migrate_pages({0}, {1}) == 1
    assert machine.counters["host_waits"] == 0
    poke(machine, "frame", pfn, "state", poke(machine, "frame", pfn, "state") & ~1)
    machine.check(full=True)


def test_swap_needs_its_switch() -> None:
    with pytest.raises(ValueError, match=r"swap .* not for 2\.6\.18"):
        pm.Machine(["1MiB"], swap=["1MiB"], kernel=replace(pm.KERNELS["2.6.18"], swap=0))
