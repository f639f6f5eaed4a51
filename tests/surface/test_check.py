"""Every invariant of ``Machine.check()``: a sound machine passes, what is broken is named.

A test breaks one rule by storing one wrong number in one record, as a bug in the core would, and
reads the rule's name in the error.
"""

import re
import resource
from collections.abc import Callable

import pytest

import pagemig as pm
from pagemig import InvariantError, Machine, Process
from pagemig.mm import check
from pagemig.testing.poke import SLABS, poke

PAGE = pm.PAGE_SIZE
RW, SPECIAL = 1 << 1, 1 << 9
LOCKED, ANON, EXCLUSIVE, ISOLATED, RESERVED = 1 << 0, 1 << 12, 1 << 13, 1 << 15, 1 << 14
LRU, MLOCKED, CACHED, SWAPCACHE = 1 << 4, 1 << 10, 1 << 19, 1 << 8
REF, MAP = 1 << 20, 1 << 44
MIGRATION_WRITE = 31 << 59


class World:
    """A machine that has something of everything the invariants speak of."""

    def __init__(self) -> None:
        self.machine = Machine([pm.Node("8MiB", cpus=1), pm.Node("8MiB")])
        self.app = app = self.machine.spawn()
        self.anon = app.mmap(8 * PAGE)
        app.touch(self.anon, 8 * PAGE, write=True)
        self.child = app.fork()
        self.child.touch(self.anon, 4 * PAGE, write=True)
        self.zero = app.mmap(2 * PAGE, prot="r")
        app.touch(self.zero, 2 * PAGE)
        self.locked = app.mmap(2 * PAGE, locked=True, prot="rwx")
        self.shared = app.mmap(4 * PAGE, shared=True)
        app.touch(self.shared, 4 * PAGE, write=True)
        app.mbind(self.shared, 2 * PAGE, pm.Bind([1]))
        app.mbind(self.shared + 2 * PAGE, 2 * PAGE, pm.Bind([0]))
        self.file = self.machine.file("ext4", 8 * PAGE)
        self.text = app.mmap(8 * PAGE, file=self.file, prot="rx")
        app.touch(self.text, 8 * PAGE)
        self.pin = app.pin(self.anon, 2 * PAGE, "uring")
        gone = app.mmap(2 * PAGE, addr=1 << 40)
        app.touch(gone, 2 * PAGE, write=True)
        app.munmap(gone, 2 * PAGE)

    def get(self, what: str, index: int, field: str = "") -> int:
        return poke(self.machine, what, index, field)

    def put(self, what: str, index: int, field: str, value: int) -> None:
        poke(self.machine, what, index, field, value)

    def add(self, what: str, index: int, field: str, n: int = 1) -> None:
        self.put(what, index, field, self.get(what, index, field) + n)

    def flip(self, pfn: int, bits: int) -> None:
        self.put("frame", pfn, "state", self.get("frame", pfn, "state") ^ bits)

    # -- places --------------------------------------------------------------------------------

    def mm(self, process: Process) -> int:
        return self.get("task", process._task, "mm")

    def vma(self, addr: int, process: Process | None = None) -> int:
        rows = (process or self.app)._vmas()
        return int(rows[(rows["start"] <= addr) & (addr < rows["end"])]["index"][0])

    def table(self, addr: int, level: int = 1) -> int:
        table = self.get("mm", self.mm(self.app), "pgd")
        for above in range(4, level, -1):
            entry = self.get("pte", table << 32 | addr >> (12 + 9 * (above - 1)) & 511)
            table = (entry >> 12 & (1 << 40) - 1) - self.machine.table_pfn
        return table

    def pte(self, addr: int) -> int:
        return self.table(addr) << 32 | addr >> 12 & 511

    def pfn(self, addr: int, process: Process | None = None) -> int:
        return int((process or self.app)._ptes(addr, 1)[0]) >> 12 & (1 << 40) - 1

    def node_of(self, addr: int) -> int:
        """The reverse map's node of a VMA: in a file's tree, else the first of its chain."""
        vma = self.vma(addr)
        return self.get("vma", vma, "i_mmap") or self.get("vma", vma, "chain")

    def anon_vma(self, addr: int) -> int:
        return self.get("vma", self.vma(addr), "anon_vma")

    def object(self, addr: int) -> int:
        return self.get("vma", self.vma(addr), "file")

    def slab(self, name: str) -> int:
        return SLABS.index(name)


def change_pte(addr: str, change: Callable[[int], int]) -> Callable[[World], None]:
    def breaks(w: World) -> None:
        at = w.pte(getattr(w, addr))
        w.put("pte", at, "", change(w.get("pte", at)))

    return breaks


def migration_entry(w: World) -> None:
    pfn = w.pfn(w.anon + 7 * PAGE)
    w.flip(pfn, LOCKED)
    w.put("pte", w.pte(w.anon + 7 * PAGE), "", MIGRATION_WRITE | pfn << 12)


def outside(w: World) -> None:
    w.put("pte", w.pte(w.anon) & ~511 | (w.anon >> 12) - 400 & 511, "", w.pfn(w.anon) << 12 | 0x27)


def swap_vmas(w: World) -> None:
    slots = [w.mm(w.app) << 32 | i for i in (0, 1)]
    first, second = (w.get("mm_vma", at) for at in slots)
    w.put("mm_vma", slots[0], "", second)
    w.put("mm_vma", slots[1], "", first)


def leave_lists(w: World) -> None:
    """The newest frame in a thread's cache: free by its record, and then on no list."""
    w.add("pcp", 0, "n", -1)


def free_twice(w: World) -> None:
    w.put("pcp", 0, "pfn", w.pfn(w.anon))


def reserve_used(w: World) -> None:
    w.app.touch(w.app.mmap(128 * PAGE), 128 * PAGE, write=True)
    assert w.machine.frames.refcount[1] == 1
    w.put("node", 0, "reserved", 2)


def shared_tables(w: World) -> None:
    entry = w.table(w.anon, 3) + w.machine.table_pfn << 12 | 0x67
    w.put("pte", w.table(w.anon, 4) << 32, "", entry)


def dirty_free_table(w: World) -> None:
    w.put("pte", w.get("slab", w.slab("tables"), "free") << 32 | 7, "", 1)


def list_twice(w: World) -> None:
    first = w.mm(w.app) << 32
    w.put("mm_vma", first, "", w.get("mm_vma", first | 1))


def empty_range(w: World) -> None:
    w.put("sp_node", w.get("file", w.object(w.shared), "sp"), "end", 0)


def home_nowhere(w: World) -> None:
    w.app.mbind(w.anon, PAGE, pm.Bind([0]))
    w.put("vma", w.vma(w.anon), "home_node", 64)


def bound_nowhere(w: World) -> None:
    w.app.mbind(w.anon, PAGE, pm.Bind([0]))
    w.put("vma", w.vma(w.anon), "pol_nodes", 0)


def tree_max(w: World) -> None:
    w.add("rnode", w.node_of(w.shared), "max")


def drop_slot(w: World) -> None:
    w.put("cache", w.file.index << 32 | 3, "", 0)


#: Rule, and what breaks it.
BREAKS: list[tuple[str, Callable[[World], None]]] = [
    ("refcount", lambda w: w.add("frame", w.pfn(w.anon), "state", REF)),
    ("refcount", lambda w: w.put("pin", w.pin.handle, "longterm", 0)),
    ("refcount", lambda w: w.add("frame", w.pfn(w.text), "state", -REF)),
    ("mapcount", lambda w: w.add("frame", w.pfn(w.shared), "state", MAP)),
    ("locked", lambda w: w.flip(w.pfn(w.anon), LOCKED)),
    ("isolated", lambda w: w.flip(w.pfn(w.text), ISOLATED)),
    ("lru", lambda w: w.flip(w.pfn(w.anon), LRU)),
    ("mlock_count", lambda w: w.add("mlock_count", w.pfn(w.locked), "")),
    ("mlocked", lambda w: w.flip(w.pfn(w.locked), MLOCKED)),
    ("mlocked", lambda w: w.flip(w.pfn(w.anon), MLOCKED)),
    ("anon_exclusive", lambda w: w.flip(w.pfn(w.anon + 7 * PAGE), EXCLUSIVE)),
    ("anon_exclusive", lambda w: w.flip(w.pfn(w.shared), EXCLUSIVE)),
    ("reserved", lambda w: w.flip(w.pfn(w.anon), RESERVED)),
    ("reserved", lambda w: w.flip(0, RESERVED)),
    ("free_frame", lambda w: w.put("frame", w.get("pcp", 0, "pfn"), "state", LRU)),
    ("free_list", leave_lists),
    ("free_list", free_twice),
    ("free_count", lambda w: w.add("node", 1, "nr_free")),
    ("free_count", lambda w: w.add("node", 0, "fresh", -1)),
    ("frame_account", reserve_used),
    ("entry_unlocked", change_pte("anon", lambda e: MIGRATION_WRITE | e & (1 << 52) - (1 << 12))),
    ("migration_entry", migration_entry),
    ("unknown_entry", change_pte("anon", lambda e: 1 << 59 | 5 << 12)),
    ("entry_frame", change_pte("anon", lambda e: e | 1 << 45)),
    ("outside_vma", outside),
    ("protection", change_pte("anon", lambda e: e | 1 << 63 if not e >> 63 else e ^ 1 << 63)),
    ("protection", change_pte("shared", lambda e: e & ~1 | 1 << 8)),
    ("write_bit", change_pte("text", lambda e: e | RW)),
    ("write_exclusive", lambda w: w.flip(w.pfn(w.anon), EXCLUSIVE)),
    ("zero_page", change_pte("zero", lambda e: e & ~SPECIAL)),
    ("zero_page", change_pte("shared", lambda e: e | SPECIAL)),
    ("rmap", lambda w: w.put("frame", w.pfn(w.anon), "mapping", w.anon_vma(w.locked))),
    ("rmap", lambda w: w.flip(w.pfn(w.text), ANON)),
    ("rmap", lambda w: w.put("frame", w.pfn(w.shared), "mapping", w.file.index)),
    ("page_index", lambda w: w.add("frame", w.pfn(w.anon), "index")),
    ("page_index", lambda w: w.add("frame", w.pfn(w.text), "index")),
    ("page_table", lambda w: w.add("table", w.table(w.anon), "level")),
    ("page_table", lambda w: w.add("table", w.table(w.anon), "vpn", 512)),
    ("page_table", lambda w: w.put("table", w.table(w.anon), "mm", w.mm(w.child))),
    ("page_table", shared_tables),
    ("page_table", dirty_free_table),
    ("table_used", lambda w: w.add("table", w.table(w.anon), "used")),
    ("page_cache", lambda w: w.flip(w.pfn(w.text), CACHED)),
    ("page_cache", lambda w: w.put("file", w.file.index, "size", 2)),
    ("nrpages", lambda w: w.add("file", w.file.index, "nrpages")),
    ("nrpages", drop_slot),
    ("file_refs", lambda w: w.put("file", w.object(w.shared), "refs", 1)),
    ("shared_policy", empty_range),
    ("policy", home_nowhere),
    ("policy", bound_nowhere),
    ("policy", lambda w: w.put("sp_node", w.get("file", w.object(w.shared), "sp"), "pol_nodes", 4)),
    ("policy", lambda w: w.put("task", w.app._task, "mode", 9)),
    ("policy", lambda w: w.put("task", w.app._task, "il_prev", 64)),
    ("vma_list", lambda w: w.put("vma", w.vma(w.anon), "mm", w.mm(w.child))),
    ("vma_list", list_twice),
    ("vma_order", swap_vmas),
    ("vma_order", lambda w: w.put("vma", w.vma(w.zero), "end", w.zero >> 12)),
    ("vm_ops", lambda w: w.put("vma", w.vma(w.anon), "ops", 1)),
    ("rmap_chain", lambda w: w.put("vma", w.vma(w.anon), "chain", 0)),
    ("rmap_chain", lambda w: w.put("rnode", w.node_of(w.text), "owner", 1000)),
    ("rmap_chain", lambda w: w.put("rnode", w.node_of(w.anon), "vma", w.vma(w.zero))),
    ("rmap_chain", lambda w: w.put("vma", w.vma(w.text), "i_mmap", 0)),
    ("rmap_tree", tree_max),
    ("rmap_tree", lambda w: w.add("rnode", w.node_of(w.anon), "last", 3)),
    ("rmap_tree", lambda w: w.add("rnode", w.node_of(w.text), "start")),
    ("rmap_tree", lambda w: w.put("file", w.file.index, "tree", 0)),
    ("anon_active", lambda w: w.add("anon_vma", w.anon_vma(w.anon), "num_active_vmas")),
    ("anon_children", lambda w: w.add("anon_vma", w.anon_vma(w.anon), "num_children")),
    ("anon_refcount", lambda w: w.add("anon_vma", w.anon_vma(w.anon), "refcount")),
    ("rss", lambda w: w.add("mm", w.mm(w.app), "rss_anon", -1)),
    ("rss", lambda w: w.add("mm", w.mm(w.app), "rss_file")),
    ("rss", lambda w: w.add("mm", w.mm(w.app), "rss_shmem")),
    ("total_vm", lambda w: w.add("mm", w.mm(w.app), "total_vm")),
    ("locked_vm", lambda w: w.add("mm", w.mm(w.app), "locked_vm", -1)),
    ("group", lambda w: w.add("task", w.child._task, "live")),
    ("mm_users", lambda w: w.add("mm", w.mm(w.child), "users")),
    ("task", lambda w: w.put("task", w.child._task, "mm", 0)),
    ("pin", lambda w: w.add("pin", w.pin.handle, "refs")),
    ("pin", lambda w: w.put("task_pin", w.app._task << 32, "", 77)),
    ("lock", lambda w: w.put("mm", w.mm(w.app), "lock", 1)),
    ("lock", lambda w: w.put("table", w.table(w.anon), "lock", 1)),
    ("lock", lambda w: w.put("anon_vma", w.anon_vma(w.anon), "lock", 2)),
    ("lock", lambda w: w.put("file", w.file.index, "i_mmap_lock", 1)),
    ("lock", lambda w: w.put("file", w.file.index, "lock", 1)),
    ("lock", lambda w: w.put("node", 1, "lock", 1)),
    ("lock", lambda w: w.put("pcp", 0, "lock", 1)),
    ("lock", lambda w: w.put("heap", 0, "lock", 1)),
    ("lock", lambda w: w.put("slab", w.slab("rnodes"), "lock", 1)),
    ("slab", lambda w: w.add("slab", w.slab("vmas"), "used")),
    ("slab", lambda w: w.put("slab", w.slab("tables"), "free", 0)),
    ("heap", lambda w: w.put("mm", w.mm(w.app), "vmas_n", 1 << 20)),
]  # fmt: skip


class SwapWorld(World):
    """Under 2.6.17: page 1 came back from a swap device, and page 0 with it into the swap cache."""

    def __init__(self) -> None:
        nodes = [pm.Node("8MiB", cpus=1), pm.Node("8MiB")]
        self.machine = Machine(nodes, kernel="2.6.17", swap=["1MiB"])
        self.app = self.machine.spawn()
        self.anon = self.app.mmap(2 * PAGE)
        self.app.touch(self.anon, 2 * PAGE, write=True)
        self.machine.swap_out([self.pfn(self.anon), self.pfn(self.anon + PAGE)])
        self.app.touch(self.anon + PAGE, PAGE)

    @property
    def slot(self) -> int:
        """The slot of page 1."""
        return self.get("swap_entry", self.pfn(self.anon + PAGE))


SWAP_BREAKS: list[tuple[str, Callable[[SwapWorld], None]]] = [
    ("swap_map", lambda w: w.add("swap_map", w.slot, "")),
    ("swap_map", lambda w: w.put("swap_map", 3 - w.slot, "", 3)),
    ("swap_cache", lambda w: w.put("swap_cache", w.slot, "", 1 << 20)),
    ("swap_cache", lambda w: w.put("swap_entry", w.pfn(w.anon + PAGE), "", 7)),
    ("swap_cache", lambda w: w.flip(w.pfn(w.anon + PAGE), SWAPCACHE)),
    ("refcount", lambda w: w.add("frame", w.pfn(w.anon + PAGE), "state", -REF)),
    ("swap_inuse", lambda w: w.add("swap_device", 0, "inuse")),
    ("unknown_entry", lambda w: w.put("pte", w.pte(w.anon), "", 1 << 59)),
    ("lock", lambda w: w.put("swap", 0, "tree_lock", 1)),
    ("lock", lambda w: w.put("swap", 0, "swap_lock", 1)),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "breaks"), SWAP_BREAKS, ids=[rule for rule, _ in SWAP_BREAKS])
def test_broken_rule_of_swap_is_named(rule: str, breaks: Callable[[SwapWorld], None]) -> None:
    world = SwapWorld()
    world.machine.check(full=True)
    breaks(world)
    with pytest.raises(InvariantError, match=f"^{rule}: .*expected.* found"):
        world.machine.check(full=True)


@pytest.fixture
def world() -> World:
    made = World()
    made.machine.check(full=True)
    return made


@pytest.mark.parametrize(("rule", "breaks"), BREAKS, ids=[rule for rule, _ in BREAKS])
def test_broken_rule_is_named(world: World, rule: str, breaks: Callable[[World], None]) -> None:
    breaks(world)
    with pytest.raises(InvariantError, match=f"^{rule}: .*expected.* found"):
        world.machine.check(full=True)


def test_every_rule_has_a_test() -> None:
    rules = [name for name, _, _ in check.RULES[1:]]
    assert len(set(rules)) == len(rules)
    assert {rule for rule, _ in [*BREAKS, *SWAP_BREAKS]} == set(rules)
    assert [check.rule_name(i) for i in range(1, len(rules) + 1)] == rules


def test_error_tells_page_and_both_values(world: World) -> None:
    pfn = world.pfn(world.anon)
    world.add("frame", pfn, "state", 5 * REF)
    with pytest.raises(InvariantError) as error:
        world.machine.check()
    text = str(error.value)
    assert re.search(rf"frame {pfn} of node 0\b.*, page \d+ of anon_vma \d+", text)
    assert re.search(r"expected 1025, found 1030;", text)  # one PTE and one long-term pin


def test_entry_is_named_by_its_address(world: World) -> None:
    at = world.pte(world.text)
    world.put("pte", at, "", world.get("pte", at) | RW)
    with pytest.raises(InvariantError, match=rf"page {world.text:#x}.*mm {world.mm(world.app)}\b"):
        world.machine.check()


def test_check_without_full_finds_what_is_in_use(world: World) -> None:
    world.add("frame", world.pfn(world.anon), "state", REF)
    with pytest.raises(InvariantError, match=r"^refcount"):
        world.machine.check()


def test_leaked_frame_is_found_without_full(world: World) -> None:
    """Nothing leads to a lost frame; the counts of its node say that one is missing."""
    world.add("node", 0, "fresh")
    world.add("node", 0, "nr_free", -1)
    with pytest.raises(InvariantError, match=r"^free_list: .*expected .* 1, found 0"):
        world.machine.check()


def test_free_records_are_for_the_full_scan(world: World) -> None:
    world.put("frame", world.get("pcp", 0, "pfn"), "state", LRU)
    world.machine.check()
    with pytest.raises(InvariantError, match=r"^free_frame"):
        world.machine.check(full=True)


def test_check_passes_after_everything_is_gone(world: World) -> None:
    world.child.exit()
    world.machine.check(full=True)
    world.app.exit()
    world.machine.check(full=True)
    world.file.close()
    world.machine.check(full=True)
    for name in SLABS:
        assert world.get("slab", world.slab(name), "used") == 0, name
    free = sum(world.machine.free(nid) for nid in range(2))
    assert free == 16 * pm.MiB - PAGE


def test_cost_follows_what_is_in_use() -> None:
    """A terabyte nobody uses costs nothing: a walk over its frames would take far longer."""
    machine = Machine([pm.Node("512GiB", cpus=1), pm.Node("512GiB")])
    app = machine.spawn()
    app.touch(app.mmap(64 * PAGE), 64 * PAGE, write=True)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    machine.check()
    after = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    assert after - before < 500  # the records of all frames are 4 GiB, 2048 huge pages of the host
