"""The energy of a real run, as its result, its receipt and its last lines have it, of power that is made up; and intensities over time."""

import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fake_codecarbon
import pytest
from fake_codecarbon import G_PER_KWH, POWER_W
from tiny_files import read_json
from tiny_runs import Before, both, pretrain, run_here, run_tfkit

from tfkit.carbon.footprint import MEASURED
from tfkit.engine.training_run.validator import Validator
from tfkit.units import format_energy, format_range

METERED = f"carbon={{enabled: true, intensity_g_per_kwh: {G_PER_KWH:g}, every_seconds: 0.5, baseline_seconds: 0.5, pue: 1.2}}"


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    metered = both(fake_codecarbon.put_first(fake_codecarbon.write(base / "fake")), fake_codecarbon.wait_for_the_end)
    done = pretrain(base / "run", base / "tiny.yaml", METERED, "--json", before=metered).exits(0, "measuring the idle machine for 0.5 s")
    (base / "result.json").write_text(done.out)
    return base / "run"


def test_result_and_receipt_say_how_the_energy_was_had(run: Path) -> None:
    result, totals = read_json(run.parent / "result.json"), read_json(run / "run.json")["totals"]
    assert {name: result[name] for name in MEASURED} == {name: totals[name] for name in MEASURED}
    assert result["energy_kwh"] * 3.6e6 == pytest.approx(POWER_W * result["seconds"], rel=0.2)
    assert result["emissions_g"] == pytest.approx(result["energy_kwh"] * G_PER_KWH)
    assert result["provenance"] == {"cpu": "model", "gpu": None, "ram": "constant"}
    assert result["energy_kwh_low"] < result["energy_kwh"] < result["energy_kwh_high"]
    assert result["emissions_g_high"] == pytest.approx(result["energy_kwh_high"] * G_PER_KWH)
    assert (result["modelled_share"], result["pue"]) == (1.0, 1.2)
    assert 0 < result["coverage"] <= 1
    source = "carbon.intensity_g_per_kwh"
    assert result["intensity"] == {"g_per_kwh": G_PER_KWH, "source": source, "year": None, "kind": "user"}
    assert result["idle_kwh"] * 3.6e6 == pytest.approx(POWER_W * result["seconds"], rel=0.2)


def test_the_last_lines_say_it_in_plain_words(run: Path) -> None:
    done = run_tfkit(run.parent, ["resume", str(run)])
    (line,) = [line for line in done.out.splitlines() if line.startswith("measured")]
    result = read_json(run.parent / "result.json")
    watts = result["energy_kwh"] * 3.6e6 / result["seconds"]
    energies = format_range(result["energy_kwh_low"] * 1000, result["energy_kwh_high"] * 1000)
    assert line.split(maxsplit=1)[1].startswith(f"{watts:.3g} W (CPU model, RAM constant), {energies}; ")
    assert line.endswith(f"; the idle machine would have taken {format_energy(result['idle_kwh'] * 1000)}")


def test_a_finished_run_that_is_made_longer_repeats_nothing(run: Path, tmp_path: Path) -> None:
    """Neither its steps nor the evaluation after its last checkpoint."""
    longer = Path(shutil.copytree(run, tmp_path / "run"))
    slow = Before(Validator, "_record_scores", lambda *_: time.sleep(1))
    metered = both(fake_codecarbon.put_first(run.parent / "fake"), fake_codecarbon.wait_for_the_end, slow)
    for steps in (14, 16):
        run_tfkit(tmp_path, ["resume", str(longer), f"training.steps={steps}"], metered).exits(0)
    totals = read_json(longer / "run.json")["totals"]
    assert totals["rework_seconds"] < 0.5, "the evaluations took 2 s"


# -- a series of intensities is refused before the run starts where it is of another time, and of no harm afterwards


def grid(base: Path, name: str, begin: float, minutes: float, rows: int = 3) -> Path:
    """A series from `begin` minutes from now on, with values of this many minutes."""
    times = [datetime.now(UTC) + timedelta(minutes=begin + minutes * row) for row in range(rows)]
    (base / name).write_text("timestamp_utc,g_per_kwh\n" + "".join(f"{time.isoformat()},{50 + row}\n" for row, time in enumerate(times)))
    return base / name


def test_a_series_of_another_time_is_refused_before_there_is_a_folder(base: Path) -> None:
    past, future = grid(base, "past.csv", -600, 10), grid(base, "future.csv", 5, 10)
    for path, said in ((past, "but now it is"), (future, "but now it is"), (base / "none.csv", "cannot be read as csv")):
        pretrain(base / "refused", base / "tiny.yaml", f"carbon.intensity_file={path}").exits(3, said)
    both_given = [f"carbon.intensity_file={past}", "carbon.intensity_g_per_kwh=7"]
    pretrain(base / "refused", base / "tiny.yaml", *both_given).exits(2, "replaces intensity_g_per_kwh")
    assert not (base / "refused").exists()
    assert "no such file" in run_here(["check", base / "tiny.yaml", "carbon.intensity_file=none.csv"]).err.lower()


def test_a_run_that_cannot_end_within_its_series_is_refused_before_its_first_step(base: Path) -> None:
    short = grid(base, "short.csv", -0.5, 1, rows=2)
    changes = (f"carbon.intensity_file={short}", "training.steps=100000000")
    pretrain(base / "long", base / "tiny.yaml", *changes).exits(3, "short.csv: ends at")
    run_here(["pretrain", base / "tiny.yaml", "--dry-run", *changes]).exits(3, "short.csv: ends at")
    assert not [*(base / "long/checkpoints").glob("*")]


def test_the_length_of_a_run_in_minutes_is_compared_with_its_series(base: Path) -> None:
    """Not the steps in its recipe, which the minutes replace."""
    series = f"carbon.intensity_file={grid(base, 'minutes.csv', -5, 10)}"
    pretrain(base / "hours", base / "tiny.yaml", "--minutes", "600", series).exits(3, "minutes.csv: ends at")
    own = (base / "tiny.yaml").read_text(encoding="utf-8")
    (base / "endless.yaml").write_text(re.sub(r"\b(steps|every): \d+", r"\1: 100000000", own), encoding="utf-8")
    pretrain(base / "seconds", base / "endless.yaml", "--minutes", "0.05", series).exits(0)


def test_what_was_a_series_of_the_run_is_none_of_a_later_command(base: Path) -> None:
    path = grid(base, "now.csv", -5, 10)
    pretrain(base / "series", base / "tiny.yaml", f"carbon.intensity_file={path}").exits(0)
    grid(base, "now.csv", -600, 10)
    run_here(["resume", base / "series"]).exits(0)  # it is finished
    scored = run_here(["evaluate", "--from", base / "series", "evaluation.max_tokens=50", "--device", "cpu"])
    scored.exits(0, "now.csv: covers", "The emissions of this command are computed without the series")
    run_here(["resume", base / "series", "training.steps=14"]).exits(3)
