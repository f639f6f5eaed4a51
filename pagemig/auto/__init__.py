"""Automatic page migration in user space: statistics in, `move_pages` out, and the optimum.

The kernel offers the mechanism, a program in user space decides. A policy declares its statistics
(``needs``), is charged for them, and after every epoch answers which pages go where::

    class Hottest(Policy):
        needs = [Samples(period=100)]

        def epoch(self, view):
            return view.swap(np.flatnonzero(view.samples), view.samples)

`optimum` bounds every policy, `hardware` has machines by name, `costs.price` prices a run on one of
them. Nothing here knows the model of a kernel.
"""

from .costs import Bill, Traffic, least_move_ns, move_ns, price
from .hardware import DEFAULT_MACHINE, Hardware, Prices, hardware, machines
from .named import PolicyError, described, is_oracle, label, policy, split
from .optimum import Demand, Optimum, optimum
from .policies import (
    POLICIES,
    Age,
    Colloid,
    CostBenefit,
    Damon,
    FirstTouch,
    HeMem,
    Interleave,
    LookAhead,
    MostUsed,
    NumaBalancing,
    OffNode,
    Tpp,
    WeightedInterleave,
)
from .sources import (
    AccessedBits,
    Counts,
    Future,
    HintFaults,
    Regions,
    RegionTable,
    Samples,
)
from .view import NO_MOVES, Moves, Policy, Seen, Source, Stream, View, Watch

__all__ = [
    "DEFAULT_MACHINE",
    "NO_MOVES",
    "POLICIES",
    "AccessedBits",
    "Age",
    "Bill",
    "Colloid",
    "CostBenefit",
    "Counts",
    "Damon",
    "Demand",
    "FirstTouch",
    "Future",
    "Hardware",
    "HeMem",
    "HintFaults",
    "Interleave",
    "LookAhead",
    "MostUsed",
    "Moves",
    "NumaBalancing",
    "OffNode",
    "Optimum",
    "Policy",
    "PolicyError",
    "Prices",
    "RegionTable",
    "Regions",
    "Samples",
    "Seen",
    "Source",
    "Stream",
    "Tpp",
    "Traffic",
    "View",
    "Watch",
    "WeightedInterleave",
    "described",
    "hardware",
    "is_oracle",
    "label",
    "least_move_ns",
    "machines",
    "move_ns",
    "optimum",
    "policy",
    "price",
    "split",
]
