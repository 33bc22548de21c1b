"""Columns of text, for people."""

from collections.abc import Mapping, Sequence

from tfkit import console
from tfkit.units import format_energy, format_mass, format_seconds


def aligned(rows: Sequence[Sequence[str]], names: int | None = 1) -> str:
    """Return columns two spaces apart: the first `names` on the left, numbers on the right; None: all on the left."""
    widths = [max(map(console.columns_of, column)) for column in zip(*rows, strict=True)]
    left = len(widths) if names is None else names
    return "\n".join("  ".join(_padded(cell, widths[place], place < left) for place, cell in enumerate(row)).rstrip() for row in rows)


def facts(rows: Mapping[str, str]) -> str:
    """Return a line for each fact that is not empty, behind its name."""
    width = max(len(name) for name, value in rows.items() if value)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items() if value)


def amounts(seconds: float | None, energy_kwh: float | None, emissions_g: float | None) -> tuple[str, str, str]:
    """Return the cells of a time, an energy and emissions; empty where one is not known."""
    return (
        "" if seconds is None else format_seconds(seconds),
        "" if energy_kwh is None else format_energy(1000 * energy_kwh),
        "" if emissions_g is None else format_mass(emissions_g),
    )


def _padded(cell: str, width: int, left: bool) -> str:
    space = " " * (width - console.columns_of(cell))
    return cell + space if left else space + cell
