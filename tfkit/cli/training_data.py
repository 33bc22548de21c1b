"""From a recipe's data and tokenizer sections to token streams: what every training command does first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tfkit import console
from tfkit.carbon import Meter
from tfkit.data import Source, TokenStream, token_stream, trained_tokenizer
from tfkit.data.sources import training_sources, validation_sources
from tfkit.errors import ModelError
from tfkit.recipe.schema import Recipe
from tfkit.run.folder import RunFolder
from tfkit.run.signals import StopSignals
from tfkit.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class RunContext:
    """What surrounds a training: where it lives, who asks it to stop, what it costs."""

    recipe: Recipe
    folder: RunFolder
    signals: StopSignals
    meter: Meter
    device: torch.device


@dataclass(frozen=True)
class TrainingData:
    """The corpus as the model will see it."""

    tokenizer: Tokenizer
    train: list[tuple[TokenStream, float]]  # with the weight of each source
    validation: list[TokenStream]

    def fingerprints(self) -> dict[str, list[str]]:
        """What the training and the validation text were; a resumed run must find the same."""
        return {"train": [stream.fingerprint for stream, _ in self.train], "validation": [stream.fingerprint for stream in self.validation]}


def prepare_data(recipe: Recipe, signals: StopSignals, meter: Meter) -> TrainingData:
    """Find the text, train or load the tokenizer, tokenize. All of it may be in the cache already."""
    meter.phase("tokenize")
    with signals.at_once("nothing was trained yet"):
        sources, held_out = training_sources(recipe.data), validation_sources(recipe.data)
        for source in (*sources, *held_out):
            console.say(source.describe())
        tokenizer = _tokenizer(recipe, sources)
        streams = [_stream(source, tokenizer) for source in sources]
        validation = [_stream(source, tokenizer) for source in held_out]
        for stream in validation:
            stream.check_targets()
    for note in dict.fromkeys(
        stream.describe_skipped() for stream in (*streams, *validation)
    ):  # a source and its held-out part say the same
        if note:
            console.warn(note)
    tokens = sum(len(stream.tokens) for stream in streams)
    console.say(
        f"{tokens:,} training tokens, vocabulary {tokenizer.size:,}" + (", from the cache" if all(s.cached for s in streams) else "")
    )
    weights = [section.weight for section in recipe.data.train]
    return TrainingData(tokenizer, list(zip(streams, weights, strict=True)), validation)


def _tokenizer(recipe: Recipe, sources: Sequence[Source]) -> Tokenizer:
    section = recipe.tokenizer
    if section.path is not None:
        loaded = load_tokenizer(Path(section.path))
        if loaded is None:
            raise ModelError(f"tokenizer.path: {section.path} has no tokenizer.json")
        return loaded
    with console.progress("training the tokenizer", sum(source.size_bytes for source in sources), "bytes") as bar:
        tokenizer = trained_tokenizer(sources, section, bar.advance)
    if tokenizer.size < section.vocab_size:
        console.warn(f"the text gives only {tokenizer.size:,} tokenizer entries, not tokenizer.vocab_size {section.vocab_size:,}")
    return tokenizer


def _stream(source: Source, tokenizer: Tokenizer) -> TokenStream:
    with console.progress(f"tokenizing {source.name}", source.size_bytes, "bytes") as bar:
        return token_stream(source, tokenizer, bar.advance)
