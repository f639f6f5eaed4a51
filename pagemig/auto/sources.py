"""Sources of statistics for policies, and their cost to the program.

Statistics are not a detail: their cost can reverse the ranking of policies. A policy names its
sources in ``needs``. Each source adds fields to the `View` after every epoch and reports what it
did, which is charged at the prices of the machine (`pagemig.auto.Prices`), or at the source's own
price. `Counts` and `Future` see what no machine can and charge nothing: a policy that uses them is
an *oracle*, and tables say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .tally import sampled
from .view import Bools, Events, Floats, Ints, Seen, Stream, View, Watch

__all__ = [
    "AccessedBits",
    "Counts",
    "Future",
    "HintFaults",
    "RegionTable",
    "Regions",
    "Samples",
]


class _Looks:
    """A watch made of one function."""

    def __init__(self, look: Callable[[Seen, View], Events]) -> None:
        self._look = look

    def look(self, seen: Seen, view: View) -> Events:
        return self._look(seen, view)


def _each(view: View, pages: Ints | Bools, programs: int) -> Ints:
    """Count the pages of each program."""
    return np.bincount(view.owner[pages], minlength=programs)


@dataclass(frozen=True)
class Counts:
    """Every access, by page and node: ``view.counts``. No machine has it."""

    oracle: ClassVar[bool] = True

    def watch(self, view: View, rng: np.random.Generator) -> Watch:
        """See `Source.watch`."""

        def look(seen: Seen, view: View) -> Events:
            view.counts = seen.counts
            return []

        return _Looks(look)


@dataclass(frozen=True)
class Future:
    """Accesses of the next epochs: ``view.future``. No machine has it.

    Parameters
    ----------
    epochs : int, default 10
        How many epochs it sees.
    """

    epochs: int = 10
    oracle: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _at_least("Future", "epochs", self.epochs, 1)

    def watch(self, view: View, rng: np.random.Generator) -> Watch:
        """See `Source.watch`."""

        def look(seen: Seen, view: View) -> Events:
            view.future = seen.future(self.epochs)
            return []

        return _Looks(look)


@dataclass(frozen=True)
class Samples:
    """Sampled accesses, as of PEBS and IBS: ``view.samples`` and ``view.sampled``.

    The first sample comes after a random part of a period, each other one a period later. Noise of
    an eighth keeps samples from running in lockstep with loops.

    Parameters
    ----------
    period : int, default 1000
        Accesses between two samples.
    ns : float, optional
        Cost of a sample; the machine's unless given.
    """

    period: int = 1000
    ns: float | None = None
    oracle: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _at_least("Samples", "period", self.period, 1)

    def watch(self, view: View, rng: np.random.Generator) -> Watch:
        """See `Source.watch`."""
        wait = int(rng.integers(self.period))

        def look(seen: Seen, view: View) -> Events:
            nonlocal wait
            total, at = seen.accesses, []
            # Gaps are drawn for a whole epoch at a time; the rest is kept for the next.
            while wait < total:
                room = (total - wait) // max(self.period, 1) + 2
                noise = self.period // 8
                gaps = self.period + (
                    rng.integers(-noise, noise + 1, room) if noise else np.zeros(room, np.int64)
                )
                times = wait + np.concatenate(([0], np.cumsum(gaps)))
                inside = times < total
                at.append(times[inside])
                wait = int(times[~inside][0]) if not inside.all() else int(times[-1] + self.period)
            wait -= total
            taken = np.concatenate(at) if at else np.empty(0, np.int64)
            view.sampled = _pages(seen, taken)
            view.samples = np.bincount(view.sampled, minlength=view.owner.size)
            return [_charged("sample_ns", self.ns, _each(view, view.sampled, seen.programs))]

        return _Looks(look)


@dataclass(frozen=True)
class AccessedBits:
    """Accessed and dirty bits of page tables, read and cleared: ``view.accessed``, ``view.dirty``.

    Parameters
    ----------
    every : int, default 1
        Epochs from scan to scan; both fields are None in between.
    ns : float, optional
        Cost of an entry; the machine's unless given. Each scan flushes once.
    """

    every: int = 1
    ns: float | None = None
    oracle: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _at_least("AccessedBits", "every", self.every, 1)

    def watch(self, view: View, rng: np.random.Generator) -> Watch:
        """See `Source.watch`."""
        accessed = np.zeros(view.owner.size, np.bool_)
        dirty = accessed.copy()

        def look(seen: Seen, view: View) -> Events:
            nonlocal accessed, dirty
            for piece in seen.pieces():
                accessed[piece.page] = True
                dirty[piece.page[piece.write]] = True
            if (view.epoch + 1) % self.every:
                view.accessed = view.dirty = None
                return []
            view.accessed, view.dirty = accessed, dirty
            accessed, dirty = np.zeros_like(accessed), np.zeros_like(dirty)
            pages = _each(view, view.node >= 0, seen.programs)
            return [_charged("scan_ns", self.ns, pages), ("flushes", pages > 0)]

        return _Looks(look)


@dataclass(frozen=True)
class HintFaults:
    """Faults on pages made inaccessible, as in NUMA balancing: ``view.faults``.

    After each epoch the next pages of the address space, round robin, are made inaccessible. The
    next access to such a page faults, is recorded and makes the page accessible again.

    Parameters
    ----------
    pages : int, default 256
        Pages made inaccessible in an epoch.
    slow_only : bool, default False
        Leave pages of the fastest tier alone, as tiering does since 5.18.
    unmap_ns, fault_ns : float, optional
        Cost of a page and of a fault; the machine's unless given. Each round flushes once.
    """

    pages: int = 256
    slow_only: bool = False
    unmap_ns: float | None = None
    fault_ns: float | None = None
    oracle: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _at_least("HintFaults", "pages", self.pages, 1)

    def watch(self, view: View, rng: np.random.Generator) -> Watch:
        """See `Source.watch`."""
        return _Faulting(self, view.owner.size)


class _Faulting:
    """`HintFaults` in one run."""

    def __init__(self, source: HintFaults, pages: int) -> None:
        self.source, self.next = source, 0
        self.armed = np.zeros(pages, np.bool_)
        self.since = np.zeros(pages, np.int64)
        self.since_ns = np.zeros(pages)

    def look(self, seen: Seen, view: View) -> Events:
        """See `Watch.look`."""
        start, stop = seen.span_ns()
        first = _first(seen.pieces(), view.owner.size)
        hit = np.flatnonzero(self.armed & (first >= 0))
        hit = hit[np.argsort(first[hit], kind="stable")]
        view.faults, view.fault_node = hit, view.home[hit]
        view.fault_epochs = view.epoch - self.since[hit]
        view.fault_ns = start + first[hit] * (stop - start) - self.since_ns[hit]
        self.armed[hit] = False
        faults = _each(view, hit, seen.programs)
        armed = _each(view, self._arm(view, stop), seen.programs)
        return [
            _charged("fault_ns", self.source.fault_ns, faults),
            _charged("unmap_ns", self.source.unmap_ns, armed),
            ("flushes", armed > 0),
        ]

    def _arm(self, view: View, now: float) -> Ints:
        """Make the next pages inaccessible."""
        size = self.armed.size
        at = (self.next + np.arange(min(self.source.pages, size))) % max(size, 1)
        self.next = (self.next + at.size) % max(size, 1)
        good = (view.node[at] >= 0) & ~self.armed[at]
        if self.source.slow_only:
            good &= view.tier[at] > 0
        at = at[good]
        self.armed[at], self.since[at], self.since_ns[at] = True, view.epoch, now
        return at


class RegionTable(NamedTuple):
    """DAMON's regions of pages, which are assumed to be accessed equally.

    Attributes
    ----------
    start, stop : ndarray of int64, shape (regions,)
        Pages.
    nr_accesses : ndarray of int64, shape (regions,)
        Checks, out of ``samples``, that found the checked page accessed.
    age : ndarray of int64, shape (regions,)
        Epochs since the last large change of ``nr_accesses``.
    """

    start: Ints
    stop: Ints
    nr_accesses: Ints
    age: Ints

    def each(self, values: NDArray[Any]) -> NDArray[Any]:
        """Give every page the value of its region."""
        return np.repeat(values, self.stop - self.start)


@dataclass(frozen=True)
class Regions:
    """Regions as DAMON samples them: ``view.regions``, a `RegionTable`.

    An epoch is one aggregation interval. Each sampling checks one page of each region, chosen at
    random. Then neighbours that differ little are merged, and regions are split at random while
    there are fewer than half of ``most``. Regions cover the pages that a trace accesses. Gaps of
    the address space are not modelled.

    Parameters
    ----------
    least, most : int, default 10 and 1000
        Limits of the number of regions. DAMON's defaults.
    samples : int, default 20
        Samplings in an epoch: 5 ms in 100 ms by default in DAMON.
    ns : float, optional
        Cost of a check; the machine's unless given.
    """

    least: int = 10
    most: int = 1000
    samples: int = 20
    ns: float | None = None
    oracle: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _at_least("Regions", "least", self.least, 3)
        _at_least("Regions", "most", self.most, self.least)
        _at_least("Regions", "samples", self.samples, 1)

    def watch(self, view: View, rng: np.random.Generator) -> Watch:
        """See `Source.watch`."""
        return _Sampling(self, view, rng)


class _Sampling:
    """`Regions` in one run."""

    def __init__(self, source: Regions, view: View, rng: np.random.Generator) -> None:
        self.source, self.rng = source, rng
        pages = view.owner.size
        # Regions never cross from one program to the next.
        self.edges = np.flatnonzero(np.diff(view.owner, prepend=-1))
        cuts = np.linspace(0, pages, source.least + 1).astype(np.int64)[:-1]
        self.start = np.unique(np.concatenate((cuts, self.edges)))
        self.nr = np.zeros(self.start.size, np.int64)
        self.age = np.zeros(self.start.size, np.int64)
        self.pages = pages

    def look(self, seen: Seen, view: View) -> Events:
        """See `Watch.look`."""
        size = np.diff(self.start, append=self.pages)
        found = np.zeros(self.start.size, np.int64)
        checks = np.zeros(seen.programs, np.int64)
        for touched in _slices(seen.pieces(), self.source.samples, self.pages):
            page = self.start + self.rng.integers(0, size)
            found += touched[page]
            checks += _each(view, page[view.node[page] >= 0], seen.programs)
        self._merge(found)
        stop = np.append(self.start[1:], self.pages)
        view.regions = RegionTable(self.start, stop, self.nr, self.age)
        self._split()
        return [_charged("check_ns", self.source.ns, checks)]

    def _merge(self, found: Ints) -> None:
        """Age regions, and merge neighbours that differ by at most a tenth of the maximum."""
        threshold = max(int(found.max(initial=0)) // 10, 1)
        changed = np.abs(found - self.nr) > threshold
        self.age = np.where(changed, 0, self.age + 1)
        largest = self.pages // self.source.least
        size = np.diff(self.start, append=self.pages)
        kept: list[tuple[int, int, int, int]] = []
        rows = zip(
            self.start.tolist(), size.tolist(), found.tolist(), self.age.tolist(), strict=True
        )
        edges = set(self.edges.tolist())
        for start, pages, nr, age in rows:
            if kept and start not in edges:
                first, before, old, old_age = kept[-1]
                if abs(old - nr) <= threshold and before + pages <= largest:
                    both = before + pages
                    kept[-1] = (
                        first,
                        both,
                        (old * before + nr * pages) // both,
                        (old_age * before + age * pages) // both,
                    )
                    continue
            kept.append((start, pages, nr, age))
        table = np.array(kept, np.int64).reshape(-1, 4)
        self.start, self.nr, self.age = table[:, 0], table[:, 2], table[:, 3]

    def _split(self) -> None:
        """Split each region at a random place, if more regions are allowed."""
        if self.start.size > self.source.most // 2:
            return
        size = np.diff(self.start, append=self.pages)
        can = np.flatnonzero(size > 1)
        # DAMON cuts between a tenth and nine tenths, so that no region is split by a page.
        share = self.rng.integers(1, 10, can.size)
        cut = self.start[can] + np.maximum(size[can] * share // 10, 1)
        at = np.concatenate((self.start, cut))
        order = np.argsort(at, kind="stable")
        self.start = at[order]
        self.nr = np.concatenate((self.nr, self.nr[can]))[order]
        self.age = np.concatenate((self.age, self.age[can]))[order]


def _pages(seen: Seen, times: Ints) -> Ints:
    """Find the pages accessed at ascending times, counted in accesses since the epoch began."""
    pages = np.empty(times.size, np.int64)
    found, before = 0, 0
    for piece in seen.pieces():
        if found == times.size:
            break
        found += sampled(piece.page, piece.count, times[found:], before, pages[found:])
        before += int(piece.count.sum(dtype=np.int64))
    return pages[:found]


def _first(pieces: Iterable[Stream], pages: int) -> Floats:
    """Return when each page was first accessed, as a share of the epoch; -1 if it was not."""
    first = np.full(pages, -1.0)
    for piece in pieces:
        new = np.flatnonzero(first[piece.page] < 0)[::-1]
        first[piece.page[new]] = piece.at[new]
    return first


def _slices(pieces: Iterable[Stream], number: int, pages: int) -> Iterator[Bools]:
    """Which pages were accessed in each of so many equal parts of the epoch."""
    part, touched = 0, np.zeros(pages, np.bool_)
    for piece, end in _followed(pieces):
        ends = np.append(piece.at[1:], end)
        while part < number:
            low, high = part / number, (part + 1) / number
            start = int(np.searchsorted(ends, low, side="right"))
            stop = int(np.searchsorted(piece.at, high, side="left"))
            touched[piece.page[start:stop]] = True
            if end < high:
                break
            yield touched
            part, touched = part + 1, np.zeros(pages, np.bool_)
    for _ in range(part, number):
        yield np.zeros(pages, np.bool_)


def _followed(pieces: Iterable[Stream]) -> Iterator[tuple[Stream, float]]:
    """Yield each piece with the start of the next one; for the last, the end of the epoch."""
    held: Stream | None = None
    for piece in pieces:
        if held is not None:
            yield held, float(piece.at[0])
        held = piece
    if held is not None:
        yield held, 1.0


def _charged(name: str, ns: float | None, number: Ints) -> tuple[str, NDArray[Any]]:
    """Return an event that happened so often, at the machine's price or at the source's own."""
    return (name, number) if ns is None else ("ns", number * ns)


def _at_least(source: str, name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{source}: {name} must be a number from {least} on, not {value!r}")
