"""The language of scenarios: its operations and fields, their checks, and their meaning.

A scenario lists what some processes do, operation by operation.  A record is a scenario with the
answers and states of a real kernel.  ``tests/corpus/linux-6.1/README.md`` specifies both.
Pages are numbered from the base of a window of the address space: page ``k`` is the address
``0x100000000000 + 4096 * k``.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
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
    MPOL_WEIGHTED_INTERLEAVE,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    NULL,
    PAGE_SIZE,
    STATUS_UNSET,
    Pointer,
)
from pagemig.errors import errno_name

__all__ = ["WINDOW", "inos", "validate"]

#: A scenario, a record, an operation or a result as JSON.
Json: TypeAlias = dict[str, Any]

#: Address of page 0 of a scenario.
WINDOW: Final = 0x1000_0000_0000

#: The place of a process's stack: above the window.
STACK: Final = 0x7FFF_0000_0000

ULONG: Final = (1 << 64) - 1

#: Pages that an operation may list or touch one by one, and a page number that is an address.
_MOST_PAGES: Final = 1 << 24
_MOST_PAGE: Final = 1 << 50

#: Content or addresses of pages.
Pages: TypeAlias = npt.NDArray[np.uint64]


# ---- operations and fields ---------------------------------------------------------------------


class _Kind(NamedTuple):
    """A kind of value: its check, and its description."""

    has: Callable[[Any], bool]
    expected: str


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_word(value: object) -> bool:
    return _is_int(value) and -(1 << 63) <= value <= ULONG  # type: ignore[operator]


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
        return 0 <= int(str(text), 0) <= ULONG
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


MODES: Final = {
    "default": MPOL_DEFAULT,
    "preferred": MPOL_PREFERRED,
    "bind": MPOL_BIND,
    "interleave": MPOL_INTERLEAVE,
    "local": MPOL_LOCAL,
    "preferred_many": MPOL_PREFERRED_MANY,
    "weighted_interleave": MPOL_WEIGHTED_INTERLEAVE,
}
MODE_FLAGS: Final = {
    "static": MPOL_F_STATIC_NODES,
    "relative": MPOL_F_RELATIVE_NODES,
    "balancing": MPOL_F_NUMA_BALANCING,
}
MOVE_FLAGS: Final = {
    "strict": MPOL_MF_STRICT,
    "move": MPOL_MF_MOVE,
    "move_all": MPOL_MF_MOVE_ALL,
    "lazy": MPOL_MF_LAZY,
    "internal": 1 << 4,
}
MLOCK_FLAGS: Final = {"onfault": 1}
MLOCKALL_FLAGS: Final = {"current": MCL_CURRENT, "future": MCL_FUTURE, "onfault": MCL_ONFAULT}
MREMAP_FLAGS: Final = {
    "maymove": MREMAP_MAYMOVE,
    "fixed": MREMAP_FIXED,
    "dontunmap": MREMAP_DONTUNMAP,
}
GET_FLAGS: Final = {"node": MPOL_F_NODE, "addr": MPOL_F_ADDR, "mems": MPOL_F_MEMS_ALLOWED}
_MMAP_KINDS: Final = ("anon", "anon_shared", "file_private", "file_shared")
_FILE_KINDS: Final = ("tmpfs", "ramfs", "ext4", "ext3", "ext2", "minix")
POINTERS: Final = {None: NULL, "null": NULL, "bad": BAD}

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


def _is_pages(value: object) -> bool:
    if not isinstance(value, list):
        return value in (None, "bad")
    many = (page["range"][1] - 1 for page in value if isinstance(page, dict) and "range" in page)
    return all(map(_is_page, value)) and _is_few(len(value) + sum(many))


_PAGES = _Kind(
    _is_pages,
    'a list of pages, [page, offset], {"range": [page, n]} or {"raw": "0x..."}, '
    f'{_MOST_PAGES} of them at most, null or "bad"',
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
_POLICY: Final = {"mode": _number_or(MODES)}
_NODEMASK: Final = {"nodes": _NODES, "mode_flags": _flags_of(MODE_FLAGS), "maxnode": _WORD}
_PART: Final = {"file": _COUNT, "off": _COUNT, "n": _FEW}
_MOVE: Final = _flags_of(MOVE_FLAGS)

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
    "mlock": (_RANGE, {**_BYTES, "flags": _flags_of(MLOCK_FLAGS)}),
    "munlock": (_RANGE, _BYTES),
    "mlockall": ({"flags": _flags_of(MLOCKALL_FLAGS)}, {}),
    "munlockall": ({}, {}),
    "madvise": ({**_RANGE, "advice": _number_or(MADV_BY_NAME)}, _BYTES),
    "mremap": (
        {**_RANGE, "new_n": _COUNT},
        {
            **_BYTES,
            "new_at": _COUNT,
            "flags": _flags_of(MREMAP_FLAGS),
        },
    ),
    "fork": ({"child": _COUNT}, {}),
    "thread": ({"child": _COUNT}, {"on": _COUNT}),
    "exit": ({}, {"zombie": _BOOL, "alone": _BOOL}),
    "setuid": ({"uid": _COUNT}, {"dumpable": _BOOL}),
    "set_mempolicy": (_POLICY, _NODEMASK),
    "mbind": ({**_RANGE, **_POLICY}, {**_NODEMASK, **_BYTES, "flags": _MOVE}),
    "get_mempolicy": (
        {},
        {
            "flags": _flags_of(GET_FLAGS),
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
    "flip": ({**_RANGE, "n": _FEW}, {"ms": _COUNT, "background": _BOOL, "target": _COUNT}),
    "churn": ({**_RANGE, "n": _FEW, "file": _COUNT}, {"ms": _COUNT}),
    "squeeze": ({"node": _COUNT, "mb": _COUNT}, {}),
    "weight": ({"node": _COUNT, "weight": _WORD}, {}),
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
    """Check that a scenario is written in the language, before any of it runs.

    Parameters
    ----------
    scenario : mapping
        ``ops`` and the other fields of a scenario; ``results`` are ignored.

    Raises
    ------
    ValueError
        An unknown operation or field, a missing field, or an invalid value; the message names the
        operation's index, the field and the value.
    """
    ops, files = scenario.get("ops"), scenario.get("files", [])
    if not isinstance(ops, list) or not isinstance(files, list):
        wrong = files if isinstance(ops, list) else ops
        raise ValueError(f"a scenario has lists of ops and files, not {wrong!r}")
    for i, entry in enumerate(files):
        _check(f"file {i}", entry, {"kind": _FILE["kind"], "pages": _FILE["pages"]}, _FILE)
        if entry.get("fill") is not None and not _is_few(entry["pages"]):
            raise ValueError(f"file {i}: pages={entry['pages']!r} to fill is not {_FEW.expected}")
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
    if (name == "mmap" and str(op.get("kind")).startswith("file")) or name == "churn":
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
    """Check that results have states wherever recorded ones have them.

    Values are not checked, since they are compared with those of the model.

    Raises
    ------
    ValueError
        A state is missing; the message names the operation.
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
    """Check the fields of a recorded mapping that are read, not only compared."""
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
    """Return the inode numbers of a recorded scenario, which are the kernel's choice.

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
        The results do not have the form of recorded ones; the message says where.
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
        if maps_shared_anon(op):
            shared.append(_ino_at(vmas.get(str(op["p"]), []), op["at"], result))
    return found + shared


class Squeezed(NamedTuple):
    """The result of a ``squeeze``, which is the kernel's choice.

    Attributes
    ----------
    rc : int
        0, or -1: the writing process was killed.
    pages : list of (int, int)
        Process and page number of each page that got a swap slot: swapped out, or in the swap cache
        and still mapped.
    """

    rc: int
    pages: list[tuple[int, int]]


def squeezed(record: Mapping[str, Any]) -> dict[int, Squeezed]:
    """Return which pages each ``squeeze`` of a recorded scenario wrote to swap.

    Parameters
    ----------
    record : mapping
        A scenario with its ``results``.

    Returns
    -------
    dict of int to Squeezed
        By the index of the operation.
    """
    found: dict[int, Squeezed] = {}
    if not record.get("swap"):
        return found
    before: set[tuple[int, int]] = set()
    now: dict[str, Json | None] = {}
    for i, (op, result) in enumerate(zip(record["ops"], record["results"], strict=False)):
        now |= result.get("state", {})
        after = _with_slot(now)
        if op["op"] == "squeeze":
            found[i] = Squeezed(int(result.get("rc", 0)), sorted(after - before))
        before = after
    return found


def _with_slot(state: Mapping[str, Json | None]) -> set[tuple[int, int]]:
    """Count pages that have a swap slot: by their entry, or in the swap cache."""
    return {
        (int(number), vma["at"] + k)
        for number, process in state.items()
        for vma in (process or {"vmas": []})["vmas"]
        for k, (entry, flags) in enumerate(zip(vma["pte"], vma["flags"], strict=True))
        if entry == "s" or (flags != "." and int(flags, 16) & 8)
    }


def maps_shared_anon(op: Json) -> bool:
    return bool(op["op"] == "mmap" and op["kind"] == "anon_shared")


def _ino_at(vmas: Iterable[Json], page: int, result: Json) -> int:
    if result.get("rc") == 0:
        for vma in vmas:
            if vma["at"] <= page < vma["at"] + vma["n"] and "shared_anon" in vma:
                return int(vma["ino"])
    return 0


# ---- words as arguments of calls ---------------------------------------------------------------


def address_of(op: Json) -> int:
    return int(WINDOW + op["at"] * PAGE_SIZE + op.get("boff", 0)) & ULONG


def length_of(op: Json) -> int:
    return int(op.get("bytes", op["n"] * PAGE_SIZE)) & ULONG


def tokens(token: int, n: int) -> Pages:
    """Return the content of ``n`` pages written with a token."""
    return np.uint64(token * PAGE_SIZE & ULONG) + np.arange(n, dtype=np.uint64)


def bits_of(flags: Iterable[str | int], names: Mapping[str, int]) -> int:
    bits = 0
    for flag in flags:
        bits |= names[flag] if isinstance(flag, str) else flag
    return bits


def switches(flags: Iterable[str | int], names: Mapping[str, int]) -> dict[str, bool] | None:
    """Return which flags are set, by name; None if the call does not know one of them."""
    bits = bits_of(flags, names)
    if bits & ~sum(names.values()):
        return None
    return {name: bool(bits & bit) for name, bit in names.items()}


def mode_word(op: Json) -> int:
    mode = op["mode"]
    flags = bits_of(op.get("mode_flags", ()), MODE_FLAGS)
    return (MODES[mode] if isinstance(mode, str) else mode) | flags


def nodemask(nodes: Any) -> Collection[int] | Pointer:
    return nodes if isinstance(nodes, list) else POINTERS[nodes]


def addresses_of(pages: Any) -> Pages | Pointer:
    if not isinstance(pages, list):
        return POINTERS[pages]
    addresses = [np.empty(0, np.uint64)]
    for page in pages:
        first, n = page, 1
        match page:
            case [number, offset]:
                addresses.append(np.array([WINDOW + number * PAGE_SIZE + offset], np.uint64))
                continue
            case {"raw": text}:
                addresses.append(np.array([int(text, 0)], np.uint64))
                continue
            case {"range": [first, n]}:
                pass
        end = WINDOW + (first + n) * PAGE_SIZE
        addresses.append(np.arange(WINDOW + first * PAGE_SIZE, end, PAGE_SIZE, dtype=np.uint64))
    return np.concatenate(addresses)


def targets_of(nodes: Any, n: int) -> npt.NDArray[np.int32] | Pointer:
    if isinstance(nodes, str) or nodes is None:
        return POINTERS[nodes]
    listed = nodes if isinstance(nodes, list) else [nodes]
    return np.resize(np.array(listed, dtype=np.int32), n if listed else 0)


def status_name(number: int) -> int | str | None:
    """Return a status as a record has it: a node, an error's name, None if none was stored."""
    if number == STATUS_UNSET:
        return None
    return number if number >= 0 else errno_name(-number)
