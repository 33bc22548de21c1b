"""The forward that gives the log-probabilities of responses, without dropout and gradients: of a batch; of all before the first step."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.adapters import FrozenReference
from tfkit.alignment.sampling import Sampled
from tfkit.errors import Stopped
from tfkit.generation.inference import inference
from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Transformer
from tfkit.objectives.log_probs import token_entropies, token_log_probs
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.rollouts import Response, Rollouts, ValueBaseline, response_batch
from tfkit.parallel.deal import BatchWork


class TokenNumbers(NamedTuple):
    """Numbers of the tokens of a batch's responses, in its order, each (targets,), in nats."""

    log_probs: Tensor
    entropies: Tensor  # of the distribution that each was drawn from


def token_numbers(model: Transformer, batch: Batch, temperature: float) -> TokenNumbers:
    """Compute the numbers by a model in evaluation mode; the temperature is that of the sampling."""
    targets = batch.labels != IGNORED
    head, hidden = vocabulary_head(model.head), model(**batch.inputs()).hidden[targets]
    log_probs = token_log_probs(head, hidden, batch.labels[targets], temperature=temperature)
    return TokenNumbers(log_probs, token_entropies(head, hidden, temperature))


def numbers_before(
    found: Sequence[Sampled],
    batches: Sequence[NDArray[np.int64]],
    rollouts: Rollouts,
    policy: Transformer,
    reference: FrozenReference,
    device: torch.device,
    work: BatchWork,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Return the log-probabilities of each response's tokens by policy and reference, the policy's entropies, and the values.

    `batches`: the places of the responses in the micro-batches of the first pass over them. Each has a forward without dropout, as the
    loss will make it: so the first ratio is exactly 1. Raises Stopped.
    """
    empty: dict[str, NDArray[np.float32]] = {}
    responses = [Response(np.array(one.prompt), np.array(one.ids), empty) for one in found]
    own, other, entropies, values = ([torch.empty(0)] * len(found) for _ in range(4))
    temperature, pad_id = rollouts.section.temperature, rollouts.tokenizer.pad_id or 0

    def read(forward: Callable[[Batch], Iterable[Tensor]], *into: list[Tensor]) -> None:
        def numbers(here: NDArray[np.int64]) -> list[list[float]]:
            if work.is_stopped():
                raise Stopped("stopped between sampling and training")
            batch = response_batch([responses[place] for place in here], pad_id).to(device)
            return [one.tolist() for one in forward(batch)]

        for here, found_here in zip(batches, work.deal(numbers, batches), strict=True):
            sizes = [len(responses[place].ids) for place in here]
            for kept, of_batch in zip(into, found_here, strict=True):
                for place, part in zip(here, torch.tensor(of_batch).split(sizes), strict=True):
                    kept[place] = part

    # One model after the other: of those that ranks share a rank has the whole of one at a time.
    with inference(policy), policy.whole_at_work():
        read(lambda batch: token_numbers(policy, batch, temperature), own, entropies)
    with reference.at_work() as model:
        read(lambda batch: token_numbers(model, batch, temperature)[:1], other)
    if isinstance(rollouts.baseline, ValueBaseline) and (value := rollouts.baseline.model) is not None:
        with torch.no_grad(), value.companion.model.whole_at_work():
            read(lambda batch: [value.values(batch)], values)
    return own, other, entropies, values
