"""Steps of one rank of many, taken by the code that trains, on tensors without memory and with collectives that send nothing.

PyTorch's `fake` process group has this many ranks; this process is the first, whose parts are the largest. Bytes and traffic
are those that the steps had: of tensors alone, without the allocator's own and without the libraries.

A deep model is taken twice with fewer blocks, and what one more block adds is added for the others: all are alike.
"""

import copy
import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tfkit.engine.components import choose_trained, holds_whole_model
from tfkit.engine.planning.tensor_meter import TensorMeter
from tfkit.errors import UsageError
from tfkit.model.config import ModelConfig
from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.companion import Companion
from tfkit.objectives.log_probs import token_log_probs
from tfkit.objectives.objective import Batch, Objective
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.ranks import Ranks
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.depth import Unfreezing, parameter_depths
from tfkit.training.loss_module import LossModule
from tfkit.training.model_sharder import root_numel
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

_CPU = torch.device("cpu")
FEWEST = 3  # blocks of a stack in the smaller of two models


@dataclass(frozen=True)
class Mesh:
    """Ranks, of which `shards` share each copy of the weights, and how each takes a step."""

    ranks: int
    shards: int
    reshard: bool
    micro_batches: int  # of each rank in a step
    dtype: torch.dtype  # of the working weights
    has_gpus: bool = False  # whose collectives are PyTorch's own


@dataclass(frozen=True)
class SimulatedStep:
    """Bytes of a rank.

    `held`: `weights` (fp32), `gradients` (where the step has them all), `optimizer`, `mean` (of the weights), `working` (a whole copy in
    bf16), `gathered` (of shared weights, those of a block at work and of all that stays), `activations` (kept for a backward pass). The
    peak and the traffic, but not these numbers, include the frozen companions that `has_simulated_companions` names.
    """

    held: dict[str, int]
    peak: int  # the most at once in a step
    sent: dict[str, int]  # in a step, by kind of collective
    units: dict[str, int]  # of the shared weights that are gathered at once: `blocks` of `block_bytes`, the largest, and `rest_bytes`


def has_simulated_companions(objective: Objective) -> bool:
    """Whether a simulated step includes the forwards of an objective's companions, as those of a teacher."""
    return bool(objective.companions) and not _is_replaced(objective)


def _is_replaced(objective: Objective) -> bool:
    """Whether another loss of the same size is simulated: for trained companions, sampled responses and references."""
    has_trained = any(one.trained for one in objective.companions)
    return has_trained or objective.rollouts is not None or objective.reference_use != "none"


def simulate(recipe: Recipe, config: ModelConfig, objective: Objective, batch: Batch, mesh: Mesh) -> SimulatedStep:
    """Take steps of such micro-batches as rank 0 of the mesh. Raises UsageError within a process group."""
    if dist.is_initialized():
        raise UsageError("plan: this process is one of a process group of torch.distributed already; plan from another")
    depth, period = min(_depths(config).values()), len(config.attention.windows)
    fewer = max(0, depth - FEWEST) // period * period  # so that windows take turns as in the whole
    training = recipe.training
    if fewer < 2 * period or training.frozen or training.unfreeze_every is not None:
        return _result(_measured(recipe, config, objective, batch, mesh), config)
    small, larger = (_measured(recipe, _shallower(config, by), objective, batch, mesh) for by in (fewer, fewer - period))
    return _result({name: value + (larger[name] - value) * fewer // period for name, value in small.items()}, config)


def _measured(recipe: Recipe, config: ModelConfig, objective: Objective, batch: Batch, mesh: Mesh) -> dict[str, int]:
    """Return numbers of bytes, each of which grows by the same for each block: of the peak the parts of a step in which it may be."""
    with _fake_ranks(mesh.ranks) as group, TensorMeter(fake=True) as meter:
        stepper = _stepper(recipe, config, objective, mesh, group)
        stepper.take(1, [batch], 1.0)  # makes the optimizer's state
        found = dict.fromkeys(("working", "gathered"), 0) | _units(stepper, mesh)
        weights, sharding = stepper.weights, stepper.weights.sharding
        found |= {"weights": _bytes(weights.master.values()), "optimizer": _bytes(stepper.optimizer.state().values())}
        found["mean"] = _bytes(weights.mean[name] for name in weights.trained) if weights.mean else 0
        if sharding is not None:
            found["gathered"] = found["rest_bytes"] + (found["block_bytes"] if mesh.reshard else found["all_blocks"])
        elif weights.working is not weights.master:
            found["working"] = _bytes(weights.working.values())
        watch = _Watch(stepper, meter)
        for count in range(1, 1 + min(2, mesh.micro_batches)):
            before, watch.parts = meter.sent.copy(), {}
            stepper.take(1 + count, [batch] * count, 1.0)
            watch.enter("")
            further = mesh.micro_batches - count if count == 2 else 0
            sent = {kind: size - before[kind] for kind, size in meter.sent.items()}
            found |= {
                f"sent/{kind}": size + further * (size - found[f"sent/{kind}"]) if count == 2 else size for kind, size in sent.items()
            }
        stays = found["rest_bytes"] if mesh.reshard else found["rest_bytes"] + found["all_blocks"]
        stays += sum(mesh.dtype.itemsize * root_numel(one.model) for one in stepper.objective.companions)
        found |= {"gradients": watch.gradients, "activations": watch.kept - (stays if sharding is not None else 0)}
        found |= {f"part/{name}": size for name, size in watch.parts.items() if name}
        return found


def _result(found: Mapping[str, int], config: ModelConfig) -> SimulatedStep:
    names = ("weights", "gradients", "optimizer", "mean", "working", "gathered", "activations")
    units = {"blocks": sum(_depths(config).values()), "block_bytes": found["block_bytes"], "rest_bytes": found["rest_bytes"]}
    return SimulatedStep(
        {name: found[name] for name in names},
        max(size for name, size in found.items() if name.startswith("part/")),
        {name.removeprefix("sent/"): size for name, size in found.items() if name.startswith("sent/")},
        units,
    )


class _Watch:
    """The peaks of the parts of a step: the forward with the head's backward, each block's backward, the optimizer's step."""

    def __init__(self, stepper: Stepper, meter: TensorMeter):
        self.parts: dict[str, int] = {}
        self.gradients = self.kept = 0
        self._meter, self._part, self._start = meter, "", 0
        for index, stack in enumerate(stepper.model.stacks):
            for block, of in zip(stack.blocks, _places(len(stack.blocks)), strict=True):
                block.register_forward_hook(partial(self._forward, f"{index} {of}"))
        stepper.loss_module.register_forward_pre_hook(self._begin)
        stepper.loss_module.register_forward_hook(self._end)
        step = stepper.optimizer.step

        def watched(lr_factor: float) -> None:
            self.gradients = _bytes(one.grad for one in stepper.weights.master.values() if one.grad is not None)
            self.enter("optimizer")
            step(lr_factor)

        stepper.optimizer.step = watched  # type: ignore[method-assign]

    def enter(self, part: str) -> None:
        """Go on to a part."""
        self.parts[self._part] = max(self.parts.get(self._part, 0), self._meter.mark())
        self._part = part

    def _begin(self, *_: object) -> None:
        self.enter("forward")
        self._start = self._meter.live

    def _end(self, *_: object) -> None:
        self.kept = self._meter.live - self._start

    def _forward(self, part: str, _block: nn.Module, _inputs: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda _: self.enter(part))


class _AnyLoss(CausalLM):
    """A loss of the model's own kind, in place of one that reads further models or responses."""

    terms: Mapping[str, float] = MappingProxyType({"loss": 1.0})

    def counts(self, batch: Batch) -> dict[str, int]:
        """All positions."""
        return {"loss": batch.input_ids.numel()}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """As large as that of its kind of head."""
        output, ids = model(**batch.inputs()), batch.input_ids if batch.decoder_input_ids is None else batch.decoder_input_ids
        if model.config.head.kind not in ("lm", "masked_lm"):
            return {"loss": output.logits.float().sum()}
        return {"loss": -token_log_probs(vocabulary_head(model.head), output.hidden.flatten(0, 1), ids.flatten()).sum()}


def _stepper(recipe: Recipe, config: ModelConfig, objective: Objective, mesh: Mesh, group: ProcessGroup) -> Stepper:
    """Assemble what `engine.components.assemble` does, without data, and share the weights."""
    objective = _AnyLoss() if _is_replaced(objective) else _with_simulated_companions(objective, mesh.dtype)
    training, model = recipe.training, Transformer(config)
    choose_trained(recipe, model)
    weights = Weights(model, mesh.dtype, training.ema_decay, whole=holds_whole_model(recipe))
    optimizer = Optimizer(weights.trained, recipe.optimizer, parameter_depths(weights.master))
    unfreezing = Unfreezing(weights.working, training.unfreeze_every) if training.unfreeze_every is not None else None
    stepper = Stepper(LossModule(model, objective), weights, optimizer, device=_CPU, seed=training.seed, unfreezing=unfreezing, peers=group)
    for stack in model.stacks:
        stack.activation_checkpointing = training.activation_checkpointing
    if mesh.shards > 1:
        frozen = [one.model for one in objective.companions]
        stepper.shard_weights(mesh.shards, reshard=mesh.reshard, frozen=frozen, as_gpus=mesh.has_gpus)
    return stepper


def _with_simulated_companions(objective: Objective, dtype: torch.dtype) -> Objective:
    """Return a copy of an objective whose frozen companions have the same shapes, and no memory."""
    copied = copy.copy(objective)
    for name, companion in vars(objective).items():
        if isinstance(companion, Companion):
            torch.set_default_dtype(dtype)  # PyTorch cannot convert the parameters of a module that have no memory
            try:
                model = Transformer(companion.model.config).requires_grad_(False)
            finally:
                torch.set_default_dtype(torch.float32)
            setattr(copied, name, replace(companion, model=model))
    return copied


def _units(stepper: Stepper, mesh: Mesh) -> dict[str, int]:
    """Return the bytes of the working weights of the largest block, of all blocks, and of the rest."""
    whole = mesh.dtype.itemsize * sum(one.numel() for one in stepper.model.parameters())
    blocks = [
        mesh.dtype.itemsize * sum(one.numel() for one in block.parameters()) for stack in stepper.model.stacks for block in stack.blocks
    ]
    return {"block_bytes": max(blocks), "all_blocks": sum(blocks), "rest_bytes": whole - sum(blocks)}


@contextmanager
def _fake_ranks(size: int) -> Iterator[ProcessGroup]:
    """A process group of this many ranks, of which this process is the first; nothing is sent."""
    gc.collect()
    dist.init_process_group("fake", rank=0, world_size=size)
    try:
        yield ProcessGroup(Ranks(0, size, 0, size), dist.HashStore())  # type: ignore[attr-defined]
    finally:
        dist.destroy_process_group()
        _forget_ranks()


def _forget_ranks() -> None:
    """Clear PyTorch's cache of where the parts of tensors are: a later mesh of the same shape, of which this process, or a fork of it,
    is another rank, would get the parts of the simulated one.
    """
    from torch.distributed.tensor import debug

    if clear := getattr(debug, "_clear_sharding_prop_cache", None):  # of PyTorch 2.13
        clear()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def _depths(config: ModelConfig) -> dict[str, int]:
    """Return the number of blocks of each stack that there is."""
    return {name: depth for name in ("encoder_layers", "decoder_layers") if (depth := getattr(config, name))}


def _shallower(config: ModelConfig, by: int) -> ModelConfig:
    return config.model_copy(update={name: depth - by for name, depth in _depths(config).items()})


def _places(depth: int) -> list[str]:
    """Return the names of the parts that a stack's blocks are: the backward passes of the lowest and the highest may have the peak."""
    return ["lowest", *["between"] * (depth - 2), *["highest"] * (depth > 1)]
