"""What each kernel profile is checked against: recordings, sources that were read, or twins."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from pagemig.kernels import KERNELS
from pagemig.report import table
from pagemig.scenario.files import load

__all__ = ["Held", "held", "text"]

#: The recordings in a source tree: ``linux-KERNEL/*.jsonl.gz``.
CORPUS: Final = Path("tests", "corpus")

#: Profiles that stand for no kernel.
_OWN: Final = frozenset({"pmig"})

_SAY: Final = """\
recorded    a real kernel ran the scenarios; every answer and the whole visible state are compared
by reading  tables of locks, references, statuses and races, written from the kernel's sources
own         no such kernel exists: it does what the note of 2006 asks for; checked with naive twins
Scenarios with huge pages are not counted: they are not modelled."""


class Held(NamedTuple):
    """What one profile is checked against.

    Attributes
    ----------
    kernel : str
        Name of the profile.
    against : str
        ``"recorded"``, ``"by reading"`` or ``"own"``.
    files : int or None
        Files of recordings; None without recordings.
    scenarios, operations : int or None
        Scenarios and operations in them that the model can run.
    """

    kernel: str
    against: str
    files: int | None
    scenarios: int | None
    operations: int | None


def held(corpus: Path = CORPUS) -> Iterator[Held]:
    """Say what every profile is checked against.

    Parameters
    ----------
    corpus : Path
        Directory with the recordings, ``linux-KERNEL/*.jsonl.gz``.

    Yields
    ------
    Held
        One for each profile, oldest kernel first.  A profile without recordings counts as written
        by reading.
    """
    for kernel in KERNELS:
        paths = sorted((corpus / f"linux-{kernel}").glob("*.jsonl.gz"))
        runnable = [
            [len(r["ops"]) for r in load(path) if r.get("thp", "never") == "never"]
            for path in paths
        ]
        counted = [operations for operations in runnable if operations]
        if counted:
            scenarios = sum(map(len, counted))
            yield Held(kernel, "recorded", len(counted), scenarios, sum(map(sum, counted)))
        else:
            against = "own" if kernel in _OWN else "by reading"
            yield Held(kernel, against, None, None, None)


def text(corpus: Path = CORPUS) -> str:
    """Lay :func:`held` out as a table that explains its words."""
    head = ("kernel", "checked against", "files", "scenarios", "operations")
    parts = [table(held(corpus), head), _SAY]
    if not corpus.is_dir():
        parts.append(f"There are no recordings in {corpus}: run this in a source tree of pagemig.")
    return "\n\n".join(parts)
