"""Agreement with recorded kernels: run their scenarios, compare every answer and every state."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Any, TypeAlias

from pagemig.kernels import DEFAULT_KERNEL, KERNELS, kernel_profile
from pagemig.report import table
from pagemig.scenario.binding import apart, binding, is_timed
from pagemig.scenario.language import inos, squeezed, validate
from pagemig.scenario.run import CRASHES, MachineFactory, ScenarioRun, UnsupportedScenario

__all__ = [
    "Agreement",
    "Count",
    "Difference",
    "compare",
    "conform",
    "describe",
    "differences",
    "expand",
    "summary",
    "text",
    "total_of",
]

Json: TypeAlias = dict[str, Any]

#: Stands for a value that one side does not have.
ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where a record and the model disagree.

    Attributes
    ----------
    path : str
        As in ``unstable``: operation, then the keys, as ``"12/state/0/vmas/1/node"``.
    recorded, ours : object
        The values there; ``"(absent)"`` for a missing one.
    """

    path: str
    recorded: Any
    ours: Any

    @property
    def operation(self) -> int:
        """Index of the operation."""
        return int(self.path.partition("/")[0])


@dataclass(slots=True)
class Agreement:
    """How far the model agrees with one record.

    Attributes
    ----------
    record : dict
        The recorded scenario.
    results : list of dict
        What the model answered, until it stopped.
    differing : list of Difference
        The first difference of each operation that has one.
    apart : Counter of (str, bool)
        Pages by the field that is reported separately and by whether they agree.
    unsupported : str
        Why the model cannot run it; empty if it can.
    """

    record: Json
    results: list[Json] = field(default_factory=list)
    differing: list[Difference] = field(default_factory=list)
    apart: Counter[tuple[str, bool]] = field(default_factory=Counter)
    unsupported: str = ""

    @property
    def agrees(self) -> bool:
        """Every operation agrees."""
        return not self.unsupported and not self.differing

    @property
    def agreeing_operations(self) -> list[str]:
        """Names of the operations that agree."""
        if self.unsupported:
            return []
        other = {difference.operation for difference in self.differing}
        return [op["op"] for i, op in enumerate(self.record["ops"]) if i not in other]


# ---- comparing --------------------------------------------------------------------------------


def expand(results: Iterable[Mapping[str, Any]]) -> list[Json]:
    """Complete the results with the state of every process after every operation.

    Parameters
    ----------
    results : iterable of dict
        Results as recorded: ``state`` holds only the processes that changed.

    Returns
    -------
    list of dict
        The same with ``state`` of all processes seen so far; inode numbers are left out.  States
        that did not change are shared between the results.
    """
    now: Json = {}
    expanded = []
    for result in results:
        changed = {number: _without_ino(state) for number, state in result.get("state", {}).items()}
        now = {**now, **changed}
        expanded.append({**result, "state": now})
    return expanded


def _without_ino(state: Json | None) -> Json | None:
    if state is None:
        return None
    vmas = [{name: value for name, value in vma.items() if name != "ino"} for vma in state["vmas"]]
    return {**state, "vmas": vmas}


def differences(
    recorded: Sequence[Json], ours: Sequence[Json], unstable: Iterable[str] = ()
) -> list[Difference]:
    """Compare two lists of results.

    Parameters
    ----------
    recorded, ours : sequence of dict
        Results as recorded.
    unstable : iterable of str
        Paths that are not compared.

    Returns
    -------
    list of Difference
        The first difference of each operation that has one, in order.
    """
    ignored = frozenset(unstable)
    found: list[Difference] = []
    for i, (theirs, mine) in enumerate(
        zip_longest(expand(recorded), expand(ours), fillvalue=ABSENT)
    ):
        found += islice(_differ(str(i), theirs, mine, ignored), 1)
    return found


def _differ(path: str, recorded: Any, ours: Any, ignored: frozenset[str]) -> Iterator[Difference]:
    """Yield the differences below a path.

    Lists are entered where they hold lists or objects and are of equal length; a list of numbers
    is one value.
    """
    if path in ignored or recorded == ours or _torn(recorded, ours):
        return
    if isinstance(recorded, dict) and isinstance(ours, dict):
        for name in [*recorded, *(name for name in ours if name not in recorded)]:
            yield from _differ(
                f"{path}/{name}", recorded.get(name, ABSENT), ours.get(name, ABSENT), ignored
            )
    elif _enterable(recorded) and _enterable(ours) and len(recorded) == len(ours):
        for i, (theirs, mine) in enumerate(zip(recorded, ours, strict=True)):
            yield from _differ(f"{path}/{i}", theirs, mine, ignored)
    else:
        yield Difference(path, recorded, ours)


def _torn(recorded: Any, ours: Any) -> bool:
    """Tell whether contents differ only where a page is being rewritten.

    A recorder that reads both ends of such a page may see one or two generations of it.
    """
    return (
        isinstance(recorded, list)
        and isinstance(ours, list)
        and len(recorded) == len(ours)
        and all(mine in ("torn", page) for page, mine in zip(recorded, ours, strict=True))
    )


def _enterable(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value)


def compare(
    record: Json,
    *,
    kernel: str = DEFAULT_KERNEL,
    machine: MachineFactory | None = None,
    check: bool = False,
) -> Agreement:
    """Run a recorded scenario and compare.

    Parameters
    ----------
    record : dict
        A scenario with ``results`` and perhaps ``unstable``.  Of the results only the inode numbers
        reach the model.
    kernel : str
        Profile of the machine.
    machine : callable, optional
        See :func:`pagemig.scenario.run.run`.
    check : bool, default False
        Check the machine's invariants after every operation.

    Returns
    -------
    Agreement
        A failure of the model itself is also a difference, at the operation that failed, with the
        error as the model's value.

    Raises
    ------
    ValueError
        The record has no results or is not a scenario, or there is no such kernel.
    """
    profile = kernel_profile(kernel)
    if not isinstance(record.get("results"), list):
        raise ValueError("holds no recording: it has no results to compare with")
    validate(record)
    agreement = Agreement(record)
    ours, at, failure = agreement.results, 0, ""
    try:
        run = ScenarioRun(
            record, kernel=kernel, inos=inos(record), squeezed=squeezed(record), machine=machine
        )
    except UnsupportedScenario as reason:
        agreement.unsupported = str(reason)
        return agreement
    try:
        for at in range(len(run.ops)):
            ours.append(run.step(at))
            if check:
                run.machine.check()
            if run.outcome != "ok":
                break
    except Exception as error:  # any failure of the model is reported like a difference
        failure = f"{type(error).__name__}: {error}"
    theirs = record["results"]
    if run.outcome in CRASHES:
        ours += [{} for _ in run.ops[len(ours) :]]
    found = differences(
        binding(profile, run.ops, theirs, theirs),
        binding(profile, run.ops, ours, theirs),
        record.get("unstable", ()),
    )
    outcomes = record.get("outcome", "ok"), run.outcome
    if outcomes[0] != outcomes[1] and not {*outcomes}.isdisjoint(CRASHES) and not is_timed(run.ops):
        found.append(Difference(f"{at}/outcome", *outcomes))
    for name, pages, agree in apart(expand(theirs), expand(ours)):
        agreement.apart[name, True] += agree
        agreement.apart[name, False] += pages - agree
    if failure:
        found = [difference for difference in found if difference.operation != at]
        found.append(Difference(str(at), _at(record["results"], at), failure))
        found.sort(key=lambda difference: difference.operation)
    agreement.differing = found
    return agreement


def _at(values: Sequence[Any], i: int) -> Any:
    return values[i] if i < len(values) else ABSENT


# ---- telling ----------------------------------------------------------------------------------


def describe(agreement: Agreement) -> str:
    """Describe a disagreement as a bug report.

    Parameters
    ----------
    agreement : Agreement
        One that does not agree.

    Returns
    -------
    str
        The scenario's name, the operations up to the first difference with the model's answers, the
        difference, the model's state there, and a scenario in JSON that reproduces it.
    """
    record = agreement.record
    title = " ".join(str(record[name]) for name in ("id", "note") if name in record)
    if agreement.unsupported:
        return f"{title}\nunsupported: {agreement.unsupported}"
    if not agreement.differing:
        return f"{title}\nagrees"
    first = agreement.differing[0]
    lines = [
        title,
        *(f"  file {i}: {_json(file)}" for i, file in enumerate(record.get("files", []))),
    ]
    for i, op in enumerate(record["ops"][: first.operation + 1]):
        lines += [
            f"  {i}: {_json(op)}",
            f"     -> {_json(_without_state(_at(agreement.results, i)))}",
        ]
    lines += [
        f"at {first.path}",
        f"  recorded  {_json(first.recorded)}",
        f"  ours      {_json(first.ours)}",
    ]
    lines += _state_lines(agreement.results[: first.operation + 1])
    kept = ("files", "no_anchor", "brief")
    scenario = {name: record[name] for name in kept if record.get(name)}
    lines.append(f"scenario: {_json({**scenario, 'ops': record['ops'][: first.operation + 1]})}")
    return "\n".join(lines)


def _without_state(result: Any) -> Any:
    if not isinstance(result, dict):
        return result
    return {name: value for name, value in result.items() if name != "state"}


def _state_lines(results: list[Json]) -> list[str]:
    expanded = expand(results)
    if not expanded:
        return []
    lines = ["our state there"]
    for number, state in expanded[-1]["state"].items():
        lines.append(
            f"  process {number}: {'gone' if state is None else _json(state['locked_kb'])}"
            f"{'' if state is None else ' kB locked'}"
        )
        lines += [f"    {_json(vma)}" for vma in (state or {"vmas": []})["vmas"]]
    return lines


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=str)


# ---- whole files ------------------------------------------------------------------------------


@dataclass(slots=True)
class Count:
    """Scenarios and operations, and how many of them agree."""

    scenarios: int = 0
    agree: int = 0
    unsupported: int = 0
    operations: int = 0
    operations_agree: int = 0

    def add(self, agreement: Agreement) -> None:
        """Count one record."""
        self.scenarios += 1
        self.agree += agreement.agrees
        self.unsupported += bool(agreement.unsupported)
        self.operations += len(agreement.record["ops"])
        self.operations_agree += len(agreement.agreeing_operations)


def conform(
    records: Iterable[Json], *, kernel: str = DEFAULT_KERNEL, check: bool = False
) -> Iterator[Agreement]:
    """Run recorded scenarios and compare them, one after another.

    Parameters
    ----------
    records : iterable of dict
        Recorded scenarios, as :func:`pagemig.scenario.files.load` reads them.
    kernel : str
        Profile of the machine.
    check : bool, default False
        Check the machine's invariants after every operation.

    Yields
    ------
    Agreement
        One for each record.
    """
    for record in records:
        yield compare(record, kernel=kernel, check=check)


def total_of(counts: Iterable[Count]) -> Count:
    """Add counts up."""
    total = Count()
    for count in counts:
        for name in Count.__slots__:
            setattr(total, name, getattr(total, name) + getattr(count, name))
    return total


def _reasons(compared: Iterable[Agreement]) -> Counter[str]:
    return Counter(agreement.unsupported for agreement in compared if agreement.unsupported)


def summary(total: Count, compared: Sequence[Agreement]) -> Json:
    """Return the counts and every first difference as one JSON object."""
    failures = [
        {
            "id": agreement.record.get("id"),
            "path": agreement.differing[0].path,
            "recorded": agreement.differing[0].recorded,
            "ours": agreement.differing[0].ours,
        }
        for agreement in compared
        if agreement.differing
    ]
    return {
        "scenarios": total.scenarios,
        "agree": total.agree,
        "operations": total.operations,
        "operations_agree": total.operations_agree,
        "unsupported": total.unsupported,
        "unsupported_reasons": dict(_reasons(compared)),
        "apart": {name: {"pages": n, "agree": agree} for name, n, agree in _apart(compared)},
        "failures": failures,
    }


def _apart(compared: Iterable[Agreement]) -> list[tuple[str, int, int]]:
    """Return the fields reported apart: the pages recorded, and those that agree."""
    pages: Counter[tuple[str, bool]] = Counter()
    for agreement in compared:
        pages.update(agreement.apart)
    names = dict.fromkeys(name for name, _ in pages)
    return [(name, pages[name, True] + pages[name, False], pages[name, True]) for name in names]


def text(
    by_file: Mapping[str, Count],
    total: Count,
    compared: Sequence[Agreement],
    kernel: str,
    *,
    verbose: bool,
) -> str:
    """Return counts by file, by operation where that helps, differences, and a verdict."""
    rows = [
        (name, c.scenarios, c.agree, c.unsupported, c.operations, c.operations_agree)
        for name, c in [*by_file.items(), ("all", total)]
    ]
    head = ("file", "scenarios", "agree", "unsupported", "operations", "agree")
    parts = [table(rows if len(by_file) > 1 else rows[:-1], head)]
    differing = [agreement for agreement in compared if agreement.differing]
    ran = [agreement for agreement in compared if not agreement.unsupported]
    if ran and (verbose or differing):
        run = Counter(op["op"] for agreement in ran for op in agreement.record["ops"])
        agreed = Counter(name for agreement in ran for name in agreement.agreeing_operations)
        operations = [(name, n, agreed[name]) for name, n in sorted(run.items())]
        parts.append(table(operations, ("operation", "run", "agree")))
    if any(n for _name, n, _agree in _apart(compared)):
        parts.append(table(_apart(compared), ("not binding", "pages", "agree")))
    parts += [describe(agreement) if verbose else _brief(agreement) for agreement in differing]
    reasons = [f"{n} unsupported: {reason}" for reason, n in _reasons(compared).most_common()]
    parts.append("\n".join([*reasons, _verdict(total, len(differing), kernel)]))
    return "\n\n".join(parts)


def _verdict(total: Count, differing: int, kernel: str) -> str:
    ran = total.scenarios - total.unsupported
    if not ran:
        return "No scenario was run."
    if differing:
        others = ", ".join(name for name in KERNELS if name != kernel)
        return (
            f"{differing} of {ran} {'does' if differing == 1 else 'do'} not agree with {kernel}."
            f"  Records of another kernel need --kernel: {others}."
        )
    return f"All {ran} agree." if ran > 1 else "It agrees."


def _brief(agreement: Agreement) -> str:
    record, first = agreement.record, agreement.differing[0]
    op = record["ops"][first.operation]["op"] if first.operation < len(record["ops"]) else "-"
    return "\n".join(
        [
            f"{record.get('id')}  {first.path}  ({op})",
            f"  recorded  {_json(first.recorded)}",
            f"  ours      {_json(first.ours)}",
        ]
    )
