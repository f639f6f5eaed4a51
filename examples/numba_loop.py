"""A numba loop that asks the model where each access goes, without the interpreter lock.

python examples/numba_loop.py
"""

import numpy as np
from numba import njit

import pagemig as pm
from pagemig import api

access_packed = api.functions.access_packed  # pfn << 16 | node << 8 | kind


@njit(nogil=True)
def nodes_of_walk(context, addresses, counts):
    """Count the accesses that each node serves."""
    for address in addresses:
        packed = access_packed(context, address, 0)
        counts[(packed >> 8) & 255] += 1


def main() -> None:
    """Walk over memory that is interleaved, before and after half of it has moved."""
    machine = pm.Machine([pm.Node("64MiB", cpus=1), "64MiB"])
    app = machine.spawn()
    n = 4096
    base = app.mmap(n * pm.PAGE_SIZE)
    app.mbind(base, n * pm.PAGE_SIZE, pm.Interleave([0, 1]))
    app.touch(base, n * pm.PAGE_SIZE, write=True)
    pages = base + np.arange(n, dtype=np.uint64) * np.uint64(pm.PAGE_SIZE)
    addresses = np.random.default_rng(1).choice(pages, 200_000)
    with app.context() as context:
        for what in ("interleaved", "moved to node 0"):
            counts = np.zeros(2, np.int64)
            nodes_of_walk(context.address, addresses, counts)
            print(f"{what:16} node 0: {counts[0]:6}  node 1: {counts[1]:6}")
            app.move_pages(pages, 0)


if __name__ == "__main__":
    main()
