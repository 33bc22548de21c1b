"""Log-probabilities of responses, in float32: of each labelled token, and summed over each sequence."""

import torch
from torch import Tensor

from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import label_log_probs
from tfkit.objectives.objective import IGNORED, Batch


def response_log_probs(model: Transformer, batch: Batch, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of each label other than IGNORED, ordered by row and position: labels (B, T) -> (targets,), in nats.

    `temperature`, at which the responses were sampled, divides the logits.
    """
    return label_log_probs(model, model(**batch.inputs()).hidden, batch.labels, temperature=temperature)


def sequence_sums(values: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over the labelled tokens of each sequence: values (targets,), labels (B, T) -> (B,)."""
    rows = (labels != IGNORED).nonzero()[:, 0]  # (targets,)
    return torch.zeros(len(labels), dtype=values.dtype, device=values.device).index_add(0, rows, values)
