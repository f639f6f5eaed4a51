"""Plain text that a person reads: aligned tables."""

from collections.abc import Collection, Iterable, Sequence

__all__ = ["table"]


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
