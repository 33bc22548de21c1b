"""An objective from outside of tfkit, as CONTRIBUTING's "Add an objective" says: DPO (arXiv 2305.18290) on labelled rows.

Of two answers to a prompt one is preferred. The reference is a companion. So is a critic, if there is one, which is trained beside the
model: to write the answers. `register_toy` is all that makes it known to the program.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tfkit.data import Encoded, ExampleBatch, Row
from tfkit.data.columns.rows import BadRow
from tfkit.errors import UsageError
from tfkit.model.padding import pad, padding_mask
from tfkit.model.transformer import Transformer
from tfkit.objectives.companion import Companion, open_companion
from tfkit.objectives.context import ModelContext
from tfkit.objectives.labelled import LabelledObjective, RowResult
from tfkit.objectives.log_probs import label_log_probs
from tfkit.objectives.objective import IGNORED, Batch, Observation, Sum, weighted_loss
from tfkit.objectives.registry import Registered, register
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.roles import Role
from tfkit.tokenizer import Tokenizer


class ToySection(ObjectiveSection):
    """Prefer one of two answers."""

    kind: Literal["toy_preference"]
    reference: str = Field(min_length=1, description="The model that the policy stays close to.")
    reference_sha256: str | None = Field(None, description="Of its weights; null: any.")
    beta: float = Field(0.1, gt=0, description="Weight of the distance from the reference.")
    critic: str | None = Field(None, min_length=1, description="A model that learns to write the answers; null: none.")
    critic_sha256: str | None = Field(None, description="Of its weights before the first step; null: any.")
    critic_lr: float = Field(3e-3, gt=0, description="Its learning rate.")

    roles: ClassVar[tuple[Role, ...]] = tuple(Role(name, "text", (name,)) for name in ("prompt", "chosen", "rejected"))
    reads_text: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    companions: ClassVar[Mapping[str, bool]] = {"reference": False, "critic": True}

    @property
    def trained_for(self) -> "ToySection":
        """The section for evaluations, which need no critic."""
        return self.model_copy(update={"critic": None})


class Toy(LabelledObjective):
    """-log sigmoid(beta * (how much more the policy prefers the chosen answer than the reference does)), summed over pairs."""

    observed: Mapping[str, Observation] = MappingProxyType({"chosen_first": Observation("preference"), "largest_margin": Observation()})
    ids = ("input_ids",)

    def __init__(self, section: ToySection, tokenizer: Tokenizer, length: int, reference: Companion, critic: Companion | None = None):
        self.section, self.tokenizer, self.length, self.reference, self.critic = section, tokenizer, length, reference, critic
        self.terms: Mapping[str, float] = {"preference": 1.0} | ({"critic": 0.5} if critic else {})

    @property
    def companions(self) -> Sequence[Companion]:
        return (self.reference, *([self.critic] if self.critic else []))

    @property
    def evaluation_objective(self) -> "Toy":
        """The same objective without the critic."""
        return Toy(self.section, self.tokenizer, self.length, self.reference)

    def fingerprint(self) -> str:
        return hashlib.blake2b(f"toy\0{self.tokenizer.fingerprint()}\0{self.length}".encode(), digest_size=16).hexdigest()

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the ids of both texts, one after the other, which of them belong to answers, and the two lengths."""
        found: list[Encoded | BadRow] = []
        for row in rows:
            prompt, *answers = (ids.tolist() for ids in self.tokenizer.encode_bare([row.values[role.name] for role in ToySection.roles]))
            texts = [[*prompt, *answer][: self.length] for answer in answers]
            if any(len(text) <= len(prompt) for text in texts):
                found.append(BadRow("no answer", f"{row.place}: an answer has no token within the context"))
                continue
            sizes = np.array([len(text) for text in texts], np.uint16)
            is_answer = np.concatenate([np.arange(size) >= len(prompt) for size in sizes])
            found.append(Encoded({"input_ids": [*texts[0], *texts[1]], "is_answer": is_answer, "sizes": sizes}, int(sizes.sum())))
        return found

    def collate(self, rows: ExampleBatch) -> Batch:
        """Return the chosen and the rejected text of each pair alternately, (2 B, T)."""
        texts, labels = [], []
        for one in rows.single():
            cut = [int(one["sizes"][0])]
            for ids, is_answer in zip(np.split(one["input_ids"], cut), np.split(one["is_answer"], cut), strict=True):
                texts.append(ids)
                labels.append(np.append(np.where(is_answer, ids, IGNORED)[1:], IGNORED))
        is_chosen = torch.arange(len(texts)) % 2 == 0
        return Batch(
            pad(texts, self.tokenizer.pad_id or 0), pad(labels, IGNORED), padding_mask=padding_mask(texts), extras={"chosen": is_chosen}
        )

    def counts(self, batch: Batch) -> dict[str, int]:
        counts = {"preference": int(batch.extras["chosen"].sum()), "critic": int((batch.labels != IGNORED).sum())}
        return {term: counts[term] for term in self.terms}

    def margins(self, model: Transformer, batch: Batch) -> Tensor:
        """Return the margin of each pair, (B,)."""
        with torch.no_grad():
            reference = _answer_log_probs(self.reference.model, batch)
        ratios, is_chosen = _answer_log_probs(model, batch) - reference, batch.extras["chosen"]  # (2 B,)
        return self.section.beta * (ratios[is_chosen] - ratios[~is_chosen])

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        margins = self.margins(model, batch)
        observed = {"chosen_first": (margins > 0).sum(), "largest_margin": margins.max()}
        critic: dict[str, Tensor] = {}
        if self.critic is not None:
            critic["critic"] = -_answer_log_probs(self.critic.model, batch).sum()
        return {"preference": -F.logsigmoid(margins).sum(), **critic, **observed}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        margins = self.margins(model, batch)
        losses, right = float(-F.logsigmoid(margins).sum()), float((margins > 0).sum())
        return {"preference": Sum(losses, len(margins)), "accuracy": Sum(right, len(margins))}

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        return {"loss": weighted_loss(self.terms, sums), "accuracy": sums["accuracy"].mean}

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        margins = self.margins(model, batch)
        for margin, loss in zip(margins.tolist(), (-F.logsigmoid(margins)).tolist(), strict=True):
            yield RowResult({"preference": Sum(loss, 1), "accuracy": Sum(float(margin > 0), 1)}, {"margin": margin})


def _answer_log_probs(model: Transformer, batch: Batch) -> Tensor:
    """Return the sum over the tokens of each answer, (2 B,)."""
    log_probs = label_log_probs(model, model(**batch.inputs()).hidden, batch.labels)
    rows = (batch.labels != IGNORED).nonzero()[:, 0]
    return torch.zeros(len(batch.labels), device=log_probs.device).index_add(0, rows, log_probs.float())


def open_toy(section: ToySection, context: ModelContext) -> Toy:
    reference = open_companion(section, "reference", defer_blocks=context.defer_blocks)
    if reference.model.config.vocab_size != context.config.vocab_size:
        raise UsageError("objective.reference: it has another vocabulary")
    critic = replace(open_companion(section, "critic"), lr=section.critic_lr) if section.critic is not None else None
    return Toy(section, context.tokenizer, context.row_length, reference, critic)


def register_toy() -> Any:
    register(ToySection, Registered(open_toy))
