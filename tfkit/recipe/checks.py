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


_STACKS = {"encoder": "encoders", "decoder": "decoders", "both": "models with an encoder and a decoder"}


def _objective(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """An objective is for models with certain stacks, and trains one kind of head."""
    objective = recipe.objective
    model = merge(PRESETS[recipe.model.preset][1] if recipe.model.preset in PRESETS else {}, recipe.model.changes)
    encoder, decoder = bool(model.get("encoder_layers")), bool(model.get("decoder_layers"))
    stacks = "both" if encoder and decoder else "encoder" if encoder else "decoder"
    head = recipe.model.changes.get("head") if objective.head in ("classes", "tags") else model.get("head")
    kind = head.get("kind", "lm") if isinstance(head, dict) else objective.head
    if stacks not in objective.stacks:
        wanted = " and ".join(_STACKS[name] for name in objective.stacks)
        has = {"encoder": "an encoder", "decoder": "a decoder alone", "both": "an encoder and a decoder"}[stacks]
        yield ("model",), f"the objective {objective.kind} trains {wanted}; this model has {has}"
    elif kind != objective.head:
        yield ("model", "head"), f"the objective {objective.kind} needs a head of kind {objective.head}, not {kind}"


def _unread(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    schedule, default = recipe.schedule, ScheduleSection()
    if schedule.kind in ("constant", "inverse_sqrt") and schedule.final_ratio != default.final_ratio:
        yield ("schedule", "final_ratio"), f"the {schedule.kind} schedule does not read it; remove it"
    if schedule.kind != "wsd" and schedule.decay_ratio != default.decay_ratio:
        yield ("schedule", "decay_ratio"), "only the wsd schedule reads it; remove it"
    if recipe.evaluation.every is not None and not recipe.data.validation and not recipe.generation.prompts:
        yield ("evaluation", "every"), "there is nothing to evaluate: give data.validation, or remove it"
    if not recipe.data.length_groups and recipe.objective.reads_text:
        yield ("data", "length_groups"), f"the rows of {recipe.objective.kind} all have one length: remove it"
    for part in ("train", "validation"):
        sources = getattr(recipe.data, part)
        for index, source in enumerate(sources if isinstance(sources, list) else ()):
            for name, message in (*_unread_of(source), *_columns(recipe, source)):
                yield ("data", part, index, name), message
            if part == "train" and source.name is not None:
                yield ("data", part, index, "name"), "only validation sets have names, in their metrics; remove it"
            if part == "validation" and source.weight != SourceSection.model_fields["weight"].default:
                yield ("data", part, index, "weight"), "only training reads some rows more often than others; remove it"


def _unread_of(source: SourceSection) -> Iterator[tuple[str, str]]:
    fields = SourceSection.model_fields
    if source.hub is None:
        for name in ("config", "split", "revision"):
            if getattr(source, name) != fields[name].default:
                yield name, "only a hub source reads it; remove it"
    if source.stdlib and (source.text is not None or source.columns):
        yield ("text" if source.text is not None else "columns"), "the standard library has no columns; remove it"


def _columns(recipe: Recipe, source: SourceSection) -> Iterator[tuple[str, str]]:
    """Columns are named for the roles of the objective, each once."""
    roles = [role.name for role in recipe.objective.roles]
    for name in source.columns:
        if name not in roles:
            yield "columns", f"{name} is nothing that the objective {recipe.objective.kind} reads; it reads {', '.join(roles)}"
    if source.text is not None and "text" not in roles:
        yield "text", f"the objective {recipe.objective.kind} reads no text; it reads {', '.join(roles)}: name them in columns"
    if source.text is not None and "text" in source.columns:
        yield "text", "is named in columns, too: remove one of the two"
