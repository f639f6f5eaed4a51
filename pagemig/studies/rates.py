"""Migration rates of N processors at once, in virtual time.

A run of the model is recorded with the locks it takes (`record`).  The record becomes a script for
one processor (`script`), and N processors replay it (`vtime`): they share the locks of the machine
and of the nodes, and the copy bandwidth.  The order and the number of locks come only from the
record.  The costs are in ``data/rates.toml``, which says for every value whether it is sourced,
fitted or assumed.

Each processor moves the anonymous memory of a process of its own, all from one node to one other.
So the locks of pages, page tables and reverse maps have one user each; `SHARED` are the others.
"""

import math
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

from pagemig.constants import PAGE_SIZE
from pagemig.kernels import kernel_profile
from pagemig.report import table
from pagemig.studies import vtime
from pagemig.studies.vtime import COPY, Costs, Script
from pagemig.system.machine import LOCKS, STEPS, Machine, Node

__all__ = [
    "PAGES",
    "PROCESSORS",
    "SHARED",
    "Curve",
    "Model",
    "Parameters",
    "Reading",
    "Value",
    "costs",
    "fit",
    "fitted",
    "load",
    "locks_per_page",
    "published",
    "rates",
    "record",
    "report",
    "script",
]

#: The readings of the note's "250": the rate of each of four migrations, or of all together.
Reading = Literal["each", "total"]

#: Numbers of processors shown.
PROCESSORS: Final = (1, 2, 4, 8, 16)

#: Locks that processors share even though their processes share nothing: those of a node (all have
#: one source and one target) and those of the machine (the swap cache's and the swap devices').
SHARED: Final = frozenset({"lru", "zone", "tree", "swap"})

#: The note's two designs, and the kernels that have them, the measured one first.
NOTE_KERNELS: Final[Mapping[str, tuple[str, ...]]] = {
    "swap": ("2.6.17",),
    "entries": ("2.6.17-mm", "2.6.18", "6.1"),
}
_SWAP: Final = NOTE_KERNELS["swap"][0]
_ENTRIES: Final = NOTE_KERNELS["entries"][0]

_DESIGNS: Final = {"swap": "swap entries", "entries": "migration entries"}
_LIMIT: Final = """\
N=2, 8 and 16 follow from the fit.  With migration entries copy_total_mb_s holds 8 and 16 back, of
which the note says only that four do not reach it: another value would show there."""
#: Kernels whose rates on today's machines are predicted; each machine is fitted with one of them.
_TODAY: Final = ("6.1", "6.12", "6.18")
#: The least number of pages that each processor moves.
PAGES: Final = 1024
_BATCH_BYTES: Final = 2 << 20
_PTE_STEPS: Final = frozenset({"unmap", "restore", "rollback"})
_DIVISORS: Final = frozenset({"page_bytes", "copy_mb_s", "copy_total_mb_s"})
_SHARES: Final = frozenset({"jitter", "spread"})
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
        The source or the reason.
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
        The kernel of its figures.
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
        """Return the costs of the virtual processors.

        Parameters
        ----------
        reading : {"each", "total"}
            The reading of the note's 250 MB/s.
        folio : int
            Base pages that move as one.
        threads : int
            Threads that copy one folio together.
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
        The file is invalid: it is not TOML; a machine lacks a parameter, has an undescribed one, or
        does not say where a value comes from; a value is out of range; the note or a published row
        is incomplete.  The text names the file and the error in it.
    """
    own = files("pagemig").joinpath("data", "rates.toml")
    content = own.read_bytes() if path is None else Path(path).read_bytes()
    try:
        return _parameters(tomllib.loads(content.decode()))
    except KeyError as error:
        raise ValueError(f"{path or own} lacks {error.args[0]!r}") from None
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path or own} is not laid out as data/rates.toml: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path or own}: {error}") from None


def _parameters(data: Mapping[str, Any]) -> Parameters:
    about, note, published = data["parameter"], data["note"], data["published"]
    models = {name: _model(name, entry, about) for name, entry in data["machine"].items()}
    for name in ("swap_single", "swap_four", "entries_single"):
        _check(f"{name} of the note's aim", note["aim"][name], above=0)
    for design in NOTE_KERNELS:
        single, _, _ = (note[design][key] for key in ("single", "four", "text"))
        _check_text(f"text of the note's {design}", note[design]["text"])
        for rate in single:
            _check(f"single of the note's {design}", rate)
    _check("four of the note's swap", note["swap"]["four"])
    for name, entry in published.items():
        for row in entry["rows"]:
            _check_text(f"what of a row of {models[name].name}", row["what"])
            for key in ("pages", "folios", "rate"):
                _check(f"{key} of {row['what']!r} of {models[name].name}", row[key], above=0)
            _check(f"threads of {row['what']!r}", row.get("threads", 1), above=0)
            if not isinstance(row["fitted"], bool):
                raise ValueError(f"fitted of {row['what']!r} must be true or false")
    return Parameters(about, models, note, published)


def _model(name: str, entry: Mapping[str, Any], about: Mapping[str, Any]) -> Model:
    given = {key: value for key, value in entry.items() if isinstance(value, dict)}
    for key in about.keys() ^ given.keys():
        wrong = "has no" if key in about else "has an unknown"
        raise ValueError(f"machine {name} {wrong} parameter {key}")
    values = {key: Value(**value) for key, value in given.items()}
    for key, value in values.items():
        if value.origin not in _ORIGINS or not value.source:
            raise ValueError(f"machine {name} does not say where {key} comes from")
        _check(f"{key} of machine {name}", value.value, above=0 if key in _DIVISORS else None)
        if key in _SHARES and value.value > 1:
            raise ValueError(f"{key} of machine {name} must be at most 1, not {value.value}")
    for key in ("title", "kernel"):
        _check_text(f"{key} of machine {name}", entry[key])
    return Model(name, entry["title"], entry["kernel"], values)


def _check_text(what: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} must be text, not {value!r}")


def _check(what: str, value: Any, *, above: float | None = None) -> None:
    """Refuse a value that is not a number, is negative, or is too small to divide by."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf or value == above:
        bound = "at least 0" if above is None else f"above {above}"
        raise ValueError(f"{what} must be a number {bound}, not {value!r}")


# -- from a run of the model to what a processor does -----------------------------------------


def record(kernel: str, pages: int = PAGES) -> npt.NDArray[Any]:
    """Record the steps and locks of a migration.

    A process with one thread has written ``pages`` pages of anonymous memory; ``migrate_pages``
    moves them to another node for the third time, so lists and caches are warm.  ``Machine.width``
    is 1: the counts do not depend on it, but each lock is then beside the page it is taken for.

    Parameters
    ----------
    kernel : str
        A profile.
    pages : int
        Number of pages.

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
    """Make two nodes with room to spare, and swap for a kernel that migrates by swap entries."""
    profile = kernel_profile(kernel)
    size = 4 * pages * PAGE_SIZE
    options: dict[str, Any] = {"swap": [size]} if profile.engine == 1 else {}
    machine = Machine([Node(size, cpus=1), Node(size)], kernel=kernel, **options)
    machine.width = 1
    return machine


def _moved(trace: npt.NDArray[Any]) -> int:
    """Count the pages that were copied in a record, each once."""
    copies = trace["pfn"][trace["step"] == _number("copy")]
    return int(np.unique(copies).size)


def _number(step: str) -> int:
    return next(number for number, name in STEPS.items() if name == step)


def locks_per_page(trace: npt.NDArray[Any]) -> dict[str, float]:
    """Return the locks taken for each page that moved, by kind."""
    counts = Counter(trace["step"].tolist())
    moved = _moved(trace)
    return {name: counts[number] / moved for number, name in LOCKS.items()}


def script(trace: npt.NDArray[Any], model: Model, *, ptes: int = 1) -> Script:
    """Make the script of a processor that repeats a record.

    Parameters
    ----------
    trace : ndarray
        What `record` returned.
    model : Model
        The costs of steps and of uncontended locks, which become work.
    ptes : int
        Page-table entries that map a page or folio: unmap and restore are done for each.

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
def _recorded(kernel: str) -> npt.NDArray[Any]:
    """Return the record of a kernel, made once."""
    return record(kernel)


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
        The reading of the note's 250 MB/s.
    processors : tuple of int
        Numbers of processors at once.
    mb_s : tuple of float
        Rate of each of them.
    busy : tuple of mapping
        Share of the time each shared lock was held.
    locks : mapping of str to float
        Locks a page, by kind, counted in the record.
    """

    kernel: str
    model: str
    reading: Reading
    processors: tuple[int, ...]
    mb_s: tuple[float, ...]
    busy: tuple[Mapping[str, float], ...]
    locks: Mapping[str, float]


def rates(
    kernel: str,
    model: Model,
    *,
    reading: Reading = "each",
    processors: Sequence[int] = PROCESSORS,
    pages: int = PAGES,
    trace: npt.NDArray[Any] | None = None,
) -> Curve:
    """Compute the rates of a kernel on a machine, in virtual time.

    Parameters
    ----------
    kernel : str
        A profile.
    model : Model
        The costs.
    reading : {"each", "total"}
        Which of the two costs of the swap cache's lock to use.
    processors : sequence of int
        Numbers of processors that migrate at once.
    pages : int
        The least number of pages that each moves; the record is repeated.
    trace : ndarray, optional
        A record to replay instead of the kernel's own.

    Returns
    -------
    Curve
        The rates.

    Raises
    ------
    ValueError
        No such profile.

    Examples
    --------
    >>> from pagemig.studies import rates
    >>> model = rates.load().models["zen3"]
    >>> one, two = rates.rates("6.12", model, processors=(1, 2)).mb_s
    >>> 0.8 < two / one <= 1
    True
    """
    events = _recorded(kernel) if trace is None else trace
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
    """Compare published rates with the model's.

    Parameters
    ----------
    model : Model
        Their machine; its kernel is recorded.
    rows : sequence of mapping
        Rows of the file.

    Returns
    -------
    list of (str, float, float)
        What was moved, the published rate and the model's, MB/s.

    """
    events = _recorded(model.kernel)
    return [(row["what"], float(row["rate"]), _row_rate(model, events, row)) for row in rows]


def _row_rate(model: Model, events: npt.NDArray[Any], row: Mapping[str, Any]) -> float:
    """Return the rate of one migrating thread (MB/s), including the fixed parts of the call."""
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
        ``step_us``, ``pte_us`` and ``hold_us`` from one migration alone, under both designs;
        ``tree_lines`` and ``tree_lines_total`` from four at once with swap entries, one for each
        reading.
    """
    aim = parameters.note["aim"]
    alone = _fit_alone(model, {_ENTRIES: aim["entries_single"], _SWAP: aim["swap_single"]})
    fitted = model.with_values(**alone)
    four = {"tree_lines": aim["swap_four"], "tree_lines_total": aim["swap_four"] / 4}
    lines = {name: _solve(partial(_at_four, fitted, name), rate) for name, rate in four.items()}
    return alone | lines


def _fit_alone(model: Model, aims: Mapping[str, float]) -> dict[str, float]:
    """Find a step and a hold that give two kernels their rates; times alone are linear in both."""

    def us_a_page(step: float, hold: float) -> npt.NDArray[np.float64]:
        tried = model.with_values(step_us=step, pte_us=step, hold_us=hold)
        return tried["page_bytes"] / np.array([_alone(kernel, tried) for kernel in aims])

    rest = us_a_page(0, 0)
    each = np.stack([us_a_page(1, 0) - rest, us_a_page(0, 1) - rest], axis=1)
    wanted = model["page_bytes"] / np.array([*aims.values()])
    step, hold = (round(float(us), 4) for us in np.linalg.solve(each, wanted - rest))
    if min(step, hold) < 0:
        raise ValueError(f"machine {model.name} cannot have the rates {dict(aims)} of the note")
    return {"step_us": step, "pte_us": step, "hold_us": hold}


def _at_four(model: Model, name: str, lines: float) -> float:
    reading: Reading = "each" if name == "tree_lines" else "total"
    tried = model.with_values(**{name: lines})
    return rates(_SWAP, tried, reading=reading, processors=(4,)).mb_s[0]


def _alone(kernel: str, model: Model) -> float:
    return vtime.closed_form(script(_recorded(kernel), model), model.costs())


def _solve(rate: Callable[[float], float], wanted: float) -> float:
    """Bisect for the cost, up to 100, that slows a rate down to the wanted one."""
    low, high = 0.0, 100.0
    while high - low > 0.001:
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) > wanted else (low, middle)
    return round((low + high) / 2, 3)


# -- what is printed --------------------------------------------------------------------------


def _note_curves(model: Model, pages: int) -> list[Curve]:
    """Return the curves of the note's table; only swap entries have a second reading."""
    readings: tuple[Reading, ...] = ("each", "total")
    return [
        rates(kernel, model, reading=reading, pages=pages)
        for design, kernels in NOTE_KERNELS.items()
        for kernel in kernels
        for reading in (readings if design == "swap" else readings[:1])
    ]


def _note_table(curves: Sequence[Curve], parameters: Parameters) -> str:
    rows: list[list[str]] = []
    for curve in curves:
        design = "swap" if curve.kernel == _SWAP else "entries"
        said = parameters.note[design]["text"]
        rows.append([f"{curve.kernel}, {_DESIGNS[design]}", _meant(curve)])
        rows[-1] += [*(_whole(x) for x in curve.mb_s), said]
        if curve.reading == "total":
            sums = [x * n for x, n in zip(curve.mb_s, curve.processors, strict=True)]
            rows.append(["", "  sum of all", *(_whole(x) for x in sums), ""])
    columns = (f"N={n}" for n in PROCESSORS)
    return table(rows, ["MB/s of each migration", "", *columns, "the note"])


def _meant(curve: Curve) -> str:
    if curve.kernel != _SWAP:
        return "each"
    return "if 250 is each" if curve.reading == "each" else "if 250 is all"


def _whole(rate: float) -> str:
    return f"{rate:4.0f}"


def _off_table(drawn: Sequence[tuple[Model, Sequence[Curve]]], parameters: Parameters) -> str:
    """Compare the aims of the fit with its results, and show the one figure that is not fitted."""
    aim = parameters.note["aim"]
    fitted: list[tuple[str, str, Reading, int, float, str]] = [
        ("swap entries, one", _SWAP, "each", 1, aim["swap_single"], "hold_us"),
        ("swap entries, each of 4", _SWAP, "each", 4, aim["swap_four"], "tree_lines"),
        ("swap entries, each of 4", _SWAP, "total", 4, aim["swap_four"] / 4, "tree_lines_total"),
        ("migration entries, one", _ENTRIES, "each", 1, aim["entries_single"], "step_us, pte_us"),
    ]
    rows = []
    for what, kernel, reading, n, rate, by in fitted:
        ours = [_rate(curves, kernel, reading, n) for _, curves in drawn]
        rows.append([what, f"{rate:g}", *(f"{x:.1f} ({_off(x, rate)})" for x in ours), by])
    ends = [[_rate(curves, _ENTRIES, "each", n) for n in (4, 1)] for _, curves in drawn]
    lost = [f"{four:.1f} ({_off(four, one)})" for four, one in ends]
    rows.append(["migration entries, each of 4", parameters.note["entries"]["four"], *lost])
    rows[-1].append("not fitted")
    return table(rows, ["figure", "aim", *(model.name for model, _ in drawn), "fitted by"])


def _rate(curves: Sequence[Curve], kernel: str, reading: Reading, n: int) -> float:
    curve = next(c for c in curves if (c.kernel, c.reading) == (kernel, reading))
    return curve.mb_s[curve.processors.index(n)]


def _off(ours: float, said: float) -> str:
    return f"{round(100 * (ours / said - 1), 1) + 0.0:+.1f} %"


def _locks_table(curves: Sequence[Curve]) -> str:
    kinds = [*LOCKS.values()]
    rows = [
        [curve.kernel, *(f"{curve.locks[kind]:5.2f}" for kind in kinds)]
        for curve in {curve.kernel: curve for curve in curves}.values()
    ]
    return table(rows, ["locks a page", *(k + (" *" if k in SHARED else "") for k in kinds)])


def _today_table(models: Sequence[Model], pages: int) -> str:
    rows = []
    for model in models:
        for kernel in _TODAY:
            curve = rates(kernel, model, pages=pages)
            engine = f"{kernel}, fitted" if kernel == model.kernel else kernel
            rows.append([model.title, engine, *map(_whole, curve.mb_s)])
    return table(rows, ["MB/s of each, 4 KB pages", "engine", *(f"N={n}" for n in PROCESSORS)])


def _published_table(model: Model, rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [what, f"{said:6.0f}", f"{ours:6.0f}", f"{100 * (ours / said - 1):+4.0f} %", _use(row)]
        for (what, said, ours), row in zip(published(model, rows), rows, strict=True)
    ]
    return table(cells, [model.title, "published", "model", "off by", ""])


def _use(row: Mapping[str, Any]) -> str:
    return "fitted" if row["fitted"] else "not fitted"


def costs(parameters: Parameters) -> str:
    """Lay out the parameters, with the origin of each value."""
    models = list(parameters.models.values())
    rows = [
        [
            name,
            about["unit"],
            *(f"{m[name]:.6g} {m.values[name].origin[0]}" for m in models),
            about["meaning"],
        ]
        for name, about in parameters.about.items()
    ]
    head = "s sourced, f fitted, a assumed (why, value by value: pagemig/data/rates.toml)\n"
    return head + table(rows, ["parameter", "unit", *(m.name for m in models), "meaning"])


def _notes(parameters: Parameters) -> list[Model]:
    """Return the machines that are fitted to the note; at least one."""
    models = [model for name, model in parameters.models.items() if name.startswith("note")]
    if not models:
        raise ValueError("the parameters have no machine whose name begins with 'note'")
    return models


def report(parameters: Parameters, pages: int) -> tuple[str, list[tuple[Model, list[Curve]]]]:
    """Lay out all rates; return the text, and the note's curves for the picture."""
    drawn = [(model, _note_curves(model, pages)) for model in _notes(parameters)]
    parts = [
        f"{model.title[0].upper()}{model.title[1:]} (fitted to the note)\n"
        + _note_table(curves, parameters)
        for model, curves in drawn
    ]
    parts.append("How near the fit came, MB/s\n" + _off_table(drawn, parameters))
    parts.append(_LIMIT)
    today = [parameters.models[name] for name in parameters.published]
    later = [rates(kernel, today[0], processors=(1,)) for kernel in _TODAY]
    parts.append(
        "From the engines' records; * is shared by all processors\n"
        + _locks_table([*drawn[0][1], *later])
    )
    parts.append("Today, N at once (predicted, not measured)\n" + _today_table(today, pages))
    parts += [_published_table(m, parameters.published[m.name]["rows"]) for m in today]
    return "\n\n".join(parts), drawn


def fitted(parameters: Parameters) -> str:
    """Fit the machines of the note again, and lay the results out."""
    rows = [
        [model.name, name, f"{value:.4f}", f"{model[name]:.4f}"]
        for model in _notes(parameters)
        for name, value in fit(model, parameters).items()
    ]
    return table(rows, ["machine", "parameter", "refitted", "in the file"])
