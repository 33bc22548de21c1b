"""The rows of a batch in a form that people can check: every token, whether it has a loss, its label, and padding."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from tfkit.objectives.objective import IGNORED, Batch
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.entries import readable_entry

Kind = Literal["loss", "no loss", "padding"]


@dataclass(frozen=True)
class ShownToken:
    """One position. `label`: its target, if the model predicts one from the position itself; `document`: the number of its document."""

    id: int
    token: str  # the entry of the vocabulary
    kind: Kind
    label: str | None = None
    document: int = 0


@dataclass
class ShownRow:
    """A row: its tokens; the target of a decoder; and the facts of the whole row (`label`, `next_sentence`)."""

    tokens: list[ShownToken]
    target: list[ShownToken] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def targets(self) -> int:
        """The number of positions with a loss."""
        return sum(token.kind == "loss" for token in (*self.tokens, *(self.target or ())))


class Reader:
    """Converts batches into shown rows, by their tokenizer, the kind of the head and the names of classes or tags."""

    def __init__(self, tokenizer: Tokenizer, head: str, labels: Sequence[str]):
        self.tokenizer, self.head, self.labels = tokenizer, head, labels

    def rows(self, batch: Batch) -> list[ShownRow]:
        """Return every sequence of the batch; each one of a choice between several is a row."""
        return [self._row(batch, number) for number in range(len(batch.input_ids))]

    def _row(self, batch: Batch, number: int) -> ShownRow:
        ids = batch.input_ids[number].tolist()
        real = [True] * len(ids) if batch.padding_mask is None else batch.padding_mask[number].tolist()
        documents = [0] * len(ids) if batch.document_ids is None else batch.document_ids[number].tolist()
        has_labels = batch.labels.dim() == 2 and not self._is_multi_label(batch) and len(batch.labels) > number
        labels = batch.labels[number].tolist() if has_labels else None
        places = zip(ids, real, documents, strict=True)
        row = ShownRow([self._token(token, "no loss" if is_real else "padding", document) for token, is_real, document in places])
        if batch.decoder_input_ids is not None and labels is not None:
            row.target = [self._token(label, "padding" if label == IGNORED else "loss") for label in labels]
        elif labels is not None and self.head == "lm":
            row.tokens = self._shifted(row.tokens, labels)
        elif labels is not None and self.head == "spans":
            row.tokens = self._marked(row.tokens, *labels)
        elif labels is not None:
            row.tokens = [self._labelled(token, label) for token, label in zip(row.tokens, labels, strict=True)]
        row.facts = self._facts(batch, number)
        return row

    def _shifted(self, tokens: list[ShownToken], labels: list[int]) -> list[ShownToken]:
        """Return the tokens, with a loss if they are the label of the position before; the last label may lie beyond the row's end."""
        shown = tokens[:1]
        for token, label in zip(tokens[1:], labels, strict=False):
            has_loss = label == token.id and token.kind != "padding"
            shown.append(self._token(token.id, "loss" if has_loss else token.kind, token.document))
        if labels[-1] != IGNORED:
            shown.append(self._token(labels[-1], "loss", tokens[-1].document))
        return shown

    def _labelled(self, token: ShownToken, label: int) -> ShownToken:
        """Return a token with the label of its own position, an entry of the vocabulary or a tag."""
        if label == IGNORED:
            return token
        name = self._entry(label) if self.head == "masked_lm" else self._label(label)
        return ShownToken(token.id, token.token, "loss", name, token.document)

    def _marked(self, tokens: list[ShownToken], first: int, last: int) -> list[ShownToken]:
        """Return the tokens, with the answer marked; if that is the first token alone, there is no answer."""
        label = "answer" if last else "no answer"
        return [replace(token, kind="loss", label=label) if first <= place <= last else token for place, token in enumerate(tokens)]

    def _facts(self, batch: Batch, number: int) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if batch.labels.dim() == 1 and len(batch.labels) == len(batch.input_ids):
            value = batch.labels[number]
            facts["label"] = float(str(np.float32(value.item()))) if value.is_floating_point() else self._label(int(value))
        if self._is_multi_label(batch):
            facts["labels"] = [self._label(place) for place, applies in enumerate(batch.labels[number].tolist()) if applies]
        for name, tensor in sorted(batch.extras.items()):
            if isinstance(tensor, Tensor) and tensor.dim() == 1 and len(tensor) == len(batch.input_ids):
                facts[name] = tensor[number].item()
        return facts

    def _is_multi_label(self, batch: Batch) -> bool:
        """Whether a row of the labels says which of several labels apply to the whole text."""
        return batch.labels.dim() == 2 and batch.labels.is_floating_point()

    def _label(self, number: int) -> str:
        return self.labels[number] if number < len(self.labels) else str(number)

    def _token(self, token_id: int, kind: Kind, document: int = 0) -> ShownToken:
        return ShownToken(token_id, self._entry(token_id), kind, None, document)

    def _entry(self, token_id: int) -> str:
        return "" if token_id == IGNORED else readable_entry(self.tokenizer, token_id)
