"""Evaluation by sampled responses: one to each prompt of data.validation, as the evaluations of a training do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.adapters import FrozenReference, load
from tfkit.alignment.held_out import Judged
from tfkit.data import ExampleSet
from tfkit.data.sources.open_sources import validation_sources
from tfkit.engine.scoring.by_row import Scored, open_finished
from tfkit.engine.session import WHOLE
from tfkit.engine.settings import Settings
from tfkit.engine.training_data import ValidationSet, report_rows, set_names, store
from tfkit.engine.validation import judge_responses, response_metrics
from tfkit.errors import ModelError, TfkitError, UsageError
from tfkit.evaluation.row_scores import first_rows
from tfkit.hub import content_hash
from tfkit.objectives.context import RowOrder
from tfkit.objectives.metrics import Numbers, Scores
from tfkit.recipe import read_recipe

if TYPE_CHECKING:
    from tfkit.engine.session import Session
    from tfkit.hub import Loaded


def evaluate_rollouts(settings: Settings, loaded: "Loaded", work: "Session", *, each: bool = False) -> Scored:
    """Sample and reward a response to each prompt; `each`: with a line for every one.

    The distance from the model that the run began with is a metric where that model is still there. Raises UsageError if there are no
    prompts.
    """
    data = settings.data
    objective, tokenizer = open_finished(settings.objective.trained_for, loaded, settings.seed)
    sources = validation_sources(data, settings.objective.roles) if data is not None else []
    if data is None or not sources:
        raise UsageError("there are no prompts to answer: give them as --data F, or a recipe with data.validation")
    for source in sources:
        work.listener.say(source.describe())
    with work.stop.at_once():
        stored = [store(source, data, objective, tokenizer, work.listener) for source in sources]
    for one in stored:
        one.check_vocabulary(loaded.config.vocab_size)
    report_rows(stored, work.listener)
    sets = [ValidationSet(*one) for one in zip(set_names(data, sources), stored, sources, strict=True)]
    order = RowOrder(loaded.config.context_length, settings.seed, settings.batch_size, data.length_groups)
    reference, seed = _reference(loaded, work), settings.generation.seed
    most = settings.evaluation.max_tokens
    count = sum(first_rows(objective.open_rows([(one, 1.0)], order), most) for one in stored)
    with work.listener.progress("answering", count, "prompts") as bar, work.stop.at_once(WHOLE):
        judged = judge_responses(settings.evaluation, order, objective, sets, loaded.model, reference, seed, progress=bar.advance)
    assert judged is not None  # nothing asked it to stop
    everything = [one for part in judged for one in part]
    used = [one.stored for one in sets[: len(judged)] if isinstance(one.stored, ExampleSet)]
    return Scored(
        response_metrics(objective, judged, [one.name for one in sets]),
        len(everything),
        sum(int(one.lengths[: len(part)].sum()) for one, part in zip(used, judged, strict=True)),
        used,
        _means(everything),
        len(everything),
        _lines(used, judged) if each else [],
        {"temperature": objective.rollouts.section.temperature} if objective.rollouts is not None else {},
        [one.texts[: len(part)] for one, part in zip(used, judged, strict=True)],
    )


def _reference(loaded: "Loaded", work: "Session") -> FrozenReference | None:
    """Return the model that the run of the checkpoint began with; None, with a warning, where it is not there any more."""
    saved = loaded.folder.resolve().parent.parent / "recipe.yaml"
    try:
        start = read_recipe(str(saved)).recipe.model if saved.is_file() else None
        if start is None or start.start is None:
            return None
        found = load(start.start, device=next(loaded.model.parameters()).device, dtype=next(loaded.model.parameters()).dtype)
        if start.sha256 is not None and content_hash(found.folder) != start.sha256:
            raise ModelError("its weights have changed")
    except TfkitError as error:
        work.listener.warn(f"{loaded.folder}: there is no kl, since the model that its run began with cannot be read: {error}")
        return None
    return FrozenReference(found.model)


def _means(judged: Sequence[Judged]) -> Scores:
    values = {name: np.array([one.sums[name].total for one in judged]) for name in (judged[0].sums if judged else ())}

    def scores(weights: Numbers) -> dict[str, float]:
        return {name: float((weights * found).sum() / weights.sum()) for name, found in values.items()}

    return scores


def _lines(stored: Sequence[ExampleSet], judged: Sequence[Sequence[Judged]]) -> list[dict[str, Any]]:
    """A line for each prompt: its place, the response, its reward and length, and whether it ended."""
    lines = []
    for one, part in zip(stored, judged, strict=True):
        for number, found in enumerate(part):
            sums = {name: value.total for name, value in found.sums.items() if name != "accuracy"}
            lines.append({"place": one.place(number), "response": found.text, **sums})
    return lines
