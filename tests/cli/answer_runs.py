"""Tiny trained runs of each kind of answer, for the tests of what they say of labelled rows, and of rows without a label; and the models,
rows and recipe that the tests of fine-tuning start from."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tiny_files import write_rows
from tiny_runs import pretrain, write_corpus, write_recipe

from tfkit.engine.inference import row_answers
from tfkit.engine.listener import Silent

SIZES = "dim: 16, num_heads: 2, context_length: 32, init: {std: 0.3}"
ENCODER = f"model: {{preset: bert-tiny, {SIZES}}}\ntokenizer: {{kind: wordpiece, vocab_size: 120}}"
GPT = f"""model: {{preset: gpt, decoder_layers: 2, {SIZES}}}
tokenizer: {{kind: bpe_eow, vocab_size: 90, special_tokens: [_start_, _delimiter_, _classify_]}}"""
T5 = f"""model: {{preset: t5-small, encoder_layers: 1, decoder_layers: 1, head_dim: 8, hidden_dim: 32, {SIZES}}}
tokenizer: {{kind: unigram, vocab_size: 140}}"""
LLAMA = """model: {preset: llama2-7b, decoder_layers: 1, dim: 16, num_heads: 2, num_kv_heads: 1, hidden_dim: 32, context_length: 160}
tokenizer: {variant: smollm2, vocab_size: 320}"""
KINDS = {
    "classes": (ENCODER, "{kind: classification}", "{text: text, label: label}"),
    "numbers": (ENCODER, "{kind: classification, regression: true}", "{text: text, pair: other, label: size}"),
    "tags": (ENCODER, "{kind: tagging}", "{tokens: words, tags: names}"),
    "parts": (ENCODER, "{kind: tagging}", "{tokens: words, tags: parts}"),
    "choices": (GPT, "{kind: multiple_choice}", "{context: text, choices: [other, third], label: right}"),
    "sets": (ENCODER, "{kind: multi_label}", "{text: text, labels: kinds}"),
    "spans": (ENCODER, "{kind: question_answering}", "{question: first, context: text, answers: asked}"),
    "texts": (T5, "{kind: text_to_text, label_smoothing: 0.1}", "{source: text, target: answers}"),
    "chat": (LLAMA, "{kind: chat, pack: true}", "{messages: talk}"),
}
REST = """
training: {steps: 5, batch_size: 8, precision: fp32}
optimizer: {lr: 3e-3}
generation: {max_new_tokens: 6}
evaluation: {bootstrap: 60}
carbon: {enabled: false}
"""
WORDS = ["the", "cat", "dog", "sat", "on", "a", "mat"]


def made_rows(count: int) -> list[dict[str, Any]]:
    """Rows that every objective finds its columns in."""
    random, rows = np.random.default_rng(7), []
    for number in range(count):
        words = [str(word) for word in random.choice(WORDS, int(random.integers(2, 9)))]
        first, second, third = (" ".join(random.permutation(words)) for _ in range(3))
        begun = ["B-animal" if word in ("cat", "dog") else "I-animal" if word == "mat" else "O" for word in words]
        asked = [{"role": "user", "content": first}, {"role": "assistant", "content": words[0]}]
        rows.append(
            {
                "text": first,
                "other": second,
                "third": third,
                "label": "red" if "cat" in words else "green" if "dog" in words else "blue",
                "size": round(len(words) / 3, 4),
                "words": words,
                "names": begun,
                "parts": ["noun" if word in ("cat", "dog", "mat") else "other" for word in words],
                "kinds": [kind for kind, word in (("cat", "cat"), ("dog", "dog"), ("place", "on")) if word in words],
                "first": words[0],
                "asked": [{"text": words[-1], "answer_start": first.index(words[-1])}],
                "right": number % 2,
                "answers": [words[0], *([f"{words[-1]} {words[0]}"] if number % 3 else [])],
                "talk": asked + ([{"role": "user", "content": second}, {"role": "assistant", "content": third}] if number % 2 else []),
            }
        )
    return rows


def train(folder: Path) -> Path:
    """Train a run of each kind, beside its data."""
    rows = made_rows(50)
    for name, part in (("train", rows[:26]), ("test", rows[26:])):
        write_rows(folder / f"{name}.jsonl", part)
    with contextlib.chdir(folder):
        for name, (model, objective, columns) in KINDS.items():
            data = ", ".join(
                f"{part}: [{{path: {file}.jsonl, columns: {columns}}}]" for part, file in (("train", "train"), ("validation", "test"))
            )
            (folder / f"{name}.yaml").write_text(f"{model}\ndata: {{{data}}}\nobjective: {objective}{REST}", encoding="utf-8")
            pretrain(folder / name, folder / f"{name}.yaml").exits(0)
    return folder


def stop_in_the_fourth_window(number: int) -> Callable[[], None]:
    """Return a fault: the process gets a signal before the fourth batch of rows is answered."""

    def before() -> None:
        windows = row_answers._windows

        def struck(*arguments: Any) -> Any:
            for count, window in enumerate(windows(*arguments)):
                if count == 3:
                    os.kill(os.getpid(), number)
                yield window

        row_answers._windows = struck

    return before


class Progressed(Silent):
    """A listener that notes the total of each progress bar, and how far it came."""

    def __init__(self) -> None:
        self.bars: dict[str, tuple[int | None, int]] = {}

    @contextlib.contextmanager
    def progress(self, description: str, total: int | None = None, unit: str = "") -> Iterator[Any]:
        bars = self.bars
        bars[description] = (total, 0)

        class Bar:
            def advance(self, count: int = 1) -> None:
                bars[description] = (total, bars[description][1] + count)

        yield Bar()


BERT_WORDS = [
    "model={preset: bert-tiny, dim: 16, num_heads: 2, context_length: 16}",
    "tokenizer={kind: wordpiece, vocab_size: 120}",
    "objective={kind: masked_lm}",
    "training.steps=3",
    "evaluation.every=null",
]
T5_WORDS = [
    "model={preset: t5-small, encoder_layers: 1, decoder_layers: 1, dim: 16, num_heads: 2, head_dim: 8, hidden_dim: 32}",
    "model.context_length=24",
    "tokenizer={kind: unigram, vocab_size: 200}",
    "objective={kind: span_corruption}",
]


def train_starts(folder: Path) -> Path:
    """Make bert/, a BERT of ours, gpt/, a GPT-2 of ours, labelled.jsonl, and tiny.yaml, of which the models are."""
    recipe = write_recipe(folder, write_corpus(folder / "corpus"))
    for name, words in {"bert": BERT_WORDS, "gpt": ["training.steps=3"]}.items():
        pretrain(folder / name, recipe, *words).exits(0)
    random = np.random.default_rng(3)
    with (folder / "labelled.jsonl").open("w", encoding="utf-8") as file:
        for number in range(24):
            text = " ".join(random.choice(["the", "cat", "dog", "sat", "ran", "fast"], int(random.integers(1, 9))))
            file.write(json.dumps({"text": text, "label": ["good", "bad"][number % 2]}) + "\n")
    return folder
