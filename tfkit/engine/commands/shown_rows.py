"""The rows of a batch as a person can check them: every token, whether it has a loss, what it is to become, and what is padding."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from tfkit.objectives.objective import IGNORED, Batch
from tfkit.tokenizer import Tokenizer

Kind = Literal["loss", "no loss", "padding"]


def _byte_alphabet() -> dict[str, int]:
    """The character that GPT-2's byte-level vocabulary has for each byte: itself where it prints, else one from 256 on."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_alphabet()
_MARKS = {ord(" "): "Ġ", ord("\n"): "Ċ", ord("\t"): "ĉ", ord("\r"): "č"}  # as the vocabulary writes them


@dataclass(frozen=True)
class ShownToken:
    """One position. `label`: what is predicted at it, where its own token is read; `document`: which one of its row."""

    id: int
    token: str  # the entry of the vocabulary, as it is there
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
        """Positions with a loss."""
        return sum(token.kind == "loss" for token in (*self.tokens, *(self.target or ())))


class Reader:
    """Reads batches of one tokenizer, for a head of this kind whose classes or tags have these names."""

    def __init__(self, tokenizer: Tokenizer, head: str, labels: Sequence[str]):
        self.tokenizer, self.head, self.labels = tokenizer, head, labels

    def rows(self, batch: Batch) -> list[ShownRow]:
        """Every sequence of the batch; of a choice between several, each is a row."""
        return [self._row(batch, number) for number in range(len(batch.input_ids))]

    def _row(self, batch: Batch, number: int) -> ShownRow:
        ids = batch.input_ids[number].tolist()
        real = [True] * len(ids) if batch.padding_mask is None else batch.padding_mask[number].tolist()
        documents = [0] * len(ids) if batch.document_ids is None else batch.document_ids[number].tolist()
        labels = (
            batch.labels[number].tolist() if batch.labels.dim() == 2 and not self._of_whole(batch) and len(batch.labels) > number else None
        )
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
        """A token has a loss where the position before it has it as its label; the last label may lie behind the row's end."""
        shown = tokens[:1]
        for token, label in zip(tokens[1:], labels, strict=False):
            has_loss = label == token.id and token.kind != "padding"
            shown.append(self._token(token.id, "loss" if has_loss else token.kind, token.document))
        if labels[-1] != IGNORED:
            shown.append(self._token(labels[-1], "loss", tokens[-1].document))
        return shown

    def _labelled(self, token: ShownToken, label: int) -> ShownToken:
        """A token whose own position has a label: a word of the vocabulary, or a tag."""
        if label == IGNORED:
            return token
        name = self._entry(label) if self.head == "masked_lm" else self._label(label)
        return ShownToken(token.id, token.token, "loss", name, token.document)

    def _marked(self, tokens: list[ShownToken], first: int, last: int) -> list[ShownToken]:
        """Tokens of which a part is the answer; the first one alone says that there is none."""
        label = "answer" if last else "no answer"
        return [replace(token, kind="loss", label=label) if first <= place <= last else token for place, token in enumerate(tokens)]

    def _facts(self, batch: Batch, number: int) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if batch.labels.dim() == 1 and len(batch.labels) == len(batch.input_ids):
            value = batch.labels[number]
            facts["label"] = float(str(np.float32(value.item()))) if value.is_floating_point() else self._label(int(value))
        if self._of_whole(batch):
            facts["labels"] = [self._label(place) for place, applies in enumerate(batch.labels[number].tolist()) if applies]
        for name, tensor in sorted(batch.extras.items()):
            if isinstance(tensor, Tensor) and tensor.dim() == 1 and len(tensor) == len(batch.input_ids):
                facts[name] = tensor[number].item()
        return facts

    def _of_whole(self, batch: Batch) -> bool:
        """Whether a row of the labels is about the whole text: which of several apply."""
        return batch.labels.dim() == 2 and batch.labels.is_floating_point()

    def _label(self, number: int) -> str:
        return self.labels[number] if number < len(self.labels) else str(number)

    def _token(self, token_id: int, kind: Kind, document: int = 0) -> ShownToken:
        return ShownToken(token_id, self._entry(token_id), kind, None, document)

    def _entry(self, token_id: int) -> str:
        """The entry of the vocabulary; of a byte-level one its letters, where its bytes are whole ones, and only spaces as marks."""
        entry = "" if token_id == IGNORED else self.tokenizer.backend.id_to_token(token_id) or f"<{token_id}>"
        if entry.isascii() or not self.tokenizer.byte_level or any(character not in _BYTES for character in entry):
            return entry
        try:
            text = bytes(_BYTES[character] for character in entry).decode()
        except UnicodeDecodeError:  # a part of a character
            return entry
        return text.translate(_MARKS) if text.translate(_MARKS).isprintable() else entry
