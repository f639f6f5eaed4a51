"""Traces of page accesses: reading, writing, and making them from valgrind's lackey tool.

A trace is one program's page accesses in order. `load` reads one, `shipped` names those that come
with the package, `Trace.from_accesses` and ``pagemig record`` make new ones.
"""

from .cache import LineCache
from .format import PAGE_SHIFT, Header, Trace, TraceError, Writer, load
from .lackey import Accesses, LackeyReader, touched
from .shipped import find, shipped

__all__ = [
    "PAGE_SHIFT",
    "Accesses",
    "Header",
    "LackeyReader",
    "LineCache",
    "Trace",
    "TraceError",
    "Writer",
    "find",
    "load",
    "shipped",
    "touched",
]
