"""Text in columns, for people."""

from collections.abc import Mapping, Sequence

from tfkit import console
from tfkit.units import format_energy, format_mass, format_seconds


def align_columns(rows: Sequence[Sequence[str]], left: int | None = 1) -> str:
    """Return rows as columns two spaces apart: the first `left` are left-aligned, the others right-aligned; None: all left-aligned."""
    rows = [[console.visible_line(cell) for cell in row] for row in rows]
    widths = [max(map(console.columns_of, column)) for column in zip(*rows, strict=True)]
    left = len(widths) if left is None else left
    return "\n".join("  ".join(_pad(cell, widths[index], index < left) for index, cell in enumerate(row)).rstrip() for row in rows)


def align_facts(facts: Mapping[str, str]) -> str:
    """Return a line for each fact that is not empty: its name and its value, in columns."""
    width = max(len(name) for name, value in facts.items() if value)
    return "\n".join(f"{name:<{width}}  {console.visible_line(value)}" for name, value in facts.items() if value)


def format_amounts(seconds: float | None, energy_kwh: float | None, emissions_g: float | None) -> tuple[str, str, str]:
    """Return the cells for a time, an energy and emissions; empty if the value is None."""
    return (
        "" if seconds is None else format_seconds(seconds),
        "" if energy_kwh is None else format_energy(1000 * energy_kwh),
        "" if emissions_g is None else format_mass(emissions_g),
    )


def _pad(cell: str, width: int, left: bool) -> str:
    space = " " * (width - console.columns_of(cell))
    return cell + space if left else space + cell
