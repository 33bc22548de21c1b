"""The surroundings of an objective: the model that it is opened for, the stored data, and the order of its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfkit.data import ExampleRows, ExampleSet, TokenStream
from tfkit.model.config import ModelConfig
from tfkit.tokenizer import Tokenizer

Stored = TokenStream | ExampleSet  # what is in the cache of a source: a stream of text, or examples


def tokens_of(stored: Stored) -> int:
    """Return the number of tokens in a source."""
    return int(stored.lengths.sum()) if isinstance(stored, ExampleSet) else len(stored.tokens)


@dataclass(frozen=True)
class ModelContext:
    """The model that an objective is opened for."""

    config: ModelConfig
    tokenizer: Tokenizer  # as the objective's `fit_tokenizer` made it
    labels: Sequence[str]  # the classes or tags, of an objective that has some
    seed: int  # of the run
    folder: Path  # that the tokenizer came from, for errors
    facts: Mapping[str, Any] = field(default_factory=dict)  # of a finished model: its tfkit.json

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the model has both stacks."""
        return self.config.encoder_layers > 0 and self.config.decoder_layers > 0


@dataclass(frozen=True)
class RowOrder:
    """How rows are cut and ordered."""

    length: int  # tokens of a row, at most
    seed: int
    batch_size: int
    length_groups: bool  # batches of rows of like lengths


def streams_of(stored: Sequence[tuple[Stored, float]]) -> list[tuple[TokenStream, float]]:
    """The streams of text among weighted sources."""
    return [(one, weight) for one, weight in stored if isinstance(one, TokenStream)]


def example_rows(stored: Sequence[tuple[Stored, float]], order: RowOrder, *, packed: bool = False) -> ExampleRows:
    """The rows of weighted sets of examples: each example a row, or `packed`, several."""
    sets = [(one, weight) for one, weight in stored if isinstance(one, ExampleSet)]
    length = order.length if packed else None
    return ExampleRows(sets, order.seed, batch_size=order.batch_size, length_groups=order.length_groups, packed_length=length)
