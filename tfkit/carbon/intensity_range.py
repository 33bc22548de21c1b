"""The range of a carbon intensity from CodeCarbon's table: for a country from its power plants, for an unknown place from all countries.

The mean of a country depends on the life-cycle emissions per kWh of each kind of plant. The range is that of the same mix of plants with
the lower and upper quartile of the literature: IPCC, Special Report on Renewable Energy Sources, 2011, annex II, table A.II.4; for
biomass, whose quartiles this table does not separate from avoided emissions, with the minimum and maximum of IPCC, Fifth Assessment
Report, 2014, working group III, annex III, table A.III.2. It does not cover variation over time, which `carbon.intensity_file` describes.
"""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_PLANTS = {  # grams of CO2e per kWh, low and high, by column of the table
    "coal_TWh": (877.0, 1130.0),
    "oil_TWh": (722.0, 907.0),
    "gas_TWh": (422.0, 548.0),
    "biofuel_TWh": (130.0, 420.0),
    "solar_TWh": (29.0, 80.0),
    "other_renewable_exc_biofuel_TWh": (20.0, 57.0),  # mostly geothermal
    "nuclear_TWh": (8.0, 45.0),
    "wind_TWh": (8.0, 20.0),
    "hydroelectricity_TWh": (3.0, 7.0),
}
_LEAST_SHARE = 0.9  # of a country's electricity that must come from known kinds of plants
_WORLD_CUT = 20  # the lowest and the highest twentieth of the countries are excluded


class IntensityRange(NamedTuple):
    """A range in grams of CO2e per kWh, and its basis in words."""

    low: float
    high: float
    source: str


def range_of_country(row: Mapping[str, Any]) -> IntensityRange | None:
    """Return the range of a country's mean from its row of the table; None if the row lacks the country's kinds of plants."""
    mix = {name: float(row.get(name) or 0.0) for name in _PLANTS}
    total, known = float(row.get("total_TWh") or 0.0), sum(mix.values())
    if not known > 0 or known < _LEAST_SHARE * total:
        return None
    mean = float(row["carbon_intensity"])
    low, high = (sum(mix[name] * _PLANTS[name][end] for name in mix) / known for end in (0, 1))
    return IntensityRange(min(low, mean), max(high, mean), "emissions of its kinds of plants in the literature")


def range_of_world(means: Iterable[float], mean: float) -> IntensityRange | None:
    """Return the range of an unknown place from the means of all countries; None without them."""
    known = sorted(means)
    if len(known) < 2:
        return None
    low, *_, high = statistics.quantiles(known, n=_WORLD_CUT)
    return IntensityRange(min(low, mean), max(high, mean), "nine of ten countries are between")
