"""Recorded calls in steps: a call that stops and continues answers what was recorded.

Scenarios by hand, ``mini`` and a tenth of the random ones run; ``make full`` runs all of them.
Stages have one page, 64 pages, or a size drawn for every call.
"""

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

import pagemig as pm
from pagemig import _api
from pagemig.scenario.conform import compare, describe
from pagemig.scenario.files import load
from support import CORPUS

FILES = {
    "6.1": ("hand", "mini", "random"),
    "6.12": ("hand", "mini", "random", "weighted"),
    "6.18": ("hand", "mini", "random"),
    "2.6.18": ("k18", "hand", "random"),
}
#: What does not agree without steps either: docs/fidelity.md.
KNOWN = {"2.6.18-hand-120-race-1"}
SEED = 5


def chosen() -> list[Any]:
    found = []
    for kernel, names in FILES.items():
        for name in names:
            records = load(CORPUS / f"linux-{kernel}" / f"{name}.jsonl.gz")
            if name not in ("hand", "mini", "k18") and not os.environ.get("PAGEMIG_FULL"):
                records = random.Random(SEED).sample(records, len(records) // 10)
            found += [
                pytest.param(kernel, record, id=f"{kernel}-{record['id']}")
                for record in records
                if f"{kernel}-{record['id']}" not in KNOWN
            ]
    return found


def in_steps(name: str, draw: random.Random) -> Callable[..., int]:
    """A call of the core's process as a migration that is stepped to its end."""

    def call(self: pm.Process, *arguments: Any) -> int:
        self.machine.width = draw.choice([1, 64, draw.randint(2, 63)])
        status = arguments[4] if name == "move_pages" else None
        flight = _api.Flight(self.machine, self, self.cpu)
        getattr(flight, name)(*arguments)
        while (event := flight.step())[0] != "done":
            assert event[0] != "waits", event
            self.machine.check()
        return flight.end(False, status)

    return call


@pytest.fixture(autouse=True)
def everything_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(SEED)
    for name in ("move_pages", "migrate_pages", "mbind"):
        monkeypatch.setattr(pm.Process, f"_{name}", in_steps(name, draw), raising=False)


@pytest.mark.parametrize(("kernel", "record"), chosen())
def test_agrees_with_the_recorded_kernel(kernel: str, record: dict[str, Any]) -> None:
    agreement = compare(record, kernel=kernel, check=True)
    if agreement.unsupported:
        pytest.skip("huge pages")
    if not agreement.agrees:
        pytest.fail(describe(agreement), pytrace=False)
