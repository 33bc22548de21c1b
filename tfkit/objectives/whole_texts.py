"""Texts, or pairs of texts, that a model reads as a whole to say something of each: their encoding and their batches.

The text is encoded by the tokenizer's own template, as in pretraining. A T5 reads it in the encoder and again, shifted right, in the
decoder, whose last state is classified (as transformers' T5ForSequenceClassification).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Encoded, Example, Row
from tfkit.data.columns.rows import BadRow
from tfkit.model.padding import pad, padding_mask
from tfkit.objectives.objective import Batch
from tfkit.objectives.text_pairs import encode_texts
from tfkit.tokenizer import Tokenizer


@dataclass(frozen=True)
class WholeTexts:
    """Rows with the roles `text` and `pair` for a model. `start_id` is given for an encoder-decoder: what its decoder begins with."""

    tokenizer: Tokenizer
    row_length: int
    start_id: int | None

    def encode(self, rows: Sequence[Row], labels: Sequence[NDArray[Any] | BadRow]) -> list[Encoded | BadRow]:
        """Return input_ids, segment_ids (of pairs), and `label`, the row's own of `labels`."""
        texts = [(row.values["text"], row.values.get("pair")) for row in rows]
        around = {*self.tokenizer.prefix, *self.tokenizer.suffix, self.tokenizer.sep_id, self.tokenizer.eos_id}
        found: list[Encoded | BadRow] = []
        for row, label, text in zip(rows, labels, encode_texts(self.tokenizer, texts, self.row_length), strict=True):
            if isinstance(label, BadRow):
                found.append(label)
                continue
            if around.issuperset(text.ids):  # a class could be read off the special tokens alone, and would mean nothing
                found.append(BadRow("no tokens", f"{row.place}: the text gives no token; remove the row", lost=True))
                continue
            found.append(Encoded({"input_ids": text.ids, "segment_ids": text.segments, "label": label}, len(text.ids), text.truncated))
        return found

    def collate(self, examples: Sequence[Example], labels: Tensor) -> Batch:
        """Texts padded on the right, with these labels, (B, ...)."""
        ids = [example["input_ids"] for example in examples]
        input_ids, mask = pad(ids, self.tokenizer.pad_id or 0), padding_mask(ids)
        segments = pad([example["segment_ids"] for example in examples], 0)
        decoder_input_ids = None
        if self.start_id is not None:
            decoder_input_ids = torch.cat([torch.full((len(ids), 1), self.start_id), input_ids[:, :-1]], dim=1)
        return Batch(
            input_ids,
            labels,
            padding_mask=mask,
            segment_ids=segments if bool(segments.any()) else None,
            decoder_input_ids=decoder_input_ids,
            decoder_padding_mask=None if decoder_input_ids is None else mask,
        )


def labels_of(examples: Sequence[Example]) -> NDArray[Any]:
    """Return the labels of examples, one after the other."""
    return np.concatenate([example["label"] for example in examples])
