"""What an installed wheel must do where there is nothing but numpy: run by that environment.

python -I smoke.py
"""

import contextlib
import ctypes
import importlib
import io
import pkgutil
import sys
from pathlib import Path

import numpy as np

import pagemig as pm
from pagemig import api
from pagemig.commands.main import main

#: What the extras bring: a module that needs one of them says so when it is imported.
EXTRAS = {"matplotlib", "tqdm", "dask", "distributed", "zstandard", "pyarrow", "pytest"}
PAGE = pm.PAGE_SIZE


def import_everything() -> int:
    """Import every module; how many there are."""
    names = [found.name for found in pkgutil.walk_packages(pm.__path__, "pagemig.")]
    for name in names:
        if name.endswith("__main__"):
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            assert error.name in EXTRAS, f"{name}: {error}"
    return len(names)


def move(kernel: str) -> None:
    """Move pages with their content, copy the machine, and judge both."""
    machine = pm.Machine([pm.Node("4MiB", cpus=1), "4MiB"], kernel=kernel, page_bytes=8)
    app = machine.spawn()
    base = app.mmap(64 * PAGE)
    values = np.arange(64, dtype=np.uint64)
    app.touch(base, 64 * PAGE, write=True, values=values)
    app.migrate_pages({0}, {1})
    assert set(app.nodes(base, 64).tolist()) == {1}
    for one in (machine, machine.copy()):
        one.check(full=True)
    assert (app.touch(base, 64 * PAGE).values == values).all()


def through_the_table() -> None:
    """Ask the table, as ctypes does, and a context."""
    machine = pm.Machine([pm.Node("4MiB", cpus=1), "4MiB"])
    info = api.Info(size=ctypes.sizeof(api.Info))
    assert api.functions.machine_info(api.machine(machine), ctypes.byref(info)) == 0
    assert info.nr_nodes == 2
    app = machine.spawn()
    base = app.mmap(PAGE)
    with app.context() as cpu:
        assert cpu.access(base, write=True) == 1
        assert cpu.access(base) == 0


def commands() -> None:
    """Replay a trace that ships, and ask a command for its flags."""
    trace = Path(pm.__file__).parent / "data" / "sort.pmt"
    for words, least in ((["replay", str(trace)], "policy"), (["trace", "info", str(trace)], "")):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(words) == 0
        assert least in printed.getvalue() and printed.getvalue()
    assert (Path(pm.get_include()) / "pagemig" / "boot.h").exists()


if __name__ == "__main__":
    modules = import_everything()
    for kernel in ("2.6.18", "6.1", "6.12", "6.18"):
        move(kernel)
    through_the_table()
    commands()
    own = {name.partition(".")[0] for name in sys.modules} & EXTRAS
    assert not own, own
    print(f"{modules} modules with numpy {np.__version__}")
