"""Checks across fields: sections that contradict each other, and fields that would have no effect."""

from collections.abc import Iterator
from typing import Any

from tfkit.errors import argument
from tfkit.families import PRESETS
from tfkit.model.config import ModelConfig
from tfkit.recipe.presets import merge
from tfkit.recipe.reading.problems import Problem, problem_at
from tfkit.recipe.reading.source_checks import source_problems
from tfkit.recipe.reading.tree import Node, Path
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.recipe.schema.objective_facts import OWN_HEADS, ObjectiveSection
from tfkit.recipe.schema.objective_sections import metrics_of
from tfkit.recipe.schema.optimizer_sections import ScheduleSection
from tfkit.recipe.schema.output_sections import EvaluationSection
from tfkit.recipe.schema.sections import ModelSection, Recipe
from tfkit.recipe.schema.vocabularies import SENTINELS, vocabulary_of


def cross_problems(recipe: Recipe, tree: Node) -> list[Problem]:
    """Return the contradictions between fields of a recipe, each valid on its own, and the fields that would have no effect."""
    checks = (_lengths, _warmup, _vocabulary, _unread, source_problems, _row_length, _start, _adapter, _judging, _carbon)
    problems = [problem for check in checks for problem in check(recipe)]
    problems += recipe.objective.problems(recipe, model_values(recipe.model))
    if recipe.model.start is None:  # the config of a checkpoint is in its own files, which are not read
        problems += _objective(recipe.objective.trained_for, recipe.model, recipe.tokenizer)
    return [problem_at(tree, path, message) for path, message in problems]


def fitting_problems(objective: ObjectiveSection, config: ModelConfig) -> list[str]:
    """Return the reasons why a checkpoint with this config and its own tokenizer does not fit an objective; empty if it fits."""
    model = ModelSection.model_validate(config.model_dump())
    return [message for _, message in _objective(objective.trained_for, model, TokenizerSection(path="its own"))]


def _start(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Check that there is a checkpoint if the objective needs one, and that a recipe with a checkpoint has no tokenizer section."""
    if recipe.objective.needs_start and recipe.model.start is None:
        kind = recipe.objective.kind
        yield (
            ("objective", "kind"),
            f"{kind} trains a finished model, never random weights: set model.from, or give {argument('start', 'CKPT')}",
        )
    if recipe.model.start is not None and recipe.tokenizer != TokenizerSection():
        yield ("tokenizer",), "the checkpoint of model.from has its own tokenizer, which is used: remove this section"


def _adapter(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Check that an adapter has a checkpoint to update, and that no field freezes weights that an adapter freezes already."""
    if recipe.training.adapter is None:
        return
    if recipe.model.start is None:
        yield ("training", "adapter"), "an adapter updates the weights of a checkpoint: give model.from, or remove it"
    if recipe.training.frozen:
        yield ("training", "frozen"), "with an adapter all weights but its own and those of a new head are frozen already: remove it"
    if recipe.training.unfreeze_every is not None:
        yield ("training", "unfreeze_every"), "with an adapter all weights but its own and those of a new head stay frozen: remove it"


def _judging(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Check that evaluations compute evaluation.metric, and that training.patience has evaluations, with a checkpoint at each."""
    metric, patience = recipe.evaluation.metric, recipe.training.patience
    every, saved = recipe.evaluation.every, recipe.checkpoint.every
    if metric is not None and not recipe.data.validation:
        yield ("evaluation", "metric"), "there is nothing to evaluate: give data.validation, or remove it"
    elif metric is not None and metric not in (known := metrics_of(recipe.objective)):
        kind = recipe.objective.trained_for.kind
        yield ("evaluation", "metric"), f"evaluations of {kind} during training do not compute {metric!r}: choose one of {', '.join(known)}"
    if patience is None:
        return
    if not recipe.data.validation:
        yield ("training", "patience"), "there is nothing to evaluate: give data.validation, or remove it"
    elif every is None:
        yield ("training", "patience"), "counts evaluations, but there is only one, at the end: set evaluation.every"
    elif saved != every and not (isinstance(saved, int) and isinstance(every, int) and every % saved == 0):
        yield ("training", "patience"), "the best checkpoint would not be saved: set checkpoint.every to evaluation.every"


def _lengths(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Check that the warm-up fits into the run, and ends before decay_end and, with wsd, before the decay."""
    schedule, ratio = recipe.schedule, recipe.schedule.warmup_ratio
    for unit in ("tokens", "steps"):
        warmup, length = getattr(schedule, f"warmup_{unit}"), getattr(recipe.training, unit)
        if warmup is None or length is None:
            continue
        if warmup > length:
            yield ("schedule", f"warmup_{unit}"), f"{warmup} {unit} of warm-up, but training.{unit} is {length}"
        elif warmup > schedule.decay_end * length:
            yield ("schedule", "decay_end"), f"the warm-up ends after it: {warmup} {unit} of {length}"
        elif schedule.kind == "wsd" and warmup / length + schedule.decay_ratio > 1 + 1e-9:
            yield ("schedule", "decay_ratio"), f"warm-up and decay together are longer than training.{unit}, which is {length}"
    if ratio is not None and ratio > schedule.decay_end:
        yield ("schedule", "decay_end"), f"the warm-up ends after it: warmup_ratio is {ratio:g}"
    elif ratio is not None and schedule.kind == "wsd" and ratio + schedule.decay_ratio > 1 + 1e-9:
        yield ("schedule", "decay_ratio"), f"warm-up and decay together are longer than the run: warmup_ratio is {ratio:g}"


def _row_length(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Check that data.sequence_length has an effect, and that rows fit the model if the recipe describes the model."""
    if recipe.model.start is None:
        yield from long_rows(recipe, model_values(recipe.model))
    if recipe.data.sequence_length is not None and recipe.objective.scored_by == "likelihood":
        yield ("data", "sequence_length"), unread_length(recipe.objective)


def long_rows(recipe: Recipe, values: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Check that rows fit a model with the config `values`, and that a sampled response leaves room for a prompt in its row."""
    length, limit, position = recipe.data.sequence_length, values.get("context_length"), values.get("position")
    is_relative = isinstance(position, dict) and position.get("kind") == "relative"
    if length is not None and isinstance(limit, int) and length > limit and not is_relative:
        yield ("data", "sequence_length"), f"model.context_length holds {limit} tokens: set this to {limit} or less, or leave it out"
    room, response = length or limit, getattr(recipe.objective, "max_new_tokens", None)
    if isinstance(room, int) and isinstance(response, int) and response >= room:
        yield (
            ("objective", "max_new_tokens"),
            f"{response} tokens of a response leave no room for a prompt in a row of {room}: lower it, or allow longer rows "
            "(data.sequence_length, model.context_length)",
        )


def unread_length(objective: ObjectiveSection) -> str:
    """Return the message for data.sequence_length with an objective that does not read it."""
    return f"{objective.kind} uses the model's whole context: remove it"


def _vocabulary(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    stated = recipe.model.changes.get("vocab_size")
    # A full description of a model may be from the recipe of a run, whose tokenizer got fewer entries than requested: the model's
    # vocab_size is compared later, with the trained tokenizer's. A description is full if it has all fields without a default, since one
    # that an earlier version wrote lacks newer fields, which have defaults.
    needed = {name for name, field in ModelConfig.model_fields.items() if field.is_required()}
    trained = recipe.model.start is None and recipe.tokenizer.path is None and not recipe.model.changes.keys() >= needed
    if isinstance(stated, int) and trained and recipe.tokenizer.vocab_size > stated:
        message = f"{recipe.tokenizer.vocab_size} entries are more than model.vocab_size, which is {stated}: leave that out, or raise it"
        yield ("tokenizer", "vocab_size"), message


def model_values(model: ModelSection, start: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the config values that a preset and a recipe state. `start`: those of the model from which training starts, if known."""
    return merge(start or PRESETS.get(model.preset or "", (None, {}))[1], model.changes)


_STACKS = {"encoder": "encoders", "decoder": "decoders", "both": "models with an encoder and a decoder"}


def _objective(objective: ObjectiveSection, model: ModelSection, tokenizer: TokenizerSection) -> Iterator[tuple[Path, str]]:
    """Check that the model's stacks and head, and its tokenizer, fit the objective."""
    values = model_values(model)
    encoder, decoder = bool(values.get("encoder_layers")), bool(values.get("decoder_layers"))
    stacks = "both" if encoder and decoder else "encoder" if encoder else "decoder"
    head = model.changes.get("head") if objective.head in OWN_HEADS else values.get("head")
    kind = head.get("kind", "lm") if isinstance(head, dict) else objective.head
    if stacks not in objective.stacks:
        wanted = " and ".join(_STACKS[name] for name in objective.stacks)
        has = {"encoder": "an encoder", "decoder": "a decoder alone", "both": "an encoder and a decoder"}[stacks]
        does = "evaluates" if objective.scored_by == "likelihood" else "trains"
        yield (
            ("model",),
            f"the objective {objective.kind} {does} {wanted}; this model has {has}: choose another model, or another objective",
        )
    elif kind != (wanted := "lm" if objective.head == "choices" else objective.head):
        yield ("model", "head"), f"the objective {objective.kind} needs a head of kind {wanted}, not {kind}"
    elif stacks == "both":
        yield from _encoder_decoder(tokenizer, objective)
    yield from objective.misfits(model, values, tokenizer)


def _encoder_decoder(section: TokenizerSection, objective: ObjectiveSection) -> Iterator[tuple[Path, str]]:
    """Check that the tokenizer has a start token for the decoder, an end token for targets, and, for span corruption, sentinels."""
    if section.path is not None:
        return
    vocabulary = vocabulary_of(section.kind, section.variant)
    tokens = {*vocabulary.first, *vocabulary.last, *section.special_tokens}
    if not vocabulary.roles.keys() & {"bos_token", "pad_token"}:
        yield (
            ("tokenizer", "kind"),
            f"{section.kind} has neither bos nor pad as the start token of a decoder: use unigram or bpe_byte_fallback",
        )
    elif objective.head == "lm" and "eos_token" not in vocabulary.roles:
        yield ("tokenizer", "kind"), f"{section.kind} has no token that ends a target: use unigram or bpe_byte_fallback"
    elif objective.kind == "span_corruption" and SENTINELS[-1] not in tokens:
        yield ("tokenizer", "kind"), f"{section.kind} has no sentinels ({SENTINELS[-1]}, ...) for the spans: use unigram"


def _warmup(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    schedule = recipe.schedule
    if schedule.warmup_tokens is not None and schedule.warmup_steps:
        yield ("schedule", "warmup_tokens"), "the warm-up is in steps or in tokens, but both are given: remove one"
    if schedule.warmup_ratio is not None and (schedule.warmup_steps or schedule.warmup_tokens is not None):
        yield ("schedule", "warmup_ratio"), "the warm-up is given twice: keep one of warmup_steps, warmup_tokens and warmup_ratio"
    if schedule.kind != "noam":
        return
    if schedule.warmup_ratio is not None:
        yield ("schedule", "warmup_ratio"), "the noam schedule counts steps: give warmup_steps instead (the paper's is 4000)"
    elif schedule.warmup_tokens is not None:
        yield ("schedule", "warmup_tokens"), "the noam schedule counts steps: give warmup_steps instead (the paper's is 4000)"
    elif not schedule.warmup_steps:
        yield ("schedule",), "the noam schedule needs warmup_steps; the paper's is 4000"
    if "lr" not in recipe.optimizer.model_fields_set:
        yield ("schedule", "kind"), "the noam schedule multiplies optimizer.lr, so set it; 1.0 gives the paper's learning rate"


def _carbon(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Check that a budget of energy or CO2e is measured, that settings have an effect, and that embodied CO2e has a source."""
    carbon = recipe.carbon
    metered = [name for name in ("budget_g", "budget_kwh") if getattr(carbon, name) is not None]
    if not carbon.enabled:
        for name in metered:
            yield ("carbon", name), "is not counted with enabled: false: measure the energy, or give budget_seconds"
    if carbon.intensity_file is not None and carbon.intensity_g_per_kwh is not None:
        yield ("carbon", "intensity_file"), "replaces intensity_g_per_kwh: remove one of them"
    if carbon.on_meter_failure != "warn" and not metered:
        yield ("carbon", "on_meter_failure"), "is read only with budget_g or budget_kwh: give one of them, or remove it"
    grams, source = carbon.embodied_g_per_device_hour, carbon.embodied_source
    if grams is not None and source is None:
        yield ("carbon", "embodied_g_per_device_hour"), "needs embodied_source: where the figure is from"
    if source is not None and grams is None:
        yield ("carbon", "embodied_source"), "is only the source of embodied_g_per_device_hour: give that, or remove it"


def _unread(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    schedule, default = recipe.schedule, ScheduleSection()
    if schedule.kind != "inverse_sqrt" and schedule.flat_steps != default.flat_steps:
        yield ("schedule", "flat_steps"), "only the inverse_sqrt schedule reads it; remove it"
    if schedule.kind in ("constant", "inverse_sqrt", "noam") and schedule.final_ratio != default.final_ratio:
        yield ("schedule", "final_ratio"), f"the {schedule.kind} schedule does not read it; remove it"
    if schedule.kind not in ("linear", "cosine") and schedule.decay_end != default.decay_end:
        yield ("schedule", "decay_end"), f"the {schedule.kind} schedule does not read it; remove it"
    if schedule.kind != "wsd" and schedule.decay_ratio != default.decay_ratio:
        yield ("schedule", "decay_ratio"), "only the wsd schedule reads it; remove it"
    if recipe.evaluation.every is not None and not recipe.data.validation and not recipe.generation.prompts:
        yield ("evaluation", "every"), "there is nothing to evaluate: give data.validation, or remove it"
    if recipe.data.max_lost is not None and recipe.objective.reads_text and recipe.data.on_bad_row == "error":
        yield ("data", "max_lost"), f"no row is lost, since a bad row is an error, and {recipe.objective.kind} truncates none: remove it"
    if not recipe.data.length_groups and recipe.objective.reads_text:
        yield ("data", "length_groups"), f"only labelled rows are grouped, and {recipe.objective.kind} reads text: remove it"
    if recipe.generation.prompts and recipe.objective.trained_for.head in (*OWN_HEADS, "masked_lm"):
        yield (
            ("generation", "prompts"),
            f"a model that is trained for {recipe.objective.trained_for.kind} does not continue text; remove it",
        )
    if recipe.training.trial_rates is not None and recipe.objective.scored_by == "rollout":
        kind = recipe.objective.kind
        yield ("training", "trial_rates"), f"{kind} trains on responses that are sampled, so rates cannot be compared by a loss: remove it"
    text_metrics = EvaluationSection.model_fields["text_metrics"].default
    if recipe.evaluation.text_metrics != text_metrics and not recipe.objective.trained_for.answers_in_text:
        yield ("evaluation", "text_metrics"), f"{recipe.objective.kind} has no rows with texts to generate: remove it"
    if recipe.data.pretraining is not None and not recipe.objective.reads_pretraining:
        yield ("data", "pretraining"), f"{recipe.objective.kind} reads no such text with these fields: remove it, or set ptx_weight of ppo"
