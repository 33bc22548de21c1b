"""Multiple choice as GPT was fine-tuned (Radford et al. 2018, sections 3.2 and 3.3): which of several answers goes with a context.

Each answer makes a sequence, `start context delimiter answer classify`, which the model gives one score, read at `classify`; the
probabilities of a row's answers are the softmax of their scores. Beside it the language model's loss continues, over every token of every
sequence but its first. GPT's code takes the mean over the tokens of a sequence and then over sequences; here, as in transformers, each
token weighs the same: the sum over tokens, and how many there are. GPT's code draws one dropout for all answers of a row; here each has
its own.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Encoded, ExampleBatch, Row
from tfkit.data.columns.rows import BadRow
from tfkit.data.order.sentence_pairs import fit
from tfkit.errors import ModelError
from tfkit.model.padding import pad, padding_mask
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import label_log_probs
from tfkit.objectives.labelled import Answer, LabelledObjective, RowResult, class_answer, sums_by_row
from tfkit.objectives.objective import IGNORED, Batch, Sum, weighted_loss
from tfkit.objectives.text_pairs import no_room
from tfkit.recipe.schema.label_sections import MultipleChoiceSection
from tfkit.tokenizer import Tokenizer

_LETTERS = "ABCDEFGHIJ"


class MultipleChoice(LabelledObjective):
    """Cross-entropy over the answers of a row, summed over rows; and the language model's, summed over tokens."""

    ids = ("input_ids",)

    def __init__(self, section: MultipleChoiceSection, tokenizer: Tokenizer, row_length: int):
        """Raises ModelError if the tokenizer lacks a special token, or if they leave no room for a text."""
        self.section, self.tokenizer, self.row_length = section, tokenizer, row_length
        self.terms: Mapping[str, float] = MappingProxyType({"choices": 1.0} | ({"lm": section.lm_weight} if section.lm_weight else {}))
        self._start, self._delimiter, self._classify = (self._special(name) for name in ("start", "delimiter", "classify"))
        self._room = row_length - len(self._start) - 2
        if self._room < 2:
            raise no_room(row_length)

    @property
    def reads_second_output(self) -> bool:
        """The score of each answer."""
        return True

    def fingerprint(self) -> str:
        """Of what `encode` depends on."""
        section = self.section
        about = ("multiple_choice", section.start, section.delimiter, section.classify, self.tokenizer.fingerprint(), self.row_length)
        return hashlib.blake2b("\0".join(map(repr, about)).encode(), digest_size=16).hexdigest()

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """input_ids of all answers one after the other, the size of each, and the number of the right one."""
        return self._encoded(rows, [right_choice(row.place, row.values["choices"], row.values["label"]) for row in rows])

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """The same, as if the first answer was the right one."""
        return self._encoded(rows, [bad_choices(row.place, row.values["choices"]) or 0 for row in rows])

    def _encoded(self, rows: Sequence[Row], rights: Sequence[int | BadRow]) -> list[Encoded | BadRow]:
        texts = [text for row in rows for text in (row.values["context"], *row.values["choices"])]
        ids = iter(self.tokenizer.encode_bare(texts))
        found: list[Encoded | BadRow] = []
        for row, right in zip(rows, rights, strict=True):
            context, *answers = (next(ids) for _ in range(1 + len(row.values["choices"])))
            if isinstance(right, BadRow):
                found.append(right)
                continue
            sequences = [self._sequence(context, answer) for answer in answers]
            sizes = [len(sequence) for sequence in sequences]
            truncated = any(len(context) + len(answer) > self._room for answer in answers)
            arrays = {"input_ids": [one for sequence in sequences for one in sequence], "sizes": sizes, "right": [right]}
            found.append(Encoded(arrays, sum(sizes), truncated))
        return found

    def collate(self, rows: ExampleBatch) -> Batch:
        """A sequence for each answer of each row, C in all, padded on the right: labels (C, T) are the ids one position on.

        In `extras`: the row that a sequence belongs to, and whether its answer is the right one, (C,).
        """
        examples = rows.single()
        sequences = [ids for one in examples for ids in np.split(one["input_ids"], np.cumsum(one["sizes"])[:-1])]
        labels = pad([ids[1:] for ids in sequences], IGNORED) if "lm" in self.terms else torch.full((len(sequences), 1), IGNORED)
        input_ids = pad(sequences, self.tokenizer.pad_id or 0)  # (C, T)
        missing = input_ids.shape[1] - labels.shape[1]  # the last position has no next one
        return Batch(
            input_ids,
            torch.nn.functional.pad(labels, (0, missing), value=IGNORED),
            padding_mask=padding_mask(sequences),
            extras={
                "row": torch.cat([torch.full((len(one["sizes"]),), number) for number, one in enumerate(examples)]),
                "right": torch.cat([torch.arange(len(one["sizes"])) == int(one["right"][0]) for one in examples]),
            },
        )

    def counts(self, batch: Batch) -> dict[str, int]:
        """The rows, and the tokens that have one before them."""
        counts = {"choices": int(batch.extras["right"].sum())}
        return counts | ({"lm": int((batch.labels != IGNORED).sum())} if "lm" in self.terms else {})

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """The sums over rows and over tokens."""
        output = model(**batch.inputs())
        scores, right = output.extra_logits[:, 0].float(), batch.extras["right"]  # (C,)
        losses = {"choices": (_by_row(scores, batch).logsumexp(dim=1) - scores[right]).sum()}
        if "lm" in self.terms:
            losses["lm"] = -label_log_probs(model, output.hidden, batch.labels).sum()
        return losses

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """The losses, and how many rows have their right answer on top."""
        output = model(**batch.inputs())
        scores, right = output.extra_logits[:, 0].float(), batch.extras["right"]
        table, counts = _by_row(scores, batch), self.counts(batch)
        sums = {"choices": Sum(float((table.logsumexp(dim=1) - scores[right]).sum()), counts["choices"])}
        if "lm" in self.terms:
            sums["lm"] = Sum(float(-label_log_probs(model, output.hidden, batch.labels).sum()), counts["lm"])
        return sums | {"accuracy": Sum(float(right[table.argmax(dim=1)].sum()), counts["choices"])}

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """`loss`, its parts `choices` (nats a row) and `lm` (nats a token), and `accuracy`."""
        return {"loss": weighted_loss(self.terms, sums), **{name: sums[name].mean for name in (*self.terms, "accuracy")}}

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """The answer with the highest score, counted from 0; and the sums of the language model over all answers."""
        output = model(**batch.inputs())
        rows = batch.extras["row"]
        scores = output.extra_logits[:, 0].float()  # (C,): a score for each answer of each row
        of_rows = rows.bincount().tolist()
        lm: list[Sum] | None = None
        if "lm" in self.terms:
            log_probs = label_log_probs(model, output.hidden, batch.labels)
            lm = sums_by_row(-log_probs, rows[:, None].expand_as(batch.labels)[batch.labels != IGNORED], len(of_rows))
        pairs = zip(scores.split(of_rows), batch.extras["right"].split(of_rows), strict=True)
        for number, (mine, is_right) in enumerate(pairs):
            right, predicted = int(is_right.int().argmax()), int(mine.argmax())
            sums = {"choices": Sum(float(mine.logsumexp(0) - mine[right]), 1)} | ({"lm": lm[number]} if lm else {})
            sums |= {"accuracy": Sum(float(predicted == right), 1)}
            yield RowResult(sums, {"right": right, "predicted": predicted, "scores": mine.tolist()})

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """The text of the likeliest answer; the probability of a text that is there twice is that of both."""
        scores = model(**batch.inputs()).extra_logits[:, 0].float()  # (C,)
        for row, mine in zip(rows, scores.split(batch.extras["row"].bincount().tolist()), strict=True):
            sums: dict[str, float] = {}
            for choice, value in zip(row.values["choices"], mine.softmax(0).tolist(), strict=True):
                sums[choice] = sums.get(choice, 0.0) + value
            yield class_answer(list(sums.values()), list(sums), all_labels=all_labels)

    def _special(self, name: str) -> list[int]:
        """The id of a special token that the section names; none for null."""
        token = getattr(self.section, name)
        found = None if token is None else self.tokenizer.backend.token_to_id(token)
        if token is not None and found is None:
            raise ModelError(
                f"the tokenizer has no token {token!r}, which objective.{name} names; add it to tokenizer.special_tokens where the "
                "tokenizer is trained, or name one that it has"
            )
        return [] if found is None else [found]

    def _sequence(self, context: NDArray[np.uint32], answer: NDArray[np.uint32]) -> list[int]:
        kept, kept_answer = fit(len(context), len(answer), self._room)
        return [*self._start, *context[:kept].tolist(), *self._delimiter, *answer[:kept_answer].tolist(), *self._classify]


def fit_tokenizer(section: MultipleChoiceSection, tokenizer: Tokenizer, *, is_finished: bool) -> Tokenizer:
    """The tokenizer with entries for the special tokens that the section names."""
    return tokenizer.with_special_tokens([name for name in (section.start, section.delimiter, section.classify) if name])


def _by_row(scores: Tensor, batch: Batch) -> Tensor:
    """(C,) -> (rows, C): the scores of the answers of each row, minus infinity at those of others."""
    row = batch.extras["row"]
    mine = row == torch.arange(int(row[-1]) + 1, device=row.device)[:, None]
    return torch.where(mine, scores, -torch.inf)


def bad_choices(place: str, choices: Sequence[str]) -> BadRow | None:
    """Return what is wrong with the answers of a row."""
    if len(choices) < 2:
        return BadRow("less than two answers", f"{place}: {len(choices)} answers, and nothing to choose; remove the row")
    if (empty := next((number for number, choice in enumerate(choices) if not choice.strip()), None)) is not None:
        return BadRow("an empty answer", f"{place}: answer {empty}, counted from 0, has no text; correct or remove the row")
    return None


def right_choice(place: str, choices: Sequence[str], written: str) -> int | BadRow:
    """The number of the right answer, from a number counted from 0, a letter, or its text."""
    if (bad := bad_choices(place, choices)) is not None:
        return bad
    number = int(written) if written.isascii() and written.isdecimal() else _LETTERS.find(written) if len(written) == 1 else -1
    found = {number} & set(range(len(choices))) | ({choices.index(written)} if written in choices else set())
    if len(found) != 1:
        why = "could mean two of" if found else "is none of"
        return BadRow(
            f"label {written!r}",
            f"{place}: the label {written!r} {why} the {len(choices)} answers; give its number, counted from 0, its letter from A, "
            "or its text",
        )
    return found.pop()
