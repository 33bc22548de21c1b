"""Log-probabilities, entropies and values of sampled responses before the steps that train on them, without dropout and gradients."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.adapters import FrozenReference
from tfkit.alignment.response_sampling import SampledResponse
from tfkit.errors import Stopped
from tfkit.generation.inference import inference
from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Transformer
from tfkit.objectives.log_probs import token_entropies, token_log_probs
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.rollouts import Response, Rollouts, ValueBaseline, response_batch
from tfkit.parallel.rank_map import BatchWork


def token_statistics(model: Transformer, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each response token and the entropy of its distribution, (targets,) each, in nats."""
    targets = batch.labels != IGNORED
    head, hidden = vocabulary_head(model.head), model(**batch.inputs()).hidden[targets]
    log_probs = token_log_probs(head, hidden, batch.labels[targets], temperature=temperature)
    return log_probs, token_entropies(head, hidden, temperature)


def initial_statistics(
    sampled: Sequence[SampledResponse],
    batches: Sequence[NDArray[np.int64]],
    rollouts: Rollouts,
    policy: Transformer,
    reference: FrozenReference,
    device: torch.device,
    work: BatchWork,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Return, per token, log-probabilities by policy and reference, entropies and values: four lists, each with a tensor per response.

    `batches`: the indices of the responses in the micro-batches of the first training pass. The forward passes here use the same batches,
    so that in float32 the probability ratios in the first step's loss are exactly 1; in bf16 they are not, as kernels without
    gradients round differently. Without a value model, the tensors of values are empty. Raises Stopped if `work` is stopped.
    """
    temperature, values = rollouts.section.temperature, [torch.empty(0)] * len(sampled)
    read = partial(by_response, sampled, batches, rollouts, device, work, "between sampling and training")
    # The models compute one after the other, so that a rank gathers the shards of only one model at a time.
    with inference(policy), policy.unsharded():
        policy_log_probs, entropies = read(lambda batch: token_statistics(policy, batch, temperature))
    with reference.in_use() as model:
        [reference_log_probs] = read(lambda batch: token_statistics(model, batch, temperature)[:1])
    if isinstance(rollouts.baseline, ValueBaseline) and (value := rollouts.baseline.model) is not None:
        with torch.no_grad(), value.companion.model.unsharded():
            [values] = read(lambda batch: [value.values(batch)])
    return policy_log_probs, reference_log_probs, entropies, values


def by_response(
    sampled: Sequence[SampledResponse],
    batches: Sequence[NDArray[np.int64]],
    rollouts: Rollouts,
    device: torch.device,
    work: BatchWork,
    when: str,
    forward: Callable[[Batch], Iterable[Tensor]],
) -> list[list[Tensor]]:
    """Return, for each output of `forward`, a tensor per response: the output's number for each token, in float32 on the CPU.

    `batches`: the indices of the responses in each batch. Raises Stopped, with `when` in its message, if `work` is stopped.
    """
    responses = [Response(np.array(response.prompt), np.array(response.ids), {}) for response in sampled]

    def compute(indices: NDArray[np.int64]) -> list[list[float]]:
        if work.is_stopped():
            raise Stopped(f"stopped {when}")
        batch = response_batch([responses[index] for index in indices], rollouts.tokenizer.pad_id or 0).to(device)
        return [output.tolist() for output in forward(batch)]

    results: list[list[Tensor]] = []
    for indices, outputs in zip(batches, work.deal(compute, batches), strict=True):
        results = results or [[torch.empty(0)] * len(sampled) for _ in outputs]
        sizes = [len(responses[index].ids) for index in indices]
        for result, output in zip(results, outputs, strict=True):
            for index, part in zip(indices, torch.tensor(output).split(sizes), strict=True):
                result[index] = part
    return results
