"""The course of a run: the score of each evaluation over what had been spent by then, and what had been spent when a score was reached."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tfkit.reporting.run_facts import RunFacts, mapping_of, number_of


@dataclass(frozen=True)
class Spent:
    """The cost of a run up to a step, over all its attempts. `seconds` are those of the steps alone; None: not known."""

    step: float
    seconds: float | None
    energy_kwh: float | None
    emissions_g: float | None

    def towards(self, other: "Spent", fraction: float) -> "Spent":
        """Return the cost at a fraction of the way to another one; unknown where either is."""

        def between(start: float | None, end: float | None) -> float | None:
            return None if start is None or end is None else start + fraction * (end - start)

        return Spent(
            self.step + fraction * (other.step - self.step),
            between(self.seconds, other.seconds),
            between(self.energy_kwh, other.energy_kwh),
            between(self.emissions_g, other.emissions_g),
        )


@dataclass(frozen=True)
class Scored:
    """An evaluation: the value of one metric, and the cost up to it."""

    value: float
    spent: Spent


def course_of(run: RunFacts, metric: str) -> list[Scored]:
    """Return the evaluations of a run that have this metric, in order; of a fine-tuning also that before its first step, at no cost."""
    spending = _spending(run)
    scored = [Scored(values[metric], _at(spending, step)) for step, values in run.metrics.evaluations if metric in values]
    before = number_of(mapping_of(run.receipt, "before"), metric)
    if before is not None and not (scored and scored[0].spent.step == 0):
        scored.insert(0, Scored(before, Spent(0, 0.0, 0.0, 0.0)))
    return scored


def spent_until(course: Sequence[Scored], level: float, *, higher_is_better: bool) -> Spent | None:
    """Return the cost when the score first was as good as `level`, interpolated between two evaluations; None: it never was.

    A score that is not finite reaches nothing; between it and a good one nothing is interpolated.
    """
    sign = -1.0 if higher_is_better else 1.0
    last: Scored | None = None
    for scored in course:
        if sign * scored.value <= sign * level:
            if last is None or scored.value == last.value:
                return scored.spent
            return last.spent.towards(scored.spent, (last.value - level) / (last.value - scored.value))
        last = scored if math.isfinite(scored.value) else None
    return None


def _spending(run: RunFacts) -> list[Spent]:
    """Return the cost at each record of steps, in order."""
    spending: list[Spent] = []
    seconds: float | None = 0.0
    tokens = 0.0
    for record in run.metrics.steps:
        rate, now = record.get("tokens_per_second"), record.get("tokens")
        seconds = seconds + max(0.0, now - tokens) / rate if seconds is not None and rate and now is not None else None
        tokens = now if now is not None else tokens
        energy, grams = number_of(record, "energy_wh"), number_of(record, "emissions_g")
        spending.append(Spent(record["step"], seconds, None if energy is None else energy / 1000, grams))
    return spending


def _at(spending: Sequence[Spent], step: int) -> Spent:
    """Return the cost at a step, between two records interpolated, else that of the nearest one."""
    if not spending:
        return Spent(step, None, None, None)
    place = bisect_left(spending, float(step), key=lambda spent: spent.step)
    after, before = spending[min(place, len(spending) - 1)], spending[max(0, place - 1)]
    if not before.step < step < after.step:
        return replace(after, step=step)
    return before.towards(after, (step - before.step) / (after.step - before.step))
