"""The one module that a training step calls: a micro-batch goes in, the sums of the objective's losses come out.

All that is computed with weights happens within this forward, the vocabulary's matrix in the loss included. So whatever wraps it, such as a
sharding that gathers the weights of a module for its forward, reaches every use of them, and the step knows no head.
"""

from torch import Tensor, nn

from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Batch, Objective


class LossModule(nn.Module):
    """A model under an objective. The Transformer is its only submodule; checkpoints take their names from that, not from here."""

    def __init__(self, model: Transformer, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of each term's losses over the micro-batch, scalars with a gradient."""
        return self.objective.loss(self.model, batch)
