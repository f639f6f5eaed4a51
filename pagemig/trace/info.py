"""A summary of a trace: footprint, hot pages, working set over time; memory as the footprint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemig.report import table

from .format import BLOCK
from .header import Header
from .runs import Columns, Runs

__all__ = ["Info", "info"]

#: Parts of time for which the working set is given.
PARTS = 60
#: Bands of pages of the heat map.
BANDS = 200
#: Shares of all accesses for which the number of pages is given.
SHARES = (0.5, 0.8, 0.9, 0.99)

_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Info:
    """A summary of a trace.

    Attributes
    ----------
    header : Header
        Where it comes from.
    pages : ndarray of uint64, shape (footprint,)
        Page numbers, ascending.
    counts : ndarray of uint64, shape (footprint,)
        Accesses to each.
    stores : ndarray of uint64, shape (footprint,)
        How many of them store.
    runs : int
        Runs of accesses to one page by one kind.
    working_set : ndarray of int64, shape (parts,)
        Different pages accessed in each part of the trace.
    fresh : ndarray of int64, shape (parts,)
        Those of them that no earlier part accessed.
    heat : ndarray of uint64, shape (parts, bands)
        Accesses in each part to each band of neighbouring pages of the table.
    by : str
        Whether the parts have equal numbers of accesses or equal length: ``accesses``, ``time``.
    """

    header: Header
    pages: NDArray[np.uint64]
    counts: NDArray[np.uint64]
    stores: NDArray[np.uint64]
    runs: int
    working_set: NDArray[np.int64]
    fresh: NDArray[np.int64]
    heat: NDArray[np.uint64]
    by: str

    @property
    def accesses(self) -> int:
        """Number of accesses."""
        return int(self.counts.sum())

    @property
    def concentration(self) -> NDArray[np.float64]:
        """Share of all accesses that the hottest page, the two hottest, ... get; (footprint,)."""
        hottest = np.sort(self.counts)[::-1]
        return np.cumsum(hottest, dtype=np.float64) / max(self.accesses, 1)

    def hottest(self, number: int) -> NDArray[np.intp]:
        """Return the places in ``pages`` of the pages with most accesses, the hottest first."""
        order: NDArray[np.intp] = np.argsort(self.counts, kind="stable")[::-1][:number]
        return order

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def info(trace: Runs, *, parts: int = PARTS, bands: int = BANDS) -> Info:
    """Summarise a trace in one pass.

    Parameters
    ----------
    trace : Trace or TraceFile
        A `TraceFile` is read a block at a time.
    parts : int, default 60
        Number of parts of time: of equal length if it has a time axis, otherwise with equal numbers
        of accesses. Fewer if runs are longer than a part.
    bands : int, default 200
        Bands of pages of the heat map; fewer if there are fewer pages.

    Returns
    -------
    Info
    """
    pages = trace.footprint
    by = "time" if trace.header.unit and trace.header.duration else "accesses"
    cuts = list(trace.epochs(parts, by=by)) if trace.runs else []  # type: ignore[arg-type]
    counts, stores = np.zeros(pages, np.uint64), np.zeros(pages, np.uint64)
    band = np.arange(pages) * min(bands, pages) // max(pages, 1)
    heat = np.zeros((len(cuts), min(bands, pages)), np.uint64)
    working, fresh = np.zeros(len(cuts), np.int64), np.zeros(len(cuts), np.int64)
    for part, (start, stop) in enumerate(cuts):
        now = np.zeros(pages, np.uint64)
        for index, write, count in _pieces(trace, start, stop):
            now += _summed(index, count, pages)
            stores += _summed(index[write], count[write], pages)
        working[part] = np.count_nonzero(now)
        fresh[part] = np.count_nonzero((now > 0) & (counts == 0))
        heat[part] = _summed(band, now, heat.shape[1])
        counts += now
    return Info(trace.header, trace.table, counts, stores, trace.runs, working, fresh, heat, by)


def _pieces(trace: Runs, start: int, stop: int) -> Iterator[Columns]:
    """Yield runs of a part, at most a block of them at a time."""
    for at in range(start, stop, BLOCK):
        yield trace.part(at, min(at + BLOCK, stop))


def _summed(index: NDArray[Any], count: NDArray[Any], number: int) -> NDArray[np.uint64]:
    """Sum counts by place, exactly up to 2**53 in a piece."""
    return np.bincount(index, count, number).astype(np.uint64)


def _lines(self: Info) -> Iterator[str]:
    header, pages = self.header, self.pages
    yield f"program    {header.program or 'unnamed'}"
    yield f"source     {header.source or 'unknown'}{f'; {header.note}' if header.note else ''}"
    if header.cache:
        yield (
            f"cache      {header.cache >> 10:,} KiB, "
            f"{f'{header.ways} ways' if header.ways > 1 else 'direct-mapped'}: it served the rest "
            f"of {header.references:,} accesses"
        )
    stores = int(self.stores.sum()) / max(self.accesses, 1)
    yield f"accesses   {self.accesses:,} in {self.runs:,} runs, {stores:.1%} of them store"
    size = pages.size * header.page_size
    yield f"footprint  {pages.size:,} pages, {size / 2**20:,.1f} MiB"
    if header.unit:
        yield f"time       {header.duration:,} {header.unit}"
    if not pages.size:
        return
    concentration = self.concentration
    yield ""
    rows = []
    for share in SHARES:
        number = int(np.searchsorted(concentration, share - 1e-12)) + 1
        number = min(number, pages.size)
        rows.append((f"{share:.0%}", number, f"{number / pages.size:.1%}"))
    yield table(rows, ("of accesses go to", "pages", "of footprint"))
    yield ""
    hot = [
        (
            f"{int(pages[at]) * header.page_size:#x}",
            int(self.counts[at]),
            f"{int(self.counts[at]) / self.accesses:.2%}",
            f"{int(self.stores[at]) / int(self.counts[at]):.0%}",
        )
        for at in self.hottest(10)
    ]
    yield table(hot, ("hottest pages", "accesses", "of all", "store"))
    yield ""
    most = int(self.working_set.max())
    parts = f"{self.working_set.size} parts of equal {self.by}"
    yield f"working set over time, pages in {parts}: {self.working_set.min():,} to {most:,}"
    yield f"all   |{_bars(self.working_set, most)}|"
    yield f"fresh |{_bars(self.fresh, most)}|"


def _bars(values: NDArray[np.int64], most: int) -> str:
    """Draw a line of bars; every value above 0 is visible."""
    steps = len(_BARS) - 1
    return "".join(_BARS[-(-int(value) * steps // max(most, 1))] for value in values)
