"""The tables of a scenario that the model runs."""

import json
import textwrap
from collections.abc import Collection
from itertools import groupby
from typing import Any, Final, TypeAlias

from pagemig.report import table
from pagemig.scenario.run import CRASHES, ScenarioRun

__all__ = ["legend", "print_table"]

Json: TypeAlias = dict[str, Any]

_INDENT: Final = "   "
_HEAD: Final = ("process", "page", "n", "prot", "policy", "nodes", "mapped")
_LEGEND: Final = (
    "A table shows the mappings of the processes an operation changed. page: the first, n: how "
    "many; nodes: the node of each page, . nothing there, z the zero page; mapped: how often each "
    "page is mapped (a is 10). Counts of 0 are left out, long lines end in ..."
)
#: Counts that are shown only if they are not 0.
_COUNTS: Final = ("migrated", "migrate_failed", "minflt")
#: Width of the legend, and the least width of a column of pages.
_WIDEST_TEXT: Final = 100
_NARROWEST: Final = 12


def legend(width: int) -> str:
    """Return the explanation of the tables, in lines that fit a terminal."""
    return textwrap.fill(_LEGEND, min(width, _WIDEST_TEXT))


def print_table(scenario: Json, runner: ScenarioRun, width: int) -> None:
    """Run a scenario and print each operation, its answer and what it changed."""
    print(": ".join(str(scenario[name]) for name in ("id", "note") if name in scenario))
    for i, result in enumerate(runner):
        print()
        print(_cut(f"{i}  {_fields_text(runner.ops[i])}", width))
        print(_cut(f"{_INDENT}-> {_fields_text(_worth_saying(result)) or 'nothing'}", width))
        states = result.get("state", {})
        rows = [
            (int(number), vma["at"], vma["n"], vma["prot"], vma["policy"], vma)
            for number, state in states.items()
            for vma in (state or {"vmas": []})["vmas"]
        ]
        if rows:
            print(_states_text(rows, width))
        for number, state in states.items():
            if state is None:
                print(f"{_INDENT}process {number} is gone")
        if runner.outcome in CRASHES:
            print(_cut(f"{_INDENT}{runner.outcome}: {runner.site}", width))
            break
    print()


def _worth_saying(result: Json) -> Json:
    return {
        name: value
        for name, value in result.items()
        if name != "state" and (value or name not in _COUNTS)
    }


def _fields_text(fields: Json, without: Collection[str] = ("op",)) -> str:
    words = [str(fields["op"])] if "op" in fields else []
    words += [
        f"{name}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for name, value in fields.items()
        if name not in without
    ]
    return " ".join(words)


def _states_text(rows: list[tuple[Any, ...]], width: int) -> str:
    """Show mappings as a table; pages that look the same are joined into runs."""
    columns = zip(_HEAD[:-2], *(map(str, row[:-1]) for row in rows), strict=True)
    taken = len(_INDENT) + sum(2 + max(map(len, column)) for column in columns)
    wide = max((width - taken - 2) // 2, _NARROWEST)
    shown = [
        (*row, _abridged(vma["node"], wide), _abridged(vma["mapcount"], wide)) for *row, vma in rows
    ]
    return "\n".join(_cut(_INDENT + line, width) for line in table(shown, _HEAD).splitlines())


def _abridged(text: str | list[list[Any]], wide: int) -> str:
    """Show a character for each page if they fit, else runs of equal ones."""
    flat = text if isinstance(text, str) else "".join(value * n for value, n in text)
    if len(flat) <= wide:
        return flat
    return _cut(" ".join(f"{value}*{len([*run])}" for value, run in groupby(flat)), wide)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."
