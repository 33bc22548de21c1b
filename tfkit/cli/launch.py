"""The command tfkit launch, which prints a file that starts a training on a cluster, without contacting the cluster."""

from typing import Annotated

import typer

from tfkit import console
from tfkit.cli import options

EXAMPLES = (
    "tfkit launch slurm gpt2-stdlib --nodes 4 --ranks-per-node 2 training.micro_batch_size=4 > job.sh",
    "tfkit launch skypilot gpt2-stdlib --nodes 2 > task.yaml",
)


def launch(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="torchrun, slurm, skypilot or kubeflow.")],
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    nodes: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="The number of machines.")] = 1,
    ranks_per_node: Annotated[
        int | None, typer.Option(min=1, max=1024, metavar="P", help="Processes on each machine; by default 1, or one per GPU.")
    ] = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=1, max=1024, metavar="G", help="GPUs of each machine, one per process.")] = None,
    run: options.RunFolder = None,
) -> None:
    """Print the file to submit. It starts a training with N x P processes, and continues it when it is submitted again.

    Its comments say what to fill in. The recipe is checked first, including whether its work can be divided among these processes.
    """
    from tfkit.engine.tools.launching import launch_file
    from tfkit.recipe.reading.overrides import parse_overrides

    words = overrides or ()
    file = launch_file(
        kind, recipe, parse_overrides(words), run, words, nodes=nodes, ranks_per_node=ranks_per_node, gpus_per_node=gpus_per_node
    )
    console.result(file.rstrip("\n"))
