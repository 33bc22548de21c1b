"""Pretraining text in the steps of another objective, against forgetting.

InstructGPT (arXiv 2203.02155, section 3.5 and appendix C.4) adds the language modelling gradient, times 27.8, to that of each PPO step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from tfkit.data import PackedBatch, PackedRows, TokenStream
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.context import RowOrder
from tfkit.objectives.objective import Batch


@dataclass(frozen=True)
class PretrainingMix:
    """The pretraining text that a step reads after its own rows, in separate micro-batches, cut as for causal language modelling."""

    ratio: int  # rows of text per row of the step
    text: CausalLM

    def open_rows(self, streams: Sequence[tuple[TokenStream, float]], order: RowOrder) -> PackedRows:
        """Return rows of one length. Raises DataError if a source has too little text for one."""
        return self.text.open_rows(streams, order)

    def collate(self, rows: PackedBatch) -> Batch:
        """Return a batch with `is_pretraining` set."""
        return replace(self.text.collate(rows), is_pretraining=True)

    def count(self, batch: Batch) -> int:
        """Return the number of targets of a batch of text."""
        return self.text.counts(batch)["lm"]

    def loss(self, model: Transformer, batch: Batch) -> Tensor:
        """Return the sum of -log p over the targets of a batch of text, in nats."""
        return self.text.loss(model, batch)["lm"]
