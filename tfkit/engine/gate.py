"""Quality gates: `--fail-if "perplexity > 20"` turns a metric into an exit code."""

import math
import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tfkit.errors import QualityGateError, UsageError

_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt}
_FORM = re.compile(
    rf"\s*((?=[^<>=!]*[A-Za-z])[^<>=!\s](?:[^<>=!]*[^<>=!\s])?)\s*({'|'.join(_COMPARISONS)})\s*(\S+)\s*"
)  # names of sets and groups are free: dev-2.loss


@dataclass(frozen=True)
class Gate:
    """A comparison that must not be true."""

    metric: str
    comparison: str
    threshold: float

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.threshold:g}"

    def fails(self, value: float) -> bool:
        """Whether the comparison is true of the value. NaN always fails: it shows nothing about the model."""
        return math.isnan(value) or bool(_COMPARISONS[self.comparison](value, self.threshold))


def parse_gate(text: str, metrics: Collection[str]) -> Gate:
    """Parse a gate over one of `metrics`. Raise UsageError for another form or an unknown metric."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--fail-if {text!r} is not a comparison: write a metric, one of {' '.join(_COMPARISONS)}, and a number, "
            "as in 'perplexity > 20'"
        )
    metric, comparison, number = match.groups()
    if not {*metric.split(".")} & {*metrics}:  # of one of several sets, or of a group of rows: dev.loss, accuracy.agreement
        raise UsageError(f"--fail-if {text!r}: unknown metric {metric!r}; there are {', '.join(metrics)}")
    try:
        threshold = float(number)
    except ValueError:
        threshold = math.nan
    if math.isnan(threshold):
        raise UsageError(f"--fail-if {text!r}: {number!r} is not a number")
    return Gate(metric, comparison, threshold)


def check_gates(gates: Collection[Gate], metrics: Mapping[str, float]) -> None:
    """Raise QualityGateError that names every failed gate, UsageError for a metric that this evaluation does not have."""
    for gate in gates:
        if gate.metric not in metrics:
            raise UsageError(f"--fail-if '{gate}': no metric {gate.metric!r} here; there are {', '.join(metrics)}")
    failed = [f"{gate} (it is {metrics[gate.metric]:g})" for gate in gates if gate.fails(metrics[gate.metric])]
    if failed:
        raise QualityGateError(f"quality gate failed: {', '.join(failed)}")
