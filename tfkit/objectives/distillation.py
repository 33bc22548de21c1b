"""Distillation: a student learns the whole distribution of a larger model, its teacher, at each token of real text.

DistilBERT (Sanh et al. 2019, arXiv 1910.01108) adds three losses up: the divergence from the softened teacher, the masked language
model's own loss, and the angle between the last hidden states. Gemma 2 (arXiv 2408.00118, section 3.2) has the teacher's alone:
cross-entropy with its probabilities, whose gradient is that of the divergence.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Output, Transformer
from tfkit.objectives.distribution import token_divergences
from tfkit.objectives.objective import IGNORED, Batch, Objective, Sum
from tfkit.objectives.teacher import Teacher
from tfkit.recipe.schema.objective_sections import DistillationSection


class Taught(Objective, Protocol):
    """An objective that a teacher can help with: a distribution over the vocabulary at each position."""

    def losses(self, model: Transformer, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The sum of each term's losses, of a forward that is made already."""


class Distillation:
    """The losses of `base` and of what the teacher says of the same batch. The student is judged by `base` alone, so that its loss on
    held-out text can be compared with any other model's.
    """

    def __init__(self, section: DistillationSection, base: Taught, teacher: Teacher):
        self.section, self.base, self.teacher = section, base, teacher
        weights = {"teacher": section.teacher_weight, "cosine": section.cosine_weight}
        weights |= {term: section.text_weight * weight for term, weight in base.terms.items()}
        self.terms: Mapping[str, float] = MappingProxyType({term: weight for term, weight in weights.items() if weight})

    def collate(self, rows: Any) -> Batch:
        """As the base does."""
        return self.base.collate(rows)

    def counts(self, batch: Batch) -> dict[str, int]:
        """The positions that the teacher is asked about, all real tokens for the angle, and what the base counts."""
        counts = {"teacher": int(self._asked(batch).sum()), "cosine": int(_real(batch).sum()), **self.base.counts(batch)}
        return {term: counts[term] for term in self.terms}

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
        """What the base measures."""
        return self.base.measure(model, batch)

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """What the base tells."""
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
