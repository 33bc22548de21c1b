"""tfkit resume: a run that was stopped or killed, continued as it was started."""

from pathlib import Path
from typing import Annotated

import typer

from tfkit.cli import options


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)],
    overrides: options.Overrides = None,
    exact: options.Exact = False,
    force: options.Force = False,
    no_verify: options.NoVerify = False,
    fail_if: options.FailIf = None,
    stages: options.Stages = None,
    device: options.Device = None,
    threads: options.Threads = None,
    ranks: options.RankCount = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Continue a run from its newest good checkpoint, with the recipe and the changes that it was started with.

    This does the same as --resume of pretrain and finetune, from the folder alone. For a finished run, the result is printed again. In a
    recipe with stages, the stage that was stopped is continued, and the later ones are started.
    """
    from tfkit import console
    from tfkit.cli.ranks import place_of_this_process
    from tfkit.cli.train import command_line, train
    from tfkit.engine.attempt import RunOptions
    from tfkit.engine.many_runs import sweeping as training
    from tfkit.engine.meeting import Meeting

    if (here := place_of_this_process(ranks, threads)) is None:
        return
    words = tuple(overrides or ())
    how = RunOptions(run, True, exact, force, device, threads, command_line(), fail_if or (), options.stage_names(stages), Meeting(here))
    train(lambda signals: training.resume(words, how, console, signals), how, ["resume", str(run), *words], as_json=json)
