"""The command tfkit evaluate, which scores a model on texts, labelled rows or choices, and checks the conditions of --fail-if."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.results import align_columns, align_facts, beside_baseline, show
from tfkit.engine.request.gate import gate_error, gate_metrics, judge
from tfkit.errors import UsageError
from tfkit.units import format_baselines, format_number_of, shown_metrics

if TYPE_CHECKING:
    from tfkit.carbon import Reading
    from tfkit.engine.inference.evaluator import Evaluator

EXAMPLES = (
    "tfkit evaluate --from runs/demo",
    "tfkit evaluate --from runs/reviews --data test.csv --predictions answers.jsonl",
    'tfkit evaluate --from runs/demo --fail-if "perplexity > 20" --json',
)

_MAX_CLASSES = 20  # maximum number of classes in a table; if there are more, only those with the lowest F1 are shown
_WORST = 10  # number of classes in the table of those with the lowest F1
_MAX_PAIRS = 10  # maximum number of rows in the table of confused classes
_MAX_NAME = 32  # maximum width of a class's name, in columns of the terminal
_WIDTH = 100  # maximum width of a confusion matrix if stdout is not a terminal


def evaluate(
    checkpoint: options.Checkpoint,
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    data: Annotated[str | None, typer.Option(metavar="F", help="A file, folder or glob to score; by default data.validation.")] = None,
    columns: options.Columns = None,
    rows: options.AnsweredRows = None,
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
    from tfkit.cli.session import command_session, open_as_leader
    from tfkit.engine.inference.predictions_file import require_json_lines, write_predictions
    from tfkit.engine.request.evaluation_settings import CodePermission
    from tfkit.recipe import open_recipe
    from tfkit.recipe.reading.overrides import parse_overrides, scored_overrides

    chosen, changes = options.split_recipe("evaluate", recipe, overrides)

    def open_evaluator() -> "Evaluator":
        from tfkit.engine.inference.evaluator import Evaluator

        if predictions is not None:
            require_json_lines(predictions)
        source = open_recipe(chosen) if chosen is not None else None
        given = scored_overrides(options.named_columns(columns), parse_overrides(changes), rows)
        return Evaluator(checkpoint, source, given, data, CodePermission(every_file=allow_code))

    evaluator = open_as_leader(
        open_evaluator, lambda one, session: one.compute(session), execution, out=predictions, option="--predictions"
    )
    if evaluator is None:
        return
    gates, objective = evaluator.gates(fail_if or ()), evaluator.settings.objective.trained_for
    if predictions is not None and objective.reads_text and objective.scored_by == "row":
        raise UsageError(f"--predictions applies to texts and labelled rows, and {objective.kind} has neither; leave it out")
    with command_session("evaluate", evaluator.settings.carbon, execution) as session:
        result, scored, reading = evaluator.score(session, each=predictions is not None)
        judged = gate_metrics(result)
        result["gates"] = judge(gates, judged)
        error = gate_error(gates, judged)
        show(result, partial(_table, reading=reading), error, as_json=json)
        if predictions is not None:
            write_predictions(predictions, scored, session.stop)
    if error is not None:
        raise error


def _table(result: dict[str, Any], reading: "Reading") -> str:
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
        "energy": reading.text if result["energy_kwh"] is not None else "",
    }
    return align_facts(rows) + class_tables(result)


def class_tables(result: Mapping[str, Any]) -> str:
    """Return tables of the scores and confusions of a result's classes, each after a blank line; empty for a result without classes."""
    classes, entities, confusion = (result.get(name) for name in ("classes", "entities", "confusion"))
    tables = [_metrics(rows, noun) for rows, noun in ((entities, "entity"), (None if entities else classes, "class")) if rows]
    tables += [_confusion_matrix(confusion, list(classes)) or _most_confused(confusion)] if classes and confusion else []
    return "".join(f"\n\n{table}" for table in tables if table)


def _metrics(classes: Mapping[str, Mapping[str, float]], noun: str) -> str:
    """Return a table of precision, recall, F1 and occurrences of each class; of over 20, the 10 with the lowest F1 of those that occur."""
    shown, header = list(classes), noun
    if len(classes) > _MAX_CLASSES:
        shown = sorted((name for name in classes if classes[name]["support"]), key=lambda name: classes[name]["f1"])[:_WORST]
        header = f"{noun}, lowest F1 of {len(classes):,}"
    metrics = [[f"{classes[name][key]:.4f}" for key in ("precision", "recall", "f1")] for name in shown]
    rows = [[_cut(name), *values, f"{classes[name]['support']:,}"] for name, values in zip(shown, metrics, strict=True)]
    return align_columns([[header, "precision", "recall", "f1", "support"], *rows])


def _confusion_matrix(confusion: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> str:
    """Return the table of how often each class was predicted for each true class; empty if it has over 20 classes, or is too wide."""
    if len(labels) > _MAX_CLASSES:
        return ""
    rows = [[_cut(label), *(f"{confusion[label].get(other, 0):,}" for other in labels)] for label in labels if label in confusion]
    table = align_columns([["label \\ predicted", *map(_cut, labels)], *rows])
    return table if console.columns_of(table.partition("\n")[0]) <= (console.result_columns() or _WIDTH) else ""


def _most_confused(confusion: Mapping[str, Mapping[str, int]]) -> str:
    """Return the table of the pairs of classes that are confused most often; empty if there are none."""
    errors = [(count, label, other) for label, row in confusion.items() for other, count in row.items() if other != label]
    most = sorted(errors, key=lambda error: -error[0])[:_MAX_PAIRS]
    rows = [[_cut(label), _cut(other), f"{count:,}"] for count, label, other in most]
    return align_columns([["most confused", "predicted", "number"], *rows], 2) if rows else ""


def _cut(name: str) -> str:
    """Return the name of a class on one line, truncated if it is long."""
    name = " ".join(name.split())
    return name if console.columns_of(name) <= _MAX_NAME else f"{console.cut(name, _MAX_NAME - 3)}..."
