"""Comparison of runs at equal validation loss: what each had spent when it was as good as another one at its best.

Runs are compared where they were judged alike: by the same held-out rows, for the same objective, and by a metric that does not depend on
the vocabulary where the vocabularies differ.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tfkit.recipe.schema.best_metric import HIGHER
from tfkit.reporting.loss_course import Scored, Spent, course_of, spent_until
from tfkit.reporting.run_set import Entry, RunSet

MOST_RUNS = 8  # of a comparison: those with the best scores


@dataclass(frozen=True)
class Level:
    """A score that one of the runs had at its best, and what each run had spent when it reached it; None: it never did."""

    value: float
    best_of: str
    reached: Mapping[str, Spent | None]


@dataclass(frozen=True)
class Comparison:
    """Runs that were judged alike, and levels from the worst to the best."""

    metric: str
    entries: tuple[Entry, ...]
    courses: Mapping[str, Sequence[Scored]]  # by label
    levels: tuple[Level, ...]
    notes: tuple[str, ...] = ()

    def with_inherited(self, label: str, spent: Spent, name: str) -> float | None:
        """Return the `energy_kwh` or `emissions_g` of a run until a level and of all its ancestors; None: it has none, or unknown ones."""
        inherited = next(one.inherited for one in self.entries if one.label == label)
        amounts = getattr(inherited, name, None), getattr(spent, name)
        return None if not inherited.ancestors or None in amounts else sum(amounts)

    def document(self) -> dict[str, Any]:
        """Return the comparison as JSON has it."""
        levels = [
            {
                "value": level.value,
                "best_of": level.best_of,
                "reached": {
                    label: None
                    if spent is None
                    else {**asdict(spent), "with_inherited_g": self.with_inherited(label, spent, "emissions_g")}
                    for label, spent in level.reached.items()
                },
            }
            for level in self.levels
        ]
        return {"metric": self.metric, "runs": [one.label for one in self.entries], "levels": levels, "notes": list(self.notes)}


def compare_runs(runs: RunSet) -> list[Comparison]:
    """Return a comparison for each two or more runs that were judged alike."""
    groups: dict[str, list[Entry]] = {}
    for one in runs.trained:
        if one.run.metrics.evaluations:
            groups.setdefault(one.judged_by, []).append(one)
    found = [_compare(group) for group in groups.values() if len(group) > 1]
    return [comparison for comparison in found if comparison is not None]


def _compare(group: Sequence[Entry]) -> Comparison | None:
    metric, notes = _metric(group)
    if metric is None:
        return None
    is_higher = metric in HIGHER
    courses = {one.label: course_of(one.run, metric) for one in group}
    best = {label: _best([scored.value for scored in course], is_higher) for label, course in courses.items()}
    ranked = sorted((one for one in group if math.isfinite(best[one.label])), key=lambda one: best[one.label], reverse=is_higher)
    chosen = [one for one in group if one in ranked[:MOST_RUNS]]
    if len(chosen) < 2:
        return None
    if len(ranked) > MOST_RUNS:
        notes.append(f"of {len(ranked)} runs the {MOST_RUNS} with the best scores are compared")
    levels: list[Level] = []
    for one in sorted(chosen, key=lambda one: best[one.label], reverse=not is_higher):
        value = best[one.label]
        if levels and levels[-1].value == value:
            continue
        reached = {other.label: spent_until(courses[other.label], value, higher_is_better=is_higher) for other in chosen}
        levels.append(Level(value, one.label, reached))
    notes += _unequal(chosen)
    return Comparison(metric, tuple(chosen), {one.label: courses[one.label] for one in chosen}, tuple(levels), tuple(notes))


def _metric(group: Sequence[Entry]) -> tuple[str | None, list[str]]:
    """Return the metric that the runs are compared by, the validation loss where that can be; None: they have none in common."""
    names = [{name for _, values in one.run.metrics.evaluations for name in values} for one in group]
    common = set.intersection(*names) - {"target_tokens"}
    sizes = {one.run.checkpoint.config.get("vocab_size") for one in group if one.run.checkpoint}
    if len(sizes) > 1 and "bits_per_byte" in common:
        return "bits_per_byte", ["the vocabularies differ, so bits per byte are compared, not the loss of a token"]
    notes = ["the vocabularies differ: a loss of one is not that of the other"] if len(sizes) > 1 else []
    if "loss" in common:
        return "loss", notes
    best = {str((one.run.listed.best or {}).get("metric")) for one in group}
    return (best.pop(), notes) if len(best) == 1 and best <= common else (None, notes)


def _best(values: Sequence[float], is_higher: bool) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return (max(finite) if is_higher else min(finite)) if finite else math.nan


def _unequal(chosen: Sequence[Entry]) -> list[str]:
    """Return marks where the amounts of the runs were not had in the same way."""
    notes = []
    if len({one.run.place for one in chosen if one.run.amounts.energy_kwh is not None}) > 1:
        notes.append("the runs have different places or carbon intensities: compare the energy, not the grams")
    if len({one.run.provenance for one in chosen}) > 1:
        notes.append("the energy of the runs was measured in different ways, or of some not at all")
    if any(one.run.is_lower_bound for one in chosen):
        notes.append("the energy of a run is a lower bound")
    return notes
