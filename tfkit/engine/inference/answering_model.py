"""A finished model with its objective and its classes."""

from tfkit.engine.assembly.base_model import check_order
from tfkit.engine.request.evaluation_settings import EvaluationSettings
from tfkit.errors import ModelError, UsageError
from tfkit.hub import Loaded
from tfkit.objectives.context import ModelContext
from tfkit.objectives.objective import Objective
from tfkit.objectives.registry import objective_tokenizer, open_objective
from tfkit.recipe.reading.checks import fitting_problems
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.tokenizer import Tokenizer


def open_finished(section: ObjectiveSection, loaded: Loaded, settings: EvaluationSettings) -> tuple[Objective, Tokenizer]:
    """Return the objective for a finished model, and its tokenizer. Raises ModelError if the model does not fit the objective."""
    if problems := fitting_problems(section, loaded.config):
        raise ModelError(f"{loaded.folder}: {'; '.join(problems)}; give a recipe with the objective that it was trained for")
    assert loaded.codec is not None
    tokenizer = objective_tokenizer(section, loaded.codec, is_finished=True)
    labels, facts = _labels(section, loaded), loaded.facts
    context = ModelContext(loaded.config, tokenizer, labels, settings.seed, loaded.folder, facts, settings.sequence_length)
    return open_objective(section, context), tokenizer


def _labels(section: ObjectiveSection, loaded: Loaded) -> list[str]:
    """Return the classes of the checkpoint, in its own order, with the names that the section gives them, if any."""
    if not section.has_labels:
        return []
    if named := section.named_labels:
        count = getattr(loaded.config.head, "count", 0)
        if len(named) != count:
            raise UsageError(
                f"objective.labels names {len(named)} classes, and {loaded.folder} has {count}: name all, in its order, or leave it out"
            )
        check_order(str(loaded.folder), loaded.labels, named)
        return named
    if not loaded.labels:
        raise ModelError(f"{loaded.folder}: config.json names no labels (id2label), so its classes are not known; name them there")
    return list(loaded.labels)
