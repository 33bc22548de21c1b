"""The one module that a training step calls: it maps a micro-batch to the sums of the objective's losses.

All computation with weights happens within its forward pass, including the output matrix in the loss. A wrapper, such as a sharding that
gathers a module's weights for its forward pass, thus covers every use of them, and the step needs to know no head.
"""

from torch import Tensor, nn

from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Batch, Objective


class LossModule(nn.Module):
    """A model with its objective. The Transformer is the only submodule; names in checkpoints are those of the Transformer's parameters."""

    def __init__(self, model: Transformer, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of each term's losses over the micro-batch: scalars with a gradient."""
        return self.objective.loss(self.model, batch)
