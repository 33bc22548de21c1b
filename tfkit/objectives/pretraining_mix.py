"""Text of the pretraining in the steps of another objective, so that the model keeps what it learned from such text.

InstructGPT (arXiv 2203.02155, section 3.5 and appendix C.4) adds to the gradient of each step of PPO that of a language model, times 27.8.
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
    """The rows of text that a step reads behind its own, cut as those of a causal language model, in micro-batches of their own."""

    ratio: int  # rows of text for each of the step's own
    text: CausalLM

    def open_rows(self, streams: Sequence[tuple[TokenStream, float]], order: RowOrder) -> PackedRows:
        """Rows of one length. Raises DataError if a source has too little for one."""
        return self.text.open_rows(streams, order)

    def collate(self, rows: PackedBatch) -> Batch:
        """A batch that is marked as text."""
        return replace(self.text.collate(rows), is_pretraining=True)

    def count(self, batch: Batch) -> int:
        """The targets of a batch of text."""
        return self.text.counts(batch)["lm"]

    def loss(self, model: Transformer, batch: Batch) -> Tensor:
        """The sum over the targets of a batch of text of -log p, in nats."""
        return self.text.loss(model, batch)["lm"]
