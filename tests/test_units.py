from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkit import units

NAN = float("nan")
SHOWN: dict[Callable[[float], str], dict[float, str]] = {
    units.format_count: {0: "0", 999: "999", 999.6: "1k", 12_345: "12.3k", 1e6: "1M", 124_439_808: "124M", NAN: "?"},
    units.format_seconds: {0: "0:00", 7.4: "0:07", 59.7: "1:00", 190: "3:10", 7384: "2:03:04", 439_200: "5d 02h", -1: "?", NAN: "?"},
    units.format_mass: {0: "0 g", 1.2e-5: "12 ug", 0.195: "195 mg", 0.99999: "1 g", 1.25: "1.2 g", 3400: "3.4 kg", 5.6e6: "5.6 t"}
    | {3e-7: "0.3 ug", 1e-9: "0 ug"},
    units.format_energy: {0: "0 Wh", 0.012: "12 mWh", 0.41: "410 mWh", 1.5: "1.5 Wh", 3400: "3.4 kWh", 3.1e6: "3.1 MWh"}
    | {4.12e-4: "0.4 mWh"},
    units.format_bytes: {0: "0 B", 999: "999 B", 12_345: "12.3 kB", 3.4e9: "3.4 GB", 5.6e12: "5.6 TB"},
}


@pytest.mark.parametrize(("format_", "texts"), SHOWN.items(), ids=lambda part: getattr(part, "__name__", ""))
def test_quantities_are_short_texts(format_: Callable[[float], str], texts: dict[float, str]) -> None:
    assert {value: format_(value) for value in texts} == texts


@given(st.floats(1e-9, 1e15))
def test_units_never_mislead(value: float) -> None:
    """The number that is read back from the text is the value, to the digits shown."""
    for format_, sizes in (
        (units.format_mass, {"ug": 1e-6, "mg": 1e-3, "g": 1, "kg": 1e3, "t": 1e6}),
        (units.format_energy, {"mWh": 1e-3, "Wh": 1, "kWh": 1e3, "MWh": 1e6}),
    ):
        number, unit = format_(value).split()
        assert abs(float(number) * sizes[unit] - value) <= max(0.051 * sizes[unit], 0.0051 * value)


def test_one_thing_is_not_several() -> None:
    assert [units.format_number_of(count, "row") for count in (0, 1, 2, 12_000)] == ["0 rows", "1 row", "2 rows", "12,000 rows"]


def test_an_epoch_is_not_several() -> None:
    assert [units.format_epochs(count) for count in (1, 0.9999, 0.25, 3.004)] == ["1 epoch", "1 epoch", "0.25 epochs", "3 epochs"]


def test_fields_of_a_step() -> None:
    """All of a run's: tests/test_console.py."""
    fields = {"step": 3, "lr": 1e-12, "energy_kwh": 1.0, "loss": None, "note": "x"}
    assert units.format_fields(fields) == ["step 3", "lr 1.0e-12", "1 kWh", "note x"]


def test_baselines_are_shown_by_one_metric() -> None:
    found = {"most_frequent_tag": {"accuracy": 0.5, "f1": 0.0}, "most_frequent_tag_of_word": {"accuracy": 0.75, "f1": 0.123456}}
    assert units.format_baselines(found) == "f1 0 most frequent tag, 0.1235 most frequent tag of word"
    assert units.format_baselines({"mean": {"rmse": 1.5}}) == "rmse 1.5 mean"
    assert units.format_baselines({}) == ""
