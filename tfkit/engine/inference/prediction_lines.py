"""The lines of a file of predictions: the place, input, prediction and correct answer of each row."""

from collections.abc import Sequence
from typing import Any

from tfkit.data import ExampleSet, Source
from tfkit.engine.assembly.training_data import ValidationSet
from tfkit.evaluation.predictions import RowPrediction
from tfkit.evaluation.written import rows_of
from tfkit.objectives.labelled import LabelledObjective, LabelProbabilities
from tfkit.objectives.objective import weighted_loss
from tfkit.recipe.schema.objective_facts import ObjectiveSection


def prediction_lines(
    section: ObjectiveSection,
    objective: LabelledObjective,
    sources: Sequence[Source],
    sets: Sequence[ValidationSet],
    judged: Sequence[Sequence[RowPrediction]],
) -> list[dict[str, Any]]:
    """Return a line for each row that was judged, or is lost; the sources are read again for the inputs."""
    lines = []
    for source, held_out, results in zip(sources, sets, judged, strict=False):
        assert isinstance(held_out.stored, ExampleSet), "labelled rows are examples"
        rows = [row for _, row in zip(results, rows_of(source, held_out.stored), strict=False)]
        places = [(number, 1, row, None) for number, row in enumerate(rows)] + [(lost.before, 0, lost.row, lost) for lost in held_out.lost]
        for number, _, row, lost in sorted(places, key=lambda place: place[:2]):
            asked = {role.name: row.values[role.name] for role in section.asked_roles if role.name in row.values}
            if lost is not None:
                result = objective.wrong(row)
                lines.append({"place": row.place, **asked, "lost": lost.reason, **(result.prediction if result else {})})
                continue
            answer = {
                name: value.by_label() if isinstance(value, LabelProbabilities) else value
                for name, value in results[number].prediction.items()
            }
            lines.append({"place": row.place, **asked, "loss": weighted_loss(objective.terms, results[number].sums), **answer})
    return lines
