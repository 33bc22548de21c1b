"""The table of this machine's speeds, the history of runs and the corrections that plans learn from it, even with damaged files."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_files import receipt
from tiny_plans import read_recipe_of, recipe_of
from tiny_runs import raising

import tfkit
from tfkit.__main__ import main
from tfkit.carbon import Meter
from tfkit.data.store.folder_cache import BuildingTime
from tfkit.engine.listener import Silent
from tfkit.engine.planning import forecast, forecast_history, hardware, machine_speed, speed_measurements
from tfkit.engine.planning.forecast_history import NAME, PastRun, correction_for, median_errors, past_runs, remember
from tfkit.engine.planning.machine_speed import LENGTHS, WIDTHS, MachineSpeed
from tfkit.engine.planning.run_flops import RunWork, Workload, seconds_of, step_workload
from tfkit.engine.planning.run_forecaster import RunForecaster
from tfkit.engine.training_run.run import Run
from tfkit.model.transformer import Transformer
from tfkit.recipe import model_config
from tfkit.recipe.schema.sections import ModelSection
from tfkit.run.machine import machine_name
from tfkit.run.signals import interrupts
from tfkit.training.flops import ForwardShape
from tfkit.training.isolation import isolated

CPU = torch.device("cpu")
TABLE = MachineSpeed((1.0,) * 4, (1.0,) * 3, (1.0,) * 3, *(1.0,) * 12)
RUN_WORK = RunWork({}, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
RUN = PastRun("here", 1, "causal_lm", 12, 10.0, 10.0, 20.0, 1e-3, 2e-3, table=forecast_history.TABLE_VERSION)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own cache folder."""
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the measurements, which are real but short."""
    times: list[int] = []
    real = machine_speed.measure

    def measure(*arguments: object) -> MachineSpeed:
        times.append(1)
        return real(*arguments)

    monkeypatch.setattr(machine_speed, "measure", measure)
    monkeypatch.setattr(speed_measurements, "SECONDS", 0.001)
    return times


@pytest.fixture
def short(in_place: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in the folder of the tiny models, and measure speeds for a moment."""
    monkeypatch.setattr(speed_measurements, "SECONDS", 0.001)


@contextmanager
def opened(document: dict[str, Any]) -> Iterator[Run]:
    """Yield a run that is not prepared yet."""
    with isolated(), interrupts(None) as stop:
        yield Run(read_recipe_of(document), CPU, Silent(), stop, Meter(), RunForecaster())


def speed() -> MachineSpeed:
    """Return the speeds as a new process would get them."""
    machine_speed.machine_speed.cache_clear()
    return machine_speed.machine_speed(CPU, torch.float32, 1)


@pytest.mark.thorough
def test_the_speeds_are_measured_once_and_again_where_their_file_is_damaged(cache: Path, measured: list[int]) -> None:
    first = speed()
    assert speed() == first
    assert len(measured) == 1
    (path,) = (cache / machine_speed.FOLDER).iterdir()
    whole = path.read_text(encoding="utf-8")
    for value in asdict(first).values():
        assert all(number > 0 for number in (value if isinstance(value, tuple) else [value]))
    damages = ["", "{", "[]", whole[:-40], whole.replace('"blocks":', '"blocks": -1, "x":'), '{"schema_version": 3}']
    for number, damage in enumerate(damages, 2):
        path.write_text(damage, encoding="utf-8")
        speed()
        assert len(measured) == number
    assert json.loads(path.read_text(encoding="utf-8"))["schema_version"] == 2


@pytest.mark.thorough
def test_speeds_of_a_busy_machine_are_measured_again_when_it_is_not(monkeypatch: pytest.MonkeyPatch, measured: list[int]) -> None:
    for load, count in ((3.0, 1), (2.5, 1), (0.2, 2), (3.0, 2)):
        monkeypatch.setattr(machine_speed, "_load", lambda load=load: load)
        speed()
        assert len(measured) == count


def test_a_cache_that_cannot_be_written_stops_nothing(cache: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.joinpath("file").write_text("", encoding="utf-8")
    monkeypatch.setenv("TFKIT_CACHE", str(cache.parent / "file"))
    speed(), speed()
    remember(RUN)
    assert (len(measured), past_runs(), correction_for("here", 1, "causal_lm", 12).time_ratio) == (2, [], None)


@pytest.mark.parametrize(("neighbours", "factor"), [(0, 1), (1, 2), (3, 4)])
def test_the_high_estimate_is_that_beside_the_neighbours_of_now(neighbours: int, factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "machine_speed", lambda *_: TABLE)
    monkeypatch.setattr(forecast, "busy_neighbours", lambda: neighbours)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    made = forecast.forecast(read_recipe_of(recipe_of("causal_lm")), RUN_WORK, 1e9, CPU, torch.float32, 0.0)
    assert made.seconds.high == pytest.approx(2 * factor * made.seconds.likely)
    assert made.seconds.low == pytest.approx(made.seconds.likely / 2)
    assert ("other processes" in made.assumptions["seconds"]) == (neighbours > 0)


def test_the_speed_of_a_product_is_interpolated_by_its_width() -> None:
    table = replace(TABLE, products=(1e9, 4e9, 8e9, 16e9))
    assert [table.of(("products", width)) for width in WIDTHS] == pytest.approx(table.products)
    assert table.of(("products", 64)) == pytest.approx(2e9)
    assert table.of(("products", 8)) == pytest.approx(0.25e9)
    assert table.of(("products", 50_000)) == 16e9


def test_the_speed_of_attention_is_interpolated_by_length_and_time_hardly_grows_with_head_dim() -> None:
    """With twice the head_dim, a pair takes 1.25 times as long here, and has twice the FLOPs."""
    table = replace(TABLE, attention=(1e9, 8e9, 32e9), causal_attention=(1e9, 4e9, 20e9), narrow_attention=5e9)
    assert [table.of(("attention", length, 64, False)) for length in LENGTHS] == pytest.approx(table.attention)
    assert [table.of(("attention", length, 64, True)) for length in LENGTHS] == pytest.approx(table.causal_attention)
    assert table.of(("attention", 256, 64, False)) == pytest.approx(16e9)
    assert table.of(("attention", 16, 64, True)) == pytest.approx(0.5e9)
    assert [table.of(("attention", 128, width, False)) for width in (32, 128)] == pytest.approx([5e9, 12.8e9])
    assert replace(table, narrow_attention=1e9).of(("attention", 128, 32, False)) == 4e9, "at most proportional"


def test_the_workload_of_a_step() -> None:
    change: dict[str, Any] = {"preset": "gpt2", "decoder_layers": 1, "dim": 64, "num_heads": 1}
    shape = ForwardShape(2, 128, 0, 256)
    work, dropping = (_by_operation(change | {"dropout": {"attention": rate}}, shape) for rate in (0.0, 0.1))
    flops = 3 * 2 * 2 * 2 * 64 * 128 * 129 / 2
    rest = {"blocks": 2, "logits": 256 * 50257, "elements": 2 * 128 * 7 * 64}
    products = {operation: amount for operation, amount in work.items() if operation[0] == "products"}
    assert work == products | {("attention", 128, 64, True): flops} | rest
    assert dropping == products | {"dropped_scores": 2 * 128 * 128} | rest
    assert _by_operation(change, (shape, 3.0)) == {operation: 3 * amount for operation, amount in _by_operation(change, shape).items()}


def test_attention_scores_that_are_kept_have_their_own_speed() -> None:
    change: dict[str, Any] = {"preset": "t5-small", "encoder_layers": 1, "decoder_layers": 2, "dim": 64, "num_heads": 4, "head_dim": 16}
    change |= {"dropout": {"attention": 0.0}}
    work = _by_operation(change, ForwardShape(2, 10, 6, 12))
    assert {operation for operation in work if operation[0] != "products"} == {"scores", "rms_elements", "logits", "blocks"}
    assert (work["scores"], work["blocks"]) == (2 * 4 * (10 * 10 + 2 * 6 * 6 + 2 * 6 * 10), 1 + 2 * 1.5 + 1)
    slow, fast = (seconds_of(work, replace(TABLE, scores=speed)) for speed in (1.0, 1e12))
    assert slow - fast == pytest.approx(work["scores"])


def test_decoding_takes_the_time_of_weights_blocks_and_sampled_tokens() -> None:
    run = replace(RUN_WORK, decoded=10.0, decoded_bytes=100.0, decoded_blocks=3.0, sampled=40.0)
    table = replace(TABLE, bytes=50.0, written_blocks=6.0, sampled=20.0)
    assert run.seconds_by_part(table, 0.0)["writing"] == 10 * (2 + 0.5) + 2
    quick = replace(RUN_WORK, steps={("products", 32): 6.0}, evaluation=0.5, extra=1.0)
    parts = quick.seconds_by_part(replace(TABLE, products=(2.0, 2.0, 2.0, 2.0), forward=2.0), 0.0)
    assert (parts["steps"], parts["evaluation"]) == (3 * 1.5, 0.75), "a forward alone is twice as fast"


def _by_operation(change: dict[str, Any], shape: ForwardShape | tuple[ForwardShape, float]) -> Workload:
    """Return what a micro-batch takes, or several of one shape, without the operations that it does not need."""
    shapes = [(shape, 1.0) if isinstance(shape, ForwardShape) else shape]
    return {operation: amount for operation, amount in step_workload(_meta(change), shapes).items() if amount}


def _meta(change: dict[str, Any]) -> Transformer:
    section = ModelSection.model_validate(change)
    with torch.device("meta"):
        return Transformer(model_config(section, 50257))


def test_runs_are_recorded_concurrently_and_invalid_lines_are_skipped(cache: Path) -> None:
    writers = [threading.Thread(target=lambda: [remember(RUN) for _ in range(25)]) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with (cache / NAME).open("ab") as file:
        file.write(b'not json\n[1]\n{"machine": 1}\n' + json.dumps({**RUN.__dict__, "seconds": -1}).encode() + b"\n\xff\xfe\n" + b'{"torn')
    assert past_runs() == [RUN] * 100
    remember(RUN)
    assert len(past_runs()) in (100, 101)  # only a line appended to a torn one is lost


def test_the_history_stays_small(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast_history, "_MAX_BYTES", 2000)
    for seconds in range(1, 100):
        remember(replace(RUN, seconds=float(seconds)))
    assert (cache / NAME).stat().st_size < 2500
    assert past_runs()[-1].seconds == 99.0


def test_the_ratio_is_the_median_of_the_latest_comparable_runs(cache: Path) -> None:
    assert correction_for("here", 1, "causal_lm", 12).time_ratio is None
    remember(RUN)
    single = correction_for("here", 1, "causal_lm", 12).time_ratio
    assert (single.likely, single.low < 2 < single.high) == (2.0, True)
    for seconds in (10.0, 30.0, 30.0, 30.0, 40.0, 500.0):
        remember(replace(RUN, seconds=seconds))
    remember(replace(RUN, kind="dpo", seconds=1000.0, kwh=None))
    remember(replace(RUN, seconds=5000.0, kwh=None, table=forecast_history.TABLE_VERSION - 1))  # a ratio to another table
    remember(replace(RUN, size=15, seconds=70.0))
    correction = correction_for("here", 1, "causal_lm", 12)
    assert (correction.time_ratio.likely, correction.runs) == (3.0, 7)
    assert correction.time_ratio.low == 2.0
    assert correction.time_ratio.high == 4.0  # neither the fastest nor the slowest
    assert correction.watts.likely == pytest.approx(2e-3 * 3.6e6 / 30)
    for other in (("there", 1, "causal_lm", 12), ("here", 2, "causal_lm", 12)):
        assert correction_for(*other).time_ratio is None
    nearest, far = correction_for("here", 1, "causal_lm", 14), correction_for("here", 1, "causal_lm", 18)
    assert (nearest.time_ratio and nearest.time_ratio.likely, nearest.runs) == (7.0, 1), "ten times larger is nearer than a hundredth"
    assert far.time_ratio is None, "a thousandth is too far"
    same_size = correction_for("here", 1, "reward", 15).time_ratio  # of another kind, since there is none of this kind
    assert same_size.likely == 7.0


def test_a_run_records_prediction_and_outcome_and_later_plans_learn_from_them(
    short: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    document = recipe_of("causal_lm") | {"carbon": {"enabled": False, "budget_seconds": 1e6}}  # which reads the forecast
    before = tfkit.plan(document, threads=1)
    result = tfkit.pretrain(document, run=tmp_path / "run", threads=1)
    predicted, actual, totals = (receipt(tmp_path / "run")[part] for part in ("predicted", "actual", "totals"))
    assert (before.basis, predicted["basis"]) == ("table", "table")
    assert predicted["energy_kwh"] is None
    assert actual["seconds"] == totals["seconds"] == result.seconds
    assert actual["flops"] == totals["train_flops"] == pytest.approx(predicted["flops"])
    assert actual["memory_bytes"] > predicted["memory_bytes"] / 10
    assert totals["hardware_flops_bound"] > totals["train_flops"]
    (kept,) = past_runs()
    assert (kept.machine, kept.kind, kept.kwh, kept.seconds) == (machine_name(), "causal_lm", None, result.seconds)
    after = tfkit.plan(document, threads=1)
    assert after.basis == "learned"
    assert 0 < kept.start_seconds < result.seconds
    assert after.seconds.likely - after.table_seconds["start"] == pytest.approx(result.seconds - kept.start_seconds, rel=1e-6)
    assert main(["env"]) == 0
    assert f"off by time {abs(kept.predicted_seconds / kept.seconds - 1):.0%} in the median of 1 runs" in capsys.readouterr().out
    log = tmp_path / "stopped" / "metrics.jsonl"
    stopped = tfkit.pretrain(document, run=log.parent, threads=1, should_stop=lambda: log.exists() and '"step": 2' in log.read_text())
    assert stopped.status == "stopped"
    tfkit.resume(tmp_path / "stopped", {"training.steps": 6}, threads=1)
    assert len(past_runs()) == 1  # a run in two attempts is not recorded
    longer = receipt(tmp_path / "stopped")
    assert longer["predicted"]["basis"] == "learned"
    assert longer["predicted"]["flops"] == pytest.approx(1.5 * predicted["flops"]) == pytest.approx(longer["actual"]["flops"])


READERS = {
    "nothing": {},
    "a budget": {"carbon": {"enabled": False, "budget_seconds": 1e6}},
    "a trial of rates": {"training": {"trial_rates": [1e-3]}},
    "many steps": {"training": {"steps": 5_000}},
    "samples": {"generation": {"prompts": ["the cat"]}},
    "a larger model": {"model": {"dim": 768}, "training": {"steps": 300}},
}


@pytest.mark.parametrize("reader", READERS)
def test_a_run_is_forecast_if_something_reads_it(reader: str, in_place: None) -> None:
    """A run of a minute at most is not: it needs no table of speeds."""
    document = recipe_of("causal_lm")
    for section, fields in READERS[reader].items():
        document[section] = document.get(section, {}) | fields
    with opened(document) as run:
        torch.set_num_threads(2)
        run.prepare()
        assert run.needs_forecast == (reader != "nothing")


def test_a_short_run_needs_no_table_of_speeds(in_place: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []

    class Said(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    for module in (machine_speed, forecast):
        monkeypatch.setattr(module, "machine_speed", raising(AssertionError("the speeds of this machine were measured")))
    result = tfkit.pretrain(recipe_of("causal_lm"), run=tmp_path / "run", threads=1, listener=Said())
    found = receipt(tmp_path / "run")
    assert (result.status, found["predicted"]) == ("finished", None)
    assert found["actual"]["flops"] == found["totals"]["train_flops"] > 0
    assert any(line.endswith("a minute at most") for line in said)
    assert past_runs() == []


def test_the_planned_start_excludes_the_time_of_what_is_cached_now(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(recipe_of("causal_lm")) as run:
        run.began -= 1000
        monkeypatch.setattr(BuildingTime, "seconds", BuildingTime.seconds + 600)
        run.prepare()
        now, ahead = run.forecast(), run.forecast(ahead=True)
    assert 1000 <= now.table_seconds["start"] < now.seconds.likely
    assert 400 <= ahead.table_seconds["start"] < now.table_seconds["start"] - 500


def test_an_estimate_that_is_corrected_by_a_few_steps_has_the_evaluations_of_its_own_length(short: None) -> None:
    with opened(recipe_of("causal_lm") | {"evaluation": {"every": 2, "max_tokens": 100}}) as run:
        recipe = run.recipe
        run.prepare()
        corrected = run.forecaster.measure(run)
        for steps, evaluations in ((4, 2), (60, 30)):
            run.recipe = recipe.with_fields({"training.steps": steps})
            assert f"and {evaluations} evaluations of" in corrected(run.forecast()).assumptions["seconds"]


def test_median_errors_are_those_of_one_machine(cache: Path) -> None:
    for run in (RUN, replace(RUN, predicted_seconds=30.0, kwh=None), replace(RUN, machine="there", predicted_seconds=1e9)):
        remember(run)
    assert median_errors({"here"}) == {"runs": 2, "median_error_seconds": 0.5, "median_error_energy_kwh": 0.5}
    assert median_errors({"nowhere"})["median_error_seconds"] is None
    assert os.stat(cache / NAME).st_mode & 0o077 == 0


@pytest.mark.parametrize(("name", "watts"), [("NVIDIA H100 80GB HBM3", 700.0), ("NVIDIA H100 PCIe", 300.0), ("GeForce 256", 300.0)])
def test_the_power_of_a_gpu_is_that_of_its_data_sheet(name: str, watts: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of another board is a guess, and says so."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    power, full = forecast.modelled_power(torch.device("cuda"), 1.0), forecast._full_power(2.0, 100.0, torch.device("cuda"))
    assert f"{watts:g} W for the {name}" in power.source
    assert power.watts.low < 0.8 * watts < power.watts.likely < power.watts.high
    assert (full.hardware, full.watts, full.emissions_g) == (name, watts, watts * 2 / 10)
    assert ("a guess" in power.source, "a guess" in full.source) == (watts == 300.0,) * 2


def test_the_power_of_a_processor_is_the_users_then_the_tables_then_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "processor", lambda: {"name": "Abacus 9", "cores": 4})
    assert hardware.processor_power() == hardware.ProcessorPower("Abacus 9", 16.0, "CodeCarbon's 4 W per thread of an unknown processor")
    monkeypatch.setattr(hardware, "_table", lambda: [("Other", 1.0), ("abacus 9 @ 2.10GHz", 65.0)])
    for watts in ("", "nan", "inf", "-1"):
        monkeypatch.setattr(hardware, "codecarbon_settings", lambda watts=watts: {"force_cpu_power": watts})
        assert hardware.processor_power() == hardware.ProcessorPower("Abacus 9", 65.0, "CodeCarbon's table")
    monkeypatch.setattr(hardware, "codecarbon_settings", lambda: {"force_cpu_power": "42", "force_ram_power": "7"})
    assert (hardware.processor_power().watts, hardware.memory_watts()) == (42.0, 7.0)
    assert hardware.machine_watts(4) == pytest.approx(49.0)
