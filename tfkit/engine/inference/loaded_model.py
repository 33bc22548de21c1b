"""The model that `tfkit.load` returns, with methods to predict, generate and embed, to read attention weights, and to save the model."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tfkit.data.columns.forms import find_surrogate
from tfkit.engine.inference.attended_text import AttendedText, attend_text
from tfkit.engine.listener import Silent
from tfkit.engine.request.call_arguments import Prompts, plain_columns, plain_overrides, require_iterable
from tfkit.engine.request.inputs import Inputs
from tfkit.engine.results import Completion
from tfkit.errors import DataError, UsageError
from tfkit.hub import Loaded
from tfkit.recipe.reading.overrides import Overrides, scored_overrides
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.run.manifest import NAME as MANIFEST
from tfkit.run.manifest import read_manifest, write_manifest
from tfkit.run.signals import interrupts
from tfkit.run.tfkit_json import read_tfkit_json
from tfkit.training.isolation import isolated

_TEXTS_AT_ONCE = 32  # the batch size of `embed`
# Settings with which `attention` generates the answer of an encoder-decoder, in place of those of the checkpoint's run.
_OWN_ANSWER = {"generation.temperature": 0.0, "generation.num_beams": 1, "generation.max_new_tokens": 64}


@dataclass(frozen=True)
class LoadedModel(Loaded):
    """A model in memory, with the tokenizer and the configuration of its folder. Its methods use the current weights of `model`."""

    def __repr__(self) -> str:
        """Return one line, while a dataclass's default would show all weights and the vocabulary, in thousands of lines."""
        count = sum(parameter.numel() for parameter in self.model.parameters())
        return f"LoadedModel({str(self.folder)!r}, head {self.config.head.kind}, {count:,} parameters)"

    def save(self, folder: str | Path) -> None:
        """Write a model folder as training does: float32 weights, configuration, tokenizer, file hashes, and the models it descends from.

        A model that `save` wrote into the folder before is replaced. Raises UsageError for the folder of a run or of a training checkpoint,
        which would be lost, and ModelError for weights of 8 bits.
        """
        target = Path(folder)
        Inputs().refuse_output(target, "folder")
        if target.is_file():
            raise UsageError(f"{target}: is a file, and a model is a folder; give another one")
        held = next((name for name in ("run.json", "manifest.json") if (target / name).exists()), None)
        if held == "run.json" or (held and read_tfkit_json(target).objective is not None):  # only a training writes an objective
            raise UsageError(f"{target}: holds a {held}, so it is a run or a checkpoint, which is never overwritten; give another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target if target.is_dir() else target.parent, prefix=f".{target.name}.") as made:
            super().save(made)
            write_manifest(Path(made))
            target.mkdir(exist_ok=True)
            for name in read_manifest(target) if held else ():  # also removes files that the new model may lack, such as a chat template
                (target / name).unlink(missing_ok=True)
            for path in sorted(Path(made).iterdir(), key=lambda path: path.name == MANIFEST):  # moves the manifest last
                shutil.move(path, target / path.name)

    def predict(
        self,
        rows: Iterable[Mapping[str, Any] | str] | Mapping[str, Any] | str,
        overrides: Overrides | None = None,
        *,
        columns: Mapping[str, str | Sequence[str]] | None = None,
        all_labels: bool = False,
    ) -> list[dict[str, Any]]:
        """Return a dict for each row (a dict or a text): its fields and its `prediction`. No energy is measured.

        For more rows than fit into memory, use `tfkit.predict`, which yields the same dicts one after another.
        """
        from tfkit.engine.inference.predicting import open_predictor

        changes = scored_overrides(plain_columns(columns), plain_overrides(overrides))
        predictor = open_predictor(self.folder, changes, all_labels=all_labels)
        given = [*predictor.given_rows(rows)]  # before `isolated`, which would undo the iterator's changes to torch's random state
        with isolated():
            predictor.use(self)
            return [row for window in predictor.windows(given) for row in window]

    def generate(self, prompts: Prompts, overrides: Overrides | None = None, *, chat: bool = False) -> list[Completion]:
        """Return the continuation of each prompt, in the order of the prompts, as `tfkit.generate` does; no energy is measured."""
        from tfkit.engine.inference.session import open_session
        from tfkit.engine.inference.text_generator import TextGenerator

        generator = TextGenerator(str(self.folder), plain_overrides(overrides), chat=chat)
        unmetered = CarbonSection(enabled=False)
        with isolated(), interrupts(None) as stop, open_session("generate", unmetered, None, Silent(), stop) as session:
            generator.use(self, session)
            return generator.all_completions(prompts)

    def embed(self, texts: str | Iterable[str]) -> torch.Tensor:
        """Return a vector for each text, (texts, dim), float32, on the CPU: the mean of the last hidden states over the text's tokens.

        The states are those after the last norm, for an encoder-decoder those of its encoder. The special tokens that the tokenizer adds
        are included; a text is cut to the model's context length. Vectors are not normalised: compute their cosine with
        torch.nn.functional.cosine_similarity. Raises DataError for a text without a token, or with half a character
        (a surrogate), UsageError for an item that is no text.
        """
        from tfkit.evaluation.embeddings import embed

        given = [*require_iterable([texts] if isinstance(texts, str) else texts, "embed takes texts", "a list, such as [*table['text']]")]
        for number, text in enumerate(given, 1):
            if not isinstance(text, str):
                raise UsageError(f"text {number}: is of type {type(text).__name__}; give a text")
            if position := find_surrogate([text]):
                raise DataError(f"text {number}: holds half a surrogate pair at {position}; repair it, or leave it out")
        return embed(self.model, self.require_tokenizer(), given, _TEXTS_AT_ONCE)

    def attention(self, text: str, target: str | None = None, *, next_tokens: int = 0) -> AttendedText:
        """Return what each head attends to while the model reads a text: `.tokens`, `.target_tokens`, `.maps`, `.visible`.

        The text has the special tokens of the tokenizer, but no chat template. `target`: what the decoder of an encoder-decoder reads;
        None: the model's own answer, decoded greedily. `next_tokens`: how many of the likeliest next tokens are returned for each position.
        Raises the errors of `attend_text`, such as DataError for a text that does not fit the context.

        Example:

            attended = loaded.attention("the cat sat on the mat")
            attended.maps["decoder"][0, 3]  # (to, from): the weights of layer 0, head 3
        """
        if target is None and self.model.encoder is not None and self.model.decoder is not None:
            target = self.generate(text, _OWN_ANSWER)[0].completion
        return attend_text(self, text, target, next_tokens)
