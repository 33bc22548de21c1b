"""Simulate steps of rank 0 with the training code, on fake tensors and with collectives that send nothing.

PyTorch's `fake` process group has the planned number of ranks; this process is rank 0, which has the largest shards. Only the bytes and the
traffic of tensors are counted, without the allocator's overhead and the libraries.

A deep model is extrapolated from two models with fewer blocks, since each block adds the same number of bytes.
"""

import copy
import gc
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tfkit.engine.assembly.components import assemble_stepper, choose_trained
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
from tfkit.training.memory import Units
from tfkit.training.model_sharder import shard_models
from tfkit.training.step import Stepper

_CPU = torch.device("cpu")
MIN_BLOCKS = 3  # of a stack in the smaller of two models


@dataclass(frozen=True)
class Mesh:
    """A number of ranks, with each copy of the weights sharded over `shards` of them, and the steps of a rank."""

    ranks: int
    shards: int
    reshard: bool  # free the gathered weights of a block after its forward pass
    micro_batches: int  # per rank and step
    dtype: torch.dtype  # of the working weights


@dataclass(frozen=True)
class SimulatedStep:
    """The bytes that a step of a rank takes."""

    activations: int  # kept for a backward pass
    peak: int  # of all tensors at once
    sent: dict[str, int]  # by kind of collective
    has_companions: bool  # whether peak and traffic include those of the objective's companions, such as a teacher


def _is_substituted(objective: Objective) -> bool:
    """Whether a substitute loss is simulated: for an objective with trained companions, sampled responses or a reference."""
    has_trained = any(companion.trained for companion in objective.companions)
    return has_trained or objective.rollouts is not None or objective.reference_use != "none"


def simulate(recipe: Recipe, config: ModelConfig, objective: Objective, batch: Batch, mesh: Mesh) -> SimulatedStep:
    """Return the bytes of a step as rank 0 of the mesh takes it, with `batch` as each micro-batch. Raises UsageError within a process
    group.
    """
    if dist.is_initialized():
        raise UsageError("plan: this process already belongs to a torch.distributed process group; plan from another process")
    depth, period = min(_depths(config).values()), config.period
    fewer = max(0, depth - MIN_BLOCKS) // period * period  # so that windows alternate as in the full model
    training = recipe.training
    if fewer < 2 * period or training.frozen or training.unfreeze_every is not None:
        return _to_result(_measure(recipe, config, objective, batch, mesh), objective)
    small, larger = (_measure(recipe, _shallower(config, by), objective, batch, mesh) for by in (fewer, fewer - period))
    return _to_result({name: value + (larger[name] - value) * fewer // period for name, value in small.items()}, objective)


def _measure(recipe: Recipe, config: ModelConfig, objective: Objective, batch: Batch, mesh: Mesh) -> dict[str, int]:
    """Return numbers of bytes that are linear in the number of blocks: instead of the peak of a step, the peaks of its parts."""
    with _fake_ranks(mesh.ranks) as group, TensorMeter(fake=True) as meter:
        stepper = _stepper(recipe, config, objective, mesh, group)
        stepper.take(1, [batch], 1.0)  # creates the optimizer's state
        recorder, sizes = _PeakRecorder(stepper, meter), dict[str, int]()
        for count in range(1, 1 + min(2, mesh.micro_batches)):
            before, recorder.peaks = meter.sent.copy(), {}
            stepper.take(1 + count, [batch] * count, 1.0)
            recorder.enter("")
            further = mesh.micro_batches - count if count == 2 else 0
            sent = {kind: size - before[kind] for kind, size in meter.sent.items()}
            sizes |= {
                f"sent/{kind}": size + further * (size - sizes[f"sent/{kind}"]) if count == 2 else size for kind, size in sent.items()
            }
        gathered = 0  # bytes that stay gathered until the backward pass
        if mesh.shards > 1:
            units = Units.of(dict(stepper.model.named_parameters()))
            further_roots = [Units.of(dict(one.model.named_parameters())).root for one in stepper.objective.companions]
            gathered = mesh.dtype.itemsize * (units.root + sum(further_roots) + (0 if mesh.reshard else units.blocks))
        return sizes | {"activations": recorder.kept - gathered} | {f"peak/{part}": size for part, size in recorder.peaks.items() if part}


def _to_result(sizes: Mapping[str, int], objective: Objective) -> SimulatedStep:
    peak = max(size for name, size in sizes.items() if name.startswith("peak/"))
    sent = {name.removeprefix("sent/"): size for name, size in sizes.items() if name.startswith("sent/")}
    return SimulatedStep(sizes["activations"], peak, sent, bool(objective.companions) and not _is_substituted(objective))


class _PeakRecorder:
    """Records the peak of each part of a step: forward pass with the head's backward pass, backward passes of blocks, optimizer step."""

    def __init__(self, stepper: Stepper, meter: TensorMeter):
        self.peaks: dict[str, int] = {}
        self.kept = 0
        self._meter, self._part, self._start = meter, "", 0
        for index, stack in enumerate(stepper.model.stacks):
            for block, part in zip(stack.blocks, _block_parts(len(stack.blocks)), strict=True):
                block.register_forward_hook(partial(self._after_block, f"{index} {part}"))
        stepper.loss_module.register_forward_pre_hook(self._before_loss, prepend=True)
        stepper.loss_module.register_forward_hook(self._after_loss)
        step = stepper.optimizer.step

        def recorded(lr_factor: float, gradient_factor: float = 1.0) -> None:
            self.enter("optimizer")
            step(lr_factor, gradient_factor)

        stepper.optimizer.step = recorded  # type: ignore[method-assign]

    def enter(self, part: str) -> None:
        """Record the peak of the current part, and begin another."""
        self.peaks[self._part] = max(self.peaks.get(self._part, 0), self._meter.mark())
        self._part = part

    def _before_loss(self, *_: object) -> None:
        self.enter("forward")
        self._start = self._meter.live

    def _after_loss(self, *_: object) -> None:
        self.kept = self._meter.live - self._start

    def _after_block(self, part: str, _block: nn.Module, _inputs: object, output: tuple[Tensor, list[Tensor]]) -> None:
        if output[0].requires_grad:
            output[0].register_hook(lambda _: self.enter(part))


class _SubstituteLoss(CausalLM):
    """Substitutes, for an objective that needs further models or responses, a loss with tensors of the same size."""

    terms: Mapping[str, float] = MappingProxyType({"loss": 1.0})

    def counts(self, batch: Batch) -> dict[str, int]:
        """Count all positions."""
        return {"loss": batch.input_ids.numel()}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Compute a loss whose tensors have the size that the kind of head implies."""
        output, ids = model(**batch.inputs()), batch.input_ids if batch.decoder_input_ids is None else batch.decoder_input_ids
        if model.config.head.kind not in ("lm", "masked_lm"):
            return {"loss": output.logits.float().sum()}
        return {"loss": -token_log_probs(vocabulary_head(model.head), output.hidden.flatten(0, 1), ids.flatten()).sum()}


def _stepper(recipe: Recipe, config: ModelConfig, objective: Objective, mesh: Mesh, group: ProcessGroup) -> Stepper:
    """Assemble a stepper as for a training, with new models of the same shapes, on the simulated rank."""
    objective = _SubstituteLoss() if _is_substituted(objective) else _with_simulated_companions(objective, mesh.dtype)
    model = Transformer(config)
    choose_trained(recipe, model)
    stepper, _ = assemble_stepper(recipe, objective, model, _CPU, mesh.dtype, group)
    if mesh.shards > 1:
        frozen = [companion.model for companion in objective.companions]
        shard_models(stepper, mesh.shards, reshard=mesh.reshard, frozen=frozen)
    return stepper


def _with_simulated_companions(objective: Objective, dtype: torch.dtype) -> Objective:
    """Return a copy of an objective whose frozen companions have the same shapes, but no memory."""
    copied = copy.copy(objective)
    for name, companion in vars(objective).items():
        if isinstance(companion, Companion):
            torch.set_default_dtype(dtype)  # PyTorch cannot convert a module whose parameters are fake
            try:
                model = Transformer(companion.model.config).requires_grad_(False)
            finally:
                torch.set_default_dtype(torch.float32)
            setattr(copied, name, replace(companion, model=model))
    return copied


@contextmanager
def _fake_ranks(size: int) -> Iterator[ProcessGroup]:
    """Join, as rank 0, a fake process group of this many ranks, which sends nothing."""
    gc.collect()
    drawn = random.getstate()  # the fake group numbers its messages by Python's random numbers
    dist.init_process_group("fake", rank=0, world_size=size)
    try:
        yield ProcessGroup(Ranks(0, size, 0, size), dist.HashStore())  # type: ignore[attr-defined]
    finally:
        random.setstate(drawn)
        dist.destroy_process_group()
        _clear_sharding_cache()


def _clear_sharding_cache() -> None:
    """Clear PyTorch's cache of shardings: on a later mesh of the same shape, this process or a fork of it may have another rank, and would
    get the shards of rank 0.
    """
    from torch.distributed.tensor import debug

    if clear := getattr(debug, "_clear_sharding_prop_cache", None):  # of PyTorch 2.13
        clear()


def _depths(config: ModelConfig) -> dict[str, int]:
    """Return the number of blocks of each stack of a model."""
    return {name: depth for name in ("encoder_layers", "decoder_layers") if (depth := getattr(config, name))}


def _shallower(config: ModelConfig, by: int) -> ModelConfig:
    return config.model_copy(update={name: depth - by for name, depth in _depths(config).items()})


def _block_parts(depth: int) -> list[str]:
    """Return, for each block, the part of a step that its backward pass is: the lowest and the highest block are parts of their own, since
    the peak may be in theirs.
    """
    return ["lowest", *["between"] * (depth - 2), *["highest"] * (depth > 1)]
