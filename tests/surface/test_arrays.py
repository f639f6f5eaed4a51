"""Arrays that compiled loops take: any other is refused by name, and nothing is touched."""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import pagemig as pm
from pagemig import _api
from pagemig.auto import relax, tally
from pagemig.testing import host
from pagemig.trace import columns, parse
from support.fuzz import odd

Array = npt.NDArray[Any]
ADDRESS = 1 << 30
PAGE = 4096


class Loop(NamedTuple):
    """A call of a loop, its arrays, which of them it writes, and which may have any length."""

    call: Callable[..., object]
    arrays: dict[str, Array]
    written: tuple[str, ...] = ()
    any_length: tuple[str, ...] = ()


def ones(kind: str, *shape: int) -> Array:
    return np.ones(shape or 4, kind)


def access_many(addresses: Any, write: Any, node: Any, kind: Any) -> object:
    process = pm.Machine(["1MiB", "1MiB"]).spawn()
    assert process.mmap(PAGE, addr=ADDRESS) == ADDRESS
    with process.context() as context:
        return context.access_many(addresses, write, node=node, kind=kind)


def start_frames(pfns: Any, nodes: Any) -> object:
    return _api.Flight(pm.Machine(["1MiB", "1MiB"]), None, 0).migrate_frames(pfns, nodes)


LOOPS = {
    "access_many": Loop(
        access_many,
        {
            "addresses": np.full(4, ADDRESS, "u8"),
            "write": ones("u1"),
            "node": ones("i1"),
            "kind": ones("u1"),
        },
        ("node", "kind"),
    ),
    "tally": Loop(
        tally.tally,
        {
            "index": ones("i4"),
            "count": ones("u4"),
            "by_page": ones("i8"),
            "pages": ones("i4"),
            "at": ones("i8"),
        },
        ("by_page", "pages", "at"),
        ("by_page",),
    ),
    "absent": Loop(
        tally.absent,
        {
            "pages": ones("i4"),
            "at": ones("i8"),
            "node": ones("i8"),
            "found": ones("i8"),
            "runs": ones("i8"),
        },
        ("found", "runs"),
        ("node",),
    ),
    "by_node": Loop(
        tally.by_node,
        {"pages": ones("i4"), "by_page": ones("i8"), "node": ones("i8"), "sums": ones("i8")},
        ("sums",),
        ("pages", "sums"),
    ),
    "block_sums": Loop(
        lambda count, sums: tally.block_sums(count, 1, sums),
        {"count": ones("u4"), "sums": ones("i8")},
        ("sums",),
    ),
    "sampled": Loop(
        lambda index, count, times, pages: tally.sampled(index, count, times, 0, pages),
        {"index": ones("i4"), "count": ones("u4"), "times": ones("i8"), "pages": ones("i8")},
        ("pages",),
        ("times",),
    ),
    "relax": Loop(
        relax.relax,
        {
            "counts": ones("i4", 2, 1, 3),
            "latency": ones("f8", 1, 2),
            "moves": ones("f8", 2, 2),
            "prices": ones("f8", 2, 2),
            "first": np.zeros(3, "i4"),  # costs before a page's first epoch mean nothing
            "last": ones("i4", 3),
            "occupied": ones("i8", 2, 2),
            "path": ones("i1", 2, 3),
            "togo": ones("f4", 2, 2, 3),
        },
        ("occupied", "path", "togo"),
    ),
    "choose": Loop(
        lambda **arrays: relax.choose(0, **arrays),
        {
            "togo": ones("f4", 2, 3),
            "moves": ones("f8", 2, 2),
            "first": ones("i4", 3),
            "last": ones("i4", 3),
            "node": ones("i1", 3),
        },
        ("node",),
    ),
    "join": Loop(columns.join, {"pages": ones("u8"), "write": ones("u1"), "count": ones("u8")}),
    "of": Loop(lambda pages: columns.Ranks().of(pages), {"pages": ones("u8")}, (), ("pages",)),
    "picked": Loop(
        lambda ranks, places, out: columns.picked(ranks, 1, places, out),
        {"ranks": ones("u1"), "places": ones("i4"), "out": ones("i4")},
        ("out",),
        ("places",),
    ),
    "counts": Loop(
        lambda planes, out: columns.counts(planes, 1, out),
        {"planes": ones("u1"), "out": ones("u4")},
        ("out",),
    ),
    "blocks": Loop(
        lambda address, size: columns.blocks(address, size, 12),
        {"address": ones("u8"), "size": ones("u4")},
    ),
    "first_seen": Loop(
        lambda index: columns.first_seen(index, 2), {"index": ones("i4")}, (), ("index",)
    ),
    "filter": Loop(
        lambda lines, write: columns.Sets(2, 2).filter(lines, write),
        {"lines": ones("u8"), "write": ones("u1")},
    ),
    "migrate_frames": Loop(start_frames, {"pfns": ones("u4"), "nodes": ones("i4")}),
    "random_rmw": Loop(
        host.random_rmw,
        {"words": ones("u8", 64), "lines": ones("u4")},
        ("words",),
        ("words", "lines"),
    ),
    "cached_rmw": Loop(
        lambda words: host.cached_rmw(words, 3), {"words": ones("u8", 64)}, ("words",), ("words",)
    ),
}


def read_only(a: Array) -> Array:
    a = a.copy()
    a.setflags(write=False)
    return a


#: What is wrong with an array, and the error.
WRONG: dict[str, tuple[Callable[[Array], object], type[Exception]]] = {
    "a list": (lambda a: a.tolist(), TypeError),
    "None": (lambda a: None, TypeError),
    "bytes": (lambda a: a.tobytes(), TypeError),
    "another type": (lambda a: a.astype("c16"), ValueError),
    "one dimension more": (lambda a: a[None], ValueError),
    "at odd addresses": (
        lambda a: odd(a.ravel().tolist(), a.dtype.str).reshape(a.shape),
        ValueError,
    ),
    "every second entry": (lambda a: np.repeat(a, 2, -1)[..., ::2], ValueError),
    "of the other byte order": (lambda a: a.astype(a.dtype.newbyteorder()), ValueError),
}
OPTIONAL = {("access_many", n) for n in ("write", "node", "kind")} | {
    ("tally", "pages"),
    ("tally", "at"),
    ("relax", "path"),
    ("relax", "togo"),
    ("join", "count"),
}


@pytest.mark.parametrize("name", LOOPS)
def test_an_array_of_another_kind_is_refused_by_name(name: str) -> None:
    call, arrays, written, _ = LOOPS[name]
    before = {key: a.copy() for key, a in arrays.items()}
    call(**{key: a.copy() for key, a in arrays.items()})
    for argument, good in arrays.items():
        for what, (spoil, error) in WRONG.items():
            if what == "None" and (name, argument) in OPTIONAL:
                continue
            if good.itemsize == 1 and what in ("at odd addresses", "of the other byte order"):
                continue
            with pytest.raises(
                error, match=f"^{argument} must be an array of {good.dtype}( or bool)? of shape"
            ):
                call(**{**arrays, argument: spoil(good)})
        if argument in written:
            with pytest.raises(ValueError, match=f"^{argument} must be writeable"):
                call(**{**arrays, argument: read_only(good)})
            if good.itemsize == 1:
                with pytest.raises(
                    ValueError, match=f"^{argument} must be an array of {good.dtype}"
                ):
                    call(**{**arrays, argument: good.astype(bool)})
    for key, a in arrays.items():
        assert (a == before[key]).all(), key


@pytest.mark.parametrize("name", LOOPS)
def test_an_array_that_is_too_short_is_refused(name: str) -> None:
    """The loops themselves look at no length."""
    call, arrays, _, any_length = LOOPS[name]
    for argument, good in arrays.items():
        shorter = {**arrays, argument: np.ascontiguousarray(good[..., :-1])}
        if argument in any_length:
            call(**shorter)
        else:
            with pytest.raises(ValueError):
                call(**shorter)


@pytest.mark.parametrize("name", LOOPS)
def test_a_type_has_more_than_one_name(name: str) -> None:
    call, arrays, *_ = LOOPS[name]
    names = {"q": np.longlong, "Q": np.ulonglong, "l": np.longlong, "L": np.ulonglong}
    call(**{key: a.astype(names.get(a.dtype.char, a.dtype)) for key, a in arrays.items()})


class Liar(np.ndarray):  # type: ignore[type-arg]
    """An array that overstates its shape and its length."""

    @property
    def shape(self) -> Any:
        return (10**6, 10**6, 10**6)

    def __len__(self) -> int:
        return 10**6


@pytest.mark.parametrize("name", LOOPS)
def test_arrays_of_a_subclass_are_taken_by_their_memory(name: str) -> None:
    call, arrays, *_ = LOOPS[name]
    plain = {key: a.copy() for key, a in arrays.items()}
    lying = {key: a.copy().view(Liar) for key, a in arrays.items()}
    assert str(call(**plain)) == str(call(**lying))
    for key, a in plain.items():
        assert (a == lying[key].view(np.ndarray)).all(), key


def test_parsers_take_whatever_lends_bytes() -> None:
    text = b" L 1000,8\n S 2000,4\n"
    for given in (text, bytearray(text), memoryview(text), np.frombuffer(text, np.uint8)):
        address, size, write, *_ = parse.Lackey().feed(given)
        assert (address.tolist(), size.tolist(), write.tolist()) == (
            [0x1000, 0x2000],
            [8, 4],
            [False, True],
        )
    assert parse.Lackey().feed(b"")[0].size == 0
    with pytest.raises(TypeError, match="text must be bytes, not 7"):
        parse.Lackey().feed(7)  # type: ignore[arg-type]
    for scattered in (memoryview(text)[::2], np.frombuffer(text, np.uint8)[::2]):
        with pytest.raises(ValueError, match="text must be contiguous bytes"):
            parse.Lackey().feed(scattered)
    with pytest.raises(TypeError, match="text must be bytes, not array"):
        parse.Lackey().feed(np.arange(4.0))
    with pytest.raises(TypeError, match="use Lackey, Table or Perf"):
        parse.Parser().feed(text)


def test_pages_are_numbered_by_one_thread_at_a_time() -> None:
    ranks = columns.Ranks()
    errors: list[str] = []

    def number() -> None:
        for _ in range(300):  # each some milliseconds without the interpreter lock
            if errors:
                return
            try:
                ranks.of(np.arange(1 << 20, dtype=np.uint64))
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=number) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "another thread is numbering" in errors[0]
    assert ranks.of(np.arange(1 << 20, dtype=np.uint64)).tolist() == list(range(1 << 20))
