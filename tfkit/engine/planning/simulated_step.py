"""Simulate training steps of rank 0: the training code runs on fake tensors, with collectives that send nothing.

PyTorch's `fake` process group has the planned number of ranks; this process is rank 0, which has the largest shards. Only the bytes that
tensors take and that collectives would send are counted, without the allocator's overhead and the memory of libraries.

The bytes of a deep model are extrapolated from two models with fewer blocks, since each block adds the same number of bytes.
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
from torch.distributed.tensor import debug

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
MIN_BLOCKS = 3  # a deeper encoder or decoder is extrapolated from ones with at least this many blocks


@dataclass(frozen=True)
class Mesh:
    """The planned ranks, how the weights are sharded over them, and the micro-batches and data type of a rank."""

    ranks: int
    shards: int  # number of ranks over which each copy of the weights is sharded
    reshard: bool  # whether the gathered weights of a block are freed after its forward pass
    micro_batches: int  # number of micro-batches per rank and step
    dtype: torch.dtype  # data type of the working weights


@dataclass(frozen=True)
class SimulatedStep:
    """The bytes that the tensors of a rank take, and that the rank sends, in a step."""

    activations: int  # activations kept for the backward pass of a micro-batch
    peak: int  # the most bytes that all tensors take at the same time
    sent: dict[str, int]  # bytes sent, by kind of collective
    has_companions: bool  # whether `peak` and `sent` include the objective's companions, such as a teacher


def _is_substituted(objective: Objective) -> bool:
    """Whether `_SubstituteLoss` replaces an objective, because the objective has trained companions, rollouts or a reference model."""
    has_trained = any(companion.trained for companion in objective.companions)
    return has_trained or objective.rollouts is not None or objective.reference_use != "none"


def simulate(recipe: Recipe, config: ModelConfig, objective: Objective, batch: Batch, mesh: Mesh) -> SimulatedStep:
    """Return the bytes of a step of rank 0, with `batch` as each micro-batch. Raises UsageError if this process is in a process group."""
    if dist.is_initialized():
        raise UsageError("plan: this process already belongs to a torch.distributed process group; plan from another process")
    depths, period = {name: depth for name in ("encoder_layers", "decoder_layers") if (depth := getattr(config, name))}, config.period
    fewer = max(0, min(depths.values()) - MIN_BLOCKS) // period * period  # whole periods, after which windows, rotations, experts repeat
    training = recipe.training
    if fewer < 2 * period or training.frozen or training.unfreeze_every is not None:
        return _to_result(_measure(recipe, config, objective, batch, mesh), objective)
    shallower = ({name: depth - by for name, depth in depths.items()} for by in (fewer, fewer - period))
    small, larger = (_measure(recipe, config.model_copy(update=layers), objective, batch, mesh) for layers in shallower)
    return _to_result({name: value + (larger[name] - value) * fewer // period for name, value in small.items()}, objective)


def _measure(recipe: Recipe, config: ModelConfig, objective: Objective, batch: Batch, mesh: Mesh) -> dict[str, int]:
    """Return, by name, the bytes of activations, of traffic by kind of collective, and at the peak of each part of a step.

    Each of these numbers grows linearly with the number of blocks. The peak of the whole step, the maximum over its parts, does not.
    """
    with _fake_ranks(mesh.ranks) as group, TensorMeter(fake=True) as meter:
        stepper = _stepper(recipe, config, objective, mesh, group)
        stepper.take(1, [batch], 1.0)  # a step that is not measured, to create the optimizer's state
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
        gathered = 0  # bytes of sharded weights that stay gathered until the backward pass, which do not count as activations
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
    """Records the peak memory of the forward pass with the head's backward pass, of the blocks' backward passes, and of the update."""

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
        """Record the peak of the current part, and begin `part`."""
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
    """A loss on the model's own head, simulated in place of an objective for which `_is_substituted` is True."""

    terms: Mapping[str, float] = MappingProxyType({"loss": 1.0})

    def counts(self, batch: Batch) -> dict[str, int]:
        """Count all positions as labelled."""
        return {"loss": batch.input_ids.numel()}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Compute a loss whose tensors have the sizes of those in a training with this kind of head."""
        output, ids = model(**batch.inputs()), batch.input_ids if batch.decoder_input_ids is None else batch.decoder_input_ids
        if model.config.head.kind not in ("lm", "masked_lm"):
            return {"loss": output.logits.float().sum()}
        return {"loss": -token_log_probs(vocabulary_head(model.head), output.hidden.flatten(0, 1), ids.flatten()).sum()}


def _stepper(recipe: Recipe, config: ModelConfig, objective: Objective, mesh: Mesh, group: ProcessGroup) -> Stepper:
    """Assemble the stepper of the simulated rank as in a training, with new models that have the shapes of the real ones."""
    objective = _SubstituteLoss() if _is_substituted(objective) else _with_simulated_companions(objective, mesh.dtype)
    model = Transformer(config)
    choose_trained(recipe, model)
    stepper, _ = assemble_stepper(recipe, objective, model, _CPU, mesh.dtype, group)
    if mesh.shards > 1:
        frozen = [companion.model for companion in objective.companions]
        shard_models(stepper, mesh.shards, reshard=mesh.reshard, frozen=frozen)
    return stepper


def _with_simulated_companions(objective: Objective, dtype: torch.dtype) -> Objective:
    """Return a copy of an objective in which fake models of the same shapes replace the frozen companions."""
    copied = copy.copy(objective)
    for name, companion in vars(objective).items():
        if isinstance(companion, Companion):
            torch.set_default_dtype(dtype)  # later, PyTorch could not convert the module, since its parameters are fake
            try:
                model = Transformer(companion.model.config).requires_grad_(False)
            finally:
                torch.set_default_dtype(torch.float32)
            setattr(copied, name, replace(companion, model=model))
    return copied


@contextmanager
def _fake_ranks(size: int) -> Iterator[ProcessGroup]:
    """Join, as rank 0, a fake process group of `size` ranks, which sends nothing, and leave it at the end of the context."""
    gc.collect()
    drawn = random.getstate()  # creating the fake group draws from Python's random number generator
    dist.init_process_group("fake", rank=0, world_size=size)
    try:
        yield ProcessGroup(Ranks(0, size, 0, size), dist.HashStore())  # type: ignore[attr-defined]
    finally:
        random.setstate(drawn)
        dist.destroy_process_group()
        # Without this, PyTorch's cache of shardings would give this process, or a fork of it, the shards of rank 0 again on a later mesh of
        # the same shape, even if the process has another rank there.
        if clear := getattr(debug, "_clear_sharding_prop_cache", None):  # exists in PyTorch 2.13
            clear()


def _block_parts(depth: int) -> list[str]:
    """Return, for each block of a stack, the name of the part of the step in which its backward pass is measured.

    The lowest and the highest block are parts of their own, since the memory peak of the step may occur in either.
    """
    return ["lowest", *["between"] * (depth - 2), *["highest"] * (depth > 1)]
