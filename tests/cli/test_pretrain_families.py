"""Families, tiny, through the real commands: two steps, stopped after the first, resumed to the same bits; schedules in the same way."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
from spoilt_steps import spoil
from tiny_files import read_json, receipt
from tiny_runs import assert_same_bits, kept, pretrain, records, run_tfkit, strike, write_corpus, write_recipe

from tfkit.hub import load

WORDS = ["training.steps=2", "training.batch_size=2", "training.log_every=1", "evaluation.every=2"]
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {  # the preset with what differs, and the model_type of its checkpoint
    "gpt": ({"preset": "gpt"}, "openai-gpt"),
    "gpt3": ({"preset": "gpt3-125m", "attention": {"windows": [None, 4]}}, "tfkit"),
    "gpt3 without bands": ({"preset": "gpt3-175b", "attention": {"windows": [None]}}, "gpt2"),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("model", "model_type"), FAMILIES.values(), ids=FAMILIES)
def test_a_family_pretrains_resumes_and_generates(tmp_path: Path, model: dict[str, Any], model_type: str) -> None:
    sizes = {"decoder_layers": 2, "dim": 16, "num_heads": 2, "context_length": 16}
    words = [f"model={json.dumps(model | sizes)}", *WORDS]
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    whole, run = tmp_path / "whole", tmp_path / "run"
    pretrain(whole, recipe, *words).exits(0)
    pretrain(run, recipe, *words, before=strike(signal.SIGTERM, 1)).exits(143)
    assert kept(run) == ["step-000001"]
    pretrain(run, recipe, "--resume", *words).exits(0)
    assert_same_bits(run, whole, 2)
    loaded = load(run)
    assert read_json(loaded.folder / "config.json")["model_type"] == model_type
    assert (loaded.config.decoder_layers, loaded.config.context_length) == (2, 16)
    arguments = ["generate", "--from", str(run), "--prompt", "the cat", "--max-new-tokens", "4", "--temperature", "0", "--json"]
    assert run_tfkit(tmp_path, [*arguments, "--threads", "1", "carbon.enabled=false"]).exits(0).document["tokens"] == 4


# -- schedules

EACH = ["training.log_every=1", "evaluation.every=null"]


def test_noam_s_recorded_learning_rate_is_the_formula_s(base: Path) -> None:
    words = ["optimizer={kind: adam, lr: 0.5}", "schedule={kind: noam, warmup_steps: 5}", "training.steps=8"]
    pretrain(base / "noam", base / "tiny.yaml", *EACH, *words).exits(0)
    found = [record["lr"] for record in records(base / "noam") if "lr" in record]
    assert found == pytest.approx([0.5 * 16**-0.5 * min(step**-0.5, step * 5**-1.5) for step in range(1, 9)], rel=1e-12)


@pytest.mark.thorough
def test_a_run_in_tokens_with_growing_batches_ends_where_its_tokens_do(base: Path) -> None:
    """Rows of 16 tokens: 2, 2, 2, 4, 4, 4 and 6 rows, then 8, until 700 tokens are read; and the decay is over then."""
    words = ["training={tokens: 700, batch_size: 8, micro_batch_size: 2, batch_ramp: {start: 2, tokens: 256}, precision: fp32}"]
    words += [*EACH, "schedule={kind: linear, warmup_tokens: 96}", "checkpoint={every: 3, keep: 9}"]
    pretrain(base / "ramp", base / "tiny.yaml", *words).exits(0)
    lines = [record for record in records(base / "ramp") if "lr" in record]
    rows = [2, 2, 2, 4, 4, 4, 6, 8, 8, 8]  # in all
    tokens = [16 * sum(rows[:step]) for step in range(1, 11)]
    assert [line["tokens"] for line in lines] == tokens == [*tokens[:-1], 768]
    expected = [1 / 3, 2 / 3, *(1 - (read - 96) / (768 - 96) for read in tokens[2:])]
    assert [line["lr"] for line in lines] == pytest.approx([1e-3 * share for share in expected])
    assert kept(base / "ramp") == ["step-000003", "step-000006", "step-000009", "step-000010"]

    pretrain(base / "again", base / "tiny.yaml", *words, before=strike(signal.SIGKILL, 13)).exits(-signal.SIGKILL)  # within step 7
    pretrain(base / "again", base / "tiny.yaml", *words, "--resume").exits(0)
    assert_same_bits(base / "again", base / "ramp", 10)
    assert receipt(base / "again")["attempts"][1]["from_step"] == 6


@pytest.mark.parametrize(
    ("warmup", "said"),
    [
        ("{warmup_steps: 0, warmup_tokens: 3000}", "is longer than the run of "),
        ("{warmup_steps: 40}", "is longer than the run of "),
        ("{decay_end: 0.1, warmup_steps: 2}", "ends after schedule.decay_end of the "),
    ],
)
def test_a_warm_up_that_does_not_fit_the_run_is_said(base: Path, tmp_path: Path, warmup: str, said: str) -> None:
    """If the length depends on the data; training.steps is checked before."""
    words = ["training={epochs: 0.5, batch_size: 4, precision: fp32}", f"schedule={warmup}"]
    pretrain(tmp_path / "run", base / "tiny.yaml", *EACH, *words).exits(0, f"warning: the warm-up {said}")


def test_skipped_steps_do_not_count_in_the_mean(base: Path) -> None:
    """Nor in what tfkit.json says of it."""
    words = [*EACH, "training.ema_decay=0.5", "training.steps=6", "checkpoint={every: 1, keep: 6}", "training.max_skipped_steps=6"]
    pretrain(base / "skips", base / "tiny.yaml", *words, before=spoil("decoder.norm", 4, math.inf, backward=True)).exits(0)
    facts = [read_json(base / "skips" / "checkpoints" / name / "tfkit.json") for name in kept(base / "skips")]
    assert [fact["averaged"]["steps"] for fact in facts] == [1, 2, 3, 3, 4, 5]
