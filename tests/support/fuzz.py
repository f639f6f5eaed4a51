"""Random calls over the whole surface, a second record of what memory holds, and a shrinker.

``python tests/support/fuzz.py --seconds 600`` runs seed after seed in a process of its own, so
that a crash or a hang is a finding like any other. A finding is shrunk and printed as a script
that runs with pagemig alone.

A step is source text: an object, a method, and the text of each argument. Machines, processes,
files, pins, migrations in steps and contexts have names (``m``, ``p0``, ``f1``, ``h2``, ``g3``,
``c4``); a step whose names are empty is passed over, which lets the shrinker leave out any step.
Migrations stay open from step to step, and so do contexts with the calls of the table that wait, so
that any other call comes in between; at times the machine is saved with them, and the steps go on
with the loaded one. The shadow keeps what every page must
hold: for shared pages by inode and index, for private ones by process and page. It takes the
layout from ``vmas()`` and the values from nowhere but the steps.
"""

import argparse
import copy
import dataclasses
import faulthandler
import operator
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import pagemig as pm

sys.path.insert(0, str(Path(__file__).parents[1]))  # it runs alone, too
from support import table
from support.table import RESUMED, WAIT, Host, anything_stands

PAGE = pm.PAGE_SIZE
#: Half of it on either side of the border between two leaves.
ARENA = (1 << 40) + (512 - 20) * PAGE
ARENA_PAGES = 40
#: The last pages of the address space.
TOP = (1 << 47) - 8 * PAGE
PROCESSES, FILES, PINS, MIGRATIONS, HOSTS = 5, 3, 4, 4, 4
MOST_FRAMES = 4 * 128  # of a machine: no call writes more pages of a file
VM_PFNMAP, VM_WIPEONFORK = 0x400, 0x2000000
STEPS_A_SEED = 200
SECONDS_A_SEED = 120
MOST_ROUNDS = 100  # until all that waits is over: `offline` makes ten passes
UNKNOWN = None  # a call failed half-way: the next read says what it is

#: What a page must hold: a value, one of several after a write that may have been done, or UNKNOWN.
Held = int | frozenset[int] | None


# ---- steps ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """``out = obj.method(args)``; ``inner`` is what a hook calls."""

    obj: str
    method: str
    args: dict[str, str] = field(default_factory=dict)
    out: str = ""
    inner: "Step | None" = None

    def text(self) -> str:
        called = ", ".join(f"{name}={value}" for name, value in self.args.items())
        if self.inner is not None:
            called = f"once({', '.join(self.args.values())}, {self.inner.text()!r})"
        text = f"{self.obj}.{self.method}({called})"
        if self.method in FUNCTIONS:
            text = f"{self.method}({self.obj}, {called})"
        return f"{self.out + ' = ' if self.out else ''}{text}"


class Index:
    """A number that answers to ``__index__`` only."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"Index({self.value})"


class Refusing:
    """An object that raises when it is asked for its number."""

    def __index__(self) -> int:
        raise ZeroDivisionError("asked for a number")


def odd(values: list[int], kind: str) -> np.ndarray:
    """The numbers in an array that begins at an odd address."""
    plain = np.array(values, dtype=kind)
    raw = np.zeros(plain.nbytes + 1, np.uint8)
    odd_view: np.ndarray = raw[1:].view(plain.dtype)
    odd_view[:] = plain
    return odd_view


#: Steps that are functions of an object.
FUNCTIONS = ("go_on", "Host")
#: What steps call beside pagemig, and the class `Host`; scripts have it, too.
HELPERS = '''\
def once(machine, act):
    """A hook that acts the first time it is called outside another."""
    def hook(name, pfns):
        if Host.hooked:
            return
        machine.at_step(None)
        Host.hooked = 1
        try:
            act()
        finally:
            Host.hooked = 0

    return hook


def copied(machine, way):
    """Copy a machine one way or another."""
    if way == "copy":
        return machine.copy()
    if way == "pickle":
        return pickle.loads(pickle.dumps(machine))
    with tempfile.TemporaryDirectory() as folder:
        machine.save(folder + "/saved")
        return pm.Machine.load(folder + "/saved")


def renamed(names, machine):
    """Let names of a machine's parts mean those of its copy; a process that was reaped has none."""
    its_own = {move._flight.handle: move for move in machine.migrations}
    moves = {move: its_own.get(move._flight.handle) for move in names["m"].migrations}
    for name, its in list(names.items()):
        if isinstance(its, pm.Process):
            names[name] = next((p for p in machine.processes if p.pid == its.pid), None)
        elif isinstance(its, pm.File) and not its.closed:
            names[name] = pm.File._of(machine, its.index, its.kind, its.path)
        elif isinstance(its, pm.Pin):
            names[name] = dataclasses.replace(its, machine=machine)
        elif isinstance(its, pm.Migration):
            names[name] = moves.get(its)
        elif isinstance(its, Host):
            names[name] = None
        if names[name] is None:
            del names[name]
    names["m"] = machine


def ended(machine, how):
    """End all migrations; one may wait until another has ended, but never all of them."""
    left = len(machine.migrations) + 1
    while 0 < len(machine.migrations) < left:
        left = len(machine.migrations)
        for move in machine.migrations:
            try:
                getattr(move, how)()
            except (OSError, RuntimeError, TypeError, ValueError):  # also of a migrate operation
                machine.check()
    if machine.migrations:
        raise AssertionError("migrations wait for each other")


def go_on(machine, names, way, how, stay):
    """Copy a machine, end the migrations of one, and go on with the other; return the ended one."""
    over, other = copied(machine, way), machine
    moves = machine.migrations  # one whose last name goes is aborted
    if not stay:
        machine.at_step(None)  # its hook would mean the other one's names
        renamed(names, over)
        over, other = other, over
    ended(over, how)
    del moves
    over.check(full=True)
    other.check(full=True)
    return over
'''
HELPERS_HERE: dict[str, Any] = {
    "dataclasses": dataclasses, "pickle": pickle, "pm": pm, "tempfile": tempfile, "Host": Host
}  # fmt: skip
exec(HELPERS, HELPERS_HERE)

#: What a call says that would wait for a migration, or that a hook makes in its own step.
WAITS = (
    "waits for a migration that is under way", "the migration waits for",
    "another thread is stepping this migration", "a hook made a call that waits",
    "the context is in a call that waits",
)  # fmt: skip

HOSTILE = (
    "-1", "0", "1", "7", "2**31 - 1", "2**31", "2**32 - 1", "2**32", "2**47", "2**63 - 1",
    "2**63", "2**64 - 1", "2**64", "2**70", "-2**63", "-2**31", "None", "'x'", "''", "1.5",
    "float('nan')", "b'1'", "[]", "()", "{}", "[1, 'x']", "[-1]", "[2**70]", "True", "object()",
    "np.array(5)", "np.int8(-3)", "np.uint64(2**63)", "np.zeros((2, 2), int)", "np.array([1.5])",
    "np.array([1, 2], '>i4')", "np.arange(8)[::2]", "Index(3)", "Index(2**65)", "Refusing()",
    "range(3)", "iter([1, 2])", "pm.NULL", "pm.BAD", "p0", "f0", "m", "odd([1, 2, 3], 'u8')",
    "odd([1, 0, 1], 'i4')", "np.array([], dtype=np.uint64)",

)  # fmt: skip

#: Calls of a host that need no process, and change what a file holds.
FILE_CALLS = ("ftruncate", "punch_hole")
#: What a host passes instead of a number.
WORDS = (
    "-1", "0", "1", "7", "2**31", "2**32 - 1", "2**32", "2**47", "2**63", "2**64 - 1", "2**70",
    "None", "'x'", "1.5", "Index(3)", "Refusing()",
)  # fmt: skip
#: Arguments of a host's calls that are numbers.
NUMBERS = frozenset({
    "va", "length", "prot", "flags", "offset", "new_length", "new_va", "advice", "n", "index",
    "pages", "node", "device", "uid", "mode", "cpu",
})  # fmt: skip


class Draw:
    """Draw steps; what is drawn depends on the seed alone."""

    def __init__(
        self, rng: random.Random, nodes: int, frames: int, profile: pm.KernelProfile
    ) -> None:
        self.rng, self.nodes, self.frames, self.profile = rng, nodes, frames, profile
        self.token = rng.randrange(1 << 40) << 20
        self.weighted: list[tuple[float, Callable[[], Step]]] = [
            (1, self.spawn), (3, self.fork), (1, self.exit), (0.5, self.reap),
            (0.5, self.setuid), (0.5, self.cpu), (8, self.mmap), (4, self.munmap),
            (3, self.mprotect), (4, self.mremap), (3, self.mlock), (2, self.munlock),
            (1, self.mlockall), (0.5, self.munlockall), (6, self.madvise), (16, self.write),
            (10, self.read), (4, self.access), (3, self.pin), (3, self.unpin), (2, self.file),
            (1, self.close), (4, self.fwrite), (4, self.fread), (2, self.ftruncate),
            (2, self.punch), (2, self.fadvise), (10, self.move_pages), (4, self.migrate_pages),
            (6, self.mbind), (2, self.set_mempolicy), (2, self.get_mempolicy),
            (0.5, self.home_node), (4, self.migrate_frames), (2, self.offline), (2, self.online),
            (1, self.migrate_range), (5, self.hook), (0.5, self.hook_off), (3, self.look),
            (0.5, self.memlock), (0.5, self.mmap_pfns), (0.5, self.vm_ops), (1, self.tracing),
            (0.5, self.width), (8, self.start), (24, self.stop), (2, self.end), (0.5, self.go_on),
            (4, self.host), (1, self.host_close), (1, self.host_bind), (40, self.host_call),
            (14, self.host_again),
        ]  # fmt: skip
        if profile.four_lists:
            self.weighted.append((4, self.migrate_lists))
        if profile.swap:
            self.weighted += [(6, self.swap_out), (1, self.swapoff), (2, self.swapon)]

    def step(self) -> Step:
        weights, makers = zip(*self.weighted, strict=True)
        step = self.rng.choices(makers, weights)[0]()
        if step.obj[0] == "c" and self.rng.random() < 0.06:
            names = [name for name in step.args if name in NUMBERS]
            if names and "addresses" not in step.args and step.args.get("pages", "0")[0] != "[":
                name = self.rng.choice(names)
                step = replace(step, args=step.args | {name: self.rng.choice(WORDS)})
        elif (
            step.args
            and step.obj[0] != "c"
            and step.inner is None
            and step.method not in ("setattr", "go_on", "Host")
            and self.rng.random() < 0.06
        ):
            name = self.rng.choice(list(step.args))
            if name != "max_passes":  # as many as are asked for take as long as they take
                step = replace(step, args=step.args | {name: self.rng.choice(HOSTILE)})
        return step

    # ---- parts of steps

    def p(self) -> str:
        return f"p{self.rng.randrange(PROCESSES)}"

    def f(self) -> str:
        return f"f{self.rng.randrange(FILES)}"

    def flag(self, chance: float = 0.5) -> bool:
        return self.rng.random() < chance

    def addr(self) -> str:
        if self.flag(0.04):
            return hex(TOP + self.rng.randrange(8) * PAGE)
        at = ARENA + self.rng.randrange(ARENA_PAGES) * PAGE
        return hex(at + (self.rng.randrange(1, PAGE) if self.flag(0.02) else 0))

    def length(self) -> str:
        if self.flag(0.02):
            return self.rng.choice(["0", "2**30", "2**40", "2**47", "2**48 - 4096", "2**63"])
        n = self.rng.choice([1, 1, 2, 3, 5, 8, 16, 24])
        return str(n * PAGE - (self.rng.randrange(1, PAGE) if self.flag(0.05) else 0))

    def range(self) -> dict[str, str]:
        return {"addr": self.addr(), "length": self.length()}

    def nids(self) -> list[int]:
        most = self.nodes + (1 if self.flag(0.1) else 0)
        return sorted(self.rng.sample(range(most), self.rng.randint(1, most)))

    def policy(self) -> str:
        kind = self.rng.choice(
            [
                "Bind",
                "Interleave",
                "Preferred",
                "PreferredMany",
                "Local",
                "Default",
                "WeightedInterleave",
            ]
        )
        if kind in ("Local", "Default"):
            return f"pm.{kind}()"
        if kind == "Preferred":
            return f"pm.Preferred({self.rng.randrange(self.nodes)})"
        return f"pm.{kind}({self.nids()})"

    def flags(self) -> str:
        return self.rng.choice(["0", "1", "2", "2", "3", "4", "6", "7"])

    def value(self) -> int:
        self.token += 1
        return self.token

    def g(self) -> str:
        return f"g{self.rng.randrange(MIGRATIONS)}"

    def pid(self) -> dict[str, str]:
        return {"pid": self.p()} if self.flag(0.3) else {}

    # ---- steps

    def beginning(self) -> list[Step]:
        """Processes with memory in most of the arena, which most calls would miss otherwise."""
        steps = [replace(self.file(), out=f"f{k}") for k in range(FILES)]
        for p in ("p0", "p1"):
            border = self.rng.randrange(ARENA_PAGES + 1)
            steps.append(Step("m", "spawn", {}, p))
            for first, pages in ((0, border), (border, ARENA_PAGES - border)):
                addr = {"addr": hex(ARENA + first * PAGE)}
                length = {"length": str(pages * PAGE)}
                values = str([self.value() for _ in range(pages)])
                write = {"write": "True", "values": values}
                steps.append(replace(self.mmap(), obj=p))
                steps[-1] = replace(steps[-1], args=steps[-1].args | addr | length)
                steps.append(Step(p, "touch", addr | length | write))
        for k, p in enumerate(("p0", "p1", "p0")):
            if self.flag(0.7):
                steps.append(replace(self.host(), obj=p, out=f"c{k}"))
        width = Step("m", "setattr", {"width": self.rng.choice(["1", "2", "5", "64"])})
        return [*steps, Step("p0", "fork", {}, "p2"), width]

    def spawn(self) -> Step:
        return Step("m", "spawn", {"uid": "1000"} if self.flag(0.2) else {}, self.p())

    def fork(self) -> Step:
        return Step(self.p(), "fork", {}, self.p())

    def exit(self) -> Step:
        return Step(self.p(), "exit", {"zombie": str(self.flag())})

    def reap(self) -> Step:
        return Step(self.p(), "reap")

    def setuid(self) -> Step:
        return Step(
            self.p(),
            "setuid",
            {"uid": self.rng.choice(["0", "1000"]), "dumpable": str(self.flag())},
        )

    def cpu(self) -> Step:
        return Step(self.p(), "setattr", {"cpu": str(self.rng.randrange(3))})

    def mmap(self) -> Step:
        args = {
            "length": self.length(),
            "prot": repr(self.rng.choice(["rw", "rw", "rw", "r", "", "rwx"])),
        }
        if self.flag(0.9):
            args["addr"] = self.addr()
        if self.flag(0.4):
            args["file"] = self.f()
            args["offset"] = str(self.rng.randrange(8) * PAGE)
        args["shared"] = str(self.flag())
        for word, chance in (("populate", 0.2), ("locked", 0.1), ("noreplace", 0.05)):
            if self.flag(chance):
                args[word] = "True"
        return Step(self.p(), "mmap", args)

    def munmap(self) -> Step:
        return Step(self.p(), "munmap", self.range())

    def mprotect(self) -> Step:
        return Step(
            self.p(),
            "mprotect",
            self.range() | {"prot": repr(self.rng.choice(["rw", "rw", "r", "", "x"]))},
        )

    def mremap(self) -> Step:
        old = self.length() if self.flag(0.95) else "0"
        args = {
            "addr": self.addr(),
            "old_length": old,
            "new_length": self.rng.choice([old, self.length()]),
        }
        args["maymove"] = str(self.flag(0.8))
        if self.flag():
            args["new_addr"] = self.addr()
        if self.flag(0.15):
            args["dontunmap"] = "True"
        return Step(self.p(), "mremap", args)

    def mlock(self) -> Step:
        return Step(self.p(), "mlock", self.range() | {"onfault": str(self.flag(0.3))})

    def munlock(self) -> Step:
        return Step(self.p(), "munlock", self.range())

    def mlockall(self) -> Step:
        return Step(
            self.p(),
            "mlockall",
            {"current": str(self.flag()), "future": str(self.flag()), "onfault": str(self.flag())},
        )

    def munlockall(self) -> Step:
        return Step(self.p(), "munlockall")

    def madvise(self) -> Step:
        often = [
            "dontneed",
            "dontneed",
            "remove",
            "free",
            "wipeonfork",
            "dontfork",
            "populate_write",
            "populate_read",
        ]
        advice = self.rng.choice(often if self.flag(0.6) else list(pm.MADV_BY_NAME))
        return Step(self.p(), "madvise", self.range() | {"advice": repr(advice)})

    def write(self) -> Step:
        args = self.range() | {"write": "True"}
        if self.flag(0.8):
            n = self.rng.choice([1, 2, 4, 8])
            args["length"] = str(n * PAGE)
            args["addr"] = hex(int(args["addr"], 16) & -PAGE)
            args["values"] = str([self.value() for _ in range(n)])
        return Step(self.p(), "touch", args)

    def read(self) -> Step:
        return Step(self.p(), "touch", self.range())

    def access(self) -> Step:
        places = [
            ARENA + self.rng.randrange(ARENA_PAGES * PAGE)
            for _ in range(self.rng.choice([1, 3, 9, 70]))
        ]
        args = {"addresses": f"np.array({places}, np.uint64)", "deferred": str(self.flag())}
        args["write"] = (
            str(self.flag()) if self.flag() else f"np.array({[self.flag() for _ in places]})"
        )
        return Step(self.p(), "access", args)

    def pin(self) -> Step:
        args = {
            "addr": self.addr(),
            "length": self.length(),
            "how": repr(self.rng.choice(["pipe", "uring"])),
        }
        return Step(self.p(), "pin", args, f"h{self.rng.randrange(PINS)}")

    def unpin(self) -> Step:
        return Step(self.p(), "unpin", {"pin": f"h{self.rng.randrange(PINS)}"})

    def file(self) -> Step:
        kinds = ["tmpfs", "ramfs", "ext4", "minix"]  # the last is refused by kernels of today
        return Step(
            "m",
            "file",
            {"kind": repr(self.rng.choice(kinds)), "size": str(self.rng.randrange(16) * PAGE)},
            self.f(),
        )

    def close(self) -> Step:
        return Step(self.f(), "close")

    def fwrite(self) -> Step:
        args = {"file": self.f(), "page_offset": str(self.rng.randrange(12))}
        if self.flag():
            args |= {"values": str(self.value()), "n": self.rng.choice(["1", "2", "5"])}
        else:
            args["values"] = str([self.value() for _ in range(self.rng.randrange(1, 6))])
        return Step(self.p(), "fwrite", args)

    def fread(self) -> Step:
        args = {
            "file": self.f(),
            "page_offset": str(self.rng.randrange(12)),
            "n": self.rng.choice(["1", "4", "16", "2**40"]),
        }
        return Step(self.p(), "fread", args)

    def ftruncate(self) -> Step:
        return Step(
            self.p(), "ftruncate", {"file": self.f(), "size": str(self.rng.randrange(16) * PAGE)}
        )

    def hole(self) -> dict[str, str]:
        return {
            "file": self.f(),
            "offset": str(self.rng.randrange(12) * PAGE),
            "length": str(self.rng.randrange(6) * PAGE),
        }

    def punch(self) -> Step:
        return Step(self.p(), "punch", self.hole())

    def fadvise(self) -> Step:
        advice = repr(self.rng.choice(list(pm.FADV_BY_NAME)))
        return Step(self.p(), "fadvise", self.hole() | {"advice": advice, "sync": str(self.flag())})

    def move_pages(self) -> Step:
        n = self.rng.choice([1, 2, 6, 20, 40])
        pages = [ARENA + self.rng.randrange(ARENA_PAGES) * PAGE for _ in range(n)]
        if self.flag():
            pages = [ARENA + k * PAGE for k in range(n)]
        nodes = [self.rng.randrange(self.nodes) for _ in range(n)]
        args = {"pages": self.array(pages, "u8")}
        if self.flag(0.9):
            args["nodes"] = str(nodes[0]) if self.flag(0.6) else self.array(nodes, "i4")
        if self.flag(0.3):
            args["flags"] = self.rng.choice(["2", "4"])
        if self.flag(0.05):
            args["count"] = str(self.rng.randrange(50))
        return Step(self.p(), "move_pages", args | self.pid())

    def array(self, values: list[int], kind: str) -> str:
        ways = [
            str(values),
            f"np.array({values}, '{kind}')",
            f"odd({values}, '{kind}')",
            f"np.array({values}, '>{kind}')",
        ]
        return self.rng.choice(ways)

    def migrate_pages(self) -> Step:
        return Step(
            self.p(),
            "migrate_pages",
            {"from_nodes": str(self.nids()), "to_nodes": str(self.nids())} | self.pid(),
        )

    def mbind(self) -> Step:
        return Step(
            self.p(), "mbind", self.range() | {"policy": self.policy(), "flags": self.flags()}
        )

    def start(self) -> Step:
        makers = [self.move_pages, self.migrate_pages, self.mbind, self.migrate_frames]
        call = self.rng.choice(makers)()
        return Step(call.obj, "start_" + call.method, call.args, self.g())

    def stop(self) -> Step:
        return Step(self.g(), "step")

    def end(self) -> Step:
        return Step(self.g(), self.rng.choice(["finish", "abort"]))

    def go_on(self) -> Step:
        args = {
            "names": "globals()",
            "way": repr(self.rng.choice(["copy", "pickle", "file"])),
            "how": repr(self.rng.choice(["finish", "abort"])),
            "stay": str(self.flag()),
        }
        return Step("m", "go_on", args)

    # ---- contexts

    def c(self) -> str:
        return f"c{self.rng.randrange(HOSTS)}"

    def host(self) -> Step:
        args = {"cpu": str(self.rng.randrange(2)), "owns_time": str(self.flag(0.8))}
        return Step(self.p(), "Host", args, self.c())

    def host_close(self) -> Step:
        return Step(self.c(), "close")

    def host_bind(self) -> Step:
        process = "None" if self.flag(0.6) else self.p()
        return Step(self.c(), "bind", {"process": process, "cpu": "0"})

    def host_again(self) -> Step:
        return Step(self.c(), "again")

    def va(self) -> dict[str, str]:
        return {"va": self.addr(), "length": self.length()}

    def host_call(self) -> Step:
        makers = (self.host_memory, self.host_memory, self.host_pages, self.host_pages,
                  self.host_access, self.host_file, self.host_step)  # fmt: skip
        return replace(self.rng.choice(makers)(), obj=self.c())

    def host_memory(self) -> Step:
        method = self.rng.choice([
            "mmap", "mmap", "munmap", "mprotect", "mremap", "mremap", "madvise", "madvise",
            "madvise", "mlock", "munlock", "mlockall", "munlockall", "fork", "exit", "setuid",
        ])  # fmt: skip
        if method == "fork":
            return Step("", method, {}, self.p())
        if method in ("exit", "munlockall"):
            return Step("", method)
        if method == "mlockall":
            return Step("", method, {"flags": str(self.rng.randrange(8))})
        if method == "setuid":
            return Step("", method, {"uid": self.rng.choice(["0", "1000"])})
        args = self.va()
        if method == "mmap":
            fixed, shared = self.rng.choice([0, 0x10, 0x10, 0x100010]), self.rng.choice([1, 2])
            args["prot"] = self.rng.choice(["3", "3", "3", "1", "0"])
            more = self.rng.choice([0, 0, 0x8000, 0x8000, 0x2000])
            if self.flag(0.4):
                args |= {"file": self.f(), "offset": str(self.rng.randrange(8) * PAGE)}
                args["flags"] = str(fixed | shared | more)
            else:
                args["flags"] = str(fixed | shared | more | 0x20)
        elif method == "mprotect":
            args["prot"] = self.rng.choice(["3", "3", "1", "0"])
        elif method == "mremap":
            args["new_length"] = self.rng.choice([args["length"], self.length()])
            args["flags"] = self.rng.choice(["0", "1", "1", "3", "3", "5", "7"])
            args["new_va"] = self.addr()
        elif method == "madvise":
            often = [4, 4, 9, 8, 18, 10, 22, 23]
            advice = self.rng.choice(often if self.flag(0.6) else list(pm.MADV_BY_NAME.values()))
            args["advice"] = str(advice)
        return Step("", method, args)

    def host_pages(self) -> Step:
        kinds = ["move_pages", "migrate_pages", "mbind", "migrate_frames", "set_mempolicy", "pin"]
        kind = self.rng.choice(kinds)
        out = ""
        if kind == "move_pages":
            first, n = self.rng.randrange(ARENA_PAGES), self.rng.choice([1, 2, 6, 20, 40])
            nodes = self.rng.choice([str(self.rng.randrange(self.nodes)), "None"])
            args = {"pages": str([ARENA + (first + k) * PAGE for k in range(n)]), "nodes": nodes}
            args["flags"] = self.rng.choice(["2", "2", "4"])
        elif kind == "migrate_pages":
            args = {"from_nodes": str(self.nids()), "to_nodes": str(self.nids())}
        elif kind == "mbind":
            args = self.va() | {"mode": self.rng.choice(["0", "1", "2", "2", "3"])}
            args |= {"nodes": str(self.nids()), "flags": self.flags()}
        elif kind == "migrate_frames":
            pfns = self.pfns()
            nodes = str([self.rng.randrange(self.nodes) for _ in pfns])
            args = {"pfns": str(pfns), "nodes": nodes}
        elif kind == "set_mempolicy":
            args = {"mode": self.rng.choice(["0", "1", "2", "3"]), "nodes": str(self.nids())}
        else:
            n = {"n": str(self.rng.randrange(1, 20)), "longterm": str(self.flag())}
            return Step("", "pin", {"va": self.addr()} | n, f"h{self.rng.randrange(PINS)}")
        if kind not in ("set_mempolicy",) and self.flag(0.3):
            kind, out = "start_" + kind, self.g()
        return Step("", kind, args, out)

    def host_access(self) -> Step:
        if self.flag(0.3):
            return Step("", "look", {"va": self.addr()})
        if self.flag():
            return Step("", "access", {"va": self.addr(), "write": str(self.flag())})
        n = self.rng.choice([1, 3, 9, 70])
        places = [ARENA + self.rng.randrange(ARENA_PAGES * PAGE) for _ in range(n)]
        write = f"np.array({[self.flag() for _ in places]})" if self.flag() else "None"
        return Step(
            "", "access_many", {"addresses": f"np.array({places}, np.uint64)", "write": write}
        )

    def host_file(self) -> Step:
        kind = self.rng.choice(["ftruncate", "ftruncate", "punch_hole", "punch_hole", "unpin",
                                "offline", "online", "swapoff", "swapon"])  # fmt: skip
        if kind == "ftruncate":
            return Step("", kind, {"file": self.f(), "pages": str(self.rng.randrange(16))})
        if kind == "punch_hole":
            hole = {"index": str(self.rng.randrange(12)), "n": str(self.rng.randrange(6))}
            return Step("", kind, {"file": self.f()} | hole)
        if kind == "unpin":
            return Step("", kind, {"pin": f"h{self.rng.randrange(PINS)}"})
        if kind in ("swapoff", "swapon"):
            return Step("", kind, {"device": str(self.rng.randrange(2))})
        return Step("", kind, {"node": str(self.rng.randrange(self.nodes))})

    def host_step(self) -> Step:
        if self.flag(0.8):
            return Step("", "step", {"move": self.g()})
        return Step("", "end", {"move": self.g(), "abort": str(self.flag())})

    def set_mempolicy(self) -> Step:
        return Step(self.p(), "set_mempolicy", {"policy": self.policy()})

    def get_mempolicy(self) -> Step:
        return Step(self.p(), "get_mempolicy", {"flags": self.flags(), "addr": self.addr()})

    def home_node(self) -> Step:
        return Step(
            self.p(),
            "set_mempolicy_home_node",
            self.range() | {"node": str(self.rng.randrange(self.nodes))},
        )

    def pfns(self) -> list[int]:
        return [self.rng.randrange(self.frames) for _ in range(self.rng.choice([1, 4, 30]))]

    def migrate_frames(self) -> Step:
        pfns = self.pfns()
        nodes = [self.rng.randrange(self.nodes) for _ in pfns]
        return Step(
            "m",
            "migrate_frames",
            {"pfns": self.array(pfns, "u4"), "nodes": self.array(nodes, "i4")},
        )

    def migrate_lists(self) -> Step:
        node = str(self.rng.randrange(self.nodes)) if self.flag(0.8) else "None"
        return Step("m", "migrate_lists", {"pfns": self.array(self.pfns(), "u4"), "node": node})

    def emptying(self) -> dict[str, str]:
        keep = self.rng.choice(["refcount", "rcu", "mmap_lock", "trylock"])
        args = {"max_passes": self.rng.choice(["1", "3", "10"]), "keep": repr(keep)}
        return args | ({"holder": self.p()} if keep == "mmap_lock" else {})

    def offline(self) -> Step:
        return Step("m", "offline", {"nid": str(self.rng.randrange(self.nodes))} | self.emptying())

    def online(self) -> Step:
        return Step("m", "online", {"nid": str(self.rng.randrange(self.nodes))})

    def migrate_range(self) -> Step:
        first = {
            "first_pfn": str(self.rng.randrange(self.frames)),
            "n": str(self.rng.randrange(1, 40)),
        }
        return Step("m", "migrate_range", first | self.emptying())

    def hook(self) -> Step:
        makers = [
            self.munmap, self.write, self.read, self.fork, self.exit, self.ftruncate,
            self.punch, self.madvise, self.mremap, self.mprotect, self.move_pages, self.pin,
            self.unpin, self.offline, self.fwrite, self.mbind, self.migrate_pages, self.spawn,
            self.mlock, self.close, self.start, self.stop, self.stop, self.end, self.go_on,
            self.host_call, self.host_call, self.host_again, self.host_close, self.host,
        ]  # fmt: skip
        inner = self.rng.choice(makers)()
        return Step("m", "at_step", {"step": str(self.rng.randrange(1, 10))}, inner=inner)

    def hook_off(self) -> Step:
        return Step("m", "at_step", {"hook": "None"})

    def look(self) -> Step:
        calls = [
            Step(self.p(), word) for word in ("numa_maps", "smaps", "vmas", "status", "__repr__")
        ]
        calls += [Step(self.p(), "pagemap", {"addr": self.addr(), "n": "40"})]
        calls += [Step(self.p(), "access_counts", {"addr": self.addr(), "n": "40"})]
        calls += [
            Step("m", "mappings", {"pfn": str(self.rng.randrange(self.frames))}),
            Step("m", "__repr__"),
        ]
        calls += [Step("m", "node_of", {"pfns": str(self.pfns())}), Step("m", "free", {"nid": "0"})]
        return self.rng.choice(calls)

    def memlock(self) -> Step:
        return Step(self.p(), "limit_memlock", {"size": str(self.rng.choice([0, 4, 64]) * PAGE)})

    def mmap_pfns(self) -> Step:
        return Step(self.p(), "mmap_pfns", {"pfns": str(list(range(self.rng.randint(1, 3))))})

    def vm_ops(self) -> Step:
        migrate = self.rng.choice(["None", "answer(0)", "answer(-16)", "answer(2)", "answer('x')"])
        return Step(self.p(), "set_vm_ops", {"addr": self.addr(), "migrate": migrate})

    def tracing(self) -> Step:
        return Step("m", "setattr", {"tracing": str(self.flag())})

    def width(self) -> Step:
        return Step("m", "setattr", {"width": self.rng.choice(["1", "2", "64"])})

    def swap_out(self) -> Step:
        return Step("m", "swap_out", {"pfns": self.array(self.pfns(), "u4")})

    def swapoff(self) -> Step:
        return Step("m", "swapoff", {"device": str(self.rng.randrange(2))})

    def swapon(self) -> Step:
        return Step("m", "swapon", {"device": str(self.rng.randrange(2))})


# ---- the shadow -------------------------------------------------------------------------------


class Wrong(AssertionError):
    """A page does not hold what was written to it."""


def up(value: int) -> int:
    """Pages of a length, as PAGE_ALIGN has it: the largest lengths come out as none."""
    return (value + PAGE - 1) % (1 << 64) // PAGE


class Shadow:
    """What memory must hold."""

    def __init__(self) -> None:
        self.shared: dict[tuple[int, int], Held] = {}  # now, by inode and index; 0 where absent
        self.ever: dict[tuple[int, int], set[int]] = {}  # for private pages nobody has written
        self.private: dict[int, dict[int, Held]] = {}  # by pid and page: written there

    def own(self, p: pm.Process) -> dict[int, Held]:
        return self.private.setdefault(p.pid, {})

    def drop(self, p: pm.Process, start: int, end: int, *, failed: bool = False) -> None:
        """Private pages of a range of page numbers go; after a failure nobody knows which."""
        own = self.own(p)
        for vpn in [vpn for vpn in own if start <= vpn < end]:
            if failed:
                own[vpn] = UNKNOWN
            else:
                del own[vpn]

    def clear(self, ino: int, first: int, end: int, *, failed: bool = False) -> None:
        for key in [key for key in self.shared if key[0] == ino and first <= key[1] < end]:
            self.shared[key] = UNKNOWN if failed else 0

    def store(self, ino: int, index: int, value: int, *, maybe: bool = False) -> None:
        now = self.shared.get((ino, index), 0)
        self.shared[ino, index] = either(now, value) if maybe else value
        self.ever.setdefault((ino, index), {0}).add(value)

    def write(
        self, p: pm.Process, vmas: list[pm.Vma], vpn: int, value: int, *, maybe: bool = False
    ) -> None:
        vma, own = vma_at(vmas, vpn), self.own(p)
        key = (vma.inode, vma.offset // PAGE + vpn - vma.start // PAGE)
        if vma.file and vma.perms[3] == "s":
            self.store(*key, value, maybe=maybe)
        elif not maybe:
            own[vpn] = value
        elif vpn in own or not vma.file:
            own[vpn] = either(own.get(vpn, 0), value)
        else:  # until then it holds what the file holds, or held
            own[vpn] = UNKNOWN

    def read(self, p: pm.Process, vmas: list[pm.Vma], vpn: int, value: int) -> None:
        vma = vma_at(vmas, vpn)
        own = self.own(p)
        key = (vma.inode, vma.offset // PAGE + vpn - vma.start // PAGE)
        if vma.flags & VM_PFNMAP:
            return
        if vma.file and vma.perms[3] == "s":
            self.read_file(*key, value)
        elif vpn in own:
            if not agrees(own[vpn], value):
                raise Wrong(f"page {vpn:#x} of {p!r} reads {value:#x}, written {shown(own[vpn])}")
            if own[vpn] is not UNKNOWN or not vma.file:  # else it may be the file's, which changes
                own[vpn] = value
        elif value not in (self.ever.get(key, {0}) if vma.file else {0}):
            raise Wrong(f"page {vpn:#x} of {p!r}, never written, reads {value:#x}")

    def read_file(self, ino: int, index: int, value: int) -> None:
        expected = self.shared.get((ino, index), 0)
        if not agrees(expected, value):
            raise Wrong(f"page {index} of inode {ino} reads {value:#x}, written {shown(expected)}")
        if expected is UNKNOWN or isinstance(expected, frozenset):
            self.shared[ino, index] = value

    def move(
        self,
        p: pm.Process,
        vmas: list[pm.Vma],
        old: int,
        old_pages: int,
        new: int,
        new_pages: int,
    ) -> None:
        """Pages of a range go elsewhere; where the range has gaps, the target keeps its own."""
        own = self.own(p)
        moved = {vpn - old: own.pop(vpn) for vpn in list(own) if old <= vpn < old + old_pages}
        for k in [vpn - new for vpn in own if new != old and new <= vpn < new + new_pages]:
            if k >= old_pages or is_mapped(vmas, old + k):
                del own[new + k]
        own.update({new + k: value for k, value in moved.items() if k < new_pages})

    def may_move(self, p: pm.Process, old: int, new: int, pages: int) -> None:
        """Some of a range may have gone before a call failed."""
        own = self.own(p)
        there = {vpn - old for vpn in own if old <= vpn < old + pages}
        there |= {vpn - new for vpn in own if new <= vpn < new + pages}
        for k in there:
            own[new + k] = UNKNOWN
            if old + k in own:
                own[old + k] = UNKNOWN

    def fork(self, parent: pm.Process, child: pm.Process) -> None:
        vmas = [v for v in child.vmas() if not v.flags & VM_WIPEONFORK]
        inside = lambda vpn: any(v.start <= vpn * PAGE < v.end for v in vmas)  # noqa: E731
        self.private[child.pid] = {
            vpn: value for vpn, value in self.own(parent).items() if inside(vpn)
        }


def either(held: Held, value: int) -> Held:
    """What a page holds after a write of a value that may not have been done."""
    if held is UNKNOWN:
        return UNKNOWN
    return (held if isinstance(held, frozenset) else frozenset({held})) | {value}


def agrees(held: Held, value: int) -> bool:
    return held is UNKNOWN or value == held or (isinstance(held, frozenset) and value in held)


def shown(held: Held) -> str:
    return f"{held:#x}" if isinstance(held, int) else str(held)


def is_mapped(vmas: list[pm.Vma], vpn: int) -> bool:
    return any(v.start <= vpn * PAGE < v.end for v in vmas)


def vma_at(vmas: list[pm.Vma], vpn: int) -> pm.Vma:
    return next(v for v in vmas if v.start <= vpn * PAGE < v.end)


# ---- running ----------------------------------------------------------------------------------


def machine_text(rng: random.Random, kernel: str) -> str:
    nodes = []
    for _ in range(rng.choice([1, 2, 3, 3, 4, 4])):
        size, cpus = rng.choice([128, 256, 512]), rng.choice([0, 1, 2])
        kept = ", reserved='8KiB'" if rng.random() < 0.5 else ""  # such a node is never offline
        nodes.append(f"pm.Node('{size}KiB', cpus={cpus}{kept})")
    nodes[0] = nodes[0].replace("cpus=0", "cpus=1")
    options = [f"kernel={kernel!r}", "page_bytes=8"]
    options += [f"scatter={rng.randrange(1, 99)}"] if rng.random() < 0.3 else []
    options += ["access_stats=True"] if rng.random() < 0.4 else []
    options += ["swap=['64KiB', '256KiB']"] if pm.KERNELS[kernel].swap else []
    return f"pm.Machine([{', '.join(nodes)}], {', '.join(options)})"


class World:
    """A machine, the names of a script, and the shadow beside them."""

    def __init__(self, machine: str) -> None:
        self.names: dict[str, Any] = {
            word.__name__: word for word in (Index, Refusing, odd, answer)
        }
        self.names |= {"pm": pm, "np": np}
        self.names["m"] = eval(machine, self.names)
        self.shadow = Shadow()
        self.armed = False
        self.layouts: dict[int, list[pm.Vma]] = {}
        self.waiting: dict[Host, tuple[Step, pm.Process | None, dict[str, Any]]] = {}

    @property
    def hooked(self) -> bool:
        return Host.hooked != 0

    @property
    def m(self) -> pm.Machine:
        machine: pm.Machine = self.names["m"]
        return machine

    def step(self, step: Step, holder: Any = None) -> None:
        """Run a step; what it may raise is passed over, anything else is a finding."""
        if step.inner is not None:
            self.hook(step)
            return
        holder = holder or self.names.get(step.obj)
        if holder is None:
            return
        try:
            args, seen = self.arguments(step), self.arguments(step)
        except NameError:
            return
        call: Callable[..., Any]
        if step.method == "setattr":
            call = partial(set_attributes, holder)
        elif step.method == "go_on":
            call = partial(HELPERS_HERE["go_on"], holder)
        elif step.method == "Host":
            call = partial(Host, holder)
        else:
            call = getattr(holder, step.method)
        before = self.before(holder, step, seen)
        try:
            result, failed = call(**args), False
        except (
            OSError,
            ValueError,
            TypeError,
            MemoryError,
            pm.KernelBug,
            ZeroDivisionError,
        ) as error:
            if isinstance(error, ZeroDivisionError) and "asked for a number" not in str(error):
                raise
            result, failed = None, True
        except RuntimeError as error:
            if not self.may_wait(str(error)):
                raise
            result, failed = None, True
        self.after(holder, step, seen, result, before, failed=failed)

    def may_wait(self, said: str) -> bool:
        """Whether something is under way that a call may wait for."""
        under_way = anything_stands(self.m) or self.hooked
        return under_way and any(words in said for words in WAITS)

    def arguments(self, step: Step) -> dict[str, Any]:
        """Each time made anew: the call uses up an iterator, and the shadow reads it, too."""
        if step.method == "go_on":
            return {
                name: self.names if name == "names" else eval(text)
                for name, text in step.args.items()
            }
        return {name: eval(text, self.names) for name, text in step.args.items()}

    def hook(self, step: Step) -> None:
        number, inner, world = int(step.args["step"]), step.inner, self
        assert inner is not None

        def act() -> None:
            world.armed = False
            world.step(inner)

        self.m.at_step(HELPERS_HERE["once"](self.m, act), step=number)
        self.armed = True

    # ---- the shadow follows

    def layout(self, p: pm.Process) -> list[pm.Vma]:
        """A process's mappings; those of before the call or migration that holds its mmap_lock."""
        try:
            return p.vmas()
        except RuntimeError:
            if p.pid not in self.layouts:
                raise
            return self.layouts[p.pid]

    def before(self, holder: Any, step: Step, args: dict[str, Any]) -> Any:
        """What can only be seen before the call."""
        if isinstance(holder, pm.Migration | Host) or (self.armed and not self.hooked):
            for p in self.m.processes:
                # Nobody knows the mappings of one whose lock a call of a lost host has.
                with suppress(RuntimeError):
                    if p.alive:
                        self.layouts[p.pid] = self.layout(p)
        if isinstance(holder, Host):
            process = holder.process
            waits = self.waiting.get(holder)
            if process is None:
                layout = []
            else:
                layout = (
                    self.layout(process) if process.alive else self.layouts.get(process.pid, [])
                )
            file = args.get("file")
            size = file.size // PAGE if isinstance(file, pm.File) and not file.closed else None
            return process, layout, size, waits
        if isinstance(holder, pm.Process) and step.method in ("touch", "madvise", "mremap"):
            return self.layout(holder) if holder.alive else []
        if (
            step.method == "ftruncate"
            and isinstance(args["file"], pm.File)
            and not args["file"].closed
        ):
            return args["file"].size // PAGE
        return None

    def after(
        self,
        holder: Any,
        step: Step,
        args: dict[str, Any],
        result: Any,
        before: Any,
        *,
        failed: bool,
    ) -> None:
        if isinstance(holder, Host):
            self.host(holder, step, args, result, before, failed=failed)
            failed |= isinstance(result, int)  # no object
        else:
            follow = getattr(self, "on_" + step.method, None)
            if follow is not None:
                follow(holder, args, result, before, failed)
        if step.out and not failed and (step.out[0] in "pfhgc"):
            old = self.names.get(step.out)
            self.names[step.out] = result
            if step.out[0] == "p" and old is not None and old.alive:
                self.exit(old)
            if step.out[0] == "c" and old is not None:
                self.step(Step(step.out, "close"), old)

    # ---- calls of hosts

    def host(
        self,
        host: Host,
        step: Step,
        args: dict[str, Any],
        result: Any,
        before: Any,
        *,
        failed: bool,
    ) -> None:
        """Follow a call of the table; what one that waited has done, and when, is unknown."""
        process, layout, size, waits = before
        failed |= isinstance(result, int) and result < 0
        unsure = failed
        if step.method in ("again", "close"):
            if waits is None or host.running:
                return
            (step, process, args), unsure = waits, True
        elif waits is not None and host.waiting and not failed and other_call(step, waits[0]):
            raise Wrong(f"{step.text()} answered {result} beside a call that waits")
        if host.waiting is None:
            self.waiting.pop(host, None)
        elif result == WAIT and step.method in RESUMED and host.owns_time:
            self.waiting[host] = step, process, args
        follow = getattr(self, "host_" + step.method, None)
        if follow is not None and (process is not None or step.method in FILE_CALLS):
            follow(process, args, result, (layout, size), unsure)

    def host_mmap(self, p: pm.Process, args: Any, addr: Any, before: Any, failed: bool) -> None:
        args = args | {"addr": args["va"]}
        if failed and isinstance(addr, int) and addr >= 0:  # it is over after a wait
            self.on_mmap(p, args | {"addr": addr}, addr, None, True)
        self.on_mmap(p, args, addr, None, failed)

    def host_munmap(self, p: pm.Process, args: Any, rc: Any, before: Any, failed: bool) -> None:
        self.on_munmap(p, args | {"addr": args["va"]}, rc, None, failed)

    def host_mremap(self, p: pm.Process, args: Any, addr: Any, before: Any, failed: bool) -> None:
        args = args | {"addr": args["va"], "old_length": args["length"], "new_addr": args["new_va"]}
        if failed and isinstance(addr, int) and addr >= 0:
            self.on_mremap(p, args | {"new_addr": addr}, addr, before[0], True)
        self.on_mremap(p, args, addr, before[0], failed)

    def host_madvise(self, p: pm.Process, args: Any, rc: Any, before: Any, failed: bool) -> None:
        self.on_madvise(p, args | {"addr": args["va"]}, rc, before[0], failed)

    def host_ftruncate(self, p: Any, args: Any, rc: Any, before: Any, failed: bool) -> None:
        if is_number(args["pages"]) and isinstance(args["file"], pm.File):
            size = args | {"size": min(table.word(args["pages"]), MOST_FRAMES) * PAGE}
            self.on_ftruncate(p, size, rc, before[1], failed)

    def host_punch_hole(self, p: Any, args: Any, rc: Any, before: Any, failed: bool) -> None:
        if is_number(args["index"]) and is_number(args["n"]):
            first, n = table.word(args["index"]), table.word(args["n"])
            hole = {"offset": min(first, MOST_FRAMES) * PAGE, "length": min(n, MOST_FRAMES) * PAGE}
            self.on_punch(p, args | hole, rc, None, failed)

    def host_fork(self, p: pm.Process, args: Any, child: Any, before: Any, failed: bool) -> None:
        if failed:
            return
        self.shadow.fork(p, child)
        if not p.alive:  # nobody has followed what its address space went through since
            own = self.shadow.own(child)
            for v in child.vmas():
                own.update(
                    dict.fromkeys(range(v.start // PAGE, v.end // PAGE)[:MOST_FRAMES], UNKNOWN)
                )

    def host_exit(self, p: pm.Process, args: Any, rc: Any, before: Any, failed: bool) -> None:
        self.on_exit(p, args, rc, None, failed)

    def exit(self, p: pm.Process) -> None:
        """End a process whose name means another one now."""
        try:
            p.exit()
        except RuntimeError as error:
            if not self.may_wait(str(error)):
                raise
            self.on_exit(p, {}, None, None, failed=True)
        else:
            self.on_exit(p, {}, None, None, failed=False)

    def on_go_on(
        self, m: pm.Machine, args: dict[str, Any], over: Any, before: Any, failed: bool
    ) -> None:
        """Read the machine whose migrations have ended: it holds what the other one holds."""
        if not failed:
            read_all(over, copy.deepcopy(self.shadow))

    def on_step(self, move: pm.Migration, args: Any, event: Any, before: Any, failed: bool) -> None:
        if not failed and event is None:  # it is over, and says what the call says
            with suppress(OSError, pm.KernelBug):
                _ = move.result

    def on_fork(self, p: pm.Process, args: Any, child: Any, before: Any, failed: bool) -> None:
        if not failed:
            self.shadow.fork(p, child)

    def on_mmap(
        self, p: pm.Process, args: dict[str, Any], addr: Any, before: Any, failed: bool
    ) -> None:
        if not failed:
            self.shadow.drop(p, addr // PAGE, addr // PAGE + up(address(args["length"])))
        elif is_number(args.get("addr")) and is_number(args["length"]):
            first = number(args["addr"]) // PAGE
            self.shadow.drop(p, first, first + up(address(args["length"])), failed=True)

    def on_munmap(
        self, p: pm.Process, args: dict[str, Any], result: Any, before: Any, failed: bool
    ) -> None:
        if is_number(args["addr"]) and is_number(args["length"]):
            first = number(args["addr"]) // PAGE
            self.shadow.drop(p, first, first + up(address(args["length"])), failed=failed)

    def on_mremap(
        self, p: pm.Process, args: dict[str, Any], addr: Any, vmas: Any, failed: bool
    ) -> None:
        if not failed:
            old, new = up(address(args["old_length"])), up(address(args["new_length"]))
            self.shadow.move(p, vmas, address(args["addr"]) // PAGE, old, addr // PAGE, new)
        elif all(is_number(args.get(name)) for name in ("addr", "new_addr", "new_length")):
            old, new = address(args["addr"]) // PAGE, address(args["new_addr"]) // PAGE
            self.shadow.may_move(p, old, new, up(address(args["new_length"])))

    def on_madvise(
        self, p: pm.Process, args: dict[str, Any], result: Any, vmas: Any, failed: bool
    ) -> None:
        if not (is_number(args["addr"]) and is_number(args["length"])):
            return
        first = number(args["addr"]) // PAGE
        end = first + up(address(args["length"]))
        advice = (
            args["advice"]
            if isinstance(args["advice"], str)
            else is_number(args["advice"]) and number(args["advice"])
        )
        if advice in ("dontneed", "dontneed_locked", 4, 24):
            self.shadow.drop(p, first, end, failed=failed)
        elif advice in ("free", "hwpoison", "soft_offline", 8, 100, 101):
            self.shadow.drop(p, first, end, failed=True)
        elif advice in ("remove", 9):
            for v in vmas:
                low, high = max(first, v.start // PAGE), min(end, v.end // PAGE)
                if v.file and low < high:
                    at = v.offset // PAGE - v.start // PAGE
                    self.shadow.clear(v.inode, low + at, high + at, failed=failed)
                    if self.m.profile.swap:  # kernels of 2006 drop private copies, too
                        self.may_drop_copies(v.inode, low + at, high + at)

    def may_drop_copies(self, ino: int, first: int, end: int) -> None:
        """Private pages over a range of a file, of any process, may be gone."""
        for q in self.m.processes:
            for v in self.layout(q) if q.alive else ():
                if v.file and v.inode == ino:
                    at = v.start // PAGE - v.offset // PAGE
                    low, high = max(first + at, v.start // PAGE), min(end + at, v.end // PAGE)
                    self.shadow.drop(q, low, high, failed=True)

    def on_touch(
        self, p: pm.Process, args: dict[str, Any], touched: Any, vmas: Any, failed: bool
    ) -> None:
        if failed:
            self.touched_in_part(p, args, vmas)
            return
        first = number(args["addr"]) // PAGE
        if touched.values is not None:
            for k in range(touched.done):
                self.shadow.read(p, vmas, first + k, int(touched.values[k]))
        elif args.get("values") is not None:
            values = args["values"]
            listed = [number(values)] * touched.done if is_number(values) else list(values)
            for k in range(touched.done):
                self.shadow.write(p, vmas, first + k, int(listed[k]) & (1 << 64) - 1)
        if touched.signal == "SIGKILL":
            self.shadow.private.pop(p.pid, None)

    def touched_in_part(self, p: pm.Process, args: dict[str, Any], vmas: Any) -> None:
        """A touch wrote some of its pages before it had to wait."""
        values = args.get("values")
        if not is_number(args["addr"]) or values is None:
            return
        first = address(args["addr"]) // PAGE
        try:
            listed = [number(value) & (1 << 64) - 1 for value in values]
        except (TypeError, ValueError, ZeroDivisionError):
            return
        for vpn, value in enumerate(listed, first):
            if is_mapped(vmas, vpn):
                self.shadow.write(p, vmas, vpn, value, maybe=True)

    def on_fwrite(
        self, p: pm.Process, args: dict[str, Any], done: Any, before: Any, failed: bool
    ) -> None:
        file, values = args["file"], args["values"]
        if not isinstance(file, pm.File) or file.closed or not is_number(args["page_offset"]):
            return
        if is_number(values):
            values = (
                [number(values)] * min(number(args.get("n", 1)), MOST_FRAMES)
                if is_number(args.get("n", 1))
                else []
            )
        try:
            listed = [number(value) & (1 << 64) - 1 for value in values]
        except (TypeError, ValueError):
            return
        for k, value in enumerate(listed if failed else listed[:done]):
            self.shadow.store(file.ino, number(args["page_offset"]) + k, value, maybe=failed)

    def on_fread(
        self, p: pm.Process, args: dict[str, Any], values: Any, before: Any, failed: bool
    ) -> None:
        if not failed:
            for k, value in enumerate(values.tolist()):
                self.shadow.read_file(args["file"].ino, number(args["page_offset"]) + k, value)

    def on_ftruncate(
        self, p: pm.Process, args: dict[str, Any], result: Any, size: Any, failed: bool
    ) -> None:
        if size is None or (failed and not isinstance(args["size"], int)):
            return
        file, pages = (
            args["file"],
            pm.arguments.as_size(args["size"], "size") // PAGE if not failed else 0,
        )
        self.shadow.clear(file.ino, pages, 1 << 60, failed=failed)
        if pages >= size:
            return
        for q in self.m.processes:
            for v in self.layout(q) if q.alive else ():
                if v.file and v.inode == file.ino:
                    first = max(v.start // PAGE, v.start // PAGE + pages - v.offset // PAGE)
                    self.shadow.drop(q, first, v.end // PAGE, failed=failed)

    def on_punch(
        self, p: Any, args: dict[str, Any], result: Any, before: Any, failed: bool
    ) -> None:
        file = args["file"]
        if not isinstance(file, pm.File) or file.closed:
            return
        try:
            first = pm.arguments.as_size(args["offset"], "offset") // PAGE
            pages = pm.arguments.as_size(args["length"], "length") // PAGE
        except (TypeError, ValueError, ZeroDivisionError):
            return
        self.shadow.clear(file.ino, first, first + pages, failed=failed)

    def on_exit(self, p: pm.Process, args: Any, result: Any, before: Any, failed: bool) -> None:
        if not failed:
            if not any(host.process is p for host in Host.living):  # its memory goes, too
                self.shadow.private.pop(p.pid, None)
        else:  # a part of its memory may be gone
            self.shadow.drop(p, 0, 1 << 64, failed=True)

    # ---- looking

    def check(self, *, full: bool) -> None:
        self.m.check(full=full)

    def end(self) -> None:
        """End what is under way, and read everything once more."""
        self.m.at_step(None)
        for _ in range(MOST_ROUNDS):
            named = [its for its in self.names.values() if isinstance(its, Host)]
            # A call may wait whose host has lost its name.
            for host in dict.fromkeys([*named, *self.waiting]):
                self.step(Step("", "again"), host)
            if self.waiting:
                self.end_some()
            else:
                break
        else:
            raise Wrong(
                f"calls wait for ever: {[step.text() for step, *_ in self.waiting.values()]}"
            )
        HELPERS_HERE["ended"](self.m, "finish")
        read_all(self.m, self.shadow)

    def end_some(self) -> None:
        """End the migrations that wait for none of the calls that wait."""
        for move in self.m.migrations:
            self.step(Step("", "finish"), move)


def read_all(m: pm.Machine, shadow: Shadow) -> None:
    """Read every page of every process."""
    for p in m.processes:
        for v in p.vmas() if p.alive else ():
            if p.alive and v.perms[0] == "r" and v.pages <= 64:  # the last read may have ended it
                read_vma(p, v, shadow)


def read_vma(p: pm.Process, v: pm.Vma, shadow: Shadow) -> None:
    t = p.touch(v.start, v.length)
    if t.signal == "SIGKILL" or t.values is None:
        return
    for k in range(t.done):
        shadow.read(p, [v], v.start // PAGE + k, int(t.values[k]))


def other_call(step: Step, waits: Step) -> bool:
    """Whether a call of a host is another one than that which waits."""
    return step.method in RESUMED and (step.method, step.args) != (waits.method, waits.args)


def set_attributes(holder: object, **named: object) -> None:
    for name, value in named.items():
        setattr(holder, name, value)


def answer(value: object) -> Callable[..., Any]:
    return lambda *_: value


def is_number(value: object) -> bool:
    try:
        operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ZeroDivisionError):
        return False
    return True


def number(value: Any) -> int:
    return operator.index(value)


def address(value: Any) -> int:
    """An unsigned long: C takes a negative number for one of the upper half."""
    return number(value) % (1 << 64)


@dataclass(frozen=True)
class Case:
    """What a seed draws."""

    machine: str
    steps: tuple[Step, ...]


def case_of(seed: int, kernel: str | None = None, steps: int = STEPS_A_SEED) -> Case:
    rng = random.Random(seed)
    name = kernel or rng.choice(list(pm.KERNELS))
    machine = machine_text(rng, name)
    built = eval(machine, {"pm": pm})
    draw = Draw(rng, built.nr_nodes, len(built.frames.state), pm.KERNELS[name])
    return Case(machine, tuple(draw.beginning() + [draw.step() for _ in range(steps)]))


def run_case(case: Case, report: Callable[[int], None] = lambda _: None) -> None:
    """Run all steps, ``check()`` after each, and read everything at the end."""
    world = World(case.machine)
    for k, step in enumerate(case.steps):
        report(k)
        world.step(step)
        world.check(full=k % 16 == 0)
    world.end()
    world.check(full=True)


# ---- findings ---------------------------------------------------------------------------------


def shrink(steps: tuple[Step, ...], fails: Callable[[tuple[Step, ...]], bool]) -> tuple[Step, ...]:
    """Leave out what the failure does not need, large pieces first."""
    size = len(steps)
    while size:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            if fails(fewer):
                steps = fewer
            else:
                at += size
        size //= 2
    return steps


def kind_of(case: Case) -> str:
    """How a case ends when it runs in this process: "" if well."""
    try:
        run_case(case)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split()[:2])}"
    return ""


def kind_outside(case: Case, seconds: float = 30) -> str:
    """The same in a process of its own, where a crash or a hang is an answer, too."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as script:
        script.write(source_of(case))
    command = [sys.executable, __file__, "--replay", script.name]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "hang"
    finally:
        Path(script.name).unlink()
    if ended.returncode == 0:
        return ""
    return (
        ended.stdout.strip().splitlines()[-1]
        if ended.returncode == 1 and ended.stdout.strip()
        else f"exit {ended.returncode}"
    )


def source_of(case: Case) -> str:
    """A case as Python values, for a process of its own."""
    return f"CASE = Case({case.machine!r}, {case.steps!r})\n"


SCRIPT = '''\
"""{title}"""
import dataclasses
import pickle
import tempfile

import pagemig as pm

{table}

class Index:
    def __init__(self, value): self.value = value
    def __index__(self): return self.value


class Refusing:
    def __index__(self): raise ZeroDivisionError("asked for a number")


def odd(values, kind):
    plain = np.array(values, dtype=kind)
    view = np.zeros(plain.nbytes + 1, np.uint8)[1:].view(plain.dtype)
    view[:] = plain
    return view


def answer(value):
    return lambda *_: value


{helpers}

def run(line):
    try:
        exec(line, globals())
    except (OSError, ValueError, TypeError, NameError, ZeroDivisionError, RuntimeError) as error:
        print(line, "->", error)


m = {machine}
'''


def script_of(case: Case, title: str) -> str:
    """A script that does the same steps with pagemig alone, a line a step."""
    host = Path(table.__file__).read_text().partition("\n")[2]  # without its docstring
    lines = [SCRIPT.format(title=title, machine=case.machine, helpers=HELPERS, table=host)]
    for step in case.steps:
        if step.inner is not None:
            inner = step.inner.text()
            lines.append(f"m.at_step(once(m, lambda: run({inner!r})), step={step.args['step']})")
        elif step.method == "setattr":
            lines += [
                f"run({f'{step.obj}.{name} = {value}'!r})" for name, value in step.args.items()
            ]
        else:
            lines.append(f"run({step.text()!r})")
        lines.append("m.check(full=True)")
    return "\n".join(lines) + "\n"


def report_finding(seed: int, case: Case, kind: str) -> None:
    """Shrink a finding and print it as a script."""
    inside = not kind.startswith(("exit", "hang"))
    again = kind_of if inside else kind_outside
    steps = case.steps
    if again(case) == kind:
        steps = shrink(steps, lambda fewer: again(Case(case.machine, fewer)) == kind)
    print(
        f"# seed {seed}: {kind}\n" + script_of(Case(case.machine, steps), f"seed {seed}: {kind}"),
        flush=True,
    )


# ---- command line -----------------------------------------------------------------------------


def work(seeds: Iterator[int], until: float, kernel: str | None, steps: int, log: Path) -> int:
    """Run seeds in this process; the log says which one it is at."""
    for seed in seeds:
        if time.monotonic() > until:
            return 0
        log.write_text(str(seed))
        faulthandler.dump_traceback_later(SECONDS_A_SEED, exit=True)
        kind = kind_of(case_of(seed, kernel, steps))
        faulthandler.cancel_dump_traceback_later()
        if kind:
            print(f"{seed}\t{kind}", flush=True)
            return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description="fuzz the whole surface; findings come out as scripts"
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--seed", type=int, help="run this seed alone and print its steps if it fails"
    )
    parser.add_argument("--first", type=int, default=int(time.time()), help="first seed")
    parser.add_argument("--kernel", choices=list(pm.KERNELS))
    parser.add_argument("--steps", type=int, default=STEPS_A_SEED)
    parser.add_argument("--replay", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.replay:
        named: dict[str, Any] = {"Case": Case, "Step": Step}
        exec(chosen.replay.read_text(), named)
        kind = kind_of(named["CASE"])
        print(kind)
        return 1 if kind else 0
    until = time.monotonic() + chosen.seconds
    if chosen.work:
        return work(
            iter(range(chosen.first, chosen.first + (1 << 40))),
            until,
            chosen.kernel,
            chosen.steps,
            chosen.work,
        )
    if chosen.seed is not None:
        case = case_of(chosen.seed, chosen.kernel, chosen.steps)
        kind = kind_outside(case, SECONDS_A_SEED)
        if kind:
            report_finding(chosen.seed, case, kind)
        return 1 if kind else 0
    return fuzz(chosen, until)


def fuzz(chosen: argparse.Namespace, until: float) -> int:
    first, found = chosen.first, 0
    log = Path(tempfile.mkstemp()[1])
    log.write_text(str(first))
    options = ["--kernel", chosen.kernel] if chosen.kernel else []
    while (left := until - time.monotonic()) > 0:
        command = [
            sys.executable,
            __file__,
            "--work",
            str(log),
            "--first",
            str(first),
            "--seconds",
            str(left),
        ]
        ended = subprocess.run(
            [*command, "--steps", str(chosen.steps), *options], stdout=subprocess.PIPE, text=True
        )
        seed = int(log.read_text())
        print(f"# seeds {first} to {seed}", flush=True)
        if ended.returncode:
            found += 1
            kind = ended.stdout.strip().partition("\t")[2] or f"exit {ended.returncode}"
            case = case_of(seed, chosen.kernel, chosen.steps)
            report_finding(
                seed, case, kind if ended.returncode == 1 and ended.stdout else kind_outside(case)
            )
        first = seed + 1
    log.unlink()
    print(f"# {found} findings", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")
    sys.exit(main())
