"""Traces of page accesses: reading, writing, and converting those of other tools.

A trace is one program's page accesses in order. `load` reads one into memory, `TraceFile` reads one
in pieces, `shipped` names those that come with the package. `Trace.from_accesses`, `Writer`,
``pagemig record`` and ``pagemig trace convert`` make new ones; `reader` reads the accesses of any
format, and `info` summarises a trace.
"""

from .cache import LineCache
from .convert import Recording, convert
from .format import TraceFile, Writer
from .header import PAGE_SHIFT, Header, TraceError
from .info import Info, info
from .readers import FORMATS, Accesses, Reader, reader
from .runs import Runs
from .shipped import find, shipped
from .trace import Trace, as_file, load, stored

__all__ = [
    "FORMATS",
    "PAGE_SHIFT",
    "Accesses",
    "Header",
    "Info",
    "LineCache",
    "Reader",
    "Recording",
    "Runs",
    "Trace",
    "TraceError",
    "TraceFile",
    "Writer",
    "as_file",
    "convert",
    "find",
    "info",
    "load",
    "reader",
    "shipped",
    "stored",
]
