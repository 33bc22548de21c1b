"""A loader that adds text of the pretraining to each step, after the step's own rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfkit.data import BatchSizes, Loader, Rows, StepLoader, TokenStream
from tfkit.objectives.context import RowOrder
from tfkit.objectives.objective import Batch, Objective
from tfkit.training.memory import largest_divisor


def mix_text(
    loader: StepLoader[Batch], objective: Objective, texts: Sequence[tuple[TokenStream, float]], order: RowOrder
) -> StepLoader[Batch]:
    """Return the loader, with text of the pretraining if the objective mixes it into its steps."""
    mix = objective.pretraining
    return loader if mix is None else MixedLoader(loader, mix.open_rows(texts, order), mix.collate, mix.ratio)


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
