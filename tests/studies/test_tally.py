"""Counting of runs, against a loop of Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemig.auto.tally import absent, block_sums, by_node, sampled, tally

PAGES = 7

runs = st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(0, 2**32 - 1)), max_size=30)


@given(runs, st.lists(st.integers(0, 3), min_size=PAGES, max_size=PAGES), st.integers(0, 30))
def test_tally_adds_up_and_lists_pages_as_they_are_met(given_runs, before, cut):
    index = np.array([page for page, _ in given_runs], np.int32)
    count = np.array([number for _, number in given_runs], np.uint32)
    sums = np.array(before, np.int64)
    pages, at = np.full(PAGES, -7, np.int32), np.full(PAGES, -7, np.int64)
    number = tally(index[:cut], count[:cut], sums, pages, at)
    number = tally(index[cut:], count[cut:], sums, pages, at, number, index[:cut].size)
    expected, met = list(before), []
    for run, (page, accesses) in enumerate(given_runs):
        if expected[page] == 0 and accesses:
            met.append((page, run))
        expected[page] += accesses
    assert sums.tolist() == expected
    assert list(zip(pages[:number].tolist(), at[:number].tolist(), strict=True)) == met
    again = np.array(before, np.int64)
    assert tally(index, count, again) == 0
    assert again.tolist() == expected


@given(st.lists(st.integers(-1, 2), min_size=PAGES, max_size=PAGES), st.randoms())
def test_pages_that_are_nowhere_and_sums_of_nodes(nodes, random):
    node = np.array(nodes, np.int64)
    pages = np.array(random.sample(range(PAGES), random.randrange(PAGES + 1)), np.int32)
    at = np.arange(pages.size, dtype=np.int64) * 3
    found, where = np.empty(PAGES, np.int64), np.empty(PAGES, np.int64)
    number = absent(pages, at, node, found, where)
    gone = [(p, 3 * k) for k, p in enumerate(pages.tolist()) if nodes[p] == -1]
    assert list(zip(found[:number].tolist(), where[:number].tolist(), strict=True)) == gone
    by_page = np.arange(1, PAGES + 1, dtype=np.int64)
    sums = np.array([5, 0, 0], np.int64)
    if gone:
        page, run = gone[0]
        with pytest.raises(ValueError, match=f"entry {run // 3} of pages is {page}, which lies on"):
            by_node(pages, by_page, node, sums)
        return
    by_node(pages, by_page, node, sums)
    assert sums.tolist() == [
        5 * (nid == 0) + sum(p + 1 for p in pages.tolist() if nodes[p] == nid) for nid in range(3)
    ]


@pytest.mark.parametrize("page", [-1, PAGES, 2**31 - 1])
def test_a_run_of_no_page_is_an_error(page):
    index = np.array([1, page], np.int32)
    with pytest.raises(ValueError, match="run 1 has page"):
        tally(index, np.ones(2, np.uint32), np.zeros(PAGES, np.int64))


def test_shapes_have_to_go_together():
    sums, one, run = np.zeros(PAGES, np.int64), np.zeros(1, np.int32), np.zeros(1, np.int64)
    for wrong in (
        lambda: tally(one, np.ones(2, np.uint32), sums),
        lambda: tally(one, np.ones(1, np.uint32), sums, one, run),
        lambda: tally(one, np.ones(1, np.uint32), sums, np.zeros(PAGES, np.int32)),
        lambda: absent(one, np.zeros(2, np.int64), sums, sums, sums),
        lambda: absent(one, run, sums, sums[:0], sums),
        lambda: tally(one, np.ones(1, np.uint32), sums, listed=PAGES + 1),
        lambda: sampled(one, np.ones(2, np.uint32), run, 0, run),
        lambda: sampled(one, np.ones(1, np.uint32), run, 0, run[:0]),
        lambda: by_node(one, sums, sums[:1], sums),
        lambda: block_sums(np.ones(5, np.uint32), 2, sums[:2]),
    ):
        with pytest.raises(ValueError, match=r"shapes|room|every|count|nodes|listed"):
            wrong()


@given(
    st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(0, 5)), max_size=30),
    st.lists(st.integers(0, 160)),
    st.integers(0, 9),
)
def test_samples_are_the_accesses_at_their_times(given_runs, wanted, before):
    index = np.array([page for page, _ in given_runs], np.int32)
    count = np.array([number for _, number in given_runs], np.uint32)
    accesses = np.repeat(index, count)
    times = np.array(sorted(wanted), np.int64)
    pages = np.full(times.size, -7, np.int64)
    number = sampled(index, count, times + before, before, pages)
    inside = times[times < accesses.size]
    assert pages[:number].tolist() == accesses[inside].tolist()
    assert (pages[number:] == -7).all()
