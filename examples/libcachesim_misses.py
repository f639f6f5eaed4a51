"""libCacheSim prices the misses of a cache by the node that serves them, through its plug-in hooks.

    pip install libcachesim
    python examples/libcachesim_misses.py

libCacheSim runs the trace and asks hooks what to do. The hooks are a processor's cache of lines. A
miss is an access to a page of a program on a machine with a small fast node, and an evicted line is
written back. In the second run the pages with the most misses move to the fast node.
"""

from collections import Counter, OrderedDict

import libcachesim
import numpy as np

import pagemig as pm

NS = (80.0, 250.0)  # an access to node 0, DRAM, and to node 1, memory behind CXL: assumed
NS_MOVE = 3_000.0  # a page that moves: assumed
LINE = 64  # bytes of a line, which is an object of libCacheSim
PAGES, FAST = 2048, 512  # of the program; of the fast node
CACHE = 256 * 1024  # bytes
REQUESTS, EVERY = 120_000, 10_000  # misses between two migrations
LINES = PAGES * pm.PAGE_SIZE // LINE


class Memory:
    """The program whose lines are cached, and where its pages are."""

    def __init__(self, moves: bool) -> None:
        nodes = [pm.Node((FAST + 64) * pm.PAGE_SIZE, cpus=1), pm.Node(2 * PAGES * pm.PAGE_SIZE)]
        self.machine = pm.Machine(nodes, kernel="6.12")
        self.app = self.machine.spawn()
        self.base = self.app.mmap(PAGES * pm.PAGE_SIZE)
        self.app.mbind(self.base, PAGES * pm.PAGE_SIZE, pm.Bind([1]))
        self.app.touch(self.base, PAGES * pm.PAGE_SIZE, write=True)
        self.cpu = self.app.context()
        self.lines: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self.moves = moves
        self.heat: Counter[int] = Counter()  # misses of each page since the last migration
        self.misses = self.fast = self.written = self.moved = 0
        self.ns = self.moving = 0.0

    def access(self, line: int, write: bool) -> None:
        """Go to memory."""
        self.cpu.access(self.base + line * LINE, write)
        self.ns += NS[self.cpu.node]
        self.fast += self.cpu.node == 0

    def migrate(self) -> None:
        """Move the pages with the most misses to the fast node, and all others off it."""
        hot = [page for page, _ in self.heat.most_common(FAST)]
        cold = np.setdiff1d(np.arange(PAGES), hot)
        before = self.machine.counters["pgmigrate_success"]
        for pages, node in ((cold, 1), (hot, 0)):
            self.app.move_pages(self.base + np.asarray(pages, np.uint64) * pm.PAGE_SIZE, node)
        moved = self.machine.counters["pgmigrate_success"] - before
        self.moved += moved
        self.moving += moved * NS_MOVE
        self.heat.clear()


# What follows is the plug-in: six functions that libCacheSim calls.


def hit(memory: Memory, request: libcachesim.Request) -> None:
    """Note that a line was used."""
    memory.lines.move_to_end(request.obj_id)


def miss(memory: Memory, request: libcachesim.Request) -> None:
    """Fetch a line from the page that holds it."""
    memory.lines[request.obj_id] = None
    memory.misses += 1
    memory.access(request.obj_id, False)
    memory.heat[request.obj_id * LINE // pm.PAGE_SIZE] += 1
    if memory.moves and memory.misses % EVERY == 0:
        memory.migrate()


def evict(memory: Memory, request: libcachesim.Request) -> int:
    """Write the least recently used line back."""
    line, _ = memory.lines.popitem(last=False)
    memory.written += 1
    memory.access(line, True)
    return line


def remove(memory: Memory, line: int) -> None:
    """Forget a line."""
    del memory.lines[line]


def run(moves: bool) -> tuple[Memory, float]:
    """Run the trace; return the memory afterwards, and the share of requests that missed."""
    memory = Memory(moves)
    cache = libcachesim.PluginCache(
        CACHE,
        cache_init_hook=lambda _: memory,
        cache_hit_hook=hit,
        cache_miss_hook=miss,
        cache_eviction_hook=evict,
        cache_remove_hook=remove,
        cache_free_hook=lambda memory: memory.cpu.close(),
        cache_name="lines-over-pagemig",
        hashpower=16,
    )
    ratio, _ = cache.process_trace(trace())
    memory.machine.check(full=True)
    return memory, ratio


def trace() -> libcachesim.SyntheticReader:
    """Make requests for lines, some far more often than others."""
    return libcachesim.SyntheticReader(
        num_of_req=REQUESTS, obj_size=LINE, alpha=0.8, num_objects=LINES, seed=1
    )


def main() -> None:
    """Run it with and without migration, and print what memory cost."""
    own, _ = libcachesim.LRU(CACHE, hashpower=16).process_trace(trace())
    print(f"libCacheSim's own LRU misses {own:.4f} of {REQUESTS} requests")
    print("pages  missed  to fast %  memory ms  moved  moving ms")
    for name, moves in (("stay", False), ("move", True)):
        memory, missed = run(moves)
        accesses = memory.misses + memory.written
        print(
            f"{name}   {missed:.4f} {100 * memory.fast / accesses:10.2f} {memory.ns / 1e6:10.3f}",
            f"{memory.moved:6} {memory.moving / 1e6:10.3f}",
        )


if __name__ == "__main__":
    main()
