"""Policies against naive twins: plain loops over pages, written from what each policy promises."""

import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemig import auto
from pagemig.auto import policies
from support.views import THREE_TIERS, TWO_PROCESSORS, TWO_TIERS, apply, pairs, view

LAYOUTS = {
    "two tiers": {"latency": TWO_TIERS},
    "three tiers": {"latency": THREE_TIERS},
    "two processors": {"latency": TWO_PROCESSORS, "tiers": ((0, 1), (2,)), "homes": (0, 1)},
    "two sockets": {"latency": [[80, 140], [140, 80]], "tiers": ((0, 1),)},
}


# ---- the helpers of a view, in plain Python ---------------------------------------------------


def naive_demoted(v, pages):
    free, moves = v.free.tolist(), []
    count = [0] * len(free)
    wanted = {page: int(v.below[v.node[page]]) for page in pages}
    for nid in [n for tier in v.tiers for n in tier]:
        for page in pages:
            if wanted[page] == nid:
                count[nid] += 1
                if count[nid] > free[nid]:
                    wanted[page] = int(v.below[nid]) if len(v.tiers) > 1 else -1
    for page in pages:
        if wanted[page] >= 0:
            moves.append((page, wanted[page]))
    return moves


def naive_swap(v, pages, heat, worth=0.0):
    down, up = [], []
    for nid in v.fast:
        wanted = [p for p in pages if v.home[p] == nid and v.node[p] != nid]
        wanted.sort(key=lambda p: -heat[p])
        free = min(int(v.free[nid]), len(wanted))
        there = sorted((p for p in range(len(v.node)) if v.node[p] == nid), key=lambda p: heat[p])
        out = there[: max(len(wanted) - int(v.free[nid]), 0)]
        comes, goes = wanted[:free], []
        for new, old in zip(wanted[free:], out, strict=False):
            if not heat[new] > heat[old] + worth:
                break
            comes.append(new)
            goes.append(old)
        down += naive_demoted(v, goes)
        up += [(p, nid) for p in comes]
    return down + up


def naive_into(v, pages, free):
    room, moves = list(free), []
    for page in sorted(range(len(pages)), key=lambda k: k):
        nid = int(v.home[pages[page]])
        if room[nid] > 0:
            room[nid] -= 1
            moves.append((pages[page], nid))
    return moves


def naive_tier(v, page):
    """Rank of a page's node among the latencies that its program sees."""
    if v.node[page] < 0:
        return -1
    row = v.latency[v.home[page]].tolist()
    return sorted(set(row)).index(row[v.node[page]])


def naive_gain(v, page, accesses):
    home = int(v.home[page])
    slow = int(v.below[home]) if v.node[page] == home else int(v.node[page])
    return (v.latency[home, slow] - v.latency[home, home]) * accesses


# ---- the twins --------------------------------------------------------------------------------


class TwinOffNode:
    def __init__(self, policy):
        self.p = policy

    def epoch(self, v):
        heat = [int(v.counts[v.home[p], p]) for p in range(len(v.node))]
        if self.p.period:
            heat = [int(s) * self.p.period for s in v.samples]
        return naive_swap(v, [p for p, h in enumerate(heat) if h >= self.p.threshold], heat)


class TwinMostUsed:
    def __init__(self, policy):
        self.p, self.lost = policy, None

    def epoch(self, v):
        self.lost = self.lost or [0.0] * len(v.node)
        for p in range(len(v.node)):
            gain = naive_gain(v, p, int(v.counts[v.home[p], p]))
            self.lost[p] = gain + self.p.memory * self.lost[p]
        up = [p for p, lost in enumerate(self.lost) if lost > 1000 and naive_tier(v, p) > 0]
        return naive_swap(v, up, self.lost, worth=2000)


class TwinAge:
    def __init__(self, policy):
        self.p, self.busy, self.idle = policy, None, None

    def epoch(self, v):
        size = len(v.node)
        self.busy, self.idle = self.busy or [0] * size, self.idle or [0] * size
        if v.accessed is None:
            return []
        for p in range(size):
            self.busy[p] = self.busy[p] + 1 if v.accessed[p] else 0
            self.idle[p] = 0 if v.accessed[p] else self.idle[p] + 1
        tiers = [naive_tier(v, p) for p in range(size)]
        down = [p for p in range(size) if tiers[p] == 0 and self.idle[p] >= self.p.idle]
        up = [p for p in range(size) if tiers[p] > 0 and self.busy[p] >= self.p.active]
        free = v.free.copy()
        for p in down:
            free[v.node[p]] += 1
        return naive_demoted(v, down) + naive_into(v, up, free)


class TwinHeMem:
    def __init__(self, policy):
        self.p, self.n = policy, None

    def epoch(self, v):
        self.n = [a + int(b) for a, b in zip(self.n or [0] * len(v.node), v.samples, strict=True)]
        while max(self.n) >= self.p.cool:
            self.n = [n // 2 for n in self.n]
        up = [p for p, n in enumerate(self.n) if n >= self.p.hot and naive_tier(v, p) > 0]
        return naive_swap(v, up, [min(n, self.p.hot) for n in self.n])


class TwinNumaBalancing:
    def __init__(self, policy):
        self.before = {}

    def epoch(self, v):
        up = []
        for page, nid in zip(v.faults.tolist(), v.fault_node.tolist(), strict=True):
            if self.before.get(page) == nid and v.node[page] != nid:
                up.append(page)
            self.before[page] = nid
        return naive_into(v, up, v.free)


class TwinTpp:
    def __init__(self, policy):
        self.p, self.age = policy, None

    def epoch(self, v):
        size = len(v.node)
        self.age = [age + 1 for age in self.age or [0] * size]
        for p in range(size):
            if v.accessed is not None and v.accessed[p]:
                self.age[p] = 0
        down = []
        for nid in v.upper:
            if v.free[nid] < self.p.low * v.capacity[nid]:
                need = max(int(self.p.high * v.capacity[nid]) - int(v.free[nid]), 0)
                there = [p for p in range(size) if v.node[p] == nid]
                down += sorted(there, key=lambda p: -self.age[p])[:need]
        free = v.free.copy()
        for p in down:
            free[v.node[p]] += 1
        soon = zip(v.faults.tolist(), v.fault_epochs.tolist(), strict=True)
        up = [page for page, waited in soon if waited <= self.p.soon]
        return naive_demoted(v, down) + naive_into(v, up, free)


class TwinDamon:
    def __init__(self, policy):
        self.p, self.up, self.down = policy, 1.0, 1.0

    def epoch(self, v):
        capacity = sum(int(v.capacity[nid]) for nid in v.fast)
        free = sum(int(v.free[nid]) for nid in v.fast)
        for which, reached in (
            ("up", (capacity - free) / max(self.p.used * capacity, 1e-9)),
            ("down", free / max(self.p.free * capacity, 1e-9)),
        ):
            quota = getattr(self, which) * (2 - min(reached, 2.0))
            setattr(self, which, min(max(quota, 1.0), capacity))
        found, age = {}, {}
        rows = zip(*(column.tolist() for column in v.regions), strict=True)
        for start, stop, nr, old in rows:
            for page in range(start, stop):
                found[page], age[page] = nr, old
        size = len(v.node)
        hot = [p for p in range(size) if found[p] >= self.p.hot and naive_tier(v, p) > 0]
        hot = sorted(hot, key=lambda p: (-found[p], -age[p]))[: int(self.up)]
        cold = [p for p in range(size) if found[p] == 0 and naive_tier(v, p) == 0]
        cold = sorted(cold, key=lambda p: -age[p])[: int(self.down)]
        room = v.free.copy()
        for p in cold:
            room[v.node[p]] += 1
        return naive_demoted(v, cold) + naive_into(v, hot, room)


class TwinCostBenefit:
    def __init__(self, policy):
        self.p, self.short, self.long = policy, None, None

    def epoch(self, v):
        size = len(v.node)
        self.short, self.long = self.short or [0.0] * size, self.long or [0.0] * size
        gain = []
        for p in range(size):
            accesses = int(v.samples[p]) * float(self.p.period)
            self.short[p] = 0.5 * self.short[p] + 0.5 * accesses
            self.long[p] = 0.9 * self.long[p] + 0.1 * accesses
            score = min(self.short[p], 2 * self.long[p]) * self.p.horizon
            gain.append(naive_gain(v, p, score))
        up = [p for p in range(size) if naive_tier(v, p) > 0 and gain[p] > 2000]
        return naive_swap(v, up, gain, worth=2000)


class TwinColloid:
    def __init__(self, policy):
        self.p, self.heat, self.low, self.high = policy, None, 0.0, 1.0

    def epoch(self, v):
        size = len(v.node)
        self.heat = [
            0.5 * h + int(s) for h, s in zip(self.heat or [0.0] * size, v.samples, strict=True)
        ]
        total = sum(h for p, h in enumerate(self.heat) if v.node[p] >= 0)
        if total == 0:
            return []
        share = [h / total for h in self.heat]
        tiers = [naive_tier(v, p) for p in range(size)]
        fast, slow = v.fast[0], int(v.below[v.fast[0]])
        now = float(np.sum([share[p] for p in range(size) if tiers[p] == 0]))
        here, there = v.loaded[fast, fast], v.loaded[fast, slow]
        if abs(here - there) < self.p.delta * here:
            return []
        if here < there:
            self.low = now
        else:
            self.high = now
        if self.high < self.low + self.p.epsilon:
            self.low, self.high = (now, 1.0) if here < there else (0.0, now)
        wanted = (self.low + self.high) / 2 - now
        side = [p for p in range(size) if (tiers[p] > 0 if wanted > 0 else tiers[p] == 0)]
        side = sorted((p for p in side if share[p] > 0), key=lambda p: -share[p])
        chosen, taken = [], 0.0
        for page in side:
            taken += share[page]
            if taken > abs(wanted):
                break
            chosen.append(page)
        # pages of 4096 bytes, accesses of 64
        chosen = chosen[: int(abs(wanted) * sum(v.samples.tolist()) * self.p.period * 64 / 4096)]
        return naive_swap(v, chosen, self.heat) if wanted > 0 else naive_demoted(v, chosen)


class TwinLookAhead:
    def __init__(self, policy):
        self.p = policy

    def epoch(self, v):
        gain = [naive_gain(v, p, int(v.future[v.home[p], p])) for p in range(len(v.node))]
        up = [p for p, g in enumerate(gain) if g > 1000 and naive_tier(v, p) > 0]
        return naive_swap(v, up, gain, worth=2000)


TWINS = [
    (policies.OffNode(threshold=3), TwinOffNode),
    (policies.OffNode(threshold=8, period=4), TwinOffNode),
    (policies.MostUsed(memory=0.5), TwinMostUsed),
    (policies.Age(active=2, idle=2), TwinAge),
    (policies.HeMem(hot=3, cool=7), TwinHeMem),
    (policies.NumaBalancing(), TwinNumaBalancing),
    (policies.Tpp(low=0.2, high=0.4, soon=2), TwinTpp),
    (policies.Damon(used=0.9, free=0.3), TwinDamon),
    (policies.CostBenefit(period=4, horizon=2), TwinCostBenefit),
    (policies.Colloid(), TwinColloid),
    (policies.LookAhead(), TwinLookAhead),
]


def drawn(v, rng):
    """What sources might have seen."""
    size, nodes = len(v.node), v.free.size
    there = v.node >= 0
    v.counts = rng.integers(0, 8, (nodes, size)) * there
    v.future = rng.integers(0, 30, (nodes, size)) * there
    v.samples = rng.integers(0, 4, size) * there
    v.accessed = (rng.random(size) < 0.5) & there if rng.random() < 0.8 else None
    faults = np.flatnonzero(there & (rng.random(size) < 0.4))
    v.faults = rng.permutation(faults)
    v.faults = v.faults[v.node[v.faults] != v.home[v.faults]]
    v.fault_node = v.home[v.faults]
    v.fault_epochs = rng.integers(0, 5, v.faults.size)
    starts = np.unique(np.append(0, rng.integers(0, size, 3)))
    stops = np.append(starts[1:], size)
    found, age = rng.integers(0, 3, starts.size), rng.integers(0, 5, starts.size)
    v.regions = auto.RegionTable(starts, stops, found, age)
    v._load = lambda: v.latency * rng.integers(1, 5, v.latency.shape)
    loads = v._load()
    v._load = lambda: loads


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("policy", "twin"), TWINS, ids=lambda x: getattr(x, "__name__", ""))
@given(st.integers(0, 2**32))
@settings(max_examples=15)
def test_policies_do_what_their_twins_do(policy, twin, layout, seed):
    rng = np.random.default_rng(seed)
    options = LAYOUTS[layout]
    nodes, size = len(options["latency"]), int(rng.integers(2, 14))
    owner = np.sort(rng.integers(0, len(options.get("homes", (0,))), size))
    free = rng.integers(0, 4, nodes)
    free[-1] = size  # as in a replay: the last node has room for everything
    v = view(rng.integers(-1, nodes, size), free, owner=owner, **options)
    policy.start(v)
    naive = twin(policy)
    for epoch in range(5):
        v.epoch = epoch
        drawn(v, rng)
        moves = policy.epoch(v)
        assert pairs(moves) == naive.epoch(v)
        apply(v, moves)


# ---- single promises --------------------------------------------------------------------------


def test_hottest_first_into_free_room():
    v = view([0, 1, 1, 1], [1, 9], counts=[[0, 50, 90, 3], [0] * 4])
    policy = policies.MostUsed()
    policy.start(v)
    # 160 ns an access: page 1 lost 8 us, page 2 14.4 us, page 3 less than a move costs. One fits
    # the room; the other comes for the page nobody uses, which goes first.
    assert pairs(policy.epoch(v)) == [(0, 1), (2, 0), (1, 0)]


def test_a_pair_has_to_pay_for_two_moves():
    def moved(cold):
        v = view([0, 1], [0, 9], counts=[[cold, 20], [0, 0]])
        policy = policies.MostUsed()
        policy.start(v)
        return len(pairs(policy.epoch(v)))

    # The pair gains 160 ns x (20 - cold) and costs 2000 ns: it pays below 7.5 accesses.
    assert moved(7) == 2
    assert moved(8) == 0


def test_a_start_forgets():
    policy = policies.MostUsed()
    v = view([1], [0, 9], cost=1e9, counts=[[80], [0]])
    policy.start(v)
    policy.epoch(v)
    assert policy.lost[0] == 80 * 160
    policy.start(v)
    assert policy.lost[0] == 0


def test_full_tiers_pass_on():
    v = view([0, 0, 0, 1], [0, 1, 9], latency=THREE_TIERS)
    assert pairs(v.demoted(np.array([0, 1, 2]))) == [(0, 1), (1, 2), (2, 2)]
    assert pairs(v.demoted(np.array([3]))) == [(3, 2)]
    assert pairs(v.promoted(np.array([3]))) == []


def test_the_last_tier_has_nowhere_to_go():
    v = view([1, 1], [5, 5])
    assert pairs(v.demoted(np.array([0, 1]))) == []
    assert v.below.tolist() == [1, -1]
    assert v.upper == (0,)


def test_weights_follow_bandwidth():
    v = view([-1], [4, 4])
    assert list(policies.WeightedInterleave().place(v)) == [4, 1]
    assert list(policies.WeightedInterleave([2, 3]).place(v)) == [2, 3]
    assert list(policies.Interleave().place(v)) == [1, 1]


def test_a_view_says_what_a_policy_did_not_ask_for():
    v = view([0], [1, 1])
    with pytest.raises(AttributeError, match=r"view.samples is for policies whose needs have Sam"):
        _ = v.samples
    with pytest.raises(AttributeError, match="a view has no 'nosuch'"):
        _ = v.nosuch


# ---- names ------------------------------------------------------------------------------------


class Still(auto.Policy):
    """Moves nothing."""

    def epoch(self, view):
        return [], []


@pytest.fixture
def mine(monkeypatch):
    module = types.ModuleType("mine")
    module.Still = Still
    module.Odd = object
    module.number = 3
    module.Wants = lambda more: Still()
    module.Needy = type("Needy", (Still,), {"needs": ["everything"]})
    module.Wrong = lambda: policies.HeMem(period=0)
    monkeypatch.setitem(sys.modules, "mine", module)


def test_policies_by_name(mine):
    assert isinstance(auto.policy("hemem"), policies.HeMem)
    assert auto.policy("hemem(period=10, hot=2)") == policies.HeMem(period=10, hot=2)
    assert auto.policy(" weighted-interleave(weights=[3, 1])").weights == [3, 1]
    assert isinstance(auto.policy("mine:Still"), Still)
    assert isinstance(auto.policy("mine:Wants(more='x')"), Still)
    own = Still()
    assert auto.policy(own) is own


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nosuch", "there is first-touch, "),
        ("", "there is"),
        ("mine:Nosuch", "Nosuch"),
        ("nosuchmodule:X", "nosuchmodule"),
        ("mine:Odd", r"no method epoch\(view\)"),
        ("mine:number", "not callable"),
        ("mine:Wants", "missing"),
        ("mine:Needy", "not a source of statistics"),
        ("mine:Wrong", "period must be a number from 1 on, not 0"),
        ("hemem(10)", "by name"),
        ("hemem(period=)", "hemem"),
        ("hemem(period=open('x'))", "hemem"),
        ("hemem(nosuch=1)", "nosuch"),
        ("hemem(period=1", "hemem"),
        ("hemem(**{})", "by name"),
        ("hemem(cool=0)", "cool 0"),
        ("tpp(low=2)", "low 2"),
        ("most-used(memory=1.1)", "memory 1.1"),
        ("age(every=0)", "every must be"),
        ("damon(most=2)", "most must be"),
        ("look-ahead(horizon=0)", "epochs must be"),
    ],
)
def test_policies_that_are_none(mine, name, why):
    with pytest.raises(ValueError, match=why):
        auto.policy(name)


def test_a_module_of_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "here_only.py").write_text(
        "from pagemig.auto import Policy\n\n\nclass Mine(Policy):\n"
        "    def __init__(self, period=3):\n        self.period = period\n\n"
        "    def epoch(self, view):\n        return [], []\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = list(sys.path)
    assert auto.policy("here_only:Mine(period=7)").period == 7
    assert sys.path == before
    sys.modules.pop("here_only")


def test_lists_are_cut_at_their_own_commas():
    text = "first-touch, hemem(period=10, hot=3),weighted-interleave(weights=[1,2])"
    assert auto.split(text) == [
        "first-touch",
        "hemem(period=10, hot=3)",
        "weighted-interleave(weights=[1,2])",
    ]


def test_two_of_a_kind_have_two_names():
    assert auto.label(policies.HeMem()) == "hemem"
    assert auto.label(policies.HeMem(period=10, cool=9)) == "hemem(period=10, cool=9)"
    assert auto.label(Still()) == "Still"
    assert auto.label(" tpp(low=0.1) ") == "tpp(low=0.1)"


def test_only_oracles_see_what_no_machine_can():
    oracles = {name for name in auto.POLICIES if auto.is_oracle(auto.policy(name))}
    assert oracles == {"off-node", "most-used", "look-ahead"}
    assert not auto.is_oracle(auto.policy("off-node(period=10)"))
    assert (
        auto.described(auto.policy("interleave")) == "Pages go to all nodes in turn and stay there"
    )
