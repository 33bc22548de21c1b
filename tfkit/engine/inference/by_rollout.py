"""Evaluation by rollouts: the model samples a response to each prompt of data.validation, as in evaluations during training."""

from collections.abc import Sequence
from typing import Any

from tfkit.adapters import FrozenReference, load
from tfkit.alignment.held_out import JudgedResponse, judge_prompts, response_metrics
from tfkit.alignment.rewards import Rules
from tfkit.alignment.user_code import CodePermission
from tfkit.engine.assembly.base_model import open_finished
from tfkit.engine.assembly.training_data import ValidationSet
from tfkit.engine.assembly.validation import join_metrics
from tfkit.engine.inference.by_row import Evaluation, Scored
from tfkit.engine.inference.session import WHOLE, Session
from tfkit.engine.request.evaluation_settings import saved_recipe
from tfkit.errors import ModelError, TfkitError
from tfkit.evaluation.lost_rows import reasons, wrong_answers
from tfkit.evaluation.row_scores import loss_metrics
from tfkit.hub import Loaded, content_hash


def evaluate_rollouts(evaluation: Evaluation, code: CodePermission) -> Scored:
    """Sample a response to each prompt, and score each response by the recipe's reward rules.

    `code`: the files of reward functions that may be run. The metrics include the KL divergence from the initial model of the run if that
    model can still be read. Raises UsageError if there are no prompts.
    """
    settings, loaded, session = evaluation.settings, evaluation.loaded, evaluation.session
    objective, tokenizer = open_finished(settings.objective.trained_for, loaded, settings)
    labelled, rollouts = objective.labelled, objective.rollouts
    assert labelled is not None
    assert rollouts is not None
    rules = Rules(rollouts.section.rules, code)
    all_sets, scorer = evaluation.sets(settings.objective.roles, "prompts to answer", objective, tokenizer)
    stored = [held_out.examples for held_out in all_sets]
    sets, counts = evaluation.scored_sets(scorer, all_sets)
    reference, seed = _reference(loaded, session), settings.generation.seed
    with session.listener.progress("answering", sum(counts), "prompts") as bar, session.stop.at_once(WHOLE):
        given = (loaded.model, reference, stored, counts, rollouts, rules)
        judged = judge_prompts(*given, seed=seed, batch_size=settings.evaluation.batch_size, work=session.batches(bar))
    by_set = [
        [*responses, *(JudgedResponse("", lost.sums) for lost in wrong_answers(labelled, held_out.lost, 0))]
        for responses, held_out in zip(judged, sets, strict=True)
    ]
    everything = [response for responses in by_set for response in responses]
    each_set = [response_metrics(objective, responses) for responses in by_set]
    return Scored(
        join_metrics(response_metrics(objective, everything), each_set, [held_out.name for held_out in all_sets]),
        len(everything),
        sum(int(prompts.lengths[: len(responses)].sum()) for prompts, responses in zip(stored, judged, strict=False)),
        [held_out.stored for held_out in sets],
        loss_metrics(objective, [response.sums for response in everything]),
        len(everything),
        _lines(sets, judged) if evaluation.each else [],
        {"temperature": rollouts.section.temperature, "lost": reasons([lost for held_out in sets for lost in held_out.lost])},
        [prompts.texts[: len(responses)] for prompts, responses in zip(stored, judged, strict=False)],
    )


def _reference(loaded: Loaded, session: Session) -> FrozenReference | None:
    """Return the model from which the checkpoint's run started; None if there is none or, with a warning, if it can no longer be read."""
    try:
        saved = saved_recipe(loaded.folder)
        run = saved.read() if saved is not None else None
        if run is None or run.model.start is None:
            return None
        start, weight = run.model, next(loaded.model.parameters())
        # If the initial checkpoint lacks the trained model's head, the run initialised one at random; the run's seed gives it again.
        head, seed = loaded.config.head, run.training.seed
        initial = load(run.model.start, head=head, seed=seed, device=weight.device, dtype=weight.dtype)
        if start.sha256 is not None and content_hash(initial.folder) != start.sha256:
            raise ModelError("its weights have changed")
    except TfkitError as error:
        session.listener.warn(f"{loaded.folder}: the kl is not computed, since the initial model of its run cannot be read: {error}")
        return None
    return FrozenReference(initial.model)


def _lines(sets: Sequence[ValidationSet], judged: Sequence[Sequence[JudgedResponse]]) -> list[dict[str, Any]]:
    """Return a line of --predictions for each prompt: its place, and the response, its reward, length and so on, or why there is none."""
    lines = []
    for held_out, responses in zip(sets, judged, strict=True):
        for number, response in enumerate(responses):
            sums = {name: value.total for name, value in response.sums.items() if name != "accuracy"}
            lines.append({"place": held_out.examples.place(number), "response": response.text, **sums})
        lines += [{"place": lost.row.place, "lost": lost.reason} for lost in held_out.lost]
    return lines
