"""Hosts in C for tests: programs of a file that use the table of the interface."""

import ctypes
import subprocess
from pathlib import Path

import pagemig as pm


def compiled(source: Path, folder: Path) -> ctypes.CDLL:
    """Compile a host into a folder and load it."""
    made = folder / f"{source.stem}.so"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{pm.get_include()}"]
    subprocess.run(["cc", *flags, str(source), "-o", str(made)], check=True)
    return ctypes.CDLL(str(made))
