"""The loaders of a run beside that of stored rows: of sampled responses, with text mixed in, and of the micro-batches of all ranks."""

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """The micro-batches of the loader `main`, followed by those of `ratio` rows of text for each of its rows, in the text's own order.

    A micro-batch of text has about as many tokens as the largest one of `main`, and so takes as much memory.
    """

    def __init__(self, main: StepLoader[Batch], text: Rows, collate: Callable[[Any], Batch], ratio: int):
        self.main, self.text, self.collate = main, text, collate
        self.rows, self.sizes, self._text_rows = main.rows, main.sizes, ratio * main.sizes.full
        self.rank, self.ranks = main.rank, main.ranks

    @property
    def micro_batch_size(self) -> int:
        """The rows of a micro-batch of `main`."""
        return self.main.micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, size: int) -> None:
        self.main.micro_batch_size = size

    def step(self, n: int) -> list[Batch]:
        """Return this rank's micro-batches of step n, counted from 0."""
        most = max(1, self.main.micro_batch_size * self.rows.longest // self.text.longest)
        text = Loader(self.text, self.collate, BatchSizes(self._text_rows), largest_divisor(self._text_rows // self.ranks, most))
        text.rank, text.ranks = self.rank, self.ranks
        return [*self.main.step(n), *text.step(n)]

    def numbers(self, n: int) -> NDArray[np.int64]:
        """Return the row numbers of `main` in step n, (B,)."""
        return self.main.numbers(n)

    def observed(self) -> dict[str, float]:
        """Return the quantities that `main` observed."""
        return self.main.observed()

    def state(self, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the state of `main`: the text of step n depends on n alone."""
        return self.main.state(n)

    def restore(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self.main.restore(tensors, state)


def sampling_loader(
    data: TrainingData, rows: Rows, sizes: BatchSizes, size: int, stepper: Stepper, reference: FrozenReference | None, stop: ShouldStop
) -> StepLoader[Batch]:
    """Return the loader of an objective whose responses are sampled, in micro-batches of `size`. `stop` ends it in a single process."""
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
    """Return a loader of the micro-batches of all ranks."""
    if loader.ranks == 1:
        return loader
    whole = copy(loader)
    whole.rank, whole.ranks = 0, 1
    if isinstance(whole, MixedLoader):
        whole.main = whole_loader(whole.main)
    return whole
