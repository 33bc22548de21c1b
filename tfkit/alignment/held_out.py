"""Evaluation of a policy on held-out prompts: sample a response to each, and compute the metrics, such as reward and KL."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tfkit.adapters import FrozenReference
from tfkit.alignment.policy_forward import by_response, token_statistics
from tfkit.alignment.response_sampling import SampledResponse, response_text, sample
from tfkit.alignment.rewards import Rules
from tfkit.data import ExampleSet
from tfkit.generation.inference import inference
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Objective, Sum
from tfkit.objectives.rollouts import Rollouts
from tfkit.parallel.rank_map import UNWATCHED, BatchWork


@dataclass(frozen=True)
class JudgedResponse:
    """The response to a held-out prompt, and its contribution to the metrics."""

    text: str
    sums: Mapping[str, Sum]


def judge_prompts(
    model: Transformer,
    reference: FrozenReference | None,
    sets: Sequence[ExampleSet],
    counts: Sequence[int],
    rollouts: Rollouts,
    rules: Rules,
    *,
    seed: int,
    batch_size: int,
    work: BatchWork = UNWATCHED,
) -> list[list[JudgedResponse]]:
    """Sample a response to each of the first prompts of each set, and compute its metrics, without `kl` if there is no reference.

    `counts`: how many prompts of each set are used; sets beyond the last count are left out. Raises Stopped if `work` is stopped.
    """

    def judge(examples: ExampleSet, count: int) -> list[JudgedResponse]:
        prompts = [examples[number] for number in range(count)]
        responses = sample(model, prompts, rollouts, rules, completions=1, seed=seed, batch_size=batch_size, work=work)
        divergences: list[float | None] = [None] * len(responses)
        if reference is not None and responses:
            divergences = [*_divergences(model, reference, responses, rollouts, batch_size, work)]
        return [_judged(response, kl, rollouts) for response, kl in zip(responses, divergences, strict=True)]

    return [judge(examples, count) for examples, count in zip(sets, counts, strict=False)]


def response_metrics(objective: Objective, responses: Iterable[JudgedResponse]) -> dict[str, float]:
    """Return the objective's metrics over judged responses, from the sums of all responses."""
    sums: dict[str, Sum] = {}
    for response in responses:
        sums |= {name: sums[name] + added if name in sums else added for name, added in response.sums.items()}
    return objective.metrics(sums)


def _judged(response: SampledResponse, kl: float | None, rollouts: Rollouts) -> JudgedResponse:
    values = {"reward": response.reward, "response_length": len(response.ids), "ended": response.ended}
    values |= {"accuracy": response.is_full} if rollouts.section.rules else {}
    values |= {"gold": response.gold} if response.gold is not None else {}
    values |= {"kl": kl} if kl is not None else {}
    text = response_text(rollouts, response.prompt, response.text_ids)
    return JudgedResponse(text, {name: Sum(float(value), 1) for name, value in values.items()})


def _divergences(
    model: Transformer, reference: FrozenReference, sampled: Sequence[SampledResponse], rollouts: Rollouts, batch_size: int, work: BatchWork
) -> list[float]:
    """Return, for each response, the sum over its tokens of log policy - log reference: the estimate k1 of the KL divergence, in nats."""
    device, temperature = next(model.parameters()).device, rollouts.section.temperature
    batches = np.split(np.arange(len(sampled)), range(batch_size, len(sampled), batch_size))
    read = partial(by_response, sampled, batches, rollouts, device, work, "during the evaluation")
    with inference(model), model.unsharded():
        [own] = read(lambda batch: token_statistics(model, batch, temperature)[:1])
    with reference.in_use() as reference_model:
        [other] = read(lambda batch: token_statistics(reference_model, batch, temperature)[:1])
    return [float((policy.double() - initial.double()).sum()) for policy, initial in zip(own, other, strict=True)]
