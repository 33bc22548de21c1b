"""Loaders for sampled responses, for steps with mixed-in pretraining text, and for the micro-batches of all ranks together."""

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

from tfkit.adapters import FrozenReference
from tfkit.data import BatchSizes, Loader, Rows, StepLoader
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.objectives.objective import Batch
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.common_work import CommonWork
from tfkit.parallel.rank_map import BatchWork
from tfkit.training.device import eager
from tfkit.training.memory import largest_divisor
from tfkit.training.step import Stepper

ShouldStop = Callable[[], bool] | None


class MixedLoader:
    """A loader whose steps have the micro-batches of the loader `main`, then micro-batches of pretraining text: `ratio` rows of text for
    each row of the full batch size, even while a batch ramp still has smaller batches.

    The text is read in an order of its own, in micro-batches of about as many tokens, and so as much memory, as the largest of `main`.
    """

    def __init__(self, main: StepLoader[Batch], text: Rows, collate: Callable[[Any], Batch], ratio: int):
        self.main, self.text, self.collate, self.ratio = main, text, collate, ratio
        self.rows, self.sizes, self.rank, self.ranks = main.rows, main.sizes, main.rank, main.ranks
        # Only `main` has a state: the text of step n depends on n alone.
        self.numbers, self.observed, self.state, self.restore = main.numbers, main.observed, main.state, main.restore

    @property
    def micro_batch_size(self) -> int:
        """The number of rows of a micro-batch of `main`."""
        return self.main.micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, size: int) -> None:
        self.main.micro_batch_size = size

    def step(self, n: int) -> list[Batch]:
        """Return this rank's micro-batches of step n, counted from 0."""
        most = max(1, self.main.micro_batch_size * self.rows.longest // self.text.longest)
        rows = self.ratio * self.sizes.full
        text = Loader(self.text, self.collate, BatchSizes(rows), largest_divisor(rows // self.ranks, most))
        text.rank, text.ranks = self.rank, self.ranks
        return [*self.main.step(n), *text.step(n)]


def sampling_loader(
    data: TrainingData, rows: Rows, sizes: BatchSizes, size: int, stepper: Stepper, reference: FrozenReference | None, stop: ShouldStop
) -> StepLoader[Batch]:
    """Return the loader of an objective that samples responses, in micro-batches of `size` rows. With a single rank, the sampling ends
    once `stop()` is True; several ranks stop only after a step.
    """
    from tfkit.alignment.rollout_loader import RolloutLoader

    assert data.rules is not None, "without rules a training is only planned"
    assert reference is not None, "sampled responses are compared with the model of the first step"
    peers = stepper.peers
    return RolloutLoader(
        rows,
        data.objective,
        sizes,
        size,
        policy=stepper.model,
        reference=reference,
        rules=data.rules,
        device=stepper.device,
        seed=stepper.seed,
        uncompiled=partial(eager, stepper.model),
        work=BatchWork(deal=CommonWork(peers).deal) if isinstance(peers, ProcessGroup) else BatchWork(should_stop=stop),
    )


def whole_loader(loader: StepLoader[Batch]) -> StepLoader[Batch]:
    """Return, for the loader of one rank, a loader that yields the micro-batches of all ranks."""
    if loader.ranks == 1:
        return loader
    if isinstance(loader, MixedLoader):
        return MixedLoader(whole_loader(loader.main), loader.text, loader.collate, loader.ratio)
    whole = copy(loader)
    whole.rank, whole.ranks = 0, 1
    return whole
