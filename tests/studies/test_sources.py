"""Sources of statistics: what they see of a made-up epoch, and what they charge for it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemig import auto
from support.views import view


class Epoch:
    """An epoch of accesses one by one; programs by page."""

    def __init__(self, pages, write=None, programs=1, size=10, start=0.0, stop=1000.0, cuts=()):
        self.cuts = cuts
        self.pages = np.array(pages, np.int64)
        self.write = np.zeros(self.pages.size, bool) if write is None else np.array(write)
        self.programs, self.size, self.span = programs, size, (start, stop)

    @property
    def counts(self):
        return np.stack([np.bincount(self.pages, minlength=self.size)] * 2)

    @property
    def accesses(self):
        return self.pages.size

    def pieces(self):
        number = self.pages.size
        whole = auto.Stream(
            self.pages.astype(np.int32), np.ones(number, np.uint32), self.write, total=number
        )
        cuts = sorted({0, *self.cuts, number})
        for start, stop in pairwise(cuts):
            yield whole.cut(start, stop)

    def future(self, epochs):
        return self.counts * epochs

    def span_ns(self):
        return self.span


def watched(source, node, **more):
    made = view(node, [99, 99], **more)
    return source.watch(made, np.random.default_rng(5)), made


def test_oracles_cost_nothing():
    for source, name, expected in (
        (auto.Counts(), "counts", [1, 0, 2]),
        (auto.Future(3), "future", [3, 0, 6]),
    ):
        watch, made = watched(source, [0, 0, 1])
        assert watch.look(Epoch([0, 2, 2], size=3), made) == []
        assert getattr(made, name)[0].tolist() == expected


# ---- samples ----------------------------------------------------------------------------------


@given(st.integers(1, 40), st.lists(st.integers(0, 200), max_size=12), st.integers(0, 2**32))
@settings(max_examples=60)
def test_one_access_in_so_many_is_sampled(period, sizes, seed):
    rng = np.random.default_rng(seed)
    made = view([0] * 10, [9, 9])
    watch = auto.Samples(period).watch(made, np.random.default_rng(seed))
    times, before = [], 0
    for size in sizes:
        epoch = Epoch(rng.integers(0, 10, size))
        # Sampling does not depend on the pages, so a second watch tells when it took them.
        ((name, number),) = watch.look(epoch, made)
        assert name == "sample_ns"
        assert number.sum() == made.sampled.size == made.samples.sum()
        assert made.samples.tolist() == np.bincount(made.sampled, minlength=10).tolist()
        times.append(before + made.sampled.size)
        before += size
    clock = auto.Samples(period).watch(made, np.random.default_rng(seed))
    at, start = [], 0
    for size in sizes:
        wide = view([0] * max(size, 1), [9, 9])
        clock.look(Epoch(np.arange(size), size=max(size, 1)), wide)
        at += (start + wide.sampled).tolist()
        start += size
    gaps = np.diff(at)
    noise = period // 8
    assert ((gaps >= period - noise) & (gaps <= period + noise)).all()
    if start > 3 * period:
        assert abs(len(at) - start / period) <= 0.25 * start / period + 2


def test_samples_come_in_order_of_time():
    made = view([0] * 10, [9, 9])
    watch = auto.Samples(1).watch(made, np.random.default_rng(0))
    watch.look(Epoch([3, 1, 3, 2]), made)
    assert made.sampled.tolist() == [3, 1, 3, 2]
    assert made.samples.tolist() == [0, 1, 1, 2, 0, 0, 0, 0, 0, 0]


def test_a_price_of_its_own():
    made = view([0] * 10, [9, 9])
    ((name, number),) = auto.Samples(1, ns=7.0).watch(made, made.rng).look(Epoch([1, 2]), made)
    assert (name, number.tolist()) == ("ns", [14.0])


# ---- accessed bits ----------------------------------------------------------------------------


def test_bits_are_read_and_cleared_every_so_many_epochs():
    watch, made = watched(auto.AccessedBits(every=2), [0, 1, -1, 0])
    made.epoch = 0
    assert watch.look(Epoch([0, 3], [False, True], size=4), made) == []
    assert made.accessed is None and made.dirty is None
    made.epoch = 1
    events = dict(watch.look(Epoch([1], size=4), made))
    assert made.accessed.tolist() == [True, True, False, True]
    assert made.dirty.tolist() == [False, False, False, True]
    assert events["scan_ns"].tolist() == [3]  # pages that are present
    assert events["flushes"].tolist() == [1]
    made.epoch = 3
    watch.look(Epoch([], size=4), made)
    assert not made.accessed.any()


# ---- hint faults ------------------------------------------------------------------------------


def test_pages_fault_once_after_they_were_made_inaccessible():
    watch, made = watched(auto.HintFaults(pages=2), [0, 1, 1, -1])
    made.epoch = 0
    events = dict(watch.look(Epoch([0, 1, 2], size=4, start=0, stop=100), made))
    assert made.faults.tolist() == []  # none was inaccessible yet
    assert events["unmap_ns"].tolist() == [2]  # pages 0 and 1
    assert events["fault_ns"].tolist() == [0]
    made.epoch = 1
    events = dict(watch.look(Epoch([1, 2, 1], size=4, start=100, stop=400), made))
    assert made.faults.tolist() == [1]
    assert made.fault_node.tolist() == [0]
    assert made.fault_epochs.tolist() == [1]
    assert made.fault_ns.tolist() == [0.0]  # the first access of the epoch, begun when it was made
    assert events["unmap_ns"].tolist() == [1]  # page 2; page 3 is not there
    made.epoch = 2
    events = dict(watch.look(Epoch([1, 2, 0, 0], size=4, start=400, stop=800), made))
    assert made.faults.tolist() == [2, 0]  # in order of time; page 1 was not looked at again
    assert made.fault_epochs.tolist() == [1, 2]
    assert made.fault_ns.tolist() == [100.0, 500.0]
    assert events["fault_ns"].tolist() == [2]


def test_fast_pages_can_be_left_alone():
    watch, made = watched(auto.HintFaults(pages=4, slow_only=True), [0, 1, 1, 0])
    events = dict(watch.look(Epoch([], size=4), made))
    assert events["unmap_ns"].tolist() == [2]
    watch.look(Epoch([0, 1, 2, 3], size=4), made)
    assert made.faults.tolist() == [1, 2]


# ---- regions ----------------------------------------------------------------------------------


def covered(table, pages):
    assert table.start[0] == 0
    assert table.stop[-1] == pages
    assert (table.start[1:] == table.stop[:-1]).all()
    assert (table.start < table.stop).all()


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_regions_cover_everything_and_stay_within_their_limits(seed):
    rng = np.random.default_rng(seed)
    pages = int(rng.integers(3, 400))
    owner = np.sort(rng.integers(0, 2, pages))
    made = view([0] * pages, [9, 9], owner=owner, homes=(0, 0))
    least = int(rng.integers(3, 11))
    watch = auto.Regions(least, 40, samples=5).watch(made, np.random.default_rng(seed))
    for epoch in range(12):
        made.epoch = epoch
        events = dict(watch.look(Epoch(rng.integers(0, pages, 300), programs=2, size=pages), made))
        table = made.regions
        covered(table, pages)
        assert (table.nr_accesses >= 0).all() and (table.nr_accesses <= 5).all()
        assert table.start.size <= 42
        assert set(np.flatnonzero(np.diff(owner)) + 1) <= set(table.start.tolist())
        assert events["check_ns"].sum() <= 5 * 40 * 2
        assert table.each(table.age).size == pages


def test_regions_find_what_is_hot():
    rng = np.random.default_rng(1)
    made = view([0] * 1000, [9, 9])
    watch = auto.Regions().watch(made, np.random.default_rng(2))
    for epoch in range(25):
        made.epoch = epoch
        watch.look(Epoch(rng.integers(200, 300, 5000), size=1000), made)
    heat = made.regions.each(made.regions.nr_accesses)
    assert heat[210:290].min() >= 15
    assert heat[:150].max() == heat[350:].max() == 0
    cold = made.regions.each(made.regions.age)[500:]
    assert cold.min() > 10
    assert made.regions.start.size < 500


def test_a_region_that_changes_is_young():
    made = view([0] * 30, [9, 9])
    watch = auto.Regions(3, 3, samples=4).watch(made, np.random.default_rng(2))
    everything = np.tile(np.arange(30), 8)
    for epoch, pages in enumerate([[], [], everything, everything]):
        made.epoch = epoch
        watch.look(Epoch(pages, size=30), made)
        ages = set(made.regions.age.tolist())
        assert ages == [{1}, {2}, {0}, {1}][epoch]


@pytest.mark.parametrize(
    "source",
    [auto.Samples, auto.AccessedBits, auto.HintFaults, auto.Future],
)
@pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
def test_sources_that_mean_nothing(source, value):
    with pytest.raises(ValueError, match=f"{source.__name__}: .* must be a number from 1"):
        source(value)


# ---- a piece at a time ------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40), max_size=4),
    st.lists(st.integers(0, 40), max_size=6),
    st.sampled_from(
        [
            auto.Samples(1),
            auto.Samples(7),
            auto.AccessedBits(2),
            auto.HintFaults(4),
            auto.Regions(3, 10, 5),
        ]
    ),
)
def test_an_epoch_in_pieces_looks_as_it_does_whole(epochs, cuts, source):
    seen = []
    for pieces in ((), cuts):
        watch, made = watched(source, [0, 1] * 5)
        for number, accesses in enumerate(epochs):
            made.epoch = number
            inside = [cut for cut in pieces if cut <= len(accesses)]
            pages, write = [page for page, _ in accesses], [kind for _, kind in accesses]
            events = watch.look(Epoch(pages, np.array(write, bool), cuts=inside), made)
            seen.append((pieces == cuts, [(name, n.tolist()) for name, n in events]))
            for name in ("sampled", "accessed", "dirty", "faults", "fault_ns", "regions"):
                value = vars(made).get(name)
                seen[-1] += (
                    None if value is None else np.concatenate(np.atleast_2d(value)).tolist(),
                )
    whole, apart = seen[: len(epochs)], seen[len(epochs) :]
    assert [entry[1:] for entry in whole] == [entry[1:] for entry in apart]
