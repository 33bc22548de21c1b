"""Encoding and batches of texts, or pairs of texts, with one label each.

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
    """Encodes and batches rows with the roles `text` and `pair`. `start_id`: the decoder's first id; None without an encoder-decoder."""

    tokenizer: Tokenizer
    row_length: int
    start_id: int | None

    def encode(self, rows: Sequence[Row], labels: Sequence[NDArray[Any] | BadRow]) -> list[Encoded | BadRow]:
        """Return the input_ids, segment_ids and `label` of each row, or its error, which may be given in `labels`."""
        texts = [(row.values["text"], row.values.get("pair")) for row in rows]
        special = {*self.tokenizer.prefix, *self.tokenizer.suffix, self.tokenizer.sep_id, self.tokenizer.eos_id}
        encoded: list[Encoded | BadRow] = []
        for row, label, text in zip(rows, labels, encode_texts(self.tokenizer, texts, self.row_length), strict=True):
            if isinstance(label, BadRow):
                encoded.append(label)
                continue
            if special.issuperset(text.ids):  # a model could still predict a class, without meaning
                encoded.append(BadRow("no tokens", f"{row.place}: the text gives no token; remove the row", lost=True, dropped=True))
                continue
            encoded.append(Encoded({"input_ids": text.ids, "segment_ids": text.segments, "label": label}, len(text.ids), text.truncated))
        return encoded

    def collate(self, examples: Sequence[Example], labels: Tensor) -> Batch:
        """Return the batch of texts, padded on the right, with these labels, (B, ...)."""
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
    """Return the concatenated labels of examples."""
    return np.concatenate([example["label"] for example in examples])
