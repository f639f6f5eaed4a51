"""``pagemig rates``: migration rates of N processors at once, in virtual time.

A run of the model is recorded with the locks it takes (`record`), the record becomes what one
processor does (`script`), and N processors replay it (`pagemig.vtime`): they share the locks of the
machine and of the nodes, and the copy bandwidth.  The order and the number of locks come from the
record alone.  What each thing costs is in ``data/rates.toml``, which says of every value whether it
is sourced, fitted or assumed.

Each processor moves the anonymous memory of a process of its own, all from one node to one other.
So the locks of pages, page tables and reverse maps have one user each; `SHARED` are the others.
"""

import argparse
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from pagemig import plot, vtime
from pagemig.constants import PAGE_SIZE
from pagemig.kernels import KERNELS, kernel_profile
from pagemig.machine import LOCKS, STEPS, Machine, Node
from pagemig.report import table
from pagemig.vtime import COPY, Costs, Script

__all__ = [
    "PROCESSORS",
    "SHARED",
    "Curve",
    "Model",
    "Parameters",
    "Reading",
    "Value",
    "fit",
    "load",
    "locks_per_page",
    "published",
    "rates",
    "record",
    "script",
]

#: What the note's "250" may mean: the rate of each of four migrations, or of all together.
Reading = Literal["each", "total"]

#: Numbers of processors shown.
PROCESSORS: Final = (1, 2, 4, 8, 16)

#: Locks that processors share though their processes share nothing: those of a node (one source,
#: one target for all) and those of the machine (of the swap cache and of the swap devices).
SHARED: Final = frozenset({"lru", "zone", "tree", "swap"})

#: The note's two designs, and the kernels that have them.
NOTE_KERNELS: Final[Mapping[str, tuple[str, ...]]] = {
    "swap": ("2.6.17",),
    "entries": ("2.6.17-mm", "2.6.18", "6.1"),
}

_PAGES: Final = 1024
_BATCH_BYTES: Final = 2 << 20
_PTE_STEPS: Final = frozenset({"unmap", "restore", "rollback"})
_ORIGINS: Final = frozenset({"sourced", "fitted", "assumed"})


# -- parameters -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Value:
    """One parameter of one machine.

    Attributes
    ----------
    value : float
        In the parameter's unit.
    origin : str
        ``"sourced"``, ``"fitted"`` or ``"assumed"``.
    source : str
        From what, or why.
    """

    value: float
    origin: str
    source: str


@dataclass(frozen=True, slots=True)
class Model:
    """The costs of one machine.

    Attributes
    ----------
    name, title : str
        As in the file.
    kernel : str
        The kernel its figures are of.
    values : mapping of str to Value
        Every parameter of the file.
    """

    name: str
    title: str
    kernel: str
    values: Mapping[str, Value]

    def __getitem__(self, name: str) -> float:
        return self.values[name].value

    def with_values(self, **values: float) -> "Model":
        """Return the same machine with other values of some parameters."""
        changed = {name: replace(self.values[name], value=value) for name, value in values.items()}
        return replace(self, values={**self.values, **changed})

    def costs(self, reading: Reading = "each", *, folio: int = 1, threads: int = 1) -> Costs:
        """What the virtual processors pay.

        Parameters
        ----------
        reading : {"each", "total"}
            Of the note's 250 MB/s.
        folio : int
            Base pages that move as one.
        threads : int
            That copy one folio together.
        """
        total = self["copy_total_mb_s"]
        rate = min(threads * self["copy_mb_s"], total)
        if threads > 1:
            rate = 1 / (1 / rate + self["handoff_us"] / _BATCH_BYTES)
        tree = self["tree_lines" if reading == "each" else "tree_lines_total"]
        node = self["lru_lines"]
        return Costs(
            page_bytes=folio * int(self["page_bytes"]),
            hold_us=self["hold_us"],
            line_us=self["line_us"],
            lines={"lru": node, "zone": node, "swap": self["swap_lines"], "tree": tree},
            spin_lines=self["spin_lines"],
            copy_mb_s=rate,
            copy_total_mb_s=total,
            jitter=self["jitter"],
            spread=self["spread"],
        )


@dataclass(frozen=True, slots=True)
class Parameters:
    """The file of parameters.

    Attributes
    ----------
    about : mapping of str to mapping
        Unit and meaning of each parameter.
    models : mapping of str to Model
        The machines.
    note : mapping
        The note's figures, MB/s.
    published : mapping of str to mapping
        Published rates of a machine, MB/s.
    """

    about: Mapping[str, Mapping[str, str]]
    models: Mapping[str, Model]
    note: Mapping[str, Any]
    published: Mapping[str, Mapping[str, Any]]


def load(path: str | Path | None = None) -> Parameters:
    """Read a file of parameters.

    Parameters
    ----------
    path : path-like, optional
        The package's ``data/rates.toml`` unless given.

    Raises
    ------
    ValueError
        A machine that lacks a parameter, has one nothing describes, or does not say where a value
        comes from; the text names both.
    """
    if path is None:
        text = files("pagemig").joinpath("data", "rates.toml").read_text(encoding="utf-8")
    else:
        text = Path(path).read_text(encoding="utf-8")
    data = tomllib.loads(text)
    about = data["parameter"]
    models = {name: _model(name, entry, about) for name, entry in data["machine"].items()}
    return Parameters(about, models, data["note"], data["published"])


def _model(name: str, entry: Mapping[str, Any], about: Mapping[str, Any]) -> Model:
    given = {key: value for key, value in entry.items() if isinstance(value, dict)}
    for key in about.keys() ^ given.keys():
        wrong = "has no" if key in about else "has an unknown"
        raise ValueError(f"machine {name} {wrong} parameter {key}")
    values = {key: Value(**value) for key, value in given.items()}
    for key, value in values.items():
        if value.origin not in _ORIGINS or not value.source:
            raise ValueError(f"machine {name} does not say where {key} comes from")
    return Model(name, entry["title"], entry["kernel"], values)


# -- from a run of the model to what a processor does -----------------------------------------


def record(kernel: str, pages: int = _PAGES) -> npt.NDArray[Any]:
    """Record the steps and locks of a migration.

    A process of one thread wrote ``pages`` pages of anonymous memory; ``migrate_pages`` moves them
    to another node, for the third time: lists and caches are warm.  Kernels that go page by page
    are run so (``Machine.width``), since the host's own batches would take locks less often.

    Parameters
    ----------
    kernel : str
        A profile.
    pages : int
        How many.

    Returns
    -------
    ndarray
        As ``Machine.trace``, with locks.

    Raises
    ------
    RuntimeError
        Pages did not move.
    """
    machine = _machine(kernel, pages)
    app = machine.spawn()
    base = app.mmap(pages * PAGE_SIZE)
    app.touch(base, pages * PAGE_SIZE, write=True)
    for old, new in ((0, 1), (1, 0)):
        app.migrate_pages([old], [new])
    machine.trace_locks = machine.tracing = True
    app.migrate_pages([0], [1])
    machine.tracing = False
    moved = _moved(machine.trace)
    if moved != pages:
        raise RuntimeError(f"{moved} of {pages} pages moved under kernel {kernel}")
    return machine.trace


def _machine(kernel: str, pages: int) -> Machine:
    """Two nodes with room to spare; a kernel that moves pages by way of swap gets some."""
    profile = kernel_profile(kernel)
    size = 4 * pages * PAGE_SIZE
    options: dict[str, Any] = {"swap": [size]} if profile.engine == 1 else {}
    machine = Machine([Node(size, cpus=1), Node(size)], kernel=kernel, **options)
    machine.width = min(profile.batch, machine.width)
    return machine


def _moved(trace: npt.NDArray[Any]) -> int:
    """Pages of a record that were copied and not copied again."""
    copies = trace["pfn"][trace["step"] == _number("copy")]
    return int(np.unique(copies).size)


def _number(step: str) -> int:
    return next(number for number, name in STEPS.items() if name == step)


def locks_per_page(trace: npt.NDArray[Any]) -> dict[str, float]:
    """Locks taken for each page that moved, by kind."""
    counts = Counter(trace["step"].tolist())
    moved = _moved(trace)
    return {name: counts[number] / moved for number, name in LOCKS.items()}


def script(trace: npt.NDArray[Any], model: Model, *, ptes: int = 1) -> Script:
    """What a processor does that repeats a record.

    Parameters
    ----------
    trace : ndarray
        What `record` answered.
    model : Model
        What steps and locks nobody else asks for cost; they become work.
    ptes : int
        Page table entries that map a page or folio: unmap and restore are done for each.

    Returns
    -------
    Script
        Shared locks and copies in the order of the record, with the work before each.
    """
    ops: list[tuple[float, str]] = []
    work = 0.0
    for step in trace["step"].tolist():
        lock = LOCKS.get(step)
        if lock in SHARED:
            ops.append((work, lock))
            work = 0.0
        elif lock:
            work += model["lock_us"]
        elif STEPS.get(step) in _PTE_STEPS:
            work += model["pte_us"] * ptes
        else:
            work += model["step_us"]
            if STEPS.get(step) == COPY:
                ops.append((work, COPY))
                work = 0.0
    return Script(tuple(ops), work, _moved(trace))


@cache
def _recorded(kernel: str) -> npt.NDArray[Any] | None:
    """Return the record of a kernel, made once; None where there is no such profile."""
    return record(kernel) if kernel in KERNELS else None


# -- rates ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curve:
    """Rate against the number of processors.

    Attributes
    ----------
    kernel : str
        The profile recorded.
    model : str
        The machine's costs.
    reading : {"each", "total"}
        Of the note's 250 MB/s.
    processors : tuple of int
        How many at once.
    mb_s : tuple of float, or None
        Rate of each of them; None: the profile is not built.
    busy : tuple of mapping
        Share of the time each shared lock was held.
    locks : mapping of str to float
        Locks a page, by kind, counted in the record.
    """

    kernel: str
    model: str
    reading: Reading
    processors: tuple[int, ...]
    mb_s: tuple[float, ...] | None
    busy: tuple[Mapping[str, float], ...]
    locks: Mapping[str, float]


def rates(
    kernel: str,
    model: Model,
    *,
    reading: Reading = "each",
    processors: Sequence[int] = PROCESSORS,
    pages: int = _PAGES,
    trace: npt.NDArray[Any] | None = None,
) -> Curve:
    """Rates of a kernel on a machine, in virtual time.

    Parameters
    ----------
    kernel : str
        A profile; one that does not exist gives a curve without rates.
    model : Model
        What things cost.
    reading : {"each", "total"}
        Which of the two costs of the swap cache's lock.
    processors : sequence of int
        How many migrate at once.
    pages : int
        Pages each moves, at least; the record is repeated.
    trace : ndarray, optional
        A record to replay instead of the kernel's own.

    Returns
    -------
    Curve
        The rates.

    Examples
    --------
    >>> from pagemig import rates
    >>> model = rates.load().models["zen3"]
    >>> one, two = rates.rates("6.12", model, processors=(1, 2)).mb_s
    >>> 0.8 < two / one <= 1
    True
    """
    events = _recorded(kernel) if trace is None else trace
    if events is None:
        return Curve(kernel, model.name, reading, tuple(processors), None, (), {})
    todo, costs = script(events, model), model.costs(reading)
    repeats = -(-pages // todo.pages)
    outcomes = [vtime.simulate(todo, costs, n, repeats=repeats) for n in processors]
    return Curve(
        kernel,
        model.name,
        reading,
        tuple(processors),
        tuple(outcome.mb_s for outcome in outcomes),
        tuple(outcome.busy for outcome in outcomes),
        locks_per_page(events),
    )


def published(model: Model, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """Published rates beside the model's.

    Parameters
    ----------
    model : Model
        The machine they are of; its kernel is recorded.
    rows : sequence of mapping
        Rows of the file.

    Returns
    -------
    list of (str, float, float)
        What was moved, the published rate and the model's, MB/s.

    Raises
    ------
    ValueError
        The machine's kernel has no profile.
    """
    events = _recorded(model.kernel)
    if events is None:
        raise ValueError(f"kernel {model.kernel} of machine {model.name} has no profile")
    return [(row["what"], float(row["rate"]), _row_rate(model, events, row)) for row in rows]


def _row_rate(model: Model, events: npt.NDArray[Any], row: Mapping[str, Any]) -> float:
    """Rate of one migrating thread (MB/s), the fixed parts of the call included."""
    pages, folios = row["pages"], row["folios"]
    ptes = 1 if row.get("mapped") == "pmd" else pages
    costs = model.costs(folio=pages, threads=row.get("threads", 1))
    one = costs.page_bytes / vtime.closed_form(script(events, model, ptes=ptes), costs)
    fixed = model["call_us"] + (model["first_us"] if folios == 1 else 0.0)
    return float(costs.page_bytes / (one + fixed / folios))


# -- fitting ----------------------------------------------------------------------------------


def fit(model: Model, parameters: Parameters) -> dict[str, float]:
    """Find the fitted costs of one of the note's machines from the engines' records.

    Parameters
    ----------
    model : Model
        The machine; its other values stay.
    parameters : Parameters
        The figures aimed at.

    Returns
    -------
    dict of str to float
        ``step_us`` and ``pte_us`` from migration entries alone; with the swap engine built,
        ``hold_us`` from it alone and the lines of its lock from four at once, else the lines from
        the saturated closed form with four ``tree_lock`` a page.
    """
    aim = parameters.note["aim"]
    swap = next((kernel for kernel in NOTE_KERNELS["swap"] if kernel in KERNELS), None)
    fitted = _fit_step(model, aim["entries_single"])
    if swap:
        for _ in range(8):  # a hold more is a step less: both, until neither changes
            fitted = _fit_step(_fit_hold(fitted, swap, aim["swap_single"]), aim["entries_single"])
    lines = _fit_lines(fitted, swap, aim["swap_four"])
    return {key: fitted[key] for key in ("step_us", "pte_us", "hold_us")} | lines


def _fit_step(model: Model, rate: float) -> Model:
    entries = next(kernel for kernel in NOTE_KERNELS["entries"] if kernel in KERNELS)
    step = _solve(lambda x: _alone(entries, model.with_values(step_us=x, pte_us=x)), rate, 20.0)
    return model.with_values(step_us=step, pte_us=step)


def _fit_hold(model: Model, swap: str, rate: float) -> Model:
    hold = _solve(lambda x: _alone(swap, model.with_values(hold_us=x)), rate, 5.0)
    return model.with_values(hold_us=hold)


def _fit_lines(model: Model, swap: str | None, four: float) -> dict[str, float]:
    if swap is None:
        section = {name: model["page_bytes"] / (4 * 4 * rate) for name, rate in _aims(four)}
        return {n: (us - model["hold_us"]) / model["line_us"] for n, us in section.items()}
    return {
        name: _solve(partial(_at_four, swap, model, name), rate, 100.0)
        for name, rate in _aims(four)
    }


def _at_four(swap: str, model: Model, name: str, lines: float) -> float:
    reading: Reading = "each" if name == "tree_lines" else "total"
    tried = model.with_values(**{name: lines})
    curve = rates(swap, tried, reading=reading, processors=(4,))
    assert curve.mb_s is not None, swap
    return curve.mb_s[0]


def _aims(four: float) -> tuple[tuple[str, float], ...]:
    """Return the rate of each of four migrations, by reading."""
    return ("tree_lines", four), ("tree_lines_total", four / 4)


def _alone(kernel: str, model: Model) -> float:
    events = _recorded(kernel)
    assert events is not None, kernel
    return vtime.closed_form(script(events, model), model.costs())


def _solve(rate: Callable[[float], float], wanted: float, high: float) -> float:
    """Bisect for the cost, from 0 to ``high``, that slows a rate down to the one wanted."""
    low = 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) > wanted else (low, middle)
    return round((low + high) / 2, 4)


# -- what is printed --------------------------------------------------------------------------


def _note_curves(model: Model, pages: int) -> list[tuple[str, Curve]]:
    """Curves of the note's table with their design; only swap entries have a second reading."""
    readings: tuple[Reading, ...] = ("each", "total")
    return [
        (design, rates(kernel, model, reading=reading, pages=pages))
        for design, kernels in NOTE_KERNELS.items()
        for kernel in kernels
        for reading in (readings if design == "swap" else readings[:1])
    ]


def _note_table(curves: Sequence[tuple[str, Curve]], parameters: Parameters) -> str:
    words = {"swap": "swap entries", "entries": "migration entries"}
    rows: list[list[str]] = []
    for design, curve in curves:
        said = parameters.note[design]["text"]
        head = f"{curve.kernel}, {words[design]}"
        if curve.mb_s is None:
            meaning = f"250 {_meant(curve)}" if design == "swap" else "each"
            rows.append([head, meaning, *["not built"] * len(PROCESSORS), said])
            continue
        rows.append([head, f"250 {_meant(curve)}" if design == "swap" else "each"])
        rows[-1] += [*(_whole(x) for x in curve.mb_s), said]
        if curve.reading == "total":
            sums = [x * n for x, n in zip(curve.mb_s, curve.processors, strict=True)]
            rows.append(["", "  sum of all", *(_whole(x) for x in sums), ""])
    columns = (f"N={n}" for n in PROCESSORS)
    return table(rows, ["MB/s of each migration", "", *columns, "the note"])


def _meant(curve: Curve) -> str:
    return "each" if curve.reading == "each" else "in all"


def _whole(rate: float) -> str:
    return f"{rate:4.0f}"


def _locks_table(curves: Sequence[Curve]) -> str:
    kinds = [*LOCKS.values()]
    rows = [
        [curve.kernel, *(f"{curve.locks[kind]:5.2f}" for kind in kinds)]
        if curve.locks
        else [curve.kernel, *["not built"] * len(kinds)]
        for curve in {curve.kernel: curve for curve in curves}.values()
    ]
    return table(rows, ["locks a page", *(k + (" *" if k in SHARED else "") for k in kinds)])


def _today_table(models: Sequence[Model], pages: int) -> str:
    rows = []
    for model in models:
        curve = rates(model.kernel, model, pages=pages)
        shown = ["not built"] * len(PROCESSORS) if curve.mb_s is None else map(_whole, curve.mb_s)
        rows.append([model.title, curve.kernel, *shown])
    return table(rows, ["MB/s of each, 4 KB pages", "engine", *(f"N={n}" for n in PROCESSORS)])


def _published_table(model: Model, rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [what, f"{said:6.0f}", f"{ours:6.0f}", f"{100 * (ours / said - 1):+4.0f} %", _use(row)]
        for (what, said, ours), row in zip(published(model, rows), rows, strict=True)
    ]
    return table(cells, [model.title, "published", "model", "off by", ""])


def _use(row: Mapping[str, Any]) -> str:
    return "fitted" if row["fitted"] else "not fitted"


def _costs_table(models: Sequence[Model], parameters: Parameters) -> str:
    rows = [
        [
            name,
            about["unit"],
            *(f"{m[name]:.6g} {m.values[name].origin[0]}" for m in models),
            about["meaning"],
        ]
        for name, about in parameters.about.items()
    ]
    return table(rows, ["parameter", "unit", *(m.name for m in models), "meaning"])


def _report(parameters: Parameters, pages: int) -> tuple[str, list[tuple[Model, list[Curve]]]]:
    """Return everything that is printed, and the note's curves for the picture."""
    parts, drawn = [], []
    notes = [model for name, model in parameters.models.items() if name.startswith("note")]
    for model in notes:
        curves = _note_curves(model, pages)
        drawn.append((model, [curve for _, curve in curves]))
        title = f"{model.title[0].upper()}{model.title[1:]} (fitted to the note)"
        parts.append(f"{title}\n{_note_table(curves, parameters)}")
    today = [parameters.models[name] for name in parameters.published]
    extra = [rates(kernel, today[0], processors=(1,)) for kernel in ("6.12",)]
    parts.append(
        "From the engines' records; * is shared by all processors\n"
        + _locks_table([*drawn[0][1], *extra])
    )
    parts.append("Today, N at once (predicted, not measured)\n" + _today_table(today, pages))
    parts += [_published_table(m, parameters.published[m.name]["rows"]) for m in today]
    models = list(parameters.models.values())
    parts.append(
        "Costs: s sourced, f fitted, a assumed (why: pagemig/data/rates.toml)\n"
        + _costs_table(models, parameters)
    )
    return "\n\n".join(parts), drawn


# -- command ----------------------------------------------------------------------------------


def add_parser(subparsers: Any) -> None:
    """Add ``rates`` to the commands."""
    parser = subparsers.add_parser(
        "rates",
        help="migration rates of N processors at once, beside published figures",
        description="Replay the engines' own order of locks on N virtual processors and print "
        "rates beside those of the note of 2006 and of today's kernels.",
    )
    parser.add_argument(
        "--parameters", metavar="FILE", help="costs of your own, as pagemig/data/rates.toml"
    )
    parser.add_argument(
        "--pages",
        type=int,
        default=4 * _PAGES,
        metavar="N",
        help="pages each processor moves, at least (default: %(default)s)",
    )
    parser.add_argument(
        "--fit", action="store_true", help="print what the fitted costs of the note should be"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write a picture (needs matplotlib): .png, .svg, .pdf"
    )
    parser.set_defaults(main=run)


def run(args: argparse.Namespace) -> int:
    """Do what ``pagemig rates`` was asked to."""
    if args.pages < 1:
        raise ValueError(f"--pages must be at least 1, not {args.pages}")
    if args.output:
        plot.check(args.output)
    parameters = load(args.parameters)
    if args.fit:
        print(_fitted(parameters))
        return 0
    text, drawn = _report(parameters, args.pages)
    print(text)
    if args.output:
        _draw(drawn, parameters, args.output)
    return 0


def _draw(
    drawn: Sequence[tuple[Model, Sequence[Curve]]], parameters: Parameters, output: str
) -> None:
    """Write the picture, or say what is missing."""
    try:
        plot.rates(drawn, parameters.note, output)
    except plot.MissingError as error:
        print(f"\nNo picture: {error}")
    else:
        print(f"\nPicture: {output}")


def _fitted(parameters: Parameters) -> str:
    models = [model for name, model in parameters.models.items() if name.startswith("note")]
    rows = [
        [model.name, name, f"{value:.4f}", f"{model[name]:.4f}"]
        for model in models
        for name, value in fit(model, parameters).items()
    ]
    return table(rows, ["machine", "parameter", "fit", "in the file"])
