"""A small version of the recorded machine, and helpers for the tests of calls.

Page ``k`` is the address ``0x100000000000 + 4096 * k``, as in the recordings.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

import pagemig as pm

PAGE = pm.PAGE_SIZE
WINDOW = 0x100000000000

#: Answers of move_pages by a letter, as the recordings write a query.
LETTERS = {-2: ".", -13: "A", -14: "F", -16: "B", pm.STATUS_UNSET: "?"}

#: Nodes to empty, nodes to fill, and the pairs in their order: section 6.3 of the reference on
#: 2006, as far as the kernels of 2006 and of today agree.
NODE_PAIRS: list[tuple[list[int], list[int], list[tuple[int, int]]]] = [
    ([0, 1], [2, 3], [(0, 2), (1, 3)]),
    ([0, 1, 2], [1, 2, 3], [(2, 3), (1, 2), (0, 1)]),
    ([1, 2, 3], [0, 1, 2], [(1, 0), (2, 1), (3, 2)]),
    ([3, 4, 5], [4, 5, 6], [(5, 6), (4, 5), (3, 4)]),
    ([0, 2], [2, 3], [(2, 3), (0, 2)]),
    ([0, 1, 2, 3], [4, 5], [(0, 4), (1, 5), (2, 4), (3, 5)]),
    ([0, 1, 2, 3], [0], [(3, 0), (2, 0), (1, 0)]),
    ([0, 1, 2, 3], [3], [(2, 3), (1, 3), (0, 3)]),
    ([0, 1, 2], [0, 3, 4], [(1, 3), (2, 4)]),
    ([2, 3, 4, 5], [7, 9, 12, 13], [(2, 7), (3, 9), (4, 12), (5, 13)]),
    ([0, 1], [1, 0], []),
    ([0, 1, 2, 3], [2, 3], [(1, 3), (0, 2)]),
]


def four_nodes(kernel: str | pm.KernelProfile = "6.1", **options: Any) -> pm.Machine:
    """Nodes 0 to 3, equally far; processor k on node k, k = 0, 1.  Swap where it is needed."""
    if (pm.KERNELS[kernel] if isinstance(kernel, str) else kernel).swap:
        options.setdefault("swap", ["1MiB"])
    with_cpu, without = pm.Node("16MiB", cpus=1), pm.Node("16MiB")
    return pm.Machine([with_cpu, with_cpu, without, without], kernel=kernel, **options)


def at(page: int) -> int:
    return WINDOW + PAGE * page


def pages(first: int, n: int) -> list[int]:
    return [at(page) for page in range(first, first + n)]


def mapped(process: pm.Process, n: int, first: int = 0, *, touched: bool = True, **how: Any) -> int:
    """Map ``n`` pages from page ``first`` on, written once unless told otherwise."""
    base = process.mmap(n * PAGE, addr=at(first), **how)
    if touched:
        assert process.touch(base, n * PAGE, write=True).signal is None
    return base


def where(process: pm.Process, first: int, n: int) -> str:
    """Node of each page as one character, or the letter of its error."""
    return letters(process.move_pages(pages(first, n)).status)


def letters(status: Iterable[int]) -> str:
    return "".join(LETTERS.get(int(value), f"{value:x}") for value in status)


def spread(process: pm.Process, first: int, nodes: Sequence[int]) -> None:
    """Put page ``first + i`` on ``nodes[i]``."""
    result = process.move_pages(pages(first, len(nodes)), list(nodes))
    assert result.status.tolist() == list(nodes)


def failing(call: Callable[..., object], *args: Any, **kwargs: Any) -> pm.SyscallError:
    """The error of a call that must fail."""
    with pytest.raises(pm.SyscallError) as caught:
        call(*args, **kwargs)
    return caught.value


def error_of(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """Name of the errno of a call, or "ok"."""
    try:
        call(*args, **kwargs)
    except pm.SyscallError as error:
        return error.name
    return "ok"


def migrated(machine: pm.Machine) -> tuple[int, int]:
    """pgmigrate_success and pgmigrate_fail."""
    stat = machine.vmstat
    return stat["pgmigrate_success"], stat["pgmigrate_fail"]


def policies(process: pm.Process) -> list[tuple[int, int, str]]:
    """First page, length and policy text of every mapping."""
    return [((v.start - WINDOW) // PAGE, v.pages, v.policy_text) for v in process.vmas()]


def snapshot(machine: pm.Machine) -> list[Any]:
    """Everything visible of a machine, to show that nothing changed."""
    seen: list[Any] = [machine.vmstat, bytes(np.ascontiguousarray(machine.frames.raw).data)]
    for process in machine.processes:
        seen.append((process.pid, process.alive))
        if process.alive:
            seen += [process.uid, process.cpu, process.numa_maps(), process.smaps(), process.vmas()]
            seen.append(process.get_mempolicy())
    return seen
