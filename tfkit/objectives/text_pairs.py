"""Texts and pairs of texts: their encoding with the special tokens of the tokenizer's template, truncated to a length, and their batches.

If the template puts nothing between two texts (GPT's, GPT-2's), eos separates them, or sep if there is no eos. Without either, pairs raise
DataError; its message says how `columns` can make one text of both.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tfkit.data import Encoded, ExampleBatch, Row
from tfkit.data.columns.rows import BadRow
from tfkit.data.order.sentence_pairs import fit
from tfkit.errors import DataError, ModelError
from tfkit.model.padding import pad, padding_mask
from tfkit.objectives.context import LONGER_ROWS
from tfkit.objectives.labelled import LabelledObjective
from tfkit.objectives.objective import Batch
from tfkit.objectives.sequence_to_sequence import shifted_right
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.joined_texts import encode_pairs, joins_pairs


class TextIds(NamedTuple):
    """The ids of a text or pair with its special tokens, the segment of each id (0 or 1), and whether the text was truncated."""

    ids: list[int]
    segments: list[int]
    truncated: bool


def encode_texts(tokenizer: Tokenizer, texts: Sequence[tuple[str, str | None]], length: int) -> list[TextIds]:
    """Encode texts and pairs, truncated to `length` ids each. In a pair, the longer text loses its last id, repeatedly, until both fit.

    Raises DataError for pairs if the tokenizer has no separator, ModelError if the special tokens leave no room for text.
    """
    check_room(tokenizer, length)
    singles = iter(tokenizer.encode_texts([text for text, pair in texts if pair is None]))
    both = [(text, pair) for text, pair in texts if pair is not None]
    pairs = iter(_pairs(tokenizer, both, length) if both else [])
    return [_single(tokenizer, next(singles), length) if pair is None else next(pairs) for _, pair in texts]


def check_room(tokenizer: Tokenizer, length: int) -> None:
    """Raise ModelError if the special tokens of the template leave no room for text."""
    if length <= len(tokenizer.prefix) + len(tokenizer.suffix):
        raise no_room(length)


def no_room(length: int) -> ModelError:
    """Return the error for rows that are too short."""
    return ModelError(f"rows of {length} tokens have no room for text and the special tokens; {LONGER_ROWS}")


def _pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], length: int) -> list[TextIds]:
    if joins_pairs(tokenizer):
        if length < len(encode_pairs(tokenizer, [("", "")])[0][0]) + 2:  # the template's ids, and one id of each text
            raise no_room(length)
        return [TextIds(*pair) for pair in encode_pairs(tokenizer, pairs, length)]
    separator = tokenizer.sep_id if tokenizer.eos_id is None else tokenizer.eos_id
    if separator is None:
        raise DataError(
            "the tokenizer has no token to put between the two texts of a pair; put both into one text, with words of your own "
            "between them: columns: {text: '{premise} => {hypothesis}'}"
        )
    room = length - len(tokenizer.prefix) - 1 - len(tokenizer.suffix)
    if room < 2:
        raise no_room(length)
    encoded = []
    for first, second in zip(*(tokenizer.encode_bare(texts) for texts in zip(*pairs, strict=True)), strict=True):
        kept, kept_second = fit(len(first), len(second), room)
        ids = [*tokenizer.prefix, *first[:kept].tolist(), separator, *second[:kept_second].tolist(), *tokenizer.suffix]
        encoded.append(TextIds(ids, [0] * len(ids), len(first) + len(second) > room))
    return encoded


def _single(tokenizer: Tokenizer, ids: list[int], length: int) -> TextIds:
    """Truncate the ids of a text to `length`, keeping the template's suffix at their end."""
    if len(ids) <= length:
        return TextIds(ids, [0] * len(ids), False)
    suffix = list(tokenizer.suffix)
    ids = ids[: length - len(suffix)] + suffix
    return TextIds(ids, [0] * len(ids), True)


class TextLabelling(LabelledObjective, Protocol):
    """An objective that predicts a class, a number or a set of labels for each row's `text`, or for `text` and `pair` together.

    An encoder-decoder such as T5 reads the text in the encoder and again, shifted right, in the decoder, from one of whose hidden states
    the head predicts (that of the last token in transformers' T5ForSequenceClassification).
    """

    tokenizer: Tokenizer
    row_length: int
    start_id: int | None  # the first id of an encoder-decoder's decoder; None for other models
    placeholder: NDArray[Any]  # the label in the example of a row that has no label
    evaluates_answers: bool = True  # evaluations during training need the answers, since F1 and correlations are not sums over rows

    def target(self, row: Row) -> NDArray[Any] | BadRow:
        """Return a row's label as its example stores it, or the row's error."""

    def stacked(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Convert the labels of a batch's examples to those of the batch: (B, n) -> (B,) or (B, n)."""

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the input_ids, segment_ids and `label` of each row, or its error."""
        return self._encoded(rows, [self.target(row) for row in rows])

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return what `encode` returns, with the placeholder as the label."""
        return self._encoded(rows, [self.placeholder] * len(rows))

    def _encoded(self, rows: Sequence[Row], labels: Sequence[NDArray[Any] | BadRow]) -> list[Encoded | BadRow]:
        texts = [(row.values["text"], row.values.get("pair")) for row in rows]
        special = {*self.tokenizer.prefix, *self.tokenizer.suffix, self.tokenizer.sep_id, self.tokenizer.eos_id}
        encoded: list[Encoded | BadRow] = []
        for row, label, text in zip(rows, labels, encode_texts(self.tokenizer, texts, self.row_length), strict=True):
            if isinstance(label, BadRow):
                encoded.append(label)
                continue
            if special.issuperset(text.ids):  # otherwise the model would predict a label without any text
                encoded.append(BadRow("no tokens", f"{row.place}: the text gives no token; remove the row", lost=True, dropped=True))
                continue
            encoded.append(Encoded({"input_ids": text.ids, "segment_ids": text.segments, "label": label}, len(text.ids), text.truncated))
        return encoded

    def collate(self, rows: ExampleBatch) -> Batch:
        """Return texts padded on the right, and their labels, (B, ...)."""
        examples = rows.single()
        ids = [example["input_ids"] for example in examples]
        input_ids, mask = pad(ids, self.tokenizer.pad_id or 0), padding_mask(ids)
        segments = pad([example["segment_ids"] for example in examples], 0)
        decoder_input_ids = None if self.start_id is None else shifted_right(input_ids, self.start_id)
        return Batch(
            input_ids,
            torch.from_numpy(self.stacked(np.stack([example["label"] for example in examples]))),
            padding_mask=mask,
            segment_ids=segments if bool(segments.any()) else None,
            decoder_input_ids=decoder_input_ids,
            decoder_padding_mask=None if decoder_input_ids is None else mask,
        )
