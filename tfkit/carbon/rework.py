"""The energy that a run used for steps that were lost and taken again."""

from pathlib import Path

from tfkit.carbon.ledger import SUMS, Attempt
from tfkit.carbon.totals import attempts_of


def rework(attempts: list[Attempt]) -> dict[str, float]:
    """Return the sums that a run used for work that was lost and done again: they count in the total, and show how much kills cost.

    These are the steps and evaluations of an attempt after the checkpoint that a later one continued. Starting again, and the end of an
    attempt that had saved its last step, are not included.
    """
    sums = dict.fromkeys(SUMS, 0.0)
    for attempt in attempts:
        later = [other.marks[0].step for other in attempts if other.marks and other.header["attempt"] > attempt.header["attempt"]]
        if attempt.marks and later:
            kept = [mark for mark in attempt.marks if mark.step <= min(later)]
            for name, value in attempt.work_since(kept[-1] if kept else attempt.marks[0]).items():
                sums[name] += 0.0 if name == "seconds" and attempt.header["node"] else value  # nodes work at the same time
    return sums


def read_rework(run_folder: Path, run_id: str) -> dict[str, float] | None:
    """Return `rework` of a run from its ledgers; None if there is none that can be read."""
    try:
        attempts = attempts_of(run_folder, run_id)
    except OSError:
        return None
    return rework(attempts) if attempts else None
