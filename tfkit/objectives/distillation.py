"""Distillation: a student learns the whole distribution of a larger model, its teacher, at each token of real text.

DistilBERT (Sanh et al. 2019, arXiv 1910.01108) adds three losses up: the divergence from the softened teacher, the masked language
model's own loss, and the angle between the last hidden states. Gemma 2 (arXiv 2408.00118, section 3.2) has the teacher's alone:
cross-entropy with its probabilities, whose gradient is that of the divergence.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.data import Rows
from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Output, Transformer
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import RowOrder, Stored
from tfkit.objectives.distribution import token_divergences
from tfkit.objectives.objective import IGNORED, Batch, Objective, Sum
from tfkit.objectives.teacher import copy_layers
from tfkit.recipe.schema.objective_sections import DistillationSection
from tfkit.tokenizer import Tokenizer


class Taught(Objective, Protocol):
    """An objective that a teacher can help with: a distribution over the vocabulary at each position."""

    def losses(self, model: Transformer, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The sum of each term's losses, of a forward that is made already."""


class Distillation(Objective):
    """The losses of `base` and of what the teacher says of the same batch. The student is judged by `base` alone, so that its loss on
    held-out text can be compared with any other model's.
    """

    def __init__(self, section: DistillationSection, base: Taught, teacher: Companion):
        self.section, self.base, self.teacher = section, base, teacher
        weights = {"teacher": section.teacher_weight, "cosine": section.cosine_weight}
        weights |= {term: section.text_weight * weight for term, weight in base.terms.items()}
        self.terms: Mapping[str, float] = MappingProxyType({term: weight for term, weight in weights.items() if weight})

    @property
    def judged_by(self) -> Objective:
        """The base."""
        return self.base

    @property
    def companions(self) -> Sequence[Companion]:
        """The teacher."""
        return (self.teacher,)

    @property
    def reads_sentences(self) -> bool:
        """As the base does."""
        return self.base.reads_sentences

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> Rows:
        """As the base does."""
        return self.base.open_rows(stored, order)

    def initialize(self, model: Transformer, new: Sequence[str] | None) -> None:
        """Copy layers of the teacher, if the section names some."""
        if self.section.copy_layers is not None:
            copy_layers(model, self.teacher.model, self.section.copy_layers)

    def warnings(self, stored: Sequence[Stored], tokenizer: Tokenizer, length: int, *, is_finished: bool) -> list[str]:
        """As the base has them."""
        return self.base.warnings(stored, tokenizer, length, is_finished=is_finished)

    def legend(self) -> list[str]:
        """The teacher of a masked language model may be asked about more tokens than those with a loss."""
        asks_all = self.section.of.kind == "masked_lm" and not self.section.masked_only
        return ["the teacher is asked at every token but padding, marked or not"] if asks_all else []

    def collate(self, rows: Any) -> Batch:
        """As the base does."""
        return self.base.collate(rows)

    def counts(self, batch: Batch) -> dict[str, int]:
        """The positions that the teacher is asked about, all real tokens for the angle, and what the base counts."""
        counts = {"teacher": int(self._asked(batch).sum()), "cosine": int(_real(batch).sum()), **self.base.counts(batch)}
        return {term: counts[term] for term in self.terms}

    def vocabulary_states(self, batch: Batch) -> int:
        """Those of the base, and those at which the teacher is asked."""
        own = self.base.vocabulary_states(batch) if self.section.text_weight else 0
        return own + self.companion_states(batch)

    def companion_states(self, batch: Batch) -> int:
        """Those at which the teacher is asked."""
        return int(self._asked(batch).sum()) if self.section.teacher_weight else 0

    @property
    def reads_second_output(self) -> bool:
        """As the base does."""
        return self.base.reads_second_output and bool(self.section.text_weight)

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Each term's sum: T^2 KL(teacher || student) in nats, 1 - cosine, and those of the base."""
        student = model(**batch.inputs())
        with torch.no_grad():
            teacher = self.teacher.model(**batch.inputs())
        found = self.base.losses(model, student, batch) if self.section.text_weight else {}
        if self.section.teacher_weight:
            asked = self._asked(batch)
            head, taught = vocabulary_head(model.head), vocabulary_head(self.teacher.model.head)
            temperature = self.section.temperature
            # T^2 keeps the gradient's size at any temperature (Hinton et al. 2015, arXiv 1503.02531, section 2).
            divergences = token_divergences(head, student.hidden[asked], taught, teacher.hidden[asked], temperature)
            found["teacher"] = temperature**2 * divergences.sum()
        if self.section.cosine_weight:
            real = _real(batch)
            angles = F.cosine_similarity(student.hidden[real].float(), teacher.hidden[real].float(), dim=-1)
            found["cosine"] = (1 - angles).sum()
        return {term: found[term] for term in self.terms}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """As the base does."""
        return self.base.measure(model, batch)

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """As the base has them."""
        return self.base.metrics(sums)

    def _asked(self, batch: Batch) -> Tensor:
        """(B, T), True where the teacher's distribution counts: of a masked language model at all real tokens, as in DistilBERT's script,
        or the masked ones alone; of a causal one where there is a next token.
        """
        targets_only = self.section.of.kind == "causal_lm" or self.section.masked_only
        return batch.labels != IGNORED if targets_only else _real(batch)


def _real(batch: Batch) -> Tensor:
    """(B, T), True = real token."""
    return torch.ones_like(batch.input_ids, dtype=torch.bool) if batch.padding_mask is None else batch.padding_mask
