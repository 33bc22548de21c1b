"""Models that score texts: a reward model, a value model (initialized from a reward model: InstructGPT, arXiv 2203.02155), a gold model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tfkit.data import Encoded, ExampleBatch, Row
from tfkit.errors import ModelError
from tfkit.model.config import ClassesHeadConfig
from tfkit.model.task_heads import ClassesHead
from tfkit.objectives.classification import Classification
from tfkit.objectives.companion import Companion, open_companion, refuse_misfit
from tfkit.objectives.context import ModelContext
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.reward import read_shift, reward_scores
from tfkit.recipe.schema.label_sections import ClassificationSection
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.tokenizer import Tokenizer

_ENCODING = ("model", "normalizer", "pre_tokenizer")  # the parts of tokenizer.json that determine the ids of a text, besides added_tokens


@dataclass(frozen=True)
class ScoreModel:
    """A model whose head has one output, read at the last token for a text's score; `shift` is subtracted from that output."""

    companion: Companion
    shift: float = 0.0

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.companion.model.parameters()).device

    def scores(self, batch: Batch) -> Tensor:
        """Return the score of each sequence of a batch on the model's device: (B,) in float32."""
        return reward_scores(self.companion.model, batch) - self.shift

    def values(self, batch: Batch) -> Tensor:
        """Return the score of the text before each labelled token: (targets,) in float32."""
        head = self.companion.model.head
        assert isinstance(head, ClassesHead)
        hidden = self.companion.model(**batch.inputs()).hidden[batch.labels != IGNORED]  # (targets, D)
        return head.of_states(hidden)[:, 0].float() - self.shift


def open_score_model(section: ObjectiveSection, name: str, context: ModelContext) -> ScoreModel | None:
    """Load a section's model `name`, such as `reward`; None if it has none. Raises ModelError if it cannot score the policy's texts."""
    if name not in section.companion_paths:
        return None
    return score_model(open_companion(section, name, defer_blocks=context.defer_blocks), context)


def score_model(companion: Companion, context: ModelContext) -> ScoreModel:
    """Return a loaded model as a score model for a policy's texts. Raises ModelError, with all reasons, if it cannot score these texts."""
    config, codec, head = companion.model.config, companion.tokenizer, companion.model.config.head
    reasons = []
    if not isinstance(head, ClassesHeadConfig) or head.count != 1:
        reasons.append("it does not give a text one number: name a model that objective.kind reward has trained")
    elif config.encoder_layers or head.pool != "last":
        reasons.append("it reads a text at its first token, so it has no value for the beginning of one: name a model with a decoder alone")
    if codec is None:
        reasons.append("it has no tokenizer.json, so the tokens of its ids are not known")
    elif not gives_same_ids(codec, context.tokenizer):
        reasons.append("its tokenizer is not that of the policy: train it from the same checkpoint")
    if config.context_length < context.row_length and config.position.kind != "relative":
        reasons.append(
            f"its context_length is {config.context_length:,}, and the policy's texts have up to {context.row_length:,} tokens: "
            f"set data.sequence_length to {config.context_length} or less"
        )
    refuse_misfit(companion, "judge the texts of this model", reasons)
    return ScoreModel(companion, read_shift(companion.facts, companion.path))


def gives_same_ids(theirs: Tokenizer, ours: Tokenizer) -> bool:
    """Whether both encode each text, templates aside, to the same ids; `theirs` may have additional tokens, such as one for padding."""
    documents = their_document, our_document = json.loads(theirs.tokenizer_json), json.loads(ours.tokenizer_json)
    their_tokens, our_tokens = ({(token["id"], token["content"]) for token in each.get("added_tokens") or ()} for each in documents)
    return our_tokens <= their_tokens and all(their_document.get(part) == our_document.get(part) for part in _ENCODING)


class GoldModel:
    """A classifier, with its own tokenizer, whose score of a text is the probability of its last class or, of a regression, the output.

    The scores of an objective's `gold` model are only reported: if they fall while the reward rises, the policy exploits the reward model.
    Gao et al. 2022 (arXiv 2210.10760) call such a model the gold reward model. The judge of AI feedback is such a classifier, too.
    """

    def __init__(self, companion: Companion):
        """Raises ModelError if the model is not a classifier with a tokenizer, or is multi-label or an encoder-decoder."""
        config, codec, is_multi_label = companion.model.config, companion.tokenizer, companion.problem_type == "multi_label_classification"
        if not isinstance(config.head, ClassesHeadConfig) or config.stacks == "both" or codec is None or is_multi_label:
            raise ModelError(
                f"objective.{companion.name}: {companion.path} is not a text classifier"
                + (", but gives a text any number of labels" if is_multi_label else "")
                + ": name a model that objective.kind classification has trained"
            )
        self.companion = companion
        self._texts = Classification(ClassificationSection(kind="classification"), codec, (), config.context_length, None)

    @torch.no_grad()
    def scores(self, texts: Sequence[str], batch_size: int) -> list[float]:
        """Return the score of each text, truncated to the context as in training; NaN for a text without tokens."""
        scores = [float("nan")] * len(texts)
        encoded = self._texts.encode_unlabelled([Row(text, "", {"text": text}) for text in texts])
        kept = [(number, item) for number, item in enumerate(encoded) if isinstance(item, Encoded)]
        device = next(self.companion.model.parameters()).device
        with self.companion.model.unsharded():
            for start in range(0, len(kept), batch_size):
                part = kept[start : start + batch_size]
                numbers = np.array([number for number, _ in part])
                examples = ExampleBatch([[item.example()] for _, item in part], np.zeros_like(numbers), numbers)
                batch = self._texts.collate(examples).to(device)
                logits = self.companion.model(**batch.inputs()).logits.float()
                values = logits[:, 0] if logits.shape[1] == 1 else logits.softmax(-1)[:, -1]
                for number, value in zip(numbers.tolist(), values.tolist(), strict=True):
                    scores[number] = value
        return scores


def open_gold_model(section: ObjectiveSection, context: ModelContext) -> GoldModel | None:
    """Load the gold model that the section names; None if it names none. Raises ModelError if the model is not a text classifier."""
    if "gold" not in section.companion_paths:
        return None
    return GoldModel(open_companion(section, "gold", defer_blocks=context.defer_blocks))
