"""SimPy processes that contend for bandwidth while their pages migrate.

    python examples/simpy_bandwidth.py

Three programs read pages of slow memory. After a while the hot pages of all three move to fast
memory at once, and SimPy's clock decides when each step of the migrations happens. The copies take
turns with the programs on the bus of each node. A program that accesses a page that is being moved
waits until the page has arrived. Two kernels are compared: one unmaps page by page, the other a
batch at a time, which takes fewer flushes and makes programs wait longer.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import simpy

import pagemig as pm

LATENCY = (80.0, 250.0)  # ns of a read from node 0, DRAM, and node 1, memory behind CXL: assumed
RATE = (40.0, 12.0)  # bytes a ns of their buses: assumed
FLUSH = 2_000.0  # ns of one TLB flush on several processors: assumed
PROGRAMS, PAGES, HOT = 3, 1024, 384
START, END = 5e5, 3e6  # the migrations begin, the run ends: ns
READ = 4096  # bytes
WAIT = 3  # kind of an access that would wait
PHASES = ("before", "while", "after")


class Model:
    """A machine in SimPy's time: its buses, and an event for each frame that is waited for."""

    def __init__(self, kernel: str, *, busy: bool = True) -> None:
        self.env = simpy.Environment()
        nodes = [pm.Node("8MiB", cpus=PROGRAMS), pm.Node("16MiB")]
        self.machine = pm.Machine(nodes, kernel=kernel)
        self.machine.width = 1  # a stop for each page, not for as many as 64
        self.buses = [simpy.Resource(self.env) for _ in nodes]
        self.waiting: dict[int, simpy.Event] = {}
        self.moving = PROGRAMS  # migrations that have not ended
        self.reads, self.waits = Counter(), Counter()  # by phase
        self.time = Counter()
        self.flushes, self.moved, self.ended = 0, 0, 0.0
        for number in range(PROGRAMS):
            self.start(number, busy)

    @property
    def phase(self) -> str:
        """Whether the migrations have not begun, are running, or have ended."""
        if self.env.now < START:
            return "before"
        return "while" if self.moving else "after"

    def start(self, number: int, busy: bool) -> None:
        """Start a program, unless it is to be silent, and the migration of its pages."""
        app = self.machine.spawn(cpu=number)
        base = app.mmap(PAGES * pm.PAGE_SIZE)
        app.mbind(base, PAGES * pm.PAGE_SIZE, pm.Bind([1]))
        app.touch(base, PAGES * pm.PAGE_SIZE, write=True)
        random = np.random.default_rng(number)
        pages = base + random.permutation(PAGES).astype(np.uint64) * np.uint64(pm.PAGE_SIZE)
        if busy:
            self.env.process(self.program(app, pages, random))
        self.env.process(self.migration(app, pages[:HOT]))

    def carry(self, node: int, size: int) -> Iterator[simpy.Event]:
        """Take a turn on a node's bus."""
        with self.buses[node].request() as turn:
            yield turn
            yield self.env.timeout(size / RATE[node])

    def program(self, app, pages, random) -> Iterator[simpy.Event]:
        """Read mostly hot pages: each read takes its node's latency and a turn on its bus."""
        with app.context() as cpu:
            while True:
                page = pages[random.integers(HOT if random.random() < 0.9 else PAGES)]
                begun, phase = self.env.now, self.phase
                while cpu.access(page) == WAIT:
                    self.waits[phase] += 1
                    yield self.waiting.setdefault(cpu.waits_for[1], self.env.event())
                yield self.env.timeout(LATENCY[cpu.node])
                yield from self.carry(cpu.node, READ)
                self.reads[phase] += 1
                self.time[phase] += self.env.now - begun

    def migration(self, app, pages) -> Iterator[simpy.Event]:
        """Move pages to node 0, in the time that flushes and copies take."""
        yield self.env.timeout(START)
        move = app.start_move_pages(pages, 0)
        for event in move:
            if event.at == "unmapped":
                self.flushes += event.flushes
                yield self.env.timeout(event.flushes * FLUSH)
            elif event.at == "copied":
                for _ in event.source:  # a page leaves over one bus and arrives over the other
                    out, home = (self.carry(node, pm.PAGE_SIZE) for node in (1, 0))
                    yield self.env.process(out) & self.env.process(home)
            elif event.at == "stage":
                self.wake(event.source)
            elif event.at == "pass":
                self.wake([*self.waiting])
        self.moved += move.result.status.tolist().count(0)
        self.moving -= 1
        self.ended = self.env.now
        self.wake([*self.waiting])  # pages that did not move are accessible again, too

    def wake(self, frames) -> None:
        """Wake every program that waits for one of these frames."""
        for frame in frames:
            if event := self.waiting.pop(int(frame), None):
                event.succeed()


def main() -> None:
    """Run both kernels, and print what the programs saw."""
    print("kernel  phase    reads  ns a read  waits")
    for kernel in ("6.1", "6.12"):
        model = Model(kernel)
        model.env.run(until=END)
        for phase in PHASES:
            reads = model.reads[phase]
            mean = model.time[phase] / reads
            print(f"{kernel:6}  {phase:6} {reads:7} {mean:10.1f} {model.waits[phase]:6}")
        alone = Model(kernel, busy=False)
        alone.env.run()
        times = [(m.ended - START) / 1000 for m in (model, alone)]
        print(
            f"{kernel:6}  {model.moved} pages and {model.flushes} flushes in {times[0]:.1f} us,",
            f"in {times[1]:.1f} us when the programs are silent",
        )
        model.machine.check(full=True)


if __name__ == "__main__":
    main()
