"""Evaluation by sampled responses: one to each prompt of data.validation, as the evaluations of a training do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfkit.adapters import FrozenReference, load
from tfkit.alignment.held_out import Judged
from tfkit.data import ExampleSet
from tfkit.engine.scoring.by_row import Scored, open_finished, rows_within, scored_sources, stored_sets
from tfkit.engine.session import WHOLE
from tfkit.engine.settings import Settings
from tfkit.engine.training_data import ValidationSet, report_rows, with_lost
from tfkit.engine.validation import judge_responses, response_metrics
from tfkit.errors import ModelError, TfkitError
from tfkit.evaluation.lost_rows import reasons, wrong_answers
from tfkit.evaluation.set_metrics import loss_metrics
from tfkit.hub import content_hash
from tfkit.recipe import read_recipe

if TYPE_CHECKING:
    from tfkit.engine.session import Session
    from tfkit.hub import Loaded


def evaluate_rollouts(settings: Settings, loaded: "Loaded", work: "Session", *, each: bool = False) -> Scored:
    """Sample and reward a response to each prompt; `each`: with a line for every one.

    The distance from the model that the run began with is a metric where that model is still there. Raises UsageError if there are no
    prompts.
    """
    objective, tokenizer = open_finished(settings.objective.trained_for, loaded, settings)
    labelled, rollouts = objective.labelled, objective.rollouts
    assert labelled is not None
    assert rollouts is not None
    data, sources = scored_sources(settings, settings.objective.roles, "prompts to answer")
    named, order = stored_sets(settings, data, sources, objective, tokenizer, loaded, work)
    stored = [one.stored for one in named if isinstance(one.stored, ExampleSet)]
    counts = rows_within(labelled, order, stored, settings.evaluation.max_tokens)
    sets = [with_lost(one, objective, work.listener, count) for one, count in zip(named, counts, strict=False)]
    report_rows([one.stored for one in sets], work.listener)
    reference, seed = _reference(loaded, work), settings.generation.seed
    with work.listener.progress("answering", sum(counts), "prompts") as bar, work.stop.at_once(WHOLE):
        judged = judge_responses(settings.evaluation, order, objective, sets, loaded.model, reference, seed, work=work.batches(bar))
    assert judged is not None  # nothing asked it to stop
    whole = [
        [*part, *(Judged("", lost.sums) for lost in wrong_answers(labelled, one.lost, 0))] for part, one in zip(judged, sets, strict=True)
    ]
    everything = [one for part in whole for one in part]
    return Scored(
        response_metrics(objective, whole, [one.name for one in named]),
        len(everything),
        sum(int(one.lengths[: len(part)].sum()) for one, part in zip(stored, judged, strict=False)),
        [one.stored for one in sets],
        loss_metrics(objective, [one.sums for one in everything]),
        len(everything),
        _lines(sets, judged) if each else [],
        {"temperature": rollouts.section.temperature, "lost": reasons([lost for one in sets for lost in one.lost])},
        [one.texts[: len(part)] for one, part in zip(stored, judged, strict=False)],
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
        work.listener.warn(f"{loaded.folder}: the kl is not computed, since the initial model of its run cannot be read: {error}")
        return None
    return FrozenReference(found.model)


def _lines(sets: Sequence[ValidationSet], judged: Sequence[Sequence[Judged]]) -> list[dict[str, Any]]:
    """A line for each prompt: its place, the response, its reward and length, and whether it ended; or why it has no response."""
    lines = []
    for one, part in zip(sets, judged, strict=True):
        assert isinstance(one.stored, ExampleSet), "prompts are examples"
        for number, found in enumerate(part):
            sums = {name: value.total for name, value in found.sums.items() if name != "accuracy"}
            lines.append({"place": one.stored.place(number), "response": found.text, **sums})
        lines += [{"place": lost.row.place, "lost": lost.reason} for lost in one.lost]
    return lines
