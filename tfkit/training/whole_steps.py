"""The steps of optimizers whose updates are no numbers of their own, on weights that ranks share: Muon's are of whole matrices, Adafactor
reads the means of rows and columns.

One parameter at a time, all ranks gather its weights, gradient and state, compute the same update, and keep their own part of it. So the
update has the bits of one process.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tfkit.parallel.sharding import Sharding


def is_part(state: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor of a parameter's state is in its shape, so that ranks which share the parameter share it, too."""
    return state.dim() == parameter.dim()


@torch.no_grad()
def step_on_whole(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], sharding: "Sharding") -> None:
    """Take a step of an optimizer that was made for this rank's parts of `parameters`. State in another shape than its parameter's, such
    as means over rows, is whole on every rank.
    """
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    gradients = {name: one.grad for name, one in parameters.items() if id(one) in own and one.grad is not None}
    for name in gradients:
        parameters[name].grad = None
    for name, gradient in gradients.items():
        parameter, state = parameters[name], optimizer.state[parameters[name]]
        part = parameter.data
        parameter.data, parameter.grad = sharding.gather(name, part), sharding.gather(name, gradient)
        for key, value in state.items():
            state[key] = sharding.gather(name, value) if is_part(value, parameter) else value
        optimizer.step()  # of this parameter: no other has a gradient
        for key, value in state.items():
            state[key] = sharding.shard_of(name, value) if is_part(value, parameter) else value
        part.copy_(sharding.shard_of(name, parameter.data))
        parameter.grad, parameter.data = None, part
