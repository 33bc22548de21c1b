"""Each task of the standard library through the command line, on two of its packages: an objective each, without a file or a network."""

from pathlib import Path

import pytest
from tiny_runs import exact, pretrain, run_tfkit

import tfkit.data.sources.stdlib

ENCODER = "model: {preset: bert-base, encoder_layers: 1, dim: 16, hidden_dim: 16, num_heads: 2, context_length: 32}"
BOTH = "model: {preset: t5-small, encoder_layers: 1, decoder_layers: 1, dim: 16, hidden_dim: 16, num_heads: 2, context_length: 64}"
RUNS = {  # the task: the model, the tokenizer's kind, the objective, and what the validation reports besides its loss
    "docstrings": (BOTH, "unigram", "text_to_text", "token_accuracy"),
    "token_roles": (ENCODER, "wordpiece", "tagging", "accuracy"),
    "packages": (ENCODER, "wordpiece", "classification", "accuracy"),
}


def few_files() -> None:
    """The rest only takes time."""
    tfkit.data.sources.stdlib._is_source = lambda path, root: path.match("email/[b-i]*.py") or path.match("asyncio/[c-r]*.py")


def write_recipe(folder: Path, task: str) -> Path:
    model, kind, objective, _ = RUNS[task]
    path = folder / "tiny.yaml"
    path.write_text(
        f"{model}\ntokenizer: {{kind: {kind}, vocab_size: 600}}\n"
        f"data: {{train: [{{stdlib: {task}}}], validation: [{{stdlib: {task}}}]}}\nobjective: {{kind: {objective}}}\n"
        "training: {steps: 2, batch_size: 4, precision: fp32}\nevaluation: {max_tokens: 500}\ncarbon: {enabled: false}\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.sampled(3)
@pytest.mark.parametrize("task", RUNS)
def test_a_task_is_trained_and_scored_on_files_of_its_own(tmp_path: Path, task: str) -> None:
    recipe = write_recipe(tmp_path, task)
    done = pretrain(tmp_path / "run", recipe, before=few_files).exits(0, f"{task} of the standard library of Python", "(the training part)")
    assert "(held out)" in done.err
    assert "held-out rows are among those" not in done.err
    scored = next(record["evaluation"] for record in exact(tmp_path / "run") if "evaluation" in record)
    assert RUNS[task][3] in scored
    document = run_tfkit(tmp_path, ["inspect", str(recipe), "--show", "1", "--json"], few_files).exits(0).document
    place, line = document["rows"][0]["place"].split(":")
    assert place.split("/")[0] in ("email", "asyncio")
    assert int(line) > 0
    labels = {"docstrings": [], "packages": ["asyncio", "email"]}.get(task)
    assert document["labels"] == labels if labels is not None else {"call", "parameter", "function"} <= set(document["labels"])
