"""From the section of a recipe to the objective, and from what is stored to its rows."""

from collections.abc import Sequence

from tfkit.data import Encoder, ExampleRows, ExampleSet, PackedRows, Rows, TokenStream
from tfkit.model.config import ModelConfig
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.classification import Classification
from tfkit.objectives.objective import Objective
from tfkit.recipe.objectives import CausalLMSection, ClassificationSection
from tfkit.recipe.schema import Recipe
from tfkit.tokenizer import Tokenizer

Stored = TokenStream | ExampleSet  # what lies in the cache of a source: a stream of text, or examples


def open_objective(recipe: Recipe, config: ModelConfig, tokenizer: Tokenizer, labels: Sequence[str]) -> Objective:
    """The objective of a recipe for a model. `labels`: the classes or tags, where it has some. Raises ModelError if they do not fit."""
    both = config.encoder_layers > 0 and config.decoder_layers > 0
    start_id = tokenizer.start_id if both else None
    match recipe.objective:
        case CausalLMSection() as section:
            return CausalLM(section.documents, tokenizer.eos_id)
        case ClassificationSection() as section:
            return Classification(section, tokenizer, labels, config.context_length, start_id)


def encoder_of(objective: Objective) -> Encoder | None:
    """What turns labelled rows into examples; None for an objective that reads a stream of text."""
    return objective if isinstance(objective, Encoder) else None


def open_rows(recipe: Recipe, objective: Objective, stored: Sequence[tuple[Stored, float]], config: ModelConfig) -> Rows:
    """The rows of weighted sources as the objective cuts them. Raises DataError if a source has too little for one."""
    seed = recipe.training.seed
    sets = [(one, weight) for one, weight in stored if isinstance(one, ExampleSet)]
    streams = [(one, weight) for one, weight in stored if isinstance(one, TokenStream)]
    if sets:
        return ExampleRows(sets, seed, batch_size=recipe.training.batch_size, length_groups=recipe.data.length_groups)
    return PackedRows(streams, config.context_length, seed)
