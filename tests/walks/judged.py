"""A walk that is run and checked, with the invariants or without; failures are reduced."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

from walks import invariants as invariants_of
from walks.running import Failure, Outcome, run_walk
from walks.scenario import Walk
from walks.shrinking import TRIES, shrink

Judged = Outcome


def judge_walk(walk: Walk, folder: Path, *, invariants: bool = False, before: Callable[[], object] | None = None) -> Outcome:
    """Return the outcome of a walk in a new folder; `before` is called in each of its processes."""
    outcome = run_walk(walk, folder, before)
    if invariants:
        outcome.failures += invariants_of.check(walk, folder, outcome)
    return outcome


def shrink_failure(
    walk: Walk, failure: Failure, folder: Path, *, invariants: bool = False, before: Callable[[], object] | None = None, tries: int = TRIES
) -> Walk:
    """Return a small walk that fails with the same signature."""
    invariants = invariants and "not true that" in failure.signature
    numbers = itertools.count()

    def fails(smaller: Walk) -> bool:
        place = folder / f"try-{next(numbers)}"
        try:
            found = judge_walk(smaller, place, invariants=invariants, before=before)
        except (KeyError, IndexError, ValueError, OSError):
            return False  # the reduced walk is impossible: a file without rows, a command without words
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return any(one.signature == failure.signature for one in found.failures)

    return shrink(walk, fails, tries)
