"""From random weights to a task on the command line: a BERT, a T5 and a GPT-2 of ours, pretrained, fine-tuned and judged on rows that
they never saw."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import WORDS, Done, pretrain, run_tfkit, write_corpus, write_recipe

PRETRAINED = {
    "bert": [
        *("model={preset: bert-tiny, dim: 32, num_heads: 2, context_length: 16}", "tokenizer={kind: wordpiece, vocab_size: 120}"),
        *("objective={kind: masked_lm}", "evaluation.every=null"),
    ],
    "gpt2": ["model.dim=32"],
    "t5": [
        "model={preset: t5-small, encoder_layers: 1, decoder_layers: 1, dim: 32, num_heads: 2, head_dim: 16, hidden_dim: 64}",
        "model.context_length=24",
        *("tokenizer={kind: unigram, vocab_size: 200}", "objective={kind: span_corruption}"),
    ],
}
TASKS = {  # what is learned, and the metric that shows it
    "bert": ("objective={kind: classification}", "accuracy"),
    "gpt2": ("objective={kind: classification}", "accuracy"),
    "t5": ("objective={kind: text_to_text}", "exact_match"),
}


def write_rows(path: Path, seed: int, rows: int) -> None:
    """Texts of a few words, and whether one of them is `cat`: as a class, and as a text."""
    random = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            words = [str(word) for word in random.choice([word for word in WORDS[:15] if word != "cat"], int(random.integers(2, 7)))]
            if number % 2:
                words[int(random.integers(len(words)))] = "cat"
            answer = "big" if number % 2 else "small"
            file.write(json.dumps({"text": " ".join(words), "label": answer, "target": answer}) + "\n")


def run(folder: Path, *words: str) -> Done:
    return run_tfkit(folder, [*words, "--threads", "1", "--json", "carbon.enabled=false"])


@pytest.mark.thorough
@pytest.mark.parametrize("name", PRETRAINED)
def test_what_was_pretrained_here_learns_a_task(name: str, tmp_path: Path, in_tmp_path: None) -> None:
    pretrain(tmp_path / "base", write_recipe(tmp_path, write_corpus(tmp_path / "corpus")), *PRETRAINED[name]).exits(0)
    write_rows(tmp_path / "train.jsonl", 1, 400)
    write_rows(tmp_path / "test.jsonl", 2, 60)
    objective, metric = TASKS[name]
    settings = ["optimizer={kind: adamw, lr: 1e-2}", "training={steps: 100, batch_size: 16, precision: fp32}", "evaluation.every=50"]
    tuned = run(tmp_path, "finetune", "--from", "base", "--data", "train.jsonl", "--run", "tuned", objective, *settings).exits(0).document
    assert (tuned["steps"], Path(tuned["checkpoint"]).parts[-3:]) == (100, ("tuned", "checkpoints", "step-000100"))
    assert metric not in tuned["evaluation"] or 0 <= tuned["evaluation"][metric] <= 1  # whole texts are written at the end alone
    judged = run(tmp_path, "evaluate", "--from", "tuned", "--data", "test.jsonl", "--fail-if", f"{metric} < 0.95")
    assert judged.code == 0, judged.out + judged.err
    untaught = run(tmp_path, "evaluate", "--from", "tuned", "--data", "test.jsonl", "--fail-if", f"{metric} > 0.4").exits(8)
    assert untaught.document["metrics"] == judged.document["metrics"]
