"""The size of a fine-tuning without a recipe: tokens of a row, rows of a step, epochs, learning rate, adapter or not.

The size is decided from the number of rows, the tokens of the first rows, the model and the free memory. The user is shown the reasons.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.sections import LENGTHS
from tfkit.recipe.starting_points import HELD_OUT, LORA, RARE, StartingPoint, held_out_for, rates_beside, starting_point, step_tokens
from tfkit.recipe.tasks import ModelSummary, RowCounts, rare_share
from tfkit.tokenizer import Tokenizer
from tfkit.training.free_memory import available_bytes
from tfkit.training.memory import trained_bytes
from tfkit.units import format_epochs

# Least and largest number of tokens of a row of text; a step of longer rows would take minutes on a CPU.
_SHORTEST_TEXT = 128
_LONGEST_TEXT = 1024
_CHARACTERS_A_TOKEN = 4  # approximate mean in English
_SAMPLED_CHARACTERS = 300_000  # approximate number of characters that are tokenized, which takes a tenth of a second
_LONG_STEP = 5e11  # FLOPs of a step that takes a few seconds on a CPU; if steps have more, each step is logged


@dataclass(frozen=True)
class RowTokens:
    """The tokens per row, counted in some rows or estimated from their characters."""

    mean: float
    most: int  # 95 % of the counted rows do not have more tokens; if estimated, the mean


@dataclass(frozen=True)
class Size:
    """The decided size of a fine-tuning."""

    point: StartingPoint
    context_length: int | None  # None: that of the model, or the user's; else it is longer than the model's
    sequence_length: int | None  # None: rows are as long as the context, or as the user sets; else they are shorter
    batch_size: int
    epochs: int
    lr: float
    trial_rates: list[float]  # learning rates to try besides `lr`
    log_every: int | None  # None: the default of training.log_every
    adapter: dict[str, Any] | None  # the settings of LoRA; None: all weights are trained
    held_out: Any  # the value of data.validation
    because: str  # the reasons for the decided values, as text for the user


def row_tokens(texts: Sequence[str], codec: Tokenizer | None) -> RowTokens | None:
    """Count the tokens of the texts; None if there is no tokenizer or text. Counts of long texts are extrapolated from their beginnings."""
    if codec is None or not any(texts):
        return None
    limit = max(1000, _SAMPLED_CHARACTERS // len(texts))
    beginnings = [text[:limit] for text in texts]
    counts = sorted(
        round(len(ids) * len(text) / max(1, len(beginning)))
        for ids, text, beginning in zip(codec.encode_texts(beginnings), texts, beginnings, strict=True)
    )
    return RowTokens(sum(counts) / len(counts), max(1, counts[math.ceil(0.95 * len(counts)) - 1]))


def decide_size(counts: RowCounts, model: ModelSummary, kind: str, given: dict[str, Any], tokens: RowTokens | None) -> Size:
    """Decide the size. `given`: the fields that the user sets. `tokens`: the tokens per row; None: estimated from the characters."""
    training, reads_text = given.get("training", {}), SECTIONS[kind].reads_text
    adapter, adapter_reason = _adapter(model, kind, training)
    low_rank = training.get("adapter", adapter) is not None
    point, rare = starting_point(kind, model.stacks, model.parameters, model.tuned, low_rank), rare_share(_labels(counts, kind))
    judges = counts.rows  # rows that can judge a model: all, or if classes are rare, those not of the most frequent class
    if 0 < rare < RARE:
        point = point.for_rare_classes()
        judges = math.ceil(judges * rare) if kind == "classification" else judges
    held_out = given["data"].get("validation", HELD_OUT if reads_text else held_out_for(judges))
    if tokens is None:
        mean = counts.characters / _CHARACTERS_A_TOKEN / max(1, counts.rows)
        tokens = RowTokens(mean, math.ceil(mean))
    rows = counts.rows * (1 - held_out if isinstance(held_out, float) else 1)
    rows = min(rows, given["data"].get("rows") or rows)
    row_length, unit, tokens_per_step = tokens.mean, "rows to train on", step_tokens(model.parameters)
    fixed = _given_length(model, given)
    length = fixed or _length(model, tokens, tokens_per_step, reads_text=reads_text, may_grow=adapter is None)
    if reads_text:
        rows, row_length, unit = rows * tokens.mean / length, length, f"rows of {length:,} tokens"
    rows = math.ceil(rows)
    batch = training.get("batch_size")
    if not isinstance(batch, int):
        micro_batch = training.get("micro_batch_size") or 1
        fitting = point.batch_for(rows, row_length, tokens_per_step, least=1 if reads_text else None)
        batch = math.ceil(fitting / micro_batch) * micro_batch
    epochs = point.epochs_for(rows, batch, len(_labels(counts, kind)) if kind == "classification" else 0)
    rate, long_steps = point.lr(model.parameters, batch), 6 * model.parameters * batch * row_length > _LONG_STEP
    shorter = length if length < model.context_length and length != fixed else None
    longer = length if length > model.context_length and length != fixed else None
    because = f"{'about' if counts.are_all else 'at least'} {rows:,} {unit}"
    if shorter is not None:
        because += f", as the texts, the memory and the time of a step allow; the model keeps its context of {model.context_length:,}"
    if longer is not None:
        because += f": {length:,} tokens hold 95 % of the rows, so the model's context of {model.context_length:,} becomes that long"
    because += f"; {batch} per step, {math.ceil(rows / batch):,} steps per epoch"
    because += "" if {*LENGTHS} & training.keys() else f", {format_epochs(epochs)}"
    if 0 < rare < RARE:
        because += f"; {rare:.2g} of the labels are not the most frequent one, so twice the epochs, half of the rows per step and "
        because += "a fifth of the rate"
    because += adapter_reason
    others = [] if SECTIONS[kind].scored_by == "rollout" else rates_beside(rate)  # a trial compares losses, which sampled responses lack
    if "lr" not in given.get("optimizer", {}):
        trial = f", unless a trial of {' and '.join(f'{other:g}' for other in others)} shows a better one" if others else ""
        trained = f"{'LoRA of ' if low_rank else ''}{model.parameters / 1e6:,.3g} million parameters"
        because += f"; rate {rate:g}, for {trained} ({point.basis(model.parameters)}){trial}"
    return Size(point, longer, shorter, batch, epochs, rate, others, 1 if long_steps else None, adapter, held_out, because)


def _labels(counts: RowCounts, kind: str) -> Mapping[str, int]:
    """Return how often each class or tag occurs; empty for objectives without classes and tags."""
    return counts.labels if kind == "classification" else counts.tags if kind == "tagging" else {}


def _given_length(model: ModelSummary, given: dict[str, Any]) -> int | None:
    """Return the length of a row that the user sets; None if the user sets none, or an invalid context length."""
    context = given.get("model", {}).get("context_length", model.context_length if "sequence_length" in given["data"] else None)
    length = given["data"].get("sequence_length") or context
    return length if isinstance(length, int) and length > 0 else None


def _length(model: ModelSummary, tokens: RowTokens, tokens_per_step: int, *, reads_text: bool, may_grow: bool) -> int:
    """Return the number of tokens of a row. For labelled rows, it is the model's context length, or more if rows are longer and the model's
    positions are relative.

    `may_grow`: whether the model's context length may grow, which an adapter does not allow, since it keeps the base model's.
    """
    if reads_text:
        return _text_length(model, model.context_length, tokens.most, tokens_per_step)
    if not (may_grow and model.reads_further) or tokens.most <= model.context_length:
        return model.context_length
    return max(model.context_length, _text_length(model, _LONGEST_TEXT, tokens.most, 4 * _LONGEST_TEXT))


def _text_length(model: ModelSummary, context_length: int, texts: int, step: int) -> int:
    """Return the number of tokens of a row of text: `texts`, a length that 95 % of the texts do not exceed, rounded up to a multiple of 64.

    The number is at most a quarter of the tokens of a `step` (or 128, if that is more), at most 1,024 and at most the context length. It
    is halved, down to 128, until the activations of a row fit into the free memory.
    """
    length = min(context_length, _LONGEST_TEXT, max(_SHORTEST_TEXT, min(step // 4, texts + 63) // 64 * 64))
    left = available_bytes()
    while left is not None and length > _SHORTEST_TEXT and length * model.token_bytes > left - trained_bytes(model.parameters):
        length = max(_SHORTEST_TEXT, length // 2)
    return length


def _adapter(model: ModelSummary, kind: str, training: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return an adapter's settings, and the reason, if training all weights of a decoder needs more than the free memory; else None, "".

    There is none if the user sets an adapter or frozen weights, nor for a chat that adds special tokens, whose embeddings must be trained.
    """
    left, needed = available_bytes(), trained_bytes(model.parameters)
    is_possible = kind == "causal_lm" or (kind == "chat" and model.has_chat_tokens)
    if left is None or needed <= left or not is_possible or {"adapter", "frozen", "unfreeze_every"} & training.keys():
        return None, ""
    return LORA, f"; a training of all weights needs {needed / 1e9:.3g} GB, and {left / 1e9:.3g} are free, so LoRA's"
