"""One optimizer step over its micro-batches, from the objective's sums of losses and counts of targets."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, maximum

from tfkit.errors import Stopped, UnhealthyError, UsageError
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Batch, Objective
from tfkit.parallel.ranks import ALONE, Peers
from tfkit.recipe.schema.optimizer_sections import OptimizerSection
from tfkit.training.depth import Unfreezing
from tfkit.training.device import seed_draws
from tfkit.training.health import StepReport, UnhealthyStepError
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer, with_peak_lr
from tfkit.training.precision import Weights

if TYPE_CHECKING:
    from tfkit.parallel.sharding import Sharding

_TOKENS = ""  # the key of the number of tokens in a dictionary of counts by term; no term has this name


@dataclass(frozen=True)
class TrainedModel:
    """A second model that a step trains, such as the value model of PPO, with weights and an optimizer of its own. It follows the run's
    learning-rate schedule. No moving average of its weights is kept.
    """

    model: Transformer
    weights: Weights
    optimizer: Optimizer


def trained_model(model: Transformer, section: OptimizerSection, dtype: torch.dtype, lr: float | None = None) -> TrainedModel:
    """Prepare a model, already on its device, for training by an optimizer of its own. `lr`: its peak learning rate; None: the run's."""
    weights = Weights(model, dtype)
    return TrainedModel(model, weights, Optimizer(weights.trained, section if lr is None else with_peak_lr(section, lr)))


class Stepper:
    """Takes steps: forward and backward pass of each micro-batch, then clipping, checks and the update."""

    def __init__(
        self,
        loss_module: LossModule,
        weights: Weights,
        optimizer: Optimizer,
        *,
        device: torch.device,
        seed: int,
        unfreezing: Unfreezing | None = None,
        companions: Mapping[str, TrainedModel] = MappingProxyType({}),
        peers: Peers = ALONE,
    ):
        """`companions`: the objective's other models that the step trains, by name. `peers`: the ranks that take each step together."""
        self.loss_module, self.weights, self.optimizer = loss_module, weights, optimizer
        self.model, self.objective = loss_module.model, loss_module.objective
        self.device, self.seed, self.unfreezing, self.companions, self.peers = device, seed, unfreezing, companions, peers
        self.shardings: list[Sharding] = []  # one for each model, including frozen ones; empty: no model is sharded
        self.fitting = peers.fitting  # encloses a step's micro-batches; by default all ranks raise an error if one lacks memory

    @property
    def all_weights(self) -> dict[str, Weights]:
        """All weights that a step updates, by model: the empty name is the run's model; the others are trained companions."""
        return {"": self.weights, **{name: one.weights for name, one in self.companions.items()}}

    def preparing(self) -> contextlib.AbstractContextManager[None]:
        """A context for preparing a step's micro-batches. If one rank runs out of memory, all ranks raise a MemoryError, so that all
        make their micro-batches smaller. For an objective that samples responses this does nothing: the ranks already raise the error
        together when they exchange the responses.
        """
        return self.peers.fitting() if self.objective.rollouts is None else contextlib.nullcontext()

    def take(
        self,
        step: int,
        batches: Sequence[Batch],
        lr_factor: float,
        highest_loss: float = math.inf,
        should_stop: Callable[[], bool] | None = None,
    ) -> StepReport:
        """Take step `step`, counted from 1. `batches`: this rank's micro-batches of the step.

        Raises UnhealthyStepError, before any update, if the loss or the gradient is not finite, or if the loss exceeds `highest_loss`.
        Raises UnhealthyError if a term of the loss has no target. Raises Stopped, dropping the step's gradients, if `should_stop`, which is
        called before each micro-batch but the first, returns True.
        """
        counts, tokens = _total_counts(self.loss_module, batches, self.peers)
        if not all(counts.values()):
            empty = ", ".join(term for term, count in counts.items() if not count)
            raise UnhealthyError(f"step {step}: no token has a target for {empty}: there is nothing to learn from")
        self.loss_module.train(self.objective.draws_dropout)
        parts: list[dict[str, Tensor]] = []
        with self.fitting(), self.unfrozen(step):
            for index, batch in enumerate(batches):
                if index and should_stop is not None and should_stop():
                    self.drop_gradients()
                    raise Stopped(f"stopped within step {step}, before micro-batch {index + 1} of {len(batches)}")
                for sharding in self.shardings:
                    sharding.begin_micro_batch(is_last=index == len(batches) - 1)
                parts.append(self._accumulate(step, self.peers.ranks.rank + index * self.peers.ranks.size, batch, counts))
                for sharding in self.shardings:
                    sharding.end_micro_batch()
        sums = _join(self.objective, self.peers.in_order(parts))
        if not self.shardings:
            self.peers.sum_gradients(parameter for weights in self.all_weights.values() for parameter in weights.master.values())
        for weights in self.all_weights.values():
            weights.take_gradients()
        values = [(name, observation.term, float(sums[name])) for name, observation in self.objective.observed.items() if name in sums]
        observed = {name: value / counts[term] for name, term, value in values if term is not None}
        largest = {name: value for name, term, value in values if term is None}
        means = {term: float(value) / counts[term] for term, value in sums.items() if term not in self.objective.observed}
        loss = sum(weight * means[term] for term, weight in self.loss_module.terms.items())
        grad_norm = self.weights.clip_gradients(self.optimizer.section.clip_norm)
        norms = {name: one.weights.clip_gradients(one.optimizer.section.clip_norm) for name, one in self.companions.items()}
        report = StepReport(loss, means, grad_norm, self.optimizer.section.lr * lr_factor, tokens, observed, largest, norms)
        if not (report.is_finite and loss <= highest_loss):
            raise UnhealthyStepError(step, report, highest_loss)
        for optimizer, weights in ((self.optimizer, self.weights), *((one.optimizer, one.weights) for one in self.companions.values())):
            optimizer.step(lr_factor, weights.gradient_factor)
            weights.after_step()
        return report

    def try_out(self, step: int, batch: Batch, index: int = 0) -> float:
        """Run the forward and backward pass of a micro-batch without updating weights, for example to see whether the
        micro-batch fits into memory. Return the weighted sum of the terms' mean losses. `index`: that of the micro-batch in its step.
        """
        self.loss_module.train(self.objective.draws_dropout)
        counts = {term: max(1, count) for term, count in self.loss_module.counts(batch).items()}
        sums = self._accumulate(step, index, batch, counts)
        self.drop_gradients()
        return sum(weight * float(sums[term]) / counts[term] for term, weight in self.loss_module.terms.items())

    def unfrozen(self, step: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the parameters that gradual unfreezing still freezes in a step need no gradients."""
        return self.unfreezing.at(step) if self.unfreezing else contextlib.nullcontext()

    def drop_gradients(self) -> None:
        """Drop the gradients of a step that was not taken."""
        for sharding in self.shardings:
            sharding.drop_micro_batch()
        for weights in self.all_weights.values():
            weights.drop_gradients()

    def micro_batch_seed(self, step: int, index: int) -> int:
        """Return the seed of dropout for a micro-batch of a step; `index`: its index among the micro-batches of all ranks."""
        return int(np.random.SeedSequence([self.seed, step, index]).generate_state(1, np.uint64)[0] >> 1)

    def _accumulate(self, step: int, index: int, batch: Batch, counts: dict[str, int]) -> dict[str, Tensor]:
        """Accumulate the gradient of a micro-batch. Return the sum of each term's losses, and the observations."""
        seed_draws(self.device, self.micro_batch_seed(step, index))
        losses = self.loss_module(batch.to(self.device))
        loss = torch.stack([losses[term] * (weight / counts[term]) for term, weight in self.loss_module.terms.items()]).sum()
        if not loss.requires_grad:
            raise UsageError("training.frozen: no trained parameter contributes to the loss; remove patterns to train more")
        loss.backward()
        return {term: value.detach() for term, value in losses.items()}


def _total_counts(loss_module: LossModule, batches: Sequence[Batch], peers: Peers) -> tuple[dict[str, int], int]:
    """Return the number of targets of each term and the number of tokens, of all ranks in a step; `batches`: this rank's micro-batches."""
    counts: Counter[str] = Counter()
    for batch in batches:
        counts.update(loss_module.counts(batch))
    total = peers.total({**counts, _TOKENS: sum(batch.tokens for batch in batches)})
    return {term: total[term] for term in counts}, total[_TOKENS]


def _join(objective: Objective, parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the losses and observations of micro-batches: sums are added, and the larger of two maxima is kept."""
    sums: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            observation = objective.observed.get(name)
            join = maximum if observation is not None and observation.term is None else Tensor.add
            sums[name] = join(sums[name], value) if name in sums else value
    return sums
