"""Resuming is exact: stopped or killed at any moment, a run ends with the bits of the run that was never stopped."""

import csv
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_codecarbon import put_first, wait_for_the_end, write
from tiny_files import receipt
from tiny_runs import Process, assert_same_bits, both, exact, hashes, kept, pretrain, records, run_tfkit, strike, write_corpus, write_recipe

import tfkit.engine.assembly.training_data
import tfkit.engine.training_run.best_checkpoint
import tfkit.engine.training_run.checkpointing
import tfkit.evaluation.text_scores
import tfkit.generation.complete

STEPS, MICRO_BATCHES = 12, 2
# Everything that has a state of its own: dropout, accumulation, the running mean of the log, evaluation, samples.
COMMON = [
    "model.dropout={embedding: 0.1, attention: 0.1, residual: 0.1}",
    "training.micro_batch_size=2",
    "training.log_every=5",
    "checkpoint={every: 3, keep: 2}",
    "generation={prompts: [the cat, big], max_new_tokens: 6}",
]
VARIANTS = {
    "adamw-fp32": ["training.precision=fp32"],
    "adamw-bf16": ["training.precision=bf16"],
    "muon-fp32": ["training.precision=fp32", "optimizer={kind: muon, lr: 3e-3}"],
    "muon-bf16": ["training.precision=bf16", "optimizer={kind: muon, lr: 3e-3}"],
    "adafactor-ramp-mean": [
        *("training.precision=fp32", "training.micro_batch_size=1", "training.batch_ramp={start: 2, tokens: 150}"),
        *(
            "optimizer={kind: adafactor, lr: 3e-2}",
            "schedule={kind: linear, warmup_steps: 0, warmup_tokens: 200}",
            "training.ema_decay=0.9",
        ),
    ],
    "noam-mean-bf16": [
        *("training.precision=bf16", "training.ema_decay=0.8", "optimizer={kind: adam, lr: 1.0, bias_correction: false}"),
        "schedule={kind: noam, warmup_steps: 4}",
    ],
}


@pytest.fixture(scope="module")
def unbroken(base: Path) -> Callable[[str], Path]:
    """The run of a variant that was never stopped; made when it is first asked for."""

    def run(variant: str) -> Path:
        path = base / variant
        if not path.exists():
            pretrain(path, base / "tiny.yaml", *COMMON, *VARIANTS[variant]).exits(0)
        return path

    return run


def assert_same(run: Path, reference: Path) -> None:
    assert_same_bits(run, reference, STEPS)
    assert receipt(run)["status"] == "finished"
    assert (run / "checkpoints" / "best.json").read_bytes() == (reference / "checkpoints" / "best.json").read_bytes()


def attempts(run: Path) -> list[tuple[str, int, int | None]]:
    """How each attempt of a run ended, from which step to which."""
    document = receipt(run)
    return [(attempt["status"], attempt["from_step"], attempt["to_step"]) for attempt in document["attempts"]]


def test_the_runs_have_something_to_lose(unbroken: Callable[[str], Path]) -> None:
    """Dropout acts, the log's mean spans checkpoints, and every kind of record is there."""
    found = exact(unbroken("adamw-fp32"))
    assert [record["step"] for record in found if "loss" in record] == [5, 10, 12]
    assert [record["step"] for record in found if "evaluation" in record] == [4, 8, 12]
    assert [record["step"] for record in found if "samples" in record] == [4, 8, 12]


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("variant", "forward"),
    [
        *(pytest.param(variant, 2 * MICRO_BATCHES + 1, id=f"{variant}-first micro-batch") for variant in VARIANTS),
        *(pytest.param(variant, 7 * MICRO_BATCHES, id=f"{variant}-last micro-batch") for variant in ("adamw-fp32", "adafactor-ramp-mean")),
    ],
)
def test_sigterm_inside_a_step(base: Path, unbroken: Callable[[str], Path], variant: str, forward: int) -> None:
    run, recipe = base / f"{variant}-term-{forward}", base / "tiny.yaml"
    words = [*COMMON, *VARIANTS[variant]]
    step = forward // MICRO_BATCHES  # one that is not whole is dropped
    if variant == "adafactor-ramp-mean" and forward == 7 * MICRO_BATCHES:
        step = 6  # the seventh has more micro-batches
    done = pretrain(run, recipe, *words, before=strike(signal.SIGTERM, forward))
    assert (done.code, done.out) == (143, "")
    assert f"stopped after step {step} of {STEPS}; its checkpoint is saved" in done.err
    assert attempts(run) == [("stopped", 0, step)]
    assert f"step-{step:06d}" in kept(run)
    pretrain(run, recipe, "--resume", *words).exits(0)
    assert attempts(run) == [("stopped", 0, step), ("finished", step, STEPS)]
    assert_same(run, unbroken(variant))


@pytest.mark.thorough
def test_stopped_after_each_step(base: Path, unbroken: Callable[[str], Path]) -> None:
    """Attempts of one step each, behind a checkpoint, an evaluation with samples and a line of the log; then the rest."""
    variant = "muon-bf16"
    run, recipe = base / "every-step", base / "tiny.yaml"
    for step in range(1, 6):
        pretrain(run, recipe, "--resume", *COMMON, *VARIANTS[variant], before=strike(signal.SIGTERM, MICRO_BATCHES)).exits(143)
        assert attempts(run)[-1] == ("stopped", step - 1, step)
    pretrain(run, recipe, "--resume", *COMMON, *VARIANTS[variant]).exits(0)
    assert_same(run, unbroken(variant))


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    ("module", "function", "number"),
    [
        (tfkit.evaluation.text_scores, "score_texts", signal.SIGTERM),
        (tfkit.generation.complete, "complete", signal.SIGTERM),
        (tfkit.generation.complete, "complete", signal.SIGKILL),
        (tfkit.engine.training_run.checkpointing, "save_checkpoint", signal.SIGTERM),
        (tfkit.engine.training_run.checkpointing, "save_training_state", signal.SIGTERM),
        (tfkit.engine.training_run.checkpointing, "save_training_state", signal.SIGKILL),
        (tfkit.engine.training_run.best_checkpoint, "record_best", signal.SIGKILL),
        (tfkit.engine.training_run.checkpointing, "prune", signal.SIGKILL),
        (tfkit.engine.training_run.checkpointing, "model_card", signal.SIGKILL),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_signal_between_the_steps(base: Path, unbroken: Callable[[str], Path], module: object, function: str, number: int) -> None:
    """In the evaluation, while the model writes, in a save: nothing is lost or written twice."""
    run = base / f"{function}-{number}"
    words = [*COMMON, *VARIANTS["adamw-fp32"], "checkpoint={every: 4, keep: 2}"]
    call = 3 if function in ("prune", "model_card") else 2
    done = pretrain(run, base / "tiny.yaml", *words, before=strike(number, call, module, function))
    assert done.code in (143, -signal.SIGKILL), done.err
    assert "Traceback" not in done.err
    pretrain(run, base / "tiny.yaml", "--resume", *words).exits(0)
    assert_same(run, unbroken("adamw-fp32"))


@pytest.fixture(scope="module")
def killed(base: Path) -> Path:
    """A run that was killed in its seventh step; a test that continues it takes a copy."""
    words = [*COMMON, *VARIANTS["adamw-fp32"]]
    pretrain(base / "killed", base / "tiny.yaml", *words, before=strike(signal.SIGKILL, 7 * MICRO_BATCHES)).exits(-signal.SIGKILL)
    return base / "killed"


@pytest.mark.sampled(6)
@pytest.mark.parametrize("call", [1, 2, 4, 5, 6, 7])
def test_killed_before_a_file_of_the_run_folder_is_replaced(base: Path, killed: Path, unbroken: Callable[[str], Path], call: int) -> None:
    """run.json as it is opened, begun, continued and recorded; recipe.yaml; run.json with what was given: what a resumed run replaces."""
    run = base / f"replace-{call}"
    words = [*COMMON, *VARIANTS["adamw-fp32"]]
    shutil.copytree(killed, run)
    pretrain(run, base / "tiny.yaml", *words, "--resume", before=strike(signal.SIGKILL, call, os, "replace")).exits(-signal.SIGKILL)
    pretrain(run, base / "tiny.yaml", "--resume", *words).exits(0)
    assert_same(run, unbroken("adamw-fp32"))


@pytest.mark.thorough
@pytest.mark.parametrize("function", ["complete", "save_checkpoint"])
def test_samples_without_validation_are_made_up_for_too(base: Path, tmp_path: Path, function: str) -> None:
    words = [*COMMON, *VARIANTS["adamw-fp32"], "data.validation=null", "checkpoint={every: 4, keep: 2}"]
    pretrain(tmp_path / "unbroken", base / "tiny.yaml", *words).exits(0)
    module = tfkit.engine.training_run.checkpointing if function == "save_checkpoint" else tfkit.generation.complete
    pretrain(tmp_path / "run", base / "tiny.yaml", *words, before=strike(signal.SIGTERM, 2, module, function)).exits(143)
    pretrain(tmp_path / "run", base / "tiny.yaml", *words, "--resume").exits(0)
    assert exact(tmp_path / "run") == exact(tmp_path / "unbroken")
    assert len([record for record in exact(tmp_path / "run") if "samples" in record]) == 3


def test_a_signal_before_the_training(base: Path, tmp_path: Path) -> None:
    pretrain(
        tmp_path / "run", base / "tiny.yaml", before=strike(signal.SIGTERM, 1, tfkit.engine.assembly.training_data, "training_sources")
    ).exits(143, "no step was taken")
    pretrain(tmp_path / "run", base / "tiny.yaml", "training.steps=2").exits(0)


def test_a_signal_before_the_training_of_a_run_with_steps(base: Path, tmp_path: Path) -> None:
    pretrain(tmp_path / "run", base / "tiny.yaml", "training.steps=2").exits(0)
    early = strike(signal.SIGTERM, 1, tfkit.engine.assembly.training_data, "training_sources")
    done = pretrain(tmp_path / "run", base / "tiny.yaml", "training.steps=4", "--resume", before=early).exits(143)
    assert "stopped by SIGTERM: no step was taken\n" in done.err, "nor is it said that nothing was trained"


def stopped_run(base: Path, folder: Path, *words: str) -> Path:
    """A run that was stopped in step 4: a copy of the one that the first test with these words and this recipe has made."""
    run, made = folder / "run", base / re.sub(r"[^a-z0-9.]+", "-", " ".join(["stopped", *words, "."]))
    if not made.exists():
        pretrain(made, base / "tiny.yaml", "checkpoint.every=2", *words, before=strike(signal.SIGTERM, 4)).exits(143)
    shutil.copytree(made, run)
    return run


@pytest.mark.thorough
def test_what_may_change(base: Path, tmp_path: Path) -> None:
    """Changes that do not affect the steps so far: length, log, checkpoints, evaluation, samples, carbon."""
    run = stopped_run(base, tmp_path, "schedule={kind: constant, warmup_steps: 2}")
    words = [
        "training={steps: 15, batch_size: 4, precision: fp32, log_every: 2}",
        "checkpoint={every: 5, keep: 1}",
        "evaluation={every: 6}",
    ]
    pretrain(run, base / "tiny.yaml", "schedule={kind: constant, warmup_steps: 2}", *words, "carbon.pue=1.5", "--resume").exits(0)
    assert [record["step"] for record in records(run) if "loss" in record] == [3, 6, 8, 10, 12, 14, 15]
    assert [record["step"] for record in records(run) if "evaluation" in record] == [6, 12, 15]
    pretrain(tmp_path / "straight", base / "tiny.yaml", "schedule={kind: constant, warmup_steps: 2}", *words).exits(0)
    assert hashes(run, 15) == hashes(tmp_path / "straight", 15)


def test_a_finished_run_grows_longer(base: Path, tmp_path: Path) -> None:
    words = ["schedule={kind: constant, warmup_steps: 2}"]
    run = tmp_path / "run"
    pretrain(run, base / "tiny.yaml", *words, "training.steps=6").exits(0)
    done = pretrain(run, base / "tiny.yaml", *words, "training.steps=9", "--resume", "--json").exits(0)
    assert done.document["steps"] == 9
    pretrain(tmp_path / "straight", base / "tiny.yaml", *words, "training.steps=9").exits(0)
    assert hashes(run, 9) == hashes(tmp_path / "straight", 9)
    again = pretrain(run, base / "tiny.yaml", *words, "training.steps=9", "--resume", "--json")
    assert again.out == done.out


def test_a_longer_run_that_fails_before_its_first_step_is_not_taken_for_reached(tmp_path: Path) -> None:
    """The recipe in the folder stays the one of the result until a step is about to be taken."""
    write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    words = ["schedule={kind: constant, warmup_steps: 2}"]
    run = tmp_path / "run"
    pretrain(run, tmp_path / "tiny.yaml", *words, "training.steps=4").exits(0)
    text = (tmp_path / "corpus" / "3.txt").read_text(encoding="utf-8")
    (tmp_path / "corpus" / "3.txt").write_text(text.replace("cat", "cow"), encoding="utf-8")
    pretrain(run, tmp_path / "tiny.yaml", *words, "training.steps=8", "--resume").exits(3)
    done = pretrain(run, tmp_path / "tiny.yaml", *words, "training.steps=4", "--resume", "--json")
    assert (done.code, done.document["steps"]) == (0, 4), done.err
    (tmp_path / "corpus" / "3.txt").write_text(text, encoding="utf-8")
    done = pretrain(run, tmp_path / "tiny.yaml", *words, "training.steps=8", "--resume", "--json")
    assert (done.code, done.document["steps"]) == (0, 8), done.err


@pytest.mark.thorough
def test_a_result_is_repeated_with_resume_where_its_model_still_is(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(run, base / "tiny.yaml", "training.steps=4").exits(0)
    shutil.rmtree(run / "checkpoints")
    done = pretrain(run, base / "tiny.yaml", "training.steps=4", "model.dim=32", "--json")
    assert (done.code, "finished" in done.err) == (0, False), done.err
    assert (run / "checkpoints" / "step-000004").is_dir()
    shutil.rmtree(run / "checkpoints")
    done = pretrain(run, base / "tiny.yaml", "training.steps=4", "--resume", "--json")
    assert (done.code, "finished" in done.err) == (0, False), done.err
    assert Path(done.document["checkpoint"]).is_dir()


@pytest.mark.thorough
def test_the_result_of_an_evaluation_is_none_of_a_training(base: Path, unbroken: Callable[[str], Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = pretrain(run, base / "tiny.yaml", before=strike(signal.SIGKILL, 2))
    assert (done.code, (run / "recipe.yaml").exists(), (run / "checkpoints").exists()) == (-9, True, False)
    words = ["evaluate", "--from", str(unbroken("adamw-fp32")), "--run", str(run), "carbon.enabled=false"]
    run_tfkit(tmp_path, words).exits(0)
    assert pretrain(run, base / "tiny.yaml", "--resume", "--json").exits(0).document["steps"] == STEPS


@pytest.mark.thorough
def test_what_was_measured_stays_where_a_later_attempt_is_not_metered(base: Path, tmp_path: Path) -> None:
    words = ["schedule={kind: constant, warmup_steps: 2}"]
    run = tmp_path / "run"
    metered = both(put_first(write(tmp_path / "fake")), wait_for_the_end)
    done = pretrain(run, base / "tiny.yaml", *words, "training.steps=4", "carbon.enabled=true", "--json", before=metered)
    energy, parts, seconds = (done.document[name] for name in ("energy_kwh", "energy_kwh_parts", "seconds"))
    assert energy == pytest.approx(sum(parts.values()))
    assert energy > 0
    assert parts.keys() == {"cpu", "gpu", "ram"}
    with (run / "emissions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert seconds == pytest.approx(sum(float(row["duration"]) for row in rows), abs=1e-3)
    for part, value in parts.items():
        assert value == pytest.approx(sum(float(row[f"{part}_energy"]) for row in rows))
    done = pretrain(run, base / "tiny.yaml", *words, "training.steps=8", "carbon.enabled=false", "--resume", "--json")
    result, totals = done.document, receipt(run)["totals"]
    for found in (result, totals):
        assert (found["energy_kwh"], found["carbon_status"]) == (pytest.approx(energy), "degraded")
        assert found["energy_kwh_parts"] == pytest.approx(parts)
        assert found["seconds"] > seconds + 0.01, "wall time counts without a meter, too"
    assert "co2_eq_emissions" in (run / "checkpoints" / "step-000008" / "README.md").read_text(encoding="utf-8")
    done = pretrain(run, base / "tiny.yaml", *words, "training.steps=9", "carbon.enabled=true", "--resume", "--json", before=metered)
    assert (done.document["energy_kwh"] > energy, done.document["carbon_status"]) == (True, "degraded")


@pytest.mark.thorough
def test_an_attempt_that_took_no_step_does_not_hide_how_the_others_were_rounded(tmp_path: Path) -> None:
    write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    run = stopped_run(tmp_path, tmp_path)
    words = ["pretrain", str(tmp_path / "tiny.yaml"), "--run", str(run), "checkpoint.every=2", "--resume", "--threads", "2"]
    (tmp_path / "corpus").rename(tmp_path / "away")
    Process(tmp_path, words).wait().exits(3)
    assert attempts(run) == [("stopped", 0, 4), ("failed", 0, None)]
    (tmp_path / "away").rename(tmp_path / "corpus")
    Process(tmp_path, words).wait().exits(0, "threads: 1 in the run, 2 now")  # a pool of threads in this process would hang later forks
    assert attempts(run)[2:] == [("finished", 4, STEPS)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("damage", ["bit", "weights", "manifest"])
def test_a_finished_run_whose_last_checkpoint_is_damaged_has_no_result(
    base: Path, unbroken: Callable[[str], Path], tmp_path: Path, damage: str
) -> None:
    """It continues from an older one, to the same end; --exact refuses that, and so does a folder without another."""
    words = [*COMMON, *VARIANTS["adamw-fp32"]]
    run = tmp_path / "run"
    shutil.copytree(unbroken("adamw-fp32"), run)
    last = run / "checkpoints" / f"step-{STEPS:06d}"
    if damage == "bit":
        content = bytearray((last / "model.safetensors").read_bytes())
        content[-9] ^= 1
        (last / "model.safetensors").write_bytes(content)
    else:
        (last / {"weights": "model.safetensors", "manifest": "manifest.json"}[damage]).unlink()
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    for path in (alone / "checkpoints").glob("step-*"):
        if path.name != last.name:
            shutil.rmtree(path)
    for refused in (
        pretrain(run, base / "tiny.yaml", *words, "--resume", "--exact"),
        pretrain(alone, base / "tiny.yaml", *words, "--resume"),
    ):
        assert (refused.code, refused.out) == (4, ""), refused.err
        assert {"bit": "damaged", "weights": "model.safetensors: missing", "manifest": "manifest.json: missing"}[damage] in refused.err
    pretrain(run, base / "tiny.yaml", *words, "--resume").exits(0, "skipped a damaged checkpoint")
    assert_same(run, unbroken("adamw-fp32"))


# --------------------------------------------------------------------------------- what was given then, and what is given now


def test_the_overrides_of_the_first_call_hold_when_it_is_resumed_without(base: Path, tmp_path: Path) -> None:
    words = ["training.steps=15", "training.micro_batch_size=2", "model.dropout={residual: 0.1}"]
    run = stopped_run(base, tmp_path, *words)
    done = pretrain(run, base / "tiny.yaml", "--resume", "--json")
    assert (done.code, "changes" in done.err, "warning" in done.err) == (0, False, False), done.err
    assert done.document["steps"] == 15
    pretrain(tmp_path / "straight", base / "tiny.yaml", "checkpoint.every=2", *words).exits(0)
    assert hashes(run, 15) == hashes(tmp_path / "straight", 15)
    assert pretrain(run, base / "tiny.yaml", "--resume", "--json").out == done.out


@pytest.mark.thorough
def test_a_new_override_takes_effect_is_printed_and_holds_from_then_on(base: Path, tmp_path: Path) -> None:
    run = stopped_run(base, tmp_path, "training.steps=15")
    pretrain(run, base / "tiny.yaml", "--resume", "training.steps=14", "checkpoint.keep=5", before=strike(signal.SIGTERM, 2)).exits(
        143, "continues with changes to its recipe:\n  checkpoint.keep: 2 in the run, 5 now\n  training.steps: 15 in the run, 14 now\n"
    )
    done = pretrain(run, base / "tiny.yaml", "--resume", before=strike(signal.SIGTERM, 1))
    assert (done.code, "of 14; its checkpoint" in done.err, "changes" in done.err) == (143, True, False), done.err
    done = pretrain(run, base / "tiny.yaml", "--resume", "training.steps=15", "--json")
    assert (done.code, done.document["steps"]) == (0, 15), done.err
    assert "training.steps: 14 in the run, 15 now" in done.err


def test_an_edited_recipe_takes_effect_even_over_the_first_calls_override(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    run = stopped_run(tmp_path, tmp_path, "training.steps=15")
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("steps: 12, ", "steps: 14, ").replace("every: 4", "every: 7"), encoding="utf-8")
    done = pretrain(run, recipe, "--resume", before=strike(signal.SIGTERM, 1))
    assert (done.code, "of 14; its checkpoint" in done.err) == (143, True), done.err
    assert "evaluation.every: 4 in the run, 7 now\n  training.steps: 15 in the run, 14 now" in done.err
    recipe.write_text(text.replace("steps: 12, ", "epochs: 2, "), encoding="utf-8")
    pretrain(run, recipe, "--resume", before=strike(signal.SIGTERM, 1)).exits(
        143, "training.epochs: not set in the run, 2", "training.steps: 14 in the run, not set now"
    )
    recipe.write_text(text.replace("warmup_steps: 2", "warmup_steps: 3"), encoding="utf-8")
    pretrain(run, recipe, "--resume").exits(2, "schedule.warmup_steps: 2 in the run, 3 now")


@pytest.mark.thorough
def test_a_length_below_what_is_done_is_refused(base: Path, tmp_path: Path) -> None:
    run = stopped_run(base, tmp_path)
    for words in (["training.steps=3"], ["training.tokens=100"]):
        pretrain(run, base / "tiny.yaml", "--resume", *words).exits(2, "this run has taken 4 steps, and its length would now be")
    pretrain(run, base / "tiny.yaml", "--resume").exits(0)
    pretrain(run, base / "tiny.yaml", "--resume", "training.steps=6").exits(2, "this run has taken 12 steps, and its length would now be 6")
    assert "this run is finished" in pretrain(run, base / "tiny.yaml", "--resume").err


def test_a_run_that_did_not_keep_what_was_given_is_compared_with_the_whole_recipe(base: Path, tmp_path: Path) -> None:
    """As of version 0.1.0."""
    run = stopped_run(base, tmp_path, "training.steps=15")
    document = receipt(run)
    assert document.pop("given")["overrides"] == {"checkpoint.every": 2, "training.steps": 15}
    (run / "run.json").write_text(json.dumps(document), encoding="utf-8")
    pretrain(run, base / "tiny.yaml", "--resume", "model.dim=32").exits(2, "model.dim: 16 in the run, 32 now")
    pretrain(run, base / "tiny.yaml", "--resume", "--json").exits(0, "training.steps: 15 in the run, 12 now")


def test_a_recipe_from_a_pipe_and_one_that_needs_its_overrides(base: Path, tmp_path: Path) -> None:
    recipe = (base / "tiny.yaml").read_text(encoding="utf-8").replace("steps: 12, ", "")
    (tmp_path / "open.yaml").write_text(recipe, encoding="utf-8")
    pretrain(tmp_path / "run", tmp_path / "open.yaml", "training.steps=6", before=strike(signal.SIGTERM, 2)).exits(143)
    pretrain(tmp_path / "run", tmp_path / "open.yaml", "--resume").exits(0)
    os.mkfifo(tmp_path / "pipe")
    program = Process(
        tmp_path,
        ["pretrain", str(tmp_path / "pipe"), "training.steps=6", "--run", str(tmp_path / "piped"), "--threads", "1"],
        strike(signal.SIGTERM, 2),
    )
    (tmp_path / "pipe").write_text(recipe, encoding="utf-8")
    command = program.wait().next_command()
    assert command == ["resume", str(tmp_path / "piped"), "--threads", "1"]
    run_tfkit(tmp_path, command).exits(0)
    assert hashes(tmp_path / "piped", 6) == hashes(tmp_path / "run", 6)
