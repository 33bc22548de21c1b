"""Compare runs at equal validation scores: what each run had cost when it reached the best score of any of them.

Runs are compared if they were evaluated on the same held-out rows for the same objective. Bits per byte replace the loss if the runs'
vocabularies differ and all runs have bits per byte. A run's curve has the score of each evaluation, and the cost until that evaluation.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import cached_property
from typing import Any

from tfkit.recipe.schema.objective_sections import HIGHER
from tfkit.recipe.schema.sections import scoring_differences
from tfkit.reporting.run_facts import RunFacts, number_of
from tfkit.reporting.run_set import Entry, RunSet

MOST_RUNS = 8  # the largest number of runs in a comparison; if there are more, those with the best scores are compared


@dataclass(frozen=True)
class Cost:
    """The cost of a run from its first start up to a step. A field that is not known is None. `seconds` counts the time of steps only."""

    step: float
    seconds: float | None
    energy_kwh: float | None
    emissions_g: float | None

    def interpolate(self, other: "Cost", fraction: float) -> "Cost":
        """Return the cost between this one (`fraction` 0) and `other` (1); a field that is None in either cost is None."""
        ends = zip(astuple(self)[1:], astuple(other)[1:], strict=True)
        between = (None if start is None or end is None else start + fraction * (end - start) for start, end in ends)
        return Cost(self.step + fraction * (other.step - self.step), *between)


@dataclass(frozen=True)
class CurvePoint:
    """The value of a metric in an evaluation, and the cost of the run up to this evaluation."""

    value: float
    cost: Cost


@dataclass(frozen=True)
class Level:
    """The best score of one run, and what each run had cost when it reached this score."""

    value: float
    best_of: str  # the label of the run whose best score this is
    reached: Mapping[str, Cost | None]  # the cost of each run, by label; None: the run never reached the score


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs that were evaluated in the same way, at several levels: the best scores of the runs, from worst to best."""

    metric: str
    entries: tuple[Entry, ...]
    curves: Mapping[str, Sequence[CurvePoint]]  # of each run, by label
    levels: tuple[Level, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def field(self) -> str:
        """The compared field, the first that all costs have: emissions_g (only if all runs have one place), energy_kwh, or else seconds."""
        costs = [cost for level in self.levels for cost in level.reached.values() if cost is not None]
        fields = ("emissions_g", "energy_kwh") if len({entry.run.place for entry in self.entries}) == 1 else ("energy_kwh",)
        return next((name for name in fields if all(getattr(cost, name) is not None for cost in costs)), "seconds")

    @property
    def words(self) -> str:
        """The name of the compared field in a report for people."""
        return {"emissions_g": "CO2e", "energy_kwh": "energy", "seconds": "time of the steps"}[self.field]

    @property
    def has_inherited(self) -> bool:
        """Whether costs of ancestors (models from which runs were made) are added to those of the runs: if any, and no time is compared."""
        return self.field != "seconds" and any(entry.inherited.ancestors for entry in self.entries)

    def with_inherited(self, label: str, cost: Cost, name: str) -> float | None:
        """Return the field `name`, energy_kwh or emissions_g, of a run's cost plus that of all its ancestors; None if either is unknown."""
        inherited = next(getattr(entry.inherited.sums, name, None) for entry in self.entries if entry.label == label)
        own = getattr(cost, name)
        return None if inherited is None or own is None else inherited + own

    def document(self) -> dict[str, Any]:
        """Return the comparison as a JSON document."""
        levels = [asdict(level) for level in self.levels]
        for level, document in zip(self.levels, levels, strict=True):
            for label, cost in level.reached.items():
                if cost is not None:
                    document["reached"][label]["with_inherited_g"] = self.with_inherited(label, cost, "emissions_g")
        return {"metric": self.metric, "runs": [entry.label for entry in self.entries], "levels": levels, "notes": list(self.notes)}


def compare_runs(runs: RunSet) -> list[Comparison]:
    """Return a comparison for each group of runs that were evaluated in the same way."""
    groups: dict[str, list[Entry]] = {}
    for entry in runs.trained:
        if entry.run.metrics.evaluations:
            groups.setdefault(entry.evaluation_key, []).append(entry)
    return [comparison for group in groups.values() if len(group) > 1 and (comparison := _compare(group)) is not None]


def _compare(group: Sequence[Entry]) -> Comparison | None:
    """Return the comparison of runs that were evaluated in the same way; None if fewer than two have a score by the same metric."""
    metric, notes = _metric(group)
    if metric is None:
        return None
    is_higher = metric in HIGHER
    curves = {entry.label: score_curve(entry.run, metric) for entry in group}
    values = {label: [point.value for point in curve if math.isfinite(point.value)] for label, curve in curves.items()}
    best = {label: max(scores) if is_higher else min(scores) for label, scores in values.items() if scores}
    ranked = sorted((entry for entry in group if entry.label in best), key=lambda entry: best[entry.label], reverse=is_higher)
    chosen = [entry for entry in group if entry in ranked[:MOST_RUNS]]
    if len(chosen) < 2:
        return None
    if len(ranked) > MOST_RUNS:
        notes.append(f"of {len(ranked)} runs the {MOST_RUNS} with the best scores are compared")
    levels: list[Level] = []
    for entry in sorted(chosen, key=lambda entry: best[entry.label], reverse=not is_higher):
        value = best[entry.label]
        if levels and levels[-1].value == value:
            continue
        reached = {other.label: cost_until(curves[other.label], value, higher_is_better=is_higher) for other in chosen}
        levels.append(Level(value, entry.label, reached))
    notes += _differences(chosen)
    return Comparison(metric, tuple(chosen), {entry.label: curves[entry.label] for entry in chosen}, tuple(levels), tuple(notes))


def _metric(group: Sequence[Entry]) -> tuple[str | None, list[str]]:
    """Return the metric by which runs are compared, or None if they have no suitable metric in common, and notes on the choice.

    The metric is bits per byte if the vocabularies differ and all runs have it; otherwise it is the loss or, if a run has no loss, the
    metric by which all runs chose their best checkpoint.
    """
    names = [{name for _, values in entry.run.metrics.evaluations for name in values} for entry in group]
    common = set.intersection(*names) - {"target_tokens"}
    sizes = {number_of(entry.run.checkpoint.config, "vocab_size") for entry in group if entry.run.checkpoint}
    # The runs of a group have the same validation texts, so if the hashes of their token ids differ, so do their vocabularies.
    differ = len(sizes) > 1 or len({str(entry.run.recorded.data.get("validation")) for entry in group}) > 1
    if differ and "bits_per_byte" in common:
        notes = ["the vocabularies differ, so bits per byte are compared, not the loss per token"]
        if any(entry.run.recipe.get("evaluation.max_tokens") is not None for entry in group):
            notes.append("evaluation.max_tokens counts tokens, which differ, so other texts may have been scored")
        return "bits_per_byte", notes
    notes = ["the vocabularies differ, so the losses per token are not comparable"] if differ else []
    if "loss" in common:
        return "loss", notes
    best = {str((entry.run.listed.best or {}).get("metric")) for entry in group}
    return (best.pop(), notes) if len(best) == 1 and best <= common else (None, notes)


def _differences(entries: Sequence[Entry]) -> list[str]:
    """Return notes on differences that make the costs or the scores of the runs less comparable."""
    notes = []
    if len({entry.run.place for entry in entries if entry.run.amounts.energy_kwh is not None}) > 1:
        notes.append("the runs have different places or carbon intensities: compare the energy, not the grams")
    if len({entry.run.provenance for entry in entries}) > 1:
        notes.append("the energy of the runs was measured in different ways, or for some not at all")
    if any(entry.run.is_lower_bound for entry in entries):
        notes.append("the energy of a run is a lower bound")
    if fields := scoring_differences([entry.run.recipe for entry in entries if entry.run.recipe]):
        notes.append(f"the runs differ in {', '.join(fields)}, so their scores may not be comparable")
    return notes


def score_curve(run: RunFacts, metric: str) -> list[CurvePoint]:
    """Return the curve of a run's evaluations that have this metric. The evaluation before the first step, if any, has a cost of 0."""
    costs = _costs(run)
    curve = [CurvePoint(values[metric], _cost_at(costs, step)) for step, values in run.metrics.evaluations if metric in values]
    before = number_of(run.recorded.before, metric)
    if before is not None and not (curve and curve[0].cost.step == 0):
        curve.insert(0, CurvePoint(before, Cost(0, 0.0, 0.0, 0.0)))
    return curve


def cost_until(curve: Sequence[CurvePoint], level: float, *, higher_is_better: bool) -> Cost | None:
    """Return the cost at which the score first reached `level`, interpolated between two evaluations; None if it never did so. A
    score that is not finite is not used for interpolation.
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
    """Return the cost of a run at each training step that metrics.jsonl has, by increasing step."""
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
    """Return the cost at a step, interpolated between the records before and after it, or else the cost of the nearest record."""
    if not costs:
        return Cost(step, None, None, None)
    index = bisect_left(costs, float(step), key=lambda cost: cost.step)
    after, before = costs[min(index, len(costs) - 1)], costs[max(0, index - 1)]
    if not before.step < step < after.step:
        return replace(after, step=step)
    return before.interpolate(after, (step - before.step) / (after.step - before.step))
