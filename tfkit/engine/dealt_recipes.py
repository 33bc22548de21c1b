"""Checks of a recipe and a command for a training on several ranks: what these cannot do yet is refused. Torch-free."""

import re
from importlib.metadata import version

from tfkit.errors import MachineError, UsageError
from tfkit.parallel.ranks import Ranks
from tfkit.recipe.reading.dealing import require_even, require_mesh
from tfkit.recipe.schema.rollout_sections import RolloutSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.machine import usable_cores

_TORCH_OF_SHARDS = (2, 13)


def require_dealt(recipe: Recipe, ranks: int) -> None:
    """Raise UsageError for a recipe whose steps several ranks cannot take together."""
    if ranks == 1:
        require_mesh(recipe, 1)
        return
    _require_torch(recipe)
    objective = recipe.objective
    missing = {
        "parallel.shard": "responses are sampled by ranks that have the whole model"
        if isinstance(objective, RolloutSection) and recipe.parallel.shard > 1
        else "",
        "training.compile": "it compiles its model" if recipe.training.compile else "",
    }
    if problems := [f"{field}: {problem}" for field, problem in missing.items() if problem]:
        raise UsageError(f"{'; '.join(problems)}, which several ranks cannot do together yet: train it with one process, without --ranks")
    require_even(recipe, ranks)


def _require_torch(recipe: Recipe) -> None:
    """Raise MachineError for shared weights with a PyTorch that would train them wrongly, in silence: before 2.13 gradients may be lost."""
    if recipe.parallel.shard > 1 and tuple(map(int, re.findall(r"\d+", version("torch"))[:2])) < _TORCH_OF_SHARDS:
        needed = ".".join(map(str, _TORCH_OF_SHARDS))
        raise MachineError(
            f"parallel.shard: ranks that share weights need PyTorch {needed}, and this is {version('torch')}: upgrade it, or give 1"
        )


def rank_device(asked: str | None, ranks: Ranks) -> str | None:
    """Return the device of this rank: as asked, else the GPU of its machine that has its number there."""
    if ranks.is_alone or asked not in (None, "auto", "cuda"):
        return asked
    import torch

    return f"cuda:{ranks.local_rank}" if torch.cuda.is_available() else asked


def rank_threads(asked: int | None, ranks: Ranks) -> int | None:
    """Return the threads of this rank: as asked, else its part of the cores; None, PyTorch's own number, of a process alone."""
    return asked if asked is not None or ranks.is_alone else max(1, usable_cores() // ranks.local_size)
