"""Sample responses to prompts with `tfkit.generation`, and compute their rewards."""

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
from tfkit.generation.partial_text import complete_text_after, context_of, text_after
from tfkit.model.transformer import Transformer
from tfkit.objectives.rollouts import Response, Rollouts, response_batch, stored_text
from tfkit.parallel.rank_map import UNWATCHED, BatchWork, RankMap
from tfkit.recipe.schema.bounds import LARGEST_REWARD
from tfkit.recipe.schema.output_sections import GenerationSection


@dataclass(frozen=True)
class SampledResponse:
    """A sampled response to a prompt, and its reward."""

    prompt: list[int]  # the ids of the prompt
    ids: list[int]  # the ids of the response, including the end token, if it has one
    ended: bool  # whether the response has an end token
    reward: float
    is_full: bool  # whether every rule returned 1, and the recipe's no_eos_reward did not replace the reward
    gold: float | None = None  # the score of a further model, which is not part of `reward`; None without such a model, or if not finite

    @property
    def text_ids(self) -> list[int]:
        """The ids of the response without its end token, if it has one."""
        return self.ids[:-1] if self.ended else self.ids


def sample(
    model: Transformer,
    prompts: Sequence[Example],
    rollouts: Rollouts,
    rules: Rules,
    *,
    completions: int,
    seed: int,
    batch_size: int,
    work: BatchWork = UNWATCHED,
) -> list[SampledResponse]:
    """Sample `completions` responses to each prompt, in the order of the prompts, and compute their rewards.

    Response c to prompt j is drawn with the seed (seed, j * completions + c), so the batch size changes it by rounding errors only.
    Raises Stopped if `work` is stopped, UsageError if a rule fails, ModelError if the reward model's score is beyond 1e6 or not finite.
    """
    section = rollouts.section
    settings = GenerationSection(temperature=section.temperature, max_new_tokens=section.max_new_tokens, seed=seed)
    ids: list[list[int]] = [example["input_ids"].tolist() for example in prompts for _ in range(completions)]

    def respond(start: int) -> list[list[int]]:
        responses = generate(
            model,
            ids[start : start + batch_size],
            settings,
            on_token=lambda row, token: token in rollouts.end_ids,  # True ends the response; the end token stays in its ids
            should_stop=work.should_stop,
            first_row=start,
        )
        if any(response.finish == "interrupted" for response in responses):
            raise Stopped("stopped while responses were sampled")
        return [response.ids for response in responses]

    response_ids: list[list[int]] = []
    with model.unsharded():
        for responses in work.deal(respond, range(0, len(ids), batch_size)):
            response_ids += responses
            work.progress(len(responses))
    rows = [
        PromptRow(stored_text(example, "prompt"), json.loads(stored_text(example, "answers")), stored_text(example, "place"))
        for example in prompts
        for _ in range(completions)
    ]
    scores = _scores(rollouts, ids, response_ids, rows, batch_size, work.deal)
    rewarded = [_rewarded(*given, rollouts, rules) for given in zip(ids, response_ids, rows, scores, strict=True)]
    if rollouts.gold is None:
        return rewarded
    texts = [
        row.prompt + response_text(rollouts, response.prompt, response.text_ids, is_cut=True)
        for row, response in zip(rows, rewarded, strict=True)
    ]
    gold = rollouts.gold.scores(texts, batch_size)
    return [replace(response, gold=score if math.isfinite(score) else None) for response, score in zip(rewarded, gold, strict=True)]


def _scores(
    rollouts: Rollouts, prompts: list[list[int]], response_ids: list[list[int]], rows: list[PromptRow], batch_size: int, deal: RankMap
) -> list[float]:
    """Return the reward model's score of each prompt with its response, including the end token; 0 without a reward model.

    Raises ModelError for a score that is not finite, or whose absolute value is above LARGEST_REWARD, a million.
    """
    if (reward := rollouts.reward) is None:
        return [0.0] * len(response_ids)
    responses = [Response(np.array(prompt), np.array(ids), {}) for prompt, ids in zip(prompts, response_ids, strict=True)]

    def scores_of(start: int) -> list[float]:
        batch = response_batch(responses[start : start + batch_size], rollouts.tokenizer.pad_id or 0)
        values: list[float] = reward.scores(batch.to(reward.device)).tolist()
        return values

    with torch.no_grad(), reward.companion.model.unsharded():
        scores = [value for values in deal(scores_of, range(0, len(responses), batch_size)) for value in values]
    for row, score in zip(rows, scores, strict=True):
        if not abs(score) <= LARGEST_REWARD:
            path = reward.companion.path
            raise ModelError(f"{row.place}: the reward model {path} scores a response to this prompt {score}: take another reward model")
    return scores


def _rewarded(prompt: list[int], ids: list[int], row: PromptRow, score: float, rollouts: Rollouts, rules: Rules) -> SampledResponse:
    """Return the response with its reward: the rules' value plus `score`; but without an end token `no_eos_reward`, if that is set."""
    ended, penalty = ids[-1] in rollouts.end_ids, rollouts.section.no_eos_reward
    reward = rules(row, response_text(rollouts, prompt, ids[:-1] if ended else ids))
    value = reward.value + score if ended or penalty is None else penalty
    return SampledResponse(prompt, ids, ended, value, reward.is_full and (ended or penalty is None))


def response_text(rollouts: Rollouts, prompt: Sequence[int], ids: Sequence[int], *, is_cut: bool = False) -> str:
    """Return the text that a response adds to its prompt, as `tfkit generate` prints it; `is_cut`: drop an incomplete last character."""

    def decode(tokens: list[int]) -> str:
        return rollouts.tokenizer.decode(tokens, skip_special_tokens=True)

    return (complete_text_after if is_cut else text_after)(decode, context_of(decode, prompt), ids)
