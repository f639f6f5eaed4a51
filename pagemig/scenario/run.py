"""The scenario language of the recorded kernels, run against a :class:`~pagemig.Machine`.

A scenario is what some processes do, operation by operation; a record is a scenario with what a
real kernel answered and did.  ``tests/corpus/linux-6.1/README.md`` is the specification of both.
Pages are numbered from the base of a window of the address space: page ``k`` is the address
``0x100000000000 + 4096 * k``.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from errno import EACCES, EFAULT, ENOENT
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pagemig.constants import (
    BAD,
    FADV_BY_NAME,
    MADV_BY_NAME,
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_F_ADDR,
    MPOL_F_MEMS_ALLOWED,
    MPOL_F_NODE,
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
    MPOL_MF_LAZY,
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    MPOL_MF_STRICT,
    MPOL_PREFERRED,
    MPOL_PREFERRED_MANY,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    NULL,
    PAGE_SHIFT,
    PAGE_SIZE,
    STATUS_UNSET,
    MiB,
    Pointer,
)
from pagemig.errors import ProcessGoneError, SyscallError, errno_name
from pagemig.kernels import DEFAULT_KERNEL, kernel_profile
from pagemig.policy import Bind
from pagemig.scenario.files import load
from pagemig.system.credentials import INIT_PID, KTHREAD_PID
from pagemig.system.frames import flag_bit, mapcounts
from pagemig.system.machine import File, Machine, Node
from pagemig.system.proc import Vma, _take_apart
from pagemig.system.process import Pin, Process

__all__ = [
    "WINDOW",
    "ScenarioRun",
    "UnsupportedScenario",
    "inos",
    "load",
    "run",
    "validate",
]

#: A scenario, a record, an operation or a result, as JSON has them.
Json: TypeAlias = dict[str, Any]

#: Address of page 0 of a scenario.
WINDOW: Final = 0x1000_0000_0000

# A page of the window has a mapping that is no part of the scenario: page 511.
_ANCHOR: Final = WINDOW + 511 * PAGE_SIZE

# What a process has outside the window: no page of it is ever present.  It counts where the kernel
# looks at the size of an address space (mlockall against RLIMIT_MEMLOCK; recorded: hand-107).
_PROGRAM: Final = 0x40_0000
_PROGRAM_BYTES: Final = 9 * MiB

_NOBODY_PID: Final = (1 << 22) - 1

_ULONG: Final = (1 << 64) - 1

#: Pages that an operation may list or touch one by one, and a page number that is an address.
_MOST_PAGES: Final = 1 << 24
_MOST_PAGE: Final = 1 << 50


class UnsupportedScenario(ValueError):
    """The scenario asks for something the model does not have (huge pages)."""


# ---- the language -----------------------------------------------------------------------------


class _Kind(NamedTuple):
    """A kind of value: which ones it has, and how to say so."""

    has: Callable[[Any], bool]
    expected: str


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_word(value: object) -> bool:
    return _is_int(value) and -(1 << 63) <= value <= _ULONG  # type: ignore[operator]


def _is_cint(value: object) -> bool:
    return _is_int(value) and -(1 << 31) <= value < 1 << 31  # type: ignore[operator]


def _is_count(value: object) -> bool:
    return _is_int(value) and value >= 0  # type: ignore[operator]


def _is_few(value: object) -> bool:
    return _is_count(value) and value <= _MOST_PAGES  # type: ignore[operator]


def _is_nodes(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _is_raw(value: object, has: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and set(value) == {"raw"} and has(value["raw"])


def _is_address_text(text: object) -> bool:
    try:
        return 0 <= int(str(text), 0) <= _ULONG
    except ValueError:
        return False


def _is_page(value: object) -> bool:
    ranged = isinstance(value, dict) and set(value) == {"range"}
    if isinstance(value, dict) and ranged:
        value = value["range"]
    if ranged or isinstance(value, list):
        return (
            isinstance(value, list)
            and len(value) == 2
            and all(map(_is_count, value))
            and value[0] < _MOST_PAGE
            and (_is_few(value[1]) if ranged else value[1] < PAGE_SIZE)
        )
    return (_is_count(value) and value < _MOST_PAGE) or _is_raw(  # type: ignore[operator]
        value, _is_address_text
    )


def _is_pid(value: object) -> bool:
    named = value in ("self", "none", "kthread", "init")
    return named or _is_count(value) or _is_raw(value, _is_word)


def _one_of(*names: str) -> _Kind:
    return _Kind(
        lambda value: isinstance(value, str) and value in names, "one of " + ", ".join(names)
    )


def _number_or(names: Mapping[str, int]) -> _Kind:
    return _Kind(
        lambda value: _is_word(value) or (isinstance(value, str) and value in names),
        "a number or one of " + ", ".join(names),
    )


def _flags_of(names: Mapping[str, int]) -> _Kind:
    def has(value: object) -> bool:
        return isinstance(value, list) and all(
            _is_word(flag) or (isinstance(flag, str) and flag in names) for flag in value
        )

    return _Kind(has, f"a list of numbers and of {', '.join(names)}")


_MODES: Final = {
    "default": MPOL_DEFAULT,
    "preferred": MPOL_PREFERRED,
    "bind": MPOL_BIND,
    "interleave": MPOL_INTERLEAVE,
    "local": MPOL_LOCAL,
    "preferred_many": MPOL_PREFERRED_MANY,
}
_MODE_FLAGS: Final = {
    "static": MPOL_F_STATIC_NODES,
    "relative": MPOL_F_RELATIVE_NODES,
    "balancing": MPOL_F_NUMA_BALANCING,
}
_MOVE_FLAGS: Final = {
    "strict": MPOL_MF_STRICT,
    "move": MPOL_MF_MOVE,
    "move_all": MPOL_MF_MOVE_ALL,
    "lazy": MPOL_MF_LAZY,
    "internal": 1 << 4,
}
_MLOCK_FLAGS: Final = {"onfault": 1}
_MLOCKALL_FLAGS: Final = {"current": MCL_CURRENT, "future": MCL_FUTURE, "onfault": MCL_ONFAULT}
_MREMAP_FLAGS: Final = {
    "maymove": MREMAP_MAYMOVE,
    "fixed": MREMAP_FIXED,
    "dontunmap": MREMAP_DONTUNMAP,
}
_GET_FLAGS: Final = {"node": MPOL_F_NODE, "addr": MPOL_F_ADDR, "mems": MPOL_F_MEMS_ALLOWED}
_MMAP_KINDS: Final = ("anon", "anon_shared", "file_private", "file_shared")
_FILE_KINDS: Final = ("tmpfs", "ramfs", "ext4")
_POINTERS: Final = {None: NULL, "null": NULL, "bad": BAD}

_COUNT = _Kind(_is_count, "a number from 0 on")
_WORD = _Kind(_is_word, "a number of 64 bits")
_BOOL = _Kind(lambda value: isinstance(value, bool), "true or false")
_PROT = _Kind(lambda value: isinstance(value, str) and set(value) <= set("rwx"), "letters of rwx")
_ADDRESS = _Kind(lambda value: value is None or _is_count(value), "a page number or null")
_NODES = _Kind(
    lambda value: value is None or value == "bad" or _is_nodes(value),
    'a list of node numbers, null or "bad"',
)
_PID = _Kind(_is_pid, 'a process number, "self", "none", "kthread", "init" or {"raw": n}')
_PAGES = _Kind(
    lambda value: value in (None, "bad") or (isinstance(value, list) and all(map(_is_page, value))),
    'a list of pages, [page, offset], {"range": [page, n]} or {"raw": "0x..."}, null or "bad"',
)
_TARGETS = _Kind(
    lambda value: (
        value in (None, "bad")
        or _is_cint(value)
        or (isinstance(value, list) and all(map(_is_cint, value)))
    ),
    'a node number, a list of them, null or "bad"',
)

_FEW = _Kind(_is_few, f"a number of pages from 0 to {_MOST_PAGES}")
_RANGE: Final = {"at": _COUNT, "n": _COUNT}
_BYTES: Final = {"boff": _WORD, "bytes": _WORD}
_POLICY: Final = {"mode": _number_or(_MODES)}
_NODEMASK: Final = {"nodes": _NODES, "mode_flags": _flags_of(_MODE_FLAGS), "maxnode": _WORD}
_PART: Final = {"file": _COUNT, "off": _COUNT, "n": _FEW}
_MOVE: Final = _flags_of(_MOVE_FLAGS)

#: For each operation the fields it must have and those it may have.
_OPERATIONS: Final[dict[str, tuple[dict[str, _Kind], dict[str, _Kind]]]] = {
    "mmap": (
        {**_RANGE, "kind": _one_of(*_MMAP_KINDS)},
        {
            **_BYTES,
            "file": _COUNT,
            "off": _COUNT,
            "prot": _PROT,
            "populate": _BOOL,
            "locked": _BOOL,
            "noreplace": _BOOL,
        },
    ),
    "munmap": (_RANGE, _BYTES),
    "touch": ({**_RANGE, "n": _FEW}, {"write": _BOOL, "tok": _COUNT}),
    "mprotect": ({**_RANGE, "prot": _PROT}, _BYTES),
    "mlock": (_RANGE, {**_BYTES, "flags": _flags_of(_MLOCK_FLAGS)}),
    "munlock": (_RANGE, _BYTES),
    "mlockall": ({"flags": _flags_of(_MLOCKALL_FLAGS)}, {}),
    "munlockall": ({}, {}),
    "madvise": ({**_RANGE, "advice": _number_or(MADV_BY_NAME)}, _BYTES),
    "mremap": (
        {**_RANGE, "new_n": _COUNT},
        {
            **_BYTES,
            "new_at": _COUNT,
            "flags": _flags_of(_MREMAP_FLAGS),
        },
    ),
    "fork": ({"child": _COUNT}, {}),
    "exit": ({}, {"zombie": _BOOL}),
    "setuid": ({"uid": _COUNT}, {"dumpable": _BOOL}),
    "set_mempolicy": (_POLICY, _NODEMASK),
    "mbind": ({**_RANGE, **_POLICY}, {**_NODEMASK, **_BYTES, "flags": _MOVE}),
    "get_mempolicy": (
        {},
        {
            "flags": _flags_of(_GET_FLAGS),
            "at": _ADDRESS,
            "boff": _WORD,
            "maxnode": _WORD,
            "mask": _Kind(lambda v: isinstance(v, bool) or v == "bad", 'true, false or "bad"'),
            "nomode": _BOOL,
        },
    ),
    "set_home_node": ({**_RANGE, "node": _WORD}, {**_BYTES, "flags": _WORD}),
    "move_pages": (
        {"pid": _PID, "pages": _PAGES},
        {
            "nodes": _TARGETS,
            "flags": _MOVE,
            "count": _WORD,
            "status": _one_of("null", "bad"),
        },
    ),
    "migrate_pages": ({"pid": _PID, "from": _NODES, "to": _NODES}, {"maxnode": _WORD}),
    "pin": ({**_RANGE, "how": _one_of("pipe", "uring"), "handle": _COUNT}, _BYTES),
    "unpin": ({"handle": _COUNT}, {}),
    "fwrite": ({**_PART, "tok": _COUNT}, {}),
    "fread": (_PART, {}),
    "ftruncate": ({"file": _COUNT, "pages": _COUNT}, {}),
    "punch": (_PART, {}),
    "fadvise": ({**_PART, "advice": _number_or(FADV_BY_NAME)}, {"sync": _BOOL}),
    "burst": ({**_RANGE, "n": _FEW}, {"ms": _COUNT, "background": _BOOL}),
    "nop": ({}, {}),
    "wait": ({}, {}),
}
_COMMON: Final = {"op": _one_of(*_OPERATIONS), "p": _COUNT, "cpu": _COUNT}
_FILE: Final = {
    "kind": _one_of(*_FILE_KINDS),
    "pages": _COUNT,
    "fill": _Kind(lambda value: value is None or _is_count(value), "a token or null"),
    "node": _Kind(lambda value: value is None or _is_count(value), "a node or null"),
}


def validate(scenario: Mapping[str, Any]) -> None:
    """Check that a scenario is written in the language, before anything of it runs.

    Parameters
    ----------
    scenario : mapping
        ``ops`` and what else a scenario has; ``results`` are not looked at.

    Raises
    ------
    ValueError
        An operation or field that is not known or missing, or a value that cannot be meant; the
        message names the operation's index, the field and the value.
    """
    ops, files = scenario.get("ops"), scenario.get("files", [])
    if not isinstance(ops, list) or not isinstance(files, list):
        wrong = files if isinstance(ops, list) else ops
        raise ValueError(f"a scenario has lists of ops and files, not {wrong!r}")
    for i, entry in enumerate(files):
        _check(f"file {i}", entry, {"kind": _FILE["kind"], "pages": _FILE["pages"]}, _FILE)
    for i, op in enumerate(ops):
        _check_operation(f"operation {i}", op, len(files))


def _check_operation(where: str, op: Any, nr_files: int) -> None:
    if not isinstance(op, dict):
        raise ValueError(f"{where}: {op!r} is not an object with op and p")
    name: Any = op.get("op")
    if not _COMMON["op"].has(name):
        raise ValueError(f"{where}: op={name!r} is not {_COMMON['op'].expected}")
    required, optional = _OPERATIONS[name]
    needed = {"p": _COMMON["p"], **required}
    if name == "mmap" and str(op.get("kind")).startswith("file"):
        needed["file"] = _COUNT
    if (name == "touch" and op.get("write")) or name == "fwrite":
        needed["tok"] = _COUNT
    _check(f"{where} ({name})", op, needed, {**_COMMON, **optional})
    if "file" in needed and op["file"] >= nr_files:
        raise ValueError(f"{where} ({name}): file={op['file']!r} is not one of {nr_files} files")


def _check(
    where: str, entry: Any, required: Mapping[str, _Kind], optional: Mapping[str, _Kind]
) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: {entry!r} is not an object")
    for name in required:
        if name not in entry:
            raise ValueError(f"{where}: {name} is missing in {entry!r}")
    for name, value in entry.items():
        kind = required.get(name) or optional.get(name)
        if kind is None:
            raise ValueError(f"{where}: {name}={value!r} is not a field it has")
        if not kind.has(value):
            raise ValueError(f"{where}: {name}={value!r} is not {kind.expected}")


def _check_results(record: Mapping[str, Any]) -> None:
    """Check that results have their states where recorded ones have them.

    Values are not looked at: they are compared with those of the model.

    Raises
    ------
    ValueError
        They have not; the message names the operation.
    """
    results = record["results"]
    if not isinstance(results, list):
        raise ValueError(f"results must be a list, not {results!r}")
    for i, result in enumerate(results):
        states = result.get("state", {}) if isinstance(result, dict) else None
        if not isinstance(states, dict):
            raise ValueError(f"result {i} must be an object, and its state one, not {result!r}")
        for number, state in states.items():
            vmas = [] if state is None else state.get("vmas") if isinstance(state, dict) else None
            if not isinstance(vmas, list) or not all(isinstance(vma, dict) for vma in vmas):
                raise ValueError(f"result {i}: state {number} must have a list of vmas: {state!r}")
            for vma in vmas:
                _check_vma(f"result {i}: state {number}", vma, len(record.get("files", [])))


def _check_vma(where: str, vma: Json, nr_files: int) -> None:
    """Check what is read of a recorded mapping besides comparing it."""
    needed = {"at": _COUNT, "n": _COUNT}
    if "file" in vma or "shared_anon" in vma:
        needed["ino"] = _COUNT
    if "file" in vma:
        needed["file"] = _Kind(
            lambda value: _is_count(value) and value < nr_files, f"one of {nr_files} files"
        )
    for name, kind in needed.items():
        if not kind.has(vma.get(name)):
            raise ValueError(
                f"{where}: {name}={vma.get(name)!r} of a mapping is not {kind.expected}"
            )


# ---- inode numbers ----------------------------------------------------------------------------


def inos(record: Mapping[str, Any]) -> list[int]:
    """Take the inode numbers, which are the kernel's choice, out of a recorded scenario.

    Parameters
    ----------
    record : mapping
        A scenario with its ``results``.

    Returns
    -------
    list of int
        One number for each of ``files``, then one for each ``mmap`` of shared anonymous memory in
        the order of the operations; 0 where the recording does not show it.

    Raises
    ------
    ValueError
        The results are not laid out as recorded ones; the message says where.
    """
    _check_results(record)
    found = [0] * len(record.get("files", []))
    shared: list[int] = []
    vmas: dict[str, list[Json]] = {}
    for op, result in zip(record["ops"], record["results"], strict=False):
        for number, state in result.get("state", {}).items():
            vmas[number] = state["vmas"] if state else []
            for vma in vmas[number]:
                if "file" in vma:
                    found[vma["file"]] = vma["ino"]
        if _maps_shared_anon(op):
            shared.append(_ino_at(vmas.get(str(op["p"]), []), op["at"], result))
    return found + shared


def _maps_shared_anon(op: Json) -> bool:
    return bool(op["op"] == "mmap" and op["kind"] == "anon_shared")


def _ino_at(vmas: Iterable[Json], page: int, result: Json) -> int:
    if result.get("rc") == 0:
        for vma in vmas:
            if vma["at"] <= page < vma["at"] + vma["n"] and "shared_anon" in vma:
                return int(vma["ino"])
    return 0


# ---- what is seen of a process ----------------------------------------------------------------

_HEX: Final = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_DIGITS: Final = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxy", dtype=np.uint8)
_DOT: Final = np.uint8(ord("."))
_ZERO_PAGE: Final = np.uint8(ord("z"))

#: Digit of a page in ``bits`` by the bits of its pagemap entry.
_PAGEMAP_BITS: Final = ((63, 1), (56, 2), (61, 4), (62, 8))

#: Words of numa_maps that are not recorded: they depend on what the page lists did lately.
_UNRECORDED: Final = ("active", "swapcache", "writeback", "kernelpagesize_kB", "file")

#: Character of a status in ``query``; negative numbers index from the end.
_QUERY: Final = np.full(256, ord("?"), dtype=np.uint8)
_QUERY[: len(_DIGITS)] = _DIGITS
_QUERY[[-ENOENT, -EACCES, -EFAULT]] = np.frombuffer(b".AF", dtype=np.uint8)

_Pages: TypeAlias = npt.NDArray[np.uint64]
_Text: TypeAlias = npt.NDArray[np.uint8]


class _View:
    """What can be seen of the window of one process: arrays over all its mapped pages, in order."""

    def __init__(self, run: "ScenarioRun", process: Process) -> None:
        self.run = run
        self.process = process
        self.rows = run._rows(process)
        self.spans = [
            (start, (end - start) >> PAGE_SHIFT)
            for start, end in zip(
                self.rows["start"].tolist(), self.rows["end"].tolist(), strict=True
            )
        ]
        ptes = [process._ptes(start, n) for start, n in self.spans]
        self.pages = _take_apart(run.machine, _joined(ptes))
        self.content = run._content[np.where(self.pages.present, self.pages.pfn, 0)]
        self.torn = np.zeros(len(self.content), dtype=np.bool_)
        if run._bursts:
            self.torn = self.pages.present & np.isin(self.pages.pfn, run._rewritten())
        self.locked = process.status()["VmLck"]

    def key(self) -> tuple[object, ...]:
        """Everything the state is made from, cheap to compare with an earlier one."""
        pages = self.pages
        arrays = (self.rows, pages.ptes, pages.state, self.content, self.torn)
        policy = self.process._get_task_policy()
        return (self.locked, policy, *(array.tobytes() for array in arrays))

    def state(self) -> Json:
        """The state in the recorded format."""
        texts = {"node": self._node()}
        if "move_pages" in self.run.machine.profile.calls:
            texts["query"] = self._query()
        texts |= {
            "bits": self._bits(),
            "mapcount": self._mapcount(),
            "kind": self._kind(),
        }
        policies = self._numa_maps()
        shown = [vma for vma in self.process.vmas() if not self.run._is_outside(vma.start, vma.end)]
        vmas, first = [], 0
        for vma in shown:
            part = slice(first, first := first + vma.pages)
            entry = self._described(vma)
            entry["policy"], entry["stat"] = policies[vma.start]
            entry.update((name, self._shown(text[part])) for name, text in texts.items())
            entry["val"] = self._values(part)
            vmas.append(entry)
        return {"locked_kb": self.locked, "vmas": vmas}

    def _described(self, vma: Vma) -> Json:
        at = (vma.start - WINDOW) >> PAGE_SHIFT
        entry: Json = {"at": at, "n": vma.pages, "prot": vma.perms}
        if vma.file:
            number = self.run._file_numbers.get(vma.file)
            entry |= {"shared_anon": True} if number is None else {"file": number}
            entry |= {"off": vma.offset >> PAGE_SHIFT, "ino": vma.inode}
        return entry

    def _numa_maps(self) -> dict[int, tuple[str, dict[str, int]]]:
        """Policy and counts of each mapping by its address, from the text of numa_maps.

        Recorded is ``prefer-many`` for the kernel's ``prefer (many)``, and of another policy only
        what stands before a blank (``weighted interleave:0-3``).
        """
        found = {}
        for line in self.process.numa_maps().splitlines():
            start, policy, *words = line.replace("prefer (many)", "prefer-many").split(" ")
            counts = (word.split("=", 1) for word in words if "=" in word)
            stat = {name: int(count) for name, count in counts if name not in _UNRECORDED}
            found[int(start, 16)] = policy, stat
        return found

    def _shown(self, text: _Text) -> str | list[list[Any]]:
        return _text_runs(text) if self.run.brief else text.tobytes().decode()

    def _over_zero(self, text: _Text) -> _Text:
        """``text`` where a page is, ``z`` for the zero page, ``.`` where nothing is."""
        pages = self.pages
        return np.where(pages.normal, text, np.where(pages.present, _ZERO_PAGE, _DOT))

    def _node(self) -> _Text:
        pfns = np.where(self.pages.normal, self.pages.pfn, 0)
        return self._over_zero(_DIGITS[self.run.machine.node_of(pfns)])

    def _mapcount(self) -> _Text:
        return self._over_zero(_DIGITS[np.minimum(mapcounts(self.pages.state), len(_DIGITS) - 1)])

    def _bits(self) -> _Text:
        entries = _joined([self.process.pagemap(start, n) for start, n in self.spans])
        digits = np.zeros(len(entries), dtype=np.uint64)
        for shift, digit in _PAGEMAP_BITS:
            digits |= (entries >> np.uint64(shift) & np.uint64(1)) * np.uint64(digit)
        return _HEX[digits]

    def _kind(self) -> _Text:
        pages = self.pages
        kinds = np.where(pages.state & flag_bit("anon"), 1, 0)
        kinds |= np.where(pages.state & flag_bit("mlocked"), 2, 0)
        kinds = np.where(pages.normal, kinds, 8)
        return np.where(pages.present, _HEX[kinds], _DOT)

    def _query(self) -> _Text:
        """What a query with every privilege answers for each page."""
        pages = [
            np.arange(start, start + (n << PAGE_SHIFT), PAGE_SIZE, dtype=np.uint64)
            for start, n in self.spans
        ]
        answer = self.run._observer.move_pages(_joined(pages), None, 0, pid=self.process)
        return _QUERY[answer.status]

    def _values(self, part: slice) -> bool | list[Any] | None:
        present, values = self.pages.present[part], self.content[part]
        if self.run.brief:
            steps = values[present] - np.arange(len(values), dtype=np.uint64)[present]
            return bool((steps == steps[0]).all()) if len(steps) else None
        shown = values.astype(object)
        shown[~present] = None
        shown[self.torn[part]] = "torn"
        listed: list[Any] = shown.tolist()
        return listed


def _joined(parts: list[_Pages]) -> _Pages:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)


def _text_runs(text: _Text) -> list[list[Any]]:
    """Run lengths: ``[character, how many]`` for each run of equal characters."""
    starts = np.flatnonzero(np.diff(text, prepend=text[:1] ^ 1))
    lengths = np.diff(starts, append=len(text))
    return [[chr(text[i]), int(n)] for i, n in zip(starts, lengths, strict=True)]


def _runs(values: Iterable[Any]) -> list[list[Any]]:
    """Run lengths of any values."""
    return [[value, sum(1 for _ in group)] for value, group in groupby(values)]


# ---- running ----------------------------------------------------------------------------------

#: Makes the machine of a scenario from the name of a kernel.
MachineFactory: TypeAlias = Callable[[str], Machine]

# What of a node the kernel and its tables keep for themselves, where that can be seen: on the
# recorded machines between 29.4 and 30.2 thousand of 32,768 pages of a node could be used.
_KEPT: Final = 0.09

# Where allocations that may go elsewhere leave a node: its low watermark, about a thousandth above
# the lowest (recorded: 35 of 29.8 thousand pages were left to a call that takes no other node).
_LOW_WATERMARK: Final = 1 / 850


def _machine(kernel: str, *, brief: bool) -> Machine:
    """The recorded machine: four nodes at equal distances, a processor on the first two.

    It had no swap; where nothing moves without, it has.
    """
    sizes = (1024, 1024, 256, 128) if brief else (1024,) * 4
    share = _KEPT if brief else 0.0
    nodes = [
        Node(size * MiB, cpus=nid < 2, reserved=int(size * MiB * share) & -PAGE_SIZE)
        for nid, size in enumerate(sizes)
    ]
    swap = ["1GiB"] if kernel_profile(kernel).engine == 1 else []
    machine = Machine(nodes, kernel=kernel, page_bytes=8, swap=swap)
    if brief:
        for nid, node in enumerate(nodes):
            machine._set_watermark(nid, int((node.size >> PAGE_SHIFT) * _LOW_WATERMARK))
    return machine


class ScenarioRun:
    """One scenario being run: a machine, its processes by number, and what was last seen of them.

    Iterating runs the operations one after another and gives their results; it ends early when the
    kernel kills a process.

    Parameters
    ----------
    scenario : mapping
        ``ops``, and ``files``, ``thp``, ``no_anchor``, ``brief`` where they matter.
    kernel : str
        Profile of the machine.
    inos : sequence of int, optional
        Inode numbers, as from :func:`inos`.
    machine : callable, optional
        Makes the machine from the kernel's name; page contents must be tokens (``page_bytes=8``).

    Attributes
    ----------
    machine : Machine
    processes : dict of int to Process
        Also those that have exited.
    outcome : str
        ``"ok"``, or ``"killed"`` once the kernel has killed a process.

    Raises
    ------
    ValueError
        Not a scenario; see :func:`validate`.
    UnsupportedScenario
        It asks for huge pages.
    """

    def __init__(
        self,
        scenario: Mapping[str, Any],
        *,
        kernel: str = DEFAULT_KERNEL,
        inos: Sequence[int] | None = None,
        machine: MachineFactory | None = None,
    ) -> None:
        validate(scenario)
        if scenario.get("thp", "never") != "never":
            raise UnsupportedScenario(f"huge pages (thp={scenario['thp']!r}) are not modelled")
        self.ops: list[Json] = scenario["ops"]
        self.brief = bool(scenario.get("brief"))
        self.machine = machine(kernel) if machine else _machine(kernel, brief=self.brief)
        self.outcome = "ok"
        self._anchor = () if scenario.get("no_anchor") else (_ANCHOR, _ANCHOR + PAGE_SIZE)
        self._content: _Pages = _content(self.machine)
        self._pins: dict[int, Pin] = {}
        self._bursts: dict[int, tuple[int, int]] = {}
        self._starting: dict[int, tuple[int, int]] = {}
        self._exited: set[int] = set()
        self._seen: dict[int, tuple[object, Json | None]] = {}
        self._observer = self.machine.spawn()
        files: list[Json] = scenario.get("files", [])
        own, self._shared_inos = _split_inos(inos, self.ops, len(files))
        self._files = [
            self._make_file(i, *made) for i, made in enumerate(zip(files, own, strict=True))
        ]
        self._file_numbers = {file.index: i for i, file in enumerate(self._files)}
        self.processes = {0: self._first_process()}

    def __iter__(self) -> Iterator[Json]:
        for i in range(len(self.ops)):
            yield self.step(i)
            if self.outcome != "ok":
                return

    def step(self, i: int) -> Json:
        """Do operation ``i`` and return its result, in the recorded format."""
        result = self.do(i)
        if "skipped" in result or "died" in result:
            return result
        self._rewrite(self._bursts)
        changes = self._changes()
        self._bursts |= self._starting
        self._starting.clear()
        return {**result, "state": changes} if changes else result

    def do(self, i: int) -> Json:
        """Do operation ``i`` without looking at the processes afterwards: no ``state``.

        Operations of processes that have nothing in common may be done in several threads.
        """
        op = self.ops[i]
        name = op["op"]
        process = self.processes.get(op["p"])
        if process is None or not process.alive:
            return {"skipped": True}
        try:
            if "cpu" in op:
                process.cpu = op["cpu"]
            result: Json = getattr(self, f"_op_{name}")(process, op, i)
        except ProcessGoneError:  # killed in the middle of the call
            result = {}
        except (TypeError, ValueError) as error:
            raise ValueError(f"operation {i} ({name}): {error}") from error
        if not process.alive and name != "exit":
            self.outcome = "killed"
            return {"died": True}
        return result

    # ---- setting up ---------------------------------------------------------------------------

    def _first_process(self) -> Process:
        process = self.machine.spawn()
        process.mmap(_PROGRAM_BYTES, addr=_PROGRAM, prot="")
        if self._anchor:
            process.mmap(PAGE_SIZE, addr=_ANCHOR, prot="r")
            process.madvise(_ANCHOR, PAGE_SIZE, "dontdump")  # so that it merges with no neighbour
            process.touch(_ANCHOR, PAGE_SIZE)
        return process

    def _make_file(self, i: int, entry: Json, ino: int) -> File:
        """A file as it was before the first operation: on its node, and on its disk."""
        size, node = entry["pages"] * PAGE_SIZE, entry.get("node") or 0
        if node not in self.machine.memory_nodes:
            raise ValueError(f"file {i}: node={node!r} is not one of {self.machine.memory_nodes}")
        file = self.machine.file(entry["kind"], size, ino=ino or None)
        if entry.get("fill") is not None:
            writer = self._observer
            writer.set_mempolicy(Bind([node]))
            writer.fwrite(file, 0, _tokens(entry["fill"], entry["pages"]))
            writer.set_mempolicy(MPOL_DEFAULT)
            writer.fadvise(file, 0, size, "normal", sync=True)
        return file

    # ---- what the processes look like ---------------------------------------------------------

    def state_of(self, process: Process) -> Json:
        """State of a process in the recorded format: ``locked_kb`` and ``vmas``."""
        return _View(self, process).state()

    def _changes(self) -> dict[str, Json | None]:
        """The processes that do not look as before, by number; None for those that are gone."""
        changed: dict[str, Json | None] = {}
        for number, process in self.processes.items():
            if not process.alive:
                if self._seen.get(number) != _GONE:
                    self._seen[number] = _GONE
                    changed[str(number)] = None
                    if number not in self._exited:
                        self.outcome = "killed"
                continue
            # A process in a background burst is busy: the recorder could not ask it.
            if number in self._bursts:
                continue
            view = _View(self, process)
            key, (seen, state) = view.key(), self._seen.get(number, _GONE)
            if key == seen:
                continue
            now = view.state()
            self._seen[number] = key, now
            if now != state:
                changed[str(number)] = now
        return changed

    def _is_outside(self, start: int, end: int) -> bool:
        """Whether a mapping is not the scenario's: outside the window, or the anchor."""
        return start < WINDOW or (start, end) == self._anchor

    def _rows(self, process: Process) -> Any:
        """The scenario's mappings of a process."""
        rows = process._vmas()
        spans = zip(rows["start"].tolist(), rows["end"].tolist(), strict=True)
        return rows[[not self._is_outside(start, end) for start, end in spans]]

    # ---- programs that run in the background --------------------------------------------------

    def _rewrite(self, bursts: Mapping[int, tuple[int, int]]) -> None:
        """One round of some bursts: each page read and written back, one higher."""
        for number, (addr, length) in bursts.items():
            process = self.processes[number]
            if process.alive:
                read = process.touch(addr, length)
                if read.values is not None:
                    process.touch(addr, read.done * PAGE_SIZE, write=True, values=read.values + 1)

    def _rewritten(self) -> _Pages:
        """Frames under a background burst: whoever reads both ends of one sees two generations."""
        spans = [
            (self.processes[number], addr, length >> PAGE_SHIFT)
            for number, (addr, length) in self._bursts.items()
            if self.processes[number].alive
        ]
        ptes = _joined([process._ptes(addr, n) for process, addr, n in spans])
        pages = _take_apart(self.machine, ptes)
        return pages.pfn[pages.normal]

    def _op_burst(self, process: Process, op: Json, _i: int) -> Json:
        burst = {op["p"]: (_at(op), op["n"] * PAGE_SIZE)}
        if op.get("background"):
            # It gets going while the next operation runs.
            self._starting = burst
            return {"background": True}
        self._rewrite(burst)
        return {"rc": 0}

    def _op_wait(self, process: Process, op: Json, _i: int) -> Json:
        torn = {str(number): 0 for number in self._bursts}
        self._bursts.clear()
        return {"rc": 0, "torn": torn}

    def _op_nop(self, process: Process, op: Json, _i: int) -> Json:
        return {"rc": 0}

    # ---- address spaces -----------------------------------------------------------------------

    def _op_mmap(self, process: Process, op: Json, i: int) -> Json:
        kind, length = op["kind"], _length(op)
        file = self._files[op["file"]] if kind.startswith("file") else None
        if ino := self._shared_inos.get(i, 0):
            self.machine._set_next_ino(ino)
        return _counted(
            process,
            lambda: process.mmap(
                length,
                addr=_at(op),
                prot=op.get("prot", "rw"),
                shared=kind.endswith("shared"),
                file=file,
                offset=op.get("off", 0) * PAGE_SIZE if kind.startswith("file") else 0,
                populate=op.get("populate", False),
                locked=op.get("locked", False),
                noreplace=op.get("noreplace", False),
            ),
        )

    def _op_munmap(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(lambda: process.munmap(_at(op), _length(op)))

    def _op_touch(self, process: Process, op: Json, _i: int) -> Json:
        write = op.get("write", False)
        values = _tokens(op["tok"], op["n"]) if write else None
        touched = process.touch(_at(op), op["n"] * PAGE_SIZE, write=write, values=values)
        result: Json = {"rc": 0, "minflt": touched.minflt}
        if touched.signal == "SIGKILL" and process.alive:
            process.exit(zombie=True)
        if touched.signal is not None:
            result |= {"signal": touched.signal, "signal_index": touched.index}
        if touched.values is not None and not self.brief:
            result["read"] = touched.values.tolist()
        return result

    def _op_mprotect(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(lambda: process.mprotect(_at(op), _length(op), op["prot"]))

    def _op_mlock(self, process: Process, op: Json, _i: int) -> Json:
        flags = _switches(op.get("flags", ()), _MLOCK_FLAGS)
        if flags is None:
            return dict(_REFUSED)
        return _counted(process, lambda: process.mlock(_at(op), _length(op), **flags))

    def _op_munlock(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(lambda: process.munlock(_at(op), _length(op)))

    def _op_mlockall(self, process: Process, op: Json, _i: int) -> Json:
        flags = _switches(op["flags"], _MLOCKALL_FLAGS)
        return dict(_REFUSED) if flags is None else _answered(lambda: process.mlockall(**flags))

    def _op_munlockall(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(process.munlockall)

    def _op_madvise(self, process: Process, op: Json, _i: int) -> Json:
        return _counted(process, lambda: process.madvise(_at(op), _length(op), op["advice"]))

    def _op_mremap(self, process: Process, op: Json, _i: int) -> Json:
        flags = _switches(op.get("flags", ()), _MREMAP_FLAGS)
        if flags is None:
            return dict(_REFUSED)
        fixed = flags.pop("fixed")
        place = WINDOW + op.get("new_at", 0) * PAGE_SIZE if fixed else None

        def remap() -> int:
            start, old, new = _at(op), _length(op), op["new_n"] * PAGE_SIZE
            moved = process.mremap(start, old, new, new_addr=place, **flags)
            return (moved - WINDOW) >> PAGE_SHIFT

        return _answered(remap, returns=True)

    # ---- processes ----------------------------------------------------------------------------

    def _op_fork(self, process: Process, op: Json, _i: int) -> Json:
        def fork() -> None:
            self.processes[op["child"]] = process.fork()
            self._exited.discard(op["child"])
            self._seen.pop(op["child"], None)

        return _answered(fork)

    def _op_exit(self, process: Process, op: Json, _i: int) -> Json:
        self._exited.add(op["p"])
        return _answered(lambda: process.exit(zombie=op.get("zombie", False)))

    def _op_setuid(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(lambda: process.setuid(op["uid"], dumpable=op.get("dumpable", False)))

    def _pid(self, pid: Any) -> int:
        """The number to pass for the ``pid`` of an operation."""
        match pid:
            case "self":
                return 0
            case "init":
                return INIT_PID
            case "kthread":
                return KTHREAD_PID
            case {"raw": number}:
                return int(number)
            case int() if pid in self.processes:
                return self.processes[pid].pid
        return _NOBODY_PID

    # ---- policies and migration ---------------------------------------------------------------

    def _migrating(self, call: Callable[[], Json]) -> Json:
        """Result of a call that migrates, with the growth of the kernel's counters."""
        before = self.machine.vmstat
        result = call()
        after = self.machine.vmstat
        for name, counter in (
            ("migrated", "pgmigrate_success"),
            ("migrate_failed", "pgmigrate_fail"),
        ):
            result[name] = after[counter] - before[counter]
        return result

    def _op_set_mempolicy(self, process: Process, op: Json, _i: int) -> Json:
        nodes, maxnode = _nodemask(op.get("nodes")), op.get("maxnode")
        return _answered(lambda: process.set_mempolicy(_mode_word(op), nodes, maxnode=maxnode))

    def _op_mbind(self, process: Process, op: Json, _i: int) -> Json:
        nodes, flags = _nodemask(op.get("nodes")), _bits(op.get("flags", ()), _MOVE_FLAGS)

        def mbind() -> None:
            word, maxnode = _mode_word(op), op.get("maxnode")
            process.mbind(_at(op), _length(op), word, nodes, flags, maxnode=maxnode)

        return self._migrating(lambda: _answered(mbind))

    def _op_get_mempolicy(self, process: Process, op: Json, _i: int) -> Json:
        try:
            found = process.get_mempolicy(
                _bits(op.get("flags", ()), _GET_FLAGS),
                0 if op.get("at") is None else _at(op),
                maxnode=op.get("maxnode", 1024),
                nodemask={True: None, False: NULL, "bad": BAD}[op.get("mask", True)],
                mode=NULL if op.get("nomode") else None,
            )
        except SyscallError as error:
            return _failed(error)
        result: Json = {"rc": 0}
        if found.mode is not None:
            result["mode"] = found.mode
        if found.nodes is not None:
            result["nodes"] = list(found.nodes)
        return result

    def _op_set_home_node(self, process: Process, op: Json, _i: int) -> Json:
        flags = op.get("flags", 0)
        return _answered(
            lambda: process.set_mempolicy_home_node(_at(op), _length(op), op["node"], flags)
        )

    def _op_move_pages(self, process: Process, op: Json, _i: int) -> Json:
        pages = _addresses(op["pages"])
        listed = 0 if isinstance(pages, Pointer) else len(pages)

        def move() -> Json:
            try:
                moved = process.move_pages(
                    pages,
                    _targets(op.get("nodes"), listed),
                    _bits(op.get("flags", ()), _MOVE_FLAGS),
                    pid=self._pid(op["pid"]),
                    count=op.get("count"),
                    status=_POINTERS[op["status"]] if "status" in op else None,
                )
                result: Json = {"rc": moved.rc}
            except SyscallError as error:
                moved = error.result
                result = _failed(error)
            result["status"] = self._statuses(moved.status if moved else [], listed)
            return result

        return self._migrating(move)

    def _statuses(self, stored: Iterable[int], listed: int) -> list[Any]:
        names = [_status(number) for number in np.asarray(stored, dtype=np.int32).tolist()[:listed]]
        names += [None] * (listed - len(names))
        return _runs(names) if self.brief else names

    def _op_migrate_pages(self, process: Process, op: Json, _i: int) -> Json:
        def migrate() -> int:
            return process.migrate_pages(
                _nodemask(op["from"]),
                _nodemask(op["to"]),
                pid=self._pid(op["pid"]),
                maxnode=op.get("maxnode"),
            )

        return self._migrating(lambda: _answered(migrate, returns=True))

    # ---- pins and files -----------------------------------------------------------------------

    def _op_pin(self, process: Process, op: Json, _i: int) -> Json:
        def pin() -> int:
            held = self._pins[op["handle"]] = process.pin(_at(op), _length(op), op["how"])
            return held.rc

        return _answered(pin, returns=True)

    def _op_unpin(self, process: Process, op: Json, _i: int) -> Json:
        pin = self._pins.get(op["handle"])
        if pin is None:
            return {"rc": -1, "errno": "EBADF"}
        return _answered(lambda: process.unpin(pin))

    def _op_fwrite(self, process: Process, op: Json, _i: int) -> Json:
        values = _tokens(op["tok"], op["n"])
        return _answered(lambda: process.fwrite(self._files[op["file"]], op["off"], values))

    def _op_fread(self, process: Process, op: Json, _i: int) -> Json:
        try:
            values = process.fread(self._files[op["file"]], op["off"], op["n"])
        except SyscallError as error:
            return _failed(error)
        return {"rc": len(values)} | ({} if self.brief else {"read": values.tolist()})

    def _op_ftruncate(self, process: Process, op: Json, _i: int) -> Json:
        file, size = self._files[op["file"]], op["pages"] * PAGE_SIZE
        return _answered(lambda: process.ftruncate(file, size))

    def _op_punch(self, process: Process, op: Json, _i: int) -> Json:
        return _answered(lambda: process.punch(*self._part(op)))

    def _op_fadvise(self, process: Process, op: Json, _i: int) -> Json:
        part, sync = self._part(op), op.get("sync", False)
        return _answered(lambda: process.fadvise(*part, op["advice"], sync=sync))

    def _part(self, op: Json) -> tuple[File, int, int]:
        return self._files[op["file"]], op["off"] * PAGE_SIZE, op["n"] * PAGE_SIZE


#: What is remembered of a process that is gone, or was never seen.
_GONE: Final[tuple[object, Json | None]] = (None, None)


def _split_inos(
    given: Sequence[int] | None, ops: Iterable[Json], nr_files: int
) -> tuple[list[int], dict[int, int]]:
    """Inode numbers of the files, and of shared anonymous memory by the operation that maps it."""
    shared = [i for i, op in enumerate(ops) if _maps_shared_anon(op)]
    if given is None:
        return [0] * nr_files, {}
    if len(given) != nr_files + len(shared):
        raise ValueError(
            f"inos must be one for each of {nr_files} files and {len(shared)} shared objects, "
            f"not {len(given)}: {list(given)!r}"
        )
    return list(given[:nr_files]), dict(zip(shared, given[nr_files:], strict=True))


def _content(machine: Machine) -> _Pages:
    """The token of every frame, without a copy."""
    words = machine._content_raw()
    if words is None:
        raise ValueError(f"the machine must keep contents (page_bytes=8), not {machine!r}")
    column: _Pages = words[:, 0]
    return column


def _failed(error: SyscallError) -> Json:
    return {"rc": -1, "errno": error.name}


def _answered(call: Callable[[], object], *, returns: bool = False) -> Json:
    """``rc`` of a call: what it returned if that ``returns`` anything, else 0; ``errno`` if any."""
    try:
        value = call()
    except SyscallError as error:
        return _failed(error)
    return {"rc": value if returns else 0}


def _counted(process: Process, call: Callable[[], object]) -> Json:
    """As :func:`_answered`, with the minor faults that the call itself took."""
    before = process._last_faults()[0]
    result = _answered(call)
    faults = process._last_faults()[0] - before if process.alive else 0
    return result | {"minflt": faults} if faults else result


def _at(op: Json) -> int:
    return int(WINDOW + op["at"] * PAGE_SIZE + op.get("boff", 0)) & _ULONG


def _length(op: Json) -> int:
    return int(op.get("bytes", op["n"] * PAGE_SIZE)) & _ULONG


def _tokens(token: int, n: int) -> _Pages:
    """Content of ``n`` pages written with a token."""
    return np.uint64(token * PAGE_SIZE & _ULONG) + np.arange(n, dtype=np.uint64)


def _bits(flags: Iterable[str | int], names: Mapping[str, int]) -> int:
    bits = 0
    for flag in flags:
        bits |= names[flag] if isinstance(flag, str) else flag
    return bits


def _switches(flags: Iterable[str | int], names: Mapping[str, int]) -> dict[str, bool] | None:
    """Which flags are set, by name; None if one is that the call does not know."""
    bits = _bits(flags, names)
    if bits & ~sum(names.values()):
        return None
    return {name: bool(bits & bit) for name, bit in names.items()}


#: What a call answers to a flag it does not know, before it looks at anything else.
_REFUSED: Final = {"rc": -1, "errno": "EINVAL"}


def _mode_word(op: Json) -> int:
    mode = op["mode"]
    flags = _bits(op.get("mode_flags", ()), _MODE_FLAGS)
    return (_MODES[mode] if isinstance(mode, str) else mode) | flags


def _nodemask(nodes: Any) -> Collection[int] | Pointer:
    return nodes if isinstance(nodes, list) else _POINTERS[nodes]


def _addresses(pages: Any) -> _Pages | Pointer:
    if not isinstance(pages, list):
        return _POINTERS[pages]
    addresses: list[int] = []
    for page in pages:
        match page:
            case [number, offset]:
                addresses.append(WINDOW + number * PAGE_SIZE + offset)
            case {"range": [first, n]}:
                addresses.extend(
                    range(WINDOW + first * PAGE_SIZE, WINDOW + (first + n) * PAGE_SIZE, PAGE_SIZE)
                )
            case {"raw": text}:
                addresses.append(int(text, 0))
            case _:
                addresses.append(WINDOW + page * PAGE_SIZE)
    return np.array(addresses, dtype=np.uint64)


def _targets(nodes: Any, n: int) -> npt.NDArray[np.int32] | Pointer:
    if isinstance(nodes, str) or nodes is None:
        return _POINTERS[nodes]
    listed = nodes if isinstance(nodes, list) else [nodes]
    return np.resize(np.array(listed, dtype=np.int32), n if listed else 0)


def _status(number: int) -> int | str | None:
    """A status as a record has it: a node, the name of an error, None where nothing was stored."""
    if number == STATUS_UNSET:
        return None
    return number if number >= 0 else errno_name(-number)


def run(
    scenario: Mapping[str, Any],
    *,
    kernel: str = DEFAULT_KERNEL,
    inos: Sequence[int] | None = None,
    machine: MachineFactory | None = None,
) -> list[Json]:
    """Run a scenario and return what a recording of it would hold as ``results``.

    Parameters
    ----------
    scenario : mapping
        ``ops``, and ``files``, ``thp``, ``no_anchor`` and ``brief`` where they matter; nothing
        else is looked at.
    kernel : str
        Profile of the machine.
    inos : sequence of int, optional
        Inode numbers of files and shared objects, as :func:`inos` takes them from a record; 0
        stands for one that is not known.  Without it the machine numbers them all.
    machine : callable, optional
        Makes another machine than the recorded one from the kernel's name.  Its pages must have
        tokens as content (``page_bytes=8``).

    Returns
    -------
    list of dict
        A result for each operation; fewer when the kernel kills a process, which ends a scenario.

    Raises
    ------
    ValueError
        Not a scenario (see :func:`validate`), or the wrong number of ``inos``.
    UnsupportedScenario
        It asks for huge pages.

    Examples
    --------
    >>> ops = [
    ...     {"op": "mmap", "p": 0, "at": 0, "n": 4, "kind": "anon"},
    ...     {"op": "touch", "p": 0, "at": 0, "n": 4, "write": True, "tok": 1},
    ...     {"op": "move_pages", "p": 0, "pid": "self", "pages": [0, 1], "nodes": 3},
    ... ]
    >>> run({"ops": ops})[-1]["state"]["0"]["vmas"][0]["node"]
    '3300'
    """
    return list(ScenarioRun(scenario, kernel=kernel, inos=inos, machine=machine))
