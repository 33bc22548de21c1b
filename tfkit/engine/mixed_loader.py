"""The batches of a run whose steps read text of the pretraining behind their own rows."""

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
    """Return the loader, of an objective that mixes text of the pretraining into its steps with that text."""
    mix = objective.pretraining
    return loader if mix is None else MixedLoader(loader, mix.open_rows(texts, order), mix.collate, mix.ratio)


class MixedLoader:
    """The micro-batches of a loader, and behind them those of `ratio` rows of text for each of its rows, in the text's own order.

    A micro-batch of text has about as many tokens as one of the loader may have, which takes as much memory.
    """

    def __init__(self, main: StepLoader[Batch], text: Rows, collate: Callable[[Any], Batch], ratio: int):
        self.main, self.text, self.collate = main, text, collate
        self.rows, self.sizes, self._text_rows = main.rows, main.sizes, ratio * main.sizes.full
        self.rank, self.ranks = main.rank, main.ranks

    @property
    def micro_batch_size(self) -> int:
        """The rows of a micro-batch of the loader."""
        return self.main.micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, size: int) -> None:
        self.main.micro_batch_size = size

    def step(self, n: int) -> list[Batch]:
        """Return the micro-batches of step n, from 0; of several ranks those of this one."""
        most = max(1, self.main.micro_batch_size * self.rows.longest // self.text.longest)
        beside = Loader(self.text, self.collate, BatchSizes(self._text_rows), largest_divisor(self._text_rows // self.ranks, most))
        beside.rank, beside.ranks = self.rank, self.ranks
        return [*self.main.step(n), *beside.step(n)]

    def numbers(self, n: int) -> NDArray[np.int64]:
        """Return the numbers of the loader's rows of step n, (B,)."""
        return self.main.numbers(n)

    def observed(self) -> dict[str, float]:
        """Return those of the loader."""
        return self.main.observed()

    def state(self, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return that of the loader: the text of step n follows from n alone."""
        return self.main.state(n)

    def restore(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self.main.restore(tensors, state)
