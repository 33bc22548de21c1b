"""The judges by the kind of their section: objectives that only evaluate finished models."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tfkit.data import Row
from tfkit.data.columns.rows import BadRow, OnBadRow
from tfkit.evaluation.few_shot import FewShot
from tfkit.evaluation.judging import Judge, Verdict
from tfkit.evaluation.likelihood import Likelihood, Question


class MinimalPairs:
    """Scores log P(good) > log P(bad) of whole sentences, as in BLiMP (Warstadt et al. 2020, arXiv 1912.00582); also per group of rows, as
    `accuracy.<group>`.
    """

    def questions(self, number: int, row: Row) -> list[Question] | BadRow:
        """Return both sentences, without context."""
        if empty := [side for side in ("good", "bad") if not row.values[side].strip()]:
            what = f"the {' and the '.join(empty)} sentence"
            return BadRow("an empty sentence", f"{row.place}: {what} is empty; remove the row")
        return [Question("", row.values["good"]), Question("", row.values["bad"])]

    def verdict(self, row: Row, asked: Sequence[Question], answers: Sequence[Likelihood]) -> Verdict:
        """Return an accuracy of 1 if the good sentence is more probable; 0 also if both are equally probable."""
        good, bad = (answer.log_prob for answer in answers)
        right, group = float(good > bad), row.values.get("group")
        scores = {"accuracy": right} | ({} if group is None else {f"accuracy.{group}": right})
        return Verdict(scores, {"good": good, "bad": bad, "right": good > bad} | ({} if group is None else {"group": group}))


# The arguments: the section, the rows of data.train if the judge reads them, and data.on_bad_row.
JUDGES: dict[str, Callable[[Any, Iterable[Row], OnBadRow], Judge]] = {
    "minimal_pairs": lambda section, examples, on_bad_row: MinimalPairs(),
    "few_shot": FewShot,
}
