"""The library's functions that train and plan: `tfkit.pretrain` and the others of docs/library.md.

Nothing is printed unless a listener prints it, errors are the classes of tfkit.errors, and a call leaves its process as it found it.
`recipe` is a bundled name, a path, a dict or a Recipe; `overrides` is a dict of dotted names, or of sections.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.alignment.user_code import CodePermission
from tfkit.engine.chains import stages as training
from tfkit.engine.chains import sweeping
from tfkit.engine.chains.chain_plan import first_stage
from tfkit.engine.library.argument_names import naming_arguments
from tfkit.engine.library.calls import AnyRecipe, Interrupts, Overrides, ShouldStop, interrupts, recipe_text, several, word, words_of
from tfkit.engine.library.checkpoint_calls import evaluate, generate, predict
from tfkit.engine.listener import Listener, Silent
from tfkit.engine.planning.run_forecaster import RunForecaster
from tfkit.engine.recognition.unwritten_recipe import UnwrittenRecipe
from tfkit.engine.request.training_request import TrainingRequest
from tfkit.engine.results import SweepResult, TrainingResult
from tfkit.engine.training_run.attempt import RunOptions
from tfkit.engine.training_run.isolation import isolated
from tfkit.engine.training_run.ranks_of_command import local_ranks
from tfkit.errors import Stopped, UsageError, stop_reason
from tfkit.recipe import RecipeText

if TYPE_CHECKING:
    from tfkit.engine.training_run.estimate import Estimate

__all__ = ["evaluate", "finetune", "generate", "plan", "predict", "pretrain", "resume", "sweep"]


@naming_arguments()
def pretrain(
    recipe: AnyRecipe,
    overrides: Overrides = None,
    *,
    run: str | Path | None = None,
    resume: bool = False,
    exact: bool = False,
    force: bool = False,
    device: str | None = None,
    threads: int | None = None,
    ranks: int = 1,
    stages: Sequence[str] = (),
    allow_code: bool = False,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> TrainingResult:
    """Train the model of a recipe from random weights, in the folder `run` (default: runs/<recipe>).

    A recipe with stages runs its stages in order, or only those in `stages`; its overrides begin with a stage's name.
    `should_stop` is called between micro-batches; the result of a run that it stops has the status "stopped", and the unfinished step is
    dropped. KeyboardInterrupt is raised once the last complete step is saved. Raises the classes of tfkit.errors.

    `ranks`: how many processes on this machine train together: this one, and others that are started for the call and end with it.
    `allow_code`: run the code that the run's recipe names, also if it was not allowed before; that of a new run's recipe, which must say
    allow_code, always is.
    """
    source = recipe_text(recipe)
    request = TrainingRequest("pre-training", source, words_of(overrides), is_named=True)
    code = CodePermission.of_user(allow_code)
    options = RunOptions(
        _folder(run, source), RunForecaster(), resume, exact, force, device, threads, ["tfkit.pretrain"], (), tuple(stages), code=code
    )
    return _train(options, ranks, should_stop, lambda stop, joined: training.train(request, joined, listener or Silent(), stop))


@naming_arguments()
def finetune(
    recipe: AnyRecipe | None = None,
    overrides: Overrides = None,
    *,
    start: str | Path | None = None,
    data: str | Path | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    exact: bool = False,
    force: bool = False,
    device: str | None = None,
    threads: int | None = None,
    ranks: int = 1,
    stages: Sequence[str] = (),
    allow_code: bool = False,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> TrainingResult:
    """Fine-tune the checkpoint `start` on `data` or the recipe's own. Without a recipe the task is inferred from the data and the model.

    In a recipe with stages, `start` and `data` belong to the first stage. For the other arguments see `pretrain`.
    """
    source = recipe_text(recipe) if recipe is not None else None
    words = _tuning_words(words_of(overrides), start, data, first_stage(source))
    unwritten = UnwrittenRecipe(words)
    folder = _folder(run, source) if run is not None or source is not None else Path("runs") / unwritten.run_name
    code = CodePermission.of_user(allow_code)
    options = RunOptions(folder, RunForecaster(), resume, exact, force, device, threads, ["tfkit.finetune"], (), tuple(stages), code=code)
    request = TrainingRequest("fine-tuning", source, words, str(start) if start is not None else None, True, unwritten)
    return _train(options, ranks, should_stop, lambda stop, joined: training.train(request, joined, listener or Silent(), stop))


@naming_arguments()
def resume(
    run: str | Path,
    overrides: Overrides = None,
    *,
    exact: bool = False,
    force: bool = False,
    device: str | None = None,
    threads: int | None = None,
    ranks: int = 1,
    stages: Sequence[str] = (),
    allow_code: bool = False,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> TrainingResult:
    """Continue the run in a folder as it was started; a finished run returns its result again. For the other arguments see `pretrain`."""
    code = CodePermission.of_user(allow_code)
    options = RunOptions(Path(run), RunForecaster(), True, exact, force, device, threads, ["tfkit.resume"], (), tuple(stages), code=code)
    words = words_of(overrides)
    return _train(options, ranks, should_stop, lambda stop, joined: sweeping.resume(words, joined, listener or Silent(), stop))


@naming_arguments()
def sweep(
    recipe: AnyRecipe,
    space: Mapping[str, str | Sequence[Any]],
    overrides: Overrides = None,
    *,
    trials: int | None = None,
    start: str | Path | None = None,
    data: str | Path | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    threads: int | None = None,
    ranks: int = 1,
    allow_code: bool = False,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> SweepResult:
    """Train a recipe once for each combination of the values in `space`, and compare the trials by their scores on held-out rows.

    `space`: {"optimizer.lr": [1e-3, 3e-3]}; with `trials`, whose values Optuna chooses, also ranges: {"optimizer.lr": "1e-5..1e-2"}. Each
    trial is a run in its own folder inside `run` (default: runs/<recipe>-sweep). For the other arguments see `pretrain` and `finetune`.
    """
    source, words = recipe_text(recipe), words_of(overrides)
    varied = [several(name, values) for name, values in space.items()]
    tuned = _tuning_words([*words, *varied], start, data, first_stage(source))
    folder = Path(run) if run is not None else Path("runs") / f"{source.name}-sweep"
    options = RunOptions(
        folder, RunForecaster(), resume, False, force, device, threads, ["tfkit.sweep"], code=CodePermission.of_user(allow_code)
    )
    try:
        with isolated(), interrupts(should_stop) as stop, local_ranks(ranks, folder, threads) as meeting:
            result = sweeping.sweep(source, tuned, trials, replace(options, meeting=meeting), listener or Silent(), stop)
    except Stopped as stopped:
        if stopped.result is None:
            raise
        result = stopped.result
    return SweepResult.of(result)


@naming_arguments()
def plan(
    recipe: AnyRecipe | None = None,
    overrides: Overrides = None,
    *,
    start: str | Path | None = None,
    data: str | Path | None = None,
    probe: int = 0,
    ranks: int = 1,
    gpu: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    stages: Sequence[str] = (),
    allow_code: bool = False,
    listener: Listener | None = None,
) -> "Estimate":
    """Estimate a run without starting it: text is tokenized, as for the run itself, and no weights are allocated.

    For a recipe with stages, the estimate is the sum over all stages, or over those in `stages`, and `.stages` has one for each; a
    stage that starts from an earlier one is planned with the model that the earlier one's recipe describes. `probe`: measure this many real
    steps, and discard their weights. `ranks` and `gpu` (h100, a100, l4, mi300x): plan for other machines, from data sheets. `start` and
    `data` are those of `finetune`.
    """
    from tfkit.engine.inference.session import session
    from tfkit.engine.planning.plan_request import PlanOptions, check_plan_request

    source = recipe_text(recipe) if recipe is not None else None
    if source is None and start is None and data is None:
        raise UsageError("plan: what is planned? Give a recipe, or start=CKPT and data=F")
    words = _tuning_words(words_of(overrides), start, data, first_stage(source))
    planned = check_plan_request(source, words, str(start) if start is not None else None, stages, UnwrittenRecipe(words))
    with isolated(), interrupts(None) as stop, session("plan", planned.carbon, None, listener or Silent(), stop) as work:
        from tfkit.engine.chains.planned_chain import make_plan

        return make_plan(planned, work, PlanOptions(device, threads, tuple(stages), probe, ranks, gpu, CodePermission.of_user(allow_code)))


def _train(
    options: RunOptions, ranks: int, should_stop: ShouldStop, train: Callable[[Interrupts, RunOptions], dict[str, Any]]
) -> TrainingResult:
    try:
        with isolated(), interrupts(should_stop) as stop, local_ranks(ranks, options.run, options.threads) as meeting:
            result = train(stop, replace(options, meeting=meeting))
    except Stopped as stopped:
        reason = {"status": "stopped", "stopped_early": True, "stopped_by": stop_reason(stopped)}
        nothing = {"run": str(options.run.resolve()), **reason, "steps": 0, "tokens": 0, "evaluation": {}, "gates": []}
        return TrainingResult.of_training(stopped.result or nothing)
    return TrainingResult.of_training(result)


def _tuning_words(words: Sequence[str], start: str | Path | None, data: str | Path | None, stage: str) -> list[str]:
    """Return the overrides of a fine-tuning with those for `start` and `data`; `stage`: the prefix of the first stage's fields, if any."""
    # The data come first, so that data.train.0.columns can name columns.
    before = [word(f"{stage}data.train", [{"path": str(data)}])] if data is not None else []
    return [*before, *words, *([word(f"{stage}model.from", str(start))] if start is not None else [])]


def _folder(run: str | Path | None, source: RecipeText | None) -> Path:
    if run is not None:
        return Path(run)
    assert source is not None
    return Path("runs") / source.name
