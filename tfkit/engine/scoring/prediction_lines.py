"""The lines of a file of predictions: each row's place, what was asked, what was answered, and what is right."""

from collections.abc import Sequence
from typing import Any

from tfkit.data import ExampleSet, Source
from tfkit.evaluation.predictions import Judged
from tfkit.evaluation.written import rows_of
from tfkit.objectives.labelled import LabelledObjective, LabelProbabilities
from tfkit.objectives.objective import weighted_loss
from tfkit.recipe.schema.objective_facts import ObjectiveSection


def prediction_lines(
    section: ObjectiveSection,
    objective: LabelledObjective,
    sources: Sequence[Source],
    stored: Sequence[ExampleSet],
    judged: Sequence[Sequence[Judged]],
) -> list[dict[str, Any]]:
    """Return a line for each row that was judged; the sources are read once more, for what was asked."""
    lines = []
    for source, examples, found in zip(sources, stored, judged, strict=False):
        by_number = {one.number: one for one in found}
        for number, row in zip(range(max(by_number) + 1), rows_of(source, examples), strict=False):
            if (one := by_number.get(number)) is not None:
                asked = {role.name: row.values[role.name] for role in section.asked_roles if role.name in row.values}
                answer = {
                    name: value.by_label() if isinstance(value, LabelProbabilities) else value for name, value in one.prediction.items()
                }
                lines.append({"place": row.place, **asked, "loss": weighted_loss(objective.terms, one.sums), **answer})
    return lines
