"""From model to metal: the calls of `pagemig.system` against the kernel that runs.

`Process` is a process of this machine, one's own or another. It has the methods of the modelled
`pagemig.Process` that look at pages and move them, under the same names, with the same results and
the same errors, so that a tool can be tried on the model and then used. `topology` says what nodes
there are. `run` lets a policy of `pagemig.auto` decide about the pages of a process.
"""

from .agent import Epoch, run
from .process import Process
from .sight import Sight
from .topology import Topology, topology

__all__ = ["Epoch", "Process", "Sight", "Topology", "run", "topology"]
