"""Responses to prompts, sampled with the existing decoding at the temperature of the training, and their rewards."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tfkit.alignment.rewards import PromptRow, Rules
from tfkit.data import Example
from tfkit.errors import ModelError, Stopped
from tfkit.generation.decoding import generate
from tfkit.generation.partial_text import context_of, text_behind
from tfkit.model.transformer import Transformer
from tfkit.objectives.rollouts import Response, Rollouts, beside_prompt, response_batch
from tfkit.parallel.deal import UNWATCHED, BatchWork, Deal
from tfkit.recipe.schema.sections import GenerationSection


@dataclass(frozen=True)
class Sampled:
    """A response to a prompt, and what its text is worth."""

    prompt: list[int]  # ids
    ids: list[int]  # the end token included
    ended: bool  # by such a token
    reward: float
    is_full: bool  # every rule gave its full number
    gold: float | None = None  # the score of the gold model for prompt and response; None without one

    @property
    def text_ids(self) -> list[int]:
        """The ids before the token that ends it."""
        return self.ids[:-1] if self.ended else self.ids


def sample(
    model: Transformer,
    prompts: Sequence[Example],
    rollouts: Rollouts,
    rules: Rules,
    *,
    completions: int,
    seed: int,
    at_once: int,
    work: BatchWork = UNWATCHED,
) -> list[Sampled]:
    """Sample `completions` responses to each prompt, one after the other, and reward them.

    Response c to prompt j is drawn by the seed (seed, j * completions + c), so it does not depend on `at_once`, the rows of a batch, but
    for ties in rounding. Raises Stopped where the work is, and UsageError where a rule of the user's own fails.
    """
    section = rollouts.section
    settings = GenerationSection(temperature=section.temperature, max_new_tokens=section.max_new_tokens, seed=seed)
    ids: list[list[int]] = [example["input_ids"].tolist() for example in prompts for _ in range(completions)]

    def respond(start: int) -> list[list[int]]:
        part = generate(
            model,
            ids[start : start + at_once],
            settings,
            on_token=lambda row, token: token in rollouts.end_ids,  # so that the token that ends a response is part of it
            should_stop=work.should_stop,
            first_row=start,
        )
        if any(one.finish == "interrupted" for one in part):
            raise Stopped("stopped while responses were sampled")
        return [one.ids for one in part]

    found: list[list[int]] = []
    with model.whole_at_work():
        for responses in work.deal(respond, range(0, len(ids), at_once)):
            found += responses
            work.progress(len(responses))
    rows = [row_of(example) for example in prompts for _ in range(completions)]
    scores = _scores(rollouts, ids, found, rows, at_once, work.deal)
    judged = [_judged(*one, rollouts, rules) for one in zip(ids, found, rows, scores, strict=True)]
    if rollouts.gold is None:
        return judged
    texts = [row.prompt + response_text(rollouts, one.prompt, one.text_ids) for row, one in zip(rows, judged, strict=True)]
    gold = rollouts.gold.scores(texts, at_once)
    return [replace(one, gold=score if math.isfinite(score) else None) for one, score in zip(judged, gold, strict=True)]


def row_of(example: Example) -> PromptRow:
    """Return the prompt's row, as rules read it."""
    return PromptRow(beside_prompt(example, "prompt"), json.loads(beside_prompt(example, "answers")), beside_prompt(example, "place"))


def _scores(
    rollouts: Rollouts, prompts: list[list[int]], found: list[list[int]], rows: list[PromptRow], at_once: int, deal: Deal
) -> list[float]:
    """The scores of a reward model, of each prompt with its response as far as its end, with that token; 0 without such a model.

    Raises ModelError for a score that is not finite.
    """
    if (reward := rollouts.reward) is None:
        return [0.0] * len(found)
    responses = [Response(np.array(prompt), np.array(ids), {}) for prompt, ids in zip(prompts, found, strict=True)]

    def scores_of(start: int) -> list[float]:
        batch = response_batch(responses[start : start + at_once], rollouts.tokenizer.pad_id or 0)
        values: list[float] = reward.scores(batch.to(reward.device)).tolist()
        return values

    with torch.no_grad(), reward.companion.model.whole_at_work():
        scores = [value for values in deal(scores_of, range(0, len(responses), at_once)) for value in values]
    for row, score in zip(rows, scores, strict=True):
        if not math.isfinite(score):
            path = reward.companion.path
            raise ModelError(f"{row.place}: the reward model {path} gives a response to it {score}: take another reward model")
    return scores


def _judged(prompt: list[int], ids: list[int], row: PromptRow, score: float, rollouts: Rollouts, rules: Rules) -> Sampled:
    """Reward the text before the end token; of a response without one it is replaced by no_eos_reward, where there is one."""
    ended, penalty = ids[-1] in rollouts.end_ids, rollouts.section.no_eos_reward
    reward = rules(row, response_text(rollouts, prompt, ids[:-1] if ended else ids))
    value = reward.value + score if ended or penalty is None else penalty
    return Sampled(prompt, ids, ended, value, reward.is_full and (ended or penalty is None))


def response_text(rollouts: Rollouts, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """Return the text of a response behind its prompt, as `tfkit generate` gives it."""

    def decode(tokens: list[int]) -> str:
        return rollouts.tokenizer.decode(tokens, skip_special_tokens=True)

    return text_behind(decode, context_of(decode, prompt), ids)
