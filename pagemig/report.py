"""Results as text tables, CSV, JSON, parquet and HTML, and empty pictures."""

import base64
import csv
import html
import io
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pagemig.files import replaced

__all__ = [
    "FORMATS",
    "MissingError",
    "new_figure",
    "page",
    "save",
    "save_page",
    "save_picture",
    "table",
]

#: Kinds of files that `save` writes.
FORMATS = (".csv", ".json", ".parquet")


class MissingError(RuntimeError):
    """An optional package is not installed; the message says how to get it."""


def new_figure(**options: Any) -> Any:
    """Make a figure that needs no screen."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingError(
            "pictures need matplotlib, which is not installed: pip install 'pagemig[plot]'"
        ) from None
    return Figure(**options)


def table(
    rows: Iterable[Sequence[object]], header: Sequence[str], signed: Collection[str] = ()
) -> str:
    """Lay out rows in aligned columns.

    Parameters
    ----------
    rows : iterable of sequences
        One value per column; floats get two decimals, None is shown as ``-``.
    header : sequence of str
        Names of the columns.
    signed : collection of str
        Columns whose numbers always have a sign.

    Returns
    -------
    str
        Header, a rule and the rows, without a newline at the end.  A column of numbers is
        aligned to the right, any other to the left.
    """
    values = [list(row) for row in rows]
    signs = ["+" if name in signed else "" for name in header]
    cells = [[_cell(v, sign) for v, sign in zip(row, signs, strict=True)] for row in values]
    columns = range(len(header))
    numeric = [
        bool(values) and all(isinstance(row[c], int | float | None) for row in values)
        for c in columns
    ]
    widths = [max(len(row[c]) for row in [list(header), *cells]) for c in columns]

    def line(row: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, cells)])


def _cell(value: object, sign: str) -> str:
    if value is None:
        return "-"
    return format(value, f"{sign}.2f") if isinstance(value, float) else str(value)


def save(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write rows to a file, whole or not at all.

    Parameters
    ----------
    rows : sequence of mapping
        Plain values, all with the same keys.
    path : path-like
        Its suffix gives the format: ``.csv``; ``.json``, a list of objects; ``.parquet``.

    Raises
    ------
    ValueError
        Another suffix.
    MissingError
        Parquet without pyarrow.
    """
    target = Path(path)
    if target.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode()
    elif target.suffix == ".json":
        data = (json.dumps([dict(row) for row in rows], indent=1) + "\n").encode()
    elif target.suffix == ".parquet":
        data = _parquet(rows)
    else:
        raise ValueError(f"results are {', '.join(FORMATS)}, not {target.name!r}")
    with replaced(target) as file:
        file.write(data)


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingError(
            "parquet needs pyarrow, which is not installed: pip install 'pagemig[traces]'"
        ) from None
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), sink)
    return bytes(sink.getvalue())


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 75rem; margin: 2rem auto;
       padding: 0 1rem }
pre { font: 13px/1.45 ui-monospace, monospace; overflow-x: auto; background: #f6f6f4;
      padding: .8rem 1rem; border-radius: 4px }
img { max-width: 100%; display: block; margin: 1rem 0 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
"""


def save_page(title: str, parts: Iterable[tuple[str, str | bytes]], path: Path) -> None:
    """Write `page` to a file, whole or not at all."""
    with replaced(path) as file:
        file.write(page(title, parts).encode())


def save_picture(figure: Any, path: str | os.PathLike[str], dpi: int = 110) -> None:
    """Write a picture to a file, whole or not at all; its suffix gives the format."""
    with replaced(path) as file:
        figure.savefig(file, dpi=dpi, format=Path(path).suffix.removeprefix(".") or "png")


def page(title: str, parts: Iterable[tuple[str, str | bytes]]) -> str:
    """Make one HTML file with everything in it.

    Parameters
    ----------
    title : str
        Its heading.
    parts : iterable of (str, str or bytes)
        A heading, and preformatted text or a picture as PNG.

    Returns
    -------
    str
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    for heading, content in parts:
        if heading:
            body.append(f"<h2>{html.escape(heading)}</h2>")
        if isinstance(content, bytes):
            data = base64.b64encode(content).decode()
            body.append(f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">')
        else:
            body.append(f"<pre>{html.escape(content)}</pre>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
