"""tfkit resume: a run that was stopped or killed, continued as it was started."""

from pathlib import Path
from typing import Annotated

import typer

from tfkit.cli import options


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)],
    overrides: options.Overrides = None,
    *,
    how: options.Attempt,
    fail_if: options.FailIf = None,
    stages: options.Stages = None,
    json: options.Json = False,
) -> None:
    """Continue a run from its newest good checkpoint, with the recipe and the changes that it was started with.

    This does the same as --resume of pretrain and finetune, from the folder alone. For a finished run, the result is printed again. In a
    recipe with stages, the stage that was stopped is continued, and the later ones are started.
    """
    from tfkit import console
    from tfkit.cli.ranks import place_of_this_process
    from tfkit.cli.train import run_options, train
    from tfkit.engine.many_runs import sweeping as training

    if (here := place_of_this_process(how.ranks, how.threads)) is None:
        return
    words, ready = tuple(overrides or ()), run_options(how, here, run, True, fail_if, stages)
    train(lambda signals: training.resume(words, ready, console, signals), ready, ["resume", str(run), *words], as_json=json)
