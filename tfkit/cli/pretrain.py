"""tfkit pretrain: a model from random weights."""

from pathlib import Path
from typing import TYPE_CHECKING

from tfkit.cli import options

if TYPE_CHECKING:
    from tfkit.recipe.schema.sections import Recipe


def pretrain(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    run: options.RunFolder = None,
    resume: options.Resume = False,
    exact: options.Exact = False,
    force: options.Force = False,
    no_verify: options.NoVerify = False,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the model of a recipe from random weights. Ctrl-C saves a checkpoint, and --resume goes on from it."""
    from tfkit.cli.train import Options, require_trainable, train
    from tfkit.engine.given import Given
    from tfkit.engine.inputs import recipe_inputs
    from tfkit.errors import UsageError
    from tfkit.recipe import open_recipe

    source = open_recipe(recipe)
    words = tuple(overrides or ())
    chosen = Options(run or Path("runs") / source.name, resume, exact, force, device, threads, json)

    def start() -> "Recipe":
        planned = source.read(words)
        if planned.model.start is not None:
            raise UsageError(
                f"{source.path}: model.from: pretraining starts from random weights; `tfkit finetune` starts from a checkpoint"
            )
        require_trainable(planned)
        recipe_inputs(planned, source.path).refuse_folder(chosen.run, "--run")
        return planned

    planned = None if chosen.goes_on else start()  # its errors come before there is a folder
    command = chosen.resume_command("pretrain", source, [recipe], words)
    train(lambda: planned or start(), Given(source, words), source.name, "pre-training", chosen, command)
