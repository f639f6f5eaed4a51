"""The parts of a recording that the model must reproduce.

Recordings of kernels with ``/proc/PID/pagemap`` (2.6.25 and later) must be reproduced whole.  Those
of older kernels were read from the memory of the machine and hold more, some of it unreliable:
``tests/corpus/linux-2.6.18/README.md`` says what.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from pagemig.kernels import KernelProfile

__all__ = ["APART", "apart", "binding", "is_timed"]

Json: TypeAlias = dict[str, Any]

#: Fields of a mapping that are compared but reported separately: references and flags of a page
#: depend on the lists in which processors collect pages.
APART: Final = ("count", "flags", "flags2")

#: Fields that the model has, but not a kernel without counters of migration.
_UNCOUNTED: Final = ("migrated", "migrate_failed")

#: Operations that run for a time: their results depend on the machine, not only on the kernel.
_TIMED: Final = ("flip", "churn")

#: Fields of a mapping that are the same at any timing.
_STEADY: Final = ("at", "n", "prot", "file", "off", "shared_anon", "policy")


def binding(
    profile: KernelProfile, ops: Sequence[Json], results: Sequence[Json], recorded: Sequence[Json]
) -> list[Json]:
    """Leave out of results what need not be reproduced.

    Parameters
    ----------
    profile : KernelProfile
        The recorded kernel.
    ops : sequence of dict
        The operations.
    results : sequence of dict
        The recorded ones or the model's.
    recorded : sequence of dict
        The recorded ones: where the outcome depends on timing, operations that the recorded kernel
        did not survive to answer are left out.

    Returns
    -------
    list of dict
    """
    if profile.pagemap:
        return list(results)
    first = next((i for i, op in enumerate(ops) if op["op"] in _TIMED), len(ops))
    return [
        _sound(op, result) if i < first else _whatever_the_timing(op, result, recorded[i])
        for i, (op, result) in enumerate(zip(ops, results, strict=False))
    ]


def is_timed(ops: Sequence[Json]) -> bool:
    """Tell whether an operation of a scenario runs on for a time, so that its outcome is chance."""
    return any(op["op"] in _TIMED for op in ops)


def _sound(op: Json, result: Json) -> Json:
    left_out = {*_UNCOUNTED, *(() if op["op"] == "touch" else ("minflt",))}
    if op["op"] == "move_pages" and op.get("nodes") is None and _lists_several(op["pages"]):
        left_out.add("status")
    kept = {name: value for name, value in result.items() if name not in left_out}
    if "state" in kept:
        kept["state"] = _without(kept["state"], APART)
    return kept


def _lists_several(pages: Any) -> bool:
    ranges = (
        page["range"][1] for page in pages or () if isinstance(page, dict) and "range" in page
    )
    return isinstance(pages, list) and (len(pages) > 1 or any(n > 1 for n in ranges))


def _without(state: Mapping[str, Any], names: Sequence[str]) -> Json:
    return {
        number: process
        and {
            **process,
            "vmas": [{k: v for k, v in vma.items() if k not in names} for vma in process["vmas"]],
        }
        for number, process in state.items()
    }


def _whatever_the_timing(op: Json, result: Json, recorded: Json) -> Json:
    """Keep what holds at any timing: torn pages, pages left by truncation, the mappings."""
    if not recorded:
        return {}
    kept: Json = {name: result[name] for name in ("errno",) if name in result}
    if op["op"] == "churn":
        kept["rc"] = result.get("rc")
    if op["op"] == "wait":
        kept["torn"] = sorted(result.get("torn", {}))
    kept["state"] = {
        number: process
        and {"vmas": [{k: vma[k] for k in _STEADY if k in vma} for vma in process["vmas"]]}
        for number, process in result.get("state", {}).items()
    }
    return kept


def apart(recorded: Sequence[Json], ours: Sequence[Json]) -> Iterator[tuple[str, int, int]]:
    """Compare page by page the fields that are reported separately.

    Parameters
    ----------
    recorded, ours : sequence of dict
        Results with the state of every process after every operation.

    Yields
    ------
    tuple of (str, int, int)
        A field, how many pages of a mapping it was recorded for, and how many of them agree.
    """
    for theirs, mine in zip(recorded, ours, strict=False):
        for number, process in theirs["state"].items():
            there = (mine["state"].get(number) or {"vmas": []})["vmas"]
            known = {(vma["at"], vma["n"]): vma for vma in there}
            for vma in (process or {"vmas": []})["vmas"]:
                our = known.get((vma["at"], vma["n"]), {})
                for name in APART:
                    yield from _agreeing(name, vma.get(name), our.get(name))


def _agreeing(name: str, recorded: Any, ours: Any) -> Iterator[tuple[str, int, int]]:
    if isinstance(recorded, str):
        present = [(a, b) for a, b in zip(recorded, ours or " " * len(recorded), strict=True)]
        pages = [(a, b) for a, b in present if a != "."]
        yield name, len(pages), sum(a == b for a, b in pages)
