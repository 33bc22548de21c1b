"""Causal language modelling: predict each token from those before it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Output, Transformer
from tfkit.objectives.log_probs import token_log_probs
from tfkit.objectives.objective import IGNORED, Batch, Sum, perplexity, weighted_loss


class PackedRows(Protocol):
    """Rows cut from a stream of documents: one id more than the context, so that the last position has a target too."""

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        """(B, T + 1)."""

    @property
    def document_ids(self) -> np.ndarray[Any, Any]:
        """(B, T + 1), equal within a document."""


class CausalLM:
    """Next-token prediction over packed rows.

    `documents` apart: no token sees another document of its row, and none is asked to predict how the next one begins. The exception is
    a tokenizer whose `separator_id` both ends and begins documents, as GPT-2's: there the next document's first id is this one's end.
    Joined: plain packing, as GPT-2 and GPT-3 were trained.
    """

    terms: Mapping[str, float] = MappingProxyType({"lm": 1.0})

    def __init__(self, documents: Literal["apart", "joined"] = "apart", separator_id: int | None = None):
        self.documents = documents
        self.separator_id = separator_id

    def collate(self, rows: PackedRows) -> Batch:
        """Inputs (B, T), and as labels the ids one position on."""
        input_ids, labels = rows.ids[:, :-1].astype(np.int64), rows.ids[:, 1:].astype(np.int64)
        if self.documents == "joined":
            return Batch(torch.from_numpy(input_ids), torch.from_numpy(labels))
        crosses = rows.document_ids[:, 1:] != rows.document_ids[:, :-1]  # (B, T): the target belongs to the next document
        labels[crosses & (labels != self.separator_id)] = IGNORED
        one_document = not crosses[:, :-1].any()  # then the causal kernel needs no mask
        documents = None if one_document else torch.from_numpy(rows.document_ids[:, :-1].astype(np.int64))
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(labels), documents)

    def counts(self, batch: Batch) -> dict[str, int]:
        """The positions that have a target."""
        return {"lm": int((batch.labels != IGNORED).sum())}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """The sum over all targets of -log p, in nats."""
        return self.losses(model, model(**batch.inputs()), batch)

    def losses(self, model: Transformer, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The same, of a forward that is made already."""
        return {"lm": -label_log_probs(model, output.hidden, batch.labels).sum()}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """The loss."""
        return {"lm": Sum(float(self.loss(model, batch)["lm"]), self.counts(batch)["lm"])}

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """`loss` (nats a target) and `perplexity`."""
        loss = weighted_loss(self.terms, sums)
        return {"loss": loss, "perplexity": perplexity(loss)}


def label_log_probs(model: Transformer, hidden: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The log-probability of each label that is none of IGNORED: hidden (B, T, D), labels (B, T) -> (targets,)."""
    hidden, labels = hidden.flatten(0, 1), labels.flatten()  # (B * T, D), (B * T,)
    targets = labels != IGNORED
    if not bool(targets.all()):
        hidden, labels = hidden[targets], labels[targets]
    return token_log_probs(vocabulary_head(model.head), hidden, labels, smoothing)
