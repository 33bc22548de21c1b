"""A fine-tuning is scored before its first step: the scores of a resumed run, the improvement, and the gates on them."""

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_files import receipt, write_rows
from tiny_runs import Done, exact, finetune, records, run_here, strike

pytestmark = pytest.mark.usefixtures("in_place")

TASK = """
model: {from: start}
data: {train: [{path: rows.jsonl}], validation: [{path: rows.jsonl}]}
objective: {kind: classification}
optimizer: {lr: 3e-2}
schedule: {kind: constant}
training: {steps: 6, batch_size: 4, precision: fp32, log_every: 1}
checkpoint: {every: 2}
evaluation: {every: 2}
carbon: {enabled: false}
"""


@pytest.fixture(scope="module")
def place(base: Path, starts: Path) -> Path:
    """A tiny BERT, and rows whose label is their first word."""
    shutil.copytree(starts / "bert", base / "start")
    random = np.random.default_rng(3)
    texts = [" ".join(random.choice(["cat", "dog", "sat", "ran"], 4)) for _ in range(24)]
    write_rows(base / "rows.jsonl", ({"text": text, "label": text.split()[0]} for text in texts))
    (base / "task.yaml").write_text(TASK, encoding="utf-8")
    return base


def exact_result(done: Done) -> dict[str, Any]:
    """Return the fields that a resumed run repeats, bit for bit."""
    result = done.document
    return {name: result[name] for name in ("steps", "tokens", "loss", "evaluation", "before", "improvement", "best", "gates")}


def test_the_scores_before_the_first_step_are_those_of_the_start_and_survive_a_stop(place: Path) -> None:
    words = ["--json", "--fail-if", "improvement < 0", "--fail-if", "loss > 100"]
    whole = finetune("whole", *words).exits(0)
    result = exact_result(whole)
    assert result["before"].keys() == result["evaluation"].keys()
    assert 0 < result["improvement"] == result["before"]["loss"] - result["best"]["value"]
    assert [(gate["gate"], gate["failed"]) for gate in result["gates"]] == [("improvement < 0", False), ("loss > 100", False)]
    assert result["gates"][1]["value"] == result["evaluation"]["loss"]
    assert receipt(place / "whole")["before"] == result["before"]
    assert min(record["step"] for record in records(place / "whole")) == 1, "metrics.jsonl is of steps"
    assert whole.err.count("before the first step: validation loss") == 1
    still = finetune("still", "--json", "optimizer.lr=1e-30", "optimizer.weight_decay=0", "training.steps=1")
    assert still.document["evaluation"] == still.document["before"] == result["before"]
    finetune("stopped", *words, before=strike(signal.SIGTERM, 4)).exits(143)
    resumed = finetune("stopped", *words, "--resume").exits(0)
    assert "before the first step: validation" not in resumed.err
    assert exact_result(resumed) | {"best": None} == result | {"best": None}
    assert exact(place / "stopped") == exact(place / "whole")
    repeated = finetune("whole", "--json", "--resume", "--fail-if", "improvement > 0")
    assert (repeated.code, exact_result(repeated)["before"]) == (8, result["before"])


def test_a_run_that_makes_the_model_worse_says_so_last_and_fails_its_gate() -> None:
    finetune("own-head").exits(0)
    words = ["--from", "own-head", "optimizer.lr=30", "evaluation.metric=loss"]
    done = finetune("worse", *words).exits(0)
    assert "WORSE by" in done.out.splitlines()[-1]
    assert done.err.splitlines()[-1].startswith("warning: this run made the model worse: loss ")
    assert done.err.endswith("before the first step. Try a lower optimizer.lr, fewer steps, or other data\n")
    done = finetune("gated", *words, "--fail-if", "improvement < 0", "--json").exits(8, "quality gate failed: improvement < 0 (it is -")
    assert (done.document["gates"][0]["failed"], done.document["error"]["kind"]) == (True, "gate")
    finetune("gated", "--fail-if", "improvement < 0", "--resume").exits(8)  # a finished run is judged again


def test_what_a_new_head_answered_before_is_no_measure(place: Path) -> None:
    """A model that learns that no label is frequent answers none at first: worse than chance, as what it learned is no use yet."""
    words = ["objective={kind: multi_label}", "data.train.0.columns={labels: label}", "data.validation.0.columns={labels: label}"]
    done = finetune("few", *words, "evaluation.metric=f1_micro", "optimizer.lr=1e-2").exits(0)
    assert receipt(place / "few")["before"]["f1_micro"] > 0
    assert "worse" not in done.err + done.out.lower()
    assert re.search(r"does not beat its best baseline\. Its validation loss was still falling at the end \(0\.\d+\): try", done.err)


def test_without_validation_data_or_a_checkpoint_there_is_no_score_before_but_gates() -> None:
    words = ["data.validation=null", "evaluation.every=null", "training.steps=1"]
    assert "\nbefore" not in finetune("blind", *words).exits(0, "newly initialized").out
    result = finetune("blind", *words, "--resume", "--json").document
    assert (result["before"], result["improvement"]) == (None, None)
    words = ["pretrain", "tiny.yaml", "--run", "random", "training.steps=3", "--json", "--fail-if"]
    result = run_here([*words, "perplexity < 1e9"]).exits(8).document
    assert (result["before"], result["gates"][0]["value"]) == (None, result["evaluation"]["perplexity"])
    run_here([*words, "improvement < 0"]).exits(2, "unknown metric 'improvement'")


def test_a_gate_on_what_there_will_not_be_is_refused_before_there_is_a_folder(place: Path) -> None:
    for words, message in (
        (["--fail-if", "bleu < 3"], "unknown metric 'bleu'; the metrics are loss, accuracy"),
        (["--fail-if", "other.loss > 3"], "unknown metric 'other.loss'"),
        (["--fail-if", "energy_kwh > 3"], "unknown metric 'energy_kwh'"),
        (["--fail-if", "improvement < 0", "data.validation=null", "evaluation.every=null"], "unknown metric 'improvement'"),
        (["--fail-if", "loss"], "is not a comparison"),
    ):
        finetune("refused", *words).refuses(2, message)
        assert not (place / "refused").exists()


def test_a_batch_is_cut_to_the_rows(place: Path) -> None:
    """Not of a run that has begun with the larger one."""
    cut = "training.batch_size is 100,000, and there are 24 rows to train on: a step has 24 rows"
    done = finetune("cut", "training={epochs: 2, batch_size: 100000, micro_batch_size: 50}", "--json").exits(0, cut)
    assert done.document["steps"] == 2
    saved = (place / "cut" / "recipe.yaml").read_text(encoding="utf-8")
    assert " batch_size: 24" in saved
    shutil.copytree(place / "cut", place / "older")
    (place / "older/recipe.yaml").write_text(saved.replace(" batch_size: 24", " batch_size: 48"), "utf-8")
    assert "a step has" not in run_here(["resume", "older", "training.epochs=4"]).exits(0).err
