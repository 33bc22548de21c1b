"""The totals of a run: the source and the range of each number."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.carbon.attempt_files import Ledger, estimate_line, tick_line
from tfkit.carbon.footprint import MEASURED, RunTotals, sum_totals
from tfkit.carbon.reading import Reading, Totals, add_readings
from tfkit.carbon.totals import attempts_of, totals_of

FRANCE = {"text": "FRA", "intensity_g_per_kwh": 56.0, "source": "2023 mean, carbon.country", "kind": "annual mean", "year": 2023}
HEADER = {"kind": "header", "schema_version": 1, "run_id": "run", "node": 0, "place": FRANCE, "pue": 1.5}
HOUR = 3600.0


def totals(seconds, cpu_wh, gpu_wh, ram_wh, grams=None, cpu_percent=50.0):
    energy = cpu_wh + gpu_wh + ram_wh
    return Totals(seconds, energy, cpu_wh, gpu_wh, ram_wh, energy * 0.056 if grams is None else grams, cpu_percent)


def write(folder, components, measured, attempt=1, tdp_w=None, phase="train", place=FRANCE, **record):
    ledger = Ledger(folder / "carbon", 0, attempt)
    machine = {"kind": "machine", "components": components, "tdp_w": tdp_w, "record": record}
    tick = tick_line(1e9, phase, measured.measured_seconds, measured, 1.0, "ok")
    for line in (HEADER | {"attempt": attempt, "place": place}, machine, tick):
        ledger.append(line)
    return ledger


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
    write(tmp_path, components, totals(HOUR, 10, 100, 20), tdp_w=tdp_w)
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
            write(where, {"cpu": cpu, "gpu": gpu, "ram": ram}, measured, attempt=number, tdp_w=tdp_w)
        alone.append(fields(folder / str(number)))
    found, energy = fields(folder), sum(sum(attempt[3:6]) for attempt in attempts) / 1000
    if energy:
        assert found["energy_kwh_low"] <= energy * (1 + 1e-9)
        assert energy * (1 - 1e-9) <= found["energy_kwh_high"]
    for name in ("energy_kwh_low", "energy_kwh_high", "emissions_g_low", "emissions_g_high"):
        assert (found[name] or 0.0) == pytest.approx(sum(one[name] or 0.0 for one in alone))


def test_what_was_measured_where_and_on_what(tmp_path):
    both = {"cpu": "model", "gpu": "counter"}
    write(tmp_path, both, totals(1800, 10, 100, 0), cpu_model="Abacus 9", gpu_model="2 x H1001 x A30", gpu_count=3)
    poland = FRANCE | {"intensity_g_per_kwh": 600.0, "kind": "user", "source": "carbon.intensity_g_per_kwh", "year": None}
    write(
        tmp_path,
        {"cpu": "counter"},
        totals(900, 110, 0, 0, grams=66.0),
        attempt=2,
        place=poland,
        cpu_model="Abacus 9",
        gpu_model="1 x H100",
    )
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


def test_nothing_measured_is_nothing_known(tmp_path):
    assert totals_of([], 10.0) == RunTotals(seconds=10.0, carbon_status="off")
    write(tmp_path, {}, totals(0, 0, 0, 0))
    found = fields(tmp_path)
    assert (found["energy_kwh_low"], found["modelled_share"], found["provenance"], found["coverage"]) == (None, None, None, 0.0)


def test_the_idle_power_before_the_work_gives_the_idle_share_of_all_attempts(tmp_path):
    """The first attempt is idle at 20 W for 10 s, and works at 50 W for 90 s. The second takes 200 s, and does not measure idle power."""
    ledger = Ledger(tmp_path / "carbon", 0, 1)
    joules = [("setup", 4, 2, 40), ("idle", 14, 12, 240), ("train", 104, 102, 4740)]
    for line in (
        HEADER | {"attempt": 1},
        *(tick_line(1e9 + at, phase, at, totals(measured, ws / HOUR, 0, 0), 1.0, "ok") for phase, at, measured, ws in joules),
        estimate_line(2.0, totals(102, 4740 / HOUR, 0, 0)),
    ):
        ledger.append(line)
    write(tmp_path, {"cpu": "model"}, totals(200, 5, 0, 0), attempt=2)
    assert fields(tmp_path)["idle_kwh"] * 3.6e6 == pytest.approx(20 * 304)


def test_the_sources_of_a_sum_are_named_once():
    parts = [RunTotals(energy_kwh=1.0, provenance={"cpu": source}) for source in ("counter, model", "model")]
    assert sum_totals(parts).provenance == {"cpu": "counter, model"}


def test_the_readings_of_nodes_add_up_and_are_as_good_as_the_worst():
    one, other = Reading(1.0, 10.0, 5.0, 60.0, "ok"), Reading(2.0, 20.0, 7.0, 50.0, "degraded")
    both = add_readings(one, [one, other])
    assert (both.energy_wh, both.emissions_g, both.power_w, both.seconds, both.status) == (4.0, 40.0, 17.0, 60.0, "degraded")
