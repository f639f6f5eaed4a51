"""``pagemig run``: run scenarios and print the results as records or as tables."""

import argparse
import json
import shutil
from typing import Any

from pagemig.kernels import DEFAULT_KERNEL, kernel_profile
from pagemig.scenario.files import choose, entries, placed
from pagemig.scenario.language import inos, validate
from pagemig.scenario.run import ScenarioRun
from pagemig.scenario.show import legend, print_table

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Add ``pagemig run`` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run",
        help="run scenarios and print what happened",
        description="Run scenarios (tests/corpus/linux-6.1/README.md defines the language) and "
        "print them with their results, one JSON object a line or as tables.",
    )
    parser.add_argument(
        "file", metavar="FILE", help="scenarios as JSON, also .gz; - is standard input"
    )
    parser.add_argument("--id", help="only the scenario with this id, as hand-013")
    parser.add_argument("--kernel", default=DEFAULT_KERNEL, help="profile (default %(default)s)")
    parser.add_argument(
        "--table", action="store_true", help="print tables of pages and nodes after each operation"
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
                    print(legend(width), end="\n\n")
                print_table(scenario, runner, width)
                continue
            results = list(runner)
        stable = {name: value for name, value in scenario.items() if name != "unstable"}
        print(json.dumps({**stable, "outcome": runner.outcome, "results": results}), flush=True)
    return 0
