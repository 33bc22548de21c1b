"""A classifier that judges sampled texts for the log alone: where the reward rises and its score falls, the reward model is exploited.

Gao et al. 2022 (arXiv 2210.10760) call such a judge the gold reward model; it has a tokenizer of its own, and reads texts.
"""

from collections.abc import Sequence

import numpy as np
import torch

from tfkit.data import Encoded, ExampleBatch, Row
from tfkit.errors import ModelError
from tfkit.model.config import ClassesHeadConfig
from tfkit.objectives.classification import Classification
from tfkit.objectives.companion import Companion, open_companion
from tfkit.objectives.context import ModelContext
from tfkit.recipe.schema.label_sections import ClassificationSection
from tfkit.recipe.schema.objective_facts import ObjectiveSection


class GoldModel:
    """A companion that gives a text the probability of its last class, or its number if it has no classes."""

    def __init__(self, companion: Companion):
        """Raises ModelError if it is no classifier of texts."""
        config, codec = companion.model.config, companion.tokenizer
        if not isinstance(config.head, ClassesHeadConfig) or (config.encoder_layers and config.decoder_layers) or codec is None:
            raise ModelError(
                f"objective.{companion.name}: {companion.path} is not a text classifier: name a model that objective.kind classification "
                "has trained"
            )
        self.companion = companion
        self._texts = Classification(ClassificationSection(kind="classification"), codec, (), config.context_length, None)

    def scores(self, texts: Sequence[str], batch_size: int) -> list[float]:
        """Return the score of each text, cut to its context as in training; NaN of one without a token."""
        with torch.no_grad(), self.companion.model.whole_at_work():
            return self._scores(texts, batch_size)

    def _scores(self, texts: Sequence[str], batch_size: int) -> list[float]:
        found = [float("nan")] * len(texts)
        encoded = self._texts.encode_unlabelled([Row(text, "", {"text": text}) for text in texts])
        kept = [(number, one) for number, one in enumerate(encoded) if isinstance(one, Encoded)]
        device = next(self.companion.model.parameters()).device
        for start in range(0, len(kept), batch_size):
            part = kept[start : start + batch_size]
            numbers = np.array([number for number, _ in part])
            examples = ExampleBatch([[one.example()] for _, one in part], np.zeros_like(numbers), numbers)
            batch = self._texts.collate(examples).to(device)
            logits = self.companion.model(**batch.inputs()).logits.float()
            values = logits[:, 0] if logits.shape[1] == 1 else logits.softmax(-1)[:, -1]
            for number, value in zip(numbers.tolist(), values.tolist(), strict=True):
                found[number] = value
        return found


def open_gold_model(section: ObjectiveSection, name: str, context: ModelContext) -> GoldModel | None:
    """Load the gold model of a field; None where the section names none. Raises ModelError."""
    if name not in section.companion_paths:
        return None
    return GoldModel(open_companion(section, name, blocks_later=context.blocks_later))
