"""Two tiny trained models, rows with labels, and a recipe: what the tests of fine-tuning start from."""

import json
from pathlib import Path

import numpy as np
from tiny_runs import pretrain, write_corpus, write_recipe

BERT = [
    "model={preset: bert-tiny, dim: 16, num_heads: 2, context_length: 16}",
    "tokenizer={kind: wordpiece, vocab_size: 120}",
    "objective={kind: masked_lm}",
    "training.steps=3",
    "evaluation.every=null",
]


def train(folder: Path) -> Path:
    """Make bert/, a BERT of ours, gpt/, a GPT-2 of ours, labelled.jsonl, and tiny.yaml, of which the models are."""
    recipe = write_recipe(folder, write_corpus(folder / "corpus"))
    for name, words in {"bert": BERT, "gpt": ["training.steps=3"]}.items():
        pretrain(folder / name, recipe, *words).exits(0)
    random = np.random.default_rng(3)
    with (folder / "labelled.jsonl").open("w", encoding="utf-8") as file:
        for number in range(24):
            text = " ".join(random.choice(["the", "cat", "dog", "sat", "ran", "fast"], int(random.integers(1, 9))))
            file.write(json.dumps({"text": text, "label": ["good", "bad"][number % 2]}) + "\n")
    return folder
