"""The file that starts a training on a cluster. Torch-free."""

from collections.abc import Sequence
from pathlib import Path

from tfkit.engine.request.rank_checks import require_divisible
from tfkit.errors import UsageError
from tfkit.parallel.launch_files import FILES, LaunchedTraining
from tfkit.recipe import open_recipe, read_recipes
from tfkit.recipe.reading.overrides import Overrides


def launch_file(
    kind: str,
    recipe: str,
    overrides: Overrides,
    run: Path | None,
    words: Sequence[str],
    *,
    nodes: int,
    ranks_per_node: int | None,
    gpus_per_node: int | None,
) -> str:
    """Return the content of the file. `words`: the overrides as the command line has them. Raises UsageError."""
    if kind not in FILES:
        raise UsageError(f"{kind}: no kind of file; give one of {', '.join(FILES)}")
    processes = gpus_per_node or ranks_per_node or 1  # on each machine
    if gpus_per_node is not None and ranks_per_node not in (None, gpus_per_node):
        raise UsageError(
            f"--ranks-per-node {ranks_per_node}: each process has its own GPU, so --gpus-per-node {gpus_per_node} sets their number; "
            "leave --ranks-per-node out"
        )
    source = open_recipe(recipe)
    recipes = read_recipes(source, overrides, ranks=nodes * processes)
    for checked in recipes:
        require_divisible(checked, nodes * processes)
    command = "pretrain" if recipes[0].model.start is None else "finetune"
    folder = run or Path("runs") / source.name
    # Submitted again it resumes, and a node need not know what is allowed here.
    code = ["--allow-code"] if any(checked.objective.code_files for checked in recipes) else []
    launched = (command, recipe, *words, "--run", str(folder), "--resume", *code)
    return FILES[kind](LaunchedTraining(launched, source.name, nodes, processes, gpus_per_node is not None))
