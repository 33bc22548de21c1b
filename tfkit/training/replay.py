"""The record of an unhealthy step (tfkit/run/replay_file.py writes it), and the search for the step's first number that is not finite."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tfkit.data import StepLoader
from tfkit.objectives.objective import Batch
from tfkit.training.health import UnhealthyStepError
from tfkit.training.loop import Plan, Progress
from tfkit.training.schedule import Schedule
from tfkit.training.step import Stepper

Whole = Callable[[str, str], Tensor]  # (companion, parameter) -> whole weight. Companions: the objective's other models; "": the run's own


@dataclass
class Finding:
    """The place of the first number that is not finite: a module's `forward` or `backward`, the `loss`, or the `weights`."""

    where: str
    module: str  # the module's name (for `weights`, the parameter's; for `loss`, "head"), with the prefix `<companion>/` in a companion
    micro_batch: int  # the index of the micro-batch in the step


@dataclass
class Watch:
    """A context that finds the first number that is not finite in the inputs, outputs and outputs' gradients of the leaf modules of a model
    and of its `companions` (the objective's other models, by name).
    """

    model: nn.Module
    companions: Mapping[str, nn.Module] = field(default_factory=dict)
    finding: Finding | None = None
    micro_batch: int = 0
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> "Watch":
        for prefix, model in (("", self.model), *((f"{name}/", companion) for name, companion in self.companions.items())):
            for name, module in model.named_modules():
                if name and not any(module.children()):
                    self._handles.append(module.register_forward_pre_hook(self._before(prefix + name)))
                    self._handles.append(module.register_forward_hook(self._after(prefix + name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, name: str) -> Callable[[nn.Module, Any], None]:
        """Return a hook that checks a module's inputs; the place of one that is not finite is the parent module, which computed it."""
        parent = name.rpartition(".")[0] or name

        def hook(module: nn.Module, inputs: Any) -> None:
            for tensor in _tensors(inputs):
                if tensor.is_floating_point():
                    self._check("forward", parent, tensor)

        return hook

    def _after(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                self._check("forward", name, tensor)
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: self._check("backward", name, gradient))

        return hook

    def _check(self, where: str, name: str, tensor: Tensor) -> None:
        if self.finding is None and not bool(tensor.isfinite().all()):
            self.finding = Finding(where, name, self.micro_batch)


def describe_step(stepper: Stepper, loader: StepLoader[Batch], error: UnhealthyStepError, whole: Whole) -> dict[str, Any]:
    """Return the document from which `tfkit replay` repeats the step of `error`, which was not taken: the weights are those before it."""
    index, size = error.step - 1, loader.micro_batch_size
    numbers = loader.numbers(index)
    micro_batches = [
        {
            "rows": numbers[i * size : (i + 1) * size].tolist(),
            "seed": stepper.micro_batch_seed(error.step, i),
            "sha256": batch_sha256(batch),
        }
        for i, batch in enumerate(loader.step(index))
    ]
    return {
        "step": error.step,
        "loss": error.report.loss,
        "grad_norm": error.report.grad_norm,
        "micro_batches": micro_batches,
        "weights_sha256": weights_sha256(stepper, whole),
        "precision": str(stepper.weights.dtype),
        "threads": torch.get_num_threads(),
        "device": str(stepper.device),
        "torch": torch.__version__,
    }


def batch_sha256(batch: Batch) -> str:
    """Return the SHA-256 of all tensors of a micro-batch."""
    digest = hashlib.sha256()
    for _, tensor in batch.tensors():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def weights_sha256(stepper: Stepper, whole: Whole | None = None) -> str:
    """Return the SHA-256 of the names and bytes of all weights of the run's model and of the trained companions.

    `whole`: returns a weight, a sharded one as a whole; None: sharded weights are gathered, which all ranks do together.
    """

    def gathered(companion: str, name: str) -> Tensor:
        weights = stepper.all_weights[companion]
        return weights.master[name] if weights.sharding is None else weights.sharding.gather(name, weights.master[name])

    digest = hashlib.sha256()
    for companion, weights in stepper.all_weights.items():
        for name in weights.master:
            digest.update(name.encode())
            tensor = (whole or gathered)(companion, name)
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def take_steps(stepper: Stepper, loader: StepLoader[Batch], schedule: Schedule, plan: Plan, progress: Progress, until: int) -> None:
    """Repeat the steps up to step `until` as `train` took them, without logging, saving or evaluation."""
    while progress.step < until:
        step, highest = progress.step + 1, progress.history.highest(plan.loss_jump_sigmas)
        try:
            progress.history.add(stepper.take(step, loader.step(progress.step), schedule.factor(step), highest).loss)
        except UnhealthyStepError:
            stepper.drop_gradients()
            progress.skipped += 1
        progress.step = step


def find_first_bad(stepper: Stepper, batches: list[Batch], step: int) -> Finding | None:
    """Run a step's micro-batches forward and backward, and return the place of the first number that is not finite, if any."""
    for companion, weights in stepper.all_weights.items():
        for name, parameter in weights.working.items():
            if not bool(parameter.isfinite().all()):
                return Finding("weights", f"{companion}/{name}" if companion else name, 0)
    companions = {name: companion.model for name, companion in stepper.companions.items()}
    with stepper.unfrozen(step), Watch(stepper.model, companions) as watch:
        for watch.micro_batch, batch in enumerate(batches):
            loss = stepper.try_out(step, batch, watch.micro_batch)
            if watch.finding is None and not np.isfinite(loss):
                return Finding("loss", "head", watch.micro_batch)
            if watch.finding is not None:
                return watch.finding
    return None


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
