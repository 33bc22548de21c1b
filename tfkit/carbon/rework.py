"""The energy that a run used for steps that were lost and repeated."""

from pathlib import Path

from tfkit.carbon.ledger import SUMS, Attempt
from tfkit.carbon.totals import attempts_of


def rework(attempts: list[Attempt]) -> dict[str, float]:
    """Return the sums that a run used for work that was lost and repeated: the cost of kills, included in the totals.

    Lost are the steps and evaluations of an attempt after the checkpoint from which a later attempt resumed. Start-up, and the end of an
    attempt that had saved its last step, do not count.
    """
    sums = dict.fromkeys(SUMS, 0.0)
    for attempt in attempts:
        later = [other for other in attempts if other.resume_points and other.header["attempt"] > attempt.header["attempt"]]
        if attempt.resume_points and later:
            resumed_step = min(other.resume_points[0].step for other in later)
            kept = [point for point in attempt.resume_points if point.step <= resumed_step]
            for name, value in attempt.work_since(kept[-1] if kept else attempt.resume_points[0]).items():
                sums[name] += 0.0 if name == "seconds" and attempt.header["node"] else value  # nodes work at the same time
    return sums


def read_rework(run_folder: Path, run_id: str) -> dict[str, float] | None:
    """Return `rework` of a run from its ledgers; None if there are none, or they cannot be read."""
    try:
        attempts = attempts_of(run_folder, run_id)
    except OSError:
        return None
    return rework(attempts) if attempts else None
