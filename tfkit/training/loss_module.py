"""The one module that a training step calls: it maps a micro-batch to the summed losses of the objective and of mixture-of-experts routers.

All computation with weights happens within its forward pass, including the output matrix in the loss. A wrapper, such as a sharding that
gathers a module's weights for its forward pass, thus covers every use of these weights, and the step needs none of the head's weights.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tfkit.model.experts import balance_loss, router_z_loss
from tfkit.model.transformer import Output, Transformer
from tfkit.objectives.objective import Batch, Objective


class LossModule(nn.Module):
    """A model with its objective. The Transformer is the only submodule; checkpoints have the names of its parameters, without a prefix.

    The loss of a mixture of experts has up to two more terms: one balances the experts within each row, and one keeps the routers' logits
    small (model/experts.py). Companions, the objective's other models, do not have these terms: the routers of a teacher, reference or
    reward model do not learn, and those of a value model were balanced in its pretraining, and learn for a few steps only.
    """

    def __init__(self, model: Transformer, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective
        routing = model.config.routing
        weights = {"balance": routing.balance, "router_z": routing.z_loss} if routing else {}
        self._of_routers = {term: weight for term, weight in weights.items() if weight}
        # For each forward pass of the model with gradients in this call of `forward`: the routers' logits, and the mask of real tokens.
        self._routed: list[tuple[list[Tensor], Tensor | None]] = []
        if self._of_routers:
            model.register_forward_hook(self._keep)

    @property
    def terms(self) -> Mapping[str, float]:
        """The weight of each term of the loss, by name."""
        return {**self.objective.terms, **self._of_routers}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of targets of each term; for a term of the routers, each token is a target."""
        return {**self.objective.counts(batch), **dict.fromkeys(self._of_routers, batch.tokens)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of each term's losses over the micro-batch, scalars with a gradient, and the objective's observations."""
        self._routed = []  # drops the entries of an earlier pass that ran out of memory
        losses = self.objective.loss(self.model, batch)
        routed, self._routed = self._routed, []
        return losses | {term: self._loss_of_routers(term, routed) for term in self._of_routers}

    def _keep(self, _model: nn.Module, _inputs: object, output: Output) -> None:
        if torch.is_grad_enabled():
            self._routed.append((output.routed, output.padding_mask))

    def _loss_of_routers(self, term: str, routed: Sequence[tuple[list[Tensor], Tensor | None]]) -> Tensor:
        experts = self.model.config.mlp.experts
        assert experts is not None
        is_balance = term == "balance"
        losses = [balance_loss(logits, experts.active, real) if is_balance else router_z_loss(logits, real) for logits, real in routed]
        return torch.stack(losses).sum() if losses else torch.zeros((), device=next(self.model.parameters()).device)
