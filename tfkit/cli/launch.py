"""tfkit launch: prints the file that starts a training on a cluster, without contacting one."""

from pathlib import Path
from typing import Annotated

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.errors import UsageError


def launch(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="torchrun, slurm, skypilot or kubeflow.", show_default=False)],
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=100_000, metavar="N", help="The number of machines.")] = 1,
    ranks_per_node: Annotated[
        int | None,
        typer.Option("--ranks-per-node", min=1, max=1024, metavar="P", help="Processes on each machine; by default 1, or one per GPU."),
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option("--gpus-per-node", min=1, max=1024, metavar="G", help="GPUs of each machine, one per process.")
    ] = None,
    run: options.RunFolder = None,
) -> None:
    """Print the file to submit. It starts a training with N x P processes, and continues it when it is submitted again.

    Its comments say what to fill in. The recipe is checked first, including whether its work can be divided among these processes.
    """
    from tfkit.engine.rank_checks import require_divisible
    from tfkit.parallel.launch_files import FILES, LaunchedTraining
    from tfkit.recipe import open_recipe, read_recipes

    if kind not in FILES:
        raise UsageError(f"{kind}: no kind of file; give one of {', '.join(FILES)}")
    processes = gpus_per_node or ranks_per_node or 1  # on each machine
    if gpus_per_node is not None and ranks_per_node not in (None, gpus_per_node):
        raise UsageError(
            f"--ranks-per-node {ranks_per_node}: each process has its own GPU, so --gpus-per-node {gpus_per_node} sets their number; "
            "leave --ranks-per-node out"
        )
    source, words = open_recipe(recipe), tuple(overrides or ())
    recipes = read_recipes(source, words, ranks=nodes * processes)
    for checked in recipes:
        require_divisible(checked, nodes * processes)
    command = "pretrain" if recipes[0].model.start is None else "finetune"
    folder = run or Path("runs") / source.name
    # Submitted again it resumes, and a node need not know what is allowed here.
    code = ["--allow-code"] if any(checked.objective.code_files for checked in recipes) else []
    launched = (command, recipe, *words, "--run", str(folder), "--resume", *code)
    training = LaunchedTraining(launched, source.name, nodes, processes, gpus_per_node is not None)
    console.result(FILES[kind](training).rstrip("\n"))
