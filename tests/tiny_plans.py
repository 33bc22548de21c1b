"""Tiny recipes, rows and models for each objective."""

from pathlib import Path
from typing import Any

import pytest
from tiny_files import write_rows
from tiny_runs import write_corpus

import tfkit
from tfkit.recipe import Recipe, RecipeText
from tfkit.recipe.dump import dump_document

DECODER: dict[str, Any] = {"preset": "gpt2", "decoder_layers": 2, "dim": 24, "num_heads": 3, "context_length": 32, "init": {"std": 0.1}}
ENCODER: dict[str, Any] = {"preset": "bert-base-uncased", "encoder_layers": 2, "dim": 24, "num_heads": 3, "hidden_dim": 40}
ENCODER["context_length"] = 32
SMALL = {"dim": 24, "num_heads": 3, "head_dim": 8, "hidden_dim": 40, "context_length": 32}
BOTH: dict[str, Any] = {"preset": "t5-small", "encoder_layers": 2, "decoder_layers": 2, **SMALL}
LLAMA: dict[str, Any] = {"preset": "llama-7b", "decoder_layers": 2, "dim": 24, "num_heads": 6, "num_kv_heads": 2, "hidden_dim": 40} | {
    "context_length": 32
}
WORDPIECE = {"kind": "wordpiece", "vocab_size": 300}
SPANS = {"kind": "unigram", "vocab_size": 300}
ROLLOUTS = {"rules": [{"kind": "contains", "text": "a"}], "prompts": 4, "completions": 2, "max_new_tokens": 5, "inner_epochs": 2}
JUDGED = {"kind": "ai_feedback", "judge": "judge"}
PAIRS = {"batch_size": 2, "micro_batch_size": 1}
STUDENT = DECODER | {"decoder_layers": 1}

# By name: the model, its tokenizer, the objective, further sections.
RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any], dict[str, Any]]] = {
    "causal_lm": (DECODER, {"vocab_size": 300}, {"kind": "causal_lm"}, {}),
    "grouped heads": (LLAMA, {"vocab_size": 300}, {"kind": "causal_lm"}, {}),
    "masked_lm": (ENCODER, WORDPIECE, {"kind": "masked_lm"}, {}),
    "next sentence": (ENCODER, WORDPIECE, {"kind": "masked_lm", "next_sentence": True}, {"training": PAIRS}),
    "span_corruption": (BOTH, SPANS, {"kind": "span_corruption"}, {}),
    "text_to_text": (BOTH, SPANS, {"kind": "text_to_text"}, {}),
    "classification": (ENCODER, WORDPIECE, {"kind": "classification"}, {}),
    "multi_label": (ENCODER, WORDPIECE, {"kind": "multi_label"}, {}),
    "tagging": (ENCODER, WORDPIECE, {"kind": "tagging"}, {}),
    "question_answering": (ENCODER, WORDPIECE, {"kind": "question_answering"}, {}),
    "multiple_choice": ({"from": "base"}, None, {"kind": "multiple_choice"}, {}),
    "chat": ({"from": "base"}, None, {"kind": "chat", "format": "llama2"}, {}),
    "adapter": ({"from": "base"}, None, {"kind": "chat", "format": "llama2"}, {"training": {"adapter": {"rank": 2}}}),
    "frozen": ({"from": "base"}, None, {"kind": "causal_lm"}, {"training": {"frozen": ["embedding.*", "decoder.blocks.0.*"]}}),
    "distillation": (STUDENT, {"path": "base"}, {"kind": "distillation", "teacher": "base", "of": {"kind": "causal_lm"}}, {}),
    "reward": ({"from": "base"}, None, {"kind": "reward"}, {}),
    "dpo": ({"from": "base"}, None, {"kind": "dpo"}, {}),
    "ai_feedback": ({"from": "base"}, None, JUDGED | {"policy": "base", "max_new_tokens": 5, "of": {"kind": "reward"}}, {}),
    "grpo": ({"from": "base"}, None, {"kind": "grpo", **ROLLOUTS, "reward": "scores", "gold": "judge"}, {}),
    "ppo": (
        {"from": "base"},
        None,
        {"kind": "ppo", **ROLLOUTS, "reward": "scores", "value": "scores", "ptx_weight": 0.5, "ptx_ratio": 2},
        {"data": {"pretraining": [{"path": "corpus"}]}},
    ),
}
TEXT = {"causal_lm", "masked_lm", "span_corruption", "distillation"}  # objectives that read the corpus
# Objectives with rows of their own.
ROW_OBJECTIVES = (
    *("text_to_text", "classification", "multi_label", "tagging", "question_answering", "multiple_choice"),
    *("chat", "reward", "dpo", "ai_feedback", "grpo", "ppo"),
)


def rows_of(name: str, words: list[str]) -> list[dict[str, Any]]:
    """Return 24 rows for an objective."""
    rows = []
    for row in range(24):
        part = [word.lower() for word in words[row * 5 : row * 5 + 3 + row % 3]]
        text, label = " ".join(part), ["no", "yes"][row % 2]
        pair = {"prompt": text, "chosen": " cat sat", "rejected": f" {part[0]} ran"}
        made: dict[str, dict[str, Any]] = {
            "text_to_text": {"source": text, "target": part[0]},
            "classification": {"text": text, "label": label},
            "multi_label": {"text": text, "labels": [label]},
            "tagging": {"tokens": part, "tags": [f"B-{word}" for word in part]},
            "question_answering": {
                "question": part[0],
                "context": text,
                "answers": {"text": [part[1]], "answer_start": [text.index(part[1])]},
            },
            "multiple_choice": {"context": text, "choices": ["cat sat", "dog ran fast"], "label": row % 2},
            "chat": {"question": text, "answer": part[0]},
            "reward": pair,
            "dpo": pair,
            "ai_feedback": {"prompt": text},
            "grpo": {"prompt": text},
            "ppo": {"prompt": text},
        }
        rows.append(made[name])
    return rows


def recipe_of(name: str, **training: Any) -> dict[str, Any]:
    """Return a recipe of RECIPES as a document."""
    model, tokenizer, objective, more = RECIPES[name]
    source = "corpus" if objective["kind"] in TEXT else f"{objective['kind']}.jsonl"
    steps = {"steps": 4, "batch_size": 4, "micro_batch_size": 2, "precision": "fp32", "log_every": 1}
    document: dict[str, Any] = {"model": model} | ({"tokenizer": tokenizer} if tokenizer else {})
    document |= {"data": {"train": [{"path": source}], "validation": 0.3, **more.get("data", {})}, "objective": objective}
    return document | {"training": steps | more.get("training", {}) | training, "carbon": {"enabled": False}}


def read_recipe_of(document: dict[str, Any]) -> Recipe:
    return RecipeText(Path("<recipe>"), dump_document(document)).read()


def write_place(folder: Path) -> Path:
    """Make rows for each objective in a folder, a language model, a reward model and a classifier; return the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        corpus = write_corpus(folder / "corpus")
        words = corpus.joinpath("0.txt").read_text(encoding="utf-8").split()
        for name in ROW_OBJECTIVES:
            write_rows(Path(f"{name}.jsonl"), rows_of(name, words))
        short: dict[str, Any] = {"training": {"steps": 1, "batch_size": 4, "precision": "fp32"}, "carbon": {"enabled": False}}
        base = {"model": DECODER, "tokenizer": {"vocab_size": 300}, "data": {"train": [{"path": "corpus"}]}, **short}
        tfkit.pretrain(base, run="base", threads=1)
        for kind, name in (("reward", "scores"), ("classification", "judge")):
            recipe = {"data": {"train": [{"path": f"{kind}.jsonl"}]}, "objective": {"kind": kind}, **short}
            tfkit.finetune(recipe, start="base", run=name, threads=1)
    return folder
