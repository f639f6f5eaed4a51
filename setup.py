"""Extension modules and build modes; every other fact about the project is in pyproject.toml.

``PAGEMIG_BUILD`` picks the mode:

=========  ==============================================================================
fast       the default and what wheels hold: -O3, no checks, no ``-march``
debug      -O0, checked indices of lists, C assertions, annotated HTML beside the C
thread     ThreadSanitizer (run with the compiler's libtsan preloaded: ``make tsan``)
address    AddressSanitizer and UBSan (likewise: ``make asan``)
coverage   line tracing of .pyx and .pxd for coverage.py (``make cover``)
none       no extensions: what ``make`` uses to link the tree before it builds in place
placed     nothing is compiled: a wheel gets the objects in the tree
=========  ==============================================================================

``PAGEMIG_JOBS`` is the number of processes, by default one for each processor.

``PAGEMIG_PLANT=race`` plants a data race in a lock, ``nocopy`` leaves out the copy of a page that
moves, ``guards`` makes a build from which ``PAGEMIG_MUTANT=GUARD_PINNED`` takes that guard out:
``make mutants`` demands that the sanitizer and the tests find them.  ``narrow`` makes the counts of
a frame so narrow that tests reach their limits (``make narrow``).  ``locked`` counts locked
instructions (``make locked``), and from ``plain`` ``PAGEMIG_MUTANT=SOLE_FREED`` makes that store
plain, which ThreadSanitizer must report.
"""

import gc
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

CFLAGS = {
    "fast": ["-O3", "-g0"],
    "debug": ["-O0", "-g3", "-UNDEBUG", "-DPAGEMIG_DEBUG"],
    "thread": ["-O1", "-g", "-fsanitize=thread", "-fno-omit-frame-pointer"],
    "address": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
    "coverage": ["-O0", "-g1"],
    "none": [],
    "placed": [],
}
PLANTS = {
    "": [],
    "race": ["PAGEMIG_PLANT_RACE"],
    "nocopy": ["PAGEMIG_PLANT_NOCOPY"],
    "guards": ["PAGEMIG_PLANT_GUARDS"],
    "narrow": ["PAGEMIG_PLANT_NARROW"],
    "locked": ["PAGEMIG_PLANT_LOCKED"],
    "plain": ["PAGEMIG_PLANT_PLAIN"],
}
PLANT = os.environ.get("PAGEMIG_PLANT") or ""
MODE = os.environ.get("PAGEMIG_BUILD") or "fast"
JOBS = int(os.environ.get("PAGEMIG_JOBS") or len(os.sched_getaffinity(0)))
BUILD = Path("build")
#: Cython's own helpers: built once instead of into every module.
SHARED = "pagemig._cython"
#: Modules whose loops, if any, call others: optimising them further takes longer than it saves.
COLD = (
    SHARED,
    "pagemig._api",
    "pagemig._arrays",
    "pagemig._calls",
    "pagemig._core",
    "pagemig._memory",
    "pagemig._mpol",
    "pagemig._state",
    "pagemig.mm.api",
    "pagemig.mm.build",
    "pagemig.mm.check",
    "pagemig.mm.cred",
    "pagemig.mm.gup",
    "pagemig.mm.memory_hotplug",
    "pagemig.mm.mig",
    "pagemig.mm.numbers",
    "pagemig.mm.pfnmap",
    "pagemig.mm.place",
    "pagemig.mm.state",
    "pagemig.mm.swapfile",
    "pagemig.mm.truncate",
    "pagemig.mm.vmscan",
    "pagemig.testing.poke",
)


def mode_changed() -> bool:
    """Tell whether the objects in the tree come from another mode, and remember this one.

    setuptools compares only file times, so without this a debug build after a fast one
    would keep the fast objects.
    """
    stamp = BUILD / "mode"
    present = MODE + PLANT
    changed = stamp.exists() and stamp.read_text() != present
    BUILD.mkdir(exist_ok=True)
    stamp.write_text(present)
    return changed


def layout() -> str:
    """Hash the structures that saved machines consist of: files with others are refused."""
    whole = Path("pagemig/mm/types.pxd").read_text()
    text = re.sub(r"#.*", "", whole)
    declared = re.findall(r"^(?:ctypedef struct|cdef enum) \w+:\n(?:(?: .*)?\n)*", text, re.M)
    sizes = re.findall(r"#define (?:MAX|NR|PID|PVEC|PCP|STATS)\w* .*", whole)
    words = " ".join(" ".join([*declared, *sizes]).split())
    return f"0x{hashlib.sha256(words.encode()).hexdigest()[:16]}ull"


def extension(name: str, source: Path, **inputs: Any) -> Extension:
    """Make an extension with the flags of the mode."""
    flags = ["-std=gnu11", "-Wall", "-Wno-sign-compare", "-fno-strict-aliasing", *CFLAGS[MODE]]
    return Extension(
        name,
        [str(source)],
        extra_compile_args=flags + ["-O1"] * (MODE == "fast" and name in COLD),
        extra_link_args=[flag for flag in flags if flag.startswith("-fsanitize")],
        **inputs,
    )


def bytes_and_name(source: Path) -> tuple[int, Path]:
    """Sort the longest first: what is compiled last is short, and no processor waits for it."""
    return source.stat().st_size, source


def extensions() -> list[Extension]:
    """Make an extension for every ``.pyx`` below ``pagemig``.

    Cython itself follows the ``.pxd`` files a module cimports. The headers it cannot see
    through, since they include each other, so all of them are inputs of every module.
    """
    import numpy as np

    macros = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
    macros += [(name, "1") for name in PLANTS[PLANT]]
    if MODE == "coverage":
        macros += [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]
    return [
        extension(
            ".".join(source.with_suffix("").parts),
            source,
            include_dirs=["pagemig/include", np.get_include()],
            depends=sorted(map(str, Path("pagemig/include").rglob("*.h"))),
            define_macros=macros + [("PMG_LAYOUT", layout())] * (source.stem == "state"),
        )
        for source in sorted(Path("pagemig").rglob("*.pyx"), key=bytes_and_name, reverse=True)
    ]


def find_declarations_at_once() -> None:
    """Tell Cython where the declarations of this package are.

    For every name in ``from pagemig.mm.types cimport vma_t``, Cython looks for a module of that
    name in each folder of ``sys.path``: twelve thousand searches.
    """
    from Cython.Compiler.Main import Context

    search = Context.find_pxd_file

    def find(self: Any, module: str, *args: Any, **kwargs: Any) -> Any:
        if not module.startswith("pagemig."):
            return search(self, module, *args, **kwargs)
        path = Path(*module.split(".")).with_suffix(".pxd")
        return str(path) if path.exists() else None

    Context.find_pxd_file = find


def modules() -> list[Extension]:
    """Translate the extensions to C."""
    if MODE not in CFLAGS:
        raise SystemExit(f"PAGEMIG_BUILD={MODE!r} is not one of {', '.join(CFLAGS)}")
    if PLANT not in PLANTS:
        raise SystemExit(f"PAGEMIG_PLANT={PLANT!r} is not one of {', '.join(filter(None, PLANTS))}")
    if MODE == "none":
        return []
    found = [extension(SHARED, Path(SHARED.replace(".", "/")).with_suffix(".c")), *extensions()]
    if MODE == "placed":
        return found
    from Cython.Build import cythonize

    find_declarations_at_once()
    gc.disable()  # searching the syntax trees for garbage costs more time than it saves memory
    checked = MODE in ("debug", "address", "coverage")
    return cythonize(
        found,
        shared_utility_qualified_name=SHARED,
        # No module has typed memoryviews: pagemig._arrays takes arrays.
        shared_utility_features_disabled=["MemoryView"],
        # The coverage plugin looks for the C beside the source; other modes keep it in build/.
        build_dir=None if MODE == "coverage" else str(BUILD / MODE),
        nthreads=JOBS if JOBS > 1 else 0,
        annotate=MODE == "debug",
        emit_linenums=MODE in ("debug", "thread", "address"),  # reports then name the .pyx
        compiler_directives={
            "language_level": 3,
            "boundscheck": checked,
            "wraparound": False,
            "cdivision": True,
            "freethreading_compatible": True,
            "auto_pickle": False,
            "emit_code_comments": MODE != "fast",  # a third of the C, to write and to read
            "embedsignature": True,
            "linetrace": MODE == "coverage",
        },
    )


#: Modules that only the tests and benchmarks of this tree use; wheels do not contain them.
OWN_USE = ("pagemig.testing.host", "pagemig.testing.poke")


class BuildExt(build_ext):
    """Builds all extensions in the tree itself, and elsewhere those that a wheel contains."""

    def finalize_options(self) -> None:
        """Choose the extensions."""
        super().finalize_options()
        if not self.inplace:
            self.extensions = [e for e in self.extensions or [] if e.name not in OWN_USE]

    def build_extension(self, ext: Extension) -> None:
        """Build an extension, or copy the one in the tree."""
        if MODE != "placed":
            super().build_extension(ext)
            return
        placed = self.get_ext_filename(ext.name)
        if not Path(placed).exists():
            raise SystemExit(f"{placed} is not there: python setup.py build_ext --inplace makes it")
        self.mkpath(str(Path(self.get_ext_fullpath(ext.name)).parent))
        self.copy_file(placed, self.get_ext_fullpath(ext.name))


class BuildPy(build_py):
    """Takes every other file of the package that a wheel contains."""

    def find_data_files(self, package: str, src_dir: str) -> list[str]:
        """Leave out the sources of modules that only this tree uses."""
        own = tuple(f"{name.rpartition('.')[2]}.py" for name in OWN_USE)  # .pyx and .pyi
        files: list[str] = super().find_data_files(package, src_dir)
        outside = package != "pagemig.testing"
        return [file for file in files if outside or not Path(file).name.startswith(own)]


if __name__ == "__main__":
    found = modules()
    compiled = bool(found) and MODE != "placed"
    setup(
        ext_modules=found,
        cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
        options={"build_ext": {"parallel": JOBS, "force": compiled and mode_changed()}},
    )
