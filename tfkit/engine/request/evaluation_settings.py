"""The settings for evaluating and predicting with a checkpoint, from a recipe, from the checkpoint's run, or by default."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tfkit.alignment.user_code import CodePermission as CodePermission
from tfkit.data.formats.suffixes import suffix_of
from tfkit.data.sources.split_files import evaluated_files
from tfkit.engine.request.inputs import Inputs, files_of, inputs_of, sections_of
from tfkit.errors import ModelError, UsageError
from tfkit.model.config import ModelConfig
from tfkit.recipe import RecipeError, RecipeText, read_run_recipe
from tfkit.recipe.reading.checks import fitting_problems, unread_length
from tfkit.recipe.reading.overrides import Overrides, apply_overrides, split_overrides, within_sections
from tfkit.recipe.reading.problems import Problem
from tfkit.recipe.reading.read import check_tree
from tfkit.recipe.reading.tree import OVERRIDES, Mapping, flatten, plain
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.recipe.schema.data_sections import DataSection
from tfkit.recipe.schema.objective_facts import OWN_HEADS, SECTIONS, ObjectiveSection
from tfkit.recipe.schema.output_sections import EvaluationSection, GenerationSection

if TYPE_CHECKING:
    from tfkit.hub import Described

TASK_SECTIONS = ("data", "objective", "evaluation", "generation", "carbon")  # the sections that tfkit evaluate and tfkit predict read
_PURPOSES = {"none": "has no head", "lm": "continues texts, and has no chat template", "masked_lm": "fills the masks of a text"}  # by head


@dataclass(frozen=True)
class EvaluationSettings:
    """The sections of a recipe that evaluation and generation use, and two fields of `training`."""

    data: DataSection | None  # None: neither a recipe nor the command names rows that can be scored
    objective: ObjectiveSection
    evaluation: EvaluationSection
    generation: GenerationSection
    carbon: CarbonSection
    seed: int  # training.seed
    batch_size: int  # training.batch_size
    path: Path | None = None  # the file of the recipe; None: there is no recipe

    @property
    def sequence_length(self) -> int | None:
        """The largest number of tokens of a row, or of a piece into which text is cut; None: the model's context length."""
        return None if self.data is None else self.data.sequence_length


class OpenedCheckpoint(Protocol):
    """A checkpoint that a command will use: its settings are read, its weights are not loaded yet."""

    settings: EvaluationSettings
    inputs: Inputs


def settings_inputs(settings: EvaluationSettings, *models: str | Path) -> Inputs:
    """Return the inputs of a command: `models`, and the files, sources of rows and models that `settings` name."""
    files = [*([settings.path] if settings.path is not None else []), *files_of(settings.objective, settings.carbon)]
    sections = sections_of(settings.data) if settings.data is not None else []
    return inputs_of(files, sections, [*models, *settings.objective.companion_paths.values()])


def read_settings(
    recipe: RecipeText | None, checkpoint: Path, overrides: Overrides, sections: Collection[str], scored: str | None = None
) -> EvaluationSettings:
    """Return the settings with the overrides: those of the recipe, else those of the recipe of the checkpoint's run, else the defaults.

    `scored`: a file, folder or glob that replaces data.validation. `sections`: the sections of the recipe that the command reads.

    Raises ModelError if the run's recipe is damaged, UsageError for invalid settings and for an override of a section not in `sections`.
    """
    given = flatten(dict(overrides))
    for name in (*overrides, *given):
        if name.partition(".")[0] not in sections:
            raise UsageError(f"{OVERRIDES}: {name}: this command reads only the sections {', '.join(sections)}")
        if name.startswith("carbon.budget_"):
            raise UsageError(f"{OVERRIDES}: {name}: only a training has a budget; leave it out")
    if scored is not None:  # before other overrides: data.validation.0.text=... may name a column of `scored`
        sets = {"data.validation": [{"path": scored, "files": evaluated_files(scored)}]}
        overrides = {**sets, **overrides} if "data.validation" in given else within_sections(sets, overrides)
    source = recipe or saved_recipe(checkpoint)
    if source is None:
        return _without_recipe(checkpoint, overrides)
    if isinstance(section := overrides.get("data"), dict) and "train" not in section:  # a recipe is not valid without data.train
        overrides = {**overrides, "data": {"train": source.fields().get("data.train"), **section}}
    if recipe is None:
        if any(name.partition(".")[0] == "objective" for name in overrides):
            overrides = {**_defaults_of_other_objectives(), **overrides}
        overrides = {"data.on_bad_row": "error", "data.max_lost": None, **overrides}  # the training may skip rows, but all rows are scored
        if scored is not None:  # the run's limits are for its own rows; all rows of the data that this command names are scored
            overrides = {"evaluation.max_tokens": None, "data.rows": None, **overrides}
    else:
        with suppress(ModelError):  # if the run's own recipe is damaged, the given recipe is used alone
            if saved := saved_recipe(checkpoint):
                overrides = {**split_overrides(saved.read(), recipe.fields()), **overrides}
    read = source.read(overrides)
    data: DataSection | None = read.data
    if scored is not None:
        data = _read_as_trained(read.data, scored)
    elif read.objective.roles != read.objective.trained_for.roles:  # the rows are prompts, without responses that could be scored
        data = None
    own_length = recipe is None and "data.sequence_length" not in given  # whether the length is that of the checkpoint's run
    if data is not None and own_length and read.objective.trained_for.scored_by == "text":
        data = data.model_copy(update={"sequence_length": None})
    sections_read = (read.objective, read.evaluation, read.generation, read.carbon)
    return EvaluationSettings(data, *sections_read, read.training.seed, read.training.batch_size, source.path)


def read_task_settings(
    recipe: RecipeText | None, folder: Path, overrides: Overrides, data: str | None, *, scores_texts: bool = False
) -> EvaluationSettings:
    """Return the settings as `read_settings` does; without a recipe, `infer_objective` infers the objective.

    `scores_texts`: score a decoder with a language-model head on plain texts, even if it has a chat template. Raises UsageError
    and ModelError as `read_settings` does, and ModelError if the files of the model do not show its task.
    """
    settings = read_settings(recipe, folder, overrides, TASK_SECTIONS, data)
    if settings.path is not None or any(name.partition(".")[0] == "objective" for name in overrides):
        return settings
    from tfkit.adapters import describe

    model = describe(folder)
    if scores_texts and model.config.stacks == "decoder" and model.config.head.kind == "lm":
        return settings
    named = {f"objective.{name}": value for name, value in infer_objective(model).items()}
    return read_settings(recipe, folder, {**named, **overrides}, TASK_SECTIONS, data)


def _defaults_of_other_objectives() -> dict[str, Any]:
    """Return overrides that reset the fields that a recipe sets for its own objective, for an evaluation by another objective."""
    evaluation, data = EvaluationSection.model_fields, DataSection.model_fields
    fields = {f"evaluation.{name}": evaluation[name] for name in ("metric", "text_metrics")}
    fields |= {f"data.{name}": data[name] for name in ("sequence_length", "max_lost", "length_groups", "pretraining")}
    return {name: field.default for name, field in fields.items()}


def _without_recipe(checkpoint: Path, overrides: Overrides) -> EvaluationSettings:
    """Return the settings of a checkpoint that has no recipe: the defaults with the overrides. Raises RecipeError if these are invalid."""
    tree = Mapping(OVERRIDES)
    training = {"model.from": str(checkpoint), "data": {}, "objective.kind": "causal_lm", "training.steps": 1}
    problems = apply_overrides(tree, {**training, **overrides})
    given = plain(tree)["data"]
    has_examples = isinstance(given, dict) and "train" in given
    if not has_examples:
        problems += apply_overrides(tree, {"data.train": [{"path": "-"}]})
    read, more = check_tree(tree, across=False)  # fields are not compared: they may depend on the checkpoint, which is not read
    if problems or more or read is None:
        raise RecipeError([*problems, *more])
    section = read.objective
    if has_examples and not (section.scored_by == "likelihood" and section.reads_training):
        problems += [Problem(OVERRIDES, ("data", "train"), f"{section.kind} is evaluated without rows of data.train: remove it")]
    if read.data.sequence_length is not None and section.scored_by == "likelihood":
        problems += [Problem(OVERRIDES, ("data", "sequence_length"), unread_length(section))]
    if isinstance(read.data.validation, float):
        problems += [Problem(OVERRIDES, ("data", "validation"), f"must be a list of sources, not {read.data.validation:g}")]
    if problems:
        raise RecipeError(problems)
    data = read.data if read.data.validation else None
    if data is not None and not has_examples:
        data = data.model_copy(update={"train": data.validation})
    sections = (section, read.evaluation, read.generation, read.carbon)
    return EvaluationSettings(data, *sections, read.training.seed, read.training.batch_size)


def _read_as_trained(data: DataSection, path: str) -> DataSection:
    """Return `data`, in which the scored source at `path` has the columns of the first source of data.train, unless it names its own.

    If both have files of the same type, the scored source also gets that source's format, and its column names for files without a header.
    """
    trained, sets = data.train[0], data.validation
    if not isinstance(sets, list) or not sets or sets[0].path != path:
        return data  # an override replaced the scored source
    [scored, *others] = sets
    update: dict[str, object] = {}
    if not scored.columns and scored.text is None:
        update |= {"columns": trained.columns, "text": trained.text}
        update |= {"class_names": trained.class_names} if scored.class_names is None else {}
    alike = scored.path and trained.path and suffix_of(Path(scored.path)) == suffix_of(Path(trained.path))
    if alike and scored.format is None and scored.header is None:
        update |= {"format": trained.format, "header": trained.header}
    return data.model_copy(update={"validation": [scored.model_copy(update=update), *others]})


def saved_recipe(checkpoint: Path) -> RecipeText | None:
    """Return the recipe.yaml of the run folder that holds a checkpoint; None if there is no such folder or file.

    Raises ModelError if the file is not valid.
    """
    folder = checkpoint.resolve().parent
    is_saved = folder.name == "checkpoints" and (folder.parent / "recipe.yaml").is_file()
    return read_run_recipe(folder.parent).source if is_saved else None


def infer_objective(model: "Described") -> dict[str, Any]:
    """Infer from a model's files an objective on labelled rows that fits it; return its fields. Raises ModelError if none fits.

    The objective is the one in the model's tfkit.json, if it fits and predicts for rows; else one that fits the head and problem type.
    """
    kinds = [kind for kind, section in SECTIONS.items() if _reads_rows(section) and _fits(section, model)]
    if not kinds:
        head = _head(model.config)
        if unfit := [kind for kind, section in SECTIONS.items() if _reads_rows(section) and section.head == head in OWN_HEADS]:
            section = SECTIONS[unfit[0]].model_validate({"kind": unfit[0]})
            raise ModelError(f"{model.folder}: {'; '.join(fitting_problems(section, model.config))}")
        raise ModelError(
            f"{model.folder}: this model {_PURPOSES.get(head, f'has a head of kind {head}')}, so its task is not known; fine-tune it on "
            'labelled rows, name its objective, such as "objective={kind: classification}", or continue texts with tfkit generate'
        )
    if model.objective in kinds:
        kinds = [model.objective]
    sections = [SECTIONS[kind].model_validate({"kind": kind}) for kind in kinds]
    typed = next((section for section in sections if section.problem_type == model.problem_type is not None), sections[0])
    may_be_number = "regression" in type(typed).model_fields
    is_number = may_be_number and (model.problem_type == "regression" or getattr(model.config.head, "count", 0) == 1)
    settings = {name: value for name, value in model.objective_settings.items() if name in typed.needed_alone}
    return {"kind": typed.kind} | ({"regression": True} if is_number else {}) | (settings if typed.kind == model.objective else {})


def _reads_rows(section: type[ObjectiveSection]) -> bool:
    """Whether a model of this objective predicts something for each row. DPO does not: a DPO score compares two models."""
    return not section.reads_text and section.scored_by == "row" and not section.needs_start


def _fits(section: type[ObjectiveSection], model: "Described") -> bool:
    """Whether the model has the stacks and the head of an objective and, if it is a decoder that continues texts, a chat template."""
    config = model.config
    answers = section.head != "lm" or config.stacks == "both" or (model.codec is not None and model.codec.chat_template is not None)
    return config.stacks in section.stacks and section.head == _head(config) and answers


def _head(config: ModelConfig) -> str:
    """Return the kind of the head; "choices" for a language model that also scores whole sequences."""
    return "choices" if getattr(config.head, "choices", False) else config.head.kind
