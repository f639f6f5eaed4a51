"""The C table for ctypes, cffi and numba.

The header ``pagemig/api.h`` owns every name, type and layout. This module reads it, so that what
Python passes is what a C program would.

Examples
--------
>>> import ctypes
>>> import pagemig as pm
>>> from pagemig import api
>>> machine = pm.Machine([pm.Node("4MiB", cpus=1), "4MiB"])
>>> info = api.Info(size=ctypes.sizeof(api.Info))
>>> api.functions.machine_info(api.machine(machine), ctypes.byref(info))
0
>>> info.nr_nodes, info.nr_frames
(2, 2048)
"""

import ctypes
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pagemig import _api, _core

__all__ = ["ABI", "address", "cffi", "functions", "header", "machine", "size", "structures", "task"]

#: Version of the table: changes only when something is removed or changes its meaning.
ABI: int = _api.ABI

#: Address of the table (``const pmg_api *``).
address: int = _api.address

#: Bytes of the table in this build.
size: int = _api.size

_INTEGERS: dict[str, Any] = {
    "int": ctypes.c_int,
    "uint8_t": ctypes.c_uint8,
    "int8_t": ctypes.c_int8,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "pmg_task": ctypes.c_uint64,
    "pmg_mig": ctypes.c_uint64,
    "char": ctypes.c_char,
    # functions of the caller
    "pmg_write": ctypes.c_void_p,
    "pmg_read": ctypes.c_void_p,
}


@cache
def header() -> str:
    """Return the declarations of ``pagemig/api.h``, without comments and preprocessor lines."""
    text = (Path(__file__).parent / "include" / "pagemig" / "api.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"^static inline [^{;]*\{.*?^\}$", "", text, flags=re.M | re.S)
    text = re.sub(r"^static inline .*$", "", text, flags=re.M)
    text = re.sub(r"^ *#.*(\\\n.*)*$", "", text, flags=re.M)
    text = re.sub(r'^extern "C" \{$|^\}$', "", text, flags=re.M)
    return re.sub(r"\n\s*\n+", "\n", text).strip() + "\n"


def _declared(text: str) -> list[tuple[str, Any]]:
    """Split ``uint32_t a, b`` or ``uint64_t a[4]`` into names and ctypes."""
    found = re.match(r"(?:const )?(\w+)\s*(.*)", text.strip(), re.S)
    assert found is not None, text
    kind, names = found.groups()
    fields = []
    for name in names.split(","):
        field = re.match(r"\s*(\**)\s*(?:const)?\s*(\w+)(?:\[(\d+)\])?\s*$", name)
        assert field is not None, name
        type_ = ctypes.c_void_p if field[1] else _INTEGERS[kind]
        if kind == "char" and field[1]:
            type_ = ctypes.c_char_p
        fields.append((field[2], type_ * int(field[3]) if field[3] else type_))
    return fields


def _function(text: str) -> tuple[str, Any]:
    """Name and prototype of one entry of the table."""
    found = re.match(r"(.*)\(\*(\w+)\)\((.*)\)$", " ".join(text.split()))
    assert found is not None, text
    result, name, arguments = found.groups()
    types = [
        ctypes.c_void_p if "*" in argument else _declared(argument)[0][1]
        for argument in arguments.split(",")
    ]
    if "*" in result:
        answer: Any = ctypes.c_char_p if "char" in result else ctypes.c_void_p
    else:
        answer = None if result.strip() == "void" else _INTEGERS[result.strip()]
    return name, ctypes.CFUNCTYPE(answer, *types)


def _read() -> tuple[SimpleNamespace, type[ctypes.Structure]]:
    """Build the structures of the header, and the type of the table."""
    made, table = {}, None
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", header(), re.S):
        fields = [part.strip() for part in body.split(";") if part.strip()]
        declared = [
            entry
            for part in fields
            for entry in ([_function(part)] if "(*" in part else _declared(part))
        ]
        structure = type(name, (ctypes.Structure,), {"_fields_": declared})
        if name == "pmg_api":
            table = structure
        else:
            made[name.removeprefix("pmg_").title().replace("_", "")] = structure
    assert table is not None
    return SimpleNamespace(**made), table


#: ctypes of the header's structures: ``structures.Outcome``, ``Info``, ``Spec``, ``Cost``, ...
structures, _Table = _read()

#: The table's functions with their signatures; they release the interpreter lock. A pointer is an
#: address, an array or a structure.
functions: Any = _Table.from_address(address)


def __getattr__(name: str) -> Any:
    """Find a structure of the header under its own name."""
    try:
        return getattr(structures, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def machine(owner: _core.Machine) -> int:
    """Return the address of a machine (``pmg_machine *``).

    Parameters
    ----------
    owner : Machine
        The machine; the address is valid as long as this object.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        No machine.
    """
    if not isinstance(owner, _core.Machine):
        raise TypeError(f"owner must be a Machine, not {owner!r:.80}")
    return _api.machine_address(owner)


def task(process: _core.Process) -> int:
    """Return the handle of a process (``pmg_task``).

    Parameters
    ----------
    process : Process
        The process.  Calls with the handle answer ESRCH once it was reaped.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        No process.
    """
    if not isinstance(process, _core.Process):
        raise TypeError(f"process must be a Process, not {process!r:.80}")
    return _api.task_handle(process)


@cache
def cffi() -> tuple[Any, Any]:
    """Return a cffi ``ffi`` that knows the header, and the table as its ``const pmg_api *``.

    Returns
    -------
    ffi : FFI
    table : cdata

    Raises
    ------
    ModuleNotFoundError
        cffi is not installed.
    """
    try:
        from cffi import FFI  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pagemig.api.cffi needs cffi: pip install cffi") from error
    ffi = FFI()
    ffi.cdef(header())
    return ffi, ffi.cast("const pmg_api *", address)
