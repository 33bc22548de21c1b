"""CodeCarbon fails in every way that we know. The only effects on a training are the status of the readings and a warning."""

import csv
import json
import os
import shutil
import signal
import time

import pytest
from scripted_probe import EXIT_SECONDS, HANG_SECONDS
from tiny_files import wait_for

from tfkit.carbon import Meter
from tfkit.recipe.schema.carbon_section import CarbonSection

SECTION = CarbonSection(intensity_g_per_kwh=100.0, every_seconds=0.5)


def start(folder, probe=None):
    kind = {"probe": f"scripted_probe:{probe}"} if probe else {}
    return Meter.start(SECTION, folder=folder, run_id="run", attempt=1, project="p", **kind)


def ticks(folder):
    lines = [json.loads(line) for line in next((folder / "carbon").iterdir()).read_text().splitlines()]
    return [line for line in lines if line["kind"] == "tick"]


def written(folder):
    """Return whether the ledger has a tick."""
    return any("tick" in path.read_text() for path in (folder / "carbon").glob("*.jsonl"))


def row_sums(folder):
    with (folder / "emissions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return sum(float(row["duration"]) for row in rows), sum(float(row["energy_consumed"]) for row in rows)


@pytest.mark.parametrize(
    ("probe", "reason"),
    [("RaisingConstructor", "RuntimeError: no meter here"), ("ExitingStart", "SystemExit: 3")],
)
def test_what_does_not_start_leaves_time_without_energy(tmp_path, probe, reason):
    meter = start(tmp_path, probe)
    wait_for(lambda: meter.reading().status == "degraded")
    time.sleep(0.6)
    final = meter.stop()
    assert (final.status, final.energy_wh) == ("degraded", 0.0)
    assert reason in meter.warning()
    assert meter.warning() is None
    seconds, energy = row_sums(tmp_path)
    assert seconds == pytest.approx(final.seconds)
    assert seconds > 0.5
    assert energy == 0
    assert [tick["status"] for tick in ticks(tmp_path)][-1] == "degraded"
    assert any(reason in tick.get("reason", "") for tick in ticks(tmp_path))


def test_what_hangs_in_its_start_is_left_alone(tmp_path):
    meter = start(tmp_path, "HangingStart")
    wait_for(lambda: written(tmp_path))
    time.sleep(0.5)
    assert meter.reading().status == "starting"
    began = time.monotonic()
    final = meter.stop(timeout=1.0 + EXIT_SECONDS)
    assert time.monotonic() - began < HANG_SECONDS / 2
    assert final.status == "degraded"
    assert "had not started by the end" in meter.warning()
    assert row_sums(tmp_path)[0] > 0.4


def test_a_command_that_is_done_before_the_start_waits_for_its_energy(tmp_path):
    meter = start(tmp_path, "SlowStart")
    final = meter.stop(2.0 + EXIT_SECONDS)
    assert (final.status, meter.warning()) == ("ok", None)
    assert final.energy_wh == pytest.approx(final.seconds * 36 / 3600, rel=0.05), "also of the time before the start"


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        ("NotANumber", "energy_wh is nan"),
        ("Infinite", "energy_wh is inf"),
        ("Negative", "energy_wh is -1.0"),
        ("Falling", "energy_wh fell from"),
        ("Nothing", "AttributeError"),
        ("Raising", "OSError: the counter is gone"),
    ],
)
def test_a_bad_reading_is_left_out_and_the_last_good_one_stays(tmp_path, probe, reason):
    meter = start(tmp_path, probe)
    wait_for(lambda: meter.reading().status == "degraded")
    last_good = meter.reading().energy_wh
    assert last_good > 0
    final = meter.stop()
    assert final.energy_wh == pytest.approx(last_good)
    assert reason in meter.warning()
    assert row_sums(tmp_path)[1] * 1000 == pytest.approx(last_good)
    assert {tick["status"] for tick in ticks(tmp_path)} >= {"ok", "degraded"}


def test_what_hangs_in_a_reading_holds_up_nobody(tmp_path):
    meter = start(tmp_path, "HangingRead")
    wait_for(lambda: meter.reading().status == "ok")
    began = time.monotonic()
    for _ in range(3):
        meter.phase("train")
        meter.fresh_reading(timeout=0.3)
    final = meter.stop()
    assert time.monotonic() - began < HANG_SECONDS / 2
    assert final.status == "degraded"
    assert "did not answer in time" in meter.warning()


def test_after_a_hiccup_all_is_well(tmp_path):
    meter = start(tmp_path, "Recovering")
    wait_for(lambda: "a hiccup" in (meter.warning() or ""))
    wait_for(lambda: meter.reading().status == "ok")
    assert meter.stop().status == "ok"
    assert "degraded" in {tick["status"] for tick in ticks(tmp_path)}


def test_a_killed_sidecar_is_one_warning(tmp_path):
    meter = start(tmp_path, "Steady")
    wait_for(lambda: meter.reading().status == "ok")
    wait_for(lambda: meter.fresh_reading().energy_wh > 0.002)
    wait_for(lambda: row_sums(tmp_path)[1] > 0)
    os.kill(meter._process.pid, signal.SIGKILL)
    wait_for(lambda: meter.reading().status == "degraded")
    energy = meter.reading().energy_wh
    meter.phase("train")
    assert meter.fresh_reading(timeout=1.0).energy_wh == energy
    assert meter.stop().energy_wh == energy
    assert "ended early" in meter.warning()
    assert 0 < row_sums(tmp_path)[1] * 1000 <= energy


def test_a_stopped_sidecar_is_killed_after_the_time_out(tmp_path):
    meter = start(tmp_path, "Steady")
    wait_for(lambda: meter.reading().status == "ok")
    os.kill(meter._process.pid, signal.SIGSTOP)
    for index in range(2000):  # more than the pipe holds
        meter.phase(f"phase {index} " + "x" * 200)
    began = time.monotonic()
    assert meter.fresh_reading(timeout=0.3).status == "ok"
    assert meter.stop(timeout=0.7).status == "degraded"
    assert time.monotonic() - began < HANG_SECONDS / 2  # the sidecar never continues
    assert meter._process.poll() is not None
    assert "did not stop within 0.7 s" in meter.warning()


def test_broken_pipes_do_not_end_a_program_that_lets_them(tmp_path):
    """A program may restore the default action of SIGPIPE, as `tfkit generate | head -1` needs it."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        meter = start(tmp_path, "Steady")
        wait_for(lambda: meter.reading().status == "ok")
        os.kill(meter._process.pid, signal.SIGKILL)
        for _ in range(50):
            meter.phase("train")
            time.sleep(0.005)
        assert meter.stop().status == "degraded"
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_a_lost_folder_costs_one_warning_and_no_reading(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    meter = start(folder, "Steady")
    wait_for(lambda: meter.reading().status == "ok" and (folder / "emissions.csv").exists())  # the ledger creates a missing folder
    shutil.rmtree(folder)
    before = meter.fresh_reading().energy_wh
    time.sleep(1.2)
    assert meter.stop().energy_wh > before
    assert meter.warning().count("could not be written") == 1


def test_no_python_to_start_is_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    meter = start(tmp_path, "Steady")
    meter.phase("train")
    assert meter.fresh_reading().status == meter.stop().status == "degraded"
    assert "could not start" in meter.warning()


def test_a_wrong_country_is_one_warning_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TFKIT_CARBON_INTENSITY", "lots")
    section = CarbonSection(every_seconds=0.5)
    meter = Meter.start(section, folder=tmp_path, run_id="run", attempt=1, project="p", probe="scripted_probe:Steady")
    wait_for(lambda: meter.reading().status == "ok")
    assert meter.stop().place == "place unknown, world average 475 g/kWh"
    assert "TFKIT_CARBON_INTENSITY" in meter.warning()
