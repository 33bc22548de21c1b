"""Checks that a recipe can be run on several ranks (processes that train together), and the device and threads of each rank."""

import re
from importlib.metadata import version

from tfkit.errors import MachineError, UsageError, argument
from tfkit.parallel.ranks import Ranks
from tfkit.recipe.reading.rank_divisibility import require_even, require_mesh
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.machine import usable_cores

_TORCH_OF_SHARDS = (2, 13)


def require_count(name: str, value: object) -> None:
    """Raise UsageError unless the value of the argument `name` is None or a whole number of at least 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UsageError(f"{name}={value!r}: give a whole number from 1")


def require_divisible(recipe: Recipe, ranks: int, *, is_resumed: bool = False) -> None:
    """Raise UsageError if a recipe's steps cannot be divided among the ranks, MachineError if PyTorch is too old for sharded weights."""
    if ranks == 1:
        require_mesh(recipe, 1)
        return
    # A PyTorch older than _TORCH_OF_SHARDS may silently lose gradients of sharded weights.
    if recipe.parallel.shard > 1 and tuple(map(int, re.findall(r"\d+", version("torch"))[:2])) < _TORCH_OF_SHARDS:
        needed = ".".join(map(str, _TORCH_OF_SHARDS))
        raise MachineError(
            f"parallel.shard: ranks with sharded weights need PyTorch {needed}, and this is {version('torch')}: upgrade it, or give 1"
        )
    require_even(recipe, ranks, is_resumed=is_resumed)


def rank_device(asked: str | None, ranks: Ranks) -> str | None:
    """Return the device of this rank: the requested one or, for several ranks, a GPU of its own (see `gpu_of_rank`).

    Raises UsageError if several ranks of a machine would share one GPU, and MachineError if there are too few GPUs.
    """
    if ranks.is_alone or asked == "cpu":
        return asked
    if asked is not None and asked.startswith("cuda:") and ranks.local_size > 1:
        raise UsageError(
            f"{argument('device', asked)}: every rank needs a GPU of its own; give {argument('device', 'cuda')}, or start one process"
        )
    if asked not in (None, "auto", "cuda"):
        return asked
    import torch

    return f"cuda:{gpu_of_rank(ranks, torch.cuda.device_count())}" if torch.cuda.is_available() else asked


def gpu_of_rank(ranks: Ranks, visible: int) -> int:
    """Return the index of a rank's GPU: its local rank, or 0 if each process sees only its own GPU, as with Slurm's --gpus-per-task.

    `visible`: the number of GPUs that this process sees. Raises MachineError if there are too few.
    """
    if visible >= ranks.local_size:
        return ranks.local_rank
    if visible == 1:
        return 0
    raise MachineError(
        f"{ranks.local_size} ranks are on this machine, and it has {visible} GPUs: start one for each of them, or give "
        f"{argument('device', 'cpu')}"
    )


def rank_threads(asked: int | None, ranks: Ranks) -> int | None:
    """Return the number of threads of this rank: `asked`, else, with several ranks, its share of the cores; None: PyTorch's default."""
    return asked if asked is not None or ranks.is_alone else max(1, usable_cores() // ranks.local_size)
