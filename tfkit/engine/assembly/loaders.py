"""The loader of a run, of stored rows or of sampled responses, and its state in a checkpoint."""

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tfkit.adapters import FrozenReference
from tfkit.data import BatchSizes, Loader, Rows, StepLoader
from tfkit.engine.assembly.mixed_loader import MixedLoader
from tfkit.errors import ModelError
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Batch, Objective
from tfkit.parallel.agreement import Peers
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.common_work import CommonWork
from tfkit.parallel.deal import BatchWork
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import eager

if TYPE_CHECKING:
    from tfkit.alignment.rewards import Rules

LOADER_PREFIX = "loader/"  # prefix of its tensors in a training state
_STATE = "loader"  # its key in the document of the training state


def open_loader(
    recipe: Recipe,
    objective: Objective,
    rules: "Rules | None",
    rows: Rows,
    sizes: BatchSizes,
    micro_batch_size: int,
    model: Transformer,
    reference: FrozenReference | None,
    device: torch.device,
    should_stop: Callable[[], bool] | None,
    peers: Peers,
) -> StepLoader[Batch]:
    """Return the loader of a run, with this rank's share of the micro-batches. `should_stop` ends the sampling in a single process."""
    ranks = peers.ranks
    if objective.rollouts is None:
        on_gpu = device.type == "cuda"
        loader = Loader(
            rows, (lambda rows: objective.collate(rows).pinned()) if on_gpu else objective.collate, sizes, micro_batch_size, ahead=on_gpu
        )
        loader.rank, loader.ranks = ranks.rank, ranks.size
        return loader
    from tfkit.alignment.rollout_loader import RolloutLoader

    assert rules is not None, "without rules a training is only planned"
    assert reference is not None, "sampled responses are compared with the model of the first step"
    sampler = RolloutLoader(
        rows,
        objective,
        sizes,
        micro_batch_size,
        policy=model,
        reference=reference,
        rules=rules,
        device=device,
        seed=recipe.training.seed,
        uncompiled=partial(eager, model),
        work=BatchWork(deal=CommonWork(peers).deal) if isinstance(peers, ProcessGroup) else BatchWork(should_stop=should_stop),
    )
    sampler.rank, sampler.ranks = ranks.rank, ranks.size
    return sampler


def whole_loader(loader: StepLoader[Batch]) -> StepLoader[Batch]:
    """Return a loader of the micro-batches of all ranks."""
    if loader.ranks == 1:
        return loader
    whole = copy(loader)
    whole.rank, whole.ranks = 0, 1
    if isinstance(whole, MixedLoader):
        whole.main = whole_loader(whole.main)
    return whole


def loader_state(loader: StepLoader[Batch], step: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the loader's tensors and document for the training state of a checkpoint of this step; usually both are empty."""
    tensors, state = loader.state(step)
    return {f"{LOADER_PREFIX}{name}": tensor for name, tensor in tensors.items()}, {_STATE: state} if state else {}


def restore_loader(loader: StepLoader[Batch], checkpoint: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Restore the result of `loader_state`. Raises ModelError for anything else."""
    loader_tensors = {name.removeprefix(LOADER_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(LOADER_PREFIX)}
    try:
        loader.restore(loader_tensors, state.get(_STATE, {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{checkpoint}: its training state has no whole iteration of responses ({error!r}); resume from another checkpoint"
        ) from error
