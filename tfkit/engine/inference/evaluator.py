"""Evaluation of a checkpoint as its objective asks: on texts or rows, by likelihoods, or by sampled responses. Result: docs/cli.md."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfkit.alignment.user_code import CodePermission
from tfkit.carbon import Footprint, Reading
from tfkit.engine.inference.session import WHOLE, Session, open_model, own_precision
from tfkit.engine.request.evaluation_settings import read_task_settings, settings_inputs
from tfkit.engine.request.gate import Gate, metrics_of_sets, parse_gate, parse_gates
from tfkit.engine.request.inputs import Inputs
from tfkit.engine.request.run_totals import finalize_killed_run
from tfkit.hub import Loaded, find_checkpoint
from tfkit.recipe import RecipeText
from tfkit.recipe.reading.overrides import Overrides
from tfkit.recipe.schema.objective_sections import metrics_of_texts

if TYPE_CHECKING:
    from tfkit.engine.inference.by_row import Scored

_SEED = 1  # the random seed of the bootstrap confidence intervals
_MANY_TRAINED = 0.05  # fraction of the scored texts; if the run was trained on more, a warning adds that the metrics say little


class Evaluator:
    """Evaluates a checkpoint. The constructor reads and checks the settings; `score` loads the model.

    `recipe`: None means that of the run that made the checkpoint or, without a run, a task inferred from the checkpoint's files. `data`: a
    file, folder or glob in place of data.validation. `code`: reward functions that may run; UsageError if the recipe has others.
    """

    def __init__(self, checkpoint: str, recipe: RecipeText | None, overrides: Overrides, data: str | None, code: CodePermission):
        finalize_killed_run(checkpoint)
        self.folder = find_checkpoint(checkpoint)
        self.settings = read_task_settings(recipe, self.folder, overrides, data, scores_texts=True)
        self.code = code
        code.require(self.settings.objective.trained_for.code_files)
        self.inputs: Inputs = settings_inputs(self.settings, self.folder, checkpoint)

    def gates(self, texts: Sequence[str]) -> list[Gate]:
        """Parse the conditions of --fail-if. Raises UsageError for a metric that this evaluation cannot have. The group in a metric of
        minimal pairs, `accuracy.GROUP`, is checked only with the result, since the rows, which name the groups, are not read yet.
        """
        from tfkit.evaluation.baselines import has_baselines

        section = self.settings.objective.trained_for
        of_texts, written = metrics_of_texts(section), self.settings.evaluation.text_metrics
        names = [name for name in section.training_metrics if of_texts.get(name) in (None, *written)]
        names += ["beats_baseline"] if has_baselines(section, written) else []
        if section.scored_by == "likelihood" or self.settings.data is None:
            return [parse_gate(text, names) for text in texts]
        return parse_gates(texts, metrics_of_sets(names, self.settings.data))

    def score(self, session: Session, *, each: bool = False) -> tuple[dict[str, Any], list[dict[str, Any]], Reading]:
        """Evaluate. Return the result (docs/cli.md), the rows of --predictions if `each`, and the energy. Raises Stopped after a signal."""
        loaded, scored = self.compute(session, each=each)
        with session.stop.at_once(WHOLE):
            reading = session.reading(last=True)  # a short command waits here for its first energy measurement
            result = self._result(loaded, scored, reading)
        if result["trained_on"]:
            trained_on, all_texts = result["trained_on"], sum(map(len, scored.texts))
            what = f"{trained_on:,} of the {all_texts:,} texts that were scored are among those that the run was trained on"
            many = ": the metrics say little about other texts" if trained_on > _MANY_TRAINED * all_texts else ""
            session.listener.warn(what + many)
        session.finish(result, data=result["data"])
        return result, scored.predictions, reading

    def compute(self, session: Session, *, each: bool = False) -> "tuple[Loaded, Scored]":
        """Load and score the model, and return the model and its scores: the part of `score` in which all ranks take part."""
        from tfkit.engine.inference.by_likelihood import evaluate_likelihood, evaluate_texts
        from tfkit.engine.inference.by_row import Evaluation, evaluate_rows

        with session.stop.at_once():
            loaded = open_model(self.folder, session, self.inputs, own_precision(self.settings), packs=False).loaded
            loaded.require_tokenizer()
        evaluation, scored_by = Evaluation(self.settings, loaded, session, each), self.settings.objective.trained_for.scored_by
        if scored_by == "rollout":
            from tfkit.engine.inference.by_rollout import evaluate_rollouts

            return loaded, evaluate_rollouts(evaluation, self.code)
        return loaded, {"text": evaluate_texts, "likelihood": evaluate_likelihood, "row": evaluate_rows}[scored_by](evaluation)

    def _result(self, loaded: Loaded, scored: "Scored", reading: Reading) -> dict[str, Any]:
        from tfkit.engine.assembly.training_rows import count_trained_rows
        from tfkit.engine.assembly.verdict import compare, comparison_fields
        from tfkit.objectives.context import row_length
        from tfkit.objectives.metrics import intervals

        evaluation = self.settings.evaluation
        resamples = evaluation.bootstrap if scored.units > 1 else None
        spread = intervals(scored.scores, scored.units, resamples, _SEED) if scored.scores is not None and resamples is not None else {}
        return {
            "schema_version": 1,
            "metrics": scored.metrics,
            "baselines": scored.baselines,
            **comparison_fields(compare(scored.baselines, scored.metrics, self.settings.evaluation.metric)),
            "intervals": spread,
            "bootstrap": resamples if spread else None,
            "examples": scored.examples,
            "tokens": scored.tokens,
            "trained_on": count_trained_rows(loaded.folder, scored.texts),
            "checkpoint": str(loaded.folder),
            "data": [{"name": one.name, "fingerprint": one.fingerprint} for one in scored.stored],
            "batch_size": evaluation.batch_size,
            "precision": evaluation.precision,
            "context_length": loaded.config.context_length,
            "sequence_length": row_length(self.settings.sequence_length, loaded.config),
            **scored.facts,
            **vars(Footprint.from_reading(reading)),
            "gates": [],
        }
