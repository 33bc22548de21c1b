"""A loaded model for Python: `tfkit.load`, and the model's methods for rows, prompts and texts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.engine.library.argument_names import naming_arguments
from tfkit.engine.library.calls import Overrides, interrupts, words_of
from tfkit.engine.listener import Silent
from tfkit.engine.results import Completion
from tfkit.engine.training_run.isolation import isolated
from tfkit.hub import Loaded

if TYPE_CHECKING:
    import torch

    from tfkit.generation.answer_precision import Precision

_TEXTS_AT_ONCE = 32  # in a batch of `embed`


@dataclass(frozen=True)
class LoadedModel(Loaded):
    """A model in memory, with the tokenizer and the configuration of its folder. Its methods use the current weights of `model`."""

    def predict(
        self, rows: Iterable[Mapping[str, Any] | str] | Mapping[str, Any] | str, overrides: Overrides = None, *, all_labels: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Yield each row, a dict or a text alone, with its `prediction`, as `tfkit.predict` does; no energy is measured."""
        from tfkit.engine.inference.predicting import open_predictor

        predictor = open_predictor(self.folder, words_of(overrides), all_labels=all_labels)
        predictor.use(self)
        answers = predictor.answers(predictor.given_rows(rows))
        while True:
            with isolated():
                window = next(answers, None)
            if window is None:
                return
            yield from window

    def generate(
        self, prompts: str | Sequence[str] | Sequence[Sequence[Mapping[str, str]]], overrides: Overrides = None, *, chat: bool = False
    ) -> list[Completion]:
        """Continue each prompt, in order, as `tfkit.generate` does; no energy is measured."""
        from tfkit.engine.inference.session import session
        from tfkit.engine.inference.text_generator import TextGenerator
        from tfkit.recipe.schema.carbon_section import CarbonSection

        generator = TextGenerator(str(self.folder), words_of(overrides), chat=chat)
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


@naming_arguments()
def load(
    path: str | Path,
    *,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    precision: "Precision" = "float32",
    verify: bool = True,
    **options: Any,
) -> LoadedModel:
    """Load a checkpoint, a run folder (its best checkpoint, else its newest), a Hugging Face model folder, or hub:org/name@revision.

    An adapter, tfkit's or peft's, is loaded as its base with the updates added. `precision`: float32, bf16, int8 (a model that can
    answer, and be neither trained nor saved), or auto, as --precision; a `dtype` replaces it. `verify`: compare the files with
    the manifests of their folders, if there are any. `options`: those of tfkit.hub.load. Raises ModelError.

    Example:

        loaded = tfkit.load("runs/my")  # .model (a torch.nn.Module)  .tokenizer  .config  .labels
        ids = torch.tensor([loaded.tokenizer.encode("the cat sat").ids])
        logits = loaded.model(ids).logits  # (1, tokens, vocabulary); of a classifier (1, classes)

        for row in loaded.predict([{"text": "what a film"}]):  # for a model that was trained on labelled rows
            print(row["prediction"], row["probability"])
        loaded.generate("Once upon a time")[0].completion  # for a language model
        loaded.embed(["a text", "another"])  # (2, dim)
        loaded.save("folder")  # the model folder that training writes
    """
    import torch

    from tfkit import adapters
    from tfkit.generation.answer_precision import open_in_precision
    from tfkit.training.device import has_bf16

    def in_type(wanted: "torch.dtype") -> Loaded:
        return adapters.load(path, device=device, dtype=wanted, verify=verify, **options)

    if dtype is None:
        loaded = open_in_precision(in_type, precision, torch.device(device), bool, has_bf16=has_bf16(torch.device(device))).loaded
    else:
        loaded = in_type(dtype)
    return LoadedModel(**{field.name: getattr(loaded, field.name) for field in fields(loaded)})
