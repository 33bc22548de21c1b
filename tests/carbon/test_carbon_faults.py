"""CodeCarbon fails in every way that we know; only the readings' status and a warning show it. Whole runs: tests/faults/test_carbon.py."""

import os
import shutil
import signal
import time

import pytest
import scripted_probe
from scripted_meter import start
from scripted_probe import EXIT_SECONDS, HANG_SECONDS
from tiny_files import read_rows, wait_for
from written_ledgers import row_sums

from tfkit.carbon.footprint import Totals
from tfkit.carbon.probe import Gauge
from tfkit.recipe.schema.carbon_section import CarbonSection


def ticks(folder):
    return [line for line in read_rows(next((folder / "carbon").iterdir())) if line["kind"] == "tick"]


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        ("RaisingConstructor", "did not start: RuntimeError: no meter here"),
        ("ExitingStart", "did not start: SystemExit: 3"),
        ("NotANumber", "energy_wh is nan"),
        ("Infinite", "energy_wh is inf"),
        ("Negative", "energy_wh is -1.0"),
        ("Falling", "energy_wh fell from"),
        ("Nothing", "AttributeError"),
        ("Raising", "OSError: the counter is gone"),
    ],
)
def test_a_bad_reading_is_left_out_and_the_last_good_one_stays(probe, reason):
    gauge = Gauge(lambda: getattr(scripted_probe, probe)({}))
    found = [gauge.read(HANG_SECONDS, wait_for_start=True) for _ in range(4)]
    assert gauge.status == "degraded"
    assert {reason in complaint for complaint in gauge.complaints()} == {True}
    if "start" in reason:
        assert found == [Totals()] * 4
    else:
        assert 0 < found[0].energy_wh < found[1].energy_wh
        assert found[1:] == [found[1]] * 3


@pytest.mark.parametrize(
    ("probe", "reason"), [("RaisingConstructor", "RuntimeError: no meter here"), ("Raising", "OSError: the counter is gone")]
)
def test_a_failure_is_one_warning_and_in_the_ledger_and_takes_no_time_and_no_energy_away(tmp_path, probe, reason):
    meter = start(tmp_path, probe, until="degraded")
    last_good = meter.reading().energy_wh
    time.sleep(0.6)
    final = meter.stop()
    assert (final.status, final.energy_wh, last_good > 0) == ("degraded", pytest.approx(last_good), probe == "Raising")
    assert reason in meter.warning()
    assert meter.warning() is None
    assert row_sums(tmp_path) == pytest.approx((final.seconds, last_good))
    assert final.seconds > 0.5
    assert any(reason in tick.get("reason", "") for tick in ticks(tmp_path))
    assert {tick["status"] for tick in ticks(tmp_path)} >= ({"ok", "degraded"} if last_good else {"degraded"})


def test_what_hangs_in_its_start_is_left_alone(tmp_path):
    meter = start(tmp_path, "HangingStart")
    wait_for(lambda: any("tick" in path.read_text() for path in (tmp_path / "carbon").glob("*.jsonl")))
    time.sleep(0.5)
    assert meter.reading().status == "starting"
    began = time.monotonic()
    assert meter.stop(timeout=1.0 + EXIT_SECONDS).status == "degraded"
    assert time.monotonic() - began < HANG_SECONDS / 2
    assert "had not started by the end" in meter.warning()
    assert row_sums(tmp_path)[0] > 0.4


def test_a_command_that_is_done_before_the_start_waits_for_its_energy(tmp_path):
    meter = start(tmp_path, "SlowStart")
    final = meter.stop(2.0 + EXIT_SECONDS)
    assert (final.status, meter.warning()) == ("ok", None)
    assert final.energy_wh == pytest.approx(final.seconds * 36 / 3600, rel=0.05), "also of the time before the start"


def test_what_hangs_in_a_reading_holds_up_nobody(tmp_path):
    meter = start(tmp_path, "HangingRead", until="ok")
    began = time.monotonic()
    for _ in range(3):
        meter.phase("train")
        meter.fresh_reading(timeout=0.3)
    assert meter.stop().status == "degraded"
    assert time.monotonic() - began < HANG_SECONDS / 2
    assert "did not answer in time" in meter.warning()


def test_after_a_hiccup_all_is_well(tmp_path):
    meter = start(tmp_path, "Recovering")
    wait_for(lambda: "a hiccup" in (meter.warning() or ""))
    wait_for(lambda: meter.reading().status == "ok")
    assert meter.stop().status == "ok"
    assert "degraded" in {tick["status"] for tick in ticks(tmp_path)}


def test_a_killed_sidecar_is_one_warning(tmp_path):
    """Also in a program that restores the default action of SIGPIPE, as `tfkit generate | head -1` needs it."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        meter = start(tmp_path, until="ok")
        wait_for(lambda: meter.fresh_reading().energy_wh > 0.002)
        wait_for(lambda: row_sums(tmp_path)[1] > 0)
        os.kill(meter._process.pid, signal.SIGKILL)
        for _ in range(50):
            meter.phase("train")
            time.sleep(0.005)
        wait_for(lambda: meter.reading().status == "degraded")
        energy = meter.reading().energy_wh
        assert meter.fresh_reading(timeout=1.0).energy_wh == meter.stop().energy_wh == energy
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert "ended early" in meter.warning()
    assert 0 < row_sums(tmp_path)[1] <= energy


def test_a_stopped_sidecar_is_killed_after_the_time_out(tmp_path):
    meter = start(tmp_path, until="ok")
    os.kill(meter._process.pid, signal.SIGSTOP)
    for index in range(2000):  # more than the pipe holds
        meter.phase(f"phase {index} " + "x" * 200)
    began = time.monotonic()
    assert meter.fresh_reading(timeout=0.3).status == "ok"
    assert meter.stop(timeout=0.7).status == "degraded"
    assert time.monotonic() - began < HANG_SECONDS / 2  # the sidecar never continues
    assert meter._process.poll() is not None
    assert "did not stop within 0.7 s" in meter.warning()


def test_a_lost_folder_costs_one_warning_and_no_reading(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    meter = start(folder, until="ok")
    wait_for((folder / "emissions.csv").exists)  # the ledger creates a missing folder
    shutil.rmtree(folder)
    before = meter.fresh_reading().energy_wh
    time.sleep(1.2)
    assert meter.stop().energy_wh > before
    assert meter.warning().count("could not be written") == 1


def test_no_python_to_start_is_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    meter = start(tmp_path)
    meter.phase("train")
    assert meter.fresh_reading().status == meter.stop().status == "degraded"
    assert "could not start" in meter.warning()


def test_a_wrong_country_is_one_warning_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TFKIT_CARBON_INTENSITY", "lots")
    meter = start(tmp_path, section=CarbonSection(every_seconds=0.5), until="ok")
    assert meter.stop().place == "place unknown, world average 475 g/kWh"
    assert "TFKIT_CARBON_INTENSITY" in meter.warning()
