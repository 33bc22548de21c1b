"""The command tfkit resume, which continues a run that was stopped or killed."""

from pathlib import Path
from typing import Annotated

import typer

from tfkit.cli import options

EXAMPLES = ("tfkit resume runs/demo", "tfkit resume runs/demo training.steps=2000")


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    overrides: options.Overrides = None,
    *,
    attempt: options.Attempt,
    fail_if: options.FailIf = None,
    stages: options.Stages = None,
    json: options.Json = False,
) -> None:
    """Continue a run from its newest good checkpoint, with the recipe and the changes that it was started with.

    This does the same as --resume of pretrain and finetune, from the folder alone. For a finished run, the result is printed again. In a
    recipe with stages, the stage that was stopped is continued, and the later ones are started.
    """
    from tfkit import console
    from tfkit.cli.train import join_training, run_training, to_run_options
    from tfkit.engine.chains.sweeping import resume as resume_any
    from tfkit.errors import path_argument
    from tfkit.recipe.reading.overrides import parse_overrides

    if (ranks := join_training(attempt)) is None:
        return
    training = options.Training(resume=True, attempt=attempt, fail_if=fail_if, stages=stages)
    changes, run_options = parse_overrides(overrides or ()), to_run_options(training, ranks, run)
    words = ["resume", path_argument(run), *(overrides or ())]
    run_training(lambda signals: resume_any(changes, run_options, console, signals), run_options, words, as_json=json)
