"""The range of a carbon intensity, and of the emissions that are computed with it."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tfkit.carbon.attempt_files import Ledger, tick_line
from tfkit.carbon.footprint import RunTotals, sum_totals
from tfkit.carbon.place import Place, codecarbon_folder, range_of_country, range_of_world, resolve_place
from tfkit.carbon.reading import Totals
from tfkit.carbon.totals import attempts_of, totals_of
from tfkit.engine.planning.forecast import emissions_of
from tfkit.engine.training_run.estimate import Range
from tfkit.recipe.schema.carbon_section import CarbonSection

TABLE = json.loads((codecarbon_folder() / "data/private_infra/global_energy_mix.json").read_text())
UNKNOWN = (None, None, None)
COAL = Place("COA", "Coalland", 500.0, "test", "annual mean", 2023, "table", 400.0, 600.0, "its plants")


def test_a_country_has_the_range_of_its_plants() -> None:
    row = {"carbon_intensity": 500.0, "coal_TWh": 1.0, "hydroelectricity_TWh": 1.0, "total_TWh": 2.0}
    assert range_of_country(row)[:2] == ((877 + 3) / 2, (1130 + 7) / 2)
    assert range_of_country(row | {"carbon_intensity": 300.0})[:2] == (300, (1130 + 7) / 2)
    assert range_of_country(row | {"total_TWh": 9.0}) == UNKNOWN, "of most of its electricity the plants are not known"
    assert range_of_country({"carbon_intensity": 500.0}) == UNKNOWN


def test_the_countries_of_codecarbons_table_are_within_their_ranges() -> None:
    found = {code: range_of_country(row) for code, row in TABLE.items() if row.get("carbon_intensity") is not None}
    known = {code: (low, high) for code, (low, high, _) in found.items() if low is not None and high is not None}
    assert len(known) > 0.9 * len(found)
    assert all(low <= TABLE[code]["carbon_intensity"] <= high for code, (low, high) in known.items())
    france = resolve_place(CarbonSection(country="FRA"))
    assert (france.low_g_per_kwh, france.high_g_per_kwh) == known["FRA"]
    assert 40 < known["FRA"][0] < known["FRA"][1] < 110


def test_an_unknown_place_has_the_range_of_nine_of_ten_countries() -> None:
    found = range_of_world([float(grams) for grams in range(1, 1000)], 475.0)
    assert found[:2] == pytest.approx((50, 950))
    assert range_of_world([], 475.0) == UNKNOWN
    low, high, source = found
    assert Place(low_g_per_kwh=low, high_g_per_kwh=high, range_source=source).range_g_per_kwh == pytest.approx((50, 950))


def test_an_intensity_that_was_given_has_no_range() -> None:
    assert resolve_place(CarbonSection(country="FRA", intensity_g_per_kwh=7.0)).range_g_per_kwh == (7.0, 7.0)


def test_a_plan_has_the_lowest_energy_at_the_lowest_intensity() -> None:
    grams, how = emissions_of(Range(1.0, 2.0, 3.0), COAL)
    assert grams == Range(400.0, 1000.0, 1800.0)
    assert how["emissions_g"].endswith("between 400 and 600 g/kWh: its plants")
    grams, how = emissions_of(Range(1.0, 2.0, 3.0), Place(intensity_g_per_kwh=10.0))
    assert grams == Range(10.0, 20.0, 30.0)
    assert "between" not in how["emissions_g"]


def _measured(folder: Path, places: list[Place]) -> RunTotals:
    """Return the totals of attempts that each use 1 kWh, measured by a counter."""
    for number, place in enumerate(places, 1):
        ledger = Ledger(folder / "carbon", 0, number)
        header = {"kind": "header", "schema_version": 1, "run_id": "run", "node": 0, "attempt": number, "place": asdict(place), "pue": 1.0}
        totals = Totals(3600.0, 1000.0, 1000.0, 0, 0, place.intensity_g_per_kwh)
        for line in (
            header,
            {"kind": "machine", "components": {"cpu": "counter"}, "record": {}},
            tick_line(1e9, "train", 3600.0, totals, 1.0, "ok"),
        ):
            ledger.append(line)
    return totals_of(attempts_of(folder), 3600.0 * len(places))


def test_measured_emissions_have_the_range_of_energy_and_intensity(tmp_path: Path) -> None:
    found = _measured(tmp_path / "one", [COAL])
    assert (found.emissions_g_low, found.emissions_g_high) == pytest.approx((0.95 * 400, 1.05 * 600))
    assert found.intensity.document() == {
        "g_per_kwh": 500.0,
        "low_g_per_kwh": 400.0,
        "high_g_per_kwh": 600.0,
        "source": "table",
        "year": 2023,
        "kind": "annual mean",
    }
    mixed = _measured(tmp_path / "two", [COAL, Place(intensity_g_per_kwh=100.0, kind="user")])
    assert (mixed.emissions_g_low, mixed.emissions_g_high) == pytest.approx((0.95 * 500, 1.05 * 700))
    assert _ends(mixed) == pytest.approx([300, 250, 350])
    assert _ends(_measured(tmp_path / "three", [Place(intensity_g_per_kwh=100.0, kind="user")])) == [100, None, None]


def test_stages_have_the_range_of_their_intensities(tmp_path: Path) -> None:
    coal = replace(_measured(tmp_path / "a", [COAL]), energy_kwh=1.0, emissions_g=500.0)
    user = replace(_measured(tmp_path / "b", [Place(intensity_g_per_kwh=100.0, kind="user")]), energy_kwh=1.0, emissions_g=100.0)
    assert _ends(sum_totals([coal, user])) == pytest.approx([300, 250, 350])
    assert _ends(sum_totals([coal, coal])) == pytest.approx([500, 400, 600])
    assert _ends(sum_totals([user])) == [100, None, None]


def _ends(totals: RunTotals) -> list[float | None]:
    return [totals.intensity.g_per_kwh, totals.intensity.low_g_per_kwh, totals.intensity.high_g_per_kwh]


def test_a_printed_range_contains_the_printed_intensity() -> None:
    for code, row in TABLE.items():
        if row.get("carbon_intensity") is not None:
            place = resolve_place(CarbonSection(country=code))
            text = emissions_of(Range(1.0, 1.0, 1.0), place)[1]["emissions_g"]
            used = float(re.search(r"([\d.e+]+) g/kWh \(", text)[1])
            for low, high in re.findall(r"between ([\d.e+]+) and ([\d.e+]+) g/kWh", text):
                assert float(low) <= used <= float(high), text


def test_the_documentation_has_the_ranges_of_the_table() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "carbon.md").read_text(encoding="utf-8").split())
    france = resolve_place(CarbonSection(country="FRA"))
    low, high = france.range_g_per_kwh
    assert f"{low:.0f} to {high:.0f} for France's {france.intensity_g_per_kwh:.0f}" in page
    low, high = resolve_place(CarbonSection()).range_g_per_kwh
    assert f"that of an unknown place, {low:.0f} to {high:.0f}," in page
