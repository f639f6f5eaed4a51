"""Plain text that a person reads: aligned tables."""

from collections.abc import Iterable, Sequence

__all__ = ["table"]


def table(rows: Iterable[Sequence[object]], header: Sequence[str]) -> str:
    """Lay out rows in aligned columns.

    Parameters
    ----------
    rows : iterable of sequences
        One value per column; floats get two decimals.
    header : sequence of str
        Names of the columns.

    Returns
    -------
    str
        Header, a rule and the rows, without a newline at the end.  A column of numbers is
        aligned to the right, any other to the left.
    """
    values = [list(row) for row in rows]
    cells = [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in row] for row in values]
    columns = range(len(header))
    numeric = [
        bool(values) and all(isinstance(row[c], int | float) for row in values) for c in columns
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
