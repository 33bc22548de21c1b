"""Multiple choice as GPT was fine-tuned (Radford et al. 2018, sections 3.2 and 3.3): which of several answers goes with a context.

Each answer makes a sequence, `start context delimiter answer classify`, whose score is read at `classify`; the probabilities of a row's
answers are the softmax of their scores. An auxiliary language modelling loss covers all tokens of each sequence but its first. GPT's code
takes the mean of this loss over the tokens of a sequence, then over sequences; here, as in transformers, every token has the same weight.
GPT's code uses the same dropout mask for all answers of a row; here each answer has its own.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Encoded, ExampleBatch, Row, digest
from tfkit.data.columns.rows import BadRow
from tfkit.data.columns.structured_forms import Choices
from tfkit.data.order.sentence_pairs import fit
from tfkit.errors import ModelError
from tfkit.model.padding import pad, padding_mask
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import Answer, LabelledObjective, RowResult, class_answer, sums_by_row
from tfkit.objectives.log_probs import label_log_probs
from tfkit.objectives.objective import IGNORED, Batch, Sum
from tfkit.objectives.text_pairs import no_room
from tfkit.recipe.schema.label_sections import MultipleChoiceSection
from tfkit.tokenizer import Tokenizer

_LETTERS = "ABCDEFGHIJ"


class MultipleChoice(LabelledObjective):
    """Cross-entropy over the answers of a row, summed over rows, and, if `lm_weight` is set, over the vocabulary, summed over tokens."""

    reads_second_output = True  # the score of each answer

    def __init__(self, section: MultipleChoiceSection, tokenizer: Tokenizer, row_length: int):
        """Raises ModelError if the tokenizer lacks a special token, or if the special tokens leave no room for text."""
        self.section, self.tokenizer, self.row_length = section, tokenizer, row_length
        self.terms: Mapping[str, float] = {"choices": 1.0} | ({"lm": section.lm_weight} if section.lm_weight else {})
        self.means = (*self.terms, "accuracy")  # `choices` is in nats per row, `lm` in nats per token
        self._start, self._delimiter, self._classify = (self._special(name) for name in ("start", "delimiter", "classify"))
        self._room = row_length - len(self._start) - 2
        if self._room < 2:
            raise no_room(row_length)

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on."""
        section = self.section
        about = ("multiple_choice", section.start, section.delimiter, section.classify, self.tokenizer.fingerprint(), self.row_length)
        return digest(*map(repr, about))

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return each row's concatenated sequences (input_ids), their lengths, and the index of the right answer; or the row's error."""
        return self._encoded(rows, [right_choice(row.place, row.values["choices"], row.values["label"]) for row in rows])

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the arrays that `encode` returns, with the first answer in place of the right one; or the row's error."""
        return self._encoded(rows, [bad_choices(row.place, row.values["choices"]) or 0 for row in rows])

    def _encoded(self, rows: Sequence[Row], rights: Sequence[int | BadRow]) -> list[Encoded | BadRow]:
        texts = [text for row in rows for text in (row.values["context"], *row.values["choices"])]
        ids = iter(self.tokenizer.encode_bare(texts))
        encoded: list[Encoded | BadRow] = []
        for row, right in zip(rows, rights, strict=True):
            context, *answers = (next(ids) for _ in range(1 + len(row.values["choices"])))
            if isinstance(right, BadRow):
                encoded.append(right)
                continue
            sequences = [self._sequence(context, answer) for answer in answers]
            sizes = [len(sequence) for sequence in sequences]
            truncated = any(len(context) + len(answer) > self._room for answer in answers)
            arrays = {"input_ids": [token for sequence in sequences for token in sequence], "sizes": sizes, "right": [right]}
            encoded.append(Encoded(arrays, sum(sizes), truncated))
        return encoded

    def collate(self, rows: ExampleBatch) -> Batch:
        """Return one sequence per answer, C in all, padded on the right; if `lm` is a term, labels (C, T) are the next ids.

        `extras`: the row of each sequence, and whether its answer is the right one, (C,) each.
        """
        examples = rows.single()
        sequences = [ids for example in examples for ids in np.split(example["input_ids"], np.cumsum(example["sizes"])[:-1])]
        labels = pad([ids[1:] for ids in sequences], IGNORED) if "lm" in self.terms else torch.full((len(sequences), 1), IGNORED)
        input_ids = pad(sequences, self.tokenizer.pad_id or 0)  # (C, T)
        missing = input_ids.shape[1] - labels.shape[1]  # columns without labels
        return Batch(
            input_ids,
            torch.nn.functional.pad(labels, (0, missing), value=IGNORED),
            padding_mask=padding_mask(sequences),
            extras={
                "row": torch.cat([torch.full((len(example["sizes"]),), number) for number, example in enumerate(examples)]),
                "right": torch.cat([torch.arange(len(example["sizes"])) == int(example["right"][0]) for example in examples]),
            },
        )

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of rows and, if `lm` is a term, the number of predicted tokens."""
        counts = {"choices": int(batch.extras["right"].sum())}
        return counts | ({"lm": int((batch.labels != IGNORED).sum())} if "lm" in self.terms else {})

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the rows' losses and, if `lm` is a term, the sum of the tokens' losses."""
        output = model(**batch.inputs())
        scores, right = output.extra_logits[:, 0].float(), batch.extras["right"]  # (C,)
        losses = {"choices": (_by_row(scores, batch).logsumexp(dim=1) - scores[right]).sum()}
        if "lm" in self.terms:
            losses["lm"] = -label_log_probs(model, output.hidden, batch.labels).sum()
        return losses

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """Return the losses, and the number of rows whose right answer has the highest score."""
        output = model(**batch.inputs())
        scores, right = output.extra_logits[:, 0].float(), batch.extras["right"]
        table, counts = _by_row(scores, batch), self.counts(batch)
        sums = {"choices": Sum(float((table.logsumexp(dim=1) - scores[right]).sum()), counts["choices"])}
        if "lm" in self.terms:
            sums["lm"] = Sum(float(-label_log_probs(model, output.hidden, batch.labels).sum()), counts["lm"])
        return sums | {"accuracy": Sum(float(right[table.argmax(dim=1)].sum()), counts["choices"])}

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """Yield each row's sums (`lm` over all its answers), the indices of its right and its predicted answer, and the scores of all."""
        output = model(**batch.inputs())
        rows = batch.extras["row"]
        scores = output.extra_logits[:, 0].float()  # (C,)
        counts = rows.bincount().tolist()  # the number of answers of each row
        lm: list[Sum] | None = None
        if "lm" in self.terms:
            log_probs = label_log_probs(model, output.hidden, batch.labels)
            lm = sums_by_row(-log_probs, rows[:, None].expand_as(batch.labels)[batch.labels != IGNORED], len(counts))
        pairs = zip(scores.split(counts), batch.extras["right"].split(counts), strict=True)
        for number, (row_scores, is_right) in enumerate(pairs):
            right, predicted = int(is_right.int().argmax()), int(row_scores.argmax())
            sums = {"choices": Sum(float(row_scores.logsumexp(0) - row_scores[right]), 1)} | ({"lm": lm[number]} if lm else {})
            sums |= {"accuracy": Sum(float(predicted == right), 1)}
            yield RowResult(sums, {"right": right, "predicted": predicted, "scores": row_scores.tolist()})

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """Yield the text of the likeliest answer; the probabilities of a row's equal answers add up."""
        scores = model(**batch.inputs()).extra_logits[:, 0].float()  # (C,)
        for row, row_scores in zip(rows, scores.split(batch.extras["row"].bincount().tolist()), strict=True):
            probabilities: dict[str, float] = {}
            for choice, value in zip(row.values["choices"], row_scores.softmax(0).tolist(), strict=True):
                probabilities[choice] = probabilities.get(choice, 0.0) + value
            yield class_answer(list(probabilities.values()), list(probabilities), all_labels=all_labels)

    def _special(self, name: str) -> list[int]:
        """Return the special token that a field of the section names, as a list with its id; an empty list if the field is None."""
        token = getattr(self.section, name)
        token_id = None if token is None else self.tokenizer.backend.token_to_id(token)
        if token is not None and token_id is None:
            raise ModelError(
                f"the tokenizer has no token {token!r}, which objective.{name} names; add it to tokenizer.special_tokens where the "
                "tokenizer is trained, or name one that it has"
            )
        return [] if token_id is None else [token_id]

    def _sequence(self, context: NDArray[np.uint32], answer: NDArray[np.uint32]) -> list[int]:
        kept, kept_answer = fit(len(context), len(answer), self._room)
        return [*self._start, *context[:kept].tolist(), *self._delimiter, *answer[:kept_answer].tolist(), *self._classify]


def fit_tokenizer(section: MultipleChoiceSection, tokenizer: Tokenizer, *, is_finished: bool) -> Tokenizer:
    """Return the tokenizer with the special tokens that the section names."""
    return tokenizer.with_special_tokens([name for name in (section.start, section.delimiter, section.classify) if name])


def _by_row(scores: Tensor, batch: Batch) -> Tensor:
    """Return the scores of each row's answers, -inf at the answers of other rows: (C,) -> (rows, C)."""
    row = batch.extras["row"]
    is_own = row == torch.arange(int(row[-1]) + 1, device=row.device)[:, None]
    return torch.where(is_own, scores, -torch.inf)


def bad_choices(place: str, choices: Sequence[str]) -> BadRow | None:
    """Return the error of a row's answers; None if they are valid."""
    if len(choices) < 2:
        return BadRow("less than two answers", f"{place}: {len(choices)} answers, and nothing to choose; remove the row")
    if (empty := next((number for number, choice in enumerate(choices) if not choice.strip()), None)) is not None:
        return BadRow("an empty answer", f"{place}: answer {empty}, counted from 0, has no text; correct or remove the row")
    return None


def right_choice(place: str, choices: Sequence[str], written: str) -> int | BadRow:
    """Return the index of the right answer, which a row names by its label, index from 0, letter or text; or the row's error."""
    if (bad := bad_choices(place, choices)) is not None:
        return bad
    if isinstance(choices, Choices) and choices.labels.count(written) == 1:
        return choices.labels.index(written)
    number = int(written) if written.isascii() and written.isdecimal() else _LETTERS.find(written) if len(written) == 1 else -1
    matches = {number} & set(range(len(choices))) | ({choices.index(written)} if written in choices else set())
    if len(matches) != 1:
        why = "could mean two of" if matches else "is none of"
        return BadRow(
            f"label {written!r}",
            f"{place}: the label {written!r} {why} the {len(choices)} answers; give its number, counted from 0, its letter from A, "
            "or its text",
        )
    return matches.pop()
