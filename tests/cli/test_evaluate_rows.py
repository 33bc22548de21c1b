"""tfkit evaluate with an objective of rows: what a run's own validation said, gates, and what does not fit."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from tiny_files import receipt, write_rows
from tiny_runs import evaluate, pretrain, records

pytestmark = pytest.mark.usefixtures("in_place")

MODEL = "model={preset: bert-tiny, dim: 16, num_heads: 2, context_length: 16}"
RUNS = {
    "classes": ["objective={kind: classification}", "data={train: [{path: rows.jsonl}], validation: [{path: rows.jsonl}]}"],
    "masked": ["objective={kind: masked_lm}"],
}


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    rows = [{"text": "the cat " * (i % 4 + 1), "label": ["good", "bad"][i % 2]} for i in range(12)]
    write_rows(base / "rows.jsonl", rows)
    with contextlib.chdir(base):
        for name, words in RUNS.items():
            words = [MODEL, "tokenizer={kind: wordpiece, vocab_size: 120}", "training.steps=3", "evaluation.every=null", *words]
            pretrain(base / name, base / "tiny.yaml", *words).exits(0)
    return base


@pytest.mark.parametrize("name", RUNS)
def test_it_says_what_the_runs_own_validation_said(place: Path, tmp_path: Path, name: str) -> None:
    done = evaluate(tmp_path, "--from", str(place / name), "--json", *(["evaluation.max_tokens=300"] if name == "masked" else [])).exits(0)
    found = json.loads(done.out)
    said = records(place / name)[-1]["evaluation"]
    assert found["metrics"] == pytest.approx(said, rel=1e-5)
    assert found["examples"] > 0
    beside = receipt(place / name)["result"]["baselines"]
    assert found["baselines"] == beside
    assert [*beside] == (["most_frequent_class", "naive_bayes"] if name == "classes" else [])
    if name == "masked":
        few = json.loads(evaluate(tmp_path, "--from", str(place / name), "evaluation.max_tokens=100", "--json").out)
        assert 0 < few["tokens"] <= 100 < found["tokens"]
        assert 0 < few["examples"] < found["examples"]


def test_gates_are_of_the_metrics_of_the_objective(place: Path, tmp_path: Path) -> None:
    start = ["--from", str(place / "classes")]
    assert evaluate(tmp_path, *start, "--fail-if", "accuracy <= 1").code == 8
    done = evaluate(tmp_path, *start, "--fail-if", "perplexity > 1")
    assert (done.code, "the metrics are loss, accuracy, f1_macro" in done.err) == (2, True)
    done = evaluate(tmp_path, *start, "--fail-if", "rmse > 1")
    assert (done.code, done.out, "unknown metric 'rmse'; the metrics are loss, accuracy, f1_macro" in done.err) == (2, "", True)


def test_the_table_has_every_metric(place: Path, tmp_path: Path) -> None:
    done = evaluate(tmp_path, "--from", str(place / "classes"))
    assert [line.split("  ")[0] for line in done.out.partition("\n\n")[0].splitlines()] == [
        *("loss", "accuracy", "f1 macro", "matthews"),
        *("baselines", "verdict", "scored", "data", "checkpoint"),
    ]
    assert "baselines   accuracy 0.5 most frequent class, " in done.out
    assert "  (95 %: 0." in done.out
    assert "12 rows" in done.out


def test_without_the_training_rows_a_baseline_is_of_the_scored_ones(place: Path, tmp_path: Path) -> None:
    (checkpoint,) = (place / "classes" / "checkpoints").glob("step-*")
    alone = str(shutil.copytree(checkpoint, tmp_path / "alone"))
    words = ["--from", alone, "--data", str(place / "rows.jsonl"), "objective={kind: classification}", "carbon.enabled=false"]
    done = evaluate(tmp_path, *words, "--json").exits(0)
    found = json.loads(done.out)["baselines"]
    assert {name: scores["accuracy"] for name, scores in found.items()} == {"most_frequent_class_of_scored_rows": 0.5}


def test_what_does_not_fit_is_refused(place: Path, tmp_path: Path) -> None:
    start = ["--from", str(place / "classes")]
    done = evaluate(tmp_path, *start, "objective={kind: masked_lm}")
    assert (done.code, "needs a head of kind masked_lm, not classes" in done.err) == (2, True), done.err
    (checkpoint,) = (place / "classes" / "checkpoints").glob("step-*")
    alone = str(shutil.copytree(checkpoint, tmp_path / "alone"))  # no recipe is beside it, so it is the model that does not fit
    done = evaluate(tmp_path, "--from", alone, "objective={kind: masked_lm}", "--data", str(place / "rows.jsonl"), "carbon.enabled=false")
    assert (done.code, "needs a head of kind masked_lm, not classes" in done.err) == (4, True), done.err
    (tmp_path / "other.jsonl").write_text('{"text": "the cat", "label": "neither"}\n', encoding="utf-8")
    done = evaluate(tmp_path, *start, "--data", str(tmp_path / "other.jsonl"))
    assert (done.code, "other.jsonl:1: the label 'neither' is none of bad, good" in done.err) == (3, True), done.err
    done = evaluate(tmp_path, *start, "objective.labels=[a, b, c]")
    assert (done.code, "names 3 classes" in done.err) == (2, True), done.err
