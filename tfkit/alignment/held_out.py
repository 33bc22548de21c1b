"""A policy on held-out prompts: one response to each, always of the same draws, its reward, and its distance from the reference."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tfkit.adapters import FrozenReference
from tfkit.alignment.policy_forward import token_numbers
from tfkit.alignment.rewards import Rules
from tfkit.alignment.sampling import Sampled, response_text, sample
from tfkit.data import Example
from tfkit.errors import Stopped
from tfkit.generation.inference import inference
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Sum
from tfkit.objectives.rollouts import Response, Rollouts, response_batch
from tfkit.parallel.deal import UNWATCHED, BatchWork


@dataclass(frozen=True)
class Judged:
    """A held-out prompt's response, and what it adds to the metrics."""

    text: str
    sums: Mapping[str, Sum]


def judge_prompts(
    model: Transformer,
    reference: FrozenReference | None,
    prompts: Sequence[Example],
    rollouts: Rollouts,
    *,
    seed: int,
    batch_size: int,
    work: BatchWork = UNWATCHED,
) -> list[Judged] | None:
    """Sample a response to each prompt and judge it; without a reference there is no `kl`. None if it was to stop."""
    rules = Rules(rollouts.section.rules)
    try:
        found = sample(model, prompts, rollouts, rules, completions=1, seed=seed, at_once=batch_size, work=work)
        distances: list[float | None] = [None] * len(found)
        if reference is not None:
            distances = [*_distances(model, reference, found, rollouts, batch_size, work)]
    except Stopped:
        return None
    return [_judged(one, distance, rollouts) for one, distance in zip(found, distances, strict=True)]


def _judged(one: Sampled, distance: float | None, rollouts: Rollouts) -> Judged:
    values = {"reward": one.reward, "response_length": len(one.ids), "ended": one.ended}
    values |= {"accuracy": one.is_full} if rollouts.section.rules else {}
    values |= {"gold": one.gold} if one.gold is not None else {}
    values |= {"kl": distance} if distance is not None else {}
    text = response_text(rollouts, one.prompt, one.text_ids)
    return Judged(text, {name: Sum(float(value), 1) for name, value in values.items()})


def _distances(
    model: Transformer,
    reference: FrozenReference,
    found: Sequence[Sampled],
    rollouts: Rollouts,
    batch_size: int,
    work: BatchWork,
) -> list[float]:
    """Return the sum over the tokens of each response of log policy - log reference. Raises Stopped."""
    device, temperature = next(model.parameters()).device, rollouts.section.temperature

    def log_probs(by: Transformer) -> Iterator[Tensor]:
        def of_batch(start: int) -> list[float]:
            if work.is_stopped():
                raise Stopped("stopped during the evaluation")
            responses = [Response(np.array(one.prompt), np.array(one.ids), {}) for one in found[start : start + batch_size]]
            batch = response_batch(responses, rollouts.tokenizer.pad_id or 0).to(device)
            return token_numbers(by, batch, temperature).log_probs.tolist()

        starts = range(0, len(found), batch_size)
        for start, values in zip(starts, work.deal(of_batch, starts), strict=True):
            sizes = [len(one.ids) for one in found[start : start + batch_size]]
            yield from torch.tensor(values, dtype=torch.float64).split(sizes)

    with inference(model), model.whole_at_work():
        own = [*log_probs(model)]
    with reference.at_work() as other:
        return [float((one - theirs).sum()) for one, theirs in zip(own, log_probs(other), strict=True)]
