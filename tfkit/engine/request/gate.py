"""Quality gates: with `--fail-if "perplexity > 20"`, a command fails (exit code 8) if the comparison is true of its result."""

import math
import operator
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfkit.errors import QualityGateError, TfkitError, UsageError, argument
from tfkit.recipe.schema.data_sections import DataSection, set_names
from tfkit.recipe.schema.objective_sections import metrics_of_texts
from tfkit.recipe.schema.sections import Recipe

_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt}
# A metric's name may begin with a validation set's (dev-2.loss) or end with that of a group of rows; both may have almost any characters.
_FORM = re.compile(rf"\s*((?=[^<>=!]*[A-Za-z])[^<>=!\s](?:[^<>=!]*[^<>=!\s])?)\s*({'|'.join(_COMPARISONS)})\s*(\S+)\s*")
_PLANNED_NUMBERS = ("parameters", "active_parameters", "trained_parameters", "tokens", "steps", "flops", "memory_bytes", "disk_bytes")
_PLANNED_RANGES = ("seconds", "energy_kwh", "emissions_g")
_PARTS = ("low", "likely", "high")


@dataclass(frozen=True)
class Gate:
    """A comparison of a metric with a number. The command fails if the comparison is true of its result."""

    metric: str
    comparison: str
    threshold: float

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.threshold:g}"

    def fails(self, value: float) -> bool:
        """Whether the comparison is true of the value. NaN always fails, because it says nothing about the model."""
        return math.isnan(value) or bool(_COMPARISONS[self.comparison](value, self.threshold))


def parse_gate(text: str, metrics: Collection[str]) -> Gate:
    """Parse a gate whose metric is one of `metrics`, for all rows, for a validation set (`dev.loss`) or for a group of rows
    (`accuracy.agreement`). Raises UsageError for any other gate.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{argument('fail_if', repr(text))} is not a comparison: write a metric, one of {' '.join(_COMPARISONS)}, and a number, "
            "as in 'perplexity > 20'"
        )
    metric, comparison, number = match.groups()
    # A metric of a set or group of rows has a name of several parts: dev.loss, accuracy.agreement.
    if not {*metric.split(".")} & {*metrics}:
        named = ", ".join(dict.fromkeys(metrics))
        raise UsageError(f"{argument('fail_if', repr(text))}: unknown metric {metric!r}; the metrics are {named}")
    try:
        threshold = float(number)
    except ValueError:
        threshold = math.nan
    if math.isnan(threshold):
        raise UsageError(f"{argument('fail_if', repr(text))}: {number!r} is not a number")
    return Gate(metric, comparison, threshold)


def training_gates(texts: Sequence[str], recipe: Recipe) -> list[Gate]:
    """Parse the gates of a training before it starts. Raises UsageError for a metric that the result will not have."""
    section = recipe.objective.trained_for
    scored = [name for name in section.training_metrics if name not in metrics_of_texts(section)] if recipe.data.validation else []
    known = [*metrics_of_sets(scored, recipe.data), "loss", "seconds"]
    known += ["improvement"] if recipe.model.start is not None and scored else []
    known += ["beats_baseline"] if scored and section.has_baselines else []
    known += ["energy_kwh", "emissions_g"] if recipe.carbon.enabled else []
    return parse_gates(texts, known)


def metrics_of_sets(scored: Sequence[str], data: DataSection) -> list[str]:
    """Return the names of the metrics of all validation sets together and, if there are several sets, of each set."""
    held_out = data.validation
    names = set_names(held_out) if isinstance(held_out, list) else [str(number) for number in range(1, len(data.train) + 1)]
    return [*scored, *(f"{of}.{name}" for of in names for name in scored if len(names) > 1)]


def parse_gates(texts: Sequence[str], known: Collection[str], stages: Sequence[str] = ()) -> list[Gate]:
    """Parse gates on the `known` metrics, or on STAGE.METRIC for one of `stages`. Raises UsageError for any other metric."""
    gates = [parse_gate(text, known) for text in texts]
    of_stages = {f"{stage}.{name}" for stage in stages for name in known}
    if other := next((gate for gate in gates if gate.metric not in known and gate.metric not in of_stages), None):
        named = f", and those of one stage, as in {stages[0]}.seconds (stages: {', '.join(stages)})" if stages else ""
        raise UsageError(
            f"{argument('fail_if')} '{other}': unknown metric {other.metric!r}; the metrics are {', '.join(dict.fromkeys(known))}{named}"
        )
    return gates


def training_metrics(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the metrics of a training's result that gates may compare: scores of the last evaluation, and numbers such as `seconds`.

    `loss` is the loss of the evaluation if there is one, else that of the training. A metric is None if it was not measured.
    """
    nonfinite = result.get("nonfinite", {})
    scores = {
        name: float(nonfinite.get(f"evaluation.{name}", "nan")) if value is None else value for name, value in result["evaluation"].items()
    }
    return {name: result.get(name) for name in ("loss", "improvement", "beats_baseline", "seconds", "energy_kwh", "emissions_g")} | scores


def gate_metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics in an evaluation's result that gates may compare."""
    verdict = result["beats_baseline"]
    return {**result["metrics"], **({} if verdict is None else {"beats_baseline": verdict})}


def gate_error(gates: Collection[Gate], metrics: Mapping[str, float]) -> TfkitError | None:
    """Return the error that names every failed gate, or a metric that this evaluation lacks; None if all gates passed."""
    for gate in gates:
        if gate.metric not in metrics:
            return UsageError(f"{argument('fail_if')} '{gate}': no metric {gate.metric!r} here; the metrics are {', '.join(metrics)}")
    return failed_gates(judge(gates, metrics))


def judge(gates: Collection[Gate], metrics: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Return for each gate its metric's value and whether it failed, for the field `gates` of a result. A missing value counts as NaN."""
    values = [(gate, math.nan if (value := metrics.get(gate.metric)) is None else value) for gate in gates]
    return [{"gate": str(gate), "metric": gate.metric, "value": value, "failed": gate.fails(value)} for gate, value in values]


def failed_gates(verdicts: Collection[Mapping[str, Any]]) -> QualityGateError | None:
    """Return the error that names every gate that failed; None if all passed."""
    failed = [(verdict["gate"], verdict["value"]) for verdict in verdicts if verdict["failed"]]
    shown = [f"{gate} (it is {'nan' if value is None else format(value, 'g')})" for gate, value in failed]
    return QualityGateError(f"quality gate failed: {', '.join(shown)}") if shown else None


def plan_gates(texts: Sequence[str], stages: Sequence[str] = ()) -> list[Gate]:
    """Parse the gates of `tfkit plan` before it makes the plan. Raises UsageError for a number that no plan has.

    `seconds`, `energy_kwh` and `emissions_g` are the likely values, `emissions_g.high` is an upper bound; `STAGE.seconds` is for one stage.
    """
    known = [*_PLANNED_NUMBERS, *_PLANNED_RANGES, *(f"{name}.{part}" for name in _PLANNED_RANGES for part in _PARTS)]
    return parse_gates(texts, known, stages)


def plan_metrics(plan: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the numbers in a plan's JSON document that gates may compare, by name; a stage's numbers have names like `STAGE.seconds`."""
    stages = {f"{stage}.{name}": value for stage, part in plan.get("stages", {}).items() for name, value in plan_metrics(part).items()}
    ranges = {f"{name}.{part}": plan[name][part] for name in _PLANNED_RANGES for part in _PARTS}
    return {name: plan[name] for name in _PLANNED_NUMBERS if name != "flops"} | {
        "flops": plan["flops"]["total"],
        **{name: plan[name]["likely"] for name in _PLANNED_RANGES},
        **ranges,
        **stages,
    }
