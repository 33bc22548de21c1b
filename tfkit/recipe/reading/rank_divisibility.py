"""Checks that a recipe's steps can be divided among ranks, the processes of a training, which all need the same number of micro-batches."""

from collections.abc import Iterator

from tfkit.errors import UsageError, argument
from tfkit.recipe.reading.problems import Problem, problem_at
from tfkit.recipe.reading.tree import Node, Path, dotted
from tfkit.recipe.schema.rollout_sections import RolloutSection
from tfkit.recipe.schema.sections import Recipe


def dealing_problems(recipe: Recipe, tree: Node, ranks: int) -> list[Problem]:
    """Return a problem for each field by which the steps cannot be divided among `ranks` processes, with values that are possible."""
    return [problem_at(tree, path, message) for path, message in _uneven_fields(recipe, ranks)]


def require_even(recipe: Recipe, ranks: int, *, is_resumed: bool = False) -> None:
    """Raise UsageError if the steps of a checked recipe cannot be divided evenly among `ranks` processes.

    `is_resumed`: the remedy in the message is another number of ranks, because a resumed run keeps the sizes of its steps.
    """
    if is_resumed:
        require_mesh(recipe, ranks)
        possible = [number for number in range(1, ranks + 1) if not any(_uneven_sizes(recipe, number))]
        if ranks not in possible:
            raise UsageError(
                f"{argument('ranks', ranks)}: the steps of this run cannot be divided evenly among {ranks:,} ranks, and a run that is "
                f"resumed keeps their sizes: start {' or '.join(map(str, possible[-3:]))}"
            )
    _refuse(_uneven_fields(recipe, ranks))


def require_mesh(recipe: Recipe, ranks: int) -> None:
    """Raise UsageError if the number of ranks does not fit parallel.shard and parallel.replicas of a checked recipe."""
    _refuse(_mesh_problems(recipe, ranks))


def _refuse(problems: Iterator[tuple[Path, str]]) -> None:
    if lines := [f"{dotted(path)}: {message}" for path, message in problems]:
        raise UsageError("\n".join(lines))


def _uneven_fields(recipe: Recipe, ranks: int) -> Iterator[tuple[Path, str]]:
    yield from _mesh_problems(recipe, ranks)
    yield from _uneven_sizes(recipe, ranks)


def _uneven_sizes(recipe: Recipe, ranks: int) -> Iterator[tuple[Path, str]]:
    training, objective = recipe.training, recipe.objective
    ramp, micro_batch = training.batch_ramp, training.micro_batch_size
    rows, path = (training.batch_size, ("training", "batch_size")) if ramp is None else (ramp.start, ("training", "batch_ramp", "start"))
    whole = ranks * (micro_batch or 1)
    if rows % ranks:
        beside = f" in micro-batches of {micro_batch:,}" if micro_batch else ""
        yield path, f"{rows:,} rows cannot be divided evenly among {ranks:,} ranks{beside}: {_nearest(rows, whole)}"
    elif micro_batch is not None and rows % whole:
        fitting = next(size for size in range(micro_batch, 0, -1) if (rows // ranks) % size == 0)
        yield (
            ("training", "micro_batch_size"),
            f"{rows:,} rows are {rows // micro_batch:,} micro-batches of {micro_batch:,}, which cannot be divided among {ranks:,} ranks: "
            f"take micro-batches of {fitting:,}, or change {dotted(path)}, for which {_nearest(rows, whole)}",
        )
    if isinstance(objective, RolloutSection) and (responses := objective.prompts * objective.completions) % ranks:
        yield (
            ("objective", "prompts"),
            f"the {responses:,} responses of an iteration cannot be divided evenly among {ranks:,} ranks: {_nearest(responses, ranks)}",
        )


def _mesh_problems(recipe: Recipe, ranks: int) -> Iterator[tuple[Path, str]]:
    shard, replicas = recipe.parallel.shard, recipe.parallel.replicas
    if ranks % shard:
        yield (
            ("parallel", "shard"),
            f"{ranks:,} {'ranks are' if ranks > 1 else 'rank is'} not a multiple of the {shard:,} over which each copy of the weights is "
            f"sharded: start {shard * -(-ranks // shard):,} with {argument('ranks')}, or give 1",
        )
    elif replicas not in ("auto", ranks // shard):
        yield (
            ("parallel", "replicas"),
            f"{replicas:,} copies of the model, of {shard:,} ranks each, are {replicas * shard:,} ranks and not {ranks:,}: give auto, or "
            f"start {replicas * shard:,}",
        )


def _nearest(size: int, unit: int) -> str:
    """Return advice that names the nearest multiples of `unit` below and above `size`."""
    below, above = size // unit * unit, -(-size // unit) * unit
    return f"the nearest possible sizes are {below:,} and {above:,}" if below else f"the smallest possible size is {above:,}"
