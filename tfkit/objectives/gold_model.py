"""A classifier whose scores of sampled texts are only logged: if the reward rises while they fall, the policy exploits the reward model.

Gao et al. 2022 (arXiv 2210.10760) call it the gold reward model. It reads texts, by its own tokenizer.
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
    """A companion that scores a text by the probability of the last class or, for a regression, by its output."""

    def __init__(self, companion: Companion):
        """Raises ModelError if the companion is not a text classifier."""
        config, codec = companion.model.config, companion.tokenizer
        if not isinstance(config.head, ClassesHeadConfig) or (config.encoder_layers and config.decoder_layers) or codec is None:
            raise ModelError(
                f"objective.{companion.name}: {companion.path} is not a text classifier: name a model that objective.kind classification "
                "has trained"
            )
        self.companion = companion
        self._texts = Classification(ClassificationSection(kind="classification"), codec, (), config.context_length, None)

    def scores(self, texts: Sequence[str], batch_size: int) -> list[float]:
        """Return the score of each text, truncated to the context as in training; NaN for a text without tokens."""
        with torch.no_grad(), self.companion.model.unsharded():
            return self._scores(texts, batch_size)

    def _scores(self, texts: Sequence[str], batch_size: int) -> list[float]:
        scores = [float("nan")] * len(texts)
        encoded = self._texts.encode_unlabelled([Row(text, "", {"text": text}) for text in texts])
        kept = [(number, item) for number, item in enumerate(encoded) if isinstance(item, Encoded)]
        device = next(self.companion.model.parameters()).device
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


def open_gold_model(section: ObjectiveSection, name: str, context: ModelContext) -> GoldModel | None:
    """Load the gold model that a field of the section names; None if it names none. Raises ModelError."""
    if name not in section.companion_paths:
        return None
    return GoldModel(open_companion(section, name, defer_blocks=context.defer_blocks))
