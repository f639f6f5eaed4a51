"""From the model to a real machine: the calls of `pagemig.system` against the running kernel.

`Process` is a process of this machine, the calling one or another. It has the methods of the
modelled `pagemig.Process` that look at pages and move them, with the same names, results and
errors. A tool can therefore be tried on the model first and then used on a machine. `topology`
lists the nodes. `run` lets a policy of `pagemig.auto` decide where pages of a process go.
"""

from .agent import Epoch, run
from .process import Process
from .sight import Sight
from .topology import Topology, topology

__all__ = ["Epoch", "Process", "Sight", "Topology", "run", "topology"]
