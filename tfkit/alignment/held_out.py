"""Evaluation of a policy on held-out prompts: one response to each, with the same seed every time, its reward, and its KL."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tfkit.adapters import FrozenReference
from tfkit.alignment.policy_forward import token_statistics
from tfkit.alignment.response_sampling import SampledResponse, response_text, sample
from tfkit.alignment.rewards import Rules
from tfkit.data import Example
from tfkit.errors import Stopped
from tfkit.generation.inference import inference
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Sum
from tfkit.objectives.rollouts import Response, Rollouts, response_batch
from tfkit.parallel.rank_map import UNWATCHED, BatchWork


@dataclass(frozen=True)
class JudgedResponse:
    """The response to a held-out prompt, and its contribution to the metrics."""

    text: str
    sums: Mapping[str, Sum]


def judge_prompts(
    model: Transformer,
    reference: FrozenReference | None,
    prompts: Sequence[Example],
    rollouts: Rollouts,
    rules: Rules,
    *,
    seed: int,
    batch_size: int,
    work: BatchWork = UNWATCHED,
) -> list[JudgedResponse] | None:
    """Sample a response to each prompt and evaluate it; without a reference there is no `kl`. Return None if the work was stopped."""
    try:
        responses = sample(model, prompts, rollouts, rules, completions=1, seed=seed, batch_size=batch_size, work=work)
        divergences: list[float | None] = [None] * len(responses)
        if reference is not None:
            divergences = [*_divergences(model, reference, responses, rollouts, batch_size, work)]
    except Stopped:
        return None
    return [_judged(response, kl, rollouts) for response, kl in zip(responses, divergences, strict=True)]


def _judged(response: SampledResponse, kl: float | None, rollouts: Rollouts) -> JudgedResponse:
    values = {"reward": response.reward, "response_length": len(response.ids), "ended": response.ended}
    values |= {"accuracy": response.is_full} if rollouts.section.rules else {}
    values |= {"gold": response.gold} if response.gold is not None else {}
    values |= {"kl": kl} if kl is not None else {}
    text = response_text(rollouts, response.prompt, response.text_ids)
    return JudgedResponse(text, {name: Sum(float(value), 1) for name, value in values.items()})


def _divergences(
    model: Transformer,
    reference: FrozenReference,
    sampled: Sequence[SampledResponse],
    rollouts: Rollouts,
    batch_size: int,
    work: BatchWork,
) -> list[float]:
    """Return the sum over each response's tokens of log policy - log reference, k1 of the KL divergence. Raises Stopped."""
    device, temperature = next(model.parameters()).device, rollouts.section.temperature

    def log_probs(by: Transformer) -> Iterator[Tensor]:
        def of_batch(start: int) -> list[float]:
            if work.is_stopped():
                raise Stopped("stopped during the evaluation")
            part = sampled[start : start + batch_size]
            responses = [Response(np.array(response.prompt), np.array(response.ids), {}) for response in part]
            batch = response_batch(responses, rollouts.tokenizer.pad_id or 0).to(device)
            return token_statistics(by, batch, temperature).log_probs.tolist()

        starts = range(0, len(sampled), batch_size)
        for start, values in zip(starts, work.deal(of_batch, starts), strict=True):
            sizes = [len(response.ids) for response in sampled[start : start + batch_size]]
            yield from torch.tensor(values, dtype=torch.float64).split(sizes)

    with inference(model), model.unsharded():
        policy_log_probs = [*log_probs(model)]
    with reference.in_use() as reference_model:
        return [float((own - other).sum()) for own, other in zip(policy_log_probs, log_probs(reference_model), strict=True)]
