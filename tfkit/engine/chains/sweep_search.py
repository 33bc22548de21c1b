"""The choice of the next trial of a sweep: every combination in turn, or by Optuna's sampler, given the scores of earlier ones."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tfkit.engine.request.chain_result import Trial
from tfkit.errors import MachineError, argument, how_to_install
from tfkit.recipe.search_space import Axis, SearchSpace

Done = Sequence[tuple[Trial, float | None]]  # the trials so far, and the score of each; None: it has none
_RETRIES = 50  # of a sampler that proposes a combination that was already tried


class Search(Protocol):
    """The order of the trials."""

    @property
    def count(self) -> int:
        """The planned number of trials."""

    def propose(self, done: Done) -> dict[str, Any] | None:
        """Return the values of the next trial; None if there is none left."""


@dataclass(frozen=True)
class Grid:
    """All combinations; the last field varies fastest."""

    axes: tuple[Axis, ...]

    @property
    def count(self) -> int:
        """The number of combinations."""
        return len(self.combinations())

    def combinations(self) -> list[dict[str, Any]]:
        """Return all combinations, in order."""
        keys = [axis.key for axis in self.axes]
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(axis.values for axis in self.axes))]

    def propose(self, done: Done) -> dict[str, Any] | None:
        """Return the first combination that was not tried."""
        tried = [trial.values for trial, _ in done]
        return next((values for values in self.combinations() if values not in tried), None)


@dataclass(frozen=True)
class OptunaSearch:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011). Trial n is a function of the seed and of the trials before it."""

    axes: tuple[Axis, ...]
    count: int
    seed: int
    higher_is_better: bool

    def propose(self, done: Done) -> dict[str, Any] | None:
        """Return the values that the sampler draws; values that were already tried are drawn again."""
        if len(done) >= self.count:
            return None
        tried = [trial.values for trial, _ in done]
        drawn = None
        for retry in range(_RETRIES):
            drawn = self._draw(done, self.seed + len(done) + retry * 1_000_003)
            if drawn not in tried:
                break
        return drawn

    def _draw(self, done: Done, seed: int) -> dict[str, Any]:
        optuna = _optuna()
        sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=max(2, min(10, self.count // 3)))
        study = optuna.create_study(direction="maximize" if self.higher_is_better else "minimize", sampler=sampler)
        distributions = {axis.key: _distribution(optuna, axis) for axis in self.axes}
        for trial, score in done:
            state = optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE
            values = {axis.key: _drawn(axis, trial.values[axis.key]) for axis in self.axes}
            study.add_trial(optuna.trial.create_trial(params=values, distributions=distributions, value=score, state=state))
        drawn = study.ask(distributions).params
        return {axis.key: _rounded(axis, drawn[axis.key]) for axis in self.axes}


def choose_search(space: SearchSpace, trials: int | None, seed: int, *, higher_is_better: bool) -> Search:
    """Return the grid if all combinations are wanted, else Optuna's search. Raise MachineError if Optuna is not installed."""
    if space.size is not None and (trials is None or trials >= space.size):
        return Grid(space.axes)
    _optuna()
    assert trials is not None
    return OptunaSearch(space.axes, trials, seed, higher_is_better)


def _distribution(optuna: Any, axis: Axis) -> Any:
    if axis.ends is None:
        return optuna.distributions.CategoricalDistribution(range(len(axis.values)))
    low, high = axis.ends
    if axis.whole:
        return optuna.distributions.IntDistribution(int(low), int(high), log=axis.is_logarithmic)
    return optuna.distributions.FloatDistribution(low, high, log=axis.is_logarithmic)


def _drawn(axis: Axis, value: Any) -> Any:
    """Return a value as Optuna draws it: of several values, the index."""
    return axis.values.index(value) if axis.ends is None else value


def _rounded(axis: Axis, value: Any) -> Any:
    """Return a drawn value: a number of a range with three digits."""
    if axis.ends is None:
        return axis.values[value]
    return axis.number(value if axis.whole else min(max(float(f"{value:.3g}"), axis.ends[0]), axis.ends[1]))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MachineError(
            f"{argument('trials')}: a search over a part of the combinations {how_to_install('sweep')}; or leave {argument('trials')} out"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
