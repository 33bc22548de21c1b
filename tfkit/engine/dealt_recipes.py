"""Checks of a recipe and a command for a training on several ranks: what these cannot do yet is refused. Torch-free."""

from tfkit.errors import UsageError
from tfkit.parallel.ranks import Ranks
from tfkit.recipe.reading.dealing import require_even
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.machine import usable_cores


def require_dealt(recipe: Recipe, ranks: int) -> None:
    """Raise UsageError for a recipe whose steps several ranks cannot take together."""
    if ranks == 1:
        return
    objective, training = recipe.objective, recipe.training
    missing = {
        "objective.kind": f"{objective.kind} has further models or samples responses"
        if objective.companions or objective.needs_start
        else "",
        "data.pretraining": "text is mixed into the steps" if recipe.data.pretraining else "",
        "training.compile": "it compiles its model" if training.compile else "",
    }
    if problems := [f"{field}: {problem}" for field, problem in missing.items() if problem]:
        raise UsageError(f"{'; '.join(problems)}, which several ranks cannot do together yet: train it with one process, without --ranks")
    require_even(recipe, ranks)


def rank_device(asked: str | None, ranks: Ranks) -> str | None:
    """Return the device of this rank: as asked, else the GPU of its machine that has its number there."""
    if ranks.is_alone or asked not in (None, "auto", "cuda"):
        return asked
    import torch

    return f"cuda:{ranks.local_rank}" if torch.cuda.is_available() else asked


def rank_threads(asked: int | None, ranks: Ranks) -> int | None:
    """Return the threads of this rank: as asked, else its part of the cores; None, PyTorch's own number, of a process alone."""
    return asked if asked is not None or ranks.is_alone else max(1, usable_cores() // ranks.local_size)
