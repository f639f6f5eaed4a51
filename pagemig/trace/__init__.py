"""Traces of page accesses: reading, writing, and making them from valgrind's lackey tool.

A trace is one program's page accesses in order. `load` reads one, `shipped` names those that come
with the package, `Trace.from_accesses` and ``pagemig record`` make new ones.
"""

from .cache import LineCache
from .format import TraceFile, Writer
from .header import PAGE_SHIFT, Header, TraceError
from .lackey import Accesses, LackeyReader, touched
from .runs import Runs
from .shipped import find, shipped
from .trace import Trace, load

__all__ = [
    "PAGE_SHIFT",
    "Accesses",
    "Header",
    "LackeyReader",
    "LineCache",
    "Runs",
    "Trace",
    "TraceError",
    "TraceFile",
    "Writer",
    "find",
    "load",
    "shipped",
    "touched",
]
