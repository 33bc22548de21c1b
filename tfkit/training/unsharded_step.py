"""Steps on sharded weights, for optimizers that need whole parameters: Muon, which orthogonalizes matrices, and Adafactor, which averages
squared gradients over rows and columns.

For one parameter after another, all ranks gather the weights, the gradient and the optimizer state, compute the same update, and keep their
own shards. The update thus has the same bits as in a single process.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tfkit.parallel.sharding import Sharding
    from tfkit.training.optimizer import Algorithm


def is_shard_of(state: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor of a parameter's optimizer state is sharded like the parameter: true if both have as many dimensions."""
    return state.dim() == parameter.dim()


@torch.no_grad()
def step_unsharded(optimizer: "Algorithm", parameters: Mapping[str, nn.Parameter], sharding: "Sharding") -> None:
    """Take a step of an optimizer whose `parameters` are this rank's shards. State with fewer dimensions than its parameter, such as
    means over rows, is not sharded.
    """
    updated = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    gradients = {name: shard.grad for name, shard in parameters.items() if id(shard) in updated and shard.grad is not None}
    for name in gradients:
        parameters[name].grad = None
    for name, gradient in gradients.items():
        parameter, state = parameters[name], optimizer.state[parameters[name]]
        shard = parameter.data
        parameter.data, parameter.grad = sharding.gather(name, shard), sharding.gather(name, gradient)
        for key, value in state.items():
            state[key] = sharding.gather(name, value) if is_shard_of(value, parameter) else value
        optimizer.step()  # updates this parameter alone, since no other has a gradient
        for key, value in state.items():
            state[key] = sharding.shard_of(name, value) if is_shard_of(value, parameter) else value
        shard.copy_(sharding.shard_of(name, parameter.data))
        parameter.grad, parameter.data = None, shard
