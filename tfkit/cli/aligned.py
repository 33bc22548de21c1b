"""Columns of text, for people."""

from collections.abc import Mapping, Sequence

from tfkit import console


def aligned(rows: Sequence[Sequence[str]], names: int | None = 1) -> str:
    """Return columns two spaces apart: the first `names` on the left, numbers on the right; None: all on the left."""
    widths = [max(map(console.columns_of, column)) for column in zip(*rows, strict=True)]
    left = len(widths) if names is None else names
    return "\n".join("  ".join(_padded(cell, widths[place], place < left) for place, cell in enumerate(row)).rstrip() for row in rows)


def facts(rows: Mapping[str, str]) -> str:
    """Return a line for each fact, behind its name."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def _padded(cell: str, width: int, left: bool) -> str:
    space = " " * (width - console.columns_of(cell))
    return cell + space if left else space + cell
