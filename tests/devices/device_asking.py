"""Queries to a model on any device: generation, scores of texts and questions, evaluation of rows, filled masks."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_cases import CASES, LENGTH, Task, codec, family_model
from tiny_examples import texts
from tiny_writers import PROMPTS, START, tiny_model

from tfkit.data import TokenStream
from tfkit.evaluation.likelihood import Ids, Question, score_questions
from tfkit.evaluation.row_scores import judge_rows
from tfkit.evaluation.text_scores import score_texts
from tfkit.generation.decoding import generate
from tfkit.generation.fill import fill
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.output_sections import GenerationSection

WRITTEN: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "greedy without repetition": {"temperature": 0, "repetition_penalty": 1.3, "no_repeat_ngram": 2},
    "drawn": {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.01},
    "beams": {"num_beams": 3, "temperature": 0},
}
LABELLED = ("bert-classes", "bert-regression", "bert-tagging", "gpt-multiple_choice", "t5-text_to_text", "llama-chat")


def write(model: Transformer, how: str, *, alone: bool = False) -> list[list[int]]:
    """Continue prompts of unequal lengths, which need padding in one batch; the texts outgrow windows."""
    settings = GenerationSection(max_new_tokens=9, **WRITTEN[how])
    batches = [[prompt] for prompt in PROMPTS] if alone else [PROMPTS]
    return [
        one.ids
        for first, batch in enumerate(batches)
        for one in generate(model, batch, settings, eos_ids=(1,), start_id=START, first_row=first)
    ]


def writer(family: str) -> Transformer:
    return tiny_model(family)


def text_losses(model: Transformer) -> np.ndarray[Any, Any]:
    """Return the loss of each of a few texts, some of them longer than the context."""
    random = np.random.default_rng(2)
    lengths = np.array([3, 70, 18, 41])
    starts = np.concatenate([[0], lengths.cumsum()])
    tokens = random.integers(2, model.config.vocab_size, lengths.sum()).astype(np.uint16)
    stream = TokenStream("made", tokens, starts, lengths, 0, model.config.vocab_size - 1, "made", True)
    score = score_texts(model, stream, model.config.context_length, 3)
    return score.losses


def answers(model: Transformer) -> list[float]:
    """Return the log-probabilities of a few continuations."""
    questions = [Ids(ids, max(1, len(ids) - 3), [9, 8, 7]) for ids in PROMPTS if len(ids) > 1]
    return [one.log_prob for one in score_questions(model, [Question("a", "b")] * len(questions), questions, 3)]


def judged(model: Transformer, task: Task) -> list[float]:
    """Return every number of the evaluation of labelled rows, one after the other."""
    found = judge_rows(model, task.objective, task.rows, 5)
    return [total for one in found for total, _ in one.sums.values()]


def filled(folder: Path, device: torch.device | None = None) -> list[str]:
    """Return BERT's texts with filled masks."""
    family, make = CASES["bert-masked_lm"]
    model = family_model(family, make(folder), std=0.4)
    masked = [f"{text} [MASK] cat" for text in texts(4, longest=LENGTH // 3)]
    return [one.text for one in fill(model if device is None else model.to(device), codec(), masked)]
