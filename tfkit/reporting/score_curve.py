"""The score curve of a run: the score of each evaluation and the cost up to it, and the cost until a score was reached."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from tfkit.reporting.run_facts import RunFacts, number_of


@dataclass(frozen=True)
class Cost:
    """The cost of a run up to a step, over all its attempts; None: not known. `seconds` is the time of the steps alone."""

    step: float
    seconds: float | None
    energy_kwh: float | None
    emissions_g: float | None

    def interpolate(self, other: "Cost", fraction: float) -> "Cost":
        """Return the cost at a fraction of the way to `other`; a field is None if it is None in either."""
        ends = zip(astuple(self)[1:], astuple(other)[1:], strict=True)
        between = (None if start is None or end is None else start + fraction * (end - start) for start, end in ends)
        return Cost(self.step + fraction * (other.step - self.step), *between)


@dataclass(frozen=True)
class CurvePoint:
    """An evaluation: the value of one metric, and the cost up to it."""

    value: float
    cost: Cost


def score_curve(run: RunFacts, metric: str) -> list[CurvePoint]:
    """Return the evaluations of a run with this metric, in order; for fine-tuning, also that before the first step, at no cost."""
    costs = _costs(run)
    curve = [CurvePoint(values[metric], _cost_at(costs, step)) for step, values in run.metrics.evaluations if metric in values]
    before = number_of(run.recorded.before, metric)
    if before is not None and not (curve and curve[0].cost.step == 0):
        curve.insert(0, CurvePoint(before, Cost(0, 0.0, 0.0, 0.0)))
    return curve


def cost_until(curve: Sequence[CurvePoint], level: float, *, higher_is_better: bool) -> Cost | None:
    """Return the cost when the score first reached `level`, interpolated between two evaluations; None if it never did.

    A score that is not finite does not reach any level, and is not interpolated.
    """
    sign = -1.0 if higher_is_better else 1.0
    last: CurvePoint | None = None
    for point in curve:
        if sign * point.value <= sign * level:
            if last is None or point.value == last.value:
                return point.cost
            return last.cost.interpolate(point.cost, (last.value - level) / (last.value - point.value))
        last = point if math.isfinite(point.value) else None
    return None


def _costs(run: RunFacts) -> list[Cost]:
    """Return the cost at each record of steps, in order."""
    costs: list[Cost] = []
    seconds: float | None = 0.0
    tokens = 0.0
    for record in run.metrics.steps:
        rate, total = record.get("tokens_per_second"), record.get("tokens")
        seconds = seconds + max(0.0, total - tokens) / rate if seconds is not None and rate and total is not None else None
        tokens = total if total is not None else tokens
        energy, grams = number_of(record, "energy_wh"), number_of(record, "emissions_g")
        costs.append(Cost(record["step"], seconds, None if energy is None else energy / 1000, grams))
    return costs


def _cost_at(costs: Sequence[Cost], step: int) -> Cost:
    """Return the cost at a step, interpolated between two records, or else that of the nearest record."""
    if not costs:
        return Cost(step, None, None, None)
    index = bisect_left(costs, float(step), key=lambda cost: cost.step)
    after, before = costs[min(index, len(costs) - 1)], costs[max(0, index - 1)]
    if not before.step < step < after.step:
        return replace(after, step=step)
    return before.interpolate(after, (step - before.step) / (after.step - before.step))
