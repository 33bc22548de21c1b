"""The forward that gives the log-probabilities of responses: the one of a training step, without dropout and without gradients."""

from typing import NamedTuple

from torch import Tensor

from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Transformer
from tfkit.objectives.log_probs import token_entropies, token_log_probs
from tfkit.objectives.objective import IGNORED, Batch


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
