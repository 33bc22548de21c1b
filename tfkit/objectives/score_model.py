"""Models that give a text one number, its score: a reward model, and a value model that begins as one (InstructGPT, arXiv 2203.02155)."""

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from tfkit.errors import ModelError
from tfkit.model.config import ClassesHeadConfig
from tfkit.model.head import ClassesHead
from tfkit.objectives.companion import Companion, open_companion
from tfkit.objectives.context import ModelContext
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.reward import read_shift, reward_scores
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.tokenizer import Tokenizer

_MEANING = ("model", "normalizer", "pre_tokenizer")  # the parts of tokenizer.json that give a text its ids


@dataclass(frozen=True)
class ScoreModel:
    """A companion with one class, read at the last token; `shift` is subtracted from what it gives."""

    companion: Companion
    shift: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.companion.model.parameters()).device

    def scores(self, batch: Batch) -> Tensor:
        """Return the score of each sequence, of a batch on its device: (B,) in float32."""
        return reward_scores(self.companion.model, batch) - self.shift

    def values(self, batch: Batch) -> Tensor:
        """Return the value at each position that has a label, before that token: (targets,) in float32.

        It is the score that the text would have if it ended there: of the last token it is the score.
        """
        head = self.companion.model.head
        assert isinstance(head, ClassesHead)
        hidden = self.companion.model(**batch.inputs()).hidden[batch.labels != IGNORED]  # (targets, D)
        return head.of_states(hidden)[:, 0].float() - self.shift


def open_score_model(section: ObjectiveSection, name: str, context: ModelContext) -> ScoreModel | None:
    """Load the score model of a field, for the texts of a policy; None where the section names none. Raises ModelError."""
    if name not in section.companion_paths:
        return None
    return score_model(open_companion(section, name, blocks_later=context.blocks_later), context)


def score_model(companion: Companion, context: ModelContext) -> ScoreModel:
    """Return a companion as a score model for the texts of a model.

    Raises ModelError, with all reasons, if it gives these texts no score.
    """
    found, codec, head = companion.model.config, companion.tokenizer, companion.model.config.head
    reasons = []
    if not isinstance(head, ClassesHeadConfig) or head.count != 1:
        reasons.append("it does not give a text one number: name a model that objective.kind reward has trained")
    elif found.encoder_layers or head.pool != "last":
        reasons.append("it reads a text at its first token, so it has no value for the beginning of one: name a model with a decoder alone")
    if codec is None:
        reasons.append("it has no tokenizer.json, so the tokens of its ids are not known")
    elif not gives_same_ids(codec, context.tokenizer):
        reasons.append("its tokenizer is not that of the policy: train it from the same checkpoint")
    if found.context_length < context.row_length and found.position.kind != "relative":
        reasons.append(
            f"its context_length is {found.context_length:,}, and the policy's texts have up to {context.row_length:,} tokens: "
            f"set data.sequence_length to {found.context_length} or less"
        )
    if reasons:
        lines = "\n  ".join(reasons)
        raise ModelError(f"objective.{companion.name}: {companion.path} cannot judge the texts of this model:\n  {lines}")
    return ScoreModel(companion, read_shift(companion.facts, companion.path))


def gives_same_ids(theirs: Tokenizer, ours: Tokenizer) -> bool:
    """Whether a tokenizer gives every text the ids of ours; it may have further entries, such as one for padding."""
    one, other = json.loads(theirs.tokenizer_json), json.loads(ours.tokenizer_json)
    added = [{(entry["id"], entry["content"]) for entry in document.get("added_tokens") or ()} for document in (one, other)]
    return added[1] <= added[0] and all(one.get(part) == other.get(part) for part in _MEANING)
