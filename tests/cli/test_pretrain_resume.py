"""Resuming is exact: stopped or killed at any moment, a run ends with the bits of the run that was never stopped."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_codecarbon import put_first, wait_for_the_end, write
from tiny_files import emissions_rows, flip, receipt
from tiny_runs import Done, Process, assert_same_bits, both, exact, hashes, kept, pretrain, run_here, strike, write_corpus, write_recipe

import tfkit.evaluation.text_scores
import tfkit.generation.complete
from tfkit.engine.training_run import checkpointing

STEPS, MICRO_BATCHES = 12, 2
# Everything that has a state of its own: dropout, accumulation, the running mean of the log, evaluation, samples.
COMMON = [
    "model.dropout={embedding: 0.1, attention: 0.1, residual: 0.1}",
    "training.micro_batch_size=2",
    "training.log_every=5",
    "checkpoint={every: 3, keep: 2}",
    "generation={prompts: [the cat, big], max_new_tokens: 6}",
]
FP32, BF16 = "training.precision=fp32", "training.precision=bf16"
MUON = "optimizer={kind: muon, lr: 3e-3}"
WARM = "schedule={kind: linear, warmup_steps: 0, warmup_tokens: 200}"
RAMP = ["training.micro_batch_size=1", "training.batch_ramp={start: 2, tokens: 150}", WARM]
NOAM = ["optimizer={kind: adam, lr: 1.0, bias_correction: false}", "schedule={kind: noam, warmup_steps: 4}"]
VARIANTS = {
    "adamw-fp32": [FP32],
    "adamw-bf16": [BF16],
    "muon-fp32": [FP32, MUON],
    "muon-bf16": [BF16, MUON],
    "adafactor-ramp-mean": [FP32, *RAMP, "optimizer={kind: adafactor, lr: 3e-2}", "training.ema_decay=0.9"],
    "noam-mean-bf16": [BF16, *NOAM, "training.ema_decay=0.8"],
}
CONSTANT = "schedule={kind: constant, warmup_steps: 2}"


def train(base: Path, run: Path, *words: str, variant: str = "adamw-fp32", before: Callable[[], object] | None = None) -> Done:
    """Run the recipe of these tests, where everything has a state to lose."""
    return pretrain(run, base / "tiny.yaml", *COMMON, *VARIANTS[variant], *words, before=before)


@pytest.fixture(scope="module")
def unbroken(base: Path) -> Callable[[str], Path]:
    """The run of a variant that was never stopped; made when it is first asked for."""

    def run(variant: str) -> Path:
        path = base / variant
        if not path.exists():
            train(base, path, variant=variant).exits(0)
        return path

    return run


def assert_same(run: Path, reference: Path) -> None:
    assert_same_bits(run, reference, STEPS)
    assert receipt(run)["status"] == "finished"
    assert (run / "checkpoints" / "best.json").read_bytes() == (reference / "checkpoints" / "best.json").read_bytes()


def attempts(run: Path) -> list[tuple[str, int, int | None]]:
    """How each attempt of a run ended, from which step to which."""
    return [(attempt["status"], attempt["from_step"], attempt["to_step"]) for attempt in receipt(run)["attempts"]]


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
    run = base / f"{variant}-term-{forward}"
    step = forward // MICRO_BATCHES  # one that is not whole is dropped
    if variant == "adafactor-ramp-mean" and forward == 7 * MICRO_BATCHES:
        step = 6  # the seventh has more micro-batches
    done = train(base, run, variant=variant, before=strike(signal.SIGTERM, forward))
    done.refuses(143, f"stopped after step {step} of {STEPS}; its checkpoint is saved")
    assert attempts(run) == [("stopped", 0, step)]
    assert f"step-{step:06d}" in kept(run)
    train(base, run, "--resume", variant=variant).exits(0)
    assert attempts(run) == [("stopped", 0, step), ("finished", step, STEPS)]
    assert_same(run, unbroken(variant))


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    ("module", "function", "number"),
    [
        (tfkit.evaluation.text_scores, "score_texts", signal.SIGTERM),
        (tfkit.generation.complete, "complete", signal.SIGTERM),
        (tfkit.generation.complete, "complete", signal.SIGKILL),
        (checkpointing, "save_checkpoint", signal.SIGTERM),
        (checkpointing, "save_training_state", signal.SIGTERM),
        (checkpointing, "save_training_state", signal.SIGKILL),
        (checkpointing, "record_best", signal.SIGKILL),
        (checkpointing, "prune", signal.SIGKILL),
        (checkpointing, "model_card", signal.SIGKILL),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_signal_between_the_steps(base: Path, unbroken: Callable[[str], Path], module: object, function: str, number: int) -> None:
    """In the evaluation, while the model writes, in a save: nothing is lost or written twice."""
    run, words = base / f"{function}-{number}", "checkpoint={every: 4, keep: 2}"
    call = 3 if function in ("prune", "model_card") else 2
    train(base, run, words, before=strike(number, call, module, function)).exits(143 if number == signal.SIGTERM else -signal.SIGKILL)
    train(base, run, words, "--resume").exits(0)
    assert_same(run, unbroken("adamw-fp32"))


@pytest.fixture(scope="module")
def killed(base: Path) -> Path:
    """A run that was killed in its seventh step; a test that continues it takes a copy."""
    train(base, base / "killed", before=strike(signal.SIGKILL, 7 * MICRO_BATCHES)).exits(-signal.SIGKILL)
    return base / "killed"


@pytest.mark.sampled(6)
@pytest.mark.parametrize("call", [1, 2, 4, 5, 6, 7])
def test_killed_before_a_file_of_the_run_folder_is_replaced(base: Path, killed: Path, unbroken: Callable[[str], Path], call: int) -> None:
    """run.json as it is opened, begun, continued and recorded; recipe.yaml; run.json with what was given: what a resumed run replaces."""
    run = shutil.copytree(killed, base / f"replace-{call}")
    train(base, run, "--resume", before=strike(signal.SIGKILL, call, os, "replace")).exits(-signal.SIGKILL)
    train(base, run, "--resume").exits(0)
    assert_same(run, unbroken("adamw-fp32"))


@pytest.mark.thorough
@pytest.mark.parametrize(("module", "function"), [(tfkit.generation.complete, "complete"), (checkpointing, "save_checkpoint")])
def test_samples_without_validation_are_made_up_for_too(base: Path, tmp_path: Path, module: object, function: str) -> None:
    words = ["data.validation=null", "checkpoint={every: 4, keep: 2}"]
    train(base, tmp_path / "unbroken", *words).exits(0)
    train(base, tmp_path / "run", *words, before=strike(signal.SIGTERM, 2, module, function)).exits(143)
    train(base, tmp_path / "run", *words, "--resume").exits(0)
    assert exact(tmp_path / "run") == exact(tmp_path / "unbroken")
    assert len([record for record in exact(tmp_path / "run") if "samples" in record]) == 3


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
    run = stopped_run(base, tmp_path, CONSTANT)
    words = [CONSTANT, "training={steps: 15, batch_size: 4, precision: fp32, log_every: 2}"]
    words += ["checkpoint={every: 5, keep: 1}", "evaluation={every: 6}"]
    pretrain(run, base / "tiny.yaml", *words, "carbon.pue=1.5", "--resume").exits(0)
    assert [record["step"] for record in exact(run) if "loss" in record] == [3, 6, 8, 10, 12, 14, 15]
    assert [record["step"] for record in exact(run) if "evaluation" in record] == [6, 12, 15]
    pretrain(tmp_path / "straight", base / "tiny.yaml", *words).exits(0)
    assert hashes(run, 15) == hashes(tmp_path / "straight", 15)


def test_a_finished_run_grows_longer(base: Path, tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", base / "tiny.yaml"
    pretrain(run, recipe, CONSTANT, "training.steps=6").exits(0)
    done = pretrain(run, recipe, CONSTANT, "training.steps=9", "--resume", "--json").exits(0)
    assert done.document["steps"] == 9
    pretrain(tmp_path / "straight", recipe, CONSTANT, "training.steps=9").exits(0)
    assert hashes(run, 9) == hashes(tmp_path / "straight", 9)
    assert pretrain(run, recipe, CONSTANT, "training.steps=9", "--resume", "--json").out == done.out


def test_a_longer_run_that_fails_before_its_first_step_is_not_taken_for_reached(tmp_path: Path) -> None:
    """The recipe in the folder stays the one of the result until a step is about to be taken."""
    recipe, file = write_recipe(tmp_path, write_corpus(tmp_path / "corpus")), tmp_path / "corpus" / "3.txt"
    text = file.read_text(encoding="utf-8")

    def longer(steps: int, *words: str) -> Done:
        return pretrain(tmp_path / "run", recipe, CONSTANT, f"training.steps={steps}", "--json", *words)

    longer(4).exits(0)
    file.write_text(text.replace("cat", "cow"), encoding="utf-8")
    longer(8, "--resume").exits(3)
    assert longer(4, "--resume").exits(0).document["steps"] == 4
    file.write_text(text, encoding="utf-8")
    assert longer(8, "--resume").exits(0).document["steps"] == 8


@pytest.mark.thorough
def test_a_result_is_repeated_with_resume_where_its_model_still_is(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(run, base / "tiny.yaml", "training.steps=4").exits(0)
    for words in ("model.dim=32", "--resume"):
        shutil.rmtree(run / "checkpoints")
        done = pretrain(run, base / "tiny.yaml", "training.steps=4", words, "--json").exits(0)
        assert "finished" not in done.err
        assert Path(done.document["checkpoint"]) == run / "checkpoints" / "step-000004"
        assert Path(done.document["checkpoint"]).is_dir()


@pytest.mark.thorough
def test_the_result_of_an_evaluation_is_none_of_a_training(base: Path, unbroken: Callable[[str], Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(run, base / "tiny.yaml", before=strike(signal.SIGKILL, 2)).exits(-signal.SIGKILL)
    assert ((run / "recipe.yaml").exists(), (run / "checkpoints").exists()) == (True, False)
    run_here(["evaluate", "--from", unbroken("adamw-fp32"), "--run", run, "carbon.enabled=false"]).exits(0)
    assert pretrain(run, base / "tiny.yaml", "--resume", "--json").exits(0).document["steps"] == STEPS


@pytest.mark.thorough
def test_what_was_measured_stays_where_a_later_attempt_is_not_metered(base: Path, tmp_path: Path) -> None:
    run, metered = tmp_path / "run", both(put_first(write(tmp_path / "fake")), wait_for_the_end)
    done = pretrain(run, base / "tiny.yaml", CONSTANT, "training.steps=4", "carbon.enabled=true", "--json", before=metered)
    energy, parts, seconds = (done.document[name] for name in ("energy_kwh", "energy_kwh_parts", "seconds"))
    assert 0 < energy == pytest.approx(sum(parts.values()))
    assert parts.keys() == {"cpu", "gpu", "ram"}
    rows = emissions_rows(run)
    assert seconds == pytest.approx(sum(float(row["duration"]) for row in rows), abs=1e-3)
    for part, value in parts.items():
        assert value == pytest.approx(sum(float(row[f"{part}_energy"]) for row in rows))
    done = pretrain(run, base / "tiny.yaml", CONSTANT, "training.steps=8", "carbon.enabled=false", "--resume", "--json")
    for found in (done.document, receipt(run)["totals"]):
        assert (found["energy_kwh"], found["carbon_status"]) == (pytest.approx(energy), "degraded")
        assert found["energy_kwh_parts"] == pytest.approx(parts)
        assert found["seconds"] > seconds + 0.01, "wall time counts without a meter, too"
    assert "co2_eq_emissions" in (run / "checkpoints" / "step-000008" / "README.md").read_text(encoding="utf-8")
    done = pretrain(run, base / "tiny.yaml", CONSTANT, "training.steps=9", "carbon.enabled=true", "--resume", "--json", before=metered)
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
def test_a_finished_run_with_a_damaged_end_has_no_result(base: Path, unbroken: Callable[[str], Path], tmp_path: Path, damage: str) -> None:
    """It continues from an older one, to the same end; --exact refuses that, and so does a folder without another."""
    run = shutil.copytree(unbroken("adamw-fp32"), tmp_path / "run")
    last = run / "checkpoints" / f"step-{STEPS:06d}"
    if damage == "bit":
        flip(last / "model.safetensors")
    else:
        (last / {"weights": "model.safetensors", "manifest": "manifest.json"}[damage]).unlink()
    alone = shutil.copytree(run, tmp_path / "alone")
    for path in (alone / "checkpoints").glob("step-*"):
        if path.name != last.name:
            shutil.rmtree(path)
    said = {"bit": "damaged", "weights": "model.safetensors: missing", "manifest": "manifest.json: missing"}[damage]
    train(base, run, "--resume", "--exact").refuses(4, said)
    train(base, alone, "--resume").refuses(4, said)
    train(base, run, "--resume").exits(0, "skipped a damaged checkpoint")
    assert_same(run, unbroken("adamw-fp32"))


# --------------------------------------------------------------------------------- what was given then, and what is given now


def test_the_overrides_of_the_first_call_hold_when_it_is_resumed_without(base: Path, tmp_path: Path) -> None:
    words = ["training.steps=15", "training.micro_batch_size=2", "model.dropout={residual: 0.1}"]
    run = stopped_run(base, tmp_path, *words)
    done = pretrain(run, base / "tiny.yaml", "--resume", "--json").exits(0)
    assert ("changes" in done.err, "warning" in done.err, done.document["steps"]) == (False, False, 15), done.err
    pretrain(tmp_path / "straight", base / "tiny.yaml", "checkpoint.every=2", *words).exits(0)
    assert hashes(run, 15) == hashes(tmp_path / "straight", 15)
    assert pretrain(run, base / "tiny.yaml", "--resume", "--json").out == done.out


@pytest.mark.thorough
def test_a_new_override_takes_effect_is_printed_and_holds_from_then_on(base: Path, tmp_path: Path) -> None:
    run = stopped_run(base, tmp_path, "training.steps=15")
    pretrain(run, base / "tiny.yaml", "--resume", "training.steps=14", "checkpoint.keep=5", before=strike(signal.SIGTERM, 2)).exits(
        143, "continues with changes to its recipe:\n  checkpoint.keep: 2 in the run, 5 now\n  training.steps: 15 in the run, 14 now\n"
    )
    done = pretrain(run, base / "tiny.yaml", "--resume", before=strike(signal.SIGTERM, 1)).exits(143, "of 14; its checkpoint")
    assert "changes" not in done.err
    done = pretrain(run, base / "tiny.yaml", "--resume", "training.steps=15", "--json").exits(0, "training.steps: 14 in the run, 15 now")
    assert done.document["steps"] == 15


def test_an_edited_recipe_takes_effect_even_over_the_first_calls_override(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    run = stopped_run(tmp_path, tmp_path, "training.steps=15")
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("steps: 12, ", "steps: 14, ").replace("every: 4", "every: 7"), encoding="utf-8")
    done = pretrain(run, recipe, "--resume", before=strike(signal.SIGTERM, 1)).exits(143, "of 14; its checkpoint")
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
    words = ["pretrain", str(tmp_path / "pipe"), "training.steps=6", "--run", str(tmp_path / "piped"), "--threads", "1"]
    program = Process(tmp_path, words, strike(signal.SIGTERM, 2))
    (tmp_path / "pipe").write_text(recipe, encoding="utf-8")
    command = program.wait().next_command()
    assert command == ["resume", str(tmp_path / "piped"), "--threads", "1"]
    run_here(command).exits(0)
    assert hashes(tmp_path / "piped", 6) == hashes(tmp_path / "run", 6)
