"""Where the electricity is from: its intensity, the range of that, and whose word counts."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from tiny_runs import raising

from tfkit.carbon.emissions_file import CODECARBON_3_3, installed_columns
from tfkit.carbon.place import (
    Place,
    _countries,
    broken_codecarbon_files,
    codecarbon_folder,
    codecarbon_settings,
    range_of_country,
    range_of_world,
    resolve_place,
)
from tfkit.engine.planning.forecast import emissions_of
from tfkit.engine.training_run.estimate import Range
from tfkit.errors import UsageError
from tfkit.recipe.schema.carbon_section import CarbonSection

TABLE = json.loads((codecarbon_folder() / "data/private_infra/global_energy_mix.json").read_text())
UNKNOWN = (None, None, None)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """Remove all variables and files of this machine that state its place."""
    for name in ("TFKIT_CARBON_COUNTRY", "TFKIT_CARBON_INTENSITY", "CODECARBON_COUNTRY_ISO_CODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def place(country=None, intensity=None):
    return resolve_place(CarbonSection(country=country, intensity_g_per_kwh=intensity))


def test_a_country_is_its_mean_in_codecarbons_table_and_an_unknown_place_is_the_world():
    found = place()
    assert (found.country_iso_code, found.country_name, found.intensity_g_per_kwh, found.source) == ("WLD", "World", 475.0, "place unknown")
    assert found.describe() == "place unknown, world average 475 g/kWh"
    for code in ("FRA", "DEU", "USA", "POL"):
        found, row = place(code), TABLE[code]
        assert found.country_iso_code == code
        assert (found.country_name, found.intensity_g_per_kwh) == (row["country_name"], row["carbon_intensity"])
    assert place("FRA").describe() == f"FRA, 56.04 g/kWh ({TABLE['FRA']['year']} mean, carbon.country)"


def test_the_recipe_wins_over_the_environment_and_that_over_codecarbon(monkeypatch, nowhere):
    (nowhere / "home/.codecarbon.config").write_text("[codecarbon]\ncountry_iso_code = POL\n")
    assert place().country_iso_code == "POL"
    (nowhere / "here/.codecarbon.config").write_text("[codecarbon]\ncountry_iso_code = SWE\n")
    assert place().country_iso_code == "SWE"
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "ita")
    assert place().country_iso_code == "ITA"
    monkeypatch.setenv("TFKIT_CARBON_COUNTRY", "DEU")
    assert place().country_iso_code == "DEU"
    monkeypatch.setenv("TFKIT_CARBON_INTENSITY", "12.5")
    assert place().describe() == "DEU, 12.5 g/kWh (TFKIT_CARBON_INTENSITY)"
    assert place("FRA").intensity_g_per_kwh == pytest.approx(56.039)
    assert place("FRA", 7.0) == Place("FRA", "France", 7.0, "carbon.intensity_g_per_kwh", "user", None, "carbon.intensity_g_per_kwh")
    assert place(None, 0.0).describe() == "0 g/kWh (carbon.intensity_g_per_kwh)"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("carbon.country", "FRX", r"carbon\.country: 'FRX'.*FRA \(France\)"),
        ("TFKIT_CARBON_COUNTRY", "germany", r"TFKIT_CARBON_COUNTRY.*DEU \(Germany\)"),
        ("TFKIT_CARBON_COUNTRY", "FR", "alpha-3"),
        *(("TFKIT_CARBON_INTENSITY", value, "TFKIT_CARBON_INTENSITY.*grams") for value in ("much", "nan", "-1", "inf", "100001")),
    ],
)
def test_an_unknown_country_and_an_impossible_intensity_are_refused(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said):
        place(value if name == "carbon.country" else None)


def test_without_codecarbons_table_a_country_has_the_worlds_average(monkeypatch, nowhere):
    monkeypatch.setattr("tfkit.carbon.place.codecarbon_folder", raising(FileNotFoundError()))
    _countries.cache_clear()
    assert place("FRA").describe() == "FRA, 475 g/kWh (world average, since CodeCarbon's table is missing, carbon.country)"
    assert place("WLD").intensity_g_per_kwh == 475.0
    _countries.cache_clear()


def test_a_broken_codecarbon_file_counts_as_absent(nowhere):
    (nowhere / "home/.codecarbon.config").write_text("no section here\n\x00")
    (nowhere / "here/.codecarbon.config").write_text("[codecarbon]\nforce_ram_power = 7\n")
    assert codecarbon_settings()["force_ram_power"] == "7"
    [problem] = broken_codecarbon_files()
    assert problem.startswith(f"{nowhere / 'home/.codecarbon.config'} cannot be read, so its settings are ignored (")
    assert place().country_iso_code == "WLD"


def test_the_columns_are_those_of_the_installed_codecarbon():
    from codecarbon.output_methods.emissions_data import EmissionsData

    assert list(installed_columns()) == [field.name for field in dataclasses.fields(EmissionsData)]
    assert set(CODECARBON_3_3.split()) <= set(installed_columns())


def test_a_country_has_the_range_of_its_plants():
    row = {"carbon_intensity": 500.0, "coal_TWh": 1.0, "hydroelectricity_TWh": 1.0, "total_TWh": 2.0}
    assert range_of_country(row)[:2] == ((877 + 3) / 2, (1130 + 7) / 2)
    assert range_of_country(row | {"carbon_intensity": 300.0})[:2] == (300, (1130 + 7) / 2)
    assert range_of_country(row | {"total_TWh": 9.0}) == UNKNOWN, "of most of its electricity the plants are not known"
    assert range_of_country({"carbon_intensity": 500.0}) == UNKNOWN
    assert place("FRA", 7.0).range_g_per_kwh == (7.0, 7.0), "it was given"


def test_the_countries_of_codecarbons_table_are_within_their_ranges():
    found = {code: range_of_country(row) for code, row in TABLE.items() if row.get("carbon_intensity") is not None}
    known = {code: (low, high) for code, (low, high, _) in found.items() if low is not None and high is not None}
    assert len(known) > 0.9 * len(found)
    assert all(low <= TABLE[code]["carbon_intensity"] <= high for code, (low, high) in known.items())
    france = place("FRA")
    assert (france.low_g_per_kwh, france.high_g_per_kwh) == known["FRA"]
    assert 40 < known["FRA"][0] < known["FRA"][1] < 110


def test_an_unknown_place_has_the_range_of_nine_of_ten_countries():
    found = range_of_world([float(grams) for grams in range(1, 1000)], 475.0)
    assert found[:2] == pytest.approx((50, 950))
    assert range_of_world([], 475.0) == UNKNOWN
    low, high, source = found
    assert Place(low_g_per_kwh=low, high_g_per_kwh=high, range_source=source).range_g_per_kwh == pytest.approx((50, 950))


def test_a_printed_range_contains_the_printed_intensity():
    for code, row in TABLE.items():
        if row.get("carbon_intensity") is not None:
            text = emissions_of(Range(1.0, 1.0, 1.0), place(code))[1]["emissions_g"]
            used = float(re.search(r"([\d.e+]+) g/kWh \(", text)[1])
            for low, high in re.findall(r"between ([\d.e+]+) and ([\d.e+]+) g/kWh", text):
                assert float(low) <= used <= float(high), text


def test_the_documentation_has_the_ranges_of_the_table():
    page = " ".join((Path(__file__).parents[2] / "docs" / "carbon.md").read_text(encoding="utf-8").split())
    france = place("FRA")
    low, high = france.range_g_per_kwh
    assert f"{low:.0f} to {high:.0f} for France's {france.intensity_g_per_kwh:.0f}" in page
    low, high = place().range_g_per_kwh
    assert f"that of an unknown place, {low:.0f} to {high:.0f}," in page
