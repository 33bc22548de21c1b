"""The model that `tfkit.load` returns, with methods for rows, prompts and texts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfkit.engine.listener import Silent
from tfkit.engine.results import Completion
from tfkit.hub import Loaded
from tfkit.recipe.reading.overrides import Overrides, plain_columns, plain_overrides, scored_overrides
from tfkit.run.signals import interrupts
from tfkit.training.isolation import isolated

if TYPE_CHECKING:
    import torch

_TEXTS_AT_ONCE = 32  # in a batch of `embed`


@dataclass(frozen=True)
class LoadedModel(Loaded):
    """A model in memory, with the tokenizer and the configuration of its folder. Its methods use the current weights of `model`."""

    def predict(
        self,
        rows: Iterable[Mapping[str, Any] | str] | Mapping[str, Any] | str,
        overrides: Overrides | None = None,
        *,
        columns: Mapping[str, str | Sequence[str]] | None = None,
        all_labels: bool = False,
    ) -> list[dict[str, Any]]:
        """Return each row, a dict or a text alone, with its `prediction`. No energy is measured.

        For more rows than fit into memory, `tfkit.predict` yields the same, one after another.
        """
        from tfkit.engine.inference.predicting import open_predictor

        changes = scored_overrides(plain_columns(columns)) | plain_overrides(overrides)
        predictor = open_predictor(self.folder, changes, all_labels=all_labels)
        with isolated():
            predictor.use(self)
            return [row for window in predictor.answers(predictor.given_rows(rows)) for row in window]

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[Mapping[str, str]]],
        overrides: Overrides | None = None,
        *,
        chat: bool = False,
    ) -> list[Completion]:
        """Continue each prompt, in order, as `tfkit.generate` does; no energy is measured."""
        from tfkit.engine.inference.session import session
        from tfkit.engine.inference.text_generator import TextGenerator
        from tfkit.recipe.schema.carbon_section import CarbonSection

        generator = TextGenerator(str(self.folder), plain_overrides(overrides), chat=chat)
        unmetered = CarbonSection(enabled=False)
        with isolated(), interrupts(None) as stop, session("generate", unmetered, None, Silent(), stop) as work:
            generator.use(self, work)
            return generator.all_completions(prompts)

    def embed(self, texts: str | Iterable[str]) -> "torch.Tensor":
        """Return a vector for each text, (N, dim), float32, on the CPU: the mean of the last hidden states over the text's tokens.

        The states are those after the last norm, for an encoder-decoder those of its encoder. The special tokens that the tokenizer adds
        are included, and tokens beyond the context are not read. Vectors are not normalised: their cosine is
        torch.nn.functional.cosine_similarity. Raises DataError for a text without a token.
        """
        from tfkit.evaluation.embeddings import embed

        return embed(self.model, self.require_tokenizer(), [texts] if isinstance(texts, str) else list(texts), _TEXTS_AT_ONCE)
