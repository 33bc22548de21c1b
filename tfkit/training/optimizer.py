"""Adam (arXiv 1412.6980), AdamW (arXiv 1711.05101), Adafactor, and Muon for the matrices inside the blocks (Jordan et al. 2024; scaled as
in arXiv 2502.16982).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tfkit.recipe.schema.optimizer_sections import AdafactorSection, AdamSection, AdamWSection, MuonSection, OptimizerSection
from tfkit.training.adafactor import Adafactor
from tfkit.training.depth import parameter_depths
from tfkit.training.device import has_bf16

if TYPE_CHECKING:
    from tfkit.parallel.sharding import Sharding

_PORTION, _GPU_PORTION = 2**20, 2**24  # number of weights that one call of the kernel updates: on a CPU, as many as its caches hold
_ROWS = 64  # a large matrix is cut after multiples of this many rows, so that no SIMD vector is cut, and the bits are as if it were whole


class AdamW:
    """The update of torch.optim.AdamW by its fused kernel, which takes 66 ms for 124M parameters on two cores (unfused: 311). The class in
    torch.optim is avoided: it would import PyTorch's compiler, which takes a second. bf16 gradients are converted to fp32 in portions.
    """

    def __init__(self, groups: list[dict[str, Any]], section: AdamWSection | AdamSection | MuonSection):
        """`groups`: parameter groups with params, lr and weight_decay. Adam is AdamW without weight decay."""
        self.param_groups, self._section = groups, section
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        # Without bias correction, steps count from infinity, so that the kernel divides by 1 - beta ^ infinity = 1.
        self._first_step = 0.0 if isinstance(section, MuonSection) or section.bias_correction else math.inf

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """Update every parameter that has a gradient, by its gradient times `factor`."""
        (beta1, beta2), eps = self._section.betas, self._section.eps
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in trained:
                if not (state := self.state[parameter]):
                    state["step"] = torch.full((), self._first_step, device=parameter.device)
                    state |= {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            if trained:
                torch._foreach_add_([self.state[one]["step"] for one in trained], 1)
            rates = {"lr": group["lr"], "weight_decay": group["weight_decay"], "beta1": beta1, "beta2": beta2, "eps": eps}
            names = ("exp_avg", "exp_avg_sq", "step")
            for portion in _portions([(one, one.grad, *(self.state[one][name] for name in names)) for one in trained]):
                weights, grads, means, squares, steps = map(list, zip(*portion, strict=True))
                grads = [gradient.float() for gradient in grads]
                if factor != 1:
                    torch._foreach_mul_(grads, factor)
                torch._fused_adamw_(weights, grads, means, squares, [], steps, **rates, amsgrad=False, maximize=False)


def _portions(whole: Sequence[tuple[Tensor, ...]]) -> Iterator[list[tuple[Tensor, ...]]]:
    """Cut large parameters into parts, and yield lists of parts that one call of the kernel updates.

    `whole`: for each parameter, the parameter, its gradient and its moments, all of one shape, and then its step counter.
    """
    portion: list[tuple[Tensor, ...]] = []
    held = 0
    for *tensors, step in whole:
        weight, parts = tensors[0], [tuple(tensors)]
        most = _PORTION if weight.device.type == "cpu" else _GPU_PORTION
        if weight.numel() > most and weight.is_contiguous():
            rows = _ROWS * max(1, most * len(weight) // (_ROWS * weight.numel()))
            parts = [*zip(*(tensor.split(rows) for tensor in tensors), strict=True)]
        for part in parts:
            portion.append((*part, step))
            held += part[0].numel()
            if held >= most:
                yield portion
                portion, held = [], 0
    if portion:
        yield portion


class Muon(torch.optim.Muon):
    """torch.optim.Muon without the check of parameter groups, which would import PyTorch's compiler."""

    def __init__(self, parameters: Iterable[nn.Parameter], section: MuonSection):
        super().__init__(
            parameters,
            lr=section.lr,
            momentum=section.momentum,
            nesterov=True,
            weight_decay=section.weight_decay,
            adjust_lr_fn="match_rms_adamw",  # scales updates to AdamW's root mean square, about 0.2, so that AdamW's learning rate fits
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with the default settings, unchecked."""
        self.param_groups.append(self.defaults | param_group)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # without the closure that nobody passes
        """Update the parameters. PyTorch orthogonalizes the updates in bf16. A CPU without bf16 instructions would emulate them
        slowly, so there the same is computed in float32.
        """
        device = self.param_groups[0]["params"][0].device
        if device.type != "cpu" or has_bf16(device):
            super().step()  # type: ignore[no-untyped-call]
            return
        for group in self.param_groups:
            weights: list[Tensor] = []
            gradients: list[Tensor] = []
            buffers: list[Tensor] = []
            self._init_group(group, weights, gradients, buffers)
            for weight, gradient, buffer in zip(weights, gradients, buffers, strict=True):
                buffer.lerp_(gradient, 1 - group["momentum"])
                update = _orthogonalized(gradient.lerp(buffer, group["momentum"]), group)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * math.sqrt(max(weight.shape)) * group["lr"])  # match_rms_adamw


def _orthogonalized(matrix: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Return the matrix with its singular values moved towards 1, by Newton-Schulz iterations with the settings in `group`."""
    a, b, c = group["ns_coefficients"]
    is_tall = matrix.shape[0] > matrix.shape[1]
    result = matrix.T if is_tall else matrix
    result = result / result.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result.T if is_tall else result


Algorithm = AdamW | Adafactor | Muon


class Optimizer:
    """One algorithm, or Muon and AdamW together. Their state is saved under the names of the parameters.

    A parameter without a gradient, such as a head that the objective does not use, is not changed, not even by weight decay.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], section: OptimizerSection, names: Iterable[str] | None = None):
        """`names`: the names of all parameters of the model, from which layer_decay counts the blocks; None: those of `parameters`."""
        self.section, self._names = section, list(parameters if names is None else names)
        self.sharding: Sharding | None = None
        self._set_parameters(parameters)

    def _set_parameters(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.optimizers = _build(self.parameters, self.section, self._names)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]

    def shard(self, parameters: Mapping[str, nn.Parameter], sharding: "Sharding") -> None:
        """Replace the parameters by this rank's shards of them, before the first step."""
        self.sharding = sharding
        self._set_parameters(parameters)

    def step(self, lr_factor: float, gradient_factor: float = 1.0) -> None:
        """Update by `gradient_factor` times the gradients, at `lr_factor` times the peak learning rates, and drop the gradients."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * lr_factor
            if isinstance(optimizer, AdamW):
                optimizer.step(gradient_factor)  # on shards, too, since AdamW updates each weight on its own
            else:
                for parameter in _parameters(optimizer):
                    if parameter.grad is not None:
                        parameter.grad = parameter.grad.float().mul_(gradient_factor)
                if self.sharding is None:
                    optimizer.step()
                else:
                    _step_unsharded(optimizer, self.parameters, self.sharding)
            for parameter in _parameters(optimizer):
                parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of the state, not copies, by `<parameter>/<name>`, such as `.../exp_avg`."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        return {
            f"{names[id(parameter)]}/{state_name}": value
            for optimizer in self.optimizers
            for parameter, values in optimizer.state.items()
            for state_name, value in values.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a saved state onto the devices of the parameters; for sharded parameters, only this rank's shards."""
        owners = {parameter: optimizer for optimizer in self.optimizers for parameter in _parameters(optimizer)}
        for key, value in tensors.items():
            name, _, state_name = key.rpartition("/")
            parameter = self.parameters[name]
            if self.sharding is not None and is_shard_of(value, parameter):
                value = self.sharding.shard_of(name, value)
            # AdamW's step counter is moved, too: the fused kernel needs it on the parameter's device
            owners[parameter].state[parameter][state_name] = value.to(parameter.device)


def is_shard_of(state: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor of a parameter's optimizer state is sharded like the parameter: true if their numbers of dimensions are equal."""
    return state.dim() == parameter.dim()


@torch.no_grad()
def _step_unsharded(optimizer: Adafactor | Muon, parameters: Mapping[str, nn.Parameter], sharding: "Sharding") -> None:
    """Take a step of an optimizer whose `parameters` are this rank's shards, but which needs whole parameters: Muon orthogonalizes
    matrices, and Adafactor averages squared gradients over rows and columns. State with fewer dimensions than its parameter, such as these
    averages, is not sharded.

    For one parameter after another, all ranks gather the weights, the gradient and the optimizer state, compute the same update, and keep
    their own shards. The update thus has the same bits as in a single process.
    """
    updated = {id(parameter) for parameter in _parameters(optimizer)}
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


def with_peak_lr(section: OptimizerSection, lr: float) -> OptimizerSection:
    """Return the section with another peak learning rate; adamw_lr of Muon changes by the same factor."""
    update = {"lr": lr}
    if isinstance(section, MuonSection) and section.adamw_lr is not None:
        update["adamw_lr"] = section.adamw_lr * lr / section.lr
    return section.model_copy(update=update)


def state_numel(shapes: Mapping[str, torch.Size], section: OptimizerSection) -> int:
    """Return the number of elements in the optimizer state of parameters with these names and shapes."""
    total = 0
    for name, shape in shapes.items():
        if isinstance(section, MuonSection) and _uses_muon(name, shape):
            total += shape.numel()
        elif isinstance(section, AdafactorSection):
            total += 1 + (shape.numel() if len(shape) < 2 else shape[:-1].numel() + (shape[:-2] + shape[-1:]).numel())
        else:
            total += 2 * shape.numel() + 1  # two moments, and the step counter
    return total


def reads_narrow_gradients(name: str, shape: torch.Size, section: OptimizerSection) -> bool:
    """Whether a bf16 gradient of this parameter is converted to fp32 in portions, as by AdamW; other algorithms convert it as a whole."""
    return not isinstance(section, AdafactorSection) and not (isinstance(section, MuonSection) and _uses_muon(name, shape))


def _uses_muon(name: str, shape: torch.Size) -> bool:
    """Whether Muon updates this parameter: it updates the matrices inside the blocks."""
    return len(shape) > 1 and ".blocks." in name


def _parameters(optimizer: Algorithm) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _build(parameters: Mapping[str, nn.Parameter], section: OptimizerSection, names: Sequence[str]) -> list[Algorithm]:
    if isinstance(section, AdafactorSection):
        return [Adafactor(_groups(parameters, section, section.lr, names), section)]
    if not isinstance(section, MuonSection):
        return [AdamW(_groups(parameters, section, section.lr, names), section)]
    inside = {name: parameter for name, parameter in parameters.items() if _uses_muon(name, parameter.shape)}
    rest = {name: parameter for name, parameter in parameters.items() if name not in inside}
    # If all parameters of one of the two algorithms are frozen, only the other is used.
    return [
        *([Muon(inside.values(), section)] if inside else []),
        *([AdamW(_groups(rest, section, section.adamw_lr or section.lr, names), section)] if rest else []),
    ]


def _groups(parameters: Mapping[str, nn.Parameter], section: OptimizerSection, lr: float, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a group of the matrices, which have weight decay, and one of the other parameters, which have none.

    If layer_decay is not 1, there are two such groups for each depth, with the learning rate lr * layer_decay ^ depth.
    """
    weight_decay = 0.0 if isinstance(section, AdamSection) else section.weight_decay
    layer_decay = 1.0 if isinstance(section, MuonSection) else section.layer_decay
    depths = {} if layer_decay == 1.0 else parameter_depths(names)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault((depths.get(name, 0), parameter.dim() <= 1), []).append(parameter)
    return [
        {"params": groups[depth, small], "weight_decay": 0.0 if small else weight_decay, "lr": lr * layer_decay**depth}
        for depth, small in sorted(groups)
    ]
