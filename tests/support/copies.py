"""Copies of parts of the tree that tests build in, also where the tree itself cannot be written."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def copied(
    source: Path, target: Path, ignore: Callable[[str, list[str]], Iterable[str]] | None = None
) -> Path:
    """Copy a file or a folder so that its owner may write in it, whatever the original allows."""
    if not source.is_dir():
        return Path(shutil.copyfile(source, target / source.name if target.is_dir() else target))
    shutil.copytree(source, target, ignore=ignore, copy_function=shutil.copyfile)
    for folder in (target, *target.rglob("*")):
        if folder.is_dir():
            folder.chmod(folder.stat().st_mode | 0o700)
    return target
