"""Remake the gallery: the sweep, its pictures, and the tables of docs/answer.md.

    python docs/gallery/gallery.py [--jobs N] [--machines cxl,xeon]

Finished points are kept in build/gallery.jsonl: an interrupted run continues from there.
"""

import argparse
import os
import re
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pagemig import auto
from pagemig.report import save
from pagemig.studies import pictures
from pagemig.studies.progress import progress
from pagemig.studies.sweep import Grid, sweep
from pagemig.trace import find, load

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ANSWER = ROOT / "docs" / "answer.md"

#: Programs in the order of the page, and what each is.
PROGRAMS = {
    "sqlite": "a database in memory",
    "sort": "sorting 8 MB of text",
    "cc1": "a compiler: gcc's cc1",
    "python": "an interpreter starts and imports numpy",
    "solve": "linear algebra: 520 equations, numpy's OpenBLAS",
    "walk": "a graph walk, breadth first",
    "redis": "a key-value store",
}
BASE = "first-touch"
POLICIES = ("tpp", "hemem", "damon", "arms")
SHARES = (0.1, 0.25, 0.5)
EPOCHS = (50, 200)
OVERLAPS = (1.0, 4.0)
#: The range of gains that the picture shows, %; larger losses are cut off.
SHOWN = (-110, 70)


def trace_of(name):
    """Return the trace of a program: a file beside this one, or a shipped trace."""
    own = Path("docs") / "gallery" / f"{name}.pmt"
    return str(own) if own.exists() else name


def grid(machines):
    """Describe every point of the sweep."""
    return Grid(
        traces=[trace_of(name) for name in PROGRAMS],
        policies=[BASE, *POLICIES],
        machines=machines,
        fast_shares=SHARES,
        epochs=EPOCHS,
        overlaps=OVERLAPS,
        bounded="first",
    )


# ---- tables -------------------------------------------------------------------------------------


def chosen(rows, **wanted):
    """Select the rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def span(values, form="{:+.0f}"):
    """Format a range, from the least value to the greatest, in per cent."""
    low, high = (form.format(100 * value) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def gains(rows, machine):
    """Tabulate the range of each policy's gain for each program, and of the gain possible."""
    lines = [
        f"| program | {' | '.join(POLICIES)} | possible |",
        f"| --- | {' | '.join('---' for _ in POLICIES)} | --- |",
    ]
    for name in PROGRAMS:
        own = chosen(rows, trace=name, machine=machine, overlap=1.0)
        cells = [span([r["gain"] for r in chosen(own, policy=p)]) for p in POLICIES]
        hope = [1 - r["bound_ns"] / r["total_ns"] for r in chosen(own, policy=BASE)]
        lines.append(f"| {name} | {' | '.join(cells)} | {span(hope)} |")
    return "\n".join(lines)


def counts(rows):
    """Tabulate at how many points each policy helps and hurts, by machine and overlap."""
    lines = [
        "| machine | overlap | policy | points | helps | hurts | within 1 % | median gain | "
        "of the possible, median |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for machine in dict.fromkeys(row["machine"] for row in rows):
        for overlap in OVERLAPS:
            for policy in POLICIES:
                own = chosen(rows, machine=machine, overlap=overlap, policy=policy)
                gain = [row["gain"] for row in own]
                share = [row["possible"] for row in own if row["possible"] is not None]
                lines.append(
                    f"| {machine} | {overlap:g} | {policy} | {len(gain)} | "
                    f"{sum(g > 0.01 for g in gain)} | {sum(g < -0.01 for g in gain)} | "
                    f"{sum(abs(g) <= 0.01 for g in gain)} | "
                    f"{100 * statistics.median(gain):+.1f} % | "
                    + (f"{100 * statistics.median(share):+.0f} % |" if share else "- |")
                )
    return "\n".join(lines)


def best(rows):
    """Tabulate the best and the worst point of all policies for each program and machine."""
    lines = [
        "| program | machine | best | where | of the possible | worst | where |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in PROGRAMS:
        for machine in dict.fromkeys(row["machine"] for row in rows):
            own = [
                row
                for row in chosen(rows, trace=name, machine=machine, overlap=1.0)
                if row["policy"] != BASE
            ]
            top, low = (pick(own, key=lambda row: row["gain"]) for pick in (max, min))
            lines.append(
                f"| {name} | {machine} | {100 * top['gain']:+.1f} % | {where(top)} | "
                f"{100 * top['possible']:.0f} % | {100 * low['gain']:+.1f} % | {where(low)} |"
            )
    return "\n".join(lines)


def where(row):
    """Describe a point in words."""
    return f"{row['policy']}, size {row['fast_share']:g}, {row['epochs']} epochs"


def programs():
    """Tabulate the traces."""
    lines = [
        "| trace | what it is | accesses of the program | in the trace | cache before it | pages |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, what in PROGRAMS.items():
        trace = load(find(trace_of(name)))
        header = trace.header
        note = f"; {header.note}" if header.note else ""
        lines.append(
            f"| {name} | {what}{note} | {header.references:,} | {trace.accesses:,} | "
            f"{header.cache >> 10} KiB | {trace.footprint:,} |"
        )
    return "\n".join(lines)


# ---- pictures -----------------------------------------------------------------------------------


def dots(rows):
    """Draw the gain of every point: a row of panels for each machine, a panel for each program."""
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    figure = pictures.new_figure(figsize=(15, 3.3 * len(machines) + 0.5), layout="constrained")
    axes = figure.subplots(len(machines), len(PROGRAMS), sharey=True, squeeze=False)
    for line, machine in zip(axes, machines, strict=True):
        for panel, name in zip(line, PROGRAMS, strict=True):
            draw(panel, chosen(rows, machine=machine, trace=name))
            panel.set_title(f"{name}, {machine}", fontsize="medium")
        line[0].set_ylabel("gain against first touch, %")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=7,
        fontsize="small",
    )
    return figure


def draw(panel, rows):
    """Draw one panel: a column for each policy, and a band for the gain possible."""
    markers = dict(zip(SHARES, "ov^", strict=True))
    panel.axhline(0, color="0.3", linewidth=1)
    for at, policy in enumerate(POLICIES):
        for epochs, shift in zip(EPOCHS, (-0.15, 0.15), strict=True):
            for share in SHARES:
                own = chosen(rows, policy=policy, epochs=epochs, fast_share=share)
                first, late = (100 * chosen(own, overlap=m)[0]["gain"] for m in OVERLAPS)
                colour = f"C{EPOCHS.index(epochs)}"
                label = f"size {share:g}, {epochs} epochs" if not at else None
                panel.plot([at + shift] * 2, [late, first], color=colour, alpha=0.35)
                panel.plot(
                    at + shift, first, markers[share], color=colour, markersize=5, label=label
                )
    hope = [
        100 * (1 - row["bound_ns"] / row["total_ns"])
        for row in chosen(rows, policy=BASE, overlap=1.0)
    ]
    panel.axhspan(min(hope), max(hope), color="C2", alpha=0.2, label="possible")
    panel.set_xticks(range(len(POLICIES)), POLICIES, fontsize="small")
    panel.set_ylim(*SHOWN)


# ---- the page -----------------------------------------------------------------------------------


def filled(text, name, table):
    """Return the page with a table placed between its two marks."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
    if not pattern.search(text):
        raise SystemExit(f"{ANSWER} has no place for the table {name!r}")
    return pattern.sub(lambda _: f"{begin}{table}\n{end}", text)


def main():
    """Run the sweep, and write its rows, picture and tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--machines", default="cxl,xeon")
    args = parser.parse_args()
    os.chdir(ROOT)  # traces are named from here, so that finished points are recognised
    machines = args.machines.split(",")
    for machine in machines:
        auto.hardware(machine)
    kept = ROOT / "build" / "gallery.jsonl"
    kept.parent.mkdir(exist_ok=True)
    with (
        ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as executor,
        progress() as show,
    ):
        rows = sweep(grid(machines), executor, resume=kept, progress=show)
    save(rows, HERE / "rows.csv")
    (ROOT / "docs" / "pictures").mkdir(exist_ok=True)
    dots(rows).savefig(ROOT / "docs" / "pictures" / "gallery.png", dpi=80)
    text = ANSWER.read_text()
    text = filled(text, "programs", programs())
    for machine in machines:
        text = filled(text, f"gains {machine}", gains(rows, machine))
    text = filled(text, "counts", counts(rows))
    text = filled(text, "best", best(rows))
    ANSWER.write_text(text)


if __name__ == "__main__":
    main()
