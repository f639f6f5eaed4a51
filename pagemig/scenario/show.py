"""``pagemig run``: scenarios run by the model, as records or as tables for people."""

import argparse
import json
import shutil
import textwrap
from collections.abc import Collection
from itertools import groupby
from typing import Any, Final, TypeAlias

from pagemig.kernels import DEFAULT_KERNEL, kernel_profile
from pagemig.report import table
from pagemig.scenario.files import choose, entries, placed
from pagemig.scenario.language import inos, validate
from pagemig.scenario.run import CRASHES, ScenarioRun

__all__ = ["add_parser"]

Json: TypeAlias = dict[str, Any]

_INDENT: Final = "   "
_HEAD: Final = ("process", "page", "n", "prot", "policy", "nodes", "mapped")
_LEGEND: Final = (
    "A table shows the mappings of the processes an operation changed. page: the first, n: how "
    "many; nodes: the node of each page, . nothing there, z the zero page; mapped: how often each "
    "page is mapped (a is 10). Counts of 0 are left out, long lines end in ..."
)
#: Counts that are shown only where something was counted.
_COUNTS: Final = ("migrated", "migrate_failed", "minflt")
#: Columns of the legend, and the least a column of pages gets.
_WIDEST_TEXT: Final = 100
_NARROWEST: Final = 12


def add_parser(subparsers: Any) -> None:
    """Add ``pagemig run`` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run",
        help="run scenarios and print what happened",
        description="Run scenarios (tests/corpus/linux-6.1/README.md has the language) and print "
        "them with their results, one JSON object a line, or as tables.",
    )
    parser.add_argument(
        "file", metavar="FILE", help="scenarios as JSON, also .gz; - is standard input"
    )
    parser.add_argument("--id", help="only the scenario with this id, as hand-013")
    parser.add_argument("--kernel", default=DEFAULT_KERNEL, help="profile (default %(default)s)")
    parser.add_argument(
        "--table", action="store_true", help="pages and nodes after each operation, for people"
    )
    parser.set_defaults(main=_main)


def _main(args: argparse.Namespace) -> int:
    kernel_profile(args.kernel)
    width = shutil.get_terminal_size((100, 24)).columns
    chosen = choose(entries(args.file), args.id)
    for entry in chosen:
        with placed(entry):
            validate(entry.scenario)
    for number, entry in enumerate(chosen):
        scenario = entry.scenario
        with placed(entry):
            known = inos(scenario) if "results" in scenario else None
            runner = ScenarioRun(scenario, kernel=args.kernel, inos=known)
            if args.table:
                if not number:
                    print(textwrap.fill(_LEGEND, min(width, _WIDEST_TEXT)), end="\n\n")
                _print_table(scenario, runner, width)
                continue
            results = list(runner)
        kept = {name: value for name, value in scenario.items() if name != "unstable"}
        print(json.dumps({**kept, "outcome": runner.outcome, "results": results}), flush=True)
    return 0


def _print_table(scenario: Json, runner: ScenarioRun, width: int) -> None:
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
    """Mappings as a table; what two columns of pages cannot show of them is run together."""
    columns = zip(_HEAD[:-2], *(map(str, row[:-1]) for row in rows), strict=True)
    taken = len(_INDENT) + sum(2 + max(map(len, column)) for column in columns)
    wide = max((width - taken - 2) // 2, _NARROWEST)
    shown = [
        (*row, _abridged(vma["node"], wide), _abridged(vma["mapcount"], wide)) for *row, vma in rows
    ]
    return "\n".join(_cut(_INDENT + line, width) for line in table(shown, _HEAD).splitlines())


def _abridged(text: str | list[list[Any]], wide: int) -> str:
    """A character for each page if they fit, else runs of equal ones."""
    flat = text if isinstance(text, str) else "".join(value * n for value, n in text)
    if len(flat) <= wide:
        return flat
    return _cut(" ".join(f"{value}*{len([*run])}" for value, run in groupby(flat)), wide)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."
