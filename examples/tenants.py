"""Several programs on one machine, in batches of accesses: how they slow each other down.

    python examples/tenants.py

Three tenants share a machine with a small fast node. Each makes a batch of accesses a round; the
cost of a batch follows from the nodes that served it. After each round the hottest pages of the
tenant that waited longest move to the fast node.
"""

import numpy as np

import pagemig as pm

NS = np.array([80.0, 250.0])  # an access to node 0, to node 1
PAGES, BATCH, ROUNDS = 2048, 50_000, 5


def main() -> None:
    """Run the rounds, and print how long each tenant waited."""
    machine = pm.Machine([pm.Node("10MiB", cpus=3), "64MiB"], kernel="6.12")
    tenants = [machine.spawn(cpu=cpu) for cpu in range(3)]
    bases = [tenant.mmap(PAGES * pm.PAGE_SIZE) for tenant in tenants]
    contexts = [tenant.context() for tenant in tenants]
    random = np.random.default_rng(2)
    weights = 1 / np.arange(1, PAGES + 1) ** 0.9
    orders = [random.permutation(PAGES) for _ in tenants]
    node, kind = np.empty(BATCH, np.int8), np.empty(BATCH, np.uint8)
    print("round  " + "  ".join(f"tenant {i} ms" for i in range(3)) + "  faults")
    for round_ in range(ROUNDS):
        waited, faults, hottest = [], 0, []
        for base, context, order in zip(bases, contexts, orders, strict=True):
            touched = order[random.choice(PAGES, BATCH, p=weights / weights.sum())]
            addresses = (base + touched * pm.PAGE_SIZE).astype(np.uint64)
            done = context.access_many(addresses, np.ones(BATCH, np.uint8), node=node, kind=kind)
            assert done == BATCH
            waited.append(NS[node].sum() / 1e6)
            faults += int((kind > 0).sum())
            hottest.append(np.argsort(-np.bincount(touched, minlength=PAGES))[:400])
        print(f"{round_:5}  " + "  ".join(f"{ms:11.3f}" for ms in waited) + f"  {faults:6}")
        slowest = int(np.argmax(waited))
        for i, (tenant, base, hot) in enumerate(zip(tenants, bases, hottest, strict=True)):
            if i != slowest:  # room for the slowest: the others' cold pages leave the fast node
                cold = np.setdiff1d(np.arange(PAGES), hot)
                tenant.move_pages(base + cold * pm.PAGE_SIZE, 1)
        tenants[slowest].move_pages(bases[slowest] + hottest[slowest] * pm.PAGE_SIZE, 0)
    for context in contexts:
        context.close()
    machine.check(full=True)


if __name__ == "__main__":
    main()
