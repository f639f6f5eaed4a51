"""Every public name of the package called with anything: no table of calls, it looks what there is.

``python tests/support/anything.py --seconds 600 --first SEED`` takes what the package and its
modules name in ``__all__``, makes objects of every kind (also of machines that are gone, of
processes that have exited, of migrations that are over), and calls whatever they have with
arguments by the name of the parameter or with none that makes sense. A call answers, or raises what
a caller can expect; it neither crashes nor hangs, takes no memory beyond what a machine has, and
every machine is whole afterwards. Seeds run in a process of their own, so that a crash is a
finding, which says the call that was under way.
"""

import argparse
import collections
import contextlib
import copy
import faulthandler
import gc
import importlib
import inspect
import io
import os
import pickle
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import pagemig as pm
import pagemig.trace.columns
from pagemig import auto, trace
from pagemig.studies import replay

sys.path.insert(0, str(Path(__file__).parents[1]))  # it runs alone, too
from support.fuzz import Index, Refusing, odd

PAGE = pm.PAGE_SIZE
BASE = 1 << 40
PAGES = 64
CALLS_A_SEED = 400
SECONDS_A_CALL = 1.0
SECONDS_A_SEED = 180
#: KiB that a seed may take: what the libraries take before it, and two gigabytes.
MOST_KIB = 2 << 20
MODULES = (
    "pagemig",
    "pagemig.api",
    "pagemig.system.uncached",
    "pagemig.testing.actors",
    "pagemig.trace",
    "pagemig.trace.columns",
    "pagemig.auto",
    "pagemig.auto.costs",
    "pagemig.auto.relax",
    "pagemig.auto.tally",
    "pagemig.studies.replay",
    "pagemig.studies.results",
    "pagemig.studies.vtime",
)
#: What needs no machine: every third seed is about it alone.
STUDIED = ("pagemig.trace", "pagemig.auto", "pagemig.studies")
#: Records that a caller makes; all others come out of calls.
GIVEN = {
    pm.KernelProfile, auto.Bill, auto.Demand, auto.Hardware, auto.Prices, auto.Traffic,
    *auto.POLICIES.values(), auto.AccessedBits, auto.Counts, auto.Future, auto.HintFaults,
    auto.Regions, auto.Samples, trace.Header, trace.Trace, replay.Conditions,
}  # fmt: skip
#: These work for as long as their arguments say, or start other programs.
NOT_CALLED = {"sweep", "Grid", "record", "main", "run", "play", "cffi", "first_seen", "simulate"}
#: What `SECURITY.md` promises for any call.
EXPECTED = (OSError, ValueError, TypeError, AttributeError, MemoryError, BufferError)
#: Errors that a docstring has to promise.
PROMISED = (IndexError, KeyError, RuntimeError, StopIteration, EOFError, ImportError)
NUMBERS: tuple[int, ...] = (
    -1, 0, 1, 2, 7, 64, 1023, 1024, PAGE - 1, PAGE, BASE, BASE + PAGE, 2**31 - 1, 2**31, 2**32 - 1,
    2**32,
    2**47 - PAGE, 2**47, 2**62, 2**63 - 1, 2**63, 2**64 - PAGE, 2**64 - 1, 2**64, 2**70, -(2**31),
    -(2**63),
    -(2**70), 10**400,
)  # fmt: skip


class Lying:
    """Long by its own account."""

    def __len__(self) -> int:
        return 1 << 62

    def __iter__(self) -> Iterator[int]:
        return iter([1, 2, 3])

    def __getitem__(self, at: object) -> int:
        raise IndexError(at)


class Same:
    """Equal to everything, and hashed like it."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


def recursive() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


def raising(*_: object, **__: object) -> object:
    raise ZeroDivisionError("asked for a number")


def hostile(rng: random.Random) -> Any:
    """Draw what no parameter is meant for."""
    n = rng.choice(NUMBERS)
    small = rng.choice([number for number in NUMBERS if -(2**63) <= number < 2**63])
    return rng.choice(
        [
            lambda: n, lambda: n, lambda: n, lambda: None, lambda: "", lambda: "x",
            lambda: "\x1b[2J\0",
            lambda: "9" * 5000, lambda: "1e999", lambda: "\udcff", lambda: "16EiB",
            lambda: "-4KiB", lambda: b"1",
            lambda: 1.5, lambda: float("nan"), lambda: float("inf"), lambda: -0.0, lambda: 1j,
            lambda: True,
            list, lambda: (), dict, lambda: set(), lambda: [n], lambda: [[n]], lambda: {n: n},
            lambda: {0, 1}, lambda: [None], lambda: ["x"], lambda: [1.5], lambda: [float("nan")],
            recursive,
            object, lambda: object, lambda: Index(n), Refusing, Lying, Same, lambda: range(3),
            lambda: range(1 << 62), lambda: range(1 << 70), lambda: iter([1, n]), lambda: raising,
            lambda: lambda *_: n, lambda: print,
            lambda: np.array(small), lambda: np.array([]), lambda: np.array([], np.uint64),
            lambda: np.array([small]),
            lambda: np.array([float("nan")]), lambda: np.array([True, False]),
            lambda: np.array(["x"]),
            lambda: np.array([None]), lambda: np.zeros((2, 2), np.uint64),
            lambda: np.zeros((0, 3), np.int32),
            lambda: np.array(["2020"], "M8[Y]"), lambda: np.array([1, 2], ">i4"),
            lambda: np.arange(8)[::-2],
            lambda: np.broadcast_to(np.int32(1), 1 << 20), lambda: np.ma.array([1, 2], mask=[0, 1]),
            lambda: np.int8(-3), lambda: np.uint64(2**63), lambda: np.float64("nan"),
            lambda: np.zeros(1, "V8"),
            lambda: memoryview(b"1234"), lambda: bytearray(8), lambda: odd([1, 2, 3], "u8"),
            lambda: pm.NULL,
            lambda: pm.BAD, lambda: io.BytesIO(b"x"), lambda: type("Int", (int,), {})(n),
            lambda: collections.UserDict(), lambda: np.recarray(2, [("a", "i4")]), lambda: ...,
            lambda: pm,
        ]
    )()  # fmt: skip


def mapped(rng: random.Random) -> int:
    return BASE + rng.randrange(PAGES) * PAGE


def sensible(name: str, rng: random.Random, objects: list[Any]) -> Any:
    """Draw what a parameter of this name is meant for; what no name tells is hostile."""
    some = rng.randrange(1, 12)
    node = rng.randrange(3)
    of = lambda kind: rng.choice([o for o in objects if isinstance(o, kind)] or [None])  # noqa: E731
    makers: dict[str, Callable[[], Any]] = {
        "addr": lambda: mapped(rng),
        "va": lambda: mapped(rng),
        "new_addr": lambda: mapped(rng) - (1 << 30),
        "length": lambda: some * PAGE,
        "old_length": lambda: some * PAGE,
        "new_length": lambda: some * PAGE,
        "size": lambda: rng.choice([some * PAGE, "64KiB"]),
        "offset": lambda: some * PAGE,
        "page_offset": lambda: some,
        "n": lambda: some,
        "nid": lambda: node,
        "node": lambda: node,
        "nodes": lambda: rng.choice([node, [node] * some, [0, 1], "1MiB", ["1MiB", "1MiB"]]),
        "from_nodes": lambda: [0],
        "to_nodes": lambda: [node],
        "pages": lambda: mapped(rng) + np.arange(some, dtype=np.uint64) * PAGE,
        "addresses": lambda: mapped(rng) + np.arange(some, dtype=np.uint64) * PAGE,
        "tasks": lambda: [1000] * some,
        "pfns": lambda: list(range(1, some + 1)),
        "pfn": lambda: some,
        "first_pfn": lambda: some,
        "pid": lambda: rng.choice([0, 1000, of(pm.Process)]),
        "policy": lambda: rng.choice([of(pm.Policy), some]),
        "flags": lambda: rng.choice([0, 1, 2, 4]),
        "file": lambda: of(pm.File),
        "pin": lambda: of(pm.Pin),
        "machine": lambda: of(pm.Machine),
        "process": lambda: of(pm.Process),
        "holder": lambda: of(pm.Process),
        "how": lambda: rng.choice(["pipe", "uring"]),
        "keep": lambda: rng.choice(["refcount", "rcu", "mmap_lock", "trylock"]),
        "prot": lambda: rng.choice(["rw", "r", "", 3]),
        "advice": lambda: rng.choice(list(pm.MADV_BY_NAME) + list(pm.FADV_BY_NAME)),
        "kind": lambda: rng.choice(["tmpfs", "ramfs", "ext4"]),
        "kernel": lambda: rng.choice(list(pm.KERNELS)),
        "cpu": lambda: rng.choice([0, 1, None]),
        "uid": lambda: some,
        "values": lambda: rng.choice([some, list(range(some))]),
        "hook": lambda: rng.choice([None, lambda *_: None, raising]),
        "migrate": lambda: rng.choice([None, lambda *_: 0, raising]),
        "path": lambda: f"f{some}",
        "device": lambda: 0,
        "step": lambda: some,
        "max_passes": lambda: some,
        "width": lambda: some,
        "local": lambda: node,
    }
    if name in makers:
        return makers[name]()
    if name in ("moved", "flush", "target", "fault"):
        return rng.choice([None, lambda *_: None, raising])
    if name in COLUMNS and rng.random() < 0.8:
        return column(name, rng)
    kinds = KINDS.get(name)
    if kinds is not None and rng.random() < 0.8:
        return of(kinds)
    return rng.choice([True, False, some, rng.choice(objects)])


#: Parameters of traces and of automatic migration that are objects of a kind.
KINDS: dict[str, Any] = {
    "traces": trace.Runs, "traffic": auto.Traffic, "demand": auto.Demand, "machine": auto.Hardware,
    "conditions": replay.Conditions, "header": trace.Header, "prices": auto.Prices,
    "bill": auto.Bill, "view": auto.View, "spec": auto.Policy, "plan": replay.Plan,
}  # fmt: skip
#: Those that are arrays: the type, the dimensions, and the numbers.
COLUMNS: dict[str, tuple[str, int, int]] = {
    "counts": ("i4", 3, 9), "count": ("u4", 1, 9), "index": ("i4", 1, 8), "by_page": ("i8", 1, 9),
    "lines": ("u8", 1, 99), "write": ("?", 1, 2), "latency": ("f8", 2, 99), "room": ("f8", 1, 99),
    "moves": ("f8", 2, 99), "prices": ("f8", 2, 9), "first": ("i4", 1, 2), "last": ("i4", 1, 4),
    "occupied": ("i8", 2, 1), "togo": ("f4", 2, 9), "at": ("i8", 1, 9), "found": ("i8", 1, 9),
    "runs": ("i8", 1, 9), "sums": ("i8", 1, 9), "times": ("i8", 1, 9), "address": ("u8", 1, 9999),
    "ranks": ("u1", 1, 8), "places": ("i4", 1, 9), "out": ("i4", 1, 9), "planes": ("u1", 1, 9),
    "accesses": ("i8", 3, 9), "cpu": ("i8", 2, 2), "copied": ("i8", 3, 9), "agent": ("f8", 2, 9),
    "duration": ("f8", 1, 9), "table": ("u8", 1, 99), "ticks": ("u8", 1, 99), "heat": ("i8", 1, 9),
    "utilisation": ("f8", 2, 1), "background": ("f8", 1, 9), "sources": ("i8", 1, 2),
    "page": ("i4", 1, 8), "owner": ("i8", 1, 1), "capacity": ("i8", 1, 9), "homes": ("i8", 1, 2),
    "bandwidth": ("f8", 2, 9),
}  # fmt: skip


def column(name: str, rng: random.Random) -> Any:
    """An array of the type that a parameter takes, mostly of the lengths that go together."""
    dtype, dimensions, most = COLUMNS[name]
    shape = [rng.choice([2, 2, 2, 2, 2, 0, 1, 3]) for _ in range(dimensions)]
    if rng.random() < 0.1:
        return hostile(rng)
    numbers = np.array([rng.randrange(most + 1) for _ in range(int(np.prod(shape)))])
    found = numbers.astype(dtype).reshape(shape)
    if found.size and rng.random() < 0.2:  # what its type can hold and nothing goes with
        extreme = {"f": [-1.0, 1e308, float("nan"), float("inf")]}.get(found.dtype.kind)
        limits = None if extreme or dtype == "?" else np.iinfo(found.dtype)
        ends = [int(limits.min), int(limits.max), 1 << 20] if limits else [1]
        with contextlib.suppress(OverflowError, ValueError):
            found.flat[rng.randrange(found.size)] = rng.choice(extreme or ends)
    return found


# ---- what there is ----------------------------------------------------------------------------


def names_of(module: ModuleType) -> dict[str, Any]:
    public = getattr(module, "__all__", None) or [n for n in dir(module) if n[0] != "_"]
    return {name: getattr(module, name) for name in public if name not in NOT_CALLED}


def public() -> list[Any]:
    """Every function and class that a module names, each once."""
    found = {
        id(value): value
        for module in map(importlib.import_module, MODULES)
        for value in names_of(module).values()
        if callable(value) and getattr(value, "__module__", "").startswith("pagemig")
        if not (isinstance(value, type) and issubclass(value, BaseException))
        if not (is_dataclass(value) and value not in GIVEN)  # records of results
    }
    return list(found.values())


def machine_of(rng: random.Random) -> list[Any]:
    """A machine and objects of every kind that hang on it."""
    kernel = rng.choice(list(pm.KERNELS))
    swap = ["256KiB"] if pm.KERNELS[kernel].swap else []
    m = pm.Machine(
        [pm.Node("1MiB", cpus=2, reserved="16KiB"), pm.Node("1MiB", cpus=1), "1MiB"],
        kernel=kernel,
        page_bytes=rng.choice([0, 8, 4096]),
        access_stats=rng.random() < 0.5,
        swap=swap,
    )
    p, q = m.spawn(), m.spawn(uid=5)
    p.mmap(PAGES * PAGE, addr=BASE)
    p.touch(BASE, PAGES * PAGE // 2, write=True)
    file = m.file("ext4", 8 * PAGE)
    p.mmap(8 * PAGE, file=file, shared=True, addr=BASE - 100 * PAGE)
    found = [
        m, p, q, p.thread(cpu=1), p.fork(), file, p.pin(BASE, 2 * PAGE), m.frames, *p.vmas(),
        *m.nodes, m.profile,
        p.touch(BASE, PAGE), p.context(), q.context(owns_time=False), m.frames.raw, m.page_tables,
        m.start_migrate_frames(range(1, 9), [1] * 8),
    ]  # fmt: skip
    with contextlib.suppress(OSError):
        found.append(p.start_move_pages([BASE + 9 * PAGE], [2]))
        found.append(p.move_pages([BASE], 1))
    return found


def gone(rng: random.Random) -> list[Any]:
    """Objects of a machine whose last name is gone, of processes that have exited,
    and of what is over."""
    found = machine_of(rng)
    for flight in [o for o in found if isinstance(o, pm.Migration)]:
        with contextlib.suppress(OSError):  # a kernel that does not have the call
            rng.choice([flight.finish, flight.abort])()
    for context in [o for o in found if type(o).__name__ == "Context"]:
        context.close()
    for process in [o for o in found if isinstance(o, pm.Process)]:
        if process.alive:
            process.exit()
    if rng.random() < 0.5:
        for process in [o for o in found if isinstance(o, pm.Process)]:
            with contextlib.suppress(OSError, ValueError):
                process.reap()
    found = [o for o in found if not isinstance(o, pm.Machine)]
    gc.collect()
    return found


def other_objects(rng: random.Random) -> list[Any]:
    return [
        pm.Bind([0, 1]), pm.Interleave([0]), pm.Preferred(1), pm.Local(), pm.Default(),
        pm.PreferredMany([0]),
        pm.WeightedInterleave([0, 1]), pm.Node("1MiB"), pm.KERNELS["6.1"],
    ]  # fmt: skip


def studied(rng: random.Random) -> list[Any]:
    """Objects of traces and of automatic migration."""
    run = trace.Trace.from_accesses([rng.randrange(9) for _ in range(300)])
    run.save("t.pmt")
    hardware = auto.hardware(rng.choice(["cxl", "xeon"]))
    traffic = auto.Traffic.none(2, 2, len(hardware.nodes))
    demand = auto.Demand.from_counts([[3, 0, 1], [0, 2, 2]])
    seen: list[Any] = []

    class Looks(auto.Policy):
        needs = (auto.Samples(7), auto.Regions(), auto.AccessedBits(), auto.HintFaults(4))

        def epoch(self, view: auto.View) -> auto.Moves:
            seen[:] = [view]
            return auto.NO_MOVES

    plan = replay.Plan(run, epochs=3, machine=hardware)
    return [
        run, trace.TraceFile("t.pmt"), run.header, trace.LineCache(1 << 12, 4), hardware,
        hardware.prices, traffic, auto.price(traffic, hardware), demand,
        auto.optimum(demand, [[1.0, 3], [2, 1]], 5, [2, 9], steps=3), plan, plan.run(Looks()),
        *seen, replay.Conditions(), *[made() for made in auto.POLICIES.values()],
        auto.Samples(9), auto.Regions(), trace.columns.Ranks(), trace.columns.Sets(4, 2),
    ]  # fmt: skip


# ---- a call -----------------------------------------------------------------------------------


class Finding(Exception):
    """A call that ended as none may."""


def parameters(call: Any) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(call).parameters.values())
    except (ValueError, TypeError):
        return None


def arguments(
    call: Any, rng: random.Random, objects: list[Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments that a call can be made with, each sensible or hostile."""
    wild = rng.choice([0.1, 0.4, 0.9])
    found = parameters(call)
    if found is None:
        return [hostile(rng) for _ in range(rng.randrange(4))], {}
    args: list[Any] = []
    named: dict[str, Any] = {}
    for one in found:
        if one.kind in (one.VAR_KEYWORD,):
            continue
        if one.default is not one.empty and rng.random() < 0.6:
            if one.kind is not one.KEYWORD_ONLY:
                break  # those behind it go by their defaults, too
            continue
        value = hostile(rng) if rng.random() < wild else sensible(one.name, rng, objects)
        if one.kind is one.KEYWORD_ONLY:
            named[one.name] = value
        else:
            args.append(value)
    return args, named


def words_of(value: Any) -> str:
    """Repr of an argument, short, whatever its class does."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}: {type(error).__name__}>"
    return text if len(text) < 90 else text[:60] + f"...({len(text)})"


def is_promised(error: BaseException, call: Any, owner: Any) -> bool:
    """Whether a docstring of the call or of its class names the error."""
    text = f"{getattr(call, '__doc__', '') or ''} {getattr(type(owner), '__doc__', '') or ''}"
    kinds = [kind for kind in type(error).__mro__ if issubclass(kind, PROMISED)]
    return any(kind.__name__ in text for kind in kinds)


def from_outside(error: BaseException) -> bool:
    """Raised by an argument's own code, not by the package."""
    return "asked for a number" in str(error)


def tried(
    label: str, call: Any, owner: Any, args: list[Any], named: dict[str, Any], about: Any = None
) -> Any:
    """Make a call; its answer, None where it raised what it may. ``about`` has the docstring."""
    begin = time.thread_time()
    try:
        answer = call(*args, **named)
        if inspect.isgenerator(answer):
            answer = [one for _, one in zip(range(50), answer, strict=False)]
    except (*EXPECTED, pm.KernelBug):
        answer = None
    except Exception as error:
        if not from_outside(error) and not is_promised(error, about or call, owner):
            raise Finding(f"{label}: {type(error).__name__}: {error}") from error
        answer = None
    took = time.thread_time() - begin
    if took > SECONDS_A_CALL * PATIENCE:
        raise Finding(f"{label}: took {took:.1f} s")
    return answer


#: A sanitizer's build is that much slower.
PATIENCE = float(os.environ.get("ANYTHING_PATIENCE") or 1)


def ways(thing: Any, rng: random.Random) -> tuple[str, Any, list[Any] | None]:
    """A name of an object, what it calls, and its arguments where they are not to be drawn."""
    general: list[tuple[str, Any, list[Any]]] = [
        ("repr", repr, [thing]), ("str", str, [thing]), ("==", lambda o: o == o, [thing]),
        ("hash", hash, [thing]),
        ("copy", copy.copy, [thing]), ("deepcopy", copy.deepcopy, [thing]), ("len", len, [thing]),
        ("pickle", lambda o: pickle.loads(pickle.dumps(o)), [thing]), ("bool", bool, [thing]),
        ("iter", lambda o: [x for _, x in zip(range(20), o, strict=False)], [thing]),
        ("dir", dir, [thing]),
        ("getitem", lambda o, at: o[at], [thing, hostile(rng)]),
        ("eq", lambda o, x: o == x, [thing, hostile(rng)]),
        ("lt", lambda o, x: o < x, [thing, hostile(rng)]),
        ("contains", lambda o, x: x in o, [thing, hostile(rng)]),
        ("with", entered, [thing]), ("new", lambda o: type(o).__new__(type(o)), [thing]),
        ("reinit", lambda o: o.__init__(), [thing]),
    ]  # fmt: skip
    if rng.random() < 0.15:
        return rng.choice(general)
    names = [name for name in dir(thing) if name[0] != "_" and name not in NOT_CALLED]
    if not names:
        return rng.choice(general)
    name = rng.choice(names)
    written = not type(thing).__module__.startswith(STUDIED)  # those are Python all through
    if written and rng.random() < 0.05 and not callable(getattr(type(thing), name, None)):
        value = hostile(rng)
        return f"{name} = {words_of(value)}", lambda: setattr(thing, name, value), []
    return name, None, None


def entered(thing: Any) -> None:
    with thing:
        pass


def one_call(
    rng: random.Random, objects: list[Any], functions: list[Any], note: Callable[[str], None]
) -> None:
    """Draw a call, make it, and keep what it answers among the objects."""
    if rng.random() < (0.12 if len(functions) > 100 else 0.4):
        owner: Any = None
        call: Any = rng.choice(functions)
        label, args = call.__name__, None
    else:
        owner = rng.choice([o for o in objects if not isinstance(o, np.ndarray)])
        label, call, args = ways(owner, rng)
        label = f"{type(owner).__name__}.{label}"
    if call is None:
        name = label.split(".")[1]
        note(label)
        value = tried(
            label,
            partial(getattr, owner, name),
            owner,
            [],
            {},
            about=getattr(type(owner), name, None),
        )
        if not callable(value):
            keep(objects, value, rng)
            return
        call = value
    named: dict[str, Any] = {}
    if args is None:
        args, named = arguments(call, rng, objects)
    shown = [words_of(one) for one in args] + [f"{k}={words_of(v)}" for k, v in named.items()]
    label = f"{label}({', '.join(shown)})"
    note(label)
    keep(objects, tried(label, call, owner, args, named), rng)


def keep(objects: list[Any], value: Any, rng: random.Random) -> None:
    """An object of the package takes part from now on, in the place of another."""
    if isinstance(value, (list, tuple)) and value and len(value) < 100:
        value = rng.choice(value)
    ours = type(value).__module__.startswith("pagemig") or isinstance(value, np.ndarray)
    if ours and not (isinstance(value, np.ndarray) and value.nbytes > 1 << 24):
        if len(objects) < 90:
            objects.append(value)
        else:
            objects[rng.randrange(len(objects))] = value


def whole(objects: list[Any]) -> None:
    for machine in [o for o in objects if isinstance(o, pm.Machine)][:3]:
        machine.at_step(None)
        machine.check(full=True)


def run_seed(seed: int, calls: int, note: Callable[[str], None]) -> None:
    """Make the calls of a seed."""
    rng = random.Random(seed)
    functions = public()
    if seed % 3 == 2:
        objects = studied(rng) + other_objects(rng)
        functions = [one for one in functions if one.__module__.startswith(STUDIED)]
    else:
        objects = machine_of(rng) + other_objects(rng) + gone(rng)
    for _ in range(calls):
        one_call(rng, objects, functions, note)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if peak > PEAK + MOST_KIB:
            raise Finding(f"{peak >> 10} MiB of memory")
        if rng.random() < 0.05:
            note("check")
            whole(objects)
    note("check")
    whole(objects)


PEAK = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def work(first: int, seeds: int, calls: int, until: float) -> int:
    """Run seeds in this process, below a folder of its own; say which,
    and each call before it is made."""
    warnings.simplefilter("ignore")
    log = sys.stdout

    def note(label: str) -> None:
        print(label.encode("ascii", "replace").decode(), file=log, flush=True)

    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nothing:
        os.chdir(folder)
        sys.stdout = nothing
        try:
            for seed in range(first, first + seeds):
                if time.monotonic() > until:
                    break
                faulthandler.dump_traceback_later(SECONDS_A_SEED * PATIENCE, exit=True)
                note(f"# seed {seed}")
                run_seed(seed, calls, note)
                faulthandler.cancel_dump_traceback_later()
        finally:
            sys.stdout = log
            os.chdir("/")
    return 0


def outside(first: int, seeds: int, calls: int, seconds: float) -> tuple[int, int, str, str]:
    """Run seeds in a process of its own: how it ended, the last seed, its last call,
    and what was said."""
    command = [sys.executable, __file__, "--work", str(first), "--seeds", str(seeds)]
    command += ["--calls", str(calls), "--seconds", str(seconds)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    lines = ended.stdout.strip().splitlines() or [""]
    last = max((int(line[7:]) for line in lines if line.startswith("# seed ")), default=first)
    return ended.returncode, last, lines[-1], ended.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description="call everything with anything")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=int(time.time()))
    parser.add_argument("--seeds", type=int, default=1 << 40)
    parser.add_argument("--calls", type=int, default=CALLS_A_SEED)
    parser.add_argument("--work", type=int, help="run seeds from this one on in this process")
    chosen = parser.parse_args()
    until = time.monotonic() + chosen.seconds
    if chosen.work is not None:
        return work(chosen.work, chosen.seeds, chosen.calls, until)
    seed, found = chosen.first, 0
    end = chosen.first + chosen.seeds
    while seed < end and (left := until - time.monotonic()) > 0:
        status, last, call, said = outside(seed, end - seed, chosen.calls, left)
        if status:
            found += 1
            print(f"# seed {last} ended with {status} in {call}\n{said}", flush=True)
        seed = last + 1
    print(f"# seeds {chosen.first} to {seed - 1}: {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")
    sys.exit(main())
