"""The place of a run, and the carbon intensity of its grid, with its range. Nothing is guessed or looked up online."""

import configparser
import difflib
import functools
import importlib.util
import json
import os
import re
import statistics
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.carbon.intensity_series import IntensitySeries, parse_intensity, read_series, require_cover
from tfkit.errors import UsageError

if TYPE_CHECKING:
    from tfkit.recipe.schema.carbon_section import CarbonSection

WORLD = "WLD"  # not an ISO code; carbonboard, the viewer of CodeCarbon's files, accepts it, but not an empty code
TABLE = "global_energy_mix.json"  # a file of CodeCarbon, with the mean intensity of each country in a year
WORLD_AVERAGE_G_PER_KWH = 475.0  # IEA, Global Energy & CO2 Status Report 2019; CodeCarbon also uses it for an unknown country

_PLANTS = {  # low and high grams of CO2e per kWh, by kind of plant (column of CodeCarbon's table), see `range_of_country`
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
_LEAST_SHARE = 0.9  # a country has a range if at least this fraction of its electricity comes from known kinds of plants
Range = tuple[float | None, float | None, str | None]  # low and high, in grams of CO2e per kWh, and how they were obtained; None: not known
_UNKNOWN: Range = (None, None, None)
_WORLD_CUT = 20  # the range of an unknown place excludes the lowest and the highest twentieth of the countries


@dataclass(frozen=True)
class Place:
    """A country (ISO 3166 alpha-3, or WLD), and the carbon intensity that is used for it, with its source."""

    country_iso_code: str = WORLD
    country_name: str = "World"
    intensity_g_per_kwh: float = WORLD_AVERAGE_G_PER_KWH
    source: str = "place unknown"  # the year, if known, and the setting of place or intensity: "2023 mean, carbon.country"
    kind: str = "world average"  # how the intensity was obtained: "world average", "annual mean", "user" or "series"
    year: int | None = 2018  # the year of the intensity; None: not known
    dataset: str = "IEA, Global Energy & CO2 Status Report 2019"  # the data set, file or setting from which the intensity comes
    low_g_per_kwh: float | None = None  # None: no range is known, or the user gave the intensity
    high_g_per_kwh: float | None = None
    range_source: str | None = None

    def describe(self) -> str:
        """Return the place as text: `FRA, 56 g/kWh (2023 mean, carbon.country)`."""
        number = f"{self.intensity_g_per_kwh:.4g} g/kWh"
        if self.source == "place unknown":
            return f"place unknown, world average {number}"
        return f"{number} ({self.source})" if self.country_iso_code == WORLD else f"{self.country_iso_code}, {number} ({self.source})"

    @property
    def range_g_per_kwh(self) -> tuple[float, float]:
        """The lowest and the highest intensity, which are equal if no range is known."""
        if self.low_g_per_kwh is None or self.high_g_per_kwh is None:
            return self.intensity_g_per_kwh, self.intensity_g_per_kwh
        return self.low_g_per_kwh, self.high_g_per_kwh


def resolve_place(section: "CarbonSection") -> Place:
    """Return the place from the recipe, else from TFKIT_CARBON_*, else from CodeCarbon's settings; if none gives one, the world average.

    A series of intensities in the recipe takes precedence over all of these. Within each of the three sources, an intensity takes
    precedence over a country. Raises UsageError for an unknown country or an invalid intensity, and DataError for a series that is invalid
    or does not cover the present.
    """
    if section.intensity_file is not None:
        return _place_of_series(section)
    levels: tuple[tuple[str, Mapping[str, Any], str, str], ...] = (
        ("carbon.", vars(section), "country", "intensity_g_per_kwh"),
        ("", os.environ, "TFKIT_CARBON_COUNTRY", "TFKIT_CARBON_INTENSITY"),
        ("CodeCarbon's ", codecarbon_settings(), "country_iso_code", "force_carbon_intensity_g_co2e_kwh"),
    )
    for level, values, country, intensity in levels:
        code, source = values.get(country), level + intensity
        if (value := values.get(intensity)) not in (None, ""):
            grams, place = parse_intensity(value, source, UsageError), _country(code, level + country) if code else Place()
            return Place(place.country_iso_code, place.country_name, grams, source, "user", None, source)
        if code:
            return _country(code, level + country)
    return _unknown()


def series_of(section: "CarbonSection") -> IntensitySeries | None:
    """Return the series of intensities of a recipe; None if its intensity is constant. Raises DataError."""
    return read_series(Path(os.path.expanduser(section.intensity_file))) if section.intensity_file is not None else None


def require_long_series(section: "CarbonSection", seconds: float) -> None:
    """Raise DataError if a run that begins now and takes at least `seconds` ends after its recipe's series of intensities."""
    if section.intensity_file is not None and (series := series_of(section)) is not None:
        require_cover(series, Path(section.intensity_file), time.time(), seconds)


def _place_of_series(section: "CarbonSection") -> Place:
    assert section.intensity_file is not None
    path, now = Path(os.path.expanduser(section.intensity_file)), time.time()
    series = read_series(path)
    require_cover(series, path, now)
    country = _country(section.country, "carbon.country") if section.country else Place()
    year = datetime.fromtimestamp(now, UTC).year
    source = "now, by carbon.intensity_file"
    return Place(country.country_iso_code, country.country_name, series.at(now), source, "series", year, path.name)


def codecarbon_settings() -> dict[str, str]:
    """Return the settings that CodeCarbon would read: ~/.codecarbon.config, ./.codecarbon.config, CODECARBON_* variables; later ones win.

    CodeCarbon's own function is not used, since it imports the whole package. An invalid file must not stop a run, so it is ignored, and
    `broken_codecarbon_files` reports it.
    """
    settings: dict[str, str] = {}
    for path in _codecarbon_files():
        with suppress(*_UNREADABLE):
            settings |= _codecarbon_section(path)
    prefix = "codecarbon_"
    return settings | {name.lower()[len(prefix) :]: value for name, value in os.environ.items() if name.lower().startswith(prefix)}


def broken_codecarbon_files() -> list[str]:
    """Return a sentence about each of CodeCarbon's configuration files that exists and cannot be read."""
    problems = []
    for path in dict.fromkeys(file.resolve() for file in _codecarbon_files()):
        try:
            _codecarbon_section(path)
        except FileNotFoundError:
            continue
        except _UNREADABLE as error:
            first = str(error).partition("\n")[0]
            problems.append(f"{path} cannot be read, so its settings are ignored ({first}); correct or remove it")
    return problems


_UNREADABLE = (configparser.Error, OSError, UnicodeDecodeError)


def _codecarbon_files() -> list[Path]:
    return [folder / ".codecarbon.config" for folder in (Path(os.path.expanduser("~")), Path())]


def _codecarbon_section(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read_string(path.read_text(encoding="utf-8"), str(path))
    return dict(parser["codecarbon"]) if parser.has_section("codecarbon") else {}


def _country(code: str, source: str) -> Place:
    table, code = _countries(), code.strip().upper()
    if code == WORLD:
        return _unknown()
    if code in table:
        row = table[code]
        year = row.get("year")
        about = (f"{year} mean, {source}" if year else source, "annual mean", year, f"CodeCarbon's {TABLE}")
        return Place(code, str(row["country_name"]), float(row["carbon_intensity"]), *about, *range_of_country(row))
    if not table and re.fullmatch("[A-Z]{3}", code):
        return Place(code, code, WORLD_AVERAGE_G_PER_KWH, f"world average, since CodeCarbon's table is missing, {source}")
    names = {str(row["country_name"]).upper(): known for known, row in table.items()}
    close = [names.get(match, match) for match in difflib.get_close_matches(code, [*table, *names], n=4, cutoff=0.6)]
    listed = ", ".join(f"{known} ({table[known]['country_name']})" for known in dict.fromkeys(close))
    hint = f"; did you mean {listed}?" if close else "."
    raise UsageError(
        f"{source}: {code!r} is not a country of CodeCarbon's table{hint} Give an ISO 3166 alpha-3 code, such as FRA, DEU, USA"
    )


def _unknown() -> Place:
    """Return the place of a run whose place is unknown: the world average, with the range of the countries' means."""
    low, high, source = range_of_world((float(row["carbon_intensity"]) for row in _countries().values()), WORLD_AVERAGE_G_PER_KWH)
    return Place(low_g_per_kwh=low, high_g_per_kwh=high, range_source=source)


@functools.cache
def _countries() -> dict[str, dict[str, Any]]:
    """Return the rows of CodeCarbon's table of countries with their yearly means, by alpha-3 code; {} if CodeCarbon is not installed."""
    with suppress(OSError, ValueError):
        table = json.loads((codecarbon_folder() / "data" / "private_infra" / TABLE).read_text(encoding="utf-8"))
        return {code: row for code, row in table.items() if row.get("carbon_intensity") is not None}
    return {}


def range_of_country(row: Mapping[str, Any]) -> Range:
    """Return the range of a country's mean intensity from its row of CodeCarbon's table. The range is unknown if over a tenth of the
    electricity comes from other kinds of plants than those in `_PLANTS`. The range does not cover variation over time, which only
    carbon.intensity_file describes.

    The mean depends on the country's mix of plants and their life-cycle emissions per kWh. The limits are the means of the same mix with
    the lower and the upper quartiles of these emissions in the literature (IPCC, Special Report on Renewable Energy Sources, 2011, annex
    II, table A.II.4). For biomass, whose quartiles in that table include avoided emissions, the minimum and maximum of another table are
    used (IPCC, Fifth Assessment Report, 2014, working group III, annex III, table A.III.2).
    """
    mix = {name: float(row.get(name) or 0.0) for name in _PLANTS}
    total, known = float(row.get("total_TWh") or 0.0), sum(mix.values())
    if not known > 0 or known < _LEAST_SHARE * total:
        return _UNKNOWN
    mean = float(row["carbon_intensity"])
    low, high = (sum(mix[name] * _PLANTS[name][end] for name in mix) / known for end in (0, 1))
    return min(low, mean), max(high, mean), "emissions of its kinds of plants in the literature"


def range_of_world(means: Iterable[float], mean: float) -> Range:
    """Return the range of an unknown place from the means of all countries; _UNKNOWN for fewer than two. `mean`: the world's mean."""
    known = sorted(means)
    if len(known) < 2:
        return _UNKNOWN
    low, *_, high = statistics.quantiles(known, n=_WORLD_CUT)
    return min(low, mean), max(high, mean), "nine of ten countries are between"


def codecarbon_folder() -> Path:
    """Return the folder of the installed CodeCarbon, found without importing it. Raises FileNotFoundError if there is none."""
    spec = importlib.util.find_spec("codecarbon")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("CodeCarbon is not installed")
    return Path(spec.submodule_search_locations[0])
