"""What no field can know alone: sections that contradict each other, and options that nothing would read."""

from collections.abc import Iterator

from tfkit.families import PRESETS
from tfkit.model.config import ModelConfig
from tfkit.recipe.presets import merge
from tfkit.recipe.problems import Problem
from tfkit.recipe.schema import Recipe, ScheduleSection, SourceSection
from tfkit.recipe.tree import Node, Path, place_of


def cross_problems(recipe: Recipe, tree: Node) -> list[Problem]:
    """Problems of a recipe whose fields are each valid."""
    found = [*_lengths(recipe), *_vocabulary(recipe), *_unread(recipe), *_objective(recipe)]
    return [Problem(place_of(tree, path, key=False), path, message) for path, message in found]


def _lengths(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    steps, schedule = recipe.training.steps, recipe.schedule
    if steps is None:
        return
    if schedule.warmup_steps > steps:
        yield ("schedule", "warmup_steps"), f"{schedule.warmup_steps} steps of warm-up, but training.steps is {steps}"
    elif schedule.kind == "wsd" and schedule.warmup_steps + schedule.decay_ratio * steps > steps:
        yield ("schedule", "decay_ratio"), f"warm-up and decay together are longer than training.steps, which is {steps}"


def _vocabulary(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    stated = recipe.model.changes.get("vocab_size")
    # A full description may be a run's own, of a text that gave fewer entries than were asked for; too many show once they are there.
    trained = recipe.tokenizer.path is None and not recipe.model.changes.keys() >= ModelConfig.model_fields.keys()
    if isinstance(stated, int) and trained and recipe.tokenizer.vocab_size > stated:
        message = f"{recipe.tokenizer.vocab_size} entries are more than model.vocab_size, which is {stated}: leave that out, or raise it"
        yield ("tokenizer", "vocab_size"), message


def _objective(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Causal language modelling is for a decoder alone, with a language model's head."""
    model = merge(PRESETS[recipe.model.preset][1] if recipe.model.preset in PRESETS else {}, recipe.model.changes)
    head = model.get("head")
    if model.get("encoder_layers"):
        yield ("model",), "the objective causal_lm trains decoders; this model has an encoder"
    elif isinstance(head, dict) and head.get("kind", "lm") != "lm":
        yield ("model", "head"), f"the objective causal_lm needs a head of kind lm, not {head['kind']}"


def _unread(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    schedule, default = recipe.schedule, ScheduleSection()
    if schedule.kind in ("constant", "inverse_sqrt") and schedule.final_ratio != default.final_ratio:
        yield ("schedule", "final_ratio"), f"the {schedule.kind} schedule does not read it; remove it"
    if schedule.kind != "wsd" and schedule.decay_ratio != default.decay_ratio:
        yield ("schedule", "decay_ratio"), "only the wsd schedule reads it; remove it"
    if recipe.evaluation.every is not None and not recipe.data.validation and not recipe.generation.prompts:
        yield ("evaluation", "every"), "there is nothing to evaluate: give data.validation, or remove it"
    for part in ("train", "validation"):
        sources = getattr(recipe.data, part)
        for index, source in enumerate(sources if isinstance(sources, list) else ()):
            for name, message in _unread_of(source):
                yield ("data", part, index, name), message
            if part == "validation" and source.weight != SourceSection.model_fields["weight"].default:
                yield ("data", part, index, "weight"), "only training reads some rows more often than others; remove it"


def _unread_of(source: SourceSection) -> Iterator[tuple[str, str]]:
    fields = SourceSection.model_fields
    if source.hub is None:
        for name in ("config", "split", "revision"):
            if getattr(source, name) != fields[name].default:
                yield name, "only a hub source reads it; remove it"
    if source.stdlib and source.text != fields["text"].default:
        yield "text", "the standard library has no columns; remove it"
