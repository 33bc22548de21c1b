"""Causal language modelling: predict each token from those before it."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tfkit.data import PackedBatch, PackedRows, TokenStream
from tfkit.model.transformer import Output, Transformer
from tfkit.objectives.context import RowOrder, Stored, streams_of
from tfkit.objectives.log_probs import label_log_probs
from tfkit.objectives.objective import IGNORED, Batch, Distillable, Sum, perplexity, weighted_loss
from tfkit.tokenizer import Tokenizer


class CausalLM(Distillable):
    """Next-token prediction over packed rows.

    `documents` "apart": no token attends to another document of its row, and the first token of a document is no target, unless
    it is `separator_id`, a token that also ends the previous document, as in GPT-2: the model learns to end a document by it.
    "joined": tokens attend across documents, and every token is a target, as in the training of GPT-2 and GPT-3.
    """

    terms: Mapping[str, float] = {"lm": 1.0}

    def __init__(self, documents: Literal["apart", "joined"] = "apart", separator_id: int | None = None):
        self.documents = documents
        self.separator_id = separator_id

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> PackedRows:
        """Return rows of equal length, cut from the concatenated documents."""
        return PackedRows(streams_of(stored), order.length, order.seed)

    def collate(self, rows: PackedBatch) -> Batch:
        """Return inputs (B, T) and, as labels, the ids of the next positions, or IGNORED for those that are no target."""
        input_ids, labels = rows.ids[:, :-1].astype(np.int64), rows.ids[:, 1:].astype(np.int64)
        if self.documents == "joined":
            return Batch(torch.from_numpy(input_ids), torch.from_numpy(labels))
        crosses = rows.document_ids[:, 1:] != rows.document_ids[:, :-1]  # (B, T): whether the target is in another document than the input
        labels[crosses & (labels != self.separator_id)] = IGNORED
        one_document = not crosses[:, :-1].any()  # whether the inputs of each row are one document, and need no document mask
        documents = None if one_document else torch.from_numpy(rows.document_ids[:, :-1].astype(np.int64))
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(labels), documents)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of positions with a target."""
        return {"lm": int((batch.labels != IGNORED).sum())}

    def losses(self, model: Transformer, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the sum over all targets of -log p, in nats."""
        return {"lm": -label_log_probs(model, output.hidden, batch.labels).sum()}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """Return the sum of the losses of all targets."""
        return {"lm": Sum(float(self.loss(model, batch)["lm"]), self.counts(batch)["lm"])}

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """Return `loss` (nats per target) and `perplexity`."""
        loss = weighted_loss(self.terms, sums)
        return {"loss": loss, "perplexity": perplexity(loss)}

    def warnings(self, stored: Sequence[Stored], tokenizer: Tokenizer, length: int, *, is_finished: bool) -> list[str]:
        """Return a warning if the model does not learn to end a text: no token marks the end, or no text ends within a trained row."""
        streams = [source for source in stored if isinstance(source, TokenStream)]
        if tokenizer.eos_id is None and not tokenizer.suffix:
            if not is_finished:  # the tokenizer that this run trains has no such token by design, as GPT's
                return []
            return [
                "the tokenizer has no token that ends a text, so the model does not learn to end one; name the eos_token in its "
                "tokenizer_config.json, if it has one"
            ]
        if any(_first_end(stream, tokenizer) <= (len(stream.tokens) - 1) // length * length for stream in streams):
            return []
        names = ", ".join(stream.name for stream in streams)
        return [
            f"{names}: no text ends within a row of {length} tokens that is trained on, so the model does not learn to end one; "
            "give each text a row of its own, if it should"
        ]


def _first_end(stream: TokenStream, tokenizer: Tokenizer) -> int:
    """Return the position of the id that ends the first text: the text's last id if it is an end token, else the next text's first id."""
    last = int(stream.starts[1]) - 1
    ends = {tokenizer.eos_id, *tokenizer.suffix[-1:]}
    return last if int(stream.tokens[last]) in ends else last + 1
