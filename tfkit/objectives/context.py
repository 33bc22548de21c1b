"""The input of an objective: its model's configuration, tokenizer and settings, its sources as cached data, and how to order its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfkit.data import ExampleRows, ExampleSet, TokenStream
from tfkit.errors import UsageError
from tfkit.model.config import ModelConfig
from tfkit.tokenizer import Tokenizer

MOST_PIECE = 1024  # the most tokens of the pieces in which a text is scored, unless the user sets data.sequence_length
LONGER_ROWS = "allow longer rows (data.sequence_length, model.context_length)"  # the remedy in errors about texts that need longer rows

Stored = TokenStream | ExampleSet  # a source of data in its cached form: the tokens of texts, or encoded rows (examples)


def tokens_of(stored: Stored) -> int:
    """Return the number of tokens in a source."""
    return int(stored.lengths.sum()) if isinstance(stored, ExampleSet) else len(stored.tokens)


def row_length(sequence_length: int | None, config: ModelConfig) -> int:
    """Return the number of tokens of a row: `sequence_length` or, if it is None, the model's context length. Raises UsageError if
    `sequence_length` exceeds the context length, unless positions are relative.
    """
    length = sequence_length or config.context_length
    if length > config.context_length and config.position.kind != "relative":
        raise UsageError(
            f"data.sequence_length is {length:,}, but the model's context holds {config.context_length:,} tokens: set it to that or less, "
            "or leave it out"
        )
    return length


def piece_length(sequence_length: int | None, config: ModelConfig) -> int:
    """Return how many tokens a scored piece of a text has at most: `sequence_length` or, if it is None, min(context length, 1,024).

    The default does not depend on the length of training rows, so that the scores of a fine-tuned model and of its base can be compared.
    """
    return row_length(sequence_length or min(MOST_PIECE, config.context_length), config)


@dataclass(frozen=True)
class ModelContext:
    """The configuration and tokenizer of the model that an objective is constructed for, and the settings that the objective reads."""

    config: ModelConfig
    tokenizer: Tokenizer  # with the objective's special tokens (`objective_tokenizer`)
    labels: Sequence[str]  # the classes, tags or labels; empty if the objective has none
    seed: int  # the seed of the run
    folder: Path  # the folder from which the tokenizer was loaded, for error messages
    facts: Mapping[str, Any] = field(default_factory=dict)  # the content of the checkpoint's tfkit.json; empty in a training
    sequence_length: int | None = None  # data.sequence_length; None: the model's context length
    defer_blocks: bool = False  # whether further models (a teacher) load their blocks only when ranks shard them, before the first step

    @property
    def row_length(self) -> int:
        """The largest number of tokens in a row. Raises UsageError if `sequence_length` is too long for the model."""
        return row_length(self.sequence_length, self.config)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the model has an encoder and a decoder."""
        return self.config.encoder_layers > 0 and self.config.decoder_layers > 0


@dataclass(frozen=True)
class RowOrder:
    """The settings by which an objective cuts and orders its rows."""

    length: int  # the largest number of tokens in a row
    seed: int
    batch_size: int
    length_groups: bool  # whether rows of similar lengths share batches


def streams_of(stored: Sequence[tuple[Stored, float]]) -> list[tuple[TokenStream, float]]:
    """Return the sources that are streams of text, with their weights."""
    return [(source, weight) for source, weight in stored if isinstance(source, TokenStream)]


def example_rows(stored: Sequence[tuple[Stored, float]], order: RowOrder, *, packed: bool = False) -> ExampleRows:
    """Return the rows of the sources that are sets of examples: one example per row or, if `packed`, several."""
    sets = [(source, weight) for source, weight in stored if isinstance(source, ExampleSet)]
    length = order.length if packed else None
    return ExampleRows(sets, order.seed, batch_size=order.batch_size, length_groups=order.length_groups, packed_length=length)
