"""ABI 1 as it was declared: what is in the record stays, at its place; more may follow it."""

import re
from pathlib import Path

import pytest

from pagemig import api

RECORD = Path(__file__).parent / "abi_1.txt"


def words(text: str) -> str:
    return " ".join(text.split())


def members() -> dict[str, list[str]]:
    """What each structure of the header holds, in order; the table is one of them."""
    text = re.sub(r"/\*.*?\*/", "", api.header(), flags=re.S)
    found = re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", text, flags=re.S)
    return {name: [words(part) for part in body.split(";")[:-1]] for body, name in found}


def numbers() -> list[str]:
    """The constants of its enumerations."""
    text = re.sub(r"/\*.*?\*/", "", api.header(), flags=re.S)
    return [
        words(one)
        for body in re.findall(r"enum \{(.*?)\}", text, flags=re.S)
        for one in body.split(",")
        if one.strip()
    ]


def recorded() -> dict[str, list[str]]:
    """The record: a name, and below it, indented, what belongs to it."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in RECORD.read_text().splitlines():
        if line.startswith("    "):
            found[name].append(line.strip())
        else:
            name = line
            found[name] = []
    return found


@pytest.mark.parametrize("name", recorded())
def test_what_was_declared_is_there_and_at_its_place(name: str) -> None:
    was = recorded()[name]
    assert was
    if name == "enum":
        assert set(was) <= set(numbers())
        return
    now = members()[name]
    assert now[: len(was)] == was
    if "uint32_t size" not in was[0] and name != "pmg_api":
        assert now == was  # without a size nobody knows of what follows


def test_the_record_has_every_structure_and_the_table_begins_with_its_version() -> None:
    assert recorded().keys() - {"enum"} <= members().keys()
    assert recorded()["pmg_api"][:2] == ["uint32_t abi", "uint32_t size"]
    assert api.ABI == 1
