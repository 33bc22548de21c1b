"""Span corruption (Raffel et al. 2019, arXiv 1910.10683, 3.1.4): spans of the text are removed, and the decoder generates them.

    text     Thank you for inviting me to your party last week
    inputs   Thank you <extra_id_0> me to your party <extra_id_1> </s>
    targets  <extra_id_0> for inviting <extra_id_1> last week </s>

Each row ends with a removed span, so the targets need no final sentinel, as in T5's code; in the paper's figure they end with one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tfkit.data import SpanBatch, SpanRows
from tfkit.data.order.spans import SpanLengths, longest_row
from tfkit.errors import ModelError
from tfkit.objectives.context import LONGER_ROWS, ModelContext, RowOrder, Stored, streams_of
from tfkit.objectives.objective import Batch, Objective
from tfkit.objectives.sequence_to_sequence import TokenTargets, shifted_right
from tfkit.recipe.schema.objective_sections import SpanCorruptionSection
from tfkit.tokenizer import Tokenizer


class SpanCorruption(TokenTargets, Objective):
    """Cross-entropy over all target ids, including sentinels and eos, as in T5."""

    def __init__(self, lengths: SpanLengths, sentinels: Sequence[int], eos_id: int, start_id: int, static: bool = False):
        """`sentinels`: the ids that replace the first, the second, ... span; `static`: whether all epochs have the same spans."""
        self.lengths, self.eos_id, self.start_id, self.static = lengths, eos_id, start_id, static
        self._sentinels = np.array(sentinels, np.int64)

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> SpanRows:
        """Return rows of equal length, each with the spans to remove."""
        return SpanRows(streams_of(stored), self.lengths, order.seed, self.static)

    def collate(self, rows: SpanBatch) -> Batch:
        """Return inputs (B, lengths.inputs) and labels (B, lengths.targets); all rows have these lengths, without padding."""
        count, spans = rows.kept.shape
        sizes = np.stack([rows.kept, rows.noise], axis=2).ravel()  # (B * 2 * spans,): token counts of kept and removed parts, in turn
        parts = np.repeat(np.tile(np.arange(2 * spans), count), sizes).reshape(count, -1)  # (B, lengths.raw): the part of each token
        first = np.diff(parts, axis=1, prepend=-1) != 0
        noise = parts % 2 == 1
        ids = np.where(first, self._sentinels[parts // 2], rows.ids)  # each part's first token becomes the part's sentinel
        labels = self._with_eos(np.where(noise, rows.ids, ids)[noise | first], count)
        input_ids = self._with_eos(np.where(noise, ids, rows.ids)[~noise | first], count)
        return Batch(input_ids, labels, decoder_input_ids=shifted_right(labels, self.start_id))

    def _with_eos(self, ids: np.ndarray[tuple[int], np.dtype[np.int64]], count: int) -> Tensor:
        """Split ids into rows of equal length, and append eos to each row."""
        rows = torch.from_numpy(ids.reshape(count, -1))
        return torch.cat([rows, torch.full((count, 1), self.eos_id)], dim=1)


def open_span_corruption(section: SpanCorruptionSection, context: ModelContext) -> SpanCorruption:
    """Construct the objective. Raises ModelError if the tokenizer lacks a special token, or if rows or targets have too little room."""
    config, tokenizer = context.config, context.tokenizer
    lengths = longest_row(context.row_length, section.rate, section.mean_span)
    if lengths.inputs > context.row_length:
        raise ModelError(f"rows of {context.row_length} tokens are too short for span corruption, which needs at least 3; {LONGER_ROWS}")
    if lengths.targets > config.context_length and config.position.kind != "relative":
        raise ModelError(
            f"objective: to fill {lengths.inputs} inputs, {lengths.noise} of {lengths.raw} tokens are taken out, and the targets of "
            f"{lengths.targets} do not fit model.context_length {config.context_length}; lower objective.rate"
        )
    sentinels = _sentinels(tokenizer)
    if len(sentinels) < lengths.spans:
        has = f"has {len(sentinels)}" if sentinels else "has none"
        raise ModelError(
            f"span corruption of {lengths.raw} tokens needs {lengths.spans} sentinels (<extra_id_0>, ...), and the tokenizer {has}: "
            + ("raise objective.mean_span, or lower data.sequence_length" if sentinels else "use tokenizer.kind: unigram, T5's")
        )
    if tokenizer.eos_id is None or tokenizer.start_id is None:
        lacking = "an end-of-text token" if tokenizer.eos_id is None else "a start token, bos or pad"
        raise ModelError(f"span corruption needs {lacking}, and the tokenizer has none; use tokenizer.kind: unigram, T5's")
    return SpanCorruption(lengths, sentinels, tokenizer.eos_id, tokenizer.start_id, section.masking == "static")


def _sentinels(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of <extra_id_0>, <extra_id_1>, ...: in T5's vocabulary these are the last ids, in descending order."""
    sentinels: list[int] = []
    while (sentinel := tokenizer.backend.token_to_id(f"<extra_id_{len(sentinels)}>")) is not None:
        sentinels.append(sentinel)
    return sentinels
