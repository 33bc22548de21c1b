"""Hashes of tiny runs of every family, objective, optimizer and adapter: a refactoring must leave them unchanged.

    python benchmarks/run_hashes.py before.json              # make the runs, and write their hashes
    ... change the code ...
    python benchmarks/run_hashes.py after.json --against before.json      # exit 1, and the runs and fields that differ

For each run the file has the SHA-256 of its weights and of its optimizer's state, the exact fields of metrics.jsonl, and the metrics of
`tfkit evaluate`. The recipes write out every value that a default could give, so that a changed default changes nothing here; models are
presets with changes. The bits depend on the processor and on PyTorch, so compare files of one machine.
"""

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

EXACT = ("step", "tokens", "loss", "lr", "grad_norm", "evaluation", "samples")
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "hat",
    "and",
    "ran",
    "fast",
    "slow",
    "big",
    "small",
    "red",
    "Straße",
    "naïve",
    "日本",
]

Section = dict[str, Any]
Case = tuple[str, str | None, Section]  # the command, the run that it starts from, and the sections that differ from BASE

ADAMW = {"kind": "adamw", "lr": 1e-2, "betas": [0.9, 0.95], "eps": 1e-8, "bias_correction": True, "weight_decay": 0.1, "clip_norm": 1.0}
ADAMW |= {"layer_decay": 1.0}
ADAM = {"kind": "adam", "lr": 1.0, "betas": [0.9, 0.98], "eps": 1e-9, "bias_correction": True, "clip_norm": None, "layer_decay": 1.0}
ADAFACTOR = {"kind": "adafactor", "lr": 1e-2, "scale_parameter": True, "min_scale": 1e-3, "decay_rate": 0.8, "clip_threshold": 1.0}
ADAFACTOR |= {"eps": 1e-30, "weight_decay": 0.0, "clip_norm": None, "layer_decay": 1.0}
MUON = {
    "kind": "muon",
    "lr": 1e-2,
    "adamw_lr": 3e-3,
    "momentum": 0.95,
    "betas": [0.9, 0.95],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
}
SCHEDULE = {"kind": "cosine", "warmup_steps": 1, "warmup_tokens": None, "warmup_ratio": None, "flat_steps": 0, "final_ratio": 0.0}
SCHEDULE |= {"decay_end": 1.0, "decay_ratio": 0.2}
LENGTH = {
    "steps": 3,
    "epochs": None,
    "tokens": None,
    "batch_size": 4,
    "batch_ramp": None,
    "micro_batch_size": 2,
    "patience": None,
    "trial_rates": None,
}
STEP = {"precision": "fp32", "ema_decay": None, "adapter": None, "frozen": [], "unfreeze_every": None, "seed": 1, "compile": False}
STEP |= {"activation_checkpointing": False, "max_skipped_steps": 0, "loss_jump_sigmas": None, "log_every": 1, "tensorboard": False}
SAMPLING = {"temperature": 0.0, "top_k": None, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "no_repeat_ngram": None}
BEAMS = {"num_beams": 1, "length_penalty": 1.0, "length_law": "power", "early_stopping": "likely"}
BUDGETS = {"budget_g": None, "budget_kwh": None, "budget_seconds": None, "on_meter_failure": "warn", "baseline_seconds": 0.0}
PLACE = {"country": None, "intensity_g_per_kwh": None, "intensity_file": None, "embodied_g_per_device_hour": None, "embodied_source": None}
BASE: dict[str, Section] = {
    "optimizer": ADAMW,
    "schedule": SCHEDULE,
    "training": LENGTH | STEP,
    "parallel": {"shard": 1, "replicas": "auto", "reshard": "auto"},
    "checkpoint": {"every": 2, "keep": 2},
    "evaluation": {
        "every": 2,
        "metric": None,
        "batch_size": 4,
        "max_tokens": 200,
        "precision": "float32",
        "bootstrap": None,
    },
    "generation": {"prompts": [], "max_new_tokens": 4, "stop": [], "seed": 1} | SAMPLING | BEAMS,
    "carbon": {"enabled": False, "pue": 1.0, "every_seconds": 5.0} | PLACE | BUDGETS,
}
DATA = {"on_bad_row": "error", "max_lost": None, "length_groups": True}
LORA = {"kind": "lora", "rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": ["q_proj", "v_proj"], "merge": False}
SIZES = {"dim": 16, "num_heads": 4, "num_kv_heads": None, "head_dim": None, "hidden_dim": 32, "context_length": 32}
SIZES |= {"init": {"scheme": "normal", "std": 0.1, "residual_scaling": False}}


def source(name: str, **fields: Any) -> Section:
    """Return a file of the data folder, with every field of a source."""
    empty = {"format": None, "header": None, "beside": {}, "text": None, "columns": {}, "name": None, "weight": 1.0}
    return {"path": f"data/{name}", **empty, **fields}


def data(train: str, validation: str | float | None = 0.3, **fields: Any) -> Section:
    """Return the data section; `validation` is a file, or the held-out fraction."""
    held_out = [source(validation)] if isinstance(validation, str) else validation
    return {"train": [source(train)], "validation": held_out, **DATA, **fields}


def tokenizer(kind: str, variant: str | None, size: int = 300, **fields: Any) -> Section:
    """Return a tokenizer to be trained."""
    fields = {"special_tokens": [], "sample_bytes": 1_000_000} | fields
    return {"kind": kind, "variant": variant, "vocab_size": size, **fields}


BYTES = tokenizer("byte_bpe", "gpt2", add_bos=True)
LLAMA3 = tokenizer("byte_bpe", "llama3", add_bos=True)
SMOLLM2 = tokenizer("byte_bpe", "smollm2", add_bos=True)
ROBERTA = tokenizer("byte_bpe", "roberta")
XLM_R = tokenizer("unigram", "xlm_roberta", 90)
PIECES = tokenizer("wordpiece", None, 120, lowercase=True, strip_accents=None)
ENDS = tokenizer("bpe_eow", None, 120)
UNIGRAM = tokenizer("unigram", None, 190)
LLAMA = tokenizer("bpe_byte_fallback", "llama", 320, add_bos=True)
GEMMA = tokenizer("bpe_byte_fallback", "gemma", 320, add_bos=True)
JOINT = tokenizer("bpe_byte_fallback", "translation", 320)

CAUSAL = {"kind": "causal_lm", "documents": "apart"}
MASKED = {"kind": "masked_lm", "rate": 0.3, "split": [0.8, 0.1, 0.1], "masking": "dynamic", "whole_words": False, "rarity": 0.0}
MASKED |= {"next_sentence": False, "short_rows": 0.1}
CLASSES = {"kind": "classification", "labels": None, "regression": False, "class_weights": None}
SEVERAL = {"kind": "multi_label", "labels": None, "delimiter": "|"}
TAGS = {"kind": "tagging", "labels": None}
CHOICES = {"kind": "multiple_choice", "lm_weight": 0.5, "start": "_start_", "delimiter": "_delimiter_", "classify": "_classify_"}
ANSWERS = {"kind": "question_answering", "unanswerable": True, "doc_stride": 4, "max_answer_tokens": 5}
SPANS = {"kind": "span_corruption", "rate": 0.15, "mean_span": 3.0, "masking": "dynamic"}
TEXT = {"kind": "text_to_text", "label_smoothing": 0.1}
CHAT = {"kind": "chat", "format": "chatml", "system": None, "pack": False, "train_on": "all"}
DPO = {"kind": "dpo", "beta": 0.5, "label_smoothing": 0.1, "chat": False}
REWARD = {"kind": "reward", "chat": False, "every_token": False}
FEEDBACK = {"kind": "ai_feedback", "policy": "gpt2", "policy_sha256": None, "judge": "tuned-regression", "judge_sha256": None, "of": DPO}
FEEDBACK |= {"completions": 3, "temperature": 1.0, "max_new_tokens": 5}
GROUPS = {"kind": "grpo", "rules": [{"kind": "contains", "weight": 1.0, "text": "a"}, {"kind": "valid_python", "weight": 0.5}]}
GROUPS |= {"prompts": 2, "completions": 4, "inner_epochs": 2, "temperature": 0.8, "max_new_tokens": 5, "no_eos_reward": None}
GROUPS |= {"reward": None, "reward_sha256": None, "gold": None, "gold_sha256": None, "chat": False}
GROUPS |= {"beta": 0.1, "kl_limit": None, "kl_stop": None, "clip_range": 0.2, "scale_rewards": "group"}
PPO = {name: value for name, value in GROUPS.items() if name != "scale_rewards"} | {"kind": "ppo", "value_lr": 3e-3, "gamma": 0.99}
PPO |= {
    "value_sha256": None,
    "gae_lambda": 0.9,
    "value_clip_range": 0.2,
    "kl_target": 0.5,
    "kl_horizon": 100.0,
    "ptx_weight": 2.0,
    "ptx_ratio": 2,
}
TAUGHT = {
    "kind": "distillation",
    "teacher_sha256": None,
    "temperature": 2.0,
    "teacher_weight": 5.0,
    "text_weight": 2.0,
    "cosine_weight": 1.0,
}
TAUGHT |= {"masked_only": False}


def model(preset: str, layers: tuple[int, int] = (0, 2), **changes: Any) -> Section:
    """Return a preset made tiny, with these numbers of layers of its encoder and its decoder."""
    names = ("encoder_layers", "decoder_layers")
    return {"preset": preset, **SIZES, **{name: count for name, count in zip(names, layers, strict=True) if count}, **changes}


def scratch(model: Section, tokenizer: Section, objective: Section, train: str = "texts", **sections: Section) -> Case:
    """Return a run from random weights."""
    held_out = sections.pop("data", data(train))
    return "pretrain", None, {"model": model, "tokenizer": tokenizer, "data": held_out, "objective": objective, **sections}


def tuned(start: str, objective: Section, train: str, changes: Section | None = None, **sections: Section) -> Case:
    """Return a run from the checkpoint of another one."""
    return "finetune", start, {"model": changes or {}, "data": data(train), "objective": objective, **sections}


GPT2, T5, BERT = model("gpt2"), model("t5-small", (2, 2)), model("bert-tiny", (2, 0))
DROPOUT = {"embedding": 0.1, "attention": 0.1, "residual": 0.1, "hidden": 0.0, "final": 0.0, "head": 0.0}
CASES: dict[str, Case] = {
    # families
    "transformer-2017": scratch(
        model("transformer-2017-base", (2, 2)), JOINT, TEXT, "pairs.jsonl", optimizer=ADAM, schedule={"kind": "noam", "warmup_steps": 2}
    ),
    "gpt": scratch(model("gpt"), ENDS, CAUSAL),
    "bert": scratch(BERT, PIECES, MASKED | {"next_sentence": True}),
    "gpt2": scratch(GPT2, BYTES, CAUSAL),
    "t5": scratch(T5, UNIGRAM, SPANS, optimizer=ADAFACTOR, schedule={"kind": "inverse_sqrt", "warmup_steps": 0, "flat_steps": 2}),
    "t5-v1.1": scratch(model("t5-v1.1-small", (2, 2)), UNIGRAM, SPANS | {"masking": "static"}),
    "gpt3": scratch(model("gpt3-125m", attention={"windows": [None, 4]}), BYTES, CAUSAL | {"documents": "joined"}),
    "distilbert": scratch(model("distilbert-base", (2, 0)), PIECES, MASKED | {"rarity": 0.7}),
    "llama": scratch(model("llama-7b", num_kv_heads=2), LLAMA, CAUSAL),
    "llama3.1": scratch(model("llama3.1-8b", num_kv_heads=1), LLAMA3, CAUSAL),
    "mistral": scratch(model("mistral-7b-v0.1", num_kv_heads=2, attention={"windows": [6]}), LLAMA, CAUSAL),
    "gemma2": scratch(model("gemma2-2b", num_kv_heads=2), GEMMA, CAUSAL),
    "smollm2": scratch(model("smollm2-135m", num_kv_heads=2, context_length=192), SMOLLM2, CAUSAL),
    "qwen2": scratch(model("qwen2.5-0.5b", num_kv_heads=1), BYTES, CAUSAL),
    "qwen3": scratch(model("qwen3-0.6b", num_kv_heads=1), BYTES, CAUSAL),
    "gemma": scratch(model("gemma-2b", num_kv_heads=1), GEMMA, CAUSAL),
    "gemma3": scratch(model("gemma3-4b", num_kv_heads=1, attention={"windows": [6, None]}), GEMMA, CAUSAL),
    "smollm3": scratch(model("smollm3-3b", num_kv_heads=1, position={"layers": [True, False]}), LLAMA3, CAUSAL),
    "olmo2": scratch(model("olmo2-1b", num_kv_heads=1), BYTES, CAUSAL),
    "olmo3": scratch(model("olmo3-7b", num_kv_heads=1, attention={"windows": [6, None]}), BYTES, CAUSAL),
    "phi": scratch(model("phi3-mini-4k", num_kv_heads=1, attention={"windows": [6]}), LLAMA, CAUSAL),
    "pythia": scratch(model("pythia-14m", position={"fraction": 0.5}), BYTES, CAUSAL),
    "opt": scratch(model("opt-125m"), BYTES, CAUSAL),
    "mixtral": scratch(model("mixtral-8x7b", num_kv_heads=2, mlp={"experts": {"count": 4}}), LLAMA, CAUSAL),
    "olmoe": scratch(model("olmoe-1b-7b", mlp={"experts": {"count": 5, "active": 2, "hidden_dim": 12}}), BYTES, CAUSAL),
    "qwen3_moe": scratch(
        model("qwen3-moe-30b-a3b", num_kv_heads=1, mlp={"experts": {"count": 4, "active": 2, "hidden_dim": 12, "layers": [False, True]}}),
        BYTES,
        CAUSAL,
    ),
    "roberta": scratch(model("roberta-base", (2, 0)), ROBERTA, MASKED),
    "xlm_roberta": scratch(model("xlm-roberta-base", (2, 0)), XLM_R, CLASSES, "pairs-of-texts.jsonl"),
    "camembert": scratch(model("camembert-base", (2, 0)), XLM_R, TAGS, "tags.jsonl"),
    "modernbert": scratch(model("modernbert-base", (3, 0), attention={"windows": [None, 4, 4]}), PIECES, MASKED),
    "electra": scratch(model("electra-small", (2, 0), embedding={"dim": 12}), PIECES, MASKED),
    "mpnet": scratch(model("mpnet-base", (2, 0)), PIECES, CLASSES, "rows.jsonl"),
    "bart": scratch(model("bart-base", (2, 2)), ROBERTA, TEXT, "pairs.jsonl"),
    "mbart": scratch(model("mbart-large-cc25", (2, 2)), XLM_R, CLASSES, "rows.jsonl"),
    "mt5": scratch(model("mt5-small", (2, 2)), UNIGRAM, SPANS, optimizer=ADAFACTOR),
    "flan_t5": scratch(model("flan-t5-small", (2, 2)), UNIGRAM, TEXT, "pairs.jsonl", optimizer=ADAFACTOR),
    "byt5": scratch(model("byt5-small", (3, 1)), UNIGRAM, TEXT, "pairs.jsonl"),
    "deberta_v3": scratch(model("deberta-v3-base", (2, 0), position={"buckets": 8, "max_distance": 16}), PIECES, MASKED),
    # objectives from random weights
    "whole-words": scratch(BERT, PIECES, MASKED | {"whole_words": True, "masking": "static"}),
    "bert-classes": scratch(BERT, PIECES, CLASSES, "rows.jsonl"),
    "gpt2-classes": scratch(GPT2, BYTES, CLASSES, "pairs-of-texts.jsonl"),
    "bert-regression": scratch(BERT, PIECES, CLASSES | {"regression": True}, "numbers.jsonl"),
    "bert-several-labels": scratch(BERT, PIECES, SEVERAL, "several.jsonl"),
    "bert-answers": scratch(BERT, PIECES, ANSWERS, "answers.jsonl"),
    "bert-tags": scratch(BERT, PIECES, TAGS, "tags.jsonl"),
    "gpt2-tags": scratch(GPT2, BYTES, TAGS, "tags.jsonl"),
    "gpt-choices": scratch(model("gpt"), ENDS | {"special_tokens": ["_start_", "_delimiter_", "_classify_"]}, CHOICES, "choices.jsonl"),
    "t5-text": scratch(T5, UNIGRAM, TEXT | {"label_smoothing": 0.0}, "pairs.jsonl"),
    "smollm2-chat": scratch(model("smollm2-135m", context_length=192), SMOLLM2, CHAT, "chats.jsonl"),
    "smollm2-packed-chat": scratch(model("smollm2-135m", context_length=192), SMOLLM2, CHAT | {"pack": True}, "chats.jsonl"),
    "distilled-bert": scratch(
        model("distilbert-base", (2, 0)), {"path": "bert"}, TAUGHT | {"teacher": "bert", "of": MASKED, "copy_layers": [0, 1]}
    ),
    "distilled-gpt2": scratch(model("gpt2", (0, 1)), {"path": "gpt2"}, TAUGHT | {"teacher": "gpt2", "of": CAUSAL, "copy_layers": None}),
    # optimizers and schedules
    "adam": scratch(GPT2, BYTES, CAUSAL, optimizer=ADAM | {"lr": 1e-3}, schedule={"kind": "constant"}),
    "adafactor": scratch(GPT2, BYTES, CAUSAL, optimizer=ADAFACTOR | {"weight_decay": 0.1, "clip_norm": 1.0}, schedule={"kind": "linear"}),
    "muon": scratch(GPT2, BYTES, CAUSAL, optimizer=MUON, schedule={"kind": "wsd", "decay_ratio": 0.5}),
    "muon-encoder-decoder": scratch(T5, UNIGRAM, SPANS, optimizer=MUON),
    "uncorrected": scratch(BERT, PIECES, MASKED, optimizer=ADAMW | {"bias_correction": False, "layer_decay": 0.8, "clip_norm": None}),
    "warm-up-in-tokens": scratch(GPT2, BYTES, CAUSAL, schedule={"warmup_steps": 0, "warmup_tokens": 200}),
    # variants of the step
    "bf16": scratch(GPT2, BYTES, CAUSAL, training={"precision": "bf16"}),
    "bf16-t5": scratch(T5, UNIGRAM, SPANS, training={"precision": "bf16"}),
    "dropout": scratch(model("gpt2", dropout=DROPOUT), BYTES, CAUSAL),
    "dropout-checkpointed": scratch(model("gpt2", dropout=DROPOUT), BYTES, CAUSAL, training={"activation_checkpointing": True}),
    "one-row-each": scratch(GPT2, BYTES, CAUSAL, training={"micro_batch_size": 1}),
    "ramp": scratch(GPT2, BYTES, CAUSAL, training={"batch_ramp": {"start": 2, "tokens": 256}}),
    "mean": scratch(GPT2, BYTES, CAUSAL, training={"ema_decay": 0.9}),
    "bf16-mean": scratch(GPT2, BYTES, CAUSAL, training={"ema_decay": 0.9, "precision": "bf16"}),
    "frozen": scratch(GPT2, BYTES, CAUSAL, training={"frozen": ["embedding.*"], "precision": "bf16"}),
    "patience": scratch(GPT2, BYTES, CAUSAL, training={"patience": 1}, evaluation={"every": 1}, checkpoint={"every": 1}),
    "samples": scratch(GPT2, BYTES, CAUSAL, generation={"prompts": ["the cat"], "temperature": 1.0, "top_k": 20}),
    "two-sources": scratch(
        GPT2, BYTES, CAUSAL, data={**data("texts"), "train": [source("texts", weight=0.5), source("lines.txt", format="lines")]}
    ),
    "own-type": scratch(model("bert-tiny", (2, 0), position={"kind": "sinusoidal", "layout": "halves"}), PIECES, MASKED),
    # fine-tuning
    "tuned-classes": tuned("bert", CLASSES, "rows.jsonl"),
    "tuned-unequal": tuned("bert", CLASSES, "rows.jsonl", data={**data("rows.jsonl"), "length_groups": False}),
    "tuned-tags": tuned("distilbert", TAGS, "tags.jsonl", training={"unfreeze_every": 1}),
    "tuned-regression": tuned("gpt2", CLASSES | {"regression": True}, "numbers.jsonl"),
    "tuned-t5": tuned("t5", TEXT, "pairs.jsonl", optimizer=ADAFACTOR),
    "tuned-choices": tuned("gpt", CHOICES, "choices.jsonl"),
    "tuned-chat": tuned("smollm2", CHAT, "chats.jsonl", training={"precision": "bf16"}),
    "tuned-groups": tuned("gpt2", GROUPS, "prompts.jsonl"),
    "tuned-ppo": tuned(
        *("gpt2", PPO | {"value": "tuned-regression"}, "prompts.jsonl"),
        data=data("prompts.jsonl", pretraining=[source("texts")]),
        training={"precision": "bf16"},
    ),
    "tuned-llama": tuned("llama", CAUSAL, "texts", {"context_length": 16}),
    "other-classes": tuned("bert-classes", CLASSES, "other.jsonl"),
    "dpo": tuned("gpt2", DPO, "preferences.jsonl"),
    "reward": tuned("gpt2", REWARD, "ranked.jsonl"),
    "ai-feedback": tuned("gpt2", FEEDBACK, "prompts.jsonl"),
    # adapters
    "lora-dpo": tuned("gpt2", DPO, "preferences.jsonl", training={"adapter": LORA, "precision": "bf16"}),
    "lora": tuned("gpt2", CAUSAL, "texts", training={"adapter": LORA}),
    "lora-groups": tuned("gpt2", GROUPS, "prompts.jsonl", training={"adapter": LORA}),
    "lora-dropout": tuned("gpt2", CAUSAL, "texts", training={"adapter": LORA | {"dropout": 0.2}, "precision": "bf16"}),
    "lora-merged": tuned("llama", CAUSAL, "texts", training={"adapter": LORA | {"merge": True, "targets": ["down_proj", "o_proj"]}}),
    "lora-classes": tuned("bert", CLASSES, "rows.jsonl", training={"adapter": LORA}),
    "lora-muon": tuned("gpt2", CAUSAL, "texts", training={"adapter": LORA}, optimizer=MUON),
    "lora-mean": tuned("gpt2", CAUSAL, "texts", training={"adapter": LORA, "ema_decay": 0.5}),
    "lora-t5": tuned("t5", TEXT, "pairs.jsonl", training={"adapter": LORA}),
}


def recipe(name: str) -> dict[str, Any]:
    """The whole recipe of a case."""
    _, start, sections = CASES[name]
    whole = {**sections}
    for section, values in BASE.items():
        changes = whole.get(section, {})
        whole[section] = {**changes} if section == "optimizer" and changes else values | changes
    if sections["objective"]["kind"] in ("text_to_text", "chat"):
        whole["evaluation"] |= {"text_metrics": ["exact_match"], "bleu_tokenize": "13a"}
    if start is not None:
        whole["model"] = {"from": start, **whole["model"]}
    return whole | {"trackers": []}


def write_data(folder: Path) -> None:
    """Write synthetic rows for every objective, the same on every machine."""
    draw = random.Random(1)
    (folder / "texts").mkdir(parents=True)

    def text(least: int, most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))

    for number in range(8):
        sentences = [f"{text(4, 12).capitalize()}." for _ in range(20)]
        (folder / "texts" / f"{number}.txt").write_text(" ".join(sentences) + "\n", encoding="utf-8")
    (folder / "lines.txt").write_text("".join(f"{text(3, 20)}\n" for _ in range(40)), encoding="utf-8")

    def write(name: str, row: Any) -> None:
        lines = (json.dumps(row(), ensure_ascii=False) + "\n" for _ in range(30))
        (folder / name).write_text("".join(lines), encoding="utf-8")

    def tagged() -> Section:
        words = text(2, 10).split()
        return {"tokens": words, "tags": ["B-animal" if word in ("cat", "dog") else "O" for word in words]}

    def questioned() -> Section:
        words = text(20, 40).split()
        first = draw.randrange(len(words))
        answer = {"text": words[first], "answer_start": len(" ".join([*words[:first], ""]))}
        return {"question": text(2, 5), "context": " ".join(words), "answers": [answer] * draw.randint(0, 1)}

    def turn() -> Section:
        roles = [{"role": "user", "content": text(2, 6)}, {"role": "assistant", "content": text(1, 6)}]
        return {"messages": roles * draw.randint(1, 2)}

    write("rows.jsonl", lambda: {"text": text(2, 14), "label": draw.choice(["good", "bad", "so so"])})
    write("other.jsonl", lambda: {"text": text(2, 14), "label": draw.choice(["red", "blue"])})
    write("pairs-of-texts.jsonl", lambda: {"sentence1": text(2, 8), "sentence2": text(2, 8), "label": draw.choice(["yes", "no"])})
    write("numbers.jsonl", lambda: {"text": text(2, 14), "label": round(draw.uniform(-2, 5), 3)})
    write("tags.jsonl", tagged)
    write("choices.jsonl", lambda: {"context": text(2, 5), "choices": [text(1, 4), text(1, 4)], "label": draw.randint(0, 1)})
    write("pairs.jsonl", lambda: {"source": text(2, 9), "target": text(1, 9)})
    write("chats.jsonl", turn)
    write("several.jsonl", lambda: {"text": text(2, 14), "labels": draw.sample(["calm", "loud", "odd"], draw.randint(0, 3))})
    write("answers.jsonl", questioned)
    write("preferences.jsonl", lambda: {"prompt": text(1, 5), "chosen": f" cat {text(1, 4)}", "rejected": f" {text(2, 5)}"})
    write("ranked.jsonl", lambda: {"prompt": text(1, 5), "completions": [f"{n} {text(1, 4)}" for n in range(3)], "ranks": [2, 1, 3]})
    write("prompts.jsonl", lambda: {"prompt": text(2, 5)})


def found(name: str) -> Section:
    """Return the results of a finished run in the current folder."""
    newest = max(Path(name, "checkpoints").glob("step-*"))
    files = sorted([*newest.glob("*.safetensors"), *newest.glob("training_state/*.safetensors")])
    lines = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "files": {str(file.relative_to(newest)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "metrics": [{key: line[key] for key in line if key in EXACT or key.endswith("_loss")} for line in lines],
        "evaluate": json.loads(Path(f"{name}.json").read_text(encoding="utf-8"))["metrics"],
    }


def run(name: str) -> None:
    """Train and evaluate one case in this process, and exit with 0 if both succeed."""
    from tfkit.__main__ import main

    command, start, _ = CASES[name]
    Path(f"{name}.yaml").write_text(json.dumps(recipe(name)), encoding="utf-8")
    output = io.StringIO()
    begin = [] if start is None else ["--from", start]
    scored = ["--data", "data/preferences.jsonl"] if name == "ai-feedback" else []  # its own rows have no completions
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(io.StringIO()):
        code = main([command, f"{name}.yaml", *begin, "--run", name, "--threads", "1", "--json"])
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(io.StringIO()) as out:
        code = code or main(["evaluate", f"{name}.yaml", "--from", name, *scored, "--threads", "1", "--json"])
    Path(f"{name}.json").write_text(out.getvalue(), encoding="utf-8")
    if code:
        print(f"{name}: exit {code}\n{output.getvalue()}", file=sys.stderr, flush=True)
    os._exit(code)


def make_runs(names: list[str], folder: Path) -> dict[str, Section]:
    """Run each case in a fork of this process, in which everything is imported already; the runs that a case starts from come first."""
    import tfkit.cli.evaluate
    import tfkit.engine.training_run.assembled_run  # noqa: F401

    os.environ["TFKIT_CACHE"] = str(folder / "cache")
    write_data(folder / "data")
    os.chdir(folder)
    results: dict[str, Section] = {}
    for name in names:
        process = multiprocessing.get_context("fork").Process(target=run, args=(name,))
        process.start()
        process.join()
        results[name] = found(name) if process.exitcode == 0 else {"exit": process.exitcode}
    return results


def with_starts(names: list[str]) -> list[str]:
    """Return the named cases and those that they start or learn from, in the table's order."""
    wanted = {*names}
    for name in names:
        wanted |= {CASES[name][1], *(CASES[name][2]["objective"].get(other) for other in ("teacher", "judge"))} - {None}
    return [name for name in CASES if name in wanted]


def main() -> None:
    """Make the runs, write the file, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--against", type=Path, help="an earlier one to compare with")
    parser.add_argument("--only", nargs="+", choices=CASES, default=[*CASES], help="these runs alone")
    arguments = parser.parse_args()
    out, against = arguments.out.resolve(), arguments.against and json.loads(arguments.against.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        results = make_runs(with_starts(arguments.only), Path(folder))
        os.chdir(out.parent)
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    failed = [name for name, result in results.items() if "exit" in result]
    print(f"{len(results) - len(failed)} runs" + (f", {len(failed)} failed: {', '.join(failed)}" if failed else ""))
    different = []
    for name in results.keys() & against.keys() if against else ():
        if fields := [field for field in ("exit", "files", "metrics", "evaluate") if results[name].get(field) != against[name].get(field)]:
            different.append(f"{name}: {', '.join(fields)}")
    if against:
        print("\n".join(sorted(different)) or f"no difference in {len(results.keys() & against.keys())} runs")
    sys.exit(bool(failed or different))


if __name__ == "__main__":
    main()
