"""Views for policies without a replay, and the results of their moves."""

import numpy as np

from pagemig import auto

#: One fast node with processors, then slower ones without.
TWO_TIERS = [[80, 240], [80, 240]]
THREE_TIERS = [[80, 160, 300]] * 3
#: Two nodes with processors and a slow one.
TWO_PROCESSORS = [[80, 140, 240], [140, 80, 240], [80, 140, 240]]

TIERS = {
    2: ((0,), (1,)),
    3: ((0,), (1,), (2,)),
}


def view(node, free, *, latency=TWO_TIERS, tiers=None, homes=(0,), owner=None, cost=1000.0, **more):
    """A view of pages on nodes; what sources add by name."""
    node = np.array(node, np.int64)
    capacity = np.array(free, np.int64)
    capacity += np.bincount(node[node >= 0], minlength=capacity.size)
    made = auto.View(
        capacity=capacity,
        owner=np.zeros(node.size, np.int64) if owner is None else np.array(owner, np.int64),
        homes=np.array(homes, np.int64),
        latency=np.array(latency, float),
        tiers=tiers or TIERS[capacity.size],
        bandwidth=np.array([[100.0, 25.0, 25.0][: capacity.size]] * capacity.size),
        rng=np.random.default_rng(0),
        move_ns=lambda pages, source, target: pages * cost,
    )
    made.epoch = 0
    made.node, made.free = node, np.array(free, np.int64)
    for name, value in more.items():
        setattr(made, name, np.array(value) if isinstance(value, list) else value)
    return made


def pairs(moves):
    """Moves as a list of (page, node)."""
    pages, nodes = np.asarray(moves[0]), np.asarray(moves[1])
    return list(zip(pages.tolist(), np.broadcast_to(nodes, pages.shape).tolist(), strict=True))


def apply(made, moves):
    """Carry moves out; in this order the kernel never has to refuse one."""
    node, free = made.node.copy(), made.free.copy()
    for page, target in pairs(moves):
        assert node[page] >= 0, f"page {page} is not there"
        assert node[page] != target, f"page {page} is on node {target} already"
        assert free[target] > 0, f"node {target} has no room for page {page}"
        free[target] -= 1
        free[node[page]] += 1
        node[page] = target
    made.node, made.free = node, free
