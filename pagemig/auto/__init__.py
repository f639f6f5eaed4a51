"""Automatic page migration in user space: statistics in, `move_pages` out.

The kernel offers the mechanism, a program of one's own decides. A policy is an object with one
method: every epoch it is given what is known of a process's pages (`Stats`) and answers which
pages to move where::

    class OnlyTheHottest:
        def epoch(self, stats):
            hot = np.flatnonzero(stats.counts.sum(axis=0) > 1000)
            return hot, np.zeros(hot.size, int)

It sees arrays and answers arrays, so it need not know whether it runs on a model or elsewhere.
`MostUsed` is the policy the idea started from: pages most used from another node than they lie on.
"""

from .policies import POLICIES, MostUsed, policy
from .stats import AutoPolicy, Stats

__all__ = ["POLICIES", "AutoPolicy", "MostUsed", "Stats", "policy"]
