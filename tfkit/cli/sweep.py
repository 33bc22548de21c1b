"""The command tfkit sweep, which trains a recipe with several values of some fields, and compares the scores on held-out rows."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tfkit.cli import options
from tfkit.errors import UsageError
from tfkit.recipe.reading.overrides import NO_OVERRIDES
from tfkit.recipe.search_space import SearchSpace, read_space

EXAMPLES = (
    "tfkit sweep gpt2-stdlib optimizer.lr=3e-4,1e-3,3e-3 training.steps=200",
    "tfkit sweep --from runs/reviews --data more.csv optimizer.lr=1e-4,3e-4 --dry-run",
    "tfkit sweep python-packages --from runs/bert-stdlib optimizer.lr=1e-5..1e-3 --trials 8 --run runs/rates",
    "tfkit resume runs/rates",
)


def sweep(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    *,
    tuned: options.Tuned,
    trials: Annotated[int | None, typer.Option(min=1, metavar="N", help="Try N combinations chosen by Optuna; by default all.")] = None,
    run: options.RunFolder = None,
    resume: options.Resume = False,
    attempt: options.Attempt,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train a recipe with each combination of several values, and compare the trials: optimizer.lr=1e-3,3e-3 training.seed=1,2.

    Values that contain commas are written as the items of a YAML list; with --trials a range is written 1e-5..1e-2. Each trial is a run
    in a folder of its own, and the time, energy and emissions of all trials are added up. Without a recipe, as in `tfkit finetune`, the
    task is recognised by the columns of the data and the kind of the model, once for all trials.
    """
    from tfkit import console
    from tfkit.cli.dry_run import OnlyWarnings, show_dry_run
    from tfkit.cli.train import join_training, run_training, to_run_options
    from tfkit.engine.chains.sweep_plan import decide_source, plan_sweep
    from tfkit.engine.chains.sweeping import run_sweep
    from tfkit.engine.recognition.own_data import UnwrittenRecipe
    from tfkit.engine.request.run_totals import Trial
    from tfkit.engine.request.training_request import TrainingRequest
    from tfkit.recipe import open_recipe

    chosen, changes = options.split_recipe("sweep", recipe, overrides)
    if chosen is None and (tuned.checkpoint is None or tuned.data is None):
        raise UsageError("sweep: which training? Give a RECIPE (`tfkit recipes` lists the bundled ones), or --from CKPT and --data F")

    def open_space() -> tuple[TrainingRequest, SearchSpace]:
        source = open_recipe(chosen) if chosen is not None else None
        space = read_space(changes, tuned.changed(NO_OVERRIDES, source), lambda others: source or decide_source(others, console))
        space = replace(space, fixed=tuned.changed(space.fixed, source))
        return TrainingRequest(None, source, space.fixed, unwritten=UnwrittenRecipe(space.fixed)), space

    if (ranks := join_training(attempt, lambda: open_space()[0], planned=dry_run)) is None:
        return
    request, space = open_space()
    folder = run or Path("runs") / f"{request.run_name}-sweep"
    run_options = to_run_options(options.Training(resume=resume, attempt=attempt), ranks, folder, request)
    if dry_run:
        plan = plan_sweep(request.source, space, trials, run_options, OnlyWarnings())
        return show_dry_run(plan.request(Trial("", plan.space.first)), run_options, json, sweep=plan)
    given = [*([chosen] if chosen is not None else []), *changes, *options.option_words(("trials", trials)), *tuned.words()]
    words = ["sweep", *given, "--run", str(folder), "--resume"]
    run_training(lambda signals: run_sweep(request.source, space, trials, run_options, console, signals), run_options, words, as_json=json)
