"""The context in which an objective is constructed: the model, its tokenizer and settings, the stored data, and the order of the rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfkit.data import ExampleRows, ExampleSet, TokenStream
from tfkit.errors import UsageError
from tfkit.model.config import ModelConfig
from tfkit.tokenizer import Tokenizer

MOST_PIECE = 1024  # the most tokens of a text that are scored in one piece, unless the user sets data.sequence_length
LONGER_ROWS = "allow longer rows (data.sequence_length, model.context_length)"  # the remedy for rows that are too short

Stored = TokenStream | ExampleSet  # a source of data in its cached form: the tokens of texts, or examples


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
    """Return the most tokens of a text that are scored in one piece: `sequence_length` or, if it is None, the context length up to 1,024.

    This number does not depend on the length of rows in training, so that the scores of a fine-tuned model and of its base can be compared.
    """
    return row_length(sequence_length or min(MOST_PIECE, config.context_length), config)


@dataclass(frozen=True)
class ModelContext:
    """The configuration and tokenizer of the model that an objective is constructed for, and the settings that the objective reads."""

    config: ModelConfig
    tokenizer: Tokenizer  # with the objective's special tokens (`objective_tokenizer`)
    labels: Sequence[str]  # the classes or tags; empty if the objective has none
    seed: int  # the seed of the run
    folder: Path  # the folder from which the tokenizer was loaded, for error messages
    facts: Mapping[str, Any] = field(default_factory=dict)  # the content of the checkpoint's tfkit.json; empty for a training
    sequence_length: int | None = None  # data.sequence_length
    defer_blocks: bool = False  # whether companions load the weights of their blocks only when ranks shard them, before the first step

    @property
    def row_length(self) -> int:
        """The largest number of tokens in a row. Raises UsageError as the function `row_length` does."""
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
