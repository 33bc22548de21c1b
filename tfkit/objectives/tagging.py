"""Token classification: a tag for each word of a sentence, such as its part of speech or its place in a name.

A word may be several tokens. Its tag is predicted at the first one, as in BERT (Devlin et al. 2018, arXiv 1810.04805, section 5.3); its
other tokens and special tokens have no loss.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Encoded, ExampleBatch, Row, digest
from tfkit.data.columns.rows import BadRow
from tfkit.errors import UsageError
from tfkit.model.padding import pad, padding_mask
from tfkit.model.transformer import Transformer
from tfkit.objectives.classification import unknown_label
from tfkit.objectives.labelled import NO_LABEL, Answer, LabelledObjective, RowResult, class_answer, label_columns
from tfkit.objectives.metrics import Scores
from tfkit.objectives.metrics.classes import class_metrics, tag_metrics
from tfkit.objectives.metrics.entities import entity_figures, entity_metrics, mark_spans
from tfkit.objectives.objective import IGNORED, Batch, Sum
from tfkit.objectives.text_pairs import check_room
from tfkit.recipe.schema.label_sections import TaggingSection
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.joined_texts import encode_words


class Tagging(LabelledObjective):
    """Cross-entropy over tags, summed over words."""

    terms: Mapping[str, float] = {"tags": 1.0}
    means = ("accuracy",)  # over words
    evaluates_answers = True  # evaluations during training need the answers, since F1 is not a sum over rows
    cuts_answers = True  # words beyond the context have no prediction

    def __init__(self, section: TaggingSection, tokenizer: Tokenizer, labels: Sequence[str], row_length: int):
        """`labels`: the tags, in the order of the logits. Raises ModelError if the special tokens leave no room for text."""
        check_room(tokenizer, row_length)
        self.section, self.tokenizer, self.labels, self.row_length = section, tokenizer, tuple(labels), row_length
        self._numbers = {label: number for number, label in enumerate(labels)}

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on."""
        return digest("tagging", self.labels, self.tokenizer.fingerprint(), self.row_length)

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return each row's truncated input_ids, and labels: tag indices at the first tokens of words, else IGNORED; or the row's error."""
        problems = [self._problem(row) for row in rows]
        good = [row for row, problem in zip(rows, problems, strict=True) if problem is None]
        encoded = iter(zip(good, encode_words(self.tokenizer, [row.values["tokens"] for row in good], self.row_length), strict=True))
        return [self._example(*next(encoded)) if problem is None else problem for problem in problems]

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return what `encode` returns, with the index of each word in place of its tag; words without tokens are skipped."""
        encoded = encode_words(self.tokenizer, [row.values["tokens"] for row in rows], self.row_length)
        return [self._unlabelled_example(row, *words) for row, words in zip(rows, encoded, strict=True)]

    def collate(self, rows: ExampleBatch) -> Batch:
        """Return sentences padded on the right, and labels (B, T)."""
        examples = rows.single()
        ids = [example["input_ids"] for example in examples]
        labels = pad([example["labels"] for example in examples], IGNORED)
        return Batch(pad(ids, self.tokenizer.pad_id or 0), labels, padding_mask=padding_mask(ids))

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of words."""
        return {"tags": int((batch.labels != IGNORED).sum())}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the words' cross-entropies."""
        return {"tags": _losses(model(**batch.inputs()).logits, batch.labels)}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """Return the loss, and the number of right tags."""
        logits, words = model(**batch.inputs()).logits, self.counts(batch)["tags"]
        right = int((logits.argmax(-1) == batch.labels).sum())  # no predicted tag equals the label IGNORED
        return {"tags": Sum(float(_losses(logits, batch.labels)), words), "accuracy": Sum(float(right), words)}

    def check_metric(self, name: str | None) -> None:
        """Raise UsageError for precision, recall or F1, which are metrics of names, if the tags do not mark names."""
        if name in ("precision", "recall", "f1") and not mark_spans(self.labels):
            shown = ", ".join(self.labels[:5]) + (", ..." if len(self.labels) > 5 else "")
            raise UsageError(f"evaluation.metric: {name} is for names, and the tags {shown} mark none; choose accuracy, f1_macro or loss")

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """Yield the result of each row: its loss, and the right and the predicted tags of the words that the model read."""
        logits = model(**batch.inputs()).logits.float()  # (B, T, tags)
        losses = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="none").view_as(batch.labels)
        sums = losses.cpu().double().sum(1).tolist()
        for loss, labels, predicted in zip(sums, batch.labels.tolist(), logits.argmax(-1).tolist(), strict=True):
            words = [position for position, label in enumerate(labels) if label != IGNORED]
            tags, answers = ([self.labels[numbers[position]] for position in words] for numbers in (labels, predicted))
            hits = sum(tag == answer for tag, answer in zip(tags, answers, strict=True))
            yield RowResult({"tags": Sum(loss, len(words)), "accuracy": Sum(float(hits), len(words))}, {"tags": tags, "predicted": answers})

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """Yield, for each row, the likeliest tag of each word, None for a word beyond the context or without a token."""
        probabilities = model(**batch.inputs()).logits.float().softmax(-1)  # (B, T, tags)
        for row, numbers, token_probabilities in zip(rows, batch.labels, probabilities, strict=True):
            words = [Answer(None)] * len(row.values["tokens"])
            is_word = numbers != IGNORED
            for number, of_word in zip(numbers[is_word].tolist(), token_probabilities[is_word].tolist(), strict=True):
                words[number] = class_answer(of_word, self.labels, all_labels=all_labels)
            tags, best, all_probabilities = map(list, zip(*words, strict=True))
            yield Answer(tags, best, all_probabilities if all_labels else None)

    def answer_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """Return functions from row weights to the metrics of tags and, if the tags mark names, to the metrics of names."""
        tags, predicted, numbers = label_columns(predictions, "tags", self.labels)
        rows = np.repeat(np.arange(len(predictions)), [len(row) for row in tags])  # (W,): the row of each word
        of_tags = tag_metrics(_flat(tags, numbers), _flat(predicted, numbers), rows)
        return [of_tags, *([entity_metrics(tags, _names(predicted))] if mark_spans(self.labels) else [])]

    def label_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the metrics of each tag and, if the tags mark names, `entities`: the metrics of each kind of name."""
        tags, predicted, numbers = label_columns(predictions, "tags", self.labels)
        figures = class_metrics(_flat(tags, numbers), _flat(predicted, numbers), list(numbers))
        return figures | ({"entities": entity_figures(tags, _names(predicted))} if mark_spans(self.labels) else {})

    def class_numbers(self, batch: Batch) -> NDArray[np.int64]:
        """Return the index of the tag of each word."""
        return batch.labels[batch.labels != IGNORED].cpu().numpy()

    def wrong(self, row: Row) -> RowResult:
        """Return the result of a row that cannot be encoded: NO_LABEL for every word; each counts as wrong."""
        return self.completed(row, RowResult({"accuracy": Sum(0.0, 0)}, {"tags": [], "predicted": []}))

    def completed(self, row: Row, result: RowResult) -> RowResult:
        """Return the result of a truncated row with NO_LABEL for the words beyond the context, which count as wrong."""
        tags, right, count = list(map(str, row.values["tags"])), result.sums["accuracy"], len(result.prediction["predicted"])
        sums = result.sums | {"accuracy": Sum(right.total, len(tags))}
        return RowResult(sums, {"tags": tags, "predicted": [*result.prediction["predicted"], *[NO_LABEL] * (len(tags) - count)]})

    def _unlabelled_example(self, row: Row, ids: list[int], words: list[int | None], truncated: bool) -> Encoded | BadRow:
        if all(word is None for word in words):
            return BadRow("no tokens", f"{row.place}: the words give no token; remove the row")
        firsts = [IGNORED if word is None or word == previous else word for previous, word in zip([None, *words], words, strict=False)]
        return Encoded({"input_ids": ids, "labels": firsts}, len(ids), truncated)

    def _problem(self, row: Row) -> BadRow | None:
        """Return the error of a row's words and tags; None if they are valid."""
        words, tags = row.values["tokens"], row.values["tags"]
        if not words:
            return BadRow("no words", f"{row.place}: there are no words; remove the row")
        if len(words) != len(tags):
            return BadRow("not a tag for each word", f"{row.place}: {len(words)} words, but {len(tags)} tags; correct the row")
        unknown = next((tag for tag in tags if tag not in self._numbers), None)
        return None if unknown is None else unknown_label(row.place, unknown, self.labels)

    def _example(self, row: Row, encoded: tuple[list[int], list[int | None], bool]) -> Encoded | BadRow:
        """Return the example of a row, or its error if the tokenizer gives no token for a word."""
        ids, words, truncated = encoded
        labels, seen = [], -1  # `seen`: the index of the last word with a token
        for word in words:
            if word is not None and word > seen + 1:
                return _no_token(row, seen + 1)
            if word is None or word == seen:
                labels.append(IGNORED)
                continue
            labels.append(self._numbers[row.values["tags"][word]])
            seen = word
        if seen < 0 or (not truncated and seen + 1 < len(row.values["tokens"])):
            return _no_token(row, seen + 1)
        return Encoded({"input_ids": ids, "labels": labels}, len(ids), truncated)


def _flat(rows: Sequence[Sequence[str]], numbers: Mapping[str, int]) -> NDArray[np.int64]:
    """Return the tag indices of all words: (W,)."""
    return np.array([numbers[tag] for row in rows for tag in row], np.int64)


def _names(predicted: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the tags, with O (outside of names) for words without a prediction."""
    return [["O" if tag == NO_LABEL else tag for tag in row] for row in predicted]


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the losses: logits (B, T, tags), labels (B, T)."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def _no_token(row: Row, number: int) -> BadRow:
    word = row.values["tokens"][number]
    return BadRow(
        "a word that the tokenizer gives nothing for",
        f"{row.place}: word {number + 1}, {word!r}, gives no token, so its tag cannot be learned; remove it and its tag from the row",
        lost=True,
    )
