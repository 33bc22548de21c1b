"""From random weights to a task on the command line: a BERT, a T5 and a GPT-2 of ours, pretrained, fine-tuned and judged on rows that
they never saw."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from answer_runs import BERT_WORDS, T5_WORDS
from tiny_files import write_rows
from tiny_runs import WORDS, Done, pretrain, run_here, write_corpus, write_recipe

TASKS = {  # how the model is pretrained, what it learns then, and the metric that shows it
    "bert": ([*BERT_WORDS, "training.steps=12", "model.dim=32"], "classification", "accuracy"),
    "gpt2": (["model.dim=32"], "classification", "accuracy"),
    "t5": ([*T5_WORDS, "model.dim=32", "model.head_dim=16", "model.hidden_dim=64"], "text_to_text", "exact_match"),
}


def rows(seed: int, count: int) -> Iterator[dict[str, str]]:
    """Texts of a few words, and whether one of them is `cat`: as a class, and as a text."""
    random = np.random.default_rng(seed)
    for number in range(count):
        words = [str(word) for word in random.choice([word for word in WORDS[:15] if word != "cat"], int(random.integers(2, 7)))]
        if number % 2:
            words[int(random.integers(len(words)))] = "cat"
        answer = "big" if number % 2 else "small"
        yield {"text": " ".join(words), "label": answer, "target": answer}


def run(*words: str) -> Done:
    return run_here([*words, "--json", "carbon.enabled=false"])


@pytest.mark.thorough
@pytest.mark.parametrize("name", TASKS)
def test_what_was_pretrained_here_learns_a_task(name: str, tmp_path: Path, in_tmp_path: None) -> None:
    pretrained, kind, metric = TASKS[name]
    pretrain(tmp_path / "base", write_recipe(tmp_path, write_corpus(tmp_path / "corpus")), *pretrained).exits(0)
    write_rows(tmp_path / "train.jsonl", rows(1, 400))
    write_rows(tmp_path / "test.jsonl", rows(2, 60))
    settings = ["optimizer={kind: adamw, lr: 1e-2}", "training={steps: 100, batch_size: 16, precision: fp32}", "evaluation.every=50"]
    task = ["--data", "train.jsonl", "--run", "tuned", f"objective={{kind: {kind}}}"]
    tuned = run("finetune", "--from", "base", *task, *settings).exits(0).document
    assert (tuned["steps"], Path(tuned["checkpoint"]).parts[-3:]) == (100, ("tuned", "checkpoints", "step-000100"))
    assert metric not in tuned["evaluation"] or 0 <= tuned["evaluation"][metric] <= 1  # whole texts are written at the end alone
    judged = ["evaluate", "--from", "tuned", "--data", "test.jsonl", "--fail-if"]
    taught, untaught = run(*judged, f"{metric} < 0.95").exits(0), run(*judged, f"{metric} > 0.4").exits(8)
    assert untaught.document["metrics"] == taught.document["metrics"]
