"""The best checkpoint by a metric, and a run that ends where the metric improves no more: the first part, bit for bit, of the whole one."""

import contextlib
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_files import read_json, receipt, write_rows
from tiny_runs import assert_same_bits, exact, finetune, hashes, kept, records, strike

from tfkit.hub import load
from tfkit.run.manifest import write_manifest

pytestmark = pytest.mark.usefixtures("in_place")

TASK = """
model: {from: bert}
data: {train: [{path: labelled.jsonl}], validation: 0.3}
objective: {kind: classification}
optimizer: {lr: 4e-2, layer_decay: 0.7}
schedule: {kind: constant}
training: {steps: 16, batch_size: 4, precision: fp32, log_every: 1, unfreeze_every: 2}
checkpoint: {every: 1, keep: 1}
evaluation: {every: 1}
carbon: {enabled: false}
"""


@pytest.fixture(scope="module")
def place(base: Path, starts: Path) -> Path:
    """A tiny BERT, labelled rows and a recipe."""
    shutil.copytree(starts / "bert", base / "bert")
    random, rows = np.random.default_rng(4), []
    for _ in range(150):
        label, word = [("good", "sat"), ("bad", "ran")][int(random.integers(2))]
        rows.append({"text": " ".join(random.choice(["the", "cat", "dog", "mat", "a", word], 8)), "label": label})
    write_rows(base / "labelled.jsonl", rows)
    (base / "task.yaml").write_text(f"# For a test.{TASK}", encoding="utf-8")
    return base


def result(run: str) -> dict[str, Any]:
    known = receipt(run)
    assert known["status"] == "finished"
    return known["result"]


def ends_at(values: list[float], patience: int) -> tuple[int, int]:
    """The step that a run ends at whose every step is scored, and its best one, the lowest: what is documented, said plainly."""
    best, best_step = 1e9, 0
    for step, value in enumerate(values, 1):
        if value < best:
            best, best_step = value, step
        elif step - best_step == patience:
            return step, best_step
    return len(values), best_step


@pytest.fixture(scope="module")
def ended(place: Path) -> Path:
    """The run that ended by itself."""
    with contextlib.chdir(place):
        done = finetune("ended", "training.patience=3")
        done.exits(0, f"step {result('ended')['steps']}: no better loss in 3 evaluations, so the run stops here")
    return place / "ended"


@pytest.fixture(scope="module")
def struck(place: Path, ended: Path) -> Path:
    """The same run, stopped in its last step but one; a test that continues it takes a copy."""
    with contextlib.chdir(place):
        finetune("struck", "training.patience=3", before=strike(signal.SIGTERM, result(str(ended))["steps"] - 1)).exits(143)
    return place / "struck"


def test_it_ends_where_the_rule_says_and_is_the_beginning_of_the_whole_run(place: Path, ended: Path) -> None:
    finetune("whole").exits(0)
    values = [record["evaluation"]["loss"] for record in records(Path("whole")) if "evaluation" in record]
    end, best = ends_at(values, 3)
    assert 1 < best < end < 16, values
    found = result("ended")
    assert (found["steps"], found["stopped_early"], result("whole")["stopped_early"]) == (end, True, False)
    checkpoint = str(ended / "checkpoints" / f"step-{best:06d}")
    assert found["best"] == {"checkpoint": checkpoint, "step": best, "metric": "loss", "value": min(values[:end])}
    assert load("ended").folder.name == f"step-{best:06d}"
    assert kept(ended) == [f"step-{best:06d}", f"step-{end:06d}"]
    assert exact(ended) == [record for record in exact(Path("whole")) if record["step"] <= end]

    finetune("ended", "training.patience=3", "--resume").exits(0, "this run is finished; here is its result again")
    shutil.copytree(ended, "continued")
    longer = finetune("continued", "training.patience=3", "training.steps=20", "--resume")  # which changes nothing
    longer.exits(0, f"step {end}: no better loss in 3 evaluations, so the run stops here")
    finetune("continued", "training.patience=null", "training.steps=16", "--resume").exits(0)  # it continues after all
    assert_same_bits(Path("continued"), Path("whole"), 16)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("lost", ["nothing", "metrics.jsonl", "half of metrics.jsonl", "best.json", "both"])
def test_a_lost_log_changes_nothing_but_the_log(ended: Path, struck: Path, lost: str) -> None:
    """The checkpoint has everything that decides when a run ends and which checkpoint stays; missing lines of the log are reported."""
    end, best = result(str(ended))["steps"], result(str(ended))["best"]["step"]
    run = Path(shutil.copytree(struck, f"lost {lost}".replace(" ", "-")))
    log = run / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    if lost in ("metrics.jsonl", "both"):
        log.unlink()
    if lost in ("best.json", "both"):
        (run / "checkpoints" / "best.json").unlink()
    if "half" in lost:
        log.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:9])
    done = finetune(run.name, "--resume").exits(0)
    assert hashes(run, end) == hashes(ended, end)
    assert (result(run.name)["steps"], result(run.name)["best"]["step"]) == (end, best)
    assert kept(run) == kept(ended)
    assert (exact(run) == exact(ended)) == (lost in ("nothing", "best.json"))
    assert (": lacks " in done.err) == ("metrics" in lost or lost == "both"), done.err
    if lost == "metrics.jsonl":
        records_and_scores = f"{end - 1} of {end - 1} records of steps and {end - 2} of {end - 2} evaluations"
        assert f"metrics.jsonl: lacks {records_and_scores} up to step {end - 1}" in done.err
    assert ("no complete checkpoint was recorded as the best" in done.err) == (lost in ("best.json", "both")), done.err


def test_a_checkpoint_of_an_older_version_goes_on_from_the_log(ended: Path, struck: Path) -> None:
    """Its training state says nothing of evaluations."""
    run, end = Path(shutil.copytree(struck, "older")), result(str(ended))["steps"]
    checkpoint = run / "checkpoints" / f"step-{end - 1:06d}"
    state = read_json(checkpoint / "training_state/state.json")
    assert state.pop("log")["lines"] == end - 1
    (checkpoint / "training_state/state.json").write_text(json.dumps(state), encoding="utf-8")
    write_manifest(checkpoint)
    assert ": lacks " not in finetune("older", "--resume").exits(0).err
    assert hashes(run, end) == hashes(ended, end)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("state", [{}, {"progress": 3}, {"log": []}, {"log": {"lines": 1, "loss": "x", "evaluations": []}}, {"data": []}])
def test_a_training_state_that_no_version_wrote_is_refused(place: Path, tmp_path: Path, state: dict[str, Any]) -> None:
    if not Path("odd").exists():
        finetune("odd", before=strike(signal.SIGTERM, 2)).exits(143)
    run = Path(shutil.copytree("odd", tmp_path / "odd"))
    path = run / "checkpoints/step-000002/training_state/state.json"
    path.write_text(json.dumps(read_json(path) | state if state else {}), encoding="utf-8")
    write_manifest(run / "checkpoints/step-000002")
    finetune(str(run), "--resume").exits(4, "this version of tfkit cannot read its training state")


@pytest.mark.thorough
def test_the_other_direction(place: Path) -> None:
    """By the share of hidden words that are right, of which more is better."""
    words = ["objective={kind: masked_lm}", "evaluation.metric=accuracy", "optimizer.lr=1e-2", "training.seed=2"]
    finetune("by-accuracy", *words).exits(0)
    values = [record["evaluation"]["accuracy"] for record in records(Path("by-accuracy")) if "evaluation" in record]
    end, best = ends_at([-value for value in values], 2)
    assert 1 < best < end < 16, values
    assert result("by-accuracy")["best"]["value"] == max(values)
    finetune("ended-by-accuracy", *words, "training.patience=2").exits(0)
    found = result("ended-by-accuracy")
    assert (found["steps"], found["best"]["step"]) == (end, best)


def test_what_nothing_would_read_is_refused() -> None:
    for words, message in (
        (["training.patience=2", "evaluation.every=null"], "training.patience: counts evaluations, but there is only one, at the end"),
        (["training.patience=2", "checkpoint.every=2"], "training.patience: the best checkpoint would not be saved"),
        (["training.patience=2", "checkpoint.every=epoch"], "training.patience: the best checkpoint would not be saved"),
        (["evaluation.metric=f1"], "evaluations of classification during training do not compute 'f1': choose one of loss, acc"),
        (["evaluation.metric=rmse"], "evaluation.metric: evaluations of classification during training do not compute 'rmse'"),
        (["evaluation.every=2.5"], "evaluation.every: must be a whole number or epoch, not 2.5"),
        (["evaluation.every=0"], "evaluation.every: must be greater than 0, not 0"),
        (["evaluation.every=day"], "evaluation.every: 'day' is none of epoch"),
        (["schedule={warmup_ratio: 0.1, warmup_steps: 3}"], "schedule.warmup_ratio: the warm-up is given twice"),
        (["training.adapter={rank: 2}"], "training.unfreeze_every: with an adapter all weights but its own"),
        (["data.validation=null", "evaluation.every=null", "training.patience=1"], "training.patience: there is nothing to evaluate"),
    ):
        finetune("refused", *words).exits(2, message)
