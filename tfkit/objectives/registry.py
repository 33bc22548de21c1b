"""From the section of a recipe to the objective, and from what is stored to its rows."""

from collections.abc import Sequence
from pathlib import Path

from tfkit.data import Encoder, ExampleRows, ExampleSet, FramedRows, PackedRows, Rows, SentencePairRows, SpanRows, TokenStream
from tfkit.errors import ModelError
from tfkit.model.config import ModelConfig
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.chat import Chat, fit_tokenizer
from tfkit.objectives.classification import Classification
from tfkit.objectives.distillation import Distillation
from tfkit.objectives.masked_lm import MaskedLM
from tfkit.objectives.multiple_choice import MultipleChoice
from tfkit.objectives.objective import Objective
from tfkit.objectives.span_corruption import SpanCorruption, open_span_corruption
from tfkit.objectives.tagging import Tagging
from tfkit.objectives.teacher import open_teacher
from tfkit.objectives.text_to_text import TextToText
from tfkit.recipe.schema.objective_sections import (
    CausalLMSection,
    ChatSection,
    ClassificationSection,
    DistillationSection,
    FewShotSection,
    MaskedLMSection,
    MinimalPairsSection,
    MultipleChoiceSection,
    SpanCorruptionSection,
    TaggingSection,
    TextToTextSection,
    judges_only,
)
from tfkit.recipe.schema.sections import Recipe
from tfkit.tokenizer import Tokenizer

Stored = TokenStream | ExampleSet  # what lies in the cache of a source: a stream of text, or examples


def open_objective(recipe: Recipe, config: ModelConfig, tokenizer: Tokenizer, labels: Sequence[str]) -> Objective:
    """The objective of a recipe for a model. `labels`: the classes or tags, where it has some. Raises ModelError if they do not fit."""
    both = config.encoder_layers > 0 and config.decoder_layers > 0
    start_id = tokenizer.start_id if both else None
    match recipe.objective:
        case CausalLMSection() as section:
            return CausalLM(section.documents, tokenizer.eos_id)
        case MaskedLMSection() as section:
            return MaskedLM(section, tokenizer, recipe.training.seed)
        case ClassificationSection() as section:
            if both and start_id is None:
                raise ModelError("an encoder-decoder needs a token for its decoder to begin with, bos or pad, and the tokenizer has none")
            return Classification(section, tokenizer, labels, config.context_length, start_id)
        case TaggingSection() as section:
            return Tagging(section, tokenizer, labels, config.context_length)
        case MultipleChoiceSection() as section:
            return MultipleChoice(section, tokenizer, config.context_length)
        case SpanCorruptionSection() as section:
            return open_span_corruption(section, config, tokenizer)
        case TextToTextSection() as section:
            return TextToText(section, tokenizer, config.context_length)
        case ChatSection() as section:
            return Chat(section, tokenizer, config.context_length, Path(recipe.tokenizer.path or recipe.model.start or "tokenizer"))
        case DistillationSection() as section:
            base = open_objective(recipe.model_copy(update={"objective": section.of}), config, tokenizer, labels)
            assert isinstance(base, CausalLM | MaskedLM)
            return Distillation(section, base, open_teacher(section, config, tokenizer))
        case MinimalPairsSection() | FewShotSection() as section:
            raise judges_only(section)


def objective_tokenizer(recipe: Recipe, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as the objective reads it and the checkpoint gets it. Raises UsageError if it cannot say what the objective writes."""
    match recipe.objective:
        case ChatSection() as section:
            is_finished = recipe.tokenizer.path is not None or recipe.model.start is not None
            return fit_tokenizer(section, tokenizer, is_finished=is_finished)
        case MultipleChoiceSection() as section:
            return tokenizer.with_special_tokens([name for name in (section.start, section.delimiter, section.classify) if name])
    return tokenizer


def encoder_of(objective: Objective) -> Encoder | None:
    """What turns labelled rows into examples; None for an objective that reads a stream of text."""
    return objective if isinstance(objective, Encoder) else None


def reads_sentences(objective: Objective) -> bool:
    """Whether its streams of text must know where sentences begin."""
    base = objective.base if isinstance(objective, Distillation) else objective
    return isinstance(base, MaskedLM) and base.section.next_sentence


def open_rows(recipe: Recipe, objective: Objective, stored: Sequence[tuple[Stored, float]], config: ModelConfig) -> Rows:
    """The rows of weighted sources as the objective cuts them. Raises DataError if a source has too little for one."""
    if isinstance(objective, Distillation):
        return open_rows(recipe.model_copy(update={"objective": objective.section.of}), objective.base, stored, config)
    seed = recipe.training.seed
    sets = [(one, weight) for one, weight in stored if isinstance(one, ExampleSet)]
    streams = [(one, weight) for one, weight in stored if isinstance(one, TokenStream)]
    if sets:
        packed = config.context_length if isinstance(objective, Chat) and objective.section.pack else None
        size, groups = recipe.training.batch_size, recipe.data.length_groups
        return ExampleRows(sets, seed, batch_size=size, length_groups=groups, packed_length=packed)
    if isinstance(objective, SpanCorruption):
        return SpanRows(streams, objective.lengths, seed, objective.static)
    if isinstance(objective, MaskedLM):
        return _masked_rows(objective, streams, config.context_length, seed)
    return PackedRows(streams, config.context_length, seed)


def _masked_rows(objective: MaskedLM, streams: Sequence[tuple[TokenStream, float]], length: int, seed: int) -> Rows:
    section, counted = objective.section, objective.section.rarity > 0
    if not section.next_sentence:
        return FramedRows(streams, length, seed, objective.frame, count_tokens=counted)
    static = section.masking == "static"  # the masks of a row are the same only where its texts are
    return SentencePairRows(streams, length, seed, objective.frame, short=section.short_rows, static=static, count_tokens=counted)
