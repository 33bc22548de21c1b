import json

import pytest

from tfkit.carbon.emissions_file import CODECARBON_3_3, installed_columns
from tfkit.carbon.place import Place, _countries, broken_codecarbon_files, codecarbon_folder, codecarbon_settings, resolve_place
from tfkit.errors import UsageError
from tfkit.recipe.schema.carbon_section import CarbonSection


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


def test_an_unknown_place_is_the_world_and_says_so():
    found = place()
    assert (found.country_iso_code, found.country_name, found.intensity_g_per_kwh, found.source) == ("WLD", "World", 475.0, "place unknown")
    assert place().describe() == "place unknown, world average 475 g/kWh"


def test_a_country_is_its_mean_in_codecarbons_table():
    table = json.loads((codecarbon_folder() / "data/private_infra/global_energy_mix.json").read_text())
    for code in ("FRA", "DEU", "USA", "POL"):
        found = place(code)
        assert (found.country_iso_code, found.country_name) == (code, table[code]["country_name"])
        assert found.intensity_g_per_kwh == table[code]["carbon_intensity"]
    assert place("FRA").describe() == f"FRA, 56.04 g/kWh ({table['FRA']['year']} mean, carbon.country)"


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


def test_an_unknown_country_is_refused_with_close_matches(monkeypatch):
    with pytest.raises(UsageError, match=r"carbon\.country: 'FRX'.*FRA \(France\)"):
        place("FRX")
    monkeypatch.setenv("TFKIT_CARBON_COUNTRY", "germany")
    with pytest.raises(UsageError, match=r"TFKIT_CARBON_COUNTRY.*DEU \(Germany\)"):
        place()
    monkeypatch.setenv("TFKIT_CARBON_COUNTRY", "FR")
    with pytest.raises(UsageError, match="alpha-3"):
        place()


def test_without_codecarbons_table_a_country_has_the_worlds_average(monkeypatch, nowhere):
    def absent():
        raise FileNotFoundError

    monkeypatch.setattr("tfkit.carbon.place.codecarbon_folder", absent)
    _countries.cache_clear()
    assert place("FRA").describe() == "FRA, 475 g/kWh (world average, since CodeCarbon's table is missing, carbon.country)"
    assert place("WLD").intensity_g_per_kwh == 475.0
    _countries.cache_clear()


@pytest.mark.parametrize("value", ["much", "nan", "-1", "inf"])
def test_an_impossible_intensity_is_refused(monkeypatch, value):
    monkeypatch.setenv("TFKIT_CARBON_INTENSITY", value)
    with pytest.raises(UsageError, match=r"TFKIT_CARBON_INTENSITY.*grams"):
        place()


def test_a_broken_codecarbon_file_counts_as_absent(nowhere):
    (nowhere / "home/.codecarbon.config").write_text("no section here\n\x00")
    (nowhere / "here/.codecarbon.config").write_text("[codecarbon]\nforce_ram_power = 7\n")
    assert codecarbon_settings()["force_ram_power"] == "7"
    [problem] = broken_codecarbon_files()
    assert problem.startswith(f"{nowhere / 'home/.codecarbon.config'} cannot be read, so its settings are ignored (")
    assert place().country_iso_code == "WLD"


def test_the_columns_are_those_of_the_installed_codecarbon():
    import dataclasses

    from codecarbon.output_methods.emissions_data import EmissionsData

    assert list(installed_columns()) == [field.name for field in dataclasses.fields(EmissionsData)]
    assert set(CODECARBON_3_3.split()) <= set(installed_columns())
