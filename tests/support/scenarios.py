"""Scenarios drawn at random, of processes that share everything or nothing.

``PAGEMIG_SEARCH=1000`` draws that many scenarios of each kind anew, not the same few every time.
"""

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

SEARCH = int(os.environ.get("PAGEMIG_SEARCH", "0"))
thorough = settings(
    max_examples=SEARCH or 60,
    derandomize=not SEARCH,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

Op = dict[str, Any]

#: Pages of each node of the tiny machine, and of one where frames are always left.
TINY = (32, 24, 12, 8)
ROOMY = (2048, 2048, 2048, 2048)

#: First pages of ranges: the start of a page table, and just below the end of a page table, of a
#: table of page tables (PMD) and of one of those (PUD).
PLACES = (0, 512 - 8, (1 << 18) - 8, (1 << 27) - 8)


# ---- drawing ----------------------------------------------------------------------------------

NODE = st.integers(0, 3)
NODES = st.lists(NODE, min_size=1, max_size=4, unique=True)
TOKEN = st.integers(1, 1 << 40)
MODES = ("default", "preferred", "bind", "interleave", "local", "preferred_many")
ADVICE = ("dontneed", "willneed", "populate_read", "populate_write", "dontfork", "dofork")
FLAGS = st.sampled_from([[], ["move"], ["move_all"], ["strict"], ["strict", "move"]])
WEIGHTED_OPS = (
    *["touch"] * 8,
    *["mmap"] * 3,
    *["move_pages"] * 5,
    *["mbind"] * 3,
    *["migrate_pages", "set_mempolicy", "fork", "pin"] * 2,
    *["munmap", "mprotect", "mlock", "munlock", "madvise", "mremap", "unpin"],
    *["fwrite", "fread", "ftruncate", "punch", "fadvise", "exit", "setuid", "get_mempolicy"],
)
#: Operations that touch nothing but the memory of the process that does them.
PRIVATE_OPS = (
    *["touch"] * 6,
    *["mmap", "move_pages", "mbind", "migrate_pages"] * 2,
    *["munmap", "mprotect", "mlock", "munlock", "madvise", "mremap", "set_mempolicy"],
)


class Drawing:
    """Draws the operations of one scenario; remembers only what makes the next one meaningful."""

    def __init__(
        self, draw: st.DrawFn, *, files: int, names: tuple[str, ...], kinds: tuple[str, ...]
    ) -> None:
        self.draw = draw
        self.files = files
        self.names = names
        self.kinds = kinds
        self.processes = [0]
        self.children = 0
        self.ranges: list[tuple[int, int]] = []
        self.pins: list[int] = []

    def range(self) -> dict[str, int]:
        """A range, most often within one that was mapped."""
        if self.ranges and self.draw(st.integers(0, 9)):
            at, n = self.draw(st.sampled_from(self.ranges))
            if self.draw(st.booleans()):
                return {"at": at, "n": n}
            skip = self.draw(st.integers(0, n - 1))
            return {"at": at + skip, "n": self.draw(st.integers(1, n - skip + 1))}
        return {"at": self.draw(PLACE), "n": self.draw(st.integers(1, 24))}

    def op(self, p: int, names: tuple[str, ...] | None = None) -> Op:
        name = self.draw(st.sampled_from(names or self.names))
        op = {"op": name, "p": p, **getattr(self, name)(p)}
        if not self.draw(st.integers(0, 5)):
            op["cpu"] = self.draw(st.integers(0, 1))
        return op

    def written(self, p: int) -> list[Op]:
        """A mapping and, where it may be, something in it."""
        mapped = self.op(p, ("mmap",))
        place = {name: mapped[name] for name in ("at", "n")}
        return [mapped, {"op": "touch", "p": p, **place, "write": True, "tok": self.draw(TOKEN)}]

    def mmap(self, p: int) -> Op:
        at, n = self.draw(PLACE), self.draw(st.integers(1, 24))
        self.ranges.append((at, n))
        op: Op = {"at": at, "n": n, "kind": self.draw(st.sampled_from(self.kinds))}
        if op["kind"].startswith("file"):
            op |= {"file": self.file(), "off": self.draw(st.integers(0, 6))}
        if not self.draw(st.integers(0, 4)):
            op["prot"] = self.draw(st.sampled_from(["r", "", "rwx"]))
        if not self.draw(st.integers(0, 5)):
            op[self.draw(st.sampled_from(["populate", "locked"]))] = True
        return op

    def file(self) -> int:
        return self.draw(st.integers(0, self.files - 1))

    def touch(self, p: int) -> Op:
        if self.draw(st.integers(0, 2)):
            return {**self.range(), "write": True, "tok": self.draw(TOKEN)}
        return self.range()

    def munmap(self, p: int) -> Op:
        return self.range()

    munlock = munmap

    def mprotect(self, p: int) -> Op:
        return {**self.range(), "prot": self.draw(st.sampled_from(["rw", "r", "", "rwx"]))}

    def mlock(self, p: int) -> Op:
        return {**self.range(), "flags": self.draw(st.sampled_from([[], [], ["onfault"]]))}

    def madvise(self, p: int) -> Op:
        return {**self.range(), "advice": self.draw(st.sampled_from(ADVICE))}

    def mremap(self, p: int) -> Op:
        at = self.draw(PLACE)
        op = {**self.range(), "new_at": at, "flags": ["maymove", "fixed"]}
        op["new_n"] = op["n"] if self.draw(st.booleans()) else self.draw(st.integers(1, 24))
        self.ranges.append((at, op["new_n"]))
        return op

    def set_mempolicy(self, p: int) -> Op:
        op: Op = {"mode": self.draw(st.sampled_from(MODES))}
        if op["mode"] not in ("default", "local"):
            op["nodes"] = self.draw(NODES)
        if not self.draw(st.integers(0, 4)):
            op["mode_flags"] = [self.draw(st.sampled_from(["static", "relative"]))]
        return op

    def mbind(self, p: int) -> Op:
        return {**self.range(), **self.set_mempolicy(p), "flags": self.draw(FLAGS)}

    def get_mempolicy(self, p: int) -> Op:
        if self.draw(st.booleans()):
            return {"flags": ["node", "addr"], "at": self.range()["at"]}
        return {"flags": []}

    def move_pages(self, p: int) -> Op:
        span = self.range()
        pages: list[Any] = [{"range": [span["at"], span["n"]]}]
        if self.draw(st.booleans()):
            offsets = st.lists(st.integers(0, span["n"]), min_size=1, max_size=12)
            pages = [span["at"] + k for k in self.draw(offsets)]  # duplicates are welcome
        target = self.draw(st.one_of(st.none(), NODE, NODES))
        flags = self.draw(st.sampled_from([["move"], ["move"], ["move_all"]]))
        pid = self.draw(st.sampled_from(["self", "self", *self.processes]))
        return {"pid": pid, "pages": pages, "nodes": target, "flags": flags}

    def migrate_pages(self, p: int) -> Op:
        pid = self.draw(st.sampled_from(["self", *self.processes]))
        return {"pid": pid, "from": self.draw(NODES), "to": self.draw(NODES)}

    def fork(self, p: int) -> Op:
        self.children += 1
        self.processes.append(self.children)
        return {"child": self.children}

    def exit(self, p: int) -> Op:
        return {}

    def setuid(self, p: int) -> Op:
        return {"uid": 1000, "dumpable": self.draw(st.booleans())}

    def pin(self, p: int) -> Op:
        handle = len(self.pins)
        self.pins.append(handle)
        return {
            **self.range(),
            "how": self.draw(st.sampled_from(["pipe", "uring"])),
            "handle": handle,
        }

    def unpin(self, p: int) -> Op:
        return {"handle": self.draw(st.sampled_from(self.pins or [0]))}

    def part(self) -> Op:
        return {
            "file": self.file(),
            "off": self.draw(st.integers(0, 12)),
            "n": self.draw(st.integers(1, 6)),
        }

    def fwrite(self, p: int) -> Op:
        return {**self.part(), "tok": self.draw(TOKEN)}

    def fread(self, p: int) -> Op:
        return self.part()

    def punch(self, p: int) -> Op:
        return {**self.part(), "file": 0}

    def ftruncate(self, p: int) -> Op:
        return {"file": self.file(), "pages": self.draw(st.integers(0, 16))}

    def fadvise(self, p: int) -> Op:
        return {**self.part(), "advice": "dontneed", "sync": self.draw(st.booleans())}


PLACE = st.builds(lambda base, k: base + k, st.sampled_from(PLACES), st.integers(0, 20))
FILES = [
    {"kind": "tmpfs", "pages": 12, "fill": 1, "node": 0},
    {"kind": "ext4", "pages": 12, "fill": 2, "node": 1},
    {"kind": "ramfs", "pages": 8, "fill": None},
]


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """Any scenario: processes, files, pins, sharing."""
    kinds = ("anon", "anon", "anon_shared", "file_private", "file_shared")
    drawing = Drawing(draw, files=len(FILES), names=WEIGHTED_OPS, kinds=kinds)
    ops = []
    for _ in range(draw(st.integers(1, 3))):
        ops += drawing.written(0)
    for _ in range(draw(st.integers(1, 24))):
        ops.append(drawing.op(draw(st.sampled_from(drawing.processes))))
    return {"files": FILES, "no_anchor": True, "ops": ops}


@st.composite
def disjoint(draw: st.DrawFn) -> dict[str, Any]:
    """Three processes that have nothing in common, each at its own operations.

    Shared memory is left out: its inode numbers come from one counter and decide interleaving.
    """
    fork = [{"op": "fork", "p": 0, "child": child} for child in (1, 2)]
    lists = []
    for p in range(3):
        drawing = Drawing(draw, files=0, names=PRIVATE_OPS, kinds=("anon",))
        drawing.processes = [p]
        lists.append(drawing.written(p))
        lists[p] += [drawing.op(p) for _ in range(draw(st.integers(1, 12)))]
    turns = draw(st.permutations([p for p, ops in enumerate(lists) for _ in ops]))
    queues = [iter(ops) for ops in lists]
    return {"no_anchor": True, "ops": fork + [next(queues[p]) for p in turns]}


# ---- harsher ----------------------------------------------------------------------------------

#: What a harsher scenario does besides.
HARSH_OPS = (
    *WEIGHTED_OPS,
    *["fork", "pin", "pin", "mbind", "mremap", "mlock"],
    *["mlockall", "munlockall", "set_home_node", "weight", "nop"],
)

#: Arguments that no call should be given, by operation: each replaces or adds fields.
_MASKS: list[Op] = [
    {"nodes": None},
    {"nodes": "bad"},
    {"nodes": []},
    {"nodes": [9]},
    {"nodes": [1, 64]},
    {"nodes": [0, 1023]},
    {"nodes": [1024]},
    {"nodes": [0, 1], "maxnode": 0},
    {"nodes": [0, 1], "maxnode": 1},
    {"nodes": [0, 1], "maxnode": 2},
    {"nodes": [0, 1], "maxnode": 32769},
    {"nodes": [0, 1], "maxnode": 32770},
    {"nodes": "bad", "maxnode": 1 << 63},
]
_POLICIES: list[Op] = [
    *_MASKS,
    {"mode": 7},
    {"mode": 77},
    {"mode": -1},
    {"mode": "weighted_interleave"},
    {"mode": "default", "nodes": [1]},
    {"mode": "local", "nodes": [1]},
    {"mode": "preferred", "nodes": []},
    {"mode_flags": ["static", "relative"]},
    {"mode_flags": ["balancing"]},
    {"mode": "default", "mode_flags": ["static"], "nodes": None},
]
_PLACES: list[Op] = [
    {"boff": 5},
    {"boff": 4095},
    {"bytes": 0},
    {"bytes": 1},
    {"bytes": (1 << 64) - 1},
    {"bytes": (1 << 64) - 4096},
    {"bytes": 1 << 47},
    {"at": 1 << 35},
]
_PIDS: list[Op] = [{"pid": pid} for pid in ("none", "kthread", "init", {"raw": -5}, 6)]
_INVALID: dict[str, list[Op]] = {
    "mmap": [{"n": 0}, {"noreplace": True}, {"prot": "x"}, {"prot": "w"}],
    "munmap": [*_PLACES, {"n": 0}],
    "mprotect": [*_PLACES, {"n": 0}, {"prot": "w"}, {"prot": "x"}],
    "mlock": [*_PLACES, {"flags": [2]}, {"n": 0}],
    "munlock": _PLACES,
    "mlockall": [{"flags": []}, {"flags": ["onfault"]}, {"flags": [8]}],
    "madvise": [*_PLACES, {"advice": 77}, {"advice": 5}],
    "mremap": [
        {"flags": []},
        {"flags": ["fixed"]},
        {"flags": ["maymove", "fixed", 8]},
        {"new_n": 0},
        {"n": 0},
        {"boff": 5},
        {"new_at": 1 << 35},
    ],
    "set_mempolicy": _POLICIES,
    "mbind": [*_POLICIES, *_PLACES, *({"flags": [flag]} for flag in ("lazy", 16, 64))],
    "get_mempolicy": [
        {"flags": ["node"]},
        {"flags": ["mems"]},
        {"flags": ["mems", "node"]},
        {"flags": [8]},
        {"flags": ["addr"], "at": None},
        {"flags": [], "at": 1},
        *({"maxnode": bits} for bits in (0, 1, 4, 32769, 32770)),
        {"mask": False},
        {"mask": "bad"},
        {"nomode": True},
    ],
    "move_pages": [
        *_PIDS,
        {"pages": None},
        {"pages": "bad"},
        {"pages": [{"raw": "0xffffffffff000"}, {"raw": "0x10"}, 0]},
        {"nodes": "bad"},
        *({"nodes": [node]} for node in (-1, 4, 64, 1 << 30)),
        {"flags": ["strict"]},
        {"flags": [8]},
        *({"count": count} for count in (0, 1, 5, (1 << 64) - 1)),
        {"status": "null"},
        {"status": "bad"},
    ],
    "migrate_pages": [
        *_PIDS,
        *({name: nodes} for name in ("from", "to") for nodes in (None, "bad", [], [9], [64])),
        {"maxnode": 0},
        {"maxnode": 32770},
    ],
    "set_home_node": [*_PLACES, {"node": 9}, {"node": (1 << 64) - 1}, {"flags": 1}],
    "weight": [{"node": 9}, {"weight": 0}, {"weight": 256}, {"weight": -1}],
    "pin": [{"at": 300}, {"n": 0}, {"boff": 5}],
    "unpin": [{"handle": 99}],
    "fadvise": [{"advice": 77}],
}


class Harsh(Drawing):
    """Also draws arguments that are refused, and the calls that only such scenarios make."""

    def op(self, p: int, names: tuple[str, ...] | None = None) -> Op:
        op = super().op(p, names)
        if op["op"] in _INVALID and not self.draw(st.integers(0, 2)):
            op |= self.draw(st.sampled_from(_INVALID[op["op"]]))
        return op

    def mlockall(self, p: int) -> Op:
        flags = st.sampled_from([["current"], ["future"], ["current", "future", "onfault"]])
        return {"flags": self.draw(flags)}

    def munlockall(self, p: int) -> Op:
        return {}

    nop = munlockall

    def set_home_node(self, p: int) -> Op:
        return {**self.range(), "node": self.draw(NODE)}

    def weight(self, p: int) -> Op:
        return {"node": self.draw(NODE), "weight": self.draw(st.integers(1, 255))}

    def fork(self, p: int) -> Op:
        """Seven processes at most, of which some may be gone."""
        if self.children == 6:
            self.children = 0
        return super().fork(p)

    def pin(self, p: int) -> Op:
        return {**super().pin(p), "handle": self.draw(st.integers(0, 15))}

    def unpin(self, p: int) -> Op:
        return {"handle": self.draw(st.integers(0, 15))}


@st.composite
def harsh(draw: st.DrawFn) -> dict[str, Any]:
    """Up to 60 operations of up to 7 processes, 16 pins, and arguments of every invalid kind."""
    kinds = ("anon", "anon", "anon_shared", "file_private", "file_shared")
    drawing = Harsh(draw, files=len(FILES), names=HARSH_OPS, kinds=kinds)
    ops = [op for _ in range(draw(st.integers(1, 3))) for op in drawing.written(0)]
    for _ in range(draw(st.integers(20, 54))):
        ops.append(drawing.op(draw(st.sampled_from(drawing.processes))))
    return {"files": FILES, "no_anchor": True, "ops": ops}
