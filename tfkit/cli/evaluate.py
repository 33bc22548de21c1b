"""tfkit evaluate: the scores of a model on texts, labelled rows or choices, and whether they pass the gates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit.cli import options
from tfkit.cli.class_tables import class_tables
from tfkit.cli.results import align_facts, beside_baseline, show_judged
from tfkit.engine.request.gate import gate_error, gate_metrics, judge
from tfkit.errors import UsageError
from tfkit.units import format_baselines, format_number_of, shown_metrics

if TYPE_CHECKING:
    from tfkit.carbon import Reading
    from tfkit.engine.inference.evaluator import Evaluator
    from tfkit.engine.inference.session import Session


def evaluate(
    checkpoint: options.Checkpoint,
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    data: Annotated[str | None, typer.Option(metavar="F", help="A file, folder or glob to score; by default data.validation.")] = None,
    columns: options.Columns = None,
    rows: options.Rows = None,
    fail_if: options.FailIf = None,
    predictions: Annotated[Path | None, typer.Option(metavar="F", help="Write one JSON line per row: place, loss, answer.")] = None,
    allow_code: options.AllowCode = False,
    *,
    execution: options.Execution,
    json: options.Json = False,
) -> None:
    """Score a model: a language model on texts (loss, perplexity, bits per byte), any other model on rows of its task.

    The data are those of --data, or else data.validation of the recipe, or else that of the run that made the checkpoint. A checkpoint from
    elsewhere needs no recipe: "objective={kind: classification}" names its task; minimal_pairs and few_shot evaluate any language
    model (docs/evaluation.md). --run keeps the result in a run folder, with the energy in emissions.csv.
    """
    from tfkit.cli.session import leading_session, open_as_leader
    from tfkit.engine.inference.predictions_file import write_predictions
    from tfkit.engine.request.evaluation_settings import CodePermission
    from tfkit.recipe import open_recipe
    from tfkit.recipe.reading.overrides import parse_overrides

    chosen, changes = options.split_recipe("evaluate", recipe, overrides)

    def open_evaluator() -> "Evaluator":
        from tfkit.engine.inference.evaluator import Evaluator

        source = open_recipe(chosen) if chosen is not None else None
        return Evaluator(
            checkpoint,
            source,
            options.scored_overrides(columns, rows) | parse_overrides(changes),
            data,
            CodePermission(every_file=allow_code),
        )

    def follow(evaluator: "Evaluator", work: "Session") -> None:
        evaluator.compute(work)

    if (evaluator := open_as_leader(open_evaluator, follow, execution, out=predictions, option="--predictions")) is None:
        return
    gates, objective = evaluator.gates(fail_if or ()), evaluator.settings.objective.trained_for
    if predictions is not None and objective.reads_text and objective.scored_by == "row":
        raise UsageError(f"--predictions applies to texts and labelled rows, and {objective.kind} has neither; leave it out")
    with leading_session("evaluate", evaluator, execution) as work:
        result, scored, reading = evaluator.score(work, each=predictions is not None)
        judged = gate_metrics(result)
        result["gates"] = judge(gates, judged)
        error = gate_error(gates, judged)
        show_judged(result, _table(result, reading), error, as_json=json)
        if predictions is not None:
            write_predictions(predictions, scored, work.stop)
    if error is not None:
        raise error


def _table(result: dict[str, Any], reading: "Reading") -> str:
    """Return the result as text for people."""
    metrics, units = dict(result["metrics"]), {}
    scored = format_number_of(result["examples"], "row")
    if result["examples"] > result.get("inputs", result["examples"]):
        scored += f" of {format_number_of(result['inputs'], 'input')}, with {format_number_of(result['references'], 'reference')}"
    if "target_tokens" in metrics:  # the rows are texts
        units = {"loss": " nats per token"}
        scored = f"{format_number_of(metrics.pop('target_tokens'), 'token')} of {format_number_of(result['examples'], 'text')}"
        scored += f", in pieces of at most {result['sequence_length']:,}"
    digits = {"perplexity": 2, "bleu": 2, "chrf": 2}
    rows = {}
    for name, value in shown_metrics(metrics).items():
        places = digits.get(name.rpartition(".")[2], 4)
        low, high = result["intervals"].get(name, (value, value))
        spread = f"  (95 %: {low:.{places}f} to {high:.{places}f})" if low < high else ""
        rows[name.replace("_", " ")] = f"{value:.{places}f}{units.get(name, '')}{spread}"
    rows |= {
        "baselines": format_baselines(result["baselines"]),
        "verdict": beside_baseline(result),
        "scored": scored,
        "data": ", ".join(entry["name"] for entry in result["data"]),
        "checkpoint": result["checkpoint"],
    }
    rows["energy"] = reading.text if result["energy_kwh"] is not None else ""
    return align_facts(rows) + class_tables(result)
