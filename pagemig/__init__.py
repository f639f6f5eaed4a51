"""Linux page migration as a library.

Page tables, reverse maps, page locks, migration entries and memory policies of a NUMA machine,
modelled page by page and driven through the kernel's own calls.

>>> import pagemig as pm
>>> machine = pm.Machine([pm.Node("64MiB", cpus=1), pm.Node("64MiB")])
>>> app = machine.spawn()
>>> base = app.mmap(8 * pm.PAGE_SIZE)
>>> app.mbind(base, 8 * pm.PAGE_SIZE, pm.Interleave([0, 1]))
>>> app.touch(base, 8 * pm.PAGE_SIZE, write=True).minflt
8
>>> pages = range(base, base + 8 * pm.PAGE_SIZE, pm.PAGE_SIZE)
>>> app.move_pages(pages).status.tolist()
[0, 1, 0, 1, 0, 1, 0, 1]
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagemig.constants import *  # noqa: F403
from pagemig.constants import __all__ as _constants
from pagemig.errors import (
    InvariantError,
    KernelBug,
    ProcessGoneError,
    StateError,
    SyscallError,
    errno_name,
)
from pagemig.kernels import DEFAULT_KERNEL, KERNELS, KernelProfile, kernel_profile
from pagemig.policy import (
    Bind,
    Default,
    Interleave,
    Local,
    Policy,
    Preferred,
    PreferredMany,
    WeightedInterleave,
)
from pagemig.system.credentials import INIT_PID, KTHREAD_PID
from pagemig.system.frames import FRAME_FLAGS, Frames
from pagemig.system.machine import (
    STEPS,
    File,
    Flush,
    ListsResult,
    Machine,
    Node,
    OfflineResult,
    SwapDevice,
)
from pagemig.system.migration import Migration, MigrationEvent
from pagemig.system.numa import MoveResult, PolicyResult
from pagemig.system.proc import Vma
from pagemig.system.process import AccessResult, Pin, Process, TouchResult

if TYPE_CHECKING:
    from pagemig.studies.sweep import Grid, sweep

__version__ = "0.1.0"

__all__ = [
    *_constants,
    "DEFAULT_KERNEL",
    "FRAME_FLAGS",
    "INIT_PID",
    "KERNELS",
    "KTHREAD_PID",
    "STEPS",
    "AccessResult",
    "Bind",
    "Default",
    "File",
    "Flush",
    "Frames",
    "Grid",
    "Interleave",
    "InvariantError",
    "KernelBug",
    "KernelProfile",
    "ListsResult",
    "Local",
    "Machine",
    "Migration",
    "MigrationEvent",
    "MoveResult",
    "Node",
    "OfflineResult",
    "Pin",
    "Policy",
    "PolicyResult",
    "Preferred",
    "PreferredMany",
    "Process",
    "ProcessGoneError",
    "StateError",
    "SwapDevice",
    "SyscallError",
    "TouchResult",
    "Vma",
    "WeightedInterleave",
    "errno_name",
    "get_include",
    "kernel_profile",
    "sweep",
]

#: Read when they are first asked for: a program that embeds a machine needs none of them.
_LATER = {"Grid": "pagemig.studies.sweep", "sweep": "pagemig.studies.sweep"}


def get_include() -> str:
    """Return the folder to put on a C compiler's include path to embed pagemig."""
    return str(Path(__file__).parent / "include")


if not TYPE_CHECKING:  # for a type checker it would make every name an attribute

    def __getattr__(name: str) -> Any:
        """Import the names that are read late."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LATER[name]), name)
