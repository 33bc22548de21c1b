"""The totals of a run: the source and the range of each number."""

from dataclasses import asdict, replace

import pytest
import written_ledgers
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.carbon.attempt_files import estimate_line, tick_line
from tfkit.carbon.footprint import MEASURED, Reading, RunTotals, Totals, add_readings, sum_totals
from tfkit.carbon.place import Place
from tfkit.carbon.totals import attempts_of, totals_of
from tfkit.engine.planning.forecast import emissions_of
from tfkit.engine.training_run.estimate import Range

COAL = Place("COA", "Coalland", 500.0, "test", "annual mean", 2023, "table", 400.0, 600.0, "its plants")
USER = Place(intensity_g_per_kwh=100.0, kind="user")
FRANCE = {"text": "FRA", "intensity_g_per_kwh": 56.0, "source": "2023 mean, carbon.country", "kind": "annual mean", "year": 2023}
HOUR = 3600.0


def totals(seconds, cpu_wh, gpu_wh, ram_wh, grams=None, cpu_percent=50.0):
    energy = cpu_wh + gpu_wh + ram_wh
    return Totals(seconds, energy, cpu_wh, gpu_wh, ram_wh, energy * 0.056 if grams is None else grams, cpu_percent)


def measure(folder, components, measured, attempt=1, tdp_w=None, phase="train", place=FRANCE, **record):
    """Write the ledger of an attempt with one tick."""
    machine = {"kind": "machine", "components": components, "tdp_w": tdp_w, "record": record}
    tick = tick_line(1e9, phase, measured.measured_seconds, measured, 1.0, "ok")
    written_ledgers.write(folder, [machine, tick], attempt, place=place, pue=1.5)


def fields(folder, seconds=HOUR):
    return totals_of(attempts_of(folder), seconds).document(MEASURED)


# For an hour: 10 W of a CPU with a TDP of 40 W, by the model; 100 W of a GPU; 20 W of memory. All numbers include the PUE of 1.5.
@pytest.mark.parametrize(
    ("components", "tdp_w", "low", "high"),
    [
        ({"cpu": "counter", "gpu": "counter", "ram": "constant"}, None, 9.5 + 95 + 8, 10.5 + 105 + 32),
        ({"cpu": "model", "gpu": "counter", "ram": "constant"}, 40.0, 4 * 1.5 + 95 + 8, 40 * 1.5 + 105 + 32),
        ({"cpu": "user", "gpu": "counter", "ram": "user"}, 40.0, 4 * 1.5 + 95 + 20, 40 * 1.5 + 105 + 20),
        ({"cpu": "model", "gpu": "counter", "ram": "constant"}, 5.0, 0.5 * 1.5 + 95 + 8, 10 + 105 + 32),
        ({"cpu": "model", "gpu": "counter", "ram": "user"}, None, 10 * 0.1 / 0.2125 + 95 + 20, 10 / 0.2125 + 105 + 20),
    ],
    ids=["counters", "model", "user", "a TDP that is too small", "no TDP: the formula solved for it"],
)
def test_the_range_follows_from_how_each_part_was_had(tmp_path, components, tdp_w, low, high):
    measure(tmp_path, components, totals(HOUR, 10, 100, 20), tdp_w=tdp_w)
    found = fields(tmp_path)
    assert (found["energy_kwh_low"] * 1000, found["energy_kwh_high"] * 1000) == pytest.approx((low, high))
    assert (found["emissions_g_low"], found["emissions_g_high"]) == pytest.approx((low * 0.056, high * 0.056))
    assert found["provenance"] == {"cpu": None, "gpu": None, "ram": None} | components
    modelled = sum(wh for part, wh in (("cpu", 10), ("gpu", 100), ("ram", 20)) if components[part] in ("model", "constant"))
    assert found["modelled_share"] == pytest.approx(modelled / 130, abs=1e-4)


KIND = st.sampled_from(["counter", "model", "constant", "user"])
WH = st.floats(0, 1e3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(KIND, KIND, KIND, WH, WH, WH, st.none() | st.floats(1, 500), st.floats(0, 100)), min_size=1, max_size=3))
def test_the_bounds_contain_the_value_and_add_up_over_attempts(tmp_path_factory, attempts):
    folder, alone = tmp_path_factory.mktemp("run"), []
    for number, (cpu, gpu, ram, cpu_wh, gpu_wh, ram_wh, tdp_w, percent) in enumerate(attempts, 1):
        measured = totals(HOUR, cpu_wh, gpu_wh, ram_wh, cpu_percent=percent)
        for where in (folder, folder / str(number)):
            measure(where, {"cpu": cpu, "gpu": gpu, "ram": ram}, measured, attempt=number, tdp_w=tdp_w)
        alone.append(fields(folder / str(number)))
    found, energy = fields(folder), sum(sum(attempt[3:6]) for attempt in attempts) / 1000
    if energy:
        assert found["energy_kwh_low"] <= energy * (1 + 1e-9)
        assert energy * (1 - 1e-9) <= found["energy_kwh_high"]
    for name in ("energy_kwh_low", "energy_kwh_high", "emissions_g_low", "emissions_g_high"):
        assert (found[name] or 0.0) == pytest.approx(sum(one[name] or 0.0 for one in alone))


def test_what_was_measured_where_and_on_what(tmp_path):
    both = {"cpu": "model", "gpu": "counter"}
    measure(tmp_path, both, totals(1800, 10, 100, 0), cpu_model="Abacus 9", gpu_model="2 x H1001 x A30", gpu_count=3)
    poland = FRANCE | {"intensity_g_per_kwh": 600.0, "kind": "user", "source": "carbon.intensity_g_per_kwh", "year": None}
    second = totals(900, 110, 0, 0, grams=66.0)
    measure(tmp_path, {"cpu": "counter"}, second, attempt=2, place=poland, cpu_model="Abacus 9", gpu_model="1 x H100")
    found = fields(tmp_path)
    assert found["coverage"] == 0.75
    assert found["provenance"] == {"cpu": "model, counter", "gpu": "counter", "ram": None}
    assert found["device_seconds"] == {"Abacus 9": 2700.0, "H100": 3600.0, "A30": 1800.0}
    assert found["intensity"] == {
        "g_per_kwh": pytest.approx((110 * 0.056 + 66) / 0.22),
        "source": "2023 mean, carbon.country, carbon.intensity_g_per_kwh",
        "year": None,
        "kind": "annual mean, user",
    }
    assert found["pue"] == 1.5
    # Of what was not measured, nothing is known.
    assert totals_of([], 10.0) == RunTotals(seconds=10.0, carbon_status="off")
    measure(tmp_path / "nothing", {}, totals(0, 0, 0, 0))
    found = fields(tmp_path / "nothing")
    assert (found["energy_kwh_low"], found["modelled_share"], found["provenance"], found["coverage"]) == (None, None, None, 0.0)


def test_the_idle_power_before_the_work_gives_the_idle_share_of_all_attempts(tmp_path):
    """The first attempt is idle at 20 W for 10 s, and works at 50 W for 90 s. The second takes 200 s, and does not measure idle power."""
    joules = [("setup", 4, 2, 40), ("idle", 14, 12, 240), ("train", 104, 102, 4740)]
    ticks = [tick_line(1e9 + at, phase, at, totals(measured, ws / HOUR, 0, 0), 1.0, "ok") for phase, at, measured, ws in joules]
    written_ledgers.write(tmp_path, [*ticks, estimate_line(2.0, totals(102, 4740 / HOUR, 0, 0))], place=FRANCE, pue=1.5)
    measure(tmp_path, {"cpu": "model"}, totals(200, 5, 0, 0), attempt=2)
    assert fields(tmp_path)["idle_kwh"] * 3.6e6 == pytest.approx(20 * 304)


def test_sums_of_runs_and_of_nodes():
    """The sources of a sum are named once; a sum has a range where all have one; nodes are as good as the worst."""
    parts = [RunTotals(energy_kwh=1.0, provenance={"cpu": source}) for source in ("counter, model", "model")]
    assert sum_totals(parts).provenance == {"cpu": "counter, model"}
    ranged = RunTotals(energy_kwh=1.0, emissions_g=2.0, emissions_g_low=1.0, emissions_g_high=3.0, seconds=1.0)
    found = sum_totals([ranged, ranged, RunTotals(seconds=5.0)])
    assert (found.emissions_g, found.emissions_g_low, found.emissions_g_high, found.seconds) == (4.0, 2.0, 6.0, 7.0)
    assert sum_totals([ranged, RunTotals(energy_kwh=1.0, emissions_g=1.0)]).emissions_g_low is None
    one, other = Reading(1.0, 10.0, 5.0, 60.0, "ok"), Reading(2.0, 20.0, 7.0, 50.0, "degraded")
    both = add_readings(one, [one, other])
    assert (both.energy_wh, both.emissions_g, both.power_w, both.seconds, both.status) == (4.0, 40.0, 17.0, 60.0, "degraded")


def test_a_plan_has_the_lowest_energy_at_the_lowest_intensity():
    grams, how = emissions_of(Range(1.0, 2.0, 3.0), COAL)
    assert grams == Range(400.0, 1000.0, 1800.0)
    assert how["emissions_g"].endswith("between 400 and 600 g/kWh: its plants")
    grams, how = emissions_of(Range(1.0, 2.0, 3.0), Place(intensity_g_per_kwh=10.0))
    assert grams == Range(10.0, 20.0, 30.0)
    assert "between" not in how["emissions_g"]


def measured_at(folder, *places):
    """Return the totals of attempts that each use 1 kWh, measured by a counter."""
    for number, place in enumerate(places, 1):
        used = totals(HOUR, 1000.0, 0, 0, grams=place.intensity_g_per_kwh)
        measure(folder, {"cpu": "counter"}, used, attempt=number, place=asdict(place))
    return totals_of(attempts_of(folder), HOUR * len(places))


def ends(found):
    return [found.intensity.g_per_kwh, found.intensity.low_g_per_kwh, found.intensity.high_g_per_kwh]


def test_measured_emissions_and_those_of_stages_have_the_range_of_energy_and_intensity(tmp_path):
    found = measured_at(tmp_path / "one", COAL)
    assert (found.emissions_g_low, found.emissions_g_high) == pytest.approx((0.95 * 400, 1.05 * 600))
    intensity = {"g_per_kwh": 500.0, "low_g_per_kwh": 400.0, "high_g_per_kwh": 600.0, "source": "table", "year": 2023}
    assert found.intensity.document() == intensity | {"kind": "annual mean"}
    mixed = measured_at(tmp_path / "two", COAL, USER)
    assert (mixed.emissions_g_low, mixed.emissions_g_high) == pytest.approx((0.95 * 500, 1.05 * 700))
    assert ends(mixed) == pytest.approx([300, 250, 350])
    assert ends(measured_at(tmp_path / "three", USER)) == [100, None, None]
    coal = replace(measured_at(tmp_path / "a", COAL), energy_kwh=1.0, emissions_g=500.0)
    user = replace(measured_at(tmp_path / "b", USER), energy_kwh=1.0, emissions_g=100.0)
    assert ends(sum_totals([coal, user])) == pytest.approx([300, 250, 350])
    assert ends(sum_totals([coal, coal])) == pytest.approx([500, 400, 600])
    assert ends(sum_totals([user])) == [100, None, None]
