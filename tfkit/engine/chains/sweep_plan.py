"""Plan a sweep before any of its runs (trials) starts: determine the varied fields, the order of trials, the metric that compares them."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfkit.engine.chains.chain_plan import in_stage
from tfkit.engine.listener import Listener
from tfkit.engine.recognition.own_data import UnwrittenRecipe
from tfkit.engine.request.inputs import inputs_of
from tfkit.engine.request.rank_checks import require_divisible
from tfkit.engine.request.resuming import merged
from tfkit.engine.request.run_totals import Trial, recorded_trials
from tfkit.engine.request.training_request import RequestRecord, TrainingRequest, kind_of
from tfkit.engine.training_run.attempt import RunOptions
from tfkit.engine.training_run.budget import require_unspent
from tfkit.engine.training_run.usage import spent_in
from tfkit.errors import MachineError, UsageError, argument, how_to_install
from tfkit.recipe import Chain, Recipe, RecipeText, open_recipe, read_chain
from tfkit.recipe.reading.overrides import NO_OVERRIDES, Overrides, assignment, followed_by
from tfkit.recipe.schema.objective_sections import HIGHER
from tfkit.recipe.schema.sections import scoring_fields
from tfkit.recipe.search_space import Axis, SearchSpace
from tfkit.run.run_json import read_run_json, trial_folders

MOST_TRIALS = 1000  # maximum number of combinations if the user does not request a number of trials; more are probably a mistake
_DECIDED = Path("the inferred recipe")  # in messages, in place of the path of a recipe file
_MAY_CHANGE = "carbon"  # the section (place and budget) of a recipe or stage whose fields may change when a sweep continues
_RETRIES = 50  # maximum number of draws of the sampler to find a combination that was not tried

Done = Sequence[tuple[Trial, float | None]]  # the trials so far, each with its score; None: the trial failed or has no score


@dataclass(frozen=True)
class Grid:
    """A search that tries all combinations of the values of its axes (the varied fields). The last axis varies fastest."""

    axes: tuple[Axis, ...]

    @property
    def count(self) -> int:
        """The number of combinations."""
        return len(self.combinations())

    def combinations(self) -> list[dict[str, Any]]:
        """Return all combinations, in the order in which they are tried."""
        keys = [axis.key for axis in self.axes]
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(axis.values for axis in self.axes))]

    def propose(self, done: Done) -> dict[str, Any] | None:
        """Return the first combination that was not tried; None if all were."""
        tried = [trial.values for trial, _ in done]
        return next((values for values in self.combinations() if values not in tried), None)


@dataclass(frozen=True)
class OptunaSearch:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011). The seed and the earlier trials determine the next one."""

    axes: tuple[Axis, ...]
    count: int
    seed: int
    higher_is_better: bool

    def propose(self, done: Done) -> dict[str, Any] | None:
        """Return the values of the next trial; None after the last one. Draws at most _RETRIES times to find values that were not tried."""
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
            # Optuna's parameters are numbers for an axis that is a range, and indices for an axis that is a list of values.
            params = {axis.key: trial.values[axis.key] if axis.ends else axis.values.index(trial.values[axis.key]) for axis in self.axes}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=score, state=state))
        drawn = study.ask(distributions).params
        return {axis.key: _rounded(axis, drawn[axis.key]) for axis in self.axes}


Search = Grid | OptunaSearch


@dataclass(frozen=True)
class SweepPlan:
    """A sweep to run, with the trials that earlier commands have started."""

    source: RecipeText  # the recipe that all trials change
    given: RequestRecord  # the user's request; it has no recipe if `source` was inferred
    space: SearchSpace  # the varied fields with their values, and the overrides of all trials
    search: Search
    trials: tuple[Trial, ...]
    asked: int | None  # the number of trials that the user requested; None: all combinations
    continues: bool  # whether an earlier command has started the sweep
    runs_code: bool  # whether the recipe, or any stage of it, has reward functions, which are the user's code
    changes: tuple[str, ...]  # what has changed in the request since the sweep was started, for messages

    def request(self, trial: Trial) -> TrainingRequest:
        """Return the request for the training of a trial. Raises UsageError if its recipe is not valid."""
        overrides = followed_by(self.space.fixed, trial.values)
        recipe = read_trial(self.source, overrides)
        kind = kind_of(recipe if isinstance(recipe, Recipe) else recipe.stages[0].recipe)
        return TrainingRequest(kind, self.source, overrides, is_named=not self.continues)


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep."""
    return bool(trial_folders(folder))


def decide_source(overrides: Overrides, listener: Listener) -> RecipeText:
    """Infer the recipe of a fine-tuning from the data and the checkpoint that the overrides name. Raises TfkitError if that fails."""
    request = TrainingRequest("fine-tuning", None, overrides, unwritten=UnwrittenRecipe(overrides))
    request.check()
    return RecipeText(_DECIDED, request.decide(listener).text)


def plan_sweep(source: RecipeText | None, space: SearchSpace, asked: int | None, options: RunOptions, listener: Listener) -> SweepPlan:
    """Plan a sweep, and check it; if it is a grid, check every trial. Raises UsageError, also if the folder has another sweep.

    `source`: the recipe; None: the sweep in the folder continues with its own recipe, or the recipe of a new sweep is inferred with the
    first value of each varied field. `asked`: the number of trials; None: the number with which the sweep was started, or all combinations.
    """
    before = read_run_json(options.run) if is_sweep(options.run) else None
    if before and not options.resume:
        raise UsageError(
            f"{options.run}: holds a sweep. Continue with {argument('resume', True)}, or give another folder with {argument('run')}"
        )
    now, earlier = RequestRecord(source, space.fixed), RequestRecord.from_document(before.given if before is not None else None)
    given = merged(earlier, now) if earlier is not None else now
    if before is not None and earlier is None:
        raise UsageError(f"{options.run}: its run.json does not say which sweep this is; start another one with its recipe")
    asked = before.asked if asked is None and before is not None else asked
    begun = SearchSpace.of({}, before.space) if before is not None and before.space is not None else space
    changes = _changes(earlier, now)
    space = replace(space if space.axes else begun, fixed=given.overrides)
    differences = [change for change in changes if not is_free(change)] + [str(axis) for axis in space.axes if axis not in begun.axes]
    differences += [f"{axis} is not given" for axis in begun.axes if axis.key not in {one.key for one in space.axes}]
    if differences:
        raise UsageError(
            f"{options.run}: this is a different sweep from the one that was started here: {'; '.join(differences)}. Revert that, or give "
            f"another folder with {argument('run')}"
        )
    if asked is None and (space.size is None or space.size > MOST_TRIALS):
        many = "a range has any number of values" if space.size is None else f"{space.size:,} combinations are too many to try all"
        raise UsageError(f"sweep: {many}; give a number of trials with {argument('trials')}")
    source = given.recipe
    if source is None:
        source = _decided(options.run, followed_by(space.fixed, space.first), listener, continues=before is not None)
        space = replace(space, fixed={name: value for name, value in space.fixed.items() if is_free(name)})  # the rest is part of `source`
    first = Trial("", space.first)
    with _of_trial(first):
        read = read_trial(source, followed_by(space.fixed, first.values))
        recipes = [read] if isinstance(read, Recipe) else [stage.recipe for stage in read.stages]
    recipe = recipes[-1]  # of a chain its last stage, whose model is scored
    if not recipe.data.validation:
        raise UsageError(f"{source.path}: data.validation: trials are compared by held-out rows, of which there are none; set it")
    metric = recipe.evaluation.metric or recipe.objective.trained_for.best_by
    if varied := scoring_fields(axis.key for axis in space.axes):
        listener.warn(f"{', '.join(varied)}: the trials are not scored alike, so their {metric} may not be comparable")
    search = choose_search(space, asked, recipe.training.seed, higher_is_better=metric in HIGHER)
    trials = tuple(recorded_trials(options.run)) if before else ()
    runs_code = any(one.objective.code_files for one in recipes)
    plan = SweepPlan(source, given, space, search, trials, asked, before is not None, runs_code, changes)
    if before:
        _require_unspent(read, options.run)
    _check(plan, options)
    return plan


def _require_unspent(read: Recipe | Chain, folder: Path) -> None:
    """Raise SpentBudgetError if the trials in `folder` have used up the budget of the recipe or of a stage."""
    spent = spent_in(folder)
    if isinstance(read, Recipe):
        return require_unspent(read.carbon, folder, spent)
    for stage in read.stages:
        with in_stage(stage.name):
            require_unspent(stage.recipe.carbon, folder, spent)


def _decided(folder: Path, overrides: Overrides, listener: Listener, *, continues: bool) -> RecipeText:
    """Return the recipe of a sweep whose command has no recipe: the one in its folder if the sweep continues, else an inferred one."""
    if continues and (folder / "recipe.yaml").exists():
        return RecipeText(_DECIDED, open_recipe(str(folder / "recipe.yaml")).text)
    source = decide_source(overrides, listener)
    listener.decided(source.text)
    return source


def read_trial(source: RecipeText, overrides: Overrides) -> Recipe | Chain:
    """Return the recipe or the chain that a trial trains. Raises UsageError if it is not valid."""
    return read_chain(source, overrides) if source.has_stages else source.read(overrides)


def _changes(before: RequestRecord | None, now: RequestRecord) -> tuple[str, ...]:
    """Return the fields of the recipe file that differ between two requests, and the overrides that `now` adds or changes."""
    if before is None:
        return ()
    fields, earlier = (one.recipe.fields() if one.recipe else {} for one in (now, before))
    changed = [f"{name} in {now.recipe.path}" for name in {**earlier, **fields} if now.recipe and earlier.get(name) != fields.get(name)]
    new = [assignment(name, value) for name, value in now.overrides.items() if before.overrides.get(name, NO_OVERRIDES) != value]
    return (*changed, *new)


def is_free(change: str) -> bool:
    """Whether a change is allowed when a sweep continues. `change`: a field's name, "key=value", or "key in FILE"."""
    name = change.partition("=")[0].partition(" in ")[0]
    return _MAY_CHANGE in name.split(".")[:2]


def _check(plan: SweepPlan, options: RunOptions) -> None:
    inputs_of([plan.source.path], [], []).refuse_folder(options.run, argument("run"))
    for values in plan.search.combinations() if isinstance(plan.search, Grid) else []:
        trial = Trial("", values)
        with _of_trial(trial):
            check_trial(plan, trial, options)


@contextmanager
def _of_trial(trial: Trial) -> Iterator[None]:
    """Add the values of the trial to the message of a UsageError in the block."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"trial with {trial.describe()}: {error}") from None


def check_trial(plan: SweepPlan, trial: Trial, options: RunOptions) -> None:
    """Check the recipe of a trial as a command that trains it would; of a recipe with stages, only fields and ranks. Raises UsageError."""
    overrides = followed_by(plan.space.fixed, trial.values)
    recipe = read_trial(plan.source, overrides)
    for stage_recipe in [recipe] if isinstance(recipe, Recipe) else [stage.recipe for stage in recipe.stages]:
        require_divisible(stage_recipe, options.ranks.size)
    if isinstance(recipe, Recipe):
        request = TrainingRequest(kind_of(recipe), plan.source, overrides)
        request.check()
        request.inputs.refuse_folder(options.run, argument("run"))


def choose_search(space: SearchSpace, trials: int | None, seed: int, *, higher_is_better: bool) -> Search:
    """Return the grid if all combinations are requested, else Optuna's search. Raises MachineError if Optuna is not installed."""
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


def _rounded(axis: Axis, value: Any) -> Any:
    """Return a trial's value for the index or number that Optuna drew. Reals are rounded to three significant digits, within the range."""
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
