"""This host's kernel migrating its own pages, beside the model migrating as many with content.

On a host with one node ``mbind(MPOL_LOCAL, MPOL_MF_MOVE)`` still moves every page of the range to
another frame of the same node.  What the ratio means is in the README.
"""

import ctypes
import errno
import mmap
import os
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from common.reference import Reference
from common.rows import Target
from common.worlds import World, near_share

PAGE = mmap.PAGESIZE
MBIND = {"x86_64": 237, "aarch64": 235}
MPOL_LOCAL, MPOL_MF_MOVE = 4, 2
MADV_NOHUGEPAGE = 15
PFN = np.uint64((1 << 55) - 1)


def skip_unless_permitted() -> None:
    """Skip with the reason why this host cannot be asked."""
    if platform.machine() not in MBIND or PAGE != 4096:
        pytest.skip(f"not known for {platform.machine()} with pages of {PAGE} bytes")
    if os.geteuid():
        pytest.skip("only root sees the frame numbers that prove that pages moved")


class HostMemory:
    """Pages of this process, moved by the real kernel."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._map = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map.madvise(MADV_NOHUGEPAGE)
        np.frombuffer(self._map, dtype=np.uint8)[::PAGE] = 1
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long

    def frames(self) -> npt.NDArray[np.uint64]:
        """Frame numbers from ``/proc/self/pagemap``; zeros where they are hidden."""
        with Path("/proc/self/pagemap").open("rb", buffering=0) as entries:
            entries.seek(self._start // PAGE * 8)
            return np.frombuffer(entries.read(self.pages * 8), dtype=np.uint64) & PFN

    def migrate(self) -> None:
        """Have the kernel move every page."""
        arguments = (self._start, self.pages * PAGE, MPOL_LOCAL, None, 0, MPOL_MF_MOVE)
        if self._syscall(MBIND[platform.machine()], *map(_unsigned, arguments)):
            number = ctypes.get_errno()
            pytest.skip(f"this host refuses mbind: {errno.errorcode.get(number, number)}")


def _unsigned(value: int | None) -> ctypes.c_ulong | None:
    return None if value is None else ctypes.c_ulong(value)


def migrated() -> int:
    """Pages that the host's kernel has migrated since it started."""
    text = Path("/proc/vmstat").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if "pgmigrate_success" in line)


class Proof:
    """That every page has another frame since the last look, and that the kernel counted it."""

    def __init__(self, memory: HostMemory) -> None:
        self._memory = memory
        self._frames, self._count = memory.frames(), migrated()
        self.near = near_share(self._frames)
        if not self._frames.any():
            pytest.skip("this host hides frame numbers")

    def look(self) -> None:
        """Assert it."""
        frames, count = self._memory.frames(), migrated()
        moved = int(np.count_nonzero(frames != self._frames))
        assert moved > 0.99 * self._memory.pages, f"only {moved} pages have another frame"
        assert count - self._count >= moved, "pgmigrate_success did not count them"
        self._frames, self._count, self.near = frames, count, near_share(frames)


@pytest.mark.parametrize("page_bytes", [4096, 0], ids=["payload", "metadata"])
def bench_beside_the_kernel(
    measure: Callable[..., object], size: Callable[[int], int], page_bytes: int
) -> None:
    skip_unless_permitted()
    pages = size(1 << 16)
    memory = HostMemory(pages)
    proof = Proof(memory)
    memory.migrate()
    proof.look()
    world = World(pages, scattered=False, page_bytes=page_bytes, kernel="6.12")

    def moved_and_migrated() -> None:
        world.prove()
        memory.migrate()
        proof.look()

    kernel = Reference("this host's kernel", memory.migrate, pages)
    measure(
        f"model with {page_bytes} bytes a page, beside mbind",
        world.move,
        per="pages",
        amount=pages,
        reference=kernel,
        target=Target(6 if page_bytes else 40, at_least=True),
        prove=moved_and_migrated,
        near_share_of_the_host=proof.near,
    )
