"""The judges by the kind of their section: objectives that only evaluate finished models."""

from collections.abc import Callable, Iterable
from typing import Any

from tfkit.data import Row
from tfkit.data.columns.rows import OnBadRow
from tfkit.evaluation.few_shot import FewShot
from tfkit.evaluation.judging import Judge
from tfkit.evaluation.minimal_pairs import MinimalPairs

# The arguments: the section, the rows of data.train if the judge reads them, and data.on_bad_row.
JUDGES: dict[str, Callable[[Any, Iterable[Row], OnBadRow], Judge]] = {
    "minimal_pairs": lambda section, examples, on_bad_row: MinimalPairs(),
    "few_shot": FewShot,
}
