"""Budgets of grams, energy and time, by real runs; the power is made up: 36 W at 100 g/kWh, which is 10 mWh and 1 mg a second."""

import itertools
import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fake_codecarbon
import pytest
from fake_codecarbon import G_PER_KWH, POWER_W
from tiny_files import read_json, receipt
from tiny_runs import Before, Done, Process, assert_same_bits, both, kept, pretrain, run_here, run_tfkit, slow_and_metered, strike

import tfkit
from tfkit.carbon.footprint import MEASURED
from tfkit.engine.assembly import training_data
from tfkit.engine.training_run import budget
from tfkit.engine.training_run.validator import Validator
from tfkit.recipe import read_recipe
from tfkit.run.listing import read_run
from tfkit.training.step import Stepper
from tfkit.units import format_energy, format_range

STEPS = 12
METERED = "carbon={enabled: true, intensity_g_per_kwh: 100, every_seconds: 0.5%s}"
STEP_SECONDS, SAVE_SECONDS = 0.25, 30.0  # each step takes longer; no save takes so long, however busy the machine is


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    pretrain(base / "unbroken", base / "tiny.yaml").exits(0)
    fake_codecarbon.write(base / "fake")
    return base


def slowly(base: Path) -> Callable[[], None]:
    return slow_and_metered(base / "fake", STEP_SECONDS)


def train(base: Path, name: str, *words: str) -> Done:
    return pretrain(base / name, base / "tiny.yaml", *words, before=slowly(base))


def totals(run: Path) -> dict[str, Any]:
    found = receipt(run)
    assert found["status"] == "stopped"
    return found["totals"]


@pytest.mark.thorough
def test_a_budget_of_grams_stops_is_refused_when_spent_and_goes_on_with_more(base: Path) -> None:
    run = base / "grams"
    again = f"its checkpoint is saved, and --resume continues from there\ntfkit resume {run} carbon.budget_g=0.0"
    done = train(base, "grams", METERED % ", budget_g: 0.003", "--json").exits(7, again)
    result = done.document
    assert (result["status"], result["stopped_by"], result["stopped_early"]) == ("stopped", "carbon.budget_g", True)
    assert (result["error"]["kind"], result["error"]["remedy"]) == ("budget", done.err.splitlines()[-1])
    assert 0 < result["steps"] < STEPS
    assert kept(run)[-1] == f"step-{result['steps']:06d}" == Path(result["checkpoint"]).name
    assert 0.003 <= totals(run)["emissions_g"] <= 0.003 + 0.001 * SAVE_SECONDS, "a tick, and the save"
    assert done.err.count("of 3 mg are used\n") == 1, "at 80 %"
    larger = "mg of 3 mg are used. Give a larger budget to continue, such as carbon.budget_g=0.0"
    run_here(["resume", run]).exits(2, f"{run}: carbon.budget_g: 3", larger)
    more = run_tfkit(base, ["resume", run, "--threads", "1", "carbon.budget_g=1"], before=slowly(base))
    more.exits(0, "carbon.budget_g: 0.003 in the run, 1.0 now")
    assert_same_bits(run, base / "unbroken", STEPS)


def test_a_budget_of_energy_in_the_library_is_a_result(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base)

    def program(_: list[str]) -> int:
        carbon = {"enabled": True, "intensity_g_per_kwh": 100, "every_seconds": 0.5, "budget_kwh": 2.5e-5}
        result = tfkit.pretrain("tiny.yaml", {"carbon": carbon}, run="energy")
        print(json.dumps([result.status, result.stopped_by, result.energy_kwh, result.steps]))
        return 0

    status, reason, energy, steps = json.loads(Process(base, [], slowly(base), program).wait().exits(0).out)
    assert (status, reason) == ("stopped", "carbon.budget_kwh")
    assert 2.5e-5 <= energy <= 2.5e-5 + 1e-5 * SAVE_SECONDS
    assert 0 < steps < STEPS


def test_a_budget_of_time_needs_no_meter(base: Path) -> None:
    done = train(base, "time", "carbon.budget_seconds=1.5").exits(7)
    said = re.search(r"([\d.]+) s of 1\.5 s are used(, and the next step would take some .*)?: stopped after step (\d+)", done.err)
    assert said
    assert float(said[1]) + sum(map(float, re.findall(r"([\d.]+) s\b", said[2] or ""))) > 0.95 * 1.5, "what is left is too little"
    assert 1 <= int(said[3]) <= 1.5 / STEP_SECONDS + 1
    assert f"\ntfkit resume {base / 'time'} carbon.budget_seconds=3" in done.err
    assert "checkpoint" in done.out, "the result so far"
    resume = ["resume", base / "time"]
    run_here(resume).exits(2, " of 1.5 s are used. Give a larger budget to continue, such as carbon.budget_seconds=")
    run_here([*resume, "carbon.budget_seconds=1000"]).exits(0)


def test_minutes_are_measured_and_a_machine_that_becomes_slower_ends_the_run_soon_after(base: Path) -> None:
    """The steps that are measured first, and are discarded, are fast. What was stopped goes on without a limit."""

    def before() -> None:
        budget.LONGER, budget.LATER_SECONDS = 1.0, 0.0
        taken = itertools.count(1)
        Before(Stepper, "take", lambda *_, **__: time.sleep(0.5 if next(taken) > 12 else 0.0))()

    minutes = ["--minutes", "0.05"]
    done = pretrain(base / "minutes", base / "tiny.yaml", *minutes, "checkpoint.every=null", "training.log_every=1", before=before)
    done.exits(7, "in 0.05 minutes, by the time of a few steps: ", "s of 3 s are used", ": stopped after step ")
    assert f"\ntfkit resume {base / 'minutes'} " in done.err
    assert totals(base / "minutes")["seconds"] < 3 + SAVE_SECONDS
    assert read_recipe(str(base / "minutes" / "recipe.yaml")).recipe.carbon.budget_seconds is None
    own = pretrain(base / "own", base / "tiny.yaml", *minutes, "carbon.budget_seconds=1e-4")
    own.exits(7, "of 0.0001 s are used")  # the user's limit holds


def test_the_minutes_of_a_run_that_begins_again_are_those_of_the_new_attempt(base: Path) -> None:
    """An earlier one, which left no checkpoint, took longer than all of them."""
    given = base / "again", base / "tiny.yaml", "--minutes", "0.05"
    pretrain(*given, before=strike(signal.SIGTERM, 1, training_data, "training_sources")).exits(143)
    document = receipt(base / "again")
    document["attempts"][0]["seconds"] = 1000.0
    (base / "again/run.json").write_text(json.dumps(document), encoding="utf-8")
    pretrain(*given, "--resume").exits(0, "a slower machine is stopped after 17:14")


def test_the_command_that_goes_on_names_each_budget_once(base: Path) -> None:
    done = pretrain(base / "none", base / "tiny.yaml", "carbon.budget_seconds=1e-4", "training.seed=2").exits(7)
    last = done.err.rstrip().splitlines()[-1]
    assert (last.count("carbon.budget_seconds="), last.count("training.seed=2"), last.count("1e-4")) == (1, 1, 0)
    command = ["tfkit", "pretrain", "tiny.yaml", "carbon.budget_seconds=1e-4", "training.seed=2"]  # as the program records it
    (base / "none/run.json").write_text(json.dumps(receipt(base / "none") | {"command": command}))
    larger = next(word for word in last.split() if word.startswith("carbon.budget_seconds="))
    assert read_run(base / "none").resume == f"tfkit pretrain tiny.yaml training.seed=2 {larger} --resume"


def test_what_cannot_be_counted_is_an_error_of_the_recipe(base: Path) -> None:
    for words, said in (
        (["carbon.budget_seconds=0", "carbon.on_meter_failure=shout"], ["carbon.budget_seconds", "carbon.on_meter_failure"]),
        (["carbon.budget_g=5"], ["carbon.budget_g: ", "is not counted with enabled: false"]),
        (["carbon.budget_kwh=5"], ["carbon.budget_kwh: ", "is not counted with enabled: false"]),
        (["carbon.on_meter_failure=stop"], ["is read only with budget_g or budget_kwh"]),
    ):
        pretrain(base / "wrong", base / "tiny.yaml", *words).exits(2, *said)


def test_the_stages_of_a_recipe_have_one_budget(base: Path) -> None:
    """The second stage counts the first one, and is not begun once that has used its budget."""
    document = (base / "tiny.yaml").read_text().replace("\n", "\n    ")
    (base / "chain.yaml").write_text("stages:\n  one: {}\n  two: {}\n".replace("{}", f"\n    {document}"))
    words = ["one.carbon.budget_seconds=1000", "two.carbon.budget_seconds=1.5"]
    done = pretrain(base / "chain", base / "chain.yaml", *words, "--json", before=slowly(base))
    done.exits(7, "stage two: carbon.budget_seconds: ", "by the other runs")
    larger = f"tfkit resume {base / 'chain'} two.carbon.budget_seconds="
    assert done.err.rstrip().splitlines()[-1].startswith(larger)
    assert larger in (read_run(base / "chain").resume or "")
    assert receipt(base / "chain")["stages"]["one"]["status"] == "finished"
    assert not (base / "chain/two").exists()
    assert done.document["stopped_by"] == "carbon.budget_seconds"


# -- the energy of a run, as its result, its receipt and its last lines have it; and intensities over time


OF_IDLE = f"carbon={{enabled: true, intensity_g_per_kwh: {G_PER_KWH:g}, every_seconds: 0.5, baseline_seconds: 0.5, pue: 1.2}}"


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    metered = both(fake_codecarbon.put_first(fake_codecarbon.write(base / "fake")), fake_codecarbon.wait_for_the_end)
    done = pretrain(base / "run", base / "tiny.yaml", OF_IDLE, "--json", before=metered).exits(0, "measuring the idle machine for 0.5 s")
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
    none = [(base / "none.csv", "cannot be read as csv"), ("~nobody-here/none.csv", "cannot be read as csv")]
    for path, said in ((past, "but now it is"), (future, "but now it is"), *none):
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
