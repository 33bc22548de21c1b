"""Training that goes wrong: stopped before the update, or skipped; and what can be learnt of it afterwards."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_files import read_json, receipt
from tiny_runs import After, Before, Done, assert_same_bits, both, kept, pretrain, raising, records, run_tfkit, spoil, spoil_weight

from tfkit.engine.training_run.validator import Validator
from tfkit.objectives.causal_lm import CausalLM
from tfkit.training.step import Stepper

COMMON = ["training.micro_batch_size=2", "training.log_every=1", "checkpoint={every: 3, keep: 2}"]


@pytest.fixture(scope="module")
def straight(base: Path) -> Path:
    """The run in which nothing went wrong."""
    pretrain(base / "straight", base / "tiny.yaml", *COMMON).exits(0)
    return base / "straight"


def replay(run: Path, before: Callable[[], None] | None = None) -> Done:
    return run_tfkit(run.parent, ["replay", str(run), "--json"], before)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("module", "backward"), [("decoder.blocks.1.mlp.op.up_proj", False), ("decoder.blocks.0.self_attention.op.o_proj", True)]
)
def test_f20_a_step_that_is_no_number_ends_the_run_and_is_replayed(
    base: Path, straight: Path, tmp_path: Path, module: str, backward: bool
) -> None:
    fault, run = spoil(module, 8, backward=backward), tmp_path / "run"
    done = pretrain(run, base / "tiny.yaml", *COMMON, before=fault).refuses(6, "no weight was changed by this step")
    assert done.err.count("step 8: the loss is ") == 1
    assert kept(run) == ["step-000003", "step-000006"]
    assert receipt(run)["status"] == "failed"
    assert [record["step"] for record in records(run) if "loss" in record] == list(range(1, 8))

    found = replay(run, fault).exits(0).document
    assert found["first_bad"] == {"module": module, "in": "backward" if backward else "forward", "micro_batch": 0}
    assert (found["step"], len(found["rows"])) == (8, 2)

    pretrain(run, base / "tiny.yaml", *COMMON, "--resume").exits(0)  # the fault was the machine's: gone, and nothing was lost
    assert_same_bits(run, straight, 12)


def test_f20_a_replay_has_the_latest_weights_not_their_mean(base: Path, tmp_path: Path) -> None:
    """Two steps after a checkpoint whose model.safetensors holds the mean; with batches that grow, and another optimizer's state."""
    words = ["training.ema_decay=0.9", "training.batch_ramp={start: 2, tokens: 180}", "optimizer={kind: adafactor}"]
    fault, run = spoil("decoder.norm", 9), tmp_path / "run"
    pretrain(run, base / "tiny.yaml", *COMMON, *words, before=fault).exits(6)
    found = replay(run, fault).exits(0).document
    assert found["first_bad"] == {"module": "decoder.norm", "in": "forward", "micro_batch": 0}
    assert [len(rows) for rows in found["rows"]] == [2, 2]


def test_f20_a_replay_on_other_ground_says_so(base: Path, tmp_path: Path) -> None:
    """Other weights before the step, or no replay file at all: never a finding that is not the run's."""
    run = tmp_path / "run"
    pretrain(run, base / "tiny.yaml", *COMMON, before=spoil("decoder.norm", 5)).exits(6)
    path = run / "replay" / "step-000005.json"
    document = read_json(path)
    path.write_text(json.dumps(document | {"weights_sha256": "0" * 64}), encoding="utf-8")
    done = replay(run).exits(5, "cannot be reproduced: the weights before the step are not those of the run")
    assert done.document["error"]["kind"] == "environment"
    path.write_text(json.dumps(document)[:-40], encoding="utf-8")
    replay(run).exits(4)
    path.unlink()
    replay(run).exits(4, "holds no replay file")
    replay(tmp_path / "nowhere").exits(4)


def test_f20_weights_that_are_no_numbers_are_never_saved(base: Path, tmp_path: Path) -> None:
    """They come of the last update; the step before has seen nothing. The last good checkpoint stays."""
    done = pretrain(tmp_path / "run", base / "tiny.yaml", *COMMON, "checkpoint.keep=1", before=spoil_weight(6))
    done.exits(6, "step 6: a weight is no longer finite, so this step is not saved")
    assert kept(tmp_path / "run") == ["step-000003"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_f21_a_step_is_skipped_and_counted(base: Path, tmp_path: Path, value: float) -> None:
    """An infinite gradient where the loss is a number; resuming past it gives the same run."""
    fault, words = spoil("decoder.blocks.0.mlp.op.down_proj", 5, value, backward=True), [*COMMON, "training.max_skipped_steps=1"]
    pretrain(tmp_path / "run", base / "tiny.yaml", *words, before=fault).exits(0, "step 5: the loss is ", "it is skipped, 1 of at most 1")
    lines = [record for record in records(tmp_path / "run") if "grad_norm" in record]
    assert [line.get("skipped", 0) for line in lines] == [0] * 4 + [1] * 8
    assert (lines[4]["loss"], lines[4]["nonfinite"]["loss"]) == (None, "nan")  # the mean over no healthy step

    stopped = both(fault, Before(Stepper, "take", raising(KeyboardInterrupt()), 7))
    pretrain(tmp_path / "other", base / "tiny.yaml", *words, before=stopped).exits(130)
    pretrain(tmp_path / "other", base / "tiny.yaml", *words, "--resume", before=fault).exits(0)
    assert_same_bits(tmp_path / "other", tmp_path / "run", 12)


def test_f21_one_more_than_allowed_ends_the_run(base: Path, tmp_path: Path) -> None:
    fault = both(spoil("decoder.norm", 4), spoil("decoder.norm", 9))
    done = pretrain(tmp_path / "run", base / "tiny.yaml", *COMMON, "training.max_skipped_steps=1", before=fault)
    done.exits(6, "it is skipped, 1 of at most 1", "step 9: the loss is nan")
    assert kept(tmp_path / "run") == ["step-000003", "step-000006"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("skips", "code"), [(0, 6), (1, 0)])
def test_f21_a_jump_of_the_loss(base: Path, tmp_path: Path, skips: int, code: int) -> None:
    """Finite, but far above the latest steps."""

    now = [0]
    jump = both(
        Before(Stepper, "take", lambda _, number, *__: now.insert(0, number)),
        After(CausalLM, "loss", lambda sums, *_: {"lm": sums["lm"] * 3} if now[0] == 14 else sums),
    )
    words = [*COMMON, "training.steps=20", "training.loss_jump_sigmas=6", f"training.max_skipped_steps={skips}"]
    done = pretrain(tmp_path / "run", base / "tiny.yaml", *words, before=jump).exits(code, "step 14: the loss jumps to ")
    if code == 0:
        assert records(tmp_path / "run")[-1].get("skipped", 1) == 1
        assert done.err.count("jumps") == 1
    else:
        assert replay(tmp_path / "run", jump).exits(0).document["first_bad"] is None


def test_f22_an_evaluation_that_is_no_number_is_never_best(base: Path, tmp_path: Path) -> None:
    def spoilt(scores: Any, *_: object) -> Any:
        return dataclasses.replace(scores, metrics=scores.metrics | {"loss": math.nan, "perplexity": math.nan})

    run = tmp_path / "run"
    words = [*COMMON, "evaluation.every=3", "checkpoint={every: 3, keep: 1}"]
    fault = both(*(After(Validator, "_score", spoilt, call) for call in (1, 3)))
    pretrain(run, base / "tiny.yaml", *words, before=fault).exits(0)
    best = read_json(run / "checkpoints" / "best.json")
    assert best["step"] in (6, 12)
    assert math.isfinite(best["value"])
    assert f"step-{best['step']:06d}" in kept(run)
    scored = {record["step"]: record["evaluation"]["loss"] for record in records(run) if "evaluation" in record}
    assert [step for step, loss in scored.items() if loss is None] == [3, 9]
