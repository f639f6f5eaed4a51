"""Recorded calls through the core's functions: checks and their order are the core's, not Python's.

All scenarios by hand and a tenth of the random ones run; ``make full`` runs all of them.
"""

import os
import random
from typing import Any

import pytest

import pagemig as pm
from pagemig.scenario.conform import compare, describe
from pagemig.scenario.files import load
from support import CORPUS, door

SEED = 9
#: Scenarios with huge pages, which are not modelled.
HUGE = "thp.jsonl.gz"
#: A race that ends otherwise than recorded: tests/recorded/test_corpus_2006.py says how.
RACE = "hand-120-race-1"


def chosen() -> list[Any]:
    found = []
    for path in sorted(CORPUS.glob("linux-*/*.jsonl.gz")):
        if path.name == HUGE:
            continue
        kernel, records = path.parent.name.removeprefix("linux-"), load(path)
        if path.name != "hand.jsonl.gz" and not os.environ.get("PAGEMIG_FULL"):
            records = random.Random(SEED).sample(records, max(len(records) // 10, 1))
        found += [
            pytest.param(kernel, r, id=f"{kernel}-{r['id']}") for r in records if r["id"] != RACE
        ]
    return found


@pytest.fixture(autouse=True)
def through_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    for call in door.CALLS:
        monkeypatch.setattr(pm.Process, call.__name__, call)


@pytest.mark.parametrize(("kernel", "record"), chosen())
def test_agrees_with_the_recorded_kernel(kernel: str, record: dict[str, Any]) -> None:
    agreement = compare(record, kernel=kernel, check=True)
    if not agreement.agrees:
        pytest.fail(describe(agreement), pytrace=False)
